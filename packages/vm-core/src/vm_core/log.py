"""Log messages of the packages, under the logger ``vm``.

PERF: :mod:`logging` is loaded by the first message, because most runs have none and it is a tenth of their start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["Log", "configure"]

_prepare: list[Callable[[], None]] = []


def configure(prepare: Callable[[], None]) -> None:
    """Call ``prepare``, which sets up the logger ``vm``, before the first message; now, if logging is loaded."""
    _prepare[:] = [prepare]
    if "logging" in sys.modules:
        _run_prepared()


def _run_prepared() -> None:
    while _prepare:
        _prepare.pop()()


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
