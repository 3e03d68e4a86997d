"""A managed heap for language runtimes. Only the interface exists: :mod:`vm_gc.interface`."""

from __future__ import annotations

from vm_gc.interface import Heap, Mutator, probe

__all__ = ["Heap", "Mutator", "probe"]
