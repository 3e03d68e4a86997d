"""Where packages come from: the archive that the user names or that apt on this host uses, and the suites in it.

A suite's InRelease file is signed; it holds the checksum of the index, which holds that of every package. So the one
signature, checked by gpgv with the keys that the host's administrator installed, covers all that is unpacked.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import gzip
import lzma
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vm_cli.settings import URL
from vm_cli.sysroot.control import fields, stanzas
from vm_cli.sysroot.download import Fetcher, Missing, Store, Unreachable, Wanted, redacted
from vm_cli.sysroot.errors import MirrorError, PackageError, StaleError, VerificationError
from vm_cli.sysroot.progress import Progress
from vm_cli.sysroot.resolve import Index
from vm_core.errors import UsageError

__all__ = ["SUITES", "Apt", "Mirror", "Release", "Source", "read_apt", "suites"]

SUITES: Final = ("stable", "testing", "unstable")
"""Tried in this order: names that every Debian archive has, whatever they stand for at the time."""

APT: Final = Path("/etc/apt")
KEYRINGS: Final = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_RELEASE_LIMIT: Final = 16 << 20
_INDEX_LIMIT: Final = 1 << 30
_STRONG_HASHES: Final = ("8", "9", "10")  # SHA-256, SHA-384 and SHA-512 by their numbers in OpenPGP


@dataclass(frozen=True, slots=True)
class Mirror:
    """An archive. ``keyring`` is what its entry in apt's configuration says, if it is from there."""

    url: str
    keyring: str = ""
    check_valid_until: bool = True
    origin: str = ""
    """Who named it: ``option``, ``setting`` or ``apt``."""


@dataclass(frozen=True, slots=True)
class Apt:
    """What is read of apt's configuration. ``proxies`` is by scheme, as for Fetcher."""

    mirrors: tuple[Mirror, ...] = ()
    proxies: dict[str, str] = field(default_factory=dict)


# -- apt's configuration ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """One archive of sources.list(5)."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str]


def _one_line(text: str) -> Iterator[_Entry]:
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)\s*(?:#.*)?", line)
        if match:
            pairs = (word.partition("=") for word in (match[1] or "").split())
            options = {key.lower(): value for key, _, value in pairs}
            yield _Entry(match[2], (match[3],), tuple(match[4].split()), options)


def _deb822(text: str) -> Iterator[_Entry]:
    for stanza in stanzas(re.sub(r"(?m)^#.*\n?", "", text)):
        try:
            found = fields(stanza)
        except PackageError:
            continue  # apt itself will complain
        if "deb" in found.get("types", "").split() and found.get("enabled", "yes").lower() not in (
            "no",
            "false",
            "0",
        ):
            for uri in found.get("uris", "").split():
                yield _Entry(
                    uri,
                    tuple(found.get("suites", "").split()),
                    tuple(found.get("components", "").split()),
                    found,
                )


def _entries(apt: Path) -> Iterator[_Entry]:
    parts = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from _deb822(text) if path.suffix == ".sources" else _one_line(text)


def _uris(uri: str) -> Iterator[str]:
    """The URLs behind one of apt's. ``mirror+file:`` names a list of them, one a line."""
    scheme, _, rest = uri.partition(":")
    if scheme not in ("mirror+file", "mirror"):
        yield uri
    elif scheme == "mirror+file" or rest.startswith("/") and not rest.startswith("//"):
        try:
            lines = Path(re.sub("^//+", "/", rest)).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        yield from (line.split()[0] for line in lines if line.strip() and not line.startswith("#"))


def read_apt(apt: Path = APT) -> Apt:
    """The archives of apt's configuration that may be Debian's main one, the likeliest first; and its proxies."""
    options = _apt_options()
    valid = options.get("check", "").lower() not in ("false", "no", "off", "0")
    found: dict[str, Mirror] = {}
    for entry in _entries(apt):
        released = [s for s in entry.suites if not re.search(r"[-/](security|updates|backports|debug)|/$", s)]
        if not released or "main" not in entry.components:
            continue
        for uri in _uris(entry.uri):
            try:
                url = URL.parse(uri)
            except ValueError:
                continue
            own = entry.options.get("check-valid-until", "").lower() not in ("no", "false", "0")
            found.setdefault(url, Mirror(url, entry.options.get("signed-by", ""), valid and own, "apt"))

    def doubt(mirror: Mirror) -> bool:
        return not mirror.url.endswith("/debian") and "debian-archive-" not in mirror.keyring

    proxies = {scheme: options[scheme] for scheme in ("http", "https") if options.get(scheme)}
    proxies = {scheme: "" if proxy.upper() == "DIRECT" else proxy for scheme, proxy in proxies.items()}
    return Apt(tuple(sorted(found.values(), key=doubt)), proxies)


def _apt_options() -> dict[str, str]:
    """Proxies and the check of dates, as apt's configuration files set them."""
    if not shutil.which("apt-config"):
        return {}
    names = [
        "http",
        "Acquire::http::Proxy",
        "https",
        "Acquire::https::Proxy",
        "check",
        "Acquire::Check-Valid-Until",
    ]
    try:
        done = subprocess.run(
            ["apt-config", "shell", *names], capture_output=True, text=True, check=False, timeout=20
        )
        pairs = (word.partition("=") for word in shlex.split(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return {key: value for key, _, value in pairs}


# -- signatures -------------------------------------------------------------------------------------------------------


def _keyring(mirror: Mirror, chosen: str, scratch: Path) -> Path:
    """The keyring to check with, as a file that gpgv reads. Raises VerificationError if there is none."""
    if chosen:
        path = Path(chosen).absolute()
        if not path.is_file():
            raise VerificationError(f"--keyring: there is no file {chosen}")
        return _dearmoured(path.read_bytes(), path, scratch)
    if "BEGIN PGP" in mirror.keyring:
        # An entry of apt may hold the key itself, its empty lines written as dots.
        text = re.sub(r"(?m)^\.$", "", mirror.keyring)
        return _dearmoured(text.encode(), Path("Signed-By"), scratch)
    named = [Path(word) for word in re.split(r"[,\s]+", mirror.keyring) if word.startswith("/")]
    for path in (*named, *KEYRINGS):
        if path.is_file():
            return _dearmoured(path.read_bytes(), path, scratch)
    raise VerificationError(
        "the archive's signature cannot be checked: its keys are not on this host",
        hint="install debian-archive-keyring, or name a keyring with --keyring FILE; "
        "--no-check-signature trusts the network",
    )


def _dearmoured(data: bytes, path: Path, scratch: Path) -> Path:
    """gpgv reads only binary keyrings."""
    if not data.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        return path
    keys = b""
    for block in re.findall(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END", data, re.DOTALL):
        body = re.split(rb"\r?\n[ \t]*\r?\n", block, maxsplit=1)[-1]
        lines = [line.strip() for line in body.splitlines() if line.strip() and not line.startswith(b"=")]
        try:
            keys += base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error:
            raise VerificationError(f"{path} is no keyring") from None
    out = scratch / "keyring.gpg"
    out.write_bytes(keys)
    return out


def _signed_text(data: bytes, url: str, mirror: Mirror, keyring: str) -> str:
    """What gpgv says is signed. Raises VerificationError unless a key of the keyring has signed it, and nothing is bad."""
    program = shutil.which("gpgv") or shutil.which("gpgv2")
    if program is None:
        raise VerificationError(
            "the archive's signature cannot be checked: there is no gpgv on this host",
            hint="install gpgv; --no-check-signature trusts the network",
        )
    with tempfile.TemporaryDirectory(prefix="vm-sysroot-") as name:
        scratch = Path(name)
        keys = _keyring(mirror, keyring, scratch)
        (scratch / "InRelease").write_bytes(data)
        # What is used is gpgv's own output: lines that stand around the signed part are not in it.
        command = [program, "--homedir", name, "--keyring", str(keys), "--status-fd", "1"]
        done = subprocess.run(
            [*command, "--output", str(scratch / "signed"), str(scratch / "InRelease")],
            capture_output=True,
            check=False,
        )
        status = done.stdout.decode("utf-8", "replace")
        words = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
        kinds = {row[0] for row in words if row}
        strong = [
            row for row in words if row[:1] == ["VALIDSIG"] and len(row) > 8 and row[8] in _STRONG_HASHES
        ]
        # A signature by a key that the keyring lacks says nothing; archives are signed with the keys of several releases.
        if "BADSIG" in kinds or "GOODSIG" not in kinds or not strong:
            missing = ", ".join(row[1] for row in words if row[:1] == ["NO_PUBKEY"] and len(row) > 1)
            if "BADSIG" in kinds:
                what, hint = (
                    "the signature is bad",
                    "somebody or something changed it on its way; try another mirror",
                )
            elif missing:
                what = f"it is signed by keys that {keys} does not have: {missing}"
                hint = "upgrade the package debian-archive-keyring, or name a keyring with --keyring FILE"
            else:
                what = "no good signature: " + (", ".join(sorted(kinds - {"NEWSIG"})) or "it is not signed")
                hint = "try another mirror; --no-check-signature trusts the network"
            raise VerificationError(f"{redacted(url)}: {what}", hint=hint)
        return (scratch / "signed").read_bytes().decode("utf-8", "replace")


def _unsigned_text(data: bytes) -> str:
    """The text of an InRelease file whose signature nobody looks at."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    match = re.search(
        r"-----BEGIN PGP SIGNED MESSAGE-----\n(?:.+\n)*\n(.*?)\n-----BEGIN PGP SIGNATURE", text, re.DOTALL
    )
    return re.sub(r"(?m)^- ", "", match[1]) if match else text


# -- suites -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Release:
    """A suite whose signature is good."""

    mirror: Mirror
    suite: str
    """Its directory below dists/."""
    codename: str
    architectures: frozenset[str]
    date: float
    valid_until: float | None
    by_hash: bool
    files: Mapping[str, tuple[str, int]]
    """Each index below the suite: SHA-256 and bytes."""

    @property
    def label(self) -> str:
        return f"{self.suite} ({self.codename})" if self.codename not in ("", self.suite) else self.suite

    def url(self, path: str) -> str:
        return f"{self.mirror.url}/dists/{self.suite}/{path}"


def _parse_release(text: str, mirror: Mirror, suite: str) -> Release:
    found = fields(text.strip("\n"))
    files = {}
    for line in found.get("sha256", "").splitlines():
        words = line.split()
        if len(words) == 3 and words[1].isdigit():
            files[words[2]] = (words[0].lower(), int(words[1]))
    if not files:
        raise PackageError(f"{suite}: the Release file lists no index with its SHA-256")
    return Release(
        mirror,
        suite,
        found.get("codename", ""),
        frozenset(found.get("architectures", "").split()),
        _time(found.get("date", "")) or 0.0,
        _time(found.get("valid-until", "")),
        found.get("acquire-by-hash", "").lower() == "yes",
        files,
    )


def _time(text: str) -> float | None:
    parsed = email.utils.parsedate_tz(text)
    try:
        return email.utils.mktime_tz(parsed) if parsed else None
    except (OverflowError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Source:
    """How to read an archive: what fetches, what keeps, which keys, and whether to check them at all."""

    store: Store
    keyring: str = ""
    check_signature: bool = True

    @property
    def fetcher(self) -> Fetcher:
        return self.store.fetcher

    def release(self, mirror: Mirror, suite: str) -> Release:
        """Raises Missing, MirrorError, VerificationError and PackageError."""
        url = f"{mirror.url}/dists/{suite}/InRelease"
        if self.check_signature:
            text = _signed_text(self.fetcher.read(url, _RELEASE_LIMIT), url, mirror, self.keyring)
        else:
            try:
                data = self.fetcher.read(url, _RELEASE_LIMIT)
            except Missing:
                data = self.fetcher.read(url.removesuffix("InRelease") + "Release", _RELEASE_LIMIT)
            text = _unsigned_text(data)
        release = _parse_release(text, mirror, suite)
        # A good signature of another suite is a replay, or a mirror that is mixed up.
        names = {release.codename, fields(text.strip("\n")).get("suite", "")}
        if suite not in names and suite.partition("/")[0] not in names:
            raise VerificationError(
                f"{redacted(url)} is of another suite: {' or '.join(sorted(names - {''}))}"
            )
        return release

    def named_release(self, mirror: Mirror, suite: str) -> Release:
        """As :meth:`release`; where ``suite`` is an alias, under the codename, unless that is older or not there.

        A caching mirror may have kept an old file under one of the names. And ``stable`` will be another release one day.
        """
        found = self.release(mirror, suite)
        if found.codename == suite or not re.fullmatch(r"\w[\w.+-]*", found.codename):
            return found
        try:
            named = self.release(mirror, found.codename)
        except MirrorError:
            return found
        return named if named.date >= found.date else found

    def check_valid(self, release: Release, progress: Progress) -> None:
        """Raises StaleError for a suite that has expired, unless apt's configuration has switched the check off."""
        if release.valid_until is None or release.valid_until >= time.time():
            return
        when = time.strftime("%Y-%m-%d", time.gmtime(release.valid_until))
        if not release.mirror.check_valid_until:
            progress.note(f"{release.label} expired on {when}; apt's configuration says not to mind")
            return
        raise StaleError(f"{release.label} expired on {when}: the mirror is no longer updated")

    def index(self, release: Release, component: str, architecture: str, progress: Progress) -> bytes:
        """The text of Packages. Raises StaleError if the mirror has another one than the suite says."""
        stem = f"{component}/binary-{architecture}/Packages"
        endings = [ending for ending in (".xz", ".gz", "") if stem + ending in release.files]
        if not endings:
            raise MirrorError(f"{release.label} has no index {stem}", hint=f"it has {_components(release)}")
        path = stem + endings[0]
        sha256, size = release.files[path]
        by_hash = f"{path.rpartition('/')[0]}/by-hash/SHA256/{sha256}"
        for name in (by_hash, path) if release.by_hash else (path,):
            wanted = Wanted(release.url(name), sha256, size)
            try:
                kept = self.store.get_all([wanted], f"index of {release.suite} {component}", progress)[0]
            except Unreachable:
                raise
            except (MirrorError, VerificationError):
                continue
            limit = release.files.get(stem, ("", _INDEX_LIMIT))[1]
            return _unpacked(kept, endings[0], min(limit, _INDEX_LIMIT))
        raise StaleError(
            f"{release.label} is stale on the mirror: {path} is not the file that its signed list names"
        )


def _components(release: Release) -> str:
    found = {path.partition("/binary-")[0] for path in release.files if "/binary-" in path}
    return ", ".join(sorted(found)) or "none"


_OPENERS: Final[dict[str, Callable[[Path], Any]]] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    "": lambda path: path.open("rb"),
}


def _unpacked(path: Path, ending: str, limit: int) -> bytes:
    try:
        with _OPENERS[ending](path) as file:
            data: bytes = file.read(limit + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise PackageError(f"the index cannot be unpacked: {error}") from None
    if len(data) > limit:
        raise PackageError(f"the index is longer than the {limit} bytes that the suite says")
    return data


def suites(
    source: Source,
    mirrors: Sequence[Mirror],
    names: Sequence[str],
    architecture: str,
    components: Sequence[str],
    progress: Progress,
) -> Iterator[tuple[Release, Index]]:
    """The suites that can be used, one after the other; the reason why one cannot is told.

    Raises MirrorError when there are no more, and VerificationError at once if a signature is wrong or cannot be checked.
    """
    reasons: list[str] = []
    untold: list[str] = []  # of a single one, the error says it

    def tell() -> None:
        while untold:
            progress.note(untold.pop())

    for mirror in mirrors:
        for name in names:
            if name.startswith("/") or ".." in name or not re.fullmatch(r"[\w.+/-]+", name):
                raise UsageError(f"--suite: {name!r} is no name of a suite")
            tell()
            try:
                release = source.named_release(mirror, name)
                if architecture not in release.architectures:
                    raise MirrorError(f"{release.label} is not made for {architecture}")
                source.check_valid(release, progress)
                texts = [source.index(release, part, architecture, progress) for part in components]
                index = Index(
                    b"\n\n".join(text.strip(b"\n") for text in texts), release.codename or release.suite
                )
                if mirror.origin == "apt" and not index.named("base-files"):
                    # Somebody's programs, in a suite of the same name.
                    raise MirrorError(f"{release.label} of {redacted(mirror.url)} has no base system")
            except MirrorError as error:
                reasons.append(str(error))
                untold.append(str(error))
                if isinstance(error, Unreachable):
                    break
                continue
            yield release, index
    if len(reasons) == 1:
        message = reasons[0]
    else:
        tell()
        message = f"none of the suites {', '.join(names)} can be used"
    raise MirrorError(message, hint="name another one with --suite, or another mirror with --mirror URL")
