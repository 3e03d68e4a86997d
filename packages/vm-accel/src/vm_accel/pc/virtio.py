"""virtio over MMIO with split virtqueues: the registers of one device, and the walk through rings that a guest wrote.

Everything in a ring is the guest's, and may change while it is read: each descriptor is copied once, and what was checked is the
copy. A ring that breaks the rules stops the device (DEVICE_NEEDS_RESET) until the driver resets it; nothing is ever raised to the
vCPU. Work is bounded by the size of the queue: a chain has no more descriptors than that, and a queue gives no more than that at
one notification unless the driver goes on adding.

Virtual I/O Device (VIRTIO) 1.2: 2.1 status, 2.7 split virtqueues, 4.2 MMIO.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from vm_accel.pc.ram import OutsideOfMemory, Ram

__all__ = ["QUEUE_SIZE", "Chain", "Function", "VirtioDevice"]

QUEUE_SIZE: Final = 256
_MAGIC, _VERSION, _VENDOR = 0x7472_6976, 2, 0x6D76
VERSION_1: Final = 1 << 32
"""The only feature of the transport: no legacy drivers."""

_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK, _NEEDS_RESET, _FAILED = 1, 2, 4, 8, 64, 128
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT: Final = 1
_USED_BUFFER, _CONFIGURATION = 1, 2
_DESCRIPTOR: Final = struct.Struct("<QIHH").unpack

QUEUE_NOTIFY: Final = 0x50
_CONFIG: Final = 0x100


class Broken(Exception):
    """The driver broke a rule."""


class Chain(NamedTuple):
    """One buffer of a queue: pieces that the device reads, then those that it writes, all of them RAM."""

    head: int
    readable: list[memoryview]
    writable: list[memoryview]


class Function(Protocol):
    """What a device does, apart from its transport. All methods are called with the device's lock held."""

    number: int
    """Its kind: VIRTIO 1.2, 5."""
    features: int
    queues: int

    def config(self) -> bytes:
        """The device's own registers, at 0x100."""

    def serve(self, index: int, chain: Chain) -> int | None:
        """Do what the buffer of queue ``index`` asks for. Returns how many bytes were written into it; None: not now, it stays in
        its queue until ``VirtioDevice.work``. Raises Broken for what the driver must not send."""

    def reset(self) -> None:
        """The driver starts again."""


@dataclass(slots=True)
class _Queue:
    size: int = 0
    ready: bool = False
    descriptors: int = 0
    available: int = 0
    used: int = 0
    seen: int = 0  # of the available ring, 16 bits
    done: int = 0  # of the used ring, 16 bits


@dataclass(slots=True)
class _Registers:
    """What a reset forgets."""

    status: int = 0
    interrupts: int = 0
    device_select: int = 0
    driver_select: int = 0
    queue_select: int = 0
    accepted: int = 0
    queues: list[_Queue] = field(default_factory=list)


class VirtioDevice:
    """One device of 4 KiB. ``interrupt`` raises its line, edge-triggered."""

    def __init__(self, ram: Ram, function: Function, interrupt: Callable[[], None]) -> None:
        self.function = function
        self._ram, self._interrupt = ram, interrupt
        # Held for one register or one buffer at a time: an interrupt's handler does not wait for a queue of disk accesses.
        self._lock = threading.RLock()
        self._fence = threading.Lock()
        self._offered = function.features | VERSION_1
        self._registers = _Registers(queues=[_Queue() for _ in range(function.queues)])

    @property
    def running(self) -> bool:
        """Whether a driver uses it."""
        return self._registers.status & (_DRIVER_OK | _NEEDS_RESET) == _DRIVER_OK

    @property
    def broken(self) -> bool:
        """Whether a driver broke a rule."""
        return bool(self._registers.status & _NEEDS_RESET)

    # -- registers -------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """An MMIO read. Registers are of 4 bytes; others, and other sizes, read as 0."""
        with self._lock:
            if offset >= _CONFIG:
                at = offset - _CONFIG
                return int.from_bytes(self.function.config()[at : at + size], "little")
            if size != 4:
                return 0
            now = self._registers
            match offset:
                case 0x00:
                    return _MAGIC
                case 0x04:
                    return _VERSION
                case 0x08:
                    return self.function.number
                case 0x0C:
                    return _VENDOR
                case 0x10:
                    return (
                        self._offered >> 32 * now.device_select & 0xFFFF_FFFF if now.device_select < 2 else 0
                    )
                case 0x34:
                    return QUEUE_SIZE if now.queue_select < len(now.queues) else 0
                case 0x44:
                    queue = self._selected()
                    return int(queue is not None and queue.ready)
                case 0x60:
                    return now.interrupts
                case 0x70:
                    return now.status
                case 0xB0 | 0xB4 | 0xB8 | 0xBC:
                    return 0xFFFF_FFFF  # no shared memory region
            return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """An MMIO write. What is no register, or cannot be written now, is ignored."""
        if size != 4 or offset >= _CONFIG:
            return
        if offset == QUEUE_NOTIFY:
            self.work()
            return
        with self._lock:
            now = self._registers
            match offset:
                case 0x14:
                    now.device_select = value
                case 0x20:
                    if now.driver_select < 2 and not now.status & _FEATURES_OK:
                        shift = 32 * now.driver_select
                        now.accepted = now.accepted & ~(0xFFFF_FFFF << shift) | value << shift
                case 0x24:
                    now.driver_select = value
                case 0x30:
                    now.queue_select = value
                case 0x64:
                    now.interrupts &= ~value
                case 0x70:
                    self._set_status(value & 0xFF)
                case _:
                    queue = self._selected()
                    if queue is not None:
                        self._set_queue(queue, offset, value)

    def _selected(self) -> _Queue | None:
        now = self._registers
        return now.queues[now.queue_select] if now.queue_select < len(now.queues) else None

    def _set_status(self, value: int) -> None:
        now = self._registers
        if not value:
            self._registers = _Registers(queues=[_Queue() for _ in range(self.function.queues)])
            self.function.reset()
            return
        if value & _FEATURES_OK and not now.status & _FEATURES_OK:
            legal = now.accepted & VERSION_1 and not now.accepted & ~self._offered
            if not legal:
                value &= ~_FEATURES_OK  # 2.1: the driver reads it back
        if value & _DRIVER_OK and not value & _FEATURES_OK:
            value &= ~_DRIVER_OK
        now.status |= value & (_ACKNOWLEDGE | _DRIVER | _DRIVER_OK | _FEATURES_OK | _FAILED)

    def _set_queue(self, queue: _Queue, offset: int, value: int) -> None:
        if offset == 0x44:
            if value & 1 and not queue.ready:
                self._make_ready(queue)
            elif not value & 1:
                queue.ready = False
            return
        if queue.ready:
            return
        match offset:
            case 0x38:
                queue.size = value
            case 0x80:
                queue.descriptors = queue.descriptors & ~0xFFFF_FFFF | value
            case 0x84:
                queue.descriptors = queue.descriptors & 0xFFFF_FFFF | value << 32
            case 0x90:
                queue.available = queue.available & ~0xFFFF_FFFF | value
            case 0x94:
                queue.available = queue.available & 0xFFFF_FFFF | value << 32
            case 0xA0:
                queue.used = queue.used & ~0xFFFF_FFFF | value
            case 0xA4:
                queue.used = queue.used & 0xFFFF_FFFF | value << 32

    def _make_ready(self, queue: _Queue) -> None:
        """2.7: a power of two, alignments of 16, 2 and 4, and all of it RAM."""
        size = queue.size
        try:
            if not 0 < size <= QUEUE_SIZE or size & size - 1:
                raise Broken(f"a queue of {size}")
            if queue.descriptors & 15 or queue.available & 1 or queue.used & 3:
                raise Broken("a ring that is not aligned")
            self._ram.view(queue.descriptors, 16 * size)
            self._ram.view(queue.available, 6 + 2 * size)
            self._ram.view(queue.used, 6 + 8 * size)
        except (Broken, OutsideOfMemory):
            self._break()
            return
        queue.ready, queue.seen, queue.done = True, 0, 0

    def _break(self) -> None:
        now = self._registers
        now.status |= _NEEDS_RESET
        if now.status & _DRIVER_OK:
            now.interrupts |= _CONFIGURATION
            self._interrupt()

    # -- queues ----------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Serve what lies in the queues, as far as the function can. Any thread."""
        for index in range(self.function.queues):
            used = False
            # A driver that adds as fast as we serve does not keep this thread from other devices: it notifies again.
            for _ in range(QUEUE_SIZE):
                with self._lock:
                    if not self.running:
                        return
                    try:
                        if not self._step(index, self._registers.queues[index]):
                            break
                    except (Broken, OutsideOfMemory):
                        self._break()
                        return
                    used = True
            if used:
                self._tell(index)

    def _step(self, index: int, queue: _Queue) -> bool:
        """Serve one buffer; False: there is none, or not now."""
        if not queue.ready:
            return False
        ram = self._ram
        published = ram.read_int(queue.available + 2, 2)
        waiting = published - queue.seen & 0xFFFF
        if not waiting:
            return False
        if waiting > queue.size:
            raise Broken(f"{waiting} buffers in a queue of {queue.size}")
        head = ram.read_int(queue.available + 4 + 2 * (queue.seen % queue.size), 2)
        written = self.function.serve(index, self._chain(queue, head))
        if written is None:
            return False
        queue.seen = queue.seen + 1 & 0xFFFF
        ram.write(queue.used + 4 + 8 * (queue.done % queue.size), struct.pack("<II", head, written))
        queue.done = queue.done + 1 & 0xFFFF
        # x86 keeps the order of these two stores, and one store of two bytes is whole.
        ram.write(queue.used + 2, queue.done.to_bytes(2, "little"))
        return True

    def _chain(self, queue: _Queue, head: int) -> Chain:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        at = head
        for _ in range(queue.size):
            if at >= queue.size:
                raise Broken(f"descriptor {at} of {queue.size}")
            address, length, flags, following = _DESCRIPTOR(self._ram.read(queue.descriptors + 16 * at, 16))
            if flags & _INDIRECT:
                raise Broken("an indirect descriptor, which was not offered")
            piece = self._ram.view(address, length)
            if flags & _WRITE:
                writable.append(piece)
            elif writable:
                raise Broken("a piece to read behind one to write")
            else:
                readable.append(piece)
            if not flags & _NEXT:
                return Chain(head, readable, writable)
            at = following
        raise Broken("a chain without an end")

    def _tell(self, index: int) -> None:
        with self._lock:
            now = self._registers
            queue = now.queues[index]
            if not queue.ready:
                return
            # The used index must be seen before the flag is read (2.7.7.2): taking a lock is a full barrier on x86.
            with self._fence:
                pass
            if not self._ram.read_int(queue.available, 2) & _NO_INTERRUPT:
                now.interrupts |= _USED_BUFFER
                self._interrupt()
