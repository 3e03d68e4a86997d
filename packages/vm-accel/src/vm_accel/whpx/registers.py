"""Names of registers, and the part of a WHV_REGISTER_VALUE that each is."""

from __future__ import annotations

from typing import Final, NamedTuple

from vm_accel.whpx.abi import Register

__all__ = ["ACCESS_UNUSABLE", "FIXED", "MSRS", "SAVED", "Part", "part_of"]


class Part(NamedTuple):
    """``width`` bits from bit ``shift`` of a register's 128."""

    register: Register
    shift: int = 0
    width: int = 64


def _segment(name: str, register: Register) -> dict[str, Part]:
    return {
        f"{name}.base": Part(register, 0, 64),
        f"{name}.limit": Part(register, 64, 32),
        f"{name}.selector": Part(register, 96, 16),
        f"{name}.access": Part(register, 112, 17),
    }


ACCESS_UNUSABLE: Final = 1 << 16
"""Of ``.access``; Hyper-V has no such bit, and leaves "present" out instead."""

MSRS: Final[dict[int, Register]] = {
    0x10: Register.Tsc,
    0x1B: Register.ApicBase,
    0x174: Register.SysenterCs,
    0x175: Register.SysenterEsp,
    0x176: Register.SysenterEip,
    0x277: Register.Pat,
    0x2FF: Register.MsrMtrrDefType,
    0xC000_0080: Register.Efer,
    0xC000_0081: Register.Star,
    0xC000_0082: Register.Lstar,
    0xC000_0083: Register.Cstar,
    0xC000_0084: Register.Sfmask,
    0xC000_0100: Register.Fs,
    0xC000_0101: Register.Gs,
    0xC000_0102: Register.KernelGsBase,
    0xC000_0103: Register.TscAux,
}
"""The MSRs that have a register; of FS and GS the low 64 bits are the base."""

FIXED: Final[dict[str, Part]] = {
    **{name: Part(Register[name.capitalize()]) for name in ("rax", "rcx", "rdx", "rbx", "rsp", "rbp")},
    **{name: Part(Register[name.capitalize()]) for name in ("rsi", "rdi", "rip", "rflags")},
    **{f"r{i}": Part(Register(i)) for i in range(8, 16)},
    **{f"cr{i}": Part(Register[f"Cr{i}"]) for i in (0, 2, 3, 4, 8)},
    **{f"dr{i}": Part(Register[f"Dr{i}"]) for i in (0, 1, 2, 3, 6, 7)},
    "efer": Part(Register.Efer),
    "apic_base": Part(Register.ApicBase),
    "xcr0": Part(Register.XCr0),
    **{
        name: part
        for segment in ("cs", "ds", "es", "fs", "gs", "ss", "tr")
        for name, part in _segment(segment, Register[segment.capitalize()]).items()
    },
    **_segment("ldt", Register.Ldtr),
    "gdt.base": Part(Register.Gdtr, 64, 64),
    "gdt.limit": Part(Register.Gdtr, 48, 16),
    "idt.base": Part(Register.Idtr, 64, 64),
    "idt.limit": Part(Register.Idtr, 48, 16),
    "fcw": Part(Register.FpControlStatus, 0, 16),
    "fsw": Part(Register.FpControlStatus, 16, 16),
    "ftw": Part(Register.FpControlStatus, 32, 8),
    "fop": Part(Register.FpControlStatus, 48, 16),
    "fip": Part(Register.FpControlStatus, 64, 64),
    "fdp": Part(Register.XmmControlStatus, 0, 64),
    "mxcsr": Part(Register.XmmControlStatus, 64, 32),
    **{f"st{i}": Part(Register(Register.FpMmx0 + i), 0, 80) for i in range(8)},
    **{f"xmm{i}": Part(Register(Register.Xmm0 + i), 0, 128) for i in range(16)},
}
"""Every register with a name of its own."""


def part_of(name: str) -> Part:
    """The part for a name, ``msr.0x…`` too. Raises KeyError."""
    if name in FIXED:
        return FIXED[name]
    if name.startswith("msr."):
        try:
            return Part(MSRS[int(name[4:], 0)])
        except (ValueError, KeyError):
            pass
    raise KeyError(name)


SAVED: Final = (
    *(register for register in Register if register < 0x8000_0000 and register is not Register.Tsc),
    Register.PendingInterruption,
    Register.InterruptState,
    Register.InternalActivityState,
)
"""All registers of a vCPU's saved state. The time stamp goes on meanwhile."""
