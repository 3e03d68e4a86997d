"""Packets of gdb's remote protocol: ``$DATA#CHECKSUM``. Whatever bytes come in, what is kept of them is bounded.

gdb manual, appendix E, "Overview".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vm_core.record import record

__all__ = ["ACK", "INTERRUPT", "MOST", "NAK", "Broken", "Packet", "Reader", "escape", "frame", "unescape"]

MOST: Final = 0x20000
"""Bytes of a packet's data, as it travels."""
ACK: Final = b"+"
NAK: Final = b"-"
INTERRUPT: Final = b"\x03"
_SPECIAL: Final = b"#$}*"


@record(frozen=True)
class Packet:
    """The data of a packet that came in whole, still escaped as it travelled."""

    data: bytes


@record(frozen=True)
class Broken:
    """A packet with a wrong checksum, or one that is too long (``long``): its data is gone."""

    long: bool


class Reader:
    """Takes bytes as they come, and gives packets and the single bytes between them (ACK, NAK, INTERRUPT)."""

    def __init__(self) -> None:
        self._data: bytearray | None = None  # of the packet that is coming in
        self._long = False
        self._sum = b""  # of its checksum's two digits
        self._ended = False

    def feed(self, received: bytes) -> Iterator[Packet | Broken | bytes]:
        """What ``received`` completes, in order."""
        at = 0
        while at < len(received):
            if self._data is None:
                byte = received[at : at + 1]
                at += 1
                if byte == b"$":
                    self._begin()
                elif byte in (ACK, NAK, INTERRUPT):
                    yield byte
            elif not self._ended:
                end = received.find(b"#", at)
                again = received.rfind(b"$", at, len(received) if end < 0 else end)
                if again >= 0:
                    # A packet that was cut off: the client has started anew.
                    self._begin()
                    at = again + 1
                piece = received[at : len(received) if end < 0 else end]
                at += len(piece)
                if len(self._data) + len(piece) > MOST:
                    self._long = True
                    self._data.clear()
                elif not self._long:
                    self._data += piece
                if end >= 0:
                    self._ended = True
                    at += 1
            else:
                self._sum += received[at : at + 1]
                at += 1
                if len(self._sum) == 2:
                    yield self._finish()

    def _begin(self) -> None:
        self._data, self._long, self._sum, self._ended = bytearray(), False, b"", False

    def _finish(self) -> Packet | Broken:
        assert self._data is not None
        data, self._data = bytes(self._data), None
        if self._long:
            return Broken(long=True)
        try:
            right = int(self._sum, 16) == sum(data) & 0xFF
        except ValueError:
            right = False
        return Packet(data) if right else Broken(long=False)


def escape(data: bytes) -> bytes:
    """Binary data as it travels."""
    if not any(byte in data for byte in _SPECIAL):
        return data
    out = data.replace(b"}", b"}\x5d")
    for byte in b"#$*":
        out = out.replace(bytes([byte]), bytes([0x7D, byte ^ 0x20]))
    return out


def unescape(data: bytes) -> bytes:
    """Undo :func:`escape`."""
    if b"}" not in data:
        return data
    first, *rest = data.split(b"}")
    out = bytearray(first)
    pieces = iter(rest)
    for piece in pieces:
        if piece:
            out.append(piece[0] ^ 0x20)
            out += piece[1:]
        else:  # an escaped }, unescaped: it stands for ]
            out.append(0x7D ^ 0x20)
            out += next(pieces, b"")
    return bytes(out)


def frame(data: bytes) -> bytes:
    """A packet with ``data``, in which binary parts are escaped already."""
    return b"$%b#%02x" % (data, sum(data) & 0xFF)
