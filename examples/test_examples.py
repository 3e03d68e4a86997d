"""Each example is run as a user would run it, in a process of its own, and prints what it says it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
EXPECTED = {
    "assemble_and_run.py": ["stopped by breakpoint at 0x1014", "a0 = 21"],
    "read_an_instruction.py": ["addi a0, a1, -16"],
    "run_a_program.py": ["status 0, stopped by exit", "it drew 'A riscv64 program drew this'"],
    "script_a_machine.py": ["8 bytes at 0x2000: 1", "8 bytes at 0x2020: 25", "Syscall 7"],
}


def test_every_example_is_known() -> None:
    assert {path.name for path in HERE.glob("*.py")} - {Path(__file__).name} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str) -> None:
    done = subprocess.run(
        [sys.executable, HERE / name], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in EXPECTED[name]:
        assert line in done.stdout.splitlines()
