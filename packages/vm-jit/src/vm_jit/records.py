"""The format of predecoded code, which the engine writes and the native interpreter reads.

Guest code is predecoded, page by page, into records of 32 bytes, one for each possible instruction address:

    0   address of the handler
    8   operands: up to four 16-bit state offsets, then immediates (see :class:`Plan`)
    20  for a jump to a computed address: where it went last (32 bits)
    24  heat (16 bits): how often a jump came here
    26  length of the instruction in bytes (8 bits)
    27  turns of the heat: how often it has become a multiple of 65,536, or that and HOT (8 bits)
    28  guest pc (32 bits)
"""

from __future__ import annotations

import enum

from vm_core.hints import Final
from vm_core.record import record
from vm_core.spec.isa import Decoded

__all__ = [
    "BUSY",
    "HEAT",
    "HOT",
    "LAST",
    "LENGTH",
    "LINKED",
    "LONGEST",
    "LOW",
    "MAX_LENGTH",
    "RECORD_BYTES",
    "RECORD_PC",
    "SHARED",
    "TURNS",
    "WORDS",
    "Plan",
    "Reason",
    "handler_key",
]

RECORD_BYTES: Final = 32
LAST: Final = 20
HEAT: Final = 24
LENGTH: Final = 26
TURNS: Final = 27
RECORD_PC: Final = 28
SHARED: Final = ("warmed", "returned", "handled", "missed")
"""The stencils that all units of the baseline tier in a chunk of code memory have in common."""
LOW: Final = 64
"""Jumps to one place before the baseline tier compiles it; a power of two."""
HOT: Final = 2048
"""Jumps to one place before it is handed to the optimising tier; a multiple of LOW."""
LINKED: Final = 8
"""The bit that the address of a unit's entry has set, and that of a handler has not."""
LONGEST: Final = 6
"""Instructions in a sequence that one handler does, at most; up to 8."""
BUSY: Final = 2
"""In a word that says who answers: native code is at it. (0: it may; 1: Python must.)"""
WORDS: Final = {
    "fences": 0,  # who answers fences
    "misses": 1,  # who decodes what has not been decoded
    "decode": 2,  # the host address of the native decoder
    "blocks": 3,  # how many blocks native code has decoded by itself
    "watches": 4,  # the host address of the ranges that are watched: their number, then first byte and end of each; or 0
    "context": 5,  # the decoder's context (vm_jit.decoder.function), of which native code fills in what is the page's
    "patience": 13,  # of the turns of a record's heat, those with all these bits clear are reported
    "looked": 14,  # how many pages a fence takes out of the table, and their numbers
}
"""Where in the words of a code image that native code knows (64 bits each) is what."""
MAX_LENGTH: Final = {1: 15, 2: 4, 4: 4}
"""The longest instruction in bytes, by the ISA's unit."""


class Reason(enum.IntEnum):
    """Why native code returned."""

    SYSCALL = 1
    MISS = 2
    EMULATE = 3
    BUDGET = 4
    HOT = 5
    BREAKPOINT = 6


@record(frozen=True)
class Plan:
    """How a handler's operands lie in its record. ``slots`` are (role r|w, file, field, offset), each a 16-bit state
    offset; ``immediates`` are (field, offset, bytes), signed."""

    symbol: str
    slots: tuple[tuple[str, str, str, int], ...]
    immediates: tuple[tuple[str, int, int], ...]


def handler_key(decoded: Decoded, *, returns: bool) -> str:
    """The name under which a decoded instruction's handler is found. Where an instruction may have any length (unit 1),
    one handler serves all, and takes it from the record."""
    insn = decoded.insn
    statics = ",".join(str(decoded.fields[name]) for name in insn.statics)
    length = decoded.length if insn.isa.unit > 1 else 0
    return f"{insn.name}/{statics}/{length}{'r' if returns else ''}"
