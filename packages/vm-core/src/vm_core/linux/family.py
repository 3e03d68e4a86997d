"""What the processes of one guest share: who they are, the signals that they send each other, and their names.

Guest processes are host processes (fork(2) is the host's), and a guest may see and signal those of its own family only.
Every member holds a lock on the byte of a memory file that has its pid as offset. The host's kernel drops it when the
member dies, however it dies, so that a pid which is used again is not taken for a member. The lock of another byte guards
what is in the file; nothing there is trusted with more than text, and a guest cannot write it: its memory is another.

The file has a row for each process, with what it says of itself (for /proc/PID) and with its letters. A signal is the
host's, behind a letter that says who sent it and how: siginfo_t is then as exact as inside one process, and real-time
signals queue. Behind the rows are the unix sockets that are bound to a path, and then what :mod:`vm_core.linux.ipc` keeps.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import mmap
import os
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vm_core.hints import Final, NamedTuple
from vm_core.linux.abi import SigInfo
from vm_core.linux.hostthread import wait_until

__all__ = ["FREE_FROM", "MAX_PROCESSES", "Family", "Member", "Reach"]

MAX_PROCESSES: Final = 4096
_COUNT: Final = struct.Struct("<I")
"""At 0: how many rows are in use, which are the first ones."""
_NEXT_SOCKET: Final = 4
_PID: Final = struct.Struct("<i")
_PIDS: Final = 64
"""Offset of the rows' pids. A negative one keeps the row for a child that the process of that number is about to have."""
_ROWS: Final = 32 << 10
_ROW_BYTES: Final = 8192
_HEAD: Final = struct.Struct("<I16sHH")
"""A row: how many letters there are, comm, the lengths of the executable's path and of the arguments."""
_REACH: Final = 28
"""In a row: how its process is to be told of its letters, a Reach."""
_HANDED: Final = 32
"""In a row: how many hands hold letters that its process has taken out, and the guest does not know of yet."""
_LETTERS: Final = 40
_LETTER: Final = struct.Struct("<iiIIQqq")
"""Signal, si_code, si_pid, si_uid, si_value, thread (0: any), unused."""
_TEXT: Final = 2048
_TAKEN_SECONDS: Final = 0.2
"""How long a sender waits for a listener that has more to do than to listen."""
_MOST: Final = (_TEXT - _LETTERS) // _LETTER.size
_SOCKETS: Final = _ROWS + MAX_PROCESSES * _ROW_BYTES
_MOST_SOCKETS: Final = 1023
_SOCKET: Final = struct.Struct("<20sQQB108s")
_SOCKET_BYTES: Final = 160
_BYTES: Final = _SOCKETS + (_MOST_SOCKETS + 1) * _SOCKET_BYTES
FREE_FROM: Final = 64 << 20
"""What lies behind this offset of the file is not the family's own."""
_GUARD: Final = 0
"""Offset of the byte whose lock guards the file. No process has pid 0."""
_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid."""


class Reach(enum.IntEnum):
    """How a member gets the signals of the others."""

    OWN = 0
    """As signals of its host process, which is nothing but the guest."""
    SIGNALS = 1
    """The same, but the host process is a program of the user's: it is not killed or stopped."""
    BELL = 2
    """By the bell, :meth:`Family.ring`."""


class Member(NamedTuple):
    """What a process says of itself. ``pid`` is the host's too."""

    pid: int
    comm: bytes
    executable: bytes
    arguments: bytes


class Family:
    """Made by the first process, when it forks or shares something else by name; its children have it too (:meth:`join`).

    No more than ``most`` processes are in it.
    """

    def __init__(self, most: int = MAX_PROCESSES) -> None:
        self.most = min(most, MAX_PROCESSES)
        self.token = os.urandom(16)
        """Names of the host that belong to this guest begin with it."""
        self.fd = os.memfd_create("vm-family", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, FREE_FROM)
        self._map = mmap.mmap(self.fd, _BYTES)
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """What the member hears that gets no signals of the host; there is one at most, the first."""
        self.first = os.getpid()
        """The pid of the process that began it."""
        self.join()

    def close(self) -> None:
        """The calling process is no member any more, nor uses this."""
        self._map.close()
        os.close(self.bell)
        os.close(self.fd)

    def join(self) -> None:
        """The calling process is a member from now on."""
        # Another thread of the parent may have held it.
        self._lock = threading.RLock()
        self._depth = 0
        pid = os.getpid()
        self._lock_byte(pid)
        self.expect(pid)

    # -- who is there -------------------------------------------------------------------------------------------

    def reserve(self) -> bool:
        """Keep a row for a child of this process; False if there are too many processes."""
        with self.held():
            if self.size() >= self.most:
                for pid in self._pids():
                    # One that has not joined yet holds nothing, but is there; and so is one that nobody has waited for.
                    if not self._holds(abs(pid)) and not _exists(abs(pid)):
                        self._drop(pid)
            if self.size() >= self.most:
                return False
            self._append(-os.getpid())
            return True

    def release(self) -> None:
        """There is no child for the row that :meth:`reserve` kept."""
        with self.held():
            self._drop(-os.getpid())

    def expect(self, pid: int, *, reserved: bool = False) -> None:
        """There is a process ``pid``, which joins or will."""
        with self.held():
            if reserved:
                self._drop(-os.getpid())
            if pid not in self._pids():
                self._append(pid)
                # Until it says something of itself, it is what its parent is.
                at, mine = self._row(pid), self._row(os.getpid())
                if reserved and min(at, mine) >= 0:
                    self._map[at : at + _ROW_BYTES] = self._map[mine : mine + _ROW_BYTES]
                    _, *rest = _HEAD.unpack_from(self._map, at)
                    _HEAD.pack_into(self._map, at, 0, *rest)
                    self._begin_row(at)

    def forget(self, pid: int) -> None:
        """The process is over, and nobody else has the pid yet (it has not been waited for)."""
        with self.held():
            self._drop(pid)

    def size(self) -> int:
        """How many processes there are, with those that are about to be and those that have not been waited for."""
        with self.held():
            return int(_COUNT.unpack_from(self._map, 0)[0])

    def members(self) -> list[int]:
        """The pids of all members, the first's first."""
        with self.held():
            pids = self._pids()
        return [pid for pid in pids if pid > 0 and (pid == os.getpid() or self._holds(pid))]

    def has(self, pid: int) -> bool:
        """Whether that process is a member now."""
        return pid > 0 and (pid == os.getpid() or self._holds(pid))

    def describe(self, member: Member) -> None:
        """A process of the family begins, or becomes another program."""
        path = member.executable[:1024]
        arguments = member.arguments[: _ROW_BYTES - _TEXT - len(path)]
        with self.held():
            at = self._row(member.pid)
            if at >= 0:
                letters, *_ = _HEAD.unpack_from(self._map, at)
                _HEAD.pack_into(self._map, at, letters, member.comm[:15], len(path), len(arguments))
                text = path + arguments
                self._map[at + _TEXT : at + _TEXT + len(text)] = text

    def member(self, pid: int) -> Member | None:
        """What a process has said of itself. Whether it still lives :meth:`has` knows."""
        with self.held():
            at = self._row(pid)
            if pid <= 0 or at < 0:
                return None
            _, comm, path, arguments = _HEAD.unpack_from(self._map, at)
            text = self._map[at + _TEXT : at + _TEXT + path + arguments]
        return Member(pid, comm.rstrip(b"\0"), text[:path], text[path:])

    # -- signals ------------------------------------------------------------------------------------------------

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
            reach, at_once = self._reach(pid), info.number in (signal.SIGKILL, signal.SIGSTOP)
            if reach is not Reach.OWN and info.number == signal.SIGSTOP:
                return 0  # a program of the user's is not stopped
            posted = (at_once and reach is Reach.OWN) or self._post(pid, info, tid)
            if reach is Reach.BELL:
                self.ring()
                if not posted:
                    return -errno.EAGAIN
                self._wait_until_taken(pid)
                return 0
            # The letter is what kills; any signal that the host process handles tells of it.
            number = info.number if not at_once or reach is Reach.OWN else signal.SIGCHLD
            signal.pidfd_send_signal(process, number)
        except ProcessLookupError:
            return -errno.ESRCH
        finally:
            os.close(process)
        return 0

    def _wait_until_taken(self, pid: int) -> None:
        """A signal is there when the call that sends it returns: what its sender does next, and the other sees, comes after."""

        def taken() -> bool:
            with self.held():
                at = self._row(pid)
                return at < 0 or not any(
                    _COUNT.unpack_from(self._map, at + field)[0] for field in (0, _HANDED)
                )

        wait_until(taken, _TAKEN_SECONDS)

    def reached_by(self, reach: Reach) -> None:
        """How the calling process gets its signals from now on."""
        with self.held():
            at = self._row(os.getpid())
            if at >= 0:
                _COUNT.pack_into(self._map, at + _REACH, reach)

    def _reach(self, pid: int) -> Reach:
        with self.held():
            at = self._row(pid)
            return Reach(_COUNT.unpack_from(self._map, at + _REACH)[0]) if at >= 0 else Reach.OWN

    def ring(self) -> None:
        """Have the member that listens look for letters, and at its children."""
        os.eventfd_write(self.bell, 1)

    def received(self, number: int = 0) -> list[tuple[SigInfo, int]]:
        """The letters that came with a signal (0: all), and the thread that each is for (0: any). If there are some, the caller says
        :meth:`handed_out` when the guest knows of them."""
        out = []
        with self.held():
            at = self._row(os.getpid())
            if at < 0:
                return []
            (count,) = _COUNT.unpack_from(self._map, at)
            kept = bytearray()
            letters = self._map[at + _LETTERS : at + _LETTERS + count * _LETTER.size]
            for start in range(0, len(letters), _LETTER.size):
                found, code, sender, uid, value, tid, _ = _LETTER.unpack_from(letters, start)
                if number in (0, found):
                    out.append((SigInfo(found, code, pid=sender, uid=uid, value=value), tid))
                else:
                    kept += letters[start : start + _LETTER.size]
            _COUNT.pack_into(self._map, at, len(kept) // _LETTER.size)
            self._map[at + _LETTERS : at + _LETTERS + len(kept)] = bytes(kept)
            if out:
                self._hands(at, 1)
        return out

    def handed_out(self) -> None:
        """The guest knows of the letters that :meth:`received` has given."""
        with self.held():
            at = self._row(os.getpid())
            if at >= 0:
                self._hands(at, -1)

    def _hands(self, at: int, more: int) -> None:
        (hands,) = _COUNT.unpack_from(self._map, at + _HANDED)
        _COUNT.pack_into(self._map, at + _HANDED, max(hands + more, 0))

    def _post(self, pid: int, info: SigInfo, tid: int) -> bool:
        """Write a letter; without room for one, a signal of the host arrives all the same, as one whose sender is not known."""
        with self.held():
            at = self._row(pid)
            if at < 0:
                return False
            (count,) = _COUNT.unpack_from(self._map, at)
            if count >= _MOST:
                return False
            value = info.value & (1 << 64) - 1
            letter = (info.number, info.code, info.pid, info.uid, value, tid, 0)
            _LETTER.pack_into(self._map, at + _LETTERS + count * _LETTER.size, *letter)
            _COUNT.pack_into(self._map, at, count + 1)
        return True

    # -- unix sockets -------------------------------------------------------------------------------------------

    def bound(self, label: bytes, path: bytes, inode: tuple[int, int]) -> None:
        """A socket has been bound to a guest path, by which peers know it; ``label`` is unique, ``inode`` its device and number,
        by which they may reach it."""
        row = _SOCKET.pack(label, *inode, len(path[:108]), path[:108])
        with self.held():
            # As a ring: a long-lived guest forgets its oldest.
            (following,) = _COUNT.unpack_from(self._map, _NEXT_SOCKET)
            at = _SOCKETS + following % _MOST_SOCKETS * _SOCKET_BYTES
            self._map[at : at + len(row)] = row
            _COUNT.pack_into(self._map, _NEXT_SOCKET, (following + 1) % _MOST_SOCKETS)

    def _sockets(self) -> Iterator[tuple[bytes, int, int, bytes]]:
        with self.held():
            raw = self._map[_SOCKETS : _SOCKETS + _MOST_SOCKETS * _SOCKET_BYTES]
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

    # -- rows and locks -----------------------------------------------------------------------------------------

    def _pids(self) -> list[int]:
        (count,) = _COUNT.unpack_from(self._map, 0)
        return list(struct.unpack_from(f"<{count}i", self._map, _PIDS))

    def _row(self, pid: int) -> int:
        """The offset of a process's row, -1 without one."""
        pids = self._pids()
        return _ROWS + pids.index(pid) * _ROW_BYTES if pid in pids else -1

    def _append(self, pid: int) -> None:
        (count,) = _COUNT.unpack_from(self._map, 0)
        if count < MAX_PROCESSES:
            _PID.pack_into(self._map, _PIDS + count * _PID.size, pid)
            _HEAD.pack_into(self._map, _ROWS + count * _ROW_BYTES, 0, b"", 0, 0)
            self._begin_row(_ROWS + count * _ROW_BYTES)
            _COUNT.pack_into(self._map, 0, count + 1)

    def _begin_row(self, at: int) -> None:
        _COUNT.pack_into(self._map, at + _REACH, Reach.OWN)
        _COUNT.pack_into(self._map, at + _HANDED, 0)

    def _drop(self, pid: int) -> None:
        """Those in use stay together: the last row takes the place."""
        pids = self._pids()
        if pid in pids:
            at, last = pids.index(pid), len(pids) - 1
            _PID.pack_into(self._map, _PIDS + at * _PID.size, pids[last])
            if at != last:
                place, source = _ROWS + at * _ROW_BYTES, _ROWS + last * _ROW_BYTES
                self._map[place : place + _ROW_BYTES] = self._map[source : source + _ROW_BYTES]
            _COUNT.pack_into(self._map, 0, last)

    def _lock_byte(self, at: int, kind: int = fcntl.F_WRLCK) -> None:
        fcntl.fcntl(self.fd, fcntl.F_SETLKW, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))

    def _holds(self, pid: int) -> bool:
        """Whether another process with that pid is a member."""
        if pid <= 0:
            return False
        found = fcntl.fcntl(self.fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, pid, 1, 0))
        kind, _, _, _, holder = _FLOCK.unpack(found)
        return bool(kind != fcntl.F_UNLCK and holder == pid)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no other process changes the file. A signal handler of Python may come in between: the lock is the process's,
        so it is given back by the outermost only. And it takes :attr:`Process.lock`, so nobody who has that one may want this."""
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


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
