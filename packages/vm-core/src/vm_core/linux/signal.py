"""Signals: dispositions, masks, pending sets and delivery to handlers.

A thread looks at its signals only between engine runs and system calls (``GuestThread.attention`` says when to), so
every delivery is at a precise state. A stop signal stops the host process, where that is the guest's own.

signal(7), sigaction(2), sigreturn(2).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterable

from vm_core.hints import TYPE_CHECKING, Final, NamedTuple
from vm_core.linux.abi import MASK64, SIGNAL_NAMES, SigInfo, s32
from vm_core.linux.files import RESTART, RESTART_NO_HANDLER
from vm_core.linux.native import NativeCalls
from vm_core.linux.time import read_timespec
from vm_core.memory import Access, MemoryFault
from vm_core.state import HEADER

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = [
    "IGNORED",
    "IGNORED_BY_DEFAULT",
    "Action",
    "SignalState",
    "announce",
    "bit",
    "deliver",
    "signal_name",
]

SIGKILL, SIGSTOP, SIGSEGV = 9, 19, 11
_DEFAULT, _IGNORE = 0, 1
_SIGINFO, _RESTORER, _ONSTACK = 0x4, 0x0400_0000, 0x0800_0000
_RESTART_FLAG, _NODEFER, _RESETHAND = 0x1000_0000, 0x4000_0000, 0x8000_0000
SIGCONT: Final = 18
STOPPING: Final = frozenset({SIGSTOP, 20, 21, 22})
"""SIGSTOP, SIGTSTP, SIGTTIN and SIGTTOU."""
IGNORED_BY_DEFAULT: Final = frozenset({17, SIGCONT, 23, 28})
_COUNT: Final = 64
_SS_ONSTACK, _SS_DISABLE, _SS_AUTODISARM = 1, 2, 0x8000_0000
_PENDING: Final = HEADER["signal_pending"] // 8
_UNBLOCKABLE: Final = 1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1)


def bit(number: int) -> int:
    """The bit of a signal in a sigset_t."""
    return 1 << (number - 1)


def signal_name(number: int) -> str:
    return SIGNAL_NAMES.get(number, f"SIGRTMIN+{number - 34}" if number >= 34 else f"signal {number}")


class Action(NamedTuple):
    """A disposition: handler address (or 0 default, 1 ignore), SA_* flags, mask while it runs, return address."""

    handler: int = _DEFAULT
    flags: int = 0
    mask: int = 0
    restorer: int = 0


class SignalState:
    """Dispositions and the signals that wait for any thread of a process. The lock of the process guards it."""

    def __init__(self, native: NativeCalls) -> None:
        self.actions: dict[int, Action] = {}
        self.pending: list[SigInfo] = []
        self._native = native
        self.watchers: dict[object, Callable[[], None]] = {}
        """Called after signals came or were taken (signalfd)."""

    def changed(self) -> None:
        """Signals came, or were taken."""
        for look in list(self.watchers.values()):
            look()

    def set_action(self, number: int, action: Action) -> None:
        self.actions[number] = action
        self._native.act(number, action)

    def executed(self) -> None:
        """Another program runs now: what was handled is left to its default, what was ignored stays so."""
        for number, action in list(self.actions.items()):
            if action.handler != _IGNORE:
                self.set_action(number, _NO_ACTION)

    def action(self, number: int) -> Action:
        return self.actions.get(number, _NO_ACTION)

    def ignored(self, number: int) -> bool:
        handler = self.action(number).handler
        return handler == _IGNORE or (handler == _DEFAULT and number in IGNORED_BY_DEFAULT)


_NO_ACTION: Final = Action()
IGNORED: Final = Action(_IGNORE)


def enqueue(pending: list[SigInfo], info: SigInfo) -> None:
    """Real-time signals queue; a standard one that is pending already is dropped."""
    if info.number < 32 and any(other.number == info.number for other in pending):
        return
    if len(pending) < 1024:
        pending.append(info)


def take(t: GuestThread, wanted: int) -> SigInfo | None:
    """Remove the first pending signal whose bit is in ``wanted``: the thread's own, faults first, then the process's."""
    with t.process.lock:
        for pending in (t.pending, t.process.signals.pending):
            best = -1
            for index, info in enumerate(pending):
                if wanted & bit(info.number) and (best < 0 or _order(info) < _order(pending[best])):
                    best = index
            if best >= 0:
                info = pending.pop(best)
                if t.process.signals.watchers:
                    t.process.signals.changed()
                return info
    return None


def _order(info: SigInfo) -> tuple[bool, int]:
    return info.number not in (4, 5, 7, 8, 11), info.number


def announce(threads: Iterable[GuestThread]) -> None:
    """Signals may be pending for these threads: native code must not unblock any by itself.

    The mask that the caller reads next is no older than this: native code writes it, and then looks here.
    """
    for t in threads:
        t.words[_PENDING] = 1
        with t.barrier:
            pass


def deliver(t: GuestThread) -> None:
    """Act on the deliverable signals of a thread, and settle a system call that they interrupted."""
    process = t.process
    words = t.words
    while words[_PENDING] and (taken := take(t, ~t.mask)) is not None:
        info = taken if process.debugger is None else process.debugger.signal(t, taken)
        if info is None:
            continue
        if process.tracer is not None:
            process.tracer.signal(t, info)
        with process.lock:
            action = process.signals.action(info.number)
            ignored = process.signals.ignored(info.number)
        if ignored and info.number != SIGKILL:
            continue
        if info.number in STOPPING and (action.handler == _DEFAULT or info.number == SIGSTOP):
            if process.tracer is not None:
                process.tracer.stopped(t, info.number)
            process.host_signals.suspend(info.number)
            continue
        if action.handler == _DEFAULT or info.number == SIGKILL:
            process.die(t, info)
            return
        _settle(t, action)
        _enter(t, action, info)
    if words[_PENDING]:
        with process.lock:
            words[_PENDING] = bool(t.pending or process.signals.pending)
    if t.interrupted is not None:
        t.restart_call()
    if t.saved_mask is not None:
        t.mask, t.saved_mask = t.saved_mask, None


def _settle(t: GuestThread, action: Action) -> None:
    """A handler is about to run: does the interrupted call start again after it, or return EINTR?"""
    if t.interrupted is None:
        return
    if t.interrupted == RESTART and action.flags & _RESTART_FLAG:
        t.restart_call()
    else:
        t.interrupted = None
        t.cpu.words[t.abi.result_word] = -errno.EINTR & MASK64


def _enter(t: GuestThread, action: Action, info: SigInfo) -> None:
    process, abi = t.process, t.abi
    stack = t.cpu.words[abi.stack_word]
    base, flags, size = t.altstack
    red_zone = abi.red_zone
    inside = base <= stack < base + size
    if action.flags & _ONSTACK and not inside and size:
        stack, inside = base + size + red_zone, True
    mask = t.mask if t.saved_mask is None else t.saved_mask
    t.saved_mask = None
    restorer = action.restorer if abi.has_restorer and action.flags & _RESTORER else process.trampoline
    alt = (base, _SS_ONSTACK if base <= t.cpu.words[abi.stack_word] < base + size else flags, size)
    try:
        abi.push_frame(
            t.cpu, t.memory, stack, info, action.handler, mask, alt if size else (0, _SS_DISABLE, 0), restorer
        )
        if inside and not base <= t.cpu.words[abi.stack_word] < base + size:
            # Its next signal would begin at the top again, and so for ever.
            raise MemoryFault(t.cpu.words[abi.stack_word], Access.WRITE, mapped=True)
    except MemoryFault as fault:
        fatal = SigInfo(SIGSEGV, 2 if fault.mapped else 1, fault.address)
        if process.tracer is not None:
            process.tracer.signal(t, fatal)
        process.die(t, fatal)
        return
    if flags & _SS_AUTODISARM:
        t.altstack = (0, _SS_DISABLE, 0)
    t.mask |= action.mask | (0 if action.flags & _NODEFER else bit(info.number))
    if action.flags & _RESETHAND:
        with process.lock:
            process.signals.set_action(info.number, _NO_ACTION)


def force(t: GuestThread, info: SigInfo) -> None:
    """A signal for a fault of this thread: one that is blocked or ignored kills, as on Linux."""
    process = t.process
    if process.debugger is not None:
        shown = process.debugger.signal(t, info)
        if shown is None:
            t.attention = True
            return
        info = shown
    with process.lock:
        handler = process.signals.action(info.number).handler
        if handler in (_DEFAULT, _IGNORE) or t.mask & bit(info.number):
            fatal = True
        else:
            fatal = False
            t.pending.append(info)
            t.words[_PENDING] = 1
    if fatal:
        if process.tracer is not None:
            process.tracer.signal(t, info)
        process.die(t, info)
    t.attention = True


# -- calls ------------------------------------------------------------------------------------------------------


def rt_sigaction(t: GuestThread, number: int, new: int, old: int, size: int) -> int:
    number = s32(number)
    if size != 8 or not 0 < number <= _COUNT:
        return -errno.EINVAL
    layout = "<QQQQ" if t.abi.has_restorer else "<QQQ"
    action: Action | None = None
    if new:
        if number in (SIGKILL, SIGSTOP):
            return -errno.EINVAL
        fields = struct.unpack(layout, t.memory.read(new, struct.calcsize(layout)))
        restorer = fields[2] if t.abi.has_restorer else 0
        action = Action(fields[0], fields[1], fields[-1] & ~_UNBLOCKABLE, restorer)
    signals = t.process.signals
    with t.process.lock:
        before = signals.action(number)
    if old:
        values = (before.handler, before.flags, before.mask)
        if t.abi.has_restorer:
            values = (before.handler, before.flags, before.restorer, before.mask)  # type: ignore[assignment]
        t.memory.write(old, struct.pack(layout, *values))
    if action is not None:
        with t.process.lock:
            signals.set_action(number, action)
            if signals.ignored(number):
                for pending in (signals.pending, *(other.pending for other in t.process.threads.values())):
                    pending[:] = [info for info in pending if info.number != number]
    return 0


def rt_sigprocmask(t: GuestThread, how: int, new: int, old: int, size: int) -> int:
    if size != 8:
        return -errno.EINVAL
    before = t.mask
    if new:
        wanted = t.memory.load(new, 8) & ~_UNBLOCKABLE
        how = s32(how)
        if how == 0:
            t.mask = before | wanted
        elif how == 1:
            t.mask = before & ~wanted
        elif how == 2:
            t.mask = wanted
        else:
            return -errno.EINVAL
        if before & ~t.mask:
            t.attention = True  # what was blocked may be waiting
    if old:
        t.memory.store(old, 8, before)
    return 0


def rt_sigreturn(t: GuestThread) -> int | None:
    try:
        mask, altstack = t.abi.pop_frame(t.cpu, t.memory)
    except MemoryFault as fault:
        force(t, SigInfo(SIGSEGV, 2 if fault.mapped else 1, fault.address))
        return None
    t.mask = mask & ~_UNBLOCKABLE
    _set_altstack(t, *altstack)
    t.attention = True
    return None


def _set_altstack(t: GuestThread, base: int, flags: int, size: int) -> int:
    stack = t.cpu.words[t.abi.stack_word]
    now, _, length = t.altstack
    if length and now <= stack < now + length:
        return -errno.EPERM
    if flags & ~_SS_AUTODISARM not in (0, _SS_ONSTACK, _SS_DISABLE):
        return -errno.EINVAL
    if flags & _SS_DISABLE:
        t.altstack = (0, _SS_DISABLE, 0)
        return 0
    if size < t.abi.min_signal_stack:
        return -errno.ENOMEM
    t.altstack = (base, flags & _SS_AUTODISARM, size)
    return 0


def sigaltstack(t: GuestThread, new: int, old: int) -> int:
    base, flags, size = t.altstack
    stack = t.cpu.words[t.abi.stack_word]
    on = _SS_ONSTACK if size and base <= stack < base + size else 0
    wanted = struct.unpack("<QiiQ", t.memory.read(new, 24)) if new else None
    if wanted is not None:
        result = _set_altstack(t, wanted[0], wanted[1] & 0xFFFF_FFFF, wanted[3])
        if result:
            return result
    if old:
        t.memory.write(old, struct.pack("<QIIQ", base, flags | on, 0, size))
    return 0


def rt_sigpending(t: GuestThread, result: int, size: int) -> int:
    if size > 8:
        return -errno.EINVAL
    out = 0
    with t.process.lock:
        for info in (*t.pending, *t.process.signals.pending):
            out |= bit(info.number)
    t.memory.write(result, (out & t.mask).to_bytes(8, "little")[:size])
    return 0


def rt_sigsuspend(t: GuestThread, mask: int, size: int) -> int:
    if size != 8:
        return -errno.EINVAL
    swap_mask(t, mask)
    t.block(None, None)
    return RESTART_NO_HANDLER


def pause(t: GuestThread) -> int:
    t.block(None, None)
    return RESTART_NO_HANDLER


def swap_mask(t: GuestThread, mask: int) -> None:
    """Use another mask until the call is over: delivery restores the old one. Raises MemoryFault."""
    wanted = t.memory.load(mask, 8) & ~_UNBLOCKABLE
    if t.resumed is not None:
        return  # the call had done it before it had to wait
    t.saved_mask, t.mask = t.mask, wanted
    t.attention = True


def rt_sigtimedwait(t: GuestThread, wanted: int, result: int, timeout: int, size: int) -> int:
    if size != 8:
        return -errno.EINVAL
    mask = t.memory.load(wanted, 8) & ~_UNBLOCKABLE
    deadline = time.monotonic() + read_timespec(t.memory, timeout) if timeout else None
    t.awaited = mask
    try:
        while (info := take(t, mask)) is None:
            reason = t.block(deadline, None)
            info = take(t, mask)
            if info is not None:
                break
            if reason == -errno.ETIMEDOUT:
                return -errno.EAGAIN
            return -errno.EINTR
    finally:
        t.awaited = 0
    if result:
        t.memory.write(result, info.pack())
    return info.number


def _sender(t: GuestThread, number: int, code: int) -> SigInfo:
    return SigInfo(number, code, pid=t.process.pid, uid=os.getuid())


def kill(t: GuestThread, pid: int, number: int) -> int:
    pid, number = s32(pid), s32(number)
    if not 0 <= number <= _COUNT:
        return -errno.EINVAL
    return _to_processes(t, pid, _sender(t, number, 0))


def _to_processes(t: GuestThread, pid: int, info: SigInfo) -> int:
    """A signal for one process, for a process group (0 or negative), or for all but this one (-1)."""
    process, family = t.process, t.process.family
    if pid == process.pid:
        if info.number:
            process.send(info, prefer=t)
        return 0
    if pid > 0:
        if family is None:
            return -errno.ESRCH
        return family.send(pid, info, child=pid in process.children)
    members = [process.pid] if family is None else family.members()
    if pid == -1:
        wanted = [member for member in members if member != process.pid]
    else:
        group = os.getpgid(0) if not pid else -pid
        wanted = [member for member in members if _group_of(member) == group]
    if not wanted:
        return -errno.ESRCH
    # Itself last: the signal may end it.
    for member in sorted(wanted, key=lambda member: member == process.pid):
        if member != process.pid:
            assert family is not None
            family.send(member, info)
        elif info.number:
            process.send(info, prefer=t)
    return 0


def _group_of(pid: int) -> int:
    """The process group of a process, 0 for one that is over."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _to_thread(t: GuestThread, tid: int, info: SigInfo) -> int:
    if not 0 <= info.number <= _COUNT or s32(tid) <= 0:
        return -errno.EINVAL
    target = t.process.thread(s32(tid))
    if target is None:
        return -errno.ESRCH
    if info.number:
        t.process.send_to(target, info)
    return 0


def tkill(t: GuestThread, tid: int, number: int) -> int:
    return _to_thread(t, tid, _sender(t, s32(number), -6))


def tgkill(t: GuestThread, pid: int, tid: int, number: int) -> int:
    return _to_thread_of(t, pid, tid, _sender(t, s32(number), -6))


def _to_thread_of(t: GuestThread, pid: int, tid: int, info: SigInfo) -> int:
    """A signal for a thread of a process of the guest."""
    pid, family = s32(pid), t.process.family
    if pid == t.process.pid:
        return _to_thread(t, tid, info)
    if not 0 <= info.number <= _COUNT or pid <= 0 or s32(tid) <= 0:
        return -errno.EINVAL
    if family is None:
        return -errno.ESRCH
    return family.send(pid, info, tid=s32(tid), child=pid in t.process.children)


def _queued(t: GuestThread, number: int, address: int, *, own: bool) -> SigInfo | int:
    """What a guest says of a signal that it sends: to itself it may say anything, to others not that it comes from the kernel."""
    raw = t.memory.read(address, 128)
    code = int.from_bytes(raw[8:12], "little", signed=True)
    if (code >= 0 or code == -6) and not own:
        return -errno.EPERM
    pid, uid, value = struct.unpack_from("<iIQ", raw, 16)
    return SigInfo(s32(number), code, pid=pid & 0xFFFF_FFFF, uid=uid, value=value)


def rt_sigqueueinfo(t: GuestThread, pid: int, number: int, address: int) -> int:
    info = _queued(t, number, address, own=s32(pid) == t.process.pid)
    if isinstance(info, int):
        return info
    if s32(pid) <= 0:
        return -errno.ESRCH
    if not 0 <= info.number <= _COUNT:
        return -errno.EINVAL
    return _to_processes(t, s32(pid), info)


def rt_tgsigqueueinfo(t: GuestThread, pid: int, tid: int, number: int, address: int) -> int:
    if s32(pid) <= 0 or s32(tid) <= 0:
        return -errno.EINVAL
    info = _queued(t, number, address, own=s32(tid) == t.tid)
    if isinstance(info, int):
        return info
    return _to_thread_of(t, pid, tid, info)


def _supersede(process: Process, number: int) -> None:
    """SIGCONT takes back the stop signals that wait, and they it. The lock of the process is held."""
    if number == SIGCONT or number in STOPPING:
        gone = STOPPING if number == SIGCONT else {SIGCONT}
        for pending in (process.signals.pending, *(t.pending for t in process.threads.values())):
            pending[:] = [info for info in pending if info.number not in gone]


def send(process: Process, info: SigInfo, prefer: GuestThread | None) -> None:
    """A signal for the process: some thread that does not block it takes it."""
    with process.lock:
        threads = list(process.threads.values())
        announce(threads)
        wants = [t for t in threads if not t.mask & bit(info.number) or t.awaited & bit(info.number)]
        if (
            process.signals.ignored(info.number)
            and info.number != SIGKILL
            and process.tracer is None  # which is told of it before it is dropped
            and (
                any(not t.mask & bit(info.number) for t in threads)
                and not any(t.awaited & bit(info.number) for t in threads)
            )
        ):
            return
        _supersede(process, info.number)
        enqueue(process.signals.pending, info)
        if process.signals.watchers:
            process.signals.changed()
        target = prefer if prefer in wants else (wants[0] if wants else None)
    if target is not None:
        target.interrupt()


def send_to(process: Process, thread: GuestThread, info: SigInfo) -> None:
    with process.lock:
        announce((thread,))
        blocked = thread.mask & bit(info.number)
        if (
            process.signals.ignored(info.number)
            and not blocked
            and info.number != SIGKILL
            and process.tracer is None
        ):
            return
        enqueue(thread.pending, info)
        if process.signals.watchers:
            process.signals.changed()
    if not blocked or thread.awaited & bit(info.number):
        thread.interrupt()
