"""The client's file access: what the guest sees, and nothing else. gdb manual, appendix E, "Host I/O Packets"."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from vm_core.debug.numbers import error_to_gdb, open_flags
from vm_core.debug.packets import MOST, escape, unescape
from vm_core.linux.files import DIRECTORY, EMULATED, REGULAR, File, open_place

if TYPE_CHECKING:
    from vm_core.linux.paths import Place
    from vm_core.linux.process import Process

__all__ = ["RemoteFiles"]

_MOST_OPEN: Final = 64
_AT_FDCWD: Final = -100
_STAT: Final = struct.Struct(">7I3Q3I")


class RemoteFiles:
    """The files that one client has open, by its own numbers."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._open: dict[int, File] = {}

    def answer(self, text: bytes) -> bytes:
        """A packet's words behind ``vFile:``. Raises ValueError."""
        name, _, rest = text.partition(b":")
        made = getattr(self, f"_do_{name.decode('ascii', 'replace')}", None) if name in _OPERATIONS else None
        if made is None:
            return b""
        try:
            answer: bytes = made(rest)
        except OSError as error:
            return f"F-1,{error_to_gdb(error.errno or errno.EIO):x}".encode()
        return answer

    def close(self) -> None:
        """The client is gone."""
        for file in self._open.values():
            self._process.files.release(file)
        self._open.clear()

    def _file(self, text: bytes) -> File:
        file = self._open.get(int(text, 16))
        if file is None:
            raise _error(errno.EBADF)
        return file

    def _walk(self, text: bytes, *, follow: bool = True) -> Place:
        path = os.fsdecode(bytes.fromhex(text.decode()))
        if not path or "\0" in path:
            raise _error(errno.ENOENT)
        return self._process.files.walk(_AT_FDCWD, path, follow=follow)

    def _do_setfs(self, _rest: bytes) -> bytes:
        return b"F0"  # every process sees the same files

    def _do_open(self, rest: bytes) -> bytes:
        path, flags, mode = rest.split(b",")
        if len(self._open) >= _MOST_OPEN:
            raise _error(errno.EMFILE)
        # A FIFO or a device could make this thread wait.
        wanted = open_flags(int(flags, 16)) | os.O_NONBLOCK
        with self._walk(path) as place:
            file = open_place(self._process.main, place, wanted, int(mode, 16))
        if isinstance(file, int):
            raise _error(-file)
        if file.kind != REGULAR:
            self._process.files.release(file)
            raise _error(errno.EISDIR if file.kind in (DIRECTORY, EMULATED) else errno.EACCES)
        number = next(n for n in range(_MOST_OPEN) if n not in self._open)
        self._open[number] = file
        return f"F{number:x}".encode()

    def _do_close(self, rest: bytes) -> bytes:
        file = self._file(rest)
        del self._open[int(rest, 16)]
        self._process.files.release(file)
        return b"F0"

    def _do_pread(self, rest: bytes) -> bytes:
        number, count, offset = rest.split(b",")
        data = os.pread(self._file(number).fd, min(int(count, 16), MOST // 2 - 16), int(offset, 16))
        return b"F%x;" % len(data) + escape(data)

    def _do_pwrite(self, rest: bytes) -> bytes:
        number, offset, data = rest.split(b",", 2)
        return b"F%x" % os.pwrite(self._file(number).fd, unescape(data), int(offset, 16))

    def _do_fstat(self, rest: bytes) -> bytes:
        file = self._file(rest)
        return _stat(os.fstat(file.fd), file.mode)

    def _do_stat(self, rest: bytes) -> bytes:
        with self._walk(rest) as place:
            return _stat(*_look(place))

    def _do_lstat(self, rest: bytes) -> bytes:
        with self._walk(rest, follow=False) as place:
            return _stat(*_look(place))

    def _do_unlink(self, rest: bytes) -> bytes:
        with self._walk(rest, follow=False) as place:
            there = place.to_change()
            os.unlink(there.name, dir_fd=there.fd)
        return b"F0"

    def _do_readlink(self, rest: bytes) -> bytes:
        with self._walk(rest, follow=False) as place:
            if place.node is None:
                text = os.readlink(place.name, dir_fd=place.fd)
            elif place.node.target:
                text = place.node.target
            else:
                raise _error(errno.EINVAL)
        data = os.fsencode(text)
        return b"F%x;" % len(data) + escape(data)


_OPERATIONS: Final = frozenset(
    name.removeprefix("_do_").encode() for name in vars(RemoteFiles) if name.startswith("_do_")
)


def _look(place: Place) -> tuple[os.stat_result, int | None]:
    """What an entry is; for an emulated one, with the mode that it shows. Raises OSError."""
    if place.node is None:
        return place.stat(), None
    return os.stat_result((0,) * 10), place.node.mode


def _stat(info: os.stat_result, mode: int | None) -> bytes:
    """struct stat as the protocol has it."""
    most = 0xFFFF_FFFF
    heads = (
        info.st_dev, info.st_ino, info.st_mode if mode is None else mode, info.st_nlink, info.st_uid, info.st_gid,
        getattr(info, "st_rdev", 0) or 0,
    )  # fmt: skip
    sizes = (info.st_size, getattr(info, "st_blksize", 0) or 0, getattr(info, "st_blocks", 0) or 0)
    times = (int(info.st_atime), int(info.st_mtime), int(info.st_ctime))
    data = _STAT.pack(*(head & most for head in heads), *sizes, *(moment & most for moment in times))
    return b"F%x;" % len(data) + escape(data)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
