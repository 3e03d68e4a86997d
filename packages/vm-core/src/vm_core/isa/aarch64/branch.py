"""Branches. DDI 0487K, C4.1.93."""

from __future__ import annotations

from vm_core.isa.aarch64.state import ISA, Condition, width

a64 = ISA


@a64.insn("0101010 0 imm[20:2] 0 cond", "#imm")
def b_cond(pc, nzcv, imm, cond):
    pc.branch(Condition(nzcv, cond), pc + imm)


@a64.insn("0 00101 imm[27:2]", "#imm")
def b(pc, imm):
    pc.jump(pc + imm)


@a64.insn("1 00101 imm[27:2]", "#imm")
def bl(x, pc, imm):
    x[30] = pc.next
    pc.call(pc + imm)


@a64.insn("1101011 0 0 00 11111 0000 0 0 rn 00000", "rn")
def br(x, pc, rn):
    pc.jump(x[rn])


@a64.insn("1101011 0 0 01 11111 0000 0 0 rn 00000", "rn")
def blr(x, pc, rn):
    target = x[rn]
    x[30] = pc.next
    pc.call(target)


@a64.insn("1101011 0 0 10 11111 0000 0 0 rn 00000", "rn")
def ret(x, pc, rn):
    pc.ret(x[rn])


@a64.insn("sf 011010 0 imm[20:2] rt", "rt, #imm")
def cbz(x, pc, sf, imm, rt):
    pc.branch(x.get(rt, width(sf)) == 0, pc + imm)


@a64.insn("sf 011010 1 imm[20:2] rt", "rt, #imm")
def cbnz(x, pc, sf, imm, rt):
    pc.branch(x.get(rt, width(sf)) != 0, pc + imm)


@a64.insn("bit[5] 011011 0 bit[4:0] imm[15:2] rt", "rt, #bit, #imm")
def tbz(x, pc, bit, imm, rt):
    pc.branch(~(x[rt] >> bit)[0], pc + imm)


@a64.insn("bit[5] 011011 1 bit[4:0] imm[15:2] rt", "rt, #bit, #imm")
def tbnz(x, pc, bit, imm, rt):
    pc.branch((x[rt] >> bit)[0], pc + imm)
