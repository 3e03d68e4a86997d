"""Files that tell of events: signals (signalfd) and changes of files (inotify).

signalfd(2), inotify(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import struct
from collections.abc import Sequence

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import SigInfo, s32
from vm_core.linux.children import PidFile
from vm_core.linux.files import SPECIAL, STREAM, File, wait_for
from vm_core.linux.host import call as host_call
from vm_core.linux.signal import bit, take

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["SignalFile"]

_FD: Final = 0xFFFF_FFFF
_AT_FDCWD: Final = -100
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_UNBLOCKABLE: Final = bit(9) | bit(19)

# -- signalfd ---------------------------------------------------------------------------------------------------

_SIGINFO: Final = struct.Struct("<IiiIIiIIIIiiQQQQHHiQI28x")
"""struct signalfd_siginfo."""


def _packed(info: SigInfo) -> bytes:
    value = info.value & 0xFFFF_FFFF
    fault = info.number in (4, 5, 7, 8, 11) and info.code > 0
    child = info.number == 17 and info.code > 0
    return _SIGINFO.pack(
        info.number, 0, info.code, 0 if fault else info.pid, 0 if fault else info.uid, 0,
        info.pid if info.code == -2 else 0, 0, info.uid if info.code == -2 else 0, 0,
        s32(value) if child else 0, 0 if child else s32(value), 0 if child else info.value & (1 << 64) - 1,
        0, 0, info.address if fault else 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


class SignalFile:
    """The signals that one signalfd reads. Its host descriptor is an eventfd that is readable while there are some."""

    def __init__(self, process: Process, mask: int) -> None:
        self.process = process
        self.mask = mask
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._raised = False

    def update(self) -> None:
        """Signals came, or were taken. Callable from a signal handler of Python."""
        process = self.process
        with process.lock:
            pending = [*process.signals.pending]
            for thread in process.threads.values():
                pending += thread.pending
            wanted = any(bit(info.number) & self.mask for info in pending)
            if wanted == self._raised:
                return
            self._raised = wanted
            with contextlib.suppress(OSError):
                (os.eventfd_write(self.fd, 1) if wanted else os.eventfd_read(self.fd))

    def read(self, t: GuestThread, file: File, windows: Sequence[memoryview]) -> int:
        """As many as there are and fit."""
        room = sum(map(len, windows)) // _SIGINFO.size
        if not room:
            return -errno.EINVAL
        while True:
            out = bytearray()
            while len(out) < room * _SIGINFO.size and (info := take(t, self.mask)) is not None:
                out += _packed(info)
            if out:
                return _scattered(out, windows)
            self.update()
            if result := wait_for(t, file, select.POLLIN):
                return result

    def write(self, _t: GuestThread, _file: File, _windows: Sequence[memoryview]) -> int:
        return -errno.EINVAL

    def closed(self) -> None:
        """No descriptor names it any more."""
        self.process.signals.watchers.pop(self, None)

    def forked(self, file: File) -> None:
        """This is the child: the parent keeps its eventfd, which tells of the parent's signals."""
        own = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        os.dup2(own, file.fd, inheritable=False)
        os.close(own)
        self.fd = file.fd
        self._raised = False
        self.update()


def _scattered(data: bytes | bytearray, windows: Sequence[memoryview]) -> int:
    """Copy into windows that have room for it; returns the length."""
    at = 0
    for window in windows:
        piece = data[at : at + len(window)]
        window[: len(piece)] = piece
        at += len(piece)
    return len(data)


def signalfd4(t: GuestThread, fd: int, mask: int, size: int, flags: int) -> int:
    if size != 8 or flags & _FD & ~(_NONBLOCK | _CLOEXEC):
        return -errno.EINVAL
    wanted = t.memory.load(mask, 8) & ~_UNBLOCKABLE
    number = s32(fd)
    if number >= 0:
        file = t.table.get(number)
        if file is None:
            return -errno.EBADF
        made = file.socket
        if not isinstance(made, SignalFile):
            return -errno.EINVAL
        made.mask = wanted
        made.update()
        return number
    if number != -1:
        return -errno.EBADF
    made = SignalFile(t.process, wanted)
    file = File(made.fd, 2 | (flags & _NONBLOCK), path="anon_inode:[signalfd]", kind=SPECIAL)
    file.socket = made
    t.process.signals.watchers[made] = made.update
    made.update()
    return t.files.add(file, cloexec=bool(flags & _CLOEXEC))


def signalfd(t: GuestThread, fd: int, mask: int, size: int) -> int:
    return signalfd4(t, fd, mask, size, 0)


# -- inotify ----------------------------------------------------------------------------------------------------

_INOTIFY: Final = "anon_inode:inotify"
_IN_ONLYDIR, _IN_DONT_FOLLOW = 0x0100_0000, 0x0200_0000


def inotify_init1(t: GuestThread, flags: int) -> int:
    if flags & _FD & ~(_NONBLOCK | _CLOEXEC):
        return -errno.EINVAL
    fd = host_call("inotify_init1", _NONBLOCK | _CLOEXEC)
    return t.files.add(
        File(fd, flags & _NONBLOCK, path=_INOTIFY, kind=STREAM), cloexec=bool(flags & _CLOEXEC)
    )


def inotify_init(t: GuestThread) -> int:
    return inotify_init1(t, 0)


def _inotify(t: GuestThread, fd: int) -> File:
    file = t.table.get(fd & _FD)
    if file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.path != _INOTIFY:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return file


def inotify_add_watch(t: GuestThread, fd: int, path: int, mask: int) -> int:
    file = _inotify(t, fd)
    mask &= _FD
    if not mask:
        return -errno.EINVAL
    with t.files.walk(_AT_FDCWD, t.path(path), follow=not mask & _IN_DONT_FOLLOW) as place:
        if place.node is not None:
            # What is emulated never changes by itself: the host's root stands for it, watched for nothing.
            return -errno.EACCES
        held = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    try:
        if mask & _IN_ONLYDIR and not stat.S_ISDIR(os.fstat(held).st_mode):
            return -errno.ENOTDIR
        name = os.fsencode(f"/proc/self/fd/{held}")
        return host_call("inotify_add_watch", file.fd, name, mask & ~(_IN_DONT_FOLLOW | _IN_ONLYDIR))
    finally:
        os.close(held)


def inotify_rm_watch(t: GuestThread, fd: int, watch: int) -> int:
    return host_call("inotify_rm_watch", _inotify(t, fd).fd, s32(watch))


# -- pidfd ------------------------------------------------------------------------------------------------------


def pidfd_getfd(t: GuestThread, fd: int, _target: int, _flags: int) -> int:
    """Descriptors of others are theirs, as where ptrace is not allowed."""
    return -errno.EPERM if isinstance(t.table.get(fd & _FD), PidFile) else -errno.EBADF
