"""What can go wrong with a sysroot. Each kind has a stable code."""

from __future__ import annotations

from vm_core.errors import VmError

__all__ = [
    "DependencyError",
    "MirrorError",
    "PackageError",
    "StaleError",
    "SysrootError",
    "VerificationError",
]


class SysrootError(VmError):
    """A directory that cannot be made a sysroot, or is none."""

    code = "VM400"


class MirrorError(VmError):
    """No Debian archive is known, it cannot be reached, or no suite of it has what is asked for."""

    code = "VM401"


class StaleError(MirrorError):
    """A suite whose index has expired, or names what the mirror does not have. The next suite is tried."""


class VerificationError(VmError):
    """A signature or a checksum is wrong, or cannot be checked here."""

    code = "VM402"


class DependencyError(VmError):
    """A package that the suite does not have, or whose dependencies cannot be met."""

    code = "VM403"


class PackageError(VmError):
    """A package or an index that is malformed, or that would write outside of the sysroot."""

    code = "VM404"
