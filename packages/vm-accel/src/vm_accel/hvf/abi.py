"""Apple's Hypervisor framework as C: hv_vm.h, hv_vcpu.h, hv_gic.h on arm64 and hv.h, hv_vmx.h on Intel.

No header of Apple's may be passed on, and none is on PyPI or in Debian. What is here comes from the public documentation;
``vm accel record-layout`` on a Mac with the SDK compares it with the real ones and writes the record that the tests use.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import Any, Final

import cffi

from vm_accel.arm64_registers import ENCODINGS, packed

__all__ = [
    "ARM64",
    "FRAMEWORK",
    "INTEL",
    "PAGE",
    "SYSTEM_REGISTERS",
    "ExitReason",
    "Interrupt",
    "Map",
    "Register",
    "Return",
    "ffi",
    "name_of",
]

FRAMEWORK: Final = "/System/Library/Frameworks/Hypervisor.framework/Hypervisor"
"""No such file: the loader finds it in its cache."""
PAGE: Final = 0x4000
"""Apple silicon maps 16 KiB at a time."""

COMMON: Final = """
int32_t hv_vm_destroy(void);
int32_t hv_vm_map(void *address, uint64_t guest, size_t bytes, uint64_t flags);
int32_t hv_vm_unmap(uint64_t guest, size_t bytes);
int32_t hv_vm_protect(uint64_t guest, size_t bytes, uint64_t flags);
"""

ARM64: Final = (
    COMMON
    + """
typedef struct { uint64_t syndrome, virtual_address, physical_address; } hv_vcpu_exit_exception_t;
typedef struct { uint32_t reason; hv_vcpu_exit_exception_t exception; } hv_vcpu_exit_t;

int32_t hv_vm_create(void *config);
int32_t hv_vm_get_max_vcpu_count(uint32_t *count);
void *hv_vm_config_create(void);
int32_t hv_vm_config_get_default_ipa_size(uint32_t *bits);
int32_t hv_vm_config_get_max_ipa_size(uint32_t *bits);
int32_t hv_vm_config_set_ipa_size(void *config, uint32_t bits);
int32_t hv_vm_config_get_el2_supported(bool *supported);
int32_t hv_vm_config_set_el2_enabled(void *config, bool enabled);
void *hv_vcpu_config_create(void);
int32_t hv_vcpu_config_get_feature_reg(void *config, uint32_t feature, uint64_t *value);
int32_t hv_vcpu_create(uint64_t *vcpu, hv_vcpu_exit_t **exit, void *config);
int32_t hv_vcpu_destroy(uint64_t vcpu);
int32_t hv_vcpu_run(uint64_t vcpu);
int32_t hv_vcpus_exit(uint64_t *vcpus, uint32_t count);
int32_t hv_vcpu_get_reg(uint64_t vcpu, uint32_t reg, uint64_t *value);
int32_t hv_vcpu_set_reg(uint64_t vcpu, uint32_t reg, uint64_t value);
int32_t hv_vcpu_get_sys_reg(uint64_t vcpu, uint16_t reg, uint64_t *value);
int32_t hv_vcpu_set_sys_reg(uint64_t vcpu, uint16_t reg, uint64_t value);
int32_t hv_vcpu_get_simd_fp_reg(uint64_t vcpu, uint32_t reg, void *value);
int32_t hv_vcpu_get_pending_interrupt(uint64_t vcpu, uint32_t type, bool *pending);
int32_t hv_vcpu_set_pending_interrupt(uint64_t vcpu, uint32_t type, bool pending);
int32_t hv_vcpu_get_vtimer_mask(uint64_t vcpu, bool *masked);
int32_t hv_vcpu_set_vtimer_mask(uint64_t vcpu, bool masked);
int32_t hv_vcpu_get_vtimer_offset(uint64_t vcpu, uint64_t *offset);
int32_t hv_vcpu_set_vtimer_offset(uint64_t vcpu, uint64_t offset);
int32_t hv_vcpu_get_exec_time(uint64_t vcpu, uint64_t *time);
int32_t hv_vcpu_set_trap_debug_exceptions(uint64_t vcpu, bool trap);
int32_t hv_vcpu_set_trap_debug_reg_accesses(uint64_t vcpu, bool trap);
void *hv_gic_config_create(void);
int32_t hv_gic_config_set_distributor_base(void *config, uint64_t guest);
int32_t hv_gic_config_set_redistributor_base(void *config, uint64_t guest);
int32_t hv_gic_config_set_msi_region_base(void *config, uint64_t guest);
int32_t hv_gic_config_set_msi_interrupt_range(void *config, uint32_t first, uint32_t count);
int32_t hv_gic_create(void *config);
int32_t hv_gic_set_spi(uint32_t interrupt, bool level);
int32_t hv_gic_send_msi(uint64_t address, uint32_t interrupt);
int32_t hv_gic_get_distributor_size(size_t *bytes);
int32_t hv_gic_get_redistributor_size(size_t *bytes);
int32_t hv_gic_get_redistributor_region_size(size_t *bytes);
int32_t hv_gic_get_msi_region_size(size_t *bytes);
int32_t hv_gic_reset(void);
void *hv_gic_state_create(void);
int32_t hv_gic_state_get_size(void *state, size_t *bytes);
int32_t hv_gic_state_get_data(void *state, void *data);
int32_t hv_gic_set_state(const void *data, size_t bytes);
void os_release(void *object);
"""
)
"""``hv_vcpu_set_simd_fp_reg`` is not here: it takes a vector by value, which libffi cannot pass (:mod:`.vectors`)."""

INTEL: Final = (
    COMMON
    + """
int32_t hv_vm_create(uint64_t flags);
int32_t hv_vcpu_create(uint32_t *vcpu, uint64_t flags);
int32_t hv_vcpu_destroy(uint32_t vcpu);
int32_t hv_vcpu_run(uint32_t vcpu);
int32_t hv_vcpu_run_until(uint32_t vcpu, uint64_t deadline);
int32_t hv_vcpu_interrupt(uint32_t *vcpus, uint32_t count);
int32_t hv_vcpu_read_register(uint32_t vcpu, uint32_t reg, uint64_t *value);
int32_t hv_vcpu_write_register(uint32_t vcpu, uint32_t reg, uint64_t value);
int32_t hv_vcpu_read_fpstate(uint32_t vcpu, void *buffer, size_t bytes);
int32_t hv_vcpu_write_fpstate(uint32_t vcpu, const void *buffer, size_t bytes);
int32_t hv_vcpu_read_msr(uint32_t vcpu, uint32_t msr, uint64_t *value);
int32_t hv_vcpu_write_msr(uint32_t vcpu, uint32_t msr, uint64_t value);
int32_t hv_vcpu_enable_native_msr(uint32_t vcpu, uint32_t msr, bool enable);
int32_t hv_vcpu_invalidate_tlb(uint32_t vcpu);
int32_t hv_vcpu_flush(uint32_t vcpu);
int32_t hv_vmx_read_capability(uint32_t field, uint64_t *value);
int32_t hv_vmx_vcpu_read_vmcs(uint32_t vcpu, uint32_t field, uint64_t *value);
int32_t hv_vmx_vcpu_write_vmcs(uint32_t vcpu, uint32_t field, uint64_t value);
int32_t hv_vmx_vcpu_set_apic_address(uint32_t vcpu, uint64_t guest);
"""
)


class Return(enum.IntEnum):
    """hv_return_t, as unsigned numbers."""

    SUCCESS = 0
    ERROR = 0xFAE9_4001
    BUSY = 0xFAE9_4002
    BAD_ARGUMENT = 0xFAE9_4003
    ILLEGAL_GUEST_STATE = 0xFAE9_4004
    NO_RESOURCES = 0xFAE9_4005
    NO_DEVICE = 0xFAE9_4006
    DENIED = 0xFAE9_4007
    UNSUPPORTED = 0xFAE9_400F


class Map(enum.IntFlag):
    """hv_memory_flags_t."""

    READ = 1
    WRITE = 2
    EXEC = 4


class ExitReason(enum.IntEnum):
    """hv_exit_reason_t."""

    CANCELED = 0
    EXCEPTION = 1
    VTIMER_ACTIVATED = 2
    UNKNOWN = 3


class Interrupt(enum.IntEnum):
    """hv_interrupt_type_t."""

    IRQ = 0
    FIQ = 1


class Register(enum.IntEnum):
    """hv_reg_t: X0 to X30 are 0 to 30."""

    FP = 29
    LR = 30
    PC = 31
    FPCR = 32
    FPSR = 33
    CPSR = 34


class IntelRegister(enum.IntEnum):
    """hv_x86_reg_t, its first part."""

    RIP = 0
    RFLAGS = 1
    RAX = 2
    RCX = 3
    RDX = 4
    RBX = 5
    RSI = 6
    RDI = 7
    RSP = 8
    RBP = 9
    R8 = 10
    R9 = 11
    R10 = 12
    R11 = 13
    R12 = 14
    R13 = 15
    R14 = 16
    R15 = 17


class VmcsField(enum.IntEnum):
    """Fields of the VMCS that tell about an exit (Intel SDM volume 3, appendix B)."""

    GUEST_PHYSICAL_ADDRESS = 0x2400
    EXIT_REASON = 0x4402
    EXIT_INSTRUCTION_LENGTH = 0x440C
    EXIT_QUALIFICATION = 0x6400
    GUEST_LINEAR_ADDRESS = 0x640A


HV_DEADLINE_FOREVER: Final = (1 << 64) - 1


SYSTEM_REGISTERS: Final = {
    name: packed(*encoding) for name, encoding in ENCODINGS.items() if name != "actlr_el1"
}
"""Name -> hv_sys_reg_t, which is the encoding's fields side by side."""


def name_of(code: int) -> str:
    """A return code for a message."""
    code &= 0xFFFF_FFFF
    try:
        return f"HV_{Return(code).name}"
    except ValueError:
        return f"hv_return_t {code:#x}"


@cache
def ffi(declarations: str = ARM64) -> Any:
    """The cffi interface with ARM64's or INTEL's declarations."""
    interface = cffi.FFI()
    interface.cdef(declarations)
    return interface
