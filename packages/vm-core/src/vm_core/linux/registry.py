"""What the processes of one guest know of each other: a little memory that all of them share.

It is made with the first process, and a fork inherits it. It holds a row for each process (for /proc/PID) and one for each
unix socket that is bound to a path (its guest path, by which peers know it, and its inode, by which they may reach it).
Nothing in it is trusted with more than text: a guest cannot write it, its address space is another.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Member", "Registry"]

_PROCESSES: Final = 1024
_PROCESS_BYTES: Final = 4096
_SOCKETS: Final = 1024
_SOCKET: Final = struct.Struct("<20sQQB108s")
_SOCKET_BYTES: Final = 160
_MEMBER: Final = struct.Struct("<i16sHHI")
"""pid, comm, lengths of the executable's path and of the arguments, the time of its row."""
_BYTES: Final = _PROCESSES * _PROCESS_BYTES + _SOCKETS * _SOCKET_BYTES


class Member(NamedTuple):
    """A process of the guest. ``pid`` is the host's too."""

    pid: int
    comm: bytes
    executable: bytes
    arguments: bytes


class Registry:
    """The shared memory. Nothing is allocated before it is needed."""

    def __init__(self) -> None:
        self.token = os.urandom(16)
        """Names of the host that belong to this guest begin with it."""
        self._lock = threading.RLock()
        self._fd = -1
        self._map: mmap.mmap | None = None

    def share(self) -> None:
        """Before the first fork."""
        with self._lock:
            if self._map is None:
                self._fd = os.memfd_create("vm-registry", os.MFD_CLOEXEC)
                os.ftruncate(self._fd, _BYTES)
                self._map = mmap.mmap(self._fd, _BYTES)

    def forked(self) -> None:
        """This is the child; another thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            if self._map is not None:
                self._map.close()
                os.close(self._fd)
                self._map, self._fd = None, -1

    @contextlib.contextmanager
    def _open(self) -> Iterator[mmap.mmap]:
        """The memory, for one process and thread at a time."""
        with self._lock:
            self.share()
            assert self._map is not None
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield self._map
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    # -- processes ----------------------------------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """A process begins, or becomes another program."""
        room = _PROCESS_BYTES - _MEMBER.size
        path = member.executable[:1024]
        arguments = member.arguments[: room - len(path)]
        row = _MEMBER.pack(member.pid, member.comm[:15], len(path), len(arguments), 0) + path + arguments
        with self._open() as memory:
            free = -1
            for at in range(0, _PROCESSES * _PROCESS_BYTES, _PROCESS_BYTES):
                (pid,) = struct.unpack_from("<i", memory, at)
                if pid == member.pid:
                    free = at
                    break
                if free < 0 and (not pid or not _alive(pid)):
                    free = at
                if not pid:
                    break  # a row is 0 only behind the last that was ever taken
            if free >= 0:
                memory[free : free + len(row)] = row

    @staticmethod
    def _find(memory: mmap.mmap, pid: int) -> int:
        for at in range(0, _PROCESSES * _PROCESS_BYTES, _PROCESS_BYTES):
            (here,) = struct.unpack_from("<i", memory, at)
            if here == pid:
                return at
            if not here:
                break
        return -1

    def member(self, pid: int) -> Member | None:
        """What a process has said of itself. Whether it still lives the family knows."""
        if self._map is None or pid <= 0:
            return None
        with self._open() as memory:
            at = self._find(memory, pid)
            return None if at < 0 else self._read(memory, at)

    @staticmethod
    def _read(memory: mmap.mmap, at: int) -> Member:
        pid, comm, path, arguments, _ = _MEMBER.unpack_from(memory, at)
        at += _MEMBER.size
        return Member(
            pid,
            comm.rstrip(b"\0"),
            memory[at : at + path],
            memory[at + path : at + path + arguments],
        )

    # -- unix sockets -------------------------------------------------------------------------------------------

    def bound(self, label: bytes, path: bytes, inode: tuple[int, int]) -> None:
        """A socket has been bound to a guest path; ``label`` is unique, ``inode`` its device and number."""
        row = _SOCKET.pack(label, *inode, len(path[:108]), path[:108])
        with self._open() as memory:
            base = _PROCESSES * _PROCESS_BYTES
            # As a ring: a long-lived guest forgets its oldest.
            (following,) = struct.unpack_from("<I", memory, base + _SOCKETS * _SOCKET_BYTES - 4)
            at = base + following % (_SOCKETS - 1) * _SOCKET_BYTES
            memory[at : at + len(row)] = row
            struct.pack_into(
                "<I", memory, base + _SOCKETS * _SOCKET_BYTES - 4, (following + 1) % (_SOCKETS - 1)
            )

    def _sockets(self) -> Iterator[tuple[bytes, int, int, bytes]]:
        if self._map is None:
            return
        with self._open() as memory:
            base = _PROCESSES * _PROCESS_BYTES
            raw = memory[base : base + (_SOCKETS - 1) * _SOCKET_BYTES]
        for at in range(0, len(raw), _SOCKET_BYTES):
            label, device, number, length, path = _SOCKET.unpack_from(raw, at)
            if not label.rstrip(b"\0"):
                break
            yield label.rstrip(b"\0"), device, number, path[:length]

    def path_of(self, label: bytes) -> bytes | None:
        """The guest path of a bound socket."""
        return next((path for name, _, _, path in self._sockets() if name == label), None)

    def owns(self, inode: tuple[int, int]) -> bool:
        """Whether the guest bound the socket with this device and number."""
        return any((device, number) == inode for _, device, number, _ in self._sockets())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
