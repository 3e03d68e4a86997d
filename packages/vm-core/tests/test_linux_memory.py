"""Memory calls: what they map, refuse and write back."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from vm_core.linux.system import ThreadEnd
from vm_core.memory import HIGH_GUARD, HUGE, PAGE, Access, GuestMemory, MemoryFault, Prot
from vm_core.testing.guests import Caller

AT = -100
NONE, READ, WRITE, EXEC = 0, 1, 2, 4
RW = READ | WRITE
SHARED, PRIVATE, FIXED, ANONYMOUS, NOREPLACE = 1, 2, 0x10, 0x20, 0x100000


@pytest.fixture
def guest(tmp_path):
    with Caller(cwd=str(tmp_path)) as made:
        yield made


def anonymous(guest, length, prot=RW, address=0, flags=0):
    return guest.call("mmap", address, length, prot, PRIVATE | ANONYMOUS | flags, -1, 0)


def test_brk_grows_and_shrinks(guest):
    start = guest.call("brk", 0)
    assert start == guest.process.brk_start
    assert guest.call("brk", start + 10_000) == start + 10_000
    guest.memory.write(start + 9_999, b"x")
    assert guest.call("brk", start + 100) == start + 100
    with pytest.raises(MemoryFault):
        guest.memory.read(start + 9_999, 1)
    assert guest.call("brk", start + 10_000) == start + 10_000
    assert guest.memory.read(start + 9_999, 1) == b"\0"
    assert guest.call("brk", start - PAGE) == start + 10_000
    assert guest.call("brk", 1 << 40) == start + 10_000


def test_brk_stops_at_a_mapping(guest):
    start = guest.call("brk", 0)
    assert anonymous(guest, PAGE, address=start + 4 * PAGE, flags=FIXED) == start + 4 * PAGE
    assert guest.call("brk", start + 4 * PAGE) == start + 4 * PAGE
    assert guest.call("brk", start + 5 * PAGE) == start + 4 * PAGE


def test_mappings_are_zeroed_and_kept_apart_from_the_stack(guest):
    first, second = anonymous(guest, 3 * PAGE), anonymous(guest, 5000)
    assert second == first - 2 * PAGE
    assert first + 3 * PAGE <= guest.process.mmap_top
    assert guest.memory.read(second, 2 * PAGE) == bytes(2 * PAGE)
    guest.memory.write(first, b"dirty")
    assert guest.call("munmap", first, 3 * PAGE) == 0
    assert anonymous(guest, 3 * PAGE, address=first) == first
    assert guest.memory.read(first, 5) == bytes(5)
    with pytest.raises(MemoryFault):
        guest.memory.check(guest.process.stack_top - (9 << 20), 1, Access.READ)


def test_mmap_arguments(guest):
    assert anonymous(guest, 0) == -errno.EINVAL
    assert guest.call("mmap", 0, PAGE, RW, ANONYMOUS, -1, 0) == -errno.EINVAL
    assert anonymous(guest, 1 << 40) == anonymous(guest, (1 << 64) - PAGE) == -errno.ENOMEM
    assert anonymous(guest, PAGE, address=123, flags=FIXED) == -errno.EINVAL
    assert anonymous(guest, PAGE, address=0, flags=FIXED) == -errno.EPERM
    assert anonymous(guest, PAGE, address=1 << 40, flags=FIXED) == -errno.ENOMEM
    assert guest.call("mmap", 0, PAGE, READ, PRIVATE, 55, 0) == -errno.EBADF
    taken = anonymous(guest, PAGE)
    assert anonymous(guest, PAGE, address=taken, flags=NOREPLACE) == -errno.EEXIST
    assert anonymous(guest, PAGE, address=taken, flags=FIXED) == taken
    assert anonymous(guest, PAGE, address=taken) != taken
    assert anonymous(guest, PAGE, prot=WRITE) > 0
    assert guest.call("munmap", taken + 1, PAGE) == guest.call("munmap", taken, 0) == -errno.EINVAL
    assert guest.call("munmap", 1 << 62, PAGE) == -errno.EINVAL


def test_protections(guest):
    at = anonymous(guest, 3 * PAGE)
    assert guest.call("mprotect", at + PAGE, PAGE, READ) == 0
    with pytest.raises(MemoryFault) as caught:
        guest.memory.write(at + PAGE, b"x")
    assert caught.value.mapped
    assert guest.call("read", 0, at + PAGE, 1) == -errno.EBADF
    guest.call("munmap", at + 2 * PAGE, PAGE)
    assert guest.call("mprotect", at, 3 * PAGE, READ) == -errno.ENOMEM
    guest.memory.write(at, b"still writable")
    assert (
        guest.call("mprotect", at + 1, PAGE, READ)
        == guest.call("mprotect", at, PAGE, 1 << 20)
        == -errno.EINVAL
    )
    assert guest.call("mprotect", at, 0, READ) == 0
    assert guest.call("mprotect", at, 1 << 63, READ) == -errno.ENOMEM
    assert guest.call("mprotect", at, PAGE, WRITE) == 0
    assert guest.memory.region_at(at).prot == Prot.RW


def test_mremap(guest):
    at = anonymous(guest, 2 * PAGE)
    guest.memory.write(at + PAGE, b"kept")
    assert guest.call("mremap", at, 2 * PAGE, PAGE, 0, 0) == at
    assert not guest.memory.is_mapped(at + PAGE, 1)
    assert guest.call("mremap", at, PAGE, 2 * PAGE, 0, 0) == at
    guest.memory.write(at + PAGE, b"kept")
    anonymous(guest, PAGE, address=at + 2 * PAGE, flags=FIXED)
    assert guest.call("mremap", at, 2 * PAGE, 8 * PAGE, 0, 0) == -errno.ENOMEM
    moved = guest.call("mremap", at, 2 * PAGE, 8 * PAGE, 1, 0)
    assert moved not in (at, -errno.ENOMEM)
    assert guest.memory.read(moved + PAGE, 4) == b"kept"
    assert not guest.memory.is_mapped(at, 1)
    target = moved - 0x100000
    assert guest.call("mremap", moved, 8 * PAGE, 2 * PAGE, 3, target) == target
    assert guest.memory.read(target + PAGE, 4) == b"kept"
    assert guest.call("mremap", target, 2 * PAGE, 4 * PAGE, 3, target + PAGE) == -errno.EINVAL
    assert guest.call("mremap", target, 1 << 40, PAGE, 1, 0) == -errno.EFAULT
    assert guest.call("mremap", 0x5000, PAGE, PAGE, 1, 0) == -errno.EFAULT
    assert (
        guest.call("mremap", target, PAGE, 0, 1, 0)
        == guest.call("mremap", target, PAGE, PAGE, 2, 0)
        == -errno.EINVAL
    )


def test_advice_and_residency(guest):
    at = anonymous(guest, 2 * PAGE)
    guest.memory.write(at, b"dirty")
    assert guest.call("madvise", at, 2 * PAGE, 4) == 0
    assert guest.memory.read(at, 5) == bytes(5)
    assert guest.call("madvise", at, PAGE, 14) == 0
    assert guest.call("madvise", at + 1, PAGE, 4) == -errno.EINVAL
    assert guest.call("madvise", 0x4000, PAGE, 4) == -errno.ENOMEM
    assert guest.call("mincore", at, 2 * PAGE, guest.buffer) == 0
    assert guest.get(2) == b"\1\1"
    assert guest.call("mincore", 0x4000, PAGE, guest.buffer) == -errno.ENOMEM
    assert guest.call("mlock", at, PAGE) == 0


def test_private_file_mappings_are_copies(guest, tmp_path):
    (tmp_path / "file").write_bytes(b"a" * PAGE + b"b" * 100)
    fd = guest.call("openat", AT, "file", 0, 0)
    at = guest.call("mmap", 0, 3 * PAGE, RW, PRIVATE, fd, 0)
    assert guest.memory.read(at + PAGE - 1, 3) == b"abb"
    assert guest.memory.read(at + PAGE + 100, 8) == bytes(8)
    guest.memory.write(at, b"changed")
    second = guest.call("mmap", 0, PAGE, READ, PRIVATE, fd, PAGE)
    assert guest.memory.read(second, 100) == b"b" * 100
    assert guest.call("mmap", 0, PAGE, READ, PRIVATE, fd, 100) == -errno.EINVAL
    assert guest.call("madvise", at, PAGE, 4) == 0
    assert guest.memory.read(at, 7) == b"changed"
    assert (tmp_path / "file").read_bytes()[:7] == b"a" * 7


def test_shared_file_mappings_reach_the_file(guest, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * (2 * PAGE) + b"tail")
    fd = guest.call("openat", AT, "file", 2, 0)
    at = guest.call("mmap", 0, 3 * PAGE, RW, SHARED, fd, 0)
    guest.call("close", fd)
    guest.memory.write(at, b"first")
    assert path.read_bytes()[:5] == b"aaaaa"
    assert guest.call("msync", at, PAGE, 4) == 0
    assert path.read_bytes()[:5] == b"first"
    # What another writer has changed meanwhile in a page that the guest has not touched is left alone.
    with open(path, "r+b") as other:
        other.seek(PAGE)
        other.write(b"other")
    guest.memory.write(at + 2 * PAGE, b"TAILmore")
    assert guest.call("munmap", at + 2 * PAGE, PAGE) == 0
    assert path.read_bytes()[2 * PAGE :] == b"TAIL"
    guest.memory.write(at + 1, b"I")
    guest.process.end("stopped")
    guest.process._finish()
    assert path.read_bytes()[:5] == b"fIrst"
    assert path.read_bytes()[PAGE : PAGE + 5] == b"other"


def test_a_shared_mapping_ends_with_a_guest_that_nobody_runs(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * PAGE)
    before = sorted(os.listdir("/proc/self/fd"))
    with Caller(cwd=str(tmp_path)) as guest:
        fd = guest.call("openat", AT, "file", 2, 0)
        at = guest.call("mmap", 0, PAGE, RW, SHARED, fd, 0)
        guest.memory.write(at, b"first")
    assert path.read_bytes()[:6] == b"firsta"
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_shared_mapping_of_a_truncated_file_cannot_hurt(guest, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE))
    fd = guest.call("openat", AT, "file", 2, 0)
    at = guest.call("mmap", 0, 4 * PAGE, RW, SHARED, fd, 0)
    os.truncate(path, 0)
    guest.memory.write(at + 3 * PAGE, b"x")
    assert guest.call("msync", at, 4 * PAGE, 4) == 0
    assert path.stat().st_size == 0


def test_access_modes_of_mapped_files(guest, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    reading = guest.call("openat", AT, "file", 0, 0)
    writing = guest.call("openat", AT, "file", 1, 0)
    assert guest.call("mmap", 0, PAGE, RW, SHARED, reading, 0) == -errno.EACCES
    assert guest.call("mmap", 0, PAGE, READ, SHARED, writing, 0) == -errno.EACCES
    assert guest.call("mmap", 0, PAGE, READ, SHARED, reading, 0) > 0
    zero = guest.call("openat", AT, "/dev/zero", 2, 0)
    assert guest.call("mmap", 0, PAGE, RW, PRIVATE, zero, 0) > 0
    guest.call("pipe2", guest.buffer, 0)
    assert guest.call("mmap", 0, PAGE, READ, PRIVATE, guest.memory.load(guest.buffer, 4), 0) == -errno.ENODEV


def test_the_cap_is_exact_to_the_page(tmp_path):
    limit = 4 << 20
    with Caller(cwd=str(tmp_path), memory=limit) as guest:
        assert (
            guest.memory.region_at(guest.process.stack_top - 1).start == guest.process.stack_top - limit // 4
        )
        room = limit - guest.memory.committed
        at = anonymous(guest, room)
        assert guest.memory.committed == limit
        assert anonymous(guest, 1 << 30, prot=NONE) > 0
        with pytest.raises(ThreadEnd):
            anonymous(guest, PAGE)
        assert (guest.process.reason, guest.memory.committed) == ("memory", limit)
        guest.memory.unmap(at, PAGE)
        assert guest.memory.committed == limit - PAGE


def test_maps_names_regions(guest):
    fd = guest.call("openat", AT, "/proc/self/maps", 0, 0)
    guest.call("brk", guest.call("brk", 0) + PAGE)
    text = guest.get(guest.call("read", fd, guest.buffer, 1 << 16)).decode()
    assert "[stack]" in text
    assert "[vdso]" in text
    assert "[heap]" not in text
    assert text.startswith("00010000-00011000 rwxp")


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="the host has none")
def test_large_mappings_ask_for_large_pages(guest):
    def asked(address):
        place = guest.memory.host_address + address
        with open("/proc/self/smaps") as file:
            inside = False
            for line in file:
                span, _, rest = line.partition(" ")
                if "-" in span and span[-1:] != ":":
                    start, end = (int(word, 16) for word in span.split("-"))
                    inside = start <= place < end
                elif inside and span == "VmFlags:":
                    return "hg" in rest.split()
        return None

    stack, reserved = 0x20000, 0x4000
    assert asked(anonymous(guest, 8 << 20)) is True
    assert asked(anonymous(guest, 8 << 20, flags=reserved)) is True
    # The last one too, if the mapping has at least half of it.
    size = 6 * HUGE
    for end, expected in ((HUGE // 2, True), (HUGE // 2 - PAGE, False)):
        place = anonymous(guest, size + end)
        assert asked(place) is True
        assert asked(place + size + HUGE - PAGE) is expected
    assert asked(anonymous(guest, 64 << 10)) is False
    assert asked(anonymous(guest, 8 << 20, NONE)) is False
    assert asked(anonymous(guest, 8 << 20, flags=stack)) is False


def test_large_mappings_are_at_multiples_of_large_pages(guest):
    taken = anonymous(guest, PAGE)
    first, second = anonymous(guest, 6 * HUGE + PAGE), anonymous(guest, 2 * HUGE)
    assert first % HUGE == second % HUGE == 0
    assert taken - HUGE < first + 6 * HUGE + PAGE <= taken
    assert second == first - 2 * HUGE
    # What is smaller takes the room between, and where the guest wants something is up to it.
    small = anonymous(guest, PAGE)
    assert first + 6 * HUGE + PAGE <= small < taken
    wanted = second - 16 * HUGE + PAGE
    assert anonymous(guest, 2 * HUGE, address=wanted) == wanted
    # Without room for that, at any page.
    bottom = 0x10000
    free = guest.memory.find_free(2 * HUGE)
    while free is not None:
        guest.memory.map(free, 2 * HUGE, Prot.NONE)
        free = guest.memory.find_free(2 * HUGE)
    last = next(
        region for region in guest.memory.regions() if region.start >= bottom and region.prot == Prot.NONE
    )
    hole = last.start // HUGE * HUGE + HUGE + PAGE
    guest.memory.unmap(hole, 2 * HUGE)
    assert anonymous(guest, 2 * HUGE) == hole


@pytest.mark.parametrize("wanted", [True, False])
def test_an_engine_may_want_pages_before_they_are_touched(guest, wanted):
    """Of what is small, or an end of something large. Not of what the guest says it will not use all of."""
    memory = guest.memory
    memory.populates = wanted

    def present(start, length):
        return len(list(memory.touched(start, start + length))) * PAGE

    if wanted:
        probe = mmap.mmap(-1, PAGE)
        try:
            probe.madvise(23)
        except OSError:
            pytest.skip("the host does not know MADV_POPULATE_WRITE")
    small = anonymous(guest, 20 * PAGE)
    assert present(small, 20 * PAGE) == (20 * PAGE if wanted else 0)
    large = anonymous(guest, 2 * HUGE + 3 * PAGE)
    assert present(large, 2 * HUGE) == 0
    assert present(large + 2 * HUGE, 3 * PAGE) == (3 * PAGE if wanted else 0)
    start = guest.call("brk", 0)
    assert guest.call("brk", start + 10 * PAGE) == start + 10 * PAGE
    assert present(start, 10 * PAGE) == (10 * PAGE if wanted else 0)
    for prot, flags in ((READ, 0), (NONE, 0), (RW, 0x20000), (RW, 0x4000)):
        assert present(anonymous(guest, 20 * PAGE, prot, flags=flags), 20 * PAGE) == 0


def test_an_arena_is_at_a_multiple_of_large_pages():
    """Where it is in the host; nothing of the host's addresses is kept beside it, or behind it."""

    def mapped():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * PAGE

    for bits in (20, 24, 32):
        before = mapped()
        with GuestMemory(bits=bits) as memory:
            assert memory.host_address % HUGE == 0
            assert (
                mapped() - before
                < memory.host_address - memory.table_address + memory.size + HIGH_GUARD + HUGE
            )
            memory.map(memory.size - PAGE, PAGE, Prot.RW)
            memory.write(memory.size - 4, b"last")
            assert bytes(memory.view[-4:]) == b"last"
        assert mapped() - before < HUGE
