"""The filter's list: whatever many different runs call is in it, and nothing is in it that none of them calls."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vm_core.linux import seccomp

if TYPE_CHECKING:
    from conftest import Guests

ROOT = Path(__file__).resolve().parent.parent
CROSS = "riscv64-linux-gnu-gcc"
GUESTS = ("hello", "files", "threads", "signals", "mmap", "syscalls", "clock", "selfmod", "echo", "mappings")
HANDLERS = ("files", "calls", "confinement")
BEFORE = frozenset({"capset", "landlock_add_rule", "umask", "chdir", "clone3"})
"""Called before the filter stands, or tried by the C library, which then does without."""
NOT_HERE = {
    "stat": "a C library before glibc 2.33",
    "lstat": "the same",
    "access": "the same",
    "faccessat": "a kernel before Linux 5.8",
    "fork": "musl",
    "tkill": "musl",
    "ppoll": "aarch64, which has no poll",
    "fchmodat": "aarch64, which has no chmod",
    "fchmodat2": "glibc 2.39",
    "dup3": "a guest with several threads that closes a file",
    "flistxattr": "a guest that lists the attributes of what it has open",
    "gettimeofday": "a host without a vDSO",
    "time": "the same",
    "getcpu": "the same",
    "clock_getres": "the same",
    "restart_syscall": "a wait that the host's SIGSTOP and SIGCONT interrupt",
    "recvfrom": "a client of gdb's stub",
    "sendto": "the same",
    "tgkill": "abort",
    "sched_getaffinity": "a guest that asks for its processors",
    "preadv": "a traced guest",
    "pwritev": "the same",
    "timerfd_gettime": "a guest that asks for its timer",
    "msync": "a guest that shares a file's memory",
    "pidfd_send_signal": "job control",
    "setpgid": "the same",
    "getpgrp": "the same",
    **dict.fromkeys(
        ("getegid", "getgroups", "getresuid", "getresgid", "getpriority", "setpriority", "setuid", "setgid", "setreuid",
         "setregid", "setresuid", "setresgid", "setgroups"),
        "a guest that changes who it is",
    ),
}  # fmt: skip
"""What is allowed for the sake of other hosts and rarer guests, and which."""


def called(trace: Path) -> set[str]:
    """The names in a trace of strace -f."""
    return set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))


@pytest.mark.slow
@pytest.mark.needs_cc
def test_what_is_allowed_is_used_and_what_is_used_is_allowed(tmp_path: Path, guests: Guests) -> None:
    for tool in ("strace", CROSS):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    run = [sys.executable, "-m", "vm_cli", "run"]
    commands = [[*run, str(guests.path(name, "O2"))] for name in GUESTS]
    for source in sorted((ROOT / "tests" / "abi").glob("*.c")):
        path = tmp_path / source.stem
        subprocess.run(
            [CROSS, "-std=gnu17", "-O1", "-static", "-pthread", "-w", "-o", path, source], check=True
        )
        commands.append([*run, "--net", str(path)])
    # Of the handlers one by one, which is not confined, only what is allowed counts.
    handlers = [str(ROOT / "packages" / "vm-core" / "tests" / f"test_linux_{name}.py") for name in HANDLERS]
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        *handlers,
    ]
    confined: set[str] = set()
    seen: set[str] = set()
    for number, command in enumerate([*commands, tests]):
        place = tmp_path / str(number)
        place.mkdir()
        trace = tmp_path / f"{number}.trace"
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", trace, *command],
            cwd=place if command is not tests else ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=280, check=False,
        )  # fmt: skip
        if not trace.exists() or b"ptrace" in done.stderr:
            pytest.skip(f"strace does not work here: {done.stderr.decode()[:100]}")
        # Tests that are slower under strace than they may be have their own place to fail.
        assert done.returncode == 0 or command is tests, (command, done.stderr.decode()[-1000:])
        seen |= called(trace)
        if command is not tests:
            confined |= seen
    assert confined <= seccomp.ALLOWED | BEFORE, sorted(confined - seccomp.ALLOWED - BEFORE)
    unused = seccomp.ALLOWED - seen - NOT_HERE.keys()
    assert not unused, sorted(unused)


def test_the_exceptions_are_in_the_list() -> None:
    assert NOT_HERE.keys() <= seccomp.ALLOWED
    assert not BEFORE & seccomp.ALLOWED


def test_the_page_on_security_has_the_lists_sizes() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    assert (
        f"{len(seccomp.ALLOWED)} system calls are allowed, {len(seccomp.FORBIDDEN)} end the process" in text
    )
    assert f"({len(seccomp.WORKER)} calls)" in text
