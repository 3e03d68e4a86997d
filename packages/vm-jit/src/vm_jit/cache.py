"""The disk cache of compiled code: files keyed by content, in a directory that belongs to the user alone.

A file is a header (magic, payload length, BLAKE2b-256 of the payload) and a payload (JSON, then raw bytes). It is
written beside its name and renamed, so a run killed at any moment leaves the old file or the new one. A file with
another owner, writable by others, torn or changed in any bit is refused, and then made anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from vm_core.errors import CacheError
from vm_core.log import Log
from vm_core.record import record
from vm_jit.digest import blake2b

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Cache", "Entry", "default_directory", "warn"]

log = Log("vm.jit")

_MAGIC: Final = b"VMCACHE1"
_HEADER: Final = struct.Struct("<8sQ32s")
SUFFIX: Final = ".vmc"
LIMIT_BYTES: Final = 1 << 30
"""The default size beyond which prune() removes the files used longest ago."""


def default_directory() -> str:
    """``VM_CACHE_DIR``, else ``vm`` in the user's cache directory."""
    if chosen := os.environ.get("VM_CACHE_DIR"):
        return chosen
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vm")


_said: Final[set[str]] = set()


def warn(what: str, error: Exception) -> None:
    """Log why the cache could not be used for ``what``; a directory's own problem once, not for each file in it."""
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
        self._directory = os.fspath(directory) if directory is not None else default_directory()

    @cached_property
    def directory(self) -> Path:
        from pathlib import Path

        return Path(self._directory)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name + SUFFIX)

    def _check_directory(self) -> None:
        info = os.lstat(self._directory)
        if not stat.S_ISDIR(info.st_mode):
            raise CacheError(
                f"{self._directory} is not a directory",
                hint="remove it, or set VM_CACHE_DIR",
                directory=self._directory,
            )
        self._check_owner(self._directory, info, directory=self._directory)

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

    def read(self, name: str) -> tuple[dict[str, Any], bytes] | None:
        """The (JSON, bytes) stored under ``name``; None if there is none. Raises CacheError for a file not to be used."""
        path = self._path(name)
        try:
            self._check_directory()
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise CacheError(f"{path}: {error.strerror}", directory=self._directory) from None
        except OSError as error:
            raise CacheError(f"{path}: {error.strerror}") from None
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise CacheError(f"{path} is not a file")
            self._check_owner(path, info)
            data = file.read()
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
        size = int.from_bytes(payload[:4], "little")
        try:
            meta = json.loads(bytes(payload[4 : 4 + size]))
        except ValueError as error:
            raise CacheError(f"{path}: {error}") from None
        return meta, bytes(payload[4 + size :])

    def write(self, name: str, meta: dict[str, Any], blob: bytes) -> None:
        """Store under ``name``, replacing what was there. Raises CacheError."""
        import tempfile

        text = json.dumps(meta, separators=(",", ":")).encode()
        payload = len(text).to_bytes(4, "little") + text + blob
        header = _HEADER.pack(_MAGIC, len(payload), blake2b(payload, digest_size=32).digest())
        try:
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=0o700, parents=True)
            self._check_directory()
            fd, temporary = tempfile.mkstemp(prefix=".", dir=self.directory)
            try:
                with open(fd, "wb") as file:
                    file.write(header)
                    file.write(payload)
                os.replace(temporary, self._path(name))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            # A permission, a full disk, a file in the way: the next write would meet the same.
            raise CacheError(
                f"cannot write in {self._directory}: {error.strerror}", directory=self._directory
            ) from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def entries(self) -> Iterator[Entry]:
        """Every file of the cache, checked."""
        if not self.directory.is_dir():
            return
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            error = ""
            try:
                self.read(path.name.removesuffix(SUFFIX))
            except CacheError as problem:
                error = str(problem)
            yield Entry(path.name.removesuffix(SUFFIX), info.st_size, info.st_mtime, error)

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
        if self.directory.is_dir():
            for path in self.directory.glob(f"*{SUFFIX}"):
                path.unlink(missing_ok=True)
                count += 1
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
