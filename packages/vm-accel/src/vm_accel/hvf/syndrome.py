"""What an exception syndrome (ESR_ELx) says. DDI 0487K, D24.2.40."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

__all__ = ["Class", "DataAbort", "SystemAccess", "data_abort", "exception_class", "system_access"]


class Class(enum.IntEnum):
    """EC, bits 31:26: those that a guest's exit can have."""

    UNKNOWN = 0x00
    WFX = 0x01
    HVC64 = 0x16
    SMC64 = 0x17
    SYSTEM = 0x18
    INSTRUCTION_ABORT = 0x20
    DATA_ABORT = 0x24
    BREAKPOINT = 0x30
    STEP = 0x32
    WATCHPOINT = 0x34
    BRK = 0x3C


_ISV: Final = 1 << 24
_PERMISSION: Final = 0b0011


class DataAbort(NamedTuple):
    """ISS of a data abort. ``valid`` (ISV) says whether size, register, sign and width mean anything: they do only for loads
    and stores of one general register without writeback."""

    valid: bool
    size: int
    """Bytes."""
    signed: bool
    register: int
    wide: bool
    """The register is written with 64 bits, else 32."""
    is_write: bool
    cache_maintenance: bool
    in_walk: bool
    """The guest's own page tables lie where nothing is (S1PTW)."""
    permission: bool
    """There is memory, which may not be accessed so; else there is none."""


class SystemAccess(NamedTuple):
    """ISS of a trapped MSR or MRS. ``number`` is op0 << 14 | op1 << 11 | CRn << 7 | CRm << 3 | op2."""

    number: int
    register: int
    is_write: bool


def exception_class(syndrome: int) -> int:
    """EC."""
    return syndrome >> 26 & 0x3F


def data_abort(syndrome: int) -> DataAbort:
    """Of a syndrome with EC 0x24."""
    return DataAbort(
        valid=bool(syndrome & _ISV),
        size=1 << (syndrome >> 22 & 3),
        signed=bool(syndrome >> 21 & 1),
        register=syndrome >> 16 & 31,
        wide=bool(syndrome >> 15 & 1),
        is_write=bool(syndrome >> 6 & 1),
        cache_maintenance=bool(syndrome >> 8 & 1),
        in_walk=bool(syndrome >> 7 & 1),
        permission=syndrome >> 2 & 0xF == _PERMISSION,
    )


def system_access(syndrome: int) -> SystemAccess:
    """Of a syndrome with EC 0x18."""
    op0, op2, op1 = syndrome >> 20 & 3, syndrome >> 17 & 7, syndrome >> 14 & 7
    crn, crm = syndrome >> 10 & 15, syndrome >> 1 & 15
    return SystemAccess(
        op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2, syndrome >> 5 & 31, not syndrome & 1
    )
