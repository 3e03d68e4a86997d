"""vm_core: virtual CPUs, guest memory, instruction sets and the Linux ABI.

    import vm_core

    result = vm_core.run(["./hello"], capture_output=True, text=True, timeout=10)
    print(result.returncode, result.stdout)

The names below are loaded when first used: importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # PERF: see vm_core.hints

if TYPE_CHECKING:
    from typing import Any

    from vm_core.errors import VmError
    from vm_core.instructions import InstructionTrace, Step
    from vm_core.linux.strace import Strace, TraceEvent
    from vm_core.machine import Machine
    from vm_core.memory import GuestMemory, Prot
    from vm_core.runner import GuestFailed, RunResult, run
    from vm_core.scheduler import Scheduler

__all__ = [
    "GuestFailed",
    "GuestMemory",
    "InstructionTrace",
    "Machine",
    "Prot",
    "RunResult",
    "Scheduler",
    "Step",
    "Strace",
    "TraceEvent",
    "VmError",
    "run",
]

_HOMES = {
    "GuestFailed": "runner",
    "GuestMemory": "memory",
    "InstructionTrace": "instructions",
    "Machine": "machine",
    "Prot": "memory",
    "RunResult": "runner",
    "Scheduler": "scheduler",
    "Step": "instructions",
    "Strace": "linux.strace",
    "TraceEvent": "linux.strace",
    "VmError": "errors",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vm_core' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"vm_core.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
