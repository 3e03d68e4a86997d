"""AArch64 system registers by name: how MRS and MSR encode them (DDI 0487K, D18.3). Each hypervisor has its own number for that."""

from __future__ import annotations

from typing import Final

__all__ = ["ENCODINGS", "Encoding", "encoding_of", "packed"]

Encoding = tuple[int, int, int, int, int]
"""op0, op1, CRn, CRm, op2."""

ENCODINGS: Final[dict[str, Encoding]] = {
    "mpidr_el1": (3, 0, 0, 0, 5),
    "midr_el1": (3, 0, 0, 0, 0),
    "sctlr_el1": (3, 0, 1, 0, 0),
    "actlr_el1": (3, 0, 1, 0, 1),
    "cpacr_el1": (3, 0, 1, 0, 2),
    "ttbr0_el1": (3, 0, 2, 0, 0),
    "ttbr1_el1": (3, 0, 2, 0, 1),
    "tcr_el1": (3, 0, 2, 0, 2),
    "spsr_el1": (3, 0, 4, 0, 0),
    "elr_el1": (3, 0, 4, 0, 1),
    "sp_el0": (3, 0, 4, 1, 0),
    "afsr0_el1": (3, 0, 5, 1, 0),
    "afsr1_el1": (3, 0, 5, 1, 1),
    "esr_el1": (3, 0, 5, 2, 0),
    "far_el1": (3, 0, 6, 0, 0),
    "par_el1": (3, 0, 7, 4, 0),
    "mair_el1": (3, 0, 10, 2, 0),
    "amair_el1": (3, 0, 10, 3, 0),
    "vbar_el1": (3, 0, 12, 0, 0),
    "contextidr_el1": (3, 0, 13, 0, 1),
    "tpidr_el1": (3, 0, 13, 0, 4),
    "cntkctl_el1": (3, 0, 14, 1, 0),
    "csselr_el1": (3, 2, 0, 0, 0),
    "tpidr_el0": (3, 3, 13, 0, 2),
    "tpidrro_el0": (3, 3, 13, 0, 3),
    "cntv_ctl_el0": (3, 3, 14, 3, 1),
    "cntv_cval_el0": (3, 3, 14, 3, 2),
    "sp_el1": (3, 4, 4, 1, 0),
}
"""Those that are saved and restored, and the identification of the CPU."""


def packed(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The fields side by side, 16 bits, as in the instruction."""
    return op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


def encoding_of(name: str) -> Encoding:
    """That of ``sys.OP0.OP1.CRN.CRM.OP2``. KeyError for any other name."""
    word, *parts = name.split(".")
    if word == "sys" and len(parts) == 5 and all(part.isdecimal() for part in parts):
        op0, op1, crn, crm, op2 = map(int, parts)
        return op0, op1, crn, crm, op2
    raise KeyError(name)
