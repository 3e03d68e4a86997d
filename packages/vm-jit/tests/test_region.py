"""What becomes a region: which code belongs to it, which calls are taken in, where its loops begin."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from vm_core import engines
from vm_core import isa as isas
from vm_core.engine import Syscall, Trap
from vm_core.memory import GuestMemory, Prot
from vm_core.spec.isa import Decoded
from vm_jit.ranges import SIGNED, Ranges
from vm_jit.region import Block, address, discover, emit, restart_points, shown_later, surroundings

ISA = isas.get("riscv64")
START = 0x1000


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


def code(*lines: str) -> dict[int, Decoded]:
    data = assemble(*lines)
    return {START + i: ISA.decode(data[i : i + 4], START + i) for i in range(0, len(data), 4)}


def always(_: int) -> bool:
    return True


def only(*places: int) -> Callable[[int], bool]:
    return lambda pc: pc in places


FIB = (
    "addi sp, sp, -32",  # 1000
    "sd ra, 0(sp)",
    "sd s0, 8(sp)",
    "sd s1, 16(sp)",
    "addi s1, a0, 0",
    "addi t0, zero, 2",
    "bltu a0, t0, 32",  # 1018: to 1038
    "addi a0, s1, -1",
    "jal ra, -32",  # 1020
    "addi s0, a0, 0",
    "addi a0, s1, -2",
    "jal ra, -44",  # 102c
    "add a0, a0, s0",
    "jal zero, 4",
    "ld ra, 0(sp)",  # 1038
    "ld s0, 8(sp)",
    "ld s1, 16(sp)",
    "addi sp, sp, 32",
    "jalr zero, 0(ra)",
)
"""fib(a0), with a stack at sp."""


def test_recursion_is_taken_in_some_levels_deep() -> None:
    insns = code(*FIB)
    region = discover(ISA, (START,), insns.get)
    assert region is not None
    copies = [label for label in region.blocks if address(label) == START]
    assert len(copies) > 4
    assert START in copies
    assert region.own == region.spans == ((START, START + 4 * len(FIB)),)
    kinds = {label: block.kind for label, block in region.blocks.items()}
    assert "inline" in kinds.values()
    assert "call" in kinds.values()
    for label, block in region.blocks.items():
        if block.kind == "ret" and label != address(label):
            (back,) = block.returns
            assert address(back) in (START + 0x24, START + 0x30)
        elif block.kind == "ret":
            assert block.returns == ()


def test_calls_of_seldom_run_functions_stay_calls() -> None:
    insns = code(*FIB)
    region = discover(ISA, (START,), insns.get, frequent=lambda _, to: to != START)
    assert region is not None
    assert region.size == len(FIB)
    assert {block.kind for block in region.blocks.values()} >= {"call"}


def test_a_long_function_is_taken_in_once() -> None:
    callers = ("addi s0, ra, 0", "jal ra, 16", "jal ra, 12", "jalr zero, 0(s0)", "ecall")
    for body, copies in ((100, 2), (150, 1), (250, 0)):
        insns = code(*callers, *["addi a0, a0, 1"] * body, "jalr zero, 0(ra)")
        region = discover(ISA, (START,), insns.get)
        assert region is not None
        assert [address(label) for label in region.blocks].count(START + 20) == copies
        assert region.own == ((START, START + 16),)


def test_a_call_is_taken_in_where_it_returns_often() -> None:
    insns = code(*FIB)
    region = discover(ISA, (START,), insns.get, frequent=lambda back, _: back == START + 0x24)
    assert region is not None
    kinds = {(block.kind, address(block.follow)) for block in region.blocks.values()}
    assert ("inline", START + 0x24) in kinds
    assert ("inline", START + 0x30) not in kinds


def test_a_door_loads_what_is_needed_behind_it() -> None:
    """The second part, behind the interpreter's instruction, reads t1; the first does not, nor does it leave with it changed."""
    insns = code("addi t0, t0, 1", "csrrs a0, cycle, zero", "add t0, t0, t1", "jalr zero, 0(ra)")
    region = discover(ISA, (START,), insns.get)
    assert region is not None
    assert region.entries == (START, START + 8)
    text = emit(ISA, region)
    place = f"%st, i64 {ISA.layout.offset('x', 6)}"
    first, second = (text.split(f"\nD{pc:x}:")[1].split("\n  br ")[0] for pc in region.entries)
    assert place in second
    assert place not in first


def test_recursion_gives_what_it_should_and_counts_each_instruction() -> None:
    """With the stack's end in the middle of a taken-in call, too: the fault is where the reference engine has it."""
    seen: dict[str, list[object]] = {}
    for name, options in (("reference", {}), ("jit", {"cache": False, "synchronous": True, "eager": True})):
        out = seen[name] = []
        for base in (0x8000, 0x6100):  # the second meets an unmapped page below 0x6000
            with GuestMemory(bits=20) as memory:
                memory.map(START, 0x1000, Prot.RX)
                memory.map(0x3000, 0x1000, Prot.RX)
                memory.map(0x6000, 0x3000, Prot.RW)
                memory.poke(START, assemble(*FIB))
                memory.poke(0x3000, assemble("ecall"))
                cpu = ISA.cpu()
                cpu.pc, cpu["a0"], cpu["sp"], cpu["ra"] = START, 14, base, 0x3000
                engine = engines.create(name, ISA, memory, **options)
                try:
                    if name == "jit" and base == 0x6100:
                        # What is to be taken in must have run: with a stack that is long enough, first.
                        first = ISA.cpu()
                        first.pc, first["a0"], first["sp"], first["ra"] = START, 14, 0x8000, 0x3000
                        engine.run(first, memory, 1 << 30)
                    before = engine.stats.retired
                    trap = engine.run(cpu, memory, 1 << 30)
                    out.append(
                        (trap, cpu.pc, [cpu[f"x{i}"] for i in range(32)], engine.stats.retired - before)
                    )
                    if name == "jit":
                        assert engine.stats.retired_jit > 500
                finally:
                    engine.close()
    assert seen["jit"] == seen["reference"]
    good, bad = seen["jit"]
    assert isinstance(good, tuple)
    assert isinstance(bad, tuple)
    assert (good[0], good[2][10]) == (Syscall(), 377)
    assert isinstance(bad[0], Trap)


LOOPS = (
    "addi t0, zero, 9",  # 1000: a function
    "jal zero, 8",  # into the middle of its loop
    "addi a0, a0, 8",  # 1008: the target of the jump back
    "ld t1, 0(a0)",  # 100c: where it is entered
    "addi t0, t0, -1",
    "bne t0, zero, -12",
    "jalr zero, 0(ra)",  # 1018
)


def test_a_loop_that_is_entered_in_its_middle_has_its_head_there() -> None:
    insns = code(*LOOPS)
    region = discover(ISA, (START + 8, START), insns.get)
    assert region is not None

    def after(block: object) -> list[int]:
        blocks = region.blocks
        ways = {"jump": (block.target,), "branch": (block.follow, block.target), "fall": (block.follow,)}  # type: ignore[attr-defined]
        return [pc for pc in ways.get(block.kind, ()) if pc in blocks]  # type: ignore[attr-defined]

    ranges = Ranges(ISA, region.blocks, (*region.roots, *region.entries), after)
    assert ranges.loops.keys() == {START + 12}
    assert START not in ranges.loops[START + 12]
    assert ranges.looks[START] == set()
    assert ranges.looks[START + 8] == ranges.looks[START + 12] == {("x", 10)}


def test_of_a_function_that_was_called_once_only_the_loop_is_compiled() -> None:
    insns = code(*LOOPS)
    pc = START + 8
    roots, members, restricted = surroundings(ISA, pc, insns, only(pc), [pc])
    assert (roots, members, restricted) == ((pc,), {START + 8, START + 12, START + 16, START + 20}, True)
    roots, members, restricted = surroundings(ISA, pc, insns, always, [pc])
    assert (set(roots), members, restricted) == ({START, pc}, set(insns), False)


FAR = 0x4000
"""Beyond what counts as near to START."""


def jumping_to(*lines: str) -> dict[int, Decoded]:
    """A function whose last instruction jumps to FAR, where ``lines`` are."""
    data = assemble(*lines)
    there = {FAR + i: ISA.decode(data[i : i + 4], FAR + i) for i in range(0, len(data), 4)}
    return code("addi a0, a0, 1", f"jal zero, {FAR - START - 4}") | there


def test_a_far_jump_is_a_tail_call_unless_it_comes_back() -> None:
    for lines, belongs in (
        (("addi a0, a0, 2", "jalr zero, 0(ra)"), False),
        (("addi a0, a0, 2", f"jal zero, {START - FAR - 4}"), True),
        (("ld a5, 0(a0)", "jalr zero, 0(a5)"), True),  # the next operation of an interpreter
        (("jal ra, 64", "jalr zero, 0(ra)"), False),
    ):
        region = discover(ISA, [START], jumping_to(*lines).get)
        assert region is not None
        assert (FAR in region.blocks) == belongs, lines
        assert FAR not in region.exits


def flow(insns: dict[int, Decoded], *roots: int) -> Ranges:
    region = discover(ISA, roots, insns.get)
    assert region is not None
    ways = {"jump": ("target",), "branch": ("follow", "target"), "fall": ("follow",)}

    def after(block: Block) -> list[int]:
        found = [getattr(block, name) for name in ways.get(block.kind, ())]
        return [pc for pc in found if pc in region.blocks]

    return Ranges(ISA, region.blocks, (*region.roots, *region.entries), after)


def test_what_leads_into_the_middle_of_a_loop_is_no_part_of_it() -> None:
    ranges = flow(
        code(
            "ld a2, 0(a1)",  # 1000: may hold anything when it is come to
            "beq a2, zero, 12",  # 1004: to the loop's end
            "sd a3, 0(a4)",  # 1008: the loop
            "addi a4, a4, 8",
            "sd a3, 0(a5)",  # 1010
            "addi a5, a5, 8",
            "bltu a5, a6, -16",  # 1018: to 1008
            "jalr zero, 0(ra)",
        ),
        START,
    )
    inside = {START + 8, START + 16}
    assert ranges.loops == {START + 8: inside, START + 16: inside}
    assert ranges.looks[START] == set()
    assert ranges.looks[START + 8] == ranges.looks[START + 16] == {("x", 14), ("x", 15)}


def test_what_a_loop_writes_before_it_reads_is_not_looked_at() -> None:
    ranges = flow(
        code(
            "ld a2, 0(a1)",  # 1000: a1 is looked at, a2 is not
            "ld a3, 0(a2)",
            "addi a1, a1, 8",
            "bne a3, zero, -12",
            "jalr zero, 0(ra)",
        ),
        START,
    )
    assert ranges.looks[START] == {("x", 11)}


def test_that_numbers_stay_in_32_bits_is_asked_once() -> None:
    insns = code(
        "addiw a2, a1, 0",  # 1000
        "addw a3, a3, a2",
        "addi a1, a3, 0",
        "addi a4, a4, -1",
        "bne a4, zero, -16",
        "jalr zero, 0(ra)",
    )
    ranges = flow(insns, START)
    assert ranges.narrow[START] == {("x", 11), ("x", 13)}
    state = dict(ranges.before[START])
    assert state == dict.fromkeys([("x", 11), ("x", 13)], SIGNED)
    _, same = ranges.step(insns[START], START, state)
    assert len(same) == 1  # no extension
    _, same = ranges.step(insns[START + 4], START + 4, state)
    assert not same


def test_what_a_loop_makes_wider_is_not_asked_to_be_narrow() -> None:
    ranges = flow(
        code("addiw a2, a1, 0", "add a1, a1, a2", "addi a4, a4, -1", "bne a4, zero, -12", "jalr zero, 0(ra)"),
        START,
    )
    assert ranges.narrow[START] == set()


def test_what_a_loop_may_leave_as_it_is_is_not_asked_to_be_narrow() -> None:
    """Control would not get into it in any turn, were it wider."""
    for lines, asked in (
        (["addiw a2, a1, 0", "fmv.x.w a5, fa0"], set()),
        (["addiw a2, a1, 0", "beq a2, zero, 8", "addiw a1, a1, 1"], set()),
        (["addiw a2, a1, 0", "xori a1, a1, 5"], set()),
        (["addiw a2, a1, 0", "srliw a1, a1, 8", "xori a1, a1, 5"], {("x", 11)}),
        (
            ["addiw a2, a1, 0", "beq a2, zero, 12", "addiw a1, a1, 1", "jal zero, 8", "lw a1, 0(a3)"],
            {("x", 11)},
        ),
    ):
        back = -4 * len(lines) - 4
        ranges = flow(code(*lines, "addi a4, a4, -1", f"bne a4, zero, {back}", "jalr zero, 0(ra)"), START)
        assert ranges.narrow[START] == asked


def test_a_wide_number_that_a_loop_extends_does_not_keep_control_out() -> None:
    for line in ("addiw a2, a1, 0", "fmv.x.w a2, fa0"):
        with GuestMemory(bits=20) as memory:
            memory.map(START, 0x1000, Prot.RX)
            memory.poke(
                START, assemble(line, "add a3, a3, a2", "addi a0, a0, -1", "bne a0, zero, -12", "ecall")
            )
            cpu = ISA.cpu()
            engine = engines.create("jit", ISA, memory, cache=False, synchronous=True, eager=True)
            try:
                cpu.pc, cpu["a0"] = START, 5000
                cpu["a1"] = cpu["f10"] = 1 << 40 | 5
                engine.run(cpu, memory, 1 << 30)
                assert cpu["a3"] == 25000
                assert engine.stats.retired_jit > 15000
            finally:
                engine.close()


def test_nothing_is_known_of_addresses_that_nobody_looks_at() -> None:
    """A pointer that is -1 and not read through, in a region that is not isolated."""
    with GuestMemory(bits=20) as memory:
        memory.map(START, 0x1000, Prot.RX)
        memory.map(0x8000, 0x1000, Prot.RW)
        memory.poke(
            START,
            assemble(
                "blt a1, zero, 8",
                "lw a4, 0(a1)",
                "add.uw a2, a1, zero",
                "addi a0, a0, -1",
                "blt zero, a0, -16",
                "ecall",
            ),
        )
        cpu = ISA.cpu()
        options = {"cache": False, "synchronous": True, "eager": True, "isolation": "off"}
        engine = engines.create("jit", ISA, memory, **options)
        try:
            for value in (0x8000, (1 << 64) - 1):
                cpu.pc, cpu["a0"], cpu["a1"] = START, 40, value
                engine.run(cpu, memory, 1 << 30)
                assert cpu["a2"] == value & (1 << 32) - 1
            assert engine.stats.retired_jit > 100
        finally:
            engine.close()


@pytest.mark.parametrize("seed", range(24))
def test_loops_over_32_bits_leave_what_the_reference_does(seed: int) -> None:
    """Also where numbers are wider when control comes in, or become so."""
    rng = random.Random(seed)

    def line() -> str:
        rd, rs, rt = (f"a{rng.randrange(1, 7)}" for _ in range(3))
        return rng.choice(
            [
                f"addiw {rd}, {rs}, 0",
                f"addiw {rd}, {rs}, 0",
                f"addi {rd}, {rs}, 0",
                f"addiw {rd}, {rs}, {rng.choice((1, -1, 2047))}",
                f"addi {rd}, {rs}, {rng.choice((1, -2048))}",
                f"{rng.choice(('addw', 'subw', 'sllw', 'srlw', 'sraw', 'mulw'))} {rd}, {rs}, {rt}",
                f"{rng.choice(('and', 'or', 'xor', 'add', 'sltu'))} {rd}, {rs}, {rt}",
                f"{rng.choice(('slliw', 'srliw', 'sraiw'))} {rd}, {rs}, {rng.randrange(32)}",
                f"{rng.choice(('slli', 'srli', 'srai'))} {rd}, {rs}, {rng.choice((1, 31, 32, 33))}",
                f"andi {rd}, {rs}, {rng.choice((255, -256))}",
                f"lui {rd}, {rng.randrange(1 << 20)}",
            ]
        )

    body = [line() for _ in range(rng.randrange(4, 12))]
    program = assemble(*body, "addi a0, a0, -1", f"bne a0, zero, {-4 * len(body) - 4}", "ecall")
    edges = (0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 64) - (1 << 31), (1 << 64) - 1)
    starts = [
        [
            rng.choice(edges) if rng.random() < 0.5 else rng.randrange(-1 << 31, 1 << 31) & (1 << 64) - 1
            for _ in range(6)
        ]
        for _ in range(6)
    ]
    seen = {}
    for name, options in (("reference", {}), ("jit", {"cache": False, "synchronous": True, "eager": True})):
        with GuestMemory(bits=20) as memory:
            memory.map(START, 0x1000, Prot.RX)
            memory.poke(START, program)
            cpu = ISA.cpu()
            engine = engines.create(name, ISA, memory, **options)
            try:
                found = seen[name] = []
                for values in starts:
                    cpu.pc, cpu["a0"] = START, 40
                    for number, value in enumerate(values, 1):
                        cpu[f"a{number}"] = value
                    trap = engine.run(cpu, memory, 1 << 30)
                    found.append((trap, cpu.pc, [cpu[f"x{i}"] for i in range(32)], engine.stats.retired))
                if name == "jit":
                    assert engine.stats.retired_jit > 100
            finally:
                engine.close()
    assert seen["jit"] == seen["reference"]


def blocks_of(*lines: str) -> dict[int, Block]:
    region = discover(ISA, (START,), code(*lines).get)
    assert region is not None
    return region.blocks


def test_a_nan_is_looked_for_where_something_else_than_arithmetic_sees_it() -> None:
    (block,) = blocks_of(
        "fmul.d f1, f10, f11",  # 0: seen by 2
        "fmul.s f2, f10, f11",  # 1: read as a double by 3
        "fadd.d f3, f1, f12",  # 2: seen by 3
        "fmadd.d f4, f3, f2, f3",  # 3: stored
        "fsub.d f5, f10, f11",  # 4: the next reader is no arithmetic, though one comes after it
        "fmin.d f6, f5, f10",
        "fdiv.d f7, f5, f10",  # 6: replaced before it is read
        "fsqrt.d f7, f10",  # 7: seen by 8
        "fnmadd.d f7, f7, f10, f11",  # 8: the block ends
        "fsd f4, 0(a0)",
        "jalr zero, 0(ra)",
    ).values()
    assert shown_later(block, restart_points(block)) == {0, 2, 7}


def test_a_nan_does_not_cross_a_restart_point() -> None:
    (block,) = blocks_of(
        "fmul.d f1, f10, f11",
        "fld f2, 0(a0)",
        "fsd f2, 8(a0)",  # what is refused behind does not begin with the first again
        "fadd.d f3, f1, f12",
        "fadd.d f3, f3, f12",
        "jalr zero, 0(ra)",
    ).values()
    points = restart_points(block)
    assert points == [0, 2]
    assert shown_later(block, points) == {3}


def test_a_nan_that_is_found_late_leaves_what_it_should() -> None:
    """The product is a NaN in one turn of the loop; only the sum is looked at. Registers, flags and counts are the reference's."""
    program = assemble(
        "fld f1, 0(a0)",  # 1000: zeros, in one place infinity
        "fmul.d f2, f1, f10",
        "fadd.d f3, f2, f11",
        "fadd.d f12, f12, f3",
        "addi a0, a0, 8",
        "bne a0, a1, -20",
        "csrrs a2, fflags, zero",
        "ecall",
    )
    seen = {}
    for name, options in (("reference", {}), ("jit", {"cache": False, "synchronous": True, "eager": True})):
        with GuestMemory(bits=20) as memory:
            memory.map(START, 0x1000, Prot.RX)
            memory.map(0x4000, 0x1000, Prot.RW)
            memory.poke(START, program)
            memory.poke(0x4000 + 300 * 8, (0x7FF << 52).to_bytes(8, "little"))
            cpu = ISA.cpu()
            cpu.pc, cpu["a0"], cpu["a1"] = START, 0x4000, 0x5000
            cpu["f11"] = 0x3FF << 52
            engine = engines.create(name, ISA, memory, **options)
            try:
                trap = engine.run(cpu, memory, 1 << 30)
                kept = [cpu[f"{file}{i}"] for file in "xf" for i in range(32)]
                seen[name] = (trap, cpu.pc, kept, engine.stats.retired)
                if name == "jit":
                    assert engine.stats.retired_jit > 1000
            finally:
                engine.close()
    assert seen["jit"] == seen["reference"]
    assert seen["jit"][2][12] == 16  # infinity times zero was invalid
    assert seen["jit"][2][32 + 12] == 0x7FF8 << 48


def test_fuel_is_looked_at_in_loops_and_on_the_ways_in() -> None:
    lines = (
        "addi t0, zero, 9",  # 1000
        "add a0, a0, t0",  # 1004: the loop
        "beq a0, a1, 8",
        "addi t0, t0, -1",
        "addi a0, a0, 1",  # 1010: entered from outside too, but no loop begins here
        "bne t0, zero, -16",
        "jalr zero, 0(ra)",
    )
    region = discover(ISA, (START, START + 0x10), code(*lines).get)
    assert region is not None
    text = emit(ISA, region)
    # Two ways in, and one loop.
    assert text.count("icmp slt i64") == 3
    for block, looks in ("1000", 0), ("1004", 1), ("1010", 0):
        inside = text.partition(f"\nB{block}:")[2].partition("\nB")[0]
        assert inside.count("icmp slt i64") == looks


def test_what_functions_keep_is_known_behind_a_call() -> None:
    insns = code(
        "ld a0, 0(s0)",  # 1000
        "jal ra, 64",  # 1004: of something that has not run
        "ld a0, 8(s0)",
        "ld a1, 8(t0)",
        "jalr zero, 0(ra)",
    )
    region = discover(ISA, (START,), insns.get)
    assert region is not None

    def successors(block: Block) -> list[int]:
        return [block.follow] if block.follow in region.blocks else []

    kept = frozenset(ISA.preserved)
    ranges = Ranges(ISA, region.blocks, (START,), successors, kept)
    assert ranges.before[START + 8].keys() == {("x", 8)}
    assert Ranges(ISA, region.blocks, (START,), successors).before[START + 8] == {}
