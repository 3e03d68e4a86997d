"""The walls that the host's kernel puts around a guest's process: the filter's verdicts, and what really cannot be reached.

Confining cannot be undone, so whatever is confined here is a process of its own.
"""

from __future__ import annotations

import errno
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vm_core.linux import confine, landlock, seccomp
from vm_core.linux.table import ROWS

KILL, ALLOW = seccomp.KILL, seccomp.ALLOW
ENOSYS, EACCES, EPERM, ENOTTY, EINVAL = (
    0x50000 | code for code in (errno.ENOSYS, errno.EACCES, errno.EPERM, errno.ENOTTY, errno.EINVAL)
)
UNFAMILIAR = 0x50000 | errno.EAFNOSUPPORT


def verdict(program, number, *arguments, audit=0xC000003E):
    """What the kernel's BPF machine would return: an interpreter of the few instructions that a filter may have."""
    words = {0: number, 4: audit}
    for index, argument in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6]):
        words[16 + 8 * index], words[20 + 8 * index] = argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF
    at = accumulator = 0
    for _ in range(len(program)):  # no way back: each instruction runs once at most
        code, yes, no, constant = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = words[constant]
            case 0x15:
                at += yes if accumulator == constant else no
            case 0x35:
                at += yes if accumulator >= constant else no
            case 0x45:
                at += yes if accumulator & constant else no
            case 0x05:
                at += constant
            case 0x06:
                return constant
            case _:
                raise AssertionError(code)
    raise AssertionError("no verdict")


@pytest.mark.parametrize("machine", list(seccomp.MACHINES))
@pytest.mark.parametrize("net", [False, True])
def test_the_filter_says_of_every_number_what_the_lists_say(machine, net):
    audit = seccomp.MACHINES[machine][0]
    program = seccomp.assemble(seccomp.ALLOWED, machine, net=net)
    expected = dict.fromkeys(seccomp.numbers(seccomp.ALLOWED, machine).values(), ALLOW)
    expected |= dict.fromkeys(seccomp.numbers(seccomp.FORBIDDEN, machine).values(), KILL)
    special = seccomp.numbers(("ioctl", "prctl", "clone", "prlimit64", "setpriority", "socket"), machine)
    for number in range(1024):
        if number not in special.values():
            assert verdict(program, number, audit=audit) == expected.get(number, ENOSYS), number
        assert verdict(program, number, audit=audit ^ 1) == KILL
    assert verdict(program, 0xFFFFFFFF, audit=audit) == (KILL if machine == "x86_64" else ENOSYS)
    assert all(yes < 256 > no for _, yes, no, _ in program)
    assert len(program) <= 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("machine", list(seccomp.MACHINES))
def test_arguments_decide_where_they_matter(machine):
    audit = seccomp.MACHINES[machine][0]
    numbers = seccomp.numbers(("ioctl", "prctl", "clone", "prlimit64", "setpriority", "socket"), machine)

    def says(name, *arguments, net=False):
        program = seccomp.assemble(seccomp.ALLOWED, machine, net=net)
        return verdict(program, numbers[name], *arguments, audit=audit)

    assert says("ioctl", 0, 0x5413) == ALLOW  # TIOCGWINSZ
    assert says("ioctl", 0, 0x5412) == ENOTTY  # TIOCSTI
    assert says("ioctl", 0, 0x5412 | 1 << 32) == ENOTTY
    assert says("ioctl", 0, 0x8933) == ENOTTY
    assert says("ioctl", 0, 0x8933, net=True) == ALLOW
    assert says("prctl", 15) == ALLOW
    assert says("prctl", 40) == EINVAL
    assert says("prlimit64", 0) == ALLOW
    assert says("prlimit64", 1) == EPERM
    assert says("clone", 0x01200011) == ALLOW  # fork
    assert says("clone", 0x3D0F00) == ALLOW  # a thread
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert says("clone", 1 << bit | 17) == EPERM
    assert says("setpriority", 0, 0) == ALLOW
    assert says("setpriority", 0, 1) == EPERM
    for family in (2, 10, 16, 17, 38, 40):
        assert says("socket", family) == EACCES
    assert says("socket", 1) == ALLOW
    for name in ("socket", "bind", "connect", "listen"):
        number = seccomp.numbers([name], machine)[name]
        for net in (False, True):
            strict = seccomp.assemble(seccomp.ALLOWED, machine, net=net, unix=False)
            assert verdict(strict, number, 1, audit=audit) == (ALLOW if net else EACCES)
    for family, expected in (
        (1, ALLOW),
        (2, ALLOW),
        (10, ALLOW),
        (16, ALLOW),
        (17, UNFAMILIAR),
        (38, UNFAMILIAR),
    ):
        assert says("socket", family, net=True) == expected


def test_a_worker_computes_and_no_more():
    program = seccomp.assemble(seccomp.WORKER, "x86_64")
    numbers = seccomp.numbers(seccomp.ALLOWED, "x86_64")
    for name in ("read", "write", "mmap", "futex", "exit_group"):
        assert verdict(program, numbers[name]) == ALLOW
    for name in ("openat", "execve", "clone", "kill", "socketpair", "unlinkat"):
        assert verdict(program, numbers[name]) == ENOSYS


@pytest.mark.parametrize("machine", list(seccomp.MACHINES))
def test_a_machine_has_its_threads_and_reads_and_no_more(machine):
    audit = seccomp.MACHINES[machine][0]
    program = seccomp.assemble(seccomp.MACHINE, machine, unix=False, ioctls=(0xAE80,), alone=77)
    numbers = seccomp.numbers(seccomp.ALLOWED | seccomp.MACHINE, machine)

    def says(name, *arguments):
        return verdict(program, numbers[name], *arguments, audit=audit)

    for name in ("preadv", "pwritev", "fdatasync", "epoll_ctl", "read", "write", "mmap", "futex", "close"):
        assert says(name) == ALLOW, name
    for name in (
        "execve",
        "openat2",
        "unlinkat",
        "renameat2",
        "ftruncate",
        "socketpair",
        "memfd_create",
        "wait4",
        "setuid",
    ):
        assert says(name) == ENOSYS, name
    for name in ("socket", "bind", "connect", "listen"):
        assert says(name, 1) == EACCES, name
    assert says("ioctl", 0, 0xAE80) == ALLOW
    assert says("ioctl", 0, 0xAE01) == ENOTTY
    assert says("openat", 0, 0, 0o2000000) == ALLOW  # O_CLOEXEC
    for flag in (0o1, 0o2, 0o100, 0o1000, 0o20200002):
        assert says("openat", 0, 0, flag) == EACCES, oct(flag)
    assert says("clone", 0x3D0F00) == ALLOW  # what pthread_create asks for
    assert says("clone", 0x01200011) == EPERM  # fork
    assert says("clone", 0x10010000) == EPERM  # a thread in a name space of its own
    for name in ("kill", "tgkill"):
        assert says(name, 77, 78) == ALLOW
        assert says(name, 78, 78) == EPERM
        assert says(name, (1 << 32) - 1) == EPERM


MACHINE_SCRIPT = """
import ctypes, fcntl, json, os, signal, socket, subprocess, sys, termios, threading
from vm_core.linux import confine
place = sys.argv[1]
disk = os.open(place + "/disk", os.O_RDWR)
device = os.open("/dev/null", os.O_RDWR)
bystander = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
out = {"walls": confine.confine_machine(level="strict", ioctls=(0xAE80,))}

def attempt(name, action):
    try:
        action()
        out[name] = "done"
    except OSError as error:
        out[name] = error.errno

def attempts(prefix):
    attempt(prefix + "disk", lambda: (os.pwrite(disk, b"x", 0), os.pread(disk, 1, 0), os.fdatasync(disk)))
    attempt(prefix + "read itself", lambda: open(place + "/disk").read())
    attempt(prefix + "write itself", lambda: open(place + "/disk", "r+"))
    attempt(prefix + "make", lambda: open(place + "/made", "w"))
    attempt(prefix + "list home", lambda: os.listdir(os.path.expanduser("~")))
    attempt(prefix + "password", lambda: open("/etc/passwd").read())
    attempt(prefix + "write a module", lambda: open(os.__file__, "r+"))
    attempt(prefix + "fork", os.fork)
    attempt(prefix + "pair", socket.socketpair)
    attempt(prefix + "unix", lambda: socket.socket(socket.AF_UNIX))
    attempt(prefix + "kill a bystander", lambda: os.kill(bystander.pid, 9))
    attempt(prefix + "signal itself", lambda: os.kill(os.getpid(), 0))
    attempt(prefix + "a request of ours", lambda: fcntl.ioctl(device, 0xAE80))
    attempt(prefix + "a request", lambda: fcntl.ioctl(device, 0xAE01))
    import wave  # a module that nobody has loaded yet
    attempt(prefix + "a thread's signal", lambda: signal.pthread_kill(threading.get_ident(), 0))

attempts("")
thread = threading.Thread(target=lambda: attempts("thread: ")); thread.start(); thread.join()
print(json.dumps(out), flush=True)
os._exit(0)
"""


def test_the_process_of_a_machine_has_what_is_open(tmp_path):
    needs("landlock", "seccomp", "no-new-privs")
    (tmp_path / "disk").write_bytes(b"disk")
    done = subprocess.run(
        [sys.executable, "-c", MACHINE_SCRIPT, str(tmp_path)],
        capture_output=True, check=False, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    seen = json.loads(done.stdout)
    assert {"no-new-privs", "landlock", "seccomp"} <= set(seen["walls"])
    for prefix in ("", "thread: "):
        for name in ("disk", "signal itself", "a thread's signal"):
            assert seen[prefix + name] == "done", prefix + name
        for name in (
            "read itself",
            "write itself",
            "make",
            "list home",
            "password",
            "write a module",
            "unix",
        ):
            assert seen[prefix + name] == errno.EACCES, prefix + name
        assert seen[prefix + "fork"] == errno.EPERM
        assert seen[prefix + "pair"] == errno.ENOSYS
        assert seen[prefix + "kill a bystander"] == errno.EPERM
        assert seen[prefix + "a request"] == errno.ENOTTY
        assert seen[prefix + "a request of ours"] in (errno.ENOTTY, errno.EACCES)  # from /dev/null itself
    assert (tmp_path / "disk").read_bytes() == b"xisk"
    assert not (tmp_path / "made").exists()


def test_a_filter_leaves_speculation_as_it_is(monkeypatch):
    """Where the kernel knows the flag; else the filter alone."""
    asked = []

    def answers(*results):
        left = list(results)

        def seccomp_(operation, flags, _argument):
            asked.append((operation, flags))
            return left.pop(0)

        monkeypatch.setattr(seccomp, "_seccomp", seccomp_)
        asked.clear()
        return seccomp.install([(6, 0, 0, ALLOW)])

    tsync, allow = 1, 4  # SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_SPEC_ALLOW
    assert answers(0) == 0
    assert asked == [(1, tsync | allow)]
    assert answers(-errno.EINVAL, 0) == 0
    assert asked == [(1, tsync | allow), (1, tsync)]
    assert answers(-errno.EACCES) == -errno.EACCES
    assert answers(77) == -errno.EBUSY


def test_large_filters_jump_far():
    verdicts = dict.fromkeys(range(0, 2000, 2), ALLOW)
    program = [(0x20, 0, 0, 0), *seccomp._search(seccomp._ranges(verdicts))]
    assert any(code == 0x05 for code, *_ in program)
    for number in range(2100):
        assert verdict(program, number) == verdicts.get(number, ENOSYS)


def test_numbers_are_those_of_the_guests_tables():
    for row in ROWS:
        if row.name not in seccomp._NUMBERS:
            continue
        x86, generic = seccomp._NUMBERS[row.name]
        if row.x86_64 is not None:
            assert x86 == str(row.x86_64), row.name
        if row.generic is not None and row.only in ("", "aarch64"):
            assert generic == str(row.generic), row.name


@pytest.mark.parametrize(
    ("path", "column"),
    [("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)],
)
def test_numbers_are_those_of_the_hosts_headers(path, column):
    header = Path("/usr/include") / path
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    for name, numbers in seccomp._NUMBERS.items():
        if name in found and numbers[column] != "-":
            assert numbers[column] == found[name], name


SCRIPT = """
import ctypes, json, os, socket, subprocess, sys, threading
from vm_core.linux import confine
from vm_core.linux.paths import Bind, Namespace
place, level, net = sys.argv[1], sys.argv[2], sys.argv[3] == "net"
os.chdir(place + "/inside")
namespace = Namespace(binds=(Bind(place + "/read", "/read", writable=False),))
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
where = listener.getsockname()
bystander = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
late = os.open(place + "/outside", os.O_PATH)
stood = confine.confine(namespace, level=level, net=net)
out = {"walls": stood}
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, action):
    try:
        value = action()
        out[name] = "done"
    except OSError as error:
        out[name] = error.errno

def raw(number, *args):
    if libc.syscall(number, *args) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

def attempts(prefix):
    outside = place + "/outside"
    attempt(prefix + "read inside", lambda: open("file").read())
    attempt(prefix + "make inside", lambda: open("made", "w").write("x"))
    attempt(prefix + "move inside", lambda: os.replace("made", "sub/made"))
    attempt(prefix + "read read-only", lambda: open(place + "/read/file").read())
    attempt(prefix + "write read-only", lambda: open(place + "/read/file", "w"))
    attempt(prefix + "read outside", lambda: open(outside + "/secret").read())
    attempt(prefix + "read beneath a descriptor", lambda: os.open("secret", os.O_RDONLY, dir_fd=late))
    attempt(prefix + "write outside", lambda: open(outside + "/secret", "w"))
    attempt(prefix + "make outside", lambda: os.mkdir(outside + "/made"))
    attempt(prefix + "remove outside", lambda: os.unlink(outside + "/secret"))
    attempt(prefix + "truncate outside", lambda: os.truncate(outside + "/secret", 0))
    attempt(prefix + "link outside", lambda: os.link(outside + "/secret", "stolen", src_dir_fd=late))
    attempt(prefix + "move outside", lambda: os.rename("file", outside + "/file"))
    attempt(prefix + "list outside", lambda: os.listdir(outside))
    attempt(prefix + "list home", lambda: os.listdir(os.path.expanduser("~")))
    attempt(prefix + "follow a link", lambda: open("link").read())
    attempt(prefix + "execute", lambda: subprocess.run(["/bin/true"]))
    attempt(prefix + "python", lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True))
    attempt(prefix + "tcp", lambda: socket.create_connection(where).close())
    attempt(prefix + "unix", lambda: socket.socket(socket.AF_UNIX))
    attempt(prefix + "pair", lambda: [s.close() for s in socket.socketpair()])
    attempt(prefix + "kill a bystander", lambda: os.kill(bystander.pid, 9))
    attempt(prefix + "kill the parent", lambda: os.kill(os.getppid(), 0))
    attempt(prefix + "kill itself", lambda: os.kill(os.getpid(), 0))
    attempt(prefix + "memory to write and run", lambda: raw(9, 0, 4096, 7, 0x22, -1, 0))
    attempt(prefix + "namespaces", lambda: raw(56, 0x10000011, 0, 0, 0, 0))
    attempt(prefix + "a strange call", lambda: raw(333, 0, 0, 0))

attempts("")
def run(): attempts("thread: ")
thread = threading.Thread(target=run); thread.start(); thread.join()
reader, writer = os.pipe()
if (child := os.fork()) == 0:
    out = {}
    attempts("child: ")
    os.write(writer, json.dumps(out).encode())
    os._exit(0)
os.close(writer)
out |= json.loads(os.read(reader, 65536)); os.waitpid(child, 0)
for name, number in (("ptrace", 101), ("mount", 165), ("unshare", 272), ("bpf", 321), ("io_uring_setup", 425), ("x32", 0x40000027)):
    if (child := os.fork()) == 0:
        libc.syscall(number, 0, 0, 0, 0, 0)
        os._exit(0)
    out[name] = os.waitpid(child, 0)[1]
out["alive"] = bystander.poll() is None
print(json.dumps(out), flush=True)
os._exit(0)
"""


def confined(tmp_path, level, net=""):
    for name in ("inside", "outside", "read"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "inside" / "sub").mkdir(exist_ok=True)
    (tmp_path / "inside" / "file").write_text("mine")
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "read" / "file").write_text("given")
    (tmp_path / "inside" / "link").symlink_to("../outside/secret")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), level, net], capture_output=True, check=False, text=True
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def needs(*names):
    missing = [wall.name for wall in confine.walls() if wall.name in names and not wall.have]
    if missing:
        pytest.skip(f"this host does not enforce {', '.join(missing)}")


DENIED = (
    "write read-only", "read outside", "read beneath a descriptor", "write outside", "make outside", "remove outside",
    "list outside", "list home", "follow a link", "execute",
)  # fmt: skip
GIVEN = (
    "read inside", "make inside", "move inside", "read read-only", "python", "pair", "kill itself",
)  # fmt: skip


@pytest.mark.parametrize(("level", "net"), [("strict", ""), ("auto", ""), ("strict", "net")])
def test_a_confined_process_reaches_what_it_was_given_and_nothing_else(tmp_path, level, net):
    """Past vm altogether: Python calls the host itself, from the thread that was confined, a later one, and a child."""
    needs("landlock", "landlock-net", "landlock-scope", "seccomp", "no-new-privs", "mdwe")
    if platform.machine() != "x86_64":
        pytest.skip("the script has the call numbers of x86-64")
    seen = confined(tmp_path, level, net)
    assert seen["walls"] == ["no-new-privs", "mdwe", "landlock", "seccomp"]
    for prefix in ("", "thread: ", "child: "):
        assert {name: seen[prefix + name] for name in GIVEN} == dict.fromkeys(GIVEN, "done")
        assert {name: seen[prefix + name] for name in DENIED} == dict.fromkeys(DENIED, errno.EACCES)
        assert seen[prefix + "link outside"] in (errno.EXDEV, errno.EACCES)
        assert seen[prefix + "move outside"] in (errno.EXDEV, errno.EACCES)
        assert seen[prefix + "tcp"] == ("done" if net else errno.EACCES), prefix
        assert seen[prefix + "unix"] == ("done" if net or level == "auto" else errno.EACCES)
        assert seen[prefix + "truncate outside"] == errno.ENOSYS  # vm truncates what it has open
        assert seen[prefix + "kill a bystander"] == errno.EPERM
        # The parent of the child is one of its own kind.
        assert seen[prefix + "kill the parent"] == ("done" if prefix == "child: " else errno.EPERM)
        assert seen[prefix + "namespaces"] == errno.EPERM
        assert seen[prefix + "a strange call"] == errno.ENOSYS
        assert seen[prefix + "memory to write and run"] == errno.EACCES, prefix
    for name in ("ptrace", "mount", "unshare", "bpf", "io_uring_setup", "x32"):
        assert seen[name] & 0x7F == 31, name  # SIGSYS
    assert seen["alive"]
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["secret"]


def test_at_level_off_nothing_happens(tmp_path):
    for name in ("inside", "outside", "read"):
        (tmp_path / name).mkdir()
    script = SCRIPT.split("out = {", maxsplit=1)[0] + 'print(stood, open(place + "/outside/secret").read())'
    (tmp_path / "outside" / "secret").write_text("seen")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "off", ""], capture_output=True, check=True, text=True
    )
    assert done.stdout == "[] seen\n"


def test_strict_refuses_a_host_that_lacks_something(tmp_path):
    script = """
from vm_core.errors import HostError
from vm_core.linux import confine, landlock, seccomp
from vm_core.linux.paths import Namespace
landlock.abi = lambda: 1
seccomp.available = lambda: False
namespace = Namespace(cwd="/")
print(confine.confine(namespace))
try:
    confine.confine(namespace, level="strict")
except HostError as error:
    print(error, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    first, second = done.stdout.splitlines()
    assert "landlock" not in first
    assert "seccomp" not in first
    assert "landlock: Operation not supported; seccomp: not available" in second
    assert "vm doctor" in second


def test_the_walls_say_what_to_do_where_one_is_missing(monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(seccomp, "available", lambda: False)
    missing = {wall.name: wall.fix for wall in confine.walls() if not wall.have}
    assert {"landlock", "landlock-net", "landlock-scope", "seccomp"} <= missing.keys()
    assert all(missing.values())
    assert "lsm=" in missing["landlock"]
