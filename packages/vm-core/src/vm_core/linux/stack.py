"""What a program finds on its stack when it starts: its arguments, its environment, and the auxiliary vector.

execve(2), getauxval(3), Linux's fs/binfmt_elf.c (create_elf_tables).
"""

from __future__ import annotations

import os
import struct

from vm_core.errors import LoadError
from vm_core.hints import TYPE_CHECKING
from vm_core.memory import PAGE

if TYPE_CHECKING:
    from vm_core.linux.process import Process

__all__ = ["build_stack"]


def build_stack(process: Process, low: int) -> tuple[int, bytes]:
    """argc, argv, envp and the auxiliary vector below their strings, as the kernel leaves them, in a stack that begins at ``low``. Returns
    sp and the vector. Raises LoadError."""
    memory, image = process.memory, process.image
    top = process.stack_top
    strings = bytearray()

    def put(data: bytes) -> int:
        nonlocal top
        top -= len(data)
        strings[:0] = data
        return top

    put(bytes(8))
    execfn = put(os.fsencode(process.execfn) + b"\0")
    env = [put(word + b"\0") for word in reversed(process.env_bytes)][::-1]
    argv = [put(word + b"\0") for word in reversed(process.argv_bytes)][::-1]
    platform = put(process.abi.platform.encode() + b"\0") if process.abi.platform else 0
    put(bytes((top - 16) % 16))
    random = put(os.urandom(16))
    uid, gid = os.getuid(), os.getgid()
    pairs = [
        (33, process.vdso), (51, process.abi.signal_frame or process.abi.min_signal_stack), (3, image.phdr), (4, image.phent), (5, image.phnum), (6, PAGE),
        (7, process.interpreter.base if process.interpreter is not None else 0), (8, 0), (9, image.entry),
        (11, uid), (12, uid), (13, gid), (14, gid), (16, process.abi.hwcap), (17, 100), (23, 0), (25, random),
        (26, 0), (31, execfn),
    ]  # fmt: skip
    if platform:
        pairs.append((15, platform))
    pairs.append((0, 0))
    auxv = b"".join(struct.pack("<QQ", *pair) for pair in pairs)
    words = [len(argv), *argv, 0, *env, 0]
    block = struct.pack(f"<{len(words)}Q", *words) + auxv
    sp = (top - len(block)) & -16
    if sp < low + 4 * PAGE:
        raise LoadError(
            f"{image.name}: the arguments and environment do not fit on the stack of {process.stack_top - low:,} bytes"
        )
    memory.poke(top, bytes(strings))
    memory.poke(sp, block)
    return sp, auxv
