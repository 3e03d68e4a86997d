"""F and D, single- and double-precision floating point. RISC-V Unprivileged ISA 20240411, chapters 20 and 21.

The suffix of a mnemonic names the format; a narrow operand that is not NaN-boxed reads as the canonical NaN. ``rm`` is
the rounding mode: 5 and 6 are reserved, and 7 takes the mode in frm, where 5, 6 and 7 make the instruction illegal,
also one whose result is exact.
"""

from __future__ import annotations

from vm_core.isa.riscv.state import rv
from vm_core.spec import bits, concat, fp, select

# -- loads, stores (20.5, 21.3) -----------------------------------------------------------------------------------


@rv.insn("imm[11:0] rs1 010 rd 0000111", "rd, imm(rs1)")
def flw(x, f, mem, rd, rs1, imm):
    f.s[rd] = mem.load(x[rs1] + imm, 32)


@rv.insn("imm[11:0] rs1 011 rd 0000111", "rd, imm(rs1)")
def fld(x, f, mem, rd, rs1, imm):
    f.d[rd] = mem.load(x[rs1] + imm, 64)


@rv.insn("imm[11:5] rs2 rs1 010 imm[4:0] 0100111", "rs2, imm(rs1)")
def fsw(x, f, mem, rs1, rs2, imm):
    mem.store(x[rs1] + imm, f.d[rs2][31:0])


@rv.insn("imm[11:5] rs2 rs1 011 imm[4:0] 0100111", "rs2, imm(rs1)")
def fsd(x, f, mem, rs1, rs2, imm):
    mem.store(x[rs1] + imm, f.d[rs2])


# -- computation (20.6, 21.4) -------------------------------------------------------------------------------------


@rv.rows("""
    fadd.s   0000000 rs2 rs1 rm rd 1010011 | rm!=5,6
    fadd.d   0000001 rs2 rs1 rm rd 1010011 | rm!=5,6
""")
def fadd(name, f, rd, rs1, rs2, rm):
    r = f.of(name)
    r[rd] = fp.add(r.fmt, r[rs1], r[rs2], rm)


@rv.rows("""
    fsub.s   0000100 rs2 rs1 rm rd 1010011 | rm!=5,6
    fsub.d   0000101 rs2 rs1 rm rd 1010011 | rm!=5,6
""")
def fsub(name, f, rd, rs1, rs2, rm):
    r = f.of(name)
    r[rd] = fp.sub(r.fmt, r[rs1], r[rs2], rm)


@rv.rows("""
    fmul.s   0001000 rs2 rs1 rm rd 1010011 | rm!=5,6
    fmul.d   0001001 rs2 rs1 rm rd 1010011 | rm!=5,6
""")
def fmul(name, f, rd, rs1, rs2, rm):
    r = f.of(name)
    r[rd] = fp.mul(r.fmt, r[rs1], r[rs2], rm)


@rv.rows("""
    fdiv.s   0001100 rs2 rs1 rm rd 1010011 | rm!=5,6
    fdiv.d   0001101 rs2 rs1 rm rd 1010011 | rm!=5,6
""")
def fdiv(name, f, rd, rs1, rs2, rm):
    r = f.of(name)
    r[rd] = fp.div(r.fmt, r[rs1], r[rs2], rm)


@rv.rows("""
    fsqrt.s  0101100 00000 rs1 rm rd 1010011 | rm!=5,6
    fsqrt.d  0101101 00000 rs1 rm rd 1010011 | rm!=5,6
""")
def fsqrt(name, f, rd, rs1, rm):
    r = f.of(name)
    r[rd] = fp.sqrt(r.fmt, r[rs1], rm)


def is_zero(a):
    """Of either sign."""
    return a << 1 == 0


def number_of(fmt, a, b, otherwise):
    """``otherwise``, but where exactly one operand is a NaN the other operand, and where both are the canonical NaN."""
    a_nan, b_nan = fp.is_nan(fmt, a), fp.is_nan(fmt, b)
    nan = bits(fp.canonical_nan(fmt), fmt)
    return select(a_nan, select(b_nan, nan, b), select(b_nan, a, otherwise))


@rv.rows("""
    fmin.s   0010100 rs2 rs1 000 rd 1010011
    fmin.d   0010101 rs2 rs1 000 rd 1010011
""")
def fmin(name, f, rd, rs1, rs2):
    r = f.of(name)
    a, b = r[rs1], r[rs2]
    least = select(fp.lt_quiet(r.fmt, a, b), a, b)
    r[rd] = number_of(r.fmt, a, b, select(is_zero(a | b), a | b, least))  # -0 < +0


@rv.rows("""
    fmax.s   0010100 rs2 rs1 001 rd 1010011
    fmax.d   0010101 rs2 rs1 001 rd 1010011
""")
def fmax(name, f, rd, rs1, rs2):
    r = f.of(name)
    a, b = r[rs1], r[rs2]
    greatest = select(fp.lt_quiet(r.fmt, a, b), b, a)
    r[rd] = number_of(r.fmt, a, b, select(is_zero(a | b), a & b, greatest))  # -0 < +0


def negated(fmt, a):
    return a ^ 1 << (fmt - 1)


@rv.rows("""
    fmadd.s  rs3 00 rs2 rs1 rm rd 1000011 | rm!=5,6
    fmadd.d  rs3 01 rs2 rs1 rm rd 1000011 | rm!=5,6
""")
def fmadd(name, f, rd, rs1, rs2, rs3, rm):
    r = f.of(name)
    r[rd] = fp.fma(r.fmt, r[rs1], r[rs2], r[rs3], rm)


@rv.rows("""
    fmsub.s  rs3 00 rs2 rs1 rm rd 1000111 | rm!=5,6
    fmsub.d  rs3 01 rs2 rs1 rm rd 1000111 | rm!=5,6
""")
def fmsub(name, f, rd, rs1, rs2, rs3, rm):
    r = f.of(name)
    r[rd] = fp.fma(r.fmt, r[rs1], r[rs2], negated(r.fmt, r[rs3]), rm)


@rv.rows("""
    fnmsub.s rs3 00 rs2 rs1 rm rd 1001011 | rm!=5,6
    fnmsub.d rs3 01 rs2 rs1 rm rd 1001011 | rm!=5,6
""")
def fnmsub(name, f, rd, rs1, rs2, rs3, rm):
    r = f.of(name)
    r[rd] = fp.fma(r.fmt, negated(r.fmt, r[rs1]), r[rs2], r[rs3], rm)


@rv.rows("""
    fnmadd.s rs3 00 rs2 rs1 rm rd 1001111 | rm!=5,6
    fnmadd.d rs3 01 rs2 rs1 rm rd 1001111 | rm!=5,6
""")
def fnmadd(name, f, rd, rs1, rs2, rs3, rm):
    r = f.of(name)
    r[rd] = fp.fma(r.fmt, negated(r.fmt, r[rs1]), r[rs2], negated(r.fmt, r[rs3]), rm)


# -- conversion (20.7, 21.5) --------------------------------------------------------------------------------------


@rv.rows("""
    fcvt.w.s   1100000 00000 rs1 rm rd 1010011 | rm!=5,6
    fcvt.wu.s  1100000 00001 rs1 rm rd 1010011 | rm!=5,6
    fcvt.l.s   1100000 00010 rs1 rm rd 1010011 | rm!=5,6
    fcvt.lu.s  1100000 00011 rs1 rm rd 1010011 | rm!=5,6
    fcvt.w.d   1100001 00000 rs1 rm rd 1010011 | rm!=5,6
    fcvt.wu.d  1100001 00001 rs1 rm rd 1010011 | rm!=5,6
    fcvt.l.d   1100001 00010 rs1 rm rd 1010011 | rm!=5,6
    fcvt.lu.d  1100001 00011 rs1 rm rd 1010011 | rm!=5,6
""")
def fcvt_to_int(name, x, f, rd, rs1, rm):
    r, kind = f.of(name), name.split(".")[1]
    value = fp.to_int(r.fmt, r[rs1], rm, 32 if "w" in kind else 64, "u" not in kind)
    x[rd] = value.sext(64)  # an unsigned word too


@rv.rows("""
    fcvt.s.w   1101000 00000 rs1 rm rd 1010011 | rm!=5,6
    fcvt.s.wu  1101000 00001 rs1 rm rd 1010011 | rm!=5,6
    fcvt.s.l   1101000 00010 rs1 rm rd 1010011 | rm!=5,6
    fcvt.s.lu  1101000 00011 rs1 rm rd 1010011 | rm!=5,6
    fcvt.d.w   1101001 00000 rs1 rm rd 1010011 | rm!=5,6
    fcvt.d.wu  1101001 00001 rs1 rm rd 1010011 | rm!=5,6
    fcvt.d.l   1101001 00010 rs1 rm rd 1010011 | rm!=5,6
    fcvt.d.lu  1101001 00011 rs1 rm rd 1010011 | rm!=5,6
""")
def fcvt_from_int(name, x, f, rd, rs1, rm):
    form, kind = name.rsplit(".", 1)
    r = f.of(form)
    r[rd] = fp.from_int(r.fmt, x[rs1][31:0] if "w" in kind else x[rs1], rm, "u" not in kind)


@rv.insn("0100000 00001 rs1 rm rd 1010011", where="rm!=5,6")
def fcvt_s_d(f, rd, rs1, rm):
    f.s[rd] = fp.convert(fp.F64, fp.F32, f.d[rs1], rm)


@rv.insn("0100001 00000 rs1 rm rd 1010011", where="rm!=5,6")
def fcvt_d_s(f, rd, rs1, rm):
    f.d[rd] = fp.convert(fp.F32, fp.F64, f.s[rs1], rm)


# -- sign injection, moves (20.7, 21.5) ---------------------------------------------------------------------------


def with_sign(fmt, sign, a):
    """``a`` with the 1-bit ``sign``."""
    return concat(sign, a[fmt - 2 : 0])


@rv.rows("""
    fsgnj.s  0010000 rs2 rs1 000 rd 1010011
    fsgnj.d  0010001 rs2 rs1 000 rd 1010011
""")
def fsgnj(name, f, rd, rs1, rs2):
    r = f.of(name)
    r[rd] = with_sign(r.fmt, r[rs2][r.fmt - 1], r[rs1])


@rv.rows("""
    fsgnjn.s 0010000 rs2 rs1 001 rd 1010011
    fsgnjn.d 0010001 rs2 rs1 001 rd 1010011
""")
def fsgnjn(name, f, rd, rs1, rs2):
    r = f.of(name)
    r[rd] = with_sign(r.fmt, ~r[rs2][r.fmt - 1], r[rs1])


@rv.rows("""
    fsgnjx.s 0010000 rs2 rs1 010 rd 1010011
    fsgnjx.d 0010001 rs2 rs1 010 rd 1010011
""")
def fsgnjx(name, f, rd, rs1, rs2):
    r = f.of(name)
    a = r[rs1]
    r[rd] = with_sign(r.fmt, a[r.fmt - 1] ^ r[rs2][r.fmt - 1], a)


@rv.insn("1110000 00000 rs1 000 rd 1010011")
def fmv_x_w(x, f, rd, rs1):
    x[rd] = f.d[rs1][31:0].sext(64)  # the bits as they are, boxed or not


@rv.insn("1111000 00000 rs1 000 rd 1010011")
def fmv_w_x(x, f, rd, rs1):
    f.s[rd] = x[rs1][31:0]


@rv.insn("1110001 00000 rs1 000 rd 1010011")
def fmv_x_d(x, f, rd, rs1):
    x[rd] = f.d[rs1]


@rv.insn("1111001 00000 rs1 000 rd 1010011")
def fmv_d_x(x, f, rd, rs1):
    f.d[rd] = x[rs1]


# -- comparison, classification (20.8, 20.9, 21.6, 21.7) ----------------------------------------------------------


@rv.rows("""
    feq.s    1010000 rs2 rs1 010 rd 1010011
    feq.d    1010001 rs2 rs1 010 rd 1010011
""")
def feq(name, x, f, rd, rs1, rs2):
    r = f.of(name)
    x[rd] = fp.eq(r.fmt, r[rs1], r[rs2]).zext(64)


@rv.rows("""
    flt.s    1010000 rs2 rs1 001 rd 1010011
    flt.d    1010001 rs2 rs1 001 rd 1010011
""")
def flt(name, x, f, rd, rs1, rs2):
    r = f.of(name)
    x[rd] = fp.lt(r.fmt, r[rs1], r[rs2]).zext(64)


@rv.rows("""
    fle.s    1010000 rs2 rs1 000 rd 1010011
    fle.d    1010001 rs2 rs1 000 rd 1010011
""")
def fle(name, x, f, rd, rs1, rs2):
    r = f.of(name)
    x[rd] = fp.le(r.fmt, r[rs1], r[rs2]).zext(64)


@rv.rows("""
    fclass.s 1110000 00000 rs1 001 rd 1010011
    fclass.d 1110001 00000 rs1 001 rd 1010011
""")
def fclass(name, x, f, rd, rs1):
    """Bit of x[rd]: 0 -inf, 1 -normal, 2 -subnormal, 3 -0, 4 +0, 5 +subnormal, 6 +normal, 7 +inf, 8 and 9 NaNs."""
    r = f.of(name)
    a = r[rs1]
    negative, magnitude = a[r.fmt - 1], a & ((1 << (r.fmt - 1)) - 1)
    infinity, normal = fp.infinity(r.fmt), fp.smallest_normal(r.fmt)

    def signed(minus: int, plus: int):
        return select(negative, bits(1 << minus, 64), bits(1 << plus, 64))

    nan = select(magnitude.lt_u(fp.canonical_nan(r.fmt)), bits(1 << 8, 64), bits(1 << 9, 64))
    small = select(magnitude == 0, signed(3, 4), signed(2, 5))
    large = select(magnitude == infinity, signed(0, 7), nan)
    x[rd] = select(magnitude.lt_u(normal), small, select(magnitude.lt_u(infinity), signed(1, 6), large))
