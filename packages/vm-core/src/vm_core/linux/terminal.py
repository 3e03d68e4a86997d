"""The ioctls of a terminal: its modes and size, and which process group is in its foreground.

They are the host terminal's. A process in the background that changes one is stopped by SIGTTOU, unless it blocks or ignores
that: the host must then see it blocked, for vm's own handler of it would have the call tried again for ever.

ioctl_tty(2), tcsetpgrp(3).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import RESTART, s32

if TYPE_CHECKING:
    from vm_core.linux.files import File
    from vm_core.linux.process import GuestThread

__all__ = ["ioctl"]

_SIGTTIN, _SIGTTOU = 21, 22
_STOPPED_SECONDS: Final = 0.001
_IGNORE: Final = 1
_TIOCGPGRP, _TIOCSPGRP, _TIOCGSID, _TIOCSCTTY, _TIOCNOTTY = 0x540F, 0x5410, 0x5429, 0x540E, 0x5422
_TIOCGPTPEER: Final = 0x5441
_READ: Final = {
    0x5401: 36, 0x5413: 8, _TIOCGPGRP: 4, _TIOCGSID: 4, 0x5411: 4, 0x5424: 4, 0x802C542A: 44, 0x8004_5430: 4,
    0x8004_5438: 4, 0x8004_5439: 4, 0x8004_5440: 4,
}  # fmt: skip
"""TCGETS, TIOCGWINSZ, TIOCOUTQ, TIOCGPTN and so on, with the bytes that they return."""
_WRITE: Final = {
    0x5402: 36, 0x5403: 36, 0x5404: 36, 0x5414: 8, 0x402C542B: 44, 0x402C542C: 44, 0x402C542D: 44, 0x4004_5431: 4, 0x5420: 4,
}  # fmt: skip
"""TCSETS, TIOCSWINSZ, TIOCSPTLCK, TIOCPKT and so on, with the bytes that they take."""
_NUMBER: Final = frozenset({0x5409, 0x540A, 0x540B, 0x540C, 0x540D, 0x5425})
"""TCSBRK, TCXONC, TCFLSH, TIOCEXCL, TIOCNXCL and TCSBRKP: the argument is a number, or none."""


@contextmanager
def _in_background(t: GuestThread) -> Iterator[None]:
    """Inside, SIGTTOU does not reach a guest that does not want it."""
    ignored = t.process.signals.action(_SIGTTOU).handler == _IGNORE
    if not ignored and not t.mask >> _SIGTTOU - 1 & 1:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [_SIGTTOU])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_in_background(t: GuestThread, file: File) -> int:
    """For a read that would wait: 0 in the foreground of the terminal, or if it is none; else what it returns. As the kernel
    does, stops the process group, unless SIGTTIN is blocked or ignored or there is nobody to continue it."""
    try:
        if not os.isatty(file.fd) or os.tcgetpgrp(file.fd) == os.getpgid(0):
            return 0
    except OSError:
        return 0  # not our controlling terminal
    if t.attention and t.must_return():
        return RESTART  # what came while it was stopped goes first
    ignored = t.process.signals.action(_SIGTTIN).handler == _IGNORE
    if ignored or t.mask >> _SIGTTIN - 1 & 1 or not t.process.owns_host:
        return -errno.EIO
    before = time.monotonic()
    os.killpg(0, _SIGTTIN)
    if t.process.signals.action(_SIGTTIN).handler == 0 and time.monotonic() - before < _STOPPED_SECONDS:
        # It did not stop: its process group is an orphan, which is not stopped.
        try:
            if os.tcgetpgrp(file.fd) != os.getpgid(0):
                return -errno.EIO
        except OSError:
            return -errno.EIO
    return RESTART


def ioctl(t: GuestThread, file: File, request: int, argument: int) -> int | None:
    """None for a request that is not one of a terminal's. Raises OSError (ENOTTY for what is none) and MemoryFault."""
    memory = t.memory
    size = _READ.get(request)
    if size is not None:
        data = fcntl.ioctl(file.fd, request, bytes(size))
        memory.write(argument, data)
        return 0
    if request == _TIOCGPTPEER:
        return _peer(t, file, argument)
    if (
        request not in _WRITE
        and request not in _NUMBER
        and request not in (_TIOCSPGRP, _TIOCSCTTY, _TIOCNOTTY)
    ):
        return None
    if not os.isatty(file.fd):
        return -errno.ENOTTY
    if request in _WRITE:
        data = memory.read(argument, _WRITE[request])
        with _in_background(t):
            fcntl.ioctl(file.fd, request, data)
    elif request in _NUMBER:
        with _in_background(t):
            fcntl.ioctl(file.fd, request, s32(argument))
    elif request == _TIOCSPGRP:
        with _in_background(t):
            os.tcsetpgrp(file.fd, s32(memory.load(argument, 4)))
    elif not t.process.owns_host:
        return -errno.EPERM
    else:
        fcntl.ioctl(file.fd, request, 0)
    return 0


def _peer(t: GuestThread, file: File, flags: int) -> int:
    """The other end of a pseudoterminal, without its name."""
    from vm_core.linux.files import STREAM, File

    host = (flags & 3) | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    fd = fcntl.ioctl(file.fd, _TIOCGPTPEER, host)
    made = File(fd, flags & (3 | 0o4000), path=os.ttyname(fd), kind=STREAM)
    return t.files.add(made, cloexec=bool(flags & 0o2000000))
