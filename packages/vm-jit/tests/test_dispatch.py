"""Interpreters as guests: regions with one dispatch block, whose seldom used registers stay in the state in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vm_core import isa as isas
from vm_core.engine import Budget, Syscall, Trap
from vm_core.execute import ReferenceEngine
from vm_core.memory import GuestMemory, Prot
from vm_core.state import CpuState
from vm_jit import region as regions
from vm_jit.engine import NativeEngine
from vm_jit.tiering import Tiering

ISA = isas.get("riscv64")
CODE, PROGRAM, DATA = 0x10000, 0x20000, 0x30000
NEXT = ("ld a5, 0(s2)", "addi s2, s2, 8", "jalr zero, 0(a5)")
"""The next operation's address is the next word of the program at s2."""
OPERATIONS = (
    ("add s5, s5, s6", "xor t3, t3, s5", "sd t3, 0(s3)"),
    ("sub s6, s6, s7", "add t4, t4, s6", "ld t0, 8(s3)", "add s7, s7, t0"),
    ("addi t5, t5, 3", "sd t5, 16(s3)", "sub a6, t5, a7", "sd a6, 24(s3)", "ld a7, 16(s3)"),
    ("and t0, s8, t6", "beq t0, zero, 8", "addi s9, s9, 1", "add s8, s8, s9"),
    ("addi a0, zero, 2", "add s10, s10, a0", "addi a0, a0, -1", "bne a0, zero, -8", "xor a1, a1, s10"),
    ("add t6, a1, a2", "sw t6, 32(s3)", "lbu a3, 33(s3)", "add a4, a4, a3", "add a2, a2, a4"),
    ("fcvt.d.l fa0, s5", "fadd.d fa1, fa1, fa0", "fsd fa1, 40(s3)", "ld t1, 40(s3)", "xor s11, s11, t1"),
    ("mul a6, s5, s6", "srli a6, a6, 3", "xor s7, s7, a6"),
    ("or t5, s8, s9", "slli t5, t5, 1", "sub s10, s10, t5"),
    ("addi t1, s11, 7", "xor a1, a1, t1"),
    ("add s4, s4, t2", "ld t1, 0(s4)", "sd t1, 48(s3)", "add t3, t3, t1"),  # walks on, out of what is mapped
)


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


AGAIN = ("addi s1, s1, -1", "bne s1, zero, 8", "ecall", "addi s2, s0, 0")
"""The last operation: goes round s1 times."""


@contextmanager
def machine(seed: int, step: int) -> Iterator[tuple[GuestMemory, CpuState]]:
    """A program of 200 operations that walks over its data by ``step`` bytes."""
    choose = random.Random(seed)
    with GuestMemory(bits=20) as memory:
        for at, prot in ((CODE, Prot.RX), (PROGRAM, Prot.RW), (DATA, Prot.RW)):
            memory.map(at, 0x1000, prot)
        code, places = assemble(*NEXT), []
        for i, lines in enumerate((*OPERATIONS, AGAIN)):
            places.append(CODE + len(code))
            code += assemble(*lines)
            # Half of them go on at one place, where many ways meet.
            code += assemble(*NEXT) if i % 2 else assemble(f"jal zero, {-len(code)}")
        memory.poke(CODE, code)
        # A jump drops the lowest bit; the register that it goes by keeps it.
        chosen = [
            *(place | (choose.random() < 0.03) for place in choose.choices(places[:-1], k=200)),
            places[-1],
        ]
        memory.poke(PROGRAM, b"".join(place.to_bytes(8, "little") for place in chosen))
        cpu = ISA.cpu()
        cpu.pc, cpu["s0"], cpu["s2"], cpu["s3"], cpu["s4"] = (
            chosen[0] & ~1,
            PROGRAM,
            PROGRAM + 8,
            DATA,
            DATA + 64,
        )
        cpu["s1"], cpu["t2"] = 400, step
        for i, name in enumerate(("s5", "s6", "s7", "s8", "t6", "a1", "a2", "a7")):
            cpu[name] = choose.getrandbits(20 + i)
        yield memory, cpu


def registers(cpu: CpuState) -> list[int]:
    return [cpu.pc, *(cpu[f"x{i}"] for i in range(32)), *(cpu[f"f{i}"] for i in range(32))]


@pytest.mark.parametrize(
    ("seed", "step", "working"), [(1, 0, 4), (2, 0, 11), (3, 13, 4), (4, 16, 11), (5, 24, 8)]
)
def test_wherever_it_stops_all_registers_are_as_they_should_be(
    seed: int, step: int, working: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``working``: how many of the host's registers are not for registers that live from one operation to the next."""
    monkeypatch.setattr(regions, "_WORKING", working)
    made: list[regions.Region] = []
    around = Tiering._region_around

    def noted(self: Tiering, pc: int) -> object:
        found = around(self, pc)
        if found[0] is not None:
            made.append(found[0])
        return found

    monkeypatch.setattr(Tiering, "_region_around", noted)
    turns = random.Random(seed)
    with machine(seed, step) as (memory, cpu), machine(seed, step) as (other, expected):
        engine = NativeEngine(ISA, memory, cache=False, synchronous=True)
        reference = ReferenceEngine(ISA, other)
        try:
            with machine(seed, 0) as (_, first):
                data = memory.read(DATA, 0x1000)
                assert engine.run(first, memory, 1 << 30) == Syscall()  # compiles it
                memory.write(DATA, data)
            before = engine.stats.retired_jit
            assert before > 10**5
            largest = max(made, key=lambda one: len(one.places))
            assert len(largest.places) > len(OPERATIONS)
            emitted = regions._Emit(ISA, largest)
            assert emitted.in_state_only & emitted.pinned or working < 11, "those that calls pin, too"
            ways = {label: emitted.settled.get(label, set()) for label in largest.blocks}
            assert any(emitted.live[place] & ways[regions._DISPATCH] for place in largest.places), (
                "some reads one"
            )
            assert any(cells for label, cells in ways.items() if label != regions._DISPATCH)
            for _ in range(600 if step else 120):
                limit = turns.choice((1, 2, 7, turns.randrange(1, 60), turns.randrange(1, 900)))
                result = engine.run(cpu, memory, limit)
                assert result == reference.run(expected, other, limit)
                assert registers(cpu) == registers(expected)
                assert memory.read(DATA, 0x1000) == other.read(DATA, 0x1000)
                if isinstance(result, Trap):
                    break
                assert result == Budget()
            assert isinstance(result, Trap) == bool(step)
            assert engine.stats.retired_jit > before + 1000
        finally:
            engine.close()
