"""The command line of ``vm run`` and of the multi-call names."""

from __future__ import annotations

import pytest

from vm_cli.options import EXTRAS, help_text, parse_run
from vm_cli.settings import ROWS
from vm_core.errors import UsageError


@pytest.mark.parametrize(
    ("words", "flags", "program"),
    [
        (["prog"], [], ["prog"]),
        (["prog", "--engine", "jit"], [], ["prog", "--engine", "jit"]),
        (["--", "-odd", "-E"], [], ["-odd", "-E"]),
        (["-", "x"], [], ["-", "x"]),
        (["--engine", "jit", "p"], [("engine", "jit", "--engine")], ["p"]),
        (["--engine=jit", "p"], [("engine", "jit", "--engine")], ["p"]),
        (["-E", "A=1", "-EB=2", "--env=C=3=4", "p"], [("env", "A=1", "-E"), ("env", "B=2", "-E"), ("env", "C=3=4", "--env")], ["p"]),
        (["-E", "A=1,2", "p"], [("env", "A=1,2", "-E")], ["p"]),
        (["--net", "--no-jit", "p"], [("net", "1", "--net"), ("jit", "0", "--no-jit")], ["p"]),
        (["-strace", "-L", "/s", "p"], [("strace", "1", "-strace"), ("sysroot", "/s", "-L")], ["p"]),
        (["-L/s", "p"], [("sysroot", "/s", "-L")], ["p"]),
        (["--stats", "--", "p", "--"], [("stats", "1", "--stats")], ["p", "--"]),
        (["--timeout=", "p"], [("timeout", "", "--timeout")], ["p"]),
    ],
)  # fmt: skip
def test_words(words: list[str], flags: list[tuple[str, str, str]], program: list[str]) -> None:
    line = parse_run(words)
    assert line.flags == flags
    assert line.program == program


def test_what_is_no_setting() -> None:
    line = parse_run(["-0", "name", "--json", "-cpu", "max", "p"])
    assert (line.argv0, line.json, line.cpu) == ("name", True, "max")
    assert parse_run(["-h"]).help
    assert parse_run(["--help", "p"]).help
    assert parse_run(["--version"]).version


def test_qemu_splits_assignments_at_commas() -> None:
    line = parse_run(["-E", "A=1,B=2", "-U", "C,D", "p"], qemu=True)
    assert [text for _, text, _ in line.flags] == ["A=1", "B=2", "C", "D"]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--engin", "jit"], "there is no option --engin", "did you mean --engine?"),
        (["--engine"], "--engine needs a value (auto|jit|baseline|interp|reference|kvm)", ""),
        (["--net=1"], "--net takes no value", ""),
        (["--no-engine", "p"], "there is no option --no-engine", None),
        (["--no-json", "p"], "there is no option --no-json", None),
        (["-d", "in_asm", "p"], "-d is an option of qemu that vm does not have", None),
        (["-one-insn-per-tb", "p"], "-one-insn-per-tb is an option of qemu that vm does not have", None),
        (["-Z"], "there is no option -Z", None),
    ],
)
def test_wrong_use(words: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_run(words)
    assert str(caught.value) == message
    if hint is not None:
        assert caught.value.hint == hint


def test_help_names_every_option() -> None:
    text = help_text("vm run")
    for entry in (*(row for row in ROWS if row.flags), *EXTRAS):
        assert entry.flags[0].removeprefix("--") in text
        assert entry.doc in text
