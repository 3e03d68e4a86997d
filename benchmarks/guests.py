"""Many guests in one process against one guest a core: throughput, and host memory for each guest.

    python benchmarks/guests.py                                 # 1,000 guests of nbody, four minutes of CPU time a round
    python benchmarks/guests.py --guests 200 --program bytecode --size 4000 --json

*one a core* runs one guest in each of as many processes as there are CPUs; each does as much as its share of the others
together, so the work is the same. *together* adds all guests to one vm_core.Scheduler with one worker a CPU, and waits
for all. Both start with a warm code cache. Throughput is guest instructions a second from the start of the first guest to the
end of the last, making and closing guests included; by wall time, and by CPU time (of the process and its children), which
other work on the machine does not change. The rounds are interleaved, a ratio is the median of theirs.

The memory of a guest is measured when all of them are alive and have run, against the same process before the first: the
proportional set size (PSS) without the pages of the guests' arenas, the host's page tables, and what Python has allocated.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import build_guests  # noqa: E402 - found beside this directory, not installed


def cpu_seconds() -> float:
    """Of this process and its children that are over."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def pss(arenas: list[tuple[int, int]]) -> int:
    """Bytes of this process's memory outside ``arenas``, shared pages counted by their share."""
    arenas = sorted(arenas)
    total = 0
    theirs = False
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as file:
        for line in file:
            head = line.split(" ", 1)[0]
            if head == "Pss:":
                total += 0 if theirs else int(line.split()[1]) * 1024
            elif not head.endswith(":"):
                start, end = (int(part, 16) for part in head.split("-"))
                # Their guard zones keep the kernel from merging them with what lies beside.
                before = bisect.bisect_right(arenas, (start, 1 << 64)) - 1
                theirs = before >= 0 and end <= arenas[before][1]
    return total


def page_tables() -> int:
    """Bytes of the host's page tables for this process."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmPTE"))


def together(command: list[str], count: int, workers: int, *, memory: bool) -> dict[str, Any]:
    """Run the guests in a scheduler."""
    import vm_core

    # The engine, the modules and the caches are there before the first guest is.
    vm_core.run(command, stdout=vm_core.runner.DEVNULL, timeout=1)
    before = pss([]), page_tables()
    traced = 0
    if memory:
        import tracemalloc

        tracemalloc.start()
    out: dict[str, Any] = {}
    cpu, begin = cpu_seconds(), time.perf_counter()
    with vm_core.Scheduler(workers=workers) as scheduler:
        guests = [scheduler.add(command, stdout=vm_core.runner.DEVNULL) for _ in range(count)]
        out["add_seconds"] = time.perf_counter() - begin
        if memory:
            while True:
                processes = [guest.process for guest in guests]
                alive = [process for process in processes if process is not None]
                if len(alive) < count:
                    raise SystemExit("the guests end too soon to be measured at once: raise --size")
                if all(process.instructions for process in alive):
                    break
                time.sleep(0.02)
            traced = tracemalloc.get_traced_memory()[0]
            arenas = [
                (process.memory.host_address, process.memory.host_address + process.memory.size)
                for process in alive
            ]
            out["pss_per_guest"] = (pss(arenas) - before[0]) / count
            out["page_tables_per_guest"] = (page_tables() - before[1]) / count
            out["python_per_guest"] = traced / count
            out["descriptors_per_guest"] = len(os.listdir("/proc/self/fd")) / count
            out["host_threads"] = len(os.listdir("/proc/self/task"))
            for guest in guests:
                guest.stop()
    out["wall"] = time.perf_counter() - begin
    out["cpu"] = cpu_seconds() - cpu
    results = [guest.result() for guest in guests]
    if not memory and any(result.returncode for result in results):
        raise SystemExit(f"a guest failed: {next(r for r in results if r.returncode)}")
    out["instructions"] = sum(result.instructions for result in results)
    return out


def alone(command: list[str]) -> dict[str, Any]:
    """Run one guest."""
    import vm_core

    cpu, begin = cpu_seconds(), time.perf_counter()
    result = vm_core.run(command, stdout=vm_core.runner.DEVNULL)
    wall, used = time.perf_counter() - begin, cpu_seconds() - cpu
    if result.returncode:
        raise SystemExit(f"the guest failed: {result}")
    return {"instructions": result.instructions, "wall": wall, "cpu": used}


def spawn(role: str, command: list[str], env: dict[str, str], *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--role", role, *more, "--", *command],
        stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    text, _ = child.communicate()
    if child.returncode:
        raise SystemExit(child.returncode)
    found: dict[str, Any] = json.loads(text)
    return found


def rate(figures: dict[str, Any], seconds: str) -> float:
    return float(figures["instructions"] / figures[seconds])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guests", type=int, default=1000)
    parser.add_argument(
        "--program",
        default="nbody",
        help="a program of guests/ whose argument is its size, and whose memory it does not change",
    )
    parser.add_argument(
        "--size", type=int, help="its argument, for each guest (default: four times its quick size)"
    )
    parser.add_argument("--variant", default="O2")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=("together", "memory", "alone"), help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "alone":
        print(json.dumps(alone(options.command)))
        return
    if options.role:
        figures = together(options.command, options.guests, options.workers, memory=options.role == "memory")
        print(json.dumps(figures))
        return

    programs = tomllib.loads((ROOT / "guests" / "programs.toml").read_text(encoding="utf-8"))
    size = options.size or 4 * int(programs[options.program]["args"]["quick"][0])
    program = str(build_guests.build(options.program, options.variant))
    small, large = [program, str(size)], [program, str(size * options.guests // options.workers)]
    longer = [program, str(size * 8)]  # so that all are still there when the last has run
    counts = ["--guests", str(options.guests), "--workers", str(options.workers)]
    with tempfile.TemporaryDirectory() as directory:
        env = {**os.environ, "VM_CACHE_DIR": directory}
        for command in (longer, small, small):  # what fills the cache does not depend on the size
            answer(spawn("alone", command, env))
        memory = answer(spawn("memory", longer, env, *counts))
        rounds: list[dict[str, Any]] = []
        for _ in range(options.rounds):
            children = [spawn("alone", large, env) for _ in range(options.workers)]
            ones = [answer(child) for child in children]
            many = answer(spawn("together", small, env, *counts))
            rounds.append(
                {
                    "together": many,
                    "alone": ones,
                    "wall_ratio": rate(many, "wall") / sum(rate(one, "wall") for one in ones),
                    "cpu_ratio": rate(many, "cpu") / statistics.mean(rate(one, "cpu") for one in ones),
                }
            )
    out: dict[str, Any] = {
        "guests": options.guests, "workers": options.workers, "program": options.program, "size": size,
        "wall_ratio": statistics.median(one["wall_ratio"] for one in rounds),
        "cpu_ratio": statistics.median(one["cpu_ratio"] for one in rounds),
        "memory": memory, "rounds": rounds,
    }  # fmt: skip
    if options.json:
        print(json.dumps(out, indent=1))
        return
    many = rounds[-1]["together"]
    print(f"{options.guests} guests of {options.program} {size} on {options.workers} workers")
    print(
        f"  throughput  {rate(many, 'wall') / 1e9:.2f} G instructions/s, {rate(many, 'cpu') / 1e9:.2f} a CPU second"
    )
    print(f"  of one guest a core: {out['wall_ratio']:.3f} by wall time, {out['cpu_ratio']:.3f} by CPU time")
    print(f"  adding a guest: {many['add_seconds'] / options.guests * 1e3:.2f} ms")
    for name, key in (
        ("memory", "pss_per_guest"),
        ("page tables", "page_tables_per_guest"),
        ("of Python", "python_per_guest"),
    ):
        print(f"  {name} a guest beyond its own: {memory[key] / 1024:.1f} KiB")
    print(
        f"  descriptors a guest: {memory['descriptors_per_guest']:.1f}; host threads: {memory['host_threads']}"
    )


if __name__ == "__main__":
    main()
