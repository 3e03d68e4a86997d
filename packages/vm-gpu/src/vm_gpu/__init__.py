"""vCPUs by the thousand on a GPU. Only the interface and a look at the host exist: :mod:`vm_gpu.interface`."""

from __future__ import annotations

from vm_gpu.interface import BatchEngine, Device, probe

__all__ = ["BatchEngine", "Device", "probe"]
