"""Why a vCPU stopped: a closed union of plain values, the same for every hypervisor.

An exit holds what happened, never a way back to the vCPU: what the guest reads is given to :meth:`Vcpu.complete
<vm_accel.interface.Vcpu.complete>`. In every exit all registers are precise. The pc is behind the instruction, but on it in one
that takes an answer, in Debug (except behind a step or a watched access), FailEntry and Unknown.

PERF: named tuples, since making a frozen dataclass costs a microsecond, which is a tenth of an exit.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = [
    "Debug",
    "DebugKind",
    "Exit",
    "FailEntry",
    "Halt",
    "Hypercall",
    "HypercallAbi",
    "Interrupted",
    "IrqWindow",
    "Mmio",
    "PortIo",
    "Shutdown",
    "ShutdownKind",
    "SysReg",
    "SysRegSpace",
    "Timer",
    "Unknown",
]


class Mmio(NamedTuple):
    """An access to a guest-physical address that is no memory, or a write to memory that is read-only.

    ``size`` is in bytes, 1 to 8 (16 to 64 for vector accesses of hypervisors that split none); ``value`` is what is written,
    the byte at ``address`` lowest; 0 in a read, which is answered by ``complete``.
    """

    address: int
    size: int
    is_write: bool
    value: int = 0


class PortIo(NamedTuple):
    """An x86 IN, OUT, INS or OUTS: ``times`` accesses of ``size`` bytes each (1, 2 or 4) to one port.

    ``data`` is what is written, ``size * times`` bytes in order; empty in a read, which is answered by ``complete``.
    """

    port: int
    size: int
    is_write: bool
    times: int = 1
    data: bytes = b""


class Halt(NamedTuple):
    """HLT or WFI, with nothing inside the hypervisor that could wake the vCPU. Running it again goes on behind it."""


class ShutdownKind(enum.Enum):
    """Why the machine is over."""

    TRIPLE_FAULT = "triple fault"
    OFF = "off"
    RESET = "reset"
    CRASH = "crash"
    SUSPEND = "suspend"


class Shutdown(NamedTuple):
    """The machine cannot or shall not go on. ``code`` is what the guest or the hypervisor gave with it, else 0."""

    kind: ShutdownKind
    code: int = 0


class HypercallAbi(enum.Enum):
    """Whose numbers a hypercall uses."""

    KVM = "kvm"
    HYPERV = "hyperv"
    PSCI = "psci"
    SBI = "sbi"


class Hypercall(NamedTuple):
    """The guest called the hypervisor; ``complete`` gives its result. SBI: ``number`` is ``extension << 32 | function``."""

    abi: HypercallAbi
    number: int
    arguments: tuple[int, ...]


class SysRegSpace(enum.Enum):
    """Which numbering a system register's number is of."""

    MSR = "msr"
    CPUID = "cpuid"
    AARCH64 = "aarch64"
    """op0 << 14 | op1 << 11 | CRn << 7 | CRm << 3 | op2, as MRS and MSR encode it."""
    CSR = "csr"


class SysReg(NamedTuple):
    """An access to a system register that the hypervisor leaves to us; a read is answered by ``complete``, and either can be
    refused there (``fault=True``: #GP, undefined or illegal instruction). CSR writes give ``value`` and ``mask``."""

    space: SysRegSpace
    number: int
    is_write: bool
    value: int = 0
    mask: int = ~0


class DebugKind(enum.Enum):
    """What guest debugging stopped on."""

    STEP = "step"
    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    INSTRUCTION = "instruction"
    """A breakpoint instruction of the guest's own text (INT3, BRK, EBREAK), which has not run."""


class Debug(NamedTuple):
    """A stop that :meth:`Vcpu.debug <vm_accel.interface.Vcpu.debug>` asked for. ``pc`` is a guest-virtual address, of the next
    instruction to run; ``address`` that of a watched access."""

    pc: int
    kind: DebugKind
    address: int = 0


class IrqWindow(NamedTuple):
    """The guest can take an interrupt now, which ``request_irq_window`` asked to be told."""


class Timer(NamedTuple):
    """The guest's virtual timer fired, and is masked until :meth:`Vcpu.complete <vm_accel.interface.Vcpu.complete>`."""


class Interrupted(NamedTuple):
    """:meth:`Vcpu.kick <vm_accel.interface.Vcpu.kick>` was called, before or during the run."""


class FailEntry(NamedTuple):
    """The hypervisor could not run the guest's state. ``code`` is its own (KVM: the hardware's reason or the suberror)."""

    code: int
    reason: str
    raw: bytes = b""


class Unknown(NamedTuple):
    """An exit that we have no name for. Data, never an exception: ``raw`` is the hypervisor's own description, for a report."""

    reason: int
    raw: bytes


Exit = (
    Mmio
    | PortIo
    | Halt
    | Shutdown
    | Hypercall
    | SysReg
    | Debug
    | IrqWindow
    | Timer
    | Interrupted
    | FailEntry
    | Unknown
)
