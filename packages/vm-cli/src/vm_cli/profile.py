"""``vm profile``: run a program and show where its time went, by guest function and by what vm was doing."""

from __future__ import annotations

import bisect
import json
import os
import resource
import stat
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vm_cli.facts import result_facts
from vm_cli.launch import read_settings, run_guest, status_of
from vm_cli.options import PROFILE_OPTIONS, RunLine, help_text, parse_run
from vm_cli.relatives import Relatives
from vm_core.errors import HostError, UsageError

if TYPE_CHECKING:
    from vm_cli.chart import Frame
    from vm_cli.hot import Listing
    from vm_core.engine import Engine
    from vm_core.linux.process import Process
    from vm_core.memory import Region
    from vm_core.runner import RunResult
    from vm_jit.profiler import Sample

__all__ = ["Functions", "Profile", "profile_command"]

_CHILDREN: Final = "children"
_PROGRAM: Final = "program"
_NAMES: Final = {_CHILDREN: "LLVM, in processes of its own", _PROGRAM: "all of a program"}
_COLOURS: Final = {
    "llvm": "#7bc67e",
    "baseline": "#72b7b2",
    "interpreter": "#f2cf5b",
    "native call": "#e79bd0",
    "call": "#b279a2",
    "signal": "#d67195",
    "emulation": "#e45756",
    "decoding": "#f58518",
    "tiering": "#9ecae9",
    "compiling": "#88a0d8",
    "engine": "#bab0ac",
    "start": "#d8b5a5",
    "finish": "#9d755d",
    "other": "#cccccc",
    _CHILDREN: "#4c78a8",
    _PROGRAM: "#e0e0e0",
}
_DEEPEST, _SHOWN = 90, 40
_MOST_SWEPT: Final = 4 << 20
"""Bytes of code that are searched for calls in a program without symbols."""


class Functions:
    """The functions of a program by guest address: by its symbols, or where it has none by the places that its code calls.

    ``path`` is the program; ``root``, ``sysroot`` and ``binds`` as for ``vm run``.
    """

    def __init__(
        self, path: str, root: str | None = None, sysroot: str | None = None, binds: Sequence[str] = ()
    ) -> None:
        from vm_core.linux.objects import Objects
        from vm_core.linux.paths import Bind, Namespace
        from vm_core.loader import load
        from vm_core.memory import GuestMemory, Prot

        self._starts: list[int] = []
        self._ends: list[int] = []
        self._names: list[str] = []
        shown = tuple(Bind.parse(bind) for bind in binds)
        self._namespace = Namespace(root=root, sysroot=sysroot, binds=shown)
        self._path = self._inside(path) if root or (sysroot and os.path.isabs(path)) else path
        self._regions: list[Region] = []
        self._rows: tuple[list[int], list[str]] | None = None
        self._loaded: GuestMemory | None = None
        with GuestMemory() as memory:
            image = load(self._path, memory)
            self._base = image.base
            self.isa_name = image.isa_name
            self._objects = Objects(self._namespace, image.isa_name)
            code = [(r.start, r.end) for r in memory.regions() if r.prot & Prot.EXEC]
            for start, size, name in image.symbols.entries:
                if any(low <= start < high for low, high in code):
                    if self._starts and self._starts[-1] == start:
                        continue
                    self._starts.append(start)
                    self._ends.append(start + size if size else start + (1 << 16))
                    self._names.append(name)
            self.stripped = not self._starts
            if self.stripped:
                found = {image.entry}
                for low, high in code:
                    found |= _called(image.isa_name, memory.peek(low, min(high - low, _MOST_SWEPT)), low)
                self._starts = sorted(pc for pc in found if any(low <= pc < high for low, high in code))
                self._ends = [*self._starts[1:], max((high for _, high in code), default=0)]
                self._names = [f"{pc:#x}" for pc in self._starts]

    def _inside(self, path: str) -> str:
        """A name by which the host finds what a path of the guest's means; the path itself if it means nothing there."""
        try:
            with self._namespace.walk(self._namespace.start, path) as place:
                if place.node is None and place.mount is not None and place.mount.guest == "/":
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    # Open as long as this process lives: the lines of the source are read when they are asked for.
                    return f"/proc/self/fd/{os.open(place.name, flags, dir_fd=place.fd)}"
        except OSError:
            pass
        return path

    def add_objects(self, mapped: Iterable[Region]) -> None:
        """The shared objects that the program has mapped: theirs are the addresses in these regions."""
        self._regions = [one for one in mapped if all(not one.start <= s < one.end for s in self._starts)]

    def name(self, pc: int) -> str:
        """The function at a guest address, or the address."""
        at = bisect.bisect_right(self._starts, pc) - 1
        if at >= 0 and pc < self._ends[at]:
            return self._names[at]
        region = next((one for one in reversed(self._regions) if one.start <= pc < one.end), None)
        if region is None:
            return f"{pc:#x}"
        symbol = self._objects.symbols(region).name(pc)
        # Without a name, all of an object's is one: a label for each address would show nothing.
        return f"{symbol.partition('+0x')[0] or '?'} ({os.path.basename(region.name)})"

    def code(self, pc: int, length: int) -> bytes:
        """So many bytes of the program or of a shared object, as they are in its file; fewer where that ends."""
        from vm_core.errors import VmError
        from vm_core.loader import load
        from vm_core.memory import GuestMemory, MemoryFault

        region = next((one for one in reversed(self._regions) if one.start <= pc < one.end), None)
        if region is not None:
            try:
                with self._namespace.walk(self._namespace.start, region.name) as place:
                    fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
            except OSError:
                return b""
            try:
                return os.pread(fd, length, pc - region.start + region.offset)
            finally:
                os.close(fd)
        if self._loaded is None:
            self._loaded = GuestMemory()
            try:
                load(self._path, self._loaded)
            except (VmError, OSError):
                return b""
        try:
            return self._loaded.peek(pc, length)
        except MemoryFault:
            return b""

    def line(self, pc: int) -> str:
        """``file.c:12`` for a guest address; empty without debug information."""
        if self._rows is None:
            self._rows = self._read_lines()
        at = bisect.bisect_right(self._rows[0], pc) - 1
        return self._rows[1][at] if at >= 0 else ""

    def _read_lines(self) -> tuple[list[int], list[str]]:
        from vm_jit import dwarf

        found: dict[int, str] = {}
        try:
            # Of two rows at one address, the second is what is there, but for an end.
            for address, file, line in dwarf.rows(Path(self._path).read_bytes()):
                if line or address not in found:
                    found[address + self._base] = f"{os.path.basename(file)}:{line}" if line else ""
        except (OSError, ValueError, IndexError, struct.error):
            found.clear()  # damaged: as if there were none
        addresses = sorted(found)
        return addresses, [found[address] for address in addresses]


def _called(isa_name: str, data: bytes, start: int) -> set[int]:
    """The addresses that calls in some code go to."""
    from vm_core import isa as isas
    from vm_core.errors import VmError
    from vm_jit.region import static_value

    isa, found, at = isas.get(isa_name), set(), 0
    while at < len(data):
        try:
            insn = isa.decode(data[at : at + 15], start + at)
            if isa.flow(insn) == "call":
                for op in insn.template.ops:
                    if op.code == "setpc":
                        found.add(static_value(insn.template, op.args[0], insn, start + at) or 0)
            at += insn.length
        except VmError:
            at += isa.unit
    return found


def _seconds() -> defaultdict[Any, float]:
    return defaultdict(float)


def _most(row: Mapping[str, float]) -> list[tuple[str, float]]:
    """The largest first."""
    return sorted(row.items(), key=lambda item: -item[1])


@dataclass(slots=True)
class Profile:
    """What was sampled, in seconds of processor time. A stack is its frames, the outermost first: a label and a kind, which is a key of
    vm_jit.profiler.TIERS."""

    names: Mapping[str, str]
    stacks: dict[tuple[Frame, ...], float] = field(default_factory=_seconds)
    tiers: dict[str, float] = field(default_factory=_seconds)
    functions: dict[str, dict[str, float]] = field(default_factory=dict)
    lines: dict[str, float] = field(default_factory=_seconds)
    calls: dict[str, float] = field(default_factory=_seconds)
    threads: dict[str, list[tuple[tuple[Frame, ...], float]]] = field(default_factory=dict)
    processes: dict[tuple[int, str], float] = field(default_factory=dict)
    """By number and program, if there were child processes."""
    hot: list[Listing] = field(default_factory=list)
    samples: int = 0
    lost: int = 0
    cpu: float = 0.0
    wall: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.tiers.values())

    def add(self, thread: str, stack: tuple[Frame, ...], seconds: float) -> None:
        label, kind = stack[-1]
        self.stacks[stack] += seconds
        self.tiers[kind] += seconds
        self.functions.setdefault(label, _seconds())[kind] += seconds
        self.threads.setdefault(thread, []).append((stack, seconds))

    def take(
        self,
        found: Iterable[Sample],
        name: Callable[[int], str],
        call: Callable[[int], str],
        line: Callable[[int], str] = lambda _pc: "",
    ) -> None:
        """Add samples. ``name`` gives the function at a guest address, ``line`` the line of its source or nothing, ``call`` the name
        of a system call."""
        known: dict[tuple[str, tuple[int, ...], int], tuple[Frame, ...]] = {}
        for sample in found:
            self.samples += 1
            key = (sample.tier, sample.stack, sample.call)
            stack = known.get(key)
            if stack is None:
                frames = [(name(pc), sample.tier) for pc in sample.stack]
                # A function that calls itself is shown once; of the deepest stacks, the innermost part is known.
                frames = [one for i, one in enumerate(frames) if i == 0 or one != frames[i - 1]]
                if len(sample.stack) > _DEEPEST:
                    frames[:-_SHOWN] = [("…", sample.tier)]
                if sample.call >= 0:
                    frames.append((f"syscall {call(sample.call)}", sample.tier))
                stack = known[key] = tuple(frames) or ((f"[{self.names[sample.tier]}]", sample.tier),)
            if sample.call >= 0:
                self.calls[stack[-1][0].removeprefix("syscall ")] += sample.seconds
            elif sample.stack and (source := line(sample.stack[-1])):
                self.lines[source] += sample.seconds
            self.add(sample.thread, stack, sample.seconds)

    def merge(self, found: Mapping[str, Any]) -> float:
        """Add what a child process has sampled (vm_cli.relatives); returns the processor time that it took."""
        who = found["pid"], found["program"]
        for frames, seconds in found["stacks"]:
            stack = ((who[1], _PROGRAM), *((label, kind) for label, kind in frames))
            self.add(f"{who[1]} {who[0]}", stack, seconds)
            self.processes[who] = self.processes.get(who, 0.0) + seconds
        for name, seconds in found["calls"].items():
            self.calls[name] += seconds
        self.samples += found["samples"]
        return float(found["cpu"])

    def put_below(self, program: str) -> None:
        """Give the stacks that are not yet a program's a frame of this one."""
        stacks = _seconds()
        for stack, seconds in self.stacks.items():
            stacks[stack if stack[0][1] == _PROGRAM else ((program, _PROGRAM), *stack)] += seconds
        self.stacks = stacks

    def ordered(self) -> list[tuple[str, float, dict[str, float]]]:
        """The functions, what took longest first, each with its seconds, and these by kind."""
        rows = [(name, sum(row.values()), row) for name, row in self.functions.items()]
        return sorted(rows, key=lambda row: -row[1])

    # -- as files -----------------------------------------------------------------------------------------------

    def svg(self, title: str) -> str:
        """A flame graph."""
        from vm_cli import chart

        kinds = {kind: (self.names[kind], colour) for kind, colour in _COLOURS.items()}
        return chart.flame(title, "s", self.stacks, kinds)

    def folded(self) -> str:
        """One line a stack: its frames between semicolons, and its microseconds."""
        rows: defaultdict[str, int] = defaultdict(int)
        for stack, seconds in self.stacks.items():
            rows[";".join(label.replace(";", ":") for label, _ in stack)] += round(seconds * 1e6)
        return "".join(f"{row} {value}\n" for row, value in sorted(rows.items()))

    def speedscope(self, title: str) -> dict[str, Any]:
        """The file format of speedscope.app: the samples of each thread in their order."""
        frames: dict[Frame, int] = {}
        profiles = []
        for thread, rows in self.threads.items():
            profiles.append(
                {
                    "type": "sampled",
                    "name": thread,
                    "unit": "seconds",
                    "startValue": 0,
                    "endValue": sum(seconds for _, seconds in rows),
                    "samples": [
                        [frames.setdefault(frame, len(frames)) for frame in stack] for stack, _ in rows
                    ],
                    "weights": [seconds for _, seconds in rows],
                }
            )
        return {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "exporter": "vm profile",
            "name": title,
            "shared": {"frames": [{"name": label, "file": self.names[kind]} for label, kind in frames]},
            "profiles": profiles,
        }

    def text(self, ending: str, title: str) -> str:
        """One of the three, by a file name's ending."""
        match ending:
            case ".svg":
                return self.svg(title)
            case ".json":
                return json.dumps(self.speedscope(title)) + "\n"
            case _:
                return self.folded()

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        total = self.total or 1.0
        return {
            "seconds": {"wall": self.wall, "cpu": self.cpu, "sampled": self.total},
            "samples": self.samples,
            "lost": self.lost,
            "tiers": [
                {"tier": kind, "name": self.names[kind], "seconds": spent, "share": spent / total}
                for kind, spent in _most(self.tiers)
            ],
            "functions": [
                {"function": name, "seconds": spent, "share": spent / total, "tiers": dict(row)}
                for name, spent, row in self.ordered()
            ],
            "lines": [
                {"line": source, "seconds": spent, "share": spent / total}
                for source, spent in _most(self.lines)
            ],
            "system_calls": [{"name": name, "seconds": spent} for name, spent in _most(self.calls)],
            "processes": [
                {"pid": pid, "program": program, "seconds": spent}
                for (pid, program), spent in self.processes.items()
            ],
            "hot": [listing.facts() for listing in self.hot],
            "threads": [
                {"thread": name, "seconds": sum(seconds for _, seconds in rows)}
                for name, rows in self.threads.items()
            ],
        }


def profile_command(words: Sequence[str]) -> int:
    """``vm profile``: run the program, report to standard error, and return the exit status, which is the guest's."""
    line = parse_run(words, more=PROFILE_OPTIONS)
    if line.help:
        print(help_text("vm profile [OPTIONS] [--] PROGRAM [ARGUMENTS]...", _ABOUT, PROFILE_OPTIONS))
        return 0
    if not line.program:
        raise UsageError("no program is named", hint="vm profile [OPTIONS] PROGRAM [ARGUMENTS]...")
    paths, top, interval, hot = _options(line)
    outputs = _Outputs(paths)
    result, engine, profile = run_profiled(line, interval, hot, outputs.open)
    outputs.write(profile, " ".join([os.path.basename(line.program[0]), *line.program[1:]]))
    status = status_of(result)
    from vm_cli import show

    if line.json:
        facts = {"exit_status": status, **profile.facts(), "run": result_facts(result, engine)}
        sys.stderr.write(json.dumps(facts) + "\n")
    else:
        show.show_profile(profile, result, engine, top, _COLOURS)
        for listing in profile.hot:
            sys.stderr.write("\n" + listing.text(profile.total, profile.names))
        for path in paths:
            print(f"vm: written: {path}", file=sys.stderr)
    return status


class _Outputs:
    """The files to write. They are opened before the guest runs: later this process can open none, and a guest could have put a
    link in a file's place."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._files: list[int] = []

    def open(self) -> None:
        """Raises HostError."""
        for path in self._paths:
            try:
                self._files.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
            except OSError as error:
                raise HostError(f"{path}: {error.strerror}") from None

    def write(self, profile: Profile, title: str) -> None:
        """Raises HostError."""
        for path, fd in zip(self._paths, self._files, strict=True):
            text = profile.text(os.path.splitext(path)[1], title)
            try:
                with open(fd, "w", encoding="utf-8") as file:
                    if stat.S_ISREG(os.fstat(fd).st_mode):
                        file.truncate(0)
                    file.write(text)
            except OSError as error:
                raise HostError(f"{path}: {error.strerror}") from None


_ABOUT: Final = """\
Run a Linux program of another machine and show where its time went: by guest function, and by what vm was doing (its tiers of
code, system calls, start). The report goes to standard error. Compiled code that knows where it came from is cached apart
from that of vm run, so the first profile of a program compiles anew."""


def _options(line: RunLine) -> tuple[list[str], int, float, int]:
    """Output files, functions to show, seconds between samples, hot pieces to show. Raises UsageError before anything runs."""
    outputs, top, interval, hot = [], 20, 0.001, 0
    for name, value in line.more:
        try:
            if name == "output":
                if os.path.splitext(value)[1] not in (".svg", ".json", ".folded"):
                    raise UsageError(f"--output: {value!r} ends in none of .svg, .json and .folded")
                outputs.append(value)
            elif name == "top":
                top = int(value)
            elif name == "interval":
                interval = float(value) / 1000
            elif name == "hot":
                hot = int(value)
            if hot < 0 or top < 1 or not 0.0001 <= interval <= 1:
                raise ValueError
        except ValueError:
            raise UsageError(f"--{name}: {value!r} is out of range or no number") from None
    return outputs, top, interval, hot


def run_profiled(
    line: RunLine, interval: float, hot: int, before: Callable[[], None]
) -> tuple[RunResult, str, Profile]:
    """Run ``line``'s program; its result, the engine's name, and the profile, with so many ``hot`` pieces of code. ``interval`` is in
    seconds. ``before`` is called when the program is loaded; after it, this process is confined.

    Raises what :func:`vm_core.run` does.
    """
    from vm_core import isa as isas
    from vm_core.linux.abi import abi_of
    from vm_core.linux.table import ROWS
    from vm_core.memory import GuestMemory
    from vm_jit.cache import Cache
    from vm_jit.profiler import TIERS, Profiler

    if hot:
        from vm_cli.hot import disassemblers, listings
    settings = read_settings(line, os.environ)
    functions = Functions(line.program[0], settings.root, settings.sysroot, settings.bind)
    isa = isas.get(functions.isa_name)
    abi = abi_of(isa.name, isa.layout)
    numbers = {row.number(abi): row.name for row in ROWS}
    profile = Profile({**TIERS, **_NAMES})
    profiler = Profiler(interval, Cache(settings.cache_dir))
    wall, cpu = time.perf_counter(), time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    memories: list[GuestMemory] = []

    def watch(engine: Engine) -> Engine:
        if isinstance(memory := getattr(engine, "memory", None), GuestMemory):
            memories.append(memory)
        return profiler.watch(engine)

    relatives = Relatives(
        profiler,
        profile,
        functions,
        lambda number: numbers.get(number, str(number)),
        lambda: Profile({**TIERS, **_NAMES}),
    )
    programs = disassemblers() if hot else []

    def prepared(process: Process) -> None:
        relatives.watch(process)
        before()

    profiler.start()
    try:
        result, engine = run_guest(
            line.program,
            settings,
            os.environ,
            argv0=line.argv0,
            watch=watch,
            engine_options={"lines": True},
            confined=True,
            programs=programs,
            sampled=True,
            prepared=prepared,
        )
    finally:
        profiler.stop()
    functions.add_objects(region for memory in memories for region in memory.code_files)
    profile.wall, profile.cpu = time.perf_counter() - wall, time.process_time() - cpu
    profile.take(
        profiler.samples(), relatives.name, lambda number: numbers.get(number, str(number)), functions.line
    )
    profile.lost = profiler.lost
    own = profile.total
    sampled = sum(profile.merge(found) for found in relatives.found())
    if profile.processes:
        first = os.path.basename(line.program[0])[:15]
        profile.processes = {(os.getpid(), first): own, **profile.processes}
        profile.put_below(first)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    spent -= sampled
    if spent > 0:
        profile.add("processes", ((f"[{_NAMES[_CHILDREN]}]", _CHILDREN),), spent)
    if hot:
        profile.hot = listings(profiler.hot(hot), functions, isa)
    return result, engine, profile
