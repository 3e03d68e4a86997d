"""Identity, limits and other small calls, and the start and end of threads."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import time
from typing import TYPE_CHECKING, Final

from vm_core.linux.abi import s32
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["Parked", "ThreadEnd", "new_thread"]

_FD: Final = 0xFFFF_FFFF
_CLONE_SETTLS, _CLONE_PARENT_SETTID = 0x80000, 0x100000
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x200000, 0x1000000


_libc = ctypes.CDLL(None, use_errno=True)
_yield = _libc.sched_yield
_yield.argtypes = []


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
    return os.getppid() if t.process.forked else 1


def gettid(t: GuestThread) -> int:
    return t.tid


def getuid(_t: GuestThread) -> int:
    return os.getuid()


def getgid(_t: GuestThread) -> int:
    return os.getgid()


def set_id(_t: GuestThread, wanted: int) -> int:
    """setuid and setgid to what the guest is already."""
    return 0 if s32(wanted) in (-1, os.getuid(), os.getgid()) else -errno.EPERM


def set_ids(t: GuestThread, first: int, second: int, third: int) -> int:
    for wanted in (first, second, third):
        if set_id(t, wanted):
            return -errno.EPERM
    return 0


def getresuid(t: GuestThread, first: int, second: int, third: int) -> int:
    for address in (first, second, third):
        t.memory.store(address, 4, os.getuid())
    return 0


def getresgid(t: GuestThread, first: int, second: int, third: int) -> int:
    for address in (first, second, third):
        t.memory.store(address, 4, os.getgid())
    return 0


def getgroups(t: GuestThread, size: int, result: int) -> int:
    if not size:
        return 1
    t.memory.store(result, 4, os.getgid())
    return 1


def _member(t: GuestThread, pid: int) -> int:
    """The host's pid of a process of the guest, 0 being the caller. Raises OSError."""
    pid = s32(pid)
    process = t.process
    if pid in (0, process.pid):
        return process.pid
    if pid in process.children or (process.family is not None and process.family.has(pid)):
        return pid
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def getpgid(t: GuestThread, pid: int) -> int:
    return os.getpgid(_member(t, pid))


def getpgrp(_t: GuestThread) -> int:
    return os.getpgid(0)


def setpgid(t: GuestThread, pid: int, group: int) -> int:
    member, group = _member(t, pid), s32(group)
    if group < 0:
        return -errno.EINVAL
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


def prctl(t: GuestThread, option: int, first: int) -> int:
    option = s32(option)
    if option == 15:
        try:
            t.name = t.memory.read_cstring(first, 16)[:15]
        except ValueError:  # longer: cut, as Linux does
            t.name = t.memory.read(first, 15)
        return 0
    if option == 16:
        t.memory.write(first, t.name.ljust(16, b"\0"))
        return 0
    if option in (3, 39):
        return 1 if option == 3 else t.process.no_new_privileges
    if option == 38:
        t.process.no_new_privileges = 1
        return 0
    if option == 2:
        t.memory.store(first, 4, 0)
        return 0
    if option in (1, 4, 29, 36, 0x53564D41):
        return 0
    return -errno.EINVAL


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

_INFINITY: Final = (1 << 64) - 1


def prlimit64(t: GuestThread, pid: int, which: int, new: int, old: int) -> int:
    which = s32(which)
    if s32(pid) not in (0, t.process.pid):
        return -errno.ESRCH
    if not 0 <= which < 16:
        return -errno.EINVAL
    limits = t.process.limits
    before = limits.get(which, (_INFINITY, _INFINITY))
    wanted = struct.unpack("<QQ", t.memory.read(new, 16)) if new else None
    if old:
        t.memory.write(old, struct.pack("<QQ", *before))
    if wanted is not None:
        if wanted[0] > wanted[1]:
            return -errno.EINVAL
        if wanted[1] > before[1]:
            return -errno.EPERM
        limits[which] = wanted
        if which == 7:
            t.files.limit = min(wanted[0], 4096)
    return 0


def getrlimit(t: GuestThread, which: int, result: int) -> int:
    return prlimit64(t, 0, which, 0, result)


def setrlimit(t: GuestThread, which: int, new: int) -> int:
    return prlimit64(t, 0, which, new, 0)


def getrusage(t: GuestThread, who: int, result: int) -> int:
    who = s32(who)
    if who not in (0, 1, -1):
        return -errno.EINVAL
    used = resource.getrusage(resource.RUSAGE_SELF)
    times: list[int] = []
    for seconds in (used.ru_utime, used.ru_stime) if who != -1 else (0.0, 0.0):
        times.extend((int(seconds), int(seconds % 1 * 1_000_000)))
    t.memory.write(result, struct.pack("<18q", *times, t.memory.peak >> 10, *([0] * 13)))
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


def getrandom(t: GuestThread, address: int, count: int, _flags: int) -> int:
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


def sched_getaffinity(t: GuestThread, _tid: int, size: int, result: int) -> int:
    cpus = t.process.cpus
    length = (cpus + 63) // 64 * 8
    if size < length:
        return -errno.EINVAL
    t.memory.write(result, ((1 << cpus) - 1).to_bytes(length, "little"))
    return length


def sched_setaffinity(_t: GuestThread, _tid: int, _size: int, _mask: int) -> int:
    return 0


def sched_getparam(t: GuestThread, _tid: int, result: int) -> int:
    t.memory.store(result, 4, 0)
    return 0


def sched_zero(_t: GuestThread) -> int:
    return 0


def getpriority(_t: GuestThread, _which: int, _who: int) -> int:
    return 20  # the kernel's way to say 0: 20 less the nice value


def setpriority(_t: GuestThread, _which: int, _who: int, _value: int) -> int:
    return 0


def getcpu(t: GuestThread, cpu: int, node: int) -> int:
    for address in (cpu, node):
        if address:
            t.memory.store(address, 4, 0)
    return 0


_SYS_MEMBARRIER: Final = 324 if os.uname().machine == "x86_64" else 283


def membarrier(_t: GuestThread, command: int, _flags: int, _cpu: int) -> int:
    """The host's own, without the per-CPU and rseq forms: guest threads are host threads."""
    command = s32(command)
    if command & ~0x1F:
        return -errno.EINVAL
    # SAFETY: membarrier takes three integers and touches no memory.
    result = _libc.syscall(
        ctypes.c_long(_SYS_MEMBARRIER), ctypes.c_int(command), ctypes.c_uint(0), ctypes.c_int(0)
    )
    if result < 0:
        return -ctypes.get_errno()
    return int(result) & 0x1F


# -- RISC-V -----------------------------------------------------------------------------------------------------


def riscv_flush_icache(t: GuestThread, _start: int, _end: int, _flags: int) -> int:
    t.process.engine.synchronize(t.memory)
    return 0
