"""Regions: hot guest code as one LLVM function.

A region is what is reachable from a hot address without following calls, and only what has run: the way to a block
that has not leaves to the interpreter. It returns where to go on, how much fuel is left, and the pinned registers,
which stay in host registers across guest calls: a guest call is a host call, after which the returned pc is compared
with the expected one. Besides its entry, a region can be entered behind each call and each instruction that it leaves
to the interpreter.

Exactness: a block takes its instructions off the fuel when it begins; if the fuel does not suffice, or an instruction
is refused, the region leaves in front of it with all guest state written back and the fuel corrected, and the
interpreter does that instruction (FORCE).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from vm_core.memory import PAGE, Prot
from vm_core.spec.isa import Decoded, Isa
from vm_core.spec.ops import PURE, mask
from vm_core.spec.template import Op, Template
from vm_core.state import HEADER
from vm_jit.interpreter import entry_signature, region_type
from vm_jit.lowering import (
    DECLARATIONS,
    FORCE,
    HOST,
    LIKELY,
    METADATA,
    RECORD,
    STATE,
    TABLE,
    Emitter,
    supported,
)

__all__ = ["MAX_INSTRUCTIONS", "Block", "Region", "discover", "emit"]

MAX_INSTRUCTIONS: Final = 1200
_FUNCTION_BYTES: Final = 4096
Cell = tuple[str, int]


@dataclass(slots=True)
class Block:
    """Straight-line guest code. ``kind`` says how it ends: fall (into ``follow``), branch, jump, call, ret, indirect,
    leave (the instruction at ``end`` is the interpreter's)."""

    start: int
    insns: list[tuple[int, Decoded]] = field(default_factory=list)
    kind: str = "fall"
    target: int | None = None
    follow: int = 0
    end: int = 0


@dataclass(slots=True)
class Region:
    """``roots`` are the hot addresses that it was made for, ``entries`` all where it can be entered; ``exits`` are
    the places it leaves for that had not run; ``spans`` the guest bytes that it is made from."""

    roots: tuple[int, ...]
    blocks: dict[int, Block]
    entries: tuple[int, ...]
    exits: frozenset[int]
    spans: tuple[tuple[int, int], ...]

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
    limit: int = MAX_INSTRUCTIONS,
) -> Region | None:
    """The region at ``roots``. ``decode`` gives the instruction at an address that has run, else None."""
    code: dict[int, Decoded] = {}
    leaders = set(roots)
    entries = set(roots)
    work = list(roots)
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
            jumps = [op for op in template.ops if op.code == "setpc"]
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
            if target is not None and not _is_tail_call(jump, at, target):
                leaders.add(target)
                work.append(target)
            if jump.guard is None:
                break
            leaders.add(pc)
    if not code or roots[0] not in code:
        return None
    blocks: dict[int, Block] = {}
    for start in sorted(leaders):
        if start in code:
            blocks[start] = _block(isa, start, code, leaders)
    spans: list[tuple[int, int]] = []
    for pc in sorted(code):
        end = pc + code[pc].length
        if spans and spans[-1][1] >= pc:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((pc, end))
    kept = tuple(sorted(pc for pc in entries if pc in blocks))
    exits = {pc for block in blocks.values() for pc in (block.target, block.follow) if pc is not None}
    return Region(
        tuple(pc for pc in roots if pc in blocks),
        blocks,
        kept,
        frozenset(exits - blocks.keys()),
        tuple(spans),
    )


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


def _is_tail_call(jump: Op, pc: int, target: int) -> bool:
    """Whether a jump goes too far to stay in its function: it would drag in code that others call as well."""
    return jump.guard is None and abs(target - pc) > _FUNCTION_BYTES


def _kind(isa: Isa, insn: Decoded, jump: Op) -> str:
    hint = isa.flow(insn)
    if hint in ("call", "ret"):
        return hint
    return str(jump.attr)


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
        jumps = [op for op in insn.template.ops if op.code == "setpc"]
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


@dataclass(frozen=True, slots=True)
class Window:
    """Accesses of one block whose addresses differ by constants: they are checked together, at the first one.

    ``low`` and ``high`` bound the bytes accessed, relative to the first access's address; ``size`` is the largest
    access, ``need`` the permissions of all.
    """

    low: int
    high: int
    size: int
    need: int


_WINDOW_BYTES: Final = PAGE
_MAX_PAGES: Final = 24
"""Accesses of a region that remember their page; each costs a register or a place on the host's stack."""
Place = tuple[int, int]  # (number of the instruction in its block, number of the op in its template)


def _affine(isa: Isa, insn: Decoded, number: int) -> tuple[Cell, int] | None:
    """(register, offset) if the op is a register plus a constant."""
    op = insn.template.ops[number]
    if op.code == "reg" and op.width == 64:
        file, index = op.attr
        slot = insn.fields[index] if isinstance(index, str) else index
        return None if slot == isa.layout.files[file].zero else ((file, slot), 0)
    if op.code == "add" and op.width == 64:
        for one, other in (op.args, op.args[::-1]):
            base = _affine(isa, insn, one)
            offset = (
                static_value(insn.template, other, insn, 0)
                if insn.template.ops[other].code in ("const", "field")
                else None
            )
            if base is not None and offset is not None:
                return base[0], base[1] + (offset - (1 << 64) if offset >> 63 else offset)
    return None


def windows(isa: Isa, block: Block) -> tuple[dict[Place, Window], set[Place]]:
    """The block's windows by the place of their first access, and the places that need no check of their own."""
    roots: dict[Cell, tuple[object, int]] = {}
    open_: dict[object, list[tuple[Place, int, int, int]]] = {}
    closed: list[list[tuple[Place, int, int, int]]] = []
    for i, (_, insn) in enumerate(block.insns):
        template = insn.template
        for j, op in enumerate(template.ops):
            if op.code not in ("load", "store") or op.guard is not None:
                continue
            base = _affine(isa, insn, op.args[0])
            if base is None:
                continue
            root, delta = roots.setdefault(base[0], (base[0], 0))
            offset = base[1] + delta
            size = (op.width if op.code == "load" else template.ops[op.args[1]].width) // 8
            if offset % size or size > 8:
                continue
            found = open_.setdefault(root, [])
            low = min([offset, *(at for _, at, _, _ in found)])
            high = max([offset + size, *(at + n for _, at, n, _ in found)])
            if high - (low & -8) > _WINDOW_BYTES:
                closed.append(found)
                found = open_[root] = []
            found.append(((i, j), offset, size, Prot.READ if op.code == "load" else Prot.WRITE))
        changed: dict[Cell, tuple[object, int]] = {}
        for op in template.ops:
            if op.code == "setreg":
                file, index = op.attr
                slot = insn.fields[index] if isinstance(index, str) else index
                base = _affine(isa, insn, op.args[0])
                if base is None:
                    changed[file, slot] = ((i, file, slot), 0)
                else:
                    root, delta = roots.setdefault(base[0], (base[0], 0))
                    changed[file, slot] = (root, delta + base[1])
        roots.update(changed)
    heads: dict[Place, Window] = {}
    covered: set[Place] = set()
    for accesses in (*closed, *open_.values()):
        if len(accesses) < 2:
            continue
        size = max(n for _, _, n, _ in accesses)
        first, origin, _, _ = accesses[0]
        low = min(at for _, at, _, _ in accesses) & -size
        high = max(at + n for _, at, n, _ in accesses)
        need = 0
        for place, _, _, access in accesses:
            need |= access
            covered.add(place)
        covered.discard(first)
        heads[first] = Window(low - origin, high - origin, size, int(need))
    return heads, covered


_LINEAR: Final = frozenset(
    {"const", "field", "reg", "add", "sub", "zext", "sext", "extract", "pc", "next_pc"}
)


def _is_linear(insn: Decoded, number: int, steady: Container[Cell]) -> bool:
    """Whether an op's value is sums, differences and constant shifts of steady registers: it moves slowly in a loop."""
    template = insn.template
    op = template.ops[number]
    if op.code == "reg":
        file, index = op.attr
        return (file, insn.fields[index] if isinstance(index, str) else index) in steady
    if op.code == "shl":
        return template.ops[op.args[1]].code in ("const", "field") and _is_linear(insn, op.args[0], steady)
    return op.code in _LINEAR and all(_is_linear(insn, arg, steady) for arg in op.args)


def innermost_loops(blocks: dict[int, Block], successors: Callable[[Block], list[int]]) -> list[set[int]]:
    """The loops that have no loop inside, each as the set of its blocks. Loops that share blocks are left out."""
    before: dict[int, list[int]] = {pc: [] for pc in blocks}
    backward = []
    for block in blocks.values():
        for pc in successors(block):
            before[pc].append(block.start)
            if pc <= block.start:
                backward.append((block.start, pc))
    bodies = []
    for tail, head in backward:
        body, work = {head}, [tail]
        while work:
            pc = work.pop()
            if pc not in body:
                body.add(pc)
                work += before[pc]
        bodies.append(body)
    return [
        body
        for body in bodies
        if not any(other is not body and other & body for other in bodies if len(other) <= len(body))
    ]


def steady_cells(isa: Isa, body: Iterable[Block]) -> set[Cell] | None:
    """The registers that change by little from one turn of a loop to the next; None for a loop that calls."""
    writes: list[tuple[Cell, Decoded, int]] = []
    read: set[Cell] = set()
    for block in body:
        if block.kind == "call":
            return None
        for _, insn in block.insns:
            for op in insn.template.ops:
                if op.code in ("reg", "setreg"):
                    file, index = op.attr
                    cell = file, insn.fields[index] if isinstance(index, str) else index
                    if op.code == "setreg":
                        writes.append((cell, insn, op.args[0]))
                    else:
                        read.add(cell)
    steady = read | {cell for cell, _, _ in writes}
    changed = True
    while changed:
        wild = {
            cell for cell, insn, number in writes if cell in steady and not _is_linear(insn, number, steady)
        }
        steady -= wild
        changed = bool(wild)
    return steady


class _Emit(Emitter):
    """Emits one region."""

    def __init__(self, isa: Isa, region: Region) -> None:
        super().__init__()
        self.isa, self.region = isa, region
        self.type, self.pins = region_type(isa)
        self.pinned = set(self.pins)
        self.insn: Decoded
        self.at = 0
        self.left = 0
        self.used: dict[Cell, None] = dict.fromkeys(self.pins)
        self.exits: dict[
            frozenset[Cell], list[tuple[str, str]]
        ] = {}  # dirty cells -> (predecessor, pc value)
        self.clean: frozenset[Cell] = frozenset()
        self.heads: dict[Place, Window] = {}
        self.covered: set[Place] = set()
        self.steady: set[Cell] | None = None
        self.pages = 0
        self.loop_of: dict[int, set[Cell]] = {}
        self.index = 0
        self.cold: list[str] = []
        self._refuse: str | None = None
        self.block: Block
        self.done = False
        self.rounding_checked = True
        self._cells()

    # -- registers ----------------------------------------------------------------------------------------------

    def _cells(self) -> None:
        self.written: dict[Cell, None] = {}
        for block in self.region.blocks.values():
            for _, insn in block.insns:
                for file, index in insn.template.reads:
                    if (cell := self._cell(insn, file, index)) is not None:
                        self.used[cell] = None
                for file, index in insn.template.writes:
                    if (cell := self._cell(insn, file, index)) is not None:
                        self.used[cell] = self.written[cell] = None
        self.free = [cell for cell in self.used if cell not in self.pinned]
        self.dirty = self._dirty()

    def _cell(self, insn: Decoded, file: str, index: int | str) -> Cell | None:
        slot = insn.fields[index] if isinstance(index, str) else index
        return None if slot == self.isa.layout.files[file].zero else (file, slot)

    def _successors(self, block: Block) -> list[int]:
        if block.kind == "indirect":
            return (
                [pc for pc in self.region.roots if pc in self.region.blocks]
                if len(self.region.roots) > 1
                else []
            )
        out = [] if block.kind in ("jump", "ret", "leave") else [block.follow]
        if block.target is not None and block.kind in ("jump", "branch"):
            out.append(block.target)
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
            if block.kind == "call":
                now = set()
            for pc in self._successors(block):
                if not now <= out[pc]:
                    out[pc] |= now
                    work.append(pc)
        return out

    def _writes(self, insn: Decoded) -> set[Cell]:
        cells = (self._cell(insn, file, index) for file, index in insn.template.writes)
        return {cell for cell in cells if cell is not None and cell not in self.pinned}

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

    def reload(self) -> None:
        for cell in self.free:
            width = self.width(cell)
            stored = 128 if width > 64 else 64
            value = self.v(
                f"load i{stored}, ptr {self.field_in_state(self.isa.layout.offset(*cell))}, align 8, {STATE}"
            )
            if width != stored:
                value = self.v(f"trunc i{stored} {value} to i{width}")
            self.emit(f"store i{width} {value}, ptr {self.name(cell)}")

    # -- memory -------------------------------------------------------------------------------------------------

    def check(self, address: str, size: int, need: int, *, aligned: bool = False) -> None:
        place = (self.index, self.number)
        window = self.heads.get(place)
        if window is not None:
            self.check_window(address, window)
        elif place not in self.covered:
            if self.remembers() and not aligned:
                self.check_window(address, Window(0, size, size, need))
            else:
                super().check(address, size, need, aligned=aligned)

    def remembers(self) -> bool:
        """Whether the access is in an inner loop, at an address that stays in a page for many turns."""
        op = self.template.ops[self.number]
        return (
            self.steady is not None
            and self.pages < _MAX_PAGES
            and _is_linear(self.insn, op.args[0], self.steady)
        )

    def check_window(self, address: str, window: Window) -> None:
        """One check for all accesses of a window: the pages of its first and last byte (it is at most a page long).

        Where the address moves slowly, the page that was checked last is remembered, and being in it is enough.
        """
        shift = window.size.bit_length() - 1
        slow, done = self.refuse(), self.label()
        first = address if not window.low else self.v(f"add i64 {address}, {window.low}")
        turned = self.v(f"call i64 @llvm.fshr.i64(i64 {first}, i64 {first}, i64 {shift})") if shift else first
        page = self.v(f"lshr i64 {turned}, {12 - shift}")
        one_access = window.high - window.low == window.size
        last = first if one_access else self.v(f"add i64 {first}, {window.high - window.low - 1}")
        last_page = page if one_access else self.v(f"lshr i64 {last}, 12")
        remember = ""
        if self.remembers():
            # A misaligned address has high bits set after the rotation, so it is in no page.
            remember = f"%page{self.pages}"
            self.pages += 1
            known, look = self.v(f"load i64, ptr {remember}"), self.label()
            hit = self.v(f"icmp eq i64 {page}, {known}")
            if not one_access:
                hit = self.v(f"and i1 {hit}, {self.v(f'icmp eq i64 {last_page}, {known}')}")
            self.emit(f"br i1 {hit}, label %{done}, label %{look}, {LIKELY}")
            self.place(look)
        inside = self.label()
        ok = self.v(f"icmp ult i64 {turned}, {1 << (self.bits - shift)}")
        self.emit(f"br i1 {ok}, label %{inside}, label %{slow}, {LIKELY}")
        self.place(inside)
        # The table has a zero byte behind its last page's, for a window that runs over the arena's end.
        byte = ""
        for number in (page,) if one_access else (page, last_page):
            one = self.v(f"load i8, ptr {self.table_entry(number)}, {TABLE}")
            byte = self.v(f"and i8 {byte}, {one}") if byte else one
        allowed = self.v(f"icmp eq i8 {self.v(f'and i8 {byte}, {window.need}')}, {window.need}")
        if remember:
            fine = self.label()
            self.emit(f"br i1 {allowed}, label %{fine}, label %{slow}, {LIKELY}")
            self.place(fine)
            self.emit(f"store i64 {page}, ptr {remember}")
            self.emit(f"br label %{done}")
        else:
            self.emit(f"br i1 {allowed}, label %{done}, label %{slow}, {LIKELY}")
        self.place(done)

    def op_fp_set_rounding(self, op: Op, value: str) -> None:
        """Never happens: :func:`_belongs`."""

    def _canonical(self, value: str, width: int) -> str:
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

    def refuse(self) -> str:
        if self._refuse is None:
            label = self._refuse = self.label()
            self.cold += [f"{label}:"]
            if self.left:
                self.cold += [
                    f"  %{label}f = load i64, ptr %left",
                    f"  %{label}g = add i64 %{label}f, {self.left}",
                    f"  store i64 %{label}g, ptr %left",
                ]
            self.cold += [f"  br label %{self.way_out(label, str(self.at - FORCE))}"]
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
        return f"B{target:x}" if target in self.region.blocks else self.leave_to(str(target))

    def pack(self, pc: str, fuel: str) -> str:
        last = self.v(f"insertvalue {self.type} undef, i64 {pc}, 0")
        last = self.v(f"insertvalue {self.type} {last}, i64 {fuel}, 1")
        for i, cell in enumerate(self.pins):
            value = self.v(f"load i64, ptr {self.name(cell)}")
            last = self.v(f"insertvalue {self.type} {last}, i64 {value}, {2 + i}")
        return last

    def arguments(self, pc: str) -> str:
        fuel = self.v("load i64, ptr %left")
        pins = [self.v(f"load i64, ptr {self.name(cell)}") for cell in self.pins]
        return ", ".join(["ptr %st", f"i64 {pc}", f"i64 {fuel}", *(f"i64 {pin}" for pin in pins)])

    # -- control ------------------------------------------------------------------------------------------------

    def go(self, kind: str, target: str, guard: str | None, op: Op) -> None:
        block = self.block
        self.done = True
        if block.kind == "branch":
            assert guard is not None
            if block.target is None:
                out = self.label()
                self.emit(f"br i1 {guard}, label %{out}, label %{self.where(block.follow)}")
                self.place(out)
                self.indirect(target)
                return
            self.emit(f"br i1 {guard}, label %{self.where(block.target)}, label %{self.where(block.follow)}")
        elif block.kind == "jump":
            assert block.target is not None
            if block.target in self.region.blocks:
                self.emit(f"br label %{self.where(block.target)}")
            else:
                self.indirect(target)
        elif block.kind == "call":
            self.call(target)
        elif block.kind == "ret":
            self.exit_to(target)
        else:
            self.indirect(target)

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
            ok = self.v(f"icmp ult i64 {target}, {1 << self.bits}")
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

    def indirect(self, target: str) -> None:
        """Go to the region at an address known only now."""
        self.flush(self.now_dirty)
        self.leaving = self.clean
        function = self.find(target, self.leave_to(target))
        result = self.v(
            f"musttail call {HOST.region_convention} {self.type} {function}({self.arguments(target)})"
        )
        self.emit(f"ret {self.type} {result}")

    def call(self, target: str) -> None:
        expected = self.block.follow
        self.flush(self.now_dirty)
        self.leaving = self.clean
        if self.block.target in self.region.roots:
            function = "@region"
        else:
            function = self.find(target, self.leave_to(target))
        result = self.v(f"call {HOST.region_convention} {self.type} {function}({self.arguments(target)})")
        came, astray = self.label(), self.label()
        returned = self.v(f"extractvalue {self.type} {result}, 0")
        self.emit(
            f"br i1 {self.v(f'icmp eq i64 {returned}, {expected}')}, label %{came}, label %{astray}, {LIKELY}"
        )
        self.cold += [f"{astray}:", f"  ret {self.type} {result}"]
        self.place(came)
        self.emit(f"store i64 {self.v(f'extractvalue {self.type} {result}, 1')}, ptr %left")
        for i, cell in enumerate(self.pins):
            self.emit(
                f"store i64 {self.v(f'extractvalue {self.type} {result}, {2 + i}')}, ptr {self.name(cell)}"
            )
        if expected in self.region.blocks:
            self.reload()
            self.emit(f"br label %B{expected:x}")
        else:
            self.emit(f"br label %{self.leave_to(str(expected))}")

    # -- blocks -------------------------------------------------------------------------------------------------

    def emit_block(self, block: Block, backward: bool) -> None:
        self.block, self.done = block, False
        self.place(f"B{block.start:x}")
        if backward:
            self.emit('fence syncscope("singlethread") seq_cst')
        count = len(block.insns)
        self.now_dirty = set(self.dirty[block.start])
        # Each block leaves by one way, which writes back all that it may have changed: fewer, larger exits.
        self.leaving = frozenset(self.now_dirty.union(*(self._writes(insn) for _, insn in block.insns)))
        self.at, self._refuse, self.left = block.start, None, count
        if count:
            fuel = self.v(f"sub i64 {self.v('load i64, ptr %left')}, {count}")
            self.emit(f"store i64 {fuel}, ptr %left")
            go = self.label()
            self.emit(
                f"br i1 {self.v(f'icmp slt i64 {fuel}, 0')}, label %{self.refuse()}, label %{go}, !prof !10"
            )
            self.place(go)
        self.heads, self.covered = windows(self.isa, block)
        self.steady = self.loop_of.get(block.start)
        for i, (pc, insn) in enumerate(block.insns):
            self.insn, self.at, self.left, self._refuse, self.index = insn, pc, count - i, None, i
            self.now_dirty |= self._writes(insn)
            self.lower(insn.template)
        if self.done:
            return
        if block.kind == "leave" or block.follow not in self.region.blocks:
            # What follows has not run, or is the interpreter's.
            self.emit(f"br label %{self.leave_to(str(block.follow - FORCE))}")
        else:
            self.emit(f"br label %B{block.follow:x}")

    def text(self) -> str:
        region = self.region
        order = sorted(region.blocks)
        backward: set[int] = set()
        for block in region.blocks.values():
            backward.update(pc for pc in self._successors(block) if pc <= block.start)
        self.loop_of = {}
        for loop in innermost_loops(region.blocks, self._successors):
            steady = steady_cells(self.isa, [region.blocks[pc] for pc in loop])
            if steady is not None:
                self.loop_of |= dict.fromkeys(loop, steady)
        for pc in order:
            self.emit_block(region.blocks[pc], pc in backward)
        body, self.lines = self.lines, []
        # entry
        self.emit("%left = alloca i64")
        for cell in self.used:
            self.emit(f"{self.name(cell)} = alloca i{self.width(cell)}")
        self.emit("store i64 %fuel, ptr %left")
        for i in range(self.pages):
            self.emit(f"%page{i} = alloca i64")
            self.emit(f"store i64 -1, ptr %page{i}")
        for i, cell in enumerate(self.pins):
            self.emit(f"store i64 %p{i}, ptr {self.name(cell)}")
        self.lines += [
            f"  %{name} = load ptr, ptr {self.field_in_state(HEADER[name])}, {STATE}"
            for name in ("arena", "regions")
        ]
        self.reload()
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
        if len(region.entries) > 1:
            cases = " ".join(f"i64 {pc}, label %B{pc:x}" for pc in region.entries if pc != region.roots[0])
            self.emit(f"switch i64 %pc, label %B{region.roots[0]:x} [ {cases} ]")
        else:
            self.emit(f"br label %B{region.roots[0]:x}")
        head, self.lines = self.lines, []
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
                *self.cold,
                *tail,
                "}",
                'attributes #0 = { nounwind strictfp "no-trapping-math"="false" }',
                "attributes #1 = { strictfp }",
                METADATA,
            ]
        )


def emit(isa: Isa, region: Region) -> str:
    """The LLVM module of a region; its function is called ``region``."""
    return _Emit(isa, region).text()
