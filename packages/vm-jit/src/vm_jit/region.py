"""Regions: hot guest code as one LLVM function.

A region is the function or the loop around a hot address (:func:`surroundings`), with copies of the short functions that it often
calls, and only what has run: the way to a block that has not leaves to the interpreter. It returns where to go on, how much fuel is left, and the pinned registers,
which stay in host registers across guest calls: a guest call is a host call, after which the returned pc is compared
with the expected one. Besides its entry, a region can be entered behind each call and each instruction that it leaves
to the interpreter.

Exactness: a block takes its instructions off the fuel when it begins; if the fuel does not suffice, or an instruction
is refused, the region leaves in front of it with all guest state written back and the fuel corrected, and the
interpreter does that instruction (FORCE).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final

from vm_core.memory import PAGE
from vm_core.record import field, record
from vm_core.spec.isa import Decoded, Isa
from vm_core.spec.ops import EFFECTS, PURE, mask
from vm_core.spec.template import Op, Template
from vm_core.state import HEADER
from vm_jit.lines import MARK
from vm_jit.lowering import (
    DECLARATIONS,
    FORCE,
    HOST,
    LIKELY,
    LOADS,
    METADATA,
    RECORD,
    STATE,
    STORES,
    Emitter,
    entry_signature,
    region_type,
    supported,
)
from vm_jit.ranges import Interval, Ranges

__all__ = ["MAX_INSTRUCTIONS", "REACH", "Block", "Region", "discover", "emit", "surroundings"]

MAX_INSTRUCTIONS: Final = 1200
_FUNCTION_BYTES: Final = 4096
_LOOKED_AT: Final = 96
"""Instructions behind a far jump that are looked at for whether they belong to the same function."""
Cell = tuple[str, int]


@record(eq=False)
class Block:
    """Straight-line guest code. ``kind`` says how it ends: fall (into ``follow``), branch, jump, call (maybe of ``guess``,
    which is part of the region), inline (a call of a function that is part of the region), ret (to one of ``returns``, or
    out), indirect, dispatch (of all computed jumps, at _DISPATCH), leave (the instruction at ``end`` is the interpreter's). ``start``, ``follow``, ``guess``, ``returns`` and, but
    for calls, ``target`` are labels (:func:`address`)."""

    start: int
    insns: list[tuple[int, Decoded]] = field(default_factory=list)
    kind: str = "fall"
    target: int | None = None
    follow: int = 0
    end: int = 0
    returns: tuple[int, ...] = ()
    guess: int | None = None


@record(eq=False)
class Region:
    """``roots`` are the addresses that it was made for, ``entries`` all where it can be entered, ``places`` where its jumps to computed
    addresses go; ``exits`` are
    the places it leaves for that had not run; ``weights`` how often control comes to ``places``; ``spans`` the guest bytes that it is made from, ``own`` those without the functions
    that were taken in."""

    roots: tuple[int, ...]
    blocks: dict[int, Block]
    entries: tuple[int, ...]
    places: tuple[int, ...]
    exits: frozenset[int]
    spans: tuple[tuple[int, int], ...]
    own: tuple[tuple[int, int], ...]
    weights: dict[int, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(len(block.insns) for block in self.blocks.values())


def static_value(template: Template, number: int, insn: Decoded, pc: int) -> int | None:
    """The value of an op if decoding settles it, else None."""
    op = template.ops[number]
    if op.code == "reg":
        file, index = op.attr
        slot = insn.fields[index] if isinstance(index, str) else index
        return 0 if slot == insn.insn.isa.layout.files[file].zero else None
    if op.code == "const":
        return int(op.attr)
    if op.code == "field":
        return insn.fields[op.attr] & mask(64)
    if op.code == "pc":
        return pc
    if op.code == "next_pc":
        return pc + insn.length
    if op.code in ("add", "sub", "and", "or", "shl", "eq", "ne"):
        values = [static_value(template, arg, insn, pc) for arg in op.args]
        if None not in values:
            return int(PURE[op.code].evaluate(template.ops[op.args[-1]].width, *values))
    return None


def discover(
    isa: Isa,
    roots: Sequence[int],
    decode: Callable[[int], Decoded | None],
    *,
    places: Sequence[int] = (),
    limit: int = MAX_INSTRUCTIONS,
    guess: Callable[[int], int | None] = lambda _: None,
    frequent: Callable[[int, int], bool] = lambda _, __: True,
    weigh: Callable[[int], int] = lambda _: 1,
    elsewhere: Callable[[int], Decoded | None] | None = None,
) -> Region | None:
    """The region at ``roots``; ``places`` are where its jumps to computed addresses may go. ``decode`` gives the instruction at an
    address that has run, else None; ``guess`` where a jump to a computed address went last; ``frequent`` whether the function at its
    second argument is often called, and returns to the first; ``weigh`` how often control came to a place; ``elsewhere`` is ``decode``
    for the functions that it calls."""
    code: dict[int, Decoded] = {}
    leaders = {*roots, *places}
    entries = set(roots)
    tails: set[int] = set()  # jumps to other functions
    work = [*roots, *places]
    while work and len(code) < limit:
        pc = work.pop(0)
        while pc not in code:
            insn = decode(pc)
            if insn is None or len(code) >= limit:
                break
            template = insn.template
            if not _belongs(template, insn, pc):
                # The interpreter's; go on behind it.
                after = pc + insn.length
                entries.add(after)
                leaders.update((pc, after))
                work.append(after)
                break
            code[pc] = insn
            jumps = insn.template.jumps
            pc += insn.length
            if not jumps:
                continue
            at = pc - insn.length
            jump = jumps[-1]
            target = static_value(template, jump.args[0], insn, at)
            if _kind(isa, insn, jump) == "call":
                entries.add(pc)
                leaders.add(pc)
                work.append(pc)
                break
            if target is not None:
                if _is_far(jump, at, target) and not _comes_back(isa, target, at, decode):
                    tails.add(at)
                else:
                    leaders.add(target)
                    work.append(target)
            if jump.guard is None:
                break
            leaders.add(pc)
    if not code or roots[0] not in code:
        return None
    blocks = {start: _block(isa, start, code, leaders) for start in sorted(leaders) if start in code}
    kept = tuple(sorted(pc for pc in entries if pc in blocks))
    exits = {pc for block in blocks.values() for pc in _ways(block, tails)} - blocks.keys()
    own = _spans(blocks.values())
    _take_in_calls(isa, blocks, elsewhere or decode, guess, frequent)
    kept_roots = tuple(pc for pc in dict.fromkeys(roots) if pc in blocks)
    goals = tuple(pc for pc in dict.fromkeys((*kept_roots, *places)) if pc in blocks) if places else ()
    if goals:
        blocks[_DISPATCH] = Block(_DISPATCH, kind="dispatch")
    weights = {pc: weigh(pc) for pc in goals}
    return Region(kept_roots, blocks, kept, goals, frozenset(exits), _spans(blocks.values()), own, weights)


def _ways(block: Block, tails: set[int]) -> set[int]:
    """Where a block goes, but for calls, ``tails``, and computed addresses."""
    out = {block.follow} if block.kind in ("fall", "branch", "call", "leave") else set()
    if block.target is not None and block.kind in ("jump", "branch") and block.insns[-1][0] not in tails:
        out.add(block.target)
    return out


def _spans(blocks: Iterable[Block]) -> tuple[tuple[int, int], ...]:
    """The guest bytes of blocks."""
    out: list[tuple[int, int]] = []
    for pc, end in sorted({(pc, pc + insn.length) for block in blocks for pc, insn in block.insns}):
        if out and out[-1][1] >= pc:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((pc, end))
    return tuple(out)


REACH: Final = 2048
"""Bytes around an address in which :func:`surroundings` looks."""


def surroundings(
    isa: Isa, pc: int, code: Mapping[int, Decoded], warm: Callable[[int], bool], hot: Collection[int]
) -> tuple[tuple[int, ...], set[int], bool]:
    """What to compile for the hot address ``pc``: the places to enter at, the instructions around it, and whether it is these
    only. ``code`` are the instructions that have run within REACH of ``pc``; ``warm`` says whether control came to a place often.

    The function around it, entered at its beginning and at those loops that are ``hot``; but if it was called seldom, only the
    outermost loop.
    """
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    called: set[int] = set()
    for at, insn in code.items():
        out = after[at] = []
        behind = at + insn.length
        jumps = insn.template.jumps
        if not jumps:
            out.append(behind)
        else:
            target = static_value(insn.template, jumps[-1].args[0], insn, at)
            call = _kind(isa, insn, jumps[-1]) == "call"
            if call or jumps[-1].guard is not None:
                out.append(behind)
            if target is not None:
                if call or _is_far(jumps[-1], at, target):
                    called.add(target)
                else:
                    out.append(target)
        for to in out:
            before.setdefault(to, []).append(at)

    def reach(*ways: Mapping[int, list[int]]) -> set[int]:
        seen, work = {pc}, [pc]
        for at in work:
            for way in ways:
                for to in way.get(at, ()):
                    if to in code and to not in seen:
                        seen.add(to)
                        work.append(to)
        return seen

    members = reach(before, after)
    starts = sorted(at for at in members if (at not in before or at in called) and warm(at))
    loop = set() if starts else reach(before) & reach(after)
    if len(loop) > 1:
        members = loop
    heads = {at for at in members if any(tail >= at and tail in members for tail in before.get(at, ()))}
    around = sorted(head for head in heads if head <= pc <= max(before[head]))
    roots = [*around[-1:], *starts, *sorted(head for head in heads if head in hot)]
    return tuple(dict.fromkeys(roots or [pc])), members, len(loop) > 1


_CONTEXT: Final = 1 << 40
"""Blocks of a function that was taken into a region have labels of its address plus a multiple of this."""
_SMALL: Final = 200
"""Instructions of a function that is made part of its callers."""
_AGAIN: Final = 120
"""Instructions of one of which there may be several copies, as of a recursive one."""
_TAKEN: Final = 640
"""Instructions that all calls of a recursive function may take in; those of others as many as it has itself."""
_LEAST_TAKEN: Final = 240
"""Instructions that those of a shorter function may take in."""
_SPILLED: Final = 5
"""Floating-point registers beyond those of the host with which LLVM gets along."""
_WORKING: Final = 4
"""Registers of the host that an interpreter's region has for what its operations compute."""
_MEETING: Final = 4
"""Ways into a block of an interpreter's region, from which on what nobody reads there is written back before."""
_SELDOM: Final = 0.1
"""The share of the operations of an interpreter that may read a register at their beginning though it has been written back."""
_TRIPS: Final = 2
"""Trips between the state and a host register beyond its uses that a guest register may make."""
_DISPATCH: Final = _CONTEXT - 1
"""Label of the block, without instructions, from which jumps to computed addresses go to the region's places: LLVM's allocation of
registers is at its worst where each of many blocks leads to each of many others."""


def address(label: int) -> int:
    """The guest address of a block."""
    return label % _CONTEXT


def _take_in_calls(
    isa: Isa,
    blocks: dict[int, Block],
    decode: Callable[[int], Decoded | None],
    guess: Callable[[int], int | None],
    frequent: Callable[[int, int], bool],
) -> None:
    """Put a copy of the called function in the place of ``frequent`` calls, with what that calls in its turn, until there is enough:
    then the call and the return are jumps, and registers stay where they are."""
    bodies: dict[int, dict[int, Block] | None] = {}
    queue: list[tuple[int, int, int]] = []  # depth, instructions, label of the calling block
    targets: dict[int, int] = {}
    own = set(blocks)
    present = set(blocks)  # functions that the region has already
    room = min(max(sum(len(block.insns) for block in blocks.values()), _LEAST_TAKEN), _TAKEN)

    def calls(labels: Iterable[int], depth: int) -> None:
        for label in labels:
            block = blocks[label]
            if block.kind != "call" or block.follow not in blocks:
                continue
            target = block.target if block.target is not None else guess(block.insns[-1][0])
            if target is None or not frequent(address(block.follow), target):
                continue
            if target not in bodies:
                bodies[target] = _function(isa, target, decode)
            body = bodies[target]
            if body is not None:
                targets[label] = target
                heappush(queue, (depth, sum(len(one.insns) for one in body.values()), label))

    calls(sorted(blocks), 0)
    taken = context = 0
    while queue:
        depth, size, label = heappop(queue)
        if targets[label] in own:
            room = _TAKEN
        if taken + size > room:
            break
        if size > _AGAIN and targets[label] in present:
            continue
        present.add(targets[label])
        taken += size
        context += _CONTEXT
        caller, body = blocks[label], bodies[targets[label]]
        assert body is not None
        if caller.target is None:
            caller.guess = context + targets[label]
        else:
            caller.kind, caller.target = "inline", context + targets[label]
        for start, block in body.items():
            blocks[context + start] = Block(
                context + start,
                block.insns,
                block.kind,
                block.target if block.kind == "call" or block.target is None else context + block.target,
                context + block.follow,
                block.end,
                (caller.follow,) if block.kind == "ret" else (),
            )
        calls([context + start for start in body], depth + 1)


def _function(isa: Isa, start: int, decode: Callable[[int], Decoded | None]) -> dict[int, Block] | None:
    """The blocks of a function that have run, if it is short and comes back; else None."""
    code: dict[int, Decoded] = {}
    leaders = {start}
    work, returns = [start], False
    while work:
        pc = work.pop()
        while pc not in code:
            insn = decode(pc)
            if insn is None:
                break
            code[pc] = insn
            if len(code) > _SMALL or not _belongs(insn.template, insn, pc):
                return None
            jumps = insn.template.jumps
            at, pc = pc, pc + insn.length
            if not jumps:
                continue
            kind = _kind(isa, insn, jumps[-1])
            if kind == "ret":
                returns = True
                break
            if kind != "call":
                # A tail call's target becomes part of it.
                target = static_value(insn.template, jumps[-1].args[0], insn, at)
                if target is None:
                    return None
                leaders.add(target)
                work.append(target)
                if jumps[-1].guard is None:
                    break
            leaders.add(pc)
    return {pc: _block(isa, pc, code, leaders) for pc in sorted(leaders) if pc in code} if returns else None


def _belongs(template: Template, insn: Decoded, pc: int) -> bool:
    """Whether compiled code does this instruction. Changing the rounding mode is left to the interpreter, because a
    region looks at the mode only when it is entered; reading it is the same instruction with a zero register."""
    if not supported(template):
        return False
    for op in template.ops:
        if op.code == "trap" and op.guard is None:
            return False
        if op.code == "fp.set_rounding" and (
            op.guard is None or static_value(template, op.guard, insn, pc) != 0
        ):
            return False
    return True


def _is_far(jump: Op, pc: int, target: int) -> bool:
    """Whether a jump goes so far that it may be a tail call, which would drag in code that others call as well."""
    return jump.guard is None and abs(target - pc) > _FUNCTION_BYTES


def _comes_back(isa: Isa, target: int, origin: int, decode: Callable[[int], Decoded | None]) -> bool:
    """Whether the code that a far jump at ``origin`` goes to belongs to the same function all the same: it jumps back, or to a computed
    address, as the parts of an interpreter do."""
    seen: set[int] = set()
    work = [target]
    while work:
        pc = work.pop()
        while pc not in seen and len(seen) < _LOOKED_AT:
            insn = decode(pc)
            if insn is None:
                break
            seen.add(pc)
            jumps = insn.template.jumps
            at, pc = pc, pc + insn.length
            if not jumps:
                continue
            kind = _kind(isa, insn, jumps[-1])
            if kind == "ret":
                break
            if kind == "call":
                continue
            to = static_value(insn.template, jumps[-1].args[0], insn, at)
            if to is None or abs(to - origin) <= _FUNCTION_BYTES:
                return True
            work.append(to)
            if jumps[-1].guard is None:
                break
    return False


def _kind(isa: Isa, insn: Decoded, jump: Op) -> str:
    hint = isa.flow(insn)
    if hint in ("call", "ret"):
        return hint
    return str(jump.attr)


def _bare(isa: Isa, template: Template, jump: Op) -> int | None:
    """The op whose value is a jump's target but for the lowest bits, which the jump drops; None if it drops none."""
    target = template.ops[jump.args[0]]
    if target.code == "and":
        for one, other in (target.args, target.args[::-1]):
            if template.ops[other].code == "const" and template.ops[other].attr == -isa.unit & mask(64):
                return one
    return None


def _block(isa: Isa, start: int, code: dict[int, Decoded], leaders: set[int]) -> Block:
    block = Block(start)
    pc = start
    while True:
        insn = code.get(pc)
        if insn is None:
            block.kind, block.end = ("leave" if not block.insns or pc not in leaders else "fall"), pc
            block.follow = pc
            return block
        if pc in leaders and pc != start:
            block.kind, block.follow = "fall", pc
            return block
        block.insns.append((pc, insn))
        jumps = insn.template.jumps
        at, pc = pc, pc + insn.length
        if jumps:
            jump = jumps[-1]
            block.follow = pc
            block.target = static_value(insn.template, jump.args[0], insn, at)
            kind = _kind(isa, insn, jump)
            if kind == "call":
                block.kind = "call"
            elif jump.guard is not None:
                block.kind = "branch"
            elif block.target is not None:
                block.kind = "jump"
            else:
                block.kind = "ret" if kind == "ret" else "indirect"
            return block


def restart_points(block: Block) -> list[int]:
    """Where, as indices of its instructions, a block can be done again from by the interpreter when something behind is refused.

    From such a point on, until the next, everything may have been done already and can be done once more: stores, then loads.
    A store behind a load needs a point of its own (the load would see it), atomic accesses and reads of the sticky flags
    one on each side.
    """
    points, loaded, close = [0], False, False
    for i, (_, insn) in enumerate(block.insns):
        codes = insn.template.codes
        store, alone = "store" in codes, bool(codes & _ONCE)
        load = "load" in codes
        if i and (close or alone or (store and (loaded or load))):
            points.append(i)
            loaded = False
        close = alone or (store and load)
        loaded |= load
    quiet = [i for first in quiet_compares(block) for i in (first + 1, first + 2)]
    return [point for point in points if point not in quiet]


def quiet_compares(block: Block) -> list[int]:
    """Where a block reads the sticky flags, compares, and puts the flags back: the way to compare without raising one."""
    return [
        i
        for i, (read, compare, write) in enumerate(
            zip(block.insns, block.insns[1:], block.insns[2:], strict=False)
        )
        if (saved := _reads_flags(*read)) is not None
        and _only_compares(compare[1], saved)
        and _puts_flags_back(write[1], saved)
    ]


def shown_later(block: Block, points: Collection[int]) -> set[int]:
    """The arithmetic of which a NaN as result need not be looked for, as indices of a block's instructions: the first that reads the
    result makes a NaN of a NaN, and that is looked for, before anything else can see either and before the next restart point."""
    out: set[int] = set()
    # The width at which what reads a register next computes with it; 0 if that does something else.
    reader: dict[Cell, int] = {}
    for i in range(len(block.insns) - 1, -1, -1):
        if i + 1 in points:
            reader.clear()
        insn = block.insns[i][1]
        result, width = _arithmetic_result(insn)
        if result is not None and reader.get(result) == width:
            out.add(i)
        for code, change in ("setreg", 0), ("reg", width):
            for op in insn.template.ops:
                if op.code == code and (cell := _cell_of(insn, op)) is not None:
                    reader[cell] = change
    return out


def _arithmetic_result(insn: Decoded) -> tuple[Cell | None, int]:
    """The register and the width of an instruction's result if a NaN among the registers that it reads makes that a NaN, else 0."""
    ops = insn.template.ops
    results = [op for op in ops if op.code in _NAN_FROM_NAN]
    written = [op for op in ops if op.code == "setreg"]
    files = {op.attr[0] for op in ops if op.code in ("reg", "setreg")}
    if len(results) != 1 or len(written) != 1 or not files.issubset(_FLOAT_FILES):
        return None, 0
    if not {op.code for op in ops} <= {results[0].code, *_BOXING}:
        return None, 0
    return _cell_of(insn, written[0]), results[0].width


def _cell_of(insn: Decoded, op: Op) -> Cell | None:
    file, index = op.attr
    slot = insn.fields[index] if isinstance(index, str) else index
    return None if slot == insn.insn.isa.layout.files[file].zero else (file, slot)


def _reads_flags(pc: int, insn: Decoded) -> Cell | None:
    """The register that an instruction reads the sticky flags into, if it does nothing else."""
    ops = insn.template.ops
    for op in ops:
        if op.code == "fp.set_flags" and (
            op.guard is None or static_value(insn.template, op.guard, insn, pc) != 0
        ):
            return None
    writes = [op for op in ops if op.code == "setreg" and ops[op.args[0]].code == "fp.get_flags"]
    return _cell_of(insn, writes[0]) if len(writes) == 1 else None


def _only_compares(insn: Decoded, saved: Cell) -> bool:
    ops = insn.template.ops
    effects = [op for op in ops if op.code.startswith("fp.") or op.code in EFFECTS]
    return (
        all(op.code in ("reg", "setreg", "const", "fp.lt", "fp.le", "fp.eq") for op in effects)
        and any(op.code.startswith("fp.") for op in effects)
        and all(_cell_of(insn, op) != saved for op in effects if op.code == "setreg")
    )


def _puts_flags_back(insn: Decoded, saved: Cell) -> bool:
    ops = insn.template.ops
    flags = [op for op in ops if op.code == "fp.set_flags" and op.guard is None]
    if len(flags) != 1 or any(_cell_of(insn, op) is not None for op in ops if op.code == "setreg"):
        return False
    value = ops[flags[0].args[0]]
    if value.code != "and" or all(ops[arg].code != "const" or ops[arg].attr != 31 for arg in value.args):
        return False
    return any(ops[arg].code == "reg" and _cell_of(insn, ops[arg]) == saved for arg in value.args)


_ONCE: Final = frozenset(
    {"amo", "cas", "load_reserved", "store_conditional", "fp.get_flags", "fp.set_flags", "fp.set_rounding"}
)
_FLOAT_FILES: Final = ("f",)
_NAN_FROM_NAN: Final = frozenset({"fp.add", "fp.sub", "fp.mul", "fp.div", "fp.sqrt", "fp.fma"})
_BOXING: Final = frozenset(
    {"reg", "setreg", "const", "field", "and", "xor", "eq", "select", "extract", "concat"}
)
"""What instructions do with operands and results of such operations besides: taking them from their boxes, changing signs."""


class _Emit(Emitter):
    """Emits one region."""

    def __init__(self, isa: Isa, region: Region, *, isolated: bool = True) -> None:
        super().__init__()
        self.isa, self.region, self.isolated = isa, region, isolated
        self.type, self.pins = region_type(isa)
        self.pinned = set(self.pins)
        self.preserved = set(isa.preserved)
        self.insn: Decoded
        self.at = 0
        self.point = (0, 0)
        self.saved: list[tuple[Cell, str]] = []
        self.used: dict[Cell, None] = dict.fromkeys(self.pins)
        self.now_dirty: set[Cell] = set()
        self.settled: dict[int, set[Cell]] = {}
        """By block of an interpreter's region, what is written back on the ways there (:meth:`_settle`)."""
        self.in_state_only: set[Cell] = set()
        """Registers that stay in the state, as the host has instructions with operands in memory: those that calls would carry back
        and forth; and those that an interpreter of the guest's uses least, where there are more than the host has, those that calls pin among them. LLVM would
        move all of them about, from each operation to each other."""
        self.exits: dict[
            frozenset[Cell], list[tuple[str, str]]
        ] = {}  # dirty cells -> (predecessor, pc value)
        self.clean: frozenset[Cell] = frozenset()
        self.near: dict[int, bool] = {}
        self.same: dict[int, int] = {}
        self.known: dict[Cell, Interval] = {}
        self.extended: dict[int, str] = {}
        self.quiet, self.unordered = False, ""
        self.target = ""
        self.shown = False
        self.cold: list[str] = []
        self.metadata: list[str] = []
        self._refuse: str | None = None
        self.block: Block
        self.done = False
        self.rounding_checked = True
        self._cells()
        kept = self.preserved - self.pinned - self.in_state_only
        places = (*region.roots, *region.entries)
        self.ranges = Ranges(isa, region.blocks, places, self._successors, kept, isolated=isolated)
        self.order = self.ranges.order
        self.stops = self.ranges.loops.keys()
        jumps = [block.insns[-1][1].template for block in region.blocks.values() if block.kind == "indirect"]
        self.drops = all(_bare(isa, template, template.jumps[-1]) is not None for template in jumps)
        self.longest = self._longest()

    # -- registers ----------------------------------------------------------------------------------------------

    def _cells(self) -> None:
        uses: dict[Cell, int] = {}
        for block in self.region.blocks.values():
            for _, insn in block.insns:
                for file, index in (*insn.template.reads, *insn.template.writes):
                    if (cell := self._cell(insn, file, index)) is not None:
                        self.used[cell] = None
                        uses[cell] = uses.get(cell, 0) + 1
        if _DISPATCH in self.region.blocks:
            general = [c for c in uses if c[0] not in _FLOAT_FILES and self.width(c) == 64]
            if len(general) > HOST.general:
                self.settled = self._settle()
                brought = [c for c in general if c not in self.settled[_DISPATCH]]
                self.in_state_only.update(sorted(brought, key=uses.__getitem__)[: -(HOST.general - _WORKING)])
            floats = [c for c in uses if c[0] in _FLOAT_FILES and self.width(c) == 64]
            if len(floats) > HOST.floats + _SPILLED:
                self.in_state_only.update(sorted(floats, key=uses.__getitem__)[: -HOST.floats])
        self.dirty = self._dirty()
        self.live = self._live(self.dirty)
        self._leave_in_state()

    def _settle(self) -> dict[int, set[Cell]]:
        """Where many ways meet in the region of an interpreter: the cells that (nearly) nobody reads from there on before they are written,
        or before the next operation. They are written back on those ways, so that LLVM need not bring them together there."""
        cells = {cell for cell in self.used if cell not in self.pinned}
        self.settled = {_DISPATCH: cells}
        read = self._live({pc: set() for pc in self.region.blocks})
        weights = {pc: self.region.weights.get(pc, 1) for pc in self.region.places}
        some = sum(weights.values()) * _SELDOM
        seldom = {
            cell
            for cell in cells
            if sum(weight for pc, weight in weights.items() if cell in read[pc]) <= some
        }
        ways: dict[int, int] = {}
        for block in self.region.blocks.values():
            for pc in self._successors(block):
                ways[pc] = ways.get(pc, 0) + 1
        out = {pc: seldom - read[pc] for pc, number in ways.items() if number >= _MEETING}
        out[_DISPATCH] = seldom
        return out

    def _leave_in_state(self) -> None:
        """Leave in the state what would be carried between it and a register more often than it is used."""
        weights = self._weights()
        gain: dict[Cell, int] = {}

        def count(cells: Iterable[Cell], weight: int) -> None:
            for cell in cells:
                gain[cell] = gain.get(cell, 0) + weight

        for pc in self.region.roots:
            count(self.live[pc], 1)
        for pc, block in self.region.blocks.items():
            weight, now = weights[pc], set(self.dirty[pc])
            for _, insn in block.insns:
                writes = self._writes(insn)
                now |= writes
                count(writes, -weight)
                reads = {self._cell(insn, file, index) for file, index in insn.template.reads}
                count([cell for cell in reads if cell is not None], -weight)
            if block.kind == "call":
                count(now, weight)
                count(self.live.get(block.follow, ()), weight)
            elif block.kind in ("ret", "indirect", "leave") and not block.returns:
                count(now, weight)
        chosen = {
            cell
            for cell, more in gain.items()
            if more > _TRIPS and cell not in self.pinned | self.in_state_only and self.width(cell) == 64
        }
        self.in_state_only |= chosen
        for cells in (*self.dirty.values(), *self.live.values()):
            cells.difference_update(chosen)

    def _weights(self) -> dict[int, int]:
        """About how often each block runs, by the loops around it."""
        blocks = self.region.blocks
        base = {0: 0}
        starts: dict[int, int] = {}
        ends: dict[int, int] = {}
        for pc, block in blocks.items():
            for to in self._successors(block):
                if to <= pc and to // _CONTEXT == pc // _CONTEXT:
                    starts[to] = starts.get(to, 0) + 1
                    ends[pc] = ends.get(pc, 0) + 1
        out: dict[int, int] = {}
        depth = 0
        for pc in sorted(blocks):
            context = pc // _CONTEXT
            depth += starts.get(pc, 0)
            level = depth + base.get(context, 0)
            out[pc] = 1 << 3 * min(level, 6)
            depth -= ends.get(pc, 0)
            block = blocks[pc]
            for copy in (block.target if block.kind == "inline" else None, block.guess):
                if copy is not None:
                    base[copy // _CONTEXT] = level
        return out

    def _cell(self, insn: Decoded, file: str, index: int | str) -> Cell | None:
        slot = insn.fields[index] if isinstance(index, str) else index
        return None if slot == self.isa.layout.files[file].zero else (file, slot)

    def _successors(self, block: Block) -> list[int]:
        if block.kind == "dispatch":
            return list(self.region.places)
        if block.kind == "indirect":
            return [_DISPATCH] if self.region.places else []
        out = [] if block.kind in ("jump", "inline", "ret", "leave") else [block.follow]
        if block.target is not None and block.kind in ("jump", "branch", "inline"):
            out.append(block.target)
        out += block.returns
        if block.guess is not None:
            out.append(block.guess)
        return [pc for pc in out if pc in self.region.blocks]

    def _dirty(self) -> dict[int, set[Cell]]:
        """For each block, the unpinned cells that may differ from the state in memory when it begins."""
        out: dict[int, set[Cell]] = {pc: set() for pc in self.region.blocks}
        work = list(self.region.blocks)
        while work:
            block = self.region.blocks[work.pop()]
            now = set(out[block.start])
            for _, insn in block.insns:
                now |= self._writes(insn)
            for pc in self._successors(block):
                if block.kind == "call" and pc == block.follow:
                    continue
                there = now - self.settled.get(pc, set())
                if not there <= out[pc]:
                    out[pc] |= there
                    work.append(pc)
        return out

    def _live(self, dirty: Mapping[int, set[Cell]]) -> dict[int, set[Cell]]:
        """For each block, the unpinned cells whose values are needed when it begins: read, or written back on the way out."""
        uses: dict[int, set[Cell]] = {}
        sets: dict[int, set[Cell]] = {}
        for pc, block in self.region.blocks.items():
            need, put = set(dirty[pc]), set()
            for _, insn in block.insns:
                reads = {self._cell(insn, file, index) for file, index in insn.template.reads}
                need |= {cell for cell in reads if cell is not None and cell not in put}
                put |= self._writes(insn)
            uses[pc], sets[pc] = need - self.pinned - self.in_state_only, put
        live = {pc: set(need) for pc, need in uses.items()}
        order = sorted(live, reverse=True)
        changed = True
        while changed:
            changed = False
            for pc in order:
                block = self.region.blocks[pc]
                out: set[Cell] = set()
                for to in self._successors(block):
                    through = block.kind == "call" and to == block.follow
                    out |= live[to] & self.preserved if through else live[to]
                if block.kind == "dispatch":
                    out -= self.settled.get(pc, set())
                now = uses[pc] | (out - sets[pc])
                if now != live[pc]:
                    live[pc], changed = now, True
        return live

    def _longest(self) -> dict[int, int]:
        """For each block, the most instructions that run from its beginning until the fuel is looked at again."""
        out: dict[int, int] = {}
        for pc in reversed(self.order):
            block = self.region.blocks[pc]
            # What lies behind in this order and is no stop is done already: all jumps backward go to stops.
            behind = [out[to] for to in self._successors(block) if to not in self.stops]
            out[pc] = len(block.insns) + max(behind, default=0)
        return out

    def _writes(self, insn: Decoded) -> set[Cell]:
        cells = (self._cell(insn, file, index) for file, index in insn.template.writes)
        return {cell for cell in cells if cell is not None} - self.pinned - self.in_state_only

    def name(self, cell: Cell) -> str:
        return f"%{cell[0]}.{cell[1]}"

    def width(self, cell: Cell) -> int:
        return self.isa.layout.files[cell[0]].width

    def get(self, file: str, index: int | str, width: int) -> str:
        cell = self._cell(self.insn, file, index)
        return "0" if cell is None else self.v(f"load i{width}, ptr {self.name(cell)}")

    def put(self, file: str, index: int | str, value: str, width: int) -> None:
        cell = self._cell(self.insn, file, index)
        if cell is not None:
            self.emit(f"store i{width} {value}, ptr {self.name(cell)}")

    def flush(self, cells: set[Cell]) -> None:
        """Write cells back to the state in memory."""
        for cell in sorted(cells):
            width = self.width(cell)
            stored = 128 if width > 64 else 64
            value = self.v(f"load i{width}, ptr {self.name(cell)}")
            if width != stored:
                value = self.v(f"zext i{width} {value} to i{stored}")
            self.emit(
                f"store i{stored} {value}, ptr {self.field_in_state(self.isa.layout.offset(*cell))}, align 8, {STATE}"
            )

    def in_state(self, cell: Cell) -> str:
        """A cell's value in the state in memory."""
        width = self.width(cell)
        stored = 128 if width > 64 else 64
        place = self.field_in_state(self.isa.layout.offset(*cell))
        value = self.v(f"load i{stored}, ptr {place}, align 8, {STATE}")
        return value if width == stored else self.v(f"trunc i{stored} {value} to i{width}")

    def reload(self, cells: Iterable[Cell]) -> None:
        for cell in cells:
            self.emit(f"store i{self.width(cell)} {self.in_state(cell)}, ptr {self.name(cell)}")

    # -- memory -------------------------------------------------------------------------------------------------
    # A plain access is one instruction of the host, and the region says where to go on if that faults (vm_jit.faults).

    def place_of(self, address: str) -> str:
        """The operand of :meth:`access` for a guest address: relative to the segment, or the host's address."""
        return self.v(f"inttoptr i64 {address} to ptr") if HOST.segment else self.host_pointer(address)

    def access(self, text: str, constraints: str, type_: str, arguments: str) -> str:
        if HOST.segment:
            text = text.replace("$0", "%gs:$0") if type_ == "void" else text.replace("$1", "%gs:$1")
        return super().access(text, constraints, type_, arguments)

    def look(self, address: str) -> None:
        """Refuse the instruction unless the address is in the arena, where that is not known."""
        if self.isolated and not self.near.get(self.number):
            proceed = self.label()
            inside = self.v(f"icmp ult i64 {address}, %limit")
            self.emit(f"br i1 {inside}, label %{proceed}, label %{self.refuse()}, {LIKELY}")
            self.place(proceed)

    def op_load(self, op: Op, address: str) -> str:
        if op.guard is not None or op.width not in LOADS or not HOST.x86:
            return super().op_load(op, address)
        self.look(address)
        pointer = f"ptr elementtype(i{op.width}) {self.place_of(address)}"
        users = [user for user in self.template.ops if self.number in user.args]
        only = users[0] if len(users) == 1 else None
        if op.width == 64:
            if only is not None and only.code == "setreg" and only.attr[0] in _FLOAT_FILES:
                return self._bits(self.access(f"{HOST.load_double} $1, $0", "=x,*m", "double", pointer), 64)
            return self.access("movq $1, $0", "=r,*m", "i64", pointer)
        if op.width == 32 and only is not None and only.code == "concat":
            # Boxed into a floating-point register.
            return self._bits(self.access(f"{HOST.load_float} $1, $0", "=x,*m", "float", pointer), 32)
        plain, signed = LOADS[op.width]
        if only is not None and only.code in ("zext", "sext") and only.width == 64:
            # The instruction extends as well; the op that asks for that finds it done.
            text = f"{plain} $1, ${{0:k}}" if only.code == "zext" else f"{signed} $1, $0"
            self.extended[self.number] = self.access(text, "=r,*m", "i64", pointer)
            return ""
        value = self.access(f"{plain} $1, $0", "=r,*m", "i32", pointer)
        return value if op.width == 32 else self.v(f"trunc i32 {value} to i{op.width}")

    def _simple(self, op: Op, a: list[str]) -> str:
        if op.code in ("zext", "sext") and op.args[0] in self.extended:
            return self.extended[op.args[0]]
        if self.number in self.same:
            return self.values[self.same[self.number]]
        return super()._simple(op, a)

    def op_store(self, op: Op, address: str, value: str) -> None:
        width = self.width_of(op, 1)
        if op.guard is not None or width not in STORES or not HOST.x86:
            super().op_store(op, address, value)
            return
        self.look(address)
        pointer = f"ptr elementtype(i{width}) {self.place_of(address)}"
        source = self.template.ops[op.args[1]]
        origin = self.template.ops[source.args[0]] if source.code == "extract" and not source.attr else source
        if width >= 32 and origin.code == "reg" and origin.attr[0] in _FLOAT_FILES:
            move, type_ = (HOST.load_double, "double") if width == 64 else (HOST.load_float, "float")
            number = self._float(value, width)
            self.access(f"{move} $1, $0", "=*m,x", "void", f"{pointer}, {type_} {number}")
        else:
            self.access(STORES[width], "=*m,r", "void", f"{pointer}, i{width} {value}")

    def op_fp_fma(self, op: Op, a: str, b: str, c: str) -> str:
        # The flag that the host does not raise (for infinity * 0 + NaN) comes with a NaN, which is the interpreter's.
        return self._arithmetic(op, "fma", a, b, c)

    def _compare(self, op: Op, name: str, predicate: str, a: str, b: str) -> str:
        if self.quiet:
            # The flags are put back behind, if a NaN has raised one.
            fmt = op.attr[0]
            x, y = self._float(a, fmt), self._float(b, fmt)
            t = {32: "float", 64: "double"}[fmt]
            self.unordered = self.v(f"fcmp uno {t} {x}, {y}")
            return self.v(f"fcmp {predicate} {t} {x}, {y}")
        return super()._compare(op, name, predicate, a, b)

    def op_fp_set_rounding(self, op: Op, value: str) -> None:
        """Never happens: :func:`_belongs`."""

    def _canonical(self, value: str, width: int) -> str:
        if self.shown:
            return self._bits(value, width)
        # A NaN result is the interpreter's: so no value ever waits for the choice between it and the canonical one.
        t = {32: "float", 64: "double"}[width]
        nan = self.v(
            f"call i1 @llvm.experimental.constrained.fcmp.f{width}({t} {value}, {t} {value}, "
            f'metadata !"uno", metadata !"fpexcept.strict") #1'
        )
        proceed = self.label()
        self.emit(f"br i1 {nan}, label %{self.refuse()}, label %{proceed}, !prof !10")
        self.place(proceed)
        return self._bits(value, width)

    # -- operands -----------------------------------------------------------------------------------------------

    def immediate(self, name: str) -> str:
        value = self.insn.fields[name] & mask(64)
        return str(value - (1 << 64) if value >> 63 else value)

    def pc(self) -> str:
        return str(self.at)

    def next_pc(self) -> str:
        return str(self.at + self.insn.length)

    # -- leaving ------------------------------------------------------------------------------------------------

    def start_over(self, block: Block, first: int, points: list[int]) -> None:
        """Here the interpreter takes over when anything up to the next such point is refused: keep what changes until then."""
        behind = next((point for point in points if point > first), len(block.insns))
        changing: dict[Cell, None] = {}
        for _, insn in block.insns[first:behind]:
            for file, index in insn.template.writes:
                if (cell := self._cell(insn, file, index)) is not None:
                    changing[cell] = None
        self._refuse, self.leaving = None, frozenset(self.now_dirty)
        self.saved = [(cell, self.v(f"load i{self.width(cell)}, ptr {self.name(cell)}")) for cell in changing]
        self.point = block.insns[first][0], len(block.insns) - first

    def refuse(self) -> str:
        if self._refuse is None:
            label = self._refuse = self.label()
            pc, left = self.point
            self.cold += [
                f"{label}:",
                # Opaque, so that LLVM does not fold this block away and then copy registers in front of each access.
                '  call void asm sideeffect "", ""()',
                f"  %{label}f = load i64, ptr %left",
                f"  %{label}g = add i64 %{label}f, {left}",
                f"  store i64 %{label}g, ptr %left",
                *(
                    f"  store i{self.width(cell)} {value}, ptr {self.name(cell)}"
                    for cell, value in self.saved
                ),
                f"  br label %{self.way_out(label, str(pc - FORCE))}",
            ]
        return self._refuse

    def leave_to(self, pc: str) -> str:
        """A label that leaves the region for the guest address ``pc``."""
        label = self.label()
        self.cold += [f"{label}:", f"  br label %{self.way_out(label, pc)}"]
        return label

    def way_out(self, label: str, pc: str) -> str:
        """The block that writes back what is dirty here and leaves; ``label`` is the block that will go there."""
        cells = self.leaving
        if cells not in self.exits:
            self.exits[cells] = []
        self.exits[cells].append((label, pc))
        return f"leave{list(self.exits).index(cells)}"

    def where(self, target: int) -> str:
        """The label of a block, or one that leaves for it."""
        if target not in self.region.blocks:
            return self.leave_to(str(address(target)))
        body = self.ranges.loops.get(target)
        label = f"B{target:x}"
        if body is not None and self.block.start not in body:
            pc = self.target if target == _DISPATCH else str(address(target))
            label = self.looking(*self.ranges.asked(target, self.known), label, pc)
        return self.settling(target, label)

    def settling(self, target: int, label: str) -> str:
        """A label that goes on to another with what is settled at a block written back; or read again, behind the dispatch block."""
        back = self.now_dirty & self.settled.get(target, set())
        again: set[Cell] = set()
        if self.block.kind == "dispatch":
            again = self.settled.get(_DISPATCH, set()) & self.live[target]
        if not back and not again:
            return label
        n = self.label()
        lines, self.lines = self.lines, []
        self.place(n)
        self.flush(back)
        self.reload(sorted(again))
        self.emit(f"br label %{label}")
        self.cold += self.lines
        self.lines = lines
        return n

    def looking(self, far: list[Cell], wide: list[Cell], label: str, pc: str) -> str:
        """A label that goes on to another if some registers are in the arena, and others hold 32 bits; else leaves for ``pc``."""
        for cells, narrow in ((far, False), (wide, True)):
            if not cells:
                continue
            n = self.label()
            lines = [f"{n}:"]
            for i, cell in enumerate(cells):
                value = f"%{n}v{i}"
                lines.append(f"  {value} = load i64, ptr {self.name(cell)}")
                if narrow:
                    # What the upper half has besides the sign of the lower.
                    lines += [
                        f"  %{n}t{i} = trunc i64 {value} to i32",
                        f"  %{n}s{i} = sext i32 %{n}t{i} to i64",
                        f"  %{n}x{i} = xor i64 {value}, %{n}s{i}",
                    ]
                    value = f"%{n}x{i}"
                lines.append(f"  %{n}o{i} = or i64 {value}, {f'%{n}o{i - 1}' if i else 0}")
            test = f"{'eq' if narrow else 'ult'} i64 %{n}o{len(cells) - 1}, {'0' if narrow else '%limit'}"
            lines.append(f"  %{n}c = icmp {test}")
            lines.append(f"  br i1 %{n}c, label %{label}, label %{self.leave_to(pc)}, {LIKELY}")
            self.cold += lines
            label = n
        return label

    def lasting(self, start: int, label: str) -> str:
        """A label that goes on to another if the fuel suffices for what runs from a block's beginning until it is looked at again;
        else leaves. For ways into a block from outside: the loops in it look themselves."""
        longest = self.longest[start]
        if start in self.stops or not longest:
            return label
        n = self.label()
        self.cold += [
            f"{n}:",
            f"  %{n}f = load i64, ptr %left",
            f"  %{n}c = icmp slt i64 %{n}f, {longest}",
            f"  br i1 %{n}c, label %{self.leave_to(str(address(start) - FORCE))}, label %{label}, !prof !10",
        ]
        return n

    def pack(self, pc: str, fuel: str) -> str:
        last = self.v(f"insertvalue {self.type} undef, i64 {pc}, 0")
        last = self.v(f"insertvalue {self.type} {last}, i64 {fuel}, 2")
        for i, cell in enumerate(self.pins):
            value = self.v(f"load i64, ptr {self.name(cell)}")
            last = self.v(f"insertvalue {self.type} {last}, i64 {value}, {3 + i}")
        return last

    def arguments(self, pc: str) -> str:
        fuel = self.v("load i64, ptr %left")
        pins = [self.v(f"load i64, ptr {self.name(cell)}") for cell in self.pins]
        return ", ".join(["ptr %st", f"i64 {pc}", f"i64 {fuel}", *(f"i64 {pin}" for pin in pins)])

    # -- control ------------------------------------------------------------------------------------------------

    def go(self, kind: str, target: str, guard: str | None, op: Op) -> None:
        block = self.block
        self.done, self.leaving = True, frozenset(self.now_dirty)
        if block.kind == "branch":
            assert guard is not None
            if block.target is None:
                out = self.label()
                self.emit(f"br i1 {guard}, label %{out}, label %{self.where(block.follow)}")
                self.place(out)
                self.indirect(target, op)
                return
            weights = ", !prof !12" if self._turns_with_calls(block) else ""
            yes, no = self.where(block.target), self.where(block.follow)
            self.emit(f"br i1 {guard}, label %{yes}, label %{no}{weights}")
        elif block.kind in ("jump", "inline"):
            assert block.target is not None
            if block.target in self.region.blocks:
                self.emit(f"br label %{self.where(block.target)}")
            else:
                self.indirect(target, op)
        elif block.kind == "call":
            self.call(target)
        elif block.kind == "ret":
            if block.returns:
                self.switch(target, block.returns)
            self.exit_to(target)
        else:
            self.indirect(target, op)

    def _turns_with_calls(self, block: Block) -> bool:
        """Whether a branch goes back in a loop that calls. LLVM takes the code in a loop for 30 times as frequent as what is around it;
        of the loops of a recursive function in one another only the innermost would get registers."""
        blocks = self.region.blocks
        bodies = (self.ranges.loops.get(pc, set()) for pc in (block.target, block.follow) if pc is not None)
        return any(
            block.start in body and any(blocks[label].kind in ("inline", "call") for label in body)
            for body in bodies
        )

    def exit_to(self, pc: str) -> None:
        """Leave for a guest address known only now."""
        label = self.label()
        self.emit(f"br label %{label}")
        self.place(label)
        self.emit(f"br label %{self.way_out(label, pc)}")

    def find(self, target: str, otherwise: str) -> str:
        """The compiled region at a guest address, ``nowhere`` for one that has none; or go to ``otherwise``."""
        inside, found = self.label(), self.label()
        if not target.lstrip("-").isdigit():
            ok = self.v(f"icmp ult i64 {target}, %limit") if self.isolated else "true"
            if self.isa.unit > 1:
                even = self.v(f"icmp eq i64 {self.v(f'and i64 {target}, {self.isa.unit - 1}')}, 0")
                ok = self.v(f"and i1 {ok}, {even}")
            self.emit(f"br i1 {ok}, label %{inside}, label %{otherwise}, {LIKELY}")
            self.place(inside)
        number = self.v(f"lshr i64 {target}, 12")
        page = self.v(f"load ptr, ptr {self.v(f'getelementptr ptr, ptr %regions, i64 {number}')}, {RECORD}")
        self.emit(
            f"br i1 {self.v(f'icmp ne ptr {page}, null')}, label %{found}, label %{otherwise}, {LIKELY}"
        )
        self.place(found)
        slot = self.v(f"mul i64 {self.v(f'and i64 {target}, {PAGE - 1}')}, {16 // self.isa.unit}")
        return self.v(f"load ptr, ptr {self.v(f'getelementptr i8, ptr {page}, i64 {slot}')}, {RECORD}")

    def switch(self, target: str, places: Sequence[int]) -> tuple[str, int]:
        """Go to one of some blocks if the target is one; else go on behind. Gives what it looked at, and what was subtracted from the target for it."""
        other = self.label()
        # The unit is taken off, so that the table is dense.
        shift = self.isa.unit.bit_length() - 1
        base = min(map(address, places))
        number = self.v(f"sub i64 {target}, {base}")
        if shift:
            number = self.v(f"call i64 @llvm.fshr.i64(i64 {number}, i64 {number}, i64 {shift})")
        places = tuple(dict.fromkeys(places))
        cases = " ".join(f"i64 {address(pc) - base >> shift}, label %{self.where(pc)}" for pc in places)
        weights = [self.region.weights.get(pc, 1) for pc in places]
        scale = max(max(weights) >> 24, 1)
        listed = ", ".join(f"i32 {weight // scale + 1}" for weight in (0, *weights))
        self.metadata.append(f'!{{!"branch_weights", {listed}}}')
        number_of = len(METADATA.splitlines()) + len(self.metadata) - 1
        self.emit(f"switch i64 {number}, label %{other} [ {cases} ], !prof !{number_of}")
        self.place(other)
        return number, base

    def indirect(self, target: str, op: Op | None = None) -> None:
        """Go to the region at an address known only now."""
        if self.block.kind == "indirect" and self.region.places:
            self.target = target
            bare = _bare(self.isa, self.template, op) if self.drops and op is not None else None
            self.emit(f"store i64 {target if bare is None else self.values[bare]}, ptr %target")
            self.emit(f"br label %{self.where(_DISPATCH)}")
            return
        self.flush(self.now_dirty)
        self.leaving = self.clean
        function = self.find(target, self.leave_to(target))
        result = self.v(
            f"musttail call {HOST.region_convention} {self.type} {function}({self.arguments(target)})"
        )
        self.emit(f"ret {self.type} {result}")

    def call(self, target: str) -> None:
        expected = self.block.follow
        if self.block.guess is not None:
            other = self.label()
            right = self.v(f"icmp eq i64 {target}, {address(self.block.guess)}")
            self.emit(f"br i1 {right}, label %{self.where(self.block.guess)}, label %{other}, {LIKELY}")
            self.place(other)
        self.flush(self.now_dirty)
        self.leaving, self.now_dirty = self.clean, set()
        if self.block.target in self.region.roots:
            function = "@region"
        else:
            function = self.find(target, self.leave_to(target))
        result = self.v(f"call {HOST.region_convention} {self.type} {function}({self.arguments(target)})")
        came, astray = self.label(), self.label()
        returned = self.v(f"extractvalue {self.type} {result}, 0")
        changed = self.v(f"xor i64 {returned}, {address(expected)}")
        wanted = self.live.get(expected, set())
        for cell in sorted(wanted & self.preserved):
            # What a function keeps by convention stays where it is; where one does not, the interpreter goes on.
            width = self.width(cell)
            kept = self.v(f"load i{width}, ptr {self.name(cell)}")
            differs = self.v(f"xor i{width} {self.in_state(cell)}, {kept}")
            if width < 64:
                differs = self.v(f"zext i{width} {differs} to i64")
            changed = self.v(f"or i64 {changed}, {differs}")
        fine = self.v(f"icmp eq i64 {changed}, 0")
        self.emit(f"br i1 {fine}, label %{came}, label %{astray}, {LIKELY}")
        self.cold += [f"{astray}:", f"  ret {self.type} {result}"]
        self.place(came)
        self.emit(f"store i64 {self.v(f'extractvalue {self.type} {result}, 2')}, ptr %left")
        for i, cell in enumerate(self.pins):
            self.emit(
                f"store i64 {self.v(f'extractvalue {self.type} {result}, {3 + i}')}, ptr {self.name(cell)}"
            )
        if expected in self.region.blocks:
            self.reload(sorted(wanted - self.preserved))
            self.known = self.ranges.across_call(self.known)
            self.emit(f"br label %{self.lasting(expected, self.where(expected))}")
        else:
            self.emit(f"br label %{self.leave_to(str(address(expected)))}")

    # -- blocks -------------------------------------------------------------------------------------------------

    def emit_dispatch(self, block: Block) -> None:
        self.block = block
        self.place(f"B{block.start:x}")
        self.emit(MARK)
        self.now_dirty = set(self.dirty[block.start])
        self.leaving = frozenset(self.now_dirty)
        self.known = dict(self.ranges.before.get(block.start, {}))
        target = self.v("load i64, ptr %target")
        if _DISPATCH in self.stops:
            go = self.label()
            short = self.v(f"icmp slt i64 {self.v('load i64, ptr %left')}, {self.longest[_DISPATCH]}")
            self.emit(f"br i1 {short}, label %{self.leave_to(self.even(target))}, label %{go}, !prof !10")
            self.place(go)
        number, base = self.switch(target, self.region.places)
        # Made from the switch's operand, opaquely: else the target would take a register on all ways.
        number = self.v(f'call i64 asm "", "=r,0"(i64 {number})')
        if shift := self.isa.unit.bit_length() - 1:
            number = self.v(f"call i64 @llvm.fshr.i64(i64 {number}, i64 {number}, i64 {64 - shift})")
        self.indirect(self.even(self.v(f"add i64 {number}, {base}")))

    def even(self, target: str) -> str:
        """A target as jumps go there: the dispatch block has it as it was before they dropped its lowest bits, if all do."""
        return self.v(f"and i64 {target}, {-self.isa.unit}") if self.drops else target

    def emit_block(self, block: Block) -> None:
        if block.kind == "dispatch":
            self.emit_dispatch(block)
            return
        self.block, self.done = block, False
        self.place(f"B{block.start:x}")
        self.emit(f"{MARK} {address(block.start):x}")
        count = len(block.insns)
        self.now_dirty = set(self.dirty[block.start])
        self.leaving = frozenset(self.now_dirty)
        self.at = address(block.start)
        points, quiet = restart_points(block), quiet_compares(block)
        shown = shown_later(block, points)
        if count:
            left = self.v(f"sub i64 {self.v('load i64, ptr %left')}, {count}")
            self.emit(f"store i64 {left}, ptr %left")
        if block.start in self.stops and count:
            # Fuel is looked at where a loop begins and where control comes in from outside: it must do until the next such place.
            self.start_over(block, 0, points)
            go = self.label()
            short = self.v(f"icmp slt i64 {left}, {self.longest[block.start] - count}")
            self.emit(f"br i1 {short}, label %{self.refuse()}, label %{go}, !prof !10")
            self.place(go)
        self.known = dict(self.ranges.before.get(block.start, {}))
        for i, (pc, insn) in enumerate(block.insns):
            self.insn, self.at = insn, pc
            self.emit(f"{MARK} {pc:x}")
            if i in points and (i or block.start not in self.stops):
                self.start_over(block, i, points)
            self.now_dirty |= self._writes(insn)
            self.extended = {}
            self.near, self.same = self.ranges.step(insn, pc, self.known)
            self.quiet, self.shown = i - 1 in quiet, i in shown
            if i - 2 in quiet:
                change, go = self.label(), self.label()
                self.emit(f"br i1 {self.unordered}, label %{change}, label %{go}, !prof !10")
                self.place(change)
                self.lower(insn.template)
                self.emit(f"br label %{go}")
                self.place(go)
            else:
                self.lower(insn.template)
        if self.done:
            return
        self.leaving = frozenset(self.now_dirty)
        if block.kind == "leave" or block.follow not in self.region.blocks:
            # What follows has not run, or is the interpreter's.
            self.emit(f"br label %{self.leave_to(str(address(block.follow) - FORCE))}")
        else:
            self.emit(f"br label %{self.where(block.follow)}")

    def text(self) -> str:
        region = self.region
        for label in self.order:
            self.emit_block(region.blocks[label])
        body, self.lines = self.lines, []
        # entry
        self.emit("%left = alloca i64")
        self.emit("%target = alloca i64")
        for cell in self.used:
            if cell in self.in_state_only:
                self.emit(
                    f"{self.name(cell)} = getelementptr i8, ptr %st, i64 {self.isa.layout.offset(*cell)}"
                )
            else:
                self.emit(f"{self.name(cell)} = alloca i{self.width(cell)}")
        self.emit("store i64 %fuel, ptr %left")
        for i, cell in enumerate(self.pins):
            self.emit(f"store i64 %p{i}, ptr {self.name(cell)}")
        self.lines += [
            f"  %{name} = load ptr, ptr {self.field_in_state(HEADER[name])}, {STATE}"
            for name in ("arena", "regions")
        ]
        if HOST.x86:
            # Opaque, so that it stays in a register: a comparison with it is one instruction.
            self.emit(f'%limit = call i64 asm "movabsq $${1 << self.bits}, $0", "=r"()')
        else:
            self.emit(f"%limit = shl i64 1, {self.bits}")
        asked = (*self.ranges.looks.values(), *self.ranges.narrow.values())
        looked = set().union(*asked) - self.pinned - self.in_state_only
        self.reload(sorted(looked))
        stack = self.v(f"ptrtoint ptr {self.v('call ptr @llvm.stacksave.p0()')} to i64")
        ok = self.v(f"icmp ugt i64 {stack}, {self.load_state('stack_limit')}")
        if any(
            code.startswith("fp.")
            for block in region.blocks.values()
            for _, i in block.insns
            for code in i.template.codes
        ):
            fine = self.v(f"icmp ult i64 {self.load_state('fp_rounding')}, 4")
            ok = self.v(f"and i1 {ok}, {fine}")
        enter = self.label()
        refused = self.label()
        self.emit(f"br i1 {ok}, label %{enter}, label %{refused}, {LIKELY}")
        self.leaving = self.clean
        way = self.way_out(refused, f"%{refused}p")
        self.cold += [f"{refused}:", f"  %{refused}p = or i64 %pc, {-FORCE}", f"  br label %{way}"]
        self.place(enter)
        begin, self.lines = self.lines, []
        doors = {}
        for pc in region.entries:
            # What is needed from there on; what is looked at somewhere must have a value.
            self.place(f"D{pc:x}")
            self.reload(sorted(self.live[pc] - looked))
            inside = self.looking(*self.ranges.asked(pc, {}), f"B{pc:x}", str(pc - FORCE))
            self.emit(f"br label %{self.lasting(pc, inside)}")
            doors[pc] = f"D{pc:x}"
        behind, self.lines = self.lines, begin
        first = doors.pop(region.roots[0])
        if doors:
            cases = " ".join(f"i64 {pc}, label %{label}" for pc, label in doors.items())
            self.emit(f"switch i64 %pc, label %{first} [ {cases} ]")
        else:
            self.emit(f"br label %{first}")
        head, self.lines = [*self.lines, *behind], []
        # the ways out
        for i, (cells, exits) in enumerate(self.exits.items()):
            self.place(f"leave{i}")
            incoming = ", ".join(f"[ {pc}, %{label} ]" for label, pc in exits)
            self.emit(f"%out{i} = phi i64 {incoming}")
            self.flush(set(cells))
            self.emit("br label %leave")
        self.place("leave")
        incoming = ", ".join(f"[ %out{i}, %leave{i} ]" for i in range(len(self.exits)))
        self.emit(f"%out = phi i64 {incoming}")
        self.emit(f"ret {self.type} {self.pack('%out', self.v('load i64, ptr %left'))}")
        tail = self.lines
        return "\n".join(
            [
                DECLARATIONS,
                f"define dso_local {HOST.region_convention} {self.type} @region({entry_signature(self.isa)}) #0 {{",
                *head,
                *body,
                f"  {MARK}",
                *self.cold,
                *tail,
                "}",
                'attributes #0 = { nounwind strictfp "no-trapping-math"="false" }',
                "attributes #1 = { strictfp }",
                METADATA
                + "\n".join(
                    f"!{len(METADATA.splitlines()) + i} = {one}" for i, one in enumerate(self.metadata)
                ),
            ]
        )


def emit(isa: Isa, region: Region, *, isolated: bool = True) -> str:
    """The LLVM module of a region; its function is called ``region``. One that is not ``isolated`` trusts the guest's addresses:
    a wild one may be anything in the host process."""
    return _Emit(isa, region, isolated=isolated).text()
