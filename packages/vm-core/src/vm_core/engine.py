"""The narrow waist: what runs a vCPU, and why it stopped.

An engine runs until something needs the outside world. Guest traps are values (:data:`Exit`), never Python
exceptions through generated code. In every exit all guest state is precise.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import AbstractContextManager

from vm_core.hints import Final, Protocol, runtime_checkable
from vm_core.memory import Access, GuestMemory
from vm_core.record import field, record
from vm_core.state import CpuState

__all__ = [
    "EVERYWHERE",
    "HOST_SIGNALS",
    "Availability",
    "Breakpoint",
    "Budget",
    "Cause",
    "Engine",
    "EngineStats",
    "Exit",
    "Interrupted",
    "Syscall",
    "Trap",
]


EVERYWHERE: Final = 1 << 64
"""The end of all addresses."""
HOST_SIGNALS: Final[set[int]] = set()
"""Signals of the host that an engine or an accelerator of this process uses for itself: no guest gets them."""


class Cause(enum.Enum):
    """Why an instruction trapped. The value is the name used in the ISA texts."""

    ILLEGAL = "illegal"
    BREAKPOINT = "breakpoint"
    MISALIGNED = "misaligned"
    FETCH = "fetch"
    LOAD = "load"
    STORE = "store"
    DIVIDE = "divide"
    SYSCALL = "syscall"
    REFUSED = "refused"
    """By the processor, without an address: a privileged instruction, or x86's general protection fault."""


@record(frozen=True)
class Syscall:
    """The guest asked its operating system. The pc is already behind the instruction, which has retired."""


@record(frozen=True)
class Trap:
    """An instruction that did not retire. ``cpu.pc`` is its address; no register or memory has changed.

    ``address`` is the guest address of a bad access (for FETCH: of the bytes that could not be fetched), else the pc;
    ``mapped`` tells whether that page exists (a protection fault) or not. ``vector`` is the exception's number where a processor
    has raised it (x86-64), ``error`` its error code, and ``code`` the si_code, if it tells more than the cause.
    """

    cause: Cause
    pc: int
    address: int
    access: Access | None = None
    mapped: bool = False
    vector: int = -1
    code: int = 0
    error: int = 0


@record(frozen=True)
class Budget:
    """Exactly ``limit`` instructions have retired in this call."""


@record(frozen=True)
class Breakpoint:
    """The pc is on a breakpoint, whose instruction has not run."""

    pc: int


@record(frozen=True)
class Interrupted:
    """Another thread asked the engine to return (``Engine.interrupt``)."""


Exit = Syscall | Trap | Budget | Breakpoint | Interrupted


@record(frozen=True)
class Availability:
    """Whether something can be used here and, if not, why and what would help."""

    available: bool
    reason: str = ""
    hint: str = ""


@record()
class EngineStats:
    """What ran where. Times are seconds, summed over vCPUs; ``seconds`` is the time in the engine, ``call_seconds`` that in
    the system calls that it had done for it; ``extra`` is for what only one engine has."""

    retired: int = 0
    retired_jit: int = 0
    seconds: float = 0.0
    call_seconds: float = 0.0
    compile_seconds: float = 0.0
    regions_compiled: int = 0
    regions_cached: int = 0
    blocks_decoded: int = 0
    exits: dict[str, int] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """Runs vCPUs of one guest process. ``run`` may be called from several threads, one a vCPU."""

    name: str

    @property
    def stats(self) -> EngineStats:
        """What ran so far."""

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        """Run at most ``limit`` instructions (≥ 1); returns Budget after exactly that many.

        On return ``cpu.header("fuel")`` is ``limit`` minus the instructions retired by this call.

        With ``call`` an engine may do system calls itself: where it would return Syscall it calls ``call``, and goes on
        if that returns False, or returns Interrupted if True. What ``call`` raises passes through.
        """

    def add_vcpu(self) -> None:
        """One more vCPU will run, beside those that do. Called before its first ``run``, by the thread of one of them."""

    def forking(self) -> AbstractContextManager[None]:
        """Inside, the host process may fork: nothing that its other threads do to the engine is half done."""

    def forked(self) -> None:
        """In the child of such a fork, still inside: the calling thread's vCPU is the only one, and no other host thread is
        left. What the parent does from now on does not reach the child, nor the other way round."""

    def abandon(self) -> None:
        """In the child of a fork, in place of close(): give memory back, and keep nothing for later runs."""

    def interrupt(self) -> None:
        """Make a running ``run`` return Interrupted soon. Callable from any thread."""

    def invalidate(self, start: int, end: int) -> None:
        """Guest code in ``[start, end)`` may have changed: forget what was made from it. Whoever composes engine and
        memory puts this into ``GuestMemory.code_changed``."""

    def synchronize(self, memory: GuestMemory, start: int = 0, end: int = EVERYWHERE) -> None:
        """Instruction-fetch fence for all vCPUs: code that the guest wrote in ``[start, end)`` is seen from now on; other code may be."""

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Stop with Breakpoint before the instructions at these guest addresses."""

    def close(self) -> None:
        """Give back code memory and threads. No vCPU may be running."""
