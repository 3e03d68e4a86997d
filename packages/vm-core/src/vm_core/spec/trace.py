"""Values and the tracer: running an instruction's text once gives its template.

A :class:`Bits` is a run-time value of exact width. Signedness lives in the operators. Register writes are buffered
and committed at the end of the instruction, so a fault leaves every register as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vm_core.errors import SpecError
from vm_core.hints import Any, NoReturn
from vm_core.spec.ops import EFFECTS, MAX_WIDTH, PURE
from vm_core.spec.template import Op, Template

__all__ = ["Bits", "Tracer", "bits", "concat", "select", "tracer", "when"]

_current: ContextVar[Tracer | None] = ContextVar("tracer", default=None)


def tracer() -> Tracer:
    """The trace under way. SpecError outside of one."""
    found = _current.get()
    if found is None:
        raise SpecError("run-time values exist only while an instruction is traced")
    return found


def _where() -> str:
    """file:line of the nearest frame outside the language, so that errors point at the author's line."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("vm_core.spec"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}: "
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class SpecTypeError(SpecError, TypeError):
    """A type error in an instruction's text: a value as a condition, or two widths mixed."""


def type_error(message: str) -> NoReturn:
    raise SpecTypeError(_where() + message)


class Bits:
    """A run-time bit vector. Operators take another Bits of the same width, or an int, which takes that width."""

    __slots__ = ("id", "trace", "width")
    __hash__ = object.__hash__

    def __init__(self, trace: Tracer, number: int, width: int) -> None:
        self.trace, self.id, self.width = trace, number, width

    def __bool__(self) -> NoReturn:  # noqa: PLE0304  it always raises
        type_error(
            "a run-time value cannot steer Python; use select(), when() or pc.branch(), or declare the field Static"
        )

    def __index__(self) -> NoReturn:  # noqa: PLE0305  it always raises
        type_error("a run-time value cannot index or count in Python")

    def __iter__(self) -> NoReturn:
        type_error("a run-time value is not iterable; use slices v[hi:lo]")

    def _same(self, other: Bits | int) -> Bits:
        if isinstance(other, Bits):
            if other.width != self.width:
                type_error(f"widths differ: {self.width} and {other.width} bits; use zext, sext or v[hi:lo]")
            return other
        if isinstance(other, int):
            return self.trace.const(other, self.width)
        type_error(f"{type(other).__name__} is no run-time value")

    def _two(self, code: str, other: Bits | int, width: int | None = None) -> Bits:
        return self.trace.pure(code, width or self.width, (self, self._same(other)))

    def _shift(self, code: str, amount: Bits | int) -> Bits:
        if self.width & (self.width - 1):
            type_error(f"shift of a {self.width}-bit value: only powers of two")
        if isinstance(amount, Bits) and amount.width != self.width:
            amount = amount.zext(self.width) if amount.width < self.width else amount[self.width - 1 : 0]
        return self._two(code, amount)

    def __add__(self, other: Bits | int) -> Bits:
        return self._two("add", other)

    __radd__ = __add__

    def __sub__(self, other: Bits | int) -> Bits:
        return self._two("sub", other)

    def __rsub__(self, other: int) -> Bits:
        return self._same(other) - self

    def __neg__(self) -> Bits:
        return self._same(0) - self

    def __mul__(self, other: Bits | int) -> Bits:
        return self._two("mul", other)

    __rmul__ = __mul__

    def __and__(self, other: Bits | int) -> Bits:
        return self._two("and", other)

    __rand__ = __and__

    def __or__(self, other: Bits | int) -> Bits:
        return self._two("or", other)

    __ror__ = __or__

    def __xor__(self, other: Bits | int) -> Bits:
        return self._two("xor", other)

    __rxor__ = __xor__

    def __invert__(self) -> Bits:
        return self._two("xor", -1)

    def __lshift__(self, amount: Bits | int) -> Bits:
        """Shift left; the amount (any width) is taken modulo the width."""
        return self._shift("shl", amount)

    def __rshift__(self, amount: Bits | int) -> Bits:
        """Logical shift right; the amount (any width) is taken modulo the width."""
        return self._shift("lshr", amount)

    def sar(self, amount: Bits | int) -> Bits:
        """Arithmetic shift right; the amount (any width) is taken modulo the width."""
        return self._shift("ashr", amount)

    def rotate_right(self, amount: Bits | int) -> Bits:
        return (self >> amount) | (self << (0 - amount))

    def udiv(self, other: Bits | int) -> Bits:
        """Unsigned quotient; x / 0 is all ones."""
        return self._two("udiv", other)

    def urem(self, other: Bits | int) -> Bits:
        """Unsigned remainder; x % 0 is x."""
        return self._two("urem", other)

    def sdiv(self, other: Bits | int) -> Bits:
        """Signed quotient towards zero; x / 0 is -1, the overflow wraps."""
        return self._two("sdiv", other)

    def srem(self, other: Bits | int) -> Bits:
        """Signed remainder with the dividend's sign; x % 0 is x."""
        return self._two("srem", other)

    def __eq__(self, other: object) -> Bits:  # type: ignore[override]
        return self._two("eq", other, 1)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Bits:  # type: ignore[override]
        return self._two("ne", other, 1)  # type: ignore[arg-type]

    def __lt__(self, other: object) -> NoReturn:
        type_error("signedness lives in the operator: use lt_u or lt_s")

    __le__ = __gt__ = __ge__ = __lt__

    def lt_u(self, other: Bits | int) -> Bits:
        return self._two("ult", other, 1)

    def lt_s(self, other: Bits | int) -> Bits:
        return self._two("slt", other, 1)

    def le_u(self, other: Bits | int) -> Bits:
        return self._two("ule", other, 1)

    def le_s(self, other: Bits | int) -> Bits:
        return self._two("sle", other, 1)

    def ge_u(self, other: Bits | int) -> Bits:
        return self._same(other).le_u(self)

    def ge_s(self, other: Bits | int) -> Bits:
        return self._same(other).le_s(self)

    def zext(self, width: int) -> Bits:
        """Zero-extend to ``width`` bits."""
        return self._extend("zext", width)

    def sext(self, width: int) -> Bits:
        """Sign-extend to ``width`` bits."""
        return self._extend("sext", width)

    def _extend(self, code: str, width: int) -> Bits:
        if width == self.width:
            return self
        if width < self.width:
            type_error(f"{code} of {self.width} bits to {width}: take v[{width - 1}:0] instead")
        return self.trace.pure(code, width, (self,))

    def __getitem__(self, key: slice | int) -> Bits:
        """``v[31:0]`` or ``v[63]``: bounds inclusive, most significant first, as in every manual."""
        high, low = (key.start, key.stop) if isinstance(key, slice) else (key, key)
        if not (isinstance(high, int) and isinstance(low, int)) or not 0 <= low <= high < self.width:
            type_error(f"bad slice [{high}:{low}] of a {self.width}-bit value")
        if high - low + 1 == self.width:
            return self
        return self.trace.pure("extract", high - low + 1, (self,), low)

    def popcount(self) -> Bits:
        return self.trace.pure("popcount", self.width, (self,))

    def clz(self) -> Bits:
        """Leading zeros; the width for 0."""
        return self.trace.pure("clz", self.width, (self,))

    def ctz(self) -> Bits:
        """Trailing zeros; the width for 0."""
        return self.trace.pure("ctz", self.width, (self,))

    def bswap(self) -> Bits:
        if self.width % 16:
            type_error(f"bswap of {self.width} bits")
        return self.trace.pure("bswap", self.width, (self,))

    def lanes_add(self, other: Bits, lane: int) -> Bits:
        """Lane-wise wrapping sum of ``lane``-bit lanes."""
        return self._lanes("lanes.add", other, lane)

    def lanes_sub(self, other: Bits, lane: int) -> Bits:
        return self._lanes("lanes.sub", other, lane)

    def _lanes(self, code: str, other: Bits, lane: int) -> Bits:
        if self.width % lane:
            type_error(f"{self.width} bits are not whole lanes of {lane}")
        return self.trace.pure(code, self.width, (self, self._same(other)), lane)


def bits(value: int, width: int) -> Bits:
    """A constant."""
    return tracer().const(value, width)


def concat(high: Bits, low: Bits) -> Bits:
    """``high`` above ``low``."""
    return high.trace.pure("concat", high.width + low.width, (high, low))


def select(condition: Bits | int, yes: Any, no: Any) -> Any:
    """``yes`` where the 1-bit condition holds, else ``no``. A Static condition picks in Python."""
    if not isinstance(condition, Bits):
        return yes if condition else no
    if condition.width != 1:
        type_error(f"select on {condition.width} bits; compare first")
    if not isinstance(yes, Bits):
        if not isinstance(no, Bits):
            type_error("select of two plain ints has no width; use bits(value, width)")
        yes = no._same(yes)
    return condition.trace.pure("select", yes.width, (condition, yes, yes._same(no)))


@contextmanager
def when(condition: Bits | int | bool) -> Iterator[None]:
    """Effects inside happen only where the condition holds. Effects only: no Python is skipped for a run-time one."""
    if isinstance(condition, Bits):
        trace = tracer()
        outer = trace.guard
        trace.guard = condition if outer is None else outer & condition
        yield
        trace.guard = outer
    elif condition:
        yield
    else:
        type_error("when() of a Static false: use Python's if")


class Tracer:
    """One trace. ISA views (registers, memory, pc) call its methods; the author never does."""

    def __init__(self, name: str, fields: dict[str, str]) -> None:
        self.name, self.fields = name, fields
        self.ops: list[Op] = []
        self.guard: Bits | None = None
        self._pending: dict[tuple[str, int | str], Bits] = {}
        self._interned: dict[tuple[object, ...], Bits] = {}
        self._setpc: list[Op] = []

    # -- values -------------------------------------------------------------------------------------------------

    def _emit(
        self, code: str, width: int, args: tuple[int, ...], attr: object = None, guard: int | None = None
    ) -> Bits:
        self.ops.append(Op(code, width, args, attr, guard))
        return Bits(self, len(self.ops) - 1, width)

    def pure(self, code: str, width: int, args: tuple[Bits, ...], attr: object = None) -> Bits:
        if width > MAX_WIDTH:
            type_error(f"{code}: {width} bits; at most {MAX_WIDTH}")
        for arg in args:
            if arg.trace is not self:
                type_error("a value of another instruction's trace")
        key = (code, width, tuple(arg.id for arg in args), attr)
        if key not in self._interned:
            self._interned[key] = self._emit(code, width, tuple(arg.id for arg in args), attr)
        return self._interned[key]

    def const(self, value: int, width: int) -> Bits:
        return self.pure("const", width, (), value & ((1 << width) - 1))

    def effect(self, code: str, width: int, args: tuple[Bits, ...], attr: object = None) -> Bits:
        """An op of the EFFECTS table, in program order, under the guard in force."""
        assert code in EFFECTS, code
        return self._emit(
            code,
            width,
            tuple(arg.id for arg in args),
            attr,
            self.guard.id if self.guard is not None else None,
        )

    def field(self, name: str) -> Bits:
        return self.pure("field", 64, (), name)

    # -- registers ----------------------------------------------------------------------------------------------

    def read(self, file: str, index: int | str, width: int) -> Bits:
        """Read a register: ``index`` is a slot number or the name of a field."""
        if (file, index) in self._pending:
            return self._pending[file, index]
        for other, at in self._pending:
            if other == file and not (isinstance(at, int) and isinstance(index, int)):
                raise SpecError(
                    f"{_where()}{file}[{index}] is read after {file}[{at}] was written: "
                    "read every source before writing a destination (they may be the same register)"
                )
        return self.pure("reg", width, (), (file, index))

    def pending(self, file: str, index: int | str) -> Bits | None:
        """What this instruction has written to the register so far."""
        return self._pending.get((file, index))

    def write(self, file: str, index: int | str, value: Bits | int, width: int) -> None:
        """Write a register at the end of the instruction."""
        new = value if isinstance(value, Bits) else self.const(value, width)
        if new.width != width:
            type_error(f"write of {new.width} bits to {file}[{index}], which has {width}")
        if self.guard is not None:
            new = select(self.guard, new, self.read(file, index, width))
        self._pending[file, index] = new

    def set_pc(self, target: Bits, kind: str, condition: Bits | int | None = None) -> None:
        if target.width != 64:
            type_error(f"jump to a {target.width}-bit address")
        guard = self.guard
        if condition is not None:
            if not isinstance(condition, Bits) or condition.width != 1:
                type_error("branch on something that is not 1 bit; compare first")
            guard = condition if guard is None else guard & condition
        self._setpc.append(Op("setpc", 0, (target.id,), kind, guard.id if guard is not None else None))

    def finish(self) -> Template:
        """Commit the buffered writes and return the template, verified."""
        for (file, index), value in self._pending.items():
            self.ops.append(Op("setreg", 0, (value.id,), (file, index)))
        self.ops += self._setpc
        template = Template(self.name, dict(self.fields), tuple(self.ops)).pruned()
        template.verify()
        return template

    @contextmanager
    def active(self) -> Iterator[Tracer]:
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)


assert not set(PURE) & set(EFFECTS)
