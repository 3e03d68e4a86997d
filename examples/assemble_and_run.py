"""Assemble a few RISC-V instructions, run them on the reference executor, and look at the registers.

Euclid's algorithm on 1071 and 462: the answer is 21.
"""

from __future__ import annotations

from vm_core import isa as isas
from vm_core.engine import Trap
from vm_core.execute import ReferenceEngine
from vm_core.memory import GuestMemory, Prot

PROGRAM = """
    beq a1, zero, 20
    rem a2, a0, a1
    addi a0, a1, 0
    addi a1, a2, 0
    beq zero, zero, -16
    ebreak
"""


def main() -> None:
    rv64 = isas.get("rv64")
    # A branch's operand is its distance in bytes here: 20 bytes on from the first instruction is the ebreak.
    code = b"".join(rv64.assemble(line.strip()) for line in PROGRAM.strip().splitlines())
    with GuestMemory() as memory:
        memory.map(0x1000, 0x1000, Prot.RX)
        memory.poke(0x1000, code)
        cpu = rv64.cpu()
        cpu.pc, cpu["a0"], cpu["a1"] = 0x1000, 1071, 462
        stopped = ReferenceEngine(rv64, memory).run(cpu, memory, 1000)
        assert isinstance(stopped, Trap)
        print(f"stopped by {stopped.cause.name.lower()} at {stopped.pc:#x}")
        print(f"a0 = {cpu['a0']}")


if __name__ == "__main__":
    main()
