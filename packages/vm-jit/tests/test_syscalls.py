"""System calls, signals and futexes that native code answers: as vm_core's own handlers, call for call."""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from vm_core.linux.futex import can_wait_for_two
from vm_core.linux.native import FD_AT, FD_READ, FD_SEEK, FD_WRITE, OPENED, NativeCalls
from vm_core.linux.process import Process
from vm_core.runner import DEVNULL, PIPE, run
from vm_core.state import HEADER
from vm_core.testing.guests import program

NUMBERS = {
    "dup3": 24, "madvise": 233, "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67,
    "pwrite64": 68, "futex": 98, "nanosleep": 101, "clock_gettime": 113, "clock_nanosleep": 115, "sched_yield": 124,
    "tkill": 130, "tgkill": 131, "kill": 129, "rt_sigprocmask": 135, "gettimeofday": 169, "getpid": 172, "getppid": 173,
    "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "brk": 214, "getrandom": 278,
    "epoll_pwait": 22, "getdents64": 61, "fstat": 80, "sendto": 206, "pselect6": 72, "recvfrom": 207, "ppoll": 73, "sendmsg": 211,
    "recvmsg": 212,
}  # fmt: skip
PATH_NUMBERS = {
    "openat": 56,
    "newfstatat": 79,
    "statx": 291,
    "fcntl": 25,
    "chdir": 49,
    "dup": 23,
    "umask": 166,
    "readlinkat": 78,
}
TIMES = ("clock_gettime", "gettimeofday")
ENGINES = ("interp", "jit")
_NATIVE = HEADER["native_count"] // 8

# A list of calls: number, six arguments, and room for the result.
TABLE = """
    _start: la s0, table
            la s1, end
    loop:   bge s0, s1, done
            ld a7, 0(s0)
            ld a0, 8(s0)
            ld a1, 16(s0)
            ld a2, 24(s0)
            ld a3, 32(s0)
            ld a4, 40(s0)
            ld a5, 48(s0)
            ecall
            sd a0, 56(s0)
            addi s0, s0, 64
            j loop
    done:   li a7, 94
            li a0, 0
            ecall
            .align 8
    table:  .zero {size}
    end:    .dword 0
"""
Call = tuple[str, tuple[int, ...]]


class Room:
    """Guest memory that the calls use: two writable pages, one that is read-only, and a hole behind."""

    base = 0x20_0000
    read_only = base + 0x2000
    hole = base + 0x3000

    def __init__(self, seed: int) -> None:
        self.data = random.Random(seed).randbytes(0x3000)

    def fill(self, process: Process) -> None:
        from vm_core.memory import Prot

        process.memory.map(self.base, 0x3000, Prot.RW)
        process.memory.poke(self.base, self.data)
        process.memory.protect(self.read_only, 0x1000, Prot.READ)


def make(image: bytes, engine: str, **options: Any) -> Process:
    return Process(
        ["guest"],
        program=image,
        env={},
        engine=engine,
        stdio=options.pop("stdio", (None, None, None)),
        **options,
    )


def results(
    calls: Sequence[Call], engine: str, room: Room, cwd: Path, regions: list[Any] | None = None
) -> tuple[list[int], bytes, int, int]:
    """The calls' results, the room afterwards, how many calls there were, and how many were answered natively."""
    image = program(TABLE.format(size=64 * len(calls)))
    table = image.rindex(bytes(64 * len(calls) + 8))
    with make(image, engine, cwd=str(cwd)) as process:
        room.fill(process)
        files(process)
        at = 0x10000 + table - 0x1000
        words = b"".join(
            struct.pack(
                "<8Q",
                (NUMBERS | PATH_NUMBERS | MAPPING_NUMBERS)[name],
                *(a & (1 << 64) - 1 for a in args),
                *[0] * (7 - len(args)),
            )
            for name, args in calls
        )
        process.memory.poke(at, words)
        process.run()
        assert process.reason == "exit", process.message
        raw = process.memory.peek(at, 64 * len(calls))
        out = [struct.unpack_from("<q", raw, 64 * i + 56)[0] for i in range(len(calls))]
        left = process.memory.peek(room.base, 0x3000)
        if regions is not None:
            regions += [(r.start, r.end, r.prot, r.shared) for r in process.memory.regions()]
        return out, left, process.system_calls, process.main.words[_NATIVE]


def files(process: Process) -> None:
    """Guest descriptors 0 to 8: files, devices, pipes."""
    from vm_core.linux.files import STREAM, File
    from vm_core.linux.host import call as host_call
    from vm_core.linux.net import Endpoint
    from vm_core.linux.poll import _HOST_EVENT, _Watched

    process.files.namespace  # noqa: B018
    fd = os.memfd_create("data", os.MFD_CLOEXEC)
    os.write(fd, bytes(range(256)) * 40)
    os.lseek(fd, 100, os.SEEK_SET)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(writer, b"in the pipe")
    no_reader = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(no_reader[0])
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number, file in enumerate((
        File(fd, 2),
        File(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), 0),
        File(os.dup(fd), 1),
        File(null, 2),
        File(os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC), 0),
        File(reader, 0o4000),
        File(writer, 0o4001),
        File(os.eventfd(3, os.EFD_NONBLOCK | os.EFD_CLOEXEC), 2 | 0o4000),
        File(os.open(process.files.cwd, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME), 0),
        File(os.dup(null), 2, inherited=True),
    )):  # fmt: skip
        process.files.table[number] = file
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for size in (5, 300, 0, 40):
        pair[1].send(bytes(range(40)) * 8 if size == 300 else b"d" * size)
    ready = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    with select.epoll() as poller:
        events = os.dup(poller.fileno())
    for data in (0x1234_5678_9ABC_DEF0, 7):
        host_call(
            "epoll_ctl", events, 1, os.dup(ready), _HOST_EVENT.pack(select.EPOLLIN | select.EPOLLOUT, data)
        )
    watched = File(events, 2, path="anon_inode:[eventpoll]", kind=STREAM)
    watched.socket = _Watched()
    process.files.table[12] = File(pair[0].detach(), 2 | 0o4000)
    process.files.table[13] = watched
    os.close(ready)
    pair[1].close()
    for number, one in enumerate(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM), 30):
        one.setblocking(False)
        made = File(one.detach(), 2 | 0o4000)
        made.socket = Endpoint(socket.AF_UNIX, socket.SOCK_STREAM, 0)
        process.files.table[number] = made


NO_TIME, SOON, MESSAGE, POLLED, SETS = (Room.read_only + at for at in (0x800, 0x820, 0x840, 0x900, 0xA00))
LOOSE_MESSAGE: int = Room.base + 0x1A00
LOOSE_SETS: int = Room.base + 0x19A0


def place(room: Room) -> None:
    """What ppoll and sendmsg are pointed at: in the page that nothing writes, and one message where anything may."""
    data = bytearray(room.data)

    def put(at: int, raw: bytes) -> None:
        data[at - room.base : at - room.base + len(raw)] = raw

    put(NO_TIME, bytes(16))
    put(SOON, struct.pack("<qq", 0, 1000))
    for at in (MESSAGE, LOOSE_MESSAGE):
        put(at, struct.pack("<7Q", 0, 0, at + 64, 1, 0, 0, 0).ljust(64, b"\0"))
        put(at + 64, struct.pack("<2Q", room.base + 0x1B00, 5))
    numbers = (0, 3, 5, 6, 7, 12, -1, 99, 30, 31, 4, 1, 2, 30, 8, 13)
    polled = b"".join(struct.pack("<ihH", number, 1 | number & 4, 7) for number in numbers)
    put(POLLED, polled)
    put(LOOSE_POLLED, polled)
    for at in (SETS, LOOSE_SETS):
        # Descriptors that are open, and with one that is not.
        put(
            at,
            struct.pack("<QQ", sum(1 << number for number in (0, 3, 5, 6, 7, 12, 30, 31)), 1 << 20 | 0b1101),
        )
    room.data = bytes(data)


LOOSE_POLLED: int = Room.base + 0x1900


def some_calls(rng: random.Random, count: int) -> list[Call]:
    room = Room
    pid = os.getpid()

    def address() -> int:
        return rng.choice((
            room.base + rng.randrange(0x2000), room.base + rng.randrange(0x2000), room.base + 0x1000 - rng.randrange(32),
            room.read_only + rng.randrange(0x1000), room.read_only - rng.randrange(16), room.hole - rng.randrange(16),
            room.hole, 0, 8, (1 << 32) - rng.randrange(9), 1 << 32, rng.getrandbits(64), -1,
        ))  # fmt: skip

    def length() -> int:
        return rng.choice(
            (0, 1, 7, 8, 16, rng.randrange(0x2000), 4096, 4097, 1 << 20, 1 << 21, 1 << 32, -1, 1 << 63)
        )

    def vector(at: int) -> int:
        return at & -8

    out: list[Call] = []
    names = sorted(set(NUMBERS) - {"kill", *TIMES})
    for _ in range(count):
        name = rng.choice(names)
        fd = rng.choice((*range(11), 3, 5, 6, 4096, -1, 1 << 32 | 3, 12))
        args: tuple[int, ...]
        match name:
            case "read" | "write":
                args = (fd, address(), length())
            case "readv" | "writev":
                args = (fd, vector(address()), rng.choice((0, 1, 2, 3, 8, 9, 1024, 1025, -1)))
            case "pread64" | "pwrite64":
                args = (fd, address(), length(), rng.choice((0, 5, 10000, 20000, -1, 1 << 62)))
            case "lseek":
                args = (
                    fd,
                    rng.choice((0, 7, 20000, -1, -200, 1 << 62)),
                    rng.choice((0, 1, 2, 3, 4, 5, 9, 256, -1)),
                )
            case "fstat":
                args = (rng.choice((8, 8, 4096, -1)), address())  # what is the same in each run
            case "getdents64":
                args = (rng.choice((0, 3, 8, 8, 11)), address(), rng.choice((0, 10, 64, 300, 4096, 1 << 21)))
            case "recvfrom":
                place = rng.choice((0, 0, 0, address()))
                args = (
                    rng.choice((12, 12, 12, 0, 5, 99)),
                    address(),
                    length(),
                    rng.choice((0, 0x40, 2, 0x20)),
                    place,
                    0,
                )
            case "pselect6":
                args = (
                    rng.choice((0, 1, 7, 13, 31, 32, 40, 64, 65, -1, 1 << 32 | 13)), *(rng.choice((0, SETS, SETS + 8, LOOSE_SETS, LOOSE_SETS + 8, address() & -8)) for _ in range(3)),
                    rng.choice((NO_TIME, NO_TIME, SOON, room.hole)), rng.choice((0, 0, 0, 0, room.hole)),
                )  # fmt: skip
            case "sendto":
                args = (
                    rng.choice((30, 31, 31, 12, 0, 99)), address(), length(), rng.choice((0, 0x40, 0x4000, 0x4040, 1)),
                    rng.choice((0, 0, 0, address())), 0,
                )  # fmt: skip
            case "epoll_pwait":
                args = (rng.choice((13, 13, 13, 0, 99)), address(), rng.choice((1, 2, 9, 0, -1)), 0, 0, 8)
            case "ppoll":
                args = (
                    rng.choice((POLLED, LOOSE_POLLED, LOOSE_POLLED, LOOSE_POLLED, address() & -8)), rng.choice((1, 2, 5, 8, 16, 17, 0, -1)),
                    rng.choice((NO_TIME, NO_TIME, SOON, room.hole)), rng.choice((0, 0, 0, room.hole)), 8,
                )  # fmt: skip
            case "sendmsg" | "recvmsg":
                args = (
                    rng.choice((30, 31, 31, 12, 0, 99)), rng.choice((MESSAGE, LOOSE_MESSAGE, LOOSE_MESSAGE, address() & -8)),
                    rng.choice((0, 0x40, 0x40)),
                )  # fmt: skip
            case "close":
                args = (rng.choice((9, 10, 11, 4096, -1)),)
            case "dup3":
                args = (rng.choice((0, 3, 4, 9)), rng.choice((9, 10, 11)), rng.choice((0, 0o2000000)))
            case "futex":
                # Never a wait that would wait: nothing else changes the word.
                operation = rng.choice((1, 129, 10, 138, 0, 9, 128, 3, 4, 6, 77, 1 << 33 | 1))
                args = (
                    address() & rng.choice((-1, -4)),
                    operation,
                    0x1234567,
                    0,
                    address() & -4,
                    rng.choice((-1, 0, 2)),
                )
            case "nanosleep":
                args = (rng.choice((0, 8, room.hole)), 0)
            case "clock_nanosleep":
                args = (rng.choice((0, 1, 77)), 0, rng.choice((0, room.hole)), 0)
            case "rt_sigprocmask":
                args = (
                    rng.choice((0, 1, 2, 3, -1)),
                    rng.choice((0, address())),
                    rng.choice((0, address())),
                    rng.choice((8, 8, 4)),
                )
            case "tkill":
                args = (rng.choice((pid, 1, -1)), rng.choice((0, 65, -1)))
            case "tgkill":
                args = (rng.choice((pid, 1)), rng.choice((pid, 1)), rng.choice((0, 65, 99)))
            case "brk":
                args = (rng.choice((0, 1, 0x20000, -1)),)
            case "madvise":
                args = (
                    rng.choice((room.base, room.hole, room.base + 8)),
                    rng.choice((0, 1, 0x3000, 0x4000, -1)),
                    rng.choice((0, 1, 3, 8, 9)),
                )
            case "getrandom":
                args = (rng.choice((room.hole, 0, room.read_only)), rng.choice((1, 8, 256, 300)), 0)
            case _:
                args = ()
        out.append((name, args))
    return out


@pytest.mark.parametrize("seed", range(24))
def test_any_calls_give_the_same(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    calls = some_calls(rng, 300)
    # Vectors that lead somewhere.
    room = Room(seed)
    words = [
        rng.choice((0, 1, 8, 100, 5000, room.base + rng.randrange(0x2000), room.hole - 4))
        for _ in range(0x300)
    ]
    room.data = struct.pack("<768Q", *words) + room.data[6144:]
    place(room)
    expected = results(calls, "reference", room, tmp_path)
    assert expected[3] == 0
    for engine in ENGINES:
        got = results(calls, engine, room, tmp_path)
        for call, one, other in zip(calls, expected[0], got[0], strict=True):
            assert one == other, call
        assert got[1] == expected[1]
        assert got[2] == expected[2]
        assert got[3] > 50


def test_what_is_answered_natively(tmp_path: Path) -> None:
    """Each of the hot calls is, in its usual form; and clocks tell the time."""
    base = Room.base
    room = Room(0)
    room.data = struct.pack("<4Q", base + 64, 0, base + 64, 16).ljust(0x3000, b"\1")
    calls: list[Call] = [
        ("getpid", ()), ("gettid", ()), ("getppid", ()), ("getuid", ()), ("geteuid", ()), ("getgid", ()), ("getegid", ()),
        ("clock_gettime", (1, base + 512)), ("clock_gettime", (0, base + 528)), ("gettimeofday", (base + 544, 0)),
        ("sched_yield", ()), ("read", (4, base + 64, 1)), ("write", (3, base, 1)), ("write", (9, base, 1)),
        ("write", (6, base, 8)), ("read", (5, base + 64, 8)), ("pread64", (0, base + 64, 8, 3)),
        ("pwrite64", (0, base, 8, 3)), ("lseek", (0, 0, 1)), ("readv", (4, base, 2)), ("writev", (3, base, 2)),
        ("futex", (base, 1, 1, 0, 0, 0)), ("futex", (base, 128, 1, 0, 0, 0)), ("brk", (0,)),
        ("madvise", (base, 0x3000, 8)), ("rt_sigprocmask", (0, 0, base + 64, 8)), ("getrandom", (base + 64, 16, 0)),
        ("nanosleep", (base + 0x2000, 0)), ("clock_nanosleep", (1, 0, base + 0x2000, 0)),
        ("ppoll", (LOOSE_POLLED, 16, base + 0x2000, 0, 8)), ("sendmsg", (30, LOOSE_MESSAGE, 0)),
        ("recvmsg", (31, LOOSE_MESSAGE, 0)), ("ppoll", (LOOSE_POLLED + 8, 1, 0, 0, 8)),
    ]  # fmt: skip
    place(room)
    numbers = (3, 30, 4, 1, 8, -1, 3, 3, 30, 31, 4, 1, 2, 30, 8, 5)
    polled = b"".join(struct.pack("<ihH", number, 4, 7) for number in numbers)
    at = LOOSE_POLLED - base
    room.data = room.data[:at] + polled + room.data[at + len(polled) : 0x2000] + bytes(0x1000)
    got, left, made, native = results(calls, "interp", room, tmp_path)
    assert all(result >= 0 or call[1][1:2] == (128,) for call, result in zip(calls, got, strict=True)), got
    assert made == len(calls) + 1
    missing = 0 if can_wait_for_two() else 2
    assert native == len(calls) - missing
    now = struct.unpack_from("<6q", left, 512)
    assert abs(now[0] - time.monotonic()) < 60
    assert abs(now[2] - time.time()) < 60
    assert abs(now[4] - time.time()) < 60
    assert 0 <= now[5] < 1_000_000


PATHS = (
    "file", "./file", "sub/file", "sub//./file", "sub/deeper/file", "sub", "sub/", "sub/.", ".", "./", "..", "../x", "sub/..", "/",
    "link", "sub/link", "dirlink", "dirlink/file", "dirlink/", "loop", "broken", "file/x", "missing", "missing/x", "", "secret",
    "/proc", "/proc/self/fd", "/proc/self/exe", "/dev/null", "/sys", "/tmp", "/tmp/x", "/etc/passwd", "made/new", "made/other",
    "made/../file", "{cwd}", "{cwd}/file", "{cwd}/sub/deeper", "{cwd}x", "//{cwd}/file", "{cwd}/../{name}/file", "out", "out/passwd",
    "sub/" + "n" * 255, "sub/" + "n" * 256, "s/" * 400 + "f", "./" * 600 + "file", "deeper/file", "deeper", "...", ".x", "..x",
)  # fmt: skip
_CREATE, _EXCLUSIVE, _CUT, _APPENDING, _ON_EXEC = 0o100, 0o200, 0o1000, 0o2000, 0o2000000


def path_calls(rng: random.Random, count: int, at: Sequence[int]) -> list[Call]:
    """Calls with the paths that lie at these addresses, and with what they opened."""
    base, out = Room.base, []

    def path() -> int:
        return rng.choice((*at, rng.choice(at) + rng.randrange(4), 0, Room.hole - 2, 1 << 32, -5))

    def directory() -> int:
        return rng.choice((-100, -100, -100, 10, 11, 14, 15, 0, 8, 99, -1, 1 << 32 | 0xFFFF_FF9C))

    for _ in range(count):
        name = rng.choice((
            "openat", "openat", "openat", "newfstatat", "newfstatat", "newfstatat", "statx", "close", "close", "read", "write", "dup3",
            "getdents64", "lseek", "fcntl", "chdir", "dup", "umask",
        ))  # fmt: skip
        fd = rng.choice((10, 11, 14, 15, 16, 17))
        place = rng.choice((base + 8 * rng.randrange(32), base + 3, Room.hole - 100, Room.read_only))
        args: tuple[int, ...]
        match name:
            case "openat":
                flags = rng.choice((0, 0, 1, 2, 3)) | rng.choice(
                    (
                        0,
                        0,
                        0o200000,
                        0o400000,
                        _CREATE,
                        _CREATE | _EXCLUSIVE,
                        _CREATE | _CUT,
                        _ON_EXEC,
                        0o10000000,
                        0o100000,
                    )
                )
                flags |= rng.choice((0, 0, 0o4000, _APPENDING, 1 << 30))
                args = (directory(), path(), flags, rng.choice((0o600, 0o666, 0o777, 0o4755, 0)))
            case "newfstatat":
                args = (
                    directory(),
                    path(),
                    place,
                    rng.choice((0, 0, 0, 0x100, 0x800, 0x1000, 0x1100, 2, 1 << 32)),
                )
            case "statx":
                args = (
                    directory(), path(), rng.choice((0, 0x100, 0x2000, 0x4000, 0x6000, 0x1000)), rng.choice((0x7FF, 1, 0, 1 << 31)), place,
                )  # fmt: skip
            case "close":
                args = (fd,)
            case "read" | "getdents64":
                args = (fd, base + 0x100, rng.choice((16, 300)))
            case "write":
                args = (fd, base, rng.choice((1, 8, 5000)))
            case "lseek":
                args = (fd, rng.choice((0, 5, -1)), rng.choice((0, 1, 2)))
            case "dup3":
                args = (fd, rng.choice((10, 11, 17)), rng.choice((0, _ON_EXEC)))
            case "dup":
                args = (rng.choice((0, fd)),)
            case "fcntl":
                args = (fd, rng.choice((1, 2, 3, 4, 1030)), rng.choice((0, 1, 12)))
            case "umask":
                args = (rng.choice((0o22, 0o77, 0)),)
            case _:
                args = (rng.choice(at),)
        out.append((name, args))
    return out


@pytest.mark.parametrize("seed", range(16))
def test_any_paths_give_the_same(seed: int, tmp_path: Path) -> None:
    """Opening, looking and closing: the results, what is written, and what is left of it."""
    cwd, rng = tmp_path / "here", random.Random(seed)
    texts = [path.format(cwd=cwd, name="here").encode() + b"\0" for path in PATHS]
    room, at, data = Room(seed), [], bytearray()
    for text in texts:
        at.append(Room.base + 0x400 + len(data))
        data += text
    room.data = (room.data[:0x400] + data).ljust(0x3000, b"/")
    calls = path_calls(rng, 300, at)
    before = _umask()
    seen = []
    for engine in ("reference", *ENGINES):
        plant(cwd)
        got = results(calls, engine, room, cwd)
        left = {path: (path.lstat().st_mode, path.lstat().st_size) for path in cwd.rglob("*")}
        seen.append((got, left))
        (cwd / "secret").chmod(0o600)
        shutil.rmtree(cwd)
        assert _umask() == before
    for got, left in seen[1:]:
        for call, one, other in zip(calls, seen[0][0][0], got[0], strict=True):
            assert one == other, call
        assert left == seen[0][1]
        assert got[3] > 10


def plant(cwd: Path) -> None:
    """The tree that PATHS are about."""
    for name in ("sub/deeper", "made"):
        (cwd / name).mkdir(parents=True)
    for name in ("file", "sub/file", "sub/deeper/file", "secret"):
        (cwd / name).write_text(name * 3)
    (cwd / "secret").chmod(0)
    for name, target in {
        "link": "sub/file", "sub/link": "../file", "dirlink": "sub", "loop": "loop", "broken": "nothing", "out": "/etc",
    }.items():  # fmt: skip
        (cwd / name).symlink_to(target)


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_what_native_code_opened_is_there_for_the_rest(tmp_path: Path) -> None:
    """/proc/self/fd, dup, execve's closing and a fork know what no handler has seen."""
    (tmp_path / "file").write_text("text")
    names = b"file\0/proc/self/fd/10\0"
    room = Room(0)
    room.data = names.ljust(0x3000, b"\0")
    base = Room.base
    calls: list[Call] = [
        ("newfstatat", (-100, base, base + 512, 0)), ("statx", (-100, base, 0, 0x7FF, base + 768)),
        ("openat", (-100, base, _ON_EXEC, 0)), ("fcntl", (10, 1, 0)), ("openat", (-100, base, 2, 0)), ("dup3", (11, 20, 0)),
        ("close", (11,)), ("read", (20, base + 64, 4)), ("readlinkat", (-100, base + 5, base + 128, 256)), ("close", (10,)),
        ("close", (10,)), ("openat", (-100, base, 0, 0)), ("close", (10,)),
    ]  # fmt: skip
    got, left, _, native = results(calls, "interp", room, tmp_path)
    path = os.fsencode(str(tmp_path / "file"))
    info = (tmp_path / "file").stat()
    assert struct.unpack_from("<QQIIII", left, 512) == (
        info.st_dev, info.st_ino, info.st_mode, info.st_nlink, info.st_uid, info.st_gid,
    )  # fmt: skip
    assert struct.unpack_from("<q", left, 512 + 48) == (4,)
    assert struct.unpack_from("<qq", left, 512 + 88) == divmod(info.st_mtime_ns, 10**9)
    assert struct.unpack_from("<HxxQQ", left, 768 + 28) == (info.st_mode, info.st_ino, 4)
    assert got == [0, 0, 10, 1, 11, 20, 0, 4, len(path), 0, -errno.EBADF, 10, 0]
    assert left[64:68] == b"text"
    assert left[128 : 128 + len(path)] == path
    assert native == 7


MAPPING_NUMBERS = {"mmap": 222, "munmap": 215, "mprotect": 226, "mremap": 216, "mincore": 232}


def mapping_calls(rng: random.Random, count: int, top: int) -> list[Call]:
    """Calls that map and unmap memory, most of it where it is put by itself: below ``top``, one below the other."""
    out: list[Call] = []
    sizes = (1, 4096, 65536, 65536, 5000, 12 << 12, 0, (4 << 20) - 4096, 4 << 20, 1 << 40, -1)

    def place() -> int:
        return (
            top
            - 4096 * rng.choice((1, 2, 3, 12, 16, 16, 17, 18, 28, 32, 33, 40))
            + rng.choice((0, 0, 0, 0, 8))
        )

    for _ in range(count):
        name = rng.choice(
            (
                "mmap",
                "mmap",
                "mmap",
                "mmap",
                "munmap",
                "munmap",
                "munmap",
                "mprotect",
                "mremap",
                "madvise",
                "write",
                "read",
            )
        )
        match name:
            case "mmap":
                flags = rng.choice((0x22, 0x22, 0x22, 0x20022, 0x4022, 0x21, 0x2, 0x20, 0x32, 0x100022))
                address = rng.choice((0, 0, 0, place())) if not flags & 0x10 else place()
                args: tuple[int, ...] = (
                    address,
                    rng.choice(sizes),
                    rng.choice((3, 3, 3, 1, 0, 7)),
                    flags,
                    -1,
                    0,
                )
            case "munmap":
                args = (place(), rng.choice((4096, 65536, 65536, 5000, 12 << 12, 0, 1 << 40)))
            case "mprotect":
                args = (place(), rng.choice((4096, 65536)), rng.choice((0, 1, 3)))
            case "mremap":
                args = (
                    place(),
                    rng.choice((4096, 65536)),
                    rng.choice((4096, 65536, 1 << 17)),
                    rng.choice((0, 1)),
                    0,
                )
            case "madvise":
                args = (place(), rng.choice((4096, 65536)), rng.choice((0, 4)))
            case "write":
                args = (6, place(), 1)
            case _:
                args = (4, place(), rng.choice((1, 4096)))
        out.append((name, args))
    return out


@pytest.mark.parametrize("seed", range(12))
def test_any_mappings_give_the_same(seed: int, tmp_path: Path) -> None:
    with make(program("ebreak"), "reference") as process:
        top = process.mmap_top
    calls = mapping_calls(random.Random(seed), 300, top)
    seen = []
    for engine in ("reference", *ENGINES):
        regions: list[Any] = []
        got = results(calls, engine, Room(seed), tmp_path, regions)
        seen.append((got[0], regions))
        assert engine != "jit" or got[3] > 10
    for got_, regions in seen[1:]:
        for call, one, other in zip(calls, seen[0][0], got_, strict=True):
            assert one == other, call
        assert regions == seen[0][1]


def test_memory_mapped_natively_counts(tmp_path: Path) -> None:
    """Also in the figures of a run, and it is zero however often it is mapped."""
    loop = """
            li s0, 300
    again:  li a0, 0
            li a1, 0x100000
            li a2, 3
            li a3, 0x22
            li a4, -1
            li a5, 0
            li a7, 222
            ecall
            mv s1, a0
            ld t0, 0(s1)
            bne t0, zero, bad
            sd s0, 0(s1)
            li a1, 0x100000
            li a7, 215
            ecall
            addi s0, s0, -1
            bne s0, zero, again
            li a0, 0
            j end
    bad:    li a0, 1
    end:    li a7, 93
            ecall
    """
    before = None
    for engine in ("reference", "jit"):
        with make(program(loop), engine) as process:
            start = process.memory.committed
            process.run()
            assert (process.exit_code, process.reason) == (0, "exit")
            assert process.memory.committed == start
            assert process.memory.peak - start == 0x100000
            if before is not None:
                assert list(process.memory.regions()) == before
                assert process.main.words[_NATIVE] >= 590
            before = list(process.memory.regions())


WAITS = {
    "read": "addi a1, sp, -64\nli a2, 8\nli a7, 63\necall",
    "recvfrom": "addi a1, sp, -64\nli a2, 8\nli a3, 0\nli a4, 0\nli a5, 0\nli a7, 207\necall",
    "epoll": """
            li a0, 6
            addi a1, sp, -64
            li a2, 4
            li a3, -1
            li a4, 0
            li a5, 8
            li a7, 22
            ecall
            bge zero, a0, over
            li a0, 5
            addi a1, sp, -64
            li a2, 8
            li a7, 63
            ecall""",
}
WAITING = """
    _start: li s0, 0
    again:  li a0, 5
            {wait}
            bge zero, a0, over
            addi s0, s0, 1
            j again
    over:   mv a0, s0
            li a7, 93
            ecall
"""


@contextmanager
def reading(process: Process, kind: str, call: str) -> Iterator[tuple[int, BinaryIO]]:
    """The guest's descriptor 5 is the end of a pipe or socket where it reads, 6 an epoll set that watches it; both ends of the host."""
    from vm_core.linux.files import STREAM, File
    from vm_core.linux.net import Endpoint
    from vm_core.linux.poll import _Watched

    if kind == "pipe":
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        file = File(reader, 0)
    else:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        reader, writer = one.detach(), other.detach()
        file = File(reader, 2)
        file.socket = Endpoint(socket.AF_UNIX, socket.SOCK_STREAM, 0)
    process.files.table[5] = file
    if call == "epoll":
        with select.epoll() as poller:
            poller.register(reader, select.EPOLLIN)
            watched = File(os.dup(poller.fileno()), 2, path="anon_inode:[eventpoll]", kind=STREAM)
        watched.socket = _Watched()
        process.files.table[6] = watched
    with open(writer, "wb", buffering=0) as end:
        try:
            yield reader, end
        finally:
            process.stop()


@pytest.mark.parametrize("way", ["stop", "signal", "close"])
@pytest.mark.parametrize(
    ("kind", "call"), [("pipe", "read"), ("socket", "read"), ("socket", "recvfrom"), ("socket", "epoll")]
)
def test_a_wait_is_native_and_can_end(kind: str, call: str, way: str) -> None:
    """By what is written, by a signal, by the end of the writers and by the end of the process."""
    from vm_core.linux.abi import SigInfo

    image = program(WAITING.format(wait=WAITS[call]))
    with make(image, "jit") as process, reading(process, kind, call) as (reader, writer):
        process.start()
        for number in range(4):
            time.sleep(0.05)
            before = process.main.words[_NATIVE]
            writer.write(b"12345678")
            deadline = time.monotonic() + 10
            while select.select([reader], [], [], 0)[0] and time.monotonic() < deadline:
                time.sleep(0.001)
            # The first wait makes what later ones are ended by.
            while number and process.main.words[_NATIVE] == before:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        # It looks for what comes soon; as nothing did, the next ones sleep at once, and now and then one looks again.
        assert (1 << 64) - 32 <= process.main.words[HEADER["wait_credit"] // 8]
        if way == "stop":
            process.stop()
        elif way == "signal":
            process.send(SigInfo(15, 0))
        else:
            writer.close()
        assert process.wait(10)
        assert process.reason == {"stop": "stopped", "signal": "signal", "close": "exit"}[way]


@pytest.mark.parametrize("call", ["read", "recvfrom"])
def test_a_native_wait_obeys_a_sockets_time_limit(call: str) -> None:
    """Whoever has set it: vm is not told."""
    image = program(WAITING.format(wait=WAITS[call]).replace("mv a0, s0", "sub a0, zero, a0"))
    with make(image, "jit") as process, reading(process, "socket", call) as (reader, writer):
        process.start()
        for _ in range(3):
            writer.write(b"12345678")
            deadline = time.monotonic() + 10
            while select.select([reader], [], [], 0)[0]:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        time.sleep(0.05)  # it waits natively, without a limit
        with socket.socket(fileno=os.dup(reader)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 0, 100_000))
        writer.write(b"12345678")
        assert process.wait(10)
        assert (process.exit_code, process.reason) == (11, "exit")


@pytest.mark.parametrize("call", ["write", "sendto"])
def test_a_write_to_a_small_local_socket_is_whole(call: str) -> None:
    """Its buffer may take a part of it at once; a guest that waits gets the rest written, too."""
    from vm_core.linux.files import File
    from vm_core.linux.net import Endpoint

    write = (
        f"li a0, 5\nla a1, buffer\nli a2, 4096\nli a3, 0\nli a4, 0\nli a5, 0\nli a7, {NUMBERS[call]}\necall"
    )
    image = program(f"""
        _start: {write}
                mv s0, a0
                la a0, nap
                li a1, 0
                li a7, 101
                ecall
                {write}
                xor a0, a0, s0
                li a7, 93
                ecall
                .align 8
        nap:    .dword 0
                .dword 200000000
        buffer: .zero 4096
    """)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    file = File(theirs.detach(), 2)
    file.socket = Endpoint(socket.AF_UNIX, socket.SOCK_STREAM, 0)
    with mine, make(image, "jit") as process:
        process.files.table[5] = file
        process.start()
        got = 0
        while got < 2240:  # the first of the two pieces that the host makes of it: now there is room for one
            assert select.select([mine], [], [], 10)[0]
            got += len(mine.recv(2240 - got))
        time.sleep(0.4)
        while got < 2 * 4096:
            assert select.select([mine], [], [], 10)[0]
            got += len(mine.recv(4096))
        assert process.wait(10)
        assert (process.exit_code, process.reason) == (0, "exit")


def test_a_trace_or_a_hook_sees_every_call() -> None:
    image = program(
        "li s0, 50\nloop: li a7, 172\necall\naddi s0, s0, -1\nbne s0, zero, loop\nli a7, 93\necall"
    )
    lines: list[str] = []
    run(["x"], program=image, engine="interp", strace=lines.append, stdout=DEVNULL)
    assert sum("getpid" in line for line in lines) == 50
    seen: list[str] = []
    run(["x"], program=image, engine="interp", syscall_hook=lambda _t, name, _a: seen.append(name))
    assert seen.count("getpid") == 50


def test_python_gets_to_run_between_native_calls() -> None:
    """Ten thousand calls on end: patience must run out at least twice."""
    image = program(
        "li s0, 10000\nloop: li a7, 172\necall\naddi s0, s0, -1\nbne s0, zero, loop\nli a7, 93\necall"
    )
    with make(image, "interp") as process:
        process.run()
        assert process.system_calls == 10001
        assert 9000 < process.main.words[_NATIVE] <= 9998


def test_a_descriptor_in_use_is_not_closed() -> None:
    """Its number stays occupied while a thread may be using it natively."""
    with make(program("ebreak"), "reference") as process:
        read, write = os.pipe2(os.O_CLOEXEC)
        os.close(write)
        process.new_thread(process.main.cpu.copy())
        process.main.words[HEADER["in_call"] // 8] = 1
        process._close_host(read)
        os.fstat(read)
        process.main.words[HEADER["in_call"] // 8] = 2
        process._sweep_limbo()
        with pytest.raises(OSError):
            os.fstat(read)


def test_the_table_follows_descriptors() -> None:
    from vm_core.linux.native import DESCRIPTORS, FD_POLL, FD_SMALL

    with make(program("ebreak"), "reference") as process:
        files(process)

        def word(number: int) -> int:
            return process.native.words[DESCRIPTORS // 8 + number]

        assert word(0) & FD_READ
        assert word(0) & FD_WRITE
        assert word(0) & FD_AT
        assert word(0) & 0xFFFF_FFFF == process.files.table[0].fd
        assert word(1) & FD_READ
        assert not word(1) & FD_WRITE
        assert word(2) & FD_WRITE
        assert not word(2) & FD_READ
        assert word(6) & FD_SMALL
        assert not word(6) & FD_AT
        assert word(7) & FD_READ
        assert not word(7) & FD_WRITE
        assert word(8) & (FD_READ | FD_WRITE | FD_AT) == 0, "a directory"
        assert word(8) & FD_SEEK
        assert not word(9) & FD_POLL  # /dev/null never blocks
        process.files.close(0)
        assert word(0) == 0
        process.files.close_all()
        assert not any(process.native.words[DESCRIPTORS // 8 : OPENED // 8])


# -- signals ----------------------------------------------------------------------------------------------------

FRAME = 1088
# The handler writes its frame, changes what sigreturn restores, and steps over the instruction where `step` says so.
SIGNALS = """
    _start: la sp, stack
            li a7, 134            # rt_sigaction
            la a1, action
            li a2, 0
            li a3, 8
            li a0, 10
            ecall
            li a7, 134
            li a0, 11
            ecall
            li a7, 134
            li a0, 4
            ecall
            {setup}
            li t0, 3
            fcvt.d.l ft1, t0
            fcvt.d.l ft2, t0
            fdiv.d fa1, ft1, ft2
            li t0, 9
            fcvt.d.l ft3, t0
            fdiv.d fa2, ft1, ft3
            csrrwi zero, frm, 2
            li s2, 1234
            li s3, 0
            {body}
            csrrs s4, fcsr, zero
            la a1, out
            sd s2, 0(a1)
            sd s3, 8(a1)
            sd s4, 16(a1)
            sd sp, 24(a1)
            fsd fa1, 32(a1)
            fsd fa2, 40(a1)
            sd a0, 48(a1)
            li a7, 64
            li a0, 1
            li a2, 56
            ecall
            li a7, 135            # the mask as it is now
            li a0, 0
            li a1, 0
            la a2, out
            li a3, 8
            ecall
            li a7, 64
            li a0, 1
            la a1, out
            li a2, 8
            ecall
            li a7, 94
            li a0, 0
            ecall
    handler: mv s5, a0
            mv s6, a1
            mv s7, a2
            li a7, 64
            li a0, 1
            mv a1, s6
            li a2, {frame}
            ecall
            la t0, step
            ld t0, 0(t0)
            ld t1, 176(s7)
            add t1, t1, t0
            sd t1, 176(s7)
            ld t1, 328(s7)        # s3 of the interrupted code
            addi t1, t1, 1
            sd t1, 328(s7)
            li t0, 31
            csrrw zero, fcsr, t0
            fcvt.d.l fa1, zero
            ret
            .align 16
    action: .dword handler
            .dword {flags}
            .dword {mask}
    step:   .dword {step}
    out:    .zero 64
            .align 16
            .zero 8192
    stack:  .zero 16
    other:  .zero 16
    altstack: .dword other
            .dword 0
            .dword 8192
            .align 16
            .zero 8192
"""


def output(text: str, engine: str) -> tuple[int, bytes, int]:
    result = run(["guest"], program=program(text), engine=engine, stdout=PIPE, env={})
    return result.returncode, result.stdout, result.system_calls


def compare(text: str, *, frames: int) -> bytes:
    expected = output(text, "reference")
    for engine in ENGINES:
        assert output(text, engine) == expected, engine
    assert expected[0] == 0
    assert len(expected[1]) == frames * FRAME + 64
    return expected[1]


def signals(body: str, *, setup: str = "", flags: int = 4, mask: int = 0, step: int = 0) -> str:
    return SIGNALS.format(setup=setup, body=body, flags=flags, mask=mask, step=step, frame=FRAME)


def send(name: str) -> str:
    number = NUMBERS[name]
    targets = {
        "tkill": "mv a0, s8\nli a1, 10",
        "tgkill": "mv a0, s8\nmv a1, s8\nli a2, 10",
        "kill": "mv a0, s8\nli a1, 10",
    }
    return f"li a7, 172\necall\nmv s8, a0\nli a7, {number}\n{targets[name]}\necall\n"


ALTSTACK = "li a7, 132\nla a0, altstack\nli a1, 0\necall\n"


@pytest.mark.parametrize("flags", [4, 0x4000_0004, 0x0800_0004, 0x8000_0004])
@pytest.mark.parametrize("alternative", [False, True])
@pytest.mark.parametrize("name", ["tkill", "tgkill", "kill"])
def test_a_signal_for_oneself(name: str, alternative: bool, flags: int) -> None:
    text = signals(send(name), setup=ALTSTACK if alternative else "", flags=flags, mask=0x200)
    raw = compare(text, frames=1)
    number, _, code, _, pid = struct.unpack_from("<iiiii", raw)
    assert (number, code, pid) == (10, 0 if name == "kill" else -6, os.getpid())
    s2, s3, fcsr = struct.unpack_from("<QQQ", raw, FRAME)
    assert (s2, s3, fcsr) == (1234, 1, 2 << 5 | 1)


BAD = {
    "below": "li t0, 8\nld t1, 0(t0)",
    "above": "li t0, -8\nsd t1, 0(t0)",
    "outside": "li t0, 1\nslli t0, t0, 40\nlw t1, 0(t0)",
    "edge": "li t0, 1\nslli t0, t0, 32\naddi t0, t0, -4\nld t1, 0(t0)",
    "byte": "li t0, 100\nsb t1, 0(t0)",
    "odd": "li t0, 103\nld t1, 0(t0)",
    "float": "li t0, 104\nfld ft0, 0(t0)",
}


@pytest.mark.parametrize("name", BAD)
def test_a_refused_access(name: str) -> None:
    raw = compare(signals(BAD[name], step=4), frames=1)
    number, _, code, _, _address = struct.unpack_from("<iiiiQ", raw)
    assert (number, code) == (11, 1)


@pytest.mark.parametrize("access", ["ld t1, 0(t0)", "sd t1, 0(t0)", "sw t1, 0(t0)"])
@pytest.mark.parametrize("offset", [-3, -8, 0, 5])
def test_a_protected_page(access: str, offset: int) -> None:
    """An access that begins in the page before is a fault in the second page, at its start."""
    body = f"""
        li a7, 222
        li a0, 0
        li a1, 8192
        li a2, 3
        li a3, 34
        li a4, -1
        li a5, 0
        ecall
        li t0, 4096
        add s9, a0, t0
        li a7, 226
        mv a0, s9
        li a1, 4096
        li a2, 0
        ecall
        addi t0, s9, {offset}
        {access}
    """
    raw = output(signals(body, step=4), "reference")
    for engine in ENGINES:
        assert output(signals(body, step=4), engine) == raw
    spans = offset + (4 if access[1] == "w" else 8) > 0
    assert (len(raw[1]) > 64) == spans
    if spans:
        number, _, code, _, address = struct.unpack_from("<iiiiQ", raw[1])
        assert (number, code, address & 4095) == (11, 2, max(offset, 0))


def test_illegal_instructions_many_times() -> None:
    body = "li s9, 5\nagain: .word 0xffffffff\naddi s9, s9, -1\nbne s9, zero, again"
    raw = compare(signals(body, step=4), frames=5)
    assert struct.unpack_from("<iii", raw, 4 * FRAME) == (4, 0, 1)


def test_a_handler_without_room_kills() -> None:
    text = signals("li sp, 64\n" + send("tkill"))
    codes = {output(text, engine)[0] for engine in ("reference", *ENGINES)}
    assert codes == {-11}


def test_a_blocked_fault_kills() -> None:
    """The handler of a fault faults: the signal is blocked."""
    text = signals("li t0, 8\nld t1, 0(t0)").replace("handler: mv s5, a0", "handler: ld t0, 0(zero)")
    codes = {output(text, engine)[0] for engine in ("reference", *ENGINES)}
    assert codes == {-11}


def test_unblocking_delivers_what_waits() -> None:
    """Blocked, sent, and unblocked natively: the handler runs before the next instruction."""
    block = """
        la t0, out
        li t1, 512
        sd t1, 0(t0)
        li a7, 135
        li a0, {how}
        la a1, out
        li a2, 0
        li a3, 8
        ecall
    """
    body = block.format(how=0) + send("tkill") + "li s3, 40\n" + block.format(how=1)
    raw = compare(signals(body), frames=1)
    assert struct.unpack_from("<Q", raw, FRAME + 8)[0] == 41


# -- futex ------------------------------------------------------------------------------------------------------

needs_two = pytest.mark.skipif(not can_wait_for_two(), reason="the host has no futex_waitv")
WAIT = "li a7, 98\nla a0, word\nli a1, 128\nli a2, 0\nli a3, 0\nli a4, 0\nli a5, 0\necall\n"
START = "li a7, 220\nli a0, 331520\nla a1, {stack}\nli a2, 0\nli a3, 0\nli a4, 0\necall\n"
EXIT = "li a7, 94\nli a0, {code}\necall\n"
DATA = """
            .align 8
    word:   .dword 0
    nap:    .dword 0
            .dword 50000000
    action: .dword handler
            .dword 4
            .dword 0
            .align 16
            .zero 8192
    stack:  .zero 16
            .zero 8192
    stack2: .zero 16
"""


@needs_two
@pytest.mark.parametrize("engine", ENGINES)
def test_a_timeout_ends_a_native_wait(engine: str) -> None:
    begin = time.monotonic()
    text = "_start: " + WAIT + EXIT.format(code=1) + DATA.replace("handler", "_start")
    result = run(["x"], program=program(text), engine=engine, timeout=0.3)
    assert result.reason == "timeout"
    assert time.monotonic() - begin < 5


@needs_two
@pytest.mark.parametrize("main_waits", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_end_of_the_process_ends_a_native_wait(engine: str, main_waits: bool) -> None:
    waits, ends = (
        WAIT + EXIT.format(code=1),
        "li a7, 101\nla a0, nap\nli a1, 0\necall\n" + EXIT.format(code=7),
    )
    main, child = (waits, ends) if main_waits else (ends, waits)
    text = (
        "_start: "
        + START.format(stack="stack")
        + f"beq a0, zero, child\n{main}child: {child}"
        + DATA.replace("handler", "_start")
    )
    assert run(["x"], program=program(text), engine=engine).returncode == 7


@needs_two
@pytest.mark.parametrize("engine", ENGINES)
def test_a_signal_reaches_a_native_wait(engine: str) -> None:
    """The child waits; its handler ends the process."""
    install = "li a7, 134\nli a0, 10\nla a1, action\nli a2, 0\nli a3, 8\necall\n"
    main = (
        "mv s1, a0\nli a7, 101\nla a0, nap\nli a1, 0\necall\nli a7, 130\nmv a0, s1\nli a1, 10\necall\n" + WAIT
    )
    text = (
        "_start: "
        + install
        + START.format(stack="stack")
        + f"beq a0, zero, child\n{main}{EXIT.format(code=1)}"
        f"child: {WAIT}{EXIT.format(code=2)}handler: {EXIT.format(code=9)}" + DATA
    )
    assert run(["x"], program=program(text), engine=engine, timeout=10).returncode == 9


@needs_two
@pytest.mark.parametrize("engine", ENGINES)
def test_two_threads_hand_a_word_over(engine: str) -> None:
    """Ping and pong, by waits and wakes that are native or not as it comes; no wake is lost."""

    def turn(mine: int, label: str, stack: str) -> str:
        # wait until the word is `mine`, make it the other one's, wake
        return f"""
            la s0, word
            li s1, 3000
        {label}: lw t0, 0(s0)
            li t1, {mine}
            beq t0, t1, {label}go
            li a7, 98
            mv a0, s0
            li a1, 128
            li a2, {1 - mine}
            li a3, 0
            ecall
            j {label}
        {label}go: li t0, {1 - mine}
            amoswap.w zero, t0, (s0)
            li a7, 98
            mv a0, s0
            li a1, 129
            li a2, 1
            ecall
            addi s1, s1, -1
            bne s1, zero, {label}
        """

    text = (
        "_start: "
        + START.format(stack="stack")
        + "beq a0, zero, child\n"
        + turn(0, "m", "")
        + EXIT.format(code=5)
        + "child: "
        + turn(1, "c", "")
        + "li a7, 93\nli a0, 0\necall\n"
        + DATA.replace("handler", "_start")
    )
    result = run(["x"], program=program(text), engine=engine, timeout=60)
    assert (result.returncode, result.reason) == (5, "exit")


@needs_two
def test_an_interrupt_of_the_host_ends_a_native_wait() -> None:
    """Ctrl-C while the main thread sleeps in native code."""
    import signal

    text = "_start: " + WAIT + EXIT.format(code=1) + DATA.replace("handler", "_start")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(["x"], program=program(text), engine="interp", timeout=20)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_without_the_two_word_wait_futexes_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vm_core.linux.process.can_wait_for_two", lambda: False)
    text = (
        "_start: "
        + WAIT.replace("li a2, 0", "li a2, 1")
        + "mv a0, a0\nli a7, 94\nneg: sub a0, zero, a0\necall\n"
    )
    text += DATA.replace("handler", "_start")
    assert run(["x"], program=program(text), engine="interp").returncode == errno.EAGAIN


def test_dispositions_are_published() -> None:
    from vm_core.linux.native import ACTIONS, GENERATION
    from vm_core.linux.signal import Action

    native = NativeCalls(1, 2, 3)
    native.act(10, Action(0x1000, 4, 0x200, 0))
    at = ACTIONS // 8 + 40
    assert native.words[at : at + 3].tolist() == [0x1000, 4, 0x200]
    assert native.words[GENERATION // 8] == 2
