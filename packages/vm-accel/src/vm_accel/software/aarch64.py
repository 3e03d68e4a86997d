"""AArch64 at EL1 without translation: WFI, and calls of the firmware (PSCI, Arm DEN 0022F).

Exceptions have nowhere to go: system registers are kept as they are set, but no instruction reads them (DDI 0487K, D1.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vm_accel.exits import Exit, Halt, Hypercall, HypercallAbi, Shutdown, ShutdownKind
from vm_accel.hvf import psci
from vm_accel.hvf.abi import SYSTEM_REGISTERS
from vm_accel.interface import Bus, Feature
from vm_accel.pending import ONES
from vm_accel.software.architecture import undecoded
from vm_core.engine import Trap
from vm_core.spec.isa import Isa
from vm_core.state import CpuState

if TYPE_CHECKING:
    from vm_accel.software.vcpu import SoftwareVcpu

__all__ = ["Aarch64"]

_WFI, _WFE = 0xD503_207F, 0xD503_205F
_CALLS: Final = {0xD400_0002: "HVC", 0xD400_0003: "SMC"}
"""Without their immediate, bits 20:5."""
_FLAGS: Final = (("v", 28), ("c", 29), ("z", 30), ("n", 31))
_RESET_PSTATE: Final = 0x3C5
"""EL1 with its own stack, all interrupts masked (D1.3.6)."""
_ENDS: Final = {
    psci.Call.SYSTEM_OFF: ShutdownKind.OFF,
    psci.Call.SYSTEM_RESET: ShutdownKind.RESET,
    psci.Call.SYSTEM_RESET2: ShutdownKind.RESET,
}


class Aarch64:
    """See :class:`vm_accel.software.architecture.Architecture`."""

    isa, pc = "aarch64", "pc"
    features = frozenset({Feature.HYPERCALL})
    most_stops = 16
    names = (
        *(f"x{i}" for i in range(31)), "sp", "pc", "pstate", "fpcr", "fpsr", *(f"v{i}" for i in range(32)), *SYSTEM_REGISTERS,
    )  # fmt: skip

    def reset(self, cpu: CpuState, index: int) -> dict[str, int]:
        stored = dict.fromkeys(SYSTEM_REGISTERS, 0) | {"pstate": _RESET_PSTATE}
        return stored | {"mpidr_el1": 1 << 31 | index}

    def bits(self, name: str) -> int:
        if name in ("pstate", "fpcr", "fpsr"):
            return 32
        if name not in _KNOWN:
            raise KeyError(name)
        return 128 if name[0] == "v" and name[1:].isdigit() else 64

    def get(self, cpu: CpuState, stored: dict[str, int], name: str) -> int:
        if name == "pc":
            return cpu.pc
        if name == "pstate":
            return stored[name] | sum(cpu[flag] << bit for flag, bit in _FLAGS)
        if name == "fpcr":
            return cpu.header("fp_rounding") << 22
        if name == "fpsr":
            return cpu.header("fp_flags")
        return cpu[name] if name in cpu else stored[name]

    def put(self, cpu: CpuState, stored: dict[str, int], name: str, value: int) -> None:
        if name == "pc":
            cpu.pc = value
        elif name == "pstate":
            stored[name] = value & 0x0FFF_FFFF
            for flag, bit in _FLAGS:
                cpu[flag] = value >> bit & 1
        elif name == "fpcr":
            cpu.header("fp_rounding", value >> 22 & 3)
        elif name == "fpsr":
            cpu.header("fp_flags", value)
        elif name in cpu:
            cpu[name] = value
        else:
            stored[name] = value

    def trap(self, vcpu: SoftwareVcpu, trap: Trap, bus: Bus | None) -> Exit | None:
        word = int.from_bytes(vcpu.code()[:4], "little")
        if word in (_WFI, _WFE):
            vcpu.cpu.pc += 4
            return Halt() if word == _WFI else None
        if word & ~(0xFFFF << 5) in _CALLS:
            return self._firmware(vcpu)
        return vcpu.refused(f"an exception ({trap.cause.value}), or an instruction that vm has no text of")

    def call(self, vcpu: SoftwareVcpu) -> Exit | None:
        vcpu.cpu.pc -= 4
        return vcpu.refused("a system call, with no exception level to take it")

    def _firmware(self, vcpu: SoftwareVcpu) -> Exit | None:
        cpu = vcpu.cpu
        number = cpu["x0"]
        call = psci.Call.of(number)
        if call in _ENDS:
            cpu.pc += 4
            return Shutdown(_ENDS[call])
        if call is psci.Call.VERSION:
            cpu["x0"] = psci.VERSION
            cpu.pc += 4
            return None

        def answer(value: int | bytes, _fault: bool) -> None:
            # Nobody answered: NOT_SUPPORTED, which is all ones too.
            cpu["x0"] = (value if isinstance(value, int) else int.from_bytes(value, "little")) & ONES
            cpu.pc += 4

        vcpu.pending.expect(answer)
        return Hypercall(HypercallAbi.PSCI, number, tuple(cpu[f"x{i}"] for i in range(1, 4)))

    def can_interrupt(self, vcpu: SoftwareVcpu) -> bool:
        return False

    def interrupt(self, vcpu: SoftwareVcpu, vector: int) -> Exit | None:
        raise AssertionError("no interrupt is ever taken")

    def lacks(self, text: Isa, code: bytes, at: int) -> list[str]:
        return [f"a text of {rest[:4].hex()}" for rest in undecoded(text, code, at, _length)]


_KNOWN: Final = frozenset(Aarch64.names)


def _length(code: bytes) -> int:
    word = int.from_bytes(code[:4], "little")
    return 4 if word in (_WFI, _WFE) or word & ~(0xFFFF << 5) in _CALLS else 0
