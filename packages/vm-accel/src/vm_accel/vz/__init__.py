"""Whole Linux machines by Apple's Virtualization framework."""

from __future__ import annotations

from vm_accel.vz.backend import Vz
from vm_accel.vz.machine import VzMachine
from vm_accel.vz.vsock import VsockListener

__all__ = ["VsockListener", "Vz", "VzMachine"]
