"""The commands as a user runs them: each in a process of its own, since start-up and exit status are part of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vm_jit.cache import Cache


def vm(*words: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("VM_", "QEMU_"))}
    environ |= {"VM_CONFIG": "", "NO_COLOR": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "vm_cli", *words],
        capture_output=True,
        text=True,
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def facts(*words: str, **variables: str) -> Any:
    done = vm(*words, "--json", **variables)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def one_error(done: subprocess.CompletedProcess[str], status: int, code: str) -> str:
    """Check that ``done`` failed as documented, in one line and at most a hint; returns the message."""
    lines = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert lines[0].startswith(f"vm: error[{code}]: "), done.stderr
    assert len(lines) <= 2
    assert all(line.startswith("  hint: ") for line in lines[1:])
    return lines[0].partition("]: ")[2]


def test_without_a_command_it_shows_the_commands() -> None:
    done = vm()
    assert done.returncode == 2
    assert "doctor" in done.stdout


def test_version() -> None:
    assert vm("--version").stdout.startswith("vm ")
    found = facts("--version")
    assert found["version"] == found["packages"]["vm-cli"]
    assert set(found["packages"]) == {"vm-core", "vm-jit", "vm-aot", "vm-accel", "vm-gpu", "vm-gc", "vm-cli"}


def test_a_mistyped_command_is_named_with_the_nearest() -> None:
    done = vm("docter")
    assert one_error(done, 2, "VM001") == "there is no command 'docter'"
    assert "did you mean vm doctor?" in done.stderr


def test_a_program_without_run_is_explained(tmp_path: Path) -> None:
    done = vm("./hello")
    one_error(done, 2, "VM001")
    assert "to run a program: vm run ./hello" in done.stderr


def test_a_wrong_option_of_a_command() -> None:
    assert "--nope" in one_error(vm("info", "--nope"), 2, "VM001")
    assert "Choose from: riscv64, aarch64" in one_error(vm("sysroot", "create"), 2, "VM001")


def test_info_lists_every_part_with_a_reason() -> None:
    found = facts("info")
    assert found["engines"]["reference"]["available"]
    for part in (*found["engines"].values(), *found["accelerators"].values()):
        assert part["available"] or part["reason"]
    assert found["guests"]["riscv64"]["instructions"] > 150
    assert "riscv64" in vm("info").stdout


def test_doctor_gives_a_fix_for_each_thing_that_fails() -> None:
    found = facts("doctor")
    assert {"python", "llvm", "memory", "w^x", "openat2", "landlock", "seccomp", "kvm", "cache"} <= {
        finding["check"] for finding in found
    }
    for finding in found:
        assert finding["level"] in {"ok", "note", "degraded", "failed"}
        assert finding["fix"] or finding["level"] in {"ok", "note"}


def test_where_prints_the_definition() -> None:
    file, _, line = vm("where", "rv64", "addi").stdout.strip().rpartition(":")
    text = Path(file).read_text().splitlines()[int(line) - 1 :]
    assert any("def addi" in one for one in text[:3])


def test_where_suggests() -> None:
    done = vm("where", "rv64", "adi")
    one_error(done, 2, "VM001")
    assert "addi" in done.stderr
    one_error(vm("where", "z80", "ld"), 2, "VM001")


def test_disasm_of_hex() -> None:
    found = facts("disasm", "--hex", "13 05 10 00 01 45", "--start", "0x1000")
    assert [(one["address"], one["bytes"]) for one in found] == [(0x1000, "13051000"), (0x1004, "0145")]
    assert found[0]["text"].startswith("addi a0")


def test_disasm_shows_bytes_that_are_no_instruction() -> None:
    assert ".byte 0x00, 0x00" in vm("disasm", "--hex", "0000").stdout


@pytest.mark.parametrize(
    "words", [["--hex", "xyz"], ["--hex", ""], [], ["a", "--hex", "13"], ["--hex", "13", "--isa", "z80"]]
)
def test_disasm_wrong_use(words: list[str]) -> None:
    one_error(vm("disasm", *words), 2, "VM001")


def test_disasm_of_what_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello\n")
    one_error(vm("disasm", str(path)), 126, "VM201")
    one_error(vm("disasm", str(tmp_path / "absent")), 127, "VM202")


def test_config_show_tells_the_origin(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("fuel = 5\n")
    path.chmod(0o644)
    lines = vm("config", "show", "--origin", VM_CONFIG=str(path), VM_ENGINE="interp").stdout.splitlines()
    assert f"{path}\tfuel = 5" in lines
    assert 'environment VM_ENGINE\tengine = "interp"' in lines
    assert "default\tnet = false" in lines
    assert facts("config", "show", VM_ENGINE="interp")["engine"] == {
        "value": "interp",
        "origin": "environment VM_ENGINE",
    }


def test_a_wrong_configuration_is_one_line() -> None:
    assert (
        one_error(vm("config", "show", VM_FUEL="none"), 2, "VM002") == "VM_FUEL: 'none' is no value for fuel"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_VM_COMPLETE" in vm("completion", shell).stdout


def test_completion_of_a_run_option() -> None:
    done = vm(_VM_COMPLETE="bash_complete", COMP_WORDS="vm run --eng", COMP_CWORD="2")
    assert "--engine" in done.stdout


def test_run_without_a_program() -> None:
    assert one_error(vm("run"), 2, "VM001") == "no program is named"


def test_run_help_and_version() -> None:
    assert "--fuel" in vm("run", "--help").stdout
    assert vm("run", "--version").stdout.startswith("vm ")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [(b"hello\n", 126, "VM201"), (b"", 126, "VM201"), (b"#!/bin/sh\n", 126, "VM201"), (None, 127, "VM202")],
)
def test_run_what_is_no_program(tmp_path: Path, content: bytes | None, status: int, code: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o755)
    one_error(vm("run", str(path)), status, code)


def test_run_names_cannot_forge_lines(tmp_path: Path) -> None:
    done = vm("run", "evil\n\x1b[2Jvm: all is well")
    one_error(done, 127, "VM202")
    assert "\x1b" not in done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "vm_cli", "info", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_defect_is_one_line_and_says_how_to_see_more(tmp_path: Path) -> None:
    code = (
        "from vm_cli import launch, main\nlaunch.run_command = lambda words: 1 // 0\nmain.main(['run', 'x'])"
    )
    environ = {**os.environ, "VM_TRACEBACK": ""}
    short = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False
    )
    assert "ZeroDivisionError" in one_error(short, 125, "VM999")
    environ["VM_TRACEBACK"] = "1"
    long = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False
    )
    assert long.returncode == 125
    assert "Traceback" in long.stderr


def test_the_run_path_does_not_import_what_it_does_not_use() -> None:
    code = (
        "import sys\nfrom vm_cli.main import main\n"
        "try:\n    main(['run', '/absent'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('click', 'rich', 'tomllib', 'llvmlite', 'cffi', 'asyncio', 'typing', 're') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cache_commands(tmp_path: Path) -> None:
    made = Cache(tmp_path / "cache")
    made.write("one", {"x": b"x" * 100})
    made.write("two", {"y": b"y" * 5000})
    torn = tmp_path / "cache" / "two.vmc"
    torn.write_bytes(torn.read_bytes()[:-1])
    where = {"VM_CACHE_DIR": str(tmp_path / "cache")}
    assert vm("cache", "path", **where).stdout.strip() == where["VM_CACHE_DIR"]
    assert {one["name"]: one["valid"] for one in facts("cache", "list", **where)} == {
        "one": True,
        "two": False,
    }
    assert "torn" in vm("cache", "list", **where).stdout
    assert vm("cache", "verify", **where).returncode == 1
    assert facts("cache", "prune", **where)["removed"] == 1
    assert vm("cache", "verify", **where).returncode == 0
    assert facts("cache", "prune", "--max-size", "1", **where)["removed"] == 1
    made.write("three", {})
    assert facts("cache", "clear", **where)["removed"] == 1
    assert vm("cache", "list", **where).stdout.strip() == "the cache is empty"
    one_error(vm("cache", "prune", "--max-size", "lots"), 2, "VM001")


def test_syscalls_are_listed_by_number() -> None:
    found = facts("syscalls")
    numbers = [row["number"] for row in found]
    assert numbers == sorted(numbers)
    assert {"number": 64, "name": "write", "status": "implemented", "note": ""} in found
    assert len(facts("syscalls", "--all")) >= len(found)
    assert {"write", "writev"} <= {row["name"] for row in facts("syscalls", "--isa", "x86_64")}
    assert "write" in vm("syscalls").stdout
    one_error(vm("syscalls", "--isa", "z80"), 2, "VM001")


def test_help_keeps_the_lines_of_its_examples() -> None:
    lines = vm("--help").stdout.splitlines()
    assert "  vm run ./hello           run a Linux program" in lines
    assert "\\b" not in "".join(lines)


@pytest.mark.parametrize("words", [("info",), ("cache", "path"), ("where", "rv64", "addi")])
def test_json_may_stand_before_the_command(words: tuple[str, ...]) -> None:
    assert json.loads(vm("--json", *words).stdout) == json.loads(vm(*words, "--json").stdout)


def test_a_cache_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("list", "verify", "clear", "prune"):
        done = vm("cache", name, VM_CACHE_DIR=str(tmp_path / "file"))
        assert done.returncode == 125
        assert done.stderr.startswith(f"vm: error[VM300]: {tmp_path}/file: Not a directory")
