"""Putting a kernel into memory, and the registers it starts with.

bzImage: the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst, "64-bit boot protocol", and zero-page.rst). ELF with a
note of Xen's: PVH (Xen, docs/misc/pvh.pandoc; arch-x86/hvm/start_info.h). Other ELF: its entry as in the 64-bit protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vm_accel.pc.acpi import RSDP
from vm_accel.pc.ram import HIGH, OutsideOfMemory, Ram
from vm_accel.x86 import long_mode, page_tables, protected_mode
from vm_core.errors import LoadError, UsageError
from vm_core.loader import ProgramNotFound

__all__ = ["PROTOCOLS", "load"]

PROTOCOLS: Final = ("auto", "linux", "pvh")

# Below 1 MiB, where no kernel is loaded.
_GDT, _START_INFO, _ZERO_PAGE, _TABLES, _COMMAND_LINE = 0x1000, 0x2000, 0x7000, 0x9000, 0x2_0000
_COMMAND_LINE_BYTES: Final = 0x1_0000
_LOW: Final = 0x9_FC00
_KERNEL: Final = 0x10_0000
_PAGE: Final = 0x1000
_STACK: Final = 0x7000
"""Grows down from below the zero page; both protocols promise none, but a wrong push must not hit what is read."""

_RAM, _RESERVED = 1, 2
_HEADER: Final = 0x1F1
_MAGIC: Final = 0x202
_PVH_NOTE: Final = 18
_START_MAGIC: Final = 0x336E_C578
_FLAT: Final = (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
"""__BOOT_CS 0x10 and __BOOT_DS 0x18: 64-bit code, flat data."""
_FLAT32: Final = (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067)


def load(
    ram: Ram, kernel: Path, initrd: Path | None, command_line: str, protocol: str = "auto"
) -> dict[str, int]:
    """Put everything into place. Returns the first vCPU's registers. Raises LoadError, ProgramNotFound, UsageError."""
    image = _content("kernel", kernel, ram)
    text = command_line.encode("utf-8", "surrogateescape") + b"\0"
    if b"\0" in text[:-1] or len(text) > _COMMAND_LINE_BYTES:
        raise UsageError(f"a command line of {len(text) - 1} bytes, or with a NUL in it")
    try:
        if image[:4] == b"\x7fELF":
            return _Elf(ram, kernel, image).start(initrd, text, protocol)
        if image[_MAGIC : _MAGIC + 4] == b"HdrS":
            if protocol == "pvh":
                raise LoadError(f"{kernel}: a bzImage cannot be started by PVH", hint="take its vmlinux")
            return _bzimage(ram, kernel, image, initrd, text)
    except OutsideOfMemory as error:
        raise LoadError(
            f"{kernel} does not fit into {ram.size >> 20} MiB of memory: {error}",
            hint="give the machine more memory",
        ) from None
    hint = "a compressed vmlinux is unpacked first" if image[:2] in (b"\x1f\x8b", b"\x28\xb5") else ""
    raise LoadError(f"{kernel} is neither a bzImage nor an ELF kernel of x86-64", hint=hint)


def _content(what: str, path: Path, ram: Ram) -> bytes:
    try:
        with open(path, "rb") as file:
            # No more than could fit: a device or a wrong file is not read to its end.
            data = file.read(ram.size + 1)
    except FileNotFoundError:
        raise ProgramNotFound(f"{what} {path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise LoadError(f"{what} {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(data) > ram.size:
        raise LoadError(
            f"{what} {path} is larger than the memory of {ram.size >> 20} MiB",
            hint="give the machine more memory",
        )
    return data


def memory_map(ram: Ram) -> list[tuple[int, int, int]]:
    """Address, bytes and type of each range, as e820 and PVH both have it."""
    out = [(0, _LOW, _RAM), (_LOW, _KERNEL - _LOW, _RESERVED)]
    for guest, _offset, size in ram.ranges():
        start = max(guest, _KERNEL)
        if guest + size > start:
            out.append((start, guest + size - start, _RAM))
    return out


def _initrd(ram: Ram, path: Path | None, lowest: int, highest: int) -> tuple[int, int]:
    """As high as it may be below 4 GiB. Returns its address and size; 0, 0 without one."""
    if path is None:
        return 0, 0
    data = _content("initrd", path, ram)
    top = min(next(iter(ram.ranges()))[2], highest + 1)
    at = top - len(data) & ~(_PAGE - 1)
    if at < lowest:
        raise LoadError(
            f"initrd {path} of {len(data)} bytes does not fit beside the kernel in {ram.size >> 20} MiB",
            hint="give the machine more memory",
        )
    ram.write(at, data)
    return at, len(data)


# -- the 64-bit protocol ----------------------------------------------------------------------------------------------------


def _bzimage(ram: Ram, path: Path, image: bytes, initrd: Path | None, text: bytes) -> dict[str, int]:
    if len(image) < 0x268:
        raise LoadError(f"{path}: cut off in its setup header")
    version = struct.unpack_from("<H", image, 0x206)[0]
    if version < 0x20C or not image[0x236] & 1:
        raise LoadError(
            f"{path}: no entry in 64-bit mode (boot protocol {version >> 8}.{version & 0xFF:02})",
            hint="use Linux 3.8 or newer for x86-64",
        )
    setup = ((image[_HEADER] or 4) + 1) * 512
    body = image[setup:]
    if not body:
        raise LoadError(f"{path}: cut off at {setup:#x}, where the kernel begins")
    limit, initrd_limit = struct.unpack_from("<I", image, 0x238)[0], struct.unpack_from("<I", image, 0x22C)[0]
    if len(text) > limit + 1:
        raise UsageError(f"a command line of {len(text) - 1} bytes; this kernel takes {limit}")
    at, room = struct.unpack_from("<QI", image, 0x258)
    room = max(room, len(body))
    if at < _KERNEL or at + room > HIGH:
        raise LoadError(f"{path}: wants to be at {at:#x}, which no machine has for it")
    ram.view(at, room)
    ram.write(at, body)
    where, size = _initrd(ram, initrd, at + room, initrd_limit)
    # The header runs to 0x202 + the jump's distance at 0x201 (boot.rst, "64-bit boot protocol").
    end = min(_MAGIC + image[0x201], 0x290)
    return _zero_page(ram, image[_HEADER:end], text, (where, size), at + 0x200)


def _zero_page(ram: Ram, header: bytes, text: bytes, initrd: tuple[int, int], entry: int) -> dict[str, int]:
    page = bytearray(4096)
    page[_HEADER : _HEADER + len(header)] = header
    page[0x210] = 0xFF  # a loader without a number
    page[0x211] |= 1  # loaded high
    struct.pack_into("<Q", page, 0x070, RSDP)
    struct.pack_into("<II", page, 0x218, initrd[0], initrd[1])
    struct.pack_into("<I", page, 0x228, _COMMAND_LINE)
    rows = memory_map(ram)
    page[0x1E8] = len(rows)
    for number, row in enumerate(rows):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * number, *row)
    ram.write(_ZERO_PAGE, page)
    ram.write(_COMMAND_LINE, text)
    ram.write(_TABLES, page_tables(_TABLES, gigabytes=4))
    ram.write(_GDT, struct.pack("<4Q", *_FLAT))
    return (
        long_mode(entry, _TABLES, stack=_STACK)
        | {"gdt.base": _GDT, "gdt.limit": 8 * len(_FLAT) - 1, "idt.base": 0, "idt.limit": 0}
        | {"rsi": _ZERO_PAGE}
    )


# -- ELF --------------------------------------------------------------------------------------------------------------------


class _Elf:
    def __init__(self, ram: Ram, path: Path, image: bytes) -> None:
        self.ram, self.path, self.image = ram, path, image
        if len(image) < 64 or image[4:6] != b"\x02\x01" or struct.unpack_from("<H", image, 18)[0] != 62:
            raise LoadError(f"{path}: an ELF file, but not of x86-64")
        self.entry, offset = struct.unpack_from("<QQ", image, 24)
        each, count = struct.unpack_from("<HH", image, 54)
        if each != 56 or offset + each * count > len(image) or not count:
            raise LoadError(f"{path}: program headers at {offset:#x} that are not in the file")
        self.segments = [struct.unpack_from("<IIQQQQQQ", image, offset + each * i) for i in range(count)]

    def start(self, initrd: Path | None, text: bytes, protocol: str) -> dict[str, int]:
        end = self._place()
        pvh = self._pvh()
        if protocol == "pvh" and pvh is None:
            raise LoadError(f"{self.path}: no PVH entry", hint="CONFIG_PVH=y makes one")
        where = _initrd(self.ram, initrd, -(-end // _PAGE) * _PAGE, 0x7FFF_FFFF)
        if pvh is None or protocol == "linux":
            return self._linux(text, where)
        return self._hvm(pvh, text, where)

    def _place(self) -> int:
        """Load the segments at their physical addresses. Returns the end of the highest."""
        end = 0
        for kind, _flags, offset, _virtual, at, stored, size, _align in self.segments:
            if kind != 1 or not size:
                continue
            if stored > size or offset + stored > len(self.image):
                raise LoadError(f"{self.path}: a segment at {offset:#x} that is not in the file")
            if at < _KERNEL or at + size > HIGH:
                raise LoadError(f"{self.path}: a segment wants to be at {at:#x}, which no machine has for it")
            self.ram.view(at, size)
            self.ram.write(at, memoryview(self.image)[offset : offset + stored])
            end = max(end, at + size)
        if not end:
            raise LoadError(f"{self.path}: no segment to load")
        return end

    def _notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        for kind, _flags, offset, _virtual, _at, stored, _size, align in self.segments:
            if kind != 4 or offset + stored > len(self.image):
                continue
            unit = 8 if align == 8 else 4
            data = self.image[offset : offset + stored]
            at = 0
            while at + 12 <= len(data):
                name, length, number = struct.unpack_from("<III", data, at)
                at += 12
                start = at + -(-name // unit) * unit
                yield data[at : at + name], number, data[start : start + length]
                at = start + -(-length // unit) * unit

    def _pvh(self) -> int | None:
        for name, number, data in self._notes():
            if name == b"Xen\0" and number == _PVH_NOTE and len(data) in (4, 8):
                return int.from_bytes(data, "little")
        return None

    def _linux(self, text: bytes, initrd: tuple[int, int]) -> dict[str, int]:
        entry = self.entry
        for kind, _flags, _offset, virtual, at, _stored, size, _align in self.segments:
            # vmlinux gives its entry as a physical address; others, as their segments lie virtually.
            if kind == 1 and virtual <= entry < virtual + size:
                entry = entry - virtual + at
                break
        self.ram.view(entry, 1)
        header = bytearray(0x268 - _HEADER)
        struct.pack_into("<HH4sH", header, 0x1FE - _HEADER, 0xAA55, 0x66EB, b"HdrS", 0x20C)
        return _zero_page(self.ram, bytes(header), text, initrd, entry)

    def _hvm(self, entry: int, text: bytes, initrd: tuple[int, int]) -> dict[str, int]:
        """hvm_start_info, version 1: the modules, the map of memory, the command line."""
        ram = self.ram
        ram.view(entry, 1)
        modules = 0x100
        rows = memory_map(ram)
        struct_map = 0x200
        info = bytearray(struct_map + 24 * len(rows))
        struct.pack_into(
            "<IIIIQQQQII",
            info,
            0,
            _START_MAGIC,
            1,
            0,
            int(bool(initrd[1])),
            _START_INFO + modules,
            _COMMAND_LINE,
            RSDP,
            _START_INFO + struct_map,
            len(rows),
            0,
        )
        struct.pack_into("<QQQQ", info, modules, initrd[0], initrd[1], 0, 0)
        for number, (at, size, kind) in enumerate(rows):
            struct.pack_into("<QQII", info, struct_map + 24 * number, at, size, kind, 0)
        ram.write(_START_INFO, info)
        ram.write(_COMMAND_LINE, text)
        ram.write(_GDT, struct.pack("<4Q", *_FLAT32))
        return protected_mode(entry, stack=_STACK) | {
            "gdt.base": _GDT,
            "gdt.limit": 8 * len(_FLAT32) - 1,
            "idt.base": 0,
            "idt.limit": 0,
            "rbx": _START_INFO,
        }
