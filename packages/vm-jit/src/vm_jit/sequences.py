"""The sequences that superinstructions are made for (:mod:`vm_jit.superinstructions` has the notation), the most frequent
first. Written by ``benchmarks/sequences.py``."""

from __future__ import annotations

from typing import Final

SEQUENCES: Final[dict[str, str]] = {
    "riscv64": """\
ld//2 .. addi//2 11 sd//2 .1 lw//4 .2
add//4 ... sb//4 1. add//2 ... bltu//4 1.n
andi//4 .. subw//4 z11 srliw//4 .. and//2 2.2
fmul.d/7/4 ... fmul.d/7/4 ... fadd.d/7/4 21. flt.d//4 .1.
ld//2 .. slli//4 .. add//2 .1. addi//2 ..
xor//2 ... addiw//2 .. addiw//4 2. bne//2 2zn
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212
fadd.d/7/4 ... fsub.d/7/4 ... addiw//2 .. fmadd.d/7/4 3...
add//4 ... add//2 1.1 add//4 ... lbu//4 22
addi//2 .. sd//2 1. sd//2 2. sd//2 3.
add//4 ... lbu//4 1. add//2 z.2 addi//2 ..
add//2 z.. add//2 z.. add//2 z.. add//2 z..
ld//2 .. addiw//2 .. addi//2 .. jalr//2r 3z
ld//2 .. add//2 ... bne//4 ..n
addi//2 .. addi//2 .. sd//2 2. jal//4 .n
ld//2 .. ld//2 .. ld//2 .. ld//2 ..
andi//4 .. slli//2 11 add//2 1.1 ld//2 11
srli//4 .. xor//4 .1. srli//4 12 xor//4 212
lbu//4 .. addi//2 .. xor//2 .2. mul//4 1.1
beq//2 .zn
mulw//4 ... addw//2 .1. bne//4 ..n
lbu//4 .. lbu//4 .. beq//4 21n
sb//4 .. sb//4 .. addi//2 .. addiw//2 ..
slli//4 .. xor//2 1.1 mul//4 1.. srli//2 11
lbu//4 .. addi//2 .. addi//2 .. lbu//4 2.
slli//2 .. add//2 ... add//2 2.2 ld//4 22
bne//2 .zn
addw//4 ... andi//4 11 subw//2 1.1 addi//4 1.
slli//2 .. add//2 1.1 ld//2 11 jalr//2 1.
fmadd.d/7/4 .... fsd//4 .1 bne//4 ..n
sraiw//4 .. addi//2 .. srliw//4 22 sd//2 2.
andi//4 .. addi//2 .. bne//4 ..n
slli//2 .. add//2 1.1 lw//2 11 add//2 1.1
flw//4 .. flw//4 .. addi//2 .. add//2 ...
sd//2 .. sd//2 .. addi//2 z. add//2 z..
fld//2 .. fld//2 .. addi//2 .. addi//2 ..
lw//2 .. lw//2 .. addi//2 .. add//2 ...
addi//2 .. addi//2 .. beq//4 .2n
add//2 ... ld//2 .. add//2 z2. ld//2 .3
fadd.d/7/4 ... beq//4 ..n
sd//2 .. andi//4 .. add//4 ... sb//4 12
lh//4 .. lh//4 .. addi//2 .. addi//2 ..
ld//2 .. addi//2 .. jalr//2r .z
addi//2 .. sd//2 1. sd//2 2. add//2 z..
lbu//4 .. beq//4 .1n
lbu//4 .. addi//2 .. add//4 .1. sb//4 13
addi//2 .. add//2 ... bne//4 .2n
add//2 z.. add//2 z.. add//2 z.. jalr//2 ..
bge//4 ..n
addi//2 .. bge//4 1.n
sd//2 .. sd//2 .. sd//2 .. sd//2 ..
mulw//4 ... sraiw//4 1. sraiw//4 22 andi//2 22
lw//2 .. lw//2 .. sltu//4 12. sltu//4 323
bne//4 ..n
lbu//4 .. lbu//4 .. addi//2 .. slli//2 33
lbu//4 .. lbu//4 .. lbu//4 .. slli//2 33
addi//2 .. beq//4 ..n
slti//4 .. addiw//2 .. add//2 .2. bne//4 2zn
andi//4 .. mulw//4 .11 addw//2 .1. bne//4 ..n
sub//4 ... addi//2 z. add//2 z.. jal//4 .n
addi//4 .. addi//4 .. andi//2 22 addi//4 ..
ld//2 .. ld//2 .. ld//2 .. addi//2 ..
lbu//4 .. slli//2 11 add//2 1.1 ld//2 11
andi//2 .. add//4 1.. ld//2 .. ld//2 ..
lw//4 .. addi//2 .. bne//4 .2n
xor//4 ... srli//4 1. xor//4 212 srli//4 12
lbu//4 .. ld//4 .. ld//4 .. slli//2 33
slli//2 .. add//2 1.1 ld//2 11 addi//2 ..
fmadd.s/7/4 .... bne//4 ..n
add//2 z.. ld//2 1. sd//2 2. add//2 z3.
ld//2 .. addi//2 .. sd//4 .. addi//2 ..
lw//4 .. addi//2 .. addi//2 .. sw//2 .3
fsub.d/7/4 ... fmul.d/7/4 ... fmadd.d/7/4 ..11 fmadd.d/7/4 3311
ld//2 .. sub//2 ... add//2 z.. add//2 z..
and//4 ... slli//2 11 add//2 1.1 ld//4 1.
or//4 ... or//2 1.1 xori//4 11 and//2 1.1
fdiv.d/7/4 ... fnmsub.d/7/4 .1.. fnmsub.d/7/4 .2.. fnmsub.d/7/4 .3..
add//2 z.. jal//2 zn
subw//4 z.. and//2 1.1 addiw//2 11 or//4 1..
ld//2 .. add//2 z.. ld//2 .. ld//2 ..
slli//4 .. add//2 .1. addi//2 .. add//2 2.2
fsqrt.d/7/4 .. fmul.d/7/4 .1. fld//2 .. fld//4 ..
add//2 ... ld//2 11 addi//2 .. jalr//2 2z
lhu//4 .. xor//2 1.1 andi//4 11 bne//2 1zn
lw//4 .. addi//2 .. sd//2 1. sd//2 2.
srli//2 .. sb//4 .1 bne//4 ..n
remu//4 ... bne//2 1zn
slli//4 .. xor//2 1.1 srli//4 1. xor//2 121
addi//2 .. jalr//2r .z
add//2 ... ld//2 1. slli//4 1. add//2 121
andi//4 .. slli//2 11 add//2 1.1 lw//2 11
lui//2 . add//2 z.. bltu//4 2.n
fld//4 .. fmul.d/7/4 ... fmul.d/7/4 ... fmul.d/7/4 ...
beq//4 ..n
addiw//2 .. jal//4 .n
sd//2 .. sub//4 ... sub//4 ... bltu//4 ..n
lui//2 . bltu//4 1.n
addi//2 .. jal//4 .n
fmul.d/7/4 ... fmul.d/7/4 ... fmul.d/7/4 ... add//2 z..
fld//4 .. fld//4 .. addi//4 .. addiw//2 ..
ld//2 .. addi//4 .. add//4 2.. xori//4 33
sd//2 .. lbu//4 .. add//2 z.. addi//2 ..
addiw//4 .. and//2 .1. addiw//2 11 add//2 ...
bltu//4 ..n
add//2 ... mul//4 ... add//2 1.1 add//2 1.1
mul//4 ... addi//2 .. slli//2 22 bgeu//4 1.n
slli//4 .. xor//2 1.1 mul//4 1.. addi//2 ..
ld//2 .. addi//2 .. srli//4 2. and//4 3.3
ld//2 .. ld//2 .. ld//2 .. add//2 z..
addi//2 .. beq//4 .zn
mul//4 ... mul//4 ... and//4 2.. srli//2 33
addi//4 .. ld//2 1. addi//2 .. sd//2 1.
or//4 ... or//4 ... slliw//4 .. srliw//4 33
slli//2 .. add//2 ... or//4 2.2 ld//2 22
and//4 ... slli//2 11 add//2 1.1 lw//2 11
add//2 ... sd//2 .1 ld//4 .. slli//4 13
fld//4 .. fld//4 .. fmadd.d/7/4 .... fmadd.d/7/4 ..3.
sub//2 ... add//2 1.1 sd//4 .1 addi//2 ..
and//2 ... and//2 1.1 beq//2 1zn
addi//2 .. bltu//4 ..n
add//2 z.. addiw//4 .. xor//2 ... jal//4 .n
slli//4 .. xor//2 .1. mul//4 1.2 addi//2 ..
ld//2 .. ld//2 .. sltu//4 12. sltu//4 323
fsd//4 .. fsd//4 .. fsd//4 .. fld//4 ..
fmadd.d/7/4 .... fsd//4 .. fsd//4 .. fsd//4 .3
slliw//4 .. sraiw//4 11 sd//4 .1 addi//2 ..
lh//4 .. lh//4 .. subw//2 212 jalr//2r .z
fld//2 .. fld//4 .. fld//2 .. fld//4 ..
addi//2 z. jal//2 zn
fsub.d/7/4 ... fld//4 .. fld//2 .. fsub.d/7/4 ...
addi//2 .. addi//2 .. bne//4 .2n
addi//2 .. jalr//2 ..
add//2 ... ld//4 11 slli//2 .. add//2 1.1
addi//2 .. addi//2 .. sd//4 .. jalr//2 .z
lbu//4 .. lbu//4 .. bne//4 21n
sd//2 .. sd//2 .. bne//2 .zn
addi//2 .. addi//2 .. beq//4 2.n
lw//2 .. add//2 z.. addi//2 .. addi//2 ..
jal//2 zn
lbu//4 .. addi//2 z. addi//2 .. xor//2 .3.
and//4 ... slli//2 11 add//2 1.1 sltu//4 1..
ld//4 .. addi//2 .. addi//2 .. sd//2 .3
addw//2 ... addw//4 1.1 addw//4 1.1 addiw//4 ..
lbu//4 .. srliw//4 .. addi//2 .. xor//2 .3.
subw//2 ... jalr//2r .z
sd//4 .. add//2 ... addi//2 .. bne//4 ..n
and//4 ... slli//2 11 add//2 1.1 ld//2 11
andi//2 .. addw//4 1.1 sll//4 .11 xori//4 11
xor//2 ... srli//4 1. xor//2 212 slli//4 12
fld//2 .. fld//2 .. addi//2 .. addiw//2 ..
xor//4 ... srliw//4 .. xor//2 .1. xor//2 3.3
slli//4 .. slli//4 .. add//2 2.2 add//2 2.2
addi//4 .. slli//4 1. add//4 .1. slli//4 .2
lw//4 .. bne//2 1zn
bgeu//4 ..n
sd//4 .. add//2 z.. bne//2 .zn
add//2 ... ld//4 1. slli//4 .2 add//2 1.1
add//2 z.. add//2 z.. slliw//4 .. slliw//4 ..
add//2 ... slli//2 .. ld//2 2. bltu//4 2.n
xor//2 ... addiw//2 11 bne//4 ..n
srl//4 ... sll//4 ... or//4 212 ld//4 ..
sd//2 .. sd//2 .. sd//2 .. addi//2 ..
add//2 z.. jal//4 .n
bne//4 .zn
add//2 z.. ld//2 .. addi//2 .. jalr//2r .z
ld//4 .. addi//4 .. sd//2 .. ld//2 ..
or//4 ... or//4 ... srliw//4 .. xor//2 2.2
slliw//4 .. slliw//4 .. or//2 1.1 or//4 ...
slli//2 .. add//2 1.1 lw//4 1. sw//4 .1
ld//4 .. ld//4 .. ld//4 .. ld//4 ..
add//2 z.. add//2 z.. jalr//2 ..
add//4 ... srli//4 1. xor//4 212 srli//4 12
add//2 z.. add//2 z.. jal//4 .n
lbu//4 .. lbu//4 .. lw//4 .. slli//2 33
addi//4 .. srli//4 1. xor//4 212 srli//4 12
addi//2 z. beq//2 .zn
srli//4 .. mul//4 ... add//2 .2. bgeu//4 ..n
ld//2 .. xor//2 1.1 add//4 1.. xori//4 22
xori//4 .. srli//4 1. xor//4 212 srli//4 12
mul//4 ... srli//4 1. xor//4 212 srli//4 12
add//2 z.. addi//2 .. bne//4 ..n
lw//4 .. lw//2 .. srliw//4 .. srliw//4 ..
or//4 ... slli//2 .. or//2 121 mulw//4 1.1
sd//2 .. addi//2 z. beq//4 ..n
addi//2 .. sub//4 1.. add//4 .2. add//2 2.2
add//2 ... ld//2 11 sub//4 ... sltiu//4 11
add//4 ... xor//2 ... xor//4 2.2 and//2 212
ld//4 .. ld//2 .. mul//4 .11 add//2 1.1
lbu//4 .. add//2 z.. addi//2 .. slli//2 33
add//4 ... lbu//4 1. lbu//4 2. lbu//4 3.
addi//4 .. bne//4 1zn
srliw//4 .. or//4 ... slliw//4 .. or//4 ...
slli//4 .. add//2 .1. jalr//2r .z
addi//2 .. add//2 z.. add//4 ... sub//2 3.3
addi//4 z. jal//4 .
slli//2 .. add//2 1.1 lw//4 1. sw//2 2.
ld//2 .. beq//2 1zn
slli//4 .. xor//2 1.1 mul//4 1.. lw//4 ..
fld//4 .. fld//4 .. fld//4 .. fld//4 ..
and//4 ... slli//2 11 add//2 1.1 srliw//4 ..
lbu//4 .. lbu//4 .. lw//4 .. slli//4 3.
or//4 ... xori//4 .. xor//4 ... and//4 ...
ld//4 .. addi//2 .. beq//4 2zn
slli//2 .. add//2 1.1 ld//2 11 jalr//2 1z
lwu//4 .. slli//2 11 add//2 1.1 sd//2 .1
xor//4 ... xor//4 ... addw//4 212 addw//4 ...
addi//2 .. addi//2 .. addi//2 .. sd//4 3.
lbu//4 .. addi//2 .. addi//2 .. slli//2 33
lw//2 .. slli//2 11 add//2 1.1 lbu//4 1.
or//4 ... addw//4 ... xor//4 ... addw//2 2.2
xor//4 ... srliw//4 .. slliw//4 .. srliw//4 ..
addw//4 ... addiw//4 .. sll//4 .22 addi//4 ..
addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 ..
ld//2 .. ld//2 .. bgeu//4 12n
lw//2 .. addiw//2 11 sw//2 .1 jal//2 zn
slliw//4 .. srliw//4 .. srliw//4 .. srliw//4 ..
slli//4 .. srli//2 .. or//2 121 jalr//2r .z
addiw//4 .. lw//2 .. slliw//4 .. srliw//4 ..
lbu//4 .. addi//4 .. slli//2 22 add//2 1.1
lw//2 .. addi//2 .. slli//2 22 add//2 1.1
slliw//4 .. and//4 ... addw//4 ... xor//4 ...
lbu//4 .. jal//2 zn
ld//2 .. addi//2 .. addi//2 .. bltu//4 23n
lbu//4 .. addi//2 .. xor//4 2.. mul//4 1.1
lw//2 .. andi//4 11 beq//2 1zn
add//2 z.. addiw//2 .. ld//4 .. bne//4 .zn
srli//4 .. xor//4 .1. xori//4 11 srli//4 13
sw//2 .. addi//2 .. addiw//4 .. addiw//4 ..
or//4 ... add//2 1.1 lbu//4 1. addi//2 22
srli//4 .. xor//4 .1. addi//4 11 srli//4 13
auipc//4 . ld//4 11 xor//2 .1. jalr//2r .z
xor//2 ... mul//4 1.1 addi//2 .. srli//4 2.
add//2 z.. jal//4 .
addi//2 .. srli//2 .. remu//4 1.1 addi//2 ..
srli//4 .. xor//2 .1. slli//4 12 xor//2 212
and//2 ... and//4 1.1 beq//2 1zn
andi//4 .. beq//2 1zn
slliw//4 .. srliw//4 .. addw//2 ... xor//4 ...
slli//2 .. add//2 1.1 ld//4 1. slli//4 .2
lui//4 . addi//4 11 add//2 .1. jalr//2r .z
add//2 z.. addi//2 .. remu//4 1.. slli//4 ..
ld//2 .. addi//2 .. bltu//4 12n
addi//2 .. slli//2 11 add//2 1.1 ld//4 1.
add//2 ... ld//2 11 slli//2 .. add//2 1.1
mul//4 ... srli//4 1. xor//2 212 sd//2 .1
sub//4 ... add//2 z.. add//2 z.. jal//2 zn
sd//2 .. add//2 z.. bgeu//4 ..n
add//4 ... addi//2 .. lw//4 2. add//2 2.2
addi//2 .. addi//2 .. jalr//2 .z
ld//2 .. addi//4 .. xor//4 .2. add//4 3..
andi//4 .. srli//2 .. add//2 121 jalr//2r .z
or//4 ... or//4 ... and//4 ... and//4 ...
lbu//4 .. sub//4 ... add//2 1.1 sb//4 13
add//2 z.. add//2 z.. slli//2 .. jal//4 .n
add//2 z.. addiw//2 .. ld//2 .. beq//4 .zn
addi//2 .. lbu//4 1. jal//2 zn
jalr//2r .z
lbu//4 .. slli//2 .. or//4 1.1 slli//2 ..
srli//4 .. slli//2 .. or//2 121 jalr//2r .z
lui//2 . addi//2 11 and//4 .1. auipc//4 .
addi//2 z. ld//2 .. addi//2 .. jalr//2r 2z
addiw//2 .. addi//2 z. bge//4 12n
addiw//2 .. beq//4 1zn
add//2 z.. add//2 z.. bgeu//4 ..n
add//2 ... sd//4 .1 addi//2 .. jal//2 zn
xor//2 ... lwu//4 .. addi//2 .. slli//2 22
lw//2 .. andi//4 1. bne//2 1zn
sd//4 .. addi//2 .. addi//2 .. bne//4 2.n
andi//4 .. add//2 z.. bne//2 2zn
lw//2 .. lw//4 .. addiw//2 22 sw//2 .2
ld//2 .. auipc//4 . ld//4 11 addi//2 33
lw//2 .. andi//4 11 bne//2 1zn
add//2 z.. addi//2 z. fld//2 2. fld//2 3.
subw//4 ... add//2 z.. subw//4 2.. addiw//4 ..
sd//2 .. ld//2 .. slli//4 1. xor//2 121
ld//2 .. xor//4 .1. auipc//4 2 ld//4 11
ld//2 .. addi//2 .. srl//4 2.2 andi//4 11
lui//4 . addi//4 11 remu//4 .1. jalr//2r .z
sw//4 .. bne//4 ..n
add//2 ... subw//4 ... add//2 z.. subw//4 2..
srli//4 .. xor//4 .1. addi//4 .. bne//4 1zn
xor//4 ... addi//4 11 srli//4 1. xor//4 212
xor//4 ... srli//4 1. xor//4 212 addi//4 11
addi//4 .. addi//2 .. bne//4 .2n
sw//2 .. add//2 z.. addi//2 .. addi//2 ..
slli//4 .. add//4 .1. lw//4 1. slli//4 ..
add//2 z.. add//2 z.. add//2 z..
xor//4 ... srli//4 1. xor//4 212 add//4 1.1
srli//4 .. xor//4 .1. mul//4 1.1 srli//4 13
sub//4 ... bge//4 1.n
add//2 ... mul//4 ... slli//2 .. add//2 1.1
add//2 z.. add//2 z.. srli//2 .. addi//2 z.
addi//2 .. sd//2 1. addi//2 2. add//2 z1.
xor//4 ... add//4 1.1 srli//4 1. xor//4 212
bge//4 z.n
ld//4 .. bgeu//4 .1n
sb//4 .. lbu//4 .. bne//2 1zn
addi//2 .. addiw//2 .. fmadd.d/7/4 .... fsd//4 31
ld//2 .. ld//4 .. xor//2 121 addi//2 z3
ld//2 .. bltu//4 .1n
lbu//4 .. lbu//4 .. ld//4 .. slli//2 33
slli//4 .. xor//4 1.1 srli//4 1. xor//2 212
mul//4 ... sd//2 .. srli//2 22 addi//4 1.
ld//4 .. add//2 z.. addi//2 .. addi//2 33
addi//2 .. sd//2 1. andi//4 .. add//2 z..
lbu//4 .. beq//2 1zn
ld//2 .. slli//2 .. add//2 1.1 sltu//4 .33
addiw//4 .. add//2 z.. add//2 z.. slli//2 ..
add//2 z.. slli//4 1. slli//2 .. addi//2 22
beq//4 .zn
slli//2 .. add//2 1.1 ld//4 1. slli//4 1.
add//2 z.. lw//2 .. addw//2 .1. slt//4 323
lhu//4 .. addi//2 .. addw//2 2.2 sh//4 21
add//4 ... and//2 1.1 slli//2 11 add//2 1.1
jalr//2 .z
sll//4 ... srl//4 ... or//4 121 addi//4 ..
ld//2 .. slli//2 .. add//2 1.1 and//4 .33
addiw//2 .. addiw//2 .. addi//2 .. add//2 z..
lbu//4 .. addi//2 .. addi//2 .. sb//4 23
add//2 z.. bne//2 .zn
addiw//2 .. ld//2 .. bne//4 .2n
lw//2 .. andi//4 1. bne//4 1zn
add//2 ... add//2 1.1 and//4 1.. slli//2 11
ld//2 .. addi//2 .. srl//4 2.. andi//4 11
addi//2 .. and//4 .11 slli//4 1. add//2 1.1
add//2 ... ld//2 11 sub//4 ... addi//2 ..
add//2 ... ld//2 11 slt//4 ... addi//2 ..
fld//2 .. fsub.d/7/4 ... fsub.d/7/4 .2. fmul.d/7/4 ..3
xor//4 ... srli//4 1. xor//4 212 xori//4 11
add//2 ... sd//4 .. add//2 2.2 bne//4 ..n
addi//2 .. addi//2 .. bgeu//4 .2n
lbu//4 .. lbu//4 .. addi//2 .. slli//4 3.
addi//4 .. slli//4 .. slli//4 .. sd//2 ..
ld//4 .. slli//2 .. add//2 1.1 sltu//4 .33
ld//4 .. slli//2 .. add//2 1.1 and//4 .33
sd//4 .. addi//2 .. lbu//4 1. jal//2 zn
slli//4 .. add//2 1.1 ld//2 11 add//2 z..
srli//4 .. xor//4 .1. add//4 1.1 srli//4 13
add//2 z.. add//2 z.. add//2 ... jal//4 .
addiw//4 .. add//2 z.. fld//2 1. fld//4 ..
addiw//2 .. bne//2 1zn
add//2 ... addi//2 .. add//2 2.2 bne//4 .2n
xor//4 ... srli//4 1. xor//4 212 mul//4 1.1
andi//4 .. add//2 1.1 lbu//4 11 addi//2 ..
xor//4 ... addi//4 .. bne//4 1zn
mul//4 ... addi//2 11 jalr//2r .z
add//4 ... mul//4 1.1 srli//4 1. xor//4 212
fld//4 .. fld//4 .. sltiu//4 .. add//2 1.1
sw//2 .. addi//2 z. ld//2 .. ld//2 ..
addi//2 .. andi//4 1. beq//2 1zn
sw//4 .. addi//2 .. addi//2 .. sw//4 ..
addi//4 .. slli//2 .. add//2 121 ld//4 1.
slli//2 .. add//2 1.1 ld//2 11 slli//4 ..
blt//4 z.n
xori//4 .. mul//4 1.1 srli//4 1. xor//4 212
addi//2 .. sd//4 .. addi//2 .. addi//2 ..
addi//4 z. bgeu//4 1.n
addi//2 .. sd//2 .1 lw//4 .2 bge//4 .1n
ld//2 .. ld//2 .. bltu//4 21n
add//2 z.. beq//2 .zn
addi//2 z. divu//4 .1. jalr//2r .z
add//2 ... bne//4 ..n
addw//2 ... addiw//4 .. addiw//2 .. addiw//4 ..
addi//2 .. ld//4 .. sd//2 2. ld//4 ..
ld//4 .. add//2 z.. bltu//4 ..n
sltu//4 z.. addi//2 .. add//2 .2. bne//4 .2n
slli//2 .. add//2 1.1
add//4 ... xori//4 11 srli//4 1. xor//4 212
sub//4 z.. andi//2 11 sub//4 .1. beq//2 2zn
add//4 ... sb//4 1. srli//2 .. beq//2 1zn
add//2 z.. add//2 z..
lui//4 . or//2 .1. jalr//2r .z
and//4 ... slli//2 11 add//2 .1. sltu//4 1..
add//2 ... addi//2 .. sd//4 .1 sd//2 3.
addi//2 .. sd//4 .. addi//2 .. bgeu//4 3.n
add//2 ... ld//2 11 add//2 ... addi//2 ..
lbu//4 .. sub//4 1.1 sltu//4 z11 addi//4 z.
add//2 z..
slli//4 .. add//2 1.1 addi//2 .. add//4 2..
sd//2 .. ld//4 .. sd//2 .. sd//2 ..
srli//4 .. and//4 1.1 sd//2 .. slli//4 2.
addi//4 z. xori//4 .. addi//2 z. addi//2 z.
addi//4 .. sltu//4 z11 lui//2 . add//2 z..
ld//2 .. addi//4 .. sltu//4 z11 add//2 z..
xor//4 ... xori//4 11 srli//4 1. xor//4 212
addi//2 .. bne//4 ..n
add//2 z.. sd//4 .1 addi//2 .. addi//2 ..
sd//4 .. add//2 z.. addi//4 .. bne//2 .zn
addi//2 .. xor//2 ... mul//4 1.1 bne//4 .3n
slli//4 .. slli//2 .. add//2 z.. add//2 z..
sd//2 .. add//2 ... sd//2 .. add//2 z..
addi//4 z. add//2 z.. xori//4 .. addi//2 z.
addi//4 .. sd//4 .. addi//2 .. add//2 z3.
addiw//2 .. addiw//4 .. addiw//4 .. addi//2 ..
ld//2 .. addi//2 11 sd//2 .1
srli//4 .. xor//2 .1. jalr//2r .z
addi//2 .. sd//4 .1 bne//4 ..n
add//4 ... add//4 1.1 srli//4 1. xor//4 212
ld//4 .. ld//2 .. ld//2 .. ld//4 ..
sd//4 .. ld//2 .. ld//2 .. ld//2 ..
addi//4 .. addi//4 11 srli//4 1. xor//4 212
fld//2 .. fld//4 .. fsub.d/7/4 ... fld//4 ..
sub//4 ... add//2 z.. bne//2 .zn
xori//4 .. add//4 1.1 srli//4 1. xor//4 212
srli//4 .. mul//4 ... add//2 2.2 bgeu//4 ..n
addiw//4 .. addi//4 .. bne//4 2.n
lbu//4 .. auipc//4 . addi//4 11 ld//2 11
sd//2 .. ld//2 .. addi//4 .. sd//4 ..
addi//2 .. bgeu//4 ..n
ld//4 .. sd//4 .. sll//4 2.. srl//4 ...
slliw//4 .. slliw//4 .. or//2 212 or//2 1.1
xor//4 ... xor//2 1.1 xor//2 .1. bne//4 ..n
lui//2 . auipc//4 . addi//4 11 jal//2 zn
add//2 z.. addi//2 z. jal//2 zn
addi//2 .. bne//2 .zn
xor//4 ... srli//4 1. xor//2 212 slli//4 1.
add//2 ... sltu//4 1.. srli//4 .. mul//4 ...
addi//4 .. mul//4 1.1 srli//4 1. xor//4 212
sd//2 .. sd//2 .. add//2 z.. add//2 z..
srli//4 .. xor//2 1.1 slli//4 1. xor//2 121
xor//2 ... mul//4 1.1 srli//4 1. xor//2 121
ld//2 .. add//2 z.. ld//2 .. addi//2 ..
add//4 ... addi//4 11 srli//4 1. xor//4 212
blt//4 .zn
addi//2 .. addi//4 .. sd//2 2. ld//4 2.
addi//4 .. sd//4 .. ld//4 .. addi//4 ..
and//4 ... srli//2 .. add//2 2.2 mul//4 ...
xor//4 ... addw//2 ... xor//4 2.2 xor//4 ...
srli//4 .. sub//2 .1. jalr//2r .z
mul//4 ... addi//4 .. bne//4 1zn
lbu//4 .. bne//2 1zn
addiw//4 .. bne//4 ..n
addi//4 .. lw//2 .. sltu//4 z22 sltu//4 z..
add//2 z.. ld//2 .. beq//2 1zn
or//4 ... beq//4 1.n
slli//4 .. xor//4 1.. srli//4 1. xor//2 121
xor//4 ... mul//4 1.1 srli//4 1. xor//4 212
add//2 z.. ld//2 .. addi//2 .. sltu//4 233
andi//4 .. add//2 .1. andi//4 .. add//2 3.3
addi//2 z. add//2 z.. add//2 z.. add//2 z..
lw//2 .. addi//2 z. add//2 z.. add//2 z..
srli//4 .. and//4 ... mul//4 1.. mul//4 3..
srai//4 .. xor//2 .1. jalr//2r .z
addi//2 .. add//2 z.. addw//2 ... addiw//4 ..
sd//4 .. addi//2 .. jal//2 zn
sltu//4 z.. addi//2 z. add//2 z.. add//2 .3.
addi//2 z. srli//4 11 slli//2 .. addi//2 z.
lbu//4 .. bne//4 1.n
addi//2 .. addi//2 ..
addiw//2 .. addiw//4 .. addiw//2 .. addiw//4 ..
srl//4 ... sd//4 .1 addi//2 .. jal//2 zn
xori//4 .. addi//4 11 srli//4 1. xor//4 212
ld//2 .. ld//2 .. addi//2 .. jalr//2r .z
addi//4 .. add//2 z.. ld//2 2. beq//4 12n
or//4 ... addi//4 .. ld//4 .. addi//2 ..
addi//2 .. bne//4 1.n
ld//4 .. beq//2 1zn
or//2 ... ld//4 .. addi//4 .. sd//4 .3
addi//2 z.
add//2 ... addi//2 z. add//2 z.. add//2 .3.
srli//4 .. sd//2 .. xor//4 2.2 sd//2 ..
xor//4 ... ld//4 .. mul//4 2.2 ld//4 ..
ld//4 .. ld//4 .. fld//2 .. fld//2 ..
add//2 ... add//2 ... lw//2 22 lw//2 2.
lbu//4 .. lbu//4 .. addi//2 .. addi//2 ..
ld//2 .. jalr//2 1z
ld//4 .. addi//2 .. sub//4 2.. sltu//4 31.
auipc//4 . ld//4 11 auipc//4 . ld//4 11
addi//2 z. bgeu//4 1.n
addi//4 .. bne//4 .1n
add//2 ... ld//2 1. sd//2 .. sd//2 ..
ld//2 .. addi//2 .. jal//4 z
addiw//2 .. beq//2 1zn
lw//4 .. addi//2 .. xor//2 .2. andi//4 1.
lw//2 .. bne//4 1zn
sraiw//4 .. sraiw//4 .. andi//2 22 andi//4 22
addi//4 .. ld//2 1. beq//2 1zn
ld//2 .. beq//4 1.n
srli//4 .. xor//4 .1. addi//4 11 xori//4 11
sw//4 .z bne//2 .zn
lw//2 .. addi//2 .. bne//2 2zn
srli//4 .. xor//2 1.1 jalr//2r .z
addw//4 ... addw//4 ... addiw//2 .. addiw//2 ..
auipc//4 . addi//4 11
addi//2 .. add//4 ... bgeu//4 ..n
addi//4 .. add//4 1.1 srli//4 1. xor//4 212
jal//4 .n
slli//4 .. add//2 1.1 lhu//4 1. beq//2 1zn
sb//4 .. addi//2 .. andi//4 1. bne//2 1zn
addi//2 .. beq//4 1.n
slli//2 .. slli//2 .. add//2 2.2 add//2 2.2
add//4 ... jal//2 zn
addiw//4 .. addi//2 .. bne//4 ..n
addi//4 .. sd//2 .. srl//4 ... sll//4 ...
addi//4 .. add//2 1.1 lw//2 1. add//2 z2.
add//2 ... lw//2 11 add//2 1.1 jalr//2 1z
slliw//4 .. or//2 .1. sw//2 .1 addi//2 ..
addi//2 .. addiw//2 .. addi//2 z. bne//4 .3n
addi//4 .. beq//2 .zn
xori//4 .. xori//4 11 srli//4 1. xor//4 212
sd//2 .. lw//4 .. bge//4 .1n
ld//2 .. ld//2 ..
slli//2 .. add//2 1.1 ld//2 11
lui//2 . addiw//4 .. bltu//4 21n
ld//4 .. add//2 z.. add//2 z.. add//2 z..
mul//4 ... srli//4 1. xor//4 212 xori//4 11
addi//4 .. addi//2 z. addi//2 z. bgeu//4 23n
mul//4 ... srli//4 1. xor//4 212 mul//4 1.1
slli//4 .. add//2 1.1
add//4 ... srli//4 1. xor//4 212 mul//4 1.1
addi//2 .. andi//4 1. beq//2 .zn
addiw//2 .. addiw//4 .. bne//2 2zn
mul//4 ... xori//4 11 srli//4 1. xor//4 212
addi//4 .. sd//4 .. jal//2 zn
add//4 ... lbu//4 1. add//4 ..2 add//2 1.1
xori//4 .. srli//4 1. xor//4 212 xori//4 11
sd//2 .. sd//2 .. addi//2 .. ld//4 ..
and//4 ... and//4 ... or//4 ... addw//4 ...
andi//4 .. add//4 ... sb//4 12 beq//2 .zn
addi//2 .. slli//4 1. add//2 121 add//2 1.1
and//2 ... slli//2 11 add//2 1.1 ld//2 11
andi//4 .. or//4 1.1 slli//2 11 add//2 1.1
lui//4 . addi//4 11 xor//4 .11 add//2 1.1
addi//2 z. addi//4 z. jal//4 .
mul//4 ... mul//4 1.1 srli//4 1. xor//4 212
addi//4 .. addi//4 .. addi//4 z. srli//4 2.
xor//2 ... bne//4 ..n
sd//2 .. sd//2 ..
addi//2 z. add//4 .1. and//2 1.1 slli//2 11
sd//2 .. sd//2 .. sd//2 .. bne//2 .zn
ld//2 .. addi//2 .. jalr//2r 2z
addi//2 z. slli//2 .. ld//2 .. addi//2 ..
slli//4 .. add//2 1.1 lw//2 11 add//2 1.1
and//2 ... xor//2 1.1 addiw//2 .. addiw//4 2.
addi//4 .. srli//2 11 xor//2 1.1 sd//2 .1
srli//4 .. xor//4 .1. mul//4 1.1 addi//4 11
slli//4 .. add//2 1.1 lhu//4 1. bltu//4 1.n
addi//2 z. beq//4 .1n
fmadd.d/7/4 .... fmadd.d/7/4 ..11
addw//2 ... xor//4 ... or//4 ... or//4 ...
mul//4 ... srli//4 1. xor//4 212 addi//4 11
mul//4 ... addi//4 11 srli//4 1. xor//4 212
addi//4 .. xori//4 11 srli//4 1. xor//4 212
srli//4 .. xor//4 .1. mul//4 1.1 add//4 1.1
ld//2 .. ld//2 .. add//2 z.. ld//2 ..
ld//2 .. bne//4 1.n
ld//4 .. ld//4 .. ld//2 .. addi//4 ..
add//2 ... ld//2 11 add//2 1.1 add//2 .1.
add//2 ... slli//2 11 addi//4 1. slli//2 11
and//2 ... slli//2 11 add//2 1.1 ld//2 1.
lui//2 . addi//2 11 and//4 .1. slli//2 11
slli//4 .. add//2 1.1 and//4 1.. slli//2 11
xor//2 ... auipc//4 . ld//4 11 mul//4 313
xori//4 .. and//2 1.1 andi//4 1. slli//4 12
addiw//2 .. bne//4 1.n
lbu//4 .. sltu//4 z11 andi//4 .. slli//4 1.
sd//4 .. bne//4 ..n
addi//4 .. add//2 ... addi//4 .. add//2 ...
mul//4 ... add//4 1.1 srli//4 1. xor//4 212
srliw//4 .. srliw//4 .. addi//4 .. srliw//4 ..
xor//4 ... and//4 ... xor//4 2.2 srliw//4 ..
addi//2 .. jalr//2 .z
fmadd.d/7/4 .... fmadd.d/7/4 .... fmadd.d/7/4 .... fsd//4 .3
andi//4 .. andi//4 .. slli//2 .. slli//2 ..
xori//4 .. and//2 .1. and//2 1.1 beq//2 1zn
addi//2 .. sd//2 .1 addi//2 z. beq//4 ..n
lbu//4 .. lbu//4 .. lbu//4 .. lbu//4 ..
sw//2 .. addi//2 .. addi//2 .. blt//4 2.n
slli//2 .. lw//4 .. lw//2 .. slli//2 ..
xori//4 .. addi//4 .. bne//4 1zn
auipc//4 . ld//4 11
addi//2 z. addi//2 z.
lui//2 . add//2 z.. addi//2 22 and//4 21.
slli//4 .. add//2 1.1 add//2 1.1 addi//2 z.
lw//4 .. bge//4 .1n
addw//4 ... xor//4 ... slliw//4 .. srliw//4 ..
add//2 ... lw//2 1. sub//4 ... sltu//4 z11
auipc//4 . addi//4 11 sub//4 .11 sltu//4 z11
srl//4 ... sll//4 ... or//2 212 sd//2 .1
and//4 ... add//2 1.1 add//2 z.. jal//2 zn
andi//2 .. auipc//4 . addi//4 11 beq//2 3zn
auipc//4 . ld//4 11 sltu//4 .11 sub//4 z11
lbu//4 .. addi//2 .. xor//2 2.2 mul//4 1..
xori//4 .. and//2 .1. bne//4 ..n
addi//2 z. addi//2 z. bne//4 .2n
addi//4 z.
addiw//2 .. addi//2 z. addi//2 z. addi//4 z.
add//2 ... and//2 ... add//2 2.2 slli//2 22
addi//4 .. slli//2 .. add//4 21. ld//2 11
and//4 ... and//4 ... slli//2 22 add//2 1.1
and//4 ... or//4 .1. add//4 .12 and//4 1..
and//4 ... slli//2 11 add//2 1.1 addi//2 ..
and//4 ... slli//2 11 add//2 1.1 or//4 ...
ld//4 .. xor//2 ... mul//4 121 slli//4 .3
slli//2 .. add//2 1.1 lui//2 . addi//2 11
slli//2 .. add//2 1.1 sd//4 1. ld//4 .2
slli//2 .. and//4 ... slli//2 11 add//2 1.1
slli//2 .. or//2 1.1 add//2 1.1 sub//4 ...
slli//4 .. add//2 1.1 add//2 1.1 addi//4 ..
slli//4 .. add//2 1.1 ld//2 11 and//2 ...
slli//4 .. add//2 1.1 slli//4 .. add//2 1.1
slli//4 .. lui//4 . or//2 2.2 addi//4 22
slli//4 .. slli//2 .. add//2 2.2 add//2 2.2
xor//2 ... xor//2 ... and//2 121 xori//4 1.
xor//4 ... add//2 .1. slli//4 .2 andi//2 11
xor//4 ... add//2 .1. xor//2 ... xor//2 121
xor//4 ... mul//4 1.1
sd//2 .. sd//2 .. addi//4 .. lw//4 ..
srli//2 .. slli//2 11 add//2 1.1 ld//2 11
ld//2 .. bne//2 1zn
slli//4 .. xor//4 .11 mul//4 1.. andi//4 ..
lh//4 .. addi//2 .. addi//2 .. mulw//4 3.3
fmadd.d/7/4 .... fmadd.d/7/4 .... fsd//4 .. fsd//4 .3
addi//2 .. sd//2 1. ld//4 .. sd//2 3.
mul//4 ... srli//2 11 slli//2 11 add//2 1.1
add//4 ... sd//4 .1 andi//4 .. bne//2 1zn
sd//2 .. auipc//4 . lbu//4 11 add//2 z..
sub//4 ... add//2 z.. bne//4 2zn
slliw//4 .. srliw//4 .. slliw//4 .. and//4 ...
slli//2 .. add//2 1.1 addi//2 .. sd//2 2.
subw//4 z.. srliw//4 .. and//2 2.2 xor//2 121
xori//4 .. jalr//2r .z
srli//2 .. auipc//4 . addi//4 11 bgeu//4 3.n
lw//2 .. addi//2 .. sd//2 1. sd//2 2.
sb//4 .. addi//2 .. bne//4 .1n
lbu//4 .. beq//4 1.n
addi//4 .. sd//2 .. andi//4 .. add//4 3..
addw//2 ... bne//4 ..n
addi//2 z. bltu//4 1.n
add//4 ... ld//4 1. addi//2 z. bgeu//4 12n
add//2 z.. add//2 ... jal//4 .
addi//2 z. add//2 z.. bgeu//4 2.n
lui//2 . addi//2 z. bne//4 .2n
addi//4 .. srli//4 1. xor//4 212 addi//4 11
addi//2 z. jalr//2r .z
add//2 ... addi//2 .. add//4 2.. bne//4 .2n
andi//4 .. add//2 z.. mul//4 ... beq//4 3zn
sd//2 .. andi//2 .. add//2 z.. beq//2 2zn
mul//4 ... srli//4 1. xor//4 212 add//4 1.1
slliw//4 .. addiw//2 11 slli//2 11 srli//2 11
xor//2 ... slli//4 1. xor//2 121 mul//4 1.3
ld//2 .. ld//2 .. ld//2 .. beq//2 3zn
lui//2 . add//2 1.1 ld//4 11 andi//2 ..
addi//4 z. beq//4 .1n
sd//2 .. sd//2 .. jal//4 .
fsd//4 .. bne//4 ..n
fmul.d/7/4 ... fadd.d/7/4 .1. flt.d//4 .1. beq//2 1zn
slli//4 .. xor//2 1.1 mul//4 1..
slli//4 .. add//2 .1. addi//2 .. ld//2 ..
srli//4 .. add//2 1.1 ld//2 1. srliw//4 ..
auipc//4 . ld//4 11 bltu//4 .1n
srli//4 .. xor//4 .1.
add//2 ... addi//4 .. slli//4 2. xor//2 2.2
add//2 ... ld//2 11 slli//4 .. add//2 .1.
add//2 ... ld//2 11 slli//4 .. or//4 1..
add//2 ... lui//2 . addi//4 2. addi//2 22
add//2 ... sd//4 1. mul//4 ... xor//2 1.1
add//2 ... srli//4 .. sd//2 21 andi//4 .3
and//4 ... mul//4 .1. srli//4 .. add//2 1.1
and//4 ... slli//2 11 addi//4 .. add//4 .2.
mul//4 ... mul//4 ... slli//2 22 addi//4 1.
ori//4 .. add//2 .1. lui//2 . addi//2 11
sd//2 .. slli//2 .. or//4 1.1 add//4 .1.
slli//4 .. sub//4 ... srli//2 22 sd//4 .2
srli//2 .. add//2 .1. addi//2 .. sd//2 21
sub//4 ... srli//2 .. add//2 1.1 slli//4 3.
xor//2 ... sub//2 .1. lui//2 . add//2 2.2
sb//4 .. addi//2 .. addi//2 .. bgeu//4 1.n
lui//2 . bgeu//4 1.n
xor//2 ... mul//4 1.. srli//2 11 slli//2 11
xor//4 ... srli//4 1. xor//4 212 addi//4 ..
lh//4 .. addi//2 .. addi//2 .. mulw//4 .3.
lbu//4 .. addi//2 .. addi//2 .. sb//4 13
add//4 ... ld//2 1. addi//4 2. beq//4 12n
sd//2 .. add//2 z.. beq//2 .zn
ld//4 .. lwu//4 .. sd//2 .. add//2 z3.
ld//2 .. add//2 ... sw//4 1. ld//2 .2
addi//4 .. srli//4 1. xor//4 212 xori//4 11
ld//4 .. beq//4 ..n
sw//4 .. addi//4 .. addi//2 .. bne//4 .2n
add//2 ... jal//4 .
add//2 ... ld//2 11 jalr//2 1.
add//2 z.. slli//4 .. xor//4 1.1 srli//4 1.
add//2 z.. lui//2 . add//2 z.. add//2 z..
add//2 z.. lw//2 .. addi//2 z. add//2 z..
srli//4 .. addi//4 z. add//2 z.. add//2 z..
slliw//4 .. or//4 ... or//4 2.2 xori//4 ..
add//2 z.. srli//4 .. and//4 ... add//2 ...
add//2 z.. auipc//4 . addi//4 11 jal//4 .
addi//4 .. add//2 z.. addi//2 .. and//4 21.
addi//4 .. addi//2 z. lui//2 . addi//2 11
sd//4 .. sd//4 .z ld//4 .. and//2 1.1
fsd//4 .. fsd//4 .. bne//4 ..n
add//2 ... addi//2 .. ld//2 .. add//2 3.3
addi//2 .. xor//4 ... mul//4 1.1 srli//4 1.
srl//4 ... addiw//2 11 sw//4 .1 sw//2 .2
xor//4 ... addi//4 11
sw//4 .. addi//2 .. addi//2 .. bne//4 .2n
ld//4 .. lbu//4 .. addi//2 .. and//4 3.3
auipc//4 . addi//4 11 ld//2 1. addi//4 ..
srli//4 .. xor//4 .1. addi//4 11 add//4 1.1
addi//4 .. add//2 z.. addi//2 z. lh//4 2.
addi//2 .. sd//2 1.
srli//4 .. mul//4 1.. sd//2 .. sd//2 ..
ld//2 .. addi//2 ..
ld//4 .. addi//2 z. ld//4 .. ld//4 ..
add//2 ... bgeu//4 ..n
andi//4 .. lw//4 .. addi//4 .. bne//2 3zn
srli//4 .. andi//2 11 beq//2 1zn
addi//4 .. add//2 z.. addi//2 z. lh//4 3.
add//4 ... bltu//4 ..n
addi//4 .. srli//4 1. xor//4 212 add//4 1.1
lbu//4 .. lbu//4 ..
lui//2 . add//4 .1. sltu//4 z11 addi//2 z.
sd//2 .. addi//2 .. addi//4 .. bne//4 2.n
add//2 ... and//4 ... ld//2 22 slli//2 22
sd//2 .. addw//4 ... andi//4 11 subw//2 1.1
srli//4 .. xor//4 .1. add//4 1.1 mul//4 1.1
ld//4 .. ld//4 .. beq//4 ..n
fsd//4 .. fld//4 .. fld//4 .. fld//4 ..
andi//4 .. andi//4 .. bne//2 2zn
slli//2 .. add//2 1.1 lwu//4 11 slli//2 11
add//2 ... add//2 ... andi//4 .. sd//2 31
add//2 ... ld//4 1. add//2 ... lui//4 3
addi//2 .. ld//4 .. sub//2 ... and//4 3.3
addi//4 .. add//2 .1. lui//2 . mul//4 2..
addi//4 .. add//2 z.. add//2 z.. and//4 2..
addi//4 .. and//4 ... and//4 2.2 slli//4 ..
and//2 ... ld//4 .. slli//2 22 slli//4 ..
and//4 ... add//2 ... slli//4 .. slli//2 33
and//4 ... add//2 ... srli//4 .. slli//2 33
andi//4 .. srli//4 .. slli//2 11 add//4 ...
ld//4 .. and//4 ... slli//4 .. slli//2 22
mul//4 ... slli//4 .. and//4 ... slli//2 11
mul//4 ... srli//2 .. xor//4 ... add//2 2.2
sd//4 .. andi//2 .. add//4 ... ld//2 11
slli//2 .. add//2 1.1 add//2 ... mul//4 ...
slli//2 .. add//2 1.1 srli//4 .. andi//4 ..
slli//2 .. lui//2 . add//2 2.2 addi//4 ..
slli//2 .. or//2 ... sub//4 ... add//2 3.3
slli//4 .. and//2 1.1 add//2 ... auipc//4 .
xor//2 ... ld//2 .. and//2 ... slli//2 33
xor//4 ... add//4 ... lui//4 . addi//4 11
sub//4 z.. jalr//2r .z
addiw//2 .. fdiv.d/7/4 ... fsub.d/7/4 1.1 jal//4 .n
addi//2 .. sd//2 1. sd//2 2.
srli//2 .. andi//2 11 add//2 1.1 lbu//4 1.
srliw//4 .. and//2 ... xor//2 121 addiw//2 ..
andi//4 .. auipc//4 . addi//4 11 slli//2 33
xor//4 ... and//2 .1. or//4 1.1 beq//4 1.n
add//4 ... ld//2 11 andi//2 11 beq//2 1zn
sb//4 .. addi//2 .. bne//4 1.n
addi//4 .. jal//4 .
fld//4 .. fld//4 .. fld//4 .. fmadd.d/7/4 ..3.
addi//2 .. ld//2 .. add//2 ... bne//4 3.n
lbu//4 .. addi//2 .. beq//4 2.n
add//2 z.. blt//4 .zn
addiw//4 .. andi//4 11 bltu//4 ..n
srliw//4 .. addiw//4 1. slli//4 1. lw//4 ..
add//4 ... lbu//4 .. lbu//4 22 beq//4 21n
sd//2 .. addi//2 z. add//2 z.. bgeu//4 2.n
addi//2 .. add//2 ... fmadd.s/7/4 .... bne//4 .3n
add//4 ... srli//4 1. xor//4 212 xori//4 11
addi//2 .. bne//2 1zn
addi//2 .. andi//4 1. bne//2 .zn
addw//2 ... sw//2 .1 lbu//4 .. addi//2 ..
addi//4 .. ld//2 11 addi//4 .. srli//4 11
addi//2 z. addi//4 ..
add//4 ... lbu//4 .. lbu//4 22 addi//2 ..
addi//2 z. add//2 z..
sd//4 .. lbu//4 .. slli//2 11 add//2 1.1
add//2 ... addi//4 .. add//2 z.. and//4 1..
addi//4 z. xor//4 ... add//4 ... slli//4 2.
add//2 ... ld//2 11 sd//4 .. addi//2 ..
srli//4 .. slli//2 11 add//2 1.1 ld//2 1.
ld//4 .. ld//2 .. addi//2 .. sd//4 .3
addi//2 .. andi//4 1. bne//2 1zn
add//4 ... addi//4 .. bne//4 1zn
ld//4 .. ld//4 .. ld//2 .. ld//2 ..
blt//4 ..n
xori//4 .. add//4 1.1
addi//2 .. ld//4 .. sd//2 2. auipc//4 .
srli//4 .. xor//4 .1. mul//4 1.1 mul//4 1.1
ld//2 .. addi//2 11
sub//4 ... beq//4 ..n
add//2 z.. add//2 z.. add//2 z.. jal//4 .n
add//2 ... sub//2 1.1 jal//2 zn
sd//2 .. sd//2 .. sd//2 ..
auipc//4 . lw//4 11 bne//2 1zn
lw//2 .. addi//2 .. addiw//2 22 sw//2 .1
and//2 ... mul//4 .1. srli//2 11 jal//2 zn
add//2 z.. rem//4 1.. slli//4 .. xor//2 .1.
add//2 z.. beq//4 .zn
addi//2 .. addi//2 .. bltu//4 ..n
addi//4 .. sb//4 .1 sb//4 .2 bne//4 ..n
addi//4 z. addi//2 z. subw//4 2.2 andi//2 ..
fnmsub.d/7/4 .... fnmsub.d/7/4 .... fsd//4 .. fsd//4 .3
slli//4 .. slli//4 .. add//4 2.. bgeu//4 21n
add//4 ... andi//4 1. srli//4 .. add//2 z3.
sd//2 .. sd//2 .. sd//2 .. addi//2 z.
ld//4 .. addi//2 .. add//2 .2. sltu//4 13.
add//4 ... jalr//2 ..
andi//4 .. srli//4 .. add//2 z.. add//2 z..
addiw//2 .. fmadd.d/7/4 .... fadd.d/7/4 ... beq//4 3.n
addi//4 .. sd//2 .1 andi//4 .. add//4 ...
ld//2 .. slli//4 .. addi//4 .. xor//4 .3.
ld//4 .. add//2 ... add//4 ... ld//4 2.
ld//4 .. add//4 ... addi//4 .. slli//4 2.
lui//4 . sub//4 ... addi//2 z. add//2 z..
slli//2 .. add//2 ... slli//4 .. add//4 .3.
ld//2 .. add//2 z.. addi//2 .. jalr//2r .z
andi//4 .. subw//2 1.1 addi//4 1. sd//2 ..
fadd.d/7/4 ... flt.d//4 .1. beq//2 1zn
ld//4 .. ld//4 .. ld//4 .. addi//4 ..
sb//4 .. bne//4 ..n
auipc//4 . addi//4 11 ld//4 1. bltu//4 .1n
slli//4 .. xor//2 1.1 mul//4 1.1 add//2 z..
ld//4 .. ld//4 ..
fmv.d.x//4 z. addi//2 z. auipc//4 . fld//4 1.
addi//4 .. addi//2 .. addi//2 .. bne//4 .3n
andi//4 .. bne//4 1zn
ld//4 .. sd//2 .. ld//4 2. sd//2 .1
andi//4 .. slli//2 11 add//2 1.1
lbu//4 .. addi//2 ..
srliw//4 .. srliw//4 .. srliw//4 .. or//4 2.2
sw//4 .. addiw//2 .. addi//2 .. beq//4 ..n
ld//2 .. sd//2 .. sd//4 .. sd//2 ..
sb//4 .. add//2 ... bltu//4 1.n
fcvt.d.w/0/4 .. fsgnj.d//4 ... addi//4 z. fmul.d/7/4 3.3
ld//4 .. sd//2 .. sd//2 .. add//4 3..
sd//4 .. jal//4 .
addi//4 .. srli//4 1. xor//4 212 addi//4 ..
add//4 ... add//2 z.. lbu//4 1. addi//2 ..
addi//4 .. ld//2 1. add//2 z.. auipc//4 .
sd//4 .. add//2 ... addi//4 .. add//2 z..
lbu//4 .. addi//2 .. addi//2 .. addiw//4 3.
andi//4 .. slliw//4 1. slli//4 2. andi//4 ..
slli//4 .. xor//2 1.1
add//2 z.. bgeu//4 ..n
addiw//4 .. bne//2 .zn
ld//4 .. andi//4 1. bne//2 1zn
lw//4 .. bltu//4 .1n
srli//4 .. addi//2 11 add//2 1.1 bne//4 .1n
ld//2 .. ld//2 .. ld//2 2. bne//4 .1n
lbu//4 .. slli//2 .. add//2 1.1 slli//2 33
sub//4 ... slli//2 .. add//2 1.1 ld//2 11
ld//2 .. ld//2 .. ld//2 ..
ld//2 .. addi//2 .. sd//2 1. auipc//4 .
sd//2 .. ld//2 .. beq//2 1zn
addi//2 .. add//2 z.. bne//4 2.n
srli//4 .. add//2 .1. jal//2 zn
addi//2 z. addi//2 z. addi//2 z. jal//2 zn
fsd//4 .. fsd//4 .. fsd//4 .. bne//4 ..n
addiw//4 .. addiw//4 .. addi//2 .. bne//4 ..n
add//2 ... ld//4 1. slli//2 .. add//2 1.1
ld//2 .. ld//2 .. jal//4 z
srli//4 .. and//2 ... add//2 z.. mul//4 323
add//4 ... sd//4 .1 jal//4 .n
lbu//4 .. add//2 z.. addi//2 .. bne//2 3zn
addiw//4 .. slli//4 1. srli//4 12 add//2 1.1
srli//2 .. sltiu//4 .. add//2 .2. add//2 .2.
andi//4 .. slli//4 1. add//2 121 slli//4 1.
xori//4 .. srli//4 1. xor//4 212 mul//4 1.1
xor//4 ... mul//4 1.. srli//4 1. srli//4 2.
addiw//2 .. andi//4 11 addi//2 .. bne//4 ..n
xor//4 ... mul//4 1.. addi//2 z. srli//4 2.
add//4 ... sb//4 1. add//2 ...
xor//4 ... mul//4 1.1 addi//4 .. slli//2 ..
fnmsub.d/7/4 .... fsd//4 .. fsd//4 .. fsd//4 .3
add//2 ... andi//4 1. bne//4 1z
or//4 ... sd//2 .. andi//4 .. mul//4 ...
fsub.d/7/4 ... addiw//2 .. fmadd.d/7/4 .... fadd.d/7/4 3..
addi//2 .. lbu//4 1. add//4 .2. sub//2 1.1
fmul.d/7/4 ... fmul.d/7/4 ... fadd.d/7/4 21.
srli//4 .. xor//4 .1. xori//4 11 mul//4 1.1
add//4 ... addi//4 11 addi//4 11 srli//4 1.
fmul.d/7/4 ... add//2 z.. fdiv.d/7/4 ... fnmsub.d/7/4 .1..
add//4 ... srli//4 1. xor//4 212 addi//4 ..
srli//4 .. xor//4 .1. add//4 1.1 addi//4 ..
sub//4 ... add//2 ... beq//4 ..n
mul//4 ... addi//2 .. sd//4 .2 jal//2 zn
srli//4 .. xor//4 .1. mul//4 1.1 xori//4 11
andi//4 .. add//2 z.. bne//4 2zn
addi//2 z. slli//4 1. srli//4 12 add//4 .1.
xor//2 ... slli//4 1. xor//4 211 mul//4 1..
addiw//4 .. andi//4 11 addi//2 z. bgeu//4 12n
auipc//4 . ld//4 11 mul//4 .11 auipc//4 .
slli//4 .. add//2 1.1 slli//2 11 addi//4 11
add//2 z.. jalr//2 ..
addi//2 .. add//2 ... bne//4 2.n
add//2 ... add//4 ... lbu//4 22 lbu//4 22
add//2 ... addi//2 .. sd//4 2. addi//2 ..
ld//2 .. slli//4 .. add//2 .1.
addi//2 .. auipc//4 . ld//4 11 ld//4 1.
sb//4 .. beq//2 .zn
add//2 z.. fdiv.d/7/4 ... fnmsub.d/7/4 .1.. fnmsub.d/7/4 .2..
sd//2 .. sd//2 .. jal//4 .n
addi//2 z. jal//4 .
addi//2 .. add//4 .1. sb//4 1. srli//2 ..
add//2 ... sd//2 .1 sd//4 .. bne//4 ..n
or//4 ... add//2 1.1 lbu//4 1. addi//2 ..
andi//4 .. subw//4 z11 srliw//4 ..
lbu//4 .. beq//4 1zn
sd//2 .. sd//2 .. addi//4 z. bgeu//4 1.n
slli//4 .. xor//2 .1. slli//4 12 xor//2 121
ld//4 .. add//2 z..
srli//4 .. mul//4 1.1 srli//4 ..
add//2 ... lw//2 11 bge//4 1.n
add//4 ... ld//2 11 bne//4 .1n
add//2 z.. add//2 z.. and//4 ... slli//2 11
srli//4 .. xor//4 .1. xori//4 11 addi//4 11
addi//2 .. addiw//2 .. andi//4 11 addi//2 ..
add//2 z.. blt//4 ..n
ld//2 .. addi//2 .. sd//2 1. andi//4 3.
addi//2 z. bgeu//4 ..n
ld//4 .. add//2 z.. bltu//4 .2n
ld//4 .. ld//4 .. slli//2 .. add//2 1.1
addiw//2 .. addi//2 z. beq//4 21n
add//2 ... add//2 ...
srl//4 ... jal//2 zn
sd//2 .. sub//4 z.. sd//2 .. bltu//4 2.n
addiw//4 .. lw//2 .. bgeu//4 12n
add//4 ... srli//4 1. xor//4 212 addi//4 11
xori//4 .. srli//4 1. xor//4 212 addi//4 11
addi//4 .. slli//2 .. slli//2 22 srli//2 22
ld//2 .. srliw//4 1. addiw//2 11 slli//4 1.
xori//4 .. addi//4 11 addi//4 .. bne//4 1zn
lbu//4 .. lw//4 .. lbu//4 .. slli//2 33
andi//4 .. sb//4 .1 jal//4 .
ld//2 .. slli//4 .. add//2 121 jal//2 zn
xor//4 ... add//4 ... add//4 2.. xor//2 2.2
ld//2 .. add//2 z.. beq//2 2zn
lbu//4 .. lw//4 .. lbu//4 .. slli//4 3.
sub//2 ... addi//4 1. jalr//2r .z
add//2 ... slli//4 1. add//2 212 auipc//4 .
slli//4 .. xor//2 1.1 ld//2 .. sd//4 ..
fsgnj.d//4 ... addi//4 z. jal//2 zn
slli//2 .. add//2 1.1 sd//2 1. ld//2 .2
sltu//4 ... sltu//4 ... subw//2 212 jalr//2r .z
ld//4 .. lui//2 . add//2 1.1 ld//2 3.
ori//4 .. sub//2 ... sd//2 .2 ori//4 22
addi//2 z. add//2 ... addi//2 z. ld//4 ..
addi//2 .. addw//2 ... beq//4 .2n
ld//4 .. bltu//4 1.n
slli//4 .. xor//2 1.1 srli//4 1.
addi//4 .. addi//4 .. jal//2 zn
sd//2 .. sd//2 .. addi//4 .. addi//2 z.
and//4 ... lui//2 . addi//4 .. addi//2 z.
lw//4 .. addi//2 .. addw//4 2.2 addiw//2 11
addiw//4 .. slliw//4 .. srliw//4 2. addiw//2 22
ld//2 .. ld//2 .. addi//2 .. add//2 3.3
lw//2 .. xor//2 1.1 addiw//2 11 bne//4 ..n
add//4 ... sb//4 1.
add//2 z.. ld//4 .. srl//4 2.2 addi//2 ..
sub//4 ... bltu//4 .1n
sll//4 ... or//4 .1. sd//4 .1 addi//2 ..
mul//4 ... add//2 z.. addi//2 .. addi//2 ..
addi//4 z. mul//4 ... bne//2 .zn
add//2 ... slli//2 .. lw//2 2. addi//2 22
addi//4 .. srli//4 11 andi//2 .. xor//4 .2.
slli//2 .. add//4 ... or//2 2.2 sd//4 .2
addi//4 .. slli//2 11 add//2 1.1 sw//2 1.
mul//4 ... slli//2 .. or//2 1.1 bgeu//4 13n
srliw//4 .. slli//2 11 add//2 1.1 lw//2 1.
add//2 z.. addi//2 ..
ld//2 .. ld//2 .. ld//2 .. sub//2 323
sd//2 .. ld//4 .. sd//2 .1 addi//2 z2
fld//4 .. fmadd.d/7/4 .... fmadd.d/7/4 .... fmadd.d/7/4 ..3.
ld//2 .. ld//2 .. addi//4 2. slli//2 33
or//2 ... slli//2 .. or//2 121 mulw//4 1.1
addi//4 .. addi//4 .. bne//4 1zn
add//4 ... lbu//4 1.
mul//4 ... srli//4 1. xor//4 212 addi//4 ..
addi//2 z. andi//4 .. sd//2 .. sd//2 ..
add//2 z.. addi//2 .. bne//2 .zn
add//4 ... sb//4 1. beq//2 .zn
remu//4 ... add//4 ... add//4 ... addi//2 ..
sb//4 .. addi//2 .. addiw//2 .. andi//4 11
add//2 ... slli//4 .. sd//2 .2
addi//4 .. add//2 z.. srli//2 .. slli//2 11
andi//2 .. andi//2 .. beq//2 2zn
addiw//2 .. add//2 z.. jal//2 zn
srli//4 .. xor//4 .1. addi//4 11 mul//4 1.1
andi//2 .. beq//2 1zn
addi//2 .. sd//2 .. add//2 z2. add//2 z..
lhu//4 .. andi//2 11 bne//2 1zn
addiw//4 .. addiw//2 .. addiw//4 .. addiw//2 ..
sub//4 ... mul//4 .1. ld//2 .. ld//4 ..
ld//4 .. sd//4 .. addi//4 z. sd//2 3.
mul//4 ... ld//4 .. addi//4 .. xor//2 .3.
ld//4 .. addi//2 z. bge//4 12n
lw//2 .. lw//2 ..
addi//2 .. auipc//4 . ld//4 11 add//2 z..
lbu//4 .. addi//2 .. addi//2 ..
add//2 ... ld//2 11
addi//2 .. beq//2 1zn
slliw//4 .. sraiw//4 11 lbu//4 .. bge//4 2zn
add//2 z.. andi//4 1. bne//2 1zn
xori//4 .. srli//4 1. xor//4 212 add//4 1.1
addiw//4 .. addi//2 z. blt//4 .2n
addi//4 z. addi//2 z. addi//2 z. addi//2 z.
sw//4 .. sd//4 .. sd//4 .z addi//2 z.
auipc//4 . ld//4 11 sd//2 .. sd//2 ..
addi//2 .. sb//4 .. bne//4 ..n
slli//2 .. add//2 1.1 lw//2 11
addi//4 .. auipc//4 . ld//4 11 lbu//4 ..
ld//4 .. addi//4 .. addi//2 .. sd//2 .3
sd//2 .. addi//2 z.
addi//2 .. addi//2 .. lbu//4 2. beq//2 .zn
addi//4 .. srli//4 1. xor//4 212 mul//4 1.1
ld//2 .. ld//2 .. add//2 z.. add//2 z..
addi//2 z. slli//2 11 add//2 z.. add//2 ...
fmadd.d/7/4 .... fadd.d/7/4 ... beq//4 ..n
srli//4 .. xor//4 .1. add//4 1.1 xori//4 11
addi//2 z. add//2 ... srliw//4 .. sllw//4 3.3
srli//4 .. xor//4 1.. bne//4 ..n
ld//4 .. addi//2 .. addi//2 .. beq//2 3zn
sub//4 ... srai//2 .. slli//2 .. sd//4 .3
addiw//2 .. lbu//4 .. addiw//4 1. andi//4 11
lw//4 .. bne//4 1.n
addiw//2 .. addi//2 .. add//4 ... bne//4 3zn
add//4 ... lbu//4 1. add//2 z.2
ld//4 .. addi//2 z. addi//2 z. addi//4 z.
addi//4 .. mul//4 ... beq//4 .2n
xor//2 ... addiw//2 .. addiw//4 2.
xor//4 ... slli//4 1. srli//4 11 addiw//2 ..
andi//4 .. add//4 .1. ld//4 .. ld//4 2.
mul//4 ... mul//4 1.1 addi//4 .. bne//4 1zn
sd//2 .. add//2 ... sd//2 1. ld//2 ..
srli//4 .. xor//4 .1. addi//4 11 addi//4 ..
ld//2 .. addi//4 .. addi//2 .. add//4 3..
ori//4 .. sd//2 .1 sd//4 .. sd//2 ..
sb//4 .. addi//2 .. bgeu//4 .1n
addi//4 .. addi//4 .. addi//4 z. mul//4 232
lw//4 .. beq//4 1zn
addiw//2 .. addi//2 .. add//2 z.. addw//2 ...
addi//2 .. beq//4 .1n
andi//2 .. bne//2 1zn
addi//2 .. jal//2 zn
sb//4 .z ld//4 .. sd//4 .. sd//4 ..
andi//2 .. andi//4 .. add//4 .2. beq//2 3zn
ld//4 .. andi//2 .. bltu//4 21n
addi//2 .. add//2 ... mulw//4 ... addw//2 .1.
addi//2 .. fmadd.d/7/4 .... fsd//4 .1 bne//4 ..n
add//4 ... ld//2 1. bne//2 1zn
xori//4 .. srli//4 1. xor//4 212 addi//4 ..
addi//4 .. addi//4 .. addi//4 z. add//4 232
addi//4 .. jal//2 zn
xor//4 ... addi//4 11 addi//4 11 srli//4 1.
lw//2 .. add//2 z.. add//2 z.. bge//4 ..n
ld//4 .. ld//4 .. ld//4 ..
lw//4 .. bne//4 1zn
add//2 z.. auipc//4 . ld//4 11 auipc//4 .
add//2 ... bltu//4 1.n
sd//2 .. add//2 z.. sd//2 .. sd//2 ..
srli//4 .. xor//2 .1. slli//4 1. xor//2 121
slli//4 .. addi//2 11 add//2 1.1 addi//2 z.
sd//4 .. sd//4 ..
mul//4 ... ld//2 .. ld//4 .. ld//2 ..
add//2 ... ld//2 11 addi//2 .. jalr//2 2.
mul//4 ... add//2 z.. add//2 z.. jal//4 .
lw//2 .. addi//2 .. add//2 ... mulw//4 3.3
lbu//4 .. lbu//4 .. beq//2 2zn
add//2 ... addi//2 ..
ld//2 .. add//2 ...
andi//4 .. bltu//4 .1n
sd//4 .. sd//4 .. sd//4 .. sd//4 ..
addi//4 .. addiw//2 .. fmul.d/7/4 ... fmul.d/7/4 ...
addi//2 .. sd//4 .. addi//2 .. jalr//2 .z
lui//2 . addiw//4 .. add//2 z.. addi//2 z.
andi//4 .. bne//2 1zn
addiw//2 .. addi//2 .. bge//4 2.n
fadd.d/7/4 ... fsub.d/7/4 ... addiw//2 ..
xor//4 ... andi//4 11 srli//4 .. srli//4 ..
xor//2 ... srli//4 1. xor//2 212 slli//4 1.
srli//4 .. xor//4 .1. xori//4 11 add//4 1.1
add//4 ... add//2 1.1 add//4 ...
addw//4 ... xor//4 ... addw//2 2.2 xor//4 2.2
addiw//4 .. addiw//2 .. addiw//4 .. addiw//4 ..
ld//2 .. jal//2 zn
remu//4 ... add//2 z1. jal//4 .n
slliw//4 .. slliw//4 .. lw//4 .. lw//2 ..
add//4 ... srli//4 1. xor//4 212 add//4 1.1
flt.d//4 ... beq//2 1zn
sd//4 .. addi//2 .. sub//4 ... addi//4 ..
fmul.d/7/4 ... fmadd.d/7/4 ..11 fmadd.d/7/4 ..11
add//2 z.. add//2 z.. add//2 z.. beq//2 .zn
add//2 ... sd//2 1. jal//2 zn
xor//4 ... addi//4 11 addi//4 .. bne//4 1zn
add//2 z.. add//2 z.. add//2 z.. beq//4 ..
xor//4 ... addw//4 .1. addw//4 ... addiw//2 ..
srli//4 .. xor//4 .1. addi//4 11 addi//4 11
sd//2 .. addi//4 .. beq//4 .1n
addi//2 .. slli//2 .. add//2 1.1 mul//4 ...
lw//2 .. srl//4 .11 xor//2 .1. jal//2 zn
srl//4 ... andi//4 1. bne//4 1zn
lw//4 .. addi//2 ..
xor//2 ... andi//4 1. subw//4 z11 srliw//4 33
ld//4 .. ld//4 .. addi//2 .. lbu//4 1.
andi//4 .. slli//4 1. add//2 121 slli//4 13
add//2 z.. addi//4 .. beq//2 .zn
ld//4 .. ld//2 .. beq//4 ..n
addi//2 .. addi//2 .. fmadd.d/7/4 .... fsd//4 31
addi//2 z. add//2 z.. jal//4 .
add//2 ... sub//2 1.1 srli//4 1. beq//4 1zn
lbu//4 .. slli//2 .. or//2 1.1 slli//2 ..
srli//4 .. andi//4 11 beq//4 1zn
addiw//2 .. addi//2 .. jalr//2r .z
or//2 ... sub//4 .11 addi//4 .. add//4 .2.
add//2 z.. add//2 z.. jal//4 .
add//4 ... lbu//4 1. addi//4 .. add//4 .1.
add//2 ... add//2 ... ld//4 22 ld//2 22
add//2 ... mulw//4 ... addw//2 .1. bne//4 ..n
andi//4 .. subw//4 z11
ld//4 .. ld//2 .. addi//4 .. add//4 2..
addi//4 .. addi//4 .. addi//4 z. xori//4 22
ld//2 .. jalr//2 1.
add//2 z.. addw//2 ... addiw//4 .. addiw//2 ..
add//4 ... add//4 1.1 addi//4 11 srli//4 1.
fsd//4 .. fsd//4 .. fld//4 .. fld//4 ..
slli//2 .. add//2 ... add//2 2.2
fld//2 .. addi//2 .. addi//2 .. fmadd.d/7/4 ..3.
addi//2 .. addi//2 .. sd//2 2.
andi//4 .. auipc//4 . ld//4 11 andi//4 ..
andi//4 .. add//2 1.1 lbu//4 1. add//2 z.2
addw//4 ... andi//4 11 subw//2 1.1
fmul.d/7/4 ... fmul.d/7/4 ...
lw//4 .. beq//4 1.n
add//2 ... beq//4 .zn
addiw//2 .. fmul.d/7/4 ... fmul.d/7/4 ... fmul.d/7/4 ...
addi//4 .. add//2 1.1 add//2 z.. jal//2 zn
ld//4 .. addi//2 z. ld//2 .. addi//4 ..
slli//2 .. add//2 .1. add//2 1.1 xor//4 1.1
add//2 ... fmadd.s/7/4 .... bne//4 ..n
slli//4 .. add//2 1.1 ld//2 .. ld//4 2.
srli//4 .. xor//4 .1. add//4 1.1 add//4 1.1
xor//4 ... add//4 1.1 addi//4 11 srli//4 1.
ld//4 .. beq//4 1.n
andi//2 .. addi//2 11 srli//4 1. addi//4 ..
xori//4 .. xori//4 11 addi//4 .. bne//4 1zn
addi//2 .. slli//2 .. add//2 1.1 ld//2 11
mul//4 ... slli//2 .. or//4 .11 bgeu//4 13n
xor//2 ... andi//4 11 slli//2 11 add//2 1.1
addi//2 .. fsd//2 1. fsd//2 2. fsgnj.d//4 ...
srli//4 .. xor//4 .1. srli//4 12
srli//4 .. xor//4 .1. xori//4 11 xori//4 11
addi//2 .. srliw//4 .. sd//2 2. addw//4 2..
andi//4 .. addi//2 11 bne//4 1.n
xor//4 ... add//4 1.1 addi//4 .. bne//4 1zn
fld//4 .. fld//2 .. fsub.d/7/4 ... fsub.d/7/4 323
sb//4 .. sb//4 .. addi//2 ..
ld//4 .. add//2 z.. add//2 z.. jalr//2 3.
sltiu//4 .. add//2 1.1 sltiu//4 .. add//2 2.2
addi//4 .. bgeu//4 .1n
addi//2 .. ld//2 .. ld//2 .. bne//2 3zn
sd//2 .. addi//2 z. sd//2 .. addi//2 z.
add//2 ... lbu//4 .. sub//4 ... add//2 1.1
addi//2 .. lbu//4 .. beq//2 .zn
mul//4 ... add//4 1.1 mul//4 1.1 srli//4 1.
add//2 ... slli//4 1. addi//2 z. add//2 323
add//2 z.. ld//2 .. addi//2 .. jal//4 zn
addi//2 .. sd//2 .. jal//4 .n
addi//2 .. bne//4 .1n
slliw//4 .. addi//4 z. addi//2 z. subw//4 232
addi//4 .. addi//4 .. addi//4 z. addi//4 22
xor//4 ... xori//4 11 add//4 1.1 mul//4 1.1
sd//4 .. addi//2 .. jalr//2 .z
addi//4 z. addi//2 z. auipc//4 . addi//4 11
addi//4 .. addi//4 .. addi//2 z. add//2 z3.
srli//4 .. xor//4 .1. xori//4 11 addi//4 ..
xor//2 ... mul//4 1.. addi//2 .. srli//2 22
subw//2 ... addi//4 1. sd//2 .. andi//4 ..
addw//2 ... xor//4 ... xor//4 ... addw//4 212
andi//2 .. andi//4 .. mulw//4 211 addw//2 .1.
addw//4 ... addiw//2 .. addiw//2 .. addi//2 ..
sraiw//4 .. andi//2 .. andi//4 22 mulw//4 211
srl//4 ... sll//4 ... or//2 212 ld//4 ..
fmul.d/7/4 ... fld//4 .. fld//4 .. addi//4 ..
fnmsub.d/7/4 .... fnmsub.d/7/4 .... fnmsub.d/7/4 .... fsd//4 .3
mul//4 ... addi//2 .. srli//2 22 sb//4 21
ld//4 .. addi//2 .. sd//4 .. add//2 z..
add//2 ... ld//4 .. ld//2 22 addi//2 ..
add//2 ... lw//4 1. sw//4 .1 sw//4 3.
or//4 ... and//4 ... and//4 ... or//4 ...
subw//4 ... addiw//4 .. add//2 z.. add//2 z3.
addi//2 .. addiw//4 .. addiw//4 .. addiw//4 ..
addw//4 ... addw//4 1.1 addiw//4 .. sw//2 .2
fld//4 .. fld//2 .. fld//4 .. fsub.d/7/4 3.3
fmul.d/7/4 ... fmul.d/7/4 ... add//2 z.. fdiv.d/7/4 ...
addiw//4 .. xor//2 ... jal//4 .n
and//4 ... or//4 ... addw//4 ... xor//4 ...
srliw//4 .. addw//2 ... xor//4 ... or//4 ...
addiw//2 .. fmadd.d/7/4 .... fsd//4 .1 bne//4 3.n
fmul.d/7/4 ... fmul.d/7/4 ... fld//4 .. fld//4 ..
or//4 ... slliw//4 .. srliw//4 .. add//2 z..
srliw//4 .. xor//2 .1. xor//2 ... addw//2 121
and//4 ... addw//4 ... xor//4 ... slliw//4 ..
xor//4 ... or//4 ... or//4 ... and//4 ...
or//4 ... addi//4 .. ld//4 .. sd//4 .3
""",
}
