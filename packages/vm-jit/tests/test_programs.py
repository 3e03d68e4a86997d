"""Whole random programs on the native engines: what they write is what qemu-riscv64 writes."""

from __future__ import annotations

import os

import pytest

from vm_core.engine import Engine
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa
from vm_core.testing import EngineFactory, differential
from vm_jit.engine import BaselineEngine, InterpreterEngine, NativeEngine

COUNT = int(os.environ.get("VM_ORACLE_COUNT", "350000"))


def interpreter(isa: Isa, memory: GuestMemory) -> Engine:
    return InterpreterEngine(isa, memory)


def baseline(isa: Isa, memory: GuestMemory) -> Engine:
    return BaselineEngine(isa, memory, synchronous=True, eager=True)


def eager(isa: Isa, memory: GuestMemory) -> Engine:
    """Everything that jumps twice is compiled, at once."""
    return NativeEngine(isa, memory, synchronous=True, eager=True)


def background(isa: Isa, memory: GuestMemory) -> Engine:
    """As users have it: regions appear while the program runs."""
    return NativeEngine(isa, memory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "rounds"), [(interpreter, 1), (baseline, 40), (eager, 40), (background, 40)]
)
def test_programs_do_what_qemu_does(factory: EngineFactory, rounds: int) -> None:
    """Without qemu the reference executor gives the answers, which takes some ten seconds more."""
    found = differential(factory, seed=rounds, count=COUNT, rounds=rounds)
    assert found is None, str(found)
