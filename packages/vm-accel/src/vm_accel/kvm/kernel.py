"""The few calls of the C library that everything of KVM goes through, and what their failures mean.

Tests put an object with the same methods in the place of :class:`Kernel`, and let any call fail.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Final

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.kvm import abi, x86

__all__ = ["Kernel", "call", "failure", "ffi", "request", "unavailable"]

ffi: Final[Any] = abi.foreign(x86.STRUCTURES)
_REQUESTS: Final = abi.numbers(ffi, abi.CALLS | x86.CALLS)
_MAP_SHARED, _PROT_READ_WRITE = 1, 3

_HINTS: Final = {
    errno.EPERM: "a sandbox or a security module forbids it: see dmesg",
    errno.EACCES: "add the user to the kvm group: sudo usermod -aG kvm $USER, then log in again",
    errno.ENOMEM: "give vm more memory, or raise the limit of locked memory and of memory in the control group",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "raise fs.file-max",
    errno.EIO: "a VM cannot be used after a fork: make it in the child",
    errno.EFAULT: "the guest used memory that the host has unmapped",
}


class Kernel:
    """The real one. All methods return what C's do, -1 or MAP_FAILED included; ``errno`` is that of the last."""

    def __init__(self) -> None:
        from fcntl import ioctl  # not on every system that can import this module

        library = ffi.dlopen(None)
        self.ioctl = library.ioctl
        self.enter: Callable[[int, int], int] = ioctl
        """PERF: an ioctl without an argument, for KVM_RUN: a third of a microsecond less than by cffi, and a few pages of code less that are not
        in the processor's buffers when KVM returns. Unlike the others it raises OSError."""
        self._library = library

    def errno(self) -> int:
        return int(ffi.errno)

    def open(self, path: str) -> int:
        return int(self._library.open(os.fsencode(path), os.O_RDWR | os.O_CLOEXEC))

    def close(self, fd: int) -> int:
        return int(self._library.close(fd))

    def mmap(self, fd: int, size: int, offset: int) -> Any:
        # SAFETY: a new mapping at an address that the kernel chooses; MAP_FAILED is handled by the caller.
        return self._library.mmap(ffi.NULL, size, _PROT_READ_WRITE, _MAP_SHARED, fd, offset)

    def munmap(self, pointer: Any, size: int) -> int:
        # SAFETY: `pointer` and `size` are those of one `mmap`, and whoever calls has dropped every view into it.
        return int(self._library.munmap(pointer, size))


def request(name: str) -> int:
    """The number of an ioctl by its name in <linux/kvm.h>."""
    return _REQUESTS[name]


def failure(name: str, number: int, detail: str = "") -> HypervisorError:
    """The error to raise when ``name`` failed with an errno."""
    text = os.strerror(number)
    code = errno.errorcode.get(number, str(number))
    return HypervisorError(
        f"{name} failed{f' ({detail})' if detail else ''}: {text} ({code})",
        call=name,
        status=number,
        hint=_HINTS.get(number, ""),
    )


def unavailable(path: str, number: int) -> AcceleratorUnavailable:
    """The error to raise when the device cannot be opened."""
    if number == errno.ENOENT:
        return AcceleratorUnavailable(
            f"there is no {path}",
            hint="load the module (sudo modprobe kvm_intel, or kvm_amd), or allow nested virtualisation",
        )
    return AcceleratorUnavailable(
        f"{path} cannot be opened: {os.strerror(number)}", hint=_HINTS.get(number, "")
    )


_NULL: Final = ffi.NULL


def call(kernel: Kernel, fd: int, name: str, argument: Any = _NULL, detail: str = "") -> int:
    """Do an ioctl; ``argument`` is a pointer to its structure, or an integer. Raises HypervisorError if it fails."""
    if isinstance(argument, int):
        argument = ffi.cast("void *", argument)
    while True:
        # SAFETY: `argument` is NULL, a plain number, or a live structure of the size that the request's number says.
        result: int = kernel.ioctl(fd, _REQUESTS[name], argument)
        if result >= 0:
            return result
        if (number := kernel.errno()) != errno.EINTR:
            raise failure(name, number, detail)
