"""Many guests in one process, on a few host threads: each runs for a slice of instructions, then the next.

    with vm_core.Scheduler() as scheduler:
        guests = [scheduler.add(["./hello", str(n)], capture_output=True, timeout=10) for n in range(1000)]
        scheduler.wait()
    print(sum(guest.result().returncode for guest in guests))

A guest that waits (in a sleep, a futex, a read or a poll) holds no host thread; one that waits where that is not possible
(in a connect or in a write to a full pipe, say) holds one that is not counted as a worker. Guests that run the same program
share its code, decoded and compiled, until one of them changes its own.

Guests are separate: what one does, or a fault of vm while it runs one, ends in its own result.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from vm_core.engine import Budget, Exit, Interrupted
from vm_core.errors import UsageError
from vm_core.linux.hostthread import switching
from vm_core.linux.system import Parked, ThreadEnd
from vm_core.linux.time import AlarmClock
from vm_core.runner import ProgramRun, RunResult

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process
    from vm_core.machine import Machine

__all__ = ["Guest", "Scheduler"]

_QUEUED, _RUNNING, _PARKED, _OVER = range(4)
_SLICE_SECONDS: Final = 0.01
_FIRST_SLICE: Final = 100_000
_MAX_SLICE: Final = 64_000_000
_IDLE_SECONDS: Final = 1.0
"""How long a host thread that is not needed waits before it ends."""


class _Task:
    """One vCPU that runs in slices."""

    __slots__ = ("guest", "number", "state", "wait", "woken")

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.state = _QUEUED
        self.woken = False
        self.wait: Parked | None = None
        self.number = 0  # counts its waits

    def step(self) -> Parked | None:
        """Run a slice; what it waits for now, if it does. Raises ThreadEnd at its end."""
        raise NotImplementedError


class _ThreadTask(_Task):
    """A thread of a Linux process."""

    __slots__ = ("thread",)

    def __init__(self, guest: Guest, thread: GuestThread) -> None:
        super().__init__(guest)
        self.thread = thread

    def step(self) -> Parked | None:
        return self.thread.run_slice()


class _MachineTask(_Task):
    """A bare machine. Its result is the exit with which it stopped."""

    __slots__ = ("deadline", "left", "machine", "size", "until")

    def __init__(
        self, guest: Guest, machine: Machine, until: int | None, limit: int | None, timeout: float | None
    ) -> None:
        super().__init__(guest)
        self.machine, self.until, self.left = machine, until, limit
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.size = _FIRST_SLICE

    def step(self) -> Parked | None:
        guest, machine = self.guest, self.machine
        if guest._stopping or (self.deadline is not None and time.monotonic() >= self.deadline):
            guest._finish(Interrupted())
            raise ThreadEnd
        limit = self.size if self.left is None else min(self.size, self.left)
        begin, before = time.perf_counter(), machine.instructions
        exit_: Exit = machine.run(until=self.until, limit=limit) if limit else Budget()
        done = machine.instructions - before
        if self.left is not None:
            self.left -= done
        if type(exit_) is not Budget or self.left == 0:
            guest._finish(exit_)
            raise ThreadEnd
        wanted = int(done * _SLICE_SECONDS / max(time.perf_counter() - begin, 1e-6))
        self.size = max(_FIRST_SLICE // 100, min(wanted, self.size * 8, _MAX_SLICE))
        return None


class Guest:
    """One guest of a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._over = threading.Event()
        self._result: RunResult | Exit | None = None
        self._error: BaseException | None = None
        self._program: ProgramRun | None = None
        self._machine: Machine | None = None
        self._stopping = False

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._over.is_set()

    @property
    def process(self) -> Process | None:
        """The Linux process, until it is over. To look at: its ``instructions``, its ``memory``, its ``pid``."""
        program = self._program
        return None if program is None else program.process

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end, at most ``timeout`` seconds; False if it still runs."""
        return self._over.wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """How it ended: a program's RunResult as :func:`vm_core.run` gives it, a machine's exit. Waits for it.

        Raises TimeoutError, and what :func:`vm_core.run` or ``Machine.run`` would have raised.
        """
        if not self._over.wait(timeout):
            raise TimeoutError(f"the guest still runs after {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._result

    def stop(self) -> None:
        """End it soon: a program's reason is then "stopped", a machine's exit Interrupted. Callable from any thread."""
        self._stopping = True
        process, machine = self.process, self._machine
        if process is not None:
            process.stop()
        if machine is not None:
            machine.stop()

    # -- for the scheduler --------------------------------------------------------------------------------------

    def _finish(self, result: RunResult | Exit) -> None:
        self._result = result

    def _fail(self, error: BaseException) -> None:
        self._error = error

    def _close(self) -> None:
        """It is over, and nothing of it runs."""
        self._scheduler._forget(self)
        self._over.set()


class Scheduler:
    """Runs guests on ``workers`` host threads (default: one a CPU), in turns of about 10 ms.

    :meth:`add` starts a guest at once. Leaving a ``with`` block waits for all guests, or stops them if an exception
    leaves it.
    """

    def __init__(self, *, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"a scheduler needs at least one worker: {workers}")
        self.workers = workers if workers is not None else len(os.sched_getaffinity(0))
        # Reentrant: a signal handler of Python may wake a guest's thread while this thread holds it.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._all_over = threading.Condition(self._lock)
        self._queue: deque[_Task] = deque()
        self._guests: dict[Guest, int] = {}  # and how many vCPUs of each there are
        self._tasks: dict[GuestThread, _ThreadTask] = {}
        self._threads: set[threading.Thread] = set()
        self._active = 0  # host threads that are not in a wait of a guest
        self._idle = 0
        self._closed = False
        self._clock = AlarmClock()
        self._waits = _Waits(self)
        switching.enter()

    # -- guests -------------------------------------------------------------------------------------------------

    def add(self, argv: Sequence[str | bytes] | str, **options: Any) -> Guest:
        """Start a Linux program. The options are those of :func:`vm_core.run` but ``check`` and ``host_signals``.

        ``fuel``, ``timeout`` (of wall time, from now on) and ``memory`` limit this guest alone. Raises as
        :func:`vm_core.run` for a program that cannot be started.
        """
        guest = Guest(self)
        program = guest._program = ProgramRun(argv, host=_Host(self, guest), **options)
        process = program.process
        if process is None:
            guest._finish(program.result())
            program.close()
            guest._over.set()
            return guest
        try:
            with self._lock:
                self._open()
                self._guests[guest] = 0
            process.start_hosted(self._clock)
        except BaseException:
            self._forget(guest)
            program.close()
            raise
        self._start_thread(guest, process.main)
        return guest

    def add_machine(
        self,
        machine: Machine,
        *,
        until: int | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Guest:
        """Run a bare machine, as ``machine.run`` does. Its hooks are called in the scheduler's threads. Nobody else may
        use the machine until the guest is over; it is not closed then.

        Machines whose code lies in pages that they can write share nothing: map code with Prot.RX.
        """
        guest = Guest(self)
        guest._machine = machine
        with self._lock:
            self._open()
            self._guests[guest] = 1
            self._push(_MachineTask(guest, machine, until, limit, timeout))
        return guest

    def _open(self) -> None:
        if self._closed:
            raise UsageError("the scheduler is closed")

    @property
    def guests(self) -> list[Guest]:
        """Those that are not over."""
        with self._lock:
            return list(self._guests)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all guests are over, at most ``timeout`` seconds; False if some still run."""
        with self._all_over:
            return self._all_over.wait_for(lambda: not self._guests, timeout)

    def close(self) -> None:
        """Stop all guests and give everything back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for guest in self.guests:
            guest.stop()
        self.wait()
        with self._lock:
            self._work.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        self._waits.close()
        self._clock.close()
        switching.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        self.close()

    # -- vCPUs --------------------------------------------------------------------------------------------------

    def _start_thread(self, guest: Guest, thread: GuestThread) -> None:
        task = _ThreadTask(guest, thread)
        with self._lock:
            self._guests[guest] += 1
            self._tasks[thread] = task
            self._push(task)

    def _ready(self, thread: GuestThread) -> None:
        with self._lock:
            task = self._tasks.get(thread)
            if task is not None:
                self._wake(task)

    def _wake(self, task: _Task) -> None:
        """A task need not wait any more. The lock is held."""
        if task.state == _PARKED:
            self._waits.remove(task)
            self._push(task)
        else:
            task.woken = True

    def _push(self, task: _Task) -> None:
        task.state = _QUEUED
        self._queue.append(task)
        if self._idle:
            self._work.notify()
        elif self._active < self.workers:
            self._start_worker()

    def _start_worker(self) -> None:
        thread = threading.Thread(target=self._run, name="vm-scheduler", daemon=True)
        self._threads.add(thread)
        self._active += 1
        thread.start()

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        """The calling worker waits for the sake of a guest: another takes its place."""
        with self._lock:
            self._active -= 1
            if self._queue and not self._idle and self._active < self.workers:
                self._start_worker()
        try:
            yield
        finally:
            with self._lock:
                self._active += 1

    def _run(self) -> None:
        """A worker."""
        lock = self._lock
        task: _Task | None = None
        while True:
            with lock:
                if task is not None and task.state == _RUNNING:
                    self._push(task)
                task = self._next()
                if task is None:
                    self._active -= 1
                    self._threads.discard(threading.current_thread())
                    return
                task.state = _RUNNING
                task.woken = False
            try:
                wait = task.step()
            except ThreadEnd:
                self._end(task, None)
            except BaseException as error:  # noqa: BLE001 - it is the guest's result
                self._end(task, error)
            else:
                if wait is not None:
                    self._park(task, wait)

    def _next(self) -> _Task | None:
        """The task that has waited longest for its turn; None if this worker should end."""
        end = time.monotonic() + _IDLE_SECONDS
        while self._active <= self.workers:
            if self._queue:
                return self._queue.popleft()
            left = end - time.monotonic()
            if self._closed or left <= 0:
                return None
            self._idle += 1
            try:
                self._work.wait(left)
            finally:
                self._idle -= 1
        return None

    def _park(self, task: _Task, wait: Parked) -> None:
        with self._lock:
            if task.woken:
                self._push(task)
            else:
                task.state = _PARKED
                self._waits.add(task, wait)

    def _end(self, task: _Task, error: BaseException | None) -> None:
        guest = task.guest
        program, process = guest._program, guest.process
        if error is not None:
            if process is None:
                guest._fail(error)
            else:
                process.fail(error)
        with self._lock:
            task.state = _OVER
            if isinstance(task, _ThreadTask):
                del self._tasks[task.thread]
            self._guests[guest] -= 1
            if self._guests[guest]:
                return
        if process is not None and process.executes:
            try:
                process.execute()
            except BaseException as failure:  # noqa: BLE001 - as any of its errors
                process.fail(failure)
            else:
                self._start_thread(guest, process.main)
                return
        if program is not None and process is not None:
            try:
                process.finish_hosted()
                guest._finish(program.result())
            except BaseException as failure:  # noqa: BLE001 - it is the guest's result
                guest._fail(failure)
            try:
                program.close()
            except BaseException as failure:  # noqa: BLE001 - as before
                guest._fail(failure)
            guest._program = None
        guest._close()

    def _forget(self, guest: Guest) -> None:
        with self._all_over:
            self._guests.pop(guest, None)
            if not self._guests:
                self._all_over.notify_all()


class _Host:
    """Implements :class:`vm_core.linux.process.Host` for one guest."""

    def __init__(self, scheduler: Scheduler, guest: Guest) -> None:
        self._scheduler, self._guest = scheduler, guest
        self.ready: Callable[[GuestThread], None] = scheduler._ready
        self.blocking = scheduler._blocking

    def start_thread(self, thread: GuestThread) -> None:
        self._scheduler._start_thread(self._guest, thread)


class _Waits:
    """The tasks that wait, for times and for host descriptors, and the host thread that watches for them. It starts
    when first needed. All but :meth:`_run` is called with the scheduler's lock held."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._times: list[tuple[float, int, _Task, int]] = []
        self._order = itertools.count()
        self._files: dict[int, dict[_Task, int]] = {}  # host descriptor -> who waits for which events
        self._poller: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._until = 0.0  # when the thread looks again
        self._closed = False

    def add(self, task: _Task, wait: Parked) -> None:
        task.wait = wait
        task.number += 1
        if wait.deadline is None and not wait.wanted:
            return
        poller = self._start()
        for fd, events in wait.wanted:
            waiting = self._files.setdefault(fd, {})
            waiting[task] = waiting.get(task, 0) | events
            if not self._watch(poller, fd):
                # Always ready (a regular file), or closed meanwhile: the system call finds out.
                self._scheduler._wake(task)
                return
        if wait.deadline is not None:
            heapq.heappush(self._times, (wait.deadline, next(self._order), task, task.number))
            if wait.deadline < self._until:
                os.eventfd_write(self._wake, 1)

    def remove(self, task: _Task) -> None:
        wait, task.wait = task.wait, None
        task.number += 1
        if wait is None or self._poller is None:
            return
        for fd, _ in wait.wanted:
            waiting = self._files.get(fd)
            if waiting is not None and waiting.pop(task, None) is not None:
                self._watch(self._poller, fd)

    def _watch(self, poller: select.epoll, fd: int) -> bool:
        """Watch a descriptor for what its waiters want; False if that is not possible."""
        waiting = self._files[fd]
        if not waiting:
            del self._files[fd]
        try:
            if not waiting:
                poller.unregister(fd)
                return True
            # One event at a time: what is reported of a file that the guest has closed is not asked for again.
            events = select.EPOLLONESHOT
            for wanted in waiting.values():
                events |= wanted
            try:
                poller.register(fd, events)
            except FileExistsError:
                poller.modify(fd, events)
        except OSError:
            return not waiting
        return True

    def _start(self) -> select.epoll:
        if self._poller is None:
            self._poller = select.epoll()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poller.register(self._wake, select.EPOLLIN)
            self._thread = threading.Thread(target=self._run, name="vm-scheduler-waits", daemon=True)
            self._thread.start()
        return self._poller

    def _run(self) -> None:
        scheduler = self._scheduler
        assert self._poller is not None
        poll = self._poller.poll
        while True:
            with scheduler._lock:
                now = time.monotonic()
                while self._times and (
                    self._times[0][0] <= now or self._times[0][2].number != self._times[0][3]
                ):
                    _, _, task, number = heapq.heappop(self._times)
                    if task.number == number:
                        scheduler._wake(task)
                if self._closed:
                    return
                self._until = self._times[0][0] if self._times else float("inf")
                left = min(self._until - now, 3600.0)
            # Rounded up: the time must have come.
            ready = poll(left + 0.001)
            with scheduler._lock:
                for fd, _ in ready:
                    if fd == self._wake:
                        os.eventfd_read(fd)
                    for task in list(self._files.get(fd, ())):
                        scheduler._wake(task)

    def close(self) -> None:
        with self._scheduler._lock:
            self._closed = True
            if self._thread is not None:
                os.eventfd_write(self._wake, 1)
        if self._thread is not None and self._poller is not None:
            self._thread.join()
            self._poller.close()
            os.close(self._wake)
