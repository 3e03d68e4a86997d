"""Writing below one directory, and nowhere else, whatever links lie in it.

Every path is walked from the directory's own descriptor, one component at a time and never through a link: a link is
read, and its target walked in the same way, with the directory as ``/``. That is what chroot would do, so merged-/usr works
(``bin -> usr/bin``, and a package's ``/bin/sh`` lands in usr/bin) and a link to ``/etc`` or ``../../..`` stays inside. The
kernel is never given more than one component, so that nobody who changes the tree meanwhile can lead a write astray.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from vm_cli.sysroot.errors import PackageError, SysrootError

__all__ = ["Tree"]

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS: Final = 40  # as the kernel
_LONGEST: Final = 4096
_CHUNK: Final = 1 << 20


def _names(path: str) -> list[bytes]:
    """The components of a path that an archive or a script names. Raises PackageError if it could lead upwards."""
    raw = path.encode("utf-8", "surrogateescape")
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    if b".." in names or b"\0" in raw or len(raw) > _LONGEST:
        raise PackageError(f"the path {path[:200]!r} is refused")
    return names


class Tree:
    """A directory that is locked as long as this lives: two commands cannot write in it at once."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last: tuple[list[bytes], int] | None = None
        self._stale = False
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._root)
            raise SysrootError(
                f"another vm sysroot is at work on {path}", hint="wait for it, or end it"
            ) from None

    def close(self) -> None:
        self._forget()
        os.close(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- walking ------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        if self._last:
            os.close(self._last[1])
            self._last = None

    def _directory(self, names: list[bytes], *, make: bool) -> int:
        """The descriptor of a directory; it is this object's, until the next call. Raises OSError and PackageError."""
        # PERF: an archive's files come directory by directory. Whoever makes or takes away a link sets _stale.
        if self._last and self._last[0] == names and not self._stale:
            return self._last[1]
        found = self._walk(names, make=make)
        self._forget()
        self._last, self._stale = (list(names), found), False
        return found

    def _walk(self, names: list[bytes], *, make: bool) -> int:
        held = [os.open(b".", _DIRECTORY, dir_fd=self._root)]
        todo, links = list(reversed(names)), 0
        try:
            while todo:
                name = todo.pop()
                if name == b"..":  # of a link's target; above / is /
                    if len(held) > 1:
                        os.close(held.pop())
                    continue
                try:
                    held.append(os.open(name, _DIRECTORY, dir_fd=held[-1]))
                    continue
                except FileNotFoundError:
                    if not make:
                        raise
                except NotADirectoryError:
                    target = self._target(name, held[-1])
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                    if target.startswith(b"/"):
                        while len(held) > 1:
                            os.close(held.pop())
                    todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
                    if len(todo) > _LONGEST:
                        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None
                    continue
                os.mkdir(name, 0o755, dir_fd=held[-1])
                held.append(os.open(name, _DIRECTORY, dir_fd=held[-1]))
            return held.pop()
        finally:
            for fd in held:
                os.close(fd)

    @staticmethod
    def _target(name: bytes, directory: int) -> bytes:
        try:
            return os.readlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file where a directory should be
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            raise

    def _place(self, path: str, *, make: bool = True) -> tuple[int, bytes]:
        """The directory that holds ``path``, and the name in it, which may be that of a link."""
        names = _names(path)
        if not names:
            raise PackageError(f"the path {path!r} is refused")
        return self._directory(names[:-1], make=make), names[-1]

    # -- looking ------------------------------------------------------------------------------------------------------

    def kind(self, path: str) -> int:
        """The type of what lies there (as stat.S_IFMT gives it), a link itself and not its target; 0 for nothing."""
        try:
            directory, name = self._place(path, make=False)
            return stat.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
        except OSError:
            return 0

    def real(self, path: str) -> str:
        """The path of a directory without links in it, from the tree's own ``/``. Raises OSError if there is none."""
        directory = self._directory(_names(path), make=False)
        here, root = (os.readlink(f"/proc/self/fd/{fd}") for fd in (directory, self._root))
        return "/" + os.path.relpath(here, root).removeprefix(".")

    def _open(self, path: str) -> int:
        """A file for reading; links are followed inside the tree. Raises OSError."""
        for _ in range(_MOST_LINKS):
            directory, name = self._place(path, make=False)
            try:
                fd = os.open(
                    name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
                )
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                target = self._target(name, directory).decode("utf-8", "surrogateescape")
                path = self._joined(path, target)
                continue
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            return fd
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    @staticmethod
    def _joined(path: str, target: str) -> str:
        """What a link in the place of ``path`` leads to. Inexact behind further links with ``..``, and inside in any case."""
        return posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target))

    def read(self, path: str, limit: int = 64 << 20) -> bytes | None:
        """A file's contents; None if there is no such file, or it is longer than ``limit`` bytes."""
        try:
            with open(self._open(path), "rb") as file:
                data = file.read(limit + 1)
        except OSError:
            return None
        return data if len(data) <= limit else None

    def names(self, path: str) -> list[str]:
        """What a directory holds, sorted; nothing if there is none."""
        try:
            directory = self._directory(_names(path), make=False)
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    # -- writing ------------------------------------------------------------------------------------------------------

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Make a directory. One that is there stays as it is, and so does a link to one."""
        names = _names(path)
        if not names:
            return
        directory, name = self._place(path)
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            self._directory(names, make=True)  # raises if it is none
            return
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchmod(fd, mode & 0o1777 | 0o700)
        finally:
            os.close(fd)

    def take_empty(self, path: str) -> bool:
        """Take away a directory if it is empty, or there is nothing. Returns whether the place is free."""
        try:
            directory, name = self._place(path, make=False)
            os.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self._stale = True
        return True

    def _clear(self, name: bytes, directory: int) -> bool:
        """Take away a file or a link. Returns False, and does nothing, for a directory."""
        try:
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return True
        if stat.S_ISDIR(mode):
            return False
        os.unlink(name, dir_fd=directory)
        self._stale = True
        return True

    @contextlib.contextmanager
    def _new(self, path: str, mode: int) -> Iterator[int]:
        """A new file in the place of any other, for writing."""
        directory, name = self._place(path)
        if not self._clear(name, directory):
            raise PackageError(f"{path}: there is a directory where a file should go")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            yield fd
            os.fchmod(fd, mode & 0o777 | 0o600)
        finally:
            os.close(fd)

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file with these contents."""
        with self._new(path, mode) as fd:
            _write(fd, data)

    def replace(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """As :meth:`write`, but at any moment there is the old file or the new one."""
        self.write(path + ".vm-new", data, mode)
        directory, name = self._place(path)
        os.rename(name + b".vm-new", name, src_dir_fd=directory, dst_dir_fd=directory)

    def link(self, path: str, target: str) -> None:
        """A symbolic link. A directory in its place stays, as with dpkg.

        An absolute target becomes a relative one: that means the same to a guest whose ``/`` is the tree, and does not lead
        to the host where the tree is a prefix (``-L``, a compiler's ``--sysroot``).
        """
        if not target or "\0" in target:
            raise PackageError(f"{path}: a link to nowhere")
        above = posixpath.dirname("/" + path)
        if target.startswith("/") and ".." not in target.split("/"):
            self._directory(_names(above), make=True)
            target = posixpath.relpath(target, self.real(above))
        directory, name = self._place(path)
        if self._clear(name, directory):
            os.symlink(target.encode("utf-8", "surrogateescape"), name, dir_fd=directory)
            self._stale = True

    def hard_link(self, path: str, target: str) -> None:
        """Another name for a file of the tree."""
        source, old = self._place(target, make=False)
        source = os.dup(source)  # the next call may close it
        try:
            mode = os.stat(old, dir_fd=source, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise PackageError(f"{path}: a hard link to what is no file")
            directory, name = self._place(path)
            if os.path.samefile(f"/proc/self/fd/{source}", f"/proc/self/fd/{directory}") and old == name:
                return
            if not self._clear(name, directory):
                raise PackageError(f"{path}: there is a directory where a file should go")
            os.link(old, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
            self._stale = True
        finally:
            os.close(source)

    # -- archives -----------------------------------------------------------------------------------------------------

    def unpack(self, archive: tarfile.TarFile) -> list[str]:
        """Write what is in an archive; returns the paths, each with a ``/`` in front, in the archive's order.

        Owners are ignored: all is the user's. Set-user-ID bits are dropped, since they would lend the user's rights to others;
        device nodes and pipes are left out. Raises PackageError for a path that leads outside, and OSError.
        """
        paths = []
        for member in archive:
            names = _names(member.name)
            if member.name.startswith("/"):
                raise PackageError(f"the absolute path {member.name[:200]!r} is refused")
            path = "/" + b"/".join(names).decode("utf-8", "surrogateescape")
            try:
                self._unpack_one(archive, member, path)
            except OSError as error:
                if error.errno in (
                    errno.ENOTDIR,
                    errno.ELOOP,
                    errno.ENAMETOOLONG,
                    errno.ENOENT,
                    errno.EISDIR,
                    errno.EEXIST,
                ):
                    raise PackageError(f"{path[:200]} cannot be written: {error.strerror}") from None
                raise
            paths.append(path)
        return paths

    def _unpack_one(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.isdir():
            self.directory(path, member.mode)
        elif member.issym():
            self.link(path, member.linkname)
        elif member.islnk():
            self.hard_link(path, member.linkname)
        elif member.isreg():
            if member.issparse():  # some bytes that stand for any number; dpkg knows none either
                raise PackageError(f"{path}: a sparse file is refused")
            file = archive.extractfile(member)
            with self._new(path, member.mode) as fd:
                while file and (data := file.read(_CHUNK)):
                    _write(fd, data)
                if 0 <= member.mtime < 1 << 40:
                    os.utime(fd, (member.mtime, member.mtime))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
