"""The objects that a client reads and writes piece by piece. gdb manual, appendix E, "General Query Packets", qXfer."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape as xml

from vm_core.debug.packets import MOST, escape, unescape
from vm_core.linux.abi import SigInfo
from vm_core.memory import MemoryFault

if TYPE_CHECKING:
    from vm_core.debug.control import Debugger
    from vm_core.debug.target import Target
    from vm_core.linux.process import GuestThread

__all__ = ["Transfers"]

_UNKNOWN: Final = b"E00"
_SIGINFO: Final = 128
_MOST_LIBRARIES: Final = 1024
_DT_DEBUG, _AT_PHDR, _AT_PHENT, _AT_PHNUM = 21, 3, 4, 5
_PT_DYNAMIC, _PT_PHDR = 2, 6


class Transfers:
    """Of one client."""

    def __init__(self, debugger: Debugger, target: Target) -> None:
        self.debugger, self.process, self.target = debugger, debugger.process, target
        self.many = False
        self._kept: tuple[bytes, bytes, bytes] | None = (
            None  # object, annex and content of a read that has begun
        )
        self._readers: Mapping[bytes, Callable[[bytes, Callable[[], GuestThread]], bytes | None]] = {
            b"features": self._features,
            b"auxv": lambda _annex, _thread: self.process.auxv,
            b"exec-file": self._program,
            b"threads": self._threads,
            b"siginfo": self._siginfo,
            b"memory-map": self._memory,
            b"libraries-svr4": self._libraries,
        }

    def answer(self, text: bytes, thread: Callable[[], GuestThread]) -> bytes:
        """``OBJECT:read:ANNEX:OFFSET,LENGTH`` or ``OBJECT:write:ANNEX:OFFSET:DATA``. Raises ValueError and Refused."""
        name, operation, rest = text.split(b":", 2)
        if operation == b"write":
            annex, offset, data = rest.split(b":", 2)
            return self._write(name, int(offset, 16), unescape(data), thread)
        if operation != b"read" or name not in self._readers:
            return b""
        annex, _, span = rest.rpartition(b":")
        at, length = (int(part, 16) for part in span.split(b","))
        kept = self._kept
        if kept is None or at == 0 or kept[:2] != (name, annex):
            content = self._readers[name](annex, thread)
            if content is None:
                return _UNKNOWN
            kept = self._kept = name, annex, content
        content = kept[2]
        # Twice as long where every byte is escaped.
        piece = content[at : at + min(length, MOST // 2 - 1)]
        if at + len(piece) >= len(content):
            self._kept = None
            return b"l" + escape(piece)
        return b"m" + escape(piece)

    def _features(self, annex: bytes, _thread: object) -> bytes | None:
        return self.target.xml().encode() if annex == b"target.xml" else None

    def _program(self, _annex: bytes, _thread: object) -> bytes:
        return os.fsencode(self.process.executable)

    def _threads(self, _annex: bytes, _thread: object) -> bytes:
        out = ['<?xml version="1.0"?>\n<threads>\n']
        pid = f"p{self.process.pid:x}." if self.many else ""
        for t in self.debugger.threads():
            name = xml(os.fsdecode(t.name).encode("utf-8", "replace").decode(), {'"': "&quot;"})
            name = "".join(letter if letter >= " " else "?" for letter in name)
            out.append(f'<thread id="{pid}{t.tid:x}" name="{name}">{self.debugger.describe(t)}</thread>\n')
        return "".join([*out, "</threads>\n"]).encode()

    def _memory(self, _annex: bytes, _thread: object) -> bytes:
        size = self.process.memory.size
        return (
            '<?xml version="1.0"?>\n<memory-map>\n'
            f'<memory type="ram" start="0x0" length="{size:#x}"/>\n</memory-map>\n'
        ).encode()

    # -- siginfo ------------------------------------------------------------------------------------------------------

    def _siginfo(self, _annex: bytes, thread: Callable[[], GuestThread]) -> bytes | None:
        control = self.debugger.controls.get(thread())
        if control is None or control.last is None:
            return None
        if control.siginfo is not None:
            return control.siginfo
        stop = control.last
        info = stop.info or SigInfo(
            stop.number, _CODES.get(stop.kind, 0), control.thread.cpu.pc, self.process.pid
        )
        return info.pack()

    def _write(self, name: bytes, at: int, data: bytes, thread: Callable[[], GuestThread]) -> bytes:
        if name != b"siginfo":
            return b""
        control, old = self.debugger.controls.get(thread()), self._siginfo(b"", thread)
        if control is None or old is None or at + len(data) > _SIGINFO:
            return _UNKNOWN
        control.siginfo = old[:at] + data + old[at + len(data) :]
        return f"{len(data):x}".encode()

    # -- libraries ----------------------------------------------------------------------------------------------------

    def _libraries(self, _annex: bytes, _thread: object) -> bytes:
        """What the guest's dynamic linker says that it has loaded: struct r_debug and its list of struct link_map."""
        main, found = 0, []
        try:
            main, entry = self._link_map()
            seen: set[int] = set()
            while entry and entry not in seen and len(seen) < _MOST_LIBRARIES:
                seen.add(entry)
                base, name_at, dynamic, following = struct.unpack("<4Q", self.process.memory.peek(entry, 32))
                name = self._string(name_at)
                if entry != main and name:
                    found.append(
                        f'<library name="{xml(name, {chr(34): "&quot;"})}" lm="{entry:#x}" l_addr="{base:#x}" l_ld="{dynamic:#x}" lmid="0x0"/>\n'
                    )
                entry = following
        except (MemoryFault, ValueError, struct.error):
            pass
        head = (
            f'<library-list-svr4 version="1.0" main-lm="{main:#x}"'
            if main
            else '<library-list-svr4 version="1.0"'
        )
        return (head + ">\n" + "".join(found) + "</library-list-svr4>\n").encode()

    def main_link_map(self) -> int:
        """The address of the main program's struct link_map; 0 if there is none (yet)."""
        try:
            return self._link_map()[0]
        except (MemoryFault, ValueError, struct.error):
            return 0

    def _string(self, address: int) -> str:
        out = bytearray()
        while len(out) < 4096:
            piece = self.process.memory.peek(address + len(out), 1)
            if piece == b"\0":
                break
            out += piece
        return "".join(letter if letter >= " " else "?" for letter in out.decode("utf-8", "replace"))

    def _link_map(self) -> tuple[int, int]:
        """The addresses of the main program's struct link_map, which is the first. Raises MemoryFault and ValueError."""
        memory = self.process.memory
        vector = dict(struct.iter_unpack("<QQ", self.process.auxv))
        table, size, count = (vector.get(kind, 0) for kind in (_AT_PHDR, _AT_PHENT, _AT_PHNUM))
        if size != 56 or not 0 < count <= 128:
            raise ValueError("no program headers")
        bias, dynamic, length = 0, 0, 0
        for kind, _, _, address, _, _, in_memory, _ in struct.iter_unpack(
            "<IIQQQQQQ", memory.peek(table, size * count)
        ):
            if kind == _PT_PHDR:
                bias = table - address
            elif kind == _PT_DYNAMIC:
                dynamic, length = address, in_memory
        if not dynamic or length > 1 << 16:
            raise ValueError("no dynamic section")
        rows = memory.peek(dynamic + bias & (1 << 64) - 1, length & -16)
        for tag, value in struct.iter_unpack("<QQ", rows):
            if tag == _DT_DEBUG and value:
                first: int = struct.unpack("<Q", memory.peek(value + 8, 8))[0]
                return first, first
        raise ValueError("no debugger's structure yet")


_CODES: Final = {"swbreak": 1, "step": 2, "hwbreak": 4, "watch": 4, "rwatch": 4, "awatch": 4}
"""si_code of the SIGTRAP that the kernel would send: TRAP_BRKPT, TRAP_TRACE, TRAP_HWBKPT."""
