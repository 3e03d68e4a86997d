"""The tracer: what happens to a guest's threads and processes, as lines in strace's manner, as JSON, or as events."""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vm_core.errors import UsageError
from vm_core.linux.abi import MASK64, SigInfo, errno_name
from vm_core.linux.strace.filters import Filter
from vm_core.linux.strace.output import Lines, Post, Shared
from vm_core.linux.strace.signatures import Signature, signature_of
from vm_core.linux.strace.structs import siginfo_text
from vm_core.linux.strace.summary import Summary
from vm_core.linux.strace.values import RESULTS, Call, pointer, signal_number
from vm_core.memory import MemoryFault
from vm_core.record import record

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process
    from vm_core.linux.table import Entry, Handler, Row

__all__ = ["Strace", "TraceEvent", "Tracer"]


@record(frozen=True)
class TraceEvent:
    """Something that a guest's thread did, or that was done to it.

    ``kind`` is "call", "signal", "exit" or "killed". ``name`` is the system call's, or the signal's; ``arguments`` are as the
    line shows them, ``values`` the registers. ``result`` is None where there is none: the call did not return, or it is no
    call; for "exit" it is the status. ``error`` is the errno's name. ``start`` is in seconds since 1970, ``seconds`` how long
    the call took. ``text`` is the line without its prefix.
    """

    kind: str
    pid: int
    tid: int
    name: str
    arguments: tuple[str, ...]
    values: tuple[int, ...]
    result: int | None
    error: str
    start: float
    seconds: float
    text: str

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        out: dict[str, Any] = {"type": self.kind, "pid": self.pid, "tid": self.tid, "time": self.start}
        if self.kind == "call":
            out |= {
                "name": self.name,
                "arguments": list(self.arguments),
                "values": list(self.values),
                "result": self.result,
                "error": self.error or None,
                "seconds": self.seconds,
            }
        elif self.kind == "exit":
            out["status"] = self.result
        else:
            out["signal"] = self.name
        return out | {"text": self.text}


@record(frozen=True)
class Strace:
    """What of a guest's system calls is shown, how and where.

    Lines go to ``write``, one a call; else to ``output``, a host descriptor or the path of a file, and without that to
    standard error. ``events`` gets a TraceEvent for each; with it alone there are no lines. Both are called in the process
    that runs vm, also for child processes of the guest, whose events come when this process has its next one, or at the end.

    ``filter`` is an expression as strace's ``-e trace=``: ``open,read,%file,!futex``. ``strings`` is how many bytes of a string
    are shown, ``stamps`` one of "r", "t", "tt" and "ttt" as strace has them, ``durations`` adds how long each call took,
    ``column`` is where results stand. ``status`` is "all", "successful" or "failed"; ``summary`` is "only" or "also" for a
    table at the end. ``follow`` is whether child processes are traced, ``separately`` whether each thread has a file of its own,
    whose name is ``output`` with its number.
    """

    write: Callable[[str], None] | None = None
    output: str | int | None = None
    filter: str = ""
    strings: int = 32
    stamps: str = ""
    durations: bool = False
    column: int = 40
    status: str = "all"
    summary: str = ""
    follow: bool = True
    separately: bool = False
    signals: bool = True
    exits: bool = True
    json: bool = False
    events: Callable[[TraceEvent], None] | None = None


_EARLY: Final = frozenset(
    {
        "read", "readv", "pread64", "preadv", "preadv2", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4", "connect",
        "sendto", "sendmsg", "sendmmsg", "sendfile", "splice", "copy_file_range", "poll", "ppoll", "select", "pselect6",
        "epoll_wait", "epoll_pwait", "epoll_pwait2", "futex", "futex_wait", "futex_waitv", "nanosleep", "clock_nanosleep",
        "pause", "rt_sigsuspend", "rt_sigtimedwait", "wait4", "waitid", "fork", "vfork", "clone", "clone3", "execve",
        "execveat", "fcntl", "flock", "fsync", "fdatasync", "open", "openat", "msgrcv", "msgsnd", "semop", "mq_timedreceive",
    }
)  # fmt: skip
"""Calls that may wait: their lines begin before they are made."""
_SIGNALLING: Final = frozenset({"kill", "tkill", "tgkill", "rt_sigreturn"})
_FORKING: Final = frozenset({"fork", "vfork", "clone", "clone3"})
_EXECUTING: Final = frozenset({"execve", "execveat"})
_RESTARTS: Final = {
    -512: "ERESTARTSYS (To be restarted if SA_RESTART is set)",
    -513: "ERESTARTNOINTR (To be restarted)",
    -514: "ERESTARTNOHAND (To be restarted if no handler)",
    -516: "ERESTART_RESTARTBLOCK (Interrupted by signal)",
}
_STAMPS: Final = ("", "r", "t", "tt", "ttt")


class _Made:
    """A call that has been made and is not over."""

    __slots__ = ("begun", "call", "cpu", "head", "seconds", "signature", "start", "texts")

    def __init__(self, call: Call, signature: Signature) -> None:
        self.call = call
        self.signature = signature
        self.texts: list[str | None] = []
        self.begun = ""
        self.head = 0
        """Words whose text stands in ``begun``."""
        self.start = time.time()
        self.seconds = time.perf_counter()
        self.cpu = time.thread_time_ns()


class Tracer:
    """Made with the first process of a guest; all its processes have it, each a copy. Raises UsageError and OSError."""

    def __init__(self, options: Strace) -> None:
        if options.stamps not in _STAMPS:
            raise UsageError(f"strace: {options.stamps!r} is no kind of time", hint="r, t, tt or ttt")
        if options.status not in ("all", "successful", "failed"):
            raise UsageError(f"strace: {options.status!r} is no status", hint="all, successful or failed")
        if options.summary not in ("", "only", "also"):
            raise UsageError(f"strace: {options.summary!r} is no kind of summary", hint="only or also")
        if options.strings < 0 or options.column < 0:
            raise UsageError("strace: a negative number of characters")
        if options.separately and not (isinstance(options.output, str) and options.output):
            raise UsageError("strace: output that is separate for each thread needs the name of a file")
        self.options = options
        self.filter = Filter(options.filter)
        self.shared = Shared()
        self.post: Post | None = None
        self._first = os.getpid()
        self._made: dict[int, _Made] = {}
        self._gone: list[tuple[int, int, bool]] = []
        self._silent = False
        quiet = options.summary == "only"
        self._lines: Lines | None = None
        if not quiet and (options.events is None or options.write is not None or options.output is not None):
            self._lines = self._open_lines()
        self._summary = Summary() if options.summary else None
        # A line that is shown or not by its result cannot begin before.
        self._early = self._lines is not None and not options.json and options.status == "all"
        self._table_lines = self._lines or (self._open_lines() if self._summary is not None else None)

    def _open_lines(self) -> Lines:
        where = self.options.output
        if self.options.write is not None:
            return Lines(self.shared, write=self.options.write)
        if isinstance(where, str):
            return Lines(self.shared, path=where, separately=self.options.separately)
        return Lines(self.shared, fd=2 if where is None else where)

    # -- what happens to threads and processes ------------------------------------------------------------------------

    def began(self, process: Process) -> None:
        """A thread of the process has been registered."""
        with self.shared.held():
            self.shared.threads(process.pid, len(process.threads))

    def left(self, thread: GuestThread) -> None:
        """A thread is over; it is still registered."""
        process = thread.process
        made = self._made.pop(thread.tid, None)
        with self.shared.held():
            self._tell_gone()
            if process.executes:
                if made is not None and made.call.name in _EXECUTING and thread.process is process:
                    self._made[process.pid] = made  # it ends when the new program is there
                return
            if not self._silent:
                if made is not None:
                    self._ended(thread, made, None)
                self._exit(thread)
            if self._lines is not None:
                self._lines.left(thread.tid)
            self.shared.threads(process.pid, len(process.threads) - 1)

    def _exit(self, thread: GuestThread) -> None:
        process = thread.process
        if not self.options.exits or self._silent:
            return
        if process.reason == "signal" and process.stopping:
            name = signal_number(process.signal or 0)
            self._say(thread, "killed", name, None, f"+++ killed by {name} +++")
        elif process.stopping and process.reason not in ("exit", ""):
            self._say(thread, "killed", process.reason, None, f"+++ stopped by vm: {process.reason} +++")
        else:
            status = process.exit_code if process.stopping else thread.exit_code
            self._say(thread, "exit", "", status or 0, f"+++ exited with {status or 0} +++")

    def _say(self, thread: GuestThread, kind: str, name: str, result: int | None, text: str) -> None:
        self._show(
            TraceEvent(kind, thread.process.pid, thread.tid, name, (), (), result, "", time.time(), 0.0, text)
        )

    def executed(self, process: Process, *, failed: bool = False) -> None:
        """The process goes on as another program, or cannot."""
        made = self._made.pop(process.pid, None)
        if made is not None and not self._silent:
            thread = made.call.thread
            thread.tid = process.pid
            with self.shared.held():
                self._ended(thread, made, None if failed else 0)
        self._made.clear()

    def forked(self, process: Process) -> None:
        """In the child of a fork."""
        self.shared.forked()
        self._made.clear()
        self._gone.clear()
        if not self.options.follow:
            self._silent = True
            return
        for lines in (self._lines, self._table_lines):
            if lines is not None:
                lines.forked()
        if self._summary is not None:
            self._summary.clear()
        with self.shared.held():
            self.shared.threads(process.pid, 1)

    def child_over(self, pid: int, number: int, *, reaped: bool) -> None:
        """A child has been killed by a signal, or (0) is over. Callable from a signal handler: it is told later."""
        self._gone.append((pid, number, reaped))

    def _tell_gone(self) -> None:
        """Children that could not say that they were killed."""
        while self._gone:
            pid, number, reaped = self._gone.pop(0)
            if number and not self.shared.told(pid):
                name = signal_number(number)
                text = f"+++ killed by {name} +++"
                if self.options.exits and self.options.follow and not self._silent:
                    self._show(TraceEvent("killed", pid, pid, name, (), (), None, "", time.time(), 0.0, text))
                self.shared.threads(pid, 0)
            if reaped:
                self.shared.forget(pid)

    def signal(self, thread: GuestThread, info: SigInfo) -> None:
        """A signal is about to be acted on."""
        if not self.options.signals or self._silent or self.options.summary == "only":
            return
        text = f"--- {signal_number(info.number)} {siginfo_text(info)} ---"
        with self.shared.held():
            self._tell_gone()
            self._say(thread, "signal", signal_number(info.number), None, text)

    def stopped(self, thread: GuestThread, number: int) -> None:
        """The process stops."""
        if self.options.signals and not self._silent:
            name = signal_number(number)
            with self.shared.held():
                self._say(thread, "signal", name, None, f"--- stopped by {name} ---")

    def finish(self) -> None:
        """The process is over. In the first one: show what the others have left, and the summary."""
        first = os.getpid() == self._first
        with self.shared.held():
            self._tell_gone()
            self._drain()
            if self._summary is not None and not self._silent:
                if not first:
                    assert self.post is not None
                    self.post.send(["summary", self._summary.facts()])
                elif self._table_lines is not None:
                    self._table()
        if first:
            for lines in {self._lines, self._table_lines} - {None}:
                assert lines is not None
                lines.close()

    def close(self) -> None:
        """Nothing comes any more."""
        self.shared.close()
        if self.post is not None:
            self.post.close()
            self.post = None

    def _table(self) -> None:
        assert self._summary is not None
        assert self._table_lines is not None
        pid = self._first
        if self.options.json:
            text = json.dumps({"type": "summary", "calls": self._summary.facts()})
            self._table_lines.line(pid, text)
            return
        for line in self._summary.table():
            self._table_lines.line(pid, line)

    def not_traced(self, calls: Mapping[int, Entry]) -> Mapping[int, Entry]:
        """Those that engines may answer themselves without being missed."""
        return {
            number: entry
            for number, entry in calls.items()
            if entry[2].name not in self.filter and entry[2].name not in _SIGNALLING
        }

    # -- calls --------------------------------------------------------------------------------------------------------

    def wrap(self, row: Row, handler: Handler) -> Handler:
        """The handler with its line."""
        name = row.name
        traced = name in self.filter
        if not traced:
            if name not in _FORKING:
                return handler

            def forking(t: GuestThread, *args: int) -> int | None:
                self._will_fork()
                return handler(t, *args)

            return forking
        signature = signature_of(name, row.args)
        forks = name in _FORKING

        def call(t: GuestThread, *args: int) -> int | None:
            if self._silent:
                return handler(t, *args)
            if forks:
                self._will_fork()
            pid = t.process.pid
            made = self._made.get(t.tid) if t.resumed is not None else None
            if made is None:
                made = self._enter(t, name, signature)
            try:
                result = handler(t, *args)
            except OSError as error:
                result = -(error.errno or errno.EIO)
            except MemoryFault:
                result = -errno.EFAULT
            except (OverflowError, ValueError, struct.error):
                result = -errno.EINVAL
            except MemoryError:
                result = -errno.ENOMEM
            if t.process.pid != pid:
                return result  # the child of a fork
            self._made.pop(t.tid, None)
            with self.shared.held():
                self._tell_gone()
                self._ended(t, made, result)
            return result

        return call

    def unknown(self, t: GuestThread, number: int, name: str) -> None:
        """A call that vm does not have."""
        if self._silent or name not in self.filter:
            return
        bare = name == f"syscall_{number}"
        if bare:
            name = f"syscall_{number:#x}"
        signature = signature_of(name, " ".join(["hex"] * 6) if bare else "")
        made = self._enter(t, name, signature, early=False)
        self._made.pop(t.tid, None)
        with self.shared.held():
            self._ended(t, made, -errno.ENOSYS)

    def _will_fork(self) -> None:
        with self.shared.held():
            self.shared.will_fork()
            if self.post is None and (
                self._summary is not None or self.options.write is not None or self.options.events is not None
            ):
                self.post = Post()
                for lines in (self._lines, self._table_lines):
                    if lines is not None:
                        lines.listen(self.post)

    def _enter(self, t: GuestThread, name: str, signature: Signature, *, early: bool = True) -> _Made:
        words = t.cpu.words
        args = tuple(words[at] for at in t.abi.argument_words[: signature.arity])
        call = Call(t, name, args, self.options.strings)
        made = _Made(call, signature)
        self._made[t.tid] = made
        made.texts = [None if word.after else _text(call, word, args) for word in signature.words]
        if self._early and early and name in _EARLY:
            text, made.head = self._begin_text(made)
            with self.shared.held():
                self._tell_gone()
                lines = self._lines
                assert lines is not None
                made.begun = self._prefix(t.tid, made.start) + text
                lines.begin(t.tid, made.begun)
        return made

    @staticmethod
    def _begin_text(made: _Made) -> tuple[str, int]:
        """The line up to the first argument that is known only after the call, and how many words that is."""
        out: list[str] = []
        words = made.signature.words
        for at, word in enumerate(words):
            if word.after:
                text = ", ".join(out)
                return f"{made.call.name}({text}" + (
                    ", " if out and not word.optional and not word.joined else ""
                ), at
            shown = made.texts[at]
            if shown is not None:
                out.append(shown)
        return f"{made.call.name}({', '.join(out)}", len(words)

    def _ended(self, t: GuestThread, made: _Made, result: int | None) -> None:
        """A call is over. The lock is held."""
        spent = time.perf_counter() - made.seconds
        call, signature = made.call, made.signature
        if result is None and call.name == "rt_sigreturn":
            value = t.cpu.words[t.abi.result_word]
            result = value - (1 << 64) if value >> 63 else value
        call.result, call.done = result, True
        failed = result is not None and -4096 < result < 0
        if self._summary is not None:
            self._summary.add(call.name, failed=failed, wall=spent, cpu=time.thread_time_ns() - made.cpu)
        wanted = self.options.status
        if wanted != "all" and failed != (wanted == "failed"):
            return
        for at, word in enumerate(signature.words):
            if word.after:
                if call.failed and not word.always:
                    made.texts[at] = pointer(call.args[word.at])
                else:
                    made.texts[at] = _text(call, word, call.args)
        if self._lines is None and self.options.events is None:
            return
        error = errno_name(-result) if result is not None and failed else ""
        whole = f"{call.name}({_joined(made, 0)})"
        shown = self._result_text(t, made, result)
        event = None
        if self.options.events is not None or self.options.json:
            texts = tuple(text for text in made.texts if text is not None)
            event = TraceEvent(
                "call", t.process.pid, t.tid, call.name, texts, call.args, result, error, made.start, spent,
                f"{whole} = {shown}",
            )  # fmt: skip
        if self._lines is None or self.options.json:
            assert event is not None
            self._show(event)
            return
        tail = f" <{spent:.6f}>" if self.options.durations else ""
        lines = self._lines
        self._drain()
        if made.begun and lines.continues(t.tid):
            rest = f"{_joined(made, made.head)}) "
            line = _padded(made.begun + rest, self.options.column)[len(made.begun) :]
            lines.end(t.tid, f"{line}= {shown}{tail}")
        elif made.begun:
            lines.cut(t.tid)
            head = self._prefix(t.tid, time.time()) + f"<... {call.name} resumed>"
            line = _padded(f"{head}{_joined(made, made.head)}) ", self.options.column)
            lines.line(t.tid, f"{line}= {shown}{tail}")
        else:
            line = _padded(self._prefix(t.tid, made.start) + whole + " ", self.options.column)
            lines.line(t.tid, f"{line}= {shown}{tail}")
        if event is not None:
            self._deliver(event)

    def _result_text(self, t: GuestThread, made: _Made, result: int | None) -> str:
        """What stands behind the equals sign."""
        if result is None:
            return "?"
        if result <= -512:
            if t.process.leaving:
                return "?"
            return f"? {_RESTARTS.get(result, f'ERESTART ({result})')}"
        if -4096 < result < 0:
            return f"-1 {errno_name(-result)} ({os.strerror(-result)})"
        show = RESULTS.get(made.signature.result)
        if show is not None:
            try:
                return show(made.call, result)
            except Exception:  # noqa: BLE001 - the guest's memory may hold anything
                return str(result)
        return str(result) if result < 1 << 63 else str(result & MASK64)

    # -- showing ------------------------------------------------------------------------------------------------------

    def _prefix(self, tid: int, now: float) -> str:
        """The thread and the time before a line."""
        options, out = self.options, ""
        if not options.separately and not options.json:
            if isinstance(options.output, str):
                out = f"{tid:<5} " if options.follow else ""
            elif self.shared.several:
                out = f"[pid {tid:>5}] "
        kind = options.stamps
        if kind == "r":
            last = self.shared.last
            self.shared.last = now
            return out + f"{max(now - last, 0.0) if last else 0.0:>13.6f} "
        if kind == "ttt":
            return out + f"{now:.6f} "
        if kind:
            fraction = f".{int(now % 1 * 1e6):06}" if kind == "tt" else ""
            return out + time.strftime("%H:%M:%S", time.localtime(now)) + fraction + " "
        return out

    def _show(self, event: TraceEvent) -> None:
        """Something that is one line. The lock is held."""
        if self.options.summary == "only":
            return
        self._drain()
        if self._lines is not None:
            if self.options.json:
                self._lines.line(event.tid, json.dumps(event.facts()))
            else:
                self._lines.cut(event.tid)
                self._lines.line(event.tid, self._prefix(event.tid, event.start) + event.text)
        self._deliver(event)

    def _deliver(self, event: TraceEvent) -> None:
        if self.options.events is None:
            return
        if os.getpid() == self._first:
            self.options.events(event)
        elif self.post is not None:
            values = [getattr(event, name) for name in TraceEvent.__match_args__]
            self.post.send(["event", values])

    def _drain(self) -> None:
        """In the first process: what the others have left for it."""
        if self.post is None or os.getpid() != self._first:
            return
        for kind, content in self.post.take():
            if kind == "line" and self.options.write is not None:
                self.options.write(content)
            elif kind == "summary" and self._summary is not None:
                self._summary.merge(content)
            elif kind == "event" and self.options.events is not None:
                kind_, pid, tid, name, arguments, values, *rest = content
                self.options.events(TraceEvent(kind_, pid, tid, name, tuple(arguments), tuple(values), *rest))


def _text(call: Call, word: Any, args: tuple[int, ...]) -> str | None:
    """One argument. Whatever a guest's memory holds, there is a text."""
    value = args[word.at]
    try:
        text: str | None = word.decode(call, value, word.parameter)
    except Exception:  # noqa: BLE001 - the guest's memory may hold anything, or not be there
        return pointer(value)
    return text


def _joined(made: _Made, first: int) -> str:
    """The arguments from a word on, as they stand behind each other."""
    out = ""
    begun = first > 0 and any(text is not None for text in made.texts[:first])
    comma = False
    if begun and first < len(made.texts):
        word = made.signature.words[first]
        comma = word.optional or word.joined
    for at in range(first, len(made.texts)):
        text = made.texts[at]
        if text is None:
            continue
        if comma and not made.signature.words[at].joined:
            out += ", "
        out += text
        comma = True
    return out


def _padded(text: str, column: int) -> str:
    return text.ljust(column)
