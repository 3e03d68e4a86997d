"""System calls of the host by name, for what Python has no function for.

Each takes integers and buffers, and returns the host's result or raises OSError. Structures of the 64-bit Linux ABIs are
the same on every ISA unless a caller says otherwise, so that most buffers are the guest's own memory.
"""

from __future__ import annotations

import ctypes
import errno
import os

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.memory import GuestMemory

__all__ = ["call", "guest", "known"]

# fmt: off
_X86_64: Final = {
    "ioctl": 16, "socket": 41, "connect": 42, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48,
    "bind": 49, "listen": 50, "getsockname": 51, "getpeername": 52, "setsockopt": 54, "getsockopt": 55, "fcntl": 72,
    "setreuid": 113, "setregid": 114, "capget": 125, "capset": 126, "statfs": 137, "fstatfs": 138,
    "getpriority": 140, "setpriority": 141, "sched_setparam": 142, "sched_getparam": 143, "sched_setscheduler": 144,
    "sched_getscheduler": 145, "sched_get_priority_max": 146, "sched_get_priority_min": 147,
    "sched_rr_get_interval": 148, "readahead": 187, "getxattr": 191, "fgetxattr": 193, "listxattr": 194, "futex": 202,
    "sched_setaffinity": 203, "sched_getaffinity": 204, "fadvise64": 221, "epoll_ctl": 233,
    "ioprio_set": 251, "ioprio_get": 252, "inotify_add_watch": 254, "inotify_rm_watch": 255, "fchownat": 260, "splice": 275, "tee": 276,
    "sync_file_range": 277, "fallocate": 285, "accept4": 288, "inotify_init1": 294, "preadv": 295, "pwritev": 296,
    "epoll_pwait": 281, "syncfs": 306, "getcpu": 309, "sched_setattr": 314, "sched_getattr": 315, "renameat2": 316, "memfd_create": 319,
    "preadv2": 327, "pwritev2": 328, "statx": 332, "pidfd_open": 434, "openat2": 437, "faccessat2": 439,
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semctl": 66, "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71,
    "semtimedop": 220, "tgkill": 234, "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242, "mq_timedreceive": 243, "mq_notify": 244,
    "mq_getsetattr": 245,
}
_GENERIC: Final = {
    "getxattr": 8, "fgetxattr": 10, "listxattr": 11, "epoll_ctl": 21, "epoll_pwait": 22, "fcntl": 25,
    "inotify_init1": 26, "inotify_add_watch": 27, "inotify_rm_watch": 28, "ioctl": 29, "ioprio_set": 30,
    "ioprio_get": 31, "statfs": 43, "fstatfs": 44, "fallocate": 47, "fchownat": 54, "preadv": 69, "pwritev": 70, "splice": 76, "tee": 77,
    "sync_file_range": 84, "capget": 90, "capset": 91, "futex": 98, "sched_setparam": 118, "sched_setscheduler": 119,
    "sched_getscheduler": 120, "sched_getparam": 121, "sched_setaffinity": 122, "sched_getaffinity": 123,
    "sched_get_priority_max": 125, "sched_get_priority_min": 126, "sched_rr_get_interval": 127, "setpriority": 140,
    "getpriority": 141, "setregid": 143, "setreuid": 145, "getcpu": 168, "socket": 198, "bind": 200, "listen": 201, "connect": 203,
    "getsockname": 204, "getpeername": 205, "sendto": 206, "recvfrom": 207, "setsockopt": 208, "getsockopt": 209, "shutdown": 210,
    "sendmsg": 211, "recvmsg": 212, "readahead": 213, "fadvise64": 223, "accept4": 242, "syncfs": 267,
    "sched_setattr": 274, "sched_getattr": 275, "renameat2": 276, "memfd_create": 279, "preadv2": 286, "pwritev2": 287,
    "statx": 291, "pidfd_open": 434, "openat2": 437, "faccessat2": 439,
    "tgkill": 131, "mq_open": 180, "mq_unlink": 181, "mq_timedsend": 182, "mq_timedreceive": 183, "mq_notify": 184,
    "mq_getsetattr": 185, "msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191, "semtimedop": 192,
    "shmget": 194, "shmctl": 195, "shmat": 196,
}
# fmt: on
_NUMBERS: Final[dict[str, int | None]] = dict(
    _X86_64 if os.uname().machine in ("x86_64", "AMD64") else _GENERIC
)
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
_MASK: Final = (1 << 64) - 1


def known(name: str) -> bool:
    """Whether this host's kind of machine has the call at all."""
    return _NUMBERS.get(name) is not None


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """The result of a call of the host. ``arguments`` are integers, addresses that the caller has checked, bytes that the
    host only reads, and ctypes buffers. Raises OSError."""
    number = _NUMBERS.get(name)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    words = [word & _MASK if isinstance(word, int) else word for word in arguments]
    # SAFETY: the caller answers for addresses; bytes and buffers are kept alive by `arguments`.
    result = _syscall(number, *words, *[0] * (6 - len(words)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def guest(memory: GuestMemory, address: int, size: int, access: Access) -> int:
    """The host address of guest memory that the guest may use so, 0 for its NULL. Raises MemoryFault."""
    if not address:
        return 0
    memory.check(address, size, access)
    return memory.host_address + address
