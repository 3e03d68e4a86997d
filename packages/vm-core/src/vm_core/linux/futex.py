"""Futexes of one process, in one of two ways, which never mix.

* :class:`HostFutexes`: a guest's word is the host's word at its address in the arena, and the host kernel keeps the
  queues. So native code can wait and wake too. A waiter waits for a second word as well (futex_waitv, Linux 5.16), by
  which a signal or the end of the process reaches it.
* :class:`FutexTable`, on other hosts: the queues are ours. A waiter has exactly one reason to wake, and a wake is never
  lost or spent on one that leaves for another reason. A wait compares the word and enters the queue under one lock,
  which every wake takes, so a wake between the two cannot be missed.

Whether a futex is private to its process or not is the guest's to say and is passed on, because that is part of what tells
two futexes apart: one in memory that processes share works between them only without the flag. :class:`FutexTable` knows one
process only.

A lock with priority inheritance (:class:`PiTable`) is kept here, as its owner is a thread of the guest, which the host does
not know. Priorities are all alike, so inheriting them means nothing, but owners, waiters and errors are as on Linux.

futex(2), futex_waitv(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32
from vm_core.linux.files import RESTART
from vm_core.linux.system import Parked
from vm_core.memory import Access, GuestMemory, MemoryFault
from vm_core.state import HEADER

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = [
    "SLICE_SECONDS",
    "FutexTable",
    "HostFutexes",
    "PiTable",
    "Waiter",
    "can_wait_for_two",
    "futex",
    "host_wake",
    "release_robust_list",
]

_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10
_PRIVATE, _REALTIME = 128, 256
_TIMED_BY_CLOCK: Final = frozenset({_WAIT_BITSET, 11, 13})
"""With _WAIT_REQUEUE_PI and _LOCK_PI2: the operations that take _REALTIME."""
_ANY: Final = 0xFFFF_FFFF
_READ: Final = Access.READ
_RESTART_TIMED: Final = -516
"""ERESTART_RESTARTBLOCK: a wait with a timeout, interrupted by a handler, is EINTR."""
_WAITERS, _OWNER_DIED, _TID_MASK = 0x8000_0000, 0x4000_0000, 0x3FFF_FFFF


class Waiter:
    """A thread in a queue."""

    __slots__ = ("bitset", "thread", "woken")

    def __init__(self, thread: GuestThread, bitset: int) -> None:
        self.thread = thread
        self.bitset = bitset
        self.woken = False


def _wait_in_queue(
    thread: GuestThread,
    waiter: Waiter,
    lock: threading.Lock,
    leave: Callable[[], None],
    deadline: float | None,
    interrupted: int,
) -> int:
    """Wait until the waiter is woken, 0, or the deadline, -ETIMEDOUT, or a signal, ``interrupted``. Whoever gives up leaves its queue,
    with ``lock`` held, which every wake takes."""
    while True:
        try:
            reason = thread.block(deadline, lambda: waiter.woken)
        except Parked:
            thread.waiter = waiter
            raise
        if waiter.woken:
            return 0
        if reason == 0:
            continue
        with lock:
            if waiter.woken:
                return 0
            leave()
        return reason if reason == -errno.ETIMEDOUT else interrupted


class FutexTable:
    """All waiters of a process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[int, deque[Waiter]] = {}

    def wake(self, address: int, count: int, bitset: int = _ANY, *, shared: bool = False) -> int:
        """Wake up to ``count`` waiters in order; returns how many."""
        # PERF: without the lock. A waiter enters the queue before it compares the word, and the GIL orders both with this
        # look, so that one who is not there yet will see what the waker changed.
        if address not in self.queues:
            return 0
        with self.lock:
            return self._wake(address, count, bitset)

    def _wake(self, address: int, count: int, bitset: int) -> int:
        queue = self.queues.get(address)
        if queue is None:
            return 0
        woken = 0
        kept: list[Waiter] = []
        while queue and woken < count:
            waiter = queue.popleft()
            if waiter.bitset & bitset:
                waiter.woken = True
                waiter.thread.wake()
                woken += 1
            else:
                kept.append(waiter)
        if kept:
            queue.extendleft(reversed(kept))
        if not queue:
            del self.queues[address]
        return woken

    def wait(
        self,
        thread: GuestThread,
        memory: GuestMemory,
        address: int,
        value: int,
        bitset: int,
        deadline: float | None,
        *,
        shared: bool = False,
    ) -> int:
        """``deadline`` is in seconds of time.monotonic. Returns 0 or a negative errno."""
        waiter = thread.waiter
        thread.waiter = None
        if waiter is None:
            # Else the call has been here before.
            waiter = Waiter(thread, bitset)
            with self.lock:
                queue = self.queues.setdefault(address, deque())
                queue.append(waiter)
                try:
                    same = memory.load(address, 4) == value
                except MemoryFault:
                    self._leave(waiter, address, queue)
                    raise
                if not same:
                    self._leave(waiter, address, queue)
                    return -errno.EAGAIN

        def leave() -> None:
            for at, queue in list(self.queues.items()):
                # A requeue may have moved it.
                if waiter in queue:
                    self._leave(waiter, at, queue)
                    break

        return _wait_in_queue(
            thread, waiter, self.lock, leave, deadline, RESTART if deadline is None else _RESTART_TIMED
        )

    def _leave(self, waiter: Waiter, address: int, queue: deque[Waiter]) -> None:
        """Take a waiter out of the queue of an address. The lock is held."""
        queue.remove(waiter)
        if not queue:
            del self.queues[address]

    def requeue(
        self,
        memory: GuestMemory,
        address: int,
        wake: int,
        target: int,
        move: int,
        expected: int | None,
        *,
        shared: bool = False,
    ) -> int:
        """Wake ``wake`` waiters and move up to ``move`` others to ``target``, if the word is ``expected`` (None: always)."""
        with self.lock:
            if expected is not None and memory.load(address, 4) != expected:
                return -errno.EAGAIN
            return self._requeue(address, wake, target, move)

    def _requeue(self, address: int, wake: int, target: int, move: int) -> int:
        done = self._wake(address, wake, _ANY)
        queue = self.queues.get(address)
        moved = 0
        while queue and moved < move:
            self.queues.setdefault(target, deque()).append(queue.popleft())
            moved += 1
        if queue is not None and not queue and target != address:
            self.queues.pop(address, None)
        return done + moved

    def wake_op(
        self,
        memory: GuestMemory,
        address: int,
        value: int,
        value2: int,
        second: int,
        encoded: int,
        *,
        shared: bool = False,
    ) -> int:
        """Change the second word, wake on the first, and on the second if its old value passes the comparison."""
        kind, compare = encoded >> 28 & 7, encoded >> 24 & 15
        argument = s32(encoded << 8) >> 20
        if encoded >> 31:
            argument = 1 << (argument & 31)
        against = s32(encoded << 20) >> 20
        with self.lock:
            old = memory.load(second, 4)
            new = {
                0: argument, 1: old + argument, 2: old | argument, 3: old & ~argument, 4: old ^ argument,
            }.get(kind)  # fmt: skip
            if new is None:
                return -errno.ENOSYS
            memory.store(second, 4, new & _ANY)
            signed = s32(old)
            passed = {
                0: signed == against, 1: signed != against, 2: signed < against, 3: signed <= against,
                4: signed > against, 5: signed >= against,
            }.get(compare)  # fmt: skip
            if passed is None:
                return -errno.ENOSYS
            woken = self._wake(address, value, _ANY)
            if passed:
                woken += self._wake(second, value2, _ANY)
            return woken


# -- the host's -------------------------------------------------------------------------------------------------

_X86: Final = os.uname().machine in ("x86_64", "AMD64")
_SYS_FUTEX: Final = 202 if _X86 else 98
_SYS_FUTEX_WAITV: Final = 449
_SIZE_U32: Final = 2
_MOST: Final = 0x7FFF_FFFF
SLICE_SECONDS: Final = 0.05
"""How long the main thread of Python waits at once: a signal of the host may come just before the wait."""
_ODD_SECONDS: Final = 0.01
_ATTENTION: Final = HEADER["attention"] // 8
_WAITING: Final = HEADER["waiting"] // 8
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 7


def _host_futex(
    address: int,
    command: int,
    value: int,
    timeout: int = 0,
    second: int = 0,
    third: int = 0,
    *,
    shared: bool = False,
) -> int:
    # SAFETY: `address` and `second` are checked addresses in an arena, or in a live vCPU's header; `timeout` is a count, 0, or
    # the address of a timespec of the caller.
    command |= 0 if shared else _PRIVATE
    result = int(_syscall(_SYS_FUTEX, address, command, value, timeout, second, third))
    return result if result >= 0 else -ctypes.get_errno()


def host_wake(address: int, count: int) -> int:
    """Wake waiters of a host address."""
    return _host_futex(address, _WAKE, min(count, _MOST))


_two: bool | None = None


def can_wait_for_two() -> bool:
    """Whether the host has futex_waitv."""
    global _two
    if _two is None:
        # SAFETY: with no waiters to look at, it returns EINVAL where it exists and ENOSYS elsewhere.
        result = _syscall(_SYS_FUTEX_WAITV, 0, 0, 0, 0, 0, 0)
        _two = result >= 0 or ctypes.get_errno() == errno.EINVAL
    return _two


class HostFutexes:
    """The host kernel's queues, by addresses in the arena.

    ``main`` is the thread that runs in the main thread of Python. It waits in slices, and so do waits with an odd bitset.
    Between two the waiter is in no queue, and asks at its first address again: so it must not be moved to another one.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.main: GuestThread | None = None
        self._odd = 0

    def _sliced(self) -> bool:
        return self._odd > 0 or (self.main is not None and self.main.words[_WAITING] != 0)

    def _place(self, address: int) -> int:
        """The host address of a guest's word. Raises MemoryFault for one outside the arena."""
        memory = self._memory
        if address > memory.size - 4:
            raise MemoryFault(address, _READ, mapped=False)
        return memory.host_address + address

    def wake(self, address: int, count: int, bitset: int = _ANY, *, shared: bool = False) -> int:
        """Wake up to ``count`` waiters in order; returns how many."""
        place = self._place(address)
        return _host_futex(place, _WAKE_BITSET, min(count, _MOST), third=bitset, shared=shared)

    def wait(
        self,
        thread: GuestThread,
        memory: GuestMemory,
        address: int,
        value: int,
        bitset: int,
        deadline: float | None,
        *,
        shared: bool = False,
    ) -> int:
        """``deadline`` is in seconds of time.monotonic. Returns 0 or a negative errno."""
        memory.check(address, 4, _READ)
        place = self._place(address)
        if bitset == _ANY:
            result = self.wait_at(thread, [(place, value, shared)], deadline)
        else:
            self._odd += 1
            try:
                result = self._wait_for_bits(thread, place, value, bitset, deadline, shared=shared)
            finally:
                self._odd -= 1
        if result == -errno.EINTR:
            return RESTART if deadline is None else _RESTART_TIMED
        return result

    def wait_for_any(
        self, thread: GuestThread, words: list[tuple[int, int, bool]], deadline: float | None
    ) -> int:
        """futex_waitv: (address, value, shared) each; the index of one that was woken, or a negative errno."""
        places = []
        for address, value, shared in words:
            self._memory.check(address, 4, _READ)
            places.append((self._place(address), value, shared))
        result = self.wait_at(thread, places, deadline)
        return RESTART if result == -errno.EINTR and deadline is None else result

    def wait_at(self, thread: GuestThread, words: list[tuple[int, int, bool]], deadline: float | None) -> int:
        """Wait for words at host addresses, as :meth:`wait_for_any`; -EINTR for a signal."""
        # struct futex_waitv[]: the thread's own word first, so that a wake of the guest's is what counts if both came.
        flat = [0, thread.cpu.address + 8 * _ATTENTION, _SIZE_U32 | _PRIVATE]
        for place, value, shared in words:
            flat += [value, place, _SIZE_U32 | (0 if shared else _PRIVATE)]
        vector = (ctypes.c_uint64 * len(flat))(*flat)
        count, at = len(words) + 1, ctypes.addressof(vector)

        def sleep(clock: int) -> int:
            # SAFETY: all words live: the callers' by their contract, the thread's in its vCPU; `vector` is ours.
            result = int(_syscall(_SYS_FUTEX_WAITV, at, count, 0, clock, 1, 0))
            return result if result >= 0 else -ctypes.get_errno()

        return self._sleep(thread, sleep, deadline, SLICE_SECONDS if thread is self.main else None)

    def _wait_for_bits(
        self,
        thread: GuestThread,
        place: int,
        value: int,
        bitset: int,
        deadline: float | None,
        *,
        shared: bool,
    ) -> int:
        """The wait for several words knows no bits; one that nothing but its word can end asks again and again."""

        def sleep(clock: int) -> int:
            result = _host_futex(place, _WAIT_BITSET, value, clock, 0, bitset, shared=shared)
            return result + (result >= 0)  # as if the thread's word were the first

        return self._sleep(thread, sleep, deadline, _ODD_SECONDS)

    @staticmethod
    def _sleep(
        thread: GuestThread, sleep: Callable[[int], int], deadline: float | None, slice_: float | None
    ) -> int:
        """Sleep, for ``slice_`` seconds at most at once, until it is over: the number of the word less one, or a negative errno."""
        words = thread.words
        limit = (ctypes.c_int64 * 2)()
        at = ctypes.addressof(limit)
        thread.waiting = True
        try:
            while True:
                if (thread.attention or words[_ATTENTION]) and thread.must_return():
                    return -errno.EINTR
                until = deadline
                if slice_ is not None:
                    end = time.monotonic() + slice_
                    until = end if until is None else min(until, end)
                if until is not None:
                    seconds = min(int(until), 1 << 62)
                    limit[0], limit[1] = max(seconds, 0), max(int((until - seconds) * 1e9), 0)
                words[_WAITING] = 1
                result = sleep(0 if until is None else at)
                words[_WAITING] = 0
                if result >= 1:
                    return result - 1
                if result == -errno.ETIMEDOUT:
                    if deadline is not None and time.monotonic() >= deadline:
                        return result
                elif result == -errno.EAGAIN:
                    if not words[_ATTENTION]:
                        return result
                elif result not in (0, -errno.EINTR):
                    return result
        finally:
            words[_WAITING] = 0
            thread.waiting = False

    def requeue(
        self,
        memory: GuestMemory,
        address: int,
        wake: int,
        target: int,
        move: int,
        expected: int | None,
        *,
        shared: bool = False,
    ) -> int:
        """Wake ``wake`` waiters and move up to ``move`` others to ``target``, if the word is ``expected`` (None: always)."""
        place, other = self._place(address), self._place(target)
        if expected is not None:
            memory.check(address, 4, _READ)
        if self._sliced():
            # All that would move are woken instead, which futex(2) lets happen to a waiter at any time.
            wake, move = min(wake + move, _MOST), 0
        command, third = (_REQUEUE, 0) if expected is None else (_CMP_REQUEUE, expected)
        done = _host_futex(place, command, wake, move, other, third, shared=shared)
        if move and done > wake and self._sliced():
            _host_futex(other, _WAKE, done - wake, shared=shared)
        return done

    def wake_op(
        self,
        memory: GuestMemory,
        address: int,
        value: int,
        value2: int,
        second: int,
        encoded: int,
        *,
        shared: bool = False,
    ) -> int:
        """Change the second word, wake on the first, and on the second if its old value passes the comparison."""
        memory.check(second, 4, Access.WRITE)
        return _host_futex(
            self._place(address),
            _WAKE_OP,
            min(value, _MOST),
            min(value2, _MOST),
            self._place(second),
            encoded,
            shared=shared,
        )


def shared_wake(place: int) -> None:
    """Wake all who wait for a host word that processes share."""
    _host_futex(place, _WAKE, _MOST, shared=True)


def wait_here(place: int, value: int) -> None:
    """Wait in the host, where nothing but a wake ends it, while a word that processes share is ``value``."""
    _host_futex(place, _WAIT, value, shared=True)


def wait_for_shared(
    thread: GuestThread, place: int, value: int, done: Callable[[], bool], deadline: float | None
) -> int:
    """Wait until a host word that processes share is no longer ``value``, which ``done`` says too: 0, -ETIMEDOUT or -EINTR."""
    futexes = thread.process.futexes
    if isinstance(futexes, HostFutexes):
        result = futexes.wait_at(thread, [(place, value, True)], deadline)
        return 0 if result == -errno.EAGAIN else result
    while not done():
        end = time.monotonic() + _ODD_SECONDS
        result = thread.block(end if deadline is None else min(end, deadline), done)
        if result == -errno.EINTR:
            return result
        if deadline is not None and time.monotonic() >= deadline and not done():
            return -errno.ETIMEDOUT
    return 0


# -- locks with priority inheritance ----------------------------------------------------------------------------

_LOCK_PI, _UNLOCK_PI, _TRYLOCK_PI, _WAIT_REQUEUE_PI, _CMP_REQUEUE_PI, _LOCK_PI2 = 6, 7, 8, 11, 12, 13
_SET_WAITERS: Final = (8 | 2) << 28 | 31 << 12
_CLEAR_WAITERS: Final = (8 | 3) << 28 | 31 << 12
"""FUTEX_OP_OR and FUTEX_OP_ANDN of 1 << 31."""


class _PiWaiter(Waiter):
    """``lock`` is the lock's address, None while it waits to be moved to one; ``target`` where it may be moved."""

    __slots__ = ("lock", "target")

    def __init__(self, thread: GuestThread, lock: int | None, target: int = 0) -> None:
        super().__init__(thread, _ANY)
        self.lock = lock
        self.target = target


class PiTable:
    """The waiters of a process's PI locks.

    As long as a lock's word has the bit FUTEX_WAITERS, programs change it by these calls only, so that under our lock it is
    ours; the bit is set atomically, by the host's own futex call.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._queues: dict[int, deque[_PiWaiter]] = {}
        self._moving: dict[int, deque[_PiWaiter]] = {}
        self._dummy = (ctypes.c_uint32 * 2)()

    def _mark(self, address: int, operation: int) -> None:
        dummy = ctypes.addressof(self._dummy)
        _host_futex(dummy, _WAKE_OP, 0, 0, self._memory.host_address + address, operation)

    def _take(self, thread: GuestThread, address: int) -> int:
        """Try to get a lock whose word has been marked. 0, -EAGAIN if somebody has it, or another error. The lock is held."""
        memory = self._memory
        word = memory.load(address, 4)
        owner = word & _TID_MASK
        queue = self._queues.get(address)
        if not owner:
            memory.store(address, 4, thread.tid | word & _OWNER_DIED | (_WAITERS if queue else 0))
            return 0
        if owner == thread.tid or owner not in thread.process.threads:
            if not queue:
                self._mark(address, _CLEAR_WAITERS)
            return -errno.EDEADLK if owner == thread.tid else -errno.ESRCH
        return -errno.EAGAIN

    def lock(self, thread: GuestThread, address: int, deadline: float | None, *, wait: bool) -> int:
        self._memory.check(address, 4, Access.WRITE)
        waiter = thread.waiter
        thread.waiter = None
        if not isinstance(waiter, _PiWaiter):
            with self._lock:
                self._mark(address, _SET_WAITERS)
                result = self._take(thread, address)
                if result != -errno.EAGAIN:
                    return result
                if not wait:
                    if not self._queues.get(address):
                        self._mark(address, _CLEAR_WAITERS)
                    return result
                waiter = _PiWaiter(thread, address)
                self._queues.setdefault(address, deque()).append(waiter)
        return self._wait(thread, waiter, deadline, RESTART)

    def _wait(self, thread: GuestThread, waiter: _PiWaiter, deadline: float | None, interrupted: int) -> int:
        def leave() -> None:
            for queues in (self._queues, self._moving):
                for at, queue in list(queues.items()):
                    if waiter in queue:
                        queue.remove(waiter)
                        if not queue:
                            del queues[at]
                            if queues is self._queues:
                                self._mark(at, _CLEAR_WAITERS)

        return _wait_in_queue(thread, waiter, self._lock, leave, deadline, interrupted)

    def _hand_over(self, address: int, kept: int) -> None:
        """The owner gives a lock up: the first waiter has it, or nobody. The lock is held."""
        queue = self._queues.get(address)
        if not queue:
            self._memory.store(address, 4, kept)
            return
        waiter = queue.popleft()
        if not queue:
            del self._queues[address]
        self._memory.store(address, 4, waiter.thread.tid | kept | (_WAITERS if queue else 0))
        waiter.woken = True
        waiter.thread.wake()

    def unlock(self, thread: GuestThread, address: int) -> int:
        self._memory.check(address, 4, Access.WRITE)
        with self._lock:
            if self._memory.load(address, 4) & _TID_MASK != thread.tid:
                return -errno.EPERM
            self._mark(address, _SET_WAITERS)
            self._hand_over(address, 0)
            return 0

    def owner_died(self, address: int) -> None:
        """A thread ends with a lock of its robust list."""
        with self._lock:
            self._mark(address, _SET_WAITERS)
            self._hand_over(address, _OWNER_DIED)

    def left(self, thread: GuestThread) -> None:
        """A thread ends: whoever waits for its other locks gets them, and is told."""
        for address in list(self._queues):
            try:
                with self._lock:
                    if self._memory.load(address, 4) & _TID_MASK == thread.tid:
                        self._hand_over(address, _OWNER_DIED)
            except MemoryFault:
                continue

    def wait_to_move(
        self, thread: GuestThread, address: int, value: int, target: int, deadline: float | None
    ) -> int:
        """FUTEX_WAIT_REQUEUE_PI."""
        self._memory.check(target, 4, Access.WRITE)
        waiter = thread.waiter
        thread.waiter = None
        if not isinstance(waiter, _PiWaiter):
            with self._lock:
                if self._memory.load(address, 4) != value:
                    return -errno.EAGAIN
                waiter = _PiWaiter(thread, None, target)
                self._moving.setdefault(address, deque()).append(waiter)
        return self._wait(thread, waiter, deadline, -errno.EAGAIN)

    def move(self, thread: GuestThread, address: int, wake: int, target: int, most: int, value: int) -> int:
        """FUTEX_CMP_REQUEUE_PI: the first gets the lock, if that is free, and the others wait for it."""
        memory = self._memory
        memory.check(address, 4, _READ)
        memory.check(target, 4, Access.WRITE)
        if wake != 1 or address == target:
            return -errno.EINVAL
        with self._lock:
            if memory.load(address, 4) != value:
                return -errno.EAGAIN
            queue = self._moving.get(address)
            done = 0
            while queue and done < wake + most:
                waiter = queue[0]
                if waiter.target != target:
                    return -errno.EINVAL
                self._mark(target, _SET_WAITERS)
                result = self._take(waiter.thread, target)
                if result not in (0, -errno.EAGAIN):
                    return done or result
                queue.popleft()
                done += 1
                waiter.lock = target
                if result == 0:
                    waiter.woken = True
                    waiter.thread.wake()
                else:
                    self._queues.setdefault(target, deque()).append(waiter)
            if queue is not None and not queue:
                self._moving.pop(address, None)
            return done


def _deadline(memory: GuestMemory, timeout: int, operation: int, *, absolute: bool) -> float | None:
    """Seconds of time.monotonic for a struct timespec. Raises MemoryFault and OSError."""
    if not timeout:
        return None
    seconds, nanoseconds = memory.load(timeout, 8), memory.load(timeout + 8, 8)
    if seconds >> 63 or nanoseconds >= 1_000_000_000:
        raise OSError(errno.EINVAL, "bad time")
    at = seconds + nanoseconds / 1e9
    now = time.monotonic()
    if not absolute:
        return now + at
    return at - time.time() + now if operation & _REALTIME else at


def _check_shared(memory: GuestMemory, address: int) -> None:
    """What is shared is looked for by the page that it lies in: that must be there, and one that nobody shares and nobody can
    write never changes, which Linux says is a fault. Raises MemoryFault."""
    memory.check(address, 4, _READ)
    region = memory.region_at(address)
    if region is not None and not region.shared:
        memory.check(address, 4, Access.WRITE)


def futex(
    t: GuestThread, address: int, operation: int, value: int, timeout: int, second: int, third: int
) -> int:
    if address % 4:
        return -errno.EINVAL
    table, memory = t.process.futexes, t.memory
    command, shared = operation & 0x7F, not operation & _PRIVATE
    value &= _ANY
    if operation & _REALTIME and command not in _TIMED_BY_CLOCK:
        return -errno.ENOSYS
    if shared:
        _check_shared(memory, address)
        if command in (_REQUEUE, _CMP_REQUEUE, _WAKE_OP) and not second % 4:
            _check_shared(memory, second)
    if command == _WAKE:
        # What is private is not looked at: nobody waits where nothing is.
        if address >= memory.size:
            raise MemoryFault(address, _READ, mapped=False)
        return table.wake(address, value, shared=shared)
    if command == _WAIT:
        deadline = _deadline(memory, timeout, operation, absolute=False)
        return table.wait(t, memory, address, value, _ANY, deadline, shared=shared)
    if command == _WAIT_BITSET:
        if not third & _ANY:
            return -errno.EINVAL
        deadline = _deadline(memory, timeout, operation, absolute=True)
        return table.wait(t, memory, address, value, third & _ANY, deadline, shared=shared)
    if command == _WAKE_BITSET:
        return table.wake(address, value, third & _ANY, shared=shared) if third & _ANY else -errno.EINVAL
    # The remaining operations take a second count where a wait has its timeout.
    if command in (_REQUEUE, _CMP_REQUEUE):
        if s32(value) < 0 or s32(timeout) < 0 or second % 4:
            return -errno.EINVAL
        expected = third & _ANY if command == _CMP_REQUEUE else None
        return table.requeue(memory, address, value, second, timeout & _ANY, expected, shared=shared)
    if command == _WAKE_OP:
        if second % 4:
            return -errno.EINVAL
        return table.wake_op(memory, address, value, timeout & _ANY, second, third & _ANY, shared=shared)
    return _with_inheritance(t, command, address, operation, value, timeout, second, third)


def _with_inheritance(
    t: GuestThread,
    command: int,
    address: int,
    operation: int,
    value: int,
    timeout: int,
    second: int,
    third: int,
) -> int:
    """The operations of PI locks."""
    memory, locks = t.memory, t.process.pi_futexes
    if command in (_LOCK_PI, _LOCK_PI2):
        # FUTEX_LOCK_PI has always meant the wall clock.
        clock = operation | _REALTIME if command == _LOCK_PI else operation
        return locks.lock(t, address, _deadline(memory, timeout, clock, absolute=True), wait=True)
    if command == _TRYLOCK_PI:
        return locks.lock(t, address, None, wait=False)
    if command == _UNLOCK_PI:
        return locks.unlock(t, address)
    if command == _WAIT_REQUEUE_PI:
        if second % 4 or address == second:
            return -errno.EINVAL
        deadline = _deadline(memory, timeout, operation, absolute=True)
        return locks.wait_to_move(t, address, value, second, deadline)
    if command == _CMP_REQUEUE_PI:
        if second % 4 or s32(timeout) < 0:
            return -errno.EINVAL
        return locks.move(t, address, value, second, timeout & _ANY, third & _ANY)
    return -errno.ENOSYS


_WAITV: Final = struct.Struct("<QQII")
_MOST_WORDS: Final = 127
"""One less than Linux's: the host's call has the thread's own word as well."""


def futex_waitv(t: GuestThread, vector: int, count: int, flags: int, timeout: int, clock: int) -> int:
    count &= _ANY
    if flags & _ANY or not 0 < count <= _MOST_WORDS + 1 or not vector:
        return -errno.EINVAL
    table = t.process.futexes
    if not isinstance(table, HostFutexes) or count > _MOST_WORDS:
        return -errno.ENOSYS
    deadline = None
    if timeout:
        if s32(clock) not in (0, 1):
            return -errno.EINVAL
        how = _REALTIME if s32(clock) == 0 else 0
        deadline = _deadline(t.memory, timeout, how, absolute=True)
    words = []
    for value, address, kind, reserved in _WAITV.iter_unpack(t.memory.read(vector, _WAITV.size * count)):
        if reserved or kind & ~(_SIZE_U32 | _PRIVATE) or not kind & _SIZE_U32 or value >> 32 or address % 4:
            return -errno.EINVAL
        words.append((address, value, not kind & _PRIVATE))
    return table.wait_for_any(t, words, deadline)


def set_robust_list(t: GuestThread, head: int, size: int) -> int:
    if size != 24:
        return -errno.EINVAL
    t.robust_list = head
    return 0


def get_robust_list(t: GuestThread, tid: int, head: int, size: int) -> int:
    thread = t if not tid else t.process.thread(s32(tid))
    if thread is None:
        return -errno.ESRCH
    t.memory.store(head, 8, thread.robust_list)
    t.memory.store(size, 8, 24)
    return 0


def set_tid_address(t: GuestThread, address: int) -> int:
    t.clear_child_tid = address
    return t.tid


def release_robust_list(t: GuestThread) -> None:
    """A thread ends: the locks that it holds say that their owner died, and one waiter of each wakes.

    The lowest bit of a pointer to an entry says that it is a PI lock.
    """
    memory, head = t.memory, t.robust_list
    try:
        entry = memory.load(head, 8)
        offset = memory.load(head + 8, 8)
        pending = memory.load(head + 16, 8)
        for _ in range(2048):
            if entry & ~1 == head or not entry & ~1:
                break
            following = memory.load(entry & ~1, 8)
            if entry != pending:
                _owner_died(t, entry, offset, pending=False)
            entry = following
        if pending & ~1:
            _owner_died(t, pending, offset, pending=True)
    except MemoryFault:
        return


def _owner_died(t: GuestThread, entry: int, offset: int, *, pending: bool) -> None:
    memory = t.memory
    address = (entry & ~1) + offset & 0xFFFF_FFFF_FFFF_FFFF
    if address % 4:
        return
    word = memory.load(address, 4)
    if pending and not entry & 1 and not word:
        # It was just unlocking, and may not have come to wake anybody.
        t.process.futexes.wake(address, 1, shared=True)
        return
    if word & _TID_MASK != t.tid:
        return
    if entry & 1:
        t.process.pi_futexes.owner_died(address)
        return
    memory.store(address, 4, word & _WAITERS | _OWNER_DIED)
    if word & _WAITERS:
        t.process.futexes.wake(address, 1, shared=True)
