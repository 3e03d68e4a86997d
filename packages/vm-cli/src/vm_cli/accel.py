"""What ``vm accel`` and ``vm setup`` do: only the composition, the work is vm_accel's."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from vm_core.errors import HostError, UsageError

__all__ = ["record_layout", "selftest", "setup_macos", "summary"]


def selftest(name: str | None, path: Path | None, *, everything: bool = False) -> dict[str, Any]:
    """Run the checks on a hypervisor (None: VM_ACCEL's or the first that works), and write the record if there is a path.

    Raises AcceleratorUnavailable, UsageError, HostError.
    """
    if everything and importlib.util.find_spec("keystone") is None:
        raise UsageError(
            "the conformance suite needs an assembler", hint="python -m pip install keystone-engine"
        )
    from vm_accel import selftest as checks
    from vm_accel.registry import open_hypervisor, open_machines

    if (name or os.environ.get("VM_ACCEL")) == "vz":
        from vm_accel.vz import Vz
        from vm_accel.vz import selftest as machine_checks

        open_machines("vz")  # says what is missing
        backend = Vz()
        provenance = "simulator" if backend.simulated else "hardware"
        found = checks.record(backend, machine_checks.run(backend), provenance=provenance)
        if path is not None:
            _write(path, found)
        return found
    with open_hypervisor(name) as hypervisor:
        simulated = os.environ.get(f"VM_{hypervisor.name.upper()}_LIBRARY", "")
        found = checks.record(
            hypervisor,
            checks.run(hypervisor, everything=everything),
            provenance="software" if hypervisor.name == "none" else "simulator" if simulated else "hardware",
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
    where = {"simulator": "a simulator of it", "software": "vm's own engines"}.get(
        found["provenance"], "this machine"
    )
    return f"{found['backend']} ({found['isa']}) on {where}: {', '.join(parts)}"


def record_layout(path: Path) -> list[str]:
    """What differs between vm's declarations of HVF and the headers here; writes what the headers say."""
    from vm_accel.hvf import layout

    found = layout.probe()
    _write(path, found)
    return layout.differences(found)


def setup_macos(*, dry_run: bool) -> dict[str, Any]:
    """Sign this Python for macOS's hypervisor, or only say what is missing. Raises AcceleratorUnavailable."""
    from vm_accel import macos

    if sys.platform != "darwin":
        raise UsageError("only macOS wants the users of its hypervisor signed")
    lacking = [name for name in (macos.HYPERVISOR, macos.VIRTUALIZATION) if macos.missing(name)]
    program = macos.executable()
    if not lacking:
        message = f"{program} has both entitlements, or codesign does not say"
    elif dry_run:
        message = f"{program} would be signed with {' and '.join(lacking)}; nothing was done"
    else:
        message = f"{macos.sign()} is signed; vm doctor looks again"
    return {"program": str(program), "missing": lacking, "message": message}
