"""Build the program that ``vm demo`` runs: ``guests/demo.c`` to ``packages/vm-cli/src/vm_cli/data/demo.riscv64``.

    python tools/build_demo.py            # build, install the binary and its checksum
    python tools/build_demo.py --check    # build elsewhere and say whether the committed binary does the same

Needs ``python -m pip install ziglang``, which brings the compiler and musl. The binary is committed, so that nobody
needs a compiler to run the demo; its checksum stands beside it. Other releases of the compiler make other bytes, so
``--check`` compares what the programs print (under qemu-riscv64 or, without it, under vm), not their bytes.
Exit status: 0 done or same, 1 different, 3 no compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_guests import ROOT, SOURCES, Unbuildable, Variant, compile_source

__all__ = ["BINARY", "CHECKSUM", "build", "output_of"]

DATA = ROOT / "packages" / "vm-cli" / "src" / "vm_cli" / "data"
BINARY = DATA / "demo.riscv64"
CHECKSUM = DATA / "demo.riscv64.sha256"
# Without contraction, so that every compiler's picture has the same rounding.
_VARIANT = Variant(
    "demo",
    "zig",
    ("-target", "riscv64-linux-musl", "-O2", "-static", "-s", "-ffp-contract=off", "-fno-sanitize=undefined"),
)


def build(output: Path) -> Path:
    """Compile the demo to ``output``. Raises Unbuildable when there is no compiler."""
    return compile_source(SOURCES / "demo.c", _VARIANT, output)


def output_of(program: Path, *arguments: str) -> bytes:
    """What a RISC-V program prints, under qemu-riscv64 if that is installed, else under vm."""
    qemu = shutil.which("qemu-riscv64")
    runner = [qemu] if qemu else [sys.executable, "-m", "vm_cli", "run", "--"]
    done = subprocess.run([*runner, str(program), *arguments], capture_output=True, check=True, env={})
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the demo program.")
    parser.add_argument("--check", action="store_true", help="compare the committed binary with a new build")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        try:
            fresh = build(Path(place) / BINARY.name)
        except Unbuildable as error:
            print(f"build_demo: {error}", file=sys.stderr)
            return 3
        if options.check:
            same = all(output_of(fresh, *more) == output_of(BINARY, *more) for more in ((), ("plain",)))
            print(
                "the committed demo prints what a new build prints" if same else "the committed demo differs"
            )
            return 0 if same else 1
        DATA.mkdir(parents=True, exist_ok=True)
        data = fresh.read_bytes()
    BINARY.write_bytes(data)
    BINARY.chmod(0o755)
    CHECKSUM.write_text(f"{hashlib.sha256(data).hexdigest()}  {BINARY.name}\n")
    print(f"{BINARY.relative_to(ROOT)}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
