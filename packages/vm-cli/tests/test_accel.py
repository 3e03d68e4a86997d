"""``vm accel`` and ``vm setup``, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vm_accel.kvm.hypervisor import Kvm
from vm_accel.testing.simulators import build, lacking
from vm_core.linux import landlock, seccomp

simulated = pytest.mark.skipif(bool(lacking("whpx")), reason=lacking("whpx"))
elsewhere = pytest.mark.skipif(sys.platform != "linux", reason="about what Linux has not")


def vm(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("VM_", "FAKE_"))}
    return subprocess.run(
        [sys.executable, "-m", "vm_cli", *words],
        capture_output=True,
        text=True,
        env={**environ, "VM_CONFIG": "", "NO_COLOR": "1", **variables},
        timeout=120,
        check=False,
    )


@pytest.mark.kvm
@simulated
def test_the_selftest_records(tmp_path: Path) -> None:
    library, path = build("whpx", tmp_path), tmp_path / "record.json"
    done = vm("accel", "selftest", "--accel", "whpx", "--record", str(path), VM_WHPX_LIBRARY=str(library))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whpx (x86_64) on a simulator of it: 17 passed" in done.stdout
    record = json.loads(path.read_text())
    assert record["provenance"] == "simulator"
    assert any(check["contexts"] for check in record["checks"])


@elsewhere
def test_vms_own_engines_are_tried_when_they_are_named() -> None:
    done = vm("accel", "selftest", "--accel", "none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "none (x86_64) on vm's own engines: 16 passed, 1 skipped" in done.stdout
        or os.uname().machine != "x86_64"
    )


@pytest.mark.kvm
@simulated
def test_a_failure_is_told_and_counted(tmp_path: Path) -> None:
    library = build("whpx", tmp_path)
    done = vm(
        *("accel", "selftest", "--accel", "whpx", "--json"),
        VM_WHPX_LIBRARY=str(library),
        FAKE_WHPX_FAIL="WHvQueryGpaRangeDirtyBitmap",
    )
    assert done.returncode == 1
    results = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert results["log of written pages"]["result"] == "failed"
    assert "WHvQueryGpaRangeDirtyBitmap" in results["log of written pages"]["message"]
    assert results["halt"]["result"] == "passed"


@pytest.mark.kvm
@simulated
def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    library = build("whpx", tmp_path)
    done = vm(
        *("accel", "selftest", "--accel", "whpx", "--record", str(tmp_path / "no/where")),
        VM_WHPX_LIBRARY=str(library),
    )
    assert done.returncode == 125
    assert done.stderr.startswith("vm: error[VM300]: ")


WINDOWS = """
import asyncio, click, click.termui, importlib.metadata, platform, rich, shutil, subprocess, tempfile
import cffi, ctypes, mmap, os, signal, sys

platform.uname()
UNIX = {"fcntl", "resource", "termios", "pwd", "grp", "pty", "tty", "syslog"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in UNIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in UNIX:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
real = ctypes.CDLL.__init__

def load(self, name, *rest, **more):
    if name is None:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return real(self, name, *rest, **more)

ctypes.CDLL.__init__ = load
for module, starts in (
    (signal, ("SIGHUP", "SIGQUIT", "SIGKILL", "SIGUSR", "SIGPIPE", "SIGCHLD", "SIGRT", "pthread_", "SIG_BLOCK", "SIG_UN")),
    (mmap, ("MAP_", "PROT_", "MADV_")),
    (os, ("fork", "memfd", "MFD_", "getuid", "geteuid", "sched_", "uname", "O_CLOEXEC", "O_DIRECTORY", "O_PATH", "pread")),
):
    for name in dir(module):
        if name.startswith(starts):
            delattr(module, name)
sys.platform = "win32"
from vm_cli.main import main
main(sys.argv[1:])
"""
"""Runs ``vm`` without what a Python on Windows has not, as far as that can be taken away here."""


@pytest.mark.kvm
@simulated
def test_nothing_of_unix_is_needed(tmp_path: Path) -> None:
    library = build("whpx", tmp_path)
    environ = {**os.environ, "VM_WHPX_LIBRARY": str(library), "VM_CONFIG": "", "VM_ACCEL": ""}
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, "accel", "selftest", "--accel", "whpx"],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "17 passed" in done.stdout
    doctor = subprocess.run(
        [sys.executable, "-c", WINDOWS, "doctor", "--json"],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
        check=False,
    )
    findings = {found["check"]: found for found in json.loads(doctor.stdout)}
    assert findings["accelerators"]["message"] == "whpx"
    assert findings["kvm"]["message"] == findings["seccomp"]["message"] == "only on Linux"


@elsewhere
@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("accel", "selftest", "--accel", "xen"), 2, "VM001"),
        (("accel", "selftest", "--accel", "whpx"), 125, "VM310"),
        (("accel", "record-layout", "/dev/null"), 125, "VM300"),
        (("setup", "macos"), 2, "VM001"),
    ],
)
def test_what_is_not_here(words: tuple[str, ...], status: int, code: str) -> None:
    done = vm(*words)
    assert done.returncode == status
    assert done.stderr.startswith(f"vm: error[{code}]: ")
    assert "Traceback" not in done.stderr


def test_the_doctor_knows_a_library_in_a_platforms_place() -> None:
    done = vm("doctor", "--json", VM_WHPX_LIBRARY="/nowhere/WinHvPlatform.dll")
    findings = {found["check"]: found for found in json.loads(done.stdout)}
    assert "whpx: WinHvPlatform.dll cannot be loaded" in findings["accelerators"]["message"]
    assert findings["accelerators"]["fix"] == "VM_WHPX_LIBRARY must name a library"
    assert findings["variables"]["level"] == "ok"


@pytest.mark.kvm
@pytest.mark.parametrize("accel", ["kvm", "auto"])
def test_a_program_of_the_host_runs_on_its_processor_behind_all_walls(accel: str) -> None:
    found = Kvm.probe()
    if not found.available or not Path("/bin/sh").exists():
        pytest.skip(f"KVM cannot be used here: {found.reason}")
    strict = "strict" if landlock.abi() >= 2 and seccomp.available() else "auto"
    done = vm(
        *("run", "--accel", accel, "--sandbox", strict, "-L", "/", "--json", "/bin/sh", "-c"),
        "echo $((6*7)); (echo child); /bin/sh -c 'echo executed $0'; exit 5",
    )
    assert done.stdout == "42\nchild\nexecuted /bin/sh\n", done.stderr
    assert done.returncode == 5
    assert json.loads(done.stderr.splitlines()[-1])["engine"] == "kvm"


@pytest.mark.kvm
def test_what_counts_instructions_is_not_for_the_processor() -> None:
    if not Kvm.probe().available or not Path("/bin/sh").exists():
        pytest.skip("KVM cannot be used here")
    done = vm("run", "--accel", "kvm", "--fuel", "1000", "-L", "/", "/bin/sh", "-c", "true")
    assert done.returncode == 2
    assert "fuel counts instructions" in done.stderr
    assert "hint: --timeout limits its time" in done.stderr
    done = vm("run", "--accel", "kvm", "--trace", "-L", "/", "/bin/sh", "-c", "true")
    assert (done.returncode, "hint: --strace shows its system calls" in done.stderr) == (2, True)
    done = vm("run", "--accel", "kvm", "-g", "0", "-L", "/", "/bin/sh", "-c", "true")
    assert (done.returncode, "hint: gdb without vm debugs it" in done.stderr) == (2, True)
    done = vm("run", "--accel", "kvm", "--engine", "interp", "-L", "/", "/bin/sh", "-c", "true")
    assert (done.returncode, "exclude each other" in done.stderr) == (2, True)
