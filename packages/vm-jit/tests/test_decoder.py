"""The native decoder writes what Python's writes, or leaves it to Python."""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vm_core import isa as isas
from vm_core.engine import Trap
from vm_core.memory import PAGE, GuestMemory, Prot
from vm_core.spec.isa import Decoded, Isa
from vm_jit import prebuilt
from vm_jit.cache import Cache
from vm_jit.code_memory import CodeMemory
from vm_jit.decoder import NEEDS_PYTHON
from vm_jit.engine import NativeEngine
from vm_jit.records import RECORD_BYTES

CODE = 0x10000


@pytest.fixture(scope="module", params=["riscv64", "aarch64"])
def engine(request: pytest.FixtureRequest, cache: None) -> Iterator[NativeEngine]:
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 2 * PAGE, Prot.RX)
        made = NativeEngine(isas.get(request.param), memory, jit=False)
        yield made
        made.close()


def decode(engine: NativeEngine, offset: int, limit: int) -> int:
    """Decode natively at an offset of the page at CODE."""
    context = engine._attach(CODE)._context(CODE >> 12, engine.memory)
    context[5] = limit
    assert engine.interpreter.decode is not None
    return engine.interpreter.decode(ctypes.addressof(context), offset)


def one(engine: NativeEngine, data: bytes) -> tuple[int, tuple[int, bytes, int]]:
    """Decode one instruction natively: (what decode() returned, (handler, operands, length))."""
    engine.memory.poke(CODE, data)
    engine.invalidate(CODE, CODE + PAGE)
    image = engine._attach(CODE)
    at = image._page(CODE >> 12, engine.memory)
    stopped = decode(engine, 0, 1)
    record = bytes(image._bytes[at : at + RECORD_BYTES])
    return stopped, (int.from_bytes(record[:8], "little"), record[8:24], record[26])


def operands_of(engine: NativeEngine, insn: Decoded, pc: int) -> tuple[int, bytes, bool]:
    """What Python makes of an instruction."""
    return engine._attach(CODE)._operands(insn, engine.memory.peek(pc, insn.length))


def check(engine: NativeEngine, data: bytes) -> bool:
    """Whether the instruction was decoded natively; if so, it is what Python makes of it."""
    stopped, found = one(engine, data)
    if stopped & NEEDS_PYTHON:
        assert stopped == NEEDS_PYTHON
        assert found[0] == engine._attach(CODE)._miss
        return False
    insn = engine._attach(CODE).decode(CODE, engine.memory)
    assert not isinstance(insn, Trap), data.hex()
    handler, operands, _ = operands_of(engine, insn, CODE)
    names = {address: name for name, address in engine.interpreter.address.items()}
    assert (names[found[0]], found[1], found[2]) == (names[handler], operands, insn.length), insn.text()
    assert stopped == insn.length
    return True


def some(isa: Isa, rng: random.Random) -> bytes:
    return isa.random(rng).ljust(4, b"\0")


def ends(engine: NativeEngine, data: bytes) -> bool:
    engine.memory.poke(CODE, data)
    insn = engine._attach(CODE).decode(CODE, engine.memory)
    return isinstance(insn, Trap) or operands_of(engine, insn, CODE)[2]


def test_random_instructions(engine: NativeEngine) -> None:
    rng = random.Random(11)
    native = sum(check(engine, some(engine.isa, rng)) for _ in range(6000))
    assert native > {"riscv64": 5000, "aarch64": 3000}[engine.isa.name]


def test_python_decodes_what_is_seldom_met(engine: NativeEngine) -> None:
    """One instruction that only Python decodes, in a usual program, costs loading the texts of all, 20 ms."""
    rng = random.Random(16)
    left = {
        name
        for name in engine.isa.instructions
        if sum(check(engine, engine.isa.random(rng, [name]).ljust(4, b"\0")) for _ in range(60)) < 20
    }
    if engine.isa.name == "riscv64":
        assert left == {"ebreak", "c.ebreak"}


def test_random_words(engine: NativeEngine) -> None:
    """Also those that are no instructions."""
    rng = random.Random(12)
    native = sum(check(engine, rng.randbytes(4)) for _ in range(20_000))
    assert native > 2000


def test_every_half_word(engine: NativeEngine) -> None:
    if engine.isa.unit != 2:
        pytest.skip("has no compressed instructions")
    native = sum(check(engine, word.to_bytes(4, "little")) for word in range(1 << 16) if word & 3 != 3)
    assert native > 40_000


def test_what_an_instruction_ends(engine: NativeEngine) -> None:
    """A block ends where Python's does: at each instruction that may go elsewhere, and at the limit."""
    rng = random.Random(13)
    for _ in range(300):
        code = b"".join(engine.isa.random(rng) for _ in range(20))
        engine.memory.poke(CODE, code.ljust(100, b"\0"))
        engine.invalidate(CODE, CODE + PAGE)
        limit = rng.randrange(1, 20)
        stopped = decode(engine, 0, limit)
        pc, last, count = CODE, False, 0
        while pc < CODE + (stopped & PAGE - 1):
            assert not last
            assert count < limit
            insn = engine._attach(CODE).decode(pc, engine.memory)
            assert not isinstance(insn, Trap)
            _, _, last = operands_of(engine, insn, pc)
            pc, count = pc + insn.length, count + 1
        assert pc == CODE + (stopped & PAGE - 1)
        assert last or count == limit or stopped & NEEDS_PYTHON


def test_the_edge_of_a_page(engine: NativeEngine) -> None:
    """What reaches into the next page is decoded only if that is code too."""
    rng = random.Random(15)
    word = some(engine.isa, rng)
    while engine.isa.length(word) != 4 or ends(engine, word) or one(engine, word)[0] & NEEDS_PYTHON:
        word = some(engine.isa, rng)
    engine.memory.poke(CODE + PAGE - 8, word * 3)
    engine.invalidate(CODE, CODE + 2 * PAGE)
    assert decode(engine, PAGE - 8, 9) == PAGE
    if engine.isa.unit == 2:
        engine.memory.poke(CODE + PAGE - 6, word)
        engine.memory.poke(CODE + PAGE - 2, word)
        engine.invalidate(CODE, CODE + 2 * PAGE)
        engine.memory.protect(CODE + PAGE, PAGE, Prot.READ)
        assert decode(engine, PAGE - 6, 9) == PAGE - 2 | NEEDS_PYTHON
        engine.memory.protect(CODE + PAGE, PAGE, Prot.RX)
        assert decode(engine, PAGE - 2, 9) == PAGE + 2
    engine.memory.protect(CODE, PAGE, Prot.READ)
    assert decode(engine, 0, 9) == NEEDS_PYTHON
    engine.memory.protect(CODE, PAGE, Prot.RX)


def test_decoded_records_are_not_touched(engine: NativeEngine) -> None:
    rng = random.Random(14)
    data = some(engine.isa, rng)
    while one(engine, data)[0] & NEEDS_PYTHON:
        data = some(engine.isa, rng)
    assert decode(engine, 0, 5) == 0


def test_a_program_loads_no_texts(cache: None) -> None:
    """What a usual program runs is decoded without the instructions' texts, which take long to load."""
    isa = isas.get("riscv64")
    lines = ("addi a0, a0, 100", "c.addi a0, -1", "c.bnez a0, -2", "lui a1, 0x12345", "c.mv a2, a1", "ecall")
    code = b"".join(map(isa.assemble, lines))
    prebuilt.load("alone", isa, Cache(), CodeMemory())  # where the other process looks
    script = f"""
import sys
from vm_core import isa
from vm_core.engine import Syscall
from vm_core.memory import GuestMemory, Prot
from vm_jit.engine import NativeEngine
memory = GuestMemory(bits=24)
memory.map({CODE}, 4096, Prot.RX)
memory.poke({CODE}, bytes.fromhex("{code.hex()}"))
engine = NativeEngine(isa.get("riscv64"), memory, jit=False, baseline=False)
cpu = engine.isa.cpu()
cpu.pc = {CODE}
assert engine.run(cpu, memory, 1000) == Syscall()
assert cpu["a2"] == 0x12345000
assert engine.stats.blocks_decoded == 2, engine.stats
print([name for name in ("vm_core.isa.riscv.rvi", "vm_jit.lowering", "json") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
