"""Every RISC-V instruction on the cases of cases/riscv_*.txt, and what a case cannot say: sequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm_core.engine import Budget, Cause, Trap
from vm_core.execute import ReferenceEngine
from vm_core.isa import get
from vm_core.memory import Access, GuestMemory, Prot
from vm_core.testing.cases import CODE, Case, read_cases

ISA = get("riscv64")
CASES = read_cases(sorted((Path(__file__).parent / "cases").glob("riscv_*.txt")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.where} {case.text}")
def test_case(case: Case) -> None:
    assert case.run(ISA, ReferenceEngine) == []


def test_every_instruction_has_a_case() -> None:
    have = {ISA.decode(ISA.assemble(case.text)).name for case in CASES}
    assert have == set(ISA.instructions)


def run(*lines: str, steps: int | None = None, **registers: int) -> tuple[dict[str, int], object, GuestMemory]:
    """Run a straight line of instructions. Gives the registers, the exit and the memory (0x1000 to 0x3fff)."""
    memory = GuestMemory(bits=20)
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
        "jal zero, 8", "addi a0, zero, 1", "sw a1, 4(a2)", "fence.i", "beq a0, zero, -12", steps=5, a1=patch, a2=CODE
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
    with GuestMemory(bits=20) as memory:
        memory.map(CODE, 0x1000, Prot.RX)
        memory.poke(CODE + 0xFFE, b"\x13\x05")
        cpu = ISA.cpu()
        cpu.pc = CODE + 0xFFE
        result = ReferenceEngine(ISA, memory).run(cpu, memory, 1)
    assert result == Trap(Cause.FETCH, CODE + 0xFFE, CODE + 0x1000, Access.EXEC, mapped=False)


def test_counters_only_count_up() -> None:
    state, _, _ = run("csrrs a0, instret, zero", "csrrs a1, cycle, zero", "csrrs a2, time, zero", "csrrs a3, time, zero")
    assert state["a0"] != state["a1"]
    assert state["a3"] >= state["a2"] > 0


def test_a_bad_case_file_is_reported(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("# fine\naddi a0, a1, 1 | a1\n")
    with pytest.raises(ValueError, match=r"bad\.txt:2: not `instruction"):
        read_cases([bad])
    bad.write_text("addi a0, a1, 1 | a1 => a0=1\n")
    with pytest.raises(ValueError, match=r"bad\.txt:1: not name=value: 'a1'"):
        read_cases([bad])
