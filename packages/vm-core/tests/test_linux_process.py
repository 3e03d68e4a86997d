"""Whole programs, assembled here, on the reference engine: start, end, limits, threads, traps and messages."""

from __future__ import annotations

import io
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vm_core.errors import LoadError, UsageError
from vm_core.linux.process import Process
from vm_core.linux.strace import Strace
from vm_core.linux.system import ThreadEnd
from vm_core.linux.thread import FuelPool
from vm_core.runner import DEVNULL, PIPE, STDOUT, GuestFailed, run
from vm_core.testing.guests import Caller, elf, program

EXIT = """
exit:   li a7, 94
        ecall
"""
HELLO = program(
    """
    li a0, 1
    la a1, text
    li a2, 6
    li a7, 64
    ecall
    li a0, 3
    j exit
text: .ascii "hello\\n"
    .align 4
    """
    + EXIT
)
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
SPIN = program("_start: addi a0, a0, 1\n j _start")


def go(image, *args, **options):
    options.setdefault("engine", "reference")
    return run(["guest", *args], program=image, **options)


def test_output_and_exit_code():
    result = go(HELLO, capture_output=True)
    assert (result.returncode, result.exit_code, result.signal, result.reason) == (3, 3, None, "exit")
    assert (result.stdout, result.stderr) == (b"hello\n", b"")
    assert result.instructions == result.stats.retired == 10
    assert result.system_calls == 2
    assert result.peak_memory >= 8 << 20


def test_text_and_streams(tmp_path, capfd):
    assert go(HELLO, stdout=PIPE, text=True).stdout == "hello\n"
    assert go(HELLO, stdout=DEVNULL).stdout is None
    with open(tmp_path / "out", "wb") as file:
        file.write(b"first\n")
        go(HELLO, stdout=file)
    assert (tmp_path / "out").read_bytes() == b"first\nhello\n"
    go(HELLO)
    assert capfd.readouterr().out == "hello\n"
    with pytest.raises(UsageError):
        go(HELLO, capture_output=True, stdout=PIPE)
    with pytest.raises(UsageError):
        go(HELLO, input=b"", stdin=DEVNULL)
    with pytest.raises(UsageError):
        go(HELLO, stdin=PIPE)


def test_standard_error_can_go_to_standard_output():
    both = program(
        'li a0, 2\n la a1, text\n li a2, 2\n li a7, 64\n ecall\n li a0, 0\n j exit\ntext: .ascii "e\\n"\n'
        ".align 4" + EXIT
    )
    result = go(both, stdout=PIPE, stderr=STDOUT)
    assert (result.stdout, result.stderr) == (b"e\n", None)


def test_input_is_read_to_its_end():
    data = bytes(range(256)) * 3
    assert go(CAT, input=data, stdout=PIPE).stdout == data
    assert go(CAT, input="grün\n", stdout=PIPE, encoding="utf-8").stdout == "grün\n"
    assert go(CAT, stdin=DEVNULL, stdout=PIPE).stdout == b""


def test_input_from_a_pipe_is_waited_for():
    reader, writer = os.pipe()
    timer = threading.Timer(0.1, lambda: (os.write(writer, b"late"), os.close(writer)))
    timer.start()
    assert go(CAT, stdin=reader, stdout=PIPE).stdout == b"late"
    timer.join()
    os.close(reader)


def test_check_raises():
    with pytest.raises(GuestFailed, match=r"guest: exit status 3") as caught:
        go(HELLO, check=True, stdout=PIPE)
    assert (caught.value.returncode, caught.value.stdout) == (3, b"hello\n")
    go(CAT, stdin=DEVNULL, check=True)


def stack_of(image, args, env):
    """argc, argv, env and the auxiliary vector that a program finds."""
    with Process(
        ["prog", *args], program=image, env=env, engine="reference", stdio=(None, None, None)
    ) as process:
        memory, sp = process.memory, process.main.cpu["sp"]
        assert sp % 16 == 0

        def strings(at):
            out = []
            while address := memory.load(at, 8):
                out.append(memory.read_cstring(address).decode())
                at += 8
            return out, at + 8

        argv, at = strings(sp + 8)
        environment, at = strings(at)
        auxv = {}
        while kind := memory.load(at, 8):
            auxv[kind] = memory.load(at + 8, 8)
            at += 16
        random = memory.read(auxv[25], 16)
        name = memory.read_cstring(auxv[31]).decode()
        return memory.load(sp, 8), argv, environment, auxv, random, name, process.image


def test_the_initial_stack():
    count, argv, environment, auxv, random, name, image = stack_of(
        HELLO, ["a", "", "b c"], {"K": "v", "L": ""}
    )
    assert (count, argv, environment) == (4, ["prog", "a", "", "b c"], ["K=v", "L="])
    assert auxv[6] == 4096
    assert auxv[9] == image.entry
    assert (auxv[4], auxv[5]) == (56, 1)
    assert auxv[16] == sum(1 << "ABCDEFGHIJKLM".index(letter) for letter in "IMAFDC")
    assert (auxv[11], auxv[13], auxv[17], auxv[23]) == (os.getuid(), os.getgid(), 100, 0)
    assert 15 not in auxv
    assert random != stack_of(HELLO, [], {})[4]
    assert name == "/proc/self/exe-in-memory"


def test_arguments_that_do_not_fit():
    with pytest.raises(LoadError, match="do not fit on the stack"):
        go(HELLO, "x" * (9 << 20))


def test_argv0_and_a_program_given_by_path(tmp_path):
    path = tmp_path / "prog"
    path.write_bytes(HELLO)
    result = run([str(path)], argv0="other", stdout=PIPE, engine="reference")
    assert (result.args, result.stdout) == (["other"], b"hello\n")
    with pytest.raises(LoadError, match="no such file") as caught:
        run([str(tmp_path / "absent")], engine="reference")
    assert caught.value.exit_status == 127


def test_a_program_is_found_in_the_root(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "prog").write_bytes(HELLO)
    assert run(["/bin/prog"], root=str(tmp_path), stdout=PIPE, engine="reference").stdout == b"hello\n"


def test_a_program_is_found_in_a_bind(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "host").mkdir()
    (tmp_path / "host/prog").write_bytes(HELLO)
    shown = {"binds": [f"{tmp_path}/host:/guest/only"], "stdout": PIPE, "engine": "reference"}
    for where in ({"root": str(tmp_path / "root")}, {"cwd": str(tmp_path / "root")}):
        assert run(["/guest/only/prog"], **where, **shown).stdout == b"hello\n"
        with pytest.raises(LoadError, match="no such file"):
            run(["/guest/only/absent"], **where, **shown)


# -- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuel", [0, 1, 2, 999, 1000, 1001, 5003])
def test_fuel_is_exact(fuel):
    result = go(SPIN, fuel=fuel)
    assert (result.reason, result.returncode, result.instructions) == ("fuel", 123, fuel)
    assert f"exactly {fuel:,} instructions" in result.message


def test_a_guest_that_ends_with_its_last_instruction_has_ended():
    needed = go(HELLO, stdout=PIPE).instructions
    assert go(HELLO, stdout=PIPE, fuel=needed).reason == "exit"
    assert go(HELLO, stdout=PIPE, fuel=needed - 1).reason == "fuel"


THREADS = program(
    """
_start: li s0, 3
spawn:  li a0, 0x10f00         # VM FS FILES SIGHAND THREAD
        la a1, stack
        li a7, 220
        ecall
        beq a0, zero, work
        addi s0, s0, -1
        bne s0, zero, spawn
work:   la a1, counter
        li a2, 1
again:  amoadd.w zero, a2, (a1)
        j again
        .align 16
counter: .dword 0
        .zero 64
stack:  .zero 16
"""
)


def test_fuel_is_exact_over_all_threads():
    result = go(THREADS, fuel=9_001)
    assert (result.reason, result.instructions) == ("fuel", 9_001)


def test_fuel_pool_waits_for_what_may_come_back():
    pool = FuelPool(100)
    assert pool.take(80, lambda: False) == 80
    assert pool.take(80, lambda: False) == 20
    threading.Timer(0.05, pool.give, [30]).start()
    assert pool.take(80, lambda: False) == 30
    pool.give(0)
    pool.give(0)
    assert pool.take(1, lambda: False) == 0


@pytest.mark.parametrize(
    "image",
    [
        SPIN,
        THREADS,
        program("li a7, 115\n li a0, 1\n li a1, 0\n la a2, t\n li a3, 0\n ecall\nt: .dword 100\n.dword 0"),
    ],
)
def test_timeout(image):
    begin = time.monotonic()
    result = go(image, timeout=0.2)
    assert (result.reason, result.returncode) == ("timeout", 124)
    assert time.monotonic() - begin < 2
    assert result.message == "stopped after 0.2 s"


def test_a_timeout_ends_a_read_and_a_system_call_loop():
    reader, writer = os.pipe()
    assert go(CAT, stdin=reader, timeout=0.1).reason == "timeout"
    os.close(reader)
    os.close(writer)
    assert go(program("_start: li a7, 173\n ecall\n j _start"), timeout=0.1).reason == "timeout"


@pytest.mark.parametrize(
    "image", [SPIN, THREADS, program("li a7, 73\n li a0, 0\n li a1, 0\n li a2, 0\n li a3, 0\n ecall")]
)
def test_keyboard_interrupt_stops_all_threads_soon(image):
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.2, interrupt)
    timer.start()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        go(image, timeout=20)
    # 0.1 s is what is promised; the rest is for a busy test machine.
    assert time.monotonic() - sent[0] < 1
    timer.join()
    assert threading.active_count() < before


def test_memory_cap():
    grow = program(
        "_start: li a0, 0\n li a1, 0x100000\n li a2, 3\n li a3, 0x22\n li a4, -1\n li a5, 0\n li a7, 222\n ecall\n j _start"
    )
    result = go(grow, memory=16 << 20)
    assert (result.reason, result.returncode) == ("memory", 122)
    assert "its memory cap is 16,777,216" in result.message
    assert result.peak_memory <= 16 << 20
    assert go(HELLO, memory=4096).reason == "memory"


def test_running_out_of_address_space_is_enomem():
    grow = program(
        "_start: li a0, 0\n li a1, 0x10000000\n li a2, 0\n li a3, 0x22\n li a4, -1\n li a5, 0\n li a7, 222\n ecall\n"
        "li a1, -12\n bne a0, a1, _start\n li a0, 7\n j exit\n" + EXIT
    )
    assert go(grow, memory=64 << 20).returncode == 7


def test_bad_limits_are_usage_errors():
    for options in ({"fuel": -1}, {"timeout": -1}, {"memory": 0}):
        with pytest.raises(UsageError):
            go(HELLO, **options)
    with pytest.raises(UsageError, match="no program given"):
        run([])
    with pytest.raises(UsageError, match="no engine is called 'fast'"):
        go(HELLO, engine="fast")


# -- death ------------------------------------------------------------------------------------------------------

DEATHS = {
    "store": ("li a0, 8\n sd a0, 0(a0)", 11, ["killed by SIGSEGV", "store to 0x8 (not mapped)", "pc 0x10004", "sd a0, 0(a0)"]),
    "load": ("li a0, 16\n ld a1, 0(a0)", 11, ["load from 0x10 (not mapped)"]),
    "jump": ("li a0, 0x5000\n jalr zero, 0(a0)", 11, ["jump to 0x5000 (not mapped)", "pc 0x5000"]),
    "text": ("la a0, x\n li a7, 226\n li a1, 4096\n li a2, 1\n lui a0, 0x10\n ecall\nx:", 11, ["jump to 0x", "(protected)"]),
    "illegal": (".word 0xffffffff", 4, ["killed by SIGILL", "illegal instruction", "ff ff ff ff", "no instruction that vm knows"]),
    "breakpoint": ("ebreak", 5, ["killed by SIGTRAP", "breakpoint", "ebreak"]),
    "misaligned": ("li a0, 0x10001\n lr.w a0, (a0)", 7, ["killed by SIGBUS", "misaligned"]),
    "abort": ("li a7, 172\n ecall\n li a1, 6\n li a7, 129\n ecall", 6, ["killed by SIGABRT", "pc 0x"]),
    "sigkill": ("li a7, 172\n ecall\n li a1, 9\n li a7, 129\n ecall", 9, ["killed by SIGKILL"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DEATHS)
def test_death_by_signal_says_what_and_where(name):
    text, number, expected = DEATHS[name]
    seen = []
    result = go(program(text), fault_hook=lambda thread, info: seen.append((thread.tid, info.number)))
    assert (result.reason, result.signal, result.returncode, result.exit_code) == (
        "signal",
        number,
        -number,
        None,
    )
    for part in expected:
        assert part in result.message
    assert "\n" not in result.message
    assert seen == [(os.getpid(), number)]


def test_symbols_are_named(tmp_path):
    source = bytearray(elf(b"\xff\xff\xff\xff"))
    names = b"\0start\0"
    symbol = struct.pack("<IBBHQQ", 1, 2, 0, 1, 0x10000, 4)
    at = len(source)
    sections = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at, len(names), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at + len(names), len(symbol), 0, 0, 8, 24)
    source += names + symbol + sections
    struct.pack_into("<Q", source, 40, at + len(names) + len(symbol))
    struct.pack_into("<H", source, 60, 2)
    assert "<start>" in go(bytes(source)).message


# -- calls ------------------------------------------------------------------------------------------------------


def test_an_unknown_call_is_enosys_and_named_once(caplog):
    image = program(
        "li s0, 3\nagain: li a7, 1000\n ecall\n addi s0, s0, -1\n bne s0, zero, again\n addi a0, a0, 100\n j exit\n"
        + EXIT
    )
    with caplog.at_level(logging.WARNING, "vm.linux"):
        assert go(image).returncode == 100 - 38
    assert [record.getMessage() for record in caplog.records] == [
        "syscall_1000 (number 1000) is not implemented: it returns ENOSYS"
    ]


def test_strace_lines():
    lines = []
    go(HELLO, strace=lines.append, stdout=PIPE)
    assert lines == ['write(1, "hello\\n", 6) = 6', "exit_group(3) = ?"]
    lines.clear()
    image = program(
        'li a0, -100\n la a1, n\n li a2, 0x80000\n li a7, 56\n ecall\n li a0, 0\n j exit\nn: .ascii "no\\0"\n .align 4'
        + EXIT
    )
    go(image, strace=lines.append)
    assert lines[0] == 'openat(AT_FDCWD, "no", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)'


def test_strace_makes_what_forks_share_once(monkeypatch):
    """Two threads may fork at once: neither comes in while the other makes a file."""
    real, entered = os.memfd_create, []

    def memfd_create(*args):
        other = threading.Thread(target=lambda: entered.append(shared._lock.acquire(blocking=False)))
        other.start()
        other.join()
        return real(*args)

    before = sorted(os.listdir("/proc/self/fd"))
    with Caller(strace=Strace(events=[].append)) as guest:
        tracer = guest.process.tracer
        shared = tracer.shared
        monkeypatch.setattr(os, "memfd_create", memfd_create)
        tracer._will_fork()
        tracer._will_fork()
        monkeypatch.undo()
    assert entered == [False, False]
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_syscall_hook_sees_and_replaces_calls():
    seen = []

    def hook(thread, name, args):
        seen.append((name, args))
        return 6 if name == "write" else None

    result = go(HELLO, syscall_hook=hook, stdout=PIPE)
    assert result.stdout == b""
    assert [name for name, _ in seen] == ["write", "exit_group"]
    assert seen[0][1][2] == 6


def test_start_and_wait_and_stop():
    with Process(["spin"], program=SPIN, engine="reference", env={}) as process:
        process.start()
        assert not process.wait(0.1)
        process.stop()
        assert process.wait(5)
        assert (process.reason, process.instructions > 0) == ("stopped", True)


def test_an_exit_code_needs_no_thread_left():
    """The first thread exits alone; the process ends when its other thread does, with the first one's code."""
    image = program(
        """
        li a0, 0x10f00
        la a1, stack
        li a7, 220
        ecall
        li a7, 93
        beq a0, zero, other
        li a0, 5
        ecall
other:  la a0, time
        li a1, 0
        li a7, 101
        ecall
        li a0, 9
        li a7, 93
        ecall
        .align 16
time:   .dword 0
        .dword 50000000
        .zero 64
stack:  .zero 16
        """
    )
    begin = time.monotonic()
    assert go(image).returncode == 5
    assert time.monotonic() - begin >= 0.05


def test_joining_a_thread_through_its_cleared_tid():
    image = program(
        """
        li a0, 0x310f00        # + PARENT_SETTID CHILD_CLEARTID
        la a1, stack
        la a2, tid
        li a3, 0
        la a4, tid
        li a7, 220
        ecall
        beq a0, zero, child
        la s1, tid
wait:   lw a2, 0(s1)
        beq a2, zero, done
        mv a0, s1
        li a1, 0
        li a3, 0
        li a7, 98
        ecall
        j wait
done:   la a0, value
        lw a0, 0(a0)
        j exit
child:  la a0, time
        li a1, 0
        li a7, 101
        ecall
        la a0, value
        li a1, 42
        sw a1, 0(a0)
        li a7, 93
        li a0, 0
        ecall
        .align 16
tid:    .dword 0
value:  .dword 0
time:   .dword 0
        .dword 20000000
        .zero 64
stack:  .zero 16
        """
        + EXIT
    )
    assert go(image).returncode == 42


def test_no_descriptor_thread_or_temporary_directory_is_left():
    go(HELLO, capture_output=True)
    before = (sorted(os.listdir("/proc/self/fd")), threading.active_count())
    for _ in range(5):
        go(HELLO, capture_output=True)
        go(THREADS, fuel=500)
        with pytest.raises(LoadError):
            go(b"junk")
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_an_error_in_vm_itself_is_raised_to_the_caller():
    def broken(thread, name, args):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        go(HELLO, syscall_hook=broken)


@pytest.mark.needs_qemu
def test_the_same_program_ends_the_same_under_qemu(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(HELLO)
    path.chmod(0o700)
    try:
        theirs = subprocess.run(["qemu-riscv64", path], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("qemu-riscv64 is not installed")
    ours = run([str(path)], capture_output=True, engine="reference")
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


# -- what the caller gives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        (["a\0b"], {}, "an argument has a NUL in it"),
        ([b"a\0b"], {}, "an argument has a NUL in it"),
        (["a", 5], {}, "an argument must be str or bytes, not int: 5"),
        (["a"], {"env": {"A=B": "1"}}, "'A=B' cannot be a variable's name"),
        (["a"], {"env": {"": "1"}}, "'' cannot be a variable's name"),
        (["a"], {"env": {"A": "1\0"}}, "the value of A has a NUL in it"),
        (["a"], {"env": {"A": 1}}, "env must map str to str"),
        (["a"], {"stdout": 9999}, "no open descriptor: 9999"),
        (["a"], {"stdin": 9999}, "no open descriptor: 9999"),
        (["a"], {"stderr": -9}, "no open descriptor: -9"),
        (["a"], {"stdout": "file"}, "must be a descriptor or a file: 'file'"),
        (["a"], {"stdout": io.BytesIO()}, "has no descriptor"),
    ],
)
def test_what_cannot_be_given_to_a_program_is_one_clear_line(argv, options, message):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UsageError) as caught:
        run(argv, program=HELLO, engine="reference", input=None if "stdin" in options else b"x", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir("/proc/self/fd") == before


# -- signals of the host ------------------------------------------------------------------------------------------

HANDLES = """
        li a0, {number}
        la a1, action
        li a2, 0
        li a3, 8
        li a7, 134
        ecall
        li a0, 1
        la a1, action
        li a2, 1
        li a7, 64
        ecall
wait:   j wait
handler: addi a0, a0, 40
        li a7, 94
        ecall
        .align 8
action: .dword {handler}
        .dword 0
        .dword 0
"""


def signalled(handler, number=signal.SIGUSR1, **options):
    """Run a guest that has set ``handler`` for a signal, which this process then gets."""
    reader, writer = os.pipe()

    def when_ready():
        os.read(reader, 1)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=when_ready)
    thread.start()
    try:
        text = HANDLES.format(number=int(number), handler=handler)
        return run(
            ["guest"],
            program=program(text),
            engine="reference",
            stdout=writer,
            timeout=20,
            host_signals=[number],
            **options,
        )
    finally:
        thread.join()
        os.close(reader)
        os.close(writer)


def test_a_signal_of_the_host_goes_to_the_guests_handler():
    before = signal.getsignal(signal.SIGUSR1)
    assert signalled("handler").exit_code == 40 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_signal_that_the_guest_leaves_alone_does_what_it_did():
    class Arrived(BaseException):
        pass

    def handler(number, frame):
        raise Arrived

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Arrived):
            signalled(0)
        assert signal.getsignal(signal.SIGUSR1) is handler
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_hosts_signals_are_for_the_main_thread():
    seen = []

    def elsewhere():
        try:
            run(["guest"], program=HELLO, engine="reference", host_signals=[signal.SIGUSR1])
        except UsageError as error:
            seen.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["host_signals: only the main thread of Python gets signals"]


def test_a_slice_of_an_isa_says_that_it_is_one():
    result = run(["guest"], program=elf(b"\xff" * 16, machine=62), engine="reference")
    assert result.signal == signal.SIGILL
    assert "no instruction that vm knows, which has few of x86_64 so far" in result.message
    assert "the engine 'kvm' has all of the host's" in result.message


def test_another_user_need_not_be_able_to_read_pythons_files(tmp_path):
    """A process that becomes another user loads before what it might have to load then."""
    from vm_core.linux import identity

    assert identity._is_for_all("/")
    (tmp_path / "private" / "below").mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    assert not identity._is_for_all(str(tmp_path / "private" / "below"))
    probe = """
import sys
from vm_core.linux import identity
wanted = {"logging", "subprocess", "vm_core.linux.splice", "vm_core.linux.execve"}
assert not wanted & set(sys.modules)
identity._is_for_all = lambda place: False
identity._load_late()
print(wanted - set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_program_that_is_not_executed_any_more_is_closed(tmp_path: Path) -> None:
    (tmp_path / "prog").write_bytes(program("ebreak"))
    (tmp_path / "prog").chmod(0o755)
    before = sorted(os.listdir("/proc/self/fd"))
    with Caller(cwd=str(tmp_path)) as guest:
        path = guest.put("prog")
        words = guest.put(struct.pack("<QQ", path, 0))
        with pytest.raises(ThreadEnd):
            guest.call("execve", path, words, 0)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_program_that_comes_too_late_is_closed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the host has given the number to meanwhile is another thread's."""
    (tmp_path / "prog").write_bytes(program("ebreak"))
    (tmp_path / "prog").chmod(0o755)
    refused: list[int] = []
    real = os.close

    def close(fd: int) -> None:
        try:
            real(fd)
        except OSError:
            refused.append(fd)
            raise

    before = sorted(os.listdir("/proc/self/fd"))
    with Caller(cwd=str(tmp_path)) as guest:
        guest.process.leaving = True  # another thread executes a program, or has ended the process
        monkeypatch.setattr(os, "close", close)
        with pytest.raises(ThreadEnd):
            guest.call("execve", "prog", 0, 0)
        monkeypatch.undo()
    assert refused == []
    assert sorted(os.listdir("/proc/self/fd")) == before
