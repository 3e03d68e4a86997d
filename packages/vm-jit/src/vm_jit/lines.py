"""Which guest instruction each piece of a region's machine code came from, for those who ask: the profiler.

:func:`annotate` gives a region's text debug locations whose line numbers are guest addresses; LLVM carries them through its passes
and writes them out as a line table, which changes none of the code. :func:`attach` puts that table behind the code of
the linked image, so whatever keeps images, such as the cache, keeps it too.
"""

from __future__ import annotations

import bisect
import struct

from vm_core.errors import CacheError
from vm_core.hints import Final
from vm_core.record import replace
from vm_jit import dwarf
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


def _line_table(data: bytes) -> Places:
    """The rows of an object of one function, at the start of its section (the relocation is not applied, so it is at 0)."""
    found = {address: line for address, _, line in dwarf.rows(data)}
    offsets, addresses = [], []
    last = -1
    for offset in sorted(found):
        # Line 0 is code of no single line: it most likely belongs to what is in front of it.
        if found[offset] not in (0, last) or offset == max(found):
            last = found[offset]
            offsets.append(offset)
            addresses.append(last)
    return offsets, addresses
