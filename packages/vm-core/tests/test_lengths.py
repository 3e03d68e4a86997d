"""Memory files of vm's own, in a process with a limit on the length of files."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from vm_core.lengths import any_length, limit_lengths

resource = pytest.importorskip("resource")


def _soft() -> int:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]


@pytest.fixture(autouse=True)
def limited():
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if before != resource.RLIM_INFINITY:
        pytest.skip("this process's files have a limit already")
    limit_lengths(10_000)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@contextlib.contextmanager
def _lifted_elsewhere() -> Iterator[None]:
    """Inside, another thread has lifted the limit."""
    lifted, over = threading.Event(), threading.Event()

    def lift() -> None:
        with any_length():
            lifted.set()
            over.wait(60)

    thread = threading.Thread(target=lift)
    thread.start()
    assert lifted.wait(60)
    yield
    over.set()
    thread.join()


def test_a_file_may_have_any_length_meanwhile():
    with any_length():
        assert _soft() == resource.RLIM_INFINITY
        with any_length():
            assert _soft() == resource.RLIM_INFINITY
        assert _soft() == resource.RLIM_INFINITY
    assert _soft() == 10_000


def test_a_child_that_another_thread_forks_meanwhile_has_the_limit():
    with _lifted_elsewhere():
        pid = os.fork()
        if not pid:
            with any_length():
                pass
            os._exit(_soft() != 10_000)
    assert os.waitpid(pid, 0)[1] == 0
    assert _soft() == 10_000


def test_a_limit_that_is_set_meanwhile_stays():
    second = threading.Thread(target=limit_lengths, args=(20_000,))
    with _lifted_elsewhere():
        second.start()
        second.join(0.1)
    second.join()
    assert _soft() == 20_000
