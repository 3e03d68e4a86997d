"""Stops and resumes the threads of a guest process for a debugger: breakpoints, watchpoints, steps, signals, system calls.

All threads stop together, and each where its state is precise: between two instructions, or in a system call that waits,
which then is shown as not begun yet (the pc on its instruction) and goes on waiting when the thread is resumed. Only if the
debugger has changed the thread's registers is such a call given up; it is made anew if the thread comes back to it.

Guest threads call :meth:`Debugger.run`, ``pause``, ``pause_in_call`` and ``signal``; everything else is for the one host
thread that talks to the client.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from vm_core.debug.watch import MOST, Hit, Watch, WatchedMemory, engine_for, pages, select
from vm_core.engine import Breakpoint, Budget, Engine, Exit, Syscall, Trap
from vm_core.execute import execute, fetch
from vm_core.linux import signal as signals
from vm_core.linux import table
from vm_core.linux.abi import SigInfo, s64
from vm_core.linux.system import ThreadEnd
from vm_core.state import HEADER, HEADER_BYTES

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process
    from vm_core.linux.strace import Tracer
    from vm_core.memory import GuestMemory

__all__ = ["Action", "Control", "Debugger", "Stop"]

SIGINT, SIGTRAP, SIGKILL = 2, 5, 9
_FUEL: Final = HEADER["fuel"] // 8
_OWN_WORDS: Final = (HEADER["pc"] // 8, HEADER["fp_flags"] // 8, HEADER["fp_rounding"] // 8)
_MOST_BREAKPOINTS: Final = 4096
_SETTLE_SECONDS: Final = 5.0
"""How long a stop waits for a thread that is in a system call of the host which nothing can interrupt."""


class Stop(NamedTuple):
    """Why a thread stopped. ``number`` is the guest's signal, 0 for none; ``kind`` is "signal", "step", "interrupt",
    "swbreak", "hwbreak", "watch", "rwatch", "awatch", "syscall_entry", "syscall_return", "exec", "fork", "vfork" or "vforkdone", with
    the guest address, the number of the call or the child in ``value``."""

    number: int
    kind: str
    value: int = 0
    info: SigInfo | None = None


class Action(NamedTuple):
    """What a thread is to do next: run, or with ``step`` one instruction (with ``span`` as many as stay in that range of
    addresses). ``number`` is a signal that it gets."""

    step: bool = False
    number: int = 0
    span: tuple[int, int] | None = None


class _Abandoned(BaseException):
    """Unwinds a system call that waits, because the debugger has sent the thread elsewhere."""


class Control:
    """One guest thread, as the debugger sees it. The condition of the debugger guards it."""

    def __init__(self, thread: GuestThread) -> None:
        self.thread = thread
        self.hold = False
        """It stays stopped while others run."""
        self.stepping = False
        self.span: tuple[int, int] | None = None
        self.event: Stop | None = None
        """What has happened and the client does not know of, or has not answered."""
        self.last: Stop | None = None
        """Why it stopped last."""
        self.parked = False
        self.waits = False
        """It is parked in a system call that waits."""
        self.number = 0
        """The signal that it was resumed with."""
        self.siginfo: bytes | None = None
        """The siginfo_t for that signal, if the client has written one."""
        self.approved: list[SigInfo] = []
        """Signals from the client, which are not reported to it."""
        self.delivered = False


class Debugger:
    """Of one process. It begins with every thread stopped before its first instruction.

    ``notify`` is called, from any thread, when there is something new for the client: ``halted`` with ``current``, or the end of the
    process.
    """

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.halted = True
        self.attached = False
        """A client is there. Without one nothing is reported, and nobody waits but before the first instruction."""
        self.controls: dict[GuestThread, Control] = {}
        self.current: Control | None = None
        """Whose event the client is told."""
        self.idle = False
        """All threads that were resumed are over."""
        self.breakpoints: dict[int, str] = {}
        """Guest addresses, and "swbreak" or "hwbreak"."""
        self.passed: Collection[int] = ()
        """Signals that are delivered without a stop."""
        self.caught: Collection[int] | None = ()
        """The numbers of the system calls that stop; None for all."""
        self.trace: Tracer | None = None
        """Takes a line for each system call."""
        self.notify: Callable[[], None] = lambda: None
        self.executed = False
        """The process goes on as another program, and the client has not been told."""
        self.leave_client: Callable[[], None] = lambda: None
        """Called in the child of a fork, to close the parent's connection there."""
        self.serve: Callable[[socket.socket], None] = lambda _connection: None
        """Called in the child of a fork, to answer at that end of its parent's stub."""
        self.finish: Callable[[], None] = lambda: None
        """Called in a child, when it is over."""
        self.events: frozenset[str] = frozenset()
        """Of "fork" and "vfork", what the client takes: such a child is stopped before its first instruction, and has a stub."""
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._born: list[tuple[int, socket.socket]] = []
        self.process: Process
        self.memory: GuestMemory
        self._free = True  # what a thread does that starts now: run, or wait to be resumed
        self.watches: list[Watch] = []
        self._selected: list[Watch] = []
        self._own: Engine  # the process's
        self._watching: Engine | None = None
        self._stand_in: WatchedMemory
        self._set: frozenset[int] = frozenset()
        self._set_in: Engine | None = None
        self._vcpus: dict[str, int] = {}

    def attach_to(self, process: Process) -> None:
        """The process that it is for, or another program that this has executed. Before it runs."""
        self.executed = hasattr(self, "process")
        self.process, self.memory = process, process.memory
        self.current = None  # no thread of the old program is left
        self.breakpoints.clear()
        self.watches.clear()
        self._selected = []
        self._own, self._watching = process.engine, None
        self._stand_in = WatchedMemory(process.memory, self.watches)
        self._set, self._set_in = frozenset(), None
        self._vcpus.clear()

    def forked(self, t: GuestThread) -> None:
        """In the child of a fork, whose only thread this is: it has no debugger."""
        self.notify = lambda: None
        self.condition = threading.Condition()
        control = self.controls[t]
        self.controls = {t: control}
        for _, connection in self._born:
            connection.close()
        self._born = []
        if self._watching is not None and self.process.engine is self._watching:
            # The engine that was ready for the fork is this one.
            self.memory.code_changed.remove(self._own.invalidate)
            self._own = self._watching
        leave, self.leave_client = (
            self.leave_client,
            lambda: None,
        )  # a child of the child has nothing to leave
        if self._pair is None:
            self.current, self.attached = None, True
            self.detach()
            leave()
            return
        leave()
        self._pair[0].close()
        # Its breakpoints are in the child's copy of the memory too, as far as the client knows.
        self.watches.clear()
        self._apply()
        control.event = control.span = None
        control.hold = control.stepping = control.parked = control.waits = False
        control.last = Stop(0, "interrupt")
        self.current, self.halted, self.idle, self.attached, self._free = control, True, False, True, True

    def before_fork(self, *, vfork: bool) -> None:
        """A process is about to be made, under the locks of Process.forking()."""
        if self.attached and ("vfork" if vfork else "fork") in self.events:
            self._pair = socket.socketpair()

    def began(self) -> None:
        """In the child, when it is all there."""
        if self._pair is not None:
            (_, connection), self._pair = self._pair, None
            self.serve(connection)

    def gave_birth(self, t: GuestThread, pid: int, *, vfork: bool) -> None:
        """In the parent; ``pid`` is 0 if there is no child. The client is told, and lets the thread go on. Raises ThreadEnd."""
        if self._pair is None:
            return
        (connection, other), self._pair = self._pair, None
        other.close()
        if not pid:
            connection.close()
            return
        self._born.append((pid, connection))
        self._report(self.controls[t], Stop(SIGTRAP, "vfork" if vfork else "fork", pid))

    def vfork_done(self, t: GuestThread) -> None:
        """The child of a vfork has executed a program, or is over. Raises ThreadEnd."""
        if self.attached and "vfork" in self.events and t in self.controls:
            self._report(self.controls[t], Stop(SIGTRAP, "vforkdone"))

    def take_born(self) -> list[tuple[int, socket.socket]]:
        """The children that the client has not been told of, and the other ends of their stubs."""
        with self.condition:
            born, self._born = self._born, []
            return born

    # -- the threads' side --------------------------------------------------------------------------------------------

    def run(self, t: GuestThread) -> None:
        """The loop of a guest thread, as GuestThread._loop. Raises ThreadEnd."""
        control = Control(t)
        with self.condition:
            control.hold = self.attached and not self._free
            self.controls[t] = control
        try:
            if self.executed:
                self.executed = False
                self._report(control, Stop(SIGTRAP, "exec"))
            while True:
                if t.attention:
                    self._attend(control)
                self.pause(t)
                self._run(control)
        finally:
            self._left(control)

    def _attend(self, control: Control) -> None:
        t = control.thread
        control.delivered = False
        t._attend()
        if control.delivered and control.stepping:
            # One step into the handler, before its first instruction.
            control.delivered = False
            self._report(control, Stop(SIGTRAP, "step"))

    def _run(self, control: Control) -> None:
        """One run of the engine, and what comes of it."""
        t, process = control.thread, self.process
        words, fuel = t.words, process.fuel
        stepping = control.stepping
        limit = 1 if stepping else t._slice
        if fuel is not None:
            limit = fuel.take(limit, lambda: process.leaving)
            if not limit:
                if not process.leaving:
                    process.end("fuel")
                raise ThreadEnd
        t._grant(limit)
        hit: Hit | None = None
        before = b""
        try:
            exit_ = process.engine.run(t.cpu, self._engine_memory, limit)
        except Hit as found:
            hit = found
            before = hit.watch.value(self.memory)
            exit_ = self._execute(t)
        finally:
            if fuel is not None:
                fuel.give(words[_FUEL])
        kind = type(exit_)
        if kind is Syscall:
            if not self._call(control):
                return
        elif kind is Breakpoint:
            self._report(control, Stop(SIGTRAP, self.breakpoints.get(t.cpu.pc, "swbreak"), t.cpu.pc))
            return
        elif hit is not None and kind is Budget:
            if hit.watch.kind != "watch" or hit.watch.value(self.memory) != before:
                self._report(control, Stop(SIGTRAP, hit.watch.kind, hit.address))
                return
        elif kind is Trap or not stepping:
            t._other_exit(exit_)
            return
        elif kind is not Budget:
            return
        if control.stepping and not self._in_span(control):
            self._report(control, Stop(SIGTRAP, "step"))

    def _execute(self, t: GuestThread) -> Exit:
        """The instruction of a watched access; Budget if it has retired."""
        isa, memory = self.process.isa, self.memory
        result = execute(isa, fetch(isa, memory, t.cpu.pc), t.cpu, memory)
        if isinstance(result, Trap):
            return result
        t.words[_FUEL] -= 1
        return Budget()

    @staticmethod
    def _in_span(control: Control) -> bool:
        span = control.span
        return span is not None and span[0] <= control.thread.cpu.pc < span[1]

    def _call(self, control: Control) -> bool:
        """A system call; whether the thread has come to the end of it, as of an instruction."""
        t = control.thread
        number, pc = t.words[t.abi.number_word], t.cpu.pc
        caught = self.attached and (self.caught is None or number in self.caught)
        if caught:
            self._report(control, Stop(SIGTRAP, "syscall_entry", number))
            if t.cpu.pc != pc:
                return False
        try:
            if self.trace is None:
                t.call()
            else:
                self._traced_call(t, number, self.trace)
        except _Abandoned:
            t.phase += 1
            t.attention = True
            return False
        if not caught:
            return True
        self._report(control, Stop(SIGTRAP, "syscall_return", number))
        return False

    def _traced_call(self, t: GuestThread, number: int, tracer: Tracer) -> None:
        """The system call, with its line."""
        entry = self.process.calls.get(number)
        if entry is None:
            t.call()
            return

        def call(t: GuestThread, *_: int) -> int:
            t.call()
            return s64(t.words[t.abi.result_word])

        _, arguments, row = entry
        tracer.wrap(row, call)(t, *arguments(t.words))

    def pause(self, t: GuestThread) -> None:
        """Wait while the thread is stopped. Raises ThreadEnd at the end of the process."""
        control = self.controls[t]
        if not (self.halted or control.hold or control.event is not None):
            return
        with self.condition:
            self._park(control)

    def pause_in_call(self, t: GuestThread) -> None:
        """The same inside a system call that waits, which is not over yet and has changed no register."""
        control = self.controls.get(t)
        if control is None or not (self.halted or control.hold):
            return
        cpu = t.cpu
        with self.condition:
            cpu.pc -= t.abi.syscall_bytes
            shown = _registers(t)
            control.waits = True
            try:
                self._park(control)
            finally:
                control.waits = False
            if _registers(t) != shown:
                raise _Abandoned
            cpu.pc += t.abi.syscall_bytes

    @contextmanager
    def away(self, t: GuestThread) -> Iterator[None]:
        """Inside, the thread waits in the host for what cannot be interrupted, and counts as stopped."""
        control = self.controls.get(t)
        if control is None:
            yield
            return
        with self.condition:
            control.parked = control.waits = True
            self.condition.notify_all()
        try:
            yield
        finally:
            with self.condition:
                control.parked = control.waits = False

    def signal(self, t: GuestThread, info: SigInfo) -> SigInfo | None:
        """A signal is about to act on a thread: the client may have another one delivered instead, or none."""
        control = self.controls.get(t)
        if control is None or not self.attached or info.number == SIGKILL:
            return info
        for index, known in enumerate(control.approved):
            if known is info:
                del control.approved[index]
                control.delivered = True
                return info
        if info.number in self.passed:
            control.delivered = True
            return info
        interrupted = t.interrupted
        if interrupted is not None:
            # The client sees the call as not begun, as with Linux.
            t.restart_call()
        pc = t.cpu.pc
        number = self._report(control, Stop(info.number, "signal", 0, info))
        if interrupted is not None and t.cpu.pc == pc:
            first = t.words[t.abi.argument_words[0]]
            t.cpu.pc += t.abi.syscall_bytes
            t.interrupted, t.first_argument = interrupted, first
        if not number:
            return None
        control.delivered = True
        written, control.siginfo = control.siginfo, None
        if number != info.number:
            return SigInfo(number, 0, pid=self.process.pid)
        return info if written is None else Rewritten.of(written, info)

    def _report(self, control: Control, stop: Stop) -> int:
        """Stop all threads for an event of this one, and wait to be resumed; returns the signal to deliver, or 0."""
        with self.condition:
            if not self.attached:
                return stop.number if stop.kind == "signal" else 0
            control.event = stop
            if not self.halted:
                self._halt(control)
            return self._park(control, of_signal=stop.kind == "signal")

    def _park(self, control: Control, *, of_signal: bool = False) -> int:
        """Wait to be resumed; returns the signal that comes with it if it is for the caller to deliver."""
        control.parked = True
        self.condition.notify_all()
        try:
            while not self.process.leaving and (self.halted or control.hold or control.event is not None):
                self.condition.wait()
        finally:
            control.parked = False
        if self.process.leaving:
            raise ThreadEnd
        number, control.number = control.number, 0
        if number and not of_signal:
            t = control.thread
            info = SigInfo(number, 0, pid=self.process.pid)
            control.approved.append(info)
            with self.process.lock:
                t.pending.append(info)
                signals.announce((t,))
            t.attention = True
        return number

    def _halt(self, control: Control | None) -> None:
        self.halted, self.current = True, control
        for other in list(self.controls.values()):
            if other is not control:
                other.thread.interrupt()
        self.notify()

    def _left(self, control: Control) -> None:
        with self.condition:
            self.controls.pop(control.thread, None)
            self.condition.notify_all()
            rest = self.controls.values()
            if all(t is control.thread for t in self.process.threads_snapshot()):
                self.close()
            if self.attached and not self.halted and rest and all(other.hold for other in rest):
                self.idle = True
                self._halt(None)

    def wake(self) -> None:
        """The process is over, or something else has changed that a thread may wait for."""
        with self.condition:
            self.condition.notify_all()
        self.notify()

    # -- the client's side --------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """A client is there: stop all threads."""
        with self.condition:
            self.attached = True
            if not self.halted:
                self._halt(self._any())
            if self.current is None:
                self.current = self._any()
        self.settle()

    def _any(self) -> Control | None:
        return self.controls.get(self.process.main) or next(iter(self.controls.values()), None)

    def detach(self) -> None:
        """The client goes: nothing stops any more, and all threads run on. Signals that it has not answered are delivered."""
        with self.condition:
            self.attached = False
            self.breakpoints.clear()
            self.watches.clear()
            self.passed, self.caught, self._free = (), (), True
            self.events = frozenset()
            self._apply()
            for control in self.controls.values():
                event, control.event = control.event, None
                control.hold = control.stepping = False
                if event is not None and event.kind == "signal" and control is not self.current:
                    control.number = event.number
            self.current, self.halted = None, False
            self.condition.notify_all()

    def settle(self) -> None:
        """Wait until all threads have stopped."""
        with self.condition:
            self.condition.wait_for(
                lambda: self.process.leaving or all(c.parked for c in self.controls.values()),
                _SETTLE_SECONDS,
            )

    def break_in(self) -> None:
        """Stop all threads, as the client asks."""
        with self.condition:
            if not self.halted and (control := self._any()) is not None:
                control.event = Stop(SIGINT, "interrupt")
                self._halt(control)
                control.thread.interrupt()

    def resume(self, choose: Callable[[GuestThread], Action | None], *, free: bool = True) -> None:
        """Let each thread do what ``choose`` says, None to stay stopped. ``free``: so may threads that start meanwhile."""
        with self.condition:
            self._apply()
            self._free = free
            if self.current is not None:
                self.current.event = None
            for control in self.controls.values():
                action = choose(control.thread)
                control.hold = action is None
                if action is not None:
                    control.stepping, control.span = action.step, action.span
                    if control.event is None or control is self.current:
                        control.number = action.number
            self.current = None
            for control in self.controls.values():
                if control.event is None or control.hold:
                    # Of one that stays, it is seen when it is resumed: a client that steps another thread over a breakpoint takes
                    # that away meanwhile.
                    continue
                if not self._holds(control, control.event):
                    control.event = None
                else:
                    self.current = control
                    self.notify()
                    return
            self.halted = False
            self.condition.notify_all()

    def _holds(self, control: Control, event: Stop) -> bool:
        """Whether an event that the client has not been told of is still one."""
        if event.kind in ("swbreak", "hwbreak"):
            pc = control.thread.cpu.pc
            return pc == event.value and pc in self.breakpoints
        return event.kind not in ("step", "interrupt")

    def _apply(self) -> None:
        """Take the engine that can do it, and give it the breakpoints."""
        wanted = frozenset(self.breakpoints)
        if self.watches and self._watching is None:
            native = self._own.name != "reference"
            self._watching = engine_for(self.process.isa, self._stand_in, native=native)
            self.memory.code_changed.append(self._watching.invalidate)
        engine = self._own
        if self.watches and self._watching is not None:
            engine = self._watching
        self._use(engine)
        if self.watches != self._selected:
            select(engine, self.watches)
            self.memory.hide(pages(self.watches))
            self._selected = list(self.watches)
        if wanted != self._set or engine is not self._set_in:
            engine.set_breakpoints(wanted)
            self._set, self._set_in = wanted, engine

    def add_breakpoint(self, address: int, kind: str) -> bool:
        """``kind`` is "swbreak" or "hwbreak". False if there are too many."""
        if len(self.breakpoints) >= _MOST_BREAKPOINTS and address not in self.breakpoints:
            return False
        self.breakpoints[address] = kind
        return True

    def remove_breakpoint(self, address: int, kind: str) -> None:
        if self.breakpoints.get(address) == kind:
            del self.breakpoints[address]

    def add_watchpoint(self, kind: str, address: int, length: int) -> bool:
        """``kind`` is one of vm_core.debug.watch.KINDS. False if there are too many, or it is too large."""
        watch = Watch(kind, address, length)
        if len(self.watches) >= MOST or not watch.fits(self.memory):
            return False
        self.watches.append(watch)
        return True

    def remove_watchpoint(self, kind: str, address: int, length: int) -> None:
        watch = Watch(kind, address, length)
        if watch in self.watches:
            self.watches.remove(watch)

    def describe(self, t: GuestThread) -> str:
        """What a thread does, for a list of threads; empty for one in its own code."""
        control = self.controls.get(t)
        if control is None:
            return "not started"
        if control.waits:
            return f"in {table.name_of(t.abi, t.words[t.abi.number_word])}"
        return ""

    @property
    def _engine_memory(self) -> GuestMemory:
        """What the engine in use takes for the guest's memory."""
        return cast("GuestMemory", self._stand_in) if self.process.engine is self._watching else self.memory

    def _use(self, engine: Engine) -> None:
        process = self.process
        if process.engine is engine:
            return
        process.engine.set_breakpoints(frozenset())
        process.engine = engine
        count = len(process.threads)
        for _ in range(count - self._vcpus.get(engine.name, 1)):
            engine.add_vcpu()
        self._vcpus[engine.name] = max(count, self._vcpus.get(engine.name, 1))
        # What the guest wrote while the other one ran.
        engine.synchronize(self.memory)
        self._set_in = None
        if engine is self._own:
            self.memory.hide({})
            self._selected = []

    def close(self) -> None:
        """The process is over or executes another program: no thread of it runs any more."""
        if self._watching is not None:
            self._use(self._own)
            self._watching.close()
            self._watching = None

    def write_memory(self, address: int, data: bytes) -> None:
        """Write whatever the permissions say; code is seen as changed. Raises MemoryFault."""
        self.memory.poke(address, data)
        for notify in self.memory.code_changed:
            notify(address, address + len(data))

    def threads(self) -> list[GuestThread]:
        """All threads, by number."""
        return sorted(self.process.threads_snapshot(), key=lambda t: t.tid)


class Rewritten(SigInfo):
    """A signal whose siginfo_t the debugger has written."""

    raw: bytes

    @classmethod
    def of(cls, raw: bytes, info: SigInfo) -> Rewritten:
        code = int.from_bytes(raw[8:12], "little", signed=True)
        out = cls(info.number, code, int.from_bytes(raw[16:24], "little"), info.pid, info.uid, info.value)
        out.raw = raw
        return out

    def pack(self) -> bytes:
        return self.raw


def _registers(t: GuestThread) -> tuple[bytes, ...]:
    """What a debugger can change of a thread."""
    words = t.words
    return bytes(words[HEADER_BYTES // 8 :]), *(words[at].to_bytes(8, "little") for at in _OWN_WORDS)
