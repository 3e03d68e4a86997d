"""execve(2) and execveat(2): the process goes on as another program.

The host process stays: the guest's memory and its engine are replaced by new ones. All that can fail is looked at before the
old program is given up; its other threads then leave, and the host thread of the first one loads the new program.
"""

from __future__ import annotations

import errno
import os
import stat

from vm_core.errors import LoadError
from vm_core.hints import TYPE_CHECKING, Final, NamedTuple
from vm_core.linux.abi import s32
from vm_core.linux.files import REGULAR, File
from vm_core.linux.paths import Place
from vm_core.linux.system import ThreadEnd

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["Request", "execve", "execveat"]

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH, _AT_SYMLINK_NOFOLLOW = 0x1000, 0x100
_MAX_WORD: Final = 32 * 4096
_MAX_BYTES: Final = 2 << 20
"""Bytes of one word, and of all arguments and variables: a quarter of the stack, as on Linux."""
_MAX_WORDS: Final = 0x7FFF_FFFF
_MAX_SCRIPTS: Final = 4
_LINE: Final = 256


class Request(NamedTuple):
    """A program to execute: the host descriptor of its file, the guest's path of it, and what was asked for, perhaps a
    script: its name, and comm."""

    fd: int
    path: str
    name: str
    comm: str
    argv: list[bytes]
    env: list[bytes]


def execve(t: GuestThread, path: int, argv: int, env: int) -> int:
    return _execute(t, _AT_FDCWD, t.path(path), argv, env, 0)


def execveat(t: GuestThread, dfd: int, path: int, argv: int, env: int, flags: int) -> int:
    if flags & 0xFFFF_FFFF & ~(_AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW):
        return -errno.EINVAL
    return _execute(t, dfd, t.path(path), argv, env, flags)


def _execute(t: GuestThread, dfd: int, path: str, argv_at: int, env_at: int, flags: int) -> int:
    name = path
    if dfd_is_used(dfd, path):
        name = f"/dev/fd/{s32(dfd)}" + (f"/{path}" if path else "")
    fd = -1
    try:
        fd, guest = _open(t, dfd, path, flags)
        asked, comm = name, os.path.basename(path or guest)
        words = _words(t, argv_at, 0) or [b""]
        env = _words(t, env_at, sum(len(word) + 9 for word in words))
        for _ in range(_MAX_SCRIPTS + 1):
            head = os.pread(fd, _LINE, 0)
            if head[:2] != b"#!":
                break
            interpreter, option = _script(head)
            words = [interpreter, *([option] if option else []), os.fsencode(name), *words[1:]]
            os.close(fd)
            fd = -1
            name = os.fsdecode(interpreter)
            fd, guest = _open(t, _AT_FDCWD, name, 0)
        else:
            return -errno.ELOOP
        if head[:4] != b"\x7fELF":
            return -errno.ENOEXEC
        try:
            t.process.check_program(fd)
        except LoadError as error:
            t.process.explain(f"exec {guest}", f"{guest} cannot be executed: {error}")
            return -errno.ENOEXEC
        t.process.replace_by(t, Request(fd, guest, asked, comm, words, env))
        fd = -1
    finally:
        if fd >= 0:
            os.close(fd)
    raise ThreadEnd


def dfd_is_used(dfd: int, path: str) -> bool:
    """Whether a path starts from a descriptor that is a file's or a directory's."""
    return s32(dfd) != _AT_FDCWD and not path.startswith("/")


def _words(t: GuestThread, address: int, used: int) -> list[bytes]:
    """A vector of strings, NULL for none. Raises OSError and MemoryFault."""
    out: list[bytes] = []
    memory = t.memory
    while address:
        pointer = memory.load(address, 8)
        if not pointer:
            break
        try:
            word = memory.read_cstring(pointer, _MAX_WORD)
        except ValueError:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG)) from None
        used += len(word) + 9
        if used > _MAX_BYTES:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        out.append(word)
        address += 8
    return out


def _open(t: GuestThread, dfd: int, path: str, flags: int) -> tuple[int, str]:
    """The host descriptor of a file that may be executed, and the guest's path of it. Raises OSError."""
    if not path:
        if not flags & _AT_EMPTY_PATH:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        file = t.table.get(dfd & 0xFFFF_FFFF)
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return _of_file(file), file.path
    with t.files.walk(dfd, path, follow=not flags & _AT_SYMLINK_NOFOLLOW) as place:
        if place.node is not None:
            return _of_node(t, place)
        info = place.stat()
        if stat.S_ISLNK(info.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not stat.S_ISREG(info.st_mode):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=place.fd)
        return _checked(fd), place.guest


def _of_node(t: GuestThread, place: Place) -> tuple[int, str]:
    """An open file by its name in /proc/self/fd."""
    node = place.node
    assert node is not None
    if node.opener is None or stat.S_ISDIR(node.mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    opened = node.opener(0)
    assert isinstance(opened, File)
    try:
        return _of_file(opened), opened.path
    finally:
        t.files.release(opened)


def _of_file(file: File) -> int:
    """A descriptor of our own for an open file, also of one opened with O_PATH. Raises OSError."""
    if file.fd < 0:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if file.kind != REGULAR:
        # O_PATH: what it names is opened. The link in /proc is the kernel's, and leads nowhere else.
        return _checked(os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    return _checked(os.dup(file.fd))


def _checked(fd: int) -> int:
    """The descriptor, if its file may be executed. Raises OSError, with it closed."""
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) or not mode & 0o111:
        os.close(fd)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return fd


def _script(head: bytes) -> tuple[bytes, bytes]:
    """The interpreter and its one argument, of a file's first bytes. Raises OSError."""
    line, newline, _ = head[2:].partition(b"\n")
    interpreter, _, option = line.strip(b" \t").partition(b" ")
    interpreter, tab, rest = interpreter.partition(b"\t")
    if tab:
        option = rest + (b" " + option if option else b"")
    if not interpreter or (not newline and len(head) == _LINE and not option):
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
    return interpreter, option.strip(b" \t")
