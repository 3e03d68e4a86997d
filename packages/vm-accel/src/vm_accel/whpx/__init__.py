"""WHPX: Windows Hypervisor Platform, x86-64."""

from __future__ import annotations

from vm_accel.whpx.platform import Whpx, WhpxVm

__all__ = ["Whpx", "WhpxVm"]
