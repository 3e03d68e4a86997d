"""Memory files of vm's own, in a process whose guest has limited how long its files may be.

RLIMIT_FSIZE is the guest's, and the host enforces it; but it holds for a memory file too, which to a guest is memory or a
text below /proc.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

__all__ = ["any_length", "limit_lengths"]


class _Lock:
    held = threading.RLock()
    lifted: tuple[int, int] | None = None
    """The limits meanwhile, of a process that may fork in another thread."""


def _forked() -> None:
    _Lock.held = threading.RLock()
    if _Lock.lifted is not None:
        import resource  # it is there, as it has been called

        resource.setrlimit(resource.RLIMIT_FSIZE, _Lock.lifted)
        _Lock.lifted = None


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
        _Lock.lifted = (soft, hard)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            _Lock.lifted = None


def limit_lengths(soft: int) -> None:
    """From now on no file may become longer, or as much longer as the host allows; not while they are to be of any length.
    Raises OSError and ValueError."""
    import resource

    with _Lock.held:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            soft = hard
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
