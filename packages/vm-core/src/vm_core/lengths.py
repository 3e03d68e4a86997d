"""Memory files of vm's own, in a process whose guest has limited how long its files may be.

RLIMIT_FSIZE is the guest's, and the host enforces it; but it holds for a memory file too, which to a guest is memory or a
text below /proc.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

__all__ = ["any_length"]


class _Lock:
    held = threading.RLock()


def _forked() -> None:
    _Lock.held = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def any_length() -> Iterator[None]:
    """Files may become as long as they need to be meanwhile."""
    try:
        import resource  # PERF: not at the start; and HOST: not everywhere
    except ImportError:
        yield  # nobody limits it there
        return
    with _Lock.held:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if soft == hard:
            yield
            return
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
