"""RV32I and RV64I, the base integer instructions. RISC-V Unprivileged ISA 20240411, chapters 2, 4, 6 (Zifencei), 10 (Zihintpause)."""

from __future__ import annotations

from vm_core.isa.riscv.state import rv
from vm_core.spec import ACQ_REL, ACQUIRE, RELEASE, SEQ_CST

# -- integer register-immediate (2.4.1, 4.2.1) --------------------------------------------------------------------


@rv.insn("imm[11:0] rs1 000 rd 0010011")
def addi(x, rd, rs1, imm):
    x[rd] = x[rs1] + imm


@rv.insn("imm[11:0] rs1 010 rd 0010011")
def slti(x, rd, rs1, imm):
    x[rd] = x[rs1].lt_s(imm).zext(64)


@rv.insn("imm[11:0] rs1 011 rd 0010011")
def sltiu(x, rd, rs1, imm):
    x[rd] = x[rs1].lt_u(imm).zext(64)


@rv.insn("imm[11:0] rs1 100 rd 0010011")
def xori(x, rd, rs1, imm):
    x[rd] = x[rs1] ^ imm


@rv.insn("imm[11:0] rs1 110 rd 0010011")
def ori(x, rd, rs1, imm):
    x[rd] = x[rs1] | imm


@rv.insn("imm[11:0] rs1 111 rd 0010011")
def andi(x, rd, rs1, imm):
    x[rd] = x[rs1] & imm


@rv.insn("000000 shamt rs1 001 rd 0010011")
def slli(x, rd, rs1, shamt):
    x[rd] = x[rs1] << shamt


@rv.insn("000000 shamt rs1 101 rd 0010011")
def srli(x, rd, rs1, shamt):
    x[rd] = x[rs1] >> shamt


@rv.insn("010000 shamt rs1 101 rd 0010011")
def srai(x, rd, rs1, shamt):
    x[rd] = x[rs1].sar(shamt)


@rv.insn("imm[11:0] rs1 000 rd 0011011")
def addiw(x, rd, rs1, imm):
    x[rd] = (x[rs1] + imm)[31:0].sext(64)


@rv.insn("0000000 shamt[4:0] rs1 001 rd 0011011")
def slliw(x, rd, rs1, shamt):
    x[rd] = (x[rs1][31:0] << shamt).sext(64)


@rv.insn("0000000 shamt[4:0] rs1 101 rd 0011011")
def srliw(x, rd, rs1, shamt):
    x[rd] = (x[rs1][31:0] >> shamt).sext(64)


@rv.insn("0100000 shamt[4:0] rs1 101 rd 0011011")
def sraiw(x, rd, rs1, shamt):
    x[rd] = x[rs1][31:0].sar(shamt).sext(64)


@rv.insn("imm[31:12] rd 0110111")
def lui(x, rd, imm):
    x[rd] = imm


@rv.insn("imm[31:12] rd 0010111")
def auipc(x, pc, rd, imm):
    x[rd] = pc + imm


# -- integer register-register (2.4.2, 4.2.2) ---------------------------------------------------------------------


@rv.insn("0000000 rs2 rs1 000 rd 0110011")
def add(x, rd, rs1, rs2):
    x[rd] = x[rs1] + x[rs2]


@rv.insn("0100000 rs2 rs1 000 rd 0110011")
def sub(x, rd, rs1, rs2):
    x[rd] = x[rs1] - x[rs2]


@rv.insn("0000000 rs2 rs1 001 rd 0110011")
def sll(x, rd, rs1, rs2):
    x[rd] = x[rs1] << x[rs2]


@rv.insn("0000000 rs2 rs1 010 rd 0110011")
def slt(x, rd, rs1, rs2):
    x[rd] = x[rs1].lt_s(x[rs2]).zext(64)


@rv.insn("0000000 rs2 rs1 011 rd 0110011")
def sltu(x, rd, rs1, rs2):
    x[rd] = x[rs1].lt_u(x[rs2]).zext(64)


@rv.insn("0000000 rs2 rs1 100 rd 0110011")
def xor(x, rd, rs1, rs2):
    x[rd] = x[rs1] ^ x[rs2]


@rv.insn("0000000 rs2 rs1 101 rd 0110011")
def srl(x, rd, rs1, rs2):
    x[rd] = x[rs1] >> x[rs2]


@rv.insn("0100000 rs2 rs1 101 rd 0110011")
def sra(x, rd, rs1, rs2):
    x[rd] = x[rs1].sar(x[rs2])


@rv.insn("0000000 rs2 rs1 110 rd 0110011")
def or_(x, rd, rs1, rs2):
    x[rd] = x[rs1] | x[rs2]


@rv.insn("0000000 rs2 rs1 111 rd 0110011")
def and_(x, rd, rs1, rs2):
    x[rd] = x[rs1] & x[rs2]


@rv.insn("0000000 rs2 rs1 000 rd 0111011")
def addw(x, rd, rs1, rs2):
    x[rd] = (x[rs1] + x[rs2])[31:0].sext(64)


@rv.insn("0100000 rs2 rs1 000 rd 0111011")
def subw(x, rd, rs1, rs2):
    x[rd] = (x[rs1] - x[rs2])[31:0].sext(64)


@rv.insn("0000000 rs2 rs1 001 rd 0111011")
def sllw(x, rd, rs1, rs2):
    x[rd] = (x[rs1][31:0] << x[rs2]).sext(64)


@rv.insn("0000000 rs2 rs1 101 rd 0111011")
def srlw(x, rd, rs1, rs2):
    x[rd] = (x[rs1][31:0] >> x[rs2]).sext(64)


@rv.insn("0100000 rs2 rs1 101 rd 0111011")
def sraw(x, rd, rs1, rs2):
    x[rd] = x[rs1][31:0].sar(x[rs2]).sext(64)


# -- control transfer (2.5) ---------------------------------------------------------------------------------------


@rv.insn("imm[20|10:1|11|19:12] rd 1101111")
def jal(x, pc, rd, imm):
    x[rd] = pc.next
    pc.jump(pc + imm)


@rv.insn("imm[11:0] rs1 000 rd 1100111", "rd, imm(rs1)")
def jalr(x, pc, rd, rs1, imm):
    target = (x[rs1] + imm) & ~1
    x[rd] = pc.next
    pc.jump(target)


@rv.insn("imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011")
def beq(x, pc, rs1, rs2, imm):
    pc.branch(x[rs1] == x[rs2], pc + imm)


@rv.insn("imm[12|10:5] rs2 rs1 001 imm[4:1|11] 1100011")
def bne(x, pc, rs1, rs2, imm):
    pc.branch(x[rs1] != x[rs2], pc + imm)


@rv.insn("imm[12|10:5] rs2 rs1 100 imm[4:1|11] 1100011")
def blt(x, pc, rs1, rs2, imm):
    pc.branch(x[rs1].lt_s(x[rs2]), pc + imm)


@rv.insn("imm[12|10:5] rs2 rs1 101 imm[4:1|11] 1100011")
def bge(x, pc, rs1, rs2, imm):
    pc.branch(x[rs1].ge_s(x[rs2]), pc + imm)


@rv.insn("imm[12|10:5] rs2 rs1 110 imm[4:1|11] 1100011")
def bltu(x, pc, rs1, rs2, imm):
    pc.branch(x[rs1].lt_u(x[rs2]), pc + imm)


@rv.insn("imm[12|10:5] rs2 rs1 111 imm[4:1|11] 1100011")
def bgeu(x, pc, rs1, rs2, imm):
    pc.branch(x[rs1].ge_u(x[rs2]), pc + imm)


# -- loads and stores (2.6, 4.3) ----------------------------------------------------------------------------------


@rv.insn("imm[11:0] rs1 000 rd 0000011", "rd, imm(rs1)")
def lb(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 8).sext(64)


@rv.insn("imm[11:0] rs1 001 rd 0000011", "rd, imm(rs1)")
def lh(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 16).sext(64)


@rv.insn("imm[11:0] rs1 010 rd 0000011", "rd, imm(rs1)")
def lw(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 32).sext(64)


@rv.insn("imm[11:0] rs1 011 rd 0000011", "rd, imm(rs1)")
def ld(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 64)


@rv.insn("imm[11:0] rs1 100 rd 0000011", "rd, imm(rs1)")
def lbu(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 8).zext(64)


@rv.insn("imm[11:0] rs1 101 rd 0000011", "rd, imm(rs1)")
def lhu(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 16).zext(64)


@rv.insn("imm[11:0] rs1 110 rd 0000011", "rd, imm(rs1)")
def lwu(x, mem, rd, rs1, imm):
    x[rd] = mem.load(x[rs1] + imm, 32).zext(64)


@rv.insn("imm[11:5] rs2 rs1 000 imm[4:0] 0100011", "rs2, imm(rs1)")
def sb(x, mem, rs1, rs2, imm):
    mem.store(x[rs1] + imm, x[rs2][7:0])


@rv.insn("imm[11:5] rs2 rs1 001 imm[4:0] 0100011", "rs2, imm(rs1)")
def sh(x, mem, rs1, rs2, imm):
    mem.store(x[rs1] + imm, x[rs2][15:0])


@rv.insn("imm[11:5] rs2 rs1 010 imm[4:0] 0100011", "rs2, imm(rs1)")
def sw(x, mem, rs1, rs2, imm):
    mem.store(x[rs1] + imm, x[rs2][31:0])


@rv.insn("imm[11:5] rs2 rs1 011 imm[4:0] 0100011", "rs2, imm(rs1)")
def sd(x, mem, rs1, rs2, imm):
    mem.store(x[rs1] + imm, x[rs2])


# -- memory ordering (2.7, 6) and environment calls (2.8) ---------------------------------------------------------


@rv.insn("---- pred succ ----- 000 ----- 0001111", "pred, succ")
def fence(mem):
    mem.fence(SEQ_CST)


@rv.insn("---- pred succ ----- 000 ----- 0001111", "pred, succ", over="fence", where="pred==0,2,8,10")
def fence_acquire(mem):
    """No writes in front of it are ordered."""
    mem.fence(ACQUIRE)


@rv.insn(
    "---- pred succ ----- 000 ----- 0001111", "pred, succ", over="fence", where="pred!=0,2,8,10 succ==0,1,4,5"
)
def fence_release(mem):
    """No reads behind it are ordered."""
    mem.fence(RELEASE)


@rv.insn("1000 0011 0011 ----- 000 ----- 0001111", "", over="fence")
def fence_tso(mem):
    mem.fence(ACQ_REL)


@rv.insn("------------ ----- 001 ----- 0001111", "")
def fence_i(mem):
    mem.sync_fetch()


@rv.insn("000000000000 00000 000 00000 1110011", "")
def ecall(trap):
    trap("syscall")


@rv.insn("000000000001 00000 000 00000 1110011", "")
def ebreak(trap):
    trap("breakpoint")
