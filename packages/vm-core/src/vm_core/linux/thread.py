"""A guest thread: the loop that carries it between the engine and its system calls, and its waits.

Each guest thread is a host thread, or its slices are run by a :class:`Host`; engines release the GIL while guest code runs, so
guest threads are parallel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from vm_core.engine import Budget, Cause, Syscall, Trap
from vm_core.hints import TYPE_CHECKING, Final, Protocol
from vm_core.linux import limits
from vm_core.linux import signal as signals
from vm_core.linux.abi import MASK64, Abi, SigInfo
from vm_core.linux.files import RESTART
from vm_core.linux.futex import SLICE_SECONDS, HostFutexes, Waiter, host_wake, release_robust_list
from vm_core.linux.hostthread import in_main_thread
from vm_core.linux.native import PATIENCE
from vm_core.linux.system import Parked, Scheduling, ThreadEnd
from vm_core.memory import GONE, MemoryFault, MemoryLimit
from vm_core.state import HEADER, CpuState

if TYPE_CHECKING:
    from vm_core.linux.process import Process

__all__ = ["FuelPool", "GuestThread", "Host"]

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
_UNFIT: Final = (OverflowError, ValueError, struct.error)
"""What Python's own system call wrappers raise for a number that the C type or the kernel cannot take."""
_SIGXFSZ: Final = 25
_SIGILL, _SIGTRAP, _SIGBUS, _SIGFPE, _SIGSEGV = 4, 5, 7, 8, 11


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
        self.in_main_thread = in_main_thread()
        if self.in_main_thread:
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
            info = SigInfo(_SIGILL, self.abi.illegal_code, trap.pc)
        elif cause is Cause.BREAKPOINT:
            info = SigInfo(_SIGTRAP, trap.code or 1, trap.pc)
        elif cause is Cause.MISALIGNED:
            info = SigInfo(_SIGBUS, 1, trap.address)
        elif cause is Cause.REFUSED:
            # SI_KERNEL. Segments that are not there, and stacks that cannot be, are errors of the bus.
            info = SigInfo(_SIGBUS if trap.vector in (11, 12) else _SIGSEGV, 0x80)
        else:
            info = SigInfo(_SIGFPE, trap.code or 1, trap.pc)
        if trap.vector >= 0:
            info = info._replace(trap=trap.vector, error=trap.error)
        self.last_trap = trap
        signals.force(self, info)

    last_trap: Trap | None = None
    in_main_thread = False
    """Whether its host thread is Python's main thread."""

    def _attend(self) -> None:
        if self.process.host_signals.wanted:
            self.process.host_signals.take_wanted()
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
        if process.host_signals.wanted:
            process.host_signals.take_wanted()
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
