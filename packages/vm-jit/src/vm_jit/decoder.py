"""The native decoder: tables made of the instructions' patterns, and one function that walks them.

It writes the records of a block exactly as :meth:`vm_jit.engine.NativeEngine.predecode` does, a hundred times as fast, and
loads none of the instructions' texts. It may stop at any instruction and leave it to Python: so what the tables cannot say
(an instruction without a handler, a field that needs a function to be understood) needs no second text.

A row is one way to decode: a pattern, with the values of its Static fields and what it is to control flow settled. The rows
that can fit a word are found by some of its bits, and tried in the order in which Python tries the patterns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vm_core.errors import SpecError, VmError
from vm_core.hints import Final
from vm_core.memory import PAGE, Prot
from vm_core.record import field, record, replace
from vm_core.spec.isa import Decoded, Instruction, Isa
from vm_core.spec.pattern import Kind, Pattern
from vm_jit.records import HEAT, LENGTH, LONGEST, RECORD_BYTES, TURNS, Plan, handler_key
from vm_jit.superinstructions import GENERAL, NEAR, ZERO, Steps, code, kind, zero_offsets

__all__ = ["BLOCK", "NEEDS_PYTHON", "TRACE", "function", "sections"]

NEEDS_PYTHON: Final = 1 << 32
"""Set in what ``decode`` returns beside the offset where it stopped: Python must decode the instruction there."""
_ENDS, _LEFT_OUT, BRANCHES = 1, 2, 4
BLOCK: Final = _ENDS | BRANCHES
"""What ends a block."""
TRACE: Final = _ENDS
"""If what is behind a branch that may not be taken is decoded too."""
_ROW_BYTES: Final = 96
_ANY: Final = 0xFFFF_FFFF
_NEVER: Final = 255
_INDEX: Final = {
    (2, 2): ((0, 2), (13, 3), (10, 2)),
    (2, 4): ((2, 5), (12, 3), (0, 0)),
    (4, 4): ((21, 8), (29, 3), (0, 0)),
}
"""By unit and length in bytes: the (lowest bit, number of bits) of a word that find its rows."""


_Slot = tuple[int, int, int, int, int, int]
_Immediate = tuple[tuple[tuple[int, int, int], ...], int, int]


@record()
class _Row:
    mask: int
    match: int
    length: int
    sets: dict[int, int] = field(default_factory=dict)
    """By the place of a five-bit number in the word: its allowed values, as a set of bits."""
    nonzero: int = 0
    """If not 0, one of these bits of the word must be set."""
    flags: int = _LEFT_OUT
    handler: str = ""
    slots: tuple[_Slot, ...] = ()
    """(place, mask, special value, bytes a slot, offset, offset of the special value)"""
    immediates: tuple[_Immediate, ...] = ()
    """((place, bits, place in the value) of each part, bits of the value if it is signed, what is added)"""
    halves: int = 0
    """Whether immediates have four bytes each, not one of them eight."""


def _settle(row: _Row, pattern: Pattern, name: str, value: int) -> bool:
    """Demand that a field has a value; False if it cannot."""
    for part in pattern.parts[name]:
        bits = (1 << part.count) - 1
        row.mask |= bits << part.at
        row.match |= (value >> part.to & bits) << part.at
    return value >> pattern.sizes[name] == 0


def _place(pattern: Pattern, name: str) -> int | None:
    """Where a field of at most five bits that lie together is in the word."""
    parts = pattern.parts[name]
    return parts[0].at if len(parts) == 1 and parts[0].to == 0 and parts[0].count <= 5 else None


def _constrain(row: _Row, pattern: Pattern) -> bool:
    """Put the pattern's constraints into the row; False if one cannot be said."""
    for constraint in pattern.constraints:
        kind = pattern.kinds[constraint.field]
        place = _place(pattern, constraint.field)
        if kind.role == "static":
            continue  # the variants are chosen by it
        if kind.role in ("reg", "strongest") and place is not None and kind.codec is None:
            own = (1 << pattern.parts[constraint.field][0].count) - 1  # the number in the table has five bits
            allowed = sum(1 << raw for raw in range(32) if constraint.holds((raw & own) + kind.base))
            row.sets[place] = row.sets.get(place, _ANY) & allowed
        elif constraint.values == (0,) and not constraint.equal and not kind.codec and not row.nonzero:
            row.nonzero = sum(((1 << part.count) - 1) << part.at for part in pattern.parts[constraint.field])
        else:
            return False
    return len(row.sets) <= 2 and pattern.undefined is None


def _special(kind: Kind) -> tuple[int, int] | None:
    """The one register number that a codec sends elsewhere, and where; None if it is not so simple."""
    assert kind.codec is not None
    moved = [(raw, kind.codec.decode(raw)) for raw in range(32) if kind.codec.decode(raw) != raw]
    return moved[0] if len(moved) == 1 and not kind.base else None


def _slot(isa: Isa, insn: Instruction, role: str, file: str, value: int | str) -> _Slot | None:
    info = isa.layout.files[file]

    def offset(slot: int) -> int:
        return isa.layout.offset(file, info.write_slot(slot) if role == "w" else slot)

    if isinstance(value, int):
        return 0, 0, _NEVER, 0, offset(value), 0
    kind, place = insn.fields[value], _place(insn.pattern, value)
    if place is None or kind.role != "reg":
        return None
    mask = (1 << insn.pattern.parts[value][0].count) - 1
    special = (_NEVER, 0)
    if kind.codec is not None:
        found = _special(kind)
        if found is None:
            return None
        special = found[0], offset(found[1])
    elif role == "w" and info.zero is not None and kind.base <= info.zero <= kind.base + mask:
        special = info.zero - kind.base, offset(info.zero)
    return place, mask, special[0], info.slot_bytes, isa.layout.offset(file, kind.base), special[1]


def _immediate(insn: Instruction, value: int | str) -> _Immediate | None:
    if isinstance(value, int):
        return ((), 0, value) if -(1 << 31) <= value < 1 << 31 else None
    kind = insn.fields[value]
    if kind.codec is not None or (kind.role == "signed" and kind.base):
        return None
    parts = tuple((part.at, part.count, part.to) for part in insn.pattern.parts[value])
    signed = kind.role == "signed"
    if insn.pattern.sizes[value] > 31 + signed:
        return None
    return parts, insn.pattern.sizes[value] if signed else 0, kind.base


def _rows(isa: Isa, insn: Instruction, plans: dict[str, Plan]) -> Iterator[_Row]:
    """The rows of an instruction; the last one leaves to Python what the others do not say."""
    pattern, length = insn.pattern, insn.pattern.width // 8
    start = _Row(pattern.mask, pattern.match, length)
    base = insn.expands[0] if insn.expands else insn
    given: dict[str, int | str] = (
        dict(insn.expands[1]) if insn.expands else {name: name for name in insn.fields}
    )
    sayable = _constrain(start, pattern)
    own = [name for name, kind in insn.fields.items() if kind.role == "static"]
    complete = sayable and not own
    if sayable:
        for written in isa.variants(insn) if own else ({},):
            statics = {
                name: value if isinstance(value, int) else written.get(value, -1)
                for name, value in given.items()
                if name in base.statics
            }
            settled = _copy(start)
            fits = all(_settle(settled, pattern, name, written[name]) for name in own) and all(
                constraint.holds(written[constraint.field])
                for constraint in pattern.constraints
                if constraint.field in written
            )
            if not fits or -1 in statics.values():
                complete = False
                continue
            made = _variant(isa, insn, base, given, statics, settled, plans)
            complete &= bool(made)
            yield from made
    if not complete:
        left = _copy(start)
        if not sayable:
            left.sets, left.nonzero = {}, 0
        yield left


def _copy(row: _Row) -> _Row:
    return replace(row, sets=dict(row.sets))


def _variant(
    isa: Isa,
    insn: Instruction,
    base: Instruction,
    given: dict[str, int | str],
    statics: dict[str, int],
    start: _Row,
    plans: dict[str, Plan],
) -> list[_Row]:
    """The rows for one combination of Static values: one, or more where some operands make it a return. None if there is
    no handler, or an operand cannot be said."""
    try:
        template = base.template(statics)
    except (SpecError, VmError):
        return []
    ends = _ENDS if {"setpc", "trap"} & set(template.codes) else 0
    jumps = [op for op in template.ops if op.code == "setpc"]
    if jumps and jumps[0].guard is not None and "trap" not in template.codes:
        ends = BRANCHES
    fields = {name: (value if isinstance(value, int) else 0) for name, value in given.items()} | statics
    rows = []
    for returns, sets in _flows(isa, insn, base, given, fields, start) if ends else [(False, start.sets)]:
        probe = Decoded(base, fields, start.length, insn, {})
        how = (plans.get(handler_key(probe, returns=True)) if returns else None) or plans.get(
            handler_key(probe, returns=False)
        )
        if how is None or len(sets) > 2:
            return []
        row = _copy(start)
        row.sets, row.flags, row.handler = sets, ends, how.symbol
        for role, file, name, _ in how.slots:
            slot = _slot(isa, insn, role, file, given[name])
            if slot is None:
                return []
            row.slots = (*row.slots, slot)
        for name, _, size in how.immediates:
            row.halves = int(size == 4)
            immediate = _immediate(insn, given[name])
            if immediate is None:
                return []
            row.immediates = (*row.immediates, immediate)
        rows.append(row)
    return rows


def _flows(
    isa: Isa,
    insn: Instruction,
    base: Instruction,
    given: dict[str, int | str],
    fields: dict[str, int],
    start: _Row,
) -> Iterator[tuple[bool, dict[int, int]]]:
    """Which registers make a jump a return, and which do not, as sets by the place of the register's number. (What jumps
    are is a matter of at most two registers in every ISA here; with more, nothing is a return, which is a hint anyway.)"""
    names = [
        (key, insn.fields[value].base, place)
        for key, value in given.items()
        if isinstance(value, str)
        and insn.fields[value].role == "reg"
        and insn.fields[value].codec is None
        and (place := _place(insn.pattern, value)) is not None
    ]
    if len(names) > 2:
        yield False, dict(start.sets)
        return
    first, second = (*names, ("", 0, -1), ("", 0, -1))[:2]
    found: dict[tuple[bool, int], int] = {}
    for number in range(32):
        answers = [0, 0]
        for other in range(32):
            now = {**fields, first[0]: number + first[1], second[0]: other + second[1]}
            returns = isa.flow(Decoded(base, now, start.length, insn, {})) == "ret"
            answers[returns] |= 1 << other
        for returns in (False, True):
            if answers[returns]:
                flow = returns, answers[returns]
                found[flow] = found.get(flow, 0) | 1 << number
    for (returns, seconds), firsts in found.items():
        sets = dict(start.sets)
        for at, allowed in ((first[2], firsts), (second[2], seconds)):
            if at >= 0 and allowed != _ANY:
                sets[at] = sets.get(at, _ANY) & allowed
        yield returns, sets


def sections(isa: Isa, plans: dict[str, Plan], names: dict[Steps, str] | None = None) -> dict[str, bytes]:
    """The decoder's tables and the names of the handlers in them; nothing for an ISA whose encodings are no patterns. ``names``
    are the handlers of sequences."""
    lengths = [length for unit, length in _INDEX if unit == isa.unit]
    if not lengths:
        return {}
    rows = [row for insn in isa.instructions.values() for row in _rows(isa, insn, plans)]
    handlers = {"h_miss": 0}
    packed: list[bytes] = []
    parts: list[int] = []
    for row in rows:
        places = [*row.sets.items(), (0, _ANY), (0, _ANY)][:2]
        words = [row.mask, row.match, places[0][1], places[1][1], row.nonzero]
        words.append(places[0][0] | places[1][0] << 8 | row.flags << 16 | row.length << 24)
        words += [handlers.setdefault(row.handler or "h_miss", len(handlers)), row.halves]
        for place, mask, special, stride, offset, elsewhere in (*row.slots, *((0, 0, _NEVER, 0, 0, 0),) * 4)[
            :4
        ]:
            words += [place | mask << 8 | special << 16 | stride << 24, offset | elsewhere << 16]
        for pieces, signed, added in (*row.immediates, *(((), 0, 0),) * 2)[:2]:
            words += [len(parts) | len(pieces) << 16 | signed << 24, added & 0xFFFF_FFFF]
            parts += [at | count << 8 | to << 16 for at, count, to in pieces]
        packed.append(struct.pack("<20I", *words).ljust(_ROW_BYTES, b"\0"))
    buckets: list[int] = []
    candidates: list[int] = []
    for length in lengths:
        shape = _INDEX[isa.unit, length]
        for number in range(1 << sum(bits for _, bits in shape)):
            mask = match = used = 0
            for low, bits in shape:
                mask |= ((1 << bits) - 1) << low
                match |= (number >> used & ((1 << bits) - 1)) << low
                used += bits
            mine = [
                i
                for i, row in enumerate(rows)
                if row.length == length and not (row.match ^ match) & row.mask & mask
            ]
            buckets.append(len(candidates) | len(mine) << 16)
            candidates += mine
    if max(len(candidates), len(parts), len(rows)) > 0xFFFF:
        raise SpecError(f"{isa.name}: the decoder's tables are too large")
    body = b"".join(packed)
    fused = _sequence_tables(isa, plans, names, handlers) if names else []
    chunks = [
        body,
        struct.pack(f"<{len(parts)}I", *parts),
        struct.pack(f"<{len(buckets)}I", *buckets),
        struct.pack(f"<{len(candidates)}H", *candidates).ljust((2 * len(candidates) + 7) & -8, b"\0"),
        *fused,
    ]
    head = (4 * len(chunks) + 7) & -8
    offsets = [head + sum(map(len, chunks[:i])) for i in range(len(chunks))]
    tables = b"".join((struct.pack(f"<{len(offsets)}I", *offsets).ljust(head, b"\0"), *chunks))
    return {"decoder": tables, "handlers": "\0".join(handlers).encode()}


_MULTIPLIER: Final = 0x9E37_79B9_7F4A_7C15
_NONE, _IS_DIRECT = 7, 8
"""In a handler's facts: no slot is written (else which); the instruction jumps to the pc plus its immediate."""
_UNWRITTEN: Final = 0xFFFF_FFFF
_ROOT: Final = 1


def _sequence_tables(
    isa: Isa, plans: dict[str, Plan], names: dict[Steps, str], handlers: dict[str, int]
) -> list[bytes]:
    """Two tables: facts of each handler, by its number; and how a sequence goes on, as a hash table: from a node of the tree of
    all sequences, a handler and a relation to (node, number of the sequence's handler or 0)."""
    nodes: dict[Steps, int] = {(): _ROOT}
    edges: dict[int, list[int]] = {}
    for sequence, name in sorted(names.items(), key=lambda item: len(item[0])):
        for length in range(1, len(sequence) + 1):
            key, relation = sequence[length - 1]
            edge = nodes[sequence[: length - 1]] | handlers[plans[key].symbol] << 16 | code(relation) << 32
            node = nodes.setdefault(sequence[:length], len(nodes) + 1)
            edges.setdefault(edge, [node, 0])
        edges[edge][1] = handlers.setdefault(name, len(handlers))
    bits = max((2 * len(edges)).bit_length(), 4)
    table = [0, 0] * (1 << bits)
    for edge, (node, handler) in edges.items():
        at = (edge * _MULTIPLIER & (1 << 64) - 1) >> 64 - bits
        while table[2 * at]:
            at = (at + 1) % (1 << bits)
        table[2 * at], table[2 * at + 1] = edge, node | handler << 32
    facts = [_NONE] * len(handlers)
    for insn in isa.instructions.values():
        for statics in () if insn.expands else isa.variants(insn):
            values = ",".join(str(statics[name]) for name in insn.statics)
            for suffix in {f"{length}{flow}" for length in (2, 4) for flow in ("", "r")}:
                how = plans.get(f"{insn.name}/{values}/{suffix}")
                found = None if how is None else kind(isa, insn.template(statics), how)
                if how is not None and found is not None and how.symbol in handlers:
                    written = _NONE if found.written is None else found.written
                    facts[handlers[how.symbol]] = written | found.direct * _IS_DIRECT
    if max(len(nodes), len(handlers)) > 0xFFFF:
        raise SpecError(f"{isa.name}: too many sequences")
    size = len(facts)
    return [
        struct.pack(f"<{size}B", *facts).ljust((size + 7) & -8, b"\0"),
        struct.pack(f"<Q{len(table)}Q", 64 - bits, *table),
    ]


def _sequence_text(isa: Isa) -> str:
    """``sequences(window, record, context, tables, handler, offset)``: see with which sequences the instruction at ``offset`` of the
    page goes on, and make the records where they begin lead to their handlers. The window has, for each of the last instructions,
    the last one first: its record, the node of the sequence that begins there, and the offset of the register that it wrote."""
    lines: list[str] = []
    emit = lines.append
    numbers = sorted(zero_offsets(isa))
    for i in range(4):
        emit(f"  %sp{i} = getelementptr i8, ptr %record, i64 {8 + 2 * i}")
        emit(f"  %sh{i} = load i16, ptr %sp{i}, align 2")
        emit(f"  %s{i} = zext i16 %sh{i} to i32")
    for d in range(LONGEST - 1):
        for name, type_, at in (("record", "ptr", 0), ("node", "i64", 8), ("wrote", "i32", 16)):
            emit(f"  %{name}p{d + 1} = getelementptr i8, ptr %window, i64 {24 * d + at}")
            emit(f"  %{name}{d + 1} = load {type_}, ptr %{name}p{d + 1}, align 8")
    for i in range(4):
        now = "0"
        for d in range(LONGEST - 1, 0, -1):
            emit(f"  %c{i}is{d} = icmp eq i32 %s{i}, %wrote{d}")
            emit(f"  %c{i}as{d} = select i1 %c{i}is{d}, i32 {d}, i32 {now}")
            now = f"%c{i}as{d}"
        for n, number in enumerate(numbers):
            emit(f"  %z{i}is{n} = icmp eq i32 %s{i}, {number}")
            emit(f"  %z{i}as{n} = select i1 %z{i}is{n}, i32 {ZERO}, i32 {now}")
            now = f"%z{i}as{n}"
        emit(f"  %c{i} = add i32 {now}, 0")
    text = "\n".join(lines)
    steps = []
    for d in range(LONGEST - 1, -1, -1):
        lines.clear()
        total = "%near"
        for i in range(4):
            emit(f"  %d{d}far{i} = icmp ugt i32 %c{i}, {d}")
            emit(f"  %d{d}not{i} = icmp ne i32 %c{i}, {ZERO}")
            emit(f"  %d{d}out{i} = and i1 %d{d}far{i}, %d{d}not{i}")
            emit(f"  %d{d}c{i} = select i1 %d{d}out{i}, i32 0, i32 %c{i}")
            emit(f"  %d{d}u{i} = shl i32 %d{d}c{i}, {4 * i}")
            emit(f"  %d{d}t{i} = or i32 {total}, %d{d}u{i}")
            total = f"%d{d}t{i}"
        node, record = (f"%node{d}", f"%record{d}") if d else (str(_ROOT), "%record")
        emit(
            f"  %next{d} = call i64 @follow(ptr {record}, ptr %handlers, ptr %hash, i64 {node}, i32 %handler, i32 {total})"
        )
        steps.append("\n".join(lines))
    lines.clear()
    for d in range(LONGEST - 2, -1, -1):
        if d:
            emit(f"  store ptr %record{d}, ptr %recordp{d + 1}, align 8")
            emit(f"  store i32 %wrote{d}, ptr %wrotep{d + 1}, align 8")
        else:
            emit("  store ptr %record, ptr %recordp1, align 8")
            emit("  store i32 %wrote, ptr %wrotep1, align 8")
        emit(f"  store i64 %next{d}, ptr %nodep{d + 1}, align 8")
    shift = "\n".join(lines)
    follow = "\n".join(steps)
    return f"""
define internal i64 @follow(ptr %record, ptr %handlers, ptr %hash, i64 %node, i32 %handler, i32 %relation) #0 {{
entry:
  %some = icmp ne i64 %node, 0
  br i1 %some, label %begin, label %none
begin:
  %h64 = zext i32 %handler to i64
  %h16 = shl i64 %h64, 16
  %from = or i64 %node, %h16
  %r64 = zext i32 %relation to i64
  %r32 = shl i64 %r64, 32
  %exact = or i64 %from, %r32
  %any = or i64 %from, {GENERAL << 32}
  %shift = load i64, ptr %hash, align 8
  %table = getelementptr i8, ptr %hash, i64 8
  %size = sub i64 64, %shift
  %entries = shl i64 1, %size
  %mask = sub i64 %entries, 1
  br label %look
look:
  %key = phi i64 [ %exact, %begin ], [ %any, %missed ]
  %product = mul i64 %key, {_MULTIPLIER - (1 << 64)}
  %first = lshr i64 %product, %shift
  br label %probe
probe:
  %i = phi i64 [ %first, %look ], [ %after, %other ]
  %slot = getelementptr {{ i64, i64 }}, ptr %table, i64 %i
  %there = load i64, ptr %slot, align 8
  %hit = icmp eq i64 %there, %key
  br i1 %hit, label %found, label %other
other:
  %empty = icmp eq i64 %there, 0
  %i1 = add i64 %i, 1
  %after = and i64 %i1, %mask
  br i1 %empty, label %missed, label %probe
missed:
  %last = icmp eq i64 %key, %any
  br i1 %last, label %none, label %look
found:
  %vp = getelementptr i8, ptr %slot, i64 8
  %value = load i64, ptr %vp, align 8
  %child = and i64 %value, 65535
  %fused = lshr i64 %value, 32
  %ends = icmp ne i64 %fused, 0
  br i1 %ends, label %enter, label %done
enter:
  %hp = getelementptr i64, ptr %handlers, i64 %fused
  %address = load i64, ptr %hp
  store atomic i64 %address, ptr %record release, align 8
  br label %done
done:
  ret i64 %child
none:
  ret i64 0
}}
define internal void @sequences(ptr %window, ptr %record, ptr %handlers, ptr %facts, ptr %hash, i32 %handler, i64 %offset) #0 {{
entry:
{text}
  %h64 = zext i32 %handler to i64
  %fp = getelementptr i8, ptr %facts, i64 %h64
  %fact8 = load i8, ptr %fp
  %fact = zext i8 %fact8 to i32
  %which = and i32 %fact, {_NONE}
  %w64 = zext i32 %which to i64
  %wp = getelementptr i16, ptr %sp0, i64 %w64
  %writes = icmp ne i32 %which, {_NONE}
  %safe = select i1 %writes, ptr %wp, ptr %sp0
  %w16 = load i16, ptr %safe, align 2
  %w32 = zext i16 %w16 to i32
  %wrote = select i1 %writes, i32 %w32, i32 {_UNWRITTEN - (1 << 32)}
  %d32 = and i32 %fact, {_IS_DIRECT}
  %direct = icmp ne i32 %d32, 0
  %ip = getelementptr i8, ptr %record, i64 16
  %distance = load i64, ptr %ip, align 8
  %target = add i64 %offset, %distance
  %inside = icmp ult i64 %target, {PAGE}
  %nearby = and i1 %direct, %inside
  %near = select i1 %nearby, i32 {NEAR}, i32 0
{follow}
{shift}
  ret void
}}
"""


def function(isa: Isa, *, sequences: bool = False) -> str:
    """``decode(context, offset)``: decode the block at ``offset`` of a page, up to its end, the page's, so many instructions, or
    a record that is decoded. Gives back the offset behind, and NEEDS_PYTHON if Python must go on there. The context is of
    64-bit words: the host addresses of the page's bytes, records and permission, of the tables and of the handlers' addresses;
    how many instructions at most; the heat that a record begins with; which rows' flags end a block. Empty where there are no tables. ``sequences``: also look
    for those that have a handler."""
    lengths = [length for unit, length in _INDEX if unit == isa.unit]
    if not lengths:
        return ""
    lines = []

    def index(length: int, start: int) -> str:
        used, total = 0, f"{start}"
        for n, (low, bits) in enumerate(_INDEX[isa.unit, length]):
            if bits:
                lines.append(f"  %s{length}{n} = lshr i32 %w, {low}")
                lines.append(f"  %m{length}{n} = and i32 %s{length}{n}, {(1 << bits) - 1}")
                lines.append(f"  %p{length}{n} = shl i32 %m{length}{n}, {used}")
                lines.append(f"  %t{length}{n} = add i32 %p{length}{n}, {total}")
                total = f"%t{length}{n}"
            used += bits
        return total

    if len(lengths) == 2:
        lines += [
            "  %low = and i32 %w0, 3", "  %long = icmp eq i32 %low, 3", "  %half = and i32 %w0, 65535",
            "  %w = select i1 %long, i32 %w0, i32 %half", "  %length = select i1 %long, i64 4, i64 2",
        ]  # fmt: skip
        short = index(2, 0)
        long = index(4, 1 << sum(bits for _, bits in _INDEX[isa.unit, 2]))
        lines.append(f"  %index = select i1 %long, i32 {long}, i32 {short}")
    else:
        lines += ["  %w = add i32 %w0, 0", "  %length = add i64 0, 4"]
        lines.append(f"  %index = add i32 {index(4, 0)}, 0")
    find = "\n".join(lines)
    slots = "\n".join(_slot_text(i) for i in range(4))
    window = look = ""
    if sequences:
        size = 24 * (LONGEST - 1)
        window = "\n".join(
            [f"  %window = alloca [{size} x i8], align 8"]
            + [
                f"  %clear{at} = getelementptr i8, ptr %window, i64 {at}\n  store i64 {value}, ptr %clear{at}, align 8"
                for first in range(0, size, 24)
                for at, value in ((first, 0), (first + 8, 0), (first + 16, _UNWRITTEN))
            ]
            + [_table("kinds", 4), _table("hash", 5)]
        )
        look = "  call void @sequences(ptr %window, ptr %record, ptr %handlers, ptr %kinds, ptr %hash, i32 %handler, i64 %at)"
    return (
        (_sequence_text(isa) if sequences else "")
        + f"""
define dso_local i64 @decode(ptr %context, i64 %start) #0 {{
entry:
{_context("code", 0, "ptr")}
{_context("records", 1, "ptr")}
{_context("permission", 2, "ptr")}
{_context("tables", 3, "ptr")}
{_context("handlers", 4, "ptr")}
{_context("limit", 5, "i64")}
{_context("heat", 6, "i64")}
{_context("endings64", 7, "i64")}
  %endings = trunc i64 %endings64 to i32
  %may = load i8, ptr %permission
  %may4 = and i8 %may, {int(Prot.EXEC)}
  %allowed = icmp ne i8 %may4, 0
  %npermission = getelementptr i8, ptr %permission, i64 1
  %nmay = load i8, ptr %npermission
  %nmay4 = and i8 %nmay, {int(Prot.EXEC)}
  %nextcode = icmp ne i8 %nmay4, 0
  %last = select i1 %nextcode, i64 {PAGE - isa.unit}, i64 {PAGE - 4}
{_table("rows", 0)}
{_table("parts", 1)}
{_table("buckets", 2)}
{_table("candidates", 3)}
{window}
  %miss = load i64, ptr %handlers
  %heat16 = trunc i64 %heat to i16
  br i1 %allowed, label %loop, label %refused
refused:
  %refuses = or i64 %start, {NEEDS_PYTHON}
  ret i64 %refuses
loop:
  %at = phi i64 [ %start, %entry ], [ %next, %write ]
  %n = phi i64 [ 0, %entry ], [ %n1, %write ]
  %inside = icmp ule i64 %at, %last
  br i1 %inside, label %fetch, label %edge
edge:
  %over = icmp uge i64 %at, {PAGE}
  br i1 %over, label %done, label %python
fetch:
  %ro = mul i64 %at, {RECORD_BYTES // isa.unit}
  %record = getelementptr i8, ptr %records, i64 %ro
  %old = load atomic i64, ptr %record monotonic, align 8
  %fresh = icmp eq i64 %old, %miss
  br i1 %fresh, label %read, label %done
read:
  %wp = getelementptr i8, ptr %code, i64 %at
  %w0 = load i32, ptr %wp, align 1
{find}
  %i64 = zext i32 %index to i64
  %bp = getelementptr i32, ptr %buckets, i64 %i64
  %bucket = load i32, ptr %bp
  %first32 = and i32 %bucket, 65535
  %count = lshr i32 %bucket, 16
  %last32 = add i32 %first32, %count
  %first = zext i32 %first32 to i64
  %end = zext i32 %last32 to i64
  br label %candidate
candidate:
  %j = phi i64 [ %first, %read ], [ %j1, %test ]
  %j1 = add i64 %j, 1
  %more = icmp ult i64 %j, %end
  br i1 %more, label %test, label %python
test:
  %cp = getelementptr i16, ptr %candidates, i64 %j
  %c = load i16, ptr %cp
  %c64 = zext i16 %c to i64
  %co = mul i64 %c64, {_ROW_BYTES}
  %row = getelementptr i8, ptr %rows, i64 %co
{_word("mask", 0)}
{_word("match", 1)}
{_word("set1", 2)}
{_word("set2", 3)}
{_word("nonzero", 4)}
{_word("facts", 5)}
  %masked = and i32 %w, %mask
  %ok1 = icmp eq i32 %masked, %match
  %at1 = and i32 %facts, 31
  %up1 = lshr i32 %w, %at1
  %num1 = and i32 %up1, 31
  %in1 = lshr i32 %set1, %num1
  %facts8 = lshr i32 %facts, 8
  %at2 = and i32 %facts8, 31
  %up2 = lshr i32 %w, %at2
  %num2 = and i32 %up2, 31
  %in2 = lshr i32 %set2, %num2
  %both = and i32 %in1, %in2
  %ok2 = trunc i32 %both to i1
  %free = icmp eq i32 %nonzero, 0
  %some = and i32 %w, %nonzero
  %set = icmp ne i32 %some, 0
  %ok3 = or i1 %free, %set
  %ok12 = and i1 %ok1, %ok2
  %ok = and i1 %ok12, %ok3
  br i1 %ok, label %hit, label %candidate
hit:
  %flags = lshr i32 %facts, 16
  %out32 = and i32 %flags, {_LEFT_OUT}
  %out = icmp ne i32 %out32, 0
  br i1 %out, label %python, label %operands
operands:
{slots}
{_word("handler", 6)}
{_word("halves", 7)}
{_word("i0", 16)}
{_word("i0add", 17)}
{_word("i1", 18)}
{_word("i1add", 19)}
{_immediate_text("i0", "operands", "second")}
second:
{_immediate_text("i1", "second", "write")}
write:
  %ip = getelementptr i8, ptr %record, i64 16
  %wide = sext i32 %i0value to i64
  %narrow0 = zext i32 %i0value to i64
  %narrow1 = zext i32 %i1value to i64
  %up = shl i64 %narrow1, 32
  %pair = or i64 %up, %narrow0
  %two = icmp ne i32 %halves, 0
  %stored = select i1 %two, i64 %pair, i64 %wide
  store i64 %stored, ptr %ip, align 8
  %hp = getelementptr i8, ptr %record, i64 {HEAT}
  store i16 %heat16, ptr %hp, align 2
  %lp = getelementptr i8, ptr %record, i64 {LENGTH}
  %length8 = trunc i64 %length to i8
  store i8 %length8, ptr %lp
  %tp = getelementptr i8, ptr %record, i64 {TURNS}
  store i8 0, ptr %tp
  %h64 = zext i32 %handler to i64
  %hs = getelementptr i64, ptr %handlers, i64 %h64
  %address = load i64, ptr %hs
  store atomic i64 %address, ptr %record release, align 8
{look}
  %next = add i64 %at, %length
  %n1 = add i64 %n, 1
  %ends32 = and i32 %flags, %endings
  %ends = icmp ne i32 %ends32, 0
  %full = icmp uge i64 %n1, %limit
  %stop = or i1 %ends, %full
  br i1 %stop, label %stopped, label %loop
stopped:
  ret i64 %next
done:
  ret i64 %at
python:
  %asks = or i64 %at, {NEEDS_PYTHON}
  ret i64 %asks
}}"""
    )


def _context(name: str, number: int, type_: str) -> str:
    return f"""\
  %{name}c = getelementptr i64, ptr %context, i64 {number}
  %{name} = load {type_}, ptr %{name}c"""


def _table(name: str, number: int) -> str:
    return f"""\
  %{name}p = getelementptr i32, ptr %tables, i64 {number}
  %{name}o = load i32, ptr %{name}p
  %{name}z = zext i32 %{name}o to i64
  %{name} = getelementptr i8, ptr %tables, i64 %{name}z"""


def _word(name: str, number: int) -> str:
    return f"""\
  %{name}q = getelementptr i32, ptr %row, i64 {number}
  %{name} = load i32, ptr %{name}q"""


def _slot_text(i: int) -> str:
    n = f"slot{i}"
    return f"""\
{_word(f"{n}a", 8 + 2 * i)}
{_word(f"{n}b", 9 + 2 * i)}
  %{n}at = and i32 %{n}a, 31
  %{n}up = lshr i32 %w, %{n}at
  %{n}a8 = lshr i32 %{n}a, 8
  %{n}m = and i32 %{n}a8, 255
  %{n}num = and i32 %{n}up, %{n}m
  %{n}a16 = lshr i32 %{n}a, 16
  %{n}special = and i32 %{n}a16, 255
  %{n}stride = lshr i32 %{n}a, 24
  %{n}off = and i32 %{n}b, 65535
  %{n}rel = mul i32 %{n}num, %{n}stride
  %{n}plain = add i32 %{n}off, %{n}rel
  %{n}else = lshr i32 %{n}b, 16
  %{n}is = icmp eq i32 %{n}num, %{n}special
  %{n}value = select i1 %{n}is, i32 %{n}else, i32 %{n}plain
  %{n}value16 = trunc i32 %{n}value to i16
  %{n}p = getelementptr i8, ptr %record, i64 {8 + 2 * i}
  store i16 %{n}value16, ptr %{n}p, align 2"""


def _immediate_text(n: str, before: str, after: str) -> str:
    """Gathers the parts of an immediate into ``%{n}value``."""
    return f"""\
  %{n}first32 = and i32 %{n}, 65535
  %{n}n8 = lshr i32 %{n}, 16
  %{n}n = and i32 %{n}n8, 255
  %{n}last32 = add i32 %{n}first32, %{n}n
  %{n}first = zext i32 %{n}first32 to i64
  %{n}last = zext i32 %{n}last32 to i64
  br label %{n}loop
{n}loop:
  %{n}k = phi i64 [ %{n}first, %{before} ], [ %{n}k1, %{n}part ]
  %{n}sum = phi i32 [ 0, %{before} ], [ %{n}sum1, %{n}part ]
  %{n}more = icmp ult i64 %{n}k, %{n}last
  br i1 %{n}more, label %{n}part, label %{n}end
{n}part:
  %{n}pp = getelementptr i32, ptr %parts, i64 %{n}k
  %{n}p = load i32, ptr %{n}pp
  %{n}at = and i32 %{n}p, 31
  %{n}p8 = lshr i32 %{n}p, 8
  %{n}bits = and i32 %{n}p8, 31
  %{n}to = lshr i32 %{n}p, 16
  %{n}up = lshr i32 %w, %{n}at
  %{n}one = shl i32 1, %{n}bits
  %{n}mask = sub i32 %{n}one, 1
  %{n}only = and i32 %{n}up, %{n}mask
  %{n}there = shl i32 %{n}only, %{n}to
  %{n}sum1 = or i32 %{n}sum, %{n}there
  %{n}k1 = add i64 %{n}k, 1
  br label %{n}loop
{n}end:
  %{n}size = lshr i32 %{n}, 24
  %{n}signed = icmp ne i32 %{n}size, 0
  %{n}less = sub i32 %{n}size, 1
  %{n}shift = and i32 %{n}less, 31
  %{n}bit = shl i32 1, %{n}shift
  %{n}sign = select i1 %{n}signed, i32 %{n}bit, i32 0
  %{n}flip = xor i32 %{n}sum, %{n}sign
  %{n}extended = sub i32 %{n}flip, %{n}sign
  %{n}value = add i32 %{n}extended, %{n}add
  br label %{after}"""
