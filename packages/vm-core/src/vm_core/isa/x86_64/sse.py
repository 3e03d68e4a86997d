"""SSE and SSE2 integer instructions on xmm registers. SDM volume 2, chapters 3 to 5.

A memory operand of 128 bits must be aligned, except in MOVDQU and MOVUPS.
"""

from __future__ import annotations

from vm_core.isa.x86_64.decode import ISA

x86 = ISA


@x86.group(
    """
    movdqa: 66 0F 6F Vx,Wx; 66 0F 7F Wx,Vx
    movdqu: F3 0F 6F Vu,Wu; F3 0F 7F Wu,Vu
    movaps: 0F 28 Vx,Wx; 0F 29 Wx,Vx
    movups: 0F 10 Vu,Wu; 0F 11 Wu,Vu
    """
)
def move(dst, src):
    dst.set(src.get())


@x86.encodings("66 0F 6E Vy,Ey; 66 0F 7E Ey,Vy")
def movd(dst, src):
    """MOVD, or MOVQ with REX.W; the rest of a register is zeroed."""
    dst.set(src.get())


@x86.encodings("F3 0F 7E Vq,Wq; 66 0F D6 Wq,Vq")
def movq(dst, src):
    dst.set(src.get())


@x86.group(
    """
    paddb: 66 0F FC Vx,Wx
    paddw: 66 0F FD Vx,Wx
    paddd: 66 0F FE Vx,Wx
    paddq: 66 0F D4 Vx,Wx
    psubb: 66 0F F8 Vx,Wx
    psubw: 66 0F F9 Vx,Wx
    psubd: 66 0F FA Vx,Wx
    psubq: 66 0F FB Vx,Wx
    """
)
def lanes(name, dst, src):
    lane = {"b": 8, "w": 16, "d": 32, "q": 64}[name[-1]]
    a, b = dst.get(), src.get()
    dst.set(a.lanes_add(b, lane) if "add" in name else a.lanes_sub(b, lane))


@x86.group(
    """
    pand: 66 0F DB Vx,Wx
    pandn: 66 0F DF Vx,Wx
    por: 66 0F EB Vx,Wx
    pxor: 66 0F EF Vx,Wx
    andps: 0F 54 Vx,Wx
    orps: 0F 56 Vx,Wx
    xorps: 0F 57 Vx,Wx
    """
)
def vector_logic(name, dst, src):
    a, b = dst.get(), src.get()
    if name == "pandn":
        dst.set(~a & b)
    else:
        dst.set(a & b if "and" in name else a ^ b if "xor" in name else a | b)
