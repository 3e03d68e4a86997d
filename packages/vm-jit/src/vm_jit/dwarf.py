"""Line tables of ELF files: DWARF 4 and 5, section 6.2, 64-bit little-endian.

Raises struct.error, IndexError or ValueError for one that is not sound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vm_core.hints import Final

__all__ = ["rows", "section"]

_COMPRESSED: Final = 0x800
_LINE_STRP, _STRP, _STRING = 0x1F, 0x0E, 0x08
_PATH, _DIRECTORY = 1, 2
_SIZES: Final = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}


def section(data: bytes, wanted: str) -> bytes:
    """A section's bytes; empty if there is none, or if it is compressed."""
    offset = struct.unpack_from("<Q", data, 40)[0]
    _, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + 64 * i) for i in range(count)]
    if not sections:
        return b""
    strings = sections[names][4]
    for name, _, flags, _, at, size, *_ in sections:
        start = strings + name
        if data[start : data.index(b"\0", start)] == wanted.encode():
            return b"" if flags & _COMPRESSED else data[at : at + size]
    return b""


def rows(data: bytes) -> Iterator[tuple[int, str, int]]:
    """(address, file, line) of each row of an ELF file's .debug_line; line 0 where no code follows."""
    table = section(data, ".debug_line")
    texts = {_LINE_STRP: section(data, ".debug_line_str"), _STRP: section(data, ".debug_str")}
    at = 0
    while at < len(table):
        length = struct.unpack_from("<I", table, at)[0]
        if length >= 0xFFFF_FFF0:
            raise ValueError("64-bit DWARF")
        end = at + 4 + length
        yield from _unit(table, at + 4, end, texts)
        at = end


def _unit(table: bytes, at: int, end: int, texts: dict[int, bytes]) -> Iterator[tuple[int, str, int]]:
    (version,) = struct.unpack_from("<H", table, at)
    if version not in (4, 5):
        return
    at += 4 if version == 5 else 2
    (header,) = struct.unpack_from("<I", table, at)
    begin = at + 4 + header
    minimum, _, _, base, span, opcode_base = struct.unpack_from("<BBBbBB", table, at + 4)
    lengths = table[at + 10 : at + 10 + opcode_base - 1]
    read = _files5 if version == 5 else _files4
    files = read(table, at + 10 + opcode_base - 1, texts)
    at = begin
    address, file, line = 0, 1, 1

    def row() -> tuple[int, str, int]:
        return address, files[file] if file < len(files) else "", line

    while at < end:
        opcode = table[at]
        at += 1
        if opcode >= opcode_base:
            step = opcode - opcode_base
            address += step // span * minimum
            line += base + step % span
            yield row()
        elif opcode == 0:
            size, at = _uleb(table, at)
            if table[at] == 1:
                yield address, "", 0
                address, file, line = 0, 1, 1
            elif table[at] == 2:
                (address,) = struct.unpack_from("<Q", table, at + 1)
            at += size
        elif opcode == 1:
            yield row()
        elif opcode == 2:
            step, at = _uleb(table, at)
            address += step * minimum
        elif opcode == 3:
            step, at = _sleb(table, at)
            line += step
        elif opcode == 4:
            file, at = _uleb(table, at)
        elif opcode == 8:
            address += (255 - opcode_base) // span * minimum
        elif opcode == 9:
            address += struct.unpack_from("<H", table, at)[0]
            at += 2
        else:
            for _ in range(lengths[opcode - 1]):
                _, at = _uleb(table, at)


def _files4(table: bytes, at: int, _texts: dict[int, bytes]) -> list[str]:
    """The names of the files by number; 0 is none."""
    while table[at]:
        _, at = _text(table, at)
    at += 1
    names = [""]
    while table[at]:
        name, at = _text(table, at)
        names.append(name)
        for _ in range(3):
            _, at = _uleb(table, at)
    return names


def _files5(table: bytes, at: int, texts: dict[int, bytes]) -> list[str]:
    names: list[str] = []
    for _ in range(2):  # the directories, then the files
        pairs = []
        count = table[at]
        at += 1
        for _ in range(count):
            content, at = _uleb(table, at)
            form, at = _uleb(table, at)
            pairs.append((content, form))
        count, at = _uleb(table, at)
        if count > len(table):
            raise ValueError(f"{count} files")
        names = []
        for _ in range(count):
            name = ""
            for content, form in pairs:
                if form in texts:
                    (offset,) = struct.unpack_from("<I", table, at)
                    at += 4
                    value, _ = _text(texts[form], offset)
                elif form == _STRING:
                    value, at = _text(table, at)
                elif form == 0x0F:
                    _, at = _uleb(table, at)
                    continue
                else:
                    if form not in _SIZES:
                        raise ValueError(f"a name in form {form}")
                    at += _SIZES[form]
                    continue
                if content == _PATH:
                    name = value
            names.append(name)
    return names


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode("utf-8", "backslashreplace"), end + 1


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
