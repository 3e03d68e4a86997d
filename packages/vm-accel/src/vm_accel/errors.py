"""What can go wrong with the host's hypervisor, and in a function of a guest that Python called (:mod:`vm_accel.user.guest`)."""

from __future__ import annotations

from typing import ClassVar

from vm_core.engine import Trap
from vm_core.errors import EngineUnavailable, GuestError, HostError

__all__ = [
    "AcceleratorUnavailable",
    "EntitlementMissing",
    "GuestEnded",
    "GuestFault",
    "GuestTimeout",
    "HypervisorError",
]


class AcceleratorUnavailable(EngineUnavailable):
    """No hypervisor, or not the one asked for, can be used here; the message gives the reason, the hint the command that helps."""

    code: ClassVar[str] = "VM310"


class HypervisorError(HostError):
    """A call of the host's hypervisor failed. ``call`` names it, ``status`` is its errno, HRESULT or hv_return_t."""

    code: ClassVar[str] = "VM311"

    def __init__(self, message: str, *, call: str = "", status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.call, self.status = call, status


class EntitlementMissing(AcceleratorUnavailable):
    """macOS refuses this Python its hypervisor: the program is not signed with the entitlement that `entitlement` names."""

    code: ClassVar[str] = "VM312"

    def __init__(self, message: str, *, entitlement: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.entitlement = entitlement


class GuestEnded(GuestError):
    """The program ended where a function of it should have returned, or before it was ready."""

    code: ClassVar[str] = "VM204"


class GuestFault(GuestError):
    """A called function did what a signal would kill its program for; `trap` says what. After a reset the guest can go on."""

    code: ClassVar[str] = "VM205"

    def __init__(self, message: str, trap: Trap) -> None:
        super().__init__(message)
        self.trap = trap


class GuestTimeout(GuestError):
    """A called function did not return in time. After a reset the guest can go on."""

    code: ClassVar[str] = "VM206"
