"""What ``vm accel`` and ``vm setup`` do: only the composition, the work is vm_accel's."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from vm_core.errors import HostError, UsageError

__all__ = ["record_layout", "selftest", "setup_macos", "summary"]


def selftest(name: str | None, path: Path | None) -> dict[str, Any]:
    """Run the checks on a hypervisor (None: VM_ACCEL's or the first that works), and write the record if there is a path.

    Raises AcceleratorUnavailable, UsageError, HostError.
    """
    from vm_accel import selftest as checks
    from vm_accel.registry import open_hypervisor

    with open_hypervisor(name) as hypervisor:
        simulated = os.environ.get(f"VM_{hypervisor.name.upper()}_LIBRARY", "")
        found = checks.record(
            hypervisor, checks.run(hypervisor), provenance="simulator" if simulated else "hardware"
        )
    if path is not None:
        _write(path, found)
    return found


def _write(path: Path, value: object) -> None:
    try:
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from error


def summary(found: dict[str, Any]) -> str:
    """One line for a person."""
    counts = Counter(check["result"] for check in found["checks"])
    parts = [f"{counts[word]} {word}" for word in ("passed", "failed", "skipped") if counts[word]]
    where = "a simulator of it" if found["provenance"] == "simulator" else "this machine"
    return f"{found['backend']} ({found['isa']}) on {where}: {', '.join(parts)}"


def record_layout(path: Path) -> list[str]:
    """What differs between vm's declarations of HVF and the headers here; writes what the headers say."""
    from vm_accel.hvf import layout

    found = layout.probe()
    _write(path, found)
    return layout.differences(found)


def setup_macos(*, dry_run: bool) -> dict[str, Any]:
    """Sign the virtual environment's Python, or only say how."""
    from vm_accel.hvf import entitlements

    if sys.platform != "darwin" and not dry_run:
        raise UsageError(
            "only macOS wants its hypervisor's users signed", hint="--dry-run shows the commands"
        )
    plan = entitlements.plan()
    lines = [shlex.join(command) for command in plan.commands()]
    if dry_run:
        return {
            "commands": lines,
            "plist": plan.plist().decode(),
            "message": f"nothing was done; vm.plist would have {', '.join(plan.entitlements)}",
        }
    entitlements.set_up(plan)
    return {"commands": [], "plist": "", "message": f"{plan.target} is signed; vm doctor looks again"}
