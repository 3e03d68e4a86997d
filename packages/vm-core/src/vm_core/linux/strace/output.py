"""Where the lines of a trace go, from all threads of all processes of a guest, and who is in the middle of one.

A call that may wait begins its line when it is made and ends it when it is done. A line of another thread in between cuts it,
as strace does: ``<unfinished ...>``, and later ``<... NAME resumed>``. What the processes must agree on for that (whose line
is open, how many threads there are) is in memory that they share.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from vm_core.log import write_all

__all__ = ["Lines", "Shared"]

_PROCESSES: Final = 4096
_OPEN: Final = struct.Struct("<qd")
"""The thread whose line is open (0: none), and the time of the last line, in seconds."""
_ENTRY: Final = struct.Struct("<ii")
"""A process and how many threads it has."""
_TABLE: Final = 64
_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux."""


class Shared:
    """What the processes of a guest know together. Made by the first one; the others inherit it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _TABLE + _PROCESSES * _ENTRY.size)
        self._lock = threading.RLock()
        self._file = -1
        self._depth = 0
        self.alone = True
        """Whether no process has been forked yet."""

    def will_fork(self) -> None:
        """From now on there may be several processes. Inside :meth:`held`: two threads may fork at once."""
        if self.alone:
            self._file = os.memfd_create("vm-strace", os.MFD_CLOEXEC)
            self.alone = False

    def close(self) -> None:
        """This process is the only one left, or none."""
        fd, self._file, self.alone = self._file, -1, True
        if fd >= 0:
            os.close(fd)

    def forked(self) -> None:
        """In the child of a fork."""
        self._lock = threading.RLock()
        self._depth = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no other thread of any process writes."""
        with self._lock:
            self._depth += 1
            locked = self._depth == 1 and not self.alone
            if locked:
                fcntl.fcntl(self._file, fcntl.F_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
            try:
                yield
            finally:
                self._depth -= 1
                if locked:
                    fcntl.fcntl(self._file, fcntl.F_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0))

    @property
    def opener(self) -> int:
        """The thread whose line is open."""
        return int(_OPEN.unpack_from(self._memory)[0])

    @opener.setter
    def opener(self, tid: int) -> None:
        _OPEN.pack_into(self._memory, 0, tid, self.last)

    @property
    def last(self) -> float:
        """When the last line began, in seconds; 0 before the first."""
        return float(_OPEN.unpack_from(self._memory)[1])

    @last.setter
    def last(self, seconds: float) -> None:
        _OPEN.pack_into(self._memory, 0, self.opener, seconds)

    def _find(self, pid: int) -> int:
        """The place of a process, or of the first free one (also for 0); -1 if all are taken."""
        for at in range(_TABLE, len(self._memory), _ENTRY.size):
            owner, _ = _ENTRY.unpack_from(self._memory, at)
            if owner == pid or not owner:
                return at
        return -1

    def threads(self, pid: int, count: int) -> None:
        """So many threads has the process now; with 0 it is over, and its end has been told."""
        at = self._find(pid)
        if at >= 0:
            _ENTRY.pack_into(self._memory, at, pid, count)

    def told(self, pid: int) -> bool:
        """Whether the end of a process has been told."""
        at = self._find(pid)
        return at >= 0 and _ENTRY.unpack_from(self._memory, at) == (pid, 0)

    def forget(self, pid: int) -> None:
        """Nothing more will come of the process."""
        at = self._find(pid)
        if at >= 0 and _ENTRY.unpack_from(self._memory, at)[0] == pid:
            # The places in use stay together, so that a search ends at the first free one.
            free = self._find(0)
            last = (free if free >= 0 else len(self._memory)) - _ENTRY.size
            self._memory[at : at + _ENTRY.size] = self._memory[last : last + _ENTRY.size]
            _ENTRY.pack_into(self._memory, last, 0, 0)

    @property
    def several(self) -> bool:
        """Whether there is more than one thread."""
        total = 0
        for at in range(_TABLE, len(self._memory), _ENTRY.size):
            pid, count = _ENTRY.unpack_from(self._memory, at)
            total += count
            if not pid or total > 1:
                break
        return total > 1


class Lines:
    """The lines of a trace. One of: ``write`` gets each line; a host descriptor; a path, or a path for each thread.

    Raises OSError.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        write: Callable[[str], None] | None = None,
        fd: int = 2,
        path: str = "",
        separately: bool = False,
    ) -> None:
        self.shared = shared
        self._write = write
        self._owner = os.getpid()
        self._path = path
        self._separately = separately
        self._files: dict[int, int] = {}
        self._open = 0
        self._partial = ""
        self._fd = fd
        self._post: Post | None = None
        if path and not separately:
            self._fd = self._create(path)

    @staticmethod
    def _create(path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(path, flags, 0o666)

    def forked(self) -> None:
        """In the child of a fork."""
        self._open = 0
        self._partial = ""

    def listen(self, post: Post) -> None:
        """In processes other than the first, lines for ``write`` go there."""
        self._post = post

    # -- who is in the middle of a line -----------------------------------------------------------------------------

    def _opener(self) -> int:
        return self._open if self._write is not None else self.shared.opener

    def _set_opener(self, tid: int) -> None:
        if self._write is not None:
            self._open = tid
        else:
            self.shared.opener = tid

    def cut(self, tid: int) -> None:
        """End the line of another thread than ``tid``. The lock is held, as for all that follows."""
        if self._separately:
            return
        opener = self._opener()
        if opener and opener != tid:
            self._emit(opener, " <unfinished ...>\n")
            self._set_opener(0)

    def begin(self, tid: int, text: str) -> None:
        """The first part of a line."""
        self.cut(tid)
        self._emit(tid, text)
        self._set_opener(tid)

    def continues(self, tid: int) -> bool:
        """Whether the line that the thread began is still the last one."""
        return self._separately or self._opener() == tid

    def end(self, tid: int, text: str) -> None:
        """The rest of a line."""
        self._emit(tid, text + "\n")
        self._set_opener(0)

    def line(self, tid: int, text: str) -> None:
        self.cut(tid)
        if self._opener() == tid:
            self._emit(tid, " <unfinished ...>\n")
            self._set_opener(0)
        self._emit(tid, text + "\n")

    # -- writing ------------------------------------------------------------------------------------------------------

    def _emit(self, tid: int, text: str) -> None:
        if self._write is not None:
            self._partial += text
            while "\n" in self._partial:
                line, _, self._partial = self._partial.partition("\n")
                if os.getpid() == self._owner:
                    self._write(line)
                elif self._post is not None:
                    self._post.send(["line", line])
            return
        fd = self._fd
        if self._separately:
            if tid not in self._files:
                self._files[tid] = self._create(f"{self._path}.{tid}")
            fd = self._files[tid]
        write_all(fd, text)

    def left(self, tid: int) -> None:
        """The thread writes nothing more."""
        fd = self._files.pop(tid, -1)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        if self._path and not self._separately and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Post:
    """What processes leave for the first one: JSON, one document a line, in a memory file."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("vm-strace-post", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._seen = 0
        self._rest = b""

    def send(self, document: Any) -> None:
        """Leave something. The lock of the processes is held."""
        data = json.dumps(document).encode() + b"\n"
        os.lseek(self._fd, 0, os.SEEK_END)
        while data:
            data = data[os.write(self._fd, data) :]

    def take(self) -> Iterator[Any]:
        """What has come since the last time, in the first process. The lock is held."""
        while chunk := os.pread(self._fd, 1 << 16, self._seen):
            self._seen += len(chunk)
            self._rest += chunk
        *whole, self._rest = self._rest.split(b"\n")
        for line in whole:
            yield json.loads(line)

    def close(self) -> None:
        os.close(self._fd)
