"""A kernel of which one call fails, or answers something else, and that keeps account of what is open and mapped."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from vm_accel.kvm import kernel as kernel_module
from vm_accel.kvm.kernel import Kernel, ffi

__all__ = ["NAMES", "Faulty"]

NAMES: Final = {number: name for name, number in kernel_module._REQUESTS.items()}


class Faulty(Kernel):
    """The real kernel, except that the call number ``fail_at`` (of all, from 0) fails with the errno ``fail_with``, and that those in
    ``answers`` are made by these functions."""

    def __init__(self) -> None:
        super().__init__()
        self.real = self.ioctl
        self.ioctl = self._ioctl
        self.enter = self._enter
        self.fds: set[int] = set()
        self.mappings: dict[int, int] = {}
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.fail_with = errno.EPERM
        self.answers: dict[str, Callable[[int, Any], int]] = {}
        self._number = 0

    def errno(self) -> int:
        return self._number or super().errno()

    def _fails(self, name: str) -> bool:
        self.calls.append(name)
        self._number = self.fail_with if len(self.calls) - 1 == self.fail_at else 0
        return bool(self._number)

    def _ioctl(self, fd: int, number: int, argument: Any) -> int:
        # x86's KVM_SET_TSC_KHZ and the like share numbers with nothing; PIT2 and EVENTS differ in size.
        name = NAMES[number]
        if self._fails(name):
            return -1
        if name in self.answers:
            return self.answers[name](fd, argument)
        result = int(self.real(fd, number, argument))
        if result >= 0 and name in ("KVM_CREATE_VM", "KVM_CREATE_VCPU"):
            self.fds.add(result)
        return result

    def _enter(self, fd: int, number: int) -> int:
        result = self._ioctl(fd, number, ffi.NULL)
        if result < 0:
            raise OSError(self.errno(), "KVM_RUN")
        return result

    def open(self, path: str) -> int:
        if self._fails("open"):
            return -1
        fd = super().open(path)
        if fd >= 0:
            self.fds.add(fd)
        return fd

    def close(self, fd: int) -> int:
        self.fds.remove(fd)
        return super().close(fd)

    def mmap(self, fd: int, size: int, offset: int) -> Any:
        if self._fails("mmap"):
            return ffi.cast("void *", -1)
        pointer = super().mmap(fd, size, offset)
        if int(ffi.cast("intptr_t", pointer)) != -1:
            self.mappings[int(ffi.cast("uintptr_t", pointer))] = size
        return pointer

    def munmap(self, pointer: Any, size: int) -> int:
        assert self.mappings.pop(int(ffi.cast("uintptr_t", pointer))) == size
        return super().munmap(pointer, size)
