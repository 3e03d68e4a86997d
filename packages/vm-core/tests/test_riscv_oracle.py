"""Random instructions against other emulators: Unicorn one instruction at a time, qemu-riscv64 whole programs."""

from __future__ import annotations

import os
import random

import pytest

from vm_core.engine import Budget
from vm_core.execute import ReferenceEngine
from vm_core.isa import get
from vm_core.memory import GuestMemory, Prot
from vm_core.spec.isa import Decoded
from vm_core.state import CpuState
from vm_core.testing import Batch, differential, qemu, random_state
from vm_core.testing.random_programs import random_float, random_value

ISA = get("riscv64")
COUNT = int(os.environ.get("VM_ORACLE_COUNT", "100000"))
"""How many random instructions qemu-riscv64 is compared on; Unicorn, which is slower, on a fifth."""

# -- qemu-riscv64 -----------------------------------------------------------------------------------------------------


@pytest.mark.needs_qemu
@pytest.mark.parametrize("seed", [1, 2])
def test_programs_do_what_qemu_does(seed: int) -> None:
    if not qemu():
        pytest.skip("no qemu-riscv64 with Zba, Zbb and Zbs")
    found = differential(ReferenceEngine, seed=seed, count=COUNT // 2)
    assert found is None, f"seed {seed}: {found}"


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


class Unicorn:
    """Random single instructions in Unicorn and in the reference executor, from the same states."""

    def __init__(self, rng: random.Random, memory: GuestMemory) -> None:
        self.unicorn = pytest.importorskip("unicorn")
        self.const = const = pytest.importorskip("unicorn.riscv_const")
        self.rng, self.memory = rng, memory
        self.uc = self.unicorn.Uc(self.unicorn.UC_ARCH_RISCV, self.unicorn.UC_MODE_RISCV64)
        self.uc.reg_write(const.UC_RISCV_REG_MSTATUS, 0x6000)  # FS: the FPU is on
        self.uc.mem_map(0, SPAN)
        self.uc.mem_map(DATA, 0x1000)
        memory.map(CODE, 0x1000, Prot.RX)
        memory.map(DATA, 0x1000, Prot.RW)
        self.numbers = [const.UC_RISCV_REG_X0 + i for i in range(1, 32)]
        self.numbers += [const.UC_RISCV_REG_F0 + i for i in range(32)]
        self.names = [*ISA.layout.files["x"].names[1:], *ISA.layout.files["f"].names]
        self.first = {file: ISA.layout.offset(file, 0) // 8 for file in ("x", "f")}
        # States are drawn from a pool: only what the instruction reads is drawn anew for each.
        self.states = [self._state(boxed=False) for _ in range(40)]
        self.boxed = [self._state(boxed=True) for _ in range(40)]

    def _state(self, *, boxed: bool) -> CpuState:
        cpu = ISA.cpu()
        random_state(ISA, self.rng, cpu)
        if boxed:
            for i in range(32):
                cpu.set("f", i, random_float(self.rng, boxed=True))
        return cpu

    def _registers(self, cpu: CpuState) -> list[int]:
        x, f = self.first["x"], self.first["f"]
        return [*cpu.words[x + 1 : x + 32], *cpu.words[f : f + 32]]

    def prepare(self, decoded: Decoded) -> CpuState | None:
        """A state in which the instruction does something. None for the few that cannot."""
        rng, fields, codes = self.rng, decoded.fields, decoded.template.codes
        # QEMU 5 does not check that operands are NaN-boxed.
        boxed = ".s" in decoded.name
        cpu = rng.choice(self.boxed if boxed else self.states).copy()
        for name in ("rs1", "rs2", "rs3"):
            if name in fields:
                cpu.set("x", fields[name], random_value(rng))
                cpu.set("f", fields[name], random_float(rng, boxed=boxed))
        cpu.header("fp_flags", rng.getrandbits(5))
        cpu.header("fp_rounding", rng.randrange(5))
        cpu.pc = CODE
        base = fields.get("rs1", 0)
        if codes & {"load", "store", "amo", "load_reserved"}:
            step = 16 * rng.randrange(4) if codes & {"amo", "load_reserved"} else rng.randrange(64)
            cpu.set("x", base, DATA + 0x800 + step - fields.get("imm", 0))
            return cpu if base else None
        if decoded.insn.name == "jalr":
            cpu.set("x", base, CODE + rng.randrange(-0x1000, 0x1000))
            return cpu if base else None
        return None if fields.get("csr", 0) >= 0xC00 else cpu  # the counters differ

    def step(self, name: str) -> str | None:
        """Run one instruction of that name in both. Returns what differs."""
        uc, memory = self.uc, self.memory
        code = ISA.random(self.rng, [name])
        decoded = ISA.decode(code)
        cpu = self.prepare(decoded)
        if cpu is None:
            return None
        scratch, window = self.rng.randbytes(256), DATA + 0x800 - 64
        padded = (code + ISA.encode("c.nop"))[:4]
        memory.poke(CODE, padded)
        memory.poke(window, scratch)
        uc.mem_write(CODE, padded)
        uc.ctl_remove_cache(CODE, CODE + 4)
        uc.mem_write(window, scratch)
        uc.reg_write_batch(list(zip(self.numbers, self._registers(cpu), strict=True)))
        fcsr = self.const.UC_RISCV_REG_FCSR
        uc.reg_write(fcsr, cpu.header("fp_rounding") << 5 | cpu.header("fp_flags"))
        result = ReferenceEngine(ISA, memory).run(cpu, memory, 1)
        text = f"{decoded.text()} ({code.hex()})"
        try:
            uc.emu_start(CODE, SPAN + 0x1000, count=1)
        except self.unicorn.UcError as error:
            return f"{text}: Unicorn: {error}; ours: {result}"
        if not isinstance(result, Budget):
            return f"{text}: ours: {result}; Unicorn went on"
        ours = dict(zip(self.names, self._registers(cpu), strict=True))
        theirs = dict(zip(self.names, uc.reg_read_batch(self.numbers), strict=True))
        if (
            name.endswith(".s") or name.startswith("fcvt.s.") or name == "fmv.w.x"
        ) and "rd" in decoded.fields:
            # QEMU 5 does not NaN-box results.
            rd = ISA.register_name("f", decoded.fields["rd"])
            if ours[rd] >> 32 == 0xFFFF_FFFF:
                theirs[rd] |= 0xFFFF_FFFF << 32
        ours |= {"fcsr": cpu.header("fp_rounding") << 5 | cpu.header("fp_flags"), "pc": cpu.pc}
        theirs |= {"fcsr": uc.reg_read(fcsr), "pc": uc.reg_read(self.const.UC_RISCV_REG_PC)}
        out = [f"{key} {ours[key]:#x} != {theirs[key]:#x}" for key in ours if ours[key] != theirs[key]]
        if memory.peek(window, 256) != bytes(uc.mem_read(window, 256)):
            out.append("memory")
        return f"{text}: {', '.join(out)}" if out else None


def test_single_instructions_do_what_unicorn_does() -> None:
    names = [name for name in ISA.instructions if name not in UNICORN_DISAGREES]
    with GuestMemory(bits=28) as memory:
        unicorn = Unicorn(random.Random(2), memory)
        steps = (unicorn.step(names[i % len(names)]) for i in range(max(COUNT // 5, len(names))))
        wrong = [found for found in steps if found]
    assert not wrong, "\n".join(wrong[:20])
