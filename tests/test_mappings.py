"""Mapped files and shared memory: the same program on this machine and as a guest must see the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Guests, Vm

pytestmark = pytest.mark.needs_cc
CROSS = "/usr/riscv64-linux-gnu"


@pytest.mark.parametrize("engine", ["jit", "baseline", "interp"])
@pytest.mark.parametrize("program", ["mappings", "shared_locks"])
def test_same_as_native(program: str, engine: str, guests: Guests, vm: Vm, tmp_path: Path) -> None:
    want = subprocess.run(
        [guests.path(program, "native")], capture_output=True, cwd=tmp_path, timeout=60, check=True
    )
    got = vm.run([guests.path(program, "O2")], engine=engine, cwd=tmp_path)
    assert got.stdout.decode().splitlines() == want.stdout.decode().splitlines()
    assert (got.status, got.stderr) == (0, b"")
    assert not list(tmp_path.iterdir())


CUT = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile char *file;
int main(void) {
    int fd = open("f", O_RDWR);
    file = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < 100000; i++) file[i & 8191]++;
    puts("ready");
    fflush(stdout);
    getchar();
    %s;
    puts("not reached");
    return 3;
}
"""


@pytest.mark.parametrize("engine", ["jit", "baseline", "interp"])
@pytest.mark.parametrize(
    "what", ["return file[5000]", "file[5000] = 1", "rename((char *)file + 4090, (char *)file)"]
)
def test_a_file_that_another_process_truncates(engine: str, what: str, tmp_path: Path) -> None:
    """SIGBUS for the guest's own access, and a system call is given no such memory; neither harms vm."""
    (tmp_path / "f").write_bytes(b"x" * 8192)
    (tmp_path / "cut.c").write_text(CUT % what)
    subprocess.run(
        ["riscv64-linux-gnu-gcc", "-O1", "-w", "-static", "cut.c", "-o", "cut"], cwd=tmp_path, check=True
    )
    words = [sys.executable, "-m", "vm_cli", "run", "--engine", engine, "./cut"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "ready\n"
        os.truncate(tmp_path / "f", 100)
        out, err = guest.communicate("go\n", timeout=60)
    if what.startswith("rename"):
        assert (guest.returncode, out, err) == (3, "not reached\n", "")
    else:
        assert (guest.returncode, out) == (128 + 7, "")
        assert "killed by SIGBUS" in err
        assert "main" in err


def test_a_mapping_shows_its_file(tmp_path: Path) -> None:
    """/proc/self/maps has device, inode, offset and path of a library, as the host has them of the file."""
    source = tmp_path / "maps.c"
    source.write_text("""
        #include <stdio.h>
        int main(void) {
            char line[500];
            FILE *maps = fopen("/proc/self/maps", "r");
            while (fgets(line, sizeof line, maps)) fputs(line, stdout);
        }
    """)
    subprocess.run(["riscv64-linux-gnu-gcc", str(source), "-o", str(tmp_path / "maps")], check=True)
    words = [sys.executable, "-m", "vm_cli", "run", "-L", CROSS, "./maps"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    for name, path in (("libc.so.6", f"{CROSS}/lib/libc.so.6"), ("maps", str(tmp_path / "maps"))):
        info = os.stat(path)
        mine = [line for line in lines if line[-1].endswith("/" + name)]
        assert len({line[1] for line in mine} & {"r-xp", "rw-p"}) == 2, done.stdout
        for line in mine:
            assert line[3] == f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}"
            assert line[4] == str(info.st_ino)
        starts = [int(line[2], 16) for line in mine]
        assert starts == sorted(starts)
        assert starts[0] == 0
