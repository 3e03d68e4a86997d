"""The debugger's stub in every engine: with a small client, and with gdb itself, whose words are compared with those that it has
under qemu-riscv64 -g."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vm_core.runner import run
from vm_core.testing.debug_client import Client, Debugged

if TYPE_CHECKING:
    from conftest import Assembled, Assembler

ENGINES = ("jit", "baseline", "interp", "reference")
HERE = Path(__file__).resolve().parent
DATA = 0x20000
PC, S0 = 32, 8
LOOP = """
    li s1, 0x20000
    li s0, 0
    li s2, 100000
loop:
    addi s0, s0, 1
    andi t0, s0, 1023
    bne t0, zero, {skip}
    jal ra, {rare}
skip:
    sw s0, 8(s1)
    bne s0, s2, {loop}
    li a0, 3
    li a7, 93
    ecall
rare:
    ld t1, 0(s1)
    addi t1, t1, 1
store:
    sd t1, 0(s1)
    jalr zero, 0(ra)
"""
SPIN = """
    li s0, 0
again:
    addi s0, s0, 1
    jal zero, {again}
"""


# -- a client of our own ------------------------------------------------------------------------------------------------


@contextmanager
def debugged(program: Assembled, engine: str) -> Iterator[tuple[Debugged, Client]]:
    compiles = {"synchronous": True} if engine in ("jit", "baseline") else {}
    with (
        Debugged(
            [str(program.path)],
            engine=engine,
            engine_options=compiles,
            capture_output=True,
            cwd=program.path.parent,
        ) as guest,
        guest.client() as client,
    ):
        yield guest, client


def looping(assembler: Assembler, engine: str) -> Assembled:
    return assembler.program(LOOP.replace("100000", "6000") if engine == "reference" else LOOP)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_breakpoint_in_a_hot_loop_stops_at_each_pass(assembler: Assembler, engine: str) -> None:
    program = looping(assembler, engine)
    at = program.labels
    straight = run([str(program.path)], engine=engine, cwd=program.path.parent)
    warm = 0 if engine == "reference" else 40
    with debugged(program, engine) as (guest, client):
        seen = []
        # What is compiled by then is dropped at each change, and made anew.
        for place, passes in (("skip", 2), ("rare", warm + 2), ("store", 2), ("rare", 2)):
            assert client.ask(f"Z0,{at[place]:x},4") == b"OK"
            for _ in range(passes):
                assert client.resume()["swbreak"] == ""
                seen.append((client.register(PC), client.register(S0)))
            assert client.ask(f"z0,{at[place]:x},4") == b"OK"
        rounds = [1, 2, *(1024 * count for count in range(1, warm + 3))]
        rounds += [1024 * (warm + count) for count in (2, 3, 4, 5)]
        places = ["skip"] * 2 + ["rare"] * (warm + 2) + ["store"] * 2 + ["rare"] * 2
        assert seen == [(at[place], count) for place, count in zip(places, rounds, strict=True)]
        assert client.ask("vCont;c").startswith(b"W03")
        result = guest.ended()
        assert result.instructions == straight.instructions
        assert (result.stats.retired_jit > 0) == (engine == "jit")
        assert ("baseline_units" in result.stats.extra) == (engine in ("jit", "baseline"))


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_are_exact(assembler: Assembler, engine: str) -> None:
    """The pc after each of 200 steps is that of the reference executor; they begin where code is compiled already."""
    program = looping(assembler, engine)

    def walk(name: str) -> list[tuple[int, int]]:
        with debugged(program, name) as (_, client):
            client.ask(f"Z0,{program.labels['rare']:x},4")
            for _ in range(3):
                client.resume()
            client.ask(f"z0,{program.labels['rare']:x},4")
            seen = []
            for _ in range(200):
                client.resume("s")
                seen.append((client.register(PC), client.register(S0)))
            return seen

    assert walk(engine) == walk("interp")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_watchpoint_finds_the_store(assembler: Assembler, engine: str) -> None:
    """The loop stores beside it all the time, in the same page: native engines must not mind."""
    program = assembler.program(LOOP.replace("100000", "4000" if engine == "reference" else "4000000"))
    straight = run([str(program.path)], engine=engine, cwd=program.path.parent)
    with debugged(program, engine) as (guest, client):
        assert client.ask(f"Z2,{DATA:x},8") == b"OK"
        for count in (1, 2, 3):
            stop = client.resume()
            assert (stop["watch"], client.register(PC)) == (f"{DATA:x}", program.labels["store"] + 4)
            assert (client.read(DATA, 1)[0], client.register(S0)) == (count, 1024 * count)
        # What is beside the stores is never accessed.
        assert client.ask(f"Z4,{DATA + 16:x},8") == b"OK"
        assert client.ask(f"z2,{DATA:x},8") == b"OK"
        assert client.ask("vCont;c").startswith(b"W03")
        assert guest.ended().instructions == straight.instructions


@pytest.mark.parametrize("engine", ENGINES)
def test_code_may_change_in_a_page_that_is_watched(assembler: Assembler, engine: str) -> None:
    """The program writes ``addi s0, s0, 2`` over ``addi s0, s0, 1`` after 50 rounds, and the word behind after 60."""
    program = assembler.program(
        """
        li s0, 0
        li s2, 100
        li t2, 0x240413
        auipc s1, 0
    here:
        addi s1, s1, 128
    round:
        addi s2, s2, -1
    changed:
        addi s0, s0, 1
        li t0, 50
        bne s2, t0, {on}
        sw t2, -116(s1)
        fence.i
    on:
        li t0, 40
        bne s2, t0, {next}
        sw t0, 4(s1)
    next:
        bne s2, zero, {round}
        addi a0, s0, 0
        li a7, 93
        ecall
        """
        + ".bytes 00 00 00 00\n" * 40,
        writable=True,
    )
    at = program.labels
    target = at["here"] - 4 + 128
    assert target - 116 == at["changed"]
    with debugged(program, engine) as (guest, client):
        assert client.ask(f"Z2,{target + 4:x},4") == b"OK"
        stop = client.resume()
        assert stop["watch"] == f"{target + 4:x}"
        assert client.register(S0) == 50 + 2 * 10
        assert client.ask("vCont;c") == f"W{50 + 2 * 50:02x};process:{os.getpid():x}".encode()
        assert guest.ended().returncode == 150


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loop_is_interrupted(assembler: Assembler, engine: str) -> None:
    with debugged(assembler.program(SPIN), engine) as (_, client):
        last = 0
        for _ in range(3):
            client.send("vCont;c")
            time.sleep(0.2)
            begin = time.monotonic()
            client.interrupt()
            assert client.stop(client.receive())["signal"] == "2"
            assert time.monotonic() - begin < 2
            now = client.register(S0)
            assert now > last
            last = now


# -- gdb ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gdb() -> str:
    path = shutil.which("gdb-multiarch")
    if path is None:
        pytest.skip("gdb-multiarch is not installed (Debian: apt install gdb-multiarch)")
    return path


@pytest.fixture(scope="session")
def debuggee(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    place = tmp_path_factory.mktemp("debuggee") / "debuggee"
    subprocess.run(
        [compiler, "-g", "-O1", "-static", "-pthread", "-o", place, HERE / "debuggee.c"],
        check=True,
        timeout=100,
    )
    return place


@contextmanager
def waiting(
    program: Path, *arguments: str, engine: str, options: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A guest under vm, or under qemu, that waits for gdb; and what gdb's ``target remote`` takes."""
    if engine == "qemu":
        path = shutil.which("qemu-riscv64")
        if path is None:
            pytest.skip("qemu-riscv64 is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command: list[str | Path] = [path, "-g", str(port), program, *arguments]
    else:
        command = [sys.executable, "-m", "vm_cli", "run", "--engine", engine, "-g", "0", *options, program]
        command += arguments
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=program.parent
    )
    try:
        if engine == "qemu":
            place = f":{port}"
            time.sleep(0.5)
        else:
            assert child.stderr is not None
            line = child.stderr.readline().decode()
            found = re.search(r"target remote (:\d+)' ", line)
            assert found is not None, line
            place = found[1]
        yield child, place
    finally:
        child.kill()
        for stream in (child.stdin, child.stdout, child.stderr):
            assert stream is not None
            stream.close()
        child.wait()


def session(
    gdb: str, program: Path, script: str, *arguments: str, engine: str, options: tuple[str, ...] = ()
) -> tuple[str, int, str]:
    """What gdb says in a session; the guest's exit status and output."""
    with waiting(program, *arguments, engine=engine, options=options) as (child, place):
        commands = ["set confirm off", "set pagination off", "set width 0", f"target remote {place}"]
        words = [word for line in (*commands, *script.strip().splitlines()) for word in ("-ex", line.strip())]
        done = subprocess.run(
            [gdb, "-nx", "-batch", *words, program], capture_output=True, text=True, timeout=120, check=False
        )
        out, _ = child.communicate(timeout=60)
    return plain(done.stdout + done.stderr), child.returncode, out.decode()


def plain(text: str) -> str:
    """Without what differs from run to run: numbers of processes, addresses of the stack, notes on files that are read."""
    text = re.sub(r"(?m)^(Reading |warning: |\[New |\[Switching ).*\n", "", text)
    return re.sub(r"\b(Thread|process) [\d.]+", r"\1", text)


BASIC = """
    break add
    continue
    backtrace
    info args
    stepi
    info registers pc
    step
    next
    finish
    delete
    print add(20, 22)
    print $fcsr
    x/3i main
    print total
    set var total = 100
    print total
    tbreak note
    print sizeof(pthread_barrier_t)
    until 24
    up
    info locals
    continue
"""


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ENGINES)
def test_break_step_and_finish(gdb: str, debuggee: Path, engine: str) -> None:
    text, status, out = session(gdb, debuggee, BASIC, engine=engine)
    assert "Breakpoint 1, add (a=a@entry=1, b=b@entry=1) at " in text
    assert re.search(r"#1 .* accumulate \(.*\n#2 .* main \(", text)
    assert "Breakpoint 1, add (a=a@entry=2, b=b@entry=2) at " in text
    assert "Value returned is $1 = 4" in text
    assert "$2 = 42" in text
    assert "exited normally" in text
    assert (status, out) == (0, "total 110 caught 0\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.needs_qemu
def test_gdb_says_the_same_as_under_qemu(gdb: str, debuggee: Path) -> None:
    assert session(gdb, debuggee, BASIC, engine="jit") == session(gdb, debuggee, BASIC, engine="qemu")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ENGINES)
def test_watch(gdb: str, debuggee: Path, engine: str) -> None:
    script = """
        watch total
        continue
        continue
        rwatch caught
        delete 1
        continue
        backtrace
        delete
        continue
    """
    text, status, _ = session(gdb, debuggee, script, engine=engine)
    assert re.search(r"Hardware watchpoint 1: total\n\nOld value = 0\nNew value = 2\n", text)
    assert re.search(r"Old value = 2\nNew value = 6\n.*accumulate \(", text)
    assert re.search(r"Hardware read watchpoint 2: caught\n\nValue = 0\n.* main \(", text)
    assert status == 0


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ["jit", "interp", "reference"])
def test_threads(gdb: str, debuggee: Path, engine: str) -> None:
    script = """
        break at_work
        continue
        print number
        continue
        continue
        delete
        break together
        continue
        info threads
        thread apply all backtrace
        thread apply all -q print mine
        thread 2
        set scheduler-locking on
        print add(1, 2)
        set scheduler-locking off
        continue
    """
    text, status, out = session(gdb, debuggee, script, "threads", engine=engine)
    assert sorted(re.findall(r"hit Breakpoint 1, at_work \(number=(?:number@entry=)?(\d)\)", text)) == [
        "1",
        "2",
        "3",
    ]
    listed = text[text.index("Breakpoint 2, together") :]
    assert len(re.findall(r"(?m)^. \d +Thread \"debuggee\"", listed)) == 4
    assert len(re.findall(r"in worker \(argument=", listed)) == 3
    assert "(in futex)" in listed
    assert sorted(re.findall(r"(?m)^\$\d+ = (\d+)$", listed)) == ["10", "3", "7", "8", "9"]
    assert (status, out) == (0, "total 12 caught 0\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ["jit", "interp", "qemu"])
def test_backtrace_through_a_signal_frame(gdb: str, debuggee: Path, engine: str) -> None:
    script = """
        break note
        continue
        print $_siginfo.si_signo
        continue
        backtrace
        print number
        finish
        finish
        continue
    """
    text, status, out = session(gdb, debuggee, script, "signal", engine=engine)
    assert "received signal SIGUSR1, User defined signal 1." in text
    assert re.search(
        r"#0 +note \(number=10\) .*\n#1 .* handler .*\n#2 +<signal handler called>\n(#\d.*\n)+#\d .* interrupted \(\) .*\n#\d .* main ",
        text,
    )
    if engine != "qemu":  # which has no siginfo to show
        assert "$1 = 10" in text
    assert "<signal handler called>" in text
    assert (status, out) == (0, "total 12 caught 10\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ["jit", "reference"])
def test_a_crash_is_seen_where_it_is(gdb: str, debuggee: Path, engine: str) -> None:
    script = """
        continue
        x/i $pc
        print $_siginfo.si_signo
        print $_siginfo._sifields._sigfault.si_addr
        continue
    """
    text, status, _ = session(gdb, debuggee, script, "crash", engine=engine)
    assert re.search(
        r"received signal SIGSEGV.*\n.*main \(.*\n.*total - 4.*\n=> 0x\w+ <main\+\d+>:\ts[bhwd]\t", text
    )
    assert "$1 = 11\n$2 = (void *) 0x8\n" in text
    assert "Program terminated with signal SIGSEGV" in text
    assert status == 128 + 11


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize(
    ("engine", "what"), [("jit", "spin"), ("jit", "read"), ("interp", "spin"), ("reference", "read")]
)
def test_ctrl_c(gdb: str, debuggee: Path, engine: str, what: str) -> None:
    with waiting(debuggee, what, engine=engine) as (child, place):
        front = subprocess.Popen(
            [gdb, "-nx", "-q", "-ex", "set confirm off", "-ex", f"target remote {place}", debuggee],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        assert front.stdin is not None
        assert front.stdout is not None
        try:
            front.stdin.write("tbreak main\ncontinue\n")
            said = _until(front, "Temporary breakpoint 1, main")
            front.stdin.write("continue\n")
            said = _until(front, "Continuing.")
            for _ in range(2):
                time.sleep(1.0)
                front.send_signal(signal.SIGINT)
                said = _until(front, "received signal SIGINT")
                front.stdin.write("backtrace\nprint total\ncontinue\n")
                said = _until(front, "Continuing.")
                assert re.search(r"#\d.* main \(", said), said
            if what == "read":
                assert child.stdin is not None
                child.stdin.write(b"x")
                child.stdin.flush()
                said = _until(front, "exited normally")
                assert child.stdout is not None
                assert child.stdout.readline() == b"read x\n"
            front.stdin.write("kill\nquit\n" if what == "spin" else "quit\n")
        finally:
            front.kill()
            front.stdin.close()
            front.stdout.close()
            front.wait()


def _until(front: subprocess.Popen[str], words: str) -> str:
    """What gdb says up to the line with these words."""
    assert front.stdout is not None
    said = ""
    while words not in said:
        line = front.stdout.readline()
        assert line, said
        said += line
    return said


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
def test_libraries_are_found_and_a_new_program_is_seen(gdb: str, tmp_path: Path) -> None:
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source = tmp_path / "again.c"
    source.write_text("""
        #include <math.h>
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            volatile double x = 2;
            printf("%.3f\\n", pow(x, 0.5));
            fflush(stdout);
            if (argc > 1)
                return 3;
            int status, child = fork();
            if (!child)
                _exit(5);
            waitpid(child, &status, 0);
            char *arguments[] = {argv[0], "again", 0};
            if (WEXITSTATUS(status) == 5)
                execv(argv[0], arguments);
            return 1;
        }
    """)
    program = tmp_path / "again"
    subprocess.run([compiler, "-g", "-O1", "-o", program, source, "-lm"], check=True, timeout=100)
    script = """
        break main
        continue
        info sharedlibrary
        break pow
        continue
        finish
        delete
        break _exit
        catch exec
        continue
        info sharedlibrary
        delete
        break main
        continue
        print argc
        info proc exe
        continue
    """
    root = "/usr/riscv64-linux-gnu"
    text, status, out = session(gdb, program, script, engine="jit", options=("-L", root))
    assert re.search(r"Breakpoint 1, main (.*\n)+.*libm\.so\.6\n.*libc\.so\.6\n", text)
    assert re.search(r"Breakpoint 2, .* in (__)?pow\w* \(", text)
    assert f"is executing new program: {program}" in text
    assert "$1 = 2" in text
    assert (status, out) == (3, "1.414\n1.414\n")


# -- several processes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    place = tmp_path_factory.mktemp("forking") / "forking"
    command = [compiler, "-g", "-O1", "-static", "-o", place, HERE / "forking.c"]
    subprocess.run(command, check=True, timeout=100)
    return place


FOLLOWS_CHILD = """
    set follow-fork-mode child
    break in_child
    continue
    backtrace
    continue
"""
STAYS = """
    catch fork
    continue
    break in_parent
    continue
    continue
"""
HAS_BOTH = """
    set detach-on-fork off
    break in_child
    break in_parent
    continue
    inferior 2
    continue
    print number
    set var number = 40
    inferior 1
    print number
    inferior 2
    print number
    continue
    inferior 1
    continue
"""
ALL_RUN = """
    set detach-on-fork off
    set schedule-multiple on
    break in_child
    continue
    info threads
    continue
    inferior 1
    continue
"""
EXECUTES = """
    catch vfork
    catch exec
    continue
    set follow-fork-mode child
    continue
    break in_child
    continue
    print number
    continue
"""


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ["jit", "interp"])
def test_the_child_is_followed(gdb: str, forking: Path, engine: str) -> None:
    text, status, out = session(gdb, forking, FOLLOWS_CHILD, engine=engine)
    assert "hit Breakpoint 1, in_child (number=number@entry=1)" in text
    assert re.search(r"Inferior 2 .* exited with code 05", text)
    assert (status, out) == (3, "first 5\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("script", [FOLLOWS_CHILD, STAYS, HAS_BOTH], ids=["child", "parent", "both"])
def test_forks_are_followed_as_natively(gdb: str, forking: Path, tmp_path: Path, script: str) -> None:
    """What gdb says of the same program on this machine, run by gdb itself."""
    native = tmp_path / "forking"
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    subprocess.run(
        [compiler, "-g", "-O1", "-static", "-o", native, HERE / "forking.c"], check=True, timeout=100
    )
    lines = [
        "set confirm off",
        "set pagination off",
        "set width 0",
        "set startup-with-shell off",
        "break main",
        "run",
    ]
    lines += ["delete", *script.strip().splitlines()]
    words = [word for line in lines for word in ("-ex", line.strip())]
    done = subprocess.run(
        [gdb, "-nx", "-batch", *words, native], capture_output=True, text=True, timeout=60, check=False
    )
    if "hit Breakpoint" not in done.stdout and "Breakpoint 1, main" not in done.stdout:
        pytest.skip("gdb may not trace processes here")
    found, _, _ = session(gdb, forking, "break main\ncontinue\ndelete\n" + script, engine="jit")
    told = re.compile(
        r"hit (?:Breakpoint|Catchpoint) .*|exited .*|^\$.*|^Catchpoint.*\(forked|Detaching after fork from \w+",
        re.MULTILINE,
    )
    wanted = told.findall(plain(done.stdout))
    assert len(wanted) >= 3
    assert told.findall(found) == wanted


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
def test_a_fork_is_caught_and_the_child_let_go(gdb: str, forking: Path) -> None:
    text, status, out = session(gdb, forking, STAYS, engine="jit")
    assert re.search(r"Catchpoint 1 \(forked process.*_Fork", text)
    assert "Detaching after fork from child" in text
    assert "Breakpoint 2, in_parent (number=number@entry=1)" in text
    assert "exited with code 03" in text
    assert (status, out) == (3, "first 5\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
@pytest.mark.parametrize("engine", ["jit", "reference"])
def test_both_processes_are_debugged(gdb: str, forking: Path, engine: str) -> None:
    text, status, out = session(gdb, forking, HAS_BOTH, engine=engine)
    assert "hit Breakpoint 2.1, in_parent" in text
    assert "hit Breakpoint 1.2, in_child" in text
    assert re.findall(r"^\$\d = (\d+)", text, re.MULTILINE) == ["1", "1", "40"]
    assert re.search(r"Inferior 2 .* exited with code 05", text)
    assert re.search(r"Inferior 1 .* exited with code 03", text)
    assert (status, out) == (3, "first 5\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
def test_all_processes_run_and_stop_together(gdb: str, forking: Path) -> None:
    text, status, out = session(gdb, forking, ALL_RUN, engine="jit")
    assert re.search(r"1\.1 .*wait4.*\n\* 2\.1 .*in_child", text)
    assert re.search(r"Inferior 2 .* exited with code 05", text)
    assert re.search(r"Inferior 1 .* exited with code 03", text)
    assert (status, out) == (3, "first 5\n")


@pytest.mark.needs_cc
@pytest.mark.needs_gdb
def test_a_vfork_and_its_exec_are_caught(gdb: str, forking: Path) -> None:
    text, status, out = session(gdb, forking, EXECUTES, "vfork", engine="jit")
    assert "Catchpoint 1 (vforked process" in text
    assert re.search(r"hit Catchpoint 2 \(exec'd .*/forking\)", text)
    assert "$1 = 3" in text
    assert re.search(r"Inferior 2 .* exited with code 011", text)
    assert (status, out) == (3, "first 5\nsecond 9\n")
