"""Executable memory, and the linker of the objects that LLVM emits.

W^X always: a block of code memory is one piece of an anonymous file mapped twice, writable at one address and
executable at another; no page is ever both. Memory of a freed object is used again, an empty chunk is unmapped.

Linking an object gives an :class:`Image`: code that runs at any address, with the few words that depend on the address
listed. That is what the cache keeps, so that a later run copies code and links nothing.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap as _mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vm_core.errors import CacheError, HostError
from vm_core.hints import Final
from vm_core.lengths import any_length
from vm_core.record import record
from vm_jit import faults

__all__ = ["CodeBlock", "CodeMemory", "Image", "LoadedObject", "link"]

CHUNK: Final = 4 << 20
_LARGE: Final = 64 << 10
_ALIGN: Final = 64
_MAX_ALIGN: Final = 4096
_MAX_OBJECT: Final = 256 << 20

Places = tuple[list[int], list[int]]
"""Offsets in a block, ascending, and the guest address that what begins there was made from; 0 for none."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED: Final = ctypes.c_void_p(-1).value
_FIXED: Final = 0x10
_WORD: Final = struct.Struct("<Q")
_IMAGE: Final = struct.Struct("<QIIIII")
"""Bytes of code, alignment, symbols, fixups, faults, bytes of names; then those offsets, the names, and the code."""


def _map(fd: int, size: int, prot: int, *, at: int | None = None) -> int:
    """Map a memory file, over what is ``at`` an address if one is given. Raises HostError."""
    address = _libc.mmap(at, size, prot, _mmap.MAP_SHARED | (0 if at is None else _FIXED), fd, 0)
    if address in (None, _FAILED):
        raise HostError(
            f"cannot map {size} bytes of code memory ({os.strerror(ctypes.get_errno())})",
            hint="the host may forbid executable mappings of memory files; use --engine reference",
        )
    return int(address)


class _Chunk:
    """One memory file: ``write`` and ``execute`` are the host addresses of its two mappings."""

    def __init__(self, size: int) -> None:
        self.size = size
        fd = os.memfd_create("vm-code", os.MFD_CLOEXEC)
        try:
            with any_length():
                os.ftruncate(fd, size)
            # SAFETY: both mappings belong to this object alone until unmap(); neither is both writable and executable.
            self.write = _map(fd, size, _mmap.PROT_READ | _mmap.PROT_WRITE)
            self.execute = _map(fd, size, _mmap.PROT_READ | _mmap.PROT_EXEC)
        finally:
            os.close(fd)
        # SAFETY: zero pages until something is written; lives as long as the code (unmap drops both).
        self.fault_table = int(_libc.mmap(None, size * 2, 3, 0x4022, -1, 0))
        if self.fault_table == _FAILED:
            raise HostError("cannot reserve address space for code tables", hint="raise ulimit -v")
        self.fixups = (
            memoryview((ctypes.c_uint32 * (size // 2)).from_address(self.fault_table)).cast("B").cast("I")
        )
        faults.add_code(self.execute, size, self.fault_table)
        self.free: list[tuple[int, int]] = [(0, size)]
        self.refuses = size + 1
        """There is no room for so many bytes, or more: they were not found, and nothing has come free since that may hold them."""

    def allocate(self, size: int, align: int) -> int | None:
        if size >= self.refuses:
            return None
        # PERF: what is large lies behind the many small gaps that freed code leaves.
        order = range(len(self.free)) if size < _LARGE else range(len(self.free) - 1, -1, -1)
        for i in order:
            at, length = self.free[i]
            start = (at + align - 1) & -align
            if at + length >= start + size:
                rest = [(at, start - at), (start + size, at + length - start - size)]
                self.free[i : i + 1] = [piece for piece in rest if piece[1]]
                return start
        self.refuses = size
        return None

    def release(self, at: int, size: int) -> None:
        i = bisect.bisect(self.free, (at, size))
        first, last = i, i
        if i and sum(self.free[i - 1]) == at:
            first, at, size = i - 1, self.free[i - 1][0], self.free[i - 1][1] + size
        if i < len(self.free) and at + size == self.free[i][0]:
            last, size = i + 1, size + self.free[i][1]
        self.free[first:last] = [(at, size)]
        self.refuses = max(self.refuses, size + 1)

    def unshare(self) -> None:
        """In the child of a fork: a memory file of our own, with what is in use, in place of the parent's."""
        fd = os.memfd_create("vm-code", os.MFD_CLOEXEC)
        try:
            with any_length():
                os.ftruncate(fd, self.size)
                self._copy_to(fd)
            for address, prot in ((self.write, _mmap.PROT_WRITE), (self.execute, _mmap.PROT_EXEC)):
                # SAFETY: over our own mapping of the same size and protection; what runs there finds the same bytes.
                _map(fd, self.size, _mmap.PROT_READ | prot, at=address)
        finally:
            os.close(fd)

    def _copy_to(self, fd: int) -> None:
        """What is in use, to the same places of another memory file."""
        at = 0
        for start, length in (*self.free, (self.size, 0)):
            # SAFETY: [at, start) lies in the chunk, whose writable mapping nobody else writes now.
            used = memoryview((ctypes.c_ubyte * (start - at)).from_address(self.write + at)).cast("B")
            while used:
                count = os.pwrite(fd, used, at)
                used, at = used[count:], at + count
            at = start + length

    def unmap(self) -> None:
        # SAFETY: called only when no block of this chunk is in use and no thread runs code in it.
        faults.drop_code(self.execute)
        self.fixups.release()
        _libc.munmap(self.fault_table, self.size * 2)
        _libc.munmap(self.write, self.size)
        _libc.munmap(self.execute, self.size)


@record()
class CodeBlock:
    """``size`` bytes of code memory: written at ``write``, run at ``execute``. ``fixups`` are its entries in the chunk's
    table of faults, a ``faulting`` one has entries of its own making; ``users`` have it in use."""

    chunk: _Chunk
    at: int
    size: int
    fixups: tuple[int, ...] = ()
    users: int = 1
    faulting: bool = False

    @property
    def write(self) -> int:
        return self.chunk.write + self.at

    @property
    def execute(self) -> int:
        return self.chunk.execute + self.at


@record()
class LoadedObject:
    """An object in code memory; ``symbols`` gives the host address of each function that it defines."""

    block: CodeBlock
    symbols: dict[str, int]


class CodeMemory:
    """All code memory of one engine."""

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._lock = threading.Lock()
        self.used = 0
        self.listener: Callable[[CodeBlock, str, Places], None] | None = None
        """Told of each block of guest code that comes into use, of the tier that made it, and of what it was made."""

    def tell(self, block: CodeBlock, tier: str, places: Callable[[], Places]) -> None:
        """Tell the listener, if there is one."""
        if self.listener is not None:
            self.listener(block, tier, places())

    @property
    def reserved(self) -> int:
        """Bytes mapped (once)."""
        return sum(chunk.size for chunk in self._chunks)

    def allocate(self, size: int, align: int = _ALIGN) -> CodeBlock:
        """``size`` bytes; ``align`` is a power of two of at least 64, at most 4096."""
        size = (size + _ALIGN - 1) & -_ALIGN
        with self._lock:
            for chunk in self._chunks:
                at = chunk.allocate(size, align)
                if at is not None:
                    break
            else:
                chunk = _Chunk(max(CHUNK, (size + 4095) & -4096))
                self._chunks.append(chunk)
                at = chunk.allocate(size, align)
                assert at is not None
            self.used += size
            return CodeBlock(chunk, at, size)

    def allocate_beside(self, block: CodeBlock, size: int) -> CodeBlock | None:
        """``size`` bytes in the same chunk; None if it is full."""
        size = (size + _ALIGN - 1) & -_ALIGN
        with self._lock:
            at = block.chunk.allocate(size, _ALIGN)
            if at is None:
                return None
            self.used += size
            return CodeBlock(block.chunk, at, size)

    def shrink(self, block: CodeBlock, size: int) -> None:
        """Give back what is behind the first ``size`` bytes of a block."""
        size = (size + _ALIGN - 1) & -_ALIGN
        with self._lock:
            if size < block.size:
                block.chunk.release(block.at + size, block.size - size)
                self.used -= block.size - size
                block.size = size

    def retain(self, block: CodeBlock) -> None:
        """One more user of a block, who will free it too."""
        with self._lock:
            block.users += 1

    def free(self, block: CodeBlock) -> None:
        """Give a block back; the last user does. No thread may be running, or be about to return to, code in it."""
        with self._lock:
            block.users -= 1
            if block.users:
                return
            for at in block.fixups:
                block.chunk.fixups[at] = 0
            if block.faulting:
                # Somewhere among its entries.
                block.chunk.fixups[block.at >> 1 : block.at + block.size >> 1] = memoryview(
                    bytes(block.size * 2)
                ).cast("I")
            block.chunk.release(block.at, block.size)
            self.used -= block.size
            if block.chunk.free == [(0, block.chunk.size)]:
                self._chunks.remove(block.chunk)
                block.chunk.unmap()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no other thread allocates or frees."""
        with self._lock:
            yield

    def unshare(self) -> None:
        """In the child of a fork, :meth:`held`: from now on parent and child do not see each other's changes."""
        for chunk in self._chunks:
            chunk.unshare()

    def seal(self) -> None:
        """In the child of a fork, :meth:`held`: leave what is there to the parent, who never changes it; what comes now goes into
        memory of our own."""
        for chunk in self._chunks:
            chunk.free.clear()

    def close(self) -> None:
        with self._lock:
            for chunk in self._chunks:
                chunk.unmap()
            self._chunks.clear()
            self.used = 0

    def load(self, data: bytes) -> LoadedObject:
        """Link a relocatable ELF object into code memory. Raises CacheError for one that is not sound."""
        return self.place(link(data))

    def place(self, image: Image) -> LoadedObject:
        """Copy an image into code memory. Raises CacheError for one that needs what the host's libraries lack."""
        size = len(image.code)
        block = self.allocate(max(size, 1), image.align)
        try:
            base = block.execute
            # SAFETY: the block is ours, at least `size` bytes long at its writable address, and no thread runs it yet.
            target = memoryview((ctypes.c_ubyte * max(size, 1)).from_address(block.write)).cast("B")
            target[:size] = image.code
            for at, addend, name in image.fixups:
                value = (_external(name) if name else base) + addend
                _WORD.pack_into(target, at, value & 0xFFFF_FFFF_FFFF_FFFF)
            table = block.chunk.fixups
            for at, go in image.faults:
                table[block.at + at >> 1] = block.at + go
            block.fixups = tuple(block.at + at >> 1 for at, _ in image.faults)
        except BaseException:
            self.free(block)
            raise
        return LoadedObject(block, {name: base + at for name, at in image.symbols.items()})


def _external(name: str) -> int:
    """The host address of a C library function that LLVM called, or of the state of the fault handler."""
    if name == "vm_faults":
        return ctypes.addressof(faults.state)
    try:
        function = getattr(_libm, name)
    except AttributeError:
        raise CacheError(f"the object needs {name!r}, which the host's libraries lack") from None
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


try:
    _libm = ctypes.CDLL("libm.so.6")
except OSError:
    _libm = _libc


@record()
class Image:
    """Linked code. ``symbols`` gives the offset of each function; ``fixups`` are (offset, addend, name): the 64-bit word
    there is the addend plus the address of that C function, or, if the name is empty, of the image. ``align`` (a power of
    two) is what the image's own address must be a multiple of. ``faults`` are (offset of an instruction, offset where to go
    on if it faults)."""

    code: bytes | memoryview
    symbols: dict[str, int]
    fixups: tuple[tuple[int, int, str], ...] = ()
    align: int = _ALIGN
    faults: tuple[tuple[int, int], ...] = ()

    def pack(self) -> bytes:
        """As bytes, for a file. :meth:`unpack` is the inverse."""
        names = "\0".join([*self.symbols, *(name for _, _, name in self.fixups)]).encode()
        words = [*self.symbols.values(), *(word for at, addend, _ in self.fixups for word in (at, addend))]
        words += [word for pair in self.faults for word in pair]
        counts = len(self.symbols), len(self.fixups), len(self.faults)
        head = _IMAGE.pack(len(self.code), self.align, *counts, len(names))
        return b"".join((head, struct.pack(f"<{len(words)}q", *words), names, self.code))

    @staticmethod
    def unpack(data: bytes | memoryview) -> Image:
        """Raises CacheError for bytes that are no image: no offset in it leads outside."""
        try:
            size, align, symbols, fixups, pairs, length = _IMAGE.unpack_from(data)
            words = struct.unpack_from(f"<{symbols + 2 * (fixups + pairs)}q", data, _IMAGE.size)
            at = _IMAGE.size + 8 * len(words)
            names = bytes(data[at : at + length]).decode().split("\0") if length else []
            code = memoryview(data)[at + length :]
        except (struct.error, UnicodeDecodeError, MemoryError) as error:
            raise CacheError(f"not a code image: {error}") from None
        if symbols + fixups and length == 0:
            names = [""] * (symbols + fixups)
        last = symbols + 2 * fixups
        places, spots, goes = words[:symbols], words[symbols:last:2], words[last:]
        if (
            len(code) != size
            or len(names) != symbols + fixups
            or align & (align - 1)
            or not _ALIGN <= align <= _MAX_ALIGN
            or (places and not 0 <= min(places) <= max(places) < size)
            or (spots and not 0 <= min(spots) <= max(spots) <= size - 8)
            or (goes and not 0 <= min(goes) <= max(goes) < size)
        ):
            raise CacheError("not a code image: a number in it is out of range")
        return Image(
            code,
            dict(zip(names, places, strict=False)),
            tuple(zip(spots, words[symbols + 1 : last : 2], names[symbols:], strict=True)),
            align,
            tuple(zip(goes[::2], goes[1::2], strict=True)),
        )


def link(data: bytes) -> Image:
    """Link a relocatable ELF object. Raises CacheError for one that is not sound."""
    try:
        return _Linker(data).link()
    except (struct.error, ArithmeticError, LookupError, ValueError) as error:
        raise CacheError(f"not a sound object file: {error!r}") from error


class _Linker:
    """Lays out the allocated sections of one object, then applies its relocations, as if its address were 0."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fixups: list[tuple[int, int, str]] = []
        self.align = _ALIGN
        if data[:6] != b"\x7fELF\x02\x01":
            raise CacheError("not an ELF object")
        self.machine = struct.unpack_from("<H", data, 18)[0]
        offset = struct.unpack_from("<Q", data, 40)[0]
        size, count, names = struct.unpack_from("<HHH", data, 58)
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * size) for i in range(count)]
        self.names = names

    def link(self) -> Image:
        place: dict[int, int] = {}
        at = 0
        for i, (_, kind, flags, _, _, size, _, _, align, _) in enumerate(self.sections):
            if flags & 2 and kind in (1, 8) and self._name(i) not in (".eh_frame", faults.FIXUPS):
                if align & (align - 1) or align > _MAX_ALIGN or (kind == 1 and size > len(self.data)):
                    raise CacheError(f"section {i} has size {size} and alignment {align}")
                self.align = max(self.align, align)
                at = (at + max(align, 16) - 1) & -max(align, 16)
                place[i] = at
                at += size
        if at > _MAX_OBJECT:
            raise CacheError(f"an object of {at} bytes")
        symbols = self._symbols()
        needed = [name for name, section, _, _ in symbols if section == 0 and name]
        got = (at + 15) & -16
        slots = {name: got + 24 * i for i, name in enumerate(needed)}
        total = got + 24 * len(needed)
        image = bytearray(total)
        for i, start in place.items():
            _, kind, _, _, offset, size, *_ = self.sections[i]
            if kind == 1:
                content = self.data[offset : offset + size]
                if len(content) != size:
                    raise CacheError(f"section {i} is torn")
                image[start : start + size] = content
        for name, start in slots.items():
            # A stub that jumps through the address before it: 8 bytes of address, then the stub.
            stub = (
                b"\xff\x25\xf2\xff\xff\xff"
                if self.machine == 62
                else struct.pack("<II", 0x58FFFFD0, 0xD61F0200)
            )
            self.fixups.append((start, 0, name))
            image[start + 8 : start + 8 + len(stub)] = stub
        addresses: list[int] = []
        slot_of: list[int | None] = []
        for name, section, value, _ in symbols:
            if section == 0:
                slot = slots.get(name)
                addresses.append(slot + 8 if slot is not None else 0)
                slot_of.append(slot)
            else:
                addresses.append(value if section == 0xFFF1 else place.get(section, 0) + value)
                slot_of.append(None)
        for _, kind, _, _, offset, size, _, info, _, _ in self.sections:
            if kind == 4 and info in place:
                for where in range(offset, offset + size, 24):
                    spot, how, addend = struct.unpack_from("<QQq", self.data, where)
                    number = how >> 32
                    self._relocate(
                        image,
                        place[info] + spot,
                        how & 0xFFFFFFFF,
                        addresses[number] + addend,
                        slot_of[number],
                        addend,
                    )
        found = {
            name: place[section] + value
            for name, section, value, kind in symbols
            if kind == 2 and section in place and name
        }
        if any(at >= total for at in found.values()):
            raise CacheError("a function lies outside the object")
        return Image(bytes(image), found, tuple(self.fixups), self.align, self._faults(place, total))

    def _faults(self, place: dict[int, int], total: int) -> tuple[tuple[int, int], ...]:
        """The pairs of (instruction, where to go on if it faults)."""
        number = next((i for i in range(len(self.sections)) if self._name(i) == faults.FIXUPS), None)
        if number is None:
            return ()
        symbols = self._symbols()
        pairs: dict[int, int] = {}
        for _, kind, _, _, offset, size, _, info, _, _ in self.sections:
            if kind == 4 and info == number:
                for where in range(offset, offset + size, 24):
                    spot, how, addend = struct.unpack_from("<QQq", self.data, where)
                    _, section, value, _ = symbols[how >> 32]
                    # The field is relative to itself, so what the relocation names is the place itself.
                    target = place[section] + value + addend
                    if how & 0xFFFFFFFF != 2 or not 0 <= target < total:
                        raise CacheError("a place in the fault table is not in the object")
                    pairs[spot] = target
        return tuple((at, pairs[spot + 4]) for spot, at in sorted(pairs.items()) if spot % 8 == 0)

    def _name(self, index: int) -> str:
        table = self.sections[self.names]
        return self._string(table[4] + self.sections[index][0])

    def _string(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode()

    def _symbols(self) -> list[tuple[str, int, int, int]]:
        """(name, section, value, type) of every symbol."""
        for section in self.sections:
            if section[1] == 2:
                strings = self.sections[section[6]][4]
                out = []
                for at in range(section[4], section[4] + section[5], 24):
                    name, info, _, index, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
                    out.append((self._string(strings + name) if name else "", index, value, info & 15))
                return out
        return []

    def _relocate(
        self, image: bytearray, at: int, kind: int, target: int, slot: int | None, addend: int
    ) -> None:
        if self.machine == 62:
            if kind == 1:  # R_X86_64_64
                self._absolute(image, at, target)
            elif kind == 24:  # R_X86_64_PC64
                struct.pack_into("<q", image, at, target - at)
            elif kind in (2, 4):  # R_X86_64_PC32, PLT32
                struct.pack_into("<i", image, at, target - at)
            elif kind in (9, 41, 42) and slot is not None:  # GOTPCREL(X) of an external
                struct.pack_into("<i", image, at, slot + addend - at)
            else:
                raise CacheError(f"the object has a relocation of type {kind}, which the loader lacks")
            return
        word = struct.unpack_from("<I", image, at)[0]
        page = (target >> 12) - (at >> 12)
        if kind == 257:  # R_AARCH64_ABS64
            self._absolute(image, at, target)
            return
        if kind == 261:  # PREL32
            struct.pack_into("<i", image, at, target - at)
            return
        if kind in (282, 283):  # JUMP26, CALL26
            word |= (target - at) >> 2 & 0x3FF_FFFF
        elif kind == 275:  # ADR_PREL_PG_HI21
            self.align = _MAX_ALIGN  # the distance in pages holds only where the image begins on one
            word |= (page & 3) << 29 | (page >> 2 & 0x7FFFF) << 5
        elif kind in (277, 278, 284, 285, 286, 299):  # ADD / LDST lo12
            self.align = _MAX_ALIGN
            shift = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}[kind]
            word |= ((target & 0xFFF) >> shift) << 10
        else:
            raise CacheError(f"the object has a relocation of type {kind}, which the loader lacks")
        struct.pack_into("<I", image, at, word)

    def _absolute(self, image: bytearray, at: int, target: int) -> None:
        struct.pack_into("<Q", image, at, 0)  # raises for a place outside
        if not -(1 << 63) <= target < 1 << 63:
            raise CacheError("an address is out of range")
        self.fixups.append((at, target, ""))
