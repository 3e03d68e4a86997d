"""The benchmark scripts: what they run, what they write, and that they leave nothing behind. No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from vm_cli import chart

ROOT = Path(__file__).resolve().parent.parent


def script(
    *words: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=env, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def tools() -> dict[str, ModuleType]:
    """The modules of benchmarks/, without leaving its directory on the path."""
    import importlib

    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return {name: importlib.import_module(name) for name in ("measure", "run")}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_suite(tools: dict[str, ModuleType]) -> None:
    measure = tools["measure"]
    assert len(measure.choose("compute")) == 12
    assert len(measure.choose(None)) >= 20
    assert measure.choose("fp,hello,nbody") == ["nbody", "mandelbrot", "hello"]
    with pytest.raises(measure.Failed, match="echo"):
        measure.choose("echo")  # it exists, but is not for timing


def test_a_chart_is_well_formed_and_has_every_bar() -> None:
    rows = {"a<b": {"one": 0.5, "two": 20.0}, "c": {"one": 1.0}}
    text = chart.bars("T & U", "axis", ["one", "two"], rows)
    root = ET.fromstring(text)
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["T & U", "a<b, one: 0.50", "a<b, two: 20.00", "c, one: 1.00"]
    widths = [float(r.get("width")) for r in root.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    assert widths[1] > widths[0] > widths[2] == 1


def test_tables_from_samples(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    run = tools["run"]
    data = run.Data("bench", {"revision": "r"})
    for program, times in {
        "nbody": (0.5, 5.0, 1.0),
        "mandelbrot": (0.4, 1.6, 1.6),
        "hello": (0.001, 0.02, 0.1),
    }.items():
        for column, seconds in zip(("native", "qemu", "jit warm"), times, strict=True):
            for factor in (0.9, 1.0, 1.3):
                data.add(program, column, 2 * seconds * factor, seconds * factor)
    head, body = run.group_table(data)
    assert head[1:] == ["qemu", "jit warm"]
    assert body[0] == ["the twelve compute programs (2)", "6.32", "2.83"]
    assert body[1] == ["the worst of these", "10.00", "4.00"]
    assert body[-1] == ["programs slower than under qemu", "", "0 of 2"]
    assert [line[0] for line in run.start_table(data)[1]] == ["hello, cpu", "hello, wall"]
    assert run.seconds_table(data, "wall")[1][0] == ["nbody", "1.000 ±20%", "10.000 ±20%", "2.000 ±20%"]
    data.save(tmp_path / "data.json")
    again = run.Data.load(tmp_path / "data.json", "bench", "r")
    assert run.page(again) == run.page(data)
    with pytest.raises(run.Failed, match="revision"):
        run.Data.load(tmp_path / "data.json", "bench", "other")
    run.write_docs(data, tmp_path)
    for image in ("benchmarks-programs.svg", "benchmarks-groups.svg"):
        assert f"(images/{image})" in (tmp_path / "benchmarks.md").read_text()
        ET.parse(tmp_path / "images" / image)


def test_cpu_time_of_an_orphan_counts() -> None:
    """A process that outlives the one that started it, as a compiler in the background may."""
    orphan = "import os, time\nif os.fork() == 0:\n    while time.process_time() < 0.3:\n        pass"
    text = (
        "import os, sys; from vm_cli.measure import run_once\n"
        f"run = run_once([sys.executable, '-c', {orphan!r}], os.environ, '.', 60)\n"
        "assert run.cpu >= 0.3, run"
    )
    done = script("-c", text, cwd=ROOT / "benchmarks")
    assert done.returncode == 0, done.stderr


@pytest.mark.needs_cc
def test_run(tmp_path: Path) -> None:
    words = ["--programs", "hello,fib", "--size", "tiny", "--rounds", "1", "--data", tmp_path / "data.json"]
    columns = ["--columns", "native", "interp warm", "mine=--engine interp --net"]
    done = script("benchmarks/run.py", *words, *columns, "--docs", tmp_path)
    if "is not installed" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    samples = json.loads((tmp_path / "data.json").read_text())["samples"]
    assert {p: {c: len(s) for c, s in row.items()} for p, row in samples.items()} == {
        p: {"native": 1, "interp warm": 1, "mine": 1} for p in ("hello", "fib")
    }
    assert "| hello, cpu |" in (tmp_path / "benchmarks.md").read_text()
    # It goes on where it was, up to so many rounds.
    words[5] = "2"
    done = script("benchmarks/run.py", *words, *columns, "--minutes", "0.0001")
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "data.json.caches").is_dir()
    for _ in range(2):
        done = script("benchmarks/run.py", *words, *columns)
        assert done.returncode == 0, done.stderr
        samples = json.loads((tmp_path / "data.json").read_text())["samples"]
        assert {len(s) for row in samples.values() for s in row.values()} == {2}
    assert not (tmp_path / "data.json.caches").exists()


@pytest.mark.needs_cc
@pytest.mark.slow
def test_compare_of_revisions(tmp_path: Path) -> None:
    """In a repository of its own, whose second revision prints more than the first: that must be noticed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*words: str | Path) -> None:
        name = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *name, *words], cwd=copy, env=env, capture_output=True, check=True)

    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, copy], env=env, check=True)
    place = copy / "benchmarks"
    for file in (ROOT / "benchmarks").iterdir():  # also what is not committed yet
        if file.is_file():
            (place / file.name).write_bytes(file.read_bytes())
    words = ["--programs", "hello", "--size", "tiny", "--rounds", "2", "--engine", "interp"]
    done = script(place / "compare", "HEAD", ".", *words, cwd=copy, env=env)
    if "is not installed" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["program", "hello", "geomean"]
    main = copy / "packages" / "vm-cli" / "src" / "vm_cli" / "__main__.py"
    main.write_text(
        'print("more", flush=True)\n' + main.read_text().replace("from __future__ import annotations", "")
    )
    git("commit", "-qam", "prints more")
    done = script(place / "compare", "HEAD~1", "HEAD", *words, cwd=copy, env=env)
    assert done.returncode == 1
    assert "the outputs differ" in done.stderr
    left = subprocess.run(
        ["git", "worktree", "list"], cwd=copy, env=env, capture_output=True, text=True, check=True
    )
    assert len(left.stdout.splitlines()) == 1
