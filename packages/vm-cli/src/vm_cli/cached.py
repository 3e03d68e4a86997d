"""The code cache as plain data. The cache itself belongs to vm_jit."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from vm_core.errors import EngineUnavailable, HostError

__all__ = ["clear", "directory", "entries", "prune"]


def _cache() -> Any:
    from vm_cli.settings import load

    chosen = load(os.environ).settings.cache_dir
    try:
        module = importlib.import_module("vm_jit.cache")
    except ImportError as error:
        raise EngineUnavailable(
            f"there is no code cache: {error}", hint="python -m pip install vm-jit"
        ) from None
    return module.Cache(chosen)


def directory() -> Path:
    """Where the cache is, or would be."""
    return Path(_cache().directory)


def entries() -> list[dict[str, Any]]:
    """Every entry, the largest first; one that must not be used has ``valid`` false and says why in ``error``.

    Raises HostError for a directory that cannot be read: it is not an empty one.
    """
    try:
        os.listdir(directory())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{directory()}: {error.strerror}", hint="vm doctor says more") from None
    found = [
        {"name": e.name, "bytes": e.size, "modified": e.mtime, "valid": e.valid, "error": e.error}
        for e in _cache().entries()
    ]
    return sorted(found, key=lambda entry: -entry["bytes"])


def clear() -> tuple[int, int]:
    """Delete all entries; returns how many there were and their bytes."""
    found = entries()
    _cache().clear()
    return len(found), sum(entry["bytes"] for entry in found)


def prune(limit: int) -> tuple[int, int]:
    """Delete bad entries and the oldest ones beyond ``limit`` bytes; returns how many and their bytes."""
    before = entries()
    cache = _cache()
    cache.verify()
    cache.prune(limit)
    kept = {entry["name"] for entry in entries()}
    gone = [entry["bytes"] for entry in before if entry["name"] not in kept]
    return len(gone), sum(gone)
