"""Calls, errors and time by system call, as a table."""

from __future__ import annotations

from typing import Any

__all__ = ["Summary"]


class Summary:
    """Counts of one process, to which those of others can be added."""

    def __init__(self) -> None:
        self._rows: dict[str, list[float]] = {}

    def clear(self) -> None:
        self._rows.clear()

    def add(self, name: str, *, failed: bool, wall: float, cpu: int) -> None:
        """One call: its wall time in seconds, and its processor time in nanoseconds."""
        row = self._rows.setdefault(name, [0, 0, 0.0, 0])
        row[0] += 1
        row[1] += failed
        row[2] += wall
        row[3] += cpu

    def facts(self) -> list[dict[str, Any]]:
        """One row a call, that which took longest first; times in seconds."""
        rows = sorted(self._rows.items(), key=lambda item: (-item[1][3], -item[1][0], item[0]))
        return [
            {"name": name, "calls": int(calls), "errors": int(errors), "seconds": cpu / 1e9, "wall": wall}
            for name, (calls, errors, wall, cpu) in rows
        ]

    def merge(self, facts: list[dict[str, Any]]) -> None:
        """Add what another process counted."""
        for fact in facts:
            row = self._rows.setdefault(fact["name"], [0, 0, 0.0, 0])
            row[0] += fact["calls"]
            row[1] += fact["errors"]
            row[2] += fact["wall"]
            row[3] += round(fact["seconds"] * 1e9)

    def table(self) -> list[str]:
        """The lines of the table that ``strace -c`` prints. The time is the processor's, in the call."""
        facts = self.facts()
        total = sum(fact["seconds"] for fact in facts)
        calls = sum(fact["calls"] for fact in facts)
        errors = sum(fact["errors"] for fact in facts)
        width = max([16, *(len(fact["name"]) for fact in facts)])
        rule = f"------ ----------- ----------- --------- --------- {'-' * width}"
        lines = ["% time     seconds  usecs/call     calls    errors syscall", rule]
        lines += [
            _row(fact["seconds"] / (total or 1), fact["seconds"], fact["calls"], fact["errors"], fact["name"])
            for fact in facts
        ]
        lines += [rule, _row(1.0, total, calls, errors, "total")]
        return lines


def _row(share: float, seconds: float, calls: int, errors: int, name: str) -> str:
    each = round(seconds * 1e6 / calls) if calls else 0
    return f"{share * 100:6.2f} {seconds:11.6f} {each:11d} {calls:9d} {errors or '':>9} {name}"
