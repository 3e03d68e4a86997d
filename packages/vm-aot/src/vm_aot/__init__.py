"""Ahead-of-time translation of whole guest images. Only the interface exists: :mod:`vm_aot.interface`."""

from __future__ import annotations

from vm_aot.interface import Image, Translator, probe

__all__ = ["Image", "Translator", "probe"]
