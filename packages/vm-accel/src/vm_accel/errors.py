"""What can go wrong with the host's hypervisor. What the guest does is an exit, never one of these."""

from __future__ import annotations

from typing import ClassVar

from vm_core.errors import EngineUnavailable, HostError

__all__ = ["AcceleratorUnavailable", "EntitlementMissing", "HypervisorError"]


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
