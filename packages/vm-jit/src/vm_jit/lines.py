"""Which guest instruction each piece of a region's machine code came from, for those who ask: the profiler.

:func:`annotate` gives a region's text debug locations whose line numbers are guest addresses; LLVM carries them through its passes
and writes them out as a line table, which changes none of the code. :func:`attach` puts that table behind the code of
the linked image, so whatever keeps images, such as the cache, keeps it too.
"""

from __future__ import annotations

import bisect
import struct
from typing import Final

from vm_core.errors import CacheError
from vm_core.record import replace
from vm_jit.code_memory import Image, Places

__all__ = ["MARK", "annotate", "attach", "place_at", "places_of"]

MARK: Final = "; pc"
"""A line of a region's text: the following is from the guest instruction at the address behind it, or from none."""
_SYMBOL: Final = "lines"
_FIRST: Final = 1000
_PAIR: Final = struct.Struct("<II")


def annotate(text: str) -> str:
    """The text of a region with a debug location for each marked instruction."""
    numbers: dict[int, int] = {}
    suffix = ""
    out = []
    for line in text.split("\n"):
        if line.startswith("}"):
            suffix = ""
        elif line.startswith("  "):
            if line.startswith(MARK, 2):
                address = line[2 + len(MARK) :].strip()
                suffix = ""
                if address:
                    number = numbers.setdefault(int(address, 16), _FIRST + len(numbers))
                    suffix = f", !dbg !{number}"
                continue
            if suffix and not line.startswith("  ;"):
                line += suffix  # noqa: PLW2901 - the same line, complete
        elif line.startswith("define ") and "@region(" in line:
            line = line.removesuffix("{") + "!dbg !903 {"  # noqa: PLW2901 - same
        out.append(line)
    out += [
        "!llvm.dbg.cu = !{!900}",
        "!llvm.module.flags = !{!901, !905}",
        "!900 = distinct !DICompileUnit(language: DW_LANG_C, file: !902, emissionKind: LineTablesOnly)",
        '!901 = !{i32 2, !"Debug Info Version", i32 3}',
        '!902 = !DIFile(filename: "guest", directory: "")',
        '!903 = distinct !DISubprogram(name: "region", file: !902, type: !904, unit: !900, spFlags: DISPFlagDefinition)',
        "!904 = !DISubroutineType(types: !11)",
        '!905 = !{i32 2, !"Dwarf Version", i32 4}',
        *(f"!{number} = !DILocation(line: {pc}, scope: !903)" for pc, number in numbers.items()),
    ]
    return "\n".join(out) + "\n"


def attach(image: Image, data: bytes) -> Image:
    """The image with the line table of the object ``data`` that it was linked from. Raises CacheError for a table that is not
    sound."""
    try:
        offsets, lines = _line_table(data)
    except (struct.error, IndexError, ValueError) as error:
        raise CacheError(f"not a sound line table: {error!r}") from error
    # The one section of code of such an object comes first.
    begin = image.symbols["region"]
    body = b"".join(_PAIR.pack(begin + at, line) for at, line in zip(offsets, lines, strict=True))
    at = (len(image.code) + 7) & -8
    code = bytes(image.code).ljust(at, b"\0") + struct.pack("<Q", len(offsets)) + body
    return replace(image, code=code, symbols={**image.symbols, _SYMBOL: at})


def places_of(image: Image, root: int) -> Places:
    """What a region was made from, by the table that :func:`attach` put there; if it did not, all of its one ``root``."""
    at = image.symbols.get(_SYMBOL)
    if at is None:
        return [0], [root]
    (count,) = struct.unpack_from("<Q", image.code, at)
    words = struct.unpack_from(f"<{2 * count}I", image.code, at + 8)
    return list(words[::2]), list(words[1::2])


def place_at(places: Places, offset: int) -> int:
    """The guest address for an offset in the code; 0 if there is none."""
    if not places[0]:
        return 0
    # What is in front of the first is how a region begins.
    return places[1][max(bisect.bisect_right(places[0], offset) - 1, 0)]


# -- DWARF ------------------------------------------------------------------------------------------------------------


def _line_table(data: bytes) -> Places:
    """The rows of an object's .debug_line: one program, for one function. DWARF 4, section 6.2."""
    program = _section(data, ".debug_line")
    if not program:
        return [], []
    length, version, header = struct.unpack_from("<IHI", program)
    if version != 4:
        raise ValueError(f"DWARF version {version}")
    end = 4 + length
    minimum, _, _, base, span, opcode_base = struct.unpack_from("<BBBbBB", program, 10)
    lengths = program[16 : 16 + opcode_base - 1]
    at = 10 + header
    rows: dict[int, int] = {}
    address, line = 0, 1
    while at < end:
        opcode = program[at]
        at += 1
        if opcode >= opcode_base:
            step = opcode - opcode_base
            address += step // span * minimum
            line += base + step % span
            rows[address] = line
        elif opcode == 0:
            size, at = _uleb(program, at)
            if program[at] == 1:  # the end of a sequence
                rows[address] = 0
                address, line = 0, 1
            elif (
                program[at] == 2
            ):  # the address is a relocation's; the function lies at the start of its section
                address = 0
            at += size
        elif opcode == 1:
            rows[address] = line
        elif opcode == 2:
            step, at = _uleb(program, at)
            address += step * minimum
        elif opcode == 3:
            step, at = _sleb(program, at)
            line += step
        elif opcode == 8:
            address += (255 - opcode_base) // span * minimum
        elif opcode == 9:
            address += struct.unpack_from("<H", program, at)[0]
            at += 2
        else:
            for _ in range(lengths[opcode - 1]):
                _, at = _uleb(program, at)
    offsets, lines = [], []
    last = -1
    for offset in sorted(rows):
        # Line 0 is code of no single line: it most likely belongs to what is in front of it.
        if rows[offset] not in (0, last) or offset == max(rows):
            last = rows[offset]
            offsets.append(offset)
            lines.append(last & 0xFFFF_FFFF)
    return offsets, lines


def _section(data: bytes, wanted: str) -> bytes:
    offset = struct.unpack_from("<Q", data, 40)[0]
    _, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + 64 * i) for i in range(count)]
    strings = sections[names][4]
    for name, _, _, _, at, size, *_ in sections:
        start = strings + name
        if data[start : data.index(b"\0", start)] == wanted.encode():
            return data[at : at + size]
    return b""


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _sleb(data: bytes, at: int) -> tuple[int, int]:
    begin = at
    value, at = _uleb(data, at)
    bits = 7 * (at - begin)
    return (value - (1 << bits) if value >> bits - 1 else value), at
