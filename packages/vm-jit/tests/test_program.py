"""What is kept of a program and of our own code: right, or refused; never a crash of the host."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from vm_core import isa as isas
from vm_core.engine import Syscall
from vm_core.errors import CacheError
from vm_core.memory import GuestMemory, Prot
from vm_core.state import CpuState
from vm_jit import compiler, prebuilt
from vm_jit.cache import SUFFIX, Cache, pack
from vm_jit.code_memory import CodeMemory, Image, link
from vm_jit.compiler import compile_text
from vm_jit.digest import blake2b
from vm_jit.engine import BaselineEngine, InterpreterEngine, NativeEngine
from vm_jit.program import Program, Saved, pack_regions, unpack_regions
from vm_jit.sources import source_digest

CODE = 0x10000
ISA = isas.get("riscv64")
LOOP = b"".join(map(ISA.assemble, ("addi a1, a1, 3", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")))
FILLER = ISA.assemble("csrrs a3, cycle, zero") + b"".join(
    ISA.assemble(line) for i in range(40) for line in (f"addi a2, a2, {i}", "jal zero, 4")
)
RARE = b"".join(map(ISA.assemble, ("csrrs a3, cycle, zero", "ecall")))
REGION = "define dso_local i64 @region(i64 %x) {\n  ret i64 %x\n}"


@contextmanager
def machine(cache: Cache, code: bytes = FILLER + LOOP + RARE) -> Iterator[tuple[NativeEngine, CpuState]]:
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 0x4000, Prot.RX)
        memory.poke(CODE, code)
        engine = NativeEngine(ISA, memory, cache=cache, synchronous=True)
        cpu = ISA.cpu()
        cpu.pc, cpu["a0"] = CODE, 100_000
        try:
            yield engine, cpu
        finally:
            engine.close()


@pytest.fixture
def kept(tmp_path: Path, cache: None) -> Cache:
    """A cache that holds a program."""
    made = Cache(tmp_path / "code")
    with machine(made) as (engine, cpu):
        assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
        assert engine.stats.regions_compiled == 1
    return made


def slow(engine: NativeEngine) -> set[int]:
    return engine._attach(CODE).slow


def restore(program: Program, engine: NativeEngine) -> None:
    program.restore(engine.memory)


def content(cache: Cache) -> tuple[str, dict[str, bytes]]:
    (path,) = cache.directory.glob(f"program-*{SUFFIX}")
    name = path.name.removesuffix(SUFFIX)
    found = cache.read(name)
    assert found is not None
    return name, {key: bytes(value) for key, value in found.items()}


def test_nothing_is_decoded_compiled_or_written_again(kept: Cache) -> None:
    (path,) = kept.directory.glob(f"program-*{SUFFIX}")
    before = path.stat().st_mtime_ns
    with machine(kept) as (engine, cpu):
        assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
        assert cpu["a1"] == 300_000
        stats = engine.stats
        assert (len(slow(engine)), stats.regions_compiled, stats.regions_cached) == (1, 0, 1)
    assert path.stat().st_mtime_ns == before


def test_what_python_decodes_is_kept(kept: Cache) -> None:
    """Decoding in Python loads the instructions' texts, which takes longest of all."""
    for new in (1, 0):
        with machine(kept) as (engine, cpu):
            program = Program(engine._attach(CODE), kept, engine.memory)
            restore(program, engine)
            before = set(slow(engine))
            cpu.pc = CODE + len(FILLER + LOOP)
            assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
            assert len(slow(engine) - before) == new


@pytest.mark.parametrize("kind", [BaselineEngine, InterpreterEngine])
def test_engines_without_regions_leave_those_of_others_alone(kept: Cache, kind: type[NativeEngine]) -> None:
    (file,) = kept.directory.glob(f"program-*{SUFFIX}")
    before = file.read_bytes()
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 0x4000, Prot.RX)
        memory.poke(CODE, FILLER + LOOP + RARE)
        engine = kind(ISA, memory, cache=kept, synchronous=True)
        cpu = ISA.cpu()
        cpu.pc = CODE + len(FILLER + LOOP)
        assert engine.run(cpu, memory, 1 << 40) == Syscall()
        engine.close()
    assert file.read_bytes() != before  # what was decoded is kept
    with machine(kept) as (engine, cpu):
        assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
        assert (engine.stats.regions_compiled, engine.stats.regions_cached) == (0, 1)


def test_where_there_is_no_native_decoder_all_blocks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "code")
    for blocks in (1, 0):
        with machine(cache) as (engine, cpu):
            monkeypatch.setattr(engine.interpreter, "decode", None)
            assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
            assert bool(engine.stats.blocks_decoded) == blocks
            assert not slow(engine)


def test_pages_with_other_bytes_are_decoded_anew(kept: Cache) -> None:
    """A program that has the same name in the cache, forced here, takes over nothing of what differs."""
    name, _ = content(kept)
    other = FILLER + ISA.assemble("addi a1, a1, 4") + LOOP[4:]
    with machine(kept, other) as (engine, _):
        program = Program(engine._attach(CODE), kept, engine.memory)
        program.name = name
        restore(program, engine)
        assert not engine._attach(CODE).is_decoded(CODE)
        assert engine.stats.regions_cached == 0


def test_hostile_numbers_are_refused(kept: Cache) -> None:
    """Changed tables in a file whose checksum is right. (The code itself is what the checksum and the owner vouch for.)"""
    name, good = content(kept)
    rng = random.Random(5)
    with machine(kept) as (engine, _):
        program = Program(engine._attach(CODE), kept, engine.memory)
        for turn in range(400):
            sections = dict(good)
            key = rng.choice(("symbols", "pages", "slots", "regions", "kinds"))
            bad = bytearray(sections[key])
            if key == "kinds":  # the handler's number; operands are code
                struct.pack_into(
                    "<Q", bad, 32 * rng.randrange(len(bad) // 32), rng.choice((1, 2**31, 2**64 - 1))
                )
            elif turn % 3 == 0:
                del bad[rng.randrange(len(bad)) :]
            elif turn % 3 == 1 and len(bad) >= 8:
                at = rng.randrange(len(bad) // 8) * 8
                struct.pack_into(
                    "<Q", bad, at, rng.choice((0, 2**31, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)))
                )
            else:
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            sections[key] = bytes(bad)
            if turn % 50 == 0:
                del sections[key]
            kept.write(name, sections)
            restore(program, engine)
        kept.write(name, good)
        before = engine.stats.regions_cached
        restore(program, engine)
        assert engine.stats.regions_cached == before + 1


def test_hostile_tables_of_sections_are_refused(kept: Cache) -> None:
    (path,) = kept.directory.glob(f"program-*{SUFFIX}")
    name, _ = content(kept)
    whole = path.read_bytes()
    rng = random.Random(6)
    refused = 0
    for _ in range(300):
        bad = bytearray(whole[48:400])
        at = rng.randrange(8 + 6 * 32)
        bad[at : at + 8] = rng.choice(
            (bytes(8), b"\xff" * 8, rng.randbytes(8), (1 << 40).to_bytes(8, "little"))
        )
        payload = bytes(bad)
        head = struct.pack("<8sQ32s", whole[:8], len(payload), blake2b(payload, digest_size=32).digest())
        path.write_bytes(head + payload)
        try:
            found = kept.read(name)
            assert found is not None
            assert all(len(one) <= len(payload) for one in found.values())
        except CacheError:
            refused += 1
    assert refused > 100


def test_regions_survive_packing() -> None:
    image = link(compile_text(REGION))
    saved = [
        Saved((16,), (16, 20), (64, 80), ((16, 24), (32, 48)), ((16, 24),), 6, bytes(range(16)), image),
        Saved((8, 4), (4,), (), ((4, 12),), ((4, 12),), 2, bytes(16), image),
    ]
    sections = {key: memoryview(value) for key, value in pack_regions(saved).items()}
    for before, after in zip(saved, unpack_regions(sections), strict=True):
        for key in ("roots", "entries", "exits", "spans", "own", "instructions", "digest"):
            assert getattr(before, key) == getattr(after, key)
        assert bytes(after.image.code) == before.image.code
    with pytest.raises(CacheError, match="outside of itself"):
        unpack_regions(
            {
                k: memoryview(v)
                for k, v in pack_regions(
                    [Saved((99,), (), (), ((4, 12),), ((4, 12),), 2, bytes(16), image)]
                ).items()
            }
        )


def test_images_survive_packing_and_hostile_ones_are_refused() -> None:
    text = "declare double @cos(double)\ndefine dso_local double @f(double %x) {\n  %y = call double @cos(double %x)\n  ret double %y\n}"
    image = link(compile_text(text))
    assert [name for _, _, name in image.fixups] == ["cos"]
    image.faults = ((0, 5), (3, 1))
    data = image.pack()
    again = Image.unpack(data)
    assert again.faults == image.faults
    assert (bytes(again.code), again.symbols, again.fixups, again.align) == (
        image.code,
        image.symbols,
        image.fixups,
        image.align,
    )
    memory, rng = CodeMemory(), random.Random(9)
    refused = 0
    head = len(data) - len(image.code)
    for turn in range(600):
        bad = bytearray(data)
        if turn % 3:
            bad[rng.randrange(head)] = rng.randrange(256)
        else:
            del bad[rng.randrange(len(bad)) :]
        try:
            memory.free(memory.place(Image.unpack(bytes(bad))).block)
        except CacheError:
            refused += 1
    assert refused > 300
    assert memory.used == 0


# -- code that a wheel brings -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file() -> tuple[str, bytes]:
    """The interpreter as a wheel has it, for the first level that this host has."""
    levels = compiler.host_levels()
    if not levels:
        pytest.skip("wheels bring code for x86-64 only")
    return f"interp-riscv64-{source_digest(ISA)[:16]}-{levels[-1]}{SUFFIX}", prebuilt.make(
        "interp", ISA, levels[-1]
    )


def test_the_wheels_interpreter_is_used(
    file: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebuilt, "DIRECTORY", str(tmp_path))
    (tmp_path / file[0]).write_bytes(file[1])
    cache = Cache(tmp_path / "cache")
    code = prebuilt.load("interp", ISA, cache, CodeMemory())
    assert code.origin == "wheel"
    assert {"enter", "fill", "restore", "h_miss"} <= set(code.symbols)
    assert not list(cache.directory.glob("interp-*"))


@pytest.mark.parametrize("damage", ["other texts", "torn", "changed", "hostile"])
def test_a_wheel_that_does_not_fit_is_not_used(
    file: tuple[str, bytes],
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prebuilt, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(prebuilt, "make", lambda *_: file[1])
    name, data = file
    match damage:
        case "other texts":
            name = name.replace(source_digest(ISA)[:16], "0" * 16)
        case "torn":
            data = data[:-1]
        case "changed":
            data = data[:5000] + b"\0\1\2\3" + data[5004:]
        case _:
            data = pack({"image0": b"\xff" * 4096, "plans": b"{}"})
    (tmp_path / name).write_bytes(data)
    cache = Cache(tmp_path / "cache")
    assert prebuilt.load("interp", ISA, cache, CodeMemory()).origin == "built"
    assert bool(caplog.records) == (damage != "other texts")
    assert prebuilt.load("interp", ISA, cache, CodeMemory()).origin == "cache"


def test_a_damaged_interpreter_in_the_cache_is_built_anew(
    file: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prebuilt, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(prebuilt, "make", lambda *_: file[1])
    cache = Cache(tmp_path / "cache")
    assert prebuilt.load("interp", ISA, cache, CodeMemory()).origin == "built"
    (path,) = cache.directory.glob(f"interp-*{SUFFIX}")
    path.write_bytes(path.read_bytes()[:-1])
    assert prebuilt.load("interp", ISA, cache, CodeMemory()).origin == "built"
    assert "torn" in caplog.text


def test_levels_need_all_their_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "processor", lambda: {"flags": compiler.LEVELS["x86-64-v3"]})
    monkeypatch.setattr(compiler.os, "uname", lambda: type("Host", (), {"machine": "x86_64"}))
    assert compiler.host_levels() == ("x86-64-v3", "x86-64-v2")
    monkeypatch.setattr(
        compiler, "processor", lambda: {"flags": compiler.LEVELS["x86-64-v3"].replace("fma", "")}
    )
    assert compiler.host_levels() == ("x86-64-v2",)
    monkeypatch.setattr(compiler, "processor", dict)
    assert compiler.host_levels() == ()


def test_an_installed_wheel_brings_code_that_fits() -> None:
    if "site-packages" not in prebuilt.__file__ or not compiler.host_levels():
        pytest.skip("not an installed wheel, or not on x86-64")
    files = {Path(str(file)).name for file in metadata.files("vm-jit") or ()}
    for name in isas.NAMES:
        for level in compiler.LEVELS:
            assert f"interp-{name}-{source_digest(isas.get(name))[:16]}-{level}{SUFFIX}" in files


def test_the_digest_of_the_texts_is_remembered_and_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vm_jit import sources

    text = tmp_path / "text.py"
    text.write_text("one")
    monkeypatch.setattr(sources, "_files", lambda _: [str(text)])
    cache = Cache(tmp_path / "cache")
    digest = sources._source_digest
    first = digest(ISA, cache)
    assert not list(cache.directory.glob("sources-*")), "a file changed just now may change again unseen"
    monkeypatch.setattr(sources, "_SETTLED_SECONDS", -1)
    assert digest(ISA, cache) == first
    assert list(cache.directory.glob("sources-*"))
    text.write_text("two")
    second = digest(ISA, cache)
    assert second != first
    monkeypatch.setattr(sources, "open", None, raising=False)
    assert digest(ISA, cache) == second
