"""Instruction counts, the instruction budget, the timeout and the memory cap: exact, and the same in every engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Assembler, Guests

ENGINES = ("jit", "baseline", "interp", "reference")
PAGE = 4096
# Programs whose every instruction is settled by their input: no clock, no threads, no addresses that vary.
SETTLED = ("fib", "sieve", "bytecode", "sha256", "icall", "longjmp", "intops", "printf", "floats")

COUNTDOWN = """
    li t0, 1000
loop:
    addi t0, t0, -1
    bne t0, zero, {loop}
    li a0, 42
    li a7, 93
    ecall
"""
# Nested loops with a call inside, so that the end of a budget falls into a loop, a call, a return.
NEST = """
    li s0, 60
outer:
    li s1, 40
inner:
    jal ra, {twice}
    c.addi s1, -1
    bne s1, zero, {inner}
    addi s0, s0, -1
    bne s0, zero, {outer}
    andi a0, s2, 127
    li a7, 93
    ecall
twice:
    c.addi s2, 3
    xor s2, s2, s1
    c.jr ra
"""
NEST_COUNT = 1 + 60 * (1 + 40 * (1 + 3 + 2) + 2) + 3


@pytest.mark.parametrize("engine", ENGINES)
def test_count_is_exact(engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    result = run([str(assembler.program(COUNTDOWN).path)], engine=engine, capture_output=True)
    assert (result.returncode, result.reason, result.instructions) == (42, "exit", 1 + 2 * 1000 + 3)
    result = run([str(assembler.program(NEST).path)], engine=engine, capture_output=True)
    assert (result.reason, result.instructions) == ("exit", NEST_COUNT)


@pytest.mark.parametrize("engine", ENGINES)
def test_fuel_stops_exactly(engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    program = str(assembler.program(NEST).path)
    whole = NEST_COUNT
    for fuel in (
        1,
        2,
        3,
        4,
        7,
        8,
        9,
        100,
        241,
        242,
        243,
        1000,
        4096,
        9999,
        10000,
        10001,
        14000,
        whole - 2,
        whole - 1,
    ):
        result = run([program], engine=engine, fuel=fuel, capture_output=True)
        assert (result.reason, result.instructions) == ("fuel", fuel)
        assert result.signal is None
    result = run([program], engine=engine, fuel=whole, capture_output=True)
    assert (result.reason, result.instructions) == ("exit", whole)
    assert run([program], engine=engine, fuel=10**15, capture_output=True).reason == "exit"


@pytest.mark.parametrize("engine", ["jit", "baseline", "interp"])
def test_fuel_stops_exactly_in_hot_code(engine: str, assembler: Assembler) -> None:
    """Long enough for the JIT to have taken over."""
    from vm_core.runner import run

    program = assembler.program(
        "li t0, 20000000\nloop:\naddi t0, t0, -1\naddi t1, t1, 3\nbne t0, zero, {loop}\nli a7, 93\necall"
    )
    for fuel in (59_000_000, 59_000_001, 59_000_002, 60_000_003):
        result = run([str(program.path)], engine=engine, fuel=fuel, capture_output=True)
        assert (result.reason, result.instructions) == ("fuel", fuel)


def test_a_budget_runs_the_same_instructions(assembler: Assembler) -> None:
    """What the guest has written when its fuel ends does not depend on the engine."""
    from vm_core.runner import run

    program = assembler.program("""
        li s0, 65
    loop:
        sb s0, 0(sp)
        li a0, 1
        addi a1, sp, 0
        li a2, 1
        li a7, 64
        ecall
        addi s0, s0, 1
        jal zero, {loop}
    """)
    for fuel in (6, 7, 8, 70, 71, 72, 113):
        outputs = {run([str(program.path)], engine=e, fuel=fuel, capture_output=True).stdout for e in ENGINES}
        assert outputs == {bytes(range(65, 65 + (fuel - 7) // 8 + 1)) if fuel >= 7 else b""}


@pytest.mark.needs_cc
@pytest.mark.parametrize("name", SETTLED)
def test_engines_count_alike(name: str, guests: Guests, tmp_path: Path) -> None:
    from vm_core.runner import run

    argv = [str(guests.path(name, "musl")), *guests.arguments(name, "tiny")]
    counts = {e: run(argv, engine=e, capture_output=True, env={}, cwd=tmp_path).instructions for e in ENGINES}
    assert len(set(counts.values())) == 1, counts
    argv = [argv[0], *guests.arguments(name, "small")]
    whole = [
        run(argv, engine=e, capture_output=True, env={}, cwd=tmp_path) for e in ("jit", "baseline", "interp")
    ]
    assert whole[0].instructions == whole[1].instructions
    fuel = whole[0].instructions * 2 // 3
    for engine in ("jit", "baseline", "interp"):
        cut = run(argv, engine=engine, fuel=fuel, capture_output=True, env={}, cwd=tmp_path)
        assert (cut.reason, cut.instructions) == ("fuel", fuel)
        assert isinstance(cut.stdout, bytes)
        assert isinstance(whole[0].stdout, bytes)
        assert whole[0].stdout.startswith(cut.stdout)


@pytest.mark.parametrize("engine", ENGINES)
def test_timeout_ends_an_endless_loop(engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    # The first run of a session also builds the engine, which is not the guest's time.
    run([str(assembler.program(COUNTDOWN).path)], engine=engine, capture_output=True)
    program = assembler.program("here:\njal zero, {here}")
    start = time.monotonic()
    result = run([str(program.path)], engine=engine, timeout=0.3, capture_output=True)
    took = time.monotonic() - start
    assert result.reason == "timeout"
    assert 0.3 <= took < 5


@pytest.mark.parametrize("engine", ENGINES)
def test_timeout_ends_a_blocked_read(engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    # The guest reads from a pipe that nobody writes to.
    program = assembler.program("""
        addi a0, sp, -16
        li a1, 0
        li a7, 59
        ecall
        lw a0, -16(sp)
        addi a1, sp, -64
        li a2, 1
        li a7, 63
        ecall
        ebreak
    """)
    start = time.monotonic()
    result = run([str(program.path)], engine=engine, timeout=0.3, capture_output=True)
    assert result.reason == "timeout"
    assert time.monotonic() - start < 5


MAPPER = """
    li a0, 0
    li a1, {pages}
    slli a1, a1, 12
    li a2, 3
    li a3, 34
    addi a4, zero, -1
    li a5, 0
    li a7, 222
    ecall
    srli a0, a0, 63
    li a7, 93
    ecall
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_cap_is_exact_to_the_page(engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    def fits(pages: int, limit: int) -> bool:
        program = assembler.program(MAPPER.replace("{pages}", str(pages)))
        result = run([str(program.path)], engine=engine, memory=limit, capture_output=True)
        if result.reason == "exit" and result.returncode == 0:
            return True
        assert result.reason == "memory"
        return False

    limit = 48 << 20
    low, high = 1, limit // PAGE + 1
    assert fits(low, limit)
    assert not fits(high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle, limit) else (low, middle)
    assert fits(low + 1, limit + PAGE)
    assert not fits(low + 2, limit + PAGE)


@pytest.mark.needs_cc
@pytest.mark.parametrize("engine", ["jit", "baseline", "interp"])
def test_memory_cap_stops_a_greedy_program(engine: str, guests: Guests, tmp_path: Path) -> None:
    from vm_core.runner import run

    program = str(guests.path("faults", "musl"))
    result = run([program, "eat"], engine=engine, memory=64 << 20, capture_output=True, env={}, cwd=tmp_path)
    assert result.reason == "memory"
    assert "memory cap" in result.message
