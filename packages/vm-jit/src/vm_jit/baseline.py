"""The baseline tier: code for what is warm, made by copying stencils, some microseconds after it was asked for.

A unit's entries are records whose handler field is the address of its code: it has the convention of handlers, so the
interpreter, units and regions go from one to the other by the same jump. This module says when a unit is made and when
it goes; :mod:`vm_jit.stencils` and :mod:`vm_jit.copying` make the native parts, once for all runs.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
import time
from collections.abc import Callable

from vm_core.errors import CacheError, VmError
from vm_core.hints import TYPE_CHECKING, Any, Final
from vm_core.log import Log
from vm_core.memory import TABLE_BYTES
from vm_core.record import record
from vm_core.spec.isa import Isa
from vm_jit.cache import Cache, warn
from vm_jit.code_memory import CodeBlock, CodeMemory, link
from vm_jit.compiler import Compiler
from vm_jit.kept import (
    MOVE_BYTES,
    NO_RECORD,
    Group,
    digest_of,
    handlers_digest,
    pack_groups,
    unpack_groups,
    window,
)
from vm_jit.prebuilt import Code, find, load, pack_numbers, unpack_numbers
from vm_jit.records import LINKED, SHARED

if TYPE_CHECKING:
    from vm_jit.engine import CodeImage, Interpreter

__all__ = ["Baseline", "Kit"]

log = Log("vm.jit")

_UNIT_BYTES: Final = 256 << 10
"""The largest unit; what it does not need is given back at once."""
_SHARED_BYTES: Final = 4 << 10
_EARLY: Final = 64
"""So many reports come to nothing: a program that ends soon has fewer, and needs neither what is kept nor more."""
_FEW, _PART = 16, 8
"""Up to so many units, or one for so many that the cache has, are not worth writing them all."""
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_PARTS: Final = ("descriptors", "holes", "patches", "code", "tables")
_kits: dict[str, Kit] = {}
_kit_lock = threading.Lock()


class Kit:
    """The stencils of one ISA and the compiler that copies them, in this process.

    ``numbers`` has the number of each instruction's stencil. ``work`` is the compiler's memory, used under ``lock``.
    """

    def __init__(self, made: Code, code: CodeMemory) -> None:
        self.numbers, self.fields = (unpack_numbers(made.sections[name]) for name in ("numbers", "fields"))
        (self.entry_bytes, work_bytes, self.most_moves) = unpack_numbers(made.sections["sizes"]).values()
        self.lock = threading.Lock()
        # SAFETY: the compiler's function in code memory, which is never freed; its arguments are checked by the caller.
        self.compile: Callable[[int, int, int, int, int], int] = ctypes.CFUNCTYPE(
            ctypes.c_uint64, *[ctypes.c_uint64] * 5
        )(made.symbols["baseline"])
        self.share: Callable[[int, int, int, int], int] = ctypes.CFUNCTYPE(
            ctypes.c_uint64, *[ctypes.c_uint64] * 4
        )(made.symbols["shared"])
        self.relocate: Callable[[int, int, int, int, int, int, int, int], int] = ctypes.CFUNCTYPE(
            ctypes.c_uint64, *[ctypes.c_uint64] * 8
        )(made.symbols["relocate"])
        parts = {name: bytes(made.sections[name]) for name in _PARTS}
        # The compiler copies 32 bytes at a time.
        self._kept = [ctypes.create_string_buffer(parts[name], len(parts[name]) + 64) for name in _PARTS[:4]]
        self.addresses = [ctypes.addressof(one) for one in self._kept]
        tables = code.allocate(max(len(parts["tables"]), 1))
        # SAFETY: the block is ours and as long as what is copied; nothing refers to it yet.
        ctypes.memmove(tables.write, parts["tables"], len(parts["tables"]))
        self.tables = tables.execute
        # PERF: zero pages, which are never there.
        self._nothing = (ctypes.c_ubyte * TABLE_BYTES).from_buffer(mmap.mmap(-1, TABLE_BYTES))
        self.nothing = ctypes.addressof(self._nothing)
        """A permission table for code that no guest can write."""
        # PERF: most of its pages are never touched. Private, as a fork copies it.
        words = work_bytes // 8 + 8
        own = mmap.mmap(-1, 8 * words, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._work = (ctypes.c_uint64 * words).from_buffer(own)
        self.work = ctypes.addressof(self._work)
        self.words = memoryview(self._work).cast("B").cast("Q")
        self.index: tuple[Interpreter, ctypes.Array[ctypes.c_uint64]] | None = None
        """For the records of which interpreter, and the table by which its stencils are found."""

    def set(self, name: str, value: int) -> None:
        """Write a word of the compiler's memory."""
        self.words[self.fields[name] >> 3] = value

    def get(self, name: str) -> int:
        return int(self.words[self.fields[name] >> 3])

    def places(self) -> tuple[list[int], list[int]]:
        """Where the blocks of the unit that was made last begin in its code, and their guest addresses."""
        # What the blocks have in common got its label behind theirs.
        count = self.get("refusal")
        halves = self.words.cast("B").cast("I")
        first, second = (self.fields[name] >> 2 for name in ("label", "origin"))
        pairs = sorted(zip(halves[first : first + count], halves[second : second + count], strict=True))
        return [at for at, _ in pairs], [pc for _, pc in pairs]


def build(isa: Isa, cpu: str) -> dict[str, bytes]:
    """What a Kit is made of, as sections of a file: LLVM makes the stencils and the compiler (half a second, once)."""
    from concurrent.futures import ThreadPoolExecutor

    from vm_jit import copying, stencils

    compilers = [Compiler(cpu), Compiler(cpu)]
    with ThreadPoolExecutor(len(compilers)) as pool:

        def compile_all(modules: list[str]) -> list[bytes]:
            return list(pool.map(Compiler.compile, compilers, modules))

        try:
            made, tables, numbers = stencils.build(isa, compile_all)
            native = compilers[0].compile(copying.baseline_module(isa), passes="region")
        finally:
            for compiler in compilers:
                compiler.close()
    escape, returns = len(made), stencils.Flag.RETURN
    made.append(stencils.Stencil(b"", (), stencils.Flag.ESCAPE))
    numbers[""] = escape
    for name, number in list(numbers.items()):
        one = made[number]
        if one.flags & stencils.Flag.INDIRECT:
            numbers[name + "r"] = len(made)
            made.append(
                stencils.Stencil(
                    one.code, one.holes, one.flags | returns, one.a, one.b, one.result, one.target, one.sizes
                )  # it has no forms
            )
    code, holes, patches, descriptors = bytearray(), bytearray(), bytearray(), bytearray()
    for one in made:
        descriptors += struct.pack(
            copying.DESCRIPTOR, len(code), len(holes) // 8, len(one.code), len(one.holes), one.flags, one.a, one.b,
            one.result, one.target, *one.sizes, one.extra, *one.forms, len(patches) // 4, len(one.patches[0]),
            len(one.patches[1]), one.refused, one.zero, one.near,
        )  # fmt: skip
        code += one.code
        for hole in one.holes:
            source = stencils.SOURCES[hole.source]
            if source in ("record", "handler", "tables"):
                # What copying.py: note can say of it.
                assert (hole.kind, source != "tables" and hole.addend) == (
                    2 if source == "tables" else 1,
                    0,
                ), hole
            holes += struct.pack(copying.HOLE, hole.offset, hole.kind, hole.source, hole.addend)
        for patch in (*one.patches[0], *one.patches[1]):
            patches += struct.pack(copying.PATCH, patch.offset, *patch.masks)
    return {
        "image0": link(native).pack(),
        "numbers": pack_numbers(numbers),
        "fields": pack_numbers(copying.FIELDS),
        "sizes": pack_numbers(
            {"entry": copying.ENTRY_BYTES, "work": copying.WORK_BYTES, "moves": copying.MAX_MOVES}
        ),
        "descriptors": bytes(descriptors),
        "holes": bytes(holes),
        "patches": bytes(patches),
        "code": bytes(code),
        "tables": bytes(tables),
    }


def kit_for(isa: Isa, cache: Cache | None, code: CodeMemory, *, build: bool) -> Kit | None:
    """The kit of an ISA: of this process, else from the wheel or the cache, else, if ``build`` says so, built now. Raises
    VmError."""
    with _kit_lock:
        kit = _kits.get(isa.name)
        if kit is None:
            made = load("baseline", isa, cache, code) if build else find("baseline", isa, cache, code)
            if made is not None:
                kit = _kits[isa.name] = Kit(made, code)
        return kit


def _index(kit: Kit, interpreter: Interpreter) -> ctypes.Array[ctypes.c_uint64]:
    """The hash table that the compiler finds the stencil of a record's handler in."""
    known = {interpreter.address["h_emulate"]: kit.numbers[""]}
    for name, symbol in interpreter.handlers.items():
        base, _, length = name.rpartition("/")
        number = kit.numbers.get(base)
        if number is None:
            number = kit.numbers[""]
        elif length.endswith("r"):
            number = kit.numbers.get(base + "r", number)
        known[interpreter.address[symbol]] = number
    assert not any(address & LINKED for address in known)
    size = 1024
    while size < 3 * len(known):
        size *= 2
    table = (ctypes.c_uint64 * (2 * size))()
    for address, number in known.items():
        at = (address >> 4) % size
        while table[2 * at]:
            at = (at + 1) % size
        table[2 * at], table[2 * at + 1] = address, number
    return table


def _pages(start: int, end: int) -> range:
    """The numbers of the pages that [start, end) lies on."""
    return range(start >> 12, (end - 1 >> 12) + 1)


@record(eq=False)
class _Unit:
    """A unit in use, or several from the cache: made from the guest bytes in [start, end); ``entries`` are (record, code, the record's own
    handler, guest address). ``parts`` and ``moves`` are those of a :class:`vm_jit.kept.Group`; None if it cannot be kept."""

    start: int
    end: int
    entries: tuple[tuple[int, int, int, int], ...]
    block: CodeBlock
    parts: tuple[tuple[int, int, int], ...] = ()
    moves: bytes | memoryview | None = None

    @property
    def pages(self) -> range:
        """The numbers of the guest pages that it is made from."""
        return _pages(self.start, self.end)

    def records(self, image: CodeImage) -> list[int]:
        return [image.record_at(at) for at, *_ in self.entries]


class Baseline:
    """The baseline tier of one code image, its ``engine``. ``heat`` says that loops count, for the optimising tier; ``synchronous`` waits
    for LLVM on the first run on a machine. ``kit_code`` is where the stencils go."""

    def __init__(
        self, engine: CodeImage, code: CodeMemory, kit_code: CodeMemory, *, heat: bool, synchronous: bool
    ) -> None:
        self.engine, self.code, self.heat, self.synchronous = engine, code, heat, synchronous
        self._kit_code = kit_code
        self.originals: dict[int, int] = {}
        """The record's own handler, by the address of the code that stands for it."""
        self._at: dict[int, int] = {}  # record -> code that stands for it
        self._units: dict[_Unit, None] = {}
        self._on: dict[int, dict[_Unit, None]] = {}  # guest page -> units made from bytes of it
        self._index: Any = None
        self._head = memoryview(b"").cast("Q")
        """The first words of the compiler's memory, which are the same for every unit."""
        self._kit: Kit | None = None
        self._loading: threading.Thread | None = None
        self._failed = False
        self._shared: dict[Any, tuple[CodeBlock, dict[str, int]]] = {}
        """By chunk of code memory: the code that its units have in common, and where in the chunk its parts begin."""
        self._groups: dict[int, Group] = {}
        """What the cache has, by window."""
        self._waiting: dict[int, list[Group]] = {}
        """Of that, what is not in use yet, by the guest pages that it was made from."""
        self._unread = True
        self._early = _EARLY
        self._kept = self._fresh = 0
        """How many units the cache's file holds, and how many this run has made."""
        self.instructions = 0
        self.seconds = 0.0

    @staticmethod
    def supports(isa: Isa) -> bool:
        """Whether the ISA says which registers are worth a host register, which the stencils start from."""
        return bool(isa.pinned)

    # -- the kit ------------------------------------------------------------------------------------------------

    def prepare(self, *, wait: bool) -> None:
        """Get the kit, if need be in the background (the first run on a machine)."""
        if self._loading is not None or self._failed:
            return
        if not self._load(build=wait) and not wait:
            self._loading = threading.Thread(
                target=self._load, kwargs={"build": True}, name="vm-baseline", daemon=True
            )
            self._loading.start()

    def settle(self) -> None:
        """Wait for what another thread does here, before a fork leaves it undone in the child."""
        if self._loading is not None:
            self._loading.join()

    def _load(self, *, build: bool) -> bool:
        """Whether there is a kit now, or never will be."""
        try:
            kit = kit_for(self.engine.isa, self.engine.cache, self._kit_code, build=build)
        except VmError as error:
            self._failed = True
            log.warning("there is no baseline tier: %s", error)
            return True
        if kit is None:
            return False
        self._fill_index(kit)
        self._kit = kit
        return True

    def _fill_index(self, kit: Kit) -> None:
        """What the kit's compiler starts from."""
        interpreter = self.engine.interpreter
        if kit.index is None or kit.index[0] is not interpreter:
            # PERF: a process that executes a program has it already.
            kit.index = interpreter, _index(kit, interpreter)
        table = self._index = kit.index[1]
        size = len(table) // 2
        layout = self.engine.isa.layout
        file = self.engine.isa.pinned[0][0]
        info = layout.files[file]
        assert info.zero is not None
        words = {
            "pages": self.engine.pages_address,
            "index": ctypes.addressof(table),
            "index_mask": size - 1,
            **dict(zip(_PARTS[:4], kit.addresses, strict=True)),
            "tables": kit.tables,
            "main": layout.offset(file, 0),
            "main_end": layout.offset(file, info.count),
            "zero": layout.offset(file, info.zero),
            "sink": layout.offset(file, info.write_slot(info.zero)),
            "heat": int(self.heat),
            "table": kit.nothing,
        }
        assert [kit.fields[name] for name in words] == list(range(0, 8 * len(words), 8))
        self._head = memoryview(struct.pack(f"<{len(words)}Q", *words.values())).cast("Q")

    # -- units --------------------------------------------------------------------------------------------------

    def request(self, pc: int) -> bool:
        """The guest address ``pc`` is warm: make its unit, or ask for another report. False if it has one, or cannot have one now."""
        engine = self.engine
        if self._unread and self._early > 0 and engine.program is not None and not self.synchronous:
            self._early -= 1
            engine.cool(pc)
            return True
        if self._kit is None:
            self.prepare(wait=self.synchronous)
            if self._kit is None:
                return False
        begin = time.thread_time()
        with engine.lock:
            at = engine.record(pc)
            if at is None or engine.entry(pc) in self.originals:
                return False
            made = self._restore(pc) or self._make(pc, self._kit)
            self.seconds += time.thread_time() - begin
            extra = engine.stats.extra
            extra["baseline_units"] = len(self._units)
            extra["baseline_instructions"], extra["baseline_cpu_seconds"] = self.instructions, self.seconds
            return made

    def _make(self, pc: int, kit: Kit) -> bool:
        engine = self.engine
        block = self.code.allocate(_UNIT_BYTES)
        block.faulting = True
        with kit.lock:
            # PERF: in one piece; the compiler is asked for many small units.
            kit.words[: len(self._head)] = self._head
            if engine.owner is not None:
                kit.set("table", engine.owner.table_address)
            shared = self._shared_in(block, kit)
            for name, place in shared.items():
                kit.set(name, place - block.at & _MASK)
            kit.set("faults", block.chunk.fault_table)
            kit.set("start", block.at)
            size = 0
            if shared:
                # SAFETY: the block is ours; the tables named above live as long as the engine, whose lock is held.
                size = kit.compile(kit.work, pc, block.write, block.execute, block.size)
            if not size:
                self.code.free(block)
                return False
            first = kit.fields["entry"] >> 3
            words = kit.words[first : first + kit.get("entries") * (kit.entry_bytes >> 3)].tolist()
            start, end, count = kit.get("low"), kit.get("high"), kit.get("count")
            moves: bytes | None = None
            if (
                engine.program is not None
                and (noted := kit.get("moves")) <= kit.most_moves
                and not any(map(engine.writes, _pages(start, end)))
            ):
                first = kit.fields["move"]
                moves = bytes(kit.words.cast("B")[first : first + noted * MOVE_BYTES])
            self.code.tell(block, "baseline", kit.places)
        self.code.shrink(block, size)
        self._fresh += 1
        entries = tuple(zip(*(words[i::4] for i in range(4)), strict=True))
        for at, address, original, _ in entries:
            self.originals[address] = original
            self._at[at] = address
        parts = () if moves is None else ((0, len(moves) // MOVE_BYTES, self._seen_from),)
        self._use(_Unit(start, end, entries, block, parts, moves))
        self.instructions += count
        return True

    def _use(self, one: _Unit) -> None:
        """Know what is in use now."""
        self._units[one] = None
        for number in one.pages:
            self._on.setdefault(number, {})[one] = None
        self.engine.made(one, self._drop)

    # -- the cache ------------------------------------------------------------------------------------------------

    @property
    def _seen_from(self) -> int:
        """The address that those of handlers are relative to in the cache."""
        return self.engine.interpreter.address["h_miss"]

    def _file(self) -> str:
        """The name of the file in the cache."""
        assert self.engine.program is not None
        return f"units-{int(self.heat)}-{self.engine.program.name}"

    def _read(self) -> None:
        """Learn what earlier runs made. PERF: not before something of this run is warm, which a program that ends at once never has."""
        engine, self._unread = self.engine, False
        if (
            engine.program is None
            or engine.cache is None
            or self.code.listener is not None
            or engine.breakpoints
        ):
            return  # a listener wants to know what each unit was made of
        try:
            sections = engine.cache.read(self._file())
            if sections is None or bytes(sections["handlers"]) != self._handlers():
                return
            for group in unpack_groups(sections["groups"]):
                self._groups[window(group.start)] = group
                self._kept += len(group.parts)
                for number in group.pages:
                    self._waiting.setdefault(number, []).append(group)
        except (CacheError, KeyError, ValueError, struct.error) as error:
            warn("what is cached of the baseline tier is not used", error)

    def _handlers(self) -> bytes:
        return handlers_digest(self.engine.interpreter.address, self._seen_from)

    def _restore(self, pc: int) -> bool:
        """A place is warm: put in use what earlier runs made of its page. Whether it has code now."""
        engine = self.engine
        if self._unread:
            self._read()
        groups = self._waiting.pop(pc >> 12, ())
        if not groups or not engine.members:
            return False
        with engine.reading(next(iter(engine.members)).memory):
            for group in groups:
                if not group.done:
                    group.done = True
                    if self._fits(group):
                        self._place(group)
        return engine.entry(pc) in self.originals

    def _fits(self, group: Group) -> bool:
        """Whether a group is of the code that is there, and has records."""
        engine = self.engine
        if engine.breakpoints:
            return False
        if digest_of(engine.text, group.pages, engine.reach) != group.digest:
            return False
        return all(engine.prepare_page(number) for number in group.pages)

    def _place(self, group: Group) -> None:
        engine, kit = self.engine, self._kit
        assert kit is not None
        here, wait = self._seen_from, engine.interpreter.address["h_wait"]
        words = memoryview(group.heads).cast("B").cast("Q")
        pcs, offsets, own = (
            words[::3].tolist(),
            words[1::3].tolist(),
            [word + here & _MASK for word in words[2::3].tolist()],
        )
        records = engine.restore_records(pcs, own, group.rows)
        block = self.code.allocate(len(group.code))
        block.faulting = True
        # SAFETY: the block is ours, as long as the code, and no thread runs it yet.
        ctypes.memmove(block.write, bytes(group.code), len(group.code))
        moves = ctypes.create_string_buffer(bytes(group.moves), max(len(group.moves), 1))
        at = ctypes.addressof(moves)
        with kit.lock, engine.reachable() as reach:
            kit.words[: len(self._head)] = self._head
            shared = self._shared_in(block, kit)
            kit.set("faults", block.chunk.fault_table)
            for offset, count, base in group.parts if shared else ():
                kit.set("start", block.at + offset)
                for name, place in shared.items():
                    kit.set(name, place - block.at - offset & _MASK)
                write, execute = block.write + offset, block.execute + offset
                # SAFETY: as in _make; the moves are of this code, as the file's checksum says.
                while wrong := kit.relocate(
                    kit.work, write, execute, at, count, here - base & _MASK, here, wait
                ):
                    if not wrong & NO_RECORD or not reach((wrong ^ NO_RECORD) >> 12):
                        self.code.free(block)
                        return
                at += count * MOVE_BYTES
        if not shared:
            self.code.free(block)
            return
        entries = tuple((place, block.execute + offsets[i], own[i], pcs[i]) for i, place in records)
        for place, address, handler, _ in entries:
            self.originals[address] = handler
            self._at[place] = address
            engine.exchange(place, handler, address)
        self._use(_Unit(group.start, group.end, entries, block, group.parts, group.moves))
        extra = engine.stats.extra
        extra["baseline_restored"] = extra.get("baseline_restored", 0) + len(group.parts)

    def save(self) -> None:
        """Write the units, if there are more than the file holds. Raises CacheError."""
        engine = self.engine
        if engine.program is None or engine.breakpoints:
            return
        if self._fresh <= max(_FEW, self._kept // _PART):
            return
        fresh: dict[int, list[_Unit]] = {}
        kept = {number: engine.is_kept(number) for number in self._on}
        for one in self._units:
            # Between two pieces of a unit may lie pages that nobody has run, and are in nobody's way.
            if one.moves is not None and all(
                kept[number] or not engine.is_decoded_page(number) for number in one.pages
            ):
                fresh.setdefault(window(one.start), []).append(one)
        assert engine.cache is not None
        groups = {**self._groups, **{number: self._group(units) for number, units in fresh.items()}}
        engine.cache.write(
            self._file(),
            {"handlers": self._handlers(), "groups": pack_groups(list(groups.values()))},
        )

    def _group(self, units: list[_Unit]) -> Group:
        """Units as they are kept."""
        engine, base = self.engine, self._seen_from
        start, end = min(one.start for one in units), max(one.end for one in units)
        code, moves = bytearray(), bytearray()
        parts: list[tuple[int, int, int]] = []
        heads: list[int] = []
        rows: list[memoryview] = []
        for one in units:
            assert one.moves is not None
            here = len(code)
            # SAFETY: the block is in use, and its writable address is readable.
            code += ctypes.string_at(one.block.write, one.block.size)
            moves += one.moves
            parts += [(here + offset, count, base_) for offset, count, base_ in one.parts]
            move = here - one.block.execute
            for place, address, handler, pc in one.entries:
                heads += pc, address + move, handler - base & _MASK
                rows.append(engine.record_bytes(place))
        pages = sorted({number for one in units for number in one.pages if engine.is_decoded_page(number)})
        digest = digest_of(engine.text, pages, engine.reach)
        return Group(
            start, end, digest, tuple(pages), tuple(parts),
            struct.pack(f"<{len(heads)}Q", *heads), b"".join(rows), bytes(moves), bytes(code),
        )  # fmt: skip

    def _shared_in(self, block: CodeBlock, kit: Kit) -> dict[str, int]:
        """Where in a block's chunk the code is that its units have in common; nothing if there is no room for it. Called with the kit's lock
        held, and its words set."""
        found = self._shared.get(block.chunk)
        if found is None:
            own = self.code.allocate_beside(block, _SHARED_BYTES)
            if own is None:
                return {}
            # SAFETY: the block is ours; the tables that the kit's words name live as long as the engine.
            if not kit.share(kit.work, own.write, own.execute, own.size):
                self.code.free(own)
                return {}
            found = self._shared[block.chunk] = own, {name: own.at + kit.get(name) for name in SHARED}
        return found[1]

    def handler(self, at: int, own: int) -> int:
        """What the record at host address ``at`` should go to, if it is not to be ``own``, the interpreter's."""
        return self._at.get(at, own)

    def invalidate(self, start: int, end: int) -> None:
        """Drop the units made from guest bytes in ``[start, end)``. Called with the engine's lock held."""
        pages = _pages(start, end)
        found = {
            one: None
            for number in (pages if len(pages) < len(self._on) else self._on)
            for one in self._on.get(number, ())
        }
        for one in found:
            if one.start < end and start < one.end:
                self._drop(one)

    def _drop(self, one: _Unit) -> None:
        """Take a unit out of use; its memory is freed when no vCPU can be in it."""
        del self._units[one]
        for number in one.pages:
            del self._on[number][one]
        self.engine.dropped(one)
        for at, address, original, _ in one.entries:
            self.engine.exchange(at, address, original)
            del self.originals[address]
            if self._at.get(at) == address:
                del self._at[at]
        tiering = self.engine.tiering
        assert tiering is not None
        tiering.retire(one.block)

    def close(self) -> None:
        if self._loading is not None:
            self._loading.join()
        for one in self._units:
            self.code.free(one.block)
        for block, _ in self._shared.values():
            self.code.free(block)
        self._shared.clear()
        self._units.clear()
        self._on.clear()
        self.originals.clear()
        self._at.clear()
