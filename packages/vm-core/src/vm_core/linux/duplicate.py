"""A second guest in the same host process, which goes on from where the first one is: fork(2) without the host's fork.

Nothing is shared between the two but the files that were open, as after fork(2), and the mounts. Each has a process identity of
its own, which is the host's, so the numbers are the same; neither can see or signal the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from vm_core.errors import HostError, UsageError
from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.native import Constant
from vm_core.linux.procfs import emulated
from vm_core.state import HEADER, HEADER_BYTES, CpuState

if TYPE_CHECKING:
    from vm_core.engine import Engine
    from vm_core.linux.process import Process
    from vm_core.memory import GuestMemory
    from vm_core.spec.isa import Isa

__all__ = ["duplicate"]

_INHERITED: Final = (
    *(
        (HEADER[name] // 8, HEADER[name] // 8 + count)
        for name, count in (("pc", 1), ("fp_flags", 2), ("signal_mask", 1), ("altstack", 3))
    ),
    (HEADER_BYTES // 8, None),
)
"""Words of a vCPU that are the guest's: from, to. The others are addresses in the host, and the engine's."""


def _cannot(process: Process) -> str:
    """Why the state of a process cannot be another one's too, or nothing."""
    if process.stopping or not process.threads:
        return "it has ended"
    if len(process.threads) > 1:
        return "it has several threads"
    if process.family is not None or process.children:
        return "it has forked, or shares objects with other processes"
    if process.shared:
        return "it has mapped a file shared, for writing"
    if process.tracer is not None or process.debugger is not None or process.recorder is not None:
        return "it is traced"
    if process.host is not None:
        return "it runs in a scheduler"
    return ""


def duplicate(
    process: Process,
    memory: GuestMemory,
    words: memoryview,
    make: Callable[[Isa, GuestMemory], Engine],
) -> Process:
    """Another process with this ``memory``, which it takes over, and one thread with the registers in ``words`` (a
    CpuState's); everything else is as in ``process`` now, but timers and pending signals, which nobody inherits.

    ``process`` is not running. System calls of the new one are all vm_core's, whatever the engine could do itself. Raises
    UsageError for a process whose state is not its own alone, HostError without descriptors, and what ``make`` raises; nothing
    is left then, and ``memory`` is closed.
    """
    from vm_core.linux.process import GuestThread, Process

    with ExitStack() as undo:
        undo.callback(memory.close)
        if reason := _cannot(process):
            raise UsageError(
                f"a guest of {process.image.name} cannot be copied: {reason}",
                hint="copy it before it does that",
            )
        made = Process.__new__(Process)
        made.__dict__.update(process.__dict__)
        made._begin()
        made._live_in(memory)
        made.limits = dict(process.limits)
        made.no_new_privileges, made.personality = process.no_new_privileges, process.personality
        made.dumpable, made.natively, made._program_fd = process.dumpable, False, -1
        made.fuel = None if process.fuel is None else process.fuel.copy()
        for constant in (Constant.BRK_START, Constant.TRAMPOLINE):
            made.native.words[constant] = process.native.words[constant]
        made.set_brk(process.brk)
        for number, action in process.signals.actions.items():
            made.signals.set_action(number, action)
        namespace = process.files.namespace.share()
        undo.callback(namespace.close)
        try:
            made.files = process.files.duplicate(namespace, made._close_host, made.native)
            undo.callback(made.files.close_all)
        except OSError as error:
            raise HostError(
                f"a guest cannot be copied: {error.strerror}", hint="raise the limit of open files: ulimit -n"
            ) from error
        namespace.emulated = emulated(made)
        made.engine = make(made.isa, memory)
        memory.code_changed.append(made.engine.invalidate)
        cpu = made._first_cpu = CpuState(process.main.cpu.layout)
        made.main = GuestThread(made, cpu, made.pid)
        for first, last in _INHERITED:
            cpu.words[first:last] = words[first:last]
        before = process.main
        made.main.name, made.main.scheduling = before.name, before.scheduling.child()
        made.main.clear_child_tid, made.main.robust_list = before.clear_child_tid, before.robust_list
        made.threads[made.pid] = made.main
        made.native.alone(True)
        undo.pop_all()
    return made
