"""The table of instructions is made from the instruction texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm_core.isa import get
from vm_core.isa.coverage import main, table


def test_every_instruction_has_a_row() -> None:
    text = table(["riscv64"])
    for insn in get("riscv64").instructions.values():
        assert text.count(f"| `{insn.name}{' ' * bool(insn.syntax)}{insn.syntax}` |") == 1


def test_a_row_names_its_definition() -> None:
    rows = table(["riscv64"]).splitlines()
    assert "| `addi rd, rs1, imm` | `imm[11:0] rs1 000 rd 0010011` | rvi.py: def addi |" in rows
    assert "| `c.addi rd, imm` | `000 imm[5] rd imm[4:0] 01` rd ≠ 0 | rvc.py: row c.addi |" in rows


def test_check_tells_whether_a_page_is_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "isa-coverage.md"
    assert main(["riscv64", "--check", str(page)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(["riscv64"]) == 0
    page.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["riscv64", "--check", str(page)]) == 0
    page.write_text("old", encoding="utf-8")
    assert main(["riscv64", "--check", str(page)]) == 1


def test_definitions_are_where_they_say() -> None:
    """The line of each definition names it: what `vm where` prints."""
    for insn in get("riscv64").instructions.values():
        file, line = insn.source
        text = Path(file).read_text(encoding="utf-8").splitlines()
        found = "".join(text[line - 1 : line + 30])
        assert insn.name in found or insn.name.replace(".", "_") in found
