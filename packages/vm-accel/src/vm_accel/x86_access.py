"""The x86 instructions that touch a device, decoded far enough to finish them: SDM volume 2, chapter 2 and appendix A.

A hypervisor that reports an access to memory or a port without a decoded instruction leaves its meaning to us. The moves
and string instructions here are nearly all that drivers use, in 16, 32 and 64-bit code; what is not here and is 64-bit
code is run by its text in vm_core.isa (:mod:`vm_accel.completion`), which knows no other modes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["Kind", "Move", "decode"]

_SEGMENTS: Final = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_MAX_LENGTH: Final = 15


class Kind(enum.Enum):
    """What an instruction does with its one or two memory operands."""

    LOAD = "load"  # memory or port to a register
    STORE = "store"  # register or immediate to memory or port
    MOVS = "movs"
    STOS = "stos"
    LODS = "lods"
    INS = "ins"
    OUTS = "outs"


@dataclass(frozen=True, slots=True)
class Move:
    """One decoded instruction.

    ``size`` is the bytes of the access; ``register`` the number of the general register, ``width`` the bytes of it that a
    load writes, ``high`` whether it is AH, CH, DH or BH; ``signed`` whether a load extends the sign. A store of an
    immediate has no register. ``address_size`` is in bytes; ``segment`` the override, or empty.
    """

    kind: Kind
    length: int
    size: int
    register: int | None = None
    width: int = 0
    high: bool = False
    signed: bool = False
    immediate: int = 0
    rep: bool = False
    address_size: int = 8
    segment: str = ""

    @property
    def string(self) -> bool:
        return self.kind not in (Kind.LOAD, Kind.STORE)


class _Bytes:
    def __init__(self, code: bytes) -> None:
        self.code, self.at = code[:_MAX_LENGTH], 0

    def take(self, count: int = 1) -> int:
        """The next bytes as a number. Raises IndexError behind the last one."""
        if self.at + count > len(self.code):
            raise IndexError
        self.at += count
        return int.from_bytes(self.code[self.at - count : self.at], "little")


def decode(code: bytes, mode: int) -> Move | None:
    """The instruction that ``code`` starts with, in ``mode`` 16, 32 or 64 bits; None if it is not one of these."""
    try:
        return _decode(_Bytes(code), mode)
    except IndexError:
        return None


def _decode(code: _Bytes, mode: int) -> Move | None:
    narrow = short = rep = False
    segment, rex = "", 0
    opcode = code.take()
    while True:
        if mode == 64 and opcode & 0xF0 == 0x40:
            rex = opcode
        elif opcode in (0x66, 0x67, 0xF0, 0xF2, 0xF3) or opcode in _SEGMENTS:
            narrow |= opcode == 0x66
            short |= opcode == 0x67
            rep |= opcode in (0xF2, 0xF3)
            segment = _SEGMENTS.get(opcode, segment)
            rex = 0
        else:
            break
        opcode = code.take()
    operand = 8 if rex & 8 else 2 if (mode == 16) != narrow else 4
    address = (4 if short else 8) if mode == 64 else 2 if (mode == 16) != short else 4
    if mode == 64 and segment not in ("fs", "gs"):
        segment = ""  # the others are ignored there
    size = operand if opcode & 1 else 1
    if opcode in _STRINGS:
        kind = _STRINGS[opcode]
        size = min(size, 4) if kind in (Kind.INS, Kind.OUTS) else size
        return Move(kind, code.at, size, rep=rep, address_size=address, segment=segment)
    if opcode in (0xE4, 0xE5, 0xEC, 0xED, 0xE6, 0xE7, 0xEE, 0xEF):
        if opcode < 0xEC:
            code.take()
        size = min(size, 4)
        kind = Kind.STORE if opcode & 2 else Kind.LOAD
        return Move(kind, code.at, size, 0, size, address_size=address)
    if 0xA0 <= opcode <= 0xA3:
        code.take(address)
        kind = Kind.STORE if opcode & 2 else Kind.LOAD
        return Move(kind, code.at, size, 0, size, address_size=address, segment=segment)
    signed, width = False, size
    if opcode == 0x0F:
        opcode = code.take()
        if opcode not in (0xB6, 0xB7, 0xBE, 0xBF):
            return None
        kind, size, width, signed = Kind.LOAD, 2 if opcode & 1 else 1, operand, opcode >= 0xBE
    elif opcode == 0x63 and mode == 64:
        kind, size, width, signed = Kind.LOAD, min(operand, 4), operand, True
    elif 0x88 <= opcode <= 0x8B:
        kind = Kind.LOAD if opcode & 2 else Kind.STORE
    elif opcode in (0xC6, 0xC7):
        kind = Kind.STORE
    else:
        return None
    modrm = code.take()
    if modrm >= 0xC0:
        return None  # two registers: no access
    register = modrm >> 3 & 7 | (rex & 4) << 1
    _skip_address(code, modrm, address)
    if opcode in (0xC6, 0xC7):
        if modrm >> 3 & 7:
            return None
        count = min(size, 4)
        value = code.take(count)
        value -= (value >> (8 * count - 1)) << (8 * count)
        return Move(
            kind,
            code.at,
            size,
            immediate=value & (1 << 8 * size) - 1,
            address_size=address,
            segment=segment,
        )
    # Without REX, 4 to 7 are the second bytes of the first four registers.
    high = width == 1 and not rex and 4 <= register < 8
    return Move(
        kind,
        code.at,
        size,
        register - 4 if high else register,
        width,
        high,
        signed,
        address_size=address,
        segment=segment,
    )


_STRINGS: Final = {
    0x6C: Kind.INS,
    0x6D: Kind.INS,
    0x6E: Kind.OUTS,
    0x6F: Kind.OUTS,
    0xA4: Kind.MOVS,
    0xA5: Kind.MOVS,
    0xAA: Kind.STOS,
    0xAB: Kind.STOS,
    0xAC: Kind.LODS,
    0xAD: Kind.LODS,
}


def _skip_address(code: _Bytes, modrm: int, address: int) -> None:
    """Past SIB and displacement (tables 2-1 to 2-3)."""
    mod, rm = modrm >> 6, modrm & 7
    if address == 2:
        code.take(2 if mod == 2 or (mod == 0 and rm == 6) else mod)
        return
    base = code.take() & 7 if rm == 4 else rm
    if mod == 2 or (mod == 0 and base == 5):
        code.take(4)
    elif mod == 1:
        code.take()
