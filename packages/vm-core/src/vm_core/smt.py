"""Templates as z3 terms: what an instruction does, for all states at once. Needs the extra ``smt``.

A proof about instructions is a claim about the state after :func:`run`::

    before = State.fresh(isa)
    after = run(isa.find("addw").template({}), before, {"rd": 1, "rs1": 2, "rs2": 3}, length=4)
    assert prove(after.read("x", 1) == z3.SignExt(32, z3.Extract(31, 0, before.read("x", 2) + before.read("x", 3)))) is None

Memory has no permissions here: every access is allowed, and no alignment is asked for. Floating point, counters and
what concerns other processors (fences) have no terms; an instruction with one of the first two is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from vm_core.errors import HostError, SpecError
from vm_core.spec.isa import Isa
from vm_core.spec.template import Op, Template

try:
    import z3
except ImportError as error:
    raise HostError("proofs need z3", hint='install it: python -m pip install "vm-core[smt]"') from error

__all__ = ["State", "Term", "prove", "pure", "run"]

Term = Any
"""A z3 expression (z3 has no usable types of its own)."""
_INDEX: Final = 8
"""Bits of a register number in the array that a register file is."""


def _bit(condition: Term) -> Term:
    return z3.If(condition, z3.BitVecVal(1, 1), z3.BitVecVal(0, 1))


def _modulo(amount: Term) -> Term:
    return (
        z3.URem(amount, z3.BitVecVal(amount.size(), amount.size()))
        if amount.size() > 1
        else z3.BitVecVal(0, 1)
    )


def _sdiv(a: Term, b: Term) -> Term:
    # SMT-LIB's quotient by zero is 1 for a negative dividend.
    return z3.If(b == 0, z3.BitVecVal(-1, a.size()), a / b)


def _popcount(a: Term) -> Term:
    width = a.size()
    out = z3.BitVecVal(0, width)
    for i in range(width):
        bit = z3.Extract(i, i, a)
        out += z3.ZeroExt(width - 1, bit) if width > 1 else bit
    return out


def _zeros(a: Term, order: range) -> Term:
    """How many bits in this order are 0 before the first 1."""
    width = a.size()
    out = z3.BitVecVal(width, width)
    for count, i in reversed(list(enumerate(order))):
        out = z3.If(z3.Extract(i, i, a) == 1, z3.BitVecVal(count, width), out)
    return out


def _concat(parts: list[Term]) -> Term:
    return z3.Concat(*parts) if len(parts) > 1 else parts[0]


def _octets(a: Term) -> list[Term]:
    """Lowest first."""
    return [z3.Extract(at + 7, at, a) for at in range(0, a.size(), 8)]


def _lanes(lane: int, a: Term, b: Term, operation: Callable[[Term, Term], Term]) -> Term:
    return _concat(
        [
            operation(z3.Extract(at + lane - 1, at, a), z3.Extract(at + lane - 1, at, b))
            for at in reversed(range(0, a.size(), lane))
        ]
    )


_TERMS: Final[dict[str, Callable[..., Term]]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "udiv": z3.UDiv,
    "urem": z3.URem,
    "sdiv": _sdiv,
    "srem": z3.SRem,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << _modulo(b),
    "lshr": lambda a, b: z3.LShR(a, _modulo(b)),
    "ashr": lambda a, b: a >> _modulo(b),
    "eq": lambda a, b: _bit(a == b),
    "ne": lambda a, b: _bit(a != b),
    "ult": lambda a, b: _bit(z3.ULT(a, b)),
    "ule": lambda a, b: _bit(z3.ULE(a, b)),
    "slt": lambda a, b: _bit(a < b),
    "sle": lambda a, b: _bit(a <= b),
    "select": lambda c, a, b: z3.If(c == 1, a, b),
    "popcount": _popcount,
    "clz": lambda a: _zeros(a, range(a.size() - 1, -1, -1)),
    "ctz": lambda a: _zeros(a, range(a.size())),
    "bswap": lambda a: _concat(_octets(a)),
    "concat": z3.Concat,
}
_AMO: Final[dict[str, Callable[[Term, Term], Term]]] = {
    "swap": lambda a, b: b,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "min": lambda a, b: z3.If(a <= b, a, b),
    "max": lambda a, b: z3.If(a >= b, a, b),
    "umin": lambda a, b: z3.If(z3.ULE(a, b), a, b),
    "umax": lambda a, b: z3.If(z3.UGE(a, b), a, b),
}


def pure(code: str, width: int, args: tuple[Term, ...], attr: object = None) -> Term:
    """The term of a pure op: ``width`` is its result's, ``args`` are bit vectors."""
    match code:
        case "zext":
            return z3.ZeroExt(width - args[0].size(), args[0])
        case "sext":
            return z3.SignExt(width - args[0].size(), args[0])
        case "extract":
            assert isinstance(attr, int)
            return z3.Extract(attr + width - 1, attr, args[0])
        case "lanes.add" | "lanes.sub":
            assert isinstance(attr, int)
            return _lanes(attr, args[0], args[1], _TERMS[code.removeprefix("lanes.")])
        case _:
            return _TERMS[code](*args)


@dataclass(frozen=True)
class State:
    """A vCPU and its memory as terms. ``files`` are arrays from register number to value, ``memory`` from address to
    byte; ``trapped`` is true where the instruction trapped, and then the rest means nothing."""

    isa: Isa
    files: dict[str, Term]
    memory: Term
    pc: Term
    reservation: tuple[Term, Term]
    trapped: Term

    @staticmethod
    def fresh(isa: Isa, prefix: str = "") -> State:
        """Any state: everything is a variable, named after the register file (``x``), ``memory`` and ``pc``."""
        files = {
            file.name: z3.Array(prefix + file.name, z3.BitVecSort(_INDEX), z3.BitVecSort(file.width))
            for file in isa.layout.files.values()
        }
        memory = z3.Array(prefix + "memory", z3.BitVecSort(64), z3.BitVecSort(8))
        pc, *reserved = (z3.BitVec(prefix + name, 64) for name in ("pc", "reservation", "reserved_value"))
        return State(isa, files, memory, pc, (reserved[0], reserved[1]), z3.BoolVal(False))

    def read(self, file: str, index: Term | int) -> Term:
        """A register's value; ``index`` is a number or a term. The zero register is 0."""
        info = self.isa.layout.files[file]
        slot = _slot(index)
        value = z3.Select(self.files[file], slot)
        if info.zero is None:
            return value
        return z3.If(slot == info.zero, z3.BitVecVal(0, info.width), value)

    def write(self, file: str, index: Term | int, value: Term) -> State:
        """The state with another value in a register."""
        slot, old = _slot(index), self.files[file]
        new = z3.Store(old, slot, value)
        zero = self.isa.layout.files[file].zero
        if zero is not None:
            new = z3.If(slot == zero, old, new)
        return replace(self, files={**self.files, file: new})

    def load(self, address: Term, size: int) -> Term:
        """``size`` bits of memory, little-endian."""
        return _concat([z3.Select(self.memory, address + i) for i in reversed(range(size // 8))])

    def store(self, address: Term, value: Term) -> State:
        memory = self.memory
        for i, octet in enumerate(_octets(value)):
            memory = z3.Store(memory, address + i, octet)
        return replace(self, memory=memory)

    def where(self, condition: Term, other: State) -> State:
        """This state where the condition holds, else the other."""
        return State(
            self.isa,
            {name: z3.If(condition, file, other.files[name]) for name, file in self.files.items()},
            z3.If(condition, self.memory, other.memory),
            z3.If(condition, self.pc, other.pc),
            (
                z3.If(condition, self.reservation[0], other.reservation[0]),
                z3.If(condition, self.reservation[1], other.reservation[1]),
            ),
            z3.If(condition, self.trapped, other.trapped),
        )

    def equals(self, other: State) -> Term:
        """Whether both are the same state: registers (but sinks), memory, pc, and whether they trapped."""
        same = [self.memory == other.memory, self.pc == other.pc, self.trapped == other.trapped]
        for name, file in self.isa.layout.files.items():
            slots = [i for i in range(file.slots) if i < file.count or file.extra[i - file.count] != "sink"]
            same += [self.read(name, i) == other.read(name, i) for i in slots]
        return z3.And(same)


def _slot(index: Term | int) -> Term:
    return z3.BitVecVal(index, _INDEX) if isinstance(index, int) else index


def run(template: Template, before: State, fields: dict[str, Term | int], *, length: int = 4) -> State:
    """The state after an instruction of ``length`` bytes. Run-time fields are numbers or terms: 8 bits for a register
    number, 64 bits for an immediate. Raises SpecError for an op that has no term."""
    return _Run(template, before, fields, length).result()


class _Run:
    def __init__(self, template: Template, before: State, fields: dict[str, Term | int], length: int) -> None:
        self.template, self.before, self.fields, self.length = template, before, fields, length
        self.state = before
        self.values: list[Term] = []

    def result(self) -> State:
        writes: list[Op] = []
        next_pc = self.before.pc + self.length
        for op in self.template.ops:
            args = tuple(self.values[arg] for arg in op.args)
            if op.code == "setreg":
                writes.append(op)
                self.values.append(None)
            elif op.code == "setpc":
                taken = args[0]
                next_pc = taken if op.guard is None else z3.If(self.values[op.guard] == 1, taken, next_pc)
                self.values.append(None)
            else:
                self.values.append(self._value(op, args))
        for op in writes:
            file, index = op.cell
            self.state = self.state.write(file, self._index(index), self.values[op.args[0]])
        return replace(self.state, pc=next_pc)

    def _index(self, index: int | str) -> Term | int:
        return self.fields[index] if isinstance(index, str) else index

    def _value(self, op: Op, args: tuple[Term, ...]) -> Term:
        match op.code:
            case "const":
                return z3.BitVecVal(op.attr, op.width)
            case "field":
                value = self.fields[str(op.attr)]
                return z3.BitVecVal(value, 64) if isinstance(value, int) else value
            case "pc":
                return self.before.pc
            case "next_pc":
                return self.before.pc + self.length
            case "reg":
                file, index = op.cell
                return self.before.read(file, self._index(index))
            case "load" | "load_reserved":
                value = self.state.load(args[0], op.width)
                if op.code == "load_reserved":
                    kept = z3.ZeroExt(64 - op.width, value) if op.width < 64 else value
                    self._change(op, replace(self.state, reservation=(args[0], kept)))
                return value
            case "store":
                return self._change(op, self.state.store(*args))
            case "amo":
                operation = op.attr[0]
                old = self.state.load(args[0], op.width)
                self._change(op, self.state.store(args[0], _AMO[operation](old, args[1])))
                return old
            case "cas":
                old = self.state.load(args[0], op.width)
                self._change(op, self.state.store(args[0], args[2]).where(old == args[1], self.state))
                return old
            case "store_conditional":
                return self._store_conditional(op, *args)
            case "trap":
                if op.attr != "syscall":
                    self._change(op, replace(self.state, trapped=z3.BoolVal(True)))
                return None
            case "probe" | "fence" | "sync_fetch":
                return None
            case code if code in _TERMS or code in ("zext", "sext", "extract", "lanes.add", "lanes.sub"):
                return pure(code, op.width, args, op.attr)
            case code:
                raise SpecError(f"{self.template.name}: {code} has no z3 term")

    def _store_conditional(self, op: Op, address: Term, value: Term) -> Term:
        where, kept = self.state.reservation
        old = self.state.load(address, value.size())
        good = z3.And(where == address, old == z3.Extract(value.size() - 1, 0, kept))
        after = self.state.store(address, value).where(good, self.state)
        self._change(op, replace(after, reservation=(z3.BitVecVal(-1, 64), kept)))
        return _bit(z3.Not(good))

    def _change(self, op: Op, after: State) -> None:
        """Take the new state, where the op's guard holds."""
        self.state = after if op.guard is None else after.where(self.values[op.guard] == 1, self.state)


def prove(claim: Term, *assumptions: Term, seconds: float = 60) -> dict[str, str] | None:
    """None if the claim holds for all values that fulfil the assumptions, else a counterexample (variable -> value).
    Raises HostError where z3 gives up."""
    solver = z3.Solver()
    solver.set("timeout", int(seconds * 1000))
    solver.add(*assumptions, z3.Not(claim))
    answer = solver.check()
    if answer == z3.unsat:
        return None
    if answer == z3.unknown:
        raise HostError(
            f"z3 gave up after {seconds:g} s: {solver.reason_unknown()}", hint="ask for a narrower claim"
        )
    model = solver.model()
    return {str(name): str(model[name]) for name in model}
