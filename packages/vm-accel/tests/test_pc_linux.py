"""Kernels and what is put into memory beside them, without a machine: layouts, and files that are no kernels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vm_accel.memory import HostMemory
from vm_accel.pc import linux
from vm_accel.pc.acpi import RSDP
from vm_accel.pc.ram import LOW_END, Ram
from vm_accel.testing import pc_kernel
from vm_core.errors import LoadError, UsageError, VmError
from vm_core.loader import ProgramNotFound

_SIZE = 16 << 20


@pytest.fixture
def ram() -> Iterator[Ram]:
    with HostMemory(_SIZE) as memory:
        yield Ram(memory)


def put(directory: Path, data: bytes) -> Path:
    path = directory / "kernel"
    path.write_bytes(data)
    return path


def changed(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(layout, out, offset, *values)
    return bytes(out)


def test_the_zero_page(ram: Ram, tmp_path: Path) -> None:
    kernel = pc_kernel.bzimage()
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"i" * 5000)
    registers = linux.load(ram, put(tmp_path, kernel), initrd, "quiet ttyS0")
    page = ram.read(registers["rsi"], 4096)
    # zero-page.rst and boot.rst
    assert page[0x1F1:0x202] == kernel[0x1F1:0x202]
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert page[0x211] & 1
    assert struct.unpack_from("<Q", page, 0x70)[0] == RSDP
    line = struct.unpack_from("<I", page, 0x228)[0]
    assert ram.read(line, 12) == b"quiet ttyS0\0"
    at, size = struct.unpack_from("<II", page, 0x218)
    assert (at % 4096, size, ram.read(at, size)) == (0, 5000, b"i" * 5000)
    assert at + size <= _SIZE
    rows = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
    assert rows == [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (0x10_0000, _SIZE - 0x10_0000, 1)]
    assert registers["rip"] == pc_kernel.LOAD + 0x200
    assert ram.read(pc_kernel.LOAD, len(kernel) - 1024) == kernel[1024:]
    assert registers["cs.selector"] == 0x10
    assert {registers[f"{name}.selector"] for name in ("ds", "es", "ss")} == {0x18}
    assert registers["rflags"] & 1 << 9 == 0
    # The entry and all that it is given must be mapped at their own addresses.
    for address in (registers["rip"], registers["rsi"], line, at):
        table = registers["cr3"]
        for shift in (39, 30):
            table = ram.read_int(table + 8 * (address >> shift & 511), 8) & ~0xFFF
        entry = ram.read_int(table + 8 * (address >> 21 & 511), 8)
        assert entry & 0x83 == 0x83
        assert entry >> 21 == address >> 21


def test_the_start_info(ram: Ram, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"i" * 5000)
    registers = linux.load(ram, put(tmp_path, pc_kernel.elf()), initrd, "words")
    magic, version, _flags, modules, module, line, rsdp, rows, count, _ = struct.unpack(
        "<IIIIQQQQII", ram.read(registers["rbx"], 56)
    )
    assert (magic, version, modules, rsdp, count) == (0x336E_C578, 1, 1, RSDP, 3)
    assert ram.read(line, 6) == b"words\0"
    at, size = struct.unpack("<QQ", ram.read(module, 16))
    assert ram.read(at, size) == b"i" * 5000
    assert struct.unpack("<QQI", ram.read(rows, 20)) == (0, 0x9FC00, 1)
    # PVH: protected mode, no paging, flat segments.
    assert registers["cr0"] & 0x8000_0001 == 1
    assert registers["cs.limit"] == 0xFFFF_FFFF


def test_memory_above_the_hole_is_in_the_map() -> None:
    with HostMemory(LOW_END + (64 << 20)) as memory:
        rows = linux.memory_map(Ram(memory))
    assert rows[2:] == [(0x10_0000, LOW_END - 0x10_0000, 1), (1 << 32, 64 << 20, 1)]


pytest.importorskip("keystone", reason="needs keystone-engine")
_BZ, _ELF = pc_kernel.bzimage(), pc_kernel.elf()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "neither"),
        (b"\x1f\x8b" + bytes(2000), "neither"),
        (_BZ[:0x210], "cut off in its setup"),
        (_BZ[:1024], "cut off at 0x400"),
        (changed(_BZ, 0x206, "<H", 0x204), "boot protocol 2.04"),
        (changed(_BZ, 0x236, "<H", 0), "no entry in 64-bit mode"),
        (changed(_BZ, 0x258, "<Q", 0x1000), "wants to be at 0x1000"),
        (changed(_BZ, 0x258, "<Q", 1 << 40), "wants to be at"),
        (changed(_BZ, 0x260, "<I", _SIZE), "does not fit into 16 MiB"),
        (_ELF[:40], "not of x86-64"),
        (changed(_ELF, 18, "<H", 243), "not of x86-64"),
        (changed(_ELF, 32, "<Q", 1 << 60), "program headers"),
        (changed(_ELF, 56, "<H", 0), "program headers"),
        (changed(_ELF, 64 + 32, "<Q", 1 << 60), "not in the file"),
        (changed(_ELF, 64 + 24, "<Q", 0x1000), "wants to be at 0x1000"),
        (changed(_ELF, 64 + 40, "<Q", _SIZE), "does not fit into 16 MiB"),
        (changed(_ELF, 64, "<I", 4), "no segment to load"),
        (changed(_ELF, 0x800 + 16, "<I", 0xFFFF_FFF0), "does not fit"),
    ],
)
def test_what_is_no_kernel(ram: Ram, tmp_path: Path, image: bytes, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        linux.load(ram, put(tmp_path, image), None, "")


def test_what_does_not_fit_beside_it(ram: Ram, tmp_path: Path) -> None:
    kernel = put(tmp_path, _BZ)
    with pytest.raises(UsageError, match="takes 2047"):
        linux.load(ram, kernel, None, "x" * 2048)
    linux.load(ram, kernel, None, "x" * 2047)
    with pytest.raises(UsageError, match="NUL"):
        linux.load(ram, kernel, None, "a\0b")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(_SIZE - (1 << 20))
    with pytest.raises(LoadError, match="does not fit beside the kernel"):
        linux.load(ram, kernel, big, "")
    with big.open("wb") as file:
        file.truncate(_SIZE + 1)
    with pytest.raises(LoadError, match="larger than the memory"):
        linux.load(ram, kernel, big, "")
    with pytest.raises(ProgramNotFound):
        linux.load(ram, kernel, tmp_path / "none", "")
    with pytest.raises(LoadError, match="cannot be read"):
        linux.load(ram, tmp_path, None, "")
    with pytest.raises(LoadError, match="cannot be started by PVH"):
        linux.load(ram, kernel, None, "", "pvh")
    with pytest.raises(LoadError, match="no PVH entry"):
        linux.load(ram, put(tmp_path, pc_kernel.elf(pvh=False)), None, "", "pvh")


_edits = st.lists(st.tuples(st.integers(0, 0x2FF), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([_BZ, _ELF]), _edits, st.integers(0, 0x12_000))
def test_a_damaged_kernel_is_loaded_or_refused(
    tmp_path: Path, image: bytes, edits: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(image)
    for at, value in edits:
        damaged[at] = value
    with HostMemory(_SIZE) as memory:
        try:
            registers = linux.load(Ram(memory), put(tmp_path, bytes(damaged[: len(image) - cut])), None, "")
        except VmError:
            return
        assert registers["rip"] < _SIZE
