"""What KVM is on arm64: structures, register numbers, the interrupt controller, and how a vCPU comes up.

Documentation/virt/kvm/api.rst (4.68, 4.82, 4.109), Documentation/virt/kvm/devices/arm-vgic-v3.rst. The tests compare all
of it with linux-libc-dev's headers for arm64; none of it has been run on such a machine.
"""

from __future__ import annotations

import enum
from typing import Final

from vm_accel.arm64_registers import ENCODINGS, packed
from vm_accel.kvm.abi import Call

__all__ = [
    "CALLS",
    "REGISTERS",
    "STRUCTURES",
    "SYSTEM_REGISTERS",
    "Feature",
    "VgicAddress",
    "VgicGroup",
    "core",
    "irq_line",
    "register_size",
    "system_register",
]

STRUCTURES: Final = """
struct kvm_regs {
    struct { uint64_t regs[31], sp, pc, pstate; } regs;
    uint64_t sp_el1, elr_el1, spsr[5], alignment;
    struct { uint64_t vregs[64]; uint32_t fpsr, fpcr, __reserved[2]; } fp_regs;
};
struct kvm_vcpu_init { uint32_t target, features[7]; };
struct kvm_guest_debug_arch { uint64_t dbg_bcr[16], dbg_bvr[16], dbg_wcr[16], dbg_wvr[16]; };
struct kvm_debug_exit_arch { uint32_t hsr, hsr_high; uint64_t far; };
struct kvm_sync_regs { uint64_t device_irq_level; };
struct kvm_vcpu_events {
    struct { uint8_t serror_pending, serror_has_esr, ext_dabt_pending, pad[5]; uint64_t serror_esr; } exception;
    uint32_t reserved[12];
};
struct kvm_reg_list { uint64_t n; };
"""
"""``alignment`` and the vregs, 128 bits each, are spelt so that cffi needs no 16-byte alignment."""

KVM_REG_ARM64: Final = 0x6000_0000_0000_0000
KVM_REG_ARM_CORE: Final = 0x0010 << 16
KVM_REG_ARM64_SYSREG: Final = 0x0013 << 16
KVM_REG_ARM64_SVE: Final = 0x0015 << 16
_SIZE_SHIFT: Final = 52

CALLS: Final[dict[str, Call]] = {
    "KVM_ARM_PREFERRED_TARGET": Call("R", 0xAF, "kvm_vcpu_init"),
    "KVM_ARM_VCPU_INIT": Call("W", 0xAE, "kvm_vcpu_init"),
    "KVM_ARM_VCPU_FINALIZE": Call("W", 0xC2, "kvm_interrupt"),  # an int, of the same size
    "KVM_GET_ONE_REG": Call("W", 0xAB, "kvm_one_reg"),
    "KVM_SET_ONE_REG": Call("W", 0xAC, "kvm_one_reg"),
    "KVM_GET_VCPU_EVENTS": Call("R", 0x9F, "kvm_vcpu_events"),
    "KVM_SET_VCPU_EVENTS": Call("W", 0xA0, "kvm_vcpu_events"),
    "KVM_CREATE_DEVICE": Call("RW", 0xE0, "kvm_create_device"),
    "KVM_SET_DEVICE_ATTR": Call("W", 0xE1, "kvm_device_attr"),
    "KVM_GET_DEVICE_ATTR": Call("W", 0xE2, "kvm_device_attr"),
    "KVM_HAS_DEVICE_ATTR": Call("W", 0xE3, "kvm_device_attr"),
    "KVM_GET_REG_LIST": Call("RW", 0xB0, "kvm_reg_list"),
}
KVM_CAP_ARM_VM_IPA_SIZE: Final = 165
KVM_CAP_ARM_NISV_TO_USER: Final = 177
KVM_DEV_TYPE_ARM_VGIC_V2: Final = 5
KVM_DEV_TYPE_ARM_VGIC_V3: Final = 7
KVM_DEV_TYPE_ARM_VGIC_ITS: Final = 8
VGIC_V3_DIST_BYTES: Final = 0x1_0000
VGIC_V3_REDIST_BYTES: Final = 0x2_0000
"""Of one vCPU."""


class Feature(enum.IntEnum):
    """Bits of ``kvm_vcpu_init.features`` (KVM_ARM_VCPU_*)."""

    POWER_OFF = 0
    EL1_32BIT = 1
    PSCI_0_2 = 2
    PMU_V3 = 3
    SVE = 4
    PTRAUTH_ADDRESS = 5
    PTRAUTH_GENERIC = 6


class VgicGroup(enum.IntEnum):
    """Groups of attributes of the interrupt controller (KVM_DEV_ARM_VGIC_GRP_*)."""

    ADDR = 0
    DIST_REGS = 1
    CPU_REGS = 2
    NR_IRQS = 3
    CTRL = 4
    REDIST_REGS = 5
    CPU_SYSREGS = 6
    LEVEL_INFO = 7
    ITS_REGS = 8


class VgicAddress(enum.IntEnum):
    """Attributes of the group ADDR (KVM_VGIC_*_ADDR_TYPE_*)."""

    V3_DIST = 2
    V3_REDIST = 3
    ITS = 4
    V3_REDIST_REGION = 5


KVM_DEV_ARM_VGIC_CTRL_INIT: Final = 0
KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES: Final = 3


def core(offset: int, size: int = 8) -> int:
    """The one-reg number of the field of ``kvm_regs`` at a byte offset, of 4, 8 or 16 bytes."""
    return KVM_REG_ARM64 | (size.bit_length() - 1) << _SIZE_SHIFT | KVM_REG_ARM_CORE | offset // 4


def system_register(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The one-reg number of a system register, by its encoding in MRS."""
    return KVM_REG_ARM64 | 3 << _SIZE_SHIFT | KVM_REG_ARM64_SYSREG | packed(op0, op1, crn, crm, op2)


def register_size(number: int) -> int:
    """Bytes of a one-reg's value."""
    return 1 << (number >> _SIZE_SHIFT & 15)


def irq_line(kind: int, number: int, vcpu: int = 0) -> int:
    """The ``irq`` of KVM_IRQ_LINE. ``kind``: 0 the CPU's own pins, 1 a shared interrupt (SPI), 2 a private one (PPI);
    ``number`` is the interrupt's as the controller counts (an SPI's is at least 32)."""
    return (vcpu >> 8) << 28 | kind << 24 | (vcpu & 0xFF) << 16 | number


_SP, _PC, _PSTATE, _SP_EL1, _ELR_EL1, _SPSR = 248, 256, 264, 272, 280, 288
_VREGS, _FPSR, _FPCR = 336, 848, 852

_IN_CORE: Final = frozenset({"sp_el0", "sp_el1", "elr_el1", "spsr_el1"})
SYSTEM_REGISTERS: Final = {
    name: encoding for name, encoding in ENCODINGS.items() if name not in _IN_CORE and name != "midr_el1"
}
"""Those that are system registers for KVM too, and may be written."""

REGISTERS: Final[dict[str, int]] = {
    **{f"x{i}": core(8 * i) for i in range(31)},
    "sp_el0": core(_SP),
    "pc": core(_PC),
    "pstate": core(_PSTATE),
    "sp_el1": core(_SP_EL1),
    "elr_el1": core(_ELR_EL1),
    "spsr_el1": core(_SPSR),
    **{f"v{i}": core(_VREGS + 16 * i, 16) for i in range(32)},
    "fpsr": core(_FPSR, 4),
    "fpcr": core(_FPCR, 4),
    **{name: system_register(*encoding) for name, encoding in SYSTEM_REGISTERS.items()},
    # KVM took the numbers of CNTV_CVAL_EL0 and CNTVCT_EL0 for each other, and keeps them so for ever.
    "cntv_cval_el0": system_register(3, 3, 14, 0, 2),
    "cntvct_el0": system_register(3, 3, 14, 3, 2),
}
"""Name -> one-reg number."""
