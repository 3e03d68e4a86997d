"""Devices of machines without a machine: rings that a driver wrote, right and wrong; the serial port; ACPI as another compiler reads it."""

from __future__ import annotations

import errno
import os
import select
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vm_accel.interface import Disk
from vm_accel.memory import HostMemory

pytest.importorskip("fcntl", reason="machines over KVM are of Linux")
from vm_accel.console import Console
from vm_accel.pc import acpi
from vm_accel.pc.block import Block
from vm_accel.pc.ram import HIGH, LOW_END, OutsideOfMemory, Ram
from vm_accel.pc.streams import Entropy, Port, Uart, VirtioConsole
from vm_accel.pc.virtio import VirtioDevice
from vm_core.errors import UsageError

_SIZE = 0x4_0000
_DESCRIPTORS, _AVAILABLE, _USED, _BUFFERS = 0x1000, 0x2000, 0x3000, 0x1_0000
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NEEDS_RESET = 64


class Driver:
    """The other side of a device: its registers and one queue, all in ``ram``."""

    def __init__(self, ram: Ram, device: VirtioDevice, interrupts: list[int]) -> None:
        self.ram, self.device, self.interrupts = ram, device, interrupts
        self.submitted = 0

    def start(self, queue: int = 0, size: int = 8, *, features: int = 1 << 32, **addresses: int) -> None:
        write = self.device.write
        for status in (0, 1, 3):
            write(0x70, 4, status)
        for half in (0, 1):
            write(0x24, 4, half)
            write(0x20, 4, features >> 32 * half & 0xFFFF_FFFF)
        write(0x70, 4, 11)
        self.ready(queue, size, **addresses)
        write(0x70, 4, 15)
        self.submitted = 0

    def ready(
        self,
        queue: int,
        size: int,
        *,
        descriptors: int = _DESCRIPTORS,
        available: int = _AVAILABLE,
        used: int = _USED,
    ) -> None:
        write = self.device.write
        write(0x30, 4, queue)
        write(0x38, 4, size)
        for register, address in ((0x80, descriptors), (0x90, available), (0xA0, used)):
            write(register, 4, address & 0xFFFF_FFFF)
            write(register + 4, 4, address >> 32)
        write(0x44, 4, 1)

    def submit(self, *pieces: tuple[int, int, int], notify: bool = True) -> None:
        """One chain of ``(address, bytes, flags)`` from descriptor 0 on."""
        for number, (address, length, flags) in enumerate(pieces):
            more = _NEXT if number + 1 < len(pieces) else 0
            row = struct.pack("<QIHH", address, length, flags | more, number + 1)
            self.ram.write(_DESCRIPTORS + 16 * number, row)
        self.ram.write(_AVAILABLE + 4 + 2 * (self.submitted % 8), b"\0\0")
        self.submitted += 1
        self.ram.write(_AVAILABLE + 2, struct.pack("<H", self.submitted & 0xFFFF))
        if notify:
            self.device.write(0x50, 4, 0)

    def used(self) -> tuple[int, int]:
        """How many were used, and how long the last was."""
        count = self.ram.read_int(_USED + 2, 2)
        return count, self.ram.read_int(_USED + 8 + 8 * ((count - 1) % 8), 4)

    @property
    def status(self) -> int:
        return self.device.read(0x70, 4)


@pytest.fixture
def ram() -> Iterator[Ram]:
    with HostMemory(_SIZE) as memory:
        yield Ram(memory)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 16)
    return path


@pytest.fixture
def disk(ram: Ram, image: Path) -> Iterator[Driver]:
    block = Block(Disk(image, name="serial"))
    interrupts: list[int] = []
    driver = Driver(ram, VirtioDevice(ram, block, lambda: interrupts.append(1)), interrupts)
    driver.start()
    yield driver
    block.close()


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


# -- the transport ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOENT, "truncate -s 1G"), (errno.EACCES, "FILE,ro")])
def test_an_image_that_cannot_be_opened(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("vm_accel.pc.block.os.open", refuse)
    with pytest.raises(UsageError, match=os.strerror(number)) as caught:
        Block(Disk(image))
    assert hint in caught.value.hint


def test_what_a_driver_reads_first(disk: Driver) -> None:
    read, write = disk.device.read, disk.device.write
    assert [read(offset, 4) for offset in (0, 4, 8)] == [0x7472_6976, 2, 2]
    write(0x14, 4, 1)
    assert read(0x10, 4) == 1  # VIRTIO_F_VERSION_1
    write(0x14, 4, 0)
    assert read(0x10, 4) == 1 << 2 | 1 << 6 | 1 << 9
    write(0x14, 4, 2)
    assert read(0x10, 4) == 0
    assert read(0x34, 4) == 256
    write(0x30, 4, 1)
    assert (read(0x34, 4), read(0x44, 4)) == (0, 0)
    assert read(0x100, 8) == 8
    assert [read(0x100 + at, 1) for at in range(4)] == [8, 0, 0, 0]
    assert read(0x10C, 4) == 254
    assert read(0xFFF, 8) == 0
    assert read(2, 2) == 0


@pytest.mark.parametrize("features", [0, 1 << 32 | 1 << 35, 1 << 32 | 1])
def test_features_that_were_not_offered_are_refused(disk: Driver, features: int) -> None:
    disk.start(features=features)
    assert disk.status & (8 | 4) == 0
    disk.submit((_BUFFERS, 16, 0), (_BUFFERS + 16, 1, _WRITE))
    assert disk.used()[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 7},
        {"size": 512},
        {"descriptors": _DESCRIPTORS + 8},
        {"available": _AVAILABLE + 1},
        {"used": _USED + 2},
        {"descriptors": _SIZE - 16},
        {"used": _SIZE - 4},
        {"available": 1 << 63},
        {"descriptors": (1 << 64) - 16},
    ],
)
def test_a_queue_that_cannot_be(disk: Driver, wrong: dict[str, int]) -> None:
    disk.start(**wrong)
    assert disk.status & _NEEDS_RESET
    assert disk.device.read(0x44, 4) == 0
    disk.start()
    assert disk.status == 15


def test_an_interrupt_is_raised_and_acknowledged(disk: Driver) -> None:
    request = ((_BUFFERS, 16, 0), (_BUFFERS + 16, 1, _WRITE))
    disk.ram.write(_BUFFERS, header(4))
    disk.submit(*request)
    assert disk.device.read(0x60, 4) == 1
    disk.device.write(0x64, 4, 1)
    assert disk.device.read(0x60, 4) == 0
    disk.ram.write(_AVAILABLE, b"\1\0")  # VIRTQ_AVAIL_F_NO_INTERRUPT
    disk.submit(*request)
    assert (disk.used()[0], disk.device.read(0x60, 4), len(disk.interrupts)) == (2, 0, 1)


def test_the_rings_go_round(disk: Driver) -> None:
    disk.ram.write(_BUFFERS, header(4))
    for turn in range(70_000):
        disk.submit((_BUFFERS, 16, 0), (_BUFFERS + 16, 1, _WRITE), notify=turn % 3 == 2)
    disk.device.work()
    assert disk.used() == (70_000 & 0xFFFF, 1)


# -- the disk ---------------------------------------------------------------------------------------------------------------


def test_a_request_may_be_cut_anywhere(disk: Driver, image: Path) -> None:
    content = image.read_bytes()
    ram = disk.ram
    ram.write(_BUFFERS, header(0, 3))
    # A header of three pieces, data of two with an empty one between, the status at the end of the data.
    disk.submit(
        (_BUFFERS, 1, 0),
        (_BUFFERS + 1, 14, 0),
        (_BUFFERS + 15, 1, 0),
        (0x2_0000, 100, _WRITE),
        (0x2_1000, 0, _WRITE),
        (0x2_2000, 413, _WRITE),
    )
    assert disk.used() == (1, 513)
    assert ram.read(0x2_0000, 100) + ram.read(0x2_2000, 413) == content[1536:2048] + b"\0"
    ram.write(_BUFFERS, header(1, 7) + bytes(range(255, -1, -1)) * 2)
    disk.submit((_BUFFERS, 20, 0), (_BUFFERS + 20, 508, 0), (0x2_0000, 1, _WRITE))
    assert ram.read(0x2_0000, 1) == b"\0"
    assert image.read_bytes() == content[:3584] + bytes(range(255, -1, -1)) * 2


@pytest.mark.parametrize(
    ("kind", "sector", "length", "status"),
    [
        (0, 7, 1024, 1),
        (0, 8, 512, 1),
        (1, (1 << 64) - 1, 512, 1),
        (1, 1 << 55, 512, 1),
        (0, 0, 511, 1),
        (1, 0, 100, 1),
        (0, 0, 0, 0),
        (11, 0, 512, 2),
        (0xFFFF_FFFF, 0, 512, 2),
    ],
)
def test_what_is_not_on_the_disk(
    disk: Driver, image: Path, kind: int, sector: int, length: int, status: int
) -> None:
    before = image.read_bytes()
    disk.ram.write(_BUFFERS, header(kind, sector))
    disk.ram.write(0x2_0000, b"\xee" * 2048)
    disk.submit((_BUFFERS, 16, 0), (0x2_0000, length, 0 if kind == 1 else _WRITE), (0x2_1000, 1, _WRITE))
    assert disk.used()[0] == 1
    assert disk.ram.read(0x2_1000, 1) == bytes([status])
    assert image.read_bytes() == before
    assert disk.ram.read(0x2_0000, 2048) == b"\xee" * 2048


def test_its_name(disk: Driver) -> None:
    disk.ram.write(_BUFFERS, header(8))
    disk.submit((_BUFFERS, 16, 0), (0x2_0000, 20, _WRITE), (0x2_1000, 1, _WRITE))
    assert disk.ram.read(0x2_0000, 20) == b"serial".ljust(20, b"\0")
    assert disk.used() == (1, 21)


@pytest.mark.parametrize(
    "chain",
    [
        [(_BUFFERS, 16, _INDIRECT)],
        [(_BUFFERS, 15, 0), (_BUFFERS, 1, _WRITE)],
        [(_BUFFERS, 16, 0)],
        [(_BUFFERS, 16, 0), (_BUFFERS, 0, _WRITE)],
        [(_BUFFERS, 16, 0), (_BUFFERS, 1, _WRITE), (_BUFFERS, 512, 0)],
        [(_BUFFERS, 16, 0), (_SIZE - 1, 2, _WRITE)],
        [((1 << 64) - 8, 16, 0), (_BUFFERS, 1, _WRITE)],
        [(_BUFFERS, 0xFFFF_FFFF, 0), (_BUFFERS, 1, _WRITE)],
    ],
)
def test_a_wrong_chain_stops_the_device(disk: Driver, image: Path, chain: list[tuple[int, int, int]]) -> None:
    before = image.read_bytes()
    disk.ram.write(_BUFFERS, header(1))
    disk.submit(*chain)
    assert disk.status & _NEEDS_RESET
    assert disk.device.read(0x60, 4) & 2
    assert disk.used()[0] == 0
    assert image.read_bytes() == before
    disk.device.work()  # it stays so until the driver resets it
    assert disk.used()[0] == 0
    disk.start()
    disk.ram.write(_USED, bytes(0x100))
    disk.ram.write(_BUFFERS, header(4))
    disk.submit((_BUFFERS, 16, 0), (_BUFFERS + 16, 1, _WRITE))
    assert disk.used() == (1, 1)


def test_a_chain_that_is_a_ring(disk: Driver) -> None:
    disk.ram.write(_BUFFERS, header(0))
    disk.submit((_BUFFERS, 16, 0), (_BUFFERS, 512, _WRITE))
    for number in range(2):
        disk.ram.write(_DESCRIPTORS + 16 * number, struct.pack("<QIHH", _BUFFERS, 16, _NEXT, 1 - number))
    disk.device.write(0x70, 4, 0)
    disk.start()
    disk.ram.write(_AVAILABLE + 2, b"\1\0")
    disk.device.work()
    assert disk.status & _NEEDS_RESET


def test_more_buffers_than_the_queue_has(disk: Driver) -> None:
    disk.ram.write(_AVAILABLE + 2, struct.pack("<H", 9))
    disk.device.work()
    assert disk.status & _NEEDS_RESET


def test_a_file_that_shrank_is_an_error(disk: Driver, image: Path) -> None:
    os.truncate(image, 512)
    disk.ram.write(_BUFFERS, header(0, 1))
    disk.submit((_BUFFERS, 16, 0), (0x2_0000, 512, _WRITE), (0x2_1000, 1, _WRITE))
    assert disk.ram.read(0x2_1000, 1) == b"\1"


_small = st.sampled_from([0, 1, 2, 3, 7, 8, 15, 16, 17, 512, 513, 0xFFFF_FFFF])
_place = st.one_of(
    st.integers(_BUFFERS, _BUFFERS + 0x400),
    st.sampled_from([0, _DESCRIPTORS, _AVAILABLE, _USED, _SIZE - 1, _SIZE, LOW_END, HIGH, (1 << 64) - 1]),
)
_row = st.tuples(_place, _small, st.integers(0, 7), st.integers(0, 9))
_register = st.tuples(
    st.sampled_from([0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0xA0, 0x100]),
    st.sampled_from([1, 2, 4, 8]),
    st.one_of(st.integers(0, 16), st.sampled_from([_DESCRIPTORS, _AVAILABLE, _USED, 0xFFFF_FFFF, 1 << 31])),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(_row, max_size=8),
    heads=st.lists(st.integers(0, 9), min_size=8, max_size=8),
    published=st.one_of(st.integers(0, 8), st.integers(0, 0xFFFF)),
    requests=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 10)), min_size=4, max_size=4),
    before=st.lists(_register, max_size=4),
    after=st.lists(_register, max_size=8),
    kind=st.sampled_from(["disk", "console", "entropy"]),
)
def test_no_driver_breaks_out(
    tmp_path: Path,
    rows: list[tuple[int, int, int, int]],
    heads: list[int],
    published: int,
    requests: list[tuple[int, int]],
    before: list[tuple[int, int, int]],
    after: list[tuple[int, int, int]],
    kind: str,
) -> None:
    """Whatever lies in the rings and is written to the registers: no exception, no byte outside of the rules' places changes."""
    image = tmp_path / "fuzzed"
    image.write_bytes(bytes(4096))
    with HostMemory(_SIZE) as memory, Console() as console, select.epoll() as poll:
        ram = Ram(memory)
        block = Block(Disk(image))
        port = Port(*console.theirs, poll)
        functions: dict[str, Any] = {"disk": block, "console": VirtioConsole(port), "entropy": Entropy()}
        driver = Driver(ram, VirtioDevice(ram, functions[kind], lambda: None), [])
        driver.start(queue=1 if kind == "console" else 0)
        for number, (sort, sector) in enumerate(requests):
            ram.write(_BUFFERS + 0x100 * number, header(sort, sector))
        for number, (address, length, flags, following) in enumerate(rows):
            ram.write(_DESCRIPTORS + 16 * number, struct.pack("<QIHH", address, length, flags, following))
        ram.write(_AVAILABLE, struct.pack("<10H", 0, published, *heads))
        untouched = ram.read(0x8000, 0x1000)
        for offset, size, value in before:
            driver.device.write(offset, size, value)
        driver.device.work()
        for offset, size, value in after:
            driver.device.write(offset, size, value)
            assert 0 <= driver.device.read(offset, size) < 1 << 8 * max(size, 4)
        driver.device.work()
        assert ram.read(0x8000, 0x1000) == untouched
        assert image.stat().st_size == 4096
        block.close()


# -- memory -----------------------------------------------------------------------------------------------------------------


def test_memory_has_a_hole() -> None:
    with HostMemory(LOW_END + 0x20_0000) as memory:
        ram = Ram(memory)
        assert list(ram.ranges()) == [(0, 0, LOW_END), (HIGH, LOW_END, 0x20_0000)]
        ram.write(HIGH + 0x1F_FFFF, b"x")
        assert memory.read(LOW_END + 0x1F_FFFF, 1) == b"x"
        for address, length in (
            (LOW_END - 1, 2),
            (LOW_END, 1),
            (HIGH - 1, 1),
            (HIGH - 1, 2),
            (HIGH + 0x1F_FFFF, 2),
            (-1, 1),
            (0, -1),
            (1 << 64, 1),
        ):
            with pytest.raises(OutsideOfMemory):
                ram.view(address, length)


# -- the serial port --------------------------------------------------------------------------------------------------------


@pytest.fixture
def serial() -> Iterator[tuple[Uart, Console, list[bool]]]:
    levels: list[bool] = []
    with Console() as console, select.epoll() as poll:
        yield Uart(Port(*console.theirs, poll), levels.append), console, levels


def test_linuxs_probe_finds_a_16550a(serial: tuple[Uart, Console, list[bool]]) -> None:
    """What drivers/tty/serial/8250/8250_port.c: autoconfig asks."""
    uart = serial[0]
    uart.write(1, 0)
    assert uart.read(1) & 0x0F == 0
    uart.write(1, 0x0F)
    assert uart.read(1) & 0x0F == 0x0F
    uart.write(1, 0)
    uart.write(4, 0x10 | 0x0A)
    assert uart.read(6) & 0xF0 == 0x90
    uart.write(4, 0)
    uart.write(2, 1)
    assert uart.read(2) >> 6 == 3
    uart.write(3, 0x80)
    uart.write(0, 0x34)
    uart.write(1, 0x12)
    assert (uart.read(0), uart.read(1)) == (0x34, 0x12)
    uart.write(3, 3)
    assert uart.read(1) == 0
    uart.write(7, 0xA5)
    assert uart.read(7) == 0xA5


def test_interrupts_of_the_serial_port(serial: tuple[Uart, Console, list[bool]]) -> None:
    uart, console, levels = serial
    uart.write(1, 2)
    assert levels == [True]  # the transmitter is empty
    assert uart.read(2) & 0x0F == 2
    assert levels == [True, False]  # reading says so
    uart.write(0, 0x41)
    assert levels == [True, False, True]
    assert console.read(10) == b"A"
    uart.write(1, 1)
    assert levels[-1] is False
    console.write(b"xy")
    uart.ready()
    assert levels[-1] is True
    assert uart.read(2) & 0x0F == 4
    assert [uart.read(0), levels[-1], uart.read(0), levels[-1]] == [0x78, True, 0x79, False]
    assert uart.read(5) & 1 == 0


def test_loopback_stays_inside(serial: tuple[Uart, Console, list[bool]]) -> None:
    uart, console, _levels = serial
    uart.write(4, 0x10)
    for value in range(20):
        uart.write(0, value)
    assert uart.read(5) & 3 == 3  # data, and an overrun
    assert uart.read(5) & 3 == 1
    assert [uart.read(0) for _ in range(16)] == list(range(16))
    assert select.select([console], [], [], 0)[0] == []


def test_a_full_pipe_keeps_the_transmitter_busy(serial: tuple[Uart, Console, list[bool]]) -> None:
    uart, console, levels = serial
    uart.write(1, 2)
    count = 0
    while uart.read(5) & 0x20:
        uart.write(0, 0x41 + count % 26)
        count += 1
        assert count < 1 << 21
    uart.read(2)
    assert levels[-1] is False
    got = console.read(1 << 21)
    uart.ready()
    assert uart.read(5) & 0x60 == 0x60
    assert levels[-1] is True
    got += console.read(1 << 21)
    assert got == bytes(0x41 + at % 26 for at in range(count))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 255)), max_size=60))
def test_no_order_of_accesses_is_too_strange(accesses: list[tuple[bool, int, int]]) -> None:
    with Console() as console, select.epoll() as poll:
        uart = Uart(Port(*console.theirs, poll), lambda level: None)
        console.write(b"input")
        for is_write, register, value in accesses:
            if is_write:
                uart.write(register, value)
            else:
                assert 0 <= uart.read(register) <= 0xFF


# -- ACPI -------------------------------------------------------------------------------------------------------------------


def _rows(data: bytes) -> dict[bytes, bytes]:
    """Tables by signature, from the RSDP on, as a kernel walks them."""

    def table(at: int) -> bytes:
        length = struct.unpack_from("<I", data, at - acpi.RSDP + 4)[0]
        found = data[at - acpi.RSDP : at - acpi.RSDP + length]
        assert sum(found) & 0xFF == 0
        return found

    assert data[:8] == b"RSD PTR "
    assert sum(data[:20]) & 0xFF == 0
    assert sum(data[:36]) & 0xFF == 0
    xsdt = table(struct.unpack_from("<Q", data, 24)[0])
    out = {xsdt[:4]: xsdt}
    for (at,) in struct.iter_unpack("<Q", xsdt[36:]):
        found = table(at)
        out[found[:4]] = found
    fadt = out[b"FACP"]
    assert struct.unpack_from("<I", fadt, 40)[0] == struct.unpack_from("<Q", fadt, 140)[0]
    out[b"DSDT"] = table(struct.unpack_from("<Q", fadt, 140)[0])
    return out


def test_the_tables_hang_together() -> None:
    devices = tuple(acpi.Device(0xD000_0000 + 0x1000 * i, 16 + i) for i in range(7))
    found = _rows(acpi.tables(300, devices, (0x3F8, 4), 23))
    assert set(found) == {b"XSDT", b"FACP", b"APIC", b"DSDT"}
    kinds = []
    madt, at = found[b"APIC"], 44
    while at < len(madt):
        kinds.append(madt[at])
        at += madt[at + 1]
    assert kinds == [0] * 255 + [9] * 45 + [1]


@pytest.mark.skipif(shutil.which("iasl") is None, reason="needs iasl (acpica-tools)")
def test_acpicas_compiler_reads_the_tables(tmp_path: Path) -> None:
    devices = tuple(acpi.Device(0xD000_0000 + 0x1000 * i, 16 + i) for i in range(2))
    for name, data in _rows(acpi.tables(2, devices, (0x3F8, 4), 23)).items():
        path = tmp_path / f"{name.decode()}.aml"
        path.write_bytes(data)
        done = subprocess.run(
            ["iasl", "-d", path.name], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        text = path.with_suffix(".dsl").read_text()
        for word in ("Error", "Warning", "Invalid", "Unknown"):
            assert word not in text + done.stderr, text
        again = subprocess.run(
            ["iasl", "-ve", path.with_suffix(".dsl").name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 0, again.stdout + again.stderr
    dsdt = (tmp_path / "DSDT.dsl").read_text()
    for words in (
        'Name (_HID, EisaId ("PNP0501")',
        "Notify (PWRB, 0x80)",
        "0xD0001000,         // Address Base",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive",
    ):
        assert words in dsdt
    fadt = (tmp_path / "FACP.dsl").read_text()
    assert "Hardware Reduced (V5) : 1" in fadt
    assert "Control Method Power Button (V1) : 1" in fadt
