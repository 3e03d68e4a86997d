"""A guest process: program, threads, and the loop that carries a thread between the engine and its system calls.

Each guest thread is a host thread; engines release the GIL while guest code runs, so guest threads are parallel. The
first guest thread runs in the thread that calls :meth:`Process.run`, which is why Ctrl-C reaches it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from vm_core import isa as isas
from vm_core.engine import HOST_SIGNALS, Budget, Cause, Engine, Syscall, Trap
from vm_core.engines import cache_directory
from vm_core.errors import DecodeError, LoadError, UsageError
from vm_core.hints import TYPE_CHECKING, Any, Final, NoReturn, Protocol, Self
from vm_core.linux import limits, table
from vm_core.linux import mmap as mapping
from vm_core.linux import signal as signals
from vm_core.linux.abi import MASK64, Abi, SigInfo
from vm_core.linux.files import RESTART, File, FileSystem
from vm_core.linux.futex import (
    SLICE_SECONDS,
    FutexTable,
    HostFutexes,
    PiTable,
    Waiter,
    can_wait_for_two,
    host_wake,
    release_robust_list,
)
from vm_core.linux.hostthread import HostThread, in_main_thread
from vm_core.linux.native import MMAP_TOP, PATIENCE, Constant, NativeCalls
from vm_core.linux.paths import Bind, Namespace, temporary_parent
from vm_core.linux.procfs import Emulated
from vm_core.linux.system import Parked, Scheduling, ThreadEnd
from vm_core.linux.time import AlarmClock, IntervalTimer
from vm_core.linux.vdso import vdso_of
from vm_core.loader import Image, Program, interpreter_of, load, load_interpreter, machine_of
from vm_core.log import Log
from vm_core.memory import GONE, PAGE, GuestMemory, MemoryFault, MemoryLimit, Prot, page_down, page_up
from vm_core.state import HEADER, CpuState

if TYPE_CHECKING:
    from types import FrameType

    from vm_core.debug.control import Debugger
    from vm_core.instructions import InstructionTrace, Recorder
    from vm_core.linux.children import Child
    from vm_core.linux.execve import Request
    from vm_core.linux.family import Family
    from vm_core.linux.ipc import Ipc
    from vm_core.linux.strace import Strace, Tracer
    from vm_core.spec.isa import Isa

__all__ = ["GuestThread", "Host", "Process", "SyscallHook", "switching"]

SyscallHook = Callable[["GuestThread", str, tuple[int, ...]], "int | None"]
"""Called before each system call with its name and arguments; a number returned is its result, None lets it run."""
EngineMaker = Callable[["Isa", GuestMemory], Engine]

_STACK_BYTES: Final = 8 << 20
_GUARD_BYTES: Final = 1 << 20
_FIRST_SLICE: Final = 1_000
_MAX_SLICE: Final = 8_000_000
"""Instructions between looks at the clock: 2 ms of compiled code, 30 ms interpreted. More gains nothing measurable."""
_MAX_HOSTED_SLICE: Final = 64_000_000
"""The same for a thread that shares its host thread with others."""
_SLICE_SECONDS: Final = 0.01
_PARKABLE: Final = frozenset(
    {
        "accept", "accept4", "clock_nanosleep", "epoll_pwait", "epoll_wait", "futex", "nanosleep", "pause", "poll",
        "ppoll", "pselect6", "read", "readv", "recvfrom", "recvmsg", "rt_sigsuspend", "select", "wait4", "waitid",
    }
)  # fmt: skip
"""System calls that have done nothing when they come to their wait, or can tell: they may be made again instead."""
_FIRST_PART, _LAST_PART = 0.01, 1.28
"""Seconds: the parts of a wait in Python's main thread."""
_MAX_THREADS: Final = 4096
_MAX_SAID: Final = 100
_FUEL: Final = HEADER["fuel"] // 8
"""Index of the header word "fuel" in CpuState.words; so for these:"""
_CALLS: Final = HEADER["calls"] // 8
_NATIVE_COUNT: Final = HEADER["native_count"] // 8
_PATIENCE: Final = HEADER["patience"] // 8
_ATTENTION: Final = HEADER["attention"] // 8
_WAITING: Final = HEADER["waiting"] // 8
_IN_CALL: Final = HEADER["in_call"] // 8
_MASK: Final = HEADER["signal_mask"] // 8
_PENDING: Final = HEADER["signal_pending"] // 8
_TID: Final = HEADER["tid"] // 8
_WAKE_FD: Final = HEADER["wake_fd"] // 8
_LONGEST_WAIT: Final = HEADER["wait_nanoseconds"] // 8
_ALTSTACK: Final = HEADER["altstack"] // 8
_NOT_TAKEN: Final = frozenset({4, 5, 7, 8, 9, 11, 19, 27, 32, 33})
"""Signals of the host that are vm's own: its faults, its profiler's and the C library's, and those that cannot be taken."""
_IGNORED_BY_PYTHON: Final = frozenset({13, 25})
_UNFIT: Final = (OverflowError, ValueError, struct.error)
"""What Python's own system call wrappers raise for a number that the C type or the kernel cannot take."""
_OWED_SECONDS: Final = 0.2
"""How long after a signal's letter its host signal may arrive."""
_STATUS: Final = {"fuel": 123, "timeout": 124, "memory": 122}
"""Exit statuses of guest processes that vm has ended, as ``vm run`` has them."""
_SIGXFSZ: Final = 25
_SIGILL, _SIGTRAP, _SIGBUS, _SIGFPE, _SIGSEGV = 4, 5, 7, 8, 11


class _Switching:
    """Shortens the interpreter's thread switch interval while guests with several threads run.

    PERF: a guest thread that makes system calls gives the GIL up for too short a time for a waiting thread to get it,
    which then waits out the whole interval, 5 ms, for each of its own calls.
    """

    seconds: Final = 0.0005

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, self.seconds))

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.setswitchinterval(self._before)

    def forked(self) -> None:
        """In the child of a fork: there is one thread."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            sys.setswitchinterval(self._before)


switching = _Switching()
"""One for the process: its users are the guests with several threads, and the schedulers."""


class Host(Protocol):
    """What runs the threads of many processes, a slice of instructions at a time (:meth:`GuestThread.run_slice`)."""

    def ready(self, thread: GuestThread) -> None:
        """A thread that waits has been woken. Callable from anywhere, under any lock of the process."""

    def start_thread(self, thread: GuestThread) -> None:
        """The guest has started a thread."""

    def blocking(self) -> AbstractContextManager[None]:
        """While the calling host thread waits for the sake of a guest."""


class FuelPool:
    """An instruction budget that all threads of a process share, exact to the instruction.

    A thread takes a slice and gives back what it did not retire. One that finds the pool empty waits while others
    still hold slices, because they may give some back.
    """

    def __init__(self, fuel: int) -> None:
        self._condition = threading.Condition()
        self._left = fuel
        self._out = 0

    @property
    def left(self) -> int:
        """What no thread holds."""
        return self._left

    def take(self, wanted: int, stopping: Callable[[], bool]) -> int:
        """Up to ``wanted`` instructions; 0 when the budget is spent, or the process is stopping."""
        with self._condition:
            while not self._left and self._out and not stopping():
                self._condition.wait(0.05)
            taken = min(wanted, self._left)
            if taken:
                self._left -= taken
                self._out += 1
            return taken

    def copy(self) -> FuelPool:
        """Another one with what is left, for the child of a fork."""
        return FuelPool(self._left)

    def give(self, unused: int) -> None:
        with self._condition:
            self._left += unused
            self._out -= 1
            self._condition.notify_all()


class GuestThread:
    """One guest thread. ``attention`` is set by others when it must look at its signals or at the process's end."""

    abi: Abi
    tid: int

    def __init__(self, process: Process, cpu: CpuState, tid: int) -> None:
        self.process = process
        self.memory = process.memory
        self.files = process.files
        self.table = process.files.table
        self.abi = process.abi
        self.cpu = cpu
        self.tid = tid
        self.name = os.fsencode(process.comm)[:15]
        self.saved_mask: int | None = None
        self.scheduling = Scheduling()
        self.awaited = 0
        self.pending: list[SigInfo] = []
        words = self.words = cpu.words
        words[_CALLS] = process.native.address if process.natively else 0
        words[_NATIVE_COUNT] = words[_ATTENTION] = words[_WAITING] = words[_IN_CALL] = words[_PENDING] = 0
        words[_LONGEST_WAIT] = words[_WAKE_FD] = 0
        words[_PATIENCE] = PATIENCE
        words[_TID] = tid
        self.mask = 0
        self.altstack = (0, 2, 0)
        self.clear_child_tid = 0
        self.robust_list = 0
        self.attention = False
        self.interrupted: int | None = None
        self.first_argument = 0
        self.call_number = 0
        self.phase = 0
        """Counts the starts and ends of system calls: odd inside one."""
        self.waiting = False
        self._retired = 0
        self._granted = cpu.words[_FUEL]
        self.exit_code = 0
        self.resumed: Parked | None = None
        """What the current system call waited for, if it is made again after that."""
        self.waiter: Waiter | None = None
        """Where the system call that is to be made again stands in a queue of futexes."""
        self._slice = _FIRST_SLICE
        self._most = _MAX_SLICE
        self._last_budget = 0.0
        self._baton = threading.Lock()
        self._baton.acquire()
        self._wake_fd = -1
        self._wake_lock = threading.RLock()
        self.barrier = threading.RLock()
        """Taking it orders the host's memory accesses, as every lock does; it guards nothing."""
        self.call = self._caller()

    @property
    def mask(self) -> int:
        """The blocked signals. Native code changes them too."""
        return self.words[_MASK]

    @mask.setter
    def mask(self, value: int) -> None:
        self.words[_MASK] = value

    @property
    def altstack(self) -> tuple[int, int, int]:
        """The alternative signal stack: address, flags, size."""
        words = self.words
        return words[_ALTSTACK], words[_ALTSTACK + 1], words[_ALTSTACK + 2]

    @altstack.setter
    def altstack(self, value: tuple[int, int, int]) -> None:
        words = self.words
        words[_ALTSTACK], words[_ALTSTACK + 1], words[_ALTSTACK + 2] = value

    @property
    def calls_made(self) -> int:
        """System calls so far, here and in native code."""
        return (self.phase + 1 >> 1) + self.words[_NATIVE_COUNT]

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the thread or the process ends. Raises nothing of its own."""
        if in_main_thread():
            self.words[_LONGEST_WAIT] = int(SLICE_SECONDS * 1e9)
            if isinstance(self.process.futexes, HostFutexes):
                self.process.futexes.main = self
        try:
            if self.process.debugger is not None:
                self.process.debugger.run(self)
            elif self.process.fuel is None:
                self._loop()
            else:
                self._loop_fuel(self.process.fuel)
        except ThreadEnd:
            pass
        finally:
            self._leave()

    def _loop(self) -> None:
        process, cpu, memory, call = self.process, self.cpu, self.memory, self.call
        run = process.engine.run
        while True:
            if self.attention:
                self._attend()
            limit = self._slice
            self._grant(limit)
            exit_ = run(cpu, memory, limit, call)
            if type(exit_) is Syscall:
                call()
            else:
                self._other_exit(exit_)

    def _loop_fuel(self, fuel: FuelPool) -> None:
        """As _loop, taking each slice from the shared budget, and never holding one while in a system call."""
        process, cpu, memory, words = self.process, self.cpu, self.memory, self.cpu.words
        run = process.engine.run
        while True:
            if self.attention:
                self._attend()
            limit = fuel.take(self._slice, lambda: process.leaving)
            if not limit:
                if not process.leaving:
                    process.end("fuel")
                raise ThreadEnd
            self._grant(limit)
            try:
                exit_ = run(cpu, memory, limit)
            finally:
                fuel.give(words[_FUEL])
            if type(exit_) is Syscall:
                self.call()
            else:
                self._other_exit(exit_)

    def run_slice(self) -> Parked | None:
        """Run until a slice of instructions is used up (None), or a system call waits (what for). Raises ThreadEnd when
        the thread is over. Each call may come from another host thread.
        """
        try:
            if self.resumed is not None:
                self.call()
                self.resumed = None
            if self.attention:
                self._attend()
            if self.process.fuel is None:
                self._run_slice()
            else:
                self._run_slice_fuel(self.process.fuel)
        except Parked as wait:
            self.phase -= 1
            self.resumed = wait
            return wait
        except BaseException:
            self._leave()
            raise
        return None

    def _run_slice(self) -> None:
        self._most = _MAX_HOSTED_SLICE
        limit = self._slice
        self._grant(limit)
        self._last_budget = time.perf_counter()
        exit_ = self.process.engine.run(self.cpu, self.memory, limit, self.call)
        if type(exit_) is Syscall:
            self.call()
        else:
            self._other_exit(exit_)

    def _run_slice_fuel(self, fuel: FuelPool) -> None:
        """As one round of _loop_fuel, but for as long as the slice lasts."""
        process, words = self.process, self.cpu.words
        left = self._slice
        self._last_budget = time.perf_counter()
        while left > 0 and not self.attention:
            limit = fuel.take(left, lambda: process.leaving)
            if not limit:
                if not process.leaving:
                    process.end("fuel")
                raise ThreadEnd
            self._grant(limit)
            try:
                exit_ = process.engine.run(self.cpu, self.memory, limit)
            finally:
                fuel.give(words[_FUEL])
            left -= limit - words[_FUEL]
            if type(exit_) is Syscall:
                self.call()
            elif type(exit_) is not Budget or not left:
                self._other_exit(exit_)

    def _grant(self, limit: int) -> None:
        """A slice of instructions begins; what the last one left over was not used."""
        words = self.cpu.words
        self._retired += self._granted - words[_FUEL]
        self._granted = words[_FUEL] = limit

    @property
    def retired(self) -> int:
        """Instructions retired so far; while the thread is in guest code, those at its last system call."""
        return self._retired + self._granted - self.cpu.words[_FUEL]

    def _caller(self) -> Callable[[], bool]:
        """A function that does the system call that the registers ask for.

        It returns whether the thread must look at its signals. Raises ThreadEnd.

        PERF: a closure, because it runs once for each system call of the guest.
        """
        words, process, calls = self.cpu.words, self.process, self.process.calls
        number_at, result_at, first_at = (
            self.abi.number_word,
            self.abi.result_word,
            self.abi.argument_words[0],
        )

        def call() -> bool:
            number = words[number_at]
            entry = calls.get(number)
            if entry is None:
                words[result_at] = process.unknown(number, self)
                return self.attention
            handler, arguments, _ = entry
            self.phase += 1
            words[_PATIENCE] = PATIENCE
            try:
                result = handler(self, *arguments(words))
            except OSError as error:
                result = -(error.errno or errno.EIO)
                if result == -errno.EFBIG and limits.FSIZE in process.limits:
                    self.raise_signal(_SIGXFSZ)
            except MemoryFault:
                result = -errno.EFAULT
            except _UNFIT:
                result = -errno.EINVAL
            except MemoryError:
                result = -errno.ENOMEM
            except MemoryLimit as limited:
                process.end("memory", message=str(limited))
                raise ThreadEnd from None
            self.phase += 1
            if result is not None:
                if result < 0:
                    if result <= RESTART:
                        self._interrupt_call(result, number, words[first_at])
                    result &= MASK64
                words[result_at] = result
            return self.attention

        return call

    def _other_exit(self, exit_: object) -> None:
        kind = type(exit_)
        if kind is Budget:
            now = time.perf_counter()
            elapsed = now - self._last_budget
            self._last_budget = now
            if elapsed < 1:
                # Never more than 8 times at once: what was just measured may have been a burst.
                wanted = int(self._slice * _SLICE_SECONDS / max(elapsed, 1e-6))
                self._slice = max(_FIRST_SLICE // 4, min(wanted, self._slice * 8, self._most))
        elif kind is Trap:
            assert isinstance(exit_, Trap)
            self._trap(exit_)
        # Interrupted and Breakpoint: go round; the loop looks at `attention`.

    def _trap(self, trap: Trap) -> None:
        cause = trap.cause
        if cause in (Cause.LOAD, Cause.STORE, Cause.FETCH):
            gone = self.memory.table[trap.address >> 12] & GONE if trap.mapped else 0
            if gone and not self.memory.is_gone(trap.address):
                return  # the file has the page by now: the access is made again
            code = 2 if trap.mapped else 1
            info = SigInfo(_SIGBUS if gone else _SIGSEGV, code, trap.address)
        elif cause is Cause.ILLEGAL:
            info = SigInfo(_SIGILL, 1, trap.pc)
        elif cause is Cause.BREAKPOINT:
            info = SigInfo(_SIGTRAP, 1, trap.pc)
        elif cause is Cause.MISALIGNED:
            info = SigInfo(_SIGBUS, 1, trap.address)
        elif cause is Cause.REFUSED:
            info = SigInfo(_SIGSEGV, 0x80)  # SI_KERNEL
        else:
            info = SigInfo(_SIGFPE, 1, trap.pc)
        self.last_trap = trap
        signals.force(self, info)

    last_trap: Trap | None = None

    def _attend(self) -> None:
        if self.process._wants_signals:
            self.process._take_wanted_signals()
        self.attention = False
        self.words[_ATTENTION] = 0
        if self.process.leaving:
            raise ThreadEnd
        signals.deliver(self)
        if self.process.leaving:
            raise ThreadEnd

    def _interrupt_call(self, reason: int, number: int, first: int) -> None:
        self.interrupted, self.call_number, self.first_argument = reason, number, first
        self.attention = True

    def restart_call(self) -> None:
        """Make the interrupted system call start again: its registers and the pc as before it."""
        abi, words = self.abi, self.cpu.words
        self.interrupted = None
        words[abi.result_word] = (
            self.call_number if abi.result_word == abi.number_word else self.first_argument
        )
        self.cpu.pc -= abi.syscall_bytes

    def _leave(self) -> None:
        process = self.process
        if process.tracer is not None:
            process.tracer.left(self)
        try:
            if self.robust_list:
                # Also at the process's end: the locks may be in memory that other processes share.
                release_robust_list(self)
            if not process.stopping:
                if process._pi_futexes is not None:
                    process._pi_futexes.left(self)
                if self.clear_child_tid:
                    self.memory.store(self.clear_child_tid, 4, 0)
                    process.futexes.wake(self.clear_child_tid, 1, shared=True)
        except MemoryFault:
            pass
        finally:
            process.left(self)
            with self._wake_lock:
                if self._wake_fd >= 0:
                    fd, self._wake_fd = self._wake_fd, -1
                    self.words[_WAKE_FD] = 0
                    os.close(fd)

    # -- waiting ------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Make the thread look at its signals soon, also out of a wait. Callable from any thread."""
        self.attention = True
        self.words[_ATTENTION] = 1
        self.wake()
        if self.cpu.outside is not None:
            self.cpu.outside.kick()
        if self.words[_WAITING]:
            host_wake(self.cpu.address + 8 * _ATTENTION, 1)

    def wake(self) -> None:
        """End one block() or poll() of the thread, or the next one."""
        host = self.process.host
        if host is not None:
            host.ready(self)
        try:  # noqa: SIM105 - PERF: suppress costs as much as the rest of a futex wake
            self._baton.release()
        except RuntimeError:
            pass  # it holds a wake-up already
        if self._wake_fd >= 0:
            # Locked, or the thread could end meanwhile and the host give the number to a file of the guest. Reentrant:
            # a signal handler of Python wakes threads too.
            with self._wake_lock, contextlib.suppress(OSError):
                if self._wake_fd >= 0:
                    os.eventfd_write(self._wake_fd, 1)

    def must_return(self) -> bool:
        """Whether a wait has to end for a signal or for the end of the process."""
        process = self.process
        if process._wants_signals:
            process._take_wanted_signals()
        self.attention = False
        self.words[_ATTENTION] = 0
        if process.debugger is not None:
            process.debugger.pause_in_call(self)
        if process.leaving:
            self.attention = True
            return True
        wanted = ~self.mask | self.awaited
        with process.lock:
            for info in (*self.pending, *process.signals.pending):
                if wanted & signals.bit(info.number) and (
                    self.awaited & signals.bit(info.number) or not process.signals.ignored(info.number)
                ):
                    self.attention = True
                    return True
        if process.tracer is not None and self.words[_PENDING]:
            self.attention = True  # a signal that is ignored is shown after the call
        return False

    def first_deadline(self, deadline: float | None) -> float | None:
        """The deadline of a system call's wait: if it is made again, the one that it had the first time."""
        first = None if self.resumed is None else self.resumed.deadline
        return first if deadline is None or (first is not None and first < deadline) else deadline

    def _can_park(self) -> bool:
        entry = self.process.calls.get(self.cpu.words[self.abi.number_word])
        return entry is not None and entry[2].name in _PARKABLE

    def block(self, deadline: float | None, done: Callable[[], bool] | None) -> int:
        """Wait until ``done()`` after a wake(): 0; the deadline (time.monotonic): -ETIMEDOUT; a signal: -EINTR."""
        host = self.process.host
        if host is None:
            return self._block(deadline, done)
        if not self._can_park():
            with host.blocking():
                return self._block(deadline, done)
        deadline = self.first_deadline(deadline)
        if done is not None and done():
            return 0
        if self.attention and self.must_return():
            return -errno.EINTR
        if deadline is not None and time.monotonic() >= deadline:
            return -errno.ETIMEDOUT
        raise Parked(deadline, [])

    def _parts(self) -> tuple[float, float]:
        """The longest that the first part of a wait may last, and any, in seconds.

        A host signal that comes between Python's last look for one and the host call that waits does not end that call: Python
        looks again when it returns. It is a window of a microsecond, and a likely one, as what a program does before it waits is
        what others signal it for; so the first part is short, and each next one twice as long.
        """
        if self.words[_LONGEST_WAIT]:
            return _FIRST_PART, _LAST_PART
        return threading.TIMEOUT_MAX, threading.TIMEOUT_MAX  # not the thread that Python has signals in

    def _block(self, deadline: float | None, done: Callable[[], bool] | None) -> int:
        self.waiting = True
        part, longest = self._parts()
        try:
            while True:
                if done is not None and done():
                    return 0
                if self.attention and self.must_return():
                    return -errno.EINTR
                if deadline is None:
                    self._baton.acquire(timeout=part)
                else:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return -errno.ETIMEDOUT
                    self._baton.acquire(timeout=min(left, part))
                part = min(2 * part, longest)
        finally:
            self.waiting = False

    def sleep(self, seconds: float) -> bool:
        """Sleep; False if a signal came."""
        return self.block(time.monotonic() + seconds, None) == -errno.ETIMEDOUT

    def poll(
        self, wanted: list[tuple[int, int]], deadline: float | None, done: Callable[[], bool] | None = None
    ) -> list[tuple[int, int]] | None:
        """Wait for host descriptors: those that are ready, none at the deadline or once ``done()`` after a wake(), None if a
        signal came.

        A caller must not use a descriptor number from before the wait: the file may have been closed meanwhile.
        """
        host = self.process.host
        if host is None:
            return self._poll(wanted, deadline, done)
        if not self._can_park():
            with host.blocking():
                return self._poll(wanted, deadline, done)
        deadline = self.first_deadline(deadline)
        if done is not None and done():
            return []
        if self.attention and self.must_return():
            return None
        poller = select.poll()
        for fd, events in wanted:
            poller.register(fd, events)
        if (ready := poller.poll(0)) or (deadline is not None and time.monotonic() >= deadline):
            return ready
        raise Parked(deadline, wanted)

    def _poll(
        self, wanted: list[tuple[int, int]], deadline: float | None, done: Callable[[], bool] | None = None
    ) -> list[tuple[int, int]] | None:
        if self._wake_fd < 0:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.words[_WAKE_FD] = self._wake_fd + 1
        poller = select.poll()
        for fd, events in wanted:
            poller.register(fd, events)
        poller.register(self._wake_fd, select.POLLIN)
        self.waiting = True
        part, longest = self._parts()
        try:
            while True:
                if done is not None and done():
                    return []
                if self.attention and self.must_return():
                    return None
                left = 1e9 if deadline is None else max((deadline - time.monotonic()) * 1000, 0.0)
                ready = poller.poll(min(left + 0.5, part * 1000, 1e9))
                if any(fd == self._wake_fd for fd, _ in ready):
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake_fd)
                    ready = [(fd, events) for fd, events in ready if fd != self._wake_fd]
                if ready:
                    return ready
                if deadline is not None and time.monotonic() >= deadline:
                    return []
                part = min(2 * part, longest)
        finally:
            self.waiting = False

    @contextmanager
    def waits_for_child(self) -> Iterator[None]:
        """Inside, the thread waits for its own child process, and for nothing else."""
        host, debugger = self.process.host, self.process.debugger
        self.waiting = True
        try:
            with ExitStack() as held:
                if host is not None:
                    held.enter_context(host.blocking())
                if debugger is not None:
                    held.enter_context(debugger.away(self))
                yield
        finally:
            self.waiting = False

    def forked(self) -> None:
        """In the child of a fork: this is its first thread, and nobody waits for it."""
        self.tid = self.words[_TID] = self.process.pid
        self._baton = threading.Lock()
        self._baton.acquire()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1
            self.words[_WAKE_FD] = 0
        self._wake_lock = threading.RLock()
        self.barrier = threading.RLock()
        self.pending.clear()
        self.words[_PENDING] = self.words[_ATTENTION] = 0
        self.attention = False
        self.resumed = self.waiter = None

    # -- for handlers -------------------------------------------------------------------------------------------

    def path(self, address: int) -> str:
        """A path argument. Raises MemoryFault and OSError."""
        try:
            return os.fsdecode(self.memory.read_cstring(address, 4096))
        except ValueError:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None

    def raise_signal(self, number: int) -> None:
        """A signal that the thread's own call causes, such as SIGPIPE."""
        self.process.send_to(self, SigInfo(number, 0, pid=self.process.pid, uid=os.getuid()))


class Process:
    """A loaded guest program. :meth:`run` runs it in this thread; :meth:`start` and :meth:`wait` in another one; or it is
    for a ``host``, which runs it with others.

    ``files`` are the host descriptors or None (absent) of guest 0, 1 and 2; they are duplicated, not taken over.
    Raises LoadError, UsageError and EngineUnavailable; MemoryLimit if the program itself is over the cap.
    """

    futexes: FutexTable | HostFutexes
    fuel: FuelPool | None
    tracer: Tracer | None
    recorder: Recorder | None
    release = "6.6.0"
    version = "#1 SMP"

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        program: str | os.PathLike[str] | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdio: tuple[int | None, int | None, int | None] = (0, 1, 2),
        engine: str | EngineMaker = "auto",
        engine_options: Mapping[str, object] | None = None,
        memory: int | None = None,
        fuel: int | None = None,
        timeout: float | None = None,
        root: str | None = None,
        sysroot: str | None = None,
        binds: Sequence[Bind | str] = (),
        net: bool = False,
        trust: bool = False,
        strace: Strace | Callable[[str], None] | None = None,
        trace: InstructionTrace | None = None,
        syscall_hook: SyscallHook | None = None,
        fault_hook: Callable[[GuestThread, SigInfo], None] | None = None,
        host: Host | None = None,
        debugger: Debugger | None = None,
        stack: int | None = None,
        release: str | None = None,
        max_processes: int | None = None,
    ) -> None:
        self.host = host
        self.max_processes = max_processes
        self.stack_bytes = page_up(stack or _STACK_BYTES)
        if release is not None:
            self.release = release
        self.debugger = debugger
        self.argv_bytes = [os.fsencode(word) for word in argv] or [b"guest"]
        environment = os.environ if env is None else env
        self.env_bytes = [os.fsencode(f"{key}={value}") for key, value in environment.items()]
        self.net = net or trust
        self.trust = trust
        self.shows_host = trust and root is None
        """Whether the guest has the host's own / (with a root, it is as chroot leaves it)."""
        self.timeout = timeout
        self.natively = syscall_hook is None and debugger is None
        """Whether engines may answer system calls themselves."""
        self._fault_hook = fault_hook
        self._begin()
        self.fuel = None if fuel is None else FuelPool(fuel)
        if trace is not None:
            from vm_core.instructions import Recorder

            self.recorder = Recorder(trace)
        self._memory_limit, self._engine = memory, (engine, dict(engine_options or {}))
        self._hook = syscall_hook
        self.some_stat = os.stat("/")

        if program is None:
            program = os.fsdecode(self.argv_bytes[0])
        namespace = self._namespace(program, cwd, root, sysroot, binds)
        try:
            self.program: Program = self._in_guest(program, namespace, rooted=root is not None)
            self._prepare(machine_of(self.program))
        except BaseException:
            namespace.close()
            raise
        self.files = FileSystem(namespace, self._close_host, self.native)
        if trust:
            self.files.modes = 0o7777
        try:
            namespace.emulated = Emulated(self)
            self._start_state()
            self._open_stdio(stdio)
            if strace is not None:
                self.tracer = self._trace(strace)
        except BaseException:
            self.close()
            raise
        self._start_main()

    # -- construction -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All that changes in the life of a process, and that no other one may have, as it is before a program is loaded."""
        self.lock = threading.RLock()
        self.threads: dict[int, GuestThread] = {}
        self.native = NativeCalls(os.getpid(), os.getuid(), os.getgid())
        self.signals = signals.SignalState(self.native)
        self.tracer, self.recorder, self.fuel = None, None, None
        self.over: list[Callable[[], None]] = []
        """Called when a program is over that the caller of :meth:`run` will not see the end of: another takes its place, or it
        was a child's."""
        self.clock = AlarmClock()
        self.timer = IntervalTimer(self)
        self.timers: dict[int, tuple[int, IntervalTimer]] = {}
        self.cpu_timers: dict[int, IntervalTimer] = {}
        self.shared: list[mapping.Shared] = []
        self.limits = limits.first_limits(self.stack_bytes, self.max_processes)
        self.no_new_privileges = 0
        self.personality = 0
        self.dumpable = 1
        self.parent_death_signal = 0
        self.subreaper = 0
        self.family: Family | None = None
        """What the guest's processes share; None as long as this is the only one and has shared nothing."""
        self.ipc: Ipc | None = None
        self.children: dict[int, Child] = {}
        self.child_events = 0
        self.forked = False
        """Whether this host process runs nothing but the guest, which ends it."""
        self.owns_host = False
        """Whether the host process may be stopped and may lead a session, for the guest."""
        self.parent_pipe, self.parent_frames = -1, 0
        self._handling: dict[int, Any] = {}
        self._arrived: deque[int] = deque()
        self._taking = False  # what has arrived; in Python's main thread only
        self._owed: dict[int, tuple[int, float]] = {}
        self._next: Request | None = None
        self._mask = 0  # of the thread that executes another program
        self._kept: list[SigInfo] = []  # what it leaves pending
        self.stopping = False
        self.leaving = False
        """Whether the threads have to leave: the process is over, or goes on as another program."""
        self.reason = ""
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.message = ""
        self.failure: BaseException | None = None
        self.pid = os.getpid()
        self.cpus = _processors()
        self._tids = itertools.count(self.pid + 1)
        self._retired = 0
        self._calls = 0
        self._said: set[str] = set()
        self._limbo: deque[tuple[int, dict[GuestThread, tuple[int, int]]]] = deque()
        self._dead_fd = -1
        self._all_left = threading.Condition(self.lock)
        self._host_threads: list[HostThread] = []
        self._runner: threading.Thread | None = None
        self._parallel = False
        self._pi_futexes: PiTable | None = None

    def _prepare(self, isa_name: str) -> None:
        """Empty memory for a program of an ISA."""
        self.isa = isas.get(isa_name)
        self.abi: Abi
        self.abi, self._table = table.bound(isa_name, self.isa.layout)
        self._live_in(GuestMemory(limit=self._memory_limit))

    def _live_in(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.futexes = HostFutexes(memory) if self.host is None and can_wait_for_two() else FutexTable()
        self._pi_futexes = None

    def _start_main(self) -> None:
        """The thread that runs a loaded program from its start."""
        self.calls = self._bind_calls()
        # A thread that waits must not hold a slice of a budget, which native code cannot give back.
        waits = self.fuel is None and isinstance(self.futexes, HostFutexes)
        # A tracer sees the calls that it wants, and all that signals do.
        free = self._table if self.tracer is None else self.tracer.not_traced(self._table)
        self.native.serve(free, self.abi, waits=waits, hosted=self.host is not None)
        self.main = GuestThread(self, self._first_cpu, self.pid)
        self.threads[self.pid] = self.main
        self.native.alone(True)
        if self.tracer is not None:
            self.tracer.began(self)
        if self.debugger is not None:
            self.debugger.attach_to(self)

    def _namespace(
        self,
        program: str | os.PathLike[str] | bytes,
        cwd: str | None,
        root: str | None,
        sysroot: str | None,
        binds: Sequence[Bind | str],
    ) -> Namespace:
        shown = tuple(bind if isinstance(bind, Bind) else Bind.parse(bind) for bind in binds)
        overlays: tuple[str, ...] = ("/proc", "/sys", "/dev")
        if (
            self.trust
            and root is not None
            and os.path.exists(os.path.join(root.removesuffix(":ro"), "dev/null"))
        ):
            overlays = ("/proc", "/sys")  # the root has devices of its own
        if isinstance(program, bytes):
            self.executable, self.comm = (
                "/proc/self/exe-in-memory",
                os.path.basename(os.fsdecode(self.argv_bytes[0])),
            )
            return Namespace(
                cwd=cwd,
                root=root,
                sysroot=sysroot,
                binds=shown,
                trusted=self.shows_host,
                overlays=overlays,
                hidden=(cache_directory(), temporary_parent()),
            )
        path = os.fspath(program)
        self.executable = os.path.abspath(path)
        self.comm = os.path.basename(path)[:15]
        return Namespace(
            cwd=cwd,
            root=root,
            sysroot=sysroot,
            binds=shown,
            program=path if os.path.isfile(path) else None,
            trusted=self.shows_host,
            overlays=overlays,
            hidden=(cache_directory(), temporary_parent()),
        )

    def _in_guest(
        self, program: str | os.PathLike[str] | bytes, namespace: Namespace, *, rooted: bool
    ) -> str | os.PathLike[str] | bytes:
        """With a root, a program is looked for there first, as chroot does; with a sysroot, an absolute path. ``executable``
        becomes the path without links."""
        if isinstance(program, bytes):
            return program
        try:
            with namespace.walk(namespace.start, os.fspath(program)) as place:
                if place.node is not None or place.mount is None:
                    return program
                info = place.stat()
                if place.mount.guest == "/" and (rooted or os.path.isabs(program)):
                    fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
                    self.executable = place.guest
                    self._program_fd = fd
                    return f"/proc/self/fd/{fd}"
                if os.path.samestat(info, os.stat(program)):
                    self.executable = place.guest
        except OSError:
            pass
        return program

    def _load_interpreter(self, namespace: Namespace, path: str) -> Image:
        """The guest's dynamic loader, from where the guest would find it. Raises LoadError, which says what to do."""
        wanted = f"{self.image.name}: a dynamically linked program: it needs {path!r}"
        try:
            with namespace.walk(namespace.start, path) as place:
                if place.node is not None or place.mount is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                fd = os.open(place.name, flags, dir_fd=place.fd)
                name = place.guest
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise LoadError(f"{wanted}, which is not there", hint=self._how_to_get(path)) from None
            raise LoadError(f"{wanted}, which cannot be opened: {error.strerror}") from None
        try:
            return load_interpreter(fd, self.memory, self.isa.name, name=name, high=self.mmap_top)
        finally:
            os.close(fd)

    def _how_to_get(self, interpreter: str) -> str:
        """How a user comes to the libraries of another machine."""
        isa = self.isa.name
        # Where the cross compilers of Debian and its like have them.
        cross = f"/usr/{isa.replace('_', '-')}-linux-gnu"
        if os.path.exists(cross + interpreter):
            return f"give -L {cross}, or make a tree of a distribution: vm sysroot create {isa} --output DIR"
        return (
            f"give -L DIR with a tree that has it; vm sysroot create {isa} --output DIR makes one; or link the "
            "program with -static"
        )

    _program_fd = -1

    def _start_state(self) -> None:
        memory, limit = self.memory, self._memory_limit
        engine, options = self._engine
        # The engine first: it decides whether files can be mapped.
        if isinstance(engine, str):
            from vm_core.engines import create

            self.engine: Engine = create(engine, self.isa, memory, **options)
        else:
            self.engine = engine(self.isa, memory)
        if not getattr(self.engine, "counts", True):
            self._check_uncounted()
        if self.recorder is not None:
            self.engine = self.recorder.watch(self, self.engine)
        self.image: Image = load(self.program, memory, self.isa.name, name=self.executable)
        memory.code_changed.append(self.engine.invalidate)
        self.brk_start = self.native.words[Constant.BRK_START] = self.image.brk
        self.set_brk(self.image.brk)
        self.stack_top = memory.size - (64 << 10)
        size = max(min(self.stack_bytes, page_down(memory.size // 4)), 16 * PAGE)
        if limit is not None:
            size = max(min(size, page_down(limit // 4)), 16 * PAGE)
        low = self.stack_top - size
        prot = Prot.RWX if self.image.executable_stack else Prot.RW
        memory.map(low, size, prot, name="[stack]")
        self.mmap_top = low - _GUARD_BYTES
        self.trampoline = self.vdso = self.native.words[MMAP_TOP // 8] = 0
        vdso = vdso_of(self.isa.name)
        if vdso is not None:
            self.vdso = self.mmap_top = self.mmap_top - len(vdso.data)
            memory.map(self.vdso, len(vdso.data), Prot.RX, name="[vdso]")
            memory.poke(self.vdso, vdso.data)
            self.trampoline = self.vdso + vdso.sigreturn
            self.native.words[Constant.TRAMPOLINE] = self.trampoline
        self.interpreter: Image | None = None
        if self.image.interpreter:
            self.interpreter = self._load_interpreter(self.files.namespace, self.image.interpreter)
        self.native.maps(memory, self.mmap_top)
        cpu = self.isa.cpu()
        cpu.pc = (self.interpreter or self.image).entry
        cpu.words[self.abi.stack_word] = self._build_stack(low)
        self._first_cpu = cpu

    def _check_uncounted(self) -> None:
        """Refuse what needs single instructions, of an engine that does not see them. Raises UsageError."""
        for asked, what in (
            (self.fuel is not None, "fuel counts instructions"),
            (self.recorder is not None, "a trace shows each instruction"),
            (self.debugger is not None, "a debugger stops at instructions"),
        ):
            if asked:
                self.engine.close()
                raise UsageError(
                    f"{what}, which the engine {self.engine.name!r} does not see",
                    hint="use another one: --accel none --engine auto",
                )

    def set_brk(self, address: int) -> None:
        """The heap ends here now."""
        self.brk = self.native.words[Constant.BRK] = address

    def _build_stack(self, low: int) -> int:
        """argc, argv, envp and the auxiliary vector below their strings, as the kernel leaves them. Returns sp."""
        memory, image = self.memory, self.image
        top = self.stack_top
        strings = bytearray()

        def put(data: bytes) -> int:
            nonlocal top
            top -= len(data)
            strings[:0] = data
            return top

        put(bytes(8))
        execfn = put(os.fsencode(self.executable) + b"\0")
        env = [put(word + b"\0") for word in reversed(self.env_bytes)][::-1]
        argv = [put(word + b"\0") for word in reversed(self.argv_bytes)][::-1]
        platform = put(self.abi.platform.encode() + b"\0") if self.abi.platform else 0
        put(bytes((top - 16) % 16))
        random = put(os.urandom(16))
        uid, gid = os.getuid(), os.getgid()
        pairs = [
            (33, self.vdso), (51, self.abi.signal_frame or self.abi.min_signal_stack), (3, image.phdr), (4, image.phent), (5, image.phnum), (6, PAGE),
            (7, self.interpreter.base if self.interpreter is not None else 0), (8, 0), (9, image.entry),
            (11, uid), (12, uid), (13, gid), (14, gid), (16, self.abi.hwcap), (17, 100), (23, 0), (25, random),
            (26, 0), (31, execfn),
        ]  # fmt: skip
        if platform:
            pairs.append((15, platform))
        pairs.append((0, 0))
        self.auxv = b"".join(struct.pack("<QQ", *pair) for pair in pairs)
        words = [len(argv), *argv, 0, *env, 0]
        block = struct.pack(f"<{len(words)}Q", *words) + self.auxv
        sp = (top - len(block)) & -16
        if sp < low + 4 * PAGE:
            raise LoadError(
                f"{image.name}: the arguments and environment do not fit on the stack of {self.stack_top - low:,} bytes"
            )
        memory.poke(top, bytes(strings))
        memory.poke(sp, block)
        return sp

    def _open_stdio(self, stdio: tuple[int | None, int | None, int | None]) -> None:
        import fcntl

        for number, host in enumerate(stdio):
            if host is None:
                continue
            try:
                flags = fcntl.fcntl(host, fcntl.F_GETFL)
                fd = fcntl.fcntl(host, fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError:
                continue  # closed in the host too
            self.files.table[number] = File(fd, flags & (3 | 0o6000), inherited=True)

    @staticmethod
    def _trace(strace: Strace | Callable[[str], None]) -> Tracer:
        from vm_core.linux.strace import Strace, Tracer

        return Tracer(strace if isinstance(strace, Strace) else Strace(strace, column=0, exits=False))

    def _bind_calls(self) -> Mapping[int, table.Entry]:
        hook, tracer = self._hook, self.tracer
        if hook is None and tracer is None:
            return self._table
        calls = dict(self._table)
        for number, (bare, arguments, row) in calls.items():
            handler = bare if hook is None else _hooked(row.name, bare, hook)
            calls[number] = (handler if tracer is None else tracer.wrap(row, handler), arguments, row)
        return calls

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end in this thread. Then ``reason``, ``exit_code``, ``signal`` and ``message`` say how it ended.

        KeyboardInterrupt stops all guest threads and is raised again; so is an error in vm itself.
        """
        try:
            self._start_clock()
            self._run_thread(self.main)
            self._go_on()
        except BaseException as error:
            self.end("stopped")
            if not self.forked:
                raise
            self._blame(error)
        finally:
            self._finish()
        if self.forked:
            self._exit()
        if self.failure is not None:
            raise self.failure

    def _go_on(self) -> None:
        """The first thread is over: wait for the others, and run what the process executes then, until it is over."""
        while True:
            with self._all_left:
                while self.threads and not self.stopping:
                    self._all_left.wait(0.5)
                if self._next is None or self.stopping:
                    break
            self.execute()
            self._run_thread(self.main)
        self.end("exit", code=self.main.exit_code)

    def go_on_alone(self, thread: GuestThread | None) -> NoReturn:
        """In the child of a fork: run the guest, from ``thread`` on, here to its end, which is the host process's."""
        try:
            if thread is not None:
                self._run_thread(thread)
            self._go_on()
        except BaseException as error:  # noqa: BLE001 - there is nobody to tell
            self.end("stopped")
            self._blame(error)
        self._finish()
        self._exit()

    def _exit(self) -> NoReturn:
        """End the host process, a guest's own, as the guest ended."""
        status = _STATUS.get(self.reason, 125)
        try:
            if self.failure is not None:
                Log("vm.linux").warning("%s", f"process {self.pid}: {self.failure!r}")
            if self.parent_pipe >= 0:
                self._leave_parent()
            for tell in self.over:
                tell()
            if self.debugger is not None:
                self.debugger.finish()
            if not self._inherited:
                self.engine.close()
            if self.family is not None:
                self.family.forget(self.pid)
            sys.stderr.flush()
            if self.reason == "signal":
                self._die_by(self.signal or 9)
            if self.reason == "exit":
                status = self.exit_code or 0
        finally:
            os._exit(status)

    def _leave_parent(self) -> None:
        """In the child of a vfork: the parent need not wait any more."""
        from vm_core.linux.fork import leave_parent  # PERF: most programs have no children

        fd, self.parent_pipe = self.parent_pipe, -1
        leave_parent(self.memory, fd, self.parent_frames)

    @staticmethod
    def _die_by(number: int) -> None:
        """End this host process by a signal, without a core of vm's."""
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in (9, 19):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)

    _inherited = False
    """Whether the engine is one that a parent made."""

    # -- fork and execve ----------------------------------------------------------------------------------------

    @contextmanager
    def forking(self) -> Iterator[None]:
        """Inside, the host process may fork: nothing that other threads do to this process is half done."""
        with ExitStack() as held:
            held.enter_context(self.engine.forking())
            for lock in (self.memory.lock, self.files.lock, self.lock):
                held.enter_context(lock)
            yield

    def forked_from(self, thread: GuestThread) -> None:
        """In the child of a fork, still inside forking(): ``thread`` is the only one."""
        self.engine.forked()
        self.forked = self.owns_host = self._inherited = True
        self.pid = os.getpid()
        self.native.words[Constant.PID], self.native.words[Constant.PARENT] = self.pid, os.getppid()
        self._tids = itertools.count(self.pid + 1)
        self.main = thread
        self.threads = {self.pid: thread}
        self.native.alone(True)
        self._retired = self._calls = 0
        self._all_left = threading.Condition(self.lock)
        self._host_threads, self._runner = [], None
        if self.debugger is not None:
            # It stays with the parent.
            self.debugger.forked(thread)
        self._parallel = False
        switching.forked()
        for child in self.children.values():
            child.close()
        self.children = {}
        self.child_events = 0
        if self.parent_pipe >= 0:
            os.close(self.parent_pipe)
            self.parent_pipe = -1
        self.signals.pending.clear()
        self._arrived.clear()
        self._taking = False
        self.timeout = None
        self.clock = AlarmClock()
        self.timer = IntervalTimer(self)
        self.timers, self.cpu_timers = {}, {}
        self._pi_futexes = None
        limits.forked(self)
        if self.fuel is not None:
            self.fuel = self.fuel.copy()
        if isinstance(self.futexes, HostFutexes):
            self.futexes.main = thread
        else:
            self.futexes = FutexTable()
        for fd, _ in self._limbo:
            os.close(fd)
        self._limbo.clear()
        self.files.forked()
        thread.forked()
        assert self.family is not None
        self.family.join()
        self.describe()
        if self.ipc is not None:
            self.ipc.forked()
        if self.tracer is not None:
            self.tracer.forked(self)

    def check_program(self, fd: int) -> None:
        """Whether a program could be executed. Raises LoadError, and OSError if its interpreter is not there."""
        isas.get(machine_of(fd))
        if path := interpreter_of(fd):
            namespace = self.files.namespace
            with namespace.walk(namespace.start, path) as place:
                place.stat()

    def replace_by(self, thread: GuestThread, request: Request) -> None:
        """The process goes on as another program, once all threads have left. Raises ThreadEnd if it ends instead, or another
        thread has come first."""
        with self.lock:
            if self.leaving:
                os.close(request.fd)
                raise ThreadEnd
            self._next, self.leaving = request, True
            self._mask, self._kept = thread.mask, thread.pending
            self._scheduling = thread.scheduling
            threads = list(self.threads.values())
        for other in threads:
            if other is not thread:
                other.interrupt()
        if self.debugger is not None:
            self.debugger.wake()

    @property
    def executes(self) -> bool:
        """Whether the process goes on as another program now that its threads have left."""
        return self._next is not None and not self.stopping

    def execute(self) -> None:
        """Load the program that was asked for in place of the old one, and make its thread :attr:`main`."""
        request, self._next = self._next, None
        assert request is not None
        deadline = time.monotonic() + 5
        for host in self._host_threads:
            if not host.current:
                host.join(max(deadline - time.monotonic(), 0.01))
        self._host_threads = []
        if self._parallel:
            self._parallel = False
            switching.leave()
        mapping.flush_all(self)
        if self.parent_pipe >= 0:
            self._leave_parent()
        for tell in self.over:
            tell()
        if self._inherited:
            self.engine.abandon()
        else:
            self.engine.close()
        self.memory.close()
        if self.ipc is not None:
            self.ipc.left(over=False)
        self._inherited = False
        for timer in [timer for _, timer in self.timers.values()]:
            timer.set(0.0, 0.0)
        self.timers = {}
        self.signals.executed()
        self.files.executed()
        self._sweep_limbo(everything=True)
        if self._program_fd >= 0:
            os.close(self._program_fd)
        self.program = self._program_fd = request.fd
        self.executable = request.path
        self.comm = os.path.basename(request.path)[:15]
        self.argv_bytes, self.env_bytes = request.argv, request.env
        self.leaving = self.stopping
        self.stack_bytes = limits.stack_bytes(self, self.stack_bytes)
        try:
            self._prepare(machine_of(request.fd))
            self._start_state()
        except (LoadError, MemoryLimit) as error:
            # The old program is gone: as on Linux, the process is killed.
            self.end("signal", signal=9, message=f"{request.path}: {error}")
            if self.tracer is not None:
                self.tracer.executed(self, failed=True)
            self.main = GuestThread(self, self.isa.cpu(), self.pid)
            return
        if self.tracer is not None:
            self.tracer.executed(self)
        self._start_main()
        self.describe()
        self.main.mask = self._mask
        self.main.scheduling = self._scheduling
        self.main.pending = self._kept
        if self._kept or self.signals.pending:
            self.main.words[_PENDING] = 1
            self.main.attention = True

    # -- hosted -------------------------------------------------------------------------------------------------

    def _start_clock(self) -> None:
        if self.timeout is not None:
            self.clock.at(time.monotonic() + self.timeout, lambda: self.end("timeout"))

    def start_hosted(self, clock: AlarmClock) -> None:
        """Begin to run in the host, which from now on calls run_slice() of ``main`` and of the threads that it is given,
        and at last finish_hosted(). ``clock`` counts the time for all its guests."""
        self.clock = AlarmClock(clock)
        self._start_clock()

    def finish_hosted(self) -> None:
        """All threads are over. Raises the error in vm that ended the process, if there was one."""
        self.end("exit", code=self.main.exit_code)
        self._finish()
        if self.failure is not None:
            raise self.failure

    def _blame(self, error: BaseException) -> None:
        """In a guest process of its own: an error in vm itself, and no end that was asked for, is to be told at the end."""
        if self.failure is None and isinstance(error, Exception) and self.reason == "stopped":
            self.failure = error

    def fail(self, error: BaseException) -> None:
        """A thread met an error in vm itself."""
        self.failure = error
        self.end("stopped")

    def start(self) -> None:
        """Run in a host thread of its own."""
        self._runner = threading.Thread(target=self._run_quietly, name="vm-guest", daemon=True)
        self._runner.start()

    def _run_quietly(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - wait() raises it
            self.failure = error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a started process; False if it still runs. Raises the error in vm that ended it, if there was one."""
        assert self._runner is not None
        self._runner.join(timeout)
        if self._runner.is_alive():
            return False
        if self.failure is not None:
            raise self.failure
        return True

    def stop(self) -> None:
        """End the guest from outside; its reason becomes "stopped"."""
        self.end("stopped")

    def _run_thread(self, thread: GuestThread) -> None:
        try:
            thread.run()
        except KeyboardInterrupt:
            self.end("stopped")
            raise
        except BaseException as error:
            if thread is self.main:
                raise
            self.fail(error)

    def _run_other(self, thread: GuestThread) -> None:
        """A host thread of its own for a guest thread. In the child of a fork made there, it is the first."""
        parent = self.pid
        try:
            self._run_thread(thread)
        finally:
            if self.pid != parent:
                self.go_on_alone(None)

    def end(
        self, reason: str, *, code: int | None = None, signal: int | None = None, message: str = ""
    ) -> None:
        """The process is over; the first reason counts. All threads leave at their next look."""
        with self.lock:
            if not self.stopping:
                self.reason, self.exit_code, self.signal, self.message = reason, code, signal, message
                self.stopping = self.leaving = True
            threads = list(self.threads.values())
            self._all_left.notify_all()
        for thread in threads:
            thread.interrupt()
        if self.debugger is not None:
            self.debugger.wake()

    def _finish(self) -> None:
        """Wait for the threads; one that is stuck in the host after 5 s is left behind with the guest's memory."""
        limits.files_unlimited(self)
        if self.ipc is not None:
            self.ipc.left(over=True)
        if not self.forked:
            self.release_signals()
            if self.reason not in ("exit", "signal"):
                self._end_family()
        deadline = time.monotonic() + 5
        for host in self._host_threads:
            if not host.current:
                host.join(max(deadline - time.monotonic(), 0.01))
        self.clock.close()
        if self._parallel:
            self._parallel = False
            switching.leave()
        if not any(host.is_alive() for host in self._host_threads):
            mapping.flush_all(self)
        self._sweep_limbo(everything=True)
        if self.tracer is not None:
            self.tracer.finish()
        if self.recorder is not None:
            self.recorder.flush()

    def close(self) -> None:
        """Give everything back. The guest must not be running."""
        self.clock.close()
        self.files.close_all()
        self._sweep_limbo(everything=True)
        self._leave_family()
        if self._dead_fd >= 0:
            os.close(self._dead_fd)
            self._dead_fd = -1
        if self._program_fd >= 0:
            os.close(self._program_fd)
            self._program_fd = -1
        if any(host.is_alive() for host in self._host_threads):
            return
        if hasattr(self, "engine"):
            self.engine.close()
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- threads ------------------------------------------------------------------------------------------------

    def new_thread(self, cpu: CpuState) -> GuestThread | None:
        """Register a thread; None at the limit or at the end of the process."""
        with self.lock:
            if self.leaving or len(self.threads) >= _MAX_THREADS or not limits.may_start(self):
                return None
            thread = GuestThread(self, cpu, next(self._tids))
            self.threads[thread.tid] = thread
            self.native.alone(False)
            thread.words[_PENDING] = bool(self.signals.pending)
            if self.tracer is not None:
                self.tracer.began(self)
            return thread

    def start_thread(self, thread: GuestThread) -> bool:
        """Give a registered thread its host thread."""
        self.engine.add_vcpu()
        if self.host is not None:
            self.host.start_thread(thread)
            return True
        with self.lock:
            if not self._parallel and not self.stopping:
                self._parallel = True
                switching.enter()
        host = HostThread(f"vm-guest-{thread.tid}", lambda: self._run_other(thread))
        with self.lock:
            self._host_threads = [old for old in self._host_threads if old.is_alive()]
            self._host_threads.append(host)
        try:
            host.start()
        except RuntimeError:
            with self.lock:
                self.threads.pop(thread.tid, None)
                self._host_threads.remove(host)
            return False
        return True

    def left(self, thread: GuestThread) -> None:
        """A thread is over."""
        with self._all_left:
            if self.threads.pop(thread.tid, None) is not None:
                self._retired += thread.retired
                self._calls += thread.calls_made
                self.native.alone(len(self.threads) == 1)
            self._all_left.notify_all()

    def renamed(self, name: bytes) -> None:
        """The process has another name now (comm)."""
        self.comm = os.fsdecode(name.rstrip(b"\0"))
        self.describe()

    @property
    def pi_futexes(self) -> PiTable:
        """The locks with priority inheritance."""
        with self.lock:
            if self._pi_futexes is None:
                self._pi_futexes = PiTable(self.memory)
            return self._pi_futexes

    def found_family(self) -> Family:
        """What the processes of the guest share, from now on if it was nothing so far."""
        with self.lock:
            if self.family is None:
                from vm_core.linux.family import MAX_PROCESSES, Family  # PERF: most programs have no children

                self.family = Family(self.max_processes or MAX_PROCESSES)
                self.describe()
            return self.family

    def describe(self) -> None:
        """Tell the other processes of the guest what this one is called."""
        if self.family is None:
            return
        from vm_core.linux.family import Member

        self.family.describe(
            Member(
                self.pid,
                os.fsencode(self.comm),
                os.fsencode(self.executable),
                b"\0".join([*self.argv_bytes, b""]),
            )
        )

    def knows(self, pid: int) -> bool:
        """Whether a process is one of this guest's."""
        return pid == self.pid or pid in self.children or (self.family is not None and self.family.has(pid))

    def thread(self, tid: int) -> GuestThread | None:
        return self.threads.get(tid)

    def threads_snapshot(self) -> list[GuestThread]:
        with self.lock:
            return list(self.threads.values())

    @property
    def instructions(self) -> int:
        """Instructions retired by all threads so far."""
        with self.lock:
            return self._retired + sum(thread.retired for thread in self.threads.values())

    @property
    def system_calls(self) -> int:
        """System calls made by all threads so far."""
        with self.lock:
            return self._calls + sum(thread.calls_made for thread in self.threads.values())

    # -- signals ------------------------------------------------------------------------------------------------

    def send(self, info: SigInfo, prefer: GuestThread | None = None) -> None:
        """A signal for the process."""
        signals.send(self, info, prefer)

    def take_signals(self) -> None:
        """From now on all signals of the host are for the guest, if it wants them or they come from one of its processes."""
        import _signal  # type: ignore[import-not-found]  # PERF: see vm_core.linux.fork
        import signal

        if not in_main_thread():
            # Python has signals in its main thread only. If none of the guest's threads runs there, this process gets none.
            self._wants_signals = True
            self.main.interrupt()
            return
        self._wants_signals = False
        for number in _signal.valid_signals() - _NOT_TAKEN - HOST_SIGNALS - self._handling.keys():
            handler = signal.getsignal(number)
            if handler is None or (handler is signal.SIG_IGN and number not in _IGNORED_BY_PYTHON):
                continue
            self._handling[number] = handler
            signal.signal(number, self._signalled)

    _wants_signals = False

    def _take_wanted_signals(self) -> None:
        if in_main_thread():
            self.take_signals()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Python's handler of the host's signals."""
        # Another may come between any two bytecodes here, and this function be called in itself: signals are taken in their
        # order, by the call that is taking some, or else by the newest.
        self._arrived.append(number)
        while self._arrived and not self._taking:
            self._taking = True
            try:
                while self._arrived:
                    self._take(self._arrived.popleft(), frame)
            finally:
                self._taking = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        import signal

        if self.arrive(number) or self.forked:
            return
        handler = self._handling.get(number)
        if callable(handler):
            handler(number, frame)
        elif number not in signals.IGNORED_BY_DEFAULT and handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, self._signalled)  # it stopped the process, and has been continued

    def release_signals(self) -> None:
        """Give the host its signals back."""
        import signal

        for number, handler in self._handling.items():
            signal.signal(number, handler)
        self._handling.clear()

    def arrive(self, number: int) -> bool:
        """The host has got a signal; False if it is not for the guest."""
        if number == 17:
            from vm_core.linux.children import children_changed  # PERF: most programs have no children

            return children_changed(self)
        letters = [] if self.family is None else self.family.received(number)
        now = time.monotonic()
        if len(letters) > 1:
            # The signals that came with the other letters are still to come, unless the host has merged them.
            owed, until = self._owed.get(number, (0, 0.0))
            owed = owed if now < until else 0
            self._owed[number] = (owed + len(letters) - 1, now + _OWED_SECONDS)
        elif not letters:
            owed, until = self._owed.pop(number, (0, 0.0))
            if owed and now < until:
                self._owed[number] = (owed - 1, until)
                return True
        for info, tid in letters:
            thread = self.threads.get(tid) if tid else None
            if thread is None:
                self.send(info)
            else:
                self.send_to(thread, info)
        if letters:
            return True
        if self.forked and number not in _IGNORED_BY_PYTHON:
            if number in signals.STOPPING and self.signals.action(number).handler == 0:
                # Here, or a read in the background would be tried again and again.
                self.suspend(number)
            else:
                self.send(SigInfo(number, 0x80))
            return True
        return self.accept(number)

    def _end_family(self) -> None:
        """The guest has been stopped from outside, and so are all its processes."""
        if self.family is not None:
            for pid in self.family.members():
                if pid != self.pid:
                    self.family.send(pid, SigInfo(9))
            for child in list(self.children.values()):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, 0)
                child.close()
            self.children.clear()

    def _leave_family(self) -> None:
        """Close what this process knows its relatives by; they live on."""
        for child in self.children.values():
            child.close()
        self.children.clear()
        if self.ipc is not None:
            self.ipc.close()
            self.ipc = None
        if self.family is not None:
            self.family.close()
            self.family = None

    def suspend(self, number: int) -> None:
        """The default action of a stop signal: the host process stops until somebody continues it."""
        import signal

        if not self.owns_host:
            return
        if number == 19 or not in_main_thread():
            os.kill(os.getpid(), 19)
            return
        handler = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, handler)

    def accept(self, number: int) -> bool:
        """Give the guest a signal that the host got; False if the guest leaves it to its default.

        One that is handled, ignored or blocked is the guest's. Callable from a signal handler of Python, which may
        interrupt this thread anywhere: the lock is reentrant, and what it guards is whole between two bytecodes.
        """
        bit = signals.bit(number)
        with self.lock:
            threads = list(self.threads.values())
            if self.stopping or not threads:
                return False
            default = self.signals.action(number).handler == 0
            if self.debugger is not None and self.debugger.attached:
                default = False  # the client sees it first
            if (
                default
                and not any(t.awaited & bit for t in threads)
                and not all(t.mask & bit for t in threads)
            ):
                return False
        self.send(SigInfo(number, 0x80))  # SI_KERNEL: who sent it is not known here
        return True

    def send_to(self, thread: GuestThread, info: SigInfo) -> None:
        """A signal for one thread."""
        signals.send_to(self, thread, info)

    def die(self, thread: GuestThread, info: SigInfo) -> None:
        """The guest is killed by a signal."""
        if self._fault_hook is not None:
            self._fault_hook(thread, info)
        self.end("signal", signal=info.number, message=self._obituary(thread, info))
        thread.attention = True

    def _obituary(self, thread: GuestThread, info: SigInfo) -> str:
        pc = thread.cpu.pc
        out = [f"killed by {signals.signal_name(info.number)}"]
        trap = thread.last_trap
        if trap is not None and trap.pc == pc and info.code > 0:
            if trap.cause in (Cause.LOAD, Cause.STORE, Cause.FETCH):
                what = {Cause.LOAD: "load from", Cause.STORE: "store to", Cause.FETCH: "jump to"}[trap.cause]
                why = "protected" if trap.mapped else "not mapped"
                if info.number == _SIGBUS:
                    why = "behind the end of the file"
                out.append(f"{what} {trap.address:#x} ({why})")
            elif trap.cause is Cause.ILLEGAL:
                out.append("illegal instruction")
            else:
                out.append(trap.cause.value)
        symbol = self.symbol(pc)
        out.append(f"pc {pc:#x}" + (f" <{symbol}>" if symbol else ""))
        if trap is not None and trap.pc == pc and info.code > 0:
            out.append(self._instruction_text(pc))
        return ": ".join(part for part in out if part)

    def symbol(self, address: int) -> str:
        """``main+0x12`` or ``strlen+0x4 in libc.so.6`` for a guest address, or an empty string."""
        if self.image.start <= address < self.image.end:
            return self.image.symbols.name(address)
        region = self.memory.region_at(address)
        if region is None:
            return ""
        from vm_core.linux.objects import Objects

        return Objects(self.files.namespace, self.isa.name).name(region, address)

    def _instruction_text(self, pc: int) -> str:
        """The bytes at a pc and what they mean, for a message."""
        try:
            data = self.memory.fetch(pc, 15 if self.isa.unit == 1 else 4)
        except MemoryFault:
            return ""
        try:
            insn = self.isa.decode(data, pc)
            return f"{data[: insn.length].hex(' ')}: {insn.text()}"
        except DecodeError:
            length = min(self.isa.length(data), len(data)) if self.isa.unit > 1 else len(data)
            few = "" if self.isa.name == "riscv64" else f", which has few of {self.isa.name} so far"
            return f"{data[:length].hex(' ')}: no instruction that vm knows{few}"

    # -- messages -----------------------------------------------------------------------------------------------

    def unknown(self, number: int, thread: GuestThread | None = None) -> int:
        """The result of a call without a handler, as a register value; the call is this thread's."""
        name = table.name_of(self.abi, number)
        self.explain(name, f"{name} (number {number}) is not implemented: it returns ENOSYS")
        if self.tracer is not None and thread is not None:
            self.tracer.unknown(thread, number, name)
        return -errno.ENOSYS & MASK64

    def explain(self, key: str, text: str) -> None:
        """Say something in the log, once."""
        if key in self._said or len(self._said) > _MAX_SAID:
            return
        self._said.add(key)
        if len(self._said) > _MAX_SAID:
            text = "the guest keeps asking for what is not there: nothing more is said about it"
        Log("vm.linux").warning("%s", text)

    # -- host descriptors ---------------------------------------------------------------------------------------

    def _close_host(self, fd: int) -> None:
        """Close a host descriptor that another guest thread may be about to use.

        A thread that has just read the number from the File could otherwise use it after the host has given it to
        somebody else. The number is kept occupied (by a dead descriptor) until every other thread has finished its
        call or sits in a wait, after which calls read the number anew.
        """
        if len(self.threads) <= 1:
            os.close(fd)
            return
        with self.lock:
            if self._dead_fd < 0:
                self._dead_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
        os.dup2(self._dead_fd, fd, inheritable=False)
        with self.lock:
            using = {thread: (thread.phase, thread.words[_IN_CALL]) for thread in self.threads.values()}
            self._limbo.append(
                (fd, {thread: seen for thread, seen in using.items() if (seen[0] | seen[1]) & 1})
            )
        self._sweep_limbo()

    def _sweep_limbo(self, *, everything: bool = False) -> None:
        """Close what no thread can be using any more, oldest first."""
        with self.lock:
            while self._limbo:
                fd, seen = self._limbo[0]
                if not everything and any(
                    self.threads.get(thread.tid) is thread
                    and (
                        (phase & 1 and thread.phase == phase and not thread.waiting)
                        or (in_call & 1 and thread.words[_IN_CALL] == in_call)
                    )
                    for thread, (phase, in_call) in seen.items()
                ):
                    return
                self._limbo.popleft()
                os.close(fd)


def _processors() -> int:
    """How many processors the guest has: as many as the host lets vm use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def _hooked(name: str, handler: table.Handler, hook: SyscallHook) -> table.Handler:
    def call(t: GuestThread, *args: int) -> int | None:
        result = hook(t, name, args) if t.resumed is None else None
        return handler(t, *args) if result is None else result

    return call
