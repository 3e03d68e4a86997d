"""The disk cache of compiled code: files keyed by content, in a directory that belongs to the user alone.

A file is a header (magic, payload length, BLAKE2b-256 of the payload) and a payload: named sections of bytes. It is
written beside its name and renamed, so a run killed at any moment leaves the old file or the new one. A file with
another owner, writable by others, torn or changed in any bit is refused, and then made anew.

The checksum finds accidents. Whoever can write files as the user could also run programs as the user, so there is no
secret in it; yet every reader checks the numbers in a section before it uses them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from functools import cached_property

from vm_core.errors import CacheError
from vm_core.hints import TYPE_CHECKING, Final
from vm_core.lengths import any_length
from vm_core.log import Log
from vm_core.places import ZONE, cache_directory, cache_zone
from vm_core.record import record
from vm_jit.digest import blake2b

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Cache", "Entry", "pack", "unpack", "warn"]

log = Log("vm.jit")

_MAGIC: Final = b"VMCACHE2"
_HEADER: Final = struct.Struct("<8sQ32s")
_SECTION: Final = struct.Struct("<16sQQ")
"""Name, and offset and size in bytes, the offset from the payload's start. The payload begins with their number (64 bits)."""
SUFFIX: Final = ".vmc"
LIMIT_BYTES: Final = 1 << 30
"""The default size beyond which prune() removes the files used longest ago."""


def pack(sections: Mapping[str, bytes]) -> bytes:
    """A whole file. Names are at most 16 bytes of ASCII; sections begin at multiples of 16."""
    return b"".join(_pieces(sections))


def _pieces(sections: Mapping[str, bytes]) -> list[bytes]:
    """A file's bytes. PERF: they may be many, and are not copied."""
    at = 8 + _SECTION.size * len(sections)
    table, parts = [len(sections).to_bytes(8, "little")], []
    for name, data in sections.items():
        table.append(_SECTION.pack(name.encode("ascii"), at, len(data)))
        parts += [data, bytes(-(at + len(data)) % 16)]
        at += len(data) + len(parts[-1])
    digest = blake2b(digest_size=32)
    for piece in (*table, *parts):
        digest.update(piece)
    return [_HEADER.pack(_MAGIC, at, digest.digest()), *table, *parts]


def unpack(data: bytes, path: str) -> dict[str, memoryview]:
    """The sections of a file. Raises CacheError, which names ``path``."""
    if len(data) < _HEADER.size:
        raise CacheError(f"{path} is torn: {len(data)} bytes")
    magic, length, digest = _HEADER.unpack_from(data)
    payload = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC:
        raise CacheError(f"{path} is no cache file of this version")
    if len(payload) != length:
        raise CacheError(f"{path} is torn: {len(payload)} of {length} bytes")
    if blake2b(payload, digest_size=32).digest() != digest:
        raise CacheError(f"{path} has been changed: its checksum is wrong")
    count = int.from_bytes(payload[:8], "little")
    if length < 8 or count > (length - 8) // _SECTION.size:
        raise CacheError(f"{path} has no table of sections")
    found = {}
    for name, at, size in _SECTION.iter_unpack(payload[8 : 8 + count * _SECTION.size]):
        if at > length or size > length - at:
            raise CacheError(f"{path}: a section lies outside the file")
        found[name.rstrip(b"\0").decode("ascii", "replace")] = payload[at : at + size]
    return found


_said: Final[set[str]] = set()
_user: Final = os.geteuid()


def same_user() -> bool:
    """Whether this is still the user who started vm: a guest's process may have become another one, whom neither the cache nor
    the files of Python need belong to."""
    return os.geteuid() == _user


def warn(what: str, error: Exception) -> None:
    """Log why the cache could not be used for ``what``; a directory's own problem once, not for each file in it. Not to a guest
    that has become another user, who is not meant to use it."""
    if not same_user():
        return
    directory = getattr(error, "directory", "")
    if directory:
        if directory in _said:
            return
        _said.add(directory)
        what = "compiled code is not kept"
    hint = getattr(error, "hint", "")
    log.warning("%s: %s%s", what, error, f" ({hint})" if hint else "")


@record(frozen=True)
class Entry:
    """A file of the cache. ``error`` says why it may not be used (empty if it may)."""

    name: str
    size: int
    mtime: float
    error: str = ""

    @property
    def valid(self) -> bool:
        return not self.error


class Cache:
    """One cache directory; made, for its owner only, when first written to."""

    def __init__(self, directory: Path | str | None = None) -> None:
        # PERF: text, because pathlib is slow to load and a run reads its files without it.
        self.root = os.fspath(directory) if directory is not None else cache_directory()

    @cached_property
    def directory(self) -> Path:
        from pathlib import Path

        return Path(self.root)

    def _path(self, name: str, place: str = "") -> str:
        return os.path.join(place or self.root, name + SUFFIX)

    def _check_directory(self, place: str) -> None:
        info = os.lstat(place)
        if not stat.S_ISDIR(info.st_mode):
            raise CacheError(
                f"{place} is not a directory", hint="remove it, or set VM_CACHE_DIR", directory=place
            )
        self._check_owner(place, info, directory=place)

    @staticmethod
    def _check_owner(path: str, info: os.stat_result, *, directory: str = "") -> None:
        if info.st_uid != os.geteuid():
            raise CacheError(
                f"{path} belongs to user {info.st_uid}",
                hint="remove it, or set VM_CACHE_DIR to a directory of yours",
                directory=directory,
            )
        if info.st_mode & 0o022:
            raise CacheError(
                f"{path} can be written by others", hint=f"chmod go-w {path}", directory=directory
            )

    def has(self, name: str) -> bool:
        """Whether there is something under ``name``, sound or not."""
        return os.path.exists(self._path(name))

    def read(self, name: str) -> dict[str, memoryview] | None:
        """The sections stored under ``name``; None if there are none. Raises CacheError for a file not to be used.

        Read, not mapped, which takes some 0.05 ms more for 100 KiB: a file that someone truncates or rewrites meanwhile can
        neither end the process with SIGBUS nor change after its checksum was looked at.
        """
        zone = cache_zone()
        found = self._read(name, zone) if zone else None
        return self._read(name, self.root) if found is None else found

    def _read(self, name: str, place: str) -> dict[str, memoryview] | None:
        path = self._path(name, place)
        try:
            self._check_directory(place)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise CacheError(f"{path}: {error.strerror}", directory=place) from None
        except OSError as error:
            raise CacheError(f"{path}: {error.strerror}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise CacheError(f"{path} is not a file")
            self._check_owner(path, info)
            with open(fd, "rb", buffering=0, closefd=False) as file:
                data = file.read()
        finally:
            os.close(fd)
        return unpack(data, path)

    def write(self, name: str, sections: Mapping[str, bytes]) -> None:
        """Store under ``name``, replacing what was there. Raises CacheError."""
        pieces = _pieces(sections)
        place = cache_zone() or self.root
        try:
            with contextlib.suppress(FileExistsError):
                os.makedirs(place, 0o700)
            self._check_directory(place)
            # PERF: not tempfile, which takes 5 ms to load.
            temporary = os.path.join(place, f".{os.getpid()}.{os.urandom(8).hex()}")
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            try:
                with open(fd, "wb", buffering=0) as file, any_length():
                    for piece in pieces:
                        view = memoryview(piece)
                        while view:
                            view = view[file.write(view) :]
                os.replace(temporary, self._path(name, place))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            # A permission, a full disk, a file in the way: the next write would meet the same.
            raise CacheError(f"cannot write in {place}: {error.strerror}", directory=place) from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def _files(self) -> Iterator[Path]:
        """Those of the cache itself and of its zones."""
        if self.directory.is_dir():
            yield from sorted(self.directory.glob(f"*{SUFFIX}"))
            yield from sorted(self.directory.glob(f"{ZONE}*/*{SUFFIX}"))

    def entries(self) -> Iterator[Entry]:
        """Every file of the cache, checked."""
        for path in self._files():
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            name = str(path.relative_to(self.directory)).removesuffix(SUFFIX)
            error = ""
            try:
                self._read(name, self.root)
            except CacheError as problem:
                error = str(problem)
            yield Entry(name, info.st_size, info.st_mtime, error)

    def verify(self, *, remove: bool = True) -> list[Entry]:
        """The files that may not be used; by default they are removed."""
        bad = [entry for entry in self.entries() if not entry.valid]
        if remove:
            for entry in bad:
                self.remove(entry.name)
        return bad

    def clear(self) -> int:
        """Remove every file; returns how many."""
        count = 0
        for path in self._files():
            path.unlink(missing_ok=True)
            count += 1
        for zone in self.directory.glob(f"{ZONE}*"):
            with contextlib.suppress(OSError):  # a run may be using it
                zone.rmdir()
        return count

    def prune(self, limit: int = LIMIT_BYTES) -> int:
        """Remove the files written longest ago until at most ``limit`` bytes are left; returns the bytes removed."""
        entries = sorted(self.entries(), key=lambda entry: entry.mtime)
        total = sum(entry.size for entry in entries)
        removed = 0
        for entry in entries:
            if total - removed <= limit:
                break
            self.remove(entry.name)
            removed += entry.size
        return removed
