"""What a whole-image translator offers. No translator is built yet, and :func:`probe` says so."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vm_core.engine import Availability, Engine
from vm_core.memory import GuestMemory

__all__ = ["Image", "Translator", "probe"]


class Image(Protocol):
    """A translated guest image: host code for every guest instruction that was found, and where it starts."""

    isa: str
    content_hash: str
    """SHA-256, in hex, of the guest bytes that were translated; a different guest must not use this image."""
    instructions: int
    """Guest instructions translated; code that was not found is left to another engine."""

    def engine(self, memory: GuestMemory, fallback: Engine) -> Engine:
        """An engine that runs this image, and ``fallback`` for guest addresses outside it."""


class Translator(Protocol):
    """Makes an :class:`Image` from an ELF file."""

    def translate(self, path: Path) -> Image:
        """Translate the program or library at ``path``. Raises LoadError for a file that is none."""


def probe() -> Availability:
    """Whether a translator can be used here."""
    return Availability(False, "not built yet", "use the JIT (vm run --engine jit)")
