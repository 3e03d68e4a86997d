"""Pages of mapped files that have been cut off: the host's SIGBUS in vm's own accesses to a program's memory.

The program's own access to such a page is a KVM_RUN that fails (:meth:`vm_core.memory.GuestMemory.find_gone`). What Python touches for
a system call of the program raises SIGBUS, which would end vm: here it marks the page ``GONE | LOST`` in the permission table, puts
a page of zeros there, and lets the access be made again. Every other SIGBUS goes to whoever handled it before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import threading
from typing import Final

from vm_core.errors import HostError
from vm_core.memory import GONE, LOST, MAPPED, PAGE, TABLE_OFFSET, GuestMemory

__all__ = ["SOURCE", "STUB", "add", "drop"]

_ARENAS: Final = 1 << 15
_SIZE: Final = 2 * PAGE + 16 * _ARENAS
_BEFORE, _SLOTS = 8, 64
"""Behind the page of code: how many slots there are, the handler of before, 32 bytes of zeros (the default action), (start, end) each."""
_FIXED, _ANONYMOUS, _NORESERVE = 0x10, 0x20, 0x4000
_ACTION_BYTES: Final = 152
_SIGINFO: Final = 4 | 0x08000000 | 0x10000000  # SA_SIGINFO | SA_ONSTACK | SA_RESTART

SOURCE: Final = f"""
    mov rax, [rsi + 16]; lea rcx, [rip + {PAGE - 11}]; cmp dword ptr [rsi + 8], 0; jle other
    mov r8, [rcx]; lea r9, [rcx + {_SLOTS}]
next:
    sub r8, 1; jb other
    mov r10, [r9]; mov r11, [r9 + 8]; add r9, 16
    cmp rax, r10; jb next
    cmp rax, r11; jae next
    mov r11, rax; sub r11, r10; shr r11, 12; sub r10, {TABLE_OFFSET}
    mov byte ptr [r10 + r11], {MAPPED | GONE | LOST}
    mov rdi, rax; and rdi, {-PAGE}; mov rdx, rsi; mov esi, {PAGE}; push rdx; mov edx, 3
    mov r10d, {2 | _FIXED | _ANONYMOUS | _NORESERVE}; mov r8, -1; xor r9d, r9d; mov eax, 9; push rcx; syscall
    pop rcx; pop rsi; test rax, rax; js default
    ret
other:
    mov rax, [rcx + {_BEFORE}]; cmp rax, 1; jbe default
    jmp rax
default:
    mov edi, {int(signal.SIGBUS)}; lea rsi, [rcx + {_BEFORE + 8}]; xor edx, edx; mov r10d, 8; mov eax, 13; syscall
    mov eax, 186; syscall
    mov edi, eax; mov esi, {int(signal.SIGBUS)}; mov eax, 200; syscall
    ret
"""
"""A signal handler (signal, siginfo_t, ucontext_t). System calls: 9 mmap, 13 rt_sigaction, 186 gettid, 200 tkill."""
STUB: Final = bytes.fromhex(
    "488b4610488d0df50f0000837e08007e704c8b014c8d49404983e80172634d8b114d8b59084983c1104c39d072ea4c39d873e54989c34d29"
    "d349c1eb0c4981ea0010104043c6041ae04889c74881e700f0ffff4889f2be0010000052ba0300000041ba3240000049c7c0ffffffff4531"
    "c9b809000000510f05595e4885c0780dc3488b41084883f8017602ffe0bf07000000488d711031d241ba08000000b80d0000000f05b8ba00"
    "00000f0589c7be07000000b8c80000000f05c3"
)
"""What the assembler makes of it."""

_lock: Final = threading.Lock()
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_place = 0


def _put(at: int, *values: int) -> None:
    data = struct.pack(f"<{len(values)}Q", *values)
    # SAFETY: within our own mapping, behind the page of code (_made).
    ctypes.memmove(_place + PAGE + at, data, len(data))


def _get(at: int) -> int:
    return ctypes.c_uint64.from_address(_place + PAGE + at).value


def _made() -> int:
    """The address of the code, and behind it the slots. Raises OSError."""
    fd = os.memfd_create("vm-cut", os.MFD_CLOEXEC)
    try:
        os.write(fd, STUB.ljust(PAGE, b"\xcc"))
        # SAFETY: new memory. The code is never writable: vm may have asked the kernel to refuse that.
        place = _libc.mmap(None, _SIZE, 3, 2 | _ANONYMOUS | _NORESERVE, -1, 0)
        if place == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        if _libc.mmap(place, PAGE, 5, 2 | _FIXED, fd, 0) != place:
            number = ctypes.get_errno()
            _libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(_SIZE))
            raise OSError(number, "mmap")
    finally:
        os.close(fd)
    return int(place)


def add(memory: GuestMemory) -> bool:
    """From now on nobody's truncated file ends vm when it is mapped there. False: the host allows no such handler."""
    global _place
    if mmap.PAGESIZE != PAGE:
        return False
    with _lock:
        try:
            _place = _place or _made()
        except OSError:
            return False
        if not _installed():
            return False
        count = _get(0)
        free = next((i for i in range(count) if not _get(_SLOTS + 16 * i)), count)
        if free == _ARENAS:
            raise HostError(f"more than {_ARENAS} guests in one process")
        # The end last: nothing is before one of 0.
        _put(_SLOTS + 16 * free, memory.host_address)
        _put(_SLOTS + 16 * free + 8, memory.host_address + memory.size)
        _put(0, max(count, free + 1))
        return True


def drop(memory: GuestMemory) -> None:
    """The arena is about to go."""
    with _lock:
        for i in range(_get(0) if _place else 0):
            if _get(_SLOTS + 16 * i) == memory.host_address:
                _put(_SLOTS + 16 * i + 8, 0)
                _put(_SLOTS + 16 * i, 0)


def _installed() -> bool:
    now = (ctypes.c_ubyte * _ACTION_BYTES)()
    # SAFETY: struct sigaction is 152 bytes on 64-bit Linux: handler, 128 bytes of mask, flags, restorer.
    _libc.sigaction(int(signal.SIGBUS), None, now)
    before = int.from_bytes(bytes(now[:8]), "little")
    if before == _place:
        return True
    _put(_BEFORE, before)
    action = (ctypes.c_ubyte * _ACTION_BYTES)()
    action[:8] = list(_place.to_bytes(8, "little"))
    action[136:140] = list(_SIGINFO.to_bytes(4, "little"))
    return not _libc.sigaction(int(signal.SIGBUS), action, None)
