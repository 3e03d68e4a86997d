"""Zba, Zbb and Zbs, bit manipulation. RISC-V Unprivileged ISA 20240411, chapter 29."""

from __future__ import annotations

from vm_core.isa.riscv.state import rv
from vm_core.spec import bits, select

# -- Zba: addresses -----------------------------------------------------------------------------------------------


@rv.insn("0000100 rs2 rs1 000 rd 0111011")
def add_uw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].zext(64) + x[rs2]


@rv.insn("0010000 rs2 rs1 010 rd 0110011")
def sh1add(x, rd, rs1, rs2):
    x[rd] = (x[rs1] << 1) + x[rs2]


@rv.insn("0010000 rs2 rs1 100 rd 0110011")
def sh2add(x, rd, rs1, rs2):
    x[rd] = (x[rs1] << 2) + x[rs2]


@rv.insn("0010000 rs2 rs1 110 rd 0110011")
def sh3add(x, rd, rs1, rs2):
    x[rd] = (x[rs1] << 3) + x[rs2]


@rv.insn("0010000 rs2 rs1 010 rd 0111011")
def sh1add_uw(x, rd, rs1, rs2):
    x[rd] = (x[rs1][31:0].zext(64) << 1) + x[rs2]


@rv.insn("0010000 rs2 rs1 100 rd 0111011")
def sh2add_uw(x, rd, rs1, rs2):
    x[rd] = (x[rs1][31:0].zext(64) << 2) + x[rs2]


@rv.insn("0010000 rs2 rs1 110 rd 0111011")
def sh3add_uw(x, rd, rs1, rs2):
    x[rd] = (x[rs1][31:0].zext(64) << 3) + x[rs2]


@rv.insn("000010 shamt rs1 001 rd 0011011")
def slli_uw(x, rd, rs1, shamt):
    x[rd] = x[rs1][31:0].zext(64) << shamt


# -- Zbb: logic with an inverted operand, counting, minimum and maximum -------------------------------------------


@rv.insn("0100000 rs2 rs1 111 rd 0110011")
def andn(x, rd, rs1, rs2):
    x[rd] = x[rs1] & ~x[rs2]


@rv.insn("0100000 rs2 rs1 110 rd 0110011")
def orn(x, rd, rs1, rs2):
    x[rd] = x[rs1] | ~x[rs2]


@rv.insn("0100000 rs2 rs1 100 rd 0110011")
def xnor(x, rd, rs1, rs2):
    x[rd] = ~(x[rs1] ^ x[rs2])


@rv.insn("0110000 00000 rs1 001 rd 0010011")
def clz(x, rd, rs1):
    x[rd] = x[rs1].clz()


@rv.insn("0110000 00000 rs1 001 rd 0011011")
def clzw(x, rd, rs1):
    x[rd] = x[rs1][31:0].clz().zext(64)


@rv.insn("0110000 00001 rs1 001 rd 0010011")
def ctz(x, rd, rs1):
    x[rd] = x[rs1].ctz()


@rv.insn("0110000 00001 rs1 001 rd 0011011")
def ctzw(x, rd, rs1):
    x[rd] = x[rs1][31:0].ctz().zext(64)


@rv.insn("0110000 00010 rs1 001 rd 0010011")
def cpop(x, rd, rs1):
    x[rd] = x[rs1].popcount()


@rv.insn("0110000 00010 rs1 001 rd 0011011")
def cpopw(x, rd, rs1):
    x[rd] = x[rs1][31:0].popcount().zext(64)


@rv.insn("0000101 rs2 rs1 110 rd 0110011")
def max_(x, rd, rs1, rs2):
    a, b = x[rs1], x[rs2]
    x[rd] = select(a.lt_s(b), b, a)


@rv.insn("0000101 rs2 rs1 111 rd 0110011")
def maxu(x, rd, rs1, rs2):
    a, b = x[rs1], x[rs2]
    x[rd] = select(a.lt_u(b), b, a)


@rv.insn("0000101 rs2 rs1 100 rd 0110011")
def min_(x, rd, rs1, rs2):
    a, b = x[rs1], x[rs2]
    x[rd] = select(a.lt_s(b), a, b)


@rv.insn("0000101 rs2 rs1 101 rd 0110011")
def minu(x, rd, rs1, rs2):
    a, b = x[rs1], x[rs2]
    x[rd] = select(a.lt_u(b), a, b)


@rv.insn("0110000 00100 rs1 001 rd 0010011")
def sext_b(x, rd, rs1):
    x[rd] = x[rs1][7:0].sext(64)


@rv.insn("0110000 00101 rs1 001 rd 0010011")
def sext_h(x, rd, rs1):
    x[rd] = x[rs1][15:0].sext(64)


@rv.insn("0000100 00000 rs1 100 rd 0111011")
def zext_h(x, rd, rs1):
    x[rd] = x[rs1][15:0].zext(64)


# -- Zbb: rotation, bytes -----------------------------------------------------------------------------------------


def rotate_left(value, amount):
    return value.rotate_right(0 - amount)


@rv.insn("0110000 rs2 rs1 001 rd 0110011")
def rol(x, rd, rs1, rs2):
    x[rd] = rotate_left(x[rs1], x[rs2])


@rv.insn("0110000 rs2 rs1 001 rd 0111011")
def rolw(x, rd, rs1, rs2):
    x[rd] = rotate_left(x[rs1][31:0], x[rs2][31:0]).sext(64)


@rv.insn("0110000 rs2 rs1 101 rd 0110011")
def ror(x, rd, rs1, rs2):
    x[rd] = x[rs1].rotate_right(x[rs2])


@rv.insn("011000 shamt rs1 101 rd 0010011")
def rori(x, rd, rs1, shamt):
    x[rd] = x[rs1].rotate_right(shamt)


@rv.insn("0110000 shamt[4:0] rs1 101 rd 0011011")
def roriw(x, rd, rs1, shamt):
    x[rd] = x[rs1][31:0].rotate_right(shamt).sext(64)


@rv.insn("0110000 rs2 rs1 101 rd 0111011")
def rorw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].rotate_right(x[rs2][31:0]).sext(64)


@rv.insn("001010000111 rs1 101 rd 0010011")
def orc_b(x, rd, rs1):
    low = 0x7F7F_7F7F_7F7F_7F7F
    a = x[rs1]
    top = (((a & low) + low) | a) & ~low  # bit 7 of each byte: is the byte not 0?
    ones = top >> 7
    x[rd] = (ones << 8) - ones


@rv.insn("011010111000 rs1 101 rd 0010011")
def rev8(x, rd, rs1):
    x[rd] = x[rs1].bswap()


# -- Zbs: single bits ---------------------------------------------------------------------------------------------


def bit(number):
    return bits(1, 64) << number


@rv.insn("0100100 rs2 rs1 001 rd 0110011")
def bclr(x, rd, rs1, rs2):
    x[rd] = x[rs1] & ~bit(x[rs2])


@rv.insn("010010 shamt rs1 001 rd 0010011")
def bclri(x, rd, rs1, shamt):
    x[rd] = x[rs1] & ~bit(shamt)


@rv.insn("0100100 rs2 rs1 101 rd 0110011")
def bext(x, rd, rs1, rs2):
    x[rd] = (x[rs1] >> x[rs2]) & 1


@rv.insn("010010 shamt rs1 101 rd 0010011")
def bexti(x, rd, rs1, shamt):
    x[rd] = (x[rs1] >> shamt) & 1


@rv.insn("0110100 rs2 rs1 001 rd 0110011")
def binv(x, rd, rs1, rs2):
    x[rd] = x[rs1] ^ bit(x[rs2])


@rv.insn("011010 shamt rs1 001 rd 0010011")
def binvi(x, rd, rs1, shamt):
    x[rd] = x[rs1] ^ bit(shamt)


@rv.insn("0010100 rs2 rs1 001 rd 0110011")
def bset(x, rd, rs1, rs2):
    x[rd] = x[rs1] | bit(x[rs2])


@rv.insn("001010 shamt rs1 001 rd 0010011")
def bseti(x, rd, rs1, shamt):
    x[rd] = x[rs1] | bit(shamt)
