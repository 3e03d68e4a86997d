"""Hardware virtualisation. Only the interface and a look at the host exist: :mod:`vm_accel.interface`."""

from __future__ import annotations

from vm_accel.interface import Flavour, Hypervisor, flavour, probe

__all__ = ["Flavour", "Hypervisor", "flavour", "probe"]
