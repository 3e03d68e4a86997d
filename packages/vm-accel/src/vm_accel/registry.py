"""Finding a hypervisor: what is there, and the choice of one by name (``VM_ACCEL``, ``--accel``).

A back end is a module of this package with ``probe() -> Availability`` and a class; it is loaded when it is asked for.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from typing import Any, Final, NamedTuple, cast

from vm_accel.errors import AcceleratorUnavailable
from vm_accel.interface import Hypervisor, MachineBackend
from vm_core.engine import Availability
from vm_core.errors import UsageError

__all__ = ["CHOICES", "Choice", "available", "choose", "open_hypervisor", "open_machines", "probe"]

CHOICES: Final = ("auto", "kvm", "hvf", "whpx", "vz", "none")

_SYSTEMS: Final = {"kvm": "linux", "hvf": "darwin", "whpx": "win32", "vz": "darwin"}
_CLASSES: Final = {
    "kvm": "vm_accel.kvm.hypervisor:Kvm",
    "hvf": "vm_accel.hvf:Hvf",
    "whpx": "vm_accel.whpx:Whpx",
    "vz": "vm_accel.vz:Vz",
}
_MACHINES: Final = {"kvm": "vm_accel.pc.backend:KvmMachines", "vz": "vm_accel.vz:Vz"}
"""Who makes whole machines. vz has no vCPUs to give."""
_LIBRARIES: Final = {"hvf": "VM_HVF_LIBRARY", "whpx": "VM_WHPX_LIBRARY", "vz": "VM_VZ_LIBRARY"}
"""A library to load in place of the system's own, with the same entry points: the simulators of the tests."""


class Choice(NamedTuple):
    """``name`` is one of CHOICES without ``auto``; ``reason`` says why it is none, or why something better is not used."""

    name: str
    reason: str = ""
    hint: str = ""


def _load(name: str) -> Any:
    if name == "kvm" and platform.machine() in {"aarch64", "riscv64"}:
        return import_module("vm_accel.kvm.one_reg").KvmOneReg
    module, _, attribute = _CLASSES[name].partition(":")
    return getattr(import_module(module), attribute)


def _load_software() -> Any:
    return import_module("vm_accel.software").Software


def _load_machines(name: str) -> Any:
    module, _, attribute = _MACHINES[name].partition(":")
    return getattr(import_module(module), attribute)


def _probe(name: str) -> Availability:
    if sys.platform != _SYSTEMS[name] and not os.environ.get(_LIBRARIES.get(name, "")):
        return Availability(False, f"{name} is of another system than {sys.platform}")
    try:
        found: Availability = _load(name).probe()
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("vm_accel"):
            return Availability(False, str(error), "python -m pip install vm-accel")
        return Availability(False, f"{name} is not built yet")
    except (ImportError, OSError) as error:
        return Availability(
            False, f"{type(error).__name__}: {error}", "python -m pip install --force-reinstall cffi"
        )
    return found


def available() -> dict[str, Availability]:
    """Every back end by name, with the reason of one that cannot be used here."""
    return {name: _probe(name) for name in _CLASSES}


def probe() -> Availability:
    """Whether any can be used here."""
    found = available()
    usable = [name for name, state in found.items() if state.available]
    if usable:
        return Availability(True, ", ".join(usable))
    native = {name: state for name, state in found.items() if _SYSTEMS[name] == sys.platform}
    if not native:
        return Availability(False, f"{sys.platform} has no hypervisor that vm knows")
    reason = "; ".join(state.reason for state in native.values())
    return Availability(False, reason, next((state.hint for state in native.values() if state.hint), ""))


def choose(wanted: str | None = None, *, machines: bool = False) -> Choice:
    """Which back end to use. ``wanted`` is one of CHOICES; None: ``VM_ACCEL``, else ``auto``.

    ``auto`` takes the first that works, or none, and the reason says so: whoever composes shows it. A back end that was named and
    does not work raises AcceleratorUnavailable; a wrong name UsageError. ``machines``: whole machines (kvm, vz), not vCPUs.
    """
    name = wanted if wanted is not None else os.environ.get("VM_ACCEL") or "auto"
    if name not in CHOICES:
        raise UsageError(f"no accelerator is called {name!r}", hint=f"one of {', '.join(CHOICES)}")
    if name == "none":
        return Choice("none", "not wanted")
    fitting = list(_MACHINES) if machines else [each for each in _CLASSES if each != "vz"]
    if name != "auto":
        if name not in fitting:
            what = "runs vCPUs" if machines else "runs whole machines"
            raise UsageError(f"{name} {what} only", hint=f"one of {', '.join(fitting)}")
        found = _probe(name)
        if not found.available:
            raise AcceleratorUnavailable(f"{name} cannot be used: {found.reason}", hint=found.hint)
        return Choice(name)
    reasons, hint = [], ""
    for each in fitting:
        found = _probe(each)
        if found.available:
            return Choice(each)
        if _SYSTEMS[each] == sys.platform:
            reasons.append(f"{each}: {found.reason}")
            hint = hint or found.hint
    return Choice("none", "; ".join(reasons) or f"{sys.platform} has no hypervisor that vm knows", hint)


def open_hypervisor(wanted: str | None = None) -> Hypervisor:
    """The chosen hypervisor, opened. ``none``, if that was asked for, is vm's own engines; where ``auto`` finds nothing that works,
    AcceleratorUnavailable: they are slower by far, and have no system registers."""
    choice = choose(wanted)
    if choice.name == "none" and (wanted or os.environ.get("VM_ACCEL")) == "none":
        return cast("Hypervisor", _load_software()())
    if choice.name == "none":
        raise AcceleratorUnavailable(f"no hypervisor: {choice.reason}", hint=choice.hint)
    return cast("Hypervisor", _load(choice.name)())


def open_machines(wanted: str | None = None) -> MachineBackend:
    """The chosen maker of whole machines; AcceleratorUnavailable if that is none."""
    choice = choose(wanted, machines=True)
    if choice.name == "none":
        raise AcceleratorUnavailable(f"no machine backend: {choice.reason}", hint=choice.hint)
    return cast("MachineBackend", _load_machines(choice.name)())
