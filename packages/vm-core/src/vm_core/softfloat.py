"""IEEE 754-2019 binary floating point on Python ints: exact, slow, and the definition for every other back end.

Numbers are bit patterns of ``fmt`` bits (16, 32 or 64). Every function returns ``(bits, flags)``. A NaN result is the
canonical quiet NaN. Tininess is detected after rounding (RISC-V and x86; Unprivileged ISA 20240411, section 20.2).
Flags are RISC-V's: NX 1, UF 2, OF 4, DZ 8, NV 16. Rounding modes are RISC-V's: RNE 0, RTZ 1, RDN 2, RUP 3, RMM 4.
"""

from __future__ import annotations

import math
from typing import Final

from vm_core.record import record

__all__ = [
    "DZ",
    "NV",
    "NX",
    "OF",
    "RDN",
    "RMM",
    "RNE",
    "RTZ",
    "RUP",
    "UF",
    "add",
    "convert",
    "div",
    "eq",
    "fma",
    "from_int",
    "le",
    "lt",
    "lt_quiet",
    "mul",
    "sqrt",
    "sub",
    "to_int",
]

RNE: Final = 0
"""To nearest, ties to even."""
RTZ: Final = 1
"""Towards zero."""
RDN: Final = 2
"""Towards minus infinity."""
RUP: Final = 3
"""Towards plus infinity."""
RMM: Final = 4
"""To nearest, ties away from zero."""
NX: Final = 1
"""Inexact."""
UF: Final = 2
"""Underflow."""
OF: Final = 4
"""Overflow."""
DZ: Final = 8
"""Division by zero."""
NV: Final = 16
"""Invalid operation."""

Result = tuple[int, int]


@record(frozen=True)
class _Format:
    """``fraction`` bits are stored after the exponent; ``emin`` is the exponent of the smallest normal number."""

    fraction: int
    emin: int
    infinity: int
    quiet: int
    sign: int


_FORMATS: Final = {
    16: _Format(10, -14, 0x7C00, 0x7E00, 1 << 15),
    32: _Format(23, -126, 0x7F80_0000, 0x7FC0_0000, 1 << 31),
    64: _Format(52, -1022, 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 1 << 63),
}


def _unpack(fmt: int, a: int) -> tuple[int, int, int]:
    """A finite number as (sign bit, m, e): its magnitude is m * 2**e."""
    f = _FORMATS[fmt]
    magnitude = a & (f.sign - 1)
    exponent = magnitude >> f.fraction
    if exponent == 0:
        return a & f.sign, magnitude, f.emin - f.fraction
    return (
        a & f.sign,
        magnitude & ((1 << f.fraction) - 1) | 1 << f.fraction,
        exponent - 1 + f.emin - f.fraction,
    )


def _nan(fmt: int, a: int) -> bool:
    f = _FORMATS[fmt]
    return a & (f.sign - 1) > f.infinity


def _signalling(fmt: int, a: int) -> bool:
    f = _FORMATS[fmt]
    return a & (f.sign - 1) > f.infinity and not a >> (f.fraction - 1) & 1


def _up(rm: int, negative: bool, odd: int, rest: int, half: int) -> bool:
    """Whether a magnitude is rounded away from zero: ``rest`` of a unit in the last place, which is 2 * half."""
    if rm == RNE:
        return rest > half or (rest == half and bool(odd))
    if rm == RMM:
        return rest >= half
    if rm == RTZ:
        return False
    return rest > 0 and negative == (rm == RDN)


def _shift_round(m: int, shift: int, rm: int, negative: bool) -> tuple[int, bool]:
    """m / 2**shift as an integer rounded by ``rm``, and whether that is inexact."""
    if shift <= 0:
        return m << -shift, False
    kept, rest = m >> shift, m & ((1 << shift) - 1)
    if _up(rm, negative, kept & 1, rest, 1 << (shift - 1)):
        kept += 1
    return kept, rest != 0


def _round(fmt: int, sign: int, m: int, e: int, rm: int) -> Result:
    """The number ±m * 2**e (m > 0) in the format. Where m is cut off, its lowest bit is sticky."""
    f = _FORMATS[fmt]
    negative = sign != 0
    top = m.bit_length() - 1 + e
    unit = max(top, f.emin) - f.fraction
    kept, inexact = _shift_round(m, unit - e, rm, negative)
    # A carry out of the fraction, or from the subnormals, lands in the exponent, where it belongs.
    packed = ((unit + f.fraction - f.emin) << f.fraction) + kept
    if packed >= f.infinity:
        away = rm in (RNE, RMM) or negative == (rm == RDN) and rm != RTZ
        return sign | (f.infinity if away else f.infinity - 1), OF | NX
    flags = NX if inexact else 0
    if inexact and top < f.emin:
        # After rounding with an unbounded exponent, is it still below the smallest normal number?
        whole, _ = _shift_round(m, top - f.fraction - e, rm, negative)
        if top + (whole >> (f.fraction + 1)) < f.emin:
            flags |= UF
    return sign | packed, flags


def _invalid(fmt: int) -> Result:
    return _FORMATS[fmt].quiet, NV


def _propagate(fmt: int, *args: int) -> Result:
    """The result of an operation some of whose operands are NaNs."""
    return _FORMATS[fmt].quiet, NV if any(_signalling(fmt, a) for a in args) else 0


def _sum(fmt: int, sa: int, ma: int, ea: int, sb: int, mb: int, eb: int, rm: int) -> Result:
    """±ma * 2**ea + ±mb * 2**eb, all finite, rounded once."""
    low = min(ea, eb)
    total = (-1 if sa else 1) * (ma << (ea - low)) + (-1 if sb else 1) * (mb << (eb - low))
    if total == 0:
        sign = sa if sa == sb else _FORMATS[fmt].sign if rm == RDN else 0
        return sign, 0
    return _round(fmt, _FORMATS[fmt].sign if total < 0 else 0, abs(total), low, rm)


def add(fmt: int, a: int, b: int, rm: int) -> Result:
    """a + b."""
    f = _FORMATS[fmt]
    if _nan(fmt, a) or _nan(fmt, b):
        return _propagate(fmt, a, b)
    if a & (f.sign - 1) == f.infinity:
        return _invalid(fmt) if b == a ^ f.sign else (a, 0)
    if b & (f.sign - 1) == f.infinity:
        return b, 0
    return _sum(fmt, *_unpack(fmt, a), *_unpack(fmt, b), rm)


def sub(fmt: int, a: int, b: int, rm: int) -> Result:
    """a - b."""
    return add(fmt, a, b if _nan(fmt, b) else b ^ _FORMATS[fmt].sign, rm)


def mul(fmt: int, a: int, b: int, rm: int) -> Result:
    """a * b."""
    f = _FORMATS[fmt]
    if _nan(fmt, a) or _nan(fmt, b):
        return _propagate(fmt, a, b)
    sign = (a ^ b) & f.sign
    ma, mb = a & (f.sign - 1), b & (f.sign - 1)
    if f.infinity in (ma, mb):
        return _invalid(fmt) if 0 in (ma, mb) else (sign | f.infinity, 0)
    if 0 in (ma, mb):
        return sign, 0
    (_, ma, ea), (_, mb, eb) = _unpack(fmt, a), _unpack(fmt, b)
    return _round(fmt, sign, ma * mb, ea + eb, rm)


def div(fmt: int, a: int, b: int, rm: int) -> Result:
    """a / b."""
    f = _FORMATS[fmt]
    if _nan(fmt, a) or _nan(fmt, b):
        return _propagate(fmt, a, b)
    sign = (a ^ b) & f.sign
    ma, mb = a & (f.sign - 1), b & (f.sign - 1)
    if ma == f.infinity:
        return _invalid(fmt) if mb == f.infinity else (sign | f.infinity, 0)
    if mb == f.infinity:
        return sign, 0
    if mb == 0:
        return _invalid(fmt) if ma == 0 else (sign | f.infinity, DZ)
    if ma == 0:
        return sign, 0
    (_, ma, ea), (_, mb, eb) = _unpack(fmt, a), _unpack(fmt, b)
    # Enough quotient bits for the fraction, a guard bit and a sticky bit, whatever the operands' lengths.
    extra = max(0, f.fraction + 3 + mb.bit_length() - ma.bit_length())
    quotient, rest = divmod(ma << extra, mb)
    return _round(fmt, sign, quotient << 1 | (rest != 0), ea - eb - extra - 1, rm)


def sqrt(fmt: int, a: int, rm: int) -> Result:
    """The square root; that of -0 is -0."""
    f = _FORMATS[fmt]
    if _nan(fmt, a):
        return _propagate(fmt, a)
    if a & (f.sign - 1) == 0:
        return a, 0
    if a & f.sign:
        return _invalid(fmt)
    if a == f.infinity:
        return a, 0
    _, m, e = _unpack(fmt, a)
    extra = 2 * (f.fraction + 3) + (e & 1)
    m, e = m << extra, e - extra
    root = math.isqrt(m)
    return _round(fmt, 0, root << 1 | (root * root != m), e // 2 - 1, rm)


def fma(fmt: int, a: int, b: int, c: int, rm: int) -> Result:
    """a * b + c, rounded once. Infinity times zero is invalid even where c is a quiet NaN."""
    f = _FORMATS[fmt]
    ma, mb, mc = a & (f.sign - 1), b & (f.sign - 1), c & (f.sign - 1)
    if ma <= f.infinity and mb <= f.infinity and f.infinity in (ma, mb) and 0 in (ma, mb):
        return _invalid(fmt)
    if max(ma, mb, mc) > f.infinity:
        return _propagate(fmt, a, b, c)
    sign = (a ^ b) & f.sign
    if f.infinity in (ma, mb):
        return _invalid(fmt) if mc == f.infinity and c & f.sign != sign else (sign | f.infinity, 0)
    if mc == f.infinity:
        return c, 0
    (_, ma, ea), (_, mb, eb) = _unpack(fmt, a), _unpack(fmt, b)
    return _sum(fmt, sign, ma * mb, ea + eb, *_unpack(fmt, c), rm)


def to_int(fmt: int, a: int, rm: int, width: int, signed: bool) -> Result:
    """An integer of ``width`` bits. Out of range saturates, NaN gives the largest; both raise only NV."""
    f = _FORMATS[fmt]
    least, most = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    magnitude = a & (f.sign - 1)
    if magnitude > f.infinity:
        return most, NV
    if magnitude == f.infinity:
        return (least if a & f.sign else most) & ((1 << width) - 1), NV
    sign, m, e = _unpack(fmt, a)
    kept, inexact = _shift_round(m, -e, rm, sign != 0)
    value = -kept if sign else kept
    if not least <= value <= most:
        return (least if sign else most) & ((1 << width) - 1), NV
    return value & ((1 << width) - 1), NX if inexact else 0


def from_int(fmt: int, a: int, width: int, rm: int, signed: bool) -> Result:
    """The number that the ``width``-bit integer ``a`` is. Zero gives +0."""
    if signed and a >> (width - 1):
        return _round(fmt, _FORMATS[fmt].sign, (1 << width) - a, 0, rm)
    return _round(fmt, 0, a, 0, rm) if a else (0, 0)


def convert(source: int, target: int, a: int, rm: int) -> Result:
    """From one format to another."""
    f, to = _FORMATS[source], _FORMATS[target]
    magnitude = a & (f.sign - 1)
    if magnitude > f.infinity:
        return to.quiet, NV if _signalling(source, a) else 0
    sign = to.sign if a & f.sign else 0
    if magnitude == f.infinity:
        return sign | to.infinity, 0
    if magnitude == 0:
        return sign, 0
    _, m, e = _unpack(source, a)
    return _round(target, sign, m, e, rm)


def _key(fmt: int, a: int) -> int:
    """A number that orders non-NaN patterns; both zeros are 0."""
    sign = _FORMATS[fmt].sign
    return -(a & (sign - 1)) if a & sign else a


def _quiet(fmt: int, a: int, b: int) -> int | None:
    """The flags of a quiet comparison with a NaN operand, or None where neither is one."""
    if _nan(fmt, a) or _nan(fmt, b):
        return NV if _signalling(fmt, a) or _signalling(fmt, b) else 0
    return None


def eq(fmt: int, a: int, b: int) -> Result:
    """a == b: quiet. False where an operand is a NaN."""
    flags = _quiet(fmt, a, b)
    return (int(_key(fmt, a) == _key(fmt, b)), 0) if flags is None else (0, flags)


def lt(fmt: int, a: int, b: int) -> Result:
    """a < b: signalling (NV for any NaN)."""
    return (0, NV) if _nan(fmt, a) or _nan(fmt, b) else (int(_key(fmt, a) < _key(fmt, b)), 0)


def le(fmt: int, a: int, b: int) -> Result:
    """a <= b: signalling (NV for any NaN)."""
    return (0, NV) if _nan(fmt, a) or _nan(fmt, b) else (int(_key(fmt, a) <= _key(fmt, b)), 0)


def lt_quiet(fmt: int, a: int, b: int) -> Result:
    """a < b: quiet."""
    flags = _quiet(fmt, a, b)
    return (int(_key(fmt, a) < _key(fmt, b)), 0) if flags is None else (0, flags)
