"""Host memory for guests, the same on every system."""

from __future__ import annotations

import contextlib
import mmap
import sys
from typing import Any, Self

from vm_accel.errors import HypervisorError
from vm_core.errors import HostError, UsageError

__all__ = ["HUGE", "PAGE", "HostMemory"]

PAGE = mmap.PAGESIZE
"""The host's page in bytes; on Apple silicon 16 KiB."""
HUGE = 2 << 20
"""A large page of x86-64 hosts, and of arm64 and riscv64 hosts with pages of 4 KiB."""


class HostMemory:
    """Zeroed memory of its own, or with ``fd`` the bytes of a file.

    ``size`` is in bytes and is rounded up to whole pages. Nothing is taken from the host until it is touched. With ``private``
    what is written stays here: several guests then share the untouched pages of one file (a memfd, say).

    Memory of its own, of HUGE bytes and more, is at a multiple of HUGE: a hypervisor gives a guest large pages only where the guest's
    addresses and the host's agree below that. ``huge`` asks the host for such pages, which it may refuse; they come whole.
    """

    def __init__(
        self, size: int, *, fd: int = -1, offset: int = 0, private: bool = False, huge: bool = False
    ) -> None:
        if size <= 0:
            raise UsageError(f"memory of {size} bytes")
        self.size = -(-size // PAGE) * PAGE
        self._holds = 0
        spare = HUGE if fd < 0 and self.size >= HUGE and sys.platform != "win32" else 0
        try:
            if sys.platform == "win32":
                self._map = mmap.mmap(-1, self.size)
            else:
                flags = mmap.MAP_PRIVATE if private or fd < 0 else mmap.MAP_SHARED
                if fd < 0:
                    flags |= mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
                self._map = mmap.mmap(fd, self.size + spare, flags=flags, offset=offset)
        except (OSError, ValueError, OverflowError) as error:
            raise HostError(
                f"no {self.size} bytes of memory for a guest: {error}", hint="ask for less memory"
            ) from error
        self.view = memoryview(self._map)
        """The bytes, for the host to read and write; sees what the guest does."""
        if spare:
            # What is left out, before and behind, is never touched, and so costs nothing.
            start = -_address(self.view) % HUGE
            whole, self.view = self.view, self.view[start : start + self.size]
            whole.release()
            if huge and hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel without them
                    self._map.madvise(mmap.MADV_HUGEPAGE, start, self.size)
        self._address = _address(self.view)

    @property
    def address(self) -> int:
        if self._map.closed:
            raise HypervisorError("the guest's memory is closed")
        return self._address

    def hold(self) -> None:
        self._holds += 1

    def release(self) -> None:
        self._holds -= 1

    def read(self, offset: int, length: int) -> bytes:
        """A copy of ``length`` bytes from ``offset`` on. IndexError beyond the end."""
        self._check(offset, length)
        return bytes(self.view[offset : offset + length])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at ``offset``. IndexError beyond the end."""
        self._check(offset, len(data))
        self.view[offset : offset + len(data)] = data

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise IndexError(f"{length} bytes at {offset:#x} of {self.size:#x}")

    def close(self) -> None:
        """Give it back. UsageError while a VM shows it to its guest."""
        if self._map.closed:
            return
        if self._holds:
            raise UsageError(
                "this memory is mapped into a VM", hint="unmap it, or close the VM before its memory"
            )
        self.view.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(view: memoryview) -> int:
    from vm_accel.foreign import ffi

    # SAFETY: only the number is kept. The mapping stays until `close`, which refuses while a VM holds the memory.
    pointer: Any = ffi.from_buffer(view)
    try:
        return int(ffi.cast("uintptr_t", pointer))
    finally:
        ffi.release(pointer)
