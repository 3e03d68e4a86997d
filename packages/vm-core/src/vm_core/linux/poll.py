"""Waiting for several files: poll, select and epoll; and timers that are files.

Guest descriptors are mapped to host ones for each call; emulated directories and closed numbers are answered here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import time

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32
from vm_core.linux.files import PATH, RESTART_NO_HANDLER, STREAM, File
from vm_core.linux.host import call as host_call
from vm_core.linux.signal import swap_mask
from vm_core.linux.time import pack_timespec, read_timespec, signed_timeout
from vm_core.memory import Access, MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__: list[str] = []

_FD: Final = 0xFFFF_FFFF
_NVAL: Final = select.POLLNVAL
_READY: Final = select.POLLIN | select.POLLOUT | 0x40 | 0x100


def _write_left(
    t: GuestThread, address: int, deadline: float | None, result: int, *, micro: bool = False
) -> int:
    """Linux tells what is left of the time to wait, as a struct timespec, or with ``micro`` timeval; ``result``, which a place
    that cannot be written does not change but where the call would go on waiting."""
    if deadline is None:
        return result
    deadline = t.first_deadline(deadline)
    assert deadline is not None
    left = pack_timespec(max(deadline - time.monotonic(), 0.0))
    if micro:
        seconds, nanoseconds = struct.unpack("<qq", left)
        left = struct.pack("<qq", seconds, nanoseconds // 1000)
    try:
        t.memory.write(address, left)
    except MemoryFault:
        return -errno.EINTR if result == RESTART_NO_HANDLER else result
    return result


def _about_to_wait(file: File) -> None:
    """Whoever makes the descriptor ready may do so from the first wait on (message queues)."""
    polled = getattr(file.socket, "polled", None)
    if polled is not None:
        polled()


def _poll_files(t: GuestThread, wanted: list[tuple[int, int]], deadline: float | None) -> list[int] | None:
    """Ready events of each (guest descriptor, events); None if a signal ended the wait."""
    host: dict[int, int] = {}
    known: list[int | None] = []
    ready_now = False
    for number, events in wanted:
        file = t.table.get(number & _FD) if number >= 0 else None
        if number < 0:
            known.append(0)
        elif file is None:
            known.append(_NVAL)
            ready_now = True
        elif file.fd < 0:
            known.append(events & _READY)
            ready_now = True
        else:
            known.append(None)
            _about_to_wait(file)
            host[file.fd] = host.get(file.fd, 0) | events
    got = t.poll(list(host.items()), 0.0 if ready_now else deadline)
    if got is None:
        return None
    ready = dict(got)
    out = []
    for (number, events), answer in zip(wanted, known, strict=True):
        if answer is not None:
            out.append(answer)
            continue
        file = t.table.get(number & _FD)
        always = select.POLLERR | select.POLLHUP
        out.append(ready.get(file.fd, 0) & (events | always) if file is not None else _NVAL)
    return out


def _poll(t: GuestThread, address: int, count: int, deadline: float | None) -> int:
    if count > max(t.files.limit, 64):
        return -errno.EINVAL
    if count:
        t.memory.check(address, 8 * count, Access.WRITE)
    entries = list(struct.iter_unpack("<ihH", t.memory.read(address, 8 * count)))
    ready = _poll_files(t, [(number, events & 0xFFFF) for number, events, _ in entries], deadline)
    if ready is None:
        return RESTART_NO_HANDLER
    out = b"".join(
        struct.pack("<ihH", *entry[:2], events) for entry, events in zip(entries, ready, strict=True)
    )
    t.memory.write(address, out)
    return sum(1 for events in ready if events)


def poll(t: GuestThread, address: int, count: int, timeout: int) -> int:
    seconds = signed_timeout(timeout & _FD)
    return _poll(t, address, count, None if seconds is None else time.monotonic() + seconds)


def _read_deadline(t: GuestThread, timeout: int) -> tuple[float | None, float | None]:
    """When a wait of a struct timespec ends, and the same if Linux tells what is left of it: not of no time at all.

    Raises MemoryFault and OSError.
    """
    if not timeout:
        return None, None
    seconds = read_timespec(t.memory, timeout)
    deadline = time.monotonic() + seconds
    return deadline, deadline if seconds else None


def ppoll(t: GuestThread, address: int, count: int, timeout: int, mask: int, size: int) -> int:
    deadline, told = _read_deadline(t, timeout)
    if mask:
        if size != 8:
            return -errno.EINVAL
        swap_mask(t, mask)
    return _write_left(t, timeout, told, _poll(t, address, count, deadline))


def _table_size(t: GuestThread) -> int:
    """The descriptors that the kernel's table has room for; select looks at no others."""
    highest = max(t.table, default=0)
    return 64 if highest < 64 else 1 << max(highest, 128).bit_length()


def _select(t: GuestThread, count: int, sets: tuple[int, int, int], deadline: float | None) -> int:
    count = s32(count)
    if count < 0:
        return -errno.EINVAL
    count = min(count, _table_size(t))
    size = (count + 63) // 64 * 8
    masks = [int.from_bytes(t.memory.read(address, size), "little") if address else 0 for address in sets]
    kinds = (select.POLLIN, select.POLLOUT, select.POLLPRI)
    wanted: list[tuple[int, int]] = []
    for number in range(count):
        events = sum(kind for kind, mask in zip(kinds, masks, strict=True) if mask >> number & 1)
        if events:
            if number not in t.table:
                return -errno.EBADF
            wanted.append((number, events))
    ready = _poll_files(t, wanted, deadline)
    if ready is None:
        return RESTART_NO_HANDLER
    hits = (
        select.POLLIN | select.POLLHUP | select.POLLERR,
        select.POLLOUT | select.POLLERR,
        select.POLLPRI,
    )
    total = 0
    for address, mask, hit in zip(sets, masks, hits, strict=True):
        out = 0
        for (number, _), events in zip(wanted, ready, strict=True):
            if mask >> number & 1 and events & hit:
                out |= 1 << number
                total += 1
        if address:
            t.memory.write(address, out.to_bytes(size, "little"))
    return total


def pselect6(
    t: GuestThread, count: int, read: int, write: int, error: int, timeout: int, signals: int
) -> int:
    deadline, told = _read_deadline(t, timeout)
    if signals:
        mask, size = struct.unpack("<QQ", t.memory.read(signals, 16))
        if mask:
            if size != 8:
                return -errno.EINVAL
            swap_mask(t, mask)
    return _write_left(t, timeout, told, _select(t, count, (read, write, error), deadline))


def select_(t: GuestThread, count: int, read: int, write: int, error: int, timeout: int) -> int:
    deadline = None
    if timeout:
        seconds, microseconds = struct.unpack("<qq", t.memory.read(timeout, 16))
        if seconds < 0 or microseconds < 0:
            return -errno.EINVAL
        deadline = time.monotonic() + seconds + microseconds / 1e6
    told = deadline if timeout and (seconds or microseconds) else None
    return _write_left(t, timeout, told, _select(t, count, (read, write, error), deadline), micro=True)


# -- epoll ------------------------------------------------------------------------------------------------------


class _Watched:
    """What an epoll file watches: the host descriptor that stands for each (guest number, file) in the host's set.

    The host's set has the guest's own data and flags, so that edges, one shots and nested sets are the kernel's. It tells
    descriptors apart by number, and two guest numbers of one file share the host's: the second gets a duplicate, which
    the file owns.
    """

    def __init__(self) -> None:
        self.host: dict[tuple[int, int], int] = {}

    def find(self, number: int, file: File) -> int | None:
        return self.host.get((number, id(file)))

    def add(self, number: int, file: File) -> int:
        known = self.find(number, file)
        if known is not None:
            return known
        fd = file.fd
        if fd in self.host.values():
            # A number of a file that is gone may be the host's again.
            gone = [key for key, host in self.host.items() if host == fd and key[1] != id(file)]
            for key in gone:
                del self.host[key]
            if fd in self.host.values():
                fd = os.dup(fd)
                file.extras.append(fd)
        self.host[number, id(file)] = fd
        return fd


_HOST_EVENT: Final = struct.Struct("<IQ" if os.uname().machine in ("x86_64", "AMD64") else "<I4xQ")
_CLOEXEC: Final = 0o2000000
_ADD, _DELETE, _MODIFY = 1, 2, 3
_EXCLUSIVE: Final = 1 << 28
_MOST_EVENTS: Final = 1024
"""Events that one call returns at most; the rest is still there for the next."""


def epoll_create1(t: GuestThread, flags: int) -> int:
    if flags & _FD & ~_CLOEXEC:
        return -errno.EINVAL
    made = select.epoll(flags=os.O_CLOEXEC)
    fd = fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    made.close()
    file = File(fd, 2, path="anon_inode:[eventpoll]", kind=STREAM)
    file.socket = _Watched()
    return t.files.add(file, cloexec=bool(flags & _CLOEXEC))


def epoll_create(t: GuestThread, size: int) -> int:
    return epoll_create1(t, 0) if s32(size) > 0 else -errno.EINVAL


def _watched(t: GuestThread, fd: int) -> tuple[File, _Watched]:
    file = t.table.get(fd & _FD)
    if file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if not isinstance(file.socket, _Watched):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return file, file.socket


def _event_layout(t: GuestThread) -> str:
    return "<IQ" if t.abi.column == "x86_64" else "<I4xQ"


def epoll_ctl(t: GuestThread, epfd: int, operation: int, fd: int, event: int) -> int:
    operation = s32(operation)
    packed: bytes | None = None
    if operation != _DELETE:
        layout = _event_layout(t)
        packed = _HOST_EVENT.pack(*struct.unpack(layout, t.memory.read(event, struct.calcsize(layout))))
    file, target = t.table.get(epfd & _FD), t.table.get(fd & _FD)
    if file is None or target is None:
        return -errno.EBADF
    if target.fd < 0 or target.kind == PATH:
        return -errno.EPERM if target.fd < 0 else -errno.EBADF
    watched = file.socket
    if not isinstance(watched, _Watched) or file is target:
        return -errno.EINVAL
    if operation == _MODIFY and packed is not None and _HOST_EVENT.unpack(packed)[0] & _EXCLUSIVE:
        return -errno.EINVAL
    number = fd & _FD
    if operation == _ADD:
        _about_to_wait(target)
        new = watched.find(number, target) is None
        host = watched.add(number, target)
        try:
            return host_call("epoll_ctl", file.fd, operation, host, packed)
        except OSError:
            if new:
                watched.host.pop((number, id(target)), None)
            raise
    known = watched.find(number, target)
    if known is None:
        return -errno.ENOENT if operation in (_DELETE, _MODIFY) else -errno.EINVAL
    result = host_call("epoll_ctl", file.fd, operation, known, packed)
    if operation == _DELETE:
        del watched.host[number, id(target)]
        if known != target.fd and known in target.extras:
            target.extras.remove(known)
            os.close(known)
    return result


def _epoll(t: GuestThread, epfd: int, result: int, count: int, deadline: float | None) -> int:
    file, _ = _watched(t, epfd)
    layout = _event_layout(t)
    width = struct.calcsize(layout)
    room = ctypes.create_string_buffer(_HOST_EVENT.size * min(count, _MOST_EVENTS))
    if t.process.ipc is not None:
        t.process.ipc.watch()  # a child of a fork has what its parent watched
    while True:
        got = t.poll([(file.fd, select.POLLIN)], deadline)
        if got is None:
            return -errno.EINTR
        if not got:
            return 0
        if file.fd < 0:
            return -errno.EBADF
        # Before they are taken: an event that cannot be told must not be lost.
        t.memory.check(result, width * min(count, _MOST_EVENTS), Access.WRITE)
        # SAFETY: `room` has space for that many events of the host and outlives the call, which does not wait.
        ready = host_call("epoll_pwait", file.fd, room, min(count, _MOST_EVENTS), 0, 0, 8)
        if ready:
            events = _HOST_EVENT.iter_unpack(room.raw[: ready * _HOST_EVENT.size])
            t.memory.write(result, b"".join(struct.pack(layout, *event) for event in events))
            return ready


def _epoll_mask(t: GuestThread, count: int, mask: int, size: int) -> int:
    """The common checks of the calls with a mask; the count, or a negative errno."""
    count = s32(count)
    if not 0 < count <= 0x7FFF_FFFF // struct.calcsize(_event_layout(t)):
        return -errno.EINVAL
    if mask:
        if size != 8:
            return -errno.EINVAL
        swap_mask(t, mask)
    return count


def epoll_pwait(
    t: GuestThread, epfd: int, result: int, count: int, timeout: int, mask: int, size: int
) -> int:
    seconds = signed_timeout(timeout & _FD)
    deadline = None if seconds is None else time.monotonic() + seconds
    wanted = _epoll_mask(t, count, mask, size)
    return wanted if wanted < 0 else _epoll(t, epfd, result, wanted, deadline)


def epoll_pwait2(
    t: GuestThread, epfd: int, result: int, count: int, timeout: int, mask: int, size: int
) -> int:
    deadline = time.monotonic() + read_timespec(t.memory, timeout) if timeout else None
    wanted = _epoll_mask(t, count, mask, size)
    return wanted if wanted < 0 else _epoll(t, epfd, result, wanted, deadline)


def epoll_wait(t: GuestThread, epfd: int, result: int, count: int, timeout: int) -> int:
    return epoll_pwait(t, epfd, result, count, timeout, 0, 8)


# -- timerfd ----------------------------------------------------------------------------------------------------

_TFD_NONBLOCK, _TFD_CLOEXEC = 0o4000, 0o2000000
_TIMERFD: Final = "anon_inode:[timerfd]"
_libc = ctypes.CDLL(None, use_errno=True)  # os.timerfd_create came with Python 3.13


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def timerfd_create(t: GuestThread, clock: int, flags: int) -> int:
    if flags & ~(_TFD_NONBLOCK | _TFD_CLOEXEC):
        return -errno.EINVAL
    fd = _checked(_libc.timerfd_create(s32(clock), _TFD_NONBLOCK | _TFD_CLOEXEC))
    file = File(fd, 2 | (flags & _TFD_NONBLOCK), path=_TIMERFD, kind=STREAM)
    return t.files.add(file, cloexec=bool(flags & _TFD_CLOEXEC))


def _timerfd(t: GuestThread, fd: int) -> File:
    file = t.table.get(fd & _FD)
    if file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.path != _TIMERFD:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return file


def timerfd_settime(t: GuestThread, fd: int, flags: int, new: int, old: int) -> int:
    file = _timerfd(t, fd)
    wanted = ctypes.create_string_buffer(t.memory.read(new, 32), 32)
    before = ctypes.create_string_buffer(32)
    if old:
        t.memory.check(old, 32, Access.WRITE)
    # SAFETY: two buffers of sizeof(struct itimerspec), which is the same on every 64-bit ABI, that outlive the call.
    _checked(_libc.timerfd_settime(file.fd, s32(flags), wanted, before))
    if old:
        t.memory.write(old, before.raw)
    return 0


def timerfd_gettime(t: GuestThread, fd: int, result: int) -> int:
    now = ctypes.create_string_buffer(32)
    # SAFETY: a buffer of sizeof(struct itimerspec) that outlives the call.
    _checked(_libc.timerfd_gettime(_timerfd(t, fd).fd, now))
    t.memory.write(result, now.raw)
    return 0
