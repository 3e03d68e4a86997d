"""x86-64 state and the operands that instruction texts get. Intel SDM 325462-083, volume 1, chapter 3.

Partial registers: a write of 32 bits zeroes the upper half, one of 8 or 16 bits leaves the rest (3.4.1.1). The flags
are 1-bit registers, written as one record. Slot 16 of file ``r`` is never written: it stands for an absent base or
index, so that both are run-time fields and one template serves every addressing form.
"""

from __future__ import annotations

from typing import Final

from vm_core.spec import (
    PLAIN,
    SEQ_CST,
    Bits,
    Memory,
    RegisterFile,
    Registers,
    Tracer,
    bits,
    concat,
    select,
    when,
)

__all__ = [
    "CONDITIONS",
    "FILES",
    "NIL",
    "Flags",
    "General",
    "Immediate",
    "Location",
    "Register",
    "condition",
]

NIL: Final = 16
"""The slot of file r that is always 0."""
NAMES: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))
FLAGS: Final = ("cf", "pf", "af", "zf", "sf", "of", "df")
FILES: Final = (
    RegisterFile("r", 16, 64, extra=("nil",), names=NAMES),
    RegisterFile("xmm", 16, 128, names=tuple(f"xmm{i}" for i in range(16))),
    RegisterFile("flags", 7, 1, names=FLAGS),
    RegisterFile("seg", 2, 64, names=("fs_base", "gs_base")),
)
CONDITIONS: Final = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")


class General(Registers):
    """The general registers as 64-bit values."""

    def __init__(self, trace: Tracer) -> None:
        super().__init__(trace, "r", 64)

    def part(self, index: int, width: int) -> Register:
        """The low ``width`` bits of a fixed register, as an operand."""
        return Register(self._trace, "r", index, width)


class Flags:
    """CF PF AF ZF SF OF and DF. Each method writes one record: what an instruction leaves out is unchanged."""

    def __init__(self, trace: Tracer) -> None:
        self._file = Registers(trace, "flags", 1)

    def __getattr__(self, name: str) -> Bits:
        if name not in FLAGS:
            raise AttributeError(name)
        return self._file[FLAGS.index(name)]

    def set(self, **flags: Bits | int) -> None:
        """Write the named flags, under the guard in force."""
        for name, value in flags.items():
            self._file[FLAGS.index(name)] = value

    def result(self, value: Bits, **others: Bits | int) -> None:
        """SF, ZF and PF of a result, and the given others."""
        self.set(pf=~value[7:0].popcount()[0], zf=value == 0, sf=value[value.width - 1], **others)

    def add(self, a: Bits, b: Bits, total: Bits, carry: Bits | None = None) -> None:
        """Of ``total`` = a + b (+ carry in)."""
        top = a.width - 1
        out = total.lt_u(a) if carry is None else ((a & b) | ((a | b) & ~total))[top]
        self.result(total, cf=out, af=(a ^ b ^ total)[4], of=((a ^ total) & (b ^ total))[top])

    def sub(self, a: Bits, b: Bits, difference: Bits, borrow: Bits | None = None) -> None:
        """Of ``difference`` = a - b (- borrow in)."""
        top = a.width - 1
        out = a.lt_u(b) if borrow is None else ((~a & b) | ((~a | b) & difference))[top]
        self.result(difference, cf=out, af=(a ^ b ^ difference)[4], of=((a ^ b) & (a ^ difference))[top])

    def logic(self, value: Bits) -> None:
        """CF and OF are cleared; AF, undefined in the manual, too."""
        self.result(value, cf=0, of=0, af=0)

    def pack(self) -> Bits:
        """RFLAGS in 64 bits, with IF and the bit that is always 1."""
        one, zero = bits(1, 1), bits(0, 1)
        order = (self.cf, one, self.pf, zero, self.af, zero, self.zf, self.sf, zero, one, self.df, self.of)
        out = order[0]
        for flag in order[1:]:
            out = concat(flag, out)
        return out.zext(64)


def condition(flags: Flags, cc: int) -> Bits:
    """The condition of Jcc, SETcc and CMOVcc. ``cc`` is Static. Volume 1, appendix B."""
    holds = (
        lambda: flags.of,
        lambda: flags.cf,
        lambda: flags.zf,
        lambda: flags.cf | flags.zf,
        lambda: flags.sf,
        lambda: flags.pf,
        lambda: flags.sf ^ flags.of,
        lambda: (flags.sf ^ flags.of) | flags.zf,
    )[cc >> 1]()
    return ~holds if cc & 1 else holds


class Register:
    """A register operand of ``width`` bits. ``high`` is one of AH, CH, DH, BH."""

    def __init__(self, trace: Tracer, file: str, index: int | str, width: int, high: bool = False) -> None:
        self._trace, self._file, self._index = trace, file, index
        self._whole = 128 if file == "xmm" else 64
        self._old = trace.read(file, index, self._whole)
        self.width, self._high = width, high

    def get(self) -> Bits:
        if self._high:
            return self._old[15:8]
        return self._old if self.width == self._whole else self._old[self.width - 1 : 0]

    def _now(self) -> Bits:
        pending = self._trace.pending(self._file, self._index)
        return self._old if pending is None else pending

    def _merged(self, value: Bits) -> Bits:
        """The whole register after this part of it has become ``value``."""
        if self._file == "xmm" or self.width >= 32:
            return value.zext(self._whole)
        old = self._now()
        if self._high:
            return concat(old[63:16], concat(value, old[7:0]))
        return concat(old[63 : self.width], value)

    def set(self, value: Bits) -> None:
        self._trace.write(self._file, self._index, self._merged(value), self._whole)

    def update(self, operation: str, value: Bits, into: Register | None = None) -> Bits:
        """Add, and, or, xor, sub, swap; gives the value before. ``into`` gets it too, and is written first: if it is
        the same register, the result stays."""
        before = self.get()
        if into is not None:
            into.set(before)
        self.set(_apply(operation, before, value))
        return before

    def set_where(self, condition: Bits, value: Bits) -> None:
        """Write ``value`` where the condition holds; otherwise the whole register stays, the upper half too."""
        self._trace.write(
            self._file, self._index, select(condition, self._merged(value), self._now()), self._whole
        )

    def compare_swap(self, accumulator: Register, new: Bits) -> Bits:
        """Becomes ``new`` where it equals the accumulator, which else becomes this; gives the value before.

        The accumulator is written first: if this is the accumulator itself, they are equal. A 32-bit destination that
        differs keeps its upper half (seen on processors; the manual's text says that it is written)."""
        before = self.get()
        equal = before == accumulator.get()
        accumulator.set_where(~equal, before)
        self.set_where(equal, new)
        return before


def _apply(operation: str, before: Bits, value: Bits) -> Bits:
    if operation == "swap":
        return value
    method = {"add": "__add__", "sub": "__sub__", "and": "__and__", "or": "__or__", "xor": "__xor__"}[
        operation
    ]
    return getattr(before, method)(value)


class Location:
    """A memory operand. ``offset`` is its effective address, ``address`` that plus the segment's base.

    ``lock`` makes ``update`` and ``compare_swap`` atomic; the access must then be aligned, else the engine raises a
    misaligned trap, where a processor would split the lock. ``aligned`` operands trap where they are not.
    """

    def __init__(
        self, trace: Tracer, offset: Bits, base: Bits | None, width: int, lock: bool, aligned: bool
    ) -> None:
        self._memory = Memory(trace)
        self._trace = trace
        self.offset = offset
        self.address = offset if base is None else offset + base
        self.width, self._lock, self._aligned = width, lock, aligned

    def _check(self) -> None:
        if self._aligned:
            with when((self.address & (self.width // 8 - 1)) != 0):
                self._trace.effect("trap", 0, (), "misaligned")

    def get(self) -> Bits:
        self._check()
        return self._memory.load(self.address, self.width)

    def set(self, value: Bits) -> None:
        self._check()
        self._memory.store(self.address, value)

    def update(self, operation: str, value: Bits, into: Register | None = None) -> Bits:
        if self._lock:
            before = self._memory.amo(operation, self.address, value, SEQ_CST)
        else:
            before = self._memory.load(self.address, self.width, PLAIN)
            self._memory.store(self.address, _apply(operation, before, value))
        if into is not None:
            into.set(before)
        return before

    def compare_swap(self, accumulator: Register, new: Bits) -> Bits:
        expected = accumulator.get()
        if self._lock:
            before = self._memory.cas(self.address, expected, new, SEQ_CST)
        else:
            before = self._memory.load(self.address, self.width)
            self._memory.store(self.address, select(before == expected, new, before))
        accumulator.set_where(before != expected, before)
        return before


class Immediate:
    """An immediate operand."""

    def __init__(self, value: Bits, width: int) -> None:
        self._value, self.width = value, width

    def get(self) -> Bits:
        return self._value if self.width == 64 else self._value[self.width - 1 : 0]
