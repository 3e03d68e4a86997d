"""What the scripts here share: one timed run of a process tree, the working directory of a guest, and means."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import build_guests  # noqa: E402 - found beside this directory, not installed

__all__ = [
    "ROOT",
    "Failed",
    "Run",
    "build_guests",
    "choose",
    "environment",
    "geomean",
    "markdown_table",
    "print_table",
    "progress",
    "run_once",
    "spread",
    "workplace",
]


class Failed(Exception):
    """A run that went wrong, so that its time means nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``wall`` and ``cpu`` are seconds, from start to exit, ``cpu`` of the whole process tree, user and system."""

    wall: float
    cpu: float
    output: bytes
    facts: Mapping[str, Any]


PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def run_once(command: Sequence[str], env: Mapping[str, str], cwd: str | Path, timeout: float) -> Run:
    """Run a command to its end; ``facts`` are the line of JSON that ``vm run --json`` adds to the standard error.

    CPU time counts every process of the tree, also one that its parent did not wait for and that outlives it: this process
    becomes the one that inherits them, waits, and takes no other children meanwhile.

    Raises:
        Failed: an exit status other than 0, or no end of all processes within ``timeout`` seconds.
    """
    # SAFETY: prctl with an option that takes one integer; the others must be 0. Fails before Linux 3.4, then orphans are lost.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        # A group of its own, so that a run that does not end can be killed with all it started.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd, process_group=0
        )
        deadline = start + timeout
        wall = cpu = 0.0
        try:
            while True:
                try:
                    # wait4 gives the usage of one child and what it waited for; getrusage would add up all there ever were.
                    pid, status, usage = os.wait4(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid:
                    cpu += usage.ru_utime + usage.ru_stime
                if pid == child.pid:
                    wall = time.perf_counter() - start
                    child.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait again
                elif not pid:
                    if time.perf_counter() > deadline:
                        raise Failed(f"no end after {timeout:g} s: {' '.join(map(str, command))}")
                    time.sleep(0.0005)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if child.returncode is None:
                child.wait()
        out.seek(0)
        err.seek(0)
        said = err.read().decode(errors="replace")
        if child.returncode != 0:
            raise Failed(f"exit status {child.returncode}: {said.strip()[-300:]}")
        facts: dict[str, Any] = {}
        for line in said.splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    facts = json.loads(line)
        return Run(wall, cpu, out.read(), facts)


@contextlib.contextmanager
def workplace(program: str) -> Iterator[Path]:
    """A new directory with the files that a program reads; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vm-bench-") as name:
        for file in build_guests.PROGRAMS[program].files:
            shutil.copy(build_guests.SOURCES / file, name)
        yield Path(name)


def environment() -> dict[str, str]:
    """This process's environment, without what would change how vm runs: its variables and its configuration file."""
    return {key: value for key, value in os.environ.items() if not key.startswith("VM_")} | {"VM_CONFIG": ""}


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


def geomean(values: Sequence[float]) -> float:
    """The geometric mean; nan of nothing."""
    if not values or min(values) <= 0:
        return math.nan
    return math.exp(statistics.fmean(math.log(v) for v in values))


def spread(values: Sequence[float]) -> float:
    """Half the range in percent of the median."""
    middle = statistics.median(values)
    return 50 * (max(values) - min(values)) / middle if middle else 0.0


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
