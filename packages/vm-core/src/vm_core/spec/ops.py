"""The op set of templates: the whole intermediate language, as one table.

Every value is a bit vector of 1 to 128 bits. Arithmetic wraps. Shift amounts are taken modulo the width. Division
is total: ``x / 0`` is all ones, ``x % 0`` is x, the signed overflow wraps. The function in a :class:`PureOp` *is* the
op's definition: the reference executor calls it, and every other back end is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable

from vm_core.hints import Final
from vm_core.record import record

__all__ = ["AMO", "EFFECTS", "MAX_WIDTH", "PURE", "EffectOp", "PureOp", "signed"]

MAX_WIDTH: Final = 128


def mask(width: int) -> int:
    return (1 << width) - 1


def signed(value: int, width: int) -> int:
    """The two's complement reading of a ``width``-bit value."""
    return value - ((value >> (width - 1)) << width)


def _sdiv(w: int, a: int, b: int) -> int:
    x, y = signed(a, w), signed(b, w)
    if y == 0:
        return mask(w)
    quotient = abs(x) // abs(y)
    return (-quotient if (x < 0) != (y < 0) else quotient) & mask(w)


def _srem(w: int, a: int, b: int) -> int:
    x, y = signed(a, w), signed(b, w)
    if y == 0:
        return a
    remainder = abs(x) % abs(y)
    return (-remainder if x < 0 else remainder) & mask(w)


def _lanes(op: Callable[[int, int], int]) -> Callable[[int, int, int, int], int]:
    def apply(width: int, lane: int, a: int, b: int) -> int:
        out = 0
        for at in range(0, width, lane):
            out |= (op(a >> at & mask(lane), b >> at & mask(lane)) & mask(lane)) << at
        return out

    return apply


@record(frozen=True)
class PureOp:
    """``shape`` says how widths go together: ``same`` (all args and the result), ``compare`` (args alike, result 1
    bit), ``select``, ``unary`` (result as the arg), ``lanes`` (same, plus a lane width in ``attr``), ``cast``.
    ``evaluate(width, *args)`` takes the width of the last arg."""

    shape: str
    evaluate: Callable[..., int]


PURE: Final[dict[str, PureOp]] = {
    # ** integer arithmetic
    "add": PureOp("same", lambda w, a, b: a + b & mask(w)),
    "sub": PureOp("same", lambda w, a, b: a - b & mask(w)),
    "mul": PureOp("same", lambda w, a, b: a * b & mask(w)),
    "udiv": PureOp("same", lambda w, a, b: a // b if b else mask(w)),
    "urem": PureOp("same", lambda w, a, b: a % b if b else a),
    "sdiv": PureOp("same", _sdiv),
    "srem": PureOp("same", _srem),
    # ** logic and shifts
    "and": PureOp("same", lambda w, a, b: a & b),
    "or": PureOp("same", lambda w, a, b: a | b),
    "xor": PureOp("same", lambda w, a, b: a ^ b),
    "shl": PureOp("same", lambda w, a, b: a << b % w & mask(w)),
    "lshr": PureOp("same", lambda w, a, b: a >> b % w),
    "ashr": PureOp("same", lambda w, a, b: signed(a, w) >> b % w & mask(w)),
    # ** comparison
    "eq": PureOp("compare", lambda w, a, b: int(a == b)),
    "ne": PureOp("compare", lambda w, a, b: int(a != b)),
    "ult": PureOp("compare", lambda w, a, b: int(a < b)),
    "ule": PureOp("compare", lambda w, a, b: int(a <= b)),
    "slt": PureOp("compare", lambda w, a, b: int(signed(a, w) < signed(b, w))),
    "sle": PureOp("compare", lambda w, a, b: int(signed(a, w) <= signed(b, w))),
    "select": PureOp("select", lambda w, c, a, b: a if c else b),
    # ** bit counting
    "popcount": PureOp("unary", lambda w, a: a.bit_count()),
    "clz": PureOp("unary", lambda w, a: w - a.bit_length()),
    "ctz": PureOp("unary", lambda w, a: (a & -a).bit_length() - 1 if a else w),
    "bswap": PureOp("unary", lambda w, a: int.from_bytes(a.to_bytes(w // 8, "little"), "big")),
    # ** lanes of a vector register
    "lanes.add": PureOp("lanes", _lanes(lambda a, b: a + b)),
    "lanes.sub": PureOp("lanes", _lanes(lambda a, b: a - b)),
    # ** width changes; attr: zext/sext none, extract the lowest bit taken
    "zext": PureOp("cast", lambda w, a: a),
    "sext": PureOp("cast", lambda w, a: a),
    "extract": PureOp("cast", lambda w, a: a),
    "concat": PureOp("cast", lambda w, a, b: a << w | b),
}


@record(frozen=True)
class EffectOp:
    """An op that reads or changes state. ``args`` counts value arguments; ``result`` tells whether it has a value;
    ``attr`` documents its attribute; ``faults`` tells whether it can end the instruction with a trap."""

    args: int
    result: bool
    attr: str
    faults: bool = False


EFFECTS: Final[dict[str, EffectOp]] = {
    "const": EffectOp(0, True, "value"),
    "field": EffectOp(0, True, "field name; sign- or zero-extended to 64 bits by its kind"),
    "pc": EffectOp(0, True, "-"),
    "next_pc": EffectOp(0, True, "-"),
    "reg": EffectOp(0, True, "(file, slot number or field name)"),
    "setreg": EffectOp(1, False, "(file, slot number or field name)"),
    "load": EffectOp(1, True, "order", faults=True),
    "store": EffectOp(2, False, "order", faults=True),
    "probe": EffectOp(1, False, "bits: the store of that size that follows cannot fault", faults=True),
    "amo": EffectOp(2, True, "(operation, order): value before", faults=True),
    "cas": EffectOp(3, True, "order; args address, expected, new: value before", faults=True),
    "load_reserved": EffectOp(1, True, "order", faults=True),
    "store_conditional": EffectOp(2, True, "order: 1 bit, 0 for success", faults=True),
    "fence": EffectOp(0, False, "acquire | release | acq_rel | seq_cst"),
    "setpc": EffectOp(1, False, "branch | jump | call | ret | repeat"),
    "trap": EffectOp(0, False, "cause", faults=True),
    "sync_fetch": EffectOp(0, False, "-: later fetches see earlier stores"),
    # ** floating point; attr (format bits, rounding mode or None); each accrues its exceptions into the sticky flags
    "fp.add": EffectOp(2, True, "(fmt, rm)"),
    "fp.sub": EffectOp(2, True, "(fmt, rm)"),
    "fp.mul": EffectOp(2, True, "(fmt, rm)"),
    "fp.div": EffectOp(2, True, "(fmt, rm)"),
    "fp.sqrt": EffectOp(1, True, "(fmt, rm)"),
    "fp.fma": EffectOp(3, True, "(fmt, rm): a * b + c"),
    "fp.to_int": EffectOp(1, True, "(fmt, rm, signed): saturating, NaN gives the largest"),
    "fp.from_int": EffectOp(1, True, "(fmt, rm, signed)"),
    "fp.convert": EffectOp(1, True, "(from, rm, to)"),
    "fp.eq": EffectOp(2, True, "(fmt, None): quiet"),
    "fp.lt": EffectOp(2, True, "(fmt, None): signalling"),
    "fp.le": EffectOp(2, True, "(fmt, None): signalling"),
    "fp.lt_quiet": EffectOp(2, True, "(fmt, None)"),
    "fp.get_flags": EffectOp(0, True, "-: 64 bits"),
    "fp.set_flags": EffectOp(1, False, "-"),
    "fp.get_rounding": EffectOp(0, True, "-: 64 bits"),
    "fp.set_rounding": EffectOp(1, False, "-"),
    "counter": EffectOp(0, True, "cycle | time | instret"),
}

AMO: Final[dict[str, Callable[[int, int, int], int]]] = {
    "swap": lambda w, a, b: b,
    "add": lambda w, a, b: a + b & mask(w),
    "sub": lambda w, a, b: a - b & mask(w),
    "and": lambda w, a, b: a & b,
    "or": lambda w, a, b: a | b,
    "xor": lambda w, a, b: a ^ b,
    "min": lambda w, a, b: a if signed(a, w) <= signed(b, w) else b,
    "max": lambda w, a, b: a if signed(a, w) >= signed(b, w) else b,
    "umin": lambda w, a, b: min(a, b),
    "umax": lambda w, a, b: max(a, b),
}
"""Read-modify-write operations: new value from (width, old, operand)."""
