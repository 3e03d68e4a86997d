"""The address space of a program under KVM: page tables, and the few bytes of ring 0 that turn a trap into an exit.

Guest-physical memory has two parts. From 4 GiB on lies the arena (:mod:`vm_core.memory`), in which the program's address is the
offset. At 0 lie our own pages, which the program cannot reach but for two, and not write:

    0x0000      root of the page tables, and the levels of our own half
    0x8000      the interrupt table: each vector has one gate, on the stack of the vCPU
    0x9000      segment descriptors, then one HLT for each vector
    0xa000      the entry of SYSCALL, readable for the program: on KVM's paravirtual flavour it runs there in ring 3
    0xc000      vector registers for a function that is called, readable for the program
    0x10000     one page a vCPU: its task state segment, and the stack for one exception's frame
    0x200000    the page tables of the program, all of them in order: entry i is for page i of the arena

Ring 0 executes one instruction for each trap, since the paravirtual flavour emulates it: HLT after an exception, OUT to
:data:`PORT` after SYSCALL, which the task state segment allows (so that it does the same in ring 3). Neither returns: the way
back to the program is that KVM gets its registers. Intel SDM 325462-083, volume 3: 4.5 (paging), 6.14 (64-bit interrupts),
7.7 (task state), volume 1: 19.5.2 (I/O permission map).
"""

from __future__ import annotations

import enum
import struct
from array import array
from collections.abc import Iterable
from typing import Final

from vm_accel import x86
from vm_accel.memory import HostMemory
from vm_core.memory import DENSE, HUGE, PAGE
from vm_core.snapshot import sealed

__all__ = [
    "ARENA",
    "BASE",
    "ENTRY",
    "HANDLERS",
    "PORT",
    "RESTORE",
    "RETURN",
    "SOURCES",
    "STUBS",
    "VCPUS",
    "Space",
    "Stale",
]

ARENA: Final = 1 << 32
"""Guest-physical address of the program's address 0."""
BASE: Final = 0x7F00_0000_0000
"""Where our own pages are in each program's address space; far behind what it can use."""
PORT: Final = 7
VCPUS: Final = 480
"""The most in one program: as many pages for them fit into one table."""

_ROOT, _LOW, _DIRECTORIES, _HIGH = (
    0x0000,
    0x1000,
    0x2000,
    0x6000,
)  # then 0x7000: our own directory; 0xb000: its table
_GATES, _DESCRIPTORS, _SYSCALL, _OWN_TABLE, _VECTORS = 0x8000, 0x9000, 0xA000, 0xB000, 0xC000
_VCPU: Final = 0x1_0000
_TABLES: Final = 0x20_0000
_SIZE: Final = _TABLES + (8 << 20)

HANDLERS: Final = BASE + _DESCRIPTORS + 0x100
"""Of vector n: two bytes a vector."""
ENTRY: Final = BASE + _SYSCALL
RETURN: Final = ENTRY + 16
"""Where a function that vm called returns to: the same bytes once more."""
RESTORE: Final = ENTRY + 32
"""Code for ring 3 that loads the vector registers from our own page, and goes on where r11 says; r10 and rax are lost."""
SOURCES: Final = {
    "syscall": f"out {PORT}, al; ud2",
    "exception": "hlt; nop",
    "restore": "mov r10, rdx; mov eax, 0xfff9ffff; mov edx, -1; xrstor64 [rip + 0x1fcb]; mov rdx, r10; xor eax, eax; jmp r11",
}
STUBS: Final = {
    "syscall": b"\xe6\x07\x0f\x0b",
    "exception": b"\xf4\x90",
    "restore": bytes.fromhex("4989d2 b8fffff9ff baffffffff 480fae2dcb1f0000 4c89d2 31c0 41ffe3"),
}
"""What the assembler makes of SOURCES. ``restore`` asks for all components but AMX's tiles (bits 17 and 18), which are behind the page:
the processor looks whether it may read also what is marked as empty."""

CODE0, CODE3, DATA3 = 0x10, 0x33, 0x2B
"""Selectors; the program's are those of Linux."""
_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _LARGE, _NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
_MARKED: Final = _PRESENT | _ACCESSED | _DIRTY
"""KVM need not mark them then."""
_FLAGS: Final = _MARKED | _WRITE | _USER | _NX
"""All that the entries of the program's pages have beside an address."""
_TSS_BYTES: Final = 104
_BLOCK: Final = HUGE // PAGE
"""Pages that one entry of a directory is for, a large page or a table."""
_DENSE: Final = DENSE // PAGE
"""From so many writable pages on that are mapped together, whole blocks become large pages."""
_DIVISIONS: Final = 8
"""How often KVM may have to forget its tables, which it fills again fault by fault, before there are no large pages any more."""


class Stale(enum.IntEnum):
    """What KVM may still know that is no longer so: nothing, pages of the range, or where a table is."""

    NOTHING = 0
    PAGES = 1
    TABLES = 2


class Space:
    """Our own pages, for one program. ``memory`` is to be mapped at guest-physical 0.

    ``large``: with large pages, where many pages are mapped at once. KVM's own tables follow ours, and have small pages where the host
    has no large one. Such a table KVM goes on using when we put one in the large page's place, and fills in the neighbours of
    a page that faults with what the large page allowed. So a large page that changes as a whole stays one, or leaves
    nothing; where a table has to be, :meth:`fill` says ``Stale.TABLES``: KVM must forget all of its own.

    ``of``: the file of another one without large pages (:meth:`freeze`), whose pages these are until they are written.
    """

    def __init__(self, pages: int, *, of: int = -1, large: bool = False) -> None:
        self.memory = HostMemory(_SIZE, fd=of, private=True)
        self.entries = self.memory.view[_TABLES:].cast("Q")
        """One for each page of the program's address space; not valid where its block is a large page, or nothing."""
        self.blocks = self.memory.view[_DIRECTORIES : _DIRECTORIES + 4 * PAGE].cast("Q")
        """One for each 2 MiB: the table with the entries of its pages, a large page, or 0."""
        self._large = large
        self._divisions = _DIVISIONS
        self._without: set[int] = set()
        """Blocks without a table: large pages, and what is left of them."""
        if of < 0:
            self._make(pages)

    def _make(self, pages: int) -> None:
        write, words = self.memory.write, struct.Struct("<Q").pack
        table = _MARKED | _WRITE
        # The program's side: the permissions of the upper levels are all that there are.
        write(_ROOT, words(_LOW | table | _USER))
        for i in range(-(-pages // (512 * 512))):
            write(_LOW + 8 * i, words(_DIRECTORIES + i * PAGE | table | _USER))
        rows = [_table(block) for block in range(-(-pages // _BLOCK))]
        write(_DIRECTORIES, array("Q", rows).tobytes())
        # Ours.
        write(_ROOT + 8 * (BASE >> 39), words(_HIGH | table | _USER))
        write(_HIGH, words(0x7000 | table | _USER))
        write(0x7000, words(_OWN_TABLE | table | _USER))
        own = [0] * 512
        own[_GATES >> 12] = _GATES | _MARKED | _NX
        own[_DESCRIPTORS >> 12] = _DESCRIPTORS | _MARKED
        own[_SYSCALL >> 12] = _SYSCALL | _MARKED | _USER
        own[_VECTORS >> 12] = _VECTORS | _MARKED | _USER | _NX
        for i in range(VCPUS):
            at = _VCPU + i * PAGE
            own[at >> 12] = at | _MARKED | _WRITE | _NX
        write(_OWN_TABLE, array("Q", own).tobytes())
        self._gates()
        write(
            _SYSCALL,
            STUBS["syscall"].ljust(16, b"\xcc") + STUBS["syscall"].ljust(16, b"\xcc") + STUBS["restore"],
        )

    def _gates(self) -> None:
        gates = bytearray()
        for vector in range(256):
            handler = HANDLERS + 2 * vector
            # INT3 is the only one that a program may ask for; INT 0x80 and the others are general protection faults.
            kind = 0 if vector > 31 else 0xEE if vector in (3, 4) else 0x8E
            gates += struct.pack(
                "<HHBBHII", handler & 0xFFFF, CODE0, 1, kind, handler >> 16 & 0xFFFF, handler >> 32, 0
            )
        self.memory.write(_GATES, gates)
        flat = [
            0,
            0,
            0x00AF_9B00_0000_FFFF,
            0x00CF_9300_0000_FFFF,
            0,
            0x00CF_F300_0000_FFFF,
            0x00AF_FB00_0000_FFFF,
            0,
        ]
        self.memory.write(_DESCRIPTORS, struct.pack("<8Q", *flat))
        self.memory.write(_DESCRIPTORS + 0x100, STUBS["exception"] * 256)

    def fill(self, start: int, table: bytes) -> Stale:
        """The pages from the program's address ``start`` on have these bytes in the permission table now. ``Stale.PAGES`` if any
        lost a permission, which KVM or a translation lookaside buffer may still have."""
        first = start >> 12
        stale, at = Stale.NOTHING, 0
        while at < len(table):
            byte = table[at]
            end = at + 1
            if byte == table[-1] and table.count(byte, at) == len(table) - at:
                end = len(table)
            while end < len(table) and table[end] == byte:
                end += 1
            stale = max(stale, self._fill(first + at, first + end, _flags(byte)))
            at = end
        if stale is Stale.TABLES:
            self._divisions -= 1
            self._large = self._large and self._divisions > 0
            for block in list(self._without):
                if not self._large or not self.blocks[block]:
                    self._divide(block)
        return stale

    def _fill(self, page: int, stop: int, flags: int) -> Stale:
        dense = self._large and bool(flags & _WRITE) and stop - page >= _DENSE
        if not dense and not self._without:
            return self._fill_entries(page, stop, flags)
        stale = Stale.NOTHING
        while page < stop:
            block = page // _BLOCK
            end = min((block + 1) * _BLOCK, stop)
            if end - page == _BLOCK and (dense or block in self._without):
                stale = max(stale, self._fill_block(block, flags))
            else:
                if block in self._without:
                    self._divide(block)
                    stale = Stale.TABLES
                stale = max(stale, self._fill_entries(page, end, flags))
            page = end
        return stale

    def _fill_block(self, block: int, flags: int) -> Stale:
        """A large page, or without flags nothing."""
        page, large = block * _BLOCK, block in self._without
        lost = _loses(self.blocks[block : block + 1] if large else self.entries[page : page + _BLOCK], flags)
        self._without.add(block)
        self.blocks[block] = (ARENA + block * HUGE | flags | _LARGE) if flags else 0
        return Stale.PAGES if lost else Stale.NOTHING

    def _divide(self, block: int) -> None:
        """Let the block have its table again, in which all pages are what the block was."""
        page = block * _BLOCK
        self._without.remove(block)
        self.entries[page : page + _BLOCK] = _rows(page, page + _BLOCK, self.blocks[block] & _FLAGS)
        # Only now: the program runs meanwhile.
        self.blocks[block] = _table(block)

    def _fill_entries(self, page: int, stop: int, flags: int) -> Stale:
        lost = _loses(self.entries[page:stop], flags)
        self.entries[page:stop] = _rows(page, stop, flags)
        return Stale.PAGES if lost else Stale.NOTHING

    def freeze(self, regions: Iterable[tuple[int, int]]) -> int:
        """The descriptor of a file with what is here now, for programs with the same memory and one vCPU, the first; ``regions`` are
        (start, end) of what the program has mapped. Raises OSError."""
        view, zeros = self.memory.view, bytes(PAGE)
        pieces = [(0, view[: _VCPU + PAGE])]
        for number in sorted(
            {n for first, last in regions for n in range(first >> 21, last + (1 << 21) - 1 >> 21)}
        ):
            at = _TABLES + number * PAGE
            if view[at : at + PAGE] != zeros:
                pieces.append((at, view[at : at + PAGE]))
        return sealed("vm-tables", _SIZE, pieces)

    def vcpu(self, index: int) -> dict[str, int]:
        """The system registers of the vCPU of this number, whose page is made ready. In ring 3."""
        at = _VCPU + index * PAGE
        stack = BASE + at + PAGE
        state = struct.pack("<IQQQQQ", 0, stack, stack, stack, 0, stack).ljust(_TSS_BYTES - 2, b"\0")
        # The permission map: of the first eight ports only PORT, and the byte of ones behind.
        state += struct.pack("<HBB", _TSS_BYTES, 0xFF & ~(1 << PORT), 0xFF)
        self.memory.write(at, state)
        out = x86.long_mode(0, _ROOT, ring=3)
        out["rflags"] = 2
        out["cr0"] |= 1 << 18  # AM: the program may have its accesses checked for alignment, as under Linux
        out |= {
            "gdt.base": BASE + _DESCRIPTORS, "gdt.limit": 63, "idt.base": BASE + _GATES, "idt.limit": 0xFFF,
            # A local table would lie where the program writes: none, as the processor's own after a reset has 64 KiB at 0.
            "ldt.base": 0, "ldt.limit": 0,
            "tr.base": BASE + at, "tr.limit": len(state) - 1,
            "msr.0xc0000081": CODE0 << 32 | (CODE3 - 16) << 48, "msr.0xc0000082": ENTRY, "msr.0xc0000084": 0x4_7700,
        }  # fmt: skip
        return out

    def vectors(self, area: bytes) -> bool:
        """Put an XSAVE area where RESTORE takes it from. False: it does not fit."""
        if len(area) > PAGE:
            return False
        self.memory.write(_VECTORS, area)
        return True

    def frame(self, index: int) -> tuple[int, int, int, int, int]:
        """Of the vCPU's exception: error code (if its vector has one), rip, cs, rflags, rsp."""
        at = _VCPU + index * PAGE + PAGE - 48
        return struct.unpack("<5Q", self.memory.view[at : at + 40])

    def close(self) -> None:
        self.entries.release()
        self.blocks.release()
        self.memory.close()


def _flags(byte: int) -> int:
    """Of a page table entry, for a byte of the permission table. What can be written or run can be read."""
    if not byte & 7:
        return 0
    return _MARKED | _USER | (_WRITE if byte & 2 else 0) | (0 if byte & 4 else _NX)


def _table(block: int) -> int:
    """The entry of a directory for the table of this block."""
    return _TABLES + block * PAGE | _MARKED | _WRITE | _USER


def _rows(page: int, stop: int, flags: int) -> memoryview:
    """Entries for these pages of the program."""
    if not flags:
        return memoryview(bytes(8 * (stop - page))).cast("Q")
    begin = ARENA + page * PAGE | flags & ~_NX
    rows = array("Q", range(begin, begin + (stop - page) * PAGE, PAGE))
    if flags & _NX:
        rows = array("Q", [row | _NX for row in rows])
    return memoryview(rows)


def _loses(entries: memoryview, flags: int) -> bool:
    """Whether any of these entries allows what ``flags`` does not."""
    if not entries.tobytes().strip(b"\0"):
        return False
    if not flags & _PRESENT:
        return True
    writable, executable = flags & _WRITE, not flags & _NX
    if writable and executable:
        return False
    return any(
        (row & _WRITE and not writable) or (row & _PRESENT and not row & _NX and not executable)
        for row in entries
    )
