"""What a device offers and what a batch engine does with it. No device is driven yet; :func:`probe` says what is here."""

from __future__ import annotations

import ctypes.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vm_core.engine import Availability, Exit
from vm_core.state import CpuState

__all__ = ["BatchEngine", "Device", "probe"]


class Device(Protocol):
    """One GPU, NPU or CPU that runs kernels. Addresses are device addresses, lengths bytes."""

    name: str

    def allocate(self, length: int) -> int:
        """Device memory of ``length`` bytes. Raises HostError when there is not enough."""

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` returned."""

    def upload(self, address: int, data: bytes | memoryview) -> None:
        """Copy host bytes to the device."""

    def download(self, address: int, length: int) -> bytes:
        """Copy device bytes to the host."""

    def launch(self, kernel: str, lanes: int, arguments: Sequence[int]) -> None:
        """Run ``kernel`` on ``lanes`` lanes, after all that was queued before."""

    def synchronize(self) -> None:
        """Wait for all that was queued. Raises HostError with the driver's own error name."""


class BatchEngine(Protocol):
    """Runs many guests of one program, each a lane with its own registers and memory."""

    def run(self, cpus: Sequence[CpuState], limit: int) -> list[Exit]:
        """Run each vCPU at most ``limit`` instructions; one exit for each, in the order given."""


_DRIVERS = (
    ("cuda", "libcuda.so.1", Path("/proc/driver/nvidia/version")),
    ("rocm", "libamdhip64.so", Path("/dev/kfd")),
)


def probe() -> Availability:
    """Whether a batch engine can be used here. Looks for the vendors' drivers, but loads none of them."""
    found = [
        name
        for name, library, sign in _DRIVERS
        if sign.exists() and ctypes.util.find_library(library[3:].split(".", 1)[0])
    ]
    if found:
        return Availability(False, f"not built yet (the host has {' and '.join(found)})", "use the JIT")
    return Availability(False, "not built yet, and the host has no CUDA or ROCm driver", "use the JIT")
