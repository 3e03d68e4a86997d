"""Byte streams of a machine: the serial port (16550A), the virtio console, and the host's ends of both; the virtio random source.

A reader that does not read stops the guest's output, not the process: the transmitter stays busy, a buffer stays in its queue.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import Final

from vm_accel.pc.virtio import Broken, Chain

__all__ = ["Entropy", "Port", "Uart", "VirtioConsole"]

_CHUNK: Final = 4096
_ENTROPY: Final = 4096


class Port:
    """The machine's ends of a console: descriptors ``reading`` and ``writing``, which become non-blocking.

    ``ready`` is called, by whoever waits on ``poll``, when there may be input, or room for output after there was none.
    """

    def __init__(self, reading: int, writing: int, poll: select.epoll) -> None:
        self.reading, self.writing = reading, writing
        self._poll = poll
        self.ready: Callable[[], None] = lambda: None
        for fd in (reading, writing):
            os.set_blocking(fd, False)
            poll.register(fd, select.EPOLLONESHOT)

    def _wait(self, fd: int, events: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # the machine is over, and with it the registration
            self._poll.modify(fd, events | select.EPOLLONESHOT)

    def read(self, limit: int) -> bytes:
        """At most ``limit`` bytes; if there are none, ``ready`` is called when there are."""
        if limit <= 0:
            return b""
        try:
            data = os.read(self.reading, limit)
        except BlockingIOError:
            self._wait(self.reading, select.EPOLLIN)
            return b""
        except OSError:
            return b""
        return data

    def write(self, data: bytes | memoryview) -> int:
        """How many bytes went; if not all, ``ready`` is called when there is room. Without a reader all are dropped."""
        try:
            done = os.write(self.writing, data) if len(data) else 0
        except BlockingIOError:
            done = 0
        except OSError:
            return len(data)
        if done < len(data):
            self._wait(self.writing, select.EPOLLOUT)
        return done


class Uart:
    """A 16550A at eight ports. ``line`` drives its interrupt, level-triggered as far as the device goes.

    Register numbers and bits: PC16550D data sheet (National Semiconductor), 8.0.
    """

    def __init__(self, port: Port, line: Callable[[bool], None]) -> None:
        self._port, self._set_line = port, line
        self._lock = threading.RLock()
        self._out = bytearray()
        self._in = bytearray()
        self._divisor = 12
        self._ier = self._lcr = self._mcr = self._scratch = self._fcr = 0
        self._empty_told = False
        self._overrun = False
        self._level = False
        self._error = 0

    _FIFO: Final = 16
    _THRE, _TEMT, _DATA, _OVERRUN = 0x20, 0x40, 1, 2

    def ready(self) -> None:
        """The port has input, or room."""
        with self._lock:
            if self._out:
                self._drain()
                self._empty_told = False
            self._fill()
            self._update()

    def _drain(self) -> None:
        if self._out:
            del self._out[: self._port.write(bytes(self._out))]

    def _fill(self) -> None:
        if not self._mcr & 0x10:
            self._in += self._port.read(self._FIFO - len(self._in))

    def _update(self) -> None:
        level = self._cause() != 1
        if level != self._level:
            self._level = level
            self._set_line(level)

    def _busy(self) -> bool:
        return len(self._out) >= self._FIFO

    def _cause(self) -> int:
        if self._ier & 4 and self._overrun:
            return 6
        if self._ier & 1 and self._in:
            return 4
        if self._ier & 2 and not self._busy() and not self._empty_told:
            return 2
        return 1

    def read(self, register: int) -> int:
        """One byte of register 0 to 7."""
        with self._lock:
            value = self._read(register)
            self._update()
            return value

    def _read(self, register: int) -> int:
        if self._lcr & 0x80 and register < 2:
            return self._divisor >> 8 * register & 0xFF
        match register:
            case 0:
                value = self._in.pop(0) if self._in else 0
                self._fill()
                return value
            case 1:
                return self._ier
            case 2:
                cause = self._cause()
                if cause == 2:
                    self._empty_told = True
                return cause | (0xC0 if self._fcr & 1 else 0)
            case 3:
                return self._lcr
            case 4:
                return self._mcr
            case 5:
                status = 0 if self._busy() else self._THRE
                status |= self._TEMT if not self._out else 0
                status |= self._DATA if self._in else 0
                status |= self._OVERRUN if self._overrun else 0
                self._overrun = False
                return status
            case 6:
                if self._mcr & 0x10:  # loopback: OUT2, OUT1, DTR, RTS come back
                    mcr = self._mcr
                    return (mcr & 8) << 4 | (mcr & 4) << 4 | (mcr & 1) << 5 | (mcr & 2) << 3
                return 0xB0  # carrier, data set ready, clear to send
            case _:
                return self._scratch

    def write(self, register: int, value: int) -> None:
        """One byte to register 0 to 7."""
        with self._lock:
            self._write(register, value & 0xFF)
            self._update()

    def _write(self, register: int, value: int) -> None:
        if self._lcr & 0x80 and register < 2:
            shift = 8 * register
            self._divisor = self._divisor & ~(0xFF << shift) | value << shift
            return
        match register:
            case 0:
                self._empty_told = False
                if self._mcr & 0x10:
                    if len(self._in) < self._FIFO:
                        self._in.append(value)
                    else:
                        self._overrun = True
                elif not self._busy():
                    self._out.append(value)
                    self._drain()
                # else: written while the transmitter said that it is full; lost, as there.
            case 1:
                if value & 2 and not self._ier & 2:
                    self._empty_told = False
                self._ier = value & 0x0F
            case 2:
                self._fcr = value
                if value & 2:
                    self._in.clear()
                    self._fill()
            case 3:
                self._lcr = value
            case 4:
                self._mcr = value & 0x1F
                self._fill()
            case 7:
                self._scratch = value


class VirtioConsole:
    """A console of one port (VIRTIO 1.2, 5.3): queue 0 receives, queue 1 transmits."""

    number = 3
    features = 0
    queues = 2

    def __init__(self, port: Port) -> None:
        self._port = port
        self._sent = 0

    def config(self) -> bytes:
        return bytes(12)

    def reset(self) -> None:
        self._sent = 0

    def serve(self, index: int, chain: Chain) -> int | None:
        if index == 0:
            return self._receive(chain)
        if chain.writable:
            raise Broken("something to write in the transmit queue")
        skip = self._sent
        for piece in chain.readable:
            if skip >= len(piece):
                skip -= len(piece)
                continue
            for at in range(skip, len(piece), _CHUNK):
                part = bytes(piece[at : at + _CHUNK])
                done = self._port.write(part)
                self._sent += done
                if done < len(part):
                    return None
            skip = 0
        self._sent = 0
        return 0

    def _receive(self, chain: Chain) -> int | None:
        if chain.readable:
            raise Broken("something to read in the receive queue")
        room = sum(map(len, chain.writable))
        if not room:
            return 0
        data = self._port.read(min(room, _CHUNK))
        if not data:
            return None
        at = 0
        for piece in chain.writable:
            part = data[at : at + len(piece)]
            piece[: len(part)] = part
            at += len(part)
        return at


class Entropy:
    """The host's random bytes (VIRTIO 1.2, 5.4)."""

    number = 4
    features = 0
    queues = 1

    def config(self) -> bytes:
        return b""

    def reset(self) -> None:
        pass

    def serve(self, index: int, chain: Chain) -> int:
        if chain.readable:
            raise Broken("something to read in a request for random bytes")
        left = _ENTROPY
        for piece in chain.writable:
            count = min(left, len(piece))
            piece[:count] = os.urandom(count)
            left -= count
        return _ENTROPY - left
