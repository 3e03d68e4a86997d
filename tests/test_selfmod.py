"""Code that the guest writes or changes is what runs after its fence: in every engine, hot or cold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Assembler, Guests, Oracle

ENGINES = ("jit", "baseline", "interp", "reference")


def status(program: Path, engine: str) -> int:
    from vm_core.runner import run

    result = run([str(program)], engine=engine, capture_output=True, timeout=60)
    assert result.reason == "exit", result.message
    return result.returncode


@pytest.mark.parametrize("engine", ENGINES)
def test_patched_instruction_runs_after_the_fence(engine: str, assembler: Assembler) -> None:
    # "addi a0, zero, 1" becomes "addi a0, zero, 42" after it has run once.
    program = assembler.program(
        """
        li s0, 0
    again:
    patched:
        addi a0, zero, 1
        bne s0, zero, {done}
        auipc t0, 0
        lui t1, 0x2a00
        addiw t1, t1, 0x513
        sw t1, -8(t0)
        fence.i
        li s0, 1
        jal zero, {again}
    done:
        li a7, 93
        ecall
    """,
        writable=True,
    )
    assert status(program.path, engine) == 42


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rounds", [3, 5000])
def test_hot_loop_changes_its_own_body(engine: str, rounds: int, assembler: Assembler) -> None:
    if engine == "reference" and rounds > 100:
        rounds = 100
    # The immediate of "addi a0, a0, 1" goes up by one each time round, modulo 1024.
    program = assembler.program(
        f"""
        li s0, {rounds}
        auipc s1, 0
        addi s1, s1, {{body}}
        addi s1, s1, 4
        li s2, 0x100000
        li s3, 0x3fffffff
        lw s4, 0(s1)
    body:
        addi a0, a0, 1
        add s4, s4, s2
        and s4, s4, s3
        sw s4, 0(s1)
        fence.i
        addi s0, s0, -1
        bne s0, zero, {{body}}
        andi a0, a0, 255
        li a7, 93
        ecall
    """,
        writable=True,
    )
    want, k = 0, 1
    for _ in range(rounds):
        want += k - ((k & 0x800) << 1)
        k = (k + 1) & 0x3FF
    assert status(program.path, engine) == want & 255


@pytest.mark.parametrize("engine", ENGINES)
def test_instruction_across_two_pages(engine: str, assembler: Assembler) -> None:
    """Only the second half, which lies on the next page, is changed."""
    program = assembler.program(
        f"""
        li s0, 200
        jal zero, {{far}}
        .align 4096
        .bytes {"01 00 " * 2047}
    far:
        addi a0, a0, 1
        bne s0, zero, {{change}}
        andi a0, a0, 255
        li a7, 93
        ecall
    change:
        addi s0, s0, -1
        auipc t0, 0
        addi t0, t0, {{far}}
        lhu t1, 6(t0)
        addi t1, t1, 16
        sh t1, 6(t0)
        fence.i
        jal zero, {{far}}
    """,
        writable=True,
    )
    assert program.labels["far"] % 4096 == 4094
    assert status(program.path, engine) == 201 * 202 // 2 & 255


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rounds", [4, 300])
def test_pages_switched_between_writing_and_running(engine: str, rounds: int, assembler: Assembler) -> None:
    # mprotect(RW), write "addi a0, a0, k; ret", mprotect(RX), call it.
    program = assembler.program(f"""
        li s0, {min(rounds, 40) if engine == "reference" else rounds}
        li s1, 0x21000
        li s2, 0x150513
        li s5, 0
        li s6, 0x8067
    loop:
        addi a0, s1, 0
        li a1, 4096
        li a2, 3
        li a7, 226
        ecall
        bne a0, zero, {{bad}}
        sw s2, 0(s1)
        sw s6, 4(s1)
        addi a0, s1, 0
        li a1, 4096
        li a2, 5
        ecall
        bne a0, zero, {{bad}}
        fence.i
        addi a0, s5, 0
        jalr ra, 0(s1)
        addi s5, a0, 0
        li t0, 0x100000
        xor s2, s2, t0
        addi s0, s0, -1
        bne s0, zero, {{loop}}
        andi a0, s5, 255
        li a7, 93
        ecall
    bad:
        li a0, 250
        li a7, 93
        ecall
    """)
    done = min(rounds, 40) if engine == "reference" else rounds
    assert status(program.path, engine) == (done + 1) // 2 & 255


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize("variant", ["O0", "O2", "musl", "pie"])
def test_code_writer(variant: str, guests: Guests, qemu: Oracle, tmp_path: Path) -> None:
    """The larger program, with more rounds than test_guests gives it."""
    from vm_core.runner import run

    argv = [str(guests.path("selfmod", variant)), "400"]
    want = qemu.run(argv, cwd=tmp_path)
    assert want.status == 0
    for engine in ("jit", "baseline", "interp"):
        result = run(argv, engine=engine, capture_output=True, env={}, cwd=tmp_path)
        assert (result.returncode, result.stdout) == (want.status, want.stdout), engine
