"""x86-64 registers by the names of :mod:`vm_accel.interface`, in the structures that KVM moves them in.

The general ones have no place here: they lie in the page that is shared with KVM (KVM_CAP_SYNC_REGS), see
:mod:`vm_accel.kvm.vcpu`. All others cost an ioctl to read, and two to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from vm_accel.errors import HypervisorError
from vm_accel.kvm.kernel import Kernel, call, ffi
from vm_accel.kvm.x86 import SEGMENTS, SYSTEM, TABLES

__all__ = ["PLACES", "Place", "Structures", "msr_number"]

_XSTATE_BV: Final = 512
"""Offset of the bits that say which parts of the XSAVE area count (SDM volume 1, 13.4.2)."""
_X87, _SSE, _AVX = 1, 2, 4
_TYPES: Final = {"lapic": "lapic_state"}
"""Structures that are not called as their ioctls are."""


class Place(NamedTuple):
    """Where a register lies: the structure, its width in bits, and how to get at it there."""

    structure: str
    bits: int
    get: Callable[[Any], int]
    put: Callable[[Any, int], None]


def _field(structure: str, name: str, bits: int) -> Place:
    return Place(structure, bits, lambda s: int(getattr(s, name)), lambda s, value: setattr(s, name, value))


def _part(structure: str, outer: str, name: str, bits: int) -> Place:
    return Place(
        structure,
        bits,
        lambda s: int(getattr(getattr(s, outer), name)),
        lambda s, value: setattr(getattr(s, outer), name, value),
    )


def _access(segment: str) -> Place:
    """The attributes as one number, as in a VMCS (SDM volume 3, table 24-2)."""

    def get(s: Any) -> int:
        d = getattr(s, segment)
        return int(
            d.type | d.s << 4 | d.dpl << 5 | d.present << 7 | d.avl << 12
            | d.l << 13 | d.db << 14 | d.g << 15 | d.unusable << 16
        )  # fmt: skip

    def put(s: Any, value: int) -> None:
        d = getattr(s, segment)
        d.type, d.s, d.dpl, d.present = value & 15, value >> 4 & 1, value >> 5 & 3, value >> 7 & 1
        d.avl, d.l, d.db, d.g = value >> 12 & 1, value >> 13 & 1, value >> 14 & 1, value >> 15 & 1
        d.unusable = value >> 16 & 1

    return Place("sregs", 17, get, put)


def _saved(offset: int, length: int, part: int) -> Place:
    """A value in the XSAVE area. KVM fills in what is in its initial state; what is written must be marked as present, or XRSTOR
    ignores it (so KVM_SET_FPU, which does not, is of no use before the guest's first instruction)."""

    def get(s: Any) -> int:
        return int.from_bytes(ffi.buffer(ffi.cast("uint8_t *", s) + offset, length), "little")

    def put(s: Any, value: int) -> None:
        area = ffi.cast("uint8_t *", s)
        ffi.memmove(area + offset, value.to_bytes(length, "little"), length)
        area[_XSTATE_BV] |= part

    return Place("xsave", 8 * length, get, put)


def _debug(index: int) -> Place:
    return Place("debugregs", 64, lambda s: int(s.db[index]), lambda s, value: s.db.__setitem__(index, value))


def _xcr0() -> Place:
    def get(s: Any) -> int:
        return next((int(s.xcrs[i].value) for i in range(s.nr_xcrs) if s.xcrs[i].xcr == 0), 1)

    def put(s: Any, value: int) -> None:
        s.nr_xcrs, s.xcrs[0].xcr, s.xcrs[0].value = 1, 0, value

    return Place("xcrs", 64, get, put)


def _places() -> dict[str, Place]:
    out = {name: _field("sregs", name, 64) for name in SYSTEM}
    for name in SEGMENTS:
        out[f"{name}.base"] = _part("sregs", name, "base", 64)
        out[f"{name}.limit"] = _part("sregs", name, "limit", 32)
        out[f"{name}.selector"] = _part("sregs", name, "selector", 16)
        out[f"{name}.access"] = _access(name)
    for name in TABLES:
        out[f"{name}.base"] = _part("sregs", name, "base", 64)
        out[f"{name}.limit"] = _part("sregs", name, "limit", 16)
    out |= {f"dr{i}": _debug(i) for i in range(4)}
    out |= {name: _field("debugregs", name, 64) for name in ("dr6", "dr7")}
    out["xcr0"] = _xcr0()
    # The legacy region and the first extended one (SDM volume 1, 10.5.1 and 13.5.3).
    for name, offset, length in (
        ("fcw", 0, 2), ("fsw", 2, 2), ("ftw", 4, 1), ("fop", 6, 2), ("fip", 8, 8), ("fdp", 16, 8),
    ):  # fmt: skip
        out[name] = _saved(offset, length, _X87)
    out["mxcsr"] = _saved(24, 4, _SSE)
    out |= {f"st{i}": _saved(32 + 16 * i, 10, _X87) for i in range(8)}
    out |= {f"xmm{i}": _saved(160 + 16 * i, 16, _SSE) for i in range(16)}
    return out | {f"ymmh{i}": _saved(576 + 16 * i, 16, _AVX) for i in range(16)}


PLACES: Final[dict[str, Place]] = _places()


def msr_number(name: str) -> int:
    """The number in ``msr.0xc0000082``. KeyError if the name is of another form."""
    head, _, number = name.partition(".")
    try:
        value = int(number, 0)
    except ValueError:
        value = -1
    if head != "msr" or not 0 <= value < 1 << 32:
        raise KeyError(name)
    return value


class Structures:
    """The structures of one vCPU: read when a register of theirs is asked for, and again after each ``forget``."""

    def __init__(self, kernel: Kernel, fd: int, *, xsave_bytes: int, extended: bool) -> None:
        self._kernel, self._fd = kernel, fd
        self.cache: dict[str, Any] = {}
        self._own: dict[str, Any] = {}
        self._xsave_bytes = xsave_bytes
        self._xsave2 = extended

    def forget(self) -> None:
        """The vCPU ran."""
        self.cache.clear()

    def get(self, structure: str) -> Any:
        found = self.cache.get(structure)
        if found is None:
            found = self._own.get(structure)
            if found is None:
                found = self._own[structure] = self._new(structure)
            name = (
                "KVM_GET_XSAVE2" if structure == "xsave" and self._xsave2 else f"KVM_GET_{structure.upper()}"
            )
            call(self._kernel, self._fd, name, found)
            if structure == "xcrs" and found.nr_xcrs > 16:
                raise HypervisorError(
                    f"KVM_GET_XCRS gave {found.nr_xcrs} registers, not at most 16", call="KVM_GET_XCRS"
                )
            self.cache[structure] = found
        return found

    def put(self, structure: str) -> None:
        """Give the structure, which ``get`` returned and the caller changed, back to KVM."""
        found = self.cache.pop(structure)
        call(self._kernel, self._fd, f"KVM_SET_{structure.upper()}", found)
        self.cache[structure] = found

    def raw(self, structure: str) -> bytes:
        size = self._size(structure)
        return bytes(ffi.buffer(self.get(structure), size))

    def set_raw(self, structure: str, data: bytes) -> None:
        size = self._size(structure)
        if len(data) != size:
            raise HypervisorError(
                f"a saved {structure} has {len(data)} bytes, this host's has {size}", call="restore"
            )
        found = self._own.get(structure)
        if found is None:
            found = self._own[structure] = self._new(structure)
        # SAFETY: `found` has exactly `size` bytes.
        ffi.memmove(found, data, size)
        self.cache[structure] = found
        self.put(structure)

    def _new(self, structure: str) -> Any:
        if structure == "xsave":
            # SAFETY: KVM_GET_XSAVE2 writes as many bytes as KVM_CAP_XSAVE2 said, which may be more than the structure has.
            words = ffi.new("uint32_t[]", self._xsave_bytes // 4)
            self._own["xsave words"] = words
            return ffi.cast("struct kvm_xsave *", words)
        return ffi.new(f"struct kvm_{_TYPES.get(structure, structure)} *")

    def _size(self, structure: str) -> int:
        if structure == "xsave":
            return self._xsave_bytes
        return int(ffi.sizeof(f"struct kvm_{_TYPES.get(structure, structure)}"))

    # -- MSRs ----------------------------------------------------------------------------------------------------------

    def msrs(self, numbers: Iterable[int]) -> dict[int, int]:
        """Their values; one that KVM does not know is a HypervisorError that names it."""
        wanted = list(numbers)
        out = self._msr_call("KVM_GET_MSRS", [(number, 0) for number in wanted])
        if len(out) != len(wanted):
            raise _unknown_msr("KVM_GET_MSRS", wanted[len(out)])
        return out

    def set_msrs(self, values: Mapping[int, int]) -> None:
        done = self._msr_call("KVM_SET_MSRS", list(values.items()))
        if len(done) != len(values):
            raise _unknown_msr("KVM_SET_MSRS", list(values)[len(done)])

    def readable_msrs(self, numbers: Iterable[int]) -> dict[int, int]:
        """As ``msrs``, without those that cannot be read."""
        wanted, out = list(numbers), dict[int, int]()
        while wanted:
            found = self._msr_call("KVM_GET_MSRS", [(number, 0) for number in wanted])
            out |= found
            wanted = wanted[len(found) + 1 :]
        return out

    def restore_msrs(self, values: Mapping[int, int]) -> None:
        """As ``set_msrs``, but one that cannot be written may have its value already."""
        rest = list(values.items())
        while rest:
            done = self._msr_call("KVM_SET_MSRS", rest)
            if len(done) == len(rest):
                return
            number, value = rest[len(done)]
            if self.readable_msrs([number]).get(number) != value:
                raise _unknown_msr("KVM_SET_MSRS", number)
            rest = rest[len(done) + 1 :]

    def _msr_call(self, name: str, rows: list[tuple[int, int]]) -> dict[int, int]:
        """Both calls stop at the first MSR that is refused, and return how many were done."""
        out: dict[int, int] = {}
        for start in range(0, len(rows), 200):  # KVM takes at most 255 at once
            some = rows[start : start + 200]
            header = ffi.sizeof("struct kvm_msrs")
            buffer = ffi.new("uint8_t[]", header + len(some) * ffi.sizeof("struct kvm_msr_entry"))
            head = ffi.cast("struct kvm_msrs *", buffer)
            entries = ffi.cast("struct kvm_msr_entry *", buffer + header)
            head.nmsrs = len(some)
            for i, (number, value) in enumerate(some):
                entries[i].index, entries[i].data = number, value
            done = call(self._kernel, self._fd, name, head)
            if done > len(some):
                raise HypervisorError(f"{name} did {done} of {len(some)} MSRs", call=name)
            out |= {some[i][0]: int(entries[i].data) for i in range(done)}
            if done < len(some):
                break
        return out


def _unknown_msr(name: str, number: int) -> HypervisorError:
    return HypervisorError(
        f"{name} refuses MSR {number:#x}", call=name, hint="the CPU model may lack its feature"
    )
