"""The reference executor keeps the engine contract, for each instruction set."""

from __future__ import annotations

from vm_core.engine import Engine
from vm_core.execute import ReferenceEngine
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa
from vm_core.testing.engine_suite import EngineSuite


class _Reference(EngineSuite):
    samples = 2
    blocks = 4

    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        return ReferenceEngine(isa, memory)


class TestRiscV(_Reference):
    isa_name = "riscv64"


class TestAArch64(_Reference):
    isa_name = "aarch64"


class TestX86(_Reference):
    isa_name = "x86_64"
