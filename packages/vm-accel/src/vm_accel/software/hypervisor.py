"""Virtual machines of vm's own engines: vm_jit's or the reference executor, of any ISA that vm_core has the text of.

Guest-physical memory is an arena of :class:`~vm_core.memory.GuestMemory`, into which the memory of whoever calls is mapped a second
time. An access where nothing is mapped traps in the engine, and is finished here, by the instruction's text, as an Mmio exit; an
instruction that the text does not have, since only a kernel may use it, traps too, and the few of those that machines without an
operating system use are done by the ISA's module here.

It is what a program of an operating system's user mode sees, and somewhat more: there are no page tables (an address is a physical
one), no model specific registers and no 16 and 32-bit code. :attr:`Software.features` says it, and what of the conformance suite
needs more is skipped.
"""

from __future__ import annotations

import platform
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from vm_accel.closing import Closing, SelfClosing
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.interface import Feature, Memory, State, VmConfig
from vm_accel.memory import PAGE, placed
from vm_accel.software.aarch64 import Aarch64
from vm_accel.software.architecture import Architecture
from vm_accel.software.riscv64 import Riscv64
from vm_accel.software.vcpu import SoftwareVcpu
from vm_accel.software.x86_64 import X86
from vm_core import isa as isas
from vm_core.engine import Availability
from vm_core.engines import create
from vm_core.errors import EngineUnavailable, UsageError
from vm_core.memory import GuestMemory, Prot

__all__ = ["Software", "SoftwareVm"]

_FORMAT: Final = "software-vm/1"
_ARCHITECTURES: Final[dict[str, Callable[[], Architecture]]] = {
    "x86_64": X86,
    "aarch64": Aarch64,
    "riscv64": Riscv64,
}
_COMMON: Final = frozenset(
    {
        Feature.MMIO, Feature.HALT, Feature.KICK, Feature.SINGLE_STEP, Feature.BREAKPOINTS, Feature.WATCHPOINTS, Feature.TRAP_BREAK,
        Feature.RING3_DEBUG, Feature.DIRTY_LOG, Feature.READ_ONLY, Feature.SAVE, Feature.VECTOR_REGISTERS, Feature.SMP,
        Feature.MANY_VMS, Feature.LONG_MODE,
    }
)  # fmt: skip
_MOST_VCPUS: Final = 64


@runtime_checkable
class _Filed(Protocol):
    """Memory that can be mapped a second time: :meth:`vm_accel.memory.HostMemory.file`."""

    def file(self) -> tuple[int, int]: ...


class _Slot:
    def __init__(self, guest: int, size: int, memory: Memory, *, writable: bool, log_dirty: bool) -> None:
        self.guest, self.end, self.memory = guest, guest + size, memory
        self.writable, self.log_dirty = writable, log_dirty
        self.written: set[int] = set()


class SoftwareVm(SelfClosing):
    """See :class:`vm_accel.interface.Vm`. Made by ``Software.create_vm``."""

    def __init__(self, hypervisor: Software, config: VmConfig) -> None:
        for wanted, what in (
            (config.irqchip or config.pit, "an interrupt controller"),
            (config.msr_exits, "exits on model specific registers"),
            (config.dirty_ring, "a dirty ring"),
            (config.address_bits > 32, "addresses of more than 32 bits"),
        ):
            if wanted:
                raise AcceleratorUnavailable(
                    f"a machine without a hypervisor has no {what.split(' ', 1)[1]}", hint="do without"
                )
        config.check_cpus(_MOST_VCPUS, "vm's own engines")
        self.hypervisor, self.config = hypervisor, config
        self.architecture = hypervisor.architecture
        self.lock = threading.RLock()
        self._slots: dict[int, _Slot] = {}
        self._vcpus: dict[int, SoftwareVcpu] = {}
        self._made = 0
        self._closed = False
        self.arena = GuestMemory()
        # Files are mapped, and nobody else has their descriptors: they are not truncated.
        try:
            self.engine = create(hypervisor.engine, hypervisor.text, self.arena)
        except BaseException:
            self.arena.close()
            raise
        self.arena.code_changed.append(self.engine.invalidate)

    def open(self) -> None:
        """Raises HypervisorError if it is closed."""
        if self._closed:
            raise HypervisorError("the VM is closed")

    # -- memory --------------------------------------------------------------------------------------------------------

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
        self.open()
        taken = [(slot.guest, slot.end) for slot in self._slots.values()]
        size = placed(guest, memory, offset, size, taken)
        if guest + size > self.arena.size:
            raise UsageError(f"guest memory at {guest:#x}: beyond {self.arena.bits} bits")
        if not isinstance(memory, _Filed):
            raise UsageError(
                "memory that has no file cannot be mapped a second time",
                hint="take vm_accel.memory.HostMemory",
            )
        with self.lock:
            fd, base = memory.file()
            prot = Prot.RWX if writable and not log_dirty else Prot.RX
            try:
                self.arena.map_file(
                    guest, size, prot, fd, base + offset, name="[memory]", shared=True, writable=True
                )
            except OSError as error:
                raise HypervisorError(
                    f"guest memory at {guest:#x} cannot be mapped: {error.strerror}", call="mmap"
                ) from error
            memory.hold()
            self._slots[guest] = _Slot(guest, size, memory, writable=writable, log_dirty=log_dirty)

    def unmap(self, guest: int) -> None:
        self.open()
        with self.lock:
            slot = self._slot(guest)
            self.arena.unmap(slot.guest, slot.end - slot.guest)
            del self._slots[guest]
            slot.memory.release()

    def _slot(self, guest: int) -> _Slot:
        found = self._slots.get(guest)
        if found is None:
            raise UsageError(f"no memory is mapped at {guest:#x}")
        return found

    def dirty(self, guest: int) -> list[int]:
        self.open()
        with self.lock:
            slot = self._slot(guest)
            if not slot.log_dirty:
                raise UsageError(f"the memory at {guest:#x} was mapped without log_dirty")
            pages, slot.written = sorted(slot.written), set()
            for page in pages:
                self.arena.protect(page, PAGE, Prot.RX)
            return pages

    def wrote(self, address: int, size: int) -> bool:
        """A store was refused. Whether it was so because its page is logged: it is now in the log, and may be written."""
        with self.lock:
            found = False
            for page in range(address & -PAGE, address + size, PAGE):
                for slot in self._slots.values():
                    if slot.guest <= page < slot.end and slot.writable and slot.log_dirty:
                        found |= page not in slot.written
                        slot.written.add(page)
                        self.arena.protect(page, PAGE, Prot.RWX)
            return found

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        """See :class:`vm_accel.completion.Guest`."""
        for slot in self._slots.values():
            if slot.guest <= address and address + size <= slot.end:
                if is_write:
                    self.wrote(address, size)
                    if not slot.writable:
                        return None
                return self.arena.view[address : address + size]
        return None

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    def create_vcpu(self, model: Any = None) -> SoftwareVcpu:
        self.open()
        if model is not None:
            raise UsageError("vm's own engines have one CPU model for each ISA", hint="give none")
        with self.lock:
            if self._made >= _MOST_VCPUS:
                raise UsageError(f"at most {_MOST_VCPUS} vCPUs in a machine")
            if self._made:
                self.engine.add_vcpu()
            made = self._vcpus[self._made] = SoftwareVcpu(self, self._made)
            self._made += 1
            return made

    def forget_vcpu(self, vcpu: SoftwareVcpu) -> None:
        """``vcpu`` is being closed."""
        self._vcpus.pop(vcpu.index, None)

    def set_irq(self, line: int, level: bool) -> None:
        self.open()
        raise UsageError("there is no interrupt controller without a hypervisor", hint="use Vcpu.interrupt")

    def save(self) -> State:
        self.open()
        return {"format": _FORMAT}

    def restore(self, state: State) -> None:
        self.open()
        if state.get("format") != _FORMAT:
            raise UsageError(f"not a saved VM of vm's own engines: {state.get('format')!r}")

    def close(self) -> None:
        if self._closed:
            return
        for vcpu in list(self._vcpus.values()):
            vcpu.close()
        self._closed = True
        self.engine.close()
        self.arena.close()
        for slot in self._slots.values():
            slot.memory.release()
        self._slots.clear()
        self.hypervisor.forget_vm(self)


class Software(Closing):
    """See :class:`vm_accel.interface.Hypervisor`. ``engine`` is one of vm_core.engines', ``isa`` the guests' (None: the host's).

    Raises UsageError for an ISA or engine that there is not, EngineUnavailable for an engine that cannot be used.
    """

    name = "none"

    def __init__(self, *, isa: str | None = None, engine: str = "auto") -> None:
        self.isa = isa or {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
        make = _ARCHITECTURES.get(self.isa)
        if make is None:
            raise UsageError(f"vm has no text of {self.isa}", hint=f"one of {', '.join(_ARCHITECTURES)}")
        if engine == "kvm":
            raise UsageError("the engine 'kvm' is a hypervisor's", hint="VM_ACCEL=kvm")
        self.engine, self.architecture, self.text = engine, make(), isas.get(self.isa)
        self._vms: weakref.WeakSet[SoftwareVm] = weakref.WeakSet()
        self._closed = False
        with GuestMemory() as memory:
            create(engine, self.text, memory).close()

    @staticmethod
    def probe() -> Availability:
        """Whether the host's own ISA has an engine here."""
        try:
            with Software():
                return Availability(True, "vm's own engines, without a hypervisor")
        except (UsageError, EngineUnavailable) as error:
            return Availability(False, str(error), error.hint)

    @property
    def features(self) -> frozenset[Feature]:
        return _COMMON | self.architecture.features

    def lacks(self, code: bytes, at: int) -> list[str]:
        """What of the code at the address ``at``, up to the first instruction that nothing is known of, no text has."""
        return self.architecture.lacks(self.text, code, at)

    def create_vm(self, config: VmConfig = VmConfig()) -> SoftwareVm:  # noqa: B008 - it is frozen
        if self._closed:
            raise HypervisorError("the hypervisor is closed")
        vm = SoftwareVm(self, config)
        self._vms.add(vm)
        return vm

    def forget_vm(self, vm: SoftwareVm) -> None:
        """``vm`` is being closed."""
        self._vms.discard(vm)

    def model(self) -> Any:
        """There is one, and nothing can be taken away from it."""
        return None

    def close(self) -> None:
        self._closed = True
        for vm in list(self._vms):
            vm.close()
