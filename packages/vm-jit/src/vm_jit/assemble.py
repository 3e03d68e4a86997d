"""Native routines of ours as LLVM IR text, written in Python with structured control flow.

Every value is an i64 (:class:`Value`) or a condition (:class:`Condition`); loads zero-extend, stores truncate.
Variables are stack slots, which LLVM's passes turn into registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Condition", "Function", "Value", "Variable"]


class Condition:
    """An i1."""

    def __init__(self, function: Function, name: str) -> None:
        self.function, self.name = function, name

    def __and__(self, other: Condition) -> Condition:
        return Condition(self.function, self.function.v(f"and i1 {self.name}, {other.name}"))

    def __or__(self, other: Condition) -> Condition:
        return Condition(self.function, self.function.v(f"or i1 {self.name}, {other.name}"))

    def __invert__(self) -> Condition:
        return Condition(self.function, self.function.v(f"xor i1 {self.name}, true"))


class Value:
    """An i64. Comparisons are unsigned."""

    def __init__(self, function: Function, name: str) -> None:
        self.function, self.name = function, name

    def _binary(self, op: str, other: Value | int) -> Value:
        return Value(self.function, self.function.v(f"{op} i64 {self.name}, {_name(other)}"))

    def _compare(self, op: str, other: Value | int) -> Condition:
        return Condition(self.function, self.function.v(f"icmp {op} i64 {self.name}, {_name(other)}"))

    def __add__(self, other: Value | int) -> Value:
        return self._binary("add", other)

    def __sub__(self, other: Value | int) -> Value:
        return self._binary("sub", other)

    def __mul__(self, other: Value | int) -> Value:
        return self._binary("mul", other)

    def __and__(self, other: Value | int) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Value | int) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._binary("xor", other)

    def __lshift__(self, other: Value | int) -> Value:
        return self._binary("shl", other)

    def __rshift__(self, other: Value | int) -> Value:
        return self._binary("lshr", other)

    def equals(self, other: Value | int) -> Condition:
        return self._compare("eq", other)

    def differs(self, other: Value | int) -> Condition:
        return self._compare("ne", other)

    def __lt__(self, other: Value | int) -> Condition:
        return self._compare("ult", other)

    def __le__(self, other: Value | int) -> Condition:
        return self._compare("ule", other)

    def __gt__(self, other: Value | int) -> Condition:
        return self._compare("ugt", other)

    def __ge__(self, other: Value | int) -> Condition:
        return self._compare("uge", other)

    def has(self, bits: int) -> Condition:
        """Whether any of ``bits`` is set."""
        return (self & bits).differs(0)

    def lacks(self, bits: int) -> Condition:
        return (self & bits).equals(0)


def _name(value: Value | int) -> str:
    return value.name if isinstance(value, Value) else str(value)


class Variable:
    """A local that can be set."""

    def __init__(self, function: Function, initial: Value | int) -> None:
        self.function = function
        function.count += 1
        self.name = f"%x{function.count}"
        function.head.append(f"  {self.name} = alloca i64")
        self.set(initial)

    def set(self, value: Value | int) -> None:
        self.function.emit(f"store i64 {_name(value)}, ptr {self.name}")

    def get(self) -> Value:
        return Value(self.function, self.function.v(f"load i64, ptr {self.name}"))

    def add(self, value: Value | int) -> None:
        self.set(self.get() + value)


class Function:
    """One function of i64 parameters; it returns an i64, 0 if :meth:`leave` is not called."""

    def __init__(self, name: str, *parameters: str, internal: bool = False) -> None:
        self.name, self.internal = name, internal
        self.parameters = {one: Value(self, f"%{one}") for one in parameters}
        self.head: list[str] = []
        self.lines: list[str] = []
        self.count = 0
        self._loops: list[tuple[str, str]] = []

    def __getitem__(self, name: str) -> Value:
        return self.parameters[name]

    def emit(self, line: str) -> None:
        self.lines.append("  " + line)

    def v(self, expression: str) -> str:
        self.count += 1
        self.emit(f"%v{self.count} = {expression}")
        return f"%v{self.count}"

    def _label(self) -> str:
        self.count += 1
        return f"L{self.count}"

    def _place(self, label: str) -> None:
        self.emit(f"br label %{label}")
        self.lines.append(f"{label}:")

    def variable(self, initial: Value | int = 0) -> Variable:
        return Variable(self, initial)

    def _pointer(self, address: Value | int) -> str:
        return self.v(f"inttoptr i64 {_name(address)} to ptr")

    def load(self, address: Value | int, bits: int = 64) -> Value:
        # SAFETY: who calls this vouches for the address, as in every line of native code.
        loaded = self.v(f"load i{bits}, ptr {self._pointer(address)}, align 1")
        return Value(self, loaded if bits == 64 else self.v(f"zext i{bits} {loaded} to i64"))

    def load_signed(self, address: Value | int, bits: int) -> Value:
        loaded = self.v(f"load i{bits}, ptr {self._pointer(address)}, align 1")
        return Value(self, self.v(f"sext i{bits} {loaded} to i64"))

    def store(self, address: Value | int, value: Value | int, bits: int = 64) -> None:
        name = _name(value)
        if bits != 64 and isinstance(value, Value):
            name = self.v(f"trunc i64 {name} to i{bits}")
        self.emit(f"store i{bits} {name}, ptr {self._pointer(address)}, align 1")

    def publish(self, address: Value, value: Value) -> None:
        """An aligned store of 8 bytes that other threads see after all stores before it."""
        self.emit(f"store atomic i64 {value.name}, ptr {self._pointer(address)} release, align 8")

    def copy(self, to: Value, source: Value, size: Value) -> None:
        """Copy ``size`` bytes, and up to 31 more: both places need slack."""
        at = self.variable(0)
        with self.loop():
            block = self.v(f"load <32 x i8>, ptr {self._pointer(source + at.get())}, align 1")
            self.emit(f"store <32 x i8> {block}, ptr {self._pointer(to + at.get())}, align 1")
            at.add(32)
            self.stop_if(at.get() >= size)

    def clear(self, address: Value, size: Value | int) -> None:
        self.emit(
            f"call void @llvm.memset.p0.i64(ptr {self._pointer(address)}, i8 0, i64 {_name(size)}, i1 false)"
        )

    def call(self, function: Function, *arguments: Value | int) -> Value:
        text = ", ".join(f"i64 {_name(one)}" for one in arguments)
        return Value(self, self.v(f"call i64 @{function.name}({text})"))

    def select(self, condition: Condition, yes: Value | int, no: Value | int) -> Value:
        return Value(self, self.v(f"select i1 {condition.name}, i64 {_name(yes)}, i64 {_name(no)}"))

    def leave(self, value: Value | int = 0) -> None:
        self.emit(f"ret i64 {_name(value)}")
        self.lines.append(f"{self._label()}:")

    @contextmanager
    def when(self, condition: Condition) -> Iterator[None]:
        inside, after = self._label(), self._label()
        self.emit(f"br i1 {condition.name}, label %{inside}, label %{after}")
        self.lines.append(f"{inside}:")
        yield
        self._place(after)

    @contextmanager
    def loop(self) -> Iterator[None]:
        """Forever, until :meth:`stop_if`."""
        top, end = self._label(), self._label()
        self._loops.append((top, end))
        self._place(top)
        yield
        self.emit(f"br label %{top}")
        self.lines.append(f"{end}:")
        self._loops.pop()

    @contextmanager
    def each(self, start: Value | int, end: Value | int, step: int = 1) -> Iterator[Value]:
        """Count from ``start`` to below ``end``."""
        at = self.variable(start)
        top, body, next_, after = (self._label() for _ in range(4))
        self._place(top)
        now = at.get()
        self.emit(f"br i1 {(now < end).name}, label %{body}, label %{after}")
        self.lines.append(f"{body}:")
        self._loops.append((next_, after))
        yield now
        self._loops.pop()
        self._place(next_)
        at.set(now + step)
        self.emit(f"br label %{top}")
        self.lines.append(f"{after}:")

    def stop(self) -> None:
        """Leave the innermost loop."""
        self.emit(f"br label %{self._loops[-1][1]}")
        self.lines.append(f"{self._label()}:")

    def stop_if(self, condition: Condition) -> None:
        on = self._label()
        self.emit(f"br i1 {condition.name}, label %{self._loops[-1][1]}, label %{on}")
        self.lines.append(f"{on}:")

    def again_if(self, condition: Condition) -> None:
        """Go on with the innermost loop's next turn."""
        on = self._label()
        self.emit(f"br i1 {condition.name}, label %{self._loops[-1][0]}, label %{on}")
        self.lines.append(f"{on}:")

    def text(self) -> str:
        parameters = ", ".join(f"i64 %{name}" for name in self.parameters)
        linkage = "internal" if self.internal else "dso_local"
        return "\n".join(
            [
                f"define {linkage} i64 @{self.name}({parameters}) nounwind {{",
                "entry:",
                *self.head,
                *self.lines,
                "  ret i64 0",
                "}",
            ]
        )
