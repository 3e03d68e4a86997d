"""Floating point for instruction texts: bit patterns in, bit patterns out, exact IEEE 754-2019.

Each operation accrues its exceptions into the vCPU's sticky flags. A NaN result is the canonical quiet NaN (positive,
no payload): RISC-V's rule. ``rm`` is the rounding mode: 0 nearest-even, 1 towards zero, 2 down, 3 up, 4 nearest with
ties away, 7 the dynamic mode (an invalid dynamic mode is an illegal instruction).
"""

from __future__ import annotations

from vm_core.hints import Final
from vm_core.spec.trace import Bits, tracer

__all__ = [
    "DYN",
    "F32",
    "F64",
    "FLAG_DZ",
    "FLAG_NV",
    "FLAG_NX",
    "FLAG_OF",
    "FLAG_UF",
    "RDN",
    "RMM",
    "RNE",
    "RTZ",
    "RUP",
    "add",
    "canonical_nan",
    "convert",
    "div",
    "eq",
    "fma",
    "from_int",
    "get_flags",
    "get_rounding",
    "infinity",
    "is_nan",
    "le",
    "lt",
    "lt_quiet",
    "mul",
    "set_flags",
    "set_rounding",
    "smallest_normal",
    "sqrt",
    "sub",
    "to_int",
]

F32: Final = 32
F64: Final = 64
RNE, RTZ, RDN, RUP, RMM, DYN = 0, 1, 2, 3, 4, 7
FLAG_NX, FLAG_UF, FLAG_OF, FLAG_DZ, FLAG_NV = 1, 2, 4, 8, 16
"""Exception bits, in RISC-V's order (Unprivileged ISA 20240411, section 20.2)."""


def add(fmt: int, a: Bits, b: Bits, rm: int) -> Bits:
    return a.trace.effect("fp.add", fmt, (a, b), (fmt, rm))


def sub(fmt: int, a: Bits, b: Bits, rm: int) -> Bits:
    return a.trace.effect("fp.sub", fmt, (a, b), (fmt, rm))


def mul(fmt: int, a: Bits, b: Bits, rm: int) -> Bits:
    return a.trace.effect("fp.mul", fmt, (a, b), (fmt, rm))


def div(fmt: int, a: Bits, b: Bits, rm: int) -> Bits:
    return a.trace.effect("fp.div", fmt, (a, b), (fmt, rm))


def sqrt(fmt: int, a: Bits, rm: int) -> Bits:
    return a.trace.effect("fp.sqrt", fmt, (a,), (fmt, rm))


def fma(fmt: int, a: Bits, b: Bits, c: Bits, rm: int) -> Bits:
    """a * b + c, rounded once."""
    return a.trace.effect("fp.fma", fmt, (a, b, c), (fmt, rm))


def to_int(fmt: int, a: Bits, rm: int, width: int, signed: bool) -> Bits:
    """Saturating; NaN gives the largest value; out of range raises only NV."""
    return a.trace.effect("fp.to_int", width, (a,), (fmt, rm, signed))


def from_int(fmt: int, a: Bits, rm: int, signed: bool) -> Bits:
    return a.trace.effect("fp.from_int", fmt, (a,), (fmt, rm, signed))


def convert(source: int, target: int, a: Bits, rm: int) -> Bits:
    """Between formats."""
    return a.trace.effect("fp.convert", target, (a,), (source, rm, target))


def eq(fmt: int, a: Bits, b: Bits) -> Bits:
    """Quiet: NV only for a signalling NaN. 1 bit."""
    return a.trace.effect("fp.eq", 1, (a, b), (fmt, None))


def lt(fmt: int, a: Bits, b: Bits) -> Bits:
    """Signalling: NV for any NaN. 1 bit."""
    return a.trace.effect("fp.lt", 1, (a, b), (fmt, None))


def le(fmt: int, a: Bits, b: Bits) -> Bits:
    """Signalling: NV for any NaN. 1 bit."""
    return a.trace.effect("fp.le", 1, (a, b), (fmt, None))


def lt_quiet(fmt: int, a: Bits, b: Bits) -> Bits:
    """Quiet: NV only for a signalling NaN. 1 bit."""
    return a.trace.effect("fp.lt_quiet", 1, (a, b), (fmt, None))


def is_nan(fmt: int, a: Bits) -> Bits:
    """Quiet or signalling; accrues nothing. 1 bit."""
    return a.trace.const(infinity(fmt), fmt).lt_u(a & ((1 << (fmt - 1)) - 1))


def infinity(fmt: int) -> int:
    """The pattern of plus infinity."""
    return 0x7F80_0000 if fmt == F32 else 0x7FF0_0000_0000_0000


def smallest_normal(fmt: int) -> int:
    """The pattern of the smallest positive normal number."""
    return 1 << (23 if fmt == F32 else 52)


def canonical_nan(fmt: int) -> int:
    """The pattern of the quiet NaN that every NaN result is."""
    return infinity(fmt) | 1 << (22 if fmt == F32 else 51)


def get_flags() -> Bits:
    """The sticky exception flags, 64 bits wide."""
    return tracer().effect("fp.get_flags", 64, ())


def set_flags(value: Bits) -> None:
    """Replace the sticky exception flags by the low five bits of a 64-bit value."""
    value.trace.effect("fp.set_flags", 0, (value,))


def get_rounding() -> Bits:
    """The dynamic rounding mode, 64 bits wide."""
    return tracer().effect("fp.get_rounding", 64, ())


def set_rounding(value: Bits) -> None:
    """Replace the dynamic rounding mode by the low three bits of a 64-bit value."""
    value.trace.effect("fp.set_rounding", 0, (value,))
