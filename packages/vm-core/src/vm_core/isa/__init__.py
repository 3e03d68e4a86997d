"""The instruction sets, loaded when first asked for."""

from __future__ import annotations

from importlib import import_module

from vm_core.errors import UsageError
from vm_core.hints import Final
from vm_core.spec.isa import Isa

__all__ = ["NAMES", "get"]

NAMES: Final = ("riscv64", "aarch64", "x86_64")
_ALIASES: Final = {
    "rv64": "riscv64",
    "riscv": "riscv64",
    "rv64gc": "riscv64",
    "a64": "aarch64",
    "arm64": "aarch64",
    "x86-64": "x86_64",
    "amd64": "x86_64",
    "x64": "x86_64",
}
_MODULES: Final = {"riscv64": "riscv", "aarch64": "aarch64", "x86_64": "x86_64"}


def get(name: str) -> Isa:
    """The ISA of that name or alias. Raises UsageError."""
    canonical = _ALIASES.get(name.lower(), name.lower())
    if canonical not in _MODULES:
        raise UsageError(f"no instruction set is called {name!r}", hint=f"known: {', '.join(NAMES)}")
    found = import_module(f"vm_core.isa.{_MODULES[canonical]}").ISA
    assert isinstance(found, Isa)
    return found
