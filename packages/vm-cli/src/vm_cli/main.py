"""The entry points. ``vm run`` and the multi-call names go straight to :mod:`vm_cli.launch`; the rest goes to click."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence

from vm_core.errors import UsageError, VmError
from vm_core.hints import NoReturn

__all__ = ["Stopped", "main", "main_aarch64", "main_binfmt", "main_riscv64", "main_x86_64"]

_INTERRUPTED = 130  # 128 + SIGINT


class Stopped(BaseException):
    """The host asked vm to stop. ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """``vm``. Exits with the guest's status, or one of :mod:`vm_core.errors`."""
    words = list(sys.argv[1:] if argv is None else argv)
    _hold_standard_descriptors()
    if "_VM_COMPLETE" in os.environ:  # the shell asks what could come next
        from vm_cli.app import complete

        complete()
    if words[:1] == ["run"]:
        gc.disable()  # PERF: until the guest's engine is there (vm_cli.launch): nothing of what is loaded is garbage
        from vm_cli.launch import run_command

        _guard(lambda: run_command(words[1:]), at_once=argv is None)

    def others() -> int:
        from vm_cli.app import run_app

        return run_app(words)

    _guard(others)


def _multicall(isa: str) -> NoReturn:
    gc.disable()
    from vm_cli.launch import run_multicall

    _hold_standard_descriptors()
    _guard(lambda: run_multicall(isa, sys.argv[1:]), at_once=True)


def main_riscv64() -> NoReturn:
    """``vm-riscv64``, with the spellings of qemu-riscv64."""
    _multicall("riscv64")


def main_aarch64() -> NoReturn:
    """``vm-aarch64``, with the spellings of qemu-aarch64."""
    _multicall("aarch64")


def main_x86_64() -> NoReturn:
    """``vm-x86_64``, with the spellings of qemu-x86_64."""
    _multicall("x86_64")


def main_binfmt(isa: str, options: Sequence[str]) -> NoReturn:
    """What the kernel starts for a program of another machine (vm_cli.binfmt): argv is our name, the program's path, its own
    ``argv[0]`` and its arguments. ``options`` are those of vm for each run."""
    gc.disable()
    from vm_cli.launch import run_multicall

    def run() -> int:
        if len(sys.argv) < 3:
            raise UsageError(
                "this is started by the kernel, for programs of another machine", hint="vm run runs one"
            )
        return run_multicall(isa, [*options, "-0", sys.argv[2], "--", sys.argv[1], *sys.argv[3:]])

    _hold_standard_descriptors()
    _guard(run, at_once=True)


def _hold_standard_descriptors() -> None:
    """Where 0, 1 or 2 is closed, hold its number, so that no file of vm's own can get it and be taken for the guest's.

    What holds it is open in the wrong direction: to the guest, as to anyone, a read or write of it is still EBADF.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is this one
            os.set_inheritable(number, True)
    # Python has None for a stream that was closed when it started.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - same


def _guard(command: Callable[[], int], *, at_once: bool = False) -> NoReturn:
    """Run a command and exit: errors become one line, and an unexpected one says how to see more. ``at_once`` as for
    :func:`_leave`."""
    try:
        status = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except Stopped as stopped:
        status = 128 + stopped.number
    except BrokenPipeError:
        # The reader went away (vm info | head). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 128 + 13
    except (VmError, OSError) as error:
        from vm_cli.report import show_error

        status = show_error(error)
    except Exception as error:  # noqa: BLE001 - the one place where a defect must still become one line
        from vm_cli.report import show_unexpected

        status = show_unexpected(error)
    if at_once:
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> None:
    """End the process without taking Python apart, which takes longer than a small guest runs. Returns if a thread is
    still at work: then Python must wait for it."""
    import atexit
    import threading

    if threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            return  # Python says it in its own way
    os._exit(status)
