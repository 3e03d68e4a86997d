"""vCPUs without a hypervisor: vm's own engines behind the protocol of the others (``VM_ACCEL=none``)."""

from vm_accel.software.hypervisor import Software

__all__ = ["Software"]
