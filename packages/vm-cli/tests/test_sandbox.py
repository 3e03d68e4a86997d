"""``vm run`` as it confines itself: what stands around a guest's process while it runs, and what it can still do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vm_core.linux.confine import walls
from vm_core.testing.guests import program

Make = Callable[..., Path]
ENGINES = ("reference", "interp", "baseline", "jit")
WAITS = """
_start: li a7, 64
 li a0, 1
 la a1, text
 li a2, 6
 ecall
again: la a0, many
 ld s0, 0(a0)
spin: addi s0, s0, -1
 bne s0, zero, spin
 li a7, 63
 li a0, 0
 la a1, text
 li a2, 1
 ecall
 li a7, 93
 ecall
.align 8
many: .dword 3000000
text: .ascii "ready\\n"
"""


def environ(tmp_path: Path, **variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VM_", "QEMU_"))}
    cache = os.environ.get("VM_CACHE_DIR", str(tmp_path / "cache"))
    return kept | {"VM_CACHE_DIR": cache, "VM_CONFIG": "", "NO_COLOR": "1", **variables}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-c", "from vm_cli.main import main; main()", "run", *map(str, words)]


def run(tmp_path: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        env=environ(tmp_path, **variables),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    path = tmp_path / "waits"
    path.write_bytes(program(WAITS))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_what_stands_around_a_guest(tmp_path: Path, waiting: Path, engine: str) -> None:
    """Seen from outside, in the kernel's own words; and no memory is both written and executed, compiler's process excepted."""
    have = {wall.name for wall in walls() if wall.have}
    process = subprocess.Popen(
        command("--engine", engine, waiting),
        env=environ(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        place = Path(f"/proc/{process.pid}")
        for _ in range(20 if engine != "reference" else 3):
            maps = (place / "maps").read_text()
            assert not [
                line for line in maps.splitlines() if "w" in line.split()[1] and "x" in line.split()[1]
            ]
            time.sleep(0.02)
        lines = (line.partition(":") for line in (place / "status").read_text().splitlines())
        status = {name: value.strip() for name, _, value in lines}
        if "seccomp" in have:
            assert status["Seccomp"] == "2"
        if "no-new-privs" in have:
            assert status["NoNewPrivs"] == "1"
        assert not int(status["CapEff"], 16) & ~0b11111011
        assert (place / "limits").read_text().partition("Max core file size")[2].split()[:2] == ["0", "0"]
        if engine == "reference":
            process.kill()
            return
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def test_the_levels(tmp_path: Path, waiting: Path) -> None:
    have = [wall.name for wall in walls() if wall.have]
    expected = [name for name in ("no-new-privs", "mdwe", "landlock", "seccomp") if name in have]
    assert facts(run(tmp_path, "--json", waiting))["walls"] == expected
    assert facts(run(tmp_path, "--json", "--sandbox", "off", waiting))["walls"] == []
    assert facts(run(tmp_path, "--json", "--trust", waiting))["walls"] == []
    if all(wall.have for wall in walls() if wall.needed):
        assert facts(run(tmp_path, "--json", waiting, VM_SANDBOX="strict"))["walls"] == expected
    done = run(tmp_path, "--sandbox", "some", waiting)
    assert done.returncode == 2
    assert "auto | strict | off" in done.stderr


def test_confined_guests_keep_their_code_apart(tmp_path: Path, waiting: Path) -> None:
    """By what they were shown: a guest's process could have written anything there."""
    cache = tmp_path / "cache-of-all"
    waiting.write_bytes(program(WAITS.replace("3000000", "600000000")))  # long enough to be worth compiling
    other = tmp_path / "other"
    other.mkdir()
    words = ("--engine", "jit", "--json")
    shown = [(), (), ("--bind", f"{other}:/other:ro"), ("--net",), ("--sandbox", "off")]
    found = []
    for options in shown:
        done = run(tmp_path, *words, *options, waiting, VM_CACHE_DIR=str(cache))
        assert done.returncode == 0, done.stderr
        found.append({str(path.relative_to(cache)) for path in cache.rglob("program-*")})
    assert found[0] == found[1]
    assert len(found[0]) == 1
    (first,) = found[0]
    assert first.startswith("zone-")
    assert [len(names) for names in found] == [1, 1, 2, 3, 4]
    assert {name.rpartition("/")[2] for name in found[4]} == {first.rpartition("/")[2]}
    assert [name for name in found[4] if not name.startswith("zone-")] == [first.rpartition("/")[2]]


def test_trust_is_as_any_program_of_the_user(tmp_path: Path) -> None:
    """The host's files, its /proc, its devices and set-ID bits; without it, none of them."""
    text = """
    _start: li a0, -100
     la a1, name
     li a2, 0
     li a3, 0
     li a7, 56
     ecall
     mv s0, a0
     la a1, buffer
     li a2, 64
     li a7, 63
     ecall
     mv a2, a0
     li a0, 1
     li a7, 64
     blt a2, zero, over
     ecall
    over: li a7, 93
     li a0, 0
     bge s0, zero, good
     li a0, 1
    good: ecall
    """
    outside = tmp_path / "outside"
    outside.write_text("there\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    for name, readable in ((str(outside), True), ("/proc/sys/kernel/pid_max", True), ("/etc/passwd", True)):
        path = inside / "reads"
        path.write_bytes(program(text + f'name: .ascii "{name}\\0"\n.align 8\nbuffer: .zero 64\n'))
        path.chmod(0o755)
        done = run(inside, "--trust", path)
        assert (done.returncode == 0) is readable, (name, done.stderr)
        assert Path(name).read_text().startswith(done.stdout)
        assert done.stdout
        done = run(inside, path)
        assert done.returncode == (0 if name.startswith("/proc") else 1)


def test_trust_with_a_root_is_chroot(tmp_path: Path) -> None:
    """What is in the root, and what the user may do there, devices too; nothing outside."""
    text = """
    _start: li a0, -100
     la a1, name
     li a2, 0x21b6
     li a3, 0x103
     li a7, 33
     ecall
     mv s0, a0
     li a0, -100
     la a1, outside
     li a2, 0
     li a7, 56
     ecall
     mv a1, s0
     li t0, -2
     li a7, 93
     beq a0, t0, over
     li a1, 99
    over: sub a0, zero, a1
     ecall
    """
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    path = root / "makes"
    names = f'name: .ascii "/null\\0"\noutside: .ascii "{tmp_path}/other\\0"\n'
    path.write_bytes(program(text + names))
    path.chmod(0o755)
    (tmp_path / "other").write_text("outside")
    try:
        os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
        may = 0
    except PermissionError:
        may = errno.EPERM
    assert run(tmp_path, "--root", root, "/makes").returncode == errno.EPERM
    done = run(tmp_path, "--trust", "--json", "--root", root, "/makes")
    assert done.returncode == may, done.stderr
    assert facts(done)["walls"] == []
    if not may:
        assert (root / "null").is_char_device()


def test_a_temporary_directory_goes_with_its_guest(tmp_path: Path, waiting: Path) -> None:
    assert run(tmp_path, waiting, TMPDIR=str(tmp_path)).returncode == 0
    (parent,) = tmp_path.glob("vm-[0-9]*")
    assert parent.stat().st_mode & 0o777 == 0o700
    assert list(parent.iterdir()) == []
    # One that was somebody else's, or that others may look into, is not used.
    parent.chmod(0o755)
    assert run(tmp_path, waiting, TMPDIR=str(tmp_path)).returncode == 0
    assert list(parent.iterdir()) == []
    shutil.rmtree(parent)


def test_python_m_loads_nothing_that_a_guest_left(tmp_path: Path, waiting: Path) -> None:
    for name in ("json", "subprocess", "resource", "signal", "shlex", "difflib"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')")
    done = subprocess.run(
        [sys.executable, "-m", "vm_cli", "run", "--json", "--engine", "interp", str(waiting)],
        capture_output=True, env=environ(tmp_path), cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "loaded").exists()
