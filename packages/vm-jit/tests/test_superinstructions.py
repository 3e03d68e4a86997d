"""Sequences that one handler does end as their instructions done one by one, wherever they are entered, left or changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate

import pytest

from vm_core import isa as isas
from vm_core.engine import Breakpoint
from vm_core.execute import ReferenceEngine
from vm_core.memory import PAGE, GuestMemory, Prot
from vm_core.spec.isa import Isa
from vm_jit.engine import InterpreterEngine
from vm_jit.records import LONGEST, handler_key
from vm_jit.superinstructions import Kind, code, kind, relation, sequences, zero_offsets

CODE, DATA = 0x10000, 0x20000
ISA = isas.get("riscv64")
REGISTERS = (0, 8, 9, 10, 11)
NAMES = ("s0", "s1", "a0", "a1")
STEPS = {f"s{i}": len(steps) for i, steps in enumerate(sequences(ISA))}
"""How many instructions each handler of a sequence does."""


def instruction(rng: random.Random) -> bytes:
    """One of few instructions on few registers, so that sequences and relations of all kinds come about."""
    rd, rs1, rs2 = (rng.choice(REGISTERS) for _ in range(3))
    match rng.randrange(18):
        case 12 | 13:
            return ISA.assemble(f"c.{rng.choice(['add', 'mv'])} {rng.choice(NAMES)}, {rng.choice(NAMES)}")
        case 14:
            return ISA.assemble(
                f"c.{rng.choice(['xor', 'and', 'sub', 'addw'])} {rng.choice(NAMES)}, {rng.choice(NAMES)}"
            )
        case 15:
            return ISA.assemble(
                f"c.{rng.choice(['addi', 'addiw', 'slli', 'li'])} {rng.choice(NAMES)}, {rng.randrange(1, 32)}"
            )
        case 16:
            return ISA.assemble(f"c.ld {rng.choice(NAMES)}, {8 * rng.randrange(32)}(s0)")
        case 17:
            return ISA.assemble(f"c.sd {rng.choice(NAMES)}, {8 * rng.randrange(32)}(s0)")
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

    def steps(self, addresses: list[int]) -> list[int]:
        """How many instructions the handlers do to which these records lead."""
        found = {address: name for name, address in self.engine.interpreter.address.items()}
        image = self.engine._image
        assert image is not None
        return [STEPS.get(found[image.entry(pc)], 1) for pc in addresses]

    def close(self) -> None:
        self.engine.close()
        for memory in self.memories:
            memory.close()


Seen = tuple[str, list[int], Kind]
"""Of an instruction: the name of its handler, the offsets of its slots, and what it is to sequences."""


def look(data: bytes, engine: InterpreterEngine) -> Seen:
    insn = ISA.decode(data)
    how = engine.interpreter.plans[handler_key(insn, returns=False)]
    found = kind(ISA, insn.template, how)
    assert found is not None
    offsets = []
    for role, file, name, _ in how.slots:
        slot = insn.fields[name]
        write = ISA.layout.files[file].write_slot(slot) if role == "w" else slot
        offsets.append(ISA.layout.offset(file, write))
    return how.symbol, offsets, found


def related(seen: list[Seen]) -> tuple[str, int]:
    """The last instruction as a step of a sequence of all of these: its handler's name, and the relation."""
    symbol, offsets, found = seen[-1]
    before = [None if k.written is None else o[k.written] for _, o, k in reversed(seen[:-1])]
    return symbol, code(relation(offsets, before, zero_offsets(ISA), near=found.direct))


def known(engine: InterpreterEngine) -> list[tuple[tuple[str, int], ...]]:
    """The sequences that have a handler, as :func:`related` has their steps."""
    return [
        tuple((engine.interpreter.plans[key].symbol, code(rel)) for key, rel in one) for one in sequences(ISA)
    ]


def expected(words: list[bytes], engine: InterpreterEngine) -> list[int]:
    """How many instructions the handler of each of these should do, by the rule: the longest sequence that fits exactly."""
    have = set(known(engine))
    seen = [look(data, engine) for data in words]
    counts = []
    for i in range(len(words)):
        count, steps = 1, []
        for j in range(i, min(i + LONGEST, len(words))):
            steps.append(related(seen[i : j + 1]))
            if tuple(steps) in have:
                count = len(steps)
            if seen[j][2].ends:
                break
        counts.append(count)
    return counts


class Writer:
    """Writes code full of sequences: instructions of one after those of another, operands related as they must be."""

    def __init__(self, engine: InterpreterEngine, rng: random.Random) -> None:
        self.engine, self.rng = engine, rng
        self.pool: dict[str, list[tuple[bytes, Seen]]] = {}
        for data in {instruction(rng) for _ in range(6000)}:
            seen = look(data, engine)
            self.pool.setdefault(seen[0], []).append((data, seen))
        self.sequences = [one for one in known(engine) if all(symbol in self.pool for symbol, _ in one)]

    def words(self, count: int, *, jumps: bool = True) -> list[bytes]:
        out: list[bytes] = []
        while len(out) < count:
            seen: list[Seen] = []
            for step in self.rng.choice(self.sequences):
                some = self.pool[step[0]]
                fits = [
                    one for one in some if related([*seen, one[1]]) == step and (jumps or not one[1][2].ends)
                ]
                data, now = self.rng.choice(fits or self.rng.choice(list(self.pool.values())))
                if jumps or not now[2].ends:
                    out.append(data)
                    seen.append(now)
        return out


@pytest.fixture
def pair(cache: None) -> Iterator[Pair]:
    made = Pair(ISA)
    yield made
    made.close()


def is_access(data: bytes) -> bool:
    return bool({"load", "store"} & ISA.decode(data).template.codes)


def addresses(words: list[bytes]) -> list[int]:
    return list(accumulate(map(len, words), initial=CODE))[:-1]


def test_sequences_end_as_their_instructions(pair: Pair) -> None:
    rng = random.Random(21)
    writer = Writer(pair.engine, rng)
    fused = changed = 0
    for seed in range(150):
        words = writer.words(40)
        places = addresses(words)
        pair.poke(CODE, b"".join(words) + b"\x13\0\0\0" * 60)
        for _ in range(6):
            pair.check(CODE, rng.randrange(1, 45), seed)
        # Into the middle of what is decoded.
        pair.check(rng.choice(places), rng.randrange(1, 20), seed)
        steps = pair.steps(places)
        fused += sum(count > 1 for count in steps)
        # The last instruction of a sequence that has run is another now, and nothing else.
        for first in [i for i, count in enumerate(steps) if count > 1][:3]:
            last = first + steps[first] - 1
            other = instruction(rng)
            while len(other) != len(words[last]):
                other = instruction(rng)
            pair.poke(places[last], other)
            pair.check(places[first], 10, seed)
            changed += 1
    assert fused > 500
    assert changed > 200


def test_the_decoder_finds_the_longest_sequence(pair: Pair) -> None:
    writer = Writer(pair.engine, random.Random(22))
    for _ in range(80):
        words = writer.words(30, jumps=False)
        jump = ISA.encode("beq", rs1=0, rs2=10, imm=1 << 12 - 1)
        pair.poke(CODE, b"".join([*words, jump]))
        pair.check(CODE, 1, 1)
        assert pair.steps(addresses(words)) == expected([*words, jump], pair.engine)[:-1]


def test_a_sequence_stops_at_a_breakpoint(pair: Pair) -> None:
    writer = Writer(pair.engine, random.Random(23))
    stops = 0
    for _ in range(60):
        words = [data for data in writer.words(60, jumps=False) if not is_access(data)][:30]
        places = addresses(words)
        pair.engine.set_breakpoints(frozenset())
        pair.poke(CODE, b"".join(words) + b"\x13\0\0\0" * 60)
        pair.check(CODE, 40, 1)
        for first, count in enumerate(pair.steps(places)):
            if count > 1:
                pair.engine.set_breakpoints(frozenset({places[first + count - 1]}))
                cpu = ISA.cpu()
                cpu.pc = places[first]
                assert pair.engine.run(cpu, pair.memories[0], 40) == Breakpoint(places[first + count - 1])
                assert cpu.header("fuel") == 40 - count + 1
                stops += 1
                break
    assert stops > 20
