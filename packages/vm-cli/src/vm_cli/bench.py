"""``vm bench``: one program run in every way there is here, alternately, and how the times compare."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vm_cli.facts import time_rows
from vm_cli.measure import Column, Failed, Run, spread
from vm_cli.options import BENCH_OPTIONS, RunLine, help_text, parse_run
from vm_cli.settings import row_named
from vm_core.errors import HostError, UsageError

__all__ = ["Comparison", "bench_command", "compare"]

_COLUMNS: Final = ("native", "qemu", "jit cold", "jit warm", "baseline warm", "interp warm")
_ABOUT: Final = """\
Run a program several times natively, under qemu and under vm's engines, cold and warm, alternately, and compare the times: medians
and half the range of the rounds. Other options are for vm run. Processor time is that of the whole process tree. The program's output
is not shown; it must be the same each time, as its exit status must. Cold is with an empty cache."""
_TIMEOUT: Final = 3600.0


@dataclass(slots=True)
class Comparison:
    """The runs of each column by its name, in the order in which they are shown. Ratios are to ``base``."""

    program: list[str]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The column that the others are compared with: the native one, else qemu's, else the first."""
        return next((name for name in ("native", "qemu") if name in self.runs), next(iter(self.runs), ""))

    def values(self, column: str, what: str) -> list[float]:
        """Seconds of each round; ``what`` is "cpu" or "wall"."""
        return [getattr(run, what) for run in self.runs[column]]

    def median(self, column: str, what: str) -> float:
        return statistics.median(self.values(column, what))

    def ratio(self, column: str, what: str = "cpu") -> float | None:
        """The median over the base's."""
        base = self.median(self.base, what)
        return self.median(column, what) / base if base else None

    def phases(self, column: str) -> list[tuple[str, float, str]]:
        """As time_rows, for the round whose wall time is the median (the lower one of two); nothing for what is not vm."""
        runs = sorted(self.runs[column], key=lambda run: run.wall)
        facts = runs[(len(runs) - 1) // 2].facts
        return time_rows(facts) if "stats" in facts else []

    def speed(self, column: str) -> float | None:
        """Guest instructions for each second in the engine."""
        speeds = [
            run.facts["instructions"] / run.facts["stats"]["seconds"]
            for run in self.runs[column]
            if run.facts.get("stats", {}).get("seconds")
        ]
        return statistics.median(speeds) if speeds else None

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "program": self.program,
            "base": self.base,
            "absent": self.absent,
            "columns": [
                {
                    "name": name,
                    **{
                        what: {
                            "median": self.median(name, what),
                            "spread_percent": spread(self.values(name, what)),
                            "samples": self.values(name, what),
                            "ratio": self.ratio(name, what),
                        }
                        for what in ("cpu", "wall")
                    },
                    "instructions_per_second": self.speed(name),
                    "phases": [
                        {"phase": phase, "seconds": spent, "remark": remark}
                        for phase, spent, remark in self.phases(name)
                    ],
                }
                for name in self.runs
            ],
        }

    def svg(self) -> str:
        """Bars of the ratios."""
        from vm_cli import chart

        names = [name for name in self.runs if name != self.base]
        rows = {
            text: {name: ratio for name in names if (ratio := self.ratio(name, what))}
            for text, what in (("processor time", "cpu"), ("wall time", "wall"))
        }
        title = " ".join([os.path.basename(self.program[0]), *self.program[1:]])
        return chart.bars(title, f"times {self.base}'s (logarithmic)", names, rows)


def bench_command(words: Sequence[str]) -> int:
    """``vm bench``: the table, or with ``--json`` everything, on standard output. Exit status 0, or 125 if a run failed."""
    line = parse_run(words, more=BENCH_OPTIONS)
    if line.help:
        print(help_text("vm bench [OPTIONS] [--] PROGRAM [ARGUMENTS]...", _ABOUT, BENCH_OPTIONS))
        return 0
    if not line.program:
        raise UsageError("no program is named", hint="vm bench [OPTIONS] PROGRAM [ARGUMENTS]...")
    wanted = _options(line)
    with _progress() as say:
        found = compare(
            line.program,
            wanted.columns,
            rounds=wanted.rounds,
            native=wanted.native,
            options=_for_run(line),
            say=say,
        )
    if wanted.output is not None:
        try:
            Path(wanted.output).write_text(found.svg())
        except OSError as error:
            raise HostError(f"{wanted.output}: {error.strerror}") from None
    if line.json:
        print(json.dumps(found.facts(), indent=2))
    else:
        from vm_cli.show import show_bench

        show_bench(found)
        if wanted.output is not None:
            print(f"vm: written: {wanted.output}", file=sys.stderr)
    return 0


@dataclass(slots=True)
class _Wanted:
    columns: list[Column] = field(default_factory=list)
    rounds: int = 5
    native: str | None = None
    output: str | None = None


def _options(line: RunLine) -> _Wanted:
    """What the command's own options say. Raises UsageError."""
    wanted = _Wanted()
    for name, value in line.more:
        if name == "native":
            if not os.access(value, os.X_OK):
                raise UsageError(f"--native: {value!r} is no program")
            wanted.native = value if os.sep in value else os.path.join(".", value)
        elif name == "rounds":
            if not value.isdecimal() or not 1 <= int(value) <= 1000:
                raise UsageError(f"--rounds: {value!r} is no number from 1 to 1000")
            wanted.rounds = int(value)
        elif name == "output":
            if not value.endswith(".svg"):
                raise UsageError(f"--output: {value!r} does not end in .svg")
            wanted.output = value
        else:
            try:
                wanted.columns.append(Column.parse(value))
            except Failed as error:
                raise UsageError(f"--column: {error}") from None
    names = [column.name for column in wanted.columns]
    if len(set(names)) < len(names):
        raise UsageError("--column: two of them have one name")
    wanted.columns = wanted.columns or [Column.parse(name) for name in _COLUMNS]
    return wanted


def _for_run(line: RunLine) -> list[str]:
    """The options of ``vm run`` on the command line, to be handed on. Raises UsageError for those that make no sense here."""
    out = []
    for name, value, spelling in line.flags:
        if name in ("engine", "jit", "cache_dir", "stats") or name.startswith(("strace", "trace")):
            raise UsageError(
                f"{spelling} is not for vm bench", hint="--column NAME=OPTIONS gives one column options"
            )
        out += [spelling] if row_named(name).kind.is_flag else [spelling, value]
    if line.argv0 is not None:
        out += ["--argv0", line.argv0]
    return out


def compare(
    program: Sequence[str],
    columns: Sequence[Column],
    *,
    rounds: int,
    native: str | None = None,
    options: Sequence[str] = (),
    say: Callable[[int, int, str], None] = lambda _done, _all, _what: None,
) -> Comparison:
    """Run a program ``rounds`` times in each of some ways, one after the other. ``native`` is the same program for this host;
    ``options`` are for ``vm run``; ``say`` is told how many runs of how many are done, and which one comes.

    Raises:
        Failed: two runs printed, or ended, differently.
        LoadError: not a program for vm.
    """
    from vm_core.loader import machine_of

    path, *arguments = program
    name = f"qemu-{machine_of(path)}"
    qemu = shutil.which(name)
    out = Comparison(list(program))
    here = []
    for column in columns:
        if column.name == "native" and column.options is None and native is None:
            out.absent["native"] = "--native PATH names the same program built for this host"
        elif column.name == "qemu" and column.options is None and qemu is None:
            out.absent["qemu"] = f"{name} is not installed"
        else:
            here.append(column)
    if not here:
        raise UsageError("there is nothing to run", hint="; ".join(out.absent.values()))
    first: dict[bool, tuple[str, Run]] = {}
    with tempfile.TemporaryDirectory(prefix="vm-bench-") as place:
        for number in range(rounds):
            for index, column in enumerate(here):
                say(number * len(here) + index, rounds * len(here), column.name)
                done = column.run(
                    os.path.abspath(path),
                    arguments,
                    native=native,
                    qemu=qemu,
                    caches=Path(place),
                    cwd=".",
                    timeout=_TIMEOUT,
                    options=options,
                    check=False,
                )
                assert done is not None
                # What a program prints may depend on the machine.
                other, same = first.setdefault(column.name == "native", (column.name, done))
                if (done.output, done.status & 0xFF) != (same.output, same.status & 0xFF):
                    what = "exit status" if done.output == same.output else "output"
                    raise Failed(f"{column.name}: the {what} differs from that of {other}")
                out.runs.setdefault(column.name, []).append(done)
    return out


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _all, _what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=2,  # drawing takes a processor's time too
    ) as bar:
        task = bar.add_task("", total=None)

        def say(done: int, everything: int, what: str) -> None:
            bar.update(task, completed=done, total=everything, description=f"{what:<14}")

        yield say
