"""Facts about this installation and host, as plain data. ``vm info`` and ``vm doctor`` show them."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from vm_core.engine import Availability

__all__ = ["PACKAGES", "accelerators", "engines", "facts", "version"]

PACKAGES: Final = ("vm-core", "vm-jit", "vm-aot", "vm-accel", "vm-gpu", "vm-gc", "vm-cli")
_PARTS: Final = {"aot": "vm_aot", "accel": "vm_accel", "gpu": "vm_gpu", "gc": "vm_gc"}


def version(package: str) -> str:
    """The installed version of a package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def engines() -> dict[str, Availability]:
    """Every engine by name, plugins included, with the reason of one that cannot be used."""
    from vm_core import engines as registry

    return dict(registry.available())


def accelerators() -> dict[str, Availability]:
    """The parts that are no engines, by name. Each one's own probe() says what is missing."""
    found = {}
    for name, module in _PARTS.items():
        try:
            found[name] = importlib.import_module(module).probe()
        except ImportError as error:
            hint = f"python -m pip install vm-{name}" if error.name == module else ""
            found[name] = Availability(False, "not installed" if hint else str(error), hint)
        except Exception as error:  # noqa: BLE001 - a broken part is listed with its reason, it breaks nothing
            found[name] = Availability(False, f"{type(error).__name__}: {error}", "reinstall it")
    return found


def llvm_version() -> str | None:
    """The LLVM that llvmlite brings, or None without llvmlite."""
    try:
        from llvmlite import binding
    except (ImportError, OSError):
        return None
    return ".".join(str(part) for part in binding.llvm_version_info)


def host_cpu() -> dict[str, Any]:
    """Model, cores that this process may use, and architecture."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": model or platform.processor() or "unknown",
        "cores": cores,
        "machine": platform.machine(),
    }


def isas() -> dict[str, Any]:
    """The guest ISAs by name, with the number of instructions each one defines."""
    from vm_core import isa as registry

    out: dict[str, Any] = {}
    for name in ("riscv64", "aarch64", "x86_64"):
        try:
            out[name] = {"instructions": len(list(registry.get(name).instructions))}
        except Exception as error:  # noqa: BLE001 - listed with its reason
            out[name] = {"error": f"{type(error).__name__}: {error}"}
    return out


def _listed(found: dict[str, Availability]) -> dict[str, Any]:
    return {name: {"available": a.available, "reason": a.reason, "hint": a.hint} for name, a in found.items()}


def facts() -> dict[str, Any]:
    """All of it, as ``vm info --json`` prints it."""
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "host": {"system": platform.system(), "release": platform.release(), "cpu": host_cpu()},
        "llvm": llvm_version(),
        "engines": _listed(engines()),
        "accelerators": _listed(accelerators()),
        "guests": isas(),
    }
