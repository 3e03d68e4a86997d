"""Exception generation, hints, barriers and system registers. DDI 0487K, C4.1.93."""

from __future__ import annotations

from vm_core.isa.aarch64.state import ISA
from vm_core.spec import ACQUIRE, SEQ_CST, concat

a64 = ISA


@a64.insn("1101010100 0 00 011 0010 0000 000 11111", "")
def nop():
    """Hints that are not known are NOPs too (C6.2.126); this slice has only NOP itself."""


@a64.insn("11010100 000 imm16 000 01", "#imm16")
def svc(trap, imm16):
    trap("syscall")


@a64.insn("11010100 001 imm16 000 00", "#imm16")
def brk(trap, imm16):
    trap("breakpoint")


@a64.insn("1101010100 0 00 011 0011 1011 1 01 11111", "ish")
def dmb(mem):
    mem.fence(SEQ_CST)


@a64.insn("1101010100 0 00 011 0011 1001 1 01 11111", "ishld")
def dmb_ishld(mem):
    mem.fence(ACQUIRE)


@a64.insn("1101010100 0 00 011 0011 1111 1 10 11111", "")
def isb(mem):
    mem.sync_fetch()


@a64.insn("1101010100 1 11 011 0100 0010 000 rt", "rt, nzcv")
def mrs(x, nzcv, rt):
    n, z, c, v = nzcv.get()
    x[rt] = concat(concat(n, z), concat(c, v)).zext(64) << 28


@a64.insn("1101010100 0 11 011 0100 0010 000 rt", "nzcv, rt")
def msr(x, nzcv, rt):
    value = x[rt]
    nzcv.set((value[31], value[30], value[29], value[28]))


@a64.insn("1101010100 1 11 011 1101 0000 010 rt", "rt, tpidr_el0")
def mrs_tpidr(x, sys, rt):
    x[rt] = sys[0]


@a64.insn("1101010100 0 11 011 1101 0000 010 rt", "tpidr_el0, rt")
def msr_tpidr(x, sys, rt):
    sys[0] = x[rt]
