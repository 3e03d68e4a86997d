"""Clocks, sleeping and interval timers."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import struct
import threading
import time
from collections.abc import Callable
from functools import partial

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import SigInfo, s32, s64
from vm_core.memory import Access, GuestMemory

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["AlarmClock", "IntervalTimer"]

_BILLION: Final = 1_000_000_000
_LONGEST: Final = 1 << 62
"""Seconds. What is left of a longer wait is not told exactly: a float is too coarse for the type's last value."""
_TIMESPEC: Final = struct.Struct("<qq")
_pack_timespec: Final = _TIMESPEC.pack_into
_WRITE: Final = Access.WRITE
_CLOCKS: Final = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 0, 9: 7, 11: 11}
"""Guest clock ids to host ones: the *_ALARM clocks read as their base."""
_RESTART_TIMED: Final = -516
RESTART_NO_HANDLER: Final = -514
_SIGALRM: Final = 14


def _clock(clock: int) -> int:
    """The host clock for a guest's. Raises OSError."""
    number = s32(clock)
    if number < 0:
        # The CPU-time clock of a process or thread; only the guest's own exist. Or a clock that is a device, which none is.
        if number & 3 == 3:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return time.CLOCK_THREAD_CPUTIME_ID if number & 4 else time.CLOCK_PROCESS_CPUTIME_ID
    host = _CLOCKS.get(number)
    if host is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return host


def clock_gettime(t: GuestThread, clock: int, result: int) -> int:
    now = time.clock_gettime_ns(clock if clock < 2 else _clock(clock))
    memory = t.memory
    memory.check(result, 16, _WRITE)
    _pack_timespec(memory.view, result, now // _BILLION, now % _BILLION)
    return 0


def clock_getres(t: GuestThread, clock: int, result: int) -> int:
    _clock(clock)
    if result:
        t.memory.write(result, _TIMESPEC.pack(0, 4_000_000 if s32(clock) in (5, 6) else 1))
    return 0


def clock_settime(_t: GuestThread, _clock: int, _value: int) -> int:
    return -errno.EPERM


def gettimeofday(t: GuestThread, result: int, zone: int) -> int:
    if result:
        now = time.time_ns()
        t.memory.write(result, _TIMESPEC.pack(now // _BILLION, now % _BILLION // 1000))
    if zone:
        t.memory.write(zone, bytes(8))
    return 0


def time_(t: GuestThread, result: int) -> int:
    now = int(time.time())
    if result:
        t.memory.store(result, 8, now)
    return now


def times(t: GuestThread, result: int) -> int:
    used = os.times()
    if result:
        ticks = (used.user, used.system, used.children_user, used.children_system)
        t.memory.write(result, struct.pack("<qqqq", *(int(seconds * 100) for seconds in ticks)))
    return int(time.monotonic() * 100)


def read_timespec(memory: GuestMemory, address: int) -> float:
    """Seconds of a struct timespec. Raises MemoryFault, and OSError for one out of range."""
    seconds, nanoseconds = _TIMESPEC.unpack(memory.read(address, 16))
    if seconds < 0 or not 0 <= nanoseconds < _BILLION:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return float(seconds + nanoseconds / _BILLION)


def pack_timespec(seconds: float) -> bytes:
    """A struct timespec."""
    nanoseconds = int(min(seconds, _LONGEST) * _BILLION)
    return _TIMESPEC.pack(nanoseconds // _BILLION, nanoseconds % _BILLION)


def nanosleep(t: GuestThread, request: int, remaining: int) -> int:
    return _sleep_until(t, time.monotonic() + read_timespec(t.memory, request), remaining)


def clock_nanosleep(t: GuestThread, clock: int, flags: int, request: int, remaining: int) -> int:
    number = s32(clock)
    host = _clock(clock)
    if number == _THREAD_CLOCK or number in _RAW_CLOCKS:
        return -errno.EOPNOTSUPP
    seconds = read_timespec(t.memory, request)
    if host == _PROCESS_CLOCK:
        return _sleep_of_process(t, seconds, remaining, absolute=bool(flags & 1))
    now = time.monotonic()
    if flags & 1:
        return _sleep_until(t, seconds - time.clock_gettime(host) + now, 0)
    return _sleep_until(t, now + seconds, remaining)


_RAW_CLOCKS: Final = frozenset({4, 5, 6})
"""CLOCK_MONOTONIC_RAW and the coarse ones: nothing sleeps by them, nor by a thread's time."""


def _sleep_of_process(t: GuestThread, seconds: float, remaining: int, *, absolute: bool) -> int:
    """Until the process has used that much processor time."""
    end = seconds if absolute else time.process_time() + seconds
    while (left := end - time.process_time()) > 0:
        if not t.sleep(max(left / t.process.cpus, _LEAST_LOOK)):
            if remaining and not absolute:
                t.memory.write(remaining, pack_timespec(max(end - time.process_time(), 0.0)))
            return RESTART_NO_HANDLER if absolute else _RESTART_TIMED
    return 0


def _sleep_until(t: GuestThread, deadline: float, remaining: int) -> int:
    deadline = t.first_deadline(deadline) or deadline
    if t.block(deadline, None) == -errno.ETIMEDOUT:
        return 0
    if remaining:
        left = min(max(int((deadline - time.monotonic()) * _BILLION), 0), _LONGEST * _BILLION)
        t.memory.write(remaining, _TIMESPEC.pack(left // _BILLION, left % _BILLION))
    return _RESTART_TIMED


class AlarmClock:
    """One host thread that calls functions at given times (seconds of time.monotonic). It starts when first needed.

    With a ``parent`` there is no thread: what is asked of this clock the other one does.
    """

    def __init__(self, parent: AlarmClock | None = None) -> None:
        self._parent = parent
        self._given: set[int] = set()  # numbers of the parent
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, deadline: float, action: Callable[[], None]) -> int:
        """Call ``action`` then; returns a number for cancel()."""
        parent = self._parent
        if parent is not None:

            def act() -> None:
                with self._condition:
                    self._given.discard(number)
                action()

            with self._condition:
                number = parent.at(deadline, act)
                self._given.add(number)
                return number
        with self._condition:
            number = next(self._numbers)
            heapq.heappush(self._heap, (deadline, number, action))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vm-clock", daemon=True)
                self._thread.start()
            self._condition.notify()
            return number

    def cancel(self, number: int) -> None:
        if self._parent is not None:
            self._given.discard(number)
            self._parent.cancel(number)
            return
        with self._condition:
            self._heap = [entry for entry in self._heap if entry[1] != number]
            heapq.heapify(self._heap)

    def close(self) -> None:
        for number in list(self._given):
            self.cancel(number)
        with self._condition:
            self._closed = True
            self._heap.clear()
            self._condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed:
                    left = self._heap[0][0] - time.monotonic() if self._heap else None
                    if left is not None and left <= 0:
                        break
                    self._condition.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                if self._closed:
                    return
                action = heapq.heappop(self._heap)[2]
            action()


_LEAST_LOOK: Final = 0.0005
"""Seconds between two looks at a clock of processor time, at least."""


class IntervalTimer:
    """ITIMER_REAL of a process, or one of timer_create(2): then ``expire`` is called instead of sending SIGALRM.

    ``used`` is the clock of a timer that counts processor time, in seconds: it is looked at as often as it could be over.
    ``missed`` counts the periods that were over before the last expiry was noticed.
    """

    def __init__(
        self,
        process: Process,
        expire: Callable[[], None] | None = None,
        used: Callable[[], float] | None = None,
    ) -> None:
        self._used = used
        self.missed = 0
        self.overrun = self.taken = 0
        """Expiries of a timer_create timer since its last signal; and since the one before, which was taken, until that was sent."""
        self.waiting: Callable[[], bool] = bool
        """Whether the last signal of such a timer has not been taken yet."""
        self._process = process
        self._expire = expire or (lambda: process.send(SigInfo(_SIGALRM, 0x80)))
        self._lock = threading.Lock()
        self._deadline = 0.0
        self._interval = 0.0
        self._number = -1

    def now(self, clock: int) -> float:
        """The time of the timer's clock."""
        return time.clock_gettime(clock) if self._used is None else self._used()

    def _now(self) -> float:
        return time.monotonic() if self._used is None else self._used()

    def _arm(self) -> None:
        """Have the clock look when the deadline may be over. The lock is held."""
        at = self._deadline
        if self._used is not None:
            # All processors may count at once.
            left = max((self._deadline - self._used()) / self._process.cpus, _LEAST_LOOK)
            at = time.monotonic() + left
        self._number = self._process.clock.at(at, self._fire)

    def set(self, value: float, interval: float) -> tuple[float, float]:
        """Arm (0: disarm); returns what was left and the interval before, in seconds."""
        with self._lock:
            now = self._now()
            old = (max(self._deadline - now, 1e-6) if self._number >= 0 else 0.0, self._interval)
            if self._number >= 0:
                self._process.clock.cancel(self._number)
                self._number = -1
            self._interval = interval
            if value > 0:
                self._deadline = now + value
                self._arm()
            return old

    def get(self) -> tuple[float, float]:
        with self._lock:
            left = max(self._deadline - self._now(), 1e-6) if self._number >= 0 else 0.0
            return left, self._interval

    def _fire(self) -> None:
        with self._lock:
            self._number = -1
            now = self._now()
            if self._used is not None and now < self._deadline:
                self._arm()
                return
            if self._interval > 0:
                # From the deadline, so that the period does not drift; what was missed is not caught up with.
                self.missed = max(int((now - self._deadline) / self._interval), 0)
                self._deadline += self._interval * (self.missed + 1)
                self._arm()
        self._expire()


def _pack_timer(value: tuple[float, float]) -> bytes:
    out = b""
    for seconds in (value[1], value[0]):
        microseconds = round(min(seconds, _LONGEST) * 1_000_000)
        out += _TIMESPEC.pack(microseconds // 1_000_000, microseconds % 1_000_000)
    return out


def _user_time() -> float:
    return os.times().user


_SIGVTALRM, _SIGPROF = 26, 27


def _interval_timer(t: GuestThread, which: int) -> IntervalTimer:
    """ITIMER_REAL, ITIMER_VIRTUAL or ITIMER_PROF. Raises OSError."""
    process = t.process
    which &= 0xFFFF_FFFF
    if not which:
        return process.timer
    if which > 2:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    found = process.cpu_timers.get(which)
    if found is None:
        number = _SIGVTALRM if which == 1 else _SIGPROF
        found = process.cpu_timers[which] = IntervalTimer(
            process,
            lambda: process.send(SigInfo(number, 0x80)),
            _user_time if which == 1 else time.process_time,
        )
    return found


def setitimer(t: GuestThread, which: int, new: int, old: int) -> int:
    timer = _interval_timer(t, which)
    value = interval = 0.0
    if new:
        fields = struct.unpack("<qqqq", t.memory.read(new, 32))
        if not all(0 <= part < 1_000_000 for part in fields[1::2]) or fields[0] < 0 or fields[2] < 0:
            return -errno.EINVAL
        interval, value = fields[0] + fields[1] / 1e6, fields[2] + fields[3] / 1e6
    before = timer.set(value, interval)
    if old:
        t.memory.write(old, _pack_timer(before))
    return 0


def getitimer(t: GuestThread, which: int, result: int) -> int:
    t.memory.write(result, _pack_timer(_interval_timer(t, which).get()))
    return 0


def alarm(t: GuestThread, seconds: int) -> int:
    left, _ = t.process.timer.set(float(seconds & 0xFFFF_FFFF), 0.0)
    return int(-(-left // 1))


# -- timers of timer_create -------------------------------------------------------------------------------------

_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD, _SIGEV_THREAD_ID = 0, 1, 2, 4
_SI_TIMER: Final = -2
_TIMER_CLOCKS: Final = frozenset({0, 1, 2, 3, 7, 11})
_ALARM_CLOCKS: Final = frozenset({8, 9})
_PROCESS_CLOCK, _THREAD_CLOCK = 2, 3
_MAX_TIMERS: Final = 1024


def timer_create(t: GuestThread, clock: int, event: int, result: int) -> int:
    """Each is an IntervalTimer that sends its signal as sigevent(7) asks."""
    process = t.process
    number = s32(clock)
    if number in _ALARM_CLOCKS:
        return -errno.EPERM
    if number not in _TIMER_CLOCKS and number >= 0:
        return -errno.EOPNOTSUPP if number in _RAW_CLOCKS else -errno.EINVAL
    clock_id = _clock(clock)
    used: Callable[[], float] | None = None
    if clock_id == _PROCESS_CLOCK:
        used = time.process_time
    elif clock_id == _THREAD_CLOCK:
        own = time.pthread_getcpuclockid(threading.get_ident())
        used = partial(time.clock_gettime, own)
    t.memory.check(result, 4, _WRITE)
    value, number, notify, tid = 0, _SIGALRM, _SIGEV_SIGNAL, 0
    if event:
        value, number, notify, tid = struct.unpack("<Qiii", t.memory.read(event, 20))
        if notify not in (_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD, _SIGEV_THREAD_ID):
            return -errno.EINVAL
        if notify != _SIGEV_NONE and not 1 <= number <= 64:
            return -errno.EINVAL
        if notify == _SIGEV_THREAD_ID and tid not in process.threads:
            return -errno.EINVAL
    with process.lock:
        if len(process.timers) >= _MAX_TIMERS:
            return -errno.EAGAIN
        timer_id = next(n for n in itertools.count() if n not in process.timers)
        info = SigInfo(number, _SI_TIMER, pid=timer_id, uid=0, value=value if event else timer_id)
        sent = info

        def waiting() -> bool:
            return any(one is sent for one in list(queue()))

        def queue() -> list[SigInfo]:
            owner = process.threads.get(tid) if notify == _SIGEV_THREAD_ID else None
            return process.signals.pending if owner is None else owner.pending

        def expire() -> None:
            made = process.timers.get(timer_id)
            if made is None:
                return
            nonlocal sent
            timer = made[1]
            with process.lock:
                pending = queue()
                for index, one in enumerate(pending):
                    if one is sent:
                        # One is enough: what comes before it is taken is counted.
                        timer.overrun += 1 + timer.missed
                        sent = pending[index] = info._replace(uid=min(timer.overrun, 0x7FFF_FFFF))
                        return
                timer.taken, timer.overrun = timer.overrun, timer.missed
                sent = info._replace(uid=min(timer.overrun, 0x7FFF_FFFF))
            if notify == _SIGEV_THREAD_ID:
                thread = process.threads.get(tid)
                if thread is not None:
                    process.send_to(thread, sent)
            elif notify != _SIGEV_NONE:
                process.send(sent)

        timer = IntervalTimer(process, expire, used)
        timer.waiting = waiting
        process.timers[timer_id] = (clock_id, timer)
    t.memory.store(result, 4, timer_id)
    return 0


def _timer(t: GuestThread, timer_id: int) -> tuple[int, IntervalTimer]:
    found = t.process.timers.get(s32(timer_id))
    if found is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return found


def read_itimerspec(memory: GuestMemory, address: int) -> tuple[float, float]:
    """(value, interval) in seconds. Raises MemoryFault, and OSError for one out of range."""
    return read_timespec(memory, address + 16), read_timespec(memory, address)


def pack_itimerspec(value: tuple[float, float]) -> bytes:
    """The struct itimerspec of (value, interval) in seconds."""
    out = b""
    for seconds in (value[1], value[0]):
        nanoseconds = round(seconds * _BILLION)
        out += _TIMESPEC.pack(nanoseconds // _BILLION, nanoseconds % _BILLION)
    return out


def timer_settime(t: GuestThread, timer_id: int, flags: int, new: int, old: int) -> int:
    clock, timer = _timer(t, timer_id)
    value, interval = read_itimerspec(t.memory, new)
    if old:
        t.memory.check(old, 32, _WRITE)
    if value and flags & 1:  # TIMER_ABSTIME; a time that is over fires at once
        value = max(value - timer.now(clock), 1e-9)
    before = timer.set(value, interval)
    if old:
        t.memory.write(old, pack_itimerspec(before))
    return 0


def timer_gettime(t: GuestThread, timer_id: int, result: int) -> int:
    t.memory.write(result, pack_itimerspec(_timer(t, timer_id)[1].get()))
    return 0


def timer_getoverrun(t: GuestThread, timer_id: int) -> int:
    _, timer = _timer(t, timer_id)
    # Of the signal that was taken last: the next one may have been sent meanwhile.
    return min(timer.taken if timer.waiting() else timer.overrun, 0x7FFF_FFFF)


def timer_delete(t: GuestThread, timer_id: int) -> int:
    _timer(t, timer_id)[1].set(0.0, 0.0)
    t.process.timers.pop(s32(timer_id), None)
    return 0


def signed_timeout(milliseconds: int) -> float | None:
    """Seconds for poll(2)'s timeout argument; None for forever."""
    value = s64(milliseconds) if milliseconds >> 63 else s32(milliseconds)
    return None if value < 0 else value / 1000
