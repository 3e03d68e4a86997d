"""System calls on descriptors, paths and memory in native code, and the pieces that all such calls are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vm_core.linux import native
from vm_core.linux.abi import Abi
from vm_core.memory import MAX_BITS, TABLE_OFFSET, Access
from vm_core.spec.isa import Isa
from vm_core.state import HEADER
from vm_jit.lowering import HOST, Emitter
from vm_jit.names import PYTHONS, STAT_BYTES

__all__ = ["BILLION", "EAGAIN", "PIECES", "READ", "WRITE", "DescriptorCalls"]

_HOST_NUMBERS: Final = (
    {
        "read": 0, "write": 1, "lseek": 8, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "sched_yield": 24,
        "futex": 202, "getrandom": 318, "futex_waitv": 449, "fstat": 5, "recvfrom": 45, "getdents64": 217, "epoll_pwait": 281, "ppoll": 271,
        "sendmsg": 46, "recvmsg": 47, "sendto": 44, "getsockopt": 55,
    }
    if HOST.x86
    else {
        "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "futex": 98,
        "sched_yield": 124, "getrandom": 278, "futex_waitv": 449, "epoll_pwait": 22, "getdents64": 61, "fstat": 80,
        "recvfrom": 207, "ppoll": 73, "sendmsg": 211, "recvmsg": 212, "sendto": 206, "getsockopt": 209,
    }
)  # fmt: skip
READ: Final = Access.READ.value
WRITE: Final = Access.WRITE.value
_EINTR, EAGAIN, _EFBIG, _EPIPE = 4, 11, 27, 32
_MOST: Final = 1 << 20
"""Bytes that one native transfer takes; longer ones are Python's, which looks for the end of the process between pieces."""
_PIPE_BUF: Final = 4096
_VECTORS: Final = 8
BILLION: Final = 1_000_000_000
_DONTWAIT, _NOSIGNAL, _CMSG_CLOEXEC = 0x40, 0x4000, 0x4000_0000
_ONE_PIECE: Final = 2048
"""Bytes that a local socket takes at once or not at all, however small its buffer."""
_POLLED: Final = 16
"""Descriptors that poll looks at natively."""
_GIVING: Final = 40_000
"""Nanoseconds for which a waiter gives way to others before it sleeps."""
_CREDIT, _RESTING = 2, 32
"""Waits in vain after a good one until a thread only sleeps, and how often it does so then."""
_WAIT_AT: Final = 160
"""In %space, behind vectors and messages: struct pollfd[2], and what a socket says of its time limit, SO_RCVTIMEO."""
_RCVTIMEO: Final = 20
_FOUND_AT: Final = 208
"""In %space: what select has found of its three sets, and of all."""
_CLOCK_AT: Final = 240
"""In %space: the time while a thread gives way."""
_AT_NOFOLLOW, _AT_NO_AUTOMOUNT, _AT_EMPTY = 0x100, 0x800, 0x1000
_EVENTS: Final = 8
_EVENT_BYTES: Final = 12 if HOST.x86 else 16
"""Of the host's struct epoll_event, which x86-64 packs."""
_STAT_OF_X86: Final = (
    (0, 0, 8), (8, 8, 8), (24, 16, 4), (16, 20, 4), (28, 24, 4), (32, 28, 4), (40, 32, 8), (-1, 40, 8), (48, 48, 8),
    (56, 56, 4), (-1, 60, 4), (64, 64, 8), (72, 72, 8), (80, 80, 8), (88, 88, 8), (96, 96, 8), (104, 104, 8), (112, 112, 8),
    (-1, 120, 8),
)  # fmt: skip
"""(offset in x86-64's struct stat or -1 for zero, offset in the generic one, bytes)."""
_ALLOWED: Final = f"""\
define internal i1 @allowed(ptr %arena, i64 %address, i64 %length, i8 %need) noinline #0 {{
entry:
  %some = icmp ne i64 %length, 0
  %low = icmp ult i64 %address, {1 << MAX_BITS}
  %short = icmp ule i64 %length, {1 << MAX_BITS}
  %end = add i64 %address, %length
  %inside = icmp ule i64 %end, {1 << MAX_BITS}
  %a = and i1 %some, %low
  %b = and i1 %short, %inside
  %c = and i1 %a, %b
  br i1 %c, label %look, label %no
look:
  %last = add i64 %end, -1
  %to = lshr i64 %last, 12
  %from = lshr i64 %address, 12
  %table = getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}
  br label %loop
loop:
  %page = phi i64 [ %from, %look ], [ %next, %more ]
  %entry.of = getelementptr i8, ptr %table, i64 %page
  %byte = load i8, ptr %entry.of
  %bits = and i8 %byte, %need
  %fine = icmp ne i8 %bits, 0
  br i1 %fine, label %more, label %no
more:
  %next = add i64 %page, 1
  %done = icmp ugt i64 %next, %to
  br i1 %done, label %yes, label %loop
yes:
  ret i1 true
no:
  ret i1 false
}}"""
"""Whether the guest may use a whole range, which is not empty."""
_HOST_CALL: Final = """\
define internal i64 @host_call(i64 %n, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f) noinline #0 {
entry:
  %r = call i64 (i64, ...) @syscall(i64 %n, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f)
  %failed = icmp eq i64 %r, -1
  br i1 %failed, label %error, label %done
error:
  %p = call ptr @__errno_location()
  %number = load i32, ptr %p
  %wide = sext i32 %number to i64
  %negative = sub i64 0, %wide
  br label %done
done:
  %result = phi i64 [ %r, %entry ], [ %negative, %error ]
  ret i64 %result
}"""
"""A system call of the host; its result, or minus its errno."""
PIECES: Final = (_ALLOWED, _HOST_CALL)
"""Functions that the calls need."""


class DescriptorCalls(Emitter):
    """Emits what each operation does; leaves by the labels ``no`` (the call is Python's), ``letgo`` (the same, inside a call
    on a descriptor) and ``done``."""

    def __init__(self, isa: Isa, abi: Abi) -> None:
        super().__init__()
        self.isa, self.abi = isa, abi

    # -- pieces -------------------------------------------------------------------------------------------------

    def at(self, pointer: str, offset: int | str) -> str:
        return self.v(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def header(self, name: str) -> str:
        """A pointer to a header word that other threads may write."""
        return self.at("%st", HEADER[name])

    def load_header(self, name: str) -> str:
        return self.v(f"load atomic i64, ptr {self.header(name)} monotonic, align 8")

    def register(self, word: int) -> str:
        return self.v(f"load i64, ptr {self.at('%st', 8 * word)}")

    def set_register(self, word: int, value: str) -> None:
        self.emit(f"store i64 {value}, ptr {self.at('%st', 8 * word)}")

    def argument(self, index: int) -> str:
        return self.register(self.abi.argument_words[index])

    def int_argument(self, index: int) -> str:
        return self.v(f"trunc i64 {self.argument(index)} to i32")

    def require(self, condition: str, otherwise: str = "no") -> None:
        """Go on only if it holds."""
        go = self.label()
        self.emit(f"br i1 {condition}, label %{go}, label %{otherwise}")
        self.place(go)

    def compare(self, kind: str, a: str, b: int | str, type_: str = "i64") -> str:
        return self.v(f"icmp {kind} {type_} {a}, {b}")

    def require_range(self, address: str, length: int | str, need: int, otherwise: str = "no") -> str:
        """Go on only if the guest may use the whole range; its host address, as a pointer."""
        ok = self.v(f"call i1 @allowed(ptr %arena, i64 {address}, i64 {length}, i8 {need})")
        self.require(ok, otherwise)
        return self.at("%arena", address)

    def host(self, name: str, *arguments: str) -> str:
        """A call of the host; pointers are given as ``ptr %x``."""
        words = []
        for argument in arguments:
            if argument.startswith("ptr "):
                words.append(f"i64 {self.v(f'ptrtoint {argument} to i64')}")
            else:
                words.append(f"i64 {argument}")
        words += ["i64 0"] * (6 - len(words))
        return self.v(f"call i64 @host_call(i64 {_HOST_NUMBERS[name]}, {', '.join(words)})")

    def finish(self, result: str) -> None:
        """The call is done."""
        self.set_register(self.abi.result_word, result)
        self.emit("br label %done")

    def spend(self, count: str) -> None:
        """A transfer takes patience."""
        slot = self.header("patience")
        left, pages = self.v(f"load i64, ptr {slot}"), self.v(f"lshr i64 {count}, 12")
        self.emit(f"store i64 {self.v(f'sub i64 {left}, {pages}')}, ptr {slot}")

    # -- descriptors --------------------------------------------------------------------------------------------

    def open_descriptor(self, need: int) -> str:
        """The word of the descriptor in the first argument. From here on, leave by ``%letgo``, or by transferred()."""
        number = self.v(f"and i64 {self.argument(0)}, {0xFFFF_FFFF}")
        self.require(self.compare("ult", number, native.MAX_DESCRIPTORS))
        self.begin_call()
        return self.word_of(number, need)

    def word_of(self, number: str, need: int) -> str:
        """The word of a descriptor, one of the table's; go on only if it has all of ``need``."""
        entry = self.at("%calls", self.v(f"add i64 {self.v(f'shl i64 {number}, 3')}, {native.DESCRIPTORS}"))
        word = self.v(f"load atomic i64, ptr {entry} monotonic, align 8")
        self.require(self.compare("eq", self.v(f"and i64 {word}, {need}"), need), "letgo")
        return word

    def each(self, count: str, step: Callable[[str], None]) -> None:
        """``step`` makes the code for each number below ``count``."""
        begin, loop, body, ending, done = (self.label() for _ in range(5))
        self.emit(f"br label %{begin}")
        self.place(begin)
        self.emit(f"br label %{loop}")
        self.place(loop)
        i, more = f"%{loop}i", f"%{loop}n"
        self.emit(f"{i} = phi i64 [ 0, %{begin} ], [ {more}, %{ending} ]")
        self.emit(f"br i1 {self.compare('ult', i, count)}, label %{body}, label %{done}")
        self.place(body)
        step(i)
        self.emit(f"br label %{ending}")
        self.place(ending)
        self.emit(f"{more} = add i64 {i}, 1")
        self.emit(f"br label %{loop}")
        self.place(done)

    def begin_call(self) -> None:
        slot = self.header("in_call")
        odd = self.v(f"add i64 {self.v(f'load i64, ptr {slot}')}, 1")
        self.v(f"atomicrmw xchg ptr {slot}, i64 {odd} seq_cst")

    def host_number(self, word: str) -> str:
        return self.v(f"and i64 {word}, {0xFFFF_FFFF}")

    def end_call(self) -> None:
        slot = self.header("in_call")
        even = self.v(f"add i64 {self.v(f'load i64, ptr {slot}')}, 1")
        self.emit(f"store atomic i64 {even}, ptr {slot} release, align 8")

    def transferred(self, result: str, word: str = "0") -> None:
        """The end of a call on a descriptor. Waiting, SIGPIPE and signals of the host are Python's: it calls again."""
        for number in (_EINTR, _EFBIG, _EPIPE):
            self.require(self.compare("ne", result, -number), "letgo")
        waits = self.compare("eq", self.v(f"and i64 {word}, {native.FD_AGAIN}"), 0)
        none = self.compare("eq", result, -EAGAIN)
        self.require(self.v(f"xor i1 {self.v(f'and i1 {waits}, {none}')}, true"), "letgo")
        self.end_call()
        self.finish(result)

    def ready(self, word: str, events: int) -> None:
        """Go on only if a file that might block is ready."""
        ask, go = self.label(), self.label()
        plain = self.compare("eq", self.v(f"and i64 {word}, {native.FD_POLL}"), 0)
        self.emit(f"br i1 {plain}, label %{go}, label %{ask}")
        self.place(ask)
        number = self.v(f"trunc i64 {word} to i32")
        self.emit(f"store i32 {number}, ptr %space")
        self.emit(f"store i32 {events}, ptr {self.at('%space', 4)}")
        count = self.v("call i32 @poll(ptr %space, i64 1, i32 0)")
        self.emit(f"br i1 {self.compare('sgt', count, 0, 'i32')}, label %{go}, label %letgo")
        self.place(go)

    def limit(self, word: str, count: str) -> None:
        """Go on only if a write of so many bytes is never done in part."""
        local = self.compare("ne", self.v(f"and i64 {word}, {native.FD_LOCAL}"), 0)
        few = self.compare("ule", count, self.v(f"select i1 {local}, i64 {_ONE_PIECE}, i64 {_PIPE_BUF}"))
        whole = self.compare("eq", self.v(f"and i64 {word}, {native.FD_SMALL}"), 0)
        self.require(self.v(f"or i1 {few}, {whole}"), "letgo")

    def transfer(self, name: str, *, writes: bool, positioned: bool) -> None:
        count = self.argument(2)
        self.require(self.compare("ule", count, _MOST))
        place = self.require_range(self.argument(1), count, READ if writes else WRITE)
        extra = []
        if positioned:
            extra = [self.argument(3)]
            self.require(self.compare("sge", extra[0], 0))
        need = (native.FD_WRITE if writes else native.FD_READ) | (native.FD_AT if positioned else 0)
        word = self.open_descriptor(need)
        if not positioned:
            if writes:
                self.limit(word, count)
            self.ready(word, 4 if writes else 1)
        self.spend(count)
        result = self.host(name, self.host_number(word), f"ptr {place}", count, *extra)
        if not writes and not positioned:
            result = self.waited(
                word, result, lambda: self.host(name, self.host_number(word), f"ptr {place}", count)
            )
        self.transferred(result, word)

    def waited(self, word: str, result: str, again: Callable[[], str]) -> str:
        """If a file has nothing yet and the guest waits for it, wait, and read again."""
        before, empty, ask, may, ready, done = (self.label() for _ in range(6))
        self.emit(f"br label %{before}")
        self.place(before)
        self.emit(f"br i1 {self.compare('eq', result, -EAGAIN)}, label %{empty}, label %{done}")
        self.place(empty)
        final = self.compare("ne", self.v(f"and i64 {word}, {native.FD_AGAIN}"), 0)
        self.emit(f"br i1 {final}, label %{done}, label %{ask}")
        self.place(ask)
        waits = self.compare("ne", self.v(f"and i64 {word}, {native.FD_WAITS}"), 0)
        self.require(waits, "letgo")
        wake = self.may_wait()
        self.emit(f"br label %{may}")
        self.place(may)
        sleep, early, tried = self.label(), self.label(), ""

        def there() -> str:
            nonlocal tried
            tried = again()
            return self.compare("ne", tried, -EAGAIN)

        self.give_way("wait_credit", there, sleep)
        self.emit(f"br label %{early}")
        self.place(early)
        self.emit(f"br label %{done}")
        self.place(sleep)
        # A socket may have a time limit for that, which anybody may have set who has it.
        limited, free = self.label(), self.label()
        socket = self.compare("ne", self.v(f"and i64 {word}, {native.FD_SOCKET}"), 0)
        self.emit(f"br i1 {socket}, label %{limited}, label %{free}")
        self.place(limited)
        limit, size = self.at("%space", _WAIT_AT + 16), self.at("%space", _WAIT_AT + 32)
        self.emit(f"store i64 0, ptr {limit}")
        self.emit(f"store i64 0, ptr {self.at(limit, 8)}")
        self.emit(f"store i64 16, ptr {size}")
        self.host("getsockopt", self.host_number(word), "1", str(_RCVTIMEO), f"ptr {limit}", f"ptr {size}")
        both = self.v(f"or i64 {self.once(limit)}, {self.once(self.at(limit, 8))}")
        self.require(self.compare("eq", both, 0), "letgo")
        self.emit(f"br label %{free}")
        self.place(free)
        longest = self.load_header("wait_nanoseconds")
        bounded = self.v(f"trunc i64 {self.v(f'udiv i64 {longest}, 1000000')} to i32")
        timeout = self.v(f"select i1 {self.compare('eq', longest, 0)}, i32 -1, i32 {bounded}")
        seen = self.slept(self.host_number(word), wake, timeout)
        self.require(self.compare("ne", seen, 0, "i16"), "letgo")
        second = again()
        self.emit(f"br label %{ready}")
        self.place(ready)
        self.emit(f"br label %{done}")
        self.place(done)
        return self.v(
            f"phi i64 [ {result}, %{before} ], [ {result}, %{empty} ], [ {tried}, %{early} ], [ {second}, %{ready} ]"
        )

    def may_wait(self) -> str:
        """Go on only if native code may wait here; header ``wake_fd``."""
        allowed = self.compare("ne", self.v(f"load i64, ptr {self.at('%calls', native.WAITS)}"), 0)
        wake = self.load_header("wake_fd")
        self.require(self.v(f"and i1 {allowed}, {self.compare('ne', wake, 0)}"), "letgo")
        return wake

    def slept(self, number: str, wake: str, timeout: str) -> str:
        """Wait until a descriptor has something to read, so many milliseconds at most; what poll says of it. What ends the wait is Python's."""
        place = self.at("%space", _WAIT_AT)
        for at, one in ((0, number), (8, self.v(f"sub i64 {wake}, 1"))):
            self.emit(f"store i32 {self.v(f'trunc i64 {one} to i32')}, ptr {self.at(place, at)}")
            self.emit(f"store i32 1, ptr {self.at(place, at + 4)}")
        self.v(f"call i32 @poll(ptr {place}, i64 2, i32 {timeout})")
        woken = self.v(f"load i16, ptr {self.at(place, 14)}")
        self.require(self.compare("eq", woken, 0, "i16"), "letgo")
        return self.v(f"load i16, ptr {self.at(place, 6)}")

    def give_way(self, credit: str, attempt: Callable[[], str], vain: str) -> None:
        """Before a thread sleeps: let others run and try again, for a while, and go on here when that has come true; else at ``vain``.

        To wake one who sleeps on another processor takes 25 us and more, and the one that is waited for may need this processor. The
        header's word ``credit`` is how often it may still be in vain until a thread sleeps at once, and below 0, how often it does that.
        """
        slot = self.header(credit)
        left = self.v(f"load i64, ptr {slot}")
        rest, begin, way, check, lost, good = (self.label() for _ in range(6))
        self.emit(f"br i1 {self.compare('slt', left, 0)}, label %{rest}, label %{begin}")
        self.place(rest)
        self.emit(f"store i64 {self.v(f'add i64 {left}, 1')}, ptr {slot}")
        self.emit(f"br label %{vain}")
        self.place(begin)
        begun = self.nanoseconds()
        self.emit(f"br label %{way}")
        self.place(way)
        self.host("sched_yield")
        come = attempt()
        long = self.compare("ugt", self.v(f"sub i64 {self.nanoseconds()}, {begun}"), _GIVING)
        self.emit(f"br i1 {come}, label %{good}, label %{check}")
        self.place(check)
        self.emit(f"br i1 {long}, label %{lost}, label %{way}")
        self.place(lost)
        fewer = self.v(f"sub i64 {left}, 1")
        none = self.compare("eq", left, 0)
        self.emit(f"store i64 {self.v(f'select i1 {none}, i64 {-_RESTING}, i64 {fewer}')}, ptr {slot}")
        self.emit(f"br label %{vain}")
        self.place(good)
        # Where others had the processor for long, one who sleeps gets it sooner.
        self.emit(f"store i64 {self.v(f'select i1 {long}, i64 {-_RESTING}, i64 {_CREDIT}')}, ptr {slot}")

    def nanoseconds(self) -> str:
        """What the host's monotonic clock says."""
        clock = self.at("%space", _CLOCK_AT)
        self.v(f"call i32 @clock_gettime(i32 1, ptr {clock})")
        seconds, part = self.v(f"load i64, ptr {clock}"), self.v(f"load i64, ptr {self.at(clock, 8)}")
        return self.v(f"add i64 {self.v(f'mul i64 {seconds}, {BILLION}')}, {part}")

    def op_read(self) -> None:
        self.transfer("read", writes=False, positioned=False)

    def op_write(self) -> None:
        self.transfer("write", writes=True, positioned=False)

    def op_pread64(self) -> None:
        self.transfer("pread64", writes=False, positioned=True)

    def op_pwrite64(self) -> None:
        self.transfer("pwrite64", writes=True, positioned=True)

    def vector(self, name: str, *, writes: bool) -> None:
        count = self.argument(2)
        self.require(self.compare("ult", self.v(f"add i64 {count}, -1"), _VECTORS))
        vector = self.require_range(self.argument(1), self.v(f"shl i64 {count}, 4"), READ)
        before, loop, fine, done = self.label(), self.label(), self.label(), self.label()
        self.emit(f"br label %{before}")
        self.place(before)
        self.emit(f"br label %{loop}")
        self.place(loop)
        i, total, following, sum_ = (f"%{name}{part}" for part in ("i", "t", "n", "s"))
        self.emit(f"{i} = phi i64 [ 0, %{before} ], [ {following}, %{fine} ]")
        self.emit(f"{total} = phi i64 [ 0, %{before} ], [ {sum_}, %{fine} ]")
        offset = self.v(f"shl i64 {i}, 4")
        # Each word is read once: another thread of the guest may change it.
        pair = self.at(vector, offset)
        base, length = self.once(pair), self.once(self.at(pair, 8))
        self.require(self.compare("ule", length, _MOST))
        need = READ if writes else WRITE
        ok = self.v(f"call i1 @allowed(ptr %arena, i64 {base}, i64 {length}, i8 {need})")
        nothing = self.compare("eq", length, 0)
        self.emit(f"br i1 {self.v(f'or i1 {ok}, {nothing}')}, label %{fine}, label %no")
        self.place(fine)
        base = self.v(f"select i1 {nothing}, i64 0, i64 {base}")
        here = self.at("%space", self.v(f"add i64 {offset}, 16"))
        self.emit(f"store ptr {self.at('%arena', base)}, ptr {here}")
        self.emit(f"store i64 {length}, ptr {self.at(here, 8)}")
        self.emit(f"{sum_} = add i64 {total}, {length}")
        self.emit(f"{following} = add i64 {i}, 1")
        self.emit(f"br i1 {self.compare('ult', following, count)}, label %{loop}, label %{done}")
        self.place(done)
        self.require(self.compare("ult", self.v(f"add i64 {sum_}, -1"), _MOST))
        word = self.open_descriptor(native.FD_WRITE if writes else native.FD_READ)
        if writes:
            self.limit(word, sum_)
        self.ready(word, 4 if writes else 1)
        self.spend(sum_)

        def move() -> str:
            return self.host(name, self.host_number(word), f"ptr {self.at('%space', 16)}", count)

        self.transferred(move() if writes else self.waited(word, move(), move), word)

    def once(self, pointer: str) -> str:
        return self.v(f"load volatile i64, ptr {pointer}, align 1")

    def op_readv(self) -> None:
        self.vector("readv", writes=False)

    def op_writev(self) -> None:
        self.vector("writev", writes=True)

    def op_lseek(self) -> None:
        offset, whence = self.argument(1), self.v(f"and i64 {self.argument(2)}, 255")
        word = self.open_descriptor(native.FD_SEEK)
        self.transferred(self.host("lseek", self.host_number(word), offset, whence))

    def op_fstat(self) -> None:
        """The host's answer in the layout of the 64-bit ABIs that share one (asm-generic/stat.h)."""
        place = self.require_range(self.argument(1), 128, WRITE)
        self.stat_descriptor(place)

    def stat_descriptor(self, place: str) -> None:
        word = self.open_descriptor(native.FD_STAT)
        result = self.host("fstat", self.host_number(word), "ptr %space")
        self.require(self.compare("eq", result, 0), "letgo")
        self.put_stat(place)
        self.transferred("0")

    def put_stat(self, place: str) -> None:
        """The host's struct stat in %space, for the guest."""
        moves = _STAT_OF_X86 if HOST.x86 else tuple((at, at, 8) for at in range(0, 128, 8))
        for source, target, size in moves:
            type_ = f"i{8 * size}"
            value = "0" if source < 0 else self.v(f"load {type_}, ptr {self.at('%space', source)}")
            self.emit(f"store {type_} {value}, ptr {self.at(place, target)}, align 1")

    # -- paths: see vm_jit.names ----------------------------------------------------------------------------------

    def looked(self, path: str, follow: str, *more: str) -> str:
        """Look at a path; 0 with the answer in %space, or the error. The directory is the first argument."""
        self.begin_call()
        result = self.v(
            f"call i64 @look(ptr %calls, ptr %arena, ptr %space, i32 {self.int_argument(0)}, i64 {path}, "
            f"i1 {follow}, {', '.join(more)})"
        )
        self.require(self.compare("ne", result, PYTHONS), "letgo")
        self.end_call()
        return result

    def op_newfstatat(self) -> None:
        path, flags = self.argument(1), self.int_argument(3)
        place = self.require_range(self.argument(2), 128, WRITE)
        number, name, good, bad = (self.label() for _ in range(4))
        empty = self.compare("eq", flags, _AT_EMPTY, "i32")
        self.emit(f"br i1 {empty}, label %{number}, label %{name}")
        self.place(number)
        # As fstat is made by C libraries.
        first = self.v(f"load volatile i8, ptr {self.require_range(path, 1, READ)}")
        self.require(self.compare("eq", first, 0, "i8"))
        self.stat_descriptor(place)
        self.place(name)
        strange = self.v(f"and i32 {flags}, {~(_AT_NOFOLLOW | _AT_NO_AUTOMOUNT)}")
        self.require(self.compare("eq", strange, 0, "i32"))
        follow = self.compare("eq", self.v(f"and i32 {flags}, {_AT_NOFOLLOW}"), 0, "i32")
        result = self.looked(path, follow, "i1 false", "i64 0", "i64 0")
        self.emit(f"br i1 {self.compare('eq', result, 0)}, label %{good}, label %{bad}")
        self.place(bad)
        self.finish(result)
        self.place(good)
        self.put_stat(place)
        self.finish("0")

    def op_statx(self) -> None:
        flags, mask = self.argument(2), self.argument(3)
        place = self.require_range(self.argument(4), STAT_BYTES, WRITE)
        strange = self.v(f"and i64 {flags}, {0xFFFF_FFFF & ~(_AT_NOFOLLOW | _AT_NO_AUTOMOUNT | 0x4000)}")
        self.require(self.compare("eq", strange, 0))
        self.require(self.compare("eq", self.v(f"and i64 {mask}, {1 << 31}"), 0))
        follow = self.compare("eq", self.v(f"and i64 {flags}, {_AT_NOFOLLOW}"), 0)
        sync = self.v(f"and i64 {flags}, {0x4000}")
        asked = self.v(f"and i64 {mask}, {0x7FFF_FFFF}")
        result = self.looked(self.argument(1), follow, "i1 true", f"i64 {sync}", f"i64 {asked}")
        good, bad = self.label(), self.label()
        self.emit(f"br i1 {self.compare('eq', result, 0)}, label %{good}, label %{bad}")
        self.place(bad)
        self.finish(result)
        self.place(good)
        self.emit(
            f"call void @llvm.memcpy.p0.p0.i64(ptr align 1 {place}, ptr align 8 %space, i64 {STAT_BYTES}, i1 false)"
        )
        self.finish("0")

    def op_mmap(self) -> None:
        address, length, prot, flags = (f"i64 {self.argument(index)}" for index in range(4))
        result = self.v(
            f"call i64 @map_anonymous(ptr %calls, ptr %arena, {address}, {length}, {prot}, {flags})"
        )
        self.require(self.compare("ne", result, PYTHONS))
        self.finish(result)

    def op_munmap(self) -> None:
        """Of what @map_anonymous has mapped."""
        address, length = (f"i64 {self.argument(index)}" for index in range(2))
        result = self.v(f"call i64 @unmap_anonymous(ptr %calls, ptr %arena, {address}, {length})")
        self.require(self.compare("ne", result, PYTHONS))
        self.finish(result)

    def op_openat(self) -> None:
        flags = self.v(f"and i64 {self.argument(2)}, {0xFFFF_FFFF}")
        mode = self.v(f"and i64 {self.argument(3)}, {0o7777}")
        result = self.v(
            f"call i64 @open_at(ptr %calls, ptr %arena, i32 {self.int_argument(0)}, i64 {self.argument(1)}, "
            f"i64 {flags}, i64 {mode})"
        )
        self.require(self.compare("ne", result, PYTHONS))
        self.finish(result)

    def op_close(self) -> None:
        """Of what @open_at has opened."""
        result = self.v(f"call i64 @close_opened(ptr %calls, i32 {self.int_argument(0)})")
        self.require(self.compare("ne", result, PYTHONS))
        self.finish(result)

    def op_getdents64(self) -> None:
        size = self.v(f"and i64 {self.argument(2)}, {0xFFFF_FFFF}")
        self.require(self.compare("ule", size, _MOST))
        place = self.require_range(self.argument(1), size, WRITE)
        word = self.open_descriptor(native.FD_LIST)
        self.spend(size)
        self.transferred(self.host("getdents64", self.host_number(word), f"ptr {place}", size))

    def op_recvfrom(self) -> None:
        """Without an address, and what is there already."""
        count, flags = self.argument(2), self.int_argument(3)
        self.require(self.compare("ule", count, _MOST))
        self.require(self.compare("eq", self.v(f"and i32 {flags}, {~_DONTWAIT}"), 0, "i32"))
        self.require(self.compare("eq", self.argument(4), 0))
        place = self.require_range(self.argument(1), count, WRITE)
        word = self.open_descriptor(native.FD_SOCKET | native.FD_READ)
        self.require(self.compare("eq", self.v(f"and i64 {word}, {native.FD_POLL}"), 0), "letgo")
        self.spend(count)
        word, number = self.impatient(word, flags), self.host_number(word)

        def receive() -> str:
            return self.host("recvfrom", number, f"ptr {place}", count, str(_DONTWAIT), "0", "0")

        self.transferred(self.waited(word, receive(), receive), word)

    def impatient(self, word: str, flags: str) -> str:
        """The word of a socket for a call with flags: with MSG_DONTWAIT, EAGAIN is the result."""
        once = self.compare("ne", self.v(f"and i32 {flags}, {_DONTWAIT}"), 0, "i32")
        return self.v(f"or i64 {word}, {self.v(f'select i1 {once}, i64 {native.FD_AGAIN}, i64 0')}")

    def op_sendto(self) -> None:
        """Without an address."""
        count, flags = self.argument(2), self.int_argument(3)
        self.require(self.compare("ule", count, _MOST))
        self.require(self.compare("eq", self.v(f"and i32 {flags}, {~(_DONTWAIT | _NOSIGNAL)}"), 0, "i32"))
        self.require(self.compare("eq", self.argument(4), 0))
        place = self.require_range(self.argument(1), count, READ)
        word = self.open_descriptor(native.FD_SOCKET | native.FD_WRITE)
        word = self.impatient(word, flags)
        self.limit(word, count)
        self.spend(count)
        number = self.host_number(word)
        both = str(_DONTWAIT | _NOSIGNAL)
        self.transferred(self.host("sendto", number, f"ptr {place}", count, both, "0", "0"), word)

    def op_epoll_pwait(self) -> None:
        """A few events at a time. What is not ready is waited for."""
        self.require(self.compare("eq", self.argument(4), 0))
        wanted = self.int_argument(2)
        self.require(self.compare("sgt", wanted, 0, "i32"))
        self.require(self.compare("slt", wanted, 1 << 26, "i32"))
        few = self.compare("slt", wanted, _EVENTS, "i32")
        most = self.v(f"zext i32 {self.v(f'select i1 {few}, i32 {wanted}, i32 {_EVENTS}')} to i64")
        place = self.require_range(self.argument(1), self.v(f"shl i64 {most}, 4"), WRITE)
        timeout = self.int_argument(3)
        word = self.open_descriptor(native.FD_EPOLL)
        number = self.host_number(word)

        def asked() -> str:
            # The mask's size is looked at even without a mask.
            return self.host("epoll_pwait", number, "ptr %space", most, "0", "0", "8")

        now = asked()
        some, first, none, nothing, wait, early, late, sleep = (self.label() for _ in range(8))
        self.require(self.compare("sge", now, 0), "letgo")
        self.emit(f"br label %{first}")
        self.place(first)
        self.emit(f"br i1 {self.compare('eq', now, 0)}, label %{none}, label %{some}")
        self.place(none)
        self.emit(f"br i1 {self.compare('eq', timeout, 0, 'i32')}, label %{nothing}, label %{wait}")
        self.place(nothing)
        self.transferred("0")
        self.place(wait)
        wake = self.may_wait()
        # A longer wait than this thread may make is Python's from the start, as its time would begin anew.
        nanoseconds = self.load_header("wait_nanoseconds")
        any_time, longest = self.compare("eq", nanoseconds, 0), self.v(f"udiv i64 {nanoseconds}, 1000000")
        wide = self.v(f"zext i32 {timeout} to i64")
        brief = self.compare("ule", wide, longest)
        endless = self.compare("slt", timeout, 0, "i32")
        self.require(self.v(f"or i1 {self.v(f'or i1 {any_time}, {endless}')}, {brief}"), "letgo")
        tried = ""

        def there() -> str:
            nonlocal tried
            tried = asked()
            return self.compare("ne", tried, 0)

        self.give_way("wait_credit", there, sleep)
        self.require(self.compare("sgt", tried, 0), "letgo")
        self.emit(f"br label %{early}")
        self.place(early)
        self.emit(f"br label %{some}")
        self.place(sleep)
        limit = self.v(f"select i1 {any_time}, i32 -1, i32 {self.v(f'trunc i64 {longest} to i32')}")
        seen = self.slept(number, wake, self.v(f"select i1 {endless}, i32 {limit}, i32 {timeout}"))
        over, come = self.label(), self.label()
        self.emit(f"br i1 {self.compare('eq', seen, 0, 'i16')}, label %{over}, label %{come}")
        self.place(over)
        self.require(self.v(f"xor i1 {endless}, true"), "letgo")
        self.transferred("0")
        self.place(come)
        then = asked()
        self.require(self.compare("sgt", then, 0), "letgo")
        self.emit(f"br label %{late}")
        self.place(late)
        self.emit(f"br label %{some}")
        self.place(some)
        count = self.v(f"phi i64 [ {now}, %{first} ], [ {tried}, %{early} ], [ {then}, %{late} ]")

        def tell(i: str) -> None:
            source = self.at("%space", self.v(f"mul i64 {i}, {_EVENT_BYTES}"))
            target = self.at(place, self.v(f"shl i64 {i}, 4"))
            events = self.v(f"load i32, ptr {source}")
            data = self.v(f"load i64, ptr {self.at(source, _EVENT_BYTES - 8)}, align 4")
            self.emit(f"store i32 {events}, ptr {target}, align 1")
            self.emit(f"store i32 0, ptr {self.at(target, 4)}, align 1")
            self.emit(f"store i64 {data}, ptr {self.at(target, 8)}, align 1")

        self.each(count, tell)
        self.transferred(count)

    def op_ppoll(self) -> None:
        """Few descriptors, without a mask of signals. What is not ready is waited for if nobody else has to look meanwhile."""
        self.require(self.compare("eq", self.argument(3), 0))
        count, request = self.argument(1), self.argument(2)
        self.require(self.compare("ult", self.v(f"add i64 {count}, -1"), _POLLED))
        place = self.require_range(self.argument(0), self.v(f"shl i64 {count}, 3"), WRITE)
        time = self.time_given(request)
        self.begin_call()

        def ask(i: str) -> None:
            absent, numbered, here, following = (self.label() for _ in range(4))
            offset = self.v(f"shl i64 {i}, 3")
            entry = self.once(self.at(place, offset))
            number = self.v(f"and i64 {entry}, {0xFFFF_FFFF}")
            upper = self.v(f"lshr i64 {entry}, 32")
            events = self.v(f"and i32 {self.v(f'trunc i64 {upper} to i32')}, 65535")
            negative = self.compare("slt", self.v(f"trunc i64 {entry} to i32"), 0, "i32")
            self.emit(f"br i1 {negative}, label %{absent}, label %{numbered}")
            self.place(numbered)
            self.require(self.compare("ult", number, native.MAX_DESCRIPTORS), "letgo")
            word = self.word_of(number, native.FD_STAT)
            host_fd = self.v(f"trunc i64 {word} to i32")
            self.emit(f"br label %{here}")
            self.place(here)
            self.emit(f"br label %{following}")
            self.place(absent)
            self.emit(f"br label %{following}")
            self.place(following)
            fd = self.v(f"phi i32 [ {host_fd}, %{here} ], [ -1, %{absent} ]")
            target = self.at("%space", offset)
            self.emit(f"store i32 {fd}, ptr {target}")
            self.emit(f"store i32 {events}, ptr {self.at(target, 4)}")

        self.each(count, ask)

        def tell(result: str) -> str:
            def one(i: str) -> None:
                offset = self.v(f"add i64 {self.v(f'shl i64 {i}, 3')}, 6")
                seen = self.v(f"load i16, ptr {self.at('%space', offset)}")
                self.emit(f"store i16 {seen}, ptr {self.at(place, offset)}, align 1")

            self.each(count, one)
            return result

        self.poll_host(count, time, tell)

    def op_pselect6(self) -> None:
        """Descriptors below 64, few of them, without a mask of signals."""
        self.require(self.compare("eq", self.argument(5), 0))
        number = self.int_argument(0)
        self.require(self.compare("ult", self.v(f"add i32 {number}, -1"), 64, "i32"))
        wide = self.v(f"zext i32 {number} to i64")
        valid = self.v(f"lshr i64 -1, {self.v(f'sub i64 64, {wide}')}")
        sets: list[tuple[str, str]] = []
        for index in (1, 2, 3):
            address, given, before, known = self.argument(index), self.label(), self.label(), self.label()
            self.emit(f"br label %{before}")
            self.place(before)
            self.emit(f"br i1 {self.compare('eq', address, 0)}, label %{known}, label %{given}")
            self.place(given)
            place, read = self.require_range(address, 8, WRITE), self.label()
            bits = self.v(f"and i64 {self.once(place)}, {valid}")
            self.emit(f"br label %{read}")
            self.place(read)
            self.emit(f"br label %{known}")
            self.place(known)
            sets.append(
                (
                    self.v(f"phi ptr [ null, %{before} ], [ {place}, %{read} ]"),
                    self.v(f"phi i64 [ 0, %{before} ], [ {bits}, %{read} ]"),
                )
            )
        every = self.v(f"or i64 {self.v(f'or i64 {sets[0][1]}, {sets[1][1]}')}, {sets[2][1]}")
        count = self.v(f"call i64 @llvm.ctpop.i64(i64 {every})")
        self.require(self.compare("ult", self.v(f"add i64 {count}, -1"), _POLLED))
        time = self.time_given(self.argument(4))
        self.begin_call()

        def each_wanted(step: Callable[[str, str], None]) -> None:
            """Code for each descriptor: its number, and its struct pollfd."""
            before, loop, body, done = (self.label() for _ in range(4))
            self.emit(f"br label %{before}")
            self.place(before)
            self.emit(f"br label %{loop}")
            self.place(loop)
            left, rest, i, more = (f"%{loop}{part}" for part in "lrin")
            ending = self.label()
            self.emit(f"{left} = phi i64 [ {every}, %{before} ], [ {rest}, %{ending} ]")
            self.emit(f"{i} = phi i64 [ 0, %{before} ], [ {more}, %{ending} ]")
            self.emit(f"br i1 {self.compare('eq', left, 0)}, label %{done}, label %{body}")
            self.place(body)
            number = self.v(f"call i64 @llvm.cttz.i64(i64 {left}, i1 true)")
            step(number, self.at("%space", self.v(f"shl i64 {i}, 3")))
            self.emit(f"br label %{ending}")
            self.place(ending)
            self.emit(f"{rest} = and i64 {left}, {self.v(f'add i64 {left}, -1')}")
            self.emit(f"{more} = add i64 {i}, 1")
            self.emit(f"br label %{loop}")
            self.place(done)

        def ask(number: str, place: str) -> None:
            word = self.word_of(number, native.FD_STAT)
            self.emit(f"store i32 {self.v(f'trunc i64 {word} to i32')}, ptr {place}")
            events = "0"
            for (_, bits), event in zip(sets, (1, 4, 2), strict=True):
                asked = self.v(f"and i64 {self.v(f'lshr i64 {bits}, {number}')}, 1")
                events = self.v(f"or i64 {events}, {self.v(f'mul i64 {asked}, {event}')}")
            self.emit(f"store i32 {self.v(f'trunc i64 {events} to i32')}, ptr {self.at(place, 4)}")

        each_wanted(ask)
        # What is ready of each set, and how many those are: in %space, behind what poll needs.
        found = [self.at("%space", _FOUND_AT + 8 * i) for i in range(4)]

        def tell(_result: str) -> str:
            for one in found:
                self.emit(f"store i64 0, ptr {one}")

            def look(number: str, place: str) -> None:
                seen = self.v(f"load i16, ptr {self.at(place, 6)}")
                for (_, bits), one, hit in zip(sets, found, (1 | 8 | 16, 4 | 8, 2), strict=False):
                    hits = self.compare("ne", self.v(f"and i16 {seen}, {hit}"), 0, "i16")
                    asked = self.v(f"and i64 {self.v(f'lshr i64 {bits}, {number}')}, 1")
                    ready = self.v(f"select i1 {hits}, i64 {asked}, i64 0")
                    bit = self.v(f"shl i64 {ready}, {number}")
                    others = self.v(f"load i64, ptr {one}")
                    self.emit(f"store i64 {self.v(f'or i64 {others}, {bit}')}, ptr {one}")
                    total = self.v(f"load i64, ptr {found[3]}")
                    self.emit(f"store i64 {self.v(f'add i64 {total}, {ready}')}, ptr {found[3]}")

            each_wanted(look)
            for (place, _), one in zip(sets, found, strict=False):
                write, go = self.label(), self.label()
                self.emit(f"br i1 {self.v(f'icmp eq ptr {place}, null')}, label %{go}, label %{write}")
                self.place(write)
                self.emit(f"store i64 {self.v(f'load i64, ptr {one}')}, ptr {place}, align 1")
                self.emit(f"br label %{go}")
                self.place(go)
            return self.v(f"load i64, ptr {found[3]}")

        self.poll_host(count, time, tell)

    def time_given(self, request: str) -> tuple[str, tuple[str, str], str]:
        """The struct timespec of a wait: whether there is none, its words, and where what is left of it is told, or null."""
        start, timed, begin = (self.label() for _ in range(3))
        self.emit(f"br label %{start}")
        self.place(start)
        forever = self.compare("eq", request, 0)
        self.emit(f"br i1 {forever}, label %{begin}, label %{timed}")
        self.place(timed)
        at = self.require_range(request, 16, READ)
        given = self.once(at), self.once(self.at(at, 8))
        self.require(self.compare("sge", given[0], 0))
        self.require(self.compare("ult", given[1], BILLION))
        some, known = self.label(), self.label()
        waits = self.compare("ne", self.v(f"or i64 {given[0]}, {given[1]}"), 0)
        self.emit(f"br i1 {waits}, label %{some}, label %{known}")
        self.place(some)
        self.require_range(request, 16, WRITE)  # where what is left of the time is told
        self.emit(f"br label %{known}")
        self.place(known)
        self.emit(f"br label %{begin}")
        self.place(begin)
        seconds, nanoseconds = (self.v(f"phi i64 [ 0, %{start} ], [ {one}, %{known} ]") for one in given)
        left = self.v(f"phi ptr [ null, %{start} ], [ {at}, %{known} ]")
        return forever, (seconds, nanoseconds), left

    def poll_host(
        self, count: str, time_given: tuple[str, tuple[str, str], str], tell_guest: Callable[[str], str]
    ) -> None:
        """Ask the host for the descriptors in %space, first without waiting. ``tell_guest`` makes the code that tells what there is, and
        gives the call's result. What is left of the time is told as well, but of no time at all."""
        forever, (seconds, nanoseconds), left = time_given
        begun, asked, told, finished = (self.label() for _ in range(4))
        timed = self.v(
            f"and i1 {self.v(f'icmp ne ptr {left}, null')}, {self.compare('ne', self.v(f'or i64 {seconds}, {nanoseconds}'), 0)}"
        )
        clock = self.at("%space", 8 * _POLLED + 32)
        self.emit(f"br i1 {timed}, label %{begun}, label %{asked}")
        self.place(begun)
        self.v(f"call i32 @clock_gettime(i32 1, ptr {clock})")
        self.emit(f"br label %{asked}")
        self.place(asked)
        time = self.at("%space", 8 * _POLLED + 16)
        self.emit(f"store i64 0, ptr {time}")
        self.emit(f"store i64 0, ptr {self.at(time, 8)}")
        now = self.host("ppoll", "ptr %space", count, f"ptr {time}", "0", "8")
        some, none, wait, tell = (self.label() for _ in range(4))
        self.require(self.compare("sge", now, 0), "letgo")
        first = self.label()
        self.emit(f"br label %{first}")
        self.place(first)
        self.emit(f"br i1 {self.compare('eq', now, 0)}, label %{none}, label %{tell}")
        self.place(none)
        both = self.v(f"or i64 {seconds}, {nanoseconds}")
        short = self.v(f"and i1 {self.v(f'xor i1 {forever}, true')}, {self.compare('eq', both, 0)}")
        self.emit(f"br i1 {short}, label %{tell}, label %{wait}")
        self.place(wait)
        wake = self.may_wait()
        # A longer wait than this thread may make is Python's from the start, as its time would begin anew.
        longest = self.load_header("wait_nanoseconds")
        any_time = self.compare("eq", longest, 0)
        brief = self.v(
            f"and i1 {self.compare('eq', seconds, 0)}, {self.compare('ule', nanoseconds, longest)}"
        )
        fine = self.v(f"or i1 {self.v(f'or i1 {any_time}, {forever}')}, {brief}")
        self.require(fine, "letgo")
        tried, early, sleep = "", self.label(), self.label()

        def there() -> str:
            nonlocal tried
            tried = self.host("ppoll", "ptr %space", count, f"ptr {time}", "0", "8")
            return self.compare("ne", tried, 0)

        self.give_way("wait_credit", there, sleep)
        self.require(self.compare("sgt", tried, 0), "letgo")
        self.emit(f"br label %{early}")
        self.place(early)
        self.emit(f"br label %{tell}")
        self.place(sleep)
        self.emit(f"store i64 {seconds}, ptr {time}")
        limit = self.v(f"select i1 {forever}, i64 {longest}, i64 {nanoseconds}")
        self.emit(f"store i64 {limit}, ptr {self.at(time, 8)}")
        endless = self.v(f"and i1 {any_time}, {forever}")
        until = self.v(f"select i1 {endless}, ptr null, ptr {time}")
        last = self.at("%space", self.v(f"shl i64 {count}, 3"))
        number = self.v(f"trunc i64 {self.v(f'sub i64 {wake}, 1')} to i32")
        self.emit(f"store i32 {number}, ptr {last}")
        self.emit(f"store i32 1, ptr {self.at(last, 4)}")
        then = self.host("ppoll", "ptr %space", self.v(f"add i64 {count}, 1"), f"ptr {until}", "0", "8")
        self.require(self.compare("sge", then, 0), "letgo")
        woken = self.v(f"load i16, ptr {self.at(last, 6)}")
        self.require(self.compare("eq", woken, 0, "i16"), "letgo")
        over = self.v(f"and i1 {forever}, {self.compare('eq', then, 0)}")
        self.require(self.v(f"xor i1 {over}, true"), "letgo")
        self.emit(f"br label %{some}")
        self.place(some)
        self.emit(f"br label %{tell}")
        self.place(tell)
        result = self.v(
            f"phi i64 [ {now}, %{first} ], [ 0, %{none} ], [ {tried}, %{early} ], [ {then}, %{some} ]"
        )
        result = tell_guest(result)
        self.emit(f"br i1 {timed}, label %{told}, label %{finished}")
        self.place(told)
        self.v(f"call i32 @clock_gettime(i32 1, ptr {time})")
        rest = [
            self.v(
                f"sub i64 {one}, {self.v(f'sub i64 {self.once(self.at(time, at))}, {self.once(self.at(clock, at))}')}"
            )
            for one, at in ((seconds, 0), (nanoseconds, 8))
        ]
        # The nanoseconds are above -1 and below 2 seconds.
        for condition, change in (("slt", BILLION), ("sge", -BILLION)):
            carry = self.compare(condition, rest[1], 0 if change > 0 else BILLION)
            rest[1] = self.v(
                f"select i1 {carry}, i64 {self.v(f'add i64 {rest[1]}, {change}')}, i64 {rest[1]}"
            )
            moved = self.v(f"add i64 {rest[0]}, {-1 if change > 0 else 1}")
            rest[0] = self.v(f"select i1 {carry}, i64 {moved}, i64 {rest[0]}")
        spent = self.compare("slt", rest[0], 0)
        for one, at in ((rest[0], 0), (rest[1], 8)):
            value = self.v(f"select i1 {spent}, i64 0, i64 {one}")
            self.emit(f"store i64 {value}, ptr {self.at(left, at)}, align 1")
        self.emit(f"br label %{finished}")
        self.place(finished)
        self.end_call()
        self.finish(result)

    def message(self, *, sends: bool) -> tuple[str, str]:
        """The struct msghdr in the second argument, with one buffer and nothing else, made in %space for the host. The
        guest's as a pointer, and the descriptor's word."""
        header = self.require_range(self.argument(1), 56, READ)
        if not sends:
            self.require_range(self.argument(1), 56, WRITE)
        flags = self.int_argument(2)
        self.require(self.compare("eq", self.v(f"and i32 {flags}, {~_DONTWAIT}"), 0, "i32"))
        self.require(self.compare("eq", self.once(header), 0))
        self.require(self.compare("eq", self.once(self.at(header, 24)), 1))
        self.require(self.compare("eq", self.once(self.at(header, 32)), 0))
        vector = self.require_range(self.once(self.at(header, 16)), 16, READ)
        base, length = self.once(vector), self.once(self.at(vector, 8))
        self.require(self.compare("ult", self.v(f"add i64 {length}, -1"), _ONE_PIECE))
        buffer = self.require_range(base, length, READ if sends else WRITE)
        word = self.open_descriptor(native.FD_SOCKET | native.FD_LOCAL)
        plain = self.compare("eq", self.v(f"and i64 {word}, {native.FD_POLL}"), 0)
        self.require(plain, "letgo")
        for at in (0, 8, 32, 40, 48):
            self.emit(f"store i64 0, ptr {self.at('%space', at)}")
        self.emit(f"store ptr {self.at('%space', 64)}, ptr {self.at('%space', 16)}")
        self.emit(f"store i64 1, ptr {self.at('%space', 24)}")
        self.emit(f"store ptr {buffer}, ptr {self.at('%space', 64)}")
        self.emit(f"store i64 {length}, ptr {self.at('%space', 72)}")
        return header, word

    def op_sendmsg(self) -> None:
        """A few bytes to a connected socket of this host, which takes all of them or none."""
        _, word = self.message(sends=True)
        self.transferred(
            self.host("sendmsg", self.host_number(word), "ptr %space", str(_DONTWAIT | _NOSIGNAL)),
            self.impatient(word, self.int_argument(2)),
        )

    def op_recvmsg(self) -> None:
        header, word = self.message(sends=False)
        word = self.impatient(word, self.int_argument(2))
        flags = str(_DONTWAIT | _CMSG_CLOEXEC)

        def receive() -> str:
            return self.host("recvmsg", self.host_number(word), "ptr %space", flags)

        result = self.waited(word, receive(), receive)
        got, other = self.label(), self.label()
        self.emit(f"br i1 {self.compare('slt', result, 0)}, label %{other}, label %{got}")
        self.place(other)
        self.require(self.compare("eq", result, -EAGAIN), "letgo")
        self.transferred(result, word)
        self.place(got)
        seen = self.v(f"load i32, ptr {self.at('%space', 48)}")
        shown = self.v(f"and i32 {seen}, {~_CMSG_CLOEXEC}")
        self.emit(f"store i64 0, ptr {self.at(header, 40)}, align 1")
        self.emit(f"store i32 {shown}, ptr {self.at(header, 48)}, align 1")
        self.transferred(result)
