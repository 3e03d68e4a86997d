"""System V IPC: shared memory, semaphores and message queues of the guest's own name space (:mod:`vm_core.linux.ipc`).

shmget(2), shmop(2), shmctl(2), semget(2), semop(2), semctl(2), msgget(2), msgop(2), msgctl(2), svipc(7).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32, s64
from vm_core.linux.files import RESTART_NO_HANDLER
from vm_core.linux.ipc import MSG, SEM, SHM, Entry, Ipc, wait
from vm_core.linux.limits import has_room
from vm_core.linux.time import read_timespec
from vm_core.memory import PAGE, Prot, page_down, page_up

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = ["undo"]

_CREATE, _EXCLUSIVE, _NOWAIT = 0o1000, 0o2000, 0o4000
_RMID, _SET, _STAT, _INFO = range(4)
_PERM: Final = struct.Struct("<iIIIIIHH4xQQ")
"""struct ipc64_perm: key, uid, gid, cuid, cgid, mode, seq; the same on the three ISAs."""
_MODES: Final = 0o777
_INDEXES: Final = 512


def _perm(entry: Entry) -> bytes:
    who = entry.uid, entry.gid, entry.cuid, entry.cgid
    return _PERM.pack(entry.key, *who, entry.mode, entry.seq % (1 << 16), 0, 0, 0)


_DEST, _LOCKED = 0o1000, 0o2000


def _get(
    t: GuestThread,
    kind: int,
    key: int,
    flags: int,
    fits: Callable[[Entry], bool],
    make: Callable[[Ipc, int], Entry | None],
) -> int:
    """What shmget, semget and msgget have in common."""
    ipc, key = Ipc.of(t.process), s32(key)
    with ipc.held():
        found = None
        if key:
            found = next((entry for entry in ipc.entries(kind) if entry.key == key), None)
        if found is not None:
            if flags & _CREATE and flags & _EXCLUSIVE:
                return -errno.EEXIST
            if not fits(found):
                return -errno.EINVAL
            wanted = (flags >> 6 | flags >> 3 | flags) & 7
            return found.id if found.allows(wanted) else -errno.EACCES
        if key and not flags & _CREATE:
            return -errno.ENOENT
        made = make(ipc, key)
        return -errno.ENOSPC if made is None else made.id


def _set_perm(t: GuestThread, entry: Entry, raw: bytes) -> None:
    _, uid, gid, _, _, mode, *_ = _PERM.unpack_from(raw)
    entry.uid, entry.gid = uid, gid
    entry.mode = entry.mode & ~_MODES | mode & _MODES


def _now() -> int:
    return int(time.time())


def _meant(ipc: Ipc, kind: int, command: int, number: int, stat: int, stat_any: int) -> Entry | int:
    """What shmctl, semctl or msgctl is to work on, or minus an errno. ``stat`` and ``stat_any`` are the commands that take a place in
    the table instead of an id, as ipcs does; the second asks for no permission to read."""
    if command in (stat, stat_any):
        entry = next((entry for entry in ipc.entries(kind) if entry.index == number), None)
    else:
        entry = ipc.find(kind, number)
    if entry is None:
        return -errno.EINVAL
    return -errno.EACCES if command in (_STAT, stat) and not entry.allows(4) else entry


def _highest(ipc: Ipc, kind: int) -> int:
    return max((entry.index for entry in ipc.entries(kind)), default=0)


# -- shared memory ----------------------------------------------------------------------------------------------

RDONLY, RND, REMAP, EXEC = 0o10000, 0o20000, 0o40000, 0o100000
_SHM_LOCK, _SHM_UNLOCK, _SHM_STAT, _SHM_INFO, _SHM_STAT_ANY = 11, 12, 13, 14, 15
_SHMID: Final = struct.Struct("<QqqqiiQQQ")
"""struct shmid64_ds behind its ipc64_perm: segsz, atime, dtime, ctime, cpid, lpid, nattch."""


_LARGEST: Final = (1 << 64) - (1 << 24) - 1
"""Linux's SHMMAX."""


def shmget(t: GuestThread, key: int, size: int, flags: int) -> int:
    flags = s32(flags)

    def make(ipc: Ipc, key: int) -> Entry | None:
        entry = ipc.make(SHM, flags & _MODES, size, key=key)
        if entry is not None:
            entry.size, entry.third, entry.pid = size, _now(), os.getpid()
            entry.save()
        return entry

    def checked(ipc: Ipc, key: int) -> Entry | None:
        if not size or size > _LARGEST:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if size > t.memory.size:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return make(ipc, key)

    return _get(t, SHM, key, flags, lambda entry: size <= entry.size, checked)


def wanted_address(address: int, flags: int) -> int:
    """The address that shmat(2) is asked for, or 0 for any. Raises OSError (EINVAL)."""
    wanted = page_down(address) if flags & RND else address
    if wanted % PAGE or (not wanted and flags & REMAP):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return wanted


def attach_place(t: GuestThread, address: int, length: int, prot: Prot, flags: int) -> int:
    """Where shmat(2) puts a segment. The memory's lock is held. Raises OSError (EINVAL, ENOMEM)."""
    memory = t.memory
    if address and not flags & REMAP:
        if address + length > memory.size or memory.find_free(length, hint=address) != address:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        place: int | None = address
    elif address:
        place = address if address + length <= memory.size else None
    else:
        place = memory.find_free(length, high=t.process.mmap_top)
    if place is None or place < 0x1000 or not has_room(t.process, length, int(prot), shared=True):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return place


def shmat(t: GuestThread, number: int, address: int, flags: int) -> int:
    ipc, memory, flags = Ipc.of(t.process), t.memory, s32(flags)
    address = wanted_address(address, flags)
    with memory.lock, ipc.held():
        entry = ipc.find(SHM, s32(number))
        if entry is None:
            return -errno.EINVAL
        wanted = 4 if flags & RDONLY else 6
        if flags & EXEC:
            wanted |= 1
        if not entry.allows(wanted):
            return -errno.EACCES
        length = page_up(entry.size)
        prot = Prot.READ if flags & RDONLY else Prot.RW
        if flags & EXEC:
            prot |= Prot.EXEC
        place = attach_place(t, address, length, prot, flags)
        if not ipc.use(entry):
            return -errno.ENOMEM
        _replaced(t, ipc, place, length)
        # SAFETY: the store's file never becomes shorter, so the mapping always has its pages.
        memory.map_file(
            place,
            length,
            prot,
            ipc.fd,
            entry.offset,
            name=f"/SYSV{entry.key & 0xFFFF_FFFF:08x} (deleted)",
            shared=True,
            writable=not flags & RDONLY,
        )
        ipc.attached[place] = entry.index, length
        entry.first, entry.last_pid = _now(), os.getpid()
        entry.save()
    if flags & EXEC:
        t.process.engine.synchronize(memory)
    return place


def _replaced(t: GuestThread, ipc: Ipc, start: int, length: int) -> None:
    """What the guest has unmapped without shmdt, or is about to replace, is not attached any more. The locks are held."""
    regions = [region for region in t.memory.regions() if region.name.startswith("/SYSV")]
    for place, (index, size) in list(ipc.attached.items()):
        inside = start <= place and place + size <= start + length
        if inside or not any(r.start < place + size and place < r.end for r in regions):
            del ipc.attached[place]
            ipc.use(Entry(ipc, index), -1)


def shmdt(t: GuestThread, address: int) -> int:
    ipc, memory = Ipc.of(t.process), t.memory
    with memory.lock, ipc.held():
        if address not in ipc.attached:
            return -errno.EINVAL
        index, length = ipc.attached.pop(address)
        entry = Entry(ipc, index)
        for region in list(memory.regions()):
            # Not what the guest has mapped there since.
            start, end = max(region.start, address), min(region.end, address + length)
            if start < end and region.name.startswith("/SYSV"):
                memory.unmap(start, end - start)
        ipc.use(entry, -1)
        entry.second, entry.last_pid = _now(), os.getpid()
        entry.save()
        if entry.mode & _DEST and not ipc.users(entry):
            ipc.remove(entry)
    return 0


def shmctl(t: GuestThread, number: int, command: int, address: int) -> int:
    ipc, memory, number, command = Ipc.of(t.process), t.memory, s32(number), s32(command)
    if number < 0 or command < 0:
        return -errno.EINVAL
    with memory.lock, ipc.held():
        _replaced(t, ipc, 0, 0)
        if command == _INFO:
            memory.write(
                address, struct.pack("<9Q", t.memory.size, 1, _INDEXES, _INDEXES, 1 << 24, 0, 0, 0, 0)
            )
            return _highest(ipc, SHM)
        if command == _SHM_INFO:
            found = list(ipc.entries(SHM))
            pages = sum(entry.length for entry in found) // PAGE
            memory.write(address, struct.pack("<i4x5Q", len(found), pages, pages, 0, 0, 0))
            return _highest(ipc, SHM)
        entry = _meant(ipc, SHM, command, number, _SHM_STAT, _SHM_STAT_ANY)
        if isinstance(entry, int):
            return entry
        if command in (_STAT, _SHM_STAT, _SHM_STAT_ANY):
            times = entry.first, entry.second, entry.third
            users = ipc.users(entry)
            memory.write(
                address,
                _perm(entry) + _SHMID.pack(entry.size, *times, entry.pid, entry.last_pid, users, 0, 0),
            )
            return 0 if command == _STAT else entry.id
        if command not in (_RMID, _SET, _SHM_LOCK, _SHM_UNLOCK):
            return -errno.EINVAL
        raw = memory.read(address, _PERM.size) if command == _SET else b""
        if not entry.owned():
            return -errno.EPERM
        if command == _SET:
            _set_perm(t, entry, raw)
            entry.third = _now()
        elif command == _RMID:
            if not ipc.users(entry):
                ipc.remove(entry)
                return 0
            entry.key, entry.mode = 0, entry.mode | _DEST
        else:
            entry.mode = entry.mode | _LOCKED if command == _SHM_LOCK else entry.mode & ~_LOCKED
        entry.save()
    return 0


# -- semaphores -------------------------------------------------------------------------------------------------

_MOST_SEMAPHORES, _MOST_OPERATIONS, _MOST_VALUE = 32000, 500, 32767
_UNDO: Final = 0x1000
_GETPID, _GETVAL, _GETALL, _GETNCNT, _GETZCNT, _SETVAL, _SETALL, _SEM_STAT, _SEM_INFO, _SEM_STAT_ANY = range(
    11, 21
)
_OPERATION: Final = struct.Struct("<HhH")
_VALUE: Final = struct.Struct("<Hxxi")
"""A semaphore: its value, and who changed it last."""
_NOTE: Final = struct.Struct("<iHhI")
"""About a process and a semaphore: what undoes its operations, or (kind) that it waits for more or for zero."""
_UNDOES, _WAITS_FOR_MORE, _WAITS_FOR_ZERO = 1, 2, 3
_MOST_NOTES: Final = 1024


class _Set:
    """The contents of a semaphore set, to be changed and saved."""

    def __init__(self, ipc: Ipc, entry: Entry) -> None:
        self._entry = entry
        self._notes_at = entry.a * _VALUE.size
        raw = entry.read(self._notes_at + _MOST_NOTES * _NOTE.size)
        pairs = list(_VALUE.iter_unpack(raw[: self._notes_at]))
        self.values: list[int] = [value for value, _ in pairs]
        self.pids: list[int] = [pid for _, pid in pairs]
        self.notes: list[tuple[int, int, int, int]] = []
        for note in _NOTE.iter_unpack(raw[self._notes_at :]):
            if not note[3]:
                break
            self.notes.append(note)
        dead = {pid for pid, *_ in self.notes if not ipc.family.has(pid)}
        if dead:
            self.undo(dead)
            self.save()

    def undo(self, pids: set[int]) -> None:
        """These processes are over."""
        for pid, number, adjust, kind in self.notes:
            if pid in pids and kind == _UNDOES and adjust:
                self.values[number] = min(max(self.values[number] + adjust, 0), _MOST_VALUE)
                self.pids[number] = pid
        self.notes = [note for note in self.notes if note[0] not in pids]

    def save(self) -> None:
        raw = b"".join(_VALUE.pack(*pair) for pair in zip(self.values, self.pids, strict=True))
        raw += b"".join(_NOTE.pack(*note) for note in self.notes[:_MOST_NOTES])
        raw += bytes(_NOTE.size) * (len(self.notes) < _MOST_NOTES)
        self._entry.write(raw)
        self._entry.changed()

    def waiting(self, number: int, kind: int) -> int:
        return sum(note[1] == number and note[3] == kind for note in self.notes)

    def adjust(self, pid: int, changes: dict[int, int]) -> int:
        """Remember what undoes a process's operations; 0 or a negative errno."""
        kept = {note[1]: note[2] for note in self.notes if note[0] == pid and note[3] == _UNDOES}
        for number, change in changes.items():
            kept[number] = kept.get(number, 0) - change
            if not -_MOST_VALUE - 1 <= kept[number] <= _MOST_VALUE:
                return -errno.ERANGE
        others = [note for note in self.notes if note[0] != pid or note[3] != _UNDOES]
        mine = [(pid, number, value, _UNDOES) for number, value in kept.items() if value]
        if len(others) + len(mine) > _MOST_NOTES:
            return -errno.ENOSPC
        self.notes = others + mine
        return 0

    def clear(self, number: int | None = None) -> None:
        """Nothing is to be undone of a semaphore (None: of any), whose value has been set."""
        self.notes = [
            note for note in self.notes if note[3] != _UNDOES or (number is not None and note[1] != number)
        ]


def undo(ipc: Ipc, entry: Entry, pids: set[int]) -> None:
    """These processes are over: their operations with SEM_UNDO are undone."""
    semaphores = _Set(ipc, entry)
    if any(note[0] in pids for note in semaphores.notes):
        semaphores.undo(pids)
        semaphores.save()


def semget(t: GuestThread, key: int, count: int, flags: int) -> int:
    count, flags = s32(count), s32(flags)
    if not 0 <= count <= _MOST_SEMAPHORES:
        return -errno.EINVAL

    def make(ipc: Ipc, key: int) -> Entry | None:
        if not count:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        entry = ipc.make(SEM, flags & _MODES, count * _VALUE.size + _MOST_NOTES * _NOTE.size, key=key)
        if entry is not None:
            entry.a, entry.second = count, _now()
            entry.save()
        return entry

    return _get(t, SEM, key, flags, lambda entry: count <= entry.a, make)


def semop(t: GuestThread, number: int, operations: int, count: int) -> int:
    return semtimedop(t, number, operations, count, 0)


def semtimedop(t: GuestThread, number: int, address: int, count: int, timeout: int) -> int:
    number, count = s32(number), count & 0xFFFF_FFFF
    deadline = time.monotonic() + read_timespec(t.memory, timeout) if timeout else None
    if count < 1 or number < 0:
        return -errno.EINVAL
    if count > _MOST_OPERATIONS:
        return -errno.E2BIG
    operations = list(_OPERATION.iter_unpack(t.memory.read(address, count * _OPERATION.size)))
    ipc, me = Ipc.of(t.process), os.getpid()
    noted: tuple[int, int, int, int] | None = None
    begun: int | None = None
    while True:
        with ipc.held():
            entry = ipc.find(SEM, number)
            if entry is None:
                return -errno.EINVAL if begun is None else -errno.EIDRM
            if any(which >= entry.a for which, _, _ in operations):
                return -errno.EFBIG
            if not entry.allows(2 if any(change for _, change, _ in operations) else 4):
                return -errno.EACCES
            semaphores = _Set(ipc, entry)
            if noted is not None:
                semaphores.notes.remove(noted)
                noted = None
                if begun is not None and begun < 0:
                    semaphores.save()
                    return begun
            blocked, result = _operate(semaphores, operations, me)
            if blocked is None:
                if result == 0:
                    ipc.undoes = ipc.undoes or any(flags & _UNDO for _, _, flags in operations)
                    entry.first = _now()
                    entry.save()
                    semaphores.save()
                return result
            which, change, flags = blocked
            if flags & _NOWAIT:
                return -errno.EAGAIN
            semaphores = _Set(ipc, entry)
            if len(semaphores.notes) >= _MOST_NOTES:
                return -errno.ENOSPC
            noted = me, which, 0, _WAITS_FOR_MORE if change else _WAITS_FOR_ZERO
            semaphores.notes.append(noted)
            semaphores.save()
            seen = entry.changes()
        begun = wait(t, ipc, entry, seen, deadline)
        if begun == -errno.ETIMEDOUT:
            begun = -errno.EAGAIN


def _operate(
    semaphores: _Set, operations: list[tuple[int, int, int]], me: int
) -> tuple[tuple[int, int, int] | None, int]:
    """Do all of them, or none: the one that has to wait, if any, and the result."""
    values = list(semaphores.values)
    changes: dict[int, int] = {}
    for operation in operations:
        which, change, flags = operation
        value = values[which]
        if (not change and value) or value + change < 0:
            return operation, 0
        if value + change > _MOST_VALUE:
            return None, -errno.ERANGE
        values[which] = value + change
        if flags & _UNDO and change:
            changes[which] = changes.get(which, 0) + change
    if changes and (result := semaphores.adjust(me, changes)):
        return None, result
    semaphores.values = values
    for which, _, _ in operations:
        semaphores.pids[which] = me
    return None, 0


def semctl(t: GuestThread, number: int, which: int, command: int, argument: int) -> int:
    ipc, memory = Ipc.of(t.process), t.memory
    number, which, command = s32(number), s32(which), s32(command)
    if number < 0:
        return -errno.EINVAL
    with ipc.held():
        if command in (_INFO, _SEM_INFO):
            found = list(ipc.entries(SEM))
            used = (len(found), sum(entry.a for entry in found)) if command == _SEM_INFO else (20, 32767)
            memory.write(
                argument,
                struct.pack(
                    "<10i",
                    1024000000,
                    _INDEXES,
                    1024000000,
                    1024000000,
                    32000,
                    500,
                    500,
                    used[0],
                    32767,
                    used[1],
                ),
            )
            return _highest(ipc, SEM)
        entry = _meant(ipc, SEM, command, number, _SEM_STAT, _SEM_STAT_ANY)
        if isinstance(entry, int):
            return entry
        if command in (_STAT, _SEM_STAT, _SEM_STAT_ANY):
            words = [entry.first, 0, entry.second, 0, entry.a, 0, 0]
            if t.abi.column != "x86_64":  # which had 32-bit times in between
                words = [entry.first, entry.second, entry.a, 0, 0]
            memory.write(argument, _perm(entry) + struct.pack(f"<{len(words)}q", *words))
            return 0 if command == _STAT else entry.id
        if command in (_RMID, _SET):
            raw = memory.read(argument, _PERM.size) if command == _SET else b""
            if not entry.owned():
                return -errno.EPERM
            if command == _RMID:
                ipc.remove(entry)
                return 0
            _set_perm(t, entry, raw)
            entry.second = _now()
            entry.save()
            return 0
        return _semaphore(t, ipc, entry, which, command, argument)


def _semaphore(t: GuestThread, ipc: Ipc, entry: Entry, which: int, command: int, argument: int) -> int:
    """The commands about values. The family's lock is held."""
    if not _GETPID <= command <= _SETALL:
        return -errno.EINVAL
    one = command not in (_GETALL, _SETALL)
    if command == _SETVAL and not 0 <= s32(argument) <= _MOST_VALUE:
        return -errno.ERANGE
    if one and not 0 <= which < entry.a:
        return -errno.EINVAL
    changes = command in (_SETVAL, _SETALL)
    if not entry.allows(2 if changes else 4):
        return -errno.EACCES
    semaphores = _Set(ipc, entry)
    if changes:
        if command == _SETVAL:
            semaphores.values[which], semaphores.pids[which] = s32(argument), os.getpid()
            semaphores.clear(which)
        else:
            values = struct.unpack(f"<{entry.a}H", t.memory.read(argument, 2 * entry.a))
            if any(value > _MOST_VALUE for value in values):
                return -errno.ERANGE
            semaphores.values[:] = values
            semaphores.pids[:] = [os.getpid()] * entry.a
            semaphores.clear()
        entry.second = _now()
        entry.save()
        semaphores.save()
        return 0
    if command == _GETALL:
        t.memory.write(argument, struct.pack(f"<{entry.a}H", *semaphores.values))
        return 0
    if command == _GETPID:
        return semaphores.pids[which]
    if command == _GETVAL:
        return semaphores.values[which]
    return semaphores.waiting(which, _WAITS_FOR_MORE if command == _GETNCNT else _WAITS_FOR_ZERO)


# -- messages ---------------------------------------------------------------------------------------------------

_MOST_MESSAGE, _MOST_BYTES = 8192, 16384
_MESSAGE: Final = struct.Struct("<qI")
_NOERROR, _EXCEPT, _COPY = 0o10000, 0o20000, 0o40000
_MSG_STAT, _MSG_INFO, _MSG_STAT_ANY = 11, 12, 13


def msgget(t: GuestThread, key: int, flags: int) -> int:
    flags = s32(flags)

    def make(ipc: Ipc, key: int) -> Entry | None:
        entry = ipc.make(MSG, flags & _MODES, _MOST_BYTES * (1 + _MESSAGE.size), key=key)
        if entry is not None:
            entry.size, entry.third = _MOST_BYTES, _now()
            entry.save()
        return entry

    return _get(t, MSG, key, flags, lambda _entry: True, make)


# In an entry: ``a`` bytes and ``b`` messages are there, ``size`` is msg_qbytes; first, second and third are the times of the
# last msgsnd, msgrcv and change.


def msgsnd(t: GuestThread, number: int, address: int, size: int, flags: int) -> int:
    number, size = s32(number), s64(size)
    kind = s64(t.memory.load(address, 8))
    if not 0 <= size <= _MOST_MESSAGE or number < 0 or kind < 1:
        return -errno.EINVAL
    data = t.memory.read(address + 8, size)
    ipc, waited = Ipc.of(t.process), False
    while True:
        with ipc.held():
            entry = ipc.find(MSG, number)
            if entry is None:
                return -errno.EIDRM if waited else -errno.EINVAL
            if not entry.allows(2):
                return -errno.EACCES
            if entry.a + size <= entry.size and entry.b + 1 <= entry.size:
                entry.write(_MESSAGE.pack(kind, size) + data, entry.a + entry.b * _MESSAGE.size)
                entry.a, entry.b = entry.a + size, entry.b + 1
                entry.first, entry.pid = _now(), os.getpid()
                entry.save()
                entry.changed()
                return 0
            if flags & _NOWAIT:
                return -errno.EAGAIN
            seen = entry.changes()
        waited = True
        if wait(t, ipc, entry, seen, None) == -errno.EINTR:
            return RESTART_NO_HANDLER


def _wanted(messages: list[tuple[int, int, int]], kind: int, flags: int) -> int:
    """The place of the message that msgrcv takes, -1 for none; (type, offset, size) each."""
    if flags & _COPY:
        return kind if 0 <= kind < len(messages) else -1
    if kind < 0:
        low = -kind
        found = [(of, place) for place, (of, _, _) in enumerate(messages) if of <= low]
        return min(found)[1] if found else -1
    for place, (of, _, _) in enumerate(messages):
        if not kind or (of != kind if flags & _EXCEPT else of == kind):
            return place
    return -1


def msgrcv(t: GuestThread, number: int, address: int, size: int, kind: int, flags: int) -> int:
    number, size, kind = s32(number), s64(size), s64(kind)
    if number < 0 or size < 0:
        return -errno.EINVAL
    if flags & _COPY and (not flags & _NOWAIT or flags & _EXCEPT):
        return -errno.EINVAL
    ipc, waited = Ipc.of(t.process), False
    while True:
        with ipc.held():
            entry = ipc.find(MSG, number)
            if entry is None:
                return -errno.EIDRM if waited else -errno.EINVAL
            if not entry.allows(4):
                return -errno.EACCES
            raw = entry.read(entry.a + entry.b * _MESSAGE.size)
            messages, at = [], 0
            while at < len(raw):
                of, length = _MESSAGE.unpack_from(raw, at)
                messages.append((of, at, length))
                at += _MESSAGE.size + length
            place = _wanted(messages, kind, flags)
            if place >= 0:
                of, at, length = messages[place]
                if length > size and not flags & _NOERROR:
                    return -errno.E2BIG
                start = at + _MESSAGE.size
                data = raw[start : start + min(length, size)]
                if flags & _COPY:
                    if length > size:
                        return -errno.EINVAL
                    break  # it stays
                entry.write(raw[start + length :], at)
                entry.a, entry.b = entry.a - length, entry.b - 1
                entry.second, entry.last_pid = _now(), os.getpid()
                entry.save()
                entry.changed()
                break
            if flags & _NOWAIT:
                return -errno.ENOMSG
            seen = entry.changes()
        waited = True
        if wait(t, ipc, entry, seen, None) == -errno.EINTR:
            return RESTART_NO_HANDLER
    t.memory.store(address, 8, of)
    t.memory.write(address + 8, data)
    return len(data)


def msgctl(t: GuestThread, number: int, command: int, address: int) -> int:
    ipc, memory, number, command = Ipc.of(t.process), t.memory, s32(number), s32(command)
    if number < 0 or command < 0:
        return -errno.EINVAL
    with ipc.held():
        if command in (_INFO, _MSG_INFO):
            found = list(ipc.entries(MSG))
            counts = (len(found), sum(entry.b for entry in found), sum(entry.a for entry in found))
            pool, entries, bytes_ = (
                counts if command == _MSG_INFO else (_INDEXES * _MOST_BYTES // 1024, _MOST_BYTES, _MOST_BYTES)
            )
            memory.write(
                address,
                struct.pack(
                    "<7iH2x", pool, entries, _MOST_MESSAGE, _MOST_BYTES, _INDEXES, 16, bytes_, 0xFFFF
                ),
            )
            return _highest(ipc, MSG)
        entry = _meant(ipc, MSG, command, number, _MSG_STAT, _MSG_STAT_ANY)
        if isinstance(entry, int):
            return entry
        if command in (_STAT, _MSG_STAT, _MSG_STAT_ANY):
            words = (entry.first, entry.second, entry.third, entry.a, entry.b, entry.size)
            memory.write(
                address, _perm(entry) + struct.pack("<6q2iQQ", *words, entry.pid, entry.last_pid, 0, 0)
            )
            return 0 if command == _STAT else entry.id
        if command not in (_RMID, _SET):
            return -errno.EINVAL
        raw = memory.read(address, _PERM.size + 48) if command == _SET else b""
        if not entry.owned():
            return -errno.EPERM
        if command == _RMID:
            ipc.remove(entry)
            return 0
        (most,) = struct.unpack_from("<Q", raw, _PERM.size + 40)
        if most > _MOST_BYTES:
            return -errno.EPERM
        _set_perm(t, entry, raw)
        entry.size, entry.third = most, _now()
        entry.save()
        entry.changed()
    return 0
