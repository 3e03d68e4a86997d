"""Files that programs under KVM have mapped: what they share, and what becomes of the pages of one that is truncated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vm_accel.kvm.hypervisor import Kvm

REPOSITORY = Path(__file__).parents[3]
needs_kvm = pytest.mark.skipif(
    not Kvm.probe().available or shutil.which("cc") is None,
    reason=f"needs KVM and a compiler: {Kvm.probe().reason}",
)

SEGMENT = r"""
#include <stdio.h>
#include <sys/shm.h>
int main(void) {
    int id = shmget(IPC_PRIVATE, 65536, 0600 | IPC_CREAT);
    volatile char *write = shmat(id, 0, 0), *read = shmat(id, 0, SHM_RDONLY);
    write[4097] = 9;
    printf("%d", read[4097]);
    printf(" %d", shmdt((void *)read));
    printf(" %d %d\n", write[4097], shmctl(id, IPC_RMID, 0));
    return 0;
}
"""

CUT = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile char *file;
int main(void) {
    int fd = open("f", O_RDWR);
    file = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < 8192; i++) file[i]++;
    puts("ready");
    fflush(stdout);
    getchar();
    %s;
    puts("not reached");
    return 3;
}
"""


def _compiled(text: str, directory: Path) -> Path:
    (directory / "program.c").write_text(text)
    subprocess.run(["cc", "-O1", "-w", "program.c", "-o", "program"], cwd=directory, check=True)
    return directory / "program"


def _vm(*words: str) -> list[str]:
    return [sys.executable, "-m", "vm_cli", "run", "--accel", "kvm", *words]


def _run(text: str, directory: Path) -> tuple[int, bytes, bytes]:
    """The status of a program, and what it wrote."""
    words = _vm("--trust", str(_compiled(text, directory)))
    found = subprocess.run(words, capture_output=True, check=False, timeout=60)
    return found.returncode, found.stdout, found.stderr


@pytest.mark.kvm
@needs_kvm
@pytest.mark.parametrize("name", ["mappings", "shared_locks"])
def test_mappings_show_their_files_and_processes_share_them(name: str, tmp_path: Path) -> None:
    source = REPOSITORY / "guests" / f"{name}.c"
    if not source.exists():
        pytest.skip("needs the repository's guests")
    program, room = tmp_path / name, tmp_path / "room"
    room.mkdir()
    subprocess.run(["cc", "-O2", "-w", "-pthread", source, "-o", program], check=True)
    native = subprocess.run([program], cwd=room, capture_output=True, check=True, timeout=60)
    words = _vm("--trust", str(program))
    found = subprocess.run(words, cwd=room, capture_output=True, check=False, timeout=60)
    assert found.stdout.decode().splitlines() == native.stdout.decode().splitlines()
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.kvm
@needs_kvm
def test_a_segment_that_is_attached_for_reading_goes(tmp_path: Path) -> None:
    assert _run(SEGMENT, tmp_path) == (0, b"9 0 9 0\n", b"")


@pytest.mark.kvm
@needs_kvm
@pytest.mark.parametrize(
    "what", ["return file[5000]", "file[5000] = 1", "rename((char *)file + 4090, (char *)file)"]
)
def test_a_file_that_another_process_truncates(what: str, tmp_path: Path) -> None:
    """SIGBUS for the program's own access; a system call finds zeros there, and vm goes on."""
    (tmp_path / "f").write_bytes(b"x" * 8192)
    _compiled(CUT % what, tmp_path)
    with subprocess.Popen(
        _vm("--trust", "./program"),
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as guest:  # fmt: skip
        assert guest.stdout is not None
        assert guest.stdout.readline() == "ready\n"
        os.truncate(tmp_path / "f", 100)
        out, err = guest.communicate("go\n", timeout=60)
    if what.startswith("rename"):
        assert (guest.returncode, out, err) == (3, "not reached\n", "")
    else:
        assert (guest.returncode, out) == (128 + 7, "")
        assert "killed by SIGBUS" in err


@pytest.mark.kvm
@needs_kvm
def test_processes_of_a_database_see_what_the_others_write(tmp_path: Path) -> None:
    """A write-ahead log's index is a shared mapping."""
    python = "/usr/bin/python3"
    if not shutil.which("sqlite3") or not Path(python).exists():
        pytest.skip("needs sqlite3 and python3 of the host")
    code = (
        "import sqlite3, subprocess; c = sqlite3.connect('x.db'); c.execute('pragma journal_mode=wal');"
        "c.execute('create table t(a)'); c.execute('insert into t values(1)'); c.commit();"
        "subprocess.run(['sqlite3', 'x.db', 'insert into t values(2)'], check=True);"
        "print(c.execute('select sum(a) from t').fetchall())"
    )
    words = _vm("--trust", python, "-c", code)
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, b"[(3,)]\n"), found.stderr


KEYS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
int main(void) {
    void *page = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int key = pkey_alloc(0, 0);
    printf("%d %d", key, errno);
    printf(" %d", pkey_mprotect(page, 4096, 1, -1));
    int wrong = pkey_mprotect(page, 4096, 1, 5);
    printf(" %d %d\n", wrong, errno);
    return 0;
}
"""


@pytest.mark.kvm
@needs_kvm
def test_a_program_that_asks_finds_no_protection_keys(tmp_path: Path) -> None:
    """Without a word on standard error: Node.js asks at each start."""
    assert _run(KEYS, tmp_path) == (0, b"-1 22 0 -1 22\n", b"")
