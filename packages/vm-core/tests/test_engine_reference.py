"""The reference executor keeps the engine contract, for each instruction set."""

from __future__ import annotations

from pathlib import Path

from vm_core.engine import Engine
from vm_core.execute import ReferenceEngine
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa
from vm_core.testing.engine_suite import EngineSuite

CASES = Path(__file__).parent / "cases"


class _Reference(EngineSuite):
    samples = 2
    blocks = 4

    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return ReferenceEngine(isa, memory)


class TestRiscV(_Reference):
    isa_name = "riscv64"
    cases = CASES / "riscv64.txt"


class TestAArch64(_Reference):
    isa_name = "aarch64"
    cases = CASES / "aarch64.txt"


class TestX86(_Reference):
    isa_name = "x86_64"
    cases = CASES / "x86_64.txt"
