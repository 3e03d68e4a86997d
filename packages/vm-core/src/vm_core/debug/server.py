"""The stub's socket, and the thread that talks to its client."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import stat
import threading
from collections.abc import Callable
from typing import Final, Self

from vm_core.debug.commands import Commands
from vm_core.debug.control import Debugger
from vm_core.debug.packets import ACK, INTERRUPT, NAK, Broken, Packet, Reader, frame
from vm_core.debug.processes import Conversation
from vm_core.engine import HOST_SIGNALS
from vm_core.errors import HostError, UsageError
from vm_core.log import Log

__all__ = ["Address", "Server"]

_SEND_SECONDS: Final = 30.0
"""A client that takes nothing for so long is gone."""
_CHUNK: Final = 1 << 16


class Address:
    """Where to listen: ``PORT`` or ``:PORT`` (on the loopback interface), ``HOST:PORT``, or ``unix:PATH``. Port 0 is any free
    one. Raises UsageError."""

    def __init__(self, text: str) -> None:
        self.path = ""
        self.host, self.port = "127.0.0.1", 0
        if text.startswith("unix:") or "/" in text:
            self.path = text.removeprefix("unix:")
            if not self.path:
                raise UsageError(f"-g {text}: no path", hint="-g unix:PATH")
            return
        host, _, port = text.rpartition(":")
        host = host.removeprefix("tcp:") if host != "tcp" else ""
        self.host = host.strip("[]") or "127.0.0.1"
        if not port.isdecimal() or int(port) > 65535 or not port.isascii():
            raise UsageError(f"-g {text}: no port", hint="-g PORT, -g HOST:PORT or -g unix:PATH")
        self.port = int(port)

    def listen(self) -> socket.socket:
        """Raises HostError."""
        try:
            if self.path:
                return self._listen_at_path()
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, place = found[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
                listener.listen(1)
            except BaseException:
                listener.close()
                raise
            self.port = listener.getsockname()[1]
        except OSError as error:
            raise HostError(
                f"cannot listen at {self}: {error.strerror or error}", hint="choose another with -g"
            ) from None
        return listener

    def _listen_at_path(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                listener.bind(self.path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not self._is_left():
                    raise
                os.unlink(self.path)
                listener.bind(self.path)
            listener.listen(1)
        except BaseException:
            listener.close()
            raise
        return listener

    def _is_left(self) -> bool:
        """Whether the path is that of a socket on which nobody listens any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(self.path) == errno.ECONNREFUSED and stat.S_ISSOCK(
                os.lstat(self.path).st_mode
            )

    @property
    def target(self) -> str:
        """What gdb's ``target remote`` takes."""
        if self.path:
            return self.path
        if self.host in ("127.0.0.1", "0.0.0.0", "localhost"):  # noqa: S104 - compared, not bound
            return f":{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


def _leave_signals() -> None:
    """Signals of the host are the main thread's: what it waits for would not be interrupted by one that came to this thread."""
    own = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - own - HOST_SIGNALS)


class Server:
    """Listens at once, and from :meth:`start` on answers one client after the other, in a host thread of its own. Then ``ready`` is
    called with what gdb's ``target remote`` takes.

    Raises UsageError and HostError.
    """

    def __init__(self, address: str, ready: Callable[[str], None] | None = None) -> None:
        self.address = Address(address)
        self._ready = ready
        self._listener = self.address.listen()
        self.debugger = Debugger()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._lock = threading.Lock()
        self.debugger.notify = self._notify
        self.debugger.leave_client = self._leave
        self.debugger.serve = self._follow
        self._connection: socket.socket | None = None
        self._session: _Session | None = None
        self._child = False
        self._known: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """The process is loaded: let clients in."""
        self._thread = threading.Thread(target=self._run, name="vm-debug", daemon=True)
        self._thread.start()
        if self._ready is not None:
            self._ready(self.address.target)

    def close(self) -> None:
        """The process is over: the client is told so, if one is there."""
        self._closing = True
        self._notify()
        if self._thread is not None:
            self._thread.join(2)
            while self._thread.is_alive() and self._session is not None and self._session.passes_on:
                # The client talks to other processes through this one.
                self._thread.join(0.5)
            connection = self._connection
            if self._thread.is_alive() and connection is not None:
                # A client that takes nothing must not hold the guest's memory.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                self._thread.join(5)
        with self._lock:
            if self._wake >= 0 and not (self._thread and self._thread.is_alive()):
                os.close(self._wake)
                self._wake = -1
        self.debugger.close()
        self._listener.close()
        if self.address.path and not self._child:
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)

    def _leave(self) -> None:
        """In the child of a fork: the sockets are the parent's."""
        for one in (self._listener, self._connection):
            if one is not None:
                one.close()
        self._lock = threading.Lock()
        if self._session is not None:
            self._known = self._session.leave()
        os.close(self._wake)
        self._wake = -1

    def _follow(self, connection: socket.socket) -> None:
        """In the child of a fork: answer there what the parent's stub passes on."""
        self._child, self._closing = True, False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.debugger.notify, self.debugger.leave_client = self._notify, self._leave
        self.debugger.finish = self.close
        self._connection = connection
        connection.settimeout(_SEND_SECONDS)
        self._session = _Session(self, connection, self._known)
        self._thread = threading.Thread(
            target=self._serve, args=(self._session,), name="vm-debug", daemon=True
        )
        self._thread.start()

    def _notify(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        _leave_signals()
        while self._wait(self._listener):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                continue
            self._connection = connection
            with connection:
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(_SEND_SECONDS)
                self._session = _Session(self, connection)
                self._serve(self._session)

    def _serve(self, session: _Session) -> None:
        _leave_signals()
        try:
            session.serve()
        except OSError as error:
            Log("vm.debug").warning("the debugger's connection: %s", error)
        except Exception as error:  # noqa: BLE001 - a client's bytes must not end the guest
            Log("vm.debug").warning("the debugger's stub failed: %r", error)
        finally:
            session.close()
            if session.attached:
                self.debugger.detach()
            if self._child:
                session.shut()

    def _wait(self, readable: socket.socket) -> bool:
        """Wait for a socket or for news from the debugger; False at the end of all."""
        poller = select.poll()
        poller.register(readable, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while True:
            # A session may have taken the news that this is the end.
            ready = {fd for fd, _ in poller.poll(0 if self._closing else None)}
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            if readable.fileno() in ready:
                return True
            if self._closing:
                return False


class _Session:
    """One client."""

    def __init__(
        self, server: Server, connection: socket.socket, known: frozenset[str] | None = None
    ) -> None:
        self._server = server
        self._connection = connection
        self._reader = Reader()
        self._last = b""
        self.attached = False
        """It has sent a packet: it is no port scanner."""
        own = Commands(server.debugger)
        if known is not None:
            self.attached = True
            own.inherit(known)
        self._commands = Conversation(own)

    def serve(self) -> None:
        """Until the client goes or the process is over. Raises OSError."""
        commands = self._commands
        while not commands.gone:
            poller = select.poll()
            poller.register(self._connection, select.POLLIN)
            poller.register(self._server._wake, select.POLLIN)
            for branch in commands.branches if commands.running else ():
                poller.register(branch.connection, select.POLLIN)
            ready = {fd for fd, _ in poller.poll()}
            if self._server._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._server._wake)
            if self._connection.fileno() in ready:
                received = self._connection.recv(_CHUNK)
                if not received:
                    return
                for item in self._reader.feed(received):
                    self._take(item)
            if (news := commands.news()) is not None:
                self._send(news)
            if self._server._closing and not commands.running and not commands.branches:
                return

    @property
    def passes_on(self) -> bool:
        """Whether the client talks to other processes through this one."""
        return bool(self._commands.branches)

    def close(self) -> None:
        self._commands.close()

    def leave(self) -> frozenset[str]:
        """In the child of a fork: what is open here is the parent's. Returns the client's features."""
        for branch in self._commands.branches:
            branch.connection.close()
        return self._commands.own.known

    def shut(self) -> None:
        """There is nothing more to say to the parent's stub."""
        self._connection.close()

    def _take(self, item: Packet | Broken | bytes) -> None:
        commands = self._commands
        if isinstance(item, Packet):
            if not self.attached:
                self.attached = True
                self._server.debugger.attach()
            if commands.own.acknowledge:
                self._connection.sendall(ACK)
            answer = commands.answer(item.data)
            if answer is not None:
                self._send(answer)
            if commands.own.quiet:
                commands.own.acknowledge = False
        elif isinstance(item, Broken):
            if item.long:
                self._send(b"E.the packet is too long")
            elif commands.own.acknowledge:
                self._connection.sendall(NAK)
        elif item == INTERRUPT and self.attached:
            commands.break_in()
        elif item == NAK and self._last:
            self._connection.sendall(self._last)

    def _send(self, data: bytes) -> None:
        self._last = frame(data)
        self._connection.sendall(self._last)
