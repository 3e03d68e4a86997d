"""AArch64 loads and stores by their text in vm_core.isa: what a hypervisor reports without a decoded instruction (ISV = 0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from vm_accel.completion import Guest, Steps, by_text
from vm_core.isa import get
from vm_core.state import CpuState

__all__ = ["Registers", "prepare"]

_SIMD: Final = 1 << 26
"""Bit V of every load and store: its data registers are vectors (C4.1.94)."""
_NZCV: Final = ("n", "z", "c", "v")


class Registers(Protocol):
    """What is needed of the vCPU: ``x0`` to ``x30``, ``sp``, ``pc``, ``pstate``, ``v0`` to ``v31``."""

    def __getitem__(self, name: str) -> int: ...
    def put(self, name: str, value: int) -> None:
        """As part of an instruction."""


def prepare(code: bytes, registers: Registers, guest: Guest) -> tuple[Steps, Callable[[], None]]:
    """The instruction ``code`` at the pc as its accesses, and what hands its results back when they are done."""
    isa = get("aarch64")
    cpu = CpuState(isa.layout)
    vectors = bool(int.from_bytes(code[:4], "little") & _SIMD)
    names = [f"x{i}" for i in range(31)] + ["sp"]
    before = {name: registers[name] for name in names}
    if vectors:
        before |= {f"v{i}": registers[f"v{i}"] for i in range(32)}
    for name, value in before.items():
        cpu[name] = value
    flags = registers["pstate"] >> 28
    for bit, name in enumerate(reversed(_NZCV)):
        cpu[name] = flags >> bit & 1
    cpu.pc = registers["pc"]

    def commit() -> None:
        for name, value in before.items():
            if cpu[name] != value:
                registers.put(name, cpu[name])
        registers.put("pc", cpu.pc)

    return by_text(isa, code, guest, cpu), commit
