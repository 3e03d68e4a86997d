"""The power calls of an AArch64 guest, which the hypervisor must answer itself: Arm DEN 0022F (PSCI 1.2), section 5."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["VERSION", "Call", "Status"]

VERSION: Final = 1 << 16
"""1.0."""
_SMC64: Final = 0x4000_0000


class Call(enum.IntEnum):
    """Function numbers in their 32-bit form; :func:`of` folds the 64-bit one."""

    VERSION = 0x8400_0000
    CPU_SUSPEND = 0x8400_0001
    CPU_OFF = 0x8400_0002
    CPU_ON = 0x8400_0003
    AFFINITY_INFO = 0x8400_0004
    MIGRATE_INFO_TYPE = 0x8400_0006
    SYSTEM_OFF = 0x8400_0008
    SYSTEM_RESET = 0x8400_0009
    FEATURES = 0x8400_000A
    SYSTEM_RESET2 = 0x8400_0012

    @classmethod
    def of(cls, number: int) -> Call | None:
        """The call of a function number, if it is one of PSCI's."""
        number &= 0xFFFF_FFFF
        if number & _SMC64 and number & ~_SMC64 in _WIDE:
            number &= ~_SMC64
        try:
            return cls(number)
        except ValueError:
            return None


_WIDE: Final = frozenset((Call.CPU_SUSPEND, Call.CPU_ON, Call.AFFINITY_INFO, Call.SYSTEM_RESET2))
"""Those that have a 64-bit form."""


class Status(enum.IntEnum):
    """What a call gives back."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    ALREADY_ON = -4
    ON_PENDING = -5
    INTERNAL_FAILURE = -6
