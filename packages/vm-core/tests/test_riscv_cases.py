"""Every RISC-V instruction has cases in cases/riscv64.txt; and what a case cannot say: sequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm_core.engine import Budget, Cause, Trap
from vm_core.execute import ReferenceEngine
from vm_core.isa import get
from vm_core.memory import Access, GuestMemory, Prot
from vm_core.testing.cases import CODE, Case, read_cases

ISA = get("riscv64")
CASES = list(read_cases(Path(__file__).parent / "cases" / "riscv64.txt"))


def test_every_instruction_has_a_case() -> None:
    assert {ISA.decode(case.code(ISA)).name for case in CASES} == set(ISA.instructions)


def run(
    *lines: str, steps: int | None = None, **registers: int
) -> tuple[dict[str, int], object, GuestMemory]:
    """Run a straight line of instructions. Gives the registers, the exit and the memory (0x1000 to 0x3fff)."""
    memory = GuestMemory(bits=24)
    memory.map(0x1000, 0x3000, Prot.RW)
    memory.map(CODE, 0x1000, Prot.RWX)
    memory.poke(CODE, b"".join(ISA.assemble(line) for line in lines))
    cpu = ISA.cpu()
    cpu.pc = CODE
    for name, value in registers.items():
        cpu[name] = value
    engine = ReferenceEngine(ISA, memory)
    result = engine.run(cpu, memory, steps or len(lines))
    return cpu.snapshot(), result, memory


def test_store_conditional_succeeds_after_load_reserved() -> None:
    state, result, memory = run("lr.w a0, (a1)", "sc.w a2, a3, (a1)", "sc.w a4, a3, (a1)", a1=0x2000, a3=7)
    assert result == Budget()
    assert (state["a0"], state["a2"], state["a4"]) == (0, 0, 1)
    assert memory.load(0x2000, 4) == 7


def test_store_conditional_fails_elsewhere() -> None:
    state, _, memory = run("lr.d a0, (a1)", "sc.d a2, a3, (a4)", a1=0x2000, a3=7, a4=0x2008)
    assert state["a2"] == 1
    assert memory.load(0x2008, 8) == 0


def test_a_store_between_breaks_a_reservation() -> None:
    state, _, _ = run("lr.d a0, (a1)", "sd a3, 0(a1)", "sc.d a2, zero, (a1)", a1=0x2000, a3=7)
    assert state["a2"] == 1


def test_self_modifying_code_after_fence_i() -> None:
    patch = int.from_bytes(ISA.assemble("addi a0, zero, 2"), "little")
    state, _, _ = run(
        "jal zero, 8",
        "addi a0, zero, 1",
        "sw a1, 4(a2)",
        "fence.i",
        "beq a0, zero, -12",
        steps=5,
        a1=patch,
        a2=CODE,
    )
    assert state["a0"] == 2


def test_an_access_across_pages_faults_at_the_second() -> None:
    state, result, _ = run("ld a0, 0(a1)", a1=0x3FFC)
    assert result == Trap(Cause.LOAD, CODE, 0x4000, Access.READ, mapped=False)
    assert state["pc"] == CODE


def test_a_store_across_pages_changes_nothing() -> None:
    _, result, memory = run("sd a0, 0(a1)", a0=2**64 - 1, a1=0x3FFC)
    assert isinstance(result, Trap)
    assert memory.load(0x3FFC, 4) == 0


def test_a_misaligned_atomic_names_its_address() -> None:
    _, result, _ = run("amoadd.w a0, a1, (a2)", a2=0x2002)
    assert result == Trap(Cause.MISALIGNED, CODE, 0x2002)


def test_a_jump_to_an_odd_target_clears_bit_0() -> None:
    state, _, _ = run("jalr ra, 1(a0)", a0=CODE + 0x10)
    assert state["pc"] == CODE + 0x10


def test_code_that_ends_in_the_middle_of_an_instruction() -> None:
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 0x1000, Prot.RX)
        memory.poke(CODE + 0xFFE, b"\x13\x05")
        cpu = ISA.cpu()
        cpu.pc = CODE + 0xFFE
        result = ReferenceEngine(ISA, memory).run(cpu, memory, 1)
    assert result == Trap(Cause.FETCH, CODE + 0xFFE, CODE + 0x1000, Access.EXEC, mapped=False)


def test_counters_only_count_up() -> None:
    state, _, _ = run(
        "csrrs a0, instret, zero", "csrrs a1, cycle, zero", "csrrs a2, time, zero", "csrrs a3, time, zero"
    )
    assert state["a0"] != state["a1"]
    assert state["a3"] >= state["a2"] > 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("addi a0, a1, 1 | a1=1 => a0=3", "a0=0x2, expected 0x3"),
        ("addi a0, a1, 1 | a1=1 =>", "a0=0x2, expected 0x0"),
        ("ebreak | =>", "BREAKPOINT"),
        ("addi a0, a1, 1 | => trap=illegal", "expected a trap: illegal"),
        ("addi a0, a1, 1 | => trap=syscall", "expected a system call"),
        ("fdiv.s fa0, fa1, fa2 | fa1=1.0s => fa0=infs", "expected"),
        ("csrrwi zero, frm, 2 | => flags=none", "frm=0x2, expected 0x0"),
        ("sb a0, 0(a1) | a0=1 a1=0x2000 => [0x2000]=02", "[0x2000]=01, expected 02"),
    ],
)
def test_a_wrong_case_is_reported(line: str, problem: str) -> None:
    with GuestMemory(bits=24) as memory:
        memory.map(0x2000, 0x1000, Prot.RW)
        memory.map(CODE, 0x1000, Prot.RX)
        problems = Case.parse(line).problems(ISA, ReferenceEngine(ISA, memory), memory)
    assert any(problem in found for found in problems)


@pytest.mark.parametrize("line", ["addi a0, a1, 1 | a1", "addi a0, a1, 1 | a1 => a0=1"])
def test_what_is_no_case_is_reported(line: str) -> None:
    with pytest.raises(ValueError, match="not "):
        Case.parse(line)
