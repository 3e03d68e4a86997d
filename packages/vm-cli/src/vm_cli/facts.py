"""What there is to say of a run, as plain data: for ``--json``, and for those who draw it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vm_core.record import names

if TYPE_CHECKING:
    from vm_core.runner import RunResult

__all__ = ["result_facts", "time_rows"]


def result_facts(result: RunResult, engine: str) -> dict[str, Any]:
    """A result without its output, as ``--json`` prints it."""
    stats = result.stats
    return {
        "engine": engine,
        "args": [os.fsdecode(word) for word in result.args],
        "reason": result.reason,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "instructions": result.instructions,
        "message": result.message,
        "system_calls": result.system_calls,
        "peak_memory": result.peak_memory,
        "phases": dict(result.phases),
        "walls": list(result.walls),
        "stats": {name: getattr(stats, name) for name in names(type(stats))},
    }


def time_rows(facts: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Where the time of a run went, by its :func:`result_facts`: what, seconds, a remark. Without what had no part in it. The rows add
    up to the whole but for compiling, which is done beside, and for guests with several threads, whose times are sums."""
    stats, phases = facts["stats"], facts["phases"]
    extra = stats["extra"]
    built = extra.get("interpreter_build_seconds", 0.0)
    ready = extra.get("interpreter_seconds", 0.0)
    restored, decoded = extra.get("restore_seconds", 0.0), extra.get("decode_seconds", 0.0)
    rows = [
        ("Python, vm's modules", phases.get("launch", 0.0), "processor time"),
        ("program and memory", phases.get("prepare", 0.0) - ready, ""),
        ("interpreter", ready, "built by LLVM, for later runs too" if built else "ready-made"),
        ("what earlier runs left", restored, ""),
        ("decoding", decoded, f"{stats['blocks_decoded']:,} blocks"),
        ("guest code", stats["seconds"] - decoded, ""),
        ("system calls", stats["call_seconds"], f"{facts['system_calls']:,}"),
        ("saving and closing", phases.get("finish", 0.0), ""),
        ("compiling, beside it", stats["compile_seconds"], f"{stats['regions_compiled']:,} regions"),
    ]
    return [row for row in rows if row[1] > 0]
