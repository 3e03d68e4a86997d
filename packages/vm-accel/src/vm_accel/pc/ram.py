"""Guest-physical memory, and the only way to it for devices and the boot: views of ranges that were checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vm_accel.memory import HostMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DEVICES", "HIGH", "LOW_END", "OutsideOfMemory", "Ram"]

LOW_END: Final = 0xC000_0000
"""RAM ends here below 4 GiB: above it are devices, the I/O APIC and the local APICs."""
DEVICES: Final = 0xD000_0000
"""Where virtio devices begin, a page each."""
HIGH: Final = 1 << 32
"""What does not fit below LOW_END goes on here."""


class OutsideOfMemory(ValueError):
    """A guest named bytes that are not all RAM."""


class Ram:
    """``memory`` as a guest sees it: from 0 on, with the hole for devices."""

    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory
        self.size = memory.size
        self._low = min(memory.size, LOW_END)

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Guest-physical address, offset in ``memory``, bytes."""
        yield 0, 0, self._low
        if self.size > self._low:
            yield HIGH, self._low, self.size - self._low

    def view(self, address: int, length: int) -> memoryview:
        """These bytes themselves, to read and to write. Raises OutsideOfMemory unless all of them are RAM."""
        if address >= 0 and length >= 0:
            if address + length <= self._low:
                return self.memory.view[address : address + length]
            at = address - HIGH + self._low
            if address >= HIGH and at + length <= self.size:
                return self.memory.view[at : at + length]
        raise OutsideOfMemory(f"{length} bytes at {address:#x} are not the guest's memory")

    def read(self, address: int, length: int) -> bytes:
        """A copy."""
        return bytes(self.view(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` there."""
        self.view(address, len(data))[:] = data

    def read_int(self, address: int, size: int) -> int:
        """A little-endian integer of ``size`` bytes, read once."""
        return int.from_bytes(self.view(address, size), "little")
