"""Sockets between the host and the guest (vsock). A port is 32 bits; the host is CID 2."""

from __future__ import annotations

import collections
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from vm_accel.closing import Closing
from vm_accel.errors import HypervisorError
from vm_accel.vz import table
from vm_accel.vz.objc import Queue, Runtime

__all__ = ["BACKLOG", "VsockListener", "taken"]

BACKLOG: Final = 128
"""Connections that wait for ``accept``; more are refused."""

_CLASS: Final = "VmVsockListener"


def taken(run: Runtime, connection: Any) -> socket.socket:
    """A Python socket for a VZVirtioSocketConnection, which keeps its own descriptor and closes it when it goes."""
    fd = run.send(connection, "fileDescriptor")
    if fd < 0:
        raise HypervisorError("the guest has closed the connection already", call="fileDescriptor")
    own = os.dup(fd)
    try:
        made = socket.socket(fileno=own)
    except BaseException:
        os.close(own)
        raise
    made.setblocking(True)  # the framework's descriptor may be otherwise, and shares that with its copies
    return made


class VsockListener(Closing):
    """Takes the guest's connections to one port."""

    def __init__(self, run: Runtime, queue: Queue, device: Callable[[], Any], port: int) -> None:
        self.port = port
        self._run, self._queue, self._device = run, queue, device
        self._waiting: collections.deque[tuple[socket.socket, int]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

        def listen(scope: Any) -> tuple[Any, Any]:
            to = device()
            delegate = scope.new(_made(run))
            listener = scope.new("VZVirtioSocketListener")
            run.send(listener, "setDelegate:", delegate)  # which does not own it
            run.send(to, "setSocketListener:forPort:", listener, port)
            _LISTENERS[_key(run, delegate)] = self
            return scope.keep(delegate), scope.keep(listener)

        self._delegate, self._listener = queue.call(listen)

    @property
    def closed(self) -> bool:
        """Whether it takes no more connections."""
        return self._closed

    def _arrived(self, connection: Any) -> bool:
        with self._changed:
            if self._closed or len(self._waiting) >= BACKLOG:
                return False
            self._waiting.append((taken(self._run, connection), self._run.send(connection, "sourcePort")))
            self._changed.notify()
        return True

    def accept(self, timeout: float | None = None) -> tuple[socket.socket, int]:
        """The next connection and the guest's port. TimeoutError after ``timeout`` seconds; HypervisorError once closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, timeout):
                raise TimeoutError(f"the guest has not connected to port {self.port}")
            if self._waiting:
                return self._waiting.popleft()
        raise HypervisorError(f"nothing listens on port {self.port} any more", call="accept")

    def close(self) -> None:
        """Refuse further connections, and close those that wait. May be called twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for connected, _ in waiting:
            connected.close()

        with contextlib.suppress(HypervisorError):  # the machine was closed, and has done it
            self._queue.call(self.forget)

    def forget(self, _: Any = None) -> None:
        """The part of ``close`` that is done on the queue."""
        run, delegate, listener = self._run, self._delegate, self._listener
        self._delegate = self._listener = None
        if delegate is None:
            return
        run.send(self._device(), "removeSocketListenerForPort:", self.port)
        run.send(listener, "setDelegate:", None)
        run.objc_release(listener)
        _LISTENERS.pop(_key(run, delegate), None)
        run.objc_release(delegate)


_LISTENERS: Final[dict[int, VsockListener]] = {}
"""By the address of the delegate that stands for it."""


def _key(run: Runtime, delegate: Any) -> int:
    return int(run.ffi.cast("uintptr_t", delegate))


def _made(run: Runtime) -> Any:
    """The delegate's class."""

    def accept(receiver: int, _listener: Any, connection: Any, _device: Any) -> bool:
        listener = _LISTENERS.get(receiver)
        if listener is None:
            return False
        with contextlib.suppress(HypervisorError, OSError), listener._queue.entered():
            return listener._arrived(connection)
        return False

    selector = "listener:shouldAcceptNewConnection:fromSocketDevice:"
    encoding = table.protocol("VZVirtioSocketListenerDelegate")[selector]
    return run.make_class(_CLASS, {selector: (encoding, accept)}, "VZVirtioSocketListenerDelegate")
