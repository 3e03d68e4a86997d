"""What tests of engines and of plugins share: random programs, and the means to run them here and elsewhere."""

from vm_core.testing.random_programs import compare, random_block, random_state, random_value
from vm_core.testing.riscv_batch import Batch, EngineFactory, Mismatch, differential, qemu

__all__ = [
    "Batch",
    "EngineFactory",
    "Mismatch",
    "compare",
    "differential",
    "qemu",
    "random_block",
    "random_state",
    "random_value",
]
