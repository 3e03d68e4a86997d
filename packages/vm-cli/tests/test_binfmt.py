"""``vm binfmt``: on made-up directories, and for real where a user namespace has a binfmt_misc of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vm_cli import binfmt
from vm_cli.binfmt import MACHINES, install, status, uninstall
from vm_core.errors import HostError, UsageError

RISCV = MACHINES["riscv64"]
# As in qemu's scripts/qemu-binfmt-conf.sh.
QEMU_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00"
QEMU_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


def bytes_of(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")


def entry(kernel: Path, name: str, *, magic: bytes = RISCV.magic, mask: bytes = RISCV.mask) -> None:
    """A file as the kernel shows an entry (fs/binfmt_misc.c, entry_status)."""
    kernel.mkdir(exist_ok=True)
    (kernel / "register").touch()
    (kernel / "status").write_text("enabled\n")
    text = f"enabled\ninterpreter /opt/{name}\nflags: P\noffset 0\nmagic {magic.hex()}\nmask {mask.hex()}\n"
    (kernel / name).write_text(text)


def test_magic_and_mask_are_those_that_everyone_uses() -> None:
    assert bytes_of(QEMU_MAGIC) == RISCV.magic
    assert bytes_of(QEMU_MASK) == RISCV.mask
    assert [machine.magic[18] for machine in MACHINES.values()] == [0xF3, 0xB7, 0x3E]


def test_the_line_for_the_kernel() -> None:
    line = RISCV.line("/opt/vm")
    name, kind, offset, magic, mask, interpreter, flags = line[1:].split(":")
    assert (name, kind, offset, interpreter, flags) == ("vm-riscv64", "M", "", "/opt/vm", "P")
    assert bytes_of(magic) == RISCV.magic
    assert bytes_of(mask) == RISCV.mask
    assert len(line) < 1920  # what the kernel takes


def test_who_else_takes_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = tmp_path / "kernel"
    entry(kernel, "qemu-riscv64")
    entry(kernel, "qemu-arm", magic=b"\x7fELF\x01\x01\x01".ljust(20, b"\0"))
    entry(kernel, "any-elf", magic=b"\x7fELF", mask=b"")
    (kernel / "jar").write_text("enabled\ninterpreter /opt/java\nflags: \nextension .jar\n")
    (kernel / "odd").write_text("enabled\noffset many\n")
    found = status(["riscv64"], kernel=kernel)
    (row,) = found["machines"]
    assert found["mounted"]
    assert found["enabled"]
    assert row["state"] == "not installed"
    assert sorted(other["name"] for other in row["others"]) == ["any-elf", "qemu-riscv64"]


@pytest.mark.parametrize(("mine", "theirs", "state"), [(2, 1, "installed"), (1, 2, "shadowed")])
def test_the_last_registered_one_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: int, theirs: int, state: str
) -> None:
    kernel, top = tmp_path / "kernel", tmp_path / "top"
    top.mkdir()
    install(["riscv64"], root=top)
    entry(kernel, "vm-riscv64")
    entry(kernel, "qemu-riscv64")
    times = {"vm-riscv64": mine, "qemu-riscv64": theirs}
    real = binfmt._read_entry

    def read(path: Path) -> binfmt.Entry | None:
        found = real(path)
        if found is None or found.name not in times:
            return found
        launcher = str(top / "usr/local/libexec/vm/vm-riscv64")
        from dataclasses import replace

        return replace(found, order=(times[found.name], 0), interpreter=launcher)

    monkeypatch.setattr(binfmt, "_read_entry", read)
    (row,) = status(["riscv64"], kernel=kernel)["machines"]
    assert row["problem"] == ""
    assert row["state"] == state
    assert binfmt.explain(row).startswith("qemu-riscv64" if state == "shadowed" else "also: qemu-riscv64")


def test_files_below_a_root(tmp_path: Path) -> None:
    rows, _ = install([], ["--stack", "16M", "-E", "A=it's"], root=tmp_path)
    (row,) = rows
    assert (row["isa"], row["state"]) == ("riscv64", "files only")
    assert row["options"] == ["--stack", "16M", "-E", "A=it's"]
    launcher = tmp_path / "usr/local/libexec/vm/vm-riscv64"
    assert launcher.stat().st_mode & 0o7777 == 0o755
    conf = (tmp_path / "etc/binfmt.d/vm-riscv64.conf").read_text().splitlines()
    assert conf[0].startswith("#")
    assert conf[1:] == [RISCV.line("/usr/local/libexec/vm/vm-riscv64")]
    gone, _ = uninstall([], root=tmp_path)
    assert len(gone) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert uninstall([], root=tmp_path)[0] == []


def test_the_launcher_runs_a_program(tmp_path: Path, greeting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install([], ["--engine", "reference"], root=tmp_path)
    launcher = tmp_path / "usr/local/libexec/vm/vm-riscv64"
    # As the kernel calls it with P: our name, the program's path, its argv. Its variables are not for our Python.
    done = subprocess.run(
        [launcher, greeting, "name", "x"], capture_output=True, check=False, env={"PYTHONHOME": "/nowhere"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
    alone = subprocess.run([launcher], capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "started by the kernel" in alone.stderr


def test_a_python_whose_path_cannot_stand_behind_a_shebang(
    tmp_path: Path, greeting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "with space"
    place.mkdir()
    (place / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    (row,) = install([], ["--engine", "reference"], root=tmp_path)[0]
    assert row["problem"] == ""
    launcher = tmp_path / "usr/local/libexec/vm/vm-riscv64"
    assert subprocess.run([launcher, greeting, "x"], capture_output=True, check=True).stdout == b"hello\n"
    (place / "python").unlink()
    (row,) = status(["riscv64"], root=tmp_path)["machines"]
    assert "which is not there any more" in row["problem"]


@pytest.mark.parametrize(
    ("isas", "options", "message"),
    [
        (["riscv65"], [], "there is no machine 'riscv65'"),
        (["x86_64"], [], "x86_64 is this host's own machine"),
        (["aarch64"], [], "vm does not run programs for aarch64 yet"),
        (["riscv64"], ["--nonsense"], "there is no option --nonsense"),
        (["riscv64"], ["other-program"], "not options of vm run"),
        (["riscv64"], ["--help"], "not options of vm run"),
    ],
)
def test_what_cannot_be_installed(tmp_path: Path, isas: list[str], options: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        install(isas, options, root=tmp_path, host="x86_64")
    assert not list(tmp_path.iterdir())


def test_only_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError) as caught:
        install(["riscv64"], ["-L", "/srv/a b"], kernel=tmp_path)
    assert caught.value.hint.endswith("-m vm_cli binfmt install riscv64 -- -L '/srv/a b'")
    with pytest.raises(HostError) as caught:
        uninstall([], kernel=tmp_path)
    assert caught.value.hint.endswith("-m vm_cli binfmt uninstall")


def test_a_kernel_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match="binfmt_misc is not mounted"):
        install(["riscv64"], kernel=tmp_path / "nothing")


_REAL = r"""
import subprocess, sys
from vm_cli import binfmt
binfmt._LAUNCHERS, binfmt._BOOT = sys.argv[1] + "/libexec", sys.argv[1] + "/binfmt.d"
rows, _ = binfmt.install(["riscv64"], ["--engine", "reference"])
assert rows[0]["state"] == "installed", rows
done = subprocess.run(["odd name", "x"], executable=sys.argv[2], capture_output=True)
assert (done.returncode, done.stdout) == (0, b"hello\n"), done
line = binfmt.MACHINES["riscv64"].line("/bin/false").replace("vm-riscv64", "other")
open("/proc/sys/fs/binfmt_misc/register", "w").write(line)
(row,) = binfmt.status(["riscv64"])["machines"]
assert (row["state"], row["runs"]) == ("shadowed", "other"), row
rows, remarks = binfmt.install(["riscv64"])
assert rows[0]["state"] == "installed", rows
assert any(remark.startswith("other would take") for remark in remarks), remarks
gone, remarks = binfmt.uninstall([])
assert len(gone) == 3 and remarks == ["programs for riscv64 go to other now"], (gone, remarks)
"""


def test_for_real(tmp_path: Path, greeting: Path) -> None:
    """In a user namespace, which has its own binfmt_misc since Linux 6.7: nothing of the host is touched."""
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = 'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && test -z "$(ls /proc/sys/fs/binfmt_misc | grep -v -e register -e status)"'
    try:
        possible = subprocess.run([*apart, "sh", "-c", probe], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if possible.returncode:
        pytest.skip(f"no binfmt_misc in a user namespace: {possible.stderr.strip()}")
    done = subprocess.run(
        [*apart, sys.executable, "-c", _REAL, str(tmp_path)[1:], str(greeting)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands(tmp_path: Path) -> None:
    def vm(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vm_cli", "binfmt", *words, "--root", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vm_cli",
            "binfmt",
            "install",
            "--root",
            str(tmp_path),
            "riscv64",
            "--",
            "--net",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "files only  --net" in done.stdout
    found = json.loads(vm("status", "--json").stdout)
    assert {row["isa"]: row["state"] for row in found["machines"]} == {
        "riscv64": "files only",
        "aarch64": "not installed",
        "x86_64": "not installed",
    }
    assert len(json.loads(vm("uninstall", "--json").stdout)["removed"]) == 2
    assert vm("uninstall").stdout == "nothing was installed\n"
