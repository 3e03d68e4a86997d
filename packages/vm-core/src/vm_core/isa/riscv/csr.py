"""Zicsr and Zicntr, control and status registers of user mode. RISC-V Unprivileged ISA 20240411, chapters 7 and 8.

fflags, frm and fcsr can be written; cycle, time and instret only read, which leaves the set and clear forms with a
source of x0 or 0. Any other CSR is an illegal instruction.
"""

from __future__ import annotations

from vm_core.isa.riscv.state import READ_ONLY, rv
from vm_core.spec import when

_WRITABLE = "csr==1,2,3"
_READABLE = "csr==1,2,3,3072,3073,3074"


@rv.insn("csr rs1 001 rd 1110011", where=_WRITABLE)
def csrrw(x, csrs, rd, csr, rs1):
    new = x[rs1]
    x[rd] = csrs.read(csr)
    csrs.write(csr, new)


@rv.insn("csr uimm 101 rd 1110011", where=_WRITABLE)
def csrrwi(x, csrs, rd, csr, uimm):
    x[rd] = csrs.read(csr)
    csrs.write(csr, uimm)


def set_bits(csrs, csr, mask):
    """Returns the old value. No bits to set: not written, so that x0 as the source is a plain read."""
    old = csrs.read(csr)
    if csr < READ_ONLY:
        with when(mask != 0):
            csrs.write(csr, old | mask)
    return old


def clear_bits(csrs, csr, mask):
    """Returns the old value. No bits to clear: not written."""
    old = csrs.read(csr)
    if csr < READ_ONLY:
        with when(mask != 0):
            csrs.write(csr, old & ~mask)
    return old


@rv.insn("csr rs1 010 rd 1110011", where=_READABLE)
def csrrs(x, csrs, rd, csr, rs1):
    x[rd] = set_bits(csrs, csr, x[rs1])


@rv.insn("csr rs1 011 rd 1110011", where=_READABLE)
def csrrc(x, csrs, rd, csr, rs1):
    x[rd] = clear_bits(csrs, csr, x[rs1])


@rv.insn("csr uimm 110 rd 1110011", where=_READABLE)
def csrrsi(x, csrs, rd, csr, uimm):
    x[rd] = set_bits(csrs, csr, uimm)


@rv.insn("csr uimm 111 rd 1110011", where=_READABLE)
def csrrci(x, csrs, rd, csr, uimm):
    x[rd] = clear_bits(csrs, csr, uimm)
