"""The child processes of a guest, and the calls that wait for them.

A child's end is seen on its pidfd, its stops by SIGCHLD: a wait blocks in neither, so a signal, a timeout or the end of the
process gets through. Only the guest's own children are ever waited for, not what vm has started for itself.

wait4(2), waitid(2), pidfd_open(2), pidfd_send_signal(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from collections.abc import Callable

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import SigInfo, s32
from vm_core.linux.files import EMULATED, RESTART, STREAM, File
from vm_core.linux.hostthread import wait_until
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["Child", "PidFile", "children_changed"]

SIGCHLD: Final = 17
_NOHANG, _STOPPED, _EXITED, _CONTINUED, _NOWAIT = 1, 2, 4, 8, 0x0100_0000
_OTHERS: Final = 0x2000_0000 | 0x4000_0000 | 0x8000_0000
"""__WNOTHREAD, __WALL and __WCLONE: all threads wait for all children."""
_P_ALL, _P_PID, _P_PGID, _P_PIDFD = range(4)
_OVER: Final = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
_IGNORE: Final = 1
_NOCLDSTOP, _NOCLDWAIT = 1, 2
_TELLING_SECONDS: Final = 0.2


class Child:
    """A child process that has not been waited for. ``fd`` is its pidfd; ``signal`` what its end sends (0: nothing)."""

    __slots__ = ("fd", "group", "pid", "said", "signal", "telling")

    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        self.signal = number
        self.fd = os.pidfd_open(pid)
        self.said: tuple[int, int] | None = None
        """si_code and si_status that the last SIGCHLD was about."""
        self.telling = False
        """Whether that SIGCHLD is on its way to the guest."""

    @property
    def over(self) -> bool:
        """Whether the last SIGCHLD was about its end."""
        return self.said is not None and self.said[0] in _OVER

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class PidFile(File):
    """The guest's pidfd of a process."""

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        super().__init__(os.pidfd_open(pid), 2, path="anon_inode:[pidfd]", kind=STREAM)
        self.pid = pid


def _automatic(process: Process) -> bool:
    """Whether children that end are forgotten at once, as the disposition of SIGCHLD asks."""
    action = process.signals.action(SIGCHLD)
    return action.handler == _IGNORE or bool(action.flags & _NOCLDWAIT)


def _adopt(process: Process) -> None:
    """Orphans below a subreaper are its children: find those that the host has given it."""
    for pid in process.family.members() if process.subreaper and process.family is not None else ():
        if pid != process.pid and pid not in process.children:
            # Somebody else's raises ChildProcessError.
            with contextlib.suppress(OSError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                process.children[pid] = Child(pid, SIGCHLD)


def children_changed(process: Process) -> bool:
    """The host has sent SIGCHLD: tell the guest about its children. False if none of them has changed."""
    found = False
    _adopt(process)
    for child in list(process.children.values()):
        found |= _changed(process, child)
    if found:
        process.child_events += 1
        for thread in process.threads_snapshot():
            thread.wake()
    return found


def _changed(process: Process, child: Child) -> bool:
    """Tell the guest of what has become of a child, if that is news."""
    # Another thread may be about to reap it. A handler of Python's may come in between: the lock is reentrant.
    with process.host_signals.looking:
        try:
            seen = os.waitid(
                os.P_PID, child.pid, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT
            )
        except ChildProcessError:
            return False
        if seen is None or child.said == (seen.si_code, seen.si_status):
            return False
        child.said, child.telling = (seen.si_code, seen.si_status), True
    try:
        if process.tracer is not None and seen.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
            process.tracer.child_over(child.pid, seen.si_status, reaped=False)
        number = child.signal if child.over else SIGCHLD
        if number and (child.over or not process.signals.action(SIGCHLD).flags & _NOCLDSTOP):
            process.send(SigInfo(number, seen.si_code, pid=child.pid, uid=seen.si_uid, value=seen.si_status))
    finally:
        child.telling = False
    return True


def forget(process: Process, child: Child) -> None:
    """The child has been waited for."""
    process.children.pop(child.pid, None)
    child.close()


def _reap(process: Process, child: Child, options: int) -> tuple[int, object] | None:
    """The host's wait status and resource usage of a child that has something to say; it is consumed."""
    family = process.family
    if family is not None:
        over = options & _EXITED and select_ready(child.fd)
        if (over and not child.over) or options & (_STOPPED | _CONTINUED):
            _changed(process, child)  # or nobody would tell the guest any more
        # Another thread may be at it: the signal comes before the wait for what it tells of is over. It may not be waited for with the
        # lock, which a handler of Python's takes with others held.
        wait_until(lambda: not child.telling, _TELLING_SECONDS)
        if over:
            family.forget(child.pid)  # before the host may give the pid to somebody else
    try:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG | options & (_STOPPED | _CONTINUED))
    except ChildProcessError:
        forget(process, child)
        return None
    if not pid:
        return None
    if not os.WIFSTOPPED(status) and not os.WIFCONTINUED(status):
        forget(process, child)
        if process.tracer is not None:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            process.tracer.child_over(child.pid, number, reaped=True)
    return status, usage


def select_ready(fd: int) -> bool:
    """Whether a pidfd's process is over."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _wait(
    t: GuestThread, wanted: Callable[[Child], bool], options: int, look: Callable[[Child], bool]
) -> int:
    """Wait until ``look`` has done what there is to do with a child: its pid; 0 for none with WNOHANG; a negative errno."""
    process, interrupted = t.process, False
    while True:
        seen = process.child_events
        _adopt(process)
        mine = [child for child in list(process.children.values()) if wanted(child)]
        if not mine:
            return -errno.ECHILD
        for child in mine:
            pid = child.pid
            if options & _EXITED and _automatic(process) and select_ready(child.fd):
                _reap(process, child, _EXITED)
                break
            if look(child):
                return pid
        else:
            if options & _NOHANG:
                return 0
            if interrupted:
                return RESTART
            events = [(child.fd, select.POLLIN) for child in mine] if options & _EXITED else []
            # As on Linux: what the signal tells of, its handler need not end the wait for.
            ready = t.poll(events, None, lambda: process.child_events != seen)  # noqa: B023 - called before the next round
            interrupted = ready is None


def _selector(t: GuestThread, pid: int) -> Callable[[Child], bool]:
    """wait4's first argument."""
    if pid > 0:
        return lambda child: child.pid == pid
    if pid == -1:
        return lambda _child: True
    group = os.getpgid(0) if not pid else -pid

    def same(child: Child) -> bool:
        try:
            return os.getpgid(child.pid) == group
        except OSError:
            return False

    return same


def wait4(t: GuestThread, pid: int, status: int, options: int, usage: int) -> int:
    options &= 0xFFFF_FFFF
    if options & ~(_NOHANG | _STOPPED | _CONTINUED | _OTHERS):
        return -errno.EINVAL
    pid = s32(pid)
    if pid == -(1 << 31):
        return -errno.ESRCH
    memory = t.memory
    if status:
        memory.check(status, 4, Access.WRITE)
    if usage:
        memory.check(usage, 144, Access.WRITE)

    def look(child: Child) -> bool:
        found = _reap(t.process, child, options | _EXITED)
        if found is None:
            return False
        if status:
            memory.store(status, 4, found[0])
        if usage:
            memory.write(usage, _rusage(found[1]))
        return True

    return _wait(t, _selector(t, pid), options | _EXITED, look)


def _rusage(usage: object) -> bytes:
    """struct rusage of what the host says."""
    times = []
    for seconds in (usage.ru_utime, usage.ru_stime):  # type: ignore[attr-defined]
        times += [int(seconds), int(seconds % 1 * 1_000_000)]
    rest = [getattr(usage, name) for name in _USAGE]
    return struct.pack("<18q", *times, *rest)


_USAGE: Final = (
    "ru_maxrss", "ru_ixrss", "ru_idrss", "ru_isrss", "ru_minflt", "ru_majflt", "ru_nswap", "ru_inblock", "ru_oublock",
    "ru_msgsnd", "ru_msgrcv", "ru_nsignals", "ru_nvcsw", "ru_nivcsw",
)  # fmt: skip


def waitid(t: GuestThread, kind: int, which: int, info: int, options: int, usage: int) -> int:
    options &= 0xFFFF_FFFF
    kind, number = s32(kind), s32(which)
    if options & ~(_NOHANG | _STOPPED | _EXITED | _CONTINUED | _NOWAIT | _OTHERS) or not options & (
        _STOPPED | _EXITED | _CONTINUED
    ):
        return -errno.EINVAL
    if kind == _P_ALL:
        wanted = _selector(t, -1)
    elif kind == _P_PID and number > 0:
        wanted = _selector(t, number)
    elif kind == _P_PGID and number >= 0:
        wanted = _selector(t, -number)
        if number == 1:
            return -errno.ECHILD
    elif kind == _P_PIDFD and number >= 0:
        file = t.table.get(number)
        if not isinstance(file, PidFile):
            return -errno.EBADF
        wanted = _selector(t, file.pid)
        if file.flags & 0o4000:
            options |= _NOHANG
    else:
        return -errno.EINVAL
    memory = t.memory
    if info:
        memory.check(info, 128, Access.WRITE)
    kinds = options & (_STOPPED | _EXITED | _CONTINUED)

    def look(child: Child) -> bool:
        try:
            found = os.waitid(os.P_PID, child.pid, kinds | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            forget(t.process, child)
            return False
        if found is None:
            return False
        used: object = None
        if not options & _NOWAIT:
            reaped = _reap(t.process, child, kinds)
            used = None if reaped is None else reaped[1]
        if info:
            said = SigInfo(SIGCHLD, found.si_code, pid=found.si_pid, uid=found.si_uid, value=found.si_status)
            memory.write(info, said.pack())
        if usage and used is not None:
            memory.write(usage, _rusage(used))
        return True

    result = _wait(t, wanted, options, look)
    if result == 0 and info:
        memory.write(info, bytes(128))
    return min(result, 0)


# -- pidfds -----------------------------------------------------------------------------------------------------


def _known(process: Process, pid: int) -> bool:
    return (
        pid == process.pid
        or pid in process.children
        or (process.family is not None and process.family.has(pid))
    )


def pidfd_open(t: GuestThread, pid: int, flags: int) -> int:
    pid = s32(pid)
    if pid <= 0 or flags & 0xFFFF_FFFF & ~0o4200:
        return -errno.EINVAL
    if not _known(t.process, pid):
        return -errno.ESRCH
    file = PidFile(pid)
    if pid != t.process.pid and not _known(t.process, pid):
        t.files.release(file)  # it ended, and the pid is another's
        return -errno.ESRCH
    file.flags |= flags & 0o4000
    return t.files.add(file, cloexec=True)


def pidfd_send_signal(t: GuestThread, fd: int, number: int, info: int, flags: int) -> int:
    from vm_core.linux import signal

    file = t.table.get(fd & 0xFFFF_FFFF)
    if flags & 0xFFFF_FFFF:
        return -errno.EINVAL
    if file is not None and file.kind == EMULATED:
        # As since Linux 5.1, before there was pidfd_open: a directory /proc/PID stands for its process.
        top, _, name = file.path.rpartition("/")
        if top != "/proc" or not name.isdecimal():
            return -errno.EBADF
        pid = int(name)
        if info:
            return signal.rt_sigqueueinfo(t, pid, number, info)
        return signal.kill(t, pid, number)
    if not isinstance(file, PidFile):
        return -errno.EBADF
    if select_ready(file.fd) and file.pid not in t.process.children:
        return -errno.ESRCH
    if info:
        return signal.rt_sigqueueinfo(t, file.pid, number, info)
    return signal.kill(t, file.pid, number)
