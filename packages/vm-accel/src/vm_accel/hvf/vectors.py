"""hv_vcpu_set_simd_fp_reg takes its 16 bytes by value, in a vector register, which neither cffi nor libffi can pass.

So it is called through two instructions of our own: load the vector from the third argument, and go on at the fourth, with the
first two arguments where they are.
"""

from __future__ import annotations

import mmap
import platform
import sys
from functools import cache
from typing import Any, Final

from vm_accel.errors import AcceleratorUnavailable

__all__ = ["CODE", "setter"]

CODE: Final[dict[str, bytes]] = {
    # ldr q0, [x2]; br x3
    "aarch64": bytes.fromhex("4000c03d 60001fd6"),
    # movups xmm0, [rdx]; jmp rcx (the simulator's C compiler passes vectors so)
    "x86_64": bytes.fromhex("0f1002 ffe1"),
}
_DECLARATION: Final = "int32_t (*)(uint64_t, uint32_t, const void *, void *)"
_ALIASES: Final = {"arm64": "aarch64", "amd64": "x86_64"}


@cache
def _code(machine: str) -> tuple[mmap.mmap, int]:
    """An executable page with the two instructions, and its address."""
    import cffi

    name = _ALIASES.get(machine.lower(), machine.lower())
    if name not in CODE:
        raise AcceleratorUnavailable(f"HVF has no vCPUs on {machine}")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    page.write(CODE[name])
    ffi = cffi.FFI()
    ffi.cdef("int mprotect(void *, size_t, int); void sys_icache_invalidate(void *, size_t);")
    libc = ffi.dlopen(None)
    start = ffi.from_buffer(page)
    address = int(ffi.cast("uintptr_t", start))
    # SAFETY: a page of our own, which is never written again, and never unmapped: the cache keeps it.
    if libc.mprotect(start, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        raise AcceleratorUnavailable(
            "no executable page for the thunk that sets vector registers",
            hint="a hardened Python needs the entitlement com.apple.security.cs.allow-jit: vm setup macos",
        )
    if sys.platform == "darwin":
        libc.sys_icache_invalidate(start, mmap.PAGESIZE)
    return page, address


def setter(ffi: Any) -> Any:
    """A function ``(vcpu, register, pointer to 16 bytes, address of hv_vcpu_set_simd_fp_reg)``."""
    _page, address = _code(platform.machine())
    # SAFETY: the code there has this signature, in the platform's own calling convention.
    return ffi.cast(_DECLARATION, address)
