"""``vm boot``, as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vm_accel.interface import Feature
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.testing import pc_kernel
from vm_cli.boot import disk
from vm_core.linux.confine import walls

pytest.importorskip("keystone", reason="needs keystone-engine")
needs_kvm = pytest.mark.skipif(not Kvm.probe().available, reason=f"needs KVM: {Kvm.probe().reason}")


def environment(**variables: str) -> dict[str, str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("VM_")}
    return {**environ, "VM_CONFIG": "", "NO_COLOR": "1", **variables}


def vm(*words: str, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vm_cli", *words],
        capture_output=True,
        text=True,
        input=typed,
        env=environment(**variables),
        timeout=120,
        check=False,
    )


def kernel(directory: Path, body: str = pc_kernel.DEVICES_BODY) -> str:
    path = directory / "kernel"
    path.write_bytes(pc_kernel.bzimage(body))
    return str(path)


@pytest.mark.kvm
@needs_kvm
def test_it_boots(tmp_path: Path) -> None:
    image, initrd = tmp_path / "a,b.img", tmp_path / "initrd"
    image.write_bytes(b"A" * 512 + b"B" * 512 + b"C" * 512)
    initrd.write_bytes(b"initrd!!")
    done = vm(
        *("boot", kernel(tmp_path), "--disk", str(image), "--initrd", str(initrd), "--memory", "16M"),
        *("--cpus", "2", "--append", "one two", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr)
    assert (found["ended"], found["status"]) == ("off", 0)
    assert "\ncommand line one two\n" in done.stdout
    assert f"\ninitrd {int.from_bytes(b'initrd!!', 'little'):016x}\n" in done.stdout
    # The other console's line may stand in the middle of one of these.
    assert "hello over hvc\n" in done.stdout
    assert image.read_bytes() == b"A" * 512 + b"B" * 1024


@pytest.mark.kvm
@needs_kvm
def test_standard_input_goes_to_the_console(tmp_path: Path) -> None:
    done = vm("boot", kernel(tmp_path, pc_kernel.ECHO_BODY), "--memory", "16M", typed="typed q")
    assert done.returncode == 0
    assert done.stdout.endswith("typed q")


@pytest.mark.kvm
@needs_kvm
def test_statuses(tmp_path: Path) -> None:
    crashed = vm("boot", kernel(tmp_path, pc_kernel.TRIPLE_FAULT_BODY), "--memory", "16M")
    assert (crashed.returncode, crashed.stderr) == (1, "vm: note: the machine ended: triple fault\n")
    again = vm("boot", kernel(tmp_path, pc_kernel.RESET_BODY), "--memory", "16M", "--json")
    assert (again.returncode, json.loads(again.stderr)["ended"]) == (0, "reset")
    if Feature.KERNEL_MODE not in Kvm().features:
        strange = vm("boot", kernel(tmp_path, "int 0x80"), "--memory", "16M")
        assert strange.returncode == 125
        assert "an instruction that KVM cannot emulate: cd 80" in strange.stderr
        assert "hint: vm doctor" in strange.stderr
    late = vm("boot", kernel(tmp_path, pc_kernel.ECHO_BODY), "--memory", "16M", "--timeout", "500ms")
    assert late.returncode == 124
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"#!/bin/sh\n")
    assert vm("boot", str(wrong), "--memory", "16M").returncode == 126


@pytest.mark.kvm
@needs_kvm
def test_errors_are_one_line(tmp_path: Path) -> None:
    path = kernel(tmp_path)
    for words, status, text in (
        (["boot", str(tmp_path / "none")], 127, "error[VM202]"),
        (["boot", path, "--disk", str(tmp_path / "none")], 2, "error[VM001]: disk"),
        (["boot", path, "--memory", "lots"], 2, "error[VM001]"),
        (["boot", path, "--timeout", "soon"], 2, "error[VM001]"),
        (["boot", path, "--cpus", "0"], 2, "error[VM001]"),
        (["boot", path, "--accel", "whpx"], 2, "error[VM001]: whpx runs vCPUs only"),
        (["boot", path, "--accel", "none"], 125, "error[VM310]"),
    ):
        done = vm(*words)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert text in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.kvm
@needs_kvm
def test_in_a_terminal(tmp_path: Path) -> None:
    """Keys go through as they are, Ctrl-C too; Ctrl-A x pulls the plug, and the terminal is as it was."""
    ours, theirs = pty.openpty()
    import termios

    before = termios.tcgetattr(theirs)
    words = [sys.executable, "-m", "vm_cli", "boot", kernel(tmp_path, pc_kernel.ECHO_BODY), "--memory", "16M"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment()) as process:
        try:
            seen = b""

            def until(text: bytes) -> None:
                nonlocal seen
                end = time.monotonic() + 60
                while text not in seen:
                    assert time.monotonic() < end, seen
                    if select.select([ours], [], [], 1)[0]:
                        seen += os.read(ours, 4096)

            until(b"\nmemory 0000000000100000")
            until(b"0000000000000001\n")
            os.write(ours, b"\x03#\x01\x01#")
            until(b"\x03#\x01#")
            os.write(ours, b"\x01x")
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


@pytest.mark.kvm
@needs_kvm
def test_what_stands_around_a_machine(tmp_path: Path) -> None:
    """Seen from outside while the guest runs, in every thread."""
    have = {wall.name for wall in walls() if wall.have}
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    words = [sys.executable, "-m", "vm_cli", "boot", kernel(tmp_path, pc_kernel.ECHO_BODY), "--memory", "16M"]
    words += ["--cpus", "2", "--disk", str(image)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"#")
        process.stdin.flush()
        seen = b""
        while b"#" not in seen:
            data = os.read(process.stdout.fileno(), 4096)
            assert data
            seen += data
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            lines = (line.partition(":") for line in (thread / "status").read_text().splitlines())
            status = {name: value.strip() for name, _, value in lines}
            if "seccomp" in have:
                assert status["Seccomp"] == "2"
            if "no-new-privs" in have:
                assert status["NoNewPrivs"] == "1"
            assert not int(status["CapEff"], 16) & ~0b10
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        assert not [line for line in maps if "w" in line.split()[1] and "x" in line.split()[1]]
        process.stdin.write(b"q")
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.kvm
@needs_kvm
def test_the_levels(tmp_path: Path) -> None:
    have = [wall.name for wall in walls() if wall.have]
    expected = [name for name in ("no-new-privs", "mdwe", "landlock", "seccomp") if name in have]
    words = ("boot", kernel(tmp_path, pc_kernel.RESET_BODY), "--memory", "16M", "--json")

    def stood(*more: str, **variables: str) -> list[str]:
        done = vm(*words, *more, **variables)
        assert done.returncode == 0, done.stderr
        found: list[str] = json.loads(done.stderr)["walls"]
        return found

    assert stood() == expected
    assert stood("--sandbox", "off") == stood(VM_SANDBOX="off") == []
    if all(wall.have for wall in walls() if wall.needed):
        assert stood("--sandbox", "strict", VM_SANDBOX="off") == expected
    done = vm(*words, "--sandbox", "some")
    assert done.returncode == 2
    assert "auto | strict | off" in done.stderr


def test_disks_by_name() -> None:
    assert [(str(d.path), d.read_only) for d in map(disk, ("a", "a,ro", "a,b", "a,b,rw"))] == [
        ("a", False),
        ("a", True),
        ("a,b", False),
        ("a,b", False),
    ]
