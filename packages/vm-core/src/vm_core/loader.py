"""ELF64 programs and their interpreters (the guest's dynamic loader): checked completely, then copied into guest memory.

Every malformed file ends in :class:`LoadError` with the file, the offset of the bad field and what is wrong there,
before anything has been mapped. Sizes in the file are claims: nothing is allocated or read for a claim that the file
or the guest's address space cannot hold.

System V ABI, gABI 4.1 chapters 4 and 5; RISC-V psABI 1.0; Linux fs/binfmt_elf.c for what the kernel accepts.
"""

from __future__ import annotations

import bisect
import os
import stat
import struct
from itertools import pairwise

from vm_core.errors import EXIT_NOT_FOUND, LoadError
from vm_core.hints import ClassVar, Final, NamedTuple
from vm_core.memory import PAGE, GuestMemory, Prot, page_down, page_up
from vm_core.record import field, record

__all__ = [
    "Image",
    "ProgramNotFound",
    "Symbols",
    "bias_of",
    "interpreter_of",
    "load",
    "load_interpreter",
    "machine_of",
    "sanitizer_of",
    "symbols_of",
]

MACHINES: Final = {243: "riscv64", 183: "aarch64", 62: "x86_64"}
_MACHINE_NAMES: Final = {
    2: "SPARC", 3: "x86 (32-bit)", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "Arm (32-bit)",
    43: "SPARC V9", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip
PIE_BASE: Final = 0x1000_0000
"""Where a position-independent program goes: far from page 0, with room for the heap above."""
_LOW: Final = 0x1000
"""The first page stays unmapped, so that null pointers fault."""

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_PHDR, _PT_GNU_STACK = 1, 2, 3, 6, 0x6474E551
_DT_STRTAB, _DT_STRSZ = 5, 10
_SANITIZERS: Final = {
    b"\0__asan_init\0": "address", b"\0__tsan_init\0": "thread", b"\0__msan_init\0": "memory",
    b"\0__hwasan_init\0": "hwaddress", b"\0liblsan.so": "leak", b"\0__lsan_init\0": "leak",
}  # fmt: skip
"""What a program made with -fsanitize imports. What -fsanitize=undefined adds is not among it: that needs no memory."""
_ET_REL, _ET_EXEC, _ET_DYN, _ET_CORE = 1, 2, 3, 4
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_MAX_SYMBOLS: Final = 1_000_000
_MAX_PATH: Final = 4096
_MAX_ALIGN: Final = 2 << 20
"""Bytes. A larger alignment of a position-independent file is not kept, as the kernel's mmap would not for its interpreter."""


class ProgramNotFound(LoadError):
    """No such file."""

    code: ClassVar[str] = "VM202"
    exit_status: ClassVar[int] = EXIT_NOT_FOUND


Program = str | os.PathLike[str] | bytes | int
"""A program's path, its bytes, or a descriptor of its file, which is left open."""


class _Source:
    """Bytes at offsets of a file or of a bytes object, without reading more than is asked for."""

    def __init__(self, program: Program, name: str = "") -> None:
        self.fd = -1
        self.data = b""
        if isinstance(program, bytes):
            self.name, self.data, self.size = name or "<bytes>", program, len(program)
            return
        self.name = name or (f"<descriptor {program}>" if isinstance(program, int) else os.fspath(program))
        try:
            if isinstance(program, int):
                self.fd = os.dup(program)
            else:
                # O_NONBLOCK: a FIFO must be refused, not waited for.
                self.fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            info = os.fstat(self.fd)
        except FileNotFoundError:
            raise ProgramNotFound(f"{self.name}: no such file", hint="give the path of a program") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise LoadError(f"{self.name}: cannot be read: {reason}") from None
        if not stat.S_ISREG(info.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise LoadError(f"{self.name}: is {kind}, not a program")
        self.size = info.st_size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer where the file ends."""
        if self.fd < 0:
            return self.data[offset : offset + length]
        if offset >= self.size:
            return b""
        length = min(length, self.size - offset)
        out = bytearray()
        while len(out) < length:
            chunk = os.pread(self.fd, length - len(out), offset + len(out))
            if not chunk:
                break
            out += chunk
        return bytes(out)

    def copy(self, offset: int, target: memoryview) -> int:
        """Fill ``target`` from the file; returns how many bytes there were."""
        if self.fd < 0:
            chunk = self.data[offset : offset + len(target)]
            target[: len(chunk)] = chunk
            return len(chunk)
        done = 0
        while done < len(target):
            count = os.preadv(self.fd, [target[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@record()
class Symbols:
    """Function and object names of an image by address, for messages."""

    starts: list[int] = field(default_factory=list)
    entries: list[tuple[int, int, str]] = field(default_factory=list)
    by_name: dict[str, int] = field(default_factory=dict)

    def name(self, address: int) -> str:
        """``symbol+0x12`` for the guest address, or an empty string."""
        at = bisect.bisect_right(self.starts, address) - 1
        if at < 0:
            return ""
        start, size, name = self.entries[at]
        if address >= start + max(size, 1) and size:
            return ""
        if not size and address - start > 1 << 16:
            return ""
        return name if address == start else f"{name}+{address - start:#x}"


@record()
class Image:
    """A loaded program. Addresses are guest addresses; ``phent`` and ``phnum`` describe the headers at ``phdr``."""

    name: str
    isa_name: str
    entry: int
    phdr: int
    phent: int
    phnum: int
    base: int
    start: int
    end: int
    brk: int
    executable_stack: bool
    program: Program
    interpreter: str = ""
    """The guest path in PT_INTERP; empty for a static program."""
    _symbols: Symbols | None = None

    @property
    def symbols(self) -> Symbols:
        """Read on first use; empty for a stripped or damaged symbol table."""
        if self._symbols is None:
            self._symbols = symbols_of(self.program, self.base)
        return self._symbols


class _Segment(NamedTuple):
    """A checked PT_LOAD. ``start`` and ``end`` are guest addresses with the base added."""

    start: int
    end: int
    offset: int
    file_bytes: int
    prot: Prot


def machine_of(program: Program, *, name: str = "") -> str:
    """The ISA name of an ELF64 program, from its header alone. Raises LoadError, which calls it ``name``."""
    source = _Source(program, name)
    try:
        return _header(source).isa
    finally:
        source.close()


def symbols_of(program: Program, base: int) -> Symbols:
    """The names in an ELF file whose address 0 lies at ``base``; none for a file that is damaged, stripped or gone."""
    try:
        source = _Source(program)
    except LoadError:
        return Symbols()
    try:
        return _read_symbols(source, base)
    except OSError:
        return Symbols()
    finally:
        source.close()


def sanitizer_of(program: Program) -> str:
    """What the program was made with ``-fsanitize=`` of, if that needs terabytes of addresses; else an empty string."""
    try:
        source = _Source(program)
    except LoadError:
        return ""
    try:
        headers = _program_headers(source, _header(source))
        names = _dynamic_names(source, headers)
        return next((kind for mark, kind in _SANITIZERS.items() if mark in names), "")
    except (LoadError, OSError):
        return ""
    finally:
        source.close()


def _dynamic_names(source: _Source, headers: list[tuple[int, ...]]) -> bytes:
    """The string table of dynamic linking, as much of it as there is."""
    raw = next((source.read(row[2], min(row[5], 1 << 16)) for row in headers if row[0] == _PT_DYNAMIC), b"")
    entries = dict(struct.iter_unpack("<QQ", raw[: len(raw) & -16]))
    at, length = entries.get(_DT_STRTAB, 0), entries.get(_DT_STRSZ, 0)
    for kind, _, offset, address, _, size, *_ in headers:
        if kind == _PT_LOAD and address <= at < address + size:
            return source.read(offset + at - address, min(length, 64 << 20))
    return b""


def interpreter_of(program: Program) -> str:
    """The path in an ELF file's PT_INTERP; empty for a static program. Raises LoadError."""
    source = _Source(program)
    try:
        head = _header(source)
        return _interpreter(source, head, _program_headers(source, head))
    finally:
        source.close()


def bias_of(program: Program, start: int, offset: int, *, executable: bool) -> int | None:
    """What has been added to the addresses of an ELF file if its ``offset`` (in bytes) is mapped at ``start``: None if no
    segment, or with ``executable`` no such one, is there."""
    try:
        source = _Source(program)
    except LoadError:
        return None
    try:
        head = _header(source)
        if head.phent != _PHDR.size:
            return None
        table = source.read(head.phoff, head.phnum * _PHDR.size)
        for kind, flags, at, vaddr, _, size, _, _ in _PHDR.iter_unpack(
            table[: len(table) // _PHDR.size * _PHDR.size]
        ):
            inside = page_down(at) <= offset < page_up(at + size)
            if kind == _PT_LOAD and inside and (flags & 1 or not executable):
                return start - (page_down(vaddr) + offset - page_down(at))
    except (LoadError, OSError):
        pass
    finally:
        source.close()
    return None


def load(program: Program, memory: GuestMemory, isa: str | None = None, *, name: str = "") -> Image:
    """Check a program and copy it into ``memory``. The caller has to load its ``interpreter``, if it names one.

    ``isa`` is the ISA the caller can run (None: any), ``name`` what the file is called in messages and in the guest's
    list of mappings. Raises LoadError (nothing mapped) and MemoryLimit.
    """
    return _load_from(program, memory, isa, name, high=None)


def load_interpreter(program: Program, memory: GuestMemory, isa: str, *, name: str, high: int) -> Image:
    """Check the interpreter of a program that has been loaded, and copy it into ``memory``: where it was linked for, or if
    it is position-independent as high as possible below ``high``. An interpreter's own PT_INTERP means nothing.

    Raises LoadError (nothing mapped) and MemoryLimit.
    """
    return _load_from(program, memory, isa, name, high=high)


def _load_from(
    program: Program,
    memory: GuestMemory,
    isa: str | None,
    name: str,
    *,
    high: int | None,
) -> Image:
    source = _Source(program, name)
    try:
        return _load(source, program, memory, isa, high)
    except OSError as error:
        raise LoadError(f"{source.name}: cannot be read: {error.strerror}") from None
    finally:
        source.close()


class _Header(NamedTuple):
    isa: str
    kind: int
    entry: int
    phoff: int
    phent: int
    phnum: int


def _header(source: _Source) -> _Header:
    name = source.name
    raw = source.read(0, 64)
    if raw[:4] != b"\x7fELF":
        if not raw:
            raise LoadError(f"{name}: offset 0: the file is empty, not an ELF program")
        if raw[:2] == b"#!":
            raise LoadError(
                f"{name}: offset 0: a script, not an ELF program", hint="run its interpreter instead"
            )
        raise LoadError(
            f"{name}: offset 0: not an ELF program: it starts with {raw[:4].hex(' ')}, not 7f 45 4c 46",
            hint="vm runs Linux programs in ELF format",
        )
    if len(raw) < 5:
        raise LoadError(f"{name}: offset {len(raw)}: truncated ELF header: {len(raw)} of 64 bytes")
    if raw[4] == 1:
        raise LoadError(f"{name}: offset 4: a 32-bit ELF program; only 64-bit ones are supported")
    if raw[4] != 2:
        raise LoadError(f"{name}: offset 4: bad ELF class {raw[4]}, expected 2 (64-bit)")
    if len(raw) < 64:
        raise LoadError(f"{name}: offset {len(raw)}: truncated ELF header: {len(raw)} of 64 bytes")
    _, kind, machine, version, entry, phoff, _, flags, ehsize, phent, phnum, _, _, _ = _EHDR.unpack(raw)
    if raw[5] == 2:
        raise LoadError(f"{name}: offset 5: a big-endian ELF program; only little-endian ones are supported")
    if raw[5] != 1:
        raise LoadError(f"{name}: offset 5: bad ELF data encoding {raw[5]}, expected 1 (little-endian)")
    if raw[6] != 1 or version != 1:
        raise LoadError(f"{name}: offset 6: bad ELF version {raw[6]}/{version}, expected 1")
    if kind == _ET_REL:
        raise LoadError(
            f"{name}: offset 16: a relocatable object file, not a program", hint="link it: gcc -static"
        )
    if kind == _ET_CORE:
        raise LoadError(f"{name}: offset 16: a core dump, not a program")
    if kind not in (_ET_EXEC, _ET_DYN):
        raise LoadError(
            f"{name}: offset 16: bad ELF type {kind}, expected 2 (executable) or 3 (position-independent)"
        )
    if machine not in MACHINES:
        what = _MACHINE_NAMES.get(machine, "unknown")
        raise LoadError(
            f"{name}: offset 18: made for machine {machine} ({what})",
            hint="supported: riscv64, aarch64, x86_64",
        )
    if machine == 243 and flags & 8:
        raise LoadError(f"{name}: offset 48: made for RV64E (16 registers), which is not supported")
    if ehsize < 64:
        raise LoadError(f"{name}: offset 52: bad ELF header size {ehsize}, expected 64")
    return _Header(MACHINES[machine], kind, entry, phoff, phent, phnum)


def _program_headers(source: _Source, head: _Header) -> list[tuple[int, ...]]:
    name = source.name
    if not head.phnum:
        raise LoadError(f"{name}: offset 56: no program headers, nothing to load")
    if head.phent != _PHDR.size:
        raise LoadError(f"{name}: offset 54: bad program header size {head.phent}, expected {_PHDR.size}")
    table = source.read(head.phoff, head.phnum * _PHDR.size)
    if len(table) < head.phnum * _PHDR.size:
        raise LoadError(
            f"{name}: offset {head.phoff:#x}: truncated program headers: {len(table)} of "
            f"{head.phnum * _PHDR.size} bytes"
        )
    return list(_PHDR.iter_unpack(table))


def _load(
    source: _Source,
    program: Program,
    memory: GuestMemory,
    isa: str | None,
    high: int | None,
) -> Image:
    name = source.name
    head = _header(source)
    if isa is not None and head.isa != isa:
        raise LoadError(f"{name}: offset 18: made for {head.isa}, but this guest is {isa}")
    headers = _program_headers(source, head)
    interpreter = _interpreter(source, head, headers) if high is None else ""
    base = _choose_base(source, head, headers, memory, high)
    segments = _segments(source, head, headers, base, memory)
    if high is not None and base == 0:
        _check_free(source, segments, memory)
    entry = head.entry + base
    if head.kind == _ET_DYN and not head.entry:
        raise LoadError(
            f"{name}: offset 24: a shared library, not a program: it has no entry point",
            hint="link a program, or name the one that uses it",
        )
    home = next((s for s in segments if s.start <= entry < s.end), None)
    if home is None or not home.prot & Prot.EXEC:
        raise LoadError(f"{name}: offset 24: the entry point {head.entry:#x} is not in an executable segment")
    if head.isa == "riscv64" and entry & 1 or head.isa == "aarch64" and entry & 3:
        raise LoadError(f"{name}: offset 24: the entry point {head.entry:#x} is misaligned")
    _copy(source, segments, memory)
    phdr = next((h[3] + base for h in headers if h[0] == _PT_PHDR), 0)
    if not any(s.start <= phdr < s.end for s in segments):
        size = head.phnum * _PHDR.size
        phdr = next(
            (
                s.start + head.phoff - s.offset
                for s in segments
                if s.offset <= head.phoff and head.phoff + size <= s.offset + s.file_bytes
            ),
            0,
        )
    end = max(s.end for s in segments)
    return Image(
        name=name,
        isa_name=head.isa,
        entry=entry,
        phdr=phdr,
        phent=_PHDR.size,
        phnum=head.phnum,
        base=base,
        start=min(s.start for s in segments),
        end=end,
        brk=page_up(end),
        executable_stack=any(h[0] == _PT_GNU_STACK and h[1] & 1 for h in headers),
        program=program,
        interpreter=interpreter,
    )


def _interpreter(source: _Source, head: _Header, headers: list[tuple[int, ...]]) -> str:
    """The path in PT_INTERP, or an empty string. Raises LoadError for one that is no path."""
    for number, (kind, _, offset, _, _, size, *_) in enumerate(headers):
        if kind != _PT_INTERP:
            continue
        where = f"{source.name}: offset {head.phoff + number * _PHDR.size:#x}: the interpreter's path"
        if not 2 <= size <= _MAX_PATH:
            raise LoadError(f"{where} has {size:,} bytes, not 2 to {_MAX_PATH:,}")
        raw = source.read(offset, size)
        if len(raw) < size:
            raise LoadError(f"{where} is truncated: {len(raw)} of {size} bytes")
        if raw[-1]:
            raise LoadError(f"{where} does not end with a NUL")
        path = raw.partition(b"\0")[0]
        if not path:
            raise LoadError(f"{where} is empty")
        return os.fsdecode(path)
    return ""


def _choose_base(
    source: _Source, head: _Header, headers: list[tuple[int, ...]], memory: GuestMemory, high: int | None
) -> int:
    """0 for a fixed file, the load bias for a position-independent one: below ``high`` if that is given."""
    if head.kind != _ET_DYN:
        return 0
    loads = [h for h in headers if h[0] == _PT_LOAD]
    lowest = min((h[3] for h in loads), default=0)
    highest = max((h[3] + h[6] for h in loads), default=0)
    if lowest >= memory.size or highest >= memory.size:
        return 0  # _segments names the bad header
    if high is None:
        return PIE_BASE - page_down(lowest)
    span = page_up(highest) - page_down(lowest)
    align = min(max((h[7] for h in loads if not h[7] & (h[7] - 1)), default=PAGE), _MAX_ALIGN)
    place = memory.find_free(span + max(align - PAGE, 0), high=high, low=_LOW)
    if place is None:
        raise LoadError(f"{source.name}: no room for its {span:,} bytes in the guest's address space")
    return (place + align - 1 & -align if align > PAGE else place) - page_down(lowest)


def _check_free(source: _Source, segments: list[_Segment], memory: GuestMemory) -> None:
    """Refuse an interpreter that was linked for where something else lies."""
    for segment in segments:
        start = page_down(segment.start)
        length = page_up(segment.end) - start
        if memory.find_free(length, hint=start) != start:
            raise LoadError(
                f"{source.name}: its segment at {segment.start:#x} overlaps the program or its stack"
            )


def _segments(
    source: _Source, head: _Header, headers: list[tuple[int, ...]], base: int, memory: GuestMemory
) -> list[_Segment]:
    """The PT_LOADs in order of address, each one checked."""
    name = source.name
    found: list[tuple[_Segment, int]] = []
    for number, (kind, flags, offset, vaddr, _, file_bytes, memory_bytes, align) in enumerate(headers):
        if kind != _PT_LOAD:
            continue
        at = head.phoff + number * _PHDR.size
        where = f"{name}: offset {at:#x}: segment {number}"
        if file_bytes > memory_bytes:
            raise LoadError(f"{where} has {file_bytes:#x} bytes in the file but {memory_bytes:#x} in memory")
        if offset + file_bytes > source.size:
            raise LoadError(
                f"{where} is truncated: it ends at {offset + file_bytes:#x}, the file at {source.size:#x}"
            )
        if align & (align - 1) and align:
            raise LoadError(f"{where} has an alignment of {align:#x}, which is no power of two")
        start, end = vaddr + base, vaddr + base + memory_bytes
        if vaddr < 0 or start < _LOW or end > memory.size:
            raise LoadError(
                f"{where} at {vaddr:#x}+{memory_bytes:#x} lies outside the guest's address space "
                f"({_LOW:#x}-{memory.size:#x})"
            )
        if not memory_bytes:
            continue
        prot = Prot.NONE
        for bit, permission in ((4, Prot.READ), (2, Prot.WRITE), (1, Prot.EXEC)):
            prot |= permission if flags & bit else Prot.NONE
        found.append((_Segment(start, end, offset, file_bytes, prot), number))
    if not found:
        raise LoadError(f"{name}: offset {head.phoff:#x}: no loadable segment")
    found.sort(key=lambda pair: pair[0].start)
    for (low, first), (high, second) in pairwise(found):
        if high.start < low.end:
            raise LoadError(
                f"{name}: offset {head.phoff + second * _PHDR.size:#x}: segments {first} and {second} overlap at "
                f"{high.start:#x}"
            )
    return [segment for segment, _ in found]


def _copy(source: _Source, segments: list[_Segment], memory: GuestMemory) -> None:
    """Map the segments, or copy them. Two segments may share a page, which then has both protections."""
    label = source.name
    edge = 0
    shared: list[tuple[int, Prot]] = []
    last = Prot.NONE
    for segment in segments:
        first, end = page_down(segment.start), page_up(segment.end)
        if first < edge:
            shared.append((edge - PAGE, last | segment.prot))
            last |= segment.prot
            first = edge
        copied = segment.file_bytes
        if first < end:
            offset = page_down(segment.offset) + first - page_down(segment.start)
            mapped = _map_file(source, segment, first, offset, memory)
            if mapped > first:
                copied = max(first - segment.start, 0)
            if mapped < end:
                memory.map(
                    mapped,
                    end - mapped,
                    segment.prot,
                    name=label if mapped == first else "",
                    offset=offset if mapped == first else 0,
                )
            edge, last = end, segment.prot
        with memory.opened(segment.start, copied) as target:
            if source.copy(segment.offset, target) < copied:
                raise LoadError(f"{source.name}: offset {segment.offset:#x}: the file ends inside a segment")
    for page, prot in shared:
        memory.protect(page, PAGE, prot)


def _map_file(source: _Source, segment: _Segment, first: int, offset: int, memory: GuestMemory) -> int:
    """Map the pages of a segment that come from the file, from the guest address ``first`` on; returns where they end,
    ``first`` if the file cannot be mapped."""
    end = page_up(segment.start + segment.file_bytes)
    congruent = (segment.offset - segment.start) % PAGE == 0
    if source.fd < 0 or not memory.catches_bus or not congruent or first >= end or not segment.file_bytes:
        return first
    try:
        memory.map_file(first, end - first, segment.prot, source.fd, offset, name=source.name)
    except OSError:
        return first  # a file system that has no mappings
    tail = segment.start + segment.file_bytes
    if tail < end and (segment.end > tail or segment.prot & Prot.WRITE):
        with memory.opened(tail, end - tail) as rest:
            rest[:] = bytes(end - tail)
    return end


def _read_symbols(source: _Source, base: int) -> Symbols:
    """Names from .symtab, else .dynsym. A damaged table gives fewer names, never an error."""
    out = Symbols()
    raw = source.read(0, 64)
    if len(raw) < 64:
        return out
    fields = _EHDR.unpack(raw)
    shoff, shent, shnum = fields[6], fields[11], fields[12]
    if shent != _SHDR.size or not shnum:
        return out
    table = source.read(shoff, shnum * shent)
    sections = list(_SHDR.iter_unpack(table[: len(table) // _SHDR.size * _SHDR.size]))
    for wanted in (2, 11):
        for section in sections:
            _, kind, _, _, offset, size, link, _, _, _ = section
            if kind != wanted or link >= len(sections):
                continue
            names = source.read(sections[link][4], min(sections[link][5], 64 << 20))
            data = source.read(offset, min(size, _MAX_SYMBOLS * _SYM.size))
            entries: list[tuple[int, int, str]] = []
            for at, info, _, index, value, length in _SYM.iter_unpack(
                data[: len(data) // _SYM.size * _SYM.size]
            ):
                if info & 15 > 2 or not index or not at or at >= len(names):
                    continue
                end = names.find(b"\0", at, at + 512)
                text = names[at : end if end >= 0 else at + 512].decode("utf-8", "backslashreplace")
                if not text or text[0] == "$" or text.startswith(".L"):
                    continue
                entries.append((value + base, length, text))
                out.by_name.setdefault(text, value + base)
            entries.sort(key=lambda entry: (entry[0], entry[1] > 0))
            if entries:
                out.entries = entries
                out.starts = [entry[0] for entry in entries]
                return out
    return out
