"""Identity, limits and other small calls, and the start and end of threads."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
import time

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32
from vm_core.linux.native import Constant
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["Parked", "Scheduling", "ThreadEnd", "new_thread"]

_FD: Final = 0xFFFF_FFFF
_CLONE_SETTLS, _CLONE_PARENT_SETTID = 0x80000, 0x100000
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x200000, 0x1000000


_libc = ctypes.CDLL(None, use_errno=True)
_yield = _libc.sched_yield
_yield.argtypes = []


class Scheduling:
    """What a thread has asked for. A thread that it starts begins with the same, and it stays over execve."""

    __slots__ = ("affinity", "ioprio", "policy", "reset", "slack")

    def __init__(self) -> None:
        self.policy = 0
        self.reset = False
        self.affinity = 0
        """The processors it may use, as bits; 0: all that the guest has."""
        self.ioprio = 0
        self.slack = 50_000

    def child(self) -> Scheduling:
        made = Scheduling()
        made.affinity, made.ioprio, made.slack = self.affinity, self.ioprio, self.slack
        made.policy = 0 if self.reset else self.policy
        return made


class ThreadEnd(BaseException):
    """Unwinds a guest thread's run loop. Never leaves it."""


class Parked(BaseException):
    """Unwinds a system call that has to wait, of a guest thread that a Host runs. It is made again, from its start, when
    the thread has been woken, one of ``wanted`` (host descriptor, poll events) is ready or it is ``deadline`` (seconds
    of time.monotonic)."""

    def __init__(self, deadline: float | None, wanted: list[tuple[int, int]]) -> None:
        super().__init__()
        self.deadline = deadline
        self.wanted = wanted


def nosys(_t: GuestThread) -> int:
    """For rows that the C libraries probe and do without."""
    return -errno.ENOSYS


def denied(_t: GuestThread) -> int:
    return -errno.EPERM


_NAMESPACES: Final = 0x7E02_0080
_OF_THREADS: Final = 0x0001_0900
"""CLONE_THREAD, SIGHAND and VM."""
_OF_TASKS: Final = 0x0004_0600
"""CLONE_FS, FILES and SYSVSEM."""


def unshare(t: GuestThread, flags: int) -> int:
    """A process with one thread shares nothing."""
    alone = len(t.process.threads_snapshot()) == 1
    if flags & ~(_NAMESPACES | _OF_THREADS | _OF_TASKS) or (flags & _OF_THREADS and not alone):
        return -errno.EINVAL
    return -errno.EPERM if flags & _NAMESPACES or (flags & _OF_TASKS and not alone) else 0


def unsupported(_t: GuestThread) -> int:
    return -errno.EOPNOTSUPP


def invalid(_t: GuestThread) -> int:
    return -errno.EINVAL


def exit_(t: GuestThread, code: int) -> int:
    t.exit_code = code & 0xFF
    raise ThreadEnd


def exit_group(t: GuestThread, code: int) -> int:
    t.process.end("exit", code=code & 0xFF)
    raise ThreadEnd


def new_thread(t: GuestThread, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> int:
    """A thread of the same process (clone with CLONE_THREAD)."""
    memory = t.memory
    if flags & _CLONE_PARENT_SETTID:
        memory.check(parent_tid, 4, Access.WRITE)
    if flags & _CLONE_CHILD_SETTID:
        memory.check(child_tid, 4, Access.WRITE)
    cpu = t.cpu.copy()
    words = cpu.words
    words[t.abi.result_word] = 0
    if stack:
        words[t.abi.stack_word] = stack
    if flags & _CLONE_SETTLS and t.abi.thread_word >= 0:
        words[t.abi.thread_word] = tls
    cpu.header("reservation", (1 << 64) - 1)
    child = t.process.new_thread(cpu)
    if child is None:
        return -errno.EAGAIN
    child.mask = t.mask
    child.scheduling = t.scheduling.child()
    if flags & _CLONE_CHILD_CLEARTID:
        child.clear_child_tid = child_tid
    if flags & _CLONE_PARENT_SETTID:
        memory.store(parent_tid, 4, child.tid)
    if flags & _CLONE_CHILD_SETTID:
        memory.store(child_tid, 4, child.tid)
    if not t.process.start_thread(child):
        return -errno.EAGAIN
    return child.tid


# -- identity ---------------------------------------------------------------------------------------------------


def getpid(t: GuestThread) -> int:
    return t.process.pid


def getppid(t: GuestThread) -> int:
    process = t.process
    if not process.forked:
        return 1
    parent, family = os.getppid(), process.family
    known = parent == process.native.words[Constant.PARENT] or (family is not None and family.has(parent))
    return parent if known else 1  # an orphan's is init


def gettid(t: GuestThread) -> int:
    return t.tid


def _member(t: GuestThread, pid: int) -> int:
    """The host's pid of a process of the guest, 0 being the caller. Raises OSError."""
    pid = s32(pid)
    process = t.process
    if pid in (0, process.pid):
        return process.pid
    if pid in process.children or (process.family is not None and process.family.has(pid)):
        return pid
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def has_group(process: Process, group: int) -> bool:
    """Whether a process of the guest is in a process group."""
    members = [process.pid] if process.family is None else process.family.members()
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(member) == group:
                return True
    return False


def getpgid(t: GuestThread, pid: int) -> int:
    return os.getpgid(_member(t, pid))


def getpgrp(_t: GuestThread) -> int:
    return os.getpgid(0)


def setpgid(t: GuestThread, pid: int, group: int) -> int:
    if (s32(group) or s32(pid)) < 0:
        return -errno.EINVAL
    member, group = _member(t, pid), s32(group)
    if not t.process.owns_host:
        return 0 if group in (0, t.process.pid, os.getpgid(0)) else -errno.EPERM
    os.setpgid(member, group)
    return 0


def getsid(t: GuestThread, pid: int) -> int:
    return os.getsid(_member(t, pid))


def setsid(t: GuestThread) -> int:
    if not t.process.owns_host:
        return t.process.pid
    os.setsid()
    return t.process.pid


def uname(t: GuestThread, result: int) -> int:
    process = t.process
    fields = ("Linux", "vm", process.release, process.version, t.abi.machine, "(none)")
    t.memory.write(result, b"".join(os.fsencode(field)[:64].ljust(65, b"\0") for field in fields))
    return 0


def arch_prctl(t: GuestThread, code: int, address: int) -> int:
    """ARCH_SET_FS and ARCH_GET_FS of x86-64."""
    if t.abi.thread_word < 0:
        return -errno.EINVAL
    if code == 0x1002:
        t.cpu.words[t.abi.thread_word] = address
        return 0
    if code == 0x1003:
        t.memory.store(address, 8, t.cpu.words[t.abi.thread_word])
        return 0
    return -errno.EINVAL


# -- resources --------------------------------------------------------------------------------------------------

_USAGE: Final = (
    "ru_maxrss", "ru_ixrss", "ru_idrss", "ru_isrss", "ru_minflt", "ru_majflt", "ru_nswap", "ru_inblock", "ru_oublock",
    "ru_msgsnd", "ru_msgrcv", "ru_nsignals", "ru_nvcsw", "ru_nivcsw",
)  # fmt: skip


def getrusage(t: GuestThread, who: int, result: int) -> int:
    who = s32(who)
    if who not in (0, 1, -1):
        return -errno.EINVAL
    used = resource.getrusage(who)
    times: list[int] = []
    for seconds in (used.ru_utime, used.ru_stime):
        times.extend((int(seconds), int(seconds % 1 * 1_000_000)))
    rest = [getattr(used, name) for name in _USAGE]
    if who != -1:
        rest[0] = t.memory.peak >> 10
    t.memory.write(result, struct.pack("<18q", *times, *rest))
    return 0


def sysinfo(t: GuestThread, result: int) -> int:
    memory = t.memory
    total = memory.limit or memory.size
    free = max(total - memory.committed, 0)
    threads = len(t.process.threads)
    # uptime, loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap, procs, pad, totalhigh, ...
    out = struct.pack(
        "<q3Q6QHHIQQI", int(time.monotonic()), 0, 0, 0, total, free, 0, 0, 0, 0, threads, 0, 0, 0, 0, 1
    )
    t.memory.write(result, out.ljust(112, b"\0"))
    return 0


def getrandom(t: GuestThread, address: int, count: int, flags: int) -> int:
    # GRND_NONBLOCK, and one of GRND_RANDOM and GRND_INSECURE.
    if flags & 0xFFFF_FFFF & ~7 or flags & 6 == 6:
        return -errno.EINVAL
    count = min(count, 1 << 20)
    t.memory.write(address, os.urandom(count))
    return count


def sched_yield(t: GuestThread) -> int:
    if t.process.host is not None:
        t.attention = True  # ends its slice
        return 0
    # Not os.sched_yield, which keeps the GIL, nor a sleep of 0, which may be a long one.
    # SAFETY: no pointers.
    _yield()
    return 0


def sched_zero(_t: GuestThread) -> int:
    return 0


_SYS_MEMBARRIER: Final = 324 if os.uname().machine == "x86_64" else 283


def membarrier(_t: GuestThread, command: int, flags: int, _cpu: int) -> int:
    """The host's own, without the per-CPU and rseq forms: guest threads are host threads."""
    command = s32(command)
    if command & ~0x1F or flags & 0xFFFF_FFFF:
        return -errno.EINVAL
    # SAFETY: membarrier takes three integers and touches no memory.
    result = _libc.syscall(
        ctypes.c_long(_SYS_MEMBARRIER), ctypes.c_int(command), ctypes.c_uint(0), ctypes.c_int(0)
    )
    if result < 0:
        return -ctypes.get_errno()
    return int(result) & 0x1F


# -- RISC-V -----------------------------------------------------------------------------------------------------


def riscv_flush_icache(t: GuestThread, start: int, end: int, _flags: int) -> int:
    # PERF: defined for a range of addresses. The kernel takes it for all, which a Java that compiles asks for 10,000 times.
    if start < end:
        t.process.engine.synchronize(t.memory, start, end)
    else:
        t.process.engine.synchronize(t.memory)
    return 0
