"""A look at the host's /dev/kvm: is it there, may we use it, which kind is it. Loads no cffi.

The ioctl number and the API version are those of Documentation/virt/kvm/api.rst, section 4.1.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["NO_KVM", "Flavour", "flavour"]

KVM_GET_API_VERSION: Final = 0xAE00
KVM_API_VERSION: Final = 12
NO_KVM: Final = "something else lies in its place: `ls -l` must show a character device 10, 232, and a container must be given that"
"""What to do about a device that does not know KVM's ioctls."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """Which kind of KVM this host has. ``name`` is one of vmx, svm, pvm, unknown and none.

    ``pvm`` has no hardware support beneath it: guest user code runs natively, guest kernel code is emulated.
    """

    name: str
    reason: str = ""
    hint: str = ""


def flavour(device: Path = Path("/dev/kvm"), modules: Path = Path("/sys/module")) -> Flavour:
    """Find out what stands behind ``device``, without making a machine."""
    if sys.platform != "linux":
        return Flavour("none", f"{sys.platform} has no KVM")
    if not device.exists():
        return Flavour(
            "none",
            f"there is no {device}",
            "load the module (sudo modprobe kvm_intel, or kvm_amd), or allow nested virtualisation",
        )
    try:
        version = _api_version(device)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return Flavour("none", f"{device} is no KVM", NO_KVM)
        hint = ""
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "add the user to the kvm group: sudo usermod -aG kvm $USER, then log in again"
        elif error.errno in (errno.ENODEV, errno.ENXIO):
            hint = "load the module: sudo modprobe kvm_intel, or kvm_amd"
        return Flavour("none", f"cannot open {device}: {error.strerror}", hint)
    if version != KVM_API_VERSION:
        return Flavour("none", f"{device} speaks API version {version}, not {KVM_API_VERSION}")
    # Modules and built-in parts of the kernel alike have a directory there.
    for module, name in (("kvm_pvm", "pvm"), ("kvm_intel", "vmx"), ("kvm_amd", "svm")):
        if (modules / module).is_dir():
            return Flavour(name)
    return Flavour("unknown", f"{modules} names no kind of KVM that is known")


def _api_version(device: Path) -> int:
    import fcntl  # not on every system that can import this module

    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(fd, KVM_GET_API_VERSION, 0)
    finally:
        os.close(fd)
