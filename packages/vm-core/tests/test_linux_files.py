"""File system calls, compared with what the host says about the same files."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import socket
import stat
import struct
import termios
import threading
import time

import pytest

from vm_core.linux import files
from vm_core.linux.files import RESTART
from vm_core.testing.guests import Caller, elf

AT = -100
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_NONBLOCK = 0, 1, 2, 0o100, 0o1000, 0o2000, 0o4000
O_EXCL, O_DIRECTORY, O_CLOEXEC, O_PATH = 0o200, 0o200000, 0o2000000, 0o10000000
O_NOFOLLOW = 0o400000
RESOLVE_BENEATH = 8


@pytest.fixture
def guest(tmp_path):
    with Caller(cwd=str(tmp_path)) as made:
        yield made


@pytest.fixture
def file(guest, tmp_path):
    (tmp_path / "file").write_bytes(b"hello world")
    return guest.call("openat", AT, "file", O_RDWR, 0)


def test_reading_and_writing(guest, file, tmp_path):
    b = guest.buffer
    assert guest.call("read", file, b, 5) == 5
    assert guest.get(5) == b"hello"
    assert guest.call("lseek", file, -5, 2) == 6
    assert guest.call("write", file, b"WORLD!", 6) == 6
    assert guest.call("pread64", file, b, 100, 6) == 6
    assert guest.get(6) == b"WORLD!"
    assert guest.call("pwrite64", file, b"J", 1, 0) == 1
    assert (tmp_path / "file").read_bytes() == b"Jello WORLD!"
    assert guest.call("read", file, b, 0) == 0
    assert guest.call("read", file, b, 10) == 0
    assert guest.call("lseek", file, -1, 0) == -errno.EINVAL
    assert guest.call("pread64", file, b, 1, -1) == -errno.EINVAL
    assert guest.call("fsync", file) == guest.call("fdatasync", file) == guest.call("sync") == 0


def test_vectors(guest, file):
    b = guest.buffer
    vector = struct.pack("<QQQQQQ", b, 3, b, 0, b + 100, 100)
    assert guest.call("readv", file, vector, 3) == 11
    assert (guest.get(3), guest.get(8, 100)) == (b"hello "[:3], b"lo world")
    text = guest.put(b"abcdef")
    assert guest.call("writev", file, struct.pack("<QQQQ", text, 2, text + 3, 3), 2) == 5
    assert guest.call("preadv", file, struct.pack("<QQ", b, 5), 1, 11) == 5
    assert guest.get(5) == b"abdef"
    assert guest.call("pwritev", file, struct.pack("<QQ", text, 1), 1, 0) == 1
    assert guest.call("writev", file, vector, 2000) == -errno.EINVAL
    assert guest.call("readv", file, struct.pack("<QQ", b, 1 << 63), 1) == -errno.EINVAL
    assert guest.call("readv", file, vector, 0) == 0


def test_bad_addresses_are_efault(guest, file):
    assert guest.call("read", file, 8, 4) == -errno.EFAULT
    assert guest.call("write", file, 8, 4) == -errno.EFAULT
    assert guest.call("write", file, 1 << 63, 4) == -errno.EFAULT
    assert guest.call("openat", AT, 8, 0, 0) == -errno.EFAULT
    assert guest.call("fstat", file, 8) == -errno.EFAULT
    assert guest.call("pipe2", 8, 0) == -errno.EFAULT
    # A buffer that is good at first: as much as fits.
    top = guest.process.stack_top
    assert guest.call("read", file, top - 4, 100) == 4


def test_bad_descriptors_are_ebadf(guest):
    for name in ("read", "write", "pread64", "pwrite64", "readv", "writev", "lseek", "fstat", "close", "dup", "fcntl",
                 "ioctl", "getdents64", "fsync", "ftruncate", "fchmod", "flock", "fstatfs", "fchdir"):  # fmt: skip
        assert guest.call(name, 77, guest.buffer, 1, 0) == -errno.EBADF, name
        assert guest.call(name, -1, guest.buffer, 1, 0) == -errno.EBADF, name


@pytest.mark.parametrize("name", ["fstat", "newfstatat"])
def test_stat_is_what_the_host_says(guest, file, tmp_path, name):
    info = (tmp_path / "file").stat()
    args = (file, guest.buffer) if name == "fstat" else (AT, "file", guest.buffer, 0)
    assert guest.call(name, *args) == 0
    fields = struct.unpack("<QQIIIIQQqiiqqQqQqQII", guest.get(128))
    assert fields[:7] == (info.st_dev, info.st_ino, info.st_mode, 1, info.st_uid, info.st_gid, 0)
    assert (fields[8], fields[9], fields[11]) == (info.st_size, info.st_blksize, info.st_blocks)
    assert fields[14] * 10**9 + fields[15] == info.st_mtime_ns


def test_statx(guest, file, tmp_path):
    info = (tmp_path / "file").stat()
    assert guest.call("statx", AT, "file", 0, 0x7FF, guest.buffer) == 0
    raw = guest.get(256)
    mask, blksize, _, nlink, uid, gid, mode, _, ino, size, blocks, _ = struct.unpack_from(
        "<IIQIIIHHQQQQ", raw
    )
    assert (blksize, nlink, uid, gid, mode) == (info.st_blksize, 1, info.st_uid, info.st_gid, info.st_mode)
    assert (ino, size, blocks, mask & 0x7FF) == (info.st_ino, 11, info.st_blocks, 0x7FF)
    assert struct.unpack_from("<qI", raw, 112) == divmod(info.st_mtime_ns, 10**9)
    assert struct.unpack_from("<II", raw, 136) == (os.major(info.st_dev), os.minor(info.st_dev))
    assert guest.call("statx", file, "", 0x1000, 0x7FF, guest.buffer) == 0
    assert guest.call("statx", file, "", 0, 0x7FF, guest.buffer) == -errno.ENOENT


def test_links_names_and_directories(guest, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    assert guest.call("mkdirat", AT, "d", 0o750) == 0
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750
    assert guest.call("mkdirat", AT, "d/", 0o700) == -errno.EEXIST
    assert guest.call("linkat", AT, "file", AT, "d/hard", 0) == 0
    assert (tmp_path / "file").stat().st_nlink == 2
    assert guest.call("symlinkat", "../file", AT, "d/soft") == 0
    assert guest.call("readlinkat", AT, "d/soft", guest.buffer, 100) == 7
    assert guest.get(7) == b"../file"
    assert guest.call("readlinkat", AT, "d/soft", guest.buffer, 2) == 2
    assert guest.call("readlinkat", AT, "file", guest.buffer, 100) == -errno.EINVAL
    assert guest.call("readlinkat", AT, "file", guest.buffer, 0) == -errno.EINVAL
    assert guest.call("linkat", AT, "d/soft", AT, "followed", 0x400) == 0
    assert stat.S_ISREG((tmp_path / "followed").lstat().st_mode)
    assert guest.call("renameat", AT, "d/hard", AT, "moved") == 0
    assert guest.call("renameat2", AT, "moved", AT, "file", 1) == -errno.EEXIST
    assert guest.call("renameat2", AT, "moved", AT, "fresh", 1) == 0
    assert guest.call("renameat2", AT, "d", AT, "e", 1) == 0
    assert guest.call("renameat2", AT, "fresh", AT, "e", 3) == -errno.EINVAL
    assert guest.call("renameat2", AT, "fresh", AT, "e", 4) == -errno.EINVAL
    for _ in range(2):
        assert guest.call("renameat2", AT, "fresh", AT, "e", 2) == 0  # RENAME_EXCHANGE, and back
    assert guest.call("unlinkat", AT, "e", 0) == -errno.EISDIR
    assert guest.call("unlinkat", AT, "e", 0x200) == -errno.ENOTEMPTY
    assert guest.call("unlinkat", AT, "e/soft", 0) == 0
    assert guest.call("unlinkat", AT, "e", 0x200) == 0
    assert guest.call("unlinkat", AT, ".", 0x200) == -errno.EINVAL
    assert sorted(os.listdir(tmp_path)) == ["file", "followed", "fresh"]


def test_a_slash_behind_a_link_follows_it_but_for_who_changes_names(guest, tmp_path):
    b = guest.buffer
    (tmp_path / "dir").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "none").symlink_to("absent")
    inode = (tmp_path / "dir").stat().st_ino
    for flags in (O_RDONLY, O_NOFOLLOW, O_DIRECTORY, O_DIRECTORY | O_NOFOLLOW, O_PATH | O_NOFOLLOW):
        for name in ("link/", "link//", "link/.", "dir/../link/"):
            fd = guest.call("openat", AT, name, flags, 0)
            assert guest.call("fstat", fd, b) == 0, (name, flags, fd)
            assert struct.unpack_from("<QQ", guest.get(16))[1] == inode
            guest.call("close", fd)
    for flags in (0, 0x100):
        assert guest.call("newfstatat", AT, "link/", b, flags) == 0
        assert struct.unpack_from("<QQ", guest.get(16))[1] == inode
        assert guest.call("utimensat", AT, "link/", 0, flags) == 0
        assert guest.call("newfstatat", AT, "none/", b, flags) == -errno.ENOENT
    assert guest.call("readlinkat", AT, "link/", b, 9) == -errno.EINVAL
    for name in ("link/", "dir/../link/"):
        assert guest.call("unlinkat", AT, name, 0x200) == -errno.ENOTDIR
        assert guest.call("unlinkat", AT, name, 0) == -errno.ENOTDIR
        assert guest.call("renameat", AT, name, AT, "moved") == -errno.ENOTDIR
        assert guest.call("mkdirat", AT, name, 0o700) == -errno.EEXIST
    assert guest.call("mkdirat", AT, "none/", 0o700) == -errno.EEXIST
    assert guest.call("renameat", AT, "file", AT, "new/") == -errno.ENOTDIR
    assert guest.call("renameat2", AT, "empty", AT, "file/", 2) == -errno.ENOTDIR
    assert guest.call("renameat", AT, "empty/", AT, "new/") == 0
    assert guest.call("renameat", AT, "new/.", AT, "moved") == -errno.EBUSY
    assert guest.call("renameat", AT, "file", AT, "dir/..") == -errno.EBUSY
    assert guest.call("symlinkat", "x", AT, "absent/.") == -errno.ENOENT
    assert guest.call("symlinkat", "x", AT, "dir/..") == -errno.EEXIST
    assert guest.call("mkdirat", AT, "absent/.", 0o700) == -errno.ENOENT
    assert sorted(os.listdir(tmp_path)) == ["dir", "file", "link", "new", "none"]


def test_old_calls_of_x86_64(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("absent")
    (tmp_path / "to").symlink_to("file")
    with Caller(image=elf(b"\xcc", machine=62), cwd=str(tmp_path)) as guest:
        assert guest.call("lchown", "link", os.getuid(), -1) == 0
        assert guest.call("chown", "link", os.getuid(), -1) == -errno.ENOENT
        assert guest.call("utime", "to", struct.pack("<qq", 5, 6)) == 0
        assert ((tmp_path / "file").stat().st_atime_ns, (tmp_path / "file").stat().st_mtime) == (
            5_000_000_000,
            6,
        )
        assert guest.call("utimes", "to", struct.pack("<qqqq", 7, 999_999, 8, 3)) == 0
        assert (tmp_path / "file").stat().st_mtime_ns == 8_000_003_000
        assert guest.call("utimes", "to", struct.pack("<qqqq", 7, 1_000_000, 8, 3)) == -errno.EINVAL
        assert guest.call("futimesat", AT, "link", 0) == -errno.ENOENT
        fd = guest.call("open", "file", O_RDONLY, 0)
        assert guest.call("futimesat", fd, 0, struct.pack("<qqqq", 9, 0, 9, 1)) == 0
        assert (tmp_path / "file").stat().st_mtime_ns == 9_000_001_000
        assert guest.call("utime", 0, 0) == guest.call("utimes", 0, 0) == -errno.EFAULT
        assert guest.call("utime", "file", 0) == 0
        assert (tmp_path / "file").stat().st_mtime > 1_000_000


def test_listing_a_directory(guest, tmp_path):
    for number in range(30):
        (tmp_path / f"name{number}").write_bytes(b"")
    fd = guest.call("openat", AT, ".", O_RDONLY | O_DIRECTORY, 0)
    names = set()
    while (count := guest.call("getdents64", fd, guest.buffer, 256)) > 0:
        raw, at = guest.get(count), 0
        while at < count:
            _, _, length, _ = struct.unpack_from("<QqHB", raw, at)
            names.add(raw[at + 19 : at + length].split(b"\0")[0].decode())
            at += length
    assert names == {".", "..", *os.listdir(tmp_path)}
    assert guest.call("lseek", fd, 0, 0) == 0
    assert guest.call("getdents64", fd, guest.buffer, 4096) > 0
    assert guest.call("read", fd, guest.buffer, 10) == -errno.EISDIR
    assert guest.call("write", fd, b"x", 1) == -errno.EBADF
    file = guest.call("openat", AT, "name1", O_RDONLY, 0)
    assert guest.call("getdents64", file, guest.buffer, 4096) == -errno.ENOTDIR


def test_sizes_times_and_modes(guest, file, tmp_path):
    path = tmp_path / "file"
    assert guest.call("ftruncate", file, 3) == 0
    assert guest.call("truncate", "file", 5) == 0
    assert path.read_bytes() == b"hello"[:3] + bytes(2)
    assert guest.call("truncate", "file", -1) == guest.call("ftruncate", file, -1) == -errno.EINVAL
    assert guest.call("fallocate", file, 0, 0, 100) == 0
    assert path.stat().st_size == 100
    assert guest.call("fallocate", file, 1, 100, 100) == 0  # FALLOC_FL_KEEP_SIZE
    assert path.stat().st_size == 100
    assert guest.call("fallocate", file, 0x100, 0, 100) == -errno.EOPNOTSUPP
    assert guest.call("utimensat", AT, "file", struct.pack("<qqqq", 10, 5, 20, 7), 0) == 0
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (10 * 10**9 + 5, 20 * 10**9 + 7)
    omit, now = 0x3FFFFFFE, 0x3FFFFFFF
    assert guest.call("utimensat", file, 0, struct.pack("<qqqq", 0, omit, 0, now), 0) == 0
    assert path.stat().st_atime_ns == 10 * 10**9 + 5
    assert abs(path.stat().st_mtime - time.time()) < 60
    assert guest.call("utimensat", AT, "file", struct.pack("<qqqq", 0, -1, 0, 0), 0) == -errno.EINVAL
    assert guest.call("fchmod", file, 0o640) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert guest.call("fchmodat", AT, "file", 0o600) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert guest.call("fchown", file, -1, -1) == guest.call("fchownat", AT, "file", -1, -1, 0) == 0
    assert guest.call("umask", 0o077) == 0o022
    assert guest.call("openat", AT, "new", O_WRONLY | O_CREAT, 0o666) >= 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert guest.call("umask", 0o022) == 0o077


def test_access(guest, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o600)
    assert guest.call("faccessat", AT, "file", 6) == 0
    assert guest.call("faccessat", AT, "file", 1) == -errno.EACCES
    assert guest.call("faccessat2", AT, "file", 0, 0) == 0
    assert guest.call("faccessat", AT, "absent", 0) == -errno.ENOENT
    assert guest.call("faccessat", AT, "/dev/null", 6) == 0
    assert guest.call("faccessat", AT, "/proc/cpuinfo", 2) == -errno.EACCES


def test_copying_between_files(guest, file, tmp_path):
    out = guest.call("openat", AT, "out", O_RDWR | O_CREAT, 0o600)
    offset = guest.put(struct.pack("<Q", 6))
    assert guest.call("sendfile", out, file, offset, 100) == 5
    assert guest.memory.load(offset, 8) == 11
    assert guest.call("sendfile", out, file, 0, 5) == 5
    assert guest.call("copy_file_range", file, 0, out, 0, 100, 0) == 6
    assert (tmp_path / "out").read_bytes() == b"worldhello world"
    appending = guest.call("openat", AT, "out", O_WRONLY | O_APPEND, 0)
    assert guest.call("sendfile", appending, file, 0, 5) == -errno.EINVAL


@pytest.mark.parametrize("number", [-1, -2, -40, -1000, -100_000, -1 << 31])
def test_negative_descriptors_are_none(guest, number):
    """Numbers stand in native code's table by their place: what lies in front of it is no descriptor's."""
    words = guest.process.native.words
    before = words.tobytes()
    assert guest.call("waitid", 3, number, guest.buffer, 4, 0) == -errno.EINVAL  # P_PIDFD
    for name in ("close", "fsync", "fchdir", "dup"):
        assert guest.call(name, number) == -errno.EBADF, name
    assert number not in guest.process.main.table
    assert guest.process.main.table.pop(number) is None
    assert words.tobytes() == before


def test_descriptors(guest, file):
    copy = guest.call("dup", file)
    assert copy == file + 1
    guest.call("lseek", file, 6, 0)
    assert guest.call("lseek", copy, 0, 1) == 6
    assert guest.call("dup3", file, 20, O_CLOEXEC) == 20
    assert guest.call("fcntl", 20, 1, 0) == 1
    assert guest.call("fcntl", file, 1, 0) == 0
    assert guest.call("fcntl", 20, 2, 0) == 0
    assert guest.call("fcntl", 20, 1, 0) == 0
    assert guest.call("dup3", file, file, 0) == -errno.EINVAL
    assert guest.call("dup3", file, 100_000, 0) == -errno.EBADF
    assert guest.call("fcntl", file, 0, 10) == 10
    assert guest.call("fcntl", file, 1030, 10) == 11
    assert guest.call("fcntl", file, 0, -1) == -errno.EINVAL
    assert guest.call("close", file) == 0
    assert guest.call("read", copy, guest.buffer, 5) == 5
    assert guest.call("close_range", 5, 0xFFFFFFFF, 0) == 0
    assert guest.call("read", 20, guest.buffer, 5) == -errno.EBADF
    assert guest.call("close_range", 5, 4, 0) == -errno.EINVAL


def test_file_status_flags(guest, file, tmp_path):
    fd = guest.call("openat", AT, "file", O_WRONLY | O_APPEND, 0)
    assert guest.call("fcntl", fd, 3, 0) & 0o6003 == O_WRONLY | O_APPEND
    assert guest.call("fcntl", fd, 4, O_NONBLOCK) == 0
    assert guest.call("fcntl", fd, 3, 0) & 0o6003 == O_WRONLY | O_NONBLOCK
    assert guest.call("write", fd, b"J", 1) == 1
    assert (tmp_path / "file").read_bytes() == b"Jello world"
    assert guest.call("fcntl", fd, 99, 0) == -errno.EINVAL


@pytest.fixture
def nothing_left():
    """A test that ends with the host's descriptors that it began with."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("isa", ["riscv64", "aarch64", "x86_64"])
def test_o_path_takes_no_notice_of_what_is_not_about_paths(nothing_left, tmp_path, monkeypatch, isa):
    monkeypatch.setattr(files, "host_umask", lambda: 0o022)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir").chmod(0o755)
    (tmp_path / "file").write_bytes(b"hello world")
    (tmp_path / "link").symlink_to("file")
    machine = {"riscv64": 243, "aarch64": 183, "x86_64": 62}[isa]
    with Caller(image=elf(bytes(64), machine=machine), cwd=str(tmp_path)) as guest:
        guest.call("umask", 0)
        flags = O_PATH | O_CREAT | O_EXCL | O_TRUNC | O_RDWR | O_APPEND | O_NONBLOCK
        for name in ("dir", "file", "link", "."):
            fd = guest.call("openat", AT, name, flags, 0o777)
            assert fd >= 0, name
            assert guest.call("fcntl", fd, 3, 0) == O_PATH
            assert guest.call("read", fd, guest.buffer, 1) == -errno.EBADF
            assert guest.call("close", fd) == 0
        assert guest.call("openat", AT, "absent", flags, 0o777) == -errno.ENOENT
        how = struct.pack("<QQQ", flags, 0o777, 0)
        assert guest.call("openat2", AT, "dir", how, 24) == -errno.EINVAL
    assert sorted(os.listdir(tmp_path)) == ["dir", "file", "link"]
    assert stat.S_IMODE((tmp_path / "dir").stat().st_mode) == 0o755
    assert (tmp_path / "file").read_bytes() == b"hello world"


def refuse(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def test_a_file_that_is_not_given_to_the_guest_is_closed(nothing_left, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "host_umask", lambda: 0o022)
    os.mkfifo(tmp_path / "fifo")
    with Caller(cwd=str(tmp_path)) as guest:
        guest.call("umask", 0)
        with monkeypatch.context() as patch:
            # As on a file system that has no modes.
            patch.setattr(os, "fchmod", refuse(errno.EPERM))
            assert guest.call("openat", AT, "new", O_WRONLY | O_CREAT, 0o777) == -errno.EPERM
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe2", refuse(errno.EMFILE))
            assert guest.call("openat", AT, "fifo", O_RDONLY, 0) == -errno.EMFILE


def test_a_file_deeper_than_the_host_can_say(nothing_left, tmp_path):
    deep = [str(level).rjust(200, "d") for level in range(20)]
    here = os.open(tmp_path, os.O_RDONLY)
    for name in deep:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f" * 200, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    os.close(here)
    with Caller(cwd=str(tmp_path)) as guest:
        fd = guest.call("openat", AT, "/".join(deep), O_RDONLY | O_DIRECTORY, 0)
        assert fd >= 0
        got = guest.call("openat2", fd, "f" * 200, struct.pack("<QQQ", O_RDONLY, 0, RESOLVE_BENEATH), 24)
        assert got == fd + 1
        assert guest.call("read", got, guest.buffer, 1) == 0


def test_the_number_of_descriptors_is_limited(guest, file):
    assert guest.call("prlimit64", 0, 7, struct.pack("<QQ", 5, 4096), 0) == 0
    fds = [guest.call("dup", file) for _ in range(10)]
    assert fds == [1, 2, 3, 4] + [-errno.EMFILE] * 6
    assert guest.call("pipe2", guest.buffer, 0) == -errno.EMFILE


def test_locks(guest, file, tmp_path):
    lock = struct.pack("<hhiqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0, 0)
    assert guest.call("fcntl", file, 6, lock) == 0
    assert guest.call("flock", file, fcntl.LOCK_EX) == 0
    with open(tmp_path / "file", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_UN)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert guest.call("flock", file, fcntl.LOCK_UN) == 0
        fcntl.flock(other, fcntl.LOCK_EX)
        assert guest.call("flock", file, fcntl.LOCK_EX | fcntl.LOCK_NB) == -errno.EAGAIN


def pipe(guest, flags=0):
    assert guest.call("pipe2", guest.buffer, flags) == 0
    return struct.unpack("<ii", guest.get(8))


def test_pipes(guest):
    reader, writer = pipe(guest, O_CLOEXEC)
    assert guest.call("fcntl", reader, 1, 0) == 1
    assert guest.call("write", writer, b"abc", 3) == 3
    assert guest.call("ioctl", reader, 0x541B, guest.buffer) == 0
    assert guest.memory.load(guest.buffer, 4) == 3
    assert guest.call("read", reader, guest.buffer, 100) == 3
    assert guest.call("lseek", reader, 0, 0) == -errno.ESPIPE
    assert guest.call("read", writer, guest.buffer, 1) == -errno.EBADF
    assert guest.call("write", reader, b"x", 1) == -errno.EBADF
    assert guest.call("fcntl", reader, 4, O_NONBLOCK) == 0
    assert guest.call("read", reader, guest.buffer, 1) == -errno.EAGAIN
    assert guest.call("close", writer) == 0
    assert guest.call("read", reader, guest.buffer, 1) == 0


def test_a_pipe_without_a_reader_is_sigpipe(guest):
    reader, writer = pipe(guest)
    guest.call("close", reader)
    assert guest.call("write", writer, b"x", 1) == -errno.EPIPE
    assert [info.number for info in guest.thread.pending] == [13]


def test_a_blocking_write_writes_everything(guest):
    reader, writer = pipe(guest)
    got = []

    def drain():
        fd = guest.process.files.table[reader].fd
        while sum(map(len, got)) < 300_000:
            select.select([fd], [], [], 5)
            got.append(os.read(fd, 65536))

    thread = threading.Thread(target=drain)
    thread.start()
    assert guest.call("write", writer, b"x" * 300_000, 300_000) == 300_000
    thread.join()


def test_a_blocking_read_waits_and_can_be_interrupted(guest):
    reader, writer = pipe(guest)
    fd = guest.process.files.table[writer].fd
    timer = threading.Timer(0.05, os.write, [fd, b"late"])
    timer.start()
    assert guest.call("read", reader, guest.buffer, 100) == 4
    timer = threading.Timer(0.05, guest.process.end, ["stopped"])
    timer.start()
    guest.call("read", reader, guest.buffer, 100)
    assert guest.thread.interrupted == RESTART
    timer.join()


def test_a_fifo_waits_for_its_reader(guest, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert guest.call("openat", AT, "fifo", O_WRONLY | O_NONBLOCK, 0) == -errno.ENXIO
    opened = []
    timer = threading.Timer(
        0.05, lambda: opened.append(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK))
    )
    timer.start()
    fd = guest.call("openat", AT, "fifo", O_WRONLY, 0)
    timer.join()
    assert guest.call("write", fd, b"x", 1) == 1
    os.close(opened[0])


def test_polling(guest):
    reader, writer = pipe(guest)
    fds = guest.put(struct.pack("<ihhihhihhihh", reader, 1, 0, writer, 4, 0, 77, 1, 0, -1, 1, 0))
    now = struct.pack("<qq", 0, 0)
    assert guest.call("ppoll", fds, 2, now, 0, 8) == 1
    assert struct.unpack("<ihhihh", guest.memory.read(fds, 16)) == (reader, 1, 0, writer, 4, 4)
    guest.call("write", writer, b"x", 1)
    assert guest.call("ppoll", fds, 4, 0, 0, 8) == 3
    assert struct.unpack("<ihhihhihhihh", guest.memory.read(fds, 32))[2::3] == (1, 4, 0x20, 0)
    guest.call("read", reader, guest.buffer, 1)
    begin = time.monotonic()
    assert guest.call("ppoll", fds, 1, struct.pack("<qq", 0, 30_000_000), 0, 8) == 0
    assert time.monotonic() - begin >= 0.03
    assert guest.call("ppoll", fds, 1, struct.pack("<qq", 0, -1), 0, 8) == -errno.EINVAL
    assert guest.call("ppoll", 0, 0, now, 0, 8) == 0


def test_select(guest):
    reader, writer = pipe(guest)
    both = (1 << reader | 1 << writer).to_bytes(8, "little")
    reads, writes = guest.put(both), guest.put(both)
    assert guest.call("pselect6", writer + 1, reads, writes, 0, struct.pack("<qq", 0, 0), 0) == 1
    assert (guest.memory.load(reads, 8), guest.memory.load(writes, 8)) == (0, 1 << writer)
    guest.call("write", writer, b"x", 1)
    guest.memory.poke(reads, both)
    assert guest.call("pselect6", writer + 1, reads, 0, 0, 0, 0) == 1
    assert guest.memory.load(reads, 8) == 1 << reader
    guest.memory.store(reads, 8, 1 << 60)
    assert guest.call("pselect6", 61, reads, 0, 0, 0, 0) == -errno.EBADF


def test_epoll_and_eventfd(guest):
    event = guest.call("eventfd2", 0, 0)
    poller = guest.call("epoll_create1", O_CLOEXEC)
    assert guest.call("epoll_ctl", poller, 1, event, struct.pack("<I4xQ", 1, 0xABCDEF)) == 0
    assert guest.call("epoll_ctl", poller, 1, event, struct.pack("<I4xQ", 1, 0)) == -errno.EEXIST
    assert guest.call("epoll_pwait", poller, guest.buffer, 10, 0, 0, 8) == 0
    assert guest.call("write", event, struct.pack("<Q", 3), 8) == 8
    assert guest.call("epoll_pwait", poller, guest.buffer, 10, -1, 0, 8) == 1
    assert struct.unpack("<I4xQ", guest.get(16)) == (1, 0xABCDEF)
    assert guest.call("read", event, guest.buffer, 8) == 8
    assert guest.memory.load(guest.buffer, 8) == 3
    assert guest.call("epoll_ctl", poller, 2, event, 0) == 0
    assert guest.call("epoll_ctl", event, 1, poller, guest.buffer) == -errno.EINVAL


def test_emulated_files(guest):
    def text(path):
        fd = guest.call("openat", AT, path, O_RDONLY, 0)
        assert fd >= 0, path
        count = guest.call("read", fd, guest.buffer, 1 << 19)
        guest.call("close", fd)
        return guest.get(count)

    assert text("/proc/self/cmdline") == b"guest\0"
    assert b"[stack]" in text("/proc/self/maps")
    assert text("/proc/self/auxv") == guest.process.auxv
    assert text("/proc/self/comm") == b"guest\n"
    assert text("/proc/thread-self/stat").startswith(str(guest.process.pid).encode())
    assert b"isa\t\t: rv64imafdc" in text("/proc/cpuinfo")
    assert b"MemTotal:" in text("/proc/meminfo")
    for name in ("status", "statm", "limits", "environ"):
        text(f"/proc/self/{name}")
        text(f"/proc/{guest.process.pid}/task/{guest.thread.tid}/{name}")
    for name in ("stat", "uptime", "version", "sys/kernel/osrelease"):
        assert text(f"/proc/{name}")
    assert guest.call("openat", AT, "/proc/self/maps", O_RDWR, 0) == -errno.EACCES
    assert guest.call("openat", AT, "/proc/self", O_RDWR, 0) == -errno.EISDIR
    assert guest.call("newfstatat", AT, "/proc/self/maps", guest.buffer, 0) == 0
    assert guest.memory.load(guest.buffer + 16, 4) == stat.S_IFREG | 0o444
    fd = guest.call("openat", AT, "/proc/self/fd", O_RDONLY | O_DIRECTORY, 0)
    assert guest.call("getdents64", fd, guest.buffer, 4096) > 0
    assert guest.call("fstat", fd, guest.buffer) == 0
    assert guest.call("statfs", "/proc", guest.buffer) == 0
    assert guest.memory.load(guest.buffer, 8) == 0x9FA0


def test_emulated_files_that_are_read_again_tell_what_is_true_then(guest):
    fd = guest.call("openat", AT, "/proc/self/comm", O_RDONLY, 0)

    def text():
        return guest.get(guest.call("read", fd, guest.buffer, 4096))

    assert text() == b"guest\n"
    assert guest.call("prctl", 15, "other name") == 0
    assert text() == b""
    assert guest.call("lseek", fd, 0, 0) == 0
    assert text() == b"other name\n"
    assert guest.call("prctl", 15, "third") == 0
    assert guest.call("pread64", fd, guest.buffer, 4096, 0) == 6
    assert guest.get(6) == b"third\n"
    of_a_file = guest.call("openat", AT, f"/proc/self/fdinfo/{fd}", O_RDONLY, 0)
    guest.call("close", fd)
    assert guest.call("lseek", of_a_file, 0, 0) == 0
    assert guest.call("read", of_a_file, guest.buffer, 4096) == 0


def test_emulated_directories_that_are_read_again_tell_what_is_there_then(guest):
    fd = guest.call("openat", AT, "/proc/self/fd", O_RDONLY | O_DIRECTORY, 0)

    def names():
        data = guest.get(guest.call("getdents64", fd, guest.buffer, 4096))
        while data:
            length = int.from_bytes(data[16:18], "little")
            yield data[19:length].split(b"\0")[0].decode()
            data = data[length:]

    before = set(names())
    assert str(fd) in before
    assert not [*names()]
    more = guest.call("dup", fd)
    here = guest.call("lseek", fd, 0, 1)
    assert here > 2
    assert guest.call("lseek", fd, -here - 1, 1) == guest.call("lseek", fd, 0, 9) == -errno.EINVAL
    assert guest.call("lseek", fd, -here, 1) == 0
    assert set(names()) == before | {str(more)}


def test_emulated_devices(guest):
    def opened(name, flags=O_RDWR):
        return guest.call("openat", AT, f"/dev/{name}", flags, 0)

    assert opened("stdin") == -errno.ENOENT
    assert guest.call("write", opened("null"), b"x", 1) == 1
    assert guest.call("read", opened("null"), guest.buffer, 1) == 0
    guest.memory.poke(guest.buffer, b"xxxx")
    assert guest.call("read", opened("zero"), guest.buffer, 4) == 4
    assert guest.get(4) == bytes(4)
    assert guest.call("write", opened("full"), b"x", 1) == -errno.ENOSPC
    for name in ("random", "urandom"):
        assert guest.call("read", opened(name, O_RDONLY), guest.buffer, 32) == 32
        assert guest.get(32) != bytes(32)
    assert opened("tty") == -errno.ENXIO
    assert guest.call("newfstatat", AT, "/dev/null", guest.buffer, 0) == 0
    assert stat.S_ISCHR(guest.memory.load(guest.buffer + 16, 4))


def test_terminals(tmp_path):
    main, terminal = pty.openpty()
    with Caller(cwd=str(tmp_path), stdio=(terminal, terminal, None)) as guest:
        termios.tcsetwinsize(terminal, (33, 77))
        assert guest.call("ioctl", 0, 0x5413, guest.buffer) == 0
        assert struct.unpack("<HH", guest.get(4)) == (33, 77)
        assert guest.call("ioctl", 0, 0x5401, guest.buffer) == 0
        raw = guest.get(36)
        assert int.from_bytes(raw[12:16], "little") & termios.ECHO
        quiet = (
            raw[:12] + (int.from_bytes(raw[12:16], "little") & ~termios.ECHO).to_bytes(4, "little") + raw[16:]
        )
        assert guest.call("ioctl", 0, 0x5402, quiet) == 0
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        tty = guest.call("openat", AT, "/dev/tty", O_RDWR, 0)
        assert guest.call("write", tty, b"out\n", 4) == 4
        os.write(main, b"line\n")
        assert guest.call("read", 0, guest.buffer, 100) == 5
        # TIOCSTI would type into the user's shell.
        assert guest.call("ioctl", 0, 0x5412, b"x") == -errno.ENOTTY
        assert guest.call("fchmod", 0, 0o777) == -errno.EPERM
    os.close(main)
    os.close(terminal)


def test_sockets(tmp_path):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    address = (
        struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
    )
    with Caller(cwd=str(tmp_path), net=True) as guest:
        fd = guest.call("socket", socket.AF_INET, socket.SOCK_STREAM | O_CLOEXEC, 0)
        assert guest.call("connect", fd, address, 16) == 0
        peer, _ = server.accept()
        assert guest.call("write", fd, b"ping", 4) == 4
        assert peer.recv(10) == b"ping"
        peer.sendall(b"pong")
        assert guest.call("recvfrom", fd, guest.buffer, 100, 0, 0, 0) == 4
        assert guest.get(4) == b"pong"
        size = guest.put(struct.pack("<I", 16))
        assert guest.call("getpeername", fd, guest.buffer, size) == 0
        assert guest.get(16) == address
        one = struct.pack("<I", 1)
        assert guest.call("setsockopt", fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE, one, 4) == 0
        size = guest.put(struct.pack("<I", 4))
        assert guest.call("getsockopt", fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE, guest.buffer, size) == 0
        assert guest.memory.load(guest.buffer, 4) == 1
        assert guest.call("setsockopt", fd, socket.SOL_SOCKET, 36, one, 4) == -errno.EPERM
        text = guest.put(b"message")
        header = struct.pack("<QI4xQQQQI4x", 0, 0, guest.put(struct.pack("<QQ", text, 7)), 1, 0, 0, 0)
        assert guest.call("sendmsg", fd, header, 0) == 7
        assert peer.recv(10) == b"message"
        assert guest.call("recvfrom", fd, guest.buffer, 10, 0x40, 0, 0) == -errno.EAGAIN
        assert guest.call("shutdown", fd, 1) == 0
        assert peer.recv(10) == b""
        peer.close()
        guest.call(
            "bind",
            fd2 := guest.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
            address[:2] + bytes(14),
            16,
        )
        assert guest.call("listen", fd2, 5) == 0
        assert guest.call("getsockname", fd2, guest.buffer, guest.put(struct.pack("<I", 16))) == 0
        mine = int.from_bytes(guest.get(2, 2), "big")
        client = socket.create_connection(("127.0.0.1", mine))
        accepted = guest.call("accept4", fd2, 0, 0, 0)
        assert accepted >= 0
        client.sendall(b"hi")
        assert guest.call("read", accepted, guest.buffer, 10) == 2
        client.close()
        assert guest.call("socket", socket.AF_PACKET, socket.SOCK_RAW, 0) == -errno.EAFNOSUPPORT
        assert guest.call("socket", socket.AF_INET, socket.SOCK_RAW, 1) == -errno.EPERM
    server.close()


def test_socket_pairs_need_no_network(guest):
    assert guest.call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, guest.buffer) == 0
    one, two = struct.unpack("<ii", guest.get(8))
    assert guest.call("write", one, b"x", 1) == 1
    assert guest.call("read", two, guest.buffer, 10) == 1
    guest.call("close", two)
    assert guest.call("sendto", one, b"x", 1, 0x4000, 0, 0) == -errno.EPIPE
    assert not guest.thread.pending
    assert guest.call("sendto", one, b"x", 1, 0, 0, 0) == -errno.EPIPE
    assert guest.thread.pending
