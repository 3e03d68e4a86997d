"""New processes: fork(2), vfork(2), clone(2) and clone3(2).

A guest process is a host process: the child is made by the host's fork, from the host thread of the guest thread that
asked. All memory is copied on write, but what is mapped shared. In the child that host thread goes on where it was, as the
guest's only one, until the process is over; it never returns to who had called :meth:`Process.run`.

vfork (and CLONE_VM with CLONE_VFORK, by which C libraries start programs) makes a copy too, while its parent waits. So that
the parent sees what the child wrote, as it must (the error of a program that could not be executed), the child sends what it
has changed, when it executes a program or ends: all pages, or, where other threads of the parent run meanwhile and write, the
bytes of the caller's stack that are not what they were.
"""

from __future__ import annotations

# PERF: the module signal makes members of an enumeration of a mask, most of the 64 by way of an exception.
import _signal  # type: ignore[import-not-found]
import contextlib
import errno
import gc
import os
import select
import signal
import struct
import warnings

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux import execve  # noqa: F401 - PERF: most children need it, and have it from their parent
from vm_core.linux.children import SIGCHLD, Child, PidFile
from vm_core.linux.limits import may_start
from vm_core.memory import PAGE, Access, GuestMemory, MemoryFault, Prot, page_down

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["clone", "clone3", "leave_parent"]

_VM, _FS, _SIGHAND, _PIDFD, _VFORK, _PARENT, _THREAD = 0x100, 0x200, 0x800, 0x1000, 0x4000, 0x8000, 0x10000
_SETTLS, _PARENT_SETTID = 0x80000, 0x100000
_CHILD_CLEARTID, _CHILD_SETTID = 0x200000, 0x1000000
_NAMESPACES: Final = 0x7E02_0080 | 0x0002_0000
"""CLONE_NEW*: only a privileged process may."""
_WITHOUT_FS: Final = 0x1002_0000
"""CLONE_NEWNS and NEWUSER."""
_DETACHED, _CLEAR_SIGHAND, _INTO_CGROUP = 1 << 22, 1 << 32, 1 << 33
_NOT_SHARED: Final = {
    _FS: "CLONE_FS",
    0x400: "CLONE_FILES",
    _SIGHAND: "CLONE_SIGHAND",
    _PARENT: "CLONE_PARENT",
}
"""What a child that is no thread has of its own all the same: the host's processes are not made so."""
_EXCLUSIVE: Final = 1 << 56
_OF_FILE: Final = 1 << 61
_PRESENT: Final = 1 << 63
"""Bits of a word of /proc/PID/pagemap: the page is mapped by this process alone; it is a file's; it is in memory."""
_FRAMES: Final = 256 << 10
"""Bytes of the stack above the stack pointer that belong to the functions that called vfork."""
_CHANGE: Final = struct.Struct("<QQ")
"""In front of the bytes of a change: their address, and how many they are."""
_ALL_SIGNALS: Final = _signal.valid_signals()


def clone(t: GuestThread, flags: int, stack: int, parent_tid: int, fourth: int, fifth: int) -> int:
    tls, child_tid = (fourth, fifth) if t.abi.clone_tls_before_ctid else (fifth, fourth)
    number = flags & 0xFF
    return _clone(t, flags & 0xFFFF_FF00, number, stack, parent_tid, child_tid, tls, parent_tid)


def clone3(t: GuestThread, address: int, size: int) -> int:
    if size < 64:
        return -errno.EINVAL
    if size > PAGE:
        return -errno.E2BIG
    raw = t.memory.read(address, size)
    if any(raw[88:]):
        return -errno.E2BIG
    flags, pidfd, child_tid, parent_tid, number, stack, length, tls = struct.unpack_from("<8Q", raw)
    if size >= 80 and any(raw[64:80]):
        return -errno.EPERM  # set_tid: needs a privilege
    if flags & (_DETACHED | 0x7F) or flags >> 34 or number > 64 or bool(stack) != bool(length):
        return -errno.EINVAL
    if number and flags & (_THREAD | _PARENT):
        return -errno.EINVAL  # neither ends with a signal of its own
    if flags & _INTO_CGROUP or flags & (_CLEAR_SIGHAND | _SIGHAND) == _CLEAR_SIGHAND | _SIGHAND:
        return -errno.EINVAL
    return _clone(t, flags, number, stack + length, parent_tid, child_tid, tls, pidfd)


def fork(t: GuestThread) -> int:
    return _fork(t, 0, SIGCHLD, 0, 0, 0, 0, 0)


def vfork(t: GuestThread) -> int:
    return _fork(t, _VM | _VFORK, SIGCHLD, 0, 0, 0, 0, 0)


def _clone(
    t: GuestThread, flags: int, number: int, stack: int, parent_tid: int, child_tid: int, tls: int, pidfd: int
) -> int:
    if flags & _FS and flags & _WITHOUT_FS:
        return -errno.EINVAL
    if flags & _NAMESPACES:
        return -errno.EPERM
    if (flags & _THREAD and not flags & _SIGHAND) or (flags & _SIGHAND and not flags & _VM):
        return -errno.EINVAL
    if flags & _PIDFD and flags & (_THREAD | _PARENT_SETTID) and pidfd == parent_tid:
        return -errno.EINVAL
    if flags & _THREAD:
        from vm_core.linux.system import new_thread

        return new_thread(t, flags, stack, parent_tid, child_tid, tls)
    if flags & _VM and not flags & _VFORK:
        # The arena could be shared with another host process, but not what Python and the engine know of it: what is mapped, and
        # what has been compiled of it. And a thread of this one could not execute a program with the pid that it has.
        t.process.explain(
            "clone",
            "clone with CLONE_VM, but neither as a thread nor as vfork, is not supported: it returns ENOSYS",
        )
        return -errno.ENOSYS
    if own := [name for flag, name in _NOT_SHARED.items() if flags & flag]:
        t.process.explain("cloned", f"clone with {', '.join(own)}: the child has its own all the same")
    return _fork(t, flags, number, stack, parent_tid, child_tid, tls, pidfd)


def _fork(
    t: GuestThread, flags: int, number: int, stack: int, parent_tid: int, child_tid: int, tls: int, pidfd: int
) -> int:
    process, memory, debugger = t.process, t.memory, t.process.debugger
    if flags & _PARENT_SETTID:
        memory.check(parent_tid, 4, Access.WRITE)
    if flags & _PIDFD:
        memory.check(pidfd, 4, Access.WRITE)
    family = process.found_family()
    process.host_signals.take()
    process.files.namespace.settle()
    reader = writer = -1
    if flags & _VFORK:
        reader, writer = os.pipe()
    if not may_start(process) or not family.reserve():
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)
        return -errno.EAGAIN
    frames = t.cpu.words[t.abi.stack_word] if len(process.threads) > 1 else 0
    everything = _signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        with process.forking():
            if debugger is not None:
                debugger.before_fork(vfork=bool(flags & _VFORK))
            with warnings.catch_warnings():
                # The threads that the child has not are the guest's, LLVM's and the clock's: each is dealt with.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                t.process.forked_from(t)
        if not pid:
            # PERF: no collection need look at what it has from its parent, which would copy the pages.
            gc.freeze()
            if reader >= 0:
                os.close(reader)
                process.parent_pipe = writer
                process.parent_stack = (
                    (0, b"") if not flags & _VM else _stack(memory, frames) if frames else None
                )
            _begin(t, flags, stack, child_tid, tls)
        else:
            try:
                process.children[pid] = Child(pid, number)
            except OSError:
                # No descriptor is left for it: as if there were no child.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            family.expect(pid, reserved=True)
            process.host_signals.new_child()
    except OSError as error:
        family.release()
        if debugger is not None:
            debugger.gave_birth(t, 0, vfork=False)
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)
        return -(error.errno or errno.EAGAIN)
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, everything)
    if not pid:
        process.host_signals.take()
        if debugger is not None:
            debugger.began()
        if process.host is not None:
            # Its host's threads are the parent's. From here on this one runs nothing else.
            process.host = None
            t.cpu.words[t.abi.result_word] = 0
            process.go_on_alone(t)
        return 0
    if writer >= 0:
        os.close(writer)
    try:
        if debugger is not None:
            debugger.gave_birth(t, pid, vfork=reader >= 0)
    except BaseException:
        if reader >= 0:
            os.close(reader)
        raise
    if reader >= 0:
        _await_vfork(t, reader)
        if debugger is not None:
            debugger.vfork_done(t)
    if flags & _PARENT_SETTID:
        memory.store(parent_tid, 4, pid)
    if flags & _PIDFD:
        fd = t.files.add(PidFile(pid), cloexec=True)
        memory.store(pidfd, 4, fd & 0xFFFF_FFFF)
    return pid


def _begin(t: GuestThread, flags: int, stack: int, child_tid: int, tls: int) -> None:
    """The registers and the thread state that the child begins with."""
    words = t.cpu.words
    if stack:
        words[t.abi.stack_word] = stack
    if flags & _SETTLS and t.abi.thread_word >= 0:
        words[t.abi.thread_word] = tls
    t.cpu.header("reservation", (1 << 64) - 1)
    t.robust_list = 0
    t.clear_child_tid = child_tid if flags & _CHILD_CLEARTID else 0
    if flags & _CHILD_SETTID:
        with contextlib.suppress(MemoryFault):  # as on Linux, nobody is told
            t.memory.store(child_tid, 4, t.tid)
    if flags & _CLEAR_SIGHAND:
        t.process.signals.executed()
    if not flags & _VM:
        t.altstack = t.altstack if not stack else (0, 2, 0)


# -- vfork ------------------------------------------------------------------------------------------------------


def _await_vfork(t: GuestThread, reader: int) -> None:
    """Wait until the child executes a program or ends, and take over what it wrote into our memory."""
    memory = t.memory
    data = bytearray()
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        with t.waits_for_child():
            while True:
                if not poll.poll(100):
                    if t.process.stopping:
                        return
                    continue
                chunk = os.read(reader, 1 << 16)
                if not chunk:
                    break
                data += chunk
    finally:
        os.close(reader)
    at = 0
    while at + _CHANGE.size <= len(data):
        address, length = _CHANGE.unpack_from(data, at)
        at += _CHANGE.size
        changed = data[at : at + length]
        at += length
        if len(changed) == length and memory.is_mapped(address, length):
            with memory.opened(address, length) as place:
                place[:] = changed


def _stack(memory: GuestMemory, frames: int) -> tuple[int, bytes]:
    """In the child of a vfork, before it has written anything: where the stack of its caller is, and what is there.

    Around it there may be other things than the frames of functions: what the other threads of a Go program write, for one. The host
    does not tell the pages that the child has written from those that its parent has since.
    """
    start = page_down(frames)
    end = start
    while end < start + _FRAMES and memory.is_mapped(end, PAGE):
        end += PAGE
    if start == end:
        return 0, b""
    with memory.opened(start, end - start, writing=False) as stack:
        return start, bytes(stack)


def leave_parent(memory: GuestMemory, writer: int, stack: tuple[int, bytes] | None) -> None:
    """In the child of a vfork: let the parent go on, with the pages that this process has changed, or if ``stack`` is not None,
    with the bytes there that are not what it says."""
    try:
        for address in _pages(memory, stack):
            with memory.opened(address, PAGE, writing=False) as page:
                now = bytes(page)
            changes = [(0, PAGE)]
            if stack is not None:
                changes = _changes(stack[1][address - stack[0] :][:PAGE], now)
            for begin, end in changes:
                data = _CHANGE.pack(address + begin, end - begin) + now[begin:end]
                while data:
                    data = data[os.write(writer, data) :]
    except OSError:
        pass  # the parent is gone, or the host does not say what has changed
    finally:
        os.close(writer)


def _changes(before: bytes, now: bytes) -> list[tuple[int, int]]:
    """Where two pages differ, in order: first byte and end of each run."""
    out: list[tuple[int, int]] = []
    if before == now:
        return out
    for at in range(0, PAGE, 8):
        if before[at : at + 8] == now[at : at + 8]:
            continue
        for i in range(at, at + 8):
            if before[i] != now[i]:
                if out and out[-1][1] == i:
                    out[-1] = out[-1][0], i + 1
                else:
                    out.append((i, i + 1))
    return out


def _pages(memory: GuestMemory, stack: tuple[int, bytes] | None) -> list[int]:
    """The addresses of private pages that this process has to itself: what it, or its parent, wrote since it was forked."""
    low, high = (stack[0], stack[0] + len(stack[1])) if stack is not None else (0, memory.size)
    if low == high:
        return []
    out = []
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for region in memory.regions():
            if region.shared or not region.prot & Prot.WRITE:
                continue
            start, end = max(region.start, low), min(region.end, high)
            if start >= end:
                continue
            raw = os.pread(fd, (end - start) // PAGE * 8, (memory.host_address + start) // PAGE * 8)
            for number, word in enumerate(memoryview(raw).cast("Q")):
                if word & _PRESENT and word & _EXCLUSIVE and not word & _OF_FILE:
                    out.append(start + number * PAGE)
    finally:
        os.close(fd)
    return out
