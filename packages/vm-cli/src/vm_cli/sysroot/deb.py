"""Reading a .deb (deb(5)): an ar archive of two tar archives, control and data. All of it is hostile input.

Nothing is read into memory but what has a small bound: contents are streamed.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn, Self

from vm_cli.sysroot.control import Package
from vm_cli.sysroot.errors import PackageError

__all__ = ["Deb"]

_AR: Final = b"!<arch>\n"
_CONTROL_FILE_LIMIT: Final = 16 << 20
_CONTROL_LIMIT: Final = 64 << 20
_DATA_LIMIT: Final = 32 << 30
_HEADER_LIMIT: Final = 1 << 20
"""How long a tar header's extension (a long name, say) may be: tarfile reads it as one piece."""


class _Part(io.RawIOBase):
    """Some bytes in the middle of a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._at, self._end = file, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._at)
        data = self._file.read(min(len(buffer), self._end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Limited:
    """What a decompressor gives, up to a bound: a few bytes can stand for any number of them."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self._left -= len(data)
        if self._left < 0:
            raise PackageError("it unpacks to more bytes than any package has")
        return data


class _Header(tarfile.TarInfo):
    """A tar header. The ones that extend the next are held to a size."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extends = (
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
        )  # fmt: skip
        if self.type in extends and self.size > _HEADER_LIMIT:
            raise PackageError("a tar header is longer than any name")
        if self.size < 0:
            raise PackageError("a tar header has a negative size")
        return super()._proc_member(archive)  # type: ignore[misc]


def _zstd(file: Any) -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module).ZstdFile(file)
        except ImportError:
            continue
    raise PackageError(
        "it is compressed with zstd, which this Python cannot read",
        hint="python -m pip install 'vm-cli[zstd]'",
    )


_OPENERS: Final[dict[str, Any]] = {
    "": lambda file: file,
    ".gz": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    ".xz": lzma.LZMAFile,
    ".lzma": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
    ".zst": _zstd,
}


_DAMAGE: Final = (
    tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OverflowError, RecursionError
)  # fmt: skip
"""What the decompressors and tarfile raise for bytes that are not theirs."""


def _members(file: IO[bytes], size: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member of an ar archive."""
    if file.read(8) != _AR:
        raise PackageError("no ar archive")
    at = 8
    while at < size:
        file.seek(at)
        header = file.read(60)
        if len(header) < 60 or header[58:] != b"`\n":
            raise PackageError(f"no header of an ar member at {at:#x}")
        digits = header[48:58].strip()
        if not digits.isdigit():
            raise PackageError(f"an ar member without a size at {at:#x}")
        length = int(digits)
        if length > size - at - 60:
            raise PackageError(f"an ar member at {at:#x} ends behind the file")
        yield header[:16].decode("ascii", "replace").rstrip(" ").removesuffix("/"), at + 60, length
        at += 60 + length + length % 2


class Deb:
    """An open package. Raises PackageError, in every method, for what is malformed; its message names the file."""

    def __init__(self, path: Path, label: str = "") -> None:
        self.label = label or path.name
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        try:
            self._parts = self._find_parts()
            self.control = self._read_control()
        except BaseException as error:
            self._file.close()
            if isinstance(error, PackageError):
                self._refuse(error)
            raise

    def _refuse(self, error: Exception) -> NoReturn:
        text = str(error) or type(error).__name__
        raise PackageError(f"{self.label}: {text}", hint=getattr(error, "hint", "")) from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find_parts(self) -> dict[str, tuple[str, int, int]]:
        size = os.fstat(self._file.fileno()).st_size
        found: dict[str, tuple[str, int, int]] = {}
        for number, (name, start, length) in enumerate(_members(self._file, size)):
            if number == 0:
                self._file.seek(start)
                if name != "debian-binary" or not self._file.read(min(length, 16)).startswith(b"2."):
                    raise PackageError("no Debian package of format 2")
            stem, dot, ending = name.partition(".tar")
            if dot and stem in ("control", "data") and stem not in found:
                if ending not in _OPENERS:
                    raise PackageError(f"{name}: compressed in an unknown way")
                found[stem] = (ending, start, length)
        for stem in ("control", "data"):
            if stem not in found:
                raise PackageError(f"it has no {stem}.tar")
        return found

    @contextmanager
    def _tar(self, stem: str, limit: int) -> Iterator[tarfile.TarFile]:
        ending, start, length = self._parts[stem]
        part = io.BufferedReader(_Part(self._file, start, length), 1 << 16)
        try:
            stream: Any = _Limited(_OPENERS[ending](part), limit)
            with tarfile.open(
                fileobj=stream,
                mode="r|",
                bufsize=1 << 16,
                tarinfo=_Header,
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive:
                yield archive
        except _DAMAGE as error:
            raise PackageError(f"{stem}.tar is damaged: {error}") from None
        except OSError as error:
            if error.errno is not None:
                raise  # the file system's, and not a decompressor's
            raise PackageError(f"{stem}.tar is damaged: {error}") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise PackageError(f"{stem}.tar is damaged: {error}") from None

    def _read_control(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        total = 0
        with self._tar("control", _CONTROL_LIMIT) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if not member.isreg() or "/" in name or name in ("", ".", ".."):
                    continue
                total += member.size
                if member.size > _CONTROL_FILE_LIMIT or total > _CONTROL_LIMIT:
                    raise PackageError(f"control.tar: {name} is too long")
                file = archive.extractfile(member)
                found[name] = file.read() if file else b""
        if "control" not in found:
            raise PackageError("control.tar has no file control")
        return found

    def package(self) -> Package:
        """What its control file says."""
        try:
            return Package(self.control["control"].decode("utf-8", "replace").strip("\n"))
        except PackageError as error:
            self._refuse(error)

    @contextmanager
    def data(self) -> Iterator[tarfile.TarFile]:
        """The archive of its files, to be read once and in order."""
        try:
            with self._tar("data", _DATA_LIMIT) as archive:
                yield archive
        except PackageError as error:
            self._refuse(error)
