"""The guest's own translation of addresses (stage 1), for accesses that we do in its place. DDI 0487K, D8.2 and D8.3.

Not as in the manual: neither access flags nor dirty bits are set, and permissions are looked at for writes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vm_accel.completion import Fault

__all__ = ["translate"]

_GRANULES_0: Final = {0: 12, 1: 16, 2: 14}  # TCR_EL1.TG0
_GRANULES_1: Final = {1: 14, 2: 12, 3: 16}  # TCR_EL1.TG1


def translate(
    address: int,
    *,
    is_write: bool,
    control: int,
    tcr: int,
    ttbr0: int,
    ttbr1: int,
    read: Callable[[int], int | None],
) -> int:
    """Guest-virtual to guest-physical. ``control`` is SCTLR_EL1; ``read`` gives the descriptor at a guest-physical address, None
    where there is no memory. Raises Fault."""
    if not control & 1:
        return address
    upper = bool(address >> 55 & 1)
    size = tcr >> (16 if upper else 0) & 63
    ignore = tcr >> (38 if upper else 37) & 1
    disabled = tcr >> (23 if upper else 7) & 1
    granule = _GRANULES_1.get(tcr >> 30 & 3, 12) if upper else _GRANULES_0.get(tcr >> 14 & 3, 12)
    bits = 64 - size
    top = address >> bits if not ignore else (address & (1 << 56) - 1) >> bits
    expected = ((1 << (56 if ignore else 64) - bits) - 1) if upper else 0
    if disabled or top != expected or not 25 <= bits <= 48:
        raise Fault(address, is_write=is_write)
    table = (ttbr1 if upper else ttbr0) & ((1 << 48) - 1) & ~1
    # Each level resolves this many bits; the first one what is left.
    step = granule - 3
    level = 4 - -(-(bits - granule) // step)
    read_only = False
    while True:
        shift = granule + step * (3 - level)
        count = min(step, bits - shift)
        index = address >> shift & (1 << count) - 1
        entry = read((table & ~((1 << min(granule, count + 3)) - 1)) + 8 * index)
        if entry is None or not entry & 1 or (level == 3 and not entry & 2):
            raise Fault(address, is_write=is_write)
        if level == 3 or not entry & 2:
            if level == 0 or (level == 1 and granule != 12):
                raise Fault(address, is_write=is_write)
            read_only |= bool(entry & 1 << 7)
            if read_only and is_write:
                raise Fault(address, is_write=True)
            mask = (1 << shift) - 1
            return entry & ((1 << 48) - 1) & ~mask | address & mask
        read_only |= bool(entry & 1 << 62)  # APTable[1]
        table = entry & ((1 << 48) - 1) & ~((1 << granule) - 1)
        level += 1
