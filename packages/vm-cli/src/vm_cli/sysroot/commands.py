"""``vm sysroot create``, ``add``, ``list`` and ``clean``, as functions that give plain facts.

A new tree is made beside its place, under a name of its own, and renamed when all is there: what has the name is whole.
Packages that are added to a tree go into it directly, so its marker says meanwhile that it is not whole, and what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vm_cli.settings import URL, load
from vm_cli.sysroot import ARCHITECTURES
from vm_cli.sysroot.control import Package
from vm_cli.sysroot.deb import Deb
from vm_cli.sysroot.download import Fetcher, Store, Wanted, redacted
from vm_cli.sysroot.errors import MirrorError, PackageError, StaleError, SysrootError
from vm_cli.sysroot.mirror import SUITES, Mirror, Release, Source, read_apt, suites
from vm_cli.sysroot.progress import Progress
from vm_cli.sysroot.resolve import resolve
from vm_cli.sysroot.settle import prepare, present, read_status, record, settle, write_status
from vm_cli.sysroot.tree import Tree
from vm_core.errors import UsageError

__all__ = ["Choices", "add", "clean", "contents", "create"]

MARKER: Final = ".vm-sysroot.json"
_FORMAT: Final = 1
_MAIN: Final = ("main",)


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line says about where packages come from."""

    mirror: str = ""
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    keyring: str = ""
    check_signature: bool = True
    recommends: bool = False


# -- where from -------------------------------------------------------------------------------------------------------


def _mirrors(choices: Choices, environ: Mapping[str, str]) -> tuple[list[Mirror], dict[str, str]]:
    """The archives to try, and the proxies that apt uses for them. Raises UsageError and MirrorError."""
    if choices.mirror:
        try:
            return [Mirror(URL.parse(choices.mirror), origin="option")], {}
        except ValueError:
            raise UsageError(f"--mirror: {choices.mirror!r} is no http, https or file URL") from None
    chosen = load(environ).settings.mirror
    if chosen:
        return [Mirror(chosen, origin="setting")], {}
    apt = read_apt()
    if not apt.mirrors:
        raise MirrorError(
            "no Debian archive is known: apt on this host has none",
            hint='name one with --mirror URL, VM_MIRROR=URL, or mirror = "URL" in vm\'s configuration',
        )
    return list(apt.mirrors), apt.proxies


def _store(environ: Mapping[str, str], proxies: dict[str, str] | None = None) -> Store:
    chosen = load(environ).settings.cache_dir
    cache = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Store(Path(chosen or os.path.join(cache, "vm")) / "sysroot", Fetcher(proxies))


@dataclass(frozen=True, slots=True)
class _Obtained:
    release: Release
    rows: list[tuple[Package, Path]]
    store: Store
    recommended: list[str]
    """What the packages that were asked for recommend, and nobody took."""

    def facts(self, marker: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        packages = [_row(package) for package, _ in sorted(self.rows, key=lambda row: row[0].name)]
        return {
            **{
                key: marker.get(key)
                for key in ("isa", "architecture", "suite", "mirror", "asked", "complete")
            },
            **more,
            "fetched_bytes": self.store.fetched_bytes,
            "kept_bytes": self.store.reused_bytes,
            "recommended": self.recommended,
            "packages": packages,
        }


def _obtain(
    choices: Choices,
    architecture: str,
    names: Sequence[str],
    progress: Progress,
    environ: Mapping[str, str],
    *,
    essential: bool,
    installed: Mapping[str, Package] | None = None,
) -> _Obtained:
    """Choose the packages and have them here. A suite that proves stale gives way to the next one."""
    mirrors, proxies = _mirrors(choices, environ)
    store = _store(environ, proxies)
    source = Source(store, choices.keyring, choices.check_signature)
    if not choices.check_signature:
        progress.note("the archive's signature is not checked: packages may be anybody's")
    asked = choices.suites or SUITES
    for release, index in suites(source, mirrors, asked, architecture, choices.components or _MAIN, progress):
        packages = resolve(
            index, names, essential=essential, recommends=choices.recommends, installed=installed
        )
        what = f"{len(packages)} packages of {index.label} for {architecture}"
        try:
            paths = store.get_all([_wanted(release.mirror, one) for one in packages], what, progress)
        except StaleError as error:
            progress.note(f"{release.label} is stale on the mirror: {error}")
            continue
        there = [*packages, *(installed or {}).values()]
        missing = _not_taken(names, packages, there)
        return _Obtained(release, list(zip(packages, paths, strict=True)), store, missing)
    raise AssertionError("suites() ends with an error")


def _not_taken(names: Sequence[str], packages: Sequence[Package], there: Sequence[Package]) -> list[str]:
    asked = {name.partition("=")[0] for name in names}
    return sorted(
        {
            clause.any_of[0].name
            for package in packages
            if package.name in asked
            for clause in package.recommends
            if not any(one.satisfies(relation) for relation in clause.any_of for one in there)
        }
    )


def _wanted(mirror: Mirror, package: Package) -> Wanted:
    name = package.fields.get("filename", "")
    size = package.number("size")
    if not name or name.startswith("/") or ".." in name.split("/") or not name.isprintable() or not size:
        raise PackageError(f"the index names no file for {package}")
    url = f"{mirror.url}/{urllib.parse.quote(name.removeprefix('./'), safe='/+~:@%')}"
    return Wanted(url, package.fields.get("sha256", "").lower(), size)


# -- the tree's own record --------------------------------------------------------------------------------------------


def _read_marker(tree: Tree) -> dict[str, Any]:
    """Raises SysrootError for a directory that is no sysroot."""
    data = tree.read(f"/{MARKER}", 1 << 20)
    if data is None:
        raise SysrootError(f"{tree.path} is no sysroot of vm", hint="vm sysroot create makes one")
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or found["format"] != _FORMAT or not isinstance(found["suite"], str):
            raise ValueError
        if found["architecture"] != ARCHITECTURES[found["isa"]]:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SysrootError(f"{tree.path}/{MARKER} is damaged, or of another version of vm") from None
    return found


def _words(marker: Mapping[str, Any], key: str) -> list[str]:
    value = marker.get(key)
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _write_marker(tree: Tree, marker: Mapping[str, Any]) -> None:
    tree.replace(f"/{MARKER}", (json.dumps(marker, indent=2) + "\n").encode())


def _unpack(tree: Tree, rows: Sequence[tuple[Package, Path]], architecture: str, progress: Progress) -> int:
    """Unpack, and record in dpkg's list. Returns how many packages have a script that would have run."""
    stanzas = {name: one.stanza for name, one in read_status(tree).items()}
    scripts, doing = 0, ""
    try:
        with progress.step("unpacking", len(rows), of_bytes=False) as step:
            for wanted, path in rows:
                doing = str(wanted)
                with Deb(path, doing) as deb:
                    _check_same(deb.package(), wanted, architecture)
                    with deb.data() as archive:
                        paths = tree.unpack(archive)
                    stanzas[wanted.name] = record(tree, deb.package(), deb.control, paths)
                    scripts += "postinst" in deb.control
                step.advance(1)
        doing = "what stands in the place of the installation scripts"
        write_status(tree, (stanzas[name] for name in sorted(stanzas)))
        settle(tree)
    except OSError as error:
        raise SysrootError(f"{tree.path}: {doing}: {error.strerror or error}") from None
    return scripts


def _check_same(package: Package, wanted: Package, architecture: str) -> None:
    if (package.name, package.version) != (wanted.name, wanted.version):
        raise PackageError(f"{wanted}: the package calls itself {package}")
    if package.architecture not in (architecture, "all"):
        raise PackageError(f"{wanted}: it is for {package.architecture}, not {architecture}")


def _row(package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "bytes": package.number("installed-size") << 10,
    }


# -- the commands -----------------------------------------------------------------------------------------------------


def create(
    isa: str,
    output: str,
    names: Sequence[str],
    choices: Choices,
    progress: Progress,
    *,
    minimal: bool = False,
    force: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Make a tree at ``output``. With ``minimal``, nothing but ``names`` and what they depend on.

    Raises VmError; then there is nothing new at ``output``.
    """
    if minimal and not names:
        raise UsageError(
            "--minimal needs the packages to start from",
            hint="vm sysroot create ISA --minimal --output DIR PACKAGE...",
        )
    start = time.monotonic()
    architecture = ARCHITECTURES[isa]
    place = Path(os.path.realpath(output))
    _check_place(place, force=force)
    with _partial(place) as tree:
        marker: dict[str, Any] = {
            "format": _FORMAT,
            "isa": isa,
            "architecture": architecture,
            "complete": False,
        }
        _write_marker(tree, marker)
        found = _obtain(choices, architecture, names, progress, environ, essential=not minimal)
        marker |= {
            "suite": found.release.suite,
            "mirror": redacted(found.release.mirror.url),
            "mirror_from": found.release.mirror.origin,
            "components": list(choices.components or _MAIN),
            "asked": list(names),
        }
        prepare(tree, architecture)
        scripts = _unpack(tree, found.rows, architecture, progress)
        marker["complete"] = True
        _write_marker(tree, marker)
        _check_place(place, force=force)
        _move(tree.path, place)
    seconds = round(time.monotonic() - start, 3)
    return found.facts(marker, path=str(place), scripts_not_run=scripts, seconds=seconds)


def _check_place(place: Path, *, force: bool) -> None:
    """Raises SysrootError unless ``place`` is free, or empty, or a sysroot that may be replaced."""
    try:
        entries = os.listdir(place)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise SysrootError(
            f"{place} is there and no directory", hint="name a new directory with --output"
        ) from None
    if entries and MARKER not in entries:
        raise SysrootError(
            f"{place} is not empty and no sysroot of vm",
            hint="name a new directory with --output; --force does not help",
        )
    if entries and not force:
        raise SysrootError(
            f"{place} is a sysroot already",
            hint=f"vm sysroot add {place} PACKAGE... adds to it, --force makes it anew",
        )


@contextlib.contextmanager
def _partial(place: Path) -> Iterator[Tree]:
    """A directory beside ``place``, on the same file system. It is gone in the end, unless it was moved."""
    path = _beside(place, "partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o755)
        tree = Tree(path)
    except OSError as error:
        raise SysrootError(
            f"{path} cannot be made: {error.strerror}",
            hint="a tree is made beside its place and then renamed",
        ) from None
    with tree:
        try:
            _empty(path)  # of what a command left that was killed
            yield tree
        except BaseException as error:
            _remove(path)
            if isinstance(error, OSError):
                raise SysrootError(f"{error.filename or place}: {error.strerror or error}") from None
            raise


def _beside(place: Path, what: str) -> Path:
    """A name for a tree that is not ready, or no longer wanted. Raises SysrootError if something else has it."""
    path = place.with_name(f".{place.name}.vm-{what}")
    try:
        left = ["a link"] if path.is_symlink() else os.listdir(path)
    except FileNotFoundError:
        return path
    except NotADirectoryError:
        left = ["a file"]
    if left and not any(name.startswith(MARKER) for name in left):
        raise SysrootError(f"{path} is in the way: it is no sysroot of vm", hint="move it away")
    return path


def _move(partial: Path, place: Path) -> None:
    """Give the finished tree its name; an older sysroot there goes."""
    old = _beside(place, "old")
    _remove(old)
    with contextlib.suppress(FileNotFoundError), Tree(place):  # nobody adds to it at the moment
        os.rename(place, old)
    os.rename(partial, place)
    _remove(old)


def _empty(path: Path) -> None:
    """Delete what a sysroot holds, its marker last: what is left of it in between is known as one."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name.startswith(MARKER)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _remove(path: Path) -> None:
    """Delete a sysroot, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        _empty(path)
        path.rmdir()


def add(
    directory: str,
    names: Sequence[str],
    choices: Choices,
    progress: Progress,
    *,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Put more packages into a tree, of the suite that it is made of. Without ``names``, finish what was interrupted."""
    start = time.monotonic()
    with _open(directory) as tree:
        marker = _read_marker(tree)
        pending = _words(marker, "pending")
        if not names and not pending:
            raise UsageError("no package is named", hint=f"vm sysroot add {directory} PACKAGE...")
        installed = present(read_status(tree))
        choices = replace(
            choices,
            suites=choices.suites or (str(marker["suite"]),),
            components=choices.components or tuple(_words(marker, "components")),
        )
        if not choices.mirror and marker.get("mirror_from") == "option":
            choices = replace(choices, mirror=str(marker.get("mirror", "")))
        words = list(dict.fromkeys([*pending, *names]))
        architecture = str(marker["architecture"])
        found = _obtain(choices, architecture, words, progress, environ, essential=False, installed=installed)
        marker |= {"complete": False, "pending": words}
        _write_marker(tree, marker)
        scripts = _unpack(tree, found.rows, architecture, progress)
        marker |= {"complete": True, "asked": list(dict.fromkeys([*_words(marker, "asked"), *words]))}
        del marker["pending"]
        _write_marker(tree, marker)
    seconds = round(time.monotonic() - start, 3)
    path = str(Path(directory).resolve())
    return found.facts(marker, path=path, scripts_not_run=scripts, seconds=seconds)


@contextlib.contextmanager
def _open(directory: str) -> Iterator[Tree]:
    try:
        tree = Tree(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise SysrootError(f"{directory} is no directory", hint="vm sysroot create makes one") from None
    with tree:
        yield tree


def contents(directory: str) -> dict[str, Any]:
    """What a tree is made of."""
    with _open(directory) as tree:
        marker = _read_marker(tree)
        packages = sorted(present(read_status(tree)).values(), key=lambda one: one.name)
    found = {key: marker.get(key) for key in ("isa", "architecture", "suite", "mirror", "asked", "complete")}
    return {
        "path": str(Path(directory).resolve()),
        **found,
        "packages": [_row(package) for package in packages],
    }


def clean(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Delete the downloads that are kept; returns how many files and bytes."""
    return _store(environ).clear()
