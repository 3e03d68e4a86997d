"""The encodings that one line of x86-64 assembly could have. The decoder has the last word on which of them fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vm_core.isa.x86_64.decode import (
    FIXED,
    ROW,
    SIZES,
    Encodings,
    Row,
    mnemonics,
    register,
)
from vm_core.isa.x86_64.operands import NIL

if TYPE_CHECKING:
    from vm_core.isa.x86_64.decode import X86

__all__ = ["candidates"]

_REGISTERS: Final = {
    register(number, width): (number, width) for width in (8, 16, 32, 64) for number in range(16)
} | {register(number, 8, high=True): (number + 4, 8) for number in range(4)}
_MEMORY = re.compile(r"(?:(\w+) ptr )?(?:([fg]s):)?\[(.*)\]")


@dataclass(frozen=True, slots=True)
class _Operand:
    """As written. ``kind``: r, x (xmm), m or i."""

    kind: str
    width: int = 0
    value: int = 0
    base: int = NIL
    index: int = NIL
    scale: int = 1
    segment: int = 0
    rip: bool = False
    short: bool = False


def _operand(text: str) -> _Operand:
    text = text.strip()
    if text in _REGISTERS:
        number, width = _REGISTERS[text]
        return _Operand("r", width, number)
    if found := re.fullmatch(r"xmm(\d+)", text):
        return _Operand("x", 128, int(found[1]))
    if found := _MEMORY.fullmatch(text):
        return _memory(*found.groups())
    return _Operand("i", 0, int(text, 0))


def _memory(size: str | None, segment: str | None, inside: str) -> _Operand:
    width = next((bits for bits, word in SIZES.items() if word == size), 0)
    base = index = NIL
    scale, disp, rip, short = 1, 0, False, False
    for sign, term in re.findall(r"([+-]?) ?([^ +-]+)", inside):
        name, _, factor = term.partition("*")
        if name in ("rip", "eip"):
            rip, short = True, name == "eip"
        elif name not in _REGISTERS:
            disp += int(f"{sign}{term}", 0)
        else:
            number, bits = _REGISTERS[name]
            short |= bits == 32
            if factor or (base != NIL):
                index, scale = number, int(factor or "1")
            else:
                base = number
    return _Operand(
        "m", width, disp, base, index, scale, {"fs": 0x64, "gs": 0x65}.get(segment or "", 0), rip, short
    )


def candidates(isa: X86, text: str) -> Iterator[bytes]:
    """Every way to encode the line, some of which may mean something else. Raises ValueError for nonsense."""
    prefix = b""
    for word, byte in (("lock ", b"\xf0"), ("rep ", b"\xf3")):
        if text.startswith(word):
            prefix, text = byte, text.removeprefix(word)
    mnemonic, _, rest = text.partition(" ")
    operands = [_operand(part) for part in rest.split(",")] if rest else []
    for insn in isa.instructions.values():
        for cc in mnemonics(insn.name).get(mnemonic, ()):
            assert isinstance(insn.pattern, Encodings)
            for row in insn.pattern.rows:
                for size in (32, 64, 16):
                    yield from _encode(isa, row, cc, size, prefix, operands)


def _encode(
    isa: X86, row: Row, cc: int, size: int, prefix: bytes, operands: list[_Operand]
) -> Iterator[bytes]:
    codes = [code for code in row.operands if code[0] != "X"]
    if len(codes) != len(operands):
        return
    found = ROW.fullmatch(row.text)
    assert found is not None
    *escape, opcode = bytes.fromhex(found["bytes"])[1 if row.mandatory else 0 :]
    opcode += cc if row.low == "cc" else 0
    rex = 8 if size == 64 and "near" not in row.options else 0
    reg, rm, tail, jump = row.digit or 0, _Operand("r"), b"", False
    for code, operand in zip(codes, operands, strict=True):
        wide = isa.operand_width(code, size)
        if code in FIXED:
            fits = operand.kind == "r" and operand.value == FIXED[code][0]
        elif code[0] in "GV":
            fits, reg = operand.kind == ("r" if code[0] == "G" else "x"), operand.value
        elif code[0] == "Z":
            fits = operand.kind == "r"
            opcode, rex = opcode + (operand.value & 7), rex | operand.value >> 3
        elif code[0] in "EMWU":
            fits, rm = operand.kind in {"E": "rm", "M": "m", "W": "xm", "U": "x"}[code[0]], operand
        elif code[0] == "O":
            fits = operand.kind == "m" and operand.base == operand.index == NIL
            tail = (operand.value & (1 << 64) - 1).to_bytes(8, "little")
        else:
            fits, jump = operand.kind == "i", code[0] == "J"
            count = isa.immediate_bytes(code, wide)
            tail = (operand.value & (1 << 8 * count) - 1).to_bytes(count, "little") if code != "1" else b""
        if not fits or (operand.kind == "r" and operand.width != wide):
            return
    prefixes = b"".join(bytes([operand.segment]) for operand in operands if operand.segment)
    prefixes += b"\x67" if any(operand.short for operand in operands) else b""
    prefixes += b"\x66" if size == 16 else b""
    mandatory = bytes([row.mandatory]) if row.mandatory else b""
    if row.exact is not None:
        places = [(0, bytes([row.exact]))]
    elif row.has_modrm:
        places = list(_modrm(reg & 7, rm))
        rex |= reg >> 3 << 2
    else:
        places = [(0, b"")]
    for bits, place in places:
        for prefix_rex in {rex | bits, (rex | bits) & 7}:
            for extension in (bytes([0x40 | prefix_rex]), b""):
                if prefix_rex and not extension:
                    continue
                head = prefixes + prefix + mandatory + extension + bytes([*escape, opcode]) + place
                if jump:
                    distance = operands[-1].value - len(head) - len(tail)
                    if not -1 << (8 * len(tail) - 1) <= distance < 1 << (8 * len(tail) - 1):
                        continue
                    yield head + distance.to_bytes(len(tail), "little", signed=True)
                else:
                    yield head + tail


def _modrm(reg: int, rm: _Operand) -> Iterator[tuple[int, bytes]]:
    """(REX bits, ModRM with what follows it) for each size of the displacement."""
    if rm.kind != "m":
        yield rm.value >> 3 & 1, bytes([0xC0 | reg << 3 | rm.value & 7])
        return
    long = (rm.value & 0xFFFF_FFFF).to_bytes(4, "little")
    if rm.rip:
        yield 0, bytes([reg << 3 | 5]) + long
        return
    bits = (rm.base >> 3 & 1 if rm.base != NIL else 0) | (rm.index >> 3 << 1 & 2 if rm.index != NIL else 0)
    sib = rm.index != NIL or rm.base == NIL or rm.base & 7 == 4
    index = 4 if rm.index == NIL else rm.index & 7
    middle = (
        bytes([(rm.scale.bit_length() - 1) << 6 | index << 3 | (5 if rm.base == NIL else rm.base & 7)])
        if sib
        else b""
    )
    low = 4 if sib else rm.base & 7
    if rm.base == NIL:
        yield bits, bytes([reg << 3 | 4]) + middle + long
        return
    if rm.value == 0:
        yield bits, bytes([reg << 3 | low]) + middle
    if -128 <= rm.value < 128:
        yield bits, bytes([0x40 | reg << 3 | low]) + middle + bytes([rm.value & 255])
    yield bits, bytes([0x80 | reg << 3 | low]) + middle + long
