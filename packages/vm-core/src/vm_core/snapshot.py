"""A guest's memory as it was at one moment, and other guests' memory that begins as this: copies on write.

The pages that hold anything go to a memory file that is sealed then. Each clone maps them privately: the host copies a page when
it is first written there. So a clone costs what it writes, whatever size the guest has, and its pages are gone with it; the file
goes with the last of those who use the snapshot.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from vm_core.errors import HostError, UsageError
from vm_core.hints import Final
from vm_core.memory import PAGE, GuestMemory

__all__ = ["MemorySnapshot", "sealed"]

_NEAR: Final = 16 * PAGE
"""Runs of pages with no more than so many bytes of zeros between are one mapping: that costs more than a few pages."""
_SEALS: Final = 1 | 2 | 4 | 8
"""F_SEAL_SEAL, SHRINK, GROW and WRITE."""


def sealed(name: str, size: int, pieces: Iterable[tuple[int, memoryview]]) -> int:
    """The descriptor of a memory file of ``size`` bytes that nobody can change: ``pieces`` are (offset, bytes), the rest is
    zeros. Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        for offset, data in pieces:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class MemorySnapshot:
    """The memory of a guest as it is now, while no vCPU of it runs. Raises HostError without room, and UsageError if the guest
    shares memory with other processes.
    """

    def __init__(self, memory: GuestMemory) -> None:
        if any(region.backing is not None and region.backing.real for region in memory.regions()):
            raise UsageError(
                "a program that has mapped shared memory has no snapshot",
                hint="take it before the program maps memory with MAP_SHARED",
            )
        self.bits, self.limit = memory.bits, memory.limit
        self.layout = memory.layout()
        """As :meth:`GuestMemory.set_layout` takes it."""
        self.table = bytes(memory.table)
        self.pages = list(_used(memory))
        """The addresses of pages that hold anything, ascending."""
        self._runs: list[tuple[int, int, int]] = []  # start, end, offset in the file
        size = 0
        for page in self.pages:
            start, end, offset = self._runs[-1] if self._runs else (0, 0, 0)
            if self._runs and page - end <= _NEAR:
                self._runs[-1] = (start, page + PAGE, offset)
                size += page + PAGE - end
            else:
                self._runs.append((page, page + PAGE, size))
                size += PAGE
        self._starts = [start for start, _, _ in self._runs]
        self._fd = -1
        try:
            places = ((self._place(page), memory.view[page : page + PAGE]) for page in self.pages)
            self._fd = sealed("vm-snapshot", max(size, PAGE), places)
            self._view = memoryview(mmap.mmap(self._fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
        except (OSError, ValueError) as error:
            if self._fd >= 0:
                os.close(self._fd)
            raise HostError(f"no memory for a snapshot: {error}", hint="give vm more memory") from error

    def _place(self, page: int) -> int:
        """Where the file has a page; -1 for one of zeros that it does not have."""
        at = bisect_right(self._starts, page) - 1
        if at < 0:
            return -1
        start, end, offset = self._runs[at]
        return offset + page - start if page < end else -1

    @property
    def file_bytes(self) -> int:
        """Of the file that all clones share."""
        return len(self._view)

    def parts(self, pages: Iterable[int]) -> list[tuple[int, int, memoryview]]:
        """What these pages held, neighbours in one: start, end, bytes."""
        found: list[tuple[int, int, int]] = []
        for page in sorted(pages):
            place = self._place(page)
            if found:
                start, end, before = found[-1]
                if page == end and place == (before if before < 0 else before + end - start):
                    found[-1] = (start, page + PAGE, before)
                    continue
            found.append((page, page + PAGE, place))
        zeros = memoryview(bytes(max((end - start for start, end, place in found if place < 0), default=0)))
        return [
            (start, end, zeros[: end - start] if place < 0 else self._view[place : place + end - start])
            for start, end, place in found
        ]

    def clone(self) -> GuestMemory:
        """Memory that begins as this, for another guest of the same process. Raises HostError."""
        memory = GuestMemory(bits=self.bits, limit=self.limit)
        try:
            memory.begin_as(self.layout, self._fd, self._runs)
        except OSError as error:
            memory.close()
            raise HostError(
                f"no memory for a clone: {error.strerror}",
                hint="the host allows no more mappings (vm.max_map_count), or has no memory left",
            ) from error
        return memory

    def close(self) -> None:
        """Give the file back; clones keep their pages, and ``parts`` theirs. Twice is once."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._view = memoryview(b"")
            os.close(fd)


def _used(memory: GuestMemory) -> Iterator[int]:
    """The addresses of mapped pages that are not all zeros. What the guest may not touch can hold something all the same."""
    zeros = bytes(PAGE)
    for region in memory.regions():
        for page in memory.touched(region.start, region.end):
            if memory.view[page : page + PAGE] != zeros:
                yield page
