"""What is said while a sysroot is made, always on standard error: bars on a terminal, one line a step otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from vm_cli.report import note, printable

__all__ = ["Bars", "Lines", "Progress", "Quiet", "Step", "progress", "size"]


def size(count: int) -> str:
    """Bytes for a person."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


class Step(Protocol):
    """Work whose end is known. ``advance`` may be called from any thread."""

    def advance(self, count: int) -> None: ...


class Progress(Protocol):
    """Where the parts say what they do."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def step(self, what: str, total: int, *, of_bytes: bool = True) -> Any:
        """A context manager that gives a Step. ``total`` is in bytes, or counts things."""


class _Count:
    def __init__(self) -> None:
        self.done = 0
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self.done += count


class Quiet:
    """Says nothing, and remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def step(self, what: str, total: int, *, of_bytes: bool = True) -> Iterator[Step]:
        yield _Count()


class Lines(Quiet):
    """One line when a step has ended."""

    def note(self, text: str) -> None:
        super().note(text)
        note(text)

    @contextmanager
    def step(self, what: str, total: int, *, of_bytes: bool = True) -> Iterator[Step]:
        start, count = time.monotonic(), _Count()
        yield count
        seconds = time.monotonic() - start
        if count.done:
            amount = size(count.done) if of_bytes else f"{count.done}"
            print(f"vm: {printable(what)}: {amount}, {seconds:.1f} s", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)


class Bars(Lines):
    """A bar while a step goes on."""

    @contextmanager
    def step(self, what: str, total: int, *, of_bytes: bool = True) -> Iterator[Step]:
        from rich import progress as rich_progress
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amount,
            TimeRemainingColumn(),
        )
        with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
            yield _Bar(bars, bars.add_task(printable(what), total=total))


def progress() -> Lines:
    """What suits this standard error."""
    return Bars() if sys.stderr.isatty() else Lines()
