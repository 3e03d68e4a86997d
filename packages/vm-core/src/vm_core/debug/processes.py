"""One client, and several processes: the stub of a process passes on what is for its children's stubs.

A child that the client is to know of begins stopped, with a stub of its own at the other end of a socket pair. Its parent's
stub tells the two apart by the process's number, as the client does, and passes packets and answers on as they are; the
child does the same for its own children. All stop together: when one has something to tell, the others are interrupted,
and what they have to tell themselves is kept until the client resumes them.

gdb manual, appendix E, "Packets" (thread-id syntax) and "Stop Reply Packets" (fork, vfork, vforkdone).
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from vm_core.debug.packets import INTERRUPT, MOST, Packet, Reader, escape, frame, unescape

if TYPE_CHECKING:
    from vm_core.debug.commands import Commands

__all__ = ["Conversation"]

_SECONDS: Final = 30.0
"""How long a child's stub may take for an answer."""
_STOP_SECONDS: Final = 6.0
_CHUNK: Final = 1 << 16
_PROCESS: Final = re.compile(rb"p([0-9a-fA-F]+)(?:\.|\Z)")
_BORN: Final = re.compile(rb"[:;]v?fork:p([0-9a-f]+)\.|T..v?fork:p([0-9a-f]+)\.")
_OF_FOCUS: Final = (b"g", b"G", b"p", b"P", b"m", b"M", b"X", b"x", b"Z", b"z", b"qXfer:", b"qRcmd,", b"qC")
_OF_THREAD: Final = (b"T", b"Hc", b"qThreadExtraInfo,", b"qGetTLSAddr:", b"qAttached:", b"vAttach;")
_OF_ALL: Final = (b"QPassSignals:", b"QCatchSyscalls:", b"QProgramSignals:")
_THREADS: Final = b"qXfer:threads:read:"
_PROGRAM: Final = b"qXfer:exec-file:read:"
_GONE: Final = b"E.the process is gone"


class _Branch:
    """The stub of a child, and of those behind it."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self.connection = pid, connection
        connection.settimeout(_SECONDS)
        self._reader = Reader()
        self._come: deque[bytes] = deque()
        self.over = False

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.connection.sendall(frame(data))

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.sendall(INTERRUPT)

    def receive(self, seconds: float) -> bytes | None:
        """The next packet, if there is one in time. At the end of all, that the process was killed."""
        deadline = time.monotonic() + seconds
        while not self._come:
            if self.over:
                return None
            self.connection.settimeout(max(deadline - time.monotonic(), 0.0))
            try:
                received = self.connection.recv(_CHUNK)
            except (BlockingIOError, TimeoutError):
                return None
            except OSError:
                received = b""
            finally:
                with contextlib.suppress(OSError):
                    self.connection.settimeout(_SECONDS)
            if not received:
                self.over = True
                self._come.append(b"X09;process:%x" % self.pid)
            for item in self._reader.feed(received):
                if isinstance(item, Packet):
                    self._come.append(item.data)
        return self._come.popleft()

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.receive(_SECONDS) or _GONE


class Conversation:
    """What :class:`Commands` is for one process, for all that the client knows of."""

    def __init__(self, commands: Commands) -> None:
        self.own = commands
        self._here = True  # the client still debugs this process
        self._branches: dict[int, _Branch] = {}
        self._focus: _Branch | None = None
        self._running: list[_Branch] = []
        self._late: list[tuple[_Branch | None, bytes]] = []
        self._ready: bytes | None = None

    @property
    def branches(self) -> list[_Branch]:
        """The stubs of children that the client has not let go."""
        return list(dict.fromkeys(self._branches.values()))

    @property
    def running(self) -> bool:
        """The client waits for a stop."""
        return self.own.running or bool(self._running) or self._ready is not None

    @property
    def gone(self) -> bool:
        """There is nothing left to talk about."""
        return (self.own.gone or not self._here) and not self._branches

    def close(self) -> None:
        """The client is gone: its other processes run on."""
        for branch in self.branches:
            branch.connection.close()
        self._branches.clear()
        self.own.files.close()

    def break_in(self) -> None:
        """Ctrl-C."""
        if self.own.running or not self._running:
            self.own.debugger.break_in()
        else:
            self._running[0].interrupt()

    # -- packets ------------------------------------------------------------------------------------------------------

    def answer(self, data: bytes) -> bytes | None:
        """As :meth:`Commands.answer`."""
        if not self._branches:
            return self.own.answer(data)
        if data.startswith(b"vCont;"):
            self._resume(data[6:])
            return None
        if data == b"k":
            for branch in self.branches:
                branch.send(b"k")
            self._branches.clear()
            return self.own.answer(data) if self._here else None
        if data.startswith((b"D;", b"vKill;")):
            return self._let_go(data)
        if data.startswith(b"Hg"):
            self._focus = self._of(data[2:])
            return self._to(self._focus, data)
        if data.startswith(_OF_THREAD):
            return self._to(self._of(data), data)
        if data.startswith(_THREADS):
            return self._threads(data)
        if data.startswith(_PROGRAM):
            pid = data[len(_PROGRAM) :].partition(b":")[0]
            return self._to(self._branches.get(int(pid, 16)) if pid else self._focus, data)
        if data.startswith(_OF_ALL):
            for branch in self.branches:
                branch.ask(data)
        elif data.startswith(_OF_FOCUS) or (data == b"?" and not self._here):
            return self._to(self._focus, data)
        return self.own.answer(data)

    def _of(self, text: bytes) -> _Branch | None:
        """Whose stub a packet with a thread's name is for; None for this process's own."""
        found = _PROCESS.search(text)
        pid = int(found[1], 16) if found is not None else 0
        return self._focus if not pid else self._branches.get(pid)

    def _to(self, branch: _Branch | None, data: bytes) -> bytes | None:
        if branch is not None:
            return branch.ask(data)
        return self.own.answer(data) if self._here else _GONE

    def _let_go(self, data: bytes) -> bytes | None:
        """D;PID and vKill;PID."""
        pid = int(data.partition(b";")[2], 16)
        branch = self._branches.get(pid)
        if branch is not None:
            said = branch.ask(data)
            if pid == branch.pid and not any(
                at is branch for other, at in self._branches.items() if other != pid
            ):
                self._drop(branch)
            else:
                self._branches.pop(pid, None)
            return said
        if pid != self.own.process.pid or not self._here:
            return _GONE
        self._here = False
        answer = self.own.answer(data)
        self.own.debugger.detach()
        return answer

    def _drop(self, branch: _Branch) -> None:
        branch.connection.close()
        self._branches = {pid: other for pid, other in self._branches.items() if other is not branch}
        if self._focus is branch:
            self._focus = None
        if branch in self._running:
            self._running.remove(branch)

    def _threads(self, data: bytes) -> bytes | None:
        """The list of all processes' threads, in one answer."""
        whole = _THREADS + b":0,%x" % (MOST // 2 - 1)
        parts = [branch.ask(whole) for branch in self.branches]
        own = self.own.answer(whole) if self._here else None
        if own is not None:
            parts.insert(0, own)
        lines = [
            line for part in parts for line in unescape(part[1:]).split(b"\n") if line.startswith(b"<thread ")
        ]
        text = b"\n".join((b'<?xml version="1.0"?>', b"<threads>", *lines, b"</threads>", b""))
        at, _, length = data.rpartition(b":")[2].partition(b",")
        piece = text[int(at, 16) : int(at, 16) + min(int(length, 16), MOST // 2 - 1)]
        return (b"m" if int(at, 16) + len(piece) < len(text) else b"l") + escape(piece)

    # -- running ------------------------------------------------------------------------------------------------------

    def _resume(self, text: bytes) -> None:
        """vCont: each process's part to its stub; one that is not named stays stopped."""
        targets: list[_Branch | None] = [*([None] if self._here else []), *self.branches]
        plan: dict[_Branch | None, list[bytes]] = {}
        for action in text.split(b";"):
            _, _, name = action.partition(b":")
            every = not name or name.startswith(b"p-1")
            for target in targets if every else [self._of(name)]:
                plan.setdefault(target, []).append(action)
        for index, (target, reply) in enumerate(self._late):
            if target in plan:
                del self._late[index]
                self._ready, self._focus = reply, target
                return
        for target, actions in plan.items():
            packet = b"vCont;" + b";".join(actions)
            if target is None:
                self.own.answer(packet)
            else:
                target.send(packet)
                self._running.append(target)

    def news(self) -> bytes | None:
        """As :meth:`Commands.news`."""
        if self._ready is not None:
            kept, self._ready = self._ready, None
            return kept
        source: _Branch | None = None
        reply = self.own.news()
        if reply is None:
            source, reply = self._first()
        for pid, connection in self.own.debugger.take_born():
            self._branches[pid] = _Branch(pid, connection)
        if reply is None:
            return None
        if source is not None:
            self._running.remove(source)
        self._stop_others()
        self._focus = source
        self._learn(source, reply)
        return reply

    def _first(self) -> tuple[_Branch | None, bytes | None]:
        """A child's report that has come."""
        for branch in self._running:
            if (reply := branch.receive(0)) is not None:
                return branch, reply
        return None, None

    def _stop_others(self) -> None:
        for branch in self._running:
            branch.interrupt()
            self._keep(branch, branch.receive(_STOP_SECONDS))
        self._running.clear()
        if self.own.running:
            self.own.debugger.break_in()
            deadline = time.monotonic() + _STOP_SECONDS
            while (own := self.own.news()) is None and time.monotonic() < deadline:
                time.sleep(0.001)
            self._keep(None, own)

    def _keep(self, target: _Branch | None, reply: bytes | None) -> None:
        if reply is not None and not reply.startswith(b"T02"):
            self._learn(target, reply)
            self._late.append((target, reply))

    def _learn(self, source: _Branch | None, reply: bytes) -> None:
        """What a report means for who there is."""
        if reply[:1] in (b"W", b"X"):
            if source is None:
                self._here = False
            else:
                pid = int(reply.rpartition(b":")[2], 16)
                self._branches.pop(pid, None)
                if source not in self._branches.values():
                    self._drop(source)
        elif source is not None and (born := _BORN.search(reply)) is not None:
            self._branches[int(born[1] or born[2], 16)] = source
