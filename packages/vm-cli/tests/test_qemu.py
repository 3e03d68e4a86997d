"""qemu-user's spellings, as the multi-call names take them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vm_cli.options import EXTRAS
from vm_cli.qemu import OPTIONS, VARIABLES, parse_qemu
from vm_cli.settings import ROWS
from vm_core.errors import UsageError

# `qemu-riscv64 -h` of QEMU 7.2 to 10: options and variables.
QEMU = {
    "-g": "QEMU_GDB", "-L": "QEMU_LD_PREFIX", "-s": "QEMU_STACK_SIZE", "-cpu": "QEMU_CPU", "-E": "QEMU_SET_ENV",
    "-U": "QEMU_UNSET_ENV", "-0": "QEMU_ARGV0", "-r": "QEMU_UNAME", "-B": "QEMU_GUEST_BASE",
    "-R": "QEMU_RESERVED_VA", "-d": "QEMU_LOG", "-dfilter": "QEMU_DFILTER", "-D": "QEMU_LOG_FILENAME",
    "-p": "QEMU_PAGESIZE", "-singlestep": "QEMU_SINGLESTEP", "-one-insn-per-tb": "QEMU_ONE_INSN_PER_TB",
    "-strace": "QEMU_STRACE", "-seed": "QEMU_RAND_SEED", "-trace": "QEMU_TRACE", "-plugin": "QEMU_PLUGIN",
    "-version": "QEMU_VERSION",
}  # fmt: skip


def test_every_option_and_variable_of_qemu_is_known() -> None:
    flags = {flag: entry for entry in (*ROWS, *EXTRAS, *OPTIONS) for flag in entry.flags}
    assert {"-h", "-help", *QEMU} <= set(flags)
    for flag, variable in QEMU.items():
        if variable in VARIABLES:
            assert VARIABLES[variable] == flag
        else:
            assert variable in getattr(flags[flag], "env", ())


def test_what_is_ignored_is_said() -> None:
    words = ["-B", "0x4000000", "-R", "1G", "-seed", "42", "-singlestep", "-d", "in_asm,page", "p", "-B"]
    line, notes, log_file = parse_qemu(words, {})
    assert line.program == ["p", "-B"]
    assert [note.split(" ")[0] for note in notes] == ["-B", "-R", "-seed", "-singlestep", "-d"]
    assert all("ignored" in note for note in notes)
    assert log_file is None


def test_log_items() -> None:
    line, notes, log_file = parse_qemu(["-d", "strace", "-D", "/tmp/x", "p"], {})
    assert (line.flags, notes, log_file) == ([("strace", "1", "-d")], [], "/tmp/x")


def test_variables_stand_for_options_and_options_override_them() -> None:
    environ = {
        "QEMU_GDB": "1234",
        "QEMU_ARGV0": "zero",
        "QEMU_CPU": "max",
        "QEMU_PLUGIN": "",
        "QEMU_LOG": "strace",
    }
    line = parse_qemu(["-g", "5678", "p"], environ).line
    assert (line.gdb, line.argv0, line.cpu, line.flags) == ("5678", "zero", "max", [("strace", "1", "-d")])
    assert parse_qemu([], {"QEMU_VERSION": ""}).line.version


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-plugin", "x.so", "p"], "-plugin is an option of qemu that vm does not have"),
        (["-p", "16384", "p"], "-p 16384: the page size is 4096"),
        (["-p", "many", "p"], "-p: 'many' is no number"),
        (["-B", "0xg", "p"], "-B: '0xg' is no number"),
        (["-d", "in_asm,bogus", "p"], "-d: there is no log item 'bogus'"),
        (["-bogus", "p"], "there is no option -bogus"),
        (["-D"], "-D needs a value"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_qemu(words, {})
    assert str(caught.value).startswith(message)


def multicall(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vm_cli.main import main_riscv64; main_riscv64()", *words]
    environ = {**os.environ, "VM_ENGINE": "reference", **env}
    return subprocess.run([str(w) for w in command], capture_output=True, text=True, check=False, env=environ)


def test_system_calls_go_to_a_file(tmp_path: Path, greeting: Path) -> None:
    done = multicall("-d", "strace", "-D", tmp_path / "calls.%d", greeting)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    (log,) = tmp_path.glob("calls.*")
    assert log.suffix[1:].isdigit()
    assert "write(1," in log.read_text()
    gone = multicall("-strace", "-D", tmp_path / "no" / "file", greeting)
    assert gone.returncode == 127
    assert gone.stderr.startswith("vm: error[VM300]: ")


def test_a_note_does_not_stop_the_run(greeting: Path) -> None:
    done = multicall(greeting, QEMU_RAND_SEED="7")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr == "vm: note: -seed is ignored: the guest's random numbers are the host's\n"


def test_the_help_names_them(greeting: Path) -> None:
    text = multicall("-h").stdout
    assert all(flag in text for flag in QEMU)


def test_the_size_of_the_stack_and_the_release(assemble: object, tmp_path: Path) -> None:
    from collections.abc import Callable
    from typing import cast

    make = cast(Callable[..., Path], assemble)
    # getrlimit(RLIMIT_STACK) into the stack, and the MiB of it as the exit status
    program = make(
        "addi sp, sp, -16", "addi a0, zero, 3", "addi a1, sp, 0", "addi a7, zero, 163", "ecall",
        "ld a0, 0(sp)", "srli a0, a0, 20", "addi a7, zero, 93", "ecall",
    )  # fmt: skip
    assert multicall(program).returncode == 8
    assert multicall("-s", "16777216", program).returncode == 16
    assert multicall(program, QEMU_STACK_SIZE="32M").returncode == 32
    # a store 9 MiB below the top of the stack
    deep = make(
        "addi t0, zero, 9", "slli t0, t0, 20", "sub t0, sp, t0", "sd zero, 0(t0)",
        "addi a0, zero, 0", "addi a7, zero, 93", "ecall", name="deep",
    )  # fmt: skip
    assert multicall(deep).returncode == -signal.SIGSEGV
    assert multicall("-s", "16M", deep).returncode == 0
    # uname, whose release is 130 bytes behind its start
    uname = make(
        "addi sp, sp, -512", "addi a0, sp, 0", "addi a7, zero, 160", "ecall",
        "addi a0, zero, 1", "addi a1, sp, 130", "addi a2, zero, 3", "addi a7, zero, 64", "ecall",
        "addi a0, zero, 0", "addi a7, zero, 93", "ecall", name="uname",
    )  # fmt: skip
    assert multicall("-r", "7.8.9", uname).stdout == "7.8"
    assert multicall("-r", "x" * 65, uname).returncode == 2
