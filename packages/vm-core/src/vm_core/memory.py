"""Guest memory: one isolated arena of ``2**bits`` bytes, and one permission byte a page.

A guest address is an offset into the arena. An engine either checks the page's permission byte (and so the arena's
bound) before it touches memory, so that a refused access is found *before* it happens, or it has asked for
:meth:`GuestMemory.enforce`: then the host's page protections are those of the table, and a refused access is a host
fault, which the engine turns into the guest's. The arena lies between two inaccessible guard zones, so that such an
engine needs to know an address only roughly: within ``LOW_GUARD`` below and ``HIGH_GUARD`` above the arena.

Table byte: ``READ | WRITE | EXEC`` as the guest sees them, plus ``MAPPED`` (tells SEGV_MAPERR from SEGV_ACCERR). A page of
a mapped file that lies behind the file's end has ``MAPPED | GONE`` (SIGBUS) instead, once that is known.

A mapped file is the host's page cache: :meth:`GuestMemory.map_file` maps it into the arena. Whoever then truncates the
file makes the host raise SIGBUS in whatever touches the page. So files are mapped only where an engine has said
(``catches_bus``) that native code takes that signal: it sets ``GONE``, and sends guest code on to find the fault; for
any other code of the host it puts a page of zeros there, marked ``LOST`` as well.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import enum
import errno
import mmap as _mmap
import os
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from vm_core.errors import HostError
from vm_core.hints import Any, Final, Self
from vm_core.lengths import any_length
from vm_core.record import record, replace

__all__ = [
    "PAGE",
    "Access",
    "Backing",
    "GuestMemory",
    "MemoryFault",
    "MemoryLimit",
    "Prot",
    "Region",
    "Residence",
]

PAGE: Final = 4096
LOW_GUARD: Final = 1 << 30
HIGH_GUARD: Final = 1 << 34
"""Bytes without access below and above the arena. The upper zone is the larger: an index is seldom negative."""
MAPPED: Final = 0x80
GONE: Final = 0x40
LOST: Final = 0x20

MADE, MADE_WORDS = 8, 2
"""Of the mappings that an engine has made, how many are remembered; and words before them. See GuestMemory.made."""

MAX_BITS: Final = 32
TABLE_BYTES: Final = (1 << MAX_BITS >> 12) + PAGE
"""One byte for each page of the largest arena, then zeros for what lies just behind its end."""
TABLE_OFFSET: Final = TABLE_BYTES + LOW_GUARD
"""How many bytes below the arena its permission table begins: one pointer serves compiled code for both."""
HUGE: Final = 2 << 20
"""The arena is at a multiple of this in the host: the size of a large page of x86-64, and of arm64 and riscv64 with pages of 4 KiB,
which a hypervisor can give a guest only where its addresses and the host's agree below it."""
DENSE: Final = 2 * HUGE
"""Bytes of a mapping of the guest's from which on it gets large pages of the host."""


class Prot(enum.IntFlag):
    """Page permissions; the values are Linux's PROT_*."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4
    RW = 3
    RX = 5
    RWX = 7


class Access(enum.Enum):
    """What the guest tried to do; the value is the permission that it needs."""

    READ = 1
    WRITE = 2
    EXEC = 4


class MemoryFault(Exception):
    """An access that the guest may not do. Becomes a trap in an engine, EFAULT in a system call."""

    def __init__(self, address: int, access: Access, *, mapped: bool) -> None:
        super().__init__(
            f"{access.name.lower()} of guest address {address:#x}: {'protected' if mapped else 'not mapped'}"
        )
        self.address = address
        self.access = access
        self.mapped = mapped


class MemoryLimit(Exception):
    """The guest asked for more than its cap. ``wanted`` and ``limit`` are bytes."""

    def __init__(self, wanted: int, limit: int) -> None:
        super().__init__(f"the guest needs {wanted:,} bytes, its memory cap is {limit:,}")
        self.wanted = wanted
        self.limit = limit


@record(frozen=True)
class Backing:
    """The file behind a region. ``writable`` says whether guests may write through a shared mapping of it; ``real`` that the
    host maps it, not a copy."""

    device: int
    inode: int
    writable: bool
    real: bool


@record(frozen=True)
class Region:
    """A mapped range ``[start, end)`` with one protection, as a line of /proc/self/maps."""

    start: int
    end: int
    prot: Prot
    name: str = ""
    shared: bool = False
    offset: int = 0
    backing: Backing | None = None


def _c_library() -> Any:
    """The C library's calls for memory. Other systems than Linux have no arena, but import this module for its types, as the
    bindings of their hypervisors do."""
    if sys.platform != "linux":
        return _Elsewhere()
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.mremap.restype = ctypes.c_void_p
    library.mremap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    return library


class _Elsewhere:
    def __getattr__(self, name: str) -> Any:
        raise HostError(f"no guest memory on {sys.platform}", hint="run programs of other machines on Linux")


_libc: Final[Any] = _c_library()
_SHARED, _PRIVATE, _FIXED, _ANONYMOUS = 1, 2, 0x10, 0x20
_MAYMOVE, _MREMAP_FIXED, _DONTUNMAP = 1, 2, 4
_NORESERVE: Final = 0x4000 if hasattr(_mmap, "MAP_ANONYMOUS") else 0
_HUGE: Final = getattr(_mmap, "MADV_HUGEPAGE", None)
_POPULATE_WRITE: Final = 23
_MOST_CODE_FILES: Final = 10_000
_PAGEMAP: Final = "/proc/self/pagemap"
_PAGEMAP_BYTES: Final = 1 << 16
"""Of that file that are read at once: a word for each page (Documentation/admin-guide/mm/pagemap.rst)."""
_PRESENT: Final = 3 << 62
"""In memory, or swapped out."""
_THERE, _SWAPPED, _OF_FILE, _ALONE = 1 << 7, 1 << 6, 1 << 5, 1 << 0
"""In the highest byte of such a word; a file's is also what is shared and anonymous."""
_FAILED: Final = ctypes.c_void_p(-1).value


def _reserve(size: int, prot: int, what: str) -> int:
    """``size`` bytes, of which the one at TABLE_OFFSET is at a multiple of HUGE."""
    flags = _mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS | _NORESERVE
    address = _libc.mmap(None, size + HUGE, prot, flags, -1, 0)
    if address in (None, _FAILED):
        raise HostError(
            f"cannot reserve {size >> 20} MiB of address space for {what}",
            hint="raise the limit of virtual memory (ulimit -v unlimited)",
        )
    before = -(int(address) + TABLE_OFFSET) % HUGE
    # SAFETY: what is unmapped is new, and nobody's yet.
    if before:
        _libc.munmap(address, before)
    if before < HUGE:
        _libc.munmap(address + before + size, HUGE - before)
    return int(address) + before


# PERF: looking a member up in its enumeration costs as much as a small system call.
_READ: Final = Access.READ
_WRITE: Final = Access.WRITE
_EXEC: Final = Access.EXEC
_UNPACK: Final = {
    size: struct.Struct("<" + code).unpack_from for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
}
HIDDEN: Final = 3
"""How many bits above its own a permission stands in the table while it is hidden (:meth:`GuestMemory.hide`)."""
_NEEDS: Final = (0, 1 | 1 << HIDDEN, 2 | 2 << HIDDEN, 0, 4)
"""The bits of a table byte of which one must be set, by the permission that an access needs."""
_ALLOWING: Final = {need: bytes(value for value in range(256) if value & need) for need in _NEEDS}
"""Table bytes that allow an access, by the permission that it needs."""


def _shown(byte: int) -> int:
    """A table byte with nothing hidden."""
    return byte & ~(3 << HIDDEN) | byte >> HIDDEN & 3


def _concealed(byte: int, bits: int) -> int:
    """A table byte in which these permissions are hidden."""
    return byte & ~bits | (byte & bits & 3) << HIDDEN


def page_down(address: int) -> int:
    return address & -PAGE


def page_up(address: int) -> int:
    return (address + PAGE - 1) & -PAGE


@record(frozen=True)
class Residence:
    """How many pages of a range the host has memory for, by whose they are: anonymous or a file's, of this process alone or of others
    too. ``swapped`` have none."""

    alone: int
    shared: int
    file_alone: int
    file_shared: int
    swapped: int


class GuestMemory:
    """The memory of one guest process. Addresses and lengths are bytes; map, unmap and protect work on whole pages.

    ``limit`` caps the bytes in pages that the guest can touch (any permission but NONE).
    ``host_address`` is the host address of guest address 0, ``table_address`` that of the permission table.
    """

    made: memoryview | Sequence[int] = (0,) * (MADE_WORDS + 2 * MADE)
    """What an engine has mapped itself, readable and writable where nothing was, and there is no region of yet: words, its
    bytes now and at most, then start and end of each mapping (end 0: none). No other thread looks while it changes them."""

    def __init__(self, *, bits: int = 32, limit: int | None = None) -> None:
        if not 20 <= bits <= MAX_BITS:
            raise ValueError(f"an arena has 20 to {MAX_BITS} address bits")
        self.bits = bits
        self.size = 1 << bits
        self.limit = limit
        self._committed = 0
        self._peak = 0
        self.lock = threading.RLock()
        self.code_changed: list[Callable[[int, int], None]] = []
        """Called with (start, end) before executable pages appear, are replaced, unmapped or protected."""
        self.table_changed: list[Callable[[int, int], None]] = []
        """Called with (start, end) when the table has changed there, before what was mapped goes: for an engine that keeps page
        tables of its own."""
        self.catches_bus = False
        """Set by an engine whose native code takes the host's SIGBUS, so that files may be mapped."""
        self.populates = False
        """Set by an engine for which it is dear when the guest first touches a page (:meth:`populate`)."""
        self.code_files: list[Region] = []
        """What has been mapped from files to be executed, also what is gone again: for who asks later what ran."""
        self._probe = -1
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._hidden: dict[int, int] = {}
        self._copied: list[tuple[int, int]] = []
        """Ranges that map a snapshot's file (:meth:`begin_as`), ascending: its pages, until they are written."""
        self._size = TABLE_OFFSET + self.size + HIGH_GUARD
        # SAFETY: table, guard, arena and guard are one reservation that this object alone owns; `view` and `table` are
        # the only Python views of it, and close() drops them before it unmaps.
        self._base = _reserve(self._size, 0, "guest memory")
        self.host_address = self._base + TABLE_OFFSET
        self.table_address = self._base
        self.enforced = False
        if _libc.mprotect(self.host_address, self.size, 3) or _libc.mprotect(
            self.table_address, TABLE_BYTES, 3
        ):
            raise HostError("cannot make guest memory accessible")
        self.view = memoryview((ctypes.c_ubyte * self.size).from_address(self.host_address)).cast("B")
        self.table = memoryview((ctypes.c_ubyte * (self.size // PAGE)).from_address(self.table_address)).cast(
            "B"
        )

    def _settle(self) -> None:
        """Make regions of what an engine has mapped itself."""
        made = self.made
        if not made[1]:
            return
        assert isinstance(made, memoryview)
        with self.lock:
            self._peak = max(self._peak, self._committed + made[1])
            self._committed += made[0]
            made[0] = made[1] = 0
            for at in range(MADE_WORDS, len(made), 2):
                start, end = made[at], made[at + 1]
                if end:
                    made[at + 1] = 0
                    self._insert(Region(start, end, Prot.RW))

    @property
    def committed(self) -> int:
        """Bytes in pages that the guest can touch."""
        return self._committed + self.made[0]

    @property
    def peak(self) -> int:
        """The most that it has been."""
        return max(self._peak, self._committed + self.made[1])

    def close(self) -> None:
        """Give the arena back. No engine may run this guest any more."""
        if self._base:
            self.view.release()
            self.table.release()
            # SAFETY: both views are released, so nothing in Python can reach the ranges any more.
            _libc.munmap(self._base, self._size)
            self._base = 0
            if self._probe >= 0:
                os.close(self._probe)
                self._probe = -1

    def enforce(self) -> None:
        """From now on the host protects each page as the table says (what can be executed can be read, never run)."""
        with self.lock:
            self._settle()
            if not self.enforced:
                self.enforced = True
                self._host_protect(0, self.size, 0)
                for region in self._regions:
                    self._host_protect(region.start, region.end, int(region.prot))

    @staticmethod
    def _host_prot(prot: int) -> int:
        """The host's protection for the guest's: what can be executed can be read, never run."""
        return (1 if prot & 5 else 0) | (3 if prot & 2 else 0)

    def _host_protect(self, start: int, end: int, prot: int) -> None:
        if self.enforced:
            wanted = self._host_prot(prot)
            # SAFETY: the range lies inside the arena; host code that touches it expects faults (enforce, opened).
            if _libc.mprotect(self.host_address + start, end - start, wanted):
                raise HostError(
                    f"cannot protect guest memory at {start:#x} ({os.strerror(ctypes.get_errno())})",
                    hint="the guest may have too many mappings; raise vm.max_map_count",
                )

    @contextlib.contextmanager
    def opened(self, address: int, length: int, *, writing: bool = True) -> Iterator[memoryview]:
        """The bytes of a range inside the arena, for the host to read and write whatever the guest may do there.

        Not to be written in a shared mapping of a file that was opened for reading (:meth:`may_write`).
        """
        start, end = page_down(address), page_up(address + length)
        if not self.enforced or not length:
            yield self.view[address : address + length]
            return
        with self.lock:
            self._host_protect(start, end, 3 if writing else 1)
            try:
                yield self.view[address : address + length]
            finally:
                self._protect_again(start, end)

    def _protect_again(self, start: int, end: int) -> None:
        """The host protects these pages as the table says."""
        page = start >> 12
        while page < end >> 12:
            last = page
            while last < end >> 12 and self.table[last] == self.table[page]:
                last += 1
            self._host_protect(page << 12, last << 12, _shown(self.table[page]))
            page = last

    def hide(self, pages: Mapping[int, int]) -> None:
        """Keep permissions of pages (READ and WRITE, by page number) from engines, and show those that were hidden before.

        An engine that goes by the table then leaves each such access to :meth:`check`, which still knows them. Not for one
        that relies on enforce(): the host's protections stay as they are.
        """
        with self.lock:
            before, self._hidden = self._hidden, dict(pages)
            for page in before:
                self.table[page] = _shown(self.table[page])
            for page, bits in self._hidden.items():
                self.table[page] = _concealed(self.table[page], bits)
            for page in {*before, *self._hidden} if self.table_changed else ():
                for notify in self.table_changed:
                    notify(page << 12, (page + 1) << 12)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- mapping ------------------------------------------------------------------------------------------------

    def map(
        self,
        address: int,
        length: int,
        prot: Prot,
        *,
        name: str = "",
        shared: bool = False,
        offset: int = 0,
        backing: Backing | None = None,
    ) -> None:
        """Map zeroed pages over ``[address, address + length)``, replacing what was there. ``backing`` says what file a copy
        will be of.

        Raises ValueError for a range outside the arena and MemoryLimit beyond the cap.
        """
        start, end = self._range(address, length)
        with self.lock:
            self._account(start, end, prot)
            self._clear(start, end, self._cut(start, end, prot))
            self._insert(Region(start, end, prot, name, shared, offset, backing))
            self._set_table(start, end, MAPPED | int(prot))
            self._host_protect(start, end, int(prot))

    def map_file(
        self,
        address: int,
        length: int,
        prot: Prot,
        fd: int,
        offset: int,
        *,
        name: str,
        shared: bool = False,
        writable: bool = False,
    ) -> None:
        """Map the file behind a host descriptor, from ``offset`` (whole pages) on, over ``[address, address + length)``.

        ``writable`` says whether it may be written through a shared mapping. ``catches_bus`` must be set, or nobody able
        to truncate the file. Raises as :meth:`map`, and OSError, with nothing changed, if the host refuses.
        """
        info = os.fstat(fd)
        may_write = writable or not shared
        # What nobody writes shows the file in a private mapping too, of which the host allows any protection (refresh).
        flags = (_SHARED if shared and (writable or self.enforced) else _PRIVATE) | _FIXED | _NORESERVE

        def put(host: int, wanted: int) -> None:
            # SAFETY: the range lies inside the arena (map_by), whose memory it replaces; what may go wrong with it later
            # is SIGBUS, which native code takes (catches_bus). The host never executes it.
            if _libc.mmap(host, page_up(length), wanted, flags, fd, offset) == _FAILED:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

        backing = Backing(info.st_dev, info.st_ino, may_write, real=True)
        with self.lock:
            self.map_by(address, length, prot, put, name=name, shared=shared, offset=offset, backing=backing)
            end = address + page_up(length)
            behind = address + page_up(max(info.st_size - offset, 0))
            if behind < end and prot:
                self._set_table(behind, end, MAPPED | GONE)

    def map_by(
        self,
        address: int,
        length: int,
        prot: Prot,
        put: Callable[[int, int], None],
        *,
        name: str,
        shared: bool,
        backing: Backing,
        offset: int = 0,
    ) -> None:
        """Map what ``put`` maps there: it gets a host address and a protection of the host's, and replaces ``length`` bytes of the
        arena in one step. Raises what it raises, with nothing changed, and as :meth:`map`."""
        start, end = self._range(address, length)
        with self.lock:
            self._settle()
            before = self._committed
            self._account(start, end, prot)
            old = self._cut(start, end, prot)
            wanted = self._host_prot(int(prot)) if self.enforced else (3 if backing.writable else 1)
            try:
                put(self.host_address + start, wanted)
            except BaseException:
                for piece in old:
                    self._insert(piece)
                self._committed = before
                raise
            region = Region(start, end, prot, name, shared, offset, backing)
            self._insert(region)
            if prot & Prot.EXEC and len(self.code_files) < _MOST_CODE_FILES:
                self.code_files.append(region)
            self._set_table(start, end, MAPPED | int(prot))

    def map_shared(self, address: int, length: int, prot: Prot) -> None:
        """Map zeroed pages that stay shared with the processes that fork from this one. Raises as :meth:`map`, and OSError."""
        fd = os.memfd_create("vm-shared", os.MFD_CLOEXEC)
        try:
            with any_length():
                os.ftruncate(fd, page_up(length))
            self.map_file(
                address, length, prot, fd, 0, name="/dev/zero (deleted)", shared=True, writable=True
            )
        finally:
            os.close(fd)

    def move(self, old: int, old_length: int, new: int, new_length: int) -> None:
        """Move a mapping of a file, as mremap: the pages are the same, those behind the old end the next ones of the file.

        ``[old, old + old_length)`` is in one region; ``new`` may be ``old``, else the two do not overlap. Raises OSError, with
        nothing changed, if the host refuses, and as :meth:`map`.
        """
        start, end = self._range(new, new_length)
        kept = page_up(min(old_length, new_length))
        with self.lock:
            region = self.region_at(old)
            assert region is not None
            before = self._committed
            self._account(start, end, region.prot)
            table = bytes(self.table[old >> 12 : (old + kept) >> 12])
            # First aside, out of the arena: no moment may leave a hole in it that the host gives to somebody else.
            # SAFETY: both ranges lie inside the arena (_range); DONTUNMAP leaves the old one mapped; FIXED replaces the new
            # one in one step.
            aside = _libc.mremap(self.host_address + old, kept, kept, _MAYMOVE | _DONTUNMAP, None)
            first = aside
            if aside != _FAILED and end - start > kept:
                aside = _libc.mremap(first, kept, end - start, _MAYMOVE, None)
            if aside == _FAILED:
                number = ctypes.get_errno()
                if first != _FAILED:
                    _libc.mremap(first, kept, kept, _MAYMOVE | _MREMAP_FIXED, self.host_address + old)
                self._committed = before
                raise OSError(number, os.strerror(number))
            self._cut(start, end, region.prot)
            size, flags = end - start, _MAYMOVE | _MREMAP_FIXED
            if _libc.mremap(aside, size, size, flags, self.host_address + start) == _FAILED:
                raise HostError(f"cannot move guest memory ({os.strerror(ctypes.get_errno())})")
            at = region.offset + old - region.start
            self._insert(replace(region, start=start, end=end, offset=at))
            self._set_table(start, end, MAPPED | int(region.prot))
            self.table[start >> 12 : (start >> 12) + len(table)] = table
            for notify in self.table_changed:
                notify(start, start + kept)
            if new != old:
                self.unmap(old, old_length)

    def may_write(self, address: int, length: int) -> bool:
        """Whether no page of the range belongs to a shared mapping of a file that was opened for reading."""
        with self.lock:
            self._settle()
            at = max(bisect.bisect_right(self._starts, address) - 1, 0)
            for region in self._regions[at:]:
                if region.start >= address + length:
                    break
                if region.end > address and region.backing is not None and not region.backing.writable:
                    return False
        return True

    def is_gone(self, address: int) -> bool:
        """Whether an access there met a page behind the end of its file; a page that the file has by now is given back."""
        with self.lock:
            if not 0 <= address < self.size or not self.table[address >> 12] & GONE:
                return False
            region, page = self.region_at(address), page_down(address)
            if region is None or self.table[page >> 12] & LOST:
                return True
            self._host_protect(page, page + PAGE, int(region.prot))
            if not self._has(page):
                return True
            self._set_table(page, page + PAGE, MAPPED | int(region.prot))
            return False

    def _has(self, page: int) -> bool:
        """Whether the host can read this page, which it may."""
        if self._probe < 0:
            self._probe = os.memfd_create("vm-probe", os.MFD_CLOEXEC)
        try:
            # The host's kernel looks, and so finds a fault without a signal.
            os.pwrite(self._probe, self.view[page : page + 1], 0)
        except OSError:
            return False
        return True

    def find_gone(self) -> bool:
        """Whether there are pages behind the ends of mapped files that were not known to be; they are ``GONE`` now. For an engine
        that is told of no address."""
        found = False
        with self.lock:
            self._settle()
            for region in self._regions:
                if region.backing is None or not region.backing.real or not region.prot:
                    continue
                # What is behind a file's end is the last pages of a mapping.
                first, last = region.start >> 12, region.end >> 12
                while last > first and self.table[last - 1] & (GONE | LOST):
                    last -= 1
                end = last
                if last == first or self._has(last - 1 << 12):
                    continue
                while first < last:
                    middle = (first + last) // 2
                    if self._has(middle << 12):
                        first = middle + 1
                    else:
                        last = middle
                self._set_table(first << 12, end << 12, MAPPED | GONE)
                found = True
        return found

    def unmap(self, address: int, length: int) -> None:
        """Unmap every page of the range; holes are allowed."""
        start, end = self._range(address, length)
        with self.lock:
            self._account(start, end, Prot.NONE)
            old = self._cut(start, end, Prot.NONE)
            self._set_table(start, end, 0)
            self._host_protect(start, end, 0)
            self._clear(start, end, old)

    def protect(self, address: int, length: int, prot: Prot) -> bool:
        """Change protections. False, with nothing changed, if the range has a hole. Raises MemoryLimit, and PermissionError
        for writing to a shared mapping of a file that was opened for reading."""
        start, end = self._range(address, length)
        with self.lock:
            if not self.is_mapped(start, end - start):
                return False
            if prot & Prot.WRITE and not self.may_write(start, end - start):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._account(start, end, prot)
            old = self._cut(start, end, prot)
            for region in old:
                self._insert(replace(region, prot=prot))
            self._set_table(start, end, MAPPED | int(prot))
            self._host_protect(start, end, int(prot))
            return True

    def discard(self, address: int, length: int) -> None:
        """Zero whole pages and give their host memory back; the mapping and its protections stay (MADV_DONTNEED).

        Pages of a mapped file show the file again.
        """
        start, end = self._range(address, length)
        with self.lock:
            self._zero(start, end)

    def is_mapped(self, address: int, length: int) -> bool:
        """Whether every page of the range is mapped, whatever its permissions."""
        start, end = page_down(address), page_up(address + length)
        if end > self.size:
            return False
        self._settle()
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        for region in self._regions[first:]:
            if region.start > start:
                return False
            start = max(start, region.end)
            if start >= end:
                return True
        return False

    def find_free(
        self, length: int, *, hint: int = 0, low: int = 0x10000, high: int | None = None
    ) -> int | None:
        """The address of a free range: at ``hint`` if it is free there, else the highest below ``high``, else None."""
        length = page_up(length)
        top = min(high if high is not None else self.size, self.size)
        with self.lock:
            self._settle()
            if hint and self._is_free(page_down(hint), length):
                return page_down(hint)
            for region in reversed(self._regions):
                if region.end <= top and top - region.end >= length and top - length >= low:
                    return top - length
                top = min(top, region.start)
            return top - length if top - length >= low else None

    def _is_free(self, start: int, length: int) -> bool:
        if start <= 0 or start + length > self.size:
            return False
        at = bisect.bisect_right(self._starts, start) - 1
        if at >= 0 and self._regions[at].end > start:
            return False
        return at + 1 >= len(self._regions) or self._regions[at + 1].start >= start + length

    def prefer_huge_pages(self, start: int, length: int) -> None:
        """Ask the host for large pages in a range that will be used densely; it may refuse. The last may be as much as half behind the
        range."""
        end = start + length
        if HUGE // 2 <= end % HUGE and (end | HUGE - 1) < self.size:
            end = (end | HUGE - 1) + 1
        if _HUGE is not None:
            # SAFETY: advice; the range is in the arena.
            _libc.madvise(self.host_address + start, end - start, _HUGE)

    def populate(self, start: int, end: int) -> None:
        """Have the host's pages of a small range that will be used densely before the guest touches them, if that is what the engine
        wants; the host may refuse."""
        if self.populates and start < end:
            # SAFETY: the range is in the arena, and mapped to be written. Pages that are there already stay as they are.
            _libc.madvise(self.host_address + start, end - start, _POPULATE_WRITE)

    def regions(self) -> Iterator[Region]:
        """The mapped regions by address, neighbours that differ in nothing joined."""
        with self.lock:
            self._settle()
            last: Region | None = None
            for region in list(self._regions):
                if (
                    last is not None
                    and last.end == region.start
                    and not region.offset
                    and not last.offset
                    and (last.prot, last.name, last.shared) == (region.prot, region.name, region.shared)
                ):
                    last = replace(last, end=region.end)
                    continue
                if last is not None:
                    yield last
                last = region
            if last is not None:
                yield last

    @property
    def region_count(self) -> int:
        """How many regions there are; joined neighbours count as they are kept."""
        self._settle()
        return len(self._regions)

    def region_at(self, address: int) -> Region | None:
        """The region that holds ``address``."""
        self._settle()
        at = bisect.bisect_right(self._starts, address) - 1
        return self._regions[at] if at >= 0 and self._regions[at].end > address else None

    def _range(self, address: int, length: int) -> tuple[int, int]:
        if address % PAGE or length <= 0 or address < 0 or address + length > self.size:
            raise ValueError(f"bad range {address:#x}+{length:#x}")
        return address, page_up(address + length)

    def _account(self, start: int, end: int, prot: Prot) -> None:
        self._settle()
        old = bytes(self.table[start // PAGE : end // PAGE])
        pages = len(old) - old.count(0) - old.count(MAPPED)
        wanted = self._committed + ((end - start) if prot else 0) - pages * PAGE
        if self.limit is not None and wanted > self.limit and wanted > self._committed:
            raise MemoryLimit(wanted, self.limit)
        self._committed = wanted
        self._peak = max(self._peak, wanted)

    def _cut(self, start: int, end: int, prot: Prot) -> list[Region]:
        """Take ``[start, end)`` out of the region list, for ``prot`` to come, and return the pieces taken."""
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        keep: list[Region] = []
        cut: list[Region] = []
        last = first
        executable = bool(prot & Prot.EXEC)
        for region in self._regions[first:]:
            if region.start >= end:
                break
            last += 1
            if region.end <= start:
                keep.append(region)
                continue
            executable |= bool(region.prot & Prot.EXEC)
            if region.start < start:
                keep.append(replace(region, end=start))
            at = max(region.start, start)
            piece = replace(region, start=at, end=min(region.end, end))
            cut.append(replace(piece, offset=region.offset + at - region.start) if region.name else piece)
            if region.end > end:
                rest = replace(region, start=end)
                keep.append(replace(rest, offset=region.offset + end - region.start) if region.name else rest)
        self._regions[first:last] = keep
        self._starts[first:last] = [region.start for region in keep]
        if executable:
            for notify in self.code_changed:
                notify(start, end)
        return cut

    def _insert(self, region: Region) -> None:
        at = bisect.bisect_left(self._starts, region.start)
        if not region.name or region.name.startswith("["):
            # Anonymous neighbours of one kind are one region, or a heap of many small mappings is slow to search.
            key = (region.prot, region.name, region.shared)
            if (
                at
                and (last := self._regions[at - 1]).end == region.start
                and (last.prot, last.name, last.shared) == key
            ):
                region = replace(region, start=last.start, offset=0)
                at -= 1
                del self._starts[at], self._regions[at]
            if (
                at < len(self._regions)
                and (following := self._regions[at]).start == region.end
                and (following.prot, following.name, following.shared) == key
            ):
                region = replace(region, end=following.end, offset=0)
                del self._starts[at], self._regions[at]
        self._starts.insert(at, region.start)
        self._regions.insert(at, region)

    def _set_table(self, start: int, end: int, value: int) -> None:
        pages = (end - start) // PAGE
        self.table[start // PAGE : end // PAGE] = bytes([value]) * pages
        for page, bits in self._hidden.items():
            if start <= page << 12 < end:
                self.table[page] = _concealed(value, bits)
        for notify in self.table_changed:
            notify(start, end)

    def layout(self) -> tuple[object, ...]:
        """What is mapped where and how, for set_layout()."""
        with self.lock:
            self._settle()
            return list(self._regions), list(self._starts), self._committed, bytes(self.table)

    def set_layout(self, layout: tuple[object, ...], changed: Sequence[tuple[int, int]]) -> None:
        """Map as it was; ``changed`` is where something has been mapped, unmapped or protected since. What lies there is zeroed
        memory then. Not for what has mapped files."""
        regions, starts, committed, table = layout
        assert isinstance(regions, list) and isinstance(starts, list)  # noqa: PT018
        assert isinstance(committed, int) and isinstance(table, bytes)  # noqa: PT018
        with self.lock:
            self._settle()
            self._regions, self._starts, self._committed = list(regions), list(starts), committed
            for start, end in changed:
                self.table[start >> 12 : end >> 12] = table[start >> 12 : end >> 12]
                for notify in self.table_changed:
                    notify(start, end)
                self._zero(start, end)

    def refresh(self, start: int, end: int) -> None:
        """Make whoever shares the host's page tables (KVM) forget what it knows of these pages, which stay as they are."""
        # SAFETY: the range lies inside the arena. x86-64 has no pages that can be written and not read, so that other threads of
        # the host notice nothing in between; what it is for is the kernel's notice to those that share the tables.
        host = self.host_address + start
        if not _libc.mprotect(host, end - start, 2) and not _libc.mprotect(host, end - start, 3):
            return
        if ctypes.get_errno() != errno.EACCES:
            raise HostError(
                f"cannot protect guest memory at {start:#x} ({os.strerror(ctypes.get_errno())})",
                hint="the guest may have too many mappings; raise vm.max_map_count",
            )
        for page in range(host, host + end - start, PAGE):
            if _libc.mprotect(page, PAGE, 2):
                # Shared memory that is attached for reading: the host drops its entry, and finds the same page again.
                _libc.madvise(page, PAGE, _mmap.MADV_DONTNEED)
            else:
                _libc.mprotect(page, PAGE, 3)

    def _clear(self, start: int, end: int, old: list[Region]) -> None:
        """Make the range zeroed memory of the arena again. ``old`` is what was mapped there."""
        if not any(piece.backing is not None and piece.backing.real for piece in old):
            self._zero(start, end)
            return
        self._fresh(start, end)

    def _fresh(self, start: int, end: int) -> None:
        """Map new anonymous memory where a file is mapped, with no permission if the host protects pages."""
        flags, prot = _PRIVATE | _FIXED | _ANONYMOUS | _NORESERVE, 0 if self.enforced else 3
        # SAFETY: the range lies inside the arena (_range); the pages of the file that are replaced stay in the file.
        if _libc.mmap(self.host_address + start, end - start, prot, flags, -1, 0) == _FAILED:
            raise HostError(
                f"cannot clear guest memory at {start:#x} ({os.strerror(ctypes.get_errno())})",
                hint="the guest may have too many mappings; raise vm.max_map_count",
            )

    def begin_as(self, layout: tuple[object, ...], fd: int, runs: Sequence[tuple[int, int, int]]) -> None:
        """Map in empty memory what ``layout`` says. ``runs`` are (start, end, offset in the file ``fd``) of what is not zero:
        pages of the file, which are copied when they are first written. Raises OSError, after which it is good for close() only."""
        regions, starts, committed, table = layout
        assert isinstance(regions, list) and isinstance(starts, list)  # noqa: PT018
        assert isinstance(committed, int) and isinstance(table, bytes)  # noqa: PT018
        with self.lock:
            for start, end, offset in runs:
                # SAFETY: the range lies inside the arena, which nobody uses yet; the file is sealed, so that no access can find
                # a page behind its end.
                if (
                    _libc.mmap(
                        self.host_address + start, end - start, 3, _PRIVATE | _FIXED | _NORESERVE, fd, offset
                    )
                    == _FAILED
                ):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
                self._copied.append((start, end))
            self._regions, self._starts, self._committed = list(regions), list(starts), committed
            for region in regions:
                # PERF: not all of the table, which would be a megabyte for each clone.
                self.table[region.start >> 12 : region.end >> 12] = table[
                    region.start >> 12 : region.end >> 12
                ]

    def touched(self, start: int, end: int) -> Iterator[int]:
        """The addresses of pages of a range that the host has memory for: all others hold zeros."""
        try:
            fd = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield from range(start, end, PAGE)
            return
        try:
            for first, last, raw in self._pagemap(fd, start, end):
                if any(low < last and high > first for low, high in self._copied) or len(raw) % 8:
                    yield from range(first, last, PAGE)
                elif any(raw):
                    for number, word in enumerate(memoryview(raw).cast("Q")):
                        if word & _PRESENT:
                            yield first + number * PAGE
        finally:
            os.close(fd)

    def _pagemap(self, fd: int, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
        """Parts of a range, and what the open file says of them: their first address, their end, and the words."""
        for first in range(start, end, _PAGEMAP_BYTES // 8 * PAGE):
            last = min(first + _PAGEMAP_BYTES // 8 * PAGE, end)
            yield (
                first,
                last,
                os.pread(fd, (last - first) // PAGE * 8, (self.host_address + first) // PAGE * 8),
            )

    def residence(self, start: int, end: int) -> Residence:
        """What of a mapped range is there. All of it is, anonymous and this process's, where the host does not say."""
        counts: Counter[int] = Counter()
        try:
            with open(_PAGEMAP, "rb", buffering=0) as file:
                for _, _, raw in self._pagemap(file.fileno(), start, end):
                    counts.update(raw[7::8])  # each page's flags
        except OSError:
            return Residence((end - start) // PAGE, 0, 0, 0, 0)

        def pages(wanted: int, of: int = _THERE | _OF_FILE | _ALONE) -> int:
            return sum(count for flags, count in counts.items() if flags & of == wanted)

        return Residence(
            alone=pages(_THERE | _ALONE),
            shared=pages(_THERE),
            file_alone=pages(_THERE | _OF_FILE | _ALONE),
            file_shared=pages(_THERE | _OF_FILE),
            swapped=pages(_SWAPPED, _SWAPPED),
        )

    def _zero(self, start: int, end: int) -> None:
        # Always, whatever the table says: a store of another thread may have raced with the unmapping of the page.
        # SAFETY: the range lies inside the arena (_range); MADV_DONTNEED of private anonymous pages zeroes them.
        _libc.madvise(self.host_address + start, end - start, 4)
        if self._copied:
            self._uncopy(start, end)

    def _uncopy(self, start: int, end: int) -> None:
        """Put anonymous memory where a snapshot's file is mapped, whose pages would come back else."""
        kept: list[tuple[int, int]] = []
        for first, last in self._copied:
            low, high = max(first, start), min(last, end)
            if low >= high:
                kept.append((first, last))
                continue
            self._fresh(low, high)
            if self.enforced:
                self._protect_again(low, high)
            kept += [piece for piece in ((first, low), (high, last)) if piece[0] < piece[1]]
        self._copied = kept

    # -- access -------------------------------------------------------------------------------------------------

    def check(self, address: int, length: int, access: Access) -> None:
        """Raise MemoryFault for the first byte of the range that the guest may not access."""
        need = _NEEDS[access._value_]  # PERF: system calls; .value costs a call
        size = self.size
        if 0 <= address < size and address + length <= size:
            table = self.table
            page = address >> 12
            last = address + length - 1 >> 12
            if last <= page:
                if table[page] & need:
                    return
            else:
                rest = bytes(table[page : last + 1]).translate(None, _ALLOWING[need])
                if not rest:
                    return
                while table[page] & need:
                    page += 1
            at = max(address, page << 12)
            raise MemoryFault(at, access, mapped=bool(table[page] & MAPPED))
        if 0 <= address < self.size:
            self.check(address, self.size - address, access)
            address = self.size
        raise MemoryFault(address, access, mapped=False)

    def read(self, address: int, length: int) -> bytes:
        """Read as the guest would. Raises MemoryFault."""
        if length <= 0:
            return b""
        self.check(address, length, _READ)
        return bytes(self.view[address : address + length])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write as the guest would. Raises MemoryFault with nothing written."""
        length = len(data)
        if length:
            self.check(address, length, _WRITE)
            self.view[address : address + length] = data

    def load(self, address: int, size: int) -> int:
        """A little-endian unsigned load of ``size`` bytes. Raises MemoryFault."""
        self.check(address, size, _READ)
        unpack = _UNPACK.get(size)
        if unpack is None:
            return int.from_bytes(self.view[address : address + size], "little")
        value: int = unpack(self.view, address)[0]
        return value

    def store(self, address: int, size: int, value: int) -> None:
        """A little-endian store of ``size`` bytes. Raises MemoryFault."""
        self.check(address, size, _WRITE)
        self.view[address : address + size] = value.to_bytes(size, "little")

    def fetch(self, address: int, length: int) -> bytes:
        """Up to ``length`` instruction bytes; fewer where executable pages end. Raises MemoryFault for none."""
        self.check(address, 1, _EXEC)
        end = min(address + length, self.size)
        edge = page_up(address + 1)
        while edge < end and self.table[edge >> 12] & Access.EXEC.value:
            edge += PAGE
        return bytes(self.view[address : min(end, edge)])

    def read_cstring(self, address: int, limit: int = 4096) -> bytes:
        """The bytes before the next NUL. Raises MemoryFault, or ValueError if there is no NUL in ``limit`` bytes."""
        out = bytearray()
        while len(out) < limit:
            step = min(PAGE - address % PAGE, limit - len(out))
            chunk = self.read(address, step)
            end = chunk.find(0)
            if end >= 0:
                return bytes(out + chunk[:end])
            out += chunk
            address += step
        raise ValueError("no NUL byte")

    def peek(self, address: int, length: int) -> bytes:
        """Read whatever the permissions say (debugger, loader). Raises MemoryFault for pages not mapped."""
        if not self.is_mapped(address, length):
            raise MemoryFault(address, Access.READ, mapped=False)
        with self.opened(address, length, writing=False) as view:
            return bytes(view)

    def poke(self, address: int, data: bytes) -> None:
        """Write whatever the permissions say (debugger, loader). Raises MemoryFault for pages not mapped, and for those of a
        file that was opened for reading and is mapped shared."""
        if data:
            if not self.is_mapped(address, len(data)):
                raise MemoryFault(address, Access.WRITE, mapped=False)
            if not self.may_write(address, len(data)):
                raise MemoryFault(address, Access.WRITE, mapped=True)
            with self.opened(address, len(data)) as view:
                view[:] = data
