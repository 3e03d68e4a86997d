"""C, compressed instructions: each is a short encoding of another one. RISC-V Unprivileged ISA 20240411, chapter 27.

The columns: mnemonic, encoding (most significant bit first), the instruction that it is with its fields' values,
constraints (what they exclude is reserved, hence illegal), assembly syntax. ``rdc``, ``rs1c`` and ``rs2c`` are the
manual's rd', rs1' and rs2': x8 to x15. Encodings that the manual calls hints are what they look like, and do nothing.
"""

from __future__ import annotations

from vm_core.isa.riscv.state import rv

# fmt: off
rv.expand("""
    c.addi4spn | 000 nzuimm[5:4|9:6|2|3] rdc 00            | addi rd=rdc rs1=2 imm=nzuimm    | nzuimm!=0      | rdc, sp, nzuimm
    c.fld      | 001 offset[5:3] rs1c offset[7:6] rdc 00   | fld rd=rdc rs1=rs1c imm=offset  |                | rdc, offset(rs1c)
    c.lw       | 010 offset[5:3] rs1c offset[2|6] rdc 00   | lw rd=rdc rs1=rs1c imm=offset   |                | rdc, offset(rs1c)
    c.ld       | 011 offset[5:3] rs1c offset[7:6] rdc 00   | ld rd=rdc rs1=rs1c imm=offset   |                | rdc, offset(rs1c)
    c.fsd      | 101 offset[5:3] rs1c offset[7:6] rs2c 00  | fsd rs2=rs2c rs1=rs1c imm=offset |               | rs2c, offset(rs1c)
    c.sw       | 110 offset[5:3] rs1c offset[2|6] rs2c 00  | sw rs2=rs2c rs1=rs1c imm=offset |                | rs2c, offset(rs1c)
    c.sd       | 111 offset[5:3] rs1c offset[7:6] rs2c 00  | sd rs2=rs2c rs1=rs1c imm=offset |                | rs2c, offset(rs1c)
    c.nop      | 000 imm[5] 00000 imm[4:0] 01              | addi rd=0 rs1=0 imm=imm         |                | imm
    c.addi     | 000 imm[5] rd imm[4:0] 01                 | addi rd=rd rs1=rd imm=imm       | rd!=0          | rd, imm
    c.addiw    | 001 imm[5] rd imm[4:0] 01                 | addiw rd=rd rs1=rd imm=imm      | rd!=0          | rd, imm
    c.li       | 010 imm[5] rd imm[4:0] 01                 | addi rd=rd rs1=0 imm=imm        |                | rd, imm
    c.addi16sp | 011 imm[9] 00010 imm[4|6|8:7|5] 01        | addi rd=2 rs1=2 imm=imm         | imm!=0         | sp, imm
    c.lui      | 011 imm[17] rd imm[16:12] 01              | lui rd=rd imm=imm               | imm!=0 rd!=2   | rd, imm
    c.srli     | 100 shamt[5] 00 rdc shamt[4:0] 01         | srli rd=rdc rs1=rdc shamt=shamt |                | rdc, shamt
    c.srai     | 100 shamt[5] 01 rdc shamt[4:0] 01         | srai rd=rdc rs1=rdc shamt=shamt |                | rdc, shamt
    c.andi     | 100 imm[5] 10 rdc imm[4:0] 01             | andi rd=rdc rs1=rdc imm=imm     |                | rdc, imm
    c.sub      | 100 0 11 rdc 00 rs2c 01                   | sub rd=rdc rs1=rdc rs2=rs2c     |                | rdc, rs2c
    c.xor      | 100 0 11 rdc 01 rs2c 01                   | xor rd=rdc rs1=rdc rs2=rs2c     |                | rdc, rs2c
    c.or       | 100 0 11 rdc 10 rs2c 01                   | or rd=rdc rs1=rdc rs2=rs2c      |                | rdc, rs2c
    c.and      | 100 0 11 rdc 11 rs2c 01                   | and rd=rdc rs1=rdc rs2=rs2c     |                | rdc, rs2c
    c.subw     | 100 1 11 rdc 00 rs2c 01                   | subw rd=rdc rs1=rdc rs2=rs2c    |                | rdc, rs2c
    c.addw     | 100 1 11 rdc 01 rs2c 01                   | addw rd=rdc rs1=rdc rs2=rs2c    |                | rdc, rs2c
    c.j        | 101 imm[11|4|9:8|10|6|7|3:1|5] 01         | jal rd=0 imm=imm                |                | imm
    c.beqz     | 110 imm[8|4:3] rs1c imm[7:6|2:1|5] 01     | beq rs1=rs1c rs2=0 imm=imm      |                | rs1c, imm
    c.bnez     | 111 imm[8|4:3] rs1c imm[7:6|2:1|5] 01     | bne rs1=rs1c rs2=0 imm=imm      |                | rs1c, imm
    c.slli     | 000 shamt[5] rd shamt[4:0] 10             | slli rd=rd rs1=rd shamt=shamt   |                | rd, shamt
    c.fldsp    | 001 offset[5] rd offset[4:3|8:6] 10       | fld rd=rd rs1=2 imm=offset      |                | rd, offset(sp)
    c.lwsp     | 010 offset[5] rd offset[4:2|7:6] 10       | lw rd=rd rs1=2 imm=offset       | rd!=0          | rd, offset(sp)
    c.ldsp     | 011 offset[5] rd offset[4:3|8:6] 10       | ld rd=rd rs1=2 imm=offset       | rd!=0          | rd, offset(sp)
    c.jr       | 100 0 rs1 00000 10                        | jalr rd=0 rs1=rs1 imm=0         | rs1!=0         | rs1
    c.mv       | 100 0 rd rs2 10                           | add rd=rd rs1=0 rs2=rs2         | rs2!=0         | rd, rs2
    c.ebreak   | 100 1 00000 00000 10                      | ebreak                          |                |
    c.jalr     | 100 1 rs1 00000 10                        | jalr rd=1 rs1=rs1 imm=0         | rs1!=0         | rs1
    c.add      | 100 1 rd rs2 10                           | add rd=rd rs1=rd rs2=rs2        | rs2!=0         | rd, rs2
    c.fsdsp    | 101 offset[5:3|8:6] rs2 10                | fsd rs2=rs2 rs1=2 imm=offset    |                | rs2, offset(sp)
    c.swsp     | 110 offset[5:2|7:6] rs2 10                | sw rs2=rs2 rs1=2 imm=offset     |                | rs2, offset(sp)
    c.sdsp     | 111 offset[5:3|8:6] rs2 10                | sd rs2=rs2 rs1=2 imm=offset     |                | rs2, offset(sp)
""")
# fmt: on
