"""Futexes of one process, in one of two ways, which never mix.

* :class:`HostFutexes`: a guest's word is the host's word at its address in the arena, and the host kernel keeps the
  queues. So native code can wait and wake too. A waiter waits for a second word as well (futex_waitv, Linux 5.16), by
  which a signal or the end of the process reaches it.
* :class:`FutexTable`, on other hosts: the queues are ours. A waiter has exactly one reason to wake, and a wake is never
  lost or spent on one that leaves for another reason. A wait compares the word and enters the queue under one lock,
  which every wake takes, so a wake between the two cannot be missed.

futex(2); the operations that glibc and musl use except priority inheritance, which is ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

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
    "Waiter",
    "can_wait_for_two",
    "futex",
    "host_wake",
    "release_robust_list",
]

_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10
_PRIVATE, _REALTIME = 128, 256
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


class FutexTable:
    """All waiters of a process. Those of other processes, in shared memory, are not among them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[int, deque[Waiter]] = {}

    def wake(self, address: int, count: int, bitset: int = _ANY, private: int = 0) -> int:
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
        private: int = 0,
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
            with self.lock:
                if waiter.woken:
                    return 0
                for at, queue in list(self.queues.items()):
                    # A requeue may have moved it.
                    if waiter in queue:
                        self._leave(waiter, at, queue)
                        break
            if reason == -errno.ETIMEDOUT:
                return reason
            return RESTART if deadline is None else _RESTART_TIMED

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
        private: int = 0,
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
        private: int = 0,
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
    address: int, command: int, value: int, timeout: int = 0, second: int = 0, third: int = 0
) -> int:
    # SAFETY: `address` and `second` are checked addresses in an arena, or in a live vCPU's header; `timeout` is a count, 0, or
    # the address of a timespec of the caller.
    result = int(_syscall(_SYS_FUTEX, address, command, value, timeout, second, third))
    return result if result >= 0 else -ctypes.get_errno()


def host_wake(address: int, count: int) -> int:
    """Wake waiters of a host address in this process."""
    return _host_futex(address, _WAKE | _PRIVATE, min(count, _MOST))


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

    def wake(self, address: int, count: int, bitset: int = _ANY, private: int = 0) -> int:
        """Wake up to ``count`` waiters in order; returns how many. ``private`` is FUTEX_PRIVATE_FLAG or 0, here and below:
        with it only waiters of this process are meant, without it those that wait in the same mapped file too."""
        return _host_futex(self._place(address), _WAKE_BITSET | private, min(count, _MOST), third=bitset)

    def wait(
        self,
        thread: GuestThread,
        memory: GuestMemory,
        address: int,
        value: int,
        bitset: int,
        deadline: float | None,
        private: int = 0,
    ) -> int:
        """``deadline`` is in seconds of time.monotonic. Returns 0 or a negative errno."""
        memory.check(address, 4, _READ)
        place, words = self._place(address), thread.words
        own = thread.cpu.address + 8 * _ATTENTION
        # struct futex_waitv[2]: the thread's own word first, so that a wake of the guest's is what counts if both came.
        flags = _SIZE_U32 | _PRIVATE
        both = (ctypes.c_uint64 * 6)(0, own, flags, value, place, _SIZE_U32 | private)
        limit = (ctypes.c_int64 * 2)()
        thread.waiting = True
        odd = bitset != _ANY
        self._odd += odd
        try:
            while True:
                if (thread.attention or words[_ATTENTION]) and thread.must_return():
                    return RESTART if deadline is None else _RESTART_TIMED
                until = deadline
                if odd or thread is self.main:
                    # The two-word wait knows no bits; one that nothing but its word can end asks again and again.
                    slice_ = time.monotonic() + (_ODD_SECONDS if odd else SLICE_SECONDS)
                    until = slice_ if until is None else min(until, slice_)
                if until is not None:
                    seconds = min(int(until), 1 << 62)
                    limit[0], limit[1] = max(seconds, 0), max(int((until - seconds) * 1e9), 0)
                clock = 0 if until is None else ctypes.addressof(limit)
                words[_WAITING] = 1
                if odd:
                    result = _host_futex(place, _WAIT_BITSET | private, value, clock, 0, bitset)
                    result += result >= 0  # as below: the guest's word is the second
                else:
                    # SAFETY: both words live: the guest's in the arena, the thread's in its vCPU; `both` and `limit` are ours.
                    result = int(_syscall(_SYS_FUTEX_WAITV, ctypes.addressof(both), 2, 0, clock, 1, 0))
                    if result < 0:
                        result = -ctypes.get_errno()
                words[_WAITING] = 0
                if result == 1:
                    return 0
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
            self._odd -= odd

    def requeue(
        self,
        memory: GuestMemory,
        address: int,
        wake: int,
        target: int,
        move: int,
        expected: int | None,
        private: int = 0,
    ) -> int:
        """Wake ``wake`` waiters and move up to ``move`` others to ``target``, if the word is ``expected`` (None: always)."""
        place, other = self._place(address), self._place(target)
        if expected is not None:
            memory.check(address, 4, _READ)
        if self._sliced():
            # All that would move are woken instead, which futex(2) lets happen to a waiter at any time.
            wake, move = min(wake + move, _MOST), 0
        command, third = (_REQUEUE, 0) if expected is None else (_CMP_REQUEUE, expected)
        done = _host_futex(place, command | private, wake, move, other, third)
        if move and done > wake and self._sliced():
            _host_futex(other, _WAKE | private, done - wake)
        return done

    def wake_op(
        self,
        memory: GuestMemory,
        address: int,
        value: int,
        value2: int,
        second: int,
        encoded: int,
        private: int = 0,
    ) -> int:
        """Change the second word, wake on the first, and on the second if its old value passes the comparison."""
        memory.check(second, 4, Access.WRITE)
        return _host_futex(
            self._place(address),
            _WAKE_OP | private,
            min(value, _MOST),
            min(value2, _MOST),
            self._place(second),
            encoded,
        )


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
    """Raise MemoryFault unless a word has a page that others could find it by. One of anonymous memory must be writable: it
    could never change else, so Linux refuses it."""
    memory.check(address, 4, _READ)
    region = memory.region_at(address)
    if region is None or region.backing is None:
        memory.check(address, 4, Access.WRITE)


def futex(
    t: GuestThread, address: int, operation: int, value: int, timeout: int, second: int, third: int
) -> int:
    if address % 4:
        return -errno.EINVAL
    table, memory = t.process.futexes, t.memory
    command, private = operation & 0x7F, operation & _PRIVATE
    value &= _ANY
    if not private:
        _check_shared(memory, address)
        if command in (_REQUEUE, _CMP_REQUEUE) and not second % 4:
            _check_shared(memory, second)
    if command == _WAKE:
        memory.check(address, 4, _READ)
        return table.wake(address, value, _ANY, private)
    if command == _WAIT:
        return table.wait(
            t, memory, address, value, _ANY, _deadline(memory, timeout, operation, absolute=False), private
        )
    if command == _WAIT_BITSET:
        if not third & _ANY:
            return -errno.EINVAL
        deadline = _deadline(memory, timeout, operation, absolute=True)
        return table.wait(t, memory, address, value, third & _ANY, deadline, private)
    if command == _WAKE_BITSET:
        return table.wake(address, value, third & _ANY, private) if third & _ANY else -errno.EINVAL
    # The remaining operations take a second count where a wait has its timeout.
    if command in (_REQUEUE, _CMP_REQUEUE):
        if s32(value) < 0 or s32(timeout) < 0 or second % 4:
            return -errno.EINVAL
        expected = third & _ANY if command == _CMP_REQUEUE else None
        return table.requeue(memory, address, value, second, timeout & _ANY, expected, private)
    if command == _WAKE_OP:
        if second % 4:
            return -errno.EINVAL
        return table.wake_op(memory, address, value, timeout & _ANY, second, third & _ANY, private)
    return -errno.ENOSYS


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
    """A thread ends: the locks that it holds say that their owner died, and one waiter of each wakes."""
    memory = t.memory
    try:
        entry = memory.load(t.robust_list, 8)
        offset = memory.load(t.robust_list + 8, 8)
        for _ in range(2048):
            if entry == t.robust_list or not entry:
                return
            following = memory.load(entry, 8)
            address = (entry + offset) & 0xFFFF_FFFF_FFFF_FFFF
            word = memory.load(address, 4)
            if word & _TID_MASK == t.tid:
                memory.store(address, 4, word & _WAITERS | _OWNER_DIED)
                if word & _WAITERS:
                    t.process.futexes.wake(address, 1)
            entry = following
    except MemoryFault:
        return
