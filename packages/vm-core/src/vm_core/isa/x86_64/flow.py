"""Control transfer. SDM volume 2, chapters 3 to 5. A distance is counted from the instruction's own address here."""

from __future__ import annotations

from vm_core.isa.x86_64.decode import ISA
from vm_core.isa.x86_64.operands import condition

x86 = ISA


@x86.encodings("EB Jb; E9 Jz")
def jmp(pc, distance):
    pc.jump(pc + distance.get())


@x86.encodings("FF/4 Eq", "near", name="jmp.near")
def jmp_near(pc, target):
    pc.jump(target.get())


@x86.encodings("70+cc Jb; 0F 80+cc Jz")
def jcc(pc, flags, cc, distance):
    pc.branch(condition(flags, cc), pc + distance.get())


@x86.encodings("E8 Jz")
def call(r, pc, mem, distance):
    top = r[4] - 8
    mem.store(top, pc.next)
    r[4] = top
    pc.call(pc + distance.get())


@x86.encodings("FF/2 Eq", "near", name="call.near")
def call_near(r, pc, mem, target):
    goal = target.get()
    top = r[4] - 8
    mem.store(top, pc.next)
    r[4] = top
    pc.call(goal)


@x86.encodings("C3", "near")
def ret(r, pc, mem):
    top = r[4]
    goal = mem.load(top, 64)
    r[4] = top + 8
    pc.ret(goal)


@x86.encodings("C2 Iw", "near", name="ret.n")
def ret_n(r, pc, mem, size):
    top = r[4]
    goal = mem.load(top, 64)
    r[4] = top + 8 + size.get().zext(64)
    pc.ret(goal)
