"""Where the time of a run goes, by sampling: for each thread a timer of its own processor time, whose signal interrupts it.

The signal's handler is native code, which takes no lock and calls nothing: it writes the host's pc, what the interpreter keeps in
registers, the vCPU's pc and the return addresses of compiled code that it finds on the host stack to the thread's buffer. What they
mean is worked out after the run. Until then no code memory is given back, so that an address means one piece of code only.

    profiler = Profiler()
    profiler.start()
    ... engine = profiler.watch(create("jit", isa, memory, lines=True)) ...
    profiler.stop()
    samples = profiler.samples()

SIGPROF is the profiler's from the first start on. A child that this process forks (as a guest does) is sampled too, by a copy of
the profiler, whose samples are to be taken there; other processes, such as those that compile, are not.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from vm_core.errors import CacheError, HostError
from vm_core.record import record
from vm_core.state import HEADER
from vm_jit import engine as engines
from vm_jit.cache import Cache, warn
from vm_jit.code_memory import Image, link
from vm_jit.compiler import Compiler, host_key
from vm_jit.digest import blake2b
from vm_jit.faults import State
from vm_jit.hoststack import host_stack
from vm_jit.lines import place_at
from vm_jit.records import RECORD_BYTES, Reason

if TYPE_CHECKING:
    from types import FrameType

    from vm_core.engine import Engine
    from vm_core.memory import GuestMemory
    from vm_core.spec.isa import Isa
    from vm_core.state import CpuState
    from vm_jit.code_memory import CodeBlock, Places
    from vm_jit.engine import CodeImage

__all__ = ["TIERS", "HotCode", "HotRow", "Profiler", "Sample"]

TIERS: Final = {
    "llvm": "optimised code",
    "baseline": "baseline code",
    "interpreter": "interpreter",
    "native call": "system calls, native",
    "call": "system calls, Python",
    "signal": "signals and faults, native",
    "emulation": "instructions in Python",
    "decoding": "decoding",
    "tiering": "baseline compiler and requests",
    "compiling": "preparing code for LLVM",
    "engine": "engine, Python",
    "start": "starting",
    "finish": "saving and closing",
    "other": "other threads",
}
"""Where a sample fell, and how to say it."""

_BUFFER: Final = 64 << 20
_HITS: Final = 96
_DEEPEST: Final = 2048
_HEAD: Final = 9
_LARGEST: Final = 8 * (_HEAD + _HITS)
_NEAR_HIT: Final = 48
"""Words: a C function that native code of ours calls has a frame smaller than this."""
_SYS_GETTID, _SYS_TIMER_CREATE, _SYS_TIMER_SETTIME, _SYS_TIMER_DELETE = 186, 222, 223, 226
_CLOCK_THREAD_CPUTIME_ID: Final = 3
_SIGEV_THREAD_ID: Final = 4
_ACTION: Final = struct.Struct("<Q128xI4xQ")
_FLAGS: Final = 4 | 0x08000000 | 0x10000000  # SA_SIGINFO | SA_ONSTACK | SA_RESTART

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
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


class _Slot(ctypes.Structure):
    """What the handler knows of a thread. Samples go to ``next``, up to ``end``; ``stack`` is the thread's own, ``cpu`` its vCPU's
    state while it is in an engine, in which ``number`` is the offset of the register with a system call's number."""

    _fields_ = (
        ("next", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("cpu", ctypes.c_uint64),
        ("stack_low", ctypes.c_uint64),
        ("stack_end", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("phase", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("python", ctypes.c_uint64),
        ("python_size", ctypes.c_uint64),
    )


_START, _RUN, _FINISH, _JIT, _OTHER = range(5)
"""The phases of a thread."""


def _field(name: str, value: str, at: int) -> str:
    return f"  %{name}.to = getelementptr i8, ptr %next, i64 {8 * at}\n  store i64 {value}, ptr %{name}.to"


def _loaded(name: str, base: str, offset: int | str, type_: str = "i64") -> str:
    return (
        f"  %{name}.of = getelementptr i8, ptr {base}, i64 {offset}\n  %{name} = load {type_}, ptr %{name}.of"
    )


HANDLER: Final = f"""\
@vm_faults = external global i8
define dso_local void @sample(i32 %signal, ptr %info, ptr %context) nounwind {{
entry:
{_loaded("code", "%info", 8, "i32")}
  %timer = icmp eq i32 %code, -2
  br i1 %timer, label %ours, label %done
ours:
{_loaded("slot", "%info", 24, "ptr")}
  %next = load ptr, ptr %slot
{_loaded("end", "%slot", _Slot.end.offset, "ptr")}
  %last = getelementptr i8, ptr %next, i64 {_LARGEST}
  %full = icmp ugt ptr %last, %end
  br i1 %full, label %lose, label %room
lose:
{_loaded("lost", "%slot", _Slot.lost.offset)}
  %lost.now = add i64 %lost, 1
  store i64 %lost.now, ptr %lost.of
  br label %done
room:
{_loaded("overrun", "%info", 20, "i32")}
  %missed = zext i32 %overrun to i64
  %count = add i64 %missed, 1
{_loaded("rip", "%context", 168)}
{_loaded("r12", "%context", 72)}
{_loaded("r13", "%context", 80)}
{_loaded("rsp", "%context", 160)}
{_loaded("phase", "%slot", _Slot.phase.offset)}
{_loaded("cpu", "%slot", _Slot.cpu.offset, "ptr")}
{_field("f1", "%rip", 1)}
{_field("f2", "%r12", 2)}
{_field("f3", "%r13", 3)}
{_field("f4", "%count", 4)}
{_field("f5", "%phase", 5)}
  %outside = icmp eq ptr %cpu, null
  br i1 %outside, label %no.cpu, label %in.cpu
no.cpu:
{_field("n6", "0", 6)}
{_field("n7", "0", 7)}
{_field("n8", "0", 8)}
  br label %stack
in.cpu:
{_loaded("pc", "%cpu", HEADER["pc"])}
{_loaded("reason", "%cpu", HEADER["reason"])}
{_loaded("at", "%slot", _Slot.number.offset)}
{_loaded("number", "%cpu", "%at")}
{_field("c6", "%pc", 6)}
{_field("c7", "%reason", 7)}
{_field("c8", "%number", 8)}
  br label %stack
stack:
{_loaded("low", "%slot", _Slot.stack_low.offset)}
{_loaded("top", "%slot", _Slot.stack_end.offset)}
{_loaded("python", "%slot", _Slot.python.offset)}
{_loaded("python.size", "%slot", _Slot.python_size.offset)}
  %codes = load i64, ptr @vm_faults
  %above = icmp uge i64 %rsp, %low
  %below = icmp ult i64 %rsp, %top
  %inside = and i1 %above, %below
  %bytes = sub i64 %top, %rsp
  %all = lshr i64 %bytes, 3
  %less = icmp ult i64 %all, {_DEEPEST}
  %some = select i1 %less, i64 %all, i64 {_DEEPEST}
  %words = select i1 %inside, i64 %some, i64 0
  br label %scan
scan:
  %i = phi i64 [ 0, %stack ], [ %i.next, %step ]
  %hits = phi i64 [ {_HEAD}, %stack ], [ %hits.next, %step ]
  %more = icmp ult i64 %i, %words
  %space = icmp ult i64 %hits, {_HEAD + _HITS}
  %go = and i1 %more, %space
  br i1 %go, label %look, label %finish
look:
  %i.bytes = shl i64 %i, 3
  %word.at = add i64 %rsp, %i.bytes
  %word.ptr = inttoptr i64 %word.at to ptr
  %word = load i64, ptr %word.ptr
  %from = sub i64 %word, %python
  %is.python = icmp ult i64 %from, %python.size
  br i1 %is.python, label %hit, label %chunk
chunk:
  %j = phi i64 [ 0, %look ], [ %j.next, %chunk.next ]
  %others = icmp ult i64 %j, %codes
  br i1 %others, label %match, label %step
match:
  %j.bytes = mul i64 %j, 24
  %j.place = add i64 %j.bytes, {State.codes.offset}
  %a = getelementptr i8, ptr @vm_faults, i64 %j.place
  %begin = load i64, ptr %a
  %b = getelementptr i8, ptr %a, i64 8
  %stop = load i64, ptr %b
  %ge = icmp uge i64 %word, %begin
  %lt = icmp ult i64 %word, %stop
  %mine = and i1 %ge, %lt
  br i1 %mine, label %hit, label %chunk.next
chunk.next:
  %j.next = add i64 %j, 1
  br label %chunk
hit:
  %depth = shl i64 %i, 48
  %tagged = or i64 %word, %depth
  %hit.at = getelementptr i64, ptr %next, i64 %hits
  store i64 %tagged, ptr %hit.at
  %hits.one = add i64 %hits, 1
  br label %step
step:
  %hits.next = phi i64 [ %hits, %chunk ], [ %hits.one, %hit ]
  %i.next = add i64 %i, 1
  br label %scan
finish:
  store i64 %hits, ptr %next
  %after = getelementptr i64, ptr %next, i64 %hits
  store ptr %after, ptr %slot
  br label %done
done:
  ret void
}}
"""
"""The handler, for x86-64 Linux: rsp and rip lie 160 and 168 bytes into the ucontext, r12 and r13 72 and 80."""


@record(frozen=True)
class Sample:
    """``seconds`` of processor time that ``thread`` spent in one place. ``tier`` is a key of TIERS. ``stack`` are guest addresses, the
    outermost first: of calls in compiled code, and last of the instruction itself; without the callers of code that is not
    compiled, which are not known. ``call`` is the number of a system call, or -1."""

    thread: str
    tier: str
    stack: tuple[int, ...]
    call: int
    seconds: float


@record(frozen=True)
class HotRow:
    """The host code of one guest instruction, or of several that begin with the one at ``pc``, and the time spent in it."""

    pc: int
    code: bytes
    seconds: float


@record(frozen=True)
class HotCode:
    """A piece of compiled guest code, as it lies in memory. ``address`` is the host's; ``tier`` a key of TIERS."""

    tier: str
    address: int
    seconds: float
    rows: tuple[HotRow, ...]


@record(eq=False)
class _Piece:
    """Guest code of a tier, and what it was made from."""

    block: CodeBlock
    tier: str
    places: Places


@record(eq=False)
class _Records:
    """Where the records of an image lie: host address, bytes of a page's records, guest page by offset."""

    start: int
    page_bytes: int
    pages: dict[int, int]
    unit: int


@record(eq=False)
class _Thread:
    name: str
    slot: _Slot
    buffer: int
    timer: int


_alive: Final[list[_Slot]] = []
"""A timer's last signal may come after it is deleted, so slots stay."""
_handler = 0


class Profiler:
    """Samples this process between :meth:`start` and :meth:`stop`; ``interval`` is in seconds of a thread's processor time. A kernel
    looks at such timers 100 to 1000 times a second; what it misses, a sample counts for."""

    def __init__(self, interval: float = 0.001, cache: Cache | None = None) -> None:
        if os.uname().machine != "x86_64":
            raise HostError("vm profile works on x86-64 hosts only", hint="vm run --stats works everywhere")
        self.interval = interval
        self._threads: list[_Thread] = []
        self._lock = threading.Lock()
        self._local = threading.local()
        self._pieces: list[_Piece] = []
        self._hits: dict[int, tuple[_Piece, dict[int, float]]] = {}
        self._records: dict[int, _Records] = {}
        self._number = 0
        self._slow = False  # the engine has no native code
        self._started = self._stopped = False
        self._install(cache)
        self._python = _mapping_of(ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value or 0)

    def _install(self, cache: Cache | None) -> None:
        global _handler
        if not _handler:
            key = blake2b(HANDLER.encode(), digest_size=16).hexdigest()
            name = f"profiler-{key[:16]}-{host_key()[:16]}"
            image = None
            try:
                found = cache.read(name) if cache is not None else None
                image = Image.unpack(found["image"]) if found is not None else None
            except (CacheError, KeyError) as error:
                warn("the cached profiler is not used", error)
            if image is None:
                compiler = Compiler()
                try:
                    image = link(compiler.compile(HANDLER))
                finally:
                    compiler.close()
                if cache is not None:
                    try:
                        cache.write(name, {"image": image.pack()})
                    except CacheError as error:
                        warn("the profiler is not cached", error)
            _handler = engines._own_code.place(image).symbols["sample"]
        # SAFETY: struct sigaction is 152 bytes on 64-bit Linux: handler, 128 bytes of mask, flags, restorer. The handler stays.
        if _libc.sigaction(signal.SIGPROF, _sigaction(_handler), None):
            raise HostError("cannot handle SIGPROF")

    # -- threads ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with this thread, and with each that starts from now on."""
        engines._code.listener = self._placed
        if not self._started:
            self._started = True
            os.register_at_fork(after_in_child=self._forked)
        threading.setprofile(self._thread_starts)
        self._arm(_START)

    def _forked(self) -> None:
        """In the child of a fork, whose only thread this is. It has inherited no timer."""
        if self._stopped or not self._started:
            return
        before: _Slot | None = getattr(self._local, "slot", None)
        self._lock = threading.Lock()
        self._threads = []
        self._arm(_RUN)
        if before is not None:
            self._local.slot.cpu = before.cpu

    def stop(self) -> None:
        """End. Threads that still run are sampled no more."""
        self._stopped = True
        threading.setprofile(None)
        engines._code.listener = None
        with self._lock:
            for one in self._threads:
                _libc.syscall(_SYS_TIMER_DELETE, one.timer)
                one.slot.end = 0

    def _thread_starts(self, _frame: FrameType, _event: str, _argument: object) -> None:
        sys.setprofile(None)
        name = threading.current_thread().name
        self._arm(_JIT if name == "vm-jit" else _RUN if name.startswith("vm-guest") else _OTHER)

    def _arm(self, phase: int) -> None:
        slot = _Slot()
        low, end = host_stack()
        buffer = _libc.mmap(None, _BUFFER, 3, 0x4022, -1, 0)
        if buffer in (None, ctypes.c_void_p(-1).value):
            raise HostError("cannot reserve memory for samples", hint="raise ulimit -v")
        slot.next, slot.end = buffer, buffer + _BUFFER
        slot.stack_low, slot.stack_end = low, end
        slot.phase, slot.number = phase, self._number
        slot.python, slot.python_size = self._python
        _alive.append(slot)
        # struct sigevent: the value that the signal brings, the signal, how, and the thread.
        event = struct.pack(
            "<QiiI44x",
            ctypes.addressof(slot),
            signal.SIGPROF,
            _SIGEV_THREAD_ID,
            _libc.syscall(_SYS_GETTID),
        )
        timer = ctypes.c_int()
        # SAFETY: slot and buffer stay; the handler writes below `end` only. The kernel copies what is passed.
        if _libc.syscall(_SYS_TIMER_CREATE, _CLOCK_THREAD_CPUTIME_ID, event, ctypes.byref(timer)):
            raise HostError(f"cannot make a timer ({os.strerror(ctypes.get_errno())})")
        every = divmod(round(self.interval * 1e9), 1_000_000_000)
        _libc.syscall(_SYS_TIMER_SETTIME, timer, 0, struct.pack("<qqqq", *every, *every), None)
        with self._lock:
            self._threads.append(
                _Thread(threading.current_thread().name, slot, cast("int", buffer), timer.value)
            )
        self._local.slot = slot

    def watch(self, engine: Engine) -> Engine:
        """Make an engine known, before anything runs in it: which vCPU runs on which thread. Returns it."""
        run = engine.run
        isa: Isa | None = getattr(engine, "isa", None)
        if isa is not None:
            from vm_core.linux.abi import abi_of

            self._number = 8 * abi_of(isa.name, isa.layout).number_word
        self._slow = not isinstance(engine, engines.NativeEngine)
        local = self._local

        def watched(cpu: CpuState, memory: GuestMemory, limit: int, call: Any = None) -> Any:
            slot: _Slot | None = getattr(local, "slot", None)
            if slot is None:
                return run(cpu, memory, limit, call)
            slot.phase, slot.number = _RUN, self._number
            slot.cpu = cpu.address
            try:
                return run(cpu, memory, limit, call)
            finally:
                slot = local.slot  # another one in the child of a fork
                slot.cpu = 0
                self._look(engine)

        def close() -> None:
            self._look(engine)
            slot: _Slot | None = getattr(local, "slot", None)
            if slot is not None:
                slot.phase = _FINISH
            closing()

        closing = engine.close
        vars(engine).update(run=watched, close=close)
        return engine

    def _look(self, engine: Engine) -> None:
        """Remember where the records of the engine's image lie: until it is closed, they stay there."""
        image: CodeImage | None = getattr(engine, "_image", None)
        if image is not None:
            start, page_bytes, pages = image.records()
            self._records[start] = _Records(start, page_bytes, pages, image.isa.unit)

    def _placed(self, block: CodeBlock, tier: str, places: Places) -> None:
        """A block of guest code comes into use."""
        with self._lock:
            engines._code.retain(block)
            self._pieces.append(_Piece(block, tier, places))

    # -- afterwards ---------------------------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Samples for which there was no room."""
        return sum(one.slot.lost for one in self._threads)

    def drain(self) -> list[Sample]:
        """The samples so far, which are forgotten: while the guest's code is still there. Its threads must not be running."""
        with self._lock:
            kept = [(one, one.slot.end) for one in self._threads]
        for one, _ in kept:
            one.slot.end = 0  # the handler leaves the buffer alone
        found = list(self.samples())
        for one, end in kept:
            one.slot.next, one.slot.end = one.buffer, end
        return found

    def samples(self) -> Iterator[Sample]:
        """All samples of all threads. After :meth:`stop`."""
        pieces = sorted(self._pieces, key=lambda piece: piece.block.execute)
        starts = [piece.block.execute for piece in pieces]
        own = sorted(
            (address, name)
            for known in engines._interpreters.values()
            for name, address in known.address.items()
        )
        addresses = [address for address, _ in own]
        chunks = [
            (chunk.execute, chunk.execute + chunk.size)
            for code in (engines._code, engines._own_code)
            for chunk in code._chunks
        ]

        def piece_at(address: int) -> _Piece | None:
            at = bisect.bisect_right(starts, address) - 1
            return pieces[at] if at >= 0 and address < starts[at] + pieces[at].block.size else None

        def name_at(address: int) -> str:
            """The native function of ours at a host address; empty for none."""
            if not any(start <= address < end for start, end in chunks):
                return ""
            at = bisect.bisect_right(addresses, address) - 1
            return own[at][1] if at >= 0 else ""

        for one in self._threads:
            for words in _read(one):
                yield self._sample(one.name, words, piece_at, name_at)

    def hot(self, most: int) -> list[HotCode]:
        """The pieces of code that took longest, of the samples that have been taken."""
        found = sorted(self._hits.values(), key=lambda one: -sum(one[1].values()))[:most]
        out = []
        for piece, offsets in found:
            starts, pcs = piece.places
            rows = []
            for at, pc in enumerate(pcs):
                begin = starts[at] if at else 0
                end = starts[at + 1] if at + 1 < len(starts) else piece.block.size
                if piece.tier == "llvm" and at + 1 == len(pcs) and at:
                    end = begin  # its table ends where the code does
                # SAFETY: the block is retained since it came into use, so [begin, end) of it is readable.
                code = ctypes.string_at(piece.block.execute + begin, max(end - begin, 0))
                spent = sum(seconds for offset, seconds in offsets.items() if begin <= offset < end)
                if at + 1 == len(pcs):
                    code = code.rstrip(b"\0")  # what pads it, and constants
                if code:
                    rows.append(HotRow(pc, code, spent))
            out.append(HotCode(piece.tier, piece.block.execute, sum(offsets.values()), tuple(rows)))
        return out

    def _sample(self, thread: str, words: tuple[int, ...], piece_at: Any, name_at: Any) -> Sample:
        _, rip, _, r13, count, phase, pc, reason, number, *hits = words
        seconds = count * self.interval
        piece = piece_at(rip)
        if piece is not None:
            offsets = self._hits.setdefault(id(piece), (piece, {}))[1]
            offsets[rip - piece.block.execute] = offsets.get(rip - piece.block.execute, 0.0) + seconds
            stack = [place_at(piece.places, rip - piece.block.execute)]
            if piece.tier == "llvm":
                for hit in hits:
                    back = hit & (1 << 48) - 1
                    outer = piece_at(back)
                    if outer is not None and outer.tier == "llvm":
                        # A return address: the call is in front of it.
                        stack.append(place_at(outer.places, back - 1 - outer.block.execute))
            return Sample(thread, piece.tier, tuple(at for at in reversed(stack) if at), -1, seconds)
        name = name_at(rip)
        if not name and phase == _RUN and reason == Reason.MISS:
            # A function of the C library, perhaps called by native code of ours.
            near = [hit & (1 << 48) - 1 for hit in hits if hit >> 48 < _NEAR_HIT]
            name = name_at(near[0]) if near else ""
        at = self._record(r13)
        where = () if at is None else (at,)
        if name in ("native_call", "host_call", "allowed"):
            return Sample(thread, "native call", where, number, seconds)
        if name in ("deliver", "fault", "fault_handler", "h_fault", "h_illegal"):
            return Sample(thread, "signal", where, -1, seconds)
        if name in ("decode", "fill", "restore"):
            return Sample(thread, "decoding", (), -1, seconds)
        if name.startswith("h") or name in ("enter", "nowhere"):
            return Sample(thread, "interpreter", where, -1, seconds)
        if phase == _RUN and pc:
            match reason:
                case Reason.SYSCALL:
                    return Sample(thread, "call", (pc,), number, seconds)
                case Reason.MISS:
                    return Sample(thread, "decoding", (), -1, seconds)
                case Reason.HOT:
                    return Sample(thread, "tiering", (), -1, seconds)
                case Reason.EMULATE:
                    return Sample(thread, "emulation", (pc,), -1, seconds)
                case _ if self._slow:
                    return Sample(thread, "emulation", (pc,), -1, seconds)
                case _:
                    return Sample(thread, "engine", (), -1, seconds)
        tier = {_START: "start", _RUN: "engine", _FINISH: "finish", _JIT: "compiling"}.get(phase, "other")
        return Sample(thread, tier, (), -1, seconds)

    def _record(self, address: int) -> int | None:
        """The guest address whose record is at a host address."""
        for one in self._records.values():
            offset = address - one.start
            if 0 <= offset < 1 << 30 and offset % RECORD_BYTES == 0:
                # Pages of records lie one behind the other, on 64 bytes.
                size = (one.page_bytes + 63) & -64
                number = one.pages.get(offset // size * size)
                if number is not None:
                    return number * 4096 + offset % size // RECORD_BYTES * one.unit
        return None


def _read(thread: _Thread) -> Iterator[tuple[int, ...]]:
    """The samples in a thread's buffer."""
    size = thread.slot.next - thread.buffer
    # SAFETY: the handler wrote so many bytes there, and writes no more; the buffer is never unmapped.
    words = memoryview((ctypes.c_uint64 * (size // 8)).from_address(thread.buffer)).cast("B").cast("Q")
    at = 0
    while at < len(words):
        count = words[at]
        yield tuple(words[at : at + count])
        at += count


def _sigaction(handler: int) -> Any:
    return ctypes.create_string_buffer(_ACTION.pack(handler, _FLAGS, 0), 152)


def _mapping_of(address: int) -> tuple[int, int]:
    """Start and size of the mapping that an address of this process lies in."""
    with open("/proc/self/maps") as file:
        for line in file:
            start, _, end = line.split(" ", 1)[0].partition("-")
            if int(start, 16) <= address < int(end, 16):
                return int(start, 16), int(end, 16) - int(start, 16)
    return 0, 0
