"""Data processing, register. DDI 0487K, C4.1.95."""

from __future__ import annotations

from vm_core.isa.aarch64.state import ISA, AddWithCarry, Condition, extend_reg, shift_reg, width
from vm_core.spec import Bits, bits, select

a64 = ISA


def _amount(sf: int, imm6: int) -> bool:
    """A 32-bit form shifts by at most 31."""
    return not sf and imm6 > 31


# ** logical, shifted register


@a64.rows(
    """
    and.shifted  sf 00 01010 shift 0 rm imm6 rn rd
    bic.shifted  sf 00 01010 shift 1 rm imm6 rn rd
    orr.shifted  sf 01 01010 shift 0 rm imm6 rn rd
    orn.shifted  sf 01 01010 shift 1 rm imm6 rn rd
    eor.shifted  sf 10 01010 shift 0 rm imm6 rn rd
    eon.shifted  sf 10 01010 shift 1 rm imm6 rn rd
    ands.shifted sf 11 01010 shift 0 rm imm6 rn rd
    bics.shifted sf 11 01010 shift 1 rm imm6 rn rd
    """,
    "rd, rn, rm, shift #imm6",
    undefined=_amount,
)
def logical_shifted(name, x, nzcv, sf, shift, rm, imm6, rn, rd):
    w = width(sf)
    a, b = x.get(rn, w), shift_reg(x.get(rm, w), shift, imm6)
    if name in ("bic.shifted", "orn.shifted", "eon.shifted", "bics.shifted"):
        b = ~b
    result = a | b if name[0] == "o" else a ^ b if name[0] == "e" else a & b
    x.set(rd, result)
    if name in ("ands.shifted", "bics.shifted"):
        nzcv.set((result[w - 1], result == 0, bits(0, 1), bits(0, 1)))


# ** add and subtract


@a64.insn("sf 00 01011 shift 0 rm imm6 rn rd", "rd, rn, rm, shift #imm6", where="shift!=3", undefined=_amount)
def add_shifted(x, sf, shift, rm, imm6, rn, rd):
    w = width(sf)
    x.set(rd, x.get(rn, w) + shift_reg(x.get(rm, w), shift, imm6))


@a64.insn("sf 01 01011 shift 0 rm imm6 rn rd", "rd, rn, rm, shift #imm6", where="shift!=3", undefined=_amount)
def adds_shifted(x, nzcv, sf, shift, rm, imm6, rn, rd):
    w = width(sf)
    result, flags = AddWithCarry(x.get(rn, w), shift_reg(x.get(rm, w), shift, imm6), 0)
    x.set(rd, result)
    nzcv.set(flags)


@a64.insn("sf 10 01011 shift 0 rm imm6 rn rd", "rd, rn, rm, shift #imm6", where="shift!=3", undefined=_amount)
def sub_shifted(x, sf, shift, rm, imm6, rn, rd):
    w = width(sf)
    x.set(rd, x.get(rn, w) - shift_reg(x.get(rm, w), shift, imm6))


@a64.insn("sf 11 01011 shift 0 rm imm6 rn rd", "rd, rn, rm, shift #imm6", where="shift!=3", undefined=_amount)
def subs_shifted(x, nzcv, sf, shift, rm, imm6, rn, rd):
    w = width(sf)
    result, flags = AddWithCarry(x.get(rn, w), ~shift_reg(x.get(rm, w), shift, imm6), 1)
    x.set(rd, result)
    nzcv.set(flags)


_EXT = "rd_sp, rn_sp, rx, option #imm3"


@a64.insn("sf 00 01011 00 1 rx option imm3 rn_sp rd_sp", _EXT, where="imm3!=5,6,7")
def add_ext(x, sf, rx, option, imm3, rn_sp, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn_sp, w) + extend_reg(x, rx, option, imm3, w))


@a64.insn("sf 01 01011 00 1 rx option imm3 rn_sp rd", "rd, rn_sp, rx, option #imm3", where="imm3!=5,6,7")
def adds_ext(x, nzcv, sf, rx, option, imm3, rn_sp, rd):
    w = width(sf)
    result, flags = AddWithCarry(x.get(rn_sp, w), extend_reg(x, rx, option, imm3, w), 0)
    x.set(rd, result)
    nzcv.set(flags)


@a64.insn("sf 10 01011 00 1 rx option imm3 rn_sp rd_sp", _EXT, where="imm3!=5,6,7")
def sub_ext(x, sf, rx, option, imm3, rn_sp, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn_sp, w) - extend_reg(x, rx, option, imm3, w))


@a64.insn("sf 11 01011 00 1 rx option imm3 rn_sp rd", "rd, rn_sp, rx, option #imm3", where="imm3!=5,6,7")
def subs_ext(x, nzcv, sf, rx, option, imm3, rn_sp, rd):
    w = width(sf)
    result, flags = AddWithCarry(x.get(rn_sp, w), ~extend_reg(x, rx, option, imm3, w), 1)
    x.set(rd, result)
    nzcv.set(flags)


@a64.rows(
    """
    adc  sf 00 11010000 rm 000000 rn rd
    adcs sf 01 11010000 rm 000000 rn rd
    sbc  sf 10 11010000 rm 000000 rn rd
    sbcs sf 11 11010000 rm 000000 rn rd
    """,
    "rd, rn, rm",
)
def with_carry(name, x, nzcv, sf, rm, rn, rd):
    w = width(sf)
    a, b = x.get(rn, w), x.get(rm, w)
    result, flags = AddWithCarry(a, ~b if name[0] == "s" else b, nzcv.carry)
    x.set(rd, result)
    if len(name) == 4:
        nzcv.set(flags)


# ** conditional


@a64.insn("sf 00 11010100 rm cond 00 rn rd", "rd, rn, rm, cond")
def csel(x, nzcv, sf, rm, cond, rn, rd):
    w = width(sf)
    x.set(rd, select(Condition(nzcv, cond), x.get(rn, w), x.get(rm, w)))


@a64.insn("sf 00 11010100 rm cond 01 rn rd", "rd, rn, rm, cond")
def csinc(x, nzcv, sf, rm, cond, rn, rd):
    w = width(sf)
    x.set(rd, select(Condition(nzcv, cond), x.get(rn, w), x.get(rm, w) + 1))


@a64.insn("sf 10 11010100 rm cond 00 rn rd", "rd, rn, rm, cond")
def csinv(x, nzcv, sf, rm, cond, rn, rd):
    w = width(sf)
    x.set(rd, select(Condition(nzcv, cond), x.get(rn, w), ~x.get(rm, w)))


@a64.insn("sf 10 11010100 rm cond 01 rn rd", "rd, rn, rm, cond")
def csneg(x, nzcv, sf, rm, cond, rn, rd):
    w = width(sf)
    x.set(rd, select(Condition(nzcv, cond), x.get(rn, w), -x.get(rm, w)))


def _compare(nzcv, cond: int, a: Bits, b: Bits, carry: int, flags: Bits) -> None:
    """Set the flags by a + b + carry where the condition holds, else to the four given bits."""
    holds = Condition(nzcv, cond)
    _, computed = AddWithCarry(a, b, carry)
    nzcv.set(tuple(select(holds, flag, flags[3 - i]) for i, flag in enumerate(computed)))


@a64.insn("sf 0 1 11010010 rm cond 00 rn 0 flags", "rn, rm, #flags, cond")
def ccmn(x, nzcv, sf, rm, cond, rn, flags):
    w = width(sf)
    _compare(nzcv, cond, x.get(rn, w), x.get(rm, w), 0, flags)


@a64.insn("sf 1 1 11010010 rm cond 00 rn 0 flags", "rn, rm, #flags, cond")
def ccmp(x, nzcv, sf, rm, cond, rn, flags):
    w = width(sf)
    _compare(nzcv, cond, x.get(rn, w), ~x.get(rm, w), 1, flags)


@a64.insn("sf 0 1 11010010 imm5 cond 10 rn 0 flags", "rn, #imm5, #flags, cond")
def ccmn_imm(x, nzcv, sf, imm5, cond, rn, flags):
    w = width(sf)
    _compare(nzcv, cond, x.get(rn, w), imm5[w - 1 : 0], 0, flags)


@a64.insn("sf 1 1 11010010 imm5 cond 10 rn 0 flags", "rn, #imm5, #flags, cond")
def ccmp_imm(x, nzcv, sf, imm5, cond, rn, flags):
    w = width(sf)
    _compare(nzcv, cond, x.get(rn, w), ~imm5[w - 1 : 0], 1, flags)


# ** two sources


@a64.insn("sf 00 11010110 rm 000010 rn rd", "rd, rn, rm")
def udiv(x, sf, rm, rn, rd):
    """Division by zero gives 0, where the language's gives all ones."""
    w = width(sf)
    a, b = x.get(rn, w), x.get(rm, w)
    x.set(rd, select(b == 0, 0, a.udiv(b)))


@a64.insn("sf 00 11010110 rm 000011 rn rd", "rd, rn, rm")
def sdiv(x, sf, rm, rn, rd):
    """Division by zero gives 0, where the language's gives all ones."""
    w = width(sf)
    a, b = x.get(rn, w), x.get(rm, w)
    x.set(rd, select(b == 0, 0, a.sdiv(b)))


@a64.rows(
    """
    lslv sf 00 11010110 rm 001000 rn rd
    lsrv sf 00 11010110 rm 001001 rn rd
    asrv sf 00 11010110 rm 001010 rn rd
    rorv sf 00 11010110 rm 001011 rn rd
    """,
    "rd, rn, rm",
)
def shift_variable(name, x, sf, rm, rn, rd):
    w = width(sf)
    x.set(rd, shift_reg(x.get(rn, w), ("lslv", "lsrv", "asrv", "rorv").index(name), x.get(rm, w)))


# ** one source


def _swapped(value: Bits, distance: int, mask: int) -> Bits:
    """Neighbouring groups of ``distance`` bits exchanged; ``mask`` selects the lower ones."""
    return ((value >> distance) & mask) | ((value & mask) << distance)


@a64.insn("sf 10 11010110 00000 000000 rn rd", "rd, rn")
def rbit(x, sf, rn, rd):
    value = x.get(rn, width(sf)).bswap()
    for distance, mask in (
        (1, 0x5555_5555_5555_5555),
        (2, 0x3333_3333_3333_3333),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
    ):
        value = _swapped(value, distance, mask)
    x.set(rd, value)


@a64.insn("sf 10 11010110 00000 000001 rn rd", "rd, rn")
def rev16(x, sf, rn, rd):
    x.set(rd, _swapped(x.get(rn, width(sf)), 8, 0x00FF_00FF_00FF_00FF))


@a64.insn("0 10 11010110 00000 000010 wn wd", "wd, wn")
def rev_w(x, wn, wd):
    x.set(wd, x.get(wn, 32).bswap())


@a64.insn("1 10 11010110 00000 000010 rn rd", "rd, rn")
def rev32(x, rn, rd):
    x.set(rd, _swapped(_swapped(x[rn], 8, 0x00FF_00FF_00FF_00FF), 16, 0x0000_FFFF_0000_FFFF))


@a64.insn("1 10 11010110 00000 000011 rn rd", "rd, rn")
def rev(x, rn, rd):
    x.set(rd, x[rn].bswap())


@a64.insn("sf 10 11010110 00000 000100 rn rd", "rd, rn")
def clz(x, sf, rn, rd):
    x.set(rd, x.get(rn, width(sf)).clz())


@a64.insn("sf 10 11010110 00000 000101 rn rd", "rd, rn")
def cls(x, sf, rn, rd):
    w = width(sf)
    value = x.get(rn, w)
    x.set(rd, (value ^ value.sar(w - 1)).clz() - 1)


# ** three sources


@a64.insn("sf 00 11011 000 rm 0 ra rn rd", "rd, rn, rm, ra")
def madd(x, sf, rm, ra, rn, rd):
    w = width(sf)
    x.set(rd, x.get(ra, w) + x.get(rn, w) * x.get(rm, w))


@a64.insn("sf 00 11011 000 rm 1 ra rn rd", "rd, rn, rm, ra")
def msub(x, sf, rm, ra, rn, rd):
    w = width(sf)
    x.set(rd, x.get(ra, w) - x.get(rn, w) * x.get(rm, w))


@a64.rows(
    """
    smaddl 1 00 11011 001 wm 0 ra wn rd
    smsubl 1 00 11011 001 wm 1 ra wn rd
    umaddl 1 00 11011 101 wm 0 ra wn rd
    umsubl 1 00 11011 101 wm 1 ra wn rd
    """,
    "rd, wn, wm, ra",
)
def multiply_long(name, x, wm, ra, wn, rd):
    a, b = x.get(wn, 32), x.get(wm, 32)
    product = a.sext(64) * b.sext(64) if name[0] == "s" else a.zext(64) * b.zext(64)
    x.set(rd, x[ra] + product if "add" in name else x[ra] - product)


@a64.insn("1 00 11011 010 rm 0 ----- rn rd", "rd, rn, rm")
def smulh(x, rm, rn, rd):
    x.set(rd, (x[rn].sext(128) * x[rm].sext(128))[127:64])


@a64.insn("1 00 11011 110 rm 0 ----- rn rd", "rd, rn, rm")
def umulh(x, rm, rn, rd):
    x.set(rd, (x[rn].zext(128) * x[rm].zext(128))[127:64])
