"""System calls that an engine may answer itself: what vm_core tells it, and keeps current.

An engine that can do so looks, before it returns Syscall, at the vCPU's header word ``calls``. It is 0 (every call is
vm_core's), or the host address of the process's :class:`NativeCalls`: the operation for each call number, the constants
that are results, the host descriptor behind each guest descriptor, and the signal dispositions. An engine does an
operation only where it can do all of it exactly as the handler in vm_core would, and else returns Syscall with nothing
changed; so any engine may ignore all of this, or parts of it.

Rules for an engine:

* Header ``attention`` is not 0, or ``patience`` is used up: return Syscall. Each call takes 1 from ``patience``, and 1
  more for each 4 KiB it transfers, so that Python (Ctrl-C, signals of the host) is never far.
* ``native_count`` counts the calls it answered.
* Before it takes a number from the descriptor table it makes ``in_call`` odd with a full barrier, and even when it has
  done with it: vm_core closes no host descriptor that a call may be using.
* After it has unblocked a signal in ``signal_mask`` it looks, behind a full barrier, at ``signal_pending``: if that is
  set it takes the change back and returns Syscall.
* A wait sets ``waiting`` first and waits for the word ``attention`` as well, where vm_core wakes it; or it waits for the
  descriptor ``wake_fd`` as well, which vm_core makes ready. No wait is longer than ``wait_nanoseconds``.
* A path is looked for only below the directories of the table at ``MOUNTS``, and only with what the host's openat2 is told
  by ``RESOLVE``, or as one name that no link is followed at. ``NAMES`` is odd while that table or the working directory
  changes, and different afterwards. A path with ``..``, a link or anything that is not just the host's is vm_core's.
* It opens and closes files, and maps memory, only while the word ``ALONE`` is not 0: no other thread of the guest is there.
  What it has opened has ``FD_OPENED`` and no File, until vm_core needs one (:meth:`NativeCalls.opened`).
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
import stat
from collections.abc import Mapping

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import Abi
from vm_core.memory import GuestMemory

if TYPE_CHECKING:
    from vm_core.linux.files import File
    from vm_core.linux.paths import Namespace
    from vm_core.linux.signal import Action
    from vm_core.linux.table import Entry

__all__ = [
    "ACTIONS",
    "ADVICE",
    "ALONE",
    "CWD",
    "DESCRIPTORS",
    "ENTRY_BYTES",
    "FD_AGAIN",
    "FD_AT",
    "FD_BELOW",
    "FD_CHANGES",
    "FD_EPOLL",
    "FD_LIST",
    "FD_LOCAL",
    "FD_OPENED",
    "FD_POLL",
    "FD_READ",
    "FD_SEEK",
    "FD_SMALL",
    "FD_SOCKET",
    "FD_STAT",
    "FD_TAKEN",
    "FD_WAITS",
    "FD_WRITE",
    "GENERATION",
    "HALF_OPENED",
    "HOST_UMASK",
    "LIMIT",
    "LONGEST",
    "MADE",
    "MAX_DESCRIPTORS",
    "MMAP_TOP",
    "MODES",
    "MOUNTS",
    "NAMES",
    "NUMBERS",
    "OPENED",
    "OPENED_CLOEXEC",
    "OPENED_FIXED",
    "OPERATIONS",
    "PATIENCE",
    "RECENT",
    "RECENTS",
    "RECENT_BYTES",
    "RESOLVE",
    "WAITS",
    "Constant",
    "NativeCalls",
    "Operation",
]

PATIENCE: Final = 4096
"""A millisecond of small calls."""
OPERATIONS: Final = 256
"""Byte offset of the operations: one byte for each call number below NUMBERS, 0 for one that is vm_core's."""
NUMBERS: Final = 512
HALF_OPENED: Final = 80
"""Byte offset of a word for what an engine has opened for a call that it then leaves to vm_core, which is not to open it again (a FIFO,
whose other side would see somebody come and go): the host's descriptor plus 1, and OPENED_FIXED. 0 for nothing."""
GENERATION: Final = 128
"""Byte offset of a word that is odd while a disposition changes, and different afterwards."""
ACTIONS: Final = 1024
"""Byte offset of the dispositions by signal number: handler, SA_* flags, mask; 8 bytes each and 8 unused."""
DESCRIPTORS: Final = 4096
"""Byte offset of the descriptors: a word each, the host's number in the low half, the FD_* bits above it, 0 for one that
is vm_core's."""
MAX_DESCRIPTORS: Final = 4096
FD_READ, FD_WRITE, FD_SEEK, FD_AT, FD_POLL, FD_SMALL = (1 << 32 + bit for bit in range(6))
"""May be read, written, lseek()ed, used with pread and pwrite; has to be polled first, as it may block; takes at most
4096 bytes at once (a pipe writes so many entirely or not at all)."""
FD_STAT, FD_LIST, FD_SOCKET, FD_EPOLL = (1 << 32 + bit for bit in range(6, 10))
"""Is what the host's fstat says; a directory of the host, whose entries are the guest's; a socket; an epoll set."""
FD_CHANGES, FD_BELOW, FD_OPENED, FD_TAKEN, FD_WAITS, FD_LOCAL = (1 << 32 + bit for bit in range(10, 16))
"""A directory in which the guest may change something; one below which all is the host's; opened by an engine; in use; a
pipe, socket or event whose reader waits for what comes; a socket of AF_UNIX."""
FD_AGAIN: Final = 1 << 48
"""The guest's own O_NONBLOCK is set: EAGAIN is the result."""
OPENED: Final = DESCRIPTORS + 8 * MAX_DESCRIPTORS
"""Byte offset of what is known of what engines have opened, a word each: the guest's O_* flags and the bits OPENED_*."""
OPENED_CLOEXEC, OPENED_FIXED = 1 << 32, 1 << 33
"""Closed by execve; in a directory where the guest may change nothing."""
NAMES: Final = OPENED + 8 * MAX_DESCRIPTORS
"""Byte offset of the words for paths: the generation, and those that follow."""
ALONE, LIMIT, MODES, HOST_UMASK, WAITS, MMAP_TOP, CWD = (NAMES + 8 * word for word in range(1, 8))
"""Whether there is one thread; the number of descriptors; the mode bits that a new file may have, and those that the host
would take from it; whether a call may wait; below which address new mappings go,
or 0 if an engine makes none; bytes and text of the working directory, which is empty for / (all ones: not here)."""
LONGEST: Final = 1024
"""Bytes of a path, or of the working directory's."""
MOUNTS: Final = CWD + 8 + LONGEST
"""Byte offset of the number of entries, and then the entries: bytes of the guest path, a word, the path (empty for /). A
path belongs to the last of the entries that are it or lie above it; an entry with bit 62 is this path only, one with bit 63
is vm_core's. In the others' word are a host directory's descriptor and FD_CHANGES."""
ENTRY_BYTES, _MOST_MOUNTS = 128, 48
RECENT: Final = MOUNTS + 8 + ENTRY_BYTES * _MOST_MOUNTS
"""Byte offset of the paths of what was opened last, by the descriptor's number modulo RECENTS: the descriptor plus 1 in the
low half and the bytes of the path in the high half of a word, then the path."""
RECENTS, RECENT_BYTES = 32, 256
MADE: Final = RECENT + RECENTS * RECENT_BYTES
"""Byte offset of what engines have mapped: :attr:`vm_core.memory.GuestMemory.made`."""
ADVICE: Final = frozenset({*range(5), *range(8, 18), *range(20, 26)})
"""What madvise() may be asked. Not MADV_WIPEONFORK: who is told that it works relies on it, for secrets."""
RESOLVE: Final = 0x08 | 0x04 | 0x02
"""RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS of openat2."""
_EXACT, _OURS = 1 << 62, 1 << 63
_BYTES: Final = MADE + 8 * len(GuestMemory.made)


class Constant(enum.IntEnum):
    """Words at the block's start, by index. As an operation: the result is that word."""

    PID = 1
    PARENT = 2
    UID = 3
    GID = 4
    BRK_START = 5
    BRK = 6
    TRAMPOLINE = 7
    EUID = 8
    EGID = 9


class Operation(enum.IntEnum):
    """What an engine does for a call; arguments and results are those of the Linux call of the same name."""

    GETTID = 16
    CLOCK_GETTIME = 17
    GETTIMEOFDAY = 18
    SCHED_YIELD = 19
    READ = 20
    WRITE = 21
    PREAD64 = 22
    PWRITE64 = 23
    LSEEK = 24
    READV = 25
    WRITEV = 26
    FUTEX = 27
    BRK = 28
    RT_SIGPROCMASK = 29
    RT_SIGRETURN = 30
    TKILL = 31
    TGKILL = 32
    KILL = 33
    NANOSLEEP = 34
    CLOCK_NANOSLEEP = 35
    GETRANDOM = 36
    MADVISE = 37
    FSTAT = 38
    GETDENTS64 = 39
    RECVFROM = 40
    EPOLL_PWAIT = 41
    OPENAT = 42
    CLOSE = 43
    NEWFSTATAT = 44
    STATX = 45
    MMAP = 46
    MUNMAP = 47
    PPOLL = 48
    SENDMSG = 49
    RECVMSG = 50
    SENDTO = 51
    PSELECT6 = 52


_CONSTANTS: Final = {
    "getpid": Constant.PID,
    "getppid": Constant.PARENT,
    "getuid": Constant.UID,
    "geteuid": Constant.EUID,
    "getgid": Constant.GID,
    "getegid": Constant.EGID,
}
_NAMED: Final[dict[str, int]] = {
    **{operation.name.lower(): int(operation) for operation in Operation},
    **{name: int(constant) for name, constant in _CONSTANTS.items()},
}
_WAITS: Final = frozenset({Operation.FUTEX})
_YIELDS: Final = frozenset({Operation.SCHED_YIELD, Operation.NANOSLEEP, Operation.CLOCK_NANOSLEEP})
_SIGNALS: Final = frozenset({Operation.RT_SIGRETURN, Operation.TKILL, Operation.TGKILL, Operation.KILL})


class NativeCalls:
    """The block of one process. ``address`` is its host address, pinned as long as the object lives."""

    def __init__(self, pid: int, uid: int, gid: int) -> None:
        # PERF: most of it is never touched; a fork's child has a copy.
        self._storage = mmap.mmap(-1, _BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # SAFETY: the block is _storage, which this object keeps alive; engines reach it through vCPUs of its process.
        self.address = ctypes.addressof(ctypes.c_uint64.from_buffer(self._storage))
        self._bytes = memoryview(self._storage)
        self.words = self._bytes.cast("Q")
        self.words[Constant.PID], self.words[Constant.PARENT] = pid, 1
        self.words[Constant.UID], self.words[Constant.GID] = uid, gid
        self.words[Constant.EUID], self.words[Constant.EGID] = os.geteuid(), os.getegid()
        self._getppid = 0

    def forked(self, pid: int, parent: int) -> None:
        """In the child of a fork, whose parent may be over before it is: who it is then, vm_core is to say."""
        self.words[Constant.PID], self.words[Constant.PARENT] = pid, parent
        if self._getppid:
            self._bytes[OPERATIONS + self._getppid] = 0

    def serve(self, calls: Mapping[int, Entry], abi: Abi, *, waits: bool, hosted: bool = False) -> None:
        """Let engines answer what they can of these calls; without ``waits``, none that may wait, and if the process is
        ``hosted`` with others in one host thread, none that gives it up."""
        self.words[WAITS // 8] = int(waits)
        for number, (_, _, row) in calls.items():
            operation = _NAMED.get(row.name)
            if (
                operation is None
                or number >= NUMBERS
                or (operation in _WAITS and not waits)
                or (operation in _YIELDS and hosted)
                or (operation in _SIGNALS and not abi.plain_frame)
            ):
                continue
            self._bytes[OPERATIONS + number] = operation
            if operation == Constant.PARENT:
                self._getppid = number

    def describe(self, number: int, file: File | None) -> None:
        """A guest descriptor now names this file, or none."""
        if 0 <= number < MAX_DESCRIPTORS:
            word = 0 if file is None else FD_TAKEN | (_descriptor(file) if file.fd >= 0 else 0)
            self.words[DESCRIPTORS // 8 + number] = word

    def take(self, number: int) -> None:
        """A guest descriptor is in use, and what it names is vm_core's alone."""
        if 0 <= number < MAX_DESCRIPTORS:
            self.words[DESCRIPTORS // 8 + number] = FD_TAKEN

    def free(self, lowest: int) -> int:
        """The lowest descriptor from a number on that is not in use."""
        words, at = self.words, DESCRIPTORS // 8 + lowest
        while at < OPENED // 8 and words[at]:
            at += 1
        return at - DESCRIPTORS // 8

    def maps(self, memory: GuestMemory, top: int) -> None:
        """Let engines map private memory below an address; with a cap, or where the host does not protect pages, none."""
        memory.made = self.words[MADE // 8 : _BYTES // 8]
        for at in range(len(memory.made)):
            memory.made[at] = 0
        self.words[MMAP_TOP // 8] = top if memory.enforced and memory.limit is None else 0

    def alone(self, only: bool) -> None:
        """Whether the process has one thread."""
        self.words[ALONE // 8] = int(only)

    def opened(self) -> list[int]:
        """The descriptors that engines have opened, and of which no File is known."""
        words = self.words[DESCRIPTORS // 8 : DESCRIPTORS // 8 + self.words[LIMIT // 8]]
        return [number for number, word in enumerate(words) if word & FD_OPENED]

    def half_opened(self) -> tuple[int, bool] | None:
        """The host's descriptor of what an engine has opened for the call that is being made, which is the caller's from now on, and
        whether it is in a directory where the guest may change nothing. None if it has opened nothing."""
        word = self.words[HALF_OPENED // 8]
        if not word:
            return None
        self.words[HALF_OPENED // 8] = 0
        return (word & 0xFFFF_FFFF) - 1, bool(word & OPENED_FIXED)

    def opened_as(self, number: int) -> tuple[int, int, str | None] | None:
        """The host's descriptor, the flags with the bits OPENED_*, and the path, if it is still known, of what an engine has
        opened. None if it has not."""
        word = self.words[DESCRIPTORS // 8 + number] if 0 <= number < MAX_DESCRIPTORS else 0
        if not word & FD_OPENED:
            return None
        at = RECENT + number % RECENTS * RECENT_BYTES
        head, path = self.words[at // 8], None
        if head & 0xFFFF_FFFF == number + 1:
            path = os.fsdecode(bytes(self._bytes[at + 8 : at + 8 + (head >> 32)])) or "/"
        return word & 0xFFFF_FFFF, self.words[OPENED // 8 + number], path

    def adopt(self, number: int, file: File) -> None:
        """There is a File now for what an engine has opened."""
        kept = self.words[DESCRIPTORS // 8 + number] & (FD_BELOW | FD_CHANGES)
        self.describe(number, file)
        self.words[DESCRIPTORS // 8 + number] |= kept

    def work_in(self, directory: str) -> None:
        """The working directory, as a canonical guest path."""
        raw = os.fsencode(directory) if directory != "/" else b""
        self.words[NAMES // 8] += 1
        if len(raw) < LONGEST:
            self._bytes[CWD + 8 : CWD + 8 + len(raw)] = raw
        self.words[CWD // 8] = len(raw) if len(raw) < LONGEST else (1 << 64) - 1
        self.words[NAMES // 8] += 1

    def show(self, namespace: Namespace) -> None:
        """What a guest path belongs to. Without openat2, and if it is too much, all paths are vm_core's."""
        entries = namespace.places() if namespace.use_openat2 else []
        raws = [(b"" if path == "/" else os.fsencode(path), fd, kind) for path, fd, kind in entries]
        if len(raws) > _MOST_MOUNTS or any(len(raw) > ENTRY_BYTES - 16 for raw, _, _ in raws):
            raws = []
        kinds = {"read": 0, "write": FD_CHANGES, "below": _OURS, "only": _OURS | _EXACT}
        raws.sort(key=lambda entry: (len(entry[0]), entry[2] == "only"))
        self.words[NAMES // 8] += 1
        for index, (raw, fd, kind) in enumerate(raws):
            at = MOUNTS + 8 + index * ENTRY_BYTES
            self.words[at // 8] = len(raw)
            self.words[at // 8 + 1] = kinds[kind] | max(fd, 0)
            self._bytes[at + 16 : at + 16 + len(raw)] = raw
        self.words[MOUNTS // 8] = len(raws)
        self.words[NAMES // 8] += 1

    def act(self, number: int, action: Action) -> None:
        """The disposition of a signal. The lock of the process is held."""
        words, at = self.words, ACTIONS // 8 + 4 * number
        words[GENERATION // 8] += 1
        words[at], words[at + 1], words[at + 2] = action.handler, action.flags, action.mask
        words[GENERATION // 8] += 1


_AF_UNIX: Final = 1
_STEADY: Final = frozenset({(1, 3), (1, 5), (1, 7), (1, 9)})
"""Devices that are always ready: null, zero, full and urandom."""


def _device(fd: int) -> tuple[int, tuple[int, int]]:
    """Mode and device number of an open file."""
    info = os.fstat(fd)
    return info.st_mode, (os.major(info.st_rdev), os.minor(info.st_rdev))


def _descriptor(file: File) -> int:
    """A descriptor's word: only what the handlers would pass to the host as it is."""
    from vm_core.linux.files import DIRECTORY, REGULAR, SOCKET, STREAM

    access = file.flags & 3
    can = (FD_READ if access != 1 else 0) | (FD_WRITE if access else 0)
    told = FD_STAT if file.mode is None else 0
    if file.kind == REGULAR:
        # Where somebody looks for what made the file, its beginning is not the host's.
        return file.fd | can | told | (FD_SEEK | FD_AT if file.socket is None else 0)
    if file.kind == DIRECTORY:
        return file.fd | FD_LIST | FD_SEEK | told
    if file.kind in (STREAM, SOCKET):
        mode, device = _device(file.fd)
        steady = stat.S_ISCHR(mode) and device in _STEADY
        pipe, event = stat.S_ISFIFO(mode), file.path == "anon_inode:[eventfd]"
        sock, ours, again = file.kind == SOCKET, not file.inherited, file.flags & os.O_NONBLOCK
        local = sock and getattr(file.socket, "family", None) == _AF_UNIX
        # A socket of the network may take a part of a small write; if the guest would wait for the rest, vm_core does.
        if not (pipe or steady or (ours and (event or (sock and (again or local))))):
            can &= ~FD_WRITE
        if ours and (pipe or sock or not stat.S_IFMT(mode)):
            can |= FD_AGAIN if again else FD_WAITS
        if not (ours and sock and again):
            can |= FD_SMALL
        if sock:
            can |= FD_SOCKET | (FD_LOCAL if local else 0)
        elif file.path == "anon_inode:[eventpoll]":
            can |= FD_EPOLL
        return file.fd | can | FD_SEEK | told | (0 if ours or steady else FD_POLL)
    return 0
