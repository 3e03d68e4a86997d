"""``run(sandbox=...)``: a guest in a process of its own, as the caller sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from vm_core.errors import LoadError, UsageError
from vm_core.linux.confine import walls
from vm_core.linux.paths import Bind
from vm_core.loader import ProgramNotFound
from vm_core.places import import_path
from vm_core.runner import DEVNULL, GuestFailed, run
from vm_core.testing.guests import program

CAT = """
_start: li a0, 0
 la a1, buffer
 li a2, 256
 li a7, 63
 ecall
 mv a2, a0
 li a0, 1
 la a1, buffer
 li a7, 64
 ecall
 li a0, 2
 la a1, note
 li a2, 4
 ecall
 li a0, 7
 li a7, 93
 ecall
note: .ascii "note"
.align 8
buffer: .zero 256
"""
LOOP = "_start: j _start"
OPENS = """
_start: li a0, -100
 la a1, name
 li a2, 0
 li a7, 56
 ecall
 slti a0, a0, 0
 li a7, 93
 ecall
name: .ascii "{}\\0"
"""
FAST = {"engine": "reference", "stdin": DEVNULL}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_the_result_is_that_of_a_guest_in_this_process(tmp_path):
    path = tmp_path / "cat"
    path.write_bytes(program(CAT))
    path.chmod(0o755)
    options = {
        "input": "some text",
        "capture_output": True,
        "text": True,
        "engine": "reference",
        "env": {"A": "\udcff"},
    }
    here = run([str(path), b"\xff"], **options)
    apart = run([str(path), b"\xff"], sandbox="auto", **options)
    have = {wall.name for wall in walls() if wall.have}
    assert set(apart.walls) == have & {"no-new-privs", "mdwe", "landlock", "seccomp"}
    assert (apart.stdout, apart.stderr, apart.returncode) == ("some text", "note", 7)
    for name in (
        "args",
        "returncode",
        "exit_code",
        "reason",
        "instructions",
        "system_calls",
        "stdout",
        "stderr",
    ):
        assert getattr(apart, name) == getattr(here, name), name
    assert apart.stats.retired == here.stats.retired
    with pytest.raises(GuestFailed):
        run([str(path)], sandbox="auto", check=True, stdout=DEVNULL, stderr=DEVNULL, **FAST)


def test_the_caller_stays_as_it_was(tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    result = run(["x"], program=program(CAT), sandbox="auto", capture_output=True, **FAST)
    assert result.returncode == 7
    assert sorted(os.listdir("/proc/self/fd")) == before
    (tmp_path / "made").write_text("still allowed")
    subprocess.run(["true"], check=True)


@pytest.mark.parametrize("sandbox", ["off", "auto", "strict"])
def test_what_is_shown_is_the_same(tmp_path, sandbox):
    if sandbox == "strict" and not all(wall.have for wall in walls() if wall.needed):
        pytest.skip("this host does not have all walls")
    (tmp_path / "shown").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "shown" / "a:b").write_text("x")
    for name, status in ((f"{tmp_path}/shown/a:b", 1), ("/there/a:b", 0), ("/etc/passwd", 1)):
        result = run(
            ["x"], program=program(OPENS.format(name)), cwd=tmp_path / "inside", sandbox=sandbox,
            binds=(Bind(str(tmp_path / "shown"), "/there", writable=False),), **FAST,
        )  # fmt: skip
        assert result.returncode == status, name


def test_limits_and_errors_come_back(tmp_path):
    result = run(["x"], program=program(LOOP), sandbox="auto", fuel=1000, **FAST)
    assert (result.reason, result.returncode, result.instructions) == ("fuel", 123, 1000)
    result = run(["x"], program=program(LOOP), sandbox="auto", timeout=0.2, **FAST)
    assert result.reason == "timeout"
    with pytest.raises(ProgramNotFound, match="no such file"):
        run([str(tmp_path / "absent")], sandbox="auto", **FAST)
    with pytest.raises(LoadError):
        run(["x"], program=b"\x7fELF", sandbox="auto", **FAST)
    result = run(["x"], program=program("ebreak"), sandbox="auto", **FAST)
    assert (result.reason, result.returncode) == ("signal", -5)


def test_what_belongs_to_the_caller_is_refused():
    for options in (
        {"strace": print}, {"syscall_hook": print}, {"fault_hook": print}, {"engine": lambda _isa, _memory: None},
        {"host_signals": (10,)}, {"prepared": print},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            run(["x"], program=program("ebreak"), sandbox="auto", **options)
    with pytest.raises(UsageError, match="'auto', 'strict' or 'off'"):
        run(["x"], program=program("ebreak"), sandbox="some")


def test_the_guests_process_does_not_outlive_its_caller(tmp_path):
    script = f"""
from vm_core.runner import run, DEVNULL
from vm_core.testing.guests import program
run(["x"], program=program({LOOP!r}), sandbox="auto", engine="reference", stdin=DEVNULL, stdout=1)
"""
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    timer = threading.Timer(1.5, caller.kill)
    timer.start()
    with caller:
        assert caller.stdout is not None
        begin = time.monotonic()
        assert caller.stdout.read() == b""  # the guest had the other end
    assert time.monotonic() - begin < 10
    timer.join()


def test_modules_in_the_current_directory_are_not_looked_at(tmp_path, monkeypatch):
    """A guest of an earlier run may have left them; vm's own processes load what is vm's."""
    for name in ("json", "subprocess", "struct", "ctypes", "signal", "vm_core"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert (
        run(["x"], program=program(CAT), sandbox="auto", stdout=DEVNULL, stderr=DEVNULL, **FAST).returncode
        == 7
    )
    assert not (tmp_path / "loaded").exists()
    assert "" not in import_path()
    assert str(tmp_path) not in import_path()
