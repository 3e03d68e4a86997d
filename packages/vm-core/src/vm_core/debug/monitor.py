"""gdb's ``monitor`` commands: what vm knows of the guest beyond the protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vm_core.debug.control import Debugger

__all__ = ["command"]


def _help(_debugger: Debugger, _words: list[str]) -> str:
    return "".join(f"{name:<14} {about}\n" for name, (about, _) in _COMMANDS.items())


def _maps(debugger: Debugger, _words: list[str]) -> str:
    from vm_core.linux.procfs import maps_text

    return maps_text(debugger.process)


def _instructions(debugger: Debugger, _words: list[str]) -> str:
    process = debugger.process
    each = "".join(f"  thread {t.tid}: {t.retired:,}\n" for t in debugger.threads())
    left = "" if process.fuel is None else f"  fuel left: {process.fuel.left:,}\n"
    return f"{process.instructions:,} instructions, {process.system_calls:,} system calls\n{each}{left}"


def _stats(debugger: Debugger, _words: list[str]) -> str:
    stats, memory = debugger.process.engine.stats, debugger.process.memory
    out = [
        f"retired            {stats.retired:,} (compiled: {stats.retired_jit:,})",
        f"seconds            {stats.seconds:.3f} (compiling: {stats.compile_seconds:.3f})",
        f"regions            {stats.regions_compiled} compiled, {stats.regions_cached} from the cache",
        f"memory             {memory.committed:,} bytes, at most {memory.peak:,}",
    ]
    return "\n".join(out) + "\n"


def _engine(debugger: Debugger, _words: list[str]) -> str:
    return f"{debugger.process.engine.name}\n"


def _strace(debugger: Debugger, words: list[str]) -> str:
    if words not in (["on"], ["off"]):
        return f"system calls are {'shown' if debugger.trace is not None else 'not shown'}: strace on|off\n"
    if words == ["off"]:
        debugger.trace = None
    elif debugger.trace is None:
        from vm_core.linux.strace import Strace, Tracer

        debugger.trace = Tracer(Strace(_write, column=0, exits=False))
    return ""


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")


def _exit(debugger: Debugger, words: list[str]) -> str:
    code = int(words[0]) if words and words[0].isdecimal() else 0
    debugger.process.end("exit", code=code & 0xFF)
    return "the guest ends when it is resumed\n"


_Command = Callable[["Debugger", "list[str]"], str]
_COMMANDS: Final[Mapping[str, tuple[str, _Command]]] = {
    "help": ("this list", _help),
    "maps": ("the guest's mappings, as /proc/self/maps", _maps),
    "instructions": ("how many have retired, by thread, and what is left of --fuel", _instructions),
    "stats": ("what the engine did", _stats),
    "strace": ("on|off: show system calls on vm's standard error", _strace),
    "engine": ("which engine runs the guest", _engine),
    "exit": ("[CODE]: end the guest", _exit),
}


def command(debugger: Debugger, text: str) -> str:
    """Do a command; returns what gdb shows."""
    name, *words = text.split() or ["help"]
    found = [known for known in _COMMANDS if known.startswith(name)]
    if name not in _COMMANDS and len(found) != 1:
        return f"no command {name!r}; there are: {', '.join(_COMMANDS)}\n"
    return _COMMANDS[name if name in _COMMANDS else found[0]][1](debugger, words)
