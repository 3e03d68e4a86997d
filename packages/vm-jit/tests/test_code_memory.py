"""Code memory: W^X, reuse, and a loader that refuses unsound objects."""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys

import pytest

from vm_core.errors import CacheError
from vm_jit.code_memory import CHUNK, CodeMemory
from vm_jit.compiler import compile_text

TEXT = """
@table = private constant [4 x i64] [i64 10, i64 20, i64 30, i64 40]
declare double @cos(double)
define dso_local i64 @pick(i64 %i) {
  %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
define dso_local double @cosine(double %x) {
  %y = call double @cos(double %x)
  ret double %y
}
"""


@pytest.fixture(scope="module")
def object_() -> bytes:
    return compile_text(TEXT)


def test_links_code_data_and_library_calls(object_: bytes) -> None:
    memory = CodeMemory()
    loaded = memory.load(object_)
    pick = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(loaded.symbols["pick"])
    cosine = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(loaded.symbols["cosine"])
    assert [pick(i) for i in range(4)] == [10, 20, 30, 40]
    assert cosine(0.0) == 1.0
    memory.close()


def test_no_page_is_ever_writable_and_executable() -> None:
    """In a process of its own: libffi's closures, which pytest's plugins may make, are such pages."""
    script = """
from pathlib import Path
from vm_core.isa import get
from vm_core.memory import GuestMemory, Prot
from vm_jit.engine import NativeEngine
isa, memory = get("rv64"), GuestMemory()
memory.map(0x10000, 4096, Prot.RX)
memory.poke(0x10000, b"".join(map(isa.assemble, ["addi a0, a0, 1", "jal zero, -4"])))
engine = NativeEngine(isa, memory, synchronous=True)
cpu = isa.cpu()
cpu.pc = 0x10000
engine.run(cpu, memory, 1_000_000)
assert engine.stats.regions_compiled and cpu["a0"] == 500_000, (engine.stats, cpu["a0"])
lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
assert {"rw-s", "r-xs"} <= {line[1] for line in lines if "vm-code" in "".join(line)}
assert not [line for line in lines if "w" in line[1] and "x" in line[1]], lines
engine.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_freed_memory_is_used_again_and_given_back(object_: bytes) -> None:
    memory = CodeMemory()
    blocks = [memory.load(object_).block for _ in range(50)]
    reserved = memory.reserved
    for _ in range(200):
        memory.free(blocks.pop(0))
        blocks.append(memory.load(object_).block)
    assert memory.reserved == reserved
    for block in blocks:
        memory.free(block)
    assert (memory.used, memory.reserved) == (0, 0)


def test_unsound_objects_are_refused(object_: bytes) -> None:
    """Bytes changed at random in headers, symbols and relocations: an error or a load, never a crash of the host."""
    memory = CodeMemory()
    rng = random.Random(3)
    refused = 0
    for data in (b"", b"\x7fELF", object_[:100], b"x" * 1000):
        with pytest.raises(CacheError):
            memory.load(data)
    for _ in range(300):
        bad = bytearray(object_)
        for _ in range(rng.randrange(1, 8)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            memory.free(memory.load(bytes(bad)).block)
        except CacheError:
            refused += 1
    assert refused
    assert memory.used == 0


def test_what_was_not_found_is_looked_for_again_when_it_can_be_there() -> None:
    """Pieces come free between others: a size that had no room is refused at once until enough of them lie together."""
    memory = CodeMemory()
    try:
        blocks = [memory.allocate(CHUNK // 64) for _ in range(64)]
        chunk = blocks[0].chunk
        for block in blocks[::2]:
            memory.free(block)
        other = memory.allocate(CHUNK // 32)
        assert other.chunk is not chunk
        assert chunk.refuses == CHUNK // 32
        assert memory.allocate(CHUNK // 64).chunk is chunk
        for block in blocks[31:35:2]:
            memory.free(block)
        assert memory.allocate(CHUNK // 32).chunk is chunk
    finally:
        memory.close()
