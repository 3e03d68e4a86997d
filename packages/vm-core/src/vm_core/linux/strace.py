"""One line a system call, in strace's style. Wrapped around the handlers only when it is asked for."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vm_core.linux.abi import MASK64, errno_name, s32, s64
from vm_core.linux.signal import signal_name
from vm_core.linux.system import Parked
from vm_core.memory import MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread
    from vm_core.linux.table import Handler, Row

__all__ = ["traced"]

_CLOCKS: Final = {
    0: "CLOCK_REALTIME", 1: "CLOCK_MONOTONIC", 2: "CLOCK_PROCESS_CPUTIME_ID", 3: "CLOCK_THREAD_CPUTIME_ID",
    4: "CLOCK_MONOTONIC_RAW", 5: "CLOCK_REALTIME_COARSE", 6: "CLOCK_MONOTONIC_COARSE", 7: "CLOCK_BOOTTIME",
}  # fmt: skip
_FUTEX: Final = {
    0: "FUTEX_WAIT", 1: "FUTEX_WAKE", 3: "FUTEX_REQUEUE", 4: "FUTEX_CMP_REQUEUE", 5: "FUTEX_WAKE_OP",
    6: "FUTEX_LOCK_PI", 7: "FUTEX_UNLOCK_PI", 9: "FUTEX_WAIT_BITSET", 10: "FUTEX_WAKE_BITSET",
}  # fmt: skip
_OPEN: Final = (
    (0o100, "O_CREAT"), (0o200, "O_EXCL"), (0o400, "O_NOCTTY"), (0o1000, "O_TRUNC"), (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"), (0o10000, "O_DSYNC"), (0o2000000, "O_CLOEXEC"), (0o4000000, "O_SYNC"),
    (0o10000000, "O_PATH"),
)  # fmt: skip
_MAP: Final = (
    (0x10, "MAP_FIXED"), (0x20, "MAP_ANONYMOUS"), (0x100, "MAP_GROWSDOWN"), (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"), (0x20000, "MAP_STACK"), (0x100000, "MAP_FIXED_NOREPLACE"),
)  # fmt: skip


def _flags(value: int, names: tuple[tuple[int, str], ...], first: str = "") -> str:
    out = [first] if first else []
    for bit, name in names:
        if value & bit:
            out.append(name)
            value &= ~bit
    if value:
        out.append(f"{value:#x}")
    return "|".join(out) or "0"


def _quote(data: bytes, *, cut: bool = False) -> str:
    text = "".join(
        {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\"}.get(
            c, chr(c) if 32 <= c < 127 else f"\\{c:o}"
        )
        for c in data
    )
    return f'"{text}"' + ("..." if cut else "")


def _argument(t: GuestThread, kind: str, value: int, following: int) -> str:
    if kind in ("fd", "int", "whence"):
        return (
            str(s32(value)) if kind != "int" else str(s64(value) if value >> 63 or value < 1 << 32 else value)
        )
    if kind == "dfd":
        return "AT_FDCWD" if s32(value) == -100 else str(s32(value))
    if kind == "path":
        if not value:
            return "NULL"
        try:
            return _quote(t.memory.read_cstring(value))
        except (MemoryFault, ValueError):
            return f"{value:#x}"
    if kind == "buf":
        try:
            return _quote(t.memory.read(value, min(following, 32)), cut=following > 32)
        except MemoryFault:
            return f"{value:#x}"
    if kind == "ptr":
        return f"{value:#x}" if value else "NULL"
    if kind == "oct":
        return f"0{value & 0xFFFFFFFF:o}" if value else "0"
    if kind == "oflags":
        names = (
            (t.abi.O_DIRECTORY, "O_DIRECTORY"),
            (t.abi.O_NOFOLLOW, "O_NOFOLLOW"),
            (t.abi.O_LARGEFILE, "O_LARGEFILE"),
        )
        access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")[value & 3]
        return _flags(value & 0xFFFFFFFC, names + _OPEN, access)
    if kind == "prot":
        return (
            _flags(value, ((1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC"))) if value else "PROT_NONE"
        )
    if kind == "mflags":
        return _flags(value & ~3, _MAP, ("0", "MAP_SHARED", "MAP_PRIVATE", "MAP_SHARED_VALIDATE")[value & 3])
    if kind == "sig":
        return signal_name(s32(value)) if value else "0"
    if kind == "clock":
        return _CLOCKS.get(value, str(s32(value)))
    if kind == "futex":
        return _FUTEX.get(value & 0x7F, hex(value)) + ("_PRIVATE" if value & 128 else "")
    return hex(value) if kind == "hex" else str(value)


def result_text(row: Row, result: int | None) -> str:
    """What strace prints after the equals sign."""
    if result is None:
        return "?"
    if result <= -512:
        return f"? ERESTART ({result})"
    if -4096 < result < 0:
        name = errno_name(-result)
        return f"-1 {name} ({os.strerror(-result)})"
    if row.name in ("brk", "mmap", "mremap"):
        return hex(result & MASK64)
    return str(result)


def traced(row: Row, handler: Handler, write: Callable[[str], None], *, times: bool = False) -> Handler:
    """The handler with its line."""
    kinds = row.args.split()

    def call(t: GuestThread, *args: int) -> int | None:
        shown = ", ".join(
            _argument(t, kind, value, args[i + 1] if i + 1 < len(args) else 0)
            for i, (kind, value) in enumerate(zip(kinds, args, strict=True))
        )
        head = f"[{t.tid}] " if len(t.process.threads) > 1 else ""
        begin = time.perf_counter()
        ended = True
        try:
            result = handler(t, *args)
            ended = False
        except Parked:
            ended = False
            raise
        except OSError as error:
            result = -(error.errno or 5)
            ended = False
        except MemoryFault:
            result = -errno.EFAULT
            ended = False
        except (OverflowError, ValueError, struct.error):
            result = -errno.EINVAL
            ended = False
        except MemoryError:
            result = -errno.ENOMEM
            ended = False
        finally:
            if ended:
                write(f"{head}{row.name}({shown}) = ?")
        took = f" <{time.perf_counter() - begin:.6f}>" if times else ""
        write(f"{head}{row.name}({shown}) = {result_text(row, result)}{took}")
        return result

    return call
