"""System V IPC and POSIX message queues of the host: what a trusted guest (``--trust``) has instead of a name space of its own.

A shared memory segment is attached to the arena itself. A call that may wait is made with IPC_NOWAIT or O_NONBLOCK first; one
that has to wait does so on the queue's descriptor, or, as System V's objects have none, in a thread of its own (:func:`_aside`),
so that a signal of the guest's or the end of the process gets through.

shmget(2), shmop(2), shmctl(2), semget(2), semop(2), semctl(2), msgget(2), msgop(2), msgctl(2), svipc(7), mq_open(3),
mq_unlink(3), mq_send(3), mq_receive(3), mq_notify(3), mq_getattr(3), mq_overview(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import SigInfo, s32, s64
from vm_core.linux.files import RESTART, RESTART_NO_HANDLER, SOCKET, SPECIAL, File, host_umask
from vm_core.linux.host import call as host_call
from vm_core.linux.host import guest
from vm_core.linux.hostthread import HostThread, kick_signal
from vm_core.linux.sysv import EXEC, RDONLY, REMAP, attach_place, wanted_address
from vm_core.linux.time import read_timespec
from vm_core.memory import Access, Backing, MemoryFault, Prot, page_up

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["HostIpc"]

_NOWAIT: Final = 0o4000
_RMID, _SET, _STAT, _INFO = range(4)
_PERM_BYTES: Final = 48
"""Of struct ipc64_perm."""
_MOST_TEXT: Final = 16 << 20
"""Bytes of a message that are received at most: more than any host is set to."""


class HostIpc:
    """A process's part in the host's objects. ``attached`` are the shared memory segments it has: guest address to length."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.attached: dict[int, int] = {}
        self._notices: _Notices | None = None

    @classmethod
    def of(cls, process: Process) -> HostIpc:
        with process.lock:
            if process.ipc is None:
                process.ipc = cls(process)
            assert isinstance(process.ipc, HostIpc)
            return process.ipc

    @property
    def notices(self) -> _Notices:
        """What tells this process of messages."""
        with self._process.lock:
            if self._notices is None:
                self._notices = _Notices(self._process)
            return self._notices

    def watch(self) -> None:
        """The host's kernel does."""

    def forked(self) -> None:
        """In the child of a fork: it is attached to what its parent is, and told of nothing."""
        notices, self._notices = self._notices, None
        if notices is not None:
            notices.forked()

    def left(self, *, over: bool) -> None:
        """The process executes another program, or is over."""
        self.attached.clear()
        if over:
            self.close()

    def close(self) -> None:
        notices, self._notices = self._notices, None
        if notices is not None:
            notices.close()


# -- waiting in the host ----------------------------------------------------------------------------------------


def _aside(t: GuestThread, action: Callable[[], int]) -> int:
    """The result of a call of the host that may wait for ever, or its negative errno; -EINTR if a signal of the guest's comes
    first. What has happened by then has happened: then it is the call's own result all the same."""
    kick = kick_signal()
    done: list[int] = []
    number, stop = 0, False

    def work() -> None:
        nonlocal number
        number = threading.get_native_id()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [kick])
        while not done:
            try:
                done.append(action())
            except InterruptedError:
                if stop:
                    done.append(-errno.EINTR)
            except OSError as error:
                done.append(-(error.errno or errno.EIO))
        t.wake()

    helper = HostThread("vm-ipc", work)
    helper.start()
    result = 0
    while not done and result != -errno.EINTR:
        result = t.block(None, lambda: bool(done))
    stop = True
    while not done:
        # As often as it takes: it may be about to enter the call.
        if number:
            with contextlib.suppress(ProcessLookupError):
                host_call("tgkill", os.getpid(), number, kick)
        helper.join(0.001)
    return done[0]


def _waiting(t: GuestThread, call: Callable[[int], int], flags: int, again: int) -> int:
    """Make a call, with flags; without IPC_NOWAIT among them, wait where it says ``again`` (an errno)."""
    try:
        return call(flags | _NOWAIT)
    except OSError as error:
        if error.errno != again or flags & _NOWAIT:
            raise
    return _aside(t, lambda: call(flags))


# -- shared memory ----------------------------------------------------------------------------------------------

_SHM_BYTES: Final = 112
"""Of struct shmid64_ds."""
_SHM_INFO, _SHM_LIMITS_BYTES, _SHM_INFO_BYTES = 14, 72, 48
_SHM_STAT, _SHM_STAT_ANY = 13, 15


def shmget(_t: GuestThread, key: int, size: int, flags: int) -> int:
    return host_call("shmget", s32(key), size, s32(flags))


def shmat(t: GuestThread, number: int, address: int, flags: int) -> int:
    ipc, memory, number, flags = HostIpc.of(t.process), t.memory, s32(number), s32(flags)
    address = wanted_address(address, flags)
    room = ctypes.create_string_buffer(_SHM_BYTES)
    # SAFETY: `room` is as large as the structure, and outlives the call.
    host_call("shmctl", number, _STAT, room)
    key, mode = struct.unpack_from("<i16xI", room.raw)
    (size,) = struct.unpack_from("<Q", room.raw, _PERM_BYTES)
    length = page_up(size)
    prot = Prot.READ if flags & RDONLY else Prot.RW
    if flags & EXEC:
        if not mode & 0o111:
            return -errno.EACCES
        prot |= Prot.EXEC
    with memory.lock:
        place = attach_place(t, address, length, prot, flags)

        def put(host: int, _prot: int) -> None:
            # SAFETY: the range lies inside the arena (map_by), whose memory the segment replaces in one step; a segment never
            # becomes shorter.
            host_call("shmat", number, host, flags & RDONLY | REMAP)

        memory.map_by(
            place, length, prot, put, name=f"/SYSV{key & 0xFFFF_FFFF:08x} (deleted)", shared=True,
            backing=Backing(0, number, not flags & RDONLY, real=True),
        )  # fmt: skip
        ipc.attached[place] = length
    if flags & EXEC:
        t.process.engine.synchronize(memory)
    return place


def shmdt(t: GuestThread, address: int) -> int:
    ipc, memory = HostIpc.of(t.process), t.memory
    with memory.lock:
        length = ipc.attached.pop(address, 0)
        mine = [
            (max(region.start, address), min(region.end, address + length))
            for region in memory.regions()
            # Not what the guest has mapped there since.
            if region.start < address + length and address < region.end and region.name.startswith("/SYSV")
        ]
        # By what replaces it, not by the host's shmdt: no moment may leave a hole in the arena.
        for start, end in mine:
            memory.unmap(start, end - start)
    return 0 if mine else -errno.EINVAL


def shmctl(t: GuestThread, number: int, command: int, address: int) -> int:
    sizes = {_INFO: _SHM_LIMITS_BYTES, _SHM_INFO: _SHM_INFO_BYTES}
    sizes |= dict.fromkeys((_STAT, _SHM_STAT, _SHM_STAT_ANY), _SHM_BYTES)
    return _control(t, "shmctl", (s32(number),), s32(command), address, sizes, _SHM_BYTES)


def _control(
    t: GuestThread,
    call: str,
    which: tuple[int, ...],
    command: int,
    address: int,
    gives: dict[int, int],
    takes: int,
    change: Callable[[bytes], bytes] = bytes,
) -> int:
    """A call of the kind of shmctl. ``gives`` has the size of what a command stores, which ``change`` makes the guest's, and
    ``takes`` is that of what IPC_SET reads, of which no more than the permissions and what follows them counts."""
    if command == _SET:
        return host_call(
            call, *which, command, ctypes.create_string_buffer(t.memory.read(address, takes), 128)
        )
    size = gives.get(command, 0)
    room = ctypes.create_string_buffer(max(size, 1))
    # SAFETY: `room` is as large as what the command stores, and outlives the call.
    result = host_call(call, *which, command, room if size else 0)
    if size:
        t.memory.write(address, change(room.raw))
    return result


# -- semaphores -------------------------------------------------------------------------------------------------

_GETALL, _SETVAL, _SETALL, _SEM_STAT, _SEM_INFO, _SEM_STAT_ANY = 13, 16, 17, 18, 19, 20
_OPERATION_BYTES, _MOST_OPERATIONS, _SEM_INFO_BYTES = 6, 1 << 16, 40
_HAS_GAPS: Final = os.uname().machine in ("x86_64", "AMD64")
"""Whether the host's struct semid64_ds has words between its times, where there once were 32-bit ones."""
_SEM_WORDS: Final = {True: 7, False: 5}
"""How many words follow the permissions, with and without them."""


def semget(_t: GuestThread, key: int, count: int, flags: int) -> int:
    return host_call("semget", s32(key), s32(count), s32(flags))


def semop(t: GuestThread, number: int, operations: int, count: int) -> int:
    return semtimedop(t, number, operations, count, 0)


def semtimedop(t: GuestThread, number: int, address: int, count: int, timeout: int) -> int:
    deadline = time.monotonic() + read_timespec(t.memory, timeout) if timeout else None
    count &= 0xFFFF_FFFF
    try:
        operations = t.memory.read(address, min(count, _MOST_OPERATIONS) * _OPERATION_BYTES)
    except MemoryFault:
        return host_call("semtimedop", s32(number), 0, count, 0)  # which says what else is wrong with it

    def call(seconds: float | None) -> int:
        limit = None
        if seconds is not None:
            seconds = min(max(seconds, 0.0), 1e9)
            limit = struct.pack("<qq", int(seconds), int(seconds % 1 * 1e9))
        return host_call("semtimedop", s32(number), operations, count, limit)

    def wait() -> int:
        return call(None if deadline is None else deadline - time.monotonic())

    try:
        return call(0.0)
    except OSError as error:
        # One of the operations may have had IPC_NOWAIT itself: the host tells which it was by not waiting.
        if error.errno != errno.EAGAIN or (deadline is not None and time.monotonic() >= deadline):
            raise
    return _aside(t, wait)


def semctl(t: GuestThread, number: int, which: int, command: int, argument: int) -> int:
    number, which, command = s32(number), s32(which), s32(command)
    words = _SEM_WORDS[_HAS_GAPS]
    gaps = t.abi.column == "x86_64"
    if command == _SETVAL:
        return host_call("semctl", number, which, command, s32(argument))
    if command in (_GETALL, _SETALL):
        return _all_values(t, number, command, argument)

    def change(raw: bytes) -> bytes:
        if command in (_SEM_INFO, _INFO) or gaps == _HAS_GAPS:
            return raw
        times = struct.unpack_from(f"<{words}q", raw, _PERM_BYTES)
        changed, made, count = times[0], times[2 if _HAS_GAPS else 1], times[4 if _HAS_GAPS else 2]
        shown = (changed, 0, made, 0, count, 0, 0) if gaps else (changed, made, count, 0, 0)
        return raw[:_PERM_BYTES] + struct.pack(f"<{len(shown)}q", *shown)

    sizes = dict.fromkeys((_INFO, _SEM_INFO), _SEM_INFO_BYTES)
    sizes |= dict.fromkeys((_STAT, _SEM_STAT, _SEM_STAT_ANY), _PERM_BYTES + 8 * words)
    takes = _PERM_BYTES + 8 * _SEM_WORDS[gaps]
    return _control(t, "semctl", (number, which), command, argument, sizes, takes, change)


def _all_values(t: GuestThread, number: int, command: int, argument: int) -> int:
    """GETALL and SETALL."""
    room = ctypes.create_string_buffer(_PERM_BYTES + 8 * _SEM_WORDS[_HAS_GAPS])
    # SAFETY: `room` is as large as the structure, and outlives the call.
    host_call("semctl", number, 0, _STAT, room)
    (count,) = struct.unpack_from("<Q", room.raw, _PERM_BYTES + (32 if _HAS_GAPS else 16))
    # The set may be another with more of them by then: there is room for as many as there can be.
    values = ctypes.create_string_buffer(2 << 16)
    if command == _SETALL:
        values.raw = t.memory.read(argument, 2 * count)
        return host_call("semctl", number, 0, command, values)
    result = host_call("semctl", number, 0, command, values)
    t.memory.write(argument, values.raw[: 2 * count])
    return result


# -- messages ---------------------------------------------------------------------------------------------------

_MSG_STAT, _MSG_INFO, _MSG_STAT_ANY = 11, 12, 13
_COPY: Final = 0o40000
_MSG_BYTES, _MSG_INFO_BYTES = 120, 32
"""Of struct msqid64_ds and struct msginfo."""


def msgget(_t: GuestThread, key: int, flags: int) -> int:
    return host_call("msgget", s32(key), s32(flags))


def msgsnd(t: GuestThread, number: int, address: int, size: int, flags: int) -> int:
    number, size = s32(number), s64(size)
    if not 0 <= size <= t.memory.size:
        return -errno.EINVAL
    kind = t.memory.read(address, 8)
    try:
        text = t.memory.read(address + 8, size)
    except MemoryFault:
        # Which only counts where the rest is right: the host looks at a message that cannot be read either.
        return host_call("msgsnd", number, 0, size, s32(flags) | _NOWAIT)
    message = kind + text
    result = _waiting(
        t, lambda how: host_call("msgsnd", number, message, size, how), s32(flags), errno.EAGAIN
    )
    return RESTART_NO_HANDLER if result == -errno.EINTR else result


def msgrcv(t: GuestThread, number: int, address: int, size: int, kind: int, flags: int) -> int:
    number, size, kind = s32(number), s64(size), s64(kind)
    if number < 0 or size < 0:
        return -errno.EINVAL
    size = min(size, _MOST_TEXT)
    room = ctypes.create_string_buffer(8 + size)
    # SAFETY: `room` has a long and `size` bytes, and outlives the calls.
    if flags & _COPY:
        result = host_call("msgrcv", number, room, size, kind, s32(flags))  # never waits
    else:
        result = _waiting(
            t, lambda how: host_call("msgrcv", number, room, size, kind, how), s32(flags), errno.ENOMSG
        )
    if result < 0:
        return RESTART_NO_HANDLER if result == -errno.EINTR else result
    t.memory.write(address, room.raw[: 8 + result])
    return result


def msgctl(t: GuestThread, number: int, command: int, address: int) -> int:
    sizes = dict.fromkeys((_INFO, _MSG_INFO), _MSG_INFO_BYTES)
    sizes |= dict.fromkeys((_STAT, _MSG_STAT, _MSG_STAT_ANY), _MSG_BYTES)
    return _control(t, "msgctl", (s32(number),), s32(command), address, sizes, _MSG_BYTES)


# -- POSIX message queues ---------------------------------------------------------------------------------------

_CREATE, _EXCLUSIVE, _NONBLOCK, _ACCESS = 0o100, 0o200, 0o4000, 3
_ATTRIBUTES: Final = struct.Struct("<4q32x")
_EVENT: Final = struct.Struct("<Qii")
_EVENT_BYTES: Final = 64
"""Of struct sigevent."""
_BY_SIGNAL, _BY_THREAD = 0, 2
_COOKIE: Final = struct.Struct("<Q23xB")
"""NOTIFY_COOKIE_LEN bytes: ours, and in the last one the kernel says why it comes."""
_COME: Final = 1
_SI_MESGQ: Final = -3


class HostQueue:
    """An open queue of the host: File.socket."""

    def read(self, _t: GuestThread, file: File, windows: Sequence[memoryview]) -> int:
        """The text that says how full it is."""
        return -errno.EBADF if file.flags & _ACCESS == os.O_WRONLY else os.readv(file.fd, list(windows))

    def write(self, _t: GuestThread, file: File, _windows: Sequence[memoryview]) -> int:
        return -errno.EINVAL if file.flags & _ACCESS else -errno.EBADF

    def closed(self) -> None:
        """The descriptor is all there is."""


class _Notices:
    """What the host tells a process of queues that it has asked for a signal for.

    The host could send the signal itself, but Python's handlers do not see the value that comes with it. So it sends what is meant
    for a thread. Who has sent the message it does not say then: si_pid is 0.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked: dict[int, tuple[int, int]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._thread = HostThread("vm-notices", self._run)
        self._thread.start()

    def ask(self, fd: int, number: int, value: int) -> None:
        """Have the next message of a queue send a signal with a value. Raises OSError."""
        with self._lock:
            self._count += 1
            mine = self._count
            self._asked[mine] = number, value
        try:
            _notify(fd, self._socket.fileno(), _COOKIE.pack(mine, 0))
        except OSError:
            self._asked.pop(mine, None)
            raise

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            if any(fd == self._stop for fd, _ in poll.poll()):
                return
            with contextlib.suppress(OSError):
                cookie = self._socket.recv(_COOKIE.size)
                mine, what = _COOKIE.unpack(cookie)
                number, value = self._asked.pop(mine, (0, 0))
                if number and what == _COME:
                    self._process.send(SigInfo(number, _SI_MESGQ, uid=os.getuid(), value=value))

    def forked(self) -> None:
        """In the child of a fork, which has no such thread."""
        self._socket.close()
        os.close(self._stop)

    def close(self) -> None:
        os.eventfd_write(self._stop, 1)
        if not self._thread.current:
            self._thread.join(5)
        self.forked()


def _notify(fd: int, by: int, cookie: bytes) -> None:
    """Have the host tell a netlink socket of the next message, as mq_notify(3) does. Raises OSError."""
    kept = ctypes.create_string_buffer(cookie, len(cookie))
    event = _EVENT.pack(ctypes.addressof(kept), by, _BY_THREAD).ljust(_EVENT_BYTES, b"\0")
    # SAFETY: the event and the cookie that it points to outlive the call, which copies them.
    host_call("mq_notify", fd, event)


def _name(t: GuestThread, address: int) -> bytes:
    """Raises MemoryFault and OSError."""
    return os.fsencode(t.path(address)) + b"\0"


def mq_open(t: GuestThread, address: int, flags: int, mode: int, attributes: int) -> int:
    flags = s32(flags)
    wanted = t.memory.read(attributes, _ATTRIBUTES.size) if flags & _CREATE and attributes else None
    name, mode = _name(t, address), mode & 0o7777 & ~t.files.umask
    host = flags | os.O_CLOEXEC | os.O_NONBLOCK
    if not flags & _CREATE or not host_umask() & mode:
        fd = host_call("mq_open", name, host, mode, wanted)
    else:
        # This process's umask is not the guest's: the mode of a new one is to be set.
        try:
            fd = host_call("mq_open", name, host | _EXCLUSIVE, mode, wanted)
        except FileExistsError:
            if flags & _EXCLUSIVE:
                raise
            fd = host_call("mq_open", name, host, mode, wanted)
        else:
            os.fchmod(fd, mode)
    path = "/" + os.fsdecode(name[:-1])
    file = File(fd, flags & (_ACCESS | _NONBLOCK), path=path, kind=SPECIAL)
    file.socket = HostQueue()
    return t.files.add(file, cloexec=True)


def mq_unlink(t: GuestThread, address: int) -> int:
    return host_call("mq_unlink", _name(t, address))


def _opened(t: GuestThread, fd: int) -> File:
    """Raises OSError."""
    file = t.table.get(fd & 0xFFFF_FFFF)
    if file is None or not isinstance(file.socket, HostQueue):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return file


def _transfer(t: GuestThread, fd: int, timeout: int, events: int, call: Callable[[int], int]) -> int:
    """Send or receive, once the queue lets it."""
    deadline = time.monotonic() + read_timespec(t.memory, timeout) - time.time() if timeout else None
    file = _opened(t, fd)
    while True:
        try:
            return call(file.fd)
        except BlockingIOError:
            if file.flags & _NONBLOCK:
                raise
        ready = t.poll([(file.fd, events)], deadline)
        if ready is None:
            return RESTART
        if not ready:
            return -errno.ETIMEDOUT
        if file.fd < 0:
            return -errno.EBADF


def _place(t: GuestThread, address: int, size: int, access: Access) -> int:
    """The host's address of a message; 0 for memory that the guest may not use so, as the host looks for what else may be wrong
    first."""
    try:
        return guest(t.memory, address, size, access) if size else t.memory.host_address
    except MemoryFault:
        return 0


def mq_timedsend(t: GuestThread, fd: int, address: int, size: int, priority: int, timeout: int) -> int:
    place = _place(t, address, size, Access.READ)
    # SAFETY: `place` is guest memory that was checked, or 0.
    return _transfer(
        t, fd, timeout, select.POLLOUT,
        lambda host: host_call("mq_timedsend", host, place, size, priority & 0xFFFF_FFFF, 0),
    )  # fmt: skip


def mq_timedreceive(t: GuestThread, fd: int, address: int, size: int, priority: int, timeout: int) -> int:
    place = _place(t, address, size, Access.WRITE)
    said = ctypes.create_string_buffer(4)
    # SAFETY: `place` is guest memory that was checked, or 0; `said` has room for an int and outlives the call.
    got = _transfer(
        t, fd, timeout, select.POLLIN,
        lambda host: host_call("mq_timedreceive", host, place, size, said, 0),
    )  # fmt: skip
    if got >= 0 and priority:
        t.memory.write(priority, said.raw)
    return got


def mq_notify(t: GuestThread, fd: int, event: int) -> int:
    if not event:
        return host_call("mq_notify", _opened(t, fd).fd, None)
    raw = t.memory.read(event, _EVENT.size)
    value, number, how = _EVENT.unpack(raw)
    if how == _BY_SIGNAL:
        if not 0 < number <= 64:
            return -errno.EINVAL
        HostIpc.of(t.process).notices.ask(_opened(t, fd).fd, number, value)
        return 0
    if how == _BY_THREAD:
        cookie = t.memory.read(value, _COOKIE.size)
        file = t.table.get(number & 0xFFFF_FFFF)
        if file is None:
            return -errno.EBADF
        if file.kind != SOCKET:
            return -errno.ENOTSOCK
        _notify(_opened(t, fd).fd, file.fd, cookie)
        return 0
    return host_call("mq_notify", _opened(t, fd).fd, raw.ljust(_EVENT_BYTES, b"\0"))


def mq_getsetattr(t: GuestThread, fd: int, new: int, old: int) -> int:
    wanted = 0
    if new:
        wanted, *_ = _ATTRIBUTES.unpack(t.memory.read(new, _ATTRIBUTES.size))
        if wanted & ~_NONBLOCK:
            return -errno.EINVAL
    file, room = _opened(t, fd), ctypes.create_string_buffer(_ATTRIBUTES.size)
    # SAFETY: `room` is as large as the structure, and outlives the call.
    host_call("mq_getsetattr", file.fd, None, room)
    _, *rest = _ATTRIBUTES.unpack(room.raw)
    flags = file.flags & _NONBLOCK
    if new:
        # The host's descriptor stays as it is: no call of vm's waits in it.
        file.flags = file.flags & ~_NONBLOCK | wanted
    if old:
        t.memory.write(old, _ATTRIBUTES.pack(flags, *rest))
    return 0
