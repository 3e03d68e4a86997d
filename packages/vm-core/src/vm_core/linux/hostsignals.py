"""The host's signals, and how those of a guest's own processes come to it.

Python has signals in its main thread only. A guest process that runs there, as those of ``vm run`` and every forked one do, has
handlers for all signals of its host process: they are its relatives', its terminal's, or whoever's. One that runs in another
thread of somebody's program has none, and that program's signals are not the guest's. Its relatives then ring a bell instead,
which a thread of vm hears: it takes the letters (:mod:`vm_core.linux.family`), and looks after the children.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque

from vm_core.engine import HOST_SIGNALS
from vm_core.hints import TYPE_CHECKING, Any, Final
from vm_core.linux import signal as signals
from vm_core.linux.abi import SigInfo
from vm_core.linux.hostthread import HostThread, in_main_thread, kick_signal, wait_until

if TYPE_CHECKING:
    from types import FrameType

    from vm_core.linux.family import Reach
    from vm_core.linux.process import Process

__all__ = ["HostSignals"]

_NOT_TAKEN: Final = frozenset({4, 5, 7, 8, 9, 11, 19, 27, 32, 33})
"""Signals of the host that are vm's own: its faults, its profiler's and the C library's, and those that cannot be taken."""
_IGNORED_BY_PYTHON: Final = frozenset({13, 25})
_SIGKILL, _SIGCHLD, _SIGSTOP = 9, 17, 19
_OWED_SECONDS: Final = 0.2
"""How long after a signal's letter its host signal may arrive."""
_PATIENCE: Final = 1.0
"""Seconds: a thread that is in the host all that time (opening a FIFO) takes the signals when it comes back."""
_LOOK: Final = 50
"""Milliseconds between two looks for children that have stopped or gone on, of which no descriptor tells."""


class HostSignals:
    """Those of one guest process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.wanted = False
        """Whether the first guest thread, which runs in Python's main thread, is to call :meth:`take_wanted`."""
        self._handling: dict[int, Any] = {}
        self._arrived: deque[int] = deque()
        self._taking = False  # what has arrived; in Python's main thread only
        self._owed: dict[int, tuple[int, float]] = {}
        self.looking = threading.RLock()
        """Held while a child's state is compared with what the guest was told."""
        self._reach: Reach | None = None
        self._listener: HostThread | None = None
        self._listening = False
        self._beginning = threading.Lock()

    def inherit(self) -> None:
        """What the host process ignores (nohup, a shell's ``&``), a guest that it belongs to ignores from its beginning on."""
        import _signal  # type: ignore[import-not-found]  # PERF: see vm_core.linux.fork

        signals_of = self._process.signals
        for number in _signal.valid_signals() - _NOT_TAKEN - _IGNORED_BY_PYTHON:
            if _signal.getsignal(number) == _signal.SIG_IGN:
                signals_of.set_action(number, signals.IGNORED)

    def take(self) -> None:
        """From now on all signals of the host are for the guest, if it wants them or they come from one of its processes."""
        import _signal  # PERF: see vm_core.linux.fork
        import signal  # PERF: most programs have no children

        process = self._process
        if process.trust:
            kick_signal()  # before all are handled
        if not in_main_thread():
            if process.main.in_main_thread and process.threads.get(process.main.tid) is process.main:
                if not self._handling:
                    self._have_taken()
            else:
                self._listen()
            return
        self.wanted = False
        # What a host process that is not the guest's ignores is nothing to the guest.
        own = process.owns_host and not process.forked
        for number in _signal.valid_signals() - _NOT_TAKEN - HOST_SIGNALS - self._handling.keys():
            handler = signal.getsignal(number)
            if handler is None or (
                handler is signal.SIG_IGN and not own and number not in _IGNORED_BY_PYTHON
            ):
                continue
            self._handling[number] = handler
            signal.signal(number, self._signalled)
        if not process.forked and not process.owns_host:
            self._reached_by("SIGNALS")

    def _reached_by(self, how: str) -> None:
        """Tell the family, in which a process is reached as its own host process is until it says otherwise."""
        from vm_core.linux.family import Reach  # PERF: most programs have no children

        if self._process.family is not None and self._reach is not Reach[how]:
            self._reach = Reach[how]
            self._process.family.reached_by(self._reach)

    def _have_taken(self) -> None:
        """Wait until the first guest thread has done it: a signal that comes before would do to the host process what it does."""
        process = self._process
        self.wanted = True
        process.main.interrupt()
        wait_until(lambda: process.leaving or not self.wanted, _PATIENCE)

    def take_wanted(self) -> None:
        if in_main_thread():
            self.take()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Python's handler of the host's signals."""
        # Another may come between any two bytecodes here, and this function be called in itself: signals are taken in their
        # order, by the call that is taking some, or else by the newest.
        self._arrived.append(number)
        while self._arrived and not self._taking:
            self._taking = True
            try:
                while self._arrived:
                    self._take(self._arrived.popleft(), frame)
            finally:
                self._taking = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        import signal

        if self.arrive(number) or self._process.forked:
            return
        handler = self._handling.get(number)
        if callable(handler):
            handler(number, frame)
        elif number not in signals.IGNORED_BY_DEFAULT and (
            # The guest had it ignored when it began, and has left it to its default since.
            handler is not signal.SIG_IGN or (self._process.owns_host and number not in _IGNORED_BY_PYTHON)
        ):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, self._signalled)  # it stopped the process, and has been continued

    def release(self) -> None:
        """Give the host its signals back, and hear no bell any more."""
        import signal

        for number, handler in self._handling.items():
            signal.signal(number, handler)
        self._handling.clear()
        self.close()

    def close(self) -> None:
        """Hear no bell any more. To be called before the family is left."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._listening = False
            assert self._process.family is not None
            self._process.family.ring()
            if not listener.current:
                listener.join(5)

    def forked(self) -> None:
        """In the child of a fork."""
        self._arrived.clear()
        self._taking = False
        self._listener, self._listening, self._reach = None, False, None
        self.looking, self._beginning = threading.RLock(), threading.Lock()

    # -- what arrives -------------------------------------------------------------------------------------------

    def arrive(self, number: int) -> bool:
        """The host has got a signal; False if it is not for the guest."""
        process = self._process
        if number == _SIGCHLD:
            from vm_core.linux.children import children_changed  # PERF: most programs have no children

            if process.family is not None and not (process.forked or process.owns_host):
                self._hand_out(process.family.received(_SIGKILL))
            return children_changed(process)
        letters = [] if process.family is None else process.family.received(number)
        now = time.monotonic()
        if len(letters) > 1:
            # The signals that came with the other letters are still to come, unless the host has merged them.
            owed, until = self._owed.get(number, (0, 0.0))
            owed = owed if now < until else 0
            self._owed[number] = (owed + len(letters) - 1, now + _OWED_SECONDS)
        elif not letters:
            owed, until = self._owed.pop(number, (0, 0.0))
            if owed and now < until:
                self._owed[number] = (owed - 1, until)
                return True
        self._hand_out(letters)
        if letters:
            return True
        if process.forked and number not in _IGNORED_BY_PYTHON:
            if number in signals.STOPPING and process.signals.action(number).handler == 0:
                # Here, or a read in the background would be tried again and again.
                self.suspend(number)
            else:
                process.send(SigInfo(number, 0x80))
            return True
        return self.accept(number)

    def _hand_out(self, letters: list[tuple[SigInfo, int]]) -> None:
        process = self._process
        for info, tid in letters:
            thread = process.threads.get(tid) if tid else None
            if thread is None:
                process.send(info)
            else:
                process.send_to(thread, info)
        if letters:
            assert process.family is not None
            process.family.handed_out()

    def accept(self, number: int) -> bool:
        """Give the guest a signal that the host got; False if the guest leaves it to its default.

        One that is handled, ignored or blocked is the guest's. Callable from a signal handler of Python, which may
        interrupt this thread anywhere: the lock is reentrant, and what it guards is whole between two bytecodes.
        """
        process, bit = self._process, signals.bit(number)
        with process.lock:
            threads = list(process.threads.values())
            if process.stopping or not threads:
                return False
            default = process.signals.action(number).handler == 0
            if process.debugger is not None and process.debugger.attached:
                default = False  # the client sees it first
            if (
                default
                and not any(t.awaited & bit for t in threads)
                and not all(t.mask & bit for t in threads)
            ):
                return False
        process.send(SigInfo(number, 0x80))  # SI_KERNEL: who sent it is not known here
        return True

    def suspend(self, number: int) -> None:
        """The default action of a stop signal: the host process stops until somebody continues it."""
        import signal

        if not self._process.owns_host:
            return
        if number == _SIGSTOP or not in_main_thread():
            os.kill(os.getpid(), _SIGSTOP)
            return
        handler = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, handler)

    # -- the bell -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._process.family is None:
            return
        with self._beginning:
            if self._listener is None:
                self._reached_by("BELL")
                self._listening = True
                self._listener = HostThread("vm-bell", self._hear)
                self._listener.start()

    def new_child(self) -> None:
        """There is another child to be watched."""
        if self._listening and self._process.family is not None:
            self._process.family.ring()

    def _hear(self) -> None:
        """The thread that hears the bell, and watches the children."""
        from vm_core.linux.children import children_changed

        process = self._process
        family = process.family
        assert family is not None
        while self._listening:
            poll = select.poll()
            poll.register(family.bell, select.POLLIN)
            children = list(process.children.values())
            for child in children:
                if child.fd >= 0 and not child.over:
                    poll.register(child.fd, select.POLLIN)
            poll.poll(_LOOK if children else None)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(family.bell)
            self._hand_out(family.received())
            if children:
                children_changed(process)
