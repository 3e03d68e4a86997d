"""Memory order of one access, in C++ terms, and how a pair of acquire and release bits names it."""

from __future__ import annotations

from vm_core.hints import Final

__all__ = ["ACQUIRE", "ACQ_REL", "PLAIN", "RELEASE", "SEQ_CST", "Order"]

PLAIN: Final = "plain"
"""As the guest's model says for ordinary accesses."""
ACQUIRE: Final = "acquire"
RELEASE: Final = "release"
ACQ_REL: Final = "acq_rel"
SEQ_CST: Final = "seq_cst"


def Order(aq: int, rl: int) -> str:
    """The order that RISC-V's aq and rl bits ask for (Unprivileged ISA 20240411, section 14.1)."""
    return {(0, 0): PLAIN, (1, 0): ACQUIRE, (0, 1): RELEASE, (1, 1): SEQ_CST}[aq, rl]
