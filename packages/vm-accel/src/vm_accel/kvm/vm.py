"""A virtual machine of KVM on x86-64: memory, interrupts, and what KVM does for devices without an exit."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vm_accel.closing import SelfClosing
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.interface import Memory, State, VmConfig
from vm_accel.kvm.abi import Capability
from vm_accel.kvm.kernel import call, failure, ffi
from vm_accel.kvm.vcpu import KvmVcpu
from vm_accel.memory import PAGE
from vm_accel.x86 import X86Model
from vm_core.errors import UsageError

if TYPE_CHECKING:
    from vm_accel.kvm.hypervisor import Kvm

__all__ = ["KvmVm"]

_FORMAT: Final = "kvm-x86_64-vm-1"
_LOG_DIRTY, _READ_ONLY = 1, 2
_RING_OFFSET_PAGES: Final = 64
_COALESCED_PAGE: Final = 2
_COALESCED_MAX: Final = (PAGE - 8) // 24
_DATA_MATCH, _PIO, _DEASSIGN = 1, 2, 4
_TSS: Final = 0xFFFB_D000
_IDENTITY_MAP: Final = 0xFFFB_C000
"""Four pages below the BIOS that Intel's KVM needs for real mode on old processors; no guest may have memory there."""
_MSR_REASONS: Final = 0b111
_GFN_DIRTY, _GFN_RESET = 1, 2


@dataclass(slots=True)
class _Slot:
    number: int
    guest: int
    size: int
    memory: Memory
    log_dirty: bool
    written: set[int] = field(default_factory=set)


class KvmVm(SelfClosing):
    """See :class:`vm_accel.interface.Vm`. Made by ``Kvm.create_vm``; ``config`` is what it was made with."""

    def __init__(self, hypervisor: Kvm, config: VmConfig) -> None:
        self.hypervisor, self.config = hypervisor, config
        self.kernel = hypervisor.kernel
        self.zones: list[tuple[int, int, bool]] = []
        """Coalesced ranges; a vCPU looks at the list at each exit."""
        self.ring_bytes = config.dirty_ring * ffi.sizeof("struct kvm_dirty_gfn")
        self.xsave_bytes = hypervisor.xsave_bytes
        self.has_xcrs = hypervisor.has(Capability.XCRS)
        self.has_ymm = self.has_xcrs and hypervisor.has_avx
        self._fd = -1
        self._slots: dict[int, _Slot] = {}
        self._free: list[int] = []
        self._vcpus: dict[int, KvmVcpu] = {}
        self._made = 0
        self._ring_heads: dict[int, int] = {}
        self._used = False
        self._lock = threading.RLock()
        self._check(config)
        self._fd = call(self.kernel, hypervisor.fd, "KVM_CREATE_VM", 0)
        try:
            self._setup(config)
        except BaseException:
            self.close()
            raise

    def _check(self, config: VmConfig) -> None:
        has = self.hypervisor.has
        config.check_cpus(self.hypervisor.max_vcpus, "this KVM")
        ring = config.dirty_ring
        if ring and (ring & ring - 1 or ring * 16 < PAGE):
            raise UsageError(f"a dirty ring of {ring} entries: a power of two, at least {PAGE // 16}")
        if config.pit and not config.irqchip:
            raise UsageError("the PIT needs the interrupt controller")
        if config.address_bits:
            raise UsageError("the width of guest-physical addresses follows from the CPU model on x86-64")
        lacks = [
            text
            for wanted, capability, text in (
                (config.irqchip, Capability.IRQCHIP, "an interrupt controller"),
                (config.pit, Capability.PIT2, "a PIT"),
                (config.msr_exits, Capability.X86_USER_SPACE_MSR, "MSR exits"),
                (ring, Capability.DIRTY_LOG_RING, "a dirty ring"),
            )
            if wanted and not has(capability)
        ]
        if ring and has(Capability.DIRTY_LOG_RING) and ring * 16 > has(Capability.DIRTY_LOG_RING):
            raise UsageError(
                f"a dirty ring of {ring} entries; KVM has at most {has(Capability.DIRTY_LOG_RING) // 16}"
            )
        if lacks:
            raise AcceleratorUnavailable(
                f"this host's KVM lacks {', '.join(lacks)}", hint="do without, or use a newer kernel"
            )

    def _setup(self, config: VmConfig) -> None:
        if self.hypervisor.flavour == "vmx":
            call(self.kernel, self._fd, "KVM_SET_TSS_ADDR", _TSS)
            where = ffi.new("struct kvm_one_word *", {"word": _IDENTITY_MAP})
            call(self.kernel, self._fd, "KVM_SET_IDENTITY_MAP_ADDR", where)
        if config.irqchip:
            call(self.kernel, self._fd, "KVM_CREATE_IRQCHIP")
        if config.pit:
            call(self.kernel, self._fd, "KVM_CREATE_PIT2", ffi.new("struct kvm_pit_config *", {"flags": 1}))
        if config.msr_exits:
            self._enable(Capability.X86_USER_SPACE_MSR, _MSR_REASONS)
        if config.dirty_ring:
            newer = self.hypervisor.has(Capability.DIRTY_LOG_RING_ACQ_REL)
            self._enable(
                Capability.DIRTY_LOG_RING_ACQ_REL if newer else Capability.DIRTY_LOG_RING, self.ring_bytes
            )

    def _enable(self, capability: int, argument: int) -> None:
        request = ffi.new("struct kvm_enable_cap *", {"cap": capability, "args": [argument]})
        call(self.kernel, self._fd, "KVM_ENABLE_CAP", request, f"capability {capability}")

    def _open(self) -> int:
        if self._fd < 0:
            raise HypervisorError("the VM is closed")
        return self._fd

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
        fd = self._open()
        size = memory.size - offset if size is None else size
        if (guest | offset | size) & (PAGE - 1) or guest < 0 or size <= 0 or offset < 0:
            raise UsageError(f"guest memory of {size:#x} bytes at {guest:#x}: whole pages of {PAGE} bytes")
        if offset + size > memory.size:
            raise UsageError(f"{size:#x} bytes at {offset:#x} of {memory.size:#x} bytes of memory")
        if guest + size > 1 << 52:
            raise UsageError(f"guest memory at {guest:#x}: beyond 52 bits")
        with self._lock:
            for slot in self._slots.values():
                if guest < slot.guest + slot.size and slot.guest < guest + size:
                    raise UsageError(f"there is memory at {slot.guest:#x} already")
            number = self._free.pop() if self._free else len(self._slots)
            flags = (_LOG_DIRTY if log_dirty else 0) | (0 if writable else _READ_ONLY)
            try:
                self._region(fd, number, flags, guest, size, memory.address + offset)
            except BaseException:
                self._free.append(number)
                raise
            memory.hold()
            self._slots[guest] = _Slot(number, guest, size, memory, log_dirty)

    def _region(self, fd: int, number: int, flags: int, guest: int, size: int, host: int) -> None:
        region = ffi.new("struct kvm_userspace_memory_region *", (number, flags, guest, size, host))
        # SAFETY: the host's range is inside `memory`, which is held until the slot is gone.
        call(self.kernel, fd, "KVM_SET_USER_MEMORY_REGION", region, f"{size:#x} bytes at {guest:#x}")

    def unmap(self, guest: int) -> None:
        fd = self._open()
        with self._lock:
            slot = self._slot(guest)
            self._region(fd, slot.number, 0, guest, 0, 0)
            del self._slots[guest]
            self._free.append(slot.number)
            slot.memory.release()

    def _slot(self, guest: int) -> _Slot:
        found = self._slots.get(guest)
        if found is None:
            raise UsageError(f"no memory is mapped at {guest:#x}")
        return found

    def dirty(self, guest: int) -> list[int]:
        fd = self._open()
        with self._lock:
            slot = self._slot(guest)
            if not slot.log_dirty:
                raise UsageError(f"the memory at {guest:#x} was mapped without log_dirty")
            if self.config.dirty_ring:
                self.harvest()
                pages, slot.written = slot.written, set()
                return sorted(guest + page * PAGE for page in pages)
            count = slot.size // PAGE
            bitmap = ffi.new("uint64_t[]", -(-count // 64))
            request = ffi.new("struct kvm_dirty_log *", {"slot": slot.number, "dirty_bitmap": bitmap})
            call(self.kernel, fd, "KVM_GET_DIRTY_LOG", request, f"memory at {guest:#x}")
            bits = int.from_bytes(ffi.buffer(bitmap), "little")
        out = []
        while bits:
            low = (bits & -bits).bit_length() - 1
            out.append(guest + low * PAGE)
            bits &= bits - 1
        return out

    def written(self, guests: Iterable[int]) -> list[int]:
        """As ``dirty`` with a dirty ring, of several mappings, but a page that has been reported may be written again without being
        reported again: nothing is protected anew, which would cost a fault a page."""
        self._open()
        found: list[int] = []
        with self._lock:
            self.harvest(reset=False)
            for guest in guests:
                slot = self._slot(guest)
                if slot.written:
                    pages, slot.written = slot.written, set()
                    found += [guest + page * PAGE for page in pages]
        return sorted(found)

    def harvest(self, *, reset: bool = True) -> None:
        """Take what KVM has put into the dirty rings, so that it can go on. Done by ``run`` when one is full. Without ``reset`` the
        entries stay used."""
        with self._lock:
            slots: dict[int, _Slot] = {}
            found = 0
            for vcpu in self._vcpus.values():
                ring = vcpu.dirty_ring()
                if ring is None:
                    continue
                head = self._ring_heads.get(vcpu.index, 0)
                entries = ring
                while True:
                    # SAFETY: the ring has `config.dirty_ring` entries, and `head` is taken modulo that.
                    entry = entries[head % self.config.dirty_ring]
                    if not entry.flags & _GFN_DIRTY:
                        break
                    slots = slots or {slot.number: slot for slot in self._slots.values()}
                    slot = slots.get(entry.slot & 0xFFFF)
                    if slot is not None and slot.log_dirty:
                        slot.written.add(int(entry.offset))
                    entry.flags = _GFN_RESET
                    head, found = head + 1, found + 1
                self._ring_heads[vcpu.index] = head
            self._used = self._used or found > 0
            if self._used and reset:
                self._used = False
                call(self.kernel, self._open(), "KVM_RESET_DIRTY_RINGS")

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    def create_vcpu(self, model: Any = None) -> KvmVcpu:
        fd = self._open()
        if model is not None and not isinstance(model, X86Model):
            raise UsageError("a CPU model of another hypervisor")
        with self._lock:
            index = self._made
            if index >= self.hypervisor.max_vcpus:
                raise UsageError(f"this KVM has at most {self.hypervisor.max_vcpus} vCPUs in a VM")
            vcpu = call(self.kernel, fd, "KVM_CREATE_VCPU", index, f"vCPU {index}")
            self._made += 1
            pointer = ring = None
            size = self.hypervisor.run_bytes
            try:
                pointer = self._map_fd(vcpu, size, 0, "the vCPU's shared pages")
                if self.ring_bytes:
                    ring = self._map_fd(vcpu, self.ring_bytes, _RING_OFFSET_PAGES * PAGE, "the dirty ring")
                self._set_model(vcpu, model or self.hypervisor.model(), index)
                entries = None if ring is None else ffi.cast("struct kvm_dirty_gfn *", ring)
                made = KvmVcpu(self, index, vcpu, pointer, size, entries)
            except BaseException:
                if ring is not None:
                    self.kernel.munmap(ring, self.ring_bytes)
                if pointer is not None:
                    self.kernel.munmap(pointer, size)
                self.kernel.close(vcpu)
                raise
            self._vcpus[index] = made
            return made

    def _map_fd(self, fd: int, size: int, offset: int, what: str) -> Any:
        pointer = self.kernel.mmap(fd, size, offset)
        if int(ffi.cast("intptr_t", pointer)) == -1:
            raise failure("mmap", self.kernel.errno(), what)
        return pointer

    def _set_model(self, vcpu: int, model: X86Model, index: int) -> None:
        table = self.hypervisor.cpuid_table(model)
        table.number(index)
        call(self.kernel, vcpu, "KVM_SET_CPUID2", table.pointer)

    def forget_vcpu(self, vcpu: KvmVcpu) -> None:
        """``vcpu`` is being closed."""
        with self._lock:
            self._vcpus.pop(vcpu.index, None)

    def msr_numbers(self) -> tuple[int, ...]:
        """The MSRs that are part of a saved vCPU."""
        return self.hypervisor.msr_numbers()

    # -- interrupts and events -----------------------------------------------------------------------------------------

    def set_irq(self, line: int, level: bool) -> None:
        fd = self._open()
        if not self.config.irqchip:
            raise UsageError("this VM has no interrupt controller inside KVM", hint="VmConfig(irqchip=True)")
        call(
            self.kernel, fd, "KVM_IRQ_LINE", ffi.new("struct kvm_irq_level *", (line, int(level))), f"{line}"
        )

    def msi(self, address: int, data: int) -> bool:
        """A message-signalled interrupt; False if the guest has masked it."""
        message = ffi.new(
            "struct kvm_msi *",
            {"address_lo": address & 0xFFFF_FFFF, "address_hi": address >> 32, "data": data},
        )
        return call(self.kernel, self._open(), "KVM_SIGNAL_MSI", message) > 0

    def route(self, msis: dict[int, tuple[int, int]]) -> None:
        """Give global interrupt numbers from 24 on to messages ``(address, data)``, for ``irqfd``; 0 to 23 stay the chips' pins."""
        rows: list[tuple[int, int, Any]] = []
        for pin in range(24):
            if pin < 16:
                rows.append((pin, 1, {"irqchip": (pin >> 3, pin & 7)}))
            # The PIT's line 0 is the IO-APIC's pin 2 as in every PC (MP specification, 5.3).
            rows.append((pin, 1, {"irqchip": (2, 2 if pin == 0 else pin)}))
        for number, (address, data) in msis.items():
            rows.append((number, 2, {"msi": (address & 0xFFFF_FFFF, address >> 32, data, 0)}))
        head = ffi.sizeof("struct kvm_irq_routing")
        buffer = ffi.new("uint8_t[]", head + len(rows) * ffi.sizeof("struct kvm_irq_routing_entry"))
        ffi.cast("struct kvm_irq_routing *", buffer).nr = len(rows)
        entries = ffi.cast("struct kvm_irq_routing_entry *", buffer + head)
        for i, (number, kind, where) in enumerate(rows):
            entries[i].gsi, entries[i].type, entries[i].u = number, kind, where
        call(self.kernel, self._open(), "KVM_SET_GSI_ROUTING", ffi.cast("struct kvm_irq_routing *", buffer))

    def irqfd(self, event: int, line: int, *, resample: int = -1, remove: bool = False) -> None:
        """Each write to the eventfd ``event`` raises ``line``, without a vCPU's thread. ``resample``: an eventfd that KVM writes
        when the guest has acknowledged a level-triggered interrupt."""
        flags = (1 if remove else 0) | (2 if resample >= 0 else 0)
        request = ffi.new(
            "struct kvm_irqfd *",
            {"fd": event, "gsi": line, "flags": flags, "resamplefd": max(resample, 0)},
        )
        call(self.kernel, self._open(), "KVM_IRQFD", request, f"line {line}")

    def ioeventfd(
        self,
        event: int,
        address: int,
        size: int = 0,
        *,
        port: bool = False,
        value: int | None = None,
        remove: bool = False,
    ) -> None:
        """A guest's write of ``size`` bytes (0: any) at ``address`` writes the eventfd ``event`` and is no exit; with ``value``
        only if that is written."""
        flags = (
            (_DATA_MATCH if value is not None else 0) | (_PIO if port else 0) | (_DEASSIGN if remove else 0)
        )
        request = ffi.new(
            "struct kvm_ioeventfd *",
            {"datamatch": value or 0, "addr": address, "len": size, "fd": event, "flags": flags},
        )
        call(self.kernel, self._open(), "KVM_IOEVENTFD", request, f"{address:#x}")

    def coalesce(self, address: int, size: int, *, port: bool = False, remove: bool = False) -> None:
        """Writes in this range are collected by KVM, and come, in order, with the next exit for another reason."""
        zone = ffi.new("struct kvm_coalesced_mmio_zone *", (address, size, int(port)))
        name = "KVM_UNREGISTER_COALESCED_MMIO" if remove else "KVM_REGISTER_COALESCED_MMIO"
        call(self.kernel, self._open(), name, zone, f"{address:#x}")
        row = (address, size, port)
        if not remove:
            self.zones.append(row)
        # Zones that were removed stay in the list: writes to them may still lie in the ring.

    def coalesced(self, vcpu: KvmVcpu) -> Iterator[tuple[int, int, bool, bytes]]:
        """What lies in the ring, which all vCPUs of the VM share: address, bytes, whether it is a port, data."""
        with self._lock:
            view = vcpu.page(_COALESCED_PAGE)
            words = view.cast("I")
            first, last = words[0] % _COALESCED_MAX, words[1] % _COALESCED_MAX
            rows = []
            while first != last:
                at = 8 + 24 * first
                address = int.from_bytes(view[at : at + 8], "little")
                length, port = words[(at + 8) // 4], words[(at + 12) // 4]
                rows.append((address, min(length, 8), bool(port), bytes(view[at + 16 : at + 24])))
                first = (first + 1) % _COALESCED_MAX
            words[0] = first
        return iter(rows)

    # -- state ---------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        fd = self._open()
        clock = ffi.new("struct kvm_clock_data *")
        call(self.kernel, fd, "KVM_GET_CLOCK", clock)
        state: State = {"format": _FORMAT, "clock_ns": int(clock.clock), "irqchips": None, "pit": None}
        if self.config.irqchip:
            chips = []
            for number in range(3):
                chip = ffi.new("struct kvm_irqchip *", {"chip_id": number})
                call(self.kernel, fd, "KVM_GET_IRQCHIP", chip, f"chip {number}")
                chips.append(bytes(ffi.buffer(chip.chip)))
            state["irqchips"] = chips
        if self.config.pit:
            pit = ffi.new("struct kvm_pit_state2 *")
            call(self.kernel, fd, "KVM_GET_PIT2", pit)
            state["pit"] = bytes(ffi.buffer(pit))
        return state

    def restore(self, state: State) -> None:
        fd = self._open()
        if state.get("format") != _FORMAT:
            raise UsageError(f"not a saved VM of KVM on x86-64: {state.get('format')!r}")
        if (state["irqchips"] is not None, state["pit"] is not None) != (
            self.config.irqchip,
            self.config.pit,
        ):
            raise UsageError("the saved VM had other interrupt controllers")
        for number, data in enumerate(state["irqchips"] or ()):
            chip = ffi.new("struct kvm_irqchip *", {"chip_id": number})
            _fill(chip.chip, data)
            call(self.kernel, fd, "KVM_SET_IRQCHIP", chip, f"chip {number}")
        if state["pit"] is not None:
            pit = ffi.new("struct kvm_pit_state2 *")
            _fill(pit, state["pit"])
            call(self.kernel, fd, "KVM_SET_PIT2", pit)
        clock = ffi.new("struct kvm_clock_data *", {"clock": state["clock_ns"]})
        call(self.kernel, fd, "KVM_SET_CLOCK", clock)

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._fd < 0:
            return
        with self._lock:
            for vcpu in list(self._vcpus.values()):
                vcpu.close()
            fd, self._fd = self._fd, -1
            self.kernel.close(fd)
            # Only now: the guest can no longer reach it.
            for slot in self._slots.values():
                slot.memory.release()
            self._slots.clear()
        self.hypervisor.forget_vm(self)


def _fill(where: Any, data: bytes) -> None:
    buffer = ffi.buffer(where)
    if len(data) != len(buffer):
        raise UsageError(f"a saved part has {len(data)} bytes, not {len(buffer)}")
    buffer[:] = data
