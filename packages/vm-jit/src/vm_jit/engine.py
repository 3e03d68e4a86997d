"""The native engine: interpreter and JIT behind :class:`vm_core.engine.Engine`.

One engine serves one guest process; its vCPUs run on as many host threads as call :meth:`NativeEngine.run`, really in
parallel. Code tables are changed only under a lock, by single stores that running threads may see early or late.

What is decoded and compiled is a function of the guest's code bytes, so it lies in a :class:`CodeImage` that all engines
of this process whose guests have the same code share. An image that can be shared holds only pages that its guests can
execute and not write. A guest that changes its code, has a breakpoint, runs code that it can write or starts a second
thread goes on with an image of its own, which begins as a copy; so whatever it does, another guest never sees it, and a
change reaches all its own vCPUs at once.

Locks, outermost first: the guest memory's, the engine's, that of the images, an image's.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property

from vm_core.engine import (
    EVERYWHERE,
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
from vm_core.errors import CacheError, DecodeError, HostError, VmError
from vm_core.hints import TYPE_CHECKING, Any, Final, Protocol
from vm_core.memory import MAX_BITS, PAGE, Access, GuestMemory, MemoryFault, Prot
from vm_core.record import record
from vm_core.spec.isa import Decoded, Isa
from vm_core.state import HEADER, CpuState
from vm_jit import faults
from vm_jit.baseline import Baseline
from vm_jit.cache import Cache, warn
from vm_jit.code_memory import CodeBlock, CodeMemory
from vm_jit.compiler import has_segment
from vm_jit.decoder import BLOCK, NEEDS_PYTHON, TRACE
from vm_jit.digest import blake2b
from vm_jit.hoststack import stack_low
from vm_jit.prebuilt import Code, load, provide
from vm_jit.program import Program
from vm_jit.records import (
    HEAT,
    HOT,
    LAST,
    LENGTH,
    LONGEST,
    LOW,
    MAX_LENGTH,
    RECORD_BYTES,
    TURNS,
    WORDS,
    Plan,
    Reason,
    handler_key,
)
from vm_jit.tiering import Tiering, compilers_held, leave_compilers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BaselineEngine", "InterpreterEngine", "NativeEngine", "interpreter_for"]

_ARENA: Final = HEADER["arena"] // 8
_IMAGE: Final = HEADER["image"] // 8
_REGIONS: Final = HEADER["regions"] // 8
_FAULT_HANDLER: Final = HEADER["fault_handler"] // 8
_REASON: Final = HEADER["reason"] // 8
_FUEL: Final = HEADER["fuel"] // 8
_HOST_FP: Final = HEADER["host_fp"] // 8
_STACK_LOW: Final = HEADER["stack_low"] // 8
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
_COOLING: Final = 4 * LOW
_COOLEST: Final = HOT - LOW
"""Each change of a page's code makes what is decoded there anew wait so many jumps longer for the baseline tier, up to so many."""
_CHUNK: Final = 8_000_000
"""Instructions between looks at whether someone wants the vCPU back: 3 ms of compiled code, 30 ms interpreted."""
_RECORD_SPACE: Final = 1 << 30
CODE_MEMORY: Final = 256 << 20
"""The default limit of compiled code, in bytes."""
_EXEC: Final = int(Prot.EXEC)
_WX: Final = int(Prot.WRITE | Prot.EXEC)
_PAGES_COUNT: Final = 1 << MAX_BITS >> 12
_FENCES, _MISSES, _DECODE, _BLOCKS, _WATCHES, _CONTEXT, _PATIENCE, _LOOKED = WORDS.values()
_MOST_LOOKED: Final = 254
"""Pages of changing code that one vCPU uses between two fences; when they are more, all are compared once more."""

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
_own_code = CodeMemory()
"""Code that was made before any guest's, and stays: interpreters and stencils, of all engines of this process."""
_code = CodeMemory()
"""What is made of guest code, of all engines of this process."""
_interpreters: dict[str, Interpreter] = {}
_build_lock = threading.Lock()
_images_lock = threading.RLock()
"""Guards the following five, and who uses which image."""
_images: dict[str, CodeImage] = {}
"""The images that can be shared, by what they are made from; those that nobody uses now came first to be unused."""
_engines: set[NativeEngine] = set()
"""All engines that are not closed."""
_nameless: set[NativeEngine] = set()
"""The engine that was alone when its guest began, if its image could be shared but has no name yet."""
_texts: dict[tuple[int, int], tuple[bytes, bytes]] = {}
"""The executable region that was last hashed in each range of guest addresses, and its hash."""
_MOST_IDLE: Final = 32
"""Images that are kept for the next guest of their program while engines of other programs run."""
_MOST_CHANGES: Final = 64
"""Changes of its code after which an engine looks no more for others that have the same."""
_COUNTED: Final = ("blocks_decoded", "compile_seconds", "regions_compiled", "regions_cached")
"""What an image counts for the engines that use it."""


@record(frozen=True)
class ImageOptions:
    """How an image makes code: ``jit`` and ``baseline`` say which tiers there are above the interpreter, ``synchronous``
    that they work in the running thread, ``eager`` that they begin at once; ``lines`` that regions know what each piece of
    their code came from (:mod:`vm_jit.lines`); ``isolated`` that they look where an address leads before they use it."""

    jit: bool
    baseline: bool
    synchronous: bool
    eager: bool
    lines: bool = False
    isolated: bool = True
    code_memory: int = CODE_MEMORY
    """Bytes of compiled code beyond which what was made longest ago goes."""

    @property
    def native(self) -> bool:
        """Whether there is code that needs the host's protection of guest memory."""
        return self.jit or self.baseline


class Evictable(Protocol):
    """A piece of compiled code: a unit of the baseline tier, or a region."""

    block: CodeBlock

    def records(self, image: CodeImage) -> list[int]:
        """The offsets in the image's record space of the records where it could be entered."""


class Interpreter:
    """The handlers of one ISA in code memory. ``address`` has the host address of each."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self.address, self.seconds, self.cached = code.symbols, code.seconds, code.origin != "built"
        word = ctypes.c_uint64
        # PERF: ctypes converts an int to a pointer faster than to a number.
        self.enter: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
            self.address["enter_segment" if has_segment() else "enter"]
        )
        self.fill: Callable[[int, int, int, int], None] = ctypes.CFUNCTYPE(None, word, word, word, word)(
            self.address["fill"]
        )
        self.restore: Callable[[int, bytes, bytes, int], None] = ctypes.CFUNCTYPE(
            None, word, ctypes.c_char_p, ctypes.c_char_p, word
        )(self.address["restore"])

        self.differ: Callable[[bytes, int, int], int] = ctypes.CFUNCTYPE(word, ctypes.c_char_p, word, word)(
            self.address["differ"]
        )
        self.hold: Callable[[int], int] = ctypes.CFUNCTYPE(word, word)(self.address["hold"])
        self.longest = LONGEST if "s0" in self.address else 1
        """How many instructions a handler does at most."""
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
    def handlers(self) -> dict[str, str]:
        """The name of each handler, by the key of its instruction (:func:`vm_jit.records.handler_key`)."""
        words = str(self._code.sections["keys"], "utf-8").split("\0")
        return dict(zip(words[::2], words[1::2], strict=True))

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """How each handler's operands lie in its record. PERF: read when something has to be decoded."""
        import json

        return {
            key: Plan(symbol, tuple(map(tuple, slots)), tuple(map(tuple, immediates)))
            for key, (symbol, slots, immediates) in json.loads(bytes(self._code.sections["plans"])).items()
        }


def interpreter_for(isa: Isa, cache: Cache | None, *, alone: bool = False) -> Interpreter:
    """The interpreter of an ISA, ``alone`` if there is to be no tier above it: of this process, else from the wheel or the
    cache, else built now (some seconds, once). Raises EngineUnavailable."""
    with _build_lock:
        part = "interp"
        if alone:
            from vm_jit.sequences import SEQUENCES

            part = "alone" if isa.name in SEQUENCES else part
        name = f"{part}-{isa.name}"
        found = _interpreters.get(name)
        if found is None:
            found = _interpreters[name] = Interpreter(load(part, isa, cache, _own_code))
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
    for none. ``code_memory`` is the most bytes of compiled code that are kept for guests with this one's code (but for the
    newest piece): beyond it, what was made longest ago goes, and is made again if it is still hot. ``baseline`` and ``jit``
    say which tiers there are above the interpreter; ``lines`` is for the profiler (:mod:`vm_jit.lines`). For tests:
    ``synchronous`` compiles in the running thread, ``eager`` regions of what has been jumped to twice and units of all that
    runs.

    ``isolation`` "off" is UNSAFE: regions believe the guest's addresses, and a wild one may read or write anything of this
    process. It is there to measure what isolation costs; the other tiers check each access in any case."""

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
        lines: bool = False,
        isolation: str = "on",
        code_memory: int = CODE_MEMORY,
        **_options: object,
    ) -> None:
        self.isa, self.memory = isa, memory
        self._stats = EngineStats()
        self.cache = (
            cache
            if isinstance(cache, Cache)
            else None
            if cache is False
            else Cache(None if cache is True else cache)
        )
        self.options = ImageOptions(
            jit and _CAN_COMPILE,
            baseline and _CAN_COMPILE and Baseline.supports(isa),
            synchronous,
            eager,
            lines,
            isolated=isolation != "off",
            code_memory=code_memory,
        )
        known = set(_interpreters.values())
        # The profiler asks for lines, and a sample in a superinstruction would only show its first one.
        self.interpreter = interpreter_for(isa, self.cache, alone=not (self.options.native or lines))
        extra = self._stats.extra
        extra["interpreter_seconds"] = 0.0 if self.interpreter in known else self.interpreter.seconds
        extra["interpreter_build_seconds"] = 0.0 if self.interpreter.cached else self.interpreter.seconds
        extra["restore_seconds"] = extra["decode_seconds"] = 0.0
        self.lock = threading.RLock()
        self._stats_lock = threading.Lock()
        self._image: CodeImage | None = None
        """The code tables in use: None before the first run, and from a change of the code to the next run."""
        self._origin: CodeImage | None = (
            None  # what the next image is a copy of, but for what has changed since
        )
        self._changed: list[tuple[int, int]] = []
        self._changes = 0
        self._alone = False  # the image must not be shared
        self._vcpus = 1
        self._counted: dict[str, float] = {}  # the image's figures when it came into use
        self._digests: dict[tuple[int, int], bytes] = {}  # of the executable regions
        self.breakpoints: frozenset[int] = frozenset()
        self._stopped_at: dict[int, int] = {}
        self._watched: ctypes.Array[ctypes.c_uint64] | None = None
        self._interrupt = False
        self._closed = False
        handler = self.interpreter.address.get("fault_handler", 0)
        self._handles_faults = bool(handler)
        if handler:
            faults.add_arena(memory)
            faults.install(handler)
            memory.catches_bus = os.sysconf("SC_PAGESIZE") == PAGE
        if self.options.native:
            memory.enforce()
        with _images_lock:
            _engines.add(self)

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
        words[_STACK_LOW] = stack_low()
        held_back = limit - chunk
        enter, address, vcpu = self.interpreter.enter, cpu.address, id(cpu)
        stats, image = self._stats, self._enter(cpu, None)
        before = words[_JIT_RETIRED]
        if self._stopped_at and self._stopped_at.get(vcpu) != cpu.pc:
            # It stopped at a breakpoint, and has been moved elsewhere since.
            self._stopped_at.pop(vcpu, None)
        # PERF: entering and leaving the image without two calls for each system call.
        running = image.running
        begin = _now()
        away = decoding = 0.0
        try:
            while True:
                if image is not self._image:
                    image = self._enter(cpu, image)
                    running = image.running
                words[_HOST_FP] = _MXCSR[words[_ROUNDING] & 7]
                # SAFETY: cpu.address is a live, pinned CpuState; its header points at tables that live while the vCPU
                # is among those that run there.
                enter(address)
                reason = words[_REASON]
                if reason == 1:
                    if call is None:
                        return _SYSCALL
                    # The call may block, and is not our time.
                    running.discard(vcpu)
                    if not image.members or ((tiering := image.tiering) is not None and tiering.retired):
                        image.quiesce(vcpu)
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
                    trap = self._predecode(image, cpu.pc)
                    decoding += _now() - paused
                    if trap is not None:
                        return trap
                    if self.options.eager and image.baseline is not None and image is self._image:
                        image.baseline.request(cpu.pc)
                elif reason == 5:
                    image.hot(
                        cpu.pc, vcpu, stats.retired + limit - words[_FUEL] - held_back, words[_JIT_RETIRED]
                    )
                else:
                    if reason == 6 and self._stopped_at.pop(vcpu, None) != cpu.pc:
                        self._stopped_at[vcpu] = cpu.pc
                        return Breakpoint(cpu.pc)
                    result = self._emulate(image, cpu)
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
            image.quiesce(vcpu)

    def _enter(self, cpu: CpuState, left: CodeImage | None) -> CodeImage:
        """Make the vCPU run in the image that is in use. ``left`` is the one that it was in."""
        vcpu = id(cpu)
        if left is not None:
            left.quiesce(vcpu)
        while True:
            image = self._image or self._attach(cpu.pc)
            # First among those that run there, then the look whether it is still in use: leaving an image does it the
            # other way round, so that one of the two sees the other.
            image.running.add(vcpu)
            if image is self._image:
                break
            image.quiesce(vcpu)
        words = cpu.words
        words[_ARENA], words[_PAGES], words[_REGIONS] = (
            self.memory.host_address,
            image.pages_address,
            image.regions_address,
        )
        words[_IMAGE] = image.words_address
        words[_FAULT_HANDLER] = self.interpreter.address["h_fault"]
        return image

    @property
    def stats(self) -> EngineStats:
        """What ran. Decoding and compiling counts for every engine that used the image at that time."""
        with self.lock:
            if self._image is not None:
                self._count(self._image)
        return self._stats

    def _count(self, image: CodeImage) -> None:
        image.collect()
        for name in _COUNTED:
            now = getattr(image.stats, name)
            setattr(self._stats, name, getattr(self._stats, name) + now - self._counted[name])
            self._counted[name] = now
        self._stats.extra |= image.stats.extra

    @property
    def tiering(self) -> Tiering | None:
        """The JIT, once the guest has run."""
        return None if self._image is None else self._image.tiering

    def _emulate(self, image: CodeImage, cpu: CpuState) -> Exit | None:
        """Run one instruction in the reference executor, on the same state."""
        from vm_core.execute import execute

        pc = cpu.pc
        insn = image.decode(pc, self.memory)
        if isinstance(insn, Trap):
            return insn
        exits = self._stats.exits
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

    # -- the image ----------------------------------------------------------------------------------------------

    def _attach(self, pc: int) -> CodeImage:
        """Take the image into use that fits the guest's code now, and make it if there is none. The guest is at ``pc``."""
        memory = self.memory
        if len(_engines) > 1:
            _name_the_first()
        with memory.lock, self.lock:
            if self._image is not None:
                return self._image
            origin = self._origin
            with _images_lock:
                if self._changes > _MOST_CHANGES or self.breakpoints or self._writes_code(pc):
                    self._alone = True
                # PERF: hashing all its code takes as long as a small program runs. Nobody else is there who could share it.
                first = not self._alone and len(_engines) == 1
                identity = "" if self._alone or first else self._identity()
                image = _images.get(identity)
                self._counted = dict.fromkeys(_COUNTED, 0)
                if image is not None:
                    image.collect()
                    self._counted = {name: getattr(image.stats, name) for name in _COUNTED}
                elif origin is not None:
                    image = origin.copy(self._changed, memory if self._alone else None)
                else:
                    image = CodeImage(
                        self.isa, self.interpreter, self.options, self.cache, memory if self._alone else None
                    )
                    begin = _now()
                    image.start(memory, self.breakpoints)
                    self._stats.extra["restore_seconds"] += _now() - begin
                if self._vcpus > 1:
                    image.share()
                if self._alone:
                    image.set_breakpoints(self.breakpoints)
                elif first:
                    _nameless.add(self)
                else:
                    _images[identity] = image
                image.identity = identity
                image.watch(self._watched)
                image.members.add(self)
                if len(image.members) > 1 or self._vcpus > 1:
                    image.leave_misses()
                else:
                    image.answer_misses()
                if origin is not None:
                    origin.members.discard(self)
            self._origin = None
            self._changed = []
            self._image = image
        if origin is not None:
            _settle(origin)
        return image

    def _writes_code(self, pc: int) -> bool:
        """Whether the guest can write the code of a block at ``pc``."""
        # The next page too: an instruction may reach into it.
        return any(prot & _WX == _WX for prot in self.memory.table[pc >> 12 : (pc >> 12) + 2])

    def _identity(self) -> str:
        """What an image is made from: all code that the guest cannot write, and how."""
        digest = blake2b(f"{self.isa.name} {self.options} {self.cache and self.cache.root}".encode())
        known, self._digests = self._digests, {}
        for region in self.memory.regions():
            if region.prot & Prot.EXEC and not region.prot & Prot.WRITE:
                at = (region.start, region.end)
                found = self._digests[at] = known.get(at) or self._region_digest(at)
                digest.update(struct.pack("<QQ", *at) + found)
        return digest.hexdigest()

    def _region_digest(self, at: tuple[int, int]) -> bytes:
        """A hash of the guest bytes in a range. The lock of the images is held."""
        text = self.memory.view[at[0] : at[1]]
        if len(_engines) == 1:
            return bytes(blake2b(text).digest())
        # PERF: the next guest of a program has the same, and comparing takes a tenth of the time.
        now = bytes(text)
        kept = _texts.get(at)
        if kept is None or kept[0] != now:
            kept = _texts[at] = now, bytes(blake2b(now).digest())
        return kept[1]

    def _leave(self, image: CodeImage, *, alone: bool) -> None:
        """Use an image no more that others may use too: go on with a copy of it, which others can share unless
        ``alone``. The engine's lock is held."""
        self._alone |= alone
        with _images_lock:
            if image.members == {self} and (alone or len(_engines) == 1):
                # Nobody else is there: no need to copy.
                _images.pop(image.identity, None)
                image.identity = ""
                image.own(self.memory)
                return
        self._count(image)
        self._origin, self._image = image, None

    def _predecode(self, image: CodeImage, pc: int) -> Trap | None:
        """As CodeImage.predecode, unless the guest needs another image first."""
        if image.owner is None and self._writes_code(pc):
            with self.lock:
                if image is self._image:
                    self._leave(image, alone=True)
            return None
        with image.lock:
            return image.predecode(pc, self.memory) if image is self._image else None

    # -- change -------------------------------------------------------------------------------------------------

    def invalidate(self, start: int, end: int) -> None:
        with self.lock:
            if self._closed:
                return
            self._digests = {at: kept for at, kept in self._digests.items() if at[1] <= start or end <= at[0]}
            image = self._image
            if image is not None and image.owner is None:
                self._changes += 1
                # Where nothing has run it is a library that is being loaded, and others load the same.
                self._leave(image, alone=image.has_run(start, end))
                image = self._image
            if image is not None:
                # Other code may lead directly to a page that the guest could not write for a while.
                image.follow(range(start >> 12, (end + PAGE - 1) >> 12))
                image.invalidate(start, end)
            elif self._origin is not None:
                self._changed.append((start, end))

    def synchronize(self, memory: GuestMemory, start: int = 0, end: int = EVERYWHERE) -> None:
        with self.lock:
            # An image that is shared has no code that a guest can write.
            if self._image is not None and self._image.owner is not None:
                self._image.synchronize(start, end)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        if addresses == self.breakpoints:
            return
        with self.lock:
            self.breakpoints = addresses
            image = self._image
            if image is not None and image.owner is None:
                self._leave(image, alone=True)
                image = self._image
            if image is not None:
                image.set_breakpoints(addresses)

    def watch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Of the accesses that are hidden (GuestMemory.hide), those that touch none of these guest ranges (first byte, end) are of no
        interest: the interpreter that has no tier above it does them itself. No vCPU may be running."""
        words = [len(ranges), *(edge for span in ranges for edge in span)]
        with self.lock:
            self._watched = (ctypes.c_uint64 * len(words))(*words) if ranges else None
            if self._image is not None and self._image.owner is None:
                self._leave(self._image, alone=True)
            self._alone = True
            if self._image is not None:
                self._image.watch(self._watched)

    def add_vcpu(self) -> None:
        with self.lock:
            # A change must reach all vCPUs at once, also one that is in native code.
            self._alone = True
            self._vcpus += 1
            if self._image is not None and self._image.owner is None:
                self._leave(self._image, alone=True)
            if self._image is not None:
                self._image.share()

    @contextmanager
    def forking(self) -> Iterator[None]:
        with ExitStack() as held:
            image = self._image
            if image is not None and image.baseline is not None:
                image.baseline.settle()
            # In the order in which others take them.
            held.enter_context(self.memory.lock)
            held.enter_context(self.lock)
            held.enter_context(_images_lock)
            image = self._image
            if image is not None:
                held.enter_context(image.lock)
            held.enter_context(_build_lock)
            held.enter_context(self._stats_lock)
            held.enter_context(compilers_held())
            for code in (_own_code, _code):
                held.enter_context(code.held())
            held.enter_context(faults.held())
            yield

    def forked(self) -> None:
        _own_code.seal()
        _code.unshare()
        _engines.intersection_update({self})
        _nameless.intersection_update({self})
        self._vcpus = 1
        self._interrupt = False
        for image in {*_images.values(), self._image, self._origin} - {None}:
            assert image is not None
            image.members.intersection_update({self})
            image.running.clear()
            if image.identity and image is not self._image:
                del _images[image.identity]
        image = self._image
        if image is not None:
            image.forked()
        leave_compilers(None if image is None else image.tiering)

    def interrupt(self) -> None:
        """Make a running ``run`` return Interrupted when native code next returns. Callable from any thread."""
        self._interrupt = True

    def provide(self) -> None:
        """Make now what is made once for a machine, not for a program: a confined process cannot put it where all find it."""
        if self.options.baseline and self.cache is not None:
            with suppress(VmError):  # whoever wants it tries again, and says so
                provide("baseline", self.isa, self.cache)

    def abandon(self) -> None:
        # PERF: not piece by piece, as others may use it: here there are no others.
        with self.lock:
            self._closed = True
            images = {*_images.values(), self._image, self._origin} - {None}
            self._image = self._origin = None
        with _images_lock:
            _engines.discard(self)
            _images.clear()
            _nameless.clear()
            _texts.clear()
        _code.close()
        for image in images:
            assert image is not None
            image.abandon()
        leave_compilers(None)
        if self._handles_faults:
            faults.drop_arena(self.memory)

    def close(self) -> None:
        with self.lock:
            if self._closed:
                return
            self._closed = True
            used = [image for image in (self._image, self._origin) if image is not None]
            if self._image is not None:
                self._count(self._image)
            self._image = self._origin = None
        with _images_lock:
            _engines.discard(self)
            _nameless.discard(self)
            for image in used:
                image.members.discard(self)
            if not _engines:
                _texts.clear()
                used += [image for image in _images.values() if image not in used]
        for image in used:
            _settle(image)
        if self._handles_faults:
            faults.drop_arena(self.memory)


def _name_the_first() -> None:
    """From now on others find the image of the engine that was alone. No lock is held."""
    with _images_lock:
        found = list(_nameless)
        _nameless.clear()
    for engine in found:
        with engine.memory.lock, engine.lock, _images_lock:
            image = engine._image
            # Without an owner nothing of its code has changed since.
            if image is not None and image.owner is None and not image.identity:
                identity = engine._identity()
                if identity not in _images:
                    image.identity, _images[identity] = identity, image


def _settle(image: CodeImage) -> None:
    """Give an image back that nobody uses, or keep it for the next guest of its program while other guests run."""
    with _images_lock:
        if image.closed or image.members or image.running:
            return
        going = [image]
        if image.identity and _engines:
            # To the end: the first has been idle for longest.
            _images[image.identity] = _images.pop(image.identity)
            going = [one for one in _images.values() if not one.members and not one.running][:-_MOST_IDLE]
        for one in going:
            one.closed = True
            if one.identity:
                del _images[one.identity]
    for one in going:
        one.close()


class CodeImage:
    """The code tables of all engines whose guests have the same code: records, regions, and the tables that lead to
    them. With an ``owner`` it belongs to that memory's engine alone, and follows its changes; without, it holds only
    what no guest can change.
    """

    def __init__(
        self,
        isa: Isa,
        interpreter: Interpreter,
        options: ImageOptions,
        cache: Cache | None,
        owner: GuestMemory | None,
    ) -> None:
        self.isa, self.interpreter, self.options = isa, interpreter, options
        self.cache, self.owner = cache, owner
        self.identity = ""
        """What it is made from, if it can be shared."""
        self.members: set[NativeEngine] = set()
        """The engines that use it."""
        self.running: set[int] = set()
        """The vCPUs that are in native code."""
        self.closed = False
        self.lock = threading.RLock()
        self.stats = EngineStats()
        self.per_page = PAGE // isa.unit
        self.record_page = (self.per_page + MAX_LENGTH[isa.unit] // isa.unit) * RECORD_BYTES
        # SAFETY: these ranges belong to this image until close(); native code reads them through the vCPU's header.
        self._space = _anonymous(_RECORD_SPACE)
        self.pages_address = _anonymous(_PAGES_COUNT * 8)
        self.regions_address = _anonymous(_PAGES_COUNT * 8)
        self._bytes = memoryview((ctypes.c_ubyte * _RECORD_SPACE).from_address(self._space)).cast("B")
        self._words = self._bytes.cast("Q")
        self._pages = (
            memoryview((ctypes.c_uint64 * _PAGES_COUNT).from_address(self.pages_address)).cast("B").cast("Q")
        )
        self._used = 0
        self._made: dict[Evictable, Callable[[Any], None]] = {}
        """All compiled code in use, oldest first, and how each piece is taken out of use."""
        self.code_bytes = 0
        self._records: dict[int, int] = {}  # guest page number -> offset of its records
        self._reserved: dict[int, int] = {}  # the same of pages that no vCPU has come to
        self._copies: dict[
            int, bytes
        ] = {}  # guest page number -> its bytes when last decoded, and a few behind
        self._written: set[int] = set()
        """Pages with records whose bytes each fence compares, because they may have changed: those that the guest could write when
        they were decoded, if they are not among the following; and, since another thread may decode a page while its protection
        changes, those that have been invalidated."""
        self._lazy: set[int] = set()
        """Pages whose bytes are compared when the guest comes there for the first time after a fence: until then they are not in the
        table of pages. Their guest has one vCPU and could write them from the time when they got records; no code leads there but by
        that table."""
        self._native = (ctypes.c_uint64 * (_LOOKED + 1 + _MOST_LOOKED))()
        self.words_address = ctypes.addressof(self._native)
        """What native code may do by itself, and what it needs for it: see vm_jit.records.WORDS."""
        self._native[_MISSES] = 1
        self._collected = 0
        self._together = False  # vCPUs of several engines, or several of one, have been here
        self._vcpus = 1
        self._cooling: dict[int, int] = {}
        """How often the code of a page has changed."""
        self._memo: dict[bytes, tuple[int, bytes, bool]] = {}
        self._decoded: dict[bytes, Decoded] = {}
        self._source = owner  # where code is read: while it starts, from the engine's memory
        self._contexts: dict[int, ctypes.Array[ctypes.c_uint64]] = {}
        self.slow: set[int] = set()
        """Where the native decoder needed Python. Empty for an ISA that has none."""
        self.breakpoints: frozenset[int] = frozenset()
        self._miss = interpreter.address["h_miss"]
        self._illegal = interpreter.address["h_illegal"]
        self._length = MAX_LENGTH[isa.unit]
        # Handlers report a place at LOW jumps. Without a baseline tier that would be too soon.
        heat = LOW - 2 if options.eager else 0 if options.baseline else LOW - HOT & 0xFFFF
        self._heat = heat.to_bytes(2, "little")
        self.program: Program | None = None
        """What the cache keeps for the next run, once there is code; None without a cache."""
        self.tiering: Tiering | None = None
        if options.native:
            self.tiering = Tiering(self, _code, synchronous=options.synchronous, optimising=options.jit)
        self.baseline: Baseline | None = None
        if options.baseline:
            self.baseline = Baseline(
                self, _code, _own_code, heat=options.jit, synchronous=options.synchronous
            )

    def start(self, memory: GuestMemory, breakpoints: frozenset[int]) -> None:
        """Take from the cache what earlier runs made of the code in ``memory``."""
        self.breakpoints = breakpoints
        if self.cache is not None:
            self.program = Program(self, self.cache, memory)
            self.program.restore(memory)

    @contextmanager
    def reading(self, memory: GuestMemory) -> Iterator[None]:
        """Inside, code that has not been decoded is read there: in the memory of a guest for whom it is right."""
        before, self._source = self._source, memory
        try:
            yield
        finally:
            self._source = before if self.owner is None else self.owner

    def copy(self, changed: list[tuple[int, int]], owner: GuestMemory | None) -> CodeImage:
        """Another image with the same code, but for what comes from guest bytes in the ranges ``changed``."""
        # One that is its guest's alone is nothing for the cache: other runs start as this one did.
        out = CodeImage(
            self.isa, self.interpreter, self.options, self.cache if owner is None else None, owner
        )
        if out.cache is not None and self.program is not None:
            out.program = Program(out, out.cache, name=self.program.name, settled=self.program.settled)
        out.slow = set(self.slow)
        out._compare_always(self._written | self._lazy)
        changed = [(max(start - self._length, 0), end) for start, end in changed]
        with self.lock:
            for number, page in self._records.items():
                if any(start < number + 1 << 12 and number << 12 < end for start, end in changed):
                    continue
                at = out._records[number] = out._allocate()
                # SAFETY: both are record_page bytes long; stores into ours that happen meanwhile are heat, which may tear.
                ctypes.memmove(out._space + at, self._space + page, self.record_page)
                if self.baseline is not None:
                    # Its code knows the records that it was made from by their addresses.
                    at >>= 3
                    for word, handler in enumerate(out._words[at : at + self.per_page * 4 : 4].tolist()):
                        own = self.baseline.originals.get(handler)
                        if own is not None:
                            out._words[at + 4 * word] = own
                    at <<= 3
                out._copies[number] = self._copies[number]
                out._pages[number] = out._space + at
            if self.tiering is not None and out.tiering is not None:
                out.tiering.copy(self.tiering, changed)
        return out

    def own(self, memory: GuestMemory) -> None:
        """From now on it is for one guest alone."""
        with self.lock:
            self.owner = self._source = memory

    def quiesce(self, vcpu: int) -> None:
        """The vCPU has left native code."""
        if self.tiering is None:
            self.running.discard(vcpu)
        else:
            self.tiering.quiesce(vcpu)
        if not self.members:
            _settle(self)

    def text(self, start: int, end: int) -> bytes:
        """The code bytes in ``[start, end)``, as they were decoded if the image can be shared; fewer where there are
        none, or where the image must not hold them."""
        memory = self._source
        if memory is not None:
            end = min(end, memory.size)
            for number in range(start >> 12, end + PAGE - 1 >> 12):
                prot = memory.table[number]
                if not prot & _EXEC or (self.owner is None and prot & _WX == _WX):
                    end = max(number << 12, start)
                    break
            return bytes(memory.view[start:end])
        out = bytearray()
        while start < end:
            number = start >> 12
            copy = self._copies.get(number, b"")
            last = PAGE if number + 1 in self._copies else len(copy)
            part = copy[start - (number << 12) : min(end - (number << 12), last)]
            if not part:
                break
            out += part
            start += len(part)
        return bytes(out)

    # -- decoding -----------------------------------------------------------------------------------------------

    def decode(self, pc: int, memory: GuestMemory | None = None) -> Decoded | Trap:
        """The instruction at a guest address of ``memory``, or the trap that fetching it is. Without a memory, that of
        which the image is made."""
        memory = memory or self._source
        if memory is None:
            try:
                return self._decode_bytes(self.text(pc, pc + self._length), pc)
            except DecodeError:
                return Trap(Cause.ILLEGAL, pc, pc)
        try:
            inside = pc % self.isa.unit == 0 and PAGE - pc % PAGE >= self._length and pc < memory.size
            if inside and memory.table[pc >> 12] & _EXEC:
                return self._decode_bytes(bytes(memory.view[pc : pc + self._length]), pc)
            from vm_core.execute import fetch

            return fetch(self.isa, memory, pc)
        except MemoryFault as fault:
            return Trap(Cause.FETCH, pc, fault.address, Access.EXEC, fault.mapped)
        except DecodeError:
            return Trap(Cause.ILLEGAL, pc, pc)

    def _decode_bytes(self, data: bytes, pc: int) -> Decoded:
        known = self._decoded.get(data)
        if known is None:
            # PERF: what comes behind a short instruction is often something else.
            short = data[: self.isa.length(data)]
            known = self._decoded.get(short)
            if known is None:
                known = self.isa.decode(data, pc)
                known.template  # noqa: B018  trace now: an Unimplemented is a decode error
                self._decoded[short] = known
            self._decoded[data] = known
        return known

    def record_at(self, address: int) -> int:
        """The offset in the record space of the record at a host address."""
        return address - self._space

    def record(self, pc: int) -> int | None:
        """The offset of a guest address's record in the record space, if its page has records."""
        page = self._records.get(pc >> 12)
        return None if page is None else page + (pc & PAGE - 1) // self.isa.unit * RECORD_BYTES

    def records(self) -> tuple[int, int, dict[int, int]]:
        """Where the records lie: the host address of the first page of them, the bytes of a page, and by its offset the
        guest page that it is of."""
        with self.lock:
            return self._space, self.record_page, {at: number for number, at in self._records.items()}

    def is_decoded(self, pc: int) -> bool:
        """Whether the instruction at ``pc`` has been decoded, that is, its block has run."""
        at = self.record(pc)
        return at is not None and self._words[at >> 3] not in (self._miss, self._illegal)

    def executed(self, near: range) -> dict[int, Decoded]:
        """The instructions in a range that have been decoded, but for those with a breakpoint."""
        # PERF: hundreds of them are asked for at once; the text is read in one piece.
        text, known, length, out = (
            self.text(near.start, near.stop + self._length),
            self._decoded,
            self._length,
            {},
        )
        for pc, at in self._places(near):
            if self._words[at >> 3] == self._illegal or pc in self.breakpoints:
                continue
            place = pc - near.start
            insn = known.get(text[place : place + length]) or self.decode(pc)
            if not isinstance(insn, Trap):
                out[pc] = insn
        return out

    def heat(self, pc: int) -> int:
        """How many jumps have gone to a decoded address, of 16 bits; 0 if it is not decoded."""
        if not self.is_decoded(pc):
            return 0
        at = self.record(pc)
        assert at is not None
        count = int.from_bytes(self._bytes[at + HEAT : at + HEAT + 2], "little")
        return max(count - int.from_bytes(self._heat, "little"), 0)

    def warm(self, near: range, least: int) -> Iterator[int]:
        """The decoded addresses in a range to which at least so many jumps have gone."""
        cold = int.from_bytes(self._heat, "little")
        for pc, at in self._places(near):
            if (self._bytes[at + HEAT] | self._bytes[at + HEAT + 1] << 8) - cold >= least:
                yield pc

    def _places(self, near: range) -> Iterator[tuple[int, int]]:
        """(address, offset of its record) of what is decoded in a range."""
        for number in range(near.start >> 12, (near.stop >> 12) + 1):
            page = self._records.get(number)
            if page is not None:
                unit, miss = self.isa.unit, self._miss
                low = -(-max(near.start - number * PAGE, 0) // unit)
                high = -(-min(near.stop - number * PAGE, PAGE) // unit)
                first = page >> 3
                handlers = self._words[first + low * 4 : first + high * 4 : 4].tolist()
                for slot, handler in enumerate(handlers, low):
                    if handler != miss:
                        yield number * PAGE + slot * unit, page + slot * RECORD_BYTES

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

    def _allocate(self) -> int:
        page = self._used
        if page + self.record_page > _RECORD_SPACE:
            raise VmError("the guest has executed more code than the record space holds (64 MiB of code)")
        self._used += (self.record_page + 63) & -64
        return page

    def is_decoded_page(self, number: int) -> bool:
        """Whether something of a guest page has been decoded."""
        return number in self._records

    def is_kept(self, number: int) -> bool:
        """Whether something of a guest page has been decoded, and it is as it was then."""
        copy = self._copies.get(number) if number in self._records else None
        return copy is not None and copy[:PAGE] == self.text(number * PAGE, (number + 1) * PAGE)

    def writes(self, number: int) -> bool:
        """Whether the guest can write and execute a page, as far as the image may hold such code."""
        return self.owner is not None and self.owner.table[number] & _WX == _WX

    def prepare_page(self, number: int) -> bool:
        """Have records for a page of code that is in the cache; False if code in other pages must look it up each time."""
        assert self._source is not None
        if number not in self._records:
            self._page(number, self._source)
            # It has records now: nobody will say that the guest comes there.
            if self.tiering is not None and self.tiering.waits(number):
                self.tiering.arrive(number)
        return bool(self._pages[number]) and number not in self._written and number not in self._lazy

    @contextmanager
    def reachable(self) -> Iterator[Callable[[int], bool]]:
        """Inside, the page table has the records of pages that the function is called for, though no vCPU has come to these pages; they are empty.
        It gives False for pages that code in others must look up each time."""
        hidden = []

        def reach(number: int) -> bool:
            if number in self._records or self.writes(number):
                return False
            page = self._reserved.get(number)
            if page is None:
                page = self._reserved[number] = self._allocate()
            hidden.append(number)
            self._pages[number] = self._space + page
            return True

        try:
            yield reach
        finally:
            for number in hidden:
                self._pages[number] = 0

    def restore_records(
        self, pcs: list[int], handlers: list[int], rows: bytes | memoryview
    ) -> list[tuple[int, int]]:
        """Decode what is at guest addresses, whose pages have records, as an earlier run did: a handler and a record each. Gives the index
        and the record's host address of those that have that handler now."""
        table = bytearray(rows)
        table[24::RECORD_BYTES] = table[LENGTH::RECORD_BYTES]
        memoryview(table).cast("Q")[:: RECORD_BYTES // 8] = memoryview(
            struct.pack(f"<{len(handlers)}Q", *handlers)
        ).cast("Q")
        kinds = bytes(table)
        pairs: dict[int, list[int]] = {}
        out = []
        for index, (pc, handler) in enumerate(zip(pcs, handlers, strict=True)):
            slot = (pc & PAGE - 1) // self.isa.unit
            at = self._records[pc >> 12] + slot * RECORD_BYTES
            now = self._words[at >> 3]
            if now == self._miss:
                pairs.setdefault(pc >> 12, []).extend((slot, index))
            elif now != handler:
                continue
            out.append((index, self._space + at))
        for number, found in pairs.items():
            packed = struct.pack(f"<{len(found)}I", *found)
            self.interpreter.restore(self._space + self._records[number], kinds, packed, len(found) // 2)
        return out

    def record_bytes(self, address: int) -> memoryview:
        """The record at a host address."""
        at = address - self._space
        return self._bytes[at : at + RECORD_BYTES]

    def _page(self, number: int, memory: GuestMemory) -> int:
        page = self._records.get(number)
        if page is None:
            reserved = self._reserved.pop(number, None)
            page = self._records[number] = self._allocate() if reserved is None else reserved
            self.interpreter.fill(self._space + page, number * PAGE, self.per_page, self._miss)
            tail = self.per_page * RECORD_BYTES
            self.interpreter.fill(
                self._space + page + tail,
                (number + 1) * PAGE,
                MAX_LENGTH[self.isa.unit] // self.isa.unit,
                self.interpreter.address["h_cross"],
            )
            self._copies[number] = self._copy(number, memory)
            self._pages[number] = self._space + page
            if memory.table[number] & _WX == _WX:
                if self._vcpus == 1 and self.owner is memory and reserved is None:
                    self._lazy.add(number)
                    self._enter_table(number)
                else:
                    self._compare_always((number,))
            elif self._code_size(number, memory) > PAGE and memory.table[number + 1] & _WX == _WX:
                # Its last instruction may reach into what the guest can write.
                self._compare_always((number,))
        return page

    def _copy(self, number: int, memory: GuestMemory) -> bytes:
        """The code of a page, and the start of the next, into which an instruction may reach."""
        return bytes(memory.view[number * PAGE : number * PAGE + self._code_size(number, memory)])

    def _code_size(self, number: int, memory: GuestMemory) -> int:
        """The bytes of a page's copy."""
        table = memory.table
        if not table[number] & _EXEC:
            return 0
        return PAGE + (self._length if number + 1 < len(table) and table[number + 1] & _EXEC else 0)

    def _context(self, number: int, memory: GuestMemory) -> ctypes.Array[ctypes.c_uint64]:
        """What the native decoder is told of a page."""
        made = self._contexts.get(number)
        if made is None:
            tables, handlers = self.interpreter.tables
            made = self._contexts[number] = (ctypes.c_uint64 * 8)(
                0,
                self._space + self._page(number, memory),
                0,
                ctypes.addressof(tables),
                ctypes.addressof(handlers),
                _BLOCK_LIMIT,
                0,
                BLOCK,
            )
        made[0], made[2] = memory.host_address + number * PAGE, memory.table_address + number
        cool = min(self._cooling.get(number, 0) * _COOLING, _COOLEST)
        made[6] = int.from_bytes(self._heat, "little") - cool & 0xFFFF
        if cool == _COOLEST:
            # PERF: one stop here for a small function that has just been written, not one for each of its blocks.
            made[7] = TRACE
        return made

    def predecode(self, pc: int, memory: GuestMemory | None = None) -> Trap | None:
        """Decode the block at ``pc`` of ``memory`` into records. A trap only if its first instruction cannot be fetched.
        Without a memory, what the image is made of."""
        with self.lock:
            memory = memory or self._source
            if memory is None:
                return Trap(Cause.FETCH, pc, pc)
            first = pc
            number = pc >> 12
            if number in self._records and not self._pages[number]:
                self._look(number)
                if self.is_decoded(pc):
                    return None
            if self.tiering is not None and self.tiering.waits(number):
                with self.reading(memory):
                    self.tiering.arrive(number)
                if self.is_decoded(pc):
                    return None
            at_ = self.record(pc)
            if at_ is not None and self._words[at_ >> 3] == self._illegal:
                # It was no instruction, and native code has no signal handler to enter: look again.
                self._words[at_ >> 3] = self._miss
            decode = self.interpreter.decode
            if decode is not None and not (self.breakpoints or pc & self.isa.unit - 1 or pc >= memory.size):
                context = self._context(number, memory)
                # SAFETY: the context names the page's bytes in the arena and its records, which live as long as this.
                stopped = decode(ctypes.addressof(context), pc & PAGE - 1)
                if stopped < NEEDS_PYTHON:
                    self.stats.blocks_decoded += 1
                    return None
                pc = number * PAGE + (stopped & NEEDS_PYTHON - 1)
            for _ in range(_BLOCK_LIMIT):
                insn = self.decode(pc, memory)
                if isinstance(insn, Trap):
                    if pc != first:
                        return None
                    at_ = self.record(pc)
                    if at_ is not None and insn.cause is Cause.ILLEGAL and PAGE - pc % PAGE >= self._length:
                        # The next time, native code may enter the guest's signal handler.
                        self._words[at_ >> 3] = self._illegal
                    return insn
                page = self._page(number, memory)
                at = page + (pc & PAGE - 1) // self.isa.unit * RECORD_BYTES
                if self._words[at >> 3] != self._miss:
                    return None
                if decode is not None:
                    self.slow.add(pc)
                handler, operands, ends = self._operands(insn, bytes(memory.view[pc : pc + insn.length]))
                self._bytes[at + 8 : at + 28] = operands + self._heat + insn.length.to_bytes(2, "little")
                self._words[at >> 3] = (
                    self.interpreter.address["h_breakpoint"] if pc in self.breakpoints else handler
                )
                pc += insn.length
                if ends or pc >> 12 != number:
                    break
            self.stats.blocks_decoded += 1
            return None

    def answer_misses(self) -> None:
        """From now on native code may decode by itself: there is one vCPU, and it is not in native code."""
        decode = self.interpreter.decode
        if decode is not None and not (self._together or self.breakpoints or self.options.eager):
            tables, handlers = self.interpreter.tables
            native = self._native
            native[_DECODE] = self.interpreter.address["decode"]
            native[_CONTEXT + 3 : _PATIENCE] = [
                ctypes.addressof(tables), ctypes.addressof(handlers), _BLOCK_LIMIT, int.from_bytes(self._heat, "little"), BLOCK,
            ]  # fmt: skip
            native[_MISSES] = 0

    def leave_misses(self) -> None:
        """From now on Python decodes, under the lock."""
        self._together = True
        # SAFETY: the words live as long as the image.
        self.interpreter.hold(self.words_address + 8 * _MISSES)

    def forked(self) -> None:
        """In the child of a fork: there is one vCPU again, and it is not in native code."""
        # The parent keeps what there is; most children end soon, or run another program.
        self.program = None
        self._together = False
        self.answer_misses()

    def collect(self) -> None:
        """Bring the figures up to date."""
        with self.lock:
            now = self._native[_BLOCKS]
            self.stats.blocks_decoded += now - self._collected
            self._collected = now

    def _operands(self, insn: Decoded, key: bytes) -> tuple[int, bytes, bool]:
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

    def hot(self, pc: int, vcpu: int, retired: int, optimised: int) -> None:
        """Native code reports that ``pc`` is warm, for the baseline tier, or hot, for the optimising one. ``retired`` are the
        instructions of the ``vcpu`` so far, ``optimised`` those in regions."""
        if self.baseline is not None and self.baseline.request(pc) and not self.options.eager:
            at = self.record(pc)
            if at is None or self._bytes[at + HEAT] | self._bytes[at + HEAT + 1] << 8 < HOT:
                return
        if self.tiering is not None:
            at = self.record(pc)
            turned = at is not None and self._bytes[at + TURNS]
            self.tiering.account.note(vcpu, retired, optimised)
            self.tiering.request(pc, self._native[_PATIENCE] + 1 if turned else 1)

    def be_patient(self, turns: int) -> None:
        """Native code shall report a place only after so many turns of its heat, a power of two up to 128, each of 65,536 jumps."""
        self._native[_PATIENCE] = turns - 1

    # -- what the cache keeps ------------------------------------------------------------------------------------

    @property
    def reach(self) -> int:
        """How many bytes of the next page an instruction that begins in a page may need."""
        return self._length

    def restore_page(self, number: int, kinds: bytes, slots: bytes, count: int) -> None:
        """Decode a page as an earlier run did. ``kinds`` has rows of 32 bytes (handler, operands, length), ``slots`` pairs of
        32 bits (slot in the page, index in ``kinds``), both checked."""
        self.prepare_page(number)
        self.interpreter.restore(self._space + self._records[number], kinds, slots, count)
        if self.interpreter.decode is not None:
            first = number * PAGE
            self.slow.update(
                first + slot * self.isa.unit for slot in memoryview(slots).cast("I")[::2].tolist()
            )

    def is_code(self, start: int, end: int) -> bool:
        """Whether all of a range is code that the image may hold. While it starts."""
        return 0 <= start < end and len(self.text(start, end)) == end - start

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
            if not self.is_kept(number):
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

    def has_run(self, start: int, end: int) -> bool:
        """Whether there is code from guest bytes in ``[start, end)``."""
        first, last = max(start - self._length, 0) >> 12, end - 1 >> 12
        with self.lock:
            return any(first <= number <= last for number in self._records)

    def invalidate(self, start: int, end: int) -> None:
        """Forget what was made from guest bytes in ``[start, end)``. For an image with an owner."""
        with self.lock:
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
                    self._forget(number, start, end)

    def _forget(self, number: int, start: int, end: int) -> None:
        """Forget what was decoded from guest bytes in ``[start, end)`` on a page."""
        assert self.owner is not None
        if number not in self._lazy:
            self._compare_always((number,))
        base, unit = number * PAGE, self.isa.unit
        old, new = self._copies[number], self._copy(number, self.owner)
        if len(old) == len(new):
            # A record before may lead to a handler that does this instruction too.
            low = max(start - self._length * self.interpreter.longest - base, 0) // unit * unit
            high = min(end - base, PAGE)
            # Other bytes may have changed too, but nobody has said so yet.
            changed = slice(max(start - base, 0), max(end - base, 0))
            new = old[: changed.start] + new[changed] + old[changed.stop :]
        else:
            low, high = 0, PAGE
        count = (high - low + unit - 1) // unit
        # In place: another thread may be among these records, and meets the miss handler at its next step.
        self.interpreter.fill(
            self._space + self._records[number] + low // unit * RECORD_BYTES, base + low, count, self._miss
        )
        self._copies[number] = new

    def synchronize(self, start: int, end: int) -> None:
        """Forget what was made from guest bytes in ``[start, end)`` that have changed since. For an image with an owner."""
        memory = self.owner
        assert memory is not None
        with self.lock:
            # The vCPU that asks is the only one, and goes on by the table.
            self._leave_table()
            table = memory.table
            # A page has the beginning of the next one's code too, where an instruction lies on both.
            pages = range(max(start - self._length, 0) >> 12, (end + PAGE - 1) >> 12)
            few = pages.stop - pages.start < len(self._written)
            for number in [n for n in pages if n in self._written] if few else list(self._written):
                if any(prot & _WX == _WX for prot in table[number : number + 2]):
                    self._compare(number)

    def _compare(self, number: int) -> None:
        """Forget what was made from bytes of a page that have changed since."""
        memory = self.owner
        assert memory is not None
        old, size = self._copies[number], self._code_size(number, memory)
        if len(old) != size:
            start, end = 0, PAGE
        elif not size:
            return
        else:
            # SAFETY: the page is the guest's and, being code, readable; so is what the copy has of the next one.
            found = self.interpreter.differ(old, memory.host_address + (number << 12), size)
            if not found:
                return
            start, end = found & 0xFFFF_FFFF, found >> 32
        self._cooling[number] = self._cooling.get(number, 0) + 1
        self.invalidate((number << 12) + start, (number << 12) + end)

    def _enter_table(self, number: int) -> None:
        """Make a page that is not compared at each fence known to native code."""
        if self._native[_LOOKED] == _MOST_LOOKED:
            # The vCPU is here, and will go on by the table.
            self._leave_table()
        self._pages[number] = self._space + self._records[number]
        self._native[_LOOKED + 1 + self._native[_LOOKED]] = number
        self._native[_LOOKED] += 1

    def _leave_table(self) -> None:
        """Take all those pages out of the table."""
        for number in self._native[_LOOKED + 1 : _LOOKED + 1 + self._native[_LOOKED]]:
            self._pages[number] = 0
        self._native[_LOOKED] = 0

    def _look(self, number: int) -> None:
        """The guest comes to a page for the first time after a fence."""
        self._compare(number)
        if number in self._lazy:
            self._enter_table(number)
        else:
            self._pages[number] = self._space + self._records[number]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, native code leaves fences to Python, where they wait for the image's lock, which is held. For all that is not done by
        the vCPU."""
        # SAFETY: the words live as long as the image.
        before = self.interpreter.hold(self.words_address + 8 * _FENCES)
        try:
            yield
        finally:
            self._native[_FENCES] = before or bool(self._written)

    def _compare_always(self, numbers: Iterable[int]) -> None:
        """From now on each fence compares the bytes of these pages."""
        self._written.update(numbers)
        self._native[_FENCES] |= bool(self._written)

    def follow(self, numbers: Container[int]) -> None:
        """As _compare_always, for pages to which code will lead that does not look them up."""
        found = [number for number in self._lazy if number in numbers]
        if not found:
            return
        looked = self._native[_LOOKED + 1 : _LOOKED + 1 + self._native[_LOOKED]]
        self._leave_table()
        for number in looked:
            if number not in found:
                self._enter_table(number)
        for number in found:
            if number not in looked:
                self._compare(number)
            self._lazy.remove(number)
            self._pages[number] = self._space + self._records[number]
        self._compare_always(found)

    def share(self) -> None:
        """There is a second vCPU, which may be in a page when the first one reaches a fence."""
        self.leave_misses()
        with self.lock:
            self._vcpus = 2
            self._native[_FENCES] = 1
            self.follow(range(_PAGES_COUNT))

    def watch(self, ranges: ctypes.Array[ctypes.c_uint64] | None) -> None:
        """The ranges that are watched, as native code reads them. For an image with an owner, or None."""
        self._ranges = ranges
        # SAFETY: the array lives as long as the image, or until there is another.
        self._native[_WATCHES] = 0 if ranges is None else ctypes.addressof(ranges)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """As Engine.set_breakpoints. For an image with an owner."""
        if addresses:
            self.leave_misses()
        with self.lock:
            changed = addresses ^ self.breakpoints
            self.breakpoints = addresses
            for pc in changed:
                self.invalidate(pc, pc + 1)

    # -- eviction -----------------------------------------------------------------------------------------------

    def made(self, one: Evictable, drop: Callable[[Any], None]) -> None:
        """A unit or a region has come into use; ``drop`` takes it out again, and calls :meth:`dropped`. If there is too
        much code now, the oldest goes. The lock is held."""
        self._made[one] = drop
        self.code_bytes += one.block.size
        while self.code_bytes > self.options.code_memory and len(self._made) > 1:
            self.evict(next(iter(self._made)))

    def dropped(self, one: Evictable) -> None:
        """A unit or a region is out of use. The lock is held."""
        del self._made[one]
        self.code_bytes -= one.block.size

    def evict(self, one: Evictable) -> None:
        """Take a piece of code out of use for want of room. What is still hot is soon reported again. The lock is held."""
        self._made[one](one)
        for at in one.records(self):
            self._cool(at)
        extra = self.stats.extra
        extra["evicted"] = extra.get("evicted", 0) + 1

    def cool(self, pc: int) -> None:
        """Have a place reported again when it is warm once more."""
        with self.lock:
            at = self.record(pc)
            if at is not None:
                self._cool(at)

    def _cool(self, at: int) -> None:
        self._bytes[at + HEAT : at + HEAT + 2] = self._heat
        self._bytes[at + TURNS] = 0

    @property
    def pages(self) -> tuple[int, ...]:
        """The numbers of the guest pages that have records."""
        return tuple(self._records)

    @property
    def compiled(self) -> tuple[Evictable, ...]:
        """The units and regions in use, oldest first."""
        return tuple(self._made)

    def close(self) -> None:
        """Give the tables back. Nobody uses them any more."""
        if self.tiering is not None:
            self.tiering.close()
        if self.program is not None:
            self.program.save()
        if self.baseline is not None:
            try:
                self.baseline.save()
            except CacheError as error:
                warn("the code of the baseline tier is not cached", error)
            self.baseline.close()
        if self.tiering is not None:
            self.tiering.release()
        self.abandon()

    def abandon(self) -> None:
        """Give the tables back, but no code. Nobody uses them any more."""
        self._words.release()
        self._bytes.release()
        self._pages.release()
        # SAFETY: the views are released and no vCPU runs there (_settle).
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
