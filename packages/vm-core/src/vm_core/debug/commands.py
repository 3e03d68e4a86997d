"""Answers the packets of a client. gdb manual, appendix E, "Packets", "Stop Reply Packets", "General Query Packets"."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from vm_core.debug.control import SIGKILL, SIGTRAP, Action, Debugger, Stop
from vm_core.debug.files import RemoteFiles
from vm_core.debug.numbers import signal_from_gdb, signal_to_gdb
from vm_core.debug.packets import MOST, escape, unescape
from vm_core.debug.target import Register, target_of
from vm_core.debug.transfer import Transfers
from vm_core.errors import EXIT_FUEL, EXIT_MEMORY, EXIT_TIMEOUT, EXIT_VM, VmError
from vm_core.memory import PAGE, Access, MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["Commands"]

OK: Final = b"OK"
_BAD: Final = b"E16"
_FAULT: Final = b"E0e"
_RUNNING: Final = b"E.the guest is running"
_FEATURES: Final = (
    "QStartNoAckMode+", "multiprocess+", "swbreak+", "hwbreak+", "vContSupported+", "QPassSignals+", "QProgramSignals+",
    "QCatchSyscalls+", "no-resumed+", "exec-events+", "fork-events+", "vfork-events+", "qXfer:features:read+", "qXfer:auxv:read+", "qXfer:exec-file:read+",
    "qXfer:threads:read+", "qXfer:siginfo:read+", "qXfer:siginfo:write+", "qXfer:memory-map:read+",
    "qXfer:libraries-svr4:read+",
)  # fmt: skip
_KINDS: Final = {2: "watch", 3: "rwatch", 4: "awatch"}
_RANGE: Final = re.compile(rb"([0-9a-fA-F]+),([0-9a-fA-F]+)\Z")


_STATUS: Final = {"fuel": EXIT_FUEL, "memory": EXIT_MEMORY, "timeout": EXIT_TIMEOUT}


class Refused(Exception):
    """A packet that cannot be done; ``answer`` says so."""

    def __init__(self, answer: bytes = _BAD) -> None:
        super().__init__(answer)
        self.answer = answer


class Commands:
    """One client's conversation. ``running``: it has resumed the guest, and waits for the next stop."""

    def __init__(self, debugger: Debugger) -> None:
        self.debugger = debugger
        self.process = debugger.process
        self.target = target_of(self.process.isa)
        self.transfers = Transfers(debugger, self.target)
        self.files = RemoteFiles(self.process)
        self.acknowledge, self.quiet = True, False
        self.running = False
        self.gone = False
        """The client has detached, or killed the process."""
        self._over = False
        self._many = False  # it knows of several processes
        self._known: frozenset[str] = frozenset()
        self._general: int | None = None
        self._continued: int = -1
        self._stopped: GuestThread | None = None
        self._listing: list[GuestThread] = []
        self._single: Mapping[bytes, Callable[[bytes], bytes | None]] = {
            b"?": self._why, b"!": lambda _: OK, b"g": self._read_all, b"G": self._write_all, b"p": self._read_one,
            b"P": self._write_one, b"m": self._read_memory, b"M": self._write_memory, b"X": self._write_binary,
            b"H": self._choose, b"T": self._alive, b"Z": self._insert, b"z": self._remove, b"k": self._kill, b"D": self._detach,
            b"c": partial(self._go, step=False, signalled=False), b"s": partial(self._go, step=True, signalled=False),
            b"C": partial(self._go, step=False, signalled=True), b"S": partial(self._go, step=True, signalled=True),
            b"q": self._query, b"Q": self._set, b"v": self._verbose, b"x": self._read_binary,
        }  # fmt: skip

    # -- coming and going ---------------------------------------------------------------------------------------------

    def answer(self, data: bytes) -> bytes | None:
        """The answer to a packet, or None if it comes later. Never raises for what the client says."""
        command = self._single.get(data[:1])
        if command is None:
            return b""
        if self.running and data[:1] not in b"kD":
            return _RUNNING
        try:
            return command(data[1:])
        except Refused as refused:
            return refused.answer
        except MemoryFault:
            return _FAULT
        except VmError as error:
            return f"E.{error}".encode("ascii", "replace")
        except (ValueError, IndexError, OverflowError):
            return _BAD

    def news(self) -> bytes | None:
        """The stop, or the end, that a client who has resumed the guest waits for."""
        if not self.running:
            return None
        if self.process.stopping:
            self.running, self.gone = False, True
            return self._ending()
        debugger = self.debugger
        if not debugger.halted:
            return None
        debugger.settle()
        if self.process.stopping:
            return self.news()
        self.running = False
        if debugger.idle:
            debugger.idle = False
            if "no-resumed+" in self._known:
                return b"N"
        return self._report()

    def _ending(self) -> bytes:
        process = self.process
        end = f";process:{process.pid:x}" if self._many else ""
        if process.reason == "signal":
            return f"X{signal_to_gdb(process.signal or SIGKILL):02x}{end}".encode()
        code = process.exit_code
        if code is None:
            code = _STATUS.get(process.reason, EXIT_VM)
        return f"W{code & 0xFF:02x}{end}".encode()

    def _report(self) -> bytes:
        """The stop reply for the current event."""
        control = self.debugger.current
        if control is None:
            self._stopped = (self.debugger.threads() or [self.process.main])[0]
            stop = Stop(SIGTRAP, "step")
        else:
            self._stopped = control.thread
            stop = control.event or control.last or Stop(SIGTRAP, "step")
            control.last = stop
        thread = self._stopped
        self._general, self._continued = thread.tid, thread.tid
        out = [f"T{signal_to_gdb(stop.number):02x}"]
        out += [f"{r.number:02x}:{self.target.read(thread, r).hex()};" for r in self.target.expedited]
        if stop.kind in ("swbreak", "hwbreak"):
            if stop.kind + "+" in self._known:
                out.append(f"{stop.kind}:;")
        elif stop.kind in _KINDS.values() or stop.kind.startswith("syscall"):
            out.append(f"{stop.kind}:{stop.value:x};")
        elif stop.kind == "exec" and "exec-events+" in self._known:
            out.append(f"exec:{os.fsencode(self.process.executable).hex()};")
        elif stop.kind in ("fork", "vfork"):
            out.append(f"{stop.kind}:p{stop.value:x}.{stop.value:x};")
        elif stop.kind == "vforkdone":
            out.append("vforkdone:;")
        out.append(f"thread:{self._name(thread)};")
        return "".join(out).encode()

    def _why(self, _rest: bytes) -> bytes:
        if self.process.stopping:
            return self._ending()
        return self._report()

    def _kill(self, _rest: bytes) -> bytes | None:
        self.running, self.gone = False, True
        self.process.end("signal", signal=SIGKILL, message="killed by the debugger")
        return None

    def _detach(self, rest: bytes) -> bytes:
        if rest and int(rest.lstrip(b";"), 16) != self.process.pid:
            raise Refused
        self.running, self.gone = False, True
        return OK

    # -- threads ------------------------------------------------------------------------------------------------------

    def _name(self, thread: GuestThread) -> str:
        return f"p{self.process.pid:x}.{thread.tid:x}" if self._many else f"{thread.tid:x}"

    def _tid(self, text: bytes) -> int:
        """-1 for all threads, 0 for any. Raises Refused for another process's."""
        if text.startswith(b"p"):
            pid, _, tid = text[1:].partition(b".")
            if pid != b"-1" and int(pid, 16) not in (0, self.process.pid):
                raise Refused
            text = tid or b"-1"
        return -1 if text == b"-1" else int(text, 16)

    def _thread(self) -> GuestThread:
        """The thread whose registers the client means. Raises Refused."""
        process, tid = self.process, self._general
        if tid is None:
            tid = (self._stopped or process.main).tid
        thread = process.thread(tid)
        if thread is None:
            raise Refused
        return thread

    def _choose(self, rest: bytes) -> bytes:
        tid = self._tid(rest[1:])
        if tid > 0 and self.process.thread(tid) is None:
            raise Refused
        if rest[:1] == b"g":
            self._general = tid if tid > 0 else None
        elif rest[:1] == b"c":
            self._continued = tid
        else:
            raise Refused
        return OK

    def _alive(self, rest: bytes) -> bytes:
        if self.process.thread(self._tid(rest)) is None:
            raise Refused
        return OK

    # -- registers ----------------------------------------------------------------------------------------------------

    def _read_all(self, _rest: bytes) -> bytes:
        thread = self._thread()
        return b"".join(self.target.read(thread, r) for r in self.target.general).hex().encode()

    def _write_all(self, rest: bytes) -> bytes:
        thread, data = self._thread(), bytes.fromhex(rest.decode())
        at = 0
        for register in self.target.general:
            part = data[at : at + register.size]
            at += register.size
            if len(part) == register.size and register.put is not None:
                register.put(thread, int.from_bytes(part, "little"))
        return OK

    def _register(self, number: bytes) -> Register:
        register = self.target.by_number.get(int(number, 16))
        if register is None:
            raise Refused
        return register

    def _read_one(self, rest: bytes) -> bytes:
        return self.target.read(self._thread(), self._register(rest)).hex().encode()

    def _write_one(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        register, data = self._register(number), bytes.fromhex(value.decode())
        if register.put is None or len(data) != register.size:
            raise Refused
        register.put(self._thread(), int.from_bytes(data, "little"))
        return OK

    # -- memory -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _range(text: bytes) -> tuple[int, int]:
        found = _RANGE.match(text)
        if found is None:
            raise Refused
        return int(found[1], 16), int(found[2], 16)

    def _peek(self, rest: bytes, most: int) -> bytes:
        """As much of a range as can be read. Raises MemoryFault if that is nothing."""
        address, length = self._range(rest)
        memory = self.process.memory
        length = min(length, most)
        if not length:
            return b""
        end = address + length
        while not memory.is_mapped(address, end - address):
            # gdb takes a part, up to the end of what there is.
            end = (end - 1) & -PAGE
            if end <= address:
                raise MemoryFault(address, Access.READ, mapped=False)
        return memory.peek(address, end - address)

    def _read_memory(self, rest: bytes) -> bytes:
        return self._peek(rest, MOST // 2).hex().encode()

    def _read_binary(self, rest: bytes) -> bytes:
        return b"b" + escape(self._peek(rest, MOST // 2))

    def _write_memory(self, rest: bytes) -> bytes:
        head, _, data = rest.partition(b":")
        return self._poke(head, bytes.fromhex(data.decode()))

    def _write_binary(self, rest: bytes) -> bytes:
        head, _, data = rest.partition(b":")
        return self._poke(head, unescape(data))

    def _poke(self, head: bytes, data: bytes) -> bytes:
        address, length = self._range(head)
        if length != len(data):
            raise Refused
        if data:
            self.debugger.write_memory(address, data)
        return OK

    # -- breakpoints --------------------------------------------------------------------------------------------------

    def _point(self, rest: bytes) -> tuple[int, int, int]:
        kind, address, length = rest.split(b";")[0].split(b",")
        return int(kind), int(address, 16), int(length, 16)

    def _insert(self, rest: bytes) -> bytes:
        kind, address, length = self._point(rest)
        if kind in (0, 1):
            if not self.process.memory.is_mapped(address, 1):
                return _FAULT
            return self._counted(self.debugger.add_breakpoint(address, "swbreak" if kind == 0 else "hwbreak"))
        if kind in _KINDS:
            return self._counted(self.debugger.add_watchpoint(_KINDS[kind], address, length))
        return b""

    def _remove(self, rest: bytes) -> bytes:
        kind, address, length = self._point(rest)
        if kind in (0, 1):
            self.debugger.remove_breakpoint(address, "swbreak" if kind == 0 else "hwbreak")
        elif kind in _KINDS:
            self.debugger.remove_watchpoint(_KINDS[kind], address, length)
        else:
            return b""
        return OK

    @staticmethod
    def _counted(taken: bool) -> bytes:
        return OK if taken else b"E.too many breakpoints"

    # -- resuming -----------------------------------------------------------------------------------------------------

    def _go(self, rest: bytes, *, step: bool, signalled: bool) -> None:
        """c, s, C and S: what gdb sent before it had vCont."""
        number = 0
        if signalled:
            text, _, rest = rest.partition(b";")
            number = signal_from_gdb(int(text, 16))
        thread = self._thread()
        if rest:
            thread.cpu.pc = int(rest, 16)
        mine = Action(step, number)
        one = self._continued > 0

        def choose(t: GuestThread) -> Action | None:
            return mine if t is thread else None if one and step else Action()

        self._resume(choose, free=not (one and step))

    def _resume(self, choose: Callable[[GuestThread], Action | None], *, free: bool) -> None:
        self.debugger.resume(choose, free=free)
        self.running = True

    def _vcont(self, rest: bytes) -> None:
        actions: list[tuple[int, Action | None]] = []
        for text in rest.split(b";"):
            what, _, tid = text.partition(b":")
            actions.append((self._tid(tid) if tid else -1, _action(what)))

        def choose(t: GuestThread) -> Action | None:
            return next((action for tid, action in actions if tid in (-1, 0, t.tid)), None)

        free = any(tid == -1 and action is not None and not action.step for tid, action in actions)
        self._resume(choose, free=free)

    def _verbose(self, rest: bytes) -> bytes | None:
        name, _, more = rest.partition(b";")
        if name == b"Cont":
            self._vcont(more)
            return None
        if name == b"Cont?":
            return b"vCont;c;C;s;S;t;r"
        if name == b"CtrlC":
            self.debugger.break_in()
            return OK
        if name == b"Kill":
            self._kill(b"")
            return OK
        if name == b"Attach":
            if int(more, 16) != self.process.pid:
                raise Refused
            return self._report()
        if name == b"Run":
            return b"E.start the program again with vm run -g"
        if rest.startswith(b"File:"):
            return self.files.answer(rest[5:])
        return b""

    # -- queries ------------------------------------------------------------------------------------------------------

    def _query(self, rest: bytes) -> bytes | None:
        name, _, more = rest.partition(b":")
        if name == b"Supported":
            return self._supported(more)
        if name == b"Xfer":
            return self.transfers.answer(more, self._thread)
        if name == b"C":
            return f"QC{self._name(self._stopped or self.process.main)}".encode()
        if name == b"fThreadInfo":
            self._listing = self.debugger.threads()
            return self._list()
        if name == b"sThreadInfo":
            return self._list()
        if name == b"Attached":
            return b"0"
        if name == b"Symbol":
            return OK
        if name == b"GetTLSAddr":
            return self._thread_local(more)
        name, _, more = rest.partition(b",")
        if name == b"ThreadExtraInfo":
            thread = self.process.thread(self._tid(more))
            if thread is None:
                raise Refused
            return self.debugger.describe(thread).encode().hex().encode()
        if name == b"Rcmd":
            from vm_core.debug.monitor import command

            words = bytes.fromhex(more.decode()).decode("utf-8", "replace")
            return command(self.debugger, words).encode().hex().encode() or OK
        return b""

    def _thread_local(self, more: bytes) -> bytes:
        """The address of a thread-local variable of the program itself; those of libraries are the dynamic linker's secret."""
        tid, offset, link_map = more.split(b",")
        thread, place = self.process.thread(self._tid(tid)), self.target.thread
        if thread is None or place is None:
            raise Refused
        if int(link_map, 16) not in (0, self.transfers.main_link_map()):
            return b"E.thread-local variables of libraries are not found"
        return f"{thread.cpu[place[0]] + place[1] + int(offset, 16):x}".encode()

    def inherit(self, known: frozenset[str]) -> None:
        """This is the stub of a child; the client, of whom its parent knows so much, talks to that."""
        self.acknowledge, self._known = False, known
        self._many = self.transfers.many = True

    @property
    def known(self) -> frozenset[str]:
        """The client's features."""
        return self._known

    def _supported(self, more: bytes) -> bytes:
        self._known = frozenset(more.decode("ascii", "replace").split(";"))
        self._many = self.transfers.many = "multiprocess+" in self._known
        if self._many:
            self.debugger.events = frozenset(
                kind for kind in ("fork", "vfork") if f"{kind}-events+" in self._known
            )
        return f"PacketSize={MOST:x};{';'.join(_FEATURES)}".encode()

    def _list(self) -> bytes:
        if not self._listing:
            return b"l"
        now, self._listing = self._listing[:_LISTED], self._listing[_LISTED:]
        return b"m" + ",".join(map(self._name, now)).encode()

    def _set(self, rest: bytes) -> bytes:
        name, _, more = rest.partition(b":")
        if name == b"StartNoAckMode":
            self.quiet = True
            return OK
        if name == b"PassSignals":
            numbers = [signal_from_gdb(int(text, 16)) for text in more.split(b";") if text]
            self.debugger.passed = frozenset(numbers)
            return OK
        if name == b"ProgramSignals":
            return OK
        if name == b"CatchSyscalls":
            on, _, numbers_text = more.partition(b";")
            if on not in (b"0", b"1"):
                raise Refused
            numbers = [int(text, 16) for text in numbers_text.split(b";") if text]
            self.debugger.caught = () if on == b"0" else frozenset(numbers) if numbers else None
            return OK
        return b""


_LISTED: Final = 256
"""Threads in one answer."""


def _action(text: bytes) -> Action | None:
    """What vCont says, with gdb's numbers. Raises ValueError."""
    kind, more = text[:1], text[1:]
    if kind in b"cs" and kind and not more:
        return Action(kind == b"s")
    if kind in (b"C", b"S"):
        return Action(kind == b"S", signal_from_gdb(int(more, 16)))
    if kind == b"r":
        start, end = more.split(b",")
        return Action(step=True, span=(int(start, 16), int(end, 16)))
    if text == b"t":
        return None
    raise ValueError(text)
