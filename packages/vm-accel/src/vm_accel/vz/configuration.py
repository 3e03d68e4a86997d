"""A :class:`~vm_accel.interface.MachineConfig` as a VZVirtualMachineConfiguration.

What the framework would answer with an exception, or with an error that says nothing, is checked here first.
"""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vm_accel.errors import AcceleratorUnavailable
from vm_accel.interface import Disk, MachineConfig, Network, Share
from vm_accel.vz import table
from vm_accel.vz.failure import raised
from vm_accel.vz.objc import Runtime, Scope
from vm_core.errors import UsageError

__all__ = ["EXTRA", "ROSETTA", "check", "check_kernel", "configure"]

EXTRA: Final = {
    "efi_store": (str, os.PathLike),
    "machine_identifier": (bytes,),
    "mtu": (int,),
    "nested": (bool,),
}
"""What ``MachineConfig.extra`` can hold, with its type. ``efi_store``: the file of the firmware's variables, made if it is not
there. ``machine_identifier``: from ``VzMachine.machine_identifier``, so that a saved machine is the same one again. ``mtu``: 1500
to 65535, of cards with a socket. ``nested``: the guest can have guests of its own."""

ROSETTA: Final = "softwareupdate --install-rosetta --agree-to-license"

_SECTOR: Final = 512
_MEMORY_UNIT: Final = 1 << 20
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_CACHING: Final = {"auto": "Automatic", "cached": "Cached", "uncached": "Uncached"}
_BUSES: Final = {
    "virtio": "VZVirtioBlockDeviceConfiguration",
    "nvme": "VZNVMExpressControllerDeviceConfiguration",
    "usb": "VZUSBMassStorageDeviceConfiguration",
}


# -- what needs no framework ------------------------------------------------------------------------------------------------


def _file(what: str, path: Path, *, directory: bool = False) -> os.stat_result:
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise UsageError(f"{what} {path}: {getattr(error, 'strerror', error)}") from None
    if directory and not stat.S_ISDIR(info.st_mode):
        raise UsageError(f"{what} {path} is not a directory")
    if not directory and not stat.S_ISREG(info.st_mode):
        raise UsageError(f"{what} {path} is not a file")
    return info


def check_kernel(path: Path, machine: str) -> None:
    """Refuse a kernel that the framework would start, or fail to, without a word: on arm64 it takes only the plain ``Image``.

    arm64: "ARMd" at 56 (Documentation/arch/arm64/booting.rst); x86: "HdrS" at 0x202 (Documentation/arch/x86/boot.rst).
    """
    _file("kernel", path)
    with open(path, "rb") as file:
        head = file.read(0x206)
    if machine in ("arm64", "aarch64"):
        if head[:2] == b"\x1f\x8b":
            raise UsageError(f"kernel {path} is compressed", hint=f"gunzip -c {path} > Image")
        if head[:8] == b"MZ\0\0zimg":
            raise UsageError(
                f"kernel {path} is a compressed EFI program",
                hint="take the Image that it was made from, or boot by EFI",
            )
        if head[56:60] != b"ARM\x64":
            raise UsageError(f"kernel {path} is not an arm64 Image")
    elif head[0x202:0x206] != b"HdrS":
        raise UsageError(f"kernel {path} is not an x86 bzImage")


def _check_disk(disk: Disk) -> None:
    size = _file("disk", disk.path).st_size
    if not size or size % _SECTOR:
        raise UsageError(
            f"disk {disk.path} has {size} bytes, which is no multiple of {_SECTOR}",
            hint="only raw images are taken",
        )
    if not os.access(disk.path, os.R_OK if disk.read_only else os.R_OK | os.W_OK):
        raise UsageError(f"disk {disk.path} cannot be {'read' if disk.read_only else 'written'}")
    if disk.caching not in _CACHING:
        raise UsageError(f"no caching is called {disk.caching!r}", hint=f"one of {', '.join(_CACHING)}")
    if disk.bus not in _BUSES:
        raise UsageError(f"no bus is called {disk.bus!r}", hint=f"one of {', '.join(_BUSES)}")
    if disk.name and disk.bus != "virtio":
        raise UsageError(f"a disk on {disk.bus} has no name")


def _check_extra(extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        kinds = EXTRA.get(key)
        if kinds is None:
            raise UsageError(f"vz knows no {key!r}", hint=f"one of {', '.join(EXTRA)}")
        if not isinstance(value, kinds) or (int in kinds and isinstance(value, bool)):
            raise UsageError(f"{key} must be {' or '.join(kind.__name__ for kind in kinds)}, not {value!r}")


def check(config: MachineConfig) -> None:
    """Everything about a configuration that can be said without the framework. Raises UsageError."""
    _check_extra(config.extra)
    if config.kernel is not None:
        check_kernel(config.kernel, platform.machine())
        if "efi_store" in config.extra:
            raise UsageError("a machine boots a kernel or by EFI, not both")
    elif "efi_store" not in config.extra:
        raise UsageError("a machine without a kernel boots by EFI", hint="extra={'efi_store': PATH}")
    elif not config.disks:
        raise UsageError("EFI firmware needs a disk to boot")
    if config.initrd is not None:
        if config.kernel is None:
            raise UsageError("an initrd needs a kernel")
        _file("initrd", config.initrd)
    for disk in config.disks:
        _check_disk(disk)
    for network in config.networks:
        if network.mac is not None and not _MAC.fullmatch(network.mac):
            raise UsageError(f"{network.mac!r} is no MAC address", hint="such as 5a:94:ef:00:00:01")
        if network.mac is not None and int(network.mac[:2], 16) & 1:
            raise UsageError(
                f"{network.mac} is the address of a group of cards", hint="the first byte must be even"
            )
    if "mtu" in config.extra and not 1500 <= config.extra["mtu"] <= 65535:
        raise UsageError(f"an MTU of {config.extra['mtu']} is not within 1500 and 65535")
    tags = [share.tag for share in config.shares]
    if len(set(tags)) != len(tags):
        raise UsageError("two shares have one tag")
    for share in config.shares:
        if share.rosetta == (share.path is not None):
            raise UsageError(f"share {share.tag} needs {'no path' if share.rosetta else 'a path'}")
        if share.path is not None:
            _file("share", share.path, directory=True)


# -- the framework's objects ------------------------------------------------------------------------------------------------


def handle(scope: Scope, fd: int) -> Any:
    """An NSFileHandle with a descriptor of its own, closed with it."""
    own = os.dup(fd)
    try:
        return scope.new("NSFileHandle", "initWithFileDescriptor:closeOnDealloc:", own, True)
    except BaseException:
        os.close(own)
        raise


def _boot(run: Runtime, scope: Scope, config: MachineConfig) -> Any:
    if config.kernel is not None:
        loader = scope.new("VZLinuxBootLoader", "initWithKernelURL:", run.url(config.kernel))
        run.send(loader, "setCommandLine:", run.string(config.command_line))
        if config.initrd is not None:
            run.send(loader, "setInitialRamdiskURL:", run.url(config.initrd))
        return loader
    path = Path(config.extra["efi_store"])
    loader = scope.new("VZEFIBootLoader")
    if path.exists():
        store = scope.new("VZEFIVariableStore", "initWithURL:", run.url(path))
    else:
        store, failure = scope.try_new(
            "VZEFIVariableStore", "initCreatingVariableStoreAtURL:options:error:", run.url(path), 0
        )
        if failure:
            raise raised(f"making the EFI variable store {path}", failure)
    run.send(loader, "setVariableStore:", store)
    return loader


def _platform(run: Runtime, scope: Scope, config: MachineConfig) -> tuple[Any, bytes]:
    """The platform and its machine identifier; nil and empty before macOS 12 and 13."""
    wanted = config.extra.get("machine_identifier")
    nested = config.extra.get("nested", False)
    if not run.has("VZGenericPlatformConfiguration") and not nested and wanted is None:
        return None, b""
    made = scope.new("VZGenericPlatformConfiguration")
    identifier = b""
    if wanted is not None or run.has("VZGenericMachineIdentifier"):
        if wanted is None:
            same = scope.new("VZGenericMachineIdentifier")
        else:
            same = scope.maybe("VZGenericMachineIdentifier", "initWithDataRepresentation:", run.data(wanted))
            if not same:
                raise UsageError("machine_identifier is none of this framework's")
        run.send(made, "setMachineIdentifier:", same)
        identifier = run.content(run.send(same, "dataRepresentation"))
    if nested:
        owner = run.cls("VZGenericPlatformConfiguration")
        if not run.send(owner, "isNestedVirtualizationSupported"):
            raise AcceleratorUnavailable("this Mac has no nested virtualisation: it needs an M3 or later")
        run.send(made, "setNestedVirtualizationEnabled:", True)
    return made, identifier


def _disk(run: Runtime, scope: Scope, disk: Disk) -> Any:
    # UTM's and Lima's finding, and so this default of Disk: with Automatic, Linux guests read stale blocks of sparse images.
    caching = table.enum("VZDiskImageCachingMode")[_CACHING[disk.caching]]
    sync = table.enum("VZDiskImageSynchronizationMode")["Full" if disk.sync else "None"]
    attachment, failure = scope.try_new(
        "VZDiskImageStorageDeviceAttachment",
        "initWithURL:readOnly:cachingMode:synchronizationMode:error:",
        run.url(disk.path),
        disk.read_only,
        caching,
        sync,
    )
    if failure:
        raise raised(f"attaching {disk.path}", failure)
    device = scope.new(_BUSES[disk.bus], "initWithAttachment:", attachment)
    if disk.name:
        name = run.string(disk.name)
        good, failure = run.checked(run.cls(_BUSES["virtio"]), "validateBlockDeviceIdentifier:error:", name)
        if not good and failure:
            raise UsageError(f"no disk can be called {disk.name!r}: {failure.text}")
        run.send(device, "setBlockDeviceIdentifier:", name)
    return device


def _network(run: Runtime, scope: Scope, network: Network, mtu: int | None) -> tuple[Any, str]:
    device = scope.new("VZVirtioNetworkDeviceConfiguration")
    if network.fd is None:
        attachment = scope.new("VZNATNetworkDeviceAttachment")
    else:
        attachment = scope.new(
            "VZFileHandleNetworkDeviceAttachment", "initWithFileHandle:", handle(scope, network.fd)
        )
        if mtu is not None:
            run.send(attachment, "setMaximumTransmissionUnit:", mtu)
    if network.mac is None:
        address = run.send(run.cls("VZMACAddress"), "randomLocallyAdministeredAddress")
    else:
        address = scope.new("VZMACAddress", "initWithString:", run.string(network.mac))
    run.send(device, "setMACAddress:", address)
    run.send(device, "setAttachment:", attachment)
    return device, run.text(run.send(address, "string"))


def _rosetta(run: Runtime, scope: Scope) -> Any:
    available = run.send(run.cls("VZLinuxRosettaDirectoryShare"), "availability")
    states = table.enum("VZLinuxRosettaAvailability")
    if available == states["NotSupported"]:
        raise AcceleratorUnavailable("this Mac has no Rosetta for Linux: it needs Apple silicon")
    if available == states["NotInstalled"]:
        raise AcceleratorUnavailable("Rosetta is not installed", hint=ROSETTA)
    share, failure = scope.try_new("VZLinuxRosettaDirectoryShare", "initWithError:")
    if failure:
        raise raised("sharing Rosetta", failure, hint=ROSETTA)
    return share


def _share(run: Runtime, scope: Scope, share: Share) -> Any:
    tag = run.string(share.tag)
    good, failure = run.checked(run.cls("VZVirtioFileSystemDeviceConfiguration"), "validateTag:error:", tag)
    if not good and failure:
        raise UsageError(f"no share can be called {share.tag!r}: {failure.text}")
    device = scope.new("VZVirtioFileSystemDeviceConfiguration", "initWithTag:", tag)
    if share.path is None:
        what = _rosetta(run, scope)
    else:
        url = run.url(share.path, directory=True)
        directory = scope.new("VZSharedDirectory", "initWithURL:readOnly:", url, share.read_only)
        what = scope.new("VZSingleDirectoryShare", "initWithDirectory:", directory)
    run.send(device, "setShare:", what)
    return device


def _size(run: Runtime, made: Any, config: MachineConfig) -> None:
    owner = run.cls("VZVirtualMachineConfiguration")
    least, most = run.send(owner, "minimumAllowedCPUCount"), run.send(owner, "maximumAllowedCPUCount")
    if not least <= config.cpus <= most:
        raise UsageError(f"{config.cpus} CPUs are not within {least} and {most}")
    run.send(made, "setCPUCount:", config.cpus)
    memory = -(-config.memory_bytes // _MEMORY_UNIT) * _MEMORY_UNIT
    least, most = run.send(owner, "minimumAllowedMemorySize"), run.send(owner, "maximumAllowedMemorySize")
    if not least <= memory <= most:
        raise UsageError(f"{memory >> 20} MiB of memory are not within {least >> 20} and {most >> 20}")
    run.send(made, "setMemorySize:", memory)


def configure(
    run: Runtime, scope: Scope, config: MachineConfig, console: tuple[int, int]
) -> tuple[Any, bytes, list[str]]:
    """A validated configuration of the scope's, its machine identifier, and the MAC addresses of its cards.

    ``console``: descriptors from which the serial console reads, and to which it writes.
    """
    check(config)
    made = scope.new("VZVirtualMachineConfiguration")
    _size(run, made, config)
    run.send(made, "setBootLoader:", _boot(run, scope, config))
    board, identifier = _platform(run, scope, config)
    if board:
        run.send(made, "setPlatform:", board)
    reading, writing = (handle(scope, fd) for fd in console)
    serial = scope.new("VZVirtioConsoleDeviceSerialPortConfiguration")
    ends = scope.new(
        "VZFileHandleSerialPortAttachment",
        "initWithFileHandleForReading:fileHandleForWriting:",
        reading,
        writing,
    )
    run.send(serial, "setAttachment:", ends)
    run.send(made, "setSerialPorts:", run.array([serial]))
    run.send(made, "setStorageDevices:", run.array([_disk(run, scope, each) for each in config.disks]))
    cards = [_network(run, scope, each, config.extra.get("mtu")) for each in config.networks]
    run.send(made, "setNetworkDevices:", run.array([card for card, _ in cards]))
    if config.shares:
        shares = [_share(run, scope, each) for each in config.shares]
        run.send(made, "setDirectorySharingDevices:", run.array(shares))
    for wanted, name, setter in (
        (config.entropy, "VZVirtioEntropyDeviceConfiguration", "setEntropyDevices:"),
        (config.balloon, "VZVirtioTraditionalMemoryBalloonDeviceConfiguration", "setMemoryBalloonDevices:"),
        (config.vsock, "VZVirtioSocketDeviceConfiguration", "setSocketDevices:"),
    ):
        if wanted:
            run.send(made, setter, run.array([scope.new(name)]))
    good, failure = run.checked(made, "validateWithError:")
    if not good and failure:
        raise raised("validation of the configuration", failure)
    return made, identifier, [address for _, address in cards]
