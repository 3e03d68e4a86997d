"""What KVM is on riscv64: structures, register numbers, the interrupt controller, and calls of the firmware.

Documentation/virt/kvm/api.rst (4.68), arch/riscv's uapi header, the SBI specification. The tests compare it with
linux-libc-dev's headers for riscv64, as far as Debian's are new enough; none of it has been run on such a machine.
"""

from __future__ import annotations

import enum
from typing import Final

from vm_accel.kvm.abi import Call

__all__ = [
    "CALLS",
    "EMPTY",
    "REGISTERS",
    "STRUCTURES",
    "AiaAddress",
    "AiaGroup",
    "Kind",
    "register",
    "register_size",
]

STRUCTURES: Final = """
struct kvm_riscv_config { uint64_t isa, zicbom_block_size; };
struct kvm_riscv_core {
    struct {
        uint64_t pc, ra, sp, gp, tp, t0, t1, t2, s0, s1, a0, a1, a2, a3, a4, a5, a6, a7;
        uint64_t s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, t3, t4, t5, t6;
    } regs;
    uint64_t mode;
};
struct kvm_riscv_csr {
    uint64_t sstatus, sie, stvec, sscratch, sepc, scause, stval, sip, satp, scounteren;
};
struct kvm_riscv_timer { uint64_t frequency, time, compare, state; };
struct kvm_debug_exit_arch { };
struct kvm_guest_debug_arch { };
struct kvm_sync_regs { };
struct kvm_reg_list { uint64_t n; };
struct kvm_guest_debug_control { uint32_t control, pad; };
"""
"""The three that are empty have no bytes, which cffi cannot say (to it they have one): what is passed is the control alone."""
EMPTY: Final = ("kvm_debug_exit_arch", "kvm_guest_debug_arch", "kvm_sync_regs", "kvm_guest_debug")
"""Structures whose size cffi has wrong; none of them may be made."""

CALLS: Final[dict[str, Call]] = {
    "KVM_GET_ONE_REG": Call("W", 0xAB, "kvm_one_reg"),
    "KVM_SET_ONE_REG": Call("W", 0xAC, "kvm_one_reg"),
    "KVM_CREATE_DEVICE": Call("RW", 0xE0, "kvm_create_device"),
    "KVM_SET_DEVICE_ATTR": Call("W", 0xE1, "kvm_device_attr"),
    "KVM_GET_DEVICE_ATTR": Call("W", 0xE2, "kvm_device_attr"),
    "KVM_HAS_DEVICE_ATTR": Call("W", 0xE3, "kvm_device_attr"),
    "KVM_GET_REG_LIST": Call("RW", 0xB0, "kvm_reg_list"),
    "KVM_INTERRUPT": Call("W", 0x86, "kvm_interrupt"),
    "KVM_SET_GUEST_DEBUG": Call("W", 0x9B, "kvm_guest_debug_control"),
}

KVM_REG_RISCV: Final = 0x8000_0000_0000_0000
_SIZE_SHIFT: Final = 52
KVM_DEV_TYPE_RISCV_AIA: Final = 11
"""Linux 6.5; Debian 12's headers do not have it."""
MODE_U, MODE_S = 0, 1


class Kind(enum.IntEnum):
    """What a register is of (KVM_REG_RISCV_*), bits 31:24 of its number."""

    CONFIG = 1
    CORE = 2
    CSR = 3
    TIMER = 4
    FP_F = 5
    FP_D = 6
    ISA_EXT = 7
    SBI_EXT = 8
    VECTOR = 9


class AiaGroup(enum.IntEnum):
    """Groups of attributes of the interrupt controller (KVM_DEV_RISCV_AIA_GRP_*), Linux 6.5."""

    CONFIG = 0
    ADDR = 1
    CTRL = 2
    APLIC = 3
    IMSIC = 4


class AiaAddress(enum.IntEnum):
    """Attributes of the group ADDR: the wired controller, and from IMSIC0 one page a vCPU."""

    APLIC = 0
    IMSIC0 = 1


AIA_CONFIG_SRCS: Final = 2
AIA_CTRL_INIT: Final = 0


def register(kind: Kind, index: int, size: int = 8) -> int:
    """The one-reg number of register ``index`` of a kind."""
    return KVM_REG_RISCV | (size.bit_length() - 1) << _SIZE_SHIFT | kind << 24 | index


def register_size(number: int) -> int:
    """Bytes of a one-reg's value."""
    return 1 << (number >> _SIZE_SHIFT & 15)


_CORE: Final = (
    *("pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{i}" for i in range(8)),
    *(f"s{i}" for i in range(2, 12)),
    *("t3", "t4", "t5", "t6", "mode"),
)
_CSR: Final = (
    *("sstatus", "sie", "stvec", "sscratch", "sepc", "scause", "stval", "sip", "satp", "scounteren"),
)
_TIMER: Final = ("frequency", "time", "compare", "state")

REGISTERS: Final[dict[str, int]] = {
    **{name: register(Kind.CORE, index) for index, name in enumerate(_CORE)},
    **{name: register(Kind.CSR, index) for index, name in enumerate(_CSR)},
    **{f"timer_{name}": register(Kind.TIMER, index) for index, name in enumerate(_TIMER)},
    **{f"f{i}": register(Kind.FP_D, i) for i in range(32)},
    "fcsr": register(Kind.FP_D, 32, 4),
    "isa": register(Kind.CONFIG, 0),
}
"""Name -> one-reg number."""
