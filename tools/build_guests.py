"""Build the guest programs in ``guests/`` in every variant that the compilers here can make.

    python tools/build_guests.py                    # all programs, all variants, into build/guests/<variant>/<program>
    python tools/build_guests.py --variant O2 sha256 nbody
    python tools/build_guests.py --list

A program is built again when its source, ``guest.h``, the compiler or its flags have changed (a hash beside the program
tells). A missing compiler is one clear line on the standard error and exit status 3 when nothing could be built; the
variants that can be built are built.

Variants: ``O0``, ``O2`` and ``zb`` (with Zba, Zbb, Zbs) by Debian's ``riscv64-linux-gnu-gcc`` with glibc, static;
``musl`` and ``pie`` (static-PIE) by ``python -m ziglang cc``; ``native`` for this machine, by ``gcc`` or ``cc``.

Three kinds of programs are only for timing and are built only when they are named: ``flat``, whose source
``guests/flat.py`` writes; and those that need other people's sources (Lua, Zstandard, SQLite), which pip and npm fetch once
into ``build/sources``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRAMS", "TESTED", "VARIANTS", "Program", "Unbuildable", "Variant", "build", "build_all"]

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "guests"
OUTPUT = ROOT / "build" / "guests"
FETCHED = ROOT / "build" / "sources"
COMMON = ("-std=gnu11", "-Wall", "-Wextra", "-Wno-infinite-recursion", "-pthread")
# Warnings of gcc that only concern what these programs do on purpose (longjmp, truncation, memory filled elsewhere).
QUIET = ("-Wno-clobbered", "-Wno-format-truncation", "-Wno-maybe-uninitialized")


class Unbuildable(Exception):
    """A variant that cannot be built here; the message says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Package:
    """Other people's C sources, as the package registry of a language has them.

    ``below`` is the folder of the C files in the package's archive, ``source`` the one file to compile: one of the package's
    own, or (``driver``) a file of ours in ``guests/`` that includes the package's.
    """

    client: str
    name: str
    version: str
    below: str
    source: str
    driver: bool = False
    flags: tuple[str, ...] = ()

    def fetch(self) -> Path:
        """The folder of the C files, downloaded if it is not there yet.

        Raises:
            Unbuildable: the client or the registry cannot be reached.
        """
        place = FETCHED / f"{self.name}-{self.version}"
        if not place.exists():
            FETCHED.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=FETCHED) as scratch:
                if self.client == "npm":
                    command = ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
                else:
                    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
                    command += ["--no-binary", self.name, f"{self.name}=={self.version}"]
                try:
                    subprocess.run(command, cwd=scratch, capture_output=True, check=True, timeout=300)
                    archive = next(Path(scratch).glob("*gz"))
                    with tarfile.open(archive) as packed:
                        packed.extractall(Path(scratch) / "all", filter="data")
                    next((Path(scratch) / "all").iterdir()).replace(place)
                except (OSError, subprocess.SubprocessError, StopIteration, tarfile.TarError) as error:
                    if place.exists():  # another process was faster
                        return place / self.below
                    raise Unbuildable(f"{self.name} {self.version} cannot be fetched: {error}") from error
        return place / self.below


PACKAGES = {
    "lua": Package(
        "pip", "lupa", "2.8", "third-party/lua54", "onelua.c", flags=("-DMAKE_LUA", "-DLUA_USE_POSIX")
    ),
    "zstd": Package("pip", "zstandard", "0.25.0", "zstd", "use_zstd.c", driver=True),
    "sqlite": Package(
        "npm",
        "better-sqlite3",
        "12.11.1",
        "deps/sqlite3",
        "use_sqlite.c",
        driver=True,
        flags=("-DSQLITE_THREADSAFE=0", "-DSQLITE_OMIT_LOAD_EXTENSION"),
    ),
}


@dataclass(frozen=True, slots=True)
class Program:
    """One row of ``guests/programs.toml``, whose head says what the keys mean."""

    name: str
    args: dict[str, list[str]]
    same: bool = False
    test: bool = True
    variants: tuple[str, ...] = ("O0", "O2", "zb", "musl", "pie")
    groups: tuple[str, ...] = ()
    package: str = ""
    files: tuple[str, ...] = ()

    @property
    def bench(self) -> bool:
        """Whether it can be timed."""
        return "bench" in self.args

    @property
    def executable(self) -> str:
        """The name of what is built; scripts of one interpreter share it."""
        return self.package or self.name


@dataclass(frozen=True, slots=True)
class Variant:
    """A compiler and its flags. ``command`` names the program that must be there; "zig" means the ziglang package."""

    name: str
    command: str
    flags: tuple[str, ...]

    def compiler(self) -> list[str]:
        """The command line's beginning.

        Raises:
            Unbuildable: the compiler is not installed.
        """
        if self.command == "zig":
            if importlib.util.find_spec("ziglang") is None:
                raise Unbuildable(
                    f"{self.name}: needs the Python package ziglang (python -m pip install ziglang)"
                )
            return [sys.executable, "-m", "ziglang", "cc"]
        for name in self.command.split("|"):
            if (path := shutil.which(name)) is not None:
                return [path]
        package = "gcc-riscv64-linux-gnu" if "riscv64" in self.command else "gcc"
        raise Unbuildable(
            f"{self.name}: {self.command.split('|')[0]} is not installed (Debian: apt install {package})"
        )


_GNU = "riscv64-linux-gnu-gcc"
_MUSL = ("-target", "riscv64-linux-musl", "-O2", "-fno-sanitize=undefined", "-s")
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("O0", _GNU, ("-O0", "-static")),
        Variant("O2", _GNU, ("-O2", "-static")),
        Variant("zb", _GNU, ("-O2", "-static", "-march=rv64gc_zba_zbb_zbs")),
        Variant("musl", "zig", (*_MUSL, "-static")),
        Variant("pie", "zig", (*_MUSL, "-static", "-fPIE", "-pie")),
        Variant("native", "gcc|cc", ("-O2",)),
    )
}
PROGRAMS = {
    name: Program(
        name, **{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    )
    for name, row in tomllib.loads((SOURCES / "programs.toml").read_text()).items()
}
TESTED = tuple(name for name, program in PROGRAMS.items() if program.test)


@functools.cache
def _version(*compiler: str) -> bytes:
    # zig's "cc" answers --version slowly; its package version is as good.
    if "ziglang" in compiler:
        import importlib.metadata

        return importlib.metadata.version("ziglang").encode()
    return subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout


def compile_source(source: Path, variant: Variant, output: Path, *, extra: Sequence[str] = ()) -> Path:
    """Compile one C file to ``output`` unless that is up to date; returns ``output``.

    Raises:
        Unbuildable: the compiler is missing, or refused the source.
    """
    compiler = variant.compiler()
    flags = [*COMMON, *(QUIET if variant.command != "zig" else ()), *variant.flags, *extra]
    digest = hashlib.sha256()
    for part in (
        _version(*compiler),
        " ".join(flags).encode(),
        source.read_bytes(),
        (SOURCES / "guest.h").read_bytes(),
    ):
        digest.update(hashlib.sha256(part).digest())
    stamp = output.with_name(output.name + ".stamp")
    if output.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: two builds at the same time, or a killed one, never leave a half-written program.
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    done = subprocess.run(
        [*compiler, *flags, str(source), "-o", str(partial), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not partial.exists():
        partial.unlink(missing_ok=True)
        raise Unbuildable(f"{variant.name}: {source.name} does not compile:\n{done.stderr.strip()}")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    partial.replace(output)
    stamp.write_text(digest.hexdigest())
    return output


def _flat() -> Path:
    """The generated source; written again only if it changed, so that it is not compiled for nothing."""
    place = FETCHED / "flat.c"
    place.parent.mkdir(parents=True, exist_ok=True)
    text = subprocess.run([sys.executable, SOURCES / "flat.py"], capture_output=True, check=True).stdout
    if not place.exists() or place.read_bytes() != text:
        partial = place.with_name(f"flat.{os.getpid()}.partial")
        partial.write_bytes(text)
        partial.replace(place)
    return place


def build(program: str, variant: str, output: Path = OUTPUT) -> Path:
    """Build one program in one variant and return its path. Raises Unbuildable, and KeyError for an unknown name."""
    row = PROGRAMS[program]
    source = SOURCES / f"{program}.c"
    extra: tuple[str, ...] = (f"-I{SOURCES}",)
    if row.package:
        package = PACKAGES[row.package]
        folder = package.fetch()
        source = (SOURCES if package.driver else folder) / package.source
        extra += (f"-I{folder}", "-w", *package.flags)
    elif program == "flat":
        source = _flat()
    return compile_source(source, VARIANTS[variant], output / variant / row.executable, extra=extra)


def build_all(
    programs: Iterable[str] = TESTED,
    variants: Iterable[str] = tuple(VARIANTS),
    *,
    output: Path = OUTPUT,
    jobs: int = 2,
) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """Build all combinations. Returns the paths by (program, variant), and a line for each that could not be built."""
    built: dict[tuple[str, str], Path] = {}
    problems: list[str] = []
    usable = []
    for variant in variants:
        try:
            VARIANTS[variant].compiler()
            usable.append(variant)
        except Unbuildable as error:
            problems.append(str(error))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        # Programs that share an executable wait for one build of it.
        builds: dict[tuple[str, str], concurrent.futures.Future[Path]] = {}
        for v in usable:
            for p in (programs := tuple(programs)):
                key = (PROGRAMS[p].executable, v)
                if key not in builds:
                    builds[key] = pool.submit(build, p, v, output)
        failed = set()
        for v in usable:
            for p in programs:
                key = (PROGRAMS[p].executable, v)
                try:
                    built[p, v] = builds[key].result()
                except Unbuildable as error:
                    if key not in failed:
                        problems.append(str(error))
                    failed.add(key)
    return built, problems


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status 0: all built; 1: some were not; 3: none was; 2: an unknown name."""
    parser = argparse.ArgumentParser(description="Build the guest programs.")
    parser.add_argument("programs", nargs="*", help="programs to build (all that are tested)")
    parser.add_argument(
        "--variant", action="append", choices=sorted(VARIANTS), help="variant to build, repeatable (all)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory to build into (build/guests)")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at the same time (2)")
    parser.add_argument("--list", action="store_true", help="print the programs and the variants")
    options = parser.parse_args(arguments)
    if options.list:
        print("programs:", *PROGRAMS)
        print("variants:", *VARIANTS)
        return 0
    if unknown := [name for name in options.programs if name not in PROGRAMS]:
        parser.error(f"no guest program named {unknown[0]} (--list shows them)")
    built, problems = build_all(
        options.programs or TESTED, options.variant or VARIANTS, output=options.output, jobs=options.jobs
    )
    for problem in problems:
        print(f"build_guests: {problem}", file=sys.stderr)
    print(f"{len(built)} programs are up to date in {options.output}")
    return (1 if built else 3) if problems else 0


if __name__ == "__main__":
    sys.exit(main())
