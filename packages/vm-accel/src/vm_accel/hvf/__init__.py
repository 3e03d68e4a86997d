"""HVF: Apple's Hypervisor framework, on Apple silicon; Intel by its declarations only."""

from __future__ import annotations

from vm_accel.hvf.platform import Hvf, HvfVm

__all__ = ["Hvf", "HvfVm"]
