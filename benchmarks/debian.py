"""Real programs of a distribution: Debian's own, from a tree made by ``vm sysroot create``, under qemu-riscv64 and under vm.

    vm sysroot create riscv64 --output tree lua5.4 python3 perl sqlite3 zstd xz-utils openssl gcc gawk bash
    python benchmarks/debian.py tree                          # a table; cold, then warm with the same cache
    python benchmarks/debian.py tree --rounds 3 --only python3,gcc --json

Each round runs each column once, one after the other. A figure is the median of the processor time of the whole process tree,
vm's compilers included; "cold" starts with an empty cache. The programs print the same in each column, or the row says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from measure import Column, Failed, Run, environment, geomean, installed, print_table, progress, run_once

SCRIPTS = Path(__file__).resolve().parent / "debian"


class Program(NamedTuple):
    """A name, and the command with its path in the tree."""

    name: str
    command: tuple[str, ...]


PROGRAMS = (
    Program("true", ("/usr/bin/true",)),
    Program("ls", ("/usr/bin/ls",)),
    Program("git --version", ("/usr/bin/git", "--version")),
    Program("perl start", ("/usr/bin/perl", "-e", "1")),
    Program("sed", ("/usr/bin/sed", "-e", "s/a[0-9]/X/g", "words")),
    Program("python3 start", ("/usr/bin/python3", "-c", "pass")),
    Program("python3 richards", ("/usr/bin/python3", "richards.py", "60000")),
    Program("python3 text", ("/usr/bin/python3", "text.py", "30")),
    Program("python3 nbody", ("/usr/bin/python3", "nbody.py", "8000")),
    Program("lua fib", ("/usr/bin/lua5.4", "fib.lua", "30")),
    Program("lua strings", ("/usr/bin/lua5.4", "strings.lua", "20")),
    Program("perl words", ("/usr/bin/perl", "words.pl", "150")),
    Program("bash loop", ("/usr/bin/bash", "loop.sh", "60000")),
    Program("sqlite3", ("/usr/bin/sqlite3", "-bail", "-init", "queries.sql", ":memory:", ".quit")),
    Program(
        "gcc (cc1 -O2)", ("/usr/libexec/gcc/riscv64-linux-gnu/14/cc1", "-quiet", "-O2", "input.c", "-o", "-")
    ),
    Program("xz", ("/usr/bin/xz", "-2", "-k", "-c", "-T1", "data")),
    Program("zstd", ("/usr/bin/zstd", "-9", "-c", "-q", "--single-thread", "data")),
    Program("sha256sum", ("/usr/bin/sha256sum", "data", "data", "data", "data")),
    Program(
        "openssl aes",
        ("/usr/bin/openssl", "enc", "-aes-256-cbc", "-K", "00" * 32, "-iv", "00" * 16, "-in", "data"),
    ),
    Program(
        "gawk",
        (
            "/usr/bin/gawk",
            "{ for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) t += n[w]; print t }",
            "lines",
        ),
    ),
    Program("sort", ("/usr/bin/sort", "lines")),
    Program("grep", ("/usr/bin/grep", "-c", "-E", "(ab|cd)+[0-9]+ .*7$", "lines")),
)


def prepare(directory: Path) -> None:
    """The files that the programs read."""
    for path in (*SCRIPTS.iterdir(), *(SCRIPTS.parent.parent / "guests" / "lua").glob("*.lua")):
        shutil.copy(path, directory)
    functions = "".join(
        f"int f{n}(int *a, int b) {{ int s = b; for (int i = 0; i < {n % 17 + 3}; i++) s = s * {n} + a[i] / (s | 1); return s ? f{n - 1 if n else 0}(a, s - 1) : {n}; }}\n"
        for n in range(250)
    )
    (directory / "input.c").write_text(functions)
    state, words = 12345, []
    for _ in range(400_000):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        words.append(f"{'abcdefgh'[state >> 16 & 7]}{'cdab'[state >> 20 & 3]}{state >> 8 & 1023}")
    lines = "\n".join(" ".join(words[at : at + 10]) for at in range(0, len(words), 10)) + "\n"
    (directory / "lines").write_text(lines)
    (directory / "words").write_text(lines[: len(lines) // 8])
    (directory / "data").write_bytes(lines.encode() * 3)


def columns(tree: Path, command: tuple[str, ...], place: Path, env: dict[str, str]) -> dict[str, Any]:
    """A function that runs each column."""
    qemu = shutil.which("qemu-riscv64")
    guest = f"{tree}{command[0]}"
    out: dict[str, Any] = {}
    if qemu is not None:
        out["qemu"] = lambda: run_once([qemu, "-L", str(tree), guest, *command[1:]], env, place, 600)
    for name in ("cold", "warm"):
        column = Column.parse(f"jit {name}")
        out[name] = lambda column=column: column.run(
            guest, command[1:], native=None, qemu=None, caches=place.parent / "caches", cwd=place, timeout=600,
            options=("-L", str(tree)), variables=installed(),
        )  # fmt: skip
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, help="a Debian riscv64 tree")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is run (3)")
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    tree = options.tree.resolve()
    wanted = [
        p for p in PROGRAMS if not options.only or any(part in p.name for part in options.only.split(","))
    ]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vm-debian-") as name, progress() as say:
        place = Path(name) / "work"
        place.mkdir()
        prepare(place)
        for program in wanted:
            if not (tree / program.command[0].lstrip("/")).exists():
                found[program.name] = {"problem": "not in the tree"}
                continue
            found[program.name] = one(program, tree, place, options.rounds, say)
    if options.json:
        print(json.dumps(found))
        return 0
    rows = []
    for label, row in found.items():
        if "problem" in row:
            rows.append([label, row["problem"], "", "", "", ""])
            continue
        times = [f"{row[column]:.3f}" if column in row else "" for column in ("qemu", "cold", "warm")]
        ratios = [f"{row[column] / row['qemu']:.2f}" if "qemu" in row else "" for column in ("cold", "warm")]
        rows.append([label, *times, *ratios])
    print_table(["program", "qemu s", "cold s", "warm s", "cold/qemu", "warm/qemu"], rows)
    good = [row for row in found.values() if "qemu" in row]
    if good:
        for column in ("cold", "warm"):
            print(
                f"geometric mean, {column}/qemu: {geomean([row[column] / row['qemu'] for row in good]):.2f}"
            )
    return 0


def one(program: Program, tree: Path, place: Path, rounds: int, say: Any) -> dict[str, Any]:
    """The medians of a program's columns, or what is wrong."""
    samples: dict[str, list[float]] = {}
    outputs: dict[str, bytes] = {}
    for number in range(rounds):
        for column, run in columns(tree, program.command, place, environment()).items():
            say(f"{program.name}, round {number + 1} of {rounds}: {column}")
            try:
                done: Run = run()
            except Failed as error:
                return {"problem": f"{column}: {error}"[:100]}
            samples.setdefault(column, []).append(done.cpu)
            outputs[column] = done.output
    if len(set(outputs.values())) > 1:
        return {"problem": "the outputs differ"}
    return {column: statistics.median(values) for column, values in samples.items()}


if __name__ == "__main__":
    sys.exit(main())
