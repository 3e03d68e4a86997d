"""The processes of one guest: which pids are among them, and the signals that they send to each other.

Guest processes are host processes (fork(2) is the host's), and a guest may see and signal those of its own family only.
Every member holds a lock on the byte of a memory file that has its pid as offset. The host's kernel drops it when the
member dies, however it dies, so that a pid which is used again is not taken for a member.

A signal is the host's, behind a letter in shared memory that says who sent it and how: siginfo_t is then as exact as inside
one process, and real-time signals queue. The lock of another byte guards the letters.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vm_core.linux.abi import SigInfo

__all__ = ["MAX_PROCESSES", "Family"]

MAX_PROCESSES: Final = 4096
_HEAD: Final = struct.Struct("<qII")
"""A box: the pid, how many letters there are, unused."""
_LETTER: Final = struct.Struct("<iiIIQqq")
"""Signal, si_code, si_pid, si_uid, si_value, thread (0: any), unused."""
_BOX: Final = 2048
_MOST: Final = (_BOX - _HEAD.size) // _LETTER.size
_GUARD: Final = 0
"""Offset of the byte whose lock guards the boxes. No process has pid 0."""
_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid."""


class Family:
    """Made by the first process that forks; its children have it too (:meth:`join`)."""

    def __init__(self) -> None:
        self._boxes = mmap.mmap(-1, MAX_PROCESSES * _BOX)
        self._fd = os.memfd_create("vm-family", os.MFD_CLOEXEC)
        self._lock = threading.RLock()
        self._depth = 0
        self._box = -1
        self.first = os.getpid()
        """The pid of the process that began it."""
        self.join()

    def close(self) -> None:
        """The calling process is no member any more, nor uses this."""
        self._boxes.close()
        os.close(self._fd)

    def join(self) -> None:
        """The calling process is a member from now on."""
        self._lock = threading.RLock()
        self._depth = 0
        pid = os.getpid()
        self._lock_byte(pid)
        self._box = self.expect(pid)

    def expect(self, pid: int) -> int:
        """There is a process ``pid``, which joins or will; returns the number of its box, -1 if there are too many."""
        with self._held():
            free = -1
            for number in range(MAX_PROCESSES):
                owner = self._owner(number)
                if owner == pid:
                    return number
                if not owner:
                    free = number if free < 0 else free
                    break
            if free < 0:
                free = next((n for n in range(MAX_PROCESSES) if not self._holds(self._owner(n))), -1)
            if free >= 0:
                _HEAD.pack_into(self._boxes, free * _BOX, pid, 0, 0)
            return free

    def forget(self, pid: int) -> None:
        """The process is over, and nobody else has the pid yet (it has not been waited for)."""
        with self._held():
            number = self._number(pid)
            if number >= 0:
                last = self._last()
                if last > number:
                    # The boxes in use stay together, so that looking one up ends at the first free one.
                    at = last * _BOX
                    self._boxes[number * _BOX : (number + 1) * _BOX] = self._boxes[at : at + _BOX]
                _HEAD.pack_into(self._boxes, max(last, number) * _BOX, 0, 0, 0)

    def members(self) -> list[int]:
        """The pids of all members, the first's first."""
        with self._held():
            pids = [self._owner(number) for number in range(self._last() + 1)]
        return [pid for pid in pids if pid == os.getpid() or self._holds(pid)]

    def has(self, pid: int) -> bool:
        """Whether that process is a member now."""
        return pid > 0 and (pid == os.getpid() or self._holds(pid))

    def send(self, pid: int, info: SigInfo, *, tid: int = 0, child: bool = False) -> int:
        """Send a signal to another member; 0, or a negative errno. Number 0 only looks. ``child``: it is one that the caller has
        not waited for, so the pid is not another's."""
        try:
            # Whoever has the pid now: the look whether it is a member comes after.
            process = os.pidfd_open(pid)
        except OSError as error:
            return -(error.errno or errno.ESRCH)
        try:
            if not child and not self._holds(pid):
                return -errno.ESRCH
            if not info.number:
                return 0
            if info.number not in (signal.SIGKILL, signal.SIGSTOP):
                self._post(pid, info, tid)
            signal.pidfd_send_signal(process, info.number)
        except ProcessLookupError:
            return -errno.ESRCH
        finally:
            os.close(process)
        return 0

    def received(self, number: int) -> list[tuple[SigInfo, int]]:
        """The letters that came with a signal, and the thread that each is for (0: any)."""
        out = []
        with self._held():
            if self._owner(self._box) != os.getpid():
                self._box = self._number(os.getpid())
            if self._box < 0:
                return []
            at = self._box * _BOX
            pid, count, _ = _HEAD.unpack_from(self._boxes, at)
            kept = bytearray()
            letters = self._boxes[at + _HEAD.size : at + _HEAD.size + count * _LETTER.size]
            for start in range(0, len(letters), _LETTER.size):
                found, code, sender, uid, value, tid, _ = _LETTER.unpack_from(letters, start)
                if found == number:
                    out.append((SigInfo(number, code, pid=sender, uid=uid, value=value), tid))
                else:
                    kept += letters[start : start + _LETTER.size]
            _HEAD.pack_into(self._boxes, at, pid, len(kept) // _LETTER.size, 0)
            self._boxes[at + _HEAD.size : at + _HEAD.size + len(kept)] = bytes(kept)
        return out

    # -- boxes and locks ----------------------------------------------------------------------------------------

    def _post(self, pid: int, info: SigInfo, tid: int) -> None:
        with self._held():
            number = self._number(pid)
            if number < 0:
                return
            at = number * _BOX
            _, count, _ = _HEAD.unpack_from(self._boxes, at)
            if count >= _MOST:
                return  # it arrives all the same, as one whose sender is not known
            place = at + _HEAD.size + count * _LETTER.size
            _LETTER.pack_into(
                self._boxes,
                place,
                info.number,
                info.code,
                info.pid,
                info.uid,
                info.value & (1 << 64) - 1,
                tid,
                0,
            )
            _HEAD.pack_into(self._boxes, at, pid, count + 1, 0)

    def _owner(self, number: int) -> int:
        return int(_HEAD.unpack_from(self._boxes, number * _BOX)[0]) if number >= 0 else 0

    def _number(self, pid: int) -> int:
        for number in range(MAX_PROCESSES):
            owner = self._owner(number)
            if owner == pid:
                return number
            if not owner:
                break
        return -1

    def _last(self) -> int:
        """The number of the last box in use."""
        number = 0
        while number < MAX_PROCESSES and self._owner(number):
            number += 1
        return number - 1

    def _lock_byte(self, at: int, kind: int = fcntl.F_WRLCK) -> None:
        wait = fcntl.F_SETLKW
        fcntl.fcntl(self._fd, wait, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))

    def _holds(self, pid: int) -> bool:
        """Whether another process with that pid is a member."""
        if pid <= 0:
            return False
        found = fcntl.fcntl(self._fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, pid, 1, 0))
        kind, _, _, _, holder = _FLOCK.unpack(found)
        return bool(kind != fcntl.F_UNLCK and holder == pid)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Inside, no other process changes the boxes. A signal handler of Python may come in between: the lock is the process's,
        so it is given back by the outermost only."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._lock_byte(_GUARD)
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._lock_byte(_GUARD, fcntl.F_UNLCK)
