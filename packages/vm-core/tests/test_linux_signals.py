"""Signals: frames of all three ABIs, delivery, restart, masks, waiting."""

from __future__ import annotations

import errno
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from vm_core import isa as isas
from vm_core.linux.abi import SigInfo, abi_of, s32, s64
from vm_core.linux.family import Family
from vm_core.linux.files import RESTART_NO_HANDLER
from vm_core.linux.hostsignals import HostSignals
from vm_core.linux.ipc import Ipc
from vm_core.memory import GuestMemory, MemoryFault, Prot
from vm_core.runner import PIPE, run
from vm_core.state import HEADER, CpuState
from vm_core.testing.guests import Caller, program

EXIT = "\nexit: li a7, 94\n ecall\n"
SIGUSR1, SIGUSR2, SIGSEGV, SIGALRM, SIGCHLD, SIGRT = 10, 12, 11, 14, 17, 40
SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND = (
    4,
    0x08000000,
    0x10000000,
    0x40000000,
    0x80000000,
)


def go(text, **options):
    return run(["guest"], program=program(text + EXIT), engine="reference", stdout=PIPE, **options)


# -- frames -----------------------------------------------------------------------------------------------------

LAYOUTS = {name: isas.get(name).layout for name in isas.NAMES}


@pytest.mark.parametrize("isa", LAYOUTS)
def test_a_frame_restores_every_register(isa):
    layout = LAYOUTS[isa]
    abi = abi_of(isa, layout)
    cpu = CpuState(layout)
    for number, (file, slot) in enumerate(sorted(set(layout.names.values()))):
        cpu.set(file, slot, 0x0123456789ABCDEF_FEDCBA9876543210 * (number + 1))
    cpu.pc = 0x11110
    cpu.words[abi.stack_word] = 0x9000
    before = cpu.snapshot()
    if isa == "riscv64":
        cpu.header("fp_flags", 0x15)
        cpu.header("fp_rounding", 3)
    with GuestMemory(bits=24) as memory:
        memory.map(0x5000, 0x4000, Prot.RW)
        info = SigInfo(11, 1, address=0xABCD)
        abi.push_frame(cpu, memory, 0x9000, info, 0x22220, 0x55, (0x7000, 0, 0x1000), 0x33330)
        sp = cpu.words[abi.stack_word]
        assert cpu.pc == 0x22220
        assert cpu.words[abi.argument_words[0]] == 11
        assert sp < 0x9000 - abi.red_zone
        assert (sp + (8 if isa == "x86_64" else 0)) % 16 == 0
        where = cpu.words[abi.argument_words[1]]
        assert struct.unpack("<iiiiQ", memory.read(where, 24)) == (11, 0, 1, 0, 0xABCD)
        if isa == "x86_64":
            assert memory.load(sp, 8) == 0x33330
            cpu.words[abi.stack_word] = sp + 8  # the handler's ret
        else:
            assert cpu["x1" if isa == "riscv64" else "x30"] == 0x33330
        for file, slot in set(layout.names.values()):
            if layout.offset(file, slot) // 8 != abi.stack_word and file not in ("sys", "seg"):
                cpu.set(file, slot, 0)
        cpu.header("fp_flags", 0)
        cpu.header("fp_rounding", 0)
        assert abi.pop_frame(cpu, memory) == (0x55, (0x7000, 0, 0x1000))
        assert cpu.snapshot() == before
        if isa == "riscv64":
            assert (cpu.header("fp_flags"), cpu.header("fp_rounding")) == (0x15, 3)


@pytest.mark.parametrize("isa", LAYOUTS)
def test_a_frame_that_does_not_fit_changes_nothing(isa):
    layout = LAYOUTS[isa]
    abi = abi_of(isa, layout)
    cpu = CpuState(layout)
    cpu.pc = 4
    before = cpu.snapshot()
    with GuestMemory(bits=24) as memory:
        memory.map(0x5000, 0x1000, Prot.RW)
        with pytest.raises(MemoryFault):
            abi.push_frame(cpu, memory, 0x5100, SigInfo(11), 8, 0, (0, 2, 0), 0)
    assert cpu.snapshot() == before


def test_the_riscv_frame_is_laid_out_as_in_linux():
    """struct rt_sigframe: siginfo, ucontext with uc_mcontext at 176, sc_regs pc first, then f registers and fcsr."""
    layout = LAYOUTS["riscv64"]
    abi = abi_of("riscv64", layout)
    cpu = CpuState(layout)
    cpu.pc, cpu["x5"], cpu["f3"] = 0x1234, 55, 33
    cpu.header("fp_flags", 1)
    with GuestMemory(bits=24) as memory:
        memory.map(0x5000, 0x4000, Prot.RW)
        abi.push_frame(cpu, memory, 0x8FF8, SigInfo(10), 8, 0x80, (0x6000, 0, 0x800), 0)
        uc = cpu["x12"]
        assert uc == cpu["x2"] + 128
        assert struct.unpack("<QQQiiQQ", memory.read(uc, 48)) == (0, 0, 0x6000, 0, 0, 0x800, 0x80)
        assert memory.load(uc + 176, 8) == 0x1234
        assert memory.load(uc + 176 + 5 * 8, 8) == 55
        assert memory.load(uc + 176 + 256 + 3 * 8, 8) == 33
        assert memory.load(uc + 176 + 256 + 256, 4) == 1


def test_signed_views():
    assert (s32(0xFFFFFFFF), s32(1 << 32), s64((1 << 64) - 1), s64(5)) == (-1, 0, -1, 5)


# -- handlers ---------------------------------------------------------------------------------------------------

INSTALL = """
_start: la a1, action
        li a0, 10
        li a2, 0
        li a3, 8
        li a7, 134
        ecall
        j begin
        .align 8
action: .dword handler
        .dword {flags}
        .dword {mask}
"""
RAISE = "li a7, 172\n ecall\n li a1, 10\n li a7, 129\n ecall\n"


def installed(body, flags=0, mask=0):
    return INSTALL.format(flags=flags, mask=mask) + body


def test_a_handler_runs_and_returns():
    text = f"begin: li s0, 1\n {RAISE} mv a0, s0\n j exit\nhandler: li s0, 99\n addi a7, a0, 0\n la t0, seen\n sd a0, 0(t0)\n ret\n .align 8\nseen: .dword 0\n"
    # s0 is restored by sigreturn; what the handler wrote to memory stays.
    text = text.replace(
        "mv a0, s0\n j exit", "la t0, seen\n ld a0, 0(t0)\n slli a0, a0, 1\n add a0, a0, s0\n j exit"
    )
    assert go(installed(text)).returncode == 21


def test_a_handler_may_change_the_context():
    text = "begin: .word 0xffffffff\n addi a0, a0, 1\n j exit\nhandler: ld t0, 304(a1)\n addi t0, t0, 4\n sd t0, 304(a1)\n li t1, 41\n sd t1, 384(a1)\n ret\n"
    text = installed(text, SA_SIGINFO).replace("li a0, 10\n        li a2", "li a0, 4\n        li a2")
    assert go(text).returncode == 42


def test_mprotect_in_a_segv_handler_lets_the_store_go_on():
    text = """
begin:  la a0, page
        srli a0, a0, 12
        slli a0, a0, 12
        mv s0, a0
        li a1, 4096
        li a2, 1
        li a7, 226
        ecall
        li a0, 7
        sd a0, 0(s0)
        ld a0, 0(s0)
        j exit
handler: ld a0, 16(a1)
        lw t0, 8(a1)
        li t1, 2
        bne t0, t1, wrong
        li a1, 4096
        li a2, 3
        li a7, 226
        ecall
        ret
wrong:  .word 0xffffffff
        .zero 8192
page:   .zero 8192
"""
    assert (
        go(
            installed(text, SA_SIGINFO).replace("li a0, 10\n        li a2", "li a0, 11\n        li a2")
        ).returncode
        == 7
    )


ON_OWN_STACK = f"""begin:  la a0, stack
        la t0, low
        sd t0, 0(a0)
        li a1, 0
        li a7, 132
        ecall
        {RAISE}
"""


def test_the_alternate_stack():
    text = f"""
{ON_OWN_STACK}        la t0, seen
        ld t1, 0(t0)
        la t2, low
        sub a0, t1, t2
        srli a0, a0, 8
        j exit
handler: la t0, seen
        sd sp, 0(t0)
        ret
        .align 8
seen:   .dword 0
stack:  .dword 0
        .dword 0
        .dword 8192
low:    .zero 8192
"""
    # 8192 - 1088 = 7104 = 27 * 256 + ...
    assert go(installed(text, SA_ONSTACK)).returncode == 27


def test_an_alternate_stack_that_is_full_kills():
    text = f"""
{ON_OWN_STACK}        li a0, 1
        j exit
handler: {RAISE}
        ret
        .align 8
stack:  .dword 0
        .dword 0
        .dword 8192
        .zero 16384
low:    .zero 8192
"""
    result = go(installed(text, SA_ONSTACK | SA_NODEFER), timeout=20)
    assert (result.reason, result.signal) == ("signal", 11)


def test_a_fault_on_a_bad_stack_is_killed():
    text = f"begin: li sp, 64\n {RAISE}\n j exit\nhandler: ret\n"
    result = go(installed(text))
    assert (result.signal, "SIGSEGV" in result.message) == (11, True)


def test_a_fault_inside_its_own_handler_kills():
    text = "begin: ld a0, 0(zero)\nhandler: ld a0, 0(zero)\n"
    result = go(installed(text).replace("li a0, 10\n        li a2", "li a0, 11\n        li a2"))
    assert result.signal == 11


def test_reset_to_the_default():
    text = f"begin: {RAISE} {RAISE} j exit\nhandler: ret\n"
    assert go(installed(text, SA_RESETHAND)).signal == 10
    assert go(installed(text)).signal is None


NEST = f"""
begin:  {RAISE}
        la t0, deep
        ld a0, 0(t0)
        j exit
handler: la t0, depth
        ld t1, 0(t0)
        addi t1, t1, 1
        sd t1, 0(t0)
        la t2, deep
        ld t3, 0(t2)
        bge t3, t1, known
        sd t1, 0(t2)
known:  la t2, calls
        ld t3, 0(t2)
        addi t3, t3, 1
        sd t3, 0(t2)
        li t4, 2
        bge t3, t4, back
        addi sp, sp, -16
        sd ra, 0(sp)
        {RAISE}
        ld ra, 0(sp)
        addi sp, sp, 16
back:   la t0, depth
        ld t1, 0(t0)
        addi t1, t1, -1
        sd t1, 0(t0)
        ret
        .align 8
depth:  .dword 0
deep:   .dword 0
calls:  .dword 0
"""


@pytest.mark.parametrize(("flags", "deepest"), [(0, 1), (SA_NODEFER, 2)])
def test_a_signal_is_blocked_in_its_handler_unless_nodefer(flags, deepest):
    assert go(installed(NEST, flags)).returncode == deepest


READ = """
begin:  la a0, pipe
        li a1, 0
        li a7, 59
        ecall
        la a1, timer
        li a0, 0
        li a2, 0
        li a7, 103
        ecall
        la a0, pipe
        lw a0, 0(a0)
        la a1, buffer
        li a2, 8
        li a7, 63
        ecall
        addi a0, a0, 100
        j exit
handler: la a0, pipe
        lw a0, 4(a0)
        la a1, buffer
        li a2, 3
        li a7, 64
        ecall
        ret
        .align 8
pipe:   .dword 0
timer:  .dword 0
        .dword 0
        .dword 0
        .dword 30000
buffer: .dword 0
"""


@pytest.mark.parametrize(("flags", "result"), [(0, 100 - errno.EINTR), (SA_RESTART, 103)])
def test_an_interrupted_read_is_eintr_or_restarted(flags, result):
    text = installed(READ, flags).replace("li a0, 10\n        li a2", "li a0, 14\n        li a2")
    assert go(text, timeout=20).returncode == result


def test_an_ignored_signal_interrupts_nothing():
    text = (
        installed(READ)
        .replace("li a0, 10\n        li a2", "li a0, 14\n        li a2")
        .replace(".dword handler", ".dword 1")
    )
    assert go(text, timeout=0.3).reason == "timeout"


SLEEP = """
begin:  la a1, timer
        li a0, 0
        li a2, 0
        li a7, 103
        ecall
        la a0, long
        la a1, left
        li a7, 101
        ecall
        addi a0, a0, 100
        la t0, left
        ld t0, 0(t0)
        beq t0, zero, exit
        addi a0, a0, 100
        j exit
handler: ret
        .align 8
timer:  .dword 0
        .dword 0
        .dword 0
        .dword 30000
long:   .dword 30
        .dword 0
left:   .dword 0
        .dword 0
"""


def test_an_interrupted_sleep_says_what_is_left():
    text = installed(SLEEP, SA_RESTART).replace("li a0, 10\n        li a2", "li a0, 14\n        li a2")
    assert go(text, timeout=20).returncode == 200 - errno.EINTR


def test_a_signal_for_another_thread_interrupts_it():
    text = """
begin:  li a0, 0x310f00
        la a1, top
        la a2, tid
        li a3, 0
        la a4, tid
        li a7, 220
        ecall
        beq a0, zero, child
        mv s1, a0
        la a0, short
        li a1, 0
        li a7, 101
        ecall
        li a7, 172
        ecall
        mv a1, s1
        li a2, 10
        li a7, 131
        ecall
again:  la a0, result
        lw a0, 0(a0)
        bne a0, zero, exit
        li a7, 124
        ecall
        j again
child:  la a0, long
        li a1, 0
        li a7, 101
        ecall
        addi a0, a0, 50
        la t0, result
        sw a0, 0(t0)
        li a7, 93
        ecall
handler: ret
        .align 16
tid:    .dword 0
result: .dword 0
short:  .dword 0
        .dword 20000000
long:   .dword 30
        .dword 0
        .zero 2048
top:    .zero 16
"""
    assert go(installed(text), timeout=20).returncode == 50 - errno.EINTR


# -- calls ------------------------------------------------------------------------------------------------------


@pytest.fixture
def guest(tmp_path):
    with Caller(cwd=str(tmp_path)) as made:
        yield made


def bit(number):
    return struct.pack("<Q", 1 << (number - 1))


def test_sigaction_arguments(guest):
    action = struct.pack("<QQQ", 0x1234, SA_SIGINFO, 0xFFFF_FFFF_FFFF_FFFF)
    assert guest.call("rt_sigaction", SIGUSR1, action, 0, 8) == 0
    assert guest.call("rt_sigaction", SIGUSR1, 0, guest.buffer, 8) == 0
    handler, flags, mask = struct.unpack("<QQQ", guest.get(24))
    assert (handler, flags) == (0x1234, SA_SIGINFO)
    assert not mask & (1 << 8 | 1 << 18)
    for number in (0, 65, -1, 9, 19):
        assert guest.call("rt_sigaction", number, action, 0, 8) == -errno.EINVAL
    assert guest.call("rt_sigaction", 9, 0, guest.buffer, 8) == 0
    assert guest.call("rt_sigaction", SIGUSR1, action, 0, 4) == -errno.EINVAL
    assert guest.call("rt_sigaction", SIGUSR1, 8, 0, 8) == -errno.EFAULT


def test_masks(guest):
    assert guest.call("rt_sigprocmask", 0, bit(SIGUSR1), 0, 8) == 0
    assert guest.call("rt_sigprocmask", 0, bit(9), guest.buffer, 8) == 0
    assert guest.get(8) == bit(SIGUSR1)
    assert guest.thread.mask == 1 << 9
    assert guest.call("rt_sigprocmask", 1, bit(SIGUSR1), 0, 8) == 0
    assert guest.thread.mask == 0
    assert guest.call("rt_sigprocmask", 2, struct.pack("<Q", (1 << 64) - 1), 0, 8) == 0
    assert guest.thread.mask == (1 << 64) - 1 & ~(1 << 8 | 1 << 18)
    assert guest.call("rt_sigprocmask", 5, bit(1), 0, 8) == -errno.EINVAL


def test_pending_signals_and_waiting_for_them(guest):
    guest.call("rt_sigprocmask", 0, struct.pack("<Q", (1 << 64) - 1), 0, 8)
    pid, tid = guest.process.pid, guest.thread.tid
    assert guest.call("kill", pid, SIGUSR1) == guest.call("kill", pid, SIGUSR1) == 0
    assert guest.call("tgkill", pid, tid, SIGUSR2) == 0
    queued = struct.pack("<iiiiiIQ", SIGRT, 0, -1, 0, pid, 7, 0xCAFE)
    for _ in range(2):
        assert guest.call("rt_sigqueueinfo", pid, SIGRT, queued.ljust(128, b"\0")) == 0
    assert guest.call("rt_sigpending", guest.buffer, 8) == 0
    assert int.from_bytes(guest.get(8), "little") == 1 << 9 | 1 << 11 | 1 << 39
    everything = struct.pack("<Q", (1 << 64) - 1)
    now = struct.pack("<qq", 0, 0)
    got = [guest.call("rt_sigtimedwait", everything, guest.buffer, now, 8) for _ in range(5)]
    assert got == [SIGUSR2, SIGUSR1, SIGRT, SIGRT, -errno.EAGAIN]
    assert struct.unpack("<iiiiIIQ", guest.get(32)) == (SIGRT, 0, -1, 0, pid, 7, 0xCAFE)


def test_waiting_for_a_signal_blocks_until_it_comes(guest):
    guest.call("rt_sigprocmask", 0, bit(SIGUSR1), 0, 8)
    timer = threading.Timer(0.05, guest.process.send, [SigInfo(SIGUSR1)])
    timer.start()
    assert guest.call("rt_sigtimedwait", bit(SIGUSR1), 0, 0, 8) == SIGUSR1
    begin = time.monotonic()
    assert (
        guest.call("rt_sigtimedwait", bit(SIGUSR1), 0, struct.pack("<qq", 0, 30_000_000), 8) == -errno.EAGAIN
    )
    assert time.monotonic() - begin >= 0.03
    timer.join()


def test_sigsuspend_waits_under_another_mask(guest):
    guest.call("rt_sigaction", SIGUSR1, struct.pack("<QQQ", 0x10000, 0, 0), 0, 8)
    guest.call("rt_sigprocmask", 2, bit(SIGUSR1), 0, 8)
    timer = threading.Timer(0.05, guest.process.send, [SigInfo(SIGUSR1)])
    timer.start()
    guest.call("rt_sigsuspend", bytes(8), 8)
    assert guest.thread.interrupted == RESTART_NO_HANDLER
    guest.thread._attend()
    assert s64(guest.thread.cpu["a0"]) == SIGUSR1  # the handler's argument
    assert guest.memory.load(guest.thread.cpu["sp"] + 128 + 40, 8) == 1 << 9  # what sigreturn will restore
    timer.join()


def test_ignored_and_unknown_targets(guest):
    pid = guest.process.pid
    assert guest.call("kill", pid, SIGCHLD) == guest.call("kill", pid, 0) == 0
    assert not guest.process.signals.pending
    assert guest.call("kill", 1, 9) == guest.call("kill", pid + 1, 9) == -errno.ESRCH
    assert guest.call("kill", pid, 65) == -errno.EINVAL
    assert guest.call("tkill", 999_999_999, 10) == guest.call("tgkill", pid, 999_999_999, 10) == -errno.ESRCH
    assert guest.call("tgkill", 1, guest.thread.tid, 10) == -errno.ESRCH
    assert guest.call("rt_sigqueueinfo", pid + 1, 10, bytes(128)) == -errno.EPERM
    assert guest.call("rt_sigqueueinfo", pid, 0, bytes(128)) == 0  # what it says to itself is its own affair
    guest.call("rt_sigprocmask", 0, bit(SIGUSR1), 0, 8)
    guest.call("kill", pid, SIGUSR1)
    assert guest.process.signals.pending
    guest.call("rt_sigaction", SIGUSR1, struct.pack("<QQQ", 1, 0, 0), 0, 8)
    assert not guest.process.signals.pending


def test_sigaltstack_arguments(guest):
    def stack(base, flags, size):
        return struct.pack("<QiiQ", base, flags, 0, size)

    assert guest.call("sigaltstack", stack(0x5000, 0, 4096), 0) == 0
    assert guest.call("sigaltstack", 0, guest.buffer) == 0
    assert guest.get(24) == stack(0x5000, 0, 4096)
    assert guest.call("sigaltstack", stack(0x5000, 0, 100), 0) == -errno.ENOMEM
    assert guest.call("sigaltstack", stack(0x5000, 8, 4096), 0) == -errno.EINVAL
    sp = guest.thread.cpu["sp"]
    assert guest.call("sigaltstack", stack(sp - 2048, 0, 4096), 0) == 0
    assert guest.call("sigaltstack", stack(0x5000, 2, 0), guest.buffer) == -errno.EPERM
    guest.thread.cpu["sp"] = 0x100
    assert guest.call("sigaltstack", stack(0, 2, 0), 0) == 0
    assert guest.thread.altstack[1] == 2


def test_interval_timers(guest):
    guest.call("rt_sigprocmask", 0, bit(SIGALRM), 0, 8)
    value = struct.pack("<qqqq", 0, 10_000, 0, 10_000)
    assert guest.call("setitimer", 0, value, 0) == 0
    for _ in range(3):
        assert guest.call("rt_sigtimedwait", bit(SIGALRM), 0, struct.pack("<qq", 5, 0), 8) == SIGALRM
    assert guest.call("getitimer", 0, guest.buffer) == 0
    interval = struct.unpack("<qqqq", guest.get(32))[:2]
    assert interval == (0, 10_000)
    assert guest.call("setitimer", 0, bytes(32), guest.buffer) == 0
    assert guest.call("setitimer", 3, value, 0) == -errno.EINVAL
    assert guest.call("setitimer", 0, struct.pack("<qqqq", 0, 0, 0, 2_000_000), 0) == -errno.EINVAL
    guest.call("rt_sigtimedwait", bit(SIGALRM), 0, bytes(16), 8)
    assert (
        guest.call("rt_sigtimedwait", bit(SIGALRM), 0, struct.pack("<qq", 0, 30_000_000), 8) == -errno.EAGAIN
    )


@pytest.mark.parametrize("how", ["block", "poll"])
def test_a_signal_that_comes_just_before_a_wait_ends_it_soon(how):
    """The host does not end a call of vm's that waits for a signal that came before it: vm has to look again."""
    with Caller() as guest:
        thread, process = guest.thread, guest.process
        thread.words[HEADER["wait_nanoseconds"] // 8] = 1  # as in Python's main thread

        def come():
            # As a handler of Python's does that ran too early: what it tells the thread does not end the host's call.
            process.leaving = True
            thread.attention = True

        timer = threading.Timer(0.1, come)
        timer.start()
        begin = time.monotonic()
        if how == "block":
            assert thread.block(begin + 60, None) == -errno.EINTR
        else:
            assert thread.poll([], begin + 60) is None
        timer.join()
        assert time.monotonic() - begin < 10


class Arrivals(HostSignals):
    """Only what takes the host's signals in their order."""

    def __init__(self) -> None:
        self._arrived, self._taking, self.taken = deque(), False, []

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.taken.append(number)


def interrupted(at: int) -> tuple[Arrivals, bool]:
    """One signal, and another before the ``at``-th bytecode of its handler, if it has so many."""
    process, seen = Arrivals(), 0

    def step(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code is not HostSignals._signalled.__code__:
            return None
        frame.f_trace_opcodes = True
        seen += event == "opcode"
        if event == "opcode" and seen == at:
            process._signalled(12, None)
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        process._signalled(10, None)
    finally:
        sys.settrace(before)
    return process, seen >= at


def test_a_signal_between_any_two_bytecodes_of_the_handler() -> None:
    """Python runs a handler of signals inside one: nothing may stay, or be taken twice."""
    for at in range(1, 1000):
        process, came = interrupted(at)
        assert sorted(process.taken) == ([10, 12] if came else [10]), at
        assert not process._arrived
        assert not process._taking
        if not came:
            break
    assert at > 20


def test_the_family_is_not_waited_for_with_what_signal_handlers_take() -> None:
    """A handler that comes while its thread has the family's lock takes the process's: whoever has that one must not want the other."""
    with Caller(max_processes=9) as guest:
        process = guest.process
        held = Family.held

        @contextmanager
        def watched(family: Family) -> Iterator[None]:
            # Its making is nobody else's to wait for.
            assert process.family is not family or not process.lock._is_owned()
            with held(family):
                yield

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Family, "held", watched)
            assert process.found_family()
            assert Ipc.of(process)
            assert process.new_thread(process.isa.cpu()) is not None
            host = threading.Thread(target=process.host_signals.take)
            host.start()
            host.join()
            process.host_signals.release()
