"""What the names and properties of files say, and how they change: stat, links, directories, modes, times.

Each call walks its path to an open host directory and one name in it (:mod:`vm_core.linux.paths`), and acts on that
name without following a link.

Linux 6.x, man-pages 6.x section 2.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32, s64
from vm_core.linux.files import DIRECTORY, EMULATED, PATH, File, host_umask, open_place
from vm_core.linux.host import call as host_call
from vm_core.linux.paths import Place, getdents
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__: list[str] = []

_FD: Final = 0xFFFF_FFFF
_AT_FDCWD: Final = -100
_O_NONBLOCK, _O_PATH = 0o4000, 0o10000000
_AT_NOFOLLOW, _AT_REMOVEDIR, _AT_FOLLOW, _AT_EMPTY = 0x100, 0x200, 0x400, 0x1000
_AT_EACCESS: Final = 0x200


def _file_stat(t: GuestThread, file: File) -> tuple[os.stat_result, int | None, int | None]:
    if file.kind == EMULATED:
        node = t.process.files.namespace.emulated(file.path)
        number = 0 if node is None else node.number
        return emulated_stat(t, stat.S_IFDIR | 0o555, number, 0), None, None
    return os.fstat(file.fd), file.mode, None


_EMULATED_DEVICE: Final = 0x10


def emulated_stat(t: GuestThread, mode: int, number: int, size: int) -> os.stat_result:
    """What an emulated entry is: the guest's own, as old as the process."""
    begin = t.process.some_stat
    times = (begin.st_ctime, begin.st_ctime, begin.st_ctime)
    links = 2 if stat.S_ISDIR(mode) else 1
    whole = tuple(map(int, times))
    exact = dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), begin.st_ctime_ns) | {
        "st_blksize": 4096,
        "st_blocks": 0,
        "st_rdev": 0,
    }
    return os.stat_result(
        (mode, number or 1, _EMULATED_DEVICE, links, os.geteuid(), os.getegid(), size, *whole), exact
    )


def _place_stat(
    t: GuestThread, place: Place, *, follow: bool
) -> tuple[os.stat_result, int | None, int | None]:
    node = place.node
    if node is None:
        return place.stat(), None, None
    if node.where and (follow or not stat.S_ISLNK(node.mode)):
        return os.stat(node.where), None, None
    if node.opener is not None and follow and stat.S_ISLNK(node.mode):
        opened = node.opener(_O_PATH)
        assert isinstance(opened, File)
        try:
            return _file_stat(t, opened)
        finally:
            t.files.release(opened)
    return emulated_stat(t, node.mode, node.number, len(node.target)), None, None


def _stat_at(
    t: GuestThread, dfd: int, path: int, flags: int
) -> tuple[os.stat_result, int | None, int | None]:
    """(what the host says, mode instead, size instead). Raises OSError and MemoryFault."""
    name = t.path(path) if path else ""
    if not name:
        if not flags & _AT_EMPTY:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if s32(dfd) == _AT_FDCWD:
            name = "."
        else:
            file = t.table.get(dfd & _FD)
            if file is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return _file_stat(t, file)
    follow = not flags & _AT_NOFOLLOW
    with t.files.walk(dfd, name, follow=follow, late=True) as place:
        found = _place_stat(t, place, follow=follow)
        if not place.late or not stat.S_ISLNK(found[0].st_mode):
            return found
    with t.files.walk(dfd, name, follow=follow) as place:
        return _place_stat(t, place, follow=follow)


def fstat(t: GuestThread, fd: int, result: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    t.memory.write(result, t.abi.stat(*_file_stat(t, file)))
    return 0


def newfstatat(t: GuestThread, dfd: int, path: int, result: int, flags: int) -> int:
    if flags & _FD & ~_STATX_FLAGS:
        return -errno.EINVAL
    t.memory.write(result, t.abi.stat(*_stat_at(t, dfd, path, flags)))
    return 0


def stat_(t: GuestThread, path: int, result: int) -> int:
    return newfstatat(t, _AT_FDCWD, path, result, 0)


def lstat(t: GuestThread, path: int, result: int) -> int:
    return newfstatat(t, _AT_FDCWD, path, result, _AT_NOFOLLOW)


_STATX_FLAGS: Final = _AT_NOFOLLOW | 0x800 | _AT_EMPTY | 0x6000
"""AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH and AT_STATX_SYNC_TYPE."""
_BASIC_STATX: Final = 0x7FF


def statx(t: GuestThread, dfd: int, path: int, flags: int, mask: int, result: int) -> int:
    flags &= _FD
    if mask >> 31 & 1 or flags & ~_STATX_FLAGS or flags & 0x6000 == 0x6000:
        return -errno.EINVAL
    name = t.path(path) if path else ""
    if not name:
        if not flags & _AT_EMPTY:
            return -errno.ENOENT
        if s32(dfd) != _AT_FDCWD:
            file = t.table.get(dfd & _FD)
            if file is None:
                return -errno.EBADF
            if file.kind != EMULATED:
                t.memory.write(result, _host_statx(file.fd, "", flags, mask, file.mode))
                return 0
    elif flags & _AT_NOFOLLOW:
        with t.files.walk(dfd, name, follow=False) as place:
            if place.node is None:
                place.stat()
                t.memory.write(result, _host_statx(place.fd, place.name, flags, mask, None))
                return 0
    else:
        with t.files.walk(dfd, name) as place:
            if place.node is None:
                place.stat()
                t.memory.write(result, _host_statx(place.fd, place.name, flags, mask, None))
                return 0
    t.memory.write(result, _made_statx(*_stat_at(t, dfd, path, flags)))
    return 0


def _host_statx(fd: int, name: str, flags: int, mask: int, mode: int | None) -> bytes:
    """struct statx of a name in a host directory, or of the descriptor itself; never following a link."""
    out = ctypes.create_string_buffer(256)
    flags = flags & 0x6000 | 0x800 | (_AT_NOFOLLOW if name else _AT_EMPTY)
    # SAFETY: a buffer of sizeof(struct statx) that outlives the call.
    host_call("statx", fd, os.fsencode(name) + b"\0", flags, mask & 0x7FFF_FFFF, out)
    if mode is not None:
        struct.pack_into("<H", out, 28, mode & 0xFFFF)
    return out.raw


def _made_statx(info: os.stat_result, mode: int | None, size: int | None) -> bytes:
    """struct statx of an emulated file."""
    mode = info.st_mode if mode is None else mode
    size = info.st_size if size is None else size

    def stamp(nanoseconds: int) -> bytes:
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        return struct.pack("<qIi", seconds, rest, 0)

    out = struct.pack(
        "<IIQIIIHHQQQQ",
        _BASIC_STATX, info.st_blksize, 0, info.st_nlink & 0xFFFF_FFFF, info.st_uid, info.st_gid, mode & 0xFFFF, 0,
        info.st_ino, size, info.st_blocks, 0,
    )  # fmt: skip
    out += stamp(info.st_atime_ns) + bytes(16) + stamp(info.st_ctime_ns) + stamp(info.st_mtime_ns)
    out += struct.pack(
        "<IIII", os.major(info.st_rdev), os.minor(info.st_rdev), os.major(info.st_dev), os.minor(info.st_dev)
    )
    return out.ljust(256, b"\0")


def _entries(file: File, size: int) -> bytes:
    """getdents64 records of an emulated directory from its position, as many as fit in ``size`` bytes."""
    names = (".", "..", *file.names)
    out = bytearray()
    while 0 <= file.position < len(names):
        raw = os.fsencode(names[file.position])
        length = (19 + len(raw) + 1 + 7) & -8
        if len(out) + length > size:
            break
        kind = 4 if file.position < 2 else 0
        head = struct.pack("<QqHB", file.position + 1, file.position + 1, length, kind)
        out += (head + raw).ljust(length, b"\0")
        file.position += 1
    return bytes(out)


def getdents64(t: GuestThread, fd: int, address: int, size: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    size = min(size & _FD, 1 << 20)
    if file.kind == EMULATED:
        if not file.position and (node := t.files.namespace.emulated(file.path)) is not None:
            file.names = node.names
        out = _entries(file, size)
        if not out and file.position < len(file.names) + 2:
            return -errno.EINVAL
        t.memory.write(address, out)
        return len(out)
    if file.kind == DIRECTORY:
        t.memory.check(address, size, Access.WRITE)
    elif file.kind != PATH:
        return -errno.ENOTDIR
    return getdents(file.fd, t.memory.host_address + address, size)


def readlinkat(t: GuestThread, dfd: int, path: int, result: int, size: int) -> int:
    if s32(size) <= 0:
        return -errno.EINVAL
    name = t.path(path)
    if not name:
        file = t.table.get(dfd & _FD)
        if file is None:
            return -errno.ENOENT if s32(dfd) == _AT_FDCWD else -errno.EBADF
        if file.kind != PATH:
            return -errno.ENOENT
        text = os.readlink("", dir_fd=file.fd)
    else:
        with t.files.walk(dfd, name, follow=False) as place:
            if place.node is not None:
                if not place.node.target:
                    return -errno.EINVAL
                text = place.node.target
            else:
                text = os.readlink(place.name, dir_fd=place.fd)
    raw = os.fsencode(text)[: size & _FD]
    t.memory.write(result, raw)
    return len(raw)


def readlink(t: GuestThread, path: int, result: int, size: int) -> int:
    return readlinkat(t, _AT_FDCWD, path, result, size)


def _named(t: GuestThread, dfd: int, path: int, flags: int) -> str:
    """A path argument; with AT_EMPTY_PATH, an empty one from the working directory is that directory."""
    name = t.path(path)
    return "." if not name and flags & _AT_EMPTY and s32(dfd) == _AT_FDCWD else name


def faccessat2(t: GuestThread, dfd: int, path: int, mode: int, flags: int) -> int:
    flags &= _FD
    if mode & _FD & ~7 or flags & ~(_AT_NOFOLLOW | _AT_EMPTY | _AT_EACCESS):
        return -errno.EINVAL
    mode &= 7
    name = _named(t, dfd, path, flags)
    if not name and flags & _AT_EMPTY:
        file = t.table.get(dfd & _FD)
        if file is None:
            return -errno.EBADF
        if file.fd < 0:
            return -errno.EACCES if mode & 2 else 0
        return 0 if os.access(f"/proc/self/fd/{file.fd}", mode, effective_ids=False) else -errno.EACCES
    follow = not flags & _AT_NOFOLLOW
    with t.files.walk(dfd, name, follow=follow) as place:
        if place.node is not None:
            granted = place.node.mode >> 6 & 7
            return -errno.EACCES if mode & ~granted else 0
        place.stat()
        assert place.mount is not None
        if mode & 2 and not place.mount.writable:
            return -errno.EROFS
        # Never following: the walk has resolved links, a new one is a race.
        allowed = os.access(
            place.name, mode, dir_fd=place.fd, follow_symlinks=False, effective_ids=bool(flags & _AT_EACCESS)
        )
        return 0 if allowed else -errno.EACCES


def faccessat(t: GuestThread, dfd: int, path: int, mode: int) -> int:
    return faccessat2(t, dfd, path, mode, 0)


def access(t: GuestThread, path: int, mode: int) -> int:
    return faccessat2(t, _AT_FDCWD, path, mode, 0)


def getcwd(t: GuestThread, result: int, size: int) -> int:
    raw = os.fsencode(t.files.cwd) + b"\0"
    if len(raw) > size:
        return -errno.ERANGE
    t.memory.write(result, raw)
    return len(raw)


def chdir(t: GuestThread, path: int) -> int:
    with t.files.walk(_AT_FDCWD, t.path(path)) as place:
        if place.node is not None:
            if not stat.S_ISDIR(place.node.mode):
                return -errno.ENOTDIR
        elif not stat.S_ISDIR(place.stat().st_mode):
            return -errno.ENOTDIR
        elif not os.access(place.name, os.X_OK, dir_fd=place.fd, follow_symlinks=False):
            return -errno.EACCES
        t.files.cwd = place.guest
    return 0


def fchdir(t: GuestThread, fd: int) -> int:
    t.files.cwd = t.files.base(fd, "")
    return 0


_STATFS: Final = struct.Struct("<qqQQQQQiiqqq4q")
_PROC_MAGIC, _TMPFS_MAGIC = 0x9FA0, 0x0102_1994


def _host_statfs(fd: int) -> bytes:
    """struct statfs, which is the same on every 64-bit ABI."""
    out = ctypes.create_string_buffer(_STATFS.size)
    # SAFETY: a buffer of sizeof(struct statfs) that outlives the call.
    host_call("fstatfs", fd, out)
    return out.raw


def _made_statfs(path: str) -> bytes:
    """struct statfs of an emulated file."""
    kind = _PROC_MAGIC if path == "/proc" or path.startswith("/proc/") else _TMPFS_MAGIC
    return _STATFS.pack(kind, 4096, 0, 0, 0, 0, 0, 0, 0, 255, 4096, 0x20, 0, 0, 0, 0)


def statfs(t: GuestThread, path: int, result: int) -> int:
    with t.files.walk(_AT_FDCWD, t.path(path)) as place:
        if place.node is not None:
            t.memory.write(result, _made_statfs(place.guest))
            return 0
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
        try:
            t.memory.write(result, _host_statfs(fd))
        finally:
            os.close(fd)
    return 0


def fstatfs(t: GuestThread, fd: int, result: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    t.memory.write(result, _host_statfs(file.fd) if file.fd >= 0 else _made_statfs(file.path))
    return 0


# -- changing directories ---------------------------------------------------------------------------------------


_NO_NAMES: Final = {"": errno.EBUSY, ".": errno.EINVAL, "..": errno.ENOTEMPTY}
"""What ends a path and is no name in a directory, and why rmdir does not remove it. The first is /."""


def _last(path: str) -> str:
    """The last component of a path."""
    return path.rstrip("/").rpartition("/")[2]


def _check_there(t: GuestThread, dfd: int, name: str) -> None:
    """Raises OSError unless a path leads to something."""
    with t.files.walk(dfd, name) as place:
        if place.node is None:
            place.stat()


def unlinkat(t: GuestThread, dfd: int, path: int, flags: int) -> int:
    if flags & _FD & ~_AT_REMOVEDIR:
        return -errno.EINVAL
    name = t.path(path)
    if name and (refused := _NO_NAMES.get(_last(name))) is not None:
        _check_there(t, dfd, name)
        return -(refused if flags & _AT_REMOVEDIR else errno.EISDIR)
    with t.files.walk(dfd, name.rstrip("/"), follow=False) as place:
        place.to_change()
        place.must_be_directory = name.endswith("/")
        if flags & _AT_REMOVEDIR:
            os.rmdir(place.name, dir_fd=place.fd)
        else:
            place.stat()
            os.unlink(place.name, dir_fd=place.fd)
    return 0


def unlink(t: GuestThread, path: int) -> int:
    return unlinkat(t, _AT_FDCWD, path, 0)


def rmdir(t: GuestThread, path: int) -> int:
    return unlinkat(t, _AT_FDCWD, path, _AT_REMOVEDIR)


def mkdirat(t: GuestThread, dfd: int, path: int, mode: int) -> int:
    name = t.path(path)
    if name and _last(name) in _NO_NAMES:
        _check_there(t, dfd, name)
        return -errno.EEXIST
    with t.files.walk(dfd, name.rstrip("/"), follow=False) as place:
        if place.node is not None or place.name == ".":
            return -errno.EEXIST
        place.to_change()
        wanted = mode & t.files.modes & ~t.files.umask
        os.mkdir(place.name, wanted, dir_fd=place.fd)
        _widen(place, wanted, stat.S_IFDIR)
    return 0


def _widen(place: Place, mode: int, kind: int) -> None:
    """Give what has just been made the bits that the host's umask took from it."""
    if not mode & host_umask():
        return
    try:
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    except OSError:
        return  # it has gone meanwhile
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) == kind:
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def mkdir(t: GuestThread, path: int, mode: int) -> int:
    return mkdirat(t, _AT_FDCWD, path, mode)


def mknodat(t: GuestThread, dfd: int, path: int, mode: int, device: int) -> int:
    """Regular files, FIFOs and sockets; only a trusted guest makes a device, if the host lets this user."""
    mode &= 0xFFFF
    kind, bits = stat.S_IFMT(mode), mode & t.files.modes & ~t.files.umask
    if kind == stat.S_IFDIR:
        return -errno.EPERM
    if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        return -errno.EINVAL
    with _new(t, dfd, path) as place:
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and not t.process.trust:
            return -errno.EPERM
        if kind == stat.S_IFIFO:
            os.mkfifo(place.name, bits, dir_fd=place.fd)
            _widen(place, bits, stat.S_IFIFO)
        elif kind in (0, stat.S_IFREG):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(place.name, flags, bits, dir_fd=place.fd))
        elif kind == stat.S_IFSOCK:
            os.mknod(place.name, kind | bits, dir_fd=place.fd)
        else:
            os.mknod(place.name, kind | bits, device & 0xFFFF_FFFF, dir_fd=place.fd)
            _widen(place, bits, kind)
    return 0


@contextmanager
def _new(t: GuestThread, dfd: int, path: int) -> Iterator[Place]:
    """Where something that is no directory will be made. Raises OSError."""
    name = t.path(path)
    if name and _last(name) in _NO_NAMES:
        _check_there(t, dfd, name)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    with t.files.walk(dfd, name.rstrip("/"), follow=False) as place:
        place.to_change()
        if name.endswith("/"):
            place.stat()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        yield place


def mknod(t: GuestThread, path: int, mode: int, device: int) -> int:
    return mknodat(t, _AT_FDCWD, path, mode, device)


_NOREPLACE, _EXCHANGE = 1, 2


def renameat2(t: GuestThread, old_dfd: int, old: int, new_dfd: int, new: int, flags: int) -> int:
    flags &= _FD
    if flags & ~(_NOREPLACE | _EXCHANGE) or flags == _NOREPLACE | _EXCHANGE:
        return -errno.EINVAL
    old_name, new_name = t.path(old), t.path(new)
    for dfd, name in ((old_dfd, old_name), (new_dfd, new_name)):
        if name and _last(name) in _NO_NAMES:
            _check_there(t, dfd, name)
            return -(errno.EEXIST if flags & _NOREPLACE and name is new_name else errno.EBUSY)
    with (
        t.files.walk(old_dfd, old_name.rstrip("/"), follow=False) as source,
        t.files.walk(new_dfd, new_name.rstrip("/"), follow=False) as target,
    ):
        source.to_change()
        target.to_change()
        # Only a directory's name may end with a slash.
        exchanged = bool(flags & _EXCHANGE) and new_name.endswith("/")
        for place, must in (
            (source, old_name.endswith("/") or (new_name.endswith("/") and not exchanged)),
            (target, exchanged),
        ):
            if must:
                place.must_be_directory = True
                place.stat()
        if source.mount is not target.mount:
            return -errno.EXDEV
        # A mount does not move with its parent here: under the new name, what it covers would come to light.
        if any(t.files.namespace.holds_mount(place.guest) for place in (source, target)):
            return -errno.EBUSY
        if flags & (_NOREPLACE | _EXCHANGE):
            host_call(
                "renameat2",
                source.fd,
                os.fsencode(source.name) + b"\0",
                target.fd,
                os.fsencode(target.name) + b"\0",
                flags,
            )
            return 0
        os.rename(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
    return 0


def renameat(t: GuestThread, old_dfd: int, old: int, new_dfd: int, new: int) -> int:
    return renameat2(t, old_dfd, old, new_dfd, new, 0)


def rename(t: GuestThread, old: int, new: int) -> int:
    return renameat2(t, _AT_FDCWD, old, _AT_FDCWD, new, 0)


def linkat(t: GuestThread, old_dfd: int, old: int, new_dfd: int, new: int, flags: int) -> int:
    if flags & _FD & ~(_AT_FOLLOW | _AT_EMPTY):
        return -errno.EINVAL
    if flags & _AT_EMPTY and not t.path(old):
        return _link_open(t, old_dfd, new_dfd, new)
    with (
        t.files.walk(old_dfd, t.path(old), follow=bool(flags & _AT_FOLLOW)) as source,
        _new(t, new_dfd, new) as target,
    ):
        if source.node is not None and (number := source.guest.rpartition("/fd/")[2]).isdecimal():
            return _link_open(t, int(number), new_dfd, new)
        # Another mount may be read-only: a link to its file in a writable one would get around that.
        if source.node is not None or source.mount is not target.mount:
            return -errno.EXDEV
        os.link(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd, follow_symlinks=False)
    return 0


def _link_open(t: GuestThread, fd: int, new_dfd: int, new: int) -> int:
    """A name for a file that has been opened with O_TMPFILE, or by a name in the same mount."""
    file = _writable(t, fd)
    with _new(t, new_dfd, new) as target:
        if file.fixed or target.mount is None or t.files.namespace.find(file.path) is not target.mount:
            return -errno.EXDEV
        os.link(f"/proc/self/fd/{file.fd}", target.name, dst_dir_fd=target.fd, follow_symlinks=True)
    return 0


def link(t: GuestThread, old: int, new: int) -> int:
    return linkat(t, _AT_FDCWD, old, _AT_FDCWD, new, 0)


def symlinkat(t: GuestThread, target: int, dfd: int, path: int) -> int:
    text = t.path(target)
    if not text:
        return -errno.ENOENT
    with _new(t, dfd, path) as place:
        os.symlink(text, place.name, dir_fd=place.fd)
    return 0


def symlink(t: GuestThread, target: int, path: int) -> int:
    return symlinkat(t, target, _AT_FDCWD, path)


def _writable(t: GuestThread, fd: int) -> File:
    file = t.table.get(fd & _FD)
    if file is None or file.fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return file


def ftruncate(t: GuestThread, fd: int, length: int) -> int:
    if s64(length) < 0:
        return -errno.EINVAL
    os.ftruncate(_writable(t, fd).fd, length)
    return 0


def truncate(t: GuestThread, path: int, length: int) -> int:
    if s64(length) < 0:
        return -errno.EINVAL
    with t.files.walk(_AT_FDCWD, t.path(path)) as place:
        file = open_place(t, place, 1 | _O_NONBLOCK, 0)
    if isinstance(file, int):
        return file
    try:
        os.ftruncate(file.fd, length)
    finally:
        t.files.release(file)
    return 0


def _changeable(t: GuestThread, fd: int, *, path_too: bool = False) -> File:
    """A file whose properties may be changed; with ``path_too`` one that was opened with O_PATH is fine. Raises OSError."""
    file = _writable(t, fd)
    if file.kind == PATH and not path_too:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.fixed:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return file


def fchmod(t: GuestThread, fd: int, mode: int) -> int:
    os.fchmod(_changeable(t, fd).fd, mode & t.files.modes)
    return 0


def fchmodat(t: GuestThread, dfd: int, path: int, mode: int) -> int:
    """Set-user-ID bits are dropped: a guest must not leave a privileged program behind."""
    return _chmod(t, dfd, t.path(path), mode)


def _chmod(t: GuestThread, dfd: int, name: str, mode: int) -> int:
    with t.files.walk(dfd, name) as place:
        file = _open_for_change(t, place)
    try:
        # chmod has no form that takes an O_PATH descriptor or refuses links; the descriptor's own name does.
        os.chmod(f"/proc/self/fd/{file}", mode & t.files.modes)
    finally:
        os.close(file)
    return 0


def fchmodat2(t: GuestThread, dfd: int, path: int, mode: int, flags: int) -> int:
    if flags & _FD & ~(_AT_NOFOLLOW | _AT_EMPTY):
        return -errno.EINVAL
    name = _named(t, dfd, path, flags)
    if not name and flags & _AT_EMPTY:
        file = _changeable(t, dfd, path_too=True)
        os.chmod(f"/proc/self/fd/{file.fd}", mode & t.files.modes)
        return 0
    if flags & _AT_NOFOLLOW:
        with t.files.walk(dfd, name, follow=False) as place:
            if place.node is None and stat.S_ISLNK(place.stat().st_mode):
                return -errno.EOPNOTSUPP
    return _chmod(t, dfd, name, mode)


def _open_for_change(t: GuestThread, place: Place) -> int:
    if place.node is not None or place.mount is None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    if not place.mount.writable:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return fd


def chmod(t: GuestThread, path: int, mode: int) -> int:
    return fchmodat(t, _AT_FDCWD, path, mode)


def _owner(number: int) -> int:
    """A uid_t or gid_t; all ones, which keeps the owner, is -1."""
    number &= 0xFFFF_FFFF
    return -1 if number == 0xFFFF_FFFF else number


def fchown(t: GuestThread, fd: int, uid: int, gid: int) -> int:
    os.fchown(_changeable(t, fd).fd, _owner(uid), _owner(gid))
    return 0


def fchownat(t: GuestThread, dfd: int, path: int, uid: int, gid: int, flags: int) -> int:
    if flags & _FD & ~(_AT_NOFOLLOW | _AT_EMPTY):
        return -errno.EINVAL
    name = _named(t, dfd, path, flags)
    if not name and flags & _AT_EMPTY:
        file = _changeable(t, dfd, path_too=True)
        # By its number: chown by a name is no call that a confined process has.
        host_call("fchownat", file.fd, b"\0", uid & _FD, gid & _FD, _AT_EMPTY)
        return 0
    with t.files.walk(dfd, name, follow=not flags & _AT_NOFOLLOW) as place:
        if place.node is not None or place.mount is None:
            return -errno.EPERM
        if not place.mount.writable:
            return -errno.EROFS
        os.chown(place.name, _owner(uid), _owner(gid), dir_fd=place.fd, follow_symlinks=False)
    return 0


def chown(t: GuestThread, path: int, uid: int, gid: int) -> int:
    return fchownat(t, _AT_FDCWD, path, uid, gid, 0)


def lchown(t: GuestThread, path: int, uid: int, gid: int) -> int:
    return fchownat(t, _AT_FDCWD, path, uid, gid, _AT_NOFOLLOW)


_UTIME_NOW, _UTIME_OMIT = 0x3FFF_FFFF, 0x3FFF_FFFE


def utimensat(t: GuestThread, dfd: int, path: int, times: int, flags: int) -> int:
    stamps: tuple[int, int, int, int] | None = None
    if times:
        stamps = struct.unpack("<qqqq", t.memory.read(times, 32))
        if stamps[1] == stamps[3] == _UTIME_OMIT:
            return 0  # whatever it is that stays as it is
    return _touch(t, dfd, path, stamps, flags)


def utime(t: GuestThread, path: int, times: int) -> int:
    stamps: tuple[int, int, int, int] | None = None
    if times:
        accessed, modified = struct.unpack("<qq", t.memory.read(times, 16))
        stamps = (accessed, 0, modified, 0)
    return _touch(t, _AT_FDCWD, path, stamps, 0)


def utimes(t: GuestThread, path: int, times: int) -> int:
    return futimesat(t, _AT_FDCWD, path, times)


def futimesat(t: GuestThread, dfd: int, path: int, times: int) -> int:
    stamps: tuple[int, int, int, int] | None = None
    if times:
        raw = struct.unpack("<qqqq", t.memory.read(times, 32))
        if not (0 <= raw[1] < 1_000_000 and 0 <= raw[3] < 1_000_000):
            return -errno.EINVAL
        stamps = (raw[0], raw[1] * 1000, raw[2], raw[3] * 1000)
    return _touch(t, dfd, path, stamps, 0)


def _touch(t: GuestThread, dfd: int, path: int, stamps: tuple[int, int, int, int] | None, flags: int) -> int:
    """Set the times of a file, or, without a path, of a descriptor's."""
    if flags & _FD & ~(_AT_NOFOLLOW | _AT_EMPTY):
        return -errno.EINVAL
    by_number = not path and s32(dfd) != _AT_FDCWD
    if by_number and flags & _FD:
        return -errno.EINVAL
    name = "" if by_number else _named(t, dfd, path, flags)
    if by_number or (not name and flags & _AT_EMPTY):
        file = _changeable(t, dfd, path_too=not by_number)
        where = f"/proc/self/fd/{file.fd}" if file.kind == PATH else file.fd
        os.utime(where, ns=_stamps(stamps, os.fstat(file.fd)))
        return 0
    with t.files.walk(dfd, name, follow=not flags & _AT_NOFOLLOW) as place:
        if place.node is not None or place.mount is None:
            return -errno.EPERM
        if not place.mount.writable:
            return -errno.EROFS
        os.utime(place.name, ns=_stamps(stamps, place.stat()), dir_fd=place.fd, follow_symlinks=False)
    return 0


def _stamps(times: tuple[int, int, int, int] | None, info: os.stat_result) -> tuple[int, int]:
    now = time.time_ns()
    if times is None:
        return now, now
    out = []
    for seconds, nanoseconds, old in (
        (times[0], times[1], info.st_atime_ns),
        (times[2], times[3], info.st_mtime_ns),
    ):
        if nanoseconds == _UTIME_NOW:
            out.append(now)
        elif nanoseconds == _UTIME_OMIT:
            out.append(old)
        elif 0 <= nanoseconds < 1_000_000_000:
            out.append(seconds * 1_000_000_000 + nanoseconds)
        else:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return out[0], out[1]


def fsync(t: GuestThread, fd: int) -> int:
    os.fsync(_writable(t, fd).fd)
    return 0


def fdatasync(t: GuestThread, fd: int) -> int:
    os.fdatasync(_writable(t, fd).fd)
    return 0


def sync(_t: GuestThread) -> int:
    """Nothing to do: a guest must not be able to stall the host's disks. Its own files have fsync."""
    return 0


def umask(t: GuestThread, mask: int) -> int:
    old, t.files.umask = t.files.umask, mask & 0o777
    return old
