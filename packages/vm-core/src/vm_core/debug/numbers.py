"""Numbers that gdb's protocol has of its own: signals, errors, open flags. include/gdb/{signals.def,fileio.h}."""

from __future__ import annotations

import errno
import os
from typing import Final

__all__ = ["error_to_gdb", "open_flags", "signal_from_gdb", "signal_to_gdb"]

_OTHER: Final = {
    7: 10,  # SIGBUS
    10: 30,  # SIGUSR1
    12: 31,  # SIGUSR2
    16: 143,  # SIGSTKFLT: unknown to gdb
    17: 20,  # SIGCHLD
    18: 19,  # SIGCONT
    19: 17,  # SIGSTOP
    20: 18,  # SIGTSTP
    23: 16,  # SIGURG
    29: 23,  # SIGIO
    30: 32,  # SIGPWR
    31: 12,  # SIGSYS
    32: 77,
    64: 78,
}
_UNKNOWN: Final = 143
_TO: Final = {number: _OTHER.get(number, number if number < 32 else number + 12) for number in range(1, 65)}
_FROM: Final = {there: here for here, there in _TO.items() if there != _UNKNOWN}

_ERRORS: Final = frozenset({1, 2, 4, 5, 9, 13, 14, 16, 17, 19, 20, 21, 22, 23, 24, 27, 28, 29, 30})
_FLAGS: Final = ((0x8, os.O_APPEND), (0x200, os.O_CREAT), (0x400, os.O_TRUNC), (0x800, os.O_EXCL))


def signal_to_gdb(number: int) -> int:
    """gdb's number of a Linux signal."""
    return _TO.get(number, _UNKNOWN)


def signal_from_gdb(number: int) -> int:
    """The Linux number of gdb's signal; 0 for none, and for one that Linux does not have."""
    return _FROM.get(number, 0)


def error_to_gdb(number: int) -> int:
    """The number of an error in gdb's file protocol."""
    if number == errno.ENAMETOOLONG:
        return 91
    return number if number in _ERRORS else 9999


def open_flags(flags: int) -> int:
    """Linux's O_* (as on riscv64 and x86-64) for the file protocol's."""
    return flags & 3 | sum(ours for theirs, ours in _FLAGS if flags & theirs)
