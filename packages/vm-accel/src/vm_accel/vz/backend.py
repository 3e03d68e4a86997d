"""The framework as a maker of machines, and whether it can be used here."""

from __future__ import annotations

import os
import platform
import sys
import threading
from typing import Any, Final

from vm_accel import macos
from vm_accel.errors import AcceleratorUnavailable
from vm_accel.interface import MachineConfig
from vm_accel.vz import table
from vm_accel.vz.configuration import ROSETTA
from vm_accel.vz.failure import raised
from vm_accel.vz.machine import VzMachine
from vm_accel.vz.objc import Failure, runtime
from vm_core.engine import Availability

__all__ = ["Vz", "discrepancies", "native"]

_OLDEST: Final = "12"
"""The first macOS with all that a machine without options needs."""


class Vz:
    """Whole Linux machines of the host's own ISA on macOS. Needs macOS 12, and an entitlement (:mod:`vm_accel.macos`)."""

    name = "vz"

    @property
    def isa(self) -> str:
        """That of the guests, which is the host's."""
        return {"arm64": "aarch64"}.get(platform.machine(), platform.machine())

    @property
    def simulated(self) -> bool:
        """Whether VM_VZ_LIBRARY has put something in the framework's place."""
        return bool(os.environ.get("VM_VZ_LIBRARY"))

    @staticmethod
    def probe() -> Availability:
        """Whether machines can be made here."""
        override = os.environ.get("VM_VZ_LIBRARY")
        try:
            run = runtime()
        except OSError as error:
            what = override or "the Virtualization framework"
            return Availability(False, f"{what} cannot be loaded: {error}", f"vz needs macOS {_OLDEST}")
        if not run.has("VZVirtualMachine", "stopWithCompletionHandler:"):
            return Availability(
                False, f"macOS {platform.mac_ver()[0]} is too old", f"vz needs macOS {_OLDEST}"
            )
        if not run.send(run.cls("VZVirtualMachine"), "isSupported"):
            return Availability(False, "this Mac has no virtualisation, as inside most virtual machines")
        if sys.platform == "darwin":
            lacking = macos.missing(macos.VIRTUALIZATION)
            if lacking is not None:
                return Availability(False, str(lacking), lacking.hint)
        return Availability(True, "Virtualization framework" + (f" ({override})" if override else ""))

    def create(self, config: MachineConfig) -> VzMachine:
        """A stopped machine. Raises UsageError for a wrong configuration, EntitlementMissing or AcceleratorUnavailable for what
        is not there."""
        try:
            run = runtime()
        except OSError as error:
            raise AcceleratorUnavailable(
                f"the Virtualization framework cannot be loaded: {error}", hint=f"vz needs macOS {_OLDEST}"
            ) from None
        return VzMachine(run, config)

    def install_rosetta(self, timeout: float | None = None) -> None:
        """Download and install Rosetta for Linux; macOS asks the user."""
        run = runtime()
        done = threading.Event()
        failures: list[Failure] = []

        def finished(error: Any) -> None:
            try:
                if error:
                    with run.scope():
                        failures.append(run.failure(error))
            finally:
                done.set()

        with run.scope():
            owner = run.cls("VZLinuxRosettaDirectoryShare")
            run.send(owner, "installRosettaWithCompletionHandler:", run.blocks.take(finished))
        if not done.wait(timeout):
            raise TimeoutError("Rosetta is not installed yet")
        if failures:
            raise raised("installing Rosetta", failures[0], hint=ROSETTA)


def native(row: table.Method) -> str | None:
    """The loaded framework's own encoding of a row; None if it has no such method."""
    run = runtime()
    if not run.has(row.owner, row.selector, static=row.static):
        return None
    owner = run.cls(row.owner)
    method = run.class_getInstanceMethod(
        run.object_getClass(owner) if row.static else owner, run.selector(row.selector)
    )
    # A method that is found only when it is called has no encoding to read.
    return run.ffi.string(run.method_getTypeEncoding(method)).decode() if method else row.encoding


def discrepancies() -> list[str]:
    """Compare every row of the table with the loaded frameworks: one line for each class, method or encoding that is otherwise.

    This is what can be checked on a Mac without starting a machine; rows that are newer than the macOS show as missing.
    """
    found = []
    for row in table.methods():
        name = f"{'+' if row.static else '-'}[{row.owner} {row.selector}]"
        encoding = native(row)
        if encoding is None:
            found.append(
                f"{name} is missing (macOS {row.since or 'any'}{' on ' + row.arch if row.arch else ''})"
            )
        elif not table.same(encoding, row.encoding):
            found.append(f"{name} is {encoding}, not {row.encoding}")
    return found
