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
from functools import cached_property
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
from vm_core.errors import DecodeError, HostError, VmError
from vm_core.memory import MAX_BITS, PAGE, Access, GuestMemory, MemoryFault, Prot
from vm_core.spec.isa import Decoded, Isa
from vm_core.state import HEADER, CpuState
from vm_jit import faults
from vm_jit.baseline import Baseline
from vm_jit.cache import Cache
from vm_jit.code_memory import CodeMemory
from vm_jit.decoder import NEEDS_PYTHON
from vm_jit.prebuilt import Code, load
from vm_jit.program import Program
from vm_jit.records import HEAT, HOT, LAST, LENGTH, LOW, MAX_LENGTH, RECORD_BYTES, Plan, Reason, handler_key
from vm_jit.tiering import Tiering

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BaselineEngine", "InterpreterEngine", "NativeEngine", "interpreter_for"]

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
    """The handlers of one ISA in code memory. ``address`` has the host address of each."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self.address, self.seconds, self.cached = code.symbols, code.seconds, code.origin != "built"
        word = ctypes.c_uint64
        # PERF: ctypes converts an int to a pointer faster than to a number.
        self.enter: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address["enter"])
        self.fill: Callable[[int, int, int, int], None] = ctypes.CFUNCTYPE(None, word, word, word, word)(
            self.address["fill"]
        )
        self.restore: Callable[[int, bytes, bytes, int], None] = ctypes.CFUNCTYPE(
            None, word, ctypes.c_char_p, ctypes.c_char_p, word
        )(self.address["restore"])

        self.decode: Callable[[int, int], int] | None = None
        """The native decoder, where the ISA has one: see :func:`vm_jit.decoder.function`."""
        if "decode" in self.address:
            self.decode = ctypes.CFUNCTYPE(word, ctypes.c_void_p, word)(self.address["decode"])

    @cached_property
    def tables(self) -> tuple[ctypes.Array[ctypes.c_ubyte], ctypes.Array[ctypes.c_uint64]]:
        """The native decoder's tables, and the handlers' addresses in their order."""
        names = str(self._code.sections["handlers"], "utf-8").split("\0")
        handlers = (ctypes.c_uint64 * len(names))(*(self.address[name] for name in names))
        tables = self._code.sections["decoder"]
        return (ctypes.c_ubyte * len(tables)).from_buffer_copy(tables), handlers

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """How each handler's operands lie in its record. PERF: read when something has to be decoded."""
        import json

        return {
            key: Plan(symbol, tuple(map(tuple, slots)), tuple(map(tuple, immediates)))
            for key, (symbol, slots, immediates) in json.loads(bytes(self._code.sections["plans"])).items()
        }


def interpreter_for(isa: Isa, cache: Cache | None) -> Interpreter:
    """The interpreter of an ISA: of this process, else from the wheel or the cache, else built now (a second or two,
    once). Raises EngineUnavailable."""
    with _build_lock:
        found = _interpreters.get(isa.name)
        if found is None:
            found = _interpreters[isa.name] = Interpreter(load("interp", isa, cache, _code))
        return found


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
    for none. ``baseline`` and ``jit`` say which tiers there are above the interpreter. For tests: ``synchronous`` compiles
    in the running thread, ``eager`` regions of what has been jumped to twice and units of all that runs."""

    name = "jit"

    def __init__(
        self,
        isa: Isa,
        memory: GuestMemory,
        *,
        jit: bool = True,
        baseline: bool = True,
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
        known = isa.name in _interpreters
        self.interpreter = interpreter_for(isa, self.cache)
        extra = self.stats.extra
        extra["interpreter_seconds"] = 0.0 if known else self.interpreter.seconds
        extra["interpreter_build_seconds"] = 0.0 if self.interpreter.cached else self.interpreter.seconds
        extra["restore_seconds"] = extra["decode_seconds"] = 0.0
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
        self._contexts: dict[int, ctypes.Array[ctypes.c_uint64]] = {}
        self.slow: set[int] = set()
        """Where the native decoder needed Python. Empty for an ISA that has none."""
        self.breakpoints: frozenset[int] = frozenset()
        self._stopped_at: dict[int, int] = {}
        self._interrupt = False
        self._closed = False
        self._miss = self.interpreter.address["h_miss"]
        self._illegal = self.interpreter.address["h_illegal"]
        self._length = MAX_LENGTH[isa.unit]
        baseline = baseline and _CAN_COMPILE and Baseline.supports(isa)
        jit = jit and _CAN_COMPILE
        self.tiering: Tiering | None = None
        if jit or baseline:
            faults.add_arena(memory)
            faults.install(self.interpreter.address["fault_handler"])
            memory.enforce()
            self.tiering = Tiering(self, _code, synchronous=synchronous, optimising=jit)
        self.baseline = Baseline(self, _code, heat=jit, synchronous=synchronous) if baseline else None
        self._started = False
        self._eager = eager
        # Handlers report a place at LOW jumps. Without a baseline tier that would be too soon.
        self._heat = (LOW - 2 if eager else 0 if baseline else LOW - HOT & 0xFFFF).to_bytes(2, "little")
        self.program: Program | None = None
        """What the cache keeps for the next run, from the first instruction on; None without a cache."""

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
        away = decoding = 0.0
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
                        paused = _now() - paused
                        begin += paused
                        away += paused
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
                    paused = _now()
                    trap = self.predecode(cpu.pc)
                    decoding += _now() - paused
                    if trap is not None:
                        return trap
                    if self._eager and self.baseline is not None:
                        self.baseline.request(cpu.pc)
                elif reason == 5:
                    self._hot(cpu.pc)
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
                stats.call_seconds += away
                stats.extra["decode_seconds"] += decoding
                stats.retired += limit - words[_FUEL]
                stats.retired_jit += words[_JIT_RETIRED] - before
            if tiering is not None:
                tiering.quiesce(vcpu)

    def _hot(self, pc: int) -> None:
        """Native code reports that ``pc`` is warm, for the baseline tier, or hot, for the optimising one."""
        if self.baseline is not None and self.baseline.request(pc) and not self._eager:
            at = self.record(pc)
            if at is None or self._bytes[at + HEAT] | self._bytes[at + HEAT + 1] << 8 < HOT:
                return
        if self.tiering is not None:
            self.tiering.request(pc)

    def _adopt(self, cpu: CpuState) -> None:
        cpu.header("arena", self.memory.host_address)
        cpu.header("regions", self.regions_address)
        cpu.header("pages", self.pages_address)
        cpu.header("fault_handler", self.interpreter.address["h_fault"])
        with self.lock:
            if not self._started:
                self._started = True
                if self.cache is not None:
                    self.program = Program(self, self.cache)
                    begin = _now()
                    self.program.restore()
                    self.stats.extra["restore_seconds"] += _now() - begin

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
        return at is not None and self._words[at >> 3] not in (self._miss, self._illegal)

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

    def entry(self, pc: int) -> int:
        """The address that the record of ``pc`` leads to."""
        at = self.record(pc)
        assert at is not None
        return self._words[at >> 3]

    def handler(self, pc: int) -> int:
        """The interpreter's handler of ``pc``, also where the baseline tier's code stands for it."""
        found = self.entry(pc)
        return found if self.baseline is None else self.baseline.originals.get(found, found)

    def set_handler(self, pc: int, address: int) -> None:
        """Make the record of ``pc`` go to a handler. One aligned 8-byte store: running threads see old or new."""
        at = self.record(pc)
        assert at is not None
        self._words[at >> 3] = address

    def restore_handler(self, pc: int, own: int) -> None:
        """Make the record of ``pc`` go to the baseline tier's code, or if it has none, to ``own``."""
        at = self.record(pc)
        assert at is not None
        self._words[at >> 3] = own if self.baseline is None else self.baseline.handler(self._space + at, own)

    def exchange(self, address: int, old: int, new: int) -> None:
        """Make the record at a host address go to ``new`` if it went to ``old``."""
        at = address - self._space >> 3
        if self._words[at] == old:
            self._words[at] = new

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

    def _context(self, number: int) -> ctypes.Array[ctypes.c_uint64]:
        """What the native decoder is told of a page."""
        tables, handlers = self.interpreter.tables
        made = self._contexts[number] = (ctypes.c_uint64 * 7)(
            self.memory.host_address + number * PAGE,
            self._space + self._page(number),
            self.memory.table_address + number,
            ctypes.addressof(tables),
            ctypes.addressof(handlers),
            _BLOCK_LIMIT,
            int.from_bytes(self._heat, "little"),
        )
        return made

    def predecode(self, pc: int) -> Trap | None:
        """Decode the block at ``pc`` into records. A trap only if its first instruction cannot be fetched."""
        with self.lock:
            first = pc
            number = pc >> 12
            decode = self.interpreter.decode
            if decode is not None and not (
                self.breakpoints or pc & self.isa.unit - 1 or pc >= self.memory.size
            ):
                context = self._contexts.get(number) or self._context(number)
                # SAFETY: the context names the page's bytes in the arena and its records, which live as long as this.
                stopped = decode(ctypes.addressof(context), pc & PAGE - 1)
                if stopped < NEEDS_PYTHON:
                    self.stats.blocks_decoded += 1
                    return None
                pc = number * PAGE + (stopped & NEEDS_PYTHON - 1)
            for _ in range(_BLOCK_LIMIT):
                insn = self.decode(pc)
                if isinstance(insn, Trap):
                    if pc != first:
                        return None
                    at_ = self.record(pc)
                    if at_ is not None and insn.cause is Cause.ILLEGAL and PAGE - pc % PAGE >= self._length:
                        # The next time, native code may enter the guest's signal handler.
                        self._words[at_ >> 3] = self._illegal
                    return insn
                page = self._page(number)
                at = page + (pc & PAGE - 1) // self.isa.unit * RECORD_BYTES
                if self._words[at >> 3] != self._miss:
                    return None
                if decode is not None:
                    self.slow.add(pc)
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

    # -- what the cache keeps ------------------------------------------------------------------------------------

    @property
    def reach(self) -> int:
        """How many bytes of the next page an instruction that begins in a page may need."""
        return self._length

    def restore_page(self, number: int, kinds: bytes, slots: bytes, count: int) -> None:
        """Decode a page as an earlier run did. ``kinds`` has rows of 32 bytes (handler, operands, length), ``slots`` pairs of
        32 bits (slot in the page, index in ``kinds``), both checked."""
        self.interpreter.restore(self._space + self._page(number), kinds, slots, count)
        if self.interpreter.decode is not None:
            first = number * PAGE
            self.slow.update(
                first + slot * self.isa.unit for slot in memoryview(slots).cast("I")[::2].tolist()
            )

    def is_code(self, start: int, end: int) -> bool:
        """Whether the guest can execute, and so the host can read, all of a range."""
        pages = self.memory.table[start >> 12 : (end + PAGE - 1) >> 12]
        return 0 <= start < end <= self.memory.size and all(page & Prot.EXEC for page in pages)

    def decode_range(self, start: int, end: int) -> None:
        """Decode the instructions in ``[start, end)``, which an earlier run had executed."""
        if self.interpreter.decode is not None:
            pc = start
            while pc < end and self.predecode(pc) is None:
                while pc < end and (at := self.record(pc)) is not None and self._words[at >> 3] != self._miss:
                    pc += self._bytes[at + LENGTH] or self.isa.unit

    def decoded_pages(self) -> Iterator[tuple[int, list[tuple[int, str, bytes, int]]]]:
        """Each page that has been decoded and not changed since, and for each of its records (slot in the page, handler's
        name, operands, length in bytes); only the slow ones where there is a native decoder."""
        names = {address: name for name, address in self.interpreter.address.items()}
        special = {
            self.interpreter.address[name] for name in ("h_breakpoint", "h_cross", "h_miss", "h_illegal")
        }
        slow = {pc >> 12 for pc in self.slow}
        for number, page in self._records.items():
            if self.interpreter.decode is not None and number not in slow:
                continue
            if not self.memory.table[number] & Prot.EXEC:
                continue
            if self._copies[number] != self.memory.view[number * PAGE : (number + 1) * PAGE]:
                continue
            found = []
            for slot, current in enumerate(
                self._words[page >> 3 : (page >> 3) + self.per_page * 4 : 4].tolist()
            ):
                pc = number * PAGE + slot * self.isa.unit
                if current == self._miss or (self.interpreter.decode is not None and pc not in self.slow):
                    continue
                handler = current
                if self.tiering is not None and current == self.interpreter.address["h_region"]:
                    handler = self.tiering.original(pc)
                elif self.baseline is not None:
                    handler = self.baseline.originals.get(current, current)
                if handler not in special:
                    at = page + slot * RECORD_BYTES
                    operands = bytes(self._bytes[at + 8 : at + 24])
                    found.append((slot, names[handler], operands, self._bytes[at + LENGTH]))
            yield number, found

    # -- change -------------------------------------------------------------------------------------------------

    def invalidate(self, start: int, end: int) -> None:
        with self.lock:
            if self._closed:
                return
            first = max(start - self._length, 0) >> 12
            if self.baseline is not None:
                self.baseline.invalidate(max(start - self._length, 0), end)
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

    def close(self) -> None:
        with self.lock:
            if self._closed:
                return
            self._closed = True
        if self.tiering is not None:
            self.tiering.close()
        if self.program is not None:
            self.program.save()
        if self.tiering is not None:
            if self.baseline is not None:
                self.baseline.close()
            self.tiering.release()
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
        super().__init__(isa, memory, **{**options, "jit": False, "baseline": False})


class BaselineEngine(NativeEngine):
    """The native interpreter and the baseline tier: no LLVM while the guest runs."""

    name = "baseline"

    def __init__(self, isa: Isa, memory: GuestMemory, **options: Any) -> None:
        super().__init__(isa, memory, **{**options, "jit": False})
