"""What a system call, a thread and a process cost: natively, under qemu-riscv64, and under vm.

    python benchmarks/rates.py                        # a table: nanoseconds of wall time each, and the ratio to qemu
    python benchmarks/rates.py --rounds 5 --json

The guest program guests/rates.c measures itself. Each round runs all columns one after the other; a figure is the median over
the rounds. qemu-riscv64 executes a RISC-V program by executing itself with it, as the kernel does where it is registered for
them (binfmt_misc); vm stays in its process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import build_guests, environment, geomean, installed, print_table, progress

SIZE = 200_000
Samples = dict[str, dict[str, list[tuple[float, float]]]]
"""By column, then operation: wall and processor nanoseconds of each round."""


def commands(directory: Path, size: int) -> dict[str, tuple[list[str], dict[str, str] | None]]:
    """Each column's command and environment."""
    built = {variant: str(build_guests.build("rates", variant)) for variant in ("O2", "native")}
    guest = built["O2"]
    out: dict[str, tuple[list[str], dict[str, str] | None]] = {"native": ([built["native"], str(size)], None)}
    qemu = shutil.which("qemu-riscv64")
    if qemu is not None:
        out["qemu"] = ([qemu, guest, str(size), qemu], None)
    # The program lies where it runs, so that it may execute itself.
    shutil.copy2(guest, directory / "rates")
    env = {**environment(), **installed(), "VM_CACHE_DIR": str(directory / "cache")}
    out["vm"] = ([sys.executable, "-m", "vm_cli", "run", "./rates", str(size)], env)
    return out


def measure(rounds: int, size: int) -> Samples:
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="vm-rates-") as place, progress() as say:
        directory = Path(place)
        columns = commands(directory, size)
        command, env = columns["vm"]
        subprocess.run([*command[:-1], "100"], env=env, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        for number in range(rounds):
            for name, (command, env) in columns.items():
                say(f"round {number + 1} of {rounds}: {name}")
                done = subprocess.run(
                    command, env=env, cwd=directory, check=True, capture_output=True, text=True, timeout=600
                )
                for line in done.stdout.splitlines():
                    operation, wall, used = line.split("\t")
                    samples.setdefault(name, {}).setdefault(operation, []).append((float(wall), float(used)))
    return samples


def figures(samples: Samples) -> dict[str, dict[str, Any]]:
    """By operation: the median of each column, and the ratio to qemu of wall and of processor time."""
    out: dict[str, dict[str, Any]] = {}
    for operation in samples["vm"]:
        row: dict[str, Any] = {}
        for column, found in samples.items():
            for kind, word in enumerate(("wall", "cpu")):
                row[f"{column}_{word}_ns"] = statistics.median(pair[kind] for pair in found[operation])
        if "qemu" in samples:
            for kind, word in enumerate(("wall", "cpu")):
                row[f"{word}_to_qemu"] = statistics.median(
                    mine[kind] / max(theirs[kind], 1e-9)
                    for mine, theirs in zip(samples["vm"][operation], samples["qemu"][operation], strict=True)
                )
        out[operation] = row
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument("--size", type=int, default=SIZE, help=f"operations of the quickest kind ({SIZE:,})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = figures(measure(options.rounds, options.size))
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [
        [
            operation,
            *(
                f"{row[f'{column}_wall_ns']:,.0f}" if f"{column}_wall_ns" in row else ""
                for column in ("native", "qemu", "vm")
            ),
            *(f"{row[name]:.2f}" if name in row else "" for name in ("wall_to_qemu", "cpu_to_qemu")),
        ]
        for operation, row in found.items()
    ]
    print_table(["operation", "native ns", "qemu ns", "vm ns", "vm/qemu wall", "vm/qemu CPU"], rows)
    if all("wall_to_qemu" in row for row in found.values()):
        print(
            f"geometric mean of vm/qemu, wall: {geomean([row['wall_to_qemu'] for row in found.values()]):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
