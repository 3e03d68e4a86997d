"""Advanced SIMD, three of the same kind. DDI 0487K, C4.1.96."""

from __future__ import annotations

from vm_core.isa.aarch64.state import ISA

a64 = ISA


def _single(q: int, size: int) -> bool:
    """A 64-bit vector of one 64-bit element is reserved."""
    return size == 3 and not q


@a64.insn("0 q 0 01110 size 1 vm 10000 1 vn vd", "vd, vn, vm", undefined=_single)
def add_vector(v, q, size, vm, vn, vd):
    w = 64 << q
    v.set(vd, v.get(vn, w).lanes_add(v.get(vm, w), 8 << size))


@a64.insn("0 q 1 01110 size 1 vm 10000 1 vn vd", "vd, vn, vm", undefined=_single)
def sub_vector(v, q, size, vm, vn, vd):
    w = 64 << q
    v.set(vd, v.get(vn, w).lanes_sub(v.get(vm, w), 8 << size))


@a64.rows(
    """
    and.vector 0 q 0 01110 00 1 vm 00011 1 vn vd
    bic.vector 0 q 0 01110 01 1 vm 00011 1 vn vd
    orr.vector 0 q 0 01110 10 1 vm 00011 1 vn vd
    orn.vector 0 q 0 01110 11 1 vm 00011 1 vn vd
    eor.vector 0 q 1 01110 00 1 vm 00011 1 vn vd
    """,
    "vd, vn, vm",
)
def logical_vector(name, v, q, vm, vn, vd):
    w = 64 << q
    a, b = v.get(vn, w), v.get(vm, w)
    if name[2] in "cn":
        b = ~b
    v.set(vd, a & b if name[0] in "ab" else a | b if name[0] == "o" else a ^ b)


@a64.insn("1 00 11110 01 1 00 111 000000 rn dt", "dt, rn")
def fmov_from(x, v, rn, dt):
    v.set(dt, x[rn])


@a64.insn("1 00 11110 01 1 00 110 000000 dt rd", "rd, dt")
def fmov_to(x, v, dt, rd):
    x[rd] = v.get(dt, 64)
