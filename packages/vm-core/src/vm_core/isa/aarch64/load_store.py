"""Loads and stores. DDI 0487K, C4.1.94.

Writeback to the register that is also transferred is CONSTRAINED UNPREDICTABLE: here the writeback wins for a load.
"""

from __future__ import annotations

import re

from vm_core.isa.aarch64.state import ACCESS_SCALE, ISA, extend_reg
from vm_core.spec import ACQUIRE, PLAIN, RELEASE, Bits

a64 = ISA

# What a name moves: bits in memory, and for a sign-extending load the bits of its result.
_SIZES = {"b": 8, "h": 16, "w": 32, "x": 64, "q": 128}


def _access(name: str) -> tuple[str, int, int]:
    """``ldr.w.post`` -> (ldr, 32, 0): mnemonic, bits in memory, bits that a signed load fills (0: unsigned)."""
    mnemonic, register = name.split(".")[:2]
    if mnemonic.startswith(("ldrs", "ldurs")):
        return mnemonic, _SIZES[mnemonic[-1]], _SIZES[register]
    if mnemonic[-1] in "bh":
        return mnemonic, _SIZES[mnemonic[-1]], 0
    return mnemonic, _SIZES[register], 0


def _move(name: str, x, v, mem, address: Bits, target: str, order: str = PLAIN) -> None:
    """The load or store itself."""
    mnemonic, size, signed = _access(name)
    if mnemonic.startswith("st"):
        mem.store(address, v[target] if size == 128 else x.get(target, size), order)
        return
    value = mem.load(address, size, order)
    if size == 128:
        v.set(target, value)
    else:
        x.set(target, value.sext(signed) if signed else value)


# ** unsigned offset


def _offset(name, x, v, mem, uimm, rn_sp, target):
    _move(name, x, v, mem, x[rn_sp] + uimm, target)


@a64.rows(
    """
    strb.w.offset  00 111 0 01 00 uimm[11:0] rn_sp wt
    ldrb.w.offset  00 111 0 01 01 uimm[11:0] rn_sp wt
    ldrsb.w.offset 00 111 0 01 11 uimm[11:0] rn_sp wt
    strh.w.offset  01 111 0 01 00 uimm[12:1] rn_sp wt
    ldrh.w.offset  01 111 0 01 01 uimm[12:1] rn_sp wt
    ldrsh.w.offset 01 111 0 01 11 uimm[12:1] rn_sp wt
    str.w.offset   10 111 0 01 00 uimm[13:2] rn_sp wt
    ldr.w.offset   10 111 0 01 01 uimm[13:2] rn_sp wt
    """,
    "wt, [rn_sp, #uimm]",
)
def offset_w(name, x, mem, uimm, rn_sp, wt):
    _offset(name, x, None, mem, uimm, rn_sp, wt)


@a64.rows(
    """
    ldrsb.x.offset 00 111 0 01 10 uimm[11:0] rn_sp rt
    ldrsh.x.offset 01 111 0 01 10 uimm[12:1] rn_sp rt
    ldrsw.x.offset 10 111 0 01 10 uimm[13:2] rn_sp rt
    str.x.offset   11 111 0 01 00 uimm[14:3] rn_sp rt
    ldr.x.offset   11 111 0 01 01 uimm[14:3] rn_sp rt
    """,
    "rt, [rn_sp, #uimm]",
)
def offset_x(name, x, mem, uimm, rn_sp, rt):
    _offset(name, x, None, mem, uimm, rn_sp, rt)


@a64.rows(
    """
    str.q.offset   00 111 1 01 10 uimm[15:4] rn_sp qt
    ldr.q.offset   00 111 1 01 11 uimm[15:4] rn_sp qt
    """,
    "qt, [rn_sp, #uimm]",
)
def offset_q(name, x, v, mem, uimm, rn_sp, qt):
    _offset(name, x, v, mem, uimm, rn_sp, qt)


# ** unscaled, post-index, pre-index


@a64.rows(
    """
    sturb.w  00 111 0 00 00 0 imm[8:0] 00 rn_sp wt
    ldurb.w  00 111 0 00 01 0 imm[8:0] 00 rn_sp wt
    ldursb.w 00 111 0 00 11 0 imm[8:0] 00 rn_sp wt
    sturh.w  01 111 0 00 00 0 imm[8:0] 00 rn_sp wt
    ldurh.w  01 111 0 00 01 0 imm[8:0] 00 rn_sp wt
    stur.w   10 111 0 00 00 0 imm[8:0] 00 rn_sp wt
    ldur.w   10 111 0 00 01 0 imm[8:0] 00 rn_sp wt
    """,
    "wt, [rn_sp, #imm]",
)
def unscaled_w(name, x, mem, imm, rn_sp, wt):
    _move(name, x, None, mem, x[rn_sp] + imm, wt)


@a64.rows(
    """
    ldursw.x 10 111 0 00 10 0 imm[8:0] 00 rn_sp rt
    stur.x   11 111 0 00 00 0 imm[8:0] 00 rn_sp rt
    ldur.x   11 111 0 00 01 0 imm[8:0] 00 rn_sp rt
    """,
    "rt, [rn_sp, #imm]",
)
def unscaled_x(name, x, mem, imm, rn_sp, rt):
    _move(name, x, None, mem, x[rn_sp] + imm, rt)


_POST_W = """
    strb.w.post  00 111 0 00 00 0 imm[8:0] 01 rn_sp wt
    ldrb.w.post  00 111 0 00 01 0 imm[8:0] 01 rn_sp wt
    ldrsb.w.post 00 111 0 00 11 0 imm[8:0] 01 rn_sp wt
    strh.w.post  01 111 0 00 00 0 imm[8:0] 01 rn_sp wt
    ldrh.w.post  01 111 0 00 01 0 imm[8:0] 01 rn_sp wt
    ldrsh.w.post 01 111 0 00 11 0 imm[8:0] 01 rn_sp wt
    str.w.post   10 111 0 00 00 0 imm[8:0] 01 rn_sp wt
    ldr.w.post   10 111 0 00 01 0 imm[8:0] 01 rn_sp wt
"""
_POST_X = """
    ldrsw.x.post 10 111 0 00 10 0 imm[8:0] 01 rn_sp rt
    str.x.post   11 111 0 00 00 0 imm[8:0] 01 rn_sp rt
    ldr.x.post   11 111 0 00 01 0 imm[8:0] 01 rn_sp rt
"""
_POST_Q = """
    str.q.post   00 111 1 00 10 0 imm[8:0] 01 rn_sp qt
    ldr.q.post   00 111 1 00 11 0 imm[8:0] 01 rn_sp qt
"""


def _pre(rows: str) -> str:
    """The pre-index rows for post-index ones: bits 11:10 are 11 instead of 01."""
    return rows.replace(".post", ".pre ").replace("] 01 rn_sp", "] 11 rn_sp")


def _indexed(name, x, v, mem, imm, rn_sp, target):
    base = x[rn_sp]
    _move(name, x, v, mem, base if name.endswith("post") else base + imm, target)
    x[rn_sp] = base + imm


@a64.rows(_POST_W, "wt, [rn_sp], #imm")
@a64.rows(_pre(_POST_W), "wt, [rn_sp, #imm]!")
def indexed_w(name, x, mem, imm, rn_sp, wt):
    _indexed(name, x, None, mem, imm, rn_sp, wt)


@a64.rows(_POST_X, "rt, [rn_sp], #imm")
@a64.rows(_pre(_POST_X), "rt, [rn_sp, #imm]!")
def indexed_x(name, x, mem, imm, rn_sp, rt):
    _indexed(name, x, None, mem, imm, rn_sp, rt)


@a64.rows(_POST_Q, "qt, [rn_sp], #imm")
@a64.rows(_pre(_POST_Q), "qt, [rn_sp, #imm]!")
def indexed_q(name, x, v, mem, imm, rn_sp, qt):
    _indexed(name, x, v, mem, imm, rn_sp, qt)


# ** register offset

_REG_W = """
    strb.w.reg 00 111 0 00 00 1 rx option s 10 rn_sp wt | option==2,3,6,7
    ldrb.w.reg 00 111 0 00 01 1 rx option s 10 rn_sp wt | option==2,3,6,7
    strh.w.reg 01 111 0 00 00 1 rx option s 10 rn_sp wt | option==2,3,6,7
    ldrh.w.reg 01 111 0 00 01 1 rx option s 10 rn_sp wt | option==2,3,6,7
    str.w.reg  10 111 0 00 00 1 rx option s 10 rn_sp wt | option==2,3,6,7
    ldr.w.reg  10 111 0 00 01 1 rx option s 10 rn_sp wt | option==2,3,6,7
"""
_REG_X = """
    ldrsw.x.reg 10 111 0 00 10 1 rx option s 10 rn_sp rt | option==2,3,6,7
    str.x.reg   11 111 0 00 00 1 rx option s 10 rn_sp rt | option==2,3,6,7
    ldr.x.reg   11 111 0 00 01 1 rx option s 10 rn_sp rt | option==2,3,6,7
"""
for _name in re.findall(r"\S+\.reg", _REG_W + _REG_X):
    ACCESS_SCALE[_name] = (_access(_name)[1] // 8).bit_length() - 1


@a64.rows(_REG_W, "wt, [rn_sp, rx, option #s]")
def register_offset_w(name, x, mem, rx, option, s, rn_sp, wt):
    _move(name, x, None, mem, x[rn_sp] + extend_reg(x, rx, option, s * ACCESS_SCALE[name], 64), wt)


@a64.rows(_REG_X, "rt, [rn_sp, rx, option #s]")
def register_offset_x(name, x, mem, rx, option, s, rn_sp, rt):
    _move(name, x, None, mem, x[rn_sp] + extend_reg(x, rx, option, s * ACCESS_SCALE[name], 64), rt)


# ** literal


@a64.insn("00 011 0 00 imm[20:2] wt", "wt, #imm")
def ldr_w_literal(x, pc, mem, imm, wt):
    x.set(wt, mem.load(pc + imm, 32))


@a64.insn("01 011 0 00 imm[20:2] rt", "rt, #imm")
def ldr_x_literal(x, pc, mem, imm, rt):
    x[rt] = mem.load(pc + imm, 64)


# ** pairs: a store pair checks both words before it writes the first

_PAIR_X = """
    stp.x.post 10 101 0 001 0 imm[9:3] rt2 rn_sp rt
    ldp.x.post 10 101 0 001 1 imm[9:3] rt2 rn_sp rt
"""
_PAIR_W = """
    stp.w.post 00 101 0 001 0 imm[8:2] wt2 rn_sp wt
    ldp.w.post 00 101 0 001 1 imm[8:2] wt2 rn_sp wt
"""


def _variant(rows: str, name: str, code: str) -> str:
    return rows.replace("post", name).replace(" 001 ", f" {code} ")


def _pair(name, x, mem, imm, rn_sp, first, second, size):
    base = x[rn_sp]
    address = base if name.endswith("post") else base + imm
    if name.startswith("st"):
        mem.probe_write(address, 2 * size)
        mem.store(address, x.get(first, size))
        mem.store(address + size // 8, x.get(second, size))
    else:
        low, high = mem.load(address, size), mem.load(address + size // 8, size)
        x.set(first, low)
        x.set(second, high)
    if not name.endswith("offset"):
        x[rn_sp] = base + imm


@a64.rows(_PAIR_X, "rt, rt2, [rn_sp], #imm")
@a64.rows(_variant(_PAIR_X, "offset", "010"), "rt, rt2, [rn_sp, #imm]")
@a64.rows(_variant(_PAIR_X, "pre", "011"), "rt, rt2, [rn_sp, #imm]!")
def pair_x(name, x, mem, imm, rt2, rn_sp, rt):
    _pair(name, x, mem, imm, rn_sp, rt, rt2, 64)


@a64.rows(_PAIR_W, "wt, wt2, [rn_sp], #imm")
@a64.rows(_variant(_PAIR_W, "offset", "010"), "wt, wt2, [rn_sp, #imm]")
@a64.rows(_variant(_PAIR_W, "pre", "011"), "wt, wt2, [rn_sp, #imm]!")
def pair_w(name, x, mem, imm, wt2, rn_sp, wt):
    _pair(name, x, mem, imm, rn_sp, wt, wt2, 32)


# ** ordered and exclusive


@a64.insn("11 001000 1 1 0 11111 1 11111 rn_sp rt", "rt, [rn_sp]")
def ldar(x, mem, rn_sp, rt):
    x[rt] = mem.load(x[rn_sp], 64, ACQUIRE)


@a64.insn("11 001000 1 0 0 11111 1 11111 rn_sp rt", "rt, [rn_sp]")
def stlr(x, mem, rn_sp, rt):
    mem.store(x[rn_sp], x[rt], RELEASE)


@a64.insn("11 001000 0 1 0 11111 0 11111 rn_sp rt", "rt, [rn_sp]")
def ldxr(x, mem, rn_sp, rt):
    x[rt] = mem.load_reserved(x[rn_sp], 64, PLAIN)


@a64.insn("11 001000 0 0 0 ws 0 11111 rn_sp rt", "ws, rt, [rn_sp]")
def stxr(x, mem, ws, rn_sp, rt):
    address, value = x[rn_sp], x[rt]
    x.set(ws, mem.store_conditional(address, value, PLAIN))


@a64.insn("11 111 0 00 0 0 1 rm 0 000 00 rn_sp rt", "rm, rt, [rn_sp]")
def ldadd(x, mem, rm, rn_sp, rt):
    address, value = x[rn_sp], x[rm]
    x[rt] = mem.amo("add", address, value, PLAIN)


@a64.insn("11 111 0 00 0 0 1 rm 1 000 00 rn_sp rt", "rm, rt, [rn_sp]")
def swp(x, mem, rm, rn_sp, rt):
    address, value = x[rn_sp], x[rm]
    x[rt] = mem.amo("swap", address, value, PLAIN)


@a64.insn("11 001000 1 0 1 rm 0 11111 rn_sp rt", "rm, rt, [rn_sp]")
def cas(x, mem, rm, rn_sp, rt):
    address, expected, new = x[rn_sp], x[rm], x[rt]
    x[rm] = mem.cas(address, expected, new, PLAIN)
