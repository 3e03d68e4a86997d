"""Functions by guest address in all that a process has mapped: its program, its dynamic loader, its libraries."""

from __future__ import annotations

import bisect
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from vm_core.loader import Symbols, symbols_of
from vm_core.memory import PAGE, Prot

if TYPE_CHECKING:
    from vm_core.linux.process import Process
    from vm_core.memory import Region

__all__ = ["Place", "Places"]

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_LOAD: Final = 1
_MOST_SEGMENTS: Final = 128


class Place(NamedTuple):
    """An executable range: guest addresses, the symbols of its file, where the file's address 0 lies, and the guest's path."""

    start: int
    end: int
    symbols: Symbols
    base: int
    path: str


class Places:
    """What lies where in a process, as it was at the last :meth:`look`. It stays known when it is unmapped later."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._known: dict[tuple[int, str], Place] = {}
        self._files: dict[tuple[str, int], tuple[Symbols, int]] = {}
        self._starts: list[int] = []
        self._places: list[Place] = []
        self.look()

    def look(self) -> None:
        """Take in what has been mapped since."""
        process = self._process
        images = [(process.image, process.executable)]
        if process.interpreter is not None:
            images.append((process.interpreter, process.image.interpreter))
        for region in list(process.memory.regions()):
            if not region.prot & Prot.EXEC or (region.start, region.name) in self._known:
                continue
            found = next((one for one in images if one[0].start <= region.start < one[0].end), None)
            if found is not None:
                image, path = found
                place = Place(region.start, region.end, image.symbols, image.base, path)
            elif region.name.startswith("/"):
                symbols, base = self._of_file(region)
                place = Place(region.start, region.end, symbols, base, region.name)
            else:
                place = Place(region.start, region.end, Symbols(), region.start, region.name)
            self._known[region.start, region.name] = place
        self._places = sorted(self._known.values())
        self._starts = [place.start for place in self._places]

    def _of_file(self, region: Region) -> tuple[Symbols, int]:
        """The symbols of a mapped file, and where its address 0 lies; none if it is not the file that was mapped."""
        first = region.start - region.offset
        if (region.name, first) in self._files:
            return self._files[region.name, first]
        found = Symbols(), first
        namespace = self._process.files.namespace
        try:
            with namespace.walk(namespace.start, region.name) as place:
                if place.node is None and place.mount is not None:
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                    fd = os.open(place.name, flags, dir_fd=place.fd)
                    try:
                        backing = region.backing
                        if backing is None or os.fstat(fd).st_ino == backing.inode:
                            base = first - _offset(fd, region.offset)
                            found = symbols_of(f"/proc/self/fd/{fd}", base), base
                    finally:
                        os.close(fd)
        except (OSError, ValueError):
            pass
        self._files[region.name, first] = found
        return found

    def at(self, pc: int) -> Place | None:
        """The place that a guest address lies in."""
        index = bisect.bisect_right(self._starts, pc) - 1
        if index >= 0 and pc < self._places[index].end:
            return self._places[index]
        return None

    def name(self, pc: int) -> str:
        """``function+0x12`` for a guest address; empty where nothing is known."""
        place = self.at(pc)
        return "" if place is None else place.symbols.name(pc)

    def function(self, pc: int) -> str:
        """The function at a guest address; the file's name and the address in it where there is none; else the address."""
        place = self.at(pc)
        if place is None:
            return f"{pc:#x}"
        name = place.symbols.name(pc)
        if name:
            return name.partition("+0x")[0]
        file = os.path.basename(place.path) or "?"
        return f"{file}+{pc - place.base:#x}" if place.symbols.starts else file

    def find(self, name: str) -> tuple[int, int] | None:
        """Start and end of a function, by its name."""
        for place in self._places:
            start = place.symbols.by_name.get(name)
            if start is not None:
                size = max(
                    (size for at, size, other in place.symbols.entries if at == start and other == name),
                    default=0,
                )
                return start, start + max(size, 1)
        return None


def _offset(fd: int, offset: int) -> int:
    """Address less file offset in the segment that has this offset of a file. Raises ValueError for no ELF file."""
    head = os.pread(fd, _HEADER.size, 0)
    if len(head) < _HEADER.size or head[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    fields = _HEADER.unpack(head)
    table, size, count = fields[5], fields[9], min(fields[10], _MOST_SEGMENTS)
    if size != _SEGMENT.size:
        raise ValueError("no ELF file")
    raw = os.pread(fd, size * count, table)
    for kind, _, at, address, _, length, _, _ in _SEGMENT.iter_unpack(raw[: len(raw) // size * size]):
        if kind == _LOAD and at // PAGE * PAGE <= offset < at + length:
            return int(address - at)
    return 0
