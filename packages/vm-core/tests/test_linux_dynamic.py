"""Dynamically linked programs: where the interpreter and the libraries come from, and what the interpreter is told."""

from __future__ import annotations

import os
import re
import struct
import subprocess

import pytest

import vm_core
from vm_core.errors import LoadError, UsageError
from vm_core.linux.paths import Namespace
from vm_core.testing.guests import elf, program

LOADER = "/lib/ld.so"
TEXT = 0x1000
"""File offset of the text of the files that testing.guests makes."""


def words(text):
    """The machine code of position-independent assembly text."""
    return program(text)[TEXT:]


def dynamic(text, *, kind=2, base=0x40000, interpreter=b"/lib/ld.so\0"):
    """A program with a PT_INTERP, that starts at ``base``."""
    data = bytearray(elf(words(text), base=base, entry=base, kind=kind))
    at = len(data)
    struct.pack_into("<H", data, 56, 2)
    struct.pack_into("<IIQQQQQQ", data, 64 + 56, 3, 4, at, 0, 0, len(interpreter), len(interpreter), 1)
    return bytes(data) + interpreter


EXIT_42 = """
    li a0, 42
    li a7, 93
    ecall
"""
LOADER_TEXT = """
    # Look the program's entry up in the auxiliary vector and go there.
    ld a0, 0(sp)
    addi a1, sp, 8
    slli a0, a0, 3
    add a1, a1, a0
    addi a1, a1, 8
skip:
    ld a2, 0(a1)
    addi a1, a1, 8
    bne a2, zero, skip
next:
    ld a2, 0(a1)
    ld a3, 8(a1)
    addi a1, a1, 16
    li a4, 9
    bne a2, a4, next
    jalr zero, 0(a3)
"""


@pytest.fixture
def sysroot(tmp_path):
    """A tree with a loader in it. The loader is position-independent."""
    root = tmp_path / "sysroot"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "ld.so").write_bytes(elf(words(LOADER_TEXT), kind=3, base=0x1000, entry=0x1000))
    return root


@pytest.fixture
def here(tmp_path):
    place = tmp_path / "here"
    place.mkdir()
    return place


def place(directory, name, data):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755)
    return path


def run(argv, sysroot, here, **options):
    return vm_core.run(
        argv, sysroot=sysroot, cwd=here, engine="reference", capture_output=True, timeout=20, **options
    )


@pytest.mark.parametrize(("kind", "base"), [(2, 0x40000), (3, 0x1000)], ids=["fixed", "pie"])
def test_the_interpreter_runs_first_and_finds_the_program(sysroot, here, kind, base):
    path = place(here, "prog", dynamic(EXIT_42, kind=kind, base=base))
    assert run([path.name], sysroot, here, program=path).returncode == 42


def test_what_the_interpreter_is_told(sysroot, here):
    from vm_core.linux.process import Process

    path = place(here, "prog", dynamic(EXIT_42, kind=3, base=0x1000))
    with Process(["prog"], program=path, sysroot=str(sysroot), engine="reference", cwd=str(here)) as process:
        told = dict(struct.iter_unpack("<QQ", process.auxv))
        assert told[7] == process.interpreter.base
        assert told[9] == process.image.entry
        assert process.main.cpu.pc == process.interpreter.base + 0x1000
        names = {region.name for region in process.memory.regions()}
        assert {str(path), LOADER} <= names


def test_a_loader_that_is_not_there(sysroot, here):
    path = place(here, "prog", dynamic(EXIT_42))
    with pytest.raises(LoadError, match="needs '/lib/ld.so', which is not there") as caught:
        vm_core.run([str(path)], cwd=here, engine="reference")
    assert "-L DIR" in caught.value.hint
    assert "vm sysroot create riscv64" in caught.value.hint
    missing = place(here, "other", dynamic(EXIT_42, interpreter=b"/lib/ld.so/none\0"))
    with pytest.raises(LoadError, match="which is not there"):
        run([str(missing)], sysroot, here)


BAD_LOADERS = {
    "directory": (None, "is a directory"),
    "empty": (b"", "offset 0: the file is empty"),
    "script": (b"#!/bin/sh\n", "offset 0: a script"),
    "cut": (elf(words(LOADER_TEXT))[:100], "truncated program headers"),
    "other machine": (elf(b"\0" * 8, machine=183), "made for aarch64, but this guest is riscv64"),
    "over the program": (elf(words(LOADER_TEXT), base=0x40000, entry=0x40000), "overlaps the program"),
    "huge": (elf(b"\x13\0\0\0", kind=3, extra=0xFF6B_0000), "no room for its"),
    "larger than memory": (elf(b"\x13\0\0\0", kind=3, extra=1 << 62), "outside the guest's address space"),
}


@pytest.mark.parametrize("name", BAD_LOADERS)
def test_a_loader_that_is_none(sysroot, here, name):
    data, expected = BAD_LOADERS[name]
    loader = sysroot / "lib" / "ld.so"
    loader.unlink()
    if data is None:
        loader.mkdir()
    else:
        loader.write_bytes(data)
    path = place(here, "prog", dynamic(EXIT_42))
    with pytest.raises(LoadError) as caught:
        run([str(path)], sysroot, here)
    assert expected in str(caught.value)
    assert LOADER in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interpreters_interpreter_means_nothing(sysroot, here):
    """So a loop of them cannot be."""
    loader = dynamic(LOADER_TEXT, kind=3, base=0x1000)
    (sysroot / "lib" / "ld.so").write_bytes(loader)
    path = place(here, "prog", dynamic(EXIT_42))
    assert run([str(path)], sysroot, here).returncode == 42
    # A program that is its own interpreter: the kernel maps it twice, and so it is here.
    both = place(sysroot, "bin/both", dynamic(EXIT_42, kind=3, base=0x1000, interpreter=b"/bin/both\0"))
    assert run([str(both)], sysroot, here).returncode == 42


def test_a_program_by_a_link_knows_where_it_is(sysroot, here):
    from vm_core.linux.process import Process

    place(sysroot, "bin/real", dynamic(EXIT_42))
    (sysroot / "bin" / "link").symlink_to("real")
    (sysroot / "lib" / "ld.so").rename(sysroot / "lib" / "real.so")
    (sysroot / "lib" / "ld.so").symlink_to("real.so")
    for name, real in (("/bin/link", "/bin/real"), (str(sysroot / "bin/link"), str(sysroot / "bin/real"))):
        with Process([name], sysroot=str(sysroot), engine="reference", cwd=str(here)) as process:
            assert process.executable == real
            names = {region.name for region in process.memory.regions()}
            assert {real, "/lib/real.so"} <= names


def test_a_loader_by_a_link(sysroot, here):
    (sysroot / "lib" / "ld.so").rename(sysroot / "lib" / "real.so")
    (sysroot / "lib" / "ld.so").symlink_to("/lib/real.so")  # of the guest's name space
    path = place(here, "prog", dynamic(EXIT_42))
    assert run([str(path)], sysroot, here).returncode == 42


def test_an_absolute_path_is_looked_for_in_the_sysroot_first(sysroot, here):
    place(sysroot, "bin/prog", dynamic(EXIT_42))
    assert run(["/bin/prog"], sysroot, here).returncode == 42
    assert run([str(sysroot / "bin" / "prog")], sysroot, here).returncode == 42


# -- the name space -----------------------------------------------------------------------------------------------


def content(namespace, path):
    with namespace.walk(namespace.start, path) as found:
        fd = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=found.fd)
        try:
            return os.read(fd, 100), found.mount.writable
        finally:
            os.close(fd)


@pytest.fixture
def namespace(request):
    made = []

    def make(**options):
        made.append(Namespace(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_sysroot_is_shown_for_reading(sysroot, here, namespace):
    place(sysroot, "etc/name", b"of the sysroot")
    place(here, "mine", b"of here")
    shown = namespace(cwd=str(here), sysroot=str(sysroot))
    assert content(shown, "/etc/name") == (b"of the sysroot", False)
    assert content(shown, str(sysroot / "etc" / "name")) == (b"of the sysroot", False)
    assert content(shown, "mine") == (b"of here", True)
    assert content(shown, str(here / "mine")) == (b"of here", True)
    with pytest.raises(FileNotFoundError):
        content(shown, "/etc/passwd-of-the-host")


def test_where_both_have_a_file_the_sysroot_wins(sysroot, here, namespace):
    place(here, "both", b"of here")
    place(here, "mine", b"of here")
    place(sysroot, "etc/both", b"never")
    place(sysroot, str(here)[1:] + "/both", b"of the sysroot")
    shown = namespace(cwd=str(here), sysroot=str(sysroot))
    assert content(shown, str(here / "both")) == (b"of the sysroot", False)
    assert content(shown, "both") == (b"of the sysroot", False)
    assert content(shown, "mine") == (b"of here", True)
    with shown.walk(shown.start, ".") as found:
        assert found.mount.writable


def test_links_of_the_sysroot_stay_in_it(sysroot, tmp_path, namespace):
    """Also where the current directory has the name of one of its directories, which the link leads through."""
    here = tmp_path / "usr"
    place(here, "lib/other", b"of here")
    place(sysroot, str(here)[1:] + "/lib/real", b"of the sysroot")
    (sysroot / "link").symlink_to(str(here)[1:] + "/lib/real")
    (sysroot / "out").symlink_to("../../../../../.." + str(here / "lib" / "other"))
    shown = namespace(cwd=str(here), sysroot=str(sysroot))
    assert content(shown, "/link") == (b"of the sysroot", False)
    assert content(shown, "/out") == (b"of here", True)  # what the guest may see anyway, by its own path


def test_with_a_root_the_sysroot_is_first(sysroot, tmp_path, namespace):
    root = tmp_path / "root"
    place(root, "etc/both", b"of the root")
    place(root, "etc/root", b"of the root")
    place(sysroot, "etc/both", b"of the sysroot")
    shown = namespace(root=str(root), sysroot=str(sysroot))
    assert content(shown, "/etc/both") == (b"of the sysroot", False)
    assert content(shown, "/etc/root") == (b"of the root", True)
    bound = tmp_path / "bound"
    place(bound, "both", b"of the bind")
    from vm_core.linux.paths import Bind

    shown = namespace(root=str(root), sysroot=str(sysroot), binds=(Bind(str(bound), "/etc"),))
    assert content(shown, "/etc/both") == (b"of the bind", True)


def test_a_sysroot_that_is_the_root_is_for_writing(sysroot, namespace):
    place(sysroot, "etc/name", b"of both")
    shown = namespace(root=str(sysroot), sysroot=f"{sysroot}/.")
    assert content(shown, "/etc/name") == (b"of both", True)
    shown = namespace(root=f"{sysroot}:ro", sysroot=str(sysroot))
    assert content(shown, "/etc/name") == (b"of both", False)


def test_a_current_directory_that_the_sysroot_has_is_for_writing(sysroot, namespace, monkeypatch):
    """As with -L /."""
    here = sysroot / "work"
    here.mkdir()
    place(sysroot, "work/name", b"mine")
    monkeypatch.chdir(here)
    shown = namespace(sysroot="/")
    assert content(shown, f"{here}/name") == (b"mine", True)


def test_a_sysroot_that_is_no_directory(tmp_path, namespace):
    with pytest.raises(UsageError, match="the sysroot is not a directory"):
        namespace(sysroot=str(tmp_path / "absent"))


# -- a real C library ---------------------------------------------------------------------------------------------

CROSS = "/usr/riscv64-linux-gnu"
SOURCE = r"""
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
static __thread int mine = 5;
static void *work(void *argument) { mine++; return (void *)(long)mine; }
int main(int argc, char **argv) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, work, 0);
    pthread_join(thread, &result);
    void *library = dlopen("libm.so.6", RTLD_NOW);
    double (*cosine)(double) = library ? dlsym(library, "cos") : 0;
    printf("%d %.6f %.6f %ld %d\n", argc, sin(argc), cosine ? cosine(argc) : -1, (long)result, mine);
    printf("%d %d %d\n", getauxval(AT_PHNUM) > 0, getauxval(AT_BASE) != 0, getauxval(AT_ENTRY) != 0);
    return 7;
}
"""


@pytest.mark.needs_cc
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("return strlen((char *)8);", r"load from 0x8 \(not mapped\): pc 0x\w+ <strlen\+?\w* in libc.so.6>"),
        ("kill(getpid(), 11);", r"pc 0x\w+ <kill\+0x\w+ in libc.so.6>"),
        ("((void (*)(void))getauxval(33))();", r"illegal instruction: pc 0x\w+ <\[vdso\]\+0x0>"),
        ("*(int *)8 = 1;", r"store to 0x8 \(not mapped\): pc 0x\w+ <main\+?\w*>"),
    ],
    ids=["library", "call", "vdso", "program"],
)
def test_a_death_names_the_function_of_the_library(tmp_path, cross_compiler, code, expected):
    head = "#include <signal.h>\n#include <string.h>\n#include <sys/auxv.h>\n#include <unistd.h>\n"
    (tmp_path / "source.c").write_text(head + f"int main(void) {{ {code} return 0; }}")
    command = [cross_compiler, "-O1", "-fno-builtin", "-w", "source.c", "-o", "prog"]
    subprocess.run(command, cwd=tmp_path, check=True)
    got = vm_core.run(["prog"], program=tmp_path / "prog", sysroot=CROSS, cwd=tmp_path, timeout=60)
    assert got.reason == "signal"
    assert re.search(expected, got.message)


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize("flags", [[], ["-no-pie"], ["-Wl,-z,now"]], ids=["pie", "fixed", "now"])
def test_a_program_with_the_c_library(tmp_path, cross_compiler, flags):
    source = tmp_path / "source.c"
    source.write_text(SOURCE)
    path = tmp_path / "prog"
    subprocess.run([cross_compiler, "-O1", *flags, str(source), "-o", str(path), "-lm"], check=True)
    want = subprocess.run(["qemu-riscv64", "-L", CROSS, str(path), "x"], capture_output=True, check=False)
    got = vm_core.run([str(path), "x"], sysroot=CROSS, cwd=tmp_path, capture_output=True, timeout=60)
    assert (got.returncode, got.stdout, got.stderr) == (want.returncode, want.stdout, want.stderr) == (
        7, want.stdout, b"",
    )  # fmt: skip
    assert got.stdout.startswith(b"2 0.909297 -0.416147 6 5\n1 1 1\n")
