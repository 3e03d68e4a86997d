"""``vm run`` and ``vm-riscv64`` on real guests: exit statuses, limits, signals, reports."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vm_cli.launch import engine_name, guest_environment
from vm_cli.settings import Settings
from vm_core.errors import UsageError
from vm_core.testing.debug_client import Client

ENGINES = ("reference", "interp", "jit")
Make = Callable[..., Path]


def environ(**variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VM_", "QEMU_"))}
    cache = {"VM_CACHE_DIR": os.environ["VM_CACHE_DIR"]} if "VM_CACHE_DIR" in os.environ else {}
    return kept | cache | {"VM_CONFIG": "", "NO_COLOR": "1", **variables}


def command(name: str = "main") -> list[str]:
    return [sys.executable, "-c", f"from vm_cli.main import {name}; {name}()"]


def vm(*words: str | Path, name: str = "main", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(name), *map(str, words)],
        capture_output=True,
        text=True,
        env=environ(**variables),
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_output_and_status_are_the_guests(engine: str, greeting: Path, exits_with: Make) -> None:
    done = vm("run", "--engine", engine, greeting)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    assert vm("run", "--engine", engine, "--", exits_with(42)).returncode == 42


def test_the_report_in_json(greeting: Path) -> None:
    done = vm("run", "--json", "--engine", "interp", greeting)
    assert done.stdout == "hello\n"
    found = report(done)
    assert (found["exit_status"], found["reason"], found["instructions"]) == (0, "exit", 10)
    assert (found["engine"], found["system_calls"]) == ("interp", 2)


def test_statistics_for_a_person(greeting: Path) -> None:
    done = vm("run", "--stats", "--engine", "interp", greeting)
    assert done.stdout == "hello\n"
    for word in ("interp", "instructions", "system calls", "peak memory", "vm's modules", "guest code"):
        assert word in done.stderr


def test_where_the_time_went(greeting: Path) -> None:
    found = report(vm("run", "--json", "--engine", "interp", greeting))
    assert set(found["phases"]) == {"launch", "prepare", "run", "finish"}
    assert all(spent > 0 for spent in found["phases"].values())
    stats = found["stats"]
    assert stats["call_seconds"] > 0
    assert stats["extra"]["interpreter_seconds"] > 0
    spent = stats["seconds"] + stats["call_seconds"] + stats["extra"]["restore_seconds"]
    assert spent <= found["phases"]["run"]
    assert stats["extra"]["interpreter_seconds"] <= found["phases"]["prepare"]


def test_strace(greeting: Path) -> None:
    done = vm("run", "-strace", greeting)
    assert "write(1" in done.stderr
    assert "write(1" in vm("run", greeting, QEMU_STRACE="").stderr
    plain = 'write(1, "hello\\n", 6)'.ljust(40) + "= 6\n"
    assert plain in done.stderr
    only = vm("run", "--strace=exit", greeting).stderr
    assert only == "exit(0)                                 = ?\n+++ exited with 0 +++\n"
    assert vm("run", greeting, VM_STRACE="!write,exit").stderr == "+++ exited with 0 +++\n"
    assert plain not in vm("run", "--no-strace", greeting, VM_STRACE="1").stderr


def test_strace_as_asked(greeting: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    done = vm("run", "--strace-output", out, "--strace-strings", "2", "--strace-times", "r,T", greeting)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    assert re.search(
        r'^\d+ +0\.000000 write\(1, "he"\.\.\., 6\) += 6 <0\.\d{6}>$', out.read_text(), re.MULTILINE
    )
    done = vm("run", "--strace-output", out, "--strace-each", greeting)
    assert done.returncode == 0
    (one,) = tmp_path.glob("calls.*")
    assert one.read_text().startswith("write(1, ")
    table = vm("run", "--strace-summary", "only", greeting).stderr
    assert table.startswith("% time     seconds  usecs/call     calls    errors syscall\n")
    lines = vm("run", "--strace=write", "--strace-json", greeting).stderr.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["call", "exit"]


def test_trace(greeting: Path, tmp_path: Path) -> None:
    done = vm("run", "--trace", greeting)
    lines = done.stderr.splitlines()
    assert done.stdout == "hello\n"
    assert len(lines) == 10
    assert lines[0].split() == [
        "0x11000:",
        "13",
        "05",
        "10",
        "00",
        "addi",
        "a0,",
        "zero,",
        "1",
        "#",
        "a0=0x0->0x1",
    ]
    assert lines[6].endswith("ecall                        # a0=0x1->0x6 syscall write")
    out = tmp_path / "steps"
    done = vm(
        "run",
        "--trace-output",
        out,
        "--trace-start",
        "0x11004",
        "--trace-count",
        "2",
        "--trace-json",
        greeting,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    assert [json.loads(line)["pc"] for line in out.read_text().splitlines()] == [0x11004, 0x11008]
    assert len(vm("run", "--trace=0x11004+8", greeting).stderr.splitlines()) == 2
    wrong = vm("run", "--trace=nowhere", greeting)
    assert wrong.returncode == 2
    assert "there is no function 'nowhere'" in wrong.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--strace=writex"], "there is no call 'writex'"),
        (["--strace=%writex"], "there is no class %writex"),
        (["--strace-times", "x"], "'x' is no value for strace_times"),
        (["--strace-each"], "needs the name of a file"),
        (["--strace-output", "/nonexistent/x"], "/nonexistent/x"),
    ],
)
def test_strace_that_cannot_be(greeting: Path, options: list[str], complaint: str) -> None:
    done = vm("run", *options, greeting)
    assert done.returncode in (2, 127)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fuel", [1, 2, 1001])
def test_fuel_is_exact(engine: str, fuel: int, endless: Path) -> None:
    done = vm("run", "--json", "--fuel", str(fuel), "--engine", engine, endless)
    assert done.returncode == 123
    assert report(done)["instructions"] == fuel


def test_fuel_that_is_enough_changes_nothing(exits_with: Make) -> None:
    assert vm("run", "--fuel", "3", exits_with(7)).returncode == 7
    assert vm("run", "--fuel", "2", exits_with(7)).returncode == 123


def test_timeout(endless: Path) -> None:
    start = time.monotonic()
    done = vm("run", "--timeout", "0.3", endless)
    assert done.returncode == 124
    assert done.stderr.startswith("vm: note: ")
    assert time.monotonic() - start < 20


def test_memory_cap(assemble: Make) -> None:
    # mmap of 1 GiB, and a store to what it returned.
    greedy = assemble(
        "addi a0, zero, 0",
        "addi a1, zero, 1",
        "slli a1, a1, 30",
        "addi a2, zero, 3",
        "addi a3, zero, 34",
        "addi a4, zero, -1",
        "addi a5, zero, 0",
        "addi a7, zero, 222",
        "ecall",
        "sd a1, 0(a0)",
        "addi a0, zero, 0",
        "addi a7, zero, 93",
        "ecall",
    )
    assert vm("run", greedy).returncode == 0
    done = vm("run", "--memory", "64M", greedy)
    assert done.returncode == 122
    assert done.stderr.startswith("vm: note: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_access_is_the_guests_death(engine: str, assemble: Make) -> None:
    done = vm("run", "--engine", engine, assemble("addi a0, zero, 8", "sd a0, 0(a0)"))
    assert done.returncode == 128 + signal.SIGSEGV
    assert len(done.stderr.splitlines()) == 1
    for word in ("SIGSEGV", "0x8", "0x11004"):
        assert word in done.stderr


def test_an_illegal_instruction_is_shown(assemble: Make) -> None:
    done = vm("run", assemble("addi a0, zero, 8", b"\xff\xff\xff\xff"))
    assert done.returncode == 128 + signal.SIGILL
    for word in ("SIGILL", "0x11004", "ff ff ff ff"):
        assert word in done.stderr


def test_the_multicall_name_dies_by_the_guests_signal(assemble: Make) -> None:
    done = vm(assemble("sd zero, 0(zero)"), name="main_riscv64")
    assert done.returncode == -signal.SIGSEGV
    assert "SIGSEGV" in done.stderr


def test_the_multicall_name_passes_words_on(greeting: Path) -> None:
    assert (
        vm("-E", "A=1,B=2", "-U", "HOME", "-0", "x", greeting, "-strace", name="main_riscv64").stdout
        == "hello\n"
    )


def test_a_program_for_another_machine_is_refused(assemble: Make) -> None:
    done = vm(assemble("ecall", machine=183), name="main_riscv64")
    assert done.returncode == 126
    assert "a program for aarch64, not for riscv64" in done.stderr
    assert "use vm-aarch64" in done.stderr


def test_a_file_that_is_no_program_has_the_name_that_was_given(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program\n")
    for words in (("--trust", text), ("-L", "/", text), (text,), ("--root", tmp_path, "/text")):
        done = vm("run", *words)
        assert done.returncode == 126
        assert done.stderr.startswith(f"vm: error[VM201]: {words[-1]}: offset 0: not an ELF program")


def test_an_unknown_model_is_noted(greeting: Path) -> None:
    done = vm("-cpu", "sifive-u54", greeting, name="main_riscv64")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr.startswith("vm: note: -cpu sifive-u54 is ignored")


def test_what_the_guest_should_not_have_done_is_logged_once(assemble: Make) -> None:
    strange = assemble(
        "addi a7, zero, 2000",
        "ecall",
        "ecall",
        "addi a0, zero, 0",
        "addi a7, zero, 93",
        "ecall",
    )
    done = vm("run", strange)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("vm: warning: ")
    assert "2000" in done.stderr
    assert vm("run", "--log", "error", strange).stderr == ""


def test_argv0(assemble: Make) -> None:
    # write(1, argv[0], 4)
    shows = assemble(
        "ld a1, 8(sp)",
        "addi a0, zero, 1",
        "addi a2, zero, 4",
        "addi a7, zero, 64",
        "ecall",
        "addi a0, zero, 0",
        "addi a7, zero, 93",
        "ecall",
    )
    assert vm("run", "-0", "abcd", shows).stdout == "abcd"


def started(*words: str | Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [*command(), *map(str, words)],
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.read(6) == b"hello\n"
    time.sleep(0.3)
    return child


@pytest.fixture
def greets_and_stays(assemble: Make) -> Path:
    return assemble(
        "addi a0, zero, 1",
        "addi a1, zero, 17",
        "slli a1, a1, 12",
        "addi a1, a1, 256",
        "addi a2, zero, 6",
        "addi a7, zero, 64",
        "ecall",
        "jal zero, 0",
        data=b"hello\n",
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_hosts_signals_end_it_quickly(
    engine: str, number: int, status: int, greets_and_stays: Path
) -> None:
    child = started("run", "--engine", engine, greets_and_stays)
    start = time.monotonic()
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    took = time.monotonic() - start
    assert child.returncode == status
    assert errors == b""
    # 0.1 s is what is promised on a quiet machine; tests may share theirs.
    assert took < 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_debugger_is_waited_for(engine: str, greeting: Path) -> None:
    child = subprocess.Popen(
        [*command(), "run", "--engine", engine, "--json", "-g", "0", str(greeting)],
        env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    port = int(json.loads(child.stderr.readline())["gdb"].removeprefix(":"))
    with Client(("127.0.0.1", port)) as client:
        client.start()
        assert client.register(32) == 0x11000
        assert client.ask("vCont;c").startswith(b"W00")
    out, _ = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, b"hello\n")


def test_waiting_for_a_debugger_can_be_given_up(greeting: Path) -> None:
    child = subprocess.Popen(
        [*command(), "run", str(greeting)],
        env=environ(QEMU_GDB="0"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    assert re.fullmatch(
        rb"vm: waiting for gdb: gdb-multiarch -ex 'target remote :\d+' \S+\n", child.stderr.readline()
    )
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=30)
    assert (child.returncode, out, errors) == (130, b"", b"")


def test_a_bad_address_for_a_debugger(greeting: Path) -> None:
    done = vm("run", "-g", "nowhere", greeting)
    assert done.returncode == 2
    assert "VM001" in done.stderr
    assert "waiting" not in vm("run", "-g", "0", "/nonexistent").stderr
    done = vm("run", "--trace", "-g", "0", greeting)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_the_engine_that_is_asked_for() -> None:
    assert engine_name(Settings()) == "auto"
    assert engine_name(Settings(jit=False)) == "interp"
    assert engine_name(Settings(engine="reference", jit=False)) == "reference"
    with pytest.raises(UsageError, match="turned off"):
        engine_name(Settings(engine="jit", jit=False))


def test_without_the_jit_it_is_the_interpreter(greeting: Path) -> None:
    assert report(vm("run", "--json", greeting, VM_ENABLE_JIT="0"))["engine"] == "interp"
    assert report(vm("run", "--json", "--no-jit", greeting))["engine"] == "interp"
    assert vm("run", "--engine", "jit", greeting, VM_ENABLE_JIT="0").returncode == 2


def test_the_guests_environment() -> None:
    settings = Settings(env=("A=1", "B=x=y", "C="), unset_env=("HOME", "ABSENT"))
    found = guest_environment(settings, {"HOME": "/root", "A": "0", "PATH": "/bin"})
    assert found == {"A": "1", "B": "x=y", "C": "", "PATH": "/bin"}


def test_the_demo() -> None:
    done = vm("demo", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "riscv64 program drew this" in found["stdout"]
    assert found["interpreted"]["instructions"] == found["jit"]["instructions"] > 10**8
    # The first run may be over before the compiler is; a later one has what it made.
    again = found["jit_again"]["stats"]
    assert again["regions_cached"] > 0
    assert again["retired_jit"] > again["retired"] / 2
    assert found["interpreted"]["stats"]["retired_jit"] == 0
    assert found["ratio"] > 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 42), (signal.SIGTERM, 55)])
def test_a_guest_may_handle_the_hosts_signals(number: int, status: int, assemble: Make) -> None:
    child = started(
        "run",
        assemble(
            f"addi a0, zero, {number}",
            "addi a1, zero, 17",
            "slli a1, a1, 12",
            "addi a1, a1, 264",  # the action, behind the text
            "addi a2, zero, 0",
            "addi a3, zero, 8",
            "addi a7, zero, 134",
            "ecall",
            "addi a0, zero, 1",
            "addi a1, a1, -8",
            "addi a2, zero, 6",
            "addi a7, zero, 64",
            "ecall",
            "jal zero, 0",
            f"addi a0, zero, {status}",  # the handler, at 0x11038
            "addi a7, zero, 93",
            "ecall",
            data=b"hello\n\0\0" + (0x11038).to_bytes(8, "little") + bytes(16),
        ),
    )
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert (child.returncode, errors) == (status, b"")


def test_nohup_is_respected(greets_and_stays: Path) -> None:
    script = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from vm_cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "run", "--timeout", "2", str(greets_and_stays)],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read(6) == b"hello\n"
        child.send_signal(signal.SIGHUP)
        assert child.wait(30) == 124


def closing(number: int, *words: str | Path) -> int:
    """The exit status of vm with a standard descriptor closed."""
    shell = f'exec "$@" {number}{"<" if number == 0 else ">"}&-'
    return subprocess.run(
        ["/bin/sh", "-c", shell, "sh", *command(), *map(str, words)], env=environ(), check=False
    ).returncode


def test_closed_standard_descriptors_stay_closed(assemble: Make) -> None:
    for number, call in ((0, 63), (1, 64), (2, 64)):
        # Exits with -errno of a read or write there.
        guest = assemble(
            f"addi a0, zero, {number}",
            "addi a1, sp, 0",
            "addi a2, zero, 1",
            f"addi a7, zero, {call}",
            "ecall",
            "sub a0, zero, a0",
            "addi a7, zero, 93",
            "ecall",
            name=f"guest{number}",
        )
        assert closing(number, "run", guest) == errno.EBADF
    assert closing(1, "info") == 0
    assert closing(2, "run", "/nonexistent") == 127


def test_isolation_can_be_given_up_but_not_together_with_a_root(greeting: Path) -> None:
    want = vm("run", greeting)
    assert vm("run", "--isolation", "off", greeting).stdout == want.stdout
    done = vm("run", "--isolation", "off", "--root", greeting.parent, greeting)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr
    assert "UNSAFE" in vm("run", "--help").stdout
