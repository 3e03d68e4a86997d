"""M, multiplication and division. RISC-V Unprivileged ISA 20240411, chapter 13.

Division never traps: x / 0 is all ones, x % 0 is x, and the signed overflow wraps, as in the op table.
"""

from __future__ import annotations

from vm_core.isa.riscv.state import rv


@rv.insn("0000001 rs2 rs1 000 rd 0110011")
def mul(x, rd, rs1, rs2):
    x[rd] = x[rs1] * x[rs2]


@rv.insn("0000001 rs2 rs1 001 rd 0110011")
def mulh(x, rd, rs1, rs2):
    x[rd] = (x[rs1].sext(128) * x[rs2].sext(128))[127:64]


@rv.insn("0000001 rs2 rs1 010 rd 0110011")
def mulhsu(x, rd, rs1, rs2):
    x[rd] = (x[rs1].sext(128) * x[rs2].zext(128))[127:64]


@rv.insn("0000001 rs2 rs1 011 rd 0110011")
def mulhu(x, rd, rs1, rs2):
    x[rd] = (x[rs1].zext(128) * x[rs2].zext(128))[127:64]


@rv.insn("0000001 rs2 rs1 100 rd 0110011")
def div(x, rd, rs1, rs2):
    x[rd] = x[rs1].sdiv(x[rs2])


@rv.insn("0000001 rs2 rs1 101 rd 0110011")
def divu(x, rd, rs1, rs2):
    x[rd] = x[rs1].udiv(x[rs2])


@rv.insn("0000001 rs2 rs1 110 rd 0110011")
def rem(x, rd, rs1, rs2):
    x[rd] = x[rs1].srem(x[rs2])


@rv.insn("0000001 rs2 rs1 111 rd 0110011")
def remu(x, rd, rs1, rs2):
    x[rd] = x[rs1].urem(x[rs2])


@rv.insn("0000001 rs2 rs1 000 rd 0111011")
def mulw(x, rd, rs1, rs2):
    x[rd] = (x[rs1][31:0] * x[rs2][31:0]).sext(64)


@rv.insn("0000001 rs2 rs1 100 rd 0111011")
def divw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].sdiv(x[rs2][31:0]).sext(64)


@rv.insn("0000001 rs2 rs1 101 rd 0111011")
def divuw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].udiv(x[rs2][31:0]).sext(64)


@rv.insn("0000001 rs2 rs1 110 rd 0111011")
def remw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].srem(x[rs2][31:0]).sext(64)


@rv.insn("0000001 rs2 rs1 111 rd 0111011")
def remuw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].urem(x[rs2][31:0]).sext(64)
