"""The baseline tier: what its units do, when they are made and dropped, and how they share records with regions."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vm_core import isa as isas
from vm_core.engine import Breakpoint, Budget, Syscall, Trap
from vm_core.execute import ReferenceEngine
from vm_core.memory import GuestMemory, Prot
from vm_core.state import CpuState
from vm_jit.cache import SUFFIX, Cache
from vm_jit.engine import BaselineEngine, NativeEngine
from vm_jit.lowering import HOST
from vm_jit.records import LINKED

CODE = 0x10000
DATA = 0x20000
ISA = isas.get("riscv64")


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


LOOP = assemble("addi a1, a1, 3", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")


@contextmanager
def machine(
    code: bytes = LOOP, make: type[NativeEngine] = BaselineEngine, **options: object
) -> Iterator[tuple[NativeEngine, CpuState]]:
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 0x4000, Prot.RWX)
        memory.map(DATA, 0x1000, Prot.RW)
        memory.poke(CODE, code)
        engine = make(ISA, memory, **{"synchronous": True, "cache": False, **options})
        cpu = ISA.cpu()
        cpu.pc = CODE
        try:
            yield engine, cpu
        finally:
            engine.close()


def run(engine: NativeEngine, cpu: CpuState, count: int) -> int:
    """Run the loop ``count`` times; the sum it made."""
    cpu.pc, cpu["a0"], cpu["a1"] = CODE, count, 0
    assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
    return cpu["a1"]


def units(engine: NativeEngine) -> int:
    image = engine._image
    assert image is not None
    assert image.baseline is not None
    return len(image.baseline.originals)


def test_a_warm_loop_becomes_a_unit() -> None:
    with machine() as (engine, cpu):
        assert run(engine, cpu, 40) == 120
        assert units(engine) == 0
        assert run(engine, cpu, 1000) == 3000
        assert units(engine) == 1
        assert engine.stats.retired == 3 * 1040 + 2
        assert engine.stats.regions_compiled == 0


def test_what_is_only_fallen_into_becomes_a_unit_too() -> None:
    """It had not run when the unit was made that leads there."""
    loop = assemble(
        "bne a2, zero, 8", "addi a1, a1, 4", "addi a1, a1, 3", "addi a0, a0, -1", "bne a0, zero, -16", "ecall"
    )
    with machine(loop) as (engine, cpu):
        cpu["a2"] = 1
        assert run(engine, cpu, 1000) == 3000
        image = engine._image
        assert image is not None
        assert not image.is_decoded(CODE + 4)
        cpu["a2"] = 0
        assert run(engine, cpu, 1000) == 7000
        assert image.entry(CODE + 4) & LINKED


def test_budget_is_exact() -> None:
    with machine() as (engine, cpu):
        run(engine, cpu, 1000)
        rng = random.Random(1)
        for limit in [*range(1, 40), *(rng.randrange(1, 10**6) for _ in range(20))]:
            cpu.pc, cpu["a0"], cpu["a1"] = CODE, 10**9, 0
            assert engine.run(cpu, engine.memory, limit) == Budget()
            assert cpu.header("fuel") == 0
            assert cpu["a1"] == 3 * ((limit + 2) // 3)
            assert cpu.pc == CODE + 4 * (limit % 3)


_THREE = ("add", "sub", "and", "or", "xor", "sll", "srl", "sra", "slt", "sltu", "addw", "subw", "sllw", "srlw",
          "sraw", "mul", "mulhu", "div", "remu", "sh2add", "andn", "max", "rol")  # fmt: skip
_TWO = ("addi", "andi", "ori", "xori", "slti", "sltiu", "addiw")
_SHIFT = ("slli", "srli", "srai", "slliw", "srliw", "sraiw", "rori", "bexti", "bseti")


def _line(rng: random.Random, registers: list[str]) -> str:
    d, a, b = (rng.choice(registers) for _ in range(3))
    kind = rng.randrange(5)
    if kind < 2:
        return f"{rng.choice(_THREE)} {d}, {a}, {b}"
    if kind == 2:
        return f"{rng.choice(_TWO)} {d}, {a}, {rng.choice((0, 0, 1, -1, -2048, 2047, rng.randrange(-2048, 2048)))}"
    if kind == 3:
        name = rng.choice(_SHIFT)
        return f"{name} {d}, {a}, {rng.randrange(32 if name.endswith('w') else 64)}"
    offset = rng.choice((0, 8, 16, 40))
    if rng.random() < 0.5:
        return f"{rng.choice(('ld', 'lw', 'lwu', 'lbu', 'lh'))} {d}, {offset}(s11)"
    return f"{rng.choice(('sd', 'sw', 'sb'))} {a}, {offset}(s11)"


@pytest.mark.parametrize("count", [3, 6, 9, 14])
def test_operands_in_all_places(count: int) -> None:
    """Random code on few registers: equal operands, in pins and in memory, in every combination."""
    rng = random.Random(count)
    names = ["zero", "ra", "a0", "a1", "a2", "a3", "a4", "a5", "s0", "s1", "t0", "t3", "s5", "s7"]
    for _ in range(12):
        registers = rng.sample(names, count)
        lines = [_line(rng, registers) for _ in range(40)]
        lines += [f"bne {registers[0]}, {registers[1]}, 8", f"addi {registers[2]}, {registers[2]}, 1"]
        lines += [
            f"bltu {registers[1]}, {registers[2]}, 8",
            f"xor {registers[0]}, {registers[0]}, {registers[2]}",
        ]
        code = assemble(*lines)
        code += assemble("addi s10, s10, -1", f"bne s10, zero, {-len(code) - 4}", "ecall")
        with machine(code, eager=True) as (engine, cpu):
            for name in names[1:]:
                cpu[name] = rng.choice((0, 1, (1 << 64) - 1, rng.getrandbits(64), rng.getrandbits(31)))
            cpu["s10"], cpu["s11"] = 20, DATA + 64
            content = rng.randbytes(256)
            expected = cpu.copy()
            engine.memory.poke(DATA, content)
            assert ReferenceEngine(ISA, engine.memory).run(expected, engine.memory, 1 << 20) == Syscall()
            memory = bytes(engine.memory.view[DATA : DATA + 256])
            engine.memory.poke(DATA, content)
            assert engine.run(cpu, engine.memory, 1 << 20) == Syscall()
            assert units(engine) > 0
            assert cpu.snapshot() == expected.snapshot(), lines
            assert bytes(engine.memory.view[DATA : DATA + 256]) == memory


@pytest.mark.parametrize(
    "access",
    [*(f"{name} {d}, -3(s1)" for name in ("lb", "lhu", "lw", "lwu", "ld") for d in ("a1", "s1", "s11", "zero")),
     "sb a1, -3(s1)", "sh s1, -3(s1)", "sw s11, -3(s1)", "sd zero, -3(s1)", "fld fa0, -3(s1)", "fsw fa0, -3(s1)"],
)  # fmt: skip
def test_a_refused_access_leaves_everything_as_it_was(access: str) -> None:
    """The loop walks off the end of the data: the host finds it, in the middle of a unit."""
    body = assemble("addi a0, a0, 1", "addi s1, a0, 0", "xor a2, a2, a0", access, "add a3, a3, a1")
    code = body + assemble(f"jal zero, {-len(body)}")
    with machine(code, eager=True) as (engine, cpu):
        cpu["a0"], cpu["a1"], cpu["s11"] = DATA + 3000, 0x1122334455667788, (1 << 64) - 5
        content = random.Random(3).randbytes(0x1000)
        expected = cpu.copy()
        engine.memory.poke(DATA, content)
        reason = ReferenceEngine(ISA, engine.memory).run(expected, engine.memory, 1 << 20)
        assert isinstance(reason, Trap)
        memory = bytes(engine.memory.view[DATA : DATA + 0x1000])
        engine.memory.poke(DATA, content)
        assert engine.run(cpu, engine.memory, 1 << 20) == reason
        assert units(engine) > 0
        assert cpu.snapshot() == expected.snapshot()
        assert bytes(engine.memory.view[DATA : DATA + 0x1000]) == memory


@pytest.mark.skipif(not HOST.x86, reason="accesses are checked in the table here")
def test_freed_units_leave_no_places_that_may_fault() -> None:
    code = assemble("lw a2, 0(s1)", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")
    with machine(code) as (engine, cpu):
        cpu["s1"] = DATA
        run(engine, cpu, 1000)
        image = engine._image
        assert image is not None
        assert image.baseline is not None
        image.baseline.code.allocate(64)  # so that the chunk stays when the unit goes
        (unit,) = image.baseline._units
        table, first, last = unit.block.chunk.fixups, unit.block.at >> 1, unit.block.at + unit.block.size >> 1
        assert any(table[first:last])
        engine.memory.poke(CODE, assemble("addi a1, a1, 1"))
        engine.synchronize(engine.memory)
        run(engine, cpu, 3)
        assert not any(table[first:last])


def test_code_memory_is_given_back() -> None:
    with machine() as (engine, cpu):
        used = []
        for turn in range(60):
            engine.memory.poke(CODE, assemble(f"addi a1, a1, {turn}"))
            engine.synchronize(engine.memory)
            assert run(engine, cpu, 500) == turn * 500
            assert engine.tiering is not None
            used.append(engine.tiering.code.used)
        assert max(used[1:]) <= used[1] + 256


def test_units_may_be_dropped_while_other_threads_run_them() -> None:
    results: list[int] = []
    with machine() as (engine, _):

        def work() -> None:
            cpu = ISA.cpu()
            results.extend(run(engine, cpu, 200_000) for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            engine.invalidate(CODE, CODE + 4)
            threads[0].join(0.002)
        for thread in threads:
            thread.join()
        assert results == [600_000] * 160
        assert engine.stats.retired == 160 * 600_001


def test_a_breakpoint_in_a_unit_stops() -> None:
    with machine() as (engine, cpu):
        run(engine, cpu, 1000)
        engine.set_breakpoints(frozenset({CODE + 4}))
        cpu.pc, cpu["a0"], cpu["a1"] = CODE, 10, 0
        for turn in range(1, 4):
            assert engine.run(cpu, engine.memory, 1000) == Breakpoint(CODE + 4)
            assert cpu["a1"] == 3 * turn
        engine.set_breakpoints(frozenset())
        assert engine.run(cpu, engine.memory, 1000) == Syscall()
        assert cpu["a1"] == 30


def test_a_running_loop_goes_over_to_its_region() -> None:
    with machine(make=NativeEngine) as (engine, cpu):
        assert run(engine, cpu, 1_000_000) == 3_000_000
        assert units(engine) == 1
        assert engine.stats.regions_compiled == 1
        assert engine.stats.retired_jit > 2_500_000
        # Both go when the code changes, in whatever order, and what was there comes back.
        for turn in range(3):
            engine.memory.poke(CODE, assemble(f"addi a1, a1, {turn}"))
            engine.synchronize(engine.memory)
            assert units(engine) == 0
            assert run(engine, cpu, 100_000) == turn * 100_000


def test_a_call_through_a_far_page_finds_its_unit() -> None:
    """The callee's page has nothing decoded when the caller's unit is made."""
    code = bytearray(
        assemble(
            "andi t0, a0, 511",
            "bne t0, zero, 8",
            f"jal ra, {0x3000 - 8}",
            "addi a0, a0, -1",
            "bne a0, zero, -16",
        )
    )
    code += assemble("ecall")
    code += bytes(0x3000 - len(code)) + assemble("addi a1, a1, 3", "jalr zero, 0(ra)")
    with machine(bytes(code)) as (engine, cpu):
        assert run(engine, cpu, 512 * 500) == 1500


def test_a_damaged_kit_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vm_jit.prebuilt.DIRECTORY", str(tmp_path))  # not the wheel's
    cache = Cache(tmp_path / "code")
    for _ in range(2):
        monkeypatch.setattr("vm_jit.baseline._kits", {})
        with machine(cache=cache) as (engine, cpu):
            assert run(engine, cpu, 1000) == 3000
            assert units(engine) == 1
        (path,) = cache.directory.glob(f"baseline-*{SUFFIX}")
        path.write_bytes(path.read_bytes()[:-1])
    assert "torn" in caplog.text


def test_the_second_process_does_not_load_llvm(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.path[:0] = [sys.argv[1]]\n"
        "from vm_jit import prebuilt\n"
        "prebuilt.DIRECTORY = sys.argv[1]\n"  # not the wheel's
        "from test_baseline import Cache, machine, run, units\n"
        "with machine(cache=Cache(sys.argv[2])) as (engine, cpu):\n"
        "    assert run(engine, cpu, 1000) == 3000 and units(engine) == 1\n"
        "print('vm_jit.stencils' in sys.modules, 'llvmlite' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "code")]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)
    )
    assert first == ["True", "False"]
    assert second == ["False", "False"]


@pytest.mark.parametrize("kind", [BaselineEngine, NativeEngine])
def test_what_llvm_knows_of_one_immediate_or_address_does_not_hold_for_all(kind: type[NativeEngine]) -> None:
    """A shift by 0 extends the sign of its result, and an address beyond 2 GiB has no sign."""
    base = 0xFF6EE000
    code = b"".join(
        ISA.assemble(line)
        for line in (
            "srliw a1, a0, 0", "srliw a2, a0, 1", "roriw a3, a0, 0", "auipc a4, 0", "auipc a5, 16", "jal a6, 4",
            "addi t6, t6, 1", "ecall",
        )
    )  # fmt: skip
    with GuestMemory() as memory:
        memory.map(base, 0x1000, Prot.RX)
        memory.poke(base, code)
        engine = kind(ISA, memory, cache=False, synchronous=True, eager=True)
        for _ in range(5):
            cpu = ISA.cpu()
            cpu.pc, cpu["a0"] = base, 0x1234_FFFF_FFFF
            assert engine.run(cpu, memory, 1000) == Syscall()
            assert cpu["a1"] == cpu["a3"] == (1 << 64) - 1
            assert (cpu["a2"], cpu["a4"], cpu["a5"], cpu["a6"]) == (
                0x7FFF_FFFF, base + 12, base + 16 + 0x10000, base + 24,
            )  # fmt: skip
        assert engine.stats.extra["baseline_units"]
        engine.close()
