"""What system calls return: each program below tests/abi runs on this machine's kernel and under vm, with the same output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent / "abi"
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.c"))
CROSS = "riscv64-linux-gnu-gcc"
FLAGS = ("-std=gnu17", "-O1", "-static", "-pthread", "-w")
ENV = {"HOME": "/"}


def compiled(compiler: str, program: str, tmp_path: Path) -> Path:
    out = tmp_path / f"{program}.{compiler}"
    command = [compiler, *FLAGS, "-o", str(out), str(SOURCES / f"{program}.c")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr
    return out


@pytest.mark.needs_cc
@pytest.mark.parametrize("program", PROGRAMS)
def test_as_on_this_kernel(program: str, tmp_path: Path) -> None:
    native = shutil.which("gcc") or shutil.which("cc")
    if native is None or shutil.which(CROSS) is None:
        pytest.skip(f"needs gcc and {CROSS}")
    outputs = []
    for name in ("native", "vm"):
        where = tmp_path / name
        where.mkdir()
        if name == "native":
            path = compiled(native.rpartition("/")[2], program, tmp_path)
            done = subprocess.run(
                [path],
                capture_output=True,
                cwd=where,
                env={**os.environ, **ENV},
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
            outputs.append((done.returncode, done.stdout.decode()))
        else:
            done = subprocess.run(
                [sys.executable, "-m", "vm_cli", "run", "--", compiled(CROSS, program, tmp_path)],
                capture_output=True, cwd=where, env={**os.environ, **ENV}, stdin=subprocess.DEVNULL, timeout=120,
                check=False,
            )  # fmt: skip
            assert not done.stderr
            outputs.append((done.returncode, done.stdout.decode()))
        assert not list(where.iterdir()), "files are left behind"
    (want_status, want), (status, got_text) = outputs
    assert got_text.splitlines() == want.splitlines()
    assert status == want_status == 0
