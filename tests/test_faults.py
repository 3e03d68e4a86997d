"""What a guest may not do ends the guest, says where, and leaves the host alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Assembler, Guests, Oracle

ENGINES = ("jit", "baseline", "interp", "reference")
SEGV, ILL, TRAP = signal.SIGSEGV, signal.SIGILL, signal.SIGTRAP

# name: (program, signal, address of the access or None for "the instruction's own"). The fault is at the label "at".
CASES: dict[str, tuple[str, signal.Signals, int | None]] = {
    "load": ("li a1, 0x0dead000\nat:\nld a0, 0(a1)", SEGV, 0x0DEAD000),
    "load from null": ("li a1, 0\nat:\nlb a0, 4(a1)", SEGV, 4),
    "load far away": (
        "addi a1, zero, -1\nslli a1, a1, 40\nat:\nlw a0, 16(a1)",
        SEGV,
        (-1 << 40) + 16 & (1 << 64) - 1,
    ),
    "load at the end": ("addi a1, zero, -1\nat:\nld a0, 0(a1)", SEGV, (1 << 64) - 1),
    "load past 4 GiB": ("addi a1, zero, 1\nslli a1, a1, 32\nat:\nlbu a0, 8(a1)", SEGV, (1 << 32) + 8),
    "store": ("li a1, 0x0dead008\nat:\nsw a0, 0(a1)", SEGV, 0x0DEAD008),
    "store to code": ("auipc a1, 0\nat:\nsb a0, 0(a1)", SEGV, 0x1100C),
    "compressed store": ("li s0, 0x0dead010\nat:\nc.sd s1, 8(s0)", SEGV, 0x0DEAD018),
    "float load": ("li a1, 0x0dead010\nat:\nfld fa0, 8(a1)", SEGV, 0x0DEAD018),
    "float store": ("li a1, 0x0dead010\nat:\nfsw fa0, 8(a1)", SEGV, 0x0DEAD018),
    "atomic": ("li a1, 0x0dead020\nat:\namoadd.w a0, a0, (a1)", SEGV, 0x0DEAD020),
    "reservation": ("li a1, 0x0dead028\nat:\nlr.d a0, (a1)", SEGV, 0x0DEAD028),
    "jump": ("li a1, 0x0dead030\njalr zero, 0(a1)", SEGV, 0x0DEAD030),
    "jump into data": ("li a1, 0x20000\njalr zero, 0(a1)", SEGV, 0x20000),
    "four bytes": ("at:\n.bytes ff ff ff ff", ILL, None),
    "two bytes": ("at:\n.bytes 00 00", ILL, None),
    "unknown csr": ("at:\n.bytes 73 25 f0 7f", ILL, None),
    "machine return": ("at:\n.bytes 73 00 20 30", ILL, None),
    "breakpoint": ("at:\nebreak", TRAP, None),
    "short breakpoint": ("at:\nc.ebreak", TRAP, None),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_fault_is_reported(name: str, engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    text, number, address = CASES[name]
    # Twenty rounds of harmless work first, and one instruction behind the fault that must not run.
    program = assembler.program(
        f"li t0, 20\nloop:\naddi t0, t0, -1\nbne t0, zero, {{loop}}\n{text}\nli a7, 93\necall"
    )
    result = run([str(program.path)], engine=engine, capture_output=True)
    assert (result.reason, result.signal, result.returncode) == ("signal", number, -number)
    pc = program.labels.get("at", address)
    assert f"{pc:#x}" in result.message
    if address is not None:
        assert f"{address:#x}" in result.message
    assert "\n" not in result.message.strip()


@pytest.mark.needs_qemu
@pytest.mark.parametrize("name", CASES)
def test_same_signal_as_qemu(name: str, assembler: Assembler, qemu: Oracle, tmp_path: Path) -> None:
    program = assembler.program(CASES[name][0] + "\nli a7, 93\necall")
    assert qemu.run([program.path], cwd=tmp_path).status == -CASES[name][1]


@pytest.mark.parametrize("engine", ["jit", "baseline", "interp"])
def test_fault_in_hot_code(engine: str, assembler: Assembler) -> None:
    """A loop that walks off the end of its memory after the JIT has compiled it: pc, address and count stay exact."""
    from vm_core.runner import run

    program = assembler.program(
        """
        li a1, 0x20000
    loop:
        lbu a0, 0(a1)
        add s0, s0, a0
        addi a1, a1, 1
        jal zero, {loop}
    """,
        data=bytes(range(256)),
    )
    result = run([str(program.path)], engine=engine, capture_output=True)
    end = 0x20000 + 256 + 0x10000
    end += -end % 4096
    assert result.signal == SEGV
    assert f"{program.labels['loop']:#x}" in result.message
    assert f"{end:#x}" in result.message
    assert result.instructions == 1 + 4 * (end - 0x20000)


@pytest.mark.parametrize("engine", ENGINES)
def test_illegal_instruction_names_bytes(engine: str, assembler: Assembler) -> None:
    from vm_core.runner import run

    result = run([str(assembler.program(".bytes ff ff ff ff").path)], engine=engine, capture_output=True)
    assert "ff ff ff ff" in result.message


@pytest.mark.parametrize("engine", ENGINES)
def test_fault_in_a_system_call_is_an_error_number(engine: str, assembler: Assembler) -> None:
    """write(1, bad address, 8) gives EFAULT (14); the guest lives."""
    from vm_core.runner import run

    program = assembler.program(
        "li a0, 1\nli a1, 0x0dead000\nli a2, 8\nli a7, 64\necall\nsub a0, zero, a0\nli a7, 93\necall"
    )
    result = run([str(program.path)], engine=engine, capture_output=True)
    assert (result.reason, result.returncode) == ("exit", 14)


KINDS = ("null", "load", "wild", "store", "readonly", "amo", "reserve", "word", "zero", "break", "fetch", "data", "stack", "abort",
         "term", "kill", "pipe")  # fmt: skip


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize("kind", KINDS)
def test_programs_that_end_badly(kind: str, guests: Guests, qemu: Oracle, tmp_path: Path) -> None:
    from vm_core.runner import run

    program = guests.path("faults", "O2")
    want = qemu.run([program, kind], cwd=tmp_path)
    assert want.status < 0
    for engine in ("jit", "baseline", "interp"):
        result = run([str(program), kind], engine=engine, capture_output=True, env={}, cwd=tmp_path)
        assert result.returncode == want.status, engine
        assert isinstance(result.stdout, bytes)
        words = result.stdout.split()
        if words[0] == b"pc":
            assert words[1] in result.message.encode(), engine
            if -want.status == SEGV:
                assert words[3] in result.message.encode(), engine
