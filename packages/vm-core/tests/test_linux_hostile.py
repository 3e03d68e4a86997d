"""What a hostile guest tried once: each of these ended in a traceback, a leak or a host that had to wait."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from vm_core.linux.abi import SigInfo
from vm_core.linux.paths import Bind
from vm_core.linux.signal import deliver
from vm_core.testing.guests import Caller

LONG = (1 << 63) - 1
AT_FDCWD = -100


def pair(guest, kind=socket.SOCK_DGRAM):
    assert guest.call("socketpair", socket.AF_UNIX, kind | socket.SOCK_NONBLOCK, 0, guest.buffer) == 0
    return struct.unpack("<ii", guest.get(8))


def test_truncated_datagram_shows_nothing_but_its_own_bytes(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        first, second = pair(guest)
        assert guest.call("sendto", first, b"A" * 60_000, 60_000, 0, 0, 0) == 60_000
        guest.memory.poke(guest.buffer, b"z" * 70_000)
        assert guest.call("recvfrom", second, guest.buffer, 16, 0x20, 0, 0) == 60_000  # MSG_TRUNC
        assert guest.get(70_000) == b"A" * 16 + b"z" * 69_984


def test_socket_options_never_reach_what_is_the_hosts(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        fd, _ = pair(guest)
        zero = guest.put(bytes(4))
        assert guest.call("getsockopt", fd, socket.SOL_SOCKET, socket.SO_TYPE, guest.buffer, zero) == 0
        size = guest.put(struct.pack("<I", 64))
        assert guest.call("getsockopt", fd, socket.SOL_SOCKET, 26, guest.buffer, size) == -errno.ENOPROTOOPT
        for option in (25, 26, 36, 50, 51, 52):  # devices, marks and filters, whose values hold pointers
            got = guest.call("setsockopt", fd, socket.SOL_SOCKET, option, bytes(16), 16)
            assert got == -errno.EPERM
        assert guest.call("setsockopt", fd, socket.IPPROTO_IP, 64, bytes(16), 16) == -errno.EPERM  # iptables


def unix(name):
    return struct.pack("<H", socket.AF_UNIX) + name + b"\0"


def test_without_the_network_unix_sockets_reach_only_the_guests_own(tmp_path):
    stream, datagram = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stream.bind(str(tmp_path / "stream"))
    stream.listen()
    datagram.bind(str(tmp_path / "datagram"))
    datagram.setblocking(False)
    with Caller(cwd=str(tmp_path)) as guest:
        fd, _ = pair(guest)
        assert guest.call("connect", fd, unix(b"datagram"), 11) == -errno.ECONNREFUSED
        assert guest.call("sendto", fd, b"x", 1, 0, guest.put(unix(b"datagram")), 11) == -errno.ECONNREFUSED
        fd = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert guest.call("connect", fd, unix(b"stream"), 9) == -errno.ECONNREFUSED
        with pytest.raises(BlockingIOError):
            datagram.recv(1)
        own = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert guest.call("bind", own, unix(b"own"), 6) == 0
        assert guest.call("listen", own, 1) == 0
        assert guest.call("connect", fd, unix(b"own"), 6) == 0
        # A file of the host's socket under another name is still the host's.
        assert guest.call("linkat", AT_FDCWD, "stream", AT_FDCWD, "again", 0) == 0
        other = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert guest.call("connect", other, unix(b"again"), 8) == -errno.ECONNREFUSED
    with Caller(cwd=str(tmp_path)) as guest:
        fd = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert guest.call("connect", fd, unix(b"own"), 6) == -errno.ECONNREFUSED, "another guest's"
    stream.close()
    datagram.close()


def test_abstract_names_of_the_host_are_other_names(tmp_path):
    name = b"\0vm-test-" + os.urandom(4).hex().encode()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    address = struct.pack("<H", socket.AF_UNIX) + name
    with Caller(cwd=str(tmp_path), net=True) as guest, Caller(cwd=str(tmp_path), net=True) as other:
        fd = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert guest.call("connect", fd, address, len(address)) == -errno.ECONNREFUSED
        assert guest.call("bind", fd, address, len(address)) == 0
        assert guest.call("listen", fd, 1) == 0
        client = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert guest.call("connect", client, address, len(address)) == 0
        client = other.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert other.call("connect", client, address, len(address)) == -errno.ECONNREFUSED
    listener.close()


def test_addresses_of_another_family_are_refused(tmp_path):
    inet = struct.pack("<H", socket.AF_INET) + bytes(14)
    with Caller(cwd=str(tmp_path), net=True) as guest:
        fd, _ = pair(guest)
        assert guest.call("bind", fd, inet, 16) == -errno.EINVAL
        fd = guest.call("socket", socket.AF_INET, socket.SOCK_DGRAM, 0)
        assert guest.call("bind", fd, unix(b"sock").ljust(16, b"\0"), 16) == -errno.EAFNOSUPPORT
    assert not (tmp_path / "sock").exists()


def test_longest_times_are_packed(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        assert guest.call("setitimer", 0, struct.pack("<4q", LONG, 0, LONG, 0), 0) == 0
        assert guest.call("getitimer", 0, guest.buffer) == 0
        assert struct.unpack("<q", guest.get(8))[0] == 1 << 62
        guest.thread.pending.append(SigInfo(12))
        guest.thread.attention = True
        guest.call("nanosleep", struct.pack("<qq", LONG, 0), guest.buffer)
        assert struct.unpack("<q", guest.get(8))[0] == 1 << 62


def test_signal_frame_with_autodisarm_and_odd_handler(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        stack = struct.pack("<QIIQ", guest.buffer, 0x8000_0000, 0, 65_536)
        assert guest.call("sigaltstack", stack, 0) == 0
        handler = struct.pack("<QQQ", 0x10001, 0x0800_0000, 0)
        assert guest.call("rt_sigaction", 10, handler, 0, 8) == 0
        guest.process.send_to(guest.thread, SigInfo(10))
        deliver(guest.thread)
        assert guest.thread.cpu.pc == 0x10000
        assert guest.thread.altstack == (0, 2, 0)


def test_overlapping_vectors_are_not_copied_out_whole(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        big = guest.call("mmap", 0, 256 << 20, 1, 0x22, -1, 0)
        vector = guest.put(struct.pack("<QQ", big, 256 << 20) * 1024)
        assert guest.call("pipe2", guest.buffer, 0o4000) == 0
        reader, writer = struct.unpack("<ii", guest.get(8))
        assert guest.call("writev", writer, vector, 1024) == 65_536
        assert guest.call("readv", reader, vector, 1024) == -errno.EFAULT  # not writable
        file = guest.call("openat", AT_FDCWD, "out", 0o102, 0o600)
        few = guest.put(struct.pack("<QQ", big, 20 << 20) * 2)
        assert guest.call("writev", file, few, 2) == 40 << 20
        assert guest.call("pwrite64", file, big, 20 << 20, 30 << 20) == 20 << 20
    assert (tmp_path / "out").stat().st_size == 50 << 20


def test_sendfile_reads_only_files(tmp_path):
    reader, writer = os.pipe()
    try:
        with Caller(cwd=str(tmp_path), stdio=(reader, writer, None)) as guest:
            assert guest.call("sendfile", 1, 0, 0, 10) == -errno.EINVAL  # would wait in the host
    finally:
        os.close(reader)
        os.close(writer)


def test_pipes_do_not_grow_beyond_what_a_user_may(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        assert guest.call("pipe2", guest.buffer, 0) == 0
        reader, _ = struct.unpack("<ii", guest.get(8))
        assert guest.call("fcntl", reader, 1031, 1 << 20) == 1 << 20
        assert guest.call("fcntl", reader, 1031, 1 << 24) == -errno.EPERM


def test_the_parent_of_a_read_only_mount_stays_where_it_is(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("kept")
    inner = str(tmp_path / "a" / "b")
    with Caller(cwd=str(tmp_path), binds=(Bind(inner, inner, writable=False),)) as guest:
        assert guest.call("openat", AT_FDCWD, "a/b/file", 1, 0) == -errno.EROFS
        assert guest.call("renameat2", AT_FDCWD, "a", AT_FDCWD, "c", 0) == -errno.EBUSY
        assert guest.call("renameat2", AT_FDCWD, "a", AT_FDCWD, "c", 1) == -errno.EBUSY


def test_a_deep_or_closed_temporary_directory_goes(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        for top in ("x", "y"):
            guest.call("chdir", "/tmp")
            for level in range(1200):
                name = top if not level else "d"
                assert guest.call("mkdirat", AT_FDCWD, name, 0o700) == 0
                assert guest.call("chdir", name) == 0
        guest.call("chdir", "/tmp")
        assert guest.call("renameat2", AT_FDCWD, "x", AT_FDCWD, "y/" + "d/" * 1199 + "x", 0) == 0
        guest.call("mkdirat", AT_FDCWD, "z", 0o700)
        guest.call("openat", AT_FDCWD, "z/file", 0o102, 0o600)
        guest.call("fchmodat", AT_FDCWD, "z", 0)
        guest.call("fchmod", guest.call("openat", AT_FDCWD, "/tmp", 0o200000, 0), 0)
        host = Path(guest.process.files.namespace.mounts["/tmp"].host)
        assert host.is_dir()
    assert not host.exists()


def test_a_moved_shared_mapping_still_is_its_file(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        fd = guest.call("openat", AT_FDCWD, "file", 0o102, 0o600)
        guest.call("ftruncate", fd, 8192)
        at = guest.call("mmap", 0, 4096, 3, 1, fd, 0)
        guest.call("mmap", at + 4096, 4096, 3, 0x32, -1, 0)
        guest.memory.poke(at, b"first")
        guest.call("pwrite64", fd, b"seen", 4, 5000)
        moved = guest.call("mremap", at, 4096, 8192, 1, 0)
        assert moved > 0
        assert moved != at
        assert guest.memory.peek(moved + 5000, 4) == b"seen"
        guest.memory.poke(moved + 4096, b"second")
        assert guest.call("msync", moved, 8192, 4) == 0
    data = (tmp_path / "file").read_bytes()
    assert data[:5] == b"first"
    assert data[4096:4102] == b"second"


def test_page_zero_is_not_a_place_to_move_to(tmp_path):
    with Caller(cwd=str(tmp_path)) as guest:
        at = guest.call("mmap", 0, 4096, 3, 0x22, -1, 0)
        assert guest.call("mremap", at, 4096, 4096, 3, 0) == -errno.EPERM


def test_unknown_calls_are_named_a_hundred_times_at_most(tmp_path, caplog):
    with Caller(cwd=str(tmp_path)) as guest:
        for number in range(5000, 5500):
            assert guest.process.unknown(number, guest.thread) == (1 << 64) - errno.ENOSYS
        assert len(guest.process._said) == 101
