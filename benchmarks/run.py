"""How fast the guest programs run: natively, under qemu-riscv64, and under vm. All in one run, side by side.

    python benchmarks/run.py                              # the twelve programs, five rounds, about half an hour
    python benchmarks/run.py --quick                      # smaller sizes, two rounds: minutes
    python benchmarks/run.py --programs sha256,nbody --rounds 3 --engines jit,interp
    python benchmarks/run.py --compare /other/venv/bin/python     # this checkout against another one's vm
    python benchmarks/run.py --json > out.json;  python benchmarks/run.py --markdown out.md

Every round runs every column of a program once, one after the other, so that a slow minute of the machine falls on all
of them. A figure is the median over the rounds; behind it stands the spread, half the distance from the fastest to the
slowest round in percent of the median. CPU time is that of the whole process tree (so also what vm's compiler thread or
process used), wall time is from start to exit. "cold" starts with an empty code cache in a new directory, every time;
"warm" is the next run with that cache. The interpreter alone is measured on the smaller size, as instructions per second
inside the engine. What a program prints must be the same in each column, else it counts as failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib.util
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import build_guests  # noqa: E402 - found beside this directory, not installed

ENGINES = ("jit", "interp", "reference")


class Failed(Exception):
    """A run that went wrong, so that its time means nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. Seconds."""

    wall: float
    cpu: float


@dataclass(slots=True)
class Figure:
    """All rounds of one column of one program."""

    samples: list[Sample] = field(default_factory=list)

    def median(self, what: str) -> float:
        return float(statistics.median(getattr(s, what) for s in self.samples))

    def spread(self, what: str) -> float:
        """Half the range in percent of the median."""
        values = [getattr(s, what) for s in self.samples]
        middle = statistics.median(values)
        return 50 * (max(values) - min(values)) / middle if middle else 0.0


def run_once(
    command: Sequence[str], env: dict[str, str], cwd: str, timeout: float
) -> tuple[Sample, bytes, bytes, int]:
    """Run a command; its times with those of all its descendants, its output and its exit status."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd)
        deadline = start + timeout
        # wait4 gives the usage of this child and what it waited for, where getrusage would add up all children.
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG if timeout < math.inf else 0)
            if pid:
                break
            if time.perf_counter() > deadline:
                child.kill()
                child.wait()
                raise Failed(f"no end after {timeout:g} s: {' '.join(map(str, command))}")
            time.sleep(0.0005)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait again
        out.seek(0)
        err.seek(0)
        return Sample(wall, usage.ru_utime + usage.ru_stime), out.read(), err.read(), child.returncode


@dataclass(frozen=True, slots=True)
class Settings:
    programs: tuple[str, ...]
    rounds: int
    size: str
    engines: tuple[str, ...]
    compare: str | None
    variant: str
    timeout: float


class Bench:
    """Runs the columns of each program and keeps the figures, by program and column."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.say = say
        self.qemu = shutil.which("qemu-riscv64")
        self.figures: dict[str, dict[str, Figure]] = {name: {} for name in settings.programs}
        self.mips: dict[str, list[float]] = {name: [] for name in settings.programs}
        self.instructions: dict[str, int] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.expected: dict[tuple[str, ...], bytes] = {}
        self.failures: dict[str, str] = {}
        built, problems = build_guests.build_all(settings.programs, (settings.variant, "native"))
        self.paths = {key: str(path) for key, path in built.items()}
        self.problems = problems
        if missing := [p for p in settings.programs if (p, settings.variant) not in built]:
            raise Failed(f"cannot build {missing[0]}: {'; '.join(problems)}")

    def columns(self) -> list[str]:
        names = ["native"] if ("hello", "native") in self.paths or self._has_native() else []
        if self.qemu:
            names.append("qemu")
        for engine in self.settings.engines:
            names += [f"{engine} cold", f"{engine} warm"]
        if self.settings.compare:
            names += ["other cold", "other warm"]
        return names

    def _has_native(self) -> bool:
        return all((p, "native") in self.paths for p in self.settings.programs)

    def _vm(self, python: str, engine: str, program: str, arguments: list[str]) -> list[str]:
        return [python, "-m", "vm_cli", "run", "--engine", engine, "--json", "--", program, *arguments]

    def _record(
        self, program: str, column: str, command: Sequence[str], env: dict[str, str], cwd: str
    ) -> dict[str, Any]:
        sample, out, err, status = run_once(command, env, cwd, self.settings.timeout)
        if status != 0:
            raise Failed(
                f"{program}, {column}: exit status {status}: {err.decode(errors='replace').strip()[-300:]}"
            )
        key = (program, "native" if column == "native" else "guest")
        if self.expected.setdefault(key, out) != out:
            raise Failed(f"{program}, {column}: the output differs from the other columns'")
        self.figures[program].setdefault(column, Figure()).samples.append(sample)
        facts: dict[str, Any] = {}
        for line in err.decode(errors="replace").splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    facts = json.loads(line)
        return facts

    def round(self, number: int) -> None:
        """Every column of every program once. A program that fails is left out from then on; the others go on."""
        for program in self.settings.programs:
            if program in self.failures:
                continue
            self.say(f"round {number + 1} of {self.settings.rounds}: {program}")
            with tempfile.TemporaryDirectory(prefix="vm-bench-") as place:
                try:
                    self._program(program, place)
                except Failed as error:
                    self.failures[program] = str(error)

    def _program(self, program: str, place: str) -> None:
        arguments = build_guests.PROGRAMS[program].args[self.settings.size]
        guest = self.paths[program, self.settings.variant]
        env = {key: value for key, value in os.environ.items() if not key.startswith("VM_")}
        columns = self.columns()
        if "native" in columns:
            self._record(program, "native", [self.paths[program, "native"], *arguments], env, place)
        if self.qemu:
            self._record(program, "qemu", [self.qemu, guest, *arguments], env, place)
        for engine in self.settings.engines:
            cache = dict(env, VM_CACHE_DIR=str(Path(place) / f"cache-{engine}"))
            for state in ("cold", "warm"):
                command = self._vm(sys.executable, engine, guest, arguments)
                facts = self._record(program, f"{engine} {state}", command, cache, place)
                self.instructions[program] = facts.get("instructions", 0)
                self.facts.setdefault(program, {})[f"{engine} {state}"] = facts.get("stats", {})
        if self.settings.compare:
            other = dict(env, VM_CACHE_DIR=str(Path(place) / "cache-other"))
            other.pop("PYTHONPATH", None)  # it would bring this checkout into the other one's run
            for state in ("cold", "warm"):
                command = self._vm(self.settings.compare, self.settings.engines[0], guest, arguments)
                self._record(program, f"other {state}", command, other, place)
        self._interpreter(program, guest, dict(env, VM_CACHE_DIR=str(Path(place) / "cache-interp")), place)

    def _interpreter(self, program: str, guest: str, env: dict[str, str], place: str) -> None:
        """Instructions per second of the interpreter alone, on the smaller size; the first run fills the cache."""
        arguments = build_guests.PROGRAMS[program].args["quick"]
        if program == "hello":
            return
        for measured in (False, True):
            small = arguments if measured else build_guests.PROGRAMS[program].args["tiny"]
            command = self._vm(sys.executable, "interp", guest, small)
            _, _, err, status = run_once(command, env, place, self.settings.timeout)
            if status != 0:
                raise Failed(
                    f"{program}, interpreter: exit status {status}: {err.decode(errors='replace').strip()[-300:]}"
                )
            facts = json.loads(err.decode().strip().splitlines()[-1])
        seconds = facts["stats"]["seconds"]
        if seconds > 0:
            self.mips[program].append(facts["instructions"] / seconds / 1e6)


def geomean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values and min(values) > 0 else math.nan


def report(bench: Bench) -> dict[str, Any]:
    """Everything that was measured, as JSON can hold it."""
    programs: dict[str, Any] = {}
    warm = f"{bench.settings.engines[0]} warm"
    for name in bench.settings.programs:
        if name in bench.failures:
            continue
        figures = bench.figures[name]
        row: dict[str, Any] = {
            column: {
                what: {"median": figure.median(what), "spread_percent": figure.spread(what)}
                for what in ("wall", "cpu")
            }
            | {"samples": [asdict(s) for s in figure.samples]}
            for column, figure in figures.items()
        }
        ratios: dict[str, float] = {}
        if warm in figures:
            ours = figures[warm].median("wall")
            for column in ("native", "qemu", "other warm"):
                if column in figures:
                    ratios[f"{warm} / {column}"] = ours / figures[column].median("wall")
                    cpu = figures[column].median("cpu")
                    if cpu > 0:
                        ratios[f"{warm} / {column}, CPU"] = figures[warm].median("cpu") / cpu
        programs[name] = {
            "columns": row,
            "ratios": ratios,
            "interpreter_mips": statistics.median(bench.mips[name]) if bench.mips[name] else None,
            "instructions": bench.instructions.get(name),
            "stats": bench.facts.get(name),
        }
    compute = [n for n in programs if n != "hello"]
    keys = {key for n in compute for key in programs[n]["ratios"]}
    means = {
        key: geomean([programs[n]["ratios"][key] for n in compute if key in programs[n]["ratios"]])
        for key in sorted(keys)
    }
    mips = [programs[n]["interpreter_mips"] for n in compute if programs[n]["interpreter_mips"]]
    beaten = f"{warm} / qemu"
    return {
        "machine": machine(bench),
        "settings": asdict(bench.settings),
        "programs": programs,
        "failures": bench.failures,
        "geomean": means,
        "interpreter_mips_geomean": geomean(mips) if mips else None,
        "faster_than_qemu": [n for n in compute if programs[n]["ratios"].get(beaten, 2) < 1],
    }


def machine(bench: Bench) -> dict[str, str]:
    """What the figures depend on."""

    def said(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        except (OSError, subprocess.CalledProcessError):
            return ""
        return done.stdout.splitlines()[0].strip() if done.stdout else ""

    cpu = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    facts = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{cpu} ({os.cpu_count()} CPUs)",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "revision": said("git", "describe", "--always", "--dirty"),
        "qemu": said(bench.qemu, "--version") if bench.qemu else "absent",
    }
    with contextlib.suppress(build_guests.Unbuildable):
        facts["compiler"] = said(*build_guests.VARIANTS[bench.settings.variant].compiler(), "--version")
    return facts


def rows(result: dict[str, Any], columns: list[str]) -> tuple[list[str], list[list[str]]]:
    """The table: times as median ± spread, then the ratios of the first engine, warm."""
    engine = result["settings"]["engines"][0]
    warm = f"{engine} warm"
    ratio_keys = [f"{warm} / {c}" for c in ("native", "qemu", "other warm") if c in columns]
    head = ["program", *columns, *(f"{key.split(' / ')[1]} ratio" for key in ratio_keys), "interp MIPS"]
    body = []
    for name, row in result["programs"].items():
        line = [name]
        for column in columns:
            wall, cpu = row["columns"][column]["wall"], row["columns"][column]["cpu"]
            line.append(f"{wall['median']:.3f} ±{wall['spread_percent']:.0f}% ({cpu['median']:.2f})")
        line += [f"{row['ratios'][key]:.2f}" if key in row["ratios"] else "" for key in ratio_keys]
        line.append(f"{row['interpreter_mips']:.0f}" if row["interpreter_mips"] else "")
        body.append(line)
    last = ["geomean", *([""] * len(columns))]
    last += [f"{result['geomean'][key]:.2f}" if key in result["geomean"] else "" for key in ratio_keys]
    last.append(f"{result['interpreter_mips_geomean']:.0f}" if result["interpreter_mips_geomean"] else "")
    body.append(last)
    return head, body


LEGEND = (
    "Seconds of wall time, median ± half the range (CPU seconds of the process tree). A ratio is the time of the first "
    "engine, warm, over that column's: below 1 is faster. The geometric means leave hello out."
)


def as_markdown(result: dict[str, Any], columns: list[str]) -> str:
    head, body = rows(result, columns)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(line) + " |" for line in body]
    facts = "\n".join(f"- {key}: {value}" for key, value in result["machine"].items())
    return f"{facts}\n\n" + "\n".join(lines) + f"\n\n{LEGEND}\n"


def show(result: dict[str, Any], columns: list[str]) -> None:
    """A table on the terminal: rich's where it is installed and there is a terminal, else plain text."""
    head, body = rows(result, columns)
    for key, value in result["machine"].items():
        print(f"{key}: {value}")
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.table import Table

        table = Table(*head)
        for column in table.columns[1:]:
            column.justify = "right"
        for line in body[:-1]:
            table.add_row(*line)
        table.add_section()
        table.add_row(*body[-1], style="bold")
        Console().print(table)
    else:
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        for line in [head, *body]:
            print(
                "  ".join(
                    cell.rjust(w) if i else cell.ljust(w)
                    for i, (cell, w) in enumerate(zip(line, widths, strict=True))
                )
            )
    print(LEGEND)
    compute = [n for n in result["programs"] if n != "hello"]
    if "qemu" in columns and compute:
        print(f"Faster than qemu-riscv64: {len(result['faster_than_qemu'])} of {len(compute)}.")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on the standard error that is rewritten, where that is a terminal."""
    terminal = sys.stderr.isatty()

    def say(text: str) -> None:
        if terminal:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    yield say
    if terminal:
        sys.stderr.write("\r\033[K")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status 1: a program failed or printed something else than in another column."""
    parser = argparse.ArgumentParser(
        description="Time the guest programs natively, under qemu-riscv64 and under vm."
    )
    chosen = [name for name, program in build_guests.PROGRAMS.items() if program.bench]
    parser.add_argument(
        "--programs", default=",".join(["hello", *chosen]), help=f"comma-separated (hello,{','.join(chosen)})"
    )
    parser.add_argument("--rounds", type=int, help="runs of each column (5)")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and two rounds")
    parser.add_argument(
        "--engines", default="jit", help="engines of vm to time cold and warm, comma-separated (jit)"
    )
    parser.add_argument(
        "--variant",
        default="O2",
        choices=sorted(set(build_guests.VARIANTS) - {"native"}),
        help="guest build (O2)",
    )
    parser.add_argument("--compare", metavar="PYTHON", help="a Python in which another vm is installed")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run (300)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    options = parser.parse_args(arguments)
    programs = tuple(options.programs.split(","))
    engines = tuple(options.engines.split(","))
    for name in programs:
        if name not in build_guests.PROGRAMS:
            parser.error(f"no guest program named {name!r}")
        if "quick" not in build_guests.PROGRAMS[name].args:
            parser.error(f"{name} is not for timing")
    for engine in engines:
        if engine not in ENGINES:
            parser.error(f"no engine named {engine!r} ({', '.join(ENGINES)})")
    rounds = options.rounds or (2 if options.quick else 5)
    settings = Settings(
        programs,
        rounds,
        "quick" if options.quick else "bench",
        engines,
        options.compare,
        options.variant,
        options.timeout,
    )
    try:
        bench = Bench(settings, lambda text: None)
        for problem in bench.problems:
            print(f"benchmarks: {problem}", file=sys.stderr)
        with progress() as say:
            bench.say = say
            for number in range(rounds):
                bench.round(number)
    except Failed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    result = report(bench)
    columns = bench.columns()
    if options.markdown:
        options.markdown.write_text(as_markdown(result, columns))
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result, columns)
    for failure in bench.failures.values():
        print(f"benchmarks: {failure}", file=sys.stderr)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
