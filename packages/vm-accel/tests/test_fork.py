"""Clones of an initialised guest: they begin as its snapshot, know nothing of one another, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vm_accel.errors import GuestEnded, GuestFault, GuestTimeout
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.testing.faults import Faulty
from vm_accel.user.guest import Guest
from vm_core.errors import EngineUnavailable, HostError, UsageError

pytestmark = pytest.mark.kvm


@pytest.fixture(params=["static", "dynamic"])
def service(programs: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """An initialised guest with a snapshot: its counter is 1, all of its room 5."""
    program = str(programs / f"service-{request.param}")
    with Guest([program], sysroot="/", stdio=(None, None, None)) as guest:
        guest.call("count")
        guest.call("stamp", 5)
        guest.snapshot()
        yield guest


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _private_kilobytes() -> int:
    """What this process has to itself."""
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_"))


def test_a_clone_begins_as_the_snapshot_and_its_parent_goes_on(service: Guest) -> None:
    service.call("count")
    service.call("scaled", 5)
    service.call("mode", 1)
    with service.fork() as clone:
        assert clone.call("mode", 0) == 0
        assert clone.call("scaled", 3) == 60
        assert [clone.call("count") for _ in range(3)] == [2, 3, 4]
        assert clone.call("stamp", 6) == 64 * 5
        assert clone.call("grow", 10 << 20) == 1
        assert clone.call("identify") > 1_000_000
        data = os.urandom(3000)
        assert clone.call("total", data, len(data)) == sum(data)
        assert service.call("count") == 3
        assert service.call("stamp", 7) == 64 * 5
        assert service.call("mode", 0) == 0x6000
        assert clone.call("stamp", 8) == 64 * 6
    assert service.call("stamp", 9) == 64 * 7
    service.reset()
    assert service.call("count") == 2


def test_a_clone_is_reset_to_the_same_snapshot(service: Guest) -> None:
    with service.fork() as clone:
        for _ in range(20):
            assert clone.call("count") == 2
            assert clone.call("stamp", 1) == 64 * 5
            assert clone.call("grow", 300_000) == 1
            assert clone.call("renew") == 0
            clone.reset()
        with pytest.raises(GuestFault):
            clone.call("fault")
        clone.reset()
        with pytest.raises(GuestTimeout):
            clone.call("forever", timeout=0.1)
        clone.reset()
        assert clone.call("stamp", 1) == 64 * 5


def test_pages_that_a_clone_gives_back_do_not_return_with_the_snapshots_bytes(service: Guest) -> None:
    assert service.call("renew") == 0
    with service.fork() as clone:
        assert clone.call("renew") == 0
        assert clone.call("renew") == 0


def test_a_hundred_clones_know_nothing_of_one_another(service: Guest) -> None:
    clones = [service.fork() for _ in range(120)]
    try:
        for number, clone in enumerate(clones):
            for _ in range(number % 5):
                clone.call("count")
            assert clone.call("stamp", number) == 64 * 5
        service.reset()
        assert service.call("stamp", 121) == 64 * 5
        for number, clone in enumerate(clones):
            assert clone.call("count") == 2 + number % 5
            found = clone.call("stamp", 0)
            assert found == 64 * number
    finally:
        for clone in clones:
            clone.close()
    assert service.call("stamp", 0) == 64 * 121


def test_clones_run_on_threads_side_by_side(service: Guest) -> None:
    failures: list[object] = []

    def use(value: int) -> None:
        try:
            for _ in range(6):
                with service.fork() as clone:
                    for turn in range(10):
                        found = clone.call("count"), clone.call("stamp", value), clone.call("stamp", value)
                        if found != (2, 64 * 5, 64 * value):
                            failures.append((value, turn, found))
                        clone.reset()
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=use, args=(value,)) for value in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert service.call("count") == 2


def test_clones_outlive_their_parent_and_have_clones(service: Guest) -> None:
    clone = service.fork()
    service.close()
    with pytest.raises(UsageError):
        service.fork()
    assert clone.call("count") == 2
    with clone.fork() as same:
        assert same.call("count") == 2
        clone.snapshot()
        assert same.call("count") == 3
        with clone.fork() as later:
            clone.close()
            assert later.call("count") == 3
            assert later.call("stamp", 2) == 64 * 5
            later.reset()
            assert later.call("count") == 3
        same.reset()
        assert same.call("count") == 2


def test_a_clone_costs_what_it_writes_and_leaves_nothing(service: Guest) -> None:
    def use(count: int) -> None:
        clones = [service.fork() for _ in range(count)]
        for clone in clones:
            clone.call("count")
            clone.reset()
            clone.call("stamp", 1)
            clone.call("renew")
        for clone in clones:
            clone.close()

    use(3)
    use(10)  # what the allocator keeps
    gc.collect()
    descriptors, mappings, memory = _descriptors(), _mappings(), _private_kilobytes()
    clones = [service.fork() for _ in range(50)]
    for clone in clones:
        clone.call("count")
    # Of a snapshot of 0.7 to 2 MiB; most is the objects of Python.
    assert (_private_kilobytes() - memory) / 50 < 256
    for clone in clones:
        clone.close()
    del clones, clone
    for _ in range(10):
        use(10)
    gc.collect()
    assert _descriptors() == descriptors
    assert _mappings() <= mappings + 6
    assert _private_kilobytes() < memory + 4096


def test_open_files_and_the_temporary_directory_are_the_parents(programs: Path) -> None:
    reader, writer = os.pipe()
    with Guest([str(programs / "service-static")], stdio=(None, writer, None)) as service:
        os.close(writer)
        service.call("take", 1)
        service.snapshot()
        clones = [service.fork() for _ in range(3)]
        assert service.call("put") > 0
        for number, clone in enumerate(clones):
            assert clone.call("tell", number) == 8
            assert clone.call("put") == (1 << 64) - 1  # it is there
        place = service.process.files.namespace.mounts["/tmp"].host
    assert os.path.exists(f"{place}/shared")
    assert clones[0].call("tell", 3) == 8
    for clone in clones:
        clone.close()
    assert struct.unpack("<4q", os.read(reader, 100)) == (0, 1, 2, 3)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert not os.path.exists(place)


def test_what_cannot_be_copied_is_refused(programs: Path) -> None:
    descriptors: list[int] = []

    def attempt(function: str, text: str) -> None:
        with Guest([str(programs / "service-static")], stdio=(None, None, None)) as service:
            service.snapshot()
            service.call(function)
            for _ in range(2):
                with pytest.raises(UsageError, match=text):
                    service.fork()
                descriptors.append(_descriptors())
            assert descriptors[-1] == descriptors[-2]

    attempt("watch", "eventpoll")
    attempt("begin_thread", "threads")
    attempt("child", "forked")
    with Guest([str(programs / "service-static")], stdio=(None, None, None)) as service:
        with pytest.raises(UsageError, match="no snapshot"):
            service.fork()
        service.call("share")
        with pytest.raises(UsageError, match="shared memory"):
            service.snapshot()
    with Guest([str(programs / "service-static")], stdio=(None, None, None)) as service:
        service.snapshot()
        with service.fork() as clone:
            with pytest.raises(GuestEnded):
                clone.call("leave")
            with pytest.raises(UsageError, match="ended"):
                clone.fork()
        assert service.call("count") == 1


def test_a_function_may_fork_a_process(service: Guest) -> None:
    """The child is the guest's; it never comes back here as a second one of this process."""
    with service.fork() as clone:
        for guest in (service, clone):
            assert guest.call("child", 0) == 7 << 8
            assert guest.call("child", 1) == 9 << 8
            assert guest.call("child", 2) == 11
            assert guest.call("count") == 2


def test_each_call_of_the_kernel_may_fail(programs: Path) -> None:
    kernel = Faulty()
    program = str(programs / "service-static")
    with Kvm(kernel=kernel) as opened, Guest([program], kvm=opened, stdio=(None, None, None)) as service:
        service.snapshot()
        first = len(kernel.calls)
        with service.fork() as clone:
            clone.call("count")
        needed = len(kernel.calls) - first
        assert needed > 8
        fds, mappings, descriptors = len(kernel.fds), len(kernel.mappings), _descriptors()
        for index in range(needed):
            kernel.fail_at = len(kernel.calls) + index
            with pytest.raises((HostError, EngineUnavailable)), service.fork() as clone:
                clone.call("count")
            kernel.fail_at = None
            assert len(kernel.fds) == fds
            assert len(kernel.mappings) == mappings
            assert _descriptors() == descriptors
        assert service.call("count") == 1
    assert not kernel.fds
