"""The host threads of guest threads: used again, but not by those who would see what others did there."""

from __future__ import annotations

import os
import threading
import time

from vm_core.linux.hostthread import HostThread, wait_until


def ran_in() -> tuple[int, float]:
    """A thread's number, and the processor time that it had used before."""
    seen: list[tuple[int, float]] = []
    thread = HostThread("it", lambda: seen.append((threading.get_native_id(), time.thread_time())))
    thread.start()
    wait_until(lambda: not thread.is_alive(), 10)
    assert not thread.is_alive()
    time.sleep(0.02)  # it comes back to wait for more
    return seen[0]


def busy() -> None:
    while time.thread_time() < 0.01:
        pass


def test_a_thread_is_used_again() -> None:
    assert len({ran_in()[0] for _ in range(5)}) == 1


def test_not_after_what_a_clock_would_show() -> None:
    thread = HostThread("busy", busy)
    thread.start()
    thread.join(10)
    time.sleep(0.02)
    assert all(ran_in()[1] < 0.005 for _ in range(3))


def test_many_at_once() -> None:
    gate, done = threading.Event(), []

    def work(number: int) -> None:
        gate.wait(10)
        done.append(number)

    threads = [HostThread(f"{n}", lambda n=n: work(n)) for n in range(100)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    assert all(thread.is_alive() for thread in threads)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert sorted(done) == list(range(100))
    assert not any(thread.is_alive() for thread in threads)


def test_a_forked_child_has_none_that_wait() -> None:
    ran_in()
    child = os.fork()
    if not child:
        try:
            ran_in()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
