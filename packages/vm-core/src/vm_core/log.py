"""Log messages of the packages, under the logger ``vm``.

PERF: :mod:`logging` is loaded by the first message, because most runs have none and it is a tenth of their start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from vm_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["Log", "configure", "write_all"]

_prepare: list[Callable[[], None]] = []


def configure(prepare: Callable[[], None]) -> None:
    """Call ``prepare``, which sets up the logger ``vm``, before the first message; now, if logging is loaded."""
    _prepare[:] = [prepare]
    if "logging" in sys.modules:
        _run_prepared()


def _run_prepared() -> None:
    while _prepare:
        _prepare.pop()()


def write_all(fd: int, text: str) -> None:
    """Write to a host descriptor, which may be one that the guest has made non-blocking. If it takes no more (the reader is gone,
    the disk is full), the rest is dropped: what only watches a guest does not stop it."""
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                import select

                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.poll()
    except OSError:
        pass


class Log:
    """A logger by name, as ``vm.jit``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _logger(self) -> logging.Logger:
        import logging

        _run_prepared()
        return logging.getLogger(self.name)

    def warning(self, message: str, *arguments: object) -> None:
        self._logger().warning(message, *arguments)

    def exception(self, message: str, *arguments: object) -> None:
        """With the traceback of the exception that is being handled."""
        self._logger().exception(message, *arguments)
