"""The language in which instructions are written. ISA texts import from here and nowhere else."""

from vm_core.spec import fp
from vm_core.spec.isa import Decoded, Instruction, Isa
from vm_core.spec.order import ACQ_REL, ACQUIRE, PLAIN, RELEASE, SEQ_CST, Order
from vm_core.spec.pattern import Codec, Constraint, Kind, Pattern, Reg, Signed, Static, Strongest, Unsigned
from vm_core.spec.template import Op, Template, parse
from vm_core.spec.trace import Bits, Tracer, bits, concat, select, tracer, when
from vm_core.spec.views import Memory, Pc, Registers, Trap, choose
from vm_core.state import RegisterFile

__all__ = [
    "ACQUIRE",
    "ACQ_REL",
    "PLAIN",
    "RELEASE",
    "SEQ_CST",
    "Bits",
    "Codec",
    "Constraint",
    "Decoded",
    "Instruction",
    "Isa",
    "Kind",
    "Memory",
    "Op",
    "Order",
    "Pattern",
    "Pc",
    "Reg",
    "RegisterFile",
    "Registers",
    "Signed",
    "Static",
    "Strongest",
    "Template",
    "Tracer",
    "Trap",
    "Unsigned",
    "bits",
    "choose",
    "concat",
    "fp",
    "parse",
    "select",
    "tracer",
    "when",
]
