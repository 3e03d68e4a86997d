"""What processes of one guest share by number or name: the store of System V IPC and of POSIX message queues.

A guest has a name space of its own, as in a container: its keys and names are those of its processes, and nothing of it is
left when the last of them is over. All is in the memory file that a family shares, behind the family's own part: a table of
entries, who uses them, and their contents. The family's lock guards it. A process that waits for a change of an entry
sleeps on the entry's counter, a word of the shared memory.

svipc(7), mq_overview(7).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Iterator

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.lengths import any_length
from vm_core.linux import futex
from vm_core.linux.family import FREE_FROM, Family
from vm_core.linux.host import call as host_call
from vm_core.linux.hostthread import HostThread
from vm_core.memory import page_up

if TYPE_CHECKING:
    from vm_core.linux.mqueue import Queue
    from vm_core.linux.process import GuestThread, Process

__all__ = ["MSG", "QUEUE", "SEM", "SHM", "Entry", "Ipc", "wait"]

SHM, SEM, MSG, QUEUE = 1, 2, 3, 4
_MOST: Final = 512
_ENTRY: Final = struct.Struct("<BxHIiIIIIqqqqqqiiIIIq")
_ENTRY_BYTES: Final = 512
_NAME: Final = 256
"""Offset of an entry's name, of 255 bytes at most."""
_CHANGE: Final = 128
"""Offset of the counter of changes in an entry. Not one of the fields that :meth:`Entry.save` writes."""
_USES: Final = _MOST * _ENTRY_BYTES
_QUEUES_CHANGE: Final = (512 << 10) - 64
"""Offset of the counter of all changes of message queues."""
_MOST_USES: Final = 8192
_USE: Final = struct.Struct("<HHiI")
"""Who uses an entry: its number, unused, the process, how often."""
_TABLE_BYTES: Final = 512 << 10
_CONTENTS: Final = FREE_FROM + _TABLE_BYTES
_MOST_BYTES: Final = 64 << 30
_IDS: Final = 32768
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_FIELDS: Final = (
    "kind", "mode", "seq", "key", "uid", "gid", "cuid", "cgid", "offset", "length", "size", "first", "second", "third",
    "pid", "last_pid", "a", "b", "c", "d",
)  # fmt: skip


class Entry:
    """One object. ``offset`` and ``length`` are of its contents in the file; what the other fields mean depends on the kind."""

    __slots__ = (*_FIELDS, "_ipc", "index")

    kind: int
    mode: int
    seq: int
    key: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    offset: int
    length: int
    size: int
    first: int
    second: int
    third: int
    pid: int
    last_pid: int
    a: int
    b: int
    c: int
    d: int

    def __init__(self, ipc: Ipc, index: int) -> None:
        self._ipc, self.index = ipc, index
        self.load()

    def load(self) -> None:
        values = _ENTRY.unpack_from(self._ipc.table, self.index * _ENTRY_BYTES)
        for name, value in zip(_FIELDS, values, strict=True):
            setattr(self, name, value)

    def save(self) -> None:
        _ENTRY.pack_into(
            self._ipc.table, self.index * _ENTRY_BYTES, *(getattr(self, name) for name in _FIELDS)
        )

    @property
    def id(self) -> int:
        """The number by which processes know it."""
        return self.seq % (1 << 16) * _IDS + self.index

    @property
    def name(self) -> bytes:
        at = self.index * _ENTRY_BYTES + _NAME
        return self._ipc.table[at : at + 255].rstrip(b"\0")

    @name.setter
    def name(self, value: bytes) -> None:
        at = self.index * _ENTRY_BYTES + _NAME
        self._ipc.table[at : at + 255] = value.ljust(255, b"\0")

    def allows(self, wanted: int) -> bool:
        """Whether this process may read (4) or write (2) it."""
        uid, groups = os.geteuid(), {os.getegid(), *os.getgroups()}
        if uid == 0:
            return True
        if uid in (self.uid, self.cuid):
            granted = self.mode >> 6
        elif groups & {self.gid, self.cgid}:
            granted = self.mode >> 3
        else:
            granted = self.mode
        return granted & wanted == wanted

    def owned(self) -> bool:
        """Whether this process may change or remove it."""
        return os.geteuid() in (0, self.uid, self.cuid)

    def read(self, count: int, at: int = 0) -> bytes:
        return os.pread(self._ipc.fd, count, self.offset + at)

    def write(self, data: bytes, at: int = 0) -> None:
        os.pwrite(self._ipc.fd, data, self.offset + at)

    def changed(self) -> None:
        """Wake all who wait for a change."""
        at = self.index * _ENTRY_BYTES + _CHANGE
        (count,) = struct.unpack_from("<I", self._ipc.table, at)
        struct.pack_into("<I", self._ipc.table, at, (count + 1) & 0xFFFF_FFFF)
        futex.shared_wake(self._ipc.address + at)
        if self.kind == QUEUE:
            self._ipc.queues_changed()

    def changes(self) -> int:
        """How many there have been."""
        (count,) = struct.unpack_from("<I", self._ipc.table, self.index * _ENTRY_BYTES + _CHANGE)
        return int(count)


class Ipc:
    """A process's view of the store. ``attached`` are the shared memory segments it has: guest address to entry and size."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.fd = family.fd
        self.held = family.held
        with self.held():
            if os.fstat(self.fd).st_size < _CONTENTS:
                with any_length():
                    os.ftruncate(self.fd, _CONTENTS)
        self.table = mmap.mmap(self.fd, _TABLE_BYTES, offset=FREE_FROM)
        # SAFETY: the address is used as that of futex words, as long as the table is mapped.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.table))
        self.attached: dict[int, tuple[int, int]] = {}
        self.undoes = False
        """Whether it has ever asked for SEM_UNDO."""
        self._pid = os.getpid()
        self.queues: list[Queue] = []
        """The open message queues."""
        self._watcher: HostThread | None = None

    @classmethod
    def of(cls, process: Process) -> Ipc:
        if process.ipc is None:
            made = cls(process.found_family())  # not with the process's lock held, see Family.held
            with process.lock:
                if process.ipc is None:
                    process.ipc = made
            if process.ipc is not made:
                made.close()
        assert isinstance(process.ipc, Ipc)
        return process.ipc

    def entries(self, kind: int) -> Iterator[Entry]:
        for index in range(_MOST):
            if self.table[index * _ENTRY_BYTES] == kind:
                yield Entry(self, index)

    def find(self, kind: int, number: int) -> Entry | None:
        """The entry of that number, if there is one of that kind."""
        index = number % _IDS
        if number < 0 or index >= _MOST or self.table[index * _ENTRY_BYTES] != kind:
            return None
        entry = Entry(self, index)
        return entry if entry.id == number else None

    def make(self, kind: int, mode: int, length: int, *, key: int = 0) -> Entry | None:
        """A new entry, whose contents are zero; None if there is no room."""
        index = next((i for i in range(_MOST) if not self.table[i * _ENTRY_BYTES]), -1)
        length = page_up(max(length, 1))
        offset = self._room(length)
        if index < 0 or offset < 0:
            self._collect()
            return None
        entry = Entry(self, index)
        seq = entry.seq + 1
        for name in _FIELDS:
            setattr(entry, name, 0)
        entry.kind, entry.mode, entry.seq, entry.key = kind, mode, seq, key
        entry.uid = entry.cuid = os.geteuid()
        entry.gid = entry.cgid = os.getegid()
        entry.offset, entry.length = offset, length
        entry.name = b""
        entry.save()
        return entry

    def _room(self, length: int) -> int:
        """The offset of a free piece of the file, which is there then; -1 without one."""
        at = _CONTENTS
        used = sorted(
            (entry.offset, entry.length) for kind in (SHM, SEM, MSG, QUEUE) for entry in self.entries(kind)
        )
        for start, size in used:
            if start - at >= length:
                break
            at = start + size
        if at + length > _MOST_BYTES:
            return -1
        if os.fstat(self.fd).st_size < at + length:
            with any_length():
                os.ftruncate(self.fd, at + length)
        return at

    def remove(self, entry: Entry) -> None:
        host_call("fallocate", self.fd, _KEEP_SIZE | _PUNCH_HOLE, entry.offset, entry.length)
        entry.kind = 0
        entry.save()
        entry.changed()

    # -- who uses them ------------------------------------------------------------------------------------------

    def _uses(self) -> Iterator[tuple[int, int, int, int]]:
        """Offset, entry, process, count; those of processes that have died are dropped."""
        for at in range(_USES, _USES + _MOST_USES * _USE.size, _USE.size):
            index, _, pid, count = _USE.unpack_from(self.table, at)
            if not pid:
                return
            if count and not self.family.has(pid):
                _USE.pack_into(self.table, at, index, 0, pid, count := 0)
            yield at, index, pid, count

    def use(self, entry: Entry, by: int = 1, pid: int = 0) -> bool:
        """This process has it in use once more, or less; False if too many have."""
        pid = pid or os.getpid()
        free = -1
        for at, index, owner, count in self._uses():
            if index == entry.index and owner == pid and count:
                _USE.pack_into(self.table, at, index, 0, pid, max(count + by, 0))
                return True
            if not count and free < 0:
                free = at
        if by < 0:
            return True
        if free < 0:
            at = _USES
            while at < _USES + _MOST_USES * _USE.size and _USE.unpack_from(self.table, at)[2]:
                at += _USE.size
            if at >= _USES + _MOST_USES * _USE.size:
                return False
            free = at
        _USE.pack_into(self.table, free, entry.index, 0, pid, by)
        return True

    def users(self, entry: Entry) -> int:
        return sum(count for _, index, _, count in self._uses() if index == entry.index)

    def _collect(self) -> None:
        """Remove what was only waiting for its last user."""
        for kind, gone in ((SHM, 0o1000), (QUEUE, 0o10000)):
            for entry in list(self.entries(kind)):
                if entry.mode & gone and not self.users(entry):
                    self.remove(entry)

    def forked(self) -> None:
        """In the child of a fork: it uses what its parent does."""
        parent, self._pid, self.undoes = self._pid, os.getpid(), False
        self._watcher = None
        for queue in self.queues:
            queue.notice = None
        with self.held():
            mine = [(index, count) for _, index, pid, count in self._uses() if pid == parent and count]
            for index, count in mine:
                self.use(Entry(self, index), count)

    def left(self, *, over: bool) -> None:
        """The process executes another program, or is over: it uses nothing any more."""
        self.attached.clear()
        if over:
            self._unwatch()
        with self.held():
            for at, index, pid, count in list(self._uses()):
                if pid == os.getpid() and count and (over or self.table[index * _ENTRY_BYTES] == SHM):
                    _USE.pack_into(self.table, at, index, 0, pid, 0)
                    if self.table[index * _ENTRY_BYTES] == SHM:
                        entry = Entry(self, index)
                        entry.second, entry.last_pid = int(time.time()), os.getpid()
                        entry.save()
            self._collect()
            if over and self.undoes:
                from vm_core.linux.sysv import undo

                for entry in self.entries(SEM):
                    undo(self, entry, {os.getpid()})

    # -- message queues whose descriptors are polled ------------------------------------------------------------

    def queues_changed(self) -> None:
        """Some message queue has changed."""
        (count,) = struct.unpack_from("<I", self.table, _QUEUES_CHANGE)
        struct.pack_into("<I", self.table, _QUEUES_CHANGE, (count + 1) & 0xFFFF_FFFF)
        futex.shared_wake(self.address + _QUEUES_CHANGE)

    def watch(self) -> None:
        """Have the descriptors of queues that are polled, and those who asked for notices, told of what other processes do, from
        now on."""
        if self._watcher is None and any(queue.watched for queue in self.queues):
            with self.family.held():
                if self._watcher is None:
                    self._watcher = HostThread("vm-queues", self._watch)
                    self._watcher.start()

    def _watch(self) -> None:
        me = self._watcher
        while self._watcher is me and me is not None:
            (seen,) = struct.unpack_from("<I", self.table, _QUEUES_CHANGE)
            with self.held():
                for queue in self.queues:
                    queue.look()
            if self._watcher is me:
                futex.wait_here(self.address + _QUEUES_CHANGE, seen)

    def _unwatch(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            # As often as it takes: it may be about to wait.
            while watcher.is_alive() and not watcher.current:
                self.queues_changed()
                watcher.join(0.01)

    def close(self) -> None:
        self._unwatch()
        # SAFETY: nothing uses `address` any more.
        self.address = 0
        self.table.close()


def wait(t: GuestThread, ipc: Ipc, entry: Entry, seen: int, deadline: float | None) -> int:
    """Wait until an entry changes from ``seen`` changes: 0; -ETIMEDOUT or -EINTR."""
    place = ipc.address + entry.index * _ENTRY_BYTES + _CHANGE
    return futex.wait_for_shared(t, place, seen, lambda: entry.changes() != seen, deadline)
