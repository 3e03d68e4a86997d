"""Hot code: what is compiled, kept for the next run, grown, dropped when code changes, and given back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vm_core import engines
from vm_core import isa as isas
from vm_core.engine import Budget, Syscall
from vm_core.errors import EngineUnavailable
from vm_core.memory import GuestMemory, Prot
from vm_core.state import CpuState
from vm_jit import region, tiering
from vm_jit.cache import SUFFIX, Cache
from vm_jit.engine import CodeImage, NativeEngine
from vm_jit.records import LINKED

CODE = 0x10000
ISA = isas.get("riscv64")


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


LOOP = assemble("addi a1, a1, 3", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")


@contextmanager
def machine(
    cache: Cache | bool, code: bytes = LOOP, **options: object
) -> Iterator[tuple[NativeEngine, CpuState]]:
    with GuestMemory(bits=24) as memory:
        memory.map(CODE, 0x4000, Prot.RWX)
        memory.poke(CODE, code)
        engine = NativeEngine(ISA, memory, cache=cache, **{"synchronous": True, **options})
        cpu = ISA.cpu()
        cpu.pc = CODE
        try:
            yield engine, cpu
        finally:
            engine.close()


@pytest.fixture
def cache(tmp_path: Path, cache: None) -> Cache:
    return Cache(tmp_path / "code")


def run(engine: NativeEngine, cpu: CpuState, count: int) -> int:
    """Run the loop ``count`` times; the sum it made."""
    cpu.pc, cpu["a0"], cpu["a1"] = CODE, count, 0
    assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
    return cpu["a1"]


def test_a_second_run_compiles_and_decodes_nothing(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        assert run(engine, cpu, 100_000) == 300_000
        assert engine.stats.regions_compiled == 1
        assert engine.stats.retired == 300_001
        assert engine.stats.retired_jit > 250_000
    with machine(cache) as (engine, cpu):
        assert run(engine, cpu, 100_000) == 300_000
        assert (engine.stats.regions_compiled, engine.stats.regions_cached) == (0, 1)
        assert engine.stats.retired == 300_001


def test_cached_code_is_for_the_same_bytes_only(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 100_000)
    other = assemble("addi a1, a1, 4", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")
    with machine(cache, other) as (engine, cpu):
        assert run(engine, cpu, 100_000) == 400_000
        assert engine.stats.regions_cached == 0


def test_a_damaged_cache_changes_nothing(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    filler = b"".join(assemble(f"addi a2, a2, {i}", "jal zero, 4") for i in range(40))
    with machine(cache, LOOP[:-4] + filler + LOOP[-4:]) as (engine, cpu):
        run(engine, cpu, 100_000)
    (path,) = cache.directory.glob(f"program-*{SUFFIX}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with machine(cache, LOOP[:-4] + filler + LOOP[-4:]) as (engine, cpu):
        assert run(engine, cpu, 100_000) == 300_000
    assert "changed" in caplog.text


def test_code_memory_is_given_back(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        used = []
        for turn in range(60):
            engine.memory.poke(CODE, assemble(f"addi a1, a1, {turn}"))
            engine.synchronize(engine.memory)
            assert run(engine, cpu, 10_000) == turn * 10_000
            assert engine.tiering is not None
            used.append(engine.tiering.code.used)
        assert engine.stats.regions_compiled == 60
        assert max(used[1:]) <= used[1] + 256


def test_a_fence_for_some_addresses_looks_at_no_others(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java asks for one of the code that it has just made, 10,000 times, and has hundreds of pages that it can write."""
    looked: list[int] = []
    compare = CodeImage._compare
    monkeypatch.setattr(
        CodeImage, "_compare", lambda image, number: (looked.append(number), compare(image, number))
    )
    with machine(cache) as (engine, cpu):
        for page in range(3):
            engine.memory.poke(CODE + page * 0x1000, LOOP)
            cpu.pc, cpu["a0"] = CODE + page * 0x1000, 10
            assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
        engine.add_vcpu()  # so that no page is looked at only when it is come to
        for page in range(3):
            engine.memory.poke(CODE + page * 0x1000, assemble("addi a1, a1, 5"))
        for asked, seen in (
            ((CODE + 0x1000, CODE + 0x1004), {1}),
            ((CODE + 0x2000, CODE + 0x2004), {1, 2}),
            ((), {0, 1, 2}),
        ):
            looked.clear()
            engine.synchronize(engine.memory, *asked)
            # An instruction may begin on the page before.
            here = asked[0] >> 12 if asked else 0
            assert set(looked) == (
                {here - 1, here} if asked else {CODE + page * 0x1000 >> 12 for page in range(3)}
            )
            for page in seen:
                cpu.pc, cpu["a0"], cpu["a1"] = CODE + page * 0x1000, 10, 0
                assert engine.run(cpu, engine.memory, 1 << 40) == Syscall()
                assert cpu["a1"] == 50


def test_regions_grow_to_hold_what_ran_later(cache: Cache) -> None:
    """A branch that is first taken after the loop was compiled: its block joins the region."""
    code = assemble(
        "andi t0, a0, 2047",
        "bne t0, a2, 8",
        "addi a3, a3, 1",
        "addi a0, a0, -1",
        "bne a0, zero, -16",
        "ecall",
    )
    with machine(cache, code) as (engine, cpu):
        cpu["a2"] = 1 << 20
        run(engine, cpu, 50_000)
        assert engine.stats.regions_compiled == 1
        for rare in range(8):
            cpu["a2"] = rare
            run(engine, cpu, 2048 * 500)
        assert cpu["a3"] == 8 * 500
        assert engine.tiering is not None
        assert len(engine.tiering.regions()) == 1
        assert engine.stats.regions_compiled == 2


def test_what_was_found_often_called_stays_so(cache: Cache) -> None:
    """Later runs have its code from the cache, and count nothing. A place whose count has just begun again is no cold one."""
    code = assemble(
        "jal ra, 16", "addi a0, a0, -1", "bne a0, zero, -8", "ecall", "addi a1, a1, 3", "jalr zero, 0(ra)"
    )
    loop, back, function = CODE, CODE + 4, CODE + 16
    with machine(cache, code) as (engine, cpu):
        assert run(engine, cpu, 100_000) == 300_000
    with machine(cache, code) as (engine, cpu):
        assert run(engine, cpu, 10) == 30
        tiering = engine.tiering
        assert tiering is not None
        (owner,) = {tiering._at[pc] for pc in (loop, back)}
        assert any(start <= function < end for start, end in owner.spans)
        assert not any(start <= function < end for start, end in owner.own)
        assert tiering._is_warm(loop)
        assert not tiering._is_warm(back)
        assert tiering._is_frequent(back, function)
        assert not tiering._is_frequent(back, CODE + 0x100)
        tiering._pending[back] = 1
        assert tiering._is_warm(back)


def test_budget_is_exact_in_compiled_code(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 100_000)
        rng = random.Random(1)
        for limit in [*range(1, 40), *(rng.randrange(1, 10**6) for _ in range(20))]:
            cpu.pc, cpu["a0"], cpu["a1"] = CODE, 10**9, 0
            assert engine.run(cpu, engine.memory, limit) == Budget()
            assert cpu.header("fuel") == 0
            assert cpu["a1"] == 3 * ((limit + 2) // 3)
            assert cpu.pc == CODE + 4 * (limit % 3)


@pytest.mark.parametrize("stack", [None, 256 << 10, 1 << 20, 8 << 20])
def test_deep_recursion_does_not_use_up_the_host_stack(cache: Cache, stack: int | None) -> None:
    """f(n) = n ? f(n - 1) + 1 : 0, half a million frames deep, in the main thread and in threads with so large a stack."""
    code = assemble(
        "jal ra, 8",
        "ecall",
        "bne a0, zero, 8",
        "jalr zero, 0(ra)",
        "addi sp, sp, -16",
        "sd ra, 0(sp)",
        "addi a0, a0, -1",
        "jal ra, -20",
        "ld ra, 0(sp)",
        "addi sp, sp, 16",
        "addi a0, a0, 1",
        "jalr zero, 0(ra)",
    )
    with machine(cache, code) as (engine, cpu):
        engine.memory.map(0x400000, 0xA00000, Prot.RW)
        results: list[object] = []

        def descend() -> None:
            cpu.pc, cpu["a0"], cpu["sp"] = CODE, 500_000, 0xE00000
            results.append((engine.run(cpu, engine.memory, 1 << 40), cpu["a0"]))

        for _ in range(3):
            if stack is None:
                descend()
            else:
                before = threading.stack_size(stack)
                thread = threading.Thread(target=descend)
                thread.start()
                threading.stack_size(before)
                thread.join()
        assert results == [(Syscall(), 500_000)] * 3
        assert engine.stats.retired_jit > engine.stats.retired // 2


def test_code_may_be_dropped_while_other_threads_run_it(cache: Cache) -> None:
    """Eight vCPUs in one loop while the main thread invalidates it again and again: sums and counts stay exact."""
    results: list[int] = []
    with machine(cache, synchronous=False) as (engine, _):

        def work() -> None:
            cpu = ISA.cpu()
            results.extend(run(engine, cpu, 200_000) for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            engine.invalidate(CODE, CODE + 4)
            threads[0].join(0.002)
        for thread in threads:
            thread.join()
        assert results == [600_000] * 160
        assert engine.stats.retired == 160 * 600_001


def test_a_forked_engine_frees_what_others_may_have_been_in(cache: Cache) -> None:
    """Regions that were replaced while another vCPU ran: a child that freed them at once waited for code memory that it held itself,
    and its parent for the child (Java starting a program while its compiler runs)."""
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 100_000)
        tiering = engine.tiering
        assert tiering is not None
        block = tiering.code.allocate(1 << 16)
        with engine.lock:
            tiering.running.add(1 << 20)  # a vCPU of the parent's
            tiering.retire(block)
        used = tiering.code.used
        with engine.forking(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the threads of the tests' own
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                with contextlib.ExitStack() as failed:
                    failed.callback(os._exit, 2)
                    engine.forked()
                    failed.pop_all()
        if not pid:
            try:
                assert run(engine, cpu, 1000) == 3000
                os._exit(0 if not tiering.retired and tiering.code.used <= used - block.size else 3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(tiering.retired) == 1
        tiering.quiesce(1 << 20)
        assert not tiering.retired


def test_without_a_compiler_auto_is_the_reference_executor(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that cannot start, or cannot import LLVM: one line says why, and the guest runs all the same."""
    monkeypatch.setattr("vm_jit.compiler.sys.executable", "/nonexistent/python")
    monkeypatch.setattr("vm_jit.engine._interpreters", {})
    monkeypatch.setattr("vm_jit.prebuilt.DIRECTORY", "/nonexistent")  # nor a wheel's interpreter
    with GuestMemory(bits=24) as memory:
        engine = engines.create("auto", ISA, memory, cache=cache)
        assert engine.name == "reference"
        with pytest.raises(EngineUnavailable, match="cannot start the compiler"):
            engines.create("jit", ISA, memory, cache=cache)
    assert "reference executor" in caplog.text


def test_a_worker_that_dies_costs_a_region_not_the_guest(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vm_jit.compiler._WORKER", "import os; os.abort()")
    with machine(cache) as (engine, cpu):
        assert run(engine, cpu, 100_000) == 300_000
        assert engine.stats.regions_compiled == 0


def test_what_compiling_a_region_took_is_counted(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 100_000)
        stats = engine.stats
        p50, p99, longest = (stats.extra[f"compile_{name}_seconds"] for name in ("p50", "p99", "max"))
        assert 0 < p50 == p99 == longest == stats.compile_seconds
        assert engine.tiering is not None
        engine.tiering._latencies = [number / 100 for number in range(1, 201)]
        engine.tiering._say_latencies()
        assert [engine.stats.extra[f"compile_{name}_seconds"] for name in ("p50", "p99", "max")] == [
            1.0,
            1.98,
            2.0,
        ]


def test_where_regions_are_lost_to_changes_the_next_waits_longer(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        for turn in range(4):
            engine.memory.poke(CODE, assemble(f"addi a1, a1, {turn}"))
            engine.synchronize(engine.memory)
            assert run(engine, cpu, 10_000) == turn * 10_000
        here = engine.tiering
        assert here is not None
        assert here.engine.baseline is not None
        for pc, least in ((CODE + 0x800, tiering._REPORTS * 8), (CODE + 0x2000, tiering._REPORTS)):
            here._pending[pc] = least - 1
            assert here._worth(pc) is None
            here._pending[pc] = least
            assert here._worth(pc) is not None


def test_what_a_region_may_be_made_of_has_run_and_no_breakpoint(cache: Cache) -> None:
    code = LOOP + assemble("addi a2, a2, 1", "ecall")  # behind the loop's ecall, never reached
    with machine(cache, code) as (engine, cpu):
        run(engine, cpu, 10)
        assert engine.tiering is not None
        image = engine.tiering.engine
        found = image.executed(range(CODE - 0x1000, CODE + 0x1000))
        assert [pc - CODE for pc in found] == [0, 4, 8, 12]
        assert [insn.name for insn in found.values()] == ["addi", "addi", "bne", "ecall"]
        assert list(image.executed(range(CODE + 4, CODE + 8))) == [CODE + 4]
        engine.set_breakpoints(frozenset({CODE + 8}))
        image = engine.tiering.engine
        run_to = image.executed(range(CODE, CODE + 16))
        assert CODE + 8 not in run_to


def test_what_llvm_may_cost_depends_on_what_it_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.thread_time", lambda: now)
    account = tiering.Account()

    def note(seconds: float, retired: int, optimised: int, vcpu: int = 7) -> None:
        nonlocal now
        now = seconds
        account.note(vcpu, retired, optimised)

    assert account.affords(tiering._DEBT)
    assert not account.affords(1.0)
    note(0.5, 50, 0)  # from here on
    note(1.0, 100, 0)  # still decoding
    note(2.0, 1_100, 0)  # the baseline tier: a millisecond each
    note(2.01, 1_100, 0)  # too short to measure
    note(9.0, 9_000, 0, vcpu=8)  # another one
    other = threading.Thread(target=note, args=(2.02, 1_100, 0))  # in another thread, whose time is its own
    other.start()
    other.join()
    note(2.0, 1_100, 0)
    note(3.0, 1_600, 100)  # another part of the program, where it is slower
    assert account.saved == 0.0
    note(4.0, 4_600, 3_000)
    saved = 3.0 * tiering._CAUTION - 1.0
    assert account.saved == pytest.approx(saved)
    note(5.0, 5_100, 3_500)  # slower again
    assert account.saved == pytest.approx(saved)
    may = tiering._FIRST + tiering._ALWAYS * (5.0 - 0.5) + tiering._REINVESTED * saved
    account.spent = may - 0.01
    assert account.affords(0.1)
    account.spent = may + 0.01
    assert not account.affords(0.0)
    account.compiled = 100
    assert account.price(500) == pytest.approx(account.spent * 2)
    assert tiering.Account().price(100) == pytest.approx(100 * tiering._LEAST_PRICE)
    again = tiering.Account(*account.balance())
    assert again.balance() == account.balance()
    assert not again.affords(0.0)


@pytest.mark.parametrize("turns", [1, 4])
def test_so_many_turns_of_a_place_are_one_report(
    cache: Cache, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiering, "_REPORTS", 1 << 20)  # LLVM is never asked
    reports: list[int] = []

    def request(_: tiering.Tiering, pc: int, times: int = 1) -> None:
        reports.append(times)

    monkeypatch.setattr(tiering.Tiering, "request", request)
    with machine(cache, synchronous=False) as (engine, cpu):
        while "baseline_units" not in engine.stats.extra:
            run(engine, cpu, 10_000)
        here = engine.tiering
        assert here is not None
        here.engine.be_patient(turns)
        run(engine, cpu, 4 << 16)  # until all else has been said
        reports.clear()
        run(engine, cpu, 16 << 16)
        assert reports == [turns] * (16 // turns)


def test_what_only_regions_call_gets_the_baseline_tier(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a later run the region is there from the beginning, so no other jump leads to the function."""
    far = 0x800
    loop = assemble(f"jal ra, {far}", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")
    code = loop + bytes(far - len(loop)) + assemble("addi a1, a1, 3", "jalr zero, 0(ra)")
    function = CODE + far
    compile_it = tiering.Tiering.request

    def request(self: tiering.Tiering, pc: int, times: int = 1) -> None:
        if pc == CODE:
            compile_it(self, pc, times)

    monkeypatch.setattr(tiering.Tiering, "request", request)
    monkeypatch.setattr(region, "_take_in_calls", lambda *_: None)
    for _ in range(2):
        with machine(cache, code) as (engine, cpu):
            run(engine, cpu, 1)
            here = engine.tiering
            assert here is not None
            here.engine.be_patient(32)
            assert run(engine, cpu, 100_000) == 300_000
            assert here.regions() == ((CODE,),)
            assert here.engine.entry(function) & LINKED
    assert engine.stats.regions_cached == 1


def test_what_a_run_had_no_time_to_compile_the_next_one_does(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiering, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(tiering, "_GRACE_SECONDS", 0.01)

    def once(*, works: bool | None) -> tuple[bool, float, int]:
        """A run whose compiler thread still works at its end, has come to its own, or never began: whether it took the cache to be
        complete, the seconds that it began with, and its regions from there."""
        with machine(cache, synchronous=False) as (engine, cpu):
            run(engine, cpu, 1)
            here = engine.tiering
            assert here is not None
            warm, found = here._warm, len(here.regions())
            begun = time.perf_counter() - here._begin
            if not found:
                here._begin -= 3.0
                here._work_on(CODE)
            if works is not None:
                here._thread = threading.Thread(target=time.sleep, args=(0.2 if works else 0.0,))
                here._thread.start()
                if not works:
                    here._thread.join()
        return warm, begun, found

    assert once(works=True) == (False, pytest.approx(0, abs=1), 0)
    for works in (None, True, None, False):
        assert once(works=works) == (False, pytest.approx(4, abs=2), 1)
    assert once(works=None) == (True, pytest.approx(0, abs=1), 1)
    assert once(works=True) == (True, pytest.approx(0, abs=1), 1)
    assert once(works=None)[0]


def test_what_llvm_may_not_have_yet_comes_nearer_from_run_to_run(cache: Cache) -> None:
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 5_000)
        assert engine.stats.regions_compiled
    wanted = 0.0
    for waits in (False, True, True):
        with machine(cache, synchronous=False) as (engine, cpu):
            run(engine, cpu, 1)
            here = engine.tiering
            assert here is not None
            before = here.account.saved
            assert before == pytest.approx(wanted, abs=0.1)
            assert here.account.thrifty
            here.account.saved, here.account.spent = before + 2.0, here._spent_before + 0.1
            here._pending = {CODE + 4: 1} if waits else {}
            # No more than the balance, after all that earlier runs have spent.
            balance = tiering._FIRST + tiering._REINVESTED * here.account.saved - here.account.spent
            assert here.account.affords(balance - 0.05)
            assert not here.account.affords(balance + 0.05)
            wanted = before + 2.0 if waits else before


def test_a_debt_of_what_is_unfinished_is_paid_from_run_to_run(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiering, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(tiering, "_GRACE_SECONDS", 0.01)
    with machine(cache, synchronous=False) as (engine, cpu):
        run(engine, cpu, 1)
        assert engine.tiering is not None
        engine.tiering._work_on(CODE)
        engine.tiering.account.spent = 2.0
        engine.tiering._thread = threading.Thread(target=time.sleep, args=(0.2,))
        engine.tiering._thread.start()
    owed = []
    for _ in range(3):
        with machine(cache, synchronous=False) as (engine, cpu):
            run(engine, cpu, 1)
            here = engine.tiering
            assert here is not None
            assert here._unfinished
            assert not here.account.affords(0)
            other = engine._image.copy([], None)
            assert other.program is not None
            assert not other.program.settled
            other.close()
            owed.append(here.account.spent - here.account.saved)
            here.account._last = (here.account._since + 4.0, 0, 0)
            here._pending = {CODE + 4: 1}
    paid = tiering._ALWAYS * 4.0 / tiering._REINVESTED
    assert owed == pytest.approx([owed[0], owed[0] - paid, owed[0] - 2 * paid], abs=0.05)


@pytest.mark.parametrize("damage", ["missing", "torn", "short"])
def test_what_was_compiled_is_used_without_its_account(cache: Cache, damage: str) -> None:
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 5_000)
        assert engine.stats.regions_compiled == 1
    (file,) = cache.directory.glob("account-*")
    name = file.name.removesuffix(SUFFIX)
    if damage == "missing":
        file.unlink()
    elif damage == "torn":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        cache.write(name, {"account": b"1234"})
    with machine(cache) as (engine, cpu):
        run(engine, cpu, 5_000)
        assert engine.stats.regions_cached == 1
        assert engine.stats.regions_compiled == 0
    assert cache.has(name) == (damage != "missing")
    assert all(entry.valid for entry in cache.entries())
    found = cache.read(name)
    assert found is None or len(found["account"]) == 40


def test_a_short_run_starts_no_compiler_process(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    used = 5.0
    monkeypatch.setattr("time.process_time", lambda: used)
    with machine(cache, synchronous=False) as (engine, cpu):
        for seconds, starts in (0.0, False), (tiering._SHORT_SECONDS - 0.001, False), (0.2, True):
            used = 5.0 + seconds
            run(engine, cpu, 1)
            here = engine.tiering
            assert here is not None
            here.request(CODE, 1 << 10)
            assert (here._thread is not None) == starts
    # Without what the first may have left in the cache: then LLVM has had its share of so short a run.
    with machine(False, synchronous=False) as (engine, cpu):
        used = 7.0
        run(engine, cpu, 1)
        here = engine.tiering
        assert here is not None
        here._warm = True
        for seconds, starts in (tiering._SHORT_AND_WARM - 0.001, False), (0.6, True):
            used = 7.0 + seconds
            here.request(CODE + 8, 1 << 12)
            assert (here._thread is not None) == starts
