"""A Debian archive of a few packages, made here, and a server for it that can be told to misbehave."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def entry(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a tar archive; ``fields`` are TarInfo's, with ``link`` for a symbolic link's target."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, 1_000_000_000
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    if "link" in fields:
        member.type, member.linkname = tarfile.SYMTYPE, fields.pop("link")
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]], *, format_: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def deb(
    control: str,
    entries: Sequence[tuple[tarfile.TarInfo, bytes]] = (),
    *,
    scripts: dict[str, str] | None = None,
    pack: str = ".xz",
) -> bytes:
    """A package's file."""
    files = [entry("./control", control.encode())]
    files += [entry(f"./{name}", text.encode()) for name, text in (scripts or {}).items()]
    members = [("control", tar(files)), ("data", tar(entries))]
    return ar(
        [("debian-binary", b"2.0\n"), *((f"{stem}.tar{pack}", PACK[pack](data)) for stem, data in members)]
    )


class Archive:
    """``add`` packages, then ``release`` a suite of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stanzas: list[str] = []

    def add(
        self,
        name: str,
        version: str = "1.0-1",
        files: Sequence[tuple[tarfile.TarInfo, bytes]] = (),
        *,
        scripts: dict[str, str] | None = None,
        pack: str = ".xz",
        architecture: str = "riscv64",
        **fields: str,
    ) -> Path:
        """Fields are given with _ for -: ``pre_depends="libc6 (>= 2)"``."""
        rows = {"Package": name, "Version": version, "Architecture": architecture, "Maintainer": "Nobody"}
        rows |= {"Installed-Size": "4"} | {
            key.replace("_", "-").title(): text for key, text in fields.items()
        }
        control = (
            "".join(f"{key}: {text}\n" for key, text in rows.items()) + f"Description: {name} for tests\n"
        )
        path = self.root / "pool" / f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = deb(
            control,
            files or [entry("./usr/"), entry(f"./usr/share/{name}", name.encode())],
            scripts=scripts,
            pack=pack,
        )
        path.write_bytes(data)
        where = path.relative_to(self.root)
        self.stanzas.append(
            f"{control}Filename: {where}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        return path

    def release(
        self,
        codename: str = "trixie",
        suite: str = "stable",
        *,
        architectures: str = "all amd64 arm64 riscv64",
        architecture: str = "riscv64",
        days: float | None = None,
        by_hash: bool = True,
        key: Path | None = None,
        date: float | None = None,
        names: Sequence[str] | None = None,
    ) -> str:
        """Write the suite under both names; ``days`` until it expires. Returns the text of Release."""
        index = "\n".join(self.stanzas).encode()
        lines, stem = [], f"main/binary-{architecture}/Packages"
        folders = [self.root / "dists" / name for name in names or (codename, suite)]
        for ending, pack in PACK.items():
            data = pack(index)
            digest = hashlib.sha256(data).hexdigest()
            lines.append(f" {digest} {len(data)} {stem}{ending}")
            for folder in folders:
                path = folder / (stem + ending)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                if by_hash:
                    kept = path.parent / "by-hash" / "SHA256" / digest
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(data)
        head = {
            "Origin": "Test", "Suite": suite, "Codename": codename, "Date": formatdate(date or time.time(), usegmt=True),
            "Architectures": architectures, "Components": "main", "Acquire-By-Hash": "yes" if by_hash else "no",
        }  # fmt: skip
        if days is not None:
            head["Valid-Until"] = formatdate(time.time() + days * 86400, usegmt=True)
        text = (
            "".join(f"{key_}: {value}\n" for key_, value in head.items())
            + "SHA256:\n"
            + "\n".join(lines)
            + "\n"
        )
        for folder in folders:
            (folder / "InRelease").write_text(text)
            if key:
                gpg(key, "--yes", "--clearsign", "-o", str(folder / "InRelease"), data=text)
        return text


def gpg(home: Path, *words: str, data: str = "") -> bytes:
    command = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]
    return subprocess.run([*command, *words], input=data.encode(), capture_output=True, check=True).stdout


class Server(ThreadingHTTPServer):
    """Serves a directory. ``cut`` breaks off the answers of matching paths after so many bytes, so many times."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.log: list[tuple[str, str]] = []
        self.cut: dict[str, list[int]] = {}
        self.statuses: dict[str, list[int]] = {}
        self.redirects: dict[str, str] = {}
        self.ranges = True
        self.stalled = ""
        self.over = threading.Event()
        self.authorizations: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        pass

    def do_GET(self) -> None:
        server, range_ = self.server, self.headers.get("Range", "")
        server.log.append((self.path, range_))
        server.authorizations.append(self.headers.get("Authorization", ""))
        path = server.root / self.path.lstrip("/").replace("%25", "%")
        if server.stalled and server.stalled in self.path:
            server.over.wait(100)
            return
        for part, target in server.redirects.items():
            if part in self.path:
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
                return
        for part, statuses in server.statuses.items():
            if part in self.path and statuses:
                self.send_error(statuses.pop(0))
                return
        if not path.is_file():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        if range_ and server.ranges:
            start = int(range_.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        for part, cuts in server.cut.items():
            if part in self.path and cuts:
                body = body[: cuts.pop(0)]
                self.close_connection = True
        self.wfile.write(body)


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
