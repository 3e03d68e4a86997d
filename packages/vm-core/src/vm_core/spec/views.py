"""Views of state that instruction texts use: registers, memory, the pc, traps. ISAs subclass where they differ."""

from __future__ import annotations

from vm_core.hints import Any
from vm_core.spec.order import PLAIN
from vm_core.spec.trace import Bits, Tracer, select

__all__ = ["Memory", "Pc", "Registers", "Trap"]


class Registers:
    """``x[rd] = x[rs1] + imm``: an index is a register field or a fixed number. Register ``zero`` reads as 0."""

    def __init__(self, trace: Tracer, file: str, width: int, zero: int | None = None) -> None:
        self._trace, self._file, self._width, self._zero = trace, file, width, zero

    def __getitem__(self, index: int | str) -> Bits:
        if isinstance(index, int) and index == self._zero:
            return self._trace.const(0, self._width)
        return self._trace.read(self._file, index, self._width)

    def __setitem__(self, index: int | str, value: Bits | int) -> None:
        if not (isinstance(index, int) and index == self._zero):
            self._trace.write(self._file, index, value, self._width)


class Memory:
    """Guest memory. Addresses are 64-bit values; sizes are bits. A fault ends the instruction with nothing changed."""

    def __init__(self, trace: Tracer) -> None:
        self._trace = trace

    def load(self, address: Bits, size: int, order: str = PLAIN) -> Bits:
        return self._trace.effect("load", size, (address,), order)

    def store(self, address: Bits, value: Bits, order: str = PLAIN) -> None:
        self._trace.effect("store", 0, (address, value), order)

    def probe_write(self, address: Bits, size: int) -> None:
        """Fault now if a store of ``size`` bits there would; needed before the first of several stores."""
        self._trace.effect("probe", 0, (address,), size)

    def amo(self, operation: str, address: Bits, value: Bits, order: str) -> Bits:
        """Atomically replace memory by ``operation`` of it and ``value``; gives the old value. Must be aligned."""
        return self._trace.effect("amo", value.width, (address, value), (operation, order))

    def cas(self, address: Bits, expected: Bits, new: Bits, order: str) -> Bits:
        """Atomic compare and swap; gives the old value. Must be aligned."""
        return self._trace.effect("cas", new.width, (address, expected, new), order)

    def load_reserved(self, address: Bits, size: int, order: str) -> Bits:
        """Load and reserve. Must be aligned."""
        return self._trace.effect("load_reserved", size, (address,), order)

    def store_conditional(self, address: Bits, value: Bits, order: str) -> Bits:
        """Store if the reservation holds, and drop it. 1 bit: 0 for success."""
        return self._trace.effect("store_conditional", 1, (address, value), order)

    def fence(self, order: str) -> None:
        self._trace.effect("fence", 0, (), order)

    def sync_fetch(self) -> None:
        """Later instruction fetches see earlier stores (fence.i)."""
        self._trace.effect("sync_fetch", 0, ())


class Pc:
    """The program counter: a value (this instruction's address) and the places to go."""

    def __init__(self, trace: Tracer) -> None:
        self._trace = trace

    @property
    def value(self) -> Bits:
        return self._trace.pure("pc", 64, ())

    @property
    def next(self) -> Bits:
        """The address behind this instruction."""
        return self._trace.pure("next_pc", 64, ())

    def __add__(self, other: Bits | int) -> Bits:
        return self.value + other

    def branch(self, condition: Bits, target: Bits) -> None:
        """Go to ``target`` where the condition holds."""
        self._trace.set_pc(target, "branch", condition)

    def jump(self, target: Bits) -> None:
        self._trace.set_pc(target, "jump")

    def call(self, target: Bits) -> None:
        """A jump that is a call for return prediction."""
        self._trace.set_pc(target, "call")

    def ret(self, target: Bits) -> None:
        """A jump that is a return for return prediction."""
        self._trace.set_pc(target, "ret")

    def repeat(self) -> None:
        """Execute this same instruction again."""
        self._trace.set_pc(self.value, "repeat")


class Trap:
    """``trap("illegal")``, or ``trap("divide", condition)``: end the instruction with nothing changed."""

    def __init__(self, trace: Tracer) -> None:
        self._trace = trace

    def __call__(self, cause: str, condition: Any = None) -> None:
        guard = self._trace.guard
        if condition is not None:
            self._trace.guard = condition if guard is None else guard & condition
        self._trace.effect("trap", 0, (), cause)
        self._trace.guard = guard


def choose(index: Bits, *values: Bits) -> Bits:
    """``values[index]`` for a run-time index."""
    out = values[-1]
    for i in range(len(values) - 2, -1, -1):
        out = select(index == i, values[i], out)
    return out
