"""Landlock: the host's kernel lets this process reach only the files that it was given.

A ruleset names directories and files with what may be done below them; a thread that restricts itself to it, and what it
starts from then on, can never widen it again. What counts is the file that is reached, whatever the path to it was.

Linux: Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from vm_core.hints import Final

__all__ = ["DEVICE_IOCTL", "EXECUTE", "READ", "READ_FILE", "WRITE", "WRITE_FILE", "Ruleset", "abi"]

# LANDLOCK_ACCESS_FS_*
EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1 | 1 << 14  # and TRUNCATE
READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_SYM = (
    3 << 4,
    1 << 7,
    1 << 8,
    1 << 9,
    1 << 10,
    1 << 12,
)
REFER: Final = 1 << 13
DEVICE_IOCTL: Final = 1 << 15
READ: Final = READ_FILE | _READ_DIR
"""Read what lies below a directory."""
WRITE: Final = (
    READ | WRITE_FILE | _REMOVE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM | REFER
)
"""Do as one likes below a directory, but for devices, and executing."""
REMOVE_DIR: Final = 1 << 4
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | DEVICE_IOCTL
"""The rights that a rule for a file, not a directory, may have."""

_HANDLED: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many of the rights, from the lowest bit, an ABI version knows; later ones as 5."""
_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_RULE_PATH_BENEATH: Final = 1
_BIND_CONNECT_TCP: Final = 3
_SCOPES: Final = 3
"""Abstract unix sockets, and signals."""
_ALL_THREADS: Final = 1 << 3
"""LANDLOCK_RESTRICT_SELF_TSYNC, of ABI 8."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *args: object) -> int:
    """Raises OSError."""
    # SAFETY: pointers among the arguments are to buffers that the caller holds; the kernel only reads them.
    result = int(_libc.syscall(ctypes.c_long(number), *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@cache
def abi() -> int:
    """The version of Landlock that this kernel has and enforces, or 0."""
    if os.uname().sysname != "Linux":
        return 0
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


class Ruleset:
    """What may be reached: nothing but what :meth:`allow` is told; with ``net``, TCP may go anywhere.

    ``version`` is an ABI version, 2 or later: with the first one, a file could not be moved between directories.
    """

    def __init__(self, version: int, *, net: bool = False) -> None:
        if version < 2:
            raise OSError(errno.EOPNOTSUPP, "Landlock of this kernel is too old")
        self.version = version
        self.handled = (1 << _HANDLED.get(version, 16)) - 1
        fields = [self.handled]
        if version >= 4:
            fields.append(0 if net else _BIND_CONNECT_TCP)
        if version >= 6:
            fields.append(_SCOPES)
        raw = struct.pack(f"={len(fields)}Q", *fields)
        buffer = ctypes.create_string_buffer(raw, len(raw))
        self.fd = _call(_CREATE, buffer, ctypes.c_size_t(len(raw)), ctypes.c_uint(0))

    def allow(self, path: str, rights: int, *, directory: int | None = None) -> bool:
        """Rights below a directory, or for one file; False if there is no such path. ``directory`` is as ``dir_fd``."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return False
        try:
            self.allow_open(fd, rights)
        finally:
            os.close(fd)
        return True

    def allow_open(self, fd: int, rights: int) -> None:
        """Rights below an open directory, or for an open file. Raises OSError."""
        rights &= self.handled
        rule = struct.pack("=Qi", rights, fd)
        try:
            self._add(rule)
        except OSError as error:
            if error.errno != errno.EINVAL or not rights & _OF_FILES:
                raise
            self._add(struct.pack("=Qi", rights & _OF_FILES, fd))  # a file, not a directory

    def _add(self, rule: bytes) -> None:
        buffer = ctypes.create_string_buffer(rule, len(rule))
        _call(_ADD_RULE, ctypes.c_int(self.fd), ctypes.c_uint(_RULE_PATH_BENEATH), buffer, ctypes.c_uint(0))

    def restrict(self) -> bool:
        """Restrict this thread, for ever, and what it starts; no_new_privs must be set. Raises OSError.

        Returns whether the process's other threads were restricted too (ABI 8).
        """
        if self.version >= 8:
            try:
                _call(_RESTRICT_SELF, ctypes.c_int(self.fd), ctypes.c_uint(_ALL_THREADS))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return True
        _call(_RESTRICT_SELF, ctypes.c_int(self.fd), ctypes.c_uint(0))
        return False

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def ruleset(*, net: bool = False) -> Iterator[Ruleset]:
    """A new ruleset of this kernel's version, closed at the end. Raises OSError."""
    made = Ruleset(abi(), net=net)
    try:
        yield made
    finally:
        made.close()
