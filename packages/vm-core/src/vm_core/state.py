"""vCPU state: the registers of one hardware thread in one flat buffer, shared by Python and native engines.

The buffer starts with a header that is the same for every ISA (its words are named in :data:`HEADER`); the ISA's
register files follow, one 8-byte slot a register (16 for 128-bit files). Each file has, after its registers, the
extra slots its ISA declares (a sink for writes to a zero register, an alternative stack pointer, ...).
"""

from __future__ import annotations

import ctypes

from vm_core.hints import Final, Protocol
from vm_core.record import record

__all__ = ["HEADER", "HEADER_BYTES", "CpuState", "Outside", "RegisterFile", "StateLayout"]

HEADER: Final[dict[str, int]] = {
    "pc": 0,
    "fuel": 8,  # instructions left in this run() call, signed
    "reason": 16,  # why native code returned: vm_jit.engine.Reason
    "arena": 24,  # host address of guest address 0
    "image": 32,  # host address of what native code may do with its own tables: vm_jit.records.WORDS
    "pages": 40,  # host address of the table from guest page to predecoded records
    "regions": 48,  # host address of the table of compiled regions
    "stack_limit": 56,  # lowest host stack address that compiled code may use
    "fp_flags": 64,  # sticky exceptions of the guest, in the ISA's own bit order
    "fp_rounding": 72,  # dynamic rounding mode, in the ISA's own numbering
    "reservation": 80,  # address of a load-reserved, or all ones
    "reserved_value": 88,  # what it loaded
    "host_fp": 96,  # the host's FP control word while guest code runs
    "jit_retired": 104,  # instructions retired in compiled regions
    "futex_credit": 112,  # whether native code gives way to others before it sleeps, see vm_jit.descriptors
    "scratch": 120,
    # What engines that answer system calls themselves need: see vm_core.linux.native.
    "calls": 128,  # host address of the process's table of such calls, or 0
    "native_count": 136,  # calls answered natively
    "patience": 144,  # how many more may follow before Python gets to run, signed
    "attention": 152,  # not 0: the thread must leave for Python
    "waiting": 160,  # not 0: native code waits, also for `attention`
    "in_call": 168,  # odd while native code uses a host descriptor
    "signal_mask": 176,
    "signal_pending": 184,  # not 0: signals may be pending for the thread or its process
    "tid": 192,
    "altstack": 200,  # address, flags and size of the alternative signal stack
    "wait_nanoseconds": 224,  # the longest native wait, or 0 for no limit
    "fault_address": 232,  # an access that was refused: guest address, and permission needed | bytes << 8
    "fault_access": 240,
    "fault_handler": 248,  # native code that a refused access goes to
    "wake_fd": 256,  # a host descriptor that is ready when the thread is to end its wait, plus 1; 0 if there is none yet
    "wait_credit": 272,  # the same for descriptors
    "stack_low": 264,  # lowest address of the host thread's stack, or 0 where that is not known
}
"""Byte offsets of the header words (8 bytes each)."""
HEADER_BYTES: Final = 320


@record(frozen=True)
class RegisterFile:
    """``count`` registers of ``width`` bits. Register ``zero`` reads as 0 and ignores writes.

    ``extra`` names the slots after the registers (slot ``count`` and up). A file with a zero register has a slot
    named ``sink`` there, which takes the ignored writes.
    """

    name: str
    count: int
    width: int
    zero: int | None = None
    extra: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def slots(self) -> int:
        return self.count + len(self.extra)

    @property
    def slot_bytes(self) -> int:
        return 16 if self.width > 64 else 8

    def write_slot(self, index: int) -> int:
        """The slot that a write of register ``index`` goes to."""
        return self.count + self.extra.index("sink") if index == self.zero else index


class StateLayout:
    """Where each register file of an ISA lies in the buffer."""

    def __init__(self, files: tuple[RegisterFile, ...]) -> None:
        self.files = {file.name: file for file in files}
        self.offsets: dict[str, int] = {}
        self.names: dict[str, tuple[str, int]] = {}
        at = HEADER_BYTES
        for file in files:
            at = (at + file.slot_bytes - 1) & -file.slot_bytes
            self.offsets[file.name] = at
            for i in range(file.count):
                self.names[f"{file.name}{i}"] = (file.name, i)
            for i, name in enumerate(file.names):
                self.names[name] = (file.name, i)
            for i, name in enumerate(file.extra):
                if name != "sink":
                    self.names[name] = (file.name, file.count + i)
            at += file.slots * file.slot_bytes
        self.size = (at + 63) & -64

    def offset(self, file: str, slot: int) -> int:
        """Byte offset of a slot in the buffer."""
        return self.offsets[file] + slot * self.files[file].slot_bytes


class Outside(Protocol):
    """What an engine keeps elsewhere of a vCPU that a processor runs (x86-64: x87, SSE, AVX and later ones).

    ``save`` and ``load`` move it as an XSAVE area of the standard format (Intel SDM volume 1, 13.4); the vCPU does not run.
    ``flags`` are those of RFLAGS that the state has no registers for: TF, NT, AC, ID.
    """

    flags: int

    def save(self) -> bytes:
        """All of it."""

    def load(self, area: bytes) -> None:
        """Replace it. What the processor would refuse in it is left out."""

    def copy(self) -> Outside:
        """For a second vCPU that starts with the same."""

    def kick(self) -> None:
        """Make the vCPU leave guest code soon, or not enter it. Callable from any thread."""


class CpuState:
    """One vCPU. ``cpu.pc``, ``cpu["a0"]``, ``cpu.get("x", 10)``; values are unsigned ints of the file's width.

    ``address`` is the host address of the buffer. It is pinned as long as the object lives.
    """

    outside: Outside | None = None
    """Set by an engine that keeps registers of it elsewhere."""

    def __init__(self, layout: StateLayout) -> None:
        self.layout = layout
        self._storage = (ctypes.c_uint64 * (layout.size // 8 + 8))()
        base = ctypes.addressof(self._storage)
        skip = -base % 64
        # SAFETY: the aligned window lies inside _storage (8 words of slack), which this object keeps alive.
        self.address = base + skip
        self.words = memoryview(self._storage).cast("B")[skip : skip + layout.size].cast("Q")
        self.header("reservation", (1 << 64) - 1)

    def header(self, name: str, value: int | None = None) -> int:
        """Read, or with ``value`` write, a header word as an unsigned 64-bit integer."""
        at = HEADER[name] // 8
        if value is not None:
            self.words[at] = value & 0xFFFF_FFFF_FFFF_FFFF
        return self.words[at]

    @property
    def pc(self) -> int:
        return self.words[0]

    @pc.setter
    def pc(self, value: int) -> None:
        self.words[0] = value & 0xFFFF_FFFF_FFFF_FFFF

    def get(self, file: str, slot: int) -> int:
        """The value in a slot of a register file."""
        info = self.layout.files[file]
        at = self.layout.offset(file, slot) // 8
        if info.width > 64:
            return self.words[at] | self.words[at + 1] << 64
        return self.words[at]

    def set(self, file: str, slot: int, value: int) -> None:
        """Write a slot; a write to the file's zero register goes to its sink."""
        info = self.layout.files[file]
        if slot == info.zero:
            return
        at = self.layout.offset(file, slot) // 8
        value &= (1 << info.width) - 1
        if info.width > 64:
            self.words[at + 1] = value >> 64
        self.words[at] = value & 0xFFFF_FFFF_FFFF_FFFF

    def __getitem__(self, name: str) -> int:
        return self.get(*self.layout.names[name])

    def __setitem__(self, name: str, value: int) -> None:
        file, slot = self.layout.names[name]
        self.set(file, slot, value)

    def __contains__(self, name: object) -> bool:
        return name in self.layout.names

    def copy(self) -> CpuState:
        """A second vCPU with the same registers (as clone does)."""
        other = CpuState(self.layout)
        other.words[:] = self.words
        if self.outside is not None:
            other.outside = self.outside.copy()
        return other

    def snapshot(self) -> dict[str, int]:
        """All registers by name, the pc included."""
        out = {"pc": self.pc}
        for file in self.layout.files.values():
            for i in range(file.count):
                out[file.names[i] if i < len(file.names) else f"{file.name}{i}"] = self.get(file.name, i)
        return out
