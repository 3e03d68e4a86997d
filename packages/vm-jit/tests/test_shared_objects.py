"""What is compiled of a shared object is found again by the next run of the program that maps it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vm_core.runner import RunResult, run
from vm_jit.cache import Cache

pytestmark = pytest.mark.needs_cc
SYSROOT = "/usr/riscv64-linux-gnu"
LIBRARY = """
    unsigned long turn(unsigned long n) {
        unsigned long a = 1;
        for (unsigned long i = 0; i < n; i++)
            a = a * 6364136223846793005u + (i ^ %d);
        return a;
    }
"""
PROGRAM = """
    #include <dlfcn.h>
    int main(int argc, char **argv) {
        if (argc < 3)
            return 2;
        void *object = dlopen(argv[1], RTLD_NOW);
        unsigned long (*turn)(unsigned long) = object ? dlsym(object, "turn") : 0;
        return turn ? turn(argv[2][0] == 'y' ? 3000000 : 1) & 127 : 1;
    }
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "program.c").write_text(PROGRAM)
    compile_(tmp_path, "program.c", "-o", "program")
    library(tmp_path, 5)
    return tmp_path


def compile_(place: Path, *words: str) -> None:
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    subprocess.run([compiler, "-O1", *words], cwd=place, check=True)


def library(place: Path, number: int) -> None:
    """Build it anew, as another file."""
    (place / "turn.c").write_text(LIBRARY % number)
    (place / "turn.so").unlink(missing_ok=True)
    compile_(place, "-shared", "-fPIC", "turn.c", "-o", "turn.so")


def go(place: Path, hot: str = "y") -> RunResult:
    return run(
        ["./program", str(place / "turn.so"), hot],
        program=place / "program",
        cwd=place,
        sysroot=SYSROOT,
        engine="jit",
        engine_options={"cache": Cache(place / "cache"), "synchronous": True},
        timeout=60,
    )


def test_the_next_run_finds_it(place: Path) -> None:
    first, second = go(place), go(place)
    assert first.returncode == second.returncode
    assert (first.stats.regions_cached, second.stats.regions_cached) == (0, first.stats.regions_compiled)
    assert first.stats.regions_compiled >= 1
    assert second.stats.regions_compiled == 0
    assert second.stats.retired_jit > first.stats.retired_jit > 1_000_000


def test_a_run_that_has_no_use_for_it_keeps_it(place: Path) -> None:
    compiled = go(place).stats.regions_compiled
    for _ in range(2):
        assert go(place, "n").stats.regions_compiled == 0
    assert go(place).stats.regions_cached == compiled


def test_another_library_in_its_place_is_not_taken_for_it(place: Path) -> None:
    first = go(place)
    library(place, 6)
    second = go(place)
    assert second.stats.regions_cached < first.stats.regions_compiled
    assert second.stats.regions_compiled >= 1
    assert second.returncode == go(place).returncode
    wanted = run(
        ["./program", str(place / "turn.so"), "y"], program=place / "program", cwd=place, sysroot=SYSROOT,
        engine="interp", timeout=60,
    )  # fmt: skip
    assert second.returncode == wanted.returncode
