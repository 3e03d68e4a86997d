"""Hardware virtualisation: vCPUs over KVM, HVF and WHPX (:mod:`vm_accel.interface`), chosen by :mod:`vm_accel.registry`."""

from __future__ import annotations

from vm_accel.errors import AcceleratorUnavailable, EntitlementMissing, HypervisorError
from vm_accel.interface import Bus, Feature, Hypervisor, Machine, MachineBackend, Vcpu, Vm, VmConfig
from vm_accel.kvm.host import Flavour, flavour
from vm_accel.registry import available, choose, open_hypervisor, open_machines, probe

__all__ = [
    "AcceleratorUnavailable",
    "Bus",
    "EntitlementMissing",
    "Feature",
    "Flavour",
    "Hypervisor",
    "HypervisorError",
    "Machine",
    "MachineBackend",
    "Vcpu",
    "Vm",
    "VmConfig",
    "available",
    "choose",
    "flavour",
    "open_hypervisor",
    "open_machines",
    "probe",
]
