"""The native engine: interpreter and JIT behind :class:`vm_core.engine.Engine`.

One engine serves one guest process; its vCPUs run on as many host threads as call :meth:`NativeEngine.run`, really in
parallel. Code tables are changed only under a lock, by single stores that running threads may see early or late.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from vm_core.engine import (
    Availability,
    Breakpoint,
    Budget,
    Cause,
    EngineStats,
    Exit,
    Interrupted,
    Syscall,
    Trap,
)
from vm_core.errors import CacheError, DecodeError, EngineUnavailable, HostError, VmError
from vm_core.memory import MAX_BITS, PAGE, Access, GuestMemory, MemoryFault, Prot
from vm_core.spec.isa import Decoded, Isa
from vm_core.state import HEADER, CpuState
from vm_jit import faults
from vm_jit.cache import Cache, warn
from vm_jit.code_memory import CodeMemory
from vm_jit.compiler import CompileError, Compiler, host_key, source_digest
from vm_jit.digest import blake2b
from vm_jit.records import HEAT, HOT, LAST, MAX_LENGTH, RECORD_BYTES, Plan, Reason, handler_key
from vm_jit.tiering import Tiering

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["InterpreterEngine", "NativeEngine", "interpreter_for"]

_REASON: Final = HEADER["reason"] // 8
_FUEL: Final = HEADER["fuel"] // 8
_HOST_FP: Final = HEADER["host_fp"] // 8
_ROUNDING: Final = HEADER["fp_rounding"] // 8
_PAGES: Final = HEADER["pages"] // 8
_JIT_RETIRED: Final = HEADER["jit_retired"] // 8
_MXCSR: Final = tuple(0x1F80 | control << 13 for control in (0, 3, 1, 2, 0, 0, 0, 0))
"""The host's control word for each guest rounding mode (x86 MXCSR: all exceptions masked)."""
_now: Final = time.perf_counter
_SYSCALL: Final = Syscall()
_BUDGET: Final = Budget()
_STOPPED: Final = (Reason.EMULATE, Reason.BREAKPOINT)
_BLOCK_LIMIT: Final = 128
_CHUNK: Final = 8_000_000
"""Instructions between looks at whether someone wants the vCPU back: 3 ms of compiled code, 30 ms interpreted."""
_RECORD_SPACE: Final = 1 << 30
_PAGES_COUNT: Final = 1 << MAX_BITS >> 12

_CAN_COMPILE: Final = os.uname().machine in ("x86_64", "AMD64")
"""Regions pass guest registers by a calling convention that LLVM has for x86-64 only."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_code = CodeMemory()
"""Code memory of the interpreters, shared by all engines of this process."""
_interpreters: dict[str, Interpreter] = {}
_build_lock = threading.Lock()


class Interpreter:
    """The handlers of one ISA in code memory."""

    def __init__(self, objects: list[bytes], plans: dict[str, Plan], *, cached: bool, begin: float) -> None:
        self.plans, self.cached = plans, cached
        self.address: dict[str, int] = {}
        for data in objects:
            self.address |= _code.load(data).symbols
        self.seconds = time.perf_counter() - begin
        word = ctypes.c_uint64
        # PERF: ctypes converts an int to a pointer faster than to a number.
        self.enter: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address["enter"])
        self.fill: Callable[[int, int, int, int], None] = ctypes.CFUNCTYPE(None, word, word, word, word)(
            self.address["fill"]
        )
        self.restore: Callable[[int, bytes, bytes, int], None] = ctypes.CFUNCTYPE(
            None, word, ctypes.c_char_p, ctypes.c_char_p, word
        )(self.address["restore"])


def translation_key(isa: Isa) -> str:
    """What the machine code of this ISA depends on: its text, our lowering, and the host."""
    directory = {"riscv64": "riscv"}.get(isa.name, isa.name)
    return source_digest(
        "vm_core/spec", f"vm_core/isa/{directory}", "vm_core/state.py", "vm_core/memory.py", "vm_jit/lowering.py",
        "vm_jit/interpreter.py", "vm_jit/records.py", "vm_jit/region.py", "vm_jit/ranges.py", "vm_jit/faults.py", "vm_jit/compiler.py",
    )[:16] + host_key()[:16]  # fmt: skip


def interpreter_for(isa: Isa, cache: Cache | None) -> Interpreter:
    """The interpreter of an ISA: of this process, else from the cache, else built now (about a second, once)."""
    with _build_lock:
        found = _interpreters.get(isa.name)
        if found is None:
            found = _interpreters[isa.name] = load_interpreter(isa, cache)
        return found


def load_interpreter(isa: Isa, cache: Cache | None) -> Interpreter:
    """The interpreter from the cache, else built now and stored there. Raises EngineUnavailable."""
    begin = time.perf_counter()
    name = f"interp-{isa.name}-{translation_key(isa)}"
    if cache is not None:
        try:
            stored = cache.read(name)
            if stored is not None:
                meta, blob = stored
                plans = {
                    key: Plan(one[0], tuple(map(tuple, one[1])), tuple(map(tuple, one[2])))
                    for key, one in meta["plans"].items()
                }
                objects = [blob[start : start + size] for start, size in meta["objects"]]
                return Interpreter(objects, plans, cached=True, begin=begin)
        except (CacheError, KeyError, TypeError) as error:
            warn("the cached interpreter is not used", error)
    from concurrent.futures import ThreadPoolExecutor

    from vm_jit.interpreter import build

    modules, plans = build(isa)
    try:
        with ThreadPoolExecutor(len(modules)) as pool:
            objects = list(pool.map(_compile_alone, modules))
    except CompileError as error:
        raise EngineUnavailable(
            f"the native interpreter cannot be built: {error}", hint="use --engine reference"
        ) from error
    made = Interpreter(objects, plans, cached=False, begin=begin)
    if cache is not None:
        try:
            starts = [sum(map(len, objects[:i])) for i in range(len(objects))]
            meta = {
                "plans": {key: [one.symbol, one.slots, one.immediates] for key, one in plans.items()},
                "objects": [(start, len(one)) for start, one in zip(starts, objects, strict=True)],
            }
            cache.write(name, meta, b"".join(objects))
        except CacheError as error:
            warn("the interpreter is not cached", error)
    return made


def _compile_alone(text: str) -> bytes:
    compiler = Compiler()
    try:
        return compiler.compile(text)
    finally:
        compiler.close()


def _anonymous(size: int) -> int:
    address = _libc.mmap(None, size, 3, 0x22 | 0x4000, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise HostError(
            f"cannot reserve {size >> 20} MiB of address space for code tables",
            hint="raise the limit of virtual memory (ulimit -v unlimited)",
        )
    return int(address)


class NativeEngine:
    """Implements :class:`vm_core.engine.Engine`. ``cache`` is a Cache, a directory, None for the default one, or False
    for none. ``synchronous`` compiles in the running thread and ``eager`` what has been jumped to twice (for tests)."""

    name = "jit"

    def __init__(
        self,
        isa: Isa,
        memory: GuestMemory,
        *,
        jit: bool = True,
        cache: Cache | Path | str | bool | None = None,
        synchronous: bool = False,
        eager: bool = False,
        **_options: object,
    ) -> None:
        self.isa, self.memory = isa, memory
        self.stats = EngineStats()
        self.cache = (
            cache
            if isinstance(cache, Cache)
            else None
            if cache is False
            else Cache(None if cache is True else cache)
        )
        self.interpreter = interpreter_for(isa, self.cache)
        self.stats.extra["interpreter_build_seconds"] = (
            0.0 if self.interpreter.cached else self.interpreter.seconds
        )
        self.lock = threading.RLock()
        self._stats_lock = threading.Lock()
        self.per_page = PAGE // isa.unit
        self.record_page = (self.per_page + MAX_LENGTH[isa.unit] // isa.unit) * RECORD_BYTES
        # SAFETY: these ranges belong to this engine until close(); native code reads them through the vCPU's header.
        self._space = _anonymous(_RECORD_SPACE)
        self.pages_address = _anonymous(_PAGES_COUNT * 8)
        self.regions_address = _anonymous(_PAGES_COUNT * 8)
        self._bytes = memoryview((ctypes.c_ubyte * _RECORD_SPACE).from_address(self._space)).cast("B")
        self._words = self._bytes.cast("Q")
        self._pages = (
            memoryview((ctypes.c_uint64 * _PAGES_COUNT).from_address(self.pages_address)).cast("B").cast("Q")
        )
        self._used = 0
        self._records: dict[int, int] = {}  # guest page number -> offset of its records
        self._copies: dict[int, bytes] = {}  # guest page number -> its bytes when last decoded
        self._memo: dict[bytes, tuple[int, bytes, bool]] = {}
        self._decoded: dict[bytes, Decoded] = {}
        self.breakpoints: frozenset[int] = frozenset()
        self._stopped_at: dict[int, int] = {}
        self._interrupt = False
        self._closed = False
        self._miss = self.interpreter.address["h_miss"]
        self._length = MAX_LENGTH[isa.unit]
        self.tiering: Tiering | None = None
        if jit and _CAN_COMPILE:
            faults.add_arena(memory)
            faults.install(self.interpreter.address["fault_handler"])
            memory.enforce()
            self.tiering = Tiering(self, _code, synchronous=synchronous)
        self._started = False
        self._heat = (HOT - 2).to_bytes(2, "little") if eager else bytes(2)
        self.key = ""

    @staticmethod
    def probe() -> Availability:
        """Whether native code can be made here."""
        try:
            import llvmlite  # noqa: F401
        except ImportError as error:
            return Availability(False, str(error), "python -m pip install llvmlite")
        return Availability(True)

    # -- running ------------------------------------------------------------------------------------------------

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        words = cpu.words
        # Native code looks at nothing but its fuel, so an interrupt is seen when that runs out.
        chunk = min(limit, _CHUNK)
        words[_FUEL] = chunk
        held_back = limit - chunk
        if words[_PAGES] != self.pages_address:
            self._adopt(cpu)
        enter, address, vcpu = self.interpreter.enter, cpu.address, id(cpu)
        stats, tiering = self.stats, self.tiering
        before = words[_JIT_RETIRED]
        if self._stopped_at and self._stopped_at.get(vcpu) != cpu.pc:
            # It stopped at a breakpoint, and has been moved elsewhere since.
            self._stopped_at.pop(vcpu, None)
        # PERF: tiering's enter() and quiesce(), without two calls for each system call.
        running = set() if tiering is None else tiering.running
        begin = _now()
        running.add(vcpu)
        try:
            while True:
                words[_HOST_FP] = _MXCSR[words[_ROUNDING] & 7]
                # SAFETY: cpu.address is a live, pinned CpuState; its header points at this engine's live tables.
                enter(address)
                reason = words[_REASON]
                if reason == 1:
                    if call is None:
                        return _SYSCALL
                    # The call may block, and is not our time.
                    running.discard(vcpu)
                    if tiering is not None and tiering.retired:
                        tiering.quiesce(vcpu)
                    paused = _now()
                    try:
                        leave = call()
                    finally:
                        begin += _now() - paused
                    if leave or self._interrupt:
                        self._interrupt = False
                        return Interrupted()
                    running.add(vcpu)
                    if words[_FUEL]:
                        continue
                elif self._interrupt:
                    self._interrupt = False
                    return Interrupted()
                if not words[_FUEL] and reason not in _STOPPED:
                    # Used up; or the last instruction jumped to a place that is hot, or not decoded yet.
                    if not held_back:
                        return _BUDGET
                    words[_FUEL] = min(held_back, _CHUNK)
                    held_back -= words[_FUEL]
                    if reason in (1, 4):
                        continue
                if reason == 2:
                    trap = self.predecode(cpu.pc)
                    if trap is not None:
                        return trap
                elif reason == 5:
                    if tiering is not None:
                        tiering.request(cpu.pc)
                else:
                    if reason == 6 and self._stopped_at.pop(vcpu, None) != cpu.pc:
                        self._stopped_at[vcpu] = cpu.pc
                        return Breakpoint(cpu.pc)
                    result = self._emulate(cpu)
                    if result is not None:
                        return result
                    if not words[_FUEL]:
                        if not held_back:
                            return _BUDGET
                        words[_FUEL] = min(held_back, _CHUNK)
                        held_back -= words[_FUEL]
        finally:
            words[_FUEL] += held_back
            with self._stats_lock:
                stats.seconds += _now() - begin
                stats.retired += limit - words[_FUEL]
                stats.retired_jit += words[_JIT_RETIRED] - before
            if tiering is not None:
                tiering.quiesce(vcpu)

    def _adopt(self, cpu: CpuState) -> None:
        cpu.header("arena", self.memory.host_address)
        cpu.header("regions", self.regions_address)
        cpu.header("pages", self.pages_address)
        with self.lock:
            if not self._started:
                self._started = True
                if self.cache is not None:
                    self.key = f"{self.isa.name}-{self.program_key()}-{translation_key(self.isa)}"
                    self._restore_blocks(self.cache)
                if self.tiering is not None:
                    self.tiering.start()

    def _emulate(self, cpu: CpuState) -> Exit | None:
        """Run one instruction in the reference executor, on the same state."""
        from vm_core.execute import execute

        pc = cpu.pc
        insn = self.decode(pc)
        if isinstance(insn, Trap):
            return insn
        exits = self.stats.exits
        exits[insn.insn.name] = exits.get(insn.insn.name, 0) + 1
        result = execute(self.isa, insn, cpu, self.memory)
        if isinstance(result, Trap):
            return result
        cpu.words[_FUEL] -= 1
        if isinstance(result, Syscall):
            return result
        if result:
            self.synchronize(self.memory)
        return None

    # -- decoding -----------------------------------------------------------------------------------------------

    def decode(self, pc: int) -> Decoded | Trap:
        """The instruction at a guest address, or the trap that fetching it is."""
        try:
            if pc % self.isa.unit == 0 and PAGE - pc % PAGE >= self._length and pc < self.memory.size:
                data = bytes(self.memory.view[pc : pc + self._length])
                if self.memory.table[pc >> 12] & Prot.EXEC:
                    known = self._decoded.get(data)
                    if known is None:
                        known = self.isa.decode(data, pc)
                        known.template  # noqa: B018  trace now: an Unimplemented is a decode error
                        self._decoded[data] = known
                    return known
            from vm_core.execute import fetch

            return fetch(self.isa, self.memory, pc)
        except MemoryFault as fault:
            return Trap(Cause.FETCH, pc, fault.address, Access.EXEC, fault.mapped)
        except DecodeError:
            return Trap(Cause.ILLEGAL, pc, pc)

    def record(self, pc: int) -> int | None:
        """The offset of a guest address's record in the record space, if its page has records."""
        page = self._records.get(pc >> 12)
        return None if page is None else page + (pc & PAGE - 1) // self.isa.unit * RECORD_BYTES

    def is_decoded(self, pc: int) -> bool:
        """Whether the instruction at ``pc`` has been decoded, that is, its block has run."""
        at = self.record(pc)
        return at is not None and self._words[at >> 3] != self._miss

    def decoded_places(self, near: range) -> list[int]:
        """The decoded addresses in a range."""
        return [pc for pc, _ in self._places(near)]

    def warm_places(self, near: range, least: int) -> list[int]:
        """The decoded addresses in a range that at least so many jumps have gone to."""
        least += int.from_bytes(self._heat, "little")
        return [
            pc
            for pc, at in self._places(near)
            if self._bytes[at + HEAT] | self._bytes[at + HEAT + 1] << 8 >= least
        ]

    def _places(self, near: range) -> Iterator[tuple[int, int]]:
        """(address, offset of its record) of what is decoded in a range."""
        for number in range(near.start >> 12, (near.stop >> 12) + 1):
            page = self._records.get(number)
            if page is not None:
                handlers = self._words[page >> 3 : (page >> 3) + self.per_page * 4 : 4].tolist()
                for slot, handler in enumerate(handlers):
                    pc = number * PAGE + slot * self.isa.unit
                    if handler != self._miss and pc in near:
                        yield pc, page + slot * RECORD_BYTES

    def last_target(self, pc: int) -> int | None:
        """Where the jump to a computed address at ``pc`` went last, as far as the interpreter has seen."""
        at = self.record(pc)
        return (
            None if at is None else int.from_bytes(self._bytes[at + LAST : at + LAST + 4], "little") or None
        )

    def handler(self, pc: int) -> int:
        at = self.record(pc)
        assert at is not None
        return self._words[at >> 3]

    def set_handler(self, pc: int, address: int) -> None:
        """Make the record of ``pc`` go to a handler. One aligned 8-byte store: running threads see old or new."""
        at = self.record(pc)
        assert at is not None
        self._words[at >> 3] = address

    def _page(self, number: int) -> int:
        page = self._records.get(number)
        if page is None:
            if self._used + self.record_page > _RECORD_SPACE:
                raise VmError("the guest has executed more code than the record space holds (64 MiB of code)")
            page = self._records[number] = self._used
            self._used += (self.record_page + 63) & -64
            self.interpreter.fill(self._space + page, number * PAGE, self.per_page, self._miss)
            tail = self.per_page * RECORD_BYTES
            self.interpreter.fill(
                self._space + page + tail,
                (number + 1) * PAGE,
                MAX_LENGTH[self.isa.unit] // self.isa.unit,
                self.interpreter.address["h_cross"],
            )
            self._copies[number] = bytes(self.memory.view[number * PAGE : (number + 1) * PAGE])
            self._pages[number] = self._space + page
        return page

    def predecode(self, pc: int) -> Trap | None:
        """Decode the block at ``pc`` into records. A trap only if its first instruction cannot be fetched."""
        with self.lock:
            first = pc
            number = pc >> 12
            for _ in range(_BLOCK_LIMIT):
                insn = self.decode(pc)
                if isinstance(insn, Trap):
                    return insn if pc == first else None
                page = self._page(number)
                at = page + (pc & PAGE - 1) // self.isa.unit * RECORD_BYTES
                if self._words[at >> 3] != self._miss:
                    return None
                handler, operands, ends = self._operands(insn, pc)
                self._bytes[at + 8 : at + 27] = operands + self._heat + insn.length.to_bytes(1, "little")
                self._words[at >> 3] = (
                    self.interpreter.address["h_breakpoint"] if pc in self.breakpoints else handler
                )
                pc += insn.length
                if ends or pc >> 12 != number:
                    break
            self.stats.blocks_decoded += 1
            return None

    def _operands(self, insn: Decoded, pc: int) -> tuple[int, bytes, bool]:
        key = bytes(self.memory.view[pc : pc + insn.length])
        known = self._memo.get(key)
        if known is not None:
            return known
        flow = self.isa.flow(insn)
        how = self.interpreter.plans.get(handler_key(insn, returns=flow == "ret"))
        if how is None:
            how = self.interpreter.plans.get(handler_key(insn, returns=False))
        packed = bytearray(16)
        codes = insn.template.codes
        ends = "setpc" in codes or "trap" in codes
        if how is None:
            handler, ends = self.interpreter.address["h_emulate"], True
        else:
            handler = self.interpreter.address[how.symbol]
            layout = self.isa.layout
            for role, file, field, offset in how.slots:
                slot = insn.fields[field]
                if role == "w":
                    slot = layout.files[file].write_slot(slot)
                struct.pack_into("<H", packed, offset - 8, layout.offset(file, slot))
            for field, offset, size in how.immediates:
                value = insn.fields[field]
                packed[offset - 8 : offset - 8 + size] = (value & ((1 << size * 8) - 1)).to_bytes(
                    size, "little"
                )
        known = self._memo[key] = handler, bytes(packed), ends
        return known

    def _restore_blocks(self, cache: Cache) -> None:
        """Decode at once what an earlier run of this program decoded, where the guest's pages are the same."""
        if self.breakpoints:
            return
        try:
            stored = cache.read("blocks-" + self.key)
            if stored is None:
                return
            meta, blob = stored
            symbols = [self.interpreter.address[name] for name in meta["symbols"]]
            table = bytearray(blob[: meta["table"]])
            handlers = memoryview(table).cast("Q")
            for at in range(0, len(handlers), 4):
                handlers[at] = symbols[handlers[at]]
            kinds, limit = bytes(table), len(table) // 32
            for number, digest, start, count in meta["pages"]:
                slots = blob[start : start + 8 * count]
                pairs = memoryview(slots).cast("I")
                if max(pairs[1::2], default=0) >= limit or max(pairs[::2], default=0) >= self.per_page:
                    raise CacheError("a slot is out of range")
                if self._page_digest(number) == digest and self.memory.table[number] & Prot.EXEC:
                    self.interpreter.restore(self._space + self._page(number), kinds, slots, count)
        except (CacheError, KeyError, TypeError, ValueError, IndexError) as error:
            warn("the cached blocks are not used", error)

    def _page_digest(self, number: int) -> str:
        # The next page too: an instruction may reach into it.
        start = number * PAGE
        with self.memory.opened(start, min(PAGE + self._length, self.memory.size - start)) as data:
            return blake2b(data, digest_size=16).hexdigest()

    def _save_blocks(self, cache: Cache) -> None:
        """Keep what has been decoded for the next run, if this run decoded more than a little."""
        if not self.key or self.stats.blocks_decoded < 4 or self.breakpoints:
            return
        names: dict[str, int] = {}
        kinds: dict[bytes, int] = {}
        by_address = {address: name for name, address in self.interpreter.address.items()}
        special = {self.interpreter.address[name] for name in ("h_breakpoint", "h_cross")}
        pages, blobs = [], []
        for number, page in self._records.items():
            if self._copies[number] != self.memory.view[number * PAGE : (number + 1) * PAGE]:
                continue
            slots = bytearray()
            for slot, found in enumerate(
                self._words[page >> 3 : (page >> 3) + self.per_page * 4 : 4].tolist()
            ):
                if found == self._miss:
                    continue
                if self.tiering is not None and found == self.interpreter.address["h_region"]:
                    handler = self.tiering.original(number * PAGE + slot * self.isa.unit)
                else:
                    handler = found
                if handler in special:
                    continue
                at = page + slot * RECORD_BYTES
                name = names.setdefault(by_address[handler], len(names))
                entry = (
                    name.to_bytes(8, "little")
                    + bytes(self._bytes[at + 8 : at + 24])
                    + bytes([self._bytes[at + 26]])
                    + bytes(7)
                )
                slots += struct.pack("<II", slot, kinds.setdefault(entry, len(kinds)))
            if slots:
                pages.append([number, self._page_digest(number), len(slots) // 8])
                blobs.append(bytes(slots))
        table = b"".join(kinds)
        at = len(table)
        for one, data in zip(pages, blobs, strict=True):
            one.insert(2, at)
            at += len(data)
        try:
            cache.write(
                "blocks-" + self.key,
                {"symbols": list(names), "table": len(table), "pages": pages},
                table + b"".join(blobs),
            )
        except CacheError as error:
            warn("decoded blocks are not cached", error)

    # -- change -------------------------------------------------------------------------------------------------

    def invalidate(self, start: int, end: int) -> None:
        with self.lock:
            if self._closed:
                return
            first = max(start - self._length, 0) >> 12
            if self.tiering is not None:
                self.tiering.invalidate(max(start - self._length, 0), end)
            for number in (
                range(first, (end + PAGE - 1) >> 12)
                if (end - start) >> 12 < len(self._records)
                else list(self._records)
            ):
                if first <= number < (end + PAGE - 1) >> 12 and number in self._records:
                    self._forget(number)

    def _forget(self, number: int) -> None:
        page = self._records[number]
        # In place: another thread may be among these records, and meets the miss handler at its next step.
        self.interpreter.fill(self._space + page, number * PAGE, self.per_page, self._miss)
        self._copies[number] = bytes(self.memory.view[number * PAGE : (number + 1) * PAGE])

    def synchronize(self, memory: GuestMemory) -> None:
        with self.lock:
            for number, old in list(self._copies.items()):
                now = memory.view[number * PAGE : (number + 1) * PAGE]
                if memory.table[number] & Prot.WRITE and old != now:
                    self.invalidate(number * PAGE, (number + 1) * PAGE)
                    self._copies[number] = bytes(now)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        with self.lock:
            changed = addresses ^ self.breakpoints
            self.breakpoints = addresses
            for pc in changed:
                self.invalidate(pc, pc + 1)

    def interrupt(self) -> None:
        """Make a running ``run`` return Interrupted when native code next returns. Callable from any thread."""
        self._interrupt = True

    def program_key(self) -> str:
        """A hash of all executable guest memory: what a cache of compiled regions is for."""
        digest = blake2b(digest_size=12)
        for region in self.memory.regions():
            if region.prot & Prot.EXEC:
                digest.update(struct.pack("<QQ", region.start, region.end))
                digest.update(self.memory.view[region.start : region.end])
        return digest.hexdigest()

    def close(self) -> None:
        with self.lock:
            if self._closed:
                return
            self._closed = True
        if self.cache is not None:
            self._save_blocks(self.cache)
        if self.tiering is not None:
            self.tiering.close()
            faults.drop_arena(self.memory)
        self._words.release()
        self._bytes.release()
        self._pages.release()
        # SAFETY: the views are released and no vCPU runs any more (the protocol's condition).
        _libc.munmap(self._space, _RECORD_SPACE)
        _libc.munmap(self.pages_address, _PAGES_COUNT * 8)
        _libc.munmap(self.regions_address, _PAGES_COUNT * 8)


class InterpreterEngine(NativeEngine):
    """The native interpreter alone."""

    name = "interp"

    def __init__(self, isa: Isa, memory: GuestMemory, **options: Any) -> None:
        super().__init__(isa, memory, **{**options, "jit": False})
