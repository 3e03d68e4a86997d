"""The native interpreter and the JIT keep the engine contract, for each instruction set."""

from __future__ import annotations

from pathlib import Path

from vm_core.engine import Engine
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa
from vm_core.testing.engine_suite import CODE, EngineSuite, Machine
from vm_jit.engine import BaselineEngine, InterpreterEngine, NativeEngine

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


class TestRiscVBaseline(EngineSuite):
    """The tier between: everything is compiled when it is first met."""

    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"

    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return BaselineEngine(isa, memory, synchronous=True, eager=True)

    def _same(
        self, mine: Machine, expected: Machine, code: bytes, content: bytes, limit: int, at: int = CODE
    ) -> str:
        # A unit does no block that would use up the budget, so what is done once is followed by something.
        if limit == 1:
            code, limit = code + self.code("addi t3, t3, 1", "ecall"), 20
        return super()._same(mine, expected, code, content, limit, at)


class TestRiscVJit(_Jit):
    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"
    samples = 1


class TestRiscVRegions(EngineSuite):
    """Regions without the baseline tier below them."""

    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"
    samples = 1

    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return NativeEngine(isa, memory, synchronous=True, eager=True, baseline=False)


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
