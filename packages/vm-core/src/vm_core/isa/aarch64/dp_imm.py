"""Data processing, immediate. DDI 0487K, C4.1.92."""

from __future__ import annotations

from vm_core.isa.aarch64.state import ISA, AddWithCarry, width
from vm_core.spec import Bits, bits, select

a64 = ISA


@a64.insn("0 imm[1:0] 10000 imm[20:2] rd", "rd, #imm")
def adr(x, pc, rd, imm):
    x[rd] = pc + imm


@a64.insn("1 imm[13:12] 10000 imm[32:14] rd", "rd, #imm")
def adrp(x, pc, rd, imm):
    x[rd] = (pc.value & -4096) + imm


# ** add and subtract


@a64.insn("sf 0 0 100010 imm12 rn_sp rd_sp", "rd_sp, rn_sp, #imm12")
def add_imm(x, sf, imm12, rn_sp, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn_sp, w) + imm12[w - 1 : 0])


@a64.insn("sf 0 1 100010 imm12 rn_sp rd", "rd, rn_sp, #imm12")
def adds_imm(x, nzcv, sf, imm12, rn_sp, rd):
    w = width(sf)
    result, flags = AddWithCarry(x.get(rn_sp, w), imm12[w - 1 : 0], 0)
    x.set(rd, result)
    nzcv.set(flags)


@a64.insn("sf 1 0 100010 imm12 rn_sp rd_sp", "rd_sp, rn_sp, #imm12")
def sub_imm(x, sf, imm12, rn_sp, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn_sp, w) - imm12[w - 1 : 0])


@a64.insn("sf 1 1 100010 imm12 rn_sp rd", "rd, rn_sp, #imm12")
def subs_imm(x, nzcv, sf, imm12, rn_sp, rd):
    w = width(sf)
    result, flags = AddWithCarry(x.get(rn_sp, w), ~imm12[w - 1 : 0], 1)
    x.set(rd, result)
    nzcv.set(flags)


# ** logical


def _narrow(sf: int, bitmask: int) -> bool:
    """A 32-bit form cannot have a 64-bit element."""
    return not sf and bitmask >> 32 != bitmask & 0xFFFF_FFFF


@a64.insn("sf 00 100100 bitmask rn rd_sp", "rd_sp, rn, #bitmask", undefined=_narrow)
def and_imm(x, sf, bitmask, rn, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn, w) & bitmask[w - 1 : 0])


@a64.insn("sf 01 100100 bitmask rn rd_sp", "rd_sp, rn, #bitmask", undefined=_narrow)
def orr_imm(x, sf, bitmask, rn, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn, w) | bitmask[w - 1 : 0])


@a64.insn("sf 10 100100 bitmask rn rd_sp", "rd_sp, rn, #bitmask", undefined=_narrow)
def eor_imm(x, sf, bitmask, rn, rd_sp):
    w = width(sf)
    x.set(rd_sp, x.get(rn, w) ^ bitmask[w - 1 : 0])


@a64.insn("sf 11 100100 bitmask rn rd", "rd, rn, #bitmask", undefined=_narrow)
def ands_imm(x, nzcv, sf, bitmask, rn, rd):
    w = width(sf)
    result = x.get(rn, w) & bitmask[w - 1 : 0]
    x.set(rd, result)
    nzcv.set((result[w - 1], result == 0, bits(0, 1), bits(0, 1)))


# ** move wide


def _wide(sf: int, hw: int) -> bool:
    return not sf and hw > 1


@a64.insn("sf 00 100101 hw imm16 rd", "rd, #imm16, lsl #hw", undefined=_wide)
def movn(x, sf, hw, imm16, rd):
    x.set(rd, ~(imm16 << 16 * hw)[width(sf) - 1 : 0])


@a64.insn("sf 10 100101 hw imm16 rd", "rd, #imm16, lsl #hw", undefined=_wide)
def movz(x, sf, hw, imm16, rd):
    x.set(rd, (imm16 << 16 * hw)[width(sf) - 1 : 0])


@a64.insn("sf 11 100101 hw imm16 rd", "rd, #imm16, lsl #hw", undefined=_wide)
def movk(x, sf, hw, imm16, rd):
    w = width(sf)
    x.set(rd, (x.get(rd, w) & ~(0xFFFF << 16 * hw)) | (imm16 << 16 * hw)[w - 1 : 0])


# ** bitfields: DecodeBitMasks() of run-time immr and imms comes down to two shifts


def _field(value: Bits, immr: Bits, imms: Bits, signed: bool) -> Bits:
    """Bits imms:0 of ``value``, extended, then taken from bit immr on, or moved up where imms < immr."""
    w = value.width
    r, s = immr[w - 1 : 0], imms[w - 1 : 0]
    up = value << (w - 1 - s)
    low = up.sar(w - 1 - s) if signed else up >> (w - 1 - s)
    return select(s.ge_u(r), low.sar(r) if signed else low >> r, low << (0 - r))


@a64.insn(
    "0 00 100110 0 immr imms wn wd",
    "wd, wn, #immr, #imms",
    undefined=lambda immr, imms: immr > 31 or imms > 31,
)
def sbfm_w(x, immr, imms, wn, wd):
    x.set(wd, _field(x.get(wn, 32), immr, imms, True))


@a64.insn("1 00 100110 1 immr imms rn rd", "rd, rn, #immr, #imms")
def sbfm(x, immr, imms, rn, rd):
    x.set(rd, _field(x[rn], immr, imms, True))


@a64.insn(
    "0 10 100110 0 immr imms wn wd",
    "wd, wn, #immr, #imms",
    undefined=lambda immr, imms: immr > 31 or imms > 31,
)
def ubfm_w(x, immr, imms, wn, wd):
    x.set(wd, _field(x.get(wn, 32), immr, imms, False))


@a64.insn("1 10 100110 1 immr imms rn rd", "rd, rn, #immr, #imms")
def ubfm(x, immr, imms, rn, rd):
    x.set(rd, _field(x[rn], immr, imms, False))


@a64.insn("1 01 100110 1 immr imms rn rd", "rd, rn, #immr, #imms")
def bfm(x, immr, imms, rn, rd):
    old, new = x[rd], x[rn]
    inside = _field(bits(-1, 64), immr, imms, False)
    x.set(rd, (old & ~inside) | _field(new, immr, imms, False))


# ** extract


@a64.insn("1 00 100111 1 0 rm imms rn rd", "rd, rn, rm, #imms")
def extr(x, rm, imms, rn, rd):
    low, high = x[rm], x[rn]
    x.set(rd, select(imms == 0, low, (low >> imms) | (high << (0 - imms))))
