"""tools/distribution.py: its rows are sound, and its verdicts are what its page says. What it runs needs a distribution's tree."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distribution", ROOT / "tools/distribution.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["distribution"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_every_program_that_is_promised_has_a_row(tool: ModuleType) -> None:
    rows = tool.load_rows()
    assert len({row.name for row in rows}) == len(rows)
    everything = " ".join(f"{row.group} {row.name} {row.python}" for row in rows)
    for word in (
        "pipes", "job control", "coreutils", "grep", "sed", "awk", "xz", "zstd", "perl", "test_json", "test_re", "test_struct",
        "test_math", "test_threading", "test_subprocess", "test_socket", "test_asyncio", "test_signal", "sqlite3", "git",
        "openssl speed", "s_server", "gcc", "make", "curl", "redis-benchmark", "nginx", "second stage", "maintainer scripts",
    ):  # fmt: skip
        assert word in everything
    for row in rows:
        assert bool(row.script) + bool(row.python) + row.stage2 == 1, row.name


def test_the_scripts_are_shell(tool: ModuleType) -> None:
    for row in tool.load_rows():
        done = subprocess.run(
            ["bash", "-O", "extglob", "-n"], input=row.script, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), row.name


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ({"stdout": "a\n"}, {"stdout": "a\n"}, "ok"),
        ({"stdout": "a\n"}, {"stdout": "b\n"}, "differs"),
        ({"stdout": "a\n", "status": 1}, {"stdout": "a\n"}, "differs"),
        ({"stdout": "a\n", "hung": True, "status": -9}, {"stdout": "a\n"}, "hangs"),
        ({"stdout": "a\n", "status": -11}, {"stdout": "a\n"}, "crash"),
        ({"stdout": "a\n", "stderr": "vm: error[VM999]: KeyError: 1\n"}, {"stdout": "a\n"}, "crash"),
        ({"stdout": "a\n"}, {"stdout": "", "hung": True, "status": -9}, "ok"),
        ({"stdout": "a\n"}, None, "ok"),
        ({"status": 1}, None, "differs"),
    ],
)
def test_verdicts(tool: ModuleType, ours: dict[str, Any], theirs: dict[str, Any] | None, word: str) -> None:
    plain = {"status": 0, "stdout": "", "stderr": "", "seconds": 1.0}
    row = tool.Row("g", "n", script="true")
    other = None if theirs is None else tool.Run(**{**plain, **theirs})
    assert tool.verdict(row, tool.Run(**{**plain, **ours}), other)[0] == word


UNITTEST = """test_a (test.test_x.T.test_a) ... ok
FAIL: test_b (test.test_x.T.test_b)
Ran 5 tests in 0.1s
FAILED (failures=1, skipped=2)
ERROR: test_b (test.test_x.T.test_b)
Ran 2 tests in 0.1s
OK
"""


def test_python_tests_are_judged_one_by_one(tool: ModuleType) -> None:
    row = tool.Row("python3", "test_x", python="test_x")

    def run(text: str) -> Any:
        found = tool.Run(0, text, "", 1.0)
        tool.read_tests(found)
        return found

    ours = run(UNITTEST)
    assert (ours.tests, ours.skipped, ours.bad) == (7, 2, ["test_b (test.test_x.T.test_b)"])
    assert tool.verdict(row, ours, run(UNITTEST))[0] == "ok"
    word, note = tool.verdict(row, ours, run(UNITTEST.replace("test_b", "test_c")))
    assert word == "differs"
    assert "test_b" in note
    assert tool.verdict(row, run("Ran 1 test in 1s\nOK\n"), ours) == ("differs", "1 tests ran, 7 under qemu")
    assert tool.verdict(row, run(""), ours) == ("differs", "no test ran")
    result = tool.Result("python3", "test_x", "ok", vm=ours, qemu=ours)
    page = tool.page([result, tool.Result("g", "n", "hangs", "a | b")], Path("/nonexistent"), "nothing")
    assert "| python3 | test_x | ok | 4 of 5 | 1.0 | 1.0 |  |" in page
    assert "| g | n | **hangs** |  |  |  | a \\| b |" in page
    assert "1 of 2 rows" in page


def test_a_tree_that_is_made_has_python_compiled(tool: ModuleType, tmp_path: Path) -> None:
    """Rows cannot write into it: without, vm's compiled in each start of Python what qemu's kept."""
    tree, log, command = tmp_path / "tree", tmp_path / "log", tmp_path / "vm"
    command.write_text(f'#!/bin/sh\necho "$*" >> {log}\nmkdir -p {tree}\n')
    command.chmod(0o755)
    tool.make_trees([str(command)], tree, None)
    made, compiled = log.read_text().splitlines()
    assert f"--output {tree} apt " in made
    assert compiled.startswith(f"run --root {tree} /usr/bin/python3 -m compileall ")
    tool.make_trees([str(command)], tree, None)
    assert len(log.read_text().splitlines()) == 2  # one that is there stays as it is


def test_what_is_no_tree(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/distribution.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not the tree of a distribution" in done.stderr


def test_trees_are_compared(tool: ModuleType, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name / "usr/bin").mkdir(parents=True)
        (tmp_path / name / "usr/bin/su").write_text("su")
        (tmp_path / name / "var/log").mkdir(parents=True)
        (tmp_path / name / "var/log/x").write_text(name)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert tool.compare_trees(ours, theirs, bits=True) == (True, "5 files as under qemu")
    (theirs / "usr/bin/su").chmod(0o4644)
    assert tool.compare_trees(ours, theirs, bits=False) == (
        True,
        "5 files as under qemu, 1 without their set-ID bits",
    )
    assert not tool.compare_trees(ours, theirs, bits=True)[0]
    (theirs / "usr/bin/su").write_text("other")
    same, note = tool.compare_trees(ours, theirs, bits=False)
    assert (same, note.endswith("the first is usr/bin/su")) == (False, True)
    (ours / "more").symlink_to("usr")
    assert "2 of 5 files differ" in tool.compare_trees(ours, theirs, bits=False)[1]
