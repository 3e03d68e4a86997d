"""What the programs of a distribution do under vm, row by row, against qemu-user: writes docs/distribution.md.

    python tools/distribution.py tree --stage2 foreign --make --write   # makes the trees if they are not there, runs all, writes the page
    python tools/distribution.py tree                                   # all rows: a table
    python tools/distribution.py tree -k git -k test_json -v            # some rows, and how their outputs differ

The rows are in tools/distribution.toml. Each one is a script for the guest's bash that is run twice: by ``vm run --root tree:ro``,
and by qemu in a chroot of the same tree, where the kernel starts qemu for each program (binfmt_misc in a user namespace, Linux
6.7 or newer; nothing of the host or the tree is changed). A row is

* ok: the same output and exit status; of Python's test modules: no test fails that passes under qemu
* differs: it ran to its end with another output
* hangs: it was killed after the row's timeout
* crash: vm itself failed or died

Without such a kernel or qemu the outputs are compared with those kept in tools/distribution.json (``--record``).
``--write`` makes the page from the last result of each row. ``--stage2`` is a tree of ``debootstrap --foreign``; its second stage runs in a copy.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
ROWS: Final = ROOT / "tools/distribution.toml"
KEPT: Final = ROOT / "tools/distribution.json"
PAGE: Final = ROOT / "docs/distribution.md"
RESULTS: Final = ROOT / "build/distribution.json"
"""The last result of each row, from which the page is made: rows may be run one by one."""
SUITE: Final = "trixie"
_NO_MODULE: Final = "/(badsyntax_[^/]*|bad_coding2?)[.]py$"
"""What Python's tests have to be no Python."""
_TIMEOUT: Final = 300
_PR_SET_CHILD_SUBREAPER: Final = 36
_CLONE_NEWUSER: Final = 0x1000_0000

# The guest's variables are these, whatever the host's are.
_CLEAN: Final = (
    "/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LC_ALL=C.UTF-8",
    "TERM=dumb", "SHELL=/bin/bash", "USER=root", "LOGNAME=root",
)  # fmt: skip

_ORACLE: Final = r"""
set -e
tree=$1 writable=$2 qemu=$3; shift 3
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
top=$(mktemp -d); mount -t tmpfs tmpfs "$top"; mkdir "$top/up" "$top/work" "$top/root"
if [ "$writable" = 1 ]; then mount --rbind "$tree" "$top/root"
else mount -t overlay overlay -o "userxattr,lowerdir=$tree,upperdir=$top/up,workdir=$top/work" "$top/root"; fi
root=$top/root
[ -d "$root/proc" ] && [ ! -L "$root/proc" ] || { rm -f "$root/proc"; mkdir "$root/proc"; }
mount --rbind /proc "$root/proc"; mount --rbind /dev "$root/dev"; mount -t tmpfs tmpfs "$root/tmp"; chmod 1777 "$root/tmp"
# A qemu that is linked dynamically finds its libraries in the chroot; their names are not those of the guest's. Debian's
# maintainer scripts want /lib64 to be a link.
[ -e "$root/lib64" ] || { mkdir -p "$root/usr/lib64"; ln -s usr/lib64 "$root/lib64"; }
for place in /lib64 "$(dirname "$(ldd "$qemu" 2> /dev/null | awk '/libc.so/ { print $3 }')")"; do
  [ "$place" = . ] || [ ! -d "$place" ] || { mkdir -p "$root$place"; mount --bind "$place" "$root$place"; }
done
printf '%s\n' ':oracle:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:'"$qemu"':PF' > /proc/sys/fs/binfmt_misc/register
cd /
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Row:
    """What is run, from tools/distribution.toml."""

    group: str
    name: str
    script: str = ""
    python: str = ""
    """Test modules of the distribution's Python, in the place of a script."""
    select: tuple[str, ...] = ()
    """Patterns of the tests to run of them; all without."""
    stage2: bool = False
    trust: bool = False
    """By vm run --trust --root, where this is root, and without a comparison: qemu is in a user namespace."""
    net: bool = False
    needs: tuple[str, ...] = ()
    timeout: int = _TIMEOUT

    def words(self) -> list[str]:
        """The guest's command line."""
        if self.stage2:
            # As in a container, no device is made: in a user namespace nobody can, and vm's confined guests never can.
            how = [] if self.trust else ["container=lxc"]
            return [*_CLEAN, *how, "/debootstrap/debootstrap", "--second-stage"]
        script = self.script
        if self.python:
            modules = " ".join(f"test.{m}" if "." in m else m for m in self.python.split())
            patterns = " ".join(f"-m '{pattern}'" for pattern in self.select)
            script = f"python3 -m test -v {patterns} {modules} 2>&1"
        return [*_CLEAN, "/bin/bash", "-c", f"cd $(mktemp -d /tmp/row.XXXXXX); {script}"]


@dataclass
class Run:
    """What came of a row on one side. ``tests`` are what ran of Python's, ``bad`` those that failed, by name."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    """Processor time, of all processes that were waited for."""
    hung: bool = False
    tests: int = 0
    skipped: int = 0
    bad: list[str] = field(default_factory=list)


@dataclass
class Result:
    """A row's verdict."""

    group: str
    name: str
    verdict: str
    note: str = ""
    vm: Run | None = None
    qemu: Run | None = None
    load: float = 0.0
    """The load average before."""


def load_rows(path: Path = ROWS) -> list[Row]:
    """The rows of the file."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Row(**{key: tuple(v) if isinstance(v, list) else v for key, v in row.items()})
        for row in document["row"]
    ]


# -- running ----------------------------------------------------------------------------------------------------------


def _end_children() -> None:
    """Kill what a row left behind. Such processes became ours (PR_SET_CHILD_SUBREAPER)."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        children = [
            int(pid)
            for file in Path("/proc/self/task").glob("*/children")
            for pid in file.read_text().split()
        ]
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def run(command: Sequence[str], timeout: float, *, prepare: Callable[[], None] | None = None) -> Run:
    """Run one side of a row to its end, or to the timeout's."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
        )
        end = time.monotonic() + timeout
        hung, pid, state = False, 0, 0
        while not pid:
            pid, state, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end and not hung:
                hung = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(state)
        seconds = usage.ru_utime + usage.ru_stime
        _end_children()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
    return Run(process.returncode, texts[0], texts[1], round(seconds, 2), hung)


_RAN: Final = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
_SKIPPED: Final = re.compile(r"^(?:OK|FAILED) \(.*?skipped=(\d+)", re.MULTILINE)
_BAD: Final = re.compile(r"^(?:FAIL|ERROR): (\S+ \([^)]*\))", re.MULTILINE)


def read_tests(result: Run) -> None:
    """Find what unittest said."""
    result.tests = sum(map(int, _RAN.findall(result.stdout)))
    result.skipped = sum(map(int, _SKIPPED.findall(result.stdout)))
    result.bad = sorted(set(_BAD.findall(result.stdout)))


class Oracle:
    """qemu in a chroot of the tree, inside namespaces of its own. ``why`` says why not, if it cannot be."""

    def __init__(self, tree: Path, scratch: Path) -> None:
        self.script = scratch / "oracle.sh"
        self.script.write_text(_ORACLE)
        self.why = ""
        found = shutil.which("qemu-riscv64-static") or shutil.which("qemu-riscv64")
        self.qemu = os.path.realpath(found) if found else ""
        if not found:
            self.why = "qemu-riscv64 is not installed"
            return
        probe = run(
            [*self._command(tree), "/bin/bash", "-c", "uname -m; /bin/uname -m"], 60, prepare=_own_users
        )
        self.version = ""
        if probe.stdout != "riscv64\nriscv64\n":
            last = (probe.stderr.strip().splitlines() or ["no output"])[-1]
            self.why = f"qemu cannot start programs of programs here: {last}"
        version = subprocess.run([self.qemu, "--version"], capture_output=True, text=True, check=False)
        self.version = (version.stdout.splitlines() or [""])[0].split("(")[0].strip()

    def _command(self, tree: Path, *, writable: bool = False) -> list[str]:
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*apart, "/bin/sh", str(self.script), str(tree), "1" if writable else "0", self.qemu]

    def run(self, row: Row, tree: Path) -> Run:
        return run([*self._command(tree, writable=row.stage2), *row.words()], row.timeout, prepare=_own_users)


def _own_users() -> None:
    """Put this process into a user namespace: with all the users below 65536 if it is root's, so that chown works, else alone."""
    parent = os.getpid()
    user, group = os.geteuid(), os.getegid()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:  # stays outside, where it may say who is who inside
        os.read(ready, 1)
        place = Path("/proc", str(parent))
        if user:
            (place / "setgroups").write_text("deny")
        (place / "uid_map").write_text("0 0 65536" if user == 0 else f"0 {user} 1")
        (place / "gid_map").write_text("0 0 65536" if user == 0 else f"0 {group} 1")
        os._exit(0)
    # SAFETY: a number; nothing is read or written through a pointer.
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        os.write(2, b"no user namespace can be made\n")
    os.write(go, b"x")
    os.waitpid(child, 0)
    os.close(ready)
    os.close(go)


def under_vm(vm: Sequence[str], row: Row, tree: Path) -> Run:
    """The row under vm, in a tree that cannot be written and a /tmp of its own."""
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o1777)
        options = (
            ["--root", str(tree), *(["--trust"] if row.trust else [])]
            if row.stage2
            else ["--root", f"{tree}:ro", "--bind", f"{tmp}:/tmp"]
        )
        if row.net:
            options.append("--net")
        # Who is not root is root of a user namespace, as debootstrap wants to be.
        apart = _own_users if row.stage2 and os.geteuid() != 0 else None
        return run([*vm, "run", *options, *row.words()], row.timeout, prepare=apart)


def verdict(row: Row, ours: Run, theirs: Run | None) -> tuple[str, str]:
    """The verdict on a row and a note, from the runs of both sides."""
    if "error[VM" in ours.stderr or ours.status in (
        125,
        -signal.SIGSEGV,
        -signal.SIGABRT,
        -signal.SIGBUS,
        -signal.SIGILL,
    ):
        lines = [line for line in ours.stderr.splitlines() if "error[VM" in line]
        return "crash", (lines or [f"exit status {ours.status}"])[-1]
    if ours.hung:
        return "hangs", f"no end after {row.timeout} s"
    if theirs is None:
        return ("ok" if ours.status == 0 and not ours.bad else "differs"), "not compared"
    if row.python:
        worse = [name for name in ours.bad if name not in theirs.bad]
        if not ours.tests:
            return "differs", "no test ran"
        if worse:
            return "differs", f"{len(worse)} that qemu passes: " + ", ".join(
                name.split(" ")[0] for name in worse
            )
        if ours.tests < theirs.tests:
            return "differs", f"{ours.tests} tests ran, {theirs.tests} under qemu"
        if theirs.hung:
            return "ok", f"qemu: no end after {row.timeout} s"
        return "ok", f"qemu fails {len(theirs.bad)}" if theirs.bad else ""
    if theirs.hung:
        return ("ok" if ours.status == 0 else "differs"), f"qemu: no end after {row.timeout} s; not compared"
    if ours.stdout == theirs.stdout and ours.status == theirs.status:
        return "ok", ""
    if ours.status != theirs.status:
        return "differs", f"exit status {ours.status}, {theirs.status} under qemu"
    changed = [
        line for line in difflib.unified_diff(theirs.stdout.splitlines(), ours.stdout.splitlines(), n=0, lineterm="")
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]  # fmt: skip
    return "differs", f"{len(changed)} lines: {changed[0][:60]!r}" if changed else "line ends"


def packages_of(tree: Path) -> tuple[int, int]:
    """How many packages dpkg's status has as installed, and how many it has."""
    text = (tree / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    states = re.findall(r"^Status: (.*)$", text, re.MULTILINE)
    return states.count("install ok installed"), len(states)


@contextmanager
def copy_of(tree: Path, scratch: Path) -> Iterator[Path]:
    """A copy of a tree that may be changed."""
    place = scratch / "copy"
    subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(place)], check=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


_OWN_FILES: Final = re.compile(
    r"proc|(usr/)?lib64|usr/lib/\w+-linux-gnu|var/log/.*|var/cache/ldconfig/aux-cache"
)
"""What two trees have that differs for other reasons: the oracle's mounts, times in logs."""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


def files_of(tree: Path) -> dict[str, tuple[int, int, int, str]]:
    """What lies in a tree: mode, owner, group and contents by path."""
    found = {}
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = Path(directory, name)
            place, info = str(path.relative_to(tree)), path.lstat()
            if _OWN_FILES.fullmatch(place):
                continue
            what = ""
            if stat.S_ISLNK(info.st_mode):
                what = str(path.readlink())
            elif stat.S_ISREG(info.st_mode):
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            elif not stat.S_ISDIR(info.st_mode):
                what = str(info.st_rdev)
            found[place] = (info.st_mode, info.st_uid, info.st_gid, what)
    return found


def compare_trees(ours: Path, theirs: Path, *, bits: bool) -> tuple[bool, str]:
    """Whether two trees have the same files, and a note. Without ``bits``, set-ID bits may be missing in ours."""
    mine, wanted = files_of(ours), files_of(theirs)
    different, dropped = [], 0
    for place in sorted(mine.keys() | wanted.keys()):
        a, b = mine.get(place), wanted.get(place)
        if a == b:
            continue
        if a and b and not bits and (a[0], *a[1:]) == (b[0] & ~_SET_ID, *b[1:]):
            dropped += 1
        else:
            different.append(place)
    if different:
        return (
            False,
            f"{len(different)} of {len(wanted)} files differ from qemu's, the first is {different[0]}",
        )
    same = f"{len(wanted)} files as under qemu"
    return True, same + (f", {dropped} without their set-ID bits" if dropped else "")


def second_stage(vm: Sequence[str], row: Row, tree: Path, oracle: Oracle | None, scratch: Path) -> Result:
    """debootstrap's second stage on both sides, judged by its end, by what is installed then and by all files."""
    if row.trust and os.geteuid() != 0:
        return Result(row.group, row.name, "skipped", "this is not root")
    theirs, known = None, scratch / "second-stage"
    if oracle is not None:
        # One of qemu's is enough, however often vm is compared with it.
        again = known.exists()
        if not again:
            subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(known)], check=True)
            theirs = oracle.run(row, known)
    with copy_of(tree, scratch) as place:
        ours = under_vm(vm, row, place)
        installed, packages = packages_of(place)
        word, note = verdict(row, ours, None)
        if word in ("ok", "differs"):
            word = "ok" if ours.status == 0 and installed == packages else "differs"
            note = f"{installed} of {packages} packages configured"
            note += f", exit status {ours.status}" if ours.status else ""
            if oracle is not None:
                same, files = compare_trees(place, known, bits=row.trust)
                word, note = word if same else "differs", f"{note}; {files}"
            if theirs is not None and theirs.status != 0:
                note += f"; under qemu exit status {theirs.status}"
    return Result(row.group, row.name, word, note, ours, theirs)


# -- the table --------------------------------------------------------------------------------------------------------


def _tests(result: Result) -> str:
    ours = result.vm
    if ours is None or not ours.tests:
        return ""
    return f"{ours.tests - ours.skipped - len(ours.bad)} of {ours.tests - ours.skipped}"


def _time(side: Run | None) -> str:
    return f"{side.seconds:.1f}" if side is not None and not side.hung else ""


def _fact(tree: Path, *places: str) -> str:
    for place in places:
        with suppress(OSError):
            return (tree / place).read_text().strip()
    return "unknown"


def _versions(tree: Path) -> dict[str, str]:
    """The versions of packages of the tree that say most about it."""
    text = _fact(tree, "var/lib/dpkg/status")
    found = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", text, re.MULTILINE))
    return {
        name: found[name]
        for name in ("libc6", "bash", "python3.13", "perl", "gcc-14", "git")
        if name in found
    }


def _conditions(results: Sequence[Result]) -> str:
    """The machine, and how busy it was."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    loads = [result.load for result in results if result.load]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    busy = f"; when a row began, the load average was {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return (
        f"{len(os.sched_getaffinity(0))} processors ({model or platform.machine()}), {memory:.0f} GiB, Linux"
        f" {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}, as {who}{busy}"
    )


def make_trees(vm: Sequence[str], tree: Path, stage2: Path | None) -> None:
    """Make those that are not there. Raises CalledProcessError."""
    if not tree.exists():
        create = ["sysroot", "create", "riscv64", "--suite", SUITE, "--output", str(tree)]
        packages = tomllib.loads(ROWS.read_text(encoding="utf-8"))["packages"]
        subprocess.run([*vm, *create, *packages], check=True)
        # As the scripts of Python's packages do when they are installed. vm's rows cannot write into the tree: they would compile each
        # module each time that Python starts, and qemu's, which have a layer above it to write to, only the first time.
        compiled = ["/usr/bin/python3", "-m", "compileall", "-q", "-x", _NO_MODULE, "/usr/lib/python3.13"]
        subprocess.run([*vm, "run", "--root", str(tree), *compiled], check=True)
    if stage2 is not None and not stage2.exists():
        foreign = ["--arch", "riscv64", "--foreign", "--variant", "minbase"]
        subprocess.run(["debootstrap", *foreign, SUITE, str(stage2)], check=True)


def page(results: Sequence[Result], tree: Path, oracle: str) -> str:
    """docs/distribution.md."""
    good = sum(result.verdict == "ok" for result in results)
    versions = ", ".join(f"{name} {version}" for name, version in _versions(tree).items())
    lines = [
        "# What a distribution's programs do",
        "",
        "Made by `tools/distribution.py`, which says how; the rows' scripts are in `tools/distribution.toml`.",
        "",
        (
            f"Debian {_fact(tree, 'etc/debian_version')} for riscv64{f' ({versions})' if versions else ''}, compared with {oracle}."
            f" {good} of {len(results)} rows are as they should be. Times are seconds of processor time, of one run each, starting vm"
            " and compiling included."
        ),
        "",
        f"Run on {_conditions(results)}. The same again, trees included (the second one by `debootstrap`, as root):",
        "",
        "```sh",
        "python tools/distribution.py tree --stage2 foreign --make --write",
        "```",
        "",
        "| program | what | | tests passed | vm | qemu | |",
        "|---|---|---|---|---|---|---|",
    ]
    group = ""
    for result in results:
        shown = "" if result.group == group else result.group
        group = result.group
        word = result.verdict if result.verdict == "ok" else f"**{result.verdict}**"
        note = result.note.replace("|", "\\|").replace("<", "&lt;")
        lines.append(
            f"| {shown} | {result.name} | {word} | {_tests(result)} | {_time(result.vm)} | {_time(result.qemu)} | {note} |"
        )
    return "\n".join(lines) + "\n"


def _diff(result: Result) -> str:
    ours, theirs = result.vm, result.qemu
    if ours is None:
        return ""
    lines = list(
        difflib.unified_diff(
            (theirs.stdout if theirs else "").splitlines(),
            ours.stdout.splitlines(),
            "qemu",
            "vm",
            lineterm="",
        )
    )
    return "\n".join([*lines[:60], *(f"stderr: {line}" for line in ours.stderr.splitlines()[-15:])])


def _chosen(rows: Sequence[Row], words: Sequence[str]) -> list[Row]:
    if not words:
        return list(rows)
    return [row for row in rows if any(word.lower() in f"{row.group}: {row.name}".lower() for word in words)]


def _missing(row: Row, tree: Path) -> str:
    for name in row.needs:
        if not any((tree / place / name).exists() for place in ("usr/bin", "usr/sbin", "bin", "sbin")):
            return f"{name} is not in the tree"
    if row.python:
        library = next(tree.glob("usr/lib/python3.*/test/test_json"), None)
        if library is None:
            return "Python's tests are not in the tree (libpython3.x-testsuite)"
    return ""


def _one(
    row: Row, args: argparse.Namespace, oracle: Oracle | None, kept: dict[str, Any], scratch: Path
) -> Result:
    if row.stage2:
        if args.stage2 is None:
            return Result(row.group, row.name, "skipped", "no --stage2 TREE")
        return second_stage(args.vm, row, args.stage2, oracle, scratch)
    missing = _missing(row, args.tree)
    if missing:
        return Result(row.group, row.name, "skipped", missing)
    ours = under_vm(args.vm, row, args.tree)
    theirs = oracle.run(row, args.tree) if oracle else None
    if theirs is None and row.name in kept:
        theirs = Run(stderr="", seconds=0, **kept[row.name])
    for side in (ours, theirs):
        if side is not None and row.python and (side is ours or oracle):
            read_tests(side)
    return Result(row.group, row.name, *verdict(row, ours, theirs), ours, theirs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, nargs="?", help="the tree of a distribution for riscv64")
    parser.add_argument(
        "-k",
        dest="words",
        action="append",
        default=[],
        metavar="WORD",
        help="rows whose group or name has it",
    )
    parser.add_argument("--stage2", type=Path, metavar="TREE", help="a tree of debootstrap --foreign")
    parser.add_argument("--make", action="store_true", help="make the trees that are not there")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--write", action="store_true", help="write docs/distribution.md")
    parser.add_argument(
        "--record", action="store_true", help="keep qemu's outputs, for hosts that cannot run it"
    )
    parser.add_argument("--no-qemu", action="store_true", help="compare with what was kept")
    parser.add_argument("--vm", type=str.split, default=[sys.executable, "-m", "vm_cli"], metavar="COMMAND")
    parser.add_argument("-v", "--verbose", action="store_true", help="show how outputs differ")
    return parser.parse_args()


def main() -> int:
    args = _arguments()
    rows = _chosen(load_rows(), args.words)
    if args.list:
        print("\n".join(f"{row.group}: {row.name}" for row in rows))
        return 0
    if args.make and args.tree is not None:
        try:
            make_trees(args.vm, args.tree, args.stage2)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"the trees cannot be made: {error}", file=sys.stderr)
            return 2
    if args.tree is None or not (args.tree / "bin/bash").exists():
        print(f"{args.tree or 'TREE'}: not the tree of a distribution (no bin/bash)", file=sys.stderr)
        return 2
    if not rows:
        print("no such row; --list names them", file=sys.stderr)
        return 2
    args.tree = args.tree.resolve()
    # As from a terminal, also if a shell's & has these ignored: the rows' programs would have them ignored too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # SAFETY: plain numbers; nothing is read or written through a pointer.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        oracle: Oracle | None = None if args.no_qemu else Oracle(args.tree, scratch)
        if oracle is not None and oracle.why:
            print(f"compared with what was kept: {oracle.why}", file=sys.stderr)
            oracle = None
        for number, row in enumerate(rows, 1):
            _progress(number, len(rows), row)
            load = os.getloadavg()[0]
            results.append(replace(_one(row, args, oracle, kept, scratch), load=round(load, 1)))
            _say(results[-1], verbose=args.verbose)
            _remember(results[-1:])
    against = oracle.version if oracle else "what qemu wrote before (tools/distribution.json)"
    if args.record:
        python = {row.name for row in load_rows() if row.python}
        for result in _remembered():
            if result.qemu is not None and not result.qemu.hung and not result.name.startswith("debootstrap"):
                facts = asdict(result.qemu)
                kept[result.name] = {key: facts[key] for key in ("status", "tests", "skipped", "bad")}
                kept[result.name]["stdout"] = "" if result.name in python else result.qemu.stdout
        KEPT.write_text(
            json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    if args.write:
        PAGE.write_text(page(_remembered(), args.tree, against), encoding="utf-8")
    return 0 if all(result.verdict in ("ok", "skipped") for result in results) else 1


def _remember(results: Sequence[Result]) -> None:
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    kept.update({result.name: asdict(result) for result in results})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _remembered() -> list[Result]:
    """What is kept, in the order of the rows; a row that never ran is named as such."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    out = []
    for row in load_rows():
        facts = kept.get(row.name)
        if facts is None:
            out.append(Result(row.group, row.name, "skipped", "not run"))
            continue
        sides = {side: Run(**facts[side]) if facts[side] else None for side in ("vm", "qemu")}
        load = facts.get("load", 0.0)
        out.append(Result(facts["group"], facts["name"], facts["verdict"], facts["note"], **sides, load=load))
    return out


def _progress(number: int, total: int, row: Row) -> None:
    if sys.stderr.isatty():
        done = "━" * (20 * (number - 1) // total)
        sys.stderr.write(f"\r\x1b[K{done:<20} {number}/{total} {row.group}: {row.name}")
        sys.stderr.flush()


def _say(result: Result, *, verbose: bool) -> None:
    times = f"{_time(result.vm) or '-':>7} {_time(result.qemu) or '-':>7}"
    begin = "\r\x1b[K" if sys.stderr.isatty() else ""
    tests = f" [{_tests(result)}]" if _tests(result) else ""
    print(
        f"{begin}{result.verdict:8}{times}  {result.group}: {result.name}{tests} {result.note}",
        file=sys.stderr,
    )
    if verbose and result.verdict not in ("ok", "skipped"):
        print(_diff(result), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
