"""What the cache keeps of the baseline tier: in another process, at other addresses, it does what it did."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vm_core import isa as isas
from vm_core.engine import Syscall
from vm_core.errors import CacheError
from vm_core.memory import PAGE, GuestMemory, Prot
from vm_core.state import CpuState
from vm_jit import baseline, kept
from vm_jit.cache import SUFFIX, Cache
from vm_jit.engine import NativeEngine

CODE = 0x10000
FAR = CODE + 4 * PAGE
ISA = isas.get("riscv64")


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


@pytest.fixture
def cache(tmp_path: Path, cache: None, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(baseline, "_FEW", 0)
    return Cache(tmp_path / "code")


def program(seed: int) -> bytes:
    """Loops, calls to another page, a jump table, memory; its sum is in a1. a0 counts down, a2 points to data."""
    rng = random.Random(seed)
    text = [f"addi a1, a1, {rng.randrange(-100, 100)}", "sd a1, 0(a2)", "lw a3, 4(a2)", "add a1, a1, a3"]
    text += [f"jal ra, {FAR - CODE - 4 * len(text)}"]
    text += [
        "beq a1, zero, 8",
        "addi a1, a1, 1",
        "auipc a4, 0",
        "addi a4, a4, 16",
        "jalr zero, 0(a4)",
        "addi a1, a1, 5",
    ]
    text += ["addi a0, a0, -1", f"bne a0, zero, {-4 * (len(text) + 1)}", "ecall"]
    far = assemble("slli a3, a1, 3", "xor a1, a1, a3", "lbu a3, 0(a2)", "add a1, a1, a3", "jalr zero, 0(ra)")
    return assemble(*text).ljust(FAR - CODE, b"\0") + far


@contextmanager
def machine(cache: Cache, code: bytes, **options: object) -> Iterator[tuple[NativeEngine, CpuState]]:
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 8 * PAGE, Prot.RX)
        memory.map(0x80000, PAGE, Prot.RW)
        memory.poke(CODE, code)
        engine = NativeEngine(ISA, memory, cache=cache, **{"jit": False, "synchronous": True, **options})
        try:
            yield engine, ISA.cpu()
        finally:
            engine.close()


def run(engine: NativeEngine, cpu: CpuState, count: int, budget: int = 1 << 40) -> object:
    cpu.pc, cpu["a0"], cpu["a1"], cpu["a2"] = CODE, count, 7, 0x80000
    cpu["a3"] = cpu["a4"] = cpu["ra"] = 0
    return engine.run(cpu, engine.memory, budget)


def made(engine: NativeEngine) -> tuple[int, int]:
    """How many units this run has made, and taken from the cache."""
    image = engine._image
    assert image is not None
    assert image.baseline is not None
    return image.baseline._fresh, image.stats.extra.get("baseline_restored", 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_second_run_makes_nothing_and_is_the_same(cache: Cache, seed: int) -> None:
    code = program(seed)
    with machine(cache, code) as (engine, cpu):
        assert run(engine, cpu, 20_000) == Syscall()
        first, retired = cpu["a1"], engine.stats.retired
        assert made(engine)[0] > 1
    with machine(cache, code) as (engine, cpu):
        assert run(engine, cpu, 20_000) == Syscall()
        assert (cpu["a1"], engine.stats.retired) == (first, retired)
        fresh, restored = made(engine)
        assert not fresh
        assert restored > 1
        # The counts are exact where the budget ends inside.
        for budget in (1, 7, 100, 1001, 12_345):
            with machine(cache, code, baseline=False) as (plain, other):
                run(plain, other, 5_000, budget)
                run(engine, cpu, 5_000, budget)
                assert (cpu.pc, *(cpu[name] for name in ("a0", "a1", "a3", "a4", "ra"))) == (
                    other.pc,
                    *(other[name] for name in ("a0", "a1", "a3", "a4", "ra")),
                )


def test_a_program_that_ends_soon_makes_and_reads_nothing(cache: Cache) -> None:
    code = program(0)
    with machine(cache, code) as (engine, cpu):
        run(engine, cpu, 20_000)
    for kept_ in (True, False):
        if not kept_:
            for file in cache.directory.glob("units-*"):
                file.unlink()
        with machine(cache, code, synchronous=False) as (engine, cpu):
            assert run(engine, cpu, 200) == Syscall()  # its places are warm three times
            image = engine._image
            assert image is not None
            assert image.baseline is not None
            assert made(engine) == (0, 0)
            assert not image.baseline._groups
            image.baseline._early = -1  # two vCPUs have reported at once
            assert run(engine, cpu, 20_000) == Syscall()
            image.baseline.settle()
            assert run(engine, cpu, 20_000) == Syscall()
            fresh, restored = made(engine)
            assert (bool(fresh), bool(restored)) == (not kept_, kept_)


def test_what_is_refused_goes_to_the_interpreter(cache: Cache) -> None:
    """Also where nothing but the unit has been decoded: a page that may not be written, an address outside."""
    code = program(1)
    with machine(cache, code) as (engine, cpu):
        run(engine, cpu, 20_000)
    for place, prot in (0x80000, Prot.READ), (1 << 30, Prot.RW), (0x80FFC, Prot.RW):
        found = []
        for options in ({}, {"baseline": False}):
            with machine(cache, code, **options) as (engine, cpu):
                run(engine, cpu, 200)  # until it is warm
                if place == 0x80000:
                    engine.memory.protect(0x80000, PAGE, prot)
                cpu.pc, cpu["a0"], cpu["a1"], cpu["a2"] = CODE, 3, 7, place
                found.append((engine.run(cpu, engine.memory, 1000), cpu.pc, cpu["a1"], cpu["a3"]))
                if not options:
                    assert made(engine)[1]
        assert str(found[0]) == str(found[1])


def test_other_bytes_are_not_taken_for_those(cache: Cache) -> None:
    with machine(cache, program(1)) as (engine, cpu):
        run(engine, cpu, 20_000)
    other = bytearray(program(1))
    other[FAR - CODE : FAR - CODE + 4] = assemble("slli a3, a1, 2")
    results = []
    for options in ({}, {"baseline": False}):
        with machine(cache, bytes(other), **options) as (engine, cpu):
            # The name of the file is made of samples: here of all that there is.
            run(engine, cpu, 20_000)
            results.append(cpu["a1"])
    assert results[0] == results[1]


def test_a_changed_page_drops_what_was_taken(cache: Cache) -> None:
    code = program(2)
    with machine(cache, code) as (engine, cpu):
        run(engine, cpu, 20_000)
    results = []
    for options in ({}, {"baseline": False}):
        with machine(cache, code, **options) as (engine, cpu):
            run(engine, cpu, 200)
            engine.memory.poke(FAR, assemble("slli a3, a1, 1"))
            engine.invalidate(FAR, FAR + 4)
            run(engine, cpu, 5_000)
            results.append(cpu["a1"])
    assert results[0] == results[1]


def test_code_on_a_page_that_nobody_has_come_to(cache: Cache) -> None:
    """The unit leads to it directly; a vCPU that comes there finds what is there then."""
    there = CODE + 0x20000  # another group
    code = assemble(
        "beq a5, zero, 8", f"jal ra, {there - CODE - 4}", "addi a0, a0, -1", "bne a0, zero, -12", "ecall"
    )

    def body(number: int) -> bytes:
        return assemble(f"addi a1, a1, {number}", "jalr zero, 0(ra)")

    for turn in range(2):
        with machine(cache, code) as (engine, cpu):
            engine.memory.map(there, PAGE, Prot.RX)
            engine.memory.poke(there, body(2))
            if not turn:
                cpu["a5"] = 1
                assert run(engine, cpu, 20_000) == Syscall()
                continue
            assert run(engine, cpu, 200) == Syscall()  # warm, but it has not been there
            image = engine._image
            assert image is not None
            assert made(engine) == (0, 1)
            assert there >> 12 in image._reserved
            engine.memory.unmap(there, PAGE)
            engine.invalidate(there, there + PAGE)
            cpu["a5"] = 1
            assert "fetch" in str(run(engine, cpu, 5)).lower()
            assert cpu.pc == there
            engine.memory.map(there, PAGE, Prot.RX)
            engine.memory.poke(there, body(3))
            engine.invalidate(there, there + PAGE)
            assert run(engine, cpu, 5) == Syscall()
            assert cpu["a1"] == 7 + 15
    with machine(cache, code) as (engine, cpu):
        engine.memory.map(there, PAGE, Prot.RX)
        engine.memory.poke(there, body(2))
        cpu["a5"] = 1
        assert run(engine, cpu, 20_000) == Syscall()
        assert made(engine) == (0, 2)


def test_a_damaged_file_is_left_out(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    code = program(1)
    with machine(cache, code) as (engine, cpu):
        run(engine, cpu, 20_000)
        wanted = cpu["a1"]
    (file,) = Path(cache.root).glob(f"units-*{SUFFIX}")
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with machine(cache, code) as (engine, cpu):
        run(engine, cpu, 20_000)
        assert cpu["a1"] == wanted
        assert not made(engine)[1]
    assert "checksum" in caplog.text


def test_groups_as_bytes() -> None:
    group = kept.Group(
        0x10000, 0x10100, bytes(16), (16,), ((0, 1, 77),), struct.pack("<3Q", 0x10000, 8, 5), bytes(32), bytes(16), bytes(64)
    )  # fmt: skip
    data = kept.pack_groups([group, group])
    found = list(kept.unpack_groups(memoryview(data)))
    assert len(found) == 2
    assert [bytes(getattr(found[1], name)) for name in ("heads", "rows", "moves", "code")] == [
        getattr(group, name) for name in ("heads", "rows", "moves", "code")
    ]
    assert (found[0].pages, found[0].parts, found[0].digest) == (group.pages, group.parts, group.digest)
    rng = random.Random(1)
    for _ in range(300):
        torn = bytearray(data)
        torn[rng.randrange(48)] ^= 1 << rng.randrange(8)
        with contextlib.suppress(CacheError):
            list(kept.unpack_groups(memoryview(torn)))
    with pytest.raises(CacheError):
        list(kept.unpack_groups(memoryview(data[:-1])))


def test_in_another_process(cache: Cache, tmp_path: Path) -> None:
    """Where all addresses are others."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_kept as t
from vm_jit.cache import Cache
with t.machine(Cache(Path({str(tmp_path / "code")!r})), t.program(0)) as (engine, cpu):
    print(t.run(engine, cpu, 30_000), cpu["a1"], engine.stats.retired, *t.made(engine))
"""
    with machine(cache, program(0)) as (engine, cpu):
        result = run(engine, cpu, 30_000)
        line = f"{result} {cpu['a1']} {engine.stats.retired} 0 {made(engine)[0]}"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == line
