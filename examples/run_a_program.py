"""Run a Linux program from Python, with limits, and look at how it ended."""

from __future__ import annotations

from vm_cli.demo import program
from vm_core.runner import run


def main() -> None:
    path = program()  # the one that `vm demo` runs; any static riscv64 executable will do
    result = run(
        [str(path), "plain", "20"], capture_output=True, text=True, timeout=60, fuel=10**10, memory=256 << 20
    )
    print(f"status {result.returncode}, stopped by {result.reason}")
    line = next(line for line in result.stdout.splitlines() if "drew this" in line)
    print(f"it drew {line.partition(',')[0]!r}")
    print(f"{result.instructions:,} instructions, {result.stats.retired_jit:,} of them compiled")


if __name__ == "__main__":
    main()
