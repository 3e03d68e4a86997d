"""Futexes, time, identity, and the table that all calls come from."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time

import pytest

from vm_core import isa as isas
from vm_core.linux import table
from vm_core.linux.abi import abi_of
from vm_core.linux.futex import FutexTable, can_wait_for_two
from vm_core.linux.time import AlarmClock
from vm_core.testing.guests import Caller

WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET = 0, 1, 3, 4, 5, 9, 10
PRIVATE = 128


@pytest.fixture(params=["host", "own"])
def guest(request, tmp_path, monkeypatch):
    """With the futex queues of the host, and with ours."""
    if request.param == "host" and not can_wait_for_two():
        pytest.skip("the host has no futex_waitv")
    monkeypatch.setattr("vm_core.linux.process.can_wait_for_two", lambda: request.param == "host")
    with Caller(cwd=str(tmp_path)) as made:
        yield made


class Waiters:
    """Guest threads that wait in a futex call, each in a host thread; `results` has what the calls returned."""

    def __init__(self, guest):
        self.guest = guest
        self.results = {}
        self.threads = []

    def start(self, name, *args):
        process = self.guest.process
        thread = process.new_thread(self.guest.thread.cpu.copy())

        def run():
            from vm_core.linux.futex import futex

            self.results[name] = futex(thread, *args)

        host = threading.Thread(target=run)
        host.start()
        self.threads.append(host)
        while not thread.waiting or not self.asleep(host):
            time.sleep(0.001)
        return thread

    def asleep(self, host):
        """Whether the host has it in a queue already. (Others than in the two-word wait may not be there yet.)"""
        if isinstance(self.guest.process.futexes, FutexTable):
            return True
        with open(f"/proc/self/task/{host.native_id}/syscall") as file:
            return file.read().split()[0] in ("449", "202", "98")

    def join(self):
        for host in self.threads:
            host.join(5)
            assert not host.is_alive()


def wake_bits(guest, at, bits):
    """Wake one; the host's waits for some bits are a row of short ones, and may be between two."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if (woken := guest.call("futex", at, WAKE_BITSET, 10, 0, 0, bits)) != 0:
            return woken
    return 0


def idle(guest):
    """Whether nobody waits any more, as far as can be seen."""
    return not getattr(guest.process.futexes, "queues", None)


def settle(waiters, count):
    end = time.monotonic() + 5
    while len(waiters.results) < count and time.monotonic() < end:
        time.sleep(0.001)
    return sorted(waiters.results)


def test_wait_compares_and_wake_wakes_in_order(guest):
    at = guest.put(bytes(8))
    assert guest.call("futex", at, WAIT | PRIVATE, 1, 0, 0, 0) == -errno.EAGAIN
    waiters = Waiters(guest)
    for name in "abc":
        waiters.start(name, at, WAIT | PRIVATE, 0, 0, 0, 0)
    assert guest.call("futex", at, WAKE | PRIVATE, 1, 0, 0, 0) == 1
    assert settle(waiters, 1) == ["a"]
    assert guest.call("futex", at, WAKE | PRIVATE, 0x7FFFFFFF, 0, 0, 0) == 2
    waiters.join()
    assert waiters.results == dict.fromkeys("abc", 0)
    assert guest.call("futex", at, WAKE | PRIVATE, 1, 0, 0, 0) == 0
    assert idle(guest)


def test_bitsets(guest):
    at = guest.put(bytes(8))
    waiters = Waiters(guest)
    waiters.start("one", at, WAIT_BITSET, 0, 0, 0, 1)
    waiters.start("two", at, WAIT_BITSET, 0, 0, 0, 2)
    assert guest.call("futex", at, WAKE_BITSET, 10, 0, 0, 4) == 0
    assert wake_bits(guest, at, 2) == 1
    assert settle(waiters, 1) == ["two"]
    assert wake_bits(guest, at, 3) == 1
    waiters.join()
    assert guest.call("futex", at, WAIT_BITSET, 0, 0, 0, 0) == -errno.EINVAL
    assert guest.call("futex", at, WAKE_BITSET, 0, 0, 0, 0) == -errno.EINVAL


def test_requeue(guest):
    first, second = guest.put(bytes(8)), guest.put(bytes(8))
    waiters = Waiters(guest)
    for name in "abcd":
        waiters.start(name, first, WAIT, 0, 0, 0, 0)
    assert guest.call("futex", first, CMP_REQUEUE, 1, 2, second, 9) == -errno.EAGAIN
    assert guest.call("futex", first, CMP_REQUEUE, 1, 2, second, 0) == 3
    assert settle(waiters, 1) == ["a"]
    assert guest.call("futex", first, WAKE, 9, 0, 0, 0) == 1
    assert settle(waiters, 2) == ["a", "d"]
    assert guest.call("futex", second, WAKE, 9, 0, 0, 0) == 2
    waiters.join()
    assert guest.call("futex", first, REQUEUE, -1, 0, second, 0) == -errno.EINVAL


def test_wake_op(guest):
    first, second = guest.put(bytes(8)), guest.put(struct.pack("<I", 5))
    waiters = Waiters(guest)
    waiters.start("first", first, WAIT, 0, 0, 0, 0)
    waiters.start("second", second, WAIT, 5, 0, 0, 0)
    add_three_if_equal_five = 1 << 28 | 0 << 24 | 3 << 12 | 5
    assert guest.call("futex", first, WAKE_OP, 1, 1, second, add_three_if_equal_five) == 2
    waiters.join()
    assert guest.memory.load(second, 4) == 8
    assert guest.call("futex", first, WAKE_OP, 1, 1, second, add_three_if_equal_five) == 0
    shifted_or = 0xA << 28 | 0 << 24 | 4 << 12
    assert guest.call("futex", first, WAKE_OP, 1, 1, second, shifted_or) == 0
    assert guest.memory.load(second, 4) == 11 | 16
    assert guest.call("futex", first, WAKE_OP, 1, 1, second, 7 << 28) == -errno.ENOSYS


def test_timeouts(guest):
    at = guest.put(bytes(8))
    begin = time.monotonic()
    assert guest.call("futex", at, WAIT, 0, struct.pack("<qq", 0, 30_000_000), 0, 0) == -errno.ETIMEDOUT
    until = time.monotonic() + 0.03
    absolute = struct.pack("<qq", int(until), int(until % 1 * 1e9))
    assert guest.call("futex", at, WAIT_BITSET, 0, absolute, 0, 1) == -errno.ETIMEDOUT
    assert time.monotonic() - begin >= 0.06
    past = struct.pack("<qq", 1, 0)
    assert guest.call("futex", at, WAIT_BITSET | 256, 0, past, 0, 1) == -errno.ETIMEDOUT
    assert guest.call("futex", at, WAIT, 0, struct.pack("<qq", 0, -1), 0, 0) == -errno.EINVAL
    assert idle(guest)


def test_futex_arguments(guest):
    at = guest.put(bytes(8))
    assert guest.call("futex", at + 1, WAIT, 0, 0, 0, 0) == -errno.EINVAL
    assert (
        guest.call("futex", 8, WAIT, 0, 0, 0, 0) == guest.call("futex", 8, WAKE, 1, 0, 0, 0) == -errno.EFAULT
    )
    assert guest.call("futex", at, 2, 0, 0, 0, 0) == -errno.ENOSYS


def test_the_end_of_the_process_ends_a_wait(guest):
    waiters = Waiters(guest)
    waiters.start("a", guest.put(bytes(8)), WAIT, 0, 0, 0, 0)
    guest.process.end("stopped")
    waiters.join()
    assert waiters.results["a"] < 0


def test_a_dead_owner_is_marked_and_its_waiter_woken(guest):
    from vm_core.linux.futex import release_robust_list

    lock = guest.put(struct.pack("<I4x", 0x80000000 | guest.thread.tid))
    entry = guest.put(bytes(8))
    head = guest.put(struct.pack("<QqQ", entry, lock - entry, 0))
    guest.memory.store(entry, 8, head)
    assert guest.call("set_robust_list", head, 24) == 0
    assert guest.call("set_robust_list", head, 23) == -errno.EINVAL
    assert guest.call("get_robust_list", 0, guest.buffer, guest.buffer + 8) == 0
    assert guest.memory.load(guest.buffer, 8) == head
    waiters = Waiters(guest)
    waiters.start("a", lock, WAIT, 0x80000000 | guest.thread.tid, 0, 0, 0)
    release_robust_list(guest.thread)
    waiters.join()
    assert guest.memory.load(lock, 4) == 0xC0000000
    guest.thread.robust_list = 8
    release_robust_list(guest.thread)


# -- time -------------------------------------------------------------------------------------------------------


def timespec(guest):
    seconds, nanoseconds = struct.unpack("<qq", guest.get(16))
    return seconds + nanoseconds / 1e9


def test_clocks(guest):
    for clock, host in ((0, time.time), (1, time.monotonic), (7, time.monotonic), (5, time.time)):
        assert guest.call("clock_gettime", clock, guest.buffer) == 0
        assert abs(timespec(guest) - host()) < 1
    for clock in (2, 3, -6 & 0xFFFFFFFF, -2 & 0xFFFFFFFF):
        assert guest.call("clock_gettime", clock, guest.buffer) == 0
    assert guest.call("clock_gettime", 77, guest.buffer) == -errno.EINVAL
    assert guest.call("clock_gettime", 0, 8) == -errno.EFAULT
    assert guest.call("clock_getres", 1, guest.buffer) == 0
    assert timespec(guest) == 1e-9
    assert guest.call("clock_settime", 0, guest.buffer) == -errno.EPERM
    assert guest.call("gettimeofday", guest.buffer, 0) == 0
    assert abs(struct.unpack("<qq", guest.get(16))[0] - time.time()) < 2
    assert guest.call("times", guest.buffer) > 0


def test_sleeping(guest):
    begin = time.monotonic()
    assert guest.call("nanosleep", struct.pack("<qq", 0, 20_000_000), 0) == 0
    assert guest.call("clock_nanosleep", 1, 0, struct.pack("<qq", 0, 20_000_000), 0) == 0
    until = time.monotonic() + 0.02
    assert guest.call("clock_nanosleep", 1, 1, struct.pack("<qq", int(until), int(until % 1 * 1e9)), 0) == 0
    assert time.monotonic() - begin >= 0.06
    assert guest.call("nanosleep", struct.pack("<qq", -1, 0), 0) == -errno.EINVAL
    assert guest.call("nanosleep", struct.pack("<qq", 0, 10**9), 0) == -errno.EINVAL


def test_the_alarm_clock_keeps_order_and_forgets_what_is_cancelled():
    clock, seen, over = AlarmClock(), [], threading.Event()
    now = time.monotonic()
    clock.at(now + 0.06, over.set)
    clock.at(now + 0.04, lambda: seen.append("late"))
    cancelled = clock.at(now + 0.03, lambda: seen.append("never"))
    clock.at(now + 0.02, lambda: seen.append("early"))
    clock.cancel(cancelled)
    assert over.wait(5)
    clock.close()
    assert seen == ["early", "late"]


# -- identity ---------------------------------------------------------------------------------------------------


def test_identity(guest):
    pid = guest.process.pid
    assert guest.call("getpid") == guest.call("gettid") == guest.call("setsid") == pid
    assert guest.call("getpgid", 0) == guest.call("getpgid", pid) == os.getpgid(0)
    assert guest.call("getsid", 0) == os.getsid(0)
    assert guest.call("getpgid", os.getppid()) == guest.call("setpgid", os.getppid(), 0) == -errno.ESRCH
    assert guest.call("getppid") == 1
    assert guest.call("getuid") == guest.call("geteuid") == os.getuid()
    assert guest.call("getgid") == guest.call("getegid") == os.getgid()
    assert guest.call("setuid", os.getuid()) == guest.call("setresuid", -1, os.getuid(), -1) == 0
    assert guest.call("setuid", 12345) == guest.call("setresgid", 12345, 0, 0) == -errno.EPERM
    assert guest.call("getresuid", guest.buffer, guest.buffer + 4, guest.buffer + 8) == 0
    assert struct.unpack("<III", guest.get(12)) == (os.getuid(),) * 3
    assert guest.call("getgroups", 0, 0) == guest.call("getgroups", 4096, guest.buffer) == len(os.getgroups())
    assert guest.call("uname", guest.buffer) == 0
    fields = [guest.get(65, 65 * number).split(b"\0")[0] for number in range(5)]
    assert (fields[0], fields[4]) == (b"Linux", b"riscv64")
    assert guest.call("set_tid_address", 0x1234) == pid
    assert guest.call("wait4", -1, 0, 0, 0) == -errno.ECHILD


def test_resources(guest):
    assert guest.call("prlimit64", 0, 3, 0, guest.buffer) == 0
    assert struct.unpack("<QQ", guest.get(16)) == (8 << 20, (1 << 64) - 1)
    assert guest.call("setrlimit", 3, struct.pack("<QQ", 1 << 20, 1 << 30)) == 0
    assert guest.call("getrlimit", 3, guest.buffer) == 0
    assert struct.unpack("<QQ", guest.get(16)) == (1 << 20, 1 << 30)
    assert guest.call("setrlimit", 3, struct.pack("<QQ", 1, 1 << 31)) == -errno.EPERM
    assert guest.call("setrlimit", 3, struct.pack("<QQ", 2, 1)) == -errno.EINVAL
    assert guest.call("getrlimit", 16, guest.buffer) == -errno.EINVAL
    assert guest.call("prlimit64", 1, 3, 0, guest.buffer) == -errno.ESRCH
    assert guest.call("getrusage", 0, guest.buffer) == 0
    assert guest.call("getrusage", 5, guest.buffer) == -errno.EINVAL
    assert guest.call("sysinfo", guest.buffer) == 0
    assert struct.unpack_from("<Q", guest.get(112), 32)[0] == guest.memory.size
    assert struct.unpack_from("<H", guest.get(112), 80)[0] == 1
    assert struct.unpack_from("<I", guest.get(112), 104)[0] == 1
    assert guest.call("sched_getaffinity", 0, 128, guest.buffer) == 8
    assert guest.memory.load(guest.buffer, 8).bit_count() == os.cpu_count()
    assert guest.call("sched_getaffinity", 0, 1, guest.buffer) == -errno.EINVAL
    assert guest.call("sched_yield") == guest.call("getcpu", guest.buffer, 0) == 0


def test_random_names_and_probes(guest):
    assert guest.call("getrandom", guest.buffer, 64, 0) == 64
    first = guest.get(64)
    guest.call("getrandom", guest.buffer, 64, 0)
    assert guest.get(64) != first
    assert guest.call("prctl", 15, "a-name-that-is-too-long") == 0
    assert guest.call("prctl", 16, guest.buffer) == 0
    assert guest.get(16) == b"a-name-that-is-\0"
    assert guest.call("prctl", 9999, 0) == -errno.EINVAL
    assert guest.call("membarrier", 0, 0, 0) > 0
    assert guest.call("membarrier", 1 << 10, 0, 0) == -errno.EINVAL
    pairs = guest.put(struct.pack("<qQqQqQ", 3, 9, 4, 9, 1000, 9))
    assert guest.call("riscv_hwprobe", pairs, 3, 0, 0, 0) == 0
    assert struct.unpack("<qQqQqQ", guest.memory.read(pairs, 48)) == (
        3, 1, 4, 0b111011 | 1 << 43 | 1 << 45, -1, 0,
    )  # fmt: skip
    assert guest.call("riscv_flush_icache", 0, 0, 0) == 0
    assert guest.call("rseq") == -errno.ENOSYS


# -- the table --------------------------------------------------------------------------------------------------

LAYOUTS = {name: isas.get(name).layout for name in isas.NAMES}
SOCKETS = {
    row.name for row in table.ROWS[[row.name for row in table.ROWS].index("socket") :]
}  # loaded when first used


@pytest.mark.parametrize("isa", LAYOUTS)
def test_numbers_and_handlers_come_from_the_rows(isa):
    abi = abi_of(isa, LAYOUTS[isa])
    entries = table.bind(abi)
    # Anchors from the three ABIs' own headers: asm-generic/unistd.h and syscall_64.tbl.
    anchors = {
        "riscv64": {
            "openat": 56,
            "write": 64,
            "exit_group": 94,
            "rt_sigreturn": 139,
            "mmap": 222,
            "riscv_hwprobe": 258,
        },
        "aarch64": {"openat": 56, "read": 63, "clone": 220, "futex": 98, "statx": 291},
        "x86_64": {
            "read": 0,
            "open": 2,
            "mmap": 9,
            "clone": 56,
            "exit_group": 231,
            "openat": 257,
            "arch_prctl": 158,
        },
    }[isa]
    by_name = {row.name: number for number, (_, _, row) in entries.items()}
    for name, number in anchors.items():
        assert by_name[name] == number
    assert ("riscv_hwprobe" in by_name) == (isa == "riscv64")
    for handler, arguments, row in entries.values():
        words = list(range(1000))
        assert len(arguments(words)) == row.arity
        found = handler.found() if isinstance(handler, table._Late) else handler
        names = found.__code__.co_varnames[: found.__code__.co_argcount]
        assert len(names) == row.arity + 1 or found.__name__ in (
            "nosys",
            "denied",
            "invalid",
            "no_child",
            "unsupported",
            "sched_zero",
        ), row.name
    assert table.name_of(abi, 9999) == "syscall_9999"


def test_rows_are_well_formed():
    kinds = {
        "fd",
        "dfd",
        "path",
        "ptr",
        "buf",
        "int",
        "uint",
        "oct",
        "hex",
        "oflags",
        "prot",
        "mflags",
        "sig",
        "clock",
        "futex",
        "whence",
    }
    names = [row.name for row in table.ROWS]
    assert len(names) == len(set(names))
    for row in table.ROWS:
        assert set(row.args.split()) <= kinds
        assert row.status in (table.OK, table.PARTIAL, table.IGNORED, table.ABSENT)
        assert row.note or row.status in (table.OK, table.IGNORED), row.name


def test_the_page_is_printed_and_checked(tmp_path, capsys):
    assert table.main([]) == 0
    page = capsys.readouterr().out
    assert "| openat | 56 | 56 | 257 | partial |" in page
    assert "| riscv_hwprobe | 258 | - | - | implemented |" in page
    path = tmp_path / "page.md"
    path.write_text(page)
    assert table.main(["--check", str(path)]) == 0
    path.write_text(page + "x")
    assert table.main(["--check", str(path)]) == 1
    assert "is out of date" in capsys.readouterr().err
    assert table.main(["--check", str(tmp_path / "absent")]) == 1


def test_every_socket_row_has_its_handler():
    import inspect

    from vm_core.linux import net

    for row in table.ROWS:
        if row.name in SOCKETS:
            function = getattr(net, "socket_" if row.name == "socket" else row.name)
            assert len(inspect.signature(function).parameters) == row.arity + 1, row.name


def test_the_constants_are_those_of_subprocess():
    import subprocess

    from vm_core import runner

    assert (runner.PIPE, runner.STDOUT, runner.DEVNULL) == (
        subprocess.PIPE,
        subprocess.STDOUT,
        subprocess.DEVNULL,
    )


# -- timers -----------------------------------------------------------------------------------------------------


def test_a_timer_sends_its_signal_with_its_value(guest):
    event = struct.pack("<Qiii", 0x1122334455667788, 34, 0, 0).ljust(64, b"\0")
    assert guest.call("timer_create", 1, event, guest.buffer) == 0
    timer = int.from_bytes(guest.get(4), "little")
    soon = struct.pack("<qqqq", 0, 0, 0, 10_000_000)
    assert guest.call("timer_settime", timer, 0, soon, 0) == 0
    wanted = (1 << 33).to_bytes(8, "little")
    assert guest.call("rt_sigtimedwait", wanted, guest.buffer, struct.pack("<qq", 5, 0), 8) == 34
    number, _, code, _, tid, overrun, value = struct.unpack("<iiiiIIQ", guest.get(32))
    assert (number, code, tid, overrun, value) == (34, -2, timer, 0, 0x1122334455667788)
    assert guest.call("timer_gettime", timer, guest.buffer) == 0
    assert guest.get(32) == bytes(32)  # it does not repeat
    assert guest.call("timer_getoverrun", timer) == 0
    assert guest.call("timer_settime", timer, 0, struct.pack("<qqqq", 7, 0, 60, 0), 0) == 0
    assert guest.call("timer_settime", timer, 0, bytes(32), guest.buffer) == 0
    interval, _, left, _ = struct.unpack("<qqqq", guest.get(32))
    assert (interval, left) in ((7, 59), (7, 60))
    past = struct.pack("<qqqq", 0, 0, 0, 1)
    assert guest.call("timer_settime", timer, 1, past, 0) == 0  # TIMER_ABSTIME
    assert guest.call("rt_sigtimedwait", wanted, 0, struct.pack("<qq", 5, 0), 8) == 34
    assert guest.call("timer_delete", timer) == 0
    assert guest.call("timer_delete", timer) == -errno.EINVAL
    assert guest.call("timer_settime", timer, 0, soon, 0) == -errno.EINVAL


def test_the_overrun_is_that_of_the_signal_that_was_taken(guest):
    """Also when the timer has sent its next signal since."""
    event = struct.pack("<Qiii", 5, 34, 0, 0).ljust(64, b"\0")
    assert guest.call("timer_create", 1, event, guest.buffer) == 0
    timer = int.from_bytes(guest.get(4), "little")
    pending = guest.process.signals.pending
    guest.thread.mask |= 1 << 33

    def sent():
        deadline = time.monotonic() + 10
        while not pending:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    assert guest.call("timer_settime", timer, 0, struct.pack("<qqqq", 0, 5_000_000, 0, 5_000_000), 0) == 0
    sent()
    time.sleep(0.2)
    wanted = (1 << 33).to_bytes(8, "little")
    assert guest.call("rt_sigtimedwait", wanted, guest.buffer, struct.pack("<qq", 5, 0), 8) == 34
    told = struct.unpack("<iiiiIIQ", guest.get(32))[5]
    assert told >= 20
    sent()
    assert guest.call("timer_getoverrun", timer) == told
    assert guest.call("timer_delete", timer) == 0


def test_timer_arguments(guest):
    b = guest.buffer
    assert guest.call("timer_create", 10, 0, b) == -errno.EINVAL  # a clock that is not there any more
    assert guest.call("timer_create", 1, 0, 8) == -errno.EFAULT
    for number, notify, tid in ((0, 0, 0), (65, 0, 0), (10, 3, 0), (10, 4, 999)):
        event = struct.pack("<Qiii", 0, number, notify, tid)
        assert guest.call("timer_create", 1, event, b) == -errno.EINVAL
    assert guest.call("timer_create", 0, 0, b) == 0
    timer = int.from_bytes(guest.get(4), "little")
    assert guest.call("timer_settime", timer, 0, struct.pack("<qqqq", 0, 0, 0, 10**9), 0) == -errno.EINVAL
    for _ in range(1023):
        assert guest.call("timer_create", 0, 0, b) == 0
    assert guest.call("timer_create", 0, 0, b) == -errno.EAGAIN


def test_a_timer_that_is_a_file(guest):
    b = guest.buffer
    fd = guest.call("timerfd_create", 1, 0o4000)
    assert guest.call("read", fd, b, 8) == -errno.EAGAIN
    assert guest.call("timerfd_settime", fd, 0, struct.pack("<qqqq", 0, 0, 0, 10_000_000), 0) == 0
    assert guest.call("ppoll", struct.pack("<ihH", fd, 1, 0), 1, struct.pack("<qq", 5, 0), 0, 8) == 1
    assert guest.call("read", fd, b, 8) == 8
    assert int.from_bytes(guest.get(8), "little") == 1
    assert guest.call("timerfd_settime", fd, 0, struct.pack("<qqqq", 3, 0, 60, 0), 0) == 0
    assert guest.call("timerfd_gettime", fd, b) == 0
    interval, _, left, _ = struct.unpack("<qqqq", guest.get(32))
    assert interval == 3
    assert left in (59, 60)
    assert guest.call("timerfd_settime", fd, 0, bytes(32), b) == 0
    assert struct.unpack("<qqqq", guest.get(32))[0] == 3
    assert guest.call("timerfd_settime", fd, 0, struct.pack("<qqqq", 0, 0, 0, 10**9), 0) == -errno.EINVAL
    assert guest.call("timerfd_create", 1, 1) == -errno.EINVAL
    assert guest.call("timerfd_create", 99, 0) == -errno.EINVAL
    other = guest.call("eventfd2", 0, 0)
    assert guest.call("timerfd_gettime", other, b) == -errno.EINVAL
    assert guest.call("timerfd_gettime", 99, b) == -errno.EBADF


def test_calls_without_a_row_are_named(guest):
    assert table.name_of(guest.process.abi, 180) == "mq_open"
    assert table.name_of(guest.process.abi, 9999) == "syscall_9999"
    rows = {row.generic for row in table.ROWS}
    assert not rows & set(table._ABSENT_GENERIC)


def test_flags_that_linux_does_not_know_are_refused(guest):
    """Programs ask with them what there is."""
    at = guest.call("mmap", 0, 4096, 3, 0x22, -1, 0)
    stack = struct.pack("<QiiQ", at, 99, 0, 1 << 16)
    for name, *arguments in (
        ("pipe2", guest.buffer, 0o777000),
        ("socket", 1, 0x63, 0),
        ("socketpair", 1, 0x100001, 0, guest.buffer),
        ("madvise", at, 4096, 77),
        ("madvise", at, 4096, -1),
        ("madvise", at, 4096, 18),
        ("msync", at, 4096, 5),
        ("msync", at, 4096, 8),
        ("tkill", 0, 0),
        ("tgkill", guest.process.pid, 0, 0),
        ("tgkill", -1, 1, 0),
        ("sigaltstack", stack, 0),
        ("getrandom", guest.buffer, 8, 8),
        ("getrandom", guest.buffer, 8, 6),
    ):
        assert guest.call(name, *arguments) == -errno.EINVAL, (name, arguments)
    assert guest.call("madvise", at, 4096, 17) == guest.call("msync", at, 4096, 4) == 0
    assert guest.call("getrandom", guest.buffer, 8, 3) == 8
