"""The guest's descriptors, and the calls that open, read, write and close them.

Guest descriptor numbers live in a private table; each names a :class:`File`, which owns one close-on-exec host
descriptor. A guest number never reaches the host. A file that can block is never blocked on: its host descriptor is
non-blocking (or, for the inherited standard streams, whose flags belong to others, polled first), so that exit, a
signal, a timeout or Ctrl-C can end the wait.

Linux 6.x, man-pages 6.x section 2.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from vm_core.errors import UsageError
from vm_core.hints import TYPE_CHECKING, Any, Final, Protocol
from vm_core.lengths import any_length
from vm_core.linux import terminal
from vm_core.linux.abi import RESTART, s32, s64
from vm_core.linux.host import call as host_call
from vm_core.linux.native import HOST_UMASK, LIMIT, MODES, OPENED_CLOEXEC, OPENED_FIXED, NativeCalls
from vm_core.linux.paths import Namespace, Place
from vm_core.memory import Access, GuestMemory, MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.abi import Abi
    from vm_core.linux.process import GuestThread

__all__ = [
    "RESTART",
    "File",
    "FileSystem",
    "joined",
    "open_place",
    "socket_deadline",
    "text_file",
    "wait_for",
]

RESTART_NO_HANDLER: Final = -514
"""ERESTARTNOHAND: restarted only if no handler ran."""

_FD: Final = 0xFFFF_FFFF
_READ: Final = Access.READ
_WRITE: Final = Access.WRITE
_MAX_IO: Final = 0x7FFF_F000
_AT_FDCWD: Final = -100
_O_APPEND, _O_NONBLOCK, _O_CLOEXEC, _O_PATH = 0o2000, 0o4000, 0o2000000, 0o10000000
_O_ASYNC: Final = 0o20000
_SPLICE_NONBLOCK: Final = 2
_O_CREAT, _O_EXCL, _O_TRUNC = 0o100, 0o200, 0o1000
_PIPE_BUF: Final = 4096
_STREAM_IO: Final = 16 << 20
"""Most bytes that one call takes from a stream or copies inside the kernel, where nothing can end it early."""
_MAX_PIPE: Final = 1 << 20
_SIGPIPE: Final = 13

REGULAR, STREAM, DIRECTORY, EMULATED, PATH, SOCKET, SPECIAL = range(7)
"""Kinds of files: STREAM and SOCKET may block, EMULATED is a directory without a host descriptor, and what is read from a
SPECIAL one its ``socket`` makes."""


_TIED: Final = frozenset({"anon_inode:[eventpoll]", "anon_inode:inotify"})
"""What watches files by the numbers that they have in one process."""


def _kind_of(mode: int) -> int:
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return REGULAR
    if stat.S_ISDIR(mode):
        return DIRECTORY
    return SOCKET if stat.S_ISSOCK(mode) else STREAM


class File:
    """An open file description, as the guest sees it. ``fd`` is the host's, or -1; ``flags`` the guest's O_*.

    ``path`` is the guest path (or ``pipe:[...]``), ``fixed`` says that metadata must not be changed through it. ``socket``
    is what the module that made the file keeps with it, ``extras`` are more host descriptors that go when it goes.
    """

    __slots__ = (
        "extras",
        "fd",
        "fixed",
        "flags",
        "inherited",
        "kind",
        "mode",
        "names",
        "owner",
        "path",
        "position",
        "refs",
        "signal",
        "socket",
    )

    def __init__(
        self,
        fd: int,
        flags: int,
        *,
        path: str = "",
        kind: int | None = None,
        inherited: bool = False,
        fixed: bool = True,
    ) -> None:
        self.fd = fd
        self.flags = flags
        self.inherited = inherited
        self.fixed = fixed
        self.mode: int | None = None
        self.names: tuple[str, ...] = ()
        self.position = 0
        self.refs = 1
        self.socket: object = None
        self.extras: list[int] = []
        self.owner = (1, 0)
        self.signal = 0
        if kind is None:
            info = os.fstat(fd)
            kind = _kind_of(info.st_mode)
            if not path:
                word = "pipe" if stat.S_ISFIFO(info.st_mode) else "socket" if kind == SOCKET else "file"
                path = f"{word}:[{info.st_ino}]"
                if stat.S_ISCHR(info.st_mode):
                    path = _device_name(fd, info)
        self.kind = kind
        self.path = path

    def reopen(self, flags: int) -> File:
        """A second description of the same file, with at most the same access. Raises OSError."""
        if self.fd < 0:
            made = File(-1, flags, path=self.path, kind=self.kind)
            made.names = self.names
            return made
        wants, has = flags & 3, self.flags & 3
        if has not in (2, wants) and (self.fixed or self.inherited or self.kind != REGULAR):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        fd = -1
        if self.kind == REGULAR and self.mode is None and not flags & _O_PATH:
            # A description of its own, with its own position, as a file that is opened by this name has. Where the host
            # refuses that (it is not of the guest's view), they share one.
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/self/fd/{self.fd}", flags & (3 | _O_TRUNC | _O_APPEND) | os.O_CLOEXEC)
        if fd < 0:
            if has not in (2, wants):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            fd = os.dup(self.fd)
        keep = flags & ~(_O_CREAT | _O_EXCL | 0o400 | _O_TRUNC | _O_CLOEXEC)
        made = File(fd, keep, path=self.path, kind=self.kind, fixed=self.fixed)
        made.inherited, made.mode, made.names, made.socket = (
            self.inherited,
            self.mode,
            self.names,
            self.socket,
        )
        if self.kind == SPECIAL:
            made.kind, made.socket = PATH, None  # what it makes has one reader
        return made

    def duplicate(self) -> File:
        """The same open file description for another guest process in this host process. Raises OSError, and UsageError for what
        is tied to the process that made it."""
        import copy  # PERF: few guests have clones

        if self.kind == SPECIAL or self.path in _TIED:
            raise UsageError(
                f"{self.path}: cannot be given to another guest of the same process",
                hint="take the copy before the program opens it",
            )
        made = copy.copy(self)
        made.refs, made.extras = 1, []
        made.socket = None if isinstance(self.socket, Text) else copy.copy(self.socket)
        made.fd = -1 if self.fd < 0 else fcntl.fcntl(self.fd, fcntl.F_DUPFD_CLOEXEC, 3)
        made.extras = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in self.extras]
        return made


def _device_name(fd: int, info: os.stat_result) -> str:
    """The path of a device that was inherited."""
    known = {
        (1, 3): "/dev/null",
        (1, 5): "/dev/zero",
        (1, 7): "/dev/full",
        (1, 8): "/dev/random",
        (1, 9): "/dev/urandom",
    }
    if not os.isatty(fd):
        return known.get((os.major(info.st_rdev), os.minor(info.st_rdev)), f"file:[{info.st_ino}]")
    try:
        return os.ttyname(fd)
    except OSError:
        return "/dev/tty"


class Text:
    """File.socket of a text that the kernel makes: who begins to read it again gets what is true then, as with /proc of Linux."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make

    def renew(self, fd: int) -> None:
        """Make the contents anew; none of what is not there any more."""
        try:
            view = memoryview(self._make())
        except (OSError, LookupError, ValueError):
            view = memoryview(b"")
        size, done = len(view), 0
        with any_length():
            while done < size:
                done += os.pwrite(fd, view[done:], done)
            os.ftruncate(fd, size)


def text_file(make: Callable[[], bytes], flags: int) -> File:
    """A read-only file with these contents."""
    fd = os.memfd_create("vm", os.MFD_CLOEXEC)
    view = memoryview(make())
    with any_length():
        while view:
            view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    file = File(fd, flags, kind=REGULAR)
    file.mode = stat.S_IFREG | 0o444
    file.socket = Text(make)
    return file


def _begin(file: File, position: int) -> None:
    """Somebody is about to read from there."""
    if not position and isinstance(file.socket, Text):
        file.socket.renew(file.fd)


class _Table(dict[int, File]):
    """Guest descriptors. Engines that read and write files themselves hear of each change, and open files themselves: those
    become Files here when somebody asks for them."""

    def __init__(self, native: NativeCalls, namespace: Namespace, close_on_exec: set[int]) -> None:
        super().__init__()
        self._native = native
        self._namespace = namespace
        self._close_on_exec = close_on_exec

    def __setitem__(self, number: int, file: File) -> None:
        super().__setitem__(number, file)
        self._native.describe(number, file)

    def __missing__(self, number: int) -> File:
        file = self._adopted(number)
        if file is None:
            raise KeyError(number)
        return file

    def get(self, number: int, default: Any = None) -> Any:
        return super().get(number) or self._adopted(number) or default

    def __contains__(self, number: object) -> bool:
        return super().__contains__(number) or (isinstance(number, int) and self._adopted(number) is not None)

    def pop(self, number: int, default: Any = None) -> Any:
        file = self.get(number)
        # Before the file is closed: what the host gives the number to next is not the guest's.
        self._native.describe(number, None)
        return default if file is None else super().pop(number)

    def __iter__(self) -> Iterator[int]:
        self.adopt()
        return super().__iter__()

    def __len__(self) -> int:
        self.adopt()
        return super().__len__()

    def known(self) -> Iterable[File]:
        """The Files that there are."""
        return super().values()

    def values(self) -> Any:
        self.adopt()
        return super().values()

    def adopt(self) -> None:
        """Make a File of all that engines have opened."""
        for number in self._native.opened():
            self._adopted(number)

    def _adopted(self, number: int) -> File | None:
        found = self._native.opened_as(number)
        if found is None:
            return None
        fd, word, path = found
        flags = word & 0xFFFF_FFFF
        if path is None:
            path = self._namespace.guest_path(fd) or "/"
        file = _file_of(fd, flags, path, fixed=bool(word & OPENED_FIXED))
        super().__setitem__(number, file)
        self._native.adopt(number, file)
        change = self._close_on_exec.add if word & OPENED_CLOEXEC else self._close_on_exec.discard
        change(number)
        return file


class FileSystem:
    """Descriptor table, working directory and umask of a process."""

    def __init__(self, namespace: Namespace, close_host: Callable[[int], None], native: NativeCalls) -> None:
        self.namespace = namespace
        self._native = native
        self.close_on_exec: set[int] = set()
        """Of the descriptors in the table; what engines have opened is there when it has a File."""
        self._table = _Table(native, namespace, self.close_on_exec)
        self.table: dict[int, File] = self._table
        self.lock = threading.Lock()
        self._umask, self._modes = host_umask(), 0o1777
        self.cwd = namespace.start
        self.limit = 1024
        self.modes = 0o1777
        self.locked: set[tuple[int, int]] = set()
        """Device and number of the files on which the process has locks of fcntl(2)."""
        self._close_host = close_host
        for mount in namespace.mounts.values():
            mount.opened = self._show
        self._show()

    def _show(self) -> None:
        self._native.show(self.namespace)

    @property
    def cwd(self) -> str:
        """The working directory, a canonical guest path."""
        return self._cwd

    @cwd.setter
    def cwd(self, path: str) -> None:
        self._cwd = path
        self._native.work_in(path)

    @property
    def limit(self) -> int:
        """Descriptors are below it."""
        return self._limit

    @limit.setter
    def limit(self, count: int) -> None:
        self._limit = self._native.words[LIMIT // 8] = count

    @property
    def umask(self) -> int:
        return self._umask

    @umask.setter
    def umask(self, mask: int) -> None:
        self._umask = mask
        self._tell_modes()

    @property
    def modes(self) -> int:
        """The mode bits that a guest may give a file: not set-ID, which would be the host user's identity for others."""
        return self._modes

    @modes.setter
    def modes(self, modes: int) -> None:
        self._modes = modes
        self._tell_modes()

    def _tell_modes(self) -> None:
        words = self._native.words
        words[MODES // 8], words[HOST_UMASK // 8] = self._modes & ~self._umask, host_umask()

    def add(self, file: File, *, cloexec: bool = False, lowest: int = 0) -> int:
        """Put a file at the lowest free number; returns it, or -EMFILE with the file closed."""
        with self.lock:
            number = self._native.free(lowest)
            if number < self.limit:
                self.table[number] = file
                if cloexec:
                    self.close_on_exec.add(number)
                else:
                    self.close_on_exec.discard(number)
                return number
        self.release(file)
        return -errno.EMFILE

    def release(self, file: File) -> None:
        """Drop one reference; the last one closes the host descriptor."""
        with self.lock:
            file.refs -= 1
            if file.refs:
                return
            fd, file.fd = file.fd, -1
            extras, file.extras = file.extras, []
        if file.kind == SPECIAL:
            _special(file).closed()
        for host in (fd, *extras):
            if host >= 0:
                self._close_host(host)

    def close(self, number: int) -> int:
        with self.lock:
            file = self.table.pop(number, None)
        if file is None:
            return -errno.EBADF
        self.unlock(file)
        self.release(file)
        return 0

    def half_opened(self) -> tuple[int, bool] | None:
        """What an engine has opened for the call that is being made: :meth:`NativeCalls.half_opened`."""
        return self._native.half_opened()

    def described_again(self, file: File) -> None:
        """Whether a read of it waits is different now."""
        with self.lock:
            for number, other in list(self.table.items()):
                if other is file:
                    self._native.describe(number, file)

    def unlock(self, file: File) -> None:
        """A descriptor is closed: with it go all the locks that the process has on the file, by whichever descriptor."""
        if not self.locked or file.fd < 0:
            return
        info = os.fstat(file.fd)
        if (info.st_dev, info.st_ino) in self.locked:
            self.locked.discard((info.st_dev, info.st_ino))
            with contextlib.suppress(OSError):
                fcntl.fcntl(file.fd, _SETLK, struct.pack("<hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))

    def duplicate(
        self, namespace: Namespace, close_host: Callable[[int], None], native: NativeCalls
    ) -> FileSystem:
        """For another guest process in this host process, the same descriptors of the same open files. ``native`` is told what is in
        use, no more. Raises OSError and UsageError, with nothing left open."""
        import copy

        made = copy.copy(self)
        made.namespace, made._close_host, made._native = namespace, close_host, native
        made.lock, made.locked = threading.Lock(), set()
        native.words[LIMIT // 8] = self._limit
        copies: dict[File, File] = {}
        try:
            for number, file in self.table.items():
                copy_ = copies.get(file)
                if copy_ is None:
                    copy_ = copies[file] = file.duplicate()
                    copy_.refs = 0
                copy_.refs += 1
                native.take(number)
        except BaseException:
            for file in copies.values():
                for fd in (file.fd, *file.extras):
                    if fd >= 0:
                        os.close(fd)
            raise
        made.close_on_exec = set(self.close_on_exec)
        made._table = _Table(native, namespace, made.close_on_exec)
        dict.update(made._table, ((number, copies[file]) for number, file in self.table.items()))
        made.table = made._table
        return made

    def forked(self) -> None:
        """In the child of a fork: temporary directories are the parent's to remove."""
        self.lock = threading.Lock()
        self.locked = set()
        for file in set(self._table.known()):
            forked = getattr(file.socket, "forked", None)
            if forked is not None:
                forked(file)
        self.namespace.forked()

    def executed(self) -> None:
        """The process runs another program now."""
        self._table.adopt()
        for number in sorted(self.close_on_exec):
            self.close(number)
        self.close_on_exec.clear()

    def close_all(self) -> None:
        for number in list(self.table):
            self.close(number)
        self.namespace.close()

    def base(self, dfd: int, path: str) -> str:
        """The guest directory that a relative path starts from. Raises OSError."""
        if path.startswith("/"):
            return "/"
        number = s32(dfd)
        if number == _AT_FDCWD:
            return self.cwd
        file = self.table.get(dfd & _FD)
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if file.kind not in (DIRECTORY, EMULATED) and not (file.kind == PATH and file.names):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return file.path

    def walk(self, dfd: int, path: str, *, follow: bool = True, late: bool = False) -> Place:
        """Where ``path`` ends, from the directory ``dfd``, which is not looked at if there is no path. Raises OSError."""
        if not path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.namespace.walk(self.base(dfd, path), path, follow=follow, late=late)


def _window(memory: GuestMemory, address: int, count: int, access: Access) -> memoryview:
    """Guest memory for a transfer: as much of the range as the guest may use. Raises MemoryFault if that is nothing."""
    count = min(count, _MAX_IO)
    try:
        memory.check(address, count, access)
    except MemoryFault as fault:
        if fault.address <= address:
            raise
        count = fault.address - address
    return memory.view[address : address + count]


def _vector(t: GuestThread, address: int, count: int, access: Access) -> list[memoryview]:
    """The windows of an iovec array. Raises OSError and MemoryFault."""
    if count > 1024:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    memory = t.memory
    out = []
    left = _MAX_IO
    for base, length in struct.iter_unpack("<QQ", memory.read(address, 16 * count)):
        if length >> 63:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if length and left:
            out.append(_window(memory, base, min(length, left), access))
            left -= len(out[-1])
    return out


def joined(windows: Sequence[memoryview], most: int) -> memoryview:
    """The first ``most`` bytes of some windows, which may be the same memory many times, in one piece."""
    if len(windows) == 1:
        return windows[0][:most]
    return memoryview(b"".join(_first(windows, most)))


def _first(windows: Sequence[memoryview], most: int) -> list[memoryview]:
    out = []
    for window in windows:
        if most <= 0:
            break
        out.append(window[:most])
        most -= len(window)
    return out


def _pieces(t: GuestThread, windows: Sequence[memoryview], step: Callable[[memoryview, int], int]) -> int:
    """Transfer many bytes to or from a file piece by piece, so that the end of the process need not wait for them.

    ``step`` transfers one piece, behind as many bytes as its second argument says, and returns how much it did.
    """
    done = 0
    for window in windows:
        for at in range(0, len(window), _STREAM_IO):
            piece = window[at : at + _STREAM_IO]
            try:
                count = step(piece, done)
            except OSError:
                if not done:
                    raise
                return done
            done += count
            if count < len(piece) or t.process.stopping:
                return done
    return done


# -- reading and writing ----------------------------------------------------------------------------------------


class Special(Protocol):
    """What File.socket of a SPECIAL file can do. Results are those of the system calls."""

    def read(self, t: GuestThread, file: File, windows: Sequence[memoryview]) -> int: ...

    def write(self, t: GuestThread, file: File, windows: Sequence[memoryview]) -> int: ...

    def closed(self) -> None:
        """The last descriptor is gone."""


def _special(file: File) -> Special:
    made: Special = file.socket  # type: ignore[assignment]
    return made


def wait_for(t: GuestThread, file: File, events: int) -> int:
    """Wait until the file is ready; 0, or the result that the call must return."""
    fd = file.fd
    if fd < 0:
        return -errno.EBADF
    if file.inherited:
        poll = select.poll()
        poll.register(fd, events)
        if poll.poll(0):
            return 0
        if events == select.POLLIN and (result := terminal.read_in_background(t, file)):
            return result
    if file.flags & _O_NONBLOCK:
        return -errno.EAGAIN
    deadline = socket_deadline(file, events) if file.kind == SOCKET else None
    ready = t.poll([(fd, events)], deadline)
    if ready is None:
        # With a time limit the call is not made again behind a handler, since the limit would begin anew.
        return RESTART if deadline is None else -errno.EINTR
    return 0 if ready else -errno.EAGAIN


def socket_deadline(file: File, events: int) -> float | None:
    """When a wait of a socket is over (seconds of time.monotonic) by its SO_RCVTIMEO or SO_SNDTIMEO; None: never."""
    import socket

    option = socket.SO_SNDTIMEO if events & select.POLLOUT else socket.SO_RCVTIMEO
    made = socket.socket(fileno=file.fd)
    try:
        seconds, microseconds = struct.unpack("<qq", made.getsockopt(socket.SOL_SOCKET, option, 16))
    finally:
        made.detach()
    return time.monotonic() + seconds + microseconds / 1e6 if seconds or microseconds else None


def _after(windows: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of some windows behind their first ``count`` bytes."""
    out = []
    for window in windows:
        if count < len(window):
            out.append(window[count:])
        count = max(count - len(window), 0)
    return out


def _receive(t: GuestThread, file: File, windows: Sequence[memoryview]) -> int:
    """Read a stream or socket."""
    if not windows:
        return 0
    if len(windows) > 1 or len(windows[0]) > _STREAM_IO:
        windows = _first(windows, _STREAM_IO)
    if file.inherited:
        result = wait_for(t, file, select.POLLIN)
        return result or os.readv(file.fd, windows)
    while True:
        try:
            return os.readv(file.fd, windows)
        except BlockingIOError:
            result = wait_for(t, file, select.POLLIN)
            if result:
                return result


def _send(t: GuestThread, file: File, data: memoryview) -> int:
    """Write a stream or socket completely, unless it is non-blocking or a signal comes."""
    done = 0
    chunk = data[:_STREAM_IO]
    try:
        while True:
            try:
                if file.inherited:
                    result = wait_for(t, file, select.POLLOUT)
                    if result:
                        return done or result
                    chunk = chunk[:_PIPE_BUF]
                done += os.write(file.fd, chunk)
            except BlockingIOError:
                result = wait_for(t, file, select.POLLOUT)
                if result:
                    return done or result
            if done >= len(data) or (done and t.attention and t.must_return()):
                return done
            chunk = data[done : done + _STREAM_IO]
    except BrokenPipeError:
        if done:
            return done
        t.raise_signal(_SIGPIPE)
        return -errno.EPIPE


def read(t: GuestThread, fd: int, address: int, count: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    if not count:
        return 0
    window = _window(t.memory, address, count, _WRITE)
    if file.kind == REGULAR:
        if count > _STREAM_IO:
            return _pieces(t, (window,), lambda piece, _: os.readv(file.fd, (piece,)))
        return os.readv(file.fd, (window,))
    if file.kind in (EMULATED, DIRECTORY):
        return -errno.EISDIR
    if file.kind == SPECIAL:
        return _special(file).read(t, file, (window,))
    if file.flags & 3 == 1 or file.kind == PATH:
        return -errno.EBADF
    return _receive(t, file, (window,))


def write(t: GuestThread, fd: int, address: int, count: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    window = _window(t.memory, address, count, _READ) if count else memoryview(b"")
    if file.kind == REGULAR:
        if count > _STREAM_IO:
            return _pieces(t, (window,), lambda piece, _: os.write(file.fd, piece))
        return os.write(file.fd, window)
    if file.kind == SPECIAL:
        return _special(file).write(t, file, (window,))
    if not file.flags & 3 or file.kind == PATH:
        return -errno.EBADF
    return _send(t, file, window)


def readv(t: GuestThread, fd: int, vector: int, count: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    windows = _vector(t, vector, count, _WRITE)
    if file.kind == REGULAR:
        if sum(map(len, windows)) > _STREAM_IO:
            return _pieces(t, windows, lambda piece, _: os.readv(file.fd, (piece,)))
        return os.readv(file.fd, windows) if windows else 0
    if file.kind in (EMULATED, DIRECTORY):
        return -errno.EISDIR
    if file.kind == SPECIAL:
        return _special(file).read(t, file, windows)
    if file.flags & 3 == 1 or file.kind == PATH:
        return -errno.EBADF
    return _receive(t, file, windows)


def writev(t: GuestThread, fd: int, vector: int, count: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    windows = _vector(t, vector, count, _READ)
    if file.kind == REGULAR:
        if sum(map(len, windows)) > _STREAM_IO:
            return _pieces(t, windows, lambda piece, _: os.write(file.fd, piece))
        return os.writev(file.fd, windows) if windows else 0
    if file.kind == SPECIAL:
        return _special(file).write(t, file, windows)
    if not file.flags & 3 or file.kind == PATH:
        return -errno.EBADF
    done = 0
    while True:
        data = joined(windows, _STREAM_IO) if len(windows) != 1 else windows[0]
        sent = _send(t, file, data)
        if sent < len(data):
            return done + sent if sent >= 0 else done or sent
        done += sent
        windows = _after(windows, sent)
        if not windows:
            return done


def pread64(t: GuestThread, fd: int, address: int, count: int, offset: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    if s64(offset) < 0:
        return -errno.EINVAL
    if not count:
        return 0
    window = _window(t.memory, address, count, _WRITE)
    _begin(file, offset)
    return _pieces(t, (window,), lambda piece, done: os.preadv(file.fd, (piece,), offset + done))


def pwrite64(t: GuestThread, fd: int, address: int, count: int, offset: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    if s64(offset) < 0:
        return -errno.EINVAL
    if not count:
        return 0
    window = _window(t.memory, address, count, _READ)
    return _pieces(t, (window,), lambda piece, done: os.pwrite(file.fd, piece, offset + done))


def preadv(t: GuestThread, fd: int, vector: int, count: int, offset: int, _high: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    windows = _vector(t, vector, count, _WRITE)
    _begin(file, offset)
    if sum(map(len, windows)) > _STREAM_IO:
        return _pieces(t, windows, lambda piece, done: os.preadv(file.fd, (piece,), offset + done))
    return os.preadv(file.fd, windows, offset) if windows else 0


def pwritev(t: GuestThread, fd: int, vector: int, count: int, offset: int, _high: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    windows = _vector(t, vector, count, _READ)
    if sum(map(len, windows)) > _STREAM_IO:
        return _pieces(t, windows, lambda piece, done: os.pwrite(file.fd, piece, offset + done))
    return os.pwritev(file.fd, windows, offset) if windows else 0


def lseek(t: GuestThread, fd: int, offset: int, whence: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    if file.kind == EMULATED:
        position = s64(offset) + (file.position if whence & _FD == os.SEEK_CUR else 0)
        if whence & _FD > os.SEEK_END or position < 0:
            return -errno.EINVAL
        file.position = position
        return position
    position = os.lseek(file.fd, s64(offset), whence & 0xFF)
    _begin(file, position)
    return position


# -- opening and closing ----------------------------------------------------------------------------------------


def open_place(t: GuestThread, place: Place, flags: int, mode: int) -> File | int:
    """Open what a path ended at with the guest's flags: a File, or the result that the call must return."""
    abi = t.abi
    if place.node is not None:
        node = place.node
        if node.opener is not None:
            opened = node.opener(flags)
            assert isinstance(opened, File)
            opened.path = place.guest if not node.target else opened.path
            if flags & abi.O_DIRECTORY and opened.kind not in (DIRECTORY, EMULATED):
                t.files.release(opened)
                return -errno.ENOTDIR
            return opened
        if not stat.S_ISDIR(node.mode):
            return -errno.ELOOP
        if flags & 3 or flags & _O_CREAT:
            return -errno.EISDIR
        file = File(-1, flags, path=place.guest, kind=EMULATED)
        file.names = node.names
        return file
    assert place.mount is not None
    host = abi.host_open_flags(flags) | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if place.must_be_directory:
        host |= os.O_DIRECTORY
    if not place.mount.writable:
        if flags & 3 or flags & _O_TRUNC:
            return -errno.EROFS
        host &= ~os.O_CREAT
    if flags & _O_PATH:
        host &= ~os.O_NONBLOCK
    while True:
        try:
            fd = _opened(place, host, mode & t.files.modes & ~t.files.umask)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or flags & _O_NONBLOCK or not stat.S_ISFIFO(place.stat().st_mode):
                raise
        # A FIFO that has no reader yet: a blocking open waits for one.
        if not t.sleep(0.01):
            return RESTART
    return _opened_file(t, fd, flags, place.guest, fixed=not place.mount.writable)


def _opened_file(t: GuestThread, fd: int, flags: int, path: str, *, fixed: bool) -> File | int:
    """The File for what has just been opened with the guest's flags; the result that the call must return if a signal comes
    while it waits."""
    file = _file_of(fd, flags, path, fixed=fixed)
    if file.kind != STREAM or flags & (3 | _O_NONBLOCK):
        return file
    there = False
    try:
        there = _await_writer(t, fd)
    finally:
        if not there:
            t.files.release(file)
    return file if there else RESTART


def _await_writer(t: GuestThread, fd: int) -> bool:
    """Wait, as opening a FIFO for reading does, until somebody has it open for writing; False if a signal came. Anything else than
    a FIFO needs no wait."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return True
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        while True:
            # What is to be told of it without reading from it: nothing is left to copy if there is no writer, else it would block.
            try:
                if host_call("tee", fd, writer, 1, _SPLICE_NONBLOCK):
                    return True
            except BlockingIOError:
                return True
            # Data, or that somebody had it open and has left, ends the wait at once.
            ready = t.poll([(fd, select.POLLIN)], time.monotonic() + 0.01)
            if ready is None:
                return False
            if ready:
                return True
    finally:
        os.close(reader)
        os.close(writer)


def _opened(place: Place, flags: int, mode: int) -> int:
    """Open the name, which no link can redirect; a file that this makes has exactly that mode. Raises OSError."""
    if not flags & os.O_CREAT or not mode & host_umask():
        return os.open(place.name, flags, mode, dir_fd=place.fd)
    while True:
        # The host's umask is stricter than the guest's: whether the file is new has to be known.
        try:
            fd = os.open(place.name, flags | os.O_EXCL, mode, dir_fd=place.fd)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            try:
                return os.open(place.name, flags & ~os.O_CREAT, dir_fd=place.fd)
            except FileNotFoundError:
                continue  # it has gone meanwhile
        try:
            os.fchmod(fd, mode)
        except OSError:
            os.close(fd)
            raise
        return fd


@cache
def host_umask() -> int:
    """The umask of vm's process, which the host takes from the modes of what is made."""
    try:
        with open("/proc/self/status") as file:
            return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o022)
    except OSError:
        return 0o022


def _file_of(fd: int, flags: int, path: str, *, fixed: bool) -> File:
    """The File for what has just been opened with the guest's flags."""
    kind = _kind_of(os.fstat(fd).st_mode)
    keep = flags & ~(_O_CREAT | _O_EXCL | 0o400 | _O_TRUNC | _O_CLOEXEC)
    file = File(fd, keep, path=path, kind=kind, fixed=fixed)
    if flags & _O_PATH:
        file.kind = PATH
        file.names = (".",) if kind == DIRECTORY else ()
    return file


def _path_flags(abi: Abi) -> int:
    """What means something together with O_PATH."""
    return _O_PATH | abi.O_DIRECTORY | abi.O_NOFOLLOW | _O_CLOEXEC


def openat(t: GuestThread, dfd: int, path: int, flags: int, mode: int) -> int:
    flags &= 0xFFFF_FFFF
    if flags & _O_PATH:
        # O_CREAT is gone, too: what is opened was there before, and no mode can be set through it.
        flags &= _path_flags(t.abi)
    files = t.files
    file: File | int | None
    half = files.half_opened()
    if half is not None:
        fd, fixed = half
        file = _opened_file(t, fd, flags, files.namespace.guest_path(fd) or "/", fixed=fixed)
        return file if isinstance(file, int) else files.add(file, cloexec=bool(flags & _O_CLOEXEC))
    follow = not flags & t.abi.O_NOFOLLOW and flags & (_O_CREAT | _O_EXCL) != _O_CREAT | _O_EXCL
    name = t.path(path)
    # With O_PATH, a link opens as itself: it has to be looked for first.
    if flags & _O_CREAT and name.endswith("/"):
        # Of a file nothing else is asked: such a name is a directory's.
        files.walk(dfd, name.rstrip("/") or "/", follow=False).__exit__()
        return -errno.EISDIR
    if flags & _O_TMPFILE and not flags & 3:
        return -errno.EINVAL  # nobody could write it
    with files.walk(dfd, name, follow=follow, late=not flags & _O_PATH) as place:
        try:
            file = open_place(t, place, flags, mode)
        except OSError as error:
            # A link: ELOOP, or with O_DIRECTORY what the kernel tests first, ENOTDIR.
            if not place.late or error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            file = None
    if file is None:
        with files.walk(dfd, name, follow=follow) as place:
            file = open_place(t, place, flags, mode)
    if isinstance(file, int):
        return file
    return files.add(file, cloexec=bool(flags & _O_CLOEXEC))


_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT, _CACHED = 1, 2, 4, 8, 16, 32
_O_TMPFILE: Final = 0o20000000
_MAX_LINKS: Final = 40


def openat2(t: GuestThread, dfd: int, path: int, how: int, size: int) -> int:
    if size < 24:
        return -errno.EINVAL
    if size > 4096:
        return -errno.E2BIG
    raw = t.memory.read(how, size)
    if any(raw[24:]):
        return -errno.E2BIG
    flags, mode, resolve = struct.unpack_from("<QQQ", raw)
    abi = t.abi
    known = 0o37777703 | abi.O_DIRECTORY | abi.O_NOFOLLOW | abi.O_DIRECT | abi.O_LARGEFILE
    if flags & ~known or resolve & ~0x3F or resolve & (_BENEATH | _IN_ROOT) == _BENEATH | _IN_ROOT:
        return -errno.EINVAL
    if mode & ~0o7777 or (mode and not flags & (_O_CREAT | _O_TMPFILE)):
        return -errno.EINVAL
    if flags & _O_PATH and flags & ~_path_flags(abi):
        return -errno.EINVAL
    if resolve & _CACHED:
        return -errno.EAGAIN  # the caller then asks again without it
    if not resolve:
        return openat(t, dfd, path, flags, mode)
    name = t.path(path)
    if not name:
        return -errno.ENOENT
    file = None
    if resolve & (_BENEATH | _IN_ROOT):
        file = _open_below(t, dfd, name, flags, mode, resolve)
    if file is None:
        file = _open_resolved(t, dfd, name, flags, mode, resolve)
    if isinstance(file, int):
        return file
    return t.files.add(file, cloexec=bool(flags & _O_CLOEXEC))


def _open_below(
    t: GuestThread, dfd: int, name: str, flags: int, mode: int, resolve: int
) -> File | int | None:
    """Let the host's kernel resolve below one directory of the host; None if it is not one, or a mount lies below it."""
    files = t.files
    namespace = files.namespace
    base = files.base(dfd, "")
    mount = namespace.find(base)
    if mount is None or not namespace.use_openat2 or namespace.holds_mount(base) or mount.file:
        return None
    with files.walk(_AT_FDCWD, base) as place:
        if place.node is not None or place.mount is not mount:
            return None
        directory = os.open(
            place.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd
        )
    try:
        host = t.abi.host_open_flags(flags) | os.O_CLOEXEC | os.O_NOCTTY
        if not flags & _O_PATH:
            host |= os.O_NONBLOCK
        if not mount.writable:
            if flags & (3 | _O_TRUNC):
                return -errno.EROFS
            host &= ~os.O_CREAT
        mode = (
            mode & files.modes & ~files.umask if host & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY) else 0
        )
        fd = host_call(
            "openat2",
            directory,
            os.fsencode(name) + b"\0",
            struct.pack("<QQQ", host, mode, resolve & 0x1F | _NO_MAGICLINKS),
            24,
        )
    finally:
        os.close(directory)
    guest = namespace.guest_path(fd) or f"{base.rstrip('/')}/{name.lstrip('/')}"
    return _opened_file(t, fd, flags, guest, fixed=not mount.writable)


def _open_resolved(t: GuestThread, dfd: int, name: str, flags: int, mode: int, resolve: int) -> File | int:
    """Resolve step by step in the guest's name space, then open what that came to."""
    files = t.files
    top = files.base(dfd, "") if resolve & (_BENEATH | _IN_ROOT) or not name.startswith("/") else "/"
    if name.startswith("/"):
        if resolve & _BENEATH:
            return -errno.EXDEV
        here = top if resolve & _IN_ROOT else "/"
    else:
        here = top
    floor = top if resolve & (_BENEATH | _IN_ROOT) else "/"
    todo = [part for part in reversed(name.split("/")) if part not in ("", ".")]
    keeps_last = bool(flags & t.abi.O_NOFOLLOW) or flags & (_O_CREAT | _O_EXCL) == _O_CREAT | _O_EXCL
    start, links = files.namespace.find(here), 0
    while todo:
        part = todo.pop()
        if part == "..":
            if here == floor and floor != "/":
                if resolve & _BENEATH:
                    return -errno.EXDEV
                continue
            here = here.rpartition("/")[0] or "/"
            continue
        step = f"{here.rstrip('/')}/{part}"
        with files.walk(_AT_FDCWD, step, follow=False) as place:
            target = ""
            if place.node is not None:
                target = place.node.target
                if target and (place.node.opener is not None or part in ("exe", "cwd", "root")):
                    if resolve & (_NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH | _IN_ROOT):
                        return -errno.ELOOP if resolve & (_NO_MAGICLINKS | _NO_SYMLINKS) else -errno.EXDEV
                    if place.node.opener is not None and not todo:
                        return open_place(t, place, flags, mode)
            else:
                try:
                    target = os.readlink(place.name, dir_fd=place.fd)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOENT):
                        raise
            if not todo and (not target or keeps_last):
                if resolve & _NO_XDEV and files.namespace.find(step) is not start:
                    return -errno.EXDEV
                if target and not flags & _O_PATH:
                    return -errno.ELOOP
                if name.endswith("/"):
                    place.must_be_directory = True
                return open_place(t, place, flags, mode)
        if resolve & _NO_XDEV and files.namespace.find(step) is not start:
            return -errno.EXDEV
        if target:
            links += 1
            if resolve & _NO_SYMLINKS or links > _MAX_LINKS:
                return -errno.ELOOP
            if target.startswith("/"):
                if resolve & _BENEATH:
                    return -errno.EXDEV
                here = floor if resolve & _IN_ROOT else "/"
            todo += [word for word in reversed(target.split("/")) if word not in ("", ".")]
        else:
            here = step
    with files.walk(_AT_FDCWD, here) as place:
        return open_place(t, place, flags, mode)


def open_(t: GuestThread, path: int, flags: int, mode: int) -> int:
    return openat(t, _AT_FDCWD, path, flags, mode)


def creat(t: GuestThread, path: int, mode: int) -> int:
    return openat(t, _AT_FDCWD, path, _O_CREAT | _O_TRUNC | 1, mode)


def close(t: GuestThread, fd: int) -> int:
    return t.files.close(fd & _FD)


def close_range(t: GuestThread, first: int, last: int, flags: int) -> int:
    first, last = first & _FD, last & _FD
    if first > last or flags & _FD & ~6:
        return -errno.EINVAL
    for number in [number for number in list(t.table) if first <= number <= last]:
        if flags & 4:
            t.files.close_on_exec.add(number)
        else:
            t.files.close(number)
    return 0


def dup(t: GuestThread, fd: int) -> int:
    return _duplicate(t, fd, 0, cloexec=False)


def _duplicate(t: GuestThread, fd: int, lowest: int, *, cloexec: bool) -> int:
    files = t.files
    with files.lock:
        file = files.table.get(fd & _FD)
        if file is None:
            return -errno.EBADF
        file.refs += 1
    return files.add(file, cloexec=cloexec, lowest=lowest)


def dup3(t: GuestThread, old: int, new: int, flags: int) -> int:
    if old & _FD == new & _FD or flags & _FD & ~_O_CLOEXEC:
        return -errno.EINVAL
    files = t.files
    number = new & _FD
    if number >= files.limit:
        return -errno.EBADF
    with files.lock:
        file = files.table.get(old & _FD)
        if file is None:
            return -errno.EBADF
        file.refs += 1
        replaced = files.table.get(number)
        files.table[number] = file
        files.close_on_exec.discard(number)
        if flags & _O_CLOEXEC:
            files.close_on_exec.add(number)
    if replaced is not None:
        files.unlock(replaced)
        files.release(replaced)
    return number


def dup2(t: GuestThread, old: int, new: int) -> int:
    if old & _FD == new & _FD:
        return new & _FD if old & _FD in t.table else -errno.EBADF
    return dup3(t, old, new, 0)


def pipe2(t: GuestThread, result: int, flags: int) -> int:
    if flags & _FD & ~(_O_CLOEXEC | _O_NONBLOCK | t.abi.O_DIRECT):
        return -errno.EINVAL
    t.memory.check(result, 8, _WRITE)
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    keep = flags & (_O_NONBLOCK | t.abi.O_DIRECT)
    cloexec = bool(flags & _O_CLOEXEC)
    reader = t.files.add(File(ends[0], keep), cloexec=cloexec)
    writer = t.files.add(File(ends[1], keep | 1), cloexec=cloexec)
    if reader < 0 or writer < 0:
        for number in (reader, writer):
            if number >= 0:
                t.files.close(number)
        return -errno.EMFILE
    t.memory.write(result, struct.pack("<ii", reader, writer))
    return 0


def pipe(t: GuestThread, result: int) -> int:
    return pipe2(t, result, 0)


def memfd_create(t: GuestThread, name: int, flags: int) -> int:
    flags &= _FD
    if flags & ~0x1F or flags & 0x18 == 0x18:
        return -errno.EINVAL
    if flags & 4:
        return -errno.ENOSYS  # huge pages are the host's to give
    text = os.fsdecode(t.memory.read_cstring(name, 250))
    fd = host_call("memfd_create", os.fsencode(text) + b"\0", 1 | flags)
    return t.files.add(
        File(fd, 2, path=f"/memfd:{text} (deleted)", kind=REGULAR, fixed=False), cloexec=bool(flags & 1)
    )


def eventfd2(t: GuestThread, value: int, flags: int) -> int:
    if flags & _FD & ~(1 | _O_NONBLOCK | _O_CLOEXEC):
        return -errno.EINVAL
    fd = os.eventfd(value & 0xFFFF_FFFF, os.EFD_CLOEXEC | os.EFD_NONBLOCK | (flags & 1))
    file = File(fd, 2 | (flags & _O_NONBLOCK), path="anon_inode:[eventfd]", kind=STREAM)
    return t.files.add(file, cloexec=bool(flags & _O_CLOEXEC))


_GETLK, _SETLK, _SETLKW = 5, 6, 7


def fcntl_(t: GuestThread, fd: int, command: int, argument: int) -> int:
    files = t.files
    file = files.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    command &= _FD
    number = fd & _FD
    if file.kind == PATH and command not in (0, 1, 2, 3, 1030):
        return -errno.EBADF
    if command in (0, 1030):
        lowest = s32(argument)
        if lowest < 0 or lowest >= files.limit:
            return -errno.EINVAL
        return _duplicate(t, fd, lowest, cloexec=command == 1030)
    if command == 1:
        return int(number in files.close_on_exec)
    if command == 2:
        (files.close_on_exec.add if argument & 1 else files.close_on_exec.discard)(number)
        return 0
    if command == 3:
        # What was opened by a name has it, as on every 64-bit Linux.
        named = file.kind in (REGULAR, DIRECTORY, EMULATED) or file.path.startswith("/")
        return file.flags | (t.abi.O_LARGEFILE if named and file.kind != PATH else 0)
    if command == 4:
        change = _O_APPEND | _O_NONBLOCK
        file.flags = (file.flags & ~change) | (argument & change)
        files.described_again(file)
        if not file.inherited and file.fd >= 0:
            # The host descriptor stays non-blocking; only appending is the host's business.
            flags = fcntl.fcntl(file.fd, fcntl.F_GETFL) & ~os.O_APPEND
            fcntl.fcntl(file.fd, fcntl.F_SETFL, flags | (os.O_APPEND if argument & _O_APPEND else 0))
        return 0
    if command in (_GETLK, _SETLK, _SETLKW, 36, 37, 38):
        return _lock(t, file, command, argument)
    if command in (1032, 1034):
        return fcntl.fcntl(file.fd, command)
    if command == 1031 and argument & _FD > _MAX_PIPE:
        # Whatever the host's user may do: pipes are the host's memory.
        return -errno.EINVAL if argument & _FD > 1 << 31 else -errno.EPERM
    if command in (1031, 1033):
        return fcntl.fcntl(file.fd, command, argument & 0x7FFF_FFFF)
    if command == 1027:
        other = files.table.get(argument & _FD)
        return -errno.EBADF if other is None else int(other is file)
    if 1035 <= command <= 1038:
        return _write_hint(t, file, command, argument)
    return _ownership(t, file, command, argument)


_SETOWN, _GETOWN, _SETSIG, _GETSIG, _SETOWN_EX, _GETOWN_EX = 8, 9, 10, 11, 15, 16
_SETLEASE, _GETLEASE = 1024, 1025
_PID, _PGRP = 1, 2


def _own(t: GuestThread, file: File, kind: int, pid: int) -> int:
    """Signals about a file are for a thread, a process or a group from now on, or for 0: nobody."""
    from vm_core.linux.system import has_group

    process = t.process
    if pid and not process.knows(pid) and pid not in process.threads and not has_group(process, pid):
        return -errno.ESRCH
    file.owner = (kind, pid)
    return 0


def _ownership(t: GuestThread, file: File, command: int, argument: int) -> int:
    """Whom signals about a file are for. They are kept, but never sent: O_ASYNC does nothing."""
    if command == _GETOWN:
        kind, pid = file.owner
        return -pid if kind == _PGRP else pid
    if command == _SETOWN:
        pid = s32(argument)
        if pid == -1 << 31:
            return -errno.EINVAL
        return _own(t, file, _PGRP if pid < 0 else _PID, abs(pid))
    if command == _GETOWN_EX:
        t.memory.write(argument, struct.pack("<ii", *file.owner))
        return 0
    if command == _SETOWN_EX:
        kind, pid = struct.unpack("<ii", t.memory.read(argument, 8))
        if not 0 <= kind <= _PGRP:
            return -errno.EINVAL
        return _own(t, file, kind, pid)
    if command == _SETSIG:
        if not 0 <= s32(argument) <= 64:
            return -errno.EINVAL
        file.signal = s32(argument)
        return 0
    if command == _GETSIG:
        return file.signal
    if command == _GETLEASE:
        return fcntl.F_UNLCK
    if command == _SETLEASE:
        return -errno.EAGAIN if s32(argument) in (0, 1, 2) else -errno.EINVAL
    return -errno.EINVAL


def _write_hint(t: GuestThread, file: File, command: int, argument: int) -> int:
    """How long what is written will live: 8 bytes, told or asked."""
    if file.fd < 0:
        return -errno.EINVAL
    t.memory.check(argument, 8, _WRITE if command in (1035, 1037) else _READ)
    # SAFETY: 8 bytes of guest memory that the guest may use so.
    return host_call("fcntl", file.fd, command, t.memory.host_address + argument)


def _lock(t: GuestThread, file: File, command: int, argument: int) -> int:
    """struct flock has the same layout on every 64-bit ABI. Waiting is asking again, so that it can be ended."""
    raw = t.memory.read(argument, 32)
    waiting = command in (_SETLKW, 38)
    while True:
        try:
            out = fcntl.fcntl(file.fd, command - 1 if waiting else command, raw)
        except (BlockingIOError, PermissionError):
            if not waiting:
                raise
            if not t.sleep(0.01):
                return RESTART
            continue
        if command in (_GETLK, 36):
            t.memory.write(argument, out)
        elif command in (_SETLK, _SETLKW):
            info = os.fstat(file.fd)
            t.files.locked.add((info.st_dev, info.st_ino))
        return 0


def flock(t: GuestThread, fd: int, operation: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    operation &= 0xFF
    while True:
        try:
            fcntl.flock(file.fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if operation & fcntl.LOCK_NB:
                raise
        else:
            return 0
        if not t.sleep(0.01):
            return RESTART


# -- terminals --------------------------------------------------------------------------------------------------

_FICLONE: Final = 0x4004_9409
_FIONREAD, _FIONBIO, _FIOCLEX, _FIONCLEX, _FIOASYNC = 0x541B, 0x5421, 0x5451, 0x5450, 0x5452


def ioctl(t: GuestThread, fd: int, request: int, argument: int) -> int:
    """The terminal requests and FIO*; anything else is ENOTTY, so that a guest cannot drive host devices."""
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    request &= _FD
    if request == _FIONBIO:
        on = t.memory.load(argument, 4)
        file.flags = file.flags | _O_NONBLOCK if on else file.flags & ~_O_NONBLOCK
        t.files.described_again(file)
        return 0
    if request in (_FIOCLEX, _FIONCLEX):
        change = t.files.close_on_exec.add if request == _FIOCLEX else t.files.close_on_exec.discard
        change(fd & _FD)
        return 0
    if file.fd < 0:
        return -errno.ENOTTY
    if request == _FIOASYNC:
        on = t.memory.load(argument, 4)
        if on and file.kind not in (STREAM, SOCKET):
            return -errno.ENOTTY
        # Kept, see _ownership: nginx has it for the sockets by which it tells its workers something, and does without.
        file.flags = file.flags | _O_ASYNC if on else file.flags & ~_O_ASYNC
        return 0
    if request == _FIONREAD:
        out = fcntl.ioctl(file.fd, termios.FIONREAD, b"\0\0\0\0")
        t.memory.write(argument, out)
        return 0
    if file.kind == PATH:
        return -errno.EBADF
    if request == _FICLONE:
        source = t.table.get(argument & _FD)
        if source is None or source.fd < 0 or not file.flags & 3:
            return -errno.EBADF
        return fcntl.ioctl(file.fd, _FICLONE, source.fd)
    if file.kind == SOCKET and request >> 8 == 0x89:
        from vm_core.linux import net

        result = net.ioctl(t, file, request, argument)
    else:
        result = terminal.ioctl(t, file, request, argument)
    if result is not None:
        return result
    return -errno.ENOTTY
