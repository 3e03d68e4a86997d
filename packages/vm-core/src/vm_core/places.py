"""Where vm's own files are: the cache of compiled code, and what its processes import from.

PERF: without engines and memory, as processes start from here that have neither.
"""

from __future__ import annotations

import os
import sys

from vm_core.hints import Final

__all__ = ["ZONE", "cache_directory", "cache_zone", "enter_cache_zone", "import_path"]


def cache_directory() -> str:
    """Where engines keep compiled code between runs: ``VM_CACHE_DIR``, else ``vm`` in the user's cache directory.

    What lies there is run as it is, by later guests' processes: no guest may see it.
    """
    if chosen := os.environ.get("VM_CACHE_DIR"):
        return chosen
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vm")


def import_path() -> list[str]:
    """``sys.path`` for a process that only runs vm's own code: without the current directory, where a guest may have put a module
    of any name. (The directory that vm itself is loaded from stays.)"""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        here = os.getcwd()
    except OSError:
        here = own  # it has been removed: nothing can be loaded from it
    return [path for path in sys.path if path and (os.path.abspath(path) != here or here == own)]


ZONE: Final = "zone-"
"""How the directories in the cache begin that hold what confined processes have left."""
_zone = ""


def enter_cache_zone(directory: str) -> None:
    """From now on, engines of this process keep code in this directory of the cache, and look there first.

    A process that is confined can write nowhere else in the cache. What its guest, past all that vm does, could leave there
    is found only by guests who may do as much.
    """
    global _zone
    _zone = directory


def cache_zone() -> str:
    """What :func:`enter_cache_zone` was told, or nothing."""
    return _zone
