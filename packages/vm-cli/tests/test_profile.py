"""``vm profile`` on programs whose hot function is known. Times are not judged, only which is the largest."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from vm_cli import chart
from vm_cli.options import PROFILE_OPTIONS, parse_run
from vm_cli.profile import Functions, Profile
from vm_core.errors import UsageError
from vm_core.testing.guests import BASE, program

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux",
    reason="the profiler needs an x86-64 Linux host",
)

# hot turns twenty times as often as cold. The marks say where the functions begin.
TEXT = """
_start: li s0, {count}
    call hot
    srli s0, s0, 4
    call cold
    li a7, 93
    li a0, 7
    ecall
hot: mv t0, s0
    addi t1, t1, 3
    xor t2, t2, t1
    addi t0, t0, -1
    bne t0, zero, -12
    ret
cold: mv t0, s0
    addi t1, t1, 3
    xor t2, t2, t1
    addi t0, t0, -1
    bne t0, zero, -12
    ret
"""
HOT, COLD = 8, 14
"""How many instructions stand in front of the two, where the count takes two."""


def with_symbols(image: bytes, symbols: dict[str, tuple[int, int]]) -> bytes:
    """An ELF file with a symbol table: the address and size of each function."""
    names, table = b"\0", bytes(24)
    for name, (address, size) in symbols.items():
        table += struct.pack("<IBBHQQ", len(names), 2, 0, 1, address, size)
        names += name.encode() + b"\0"
    at = len(image)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at, len(table), 2, 1, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at + len(table), len(names), 0, 0, 1, 0)
    out = bytearray(image + table + names + sections)
    struct.pack_into("<Q", out, 40, at + len(table) + len(names))
    struct.pack_into("<HHH", out, 58, 64, 3, 2)
    return bytes(out)


def guest(place: Path, count: int, *, stripped: bool = False) -> str:
    image = program(TEXT.format(count=count))
    if not stripped:
        image = with_symbols(
            image, {"_start": (BASE, 4 * HOT), "hot": (BASE + 4 * HOT, 24), "cold": (BASE + 4 * COLD, 24)}
        )
    path = place / "guest"
    path.write_bytes(image)
    path.chmod(0o755)
    return str(path)


def vm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("VM_")}
    cache = os.environ.get("VM_CACHE_DIR")
    environ |= {"VM_CONFIG": "", "NO_COLOR": "1"} | ({"VM_CACHE_DIR": cache} if cache else {})
    return subprocess.run(
        [sys.executable, "-m", "vm_cli", *words],
        capture_output=True,
        text=True,
        env=environ,
        stdin=subprocess.DEVNULL,
        timeout=200,
        check=False,
    )


def profile(*words: str | Path) -> Any:
    done = vm("profile", "--json", *words)
    assert done.returncode == 7, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def all_from_cache(image: str) -> bool:
    """Whether a run needed no region that was not kept already."""
    stats = json.loads(vm("run", "--engine", "jit", "--json", image).stderr.splitlines()[-1])["stats"]
    return bool(stats["regions_cached"] and not stats["regions_compiled"])


def of_guest(found: Any) -> list[str]:
    """The functions that are the guest's, what took longest first."""
    return [row["function"] for row in found["functions"] if row["function"][0] != "["]


@pytest.mark.parametrize(
    ("engine", "tier", "count"),
    [
        ("jit", "llvm", 250_000_000),
        ("baseline", "baseline", 60_000_000),
        ("interp", "interpreter", 20_000_000),
    ],
)
def test_the_hot_function_comes_first(tmp_path: Path, engine: str, tier: str, count: int) -> None:
    found = profile("--engine", engine, guest(tmp_path, count))
    assert of_guest(found)[0] == "hot"
    hot = next(row for row in found["functions"] if row["function"] == "hot")
    if engine != "jit":  # it begins in the other tiers, and LLVM may be slow today
        assert max(hot["tiers"], key=hot["tiers"].get) == tier
    assert hot["seconds"] == pytest.approx(sum(hot["tiers"].values()))
    cold = sum(row["seconds"] for row in found["functions"] if row["function"] == "cold")
    assert cold < hot["seconds"] / 2
    assert found["run"]["instructions"] > 4 * count
    assert found["lost"] == 0


def test_the_reference_executor_too(tmp_path: Path) -> None:
    found = profile("--engine", "reference", guest(tmp_path, 4_000))
    assert of_guest(found)[0] == "hot"
    assert found["tiers"][0]["tier"] == "emulation"


def test_what_json_holds(tmp_path: Path) -> None:
    found = profile("--engine", "baseline", guest(tmp_path, 30_000_000))
    assert set(found) == {
        "exit_status", "seconds", "samples", "lost", "tiers", "functions", "lines", "system_calls", "processes", "hot", "threads",
        "run",
    }  # fmt: skip
    assert found["exit_status"] == 7
    for rows in (found["tiers"], found["functions"]):
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["seconds"] for row in rows) == pytest.approx(found["seconds"]["sampled"])
        assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)
    assert "MainThread" in [row["thread"] for row in found["threads"]]


@pytest.mark.parametrize(("engine", "tier"), [("jit", "llvm"), ("baseline", "baseline")])
def test_hot_code_side_by_side(tmp_path: Path, engine: str, tier: str) -> None:
    image = guest(tmp_path, 1_000_000_000 if engine == "jit" else 30_000_000)
    if (
        engine == "jit"
    ):  # what LLVM makes is kept: below it is there from the start, however slow LLVM is today
        assert any(all_from_cache(image) for _ in range(12))
    found = profile("--engine", engine, "--hot", "1", image)["hot"]
    assert [piece["tier"] for piece in found] == [tier]
    rows = found[0]["rows"]
    assert sum(row["seconds"] for row in rows) <= found[0]["seconds"] * 1.001
    hottest = max(rows, key=lambda row: row["seconds"])
    assert hottest["function"] == "hot"
    assert hottest["seconds"] > 0
    assert all(row["host"] for row in rows)
    texts = [row["guest"] for row in rows]
    assert any(text in texts for text in ("xor t2, t2, t1", "addi t1, t1, 3", "addi t0, t0, -1"))
    lines = vm("profile", "--engine", engine, "--hot", "1", image).stderr.splitlines()
    assert any(" | " in line and "%" in line for line in lines)


def test_without_symbols_functions_are_where_calls_go(tmp_path: Path) -> None:
    found = profile("--engine", "baseline", guest(tmp_path, 60_000_000, stripped=True))
    assert of_guest(found)[0] == f"{BASE + 4 * HOT:#x}"


def test_functions(tmp_path: Path) -> None:
    for stripped in (False, True):
        functions = Functions(guest(tmp_path, 4_000, stripped=stripped))
        assert functions.stripped == stripped
        assert functions.name(BASE + 4 * HOT + 8) == (f"{BASE + 4 * HOT:#x}" if stripped else "hot")
        assert functions.name(0x1000) == "0x1000"


def test_files(tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.svg", "b.json", "c.folded")]
    words = [word for path in outputs for word in ("--output", str(path))]
    done = vm("profile", *words, "--engine", "interp", guest(tmp_path, 10_000_000))
    assert done.returncode == 7
    assert "hot" in done.stderr
    assert "interpreter" in done.stderr
    svg, scope, folded = outputs
    titles = [t.text for t in ET.parse(svg).getroot().iter("{http://www.w3.org/2000/svg}title")]
    assert any(re.fullmatch(r"hot: \d+\.\d{3} s, \d+\.\d%", title or "") for title in titles)
    data = json.loads(scope.read_text())
    names = [frame["name"] for frame in data["shared"]["frames"]]
    for one in data["profiles"]:
        assert len(one["samples"]) == len(one["weights"])
        assert sum(one["weights"]) == pytest.approx(one["endValue"])
        assert all(0 <= at < len(names) for sample in one["samples"] for at in sample)
    lines = [line.rpartition(" ") for line in folded.read_text().splitlines()]
    assert "hot" in [stack for stack, _, _ in lines]
    assert all(int(count) >= 0 for _, _, count in lines)


def test_the_guests_output_and_status_are_its_own(greeting: Path) -> None:
    done = vm("profile", str(greeting))
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "vm profile" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--output", "x.txt", "prog"),
        ("--top", "0", "prog"),
        ("--interval", "no", "prog"),
        (),
        ("--nope", "prog"),
    ],
)
def test_wrong_use(words: tuple[str, ...]) -> None:
    done = vm("profile", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("vm: error[VM001]: ")


def test_help_lists_its_own_options() -> None:
    done = vm("profile", "--help")
    assert done.returncode == 0
    assert "--interval MS" in done.stdout
    assert "--engine" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted"), [("vm profile --inter", "plain,--interval"), ("vm bench --rou", "plain,--rounds")]
)
def test_completion(words: str, wanted: str) -> None:
    variables = {"_VM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "vm_cli"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [wanted]


def test_own_options_are_no_options_of_run() -> None:
    line = parse_run(["-o", "x.svg", "--net", "prog", "--top", "3"], more=PROFILE_OPTIONS)
    assert line.more == [("output", "x.svg")]
    assert line.program == ["prog", "--top", "3"]
    with pytest.raises(UsageError):
        parse_run(["--top", "3", "prog"])


@pytest.mark.needs_cc
@pytest.mark.parametrize("options", [("-gdwarf-4",), ("-gdwarf-5",), ("-gdwarf-5", "-static-pie"), ()])
def test_lines_of_the_source(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Line 3 is a fifth of the loop's time: it runs long enough that some 40 samples fall there."""
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source = tmp_path / "loop.c"
    source.write_text(
        "int main(void) {\n"
        "    volatile unsigned long n = 0;\n"
        "    for (unsigned long i = 0; i < 100000000; i++)\n"
        "        n += i;\n"
        "    return 7;\n"
        "}\n"
    )
    subprocess.run(
        [compiler, "-O1", "-static", *options, "-o", tmp_path / "loop", source], check=True, timeout=100
    )
    found = profile("--engine", "interp", tmp_path / "loop")
    assert of_guest(found)[0] == "main"
    assert {row["line"] for row in found["lines"][:2]} == ({"loop.c:3", "loop.c:4"} if options else set())


@pytest.mark.needs_cc
def test_functions_of_shared_objects(tmp_path: Path) -> None:
    """Nearly all the time is strlen's, which the C library has."""
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source = tmp_path / "lengths.c"
    source.write_text("""
        #include <string.h>
        static char text[100001];
        int main(void) {
            unsigned long n = 0;
            memset(text, 'x', 100000);
            for (int i = 0; i < 400; i++)
                n += strlen(text + (i & 7));
            return n == 39998600 ? 7 : 1;
        }
    """)
    subprocess.run(
        [compiler, "-O1", "-fno-builtin", "-o", tmp_path / "lengths", source], check=True, timeout=100
    )
    found = profile("--engine", "interp", "-L", "/usr/riscv64-linux-gnu", tmp_path / "lengths")
    assert of_guest(found)[0] == "strlen (libc.so.6)"


@pytest.mark.needs_cc
def test_every_thread_is_sampled(tmp_path: Path) -> None:
    """Four threads that do the same."""
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source = tmp_path / "threads.c"
    source.write_text("""
        #include <pthread.h>
        static __attribute__((noinline)) void *spin(void *p) {
            volatile unsigned long n = 0;
            while (n < 30000000)
                n++;
            return p;
        }
        int main(void) {
            pthread_t t[4];
            for (int i = 0; i < 4; i++)
                pthread_create(&t[i], 0, spin, 0);
            for (int i = 0; i < 4; i++)
                pthread_join(t[i], 0);
            return 7;
        }
    """)
    subprocess.run(
        [compiler, "-O2", "-static", "-pthread", "-o", tmp_path / "threads", source], check=True, timeout=100
    )
    found = profile("--engine", "baseline", tmp_path / "threads")
    assert of_guest(found)[0] == "spin"
    guests = [row["seconds"] for row in found["threads"] if row["thread"].startswith("vm-guest")]
    assert len(guests) == 4
    assert min(guests) > max(guests) / 5


def test_a_flame_graph_has_every_box() -> None:
    kinds = {"x": ("kind & x", "#ff0000"), "y": ("y", "#00ff00")}
    stacks = {(("main", "x"), ("a<b", "x")): 3.0, (("main", "x"),): 1.0, (("[y]", "y"),): 4.0}
    root = ET.fromstring(chart.flame("T", "s", stacks, kinds))
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in root.iter(f"{space}g"):
        title, box = group.find(f"{space}title"), group.find(f"{space}rect")
        assert title is not None
        assert box is not None
        found[title.text] = (float(box.get("x") or 0), float(box.get("width") or 0))
    assert found == {
        "all: 8.000 s, 100.0%": (10, 1000),
        "main: 4.000 s, 50.0%": (10, 500),
        "a<b: 3.000 s, 37.5%": (10, 375),
        "[y]: 4.000 s, 50.0%": (510, 500),
    }


def test_recursion_is_shown_once() -> None:
    from vm_jit.profiler import Sample

    found = Profile({"llvm": "l"})
    found.take(
        [Sample("t", "llvm", (1, 1, 2, 2, 1), -1, 0.5), Sample("t", "llvm", tuple(range(100)), -1, 0.5)],
        lambda pc: f"f{pc}",
        str,
    )
    first, second = found.stacks
    assert [name for name, _ in first] == ["f1", "f2", "f1"]
    assert [name for name, _ in second][:2] == ["…", "f60"]
    assert second[-1][0] == "f99"


@pytest.mark.needs_cc
def test_child_processes_are_sampled(tmp_path: Path) -> None:
    """One that goes on with the program, and one that executes another."""
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source = tmp_path / "family.c"
    source.write_text("""
        #include <string.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static volatile unsigned long n;
        __attribute__((noinline)) void of_parent(void) { for (int i = 0; i < 20000000; i++) n += i; }
        __attribute__((noinline)) void of_child(void) { for (int i = 0; i < 40000000; i++) n += i; }
        __attribute__((noinline)) void of_other(void) { for (int i = 0; i < 30000000; i++) n += i; }
        int main(int argc, char **argv) {
            if (argc > 1) { of_other(); return 0; }
            if (!fork()) { of_child(); _exit(0); }
            if (!fork()) { execl(argv[0], "other", "x", (char *)0); _exit(1); }
            of_parent();
            wait(0), wait(0);
            return 7;
        }
    """)
    subprocess.run([compiler, "-O1", "-static", "-o", tmp_path / "family", source], check=True, timeout=100)
    folded = tmp_path / "out.folded"
    found = profile("--engine", "interp", "--output", folded, tmp_path / "family")
    names = of_guest(found)
    assert set(names[:3]) == {"of_parent", "of_child", "of_other (family)"}
    seconds = {row["function"]: row["seconds"] for row in found["functions"]}
    assert seconds["of_child"] > seconds["of_parent"]
    assert len({row["pid"] for row in found["processes"]}) == 3
    assert {row["program"] for row in found["processes"]} == {"family"}
    assert all(line.startswith(("family;", "[LLVM")) for line in folded.read_text().splitlines())


def test_it_is_confined_as_a_run_is(tmp_path: Path) -> None:
    image, out = guest(tmp_path, 1_000_000), tmp_path / "p.svg"
    walls = profile("--engine", "interp", image)["run"]["walls"]
    done = vm("run", "--json", "--engine", "interp", image)
    assert walls == json.loads(done.stderr.splitlines()[-1])["walls"]
    assert not profile("--sandbox", "off", "--engine", "interp", image)["run"]["walls"]
    out.write_text("x" * (1 << 20))  # longer than what comes in its place
    assert vm("profile", "-o", out, "--sandbox", "strict", "--engine", "interp", image).returncode == 7
    assert ET.parse(out).getroot().tag.endswith("svg")
    lost = vm("profile", "-o", tmp_path / "none" / "p.svg", image)
    assert lost.returncode == 125
    assert "No such file" in lost.stderr


def test_objdump_is_started_where_capstone_is_not(tmp_path: Path) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    hide = "import sys; sys.modules['capstone'] = None; from vm_cli.main import main; main()"
    words = ["profile", "--json", "--engine", "baseline", "--hot", "1", guest(tmp_path, 20_000_000)]
    done = subprocess.run(
        [sys.executable, "-c", hide, *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 7, done.stderr
    rows = json.loads(done.stderr.splitlines()[-1])["hot"][0]["rows"]
    assert any(re.match(r"(xor|add|mov|lea)\b", line) for row in rows for line in row["host"])
