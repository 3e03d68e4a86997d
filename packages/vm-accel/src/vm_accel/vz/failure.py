"""An NSError as one of our errors: a stable code, the framework's own name for it, and what helps."""

from __future__ import annotations

from functools import cache
from typing import Final

from vm_accel import macos
from vm_accel.errors import EntitlementMissing, HypervisorError
from vm_accel.vz import table
from vm_accel.vz.objc import Failure
from vm_core.errors import VmError

__all__ = ["DOMAIN", "raised"]

DOMAIN: Final = "VZErrorDomain"

_HINTS: Final = {
    "InvalidDiskImage": "only raw images are taken: qemu-img convert -O raw IMAGE RAW",
    "VirtualMachineLimitExceeded": "stop another machine; macOS allows so many at once",
    "OutOfDiskSpace": "free some space",
    "Restore": "restore on the Mac that saved, with the same configuration: machine identifier, MAC addresses, disks",
}
"""By the name of a VZErrorCode."""


@cache
def _names() -> dict[int, str]:
    return {code: name for name, code in table.enum("VZErrorCode").items()}


def raised(what: str, failure: Failure, *, hint: str = "") -> VmError:
    """The error to raise when ``what`` failed. A missing entitlement is recognised by its key, which no language translates."""
    text = " ".join(dict.fromkeys(each for each in (failure.text, failure.reason) if each))
    if failure.reason and failure.reason in failure.text:
        text = failure.text
    if failure.domain == DOMAIN:
        if macos.VIRTUALIZATION in text:
            return EntitlementMissing(
                f"{macos.executable()} is not signed with the entitlement {macos.VIRTUALIZATION}",
                entitlement=macos.VIRTUALIZATION,
                hint=macos.SIGN,
            )
        name = _names().get(failure.code, "")
        where = f"{name} ({failure.code})" if name else f"{DOMAIN} {failure.code}"
        hint = hint or _HINTS.get(name, "")
    else:
        where = f"{failure.domain} {failure.code}".strip()
    return HypervisorError(f"{what} failed: {where}: {text}", call=what, status=failure.code, hint=hint)
