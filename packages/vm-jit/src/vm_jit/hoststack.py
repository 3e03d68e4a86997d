"""Where the host's stack of a thread lies: compiled code calls itself as deep as it allows."""

from __future__ import annotations

import ctypes
import threading

from vm_core.hints import Final

__all__ = ["host_stack", "stack_low"]

_ATTRIBUTES: Final = 128
"""More bytes than pthread_attr_t has anywhere (56 on x86-64, 64 on AArch64)."""
_UNLIMITED: Final = 8 << 20
"""What is believed to be there of a main thread's stack that has no limit."""
_libc: Final = ctypes.CDLL(None)
_known = threading.local()


def host_stack() -> tuple[int, int]:
    """The lowest address of this thread's stack and its end; (0, 0) if the C library does not say."""
    attributes = ctypes.create_string_buffer(_ATTRIBUTES)
    low, size = ctypes.c_void_p(), ctypes.c_size_t()
    try:
        _libc.pthread_self.restype = ctypes.c_void_p
        # SAFETY: the calls fill the buffer and the two words, which outlive them; what they allocate is given back.
        if _libc.pthread_getattr_np(ctypes.c_void_p(_libc.pthread_self()), attributes):
            return _main_stack()
        _libc.pthread_attr_getstack(attributes, ctypes.byref(low), ctypes.byref(size))
        _libc.pthread_attr_destroy(attributes)
    except AttributeError:  # HOST: not glibc, musl or Bionic
        return 0, 0
    return low.value or 0, (low.value or 0) + size.value


def _main_stack() -> tuple[int, int]:
    """The stack that the process began with: glibc looks for it in /proc/self/maps, which a confined process may not read."""
    import resource

    try:
        end = ctypes.c_void_p.in_dll(_libc, "__libc_stack_end").value or 0
    except ValueError:
        return 0, 0
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return (end - (_UNLIMITED if soft == resource.RLIM_INFINITY else soft), end) if end else (0, 0)


def stack_low() -> int:
    """The lowest address of this thread's stack, found once; 0 if it is not known."""
    low: int | None = getattr(_known, "low", None)
    if low is None:
        low = _known.low = host_stack()[0]
    return low
