"""/dev/kvm, opened and asked what it can do."""

from __future__ import annotations

import errno
import platform
import weakref
from functools import cached_property
from typing import Final

from vm_accel.closing import SelfClosing
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.interface import Feature, VmConfig
from vm_accel.kvm import kick
from vm_accel.kvm.abi import Capability
from vm_accel.kvm.host import KVM_API_VERSION, NO_KVM, flavour
from vm_accel.kvm.kernel import Kernel, call, ffi, unavailable
from vm_accel.kvm.vm import KvmVm
from vm_accel.memory import PAGE
from vm_accel.x86 import Leaf, X86Model
from vm_core.engine import Availability

__all__ = ["Kvm"]

_NEEDED: Final = {
    Capability.SYNC_REGS: "registers in the shared page",
    Capability.IMMEDIATE_EXIT: "immediate_exit",
    Capability.XSAVE: "the XSAVE area",
    Capability.SET_GUEST_DEBUG: "guest debugging",
}
_ALWAYS: Final = frozenset(Feature) - {
    Feature.TIMER,
    Feature.HYPERCALL,
    Feature.READ_ONLY,
    Feature.MSR_EXITS,
    Feature.IRQCHIP,
    Feature.KERNEL_MODE,
}
_HARDWARE: Final = frozenset(
    {Feature.KERNEL_MODE, Feature.RING3_DEBUG, Feature.WATCHPOINTS, Feature.TRAP_BREAK}
)
"""What the paravirtual flavour lacks: debug exceptions of ring 3 go to the guest, and its emulator knows no data breakpoints."""


class _CpuidTable:
    """A model as KVM takes it. Made once; only the number of the CPU changes in it from vCPU to vCPU."""

    def __init__(self, model: X86Model) -> None:
        self.model = model
        leaves = model.leaves
        head = ffi.sizeof("struct kvm_cpuid2")
        self._buffer = ffi.new("uint8_t[]", head + len(leaves) * ffi.sizeof("struct kvm_cpuid_entry2"))
        self.pointer = ffi.cast("struct kvm_cpuid2 *", self._buffer)
        self.pointer.nent = len(leaves)
        self._entries = ffi.cast("struct kvm_cpuid_entry2 *", self._buffer + head)
        for i, leaf in enumerate(leaves):
            self._entries[i] = (*leaf, [0, 0, 0])
        self._initial = [i for i, leaf in enumerate(leaves) if leaf.function == 1]
        self._x2apic = [i for i, leaf in enumerate(leaves) if leaf.function in (0xB, 0x1F)]

    def number(self, index: int) -> None:
        """As :meth:`X86Model.for_cpu`."""
        for i in self._initial:
            entry = self._entries[i]
            entry.ebx = entry.ebx & 0x00FF_FFFF | (index & 0xFF) << 24
        for i in self._x2apic:
            self._entries[i].edx = index


class Kvm(SelfClosing):
    """See :class:`vm_accel.interface.Hypervisor`. ``kernel`` is for tests, which let its calls fail."""

    name = "kvm"
    isa = "x86_64"

    def __init__(self, device: str = "/dev/kvm", *, kernel: Kernel | None = None) -> None:
        self.fd = -1
        self._capabilities: dict[int, int] = {}
        self._model: X86Model | None = None
        self._msrs: tuple[int, ...] | None = None
        self._table: _CpuidTable | None = None
        self._vms: weakref.WeakSet[KvmVm] = weakref.WeakSet()
        if platform.machine() != "x86_64":
            raise AcceleratorUnavailable(f"KVM on {platform.machine()} hosts is not driven yet")
        self.kernel = kernel or Kernel()
        kick.install()
        self.fd = self.kernel.open(device)
        if self.fd < 0:
            raise unavailable(device, self.kernel.errno())
        try:
            self._ask(device)
        except BaseException:
            self.close()
            raise

    def _ask(self, device: str) -> None:
        try:
            version = call(self.kernel, self.fd, "KVM_GET_API_VERSION")
        except HypervisorError as error:
            if error.status == errno.ENOTTY:
                raise AcceleratorUnavailable(f"{device} is no KVM", hint=NO_KVM) from error
            raise
        if version != KVM_API_VERSION:
            raise AcceleratorUnavailable(
                f"{device} speaks API version {version}, not {KVM_API_VERSION}",
                hint="use Linux 4.17 or newer",
            )
        lacks = [text for capability, text in _NEEDED.items() if not self.has(capability)]
        if lacks:
            raise AcceleratorUnavailable(f"{device} lacks {', '.join(lacks)}", hint="use Linux 4.17 or newer")
        self.run_bytes = call(self.kernel, self.fd, "KVM_GET_VCPU_MMAP_SIZE")
        """Of a vCPU's shared pages: kvm_run, the data of port I/O, the ring of coalesced writes."""
        if self.run_bytes < 3 * PAGE or self.run_bytes % PAGE:
            raise HypervisorError(
                f"{device} gives {self.run_bytes} bytes for a vCPU's shared pages, not at least {3 * PAGE}",
                call="KVM_GET_VCPU_MMAP_SIZE",
            )
        self.xsave_bytes = self.has(Capability.XSAVE2) or 4096
        if not 4096 <= self.xsave_bytes <= 1 << 20 or self.xsave_bytes % 4:
            raise HypervisorError(
                f"{device} says that the XSAVE area has {self.xsave_bytes} bytes", call="KVM_CHECK_EXTENSION"
            )
        self.max_vcpus = self.has(Capability.MAX_VCPUS) or 1
        self.flavour = flavour().name

    @staticmethod
    def probe() -> Availability:
        """Whether it can be used: it is opened, and a VM is made."""
        try:
            with Kvm() as kvm, kvm.create_vm():
                return Availability(True, f"{kvm.flavour}")
        except (AcceleratorUnavailable, HypervisorError) as error:
            return Availability(False, str(error), error.hint)

    def has(self, capability: int) -> int:
        """What KVM_CHECK_EXTENSION says: 0 for no, else yes or a number."""
        found = self._capabilities.get(capability)
        if found is None:
            found = call(
                self.kernel, self._open(), "KVM_CHECK_EXTENSION", capability, f"capability {capability}"
            )
            self._capabilities[capability] = found
        return found

    @property
    def features(self) -> frozenset[Feature]:
        optional = {
            Feature.READ_ONLY: Capability.READONLY_MEM,
            Feature.MSR_EXITS: Capability.X86_USER_SPACE_MSR,
            Feature.IRQCHIP: Capability.IRQCHIP,
        }
        found = {feature for feature, capability in optional.items() if self.has(capability)}
        return (_ALWAYS | found) - _HARDWARE if self.flavour == "pvm" else _ALWAYS | found | _HARDWARE

    def create_vm(self, config: VmConfig = VmConfig()) -> KvmVm:  # noqa: B008 - it is frozen
        self._open()
        vm = KvmVm(self, config)
        self._vms.add(vm)
        return vm

    def forget_vm(self, vm: KvmVm) -> None:
        """``vm`` is being closed."""
        self._vms.discard(vm)

    def model(self) -> X86Model:
        if self._model is None:
            self._model = X86Model(tuple(self._supported()))
        return self._model

    @cached_property
    def has_avx(self) -> bool:
        return self.model().has("avx")

    def cpuid_table(self, model: X86Model) -> _CpuidTable:
        """The model as a structure of KVM; valid until the next call."""
        if self._table is None or self._table.model is not model:
            self._table = _CpuidTable(model)
        return self._table

    def _supported(self) -> list[Leaf]:
        head, each = ffi.sizeof("struct kvm_cpuid2"), ffi.sizeof("struct kvm_cpuid_entry2")
        count = 128
        while True:
            buffer = ffi.new("uint8_t[]", head + count * each)
            table = ffi.cast("struct kvm_cpuid2 *", buffer)
            table.nent = count
            try:
                call(self.kernel, self._open(), "KVM_GET_SUPPORTED_CPUID", table)
            except HypervisorError as error:
                if error.status == errno.E2BIG and count < 4096:
                    count *= 2
                    continue
                raise
            if not 0 < table.nent <= count:
                raise HypervisorError(
                    f"KVM_GET_SUPPORTED_CPUID gave {table.nent} leaves", call="KVM_GET_SUPPORTED_CPUID"
                )
            rows = ffi.cast("struct kvm_cpuid_entry2 *", buffer + head)
            return [
                Leaf(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx)
                for e in (rows[i] for i in range(table.nent))
            ]

    def msr_numbers(self) -> tuple[int, ...]:
        """The MSRs that KVM says are a vCPU's state."""
        if self._msrs is None:
            count = 512
            while True:
                words = ffi.new("uint32_t[]", 1 + count)
                words[0] = count
                try:
                    call(
                        self.kernel,
                        self._open(),
                        "KVM_GET_MSR_INDEX_LIST",
                        ffi.cast("struct kvm_msr_list *", words),
                    )
                except HypervisorError as error:
                    if error.status == errno.E2BIG and count < 8192:
                        count *= 2
                        continue
                    raise
                if words[0] > count:
                    raise HypervisorError(
                        f"KVM_GET_MSR_INDEX_LIST gave {words[0]} MSRs", call="KVM_GET_MSR_INDEX_LIST"
                    )
                self._msrs = tuple(words[1 + i] for i in range(words[0]))
                break
        return self._msrs

    def _open(self) -> int:
        if self.fd < 0:
            raise HypervisorError("the hypervisor is closed")
        return self.fd

    def close(self) -> None:
        if self.fd < 0:
            return
        for vm in list(self._vms):
            vm.close()
        fd, self.fd = self.fd, -1
        self.kernel.close(fd)
