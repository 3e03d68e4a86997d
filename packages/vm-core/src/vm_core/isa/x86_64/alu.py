"""Arithmetic, logic, shifts and moves of the general registers. SDM volume 2, chapters 3 to 5.

What the manual leaves undefined has one fixed value here: AF is 0 after a logical operation or a shift, OF after a
shift by more than 1 follows the formula for 1, CF after a shift beyond an 8 or 16-bit operand is the bit shifted out
of the extended operand; SF, ZF, AF and PF after a multiplication are those of the low half, with AF 0.
"""

from __future__ import annotations

from vm_core.isa.x86_64.decode import ISA
from vm_core.isa.x86_64.operands import condition
from vm_core.spec import Bits, bits, concat, select, when

x86 = ISA

# ** add and subtract


@x86.encodings(
    "00 Eb,Gb; 01 Ev,Gv; 02 Gb,Eb; 03 Gv,Ev; 04 AL,Ib; 05 rAX,Iz; 80/0 Eb,Ib; 81/0 Ev,Iz; 83/0 Ev,Ibs", "lock"
)
def add(flags, dst, src):
    b = src.get()
    a = dst.update("add", b)
    flags.add(a, b, a + b)


@x86.encodings(
    "10 Eb,Gb; 11 Ev,Gv; 12 Gb,Eb; 13 Gv,Ev; 14 AL,Ib; 15 rAX,Iz; 80/2 Eb,Ib; 81/2 Ev,Iz; 83/2 Ev,Ibs"
)
def adc(flags, dst, src):
    a, b, carry = dst.get(), src.get(), flags.cf
    total = a + b + carry.zext(a.width)
    dst.set(total)
    flags.add(a, b, total, carry)


@x86.encodings(
    "28 Eb,Gb; 29 Ev,Gv; 2A Gb,Eb; 2B Gv,Ev; 2C AL,Ib; 2D rAX,Iz; 80/5 Eb,Ib; 81/5 Ev,Iz; 83/5 Ev,Ibs", "lock"
)
def sub(flags, dst, src):
    b = src.get()
    a = dst.update("sub", b)
    flags.sub(a, b, a - b)


@x86.encodings(
    "18 Eb,Gb; 19 Ev,Gv; 1A Gb,Eb; 1B Gv,Ev; 1C AL,Ib; 1D rAX,Iz; 80/3 Eb,Ib; 81/3 Ev,Iz; 83/3 Ev,Ibs"
)
def sbb(flags, dst, src):
    a, b, borrow = dst.get(), src.get(), flags.cf
    difference = a - b - borrow.zext(a.width)
    dst.set(difference)
    flags.sub(a, b, difference, borrow)


@x86.encodings(
    "38 Eb,Gb; 39 Ev,Gv; 3A Gb,Eb; 3B Gv,Ev; 3C AL,Ib; 3D rAX,Iz; 80/7 Eb,Ib; 81/7 Ev,Iz; 83/7 Ev,Ibs"
)
def cmp(flags, dst, src):
    a, b = dst.get(), src.get()
    flags.sub(a, b, a - b)


@x86.encodings("FE/0 Eb; FF/0 Ev", "lock")
def inc(flags, dst):
    """CF is unchanged."""
    a = dst.update("add", bits(1, dst.width))
    total = a + 1
    flags.result(total, af=(a ^ total)[4], of=total == 1 << (a.width - 1))


@x86.encodings("FE/1 Eb; FF/1 Ev", "lock")
def dec(flags, dst):
    """CF is unchanged."""
    a = dst.update("sub", bits(1, dst.width))
    flags.result(a - 1, af=(a ^ (a - 1))[4], of=a == 1 << (a.width - 1))


@x86.encodings("F6/3 Eb; F7/3 Ev")
def neg(flags, dst):
    a = dst.get()
    dst.set(-a)
    flags.sub(a & 0, a, -a)


# ** logic


@x86.group(
    """
    or: 08 Eb,Gb; 09 Ev,Gv; 0A Gb,Eb; 0B Gv,Ev; 0C AL,Ib; 0D rAX,Iz; 80/1 Eb,Ib; 81/1 Ev,Iz; 83/1 Ev,Ibs
    and: 20 Eb,Gb; 21 Ev,Gv; 22 Gb,Eb; 23 Gv,Ev; 24 AL,Ib; 25 rAX,Iz; 80/4 Eb,Ib; 81/4 Ev,Iz; 83/4 Ev,Ibs
    xor: 30 Eb,Gb; 31 Ev,Gv; 32 Gb,Eb; 33 Gv,Ev; 34 AL,Ib; 35 rAX,Iz; 80/6 Eb,Ib; 81/6 Ev,Iz; 83/6 Ev,Ibs
    """,
    "lock",
)
def logic(name, flags, dst, src):
    b = src.get()
    a = dst.update(name, b)
    flags.logic(a & b if name == "and" else a | b if name == "or" else a ^ b)


@x86.encodings("84 Eb,Gb; 85 Ev,Gv; A8 AL,Ib; A9 rAX,Iz; F6/0 Eb,Ib; F7/0 Ev,Iz; F6/1 Eb,Ib; F7/1 Ev,Iz")
def test(flags, dst, src):
    """Digit 1 is an alias that only AMD documents; all processors have it."""
    flags.logic(dst.get() & src.get())


@x86.encodings("F6/2 Eb; F7/2 Ev", "lock")
def not_(dst):
    dst.update("xor", bits(-1, dst.width))


# ** shifts and rotates: the count is taken modulo 32, or 64 for a 64-bit operand; a count of 0 changes no flag


def _count(src, width: int) -> Bits:
    return src.get() & (63 if width == 64 else 31)


_SHIFTS = "C0/{0} Eb,Ib; C1/{0} Ev,Ib; D0/{0} Eb,1; D1/{0} Ev,1; D2/{0} Eb,CL; D3/{0} Ev,CL"


@x86.encodings(_SHIFTS.format(4))
def shl(flags, dst, src):
    a, w = dst.get(), dst.width
    count = _count(src, w)
    if w >= 32:
        result, out = a << count, (a >> (w - count.zext(w)))[0]
    else:
        moved = a.zext(64) << count
        result, out = moved[w - 1 : 0], moved[w]
    dst.set(result)
    with when(count != 0):
        flags.result(result, cf=out, of=result[w - 1] ^ out, af=0)


@x86.encodings(_SHIFTS.format(5))
def shr(flags, dst, src):
    a, w = dst.get(), dst.width
    count = _count(src, w)
    wide = a.zext(max(w, 32))
    result = (wide >> count)[w - 1 : 0]
    dst.set(result)
    with when(count != 0):
        flags.result(result, cf=(wide >> (count - 1))[0], of=a[w - 1], af=0)


@x86.encodings(_SHIFTS.format(7))
def sar(flags, dst, src):
    a, w = dst.get(), dst.width
    count = _count(src, w)
    wide = a.sext(max(w, 32))
    result = wide.sar(count)[w - 1 : 0]
    dst.set(result)
    with when(count != 0):
        flags.result(result, cf=wide.sar(count - 1)[0], of=0, af=0)


@x86.encodings(_SHIFTS.format(0))
def rol(flags, dst, src):
    """Only CF and OF change."""
    a, w = dst.get(), dst.width
    count = _count(src, w)
    result = (a << count) | (a >> (0 - count))
    dst.set(result)
    with when(count != 0):
        flags.set(cf=result[0], of=result[w - 1] ^ result[0])


@x86.encodings(_SHIFTS.format(1))
def ror(flags, dst, src):
    """Only CF and OF change."""
    a, w = dst.get(), dst.width
    count = _count(src, w)
    result = (a >> count) | (a << (0 - count))
    dst.set(result)
    with when(count != 0):
        flags.set(cf=result[w - 1], of=result[w - 1] ^ result[w - 2])


# ** multiply


@x86.encodings("0F AF Gv,Ev")
def imul(flags, dst, src):
    dst.set(_signed_product(flags, dst.get(), src.get()))


@x86.encodings("69 Gv,Ev,Iz; 6B Gv,Ev,Ibs", name="imul.imm")
def imul_imm(flags, dst, src, factor):
    dst.set(_signed_product(flags, src.get(), factor.get()))


def _signed_product(flags, a: Bits, b: Bits) -> Bits:
    """CF and OF tell whether the product does not fit."""
    w = a.width
    product = a.sext(2 * w) * b.sext(2 * w)
    low = product[w - 1 : 0]
    lost = low.sext(2 * w) != product
    flags.result(low, cf=lost, of=lost, af=0)
    return low


@x86.encodings("F6/4 Eb; F7/4 Ev")
def mul(r, flags, src):
    w = src.width
    product = r.part(0, w).get().zext(2 * w) * src.get().zext(2 * w)
    _put_product(r, product)
    lost = product[2 * w - 1 : w] != 0
    flags.result(product[w - 1 : 0], cf=lost, of=lost, af=0)


@x86.encodings("F6/5 Eb; F7/5 Ev", name="imul.wide")
def imul_wide(r, flags, src):
    w = src.width
    product = r.part(0, w).get().sext(2 * w) * src.get().sext(2 * w)
    _put_product(r, product)
    lost = product[w - 1 : 0].sext(2 * w) != product
    flags.result(product[w - 1 : 0], cf=lost, of=lost, af=0)


def _put_product(r, product: Bits) -> None:
    """In AX, or in rDX and rAX."""
    w = product.width // 2
    if w == 8:
        r.part(0, 16).set(product)
    else:
        low, high = r.part(0, w), r.part(2, w)
        low.set(product[w - 1 : 0])
        high.set(product[2 * w - 1 : w])


# ** moves


@x86.encodings(
    "88 Eb,Gb; 89 Ev,Gv; 8A Gb,Eb; 8B Gv,Ev; C6/0 Eb,Ib; C7/0 Ev,Iz; B0+r Zb,Ib; B8+r Zv,Iz; "
    "A0 AL,Ob; A1 rAX,Ov; A2 Ob,AL; A3 Ov,rAX"
)
def mov(dst, src):
    dst.set(src.get())


@x86.encodings("REX.W B8+r Zq,Iq")
def movabs(dst, src):
    dst.set(src.get())


@x86.encodings("8D Gv,Mv")
def lea(dst, src):
    dst.set(src.offset[dst.width - 1 : 0])


@x86.encodings("0F B6 Gv,Eb; 0F B7 Gv,Ew")
def movzx(dst, src):
    dst.set(src.get().zext(dst.width) if src.width < dst.width else src.get())


@x86.encodings("0F BE Gv,Eb; 0F BF Gv,Ew")
def movsx(dst, src):
    dst.set(src.get().sext(dst.width))


@x86.encodings("63 Gv,Ed")
def movsxd(dst, src):
    """With a 16-bit operand it is a move of 16 bits."""
    value = src.get()
    dst.set(value[15:0] if dst.width == 16 else value.sext(dst.width))


@x86.encodings("0F 40+cc Gv,Ev")
def cmovcc(flags, cc, dst, src):
    """A 32-bit destination is zero-extended even where the condition does not hold."""
    dst.set(select(condition(flags, cc), src.get(), dst.get()))


@x86.encodings("0F 90+cc Eb")
def setcc(flags, cc, dst):
    dst.set(condition(flags, cc).zext(8))


@x86.encodings("0F C8+r Zy")
def bswap(dst):
    dst.set(dst.get().bswap())


@x86.encodings("98 Xv")
def cwde(r, w):
    """CBW, CWDE or CDQE: sign-extend the lower half of the accumulator."""
    r.part(0, w).set(r.part(0, w // 2).get().sext(w))


@x86.encodings("99 Xv")
def cdq(r, w):
    """CWD, CDQ or CQO: rDX becomes the sign of rAX."""
    r.part(2, w).set(r.part(0, w).get().sar(w - 1))


# ** exchange


@x86.encodings("86 Eb,Gb; 87 Ev,Gv; 90+r Zv,rAX", "locked", "both")
def xchg(dst, src):
    dst.update("swap", src.get(), into=src)


@x86.encodings("0F C0 Eb,Gb; 0F C1 Ev,Gv", "lock", "both")
def xadd(flags, dst, src):
    b = src.get()
    a = dst.update("add", b, into=src)
    flags.add(a, b, a + b)


@x86.encodings("0F B0 Eb,Gb; 0F B1 Ev,Gv", "lock", "accumulator")
def cmpxchg(r, flags, dst, src):
    accumulator = r.part(0, dst.width)
    a, new = accumulator.get(), src.get()
    b = dst.compare_swap(accumulator, new)
    flags.sub(a, b, a - b)


# ** the stack


@x86.encodings("50+r Zv; FF/6 Ev; 68 Iz; 6A Ibs", "wide")
def push(r, mem, src):
    value = src.get()
    top = r[4] - value.width // 8
    mem.store(top, value)
    r[4] = top


@x86.encodings("58+r Zv; 8F/0 Ev", "wide")
def pop(r, mem, dst):
    """POP RSP leaves the value popped; an address based on RSP is that after the increment."""
    top = r[4]
    value = mem.load(top, dst.width)
    r[4] = top + dst.width // 8
    dst.set(value)


@x86.encodings("C9 Xv", "wide")
def leave(r, mem, w):
    frame = r[5]
    value = mem.load(frame, w)
    r.part(5, w).set(value)
    r[4] = frame + w // 8


@x86.encodings("9C Xv", "wide")
def pushf(r, flags, mem, w):
    top = r[4] - w // 8
    mem.store(top, flags.pack()[w - 1 : 0])
    r[4] = top


# ** single flags


@x86.encodings("F8")
def clc(flags):
    flags.set(cf=0)


@x86.encodings("F9")
def stc(flags):
    flags.set(cf=1)


@x86.encodings("F5")
def cmc(flags):
    flags.set(cf=~flags.cf)


@x86.encodings("FC")
def cld(flags):
    flags.set(df=0)


@x86.encodings("FD")
def std(flags):
    flags.set(df=1)


@x86.encodings("9F")
def lahf(r, flags):
    packed = flags.pack()[7:0]
    old = r[0]
    r[0] = concat(old[63:16], concat(packed, old[7:0]))
