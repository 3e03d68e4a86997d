"""What a managed heap offers. No collector is built yet, and :func:`probe` says so."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from vm_core.engine import Availability

__all__ = ["Heap", "Mutator", "probe"]


class Mutator(Protocol):
    """One thread that uses the heap. An object is named by its host address."""

    def allocate(self, layout: int) -> int:
        """A zeroed object of a registered layout. Raises HostError when the heap is full after a collection."""

    def load(self, holder: int, slot: int) -> int:
        """Read reference ``slot`` of ``holder``, through the read barrier if the collector has one."""

    def store(self, holder: int, slot: int, value: int) -> None:
        """Write reference ``slot`` of ``holder``, through the write barrier."""

    def safepoint(self) -> None:
        """Let the collector stop this thread here, if it wants to."""


class Heap(Protocol):
    """A heap of one process. Layouts are registered before the first object of their kind."""

    def layout(self, size: int, references: tuple[int, ...]) -> int:
        """Register objects of ``size`` bytes with references at these byte offsets; returns the layout's number."""

    def mutator(self) -> AbstractContextManager[Mutator]:
        """Attach the calling thread for the length of a ``with`` block."""

    def collect(self) -> None:
        """Run one full collection and wait for it."""


def probe() -> Availability:
    """Whether a heap can be used here."""
    return Availability(False, "not built yet")
