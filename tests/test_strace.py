"""Traces of system calls: against strace itself, and against guests that mean harm."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

import vm_core
from vm_core.errors import UsageError
from vm_core.linux.strace.filters import Filter
from vm_core.linux.strace.names import _IOCTL, ENUMS, FLAGS
from vm_core.linux.strace.signatures import CLASSES, SIGNATURES, signature_of
from vm_core.linux.strace.values import quote, signal_set
from vm_core.linux.table import ROWS
from vm_core.runner import DEVNULL, PIPE
from vm_core.testing.guests import Caller, program

PROGRAMS = Path(__file__).parent / "programs"
EXIT = "\nexit: li a7, 94\n ecall\n"


def compiled(directory: Path, name: str, compiler: str, *options: str) -> Path:
    """A program of programs/, static."""
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    directory.mkdir(exist_ok=True)
    out = directory / name
    source = PROGRAMS / f"{name}.c"
    subprocess.run([found, "-w", "-static", "-pthread", *options, "-o", out, source], check=True, timeout=100)
    return out


# -- the lines themselves ---------------------------------------------------------------------------------------------


def whole_lines(text: str) -> dict[str, list[str]]:
    """What each thread did, in its order: the parts of a line that was cut are joined. Each line begins with a number."""
    out: dict[str, list[str]] = defaultdict(list)
    cut: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith(" <unfinished ...>"):
            assert number not in cut
            cut[number] = rest.removesuffix(" <unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. (\w+) resumed>(.*)", rest)
        if resumed:
            assert cut[number].startswith(resumed[1] + "(")
            rest = cut.pop(number) + resumed[2]
        out[number].append(rest)
    return dict(out)


def compared(text: str) -> list[list[str]]:
    """The lines of each process behind its marks, without what differs from run to run."""
    threads = whole_lines(text)
    names = {number: f"PID{at}" for at, number in enumerate(threads)}
    out = []
    for lines in threads.values():
        kept: list[str] = []
        inside = False
        for line in lines:
            inside = inside or line.startswith("close(-77)") or (line.startswith("wait4") and not kept)
            if inside or not any(other.startswith("close(-77)") for other in lines):
                kept.append(line)
            if line.startswith("execve(") and line.endswith("= 0"):
                inside = False
        out.append([_plain(line, names) for line in kept if _the_same_everywhere(line)])
    return out


def _the_same_everywhere(line: str) -> bool:
    """Not what the C libraries of two machines do in their own ways."""
    return not line.startswith(("set_robust_list(", "rseq(", "brk(", "gettid(", "arch_prctl("))


def _plain(line: str, names: dict[str, str]) -> str:
    for _ in range(2):  # the second finds the thread behind the process
        line = _PROCESS.sub(lambda found: found[1] + names.get(found[2], found[2]), line)
    line = re.sub(r"\) +=", ") =", line)
    line = re.sub(r"0x[0-9a-f]{5,}", "POINTER", line)
    line = re.sub(r"\bSA_RESTORER\|?", "", line).replace(", sa_restorer=POINTER", "")
    line = re.sub(r"sa_flags=(0 /\* SA_\?\?\? \*/)?}", "sa_flags=0}", line)
    line = re.sub(r"\b(tv_n?sec|tv_usec)=\d+", r"\1=N", line) if "it_value" in line or "ru_" in line else line
    if line.startswith(("clock_gettime", "gettimeofday")):
        line = re.sub(r"=\d+", "=N", line)
    line = re.sub(r"makedev\([^)]*\)", "makedev(D)", line)
    return re.sub(r"si_[us]time=\d+( /\*.*?\*/)?", "si_time=N", line)


_PROCESS = re.compile(
    r"(si_pid=|\b[a-z]*kill\((?:PID\d, )?|queueinfo\(|wait4\(|P_PID, |^(?:getpid|clone|wait4)\(.*\) += )(\d+)(?= |,|$)"
)
"""Where a process's number stands."""


@pytest.mark.needs_cc
def test_lines_are_those_of_strace(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    native = compiled(tmp_path / "native", "calls", "gcc")
    guest = compiled(tmp_path / "guest", "calls", "riscv64-linux-gnu-gcc")
    there, here = tmp_path / "there", tmp_path / "here"
    subprocess.run(
        ["strace", "-f", "-o", there, "./calls"], cwd=native.parent, env={}, check=False, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    strace = vm_core.Strace(output=str(here))
    result = vm_core.run(
        ["./calls"], cwd=guest.parent, env={}, strace=strace, timeout=60, stdin=DEVNULL, program=guest
    )
    assert result.signal == 11
    wanted, found = compared(there.read_text()), compared(here.read_text())
    assert len(wanted) == len(found) == 3
    for one, other in zip(wanted, found, strict=True):
        assert len(one) > 2
        assert other == one


HEADERS = """
asm/termbits fcntl linux/close_range linux/fiemap linux/fs linux/futex linux/magic linux/netlink linux/openat2
linux/random linux/sockios netinet/in netinet/tcp netinet/udp poll sched signal sys/epoll sys/eventfd sys/file
sys/inotify sys/ioctl sys/mman sys/prctl sys/random sys/resource sys/signalfd sys/socket sys/stat sys/statvfs
sys/timerfd sys/uio sys/wait sys/xattr time
"""


@pytest.mark.needs_cc
def test_names_are_those_of_the_headers(tmp_path: Path) -> None:
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None or shutil.which("qemu-riscv64") is None:
        pytest.skip("riscv64-linux-gnu-gcc and qemu-riscv64 are not installed")
    rows = {
        (name, value) for names in (*ENUMS.values(), *FLAGS.values(), _IOCTL) for value, name in names.rows
    }
    text = ["#define _GNU_SOURCE", "#include <stdio.h>", "#include <linux/types.h>"]
    text += [f"#include <{header}.h>" for header in HEADERS.split()]
    text.append("int main(void) {")
    for name, _ in sorted(rows):
        if name.isidentifier() and name.isupper():
            text += [f"#ifdef {name}", f'printf("{name} %lld\\n", (long long)(unsigned)({name}));', "#endif"]
    source, out = tmp_path / "names.c", tmp_path / "names"
    source.write_text("\n".join([*text, "}", ""]))
    subprocess.run([compiler, "-w", "-static", source, "-o", out], check=True, timeout=100)
    printed = subprocess.run(["qemu-riscv64", out], check=True, capture_output=True, text=True).stdout
    there = {name: int(value) for name, value in (line.split() for line in printed.splitlines())}
    assert len(there) > 700
    # S_..., W_... and their like are seldom defined by one header alone, but never with another value.
    wrong = {
        name: (value, there[name])
        for name, value in rows
        if name in there and there[name] not in (value & 0xFFFF_FFFF, value)
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", '"plain"'),
        (b'"\\\t\n\r\v\f', r'"\"\\\t\n\r\v\f"'),
        (b"\x01", r'"\1"'),
        (b"\x012", r'"\0012"'),
        (b"\x018", r'"\18"'),
        (b"\xff\x00", r'"\377\0"'),
    ],
)
def test_strings(data: bytes, text: str) -> None:
    assert quote(data) == text


def test_sets_of_signals() -> None:
    assert signal_set(0) == "[]"
    assert signal_set(1 << 1 | 1 << 16 | 1 << 31 | 1 << 35) == "[INT CHLD RTMIN RT_4]"
    assert signal_set((1 << 64) - 1 & ~(1 << 14)) == "~[TERM]"


def test_each_call_has_a_signature() -> None:
    for row in ROWS:
        signature = signature_of(row.name, row.args)
        assert row.name in SIGNATURES, row.name
        assert signature.arity >= row.arity or row.name in ("preadv", "pwritev"), row.name
    for name in SIGNATURES:
        assert signature_of(name).arity <= 6
    for names in CLASSES.values():
        assert names <= set(SIGNATURES) | {"migrate_pages", "move_pages"}


# -- hostile guests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_decoders_survive_anything(seed: int) -> None:
    """Random arguments, pointers to random bytes and to the edge of what is mapped, for every signature and results."""
    rng = random.Random(seed)
    lines: list[str] = []
    strace = vm_core.Strace(lines.append, strings=rng.choice((0, 1, 32, 5000)))
    with Caller(strace=strace, stdio=(None, None, None)) as guest:
        tracer = guest.process.tracer
        assert tracer is not None
        base = guest.buffer
        words = guest.thread.words
        end = base
        while guest.memory.is_mapped(end, 1):
            end += 4096
        for _ in range(4000):
            name = rng.choice(tuple(SIGNATURES))
            for at in range(0, 512, 8):
                word = rng.choice(
                    (0, 1, 2, base, base + 64, end - 4, 1 << 63, rng.getrandbits(64), rng.getrandbits(8))
                )
                guest.memory.store(base + at, 8, word)
            for at in guest.thread.abi.argument_words:
                words[at] = rng.choice(
                    (0, 1, 2, 8, base, base + rng.randrange(512), end - rng.randrange(1, 40), end, rng.getrandbits(64),
                     rng.getrandbits(16), (1 << 64) - 1, (1 << 63) - 1, rng.getrandbits(5))
                )  # fmt: skip
            made = tracer._enter(guest.thread, name, signature_of(name))
            result = rng.choice(
                (0, 1, 5, 100, 4096, -1, -14, -512, -4095, 1 << 40, rng.getrandbits(63), None)
            )
            before = len(lines)
            tracer._made.pop(guest.thread.tid)
            with tracer.shared.held():
                tracer._ended(guest.thread, made, result)
            assert len(lines) == before + 1
            assert lines[-1].startswith(name + "(")
            assert " = " in lines[-1]
            assert lines[-1].isprintable()
            assert len(lines[-1]) < 200_000


# -- what is traced -------------------------------------------------------------------------------------------------


def test_filters() -> None:
    every = Filter("")
    assert "read" in every
    assert "syscall_1000" in every
    some = Filter("read,%network,/^epoll,!recvfrom,accept")
    assert [name in some for name in ("read", "socket", "epoll_ctl", "recvfrom", "accept", "write")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    others = Filter("trace=!futex,%memory")
    assert [name in others for name in ("futex", "mmap", "read")] == [False, False, True]
    assert "openat" in Filter("%file")
    assert "read" not in Filter("%file")
    assert "read" not in Filter("none")
    assert "pread64" in Filter("pread")
    assert "read" in Filter("?nonsense,read")
    for wrong in ("nonsense", "%nonsense", "/(", "read,readx"):
        with pytest.raises(UsageError, match="filter of system calls"):
            Filter(wrong)


CALLS = program(
    "li s0, 300\nloop: li a7, 172\n ecall\n addi s0, s0, -1\n bne s0, zero, loop\n"
    'li a0, 1\n la a1, t\n li a2, 3\n li a7, 64\n ecall\n li a0, 77\n li a7, 57\n ecall\n li a0, 2\n j exit\nt: .ascii "hi\\n"\n'
    " .align 4" + EXIT
)


def trace(strace: vm_core.Strace, **options: object) -> vm_core.RunResult:
    options = {
        "program": CALLS,
        "engine": "interp",
        "stdout": PIPE,
        "stdin": DEVNULL,
        "timeout": 60,
        **options,
    }
    return vm_core.run(["x"], strace=strace, **options)  # type: ignore[arg-type]


def test_calls_that_are_not_chosen_are_served_natively() -> None:
    lines: list[str] = []
    result = trace(vm_core.Strace(lines.append, filter="close,exit_group"))
    assert [re.sub(" +", " ", line) for line in lines] == [
        "close(77) = -1 EBADF (Bad file descriptor)",
        "exit_group(2) = ?",
        "+++ exited with 2 +++",
    ]
    assert result.system_calls == 303
    assert result.stats.extra["native_calls"] >= 299 if "native_calls" in result.stats.extra else True


def test_without_a_trace_nothing_of_it_is_loaded() -> None:
    script = (
        "import sys, vm_core; from vm_core.testing.guests import program\n"
        "vm_core.run(['x'], program=program('li a7, 94\\n ecall'), engine='reference')\n"
        "assert not [name for name in sys.modules if 'strace' in name]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_status_durations_and_times() -> None:
    lines: list[str] = []
    trace(
        vm_core.Strace(
            lines.append, status="failed", durations=True, stamps="ttt", signals=False, exits=False
        )
    )
    (line,) = lines
    assert re.fullmatch(
        r"\d{10}\.\d{6} close\(77\) +=? ?= -1 EBADF \(Bad file descriptor\) <\d\.\d{6}>", line
    )
    lines.clear()
    trace(vm_core.Strace(lines.append, filter="write,close", stamps="r", exits=False))
    assert [re.sub(r"\d", "0", line[:14]) for line in lines] == ["     0.000000 "] * 2
    assert lines[0].startswith("     0.000000 write(1, ")
    lines.clear()
    trace(
        vm_core.Strace(
            lines.append, status="successful", filter="close,write", exits=False, column=0, strings=1
        )
    )
    assert lines == ['write(1, "h"..., 3) = 3']


@pytest.mark.parametrize(
    "options",
    [
        {"stamps": "x"},
        {"status": "x"},
        {"summary": "x"},
        {"strings": -1},
        {"separately": True},
        {"filter": "x"},
    ],
)
def test_wrong_use(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        trace(vm_core.Strace(**options))  # type: ignore[arg-type]


def test_a_summary() -> None:
    lines: list[str] = []
    trace(vm_core.Strace(lines.append, summary="only"))
    assert lines[0] == "% time     seconds  usecs/call     calls    errors syscall"
    rows = {line.split()[-1]: line.split() for line in lines[2:-2]}
    assert {name: row[3] for name, row in rows.items()} == {
        "getpid": "300",
        "write": "1",
        "close": "1",
        "exit_group": "1",
    }
    assert rows["close"][4] == "1"
    assert lines[-1].split()[0] == "100.00"
    assert lines[-1].split()[3:] == ["303", "1", "total"]
    lines.clear()
    trace(vm_core.Strace(lines.append, summary="also", filter="close", exits=False))
    assert lines[0].startswith("close(77)")
    assert lines[1].startswith("% time")


def test_events() -> None:
    events: list[vm_core.TraceEvent] = []
    trace(vm_core.Strace(events=events.append, filter="write,close"))
    write, close, over = events
    assert (write.kind, write.name, write.arguments, write.result, write.error) == (
        "call", "write", ("1", '"hi\\n"', "3"), 3, "",
    )  # fmt: skip
    assert write.values[0] == 1
    assert (close.result, close.error, close.text) == (
        -9,
        "EBADF",
        "close(77) = -1 EBADF (Bad file descriptor)",
    )
    assert (over.kind, over.result) == ("exit", 2)
    assert 0 < write.start <= close.start
    assert write.seconds > 0


def test_lines_of_json(tmp_path: Path) -> None:
    trace(vm_core.Strace(output=str(tmp_path / "calls"), json=True, filter="close"))
    call, over = map(json.loads, (tmp_path / "calls").read_text().splitlines())
    assert (call["type"], call["name"], call["arguments"], call["values"], call["result"], call["error"]) == (
        "call", "close", ["77"], [77], -9, "EBADF",
    )  # fmt: skip
    assert (over["type"], over["status"], over["text"]) == ("exit", 2, "+++ exited with 2 +++")


def test_a_call_that_does_not_exist() -> None:
    lines: list[str] = []
    image = program(
        "li a0, 1\n li a1, 2\n li a7, 1000\n ecall\n li a7, 5\n ecall\n li a0, 0\n j exit\n" + EXIT
    )
    trace(vm_core.Strace(lines.append, column=0, exits=False), program=image)
    assert lines[0].startswith("syscall_0x3e8(0x1, 0x2, ")
    assert lines[0].endswith(") = -1 ENOSYS (Function not implemented)")
    assert lines[1].startswith("setxattr(")


def test_a_fault_and_its_signal() -> None:
    lines: list[str] = []
    trace(vm_core.Strace(lines.append), program=program("li a0, 16\n sd a0, 0(a0)\n"))
    assert lines == [
        "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---",
        "+++ killed by SIGSEGV +++",
    ]


# -- threads and processes ------------------------------------------------------------------------------------------


def a_thread(body: str) -> bytes:
    """A thread that wakes the first one from a futex, as soon as it waits there, does ``body`` and ends; the first one waits for its end."""
    return program(
        "_start: la a1, stack\n li a0, 0x310f00\n la a2, word\n la a4, word\n li a3, 0\n li a7, 220\n ecall\n"
        "bne a0, zero, parent\n"
        "wake: la a0, go\n li a1, 1\n li a2, 1\n li a7, 98\n ecall\n bne a0, zero, awake\n"
        "la a0, pause\n li a1, 0\n li a7, 101\n ecall\n j wake\n"
        "awake: " + body + " li a0, 0\n li a7, 93\n ecall\n"
        "parent: la a0, go\n li a1, 0\n li a2, 0\n li a3, 0\n li a7, 98\n ecall\n"
        "join: la a0, word\n lw a2, 0(a0)\n beq a2, zero, joined\n li a1, 0\n li a3, 0\n li a7, 98\n ecall\n j join\n"
        "joined: li a0, 0\n j exit\n"
        ' .align 4\nword: .word 0\ngo: .word 0\n .zero 4096\nstack: .zero 64\nt: .ascii "thread\\n"\n'
        " .align 4\npause: .dword 0\n .dword 10000000" + EXIT
    )


def test_lines_of_threads_are_cut_and_resumed(tmp_path: Path) -> None:
    image = a_thread("li a0, 1\n la a1, t\n li a2, 7\n li a7, 64\n ecall\n")
    lines: list[str] = []
    trace(vm_core.Strace(lines.append, column=0), program=image)
    text = "\n".join(lines)
    cut = re.search(r"\[pid +\d+\] futex\(0x\w+, FUTEX_WAIT, \d+, NULL <unfinished \.\.\.>", text)
    assert cut is not None, text
    assert re.search(r"<\.\.\. futex resumed>\) = 0", text[cut.end() :]), text
    assert re.search(r'\[pid +\d+\] write\(1, "thread\\n", 7\) = 7', text)
    assert re.fullmatch(r"\+\+\+ exited with 0 \+\+\+", lines[-1])
    out = tmp_path / "calls"
    trace(vm_core.Strace(output=str(out)), program=image)
    threads = whole_lines(out.read_text())
    assert len(threads) == 2
    assert [lines[-1] for lines in threads.values()] == ["+++ exited with 0 +++"] * 2
    trace(vm_core.Strace(output=str(out), separately=True), program=image)
    assert len(list(tmp_path.glob("calls.*"))) == 2
    assert "unfinished" not in "".join(path.read_text() for path in tmp_path.glob("calls.*"))


@pytest.mark.needs_cc
def test_children_reach_the_first_process(tmp_path: Path) -> None:
    guest = compiled(tmp_path / "guest", "calls", "riscv64-linux-gnu-gcc")
    options = {"program": guest, "cwd": guest.parent, "env": {}, "engine": None}
    options.pop("engine")
    lines: list[str] = []
    events: list[vm_core.TraceEvent] = []
    strace = vm_core.Strace(lines.append, events=events.append, filter="execve,exit_group,wait4,tgkill,clone")
    vm_core.run(["./calls"], strace=strace, timeout=60, stdin=DEVNULL, **options)  # type: ignore[arg-type]
    assert sum(line.endswith("+++ exited with 3 +++") for line in lines) == 1
    assert sum(line.endswith("+++ killed by SIGTERM +++") for line in lines) == 1
    assert sum("execve(" in line and line.endswith(" = 0") for line in lines) == 1
    assert len({event.pid for event in events}) == 3
    executed = [event for event in events if event.name == "execve"]
    assert [event.error for event in executed] == ["ENOENT", "ENOENT", ""]
    lines.clear()
    strace = vm_core.Strace(lines.append, filter="execve,exit_group", follow=False)
    vm_core.run(["./calls"], strace=strace, timeout=60, stdin=DEVNULL, **options)  # type: ignore[arg-type]
    assert not [line for line in lines if "execve" in line]
    lines.clear()
    vm_core.run(
        ["./calls"], strace=vm_core.Strace(lines.append, summary="only"), timeout=60, stdin=DEVNULL, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    counts = {line.split()[-1]: line.split()[3] for line in lines[2:-2]}
    assert counts["execve"] == "3"
    assert counts["wait4"] == "2"


def test_a_child_that_is_killed_is_told_of_by_its_parent(tmp_path: Path) -> None:
    image = program(
        "li a0, 17\n li a1, 0\n li a7, 220\n ecall\n bne a0, zero, parent\n"
        "li a0, 0\n li a1, 0\n li a2, 0\n li a3, 0\n li a7, 73\n ecall\n"
        "parent: mv s0, a0\n li a1, 9\n li a7, 129\n ecall\n mv a0, s0\n li a1, 0\n li a2, 0\n li a3, 0\n li a7, 260\n ecall\n"
        "li a0, 0\n j exit\n" + EXIT
    )
    out = tmp_path / "calls"
    result = trace(vm_core.Strace(output=str(out)), program=image)
    assert result.returncode == 0
    threads = list(whole_lines(out.read_text()).values())
    assert threads[-1][-1] == "+++ killed by SIGKILL +++"
    assert any(line.startswith("--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_KILLED") for line in threads[0])


def test_a_reader_that_has_gone_does_not_matter() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert trace(vm_core.Strace(output=writer)).returncode == 2
    finally:
        os.close(writer)


def test_a_reader_that_is_slow_gets_everything() -> None:
    """The guest may have made standard error non-blocking: it is the same open file."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 1 << 16):
            got.append(chunk)

    thread = threading.Timer(0.5, read)
    thread.start()
    image = program(
        "li s0, 3000\nloop: li a7, 172\n ecall\n addi s0, s0, -1\n bne s0, zero, loop\n li a0, 0\n j exit"
        + EXIT
    )
    assert trace(vm_core.Strace(output=writer, exits=False), program=image).returncode == 0
    os.close(writer)
    thread.join()
    os.close(reader)
    lines = b"".join(got).splitlines()
    assert len(lines) == 3001
    assert all(line.startswith(b"getpid()  ") for line in lines[:-1])
