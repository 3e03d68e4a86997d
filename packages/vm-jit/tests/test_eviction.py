"""Compiled code that goes: for want of room, and at random points while it runs. Nothing but the speed may change."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vm_core import isa as isas
from vm_core.engine import Engine, Syscall
from vm_core.memory import GuestMemory, Prot
from vm_core.spec.isa import Isa
from vm_core.state import CpuState
from vm_core.testing import EngineFactory, differential
from vm_core.testing.engine_suite import CODE as SUITE_CODE
from vm_core.testing.engine_suite import EngineSuite, Machine
from vm_jit.chaos import ChaosEngine
from vm_jit.engine import NativeEngine

CODE = 0x10000
ISA = isas.get("riscv64")
CASES = Path(__file__).parents[2] / "vm-core" / "tests" / "cases"
COUNT = int(os.environ.get("VM_ORACLE_COUNT", "350000"))


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


def loop(step: int) -> bytes:
    return assemble(f"addi a1, a1, {step}", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")


@contextmanager
def loops(count: int, **options: object) -> Iterator[tuple[NativeEngine, CpuState]]:
    """Loop number n, which adds n, on a page of its own."""
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, count * 0x1000, Prot.RX)
        for number in range(count):
            memory.poke(CODE + number * 0x1000, loop(number))
        engine = NativeEngine(ISA, memory, **{"cache": False, "synchronous": True, **options})
        try:
            yield engine, ISA.cpu()
        finally:
            engine.close()


def run(engine: NativeEngine, cpu: CpuState, number: int, turns: int) -> None:
    cpu.pc, cpu["a0"], cpu["a1"] = CODE + number * 0x1000, turns, 0
    assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
    assert cpu["a1"] == number * turns


@pytest.mark.parametrize(("jit", "baseline"), [(True, False), (False, True), (True, True)])
def test_what_was_made_longest_ago_goes(jit: bool, baseline: bool) -> None:
    options = {"jit": jit, "baseline": baseline, "eager": baseline}
    with loops(12, **options) as (engine, cpu):
        run(engine, cpu, 1, 10_000)
        image = engine._image
        assert image is not None
        piece = image.code_bytes // len(image.compiled)
    with loops(12, code_memory=4 * piece, **options) as (engine, cpu):
        for number in range(12):
            run(engine, cpu, number, 10_000)
            image = engine._image
            assert image is not None
            assert image.code_bytes == sum(one.block.size for one in image.compiled) <= 4 * piece
        places = {image.record(CODE + number * 0x1000): number for number in range(12)}
        left = {places[at] for one in image.compiled for at in one.records(image) if at in places}
        assert left <= {8, 9, 10, 11}
        assert 11 in left
        assert engine.stats.extra["evicted"] >= 8
        # What went is made again when it is hot again, and has not left anything behind that leads to it.
        made = engine.stats.retired_jit
        for number in range(12):
            run(engine, cpu, number, 10_000)
        if jit:
            assert engine.stats.retired_jit - made > 12 * 10_000


def test_a_limit_smaller_than_any_piece_keeps_the_newest() -> None:
    with loops(3, code_memory=1) as (engine, cpu):
        for number in (0, 1, 2, 0, 1, 2):
            run(engine, cpu, number, 100_000)
            assert engine._image is not None
            assert len(engine._image.compiled) <= 1


def test_evicted_memory_is_given_back() -> None:
    with loops(40, code_memory=4096, jit=False, eager=True) as (engine, cpu):
        used = []
        for number in range(40):
            run(engine, cpu, number, 10)
            assert engine.tiering is not None
            used.append(engine.tiering.code.used)
        assert max(used[20:]) <= max(used[:20])


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ({"jit": False, "baseline": False, "every": 4000}, 5_000),
        ({"jit": False, "every": 4000, "code_memory": 1500}, 20_000),
        ({"baseline": False, "every": 200_000, "code_memory": 3000}, 500_000),
        ({"synchronous": True, "baseline": False, "every": 400_000, "code_memory": 3000}, 400_000),
    ],
)
def test_code_may_be_lost_while_64_threads_run_it(options: dict[str, Any], turns: int) -> None:
    """Each vCPU loses code that the others are in."""
    failures: list[str] = []
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 8 * 0x1000, Prot.RX)
        for number in range(8):
            memory.poke(CODE + number * 0x1000, loop(number))
        engine = ChaosEngine(ISA, memory, cache=False, **options)
        memory.code_changed.append(engine.invalidate)
        engine.add_vcpu()

        def work(index: int) -> None:
            cpu = ISA.cpu()
            try:
                for turn in range(4):
                    run(engine, cpu, (index + turn) % 8, turns)
            except BaseException as error:  # noqa: BLE001  reported by the main thread
                failures.append(f"vCPU {index}: {error!r}")

        threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
        assert not any(thread.is_alive() for thread in threads)
        assert not failures
        assert engine.stats.retired == 64 * 4 * (3 * turns + 1)
        assert engine.invalidations > 10
        if engine.options.synchronous or engine.options.baseline:
            # When LLVM's thread gets to something is its own affair.
            assert engine.evictions > 20
        if engine.options.synchronous:
            assert engine.stats.regions_compiled > 8
        engine.close()


# -- the suites, losing code -------------------------------------------------------------------------------------------


class _Chaos(EngineSuite):
    """The engine contract, while code is lost every few instructions."""

    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"
    samples = 1


class TestInterpreterLosesCode(_Chaos):
    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return ChaosEngine(isa, memory, jit=False, baseline=False, every=50)


class TestBaselineLosesCode(_Chaos):
    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return ChaosEngine(isa, memory, jit=False, synchronous=True, eager=True, every=50, code_memory=2048)

    def _same(
        self, mine: Machine, expected: Machine, code: bytes, content: bytes, limit: int, at: int = SUITE_CODE
    ) -> str:
        # A unit does no block that would use up the budget, so what is done once is followed by something.
        if limit == 1:
            code, limit = code + self.code("addi t3, t3, 1", "ecall"), 20
        return super()._same(mine, expected, code, content, limit, at)


class TestJitLosesCode(_Chaos):
    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return ChaosEngine(isa, memory, synchronous=True, eager=True, every=500, code_memory=8192)


def interpreter(isa: Isa, memory: GuestMemory) -> Engine:
    return ChaosEngine(isa, memory, jit=False, baseline=False, every=500)


def baseline(isa: Isa, memory: GuestMemory) -> Engine:
    return ChaosEngine(isa, memory, jit=False, synchronous=True, eager=True, every=2000)


def eager(isa: Isa, memory: GuestMemory) -> Engine:
    return ChaosEngine(isa, memory, synchronous=True, eager=True, every=60_000)


def background(isa: Isa, memory: GuestMemory) -> Engine:
    return ChaosEngine(isa, memory, every=5000, code_memory=100_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "rounds"), [(interpreter, 1), (baseline, 40), (eager, 40), (background, 40)]
)
def test_random_programs_that_lose_code_do_what_qemu_does(factory: EngineFactory, rounds: int) -> None:
    found = differential(factory, seed=rounds + 1, count=COUNT, rounds=rounds)
    assert found is None, str(found)
