"""Sequences that one handler does end as their instructions done one by one, wherever they are entered, left or changed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from vm_core import isa as isas
from vm_core.execute import ReferenceEngine
from vm_core.memory import PAGE, GuestMemory, Prot
from vm_core.spec.isa import Isa
from vm_jit.engine import InterpreterEngine
from vm_jit.superinstructions import LONGEST, code, kind, relation, sequences, zero_offsets

CODE, DATA = 0x10000, 0x20000
ISA = isas.get("riscv64")
REGISTERS = (0, 8, 9, 10, 11)


def instruction(rng: random.Random) -> bytes:
    """One of few instructions on few registers, so that sequences and relations of all kinds come about."""
    rd, rs1, rs2 = (rng.choice(REGISTERS) for _ in range(3))
    match rng.randrange(12):
        case 0 | 1:
            return ISA.encode(
                rng.choice(["add", "sub", "xor", "and", "addw", "mul"]), rd=rd, rs1=rs1, rs2=rs2
            )
        case 2 | 3:
            return ISA.encode(
                rng.choice(["addi", "andi", "addiw"]), rd=rd, rs1=rs1, imm=rng.randrange(-64, 64)
            )
        case 4:
            return ISA.encode(rng.choice(["slli", "srli"]), rd=rd, rs1=rs1, imm=rng.randrange(64))
        case 5 | 6:
            return ISA.encode(
                rng.choice(["ld", "lw", "lbu"]), rd=rng.choice(REGISTERS), rs1=8, imm=8 * rng.randrange(32)
            )
        case 7:
            return ISA.encode(
                rng.choice(["sd", "sw", "sb"]), rs2=rs2, rs1=rng.choice((8, 9)), imm=8 * rng.randrange(32)
            )
        case 8:
            return ISA.encode("fadd.d", rd=rs1, rs1=rs2, rs2=rd, rm=7)
        case 9:
            return ISA.encode("fld", rd=rd, rs1=8, imm=8 * rng.randrange(32))
        case 10:
            return ISA.encode("fsd", rs2=rs2, rs1=8, imm=8 * rng.randrange(32))
        case _:
            return ISA.encode(
                rng.choice(["bne", "beq", "bltu"]), rs1=rs1, rs2=rs2, imm=4 * rng.randrange(1, 4)
            )


class Pair:
    """The same guest in the interpreter and in the reference executor."""

    def __init__(self, isa: Isa) -> None:
        self.memories = [GuestMemory(bits=24), GuestMemory(bits=24)]
        for memory in self.memories:
            memory.map(CODE, 2 * PAGE, Prot.RX)
            memory.map(DATA, PAGE, Prot.RW)
        self.engine = InterpreterEngine(isa, self.memories[0])
        self.reference = ReferenceEngine(isa, self.memories[1])

    def poke(self, at: int, data: bytes) -> None:
        for memory in self.memories:
            memory.poke(at, data)
        for engine in (self.engine, self.reference):
            engine.invalidate(at, at + len(data))

    def check(self, pc: int, limit: int, seed: int) -> None:
        ends = []
        for engine, memory in zip((self.engine, self.reference), self.memories, strict=True):
            rng = random.Random(seed)
            memory.poke(DATA, rng.randbytes(PAGE))
            cpu = ISA.cpu()
            cpu.pc = pc
            for i in range(32):
                cpu.set("x", i, rng.choice((rng.randrange(9), rng.getrandbits(64))))
                cpu.set("f", i, rng.getrandbits(64))
            cpu.set("x", 8, DATA + rng.choice((0, 0, 8, 4, PAGE - 64)))
            cpu.set("x", 9, DATA + 8 * rng.randrange(64))
            result = engine.run(cpu, memory, limit)
            ends.append((repr(result), cpu.snapshot(), memory.peek(DATA, PAGE)))
        assert ends[0] == ends[1]

    def names(self) -> list[str]:
        """The handlers that the records of the first page lead to."""
        found = {address: name for name, address in self.engine.interpreter.address.items()}
        image = self.engine._image
        assert image is not None
        return [found[image.entry(pc)] for pc in range(CODE, CODE + PAGE, 4)]

    def close(self) -> None:
        self.engine.close()
        for memory in self.memories:
            memory.close()


def expected(words: list[bytes], engine: InterpreterEngine) -> list[int]:
    """How many instructions the handler of each of these should do, by the rule: the longest sequence that fits exactly."""
    image = engine._image
    assert image is not None
    known = {
        tuple((engine.interpreter.plans[key].symbol, code(rel)) for key, rel in one) for one in sequences(ISA)
    }
    zeros, seen = zero_offsets(ISA), []
    for i, data in enumerate(words):
        insn = ISA.decode(data, CODE + 4 * i)
        statics = ",".join(str(insn.fields[name]) for name in insn.insn.statics)
        how = engine.interpreter.plans[f"{insn.insn.name}/{statics}/4"]
        found = kind(ISA, insn.template, how)
        assert found is not None
        offsets = []
        for role, file, name, _ in how.slots:
            slot = insn.fields[name]
            write = ISA.layout.files[file].write_slot(slot) if role == "w" else slot
            offsets.append(ISA.layout.offset(file, write))
        seen.append((how.symbol, offsets, found))
    counts = []
    for i in range(len(words)):
        count, steps = 1, []
        for j in range(i, min(i + LONGEST, len(words))):
            symbol, offsets, found = seen[j]
            before = [None if k.written is None else o[k.written] for _, o, k in reversed(seen[i:j])]
            steps.append((symbol, code(relation(offsets, before, zeros, near=found.direct))))
            if tuple(steps) in known:
                count = len(steps)
            if found.ends:
                break
        counts.append(count)
    return counts


@pytest.fixture
def pair(cache: None) -> Iterator[Pair]:
    made = Pair(ISA)
    yield made
    made.close()


def test_sequences_end_as_their_instructions(pair: Pair) -> None:
    rng = random.Random(21)
    fused = 0
    for seed in range(120):
        words = [instruction(rng) for _ in range(40)]
        pair.poke(CODE, b"".join(words) + b"\x13\0\0\0" * 60)
        for _ in range(6):
            pair.check(CODE, rng.randrange(1, 45), seed)
        # Into the middle of what is decoded.
        pair.check(CODE + 4 * rng.randrange(20), rng.randrange(1, 20), seed)
        fused += sum(name[0] == "s" and name[1:].isdigit() for name in pair.names())
        # One instruction of what has run is another now.
        pair.poke(CODE + 4 * rng.randrange(20), instruction(rng))
        pair.check(CODE, 40, seed)
    assert fused > 150


def test_the_decoder_finds_the_longest_sequence(pair: Pair) -> None:
    rng = random.Random(22)
    lengths = {f"s{i}": len(steps) for i, steps in enumerate(sequences(ISA))}
    for _ in range(60):
        words = []
        while len(words) < 30:
            data = instruction(rng)
            if not ISA.decode(data).name.startswith("b"):
                words.append(data)
        pair.poke(CODE, b"".join([*words, ISA.encode("jalr", rd=0, rs1=1, imm=0)]))
        pair.check(CODE, 1, 1)
        found = [lengths.get(name, 1) for name in pair.names()[:24]]
        assert found == expected(words, pair.engine)[:24]


def test_a_sequence_stops_at_a_breakpoint(pair: Pair) -> None:
    words = [ISA.encode("addi", rd=10, rs1=10, imm=1) for _ in range(8)]
    pair.poke(CODE, b"".join(words))
    pair.check(CODE, 8, 3)
    pair.engine.set_breakpoints(frozenset({CODE + 12}))
    cpu = ISA.cpu()
    cpu.pc = CODE
    stopped = pair.engine.run(cpu, pair.memories[0], 8)
    assert (type(stopped).__name__, cpu.pc, cpu["a0"]) == ("Breakpoint", CODE + 12, 3)
