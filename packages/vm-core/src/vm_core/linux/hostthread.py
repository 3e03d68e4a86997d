"""The host threads of guest threads."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable

from vm_core.engine import HOST_SIGNALS
from vm_core.errors import HostError
from vm_core.hints import Final

__all__ = ["HostThread", "in_main_thread", "kick_signal", "switching", "wait_until"]


def in_main_thread() -> bool:
    """Whether this is Python's main thread, the one that the host's signals come to."""
    # PERF: asking for the current thread makes an object for one that threading has not started.
    return threading.get_ident() == threading.main_thread().ident


def wait_until(done: Callable[[], object], seconds: float) -> None:
    """Wait for what another thread or process is about to do, at most so long. Holds no lock meanwhile."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.0002)


class _Switching:
    """Shortens the interpreter's thread switch interval while guests with several threads run.

    PERF: a guest thread that makes system calls gives the GIL up for too short a time for a waiting thread to get it,
    which then waits out the whole interval, 5 ms, for each of its own calls.
    """

    seconds: Final = 0.0005

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, self.seconds))

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.setswitchinterval(self._before)

    def forked(self) -> None:
        """In the child of a fork: there is one thread."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            sys.setswitchinterval(self._before)


switching = _Switching()
"""One for the process: its users are the guests with several threads, and the schedulers."""


_kick = 0


def kick_signal() -> int:
    """A real-time signal without effect but to end a call of the host in the thread that it is sent to. Its handler is C's ``abs``, so
    that Python hears nothing of it; nobody else has one for it. Raises HostError."""
    global _kick
    if not _kick:
        import ctypes
        import signal

        library = ctypes.CDLL(None)
        library.signal.restype = ctypes.c_void_p
        library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        # SAFETY: abs has the shape of a signal handler, touches nothing, and is never unloaded.
        handler = ctypes.cast(library.abs, ctypes.c_void_p)
        for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
            old = library.signal(number, handler)
            if old is None:
                HOST_SIGNALS.add(number)
                _kick = number
                break
            library.signal(number, old)
        else:
            raise HostError(
                "no real-time signal is free", hint="something in this process handles all of them"
            )
    return _kick


class _Worker:
    """A thread of the host that does one piece of work after the other, and ends when none has come for a while."""

    idle: Final[list[_Worker]] = []
    most: Final = 64
    """So many wait for work at a time."""
    seconds: Final = 0.1
    """So long does one wait for work."""
    longest: Final = 0.001
    """A thread that has used more processor time is not used again: the work could ask what it has used."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._wanted = threading.Lock()
        self._wanted.acquire()

    @classmethod
    def begin(cls, work: Callable[[], None]) -> None:
        """Do it in another thread. Raises RuntimeError if the host has no room for one."""
        try:
            worker = cls.idle.pop()
        except IndexError:
            _thread.start_new_thread(cls(work)._run, ())
        else:
            worker._work = work
            worker._wanted.release()

    def _run(self) -> None:
        while True:
            work, self._work = self._work, None
            if work is None:
                return
            work()
            del work
            if len(self.idle) >= self.most or time.thread_time() > self.longest:
                return
            self.idle.append(self)
            if not self._wanted.acquire(timeout=self.seconds):
                try:
                    self.idle.remove(self)
                except ValueError:
                    # Somebody has just taken it.
                    self._wanted.acquire()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Worker.idle.clear)


class HostThread:
    """A daemon thread that runs ``work``.

    PERF: the start of a threading.Thread waits until the new thread has got to run Python, and each is entered in tables; a thread
    of the host is made with a stack that it gives back. That is two thirds of what a short guest thread costs. Where somebody
    wants to hear of new threads (a profiler, coverage), it is such a thread all the same.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name, self._work = name, work
        self._running = threading.Lock()
        self._ident = 0

    def start(self) -> None:
        """Begin. Raises RuntimeError if the host has no room for another thread."""
        self._running.acquire()
        try:
            if threading.getprofile() is not None or threading.gettrace() is not None:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            else:
                _Worker.begin(self._run)
        except RuntimeError:
            self._running.release()
            raise

    def _run(self) -> None:
        self._ident = threading.get_ident()
        try:
            self._work()
        finally:
            self._running.release()

    @property
    def current(self) -> bool:
        """Whether it is the calling thread."""
        return self._ident == threading.get_ident()

    def is_alive(self) -> bool:
        """Whether it has been started and is not over."""
        return self._running.locked()

    def join(self, timeout: float) -> None:
        """Wait for its end, but not longer than so many seconds."""
        if self._running.acquire(timeout=timeout):
            self._running.release()
