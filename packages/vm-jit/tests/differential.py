"""Random code on the native engines against the reference executor: registers, flags, memory, pc and counts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vm_core import isa as isas
from vm_core.engine import Breakpoint, Budget, Trap
from vm_core.execute import ReferenceEngine
from vm_core.memory import GuestMemory, Prot
from vm_core.testing.random_programs import BASES, compare, random_block, random_state
from vm_jit.engine import NativeEngine

CODE, DATA = 0x10000, 0x20000
STATES = 4


@dataclass
class Outcome:
    instructions: int
    mismatches: list[str]


def differ(seed: int, blocks: int, length: int, *, jit: bool, among: list[str] | None = None) -> Outcome:
    """Run ``blocks`` random blocks from a few states each. The engines share nothing but the code."""
    isa = isas.get("riscv64")
    rng = random.Random(seed)
    out = Outcome(0, [])
    with GuestMemory() as expected, GuestMemory() as actual:
        reference = ReferenceEngine(isa, expected)
        native = NativeEngine(isa, actual, jit=jit, synchronous=True, cache=None)
        for memory in (expected, actual):
            memory.map(CODE, 0x4000, Prot.RWX)
            memory.map(DATA, 0x2000, Prot.RW)
        end = isa.encode("ebreak")
        for number in range(blocks):
            code = random_block(isa, rng, length, among=among) + end
            for memory in (expected, actual):
                memory.poke(CODE, code)
            reference.synchronize(expected)
            native.synchronize(actual)
            for turn in range(STATES):
                cpu = isa.cpu()
                random_state(isa, rng, cpu)
                for base in BASES:
                    cpu.set("x", base, DATA + 0x800 + rng.randrange(0, 0x100) * 8)
                cpu.pc = CODE
                other = cpu.copy()
                content = rng.randbytes(0x2000)
                for memory in (expected, actual):
                    memory.poke(DATA, content)
                if jit and turn == 1:
                    native.tiering.request(CODE)
                limit = 10**6 if turn < 2 else rng.randrange(1, 3 * length)
                exits = (reference.run(cpu, expected, limit), native.run(other, actual, limit))
                counts = [limit - one.header("fuel") for one in (cpu, other)]
                wrong = compare(cpu, other)
                if exits[0] != exits[1]:
                    wrong.append(f"exit {exits[0]} != {exits[1]}")
                if counts[0] != counts[1]:
                    wrong.append(f"count {counts[0]} != {counts[1]}")
                if expected.peek(DATA, 0x2000) != actual.peek(DATA, 0x2000):
                    wrong.append("memory differs")
                out.instructions += counts[0]
                if wrong:
                    out.mismatches.append(
                        f"seed {seed} block {number} turn {turn}: "
                        + "; ".join(wrong[:6])
                        + "\n"
                        + listing(isa, code)
                    )
                    break
            if len(out.mismatches) > 2:
                break
        native.close()
    assert isinstance(exits[0], (Trap, Budget, Breakpoint))
    return out


def listing(isa: isas.Isa, code: bytes) -> str:
    at, lines = 0, []
    while at < len(code):
        insn = isa.decode(code[at : at + 4])
        lines.append(f"  {CODE + at:x} {insn.text()}")
        at += insn.length
    return "\n".join(lines)
