"""The native interpreter and the JIT keep the engine contract, for each instruction set."""

from __future__ import annotations

from pathlib import Path

from vm_core.engine import Engine
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa
from vm_core.testing.engine_suite import EngineSuite
from vm_jit.engine import InterpreterEngine, NativeEngine

CASES = Path(__file__).parents[2] / "vm-core" / "tests" / "cases"


class _Interpreter(EngineSuite):
    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return InterpreterEngine(isa, memory)


class _Jit(EngineSuite):
    """Everything that jumps twice is compiled, at once."""

    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return NativeEngine(isa, memory, synchronous=True, eager=True)


class TestRiscVInterpreter(_Interpreter):
    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"


class TestRiscVJit(_Jit):
    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"
    samples = 1


class TestAArch64Interpreter(_Interpreter):
    isa_name = "aarch64"
    cases = CASES / "aarch64.txt"


class TestAArch64Jit(_Jit):
    isa_name = "aarch64"
    cases = CASES / "aarch64.txt"
    samples = 1


class TestX86Interpreter(_Interpreter):
    isa_name = "x86_64"
    cases = CASES / "x86_64.txt"


class TestX86Jit(_Jit):
    isa_name = "x86_64"
    cases = CASES / "x86_64.txt"
    samples = 1
