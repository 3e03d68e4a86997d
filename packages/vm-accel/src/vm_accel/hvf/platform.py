"""Apple's Hypervisor framework on Apple silicon: the library, the one VM of a process, and its memory.

developer.apple.com/documentation/hypervisor; the declarations are in :mod:`vm_accel.hvf.abi`. A process can have one VM, and a
vCPU belongs to the thread that made it. Whoever wants many machines uses processes.
"""

from __future__ import annotations

import platform
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from vm_accel import foreign, macos
from vm_accel.closing import Closing
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.hvf import abi
from vm_accel.interface import Feature, Memory, State, VmConfig
from vm_accel.memory import placed
from vm_core.engine import Availability
from vm_core.errors import UsageError

if TYPE_CHECKING:
    from vm_accel.hvf.vcpu import HvfVcpu

__all__ = ["GicLayout", "Hvf", "HvfVm", "Library", "library"]

MODEL_FORMAT: Final = "hvf-model/1"


class GicLayout:
    """Where the interrupt controller is in guest-physical memory: as QEMU's "virt" machine has it."""

    DISTRIBUTOR: Final = 0x0800_0000
    REDISTRIBUTORS: Final = 0x080A_0000
    FIRST_SPI: Final = 32


class Library(foreign.Library):
    """The framework, or what VM_HVF_LIBRARY names in its place."""

    lacking = "update macOS"

    def __init__(self, path: str) -> None:
        # SAFETY: what is called is declared in abi.ARM64, from Apple's documentation; see there for the record of real headers.
        super().__init__(path, abi.ffi())

    def check(self, name: str, status: int) -> None:
        """Raises HypervisorError for a hv_return_t other than success."""
        check(name, status)

    def address(self, name: str) -> Any:
        """A function's address, for one whose signature cffi cannot express."""
        other = _addresses(self.path)
        return other[0].cast("void *", other[0].addressof(other[1], name))


@cache
def _addresses(path: str) -> tuple[Any, Any]:
    import cffi

    interface = cffi.FFI()
    interface.cdef("void hv_vcpu_set_simd_fp_reg(void);")
    return interface, interface.dlopen(path)


def check(name: str, status: int) -> None:
    """Raise HypervisorError if a hv_return_t is no success; EntitlementMissing if that is why."""
    if not status:
        return
    code = status & 0xFFFF_FFFF
    hint = ""
    if code in (abi.Return.DENIED, abi.Return.UNSUPPORTED):
        if lacking := macos.missing(macos.HYPERVISOR):
            raise lacking
        hint = f"{macos.SIGN}; sysctl kern.hv_support tells whether this Mac can"
    elif code == abi.Return.BUSY and name == "hv_vm_create":
        hint = "a process can have one VM under HVF: close the other one, or use another process"
    raise HypervisorError(f"{name}: {abi.name_of(status)}", call=name, status=code, hint=hint)


def library() -> Library:
    """Raises AcceleratorUnavailable."""
    override = foreign.override("hvf")
    if not override and sys.platform != "darwin":
        raise AcceleratorUnavailable("HVF is a part of macOS")
    if not override and platform.machine() != "arm64":
        raise AcceleratorUnavailable(
            "vm uses HVF on Apple silicon only", hint="on an Intel Mac guests run without hardware support"
        )
    return foreign.loaded(
        "hvf", Library, abi.FRAMEWORK, "Hypervisor.framework", "macOS 11 or newer is needed"
    )


class Hvf(Closing):
    """Implements :class:`vm_accel.interface.Hypervisor`."""

    name = "hvf"
    isa = "aarch64"

    def __init__(self) -> None:
        self.library = library()
        self._vms: list[HvfVm] = []

    @staticmethod
    def probe() -> Availability:
        try:
            found = library()
            # Only making a VM tells whether it is allowed.
            found.call("hv_vm_create", found.ffi.NULL)
        except HypervisorError as error:
            if error.status == abi.Return.BUSY:
                return Availability(True)
            return Availability(False, str(error), error.hint)
        except AcceleratorUnavailable as error:
            return Availability(False, str(error), error.hint)
        found.call("hv_vm_destroy")
        return Availability(True)

    @property
    def features(self) -> frozenset[Feature]:
        found = {
            *(Feature.MMIO, Feature.HALT, Feature.KICK, Feature.DIRTY_LOG, Feature.READ_ONLY, Feature.SAVE),
            *(Feature.SYSTEM_REGISTERS, Feature.VECTOR_REGISTERS, Feature.HYPERCALL, Feature.SMP),
            *(Feature.TIMER, Feature.SINGLE_STEP, Feature.BREAKPOINTS, Feature.WATCHPOINTS),
            *(Feature.TRAP_BREAK, Feature.LONG_MODE),
        }
        if self.has_gic:
            found.add(Feature.IRQCHIP)
        return frozenset(found)

    @property
    def has_gic(self) -> bool:
        """macOS 15 and newer."""
        return self.library.has("hv_gic_create")

    def create_vm(self, config: VmConfig = VmConfig()) -> HvfVm:  # noqa: B008  frozen
        if config.pit:
            raise AcceleratorUnavailable("a PIT is a part of x86 machines")
        if config.irqchip and not self.has_gic:
            raise AcceleratorUnavailable(
                "this macOS emulates no interrupt controller", hint="update to macOS 15"
            )
        if config.dirty_ring:
            raise AcceleratorUnavailable("HVF has no ring of written pages")
        if config.msr_exits:
            raise AcceleratorUnavailable("MSRs are a part of x86 machines")
        most = self.library.ffi.new("uint32_t *")
        self.library.call("hv_vm_get_max_vcpu_count", most)
        config.check_cpus(int(most[0]), "this Mac")
        made = HvfVm(self, config)
        self._vms.append(made)
        return made

    def model(self) -> dict[str, Any]:
        """Identification registers of the CPU that guests get; HVF lets none of them be changed before a vCPU exists."""
        ffi, found = self.library.ffi, {}
        config = self.library.lib.hv_vcpu_config_create()
        value = ffi.new("uint64_t *")
        try:
            for index, name in enumerate(_FEATURE_REGISTERS):
                self.library.call("hv_vcpu_config_get_feature_reg", config, index, value)
                found[name] = int(value[0])
        finally:
            self.library.lib.os_release(config)
        return {"format": MODEL_FORMAT, **found}

    def close(self) -> None:
        for made in self._vms:
            made.close()
        self._vms.clear()


_FEATURE_REGISTERS: Final = (
    "id_aa64dfr0_el1",
    "id_aa64dfr1_el1",
    "id_aa64isar0_el1",
    "id_aa64isar1_el1",
    "id_aa64mmfr0_el1",
    "id_aa64mmfr1_el1",
    "id_aa64mmfr2_el1",
    "id_aa64pfr0_el1",
    "id_aa64pfr1_el1",
    "ctr_el0",
    "clidr_el1",
    "dczid_el0",
)
"""hv_feature_reg_t, in its order."""


class _Mapping:
    """One mapping. ``dirty`` has a bit for each page of 16 KiB, None without a log."""

    __slots__ = ("address", "dirty", "guest", "memory", "size", "writable")

    def __init__(
        self, guest: int, memory: Memory, address: int, size: int, *, writable: bool, log: bool
    ) -> None:
        self.guest, self.memory, self.address, self.size = guest, memory, address, size
        self.writable = writable
        self.dirty: set[int] | None = set() if log else None


class HvfVm(Closing):
    """Implements :class:`vm_accel.interface.Vm`.

    HVF has no log of written pages: memory with one is mapped read-only, and a page becomes writable when it is first written.
    """

    def __init__(self, hypervisor: Hvf, config: VmConfig) -> None:
        self.hypervisor, self.config = hypervisor, config
        self.library = hypervisor.library
        self.lock = threading.Condition()
        self._mappings: dict[int, _Mapping] = {}
        self.vcpus: list[HvfVcpu] = []
        self._closed = True
        ffi = self.library.ffi
        options = ffi.NULL
        if config.address_bits:
            options = self.library.lib.hv_vm_config_create()
        try:
            if config.address_bits:
                self.library.call("hv_vm_config_set_ipa_size", options, config.address_bits)
            self.library.call("hv_vm_create", options)
        finally:
            if options != ffi.NULL:
                self.library.lib.os_release(options)
        self._closed = False
        try:
            if config.irqchip:
                self._create_gic()
        except BaseException:
            self.close()
            raise

    def _create_gic(self) -> None:
        """Before the first vCPU, as the framework wants it."""
        options = self.library.lib.hv_gic_config_create()
        try:
            self.library.call("hv_gic_config_set_distributor_base", options, GicLayout.DISTRIBUTOR)
            self.library.call("hv_gic_config_set_redistributor_base", options, GicLayout.REDISTRIBUTORS)
            self.library.call("hv_gic_create", options)
        finally:
            self.library.lib.os_release(options)

    def _open(self) -> None:
        if self._closed:
            raise HypervisorError("this VM is closed")

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
        size = placed(guest, memory, offset, size, taken, page=abi.PAGE)
        flags = abi.Map.READ | abi.Map.EXEC
        if writable and not log_dirty:
            flags |= abi.Map.WRITE
        address = memory.address + offset
        # SAFETY: the range lies inside `memory`, which this VM refers to until it is unmapped or closed.
        self.library.call("hv_vm_map", self.library.ffi.cast("void *", address), guest, size, int(flags))
        memory.hold()
        self._mappings[guest] = _Mapping(guest, memory, address, size, writable=writable, log=log_dirty)

    def unmap(self, guest: int) -> None:
        self._open()
        mapping = self._mappings.get(guest)
        if mapping is None:
            raise UsageError(f"nothing is mapped at {guest:#x}")
        self.library.call("hv_vm_unmap", guest, mapping.size)
        del self._mappings[guest]
        mapping.memory.release()

    def dirty(self, guest: int) -> list[int]:
        """Pages of 16 KiB."""
        self._open()
        mapping = self._mappings.get(guest)
        if mapping is None or mapping.dirty is None:
            raise UsageError(f"nothing is mapped with log_dirty at {guest:#x}")
        with self.lock:
            found, mapping.dirty = sorted(mapping.dirty), set()
            for page in found:
                self.library.call("hv_vm_protect", page, abi.PAGE, int(abi.Map.READ | abi.Map.EXEC))
        return found

    def _at(self, address: int) -> _Mapping | None:
        for mapping in list(self._mappings.values()):  # others may map meanwhile
            if 0 <= address - mapping.guest < mapping.size:
                return mapping
        return None

    def touched(self, address: int) -> bool:
        """A write was stopped: whether that was for the log only, so that the guest can do it now."""
        mapping = self._at(address)
        if mapping is None or mapping.dirty is None or not mapping.writable:
            return False
        page = address & -abi.PAGE
        with self.lock:
            mapping.dirty.add(page)
            self.library.call(
                "hv_vm_protect", page, abi.PAGE, int(abi.Map.READ | abi.Map.WRITE | abi.Map.EXEC)
            )
        return True

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        """The host's view of guest-physical bytes, if they are memory that the guest may access so."""
        mapping = self._at(address)
        if mapping is None or address + size > mapping.guest + mapping.size:
            return None
        if is_write:
            if not mapping.writable:
                return None
            if mapping.dirty is not None:
                self.touched(address)
        ffi = self.library.ffi
        # SAFETY: inside the mapping, which lives as long as this call's users do: they run on a vCPU's thread.
        return memoryview(ffi.buffer(ffi.cast("char *", mapping.address + address - mapping.guest), size))

    def create_vcpu(self, model: Any = None) -> HvfVcpu:
        from vm_accel.hvf.vcpu import HvfVcpu

        self._open()
        if model is not None and model.get("format") != MODEL_FORMAT:
            raise UsageError(f"not a CPU model of HVF: {model.get('format')!r}")
        if len(self.vcpus) >= self.config.cpus:
            raise UsageError(f"this VM was made for {self.config.cpus} vCPUs (VmConfig.cpus)")
        made = HvfVcpu(self, len(self.vcpus))
        self.vcpus.append(made)
        return made

    def set_irq(self, line: int, level: bool) -> None:
        """``line`` counts shared interrupts from 0; the controller's number is 32 more."""
        self._open()
        self.library.call("hv_gic_set_spi", GicLayout.FIRST_SPI + line, level)

    def send_msi(self, address: int, interrupt: int) -> None:
        """A message to the interrupt controller's MSI region."""
        self._open()
        self.library.call("hv_gic_send_msi", address, interrupt)

    def save(self) -> State:
        self._open()
        state: State = {"format": "hvf-vm/1"}
        if self.config.irqchip:
            ffi, lib = self.library.ffi, self.library.lib
            saved = lib.hv_gic_state_create()
            try:
                size = ffi.new("size_t *")
                self.library.call("hv_gic_state_get_size", saved, size)
                data = ffi.new("uint8_t[]", int(size[0]))
                # SAFETY: the buffer has the size that was just given.
                self.library.call("hv_gic_state_get_data", saved, data)
                state["gic"] = bytes(ffi.buffer(data))
            finally:
                lib.os_release(saved)
        return state

    def restore(self, state: State) -> None:
        self._open()
        if state.get("format") != "hvf-vm/1":
            raise UsageError(f"not a VM state of HVF: {state.get('format')!r}")
        if "gic" in state:
            data = self.library.ffi.from_buffer(state["gic"])
            self.library.call("hv_gic_set_state", data, len(state["gic"]))

    def close(self) -> None:
        if self._closed:
            return
        for made in self.vcpus:
            made.close()
        self.vcpus.clear()
        self._closed = True
        self.library.call("hv_vm_destroy")
        for mapping in self._mappings.values():
            mapping.memory.release()
        self._mappings.clear()
