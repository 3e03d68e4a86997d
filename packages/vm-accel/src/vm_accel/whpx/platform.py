"""Windows Hypervisor Platform: the library, partitions and their memory.

learn.microsoft.com/virtualization/api/hypervisor-platform; the declarations are in :mod:`vm_accel.whpx.abi`. Partitions of one
process cannot share host memory, and Windows counts them per process: whoever wants many uses processes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from vm_accel import foreign
from vm_accel.closing import Closing
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.interface import Feature as Can
from vm_accel.interface import Memory, State, VmConfig
from vm_accel.memory import placed
from vm_accel.whpx import abi
from vm_core.engine import Availability
from vm_core.errors import UsageError

if TYPE_CHECKING:
    from vm_accel.whpx.vcpu import WhpxVcpu

__all__ = ["Library", "Whpx", "WhpxVm", "library"]

PAGE: Final = 4096
_ENABLE: Final = (
    "in an administrator's PowerShell: Enable-WindowsOptionalFeature -Online -FeatureName HypervisorPlatform;"
    " then restart"
)
MODEL_FORMAT: Final = "whpx-model/1"


class Library(foreign.Library):
    """WinHvPlatform.dll, or what VM_WHPX_LIBRARY names in its place."""

    lacking = "use Windows 10 version 1903 or newer"

    def __init__(self, path: str) -> None:
        # SAFETY: every function that is called is declared in abi.FUNCTIONS, which the tests compare with the headers.
        super().__init__(path, abi.ffi())

    def check(self, name: str, status: int) -> None:
        """Raises HypervisorError for an HRESULT that is a failure."""
        check(name, status)

    def capability(self, code: abi.CapabilityCode) -> int:
        """A capability that is a number of up to 8 bytes."""
        value, written = self.ffi.new("uint64_t *"), self.ffi.new("uint32_t *")
        # SAFETY: both live until the call has returned, and have the sizes that it is told.
        self.call("WHvGetCapability", code, value, 8, written)
        return int(value[0]) & (1 << 8 * min(int(written[0]), 8)) - 1


_MOST_VCPUS: Final = 2048
"""Hyper-V's limit. Windows may allow fewer, and says so when the partition is made."""


def check(name: str, status: int) -> None:
    """Raise HypervisorError if an HRESULT is a failure."""
    if status >= 0:
        return
    code = status & 0xFFFF_FFFF
    try:
        text = abi.Status(code).name.lower().replace("_", " ")
    except ValueError:
        text = "failed"
    hint = _ENABLE if code in (abi.Status.ACCESS_DENIED, abi.Status.UNSUPPORTED_HYPERVISOR_CONFIG) else ""
    raise HypervisorError(f"{name}: {text} (HRESULT {code:#x})", call=name, status=code, hint=hint)


def library() -> Library:
    """Raises AcceleratorUnavailable."""
    if not foreign.override("whpx") and sys.platform != "win32":
        raise AcceleratorUnavailable("WHPX is a part of Windows")
    return foreign.loaded("whpx", Library, "WinHvPlatform.dll", "WinHvPlatform.dll", _ENABLE)


class Whpx(Closing):
    """Implements :class:`vm_accel.interface.Hypervisor`."""

    name = "whpx"
    isa = "x86_64"

    def __init__(self) -> None:
        self.library = library()
        if not self.library.capability(abi.CapabilityCode.HypervisorPresent) & 0xFFFF_FFFF:
            raise AcceleratorUnavailable(
                "Windows' hypervisor does not run here",
                hint="bcdedit /set hypervisorlaunchtype auto, allow virtualisation in the firmware, and restart",
            )
        self._capabilities = abi.Feature(
            self.library.capability(abi.CapabilityCode.Features) & sum(abi.Feature)
        )
        self.exits = self.library.capability(abi.CapabilityCode.ExtendedVmExits)
        self._vms: list[WhpxVm] = []

    @staticmethod
    def probe() -> Availability:
        try:
            Whpx().close()
        except (AcceleratorUnavailable, HypervisorError) as error:
            return Availability(False, str(error), error.hint)
        return Availability(True)

    @property
    def features(self) -> frozenset[Can]:
        found = {
            *(Can.PORT_IO, Can.STRING_IO, Can.MMIO, Can.HALT, Can.KICK, Can.READ_ONLY, Can.SAVE),
            *(Can.SYSTEM_REGISTERS, Can.VECTOR_REGISTERS, Can.MSR, Can.DEBUG_REGISTERS, Can.INTERRUPT),
            *(Can.SMP, Can.REAL_MODE, Can.LONG_MODE, Can.KERNEL_MODE, Can.COHERENT_CODE),
        }
        if self._capabilities & abi.Feature.DirtyPageTracking:
            found.add(Can.DIRTY_LOG)
        if self.exits & abi.ExtendedExit.X64MsrExit:
            found.add(Can.MSR_EXITS)
        if self.exits & abi.ExtendedExit.ExceptionExit:
            found |= {Can.SINGLE_STEP, Can.BREAKPOINTS, Can.WATCHPOINTS, Can.TRAP_BREAK, Can.RING3_DEBUG}
        return frozenset(found)

    @property
    def has_local_apic(self) -> bool:
        return bool(self._capabilities & abi.Feature.LocalApicEmulation)

    @property
    def has_xsave(self) -> bool:
        return bool(self._capabilities & abi.Feature.Xsave)

    def create_vm(self, config: VmConfig = VmConfig()) -> WhpxVm:  # noqa: B008  frozen
        if config.pit:
            raise AcceleratorUnavailable("WHPX has no timer chip (PIT) of its own")
        if config.irqchip and not self.has_local_apic:
            raise AcceleratorUnavailable("this Windows emulates no interrupt controller", hint=_ENABLE)
        if config.msr_exits and Can.MSR_EXITS not in self.features:
            raise AcceleratorUnavailable("this Windows reports no accesses to MSRs")
        if config.dirty_ring:
            raise AcceleratorUnavailable("WHPX has a bitmap of written pages, and no ring")
        config.check_cpus(_MOST_VCPUS, "Windows")
        made = WhpxVm(self, config)
        self._vms.append(made)
        return made

    def model(self) -> dict[str, Any]:
        """Bits of WHV_PROCESSOR_FEATURES and WHV_PROCESSOR_XSAVE_FEATURES, which may be taken away."""
        return {
            "format": MODEL_FORMAT,
            "processor_features": self.library.capability(abi.CapabilityCode.ProcessorFeatures),
            "xsave_features": self.library.capability(abi.CapabilityCode.ProcessorXsaveFeatures),
        }

    def close(self) -> None:
        for made in self._vms:
            made.close()
        self._vms.clear()


class _Mapping:
    __slots__ = ("address", "flags", "guest", "memory", "size")

    def __init__(self, guest: int, memory: Memory, address: int, size: int, flags: int) -> None:
        self.guest, self.memory, self.address, self.size, self.flags = guest, memory, address, size, flags


class WhpxVm(Closing):
    """Implements :class:`vm_accel.interface.Vm`: a partition.

    Windows wants the CPU's features before memory, we get them with the first vCPU: what is mapped earlier waits for it.
    """

    def __init__(self, hypervisor: Whpx, config: VmConfig) -> None:
        self.hypervisor, self.config = hypervisor, config
        self.library = hypervisor.library
        handle = self.library.ffi.new("void **")
        self.library.call("WHvCreatePartition", handle)
        self.handle: Any = handle[0]
        self._mappings: dict[int, _Mapping] = {}
        self._ready = False
        self._vcpus: list[WhpxVcpu] = []
        self._debugging: dict[int, int] = {}
        try:
            self._configure()
        except BaseException:
            self.close()
            raise

    def _property(self, code: abi.PropertyCode, value: int, size: int) -> None:
        # WHV_PARTITION_PROPERTY is a union: a value lies at its start, and may be given with its own size.
        buffer = self.library.ffi.new("uint64_t *", value)
        self.library.call("WHvSetPartitionProperty", self.handle, code, buffer, size)

    def _configure(self) -> None:
        self._property(abi.PropertyCode.ProcessorCount, self.config.cpus, 4)
        exits = 0
        if self.hypervisor.exits & abi.ExtendedExit.ExceptionExit:
            exits |= abi.ExtendedExit.ExceptionExit
        if self.config.msr_exits:
            exits |= abi.ExtendedExit.X64MsrExit
        if exits:
            self._property(abi.PropertyCode.ExtendedVmExits, exits, 8)
        if self.config.msr_exits:
            self._property(abi.PropertyCode.X64MsrExitBitmap, 1, 8)  # UnhandledMsrs
        if self.config.irqchip:
            self._property(abi.PropertyCode.LocalApicEmulationMode, 1, 4)  # XApic

    def _open(self) -> Any:
        if self.handle is None:
            raise HypervisorError("this VM is closed")
        return self.handle

    def _setup(self, model: dict[str, Any] | None) -> None:
        if model is not None:
            if model.get("format") != MODEL_FORMAT:
                raise UsageError(f"not a CPU model of WHPX: {model.get('format')!r}")
            if self._ready:
                raise UsageError("WHPX takes the CPU model with the first vCPU, for all of them")
            self._property(abi.PropertyCode.ProcessorFeatures, model["processor_features"], 8)
            self._property(abi.PropertyCode.ProcessorXsaveFeatures, model["xsave_features"], 8)
        if self._ready:
            return
        self.library.call("WHvSetupPartition", self.handle)
        self._ready = True
        for mapping in self._mappings.values():
            self._show(mapping)

    def _show(self, mapping: _Mapping) -> None:
        ffi = self.library.ffi
        # SAFETY: the range lies inside mapping.memory, which this VM refers to until it is unmapped or closed.
        source = ffi.cast("void *", mapping.address)
        self.library.call("WHvMapGpaRange", self.handle, source, mapping.guest, mapping.size, mapping.flags)

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
        self._open()
        taken = [(other.guest, other.guest + other.size) for other in self._mappings.values()]
        size = placed(guest, memory, offset, size, taken, page=PAGE)
        flags = abi.Map.Read | abi.Map.Execute
        if writable:
            flags |= abi.Map.Write
        if log_dirty:
            flags |= abi.Map.TrackDirtyPages
        mapping = _Mapping(guest, memory, memory.address + offset, size, flags)
        if self._ready:
            self._show(mapping)
        memory.hold()
        self._mappings[guest] = mapping

    def unmap(self, guest: int) -> None:
        self._open()
        mapping = self._mappings.get(guest)
        if mapping is None:
            raise UsageError(f"nothing is mapped at {guest:#x}")
        if self._ready:
            self.library.call("WHvUnmapGpaRange", self.handle, guest, mapping.size)
        del self._mappings[guest]
        mapping.memory.release()

    def dirty(self, guest: int) -> list[int]:
        self._open()
        mapping = self._mappings.get(guest)
        if mapping is None or not mapping.flags & abi.Map.TrackDirtyPages:
            raise UsageError(f"nothing is mapped with log_dirty at {guest:#x}")
        if not self._ready:
            return []
        pages = mapping.size // PAGE
        words = (pages + 63) // 64
        bitmap = self.library.ffi.new("uint64_t[]", words)
        # SAFETY: one bit a page, in whole words, in a buffer that lives until the call has returned.
        self.library.call("WHvQueryGpaRangeDirtyBitmap", self.handle, guest, mapping.size, bitmap, 8 * words)
        found = []
        for index in range(words):
            word = bitmap[index]
            while word:
                low = word & -word
                found.append(guest + (64 * index + low.bit_length() - 1) * PAGE)
                word ^= low
        return found

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        """The host's view of guest-physical bytes, if they are memory that the guest may access so."""
        for mapping in list(self._mappings.values()):  # others may map meanwhile
            at = address - mapping.guest
            if 0 <= at and at + size <= mapping.size:
                if is_write and not mapping.flags & abi.Map.Write:
                    return None
                ffi = self.library.ffi
                # SAFETY: inside the mapping, which lives as long as this call's users do: they run on the vCPU's thread.
                return memoryview(ffi.buffer(ffi.cast("char *", mapping.address + at), size))
        return None

    def create_vcpu(self, model: dict[str, Any] | None = None) -> WhpxVcpu:
        from vm_accel.whpx.vcpu import WhpxVcpu

        self._open()
        if len(self._vcpus) >= self.config.cpus:
            raise UsageError(f"this VM was made for {self.config.cpus} vCPUs (VmConfig.cpus)")
        self._setup(model)
        made = WhpxVcpu(self, len(self._vcpus))
        self._vcpus.append(made)
        return made

    def exceptions(self, index: int, wanted: int) -> None:
        """Which exceptions vCPU ``index`` wants as exits, a bit each; they are one set for the partition."""
        before = self._debugging.copy()
        self._debugging[index] = wanted
        bits = 0
        for one in self._debugging.values():
            bits |= one
        try:
            self._property(abi.PropertyCode.ExceptionExitBitmap, bits, 8)
        except HypervisorError:
            self._debugging = before
            raise

    def request_interrupt(
        self, vector: int, destination: int = 0, kind: abi.InterruptType = abi.InterruptType.Fixed
    ) -> None:
        """Send an interrupt message to a local APIC. Needs ``irqchip``."""
        control = self.library.ffi.new("WHV_INTERRUPT_CONTROL *")
        control.Control = int(kind)  # physical destination, edge
        control.Destination, control.Vector = destination, vector
        self.library.call("WHvRequestInterrupt", self._open(), control, 16)

    def set_irq(self, line: int, level: bool) -> None:
        raise UsageError(
            "WHPX has local APICs and no I/O APIC: no line to drive", hint="use request_interrupt()"
        )

    def save(self) -> State:
        self._open()
        return {"format": "whpx-vm/1"}

    def restore(self, state: State) -> None:
        self._open()
        if state.get("format") != "whpx-vm/1":
            raise UsageError(f"not a VM state of WHPX: {state.get('format')!r}")

    def close(self) -> None:
        if self.handle is None:
            return
        for made in self._vcpus:
            made.close()
        self._vcpus.clear()
        handle, self.handle = self.handle, None
        self.library.call("WHvDeletePartition", handle)
        for mapping in self._mappings.values():
            mapping.memory.release()
        self._mappings.clear()
