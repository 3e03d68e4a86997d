"""Two versions of vm, or two ways to call it, run alternately on the same programs. ``compare`` and ``isolation`` use it.

    benchmarks/compare REV1 REV2 [--programs compute] [--rounds 5] [--engine jit] [--cold | --warm]

A revision is anything that git resolves, or ``.`` for the checkout as it is, changes included. Both run the programs that this
checkout builds. The ratio is that of the second to the first: below 1, the second is faster. Its median and range are over the
ratios of the rounds; each round runs both, the first and the second alternately first.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import (
    ROOT,
    Failed,
    Run,
    build_guests,
    choose,
    environment,
    geomean,
    installed,
    print_table,
    progress,
    run_once,
    workplace,
)

_FILLS = 6
"""Runs that do not count, at most, until one compiles nothing: each has a time budget for that."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. ``tree`` is a checkout; ``options`` are for ``vm run``; caches are kept in ``keep``."""

    name: str
    tree: Path
    options: tuple[str, ...]
    keep: Path

    def run(self, program: str, arguments: Sequence[str], place: Path, *, cold: bool, timeout: float) -> Run:
        env = environment() | installed(self.tree)
        cache = self.keep / "cache"
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
        env["VM_CACHE_DIR"] = str(cache)
        command = [sys.executable, "-m", "vm_cli", "run", *self.options, "--json", "--", program, *arguments]
        try:
            return run_once(command, env, place, timeout)
        except Failed as error:
            raise Failed(f"{self.name}: {error}") from error


@contextlib.contextmanager
def worktrees(revisions: Sequence[str], place: Path) -> Iterator[list[Path]]:
    """A checkout of each revision below ``place``, and none of them left over in git's list afterwards."""

    def git(*words: str, check: bool = True) -> None:
        # No hooks: what a repository does at a checkout is not meant for these.
        command = ["git", "-c", "core.hooksPath=/dev/null", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise Failed(done.stderr.strip() or f"git {words[0]} failed")

    made: list[Path] = []
    trees: list[Path] = []
    try:
        for number, revision in enumerate(revisions, 1):
            if revision == ".":
                trees.append(ROOT)
                continue
            tree = place / f"tree{number}"
            made.append(tree)
            git("worktree", "add", "--detach", str(tree), revision)
            trees.append(tree)
        yield trees
    finally:
        for tree in made:
            git("worktree", "remove", "--force", str(tree), check=False)
        if made:
            git("worktree", "prune", check=False)


def measure(sides: Sequence[Side], options: argparse.Namespace) -> int:
    """Run, print the table, and return the exit status: 1 if a program failed."""
    programs = choose(options.programs)
    with progress() as say:
        say("building the programs")
        built, problems = build_guests.build_all(programs, [options.variant])
        for problem in problems:
            print(f"benchmarks: {problem}", file=sys.stderr)
        ratios: dict[str, list[float]] = {}
        seconds: dict[str, tuple[list[float], list[float]]] = {}
        failures: list[str] = []
        for side in sides:
            # A revision that ships no interpreter makes it now.
            with workplace("hello") as place:
                hello = str(build_guests.build("hello", options.variant))
                side.run(hello, [], place, cold=True, timeout=options.timeout)
        for program in programs:
            if (program, options.variant) not in built:
                continue
            guest = str(built[program, options.variant])
            arguments = build_guests.PROGRAMS[program].args[options.size]
            try:
                with workplace(program) as place:
                    outputs = set()
                    if not options.cold:
                        for side in sides:
                            say(f"{program}: filling the cache of {side.name}")
                            for _ in range(_FILLS):
                                done = side.run(guest, arguments, place, cold=False, timeout=options.timeout)
                                if not done.facts.get("stats", {}).get("regions_compiled"):
                                    break
                    for number in range(options.rounds):
                        say(f"{program}: round {number + 1} of {options.rounds}")
                        order = (0, 1) if number % 2 == 0 else (1, 0)
                        times = [0.0, 0.0]
                        for which in order:
                            done = sides[which].run(
                                guest, arguments, place, cold=options.cold, timeout=options.timeout
                            )
                            times[which] = done.wall if options.wall else done.cpu
                            outputs.add(done.output)
                        if len(outputs) > 1:
                            raise Failed("the outputs differ")
                        for which in order:
                            seconds.setdefault(program, ([], []))[which].append(times[which])
                        ratios.setdefault(program, []).append(times[1] / times[0])
            except Failed as error:
                failures.append(f"{program}: {error}")
                ratios.pop(program, None)
    kind = f"{'cold' if options.cold else 'warm'}, {'wall' if options.wall else 'CPU'} seconds"
    print(
        f"{kind}, size {options.size}, {options.rounds} rounds; the ratio is {sides[1].name} to {sides[0].name}"
    )
    body = []
    for program, values in ratios.items():
        first, second = (statistics.median(s) for s in seconds[program])
        middle = statistics.median(values)
        body.append(
            [
                program,
                f"{first:.3f}",
                f"{second:.3f}",
                f"{middle:.3f}",
                f"{min(values):.3f}–{max(values):.3f}",
            ]
        )
    if ratios:
        per_round = [geomean([values[i] for values in ratios.values()]) for i in range(options.rounds)]
        mean = geomean([statistics.median(values) for values in ratios.values()])
        body.append(["geomean", "", "", f"{mean:.3f}", f"{min(per_round):.3f}–{max(per_round):.3f}"])
    print_table(["program", sides[0].name, sides[1].name, "ratio", "range"], body)
    for failure in failures:
        print(f"benchmarks: {failure}", file=sys.stderr)
    return 1 if failures or not ratios else 0


def parser(description: str, *, programs: str) -> argparse.ArgumentParser:
    """The options that both scripts have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--programs", default=programs, help="comma-separated names and groups (%(default)s); all: all"
    )
    made.add_argument("--rounds", type=int, default=5, help="rounds, at least 1 (%(default)s)")
    made.add_argument("--engine", default="jit", help="engine of both (%(default)s)")
    state = made.add_mutually_exclusive_group()
    state.add_argument("--cold", action="store_true", help="empty the cache before each run")
    state.add_argument("--warm", action="store_false", dest="cold", help="with a filled cache (the default)")
    made.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    made.add_argument(
        "--size",
        default="bench",
        choices=("tiny", "small", "quick", "bench"),
        help="how much work (%(default)s)",
    )
    variants = sorted(set(build_guests.VARIANTS) - {"native"})
    made.add_argument("--variant", default="O2", choices=variants, help="guest build (%(default)s)")
    made.add_argument("--timeout", type=float, default=300, help="seconds for one run (%(default)g)")
    return made


def compare(revisions: Sequence[str], extra: Sequence[str], options: argparse.Namespace) -> int:
    """Measure two revisions, each with options of its own. Everything is cleaned up, also when a signal ends this."""
    if options.rounds < 1:
        print("benchmarks: at least one round", file=sys.stderr)
        return 2
    options.programs = None if options.programs == "all" else options.programs
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, _: sys.exit(128 + signum))
    try:
        with tempfile.TemporaryDirectory(prefix="vm-compare-") as name, contextlib.ExitStack() as stack:
            place = Path(name)
            trees = stack.enter_context(worktrees(revisions, place))
            sides = [
                Side(label, tree, ("--engine", options.engine, *shlex.split(more)), place / f"keep{i}")
                for i, (label, tree, more) in enumerate(
                    zip(_labels(revisions, extra), trees, extra, strict=True)
                )
            ]
            return measure(sides, options)
    except Failed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _labels(revisions: Sequence[str], extra: Sequence[str]) -> list[str]:
    """What tells the two apart."""
    if revisions[0] != revisions[1]:
        return [name if name != "." else "this checkout" for name in revisions]
    if extra[0] != extra[1]:
        return [more or "without" for more in extra]
    return [f"{revisions[0]} (1)", f"{revisions[1]} (2)"]


def main_compare() -> int:
    """``benchmarks/compare``."""
    made = parser("Run two revisions of vm alternately and say which is faster.", programs="compute")
    made.add_argument("revisions", nargs=2, metavar="REV", help="a revision of git, or . for this checkout")
    made.add_argument("--options1", default="", metavar="OPTIONS", help="options of vm run for the first")
    made.add_argument("--options2", default="", metavar="OPTIONS", help="options of vm run for the second")
    options = made.parse_args()
    return compare(options.revisions, (options.options1, options.options2), options)


def main_isolation() -> int:
    """``benchmarks/isolation``."""
    made = parser("What isolation costs: the compute programs without it and with it.", programs="compute")
    return compare((".", "."), ("--isolation off", "--isolation on"), made.parse_args())
