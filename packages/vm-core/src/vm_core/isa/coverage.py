"""The table of implemented instructions: ``python -m vm_core.isa.coverage [--check FILE] [ISA ...]``.

Prints Markdown. With ``--check`` it prints nothing, and exits with 1 if FILE does not hold exactly the table.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vm_core.isa import NAMES, get
from vm_core.spec.isa import Instruction, Isa
from vm_core.spec.pattern import Constraint

__all__ = ["main", "table"]


def _chapter(file: str) -> str:
    """The first sentence of a module's documentation."""
    found = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))
    return (found or Path(file).stem).splitlines()[0].split(". ")[0].rstrip(".")


def _rows(isa: Isa) -> Iterator[str]:
    by_file: dict[str, list[Instruction]] = {}
    for insn in isa.instructions.values():
        by_file.setdefault(insn.source[0], []).append(insn)
    for file, insns in sorted(by_file.items()):
        yield f"\n### {_chapter(file)} ({len(insns)})\n"
        yield "| instruction | encoding | what defines it |"
        yield "|---|---|---|"
        for insn in sorted(insns, key=lambda insn: insn.name):
            short = f"row {insn.name}" if insn.expands else f"def {inspect.unwrap(insn.function).__name__}"
            encoding = " ".join([f"`{insn.pattern.text}`", *map(_constraint, insn.pattern.constraints)])
            written = f"{insn.name} {insn.syntax}".rstrip()
            yield " | ".join(
                [f"| `{written}`", encoding.replace("|", "\\|"), f"{Path(file).name}: {short} |"]
            )


def _constraint(constraint: Constraint) -> str:
    values = ", ".join(map(str, constraint.values))
    return f"{constraint.field} {'=' if constraint.equal else '≠'} {values}"


def table(names: Iterable[str]) -> str:
    """The Markdown text for these instruction sets."""
    lines = [
        "# Implemented instructions",
        "",
        "Made by `python -m vm_core.isa.coverage` from the instruction texts; do not edit. A pattern is written most",
        "significant bit first; constraints on its fields follow it.",
    ]
    for name in names:
        isa = get(name)
        lines.append(f"\n## {isa.name}: {len(isa.instructions)} instructions")
        lines += _rows(isa)
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m vm_core.isa.coverage", description=__doc__)
    parser.add_argument("isas", nargs="*", default=list(NAMES), metavar="ISA")
    parser.add_argument("--check", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    text = table(chosen.isas)
    if chosen.check is None:
        sys.stdout.write(text)
        return 0
    if chosen.check.is_file() and chosen.check.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{chosen.check} is out of date: write it anew with python -m vm_core.isa.coverage\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
