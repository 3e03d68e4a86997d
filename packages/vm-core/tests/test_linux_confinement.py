"""The guest's view of files: nothing leads out of it. Every test runs with openat2 and with the component walk."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time

import pytest

from vm_core.errors import UsageError
from vm_core.linux.paths import Bind
from vm_core.testing.guests import Caller

AT = -100
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_PATH = 0, 1, 2, 0o100, 0o200, 0o1000, 0o10000000
O_NOFOLLOW, O_DIRECTORY = 0o400000, 0o200000


@pytest.fixture(params=["openat2", "walk"])
def make(request, tmp_path):
    """Makes a guest; `outside/secret` must stay out of its reach, `inside` is its current directory."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "file").write_text("hello")
    (inside / "sub").mkdir()
    made = []

    def maker(**options):
        options.setdefault("cwd", str(inside))
        caller = Caller(**options)
        if request.param == "walk":
            caller.process.files.namespace.use_openat2 = False
        elif not caller.process.files.namespace.use_openat2:
            pytest.skip("this host has no openat2")
        made.append(caller)
        return caller

    yield maker
    for caller in made:
        caller.close()


def read(guest, path, flags=O_RDONLY):
    """The contents, or the negative errno."""
    fd = guest.call("openat", AT, path, flags, 0)
    if fd < 0:
        return fd
    count = guest.call("read", fd, guest.buffer, 4096)
    guest.call("close", fd)
    return guest.get(count) if count >= 0 else count


def test_the_current_directory_is_there_under_its_own_name(make, tmp_path):
    guest = make()
    assert read(guest, "file") == b"hello"
    assert read(guest, f"{tmp_path}/inside/file") == b"hello"
    assert read(guest, f"{tmp_path}/inside/sub/../file") == b"hello"
    assert read(guest, f"{tmp_path}/inside/./sub//..//file") == b"hello"
    assert read(guest, "sub/../../inside/file") == b"hello"
    assert read(guest, "absent/../file") == -errno.ENOENT
    assert read(guest, "file/") == -errno.ENOTDIR
    assert read(guest, "file/x") == -errno.ENOTDIR
    assert guest.call("getcwd", guest.buffer, 4096) == len(f"{tmp_path}/inside") + 1


def test_the_way_to_the_current_directory_is_there(make, tmp_path):
    """Below /tmp too, of which the guest has one of its own: realpath(3) reads every part of the way as a link."""
    guest = make()
    way = f"{tmp_path}/inside".split("/")
    for depth in range(2, len(way) + 1):
        part = "/".join(way[:depth])
        assert guest.call("readlinkat", AT, part, guest.buffer, 100) == -errno.EINVAL, part
        for flags in (0, 0x100):  # AT_SYMLINK_NOFOLLOW
            assert guest.call("newfstatat", AT, part, guest.buffer, flags) == 0, part
            assert stat.S_ISDIR(int.from_bytes(guest.get(4, 16), "little"))
    assert guest.call("newfstatat", AT, f"{tmp_path}/outside", guest.buffer, 0x100) == -errno.ENOENT


@pytest.mark.parametrize(
    "path",
    ["../outside/secret", "/etc/passwd", "sub/../../outside/secret", "/../../../etc/passwd", "/root", "/proc/1/environ",
     "/proc/self/root/etc/passwd", "/proc/self/cwd/../outside/secret", "/dev/sda", "/sys/kernel", "//etc//passwd"],
)  # fmt: skip
def test_nothing_else_exists(make, path):
    guest = make()
    for flags in (O_RDONLY, O_RDWR, O_PATH, O_RDONLY | O_DIRECTORY):
        assert guest.call("openat", AT, path, flags, 0) in (-errno.ENOENT, -errno.ENOTDIR)
    assert guest.call("newfstatat", AT, path, guest.buffer, 0) in (-errno.ENOENT, -errno.ENOTDIR)
    assert guest.call("unlinkat", AT, path, 0) < 0
    assert guest.call("openat", AT, path, O_WRONLY | O_CREAT, 0o600) < 0


def test_symbolic_links_lead_nowhere_else(make, tmp_path):
    inside = tmp_path / "inside"
    os.symlink("../outside/secret", inside / "relative")
    os.symlink(tmp_path / "outside" / "secret", inside / "absolute")
    os.symlink("../outside", inside / "directory")
    os.symlink("/", inside / "root")
    os.symlink("/etc/passwd", inside / "passwd")
    os.symlink("/proc/self/root", inside / "magic")
    os.symlink("loop", inside / "loop")
    os.symlink("sub/../file", inside / "good")
    os.symlink(inside / "file", inside / "good-absolute")
    guest = make()
    for path in ("relative", "absolute", "directory/secret", "root/etc/passwd", "passwd", "magic/etc/passwd"):
        assert read(guest, path) == -errno.ENOENT, path
        assert guest.call("newfstatat", AT, path, guest.buffer, 0) == -errno.ENOENT
        assert guest.call("truncate", path, 0) == -errno.ENOENT
        assert guest.call("openat", AT, path, O_WRONLY | O_TRUNC, 0) == -errno.ENOENT
        assert guest.call("faccessat", AT, path, 0) == -errno.ENOENT
    assert read(guest, "loop") == -errno.ELOOP
    assert read(guest, "good") == read(guest, "good-absolute") == b"hello"
    assert read(guest, "good", O_NOFOLLOW) == -errno.ELOOP
    # Through a dangling link, a file may be made only inside.
    os.symlink("/etc/vm-test-made", inside / "dangling")
    os.symlink("made", inside / "dangling-inside")
    assert guest.call("openat", AT, "dangling", O_WRONLY | O_CREAT, 0o600) == -errno.ENOENT
    assert guest.call("openat", AT, "dangling-inside", O_WRONLY | O_CREAT, 0o600) >= 0
    assert (inside / "made").exists()
    assert guest.call("openat", AT, "dangling-inside", O_WRONLY | O_CREAT | O_EXCL, 0o600) == -errno.EEXIST
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert guest.call("readlinkat", AT, "absolute", guest.buffer, 100) == len(f"{tmp_path}/outside/secret")


def test_a_path_descriptor_of_a_link_is_what_the_link_names(make, tmp_path):
    os.symlink("file", tmp_path / "inside" / "link")
    guest = make()
    fd = guest.call("openat", AT, "link", O_PATH, 0)
    assert guest.call("fstat", fd, guest.buffer) == 0
    assert stat.S_ISREG(int.from_bytes(guest.get(4, 16), "little"))
    fd = guest.call("openat", AT, "link", O_PATH | O_NOFOLLOW, 0)
    assert guest.call("fstat", fd, guest.buffer) == 0
    assert stat.S_ISLNK(int.from_bytes(guest.get(4, 16), "little"))


def test_directory_descriptors_do_not_climb(make, tmp_path):
    guest = make()
    fd = guest.call("openat", AT, "sub", O_RDONLY | O_DIRECTORY, 0)
    assert guest.call("openat", fd, "../file", O_RDONLY, 0) >= 0
    assert guest.call("openat", fd, "../../outside/secret", O_RDONLY, 0) == -errno.ENOENT
    root = guest.call("openat", AT, "/", O_RDONLY | O_DIRECTORY, 0)
    assert guest.call("openat", root, "etc/passwd", O_RDONLY, 0) == -errno.ENOENT
    assert guest.call("openat", root, "..", O_RDONLY | O_DIRECTORY, 0) >= 0
    assert guest.call("openat", 999, "file", O_RDONLY, 0) == -errno.EBADF
    # Moved out of the guest's tree by somebody else: what was opened stays, but ".." cannot be used to look around.
    os.rename(tmp_path / "inside" / "sub", tmp_path / "outside" / "sub")
    assert guest.call("openat", fd, "../secret", O_RDONLY, 0) == -errno.ENOENT


def test_changing_the_current_directory(make, tmp_path):
    guest = make()
    assert guest.call("chdir", "sub") == 0
    assert read(guest, "../file") == b"hello"
    assert guest.call("chdir", "../..") == 0
    assert read(guest, "inside/file") == b"hello"
    assert read(guest, "outside/secret") == -errno.ENOENT
    assert guest.call("chdir", "/") == 0
    assert guest.call("chdir", "etc") == -errno.ENOENT
    assert guest.call("mkdirat", AT, "new", 0o700) in (-errno.EACCES, -errno.ENOENT)


def test_a_race_between_a_link_and_a_directory_never_leads_out(make, tmp_path):
    """Another process swaps a directory and a link that points outside, as fast as it can."""
    inside = tmp_path / "inside"
    (inside / "swap").mkdir()
    (inside / "swap" / "secret").write_text("mine")
    os.symlink("../outside", inside / "link")
    guest = make()
    over = threading.Event()

    def swapping():
        while not over.is_set():
            os.rename(inside / "swap", inside / "away")
            os.rename(inside / "link", inside / "swap")
            os.rename(inside / "swap", inside / "link")
            os.rename(inside / "away", inside / "swap")

    thread = threading.Thread(target=swapping)
    thread.start()
    seen = set()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            seen.add(read(guest, "swap/secret"))
            seen.add(read(guest, "sub/../swap/secret"))
            fd = guest.call("openat", AT, "swap", O_RDONLY | O_DIRECTORY, 0)
            if fd >= 0:
                inner = guest.call("openat", fd, "secret", O_RDONLY, 0)
                if inner >= 0:
                    seen.add(guest.get(guest.call("read", inner, guest.buffer, 100)))
                    guest.call("close", inner)
                guest.call("close", fd)
    finally:
        over.set()
        thread.join()
    assert b"mine" in seen
    assert b"secret" not in seen


def test_the_last_component_is_never_followed_outside_in_a_race(make, tmp_path):
    inside = tmp_path / "inside"
    os.symlink("../outside/secret", inside / "link")
    (inside / "swap").write_text("mine")
    guest = make()
    over = threading.Event()

    def swapping():
        while not over.is_set():
            os.rename(inside / "swap", inside / "away")
            os.rename(inside / "link", inside / "swap")
            os.rename(inside / "swap", inside / "link")
            os.rename(inside / "away", inside / "swap")

    thread = threading.Thread(target=swapping)
    thread.start()
    seen = set()
    try:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            seen.add(read(guest, "swap"))
            guest.call("truncate", "swap", 4)
            guest.call("fchmodat", AT, "swap", 0o600)
    finally:
        over.set()
        thread.join()
    assert b"mine" in seen
    assert b"secret" not in seen
    assert (tmp_path / "outside" / "secret").read_text() == "secret"


def test_the_program_file_can_be_read_and_nothing_beside_it(make, tmp_path):
    from vm_core.linux.process import Process
    from vm_core.testing.guests import program

    path = tmp_path / "outside" / "prog"
    path.write_bytes(program("ebreak"))
    with Process([str(path)], cwd=str(tmp_path / "inside"), engine="reference", env={}) as process:
        walk = process.files.namespace.walk
        with walk("/", str(path)) as place:
            assert place.stat().st_size == path.stat().st_size
            with pytest.raises(OSError, match="Read-only"):
                place.to_change()
        with walk("/", "/proc/self/exe") as place:
            assert place.guest == str(path)
        with pytest.raises(FileNotFoundError):
            walk("/", str(tmp_path / "outside" / "secret"))


def test_tmp_is_private_and_goes_away(make):
    guest = make()
    fd = guest.call("openat", AT, "/tmp/x", O_RDWR | O_CREAT, 0o600)
    assert fd >= 0
    assert not os.path.exists("/tmp/x")
    host = guest.process.files.namespace.mounts["/tmp"].host
    assert os.path.exists(f"{host}/x")
    assert guest.call("renameat", AT, "/tmp/x", AT, "moved") == -errno.EXDEV
    guest.process.files.close_all()
    assert not os.path.exists(host)


def test_binds_are_read_only_or_not(make, tmp_path):
    outside = tmp_path / "outside"
    guest = make(binds=[f"{outside}:/data:ro", Bind(str(outside), "/rw")])
    assert read(guest, "/data/secret") == b"secret"
    for flags in (O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_CREAT):
        assert guest.call("openat", AT, "/data/secret", flags, 0o600) == -errno.EROFS
    assert guest.call("openat", AT, "/data/new", O_WRONLY | O_CREAT, 0o600) == -errno.EROFS
    assert guest.call("openat", AT, "/data/secret", O_RDONLY | O_CREAT, 0o600) >= 0
    assert guest.call("unlinkat", AT, "/data/secret", 0) == -errno.EROFS
    assert guest.call("mkdirat", AT, "/data/d", 0o700) == -errno.EROFS
    assert guest.call("fchmodat", AT, "/data/secret", 0) == -errno.EROFS
    assert guest.call("utimensat", AT, "/data/secret", 0, 0) == -errno.EROFS
    assert guest.call("faccessat", AT, "/data/secret", 2) == -errno.EROFS
    assert guest.call("linkat", AT, "/data/secret", AT, "/rw/link", 0) == -errno.EXDEV
    assert guest.call("linkat", AT, "/data/secret", AT, "link", 0) == -errno.EXDEV
    assert guest.call("renameat", AT, "/data/secret", AT, "/rw/moved") == -errno.EROFS
    fd = guest.call("openat", AT, "/data/secret", O_RDONLY, 0)
    assert guest.call("fchmod", fd, 0o777) == -errno.EPERM
    assert guest.call("ftruncate", fd, 0) < 0
    path = f"/proc/self/fd/{fd}"
    assert guest.call("openat", AT, path, O_RDWR, 0) == -errno.EACCES
    assert read(guest, path) == b"secret"
    assert guest.call("openat", AT, "/rw/new", O_WRONLY | O_CREAT, 0o600) >= 0
    assert (outside / "new").exists()
    assert guest.call("unlinkat", AT, "/rw", 0x200) == -errno.EBUSY


def test_root_is_the_guests_root(make, tmp_path):
    inside = tmp_path / "inside"
    os.symlink("/file", inside / "sub" / "absolute")
    os.symlink("../../../../../file", inside / "sub" / "climbing")
    guest = make(root=str(inside), cwd="/sub")
    for path in ("/file", "../file", "absolute", "climbing", "/../../file"):
        assert read(guest, path) == b"hello", path
    assert read(guest, str(inside / "file")) == -errno.ENOENT
    assert guest.call("getcwd", guest.buffer, 100) == 5
    assert guest.call("openat", AT, "/made", O_WRONLY | O_CREAT, 0o600) >= 0
    assert (inside / "made").exists()
    assert isinstance(read(guest, "/proc/self/maps"), bytes)


def test_a_root_can_be_read_only(make, tmp_path):
    guest = make(root=f"{tmp_path}/inside:ro", cwd="/")
    assert read(guest, "file") == b"hello"
    assert guest.call("openat", AT, "file", O_WRONLY, 0) == -errno.EROFS


def test_bad_binds_and_roots_are_usage_errors(make):
    for text in ("", ":x", "a:b:c:d", "/tmp:relative"):
        with pytest.raises(UsageError, match="bad bind"):
            Bind.parse(text)
    with pytest.raises(UsageError, match="cannot be shown to the guest"):
        make(binds=["/does/not/exist"])
    with pytest.raises(UsageError, match="cannot be shown to the guest"):
        make(root="/does/not/exist")


def test_the_hosts_root_is_not_shown_by_default(make):
    guest = make(cwd="/")
    assert read(guest, "/etc/passwd") == -errno.ENOENT
    assert read(guest, "etc/passwd") == -errno.ENOENT


def test_set_id_bits_and_devices_cannot_be_made(make, tmp_path):
    guest = make()
    assert guest.call("fchmodat", AT, "file", 0o6755) == 0
    assert stat.S_IMODE((tmp_path / "inside" / "file").stat().st_mode) == 0o755
    assert guest.call("openat", AT, "suid", O_WRONLY | O_CREAT, 0o6755) >= 0
    assert not (tmp_path / "inside" / "suid").stat().st_mode & 0o6000
    assert guest.call("mknodat", AT, "dev", stat.S_IFCHR | 0o666, 0x103) == -errno.EPERM
    assert guest.call("mknodat", AT, "fifo", stat.S_IFIFO | 0o600, 0) == 0


def test_host_descriptors_are_out_of_reach(make, tmp_path):
    secret = os.open(tmp_path / "outside" / "secret", os.O_RDONLY)
    guest = make()
    for fd in range(64):
        assert guest.call("read", fd, guest.buffer, 10) == -errno.EBADF
        assert guest.call("fstat", fd, guest.buffer) == -errno.EBADF
    assert guest.call("openat", AT, f"/proc/self/fd/{secret}", O_RDONLY, 0) == -errno.ENOENT
    assert guest.call("openat", AT, f"/proc/{os.getpid()}/fd/{secret}", O_RDONLY, 0) == -errno.ENOENT
    assert guest.call("openat", AT, f"/dev/fd/{secret}", O_RDONLY, 0) == -errno.ENOENT
    os.close(secret)


def test_the_network_is_off(make):
    guest = make()
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, 16, 38):
        assert guest.call("socket", family, socket.SOCK_STREAM, 0) == -errno.EACCES


def test_unix_sockets_obey_the_view(make, tmp_path):
    outside = tmp_path / "outside" / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(outside))
    listener.listen()
    os.symlink(outside, tmp_path / "inside" / "link")
    guest = make(net=True)

    def connect(path):
        fd = guest.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        address = b"\1\0" + path
        return guest.call("connect", fd, address, len(address))

    assert connect(bytes(outside)) == -errno.ENOENT
    assert connect(b"link") == -errno.ENOENT
    assert connect(b"file") == -errno.ECONNREFUSED
    assert connect(b"\0abstract") == -errno.ECONNREFUSED
    listener.close()


def test_directories_between_list_what_is_shown(make, tmp_path):
    guest = make()
    fd = guest.call("openat", AT, str(tmp_path), O_RDONLY | O_DIRECTORY, 0)
    count = guest.call("getdents64", fd, guest.buffer, 4096)
    raw = guest.get(count)
    assert b"inside\0" in raw
    assert b"outside" not in raw
    assert guest.call("getdents64", fd, guest.buffer, 4096) == 0
    assert guest.call("openat", AT, str(tmp_path / "new"), O_WRONLY | O_CREAT, 0o600) == -errno.ENOENT


def test_the_code_cache_is_never_the_guests(make, tmp_path, monkeypatch):
    """What is in it runs as it is in later runs: a guest of a directory around it finds an empty one of its own there."""
    cache = tmp_path / "inside" / "sub" / "cache"
    cache.mkdir()
    (cache / "program.vmc").write_text("code")
    monkeypatch.setenv("VM_CACHE_DIR", str(cache))
    os.symlink("sub/cache", tmp_path / "inside" / "alias")
    os.symlink("sub", tmp_path / "inside" / "way")
    guest = make(binds=(Bind(str(tmp_path), "/all"),))
    for way in ("sub/cache", "alias", "way/cache", "sub/../alias/.", f"{cache}", "/all/inside/sub/cache"):
        assert read(guest, f"{way}/program.vmc") == -errno.ENOENT, way
        assert guest.call("openat", AT, f"{way}/program.vmc", O_WRONLY | O_CREAT, 0o600) >= 0
        assert guest.call("unlinkat", AT, f"{way}/program.vmc", 0) == 0
    for name in ("sub", "sub/cache"):
        assert guest.call("renameat", AT, name, AT, "moved") == -errno.EBUSY
    assert guest.call("unlinkat", AT, "sub/cache", 0x200) == -errno.EBUSY
    fd = guest.call("openat", AT, "sub", O_RDONLY | O_DIRECTORY, 0)
    assert guest.call("openat", fd, "cache/program.vmc", O_RDONLY, 0) == -errno.ENOENT
    assert (cache / "program.vmc").read_text() == "code"
    monkeypatch.setenv("VM_CACHE_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="vm's own"):
        make()


def test_what_is_shown_is_settled_before_the_guest_runs(make, tmp_path):
    """A guest that can rename what lies on the way to a bind must not redirect it before it is used first."""
    (tmp_path / "inside" / "way" / "data").mkdir(parents=True)
    (tmp_path / "inside" / "way" / "data" / "secret").write_text("mine")
    (tmp_path / "outside" / "data").mkdir()
    (tmp_path / "outside" / "data" / "secret").write_text("secret")
    guest = make(binds=(Bind(str(tmp_path / "inside" / "way" / "data"), "/data"),))
    assert guest.call("renameat", AT, "way", AT, "gone") == 0
    assert guest.call("symlinkat", "../outside", AT, "way") == 0
    assert read(guest, "/data/secret") == b"mine"


def test_a_guest_in_tmp_does_not_see_the_tmp_of_others(make, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "inside"))
    first = make(cwd=str(tmp_path / "outside"))
    assert first.call("openat", AT, "/tmp/mine", O_RDWR | O_CREAT, 0o600) >= 0
    (host,) = (tmp_path / "inside").glob("vm-*/*/mine")
    second = make()
    assert read(second, f"{host}") == -errno.ENOENT
    assert read(second, f"{host.relative_to(tmp_path / 'inside')}") == -errno.ENOENT
    assert second.call("renameat", AT, host.parent.parent.name, AT, "away") == -errno.EBUSY
    assert host.exists()
