"""String instructions: one iteration, which REP runs again (SDM volume 1, 7.3.9.3). So a fault, an interrupt or the end
of a budget falls between two elements, with all registers as the manual says; each iteration counts as an instruction.
"""

from __future__ import annotations

from contextlib import contextmanager

from vm_core.isa.x86_64.decode import ISA
from vm_core.spec import bits, select, when

x86 = ISA
RCX, RSI, RDI = 1, 6, 7


@contextmanager
def _repeated(r, pc, rep):
    """Nothing happens where rCX is 0; otherwise it is decremented, and while that leaves some, the instruction is run
    again."""
    if not rep:
        yield
        return
    count = r[RCX]
    with when(count != 0):
        yield
        r[RCX] = count - 1
    with when((count != 0) & (count != 1)):
        pc.repeat()


@x86.encodings("A4 Xb; A5 Xv", "string")
def movs(r, flags, mem, pc, w, rep):
    step = select(flags.df, bits(-(w // 8), 64), w // 8)
    source, target = r[RSI], r[RDI]
    with _repeated(r, pc, rep):
        mem.store(target, mem.load(source, w))
        r[RSI] = source + step
        r[RDI] = target + step


@x86.encodings("AA Xb; AB Xv", "string")
def stos(r, flags, mem, pc, w, rep):
    step = select(flags.df, bits(-(w // 8), 64), w // 8)
    target, value = r[RDI], r.part(0, w).get()
    with _repeated(r, pc, rep):
        mem.store(target, value)
        r[RDI] = target + step
