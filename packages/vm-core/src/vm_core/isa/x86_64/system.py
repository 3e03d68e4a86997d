"""System calls, traps and hints. SDM volume 2, chapters 3 to 5."""

from __future__ import annotations

from vm_core.isa.x86_64.decode import ISA
from vm_core.spec import ACQUIRE, RELEASE, SEQ_CST

x86 = ISA


@x86.encodings("90")
def nop():
    """Also what XCHG EAX, EAX would be, without its zero-extension."""


@x86.encodings("0F 1F/0 Ev", name="nop.modrm")
def nop_modrm(target):
    """The operand is not accessed."""


@x86.encodings("F3 90")
def pause():
    """A hint to a spin loop."""


@x86.encodings("F3 0F 1E/=FA")
def endbr64():
    """A branch target; there is no control-flow enforcement."""


@x86.encodings("0F 05")
def syscall(r, flags, pc, trap):
    """RCX and R11 get the address behind it and RFLAGS."""
    packed = flags.pack()
    r[1] = pc.next
    r[11] = packed
    trap("syscall")


@x86.encodings("0F 0B")
def ud2(trap):
    trap("illegal")


@x86.encodings("F4")
def hlt(trap):
    """Privileged: a user program gets #GP, which is an illegal instruction here."""
    trap("illegal")


@x86.encodings("CC")
def int3(trap):
    """The trap's pc is this instruction, where the processor reports the next one."""
    trap("breakpoint")


@x86.encodings("0F AE/=F0")
def mfence(mem):
    mem.fence(SEQ_CST)


@x86.encodings("0F AE/=E8")
def lfence(mem):
    mem.fence(ACQUIRE)


@x86.encodings("0F AE/=F8")
def sfence(mem):
    mem.fence(RELEASE)
