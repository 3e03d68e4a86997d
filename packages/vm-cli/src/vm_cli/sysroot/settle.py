"""What a tree needs after unpacking, since no maintainer script runs: these would need the guest, and root.

What people miss is done here instead: the alternatives (``awk``, ``cc``, ``java``), the users and groups, the bundle of
certificates, and dpkg's database. It says of each package ``unpacked``, not ``installed``, which is the truth.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm_cli.sysroot.control import Package, stanzas
from vm_cli.sysroot.errors import PackageError, SysrootError
from vm_cli.sysroot.tree import Tree

__all__ = [
    "Alternative",
    "alternatives",
    "prepare",
    "present",
    "read_status",
    "record",
    "settle",
    "write_status",
]

_INFO: Final = "/var/lib/dpkg/info"
_STATUS: Final = "/var/lib/dpkg/status"

_MERGED: Final = ("bin", "sbin", "lib")
_MORE_MERGED: Final = {"amd64": ("lib64",)}
"""Where the architecture's ABI has its dynamic loader outside of /lib."""

_DIRECTORIES: Final = (
    ("/dev", 0o755), ("/etc", 0o755), ("/home", 0o755), ("/mnt", 0o755), ("/opt", 0o755), ("/proc", 0o755),
    ("/root", 0o700), ("/run", 0o755), ("/run/lock", 0o1777), ("/srv", 0o755), ("/sys", 0o755), ("/tmp", 0o1777),  # noqa: S108 - the tree's
    ("/var/lib/dpkg", 0o755), ("/var/tmp", 0o1777),  # noqa: S108 - same
    ("/usr/local/bin", 0o755), ("/usr/local/lib", 0o755),
)  # fmt: skip

# What the scripts of base-files, base-passwd, libc-bin and debianutils copy if it is not there.
_DEFAULTS: Final = (
    ("/usr/share/base-files/profile", "/etc/profile"),
    ("/usr/share/base-files/motd", "/etc/motd"),
    ("/usr/share/base-files/dot.profile", "/root/.profile"),
    ("/usr/share/base-files/dot.bashrc", "/root/.bashrc"),
    ("/usr/share/base-files/nsswitch.conf", "/etc/nsswitch.conf"),
    ("/usr/share/libc-bin/nsswitch.conf", "/etc/nsswitch.conf"),
    ("/usr/share/base-passwd/passwd.master", "/etc/passwd"),
    ("/usr/share/base-passwd/group.master", "/etc/group"),
    ("/usr/share/debianutils/shells", "/etc/shells"),
)
_HOSTS: Final = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_CERTIFICATES: Final = "/usr/share/ca-certificates"
_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"


def prepare(tree: Tree, architecture: str) -> None:
    """The frame of a new tree: /bin, /sbin and /lib are links into /usr."""
    for name in (*_MERGED, *_MORE_MERGED.get(architecture, ())):
        tree.directory(f"/usr/{name}")
        tree.link(f"/{name}", f"usr/{name}")


def settle(tree: Tree, resolver: Path = Path("/etc/resolv.conf")) -> None:
    """What stands in the place of the maintainer scripts. May be done again: what is there stays."""
    for path, mode in _DIRECTORIES:
        tree.directory(path, mode)
    for path, target in (("/var/run", "../run"), ("/var/lock", "../run/lock")):
        if tree.take_empty(path):
            tree.link(path, target)
    for source, target in _DEFAULTS:
        data = tree.read(source)
        if data is not None and not tree.kind(target):
            tree.write(target, data)
    if not tree.kind("/etc/hosts"):
        tree.write("/etc/hosts", _HOSTS)
    if not tree.kind("/etc/resolv.conf"):
        with contextlib.suppress(OSError):  # a host without one has no network either
            tree.write("/etc/resolv.conf", resolver.read_bytes())
    if tree.kind("/usr/share/zoneinfo/Etc/UTC") and not tree.kind("/etc/localtime"):
        tree.link("/etc/localtime", "../usr/share/zoneinfo/Etc/UTC")
    _bundle_certificates(tree)
    scripts = [name for name in tree.names(_INFO) if name.endswith(".postinst")]
    _link_alternatives(tree, (tree.read(f"{_INFO}/{name}", 1 << 20) or b"" for name in scripts))


def _bundle_certificates(tree: Tree) -> None:
    found: list[str] = [
        f"{folder}/{name}"
        for folder in tree.names(_CERTIFICATES)
        for name in tree.names(f"{_CERTIFICATES}/{folder}")
    ]
    found = [path for path in found if path.endswith(".crt")]
    if not found or tree.kind(_BUNDLE):
        return
    tree.directory(os.path.dirname(_BUNDLE))
    texts = (tree.read(f"{_CERTIFICATES}/{path}", 1 << 20) or b"" for path in found)
    tree.write(_BUNDLE, b"".join(text.rstrip(b"\n") + b"\n" for text in texts))
    if not tree.kind("/etc/ca-certificates.conf"):
        tree.write("/etc/ca-certificates.conf", "".join(f"{path}\n" for path in found).encode())


# -- alternatives -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alternative:
    """One ``update-alternatives --install``. ``followers`` are the links that change with it: name, link and path."""

    name: str
    link: str
    path: str
    priority: int
    followers: tuple[tuple[str, str, str], ...] = ()


_MOST_STATEMENTS: Final = 20_000
_VARIABLE: Final = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def alternatives(script: str) -> list[Alternative]:
    """What a maintainer script would install.

    It is read, not run: of the shell, this knows variables with plain values and ``for`` over words, which is what the
    scripts of Debian use here (openjdk's do for each of its tools). Conditions are taken to hold. What it does not know is
    left out.
    """
    found: list[Alternative] = []
    for text in _statements(script):
        try:
            words = shlex.split(text, comments=True)
        except ValueError:
            continue
        if words and words[0].rpartition("/")[2] == "update-alternatives":
            found += _installs(words[1:])
    return found


def _installs(words: Sequence[str]) -> Iterator[Alternative]:
    def known(group: Sequence[str]) -> bool:
        return all(word and not set(word) & set("$`\0\n") and not word.startswith("-") for word in group)

    def sound(name: str, link: str, path: str) -> bool:
        return "/" not in name and name not in (".", "..") and link.startswith("/") and path.startswith("/")

    if "--install" not in words:
        return
    at = words.index("--install")
    head = words[at + 1 : at + 5]
    if len(head) < 4 or not known(head) or not re.fullmatch(r"-?[0-9]{1,9}", head[3]):
        return
    link, name, path, priority = head
    followers = []
    for here, word in enumerate(words):
        group = words[here + 1 : here + 4]
        if word == "--slave" and len(group) == 3 and known(group) and sound(group[1], group[0], group[2]):
            followers.append((group[1], group[0], group[2]))
    if sound(name, link, path):
        yield Alternative(name, link, path, int(priority), tuple(followers))


def _statements(script: str) -> Iterator[str]:
    """The simple commands of a script with their variables filled in, those of a loop once for each of its words."""
    lines = re.split(r"\n|;|&&|\|\|", re.sub(r"\\\n", " ", script))
    lines = [re.sub(r"^\s*(?:(?:then|else|do|if|[({])\s+)*", "", line).strip() for line in lines]
    left = [_MOST_STATEMENTS]
    yield from _run(lines, {"DPKG_ROOT": ""}, left)


def _run(lines: Sequence[str], variables: dict[str, str], left: list[int]) -> Iterator[str]:
    def filled(text: str) -> str:
        return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), text)

    at = 0
    while at < len(lines) and left[0] > 0:
        line = lines[at]
        at += 1
        left[0] -= 1
        if match := re.fullmatch(r"for\s+([A-Za-z_]\w*)\s+in\s+(.*)", line):
            end = _end_of_loop(lines, at)
            for word in filled(match[2]).replace('"', "").replace("'", "").split():
                if "$" not in word and "`" not in word:
                    variables[match[1]] = word
                    yield from _run(lines[at:end], variables, left)
            at = end + 1
        elif match := re.fullmatch(r"([A-Za-z_]\w*)=(\"[^\"`]*\"|'[^']*'|[^\s\"'`(]*)", line):
            value = match[2] if match[2].startswith("'") else filled(match[2])
            if "$" not in value and len(value) < 4096:
                variables[match[1]] = value.strip("\"'")
        elif "update-alternatives" in line:
            yield filled(line)


def _end_of_loop(lines: Sequence[str], start: int) -> int:
    depth = 1
    for at in range(start, len(lines)):
        if re.match(r"(?:for|while|until)\b", lines[at]):
            depth += 1
        elif re.match(r"done\b", lines[at]):
            depth -= 1
            if not depth:
                return at
    return len(lines)


def _link_alternatives(tree: Tree, scripts: Iterable[bytes]) -> None:
    choices: dict[str, list[Alternative]] = {}
    for script in scripts:
        for one in alternatives(script.decode("utf-8", "replace")):
            if tree.kind(one.path):
                rows = choices.setdefault(one.name, [])
                rows[:] = [row for row in rows if row.path != one.path] + [one]
    for name, rows in sorted(choices.items()):
        if tree.kind(f"/var/lib/dpkg/alternatives/{name}"):
            continue  # the real update-alternatives has been at work in the guest
        with contextlib.suppress(PackageError, OSError):  # a link that cannot be had breaks nothing else
            best = max(rows, key=lambda row: row.priority)
            _link(tree, name, best.link, best.path)
            for follower, link, path in best.followers:
                if tree.kind(path):
                    _link(tree, follower, link, path)


def _link(tree: Tree, name: str, link: str, path: str) -> None:
    """``link`` leads to ``path`` by way of /etc/alternatives. Both are relative, so that the tree works as a prefix too.

    update-alternatives' own record of it is not written: it would take links that it has not made itself for somebody's choice.
    """
    if tree.kind(link) not in (0, 0o120000):
        return  # a file of a package
    tree.directory(os.path.dirname(link))
    above = tree.real(os.path.dirname(link))
    tree.link(link, os.path.relpath(f"/etc/alternatives/{name}", above))
    tree.link(f"/etc/alternatives/{name}", os.path.relpath(path, "/etc/alternatives"))


# -- dpkg's database --------------------------------------------------------------------------------------------------


def record(tree: Tree, package: Package, control: Mapping[str, bytes], paths: Sequence[str]) -> str:
    """Write what dpkg keeps of an unpacked package; returns its stanza for the status file."""
    stem = f"{package.name}:{package.architecture}" if package.multi_arch == "same" else package.name
    tree.directory(_INFO)
    listed = ["/.", *(path for path in paths if path != "/")]
    tree.write(
        f"{_INFO}/{stem}.list", "".join(f"{path}\n" for path in listed).encode("utf-8", "surrogateescape")
    )
    for name, data in control.items():
        if name != "control" and re.fullmatch(r"[a-z0-9]+", name):
            script = name in ("preinst", "postinst", "prerm", "postrm", "config")
            tree.write(f"{_INFO}/{stem}.{name}", data, 0o755 if script else 0o644)
    text = re.sub(
        r"(?im)^(?:status|conffiles|config-version):.*(?:\n[ \t].*)*\n?", "", package.stanza
    ).rstrip("\n")
    text = re.sub(
        r"(?i)^(package:.*)$", r"\1\nStatus: install ok unpacked", text, count=1, flags=re.MULTILINE
    )
    conffiles = "".join(
        _conffile(tree, line) for line in control.get("conffiles", b"").decode("utf-8", "replace").split("\n")
    )
    return f"{text}\nConffiles:{conffiles}" if conffiles else text


def _conffile(tree: Tree, line: str) -> str:
    words = line.split()
    if len(words) != 1 or not words[0].startswith("/"):
        return ""  # dpkg's flags, or nothing
    try:
        data = tree.read(words[0])
    except PackageError:
        return ""
    return f"\n {words[0]} {hashlib.md5(data, usedforsecurity=False).hexdigest()}" if data is not None else ""


def read_status(tree: Tree) -> dict[str, Package]:
    """What dpkg knows of, by name. Raises SysrootError if the list cannot be read."""
    data = tree.read(_STATUS, 256 << 20)
    try:
        found = [Package(stanza) for stanza in stanzas((data or b"").decode("utf-8", "replace"))]
    except PackageError as error:
        raise SysrootError(f"{tree.path}{_STATUS}: {error}") from None
    return {package.name: package for package in found}


def present(packages: Mapping[str, Package]) -> dict[str, Package]:
    """Those whose files are there, configured or not."""
    states = ("unpacked", "installed", "half-configured", "triggers-awaited", "triggers-pending")
    return {name: one for name, one in packages.items() if one.fields.get("status", "").endswith(states)}


def write_status(tree: Tree, stanzas_: Iterable[str]) -> None:
    """All of the list anew."""
    tree.directory(_INFO)
    tree.write(f"{_INFO}/format", b"1\n")
    tree.replace(_STATUS, "".join(f"{stanza}\n\n" for stanza in stanzas_).encode())
