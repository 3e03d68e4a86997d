"""Many guests in one process, on the engine that they run on: each ends as it does alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vm_core.runner import RunResult, run
from vm_core.scheduler import Scheduler
from vm_jit import engine as engines

if TYPE_CHECKING:
    from conftest import Assembler, Guests

ENGINES = ("jit", "interp")
PROGRAMS = (
    ("sha256", "small"), ("quicksort", "small"), ("selfmod", "small"), ("threads", "small"), ("signals", "small"),
    ("nbody", "small"), ("bytecode", "small"), ("mmap", "small"),
)  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_64_guests_of_eight_programs(engine: str, guests: Guests, tmp_path: Path) -> None:
    commands = [[str(guests.path(name, "O2")), *guests.arguments(name, size)] for name, size in PROGRAMS]
    expected = [run(command, engine=engine, capture_output=True, cwd=tmp_path) for command in commands]
    with Scheduler(workers=2) as scheduler:
        added = [
            scheduler.add(command, engine=engine, capture_output=True, cwd=tmp_path)
            for _ in range(64 // len(commands))
            for command in commands
        ]
    for i, guest in enumerate(added):
        result, alone = guest.result(), expected[i % len(commands)]
        assert (result.reason, result.returncode) == (alone.reason, alone.returncode), result.message
        assert result.stdout == alone.stdout
        if PROGRAMS[i % len(commands)][0] in ("sha256", "quicksort", "nbody", "bytecode"):
            assert result.instructions == alone.instructions
    assert not engines._engines
    assert not engines._images


@pytest.mark.parametrize("engine", ENGINES)
def test_a_guest_that_changes_its_code_among_others_that_do_not(engine: str, assembler: Assembler) -> None:
    """The loop adds 1; a guest with arguments makes it add their number instead."""
    text = """
    ld s0, 0(sp)
    addi s0, s0, -1
    beq s0, zero, {start}
    lui a0, 17
    lui a1, 1
    li a2, 7
    li a7, 226
    ecall
    auipc s2, 0
    here:
    lw t0, 48(s2)
    slli t1, s0, 20
    lui t2, 256
    sub t0, t0, t2
    add t0, t0, t1
    sw t0, 48(s2)
    fence.i
    addi a2, zero, 5
    ecall
    start:
    li t1, 5000
    li s1, 0
    loop:
    addi s1, s1, 1
    addi t1, t1, -1
    bne t1, zero, {loop}
    li t3, 5000
    divu a0, s1, t3
    li a7, 93
    ecall
    """
    made = assembler.program(text)
    distance = made.labels["loop"] - (made.labels["here"] - 4)
    program = assembler.program(re.sub(r"48\(s2\)", f"{distance}(s2)", text))
    assert program.labels == made.labels
    with Scheduler(workers=2) as scheduler:
        added = [
            scheduler.add([str(program.path), *["x"] * (i % 4)], engine=engine, timeout=60) for i in range(64)
        ]
    assert [guest.result().returncode for guest in added] == [max(i % 4, 1) for i in range(64)]


def test_faults_and_limits_of_some_among_64(guests: Guests, assembler: Assembler) -> None:
    sha256 = [str(guests.path("sha256", "O2")), "64"]
    alone = run(sha256, capture_output=True)
    fault = [str(assembler.program("li a1, 64\nld a0, 0(a1)").path)]
    endless = [str(assembler.program("loop:\naddi a0, a0, 1\njal zero, {loop}").path)]
    with Scheduler(workers=2) as scheduler:
        added = []
        for _ in range(16):
            added += [
                scheduler.add(sha256, capture_output=True),
                scheduler.add(fault),
                scheduler.add(endless, fuel=12_345_678),
                scheduler.add(endless, timeout=0.5),
            ]
    for first, second, third, fourth in zip(*[iter(added)] * 4, strict=True):
        assert (first.result().returncode, first.result().stdout) == (0, alone.stdout)
        assert first.result().instructions == alone.instructions
        assert second.result().signal == 11
        assert (third.result().reason, third.result().instructions) == ("fuel", 12_345_678)
        assert (fourth.result().reason, fourth.result().returncode) == ("timeout", 124)


def test_guests_of_one_program_share_its_code(
    guests: Guests, assembler: Assembler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the cache has of it need not be decoded, until somebody's slice ends there.
    monkeypatch.setenv("VM_CACHE_DIR", str(tmp_path))
    command = [str(guests.path("sha256", "O2")), "300"]
    endless = [str(assembler.program("loop:\naddi a0, a0, 1\njal zero, {loop}").path)]
    with Scheduler(workers=1) as scheduler:
        other = scheduler.add(endless)  # while it runs, what the others leave is kept

        def results() -> Iterator[RunResult]:
            for _ in range(300):
                yield scheduler.add(command, capture_output=True).result()

        first, *rest = itertools.islice(results(), 5)
        # LLVM works beside them, on a busy machine for as long as many of them take: none could have its code of its own.
        compiled = next(result for result in results() if result.stats.retired_jit > result.instructions // 2)
        rest += [compiled, *itertools.islice(results(), 3)]
        other.stop()
    assert first.stats.blocks_decoded > 0
    assert [result.stats.blocks_decoded for result in rest] == [0] * 8
    assert all(result.stats.retired_jit > result.instructions // 2 for result in rest[-3:])
