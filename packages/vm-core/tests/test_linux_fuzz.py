"""Random system calls and damaged programs: the host process survives, and nothing outside the view changes."""

from __future__ import annotations

import os
import random
import socket
import struct
from pathlib import Path

import pytest

from vm_core.errors import VmError
from vm_core.linux.abi import MASK64
from vm_core.linux.system import ThreadEnd
from vm_core.runner import DEVNULL, PIPE, run
from vm_core.testing.guests import Caller, program

# Calls that may rightly block for ever, end the process or make a thread that runs the guest's code.
EXCLUDED = {
    "ppoll", "pselect6", "epoll_pwait", "epoll_pwait2", "nanosleep", "clock_nanosleep", "rt_sigsuspend", "rt_sigtimedwait", "futex",
    "flock", "fcntl", "clone", "clone3", "execve", "execveat", "wait4", "waitid", "exit", "pipe2", "socketpair", "eventfd2", "exit_group", "kill", "tkill", "tgkill", "rt_sigreturn", "setitimer",
}  # fmt: skip
NONBLOCKING = {"signalfd4": 3, "inotify_init1": 0, "socket": 1, "accept4": 3}
"""Calls that make files which may rightly block: the argument that says they do not."""
NAMES = (
    "a",
    "b/c",
    "../outside/secret",
    "/etc/passwd",
    "/",
    ".",
    "/proc/self/fd/3",
    "link",
    "/tmp/x",
    "",
    "x" * 300,
)


def tree(path):
    out = {}
    for base, directories, files in os.walk(path):
        for name in (*directories, *files):
            full = os.path.join(base, name)
            info = os.lstat(full)
            content = Path(full).read_bytes() if os.path.isfile(full) and not os.path.islink(full) else b""
            out[full] = (info.st_mode, info.st_nlink, info.st_mtime_ns, content)
    return out


VALUES = (0, 1, 2, 3, 4, 5, 8, 100, 4095, 4096, 0x22, 0o102, 1 << 20, 1 << 31, 1 << 32, 1 << 63, -1, -100)


def arguments(rng, guest, places, name):
    args = []
    for _ in range(6):
        match rng.randrange(6):
            case 0:
                args.append(rng.getrandbits(64))
            case 1:
                args.append(guest.buffer + rng.randrange(-64, 1 << 16))
            case 2:
                args.append(rng.choice(places))
            case _:
                args.append(rng.choice(VALUES))
    # No huge files: the test is about memory and paths, not about the host's disk.
    if name in ("fallocate", "ftruncate", "truncate", "pwrite64", "pwritev", "lseek", "copy_file_range"):
        args[1:] = [
            value & 0xFFFFF if 0 <= value < guest.buffer or value >= 1 << 32 else value for value in args[1:]
        ]
    if name in NONBLOCKING:
        args[NONBLOCKING[name]] |= os.O_NONBLOCK
    return args


def some_calls(rng, guest, most):
    """Up to ``most`` random calls; stops when the guest has unmapped what the next ones need. Returns how many."""
    names = sorted(set(guest.numbers) - EXCLUDED)
    places = [guest.put(name) for name in NAMES]
    # What pointers find: lengths, addresses and flags of structures, rather than zeros.
    words = [rng.choice((*VALUES, *places, rng.getrandbits(64), guest.buffer)) & MASK64 for _ in range(2048)]
    guest.memory.poke(guest.buffer, struct.pack("<2048Q", *words))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        guest.call("socketpair", socket.AF_UNIX, kind | socket.SOCK_NONBLOCK, 0, guest.buffer)
    for done in range(most):
        name = rng.choice(names)
        try:
            guest.call(name, *arguments(rng, guest, places, name))
        except ThreadEnd:
            return done + 1  # over the memory cap, which ends a guest
        guest.thread.pending.clear()
        guest.thread.interrupted = None
        if not guest.memory.is_mapped(guest.buffer, 2 << 20):
            return done + 1
    return most


@pytest.mark.parametrize("seed", range(4))
def test_random_calls(tmp_path, seed):
    rng = random.Random(seed)
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before = tree(outside)
    null = os.open(os.devnull, os.O_RDWR)
    count = int(os.environ.get("VM_FUZZ_CALLS", "5000"))
    while count > 0:
        if not (inside / "link").is_symlink():
            (inside / "link").unlink(missing_ok=True)
            os.symlink("../outside/secret", inside / "link")
        traced = (lambda _line: None) if rng.random() < 0.3 else None
        with Caller(
            cwd=str(inside), memory=64 << 20, stdio=(null, null, null), net=rng.random() < 0.3, strace=traced
        ) as guest:
            if rng.random() < 0.5:
                guest.process.files.namespace.use_openat2 = False
            count -= some_calls(rng, guest, count)
    assert tree(outside) == before
    os.close(null)


def test_random_code():
    rng = random.Random(5)
    base = program("ebreak")
    for _ in range(150):
        code = bytes(
            rng.choice((0x73, 0x13, 0x93, 0x03, 0x23, 0x63, 0x6F, rng.randrange(256))) for _ in range(400)
        )
        image = base[:-4] + code
        image = image[:96] + (400).to_bytes(8, "little") * 2 + image[112:]
        result = run(
            ["x"],
            program=image,
            engine="reference",
            fuel=300,
            timeout=10,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={},
        )
        assert result.reason in ("signal", "fuel", "exit", "timeout")
        assert "\n" not in result.message


def test_damaged_programs_run_or_are_refused():
    rng = random.Random(6)
    whole = program(
        '_start: li a0, 1\n la a1, t\n li a2, 3\n li a7, 64\n ecall\n li a7, 94\n li a0, 0\n ecall\nt: .ascii "hi\\n"\n'
    )
    seen = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4))):
            at = rng.choice((rng.randrange(120), 0x1000 + rng.randrange(len(data) - 0x1000)))
            data[at] = rng.randrange(256)
        try:
            result = run(["x"], program=bytes(data), engine="reference", fuel=2_000, timeout=10, memory=64 << 20,
                         stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env={})  # fmt: skip
        except VmError as error:
            message, reason = str(error), "refused"
        else:
            message, reason = result.message, result.reason
        assert "\n" not in message
        seen.add(reason)
    assert {"refused", "exit", "signal"} <= seen
