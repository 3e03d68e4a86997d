"""What system calls return: each program below tests/abi runs on this machine's kernel and under vm, with the same output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent / "abi"
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.c"))
CROSS = "riscv64-linux-gnu-gcc"
FLAGS = ("-std=gnu17", "-O1", "-static", "-pthread", "-w")
ENV = {"HOME": "/"}


def compiled(compiler: str, program: str, tmp_path: Path) -> Path:
    out = tmp_path / f"{program}.{compiler}"
    command = [compiler, *FLAGS, "-o", str(out), str(SOURCES / f"{program}.c")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr
    return out


def printed(command: list[str | Path], where: Path) -> tuple[int, str, str]:
    where.mkdir()
    done = subprocess.run(
        command, capture_output=True, cwd=where, env={**os.environ, **ENV}, stdin=subprocess.DEVNULL, timeout=120, check=False
    )  # fmt: skip
    assert not list(where.iterdir()), "files are left behind"
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def compilers() -> tuple[str, str]:
    native = shutil.which("gcc") or shutil.which("cc")
    if native is None or shutil.which(CROSS) is None:
        pytest.skip(f"needs gcc and {CROSS}")
    return native.rpartition("/")[2], CROSS


def both(program: str, where: Path) -> dict[str, Path]:
    """A program below tests, for this machine and as a guest."""
    made = {}
    for name, compiler in zip(("native", "guest"), compilers(), strict=True):
        made[name] = where / name
        source = SOURCES.parent / f"{program}.c"
        subprocess.run([compiler, *FLAGS, "-o", made[name], source], check=True, timeout=120)
    return made


VM = [sys.executable, "-m", "vm_cli", "run"]
CASES = [(program, "--net" if program == "inet" else "") for program in PROGRAMS]
CASES += [(program, "--trust") for program in ("sysv", "mqueue")]  # which then are the host's own


@pytest.mark.needs_cc
@pytest.mark.parametrize(("program", "option"), CASES)
def test_as_on_this_kernel(program: str, option: str, tmp_path: Path) -> None:
    native, cross = compilers()
    want_status, want, _ = printed([compiled(native, program, tmp_path)], tmp_path / "native")
    guest = compiled(cross, program, tmp_path)
    status, got, said = printed([*VM, *option.split(), "--", guest], tmp_path / "vm")
    assert not said
    assert got.splitlines() == want.splitlines()
    assert status == want_status == 0


@pytest.mark.needs_cc
def test_a_program_knows_how_it_was_called(tmp_path: Path) -> None:
    made = {"native": [], "guest": [*VM, "--"]}
    said = []
    for (name, command), compiler in zip(made.items(), compilers(), strict=True):
        where = tmp_path / name
        where.mkdir()
        compiled(compiler, "execfn", where).rename(where / "program")
        done = subprocess.run(
            [*command, "./program", "told"],
            cwd=where,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    assert said[0] == said[1] == "  ./program, arguments ./program told, comm program\n"


@pytest.mark.needs_cc
@pytest.mark.parametrize("first", ["native", "guest"])
def test_a_trusted_guest_shares_the_hosts_ipc(first: str, tmp_path: Path) -> None:
    """A native program and a guest exchange memory, semaphores and messages; the host sees them; one that is confined does not."""
    made = both("exchange", tmp_path)
    commands = {"native": [made["native"]], "guest": [*VM, "--trust", "--", made["guest"]]}
    second = "guest" if first == "native" else "native"
    key = 0x564D0000 | os.getpid() & 0xFFFF
    with subprocess.Popen([*commands[first], "first", hex(key)], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
        for kind in ("msg", "sem", "shm"):
            assert str(key) in Path(f"/proc/sysvipc/{kind}").read_text().split()
        confined = subprocess.run(
            [*VM, "--", made["guest"], "second", hex(key)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (confined.returncode, confined.stdout) == (3, "No such file or directory\n")
        two = subprocess.run(
            [*commands[second], "second", hex(key)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (two.returncode, two.stdout, two.stderr) == (0, "from the first\n1 one\n", "")
        assert one.stdout.read() == "from the second\n2 two\nposix 7\n"
    assert one.returncode == 0
    assert str(key) not in Path("/proc/sysvipc/msg").read_text().split()


@pytest.mark.needs_cc
@pytest.mark.parametrize("side", ["reads", "writes"])
def test_a_fifo_that_a_guest_opens_is_opened_once(side: str, tmp_path: Path) -> None:
    """Or the native program at its other end would write what nobody reads any more."""
    made = both("fifos", tmp_path)
    for name in ("one", "two"):
        os.mkfifo(tmp_path / name)
    other = "writes" if side == "reads" else "reads"
    with subprocess.Popen([made["native"], other], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as native:
        try:
            guest = subprocess.run(
                [*VM, "--", made["guest"], side],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (guest.returncode, guest.stdout, guest.stderr) == (0, "0\n", "")
            assert native.communicate(timeout=60)[0] == "0\n"
        finally:
            native.kill()
