"""KVM on arm64 and riscv64 hosts, where every register has a number of its own (KVM_GET_ONE_REG).

Checked by layout: structures and numbers against the kernel's headers, the order of calls against a kernel made up by the tests.
What is not here: debugging, and on riscv64 the vector registers.
"""

from __future__ import annotations

import enum
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from vm_accel import arm64_text
from vm_accel.arm64_registers import encoding_of
from vm_accel.arm64_walk import translate
from vm_accel.closing import Closing
from vm_accel.completion import Fault, VcpuGuest
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.exits import (
    Exit,
    FailEntry,
    Hypercall,
    HypercallAbi,
    Interrupted,
    Mmio,
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
    Unknown,
)
from vm_accel.interface import Bus, Feature, Memory, State, VmConfig
from vm_accel.kvm import abi, arm64, kick, riscv64
from vm_accel.kvm.host import KVM_API_VERSION
from vm_accel.kvm.kernel import Kernel, failure, unavailable
from vm_accel.memory import PAGE, placed
from vm_accel.pending import ONES, Ending, Pending
from vm_core.engine import Availability
from vm_core.errors import UsageError

__all__ = ["HOSTS", "Host", "KvmOneReg", "OneRegVcpu", "OneRegVm"]

_LOG_DIRTY, _READ_ONLY = 1, 2
_EINTR: Final = 4
_EVENTS: Final = {
    1: ShutdownKind.OFF,
    2: ShutdownKind.RESET,
    3: ShutdownKind.CRASH,
    5: ShutdownKind.SUSPEND,
}


class Reason(enum.IntEnum):
    """KVM_EXIT_*, those that these hosts have; the tests compare them with :data:`vm_accel.kvm.abi.EXITS`."""

    MMIO = 6
    FAIL_ENTRY = 9
    INTR = 10
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    ARM_NISV = 28
    RISCV_SBI = 35
    RISCV_CSR = 36


class Host(NamedTuple):
    """What differs between the two: structures, ioctls, and the numbers of registers by the interface's names."""

    isa: str
    structures: str
    calls: dict[str, abi.Call]
    registers: dict[str, int]


def _riscv_names() -> dict[str, int]:
    """``x1`` to ``x31`` beside the names of the calling convention."""
    abi_names = (
        *("ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
        *(f"a{i}" for i in range(8)),
        *(f"s{i}" for i in range(2, 12)),
        *("t3", "t4", "t5", "t6"),
    )
    known = riscv64.REGISTERS
    return {**known, **{f"x{i}": known[name] for i, name in enumerate(abi_names, 1)}}


HOSTS: Final = {
    "aarch64": Host("aarch64", arm64.STRUCTURES, arm64.CALLS, arm64.REGISTERS),
    "riscv64": Host("riscv64", riscv64.STRUCTURES, riscv64.CALLS, _riscv_names()),
}
# Where the interrupt controllers are in guest-physical memory, as QEMU's "virt" machines have them.
GIC_DISTRIBUTOR, GIC_REDISTRIBUTORS = 0x0800_0000, 0x080A_0000
APLIC, IMSIC = 0x0D00_0000, 0x2800_0000
_FIRST_SPI: Final = 32


class KvmOneReg(Closing):
    """See :class:`vm_accel.interface.Hypervisor`. ``kernel`` and ``machine`` are for tests."""

    name = "kvm"

    def __init__(
        self, device: str = "/dev/kvm", *, kernel: Kernel | None = None, machine: str | None = None
    ) -> None:
        self.fd = -1
        host = HOSTS.get(machine or platform.machine())
        if host is None:
            raise AcceleratorUnavailable(f"KVM on {machine or platform.machine()} hosts is not driven")
        self.host, self.isa = host, host.isa
        self.ffi = abi.foreign(host.structures)
        self.requests = abi.numbers(self.ffi, abi.CALLS | host.calls)
        self.kernel = kernel or Kernel()
        kick.install()
        self._vms: list[OneRegVm] = []
        self.fd = self.kernel.open(device)
        if self.fd < 0:
            raise unavailable(device, self.kernel.errno())
        try:
            version = self.call(self.fd, "KVM_GET_API_VERSION")
            if version != KVM_API_VERSION:
                raise AcceleratorUnavailable(f"{device} speaks API version {version}, not {KVM_API_VERSION}")
            self.run_bytes = self.call(self.fd, "KVM_GET_VCPU_MMAP_SIZE")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def probe() -> Availability:
        try:
            KvmOneReg().close()
        except (AcceleratorUnavailable, HypervisorError) as error:
            return Availability(False, str(error), error.hint)
        return Availability(True)

    def call(self, fd: int, name: str, argument: Any = 0) -> int:
        """An ioctl. ``argument`` is a number or a structure of :attr:`ffi`. Raises HypervisorError."""
        value = self.ffi.cast("void *", argument) if isinstance(argument, int) else argument
        while True:
            # SAFETY: a live structure of the size that the request's number says, or a plain number.
            result: int = self.kernel.ioctl(fd, self.requests[name], value)
            if result >= 0:
                return result
            if (number := self.kernel.errno()) != _EINTR:
                raise failure(name, number)

    @property
    def features(self) -> frozenset[Feature]:
        found = {
            *(Feature.MMIO, Feature.KICK, Feature.DIRTY_LOG, Feature.SAVE, Feature.SYSTEM_REGISTERS),
            *(Feature.VECTOR_REGISTERS, Feature.IRQCHIP, Feature.SMP, Feature.MANY_VMS, Feature.LONG_MODE),
        }
        if self.call(self.fd, "KVM_CHECK_EXTENSION", abi.Capability.READONLY_MEM):
            found.add(Feature.READ_ONLY)
        if self.isa == "riscv64":
            found.add(Feature.HYPERCALL)
        return frozenset(found)

    def create_vm(self, config: VmConfig = VmConfig()) -> OneRegVm:  # noqa: B008  frozen
        for wanted, what in ((config.pit, "a PIT"), (config.msr_exits, "MSR exits")):
            if wanted:
                raise AcceleratorUnavailable(f"{what} belongs to x86 machines")
        if config.dirty_ring:
            raise AcceleratorUnavailable(f"no dirty ring is driven on {self.isa}")
        most = self.call(self.fd, "KVM_CHECK_EXTENSION", abi.Capability.MAX_VCPUS)
        config.check_cpus(most or 1, "this KVM")
        made = OneRegVm(self, config)
        self._vms.append(made)
        return made

    def model(self) -> None:
        """The host's CPU: nothing can be taken away through this interface."""

    def close(self) -> None:
        for made in self._vms:
            made.close()
        self._vms.clear()
        if self.fd >= 0:
            self.kernel.close(self.fd)
            self.fd = -1


class _Slot(NamedTuple):
    number: int
    guest: int
    size: int
    memory: Memory
    address: int
    flags: int


class OneRegVm(Closing):
    """See :class:`vm_accel.interface.Vm`."""

    def __init__(self, hypervisor: KvmOneReg, config: VmConfig) -> None:
        self.hypervisor, self.config = hypervisor, config
        self.ffi, self.kernel = hypervisor.ffi, hypervisor.kernel
        self.fd = hypervisor.call(hypervisor.fd, "KVM_CREATE_VM", config.address_bits)
        self.vcpus: list[OneRegVcpu] = []
        self._slots: dict[int, _Slot] = {}
        self._chip = -1
        self._ready = False
        try:
            if hypervisor.isa == "aarch64":
                capability = self.ffi.new("struct kvm_enable_cap *")
                capability.cap = arm64.KVM_CAP_ARM_NISV_TO_USER
                self.call("KVM_ENABLE_CAP", capability)
            if config.irqchip:
                self._create_chip()
        except BaseException:
            self.close()
            raise

    def call(self, name: str, argument: Any = 0) -> int:
        if self.fd < 0:
            raise HypervisorError("the VM is closed")
        return self.hypervisor.call(self.fd, name, argument)

    def _create_chip(self) -> None:
        made = self.ffi.new("struct kvm_create_device *")
        made.type = (
            arm64.KVM_DEV_TYPE_ARM_VGIC_V3
            if self.hypervisor.isa == "aarch64"
            else riscv64.KVM_DEV_TYPE_RISCV_AIA
        )
        self.call("KVM_CREATE_DEVICE", made)
        self._chip = int(made.fd)

    def _attribute(self, group: int, attribute: int, value: int | None = None) -> None:
        word = self.ffi.new("uint64_t *", value or 0)
        request = self.ffi.new("struct kvm_device_attr *")
        request.group, request.attr = group, attribute
        request.addr = 0 if value is None else int(self.ffi.cast("uintptr_t", word))
        # SAFETY: the kernel reads 8 bytes at most of `word`, which lives until the call has returned.
        self.hypervisor.call(self._chip, "KVM_SET_DEVICE_ATTR", request)

    def start(self) -> None:
        """Before the first run, when all vCPUs are there: the interrupt controller takes its place."""
        if self._ready or self._chip < 0:
            return
        if self.hypervisor.isa == "aarch64":
            self._attribute(arm64.VgicGroup.ADDR, arm64.VgicAddress.V3_DIST, GIC_DISTRIBUTOR)
            self._attribute(arm64.VgicGroup.ADDR, arm64.VgicAddress.V3_REDIST, GIC_REDISTRIBUTORS)
            self._attribute(arm64.VgicGroup.CTRL, arm64.KVM_DEV_ARM_VGIC_CTRL_INIT)
        else:
            place = riscv64.AiaGroup.ADDR
            self._attribute(place, riscv64.AiaAddress.APLIC, APLIC)
            for vcpu in self.vcpus:
                self._attribute(place, riscv64.AiaAddress.IMSIC0 + vcpu.index, IMSIC + vcpu.index * 0x1000)
            self._attribute(riscv64.AiaGroup.CTRL, riscv64.AIA_CTRL_INIT)
        self._ready = True

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
        taken = [(slot.guest, slot.guest + slot.size) for slot in self._slots.values()]
        size = placed(guest, memory, offset, size, taken)
        used = {slot.number for slot in self._slots.values()}
        number = next(i for i in range(len(used) + 1) if i not in used)
        flags = (_LOG_DIRTY if log_dirty else 0) | (0 if writable else _READ_ONLY)
        slot = _Slot(number, guest, size, memory, memory.address + offset, flags)
        self._region(slot, size)
        memory.hold()
        self._slots[guest] = slot

    def _region(self, slot: _Slot, size: int) -> None:
        fields = (slot.number, slot.flags, slot.guest, size, slot.address)
        # SAFETY: the host's range lies inside memory that is held as long as the slot is there.
        self.call("KVM_SET_USER_MEMORY_REGION", self.ffi.new("struct kvm_userspace_memory_region *", fields))

    def unmap(self, guest: int) -> None:
        slot = self._slots.get(guest)
        if slot is None:
            raise UsageError(f"nothing is mapped at {guest:#x}")
        self._region(slot, 0)
        del self._slots[guest]
        slot.memory.release()

    def dirty(self, guest: int) -> list[int]:
        slot = self._slots.get(guest)
        if slot is None or not slot.flags & _LOG_DIRTY:
            raise UsageError(f"nothing is mapped with log_dirty at {guest:#x}")
        words = -(-slot.size // PAGE // 64)
        bitmap = self.ffi.new("uint64_t[]", words)
        log = self.ffi.new("struct kvm_dirty_log *", {"slot": slot.number})
        log.dirty_bitmap = bitmap
        # SAFETY: one bit a page in whole words.
        self.call("KVM_GET_DIRTY_LOG", log)
        return [
            guest + (64 * at + bit) * PAGE
            for at in range(words)
            for bit in range(64)
            if bitmap[at] >> bit & 1
        ]

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        """The host's view of guest-physical bytes, if they are memory that the guest may access so."""
        for slot in list(self._slots.values()):  # others may map meanwhile
            at = address - slot.guest
            if 0 <= at and at + size <= slot.size and not (is_write and slot.flags & _READ_ONLY):
                # SAFETY: inside the mapping, which is held.
                return memoryview(self.ffi.buffer(self.ffi.cast("char *", slot.address + at), size))
        return None

    def create_vcpu(self, model: Any = None) -> OneRegVcpu:
        if model is not None:
            raise UsageError(f"KVM on {self.hypervisor.isa} has no CPU models here")
        made = OneRegVcpu(self, len(self.vcpus))
        self.vcpus.append(made)
        return made

    def set_irq(self, line: int, level: bool) -> None:
        """arm64: ``line`` counts shared interrupts from 0."""
        number = arm64.irq_line(1, _FIRST_SPI + line) if self.hypervisor.isa == "aarch64" else line
        self.call("KVM_IRQ_LINE", self.ffi.new("struct kvm_irq_level *", (number, level)))

    def save(self) -> State:
        raise UsageError(f"the interrupt controller of KVM on {self.hypervisor.isa} is not saved")

    def restore(self, state: State) -> None:
        raise UsageError(f"the interrupt controller of KVM on {self.hypervisor.isa} is not saved")

    def close(self) -> None:
        if self.fd < 0:
            return
        for made in self.vcpus:
            made.close()
        self.vcpus.clear()
        if self._chip >= 0:
            self.kernel.close(self._chip)
        self.kernel.close(self.fd)
        self.fd = -1
        for slot in self._slots.values():
            slot.memory.release()
        self._slots.clear()


class OneRegVcpu(Closing):
    """See :class:`vm_accel.interface.Vcpu`."""

    def __init__(self, vm: OneRegVm, index: int) -> None:
        self.vm, self.index, self.ffi = vm, index, vm.ffi
        self.host, self.kernel = vm.hypervisor.host, vm.kernel
        self.fd = vm.call("KVM_CREATE_VCPU", index)
        self._thread = 0
        self._kicked = False
        self._pending = Pending()
        self._unfinished = False
        """Whether KVM has still to finish an access that needs nothing more from us: its registers and the pc come with that."""
        self._mapping: Any = None
        try:
            mapping = self.kernel.mmap(self.fd, vm.hypervisor.run_bytes, 0)
            if int(self.ffi.cast("intptr_t", mapping)) == -1:
                raise failure("mmap", self.kernel.errno())
            self._mapping = mapping
            # SAFETY: the kernel gives at least a kvm_run there, as long as it is mapped: until close().
            self._run = self.ffi.cast("struct kvm_run *", mapping)
            if self.host.isa == "aarch64":
                self._initialise()
        except BaseException:
            self.close()
            raise

    def _initialise(self) -> None:
        """KVM_ARM_VCPU_INIT with the host's own CPU, and power calls answered by the kernel."""
        target = self.ffi.new("struct kvm_vcpu_init *")
        self.vm.call("KVM_ARM_PREFERRED_TARGET", target)
        target.features[0] |= 1 << arm64.Feature.PSCI_0_2
        self.call("KVM_ARM_VCPU_INIT", target)

    def call(self, name: str, argument: Any = 0) -> int:
        if self.fd < 0:
            raise HypervisorError("the vCPU is closed")
        return self.vm.hypervisor.call(self.fd, name, argument)

    # -- registers ------------------------------------------------------------------------------------------------------

    def _number(self, name: str) -> int:
        """The one-reg number of a name. Raises KeyError."""
        if name == "sp" and self.host.isa == "aarch64":
            state = self["pstate"]
            name = "sp_el1" if state & 1 and state >> 2 & 3 else "sp_el0"
        if name in self.host.registers:
            return self.host.registers[name]
        if self.host.isa == "aarch64":
            return arm64.system_register(*encoding_of(name))
        raise KeyError(name)

    def _one(self, name: str, number: int, data: Any) -> None:
        request = self.ffi.new("struct kvm_one_reg *")
        request.id, request.addr = number, int(self.ffi.cast("uintptr_t", data))
        # SAFETY: `data` has the bytes that the number says, and lives until the call has returned.
        self.call(name, request)

    def read(self, number: int) -> int:
        """A register by its one-reg number."""
        data = self.ffi.new("uint8_t[]", arm64.register_size(number))
        self._one("KVM_GET_ONE_REG", number, data)
        return int.from_bytes(self.ffi.buffer(data), "little")

    def write(self, number: int, value: int) -> None:
        """Change a register by its one-reg number. Raises ValueError for a value that is too wide."""
        size = arm64.register_size(number)
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"the register {number:#x} has {8 * size} bits, and {value:#x} does not fit")
        self._one("KVM_SET_ONE_REG", number, self.ffi.new("uint8_t[]", list(value.to_bytes(size, "little"))))

    def __getitem__(self, name: str) -> int:
        if self._unfinished:
            self._complete_in_kernel()
        if name == "x0" and self.host.isa == "riscv64":
            return 0
        return self.read(self._number(name))

    def __setitem__(self, name: str, value: int) -> None:
        self.set_registers({name: value})

    def put(self, name: str, value: int) -> None:
        """As part of an instruction that is finished here."""
        self.write(self._number(name), value)

    def registers(self, names: Iterable[str] | None = None) -> dict[str, int]:
        return {name: self[name] for name in (self.host.registers if names is None else names)}

    def set_registers(self, values: Mapping[str, int]) -> None:
        for name, value in values.items():
            bits = 8 * arm64.register_size(self._number(name))
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} has {bits} bits, and {value:#x} does not fit")
        unfinished = self._unfinished or ("pc" in values and bool(self._pending))
        self._pending.registers_change(pc="pc" in values)
        if unfinished:
            self._complete_in_kernel()
        for name in sorted(values, key=lambda name: name != "pstate"):
            self.put(name, values[name])

    def translate(self, address: int, *, is_write: bool) -> int:
        """Guest-virtual to guest-physical on arm64. Raises completion.Fault."""

        def read(at: int) -> int | None:
            found = self.vm.ram(at, 8, is_write=False)
            return None if found is None else int.from_bytes(found, "little")

        return translate(
            address,
            is_write=is_write,
            control=self["sctlr_el1"],
            tcr=self["tcr_el1"],
            ttbr0=self["ttbr0_el1"],
            ttbr1=self["ttbr1_el1"],
            read=read,
        )

    # -- running --------------------------------------------------------------------------------------------------------

    def run(self, bus: Bus | None = None) -> Exit:
        pending = self._pending
        pending.settle()
        self.vm.start()
        run, request = self._run, self.vm.hypervisor.requests["KVM_RUN"]
        if self.fd < 0:
            raise HypervisorError("the vCPU is closed")
        null = self.ffi.NULL
        while True:
            if pending.queue:
                return pending.queue.popleft()
            self._thread, self._unfinished = getattr(kick.here, "number", 0) or kick.enter(), False
            # SAFETY: KVM_RUN takes no argument; the mapping of kvm_run lives until close().
            result = self.kernel.ioctl(self.fd, request, null)
            error = self.kernel.errno() if result < 0 else 0
            self._thread = 0
            if error == _EINTR or (not error and run.exit_reason == Reason.INTR):
                if self._kicked:
                    self._kicked, run.immediate_exit = False, 0
                    return Interrupted()
                continue
            if error:
                raise failure("KVM_RUN", error)
            found = self._exit(bus)
            if found is not None:
                return found

    def _complete_in_kernel(self) -> None:
        """KVM finishes an access when it is run again, which it does first even if it must not enter the guest."""
        self._unfinished = False
        self._run.immediate_exit = 1
        self.kernel.ioctl(self.fd, self.vm.hypervisor.requests["KVM_RUN"], self.ffi.NULL)
        self._run.immediate_exit = int(self._kicked)

    def kick(self) -> None:
        if self.fd < 0:
            raise HypervisorError("the vCPU is closed")
        self._kicked = True
        self._run.immediate_exit = 1
        if thread := self._thread:
            kick.send(thread)

    def complete(self, value: int | bytes = 0, *, fault: bool = False) -> None:
        self._pending.complete(value, fault=fault)

    def _raw(self) -> bytes:
        return bytes(self.ffi.buffer(self._run, self.ffi.sizeof("struct kvm_run")))[32:288]

    def _exit(self, bus: Bus | None) -> Exit | None:
        run = self._run
        match run.exit_reason:
            case Reason.MMIO:
                return self._mmio(bus)
            case Reason.SYSTEM_EVENT:
                event = run.system_event
                if event.type in _EVENTS:
                    return Shutdown(_EVENTS[event.type], int(event.data[0]) if event.ndata else 0)
            case Reason.FAIL_ENTRY:
                code = int(run.fail_entry.hardware_entry_failure_reason)
                return FailEntry(code, "the processor refuses the guest's state", self._raw())
            case Reason.INTERNAL_ERROR:
                return FailEntry(int(run.internal.suberror), "KVM internal error", self._raw())
            case Reason.ARM_NISV:
                return self._undecoded(bus)
            case Reason.RISCV_SBI:
                return self._sbi()
            case Reason.RISCV_CSR:
                return self._csr()
        return Unknown(int(run.exit_reason), self._raw())

    def _mmio(self, bus: Bus | None) -> Exit | None:
        access = self._run.mmio
        address, size = int(access.phys_addr), min(int(access.len), 8)
        if access.is_write:
            value = int.from_bytes(bytes(self.ffi.buffer(access.data))[:size], "little")
            if bus is None:
                self._unfinished = True
                return Mmio(address, size, True, value)
            bus.write(address, size, value)
            return None

        def answer(value: int | bytes, _fault: bool) -> None:
            self._unfinished = True
            number = value if isinstance(value, int) else int.from_bytes(value, "little")
            self.ffi.buffer(access.data)[:] = (number & (1 << 8 * size) - 1).to_bytes(8, "little")

        if bus is not None:
            answer(ONES, False)
            answer(bus.read(address, size), False)
            return None
        self._pending.expect(answer, size=size)
        return Mmio(address, size, False)

    def _undecoded(self, bus: Bus | None) -> Exit | None:
        """A load or store without a valid syndrome: ours to do, the pc included (api.rst, KVM_EXIT_ARM_NISV)."""
        raw, pc = self._raw(), self["pc"]

        def undecided() -> Exit:
            return Unknown(int(Reason.ARM_NISV), raw)

        def fault(found: Fault) -> None:
            raise HypervisorError(f"the guest's tables changed under an access: {found}")

        try:
            code = self.vm.ram(self.translate(pc, is_write=False), 4, is_write=False)
        except Fault:
            code = None
        if code is None:
            return undecided()
        steps, commit = arm64_text.prepare(bytes(code), self, VcpuGuest(self))
        return self._pending.drive(steps, Ending(commit, fault, undecided), bus)

    def _answered(self, give: Callable[[int], None]) -> None:
        def answer(value: int | bytes, _fault: bool) -> None:
            self._unfinished = True
            give((value if isinstance(value, int) else int.from_bytes(value, "little")) & ONES)

        self._pending.expect(answer)

    def _sbi(self) -> Exit:
        call = self._run.riscv_sbi
        # Not supported (SBI specification, 3.1), unless somebody answers.
        call.ret[0], call.ret[1] = (1 << 64) - 2, 0

        def give(value: int) -> None:
            if value != ONES:
                call.ret[0], call.ret[1] = 0, value

        self._answered(give)
        number = int(call.extension_id) << 32 | int(call.function_id)
        return Hypercall(HypercallAbi.SBI, number, tuple(int(one) for one in call.args))

    def _csr(self) -> Exit:
        access = self._run.riscv_csr
        mask = int(access.write_mask)

        def give(value: int) -> None:
            access.ret_value = value

        self._answered(give)
        return SysReg(
            SysRegSpace.CSR,
            int(access.csr_num),
            bool(mask),
            int(access.new_value) & mask,
            mask or ~0,
        )

    # -- the rest -------------------------------------------------------------------------------------------------------

    def debug(
        self,
        *,
        step: bool = False,
        breakpoints: Iterable[int] = (),
        watchpoints: Iterable[tuple[int, int, bool]] = (),
        trap_break: bool = False,
    ) -> None:
        if step or trap_break or any(True for _ in breakpoints) or any(True for _ in watchpoints):
            raise UsageError(f"debugging of guests is not driven on {self.host.isa}")

    def interrupt(self, vector: int) -> None:
        """riscv64: the external interrupt of the supervisor is pending from now on, whatever the number."""
        if self.host.isa != "riscv64" or self.vm.config.irqchip:
            raise UsageError("interrupts go through the interrupt controller: VmConfig.irqchip, Vm.set_irq")
        self.call("KVM_INTERRUPT", self.ffi.new("struct kvm_interrupt *", {"irq": (1 << 32) - 1}))

    def request_irq_window(self) -> None:
        raise UsageError(f"KVM on {self.host.isa} tells nobody when a guest unmasks interrupts")

    def _numbers(self) -> list[int]:
        """All registers that KVM says are a vCPU's state."""
        count = 1024
        while True:
            words = self.ffi.new("uint64_t[]", 1 + count)
            words[0] = count
            try:
                self.call("KVM_GET_REG_LIST", self.ffi.cast("struct kvm_reg_list *", words))
            except HypervisorError:
                if words[0] > count and count < 1 << 16:
                    count = int(words[0])
                    continue
                raise
            return [int(words[1 + at]) for at in range(words[0])]

    def save(self) -> State:
        if self._pending or self._unfinished:
            self._pending.drop()
            self._complete_in_kernel()
        state = self.ffi.new("struct kvm_mp_state *")
        self.call("KVM_GET_MP_STATE", state)
        return {
            "format": f"kvm-{self.host.isa}-vcpu/1",
            "registers": {f"{number:#x}": self.read(number) for number in self._numbers()},
            "mp_state": int(state.mp_state),
        }

    def restore(self, state: State) -> None:
        if state.get("format") != f"kvm-{self.host.isa}-vcpu/1":
            raise UsageError(f"not a saved vCPU of KVM on {self.host.isa}: {state.get('format')!r}")
        self._pending.clear()
        for number, value in state["registers"].items():
            self.write(int(number, 16), value)
        self.call("KVM_SET_MP_STATE", self.ffi.new("struct kvm_mp_state *", {"mp_state": state["mp_state"]}))

    def close(self) -> None:
        if self.fd < 0:
            return
        if self._mapping is not None:
            self.kernel.munmap(self._mapping, self.vm.hypervisor.run_bytes)
            self._mapping = None
        self.kernel.close(self.fd)
        self.fd = -1
