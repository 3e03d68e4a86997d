"""The guest's view of the file system, and how a guest path becomes a host directory and one name in it.

Policy: **a guest may read and write below the current directory and read its own program file; nothing else of the
host exists for it.** It also has a private /tmp that vanishes at exit and emulated /proc and /dev entries. ``--root
DIR`` makes DIR the guest's ``/`` instead; ``--bind HOST[:GUEST[:ro]]`` adds a directory or file. If the current
directory is the host's ``/``, nothing is shown: it has to be named.

A trusted guest has the host's own root and current directory, with the host's /proc and /dev but for what they say of
the guest itself.

``-L DIR`` (a sysroot) shows the guest the tree of a distribution, for reading. Without ``--root`` DIR is the guest's
``/``, and the current directory, /tmp and the program lie over it. DIR is also to be seen under its own path of the
host. Where both could name a file, DIR wins, as with qemu-user: a path below the current directory, or with ``--root``
any path but those of a bind, is looked for in DIR first.

A path is never given to the host as a whole. It is walked to the directory that holds its last component, which the
host holds open as a descriptor; then one call names the last component in that directory, never following a link:

* Fast: ``openat2(mount, parent, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)``, when the path has no
  ``..``. The kernel checks and opens in one step, so a race with a rename or a new link cannot lead out.
* Otherwise (a link or ``..`` on the way, no openat2): component by component with ``O_NOFOLLOW``, each directory opened
  relative to the descriptor of the one before. Links are read and resolved here, in the guest's name space, and ``..``
  goes back to the descriptor that was held open, so it cannot climb out of a directory that was moved meanwhile.

Native code of an engine looks for paths by the first of these ways only, by what :meth:`Namespace.places` says.

A magic link (/proc/PID/fd/N in a bound host /proc) is only text in this scheme.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator

from vm_core.errors import UsageError
from vm_core.hints import Final, Self
from vm_core.record import record

__all__ = ["Bind", "Mount", "Namespace", "Node", "Place", "getdents", "temporary_parent"]

_O_PATH: Final = getattr(os, "O_PATH", 0)
_DIRECTORY: Final = _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_LINKS: Final = 40
_RESOLVE: Final = 0x08 | 0x04 | 0x02  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS
_SYS_OPENAT2: Final = 437
_SYS_GETDENTS64: Final = 217 if os.uname().machine == "x86_64" else 61

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW: Final = _OpenHow(_DIRECTORY, 0, _RESOLVE)
_HOW_ADDRESS: Final = ctypes.c_void_p(ctypes.addressof(_HOW))
_HOW_SIZE: Final = ctypes.c_size_t(ctypes.sizeof(_HOW))


def _open_beneath(directory: int, path: str) -> int:
    """A directory below another, with no link on the way. Raises OSError; ELOOP means that there is a link."""
    # SAFETY: _HOW is constant and outlives the call; the path is a NUL-terminated copy that ctypes holds.
    fd = _syscall(
        ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(directory), os.fsencode(path), _HOW_ADDRESS, _HOW_SIZE
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(fd)


def _have_openat2() -> bool:
    if os.uname().sysname != "Linux" or os.environ.get("VM_NO_OPENAT2"):
        return False
    try:
        fd = os.open("/", _DIRECTORY)
    except OSError:
        return False
    try:
        os.close(_open_beneath(fd, "."))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def getdents(fd: int, address: int, size: int) -> int:
    """Host getdents64 into host memory at ``address``; the record layout is the same on every ISA. Raises OSError."""
    # SAFETY: the caller has checked that [address, address + size) is guest memory that the guest may write.
    count = _syscall(
        ctypes.c_long(_SYS_GETDENTS64), ctypes.c_int(fd), ctypes.c_void_p(address), ctypes.c_size_t(size)
    )
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(count)


@record(frozen=True)
class Bind:
    """A host directory or file shown to the guest."""

    host: str
    guest: str
    writable: bool = True

    @classmethod
    def parse(cls, text: str) -> Bind:
        """``HOST[:GUEST[:ro|rw]]``. Raises UsageError."""
        parts = text.split(":")
        mode = "rw"
        if len(parts) > 1 and parts[-1] in ("ro", "rw"):
            mode = parts.pop()
        if len(parts) > 2 or not parts[0]:
            raise UsageError(f"bad bind {text!r}", hint="write HOST[:GUEST[:ro]]")
        host = os.path.abspath(parts[0])
        guest = parts[1] if len(parts) > 1 and parts[1] else host
        if not guest.startswith("/"):
            raise UsageError(f"bad bind {text!r}: the guest path must begin with /")
        return cls(host, _normal(guest), mode == "rw")


def _normal(path: str) -> str:
    """An absolute path without ``.``, ``..`` and double slashes (normpath keeps two at the start)."""
    return os.path.normpath("/" + path.lstrip("/"))


_opening: Final = threading.Lock()
"""Held while a mount is opened first: two guest threads must not make two directories for one /tmp."""


def _remove_tree(path: str) -> None:
    """Remove a directory that a guest has filled: however deep, whatever its modes. Raises OSError for what remains.

    shutil.rmtree takes a stack frame and a descriptor for each level, and a guest can make more levels than there are of
    either. Here, what lies below a subdirectory is moved up beside it, so that there never are more than two levels.
    """
    os.chmod(path, 0o700)
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        prefix, count = os.urandom(8).hex(), 0
        while names := os.listdir(top):
            for name in names:
                if _removed(name, top):
                    continue
                below = _open_to_empty(name, top)
                try:
                    for child in os.listdir(below):
                        if not _removed(child, below):
                            os.close(_open_to_empty(child, below))
                            os.rename(child, f"{prefix}-{count}", src_dir_fd=below, dst_dir_fd=top)
                            count += 1
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _removed(name: str, directory: int) -> bool:
    """Remove one entry; False for a directory that is not empty."""
    try:
        os.unlink(name, dir_fd=directory)
    except (IsADirectoryError, PermissionError):
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
    return True


def _open_to_empty(name: str, directory: int) -> int:
    """Open a directory after taking the modes off that would be in the way."""
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def temporary_parent() -> str:
    """Where the /tmp of each of this user's guests is made."""
    place = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - what is made there is checked
    return os.path.join(os.path.abspath(place), f"vm-{os.geteuid()}")


def _temporary_directory() -> str:
    """A new directory for a guest's /tmp, in one for those of all guests of this user. Raises OSError.

    In one, because a confined process may remove only what is in a directory that it was given, and /tmp is everybody's.
    """
    parent = temporary_parent()
    # PERF: not tempfile, which takes 5 ms to load.
    path = os.path.join(parent, os.urandom(8).hex())
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            os.mkdir(parent, 0o700)
        info = os.lstat(parent)
        # Else somebody got in first, which the sticky bit does not prevent.
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077:
            os.mkdir(path, 0o700)
            return path
    import tempfile

    return tempfile.mkdtemp(prefix="vm-tmp-")


class Mount:
    """A host directory (or one file) at a guest path. ``fd`` is the directory, or that of the file's parent."""

    def __init__(
        self, guest: str, host: str, *, writable: bool, file: bool = False, temporary: bool = False
    ) -> None:
        self.guest = guest
        self.host = host
        self.writable = writable
        self.file = file
        self.temporary = temporary
        self.name = os.path.basename(host) if file else "."
        self.opened: Callable[[], None] | None = None
        """Called when a directory that is made at its first use has been made."""
        self._fd = -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            with _opening:
                if self._fd < 0:
                    if self.temporary and not self.host:
                        self.host = _temporary_directory()
                    self._fd = os.open(os.path.dirname(self.host) if self.file else self.host, _DIRECTORY)
                    if self.opened is not None:
                        self.opened()
        return self._fd

    @property
    def held(self) -> int:
        """The descriptor, if there is one yet, else -1."""
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.temporary and self.host:
            with contextlib.suppress(OSError):
                _remove_tree(self.host)


class Node:
    """An emulated entry: a directory (``names``), a link (``target``), a text or a device (``open``).

    ``where`` is the host's path of a device, for what it is to be asked without opening it. ``number`` is its inode's.
    """

    __slots__ = ("mode", "names", "number", "opener", "target", "where")

    def __init__(
        self,
        mode: int,
        *,
        names: tuple[str, ...] = (),
        target: str = "",
        opener: Callable[[int], object] | None = None,
        where: str = "",
    ) -> None:
        self.mode = mode
        self.names = names
        self.target = target
        self.opener = opener
        self.where = where
        self.number = 0


class Place:
    """Where a path ends: ``name`` in the host directory ``fd``, or an emulated ``node``. Close it, or use ``with``.

    ``guest`` is the guest's canonical path of it. The name need not exist. ``late`` says that the name may be a link
    that still has to be followed.
    """

    __slots__ = ("fd", "guest", "late", "mount", "must_be_directory", "name", "node", "owned")

    def __init__(
        self,
        guest: str,
        mount: Mount | None,
        fd: int,
        name: str,
        *,
        owned: bool = False,
        node: Node | None = None,
    ) -> None:
        self.guest = guest
        self.mount = mount
        self.fd = fd
        self.name = name
        self.owned = owned
        self.node = node
        self.must_be_directory = False
        self.late = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.owned:
            self.owned = False
            os.close(self.fd)

    def stat(self) -> os.stat_result:
        """Of the entry itself, never of what a link points to. Raises OSError."""
        info = os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)
        if self.must_be_directory and not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return info

    def to_change(self) -> Place:
        """Self, for a call that changes the directory. Raises OSError on a read-only or emulated place."""
        if self.node is not None or self.mount is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        if not self.mount.writable:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if self.mount.file or self.name == ".":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return self


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _clean(path: str) -> str:
    """Without empty and ``.`` components; the path is absolute and has no ``..``."""
    if "//" not in path and "/." not in path and not path.endswith("/"):
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


class _Level:
    """A directory on the way of a slow walk."""

    __slots__ = ("fd", "guest", "mount", "owned")

    def __init__(self, guest: str, mount: Mount | None, fd: int, *, owned: bool) -> None:
        self.guest = guest
        self.mount = mount
        self.fd = fd
        self.owned = owned


class Namespace:
    """All mounts of a guest and its emulated entries. Thread-safe after construction."""

    def __init__(
        self,
        *,
        cwd: str | None = None,
        root: str | None = None,
        sysroot: str | None = None,
        binds: tuple[Bind, ...] = (),
        program: str | None = None,
        emulated: Callable[[str], Node | None] | None = None,
        overlays: tuple[str, ...] = ("/proc", "/sys", "/dev"),
        trusted: bool = False,
        hidden: tuple[str, ...] = (),
    ) -> None:
        self.mounts: dict[str, Mount] = {}
        self.emulated = emulated or (lambda _path: None)
        self.overlays = overlays
        self._below_overlays = tuple(top + "/" for top in overlays)
        self.use_openat2 = _have_openat2()
        self.trusted = trusted
        """Whether what is not emulated below the overlays is the host's, rather than absent."""
        if trusted:
            root, cwd = "/", os.path.abspath(cwd or os.getcwd())
        if root is not None:
            writable = True
            if root.endswith(":ro"):
                root, writable = root[:-3], False
            self._add("/", os.path.abspath(root), writable=writable)
            self.start = _normal(cwd or "/")
        else:
            here = os.path.abspath(cwd or os.getcwd())
            self._tmp()
            if here != "/":
                self._add(here, here, writable=True)
            self.start = here
        self._first: Namespace | None = None
        """The sysroot, where it is not simply the guest's / : what is in none but ``_after`` is looked for in it first."""
        self._after: tuple[Mount, ...] = ()
        if sysroot is not None:
            self._add_sysroot(sysroot, overlays)
        for bind in binds:
            self._add(bind.guest, bind.host, writable=bind.writable)
        if program is not None and not (
            # What an absolute path means is settled there first.
            sysroot is not None and os.path.isabs(program) and os.path.lexists(sysroot + program)
        ):
            self._add_program(program, chrooted=root is not None)
        for path in () if trusted else hidden:
            self._hide(path)
        self._users = [1]
        """How many name spaces have these mounts; the last one to be closed gives them back."""
        self._closed = False
        self._hold()
        self._ancestors: dict[str, set[str]] = {}
        for guest in (*self.mounts, *overlays):
            parts = guest.strip("/").split("/")
            for depth, name in enumerate(parts):
                if name:
                    self._ancestors.setdefault("/" + "/".join(parts[:depth]), set()).add(name)

    def _hide(self, path: str) -> None:
        """Where a host directory, present or to come, lies below one that the guest is shown, put another in its place."""
        real = os.path.realpath(path)
        for mount in list(self.mounts.values()):
            if mount.file or mount.temporary:
                continue
            base = os.path.realpath(mount.host).rstrip("/")
            if mount.writable and f"{base}/".startswith(f"{real}/"):
                raise UsageError(
                    f"{mount.host} cannot be shown to the guest: it is in {path}, which is vm's own",
                    hint="run from another directory, or set VM_CACHE_DIR or TMPDIR to another one",
                )
            if real.startswith(f"{base}/"):
                guest = mount.guest.rstrip("/") + real[len(base) :]
                self.mounts[guest] = Mount(guest, "", writable=True, temporary=True)

    def _hold(self) -> None:
        """Open what is mounted: a guest that can rename directories on the way to it must not be the first to look."""
        try:
            for mount in self.mounts.values():
                if not mount.temporary:
                    _ = mount.fd
        except OSError as error:
            self.close()
            raise UsageError(f"{mount.host}: cannot be shown to the guest: {error.strerror}") from None

    def _tmp(self) -> None:
        self.mounts["/tmp"] = Mount("/tmp", "", writable=True, temporary=True)  # noqa: S108 - the guest's own

    def _add(self, guest: str, host: str, *, writable: bool) -> None:
        try:
            mode = os.stat(host).st_mode
        except OSError as error:
            raise UsageError(f"{host}: cannot be shown to the guest: {error.strerror}") from None
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise UsageError(f"{host}: cannot be shown to the guest: neither a directory nor a regular file")
        if stat.S_ISREG(mode):
            host = os.path.realpath(host)
        self.mounts[guest] = Mount(guest, host, writable=writable, file=stat.S_ISREG(mode))

    def _add_sysroot(self, sysroot: str, overlays: tuple[str, ...]) -> None:
        path = os.path.abspath(sysroot)
        if not os.path.isdir(path):
            raise UsageError(
                f"{sysroot}: the sysroot is not a directory",
                hint="give -L DIR, the directory that has lib and usr in it",
            )
        covers = self.mounts.get("/" if "/" in self.mounts else self.start)
        if "/" not in self.mounts:
            self._add("/", path, writable=False)
        there = "" if covers is None else path + covers.guest
        # If they are the same directory (DIR is the root, or the host's /), what the guest makes would be found again, for reading only.
        if covers is not None and os.path.isdir(there) and not os.path.samefile(covers.host, there):
            self._first = Namespace(root=path + ":ro", overlays=overlays)
            self._after = (covers, self.mounts["/"])
        around = self.find(path)
        if path != "/" and (around is None or around.guest == "/" or around.temporary):
            self._add(path, path, writable=False)

    def _add_program(self, program: str, *, chrooted: bool) -> None:
        path = os.path.abspath(program)
        mount = self.find(path)
        if mount is not None and not mount.temporary and (chrooted or mount.guest != "/"):
            return
        self.mounts[path] = Mount(path, os.path.realpath(program), writable=False, file=True)

    def all_mounts(self) -> Iterator[Mount]:
        """The mounts, and those of the sysroot that is looked in first."""
        yield from self.mounts.values()
        if self._first is not None:
            yield from self._first.all_mounts()

    def view(self) -> str:
        """What is shown, and how, as text: the same for guests that may do the same."""
        return "\n".join(
            f"{mount.guest!r} {mount.host!r} {mount.writable} {mount.file}"
            for mount in sorted(self.all_mounts(), key=lambda mount: (mount.guest, mount.host))
            if not mount.temporary
        )

    def share(self) -> Namespace:
        """Another one with the same mounts, temporary ones included. ``emulated`` is to be set in it."""
        import copy  # PERF: few guests have clones

        self.settle()
        with _opening:
            self._users[0] += 1
            other = copy.copy(self)
        other.emulated = lambda _path: None
        return other

    def close(self) -> None:
        """Twice is once."""
        with _opening:
            closed, self._closed = self._closed, True
            self._users[0] -= not closed
            if closed or self._users[0]:
                return
        for mount in self.mounts.values():
            mount.close()
        if self._first is not None:
            self._first.close()

    def places(self) -> list[tuple[str, int, str]]:
        """What paths belong to: (guest path, descriptor or -1, kind). The kinds are ``read`` and ``write``, a directory of the
        host that is held open; ``below``, where paths are walked here; and ``only``, where this path itself is."""
        out = [(path, -1, "below") for path in self.overlays]
        # A mount point is what is mounted there, whatever lies below it.
        out += [(path, -1, "only") for path in self._ancestors if path not in self.mounts]
        covered = self._after[:1]  # looked for in the sysroot first
        for mount in self.mounts.values():
            plain = not mount.file and mount.held >= 0 and mount not in covered
            kind = ("write" if mount.writable else "read") if plain else "below"
            out.append((mount.guest, mount.held if plain else -1, kind))
        return out

    def settle(self) -> None:
        """Before a fork: what is made when it is first used is made now, so that the child has the same."""
        for mount in self.mounts.values():
            if mount.temporary:
                mount.fd  # noqa: B018

    def forked(self) -> None:
        """In the child of a fork: what is temporary is the parent's to remove."""
        for mount in self.mounts.values():
            mount.temporary = False

    def find(self, path: str) -> Mount | None:
        """The innermost mount that holds the canonical guest path."""
        mounts = self.mounts
        while True:
            mount = mounts.get(path)
            if mount is not None:
                return mount
            if path == "/":
                return None
            path = path.rpartition("/")[0] or "/"

    def guest_path(self, fd: int) -> str | None:
        """What the guest calls the file that a host descriptor is open on; None for one that it cannot name."""
        try:
            host = os.readlink(f"/proc/self/fd/{fd}")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return None  # it is deeper than the host can say
        if host.startswith("/memfd:") or not host.startswith("/"):
            return host
        best = None
        for mount in self.mounts.values():
            if mount.file:
                if host == mount.host:
                    return mount.guest
                continue
            if mount.temporary and not mount.host:
                continue
            base = os.readlink(f"/proc/self/fd/{mount.fd}").rstrip("/")
            if (host == base or host.startswith(base + "/")) and (best is None or len(base) > best[0]):
                best = len(base), (mount.guest.rstrip("/") + host[len(base) :]) or "/"
        return None if best is None else best[1]

    def holds_mount(self, path: str) -> bool:
        """Whether a mount point lies somewhere below a directory."""
        return path in self._ancestors

    def names_in(self, path: str) -> tuple[str, ...]:
        """Names of mount points and overlays directly in a directory."""
        return tuple(sorted(self._ancestors.get(path, ())))

    def _is_overlay(self, path: str) -> bool:
        return path.startswith(self._below_overlays) or path in self.overlays

    def walk(self, base: str, path: str, *, follow: bool = True, late: bool = False) -> Place:
        """Find where a guest path ends. ``base`` is the canonical guest directory for a relative path.

        ``late``: the caller will see for itself whether the name is a link, and then walk again without ``late``. A link with a
        slash behind it is followed in any case: who makes or removes a name looks for it without the slash.
        Raises OSError as the kernel would (ENOENT, ENOTDIR, ELOOP, EACCES, ENAMETOOLONG).
        """
        if not path:
            raise _error(errno.ENOENT)
        if len(path) > 4095:
            raise _error(errno.ENAMETOOLONG)
        full = path if path[0] == "/" else f"{base}/{path}"
        if self._first is not None and (found := self._walk_first(full, follow=follow)) is not None:
            return found
        if self.use_openat2 and "/../" not in full and not full.endswith("/.."):
            directory = path.endswith(("/", "/."))
            place = self._walk_fast(_clean(full), follow=directory or (follow and not late))
            if place is not None:
                place.late = follow and late and not directory
                if directory:
                    self._require_directory(place)
                return place
        return self._walk_slow(full, follow=follow)

    def _walk_first(self, full: str, *, follow: bool) -> Place | None:
        """The entry in the sysroot, if the path means one that is there."""
        assert self._first is not None
        clean = _normal(full)
        if clean in self.mounts or self._is_overlay(clean) or self.find(clean) not in self._after:
            return None
        try:
            place = self._first.walk("/", full, follow=follow)
        except OSError:
            return None
        if place.node is None and self.find(place.guest) in self._after:
            try:
                place.stat()
            except OSError:
                pass
            else:
                return place
        place.__exit__()
        return None

    def _walk_fast(self, full: str, *, follow: bool) -> Place | None:
        """None if a link, an emulated entry or a mount point's parent is in the way."""
        mount = self.find(full)
        if mount is None or full in self._ancestors or self._is_overlay(full):
            return None
        if mount.file:
            return Place(full, mount, mount.fd, mount.name) if full == mount.guest else None
        if full == mount.guest:
            return Place(full, mount, mount.fd, ".")
        parent, _, name = full[len(mount.guest) :].lstrip("/").rpartition("/")
        fd = mount.fd
        if parent:
            try:
                fd = _open_beneath(fd, parent)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EXDEV, errno.EAGAIN):
                    return None
                raise
        place = Place(full, mount, fd, name, owned=bool(parent))
        if follow:
            try:
                os.readlink(name, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    return place
                place.__exit__()
                raise
            place.__exit__()
            return None
        return place

    def _require_directory(self, place: Place) -> None:
        place.must_be_directory = True
        try:
            place.stat()
        except FileNotFoundError:
            pass
        except OSError:
            place.__exit__()
            raise

    def _walk_slow(self, full: str, *, follow: bool) -> Place:
        todo = deque(full.split("/"))
        must = todo[-1] == ""
        links = 0
        top = self.mounts.get("/")
        levels = [_Level("/", top, top.fd if top else -1, owned=False)]
        try:
            while todo:
                name = todo.popleft()
                if name in ("", "."):
                    continue
                if name == "..":
                    if len(levels) > 1:
                        self._leave(levels.pop())
                    continue
                here = levels[-1]
                guest = f"{here.guest.rstrip('/')}/{name}"
                last = not any(todo)
                place, target = self._step(here, guest, name, last=last, follow=follow or (last and must))
                if target is not None:
                    links += 1
                    if links > _MAX_LINKS:
                        raise _error(errno.ELOOP)
                    if target.startswith("/"):
                        while len(levels) > 1:
                            self._leave(levels.pop())
                    todo.extendleft(reversed(target.split("/")))
                elif isinstance(place, _Level):
                    levels.append(place)
                elif place is not None:
                    if place.fd == here.fd and here.owned:
                        here.owned, place.owned = False, True
                    if must and place.node is None:
                        self._require_directory(place)
                    return place
            here = levels[-1]
            if here.mount is None:
                node = self.emulated(here.guest) or Node(0o40555, names=self.names_in(here.guest))
                return Place(here.guest, None, -1, ".", node=node)
            place = Place(here.guest, here.mount, here.fd, ".", owned=here.owned)
            here.owned = False
            return place
        finally:
            for level in levels:
                self._leave(level)

    @staticmethod
    def _leave(level: _Level) -> None:
        if level.owned:
            level.owned = False
            os.close(level.fd)

    def _step(
        self, here: _Level, guest: str, name: str, *, last: bool, follow: bool
    ) -> tuple[_Level | Place | None, str | None]:
        """One component: a directory to go into, the place where the path ends, or the text of a link."""
        mount = self.mounts.get(guest)
        if mount is not None:
            if not mount.file:
                return _Level(guest, mount, mount.fd, owned=False), None
            if last:
                return Place(guest, mount, mount.fd, mount.name), None
            raise _error(errno.ENOTDIR)
        if self._is_overlay(guest):
            node = self.emulated(guest)
            if node is not None:
                return self._step_emulated(node, guest, name, last=last, follow=follow)
            if not self.trusted:
                raise _error(errno.ENOENT)
        if here.mount is None:
            if guest in self._ancestors:
                return _Level(guest, None, -1, owned=False), None
            raise _error(errno.ENOENT)
        return self._step_host(here, guest, name, last=last, follow=follow)

    @staticmethod
    def _step_emulated(
        node: Node, guest: str, name: str, *, last: bool, follow: bool
    ) -> tuple[_Level | Place | None, str | None]:
        # An open descriptor (/proc/self/fd/N) has an opener too: it is opened, not looked up by name.
        if node.target and (not last or (follow and node.opener is None)):
            return None, node.target
        if stat.S_ISDIR(node.mode):
            return _Level(guest, None, -1, owned=False), None
        if last:
            return Place(guest, None, -1, name, node=node), None
        raise _error(errno.ENOTDIR)

    def _step_host(
        self, here: _Level, guest: str, name: str, *, last: bool, follow: bool
    ) -> tuple[_Level | Place | None, str | None]:
        if last:
            try:
                target = os.readlink(name, dir_fd=here.fd)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
                # The way to a mount point is there even where the host has nothing (a working directory below /tmp).
                if error.errno == errno.ENOENT and guest in self._ancestors:
                    return _Level(guest, None, -1, owned=False), None
            else:
                if follow:
                    return None, target
            return Place(guest, here.mount, here.fd, name), None
        try:
            fd = os.open(name, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here.fd)
        except FileNotFoundError:
            if guest in self._ancestors:
                return _Level(guest, None, -1, owned=False), None
            raise
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                level = _Level(guest, here.mount, fd, owned=True)
                fd = -1
                return level, None
            if stat.S_ISLNK(mode):
                return None, os.readlink("", dir_fd=fd)
            raise _error(errno.ENOTDIR)
        finally:
            if fd >= 0:
                os.close(fd)
