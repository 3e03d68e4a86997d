"""Timing programs: one run of a process tree, the ways to run a program that can be compared, and what to say of the samples.

``vm bench`` and the scripts of benchmarks/ use it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vm_core.engines import ENGINES
from vm_core.errors import VmError

__all__ = ["Column", "Failed", "Run", "environment", "geomean", "run_once", "spread"]


class Failed(VmError):
    """A run that went wrong, so that its time means nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``wall`` and ``cpu`` are seconds, from start to exit, ``cpu`` of the whole process tree, user and system; ``status`` is
    the exit status, negative for a signal."""

    wall: float
    cpu: float
    output: bytes
    facts: Mapping[str, Any]
    status: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """One way to run a program. ``options`` are those of ``vm run``; None is not vm. ``cold`` empties the cache first."""

    name: str
    options: tuple[str, ...] | None = None
    cold: bool = False

    @classmethod
    def parse(cls, text: str) -> Column:
        """``native``, ``qemu``, ``ENGINE cold``, ``ENGINE warm`` or ``NAME=OPTIONS``; a NAME that ends in "cold" is one.

        Raises:
            Failed: none of these.
        """
        name, equals, options = text.partition("=")
        if equals:
            return cls(name, tuple(shlex.split(options)), name.endswith("cold"))
        if text in ("native", "qemu"):
            return cls(text)
        engine, _, state = text.partition(" ")
        if engine not in ENGINES or state not in ("cold", "warm"):
            raise Failed(f"no column named {text!r}: native, qemu, ENGINE cold, ENGINE warm or NAME=OPTIONS")
        return cls(text, ("--engine", engine), state == "cold")

    def run(
        self,
        guest: str,
        arguments: Sequence[str],
        *,
        native: str | None,
        qemu: str | None,
        caches: Path,
        cwd: str | Path,
        timeout: float,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Run | None:
        """Run the program ``guest`` in this way, or None where what it takes is absent: ``native``, the same program for this host,
        or ``qemu``. ``options`` and ``variables`` (of the environment) are for every ``vm run``, whose caches lie below ``caches``: columns with the same options share one,
        so that the warm one finds what the cold one left, or if there was none, what a run left that does not count.

        Raises:
            Failed: as for :func:`run_once`.
        """
        env = environment()
        if self.options is None:
            words = [native] if self.name == "native" else [qemu, guest]
            if None in words:
                return None
            return run_once([*map(str, words), *arguments], env, cwd, timeout, check=check)
        command = [
            sys.executable,
            "-m",
            "vm_cli",
            "run",
            *self.options,
            *options,
            "--json",
            "--",
            guest,
            *arguments,
        ]
        cache = caches / ("-".join(self.options).replace("/", "_") or "default")
        env |= {**(variables or {}), "VM_CACHE_DIR": str(cache)}
        if self.cold:
            shutil.rmtree(cache, ignore_errors=True)
        elif not cache.exists():
            run_once(command, env, cwd, timeout, check=check)
        return run_once(command, env, cwd, timeout, check=check)


_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h


def run_once(
    command: Sequence[str], env: Mapping[str, str], cwd: str | Path, timeout: float, *, check: bool = True
) -> Run:
    """Run a command to its end; ``facts`` are the line of JSON that ``vm run --json`` adds to the standard error.

    CPU time counts every process of the tree, also one that its parent did not wait for and that outlives it: this process
    becomes the one that inherits them, waits, and takes no other children meanwhile.

    Raises:
        Failed: with ``check`` an exit status other than 0, or no end of all processes within ``timeout`` seconds.
    """
    # SAFETY: prctl with an option that takes one integer; the others must be 0. Fails before Linux 3.4, then orphans are lost.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
        if check and child.returncode != 0:
            raise Failed(f"exit status {child.returncode}: {said.strip()[-300:]}")
        facts: dict[str, Any] = {}
        for line in said.splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    facts = json.loads(line)
        return Run(wall, cpu, out.read(), facts, child.returncode)


def environment() -> dict[str, str]:
    """This process's environment, without what would change how vm runs: its variables and its configuration file."""
    return {key: value for key, value in os.environ.items() if not key.startswith("VM_")} | {"VM_CONFIG": ""}


def geomean(values: Sequence[float]) -> float:
    """The geometric mean; nan of nothing."""
    if not values or min(values) <= 0:
        return math.nan
    return math.exp(statistics.fmean(math.log(v) for v in values))


def spread(values: Sequence[float]) -> float:
    """Half the range in percent of the median."""
    middle = statistics.median(values)
    return 50 * (max(values) - min(values)) / middle if middle else 0.0
