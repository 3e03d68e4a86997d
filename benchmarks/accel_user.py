"""x86-64 programs on the host's own processor, under KVM: how long a reset and a call of an initialised guest take, what a clone of
it and what a system call costs, and compute programs beside native runs.

    python benchmarks/accel_user.py                       # all tables
    python benchmarks/accel_user.py --only calls --count 20000
    python benchmarks/accel_user.py --only forks --clones 500
    python benchmarks/accel_user.py --only programs --programs fib,nbody --rounds 5 --json

Programs: processor time, user and system, of the process while the guest runs (not of Python before), over that of the native run;
each round runs both, one after the other, and the figure is the median of the rounds' ratios. A program's start, about forty
system calls and the first touch of each page, is in it. Calls: microseconds of wall time, percentiles over all of them. Clones: the
same, one after the other; then so many at once, each of which has been called once, and what they take. The host counts its own
memory for all processes together, so nothing else should begin or end meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from measure import build_guests, choose, geomean, print_table, progress, workplace

if TYPE_CHECKING:
    from vm_accel.user.guest import Guest

PUBLISHED = {
    "TinyKVM, reset and call (its README)": 28.0,
    "Hyperlight, call of a new sandbox (its paper and README), from": 62.0,
    "Hyperlight, to": 89.0,
}
"""Microseconds, on other machines with hardware virtualisation."""
_SERVICE = "int counter; long count(void) { return ++counter; } int main(void) { return 0; }\n"

_INSIDE = """
import json, sys, time
from vm_core.runner import run
begun = []
found = run(sys.argv[1:], engine="kvm", sysroot="/", stdout=-3, prepared=lambda process: begun.append(time.process_time()))
print(json.dumps([time.process_time() - begun[0] - found.phases["finish"], found.returncode, found.system_calls]))
"""


def percentiles(action: Callable[[], object], count: int) -> dict[str, float]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        action()
        times.append((time.perf_counter() - begin) * 1e6)
    return _percentiles(times)


def _percentiles(times: list[float]) -> dict[str, float]:
    times, count = sorted(times), len(times)
    return {"p50": times[count // 2], "p90": times[count * 9 // 10], "p99": times[count * 99 // 100]}


def calls(count: int) -> dict[str, dict[str, float]]:
    """Each operation's percentiles, in microseconds."""
    from vm_accel.user.engine import KvmEngine
    from vm_core import isa
    from vm_core.memory import PAGE, GuestMemory, Prot

    out: dict[str, dict[str, float]] = {}
    with GuestMemory() as memory:
        engine = KvmEngine(isa.get("x86_64"), memory)
        memory.map(0x10000, PAGE, Prot.RX)
        memory.poke(0x10000, b"\x0f\x05\xeb\xfc")  # again: syscall; jmp again
        cpu = isa.get("x86_64").cpu()
        cpu.pc = 0x10000
        engine.run(cpu, memory, 1)
        vcpu = cpu.outside.vcpu  # type: ignore[union-attr]
        view = cpu.outside.chair.view  # type: ignore[union-attr]

        def bare() -> None:
            view[296] = 1
            vcpu.run()

        vcpu_rip = cpu.outside.chair.general  # type: ignore[union-attr]

        def exit_alone() -> None:
            vcpu_rip[16] = 0x10000
            bare()

        out["exit (KVM_RUN, SYSCALL, back)"] = percentiles(exit_alone, count)
        out["exit with all registers moved"] = percentiles(lambda: engine.run(cpu, memory, 1), count)
        engine.close()
    with _initialised() as (guest, seconds):
        out["a new guest, up to main"] = {"p50": seconds * 1e6}
        guest.snapshot()
        guest.call("count")
        guest.reset()

        def both() -> None:
            guest.call("count")
            guest.reset()

        out["call"] = percentiles(lambda: guest.call("count"), count)
        out["reset"] = percentiles(guest.reset, count)
        out["reset and call"] = percentiles(both, count)
    return out


@contextmanager
def _initialised() -> Iterator[tuple[Guest, float]]:
    """A static program before its main, and the seconds up to there."""
    from vm_accel.user.guest import Guest

    with tempfile.TemporaryDirectory(prefix="vm-accel-") as place:
        source = Path(place, "service.c")
        source.write_text(_SERVICE)
        compiler = shutil.which("gcc") or shutil.which("cc") or "cc"
        subprocess.run([compiler, "-O2", "-static", source, "-o", f"{place}/service"], check=True)
        begin = time.perf_counter()
        with Guest([f"{place}/service"]) as guest:
            yield guest, time.perf_counter() - begin


_OWN: Final = ("Pss", "Private_Dirty")
_HOSTS: Final = ("Slab", "VmallocUsed", "PageTables", "KernelStack", "Percpu", "MemAvailable")


def _kilobytes(path: str, names: Sequence[str]) -> dict[str, int]:
    rows = [line.split() for line in Path(path).read_text().splitlines()]
    return {row[0][:-1]: int(row[1]) for row in rows if row[0][:-1] in names}


def _written(clones: Sequence[Guest]) -> int:
    """Kilobytes of the clones' own pages in their address spaces."""
    starts = sorted((clone.memory.host_address, clone.memory.size) for clone in clones)
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split(maxsplit=1)[0]
        if not word.endswith(":"):
            at = int(word.split("-")[0], 16)
            found = bisect_right(starts, (at, 1 << 64)) - 1
            inside = found >= 0 and at < sum(starts[found])
        elif inside and word == "Private_Dirty:":
            total += int(line.split()[1])
    return total


def forks(count: int, alive: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Each step's percentiles in microseconds, and kilobytes for each of ``alive`` clones."""
    names = ("clone", "its first call", "its second call", "its reset", "its end")
    times: dict[str, list[float]] = {name: [] for name in names}
    with _initialised() as (guest, _):
        begin = time.perf_counter()
        guest.snapshot()
        snapshot = (time.perf_counter() - begin) * 1e6
        used = time.process_time()
        for _ in range(count):
            marks = [time.perf_counter()]
            clone = guest.fork()
            marks.append(time.perf_counter())
            for action in (
                lambda c=clone: c.call("count"),
                lambda c=clone: c.call("count"),
                clone.reset,
                clone.close,
            ):
                action()
                marks.append(time.perf_counter())
            for name, first, last in zip(names, marks[:-1], marks[1:], strict=True):
                times[name].append((last - first) * 1e6)
        used = (time.process_time() - used) / count * 1e6
        gc.collect()
        own, hosts = _kilobytes("/proc/self/smaps_rollup", _OWN), _kilobytes("/proc/meminfo", _HOSTS)
        begin = time.perf_counter()
        clones = [guest.fork() for _ in range(alive)]
        rate = alive / (time.perf_counter() - begin)
        for clone in clones:
            if clone.call("count") != 1:
                raise SystemExit("a clone has seen what another wrote")
        own_now, hosts_now = _kilobytes("/proc/self/smaps_rollup", _OWN), _kilobytes("/proc/meminfo", _HOSTS)
        written = _written(clones)
        for clone in clones:
            clone.close()
    rows = {name: _percentiles(samples) for name, samples in times.items()}
    rows = {"the snapshot": {"p50": snapshot}, **rows, "all five, processor time": {"p50": used}}
    kilobytes: dict[str, float] = {name: (own_now[name] - own[name]) / alive for name in _OWN}
    kilobytes["of it pages that the guest has written"] = written / alive
    for name in _HOSTS:
        kilobytes[f"the host's {name}"] = (hosts_now[name] - hosts[name]) / alive
    rows["all clones at once, each"] = {"p50": 1e6 / rate}
    return rows, kilobytes


def _native(command: Sequence[str], cwd: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def programs(names: Sequence[str], rounds: int, size: str) -> dict[str, dict[str, Any]]:
    """By program: seconds natively and under KVM (medians), the ratio, and the guest's system calls."""
    out: dict[str, dict[str, Any]] = {}
    with progress() as say:
        for name in names:
            binary = build_guests.build(name, "native")
            arguments = build_guests.PROGRAMS[name].args[size]
            samples: list[tuple[float, float]] = []
            with workplace(name) as place:
                command = [str(binary.resolve()), *arguments]
                for number in range(rounds):
                    say(f"{name}: round {number + 1} of {rounds}")
                    native = _native(command, place)
                    done = subprocess.run(
                        [sys.executable, "-c", _INSIDE, *command],
                        cwd=place,
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    seconds, status, made = json.loads(done.stdout)
                    if status:
                        raise SystemExit(f"{name} ended with {status} under KVM")
                    samples.append((native, seconds))
            out[name] = {
                "native": statistics.median(s[0] for s in samples),
                "kvm": statistics.median(s[1] for s in samples),
                "ratio": statistics.median(s[1] / max(s[0], 1e-3) for s in samples),
                "system calls": made,
            }
    return out


def _print_times(times: dict[str, dict[str, float]]) -> None:
    columns = ("p50", "p90", "p99")
    rows = [[name, *(f"{row[p]:.1f}" if p in row else "" for p in columns)] for name, row in times.items()]
    rows += [[name, f"{value:.0f}", "", ""] for name, value in PUBLISHED.items()]
    print_table(["microseconds", *columns], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("calls", "forks", "programs"))
    parser.add_argument(
        "--count", type=int, default=5000, help="how many calls, and five times as many as clones (5000)"
    )
    parser.add_argument("--clones", type=int, default=200, help="how many clones at once (200)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program (3)")
    parser.add_argument("--size", choices=("quick", "bench"), default="bench", help="which arguments (bench)")
    parser.add_argument("--programs", help="names and groups, with commas between (all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.only in (None, "calls"):
        found["calls"] = calls(options.count)
    if options.only in (None, "forks"):
        found["forks"], found["memory"] = forks(max(options.count // 5, 1), options.clones)
    if options.only in (None, "programs"):
        found["programs"] = programs(choose(options.programs), options.rounds, options.size)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    if "calls" in found:
        _print_times(found["calls"])
    if "forks" in found:
        _print_times(found["forks"])
        print_table(
            [f"of {options.clones} clones, for each", "KiB"],
            [[name, f"{value:.1f}"] for name, value in found["memory"].items()],
        )
    if "programs" in found:
        rows = [
            [
                name,
                f"{row['native']:.3f}",
                f"{row['kvm']:.3f}",
                f"{row['ratio']:.3f}",
                str(row["system calls"]),
            ]
            for name, row in found["programs"].items()
        ]
        ratios = [row["ratio"] for row in found["programs"].values()]
        rows.append(["geometric mean", "", "", f"{geomean(ratios):.3f}", ""])
        print_table(["seconds of processor time", "native", "kvm", "ratio", "system calls"], rows)


if __name__ == "__main__":
    main()
