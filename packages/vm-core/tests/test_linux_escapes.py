"""Every system call that takes a path, with every way out that was thought of: none of them leads out.

The calls are taken from the table, so that a new one is tried as well. What must not be seen is marked: a text, the name of
a directory's entry, inode numbers. What must not be touched is looked at as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
import threading
import time

import pytest

from vm_core.linux.paths import Bind, _remove_tree
from vm_core.linux.system import ThreadEnd
from vm_core.linux.table import ROWS
from vm_core.testing.guests import Caller, elf
from vm_core.testing.outside import ENTRY, SECRET, Scene, snapshot

AT = -100
WAYS = ["openat2", "walk"]
FLAGS = (0, 1, 2, 4, 0x100, 0x200, 0x400, 0x1000, 0x1100, 0o644, 0o777)
OPEN_FLAGS = (
    0, 1, 2, 0o102, 0o1001, 0o301, 0o10000000, 0o200000, 0o10200000, 0o400000, 0o20200002, 0o2000, 0o4001,
)  # fmt: skip
ROWS_WITH_PATHS = [row for row in ROWS if row.handler is not None and "path" in row.args.split()]


class Attempt(Scene):
    """A guest in ``inside``."""

    def __init__(self, tmp_path, machine, way, **options):
        super().__init__(tmp_path)
        (self.inside / "sub").mkdir()
        self.held = os.open(self.outside, os.O_RDONLY | os.O_DIRECTORY)
        self.held_file = os.open(self.outside / "secret", os.O_RDWR)
        self.marks = [SECRET, ENTRY.encode()]
        for name in (".", "secret", ENTRY, "empty"):
            inode = os.stat(self.outside / name).st_ino
            if inode > 0xFFFF:
                self.marks.append(struct.pack("<Q", inode))
        image = elf(
            bytes.fromhex("cc") * 16 if machine == 62 else bytes.fromhex("73001000") * 4, machine=machine
        )
        self.guest = Caller(image=image, cwd=str(self.inside), **options)
        if way == "walk":
            self.guest.process.files.namespace.use_openat2 = False
        elif not self.guest.process.files.namespace.use_openat2:
            pytest.skip("this host has no openat2")
        self.links()
        self.accept()
        self.numbers = self.guest.numbers
        self.where = self.guest.put(str(self.inside))

    def links(self):
        """The links, as they were before the guest got at them."""
        outside = self.outside
        links = {
            "relative": "../outside/secret", "absolute": f"{outside}/secret", "directory": "../outside",
            "root": "/", "up": "..", "passwd": "/etc/passwd", "magic": "/proc/self/root", "cwd": "/proc/self/cwd",
            "fd": f"/proc/self/fd/{self.held}", "file-fd": f"/proc/self/fd/{self.held_file}", "host": f"/proc/{os.getpid()}/root",
            "loop": "loop", "chain0": "relative", "new": "../outside/made", "empty": "../outside/empty",
            "mixed": "sub/../../outside/secret", "slashes": "..//.//outside/./secret/", "etc": "/../../etc",
        }  # fmt: skip
        links |= {f"chain{n}": f"chain{n - 1}" for n in range(1, 20)}
        for name, target in links.items():
            path = self.inside / name
            if path.is_symlink():
                if os.readlink(path) == target:
                    continue
                path.unlink()
            elif os.path.lexists(path):
                _remove_tree(str(path)) if path.is_dir() else path.unlink()
            path.symlink_to(target)
        for name in ("sub", "file"):
            path = self.inside / name
            if path.is_symlink() or (os.path.lexists(path) and path.is_dir() != (name == "sub")):
                _remove_tree(str(path)) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.inside / "sub").mkdir(exist_ok=True)
        (self.inside / "file").write_bytes(b"mine")

    def paths(self):
        outside, process = self.outside, self.guest.process
        own = self.guest.call("openat", AT, ".", 0o200000, 0)
        sub = self.guest.call("openat", AT, "sub", 0o10200000, 0)
        links = [entry for entry in os.listdir(self.inside) if os.path.islink(self.inside / entry)]
        below = ("directory", "root", "up", "magic", "cwd", "fd", "host", "etc")
        out = [*links, *(f"{name}/" for name in links), *(f"sub/../{name}" for name in links)]
        for name in below:
            out += [f"{name}/outside/secret", f"{name}/secret", f"{name}{outside}/secret", f"{name}/.."]
            out += [f"{name}/etc/passwd", f"{name}/passwd", f"{name}/made", f"{name}/../outside/secret"]
        for start in (
            "/proc/self",
            "/proc/thread-self",
            f"/proc/{os.getpid()}",
            f"/proc/self/task/{process.pid}",
        ):
            out += [
                f"{start}/root{outside}/secret",
                f"{start}/cwd/../outside/secret",
                f"{start}/exe/../../etc",
            ]
            out += [f"{start}/fd/{fd}/../outside/secret" for fd in (own, sub, self.held, self.held_file)]
            out += [
                f"{start}/fd/{self.held}",
                f"{start}/fd/{self.held_file}",
                f"{start}/fd/{self.held}/secret",
            ]
            out += [
                f"{start}/ns/mnt",
                f"{start}/map_files",
                f"{start}/mem",
                f"{start}/environ/..",
                f"{start}/net/tcp",
            ]
        out += [
            f"/proc/{os.getppid()}/root/etc/passwd",
            "/proc/1/root/etc/passwd",
            "/proc/1/cwd",
            "/proc/kcore",
            "/proc/sysrq-trigger",
        ]
        out += [
            f"/dev/fd/{self.held}/secret",
            f"/dev/fd/{self.held_file}",
            "/dev/../etc/passwd",
            "/dev/mem",
            "/dev/kmsg",
        ]
        out += [
            "../outside/secret",
            f"{outside}/secret",
            str(outside),
            "..",
            "/..",
            "../..",
            "/etc/passwd",
            "/etc",
            "/sys",
            "/root",
        ]
        out += [
            "sub/../../outside/secret",
            "./.././outside//secret",
            "sub/" + "../sub/" * 300 + "../../outside/secret",
        ]
        out += [
            "/tmp/../etc/passwd",
            f"/tmp/..{outside}/secret",
            "file/../../outside/secret",
            "//etc//passwd",
            "../outside/made",
        ]
        return out, [AT, own, sub]

    def check(self, what):
        """Nothing marked has come into guest memory."""
        seen = self.guest.get(8192)
        for mark in self.marks:
            assert mark not in seen, (what, mark)

    def do(self, row, args):
        """One call, and a look at what it has opened."""
        guest = self.guest
        try:
            result = guest.call(row.name, *args)
        except ThreadEnd:
            result = 0
        guest.thread.pending.clear()
        guest.thread.interrupted = None
        self.check((row.name, args, result))
        if result >= 0 and row.name in ("open", "openat", "openat2", "creat"):
            guest.memory.poke(guest.buffer, bytes(8192))
            guest.call("fstat", result, guest.buffer)
            guest.call("read", result, guest.buffer + 512, 1024)
            guest.call("getdents64", result, guest.buffer + 2048, 2048)
            if (
                guest.call("openat", result, "../outside/secret", 0, 0) >= 0
                or guest.call("openat", result, "..", 0, 0) >= 0
            ):
                guest.call("read", result + 1, guest.buffer + 4096, 1024)
            self.check((row.name, args, result, "opened"))
            for number in list(guest.process.files.table):
                if number >= result:
                    guest.call("close", number)
        elif result == 0 and row.name in ("chdir", "fchdir"):
            for name in ("secret", "../outside/secret", "outside/secret"):
                fd = guest.call("openat", AT, name, 0, 0)
                if fd >= 0:
                    guest.call("read", fd, guest.buffer, 100)
                    guest.call("close", fd)
            self.check((row.name, args, "changed"))
            assert guest.call("chdir", self.where) == 0
        return result

    def arguments(self, rng, row, hostile, directories):
        """Arguments of a call with the hostile path in one of its places or in all."""
        guest = self.guest
        kinds = row.args.split()
        places = [index for index, kind in enumerate(kinds) if kind == "path"]
        where = rng.choice((*places, None))
        args = []
        for index, kind in enumerate(kinds):
            if kind == "path":
                args.append(
                    hostile
                    if where in (index, None)
                    else rng.choice(("file", "sub", "free", f"{self.inside}/sub/free"))
                )
            elif kind == "dfd":
                args.append(rng.choice(directories))
            elif row.name == "openat2" and kind == "ptr":
                how = struct.pack(
                    "<QQQ", rng.choice(OPEN_FLAGS), 0, rng.choice((0, 0, 0x10, 0x08, 0x04, 0x02, 0x01))
                )
                args.append(guest.put(how))
            elif kind in ("ptr", "buf"):
                args.append(rng.choice((guest.buffer, guest.buffer + 4096, 0)))
            elif row.name.startswith("mknod"):
                # No FIFO: to open one would wait for somebody at its other end.
                args.append(rng.choice((0o644, 0o100644, 0o20666, 0o60666, 0o140666)))
            elif kind == "oflags":
                args.append(rng.choice(OPEN_FLAGS))
            else:
                args.append(rng.choice((*FLAGS, 24, 4096)))
        return args

    def finish(self):
        assert snapshot(self.outside) == self.before
        self.guest.close()
        os.close(self.held)
        os.close(self.held_file)


@pytest.fixture(
    params=[(machine, way) for machine in (243, 62) for way in WAYS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def attempt(request, tmp_path):
    made = Attempt(tmp_path, *request.param, net=True)
    yield made
    made.finish()


def test_no_path_of_any_call_leads_out(attempt):
    rng = random.Random(1)
    hostile, directories = attempt.paths()
    names = {row.name for row in ROWS_WITH_PATHS}
    assert {
        "openat",
        "linkat",
        "renameat2",
        "execve",
        "truncate",
        "utimensat",
        "chdir",
        "mknodat",
        "statfs",
    } <= names
    guest = attempt.guest
    for row in ROWS_WITH_PATHS:
        if row.name not in attempt.numbers:
            continue
        for path in hostile:
            for _ in range(2):
                mark = guest._next
                attempt.do(row, attempt.arguments(rng, row, path, directories))
                guest._next = mark
        attempt.links()
        assert guest.call("chdir", attempt.where) == 0
    assert guest.call("openat", AT, "file", 0, 0) >= 0  # it has come through all of that alive


def test_what_changes_under_the_guest_leads_nowhere(attempt):
    """Other programs swap directories with links and move them out and in again, as fast as they can."""
    inside, outside, guest = attempt.inside, attempt.outside, attempt.guest
    for name in ("swap", "moving"):
        (inside / name).mkdir()
        (inside / name / "secret").write_bytes(b"mine")
    os.symlink("../outside", inside / "other")
    (inside / "leaf").write_bytes(b"mine")
    os.symlink("../outside/secret", inside / "leaf-link")
    over = threading.Event()

    def swap(first, second):
        while not over.is_set():
            with contextlib.suppress(OSError):  # the guest may have got at it
                os.rename(inside / first, inside / f"{first}-away")
                os.rename(inside / second, inside / first)
                os.rename(inside / first, inside / second)
            with contextlib.suppress(OSError):
                os.rename(inside / f"{first}-away", inside / first)

    def move():
        while not over.is_set():
            with contextlib.suppress(OSError):
                os.rename(inside / "moving", outside / "moving")
            with contextlib.suppress(OSError):
                os.rename(outside / "moving", inside / "moving")

    threads = [
        threading.Thread(target=swap, args=("swap", "other")),
        threading.Thread(target=swap, args=("leaf", "leaf-link")),
        threading.Thread(target=move),
    ]
    rng = random.Random(2)
    paths = [
        "swap/secret", "sub/../swap/secret", "swap", "swap/../outside/secret", "leaf", "sub/../leaf", "moving/secret",
        "moving/../outside/secret", "moving/../../outside/secret", "moving/..", "moving/made", "swap/made", "other/secret",
    ]  # fmt: skip
    held = [
        AT,
        guest.call("openat", AT, "moving", 0o200000, 0),
        guest.call("openat", AT, "swap", 0o200000, 0),
    ]
    rows = [
        row
        for row in ROWS_WITH_PATHS
        # What removes or renames would only take away what the others are to find.
        if row.name in attempt.numbers and not row.name.startswith(("unlink", "rmdir", "rename", "symlink"))
    ]
    before = attempt.before
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            row = rng.choice(rows)
            mark = guest._next
            path = rng.choice((*paths, "../secret", "secret", "../outside/secret"))
            attempt.do(row, attempt.arguments(rng, row, path, held))
            guest._next = mark
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with contextlib.suppress(OSError):
        os.rename(outside / "moving", inside / "moving")
    after = snapshot(outside)
    for state in (before, after):
        state[f"{outside}/."] = None  # its times have changed: things were moved through it
    assert after == before
    attempt.accept()


def test_sockets_do_not_connect_outside(attempt):
    place = str(attempt.outside / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    listener.setblocking(False)
    attempt.accept()
    guest = attempt.guest
    for number, path in enumerate(attempt.paths()[0]):
        address = b"\1\0" + path.replace("secret", "socket").encode()[:106]
        stream = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
        datagram = guest.call("socket", socket.AF_UNIX, socket.SOCK_DGRAM, 0)
        assert guest.call("connect", stream, address, len(address)) < 0, path
        assert guest.call("sendto", datagram, b"x", 1, 0, guest.put(address), len(address)) < 0, path
        made = b"\1\0" + path.replace("secret", f"made-{number}").encode()[:106]
        guest.call("bind", stream, made, len(made))
        guest.call("close", stream)
        guest.call("close", datagram)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()


@pytest.mark.parametrize("way", WAYS)
def test_nested_binds_keep_their_modes(tmp_path, way):
    """Read-only inside writable inside read-only: which one counts is the innermost, however it is reached."""
    for name in ("inside", "a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for path in ("a/b", "b/c"):
        (tmp_path / path).mkdir()
    binds = (
        Bind(str(tmp_path / "a"), "/a", writable=False), Bind(str(tmp_path / "b"), "/a/b"),
        Bind(str(tmp_path / "c"), "/a/b/c", writable=False),
    )  # fmt: skip
    with Caller(cwd=str(tmp_path / "inside"), binds=binds) as guest:
        guest.process.files.namespace.use_openat2 = way == "openat2"
        assert guest.call("symlinkat", "/a/b/c", AT, "to-c") == 0
        assert guest.call("symlinkat", "c/../../b/c/..", AT, "/a/b/odd") == 0
        for path, writable in (
            ("/a/file", False), ("/a/b/file", True), ("/a/b/c/file", False), ("to-c/file", False), ("/a/b/c/../file", True),
            ("/a/b/../file", False), ("to-c/../file", True), ("/a/b/odd/file", True), ("/a/b/odd/../file", False),
        ):  # fmt: skip
            got = guest.call("openat", AT, path, 0o1001, 0)
            assert (got >= 0) is writable, path
            assert writable or got == -errno.EROFS
        for path in ("/a/b", "/a/b/c"):
            assert guest.call("renameat", AT, path, AT, "/a/b/moved") in (
                -errno.EBUSY,
                -errno.EXDEV,
                -errno.EROFS,
            )
            assert guest.call("unlinkat", AT, path, 0x200) in (-errno.EBUSY, -errno.EROFS)
        assert guest.call("linkat", AT, "/a/b/c/file", AT, "/a/b/link", 0) == -errno.EXDEV
        assert guest.call("linkat", AT, "/a/b/c/file", AT, "/a/b/c/link", 0) == -errno.EROFS
    assert (tmp_path / "c" / "file").read_text() == "c"
    assert (tmp_path / "a" / "file").read_text() == "a"


@pytest.mark.parametrize("way", WAYS)
def test_a_hard_link_that_the_user_made_is_a_file_of_the_directory(tmp_path, way):
    """It cannot be told from any other file; the guest cannot make one itself."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").write_text("shared")
    os.link(tmp_path / "outside", tmp_path / "inside" / "link")
    with Caller(cwd=str(tmp_path / "inside")) as guest:
        guest.process.files.namespace.use_openat2 = way == "openat2"
        assert guest.call("openat", AT, "link", 0, 0) >= 0
        for flags in (0, 0x400):
            for path in ("../outside", f"{tmp_path}/outside", "/etc/passwd"):
                assert guest.call("linkat", AT, path, AT, "stolen", flags) == -errno.ENOENT
    assert not (tmp_path / "inside" / "stolen").exists()
