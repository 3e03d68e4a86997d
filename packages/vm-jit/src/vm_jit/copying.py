"""The baseline compiler: native code that copies stencils (:mod:`vm_jit.stencils`) for what the records say.

``baseline(work, pc, write, execute, capacity)`` makes a unit: the code that is reachable from the guest address
``pc`` without calls, has been decoded, and lies in one window of guest addresses. It returns the bytes written at
``write`` (which run at ``execute``), or 0 if there is nothing to compile or no space. ``shared(work, write, execute, capacity)`` makes what units
have in common.

A few guest registers live in host registers (pins) in all units, and travel from one to the other. Others that pay for it live
in pins within a unit: they are loaded where it is entered and
those that it writes are stored where it leaves. The unit is entered through the records of its entries, whose handler
fields it replaces at last. A block takes its instructions off the fuel first; if that does not leave any, or an
instruction is refused, the interpreter's handler of the record goes on.
"""

from __future__ import annotations

from typing import Final

from vm_core.memory import MAX_BITS, PAGE, Prot
from vm_core.spec.isa import Isa
from vm_jit.assemble import Condition, Function, Value
from vm_jit.kept import KIND_SHIFT, MOVE_BYTES, NO_RECORD
from vm_jit.records import LENGTH, LINKED, RECORD_BYTES, RECORD_PC, SHARED
from vm_jit.stencils import COMMON, PIN_NUMBERS, PINS, SOURCES, Flag, carried

__all__ = [
    "DESCRIPTOR", "ENTRY_BYTES", "FIELDS", "HOLE", "MAX_MOVES", "WINDOW", "WORK_BYTES", "baseline_module",
]  # fmt: skip

DESCRIPTOR: Final = "<IIHHBBBBBBBBHHIBBBxHH"
"""Code offset, number of the first hole, code bytes, holes, flags, a, b, result, target, sizes of the immediates, extra
flags, two forms, number of the first patch, patches for the first pin and for the second, refused, the stencils
for an immediate of 0 and for an access near what is known."""
DESCRIPTOR_BYTES: Final = 36
PATCH: Final = "<BBBB"
"""Offset and three masks."""
HOLE: Final = "<HBBi"
"""Offset, kind, source, addend."""
WINDOW: Final = 1 << 15
"""Guest addresses around a hot one, in units of the ISA, that its unit can reach."""
MAX_INSTRUCTIONS: Final = 4000
_FAR: Final = 1 << 12
"""Displacements below this keep an access within the guard zones around the arena, however many follow one another in a unit."""
_SLACK: Final = 1024
"""Bytes of code that one instruction cannot need, with all that is around it."""
_MAX_LABELS: Final = 4 * MAX_INSTRUCTIONS
ENTRY_BYTES: Final = 32
MAX_MOVES: Final = 4 * MAX_INSTRUCTIONS
_RECORD, _HANDLER, _TABLES, _FAULTS, _SHARES = 0, 1, 2, 3, 4


class _Layout:
    """Offsets of fields in the work area."""

    def __init__(self) -> None:
        self.size = 0
        self.at: dict[str, int] = {}

    def add(self, name: str, size: int = 8) -> None:
        self.at[name] = self.size
        self.size += (size + 63) & -64 if size > 8 else 8


def _layout() -> _Layout:
    out = _Layout()
    for name in (
        "pages",  # the engine's page table
        "index", "index_mask",  # hash table of (handler, descriptor number)
        "descriptors", "holes", "patches", "code", "tables",
        "main", "main_end", "zero", "sink",  # state offsets: the main register file, its zero register and its sink
        "heat",  # whether loops count their turns
        "table", "hot", "confined",  # the guest's permission table; what the unit is made for; whether it is made from one page only
        "base", "low", "high",  # guest addresses: the window's start, the unit's bounds
        "first", "last",  # the part of the window's map that is in use
        "count", "entries", "labels", "stubs", "fixups", "failed",
        "write", "execute", "capacity", "at",
        "faults", "start",  # the table of where faults go to (vm_jit.faults), and the unit's offset in its chunk
        "cached_a", "cached_b",  # the state offsets of the registers that a and b hold
        "falls",  # where the block in front goes on
        "near",  # a bit for each register of the main file that points into the arena or not far from it
        "written",  # a bit for each pin that the unit writes
        "form", "form_pins",  # what the next instruction will be copied as: a form's descriptor, and its pins
        "refusal",  # the label of what all refusals of the unit have in common
        *SHARED,  # where what all units have in common is: seen from the unit, then its label
        "subject",  # the guest address whose record ``record`` is
        "moves",  # how many words of the unit depend on where things are in this process
    ):  # fmt: skip
        out.add(name)
    out.add("values", 8 * len(SOURCES))
    out.add("pins", 64)  # the pin + 1 of each register of the main file
    out.add("pinned", 8 * PINS)  # the state offset of each pin, or 0
    out.add("use", 64 * 8)
    out.add("map", (WINDOW + 16) * 4)  # for each unit of the window: flags, and from bit 8 the label
    out.add("depth", (WINDOW + 16) * 4)  # where loops begin and, negative, end
    out.add("stack", 4 * 4 * MAX_INSTRUCTIONS)
    out.add("label", 4 * _MAX_LABELS)
    out.add("origin", 4 * _MAX_LABELS)  # the guest address of each block's label
    out.add("stub", 32 * _MAX_LABELS)
    out.add("fixup", 16 * _MAX_LABELS)
    out.add("entry", ENTRY_BYTES * MAX_INSTRUCTIONS)
    out.add("move", MOVE_BYTES * MAX_MOVES)
    return out


_WORK: Final = _layout()
FIELDS: Final = _WORK.at
WORK_BYTES: Final = _WORK.size

_PIN_STENCILS: Final = COMMON["load_p1"] - COMMON["load_p0"]
_VISITED, _LEADER, _ENTRY, _LOOP, _TARGET = 1, 2, 4, 8, 16
"""Flags of a place: found, begins a block, is entered from outside, begins a loop, is jumped to."""
_REFUSED, _LEAVES, _HEATS = 0, 1, 2
"""Kinds of code behind the unit: back to the interpreter's handler, on to another place, count and go by the record."""
_NONE: Final = 0xFFFF
_FAULT: Final = 1 << 40
_WX: Final = int(Prot.WRITE | Prot.EXEC)
_PIN_BITS: Final = sum(bits << 4 * (pin + 1) for pin, bits in enumerate(PIN_NUMBERS))


class _Builder:
    """The functions of the module."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.scale = RECORD_BYTES // isa.unit
        self.unit_shift = isa.unit.bit_length() - 1
        self.carried = carried(isa)

    # -- access to the work area --------------------------------------------------------------------------------

    def get(self, f: Function, name: str) -> Value:
        return f.load(f["work"] + FIELDS[name])

    def set(self, f: Function, name: str, value: Value | int) -> None:
        f.store(f["work"] + FIELDS[name], value)

    def value(self, f: Function, source: str, value: Value | int) -> None:
        f.store(f["work"] + FIELDS["values"] + 8 * SOURCES.index(source), value)

    def element(self, f: Function, name: str, index: Value, size: int) -> Value:
        return f["work"] + FIELDS[name] + index * size

    # -- records ------------------------------------------------------------------------------------------------

    def record(self) -> Function:
        """The address of the record of a guest address, 0 if its page has none."""
        f = self.f_record = Function("record", "work", "pc", internal=True)
        with f.when(f["pc"] >= 1 << MAX_BITS):
            f.leave(0)
        page = f.load(self.get(f, "pages") + (f["pc"] >> 12) * 8)
        with f.when(page.equals(0)):
            f.leave(0)
        f.leave(page + (f["pc"] & PAGE - 1) * self.scale)
        return f

    def describe(self) -> Function:
        """The descriptor of a handler, 0 for one that is not an instruction's."""
        f = self.f_describe = Function("describe", "work", "handler", internal=True)
        mask = self.get(f, "index_mask")
        at = f.variable((f["handler"] >> 4) & mask)
        with f.loop():
            entry = self.get(f, "index") + at.get() * 16
            key = f.load(entry)
            with f.when(key.equals(f["handler"])):
                f.leave(self.get(f, "descriptors") + f.load(entry + 8) * DESCRIPTOR_BYTES)
            f.stop_if(key.equals(0))
            at.set((at.get() + 1) & mask)
        return f

    def slot(self, f: Function, pc: Value) -> Value:
        return (pc - self.get(f, "base")) >> self.unit_shift

    def map_of(self, f: Function, pc: Value) -> Value:
        """The address of the map's entry of a guest address in the window."""
        return self.element(f, "map", self.slot(f, pc), 4)

    def operand(self, f: Function, record: Value, number: Value) -> Value:
        """The state offset in a record's slot, _NONE for slot 255."""
        # Slot 255 would be read far behind the record: read slot 3 instead, the choice follows.
        inside = f.select(number > 3, 3, number)
        return f.select(number > 3, _NONE, f.load(record + 8 + inside * 2, 16))

    def immediate(self, f: Function, record: Value, descriptor: Value, number: int) -> Value:
        size = f.load(descriptor + 17 + number, 8)
        at = record + 16 + (f.load(descriptor + 17, 8) if number else 0)
        short = f.load_signed(at, 32)
        return f.select(size.equals(8), f.load(record + 16), short)

    # -- discovery ----------------------------------------------------------------------------------------------

    def elsewhere(self, f: Function, pc: Value) -> Condition:
        """Whether an address is on a page that code from other pages must look up each time: one that the guest can write."""
        other = ((pc ^ self.get(f, "hot")) >> 12).differs(0)
        there = self.writable(f, pc) | self.get(f, "confined")
        return other & there.differs(0)

    def writable(self, f: Function, pc: Value) -> Value:
        """Not 0 if the guest can write and execute the page of an address."""
        prot = f.load(self.get(f, "table") + (pc >> 12), 8) & _WX
        return f.select(prot.equals(_WX), 1, 0)

    def touch(self, f: Function, pc: Value) -> None:
        slot = self.slot(f, pc)
        with f.when(slot < self.get(f, "first")):
            self.set(f, "first", slot)
        with f.when(slot > self.get(f, "last")):
            self.set(f, "last", slot)

    def mark(self) -> Function:
        """Set flags at a guest address, and with ``push`` have it walked. Nothing outside of the window."""
        f = self.f_mark = Function("mark", "work", "pc", "flags", "top", "push", internal=True)
        with f.when(self.slot(f, f["pc"]) >= WINDOW):
            f.leave(f["top"])
        self.touch(f, f["pc"])
        at = self.map_of(f, f["pc"])
        now = f.load(at, 32)
        f.store(at, now | f["flags"], 32)
        with f.when(f["push"].equals(0) | now.has(_VISITED) | (f["top"] >= 4 * MAX_INSTRUCTIONS - 1)):
            f.leave(f["top"])
        f.store(self.element(f, "stack", f["top"], 4), f["pc"], 32)
        f.leave(f["top"] + 1)
        return f

    def target(self, f: Function, record: Value, descriptor: Value, pc: Value, next_: Value) -> Value:
        """Where a direct jump goes."""
        distance = f.select(
            f.load(descriptor + 16, 8).equals(1),
            self.immediate(f, record, descriptor, 1),
            self.immediate(f, record, descriptor, 0),
        )
        base = f.select(f.load(descriptor + 12, 8).has(Flag.FROM_NEXT), next_, pc)
        return (base + distance) & 0xFFFF_FFFF_FFFF_FFFF

    def is_call(self, f: Function, record: Value, descriptor: Value) -> Value:
        """1 if a jump keeps where it came from in a register."""
        result = self.operand(f, record, f.load(descriptor + 15, 8))
        return f.select(result.equals(_NONE) | result.equals(self.get(f, "sink")), 0, 1)

    def discover(self) -> Function:
        f = self.f_discover = Function("discover", "work", "start", internal=True)
        top = f.variable(f.call(self.f_mark, f["work"], f["start"], _LEADER | _ENTRY, 0, 1))
        count = f.variable(0)
        with f.loop():
            f.stop_if(top.get().equals(0))
            top.add(-1)
            pc = f.variable(f.load(self.element(f, "stack", top.get(), 4), 32))
            with f.loop():
                here = pc.get()
                f.stop_if(self.slot(f, here) >= WINDOW)
                f.stop_if(self.elsewhere(f, here))
                at = self.map_of(f, here)
                f.stop_if(f.load(at, 32).has(_VISITED))
                f.stop_if(count.get() >= MAX_INSTRUCTIONS)
                record = f.call(self.f_record, f["work"], here)
                f.stop_if(record.equals(0))
                descriptor = f.call(self.f_describe, f["work"], f.load(record))
                f.stop_if(descriptor.equals(0))
                f.store(at, f.load(at, 32) | _VISITED, 32)
                self.touch(f, here)
                count.add(1)
                length = f.load(record + LENGTH, 8)
                next_ = here + length
                with f.when(here < self.get(f, "low")):
                    self.set(f, "low", here)
                with f.when(next_ > self.get(f, "high")):
                    self.set(f, "high", next_)
                flags = f.load(descriptor + 12, 8)
                with f.when(flags.has(Flag.ESCAPE)):
                    top.set(f.call(self.f_mark, f["work"], here, _LEADER, top.get(), 0))
                    top.set(f.call(self.f_mark, f["work"], next_, _LEADER | _ENTRY, top.get(), 1))
                    f.stop()
                with f.when(flags.has(Flag.BRANCH | Flag.JUMP)):
                    call = self.is_call(f, record, descriptor)
                    with f.when(call.equals(0)):
                        target = self.target(f, record, descriptor, here, next_)
                        near = (target - here + 2048) < 4096
                        with f.when(flags.has(Flag.BRANCH) | near):
                            loop = f.select(
                                target <= here, _LEADER | _TARGET | _ENTRY | _LOOP, _LEADER | _TARGET
                            )
                            top.set(f.call(self.f_mark, f["work"], target, loop, top.get(), 1))
                            with f.when((target <= here) & (self.slot(f, target) < WINDOW)):
                                start = self.element(f, "depth", self.slot(f, target), 4)
                                f.store(start, f.load(start, 32) + 1, 32)
                                end = self.element(f, "depth", self.slot(f, here) + 1, 4)
                                f.store(end, f.load(end, 32) - 1, 32)
                with f.when(flags.has(Flag.BRANCH)):
                    top.set(f.call(self.f_mark, f["work"], next_, _LEADER, top.get(), 0))
                with f.when(flags.has(Flag.JUMP | Flag.INDIRECT)):
                    with f.when(self.is_call(f, record, descriptor).differs(0)):
                        top.set(f.call(self.f_mark, f["work"], next_, _LEADER | _ENTRY, top.get(), 1))
                    f.stop()
                pc.set(next_)
        self.set(f, "count", count.get())
        f.leave(count.get())
        return f

    # -- pins ---------------------------------------------------------------------------------------------------

    def used(self, f: Function, offset: Value, weight: Value) -> None:
        """Count a use of the register at a state offset."""
        inside = (offset >= self.get(f, "main")) & (offset < self.get(f, "main_end"))
        with f.when(inside & offset.differs(self.get(f, "zero"))):
            at = self.element(f, "use", (offset - self.get(f, "main")) >> 3, 8)
            f.store(at, f.load(at) + weight)

    def choose_pins(self) -> Function:
        """Count uses, more in loops, and what entering and leaving the unit costs; pin what gains most."""
        f = self.f_choose = Function("choose_pins", "work", internal=True)
        f.clear(f["work"] + FIELDS["use"], 64 * 8)
        f.clear(f["work"] + FIELDS["pins"], 64)
        f.clear(f["work"] + FIELDS["pinned"], 8 * PINS)
        depth, cost = f.variable(0), f.variable(0)
        label = f.variable(0)
        first, last = self.slot(f, self.get(f, "low")), self.slot(f, self.get(f, "high"))
        with f.each(first, last) as slot:
            depth.add(f.load_signed(self.element(f, "depth", slot, 4), 32))
            at = self.element(f, "map", slot, 4)
            flags = f.load(at, 32)
            f.again_if(flags.lacks(_VISITED))
            with f.when(flags.has(_LEADER)):
                f.store(at, flags | (label.get() << 8), 32)
                label.add(1)
            record = f.call(self.f_record, f["work"], self.get(f, "base") + (slot << self.unit_shift))
            descriptor = f.call(self.f_describe, f["work"], f.load(record))
            level = depth.get()
            weight = f.variable(f.select(level > 4, 1 << 12, Value(f, "1") << level * 3)).get()
            for number in (13, 14, 15):
                self.used(f, self.operand(f, record, f.load(descriptor + number, 8)), weight)
            kind = f.load(descriptor + 12, 8)
            with f.when(kind.has(Flag.ESCAPE | Flag.INDIRECT)):
                cost.add(weight)
            with f.when(kind.has(Flag.JUMP) & self.is_call(f, record, descriptor).differs(0)):
                cost.add(weight)
            with f.when(flags.has(_ENTRY) & flags.lacks(_LOOP)):
                cost.add(weight)
        self.set(f, "labels", label.get())
        for number, cell in enumerate(self.carried, 1):
            place = self.isa.layout.offset(*cell)
            register = place - self.isa.layout.offset(cell[0], 0) >> 3
            f.store(f["work"] + FIELDS["use"] + 8 * register, 0)
            f.store(f["work"] + FIELDS["pins"] + register, number + 1, 8)
            f.store(f["work"] + FIELDS["pinned"] + 8 * number, place)
        chosen = f.variable(len(self.carried))
        with f.loop():
            f.stop_if(chosen.get() >= PINS)
            # The first is the last to be given: forms may not take it for an address.
            pin = f.select(chosen.get().equals(PINS - 1), 0, chosen.get() + 1)
            best, which = f.variable(cost.get()), f.variable(64)
            with f.each(0, 64) as i:
                use = f.load(self.element(f, "use", i, 8))
                with f.when(use > best.get()):
                    best.set(use)
                    which.set(i)
            f.stop_if(which.get().equals(64))
            f.store(self.element(f, "use", which.get(), 8), 0)
            chosen.add(1)
            f.store(self.element(f, "pins", which.get(), 1), pin + 1, 8)
            offset = self.get(f, "main") + which.get() * 8
            f.store(self.element(f, "pinned", pin, 8), offset)
        return f

    def pin(self, f: Function, offset: Value) -> Value:
        """The pin + 1 of the register at a state offset, 0 if it has none."""
        inside = (offset >= self.get(f, "main")) & (offset < self.get(f, "main_end"))
        index = f.select(inside, (offset - self.get(f, "main")) >> 3, 0)
        return f.select(inside, f.load(self.element(f, "pins", index, 1), 8), 0)

    # -- code ---------------------------------------------------------------------------------------------------

    def note(self) -> Function:
        """Something at an offset of the unit depends on where things are. More than there is room for are only counted."""
        f = self.f_note = Function("note", "work", "at", "kind", "value", internal=True)
        number = self.get(f, "moves")
        self.set(f, "moves", number + 1)
        with f.when(number >= MAX_MOVES):
            f.leave(0)
        to = self.element(f, "move", number, MOVE_BYTES)
        f.store(to, f["at"] | (f["kind"] << KIND_SHIFT), 32)
        f.store(to + 4, self.get(f, "subject"), 32)
        f.store(to + 8, f["value"])
        return f

    def about(self, f: Function, pc: Value, record: Value) -> None:
        """The next stencils are about the record of a guest address."""
        self.value(f, "record", record)
        self.set(f, "subject", pc)

    def copy(self) -> Function:
        """Copy a stencil and fill its holes from the values; ``pins`` are those of a form, + 1, the second from bit 8."""
        f = self.f_copy = Function("copy", "work", "descriptor", "pins", internal=True)
        d, at = f["descriptor"], self.get(f, "at")
        size = f.load(d + 8, 16)
        with f.when(at + size + _SLACK > self.get(f, "capacity")):
            self.set(f, "failed", 1)
            f.leave(0)
        to = self.get(f, "write") + at
        f.copy(to, self.get(f, "code") + f.load(d, 32), size)
        patch = f.variable(self.get(f, "patches") + f.load(d + 24, 32) * 4)
        for which in range(2):
            pin = (f["pins"] >> 8 * which) & 0xFF
            bits = (Value(f, str(_PIN_BITS)) >> pin * 4) & 7
            if which:
                bits = bits ^ 7
            with f.each(0, f.load(d + 28 + which, 8)):
                one = patch.get()
                spot = to + f.load(one, 8)
                byte = f.variable(f.load(spot, 8))
                for bit in range(3):
                    with f.when(bits.has(1 << bit)):
                        byte.set(byte.get() ^ f.load(one + 1 + bit, 8))
                f.store(spot, byte.get(), 8)
                patch.add(4)
        self.value(f, "next", self.get(f, "execute") + at + size)
        first = self.get(f, "holes") + f.load(d + 4, 32) * 8
        taken, refuse, miss = (SOURCES.index(name) for name in ("taken", "refuse", "miss"))
        with f.each(0, f.load(d + 10, 16)) as i:
            hole = first + i * 8
            offset, kind = f.load(hole, 16), f.load(hole + 2, 8)
            source, addend = f.load(hole + 3, 8), f.load_signed(hole + 4, 32)
            value = f.load(f["work"] + FIELDS["values"] + source * 8)
            with f.when(source.equals(taken) | source.equals(refuse) | source.equals(miss)):
                # The value is a label, whose place is known at the end.
                count = self.get(f, "fixups")
                with f.when(count >= _MAX_LABELS):
                    self.set(f, "failed", 1)
                    f.leave(0)
                fixup = self.element(f, "fixup", count, 16)
                f.store(fixup, at + offset, 32)
                f.store(fixup + 4, value, 32)
                f.store(fixup + 8, f.select(kind.equals(4), _FAULT, addend))
                self.set(f, "fixups", count + 1)
            known = source.differs(taken) & source.differs(refuse) & source.differs(miss)
            with f.when(known & kind.equals(1)):
                f.store(to + offset, value + addend)
            with f.when(source.equals(SOURCES.index("record"))):
                f.call(self.f_note, f["work"], at + offset, _RECORD, 0)
            with f.when(source.equals(SOURCES.index("handler"))):
                f.call(self.f_note, f["work"], at + offset, _HANDLER, value)
            with f.when(source.equals(SOURCES.index("tables"))):
                f.call(self.f_note, f["work"], at + offset, _TABLES, addend)
            with f.when(known & kind.equals(0)):
                immediate = source.equals(SOURCES.index("imm0")) | source.equals(SOURCES.index("imm1"))
                with f.when(immediate & ((value + (1 << 31)) >= 1 << 32)):
                    self.set(f, "failed", 1)
                f.store(to + offset, value + addend, 32)
            with f.when(known & kind.equals(3)):
                f.store(to + offset, value + addend, 8)
            with f.when(known & kind.equals(2)):
                distance = value + addend - (self.get(f, "execute") + at + offset)
                with f.when((distance + (1 << 31)) >= 1 << 32):
                    self.set(f, "failed", 1)
                f.store(to + offset, distance, 32)
        self.set(f, "at", at + size)
        return f

    def common(self, f: Function, name: str | Value) -> None:
        """Copy one of the stencils between instructions."""
        number: Value | int = COMMON[name] if isinstance(name, str) else name
        offset = number * DESCRIPTOR_BYTES
        f.call(self.f_copy, f["work"], self.get(f, "descriptors") + offset, 0)

    def shares(self, f: Function) -> None:
        """The next stencils go to what units have in common."""
        self.value(f, "taken", self.get(f, "warmed"))
        self.value(f, "refuse", self.get(f, "handled"))
        self.value(f, "miss", self.get(f, "missed"))

    def new_label(self, f: Function) -> Value:
        number = self.get(f, "labels")
        with f.when(number >= _MAX_LABELS - 1):
            self.set(f, "failed", 1)
            f.leave(0)
        self.set(f, "labels", number + 1)
        return number

    def stub(self) -> Function:
        """A new label, for code behind the unit. ``count`` is fuel to give back."""
        f = self.f_stub = Function("stub", "work", "kind", "pc", "count", internal=True)
        label, number = self.new_label(f), self.get(f, "stubs")
        at = self.element(f, "stub", number, 32)
        f.store(at, f["kind"])
        f.store(at + 8, label)
        f.store(at + 16, f["pc"])
        f.store(at + 24, f["count"])
        self.set(f, "stubs", number + 1)
        f.leave(label)
        return f

    def spill(self) -> Function:
        """Store the pins that the unit writes and no other has."""
        f = self.f_spill = Function("spill", "work", internal=True)
        with f.each(0, PINS) as i:
            f.again_if((i - 1) < len(self.carried))
            offset = f.load(self.element(f, "pinned", i, 8))
            f.again_if(offset.equals(0))
            f.again_if((self.get(f, "written") >> i).lacks(1))
            self.value(f, "slot0", offset)
            self.common(f, i * _PIN_STENCILS + COMMON["store_p0"])
        return f

    def operand_into(self) -> Function:
        """Bring the register at a state offset into a (``which`` 0) or b (1)."""
        f = self.f_operand = Function("operand", "work", "offset", "which", internal=True)
        which, offset = f["which"], f["offset"]
        mine = f["work"] + FIELDS["cached_a"] + which * 8
        other = f["work"] + FIELDS["cached_b"] - which * 8
        with f.when(f.load(mine).equals(offset)):
            f.leave(0)
        f.store(mine, offset)
        # The stencils for b are in the order of those for a.
        group = which * (COMMON["load_b"] - COMMON["load_a"])
        with f.when(offset.equals(self.get(f, "zero"))):
            self.common(f, group + COMMON["zero_a"])
            f.leave(0)
        with f.when(f.load(other).equals(offset)):
            self.common(f, group + COMMON["a_from_b"])
            f.leave(0)
        pin = self.pin(f, offset)
        with f.when(pin.differs(0)):
            self.common(f, group + COMMON["a_from_p0"] + pin - 1)
            f.leave(0)
        self.value(f, "slot0", offset)
        self.common(f, group + COMMON["load_a"])
        return f

    def fill(self, f: Function, record: Value, descriptor: Value, pc: Value) -> None:
        """Set the values for one instruction."""
        for i in range(4):
            self.value(f, f"slot{i}", f.load(record + 8 + 2 * i, 16))
        for i in range(2):
            self.value(f, f"imm{i}", self.immediate(f, record, descriptor, i))
        self.value(f, "pc", pc)
        self.value(f, "next_pc", pc + f.load(record + LENGTH, 8))
        self.about(f, pc, record)

    def forget(self) -> Function:
        """The register at a state offset has a new value, in its pin: a and b do not hold it."""
        f = self.f_forget = Function("forget", "work", "result", internal=True)
        for name in ("cached_a", "cached_b"):
            with f.when(self.get(f, name).equals(f["result"])):
                self.set(f, name, _NONE)
        return f

    def move(self) -> Function:
        """Copy a register to another."""
        f = self.f_move = Function("move", "work", "result", "offset", internal=True)
        result, offset = f["result"], f["offset"]
        with f.when(result.equals(self.get(f, "sink"))):
            f.leave(0)
        to, source = self.pin(f, result), self.pin(f, offset)
        with f.when(to.differs(0) & source.differs(0)):
            with f.when(to.differs(source)):
                self.common(f, (to - 1) * PINS + source - 1 + COMMON["p0_from_p0"])
                f.call(self.f_forget, f["work"], result)
            f.leave(0)
        f.call(self.f_operand, f["work"], offset, 0)
        f.call(self.f_keep, f["work"], result)
        return f

    def set_constant(self) -> Function:
        """Set a register to the first immediate."""
        f = self.f_set = Function("set_constant", "work", "result", internal=True)
        result = f["result"]
        with f.when(result.equals(self.get(f, "sink"))):
            f.leave(0)
        pin = self.pin(f, result)
        with f.when(pin.differs(0)):
            self.common(f, (pin - 1) * _PIN_STENCILS + COMMON["p0_is_imm"])
            f.call(self.f_forget, f["work"], result)
            f.leave(0)
        self.common(f, "a_is_imm")
        f.call(self.f_keep, f["work"], result)
        return f

    def choose_form(self, f: Function, d: Value, number: Value | int, first: Value, second: Value) -> None:
        """Remember the form of that number and its pins, if the instruction has it and it may have these pins."""
        index = f.load(d + 20 + number * 2 if isinstance(number, Value) else d + (20 + number * 2), 16)
        form = self.get(f, "descriptors") + index * DESCRIPTOR_BYTES
        refused = f.load(form + 30, 8)
        bad = (refused.has(1) & first.equals(1)) | (refused.has(2) & second.equals(1))
        self.set(f, "form", f.select(index.equals(0) | bad, 0, form))
        self.set(f, "form_pins", first | (second << 8))

    def two(self) -> Function:
        """Bring two operands of an instruction with a result where one of its forms takes them, if there is one. The
        result comes where the first operand is."""
        f = self.f_two = Function("two", "work", "descriptor", "a", "b", "result", internal=True)
        d, result = f["descriptor"], f["result"]
        a, b = f.variable(f["a"]), f.variable(f["b"])
        pin = self.pin(f, result)
        with f.when(b.get().equals(result) & a.get().differs(result)):
            # The move of the first operand to the result would destroy the second.
            with f.when(f.load(d + 19, 8).lacks(Flag.COMMUTES)):
                f.leave(0)
            b.set(f["a"])
            a.set(f["b"])
        with f.when(a.get().equals(b.get())):
            f.leave(0)
        pin_b = self.pin(f, b.get())
        with f.when(pin.equals(0)):
            f.leave(0)
        self.choose_form(f, d, f.select(pin_b.differs(0), 0, 1), pin, pin_b)
        with f.when(self.get(f, "form").equals(0)):
            f.leave(0)
        with f.when(pin_b.equals(0)):
            f.call(self.f_operand, f["work"], b.get(), 1)
        with f.when(a.get().differs(result)):
            first = self.pin(f, a.get())
            with f.when(first.differs(0)):
                self.common(f, (pin - 1) * PINS + first - 1 + COMMON["p0_from_p0"])
                f.leave(0)
            f.call(self.f_operand, f["work"], a.get(), 0)
            self.common(f, (pin - 1) * _PIN_STENCILS + COMMON["p0_from_a"])
        return f

    def keep(self) -> Function:
        """a is the new value of the register at a state offset."""
        f = self.f_keep = Function("keep", "work", "result", internal=True)
        result = f["result"]
        self.set(f, "cached_a", _NONE)
        with f.when(result.equals(self.get(f, "sink"))):
            f.leave(0)
        with f.when(self.get(f, "cached_b").equals(result)):
            self.set(f, "cached_b", _NONE)
        self.set(f, "cached_a", result)
        pin = self.pin(f, result)
        with f.when(pin.differs(0)):
            self.common(f, (pin - 1) * _PIN_STENCILS + COMMON["p0_from_a"])
            f.leave(0)
        self.value(f, "slot0", result)
        self.common(f, "store_a")
        return f

    def is_near(self, f: Function, offset: Value) -> Value:
        """1 if the register at a state offset is known to point into the arena or not far from it."""
        inside = (offset >= self.get(f, "main")) & (offset < self.get(f, "main_end"))
        index = f.select(inside, (offset - self.get(f, "main")) >> 3, 0)
        return f.select(inside, (self.get(f, "near") >> index) & 1, 0)

    def learn(self) -> Function:
        """What is known of registers behind an instruction: an access that has not been refused was in the arena. ``near`` is 0 for
        what accesses no memory, or not at a register plus an immediate."""
        f = self.f_learn = Function("learn", "work", "record", "descriptor", "near", internal=True)
        record, d = f["record"], f["descriptor"]
        a, result = (self.operand(f, record, f.load(d + number, 8)) for number in (13, 15))
        immediate = self.immediate(f, record, d, 0)
        small = (immediate + _FAR) < 2 * _FAR
        main, end = self.get(f, "main"), self.get(f, "main_end")
        with f.when(f["near"].differs(0) & small & (a >= main) & (a < end)):
            self.set(f, "near", self.get(f, "near") | (Value(f, "1") << ((a - main) >> 3)))
        with f.when((result >= main) & (result < end)):
            offsets = f.load(d + 19, 8).has(Flag.OFFSETS) & small
            still = f.select(offsets, self.is_near(f, a), 0)
            bit = (result - main) >> 3
            self.set(f, "near", (self.get(f, "near") & ((Value(f, "1") << bit) ^ -1)) | (still << bit))
        return f

    def instruction(self) -> Function:
        """One instruction; ``left`` are those of its block that are not done yet, itself included."""
        f = self.f_instruction = Function("instruction", "work", "pc", "left", internal=True)
        record = f.call(self.f_record, f["work"], f["pc"])
        described = f.variable(f.call(self.f_describe, f["work"], f.load(record)))
        plain, near = f.load(described.get() + 32, 16), f.load(described.get() + 34, 16)
        immediate = self.immediate(f, record, described.get(), 0)
        base = self.operand(f, record, f.load(described.get() + 13, 8))
        known = near.differs(0) & self.is_near(f, base).differs(0) & ((immediate + _FAR) < 2 * _FAR)
        with f.when(plain.differs(0) & immediate.equals(0)):
            described.set(self.get(f, "descriptors") + plain * DESCRIPTOR_BYTES)
        with f.when(known):
            described.set(self.get(f, "descriptors") + near * DESCRIPTOR_BYTES)
        d = described.get()
        flags = f.load(d + 12, 8)
        f.call(self.f_learn, f["work"], record, d, near)
        a, b = (self.operand(f, record, f.load(d + 13 + i, 8)) for i in range(2))
        result = self.operand(f, record, f.load(d + 15, 8))
        with f.when(flags.has(Flag.JUMP) & self.is_call(f, record, d).equals(0)):
            # Where it goes is the block's business; what would be left is keeping the return address.
            f.leave(0)
        self.fill(f, record, d, f["pc"])
        zero = self.get(f, "zero")
        with f.when(flags.has(Flag.MOVES)):
            nothing = f.load(f["work"] + FIELDS["values"] + 8 * SOURCES.index("imm0")).equals(0)
            with f.when(b.equals(_NONE) & a.equals(zero)):
                f.call(self.f_set, f["work"], result)
                f.leave(0)
            with f.when((b.equals(_NONE) & nothing) | b.equals(zero)):
                f.call(self.f_move, f["work"], result, a)
                f.leave(0)
            with f.when(b.differs(_NONE) & a.equals(zero)):
                f.call(self.f_move, f["work"], result, b)
                f.leave(0)
        pin_a, pin_b, pin_r = (self.pin(f, one) for one in (a, b, result))
        code, pins, kept = f.variable(d), f.variable(0), f.variable(result)
        direct = f.load(d + 20).differs(0) & (result.equals(_NONE) | result.differs(self.get(f, "sink")))
        both = a.differs(_NONE) & b.differs(_NONE)
        with f.when(direct & both & result.differs(_NONE)):
            f.call(self.f_two, f["work"], d, a, b, result)
            with f.when(self.get(f, "form").differs(0)):
                kept.set(_NONE)
        with f.when(direct & b.equals(_NONE)), f.when(pin_a.differs(0) & pin_r.differs(0)):
            self.choose_form(f, d, f.select(pin_a.equals(pin_r), 1, 0), pin_a, pin_r)
            with f.when(self.get(f, "form").differs(0)):
                kept.set(_NONE)
        with f.when(direct & both & result.equals(_NONE) & pin_a.differs(0) & pin_a.differs(pin_b)):
            self.choose_form(f, d, f.select(pin_b.differs(0), 0, 1), pin_a, pin_b)
            with f.when(self.get(f, "form").differs(0) & pin_b.equals(0)):
                f.call(self.f_operand, f["work"], b, 1)
        form = self.get(f, "form")
        with f.when(form.differs(0)):
            code.set(form)
            pins.set(self.get(f, "form_pins"))
            self.set(f, "form", 0)
        with f.when(form.equals(0)):
            with f.when(b.differs(_NONE)):
                f.call(self.f_operand, f["work"], b, 1)
            with f.when(a.differs(_NONE)):
                f.call(self.f_operand, f["work"], a, 0)
        self.fill(f, record, d, f["pc"])
        with f.when(flags.has(Flag.BRANCH)):
            next_ = f["pc"] + f.load(record + LENGTH, 8)
            target = self.target(f, record, d, f["pc"], next_)
            self.value(f, "taken", f.call(self.f_label, f["work"], target))
        # A label for refusals is made when the stencil has use for it: its stub is the last, and dropped if not.
        stubs, fixups = self.get(f, "stubs"), self.get(f, "fixups")
        label = f.call(self.f_stub, f["work"], _REFUSED, f["pc"], f["left"])
        self.value(f, "refuse", label)
        before = f.variable(fixups)
        with f.when(flags.has(Flag.BRANCH)):
            before.add(1)
        f.call(self.f_copy, f["work"], code.get(), pins.get())
        with f.when(self.get(f, "fixups") <= before.get()):
            self.set(f, "stubs", stubs)
            self.set(f, "labels", label)
        with f.when(f.load(code.get() + 12, 8).lacks(Flag.KEEPS_B)):
            self.set(f, "cached_b", _NONE)
        with f.when(kept.get().differs(_NONE)):
            f.call(self.f_keep, f["work"], kept.get())
        with f.when(kept.get().equals(_NONE) & result.differs(_NONE)):
            f.call(self.f_forget, f["work"], result)
        with f.when(flags.has(Flag.INDIRECT)):
            f.call(self.f_spill, f["work"])
            self.shares(f)
            with f.when(flags.has(Flag.RETURN)):
                self.value(f, "taken", self.get(f, "returned"))
            self.common(f, "go_indirect")
        return f

    def label(self) -> Function:
        """The label of a guest address: its block's, or of code behind the unit that goes there."""
        f = self.f_label = Function("label", "work", "pc", internal=True)
        with f.when(self.slot(f, f["pc"]) < WINDOW):
            entry = f.load(self.map_of(f, f["pc"]), 32)
            with f.when((entry & (_VISITED | _LEADER)).equals(_VISITED | _LEADER)):
                f.leave(entry >> 8)
        f.leave(f.call(self.f_stub, f["work"], _LEAVES, f["pc"], 0))
        return f

    def leave_for(self) -> Function:
        """Code that goes to another place through its record. Falling there counts as a jump: nothing else need ever lead there, when it
        had not run before the unit was made."""
        f = self.f_leave = Function("leave_for", "work", "pc", internal=True)
        f.call(self.f_spill, f["work"])
        with f.when(f["pc"] >= 1 << 32):
            self.set(f, "failed", 1)
        record = f.variable(f.call(self.f_record, f["work"], f["pc"]))
        with f.when(record.get().differs(0)), f.when(self.elsewhere(f, f["pc"])):
            record.set(0)
        with f.when(record.get().equals(0)):
            # Nothing of that page has run yet, or it has to be looked whether it still holds (CodeImage.synchronize).
            self.value(f, "pc", f["pc"])
            self.common(f, "b_is_pc")
            self.shares(f)
            self.common(f, "go_indirect")
            f.leave(0)
        self.about(f, f["pc"], record.get())
        self.shares(f)
        self.common(f, "go_counted")
        return f

    def block(self) -> Function:
        """The block at ``pc``; ``follower`` is the label of the block that will be behind it."""
        f = self.f_block = Function("block", "work", "pc", "follower", internal=True)
        at = self.map_of(f, f["pc"])
        entry = f.load(at, 32)
        f.store(self.element(f, "label", entry >> 8, 4), self.get(f, "at"), 32)
        f.store(self.element(f, "origin", entry >> 8, 4), f["pc"], 32)
        # What is known behind a branch that was not taken is known where only that leads to.
        with f.when(entry.has(_TARGET | _ENTRY) | self.get(f, "falls").differs(f["pc"])):
            self.set(f, "cached_a", _NONE)
            self.set(f, "cached_b", _NONE)
            self.set(f, "near", 0)
        self.set(f, "falls", -1)
        count, pc, last = f.variable(0), f.variable(f["pc"]), f.variable(0)
        kind = f.variable(0)
        with f.loop():
            here = pc.get()
            f.stop_if(self.slot(f, here) >= WINDOW)
            flags = f.load(self.map_of(f, here), 32)
            f.stop_if(flags.lacks(_VISITED))
            with f.when(count.get().differs(0)):
                f.stop_if(flags.has(_LEADER))
            record = f.call(self.f_record, f["work"], here)
            kind.set(f.load(f.call(self.f_describe, f["work"], f.load(record)) + 12, 8))
            with f.when(kind.get().has(Flag.ESCAPE)):
                f.stop()
            count.add(1)
            last.set(here)
            pc.set(here + f.load(record + LENGTH, 8))
            f.stop_if(kind.get().has(Flag.BRANCH | Flag.JUMP | Flag.INDIRECT))
        record = f.call(self.f_record, f["work"], f["pc"])
        with f.when(count.get().equals(0)):
            # The interpreter's: the block is this one instruction.
            f.call(self.f_spill, f["work"])
            self.about(f, f["pc"], record)
            self.value(f, "handler", f.load(record))
            self.value(f, "count", 0)
            self.common(f, "go_handler")
            f.leave(0)
        with f.when(entry.has(_LOOP) & self.get(f, "heat").differs(0)):
            self.about(f, f["pc"], record)
            self.value(f, "refuse", f.call(self.f_stub, f["work"], _HEATS, f["pc"], 0))
            self.common(f, "heat")
        self.value(f, "uncount", Value(f, "0") - count.get())
        self.value(f, "refuse", f.call(self.f_stub, f["work"], _REFUSED, f["pc"], count.get()))
        self.common(f, "fuel")
        end = pc.get()
        pc.set(f["pc"])
        left = f.variable(count.get())
        with f.loop():
            f.stop_if(left.get().equals(0))
            here = pc.get()
            f.call(self.f_instruction, f["work"], here, left.get())
            pc.set(here + f.load(f.call(self.f_record, f["work"], here) + LENGTH, 8))
            left.add(-1)
        ended = kind.get()
        where = f.variable(end)
        jumps = f.variable(0)
        with f.when(ended.has(Flag.INDIRECT)):
            f.leave(0)
        with f.when(ended.has(Flag.BRANCH)):
            self.set(f, "falls", end)
        with f.when(ended.has(Flag.JUMP)):
            record = f.call(self.f_record, f["work"], last.get())
            descriptor = f.call(self.f_describe, f["work"], f.load(record))
            where.set(self.target(f, record, descriptor, last.get(), end))
            jumps.set(1)
            with f.when(self.is_call(f, record, descriptor).differs(0)):
                f.call(self.f_leave, f["work"], where.get())
                f.leave(0)
        with f.when(self.slot(f, where.get()) < WINDOW):
            there = f.load(self.map_of(f, where.get()), 32)
            known = (there & (_VISITED | _LEADER)).equals(_VISITED | _LEADER)
            with f.when(known & (there.has(_TARGET | _ENTRY) | jumps.get().equals(0))):
                with f.when((there >> 8).differs(f["follower"])):
                    self.value(f, "taken", there >> 8)
                    self.common(f, "jump")
                f.leave(0)
        f.call(self.f_leave, f["work"], where.get())
        return f

    def behind(self) -> Function:
        """The code behind the unit: where blocks leave, and where they are entered."""
        f = self.f_behind = Function("behind", "work", internal=True)
        done = f.variable(0)
        with f.loop():
            f.stop_if(done.get() >= self.get(f, "stubs"))
            at = self.element(f, "stub", done.get(), 32)
            done.add(1)
            kind, pc = f.load(at), f.load(at + 16)
            f.store(self.element(f, "label", f.load(at + 8), 4), self.get(f, "at"), 32)
            with f.when(kind.equals(_LEAVES)):
                f.call(self.f_leave, f["work"], pc)
            with f.when(kind.differs(_LEAVES)):
                record = f.call(self.f_record, f["work"], pc)
                self.about(f, pc, record)
                self.value(f, "handler", f.load(record))
                self.value(f, "count", f.load(at + 24))
                with f.when(kind.equals(_REFUSED)):
                    self.value(f, "taken", self.get(f, "refusal"))
                    self.common(f, "refused")
                with f.when(kind.equals(_HEATS)):
                    f.call(self.f_spill, f["work"])
                    self.shares(f)
                    self.common(f, "go_maybe_hot")
        f.store(self.element(f, "label", self.get(f, "refusal"), 4), self.get(f, "at"), 32)
        f.call(self.f_spill, f["work"])
        self.shares(f)
        self.common(f, "go_refused")
        with f.each(self.slot(f, self.get(f, "low")), self.slot(f, self.get(f, "high"))) as slot:
            entry = f.load(self.element(f, "map", slot, 4), 32)
            wanted = _VISITED | _LEADER | _ENTRY
            f.again_if((entry & wanted).differs(wanted))
            pc = self.get(f, "base") + (slot << self.unit_shift)
            label = entry >> 8
            record = f.call(self.f_record, f["work"], pc)
            descriptor = f.call(self.f_describe, f["work"], f.load(record))
            # An entry that only goes back to the interpreter is none.
            f.again_if(f.load(descriptor + 12, 8).has(Flag.ESCAPE))
            start = self.get(f, "execute") + self.get(f, "at")
            self.set(f, "at", self.get(f, "at") + ((Value(f, str(LINKED)) - start) & 2 * LINKED - 1))
            out = self.element(f, "entry", self.get(f, "entries"), ENTRY_BYTES)
            self.set(f, "entries", self.get(f, "entries") + 1)
            f.store(out, record)
            f.store(out + 16, f.load(record))
            f.store(out + 8, self.get(f, "execute") + self.get(f, "at"))
            f.store(out + 24, pc)
            self.common(f, "enter")
            for number, cell in enumerate(self.carried, 1):
                self.value(f, "slot0", self.isa.layout.offset(*cell))
                self.common(f, f"load_p{number}")
            with f.each(0, PINS) as i:
                offset = f.load(self.element(f, "pinned", i, 8))
                f.again_if(offset.equals(0) | ((i - 1) < len(self.carried)))
                self.value(f, "slot0", offset)
                self.common(f, i * _PIN_STENCILS + COMMON["load_p0"])
            self.value(f, "taken", label)
            self.common(f, "jump")
        return f

    def find_written(self, f: Function) -> None:
        """Which pins the unit writes."""
        self.set(f, "written", 0)
        with f.each(self.slot(f, self.get(f, "low")), self.slot(f, self.get(f, "high"))) as slot:
            f.again_if(f.load(self.element(f, "map", slot, 4), 32).lacks(_VISITED))
            record = f.call(self.f_record, f["work"], self.get(f, "base") + (slot << self.unit_shift))
            descriptor = f.call(self.f_describe, f["work"], f.load(record))
            result = self.operand(f, record, f.load(descriptor + 15, 8))
            pin = self.pin(f, result)
            with f.when(pin.differs(0)):
                self.set(f, "written", self.get(f, "written") | (Value(f, "1") << pin - 1))

    def compile(self) -> Function:
        f = Function("baseline", "work", "pc", "write", "execute", "capacity")
        pc = f["pc"]
        middle = pc & -PAGE
        half = WINDOW // 2 * self.isa.unit
        self.set(f, "base", f.select(middle > half, middle - half, 0))
        self.set(f, "hot", pc)
        self.set(f, "confined", self.writable(f, pc))
        self.set(f, "low", pc)
        self.set(f, "high", pc)
        self.set(f, "first", WINDOW)
        self.set(f, "last", 0)
        for name in ("count", "entries", "labels", "stubs", "fixups", "failed", "at", "form", "moves"):
            self.set(f, name, 0)
        self.set(f, "falls", -1)
        self.begin(f)
        size = f.variable(0)
        with f.when(f.call(self.f_discover, f["work"], pc).differs(0)):
            f.call(self.f_choose, f["work"])
            self.find_written(f)
            self.set(f, "refusal", self.new_label(f))
            for name in SHARED:
                place, label = self.get(f, name), self.new_label(f)
                f.store(self.element(f, "label", label, 4), place, 32)
                self.set(f, name, label)
            first, last = self.slot(f, self.get(f, "low")), self.slot(f, self.get(f, "high"))
            now = f.variable(first)
            wanted = _VISITED | _LEADER
            with f.loop():
                # Find the next block, which the one before it can fall into.
                f.stop_if(now.get() >= last)
                slot = now.get()
                now.add(1)
                entry = f.load(self.element(f, "map", slot, 4), 32)
                f.again_if((entry & wanted).differs(wanted))
                follower = (entry >> 8) + 1
                f.call(self.f_block, f["work"], self.get(f, "base") + (slot << self.unit_shift), follower)
            f.call(self.f_behind, f["work"])
            with f.each(0, self.get(f, "fixups")) as i:
                fixup = self.element(f, "fixup", i, 16)
                at = f.load(fixup, 32)
                target = f.load(self.element(f, "label", f.load(fixup + 4, 32), 4), 32)
                addend = f.load(fixup + 8)
                with f.when(addend.equals(_FAULT)):
                    start = self.get(f, "start")
                    f.store(self.get(f, "faults") + (start + at >> 1) * 4, start + target, 32)
                    f.call(self.f_note, f["work"], at, _FAULTS, target)
                with f.when(addend.differs(_FAULT)):
                    f.store(f["write"] + at, target + addend - at, 32)
                    label = f.load(fixup + 4, 32)
                    for number, name in enumerate(SHARED, _SHARES):
                        with f.when(label.equals(self.get(f, name))):
                            f.call(self.f_note, f["work"], at, number, addend)
            with f.when(self.get(f, "failed").equals(0)):
                size.set(self.get(f, "at"))
                with f.each(0, self.get(f, "entries")) as i:
                    entry = self.element(f, "entry", i, ENTRY_BYTES)
                    f.publish(f.load(entry), f.load(entry + 8))
        with f.when(self.get(f, "first") < WINDOW):
            first = self.get(f, "first")
            for name in ("map", "depth"):
                f.clear(self.element(f, name, first, 4), (self.get(f, "last") + 2 - first) * 4)
        f.leave(size.get())
        self.f_compile = f
        return f

    def begin(self, f: Function) -> None:
        """What is the same for all code."""
        for name in ("write", "execute", "capacity"):
            self.set(f, name, f[name])
        self.value(f, "tables", self.get(f, "tables"))
        # What is skipped of an entry by those that have the registers in their pins.
        skipped = Value(f, "0")
        for name in ("enter", *(f"load_p{i + 1}" for i in range(len(self.carried)))):
            skipped = skipped + f.load(self.get(f, "descriptors") + (COMMON[name] * DESCRIPTOR_BYTES + 8), 16)
        self.value(f, "link", skipped)

    def shared(self) -> Function:
        """What units have in common; where each piece begins is in the fields."""
        f = Function("shared", "work", "write", "execute", "capacity")
        for name in ("fixups", "failed", "at"):
            self.set(f, name, 0)
        self.begin(f)
        for name in SHARED:
            self.set(f, name, self.get(f, "at"))
            self.common(f, name)
        f.leave(f.select(self.get(f, "failed").equals(0), self.get(f, "at"), 0))
        return f

    def relocate(self) -> Function:
        """Put right what a copy of a unit has of where things are: ``handlers`` is added to the addresses of handlers; ``miss`` is the handler
        of what has not been decoded, which refusals of such instructions go to, and ``wait`` that of places on pages that nobody has come to. Not 0 if this cannot be: NO_RECORD and a
        guest address whose page has no records, or 1, and the copy is useless."""
        f = Function("relocate", "work", "write", "execute", "moves", "count", "handlers", "miss", "wait")
        start = self.get(f, "start")
        with f.each(0, f["count"]) as i:
            move = f["moves"] + i * MOVE_BYTES
            word, value = f.load(move, 32), f.load(move + 8)
            at, kind = word & (1 << KIND_SHIFT) - 1, word >> KIND_SHIFT
            with f.when((kind.equals(_RECORD)) | (kind.equals(_HANDLER))):
                record = f.call(self.f_record, f["work"], f.load(move + 4, 32))
                with f.when(record.equals(0)):
                    f.leave(f.load(move + 4, 32) | NO_RECORD)
                with f.when(kind.equals(_RECORD)):
                    f.store(f["write"] + at, record)
                    # On a page that nobody has come to: what leads there is Python's.
                    with f.when(f.load(record).equals(0)):
                        f.store(record + RECORD_PC, f.load(move + 4, 32), 32)
                        f.store(record, f["wait"])
                with f.when(kind.equals(_HANDLER)):
                    known = f.load(record).differs(f["miss"])
                    f.store(f["write"] + at, f.select(known, value + f["handlers"], f["miss"]))
            with f.when(kind.equals(_TABLES)):
                distance = self.get(f, "tables") + value - (f["execute"] + at)
                with f.when((distance + (1 << 31)) >= 1 << 32):
                    f.leave(1)
                f.store(f["write"] + at, distance, 32)
            with f.when(kind.equals(_FAULTS)):
                f.store(self.get(f, "faults") + (start + at >> 1) * 4, start + value, 32)
            for number, name in enumerate(SHARED, _SHARES):
                with f.when(kind.equals(number)):
                    f.store(f["write"] + at, self.get(f, name) + value - at, 32)
        f.leave(0)
        return f


def baseline_module(isa: Isa) -> str:
    """The LLVM module of the compiler for one ISA."""
    make = _Builder(isa)
    functions = [
        make.record(), make.describe(), make.mark(), make.discover(), make.choose_pins(), make.note(), make.copy(), make.stub(),
        make.spill(), make.operand_into(), make.label(), make.forget(), make.keep(), make.move(), make.set_constant(), make.two(), make.learn(), make.instruction(), make.leave_for(), make.block(),
        make.behind(), make.compile(), make.shared(), make.relocate(),
    ]  # fmt: skip
    return "\n".join(
        [
            "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
            *(function.text() for function in functions),
        ]
    )
