"""A VZVirtualMachine: every message to it on its own queue, every change of its state as an event."""

from __future__ import annotations

import atexit
import collections
import contextlib
import os
import queue as queues
import socket
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from vm_accel.closing import Closing
from vm_accel.console import Console
from vm_accel.errors import HypervisorError
from vm_accel.interface import MachineConfig, MachineEvent, MachineState
from vm_accel.vz import table
from vm_accel.vz.configuration import configure
from vm_accel.vz.failure import raised
from vm_accel.vz.objc import Failure, Queue, Runtime, Scope
from vm_accel.vz.vsock import VsockListener, taken
from vm_core.errors import UsageError

__all__ = ["VzMachine"]

_CLASS: Final = "VmMachineDelegate"
_PROTOCOL: Final = "VZVirtualMachineDelegate"
_WARNINGS: Final = 64
_MEMORY_UNIT: Final = 1 << 20
_STOP_SECONDS: Final = 10.0
"""How long ``close`` waits for the plug to be pulled."""


@cache
def _states() -> dict[int, MachineState]:
    """By VZVirtualMachineState."""
    return {
        value: MachineState.FAILED if name == "Error" else MachineState[name.upper()]
        for name, value in table.enum("VZVirtualMachineState").items()
    }


class _Completion:
    """What a completion handler said, and the wait for it."""

    def __init__(self, machine: VzMachine, what: str) -> None:
        self._machine, self.what = machine, what
        self._done = threading.Event()
        self._guard = threading.Lock()
        self._given_up = False
        self.failure: Failure | None = None
        self.result: socket.socket | None = None
        self.error: BaseException | None = None
        machine._pending.add(self)

    def finish(self, error: Any) -> None:
        """A handler with one argument, an NSError or nil; on the queue."""
        machine = self._machine
        try:
            with machine._queue.entered(), machine._run.scope():
                if error:
                    self.failure = machine._run.failure(error)
                machine._settled(self.what, self.failure)
        except BaseException as raised_here:  # noqa: BLE001 - raised by `wait`, not in the callback
            self.error = raised_here
        finally:
            self._done.set()

    def connected(self, connection: Any, error: Any) -> None:
        """The handler of a connection; on the queue."""
        run = self._machine._run
        try:
            with self._machine._queue.entered(), run.scope(), self._guard:
                if self._given_up:
                    return  # the framework closes what nobody has taken
                if connection:
                    self.result = taken(run, connection)
                else:
                    self.failure = run.failure(error)
        except BaseException as raised_here:  # noqa: BLE001 - raised by `wait`, not in the callback
            self.error = raised_here
        finally:
            self._done.set()

    def abandon(self) -> None:
        """Nobody will call the handler any more."""
        with self._guard:
            if not self._done.is_set():
                self._given_up = True
                self.error = HypervisorError("the machine was closed", call=self.what)
                self._done.set()

    def wait(self, timeout: float | None = None) -> bool:
        """False after ``timeout`` seconds; what comes later is dropped."""
        try:
            if not self._done.wait(timeout):
                with self._guard:
                    if not self._done.is_set():
                        self._given_up = True
                        return False
        finally:
            self._machine._pending.discard(self)
        if self.error is not None:
            raise self.error
        return True


class VzMachine(Closing):
    """One machine of the Virtualization framework. See :class:`~vm_accel.interface.Machine`; the rest is what only this one has."""

    def __init__(self, run: Runtime, config: MachineConfig) -> None:
        self.config = config
        self.warnings: collections.deque[str] = collections.deque(maxlen=_WARNINGS)
        """What went wrong without a change of the state: a network card that lost its other end."""
        self._run = run
        self._events: queues.SimpleQueue[MachineEvent] = queues.SimpleQueue()
        self._last = MachineState.STOPPED
        self._listeners: list[VsockListener] = []
        self._pending: set[_Completion] = set()
        self._closing = threading.Lock()
        self._vm = self._delegate = self._configuration = run.ffi.NULL
        self._console = Console()
        self._queue = Queue(run, f"vm.machine.{os.getpid()}.{id(self):x}")
        try:
            self._queue.call(self._make)
        except BaseException:
            self._console.close()
            self._queue.close()
            raise
        self._console.release()

    def _make(self, scope: Scope) -> None:
        run = self._run
        made, self.machine_identifier, self.mac_addresses = configure(
            run, scope, self.config, self._console.theirs
        )
        vm = scope.new("VZVirtualMachine", "initWithConfiguration:queue:", made, self._queue.pointer)
        delegate = scope.new(_delegate_class(run))
        run.send(vm, "setDelegate:", delegate)  # which does not own it
        self._configuration, self._vm, self._delegate = scope.keep(made), scope.keep(vm), scope.keep(delegate)
        _MACHINES[_key(run, delegate)] = self

    machine_identifier: bytes
    """Which machine this is, for ``extra``: what is saved can be restored only into the same one. Empty before macOS 13."""
    mac_addresses: list[str]
    """Of the network cards in order. A saved machine is restored only with the same ones."""

    # -- state -----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> MachineState:
        """Where it is; STOPPED once closed."""
        if not self._vm:
            return MachineState.STOPPED
        return self._queue.call(lambda _: self._state())

    def _state(self) -> MachineState:
        if not self._vm:
            return MachineState.STOPPED
        return _states().get(self._run.send(self._vm, "state"), MachineState.FAILED)

    def wait(self, timeout: float | None = None) -> MachineEvent | None:
        """The next change of state, oldest first; None if ``timeout`` seconds have passed without one."""
        try:
            return self._events.get(timeout=timeout)
        except queues.Empty:
            return None

    def _tell(self, state: MachineState, error: str = "") -> None:
        """Only on the queue, which keeps events in the order of what happened."""
        if state is not self._last:
            self._last = state
            self._events.put(MachineEvent(state, error))

    def _stopped_by_itself(self, failure: Failure | None) -> None:
        """The delegate's news: the guest is off, or the machine broke."""
        if failure is None:
            self._tell(MachineState.STOPPED)
        else:
            self._tell(MachineState.FAILED, str(raised("the machine", failure)))

    # -- changes of state --------------------------------------------------------------------------------------------------

    def _change(
        self,
        what: str,
        selector: str,
        *arguments: Any,
        during: MachineState,
        may: str = "",
        only: MachineState | None = None,
        timeout: float | None = None,
    ) -> None:
        """Start an operation on the queue, and wait for its completion handler on this thread."""
        if self._queue.inside:
            raise UsageError(f"{what} cannot be waited for from a callback of the machine")
        self._open(what)
        run, completion = self._run, _Completion(self, what)

        def begin(_: Scope) -> None:
            self._open(what)
            state = self._state()
            if (may and not run.send(self._vm, may)) or (only is not None and state is not only):
                raise UsageError(f"{what} is not possible while the machine is {state.value}")
            block = run.blocks.take(completion.finish)
            self._tell(during)
            run.send(self._vm, selector, *arguments, block)

        try:
            self._queue.call(begin)
        except BaseException:
            self._pending.discard(completion)
            raise
        if not completion.wait(timeout):
            raise TimeoutError(f"{what} takes longer than {timeout} s")
        if completion.failure:
            raise raised(what, completion.failure)

    def _settled(self, what: str, failure: Failure | None) -> None:
        """An operation is over: say in which state that left the machine."""
        if not self._vm:
            return  # closed meanwhile
        state = self._state()
        self._tell(state, str(raised(what, failure)) if failure and state is MachineState.FAILED else "")

    def start(self) -> None:
        """Boot. The machine must be stopped or failed."""
        self._change("start", "startWithCompletionHandler:", during=MachineState.STARTING, may="canStart")

    def pause(self) -> None:
        """Stop the CPUs where they are."""
        self._change("pause", "pauseWithCompletionHandler:", during=MachineState.PAUSING, may="canPause")

    def resume(self) -> None:
        """The opposite of ``pause``."""
        self._change("resume", "resumeWithCompletionHandler:", during=MachineState.RESUMING, may="canResume")

    def stop(self) -> None:
        """Pull the plug (macOS 12)."""
        self._stop(None)

    def _stop(self, timeout: float | None) -> None:
        self._change(
            "stop", "stopWithCompletionHandler:", during=MachineState.STOPPING, may="canStop", timeout=timeout
        )

    def request_stop(self) -> None:
        """Press the power button; the guest decides, and STOPPED comes if it does."""
        self._open("request_stop")

        def press(_: Scope) -> None:
            if not self._run.send(self._vm, "canRequestStop"):
                raise UsageError(f"request_stop is not possible while the machine is {self._state().value}")
            good, failure = self._run.checked(self._vm, "requestStopWithError:")
            if not good and failure:
                raise raised("request_stop", failure)

        self._queue.call(press)

    def save(self, path: Path) -> None:
        """Write the paused machine's state, without its disks (macOS 14, Apple silicon)."""
        self._savable()
        self._file(
            "save", "saveMachineStateToURL:completionHandler:", path, MachineState.SAVING, MachineState.PAUSED
        )

    def restore(self, path: Path) -> None:
        """Into a stopped machine of the same configuration; it is paused afterwards (macOS 14, Apple silicon)."""
        self._savable()
        if not path.exists():
            raise UsageError(f"no saved machine at {path}")
        self._file(
            "restore",
            "restoreMachineStateFromURL:completionHandler:",
            path,
            MachineState.RESTORING,
            MachineState.STOPPED,
        )

    def _file(self, what: str, selector: str, path: Path, during: MachineState, only: MachineState) -> None:
        with self._run.scope():
            self._change(what, selector, self._run.url(path), during=during, only=only)

    def _savable(self) -> None:
        """Raises if no machine of this configuration can be saved: some devices cannot."""
        self._open("save")

        def ask(_: Scope) -> None:
            good, failure = self._run.checked(self._configuration, "validateSaveRestoreSupportWithError:")
            if not good and failure:
                raise raised("saving a machine of this configuration", failure)

        self._queue.call(ask)

    # -- devices -----------------------------------------------------------------------------------------------------------

    @property
    def console(self) -> BinaryIO:
        """The guest's serial console (hvc0), unbuffered, both ways. A guest waits once what nobody reads fills a pipe."""
        return cast("BinaryIO", self._console)

    def _device(self, devices: str, what: str) -> Any:
        """The one device of a kind, on the queue."""
        found = self._run.items(self._run.send(self._vm, devices))
        if not found:
            raise UsageError(f"the machine was made without {what}")
        return found[0]

    def listen(self, port: int) -> VsockListener:
        """Take the guest's connections to a port of the host (``vsock=True``)."""
        self._port(port)

        def make(_: Scope) -> VsockListener:
            self._open("listen")
            made = VsockListener(self._run, self._queue, lambda: self._device("socketDevices", "vsock"), port)
            self._listeners = [each for each in self._listeners if not each.closed] + [made]
            return made

        return self._queue.call(make)

    def connect(self, port: int, timeout: float | None = None) -> socket.socket:
        """Connect to a port of the running guest (``vsock=True``). TimeoutError after ``timeout`` seconds."""
        self._port(port)
        self._open("connect")
        if self._queue.inside:
            raise UsageError("connect cannot be waited for from a callback of the machine")
        completion = _Completion(self, f"connect to port {port}")

        def begin(_: Scope) -> None:
            self._open("connect")
            device = self._device("socketDevices", "vsock")
            block = self._run.blocks.take(completion.connected, 2)
            self._run.send(device, "connectToPort:completionHandler:", port, block)

        try:
            self._queue.call(begin)
        except BaseException:
            self._pending.discard(completion)
            raise
        if not completion.wait(timeout):
            raise TimeoutError(f"the guest has not answered on port {port}")
        if completion.failure or completion.result is None:
            raise raised(completion.what, completion.failure or Failure("", 0, "no connection"))
        return completion.result

    @staticmethod
    def _port(port: int) -> None:
        if not 0 <= port < 0xFFFF_FFFF:
            raise UsageError(f"{port} is no port of a vsock")

    @property
    def memory_target(self) -> int:
        """Bytes that the guest shall use at most, by its balloon (``balloon=True``); a multiple of 1 MiB."""
        self._open("memory_target")
        return self._queue.call(
            lambda _: int(self._run.send(self._balloon(), "targetVirtualMachineMemorySize"))
        )

    @memory_target.setter
    def memory_target(self, size: int) -> None:
        if size <= 0 or size % _MEMORY_UNIT or size > self.config.memory_bytes:
            raise UsageError(f"{size} bytes are no multiple of 1 MiB within {self.config.memory_bytes}")
        self._open("memory_target")
        self._queue.call(
            lambda _: self._run.send(self._balloon(), "setTargetVirtualMachineMemorySize:", size)
        )

    def _balloon(self) -> Any:
        return self._device("memoryBalloonDevices", "a balloon")

    # -- end ---------------------------------------------------------------------------------------------------------------

    def _open(self, what: str) -> None:
        if not self._vm:
            raise HypervisorError("the machine is closed", call=what)

    def close(self) -> None:
        """Pull the plug if needed, and give everything back. May be called twice, not from a callback."""
        with self._closing:
            if not self._vm:
                return
            if self._queue.call(
                lambda _: self._run.has("VZVirtualMachine", "canStop") and self._run.send(self._vm, "canStop")
            ):
                with contextlib.suppress(HypervisorError, UsageError, TimeoutError):
                    self._stop(_STOP_SECONDS)
            self._queue.call(self._forget)
            self._queue.close()
            self._console.close()

    def _forget(self, _: Scope) -> None:
        run = self._run
        for listener in self._listeners:
            listener.close()
            listener.forget()  # if another thread has closed it, and is not here yet
        vm, delegate, made = self._vm, self._delegate, self._configuration
        self._vm = self._delegate = self._configuration = run.ffi.NULL
        run.send(vm, "setDelegate:", None)
        for each in (vm, delegate, made):
            run.objc_release(each)
        _MACHINES.pop(_key(run, delegate), None)
        for completion in list(self._pending):
            completion.abandon()


_MACHINES: Final[dict[int, VzMachine]] = {}
"""By the address of the delegate that stands for it. One that nobody closes runs on, and is closed when the process ends: no
queue may call Python once that is over."""


_PID: Final = os.getpid()


@atexit.register
def _close_all() -> None:
    if os.getpid() != _PID:
        return  # a forked child has neither the queues' threads nor the machines
    for machine in list(_MACHINES.values()):
        machine.close()


def _key(run: Runtime, delegate: Any) -> int:
    return int(run.ffi.cast("uintptr_t", delegate))


def _delegate_class(run: Runtime) -> Any:
    """What hears that a machine stopped by itself. Its methods are called on the machine's queue."""

    def failure_of(machine: VzMachine, error: Any) -> Failure:
        with machine._queue.entered(), run.scope():
            return run.failure(error)

    def stopped(receiver: int, _vm: Any) -> None:
        machine = _MACHINES.get(receiver)
        if machine is not None:
            machine._stopped_by_itself(None)

    def broke(receiver: int, _vm: Any, error: Any) -> None:
        machine = _MACHINES.get(receiver)
        if machine is not None:
            machine._stopped_by_itself(failure_of(machine, error))

    def unplugged(receiver: int, _vm: Any, _device: Any, error: Any) -> None:
        machine = _MACHINES.get(receiver)
        if machine is not None:
            machine.warnings.append(str(raised("a network card", failure_of(machine, error))))

    functions: dict[str, Callable[..., Any]] = {
        "guestDidStopVirtualMachine:": stopped,
        "virtualMachine:didStopWithError:": broke,
        "virtualMachine:networkDevice:attachmentWasDisconnectedWithError:": unplugged,
    }
    encodings = table.protocol(_PROTOCOL)
    return run.make_class(
        _CLASS,
        {selector: (encodings[selector], function) for selector, function in functions.items()},
        _PROTOCOL,
    )
