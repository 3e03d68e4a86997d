"""Stencils: the machine code of one instruction's template, made by LLVM once, with holes for its operands.

The baseline tier copies stencils one behind the other and fills the holes (:mod:`vm_jit.copying`). A hole is the
address of an external symbol whose range LLVM is told, so it becomes an immediate or a displacement; a relocation in
the object says where it lies.

A unit that goes to another (by a record, whose handler the other's code then is) leaves the ``frequent`` registers of the ISA in
their pins: the address of such code is 8 modulo 16, which no handler's is, and what takes them from the state comes first in it.

A stencil has the convention of the interpreter's handlers, with other things in the host registers: ``a`` and ``b``
hold the first and the second operand from the main register file, ``a`` the result afterwards, and ``p0`` to ``p6``
pass through, for guest registers that live in host registers (pins). A stencil ends with a jump to ``next``, which is
not copied where it is the last instruction. What cannot be done goes to ``refuse`` before anything has changed.

Frequent instructions also have forms, which take operands from pins and leave results there. A form is one stencil
for all pins: an x86 instruction has the number of a register in certain bits, and which bits these are shows by
compiling the form with a few other pins. What does not differ by such bits alone is not made a form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from vm_core.errors import CacheError, SpecError, VmError
from vm_core.memory import PAGE
from vm_core.record import record
from vm_core.spec.isa import Isa
from vm_core.spec.ops import PURE, mask
from vm_core.spec.template import Op, Template
from vm_core.state import HEADER
from vm_jit.faults import FIXUPS
from vm_jit.interpreter import plan
from vm_jit.lowering import (
    DECLARATIONS,
    HOST,
    LIKELY,
    LOADS,
    METADATA,
    RECORD,
    STATE,
    STORES,
    Emitter,
    supported,
)
from vm_jit.records import (
    HEAT,
    HOT,
    LOW,
    RECORD_BYTES,
    RECORD_PC,
    TURNS,
    Plan,
    Reason,
)

__all__ = ["COMMON", "PINS", "SOURCES", "Flag", "Hole", "Stencil", "build", "carried", "read_object"]

PINS: Final = 7
"""Guest registers that can live in host registers."""

_ARGUMENTS: Final = (
    "p0", "p1", "p2", "p3", "fuel", "a", "state", "b", "p4", "p5", "p6", "memory",
)  # fmt: skip
"""In the order of the convention's registers (r12 to r15, rdi, rsi, rdx, rcx, r8, r9, r11, rax): handlers have the
state where p0 is, the record in p1, the arena in p2, the page table in p3. The pins are those with numbers above 7, which
x86 encodes alike."""
CARRIED: Final = 5
"""Pins, from p1 on, in which registers travel from unit to unit."""
PIN_NUMBERS: Final = (4, 5, 6, 7, 0, 1, 3)
"""The low three bits of each pin's register number."""
_CC: Final = "preserve_nonecc"
_SIGNATURE: Final = ", ".join(f"i64 %{one}" for one in _ARGUMENTS)
_BEGIN: Final = (
    "  %st = inttoptr i64 %state to ptr",
    *(
        (
            f"  %arena.at = getelementptr i8, ptr %st, i64 {HEADER['arena']}",
            f"  %arena = load ptr, ptr %arena.at, {STATE}",
        )
        if HOST.segment
        else ("  %arena = inttoptr i64 %memory to ptr",)
    ),
)
"""``memory`` is the arena's address; where that is the base of the segment gs, it is the arena's size, which addresses are compared with."""

SOURCES: Final = (
    "slot0", "slot1", "slot2", "slot3", "imm0", "imm1", "pc", "next_pc", "next", "taken", "refuse", "tables",
    "count", "uncount", "record", "handler", "link", "miss",
)  # fmt: skip
"""What a hole can be filled with, by number."""
_RANGES: Final = {
    **dict.fromkeys(("slot0", "slot1", "slot2", "slot3", "link"), (0, 1 << 16)),
    **dict.fromkeys(("imm0", "imm1", "count", "uncount"), (-(1 << 31), 1 << 31)),
    **dict.fromkeys(("pc", "next_pc"), (0, 1 << 32)),
    **dict.fromkeys(("record", "handler"), (-1, -1)),
}
"""The values of the symbols: LLVM chooses encodings by them. (-1, -1) is any 64-bit value."""
_TARGETS: Final = ("next", "taken", "refuse", "miss")


class Flag:
    """What a stencil is, one bit each."""

    BRANCH = 1
    """Ends a block; goes to ``taken`` or on."""
    JUMP = 2
    """Ends a block; the target is known from the record."""
    INDIRECT = 4
    """Ends a block; the target is in ``b``."""
    KEEPS_B = 8
    """``b`` is the same afterwards."""
    RETURN = 16
    """Returns from a function, says the ISA."""
    FROM_NEXT = 32
    """The target of a direct jump is relative to the next instruction."""
    ESCAPE = 64
    """There is no code: the interpreter's handler does it."""
    MOVES = 128
    """If one operand is 0, the result is the other."""
    COMMUTES = 1
    """(Among the extra flags.) The operands may be exchanged."""
    OFFSETS = 2
    """(Among the extra flags.) The result is the operand plus the immediate."""


@record(frozen=True)
class Hole:
    """``offset`` is in the stencil's code. ``kind`` is 0: 32 bits, 1: 64 bits, 2: 32 bits relative to the place, 3: 8
    bits, 4: an instruction that may fault."""

    offset: int
    kind: int
    source: int
    addend: int


@record(frozen=True)
class Patch:
    """A byte of a form's code that depends on a pin: for each bit of the register's number that differs from the
    base's, the mask is exclusive-ored."""

    offset: int
    masks: tuple[int, int, int]


@record(frozen=True)
class Stencil:
    """``a``, ``b`` and ``result`` are numbers of 16-bit slots in the record, 255 for none; ``target`` is the number of
    the immediate that a direct jump adds; ``sizes`` are the immediates' in bytes.

    ``forms`` are the numbers of the stencils that have operands in pins, 0 for none (:data:`FORMS`). A form's
    ``patches`` say how its code differs with its first and with its second pin; ``refused`` has bit 0 set if the first may
    not be p0, bit 1 if the second may not. ``zero`` is the number of the stencil for an immediate that is 0, or 0; ``near`` that of the
    access to memory whose first operand is known to be in the arena or not far from it, which the host's page protections check."""

    code: bytes
    holes: tuple[Hole, ...]
    flags: int = 0
    a: int = 255
    b: int = 255
    result: int = 255
    target: int = 255
    sizes: tuple[int, int] = (0, 0)
    extra: int = 0
    forms: tuple[int, int] = (0, 0)
    patches: tuple[tuple[Patch, ...], tuple[Patch, ...]] = ((), ())
    refused: int = 0
    zero: int = 0
    near: int = 0


_Code = tuple[bytes, tuple[Hole, ...]]
"""The code of a stencil and its holes."""


class _Unfit(Exception):
    """The template cannot be a stencil."""


def _hole(name: str) -> str:
    return f"ptrtoint (ptr @{name} to i64)"


class _Stencil(Emitter):
    """Emits one stencil."""

    def __init__(
        self,
        isa: Isa,
        how: Plan,
        literal: int | None = None,
        places: tuple[str, str, str] = ("a", "b", "a"),
        *,
        near: bool = False,
    ) -> None:
        super().__init__()
        self.isa, self.plan, self.literal, self.places, self.near = isa, how, literal, places, near
        self.main = isa.pinned[0][0]
        self.slots = {(role, file, name): (offset - 8) // 2 for role, file, name, offset in how.slots}
        self.fields = {name: i for i, (name, _, _) in enumerate(how.immediates)}
        reads = [n for (role, file, _), n in self.slots.items() if file == self.main and role == "r"]
        writes = [n for (role, file, _), n in self.slots.items() if file == self.main and role == "w"]
        if len(reads) > 2 or len(writes) > 1:
            raise _Unfit
        self.registers = dict(zip(reads, places, strict=False))
        self.reads = [*reads, 255, 255][:2]
        self.write = writes[0] if writes else 255
        self.result: str | None = None
        self.flags = 0
        self.target = 255
        self._refuse: str | None = None
        self._fault: str | None = None
        self.extended: dict[int, str] = {}
        self.jump: tuple[str, str | None] | None = None

    def _slot(self, role: str, file: str, index: int | str) -> str:
        """The address of a register that is not in the main file."""
        if isinstance(index, int):
            slot = self.isa.layout.files[file].write_slot(index) if role == "w" else index
            return self.field_in_state(self.isa.layout.offset(file, slot))
        number = self.slots.get((role, file, index))
        if number is None:
            number = self.slots["r", file, index]
        return self.v(f"getelementptr i8, ptr %st, i64 {_hole(f'slot{number}')}")

    def get(self, file: str, index: int | str, width: int) -> str:
        if file == self.main:
            if isinstance(index, int) or self.result is not None:
                raise _Unfit
            value = "%" + self.registers[self.slots["r", file, index]]
            return value if width == 64 else self.v(f"trunc i64 {value} to i{width}")
        stored = 128 if width > 64 else 64
        value = self.v(f"load i{stored}, ptr {self._slot('r', file, index)}, align 8, {STATE}")
        return value if width == stored else self.v(f"trunc i{stored} {value} to i{width}")

    def put(self, file: str, index: int | str, value: str, width: int) -> None:
        stored = 128 if width > 64 else 64
        if width != stored:
            value = self.v(f"zext i{width} {value} to i{stored}")
        if file == self.main:
            if isinstance(index, int) or self.result is not None:
                raise _Unfit
            self.result = value
            return
        self.emit(f"store i{stored} {value}, ptr {self._slot('w', file, index)}, align 8, {STATE}")

    def immediate(self, name: str) -> str:
        return _hole(f"imm{self.fields[name]}") if self.literal is None else str(self.literal)

    def pc(self) -> str:
        # Opaque: LLVM would make it a displacement, whose sign is extended, and addresses have 32 bits.
        return self.v(f'call i64 asm "", "=r,0"(i64 {_hole("pc")})')

    def next_pc(self) -> str:
        return _hole("next_pc")

    def refuse(self) -> str:
        if self._refuse is None:
            self._refuse = self.label()
        return self._refuse

    # -- memory: as in regions, a plain access is one host instruction that may fault (vm_jit.faults) ---------------

    def look(self, address: str) -> None:
        """Refuse an address outside of the arena."""
        if self.near:
            return
        proceed = self.label()
        inside = self.v(f"icmp ult i64 {address}, {'%memory' if HOST.segment else 1 << self.bits}")
        self.emit(f"br i1 {inside}, label %{proceed}, label %{self.refuse()}, {LIKELY}")
        self.place(proceed)

    def place_of(self, address: str) -> str:
        return self.v(f"inttoptr i64 {address} to ptr") if HOST.segment else self.host_pointer(address)

    def access(self, text: str, constraints: str, type_: str, arguments: str) -> str:
        if HOST.segment:
            text = text.replace("$0", "%gs:$0") if type_ == "void" else text.replace("$1", "%gs:$1")
        return super().access(text, constraints, type_, arguments)

    def faulting(self) -> str:
        if self._fault is None:
            self._fault = self.label()
        return self._fault

    def op_load(self, op: Op, address: str) -> str:
        if op.guard is not None or op.width not in LOADS or not HOST.x86:
            return super().op_load(op, address)
        self.look(address)
        pointer = f"ptr elementtype(i{op.width}) {self.place_of(address)}"
        if op.width == 64:
            return self.access("movq $1, $0", "=r,*m", "i64", pointer)
        plain, signed = LOADS[op.width]
        users = [user for user in self.template.ops if self.number in user.args]
        if len(users) == 1 and users[0].code in ("zext", "sext") and users[0].width == 64:
            # The instruction extends as well; the op that asks for that finds it done.
            text = f"{plain} $1, ${{0:k}}" if users[0].code == "zext" else f"{signed} $1, $0"
            self.extended[self.number] = self.access(text, "=r,*m", "i64", pointer)
            return ""
        value = self.access(f"{plain} $1, $0", "=r,*m", "i32", pointer)
        return value if op.width == 32 else self.v(f"trunc i32 {value} to i{op.width}")

    def op_store(self, op: Op, address: str, value: str) -> None:
        width = self.width_of(op, 1)
        if op.guard is not None or width not in STORES or not HOST.x86:
            super().op_store(op, address, value)
            return
        self.look(address)
        pointer = f"ptr elementtype(i{width}) {self.place_of(address)}"
        self.access(STORES[width], "=*m,r", "void", f"{pointer}, i{width} {value}")

    def _simple(self, op: Op, a: list[str]) -> str:
        if op.code in ("zext", "sext") and op.args[0] in self.extended:
            return self.extended[op.args[0]]
        return super()._simple(op, a)

    def system_call(self) -> None:
        raise _Unfit

    def go(self, kind: str, target: str, guard: str | None, op: Op) -> None:
        if self.jump is not None:
            raise _Unfit
        self.jump = target, guard
        known = _direct(self.template, op, self.fields)
        if known is None:
            if guard is not None:
                raise _Unfit
            self.flags |= Flag.INDIRECT
            return
        self.target = known[0]
        self.flags |= (Flag.BRANCH if guard is not None else Flag.JUMP) | known[1]

    def tail(self, target: str, **values: str) -> None:
        """Go to ``target``; the arguments that ``values`` does not name stay."""
        text = ", ".join(f"i64 {values.get(one, f'%{one}')}" for one in _ARGUMENTS)
        self.emit(f"musttail call {_CC} void {target}({text})")
        self.emit("ret void")

    def finish(self) -> None:
        values = {}
        if self.result is not None:
            values[self.places[2]] = self.result
            if self.reads[1] != 255 and self.places == ("a", "b", "a"):
                # Behind an instruction that uses b, nobody asks for it again: LLVM may overwrite it.
                values["b"] = "poison"
        elif self.write != 255:
            raise _Unfit
        if self.flags & Flag.INDIRECT:
            assert self.jump is not None
            values = {"a": self.result or "poison", "b": self.jump[0]}
        if "b" not in values:
            self.flags |= Flag.KEEPS_B
        if self.flags & Flag.BRANCH:
            assert self.jump is not None
            through, taken = self.label(), self.label()
            self.emit(f"br i1 {self.jump[1]}, label %{taken}, label %{through}")
            self.place(through)
            self.tail("@next", **values)
            self.place(taken)
            self.tail("@taken", **values)
        else:
            self.tail("@next", **values)
        self.end()

    def end(self) -> None:
        if self._refuse is not None:
            # The last block: then LLVM makes one conditional jump of the way to it.
            self.place(self._refuse)
            self.tail("@refuse", a="poison", b="poison")
        if self._fault is not None:
            self.place(self._fault)
            self.tail("@refuse", a="poison", b="poison")

    def text(self, name: str) -> str:
        return "\n".join(
            [f"define dso_local {_CC} void @{name}({_SIGNATURE}) #0 {{", *_BEGIN, *self.lines, "}"]
        )


def _evaluate(template: Template, number: int, pc: int, length: int, fields: dict[str, int]) -> int | None:
    op = template.ops[number]
    if op.code == "const":
        return int(op.attr)
    if op.code == "field":
        return fields[op.attr] & mask(64)
    if op.code == "pc":
        return pc
    if op.code == "next_pc":
        return pc + length
    if op.code in ("add", "and"):
        values = [_evaluate(template, arg, pc, length, fields) for arg in op.args]
        if None not in values:
            return int(PURE[op.code].evaluate(template.ops[op.args[-1]].width, *values))
    return None


def _direct(template: Template, op: Op, fields: dict[str, int]) -> tuple[int, int] | None:
    """(number of the immediate, Flag.FROM_NEXT or 0) if the target is always the pc, or the next one, plus it."""
    for name, number in fields.items():
        for flag in (0, Flag.FROM_NEXT):
            for pc, length, distance in ((0x10000, 4, 64), (0x20004, 2, -256), (0x30008, 4, 2048)):
                base = pc + (length if flag else 0)
                values = {one: distance if one == name else 16 for one in fields}
                if _evaluate(template, op.args[0], pc, length, values) != base + distance:
                    break
            else:
                return number, flag
    return None


def carried(isa: Isa) -> tuple[tuple[str, int], ...]:
    """The registers that travel from unit to unit, in pins 1 to :data:`CARRIED`."""
    return isa.frequent[:CARRIED]


# -- what is between instructions -------------------------------------------------------------------------------------


class _Glue(_Stencil):
    """A stencil of no instruction."""

    def __init__(self, isa: Isa) -> None:
        super().__init__(isa, Plan("", (), ()))

    def address(self, name: str) -> str:
        """A host address, kept out of other operands: LLVM would make it relative to the code, which may be far."""
        return self.v(f'call i64 asm "", "=r,0"(i64 {_hole(name)})')

    def register(self) -> str:
        """The address of the register that slot0 says."""
        return self.v(f"getelementptr i8, ptr %st, i64 {_hole('slot0')}")

    def read_register(self) -> str:
        return self.v(f"load i64, ptr {self.register()}, align 8, {STATE}")

    def write_register(self, value: str) -> None:
        self.emit(f"store i64 {value}, ptr {self.register()}, align 8, {STATE}")

    def settle(self) -> None:
        """Write the registers that travel from unit to unit to the state."""
        for i, cell in enumerate(carried(self.isa)):
            place = self.field_in_state(self.isa.layout.offset(*cell))
            self.emit(f"store i64 %p{i + 1}, ptr {place}, align 8, {STATE}")

    def handler(self, handler: str, ip: str, fuel: str = "%fuel") -> None:
        """Tail-call a handler of the interpreter."""
        self.settle()
        rest = dict.fromkeys(("a", "b", "state", "memory", "p4", "p5", "p6"), "poison")
        arena = self.load_state("arena") if HOST.segment else "%memory"
        self.tail(handler, p0="%state", p1=ip, p2=arena, p3=self.load_state("pages"), fuel=fuel, **rest)

    def dispatch(self, ip: str, *, shares: bool = False) -> None:
        """Go to a record's handler, or on in the unit that it has become the entry of. If this ``shares``, a handler is gone to by ``refuse``."""
        pointer = self.v(f"inttoptr i64 {ip} to ptr")
        handler = self.v(f"load i64, ptr {pointer}, {RECORD}")
        unit, other = self.label(), self.label()
        self.emit(f"br i1 {self.in_unit(handler)}, label %{unit}, label %{other}, {LIKELY}")
        self.place(unit)
        inner = self.v(f"add i64 {handler}, {_hole('link')}")
        self.tail(self.v(f"inttoptr i64 {inner} to ptr"), a="poison", b="poison")
        self.place(other)
        if shares:
            self.tail("@refuse", a=ip, b=handler)
        else:
            self.handler(self.v(f"inttoptr i64 {handler} to ptr"), ip)

    def leave(self, reason: Reason, pc: str) -> None:
        self.settle()
        self.store_state("pc", pc)
        self.store_state("fuel", "%fuel")
        self.store_state("reason", str(int(reason)))
        self.emit("ret void")

    def count(self, ip: str, seldom: str) -> None:
        """Count a jump to a record; go to ``seldom`` each LOW-th time, where it may be hot."""
        spot = self.v(f"inttoptr i64 {self.v(f'add i64 {ip}, {HEAT}')} to ptr")
        now = self.v(f"add i16 {self.v(f'load i16, ptr {spot}, {RECORD}')}, 1")
        self.emit(f"store i16 {now}, ptr {spot}, {RECORD}")
        on = self.label()
        turn = self.v(f"icmp eq i16 {self.v(f'and i16 {now}, {LOW - 1}')}, 0")
        self.emit(f"br i1 {turn}, label %{seldom}, label %{on}, !prof !10")
        self.place(on)

    def maybe_hot(self, ip: str, *, returns: bool = False) -> None:
        """Report the record's place if it has just become hot, for this tier or the next; else go there. A place that
        is returned to may be of interest to this tier only."""
        hot, on = self.label(), self.label()
        spot = self.v(f"inttoptr i64 {self.v(f'add i64 {ip}, {HEAT}')} to ptr")
        count = self.v(f"load i16, ptr {spot}, {RECORD}")
        warm, first, turned = self.label(), self.label(), self.label()
        levels = "" if returns else f"i16 {HOT}, label %{first} "
        self.emit(
            f"switch i16 {count}, label %{on} [ i16 {LOW}, label %{warm} {levels}i16 0, label %{turned} ]"
        )
        self.place(warm)
        # PERF: most are in a unit by then, that was made from another place. Who has no patience may want to know all the same.
        handler = self.v(f"load i64, ptr {self.v(f'inttoptr i64 {ip} to ptr')}, {RECORD}")
        made = self.v(f"and i1 {self.in_unit(handler)}, {self.v(f'icmp ne i64 {self.patience()}, 0')}")
        self.emit(f"br i1 {made}, label %{on}, label %{first}")
        self.place(first)
        turns = self.v(f"inttoptr i64 {self.v(f'add i64 {ip}, {TURNS}')} to ptr")
        again = self.v(f"icmp ne i8 {self.v(f'load i8, ptr {turns}, {RECORD}')}, 0")
        self.emit(f"br i1 {again}, label %{on}, label %{hot}")
        self.place(turned)
        self.turn(self.v(f"inttoptr i64 {ip} to ptr"), hot, on)
        self.place(on)
        self.dispatch(ip)
        self.place(hot)
        where = self.v(f"inttoptr i64 {self.v(f'add i64 {ip}, {RECORD_PC}')} to ptr")
        self.leave(Reason.HOT, self.v(f"zext i32 {self.v(f'load i32, ptr {where}, {RECORD}')} to i64"))

    def counted(self, ip: str) -> None:
        """Go to a record and count that."""
        seldom = self.label()
        self.count(ip, seldom)
        self.dispatch(ip, shares=True)
        self.place(seldom)
        self.tail("@taken", a=ip, b="poison")

    def look_up(self) -> None:
        """Go to the guest address in ``b``."""
        inside, found, miss = (self.label() for _ in range(3))
        ok = self.v(f"icmp ult i64 %b, {1 << self.bits}")
        if self.isa.unit > 1:
            even = self.v(f"icmp eq i64 {self.v(f'and i64 %b, {self.isa.unit - 1}')}, 0")
            ok = self.v(f"and i1 {ok}, {even}")
        self.emit(f"br i1 {ok}, label %{inside}, label %{miss}, {LIKELY}")
        self.place(inside)
        pages = self.load_state("pages", "ptr")
        spot = self.v(f"getelementptr i64, ptr {pages}, i64 {self.v('lshr i64 %b, 12')}")
        page = self.v(f"load i64, ptr {spot}, {RECORD}")
        self.emit(f"br i1 {self.v(f'icmp ne i64 {page}, 0')}, label %{found}, label %{miss}, {LIKELY}")
        self.place(found)
        index = self.v(f"and i64 %b, {PAGE - 1}")
        ip = self.v(f"add i64 {page}, {self.v(f'mul i64 {index}, {RECORD_BYTES // self.isa.unit}')}")
        self.counted(ip)
        self.place(miss)
        self.tail("@miss", a="poison")


def _glue() -> dict[str, Callable[[_Glue], None]]:
    """The stencils between instructions, by name."""
    out: dict[str, Callable[[_Glue], None]] = {}

    def add(name: str) -> Callable[[Callable[[_Glue], None]], Callable[[_Glue], None]]:
        def keep(function: Callable[[_Glue], None]) -> Callable[[_Glue], None]:
            out[name] = function
            return function

        return keep

    for one in "ab":
        # The operands: from the state, from nothing, from each other, from the registers that pins are in.
        add(f"load_{one}")(lambda e, one=one: e.tail("@next", **{one: e.read_register()}))  # type: ignore[misc]
        add(f"zero_{one}")(lambda e, one=one: e.tail("@next", **{one: "0"}))  # type: ignore[misc]
        other = "b" if one == "a" else "a"
        add(f"{one}_from_{other}")(
            lambda e, one=one, other=other: e.tail("@next", **{one: f"%{other}"})  # type: ignore[misc]
        )
        for i in range(PINS):
            add(f"{one}_from_p{i}")(
                lambda e, one=one, i=i: e.tail("@next", **{one: f"%p{i}"})  # type: ignore[misc]
            )
    for i in range(PINS):
        add(f"p{i}_from_a")(lambda e, i=i: e.tail("@next", **{f"p{i}": "%a"}))  # type: ignore[misc]
        add(f"load_p{i}")(lambda e, i=i: e.tail("@next", **{f"p{i}": e.read_register()}))  # type: ignore[misc]

        add(f"p{i}_is_imm")(lambda e, i=i: e.tail("@next", **{f"p{i}": _hole("imm0")}))  # type: ignore[misc]

        @add(f"store_p{i}")
        def _store(e: _Glue, i: int = i) -> None:
            e.write_register(f"%p{i}")
            e.tail("@next")

    for i in range(PINS):
        for j in range(PINS):
            add(f"p{i}_from_p{j}")(lambda e, i=i, j=j: e.tail("@next", **{f"p{i}": f"%p{j}"}))  # type: ignore[misc]

    @add("enter")
    def _enter(e: _Glue) -> None:
        """From the registers as handlers have them."""
        rest = dict.fromkeys(("a", "b", "p0", "p1", "p2", "p3", "p4", "p5", "p6"), "poison")
        e.tail("@next", state="%p0", memory=str(1 << e.bits) if HOST.segment else "%p2", **rest)

    @add("store_a")
    def _store_a(e: _Glue) -> None:
        e.write_register("%a")
        e.tail("@next")

    @add("a_is_imm")
    def _a_is_imm(e: _Glue) -> None:
        e.tail("@next", a=_hole("imm0"))

    @add("b_is_pc")
    def _b_is_pc(e: _Glue) -> None:
        e.tail("@next", b=_hole("pc"))

    @add("jump")
    def _jump(e: _Glue) -> None:
        e.tail("@taken")

    @add("fuel")
    def _fuel(e: _Glue) -> None:
        """Begin a block of ``count`` instructions, of which no stop may be asked: else the interpreter does them."""
        left = e.v(f"add nsw i64 %fuel, {_hole('uncount')}")
        enough, short = e.label(), e.label()
        e.emit(f"br i1 {e.v(f'icmp sle i64 {left}, 0')}, label %{short}, label %{enough}, !prof !10")
        e.place(enough)
        e.tail("@next", fuel=left)
        e.place(short)
        e.tail("@refuse", a="poison", b="poison", fuel=left)

    @add("heat")
    def _heat(e: _Glue) -> None:
        """Count the turns of a loop at its head; each LOW-th goes by the record, where the next tier may wait."""
        seldom = e.refuse()
        e.count(e.address("record"), seldom)
        e.tail("@next")
        e.end()

    @add("go_maybe_hot")
    def _go_maybe_hot(e: _Glue) -> None:
        e.tail("@taken", a=e.address("record"), b="poison")

    @add("go_counted")
    def _go_counted(e: _Glue) -> None:
        e.counted(e.address("record"))

    @add("go_handler")
    def _go_handler(e: _Glue) -> None:
        """The interpreter's own handler of an instruction, with the fuel of those not done yet."""
        left = e.v(f"add i64 %fuel, {_hole('count')}")
        e.handler(e.v(f"inttoptr i64 {e.address('handler')} to ptr"), e.address("record"), left)

    @add("refused")
    def _refused(e: _Glue) -> None:
        """As go_handler, in two steps: all refusals of a unit have the second in common."""
        left = e.v(f"add i64 %fuel, {_hole('count')}")
        e.tail("@taken", a=e.address("record"), b=e.address("handler"), fuel=left)

    @add("go_refused")
    def _go_refused(e: _Glue) -> None:
        e.tail("@refuse")

    @add("go_indirect")
    def _go_indirect(e: _Glue) -> None:
        """To the guest address in ``b``, also where a function returns to."""
        e.look_up()

    # What units have in common: they go there by ``taken``, ``refuse`` and ``miss``.

    @add("warmed")
    def _warmed(e: _Glue) -> None:
        e.maybe_hot("%a")

    @add("returned")
    def _returned(e: _Glue) -> None:
        e.maybe_hot("%a", returns=True)

    @add("handled")
    def _handled(e: _Glue) -> None:
        """To the handler in ``b`` of the record in ``a``."""
        e.handler(e.v("inttoptr i64 %b to ptr"), "%a")

    @add("missed")
    def _missed(e: _Glue) -> None:
        e.leave(Reason.MISS, "%b")

    return out


_GLUE: Final = _glue()
COMMON: Final = {name: i for i, name in enumerate(_GLUE)}
"""The numbers of the stencils between instructions; those of instructions follow."""


# -- building ---------------------------------------------------------------------------------------------------------


def build(
    isa: Isa, compile_all: Callable[[list[str]], list[bytes]]
) -> tuple[list[Stencil], bytes, dict[str, int]]:
    """(stencils, tables that their code uses, the number of each instruction's stencil by name and static fields).

    The stencils between instructions come first (:data:`COMMON`). ``compile_all`` compiles LLVM modules to objects.
    """
    text: list[str] = []
    outlines: list[tuple[Template, Plan, _Stencil] | None] = []
    for name, function in _GLUE.items():
        glue = _Glue(isa)
        function(glue)
        assert COMMON[name] == len(outlines)
        text.append(glue.text(f"s{len(outlines)}"))
        outlines.append(None)
    numbers: dict[str, int] = {}
    zeros: dict[int, int] = {}
    nears: dict[int, int] = {}
    for name, template in _templates(isa):
        how = plan(isa, template, "")
        made = None if how is None else _instruction(isa, template, how)
        if how is not None and made is not None:
            numbers[name] = len(outlines)
            text.append(made.text(f"s{len(outlines)}"))
            outlines.append((template, how, made))
            access = template.codes & {"load", "store"}
            if (
                template.codes >= {"field", "add"}
                if access
                else made.write != 255
                and (
                    template.codes >= {"field", "add", "sext"} or template.codes >= {"field", "lshr", "sext"}
                )
            ):
                # Compilers extend a sign by adding 0. A shift by a literal that is not 0 needs no extension, one by 0 does. Where a
                # pointer points to has no displacement.
                plain = _instruction(isa, template, how, 0)
                if plain is not None:
                    zeros[numbers[name]] = len(outlines)
                    text.append(plain.text(f"s{len(outlines)}"))
                    outlines.append((template, how, plain))
            if _is_displaced(isa, template, made):
                short = _instruction(isa, template, how, near=True)
                if short is not None:
                    nears[numbers[name]] = len(outlines)
                    text.append(short.text(f"s{len(outlines)}"))
                    outlines.append((template, how, short))
    tables = b""
    codes: dict[str, _Code] = {}
    for data in compile_all([_module(text[i::2]) for i in range(2)]):
        tables += bytes(-len(tables) % 64)
        found, more = read_object(data, len(tables))
        codes |= found
        tables += more
    chosen, better = _literals(isa, outlines, codes, compile_all)
    codes |= better
    out: list[Stencil] = []
    forms, of = _forms(isa, outlines, chosen, len(outlines), compile_all)
    for number, outline in enumerate(outlines):
        code, holes = codes.get(f"s{number}", (b"", ()))
        missing = f"s{number}" not in codes
        if outline is None:
            if missing:
                raise CacheError(f"the stencil {list(COMMON)[number]!r} has no code")
            out.append(Stencil(code, holes))
            continue
        template, how, e = outline
        sizes = [*(size for _, _, size in how.immediates), 0, 0]
        flags = e.flags | (Flag.ESCAPE if missing else 0) | (Flag.MOVES if _moves(template) else 0)
        extra = (Flag.COMMUTES if _commutes(template) else 0) | (Flag.OFFSETS if _offsets(template) else 0)
        out.append(
            Stencil(
                code,
                holes,
                flags,
                a=e.reads[0],
                b=e.reads[1],
                result=e.write,
                target=e.target,
                sizes=(sizes[0], sizes[1]),
                extra=extra,
                forms=of.get(number, (0, 0)),
                zero=zeros.get(number, 0),
                near=nears.get(number, 0),
            )
        )
    return [*out, *forms], tables, numbers


def _templates(isa: Isa) -> Iterator[tuple[str, Template]]:
    """Every template that native code supports, by instruction name and static fields."""
    for insn in isa.instructions.values():
        if insn.expands:
            continue
        for statics in isa.variants(insn):
            try:
                template = insn.template(statics)
            except (SpecError, VmError):
                continue
            if supported(template):
                yield f"{insn.name}/{','.join(str(statics[name]) for name in insn.statics)}", template


def _instruction(
    isa: Isa,
    template: Template,
    how: Plan,
    literal: int | None = None,
    places: tuple[str, str, str] = ("a", "b", "a"),
    *,
    near: bool = False,
) -> _Stencil | None:
    try:
        e = _Stencil(isa, how, literal, places, near=near)
        e.lower(template)
        e.finish()
    except _Unfit:
        return None
    return e


def _is_displaced(isa: Isa, template: Template, e: _Stencil) -> bool:
    """Whether an instruction does one plain access to memory, at its first operand plus its immediate."""
    accesses = [op for op in template.ops if op.code in ("load", "store")]
    if not HOST.x86 or len(accesses) != 1 or template.codes & {"check", "probe", "cas", "amo", "setpc"}:
        return False
    access = accesses[0]
    width = access.width if access.code == "load" else template.ops[access.args[1]].width
    address = template.ops[access.args[0]]
    if access.guard is not None or width not in LOADS or address.code != "add":
        return False
    first, second = (template.ops[arg] for arg in address.args)
    if first.code != "reg" or second.code != "field" or first.attr[0] != e.main:
        return False
    return e.reads[0] == e.slots.get(("r", *first.attr))


def _offsets(template: Template) -> bool:
    """Whether the result is the operand plus the immediate."""
    ops = [op.code for op in template.ops]
    return (
        sorted(ops[:2]) == ["field", "reg"] and ops[2:] == ["add", "setreg"] and template.ops[2].width == 64
    )


def _moves(template: Template) -> bool:
    ops = [op.code for op in template.ops]
    operands = sorted(ops[:2]) in (["reg", "reg"], ["field", "reg"])
    return (
        operands
        and ops[2:] in (["add", "setreg"], ["or", "setreg"], ["xor", "setreg"])
        and template.ops[2].width == 64
    )


_WIDE: Final = (0x2A3B4C5D, -0x35A4B3C4)
_NARROW: Final = {32: (11, 22), 64: (11, 53)}
"""Shift amounts, on both sides of what LLVM may have a special form for."""
_NEGATIVE: Final = (-0x2A3B4C5E, -0x35A4B3C4)
"""For ``and``: LLVM's code for a positive number is one of 32 bits, that for a negative one is right for all."""


def _literals(
    isa: Isa,
    outlines: list[tuple[Template, Plan, _Stencil] | None],
    codes: dict[str, _Code],
    compile_all: Callable[[list[str]], list[bytes]],
) -> tuple[dict[int, tuple[int, int]], dict[str, _Code]]:
    """Better code for stencils whose immediate LLVM put in a register, because it knows few places for a symbol.

    Such a stencil is compiled with two numbers instead: where the code differs by just those numbers is the hole. Gives
    the two numbers, by the number of the stencil, and the code by its name.
    """
    imm = SOURCES.index("imm0")
    chosen: dict[int, tuple[int, int]] = {}
    text: list[list[str]] = [[], []]
    for number, outline in enumerate(outlines):
        name = f"s{number}"
        if outline is None or not any(
            hole.kind == 1 and hole.source == imm for hole in codes.get(name, (b"", ()))[1]
        ):
            continue
        template, how, _ = outline
        shifts = [
            op.width
            for op in template.ops
            if op.code in ("shl", "lshr", "ashr")
            and template.ops[op.args[1]].code in ("field", "extract", "and")
        ]
        masks = [op.code for op in template.ops[2:]] == ["and", "setreg"] and template.ops[2].width == 64
        pair = _NARROW[max(shifts)] if shifts else _NEGATIVE if masks else _WIDE
        made = [_instruction(isa, template, how, literal) for literal in pair]
        for part, one in zip(text, made, strict=True):
            if one is not None:
                part.append(one.text(name))
        chosen[number] = pair
    found = [read_object(data, 0)[0] for data in compile_all([_module(part) for part in text])]
    out, kept = {}, {}
    for number, pair in chosen.items():
        name = f"s{number}"
        if name in found[0] and name in found[1]:
            merged = _merge(found[0][name], found[1][name], pair)
            if merged is not None:
                out[name], kept[number] = merged, pair
    return kept, out


def _merge(one: _Code, other: _Code, pair: tuple[int, int]) -> _Code | None:
    """The stencil of two codes that differ only by holding the one or the other number; else None."""
    if len(one[0]) != len(other[0]) or one[1] != other[1]:
        return None
    if any(SOURCES[hole.source] == "tables" for hole in one[1]):
        return None
    size, kind = (1, 3) if pair in _NARROW.values() else (4, 0)
    want = [number.to_bytes(size, "little", signed=True) for number in pair]
    holes, at = list(one[1]), 0
    while at < len(one[0]):
        if one[0][at : at + size] == want[0] and other[0][at : at + size] == want[1]:
            holes.append(Hole(at, kind, SOURCES.index("imm0"), 0))
            at += size
        elif one[0][at] != other[0][at]:
            return None
        else:
            at += 1
    return one[0], tuple(sorted(holes, key=lambda hole: hole.offset))


# -- forms ------------------------------------------------------------------------------------------------------------

FORMS: Final = (
    ("p4", "p3", "p4"), ("p4", "b", "p4"),
    ("p4", "", "p3"), ("p4", "", "p4"),
    ("p4", "p3", ""), ("p4", "b", ""),
)  # fmt: skip
"""Where a form has its first operand, its second and its result: p4 stands for its first pin, p3 for its second. An
instruction of two operands and a result has the first two of these, one of one operand the next two, one without a
result the last two."""
_FIRST, _SECOND = ("p4", ("p5", "p6", "p1")), ("p3", ("p2", "p1", "p6"))
"""The base of each pin and three others: numbers 0, 1, 3, 5; and 7, 6, 5, 3. With them all bits can be told."""
_FORM_BYTES: Final = 80
_FORM_OPS: Final = frozenset(PURE) | {
    "reg",
    "setreg",
    "const",
    "field",
    "load",
    "store",
    "setpc",
    "pc",
    "next_pc",
}


def _kinds_of_form(template: Template, e: _Stencil) -> range | None:
    """The numbers of the forms that an instruction may have."""
    if not template.codes <= _FORM_OPS or e.flags & (Flag.INDIRECT | Flag.JUMP):
        return None
    if any(op.code in ("udiv", "urem", "sdiv", "srem") for op in template.ops):
        return None
    if any(file != e.main for cells in (template.reads, template.writes) for file, _ in cells):
        return None
    if e.reads[0] == 255:
        return None
    if e.write == 255:
        return range(4, 6) if e.reads[1] != 255 else None
    if e.reads[1] == 255:
        return range(2, 4)
    return None if template.codes & {"load", "store"} else range(2)


def _place(text: str, first: str, second: str) -> str:
    return {"p4": first, "p3": second}.get(text, text)


def _forms(
    isa: Isa,
    outlines: list[tuple[Template, Plan, _Stencil] | None],
    chosen: dict[int, tuple[int, int]],
    start: int,
    compile_all: Callable[[list[str]], list[bytes]],
) -> tuple[list[Stencil], dict[int, tuple[int, int]]]:
    """The forms, whose numbers begin at ``start``, and which each instruction has, by its number."""
    text: list[str] = []
    wanted: list[tuple[int, int]] = []
    for number, outline in enumerate(outlines):
        kinds = None if outline is None else _kinds_of_form(outline[0], outline[2])
        if outline is None or kinds is None:
            continue
        for kind in kinds:
            wanted.append((number, kind))
            pair = chosen.get(number, (outline[2].literal, None))
            for name, first, second, literal in _trials(kind, pair):
                places = tuple(_place(one, first, second) for one in FORMS[kind])
                near = outline[2].near
                e = _instruction(
                    isa, outline[0], outline[1], literal, (places[0], places[1], places[2]), near=near
                )
                if e is not None:
                    text.append(e.text(f"s{number}_{kind}_{name}"))
    found: dict[str, _Code] = {}
    for data in compile_all([_module(text[i::2]) for i in range(2)]):
        found |= read_object(data, 0)[0]
    forms: list[Stencil] = []
    of: dict[int, list[int]] = {}
    for number, kind in wanted:
        mine = of.setdefault(number, [])
        made = _form(found, f"s{number}_{kind}_", kind, chosen.get(number))
        mine.append(0 if made is None else start + len(forms))
        outline = outlines[number]
        if made is not None and outline is not None:
            code, holes, patches, refused = made
            forms.append(
                Stencil(code, holes, outline[2].flags | Flag.KEEPS_B, patches=patches, refused=refused)
            )
    return forms, {number: (mine[0], mine[1]) for number, mine in of.items()}


def _trials(kind: int, pair: tuple[int | None, int | None]) -> Iterator[tuple[str, str, str, int | None]]:
    """(name, first pin, second pin, literal) of all that is compiled to learn one form."""
    (x, others), (y, more) = _FIRST, _SECOND
    yield "base", x, y, pair[0]
    if pair[1] is not None:
        yield "other", x, y, pair[1]
    if "p4" in FORMS[kind]:
        for i, pin in enumerate((*others, "p0")):
            yield f"x{i}", pin, y, pair[0]
    if "p3" in FORMS[kind]:
        for i, pin in enumerate((*more, "p0")):
            yield f"y{i}", x, pin, pair[0]
    yield "check", "p2", "p5", pair[0]


def _form(
    found: dict[str, _Code], name: str, kind: int, pair: tuple[int, int] | None
) -> tuple[bytes, tuple[Hole, ...], tuple[tuple[Patch, ...], tuple[Patch, ...]], int] | None:
    """The form, if its codes differ by what its pins are and nothing else."""
    base = found.get(name + "base")
    if base is None or len(base[0]) > _FORM_BYTES:
        return None
    holes: tuple[Hole, ...] = base[1]
    if pair is not None:
        merged = None if name + "other" not in found else _merge(base, found[name + "other"], pair)
        if merged is None:
            return None
        holes = merged[1]
    if any(SOURCES[hole.source] == "tables" for hole in holes):
        return None

    def difference(trial: str) -> list[int] | None:
        other = found.get(name + trial)
        if other is None or len(other[0]) != len(base[0]) or other[1] != base[1]:
            return None
        return [p ^ q for p, q in zip(base[0], other[0], strict=True)]

    patches: list[tuple[Patch, ...]] = []
    refused = 0
    for number, (letter, pin) in enumerate((("x", "p4"), ("y", "p3"))):
        if pin not in FORMS[kind]:
            patches.append(())
            continue
        one, two, three, last = (difference(f"{letter}{i}") for i in range(4))
        if one is None or two is None or three is None:
            return None
        # The first pin's base is number 0, the others 1, 3 and 5; the second's is 7, the others 6, 5 and 3.
        rows = list(zip(one, two, three, strict=True))
        masks = [(p, q ^ p, r ^ p) if letter == "x" else (p, q, r) for p, q, r in rows]
        patches.append(tuple(Patch(i, row) for i, row in enumerate(masks) if any(row)))
        bits = 4 if letter == "x" else 4 ^ 7
        if last is None or _applied(masks, bits) != last:
            refused |= 1 << number
    check = difference("check")
    if check is None:
        return None
    expected = [0] * len(base[0])
    for group, bits in zip(patches, (6, 1 ^ 7), strict=True):
        for patch in group:
            expected[patch.offset] ^= _mixed(patch.masks, bits)
    return (base[0], holes, (patches[0], patches[1]), refused) if check == expected else None


def _mixed(masks: tuple[int, int, int], bits: int) -> int:
    out = 0
    for i, one in enumerate(masks):
        out ^= one if bits >> i & 1 else 0
    return out


def _applied(masks: list[tuple[int, int, int]], bits: int) -> list[int]:
    return [_mixed(row, bits) for row in masks]


def _commutes(template: Template) -> bool:
    """Whether the two operands meet in one op that does not care for their order, and nowhere else."""
    ops = template.ops
    uses = [arg for op in ops for arg in op.args]

    def source(number: int) -> int:
        op = ops[number]
        if uses.count(number) == 1 and op.code == "extract" and not op.attr:
            return source(op.args[0])
        return number if op.code == "reg" and uses.count(number) == 1 else -1

    return any(
        op.code in ("add", "and", "or", "xor", "mul") and -1 not in (sources := [source(arg) for arg in op.args])
        and len(set(sources)) == 2
        for op in ops
    )  # fmt: skip


def _module(functions: list[str]) -> str:
    symbols, ranges = [], []
    for i, (name, (low, high)) in enumerate(_RANGES.items()):
        symbols.append(f"@{name} = external global i8, !absolute_symbol !{100 + i}")
        ranges.append(f"!{100 + i} = !{{i64 {low}, i64 {high}}}")
    return "\n".join(
        [
            DECLARATIONS,
            *symbols,
            *(f"declare {_CC} void @{one}({_SIGNATURE})" for one in _TARGETS),
            *functions,
            # For size: then LLVM makes conditional tail calls. No tables: they would point into the code.
            'attributes #0 = { nounwind optsize strictfp "no-trapping-math"="false" "no-jump-tables"="true" }',
            "attributes #1 = { strictfp }",
            METADATA,
            *ranges,
        ]
    )


_KINDS: Final = {1: 1, 10: 0, 11: 0, 2: 2, 4: 2}
"""x86-64 relocation types: 64; 32, 32S; PC32, PLT32."""
_SIGN_EXTENDED: Final = 11
"""32S. A guest address of 2 GiB or more does not fit."""


def read_object(data: bytes, base: int) -> tuple[dict[str, _Code], bytes]:
    """The code and the holes of each stencil in an object file, and its tables, which will lie ``base`` bytes into all
    tables. A stencil that needs something else (a library's function) is left out."""
    offset = struct.unpack_from("<Q", data, 40)[0]
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * size) for i in range(count)]

    def text_at(at: int) -> str:
        return data[at : data.index(b"\0", at)].decode()

    tables = bytearray()
    place: dict[int, int] = {}
    code = faulting = -1
    symbols: list[tuple[str, int, int, int]] = []
    for i, (label, kind, flags, _, at, length, link, _, align, _) in enumerate(sections):
        if kind == 2:
            strings = sections[link][4]
            for spot in range(at, at + length, 24):
                name, _, _, section, value, extent = struct.unpack_from("<IBBHQQ", data, spot)
                symbols.append((text_at(strings + name), section, value, extent))
        if kind != 1 or not flags & 2 or not length:
            continue
        if text_at(sections[names][4] + label) == FIXUPS:
            faulting = i
        elif not flags & 4:
            tables += bytes(-len(tables) % max(align, 1))
            place[i] = base + len(tables)
            tables += data[at : at + length]
        elif code >= 0:
            raise CacheError("an object of stencils has two sections of code")
        else:
            code = i
    holes: list[tuple[int, Hole | None]] = []
    pairs: dict[int, int] = {}
    for _, kind, _, _, at, length, _, target, _, _ in sections:
        if kind != 4 or target not in (code, faulting):
            continue
        for spot in range(at, at + length, 24):
            where, how, addend = struct.unpack_from("<QQq", data, spot)
            name, section, value, _ = symbols[how >> 32]
            found = _KINDS.get(how & 0xFFFFFFFF)
            if target == faulting:
                pairs[where] = value + addend
            elif found is None or (name in ("pc", "next_pc") and how & 0xFFFFFFFF == _SIGN_EXTENDED):
                holes.append((where, None))
            elif name in SOURCES:
                holes.append((where, Hole(0, found, SOURCES.index(name), addend)))
            elif section in place:
                holes.append(
                    (where, Hole(0, found, SOURCES.index("tables"), place[section] + value + addend))
                )
            else:
                holes.append((where, None))
    for where, access in pairs.items():
        if where % 8 == 0:
            holes.append((access, Hole(0, 4, SOURCES.index("refuse"), pairs[where + 4])))
    holes.sort(key=lambda one: one[0])
    out: dict[str, _Code] = {}
    start = sections[code][4] if code >= 0 else 0
    for name, section, value, extent in symbols:
        if section != code or not extent:
            continue
        body = data[start + value : start + value + extent]
        mine = [(where - value, hole) for where, hole in holes if value <= where < value + extent]
        kept = _without_way_out(body, value, [(where, hole) for where, hole in mine if hole is not None])
        if kept is not None and len(mine) == sum(hole is not None for _, hole in mine):
            out[name] = kept
    return out, bytes(tables)


def _without_way_out(body: bytes, value: int, holes: list[tuple[int, Hole]]) -> _Code | None:
    """A stencil without the jump to ``next`` at its end, and without the jump to ``refuse`` behind that which faults go
    to: the table of faults can name the other end at once. None if faults go anywhere else."""

    def ends_with(source: str) -> bool:
        jumps = [hole for where, hole in holes if hole.kind == 2 and where == len(body) - 4]
        return bool(jumps) and body[-5] == 0xE9 and SOURCES[jumps[0].source] == source

    def shorten() -> bytes:
        holes[:] = [(where, hole) for where, hole in holes if where != len(body) - 4]
        return body[:-5]

    goals = {hole.addend - value for _, hole in holes if hole.kind == 4}
    if goals:
        if not ends_with("refuse") or goals != {len(body) - 5}:
            return None
        body = shorten()
    if ends_with("next"):
        body = shorten()
    return body, tuple(
        Hole(where, hole.kind, hole.source, 0 if hole.kind == 4 else hole.addend) for where, hole in holes
    )
