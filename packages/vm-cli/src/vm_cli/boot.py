"""``vm boot``: a whole machine in the terminal. Its consoles are standard output; standard input goes to /dev/console."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from vm_accel.errors import HypervisorError
from vm_accel.interface import Disk, Machine, MachineConfig, MachineEvent, MachineState
from vm_core.errors import EXIT_TIMEOUT, HostError, UsageError

__all__ = ["EXIT_CRASHED", "boot", "disk"]

EXIT_CRASHED: Final = 1
_OVER: Final = (MachineState.STOPPED, MachineState.FAILED)
_ESCAPE: Final = 0x01  # Ctrl-A, as QEMU's -nographic has it
_DRAIN_SECONDS: Final = 2.0


def disk(text: str) -> Disk:
    """``FILE`` or ``FILE,ro``."""
    path, comma, mode = text.rpartition(",")
    if comma and mode in ("ro", "rw"):
        return Disk(Path(path), read_only=mode == "ro")
    return Disk(Path(text))


def boot(
    config: MachineConfig,
    command_line: str | None,
    accel: str | None,
    timeout: float | None,
    sandbox: str = "auto",
) -> dict[str, Any]:
    """Run the machine until it is off, in this process, which is confined as ``sandbox`` says, for ever.

    ``command_line``: None: the back end's console, and a panic ends it. Returns how it ended: ``status`` for vm, ``ended``, ``seconds``
    and the ``walls`` that stood. Raises VmError.
    """
    from vm_accel.registry import open_machines

    begin = time.monotonic()
    backend = open_machines(accel)
    if command_line is None:
        command_line = f"console={'hvc0' if backend.name == 'vz' else 'ttyS0'} panic=-1"
    with backend.create(replace(config, command_line=command_line)) as machine:
        # Raw before the first word: what the guest writes has its own line ends.
        with _terminal() as raw:
            walls = _start(machine, backend.name, sandbox)
            writers = [
                threading.Thread(target=_show, args=(stream,), daemon=True) for stream in _consoles(machine)
            ]
            for each in writers:
                each.start()
            threading.Thread(target=_type, args=(machine, raw), daemon=True).start()
            event = _last(machine, timeout)
            if event is None:
                machine.stop()
            for each in writers:
                each.join(_DRAIN_SECONDS)
        if event is not None and event.state is MachineState.FAILED:
            hint = (
                "vm doctor says of which kind this host's KVM is: pvm emulates the kernels of guests, and does not know every instruction"
                if "cannot emulate" in event.error
                else ""
            )
            raise HypervisorError(f"the machine failed: {event.error}", call="boot", hint=hint)
        ended = getattr(machine, "ended", None)
        word = "timeout" if event is None else ended.value if ended is not None else "stopped"
    status = {"timeout": EXIT_TIMEOUT, "triple fault": EXIT_CRASHED, "crash": EXIT_CRASHED}.get(word, 0)
    return {
        "ended": word,
        "status": status,
        "seconds": round(time.monotonic() - begin, 3),
        "walls": walls,
    }


def _start(machine: Machine, backend: str, level: str) -> list[str]:
    """The walls that stand around this process from then on."""
    if backend != "kvm":
        # macOS keeps the guest of VZ in a process of its own, which is confined by the system.
        if level == "strict":
            raise HostError(
                f"a machine of {backend} cannot be confined by vm",
                hint="the system does it; --sandbox auto takes what there is",
            )
        machine.start()
        return []
    from vm_accel.pc.machine import IOCTLS, PcMachine
    from vm_core.linux.confine import confine_machine

    assert isinstance(machine, PcMachine)
    walls: list[str] = []
    machine.start(lambda: walls.extend(confine_machine(level=level, ioctls=IOCTLS)))
    return walls


def _consoles(machine: Machine) -> Sequence[BinaryIO]:
    """All that there are: a kernel's first words and its console need not be on the same one."""
    both = [getattr(machine, name, None) for name in ("serial", "hvc")]
    return [each for each in both if each is not None] or [machine.console]


def _last(machine: Machine, timeout: float | None) -> MachineEvent | None:
    """The event that ends it; None after ``timeout`` seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    while end is None or time.monotonic() < end:
        # Not for ever at once: a signal is handled by Python when this returns.
        event = machine.wait(0.5 if end is None else max(0.0, min(0.5, end - time.monotonic())))
        if event is not None and event.state in _OVER:
            return event
    return None


def _show(stream: BinaryIO) -> None:
    """To standard output, as it comes. Nobody there: the guest goes on, unheard."""
    with contextlib.suppress(OSError, ValueError):
        while data := stream.read(65536):
            with contextlib.suppress(OSError):
                left = memoryview(data)
                while left:
                    left = left[os.write(1, left) :]


def _type(machine: Machine, raw: bool) -> None:
    """From standard input. In a terminal, Ctrl-A x pulls the plug, and Ctrl-A Ctrl-A is one Ctrl-A."""
    escaped = False
    with contextlib.suppress(OSError, ValueError, UsageError, HypervisorError):
        while data := os.read(0, 4096):
            out = bytearray()
            for byte in data:
                if raw and escaped and byte in b"xX":
                    machine.stop()
                    return
                if raw and byte == _ESCAPE and not escaped:
                    escaped = True
                    continue
                escaped = False
                out.append(byte)
            left = memoryview(bytes(out))
            while left:
                left = left[machine.console.write(left) :]


@contextlib.contextmanager
def _terminal() -> Iterator[bool]:
    """Keys go to the guest as they are pressed, if standard input is a terminal."""
    if not (sys.stdin is not None and os.isatty(0)):
        yield False
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield True
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
