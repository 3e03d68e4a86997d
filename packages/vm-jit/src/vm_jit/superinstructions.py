"""Superinstructions: sequences of instructions that one handler does.

Which sequences is measured (``benchmarks/sequences.py`` writes :mod:`vm_jit.sequences`); what a handler does is the composition of
its instructions' templates. Each instruction keeps its own record and its own handler. Where a sequence begins, the record leads
to the sequence's handler, which takes its operands from the records that follow. So a jump into the middle finds what it
always found, and whatever a sequence cannot do (too little fuel, a refused access) it leaves to the own handler of the
instruction at which that happens, with everything before it done.

A step of a sequence also says how its operands relate to what the sequence has written before, one character a slot of
the record (:class:`vm_jit.records.Plan`), in the slots' order:

    1 to 7  the register that was written that many instructions before, last
    z       the zero register, or its sink
    .       neither

and then ``n`` for a direct jump within the page. So values go from one instruction to the next in host registers, and what is
overwritten within the sequence is not stored. A step with the relation ``?`` is any operands.
"""

from __future__ import annotations

from collections.abc import Iterator

from vm_core.errors import SpecError
from vm_core.hints import Final
from vm_core.record import record
from vm_core.spec.isa import Isa
from vm_core.spec.template import Template
from vm_jit.records import LONGEST, Plan

__all__ = [
    "ANY",
    "ZERO",
    "Kind",
    "Step",
    "Steps",
    "code",
    "kind",
    "relation",
    "sequences",
    "zero_offsets",
]

Step = tuple[str, str]
"""The key of an instruction's handler (:func:`vm_jit.records.handler_key`), and the relation."""
Steps = tuple[Step, ...]
ANY: Final = "?"
ZERO: Final = 8
NEAR: Final = 1 << 16
GENERAL: Final = 1 << 17
_DIGITS: Final = ".1234567z"
_LEFT_OUT: Final = frozenset(
    {"trap", "amo", "cas", "load_reserved", "store_conditional", "fence", "sync_fetch", "probe", "fp.get_flags", "fp.set_flags", "fp.set_rounding"}
)  # fmt: skip


@record(frozen=True)
class Kind:
    """What is asked of an instruction's handler for it to be a part of sequences. ``written`` is the slot of the register that
    it writes, or None; ``ends`` says that it jumps, ``direct`` that its target is the pc plus its one immediate of eight bytes."""

    written: int | None
    ends: bool
    direct: bool


def kind(isa: Isa, template: Template, how: Plan) -> Kind | None:
    """None if the instruction cannot be part of a sequence."""
    cells = (*template.reads, *template.writes)
    if template.codes & _LEFT_OUT or len(template.writes) > 1:
        return None
    if any(not isinstance(index, str) or isa.layout.files[file].width > 64 for file, index in cells):
        return None
    written = None
    for file, index in template.writes:
        role = "w" if isa.layout.files[file].zero is not None else "r"
        written = [slot[:3] for slot in how.slots].index((role, file, str(index)))
    wrote = False
    for op in template.ops:
        wrote |= op.code == "setreg"
        if wrote and op.code in ("reg", "load", "store"):
            return None
    jumps = [op for op in template.ops if op.code == "setpc"]
    direct = False
    if jumps:
        target = template.ops[jumps[0].args[0]]
        added = sorted(template.ops[arg].code for arg in target.args)
        direct = target.code == "add" and added == ["field", "pc"] and len(how.immediates) == 1
        direct &= how.immediates[0][2] == 8 if how.immediates else False
    return Kind(written, bool(jumps), direct)


def code(relation: str) -> int:
    """A relation as the decoder has it: four bits a slot, then NEAR; or GENERAL."""
    if relation == ANY:
        return GENERAL
    near = relation.endswith("n")
    slots = relation.removesuffix("n")
    return sum(_DIGITS.index(one) << 4 * i for i, one in enumerate(slots)) | (NEAR if near else 0)


def relation(offsets: list[int], before: list[int | None], special: frozenset[int], *, near: bool) -> str:
    """How the slots of an instruction relate to those that the instructions before it wrote, the last one first."""
    out = ""
    for offset in offsets:
        if offset in special:
            out += "z"
        else:
            out += _DIGITS[before.index(offset) + 1] if offset in before else "."
    return out + ("n" if near else "")


def zero_offsets(isa: Isa) -> frozenset[int]:
    """The state offsets of the registers that are always zero, and of the sinks of what is written there."""
    out: set[int] = set()
    for name, file in isa.layout.files.items():
        if file.zero is not None:
            out |= {isa.layout.offset(name, file.zero), isa.layout.offset(name, file.write_slot(file.zero))}
    return frozenset(out)


def parse(text: str) -> Iterator[Steps]:
    """The sequences in a text: one a line, its steps behind one another, each ``key relation``."""
    for line in text.split("\n"):
        words = line.split()
        if words:
            if len(words) % 2 or len(words) > 2 * LONGEST:
                raise SpecError(f"not a sequence: {line!r}")
            yield tuple(zip(words[::2], words[1::2], strict=True))


def sequences(isa: Isa) -> list[Steps]:
    """Those that were chosen for an ISA; none if it was not measured."""
    from vm_jit.sequences import SEQUENCES

    return list(parse(SEQUENCES.get(isa.name, "")))
