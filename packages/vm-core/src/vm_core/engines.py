"""Finding engines: plugins of the entry point group ``vm.engines``, and the choice of one by name."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from vm_core.engine import Availability, Engine
from vm_core.errors import EngineUnavailable, UsageError
from vm_core.hints import Any, Final
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa

__all__ = [
    "ENGINES",
    "available",
    "cache_directory",
    "cache_zone",
    "create",
    "enter_cache_zone",
    "import_path",
]

ENGINES: Final = ("auto", "jit", "baseline", "interp", "reference", "kvm")
_BUILT_IN: Final = {
    "jit": "vm_jit.engine:NativeEngine",
    "baseline": "vm_jit.engine:BaselineEngine",
    "interp": "vm_jit.engine:InterpreterEngine",
    "reference": "vm_core.execute:ReferenceEngine",
    "kvm": "vm_accel.user.engine:KvmEngine",
}
_PACKAGES: Final = {"kvm": "vm-accel"}


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


def _load(name: str) -> Any:
    """The engine's class. KeyError for an unknown name, ImportError for one that cannot be loaded."""
    if name in _BUILT_IN:
        # Not looked up among the installed packages: that reads every one's metadata, on each start.
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    from importlib.metadata import entry_points

    for entry in entry_points(group="vm.engines", name=name):
        return entry.load()
    raise KeyError(name)


def create(name: str, isa: Isa, memory: GuestMemory, **options: object) -> Engine:
    """The engine called ``name`` for one guest process. ``auto`` is the JIT, or without vm-jit the reference executor.

    Raises UsageError for an unknown name and EngineUnavailable, with the reason, for one that cannot be used.
    """
    if name == "auto":
        try:
            return create("jit", isa, memory, **options)
        except EngineUnavailable as error:
            import logging

            logging.getLogger("vm").warning("running in the reference executor, which is slow: %s", error)
            return create("reference", isa, memory, **options)
    try:
        try:
            make = _load(name)
        except KeyError:
            raise UsageError(f"no engine is called {name!r}", hint=f"known: {', '.join(ENGINES)}") from None
        engine: Engine = make(isa, memory, **options)
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine {name!r} cannot be loaded: {error}",
            hint=f"install it: python -m pip install {_PACKAGES.get(name, 'vm-jit')}",
        ) from error
    return engine


def available() -> dict[str, Availability]:
    """Every known engine, and whether it can be used here."""
    from importlib.metadata import entry_points

    out = {}
    for name in {**_BUILT_IN, **{entry.name: "" for entry in entry_points(group="vm.engines")}}:
        try:
            found = _load(name)
        except Exception as error:  # noqa: BLE001  a broken plugin is listed, never raised
            out[name] = Availability(False, f"{type(error).__name__}: {error}", "reinstall its package")
            continue
        probe = getattr(found, "probe", None)
        out[name] = probe() if callable(probe) else Availability(True)
    return out
