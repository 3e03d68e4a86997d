"""What the scripts here share beside :mod:`vm_cli.measure`: the guest programs, their working directories, and tables."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vm_cli.measure import Column, Failed, Run, environment, geomean, run_once, spread

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import build_guests  # noqa: E402 - found beside this directory, not installed

__all__ = [
    "ROOT",
    "Column",
    "Failed",
    "Run",
    "build_guests",
    "choose",
    "environment",
    "geomean",
    "installed",
    "markdown_table",
    "print_table",
    "progress",
    "run_once",
    "spread",
    "workplace",
]


_MAKE_PREBUILT = """
import sys
from pathlib import Path
from vm_core import isa
try:
    from vm_jit import prebuilt
except ImportError:
    sys.exit(0)  # a revision before there was such a thing
place = Path(sys.argv[1], "vm_jit", prebuilt.DIRECTORY)
place.mkdir()
for name, data in prebuilt.files([isa.get("riscv64")]):
    (place / name).write_bytes(data)
"""


@functools.cache
def installed(tree: Path = ROOT) -> dict[str, str]:
    """The environment variables for running the packages of a checkout as pip would install them: compiled to bytecode, and with the native
    code that vm-jit's wheel brings (for riscv64). It is made once for each content, below build/installed/.

    Raises:
        Failed: it cannot be made.
    """
    sources = sorted(
        path
        for path in tree.glob("packages/*/src/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    digest = hashlib.blake2b(digest_size=12)
    for path in sources:
        digest.update(f"{path.relative_to(tree)}\0".encode() + path.read_bytes())
    above = ROOT / "build" / "installed"
    site = above / digest.hexdigest()
    # Empty: the bytecode is in its usual place.
    variables = {"PYTHONPATH": str(site), "PYTHONPYCACHEPREFIX": "", "PYTHONDONTWRITEBYTECODE": ""}
    if site.is_dir():
        return variables
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=above, prefix="partial-") as name:
        for path in sources:
            target = Path(name, *path.relative_to(tree).parts[3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for words in (["-c", _MAKE_PREBUILT, name], ["-m", "compileall", "-q", name]):
            env = {**environment(), **variables, "PYTHONPATH": name}
            done = subprocess.run(
                [sys.executable, *words], env=env, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise Failed(f"{tree}: the packages cannot be installed: {done.stderr.strip()[-300:]}")
        with contextlib.suppress(FileExistsError):
            Path(name).rename(site)
            Path(name).mkdir()  # which is what will be removed
    return variables


@contextlib.contextmanager
def workplace(program: str) -> Iterator[Path]:
    """A new directory with the files that a program reads; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vm-bench-") as name:
        for file in build_guests.PROGRAMS[program].files:
            shutil.copy(build_guests.SOURCES / file, name)
        yield Path(name)


def choose(names: str | None) -> list[str]:
    """The programs of a comma-separated list of names and groups; all that can be timed for None.

    Raises:
        Failed: a name of nothing, or of a program that is not for timing.
    """
    timed = [name for name, program in build_guests.PROGRAMS.items() if program.bench]
    if names is None:
        return timed
    chosen: list[str] = []
    for name in names.split(","):
        group = [p for p in timed if name in build_guests.PROGRAMS[p].groups]
        if not group and name not in timed:
            raise Failed(f"no program or group for timing is named {name!r}")
        chosen += [p for p in group or [name] if p not in chosen]
    return chosen


@contextlib.contextmanager
def progress() -> Iterator[Any]:
    """Gives a function that shows a line on the standard error, rewritten each time; nothing where that is no terminal."""
    terminal = sys.stderr.isatty()

    def say(text: str) -> None:
        if terminal:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    yield say
    if terminal:
        sys.stderr.write("\r\033[K")


def print_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Columns under one another, the first one to the left."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    for line in [head, *body]:
        cells = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(cells).rstrip())


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
