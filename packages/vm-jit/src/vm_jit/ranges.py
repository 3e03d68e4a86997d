"""What is known of register values in a region, as intervals: which accesses can only be inside the arena or its guards.

An access needs no look at its address if that lies within the guard zones around the arena: then the host's page
protections decide. An address is known roughly when it was used before, is a constant, is near such a one, or is the sum
of a known one and a small index. A loop that walks over memory needs one look when it is entered: each turn's access
proves where the address is, and the next is near.

And which registers hold a number of 32 bits, extended by its sign: a guest's compiler extends again what it has extended
before, and each such copy would take a register of the host's. Of a loop that writes them in each turn and keeps that so it
is looked at once, where control enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vm_core.memory import HIGH_GUARD, LOW_GUARD, MAX_BITS
from vm_core.spec.isa import Decoded, Isa
from vm_core.spec.ops import mask
from vm_core.spec.template import Op

if TYPE_CHECKING:
    from vm_jit.region import Block, Cell

__all__ = ["SIGNED", "Interval", "Ranges"]

Interval = tuple[int, int]
ANY: Final[Interval] = (-(1 << 63), (1 << 63) - 1)
ARENA: Final[Interval] = (0, (1 << MAX_BITS) - 1)
SIGNED: Final[Interval] = (-(1 << 31), (1 << 31) - 1)
_LOW: Final = -LOW_GUARD + (1 << 16)
_HIGH: Final = (1 << MAX_BITS) + HIGH_GUARD - (1 << 16)
_STEPS: Final = (
    -(1 << 63),
    -(1 << 31),
    -LOW_GUARD // 2,
    -(1 << 16),
    0,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    (1 << 32) + HIGH_GUARD // 2,
    (1 << 63) - 1,
)
"""Where a bound that moves from turn to turn comes to rest."""
_KEEPING: Final = frozenset({"and", "or", "xor", "ashr", "select"})
"""Of these a wide number may stay one."""
_ROUNDS: Final = 3
"""Visits of a block before its bounds are widened."""


def is_near(value: Interval) -> bool:
    """Whether an access at such an address can only be inside the arena or its guard zones."""
    return _LOW <= value[0] and value[1] <= _HIGH


def within(value: Interval, bounds: Interval) -> bool:
    return bounds[0] <= value[0] and value[1] <= bounds[1]


def _bits(value: Interval) -> int:
    """How many bits a number needs besides its sign."""
    return max((~value[0] if value[0] < 0 else value[0]).bit_length(), value[1].bit_length())


def _fit(low: int, high: int, width: int) -> Interval:
    """The interval of a result: for 64 bits read as signed, for fewer as unsigned; everything if it may wrap."""
    bounds = ANY if width == 64 else (0, mask(width))
    return (low, high) if bounds[0] <= low and high <= bounds[1] else bounds


def _wider(old: Interval, new: Interval) -> Interval:
    low = old[0] if new[0] >= old[0] else max(step for step in _STEPS if step <= new[0])
    high = old[1] if new[1] <= old[1] else min(step for step in _STEPS if step >= new[1])
    return low, high


_Effects = tuple[dict[int, bool], dict[int, int], list[tuple["Cell", Interval, "Cell | None", int, int]]]
State = dict["Cell", Interval]
"""The intervals of the registers about which something is known."""


class Ranges:
    """The analysis of one region. ``order`` are its blocks, each behind all that lead to it but for jumps back in loops;
    ``before[start]`` is what is known when a block begins, ``looks[head]`` the registers whose
    values must be in the arena when control enters a loop at ``head`` from outside it, ``looks[root]`` when it enters the region;
    ``narrow`` those that must be numbers of 32 bits; ``kept`` are the registers that calls leave alone. Of a region that is not
    ``isolated`` nobody looks at addresses, so nothing is known from that."""

    def __init__(
        self,
        isa: Isa,
        blocks: Mapping[int, Block],
        roots: Iterable[int],
        successors: Callable[[Block], list[int]],
        kept: Collection[Cell] = frozenset(),
        *,
        isolated: bool = True,
    ) -> None:
        self.isa, self.blocks, self.kept = isa, blocks, kept
        self.successors = {pc: successors(block) for pc, block in blocks.items()}
        self.before: dict[int, State] = {}
        self._memo: dict[int, tuple[tuple[Cell, ...], bool, dict[tuple[object, ...], _Effects]]] = {}
        roots = tuple(roots)
        self.order = self._order(roots)
        self._place = {label: i for i, label in enumerate(self.order)}
        self.loops = self._loops()
        live = self._live()
        # What is written before it is read may hold anything: a look at it would refuse for no reason.
        self.looks: dict[int, set[Cell]] = {
            head: self._bases(body) & live[head] if isolated else set() for head, body in self.loops.items()
        }
        self.narrow: dict[int, set[Cell]] = {
            head: self._renewed(head, body, self._extended(body) & live[head]) - self.looks[head]
            for head, body in self.loops.items()
        }
        self._roots = set(roots)
        self._far: set[tuple[int, Cell]] = set()
        self._solve()
        for label, cell in self._far if isolated else ():
            for head, body in self.loops.items():
                if label in body and cell in live[head]:
                    self.looks[head].add(cell)
                    self.narrow[head].discard(cell)
        for root in self._roots - self.loops.keys():
            for asked in (self.looks, self.narrow):
                asked[root] = (
                    set()
                    .union(*(asked[head] for head, body in self.loops.items() if root in body))
                    .intersection(live[root])
                )
            self.narrow[root] -= self.looks[root]
        for _ in range(4):
            self._solve()
            bad = False
            for head, before in self.before.items():
                far = {cell for cell in self.looks.get(head, ()) if not is_near(before.get(cell, ANY))}
                wide = {
                    cell for cell in self.narrow.get(head, ()) if not within(before.get(cell, ANY), SIGNED)
                }
                if far or wide:
                    self.looks[head] -= far
                    self.narrow[head] -= wide
                    bad = True
            if not bad:
                break
        else:
            self.looks = {label: set() for label in self.looks}
            self.narrow = {label: set() for label in self.narrow}
            self._solve()

    # -- loops --------------------------------------------------------------------------------------------------

    def _order(self, roots: tuple[int, ...]) -> tuple[int, ...]:
        """Reverse postorder, first from where only the outside leads to: a loop that is entered in its middle has its head there."""
        out: list[int] = []
        seen: set[int] = set()
        inner = {to for ways in self.successors.values() for to in ways}
        for root in (*(root for root in roots if root not in inner), *roots, *self.blocks):
            if root in seen:
                continue
            seen.add(root)
            stack = [(root, iter(self.successors[root]))]
            part: list[int] = []
            while stack:
                label, rest = stack[-1]
                for to in rest:
                    if to not in seen:
                        seen.add(to)
                        stack.append((to, iter(self.successors[to])))
                        break
                else:
                    part.append(label)
                    stack.pop()
            out += part
        return tuple(reversed(out))

    def _loops(self) -> dict[int, set[int]]:
        """The blocks of each loop, by where it is entered: where a jump backward goes, and where else control comes into it."""
        before: dict[int, list[int]] = {pc: [] for pc in self.blocks}
        backward: dict[int, list[int]] = {}
        for pc, out in self.successors.items():
            for to in out:
                before[to].append(pc)
                if self._place[to] <= self._place[pc]:
                    backward.setdefault(to, []).append(pc)

        def reach(work: list[int], ways: Mapping[int, list[int]], first: int, ends: set[int]) -> set[int]:
            """What lies behind ``first`` in the order and comes before or after ``work``; ``ends`` lead no further."""
            seen = set(ends)
            while work:
                pc = work.pop()
                if pc not in seen and self._place[pc] >= first:
                    seen.add(pc)
                    work += ways[pc]
            return seen

        bodies = {}
        for head, tails in backward.items():
            first = self._place[head]
            # A loop that is entered in its middle has what comes before that among what leads to its end.
            body = reach(list(tails), before, first, {head})
            bodies[head] = body & reach([head], self.successors, first, set())
        for body in list(bodies.values()):
            for pc in body - bodies.keys():
                if any(one not in body for one in before[pc]):
                    bodies[pc] = body
        return bodies

    def _live(self) -> dict[int, set[Cell]]:
        """For each block, the registers that the region reads before it writes them, from there on."""
        reads: dict[int, set[Cell]] = {}
        writes: dict[int, set[Cell]] = {}
        before: dict[int, list[int]] = {pc: [] for pc in self.blocks}
        for pc, block in self.blocks.items():
            need, put = reads[pc], writes[pc] = set(), set()
            for _, insn in block.insns:
                template = insn.template
                need |= {cell for one in template.reads if (cell := self.cell(insn, one)) and cell not in put}
                put |= {cell for one in template.writes if (cell := self.cell(insn, one))}
            for to in self.successors[pc]:
                before[to].append(pc)
        work = list(reversed(self.order))
        while work:
            pc = work.pop()
            for one in before[pc]:
                more = reads[pc] - writes[one] - reads[one]
                if more:
                    reads[one] |= more
                    work.append(one)
        return reads

    def _bases(self, body: set[int]) -> set[Cell]:
        """The registers that accesses in a loop have as base."""
        out: set[Cell] = set()
        for pc in body:
            for _, insn in self.blocks[pc].insns:
                template = insn.template
                for op in template.ops:
                    if op.code in ("load", "store") and op.guard is None:
                        found = self._base(insn, op.args[0])
                        if found is not None:
                            out.add(found[0])
        return out

    def _extended(self, body: set[int]) -> set[Cell]:
        """The registers whose low halves a loop copies with their signs, and those from which these are copied."""
        out: set[Cell] = set()
        copies: list[tuple[Cell, Cell]] = []
        for pc in body:
            for _, insn in self.blocks[pc].insns:
                ops = insn.template.ops
                for op in ops:
                    if op.code == "sext" and (source := self._whole(ops, op)) is not None:
                        found = self._base(insn, source)
                        if found is not None and not found[1]:
                            out.add(found[0])
                    elif op.code == "setreg" and (found := self._base(insn, op.args[0])) is not None:
                        to = self.cell(insn, op.attr)
                        if to is not None and not found[1]:
                            copies.append((to, found[0]))
        for _ in range(_ROUNDS):
            out |= {source for to, source in copies if to in out}
        return out

    def _renewed(self, head: int, body: set[int], cells: set[Cell]) -> set[Cell]:
        """Those of some registers to which each turn of a loop gives a number made anew. Were one that may stay as it is wider than 32 bits, control would not get
        into the loop in any turn; and what always stays LLVM extends once by itself."""
        if not cells:
            return cells
        written: dict[int, set[Cell]] = {pc: set() for pc in body}
        for pc in body:
            for _, insn in self.blocks[pc].insns:
                ops = insn.template.ops
                for op in ops:
                    if op.code == "setreg" and (cell := self.cell(insn, op.attr)) in cells:
                        value = ops[op.args[0]]
                        sources = [ops[arg] for arg in value.args] if value.code in _KEEPING else [value]
                        if not any(
                            one.code == "reg" and self.cell(insn, one.attr) == cell for one in sources
                        ):
                            written[pc].add(cell)
        behind = {pc: cells if pc != head else written[pc] for pc in body}
        work = [head]
        while work:
            pc = work.pop()
            for to in self.successors[pc]:
                if to in body and to != head:
                    # What other ways to it leave is in what it leaves by now.
                    less = behind[to] & (behind[pc] | written[to])
                    if less != behind[to]:
                        behind[to] = less
                        work.append(to)
        return cells.intersection(*(behind[pc] for pc in body if head in self.successors[pc]))

    @staticmethod
    def _whole(ops: Sequence[Op], op: Op) -> int | None:
        """The number of the op of 64 bits whose low half another one extends to 64 bits."""
        source = ops[op.args[0]]
        if op.width != 64 or source.code != "extract" or source.attr or source.width != 32:
            return None
        return source.args[0] if ops[source.args[0]].width == 64 else None

    def _base(self, insn: Decoded, number: int) -> tuple[Cell, int] | None:
        """(register, offset) if an op is a register plus an immediate."""
        ops = insn.template.ops
        op = ops[number]
        if op.code == "reg" and op.width == 64:
            cell = self.cell(insn, op.attr)
            return None if cell is None else (cell, 0)
        if op.code == "add" and op.width == 64:
            for one, other in (op.args, op.args[::-1]):
                base = self._base(insn, one)
                if base is not None and ops[other].code in ("const", "field"):
                    offset = (
                        ops[other].attr
                        if ops[other].code == "const"
                        else insn.fields[ops[other].attr] & mask(64)
                    )
                    return base[0], base[1] + (offset - (1 << 64) if offset >> 63 else offset)
        return None

    def cell(self, insn: Decoded, attr: tuple[str, int | str]) -> Cell | None:
        file, index = attr
        slot = insn.fields[index] if isinstance(index, str) else index
        return None if slot == self.isa.layout.files[file].zero else (file, slot)

    # -- flow ---------------------------------------------------------------------------------------------------

    def _solve(self) -> None:
        self.before = {pc: self._asked(pc, {}) for pc in self._roots}
        visits: dict[int, int] = {}
        work = sorted(self._roots, key=self._place.__getitem__, reverse=True)
        while work:
            pc = work.pop()
            block = self.blocks[pc]
            state = dict(self.before[pc])
            origins: dict[Cell, Cell] = {}
            for at, insn in block.insns:
                for cell in self._step(insn, at, state, origins):
                    self._far.add((pc, cell))
            for to in self.successors[pc]:
                new = self.across_call(state) if block.kind == "call" and to == block.follow else state
                if to in self.loops and pc not in self.loops[to]:
                    new = new | self._asked(to, new)
                old = self.before.get(to)
                if old is None:
                    merged = dict(new)
                else:
                    visits[to] = visits.get(to, 0) + 1
                    merged = {}
                    for cell, value in old.items():
                        other = new.get(cell)
                        if other is not None:
                            both = min(value[0], other[0]), max(value[1], other[1])
                            if both != value and visits[to] > _ROUNDS:
                                both = _wider(value, both)
                            if both != ANY:
                                merged[cell] = both
                if merged != old:
                    self.before[to] = merged
                    if to not in work:
                        work.append(to)
                        work.sort(key=self._place.__getitem__, reverse=True)

    def _asked(self, label: int, state: State) -> State:
        """What is known behind the looks at a label, besides ``state``."""
        far, wide = self.asked(label, state)
        return {**dict.fromkeys(far, ARENA), **dict.fromkeys(wide, SIGNED)}

    def asked(self, label: int, state: State) -> tuple[list[Cell], list[Cell]]:
        """Of which registers it must be looked whether they are in the arena, and whether they hold 32 bits, when control comes to a label
        from outside with ``state``."""
        return (
            sorted(cell for cell in self.looks.get(label, ()) if not is_near(state.get(cell, ANY))),
            sorted(cell for cell in self.narrow.get(label, ()) if not within(state.get(cell, ANY), SIGNED)),
        )

    def across_call(self, state: State) -> State:
        """What is known behind a call, after which the region goes on only if the registers ``kept`` are as they were."""
        return {cell: value for cell, value in state.items() if cell in self.kept}

    def step(self, insn: Decoded, pc: int, state: State) -> tuple[dict[int, bool], dict[int, int]]:
        """Bring ``state`` behind an instruction. For each load and store (by its op's number): whether it needs no look. And by op: the one
        whose value an extension gives."""
        near, same, _ = self._effects(insn, pc, state)
        self._step(insn, pc, state, {})
        return near, same

    def _step(self, insn: Decoded, pc: int, state: State, origins: dict[Cell, Cell]) -> list[Cell]:
        """Bring ``state`` behind an instruction: which registers would have to be in the arena for the other accesses to need no look.
        ``origins`` says of a register which other one it is not far from."""
        near, _, effects = self._effects(insn, pc, state)
        wanted: list[Cell] = []
        for cell, value, origin, number, offset in effects:
            if number >= 0:
                if not near[number] and cell in origins:
                    wanted.append(origins[cell])
                low, high = state.get(cell, ANY)
                state[cell] = max(low, -offset), min(high, ARENA[1] - offset)
                continue
            if value != ANY:
                state[cell] = value
            else:
                state.pop(cell, None)
            for other in [other for other, one in origins.items() if one == cell]:
                del origins[other]
            origins.pop(cell, None)
            if origin is not None and origin != cell:
                origins[cell] = origins.get(origin, origin)
        return wanted

    def _effects(self, insn: Decoded, pc: int, state: State) -> _Effects:
        """What an instruction does to the state, in its order: (register, its new value, the register it is not far from, -1, 0), and for
        an access whose address is a register plus an offset (register, _, _, the op's number, offset). PERF: remembered for the same
        instruction with the same operands, which comes again at each visit of its block."""
        known = self._memo.get(id(insn))
        if known is None:
            template = insn.template
            cells = (self.cell(insn, one) for one in template.reads)
            places = bool(template.codes & {"pc", "next_pc"})
            known = self._memo[id(insn)] = (tuple(cell for cell in cells if cell is not None), places, {})
        reads, places, found = known
        key = (pc if places else 0, *[state.get(cell) for cell in reads])
        result = found.get(key)
        if result is None:
            result = found[key] = self._find_effects(insn, pc, state)
        return result

    def _find_effects(self, insn: Decoded, pc: int, state: State) -> _Effects:
        values: list[Interval] = []
        near: dict[int, bool] = {}
        same: dict[int, int] = {}
        effects: list[tuple[Cell, Interval, Cell | None, int, int]] = []
        template = insn.template
        for number, op in enumerate(template.ops):
            code = op.code
            if code == "setreg":
                cell = self.cell(insn, op.attr)
                if cell is not None:
                    value = values[op.args[0]] if template.ops[op.args[0]].width == 64 else ANY
                    effects.append((cell, value, self._origin(insn, op.args[0], values), -1, 0))
                values.append(ANY)
                continue
            if code in ("load", "store") and op.guard is None:
                near[number] = is_near(values[op.args[0]])
                base = self._base(insn, op.args[0])
                if base is not None:
                    effects.append((base[0], ANY, None, number, base[1]))
            elif (
                code in ("sext", "zext")
                and (source := self._whole(template.ops, op)) is not None
                and within(values[source], SIGNED if code == "sext" else (0, mask(32)))
            ):
                same[number] = source
                values.append(values[source])
                continue
            values.append(self._value(op, insn, pc, values, state))
        return near, same, effects

    def _origin(self, insn: Decoded, number: int, values: list[Interval]) -> Cell | None:
        """The register that an op's value is the sum of with something small."""
        ops = insn.template.ops
        op = ops[number]
        if op.code != "add" or op.width != 64:
            return None
        for one, other in (op.args, op.args[::-1]):
            if (
                ops[one].code == "reg"
                and -LOW_GUARD // 4 <= values[other][0] <= values[other][1] <= LOW_GUARD // 4
            ):
                return self.cell(insn, ops[one].attr)
        return None

    def _value(self, op: Op, insn: Decoded, pc: int, values: list[Interval], state: State) -> Interval:
        code, width, attr, args = op.code, op.width, op.attr, op.args
        if not width or width > 64:
            return ANY
        a = [values[arg] for arg in args]
        ops = insn.template.ops
        top = ANY if width == 64 else (0, mask(width))
        match code:
            case "const" | "field":
                value = attr if code == "const" else insn.fields[attr] & mask(64)
                if width == 64 and value >> 63:
                    value -= 1 << 64
                return value, value
            case "pc":
                return pc, pc
            case "next_pc":
                return pc + insn.length, pc + insn.length
            case "reg":
                cell = self.cell(insn, attr)
                if cell is None:
                    return 0, 0
                return state.get(cell, ANY) if width == 64 else top
            case "add":
                return _fit(a[0][0] + a[1][0], a[0][1] + a[1][1], width)
            case "sub":
                return _fit(a[0][0] - a[1][1], a[0][1] - a[1][0], width)
            case "and":
                known = [value for value in a if value[0] >= 0]
                if known:
                    return 0, min(value[1] for value in known)
                bits = max(map(_bits, a))
                return (-(1 << bits), mask(bits)) if width == 64 else top
            case "or" | "xor":
                bits = max(map(_bits, a))
                if a[0][0] >= 0 and a[1][0] >= 0:
                    return 0, mask(bits)
                return (-(1 << bits), mask(bits)) if width == 64 else top
            case "shl" if a[1][0] == a[1][1]:
                by = a[1][0] % width
                return _fit(a[0][0] << by, a[0][1] << by, width)
            case "lshr" if a[1][0] == a[1][1]:
                by = a[1][0] % width
                if a[0][0] >= 0:
                    return a[0][0] >> by, a[0][1] >> by
                return (0, mask(64) >> by) if by else top
            case "ashr" if a[1][0] == a[1][1] and width == 64:
                return a[0][0] >> a[1][0] % 64, a[0][1] >> a[1][0] % 64
            case "extract":
                source = ops[args[0]].width
                if source <= 64 and not attr and a[0][0] >= 0 and a[0][1] <= mask(width):
                    return a[0]
                return top
            case "zext":
                return a[0]
            case "sext":
                source = ops[args[0]].width
                if a[0][1] < 1 << (source - 1):
                    return a[0]
                return _fit(-(1 << (source - 1)), (1 << (source - 1)) - 1, width)
            case "select":
                return min(a[1][0], a[2][0]), max(a[1][1], a[2][1])
            case "mul":
                if a[0][0] >= 0 and a[1][0] >= 0:
                    return _fit(a[0][0] * a[1][0], a[0][1] * a[1][1], width)
                return top
            case "popcount" | "clz" | "ctz":
                return 0, width
            case _:
                return top
