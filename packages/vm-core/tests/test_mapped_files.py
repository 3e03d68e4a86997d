"""Files in guest memory: what a mapping shows, what is refused, and that the arena is whole again behind it.

No page behind the end of a file is touched here: without an engine, nobody takes the host's SIGBUS.
"""

from __future__ import annotations

import os

import pytest

from vm_core.memory import GONE, MAPPED, PAGE, GuestMemory, MemoryFault, MemoryLimit, Prot

AT = 0x10000


@pytest.fixture(params=[False, True], ids=["checked", "enforced"])
def memory(request):
    with GuestMemory(limit=64 * PAGE) as made:
        if request.param:
            made.enforce()
        yield made


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * PAGE + b"b" * PAGE + b"c" * 10)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def mapped(memory, fd, *, length=3 * PAGE, prot=Prot.RW, offset=0, at=AT, **options):
    memory.map_file(at, length, prot, fd, offset, name="/file", **options)


def test_a_private_mapping_shows_the_file_until_it_is_written(memory, file):
    mapped(memory, file)
    assert memory.read(AT + PAGE - 1, 2) == b"ab"
    assert memory.read(AT + 2 * PAGE, 12) == b"c" * 10 + b"\0\0"
    os.pwrite(file, b"B", PAGE)
    assert memory.read(AT + PAGE, 2) == b"Bb"
    memory.write(AT + PAGE, b"mine")
    os.pwrite(file, b"???", PAGE)
    assert memory.read(AT + PAGE, 5) == b"mineb"
    assert os.pread(file, 4, PAGE) == b"???b"
    memory.discard(AT + PAGE, PAGE)
    assert memory.read(AT + PAGE, 4) == b"???b"


def test_a_shared_mapping_writes_the_file(memory, file):
    mapped(memory, file, shared=True, writable=True, offset=PAGE, length=PAGE)
    memory.write(AT, b"here")
    assert os.pread(file, 5, PAGE) == b"hereb"
    region = memory.region_at(AT)
    info = os.fstat(file)
    assert (region.backing.device, region.backing.inode) == (info.st_dev, info.st_ino)
    assert (region.offset, region.name, region.shared) == (PAGE, "/file", True)


def test_what_was_opened_for_reading_is_not_written(memory, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * PAGE)
    fd = os.open(path, os.O_RDONLY)
    try:
        mapped(memory, fd, length=PAGE, prot=Prot.READ, shared=True)
        with pytest.raises(PermissionError):
            memory.protect(AT, PAGE, Prot.RW)
        with pytest.raises(MemoryFault):
            memory.poke(AT, b"x")
        assert memory.peek(AT, 2) == b"aa"
        mapped(memory, fd, length=PAGE, prot=Prot.READ, at=AT + PAGE)
        memory.poke(AT + PAGE, b"x")  # a private copy
        assert memory.protect(AT + PAGE, PAGE, Prot.RW)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"a" * PAGE


def test_the_arena_is_whole_again_behind_a_mapping(memory, file):
    mapped(memory, file, shared=True, writable=True, length=2 * PAGE)
    memory.unmap(AT, PAGE)
    memory.map(AT, PAGE, Prot.RW)
    assert memory.read(AT, PAGE) == bytes(PAGE)
    memory.write(AT, b"not the file's")
    memory.map(AT + PAGE, PAGE, Prot.RW)
    memory.write(AT + PAGE, b"nor this")
    assert os.pread(file, 2, 0) == b"aa"
    assert os.pread(file, 2, PAGE) == b"bb"
    assert memory.committed == 2 * PAGE
    assert memory.region_at(AT).backing is None


def test_what_the_host_refuses_changes_nothing(memory, tmp_path):
    memory.map(AT, 2 * PAGE, Prot.RW)
    memory.write(AT, b"kept")
    before = list(memory.regions()), memory.committed
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="No such device"):
            mapped(memory, fd, length=PAGE)
        with pytest.raises(MemoryLimit):
            mapped(memory, fd, length=65 * PAGE)
    finally:
        os.close(fd)
    assert (list(memory.regions()), memory.committed) == before
    assert memory.read(AT, 4) == b"kept"


def test_pages_behind_the_end_are_known(memory, file):
    mapped(memory, file, length=5 * PAGE)
    assert memory.table[AT + 2 * PAGE >> 12] == MAPPED | Prot.RW
    assert memory.table[AT + 3 * PAGE >> 12] == MAPPED | GONE
    with pytest.raises(MemoryFault) as caught:
        memory.read(AT + 2 * PAGE, 2 * PAGE)
    assert (caught.value.address, caught.value.mapped) == (AT + 3 * PAGE, True)
    assert memory.is_gone(AT + 3 * PAGE + 5)
    assert not memory.is_gone(AT)
    os.ftruncate(file, 4 * PAGE)
    assert not memory.is_gone(AT + 3 * PAGE + 5)
    assert memory.read(AT + 3 * PAGE, 2) == b"\0\0"
    assert memory.is_gone(AT + 4 * PAGE)


@pytest.mark.parametrize("target", [AT, AT + 16 * PAGE], ids=["in place", "elsewhere"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_mapping_moves_and_grows(memory, file, target, shared):
    mapped(memory, file, shared=shared, writable=shared, length=PAGE)
    memory.write(AT, b"written")
    memory.move(AT, PAGE, target, 3 * PAGE)
    assert memory.read(target, 8) == b"writtena"
    assert memory.read(target + PAGE, 1) == b"b"
    assert os.pread(file, 7, 0) == (b"written" if shared else b"a" * 7)
    assert memory.region_at(target).end == target + 3 * PAGE
    assert memory.committed == 3 * PAGE
    if target != AT:
        assert not memory.is_mapped(AT, 1)
        memory.map(AT, PAGE, Prot.RW)
        assert memory.read(AT, 7) == bytes(7)


def test_shared_memory_is_shared_with_a_child(memory):
    memory.map_shared(AT, 2 * PAGE, Prot.RW)
    memory.map(AT + 2 * PAGE, PAGE, Prot.RW)
    assert memory.read(AT, 4) == bytes(4)
    pid = os.fork()
    if not pid:
        memory.write(AT + 10, b"child")
        memory.write(AT + 2 * PAGE, b"child")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert memory.read(AT + 10, 5) == b"child"
    assert memory.read(AT + 2 * PAGE, 5) == bytes(5)
    assert memory.region_at(AT).name == "/dev/zero (deleted)"
