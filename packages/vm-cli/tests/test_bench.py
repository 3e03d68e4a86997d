"""``vm bench``: what it runs, and what it says of it. No time is judged."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from vm_cli.bench import Comparison, _for_run, _options, compare
from vm_cli.measure import Column, Failed, Run, geomean, run_once, spread
from vm_cli.options import BENCH_OPTIONS, parse_run
from vm_core.errors import UsageError

from .test_profile import vm

STATS = {
    "seconds": 2.0,
    "call_seconds": 0.5,
    "compile_seconds": 0.0,
    "blocks_decoded": 1,
    "regions_compiled": 0,
    "extra": {},
}
FACTS = {
    "instructions": 10_000_000,
    "system_calls": 3,
    "stats": STATS,
    "phases": {"launch": 0.25, "prepare": 0.1},
}


def made() -> Comparison:
    found = Comparison(["./prog", "1"])
    found.runs["native"] = [Run(1.0, cpu, b"", {}) for cpu in (1.0, 0.5, 2.0)]
    found.runs["jit warm"] = [
        Run(wall, cpu, b"", FACTS) for wall, cpu in ((4.0, 3.0), (2.0, 1.5), (3.0, 2.0))
    ]
    return found


def test_figures() -> None:
    found = made()
    assert found.base == "native"
    assert found.median("jit warm", "cpu") == 2.0
    assert found.ratio("jit warm") == 2.0
    assert found.ratio("jit warm", "wall") == 3.0
    assert found.speed("jit warm") == 5e6
    assert found.speed("native") is None
    assert {name: spent for name, spent, _ in found.phases("jit warm")} == {
        "Python, vm's modules": 0.25,
        "program and memory": 0.1,
        "guest code": 2.0,
        "system calls": 0.5,
    }
    assert found.phases("native") == []
    rows = {row["name"]: row for row in found.facts()["columns"]}
    assert rows["native"]["cpu"]["spread_percent"] == 75
    assert rows["jit warm"]["wall"]["samples"] == [4.0, 2.0, 3.0]


def test_the_chart_compares_with_the_base() -> None:
    root = ET.fromstring(made().svg())
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["prog 1", "processor time, jit warm: 2.00", "wall time, jit warm: 3.00"]


def test_columns_are_run_alternately(greeting: Path) -> None:
    columns = [Column.parse("interp warm"), Column.parse("ref=--engine reference"), Column("native")]
    said = []
    found = compare(
        [str(greeting)],
        columns,
        rounds=2,
        native=None,
        say=lambda done, of, what: said.append((done, of, what)),
    )
    assert said == [(0, 4, "interp warm"), (1, 4, "ref"), (2, 4, "interp warm"), (3, 4, "ref")]
    assert {name: len(runs) for name, runs in found.runs.items()} == {"interp warm": 2, "ref": 2}
    assert "native" in found.absent
    assert found.base == "interp warm"
    for runs in found.runs.values():
        assert all(run.output == b"hello\n" and run.facts["instructions"] == 10 for run in runs)


def test_a_native_program_is_compared_with(greeting: Path, tmp_path: Path) -> None:
    native = tmp_path / "native"
    native.write_text("#!/bin/sh\necho hello\n")
    native.chmod(0o755)
    done = vm("bench", "-n", "1", "--native", native, "-c", "native", "-c", "interp warm", "--json", greeting)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["base"] == "native"
    assert [row["name"] for row in found["columns"]] == ["native", "interp warm"]
    assert found["columns"][0]["cpu"]["ratio"] == 1
    assert {row["phase"] for row in found["columns"][1]["phases"]} >= {"guest code", "program and memory"}


def test_a_table_and_a_chart(greeting: Path, tmp_path: Path) -> None:
    chart = tmp_path / "x.svg"
    done = vm(
        "bench",
        "-n",
        "1",
        "-c",
        "interp warm",
        "-c",
        "qemu",
        "-c",
        "mine=--engine interp",
        "-o",
        chart,
        greeting,
    )
    assert done.returncode == 0, done.stderr
    assert "interp warm" in done.stdout
    assert "guest code" in done.stdout
    assert ("qemu: not run" in done.stdout) == (shutil.which("qemu-riscv64") is None)
    ET.parse(chart)


def test_another_output_is_noticed(greeting: Path, tmp_path: Path) -> None:
    """``--fuel`` ends one of the two early."""
    columns = [Column.parse("all=--engine interp"), Column.parse("part=--engine interp --fuel 3")]
    with pytest.raises(Failed, match="part: the output differs from that of all"):
        compare([str(greeting)], columns, rounds=1)


def test_a_status_is_no_failure_if_all_agree(exits_with: object) -> None:
    assert callable(exits_with)
    found = compare(
        [str(exits_with(3))], [Column.parse("interp warm"), Column.parse("r=--engine reference")], rounds=1
    )
    assert {run.status for runs in found.runs.values() for run in runs} == {3}


@pytest.mark.parametrize(
    "words",
    [
        ("--rounds", "0"), ("--column", "warp warm"), ("--output", "x.png"), ("--native", "/no/such"), ("--engine", "jit"),
        ("-c", "jit warm", "-c", "jit warm"),
    ],
)  # fmt: skip
def test_wrong_use(words: tuple[str, ...]) -> None:
    line = parse_run([*words, "prog"], more=BENCH_OPTIONS)
    with pytest.raises(UsageError):
        _options(line) and _for_run(line)


def test_options_of_run_are_handed_on() -> None:
    line = parse_run(["--net", "-E", "A=1", "prog"], more=BENCH_OPTIONS)
    assert _for_run(line) == ["--net", "-E", "A=1"]
    assert [column.name for column in _options(line).columns][:3] == ["native", "qemu", "jit cold"]


def test_means() -> None:
    assert geomean([1, 4]) == pytest.approx(2)
    assert geomean([]) != geomean([])
    assert spread([1, 2, 3]) == 50


def test_a_run_that_fails() -> None:
    with pytest.raises(Failed, match="exit status 3: no"):
        run_once([sys.executable, "-c", "import sys; sys.stderr.write('no'); sys.exit(3)"], {}, ".", 60)
    with pytest.raises(Failed, match="no end after"):
        run_once([sys.executable, "-c", "import time; time.sleep(60)"], {}, ".", 0.2)
