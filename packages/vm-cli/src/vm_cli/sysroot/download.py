"""Fetching files over HTTP, and keeping those whose checksum is known: each under that checksum, in the cache directory.

A file that is kept is written beside its name, checked, and renamed; what was cut off goes on where it stopped. Whoever
takes a kept file has its checksum compared anew, so that one which was damaged on the disk is fetched again.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vm_cli.sysroot.errors import MirrorError, StaleError, VerificationError
from vm_cli.sysroot.progress import Progress, Step
from vm_core.errors import HostError

__all__ = ["Fetcher", "Missing", "Store", "Unreachable", "Wanted", "redacted"]

_CHUNK: Final = 1 << 16
_TRIES: Final = 3
_TIMEOUT: Final = 30.0
_WORKERS: Final = 4


class Missing(StaleError):
    """The server has no such file."""


class Unreachable(MirrorError):
    """There is no answer from the server."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file whose checksum is known. ``size`` is in bytes; no more are read."""

    url: str
    sha256: str
    size: int


def redacted(url: str) -> str:
    """A URL without the password that may stand in it."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Fetcher:
    """Reads URLs: http, https and file, through the environment's proxies, as urllib does.

    ``proxies`` has those of other schemes or in the place of the environment's; an empty one means none.
    """

    def __init__(self, proxies: Mapping[str, str] | None = None) -> None:
        chosen = {**urllib.request.getproxies(), **(proxies or {})}
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler({scheme: proxy for scheme, proxy in chosen.items() if proxy}),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.FileHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def open(self, url: str, start: int = 0) -> Any:
        """An answer to read from, at ``start`` if its status is 206. Raises Missing and MirrorError."""
        shown = redacted(url)
        request = urllib.request.Request(shown, headers={"User-Agent": "vm-sysroot"})  # noqa: S310 - the opener has no others
        user, at, _ = urllib.parse.urlsplit(url).netloc.rpartition("@")
        if at:
            words = urllib.parse.unquote(user).encode()
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(words).decode()}")
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            return self._opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise Missing(f"the mirror has no {shown}") from None
            raise MirrorError(f"{shown}: HTTP status {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            cause = error.reason
            if shown.startswith("file:") and isinstance(cause, FileNotFoundError):
                raise Missing(f"the mirror has no {shown}") from None
            text = cause.strerror or str(cause) if isinstance(cause, OSError) else str(cause)
            raise Unreachable(f"{shown}: {text}", hint="check the mirror's URL and the network") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{shown}: {error}", hint="check the mirror's URL and the network") from error

    def read(self, url: str, limit: int) -> bytes:
        """A small file. Raises Missing and MirrorError, also for one that is longer than ``limit`` bytes."""
        for left in reversed(range(_TRIES)):
            try:
                with self.open(url) as answer:
                    data: bytes = answer.read(limit + 1)
                    length = answer.headers.get("Content-Length", "")
                if not length.isdigit() or len(data) >= min(int(length), limit + 1):
                    break
                if not left:
                    raise MirrorError(f"{redacted(url)}: the connection is cut off again and again")
            except MirrorError as error:
                if not left or not _transient(error):
                    raise
            except (OSError, http.client.HTTPException) as error:
                if not left:
                    raise MirrorError(f"{redacted(url)}: {error}") from None
            time.sleep(0.5)
        if len(data) > limit:
            raise MirrorError(f"{redacted(url)} is longer than {limit} bytes")
        return data


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Never from https to http. urllib itself never follows one from the network to a file."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"it redirects from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _transient(error: MirrorError) -> bool:
    """Whether another try may help."""
    cause = error.__cause__
    if isinstance(cause, urllib.error.HTTPError):
        return cause.code in (408, 429) or cause.code >= 500
    if isinstance(error, Missing):
        return False
    if isinstance(cause, urllib.error.URLError):
        return isinstance(cause.reason, ConnectionError)
    return cause is not None


class Store:
    """The downloads that are kept, below ``directory``, by SHA-256."""

    def __init__(self, directory: Path, fetcher: Fetcher) -> None:
        self.directory = directory
        self.fetcher = fetcher
        self.fetched_bytes = 0
        self.reused_bytes = 0
        self._lock = threading.Lock()

    def path(self, sha256: str) -> Path:
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise VerificationError(f"the index has no SHA-256 but {sha256[:70]!r}")
        return self.directory / sha256

    def get(self, wanted: Wanted, step: Step | None = None) -> Path:
        """The file, from here or from the mirror. Raises VerificationError if the mirror's is not the one wanted."""
        path = self.path(wanted.sha256)
        if _digest(path) == wanted.sha256:
            with self._lock:
                self.reused_bytes += wanted.size
            if step:
                step.advance(wanted.size)
            return path
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = os.lstat(self.directory)
            if info.st_uid != os.geteuid() or info.st_mode & 0o022:
                raise HostError(
                    f"{self.directory} belongs to another user or can be written by others",
                    hint="set VM_CACHE_DIR to a directory of your own",
                )
            self._fetch(wanted, path, step)
        except OSError as error:
            raise HostError(f"{error.filename or path}: {error.strerror or error}") from None
        return path

    def _fetch(self, wanted: Wanted, path: Path, step: Step | None) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        part = path.with_name(f"{path.name}.part")
        while True:
            file = open(os.open(part, flags, 0o600), "r+b", buffering=0)  # noqa: SIM115 - locked, then perhaps opened anew
            fcntl.flock(file, fcntl.LOCK_EX)  # another vm may be fetching the same
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(part, follow_symlinks=False)):
                    break
            file.close()
            if _digest(path) == wanted.sha256:  # it has
                if step:
                    step.advance(wanted.size)
                return
        with file:
            shown, told, failures = redacted(wanted.url), 0, 0
            while True:
                digest, have = _of_open(file)
                if have > wanted.size:
                    digest, have = self._restart(file)
                if step:
                    step.advance(have - told)
                start = told = have
                error = None
                try:
                    if have < wanted.size:
                        told = self._transfer(wanted, file, digest, have, step)
                except MirrorError as problem:
                    if not _transient(problem):
                        raise
                    error = problem
                if told == wanted.size and digest.hexdigest() == wanted.sha256:
                    os.replace(part, path)
                    return
                if told >= wanted.size:
                    self._restart(file)
                    if not start:
                        part.unlink(missing_ok=True)
                        raise VerificationError(
                            f"{shown} is not the file that the index names: its size or SHA-256 differs",
                            hint="the mirror is being changed, or somebody changes what comes from it: try another one",
                        )
                    continue  # what was left of an earlier try may have been wrong: once more, from the start
                failures = 0 if told > start else failures + 1
                if failures == _TRIES:
                    raise error or MirrorError(
                        f"{shown}: the connection is cut off again and again",
                        hint="try again: it goes on from there",
                    )
                time.sleep(0.3)

    @staticmethod
    def _restart(file: Any) -> tuple[Any, int]:
        file.seek(0)
        file.truncate()
        return hashlib.sha256(), 0

    def _transfer(self, wanted: Wanted, file: Any, digest: Any, have: int, step: Step | None) -> int:
        """Append what is missing. Returns the bytes that are there then; one more than wanted if the file is too long."""
        with self.fetcher.open(wanted.url, have) as answer:
            skip = have if answer.status != 206 else 0  # the server may begin anew
            while True:
                try:
                    while skip and (data := answer.read(min(_CHUNK, skip))):
                        skip -= len(data)
                    data = answer.read(_CHUNK)
                except (OSError, http.client.HTTPException):
                    return have
                if not data:
                    return have
                have += len(data)
                if have > wanted.size:
                    return have
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                digest.update(data)
                with self._lock:
                    self.fetched_bytes += len(data)
                if step:
                    step.advance(len(data))

    def get_all(self, wanted: Iterable[Wanted], what: str, progress: Progress) -> list[Path]:
        """All of them, some at a time. The first error ends it; Ctrl-C does so at once."""
        rows = list(wanted)
        paths: list[Path | None] = [None] * len(rows)
        todo: queue.SimpleQueue[tuple[int, Wanted]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Path | BaseException]] = queue.SimpleQueue()
        for row in enumerate(rows):
            todo.put(row)
        stop = threading.Event()

        def work(step: Step) -> None:
            while not stop.is_set():
                try:
                    number, one = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((number, self.get(one, step)))
                except BaseException as error:  # noqa: BLE001 - raised anew by who waits for it
                    done.put((number, error))

        with progress.step(what, sum(one.size for one in rows)) as step:
            # Threads of our own, because an executor's are waited for at exit: a server that stalls would hold Ctrl-C.
            for _ in range(min(_WORKERS, len(rows))):
                threading.Thread(target=work, args=(step,), daemon=True).start()
            try:
                for _ in rows:
                    number, result = done.get()
                    if isinstance(result, BaseException):
                        raise result
                    paths[number] = result
            finally:
                stop.set()
        return [path for path in paths if path is not None]

    def clear(self) -> tuple[int, int]:
        """Delete what is kept; returns how many files and bytes."""
        count = total = 0
        try:
            entries = list(os.scandir(self.directory))
        except FileNotFoundError:
            return 0, 0
        for entry in entries:
            if len(entry.name.removesuffix(".part")) == 64 and entry.is_file(follow_symlinks=False):
                count, total = count + 1, total + entry.stat(follow_symlinks=False).st_size
                os.unlink(entry.path)
        return count, total


def _of_open(file: Any) -> tuple[Any, int]:
    """The running digest of an open file, and its size; it stands at its end then."""
    digest, have = hashlib.sha256(), 0
    file.seek(0)
    while data := file.read(1 << 20):
        digest.update(data)
        have += len(data)
    return digest, have


def _digest(path: Path) -> str:
    """The SHA-256 of a kept file, or nothing if there is none."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
