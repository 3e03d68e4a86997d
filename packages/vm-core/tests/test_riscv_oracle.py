"""Random instructions against other emulators: Unicorn one instruction at a time, qemu-riscv64 whole programs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from functools import cache
from typing import Any

import pytest

from vm_core.engine import Budget
from vm_core.execute import ReferenceEngine
from vm_core.isa import get
from vm_core.memory import GuestMemory, Prot
from vm_core.testing import Batch, random_state
from vm_core.testing.random_programs import random_float

ISA = get("riscv64")
COUNT = int(os.environ.get("VM_ORACLE_COUNT", "100000"))
"""How many random instructions qemu-riscv64 is compared on; Unicorn, which is slower, on a tenth."""

# -- qemu-riscv64 -----------------------------------------------------------------------------------------------------

QEMU_DISAGREES = {
    # qemu 7.2 loses the stop bit of ctzw behind a left shift: slli a0, a1, 47; ctzw a0, a0 gives 47, not 32.
    "ctzw",
}


@cache
def qemu() -> tuple[str, ...]:
    """The command, or nothing where there is no qemu-riscv64 that knows Zba, Zbb and Zbs."""
    command = ("qemu-riscv64", "-cpu", "rv64,zba=true,zbb=true,zbs=true")
    if shutil.which(command[0]) is None:
        return ()
    probe = Batch([ISA.assemble("sh1add a0, a1, a2")], [(0, Batch.state(ISA, random.Random(1)))])
    try:
        return (
            command
            if probe.compare(probe.run_command(command), probe.run(ReferenceEngine)[0]) is None
            else ()
        )
    except (OSError, subprocess.SubprocessError):
        return ()


@pytest.mark.needs_qemu
@pytest.mark.parametrize("seed", [1, 2])
def test_programs_do_what_qemu_does(seed: int) -> None:
    if not qemu():
        pytest.skip("no qemu-riscv64 with Zba, Zbb and Zbs")
    among = [name for name in ISA.instructions if name not in QEMU_DISAGREES]
    batch = Batch.random(seed, blocks=max(COUNT // 600, 1), length=60, among=among)
    ours, _ = batch.run(ReferenceEngine)
    found = batch.compare(ours, batch.run_command(qemu()))
    if found:
        narrow = batch.narrow(
            found.index, lambda b: b.run(ReferenceEngine)[0], lambda b: b.run_command(qemu())
        )
        pytest.fail(f"seed {seed}: {narrow or found}")


def test_programs_do_the_same_in_slices() -> None:
    """A budget may end anywhere without a trace."""
    batch = Batch.random(3, blocks=20, length=40)
    whole, retired = batch.run(ReferenceEngine)
    sliced, again = batch.run(ReferenceEngine, slice_=7)
    assert (sliced, again) == (whole, retired)
    assert batch.compare(sliced, whole) is None


def test_a_mismatch_is_explained() -> None:
    batch = Batch.random(4, blocks=3, length=10)
    ours, _ = batch.run(ReferenceEngine)
    found = batch.compare(ours, ours[:-4] + b"\xff" + ours[-3:])
    assert found is not None
    assert found.index == 2
    assert found.differences[0].startswith("fcsr: ")
    assert found.listing.count("\n") >= 5
    assert batch.compare(ours, ours[:100]) is not None


# -- Unicorn ----------------------------------------------------------------------------------------------------------

CODE, SPAN, DATA = 0x40_0000, 0x80_0000, 0x100_0000

UNICORN_DISAGREES = {
    # Unicorn is QEMU 5: it has no Zba, Zbb, Zbs.
    *[i.name for i in ISA.instructions.values() if i.source[0].endswith("rvb.py")],
    # They end in an exception, or depend on a reservation made before.
    "ecall", "ebreak", "c.ebreak", "fence.i", "sc.w", "sc.d",
    # minNum of IEEE 754-2008, where a signalling NaN gives NaN, not the manual's minimumNumber.
    "fmin.s", "fmin.d", "fmax.s", "fmax.d",
}  # fmt: skip


def unicorn_step(insn: str, rng: random.Random, uc: Any, memory: GuestMemory) -> str | None:
    """Run one random instruction of that name in both. Returns what differs."""
    unicorn, const = pytest.importorskip("unicorn"), pytest.importorskip("unicorn.riscv_const")
    cpu = ISA.cpu()
    random_state(ISA, rng, cpu)
    if ".s" in insn:
        # QEMU 5 does not check that operands are NaN-boxed.
        for i in range(32):
            cpu.set("f", i, random_float(rng, boxed=True))
    code = ISA.random(rng, [insn])
    decoded = ISA.decode(code)
    codes = decoded.template.codes
    base = decoded.fields.get("rs1", 0)
    if "csr" in decoded.fields and decoded.fields["csr"] >= 0xC00:
        return None
    if codes & {"load", "store", "amo", "load_reserved"}:
        if base == 0:
            return None
        address = (
            DATA
            + 0x800
            + (16 * rng.randrange(4) if "amo" in codes or "load_reserved" in codes else rng.randrange(64))
        )
        cpu.set("x", base, address - decoded.fields.get("imm", 0))
    elif decoded.insn.name == "jalr":
        if base == 0:
            return None
        cpu.set("x", base, CODE + rng.randrange(-0x1000, 0x1000))
    cpu.pc = CODE
    scratch = rng.randbytes(256)
    padded = (code + ISA.encode("c.nop"))[:4]
    memory.poke(CODE, padded)
    memory.poke(DATA + 0x800 - 64, scratch)
    uc.mem_write(CODE, padded)
    uc.ctl_remove_cache(CODE, CODE + 4)
    uc.mem_write(DATA + 0x800 - 64, scratch)
    registers = [
        *[(const.UC_RISCV_REG_X0 + i, "x", i) for i in range(1, 32)],
        *[(const.UC_RISCV_REG_F0 + i, "f", i) for i in range(32)],
    ]
    for number, file, slot in registers:
        uc.reg_write(number, cpu.get(file, slot))
    uc.reg_write(const.UC_RISCV_REG_FCSR, cpu.header("fp_rounding") << 5 | cpu.header("fp_flags"))
    engine = ReferenceEngine(ISA, memory)
    result = engine.run(cpu, memory, 1)
    text = f"{decoded.text()} ({code.hex()})"
    try:
        uc.emu_start(CODE, SPAN + 0x1000, count=1)
    except unicorn.UcError as error:
        return f"{text}: Unicorn: {error}; ours: {result}"
    if not isinstance(result, Budget):
        return f"{text}: ours: {result}; Unicorn went on"
    names = {"x": ISA.layout.files["x"].names, "f": ISA.layout.files["f"].names}
    single = insn.endswith(".s") or insn.startswith("fcvt.s.") or insn == "fmv.w.x"
    out = []
    for number, file, slot in registers:
        one, two = cpu.get(file, slot), uc.reg_read(number)
        if single and file == "f" and slot == decoded.fields["rd"] and one >> 32 == 0xFFFF_FFFF:
            two |= 0xFFFF_FFFF << 32  # QEMU 5 does not NaN-box results
        if one != two:
            out.append(f"{names[file][slot]} {one:#x} != {two:#x}")
    theirs = uc.reg_read(const.UC_RISCV_REG_FCSR)
    if (ours := cpu.header("fp_rounding") << 5 | cpu.header("fp_flags")) != theirs:
        out.append(f"fcsr {ours:#x} != {theirs:#x}")
    if cpu.pc != uc.reg_read(const.UC_RISCV_REG_PC):
        out.append(f"pc {cpu.pc:#x} != {uc.reg_read(const.UC_RISCV_REG_PC):#x}")
    if memory.peek(DATA + 0x800 - 64, 256) != bytes(uc.mem_read(DATA + 0x800 - 64, 256)):
        out.append("memory")
    return f"{text}: {', '.join(out)}" if out else None


def test_single_instructions_do_what_unicorn_does() -> None:
    unicorn = pytest.importorskip("unicorn")
    const = pytest.importorskip("unicorn.riscv_const")
    uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
    uc.reg_write(const.UC_RISCV_REG_MSTATUS, 0x6000)  # FS: the FPU is on
    uc.mem_map(0, SPAN)
    uc.mem_map(DATA, 0x1000)
    rng = random.Random(2)
    names = [name for name in ISA.instructions if name not in UNICORN_DISAGREES]
    with GuestMemory(bits=28) as memory:
        memory.map(CODE, 0x1000, Prot.RX)
        memory.map(DATA, 0x1000, Prot.RW)
        steps = (
            unicorn_step(names[i % len(names)], rng, uc, memory) for i in range(max(COUNT // 10, len(names)))
        )
        wrong = [found for found in steps if found]
    assert not wrong, "\n".join(wrong[:20])
