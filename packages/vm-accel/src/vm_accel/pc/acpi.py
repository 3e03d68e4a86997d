"""The ACPI tables of a machine: processors, interrupt controllers, devices, how to switch it off. Hardware-reduced: there is no
PM timer, no 8042, no clock chip, no 8259 that a guest would have to know.

ACPI Specification 6.5: 5.2 tables, 20.2 AML, 6.4 resources; 4.1.1 hardware-reduced.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

__all__ = ["RESET_PORT", "RSDP", "SLEEP_PORT", "SLEEP_S5", "Device", "tables"]

RSDP: Final = 0xE_0000
"""Guest-physical; the rest follows it. A kernel that is not told finds it there (5.2.5.1)."""
SLEEP_PORT: Final = 0x600
"""Sleep control register; the status register is the next port."""
RESET_PORT: Final = 0x604
RESET_VALUE: Final = 1
_S5: Final = 5
SLEEP_S5: Final = _S5 << 2 | 1 << 5
"""What is written to SLEEP_PORT to switch off: SLP_TYP and SLP_EN (4.8.3.7)."""

_LOCAL_APIC, _IO_APIC = 0xFEE0_0000, 0xFEC0_0000
_WBINVD, _CONTROL_METHOD_BUTTONS, _RESET, _HARDWARE_REDUCED = 1, 3 << 4, 1 << 10, 1 << 20
_NO_VGA, _NO_CLOCK = 1 << 2, 1 << 5
_OEM: Final = b"VM\0\0\0\0"


class Device(NamedTuple):
    """A virtio device over MMIO: guest-physical address, interrupt line."""

    address: int
    line: int


def _sum(data: bytes | bytearray) -> int:
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    head = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, _OEM, b"VMPC\0\0\0\0", 1, b"VM\0\0", 1
    )
    whole = bytearray(head + body)
    whole[9] = _sum(whole)
    return bytes(whole)


# -- AML --------------------------------------------------------------------------------------------------------------------


def _package_length(content: bytes) -> bytes:
    """20.2.4; the length counts its own bytes."""
    size = len(content)
    if size + 1 < 1 << 6:
        return bytes([size + 1]) + content
    for extra in (1, 2, 3):
        total = size + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little") + content
    raise ValueError("AML of 256 MiB")


def _integer(value: int) -> bytes:
    if value in (0, 1):
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    return b"\x0e" + value.to_bytes(8, "little")


def _string(text: str) -> bytes:
    return b"\x0d" + text.encode() + b"\0"


def _eisa(text: str) -> bytes:
    """``PNP0501`` as a number (19.3.4): three letters of 5 bits, four hexadecimal digits, the high byte first."""
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    return b"\x0c" + struct.pack(">HH", a << 10 | b << 5 | c, int(text[3:], 16))


def _name(name: bytes, value: bytes) -> bytes:
    return b"\x08" + name + value


def _device(name: bytes, content: bytes) -> bytes:
    return b"\x5b\x82" + _package_length(name + content)


def _resources(*rows: bytes) -> bytes:
    body = b"".join(rows) + b"\x79\0"  # end tag
    return _name(b"_CRS", b"\x11" + _package_length(_integer(len(body)) + body))


def _memory(address: int, size: int) -> bytes:
    return b"\x86" + struct.pack("<HBII", 9, 1, address, size)


def _interrupt(line: int) -> bytes:
    """Consumer, edge-triggered, active high, exclusive."""
    return b"\x89" + struct.pack("<HBBI", 6, 0b0011, 1, line)


def _ports(first: int, count: int) -> bytes:
    return b"\x47" + struct.pack("<BHHBB", 1, first, first, 1, count)


def _dsdt(devices: tuple[Device, ...], serial: tuple[int, int], button: int) -> bytes:
    rows = [
        _device(
            b"COM1",
            _name(b"_HID", _eisa("PNP0501"))
            + _name(b"_UID", _integer(1))
            + _resources(_ports(serial[0], 8), _interrupt(serial[1])),
        ),
        _device(b"PWRB", _name(b"_HID", _eisa("PNP0C0C"))),
        # Generic event device (5.6.9): its interrupt is the power button.
        _device(
            b"GED0",
            _name(b"_HID", _string("ACPI0013"))
            + _name(b"_UID", _integer(0))
            + _resources(_interrupt(button))
            + b"\x14"
            + _package_length(b"_EVT" + b"\x01" + b"\x86" + b"PWRB" + _integer(0x80)),
        ),
    ]
    rows += [
        _device(
            b"V%03d" % number,
            _name(b"_HID", _string("LNRO0005"))
            + _name(b"_UID", _integer(number))
            + _name(b"_CCA", _integer(1))
            + _resources(_memory(device.address, 0x1000), _interrupt(device.line)),
        )
        for number, device in enumerate(devices)
    ]
    scope = b"\x10" + _package_length(b"\\_SB_" + b"".join(rows))
    off = b"\x12" + _package_length(b"\x02" + _integer(_S5) + _integer(0))
    return _table(b"DSDT", 2, scope + _name(b"_S5_", off))


# -- tables -----------------------------------------------------------------------------------------------------------------


def _port(number: int) -> bytes:
    """A generic address structure (5.2.3.2): a byte of I/O space."""
    return struct.pack("<BBBBQ", 1, 8, 0, 1, number)


def _fadt(dsdt: int) -> bytes:
    body = bytearray(276 - 36)

    def put(offset: int, layout: str, *values: object) -> None:
        struct.pack_into(layout, body, offset - 36, *values)

    put(40, "<I", dsdt)
    put(109, "<H", _NO_VGA | _NO_CLOCK)
    put(112, "<I", _WBINVD | _CONTROL_METHOD_BUTTONS | _RESET | _HARDWARE_REDUCED)
    put(116, "<12sB", _port(RESET_PORT), RESET_VALUE)
    put(131, "<B", 5)
    put(140, "<Q", dsdt)
    put(244, "<12s12s", _port(SLEEP_PORT), _port(SLEEP_PORT + 1))
    return _table(b"FACP", 6, bytes(body))


def _madt(cpus: int) -> bytes:
    body = struct.pack("<II", _LOCAL_APIC, 0)
    for cpu in range(cpus):
        if cpu < 255:
            body += struct.pack("<BBBBI", 0, 8, cpu, cpu, 1)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, cpu, 1, cpu)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, _IO_APIC, 0)
    return _table(b"APIC", 5, body)


def tables(cpus: int, devices: tuple[Device, ...], serial: tuple[int, int], button: int) -> bytes:
    """What lies from RSDP on. ``serial``: first port and interrupt line of the serial port; ``button``: line of the power button."""
    out = bytearray(64)

    def place(table: bytes) -> int:
        at = RSDP + len(out)
        out.extend(table.ljust(-(-len(table) // 16) * 16, b"\0"))
        return at

    fadt = place(_fadt(place(_dsdt(devices, serial, button))))
    xsdt = place(_table(b"XSDT", 1, struct.pack("<QQ", fadt, place(_madt(cpus)))))
    rsdp = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM, 2, 0, 36, xsdt, 0))
    rsdp[8] = _sum(rsdp[:20])
    rsdp[32] = _sum(rsdp)
    out[:36] = rsdp
    return bytes(out)
