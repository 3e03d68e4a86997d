"""The ELF loader: what it maps, and that every malformed file is one clear line."""

from __future__ import annotations

import os
import random
import struct

import pytest

from vm_core.errors import LoadError, VmError
from vm_core.loader import PIE_BASE, ProgramNotFound, load, load_interpreter, machine_of, sanitizer_of
from vm_core.memory import PAGE, GuestMemory, MemoryLimit, Prot

LIMIT = 64 << 20


def elf(
    segments=((1, 5, 0x1000, 0x10000, b"\x13\0\0\0" * 4, 0),),
    *,
    kind=2,
    machine=243,
    entry=0x10000,
    ident=None,
    phent=56,
    flags=5,
):
    """A small ELF64 file. A segment is (type, flags, file offset, address, contents, extra memory bytes)."""
    ident = ident or b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, entry, 64, 0, flags, 64, phent, len(segments), 64, 0, 0
    )
    out = bytearray(head)
    for type_, bits, offset, address, data, extra in segments:
        out += struct.pack(
            "<IIQQQQQQ", type_, bits, offset, address, address, len(data), len(data) + extra, PAGE
        )
    for _, _, offset, _, data, _ in segments:
        if len(out) < offset + len(data):
            out.extend(bytes(offset + len(data) - len(out)))
        if offset:  # a segment at 0 holds the headers themselves
            out[offset : offset + len(data)] = data
    return bytes(out)


PHDR = 64  # of the first segment
TEXT = (1, 5, 0x1000, 0x10000, b"\x13\0\0\0" * 4, 0)
DATA = (1, 6, 0x2010, 0x12010, b"data", 0x3000)


@pytest.fixture
def memory():
    with GuestMemory(limit=LIMIT) as made:
        yield made


def test_segments_are_mapped_with_their_permissions(memory):
    image = load(elf((TEXT, DATA)), memory, "riscv64")
    assert (image.entry, image.base, image.isa_name) == (0x10000, 0, "riscv64")
    assert image.brk == 0x16000
    assert memory.fetch(0x10000, 4) == b"\x13\0\0\0"
    assert memory.read(0x12010, 5) == b"data\0"
    assert memory.region_at(0x10000).prot == Prot.RX
    assert memory.region_at(0x12010).prot == Prot.RW
    assert not memory.is_mapped(0x11000, 1)


def test_program_headers_are_found_by_pt_phdr_or_by_the_segment_that_holds_them(memory):
    first = (1, 4, 0, 0x10000, bytes(0x200), 0)
    code = (1, 5, 0x1000, 0x11000, b"\x13\0\0\0", 0)
    image = load(elf((first, code), entry=0x11000), memory)
    assert (image.phdr, image.phent, image.phnum) == (0x10040, 56, 2)


def test_a_position_independent_program_goes_to_the_base(memory):
    code = (1, 5, 0x1000, 0x1000, b"\x13\0\0\0", 0)
    image = load(elf((code,), kind=3, entry=0x1000), memory)
    assert image.entry == image.base + 0x1000
    assert image.base == PIE_BASE - 0x1000


def test_two_segments_may_share_a_page(memory):
    code = (1, 5, 0x1000, 0x10000, b"\x13\0\0\0", 0)
    data = (1, 6, 0x1800, 0x10800, b"xyz", 0x1000)
    load(elf((code, data)), memory)
    assert memory.region_at(0x10000).prot == Prot.RWX
    assert memory.read(0x10800, 3) == b"xyz"
    assert memory.region_at(0x11000).prot == Prot.RW


def test_a_dynamic_program_names_its_interpreter(memory):
    image = load(elf((TEXT, (3, 4, 0x2000, 0x12000, b"/lib/ld.so\0rest\0", 0))), memory)
    assert image.interpreter == "/lib/ld.so"
    assert load(elf(), GuestMemory()).interpreter == ""


def test_an_interpreter_goes_as_high_as_it_can(memory):
    code = (1, 5, 0x1000, 0x1000, b"\x13\0\0\0", 0x4000)
    own = (3, 4, 0x2000, 0x2000, b"\0", 0)  # an interpreter's interpreter means nothing
    image = load_interpreter(
        elf((code, own), kind=3, entry=0x1000), memory, "riscv64", name="/ld.so", high=0x8000_0000
    )
    assert (image.start, image.end, image.base) == (0x7FFF_B000, 0x7FFF_F004, 0x7FFF_A000)
    assert (image.entry, image.interpreter) == (0x7FFF_B000, "")
    assert memory.region_at(image.entry).name == "/ld.so"


def test_an_interpreter_has_its_alignment(memory):
    wanted = bytearray(elf(((1, 5, 0x1000, 0x1000, b"\x13\0\0\0", 0),), kind=3, entry=0x1000))
    struct.pack_into("<Q", wanted, PHDR + 48, 0x10000)
    image = load_interpreter(bytes(wanted), memory, "riscv64", name="/ld.so", high=0x8000_0000)
    assert image.start % 0x10000 == 0
    assert 0x8000_0000 - 0x20000 < image.start < 0x8000_0000


def test_a_fixed_interpreter_must_not_lie_over_the_program(memory):
    load(elf((TEXT, DATA)), memory)
    with pytest.raises(LoadError, match=r"/ld.so: its segment at 0x12010 overlaps the program"):
        load_interpreter(
            elf((DATA, (1, 5, 0x1000, 0x40000, b"\x13\0\0\0", 0)), entry=0x40000),
            memory, "riscv64", name="/ld.so", high=0x8000_0000,
        )  # fmt: skip
    assert memory.read(0x12010, 4) == b"data"
    fixed = elf(((1, 5, 0x1000, 0x40000, b"\x13\0\0\0", 0),), entry=0x40000)
    assert load_interpreter(fixed, memory, "riscv64", name="/ld.so", high=0x8000_0000).entry == 0x40000


def test_an_interpreter_that_finds_no_room(memory):
    huge = elf(((1, 5, 0x1000, 0x1000, b"\x13\0\0\0", 0xF000_0000),), kind=3, entry=0x1000)
    with pytest.raises(LoadError, match="no room for its 4,026,535,936 bytes"):
        load_interpreter(huge, memory, "riscv64", name="/ld.so", high=0x8000_0000)
    assert not list(memory.regions())


def test_reading_from_a_file_is_the_same(memory, tmp_path):
    path = tmp_path / "program"
    path.write_bytes(elf((TEXT, DATA)))
    assert machine_of(path) == "riscv64"
    load(path, memory)
    assert memory.read(0x12010, 4) == b"data"


def section_symbols():
    names = b"\0main\0late\0"
    base = elf((TEXT,))
    symbols = struct.pack("<IBBHQQ", 1, 2, 0, 1, 0x10000, 8) + struct.pack("<IBBHQQ", 6, 2, 0, 1, 0x10008, 8)
    at = len(base)
    sections = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at, len(names), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at + len(names), len(symbols), 0, 0, 8, 24)
    out = bytearray(base + names + symbols + sections)
    struct.pack_into("<Q", out, 40, at + len(names) + len(symbols))
    struct.pack_into("<HHH", out, 58, 64, 2, 0)
    return bytes(out)


def imports(*names):
    """A program whose dynamic linking has these strings."""
    strings = b"\0" + b"".join(name + b"\0" for name in names)
    table = struct.pack("<6Q", 5, 0x12100, 10, len(strings), 0, 0)
    data = table.ljust(0xF0, b"\0") + strings
    return elf((TEXT, (1, 6, 0x2010, 0x12010, data, 0), (2, 6, 0x2010, 0x12010, table, 0)))


def test_a_program_made_for_terabytes_of_addresses_is_known(tmp_path):
    assert sanitizer_of(imports(b"libasan.so.8", b"__asan_init")) == "address"
    assert sanitizer_of(imports(b"liblsan.so.0")) == "leak"
    assert sanitizer_of(imports(b"libubsan.so.1", b"__ubsan_handle_add_overflow")) == ""
    assert sanitizer_of(imports(b"my__asan_initial")) == ""
    assert sanitizer_of(elf((TEXT,))) == sanitizer_of(b"") == sanitizer_of(tmp_path / "none") == ""
    whole = imports(b"__tsan_init")
    for length in range(0, len(whole), 7):
        assert sanitizer_of(whole[:length]) == ""
    assert sanitizer_of(whole) == "thread"


def test_symbols_name_addresses(memory):
    symbols = load(section_symbols(), memory).symbols
    assert symbols.name(0x10000) == "main"
    assert symbols.name(0x1000C) == "late+0x4"
    assert symbols.name(0x20000) == ""
    assert symbols.by_name["late"] == 0x10008


def patched(offset, fmt, *values, base=None):
    out = bytearray(base or elf((TEXT, DATA)))
    struct.pack_into(fmt, out, offset, *values)
    return bytes(out)


BAD = {
    "empty": (b"", "offset 0: the file is empty"),
    "text": (b"hello world", "offset 0: not an ELF program"),
    "script": (b"#!/bin/sh\n", "offset 0: a script"),
    "five bytes": (b"\x7fELF", "truncated ELF header: 4 of 64 bytes"),
    "cut header": (elf()[:40], "offset 40: truncated ELF header: 40 of 64 bytes"),
    "32-bit": (patched(4, "B", 1), "offset 4: a 32-bit ELF program"),
    "class": (patched(4, "B", 9), "offset 4: bad ELF class 9"),
    "big endian": (patched(5, "B", 2), "offset 5: a big-endian ELF program"),
    "encoding": (patched(5, "B", 7), "offset 5: bad ELF data encoding 7"),
    "version": (patched(6, "B", 0), "offset 6: bad ELF version 0"),
    "relocatable": (elf(kind=1), "offset 16: a relocatable object"),
    "core": (elf(kind=4), "offset 16: a core dump"),
    "type": (elf(kind=77), "offset 16: bad ELF type 77"),
    "machine": (elf(machine=3), "offset 18: made for machine 3"),
    "wrong guest": (elf(machine=183), "offset 18: made for aarch64, but this guest is riscv64"),
    "rv64e": (elf(flags=8), "offset 48: made for RV64E"),
    "header size": (patched(52, "<H", 52), "offset 52: bad ELF header size 52"),
    "entry size": (elf(phent=32), "offset 54: bad program header size 32"),
    "no headers": (patched(56, "<H", 0), "offset 56: no program headers"),
    "cut table": (elf()[:100], "offset 0x40: truncated program headers"),
    "far table": (patched(32, "<Q", 1 << 63), "truncated program headers"),
    "no load": (elf(((4, 4, 0x1000, 0x10000, b"x", 0),)), "no loadable segment"),
    "no interpreter": (elf((TEXT, (3, 4, 0x2000, 0x12000, b"\0", 0))), "the interpreter's path has 1 bytes"),
    "empty interpreter": (
        elf((TEXT, (3, 4, 0x2000, 0x12000, b"\0\0", 0))),
        "the interpreter's path is empty",
    ),
    "open interpreter": (elf((TEXT, (3, 4, 0x2000, 0x12000, b"/lib/ld.so", 0))), "does not end with a NUL"),
    "long interpreter": (
        elf((TEXT, (3, 4, 0x2000, 0x12000, b"/" * 4096 + b"\0", 0))),
        "has 4,097 bytes, not 2 to",
    ),
    "cut interpreter": (
        elf((TEXT, (3, 4, 0x2000, 0x12000, b"/lib/ld.so\0", 0)))[:-4],
        "the interpreter's path is truncated: 7 of 11 bytes",
    ),
    "file larger than memory": (patched(PHDR + 40, "<Q", 1), "segment 0 has 0x10 bytes in the file but 0x1"),
    "cut segment": (elf((TEXT, DATA))[:-2], "segment 1 is truncated"),
    "huge file size": (patched(PHDR + 32, "<QQ", 1 << 62, 1 << 62), "is truncated"),
    "alignment": (patched(PHDR + 48, "<Q", 3), "an alignment of 0x3"),
    "outside": (patched(PHDR + 16, "<Q", 1 << 40), "outside the guest's address space"),
    "wraps": (patched(PHDR + 16, "<Q", (1 << 64) - 8), "outside the guest's address space"),
    "page zero": (patched(PHDR + 16, "<Q", 0), "outside the guest's address space"),
    "huge memory size": (patched(PHDR + 40, "<Q", (1 << 64) - 1), "outside the guest's address space"),
    "overlap": (elf((TEXT, (1, 6, 0x2000, 0x10008, b"data", 0))), "segments 0 and 1 overlap at 0x10008"),
    "entry outside": (
        elf(entry=0x50000),
        "offset 24: the entry point 0x50000 is not in an executable segment",
    ),
    "entry in data": (elf((TEXT, DATA), entry=0x12010), "is not in an executable segment"),
    "shared library": (elf(((1, 5, 0, 0, b"", 0x1000),), kind=3, entry=0), "offset 24: a shared library"),
    "odd entry": (elf(entry=0x10001), "offset 24: the entry point 0x10001 is misaligned"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_is_one_clear_line(memory, name):
    data, expected = BAD[name]
    with pytest.raises(LoadError) as caught:
        load(data, memory, "riscv64")
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert message.startswith("<bytes>: ")
    assert not list(memory.regions())


def test_files_that_cannot_be_read(memory, tmp_path):
    with pytest.raises(ProgramNotFound, match="no such file") as caught:
        load(tmp_path / "absent", memory)
    assert caught.value.exit_status == 127
    with pytest.raises(LoadError, match="is a directory"):
        load(tmp_path, memory)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(LoadError, match="not a regular file"):
        load(fifo, memory)


def test_a_program_over_the_cap():
    with GuestMemory(limit=4 * PAGE) as memory, pytest.raises(MemoryLimit):
        load(elf((TEXT, (1, 6, 0x2000, 0x12000, b"data", 1 << 30))), memory)


def attempt(data):
    """True if it loads; a LoadError or MemoryLimit is a refusal, anything else fails the test."""
    with GuestMemory(limit=LIMIT) as memory:
        try:
            image = load(data, memory)
        except (LoadError, MemoryLimit) as error:
            message = str(error)
        else:
            return len(image.symbols.entries) < 1000
    assert "\n" not in message
    return False


def test_ten_thousand_random_strings_are_refused():
    rng = random.Random(20240411)
    with GuestMemory(limit=LIMIT) as memory:
        for number in range(10_000):
            data = rng.randbytes(rng.randrange(300))
            if number % 3 == 0:
                data = b"\x7fELF\x02\x01\x01" + data
            with pytest.raises(VmError) as caught:
                load(data, memory)
            assert "\n" not in str(caught.value)
            assert not list(memory.regions())


def test_two_thousand_mutated_programs_load_or_are_refused():
    rng = random.Random(20240412)
    whole = section_symbols()
    loaded = 0
    for _ in range(2_000):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            # Most bytes are padding: aim at the headers and the symbol table.
            at = rng.choice(
                (rng.randrange(64 + 56), len(data) - 1 - rng.randrange(256), rng.randrange(len(data)))
            )
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        loaded += attempt(bytes(data))
    assert 100 < loaded < 1900


def test_mapped_and_copied_programs_are_the_same(tmp_path):
    """Mutated programs with an interpreter, from a file that is mapped and from bytes: refused alike, or alike in memory."""
    rng = random.Random(20261126)
    first = (1, 5, 0x1000, 0x10000, b"\x13\0\0\0" * 64, 0)
    second = (1, 6, 0x1140, 0x11140, b"data" * 100, 0x2100)
    whole = elf((first, second, (3, 4, 0x2000, 0x12000, b"/lib/ld.so\0", 0)))
    path = tmp_path / "program"
    loaded = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.choice((rng.randrange(64, 64 + 3 * 56), rng.randrange(64)))
            data[at] = rng.choice((0, 1, 7, 0x10, 0x40, 0x80, 0xFF, data[at] ^ 1 << rng.randrange(8)))
        path.write_bytes(data)
        seen = []
        for source, real in ((bytes(data), False), (path, True)):
            with GuestMemory(limit=LIMIT) as memory:
                memory.catches_bus = real
                try:
                    image = load(source, memory, name="program")
                except (LoadError, MemoryLimit) as error:
                    seen.append(str(error))
                    continue
                pages = {
                    number: bytes(memory.view[number << 12 : number + 1 << 12])
                    for region in memory.regions()
                    for number in range(region.start >> 12, region.end >> 12)
                }
                prots = {number: memory.table[number] for number in pages}
                seen.append((image.entry, image.brk, image.interpreter, prots, _contents(data, pages)))
        assert seen[0] == seen[1]
        loaded += not isinstance(seen[0], str)
    assert 40 < loaded < 380


def _contents(data, pages):
    """What segments have in pages. A mapped page also shows what the file has around a segment, a copied one does not."""
    out = []
    for number in range(struct.unpack_from("<H", data, 56)[0]):
        kind, _, _, vaddr, _, size, total, _ = struct.unpack_from("<IIQQQQQQ", data, 64 + 56 * number)
        if kind == 1:
            whole = b"".join(pages.get(page, b"") for page in range(vaddr >> 12, vaddr + total + 4095 >> 12))
            out.append(whole[vaddr % PAGE :][: size if total == size else total])
    return out
