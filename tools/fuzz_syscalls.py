"""Random system calls by hostile guests: vm's process lives, touches nothing outside, and does not grow.

    python tools/fuzz_syscalls.py --calls 1000000 [--seed N] [--threads T] [--isa riscv64,aarch64,x86_64,native]

Each worker is a process of its own, confined as ``vm run`` is, in a directory of its own. The walls of the host must not hide
a hole in vm, so Landlock leaves open what lies beside that directory, and every change there is an escape; a call of the host
that the filter forbids ends the worker, which is one too. ``riscv64``, ``aarch64`` and ``x86_64`` are the handlers of an ISA,
called from several host threads; ``native`` is a guest of several threads in the JIT engine, where native code answers.

A finding is printed with the seed of its round and, if the worker died, the last calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vm_core import isa as isas
from vm_core.errors import VmError
from vm_core.linux.abi import MASK64, SigInfo
from vm_core.linux.paths import Namespace, _remove_tree
from vm_core.linux.process import GuestThread, Process
from vm_core.linux.system import ThreadEnd
from vm_core.testing.guests import Caller, elf, program
from vm_core.testing.outside import Scene

KINDS = ("riscv64", "aarch64", "x86_64", "native")
MACHINES = {"riscv64": 243, "aarch64": 183, "x86_64": 62}
NAMES = (
    "a", "b/c", "../outside/secret", "/etc/passwd", "/", ".", "..", "/proc/self/fd/3", "/proc/self/exe", "link", "loop",
    "/tmp/x", "", "x" * 300, "y/" * 2100, "/proc/self/root/etc/passwd", "/dev/null", "/dev/tty", "prog", "dir/../../outside",
    "\xff\xfe", "/proc/self/maps", "/proc/self/mem", "dir",
)  # fmt: skip
VALUES = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 64, 100, 128, 255, 256, 4095, 4096, 8192, 0x22, 0o102, 0o2102, 0x1000,
    0x10000, 1 << 20, 0x7FFF_FFFF, 1 << 31, 0xFFFF_FFFF, 1 << 32, (1 << 32) - 4096, (1 << 47) - 1, (1 << 63) - 1, 1 << 63,
    -1, -2, -100, -4096,
)  # fmt: skip
RARE = {
    # They wait, end the guest, or make a process: each would be most of the time.
    "fork": 400, "vfork": 400, "clone": 100, "clone3": 100, "execve": 200, "execveat": 200, "exit": 400, "exit_group": 2000,
    "kill": 50, "tkill": 50, "tgkill": 50, "rt_sigqueueinfo": 50, "rt_tgsigqueueinfo": 50, "pause": 400, "rt_sigsuspend": 200,
    "rt_sigtimedwait": 50, "futex": 20, "ppoll": 20, "poll": 20, "pselect6": 20, "select": 20, "epoll_pwait": 20,
    "epoll_wait": 20, "epoll_pwait2": 20, "nanosleep": 50, "clock_nanosleep": 50, "flock": 10, "fcntl": 2, "read": 2,
    "rt_sigreturn": 100, "munmap": 20, "mprotect": 5, "mremap": 10, "setrlimit": 50, "prlimit64": 20, "wait4": 20, "waitid": 20,
    "sync": 50, "syncfs": 50, "close_range": 50,
}  # fmt: skip
"""One in so many of the times that chance takes a call, it is made."""
FORKS = frozenset({"fork", "vfork", "clone", "clone3"})
SIZED = frozenset(
    {"fallocate", "ftruncate", "truncate", "pwrite64", "pwritev", "pwritev2", "lseek", "copy_file_range"}
)
GUEST_MEMORY = 64 << 20
FILE_BYTES = 64 << 20
PATIENCE = 0.03
"""Seconds that one call may wait before a signal ends it."""
LOGGED = 64
RECORD = struct.Struct("<7Q")


class Log:
    """The last calls, in a file that outlives the worker."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(LOGGED * RECORD.size)
            self._map = mmap.mmap(file.fileno(), LOGGED * RECORD.size)
        self._at = 0

    def put(self, number: int, arguments: list[int]) -> None:
        self._at = (self._at + 1) % (LOGGED - 1)
        self._map[-8:] = self._at.to_bytes(8, "little")
        RECORD.pack_into(self._map, self._at * RECORD.size, number, *(word & MASK64 for word in arguments))

    @staticmethod
    def read(path: Path) -> list[str]:
        rows = list(RECORD.iter_unpack(path.read_bytes()))
        last = rows.pop()[-1] + 1
        return [f"{row[0]}({', '.join(map(hex, row[1:]))})" for row in rows[last:] + rows[:last] if any(row)]


def pick(rng: random.Random, names: list[str]) -> str:
    while True:
        name = rng.choice(names)
        if rng.randrange(RARE.get(name, 1)) == 0:
            return name


def arguments(rng: random.Random, name: str, buffer: int, places: list[int], size: int) -> list[int]:
    args = []
    for _ in range(6):
        match rng.randrange(8):
            case 0:
                args.append(rng.getrandbits(64))
            case 1:
                args.append(buffer + rng.randrange(-64, 1 << 16))
            case 2:
                args.append(rng.choice(places))
            case 3:
                args.append(size + rng.choice((-4096, -8, -1, 0, 1, 4096)))
            case 4:
                args.append(rng.randrange(40))
            case _:
                args.append(rng.choice(VALUES))
    if name in SIZED:
        args[1:] = [
            value & 0xFFFFF if 0 <= value < 1 << 16 or value >= 1 << 32 else value for value in args[1:]
        ]
    return args


def words(rng: random.Random, buffer: int, places: list[int]) -> bytes:
    """What pointers find: lengths, addresses and flags of structures, rather than zeros."""
    found = [rng.choice((*VALUES, *places, rng.getrandbits(64), buffer)) & MASK64 for _ in range(2048)]
    return struct.pack("<2048Q", *found)


def refill(inside: Path) -> None:
    """The guest's directory as each round begins: it may have become anything."""
    with os.scandir(inside) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(entry.path)
            else:
                os.unlink(entry.path)
    (inside / "dir").mkdir()
    (inside / "a").write_text("a" * 10_000)
    here = os.open(inside, os.O_PATH)  # a path alone would be a call that the filter has not
    os.symlink("../outside/secret", "link", dir_fd=here)
    os.symlink("loop", "loop", dir_fd=here)
    os.close(here)
    (inside / "prog").write_bytes(program("ebreak"))
    (inside / "prog").chmod(0o755)


class Watch:
    """Ends what waits too long: a guest's call by a signal that cannot be blocked, a child by the host's."""

    def __init__(self) -> None:
        self.guests: dict[int, tuple[Process, GuestThread]] = {}
        self._since: dict[int, tuple[int, float]] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(PATIENCE / 3)
            for key, (process, thread) in list(self.guests.items()):
                phase, since = self._since.get(key, (-1, 0.0))
                if thread.phase != phase:
                    self._since[key] = thread.phase, time.monotonic()
                elif time.monotonic() - since > PATIENCE and (thread.phase & 1 or thread.waiting):
                    with contextlib.suppress(Exception):  # it may be over meanwhile
                        process.send_to(thread, SigInfo(9))


class Worker:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.place = Path(spec["place"])
        self.log = Log(self.place / "log")
        self.null = os.open(os.devnull, os.O_RDWR)
        self.watch = Watch()
        self.pid = os.getpid()
        self.rounds = self.done = 0
        self.levels: list[tuple[int, int]] = []

    def run(self) -> dict[str, Any]:
        while self.done < self.spec["calls"]:
            seed = self.spec["seed"] + self.rounds
            (self.place / "round").write_text(str(seed))
            refill(self.place / "inside")
            rng = random.Random(seed)
            self.rounds += 1
            before = self.done
            try:
                self.done += self.native(rng) if self.spec["kind"] == "native" else self.handlers(rng)
            except VmError as error:
                sys.stderr.write(f"round {seed}: {error}\n")
            if os.getpid() != self.pid:
                os._exit(0)
            if self.done == before:
                self.done += 1
            self._reap()
            self.levels.append(self._level())
        return {"rounds": self.rounds, "calls": self.done, "levels": self.levels}

    def _level(self) -> tuple[int, int]:
        """Resident bytes and open descriptors."""
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return pages * mmap.PAGESIZE, len(os.listdir("/proc/self/fd"))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return

    # -- the handlers, called by host threads -----------------------------------------------------------------------

    def handlers(self, rng: random.Random) -> int:
        kind = self.spec["kind"]
        image = elf(bytes.fromhex("73001000") * 16, machine=MACHINES[kind])
        options: dict[str, Any] = {"net": rng.random() < 0.3}
        if rng.random() < 0.2:
            options["strace"] = lambda _line: None
        null = self.null
        with Caller(
            image=image,
            cwd=str(self.place / "inside"),
            memory=GUEST_MEMORY,
            stdio=(null, null, null),
            **options,
        ) as guest:
            if rng.random() < 0.3:
                guest.process.files.namespace.use_openat2 = False
            places = [guest.put(os.fsencode(name) + b"\0") for name in NAMES]
            guest.memory.poke(guest.buffer, words(rng, guest.buffer, places))
            for kind_ in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                guest.call("socketpair", socket.AF_UNIX, kind_ | socket.SOCK_NONBLOCK, 0, guest.buffer)
            callers = [guest.thread]
            for _ in range(self.spec["threads"] - 1):
                extra = guest.process.new_thread(isas.get(kind).cpu())
                if extra is not None:
                    callers.append(extra)
            counts = [0] * len(callers)
            errors: list[BaseException] = []

            def work(index: int, seed: int) -> None:
                key = id(callers[index])
                self.watch.guests[key] = guest.process, callers[index]
                try:
                    counts[index] = self._calls(guest, callers[index], places, random.Random(seed))
                except BaseException as error:  # noqa: BLE001 - whatever comes out of a handler is a finding
                    errors.append(error)
                finally:
                    self.watch.guests.pop(key, None)

            hosts = [
                threading.Thread(target=work, args=(index, rng.getrandbits(32)))
                for index in range(1, len(callers))
            ]
            for host in hosts:
                host.start()
            work(0, rng.getrandbits(32))
            for host in hosts:
                host.join(30)
                if host.is_alive():
                    raise RuntimeError("a call did not end")
            if os.getpid() == self.pid:
                for caller in callers:
                    caller._leave()  # as the end of its run would
            if errors:
                raise errors[0]
            return sum(counts)

    def _calls(self, guest: Caller, thread: GuestThread, places: list[int], rng: random.Random) -> int:
        names = sorted(guest.numbers)
        argument_words, number_word = thread.abi.argument_words, thread.abi.number_word
        memory, process = guest.memory, guest.process
        for done in range(self.spec["round"]):
            if rng.random() < 0.02:
                number = rng.choice((rng.randrange(600), rng.getrandbits(32), rng.getrandbits(64)))
                name = ""
            else:
                name = pick(rng, names)
                number = guest.numbers[name]
            args = arguments(rng, name, guest.buffer, places, memory.size)
            self.log.put(number, args)
            words_ = thread.cpu.words
            for at, value in zip(argument_words, args, strict=False):
                words_[at] = value & MASK64
            words_[number_word] = number & MASK64
            try:
                thread.call()
            except ThreadEnd:
                return done + 1
            if os.getpid() != self.pid:
                os._exit(0)  # the child of a fork: the parent goes on
            thread.pending.clear()
            thread.interrupted = None
            if (
                process.stopping
                or process.memory is not memory
                or not memory.is_mapped(guest.buffer, 2 << 20)
            ):
                return done + 1
        return self.spec["round"]

    # -- a guest that makes the calls itself ------------------------------------------------------------------------

    def native(self, rng: random.Random) -> int:
        """The calls of several guest threads, which read them from tables in guest memory."""
        threads, each = self.spec["threads"], self.spec["round"]
        null = self.null
        text = ""
        for index in range(1, threads):
            # clone(VM | FS | FILES | SIGHAND | THREAD | SYSVSEM) on a stack whose top says where the table is.
            text += f"la t0, stack{index}\n mv a1, t0\n li a0, {0x50F00}\n li a2, 0\n li a3, 0\n li a4, 0\n li a7, 220\n"
            text += "ecall\n beq a0, zero, begin\n"
        text = f"_start:\n{text} la sp, stack0\nbegin: ld s0, 0(sp)\n ld s1, 8(sp)\n"
        text += "loop: ld a7, 0(s0)\n ld a0, 8(s0)\n ld a1, 16(s0)\n ld a2, 24(s0)\n ld a3, 32(s0)\n ld a4, 40(s0)\n"
        text += " ld a5, 48(s0)\n ecall\n addi s0, s0, 64\n addi s1, s1, -1\n bne s1, zero, loop\n"
        text += " li a7, 93\n li a0, 0\n ecall\n.align 16\n"
        text += "".join(f"stack{index}: .zero 16\n" for index in range(threads))
        image = program(text)
        stacks = len(image) - 16 * threads - 0x1000 + 0x10000
        process = Process(
            ["guest"], program=image, env={}, cwd=str(self.place / "inside"), memory=GUEST_MEMORY, engine="jit",
            stdio=(null, null, null), net=rng.random() < 0.3, timeout=each / 2000 + 1,
        )  # fmt: skip
        with process:
            memory = process.memory
            buffer = process.stack_top - (4 << 20)
            at = buffer + (1 << 20)
            places = []
            for name in NAMES:
                raw = os.fsencode(name) + b"\0"
                memory.poke(at, raw)
                places.append(at)
                at += len(raw) + 15 & -16
            memory.poke(buffer, words(rng, buffer, places))
            numbers = {row.name: number for number, (_, _, row) in process.calls.items()}
            names = sorted(set(numbers) - FORKS)
            # Below, where what a call writes to a buffer does not come.
            table = process.stack_top - (7 << 20)
            assert each * 64 * threads < 2 << 20
            for index in range(threads):
                rows = bytearray()
                for _ in range(each):
                    name = pick(rng, names)
                    args = arguments(rng, name, buffer, places, memory.size)
                    rows += RECORD.pack(numbers[name], *(word & MASK64 for word in args)) + bytes(8)
                memory.poke(table, bytes(rows))
                memory.poke(stacks + 16 * index, struct.pack("<QQ", table, each))
                table += len(rows)
            process.run()
            return process.system_calls


def serve(spec: dict[str, Any]) -> None:
    """The worker's process: confine it, make the calls, and print what came of it."""
    import resource

    from vm_core.linux.confine import confine

    logging.getLogger("vm").addHandler(logging.NullHandler())
    place = Path(spec["place"])
    os.chdir(place / "inside")
    os.environ["TMPDIR"] = str(place / "tmp")
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if spec["kind"] == "native":
        # The engine's code is built before: it takes a compiler, which is another process.
        Process(["guest"], program=program("ebreak"), env={}, engine="jit").close()
    namespace = Namespace(cwd=str(place / "inside"))
    cache = os.environ["VM_CACHE_DIR"]
    confine(
        namespace, net=True, level=spec["sandbox"], readable=("/proc/self",), writable=(str(place), cache)
    )
    report = Worker(spec).run()
    namespace.close()
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    os._exit(0)


@contextlib.contextmanager
def scratch() -> Iterator[tuple[Path, Scene]]:
    place = Path(tempfile.mkdtemp(prefix="vm-fuzz-"))
    try:
        (place / "tmp").mkdir()
        yield place, Scene(place)
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", str(place)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(place, ignore_errors=True)


def fuzz(kind: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """One worker to its end: its report, and what is wrong."""
    with scratch() as (place, scene):
        spec = {
            "kind": kind, "place": str(place), "seed": options.seed, "calls": options.calls, "threads": options.threads,
            "round": options.round, "sandbox": options.sandbox,
        }  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, "--worker", json.dumps(spec)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=options.timeout,
        )  # fmt: skip
        findings = []
        report: dict[str, Any] = {}
        if done.returncode:
            seed = (place / "round").read_text() if (place / "round").exists() else "?"
            calls = "\n    ".join(Log.read(place / "log")[-options.show :])
            findings.append(
                f"the worker ended with {done.returncode} in round {seed}:\n    {calls}\n{done.stderr[-3000:]}"
            )
        else:
            report = json.loads(done.stdout.splitlines()[-1])
            findings += flat(report.pop("levels"))
        if scene.touched:
            findings.append("something outside was touched")
        left = sorted(entry.name for entry in place.iterdir())
        if left != ["inside", "log", "outside", "round", "tmp"]:
            findings.append(f"beside the guest's directory there is {left}")
        report["seconds"] = round(time.monotonic() - started, 1)
        return report, findings


def flat(levels: list[tuple[int, int]]) -> list[str]:
    """What grew: from the time when every kind of call has been made some times, to the end."""
    if len(levels) < 8:
        return []
    early, late = levels[len(levels) // 4 : len(levels) // 2], levels[-len(levels) // 4 :]
    findings = []
    resident = min(level[0] for level in late) - max(level[0] for level in early)
    if resident > 16 << 20:
        findings.append(f"memory grew by {resident >> 20} MiB in {len(levels) // 2} rounds")
    descriptors = min(level[1] for level in late) - max(level[1] for level in early)
    if descriptors > 0:
        findings.append(f"{descriptors} descriptors were not closed")
    return findings


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Random system calls by hostile guests.")
    parser.add_argument("--calls", type=int, default=20_000, help="calls for each kind (20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=3, help="threads of a guest (3)")
    parser.add_argument(
        "--round", type=int, default=2000, help="calls of a thread before the next guest (2000)"
    )
    parser.add_argument("--isa", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--sandbox", default="auto", choices=["auto", "strict"])
    parser.add_argument("--timeout", type=float, default=36_000, help="seconds for each kind")
    parser.add_argument("--show", type=int, default=16, help="of the last calls of a worker that died (16)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        serve(json.loads(options.worker))
    status = 0
    for kind in options.isa.split(","):
        report, findings = fuzz(kind, options)
        print(
            f"{kind}: {report.get('calls', 0):,} calls, {report.get('rounds', 0):,} guests, {report['seconds']} s",
            flush=True,
        )
        for finding in findings:
            print(f"  {finding}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
