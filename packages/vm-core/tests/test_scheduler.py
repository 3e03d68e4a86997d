"""Many guests on few host threads: turns, waits, limits and ends. On the reference engine, with programs assembled here."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

import vm_core
from vm_core.engine import Breakpoint, Budget, Cause, Interrupted, Syscall, Trap
from vm_core.errors import LoadError, UsageError
from vm_core.linux.process import GuestThread
from vm_core.machine import Machine
from vm_core.memory import Prot
from vm_core.runner import DEVNULL, PIPE, run
from vm_core.scheduler import Scheduler
from vm_core.testing.guests import program

EXIT = "\nexit: li a7, 94\n ecall\n"
COUNT = program("li a0, 300\nagain: addi a0, a0, -1\n bne a0, zero, again\n li a0, 7" + EXIT)
SPIN = program("_start: addi a0, a0, 1\n j _start")
FAULT = program("li a1, 64\n ld a0, 0(a1)")
SLEEP = program("la a0, t\n li a1, 0\n li a7, 101\n ecall" + EXIT + ".align 8\nt: .dword 0\n.dword 50000000")
FOREVER = program("la a0, t\n li a1, 0\n li a7, 101\n ecall" + EXIT + ".align 8\nt: .dword 1000\n.dword 0")
CAT = program(
    """
_start: li a0, 0
        la a1, buffer
        li a2, 64
        li a7, 63
        ecall
        beq a0, zero, exit
        mv a2, a0
        li a0, 1
        la a1, buffer
        li a7, 64
        ecall
        j _start
buffer: .zero 64
        """
    + EXIT
)
# The main thread waits in a futex until the thread that it starts has counted, slept and woken it.
FUTEX = program(
    """
_start: li a0, 0x10f00         # VM FS FILES SIGHAND THREAD
        la a1, stack
        li a7, 220
        ecall
        beq a0, zero, other
wait:   la a0, word
        lw a1, 0(a0)
        bne a1, zero, done
        li a1, 0               # FUTEX_WAIT
        li a2, 0
        li a3, 0
        li a7, 98
        ecall
        j wait
done:   li a0, 9
        j exit
other:  la a0, t
        li a1, 0
        li a7, 101
        ecall
        la a0, word
        li a1, 1
        sw a1, 0(a0)
        li a2, 1               # FUTEX_WAKE
        mv a2, a1
        li a7, 98
        ecall
        li a7, 93
        ecall
        .align 16
word:   .dword 0
t:      .dword 0
        .dword 20000000
        .zero 64
stack:  .zero 16
"""
    + EXIT
)
# poll(2) of standard input, one second at most; the exit status is the number of ready files.
POLL = program("la a0, p\n li a1, 1\n la a2, t\n li a3, 0\n li a4, 8\n li a7, 73\n ecall" + EXIT
               + ".align 8\np: .word 0\n.word 1\nt: .dword 1\n.dword 0")  # fmt: skip


@pytest.fixture
def scheduler():
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    interval = sys.getswitchinterval()
    with Scheduler(workers=2) as made:
        yield made
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files
    assert sys.getswitchinterval() == interval


def add(scheduler, image, *args, **options):
    options.setdefault("engine", "reference")
    return scheduler.add(["guest", *args], program=image, **options)


def test_results_are_those_of_run(scheduler):
    images = [COUNT, FAULT, program("li a0, 3" + EXIT)]
    expected = [run(["guest"], program=image, engine="reference") for image in images]
    guests = [add(scheduler, image) for _ in range(8) for image in images]
    for i, guest in enumerate(guests):
        result, alone = guest.result(10), expected[i % 3]
        for name in (
            "returncode",
            "reason",
            "signal",
            "message",
            "instructions",
            "system_calls",
            "exit_code",
        ):
            assert getattr(result, name) == getattr(alone, name)
        assert guest.done
        assert guest.process is None


def test_streams(scheduler):
    guests = [add(scheduler, CAT, input=f"text {i}", capture_output=True, text=True) for i in range(20)]
    assert [guest.result(10).stdout for guest in guests] == [f"text {i}" for i in range(20)]


def test_all_have_their_turns(scheduler):
    """Guests that never end do not keep the others from ending."""
    endless = [add(scheduler, SPIN) for _ in range(6)]
    assert [add(scheduler, COUNT).result(10).returncode for _ in range(4)] == [7] * 4
    time.sleep(0.2)
    counts = [guest.process.instructions for guest in endless]
    assert min(counts) > 0
    assert not any(guest.done for guest in endless)
    for guest in endless:
        guest.stop()
    assert {guest.result(10).reason for guest in endless} == {"stopped"}


def test_sleepers_hold_no_host_thread(scheduler):
    before = threading.active_count()
    begin = time.monotonic()
    guests = [add(scheduler, SLEEP) for _ in range(100)]
    assert add(scheduler, COUNT).result(10).returncode == 7
    assert threading.active_count() <= before + 3
    assert {guest.result(10).returncode for guest in guests} == {0}
    assert {guest.result().system_calls for guest in guests} == {2}
    assert time.monotonic() - begin > 0.05


def test_readers_hold_no_host_thread(scheduler):
    before = threading.active_count()
    pipes = [os.pipe() for _ in range(30)]
    guests = [add(scheduler, CAT, stdin=reader, stdout=PIPE) for reader, _ in pipes]
    assert add(scheduler, COUNT).result(10).returncode == 7
    assert threading.active_count() <= before + 3
    assert not any(guest.done for guest in guests)
    for i, (_, writer) in enumerate(pipes):
        os.write(writer, b"%d " % i)
    time.sleep(0.05)
    for reader, writer in pipes:
        os.write(writer, b"end")
        os.close(writer)
        os.close(reader)
    assert [guest.result(10).stdout for guest in guests] == [b"%d end" % i for i in range(30)]


def test_two_guests_wait_for_one_pipe(scheduler):
    reader, writer = os.pipe()
    guests = [add(scheduler, CAT, stdin=reader, stdout=PIPE) for _ in range(2)]
    time.sleep(0.05)
    os.write(writer, b"once")
    os.close(writer)
    os.close(reader)
    assert sorted(guest.result(10).stdout for guest in guests) == [b"", b"once"]


def test_poll_with_a_timeout(scheduler):
    reader, writer = os.pipe()
    begin = time.monotonic()
    late = [add(scheduler, POLL, stdin=reader) for _ in range(3)]
    assert [guest.result(10).returncode for guest in late] == [0, 0, 0]
    assert 1 <= time.monotonic() - begin < 4
    soon = add(scheduler, POLL, stdin=reader)
    os.write(writer, b"x")
    assert soon.result(10).returncode == 1
    os.close(reader)
    os.close(writer)
    assert add(scheduler, POLL, input=b"x").result(10).returncode == 1


def test_threads_of_a_guest_share_the_workers(scheduler):
    before = threading.active_count()
    guests = [add(scheduler, FUTEX) for _ in range(30)]
    assert threading.active_count() <= before + 3
    assert {guest.result(10).returncode for guest in guests} == {9}


def test_limits_are_each_guests_own(scheduler):
    fuel = [add(scheduler, SPIN, fuel=count) for count in (1, 777, 5000)]
    late = [add(scheduler, image, timeout=0.1) for image in (SPIN, FOREVER)]
    small = add(scheduler, COUNT, memory=4096)
    other = add(scheduler, COUNT)
    assert [(g.result(10).reason, g.result().instructions) for g in fuel] == [
        ("fuel", 1), ("fuel", 777), ("fuel", 5000),
    ]  # fmt: skip
    assert {(guest.result(10).reason, guest.result().returncode) for guest in late} == {("timeout", 124)}
    assert small.result(10).reason == "memory"
    assert other.result(10).returncode == 7


def test_fuel_over_waits_and_threads(scheduler):
    needed = run(["guest"], program=SLEEP, engine="reference").instructions
    assert add(scheduler, SLEEP, fuel=needed).result(10).reason == "exit"
    assert add(scheduler, SLEEP, fuel=needed - 1).result(10).reason == "fuel"
    assert add(scheduler, FUTEX, fuel=10_000).result(10).returncode == 9


def test_a_call_that_cannot_be_made_again_holds_a_thread_of_its_own(scheduler):
    """A write to a full pipe: more guests than workers wait in it, and others run on."""
    text = program(
        "_start: li a0, 1\n la a1, _start\n li a2, 100000\n li a7, 64\n ecall\n li a0, 5" + EXIT,
        extra=200_000,
    )
    pipes = [os.pipe() for _ in range(4)]
    writers = [add(scheduler, text, stdout=writer) for _, writer in pipes]
    assert [add(scheduler, COUNT).result(10).returncode for _ in range(3)] == [7] * 3
    assert not any(guest.done for guest in writers)
    for reader, writer in pipes:
        os.close(writer)
        left = 100_000
        while left:
            left -= len(os.read(reader, left))
        os.close(reader)
    assert {guest.result(10).returncode for guest in writers} == {5}


def test_a_signal_ends_a_wait(scheduler):
    from vm_core.linux.abi import SigInfo

    guest = add(scheduler, FOREVER)
    while not guest.process.system_calls and not guest.process.main.resumed:
        time.sleep(0.001)
    guest.process.send(SigInfo(signal.SIGTERM, 0))
    assert guest.result(10).signal == signal.SIGTERM


def test_an_error_in_vm_is_one_guests_result(scheduler):
    def broken(_thread: GuestThread, name: str, _arguments: tuple[int, ...]) -> int | None:
        raise RuntimeError(name)

    bad = add(scheduler, COUNT, syscall_hook=broken)
    good = [add(scheduler, COUNT) for _ in range(3)]
    with pytest.raises(RuntimeError, match="exit_group"):
        bad.result(10)
    assert [guest.result(10).returncode for guest in good] == [7] * 3


def test_hooks_see_a_call_that_waits_once(scheduler):
    seen: list[str] = []
    lines: list[str] = []
    guest = add(
        scheduler,
        SLEEP,
        syscall_hook=lambda _thread, name, _arguments: seen.append(name),
        strace=lines.append,
    )
    assert guest.result(10).returncode == 0
    assert seen == ["nanosleep", "exit_group"]
    assert [line.partition("(")[0] for line in lines] == ["nanosleep", "exit_group"]


def test_what_cannot_start_is_raised(scheduler):
    with pytest.raises(LoadError):
        scheduler.add("/nonexistent")
    with pytest.raises(UsageError):
        scheduler.add([])
    assert scheduler.wait(1)


def test_results_can_be_waited_for(scheduler):
    guest = add(scheduler, SPIN)
    assert not guest.wait(0.01)
    assert not scheduler.wait(0.01)
    with pytest.raises(TimeoutError):
        guest.result(0.01)
    assert scheduler.guests == [guest]
    guest.stop()
    assert scheduler.wait(10)
    assert scheduler.guests == []


def test_closing_stops_everybody():
    scheduler = Scheduler(workers=2)
    guests = [add(scheduler, image, stdout=DEVNULL) for image in (SPIN, FOREVER, FUTEX, SPIN)]
    scheduler.close()
    assert all(guest.done for guest in guests)
    assert guests[0].result().reason == "stopped"
    with pytest.raises(UsageError):
        add(scheduler, COUNT)
    scheduler.close()


def test_an_exception_leaves_nobody_running():
    guests = []

    def leave():
        with Scheduler() as scheduler:
            guests.append(add(scheduler, SPIN))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    assert guests[0].result().reason == "stopped"


def test_workers_must_be_some():
    with pytest.raises(UsageError):
        Scheduler(workers=0)
    with Scheduler() as scheduler:
        assert scheduler.workers == len(os.sched_getaffinity(0))
    assert vm_core.Scheduler is Scheduler


# -- machines ---------------------------------------------------------------------------------------------------


def machine(*lines, prot=Prot.RX):
    made = Machine(engine="reference")
    code = b"".join(made.isa.assemble(line) for line in lines)
    made.map(0x1000, 4096, code, prot=prot)
    made.pc = 0x1000
    return made


def test_machines(scheduler):
    loop = ("addi a0, a0, 1", "jal zero, -4")
    made = [machine(*loop) for _ in range(5)] + [
        machine("addi a0, zero, 4", "ecall"),
        machine("ld a1, 0(zero)"),
    ]
    guests = [
        scheduler.add_machine(made[0], limit=1001),
        scheduler.add_machine(made[1], timeout=0.05),
        scheduler.add_machine(made[2], until=0x1004),
        scheduler.add_machine(made[3], limit=0),
        scheduler.add_machine(made[4]),
        scheduler.add_machine(made[5]),
        scheduler.add_machine(made[6]),
    ]
    assert guests[0].result(10) == Budget()
    assert (made[0].instructions, made[0]["a0"]) == (1001, 501)
    assert guests[1].result(10) == Interrupted()
    assert guests[2].result(10) == Breakpoint(0x1004)
    assert guests[3].result(10) == Budget()
    assert made[3].instructions == 0
    assert guests[5].result(10) == Syscall()
    trap = guests[6].result(10)
    assert isinstance(trap, Trap)
    assert (trap.cause, trap.address) == (Cause.LOAD, 0)
    assert not guests[4].done
    guests[4].stop()
    assert guests[4].result(10) == Interrupted()
    assert guests[4].process is None
    for one in made:
        one.close()


def test_hooks_of_a_machine_are_called_and_may_fail(scheduler):
    calls: list[int] = []
    with machine("ecall", "ecall", "jal zero, 0") as one, machine("ecall") as other:

        def count(m: Machine) -> None:
            calls.append(m.pc)
            if len(calls) == 2:
                m.stop()

        def fail(_m: Machine) -> None:
            raise RuntimeError("hook")

        one.hook_syscall(count)
        other.hook_syscall(fail)
        first, second = scheduler.add_machine(one), scheduler.add_machine(other)
        with pytest.raises(RuntimeError, match="hook"):
            second.result(10)
        time.sleep(0.05)
        first.stop()
        assert first.result(10) == Interrupted()
        assert calls == [0x1004, 0x1008]
