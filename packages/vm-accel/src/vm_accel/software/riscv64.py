"""riscv64 in supervisor mode without translation: WFI, and ECALL as a call of the firmware (SBI).

Traps have nowhere to go: CSRs of the supervisor are kept as they are set, but no instruction reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vm_accel.exits import Exit, Halt, Hypercall, HypercallAbi
from vm_accel.interface import Bus, Feature
from vm_accel.pending import ONES
from vm_accel.software.architecture import undecoded
from vm_core.engine import Trap
from vm_core.spec.isa import Isa
from vm_core.state import CpuState

if TYPE_CHECKING:
    from vm_accel.software.vcpu import SoftwareVcpu

__all__ = ["Riscv64"]

_WFI: Final = 0x1050_0073
_CSRS: Final = (
    "sstatus",
    "sie",
    "stvec",
    "sscratch",
    "sepc",
    "scause",
    "stval",
    "sip",
    "satp",
    "scounteren",
    "mode",
)
_NOT_SUPPORTED: Final = (1 << 64) - 2
"""SBI specification 2.0, 3.1."""


class Riscv64:
    """See :class:`vm_accel.software.architecture.Architecture`."""

    isa, pc = "riscv64", "pc"
    features = frozenset({Feature.HYPERCALL})
    most_stops = 16
    names = (*(f"x{i}" for i in range(32)), "pc", "fcsr", *(f"f{i}" for i in range(32)), *_CSRS)

    def reset(self, cpu: CpuState, index: int) -> dict[str, int]:
        cpu["x10"] = index  # a0, as firmware leaves the hart's number
        return dict.fromkeys(_CSRS, 0) | {"mode": 1}

    def bits(self, name: str) -> int:
        if name not in _KNOWN:
            raise KeyError(name)
        return {"fcsr": 8, "mode": 2}.get(name, 64)

    def get(self, cpu: CpuState, stored: dict[str, int], name: str) -> int:
        if name == "pc":
            return cpu.pc
        if name == "fcsr":
            return cpu.header("fp_rounding") << 5 | cpu.header("fp_flags")
        return stored[name] if name in _CSRS else cpu[name]

    def put(self, cpu: CpuState, stored: dict[str, int], name: str, value: int) -> None:
        if name == "pc":
            cpu.pc = value
        elif name == "fcsr":
            cpu.header("fp_rounding", value >> 5)
            cpu.header("fp_flags", value & 31)
        elif name in _CSRS:
            stored[name] = value
        else:
            cpu[name] = value

    def trap(self, vcpu: SoftwareVcpu, trap: Trap, bus: Bus | None) -> Exit | None:
        if int.from_bytes(vcpu.code()[:4], "little") == _WFI:
            vcpu.cpu.pc += 4
            return Halt()
        return vcpu.refused(f"a trap ({trap.cause.value}), or an instruction that vm has no text of")

    def call(self, vcpu: SoftwareVcpu) -> Exit | None:
        cpu = vcpu.cpu
        cpu.pc -= 4

        def answer(value: int | bytes, _fault: bool) -> None:
            number = value if isinstance(value, int) else int.from_bytes(value, "little")
            # Not supported, unless somebody answers.
            cpu["a0"], cpu["a1"] = (_NOT_SUPPORTED, 0) if number == ONES else (0, number & ONES)
            cpu.pc += 4

        vcpu.pending.expect(answer)
        number = cpu["a7"] << 32 | cpu["a6"]
        return Hypercall(HypercallAbi.SBI, number, tuple(cpu[f"a{i}"] for i in range(6)))

    def can_interrupt(self, vcpu: SoftwareVcpu) -> bool:
        return False

    def interrupt(self, vcpu: SoftwareVcpu, vector: int) -> Exit | None:
        raise AssertionError("no interrupt is ever taken")

    def lacks(self, text: Isa, code: bytes, at: int) -> list[str]:
        return [f"a text of {rest[:4].hex()}" for rest in undecoded(text, code, at, _length)]


_KNOWN: Final = frozenset(Riscv64.names)


def _length(code: bytes) -> int:
    return 4 if int.from_bytes(code[:4], "little") == _WFI else 0
