"""The sequences that superinstructions are made for (:mod:`vm_jit.superinstructions` has the notation), the most frequent
first. Written by ``benchmarks/sequences.py``."""

from __future__ import annotations

from typing import Final

SEQUENCES: Final[dict[str, str]] = {
    "riscv64": """\
ld//2 .. addi//2 11 sd//2 .1 lw//4 .2 bge//4 .1n
ld//2 .. slli//4 .. add//2 .1. addi//2 .. ld//2 .. add//2 353
fadd.d/7/4 ... fsub.d/7/4 ... addiw//2 .. fmadd.d/7/4 3... fadd.d/7/4 3.4 beq//4 3.n
andi//4 .. subw//4 z11 srliw//4 .. and//2 2.2 xor//2 121 addiw//2 ..
fmul.d/7/4 ... fmul.d/7/4 ... fadd.d/7/4 21. flt.d//4 .1. beq//2 1zn
add//4 ... add//2 1.1 add//4 ... lbu//4 22 lbu//4 22 beq//4 21n
add//4 ... sb//4 1. add//2 ... bltu//4 1.n
add//4 ... lbu//4 1. add//2 z.2 addi//2 .. bne//2 3zn
addi//2 .. sd//2 1. sd//2 2. sd//2 3. sd//2 4. sd//2 5.
sb//4 .. sb//4 .. addi//2 .. addiw//2 .. andi//4 11 addi//2 ..
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212 slli//4 1. xor//2 121
fld//2 .. fld//2 .. addi//2 .. addi//2 .. fmadd.d/7/4 4.34 fsd//4 31
flw//4 .. flw//4 .. addi//2 .. add//2 ... fmadd.s/7/4 43.. bne//4 .3n
lw//2 .. lw//2 .. addi//2 .. add//2 ... mulw//4 343 addw//2 .1.
mul//4 ... srli//2 11 slli//2 11 add//2 1.1 ld//2 11 jalr//2 1.
andi//4 .. slli//2 11 add//2 1.1 ld//2 11 addi//2 .. jalr//2 2.
lbu//4 .. addi//2 .. addi//2 .. lbu//4 2. beq//2 4zn
sraiw//4 .. addi//2 .. srliw//4 22 sd//2 2. addw//4 2.. andi//4 11
ld//2 .. addiw//2 .. addi//2 .. jalr//2r 3z
addi//2 .. addi//2 .. sd//2 2. jal//4 .n
subw//2 ... addi//4 1. sd//2 .. andi//4 .. add//4 3.4 sb//4 12
ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 ..
add//2 ... ld//2 .. add//2 z2. ld//2 .3 addi//2 .. jalr//2r 4z
slli//2 .. add//2 1.1 lw//2 11 add//2 1.1 jalr//2 1z
lbu//4 .. lbu//4 .. beq//4 21n
lbu//4 .. lbu//4 .. addi//2 .. slli//2 33 slli//2 33 add//2 2.2
bne//4 ..n
lbu//4 .. lbu//4 .. lbu//4 .. slli//2 33 slli//2 33 add//2 2.2
lw//2 .. addi//2 .. andi//4 2. slli//2 11 add//2 1.1 ld//2 11
lbu//4 .. addi//2 .. add//4 .1. sb//4 13 bne//4 .3n
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212 slli//4 12 xor//2 121
addi//2 .. sd//2 1. sd//2 2. add//2 z.. beq//2 .zn
lw//2 .. lw//2 .. sltu//4 12. sltu//4 323 subw//2 212 jalr//2r .z
addi//4 .. addi//4 .. andi//2 22 addi//4 .. sub//4 323 addi//2 z.
sraiw//4 .. andi//2 .. andi//4 22 mulw//4 211 addw//2 .1. bne//4 ..n
add//2 ... ld//4 .. ld//2 22 addi//2 .. sd//4 .3 addi//2 ..
lh//4 .. lh//4 .. addi//2 .. addi//2 .. mulw//4 343 sraiw//4 15
lbu//4 .. ld//4 .. ld//4 .. slli//2 33 add//2 1.1 ld//2 11
lh//4 .. lh//4 .. addi//2 .. addi//2 .. mulw//4 434 addw//2 .1.
andi//2 .. add//4 1.. ld//2 .. ld//2 .. ld//2 .4 ld//2 ..
addi//2 .. addi//2 .. beq//4 .2n
lbu//4 .. addi//2 .. xor//2 .2. mul//4 1.1 bne//4 3.n
lw//4 .. addi//2 .. addi//2 .. sw//2 .3 addi//2 .. beq//4 4zn
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1 srliw//4 .. lbu//4 2.
addi//2 z. add//2 z.. bgeu//4 2.n
addiw//4 .. bne//2 .zn
bne//2 .zn
addi//2 .. add//2 ... bne//4 .2n
add//2 z.. add//2 z.. add//2 z.. jalr//2 ..
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 srli//4 12 xor//4 212
addi//2 .. bge//4 1.n
fld//2 .. fsub.d/7/4 ... fsub.d/7/4 .2. fmul.d/7/4 ..3 fmadd.d/7/4 3311 fmadd.d/7/4 3311
add//2 z.. ld//2 1. sd//2 2. add//2 z3. bne//2 3zn
ld//2 .. sub//2 ... add//2 z.. add//2 z.. bltu//4 .4n
sd//2 .. lbu//4 .. add//2 z.. addi//2 .. slli//2 33 add//2 1.1
ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 .. addi//2 ..
fsqrt.d/7/4 .. fmul.d/7/4 .1. fld//2 .. fld//4 .. fld//4 .. fmul.d/7/4 3..
addi//2 .. beq//4 ..n
lw//2 .. add//2 z.. andi//4 2. slli//2 11 add//2 1.1 ld//2 11
sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 ..
slli//4 .. xor//2 1.1 srli//4 1. xor//2 121 slli//4 13 xor//2 212
subw//4 z.. and//2 1.1 addiw//2 11 or//4 1.. or//4 2.. or//4 3..
add//2 ... ld//2 1. slli//4 1. add//2 121 add//2 1.1 sd//2 51
beq//2 .zn
or//4 ... or//2 1.1 xori//4 11 and//2 1.1 add//2 z.. add//2 z..
srliw//4 .. andi//4 .. slli//2 22 slli//2 22 addi//2 z. add//2 3.3
ld//2 .. addi//4 .. add//4 2.. xori//4 33 and//2 212 and//2 1.1
lbu//4 .. slli//2 11 add//2 1.1 ld//2 11 beq//2 1zn
srliw//4 .. and//2 ... xor//2 121 addiw//2 .. addiw//4 24 bne//2 2zn
and//4 ... srli//2 .. add//2 2.2 mul//4 ... add//2 1.1 add//2 141
lw//4 .. addi//2 .. bne//4 .2n
fld//2 .. fld//4 .. fld//2 .. fld//4 .. fsub.d/7/4 343 fld//4 ..
fmul.d/7/4 ... fmul.d/7/4 ... fmul.d/7/4 ... add//2 z.. fdiv.d/7/4 ... fnmsub.d/7/4 .1..
fmul.d/7/4 ... fmul.d/7/4 ... fld//4 .. fld//4 .. addi//4 .. addiw//2 ..
ld//2 .. addi//2 .. srli//4 2. and//4 3.3 mul//4 1.. mul//4 3..
addi//4 .. ld//2 1. addi//2 .. sd//2 1. sd//2 2. sd//2 3.
ld//4 .. slli//4 1. sub//2 121 add//2 1.1 sd//4 .1 addi//2 ..
ld//4 .. addi//4 .. sd//2 .. ld//2 .. addi//4 .. sd//4 45
sllw//4 ... addiw//2 11 and//2 .1. addiw//2 11 slli//4 13 add//2 212
lbu//4 .. addi//2 z. addi//2 .. xor//2 .3. andi//4 14 subw//4 z11
addiw//4 .. and//2 .1. addiw//2 11 add//2 ... bne//2 2zn
fnmsub.d/7/4 .... fnmsub.d/7/4 .... fsd//4 .. fsd//4 .3 fsd//4 .3 fld//4 ..
fld//2 .. fld//2 .. addi//2 .. addiw//2 .. fmadd.d/7/4 3.43 fsd//4 31
add//2 z.. jal//2 zn
lbu//4 .. srliw//4 .. addi//2 .. xor//2 .3. andi//4 11 slli//2 11
add//2 z.. jal//4 .n
fld//4 .. fld//4 .. fmadd.d/7/4 .... fmadd.d/7/4 ..3. fmadd.d/7/4 ..3. fsd//4 .3
ld//2 .. ld//2 .. sltu//4 12. sltu//4 323 subw//2 212 jalr//2r .z
ld//2 .. addi//2 .. jalr//2r .z
slliw//4 .. srliw//4 .. add//2 z.. addiw//4 .. xor//2 ... jal//4 .n
add//2 ... lw//2 11 xor//2 1.1 addiw//2 11 bne//4 ..n
mul//4 ... addi//2 .. srli//2 22 sb//4 21 bne//4 3.n
or//4 ... ld//2 .. slliw//4 22 sraiw//4 11 sd//4 .1 addi//2 ..
ld//2 .. add//2 z.. ld//2 .. addi//2 .. jalr//2r .z
add//2 z.. add//2 z.. add//2 z.. add//2 z.. add//2 z.. add//2 z..
lw//2 .. addi//2 .. addi//2 .. andi//4 3. slli//2 11 add//2 1.1
mul//4 ... addi//2 .. srli//2 22 sb//4 21 bne//4 .3n
lhu//4 .. xor//2 1.1 andi//4 11 bne//2 1zn
srliw//4 .. or//4 ... slliw//4 .. or//4 ... or//4 242 xori//4 ..
addi//4 .. slli//4 1. add//4 .1. slli//4 .2 add//2 1.1 slli//2 55
and//4 ... slli//2 11 add//2 1.1 lw//2 11 bge//4 1.n
remu//4 ... bne//2 1zn
lbu//4 .. addi//2 .. xor//2 .2. mul//4 1.1 bne//4 .3n
slli//4 .. slli//4 .. add//2 2.2 add//2 2.2 ld//2 22 ld//2 22
beq//4 ..n
lbu//4 .. lbu//4 .. lw//4 .. slli//2 33 add//2 1.1 ld//4 11
ld//2 .. lw//4 .. addi//2 z. lbu//4 3. ld//2 44 addi//4 z.
xor//2 ... xor//2 ... addw//2 121 addw//4 1.1 addw//4 1.1 addiw//4 .5
xor//4 ... and//4 ... xor//4 2.2 srliw//4 .. slliw//4 .. srliw//4 ..
sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 .. addi//2 ..
addiw//2 .. jal//4 .n
sd//2 .. sub//4 ... sub//4 ... bltu//4 ..n
addi//2 .. jal//4 .n
lbu//4 .. lbu//4 .. lw//4 .. slli//4 3. add//2 1.1 ld//4 15
ld//2 .. xor//2 1.1 add//4 1.. xori//4 22 and//2 121 and//4 1.1
lbu//4 .. add//2 z.. addi//2 .. slli//2 33 add//2 1.1 ld//2 11
addi//2 .. sd//2 1. sd//2 2. sd//2 3. add//2 z.. add//2 z..
slliw//4 .. slliw//4 .. lw//4 .. lw//2 .. srliw//4 .. srliw//4 ..
and//4 ... slli//2 11 add//2 1.1 sltu//4 1.. srli//4 .. mul//4 ...
srliw//4 .. andi//4 11 addi//2 11 slli//2 11 add//2 1.1 ld//2 1.
mul//4 ... addi//2 .. slli//2 22 bgeu//4 1.n
lbu//4 .. addi//2 .. addi//2 .. slli//2 33 add//2 1.1 ld//2 11
add//2 z.. add//2 z.. addi//2 z. beq//2 .zn
or//4 ... addw//4 ... xor//4 ... addw//2 2.2 xor//4 242 xor//4 ...
addi//2 .. bltu//4 ..n
subw//4 ... add//2 z.. subw//4 2.. addiw//4 .. add//2 z3. add//2 z3.
xor//2 ... mul//4 1.1 addi//2 .. srli//4 2. xor//2 131 bne//4 .3n
slli//2 .. add//2 1.1 lw//4 1. sw//4 .1 sw//4 3. bne//4 ..n
srliw//4 .. srliw//4 .. slliw//4 .. slliw//4 .. or//2 141 or//4 ...
xor//2 ... slli//4 1. xor//2 121 lwu//4 .3 addi//2 .. slli//2 22
or//4 ... or//4 ... srliw//4 .. xor//2 2.2 xor//4 .4. srliw//4 ..
addi//2 .. sub//4 1.. add//4 .2. add//2 2.2 sb//4 2. lbu//4 2.
add//4 ... lbu//4 1. lbu//4 2. lbu//4 3. lbu//4 44 slli//2 44
slliw//4 .. and//4 ... addw//4 ... xor//4 ... slliw//4 .. srliw//4 ..
srliw//4 .. andi//4 11 slli//2 11 add//4 .1. srliw//4 .. srliw//4 .3
addi//2 z. sb//4 .1 fsd//2 .. add//2 z.. addi//2 .. beq//4 .z
lh//4 .. lh//4 .. subw//2 212 jalr//2r .z
ld//2 .. ld//2 .. ld//2 .. ld//2 .. add//2 z.. ld//2 ..
addi//2 z. jal//2 zn
srliw//4 .. andi//4 11 ld//2 .. slli//2 22 add//2 1.1 ld//2 3.
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212 slli//4 12 xor//2 212
or//4 ... slli//2 .. or//4 121 slli//2 .. or//2 121 mulw//4 1.1
ld//4 .. ld//2 .. mul//4 .11 add//2 1.1 bgeu//4 41n
add//2 z.. addi//2 .. remu//4 1.. slli//4 .. xor//2 1.1 srli//4 1.
mul//4 ... lw//4 .. addi//2 .. srli//2 33 remu//4 1.1 addi//2 ..
sub//4 ... sltiu//4 11 addi//2 .. addi//2 .. addi//2 .. sd//4 34
ld//2 .. addi//4 .. xor//4 .2. add//4 3.. add//4 2.. xor//2 252
andi//2 .. addw//4 1.1 sll//4 .11 xori//4 11 addi//4 ..
xor//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 srli//4 12
addiw//4 .. lw//2 .. slliw//4 .. srliw//4 .. slliw//4 .. srliw//4 ..
lbu//4 .. lbu//4 .. bne//4 21n
ld//2 .. addi//2 .. jalr//2 2z
add//2 ... mul//4 ... slli//2 .. add//2 1.1 lwu//4 11 slli//2 11
addi//2 .. addi//2 .. beq//4 2.n
ld//2 .. ld//2 .. ld//2 .. addi//2 .. jalr//2r 4z
addw//2 ... xor//4 ... or//4 ... or//4 ... and//4 ... and//4 ...
addi//2 z. add//2 z.. add//2 z.. add//2 z.. bgeu//4 4.n
lw//2 .. addi//2 .. slli//2 22 add//2 1.1 lbu//4 1. addi//4 2.
and//4 ... slli//2 11 add//2 1.1 srliw//4 .. slli//2 11 add//2 1.1
addi//2 .. addi//2 .. bne//4 .2n
add//2 z.. addi//2 z. fld//2 2. fld//2 3. addi//2 44 addiw//2 44
addi//2 .. sd//2 1. sd//2 2. sd//2 3. andi//4 .. add//2 z..
ld//2 .. xor//4 .1. auipc//4 2 ld//4 11 mul//4 313 srli//4 12
srliw//4 .. andi//4 11 srliw//4 .. slli//2 22 srliw//4 .. andi//4 33
slli//2 .. add//2 1.1 add//2 ... sd//4 21 addi//2 .. jal//2 zn
ld//2 .. addi//2 .. slli//2 11 ld//2 3. add//2 2.2 beq//2 2zn
sd//4 .. add//2 ... addi//2 .. bne//4 ..n
lbu//4 .. lbu//4 .. ld//4 .. slli//2 33 add//2 1.1 ld//2 11
lw//2 .. add//2 z.. addi//2 .. addi//2 .. bltu//4 4.n
slli//4 .. add//4 .1. lw//4 1. slli//4 .. add//4 .1. addi//2 55
bltu//4 ..n
ld//2 .. addi//2 .. srl//4 2.2 andi//4 11 addi//2 11 slli//2 11
lbu//4 .. slli//2 .. andi//4 .. add//4 .2. slli//2 22 addi//4 z.
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1 ld//2 1. addi//2 z.
lbu//4 .. addi//2 .. slli//2 22 add//2 1.1 ld//2 11 jalr//2 1z
ld//4 .. addi//2 .. addi//2 .. sd//2 .3 addi//2 .. bne//2 4zn
lw//4 .. addi//4 .. andi//4 2. slli//2 11 add//2 1.1 ld//2 11
lbu//4 .. addi//2 .. xor//4 2.. mul//4 1.1 bne//4 3.n
lw//4 .. bne//2 1zn
addi//2 .. sd//2 1. addi//2 2. add//2 z1. ld//2 42 addi//2 55
lbu//4 .. lbu//4 .. addi//2 .. slli//4 3. or//4 131 add//2 1.1
lbu//4 .. sub//4 ... add//2 1.1 sb//4 13 addi//2 .. bne//4 1.n
sd//4 .. add//2 z.. bne//2 .zn
ld//4 .. addi//2 .. addi//2 .. sd//2 .3 addi//2 .. beq//4 4zn
jal//2 zn
addi//2 .. sd//2 1. add//2 z.. lbu//4 1. sd//2 4. sd//2 5.
lw//2 .. slli//2 11 add//2 1.1 lbu//4 1. jal//2 zn
ld//4 .. ld//4 .. ld//4 2. ld//4 1. ld//4 1. bne//4 .zn
addi//2 .. sd//2 1. sd//2 2. sd//2 3. addi//4 .. slli//4 ..
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1 lbu//4 1. srliw//4 ..
addw//4 ... addw//4 ... addiw//2 .. addiw//2 .. addi//2 .. add//2 z4.
sw//2 .. addi//2 .. addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 ..
addi//2 .. sd//2 1. andi//4 .. add//2 z.. add//2 z.. bne//2 3zn
slli//2 .. add//2 1.1 ld//2 11 jalr//2 1z
lw//2 .. lw//4 .. addiw//2 22 sw//2 .2 sw//2 .2 addi//2 z.
ld//2 .. ld//2 .. addi//2 .. jalr//2r .z
ld//4 .. slli//4 1. add//2 1.1 addi//2 33 sd//4 .1 sd//2 3.
andi//4 .. srliw//4 .. slli//2 22 addi//2 z. addiw//4 3. add//2 3.3
ld//2 .. ld//2 .. ld//2 .. ld//4 3. sub//4 3.. sub//2 343
ld//2 .. addi//2 .. srl//4 2.. andi//4 11 slli//2 11 add//2 1.1
sw//2 .. add//2 z.. addi//2 .. addi//2 .. bne//4 .2n
lbu//4 .. bne//4 1.n
slli//2 .. add//2 1.1 sd//4 .1 sd//4 .. add//2 z.. jal//4 .
ld//2 .. ld//2 .. ld//2 .. ld//2 .. addi//2 .. jalr//2r .z
ld//2 .. sb//4 .. addi//4 .. add//2 3.3 sd//2 .1 bne//4 .zn
lw//4 .. lui//4 . addi//4 1. sd//2 .1 addiw//2 44 ld//4 ..
ld//2 .. auipc//4 . ld//4 11 addi//2 33 sd//2 .1 ld//2 ..
add//2 z.. subw//4 ... addiw//4 .. add//2 z3. add//2 z3. slli//2 55
lbu//4 .. jal//2 zn
add//2 z.. slli//4 1. slli//2 .. addi//2 22 add//4 .2. bltu//4 ..n
bne//4 .zn
add//2 ... ld//4 .. ld//4 22 slli//2 .. add//2 1.1 sltu//4 433
add//2 ... ld//4 .. ld//2 22 slli//2 .. add//2 1.1 sltu//4 433
add//2 ... ld//4 .. ld//4 22 slli//2 .. add//2 1.1 and//4 433
slli//2 .. add//2 1.1 addi//2 .. sd//4 2. addi//2 .. addi//2 ..
addi//2 .. and//4 .11 slli//4 1. add//2 1.1 ld//2 1. bne//2 1zn
add//2 z.. add//2 z.. srli//2 .. addi//2 z. add//2 ... subw//4 25.
lbu//4 .. slli//2 11 add//2 1.1 ld//2 11 bne//4 1zn
add//2 z.. addi//2 .. bne//4 ..n
xor//4 ... and//2 .1. or//4 1.1 beq//4 1.n
ld//4 .. add//2 z.. addi//2 .. addi//2 33 sd//4 .1 jal//4 .
ld//2 .. beq//2 1zn
addi//2 .. sd//2 1. ld//4 .. sd//2 3. sd//2 4. sd//2 5.
add//2 ... ld//4 .. ld//2 22 slli//2 .. add//2 1.1 and//4 433
slli//2 .. add//2 .1. jal//2 zn
sd//2 .. addi//2 z. beq//4 ..n
slli//4 .. add//2 1.1 slli//2 11 add//2 .1. lbu//4 12 bne//4 1.n
sub//4 ... addi//2 .. addi//2 .. addi//2 .. sd//4 34 jalr//2 .z
slt//4 ... addi//2 .. addi//2 .. addi//2 .. sd//4 34 jalr//2 .z
slli//4 .. auipc//4 . addi//4 11 srli//4 3. add//2 121 lw//2 11
slli//4 .. add//2 .1. jalr//2r .z
fsd//4 .. fsd//4 .. bne//4 ..n
xor//2 ... sd//2 .1 ld//2 .2 ld//2 .. bltu//4 21n
ld//2 .. bne//4 .1n
add//2 z.. add//2 z.. jalr//2 ..
addi//2 .. add//2 z.. add//4 ... sub//2 3.3 beq//2 .zn
ld//2 .. slli//4 .. addi//2 z. add//2 323 lw//2 11 addiw//4 11
add//2 z.. addi//4 z. addi//4 z. addi//4 z. addi//4 z. lbu//4 5.
add//2 z.. add//2 z.. jal//4 .n
ld//4 .. addi//2 .. beq//4 2zn
lbu//4 .. addi//2 .. addi//2 .. sb//4 23 bne//4 .3n
fsub.d/7/4 ... fld//4 .. fld//2 .. fsub.d/7/4 ... fsub.d/7/4 323 fmul.d/7/4 553
add//2 ... ld//4 1. addi//2 11 sd//4 31 bne//4 ..n
slli//4 .. slli//2 .. add//2 z.. add//2 z.. addi//2 44 add//4 .4.
andi//4 .. add//2 1.1 lbu//4 11 addi//2 .. add//4 .1. sb//4 13
ld//4 .. ld//4 .. ld//4 .. ld//4 .. ld//4 .. ld//4 ..
addw//4 ... addiw//4 .. sll//4 .22 addi//4 ..
lw//2 .. addiw//2 11 sw//2 .1 jal//2 zn
ld//2 .. sb//4 .. sd//2 .2 bne//4 .zn
add//2 z.. lw//2 .. addw//2 .1. slt//4 323 bge//4 .2n
ld//4 .. lh//4 .. addi//4 .. sd//4 .3 beq//2 3zn
addi//2 .. ld//4 .. sd//2 2. ld//4 .. sd//2 4. ld//4 ..
slli//4 .. srli//2 .. or//2 121 jalr//2r .z
lw//2 .. add//2 z.. addi//2 .. addi//2 .. bltu//4 .4n
addw//2 ... addiw//4 .. addiw//2 .. addiw//4 .. addiw//2 .. addiw//4 ..
slli//4 .. sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 ..
add//2 z.. jal//4 .
lbu//4 .. lbu//4 .. srai//4 .. srai//2 .. addiw//4 2. addiw//4 5.
ld//2 .. addi//2 .. addi//2 .. bltu//4 23n
ld//4 .. ld//4 .. ld//4 1. ld//4 1. bne//4 .zn
lw//2 .. andi//4 11 beq//2 1zn
add//2 z.. addiw//2 .. ld//4 .. bne//4 .zn
slli//2 .. add//2 .1. lhu//4 11 andi//4 11 bne//2 1zn
lhu//4 .. addi//2 .. addw//2 2.2 sh//4 21 bne//4 .3n
auipc//4 . ld//4 11 xor//2 .1. jalr//2r .z
beq//4 .zn
sd//2 .. addi//2 z. andi//4 .. add//2 z.. add//2 z.. addi//4 z.
sll//4 ... srl//4 ... or//4 121 addi//4 .. ld//4 .4 sd//4 .3
slli//4 .. add//2 1.1 add//4 ... jal//2 zn
ld//4 .. sd//2 .. sh//4 .. sh//4 .z sd//4 .. sd//2 ..
srl//4 ... sll//4 ... or//2 212 ld//4 .. addi//4 .. sd//4 .3
lui//4 . addi//4 11 add//2 .1. jalr//2r .z
add//2 ... bne//4 ..n
add//2 ... addi//2 .. addi//2 .. addi//2 .. sd//4 34 jalr//2 .z
ld//2 .. addi//2 .. bltu//4 12n
add//2 ... mul//4 ... add//2 1.1 add//2 1.1 and//4 1.. slli//2 11
lbu//4 .. andi//4 1. beq//2 1zn
sd//2 .. sd//2 .. sd//2 .. add//2 ... sd//2 .. add//2 z..
sub//4 ... add//2 z.. add//2 z.. jal//2 zn
lhu//4 .. andi//2 11 bne//2 1zn
sd//2 .. add//2 z.. bgeu//4 ..n
sd//4 .. lbu//4 .. sb//4 .1 sd//4 .. blt//4 ..n
auipc//4 . ld//4 11 add//2 1.1 addi//2 11 jalr//2r .z
sll//4 ... srl//4 ... or//4 121 addi//4 .. ld//4 .4 addi//2 ..
andi//4 .. srli//2 .. add//2 121 jalr//2r .z
addiw//4 .. add//2 z.. fld//2 1. fld//4 .. fld//2 3. fld//4 ..
srli//4 .. xor//4 .1. addi//4 .. bne//4 1zn
andi//4 .. add//2 .1. andi//4 .. add//2 3.3 addi//2 11 add//2 z4.
lbu//4 .. addi//4 z. beq//4 21n
add//2 z.. addiw//2 .. ld//2 .. beq//4 .zn
fld//4 .. fld//4 .. fld//4 .. fld//4 .. fld//4 .. fld//4 ..
and//4 ... slli//2 11 add//2 .1. sltu//4 1.. srli//4 .3 mul//4 ...
ld//4 .. ld//2 .. ld//2 .. ld//4 .. ld//4 .. ld//4 ..
mul//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 srli//4 12
sd//4 .. ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 ..
addi//2 .. lbu//4 1. jal//2 zn
mul//4 ... sd//2 .. srli//2 22 addi//4 1. jal//4 .n
addiw//2 .. beq//4 1zn
addiw//4 .. addiw//4 .. addiw//4 .. bne//4 ..n
srli//4 .. slli//2 .. or//2 121 jalr//2r .z
addi//2 z. ld//2 .. addi//2 .. jalr//2r 2z
addiw//2 .. addi//2 z. bge//4 12n
addi//2 .. ld//4 .. srli//4 .. and//4 131 sd//2 .. slli//4 2.
sd//2 .. lbu//4 .. sb//4 .1 beq//4 .zn
slli//2 .. add//2 1.1
lw//2 .. andi//4 1. bne//2 1zn
sd//4 .. addi//2 .. addi//2 .. bne//4 2.n
srl//4 ... sll//4 ... or//4 212 ld//4 .. addi//4 .. sd//2 .3
lw//2 .. andi//4 11 bne//2 1zn
ld//2 .. ld//4 .. xor//2 121 addi//2 z3 bne//4 2zn
addi//2 .. jalr//2 .z
lui//4 . addi//4 11 remu//4 .1. jalr//2r .z
ld//2 .. sd//2 .1 lbu//4 .2 sb//4 .1 andi//4 22 bne//2 1zn
addi//2 .. addi//2 .. jalr//2 .z
bge//4 z.n
addi//2 .. addi//4 .. sd//2 2. ld//4 2. sd//2 4. sd//2 5.
slli//4 .. xor//4 1.. srli//4 1. xor//2 121 slli//4 13 xor//2 121
add//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 srli//4 12
ld//4 .. add//4 ... addi//2 z. bne//4 ..n
addi//4 .. addi//2 .. bne//4 .2n
sub//4 ... bge//4 1.n
addi//4 .. bne//4 1zn
ld//4 .. bgeu//4 .1n
slli//2 .. add//2 1.1 srl//4 ... sd//4 21 addi//2 .. jal//2 zn
add//2 z.. sd//4 .1 addi//2 .. addi//2 .. bltu//4 ..n
add//2 z.. ld//2 .. addi//2 .. sltu//4 233 xori//4 11 and//2 .1.
ld//2 .. bltu//4 .1n
srli//4 .. and//4 ... mul//4 1.. mul//4 3.. and//4 2.. srli//2 33
srliw//4 .. srliw//4 .. andi//4 22 andi//4 22 srli//4 .. slli//2 33
ld//4 .. addi//2 .. sub//4 2.. sltu//4 31. add//2 1.1 sd//4 43
add//2 ... sd//2 .1 sd//4 .. bne//4 ..n
addi//2 .. jalr//2r .z
ld//4 .. ld//4 .. fld//2 .. fld//2 .. fld//4 .. fld//4 ..
slli//4 .. xor//4 1.1 srli//4 1. xor//2 212 slli//4 1. xor//4 211
lw//4 .. addi//2 .. xor//2 .2. andi//4 1. srliw//4 2. srliw//4 35
addi//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 srli//4 12
lw//2 .. addi//2 z. add//2 z.. add//2 z.. beq//4 43n
or//2 ... or//2 1.1 slliw//4 .. or//2 212 sw//2 .1 addi//2 ..
addi//4 z. add//2 z.. xori//4 .. addi//2 z. addi//2 z.
lw//4 .. sw//2 .. sw//4 .2 bne//4 ..n
ld//2 .. ld//2 .. ld//2 .. addi//2 .. jalr//2r .z
andi//4 .. addi//2 z. addiw//4 2. bne//4 .2n
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 addi//4 11 srli//4 13
lw//2 .. ld//2 .. ld//2 .. addiw//2 33 sw//2 .1 ld//2 ..
addiw//2 .. ld//2 .. bne//4 .2n
ld//2 .. slli//2 .. add//2 121 lhu//4 1. andi//4 11 jal//2 zn
lw//2 .. andi//4 1. bne//4 1zn
lbu//4 .. beq//2 1zn
srl//4 ... sll//4 ... or//4 212 ld//4 .. ld//4 .3 beq//4 3.n
fld//2 .. fmul.d/7/4 1.1 jal//2 zn
fmadd.d/7/4 .... fsd//4 .1 bne//4 ..n
xori//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 srli//4 12
ld//2 .. ld//2 .. add//2 z.. sb//4 .. add//2 434 sd//2 .1
addi//4 .. srliw//4 .. andi//4 .. andi//4 .. slli//2 44 slli//2 44
xor//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 mul//4 1.1
lw//2 .. slli//2 .. add//2 ... add//2 2.2 lw//2 22 lw//2 2.
xor//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 add//4 1.1
sw//4 .. addi//2 .. addi//2 .. sw//4 .. bge//4 23n
bge//4 ..n
bgeu//4 ..n
auipc//4 . ld//4 11 add//2 1.1 jalr//2r .z
srliw//4 .. andi//2 11 bne//4 1.n
addi//2 .. addi//2 .. bgeu//4 .2n
sub//4 ... addi//4 z. sltiu//4 22 beq//4 .2n
lbu//4 .. addi//4 z. ld//4 .. add//2 ... addi//2 z. beq//4 54n
add//2 ... bgeu//4 ..n
jalr//2 .z
lbu//4 .. slliw//4 .. srliw//4 .. addw//2 212 addw//2 141 xor//2 1.1
add//2 ... sltu//4 1.. srli//4 .. mul//4 ... add//2 323 bgeu//4 ..n
fld//4 .. fld//4 .. sltiu//4 .. add//2 1.1 jalr//2r .z
sd//4 .. addi//2 .. lbu//4 1. jal//2 zn
lbu//4 .. lbu//4 .. lbu//4 .. lbu//4 .. slliw//4 44 slliw//4 44
addi//4 .. add//2 ... addi//4 .. add//2 ... slli//2 44 lw//4 4.
addi//2 z. addi//4 .. bne//4 .2n
ld//2 .. addiw//2 .. add//2 .2. slli//2 11 add//2 .1. jal//2 zn
addi//4 z. bgeu//4 1.n
addiw//2 .. bne//2 1zn
add//4 ... lbu//4 .. lbu//4 22 addi//2 .. sub//4 32. beq//4 43n
blt//4 z.n
ld//2 .. jalr//2 1z
sub//4 z.. andi//2 11 sub//4 .1. beq//2 2zn
mul//4 ... addi//2 11 jalr//2r .z
addi//2 .. andi//4 1. beq//2 1zn
slli//2 .. srliw//4 .. andi//2 .. add//2 ... add//4 .4. slli//2 44
addi//2 .. sd//2 .1 lw//4 .2 bge//4 .1n
addi//2 z. divu//4 .1. jalr//2r .z
srl//4 ... sll//4 ... or//4 212 ld//4 .. ld//4 .. beq//4 3.n
addi//4 .. add//2 1.1 lw//2 1. add//2 z2. addi//2 .. addi//2 44
srli//4 .. xor//4 .1. xori//4 11 srli//4 13 xor//4 212 srli//4 12
add//2 z.. add//2 z.. beq//4 ..n
add//2 ... ld//2 1. sd//2 .. sd//2 .. sd//2 .. sd//2 ..
lbu//4 .. lbu//4 .. addi//2 .. addi//2 .. sub//4 43. beq//4 54n
addi//4 z. beq//4 .1n
ld//4 .. add//2 z.. bltu//4 ..n
slli//4 .. add//2 .1. addi//2 .. ld//2 .. add//2 3.3 bne//4 3.n
addi//2 .. mulw//4 ... sraiw//4 1. sraiw//4 22 andi//2 22 andi//4 22
mul//4 ... addi//2 .. xor//2 2.2 mul//4 1.1 srli//4 1. xor//2 121
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 add//4 1.1 srli//4 13
lui//4 . or//2 .1. jalr//2r .z
add//2 ... addiw//2 .. beq//2 .zn
add//4 ... lbu//4 1. add//4 ..2 add//2 1.1 sb//4 13 addi//2 ..
sd//2 .. add//2 z.. add//2 z.. beq//4 ..n
addi//2 .. sd//4 .. addi//2 .. bgeu//4 3.n
xor//4 ... xori//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
addi//4 z. xori//4 .. addi//2 z. addi//2 z.
andi//4 .. beq//2 1zn
addi//2 .. bne//4 ..n
ld//2 .. beq//4 1.n
add//2 z.. add//2 z..
addi//2 .. sd//2 1. sd//2 2. sd//2 3. sd//2 4. auipc//4 .
jalr//2r .z
sd//2 .. sd//2 .. sd//2 .. sd//2 .. addi//2 z. add//2 z..
addi//2 z. srli//4 11 slli//2 .. addi//2 z. add//2 z.. srli//4 ..
ld//2 .. addi//2 11 sd//2 .1
xori//4 .. mul//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
srli//4 .. xor//2 .1. jalr//2r .z
lbu//4 .. fld//2 .. beq//4 2.n
ld//2 .. slt//4 1.1 jal//4 z
srli//4 .. xor//4 .1. addi//4 11 srli//4 13 xor//4 212 srli//4 12
addi//2 .. add//2 z.. addi//4 .. beq//2 3zn
addi//4 .. srli//2 11 xor//2 1.1 sd//2 .1 sd//2 .. ld//2 .3
lbu//4 .. bne//2 1zn
lw//4 .. add//2 ... bgeu//4 ..n
fsub.d/7/4 ... addi//2 z. sb//4 .1 fsd//2 .3 add//2 z.. addi//2 ..
addi//2 .. sd//2 1. ld//4 .. sd//2 3. srli//4 .. mul//4 133
mul//4 ... andi//4 .. slli//2 11 add//2 1.1 addi//2 .. sd//2 25
srli//4 .. xor//4 .1. add//4 1.1 srli//4 13 xor//4 212 srli//4 12
addiw//4 .. addi//4 .. bne//4 2.n
andi//4 .. slli//2 11 add//2 1.1 ld//2 11 addi//2 .. xor//4 .22
andi//4 .. auipc//4 . addi//4 11 slli//2 33 add//2 121 lw//2 11
sub//4 ... add//2 z.. bne//2 .zn
add//2 z.. add//2 z.. add//2 z.. beq//2 .zn
srliw//4 .. addiw//4 1. slli//4 1. lw//4 .. srli//4 23 add//2 1.1
ld//2 .. bltu//4 ..n
addi//2 .. bgeu//4 ..n
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 addi//4 .. bne//4 1zn
fld//4 .. fld//4 .. fld//4 .. fmadd.d/7/4 ..3. fmadd.d/7/4 ..3. fmadd.d/7/4 ..3.
ld//2 .. addi//2 11 sd//2 .1 lw//4 .2
ld//4 .. lbu//4 .. addi//2 .. and//4 3.3 slli//2 11 add//2 1.1
lbu//4 .. fld//2 .. beq//4 2.
lui//4 . addi//2 11 slli//2 11 srl//4 1.1 andi//2 11 beq//2 1zn
addi//4 .. ld//2 1. add//2 z.. auipc//4 . addi//4 11 beq//2 4zn
add//4 ... addi//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
addi//2 z. addi//4 .. bne//4 .2
addiw//2 .. addi//2 z. addi//2 z. addi//4 z. beq//4 43n
jal//4 z
srli//4 .. sub//2 .1. jalr//2r .z
sd//4 .. add//2 z.. addi//4 .. bne//2 .zn
lw//2 .. addi//2 .. sd//2 1. sd//2 2. sd//2 3. add//2 z..
srli//4 .. xor//4 .1. mul//4 1.1 srli//4 13 xor//4 212 srli//4 12
ld//4 .. slli//4 .. add//2 1.1 ld//2 11 sd//4 .4 addi//2 ..
blt//4 .zn
add//2 z.. ld//2 .. beq//2 1zn
auipc//4 . addi//4 11 ld//2 1. addi//4 .. srli//2 11 auipc//4 .
fmadd.d/7/4 .... fmadd.d/7/4 .... fmadd.d/7/4 .... fsd//4 .3 fsd//4 .3 fsd//4 .3
addi//2 .. ld//4 .. sd//2 2. auipc//4 . ld//4 11 sd//2 5.
sd//4 .. addi//2 .. jal//2 zn
addi//4 .. add//2 z.. addi//2 z. lh//4 2. lh//4 4. addi//2 55
addi//4 .. add//2 z.. addi//2 z. lh//4 3. lh//4 3. addi//2 55
lui//2 . add//2 1.1 ld//4 11 andi//2 .. bgeu//4 12n
slli//4 .. add//2 1.1 srl//4 ... jal//2 zn
add//2 ... lw//2 1. sub//4 ... sltu//4 z11 addw//2 131 sw//2 51
slli//4 .. add//2 1.1 sd//4 1. addi//2 z. sd//2 31 lw//2 .4
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 xori//4 11 srli//4 13
ld//4 .. beq//2 1zn
subw//4 z.. srliw//4 .. and//2 2.2 xor//2 121 addiw//2 .. addiw//4 24
xori//4 .. srli//4 1. xor//4 212
addiw//4 .. addi//2 .. bne//4 ..n
srai//4 .. xor//2 .1. jalr//2r .z
add//2 z.. rem//4 1.. slli//4 .. xor//2 .1. srli//4 12 xor//2 121
ld//2 .. ld//2 ..
xor//4 ... srli//4 1. xor//2 212 slli//4 1. xor//4 211 mul//4 1.4
xor//4 ... xor//2 1.1 xor//2 .1. bne//4 ..n
slli//2 .. jal//4 .n
xori//4 .. xori//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
ld//2 .. bne//4 1.n
addi//4 .. add//2 z.. ld//2 2. beq//4 12n
slli//4 .. add//2 1.1 lw//2 11 add//2 1.1 jalr//2 1z
addi//4 .. ld//2 1. beq//2 1zn
ld//4 .. lwu//4 .. sd//2 .. add//2 z3. sd//2 .. sd//2 .5
ld//2 .. addi//2 .. sd//2 1. auipc//4 . ld//4 11 sd//2 4.
addi//2 z. beq//4 .1n
addiw//2 .. beq//2 1zn
addi//2 z. bgeu//4 1.n
auipc//4 . ld//4 11 sltu//4 .11 sub//4 z11 and//4 .1. lui//2 .
and//4 ... add//2 ... addi//2 z. slli//2 .. ld//2 .. addi//2 ..
addi//2 .. addi//2 ..
auipc//4 . ld//4 11
addi//4 .. addi//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
slli//4 .. add//2 1.1 lhu//4 1. beq//2 1zn
ld//2 .. add//2 ... sw//4 1. ld//2 .2 ld//2 .. addi//2 ..
add//2 z.. beq//2 .zn
lbu//4 .. andi//2 11 bne//2 1zn
add//2 z.. add//2 z.. add//2 z.. jal//4 .n
lbu//4 .. addi//2 .. addi//2 .. addiw//4 3. andi//4 11 bltu//4 .1n
xor//4 ... srli//4 1. xor//2 212 slli//4 1. xor//4 211 mul//4 1.3
mul//4 ... srli//4 1. xor//4 212
addi//4 .. bne//4 .1n
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 mul//4 1.1 srli//4 13
lbu//4 .. ld//4 .. ld//4 .. slli//2 33 add//2 1.1 and//4 4.4
add//4 ... add//2 z.. lbu//4 1. addi//2 .. addi//2 33 sb//4 23
fnmsub.d/7/4 .... fnmsub.d/7/4 .... fnmsub.d/7/4 .... fsd//4 .3 fsd//4 .3 fsd//4 .3
mul//4 ... mul//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
sd//4 .. sd//2 .. sd//2 .. addi//2 .. addi//4 .. bne//4 2.n
addi//4 .. ld//2 11 addi//4 .. srli//4 11 addi//2 z. beq//2 4zn
ld//4 .. addi//2 .. add//2 .2. sltu//4 13. add//2 1.1 sd//4 43
lw//2 .. bne//4 1zn
lw//2 .. lw//4 .. srliw//4 22 jal//2 zn
ld//4 .. addi//2 z. ld//4 .. ld//4 .. ld//4 .. ld//4 ..
sw//4 .z bne//2 .zn
add//2 z.. add//2 z.. jal//4 .
addi//4 .. sd//2 .. andi//4 .. add//4 3.. sb//4 12 beq//2 .zn
ld//4 .. ld//4 .. ld//2 .. ld//2 .. ld//2 .. sd//2 .3
lw//4 .. beq//2 1zn
lw//2 .. addi//2 .. bne//2 2zn
add//4 ... srli//4 1. xor//4 212
addi//2 z. lw//2 .. ld//2 .. ld//2 .. addiw//2 33 sw//2 .1
sd//4 .. lbu//4 .. slli//2 11 add//2 1.1 ld//2 11 jalr//2 1z
mulw//4 ... addw//2 .1. bne//4 ..n
addi//4 .. addi//2 z. addi//2 z. bgeu//4 23n
add//2 ... addi//2 .. ld//2 .. add//2 3.3 bne//4 3.n
ld//2 .. slli//2 .. add//2 1.1 addi//2 .. sd//4 2. addi//2 ..
sd//2 .. add//4 ... andi//4 .. lw//4 2. addi//4 .. bne//2 3zn
fmv.d.x//4 z. addi//2 z. auipc//4 . fld//4 1. fsgnj.d//4 44. addi//4 z.
xor//4 ... srli//4 1. xor//4 212 mul//4 1.1 srli//4 13 xor//4 212
xor//4 ... add//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
sb//4 .. addi//2 .. andi//4 1. bne//2 1zn
addi//2 .. beq//4 1.n
xor//4 ... add//4 ... add//4 2.. xor//2 2.2 xor//4 242 and//2 212
ld//4 .. ld//4 .. ld//4 .. addi//4 .. beq//4 34n
addi//2 z.
andi//4 .. slli//2 11 add//2 1.1 ld//2 11 jalr//2 1z
xori//4 .. add//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
addi//2 .. addiw//2 .. addi//2 z. bne//4 .3n
addi//2 .. sd//2 1. lbu//4 .. addi//4 z. add//2 z.. addi//4 ..
xor//4 ... mul//4 1.1 addi//4 .. slli//2 .. srli//2 11 sltiu//4 33
slliw//4 .. addiw//2 11 slli//2 11 srli//2 11 jal//2 zn
slli//4 .. add//2 1.1
slli//4 .. add//2 1.1 lhu//4 1. bltu//4 1.n
sd//2 .. lw//4 .. bge//4 .1n
addi//4 .. addi//4 .. addi//4 z. srli//4 2. xor//4 313 srli//4 12
andi//4 .. subw//4 z11 srliw//4 .. and//2 2.2 xor//2 121
srli//4 .. and//2 ... add//2 z.. mul//4 323 srli//2 11 andi//2 11
fmadd.d/7/4 .... fmadd.d/7/4 .... fsd//4 .. fsd//4 .3 fsd//4 .3 bne//4 ..n
andi//4 .. slli//4 1. add//2 121 slli//4 1. add//2 121 slli//4 13
jal//4 .n
addi//2 .. andi//4 1. beq//2 .zn
xor//2 ... addw//2 1.1 addw//4 1.1 addw//4 1.1 addiw//4 .. sw//2 .2
addi//2 z. srli//4 .. and//2 ... mul//4 212 srli//2 11 jal//2 zn
add//4 ... srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
and//2 ... xor//2 1.1 addiw//2 .. addiw//4 2. bne//2 2zn
fcvt.d.w/0/4 .. fsgnj.d//4 ... addi//4 z. fmul.d/7/4 3.3 addiw//2 .. fdiv.d/7/4 2.2
ld//4 .. sd//2 .1 addi//2 z2 andi//4 .. sd//2 .. sd//2 ..
ld//2 .. slli//4 .. add//2 .1. addi//2 .. ld//2 ..
ld//2 .. addi//2 .. jalr//2r 2z
addi//4 .. lw//4 .. addi//2 z. addi//4 3.
addi//2 .. sd//2 1.
addiw//2 .. sb//4 .1 addiw//4 .2 sw//2 .1 beq//4 .zn
addi//2 .. sd//2 1. sd//2 2. sd//2 3.
andi//4 .. slliw//4 1. slli//4 2. andi//4 .. addi//4 z4 addi//2 z.
add//2 z.. add//2 z.. add//2 z..
xor//4 ... addi//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
add//4 ... mul//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
mul//4 ... add//2 z.. srli//4 2. slli//2 11 add//2 1.1 ld//2 1.
lbu//4 .. lw//4 .. lbu//4 .. slli//4 3. add//2 1.1 ld//4 15
addi//4 .. mul//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
srli//4 .. xor//4 .1. mul//4 1.1
andi//2 .. auipc//4 . addi//4 11 beq//2 3zn
addw//4 ... xor//4 ... addw//2 2.2 xor//4 2.2 xor//4 ... addw//4 212
sw//4 .. addi//2 .. addi//2 .. sw//4 .. jal//2 zn
add//4 ... andi//4 1. srli//4 .. add//2 z3. add//2 z.. bne//2 4zn
auipc//4 . addi//4 11
fadd.d/7/4 ... fsub.d/7/4 ... addiw//2 .. fmadd.d/7/4 3... fadd.d/7/4 3.4
remu//4 ... add//4 ... add//4 ... addi//2 .. addi//4 44 sb//4 41
add//2 ... jalr//2 1z
slli//2 .. add//2 1.1 mul//4 ... addi//2 .. sd//4 32 jal//2 zn
lbu//4 .. lbu//4 .. lbu//4 .. slli//2 33 or//4 131 add//2 1.1
slli//2 .. add//2 1.1 ld//2 11
lbu//4 .. beq//4 1.n
ld//2 .. addi//2 .. sd//2 1. andi//4 3. add//4 .1. ld//2 11
srli//2 .. slli//2 11 add//2 1.1 ld//2 11 jalr//2 1.
lbu//4 .. lw//4 .. lbu//4 .. slli//2 33 add//2 1.1 ld//4 11
fmul.d/7/4 ... fmul.d/7/4 ... fadd.d/7/4 21. flt.d//4 .1.
fld//2 .. fadd.d/7/4 1.1 jal//2 zn
add//2 z.. add//2 z.. and//4 ... slli//2 11 add//2 1.1 lw//2 11
addi//4 .. add//4 ... xori//4 .. and//2 212 and//2 1.1 beq//2 1zn
add//2 z.. add//2 z.. add//2 z.. add//2 z.. jal//4 .n
addiw//2 .. bne//4 1.n
ld//2 .. srliw//4 1. addiw//2 11 slli//4 1. srli//4 12 addi//2 11
xor//4 ... addi//4 .. bne//4 1zn
ld//4 .. jal//2 zn
fmul.d/7/4 ... add//2 z.. fdiv.d/7/4 ... fnmsub.d/7/4 .1.. fnmsub.d/7/4 .2.. fnmsub.d/7/4 .3..
slli//4 .. xor//2 1.1 addi//4 z. mul//4 2.. bne//2 .zn
add//4 ... xori//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
srli//4 .. srli//4 .. andi//2 22 andi//2 22 beq//2 2zn
add//2 z.. ld//2 .. addi//2 .. jalr//2r .z
ld//2 .. slli//2 .. lui//2 . add//2 232 lhu//4 1. addi//4 33
slli//2 .. add//4 .1. ld//2 1. sub//4 .11 sd//2 31 lw//2 .2
ld//2 .. addi//4 .. sd//4 .. addi//2 .. add//2 z3. addi//4 ..
fsd//4 .. fsd//4 .. fsd//4 .. fld//4 .. fld//4 .. fld//4 ..
sw//2 .. addi//2 .. addi//2 .. blt//4 2.n
mul//4 ... srli//4 1. xor//4 212 mul//4 1.1 srli//4 13 xor//4 212
srli//4 .. xor//4 .1. srli//4 12 xor//4 212
fsd//4 .. fsd//4 .. fsd//4 .. bne//4 ..n
lbu//4 .. addi//2 .. sub//4 ... slli//2 33 add//2 1.1 ld//2 11
addiw//2 .. fmul.d/7/4 ... fmul.d/7/4 ... fmul.d/7/4 ... add//2 z4. fdiv.d/7/4 ...
mulw//4 ... and//4 ... slli//2 11 add//2 1.1 srliw//4 44 slli//2 11
lw//4 .. bge//4 .1n
ld//4 .. lui//2 . add//2 1.1 ld//2 3. ld//4 22 andi//2 22
add//4 ... ld//4 1. addi//2 z. bgeu//4 12n
add//2 z.. addiw//4 .. addi//2 .. bne//4 .3n
slli//2 .. add//2 1.1 ld//2 11 jalr//2 1.
add//4 ... sub//2 ... beq//2 .zn
andi//4 .. slli//2 11 add//2 1.1 sd//2 1. lbu//4 .. sb//4 31
fld//4 .. fld//2 .. fsub.d/7/4 ... fsub.d/7/4 323 fmul.d/7/4 ..3 fmadd.d/7/4 3311
add//4 ... xori//4 .. and//2 212 and//2 1.1 beq//2 1zn
xor//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 11
mul//4 ... srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
addiw//4 .. slliw//4 .. srliw//4 2. addiw//2 22 addi//4 22 slli//2 22
addi//2 z. beq//4 ..n
add//2 z.. ld//4 .. srl//4 2.2 addi//2 .. sll//4 3.. or//4 313
fsub.d/7/4 ... addiw//2 .. fmadd.d/7/4 .... fadd.d/7/4 3.. beq//4 3.n
andi//4 .. srli//4 .. add//2 z.. add//2 z.. bne//2 4zn
add//4 ... srli//4 1. xor//4 212 mul//4 1.1 srli//4 13 xor//4 212
slli//2 .. srli//2 .. add//2 2.2 slli//2 22 lw//2 2. addi//2 22
ld//2 .. ld//2 .. ld//2 .. sub//2 323 slli//2 11 add//2 131
auipc//4 . addi//4 11 sub//4 .11 sltu//4 z11 slli//2 11 add//4 ...
addi//2 .. sd//2 1. sd//2 2. sd//2 3. sd//2 4. add//2 z..
auipc//4 . ld//4 11 bltu//4 .1n
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1 lbu//4 1. addi//2 z.
lw//2 .. addi//2 .. addiw//2 22 sw//2 .1 lbu//4 3. beq//4 1zn
xor//4 ... srli//4 1. xor//4 212 addi//4 11 srli//4 13 xor//4 212
fld//4 .. fmadd.d/7/4 .... fmadd.d/7/4 .... fmadd.d/7/4 ..3. fsd//4 .3 fsd//4 .3
auipc//4 . ld//4 11 mul//4 .11 auipc//4 . addi//4 11 add//2 z..
addi//2 .. mulw//4 ... addw//2 .1. bne//4 ..n
ld//2 .. ld//2 .. addi//4 2. slli//2 33 sd//2 .2 add//2 242
mul//4 ... addi//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
add//2 z.. add//2 z.. sub//4 ... add//2 ... beq//4 ..n
add//2 z.. slli//4 .. xor//4 1.1 srli//4 1. xor//2 212 slli//4 1.
sub//4 ... add//2 z.. bne//4 2zn
sd//2 .. andi//4 .. add//4 ... sb//4 12 beq//2 .zn
addi//2 z. slli//4 1. srli//4 12 add//4 .1. ld//4 12 addi//2 z.
addi//4 .. addi//2 z. addi//2 z. add//2 ... addi//2 z. ld//4 ..
addi//2 .. add//2 ... lbu//4 1. slli//2 .. add//2 1.1 slli//2 33
xor//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 xori//4 11
mul//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 xori//4 11
xor//2 ... slli//4 1. xor//2 121 mul//4 1.3 srli//2 11 slli//2 11
addiw//4 .. addiw//2 .. addiw//4 .. addiw//2 .. addiw//4 .. addiw//4 ..
srli//4 .. xor//4 .1. xori//4 11
ld//4 .. ld//4 ..
add//2 z..
sd//2 .. sd//2 ..
add//4 ... addi//4 .. bne//4 1zn
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1 srliw//4 .. ld//2 2.
xori//4 .. jalr//2r .z
srli//2 .. beq//2 1zn
sb//4 .. addi//2 .. bne//4 .1n
sd//2 .. sd//2 .. sd//2 .. sub//4 z.. sd//2 .. bltu//4 2.n
lbu//4 .. addi//2 .. xor//2 2.2 mul//4 1.. bne//4 3.n
addi//2 .. add//4 .1. sb//4 1. srli//2 .. beq//2 1zn
xor//2 ... mul//4 1.. addi//2 .. srli//2 22 sb//4 21 bne//4 .3n
add//4 ... add//2 1.1 add//4 ... lbu//4 22 lbu//4 22
slli//2 .. add//2 1.1 mul//4 ... add//2 z.. addi//2 .. addi//2 ..
addw//4 ... addiw//2 .. addiw//2 .. addi//2 .. add//2 z4. addw//2 ...
ld//4 .. lbu//4 .. addi//2 .. xor//2 323 mul//4 1.1 bne//4 .3n
add//2 ... add//4 ... lbu//4 22 lbu//4 22 beq//4 21n
lbu//4 .. addiw//2 11 sb//4 .1 jal//2 zn
or//4 ... srliw//4 .. xor//2 2.2 xor//4 ... srliw//4 .. xor//2 313
srli//4 .. xor//4 .1. xori//4 11 add//4 1.1 srli//4 14 xor//4 212
sd//2 .. sd//2 .. addi//4 .. addi//2 z. add//2 z.. add//2 z..
addi//4 .. srli//4 1. xor//4 212
addiw//4 .. bltu//4 .1n
lbu//4 .. addi//4 .. beq//4 2.
lw//2 .. beq//4 1zn
ld//2 .. ld//2 .. ld//2 .. beq//2 3zn
or//2 ... sd//4 .. ori//4 22 sub//2 ... sd//2 .2 ori//4 22
xor//4 ... srli//4 1. xor//4 212 add//4 1.1 srli//4 13 xor//4 212
xori//4 .. mul//4 1.1 srli//4 1. xor//4 212 xori//4 11 srli//4 13
slli//4 .. xor//4 1.1 srli//4 1. xor//2 212 slli//4 12 xor//4 21.
lbu//4 .. add//2 z.. beq//2 2zn
ld//4 .. add//2 z.. add//2 z.. add//2 z.. jalr//2 4.
xor//2 ... addiw//2 .. addiw//4 2. bne//2 2zn
ld//2 .. add//2 z.. ld//2 .. ld//2 .. ld//2 .. addi//2 ..
addi//4 .. xori//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
srli//4 .. xor//4 .1. addi//4 11 xori//4 11 srli//4 14 xor//4 212
fmul.d/7/4 ... fadd.d/7/4 .1. flt.d//4 .1. beq//2 1zn
mul//4 ... srli//4 1. xor//4 12. addi//4 .3
add//4 ... ld//2 1. addi//4 2. beq//4 12n
xor//4 ... srli//4 1. xor//4 212 xori//4 11 srli//4 13 xor//4 212
sb//4 .. addi//2 .. addi//2 .. bgeu//4 1.n
lui//2 . bgeu//4 1.n
sd//2 .. sd//2 .. sd//2 ..
srli//2 .. slli//2 11 add//4 1.. ld//2 12 bne//2 1zn
andi//4 .. slli//2 11 add//2 1.1
fmadd.d/7/4 .... fmadd.d/7/4 ..11
ld//2 .. ld//2 .. ld//2 .. ld//2 ..
lbu//4 .. lbu//4 .. addi//2 .. addi//2 .. beq//4 43n
add//2 z.. auipc//4 . addi//4 11 jal//4 .
addiw//4 .. addiw//2 .. addiw//4 .. addiw//4 .. addi//2 .. bne//4 ..n
addi//2 .. slli//2 11 add//2 1.1 addi//2 z. jal//2 zn
ld//2 .. addi//4 .. addi//2 .. add//4 3.. sb//4 1z ld//4 4.
sw//4 .. addi//4 .. addi//2 .. bne//4 .2n
addi//2 z. add//2 ... srliw//4 .. sllw//4 3.3 addi//2 z. bltu//4 .2n
sd//2 .. addi//2 z. add//2 z.. bgeu//4 2.n
lbu//4 .. addi//4 z. lbu//4 .. beq//4 32n
add//2 z.. addi//2 ..
addiw//4 .. slli//4 1. srli//4 12 add//2 1.1 jal//2 zn
lwu//4 .. slli//2 11 add//2 1.1 sd//2 .1 sd//4 .. bne//4 ..n
ld//2 .. addi//2 ..
sd//2 .. blt//4 ..n
add//4 ... ld//2 11 andi//2 11 beq//2 1zn
sw//4 .. addi//2 .. addi//2 .. bne//4 .2n
ld//2 .. sd//4 .. addi//4 .. mul//4 ... beq//4 42n
add//4 ... lbu//4 1. add//2 z.2 addi//2 ..
xor//4 ... mul//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
ld//2 .. slli//4 .. addi//2 11 add//2 313 lbu//4 12 andi//2 11
addi//2 .. auipc//4 . ld//4 11 add//2 z.. sd//2 4. ld//4 3.
addi//2 .. lbu//4 1. add//4 .2. sub//2 1.1 sb//4 13 bne//4 .5n
addiw//2 .. addiw//4 .. bne//2 2zn
andi//4 .. add//4 ... sb//4 12 beq//2 .zn
andi//4 .. add//4 .1. ld//4 .. ld//4 2. addi//4 .. srli//4 11
addi//2 .. addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 ..
add//2 ... ld//2 11 addi//2 .. jalr//2 2z
sd//4 .. sll//4 ... srl//4 ... or//4 121 addi//4 .. ld//4 .4
slli//4 .. add//2 1.1 slli//2 11 addi//4 11 addiw//2 .. lbu//4 ..
addi//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 11
or//2 ... slli//2 .. or//2 121 slli//2 .. or//2 121 mulw//4 1.1
andi//2 .. addi//2 11 srli//4 1. addi//4 .. ld//2 13 beq//2 1zn
srl//4 ... addiw//2 11 sw//4 .1 sw//2 .2 addi//4 .3 addi//2 ..
andi//4 .. bne//4 1zn
addi//2 .. sd//2 1. sd//2 2.
addi//2 z. add//2 z.. add//2 z..
blt//4 ..n
add//2 z.. add//2 z.. add//2 z.. add//2 z..
xori//4 .. srli//4 1. xor//4 212 xori//4 11 srli//4 13 xor//4 212
addi//4 .. srli//4 1. xor//4 212 add//4 1.1 srli//4 13 xor//4 212
xor//4 ... addw//2 ... xor//4 2.2 xor//4 ... addw//4 212 addw//4 4..
addi//2 .. auipc//4 . ld//4 11 ld//4 1. sd//2 41 addi//2 z2
xor//2 ... mul//4 1.. srli//2 11 slli//2 11 add//2 1.1 ld//2 11
ld//2 .. ld//2 .. ld//2 ..
sub//4 z.. jalr//2r .z
ori//4 .. sd//2 .1 sd//4 .. sd//2 .. add//2 ... sd//2 1.
srli//4 .. xor//4 .1. xori//4 11 srli//4 13 xor//4 212 addi//4 11
srli//4 .. xor//4 .1. addi//4 11 srli//4 13 xor//4 212 mul//4 1.1
lbu//4 .. addi//2 .. beq//4 2.n
andi//4 .. subw//4 z11 srliw//4 .. and//2 2.2
ld//4 .. addi//4 .. addi//2 .. sd//2 .3 ld//2 .4 ld//2 ..
fld//4 .. fsub.d/7/4 ... fld//4 .. fld//2 .. fsub.d/7/4 4.4 fsub.d/7/4 323
addi//2 .. jal//2 zn
lw//2 .. addi//2 .. add//2 ... mulw//4 3.3 addw//2 .1. bne//4 4.n
mul//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 add//4 1.1
addi//4 .. jal//4 .
addiw//2 .. addiw//4 .. addiw//2 .. addiw//4 .. addiw//4 .. addi//2 ..
addi//2 .. ld//2 .. add//2 ... bne//4 3.n
srl//4 ... sll//4 ... or//2 212 sd//2 .1 jal//2 zn
addiw//4 .. andi//4 11 bltu//4 ..n
add//4 ... lbu//4 .. lbu//4 22 beq//4 21n
sd//2 .. sd//2 .. sd//2 .. addi//2 z. add//2 z.. add//2 z..
auipc//4 . ld//4 11 auipc//4 . ld//4 11 ld//2 .. addi//4 ..
add//2 ... add//2 ... srli//4 .. xor//4 1.. bne//4 ..n
ld//2 .. slli//4 .. add//2 .1. addi//2 ..
addi//2 .. andi//4 1. bne//2 .zn
sub//4 ... srai//2 .. slli//2 .. sd//4 .3 sd//4 .3 addi//2 ..
srli//4 .. xor//4 .1. addi//4 11 srli//4 13 xor//4 212 add//4 1.1
addi//2 z. slli//2 11 add//2 z.. add//2 ... addi//4 33 auipc//4 .
xor//4 ... srli//4 1. xor//4 212 addi//4 11
add//2 ... lw//4 1. sw//2 2. sw//4 .2 bne//4 ..n
addi//4 .. srli//4 1. xor//4 212 addi//4 11 srli//4 13 xor//4 212
srli//4 .. xor//4 .1. addi//4 11
add//4 ... lbu//4 1. add//2 z.. add//2 z.. jal//4 .
add//2 z.. auipc//4 . ld//4 11 auipc//4 . ld//4 11 ld//2 5.
addiw//2 .. addiw//4 .. addiw//4 .. addi//2 .. bne//4 ..n
addi//2 .. sd//2 .. add//2 z2. add//2 z.. sd//2 .4 jal//4 .
fld//2 .. addi//2 .. addiw//2 .. fmadd.d/7/4 3..3 fsd//4 31 bne//4 3.n
ld//2 .. addi//4 .. addi//2 .. jalr//2r 3z
xor//4 ... mul//4 1.. remu//4 1.1 add//2 z1. jal//4 .n
addi//2 z. bltu//4 1.n
fld//2 .. addi//2 .. addi//2 .. fmadd.d/7/4 ..3. fsd//4 31 bne//4 4.n
ld//2 .. addi//4 .. sd//4 .. ld//4 .. addi//4 .. sd//2 45
addiw//2 .. addiw//2 .. addi//2 .. add//2 z.. addw//2 ... addiw//4 4.
addiw//2 .. addi//2 .. add//2 z.. addw//2 ... addiw//4 4. addiw//2 ..
add//2 ... sd//2 .1 ld//4 .. slli//4 13 sub//2 121 add//2 1.1
add//2 ... auipc//4 . ld//4 11 addi//2 z. ld//2 .. addi//4 ..
xor//2 ... slli//4 1. xor//2 121
andi//4 .. auipc//4 . ld//4 11 andi//4 .. mul//4 422 beq//2 2zn
fsd//4 .. fsd//4 .. fld//4 .. fld//4 .. fld//4 .. fmadd.d/7/4 ..3.
mul//4 ... addi//4 .. bne//4 1zn
sd//2 .. add//2 z..
lw//4 .. addi//2 .. addw//4 2.2 addiw//2 11 blt//4 .1n
srli//4 .. xor//4 .1. add//4 1.1 addi//4 .. bne//4 1zn
srli//4 .. xor//4 .1. addi//4 11 srli//4 13 xor//4 212 addi//4 ..
mul//4 ... srli//4 1. xor//4 212 xori//4 11 srli//4 13 xor//4 212
ld//2 .. addi//2 11
fld//4 .. fld//4 .. addi//4 .. addiw//2 .. fmul.d/7/4 3.. fmul.d/7/4 4..
xor//2 ... srli//4 1. xor//2 212 slli//4 1. xor//2 121 mul//4 1.3
addi//2 .. add//2 z.. addw//2 ... addiw//4 .. addiw//2 .. addiw//4 ..
lbu//4 .. add//2 z.. add//2 z.. jal//4 .
auipc//4 . lw//4 11 bne//2 1zn
sb//4 .. bne//4 ..n
add//4 ... lbu//4 1. lbu//4 2. lbu//4 3. lbu//4 4. slli//2 44
srliw//4 .. slli//2 11 add//2 1.1 lw//2 1. blt//4 1zn
ld//2 .. add//2 z..
srli//4 .. xor//2 .1. slli//4 1. xor//2 121 mul//4 1.3 srli//2 11
xor//4 ... xor//4 ... addw//4 212 addw//4 ... addiw//2 .. addiw//2 ..
andi//2 .. beq//2 1zn
addi//2 .. sd//2 1. sd//2 2. sd//2 3. sd//2 4.
sub//4 ... mul//4 .1. ld//2 .. ld//4 .. ld//2 .. ld//2 ..
slli//4 .. slli//4 .. add//4 2.. bgeu//4 21n
sd//4 .. sd//4 .. sw//4 .. sd//4 .. sd//4 .z addi//2 z.
srli//4 .. xor//4 .1. add//4 1.1
ld//2 .. ld//2 .. add//2 z.. add//2 z.. addi//2 z. jal//4 .
ld//4 .. srliw//4 .. andi//4 11 sd//4 .. slli//2 22 sd//4 .5
add//4 ... jalr//2 ..
addw//2 ... xor//4 ... xor//4 ... addw//4 212 addw//4 4.. addiw//2 ..
addiw//2 .. fmadd.d/7/4 .... fadd.d/7/4 ... beq//4 3.n
fadd.d/7/4 ... flt.d//4 .1. beq//2 1zn
add//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 mul//4 1.1
slli//4 .. xor//2 1.1 srli//4 1.
xori//4 .. addi//4 .. bne//4 1zn
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 xori//4 11 add//4 1.1
sd//2 .. addw//4 ... andi//4 11 subw//2 1.1 addi//4 1. sd//2 ..
auipc//4 . addi//4 11 ld//4 1. bltu//4 .1n
slli//4 .. xor//2 1.1 mul//4 1.. srli//2 11 slli//2 11 add//2 1.1
add//4 ... lbu//4 1. addi//4 .. add//4 .1. slliw//4 34 sraiw//4 11
ld//2 .. slli//4 .. add//2 .1.
andi//4 .. andi//4 .. bne//2 2zn
sd//2 .. sd//2 .. sd//2 .. sd//2 ..
addi//4 .. slli//2 11 add//2 1.1 sw//2 1. addi//2 .. addi//2 ..
slli//2 .. slli//2 .. add//2 2.2 add//2 2.2 ld//4 22 ld//2 22
lui//2 . addiw//4 .. add//2 z.. addi//2 z. bgeu//4 43n
andi//2 .. andi//4 .. mulw//4 211 addw//2 .1. bne//4 ..n
sd//4 .. jal//2 zn
xori//4 .. addi//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
xor//2 ... andi//4 1. subw//4 z11 srliw//4 33 and//2 2.2 xor//2 121
addi//2 .. srliw//4 .. sd//2 2. addw//4 2.. andi//4 11 subw//2 141
sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 .. add//2 z..
andi//4 .. add//2 z.. bne//4 2zn
sw//4 .. addiw//2 .. addi//2 .. beq//4 ..n
addi//2 .. add//2 ... mulw//4 ... addw//2 .1. bne//4 4.n
addi//2 z. addi//2 z.
sb//4 .. add//2 ... bltu//4 1.n
lbu//4 .. lbu//4 ..
mul//4 ... ld//2 .. ld//4 .. ld//2 .. ld//2 .. ld//2 ..
ld//4 .. andi//4 1. bne//2 1zn
ld//2 .. ld//2 .. srliw//4 .. addi//2 .. add//2 434 slli//2 33
andi//4 .. andi//4 .. slli//2 22 slli//2 22 addi//2 z. add//2 3.3
addi//4 .. srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
lbu//4 .. addi//2 .. addi//2 .. sb//4 13 bne//4 3.n
addi//4 .. add//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
add//2 z.. addi//2 z. jal//2 zn
ld//4 .. ld//2 .. addi//2 .. sd//4 .3 addi//2 .. jalr//2 4z
sd//2 .. ld//2 .. ld//2 .. add//2 z.. ld//2 .. addi//2 ..
ld//2 .. ld//2 .. ld//2 2. bne//4 .1n
add//4 ... mul//4 1.1 srli//4 1. xor//4 212
add//2 z.. add//2 z.. add//2 z.. jal//4 .
ld//4 .. add//2 z.. bgeu//4 .2n
lbu//4 .. addi//2 .. addi//2 .. sb//4 13 bne//4 .3n
fnmsub.d/7/4 .... fsd//4 .. fsd//4 .. fsd//4 .3 fld//4 .. fld//4 ..
addi//2 .. bne//4 .1n
lw//4 .. bltu//4 .1n
add//4 ... addi//4 11 srli//4 1. xor//4 212
fmadd.d/7/4 .... fsd//4 .. fsd//4 .. fsd//4 .3 bne//4 ..n
ld//2 .. ld//2 .. add//2 z.. ld//2 .. addi//2 .. jal//4 z
add//2 z.. beq//4 .zn
srli//4 .. xor//4 .1. addi//4 11 xori//4 11 add//4 1.1 srli//4 15
ld//2 .. sd//2 .1 lbu//4 .. sb//4 .1 beq//4 .zn
addi//2 .. bne//2 1zn
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212
xor//4 ... slli//4 1. srli//4 11 addiw//2 .. bne//2 1zn
srliw//4 .. slli//2 11 add//2 1.1 srliw//4 .. srliw//4 .. lbu//4 3.
addi//2 z. addi//2 z. addi//2 z. jal//2 zn
add//2 ... bne//4 ..
ld//2 .. ld//2 .. jal//4 z
addi//2 .. sd//4 .. add//2 z.. addi//4 .. bne//2 4zn
srliw//4 .. slliw//4 .. slliw//4 .. or//2 1.1 or//4 ... or//4 ...
add//4 ... sd//4 .1 jal//4 .n
lbu//4 .. add//2 z.. addi//2 .. bne//2 3zn
mul//4 ... xori//4 11 srli//4 1. xor//4 212 srli//4 12 xor//4 212
slli//2 .. add//2 1.1 ld//2 11 addi//2 .. jalr//2 2z
andi//4 .. slli//4 1. add//2 121 slli//4 13 add//2 121 slli//4 1.
addiw//2 .. andi//4 11 addi//2 .. bne//4 ..n
lbu//4 .. lbu//4 .. add//4 ... slli//4 3. or//2 131 sub//4 .11
lbu//4 .. addi//2 ..
add//4 ... sb//4 1. add//2 ...
sraiw//4 .. sd//4 .1 addi//2 .. addi//2 .. addi//2 .. jalr//2 .z
sd//2 .. ld//2 .. ld//2 .. sd//2 .2 beq//2 3zn
ld//4 .. ld//4 .. ld//4 ..
add//4 ... mul//4 1.1 srli//4 1. xor//4 212 add//4 1.1 srli//4 13
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212 slli//4 1.
mul//4 ... ld//4 .. addi//4 .. xor//2 .3. jal//4 .
andi//4 .. slli//2 11 add//2 1.1 ld//2 11 addi//2 ..
xor//4 ... xori//4 11 srli//4 1. xor//4 212
xor//4 ... andi//4 11 srli//4 .. srli//4 .. beq//4 3zn
add//2 z.. fld//2 1. fld//4 .. fld//2 3. fld//4 .. fsub.d/7/4 343
slli//4 .. xor//4 1.1 srli//4 1. xor//2 212 slli//4 12 xor//2 212
fmul.d/7/4 ... fmul.d/7/4 ... fadd.d/7/4 21.
add//4 ... add//2 1.1 add//4 ... lbu//4 22
andi//4 .. bne//2 1zn
ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 ..
sb//4 .. sb//4 .. addi//2 .. addiw//2 .. andi//4 11
addi//4 .. addi//4 .. addi//4 z. mul//4 232 srli//4 1. xor//4 212
add//2 ... ld//2 11 jalr//2 1.
slli//4 .. addi//2 11 add//2 1.1 addi//2 z. addi//2 .. add//2 z..
addi//2 z. add//2 z..
ld//2 .. add//2 ... bne//4 ..n
add//2 z.. fdiv.d/7/4 ... fnmsub.d/7/4 .1.. fnmsub.d/7/4 .2.. fnmsub.d/7/4 .3.. fsd//4 .3
addiw//4 .. andi//4 11 addi//2 z. bgeu//4 12n
srli//4 .. xor//4 .1. mul//4 1.1 addi//4 11 srli//4 14 xor//4 212
mul//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 11
ld//2 .. ld//2 .. ld//2 .. add//2 z.. ld//2 .. addi//2 ..
sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 .. addi//2 z.
lbu//4 .. addi//4 .. addiw//4 2. beq//4 3zn
addi//4 .. sd//4 .1 sb//4 .. sub//4 ... add//2 1.1 beq//4 1zn
ld//4 .. bltu//4 1.n
addi//2 z. addi//4 .. bltu//4 2.n
srli//4 .. xor//4 .1. addi//4 11 add//4 1.1 srli//4 14 xor//4 212
lbu//4 .. addi//4 z. bgeu//4 12n
sd//2 .. sd//2 .. sd//2 .. sd//2 .. add//2 z.. add//2 z..
sd//2 .. sd//2 .. addi//4 z. bgeu//4 1.n
sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 ..
slli//4 .. add//2 1.1 ld//2 .. ld//4 2. addi//2 z. bgeu//4 23n
srliw//4 .. andi//4 11
sltiu//4 .. add//2 1.1 sltiu//4 .. add//2 2.2 slli//2 22 add//2 212
addi//4 .. beq//4 ..n
mul//4 ... srli//2 11 slli//2 11 add//2 1.1 ld//2 11
lbu//4 .. ld//2 .. addi//2 .. slli//2 33 add//2 313 lw//2 11
xor//4 ... mul//4 1.1
ld//2 .. add//2 z.. addi//2 .. jalr//2r .z
addw//4 ... andi//4 11 subw//2 1.1 addi//4 1. sd//2 .. andi//4 ..
mul//4 ... add//4 1.1
addiw//4 .. andi//4 11 addi//2 z. bltu//4 12n
mul//4 ... srli//4 1. xor//4 212 addi//4 11 srli//4 13 xor//4 212
addi//2 .. jal//4 z
fadd.d/7/4 ... fsub.d/7/4 ... addiw//2 .. fmadd.d/7/4 3...
addi//2 .. andi//4 .. slli//2 11 add//2 1.1 ld//2 11 jalr//2 1z
lw//2 .. lw//2 .. addi//2 .. add//2 ... mulw//4 343
xor//4 ... or//4 ... or//4 ... and//4 ... and//4 ... or//4 ...
addi//2 .. addi//2 .. fmadd.d/7/4 .... fsd//4 31 bne//4 4.n
srliw//4 .. sd//2 .. addw//4 2.. andi//4 11 subw//2 141 addi//4 1.
addi//4 z. bne//4 .1n
xor//4 ... add//4 1.1
ld//4 .. add//2 z.. bltu//4 .2n
sd//2 .. sd//2 .. sd//2 .. addi//2 z. add//2 z.. bgeu//4 2.n
xori//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 11
ld//2 .. ld//4 .. xor//2 121 addi//2 z3 bne//2 2zn
addiw//2 .. addi//2 z. beq//4 21n
addi//2 .. sd//2 1. sd//2 2. add//2 z..
andi//4 .. subw//2 1.1 addi//4 1. sd//2 .. andi//4 .. add//4 3.4
addiw//4 .. lw//2 .. bgeu//4 12n
srli//4 .. xor//4 .1. mul//4 1.1 srli//4 13 xor//4 212 addi//4 11
xor//2 ... andi//4 11 slli//2 11 add//2 1.1 lw//2 11 xor//2 1.1
add//2 z.. lw//2 .. addiw//4 1. sw//2 .1 bne//2 3zn
ld//4 .. slli//2 .. addi//2 .. sub//2 323 ld//2 1. sd//4 31
addi//2 .. fmadd.d/7/4 .... fsd//4 .1 bne//4 ..n
addi//4 .. addi//4 .. bne//4 1zn
ld//2 .. slli//4 .. add//2 121 jal//2 zn
ld//4 .. add//2 z..
xor//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 ..
add//2 ... srliw//4 .. lbu//4 2. srliw//4 .. andi//4 33 slli//2 22
sub//2 ... addi//4 1. jalr//2r .z
addi//4 .. add//4 ... add//2 ... lbu//4 2. sub//4 3.. add//2 1.1
ld//2 .. add//2 z.. beq//2 2zn
add//2 z.. slli//4 .. xor//4 1.1 srli//4 1. xor//2 212 slli//4 12
addi//2 .. fsd//2 1. fsd//2 2. fsgnj.d//4 ... fmv.d.x//4 z. sd//2 5.
ld//2 .. add//2 z.. ld//2 .. addi//2 .. jal//4 z
sub//4 ... bltu//4 .1n
xori//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 add//4 1.1
slli//2 .. add//2 .1.
andi//4 .. add//2 1.1 lbu//4 1. add//2 z.2 addi//2 .. sb//4 13
and//4 ... and//4 ... or//4 ... addw//4 ... xor//4 ... addw//2 2.2
add//2 ... ld//2 11 jalr//2 1z
and//4 ... addw//4 ... xor//4 ... slliw//4 .. srliw//4 .. addw//2 4.4
ld//2 .. srliw//4 .. bne//4 .zn
addi//2 .. addw//2 ... beq//4 .2n
fsd//4 .. bne//4 ..n
ld//2 .. addi//2 .. sd//4 .. addi//2 .. jalr//2 4z
subw//4 ... andi//2 .. beq//4 ..n
fsd//4 .. fld//4 .. fld//4 .. fld//4 .. fmadd.d/7/4 ..3. fmadd.d/7/4 ..3.
xor//4 ... addi//4 11 srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
slli//2 .. add//2 1.1 lw//2 11
fld//2 .. fld//2 .. addi//2 .. addi//2 .. fmadd.d/7/4 4.34
addi//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 xori//4 11
fmul.d/7/4 ... fmul.d/7/4 ... fmul.d/7/4 ... fld//4 .. fld//4 .. addi//4 ..
slli//2 .. slli//2 .. add//2 2.2 or//4 2.2 ld//2 22 slliw//4 22
addi//4 .. addi//4 .. jal//2 zn
add//2 ... lbu//4 1. jal//2 zn
add//2 ... xor//4 1.1 mul//4 1.1 addi//4 .. srli//4 2. xor//4 13.
xor//4 ... srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
xori//4 .. srli//4 1. xor//4 212 add//4 1.1 srli//4 13 xor//4 212
add//2 ... sltu//4 1.. srli//4 .. mul//4 ... add//2 232 bgeu//4 ..n
addi//4 z. addi//2 z. addi//2 z. addi//2 z. add//2 z.. addi//2 z.
remu//4 ... slli//4 .. xor//2 .1. srli//4 12 xor//2 121 slli//4 13
ld//2 .. sd//2 .1 lbu//4 .2 sb//4 .1 bne//4 .zn
or//2 ... ld//2 .. sd//2 .2 srl//4 2.. sll//4 ... or//4 212
add//2 z.. blt//4 ..n
lbu//4 .. addi//2 .. bne//2 2zn
sd//2 .. ld//2 .. ld//2 .. addiw//4 .. add//2 z1. ld//2 .2
fsd//2 .. fsd//2 .. addi//4 .. addi//2 z. addi//2 z. addiw//4 2.
addi//4 .. addi//4 11
fmul.d/7/4 ... fmul.d/7/4 ... add//2 z.. fdiv.d/7/4 ... fnmsub.d/7/4 .1.. fnmsub.d/7/4 .2..
ld//4 .. ld//4 .. addi//2 .. lbu//4 1. bltu//4 43n
auipc//4 . ld//4 11 auipc//4 . ld//4 11 addi//2 z. jal//2 zn
andi//2 .. xor//4 ... andi//4 .. bne//2 3zn
lbu//4 .. addi//4 z. ld//2 .. addi//2 z. beq//4 43n
addi//4 .. mul//4 1.1 srli//4 1. xor//4 212 xori//4 11 srli//4 13
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 add//4 1.1 xori//4 11
srli//4 .. xor//4 .1. add//4 1.1 srli//4 13 xor//4 212 mul//4 1.1
fmul.d/7/4 ... fmadd.d/7/4 ..11 fmadd.d/7/4 ..11
add//4 ... slli//2 .. addi//4 z. ld//4 3. add//4 .3. addi//2 z.
ld//2 .. ld//2 .. sub//4 2.. slli//4 1. sb//4 .3 add//2 232
slli//4 .. xor//2 1.1 srli//4 1. xor//2 212 slli//4 12
srli//4 .. xor//4 .1. mul//4 1.1 addi//4 .. bne//4 1zn
auipc//4 . addi//4 11 addiw//2 .. add//2 121 lbu//4 11 auipc//4 4
andi//4 .. subw//4 z11 srliw//4 ..
addi//4 .. addi//4 .. addi//2 z. add//2 z3. addi//2 z. fld//2 2.
fmul.d/7/4 ... fmul.d/7/4 ...
addi//2 .. addiw//2 .. andi//4 11 addi//2 .. bne//4 .4n
addi//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 add//4 1.1
lbu//4 .. addi//2 z.
add//2 ... mulw//4 ... addw//2 .1. bne//4 ..n
xor//4 ... srli//4 1. xor//4 212
add//2 ... lw//2 11 add//2 1.1 jalr//2 1z
flw//4 .. flw//4 .. addi//2 .. add//2 ... fmadd.s/7/4 43..
add//2 z.. addi//2 .. bne//2 .zn
and//4 ... slli//2 11 add//2 1.1
add//2 z.. andi//4 1. bne//2 1zn
sb//4 .. addi//2 .. addiw//2 .. andi//4 11 addi//2 .. bne//4 .4n
addi//2 .. beq//4 .zn
andi//4 .. slli//2 11 add//2 1.1 ld//2 11
srl//4 ... sll//4 ... or//2 212 sd//2 .1 jalr//2r .z
add//4 ... sb//4 1. beq//2 .zn
sd//4 .. addi//2 ..
add//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 xori//4 11
lbu//4 .. addi//2 .. addi//2 ..
sd//2 .. sd//2 .. addi//2 .. sd//2 .1 addi//2 z. beq//4 ..n
add//4 ... srai//4 .. sb//4 2. addi//4 .. sb//4 43 jal//2 zn
xor//2 ... slli//4 1. xor//2 212 mul//4 1.. sd//2 .2 srli//2 22
addiw//2 .. add//2 z.. jal//2 zn
sll//4 ... or//2 1.1 ld//4 .. sd//2 .2 srl//4 2.3 sll//4 ...
slli//4 .. xor//2 1.1 srli//4 1. xor//4 212 slli//4 12 mul//4 ...
sd//2 .. addi//2 z. addi//2 z. beq//2 .zn
fld//2 .. fld//4 .. fld//4 .. fmul.d/7/4 3.. fmul.d/7/4 4.. fmul.d/7/4 5..
or//4 ... and//4 ... and//4 ... or//4 ... addw//4 ... xor//4 .55
xor//4 ... srli//4 1. xor//4 212 xori//4 11
srli//4 .. xor//4 .1. xori//4 11 addi//4 .. bne//4 1zn
xori//4 .. add//4 1.1
lw//4 .. addi//2 .. sd//2 1. sd//2 2. sd//2 3. sd//2 4.
lbu//4 .. addi//2 .. addi//2 .. lbu//4 2.
mul//4 ... add//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
addi//4 z. addi//2 z. auipc//4 . addi//4 11 addi//2 z. beq//4 .5n
srli//4 .. xor//4 .1. add//4 1.1 mul//4 1.1 srli//4 14 xor//4 212
ld//2 .. ld//2 .. addi//4 z. ld//4 .. sub//2 343 bge//4 31n
addi//2 .. sd//2 1. add//2 z.. add//2 z.. sd//2 4. sd//2 5.
add//2 z.. addw//2 ... addiw//4 .. addiw//2 .. addiw//4 .. addiw//2 ..
addi//2 z. ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 ..
lbu//4 .. beq//4 .1n
ld//4 .. addi//2 z. bge//4 12n
addi//2 .. beq//2 1zn
addi//4 .. addi//4 .. addi//4 z.
fld//2 .. jal//2 zn
addi//2 z. addi//4 ..
andi//4 .. mulw//4 .11 addw//2 .1. bne//4 ..n
add//2 ... bltu//4 1.n
flw//4 .. addi//2 .. add//2 ... fmadd.s/7/4 .3.. bne//4 .3n
slli//4 .. srli//4 1. addi//4 1. addi//2 .. add//4 213 ld//2 ..
addiw//4 .. addi//2 z. blt//4 .2n
and//2 ... add//2 z.. add//2 z.. add//2 z.. add//2 z.. addi//2 z.
ld//2 .. addi//4 .. lwu//4 2. bgeu//4 21n
addi//2 .. beq//4 .1n
sd//2 .. sd//2 .. sd//2 .. sb//4 .. sub//2 ... lw//4 ..
addi//2 .. addi//2 .. lbu//4 2. beq//2 .zn
fld//4 .. fld//4 ..
add//2 ... ld//4 .. ld//2 22
add//4 ... xori//4 11
addi//4 .. srli//4 1. xor//4 212 mul//4 1.1 srli//4 13 xor//4 212
sd//2 .. addi//2 z.
addi//2 .. slli//2 .. add//2 1.1 mul//4 ... slli//2 .. add//2 1.1
fmadd.d/7/4 .... fadd.d/7/4 ... beq//4 ..n
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 mul//4 1.1 addi//4 11
addi//4 .. mul//4 1.1 xori//4 11 srli//4 1. xor//4 212 srli//4 12
lw//4 .. bne//4 1zn
addi//2 .. slli//4 1. ld//4 .. add//2 2.2 ld//4 1. sd//2 23
ld//4 .. addi//2 .. addi//2 .. beq//2 3zn
andi//4 .. slli//2 11
srl//4 ... sll//4 ... or//2 121 ld//2 .3 sd//2 .2 srl//4 2.3
lw//4 .. bne//4 1.n
addiw//2 .. addi//2 .. add//4 ... bne//4 3zn
subw//2 ... addi//4 1. sd//2 .. andi//4 .. add//4 3.4
addi//4 .. add//2 1.1 addi//2 z. srli//4 11 slli//2 33 srli//4 ..
addi//2 z. add//2 z.. jal//4 .
sub//2 ... divu//4 1.. and//4 ... remu//4 3.3 mul//4 3.. slli//2 22
srliw//4 .. srliw//4 ..
lw//4 .. beq//4 1zn
xori//4 .. srli//4 1. xor//4 212 addi//4 11 srli//4 13 xor//4 212
slliw//4 .. addi//4 z. addi//2 z. subw//4 232 slli//2 .. andi//4 .5
xor//4 ... srli//4 1. xor//4 212 addi//4 11 addi//4 11 srli//4 14
srli//4 .. xor//4 .1. mul//4 1.1 add//4 1.1 srli//4 14 xor//4 212
add//4 ... lbu//4 1. add//2 z.2
add//2 ... add//2 z.. sub//4 2.. srli//4 1. andi//4 .4 andi//4 2.
addi//2 z. jal//4 .
mulw//4 ... sraiw//4 1. sraiw//4 22 andi//2 22 andi//4 22 mulw//4 211
sub//4 ... addi//4 .. addi//2 .. jalr//2 .z
sd//2 .. sd//2 .. addi//2 z. add//2 z.. bgeu//4 2.n
addiw//4 .. addiw//4 .. bne//4 ..n
ld//4 .. ld//4 .. beq//4 ..n
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 addi//4 11 add//4 1.1
srli//4 .. xor//4 .1. mul//4 1.1 mul//4 1.1 srli//4 14 xor//4 212
slli//2 .. add//2 ... add//2 2.2 ld//4 22 ld//2 22 addi//2 ..
ld//2 .. addi//2 .. sd//2 .. addi//2 .. addi//2 .. bne//2 4zn
add//2 z.. lbu//4 .. slli//4 1. add//2 1.1 lhu//4 11 and//4 1.1
add//2 ... add//2 ... ld//4 22 ld//2 22 addi//2 .. sd//4 .3
srli//4 .. andi//4 1. srli//4 .. add//4 1.. add//4 .3. add//2 z1.
lbu//4 .. addi//2 .. xor//2 2.2 mul//4 1.. bne//4 .3n
addi//2 z. bgeu//4 ..n
addi//2 .. slli//2 .. add//2 1.1 ld//2 11 addi//2 .. jalr//2 2z
ld//4 .. add//2 z.. addi//4 .. addi//4 .. addi//2 .. jal//2 zn
sltiu//4 .. add//2 1.1 jalr//2r .z
lw//4 .. lbu//4 .. addiw//2 22 sw//4 .1 bne//2 3zn
ld//2 .. addi//4 ..
addiw//4 .. andi//4 11 bgeu//4 .1n
add//4 ... add//4 .1. lbu//4 1. ld//4 .. add//2 z.. sb//4 4z
xor//4 ... srli//4 1. xor//4 212 mul//4 1.1
ld//4 .. sd//4 .. addi//4 z. sd//2 3. bgeu//4 2.n
slli//2 .. or//4 1.1 slli//2 .. or//4 121 slli//2 .. or//2 121
add//2 z.. bne//2 .zn
sd//4 .. sd//4 ..
add//2 z.. ld//2 .. ld//2 .. addi//4 .. add//2 z.. ld//2 ..
or//4 ... or//4 ... and//4 ... and//4 ... or//4 ... addw//4 ...
slli//2 .. add//2 1.1 ld//2 11 addi//2 .. jalr//2 2.
ld//2 .. srliw//4 .. andi//4 11 ld//2 33 slli//2 22 add//2 1.1
addi//4 z. srl//4 .1. addiw//2 11 sw//4 .1 sw//2 .2 addi//4 .3
xori//4 .. mul//4 1.1 addi//4 .. bne//4 1zn
add//4 ... lbu//4 1.
add//4 ... lbu//4 1. add//4 ..2 addi//2 .. sb//4 23 bne//4 2.n
addiw//4 .. sll//4 .1. or//4 .1. addiw//2 .. addi//2 z. beq//4 .zn
xor//4 ... srli//4 1. xor//4 212 addi//4 11 addi//4 .. bne//4 1zn
xori//4 .. srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
ld//4 .. add//2 z.. add//2 z.. add//2 z.. add//2 z.. add//2 z4.
sraiw//4 .. addi//2 .. srliw//4 22 sd//2 2. addw//4 2..
mul//4 ... srli//4 1. xor//4 212 addi//4 11 addi//4 11 srli//4 14
lw//2 .. add//2 z.. add//2 z.. bge//4 ..n
add//4 ... sb//4 1.
lbu//4 .. addi//2 .. xor//4 2.2 mul//4 1.. bne//4 3.n
ld//4 .. add//2 z.. add//2 z.. add//2 z.. sd//2 .3 jalr//2 5.
sd//2 .. sd//2 .. add//2 z..
remu//4 ... addi//2 .. slli//2 22 add//2 1.1 lw//4 1. sw//4 .1
addi//4 z. addi//2 z.
lbu//4 .. addi//2 .. slli//2 .. slli//2 33 add//2 2.2 add//2 2.2
addiw//4 .. sw//2 .1 beq//2 .zn
xor//4 ... addi//4 11
addi//2 .. bne//2 .zn
addi//2 .. addi//2 .. mulw//4 ... sraiw//4 1. sraiw//4 22 andi//2 22
ld//4 .. ld//2 .. ld//2 .. sd//4 .. sd//4 .4 ld//2 ..
mul//4 ... ld//4 .. add//2 1.1 addi//2 .. addiw//4 1. srli//2 55
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 xori//4 11 xori//4 11
srli//4 .. xor//4 .1. xori//4 11 mul//4 1.1 srli//4 14 xor//4 212
add//2 ... ld//2 11 addi//2 .. jalr//2 2.
add//2 z.. bgeu//4 ..n
srli//4 .. xor//4 .1. add//4 1.1 xori//4 11 xori//4 11 mul//4 1.1
mul//4 ... add//2 z.. add//2 z.. jal//4 .
andi//4 .. slli//2 11 add//2 1.1 lw//2 1. add//2 z.2 addi//2 ..
lh//4 .. lh//4 .. addi//2 .. addi//2 ..
lbu//4 .. lbu//4 .. beq//2 2zn
xor//4 ... mul//4 1.. auipc//4 . addi//4 11 ld//4 .. add//2 z..
xor//4 ... addi//2 .. addi//2 .. mul//4 3.. srli//2 .. sh//4 41
slli//4 .. xor//2 1.1
addi//2 .. add//2 ... fmadd.s/7/4 .... bne//4 .3n
ld//2 .. add//2 z.. ld//2 .. ld//2 .. ld//2 .. ld//2 ..
ld//2 .. ld//2 .. add//2 z.. ld//2 .. addi//2 .. jalr//2r .z
slli//2 .. or//2 1.1 ori//4 11 sd//2 .1 ori//4 .2 sd//2 .1
addi//4 .. addi//4 z. addi//4 .. add//4 ... bge//4 34n
xor//4 ... andi//2 11 srli//4 .. srli//4 .. beq//2 3zn
lw//4 .. addi//2 z. sd//4 .. sh//4 .. sh//4 .3 sd//4 ..
sb//4 .. addi//2 .. bne//4 1.n
addiw//2 .. addi//2 .. bge//4 2.n
fadd.d/7/4 ... fsub.d/7/4 ... addiw//2 ..
sd//4 .z sd//4 .z auipc//4 . addi//4 11 sub//4 .11 sltu//4 z11
add//4 ... sd//4 .1 sd//4 .2 sd//4 .3 sub//4 ... sd//4 5.
add//4 ... add//2 1.1 add//4 ...
lbu//4 .. addi//4 .. beq//4 2.n
ld//2 .. sub//2 .1. ld//2 1. add//2 .3. andi//2 22 bne//4 15n
ld//2 .. ld//2 .. xor//2 121 addi//2 z3 bne//2 2zn
ld//2 .. add//2 z.. addi//2 z. lbu//4 3. beq//2 1zn
fld//2 .. fld//2 .. fld//4 .. fld//4 .. fld//4 .. fld//4 ..
lw//4 .. addi//2 ..
ld//4 .. ld//2 .. add//2 ... andi//4 .. addi//4 11 add//2 z3.
srli//4 .. xor//4 .1. add//4 1.1 srli//4 13 xor//4 212 xori//4 11
srli//4 .. xor//4 .1. addi//4 11 srli//4 13 xor//4 212 xori//4 11
srli//4 .. xor//4 .1. xori//4 11 srli//4 13 xor//4 212 mul//4 1.1
divu//4 ... ld//4 .. srli//4 1. remu//4 ... mul//4 4.. slli//2 22
sd//2 .. sd//2 .. sd//2 .. sd//2 .. sd//2 .. fsd//2 ..
addiw//4 .. addiw//4 .. addi//2 .. bne//4 ..n
xor//2 ... srli//4 1. xor//2 212 slli//4 12 xor//2 121 mul//4 1.3
addi//4 z. addi//2 z. add//2 2.2 lw//2 1. sub//4 3.. sltu//4 z11
xori//4 .. xori//4 11 srli//4 1. xor//4 212
flt.d//4 ... beq//2 1zn
addi//2 .. slli//2 .. slli//2 .. add//2 2.2 add//2 2.2 ld//4 22
addi//2 z. srli//4 11 slli//2 .. addi//2 z. add//2 z.. add//4 3..
mul//4 ... srli//2 11 slli//2 11 add//2 1.1
sb//4 .. sb//4 .. addi//2 .. addiw//2 ..
srli//4 .. xor//4 .1. mul//4 1.1 srli//4 13 xor//4 212 xori//4 11
andi//4 .. addi//2 .. bne//4 ..n
add//2 z.. add//2 z.. addi//2 z.
ld//4 .. auipc//4 . ld//4 11 auipc//4 . ld//4 11 sub//4 131
add//2 z.. jalr//2 ..
sraiw//4 .. sraiw//4 .. andi//2 22 andi//4 22 mulw//4 211 addw//2 .1.
sd//2 .. addi//4 .. beq//4 .1n
lw//2 .. addi//2 ..
srliw//4 .. andi//4 11 slli//2 11
fld//4 .. addi//4 .. addiw//2 .. fmul.d/7/4 3.. fmul.d/7/4 4.. fmul.d/7/4 5.5
lw//2 .. srl//4 .11 xor//2 .1. jal//2 zn
srl//4 ... andi//4 1. bne//4 1zn
addi//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 ..
add//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 ..
sd//2 .. sd//2 .. lh//4 .. add//2 z.. add//2 z.. add//2 z..
andi//2 .. addi//4 .. sub//4 .2. addi//2 z. add//2 z3. jal//4 .n
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 mul//4 1.1 add//4 1.1
addi//4 .. srli//4 1. xor//4 212 add//4 1.1 add//4 1.1 srli//4 14
mul//4 ... mul//4 1.1 srli//4 1. xor//4 212 addi//4 11 srli//4 13
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 mul//4 1.1 mul//4 1.1
ld//2 .. ld//4 .. addi//2 z. add//2 z.. add//2 z.. jalr//2 4.
fld//2 .. fld//2 .. addi//2 ..
sd//2 .. add//2 z.. add//2 z.. srli//2 .. addi//2 z. add//2 ...
ld//4 .. ld//2 .. beq//4 ..n
mul//4 ... mul//4 1.1 addi//4 .. bne//4 1zn
add//4 ... add//4 1.1 srli//4 1. xor//4 212 srli//4 12 xor//4 212
xor//4 ... addw//4 .1. addw//4 ... addiw//2 .. addiw//2 .. addi//2 ..
addw//2 ... bne//4 ..n
addi//2 z. addi//4 z. bne//4 .zn
lw//2 .. lw//2 .. sltu//4 12. sltu//4 323 subw//2 212
mul//4 ... addiw//2 .. slliw//4 1. sd//4 .. addi//2 .. srli//2 55
xor//2 ... mul//4 1.1 bne//4 ..n
sb//4 .. addi//2 .. addiw//2 .. andi//4 11 addi//2 .. bne//4 4.n
xori//4 .. addi//4 11 addi//4 .. bne//4 1zn
srli//4 .. andi//4 11 beq//4 1zn
lh//4 .. addi//2 .. addi//2 .. mulw//4 3.3 sraiw//4 1. sraiw//4 22
addi//2 .. sd//4 .. addi//2 .. jalr//2 .z
addi//4 .. sd//2 .1 sb//4 .. sub//4 ... add//2 1.1 beq//4 1z
add//2 ... sub//2 1.1 srli//4 1. beq//4 1zn
addiw//2 .. addi//2 .. jalr//2r .z
lbu//4 .. addi//2 .. add//4 .1. sb//4 13
addi//4 .. mul//4 1.1 addi//4 .. bne//4 1zn
addi//4 .. andi//2 .. addi//4 .. sub//4 323 addi//2 z. add//2 z3.
add//4 ... srli//4 1. xor//4 212 xori//4 11 srli//4 13 xor//4 212
addi//4 z.
addi//4 .. srli//4 1. xor//4 212 addi//4 11
sltu//4 ... sltu//4 ... subw//2 212 jalr//2r .z
fld//2 .. fld//2 .. addi//2 .. addi//2 ..
lbu//4 .. slli//4 .. add//2 1.1 addiw//4 33 slli//2 22 andi//4 2.
ld//2 .. jal//2 zn
addw//4 ... xor//4 ... slliw//4 .. srliw//4 .. addw//2 4.4 xor//4 ...
andi//4 .. sd//4 .1 ld//4 .. sd//4 .. addi//4 z. sd//2 3.
mul//4 ... add//4 1.1 xori//4 11 mul//4 1.1 addi//4 11 addi//4 11
xor//4 ... xori//4 11 srli//4 1. xor//4 212 xori//4 11 srli//4 13
add//4 ... add//4 1.1 srli//4 1. xor//4 212 addi//4 11 srli//4 13
add//4 ... addi//4 11 addi//4 11 srli//4 1. xor//4 212 add//4 1.1
addi//4 .. ld//2 1. ld//2 2. ld//2 3. ld//2 4. ld//2 5.
slli//2 .. or//2 1.1 sd//4 .1 addi//2 .. sub//4 ... addi//2 ..
remu//4 ... addi//2 .. add//2 z.. add//2 3.3 lbu//4 11 divu//4 ...
add//2 ... ld//2 1.
lbu//4 .. addi//4 .. slli//2 22 add//2 1.1 ld//2 11 jalr//2 1z
addi//2 .. addi//2 .. sd//2 2.
ld//4 .. beq//4 1.n
and//4 ... xor//4 ... srliw//4 .. slliw//4 .. srliw//4 .. slliw//4 ..
slliw//4 .. srliw//4 .. addw//2 ... xor//4 ... or//4 ... or//4 ...
srli//4 .. xor//4 .1. mul//4 1.1 xori//4 11 srli//4 14 xor//4 212
srli//4 .. xor//4 .1. addi//4 11 addi//4 11 srli//4 14 xor//4 212
sd//4 .. addi//2 .. bne//4 ..n
sraiw//4 .. addi//2 .. srliw//4 22 sd//2 2.
add//2 z.. ld//4 .. sll//4 2.2 addi//2 .. srl//4 3.. or//4 313
lw//4 .. beq//4 1.n
sd//4 .. sd//4 .. sd//4 .. sd//4 .. sd//4 .. sd//4 ..
lbu//4 .. addi//2 .. addi//2 .. lbu//4 1. beq//2 4zn
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 srli//4 12
mul//4 ... srli//2 11 slli//2 11
ld//2 .. slli//4 ..
addi//4 .. add//2 1.1 add//2 z.. jal//2 zn
andi//4 .. srliw//4 .. slli//2 22 slli//2 22 addi//2 z. add//2 3.3
lbu//4 .. lbu//4 .. addi//2 .. slli//2 33 slli//2 33
add//2 ... ld//2 .. add//2 z2. ld//2 .3 addi//2 ..
ld//4 .. addi//4 ..
add//2 ... fmadd.s/7/4 .... bne//4 ..n
addi//2 .. sd//2 .1 addi//2 z. beq//4 ..n
addi//2 .. addiw//2 .. andi//4 11 addi//2 .. bne//4 4.n
lw//2 .. lw//2 .. xor//4 ... xor//2 131 xor//2 313 bne//4 ..n
add//2 z.. addi//2 .. slli//2 .. add//2 1.1 ld//2 11 addi//2 ..
lh//4 .. addi//2 .. addi//2 .. mulw//4 .3. addw//2 .1. bne//4 4.n
addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 ..
ld//4 .. addi//4 z. add//2 z.. add//2 z.. jalr//2 4.
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 mul//4 1.1 xori//4 11
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 addi//4 11 addi//4 11
srli//4 .. xor//4 .1. addi//4 11 srli//4 13 xor//4 212 addi//4 11
ld//2 .. addi//4 z. remu//4 212 addi//2 z2 slli//2 22 sw//2 12
mul//4 ... addi//4 11 srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
addi//2 .. sd//2 1. sd//2 2. add//2 z.. bne//2 .zn
ld//4 .. ld//4 .. xor//2 121 addi//2 z3 bne//4 2zn
sub//4 ... addi//2 z. add//4 .1. lbu//4 1. add//2 z.. add//2 z..
ld//2 .. addi//4 .. ld//4 2. beq//4 1zn
slli//2 .. add//4 1.. andi//2 .. andi//4 .. add//4 32. beq//2 3zn
srli//4 .. xor//4 .1. addi//4 11 xori//4 11 mul//4 1.1 srli//4 15
srli//4 .. xor//4 .1. add//4 1.1 mul//4 1.1 addi//4 11 mul//4 1.1
srli//4 .. xor//4 .1. srli//4 12
addi//4 .. addi//4 ..
sltiu//4 .. ld//2 .. sw//4 .2 ld//2 .. addi//2 z. addi//2 ..
add//4 ... srli//4 1. xor//4 212 add//4 1.1 addi//4 11 srli//4 14
sd//4 .z sd//4 .z sd//4 .z sd//4 .z sd//4 .z sd//4 .z
srl//4 ... sd//4 .1 addi//2 .. addi//2 .. bne//4 .2n
sub//4 ... add//2 z.. bltu//4 2.n
sd//2 .. sd//2 .. addiw//2 .. sd//2 .z add//2 z.. beq//4 3zn
lbu//4 .. lbu//4 .. lbu//4 .. slli//2 33 slli//2 33
addi//4 .. addi//4 .. addi//4 z. add//4 232 srli//4 1. xor//4 212
srli//4 .. xor//4 .1.
fld//2 .. fld//2 .. fld//2 .. fld//2 .. fld//2 .. addi//2 ..
addi//4 .. addi//4 .. addi//4 z. xori//4 22 srli//4 1. xor//4 212
andi//4 .. addi//2 11 bne//4 1.n
srliw//4 .. slli//4 1. addiw//2 22 slli//4 1. srli//4 12 add//4 .1.
xori//4 .. xori//4 11 addi//4 .. bne//4 1zn
xor//4 ... addi//4 11 addi//4 .. bne//4 1zn
addi//4 .. addi//4 .. andi//2 22 addi//4 .. sub//4 323
ld//4 .. beq//4 1zn
ld//2 .. addi//2 z.
addi//2 z. addi//2 z. ld//2 .. andi//4 1. add//4 .1. bgeu//4 .2n
addw//2 ... sw//2 .1 lbu//4 .. addi//2 .. bne//2 2zn
fadd.d/7/4 ... beq//4 ..n
addi//2 z. andi//4 .. add//2 z.. add//2 z.. addi//4 z. addi//2 z.
sb//4 .. sb//4 .. addi//2 ..
ld//4 .. add//2 z.. add//2 z.. jalr//2 3.
add//4 ... srli//4 1. xor//4 212 mul//4 1.1 addi//4 11 srli//4 14
addi//4 .. bgeu//4 .1n
addi//2 .. add//4 .1. sb//4 1. bne//4 .3n
or//4 ... slliw//4 .. or//4 ... or//4 2.2 xori//4 .. xor//4 353
addi//2 .. ld//2 .. ld//2 .. bne//2 3zn
srli//2 .. sb//4 .1 bne//4 ..n
slli//4 .. add//2 z.. add//2 2.2 sd//2 .. addi//2 .. bne//4 13n
lbu//4 .. beq//4 1zn
andi//4 .. subw//4 z11
ld//2 .. ld//2 .. addi//2 .. lbu//4 1. bltu//4 43n
or//4 ... beq//4 1.n
lw//2 .. sb//4 .z addiw//4 2. sw//2 .1 beq//4 4zn
lw//2 .. addi//2 .. andi//4 2. slli//2 11 add//2 1.1
addi//2 .. lbu//4 .. beq//2 .zn
addi//2 .. sd//2 .. jal//4 .n
xor//4 ... slliw//4 .. srliw//4 .. addw//2 ... xor//4 ... or//4 ...
sd//2 .. addi//2 z. add//2 z.. sb//4 .2 addi//2 .. jal//4 z
add//2 z.. addi//2 z.
slli//2 .. add//2 1.1 lw//2 11 add//2 1.1
lbu//4 .. lbu//4 .. addi//2 .. slli//2 33
sd//4 .. addi//2 z. addi//2 z1 add//2 z.. add//2 z.. add//2 z..
sb//4 .. sb//4 ..
add//4 ... mul//4 1.1 srli//4 1. xor//4 212 mul//4 1.1 srli//4 13
add//4 ... mul//4 1.1 srli//4 1. xor//4 212 xori//4 11 srli//4 13
srli//4 .. xor//4 .1. add//4 1.1 srli//4 13 xor//4 212 add//4 1.1
add//4 ... xori//4 11 addi//4 11 srli//4 1. xor//4 212 srli//4 12
addi//4 .. sub//4 ... addi//2 z. add//2 z3. jal//4 .n
addi//4 .. addi//4 .. addi//4 z. srli//4 2. xor//4 313 addi//4 11
addi//4 .. addi//4 .. addi//4 z. srli//4 2. xor//4 313 xori//4 11
ld//2 .. add//2 z.. ld//2 .. addi//2 .. jalr//2r 4z
addi//4 .. beq//4 .1n
flw//4 .. flw//4 .. addi//2 .. add//2 ...
addi//4 .. add//2 z..
add//4 ... add//2 1.1
srli//4 .. xor//4 .1. addi//4 11 addi//4 .. bne//4 1zn
auipc//4 . ld//4 11 sd//2 .. sd//2 .. sd//2 .. sd//2 ..
ld//2 .. addi//2 z. ld//2 .. addi//4 3. bgeu//4 31
sub//4 ... addi//4 z. bge//4 12n
addi//2 .. addi//4 1. sd//2 2. sd//2 3. sd//2 4. sd//2 5.
ld//2 .. addiw//2 .. addi//2 ..
mul//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 mul//4 1.1
lw//2 .. lw//2 ..
andi//4 .. add//2 .1. andi//2 .. add//2 3.3 beq//2 2zn
lbu//4 .. ld//4 .. ld//4 .. slli//2 33 add//2 1.1
ld//4 .. ld//4 .. bgeu//4 21n
ld//2 .. addiw//4 .. jal//2 zn
ld//2 .. ld//2 .. add//2 z.. ld//2 .. xor//2 434 xor//2 1.1
slli//4 .. xor//2 1.1 srli//4 1. xor//4 212 mul//4 ... slli//4 23
add//2 z.. slli//4 .. add//4 .1. sd//2 13 addi//2 z2 addi//4 ..
mul//4 ... add//4 1.1 srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
xor//4 ... xori//4 11 mul//4 1.1 srli//4 1. xor//4 212 add//4 1.1
xori//4 .. xori//4 11 add//4 1.1 xori//4 11 srli//4 1. xor//4 212
addi//4 .. add//4 1.1 mul//4 1.1 srli//4 1. xor//4 212 srli//4 12
mul//4 ... add//4 1.1 mul//4 1.1 srli//4 1. xor//4 212 srli//4 12
add//2 z.. add//2 z.. addi//2 z. lw//2 2. lw//2 4. addi//2 44
subw//4 ... jalr//2r .z
addi//4 .. xori//4 11 addi//4 11 addi//4 .. bne//4 1zn
lw//2 .. lw//2 .. addi//2 ..
add//4 ... add//2 1.1 sb//4 1. addi//2 .. bne//4 1.n
add//2 z.. ld//2 ..
addi//4 .. bgeu//4 ..n
addi//4 .. sd//4 .1 ld//4 .2 lbu//4 .. addi//2 .. add//2 .3.
sd//2 .. sd//2 .. sd//2 .. addi//2 z. andi//4 .. add//2 z..
and//4 ... or//4 ... addw//4 ... xor//4 ... addw//2 2.2 xor//4 242
add//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 11
mul//4 ... xori//4 11 srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
sd//4 .z sd//4 .. sd//4 .. sd//2 .. addi//2 .. jal//2 zn
and//2 ... or//4 1.1 sw//4 .1 bne//4 ..n
sd//4 .. addi//2 .. jalr//2 .z
xor//4 ... addi//4 11 srli//4 1. xor//4 212 mul//4 1.1 mul//4 1.1
add//2 ... ld//4 .. ld//2 22 addi//2 .. sd//4 .3
add//4 ... srliw//4 .. srliw//4 .. lbu//4 3. slli//2 33 andi//4 33
xori//4 .. mul//4 1.1 srli//4 1. xor//4 212
ld//2 .. sb//4 1z ld//2 .. ld//4 .3 xor//2 121 addi//2 z3
ld//4 .. srliw//4 .. srliw//4 .. andi//4 22 andi//4 22 slli//4 2.
ld//2 .. ld//2 .. addi//2 .. sd//2 1. sd//2 2. sd//2 3.
add//2 ... jal//2 zn
sd//4 .. bne//4 ..n
sd//2 .. addi//2 .. sd//2 .1 addi//2 z. beq//4 ..n
ld//2 .. addi//2 z. slli//2 11 and//2 131 bne//2 1zn
addi//4 .. addi//4 .. addi//4 z. addi//4 22 srli//4 1. xor//4 212
add//4 ... ld//4 1. add//4 ..2 ld//2 11 add//2 3.3 add//4 ...
sraiw//4 .. andi//2 .. andi//4 22 mulw//4 211 addw//2 .1.
addi//4 .. mul//4 1.1 srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
srli//4 .. and//4 ... addi//2 z. slli//2 .. ld//2 .. addi//2 ..
auipc//4 . ld//4 11 ld//4 .. ld//2 2. xor//2 121 addi//2 z3
addi//4 .. bltu//4 1.n
add//2 z.. add//2 z.. sd//2 .. jal//4 .
addi//2 .. sd//2 1. jal//4 .
addi//4 .. addi//4 11 add//4 1.1 addi//4 11 srli//4 1. xor//4 212
xor//4 ... mul//4 1.1 xori//4 11 xori//4 11 srli//4 1. xor//4 212
sub//4 ... sub//2 ... lbu//4 .. lbu//4 .. srai//4 44 srai//2 44
sd//2 .. jalr//2r .z
add//2 ... ld//2 .. add//2 z2. ld//2 .3
srl//4 ... andi//4 1. addiw//4 .. beq//2 2zn
xor//4 ... xori//4 11
add//2 ... addw//2 ... sd//2 21 addi//2 z2 sb//4 41 beq//4 .zn
mul//4 ... srli//4 1. xor//4 212 srli//4 12 xor//4 212 addi//4 ..
sub//4 ... lbu//4 .. addi//2 .. add//4 .1. sb//4 13 bne//4 53n
auipc//4 . addi//4 11 srli//2 .. slli//2 11 add//2 131 ld//4 1.
add//2 z.. addi//4 z. addi//2 z. beq//4 ..n
fsqrt.d/7/4 .. ld//2 .. addi//2 z. addi//2 z. sb//4 32 fsd//2 45
sd//2 .. sd//2 .. sd//2 .. addi//2 .. sd//2 .1 addi//2 z.
addi//4 .. addi//4 .. addi//4 z. srli//4 2. xor//4 313 mul//4 151
srliw//4 .. andi//4 11 lui//2 . slli//2 22 srliw//4 .. addiw//2 33
andi//4 .. sub//4 .1. sub//4 .2. sub//4 2.. add//2 z3. addi//2 11
addi//4 .. addi//2 z. slli//2 .. add//2 131 ld//2 11 addi//4 z5
fsub.d/7/4 ... jal//4 .n
xor//4 ... xori//4 11 xori//4 11 srli//4 1. xor//4 212 mul//4 1.1
xori//4 .. srli//4 1. xor//4 212 addi//4 11 add//4 1.1 add//4 1.1
add//4 ... add//4 1.1 addi//4 11 srli//4 1. xor//4 212 add//4 1.1
mul//4 ... srli//4 1. xor//4 212 xori//4 11 mul//4 1.1 srli//4 14
add//4 ... srli//4 1. xor//4 212 addi//4 11 add//4 1.1 addi//4 11
fdiv.d/7/4 ... fnmsub.d/7/4 .1.. fnmsub.d/7/4 .2.. fnmsub.d/7/4 .3.. fsd//4 .3 fsd//4 .3
lbu//4 .. lbu//4 .. andi//2 22 slliw//4 2. sraiw//4 11 bne//4 3zn
add//2 ... lw//4 1. sw//4 .1 sw//4 3. bne//4 ..n
ld//4 .. slli//2 .. add//2 212 lw//2 12 addiw//4 12 andi//4 11
xor//4 ... addi//4 11 xori//4 11 add//4 1.1 xori//4 11 srli//4 1.
lw//2 .. lw//2 .. sltu//4 12. sltu//4 323
ld//2 .. ld//4 .. addi//4 .. add//2 z.. addi//4 .. jal//2 zn
lw//2 .. addiw//4 1. sw//2 .1 bne//2 3zn
lbu//4 .. lbu//4 .. lbu//4 .. slli//2 33
ld//2 .. ld//2 .. addi//4 z. addi//2 33 addiw//2 33 add//2 z2.
addi//2 z. beq//2 .zn
lbu//4 .. lbu//4 .. slli//2 .. slli//2 33 add//2 2.2 add//2 2.2
addi//2 .. addi//2 .. mulw//4 ... addw//2 .1. bne//4 4.n
lbu//4 .. lbu//4 .. lbu//4 ..
sb//4 .. beq//2 .zn
addi//4 .. srli//4 1. xor//4 212 srli//4 12 xor//4 212 mul//4 1.1
flw//4 .. flw//4 .. addi//2 ..
sd//4 .. addi//2 .. addi//2 z. ld//4 .. addi//2 .. bne//4 43n
subw//2 ... addi//4 1. sd//2 .. andi//4 ..
xor//4 ... addi//4 11 xori//4 11 addi//4 .. bne//4 1zn
xori//4 .. xori//4 11 addi//4 11 srli//4 1. xor//4 212 srli//4 12
ld//2 .. srli//4 .. addiw//2 .. xor//2 323 sd//2 .1 sh//4 .3
fdiv.d/7/4 ... addi//2 z. addi//2 .. sb//4 .2 fsd//2 .4 jal//4 z
srl//4 ... sll//4 ... or//4 212 beq//4 1.n
addi//2 .. sd//2 .1 ld//2 .. slli//4 13 xor//2 121 srli//4 13
sd//2 .. jal//2 zn
add//4 ... ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 ..
srli//4 .. xor//4 .1. addi//4 11 add//4 1.1 addi//4 11 srli//4 15
ori//4 .. sb//4 .1 jal//2 zn
addi//2 z. jalr//2r .z
srliw//4 .. andi//4 11 slli//2 11 add//2 1.1 srliw//4 ..
mul//4 ... add//2 ... bgeu//4 ..n
xor//4 ... mul//4 1.1 xori//4 11 srli//4 1. xor//4 212 addi//4 ..
add//4 ... srli//4 1. xor//4 212 addi//4 11 srli//4 13 xor//4 212
andi//2 .. add//4 1.. ld//2 .. ld//2 .. ld//2 .4
add//2 z.. lbu//4 .. addi//2 z. ld//4 3. andi//4 3. add//2 z..
lbu//4 .. lbu//4 .. addi//2 ..
add//2 z.. sd//4 1. jal//2 zn
lw//2 .. add//2 1.1 jalr//2 1z
auipc//4 . ld//4 11 bne//2 1zn
sd//2 .. addi//2 .. bne//4 1.n
xor//4 ... addi//4 11 addi//4 11 mul//4 1.1 srli//4 1. xor//4 212
xor//4 ... xori//4 11 addi//4 11 srli//4 1. xor//4 212 add//4 1.1
xor//4 ... mul//4 1.1 add//4 1.1 add//4 1.1 srli//4 1. xor//4 212
add//4 ... add//4 1.1 add//4 1.1 add//4 1.1 srli//4 1. xor//4 212
mul//4 ... addi//4 11 mul//4 1.1 srli//4 1. xor//4 212 xori//4 11
xor//4 ... addi//4 11 srli//4 1. xor//4 212 addi//4 11 srli//4 13
add//4 ... xori//4 11 srli//4 1. xor//4 212 add//4 1.1 xori//4 11
ld//2 .. ld//2 .. addi//2 .. ld//2 33 sd//2 2. sd//2 3.
addi//4 z. jal//2 zn
srli//4 .. xor//4 .1. mul//4 1.1 addi//4 11 addi//4 .. bne//4 1zn
lw//4 .. addiw//4 1. beq//4 2zn
addi//2 .. addi//2 .. addi//2 .. sd//4 3. jalr//2 .z
addi//2 z. addi//2 z. addi//2 z. addi//2 z. addi//2 z. addi//2 z.
lbu//4 .. addi//2 .. xor//2 .2. mul//4 1.1
add//2 ... bne//4 .1n
addi//4 .. lhu//4 1. addi//2 22 addw//2 2.2 sh//4 21 bne//4 .3n
xor//2 ... addi//2 z. mul//4 2.. bne//4 .zn
addi//2 .. slli//4 1. slli//4 2. add//2 2.2 addi//2 22 ld//4 2.
lbu//4 .. sb//4 .1 jal//2 zn
sd//2 .. jal//4 .n
sub//2 ... andi//4 .. srli//4 .. add//2 z.. add//2 z4. beq//2 4zn
add//2 z.. beq//4 ..n
and//2 ... jal//2 zn
lw//2 .. lw//2 .. addi//2 .. add//2 ...
sd//4 .. slli//2 .. sd//4 .. add//2 ... add//2 3.3 add//2 z..
addi//2 .. sd//2 1. sd//2 2. addi//4 3. auipc//4 . ld//4 11
ld//4 .. addiw//4 .. slli//4 1. srli//2 11 slli//4 1. add//2 151
add//2 z.. addi//2 z. addi//2 z. remu//4 .2. addi//2 44 add//2 z..
slli//4 .. slli//4 .. sd//2 .. sd//2 .. sd//2 .. sd//2 ..
mul//4 ... slli//2 .. add//2 1.1 lwu//4 11 slli//2 11 add//2 1.1
addiw//4 .. andi//4 1. addi//4 z. bltu//4 12n
sw//4 .. bne//4 ..n
lbu//4 .. addi//2 z. bne//4 21n
add//4 ... add//4 1.1 srli//4 1. xor//4 212 add//4 1.1 xori//4 11
xor//4 ... mul//4 1.1 addi//4 11 srli//4 1. xor//4 212 add//4 1.1
xori//4 .. addi//4 11 add//4 1.1 srli//4 1. xor//4 212 add//4 1.1
xori//4 .. srli//4 1. xor//4 212 mul//4 1.1 mul//4 1.1 mul//4 1.1
addi//4 .. addi//4 11 add//4 1.1 srli//4 1. xor//4 212 srli//4 12
mul//4 ... add//4 1.1 mul//4 1.1 add//4 1.1 srli//4 1. xor//4 212
addiw//4 .. beq//2 .zn
ld//4 .. srli//4 .. srliw//4 .. slli//2 22 beq//4 4zn
andi//4 .. slli//2 11 add//2 1.1 lw//2 11 xor//2 1.1 addiw//2 11
sub//4 ... slli//4 .. slli//2 22 addi//4 2. add//4 .2. add//4 12.
auipc//4 . ld//4 11 addi//4 .. lw//4 .. sd//2 23 add//2 4.4
add//2 z.. add//2 ... jal//4 .n
sraiw//4 .. addi//2 .. srliw//4 22
xori//4 .. add//4 1.1 add//4 1.1 xori//4 11 addi//4 11 srli//4 1.
sw//4 .. addiw//4 .. addi//2 .. addi//2 .. beq//4 .3n
lw//2 .. sltu//4 1.. sltu//4 .2. subw//2 212 jalr//2r .z
xor//4 ... andi//2 11 srli//4 .. srli//2 .. beq//2 3zn
fcvt.d.w/0/4 .. fcvt.s.w/7/4 .. sw//4 .. fsd//4 .3 fsw//4 .3 bne//4 ..n
addi//2 .. ld//2 .. sd//2 .2 ld//2 .. addi//2 .. jalr//2r 4z
xor//4 ... srli//4 1. xor//4 212 mul//4 1.1 addi//4 .. bne//4 1zn
srli//4 .. xor//4 .1. mul//4 1.1 srli//4 13 xor//4 212 addi//4 ..
lw//2 .. addi//4 z. beq//4 21n
addi//2 .. xor//2 ... mul//4 1.1 bne//4 3.n
addw//4 ... addi//4 .. addiw//4 .. add//2 z3. add//4 3.. bge//4 .5n
lh//4 .. lh//4 .. addi//2 .. addi//2 .. mulw//4 434
add//2 z.. ld//2 .. sd//2 .1 addi//2 z2 add//2 z.. addi//2 z.
addi//4 .. add//4 1.1 srli//4 1. xor//4 212 xori//4 11 mul//4 1.1
xor//4 ... addi//4 11 mul//4 1.1 addi//4 11 srli//4 1. xor//4 212
xori//4 .. addi//4 11 add//4 1.1 mul//4 1.1 srli//4 1. xor//4 212
addi//2 .. sd//2 1. sd//2 2. sd//2 3. sd//2 4. ld//2 ..
fld//2 .. add//2 z.. add//2 z.. fld//2 2. fld//2 2. addi//2 33
srli//4 .. xor//4 .1. xori//4 11 xori//4 11 add//4 1.1 srli//4 15
srli//4 .. xor//4 .1. addi//4 11 mul//4 1.1 add//4 1.1 srli//4 15
srli//4 .. xor//4 .1. add//4 1.1 addi//4 11 addi//4 11 srli//4 15
mul//4 ... srli//4 1. andi//4 11 srli//4 3. addiw//4 2. add//2 z13
sd//2 .. auipc//4 . ld//4 11 sd//2 .. sd//2 .. addi//2 z.
ld//2 .. ld//2 .. ld//2 .. ld//2 .. ld//2 .. add//2 z..
slli//4 .. or//4 1.1 add//2 1.1 lbu//4 1. addi//2 22 slli//2 22
xor//4 ... srli//4 1. xor//4 212 xori//4 11 add//4 1.1 addi//4 ..
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 add//4 1.1 addi//4 ..
addi//2 .. add//2 ...
addw//2 ... addw//4 1.1 addw//4 1.1 addiw//4 .. sw//2 .2 addi//2 ..
fmul.d/7/4 ... fld//4 .. fld//4 .. addi//4 .. addiw//2 .. fmul.d/7/4 3..
addi//4 .. add//4 1.1 srli//4 1. xor//4 212 addi//4 .. bne//4 1zn
xor//4 ... srli//4 1. xor//4 212 xori//4 11 addi//4 .. bne//4 1zn
slliw//4 .. srliw//4 .. slliw//4 .. and//4 ... addw//4 ... xor//4 ...
srli//4 .. xor//4 .1. srli//4 12 xor//4 212 addi//4 11 xori//4 11
srli//4 .. xor//4 .1. xori//4 11 srli//4 13 xor//4 212 add//4 1.1
fsub.d/7/4 ... fsub.d/7/4 ... fmul.d/7/4 ... fmadd.d/7/4 3311 fmadd.d/7/4 3311
fsub.d/7/4 ... fmul.d/7/4 ... fmadd.d/7/4 ..11 fmadd.d/7/4 3311
andi//4 .. slli//2 .. slli//2 22 addi//2 z. add//2 3.3 add//2 3.3
sltu//4 ... srli//4 .. mul//4 ... add//2 323 bgeu//4 ..n
sd//2 .. sd//2 .. add//2 z.. add//2 z.. add//2 z.. beq//2 .zn
srli//4 .. xor//4 .1. xori//4 11 srli//4 13 xor//4 212 xori//4 11
xor//4 ... srliw//4 .. slliw//4 .. srliw//4 .. slliw//4 .. and//4 ...
srliw//4 .. slliw//4 .. srliw//4 .. slliw//4 .. and//4 ... addw//4 ...
add//2 ... and//4 1.. slli//2 11 add//2 1.1 sltu//4 1.. srli//4 5.
slli//2 .. add//2 1.1 lwu//4 11 slli//2 11 add//2 1.1 sd//2 .1
add//2 ... add//2 1.1 and//4 1.. slli//2 11 add//2 1.1 sltu//4 1..
sd//2 .. slli//4 .. add//2 1.1 ld//2 1. sd//2 .. sd//2 ..
mul//4 ... add//2 1.1 add//2 1.1 and//4 1.. slli//2 11 add//2 1.1
srli//4 .. mul//4 ... add//2 .2. bgeu//4 ..n
slli//4 .. sub//2 1.1 add//2 1.1 sd//4 .1 addi//2 .. bne//2 1zn
slli//2 .. add//2 1.1 sltu//4 1.. srli//4 .. mul//4 ... add//2 323
xor//2 ... mul//4 1.. sd//2 .2 srli//2 22 addi//4 1. jal//4 .n
subw//4 ... addiw//4 .. add//2 z.. add//2 z3. slli//2 .. jal//4 .n
or//4 ... or//4 ... xori//4 .. xor//4 3.3 and//4 ... xor//4 242
srliw//4 .. add//2 z.. addiw//4 .. xor//2 ... jal//4 .n
ld//2 .. slliw//4 .. sraiw//4 11 sd//4 .1 addi//2 .. addi//2 ..
slliw//4 .. or//4 ... or//4 2.2 xori//4 .. xor//4 3.3 and//4 ...
slli//2 .. slli//2 .. addi//2 z. add//2 3.3 add//2 3.3 bne//4 .3n
xor//4 ... addi//4 11 srli//4 1. xor//4 212 xori//4 11 srli//4 13
srliw//4 .. xor//2 ... xor//4 ... srliw//4 .. xor//2 313 xor//2 353
add//2 ... srliw//4 .. slli//2 11 add//2 1.1 lw//4 1. sw//2 2.
add//2 ... add//2 1.1 and//4 1.. slli//2 11 add//2 .1. sltu//4 1..
slli//2 .. lw//4 .. lw//2 .. slli//2 .. add//2 4.4 add//2 2.2
addw//2 ... xor//2 1.1 add//2 z.. addiw//4 2. addi//2 .. bne//4 .3n
or//4 ... xori//4 .. xor//4 ... and//4 ... xor//4 242 srliw//4 ..
addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 .. bne//4 ..n
srliw//4 .. addw//2 ... xor//4 ... or//4 ... or//4 ... and//4 ...
addiw//4 .. addiw//4 .. addiw//4 .. addiw//4 .. bne//4 ..n
xor//4 ... srli//4 1. xor//4 212 mul//4 1.1 mul//4 1.1 srli//4 14
xor//2 ... lwu//4 .. addi//2 .. slli//2 22 add//2 1.1 mul//4 5..
sd//2 .. add//2 ... sd//2 .. add//2 z.. sub//4 .3. add//2 z..
xor//4 ... srli//4 1. xor//2 212 slli//4 12 xor//4 21. mul//4 1.3
""",
}
