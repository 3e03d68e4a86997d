"""A bare machine without an operating system: run a loop, watch its stores, and answer its system call.

The program stores the squares of 1 to 5 and then asks for system call 7.
"""

from __future__ import annotations

from vm_core import isa as isas
from vm_core.machine import Machine
from vm_core.memory import Access

PROGRAM = """
    addi t0, t0, 1
    mul t1, t0, t0
    sd t1, 0(a0)
    addi a0, a0, 8
    bne t0, a1, -16
    addi a7, zero, 7
    ecall
"""
CODE, DATA = 0x1000, 0x2000


def main() -> None:
    rv64 = isas.get("rv64")
    code = b"".join(rv64.assemble(line.strip()) for line in PROGRAM.strip().splitlines())
    with Machine("riscv64") as machine:
        machine.map(CODE, 0x1000, code)
        machine.map(DATA, 0x1000)

        def stored(_machine: Machine, _access: Access, address: int, size: int, value: int | None) -> None:
            print(f"{size} bytes at {address:#x}: {value}")

        machine.hook_memory(stored)
        machine.pc, machine["a0"], machine["a1"] = CODE, DATA, 5
        stopped = machine.run(limit=1000)
        print(f"{type(stopped).__name__} {machine['a7']}")


if __name__ == "__main__":
    main()
