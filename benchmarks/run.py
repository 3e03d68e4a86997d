"""How fast the guest programs run: natively, under qemu-riscv64, and under vm. All in one run, side by side.

    python benchmarks/run.py                              # all programs, five rounds, hours
    python benchmarks/run.py --programs compute           # the twelve by which the engines are judged
    python benchmarks/run.py --quick --programs sha256,fp # smaller sizes, two rounds
    python benchmarks/run.py --columns native "jit warm" "open=--no-jit --net"
    python benchmarks/run.py --data figures.json          # keeps every sample there; when it was interrupted, goes on
    python benchmarks/run.py --data figures.json --minutes 9                 # a part at a time: status 3 until all is there
    python benchmarks/run.py --data figures.json --rounds 0 --docs docs      # writes the page and its plots from it

Every round runs every column of a program once, one after the other, so that a slow minute of the machine falls on all
of them. A figure is the median over the rounds; behind it stands the spread, half the distance from the fastest to the
slowest round in percent of the median. CPU time is user and system time of the whole process tree (so also what vm's
compiler thread or process used), wall time is from start to exit. "cold" starts with an empty code cache in a new
directory, every time, with what the wheel of vm-jit brings; "warm" is the next run with that cache (without a cold column: with a cache filled by a run that is not
counted). What a program prints must be the same in each column, else it counts as failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import (
    ROOT,
    Column,
    Failed,
    build_guests,
    choose,
    environment,
    geomean,
    installed,
    markdown_table,
    print_table,
    progress,
    run_once,
    spread,
    workplace,
)

from vm_cli import chart

COLUMNS = ("native", "qemu", "jit cold", "jit warm", "baseline warm", "interp warm")
GROUPS = {
    "compute": "the twelve compute programs",
    "fp": "floating point",
    "calls": "calls",
    "bytecode": "bytecode interpreters as guests",
}
SLOWER = "programs slower than under qemu"
SHORT = 0.02  # seconds; below this a program's native time is mostly that of starting, so ratios to it say nothing


@dataclass(slots=True)
class Data:
    """Every sample, by program and column, as it is kept in a file. Samples are pairs of seconds: wall, CPU."""

    size: str
    machine: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, size: str, revision: str | None) -> Data:
        """What is in the file, or nothing if there is none. None for the revision: of whatever size and revision it is.

        Raises:
            Failed: the figures there are of another size or revision.
        """
        if not path.exists():
            return cls(size)
        data = cls(**json.loads(path.read_text()))
        if revision is None:
            return data
        for what, there, wanted in (
            ("size", data.size, size),
            ("revision", data.machine.get("revision"), revision),
        ):
            if there != wanted:
                raise Failed(f"{path} has figures of {what} {there}, not {wanted}")
        return data

    def save(self, path: Path) -> None:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps({name: getattr(self, name) for name in self.__slots__}, indent=1))
        partial.replace(path)

    def add(self, program: str, column: str, wall: float, cpu: float) -> None:
        self.samples.setdefault(program, {}).setdefault(column, []).append([wall, cpu])

    def values(self, program: str, column: str, what: str) -> list[float]:
        at = ("wall", "cpu").index(what)
        return [sample[at] for sample in self.samples.get(program, {}).get(column, [])]

    def median(self, program: str, column: str, what: str = "cpu") -> float | None:
        values = self.values(program, column, what)
        return statistics.median(values) if values else None

    def ratio(self, program: str, column: str, base: str = "native") -> float | None:
        """CPU time of a column over that of another one; None if either is missing, or a native base is short."""
        over, under = self.median(program, column), self.median(program, base)
        if over is None or not under or (base == "native" and under < SHORT):
            return None
        return over / under

    def programs(self) -> list[str]:
        return [name for name in self.samples if name not in self.failures]

    def columns(self) -> list[str]:
        found: dict[str, None] = {}
        for name in self.programs():
            found.update(dict.fromkeys(self.samples[name]))
        order = {name: i for i, name in enumerate(COLUMNS)}
        return sorted(found, key=lambda name: order.get(name, len(order)))


class Bench:
    """Runs the columns of the programs."""

    def __init__(
        self,
        programs: Sequence[str],
        columns: Sequence[Column],
        data: Data,
        variant: str,
        timeout: float,
        caches: Path,
        deadline: float = math.inf,
    ) -> None:
        self.columns, self.data, self.timeout, self.caches = columns, data, timeout, caches
        self.deadline = deadline
        self.expected: dict[tuple[str, bool], bytes] = {}
        wanted = [variant, *("native" for c in columns if c.name == "native")]
        self.built, self.problems = build_guests.build_all(programs, wanted)
        self.variant = variant
        self.programs = [p for p in programs if (p, variant) in self.built]
        self.qemu = shutil.which("qemu-riscv64")
        self.variables = installed()

    def round(self, number: int, say: Callable[[str], None], keep: Callable[[], None]) -> bool:
        """The samples number ``number`` of every column of every program that lacks them, ``keep`` after each; whether there was
        time for that.

        A program that fails is left out from then on; the others go on.
        """
        for program in self.programs:
            if program in self.data.failures:
                continue
            missing = [c for c in self.columns if len(self.data.values(program, c.name, "cpu")) <= number]
            with workplace(program) as place:
                try:
                    for column in missing:
                        if time.monotonic() > self.deadline:
                            return False
                        say(f"round {number + 1}: {program}, {column.name}")
                        self._run(program, column, place)
                        keep()
                except Failed as error:
                    self.data.failures[program] = f"{program}, {column.name}: {error}"
                    keep()
        return True

    def _run(self, program: str, column: Column, place: Path) -> None:
        native = self.built.get((program, "native"))
        done = column.run(
            str(self.built[program, self.variant]),
            build_guests.PROGRAMS[program].args[self.data.size],
            native=None if native is None else str(native),
            qemu=self.qemu,
            caches=self.caches / program,
            cwd=place,
            timeout=self.timeout,
            variables=self.variables,
        )
        if done is None:
            return
        if self.expected.setdefault((program, column.name == "native"), done.output) != done.output:
            raise Failed("the output differs from the other columns'")
        self.data.add(program, column.name, done.wall, done.cpu)
        if done.facts:
            self.data.facts.setdefault(program, {})[column.name] = {
                "instructions": done.facts.get("instructions"),
                **done.facts.get("stats", {}),
            }


def said(*command: str) -> str:
    """The first line that a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""


def revision() -> str:
    return said("git", "describe", "--always", "--dirty", "--exclude", "*")


def machine(variant: str) -> dict[str, str]:
    """What the figures depend on."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    bare = [run_once([sys.executable, "-c", "pass"], environment(), ROOT, 60) for _ in range(9)]
    facts = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu} ({os.cpu_count()} CPUs), Linux {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "revision": revision(),
        "Python": f"{platform.python_version()}; starting it and nothing else takes "
        f"{1000 * statistics.median(r.wall for r in bare):.0f} ms, "
        f"{1000 * statistics.median(r.cpu for r in bare):.0f} ms of CPU",
        "qemu": said("qemu-riscv64", "--version") or "absent",
    }
    for what, name in (("guests built by", variant), ("native programs built by", "native")):
        with contextlib.suppress(build_guests.Unbuildable):
            made = build_guests.VARIANTS[name]
            facts[what] = f"{said(*made.compiler(), '--version')}, {' '.join(made.flags)}"
    return facts


# -- tables ---------------------------------------------------------------------------------------------------------------


def ratio_text(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.2f}"  # noqa: PLR0124 - nan


def group_table(data: Data) -> tuple[list[str], list[list[str]]]:
    """Geometric means of CPU time over native."""
    columns = [name for name in data.columns() if name != "native"]
    body = []
    members = {
        text: [p for p in data.programs() if group in build_guests.PROGRAMS[p].groups]
        for group, text in GROUPS.items()
    }
    members["all that compute"] = list(data.programs())
    for text, names in members.items():
        ratios = {c: [r for p in names if (r := data.ratio(p, c)) is not None] for c in columns}
        count = max((len(r) for r in ratios.values()), default=0)
        if count:
            body.append([f"{text} ({count})", *(ratio_text(geomean(ratios[c])) for c in columns)])
            if text == GROUPS["compute"]:
                worst = [max(ratios[c]) if ratios[c] else None for c in columns]
                body.append(["the worst of these", *map(ratio_text, worst)])
    if "qemu" in columns and body:
        over = [
            [r for p in data.programs() if data.ratio(p, c) and (r := data.ratio(p, c, "qemu"))]
            for c in columns
        ]
        body.append(
            [
                SLOWER,
                *(
                    "" if c == "qemu" else f"{sum(r > 1 for r in rs)} of {len(rs)}"
                    for c, rs in zip(columns, over, strict=True)
                ),
            ]
        )
    return ["CPU time over native, geometric mean", *columns], body


def ratio_table(data: Data) -> tuple[list[str], list[list[str]]]:
    """Each program that computes."""
    columns = [name for name in data.columns() if name != "native"]
    speeds = "interp warm" in columns
    body = []
    for name in data.programs():
        native = data.median(name, "native")
        if native is None or native < SHORT:
            continue
        marked = "**" if "compute" in build_guests.PROGRAMS[name].groups else ""
        line = [f"{marked}{name}{marked}", f"{native:.3f}"]
        line += [ratio_text(data.ratio(name, c)) for c in columns]
        if speeds:
            facts = data.facts.get(name, {}).get("interp warm", {})
            seconds, count = facts.get("seconds"), facts.get("instructions")
            line.append(f"{count / seconds / 1e6:.0f}" if seconds and count else "")
        body.append(line)
    return ["program", "native, s", *columns, *(["interp MIPS"] if speeds else [])], body


def seconds_table(data: Data, what: str) -> tuple[list[str], list[list[str]]]:
    columns = data.columns()
    body = []
    for name in data.programs():
        line = [name]
        for column in columns:
            values = data.values(name, column, what)
            line.append(f"{statistics.median(values):.3f} ±{spread(values):.0f}%" if values else "")
        body.append(line)
    return [f"{what} seconds", *columns], body


def start_table(data: Data) -> tuple[list[str], list[list[str]]]:
    """The programs that natively take next to nothing."""
    columns = data.columns()
    body = []
    for name in data.programs():
        native = data.median(name, "native")
        if native is not None and native >= SHORT:
            continue
        for what in ("cpu", "wall"):
            times = (data.median(name, c, what) for c in columns)
            body.append([f"{name}, {what}", *("" if t is None else f"{1000 * t:.1f}" for t in times)])
    return ["milliseconds", *columns], body


TABLES: dict[str, Callable[[Data], tuple[list[str], list[list[str]]]]] = {
    "Summary": group_table,
    "Programs": ratio_table,
    "Starting, and code that runs once": start_table,
    "CPU time": lambda data: seconds_table(data, "cpu"),
    "Wall time": lambda data: seconds_table(data, "wall"),
}
NOTES = {
    "Summary": "Below 1 is faster than the native build. ![Geometric means](images/benchmarks-groups.svg)",
    "Programs": "CPU time over native. The twelve compute programs are bold. ![Programs](images/benchmarks-programs.svg)",
    "Starting, and code that runs once": "`hello` is what starting costs. `flat` is 340 KiB of code, nearly all of it run "
    "and each part a few times only.",
    "CPU time": "User and system time of the whole process tree, median ± half the range.",
    "Wall time": "From start to exit, median ± half the range.",
}


def charts(data: Data) -> dict[str, str]:
    """SVG text by file name."""
    columns = [name for name in data.columns() if name != "native"]
    axis = "CPU time over native (logarithmic; 1 = native)"
    rows = {
        name: {c: r for c in columns if (r := data.ratio(name, c)) is not None} for name in data.programs()
    }
    head, body = group_table(data)
    groups = {
        line[0].split(" (")[0]: {c: float(v) for c, v in zip(head[1:], line[1:], strict=True) if v}
        for line in body
        if line[0] != SLOWER
    }
    return {
        "benchmarks-programs.svg": chart.bars(
            "Programs", axis, columns, {name: row for name, row in rows.items() if row}
        ),
        "benchmarks-groups.svg": chart.bars("Geometric means", axis, columns, groups),
    }


def page(data: Data) -> str:
    """docs/benchmarks.md."""
    rounds = {
        len(data.values(p, c, "cpu"))
        for p in data.programs()
        for c in data.columns()
        if data.values(p, c, "cpu")
    }
    text = "# Benchmarks\n\n"
    text += "Written by `python benchmarks/run.py` ([how it measures](../benchmarks/README.md)): "
    counts = "–".join(map(str, sorted({min(rounds), max(rounds)})))
    text += f"size {data.size}, medians over rounds ({counts}).\n\n"
    text += "\n".join(f"- {key}: {value}" for key, value in data.machine.items()) + "\n"
    for title, table in TABLES.items():
        head, body = table(data)
        if body:
            text += f"\n## {title}\n\n{markdown_table(head, body)}\n{NOTES[title]}\n"
    if data.failures:
        text += "\n## Not measured\n\n" + "".join(f"- {why}\n" for why in data.failures.values())
    return text


def write_docs(data: Data, docs: Path) -> None:
    (docs / "images").mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text(page(data))
    for name, text in charts(data).items():
        (docs / "images" / name).write_text(text)


def summary(data: Data) -> Mapping[str, Any]:
    """What --json prints: the samples, and what the tables say."""
    tables = {title: dict(zip(("head", "body"), table(data), strict=True)) for title, table in TABLES.items()}
    return {name: getattr(data, name) for name in data.__slots__} | {"tables": tables}


def caches_of(data: Path) -> Path:
    """Where the caches are kept until all samples of a file are there."""
    return data.with_name(data.name + ".caches")


@contextlib.contextmanager
def keeping(data: Path | None) -> Iterator[Path]:
    """A directory for caches: for as long as ``data`` is not complete, else for this run."""
    if data is not None:
        caches_of(data).mkdir(exist_ok=True)
        yield caches_of(data)
        return
    with tempfile.TemporaryDirectory(prefix="vm-bench-caches-") as place:
        yield Path(place)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status 1: a program failed or printed something else than in another column; 3: --minutes are over."""
    parser = argparse.ArgumentParser(
        description="Time the guest programs natively, under qemu-riscv64 and under vm."
    )
    groups = sorted({g for p in build_guests.PROGRAMS.values() for g in p.groups})
    parser.add_argument("--programs", help=f"comma-separated names and groups ({', '.join(groups)}); all")
    parser.add_argument(
        "--rounds", type=int, help="runs of each column, with those in --data (5); 0: no more"
    )
    parser.add_argument("--size", choices=("tiny", "small", "quick", "bench"), help="how much work (bench)")
    parser.add_argument("--quick", action="store_true", help="the same as --size quick --rounds 2")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=COLUMNS,
        help="native, qemu, ENGINE cold, ENGINE warm, or NAME=OPTIONS of vm run (%(default)s)",
    )
    variants = sorted(set(build_guests.VARIANTS) - {"native"})
    parser.add_argument("--variant", default="O2", choices=variants, help="guest build (O2)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run (300)")
    parser.add_argument(
        "--data",
        type=Path,
        help="file that keeps the samples: what is in it is not run again, up to --rounds",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="stop after so many, with status 3; the same command with --data goes on",
    )
    parser.add_argument("--docs", type=Path, help="write benchmarks.md and images/ into this directory")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(arguments)
    rounds = options.rounds if options.rounds is not None else (2 if options.quick else 5)
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    finished = True
    try:
        programs = choose(options.programs)
        columns = [Column.parse(text) for text in options.columns]
        size = options.size or ("quick" if options.quick else "bench")
        data = Data(size)
        if options.data:
            data = Data.load(options.data, size, revision() if rounds > 0 else None)
        if rounds > 0:
            data.failures.clear()
            data.machine = data.machine or machine(options.variant)
            with keeping(options.data) as caches, progress() as say:
                say("building the programs")
                bench = Bench(programs, columns, data, options.variant, options.timeout, caches, deadline)
                for problem in bench.problems:
                    print(f"benchmarks: {problem}", file=sys.stderr)

                def keep() -> None:
                    if options.data:
                        data.save(options.data)

                finished = all(bench.round(number, say, keep) for number in range(rounds))
            if finished and options.data:
                shutil.rmtree(caches_of(options.data), ignore_errors=True)
    except Failed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if not data.programs():
        print("benchmarks: nothing was measured", *data.failures.values(), sep="\n", file=sys.stderr)
        return 1
    if options.docs:
        write_docs(data, options.docs)
    if options.json:
        print(json.dumps(summary(data), indent=1))
    else:
        for key, value in data.machine.items():
            print(f"{key}: {value}")
        for title, table in TABLES.items():
            head, body = table(data)
            if body:
                print(f"\n{title}")
                print_table(head, body)
    for failure in data.failures.values():
        print(f"benchmarks: {failure}", file=sys.stderr)
    if not finished:
        print("benchmarks: not finished; the same command goes on", file=sys.stderr)
        return 3
    return 1 if data.failures else 0


if __name__ == "__main__":
    sys.exit(main())
