"""The Virtualization framework of ``vz.m``, built by clang over GNU's Objective-C runtime, and what tests can ask it.

VM_VZ_LIBRARY makes the back end use it. It runs no guest: it answers messages as Apple's documentation says, and writes down what
Apple's libraries would answer with undefined behaviour, an exception or a leak.
"""

from __future__ import annotations

import shutil
import subprocess
from ctypes.util import find_library
from pathlib import Path
from typing import Any, Final

import cffi

__all__ = ["Simulator", "build", "lacking"]

_SOURCE: Final = Path(__file__).with_suffix(".m")
_RUNTIME: Final = "libobjc.so.4"
_FLAGS: Final = [
    "-O1",
    "-fPIC",
    "-shared",
    "-fobjc-runtime=gcc",
    "-fblocks",
    "-Wall",
    "-Wno-objc-root-class",
]

_CDEF: Final = """
void sim_set(const char *name, long value);
void sim_hide(const char *name);
void sim_show(void);
const char *sim_violation(int i);
const char *sim_message(int i);
long sim_live(void);
void sim_forget(void);
char *sim_configuration(void);
int sim_power_button(void);
int sim_guest_end(uint32_t port);
void sim_guest(int what);
int sim_guest_connect(uint32_t port);
void free(void *);
"""

_DEFAULTS: Final = {"supported": 1, "entitled": 1, "nested": 1, "rosetta": 2, "savable": 1, "delay_us": 1000}


def lacking() -> str:
    """Why the simulator cannot be used here; empty if it can."""
    if not shutil.which("clang"):
        return "needs clang, which compiles the simulator of Virtualization"
    if find_library("objc") != _RUNTIME:
        return f"needs {_RUNTIME}, GNU's Objective-C runtime"
    return ""


def build(directory: Path) -> Path:
    """Compile it into ``directory``."""
    library = directory / "libfakevz.so"
    subprocess.run(
        ["clang", *_FLAGS, "-o", str(library), str(_SOURCE), f"-l:{_RUNTIME}", "-lpthread"], check=True
    )
    return library


class Simulator:
    """A built one, as tests see it. Its settings and notes are the process's."""

    def __init__(self, path: Path) -> None:
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(_CDEF)
        self.c: Any = self.ffi.dlopen(str(path))
        self._changed: dict[str, int] = {}

    def set(self, name: str, value: int) -> None:
        """Change what the framework does: the names are in ``settings`` of the source."""
        self._changed[name] = _DEFAULTS.get(name, 0)
        self.c.sim_set(name.encode(), value)

    def hide(self, name: str) -> None:
        """Be a macOS that lacks a class or a selector."""
        self.c.sim_hide(name.encode())

    def violations(self) -> list[str]:
        """What was done wrong since the last ``reset``."""
        return self._lines(self.c.sim_violation)

    def messages(self) -> list[str]:
        """What was sent since the last ``reset``: ``queue`` or ``-``, and the message."""
        return self._lines(self.c.sim_message)

    def _lines(self, function: Any) -> list[str]:
        lines: list[str] = []
        while line := function(len(lines)):
            lines.append(self.ffi.string(line).decode())
        return lines

    def live(self) -> int:
        """Objects that have been made and not released."""
        return int(self.c.sim_live())

    def configuration(self) -> list[str]:
        """What the newest machine was made of, a line for each device."""
        text = self.c.sim_configuration()
        try:
            return list(self.ffi.string(text).decode().splitlines())
        finally:
            self.c.free(text)

    def reset(self) -> None:
        """Back to the settings, and without the notes, of the start."""
        for name, value in self._changed.items():
            self.c.sim_set(name.encode(), value)
        self.c.sim_show()
        self.c.sim_forget()
