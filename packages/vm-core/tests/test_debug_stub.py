"""The debugger's stub, driven by a small client: stops where it must, changes what it is told to, and survives any client."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time

import pytest

from vm_core.debug.packets import frame
from vm_core.debug.server import Address, Server
from vm_core.errors import HostError, UsageError
from vm_core.testing.debug_client import Debugged
from vm_core.testing.guests import BASE, labels_of, program

PC, SP, A0, A1, A7, FCSR = 32, 2, 10, 11, 17, 68
SIGNALS = {"INT": "2", "ILL": "4", "TRAP": "5", "SEGV": "11", "USR1": "30"}

COUNT = """
_start: li a0, 0
        la s1, value
loop:   addi a0, a0, 1
        sd a0, 0(s1)
        ld a1, 0(s1)
        addi s2, zero, 5
        bne a0, s2, loop
done:   li a7, 94
        ecall
        .align 8
value:  .dword 0
"""
SPIN = """
_start: addi a0, a0, 1
        j _start
"""
READ = """
_start: li a0, 0
        la a1, buffer
        li a2, 64
        li a7, 63
call:   ecall
after:  li a7, 94
        ecall
twice:  add a0, a0, a0
        ret
here:   ebreak
buffer: .zero 64
"""
SIGNAL = """
_start: la a1, action
        li a0, 10
        li a2, 0
        li a3, 8
        li a7, 134
        ecall
        li a7, 172
        ecall
        li a1, 10
        li a7, 129
kill:   ecall
back:   la a0, count
        lw a0, 0(a0)
        li a7, 94
        ecall
handler: la s1, count
        li s2, 1
        sw s2, 0(s1)
        lw s2, 8(a1)
inside: ret
        .align 8
action: .dword handler
        .dword 4
        .dword 0
count:  .dword 0
"""
FAULT = """
_start: li a0, 16
fault:  sw zero, 0(a0)
        li a7, 94
        li a0, 9
        ecall
"""
THREADS = """
_start: la s1, stack_end
        li s0, 2
start:  li a0, 0x50f00
        mv a1, s1
        li a2, 0
        li a3, 0
        li a4, 0
        li a7, 220
        ecall
        beq a0, zero, thread
        addi s1, s1, 1024
        addi s0, s0, -1
        bne s0, zero, start
        la a1, go
wait:   lw a2, 0(a1)
        li a3, 2
        bne a2, a3, wait
all:    li a0, 5
        li a7, 94
        ecall
thread: li a2, 1
        la a1, go
        amoadd.w zero, a2, (a1)
round:  lw a2, 0(a1)
        j round
        .align 8
go:     .dword 0
        .zero 1000
stack_end: .zero 4096
"""


def debugged(text, **options):
    options.setdefault("engine", "reference")
    options.setdefault("capture_output", True)
    return Debugged(["guest"], program=program(text), **options)


def hexed(value):
    return value.to_bytes(8, "little").hex()


def test_the_guest_waits_for_its_debugger_and_runs_on_its_word():
    with debugged(COUNT) as guest, guest.client() as client:
        stop = client.stop(client.ask("?"))
        assert stop["signal"] == SIGNALS["TRAP"]
        assert client.register(PC) == BASE
        assert stop["20"] == hexed(BASE)
        assert guest.result is None
        assert client.ask("vCont;c") == f"W05;process:{os.getpid():x}".encode()
    assert guest.ended().returncode == 5


def test_the_thread_of_the_stub_takes_no_signals_of_the_host():
    """The main thread, which waits for the client, would sleep on."""
    with debugged(COUNT) as guest, guest.client():
        (stub,) = (thread for thread in threading.enumerate() if thread.name == "vm-debug")

        def blocked():
            with open(f"/proc/self/task/{stub.native_id}/status") as file:
                line = next(line for line in file if line.startswith("SigBlk:"))
            return int(line.split()[1], 16)

        deadline = time.monotonic() + 5
        while not blocked() >> signal.SIGTERM - 1 & 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert blocked() >> signal.SIGTERM - 1 & 1
        assert not blocked() >> signal.SIGSEGV - 1 & 1


def test_a_breakpoint_stops_before_its_instruction_each_time():
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        assert client.ask(f"Z0,{at['loop']:x},4") == b"OK"
        for count in range(5):
            stop = client.resume()
            assert stop["swbreak"] == ""
            assert (client.register(PC), client.register(A0)) == (at["loop"], count)
        assert client.ask(f"z0,{at['loop']:x},4") == b"OK"
        assert client.ask(f"Z1,{at['done']:x},4") == b"OK"
        assert "hwbreak" in client.resume()
        assert client.register(PC) == at["done"]
        client.ask("vCont;c")
    result = guest.ended()
    assert result.instructions == 2 + 1 + 5 * 5 + 2


def test_steps_retire_one_instruction_each():
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        seen = []
        for _ in range(8):
            client.resume("s")
            seen.append(client.register(PC))
            assert guest.server.debugger.process.instructions == len(seen)
        loop = at["loop"]
        assert seen == [BASE + 4, BASE + 8, loop, loop + 4, loop + 8, loop + 12, loop + 16, loop]
        stop = client.resume(f"r{loop:x},{at['done']:x}")
        assert (stop["signal"], client.register(PC)) == (SIGNALS["TRAP"], at["done"])


def test_registers_and_memory_are_written_too():
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        client.ask(f"Z0,{at['done']:x},4")
        client.resume()
        assert client.read(at["value"], 8) == struct.pack("<Q", 5)
        client.write(at["value"], b"#$}*\0\3\n+")
        assert client.read(at["value"], 8) == b"#$}*\0\3\n+"
        assert client.ask(f"M{at['value']:x},2:4142") == b"OK"
        assert client.read(at["value"], 3) == b"AB}"
        everything = bytes.fromhex(client.ask("g").decode())
        assert len(everything) == 33 * 8 + 32 * 8 + 3 * 4
        assert everything[8 * A0 : 8 * A0 + 8] == struct.pack("<Q", 5)
        changed = everything[: 8 * A0] + struct.pack("<Q", 77) + everything[8 * A0 + 8 :]
        assert client.ask("G" + changed.hex()) == b"OK"
        client.set_register(FCSR, 0x61, 4)
        assert (client.register(FCSR), client.register(66), client.register(67)) == (0x61, 1, 3)
        assert client.ask("vCont;c") == f"W4d;process:{os.getpid():x}".encode()  # 77


def test_code_that_the_debugger_writes_is_run():
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        client.ask(f"Z0,{at['done']:x},4")
        client.resume()
        client.write(at["done"], bytes.fromhex("13052003"))  # li a0, 50
        client.set_register(PC, at["done"])
        client.write(at["done"] + 4, bytes.fromhex("9308e005"))  # li a7, 94
        client.write(at["done"] + 8, bytes.fromhex("73000000"))
        client.ask(f"z0,{at['done']:x},4")
        client.ask("vCont;c")
    assert guest.ended().returncode == 50


@pytest.mark.parametrize(
    ("kind", "name", "after", "counts"),
    [(2, "watch", 8, [1, 2]), (3, "rwatch", 12, [1, 2]), (4, "awatch", 8, [1, 1])],
)
def test_a_watchpoint_stops_behind_the_access(kind, name, after, counts):
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        assert client.ask(f"Z{kind},{at['value']:x},8") == b"OK"
        for count in counts:
            stop = client.resume()
            assert stop[name] == f"{at['value']:x}"
            assert (client.register(PC), client.register(A0)) == (at["loop"] + after, count)
            after = 12 if name == "awatch" else after
        assert client.ask(f"z{kind},{at['value']:x},8") == b"OK"
        client.ask("vCont;c")
    assert guest.ended().instructions == 2 + 1 + 5 * 5 + 2


def test_accesses_beside_a_watchpoint_do_not_stop():
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        assert client.ask(f"Z4,{at['value'] + 8:x},8") == b"OK"
        assert client.ask(f"Z4,{at['value'] - 4:x},4") == b"OK"
        assert client.ask("vCont;c").startswith(b"W05")


def test_a_fault_is_reported_with_its_exact_pc_and_siginfo():
    at = labels_of(FAULT)
    with debugged(FAULT) as guest, guest.client() as client:
        stop = client.resume()
        assert (stop["signal"], client.register(PC)) == (SIGNALS["SEGV"], at["fault"])
        number, _, code, _, address = struct.unpack_from("<iiiiQ", client.transfer("siginfo"))
        assert (number, code, address) == (11, 1, 16)
        assert client.ask("vCont;C0b").startswith(b"X0b")
    result = guest.ended()
    assert (result.reason, result.signal) == ("signal", 11)
    assert "store to 0x10" in result.message


def test_a_fault_that_the_debugger_repairs_is_over():
    at = labels_of(FAULT)
    with debugged(FAULT) as guest, guest.client() as client:
        client.resume()
        client.set_register(PC, at["fault"] + 4)
        client.ask("vCont;c")
    assert guest.ended().returncode == 9


def test_a_signal_stops_before_its_handler_and_is_delivered_if_the_client_says_so():
    at = labels_of(SIGNAL)
    with debugged(SIGNAL) as guest, guest.client() as client:
        stop = client.resume()
        assert (stop["signal"], client.register(PC)) == (SIGNALS["USR1"], at["back"])
        info = client.transfer("siginfo")
        assert struct.unpack_from("<iiiiI", info) == (10, 0, 0, 0, os.getpid())
        assert client.resume("S1e")["signal"] == SIGNALS["TRAP"]
        assert (client.register(PC), client.register(A0)) == (at["handler"], 10)
        assert client.ask("vCont;c").startswith(b"W01")


def test_a_signal_can_be_held_back():
    with debugged(SIGNAL) as guest, guest.client() as client:
        client.resume()
        assert client.ask("vCont;c").startswith(b"W00")


def test_signals_that_are_passed_do_not_stop():
    with debugged(SIGNAL) as guest, guest.client() as client:
        assert client.ask("QPassSignals:1e;e;14") == b"OK"
        assert client.ask("vCont;c").startswith(b"W01")


def test_siginfo_can_be_written():
    at = labels_of(SIGNAL)
    with debugged(SIGNAL) as guest, guest.client() as client:
        client.resume()
        assert client.ask(b"qXfer:siginfo:write::8:" + struct.pack("<i", 42)) == b"4"
        client.ask(f"Z0,{at['inside']:x},4")
        client.resume("C1e")
        assert client.register(18) == 42  # s2: si_code
        client.ask("vCont;c")


@pytest.mark.parametrize("step", [False, True])
def test_ctrl_c_stops_a_loop(step):
    with debugged(SPIN) as guest, guest.client() as client:
        if step:
            client.resume("s")
        client.send("vCont;c")
        time.sleep(0.1)
        client.interrupt()
        stop = client.stop(client.receive())
        assert stop["signal"] == SIGNALS["INT"]
        before = client.register(A0)
        assert before > 0
        client.ask("z0,0,4")
        assert client.register(A0) == before
        client.send("k")
        assert guest.ended().signal == 9


def waiting(guest):
    """Until the guest's first thread waits in a system call."""
    deadline = time.monotonic() + 20
    while not guest.server.debugger.process.main.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        os.close(fd)


def test_ctrl_c_stops_a_system_call_that_waits_and_it_goes_on_waiting(pipe):
    at = labels_of(READ)
    with debugged(READ, stdin=pipe[0]) as guest, guest.client() as client:
        for _ in range(3):
            client.send("vCont;c")
            waiting(guest)
            client.interrupt()
            assert client.stop(client.receive())["signal"] == SIGNALS["INT"]
            assert (client.register(PC), client.register(A0), client.register(A7)) == (at["call"], 0, 63)
        client.send("vCont;c")
        os.write(pipe[1], b"hello")
        assert client.receive().startswith(b"W05")
    result = guest.ended()
    assert (result.returncode, result.instructions) == (5, 8)


def test_a_function_can_be_called_while_a_system_call_waits(pipe):
    at = labels_of(READ)
    with debugged(READ, stdin=pipe[0]) as guest, guest.client() as client:
        client.send("vCont;c")
        waiting(guest)
        client.interrupt()
        client.receive()
        saved = client.ask("g").decode()
        client.ask(f"Z0,{at['here']:x},2")
        client.set_register(A0, 21)
        client.set_register(1, at["here"])
        client.set_register(PC, at["twice"])
        client.resume()
        assert (client.register(A0), client.register(PC)) == (42, at["here"])
        client.ask(f"z0,{at['here']:x},2")
        assert client.ask("G" + saved) == b"OK"
        client.send("vCont;c")
        os.write(pipe[1], b"hello!")
        assert client.receive().startswith(b"W06")


def test_a_step_over_a_waiting_system_call_ends_behind_it(pipe):
    at = labels_of(READ)
    with debugged(READ, stdin=pipe[0]) as guest, guest.client() as client:
        client.send("vCont;c")
        waiting(guest)
        client.interrupt()
        client.receive()
        client.send("vCont;s")
        os.write(pipe[1], b"abc")
        assert client.stop(client.receive())["signal"] == SIGNALS["TRAP"]
        assert (client.register(PC), client.register(A0)) == (at["after"], 3)


def test_system_calls_are_caught_at_both_ends(pipe):
    at = labels_of(READ)
    os.write(pipe[1], b"1234")
    with debugged(READ, stdin=pipe[0]) as guest, guest.client() as client:
        assert client.ask("QCatchSyscalls:1;3f") == b"OK"
        stop = client.resume()
        assert (stop["syscall_entry"], client.register(PC), client.register(A0)) == ("3f", at["after"], 0)
        stop = client.resume()
        assert (stop["syscall_return"], client.register(PC), client.register(A0)) == ("3f", at["after"], 4)
        assert client.ask("QCatchSyscalls:0") == b"OK"
        assert client.ask("vCont;c").startswith(b"W04")


def test_all_system_calls_can_be_caught(pipe):
    os.write(pipe[1], b"1234")
    with debugged(READ, stdin=pipe[0]) as guest, guest.client() as client:
        assert client.ask("QCatchSyscalls:1") == b"OK"
        kinds = [client.resume(), client.resume(), client.resume()]
        assert [next(k for k in stop if k.startswith("sys")) for stop in kinds] == [
            "syscall_entry",
            "syscall_return",
            "syscall_entry",
        ]
        assert kinds[2]["syscall_entry"] == "5e"
        client.set_register(A0, 9)
        assert client.ask("vCont;c").startswith(b"W09")


def test_threads_stop_together_and_run_alone_if_asked():
    at = labels_of(THREADS)
    with debugged(THREADS) as guest, guest.client() as client:
        client.ask(f"Z0,{at['all']:x},4")
        stop = client.resume()
        pid = f"{os.getpid():x}"
        assert stop["thread"] == f"p{pid}.{pid}"
        threads = client.threads()
        assert len(threads) == 3
        assert threads[0] == stop["thread"]
        for thread in threads[1:]:
            assert client.ask(f"Hg{thread}") == b"OK"
            assert at["thread"] <= client.register(PC) < at["go"]
        second = threads[1]
        assert client.ask(f"T{second}") == b"OK"
        assert client.ask("Tp1.99") == b"E16"
        client.ask(f"z0,{at['all']:x},4")
        for _ in range(4):
            stop = client.resume(f"s:{second}")
            assert stop["thread"] == second
            assert client.register(PC) in (at["round"], at["round"] + 4)
        client.ask(f"Hg{threads[0]}")
        assert client.register(PC) == at["all"]
        root = client.transfer("threads").decode()
        assert root.count("<thread id=") == 3
        assert client.ask("vCont;c").startswith(b"W05")


def test_two_threads_at_one_breakpoint_are_both_reported():
    at = labels_of(THREADS)
    with debugged(THREADS) as guest, guest.client() as client:
        client.ask(f"Z0,{at['all']:x},4")
        client.resume()
        _, *others = client.threads()
        client.ask(f"Z0,{at['round']:x},4")
        seen = set()
        for _ in range(100):
            # The first thread stays where it is.
            stop = client.resume(";".join(f"c:{thread}" for thread in others))
            assert client.register(PC) == at["round"]
            seen.add(stop["thread"])
        assert seen == set(others)
        assert client.ask(f"z0,{at['round']:x},4") == client.ask(f"z0,{at['all']:x},4") == b"OK"
        assert client.ask("vCont;c").startswith(b"W05")


def test_when_the_last_thread_that_runs_is_over_the_client_is_told():
    text = THREADS.replace("round:  lw a2, 0(a1)\n        j round", "round:  li a7, 93\n        ecall")
    at = labels_of(text)
    with debugged(text) as guest, guest.client("no-resumed+") as client:
        client.ask(f"Z0,{at['round']:x},4")
        thread = client.resume()["thread"]
        client.ask(f"z0,{at['round']:x},4")
        assert client.ask(f"vCont;c:{thread}") == b"N"
        assert thread not in client.threads()
        assert client.ask("vCont;c").startswith(b"W05")


def test_a_client_that_detaches_lets_the_guest_run_on():
    at = labels_of(COUNT)
    with debugged(COUNT) as guest, guest.client() as client:
        client.ask(f"Z0,{at['done']:x},4")
        client.ask(f"Z2,{at['value']:x},8")
        assert client.ask(f"D;{os.getpid():x}") == b"OK"
        assert guest.ended().returncode == 5


def test_a_client_that_goes_away_lets_the_guest_run_on():
    with debugged(COUNT) as guest:
        guest.client().close()
        assert guest.ended().returncode == 5


def test_a_connection_without_a_packet_leaves_the_guest_waiting():
    with debugged(COUNT) as guest:
        for sent in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x03\x03++--"):
            with guest.connect() as client:
                client.socket.sendall(sent)
        time.sleep(0.1)
        with guest.client() as client:
            assert client.register(PC) == BASE


def test_a_second_client_finds_the_guest_stopped_where_it_is():
    with debugged(SPIN) as guest:
        with guest.client() as client:
            assert client.ask("D") == b"OK"
        time.sleep(0.1)
        with guest.client() as client:
            assert client.register(A0) > 0
            client.send("vCont;c")
            client.interrupt()
            assert client.stop(client.receive())["signal"] == SIGNALS["INT"]
            assert client.ask(f"vKill;{os.getpid():x}") == b"OK"
        assert guest.ended().signal == 9


def test_fuel_is_exact_under_a_debugger():
    at = labels_of(SPIN)
    with debugged(SPIN, fuel=1001) as guest, guest.client() as client:
        client.ask(f"Z0,{at['_start']:x},4")
        for _ in range(10):
            client.resume()
        client.resume("s")
        assert client.monitor("instructions").startswith("19 instructions")
        client.ask(f"z0,{at['_start']:x},4")
        assert client.ask("vCont;c").startswith(b"W7b")
    result = guest.ended()
    assert (result.reason, result.instructions) == ("fuel", 1001)


def test_a_timeout_ends_a_guest_that_is_stopped():
    with debugged(SPIN, timeout=0.3) as guest, guest.client() as client:
        client.resume("s")
        assert guest.ended().reason == "timeout"


def test_what_the_client_is_told_of_the_process():
    with debugged(COUNT) as guest, guest.client() as client:
        known = client.ask("qSupported:multiprocess+").decode().split(";")
        assert {"QStartNoAckMode+", "multiprocess+", "vContSupported+", "qXfer:features:read+"} <= set(known)
        assert client.ask("vCont?") == b"vCont;c;C;s;S;t;r"
        assert client.ask("vMustReplyEmpty") == b""
        assert client.ask("qC").startswith(b"QCp")
        assert client.ask("qAttached") == b"0"
        assert b"org.gnu.gdb.riscv.cpu" in client.transfer("features", "target.xml")
        auxv = client.transfer("auxv")
        assert dict(struct.iter_unpack("<QQ", auxv))[9] == BASE
        assert client.transfer("exec-file") == guest.server.debugger.process.executable.encode()
        assert b'<memory type="ram"' in client.transfer("memory-map")
        assert (
            client.transfer("libraries-svr4") == b'<library-list-svr4 version="1.0">\n</library-list-svr4>\n'
        )
        for unknown in ("qXfer:nothing:read::0,10", "Z9,0,1", "qNothing", "Qx", "vFile:what:", "y"):
            assert client.ask(unknown) == b""


def test_monitor_commands():
    with debugged(COUNT) as guest, guest.client() as client:
        assert "maps" in client.monitor("help")
        assert f"{BASE:08x}-" in client.monitor("maps")
        assert client.monitor("engine") == "reference\n"
        assert "retired" in client.monitor("stats")
        assert "no command" in client.monitor("nonsense")
        assert client.monitor("") == client.monitor("help")
        client.monitor("strace on")
        client.ask("vCont;c")
    assert guest.ended().returncode == 5


def test_files_are_those_that_the_guest_sees(tmp_path):
    (tmp_path / "inside").write_bytes(b"#abc}" * 10)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with debugged(COUNT, cwd=str(tmp_path)) as guest, guest.client() as client:

        def file(text):
            return client.ask(f"vFile:{text}")

        def name(path):
            return os.fsencode(path).hex()

        assert file("setfs:0") == b"F0"
        assert file(f"open:{name(tmp_path / 'inside')},0,0") == b"F0"
        assert file("pread:0,8,1") == b"F8;abc}#abc"
        assert file("pread:0,100,2d") == b"F5;#abc}"
        stat = file("fstat:0")
        assert stat.startswith(b"F40;")
        assert struct.unpack(">7I3Q3I", stat[4:])[7] == 50
        assert file("close:0") == b"F0"
        assert file("close:0") == b"F-1,9"
        for path in ("/etc/passwd", tmp_path / "link", "/root/x"):
            assert file(f"open:{name(path)},0,0").startswith(b"F-1,")
        assert file(f"readlink:{name('/proc/self/cwd')}") == b"F%x;" % len(str(tmp_path)) + os.fsencode(
            tmp_path
        )
        assert file(f"open:{name(f'/proc/{os.getpid()}/maps')},0,0") == b"F0"
        assert f"{BASE:08x}-".encode() in file("pread:0,4000,0")
        assert file(f"open:{name('/dev/zero')},0,0") == b"F-1,d"
        assert file(f"open:{name(tmp_path)},0,0") == b"F-1,15"
        assert file(f"open:{name(tmp_path / 'new')},601,1a4") == b"F1"
        assert file("pwrite:1,0,hello") == b"F5"
        assert file(f"unlink:{name(tmp_path / 'inside')}") == b"F0"
    guest.ended()
    assert (tmp_path / "new").read_bytes() == b"hello"
    assert not (tmp_path / "inside").exists()


def test_a_fork_leaves_the_child_alone():
    text = """
_start: li a7, 220
        li a0, 17
        li a1, 0
        li a2, 0
        li a3, 0
        li a4, 0
        ecall
both:   beq a0, zero, child
        mv s0, a0
        la a1, status
        li a2, 0
        li a3, 0
        li a7, 260
        ecall
        la a1, status
        lw a0, 0(a1)
        srli a0, a0, 8
        j exit
child:  bne s3, zero, last
        li s3, 1
        j _start        # a child of its own, which must not close what is another's
last:   li a0, 1
        la a1, both
        li a2, 4
        li a7, 64
        ecall
        addi a0, a0, 3
exit:   li a7, 94
        ecall
        .align 8
status: .dword 0
"""
    at = labels_of(text)
    with debugged(text) as guest, guest.client() as client:
        client.ask(f"Z0,{at['both']:x},4")
        client.ask(f"Z0,{at['child']:x},4")
        client.resume()
        assert client.register(A0) > 0
        client.ask(f"z0,{at['both']:x},4")
        assert client.ask("vCont;c").startswith(b"W07")
    assert guest.ended().returncode == 7


def test_a_stop_does_not_wait_for_a_thread_that_waits_for_its_child():
    text = """
_start: li a7, 220
        li a0, 0x4111
        li a1, 0
        ecall
after:  beq a0, zero, child
        li a0, 5
        j exit
child:  la a0, time
        li a1, 0
        li a7, 101
        ecall
        li a0, 7
exit:   li a7, 94
        ecall
        .align 8
time:   .dword 1
        .dword 0
"""
    at = labels_of(text)
    with debugged(text) as guest, guest.client() as client:
        client.send("vCont;c")
        waiting(guest)
        begin = time.monotonic()
        client.interrupt()
        assert client.stop(client.receive())["signal"] == SIGNALS["INT"]
        assert time.monotonic() - begin < 1
        assert client.register(PC) == at["after"]
        assert client.ask("vCont;c").startswith(b"W05")


def test_an_unix_socket_and_its_file(tmp_path):
    place = str(tmp_path / "stub")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(place)  # and nobody listens there
    with debugged(COUNT, address=f"unix:{place}") as guest:
        with guest.client() as client:
            assert client.ask("vCont;c").startswith(b"W05")
        guest.ended()
    assert not os.path.exists(place)


@pytest.mark.parametrize(
    ("text", "host", "target"),
    [
        ("1234", "127.0.0.1", ":1234"),
        (":1234", "127.0.0.1", ":1234"),
        ("tcp::1234", "127.0.0.1", ":1234"),
        ("0.0.0.0:1234", "0.0.0.0", ":1234"),
        ("[::1]:1234", "::1", "[::1]:1234"),
        ("box:1234", "box", "box:1234"),
    ],
)
def test_a_port_alone_is_on_the_loopback_interface(text, host, target):
    address = Address(text)
    assert (address.host, address.port, address.target) == (host, 1234, target)


@pytest.mark.parametrize("text", ["", "x", "-1", "70000", "1.5", "unix:", "host:", "٣"])
def test_a_bad_address_is_a_usage_error(text):
    with pytest.raises(UsageError, match="-g"):
        Address(text)


def test_a_path_that_is_taken_is_a_host_error(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(HostError, match="cannot listen at unix:"):
        Server(f"unix:{tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "kept"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "stub"))
        other.listen()
        with pytest.raises(HostError, match="cannot listen at unix:"):
            Server(f"unix:{tmp_path / 'stub'}")


def test_a_port_that_is_taken_is_a_host_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostError, match="cannot listen at"):
        Server(str(taken.getsockname()[1]))


# -- hostile clients ----------------------------------------------------------------------------------------------------

COMMANDS = (
    "g", "G", "p", "P", "m", "M", "X", "x", "Z0", "Z2", "z0", "z4", "H", "T", "qSupported", "qXfer:features:read:target.xml:",
    "qXfer:siginfo:write::", "qXfer:auxv:read::", "qThreadExtraInfo,", "qRcmd,", "QPassSignals:", "QCatchSyscalls:1;", "vFile:open:",
    "vFile:pread:", "vFile:close:", "vFile:stat:", "vFile:pwrite:", "vAttach;", "qfThreadInfo", "?", "!", "vFile:readlink:",
)  # fmt: skip
WORDS = (
    "",
    "0",
    "-1",
    "ffffffffffffffff",
    "10000",
    "1,",
    ",",
    ":",
    ";",
    "p",
    "p0.0",
    "p-1.-1",
    "zz",
    "\0",
    "}",
    "2f",
    "٣",
    "#",
)


def test_no_bytes_of_a_client_do_harm():
    choose = random.Random(4)
    with debugged(COUNT) as guest, guest.client() as client:
        for _ in range(3000):
            words = choose.choice(COMMANDS) + "".join(choose.choices(WORDS, k=choose.randrange(6)))
            data = words.encode()
            if choose.random() < 0.2:
                data = bytes(choose.randrange(256) for _ in range(choose.randrange(30)))
            if data[:1] in b"kDcsCS" or (data[:1] == b"v" and b"vFile" not in data):
                continue  # these have no answer, or end the conversation
            client.send(data.replace(b"$", b"").replace(b"#", b""))
            client.receive()
        assert client.ask("?").startswith(b"T")
        client.send("k")
        assert guest.ended().signal == 9


def test_a_client_that_sends_noise_or_never_reads_does_not_stop_the_end():
    choose = random.Random(5)
    with debugged(SPIN, timeout=20) as guest:
        for _ in range(20):
            with guest.connect() as client:
                client.socket.sendall(bytes(choose.randrange(256) for _ in range(5000)))
        with guest.client() as client:
            client.socket.sendall(frame(b"m10000,1000") * 200)
            client.send("vCont;c")
        guest.server.debugger.process.end("stopped")
        assert guest.ended().reason == "stopped"


def test_requests_are_bounded():
    with debugged(COUNT) as guest, guest.client() as client:
        assert len(client.ask("m10000,ffffffff")) <= 0x20000
        assert client.ask("m0,10") == b"E0e"
        assert client.ask("mffffffffffffffff,10") == b"E0e"
        assert client.ask("X0,4:abcd") == b"E0e"
        assert client.ask("X10000,8:abcd") == b"E16"
        assert client.ask("Z2,0,0") == b"E.too many breakpoints"
        assert client.ask("Z0,0,4") == b"E0e"
        for number in range(5000):
            if client.ask(f"Z0,{BASE + number % 4096:x},2") != b"OK":
                break
        assert client.ask("p" + "f" * 100) == b"E16"
        client.send(b"a" * 0x30000)
        assert client.receive() == b"E.the packet is too long"


def test_a_client_must_wait_for_the_stop():
    with debugged(SPIN) as guest, guest.client() as client:
        client.send("vCont;c")
        assert client.ask("g") == b"E.the guest is running"
        client.interrupt()
        assert client.receive().startswith(b"T02")
