"""A, atomic instructions. RISC-V Unprivileged ISA 20240411, chapter 14.

Addresses must be aligned to the access: a misaligned one traps.
"""

from __future__ import annotations

from vm_core.isa.riscv.state import rv
from vm_core.spec import Order

_OPERATIONS = {
    "amoswap": "swap",
    "amoadd": "add",
    "amoxor": "xor",
    "amoand": "and",
    "amoor": "or",
    "amomin": "min",
    "amomax": "max",
    "amominu": "umin",
    "amomaxu": "umax",
}


# -- load-reserved, store-conditional (14.2) ----------------------------------------------------------------------


@rv.insn("00010 aq rl 00000 rs1 010 rd 0101111", "rd, (rs1)")
def lr_w(x, mem, rd, rs1, aq, rl):
    x[rd] = mem.load_reserved(x[rs1], 32, Order(aq, rl)).sext(64)


@rv.insn("00010 aq rl 00000 rs1 011 rd 0101111", "rd, (rs1)")
def lr_d(x, mem, rd, rs1, aq, rl):
    x[rd] = mem.load_reserved(x[rs1], 64, Order(aq, rl))


@rv.insn("00011 aq rl rs2 rs1 010 rd 0101111", "rd, rs2, (rs1)")
def sc_w(x, mem, rd, rs1, rs2, aq, rl):
    x[rd] = mem.store_conditional(x[rs1], x[rs2][31:0], Order(aq, rl)).zext(64)


@rv.insn("00011 aq rl rs2 rs1 011 rd 0101111", "rd, rs2, (rs1)")
def sc_d(x, mem, rd, rs1, rs2, aq, rl):
    x[rd] = mem.store_conditional(x[rs1], x[rs2], Order(aq, rl)).zext(64)


# -- atomic memory operations (14.4) ------------------------------------------------------------------------------


@rv.rows(
    """
    amoswap.w  00001 aq rl rs2 rs1 010 rd 0101111
    amoadd.w   00000 aq rl rs2 rs1 010 rd 0101111
    amoxor.w   00100 aq rl rs2 rs1 010 rd 0101111
    amoand.w   01100 aq rl rs2 rs1 010 rd 0101111
    amoor.w    01000 aq rl rs2 rs1 010 rd 0101111
    amomin.w   10000 aq rl rs2 rs1 010 rd 0101111
    amomax.w   10100 aq rl rs2 rs1 010 rd 0101111
    amominu.w  11000 aq rl rs2 rs1 010 rd 0101111
    amomaxu.w  11100 aq rl rs2 rs1 010 rd 0101111
    """,
    "rd, rs2, (rs1)",
)
def amo_w(name, x, mem, rd, rs1, rs2, aq, rl):
    operation = _OPERATIONS[name.removesuffix(".w")]
    x[rd] = mem.amo(operation, x[rs1], x[rs2][31:0], Order(aq, rl)).sext(64)


@rv.rows(
    """
    amoswap.d  00001 aq rl rs2 rs1 011 rd 0101111
    amoadd.d   00000 aq rl rs2 rs1 011 rd 0101111
    amoxor.d   00100 aq rl rs2 rs1 011 rd 0101111
    amoand.d   01100 aq rl rs2 rs1 011 rd 0101111
    amoor.d    01000 aq rl rs2 rs1 011 rd 0101111
    amomin.d   10000 aq rl rs2 rs1 011 rd 0101111
    amomax.d   10100 aq rl rs2 rs1 011 rd 0101111
    amominu.d  11000 aq rl rs2 rs1 011 rd 0101111
    amomaxu.d  11100 aq rl rs2 rs1 011 rd 0101111
    """,
    "rd, rs2, (rs1)",
)
def amo_d(name, x, mem, rd, rs1, rs2, aq, rl):
    x[rd] = mem.amo(_OPERATIONS[name.removesuffix(".d")], x[rs1], x[rs2], Order(aq, rl))
