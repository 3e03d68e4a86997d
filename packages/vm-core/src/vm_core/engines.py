"""Finding engines: plugins of the entry point group ``vm.engines``, and the choice of one by name."""

from __future__ import annotations

from importlib import import_module

from vm_core.engine import Availability, Engine
from vm_core.errors import EngineUnavailable, UsageError
from vm_core.hints import Any, Final
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa

__all__ = [
    "ENGINES",
    "available",
    "create",
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
