"""The vDSO: its code, its symbols, and that programs find them; and what the auxiliary vector says."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess

import pytest

import vm_core
from vm_core import isa as isas
from vm_core.linux.vdso import vdso_of
from vm_core.loader import symbols_of
from vm_core.memory import PAGE
from vm_core.testing.guests import Caller, program

ISAS = ("riscv64", "aarch64", "x86_64")
VERSIONS = {"riscv64": "LINUX_4.15", "aarch64": "LINUX_2.6.39", "x86_64": "LINUX_2.6"}


def test_each_function_makes_its_call_and_returns():
    isa, vdso = isas.get("riscv64"), vdso_of("riscv64")
    numbers = {}
    for name, (at, size) in vdso.functions.items():
        lines = [isa.decode(vdso.data[at + i : at + i + 4], at + i).text() for i in range(0, size, 4)]
        assert lines[1:] == ["ecall", "jalr zero, 0(ra)"]
        numbers[name] = int(lines[0].removeprefix("addi a7, zero, "))
    from vm_core.linux.table import ROWS

    by_number = {row.generic: row.name for row in ROWS}
    for name, number in numbers.items():
        assert by_number[number] == name.removeprefix("__vdso_").replace("flush", "riscv_flush")


@pytest.mark.parametrize("isa", ISAS)
def test_the_symbols_are_in_the_object(isa):
    vdso = vdso_of(isa)
    assert len(vdso.data) % PAGE == 0
    assert symbols_of(vdso.data, 0x7000).by_name == {
        name: 0x7000 + at for name, (at, _) in vdso.functions.items()
    }
    assert vdso_of(isa) is vdso


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.needs_cc
def test_binutils_reads_the_object(isa, tmp_path):
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed (Debian: apt install binutils)")
    path = tmp_path / "vdso.so"
    path.write_bytes(vdso_of(isa).data)
    done = subprocess.run([readelf, "-aW", str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for name in vdso_of(isa).functions:
        assert f" {name}@@{VERSIONS[isa]}" in done.stdout
    assert "Library soname: [linux-vdso.so.1]" in done.stdout
    assert "Cnt: 1  Name: linux-vdso.so.1" in done.stdout


def test_the_guest_has_it():
    with Caller() as guest:
        process = guest.process
        told = dict(struct.iter_unpack("<QQ", process.auxv))
        assert told[33] == process.vdso
        assert guest.memory.read(told[33], 4) == b"\x7fELF"
        assert guest.memory.region_at(told[33]).name == "[vdso]"
        assert guest.memory.read(process.trampoline, 8) == struct.pack("<II", 0x08B00893, 0x73)
        assert told[51] == 1088  # of struct rt_sigframe without vectors
        assert (told[17], told[23], told[6]) == (100, 0, PAGE)
        assert told[16] == sum(1 << "ABCDEFGHIJKLM".index(letter) for letter in "IMAFDC")
        assert 27 not in told  # no rseq


@pytest.mark.parametrize("engine", ["reference", "interp"])
def test_a_handler_returns_by_it(engine):
    if engine == "interp":
        pytest.importorskip("vm_jit")
    source = """
    _start:
        li a0, 10
        la a1, action
        li a2, 0
        li a3, 8
        li a7, 134          # rt_sigaction
        ecall
        li a7, 172          # getpid
        ecall
        li a1, 10
        li a7, 129          # kill
        ecall
        la a1, seen
        ld a0, 0(a1)
        li a7, 93
        ecall
    handler:
        la a1, seen
        li a2, 5
        sd a2, 0(a1)
        ret
    .align 8
    action: .dword handler
        .dword 0
        .dword 0
    seen: .dword 1
    """
    assert vm_core.run(["x"], program=program(source), engine=engine, timeout=20).returncode == 5


# -- riscv_hwprobe ------------------------------------------------------------------------------------------------

AT = 0x20000
CPUS = 0x20800


@pytest.fixture
def guest(tmp_path):
    from vm_core.memory import Prot

    with Caller(cwd=str(tmp_path)) as made:
        made.memory.map(AT, PAGE, Prot.RW)
        yield made


def ask(guest, pairs, *, size=0, cpus=0, flags=0):
    guest.memory.write(AT, b"".join(struct.pack("<qQ", *pair) for pair in pairs))
    result = guest.call("riscv_hwprobe", AT, len(pairs), size, cpus, flags)
    return result, [struct.unpack("<qQ", guest.memory.read(AT + 16 * i, 16)) for i in range(len(pairs))]


def test_hwprobe_tells_what_the_isa_has(guest):
    result, pairs = ask(guest, [(key, 77) for key in (3, 4, 5, 6, 7, 8, 9, 10, 99)])
    assert result == 0
    has = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 43 | 1 << 45
    assert pairs == [
        (3, 1),
        (4, has),
        (5, 3),
        (6, 0),
        (7, guest.memory.size - 1),
        (8, 10**9),
        (9, 3),
        (10, 4),
        (-1, 0),
    ]
    assert ask(guest, [(3, 0)], flags=2)[0] == -errno.EINVAL
    assert guest.call("riscv_hwprobe", 16, 1, 0, 0, 0) == -errno.EFAULT


def test_hwprobe_of_some_processors(guest):
    guest.process.cpus = 4
    guest.memory.write(CPUS, struct.pack("<Q", 0b0101))
    assert ask(guest, [(3, 0)], size=8, cpus=CPUS) == (0, [(3, 1)])
    guest.memory.write(CPUS, struct.pack("<Q", 0b1_0000))
    assert ask(guest, [(3, 0)], size=8, cpus=CPUS)[0] == -errno.EINVAL


@pytest.mark.parametrize(
    ("pairs", "before", "after"),
    [
        ([(3, 1), (4, 0b11)], 0b0110, 0b0110),
        ([(3, 1)], 0, 0b1111),
        ([(4, 1 << 2)], 0b0110, 0),  # vectors
        ([(9, 2)], 0b0110, 0),
        ([(99, 0)], 0b0110, 0),
    ],
)
def test_hwprobe_finds_processors(guest, pairs, before, after):
    guest.process.cpus = 4
    guest.memory.write(CPUS, struct.pack("<Q", before))
    assert ask(guest, pairs, size=8, cpus=CPUS, flags=1)[0] == 0
    assert guest.memory.load(CPUS, 8) == after
    assert ask(guest, pairs, flags=1)[0] == -errno.EINVAL


# -- a real C library ---------------------------------------------------------------------------------------------

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
static int each(struct dl_phdr_info *info, size_t size, void *data) {
    if (strstr(info->dlpi_name, "vdso"))
        printf("%s %d\n", info->dlpi_name, info->dlpi_addr == getauxval(AT_SYSINFO_EHDR));
    return 0;
}
int main(void) {
    dl_iterate_phdr(each, 0);
    void *object = dlopen("linux-vdso.so.1", RTLD_NOLOAD | RTLD_NOW);
    int (*clock)(int, struct timespec *) = dlvsym(object, "__vdso_clock_gettime", "LINUX_4.15");
    int (*probe)(long *, long, long, void *, int) = dlsym(object, "__vdso_riscv_hwprobe");
    struct timespec a, b;
    long pair[2] = {3, 0};
    printf("%d %d\n", clock(CLOCK_REALTIME, &a), clock_gettime(CLOCK_REALTIME, &b));
    printf("%d\n", a.tv_sec > 1000000 && b.tv_sec - a.tv_sec <= 1 && b.tv_sec >= a.tv_sec);
    printf("%d %ld\n", probe(pair, 1, 0, 0, 0), pair[1]);
    return 0;
}
"""


@pytest.mark.needs_cc
def test_the_c_library_finds_it(tmp_path, cross_compiler):
    (tmp_path / "source.c").write_text(SOURCE)
    subprocess.run([cross_compiler, "-w", "source.c", "-o", "prog"], cwd=tmp_path, check=True)
    got = vm_core.run(
        ["./prog"], program=tmp_path / "prog", sysroot="/usr/riscv64-linux-gnu", cwd=tmp_path, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout.splitlines() == ["linux-vdso.so.1 1", "0 0", "1", "0 1"]
