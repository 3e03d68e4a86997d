"""The maker of Linux machines over KVM, and what it says about configurations that it cannot have."""

from __future__ import annotations

import platform
import sys
from typing import Final

from vm_accel.errors import AcceleratorUnavailable
from vm_accel.interface import MachineConfig
from vm_accel.pc import linux
from vm_core.engine import Availability
from vm_core.errors import UsageError

if sys.platform == "linux":
    from vm_accel.kvm.hypervisor import Kvm
    from vm_accel.pc.machine import LINES, PcMachine

__all__ = ["EXTRA", "KvmMachines"]

EXTRA: Final = {"protocol": linux.PROTOCOLS}
"""What ``MachineConfig.extra`` can hold. ``protocol``: how a kernel is entered; ``auto``: PVH where an ELF kernel has it."""

_LEAST: Final = 4 << 20
_MOST: Final = 1 << 40
_MAX_CPUS: Final = 255


def _lacking() -> str:
    """Why this host can have none; empty if it may."""
    if sys.platform != "linux":
        return f"{sys.platform} has no KVM"
    if platform.machine() != "x86_64":
        return f"machines over KVM are of x86-64, and this host is {platform.machine()}"
    return ""


class KvmMachines:
    """Linux machines of x86-64. See :class:`vm_accel.interface.MachineBackend`."""

    name = "kvm"
    isa = "x86_64"

    @staticmethod
    def probe() -> Availability:
        if reason := _lacking():
            return Availability(False, reason)
        return Kvm.probe()

    def create(self, config: MachineConfig) -> PcMachine:
        """A stopped machine. Files are looked at when it starts. Raises UsageError for what these machines do not have."""
        if reason := _lacking():
            raise AcceleratorUnavailable(reason)
        if config.kernel is None:
            raise UsageError(
                "machines over KVM start a kernel, and have no firmware",
                hint="kernel=PATH, a bzImage or vmlinux",
            )
        lacks = [
            text
            for wanted, text in (
                (config.networks, "network cards"),
                (config.shares, "shared directories"),
                (config.balloon, "a balloon"),
                (config.vsock, "vsock"),
            )
            if wanted
        ]
        if lacks:
            raise UsageError(f"machines over KVM have no {' and no '.join(lacks)}")
        for key, value in config.extra.items():
            if key not in EXTRA:
                raise UsageError(f"kvm knows no {key!r}", hint=f"one of {', '.join(EXTRA)}")
            if value not in EXTRA[key]:
                raise UsageError(f"{key} must be one of {', '.join(EXTRA[key])}, not {value!r}")
        if not 1 <= config.cpus <= _MAX_CPUS:
            raise UsageError(f"{config.cpus} CPUs are not within 1 and {_MAX_CPUS}")
        memory = -(-config.memory_bytes >> 20) << 20
        if not _LEAST <= memory <= _MOST:
            raise UsageError(f"{config.memory_bytes} bytes of memory are not within 4 MiB and 1 TiB")
        if 1 + len(config.disks) + config.entropy > len(LINES):
            raise UsageError(f"{len(config.disks)} disks are more than {len(LINES) - 2}")
        for disk in config.disks:
            if disk.bus != "virtio":
                raise UsageError(f"machines over KVM have no {disk.bus} disks", hint="bus='virtio'")
            if disk.caching not in ("cached", "auto"):
                raise UsageError(
                    f"a disk that is {disk.caching} is not possible here", hint="caching='cached'"
                )
        return PcMachine(config, config.kernel, memory, config.extra.get("protocol", "auto"))
