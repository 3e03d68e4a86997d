"""Host memory for guests, the same on every system."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vm_accel.closing import Closing
from vm_accel.errors import HypervisorError
from vm_core.errors import HostError, UsageError
from vm_core.memory import HUGE

if TYPE_CHECKING:
    from vm_accel.interface import Memory

__all__ = ["PAGE", "HostMemory", "placed"]

PAGE = mmap.PAGESIZE
"""The host's page in bytes; on Apple silicon 16 KiB."""
_CHUNK = 1 << 20
_FIXED = 0x10


class HostMemory(Closing):
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
        self._file = (-1, 0) if private or fd < 0 else (fd, offset)
        self._own_fd = -1
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

    def file(self) -> tuple[int, int]:
        """A descriptor of the file that holds these bytes, and the offset in it: for a second mapping in this process. It stays this
        object's, or who made it with a descriptor. Memory of its own moves to a file at the first call, so that nobody may
        write it meanwhile. Raises HostError, on Windows always."""
        if self._file[0] < 0:
            if sys.platform != "linux":
                raise HostError(f"memory has one mapping only on {sys.platform}", hint="use Linux")
            fd = os.memfd_create("vm-memory", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, self.size)
                zeros = bytes(_CHUNK)
                with mmap.mmap(fd, self.size) as copy:
                    for at in range(0, self.size, _CHUNK):
                        piece = self.view[at : at + _CHUNK]
                        if piece != zeros[: len(piece)]:
                            copy[at : at + len(piece)] = piece
                # SAFETY: the range is this object's own mapping, which keeps its address and its size; the views of it see the
                # same bytes afterwards.
                if _c_mmap()(self.address, self.size, 3, mmap.MAP_SHARED | _FIXED, fd, 0) != self.address:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            except OSError as error:
                os.close(fd)
                raise HostError(
                    f"no memory for a guest: {error.strerror}", hint="give vm more memory"
                ) from error
            self._own_fd, self._file = fd, (fd, 0)
        return self._file

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
        if self._own_fd >= 0:
            os.close(self._own_fd)
            self._own_fd = -1


def placed(
    guest: int,
    memory: Memory,
    offset: int,
    size: int | None,
    taken: Iterable[tuple[int, int]],
    *,
    page: int = PAGE,
) -> int:
    """The bytes of ``memory[offset:]`` (None: all of them) that are to be shown at ``guest``. Raises UsageError for what
    :meth:`vm_accel.interface.Vm.map` forbids; ``taken`` are (start, end) of what is there."""
    size = memory.size - offset if size is None else size
    if (guest | size | memory.address + offset) % page or guest < 0 or size <= 0 or offset < 0:
        raise UsageError(f"guest memory of {size:#x} bytes at {guest:#x}: whole pages of {page} bytes")
    if offset + size > memory.size:
        raise UsageError(f"{size:#x} bytes at {offset:#x} of {memory.size:#x} bytes of memory")
    for start, end in taken:
        if guest < end and start < guest + size:
            raise UsageError(f"there is memory at {start:#x} already")
    return size


def _c_mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


def _address(view: memoryview) -> int:
    from vm_accel.foreign import ffi

    # SAFETY: only the number is kept. The mapping stays until `close`, which refuses while a VM holds the memory.
    pointer: Any = ffi.from_buffer(view)
    try:
        return int(ffi.cast("uintptr_t", pointer))
    finally:
        ffi.release(pointer)
