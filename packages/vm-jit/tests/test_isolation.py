"""Isolation of compiled code: on, no guest address leads out of the arena; off, which is for measurements, it does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vm_core import isa as isas
from vm_core.engine import Cause, Syscall, Trap
from vm_core.errors import UsageError
from vm_core.memory import GuestMemory, Prot
from vm_core.runner import run
from vm_core.state import CpuState
from vm_jit.cache import SUFFIX, Cache
from vm_jit.engine import NativeEngine
from vm_jit.lowering import HOST

CODE, DATA = 0x10000, 0x20000
ISA = isas.get("riscv64")
LOOP = b"".join(
    ISA.assemble(line)
    for line in ("ld a1, 0(a2)", "add a2, a2, a3", "addi a0, a0, -1", "bne a0, zero, -12", "ecall")
)
SECRET = 0x5EC2E7
_word = ctypes.c_uint64(SECRET)
"""Of the host, outside of any arena."""


@contextmanager
def compiled(isolation: str, cache: Cache | bool = False) -> Iterator[tuple[NativeEngine, CpuState]]:
    """An engine whose loop of loads has been compiled."""
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 0x1000, Prot.RX)
        memory.poke(CODE, LOOP)
        memory.map(DATA, 0x1000, Prot.RW)
        engine = NativeEngine(ISA, memory, cache=cache, synchronous=True, isolation=isolation)
        cpu = ISA.cpu()
        try:
            cpu.pc, cpu["a0"], cpu["a2"], cpu["a3"] = CODE, 100_000, DATA, 0
            assert engine.run(cpu, memory, 1 << 40) == Syscall()
            assert engine.stats.regions_compiled + engine.stats.regions_cached == 1
            cpu.pc, cpu["a0"], cpu["a1"] = CODE, 3, 0
            yield engine, cpu
        finally:
            engine.close()


def outside(engine: NativeEngine) -> int:
    """The guest address that a host that believes guests takes for that of ``_word``."""
    return ctypes.addressof(_word) - engine.memory.host_address & (1 << 64) - 1


@pytest.fixture(params=["segment", "register"])
def arena_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compiled code finds the arena's address: hosts have the first, or only the second."""
    if request.param == "register":
        monkeypatch.setattr(HOST, "segment", False)
    elif not HOST.segment:
        pytest.skip("this host has no segment base to be set")


def test_the_hosts_own_segment_base_is_put_back() -> None:
    libc, base = ctypes.CDLL(None), ctypes.c_uint64()
    if not HOST.segment:
        pytest.skip("this host has no segment base to be set")
    # arch_prctl(ARCH_SET_GS, address) and ARCH_GET_GS
    assert libc.syscall(158, 0x1001, ctypes.c_void_p(ctypes.addressof(_word))) == 0
    try:
        with compiled("on") as (engine, cpu):
            engine.run(cpu, engine.memory, 1 << 40)
        assert libc.syscall(158, 0x1004, ctypes.byref(base)) == 0
        assert base.value == ctypes.addressof(_word)
    finally:
        libc.syscall(158, 0x1001, None)


@pytest.mark.usefixtures("arena_in")
def test_a_wild_load_is_the_guests_fault() -> None:
    with compiled("on") as (engine, cpu):
        wild = cpu["a2"] = outside(engine)
        assert engine.run(cpu, engine.memory, 1 << 40) == Trap(Cause.LOAD, CODE, wild, *_access())
        assert cpu["a1"] == 0


def _access() -> tuple[object, bool]:
    from vm_core.memory import Access

    return Access.READ, False


@pytest.mark.usefixtures("arena_in")
def test_without_isolation_it_reads_the_host() -> None:
    """Else nothing is measured by turning it off."""
    with compiled("off") as (engine, cpu):
        cpu["a2"] = outside(engine)
        assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
        assert cpu["a1"] == SECRET


@pytest.mark.usefixtures("arena_in")
def test_inside_of_the_arena_pages_stay_protected() -> None:
    with compiled("off") as (engine, cpu):
        cpu["a2"] = 0x80000
        assert engine.run(cpu, engine.memory, 1 << 40) == Trap(Cause.LOAD, CODE, 0x80000, *_access())


def test_their_code_is_kept_apart(tmp_path: Path, cache: None) -> None:
    store = Cache(tmp_path / "code")
    for isolation in ("on", "off"):
        with compiled(isolation, store) as (engine, _):
            assert engine.stats.regions_compiled == 1
    assert len(list(store.directory.glob(f"program-*{SUFFIX}"))) == 1
    assert len(list(store.directory.glob(f"unsafe-*{SUFFIX}"))) == 1
    with compiled("on", store) as (engine, cpu):
        assert engine.stats.regions_cached == 1
        cpu["a2"] = outside(engine)
        assert isinstance(engine.run(cpu, engine.memory, 1 << 40), Trap)


def test_guests_with_and_without_share_no_code() -> None:
    with compiled("off") as (one, _), compiled("on") as (other, cpu):
        assert one._image is not other._image
        cpu["a2"] = outside(other)
        assert isinstance(other.run(cpu, other.memory, 1 << 40), Trap)


def test_what_promises_separation_refuses(tmp_path: Path) -> None:
    from vm_core.scheduler import Scheduler

    with pytest.raises(UsageError, match="exclude each other"):
        run(["x"], isolation="off", root=tmp_path)
    with Scheduler() as scheduler, pytest.raises(UsageError, match="each other's memory"):
        scheduler.add(["x"], isolation="off")
    with pytest.raises(UsageError, match="'on' or 'off'"):
        run(["x"], isolation="maybe")
