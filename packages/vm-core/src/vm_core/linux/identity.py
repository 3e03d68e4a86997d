"""Who a process is and what it may: user and group ids, capabilities, and how it is scheduled.

Ids are the host's: a guest process that is a host process of its own may change them as far as the host lets it. How it
is scheduled is kept here and shown to the guest, for the host's processors are not the guest's to share out; only its nice
value is real.

credentials(7), capabilities(7), sched(7), ioprio_set(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable
from functools import cache

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32
from vm_core.linux.host import call as host_call
from vm_core.linux.native import Constant
from vm_core.linux.system import has_group

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__: list[str] = []

_ALL: Final = 0xFFFF_FFFF

# -- ids --------------------------------------------------------------------------------------------------------


def getuid(_t: GuestThread) -> int:
    return os.getuid()


def geteuid(_t: GuestThread) -> int:
    return os.geteuid()


def getgid(_t: GuestThread) -> int:
    return os.getgid()


def getegid(_t: GuestThread) -> int:
    return os.getegid()


def _id(number: int) -> int:
    """A uid_t or gid_t; all ones, which changes nothing, is -1."""
    number &= _ALL
    return -1 if number == _ALL else number


def _change(t: GuestThread, own: frozenset[int], wanted: tuple[int, ...], action: Callable[[], None]) -> int:
    """Change ids of the host process, if that is the guest's; elsewhere only what changes nothing may be asked."""
    if not t.process.owns_host:
        return 0 if all(number in own or number == -1 for number in wanted) else -errno.EPERM
    if any(number not in own for number in wanted if number != -1):
        _load_late()
    action()
    words = t.process.native.words
    words[Constant.UID], words[Constant.EUID] = os.getuid(), os.geteuid()
    words[Constant.GID], words[Constant.EGID] = os.getgid(), os.getegid()
    return 0


_LATE: Final = (
    "hashlib", "json", "logging", "resource", "select", "shutil", "signal", "socket", "subprocess", "tempfile", "traceback",
)  # fmt: skip
"""What the modules of vm load of Python's when they need it."""


@cache
def _load_late() -> None:
    """Load now what is loaded when it is needed, if another user could not: Python may be installed in somebody's home."""
    import vm_core

    places = {os.path.dirname(os.__file__), os.path.dirname(vm_core.__file__)}
    if all(_is_for_all(place) for place in places):
        return
    import importlib
    import pkgutil

    names = list(_LATE)
    for package in ("vm_core.linux", "vm_jit"):
        if package in sys.modules:
            path = sys.modules[package].__path__
            names += [f"{package}.{found.name}" for found in pkgutil.iter_modules(path)]
    for name in names:
        # Without llvmlite, some are not to be had: then they are not needed either.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _is_for_all(place: str) -> bool:
    """Whether every user can read in a directory of the host."""
    while True:
        if os.stat(place).st_mode & 0o005 != 0o005:
            return False
        if place == "/":
            return True
        place = os.path.dirname(place)


def _users() -> frozenset[int]:
    return frozenset(os.getresuid())


def _groups() -> frozenset[int]:
    return frozenset(os.getresgid())


def setuid(t: GuestThread, uid: int) -> int:
    wanted = _id(uid)
    if wanted < 0:
        return -errno.EINVAL
    return _change(t, _users(), (wanted,), lambda: os.setuid(wanted))


def setgid(t: GuestThread, gid: int) -> int:
    wanted = _id(gid)
    if wanted < 0:
        return -errno.EINVAL
    return _change(t, _groups(), (wanted,), lambda: os.setgid(wanted))


def setreuid(t: GuestThread, real: int, effective: int) -> int:
    wanted = _id(real), _id(effective)
    return _change(t, _users(), wanted, lambda: os.setreuid(*wanted))


def setregid(t: GuestThread, real: int, effective: int) -> int:
    wanted = _id(real), _id(effective)
    return _change(t, _groups(), wanted, lambda: os.setregid(*wanted))


def setresuid(t: GuestThread, real: int, effective: int, saved: int) -> int:
    wanted = _id(real), _id(effective), _id(saved)
    return _change(t, _users(), wanted, lambda: os.setresuid(*wanted))


def setresgid(t: GuestThread, real: int, effective: int, saved: int) -> int:
    wanted = _id(real), _id(effective), _id(saved)
    return _change(t, _groups(), wanted, lambda: os.setresgid(*wanted))


def setfsuid(_t: GuestThread, _uid: int) -> int:
    """Returns the id before, whether or not it changed: that is how the call is made to fail."""
    return os.geteuid()


def setfsgid(_t: GuestThread, _gid: int) -> int:
    return os.getegid()


def getresuid(t: GuestThread, real: int, effective: int, saved: int) -> int:
    for address, number in zip((real, effective, saved), os.getresuid(), strict=True):
        t.memory.store(address, 4, number)
    return 0


def getresgid(t: GuestThread, real: int, effective: int, saved: int) -> int:
    for address, number in zip((real, effective, saved), os.getresgid(), strict=True):
        t.memory.store(address, 4, number)
    return 0


def getgroups(t: GuestThread, size: int, result: int) -> int:
    size = s32(size)
    if size < 0:
        return -errno.EINVAL
    groups = os.getgroups()
    if size:
        if size < len(groups):
            return -errno.EINVAL
        t.memory.write(result, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


def setgroups(t: GuestThread, count: int, groups: int) -> int:
    count = s32(count)
    if not 0 <= count <= 65536:
        return -errno.EINVAL
    wanted = list(struct.unpack(f"<{count}I", t.memory.read(groups, 4 * count))) if count else []
    if not t.process.owns_host:
        return 0 if set(wanted) == set(os.getgroups()) and os.geteuid() == 0 else -errno.EPERM
    os.setgroups(wanted)
    return 0


_CAPABILITIES: Final = {0x1998_0330: 1, 0x2007_1026: 2, 0x2008_0522: 2}
"""Versions of the interface, and how many blocks of 32 capabilities each has."""


def _capabilities() -> tuple[int, ...]:
    """Effective, permitted and inheritable of this host process: the low halves, then the high ones."""
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x2008_0522, 0), 8)
    data = ctypes.create_string_buffer(24)
    # SAFETY: version 3 has a header of 8 bytes and two blocks of 12; both outlive the call.
    host_call("capget", header, data)
    return struct.unpack("<6I", data.raw)


def _capability_blocks(t: GuestThread, header: int) -> tuple[int, int]:
    """The number of blocks, 0 for a version that is not known (the one that is has been written), and the pid."""
    version, pid = struct.unpack("<Ii", t.memory.read(header, 8))
    blocks = _CAPABILITIES.get(version, 0)
    if not blocks:
        t.memory.store(header, 4, 0x2008_0522)
    return blocks, pid


def capget(t: GuestThread, header: int, data: int) -> int:
    blocks, pid = _capability_blocks(t, header)
    if not blocks:
        return -errno.EINVAL if data else 0
    if pid < 0:
        return -errno.EINVAL
    if pid and pid not in t.process.threads and not t.process.knows(pid):
        return -errno.ESRCH
    if data:
        t.memory.write(data, struct.pack("<6I", *_capabilities())[: 12 * blocks])
    return 0


def capset(t: GuestThread, header: int, data: int) -> int:
    """Giving up is always granted, and means nothing here: what the host lets the process do decides."""
    blocks, pid = _capability_blocks(t, header)
    if not blocks:
        return -errno.EINVAL
    if pid not in (0, t.tid):
        return -errno.EPERM
    wanted = struct.unpack(f"<{3 * blocks}I", t.memory.read(data, 12 * blocks))
    have = _capabilities()
    for block in range(blocks):
        effective, permitted, _ = wanted[3 * block : 3 * block + 3]
        if permitted & ~have[3 * block + 1] or effective & ~permitted:
            return -errno.EPERM
    return 0


# -- scheduling -------------------------------------------------------------------------------------------------

_OTHER, _FIFO, _RR, _BATCH, _IDLE, _DEADLINE = 0, 1, 2, 3, 5, 6
_RESET_ON_FORK: Final = 0x4000_0000
_POLICIES: Final = frozenset({_OTHER, _FIFO, _RR, _BATCH, _IDLE})
_SLICE_NANOSECONDS: Final = 4_000_000


def _target(t: GuestThread, tid: int) -> GuestThread:
    """A thread that may be asked about: of another process its main thread is as this one. Raises OSError."""
    number = s32(tid)
    if number < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if not number:
        return t
    found = t.process.threads.get(number)
    if found is None:
        if not t.process.knows(number):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return t
    return found


def sched_get_priority_max(_t: GuestThread, policy: int) -> int:
    policy = s32(policy)
    if policy not in _POLICIES and policy != _DEADLINE:
        return -errno.EINVAL
    return 99 if policy in (_FIFO, _RR) else 0


def sched_get_priority_min(_t: GuestThread, policy: int) -> int:
    policy = s32(policy)
    if policy not in _POLICIES and policy != _DEADLINE:
        return -errno.EINVAL
    return 1 if policy in (_FIFO, _RR) else 0


def sched_getscheduler(t: GuestThread, tid: int) -> int:
    found = _target(t, tid).scheduling
    return found.policy | (_RESET_ON_FORK if found.reset else 0)


def _set_policy(t: GuestThread, tid: int, policy: int, priority: int) -> int:
    reset = bool(policy & _RESET_ON_FORK)
    policy &= ~_RESET_ON_FORK
    if policy not in _POLICIES:
        return -errno.EINVAL
    realtime = policy in (_FIFO, _RR)
    if not (1 <= priority <= 99 if realtime else priority == 0):
        return -errno.EINVAL
    target = _target(t, tid)
    if realtime:
        return -errno.EPERM
    target.scheduling.policy, target.scheduling.reset = policy, reset
    return 0


def sched_setscheduler(t: GuestThread, tid: int, policy: int, parameter: int) -> int:
    if s32(policy) < 0 or s32(tid) < 0 or not parameter:
        return -errno.EINVAL
    return _set_policy(t, tid, s32(policy), s32(t.memory.load(parameter, 4)))


def sched_getparam(t: GuestThread, tid: int, result: int) -> int:
    if not result:
        return -errno.EINVAL
    _target(t, tid)
    t.memory.store(result, 4, 0)
    return 0


def sched_setparam(t: GuestThread, tid: int, parameter: int) -> int:
    if not parameter:
        return -errno.EINVAL
    target = _target(t, tid)
    return _set_policy(t, tid, target.scheduling.policy, s32(t.memory.load(parameter, 4)))


def sched_rr_get_interval(t: GuestThread, tid: int, result: int) -> int:
    _target(t, tid)
    t.memory.write(result, struct.pack("<qq", 0, _SLICE_NANOSECONDS))
    return 0


_ATTRIBUTES: Final = struct.Struct("<IIQiIQQQ")


def sched_getattr(t: GuestThread, tid: int, result: int, size: int, flags: int) -> int:
    if not result or flags & _ALL or size & _ALL < _ATTRIBUTES.size or size & _ALL > 4096:
        return -errno.EINVAL
    target = _target(t, tid)
    made = target.scheduling
    nice = _nice(t, 0, target.tid) if made.policy in (_OTHER, _BATCH) else 0
    t.memory.write(result, _ATTRIBUTES.pack(_ATTRIBUTES.size, made.policy, int(made.reset), nice, 0, 0, 0, 0))
    return 0


def sched_setattr(t: GuestThread, tid: int, attributes: int, flags: int) -> int:
    if not attributes or s32(tid) < 0 or flags & _ALL:
        return -errno.EINVAL
    size = t.memory.load(attributes, 4) or _ATTRIBUTES.size
    if size < _ATTRIBUTES.size or size > 4096:
        t.memory.store(attributes, 4, _ATTRIBUTES.size)
        return -errno.E2BIG
    _, policy, how, nice, priority, _, _, _ = _ATTRIBUTES.unpack(t.memory.read(attributes, _ATTRIBUTES.size))
    if how & ~0x7F:
        return -errno.EINVAL
    if policy == _DEADLINE:
        return -errno.EPERM
    result = _set_policy(t, tid, policy | (_RESET_ON_FORK if how & 1 else 0), priority)
    if result or policy not in (_OTHER, _BATCH):
        return result
    return setpriority(t, 0, tid, nice)


def sched_getaffinity(t: GuestThread, tid: int, size: int, result: int) -> int:
    size &= _ALL
    cpus = t.process.cpus
    length = (cpus + 63) // 64 * 8
    if size % 8 or size < length:
        return -errno.EINVAL
    if s32(tid) < 0:
        return -errno.ESRCH
    mask = _target(t, tid).scheduling.affinity or (1 << cpus) - 1
    t.memory.write(result, mask.to_bytes(length, "little"))
    return length


def sched_setaffinity(t: GuestThread, tid: int, size: int, mask: int) -> int:
    size = min(size & _ALL, 1024)
    wanted = int.from_bytes(t.memory.read(mask, size), "little") if size else 0
    target = _target(t, tid)
    wanted &= (1 << t.process.cpus) - 1
    if not wanted:
        return -errno.EINVAL
    target.scheduling.affinity = wanted
    return 0


def getcpu(t: GuestThread, cpu: int, node: int) -> int:
    number = 0
    if cpu:
        mask = t.scheduling.affinity or (1 << t.process.cpus) - 1
        at = ctypes.create_string_buffer(4)
        # SAFETY: a buffer of 4 bytes that outlives the call.
        host_call("getcpu", at, None, None)
        number = int.from_bytes(at.raw, "little") % t.process.cpus
        if not mask >> number & 1:
            number = (mask & -mask).bit_length() - 1
        t.memory.store(cpu, 4, number)
    if node:
        t.memory.store(node, 4, 0)
    return 0


_PROCESS, _GROUP, _USER = 0, 1, 2


def _nice(t: GuestThread, which: int, who: int) -> int:
    """The nice value of a process of the guest, the lowest of a group's. Raises OSError."""
    number = s32(who)
    if which == _PROCESS and number and number in t.process.threads:
        number = 0
    if which == _PROCESS and number and not t.process.knows(number):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    if which == _USER and number not in (0, os.getuid()):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    if which != _PROCESS:
        if which == _GROUP and number and not has_group(t.process, number):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        number = 0
    return os.getpriority(os.PRIO_PROCESS, number)


def getpriority(t: GuestThread, which: int, who: int) -> int:
    which = s32(which)
    if not _PROCESS <= which <= _USER:
        return -errno.EINVAL
    return 20 - _nice(t, which, who)  # the kernel's way to say it


def setpriority(t: GuestThread, which: int, who: int, value: int) -> int:
    which, number = s32(which), s32(who)
    if not _PROCESS <= which <= _USER:
        return -errno.EINVAL
    value = max(-20, min(19, s32(value)))
    before = _nice(t, which, who)
    if which != _PROCESS or number not in (0, t.tid) or not t.process.owns_host:
        # Of others nothing changes; asking for what it is already is no change.
        return 0 if value >= before else -errno.EACCES
    os.setpriority(os.PRIO_PROCESS, 0, value)
    return 0


def ioprio_get(t: GuestThread, which: int, who: int) -> int:
    if not 1 <= s32(which) <= 3:
        return -errno.EINVAL
    return _target(t, who).scheduling.ioprio if s32(which) == 1 else t.scheduling.ioprio


def ioprio_set(t: GuestThread, which: int, who: int, value: int) -> int:
    value &= 0xFFFF
    kind = value >> 13
    if not 1 <= s32(which) <= 3 or kind > 3 or (not kind and value & 7):
        return -errno.EINVAL
    if kind == 1:
        return -errno.EPERM
    (_target(t, who) if s32(which) == 1 else t).scheduling.ioprio = value
    return 0


# -- personality and prctl --------------------------------------------------------------------------------------


def personality(t: GuestThread, wanted: int) -> int:
    """Kept and told; only plain Linux is there."""
    before = t.process.personality
    if wanted & _ALL != _ALL:
        t.process.personality = wanted & _ALL
    return before


_PRCTL_ZERO: Final = frozenset({7, 13, 21, 27, 33, 42, 0x53564D41, 0x59616D61})
"""KEEPCAPS, GET_SECCOMP, GET_SECUREBITS, MCE_KILL, GET_THP_DISABLE, SET_VMA, SET_PTRACER: nothing to do, 0."""
_PRCTL_FURTHER: Final = {34: 0, 38: 1, 39: 0, 41: 1, 42: 0}
"""MCE_KILL_GET, SET_ and GET_NO_NEW_PRIVS, SET_ and GET_THP_DISABLE: how many arguments they have; others must be 0."""
_CAP_LAST: Final = 40
_host_prctl = ctypes.CDLL(None, use_errno=True).prctl


def prctl(t: GuestThread, option: int, first: int, second: int, third: int, fourth: int) -> int:
    option = s32(option)
    if (further := _PRCTL_FURTHER.get(option)) is not None and any((first, second, third, fourth)[further:]):
        return -errno.EINVAL
    process, memory = t.process, t.memory
    match option:
        case 1:  # PR_SET_PDEATHSIG
            if not 0 <= s32(first) <= 64:
                return -errno.EINVAL
            process.parent_death_signal = s32(first)
            if process.forked:
                # SAFETY: two integers. The child is a host process, whose parent is the guest's parent.
                _host_prctl(1, ctypes.c_ulong(s32(first)))
            return 0
        case 2:
            memory.store(first, 4, process.parent_death_signal)
            return 0
        case 3:
            return process.dumpable
        case 4:
            if first not in (0, 1):
                return -errno.EINVAL
            process.dumpable = first
            return 0
        case 8:  # PR_SET_KEEPCAPS: there are none to keep
            return 0 if first <= 1 else -errno.EINVAL
        case 14:  # PR_SET_TIMING
            return -errno.EINVAL if first else 0
        case 15:
            try:
                t.name = memory.read_cstring(first, 16)[:15]
            except ValueError:  # longer: cut, as Linux does
                t.name = memory.read(first, 15)
            if t.tid == process.pid:
                process.renamed(t.name)
            return 0
        case 16:
            memory.write(first, t.name.ljust(16, b"\0"))
            return 0
        case 23:
            return 1 if first <= _CAP_LAST else -errno.EINVAL
        case 24 | 28 | 35 | 57:  # CAPBSET_DROP, SET_SECUREBITS, SET_MM, SET_IO_FLUSHER
            return -errno.EPERM
        case 29:
            t.scheduling.slack = min(first, 1 << 62) or 50_000
            return 0
        case 30:
            return t.scheduling.slack
        case 36:
            process.subreaper = int(bool(first))
            if process.owns_host:
                # SAFETY: two integers. Orphans of the guest's processes then are this one's children.
                _host_prctl(36, ctypes.c_ulong(process.subreaper))
            return 0
        case 37:
            memory.store(first, 4, process.subreaper)
            return 0
        case 38:
            if first != 1:
                return -errno.EINVAL
            process.no_new_privileges = 1
            return 0
        case 39:
            return process.no_new_privileges
        case 40:
            memory.store(first, 8, t.clear_child_tid)
            return 0
        case 41:
            return 0
        case 47:  # PR_CAP_AMBIENT: there are none
            if third or fourth or second > (0 if first == 4 else _CAP_LAST):
                return -errno.EINVAL
            return {1: 0, 2: -errno.EPERM, 3: 0, 4: 0}.get(first, -errno.EINVAL)
    return 0 if option in _PRCTL_ZERO else -errno.EINVAL
