"""Moving data between files without the guest's memory, reserving and announcing ranges, and attributes beside a file.

A host pipe or socket is never waited on inside the host: the calls are made without blocking, and waited for here.

splice(2), tee(2), vmsplice(2), sendfile(2), copy_file_range(2), fallocate(2), readahead(2), preadv2(2), xattr(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux import files
from vm_core.linux.abi import s32, s64
from vm_core.linux.files import DIRECTORY, EMULATED, PATH, REGULAR, SOCKET, STREAM, File, wait_for
from vm_core.linux.host import call as host_call
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__: list[str] = []

_FD: Final = 0xFFFF_FFFF
_AT_FDCWD: Final = -100
_NONBLOCK: Final = 0o4000
_PIECE: Final = 1 << 20
"""Bytes that are moved before the end of the process is looked for."""
_SPLICE_NONBLOCK, _SPLICE_FLAGS = 2, 0xF


def _files(t: GuestThread, *numbers: int) -> list[File]:
    out = []
    for number in numbers:
        file = t.table.get(number & _FD)
        if file is None or file.kind == PATH:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if file.fd < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        out.append(file)
    return out


def _blocks(file: File) -> bool:
    return file.kind in (STREAM, SOCKET)


def _moved(t: GuestThread, source: File, sink: File, *, wait: bool, action: Callable[[], int]) -> int:
    """Do it once both ends are ready; a negative errno if a wait ended otherwise."""
    while True:
        if source.inherited and _blocks(source) and (result := _ready(t, source, select.POLLIN, wait=wait)):
            return result
        if sink.inherited and _blocks(sink) and (result := _ready(t, sink, select.POLLOUT, wait=wait)):
            return result
        try:
            return action()
        except BlockingIOError:
            pass
        # One of the two was not ready; which one is seen by asking.
        poll = select.poll()
        late, events = sink, select.POLLOUT
        if _blocks(source):
            poll.register(source.fd, select.POLLIN)
            if not poll.poll(0):
                late, events = source, select.POLLIN
        if result := _ready(t, late, events, wait=wait):
            return result


def _ready(t: GuestThread, file: File, events: int, *, wait: bool) -> int:
    if wait:
        return wait_for(t, file, events)
    poll = select.poll()
    poll.register(file.fd, events)
    return 0 if poll.poll(0) else -errno.EAGAIN


def splice(
    t: GuestThread, source: int, source_at: int, sink: int, sink_at: int, count: int, flags: int
) -> int:
    if not count:
        return 0
    if flags & _FD & ~_SPLICE_FLAGS:
        return -errno.EINVAL
    one, two = _files(t, source, sink)
    offsets: list[ctypes.Array[ctypes.c_char] | None] = []
    for address, file in ((source_at, one), (sink_at, two)):
        if not address:
            offsets.append(None)
            continue
        if file.kind == STREAM:
            return -errno.ESPIPE
        t.memory.check(address, 8, Access.WRITE)
        offsets.append(ctypes.create_string_buffer(t.memory.read(address, 8), 8))
    wait = not flags & _SPLICE_NONBLOCK
    moved = _moved(
        t, one, two, wait=wait,
        # SAFETY: the offsets are buffers of 8 bytes that outlive the call.
        action=lambda: host_call(
            "splice", one.fd, offsets[0], two.fd, offsets[1], min(count, _PIECE), flags & 0xD | _SPLICE_NONBLOCK
        ),
    )  # fmt: skip
    for address, offset in zip((source_at, sink_at), offsets, strict=True):
        if moved >= 0 and offset is not None:
            t.memory.write(address, offset.raw)
    return moved


def tee(t: GuestThread, source: int, sink: int, count: int, flags: int) -> int:
    if flags & _FD & ~_SPLICE_FLAGS:
        return -errno.EINVAL
    one, two = _files(t, source, sink)
    if not count:
        return 0
    wait = not flags & _SPLICE_NONBLOCK
    return _moved(
        t, one, two, wait=wait,
        action=lambda: host_call("tee", one.fd, two.fd, min(count, _PIECE), flags & 0xD | _SPLICE_NONBLOCK),
    )  # fmt: skip


def vmsplice(t: GuestThread, fd: int, vector: int, count: int, flags: int) -> int:
    """The pages are copied: a guest must not change what it has given away either way."""
    if flags & _FD & ~_SPLICE_FLAGS:
        return -errno.EINVAL
    (file,) = _files(t, fd)
    if file.kind != STREAM:
        return -errno.EBADF
    return files.writev(t, fd, vector, count) if file.flags & 3 else files.readv(t, fd, vector, count)


def sendfile(t: GuestThread, out: int, source: int, offset: int, count: int) -> int:
    file, sink = t.table.get(source & _FD), t.table.get(out & _FD)
    if (
        file is None
        or sink is None
        or not sink.flags & 3
        or file.flags & 3 == 1
        or PATH in (file.kind, sink.kind)
    ):
        return -errno.EBADF
    if offset and file.kind in (STREAM, SOCKET):
        return -errno.ESPIPE
    # Only from a file: from a terminal, the host would wait where nothing can end it.
    if file.kind != REGULAR or sink.kind in (EMULATED, DIRECTORY):
        return -errno.EINVAL
    at: int | None = None
    if offset:
        t.memory.check(offset, 8, Access.WRITE)
        at = s64(t.memory.load(offset, 8))
        if at < 0:
            return -errno.EINVAL
    done = 0
    count = min(count, 0x7FFF_F000)
    while done < count and not t.process.stopping:
        here = None if at is None else at + done

        def action(here: int | None = here, left: int = count - done) -> int:
            return os.sendfile(sink.fd, file.fd, here, min(left, _PIECE))

        try:
            got = _moved(t, file, sink, wait=True, action=action)
        except BrokenPipeError:
            if done:
                break
            t.raise_signal(13)
            return -errno.EPIPE
        except OSError:
            if done:
                break
            raise
        if got <= 0:
            if got < 0 and not done:
                return got
            break
        done += got
        if t.attention and t.must_return():
            break
    if at is not None:
        t.memory.store(offset, 8, at + done)
    return done


def copy_file_range(
    t: GuestThread, source: int, source_offset: int, out: int, out_offset: int, count: int, flags: int
) -> int:
    file, sink = t.table.get(source & _FD), t.table.get(out & _FD)
    if file is None or sink is None:
        return -errno.EBADF
    if flags & _FD:
        return -errno.EINVAL
    if EMULATED in (file.kind, sink.kind):
        return -errno.EISDIR
    for address in (source_offset, out_offset):
        if address:
            t.memory.check(address, 8, Access.WRITE)
    read_at = t.memory.load(source_offset, 8) if source_offset else None
    write_at = t.memory.load(out_offset, 8) if out_offset else None
    if any(at is not None and (at + count) >> 64 for at in (read_at, write_at)):
        return -errno.EOVERFLOW
    done = 0
    count = min(count, 0x7FFF_F000)
    while True:
        try:
            got = os.copy_file_range(
                file.fd,
                sink.fd,
                min(count - done, 16 * _PIECE),
                None if read_at is None else read_at + done,
                None if write_at is None else write_at + done,
            )
        except OSError:
            if not done:
                raise
            break
        done += got
        if not got or done >= count or t.process.stopping:
            break
    if read_at is not None:
        t.memory.store(source_offset, 8, read_at + done)
    if write_at is not None:
        t.memory.store(out_offset, 8, write_at + done)
    return done


# -- ranges -----------------------------------------------------------------------------------------------------

_FALLOCATE_MODES: Final = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40
"""KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE."""


def fallocate(t: GuestThread, fd: int, mode: int, offset: int, length: int) -> int:
    if mode & _FD & ~_FALLOCATE_MODES:
        return -errno.EOPNOTSUPP
    file = t.table.get(fd & _FD)
    if file is None or file.fd < 0:
        return -errno.EBADF
    return host_call("fallocate", file.fd, mode & _FD, offset, length)


def readahead(t: GuestThread, fd: int, offset: int, count: int) -> int:
    (file,) = _files(t, fd)
    return host_call("readahead", file.fd, offset, min(count, 16 * _PIECE))


def fadvise64(t: GuestThread, fd: int, offset: int, length: int, advice: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None or file.kind == PATH:
        return -errno.EBADF
    if file.fd < 0:
        return 0
    return host_call("fadvise64", file.fd, offset, length, s32(advice))


def sync_file_range(t: GuestThread, fd: int, offset: int, length: int, flags: int) -> int:
    file = t.table.get(fd & _FD)
    if file is None or file.fd < 0:
        return -errno.EBADF
    return host_call("sync_file_range", file.fd, offset, length, flags & _FD)


def syncfs(t: GuestThread, fd: int) -> int:
    """As sync(2): the host's disks are not the guest's to stall. Its own files have fsync."""
    return 0 if fd & _FD in t.table else -errno.EBADF


# -- preadv2 and pwritev2 ---------------------------------------------------------------------------------------

_RWF: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20
"""HIPRI, DSYNC, SYNC, NOWAIT, APPEND, NOAPPEND."""


def preadv2(t: GuestThread, fd: int, vector: int, count: int, offset: int, _high: int, flags: int) -> int:
    flags &= _FD
    if flags & ~_RWF:
        return -errno.EOPNOTSUPP
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    if not flags & ~1:
        return (
            files.readv(t, fd, vector, count)
            if s64(offset) == -1
            else files.preadv(t, fd, vector, count, offset, 0)
        )
    windows = files._vector(t, vector, count, Access.WRITE)
    if s64(offset) == -1 and file.kind != REGULAR:
        if flags & 8 and _blocks(file) and (result := _ready(t, file, select.POLLIN, wait=False)):
            return result
        return files.readv(t, fd, vector, count)
    if s64(offset) == -1:
        offset = os.lseek(file.fd, 0, os.SEEK_CUR)
        got = os.preadv(file.fd, windows, offset, flags) if windows else 0
        os.lseek(file.fd, offset + got, os.SEEK_SET)
        return got
    return os.preadv(file.fd, windows, offset, flags) if windows else 0


def pwritev2(t: GuestThread, fd: int, vector: int, count: int, offset: int, _high: int, flags: int) -> int:
    flags &= _FD
    if flags & ~_RWF:
        return -errno.EOPNOTSUPP
    file = t.table.get(fd & _FD)
    if file is None:
        return -errno.EBADF
    if not flags & ~1 or file.kind != REGULAR:
        if s64(offset) != -1:
            return files.pwritev(t, fd, vector, count, offset, 0)
        if flags & 8 and _blocks(file) and (result := _ready(t, file, select.POLLOUT, wait=False)):
            return result
        return files.writev(t, fd, vector, count)
    windows = files._vector(t, vector, count, Access.READ)
    if s64(offset) == -1:
        offset = os.lseek(file.fd, 0, os.SEEK_END if flags & 0x10 else os.SEEK_CUR)
        done = os.pwritev(file.fd, windows, offset, flags & ~0x10) if windows else 0
        os.lseek(file.fd, offset + done, os.SEEK_SET)
        return done
    return os.pwritev(file.fd, windows, offset, flags) if windows else 0


# -- extended attributes ----------------------------------------------------------------------------------------

_ALLOWED: Final = ("user.", "system.posix_acl_access", "system.posix_acl_default")
"""Names that are the guest's. Those of the security modules are the host's: a guest must not leave a privileged program."""
_MAX_VALUE: Final = 65536


@contextmanager
def _named(t: GuestThread, path: int, *, follow: bool, change: bool = False) -> Iterator[str]:
    """A host name of the file that a path means, which no link can redirect. Raises OSError."""
    with t.files.walk(_AT_FDCWD, t.path(path), follow=follow) as place:
        if place.node is not None or place.mount is None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if change and not place.mount.writable:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextmanager
def _opened(t: GuestThread, fd: int, *, change: bool = False) -> Iterator[int]:
    file = t.table.get(fd & _FD)
    if file is None or file.kind == PATH:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.fd < 0:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if change and file.fixed:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    yield file.fd


def _attribute(t: GuestThread, name: int) -> str:
    try:
        raw = t.memory.read_cstring(name, 256)
    except ValueError:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE)) from None
    if not raw:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return os.fsdecode(raw)


def _get(t: GuestThread, where: str | int, name: int, value: int, size: int) -> int:
    text = _attribute(t, name)
    if not text.startswith(_ALLOWED):
        return -errno.ENODATA if text.startswith(("security.", "trusted.")) else -errno.EOPNOTSUPP
    data = os.getxattr(where, text)
    if size:
        if len(data) > size:
            return -errno.ERANGE
        t.memory.write(value, data)
    return len(data)


def _set(t: GuestThread, where: str | int, name: int, value: int, size: int, flags: int) -> int:
    if flags & _FD & ~3:
        return -errno.EINVAL
    text = _attribute(t, name)
    if size > _MAX_VALUE:
        return -errno.E2BIG
    data = t.memory.read(value, size) if size else b""
    if not text.startswith(_ALLOWED):
        return -errno.EPERM if text.startswith(("security.", "trusted.")) else -errno.EOPNOTSUPP
    os.setxattr(where, text, data, flags & 3)
    return 0


def _list(t: GuestThread, where: str | int, result: int, size: int) -> int:
    names = [name for name in os.listxattr(where) if name.startswith(_ALLOWED)]
    data = b"".join(os.fsencode(name) + b"\0" for name in names)
    if size:
        if len(data) > size:
            return -errno.ERANGE
        t.memory.write(result, data)
    return len(data)


def _remove(t: GuestThread, where: str | int, name: int) -> int:
    text = _attribute(t, name)
    if not text.startswith(_ALLOWED):
        return -errno.EPERM if text.startswith(("security.", "trusted.")) else -errno.EOPNOTSUPP
    os.removexattr(where, text)
    return 0


def getxattr(t: GuestThread, path: int, name: int, value: int, size: int) -> int:
    with _named(t, path, follow=True) as where:
        return _get(t, where, name, value, size)


def lgetxattr(t: GuestThread, path: int, name: int, value: int, size: int) -> int:
    with _named(t, path, follow=False) as where:
        return _get(t, where, name, value, size)


def fgetxattr(t: GuestThread, fd: int, name: int, value: int, size: int) -> int:
    with _opened(t, fd) as where:
        return _get(t, where, name, value, size)


def setxattr(t: GuestThread, path: int, name: int, value: int, size: int, flags: int) -> int:
    with _named(t, path, follow=True, change=True) as where:
        return _set(t, where, name, value, size, flags)


def lsetxattr(t: GuestThread, path: int, name: int, value: int, size: int, flags: int) -> int:
    with _named(t, path, follow=False, change=True) as where:
        return _set(t, where, name, value, size, flags)


def fsetxattr(t: GuestThread, fd: int, name: int, value: int, size: int, flags: int) -> int:
    with _opened(t, fd, change=True) as where:
        return _set(t, where, name, value, size, flags)


def listxattr(t: GuestThread, path: int, result: int, size: int) -> int:
    with _named(t, path, follow=True) as where:
        return _list(t, where, result, size)


def llistxattr(t: GuestThread, path: int, result: int, size: int) -> int:
    with _named(t, path, follow=False) as where:
        return _list(t, where, result, size)


def flistxattr(t: GuestThread, fd: int, result: int, size: int) -> int:
    with _opened(t, fd) as where:
        return _list(t, where, result, size)


def removexattr(t: GuestThread, path: int, name: int) -> int:
    with _named(t, path, follow=True, change=True) as where:
        return _remove(t, where, name)


def lremovexattr(t: GuestThread, path: int, name: int) -> int:
    with _named(t, path, follow=False, change=True) as where:
        return _remove(t, where, name)


def fremovexattr(t: GuestThread, fd: int, name: int) -> int:
    with _opened(t, fd, change=True) as where:
        return _remove(t, where, name)
