"""What the tests of several back ends play with: memory that counts who holds it, and a bus that notes what it is asked."""

from __future__ import annotations

import mmap
from typing import Final

from vm_accel.foreign import ffi

__all__ = ["Bus", "Ram"]

_ALIGNMENT: Final = 0x4000
"""Bytes: the largest page of the hosts."""


class Ram:
    """Memory that a VM shows from the guest's ``base`` on (:class:`vm_accel.interface.Memory`)."""

    def __init__(self, size: int, base: int = 0) -> None:
        self.size, self.base, self.held = size, base, 0
        self._map = mmap.mmap(-1, size + _ALIGNMENT)
        # SAFETY: only the number is kept, as long as this object and so the mapping lives.
        start = int(ffi.cast("uintptr_t", ffi.from_buffer(self._map)))
        self._skip = -start % _ALIGNMENT
        self.address = start + self._skip

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1

    def put(self, guest: int, data: bytes) -> None:
        at = guest - self.base + self._skip
        self._map[at : at + len(data)] = data

    def get(self, guest: int, size: int) -> bytes:
        at = guest - self.base + self._skip
        return self._map[at : at + size]


class Bus:
    """Every read gives ones in all hexadecimal digits, a port's twos; ``seen`` has what came, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | int, ...]] = []

    def read(self, address: int, size: int) -> int:
        self.seen.append(("r", address, size))
        return 0x1111_1111_1111_1111 & (1 << 8 * size) - 1

    def write(self, address: int, size: int, value: int) -> None:
        self.seen.append(("w", address, size, value))

    def port_in(self, port: int, size: int) -> int:
        self.seen.append(("in", port, size))
        return 0x2222_2222 & (1 << 8 * size) - 1

    def port_out(self, port: int, size: int, value: int) -> None:
        self.seen.append(("out", port, size, value))
