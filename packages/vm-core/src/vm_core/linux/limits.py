"""The resource limits of a guest process: getrlimit(2), setrlimit(2), prlimit(2).

What a limit is about decides who keeps it. Descriptors, address space and processes are the guest's own, and vm counts
them; the size of files is the host's to refuse, as it makes the files; processor time is what the host's process has used,
at which vm looks. Limits are the guest's from its first one on: they begin as a login shell has them, not as the host's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import struct
import time

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.lengths import limit_lengths
from vm_core.linux.abi import MASK64, SigInfo, s32
from vm_core.linux.time import IntervalTimer
from vm_core.memory import PAGE, Prot, page_up

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = [
    "AS",
    "CPU",
    "DATA",
    "FSIZE",
    "MSGQUEUE",
    "NOFILE",
    "NPROC",
    "STACK",
    "first_limits",
    "forked",
    "has_room",
    "may_start",
    "soft",
]

CPU, FSIZE, DATA, STACK, CORE, NPROC, NOFILE, AS, MSGQUEUE = 0, 1, 2, 3, 4, 6, 7, 9, 12
"""RLIMIT_*, in asm-generic/resource.h and on all three ISAs."""
INFINITY: Final = MASK64
_COUNT: Final = 16
_MOST_FILES: Final = 4096
_PAIR: Final = struct.Struct("<QQ")
_SIGKILL, _SIGXCPU = 9, 24
_KERNEL: Final = 0x80


def first_limits(stack_bytes: int, most_processes: int | None) -> dict[int, tuple[int, int]]:
    """What a guest begins with: soft and hard; without an entry there is none."""
    limits = {
        STACK: (stack_bytes, INFINITY),
        NOFILE: (1024, _MOST_FILES),
        CORE: (0, INFINITY),
        MSGQUEUE: (819_200, 819_200),
    }
    if most_processes is not None:
        limits[NPROC] = (most_processes, most_processes)
    return limits


def soft(process: Process, which: int) -> int:
    """The limit that counts."""
    return process.limits.get(which, (INFINITY, INFINITY))[0]


def prlimit64(t: GuestThread, pid: int, which: int, new: int, old: int) -> int:
    which, pid = s32(which), s32(pid)
    process = t.process
    if not 0 <= which < _COUNT:
        return -errno.EINVAL
    wanted = _PAIR.unpack(t.memory.read(new, _PAIR.size)) if new else None
    if pid not in (0, process.pid):
        return -errno.EPERM if process.knows(pid) else -errno.ESRCH
    before = process.limits.get(which, (INFINITY, INFINITY))
    if wanted is not None:
        if wanted[0] > wanted[1]:
            return -errno.EINVAL
        if wanted[1] > before[1]:
            return -errno.EPERM
        if which == NOFILE and wanted[1] > _MOST_FILES:
            return -errno.EPERM
    if old:
        t.memory.write(old, _PAIR.pack(*before))
    if wanted is not None:
        process.limits[which] = wanted
        _act(t, which)
    return 0


def getrlimit(t: GuestThread, which: int, result: int) -> int:
    if 0 <= s32(which) < _COUNT and not result:
        return -errno.EFAULT
    return prlimit64(t, 0, which, 0, result)


def setrlimit(t: GuestThread, which: int, new: int) -> int:
    if not new:
        return -errno.EFAULT
    return prlimit64(t, 0, which, new, 0)


def _act(t: GuestThread, which: int) -> None:
    process = t.process
    limit = soft(process, which)
    if which == NOFILE:
        t.files.limit = min(limit, _MOST_FILES)
    elif which == FSIZE:
        _limit_files(process, limit)
    elif which == CPU:
        _watch_time(process)


# -- files ------------------------------------------------------------------------------------------------------


def _limit_files(process: Process, limit: int) -> None:
    """The host refuses a longer file (EFBIG). Not where the host process is not the guest's own."""
    if not process.owns_host:
        return
    process.found_family()  # a file itself, which is longer
    limit_lengths(resource.RLIM_INFINITY if limit >= 1 << 63 else limit)


def files_unlimited(process: Process) -> None:
    """The guest is over: what vm itself still writes is as long as it needs to be."""
    if process.owns_host and FSIZE in process.limits:
        with contextlib.suppress(OSError, ValueError):
            limit_lengths(resource.RLIM_INFINITY)


# -- processor time -----------------------------------------------------------------------------------------------


def _watch_time(process: Process) -> None:
    """At the soft limit, and each second from then on, SIGXCPU; at the hard one the end."""
    first, last = process.limits.get(CPU, (INFINITY, INFINITY))
    timer = process.cpu_timers.pop(-1, None)
    if timer is not None:
        timer.set(0.0, 0.0)
    if first == INFINITY and last == INFINITY:
        return

    def over() -> None:
        used = time.process_time()
        if used >= last:
            process.end("signal", signal=_SIGKILL, message="killed by SIGKILL: out of processor time")
            return
        if used >= first:
            process.send(SigInfo(_SIGXCPU, _KERNEL))

    timer = IntervalTimer(process, over, time.process_time)
    process.cpu_timers[-1] = timer
    timer.set(max(min(first, last) - time.process_time(), 0.001), 1.0)


def forked(process: Process) -> None:
    """In the child of a fork: it has used no time yet."""
    if CPU in process.limits:
        _watch_time(process)


# -- memory -------------------------------------------------------------------------------------------------------


def has_room(process: Process, length: int, prot: int, *, shared: bool = False, instead: int = 0) -> bool:
    """Whether so many bytes more may be mapped with these permissions; ``instead`` of so many that are."""
    limits = process.limits
    if AS not in limits and DATA not in limits:
        return True
    extra = page_up(length) - instead
    if extra <= 0:
        return True
    regions = list(process.memory.regions())
    total = sum(region.end - region.start for region in regions)
    if total + extra > soft(process, AS):
        return False
    if shared or not prot & Prot.WRITE:
        return True
    data = sum(
        region.end - region.start
        for region in regions
        if not region.shared and region.prot & Prot.WRITE and region.name != "[stack]"
    )
    return data + extra <= soft(process, DATA)


def stack_bytes(process: Process, default: int) -> int:
    """The size of the next program's stack."""
    limit = soft(process, STACK)
    return default if limit >= 1 << 40 else max(page_up(limit), 32 * PAGE)


# -- processes ----------------------------------------------------------------------------------------------------


def may_start(process: Process) -> bool:
    """Whether there may be one more process or thread. As on Linux, NPROC does not hold for root."""
    limit = soft(process, NPROC)
    if limit == INFINITY or (os.getuid() == 0 and process.max_processes is None):
        return True
    others = 0 if process.family is None else process.family.size() - 1
    return others + len(process.threads) < limit
