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

import struct
from array import array
from collections.abc import Iterable
from typing import Final

from vm_accel import x86
from vm_accel.memory import HostMemory
from vm_core.memory import PAGE
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
    "restore": "mov r10, rdx; mov eax, -1; mov edx, eax; xrstor64 [rip + 0x1fce]; mov rdx, r10; xor eax, eax; jmp r11",
}
STUBS: Final = {
    "syscall": b"\xe6\x07\x0f\x0b",
    "exception": b"\xf4\x90",
    "restore": bytes.fromhex("4989d2 b8ffffffff 89c2 480fae2dce1f0000 4c89d2 31c0 41ffe3"),
}
"""What the assembler makes of SOURCES."""

CODE0, CODE3, DATA3 = 0x10, 0x33, 0x2B
"""Selectors; the program's are those of Linux."""
_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _NX = 1, 2, 4, 0x20, 0x40, 1 << 63
_MARKED: Final = _PRESENT | _ACCESSED | _DIRTY
"""KVM need not mark them then."""
_TSS_BYTES: Final = 104


class Space:
    """Our own pages, for one program. ``memory`` is to be mapped at guest-physical 0.

    ``of``: the file of another one (:meth:`freeze`), whose pages these are until they are written.
    """

    def __init__(self, pages: int, *, of: int = -1) -> None:
        self.memory = HostMemory(_SIZE, fd=of, private=True)
        self.entries = self.memory.view[_TABLES:].cast("Q")
        """One for each page of the program's address space."""
        if of < 0:
            self._make(pages)

    def _make(self, pages: int) -> None:
        write, words = self.memory.write, struct.Struct("<Q").pack
        table = _MARKED | _WRITE
        # The program's side: the permissions of the upper levels are all that there are.
        write(_ROOT, words(_LOW | table | _USER))
        for i in range(-(-pages // (512 * 512))):
            write(_LOW + 8 * i, words(_DIRECTORIES + i * PAGE | table | _USER))
        rows = range(_TABLES | table | _USER, (_TABLES | table | _USER) + -(-pages // 512) * PAGE, PAGE)
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

    def fill(self, start: int, table: bytes) -> bool:
        """The pages from the program's address ``start`` on have these bytes in the permission table now. Whether any lost a
        permission, which a translation lookaside buffer may still have."""
        first = start >> 12
        entries, lost, at = self.entries, False, 0
        while at < len(table):
            byte = table[at]
            end = at + 1
            if byte == table[-1] and table.count(byte, at) == len(table) - at:
                end = len(table)
            while end < len(table) and table[end] == byte:
                end += 1
            page, stop = first + at, first + end
            flags = _flags(byte)
            lost = lost or _loses(entries[page:stop], flags)
            if flags:
                begin = ARENA + page * PAGE | flags & ~_NX
                rows = array("Q", range(begin, begin + (stop - page) * PAGE, PAGE))
                if flags & _NX:
                    rows = array("Q", [row | _NX for row in rows])
                entries[page:stop] = memoryview(rows)
            else:
                entries[page:stop] = memoryview(bytes(8 * (stop - page))).cast("Q")
            at = end
        return lost

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
        self.memory.close()


def _flags(byte: int) -> int:
    """Of a page table entry, for a byte of the permission table. What can be written or run can be read."""
    if not byte & 7:
        return 0
    return _MARKED | _USER | (_WRITE if byte & 2 else 0) | (0 if byte & 4 else _NX)


def _loses(entries: memoryview, flags: int) -> bool:
    """Whether any of these entries allows what ``flags`` does not."""
    data = entries.tobytes()
    if not data.strip(b"\0"):
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
