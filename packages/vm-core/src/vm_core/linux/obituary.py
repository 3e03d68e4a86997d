"""What vm says of a guest that a signal has killed."""

from __future__ import annotations

from vm_core.engine import Cause
from vm_core.errors import DecodeError
from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux import signal as signals
from vm_core.linux.abi import SigInfo
from vm_core.memory import MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.process import Process
    from vm_core.linux.thread import GuestThread

__all__ = ["obituary"]

_SIGBUS: Final = 7


def obituary(process: Process, thread: GuestThread, info: SigInfo) -> str:
    """What is said of a process that a signal has killed: by what, where, and at which instruction."""
    pc = thread.cpu.pc
    out = [f"killed by {signals.signal_name(info.number)}"]
    trap = thread.last_trap
    if trap is not None and trap.pc == pc and info.code > 0:
        if trap.cause in (Cause.LOAD, Cause.STORE, Cause.FETCH):
            what = {Cause.LOAD: "load from", Cause.STORE: "store to", Cause.FETCH: "jump to"}[trap.cause]
            why = "protected" if trap.mapped else "not mapped"
            if info.number == _SIGBUS:
                why = "behind the end of the file"
            out.append(f"{what} {trap.address:#x} ({why})")
        elif trap.cause is Cause.ILLEGAL:
            out.append("illegal instruction")
        else:
            out.append(trap.cause.value)
    symbol = process.symbol(pc)
    out.append(f"pc {pc:#x}" + (f" <{symbol}>" if symbol else ""))
    if trap is not None and trap.pc == pc and info.code > 0:
        out.append(_instruction_text(process, pc))
    return ": ".join(part for part in out if part)


def _instruction_text(process: Process, pc: int) -> str:
    """The bytes at a pc and what they mean, for a message."""
    try:
        data = process.memory.fetch(pc, 15 if process.isa.unit == 1 else 4)
    except MemoryFault:
        return ""
    try:
        insn = process.isa.decode(data, pc)
        return f"{data[: insn.length].hex(' ')}: {insn.text()}"
    except DecodeError:
        length = min(process.isa.length(data), len(data)) if process.isa.unit > 1 else len(data)
        few = "" if process.isa.name == "riscv64" else f", which has few of {process.isa.name} so far"
        if process.isa.name == "x86_64":
            few += "; the engine 'kvm' has all of the host's, without fuel, trace and debugger"
        return f"{data[:length].hex(' ')}: no instruction that vm knows{few}"
