"""The emulated /dev: harmless devices of the host, the guest's own terminals, and those that it was started on.

A pseudoterminal is the host's. The guest may open only the ones that it has made: each is held by a descriptor of its very
entry in the host's /dev/pts, for the host gives the number of one that is gone to somebody else.

null(4), tty(4), pts(4).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable
from fcntl import ioctl

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.files import STREAM, File
from vm_core.linux.paths import Node

if TYPE_CHECKING:
    from vm_core.linux.process import Process

__all__ = ["Devices"]

_LINK: Final = stat.S_IFLNK | 0o777
_DIR: Final = stat.S_IFDIR | 0o755
_CHAR: Final = stat.S_IFCHR | 0o666
_TERMINAL: Final = stat.S_IFCHR | 0o620
_TIOCGPTN: Final = 0x8004_5430
_NAMES: Final = ("null", "zero", "full", "random", "urandom")
_NOCTTY: Final = 0o400
_KEPT_FLAGS: Final = 3 | 0o2000 | 0o4000


class Devices:
    """What lies below /dev for one process. A child of fork(2) has it too."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pairs: dict[int, int] = {}
        """Numbers of the guest's pseudoterminals, and the descriptor that holds each."""
        self.fixed: dict[str, Callable[[], Node]] = {
            "/dev/fd": lambda: Node(_LINK, target="/proc/self/fd"),
            "/dev/stdin": lambda: Node(_LINK, target="/proc/self/fd/0"),
            "/dev/stdout": lambda: Node(_LINK, target="/proc/self/fd/1"),
            "/dev/stderr": lambda: Node(_LINK, target="/proc/self/fd/2"),
            "/dev/shm": lambda: Node(_LINK, target="/tmp"),  # noqa: S108 - the guest's own
            "/dev/tty": lambda: Node(_CHAR, opener=self._tty, where="/dev/tty"),
            "/dev/ptmx": lambda: Node(_CHAR, opener=self._master, where="/dev/ptmx"),
            **{f"/dev/{name}": _device(name) for name in _NAMES},
        }

    def find(self, path: str) -> Node | None:
        """A terminal, or the directory of them."""
        if path == "/dev/pts":
            return Node(_DIR, names=tuple(sorted({*map(str, self._pairs), "ptmx"})))
        if path == "/dev/pts/ptmx":
            return self.fixed["/dev/ptmx"]()
        name = path.removeprefix("/dev/pts/")
        if name.isdecimal() and int(name) in self._pairs:
            held = self._pairs[int(name)]
            if not _exists(held, int(name)):
                return None
            return Node(
                _TERMINAL, opener=lambda flags: self._slave(held, path, flags), where=f"/proc/self/fd/{held}"
            )
        for file in list(self._process.files.table.values()):
            # The terminal that the guest was started on, by its own name.
            if file.inherited and file.path == path and file.fd >= 0 and os.isatty(file.fd):
                return Node(_TERMINAL, opener=file.reopen, where=f"/proc/self/fd/{file.fd}")
        return None

    def made(self, master: int) -> None:
        """Remember the pseudoterminal of a master."""
        (number,) = struct.unpack("<I", ioctl(master, _TIOCGPTN, bytes(4)))
        for old, held in list(self._pairs.items()):
            if old == number or not _exists(held, old):
                os.close(held)
                del self._pairs[old]
        with contextlib.suppress(OSError):
            self._pairs[number] = os.open(f"/dev/pts/{number}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _master(self, flags: int) -> File:
        fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.made(fd)
        return File(fd, flags & _KEPT_FLAGS, path="/dev/ptmx", kind=STREAM)

    def _slave(self, held: int, path: str, flags: int) -> File:
        # A session's leader that has no terminal gets it as its own, unless it asks for that not to be.
        noctty = 0 if self._process.owns_host and not flags & _NOCTTY else os.O_NOCTTY
        host = (flags & 3) | os.O_NONBLOCK | os.O_CLOEXEC | noctty
        fd = os.open(f"/proc/self/fd/{held}", host)
        return File(fd, flags & _KEPT_FLAGS, path=path, kind=STREAM)

    def _tty(self, flags: int) -> File:
        """The controlling terminal, if it is one of the guest's; of the first process, the one that it was started on."""
        if self._process.owns_host and self._controlled():
            with contextlib.suppress(OSError):
                fd = os.open("/dev/tty", (flags & 3) | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
                return File(fd, flags & _KEPT_FLAGS, path="/dev/tty", kind=STREAM)
        for number in (0, 1, 2):
            file = self._process.files.table.get(number)
            if file is not None and file.fd >= 0 and os.isatty(file.fd):
                return file.reopen(flags)
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    def _controlled(self) -> bool:
        """Whether the controlling terminal of this process is a pseudoterminal that the guest made."""
        try:
            with open("/proc/self/stat", "rb") as file:
                told = int(file.read().rpartition(b")")[2].split()[4])
        except (OSError, ValueError):
            return False
        device = os.makedev(told >> 8 & 0xFFF, told & 0xFF | told >> 12 & 0xFFF00)
        return any(os.stat(f"/proc/self/fd/{held}").st_rdev == device for held in self._pairs.values())


def _exists(held: int, number: int) -> bool:
    """Whether a held entry still is the one of that number."""
    try:
        now = os.stat(f"/dev/pts/{number}", follow_symlinks=False)
        then = os.fstat(held)
    except OSError:
        return False
    return (now.st_dev, now.st_ino, now.st_ctime_ns) == (then.st_dev, then.st_ino, then.st_ctime_ns)


def _device(name: str) -> Callable[[], Node]:
    # Constant names of harmless devices, never a path from the guest.
    host = f"/dev/{'urandom' if name == 'random' else name}"

    def opener(flags: int) -> File:
        return File(os.open(host, (flags & 3) | os.O_CLOEXEC | os.O_NOFOLLOW), flags)

    return lambda: Node(_CHAR, opener=opener, where=host)
