"""Line tables of regions: they change no code, and say of each part of it which instruction it came from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from vm_core import isa as isas
from vm_core.errors import CacheError
from vm_core.memory import GuestMemory, Prot
from vm_core.spec.isa import Decoded
from vm_jit import lines, region
from vm_jit.cache import Cache
from vm_jit.code_memory import Image, Places, link
from vm_jit.compiler import compile_text
from vm_jit.engine import NativeEngine, _code

pytest.importorskip("llvmlite")

CODE = 0x10000
ISA = isas.get("riscv64")
PROGRAM = (
    "ld a2, 0(a3)",
    "mul a1, a1, a2",
    "addi a3, a3, 8",
    "sd a1, 0(a4)",
    "addi a0, a0, -1",
    "bne a0, zero, -20",
    "fadd.d fa0, fa0, fa1",
    "jalr zero, 0(ra)",
)


def text() -> str:
    data = b"".join(ISA.assemble(line) for line in PROGRAM)

    def executed(pc: int) -> Decoded | None:
        at = pc - CODE
        return ISA.decode(data[at : at + 4], pc) if 0 <= at < len(data) else None

    found = region.discover(ISA, (CODE,), executed, guess=lambda _pc: None)
    assert found is not None
    return region.emit(ISA, found)


def test_the_code_is_the_same() -> None:
    plain = link(compile_text(text(), passes="region"))
    data = compile_text(lines.annotate(text()), passes="region")
    image = lines.attach(link(data), data)
    assert image.code[: len(plain.code)] == plain.code
    assert (image.fixups, image.faults) == (plain.fixups, plain.faults)


def test_what_the_table_says() -> None:
    data = compile_text(lines.annotate(text()), passes="region")
    image = lines.attach(link(data), data)
    offsets, addresses = lines.places_of(Image.unpack(image.pack()), CODE)
    assert offsets == sorted(set(offsets))
    assert max(offsets) <= len(link(data).code)
    everything = {CODE + 4 * i for i in range(len(PROGRAM))}
    # LLVM may make one host instruction of two.
    assert everything - {CODE + 8, CODE + 16} <= set(addresses) <= everything | {0}
    # The loads and stores fault where the table says they are.
    wanted = {CODE, CODE + 12}
    assert {lines.place_at((offsets, addresses), at) for at, _ in image.faults} == wanted


@pytest.mark.parametrize(
    ("places", "offset", "wanted"),
    [(([4, 8, 12], [1, 2, 0]), at, pc) for at, pc in ((0, 1), (4, 1), (7, 1), (8, 2), (12, 0), (99, 0))]
    + [(([], []), 5, 0)],
)
def test_looking_up(places: Places, offset: int, wanted: int) -> None:
    assert lines.place_at(places, offset) == wanted


def test_without_a_table_all_is_the_root() -> None:
    image = link(compile_text(text(), passes="region"))
    assert lines.places_of(image, CODE) == ([0], [CODE])


def test_a_torn_table_is_refused() -> None:
    data = compile_text(lines.annotate(text()), passes="region")
    image = link(data)
    for size in (20, len(data) // 2, len(data) - 64):
        with pytest.raises(CacheError):
            lines.attach(image, data[:size])


def test_tiers_tell_what_they_made(tmp_path: Path) -> None:
    """Both tiers; and the lines come back from the cache."""
    cache = Cache(tmp_path)
    told: list[tuple[str, Places]] = []
    for _ in range(2):
        with GuestMemory(bits=24) as memory:
            memory.map(CODE, 0x4000, Prot.RX)
            memory.poke(CODE, b"".join(ISA.assemble(line) for line in (*PROGRAM[:6], "ecall")))
            memory.map(0x20000, 0x40000, Prot.RW)
            engine = NativeEngine(ISA, memory, cache=cache, synchronous=True, lines=True)
            _code.listener = lambda _block, tier, places: told.append((tier, places))
            try:
                cpu = ISA.cpu()
                cpu.pc, cpu["a0"], cpu["a3"], cpu["a4"] = CODE, 30_000, 0x20000, 0x20000
                engine.run(cpu, memory, 1 << 30)
            finally:
                _code.listener = None
                engine.close()
    by_tier: dict[str, list[Sequence[int]]] = {}
    for tier, (offsets, addresses) in told:
        assert all(a < b for a, b in itertools.pairwise(offsets)), tier
        by_tier.setdefault(tier, []).append(addresses)
    assert all(CODE in addresses for addresses in by_tier["baseline"])
    assert len(by_tier["llvm"]) == 2, "the second run takes it from the cache"
    for addresses in by_tier["llvm"]:
        assert {CODE, CODE + 4, CODE + 12} <= set(addresses)
