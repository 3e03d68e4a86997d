"""Snapshots of guest memory, clones that copy on write, and guest processes that are duplicated."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from vm_core.errors import HostError, UsageError
from vm_core.execute import ReferenceEngine
from vm_core.linux.duplicate import duplicate
from vm_core.linux.process import Process
from vm_core.memory import PAGE, GuestMemory, MemoryFault, Prot
from vm_core.snapshot import MemorySnapshot
from vm_core.testing.guests import Caller

BASE = 0x40_0000


@pytest.fixture
def memory() -> GuestMemory:
    """Text, a hole, data of which the last page was never written, and a page that may not be touched but holds something."""
    made = GuestMemory()
    made.map(BASE, 2 * PAGE, Prot.RX, name="/bin/program")
    made.poke(BASE, b"text" + bytes(PAGE - 4) + b"more")
    made.map(BASE + 64 * PAGE, 4 * PAGE, Prot.RW)
    made.write(BASE + 64 * PAGE, b"data")
    made.write(BASE + 65 * PAGE, b"kept")
    made.map(BASE + 200 * PAGE, PAGE, Prot.RW)
    made.write(BASE + 200 * PAGE, b"hidden")
    made.protect(BASE + 200 * PAGE, PAGE, Prot.NONE)
    return made


def test_a_clone_has_the_same_and_writes_are_its_own(memory: GuestMemory) -> None:
    shot = MemorySnapshot(memory)
    assert shot.pages == [BASE + n * PAGE for n in (0, 1, 64, 65, 200)]
    clones = [shot.clone() for _ in range(3)]
    shot.close()
    shot.close()
    data = BASE + 64 * PAGE
    for number, clone in enumerate(clones):
        assert list(clone.regions()) == list(memory.regions())
        assert bytes(clone.table) == bytes(memory.table)
        assert clone.committed == memory.committed
        assert clone.read(BASE, 4) == b"text"
        assert clone.read(data, 4) == b"data"
        clone.write(data, bytes([number]) * 4)
        clone.write(data + 3 * PAGE, b"new")
        with pytest.raises(MemoryFault):
            clone.write(BASE, b"x")
        with pytest.raises(MemoryFault):
            clone.read(BASE + 200 * PAGE, 1)
        assert clone.protect(BASE + 200 * PAGE, PAGE, Prot.READ)
        assert clone.read(BASE + 200 * PAGE, 6) == b"hidden"
    memory.write(data, b"mine")
    for number, clone in enumerate(clones):
        assert clone.read(data, 4) == bytes([number]) * 4
        clone.close()
    assert memory.read(data, 4) == b"mine"
    memory.close()


@pytest.mark.parametrize("enforced", [False, True])
def test_what_a_clone_gives_back_does_not_come_again(memory: GuestMemory, enforced: bool) -> None:
    shot = MemorySnapshot(memory)
    with shot.clone() as clone, memory:
        shot.close()
        if enforced:
            clone.enforce()
        data = BASE + 64 * PAGE
        clone.discard(data, PAGE)
        assert clone.read(data, 4) == bytes(4)
        clone.write(data, b"once")
        clone.discard(data, PAGE)
        assert clone.read(data, 4) == bytes(4)
        assert clone.read(data + PAGE, 4) == b"kept"
        clone.unmap(data + PAGE, PAGE)
        clone.map(data + PAGE, PAGE, Prot.RW)
        assert clone.read(data + PAGE, 4) == bytes(4)
        clone.map(BASE, 300 * PAGE, Prot.RW)
        assert not any(clone.view[BASE : BASE + 300 * PAGE])
        assert memory.read(data + PAGE, 4) == b"kept"


def test_a_clone_has_a_snapshot_of_its_own(memory: GuestMemory) -> None:
    shot = MemorySnapshot(memory)
    data = BASE + 64 * PAGE
    with memory, shot.clone() as clone:
        clone.write(data + 2 * PAGE, b"later")
        clone.discard(data, PAGE)
        again = MemorySnapshot(clone)
        assert again.pages == [BASE + n * PAGE for n in (0, 1, 65, 66, 200)]
        with again.clone() as second:
            again.close()
            shot.close()
            assert second.read(data, 4) == bytes(4)
            assert second.read(data + PAGE, 4) == b"kept"
            assert second.read(data + 2 * PAGE, 5) == b"later"


def test_parts_are_what_the_pages_held(memory: GuestMemory) -> None:
    shot = MemorySnapshot(memory)
    data = BASE + 64 * PAGE
    pages = [BASE, BASE + PAGE, BASE + 2 * PAGE, data, data + PAGE, data + 2 * PAGE, data + 3 * PAGE]
    parts = shot.parts(reversed(pages))
    assert sum(end - start for start, end, _ in parts) == len(pages) * PAGE
    for start, end, held in parts:
        assert held == memory.view[start:end]
    shot.close()
    assert parts[0][2][:4] == b"text"
    memory.close()


def test_zeros_between_near_runs_are_no_part_of_the_next_guest(memory: GuestMemory) -> None:
    """The file has a hole there, which a clone may write."""
    memory.map(BASE, 40 * PAGE, Prot.RW)
    memory.write(BASE, b"a")
    memory.write(BASE + 10 * PAGE, b"b")
    shot = MemorySnapshot(memory)
    with memory, shot.clone() as first, shot.clone() as second:
        first.write(BASE + 5 * PAGE, b"first")
        assert second.read(BASE + 5 * PAGE, 5) == bytes(5)
        shot.close()


def test_shared_memory_has_no_snapshot() -> None:
    with GuestMemory() as memory:
        memory.map_shared(BASE, PAGE, Prot.RW)
        with pytest.raises(UsageError, match="shared memory"):
            MemorySnapshot(memory)


def test_nothing_is_left_without_room(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_text().splitlines())

    def refuse(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(HostError, match="Too many open files"):
            MemorySnapshot(memory)
    shot = MemorySnapshot(memory)
    shot.close()
    with pytest.raises(HostError):
        shot.clone()
    assert before == (
        len(os.listdir("/proc/self/fd")),
        len(Path("/proc/self/maps").read_text().splitlines()),
    )
    memory.close()


# -- processes ----------------------------------------------------------------------------------------------------


def _duplicate(caller: Caller) -> Caller:
    process = caller.process
    shot = MemorySnapshot(process.memory)
    made = duplicate(process, shot.clone(), process.main.cpu.words, ReferenceEngine)
    shot.close()
    other = copy.copy(caller)
    other.process, other.thread, other.memory = made, made.main, made.memory
    return other


_SHARED = {
    # What never changes once the program is loaded, or is no state.
    "abi", "argv_bytes", "env_bytes", "image", "interpreter", "isa", "some_stat", "auxv", "calls", "_table", "_engine", "_hook",
}  # fmt: skip


def test_a_duplicate_shares_nothing_that_changes(tmp_path: Path) -> None:
    with Caller(cwd=str(tmp_path)) as first, _duplicate(first) as second:
        immutable = (int, str, bytes, bool, float, type(None), tuple, frozenset)
        same = {
            name
            for name, value in vars(second.process).items()
            if vars(first.process).get(name) is value and not isinstance(value, immutable)
        }
        assert same <= _SHARED
        files = {
            name
            for name, value in vars(second.process.files).items()
            if vars(first.process.files).get(name) is value and not isinstance(value, immutable)
        }
        assert not files


def test_a_duplicate_goes_on_from_the_same_state(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "other").mkdir()
    with Caller(cwd=str(tmp_path)) as first:
        fd = first.call("openat", -100, "file", 2, 0)
        again = first.call("dup", fd)
        assert first.call("chdir", "other") == 0
        assert first.call("umask", 0o77) == 0o22
        action = (0x4000).to_bytes(8, "little") + bytes(16)
        assert first.call("rt_sigaction", 10, action, 0, 8) == 0
        assert first.call("rt_sigprocmask", 0, (1 << 11).to_bytes(8, "little"), 0, 8) == 0
        heap = first.call("brk", 0)
        assert first.call("brk", heap + 0x3000) == heap + 0x3000
        first.thread.cpu["s1"] = 77
        second = _duplicate(first)
        assert second.thread.cpu["s1"] == 77
        assert second.call("umask", 0) == 0o77
        assert first.call("umask", 0o22) == 0o77
        assert second.thread.mask == first.thread.mask == 1 << 11
        assert second.process.signals.action(10).handler == 0x4000
        assert second.call("brk", heap + 0x9000) == heap + 0x9000
        assert first.call("brk", 0) == heap + 0x3000
        # One open file, as after fork(2): the position is both's.
        assert second.call("read", fd, second.buffer, 3) == 3
        assert second.get(3) == b"012"
        assert first.call("read", again, first.buffer, 3) == 3
        assert first.get(3) == b"345"
        assert second.call("close", fd) == 0
        assert second.call("read", again, second.buffer, 2) == 2
        assert second.call("close", again) == 0
        assert second.call("read", again, second.buffer, 2) == -9
        assert first.call("read", fd, first.buffer, 9) == 2
        assert second.call("mkdirat", -100, "made", 0o700) == 0
        assert (tmp_path / "other" / "made").is_dir()
        first.close()
        assert second.call("openat", -100, "made", 0, 0) >= 0
        assert second.call("openat", -100, "/proc/self/comm", 0, 0) >= 0
        second.close()


def test_duplicates_leave_nothing_open() -> None:
    with Caller() as first:
        first.call("openat", -100, "/dev/null", 0, 0)
        first.call("pipe2", first.buffer, 0)
        first.call("socket", 1, 1, 0)
        first.process.files.namespace.settle()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with _duplicate(first) as second:
                assert second.call("fcntl", 0, 1, 0) in (0, -9)
                assert len(os.listdir("/proc/self/fd")) > before
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ([("epoll_create1", 0)], "eventpoll"),
        ([("inotify_init1", 0)], "inotify"),
        ([("signalfd4", -1, bytes(8), 8, 0)], "signalfd"),
    ],
)
def test_files_that_cannot_have_two_owners(calls: list[tuple[object, ...]], text: str) -> None:
    with Caller() as first:
        for name, *arguments in calls:
            assert first.call(name, *arguments) >= 0  # type: ignore[arg-type]
        first.process.files.namespace.settle()
        before = len(os.listdir("/proc/self/fd"))
        shot = MemorySnapshot(first.memory)
        with pytest.raises(UsageError, match=text):
            duplicate(first.process, shot.clone(), first.thread.cpu.words, ReferenceEngine)
        shot.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_shares_a_file_mapping_or_has_ended_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(PAGE))
    with Caller(cwd=str(tmp_path)) as first:
        fd = first.call("openat", -100, "file", 2, 0)
        assert first.call("mmap", 0, PAGE, 3, 1, fd, 0) > 0
        with pytest.raises(UsageError, match="mapped a file shared"):
            _duplicate(first)
    first = Caller()
    shot = MemorySnapshot(first.memory)
    first.process.end("stopped")
    memory = shot.clone()
    with pytest.raises(UsageError, match="ended"):
        duplicate(first.process, memory, first.thread.cpu.words, ReferenceEngine)
    with pytest.raises(ValueError, match="released"):
        memory.view[0]
    shot.close()
    first.process.close()


def test_a_duplicate_runs_with_an_engine_of_its_own() -> None:
    """To the ebreak that is all of the program, which ends it."""
    with Caller() as first, _duplicate(first) as second:
        process: Process = second.process
        process.run()
        assert process.signal == 5
        assert not first.process.stopping
