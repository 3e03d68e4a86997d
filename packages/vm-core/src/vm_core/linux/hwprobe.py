"""riscv_hwprobe(2): what a program may ask about the processor.

Linux 6.x: Documentation/arch/riscv/hwprobe.rst, arch/riscv/kernel/sys_hwprobe.c.
"""

from __future__ import annotations

import errno
import struct

from vm_core.hints import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["probe"]

_BASE_BEHAVIOR, _IMA_EXT_0, _HIGHEST_VIRT_ADDRESS = 3, 4, 7
_BITS: Final = (_BASE_BEHAVIOR, _IMA_EXT_0)
"""The keys whose values are sets of bits: any subset of them is what a processor has."""
_FD, _C, _ZBA, _ZBB, _ZBS, _ZCA, _ZCD = 0, 1, 3, 4, 5, 43, 45
_VALUES: Final = {
    0: 0,  # mvendorid, marchid, mimpid
    1: 0,
    2: 0,
    _BASE_BEHAVIOR: 1,  # IMA
    _IMA_EXT_0: sum(1 << bit for bit in (_FD, _C, _ZBA, _ZBB, _ZBS, _ZCA, _ZCD)),
    5: 3,  # CPUPERF_0: misaligned accesses are fast
    6: 0,  # no Zicboz, and so no block size
    8: 1_000_000_000,  # the time CSR counts nanoseconds
    9: 3,  # MISALIGNED_SCALAR_PERF: fast
    10: 4,  # MISALIGNED_VECTOR_PERF: unsupported
    12: 0,  # no Zicbom
}
_WHICH_CPUS: Final = 1
_MOST: Final = 1 << 16
_PAIR: Final = struct.Struct("<qQ")


def probe(t: GuestThread, pairs: int, count: int, size: int, cpus: int, flags: int) -> int:
    """All processors are alike, so each is asked for what is one's."""
    if flags & ~_WHICH_CPUS or count > _MOST:
        return -errno.EINVAL
    values = {**_VALUES, _HIGHEST_VIRT_ADDRESS: t.memory.size - 1}
    online = (1 << t.process.cpus) - 1
    if flags & _WHICH_CPUS:
        return _which(t, pairs, count, size, cpus, values, online)
    if size or cpus:
        mask = int.from_bytes(t.memory.read(cpus, min(size, 1024)), "little")
        if not mask & online:
            return -errno.EINVAL
    out = bytearray(t.memory.read(pairs, _PAIR.size * count))
    for at in range(0, len(out), _PAIR.size):
        key, _ = _PAIR.unpack_from(out, at)
        _PAIR.pack_into(out, at, key if key in values else -1, values.get(key, 0))
    t.memory.write(pairs, out)
    return 0


def _which(
    t: GuestThread, pairs: int, count: int, size: int, cpus: int, values: dict[int, int], online: int
) -> int:
    """Take the processors that are not as the pairs say out of the set; an empty set means all that there are."""
    if not size or not cpus:
        return -errno.EINVAL
    size = min(size, 1024)
    mask = int.from_bytes(t.memory.read(cpus, size), "little") or online
    mask &= online
    out = bytearray(t.memory.read(pairs, _PAIR.size * count))
    for at in range(0, len(out), _PAIR.size):
        key, wanted = _PAIR.unpack_from(out, at)
        if key not in values:
            _PAIR.pack_into(out, at, -1, 0)
            mask = 0
        elif (values[key] & wanted if key in _BITS else values[key]) != wanted:
            mask = 0
    t.memory.write(pairs, out)
    t.memory.write(cpus, mask.to_bytes(max(size, (mask.bit_length() + 7) // 8), "little")[:size])
    return 0
