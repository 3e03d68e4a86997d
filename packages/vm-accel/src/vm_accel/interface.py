"""The two protocols: hypervisors with vCPUs (KVM, HVF, WHPX), and machines that run as a whole (VZ, our own).

``Hypervisor`` → ``Vm`` → ``Vcpu.run()`` → :data:`~vm_accel.exits.Exit`. Whoever writes a guest needs nothing else; what only one
hypervisor has is a method of its own class, and a :class:`Feature` says that it is there.

All objects are context managers; ``close`` may be called twice, and closes what was made by it. After it every other method
raises HypervisorError. Calls that the host refuses raise HypervisorError; nothing is left half made.

Registers have one namespace for all hypervisors of an ISA; values are unsigned integers:

* x86_64: ``rax`` … ``r15 rip rflags``; ``cr0 cr2 cr3 cr4 cr8 efer apic_base xcr0``; ``dr0`` … ``dr3 dr6 dr7``;
  ``cs ds es fs gs ss tr ldt`` each with ``.base .limit .selector .access`` and ``gdt idt`` with ``.base .limit``;
  ``fcw fsw ftw fop fip fdp mxcsr``, ``st0`` … ``st7`` (80 bits), ``xmm0`` … ``xmm15``, and where the CPU has them the upper halves
  ``ymmh0`` … ``ymmh15``; ``msr.0xc0000082``. ``.access`` is as in VMX and Hyper-V: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13,
  D/B 14, G 15, unusable 16.
* aarch64: ``x0`` … ``x30 sp pc pstate fpcr fpsr``, ``v0`` … ``v31``, system registers by their names (``sctlr_el1``) or as
  ``sys.OP0.OP1.CRN.CRM.OP2``.
* riscv64: ``x0`` … ``x31 pc mode fcsr``, ``f0`` … ``f31``, CSRs by their names (``satp``).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, runtime_checkable

from vm_accel.exits import Exit
from vm_core.engine import Availability
from vm_core.errors import UsageError

__all__ = [
    "Bus",
    "Disk",
    "Feature",
    "Hypervisor",
    "Machine",
    "MachineBackend",
    "MachineConfig",
    "MachineEvent",
    "MachineState",
    "Memory",
    "Network",
    "Share",
    "State",
    "Vcpu",
    "Vm",
    "VmConfig",
]

State = dict[str, Any]
"""A saved vCPU, VM or machine as plain data: dict, list, int, str, bytes, None. ``format`` says whose it is, and which version."""


class Feature(enum.Enum):
    """What a hypervisor can do here; the conformance suite skips, and counts, what it lacks."""

    PORT_IO = "port I/O exits"
    STRING_IO = "string port I/O"
    MMIO = "MMIO exits"
    HALT = "HLT or WFI exits"
    KICK = "kick from another thread"
    SINGLE_STEP = "single step"
    BREAKPOINTS = "hardware breakpoints"
    WATCHPOINTS = "watchpoints"
    TRAP_BREAK = "the guest's own breakpoint instructions as exits"
    RING3_DEBUG = "the four above for code in ring 3"
    DIRTY_LOG = "log of written pages"
    READ_ONLY = "read-only memory"
    SAVE = "save and restore of a vCPU"
    SYSTEM_REGISTERS = "control and system registers"
    VECTOR_REGISTERS = "floating point and vector registers"
    MSR = "model specific registers"
    MSR_EXITS = "exits on unknown MSRs"
    DEBUG_REGISTERS = "the guest's debug registers"
    CPU_MODEL = "choice of CPU features"
    INTERRUPT = "injected interrupts and the interrupt window"
    IRQCHIP = "interrupt controller inside the hypervisor"
    TIMER = "timer exits"
    HYPERCALL = "hypercall exits"
    SMP = "several vCPUs in one VM"
    MANY_VMS = "several VMs in one process"
    REAL_MODE = "16-bit guests"
    LONG_MODE = "64-bit guests"
    COHERENT_CODE = "code that runs as it was just written, without a fence"
    """As x86 promises it (SDM volume 3, 11.6). vm's own engines see it from the next ``run`` on."""
    KERNEL_MODE = "all of ring 0, in hardware"
    """Not with KVM's paravirtual flavour, whose emulator lacks software interrupts outside of real mode, and debugging."""


class Memory(Protocol):
    """Host memory that can be given to a guest: :class:`vm_accel.memory.HostMemory`, or what its owner wraps."""

    @property
    def address(self) -> int:
        """Host address, page-aligned."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of the host's page."""

    def hold(self) -> None:
        """A VM shows it to its guest from now on: until as many ``release`` the host must not use these addresses for anything
        else, since the guest could then write there."""

    def release(self) -> None:
        """The opposite of ``hold``."""


class Bus(Protocol):
    """Devices, called inside ``Vcpu.run``. Values are little-endian integers of ``size`` bytes.

    A device that wants the run to end calls the vCPU's ``kick``. What a device raises passes through ``run``, which can then be
    called again; the access counts as done (a read gave all ones).
    """

    def read(self, address: int, size: int) -> int:
        """An MMIO read."""

    def write(self, address: int, size: int, value: int) -> None:
        """An MMIO write."""

    def port_in(self, port: int, size: int) -> int:
        """IN, or one element of INS."""

    def port_out(self, port: int, size: int, value: int) -> None:
        """OUT, or one element of OUTS."""


class Vcpu(Protocol):
    """One virtual CPU. Everything but ``kick`` is called by one thread at a time (HVF: by the thread that made it)."""

    @property
    def index(self) -> int:
        """Number within its VM, from 0."""

    def run(self, bus: Bus | None = None) -> Exit:
        """Run until something needs the caller. With ``bus``, MMIO and port I/O are done there and are no exits.

        A read that was not completed before the next ``run`` gives all ones, as an empty bus does. While an exit waits for its
        answer, registers are those before its instruction, and the pc is on it; setting the pc completes the exit first. Setting
        others alone is a UsageError: the processor's emulator may have read them already, and would write the rest over them. A Timer
        is no instruction, and forbids nothing.
        """

    def complete(self, value: int | bytes = 0, *, fault: bool = False) -> None:
        """Answer the exit that ``run`` returned: a read of Mmio, PortIo (with ``times`` > 1: bytes) or SysReg, a Hypercall, or
        Timer. Of an integer the access takes its low bytes, as from a bus; bytes must be as many as it has. ``fault`` refuses a
        SysReg. Raises UsageError if that exit takes no answer, or not so many bytes."""

    def kick(self) -> None:
        """Make ``run`` return Interrupted soon. Callable from any thread and at any time, without waiting.

        Never lost: if no ``run`` is active, or it is about to return something else, the next one returns Interrupted at once.
        Several kicks before that are one.
        """

    def __getitem__(self, name: str) -> int:
        """One register. KeyError if there is none of that name."""

    def __setitem__(self, name: str, value: int) -> None:
        """Change one register. KeyError for an unknown name, ValueError for a value that is too wide."""

    def registers(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Several registers at once; None: all that have a fixed name (no MSRs by number)."""

    def set_registers(self, values: Mapping[str, int]) -> None:
        """Change several registers at once. All names are checked before any is changed."""

    def save(self) -> State:
        """All guest-visible state of this vCPU, as plain data. I/O that was returned by ``run`` is completed first."""

    def restore(self, state: State) -> None:
        """The opposite of ``save``, also into another vCPU of the same model. Raises UsageError for a foreign format."""

    def debug(
        self,
        *,
        step: bool = False,
        breakpoints: Iterable[int] = (),
        watchpoints: Iterable[tuple[int, int, bool]] = (),
        trap_break: bool = False,
    ) -> None:
        """What ``run`` shall stop on from now on, in place of what was said before; no arguments: nothing.

        ``step``: after each instruction. ``breakpoints``: before those at these guest-virtual addresses. ``watchpoints``:
        ``(address, size in bytes, writes only)``. ``trap_break``: on the guest's own breakpoint instructions. Raises UsageError
        for more than the CPU has registers for (x86: 4 in all).
        """

    def interrupt(self, vector: int) -> None:
        """Queue an interrupt (x86: the vector; others: the line). Only while the guest can take one: ``request_irq_window``.
        Not with an interrupt controller inside the hypervisor."""

    def request_irq_window(self) -> None:
        """Make ``run`` return IrqWindow as soon as the guest can take an interrupt."""

    def close(self) -> None:
        """Give it back. No ``run`` may be active."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class VmConfig:
    """What must be said before a VM exists. What the hypervisor lacks raises AcceleratorUnavailable.

    ``irqchip``: interrupt controller in the hypervisor (x86: also the PIT, with ``pit``). ``dirty_ring``: entries of the ring of
    written pages per vCPU, a power of two; 0: the bitmap. ``msr_exits``: accesses to MSRs that the hypervisor does not know are
    SysReg exits. ``address_bits``: width of guest-physical addresses; 0: the hypervisor's default. ``cpus``: the most vCPUs; more
    than the hypervisor can have is a UsageError.
    """

    irqchip: bool = False
    pit: bool = False
    dirty_ring: int = 0
    msr_exits: bool = False
    address_bits: int = 0
    cpus: int = 1

    def check_cpus(self, most: int, whose: str) -> None:
        """Raises UsageError unless ``cpus`` is within 1 and ``most``, which ``whose`` VMs can have."""
        if not 1 <= self.cpus <= most:
            raise UsageError(f"{self.cpus} vCPUs are not within 1 and {most}, the most in a VM of {whose}")


class Vm(Protocol):
    """One virtual machine: guest-physical memory and vCPUs."""

    def map(
        self,
        guest: int,
        memory: Memory,
        *,
        offset: int = 0,
        size: int | None = None,
        writable: bool = True,
        log_dirty: bool = False,
    ) -> None:
        """Show ``memory[offset:offset + size]`` at guest-physical ``guest``, all page-aligned, where nothing is yet.

        A write to memory that is not ``writable`` is an Mmio exit.
        """

    def unmap(self, guest: int) -> None:
        """Take away what ``map`` put at exactly this address. UsageError if there is nothing. Any vCPU may be running."""

    def dirty(self, guest: int) -> list[int]:
        """Guest-physical addresses of the pages that were written since the last call, of the mapping at ``guest``, ascending;
        it was mapped with ``log_dirty``."""

    def create_vcpu(self, model: Any = None) -> Vcpu:
        """The next vCPU, by the thread that will run it, in the ISA's reset state. ``model``: from ``Hypervisor.model()``."""

    def set_irq(self, line: int, level: bool) -> None:
        """Drive an input of the interrupt controller inside the hypervisor."""

    def save(self) -> State:
        """State of what is in the hypervisor beside vCPUs and memory: interrupt controllers, timers, clock. All vCPUs stopped."""

    def restore(self, state: State) -> None:
        """The opposite of ``save``."""

    def close(self) -> None:
        """Give back the VM and its vCPUs. No ``run`` may be active."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Hypervisor(Protocol):
    """The host's hypervisor, opened. Its class has ``probe() -> Availability``, which opens nothing for long."""

    name: str
    isa: str
    """``x86_64``, ``aarch64`` or ``riscv64``: that of the guests, which is the host's."""

    @property
    def features(self) -> frozenset[Feature]:
        """What it can do here."""

    def create_vm(self, config: VmConfig = ...) -> Vm:
        """A new VM without memory and vCPUs."""

    def model(self) -> Any:
        """The most capable CPU that guests can have here, as plain data from which features can be taken away."""

    def close(self) -> None:
        """Give it back, with its VMs."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


# -- machines that run as a whole -------------------------------------------------------------------------------------------


class MachineState(enum.Enum):
    """Where a machine is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    STOPPING = "stopping"
    SAVING = "saving"
    RESTORING = "restoring"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Disk:
    """An image file, raw, as a block device.

    ``sync``: what the guest flushes is on the host's disk. ``caching``: by the host's page cache, ``cached``, ``uncached`` or
    ``auto``. ``bus``: ``virtio``, ``nvme`` or ``usb``. ``name``: at most 20 bytes that the guest finds as the serial number of a
    virtio disk.
    """

    path: Path
    read_only: bool = False
    sync: bool = True
    caching: str = "cached"
    bus: str = "virtio"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A network card. ``fd``: a connected datagram socket that carries frames; None: the host's NAT. ``mac``: None: random."""

    fd: int | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host that the guest mounts by ``tag`` (virtiofs). ``rosetta``: Apple's translator, ``path`` is unused."""

    tag: str
    path: Path | None = None
    read_only: bool = True
    rosetta: bool = False


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A Linux guest. ``memory_bytes`` is rounded up to what the backend needs. ``kernel``: None: EFI firmware boots a disk."""

    kernel: Path | None
    initrd: Path | None = None
    command_line: str = "console=hvc0"
    cpus: int = 1
    memory_bytes: int = 512 << 20
    disks: tuple[Disk, ...] = ()
    networks: tuple[Network, ...] = ()
    shares: tuple[Share, ...] = ()
    entropy: bool = True
    balloon: bool = False
    vsock: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only one backend knows; a key that it does not know is a UsageError."""


@dataclass(frozen=True, slots=True)
class MachineEvent:
    """A change of state; ``error`` is set with FAILED."""

    state: MachineState
    error: str = ""


class Machine(Protocol):
    """One whole machine. Methods may be called from any thread; those that change the state return when it has changed, and
    raise HypervisorError if it does not, UsageError if that is not possible in the present state."""

    @property
    def state(self) -> MachineState: ...

    @property
    def console(self) -> BinaryIO:
        """The guest's serial console, unbuffered, both ways."""

    def start(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def request_stop(self) -> None:
        """Press the power button; the guest decides."""

    def stop(self) -> None:
        """Pull the plug."""

    def save(self, path: Path) -> None:
        """Write the paused machine's state, without its disks."""

    def restore(self, path: Path) -> None:
        """Into a stopped machine of the same configuration; it is paused afterwards."""

    def wait(self, timeout: float | None = None) -> MachineEvent | None:
        """The next change of state, oldest first; None if ``timeout`` (seconds) has passed without one."""

    def close(self) -> None:
        """Stop it if needed, and give everything back."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class MachineBackend(Protocol):
    """What makes machines. Its class has ``probe() -> Availability``."""

    name: str

    @staticmethod
    def probe() -> Availability: ...

    def create(self, config: MachineConfig) -> Machine:
        """A stopped machine. Raises UsageError for a wrong configuration, AcceleratorUnavailable for what is not there."""
