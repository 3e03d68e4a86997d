"""What differs between the ISAs of a software vCPU: names of registers, and what a trap means that no program's text covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from vm_core.errors import DecodeError

if TYPE_CHECKING:
    from vm_accel.exits import Exit
    from vm_accel.interface import Bus, Feature
    from vm_accel.software.vcpu import SoftwareVcpu
    from vm_core.engine import Trap
    from vm_core.spec.isa import Decoded, Isa
    from vm_core.state import CpuState

__all__ = ["Architecture", "undecoded"]

Stored = dict[str, int]
"""Registers that the engine does not know: by name, at their reset values."""


class Architecture(Protocol):
    """One ISA. It has no state; a vCPU's is in its CpuState and its ``stored``."""

    isa: str
    pc: str
    features: frozenset[Feature]
    most_stops: int
    """Breakpoints and watchpoints at once."""
    names: tuple[str, ...]
    """Registers with a fixed name."""

    def reset(self, cpu: CpuState, index: int) -> Stored:
        """The state after reset of the vCPU of that number."""

    def bits(self, name: str) -> int:
        """The width of a register. KeyError if there is none of that name."""

    def get(self, cpu: CpuState, stored: Stored, name: str) -> int: ...
    def put(self, cpu: CpuState, stored: Stored, name: str, value: int) -> None: ...

    def trap(self, vcpu: SoftwareVcpu, trap: Trap, bus: Bus | None) -> Exit | None:
        """A trap that is no access to memory. None: the vCPU goes on."""

    def call(self, vcpu: SoftwareVcpu) -> Exit | None:
        """The instruction that calls an operating system has retired."""

    def can_interrupt(self, vcpu: SoftwareVcpu) -> bool:
        """Whether the guest takes interrupts now."""

    def interrupt(self, vcpu: SoftwareVcpu, vector: int) -> Exit | None:
        """Deliver one."""

    def lacks(self, text: Isa, code: bytes, at: int) -> list[str]:
        """See :meth:`vm_accel.software.hypervisor.Software.lacks`."""


def undecoded(text: Isa, code: bytes, at: int, length: Callable[[bytes], int]) -> Iterator[bytes]:
    """Instructions that have no text and of which ``length`` does not know either how long they are (0), each from its first byte
    on. Only the first is known: what follows cannot be found."""
    offset = 0
    while offset < len(code):
        rest = code[offset:]
        size = length(rest)
        if not size:
            try:
                insn: Decoded = text.decode(rest, at + offset)
                insn.template  # noqa: B018  trace now: an Unimplemented is a decode error
            except DecodeError:
                yield rest
                return
            size = insn.length
        offset += size
