"""Code that guests share, and how one of them goes on alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from vm_core.engine import Breakpoint, Budget, Syscall, Trap
from vm_core.isa import get
from vm_core.memory import PAGE, GuestMemory, Prot
from vm_core.state import CpuState
from vm_jit import engine as engines
from vm_jit.engine import CodeImage, NativeEngine

ISA = get("riscv64")
CODE, OTHER, FAR = 0x10000, 0x30000, 0x40000
ALL = pytest.mark.parametrize(
    "options", [{}, {"jit": False}, {"jit": False, "baseline": False}, {"baseline": False}]
)
"""With each tier, and without."""


def assemble(*lines: str) -> bytes:
    return b"".join(ISA.assemble(line) for line in lines)


def loop(step: int) -> bytes:
    return assemble(f"addi a1, a1, {step}", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")


class Guest:
    """One vCPU with its memory: ``code`` at CODE, which it cannot write unless ``prot`` allows it."""

    def __init__(self, code: bytes, prot: Prot, **options: object) -> None:
        self.memory = GuestMemory(bits=24)
        self.memory.map(CODE, 0x2000, prot)
        self.memory.poke(CODE, code)
        self.engine = NativeEngine(
            ISA, self.memory, **{"cache": False, "synchronous": True, "eager": True, **options}
        )
        self.memory.code_changed.append(self.engine.invalidate)
        self.cpu: CpuState = ISA.cpu()

    def run(self, count: int = 100, at: int = CODE) -> int:
        """Run the loop ``count`` times; the sum that it made."""
        self.cpu.pc, self.cpu["a0"], self.cpu["a1"] = at, count, 0
        assert self.engine.run(self.cpu, self.memory, 1 << 40) == Syscall()
        return self.cpu["a1"]

    def patch(self, code: bytes) -> None:
        """As a guest does it: writable, written, executable again."""
        self.memory.protect(CODE, 0x1000, Prot.RW)
        self.memory.write(CODE, code)
        self.memory.protect(CODE, 0x1000, Prot.RX)
        self.engine.synchronize(self.memory)

    @property
    def image(self) -> CodeImage | None:
        return self.engine._image

    def close(self) -> None:
        self.engine.close()
        self.memory.close()


@contextmanager
def guests(count: int, prot: Prot = Prot.RX, **options: object) -> Iterator[list[Guest]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Guest(loop(3), prot, **options))
            stack.callback(made[-1].close)
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """When all engines are closed no image, code or mapping of theirs is left."""
    yield
    assert not engines._engines
    assert not engines._images
    assert not engines._texts


def mapped() -> int:
    with Path("/proc/self/maps").open() as file:
        return sum(1 for _ in file)


def test_the_second_guest_decodes_and_compiles_nothing() -> None:
    with guests(3, eager=False) as (first, *others):
        assert first.run(10_000) == 30_000
        assert first.engine.stats.regions_compiled == 1
        for guest in others:
            assert guest.run(10_000) == 30_000
            assert guest.image is first.image
            assert (guest.engine.stats.blocks_decoded, guest.engine.stats.regions_compiled) == (0, 0)
            assert guest.engine.stats.retired_jit == guest.engine.stats.retired - 1


def test_what_one_compiles_the_others_use() -> None:
    with guests(2) as (first, second):
        first.run(1)
        second.run(1)
        first.run(1000)
        second.run(1000)
        assert second.engine.stats.retired_jit >= second.engine.stats.retired - 5


def test_a_guest_that_patches_its_code_goes_on_alone() -> None:
    with guests(3) as (first, second, third):
        for guest in (first, second):
            assert guest.run() == 300
        second.patch(loop(5))
        assert [guest.run() for guest in (first, second, third)] == [300, 500, 300]
        assert second.image is not first.image
        assert third.image is first.image
        second.patch(loop(7))
        first.patch(loop(11))
        assert [guest.run() for guest in (first, second, third)] == [1100, 700, 300]


def test_a_copy_keeps_what_did_not_change() -> None:
    """The loop on the second page runs on in its compiled form; only the first page is decoded again."""
    with guests(2) as (first, second):
        for guest in (first, second):
            guest.memory.protect(CODE, 0x2000, Prot.RW)
            guest.memory.write(CODE + 0x1000, loop(2))
            guest.memory.protect(CODE, 0x2000, Prot.RX)
        first.run()
        first.run(at=CODE + 0x1000)
        second.run()
        second.patch(loop(5))
        decoded = second.engine.stats.blocks_decoded
        assert second.run(at=CODE + 0x1000) == 200
        assert second.engine.stats.blocks_decoded == decoded
        assert second.engine.stats.regions_compiled == 0
        assert second.run() == 500
        assert second.engine.stats.blocks_decoded > decoded
        assert first.run(at=CODE + 0x1000) == 200
        # The region that both use is given back when the second of them has gone.
        used = engines._code.used
        second.close()
        assert first.run(at=CODE + 0x1000) == 200
        assert engines._code.used < used


def test_guests_that_load_the_same_code_share_it_again() -> None:
    with guests(3) as everyone:
        for guest in everyone:
            guest.run()
        for guest in everyone:
            guest.memory.map(OTHER, 0x1000, Prot.RX)
            guest.memory.poke(OTHER, loop(4))
            assert guest.run(at=OTHER) == 400
        first, *others = everyone
        for guest in others:
            assert guest.image is first.image
            assert guest.engine.stats.blocks_decoded == 0
            assert guest.run() == 300


def test_guests_that_load_other_code_at_the_same_place() -> None:
    with guests(4) as everyone:
        for step, guest in enumerate(everyone):
            guest.run()
            guest.memory.map(OTHER, 0x1000, Prot.RX)
            guest.memory.poke(OTHER, loop(step))
        for _ in range(2):
            assert [guest.run(at=OTHER) for guest in everyone] == [0, 100, 200, 300]


def test_code_that_its_guest_can_write_is_never_shared() -> None:
    with guests(2, Prot.RWX) as (first, second):
        assert first.run() == 300
        second.memory.write(CODE, loop(5))  # no fence
        assert second.run() == 500
        assert second.image is not first.image
        assert first.run() == 300


def test_writable_code_beside_shared_code() -> None:
    with guests(2) as (first, second):
        for step, guest in ((4, first), (6, second)):
            guest.run()
            guest.memory.map(OTHER, 0x1000, Prot.RWX)
            guest.memory.write(OTHER, loop(step))
            assert guest.run() == 300
        assert first.image is second.image
        assert (first.run(at=OTHER), second.run(at=OTHER)) == (400, 600)
        assert first.image is not second.image
        second.memory.write(OTHER, loop(9))
        second.engine.synchronize(second.memory)
        assert (first.run(at=OTHER), second.run(at=OTHER)) == (400, 900)


def test_unmapped_code_faults_in_its_guest_only() -> None:
    with guests(2) as (first, second):
        first.run()
        second.run()
        second.memory.unmap(CODE, 0x1000)
        second.cpu.pc = CODE
        assert isinstance(second.engine.run(second.cpu, second.memory, 100), Trap)
        assert first.run() == 300


def test_breakpoints_stop_their_guest_only() -> None:
    with guests(2) as (first, second):
        first.run()
        second.run()
        second.engine.set_breakpoints(frozenset({CODE + 4}))
        assert first.run() == 300
        second.cpu.pc, second.cpu["a0"] = CODE, 2
        assert second.engine.run(second.cpu, second.memory, 100) == Breakpoint(CODE + 4)
        second.engine.set_breakpoints(frozenset())
        assert second.run() == 300


def test_a_second_vcpu_ends_the_sharing() -> None:
    """A change must reach all vCPUs of a guest at once, also one that is inside native code."""
    with guests(2) as (first, second):
        first.run()
        second.run()
        second.engine.add_vcpu()
        image = first.image
        assert second.run() == 300
        assert second.image is not image
        other = second.cpu.copy()
        other.pc, other["a0"] = CODE, 1 << 40
        thread = threading.Thread(target=second.engine.run, args=(other, second.memory, 1 << 50))
        thread.start()
        second.patch(loop(5))
        second.memory.protect(CODE, 0x1000, Prot.RW)  # the other vCPU faults
        thread.join(20)
        assert not thread.is_alive()
        assert first.run() == 300


def test_other_options_are_other_images(tmp_path: Path) -> None:
    with guests(1) as (first,), guests(1, jit=False) as (second,), guests(1, cache=tmp_path) as (third,):
        assert [guest.run() for guest in (first, second, third)] == [300] * 3
        assert len({guest.image for guest in (first, second, third)}) == 3


def test_an_image_waits_for_the_next_guest_of_its_program() -> None:
    with guests(1) as (other,):
        other.memory.protect(CODE, 0x2000, Prot.RW)
        other.memory.write(CODE, loop(8))
        other.memory.protect(CODE, 0x2000, Prot.RX)
        other.run()
        with guests(1) as (first,):
            first.run()
            image = first.image
        with guests(1) as (second,):
            assert second.run() == 300
            assert second.image is image
            assert second.engine.stats.blocks_decoded == 0


def test_images_that_wait_are_few() -> None:
    with guests(1) as (other,):
        other.run()
        before = mapped()
        for step in range(100):
            guest = Guest(loop(step), Prot.RX, jit=False)
            assert guest.run() == 100 * step
            guest.close()
        assert len(engines._images) <= engines._MOST_IDLE + 1
        assert mapped() - before < 4 * engines._MOST_IDLE


def test_mappings_are_given_back() -> None:
    with guests(2) as everyone:
        for guest in everyone:
            guest.run()
    before, used = mapped(), engines._code.used
    for _ in range(20):
        with guests(4) as everyone:
            for step, guest in enumerate(everyone):
                guest.run()
                if step % 2:
                    guest.patch(loop(step))
                    assert guest.run() == 100 * step
    assert mapped() - before < 8
    assert engines._code.used == used


@pytest.mark.parametrize("synchronous", [True, False])
def test_64_guests_at_once_half_of_which_change_their_code(synchronous: bool) -> None:
    failures: list[str] = []
    start = threading.Barrier(64)

    def work(index: int, guest: Guest) -> None:
        start.wait()
        step = 3
        for turn in range(6):
            if index % 2 and turn:
                step = 1 + (index * 7 + turn) % 1000
                guest.patch(loop(step))
            if (found := guest.run(5000)) != 5000 * step:
                failures.append(f"guest {index}, turn {turn}: {found} instead of {5000 * step}")

    with guests(64, synchronous=synchronous) as everyone:
        threads = [threading.Thread(target=work, args=one) for one in enumerate(everyone)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failures
        unchanged = {guest.image for guest in everyone[::2]}
        assert len(unchanged) == 1
        assert not unchanged & {guest.image for guest in everyone[1::2]}


def test_slices_of_many_guests_are_exact() -> None:
    with guests(8) as everyone:
        for guest in everyone:
            guest.cpu.pc, guest.cpu["a0"] = CODE, 1 << 40
        for turn in range(1, 40):
            for guest in everyone:
                assert guest.engine.run(guest.cpu, guest.memory, turn * 31) == Budget()
        total = 31 * sum(range(1, 40))
        assert {guest.engine.stats.retired for guest in everyone} == {total}
        assert len({(guest.cpu.pc, guest.cpu["a0"], guest.cpu["a1"]) for guest in everyone}) == 1


@ALL
def test_a_fence_forgets_what_was_written_and_only_that(options: dict[str, bool]) -> None:
    """Three loops on one page that its guest can write. Without a fence nothing is promised; with one the new code runs."""
    with guests(1, Prot.RWX, **options) as (guest,):
        places = [CODE + 0x100, CODE + 0x800, CODE + 0xFF0]
        for step, at in enumerate(places):
            guest.memory.write(at, loop(step))
        for step, at in enumerate(places):
            assert guest.run(at=at) == 100 * step
        decoded = guest.engine.stats.blocks_decoded
        for turn in range(6):
            guest.memory.write(places[turn % 3], loop(turn + 7)[:4])
            guest.engine.synchronize(guest.memory)
            assert guest.run(at=places[turn % 3]) == 100 * (turn + 7)
        # One block anew each time, or a few where a fence splits one that had been decoded whole.
        assert guest.engine.stats.blocks_decoded - decoded <= 3 * 6
        for turn, at in zip((3, 4, 5), places, strict=True):
            assert guest.run(at=at) == 100 * (turn + 7)
        guest.memory.write(places[1], loop(50)[:4])
        guest.memory.protect(CODE, 0x1000, Prot.RX)
        assert guest.run(at=places[1]) == 5000
        guest.memory.protect(CODE, 0x1000, Prot.RWX)
        guest.memory.write(places[1], loop(60)[:4])
        guest.engine.synchronize(guest.memory)
        assert guest.run(at=places[1]) == 6000


@ALL
def test_only_pages_that_run_again_are_compared_after_a_fence(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # (Where a region comes into use, its page is compared as well.)
    with guests(1, Prot.RWX, **{**options, "jit": False}) as (guest,):
        guest.memory.map(FAR, 64 * PAGE, Prot.RWX)
        places = range(FAR, FAR + 64 * PAGE, PAGE)
        for step, at in enumerate(places):
            guest.memory.write(at, loop(step))
            assert guest.run(at=at) == 100 * step
        compared: list[int] = []
        compare = CodeImage._compare
        monkeypatch.setattr(
            CodeImage, "_compare", lambda image, page: (compared.append(page), compare(image, page))[1]
        )
        for step, at in enumerate(places):
            guest.memory.write(at, loop(step + 7))
        guest.engine.synchronize(guest.memory)
        assert guest.run(at=places[5]) == 1200
        assert compared == [places[5] >> 12]
        for step, at in enumerate(places):
            assert guest.run(at=at) == 100 * (step + 7)
        assert sorted(compared) == [at >> 12 for at in places]


@ALL
def test_more_pages_than_a_fence_remembers(options: dict[str, bool]) -> None:
    with guests(1, Prot.RWX, **options) as (guest,):
        count = 3 * engines._MOST_LOOKED // 2
        guest.memory.map(FAR, count * PAGE, Prot.RWX)
        for turn in range(3):
            for step in range(count):
                guest.memory.write(FAR + step * PAGE, loop(step + turn))
            guest.engine.synchronize(guest.memory)
            for step in range(count):
                assert guest.run(3, at=FAR + step * PAGE) == 3 * (step + turn)


@ALL
def test_hot_code_calls_a_page_that_changes(options: dict[str, bool]) -> None:
    """From a page that the guest cannot write: the direct jump must not go past the look at the other page."""
    with guests(1, Prot.RX, **options) as (guest,):
        guest.memory.map(FAR, PAGE, Prot.RWX)
        guest.memory.poke(
            CODE, assemble(f"jal ra, {FAR - CODE}", "addi a0, a0, -1", "bne a0, zero, -8", "ecall")
        )
        for step in (1, 5, 2, 9):
            guest.memory.write(FAR, assemble(f"addi a1, a1, {step}", "jalr zero, 0(ra)"))
            guest.engine.synchronize(guest.memory)
            assert guest.run(500) == 500 * step


@ALL
def test_hot_code_jumps_to_a_page_that_changes(options: dict[str, bool]) -> None:
    """The same, but near, so that both parts could become one piece of code."""
    with guests(1, Prot.RX, **options) as (guest,):
        entry, other = CODE + PAGE - 8, CODE + PAGE
        guest.memory.protect(other, PAGE, Prot.RWX)
        guest.memory.poke(entry, assemble("addi a0, a0, -1", "jal zero, 4"))
        for step in (1, 5, 2, 9):
            guest.memory.write(other, assemble(f"addi a1, a1, {step}", "bne a0, zero, -12", "ecall"))
            guest.engine.synchronize(guest.memory)
            assert guest.run(500, at=entry) == 500 * step


@ALL
@pytest.mark.parametrize("eager", [False, True])
def test_hot_code_runs_on_into_a_page_that_changes(options: dict[str, bool], eager: bool) -> None:
    """One loop on two pages of which the second changes, with an instruction on both."""
    with guests(1, Prot.RWX, **options, eager=eager) as (guest,):
        at = CODE + PAGE - 6
        for step in (1, 300, 7, 1000):
            code = assemble(
                f"addi a2, zero, {step}", "addi a1, a1, 0", "addi zero, zero, 0", "addi zero, zero, 0", "add a1, a1, a2",
                "addi a0, a0, -1", "bne a0, zero, -24", "ecall",
            )  # fmt: skip
            guest.memory.write(at, code)
            guest.engine.synchronize(guest.memory)
            assert guest.run(500, at=at) == 500 * step
            # Only the second half of the instruction on both pages, then only what is behind it.
            guest.memory.write(at + 6, assemble(f"addi a1, a1, {step}")[2:])
            guest.engine.synchronize(guest.memory)
            assert guest.run(500, at=at) == 1000 * step
            guest.memory.write(at + 16, assemble("sub a1, a1, a2"))
            guest.engine.synchronize(guest.memory)
            assert guest.run(500, at=at) == 0


@ALL
def test_a_fence_of_one_vcpu_reaches_another_that_runs(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two vCPUs on a page that the guest can write. The second turns in a loop, from which only changed code leads out."""
    with guests(1, Prot.RWX, **options) as (guest,):
        assert guest.run() == 300
        guest.memory.write(CODE + 0x100, assemble("addi a1, a1, 1", "jal zero, -4", "ecall"))
        guest.memory.write(CODE + 0x1000, loop(4))
        guest.engine.add_vcpu()
        other: CpuState = ISA.cpu()
        other.pc = CODE + 0x100
        ends: list[object] = []
        thread = threading.Thread(
            target=lambda: ends.append(guest.engine.run(other, guest.memory, 1 << 40)), daemon=True
        )
        thread.start()
        time.sleep(0.05)
        for turn in range(20):
            # The fences before: the page has been left and come to again by the first vCPU.
            guest.memory.write(CODE + 0x1000, loop(turn)[:4])
            guest.engine.synchronize(guest.memory)
            assert guest.run(at=CODE + 0x1000) == 100 * turn
        compared: list[int] = []
        compare = CodeImage._compare
        monkeypatch.setattr(
            CodeImage, "_compare", lambda image, page: (compared.append(page), compare(image, page))[1]
        )
        guest.memory.write(CODE + 0x104, assemble("addi zero, zero, 0"))
        guest.engine.synchronize(guest.memory)
        # At once, not when it comes back to Python.
        assert CODE >> 12 in compared
        thread.join(60)
        assert ends == [Syscall()]


@ALL
@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_fences_are_counted(options: dict[str, bool], step: int) -> None:
    """A loop that changes itself, run in pieces of so many instructions: the fence is one, and nothing stops twice."""
    code = assemble(
        "lw a2, 12(a3)", "add a2, a2, a4", "sw a2, 12(a3)", "fence.i", "addi a1, a1, 0", "addi a0, a0, -1",
        "bne a0, zero, -24", "ecall",
    )  # fmt: skip
    with guests(1, Prot.RWX, **options) as (guest,):
        guest.memory.write(CODE, code)
        cpu = guest.cpu
        cpu.pc, cpu["a0"], cpu["a1"], cpu["a3"], cpu["a4"] = CODE, 50, 0, CODE + 4, 1 << 20
        steps = 0
        while (end := guest.engine.run(cpu, guest.memory, step)) == Budget():
            steps += step
        assert end == Syscall()
        assert steps + step - cpu.words[1] == 50 * 7 + 1
        assert cpu["a1"] == 50 * 51 // 2


def test_what_changes_often_is_compiled_later() -> None:
    with guests(1, Prot.RWX, eager=False, jit=False) as (guest,):
        for turn in range(40):
            guest.memory.write(CODE, loop(turn))
            guest.engine.synchronize(guest.memory)
            assert guest.run(200) == 200 * turn
        few = guest.engine.stats.extra["baseline_instructions"]
        assert 0 < few < 40
        assert guest.run(5000) == 5000 * 39
        assert guest.engine.stats.extra["baseline_instructions"] > few


@ALL
def test_python_is_asked_once_for_a_page_of_blocks(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not been decoded yet is decoded where it is met, without leaving native code."""
    asked: list[int] = []
    predecode = CodeImage.predecode
    monkeypatch.setattr(
        CodeImage, "predecode", lambda image, pc, *more: (asked.append(pc), predecode(image, pc, *more))[1]
    )
    with guests(1, **options, eager=False) as (guest,):
        blocks = 2 * PAGE // 8 - 1
        guest.memory.poke(CODE, assemble("addi a1, a1, 1", "jal zero, 4") * blocks + assemble("ecall"))
        assert guest.run() == blocks
        assert asked == [CODE, CODE + PAGE]
        assert guest.engine.stats.blocks_decoded == blocks + 1


def test_python_decodes_for_who_shares_and_what_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    predecode = CodeImage.predecode
    monkeypatch.setattr(
        CodeImage, "predecode", lambda image, pc, *more: (asked.append(pc), predecode(image, pc, *more))[1]
    )
    code = assemble("addi a1, a1, 1", "jal zero, 4") * 20 + assemble("ecall")
    for count, prot in ((2, Prot.RX), (1, Prot.RWX)):
        asked.clear()
        with guests(count, prot, jit=False, eager=False) as everyone:
            for guest in everyone:
                guest.memory.poke(CODE, code)
            for guest in everyone:
                guest.cpu.pc = CODE
                assert guest.engine.run(guest.cpu, guest.memory, 1) == Budget()
            asked.clear()
            for guest in everyone:
                assert guest.run() == 20
            assert len(asked) == 20, (count, prot)


@ALL
def test_an_instruction_reaches_into_a_page_that_changes(options: dict[str, bool]) -> None:
    """From a page that the guest cannot write, and that is not looked up again between the change and the instruction."""
    with guests(1, **options) as (guest,):
        guest.memory.protect(CODE + PAGE, PAGE, Prot.RWX)
        at = CODE + PAGE - 10
        for step in (1, 300, 5):
            guest.memory.poke(at, assemble("jal zero, 4", "addi a2, a2, 0", f"addi a1, a1, {step}", "ecall"))
            guest.engine.synchronize(guest.memory)
            assert guest.run(at=at) == step


def test_who_is_alone_hashes_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody comes who may have the same."""
    hashed: list[NativeEngine] = []
    real = NativeEngine._region_digest

    def digest(self: NativeEngine, at: tuple[int, int]) -> bytes:
        hashed.append(self)
        return real(self, at)

    monkeypatch.setattr(NativeEngine, "_region_digest", digest)
    with ExitStack() as stack:
        first = stack.enter_context(closing(Guest(loop(3), Prot.RX)))
        assert first.run() == 300
        assert not hashed
        second = stack.enter_context(closing(Guest(loop(3), Prot.RX)))
        assert second.run() == 300
        assert hashed == [first.engine, second.engine]
        assert first.image is second.image
        assert first.run(7) == 21
    with closing(Guest(loop(3), Prot.RX)) as first:
        first.run()
        first.patch(loop(4))  # it is its own from now on
        with closing(Guest(loop(4), Prot.RX)) as second:
            assert (second.run(), first.run()) == (400, 400)
            assert first.image is not second.image
