"""The guest programs in every native tier, while compiled code is evicted and invalidated at random points: qemu's output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vm_core.memory import GuestMemory
from vm_core.runner import run
from vm_core.spec.isa import Isa

if TYPE_CHECKING:
    from conftest import Guests, Oracle

    from vm_jit.chaos import ChaosEngine

PROGRAMS = tuple(
    os.environ.get(
        "VM_CHAOS_PROGRAMS",
        "bytecode,compress,coremix,faults,fenv,fib,floats,icall,intops,longjmp,misalign,mmap,quicksort,selfmod,"
        "sha256,signals,strings,threads",
    ).split(",")
)
TIERS: dict[str, dict[str, Any]] = {
    "interp": {"jit": False, "baseline": False, "every": 20_000},
    "baseline": {"jit": False, "synchronous": True, "eager": True, "every": 20_000, "code_memory": 60_000},
    # Each loss costs LLVM's time.
    "jit": {"baseline": False, "synchronous": True, "every": 1_000_000, "code_memory": 200_000},
    "auto": {"every": 100_000, "code_memory": 200_000},
}


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_lose_code(
    program: str, tier: str, guests: Guests, qemu: Oracle, tmp_path: Path
) -> None:
    from vm_jit.chaos import ChaosEngine

    made: list[ChaosEngine] = []

    def engine(isa: Isa, memory: GuestMemory) -> ChaosEngine:
        made.append(ChaosEngine(isa, memory, seed=len(program), **TIERS[tier]))
        return made[-1]

    argv = [str(guests.path(program, "O2")), *guests.arguments(program, "small")]
    want = qemu.run(argv, cwd=tmp_path)
    got = run(argv, engine=engine, capture_output=True, env={}, cwd=tmp_path, timeout=120)
    assert (got.returncode, got.stdout, got.stderr) == (want.status, want.stdout, want.stderr), got.message
    # Short programs may end before they lose anything.
    if got.instructions > 20 * TIERS[tier]["every"]:
        assert made[0].invalidations + made[0].evictions
