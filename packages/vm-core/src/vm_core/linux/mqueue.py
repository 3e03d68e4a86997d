"""POSIX message queues of the guest's own name space (:mod:`vm_core.linux.ipc`).

A queue's descriptor can be polled, as on Linux: its host descriptor is an eventfd that the process keeps as ready as the queue is,
from the first time that somebody waits for it on. What other processes do it hears of from a thread (:meth:`Ipc.watch`).

mq_open(3), mq_unlink(3), mq_send(3), mq_receive(3), mq_notify(3), mq_getattr(3), mq_overview(7).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import struct
import time
from collections.abc import Sequence

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux import limits
from vm_core.linux.abi import SigInfo, s32, s64
from vm_core.linux.files import RESTART, SOCKET, SPECIAL, File
from vm_core.linux.ipc import QUEUE, Entry, Ipc, wait
from vm_core.linux.time import read_timespec

if TYPE_CHECKING:
    from vm_core.linux.net import Endpoint
    from vm_core.linux.process import GuestThread

__all__ = ["Queue"]

_CREATE, _EXCLUSIVE, _NONBLOCK, _ACCESS = 0o100, 0o200, 0o4000, 3
_MOST_NAME, _MOST_MESSAGES, _MOST_BYTES, _MOST_PRIORITY = 255, 10, 8192, 32768
_OVERHEAD: Final = 56
"""Bytes that Linux counts for a message against RLIMIT_MSGQUEUE: a struct msg_msg, and a pointer to it."""
_MESSAGE: Final = struct.Struct("<II")
"""Before each: its priority and size. They lie in the order in which they are received."""
_ATTRIBUTES: Final = struct.Struct("<4q32x")
"""struct mq_attr: flags, maxmsg, msgsize, curmsgs."""
_EVENT: Final = struct.Struct("<Qii")
"""struct sigevent: sigev_value, sigev_signo, sigev_notify."""
_BY_SIGNAL, _NONE, _BY_THREAD = 0, 1, 2
_NOTICE_BYTES, _COME, _REMOVED = 32, 1, 2
"""NOTIFY_COOKIE_LEN, NOTIFY_WOKENUP and NOTIFY_REMOVED of linux/mqueue.h: what mq_notify(3) makes a thread of."""
_BY_NOTICE: Final = -1
_FULL: Final = (1 << 64) - 2
"""The most that an eventfd counts to: nothing can be written then."""
_SI_MESGQ: Final = -3
_SHOWN: Final = struct.Struct("<q")
_GONE: Final = 0o10000
"""In an entry's mode: it has no name any more."""

# In an entry: ``size`` is the size of a message, ``a`` how many there may be, ``b`` how many there are, in ``c`` bytes; ``pid`` is to be
# told of the next one by signal ``last_pid`` (0: not at all, -1: by a notice to a socket) with value ``d``; ``second`` counts what was
# sent and received.


class Queue:
    """An open queue: File.socket."""

    def __init__(self, ipc: Ipc, entry: Entry) -> None:
        self._ipc, self.index, self.id = ipc, entry.index, entry.id
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._polled = False
        self._shown = mmap.mmap(-1, _SHOWN.size)
        """Shared with the children of forks, as the eventfd is: which change of the queue it shows, counted from 1."""
        self.notice: tuple[File, Endpoint, bytes] | None = None
        """Whom this process has asked to tell of a message, and how."""
        ipc.queues.append(self)

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know what other processes do to it."""
        return self._polled or self.notice is not None

    def polled(self) -> None:
        """Somebody is about to wait for the descriptor."""
        if not self._polled:
            self._polled = True
            with self._ipc.held():
                self.look()
        self._ipc.watch()

    def look(self) -> None:
        """Make the descriptor as ready as the queue, and give notice of a message that has come. The family's lock is held."""
        entry = self.entry()
        if entry.kind != QUEUE or entry.id != self.id:
            return
        if self._polled and _SHOWN.unpack_from(self._shown)[0] != entry.second + 1:
            # Once for each change, or epoll would tell of more edges than there are.
            _SHOWN.pack_into(self._shown, 0, entry.second + 1)
            with contextlib.suppress(OSError):
                os.eventfd_read(self.fd)
            if entry.b:
                with contextlib.suppress(OSError):
                    os.eventfd_write(self.fd, _FULL if entry.b == entry.a else 1)
        if self.notice is not None and (entry.pid, entry.last_pid) != (os.getpid(), _BY_NOTICE):
            self.give_notice(_COME)

    def give_notice(self, what: int) -> None:
        """Send what was asked for, which is over then."""
        notice, self.notice = self.notice, None
        if notice is not None:
            file, endpoint, cookie = notice
            if file.refs:
                endpoint.notify(cookie[:-1] + bytes([what]))

    def entry(self) -> Entry:
        return Entry(self._ipc, self.index)

    def read(self, _t: GuestThread, _file: File, _windows: Sequence[memoryview]) -> int:
        return -errno.EINVAL

    def write(self, _t: GuestThread, _file: File, _windows: Sequence[memoryview]) -> int:
        return -errno.EINVAL

    def closed(self) -> None:
        """The last descriptor of this process is gone."""
        ipc = self._ipc
        if not ipc.address:
            return  # and so is the process
        with ipc.held():
            ipc.queues.remove(self)
            entry = self.entry()
            if entry.kind != QUEUE or entry.id != self.id:
                return
            ipc.use(entry, -1)
            if entry.pid == os.getpid():
                _unregister(ipc, entry)
                self.give_notice(_REMOVED)
            if entry.mode & _GONE and not ipc.users(entry):
                ipc.remove(entry)


def _unregister(ipc: Ipc, entry: Entry) -> None:
    """This process is not told of a message. The family's lock is held."""
    entry.pid = 0
    entry.save()
    for queue in ipc.queues:
        if (queue.index, queue.id) == (entry.index, entry.id):
            queue.give_notice(_REMOVED)


def _look(ipc: Ipc, entry: Entry) -> None:
    """This process has changed a queue. The family's lock is held."""
    for queue in ipc.queues:
        if queue.index == entry.index and queue.watched:
            queue.look()


def _name(t: GuestThread, address: int) -> bytes:
    """Raises OSError."""
    name = os.fsencode(t.path(address))
    if len(name) > _MOST_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not name:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if b"/" in name or name in (b".", b".."):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return name


def _find(ipc: Ipc, name: bytes) -> Entry | None:
    return next((e for e in ipc.entries(QUEUE) if not e.mode & _GONE and e.name == name), None)


def mq_open(t: GuestThread, address: int, flags: int, mode: int, attributes: int) -> int:
    flags = s32(flags)
    most, size = _MOST_MESSAGES, _MOST_BYTES
    if flags & _CREATE and attributes:
        _, most, size, _ = _ATTRIBUTES.unpack(t.memory.read(attributes, _ATTRIBUTES.size))
    name = _name(t, address)
    if flags & _ACCESS == _ACCESS:
        return -errno.EINVAL
    ipc = Ipc.of(t.process)
    with ipc.held():
        entry = _find(ipc, name)
        if entry is not None:
            if flags & _CREATE and flags & _EXCLUSIVE:
                return -errno.EEXIST
            if not entry.allows((4, 2, 6)[flags & _ACCESS]):
                return -errno.EACCES
        else:
            if not flags & _CREATE:
                return -errno.ENOENT
            if not 0 < most <= _MOST_MESSAGES or not 0 < size <= _MOST_BYTES:
                return -errno.EINVAL
            held = sum(e.a * (e.size + _OVERHEAD) for e in ipc.entries(QUEUE) if e.uid == os.geteuid())
            if held + most * (size + _OVERHEAD) > limits.soft(t.process, limits.MSGQUEUE):
                return -errno.EMFILE
            entry = ipc.make(QUEUE, mode & 0o777 & ~t.files.umask, most * (size + _MESSAGE.size))
            if entry is None:
                return -errno.ENOSPC
            entry.size, entry.a, entry.name = size, most, name
            entry.save()
        if not ipc.use(entry):
            return -errno.ENOSPC
        queue = Queue(ipc, entry)
        file = File(queue.fd, flags & (_ACCESS | _NONBLOCK), path=f"/{os.fsdecode(name)}", kind=SPECIAL)
        file.socket, file.mode = queue, stat.S_IFREG | entry.mode & 0o777
    return t.files.add(file, cloexec=True)


def mq_unlink(t: GuestThread, address: int) -> int:
    name, ipc = _name(t, address), Ipc.of(t.process)
    with ipc.held():
        entry = _find(ipc, name)
        if entry is None:
            return -errno.ENOENT
        if not entry.owned():
            return -errno.EACCES
        entry.mode |= _GONE
        entry.save()
        if not ipc.users(entry):
            ipc.remove(entry)
    return 0


def _opened(t: GuestThread, fd: int) -> tuple[File, Queue]:
    """Raises OSError."""
    file = t.table.get(fd & 0xFFFF_FFFF)
    if file is None or not isinstance(file.socket, Queue):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return file, file.socket


def _deadline(t: GuestThread, timeout: int) -> float | None:
    """A time of CLOCK_REALTIME as one of time.monotonic."""
    return time.monotonic() + read_timespec(t.memory, timeout) - time.time() if timeout else None


def mq_timedsend(t: GuestThread, fd: int, address: int, size: int, priority: int, timeout: int) -> int:
    priority &= 0xFFFF_FFFF
    deadline = _deadline(t, timeout)
    if priority >= _MOST_PRIORITY:
        return -errno.EINVAL
    file, queue = _opened(t, fd)
    if file.flags & _ACCESS == os.O_RDONLY:
        return -errno.EBADF
    if size > queue.entry().size:
        return -errno.EMSGSIZE
    data, ipc = t.memory.read(address, size), Ipc.of(t.process)
    while True:
        with ipc.held():
            entry = queue.entry()
            if entry.b < entry.a:
                raw, at = entry.read(entry.c), 0
                while at < len(raw):
                    before, length = _MESSAGE.unpack_from(raw, at)
                    if before < priority:
                        break
                    at += _MESSAGE.size + length
                entry.write(_MESSAGE.pack(priority, size) + data + raw[at:], at)
                entry.b, entry.c = entry.b + 1, entry.c + _MESSAGE.size + size
                entry.second += 1
                told = _tell(t, entry) if entry.b == 1 else None
                entry.save()
                entry.changed()
                _look(ipc, entry)
                break
            if file.flags & _NONBLOCK:
                return -errno.EAGAIN
            seen = entry.changes()
        if (result := wait(t, ipc, entry, seen, deadline)) < 0:
            return RESTART if result == -errno.EINTR else result
    if told is not None:
        pid, info = told
        if pid == t.process.pid:
            t.process.send(info)
        else:
            ipc.family.send(pid, info)
    return 0


def _tell(t: GuestThread, entry: Entry) -> tuple[int, SigInfo] | None:
    """Who is to be told of the first message of an empty queue, once. The family's lock is held."""
    if not entry.pid or entry.first:
        return None  # nobody, or somebody waits for the message
    pid, entry.pid = entry.pid, 0
    if entry.last_pid <= 0:
        return None  # or the process sees for itself that this has been done
    return pid, SigInfo(entry.last_pid, _SI_MESGQ, pid=t.process.pid, uid=os.getuid(), value=entry.d)


def mq_timedreceive(t: GuestThread, fd: int, address: int, size: int, priority: int, timeout: int) -> int:
    deadline = _deadline(t, timeout)
    file, queue = _opened(t, fd)
    if file.flags & _ACCESS == os.O_WRONLY:
        return -errno.EBADF
    if size < queue.entry().size:
        return -errno.EMSGSIZE
    ipc, waits = Ipc.of(t.process), 0
    while True:
        with ipc.held():
            entry = queue.entry()
            entry.first = max(entry.first - waits, 0)
            waits = 0
            if entry.b:
                raw = entry.read(entry.c)
                said, length = _MESSAGE.unpack_from(raw)
                end = _MESSAGE.size + length
                data = raw[_MESSAGE.size : end]
                entry.write(raw[end:])
                entry.b, entry.c = entry.b - 1, entry.c - end
                entry.second += 1
                entry.save()
                entry.changed()
                _look(ipc, entry)
                break
            if file.flags & _NONBLOCK:
                return -errno.EAGAIN
            # How many wait here: with one, nobody is told of a message.
            waits = 1
            entry.first += 1
            entry.save()
            seen = entry.changes()
        if (result := wait(t, ipc, entry, seen, deadline)) < 0:
            with ipc.held():
                entry = queue.entry()
                entry.first = max(entry.first - 1, 0)
                entry.save()
            return RESTART if result == -errno.EINTR else result
    t.memory.write(address, data)
    if priority:
        t.memory.store(priority, 4, said)
    return len(data)


def mq_notify(t: GuestThread, fd: int, event: int) -> int:
    value, number, how = _EVENT.unpack(t.memory.read(event, _EVENT.size)) if event else (0, 0, _NONE)
    told: tuple[File, Endpoint, bytes] | None = None
    if event:
        if how not in (_BY_SIGNAL, _NONE, _BY_THREAD):
            return -errno.EINVAL
        if how == _BY_SIGNAL and not 0 < number <= 64:
            return -errno.EINVAL
        if how == _BY_THREAD:
            told = _noticed(t, number, t.memory.read(value, _NOTICE_BYTES))
    _, queue = _opened(t, fd)
    ipc = Ipc.of(t.process)
    with ipc.held():
        entry = queue.entry()
        _look(ipc, entry)
        if not event:
            if entry.pid == os.getpid():
                _unregister(ipc, entry)
            return 0
        if entry.pid and ipc.family.has(entry.pid):
            return -errno.EBUSY
        queue.notice = told
        by = number if how == _BY_SIGNAL else _BY_NOTICE if told is not None else 0
        entry.pid, entry.last_pid, entry.d = os.getpid(), by, s64(value)
        entry.save()
    ipc.watch()
    return 0


def _noticed(t: GuestThread, fd: int, cookie: bytes) -> tuple[File, Endpoint, bytes]:
    """Whom to tell by a socket, as mq_notify(3) of the C library asks for a thread. Raises OSError."""
    from vm_core.linux.net import Endpoint

    file = t.table.get(fd & 0xFFFF_FFFF)
    if file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.kind != SOCKET:
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    if not isinstance(file.socket, Endpoint) or file.socket.mate is None:
        # Also for one that has been used for anything else, as no C library's is.
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return file, file.socket, cookie


def mq_getsetattr(t: GuestThread, fd: int, new: int, old: int) -> int:
    wanted = 0
    if new:
        wanted, *_ = _ATTRIBUTES.unpack(t.memory.read(new, _ATTRIBUTES.size))
        if wanted & ~_NONBLOCK:
            return -errno.EINVAL
    file, queue = _opened(t, fd)
    entry = queue.entry()
    flags = file.flags & _NONBLOCK
    if new:
        file.flags = file.flags & ~_NONBLOCK | wanted
    if old:
        t.memory.write(old, _ATTRIBUTES.pack(flags, entry.a, entry.size, entry.b))
    return 0
