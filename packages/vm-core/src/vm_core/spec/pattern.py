"""Encoding patterns in the manual's notation, most significant bit first.

``0`` and ``1`` are literal bits, ``.`` is any bit, ``-`` a bit that the CPU ignores, ``rd`` a field of its kind's
width, ``imm[12|10:5]`` the listed bits of a scattered immediate. A pattern is 16 or 32 bits long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from vm_core.errors import SpecError
from vm_core.record import record

__all__ = [
    "Codec",
    "Constraint",
    "Kind",
    "Pattern",
    "Reg",
    "Signed",
    "Static",
    "Strongest",
    "Unsigned",
    "parameters",
]


@record(frozen=True)
class Codec:
    """For a field whose bits are not its value. ``decode`` gives the value of the bits and ``encode`` the bits of a
    value; each raises ValueError where there is none (reserved bits: the pattern does not fit)."""

    decode: Callable[[int], int]
    encode: Callable[[int], int]


@record(frozen=True)
class Kind:
    """What a field is. ``role``: reg, signed, unsigned (run-time operands), static (steers Python) or strongest
    (an ordering bit that every engine treats as set). ``bits`` is the encoded width where the pattern does not say;
    ``base`` is added to the encoded value; a ``codec`` maps it after that."""

    role: str
    bits: int = 0
    base: int = 0
    codec: Codec | None = None


def Reg(bits: int = 5, base: int = 0, *, slots: dict[int, int] | None = None) -> Kind:
    """A register number. ``slots`` sends some numbers to other slots of the file (A64's 31 that means SP)."""
    if slots is None:
        return Kind("reg", bits, base)
    back = {slot: number for number, slot in slots.items()}

    def encode(slot: int) -> int:
        if slot in slots:
            raise ValueError(f"register {slot} cannot be named here")
        return back.get(slot, slot)

    return Kind("reg", bits, base, Codec(lambda number: slots.get(number, number), encode))


def Signed(bits: int = 0) -> Kind:
    """A sign-extended immediate."""
    return Kind("signed", bits)


def Unsigned(bits: int = 0, codec: Codec | None = None) -> Kind:
    """A zero-extended immediate."""
    return Kind("unsigned", bits, 0, codec)


def Static(bits: int) -> Kind:
    """A field whose value may steer Python; each value has a template of its own."""
    return Kind("static", bits)


def Strongest(bits: int = 1) -> Kind:
    """An ordering bit: decoded and printed, but traced as 1, so that it needs no template of its own."""
    return Kind("strongest", bits)


_CONSTRAINT = r"(\w+)(==|!=)(\d+(?:,\d+)*)"  # PERF: compiled when an instruction is defined


@record(frozen=True)
class Constraint:
    """``field`` must (``equal``) or must not be one of ``values``."""

    field: str
    values: tuple[int, ...]
    equal: bool

    @staticmethod
    def parse(text: str) -> tuple[Constraint, ...]:
        """``rd!=0,2 imm==0``: constraints separated by spaces, all of which must hold."""
        import re  # PERF: most runs define no instruction

        out = []
        for word in text.split():
            found = re.fullmatch(_CONSTRAINT, word)
            if not found:
                raise SpecError(f"not a constraint: {word!r} (field!=1,2 or field==3)")
            out.append(Constraint(found[1], tuple(map(int, found[3].split(","))), found[2] == "=="))
        return tuple(out)

    def holds(self, value: int) -> bool:
        return (value in self.values) == self.equal


@record(frozen=True)
class _Part:
    """``count`` bits at ``at`` in the word are bits ``to`` and up of the field."""

    at: int
    count: int
    to: int


def parameters(function: Callable[..., object]) -> list[str]:
    """The names of a function's parameters, in order."""
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__") or code.co_flags & 0x0C:  # *args, **kwargs
        import inspect

        return list(inspect.signature(function).parameters)
    # PERF: what inspect finds out in 20 us.
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


_PART = r"([01.\-]+)|([A-Za-z_]\w*)(?:\[([\d:|]+)\])?"


class Pattern:
    """A parsed pattern: ``mask``/``match`` for the literal bits, the fields' parts, and the width in bits."""

    def __init__(
        self,
        text: str,
        kinds: dict[str, Kind],
        constraints: tuple[Constraint, ...] = (),
        undefined: Callable[..., object] | None = None,
    ) -> None:
        import re

        self.text, self.constraints, self.undefined = text, constraints, undefined
        pieces: list[tuple[str, list[tuple[int, int]] | None, int]] = []
        for token in text.split():
            found = re.fullmatch(_PART, token)
            if not found:
                raise SpecError(f"{text!r}: {token!r} is neither bits nor a field")
            literal, name, ranges = found.groups()
            if literal:
                pieces.append((literal, None, len(literal)))
                continue
            if name not in kinds:
                raise SpecError(f"{text!r}: no kind is declared for the field {name!r}")
            parts: list[tuple[int, int]] = []
            if ranges:
                for part in ranges.split("|"):
                    high, _, low = part.partition(":")
                    if not high or (low and int(low) > int(high)):
                        raise SpecError(f"{text!r}: bad bit range {part!r} of {name}")
                    parts.append((int(high), int(low or high)))
            else:
                if not kinds[name].bits:
                    raise SpecError(f"{text!r}: {name} has no width of its own; write {name}[high:low]")
                parts.append((kinds[name].bits - 1, 0))
            pieces.append((name, parts, sum(high - low + 1 for high, low in parts)))
        self.width = sum(piece[2] for piece in pieces)
        if self.width not in (16, 32):
            raise SpecError(f"{text!r}: {self.width} bits; an encoding has 16 or 32")
        self.mask = self.match = 0
        self.parts: dict[str, list[_Part]] = {}
        at = self.width
        for name, parts_, _ in pieces:
            if parts_ is None:
                for char in name:
                    at -= 1
                    if char in "01":
                        self.mask |= 1 << at
                        self.match |= int(char) << at
                continue
            for high, low in parts_:
                at -= high - low + 1
                mine = self.parts.setdefault(name, [])
                if any(low < part.to + part.count and part.to <= high for part in mine):
                    raise SpecError(f"{text!r}: bits {high}:{low} of {name} are given twice")
                mine.append(_Part(at, high - low + 1, low))
        self.kinds = {name: kinds[name] for name in self.parts}
        self.sizes = {name: max(part.to + part.count for part in mine) for name, mine in self.parts.items()}
        for name, mine in self.parts.items():
            low = min(part.to for part in mine)
            if sum(part.count for part in mine) != self.sizes[name] - low:
                raise SpecError(f"{text!r}: some bits of {name} below {self.sizes[name]} are missing")
        for constraint in constraints:
            if constraint.field not in self.parts:
                raise SpecError(f"{text!r}: constraint on {constraint.field!r}, which is no field of it")
        self._asks: tuple[str, ...] = () if undefined is None else tuple(parameters(undefined))
        if strange := [name for name in self._asks if name not in self.parts]:
            raise SpecError(f"{text!r}: undefined asks for {', '.join(strange)}, no field of it")
        self._plain = not (constraints or self._asks or any(kind.codec for kind in self.kinds.values()))

    def is_undefined(self, fields: dict[str, int]) -> bool:
        """Whether the manual makes this combination of field values UNDEFINED."""
        return self.undefined is not None and bool(
            self.undefined(**{name: fields[name] for name in self._asks})
        )

    def extract(self, word: int) -> dict[str, int]:
        """The fields' values in ``word``: register numbers, sign-extended immediates, raw statics.

        Raises ValueError for bits that are reserved."""
        out = {}
        for name, parts, sign, base, codec in self._plan:
            value = base
            for at, mask, to in parts:
                value += (word >> at & mask) << to
            if sign and value & sign:
                value -= sign << 1
            out[name] = value if codec is None else codec.decode(value)
        return out

    @cached_property
    def _plan(self) -> list[tuple[str, list[tuple[int, int, int]], int, int, Codec | None]]:
        return [
            (
                name,
                [(part.at, (1 << part.count) - 1, part.to) for part in parts],
                1 << (self.sizes[name] - 1) if self.kinds[name].role == "signed" else 0,
                self.kinds[name].base,
                self.kinds[name].codec,
            )
            for name, parts in self.parts.items()
        ]

    def fits(self, word: int) -> bool:
        """Whether ``word`` has this pattern's literal bits and its fields satisfy the constraints."""
        if word & self.mask != self.match:
            return False
        if self._plain:
            return True
        try:
            fields = self.extract(word)
        except ValueError:
            return False
        return all(constraint.holds(fields[constraint.field]) for constraint in self.constraints) and not (
            self.is_undefined(fields)
        )

    def insert(self, fields: dict[str, int]) -> int:
        """The word with these field values. Raises ValueError for one that does not fit its bits."""
        word = self.match
        for name, parts in self.parts.items():
            kind, size = self.kinds[name], self.sizes[name]
            low = min(part.to for part in parts)
            value = (
                kind.codec.encode(fields.get(name, 0)) if kind.codec else fields.get(name, 0)
            ) - kind.base
            ok = (
                -(1 << (size - 1)) <= value < 1 << (size - 1)
                if kind.role == "signed"
                else 0 <= value < 1 << size
            )
            if not ok or value & ((1 << low) - 1):
                raise ValueError(
                    f"{name}={fields.get(name, 0)} does not fit in {size} bits (multiples of {1 << low})"
                )
            for part in parts:
                word |= (value >> part.to & ((1 << part.count) - 1)) << part.at
        for constraint in self.constraints:
            if not constraint.holds(fields.get(constraint.field, 0)):
                raise ValueError(f"{constraint.field}={fields.get(constraint.field, 0)} is excluded here")
        if self._asks and self.is_undefined({name: fields.get(name, 0) for name in self.parts}):
            raise ValueError(
                f"{', '.join(f'{name}={fields.get(name, 0)}' for name in self._asks)} is undefined"
            )
        return word

    def overlaps(self, other: Pattern) -> bool:
        """Whether some word could fit both. Constraints count where the other's literal bits settle the field."""
        if self.width != other.width or (self.match ^ other.match) & self.mask & other.mask:
            return False
        return not (self._excludes(other) or other._excludes(self))

    def _field(self, name: str, word: int) -> int:
        """One field's bits in ``word``, its base added."""
        return self.kinds[name].base + sum(
            (word >> part.at & ((1 << part.count) - 1)) << part.to for part in self.parts[name]
        )

    def _excludes(self, other: Pattern) -> bool:
        """Whether a constraint of ours fails for every word with the literal bits of ``other``."""
        known, bits = self.mask | other.mask, self.match | other.match
        for constraint in self.constraints:
            parts = self.parts[constraint.field]
            settled = all(
                known >> part.at & ((1 << part.count) - 1) == (1 << part.count) - 1 for part in parts
            )
            if settled and not constraint.holds(self._field(constraint.field, bits)):
                return True
            for theirs in other.constraints:
                if (
                    other.parts.get(theirs.field) == parts
                    and theirs.equal
                    and not any(map(constraint.holds, theirs.values))
                ):
                    return True
        return False
