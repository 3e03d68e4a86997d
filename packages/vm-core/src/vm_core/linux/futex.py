"""Futexes of one process: wait queues by guest address.

The queues are ours, not the host kernel's: a waiter then has exactly one reason to wake (a wake, a signal, the end of
the process or its timeout), a wake is never lost or spent on a waiter that leaves for another reason, and nothing
polls. A wait compares the word and enters the queue under one lock, which every wake takes, so a wake between the two
cannot be missed.

futex(2); the operations that glibc and musl use except priority inheritance, which is ENOSYS.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from vm_core.linux.abi import s32
from vm_core.linux.files import RESTART
from vm_core.memory import Access, GuestMemory, MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["FutexTable", "futex", "release_robust_list"]

_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10
_PRIVATE, _REALTIME = 128, 256
_ANY: Final = 0xFFFF_FFFF
_READ: Final = Access.READ
_RESTART_TIMED: Final = -516
"""ERESTART_RESTARTBLOCK: a wait with a timeout, interrupted by a handler, is EINTR."""
_WAITERS, _OWNER_DIED, _TID_MASK = 0x8000_0000, 0x4000_0000, 0x3FFF_FFFF


class _Waiter:
    __slots__ = ("bitset", "thread", "woken")

    def __init__(self, thread: GuestThread, bitset: int) -> None:
        self.thread = thread
        self.bitset = bitset
        self.woken = False


class FutexTable:
    """All waiters of a process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[int, deque[_Waiter]] = {}

    def wake(self, address: int, count: int, bitset: int = _ANY) -> int:
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
        kept: list[_Waiter] = []
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
    ) -> int:
        """``deadline`` is in seconds of time.monotonic. Returns 0 or a negative errno."""
        waiter = _Waiter(thread, bitset)
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
            reason = thread.block(deadline, lambda: waiter.woken)
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

    def _leave(self, waiter: _Waiter, address: int, queue: deque[_Waiter]) -> None:
        """Take a waiter out of the queue of an address. The lock is held."""
        queue.remove(waiter)
        if not queue:
            del self.queues[address]

    def requeue(self, address: int, wake: int, target: int, move: int) -> int:
        """Wake ``wake`` waiters and move up to ``move`` others to ``target``. The lock is held."""
        done = self._wake(address, wake, _ANY)
        queue = self.queues.get(address)
        moved = 0
        while queue and moved < move:
            self.queues.setdefault(target, deque()).append(queue.popleft())
            moved += 1
        if queue is not None and not queue and target != address:
            self.queues.pop(address, None)
        return done + moved


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


def futex(
    t: GuestThread, address: int, operation: int, value: int, timeout: int, second: int, third: int
) -> int:
    if address % 4:
        return -errno.EINVAL
    table, memory = t.process.futexes, t.memory
    command = operation & 0x7F
    value &= _ANY
    if command == _WAKE:
        memory.check(address, 4, _READ)
        return table.wake(address, value)
    if command == _WAIT:
        return table.wait(
            t, memory, address, value, _ANY, _deadline(memory, timeout, operation, absolute=False)
        )
    if command == _WAIT_BITSET:
        if not third & _ANY:
            return -errno.EINVAL
        deadline = _deadline(memory, timeout, operation, absolute=True)
        return table.wait(t, memory, address, value, third & _ANY, deadline)
    if command == _WAKE_BITSET:
        return table.wake(address, value, third & _ANY) if third & _ANY else -errno.EINVAL
    # The remaining operations take a second count where a wait has its timeout.
    if command in (_REQUEUE, _CMP_REQUEUE):
        if s32(value) < 0 or s32(timeout) < 0 or second % 4:
            return -errno.EINVAL
        with table.lock:
            if command == _CMP_REQUEUE and memory.load(address, 4) != third & _ANY:
                return -errno.EAGAIN
            return table.requeue(address, value, second, timeout & _ANY)
    if command == _WAKE_OP:
        return _wake_op(t, address, value, timeout & _ANY, second, third & _ANY)
    return -errno.ENOSYS


def _wake_op(t: GuestThread, address: int, value: int, value2: int, second: int, encoded: int) -> int:
    """Change the second word, wake on the first, and on the second if its old value passes the comparison."""
    kind, compare = encoded >> 28 & 7, encoded >> 24 & 15
    argument = s32(encoded << 8) >> 20
    if encoded >> 31:
        argument = 1 << (argument & 31)
    against = s32(encoded << 20) >> 20
    table, memory = t.process.futexes, t.memory
    with table.lock:
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
        woken = table._wake(address, value, _ANY)
        if passed:
            woken += table._wake(second, value2, _ANY)
        return woken


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
