"""The command line of ``vm run`` and of the multi-call names, read without click (which takes 40 ms to import).

One grammar serves both: long options (``--engine jit``, ``--engine=jit``, ``--no-net``), short ones (``-E K=V``,
``-EK=V``) and qemu-user's words (``-strace``). The first word that is no option is the program; all behind it is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from vm_cli.settings import ROWS, Row
from vm_core.errors import UsageError
from vm_core.hints import Final
from vm_core.record import field, record

__all__ = ["BENCH_OPTIONS", "EXTRAS", "PROFILE_OPTIONS", "Extra", "RunLine", "help_text", "parse_run"]


@record(frozen=True)
class Extra:
    """An option of ``vm run`` that is no setting. ``metavar`` is empty for one that stands alone."""

    name: str
    flags: tuple[str, ...]
    metavar: str
    doc: str


EXTRAS: Final = (
    Extra("argv0", ("-0", "--argv0"), "NAME", "What the guest sees as its own name."),
    Extra(
        "gdb",
        ("-g", "--gdb"),
        "PORT",
        "Wait for gdb at this port of the loopback interface, HOST:PORT or unix:PATH before the first instruction.",
    ),
    Extra(
        "cpu",
        ("-cpu", "--cpu"),
        "MODEL",
        "Accepted for qemu's sake; vm has one model a machine, its largest.",
    ),
    Extra(
        "json",
        ("--json",),
        "",
        "Print the result as one line of JSON on standard error, after the guest ends.",
    ),
    Extra("help", ("-h", "-help", "--help"), "", "Show this and exit."),
    Extra("version", ("-version", "--version"), "", "Show the version and exit."),
)

PROFILE_OPTIONS: Final = (
    Extra(
        "output",
        ("-o", "--output"),
        "FILE",
        "Also write FILE: .svg is a flame graph, .json for speedscope, .folded one line a stack. Repeatable.",
    ),
    Extra("top", ("--top",), "N", "Show so many functions (20)."),
    Extra(
        "hot",
        ("--hot",),
        "N",
        "Also show the N hottest pieces of code, the guest's and the host's side by side.",
    ),
    Extra("interval", ("--interval",), "MS", "Milliseconds of processor time between samples (1)."),
)
"""What ``vm profile`` takes beside the options of ``vm run``."""

BENCH_OPTIONS: Final = (
    Extra(
        "native",
        ("--native",),
        "PATH",
        "The same program built for this host: what the others are compared with.",
    ),
    Extra("rounds", ("-n", "--rounds"), "N", "Runs of each column (5)."),
    Extra(
        "column",
        ("-c", "--column"),
        "COLUMN",
        "native, qemu, ENGINE cold, ENGINE warm, or NAME=OPTIONS of vm run. Repeatable; without it, all there are.",
    ),
    Extra("output", ("-o", "--output"), "FILE", "Also write a chart (.svg)."),
)
"""What ``vm bench`` takes beside the options of ``vm run``."""

_OPTIONS: Final[tuple[Row | Extra, ...]] = (*(row for row in ROWS if row.flags), *EXTRAS)

# What qemu-user has and vm does not, with the reason.
_REFUSED: Final[dict[str, str]] = {
    "-d": "there are no qemu log items here; --log and --strace show what vm does",
    "-D": "messages go to standard error",
    "-B": "guest memory is an arena of its own and has no base in the host's",
    "-R": "guest memory is an arena of its own; --memory caps it",
    "-p": "the page size is 4096",
    "-plugin": "there are no TCG plugins here",
    "-seed": "the guest's random numbers come from the host",
    "-one-insn-per-tb": "there are no translation blocks; --engine reference runs one instruction at a time",
}


@record()
class RunLine:
    """A parsed command line. ``flags`` is what :func:`vm_cli.settings.apply_flags` takes; ``more`` are the options of one command
    only, by name, with their values."""

    program: list[str] = field(default_factory=list)
    flags: list[tuple[str, str, str]] = field(default_factory=list)
    argv0: str | None = None
    json: bool = False
    help: bool = False
    version: bool = False
    cpu: str | None = None
    gdb: str | None = None
    more: list[tuple[str, str]] = field(default_factory=list)


def _table(more: Sequence[Extra]) -> dict[str, Row | Extra]:
    table: dict[str, Row | Extra] = {}
    for entry in (*_OPTIONS, *more):
        for flag in entry.flags:
            table[flag] = entry
    return table


def parse_run(words: Sequence[str], *, qemu: bool = False, more: Sequence[Extra] = ()) -> RunLine:
    """Read the words behind ``vm run``, or with ``qemu`` behind ``vm-riscv64``, or behind a command that takes ``more`` options.

    ``qemu`` splits ``-E A=1,B=2`` at commas as qemu does. Raises UsageError.
    """
    table = _table(more)
    line = RunLine()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            rest.insert(0, word)
            break
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        negated = name.startswith("--no-") and name not in table and "--" + name[5:] in table
        entry = table.get("--" + name[5:] if negated else name)
        if entry is None and not word.startswith("--") and _takes_value(table.get(word[:2])):
            name, equals, value, entry = word[:2], "=", word[2:], table[word[:2]]
        if entry is None and word.startswith("--") and name[1:] in table:  # qemu takes both dashes
            entry = table[name[1:]]
        if entry is None:
            raise _unknown(name, table)
        if not _takes_value(entry):
            optional = isinstance(entry, Row) and entry.kind.optional and not negated
            if (equals and not optional) or (negated and isinstance(entry, Extra)):
                raise UsageError(f"{name} takes no value" if equals else f"there is no option {name}")
            if optional and equals:
                _take(line, entry, value, name, qemu=qemu, own=False)
                continue
            _take(line, entry, "0" if negated else "1", name, qemu=qemu, own=entry in more)
            continue
        if negated:
            raise _unknown(name, table)
        if not equals:
            if not rest:
                raise UsageError(f"{name} needs a value ({_metavar(entry)})")
            value = rest.pop(0)
        _take(line, entry, value, name, qemu=qemu, own=entry in more)
    line.program = rest
    return line


def _takes_value(entry: Row | Extra | None) -> bool:
    if isinstance(entry, Row):
        return not entry.kind.is_flag
    return entry is not None and bool(entry.metavar)


def _negates(entry: Row | Extra) -> bool:
    return isinstance(entry, Row) and entry.kind.is_flag


def _metavar(entry: Row | Extra) -> str:
    return (entry.kind.metavar or entry.kind.name.upper()) if isinstance(entry, Row) else entry.metavar


def _take(line: RunLine, entry: Row | Extra, value: str, spelling: str, *, qemu: bool, own: bool) -> None:
    if own:
        line.more.append((entry.name, value))
    elif isinstance(entry, Row):
        parts = (
            value.split(",")
            if (qemu and entry.name in ("env", "unset_env")) or entry.name == "strace_times"
            else [value]
        )
        line.flags.extend((entry.name, part, spelling) for part in parts)
    elif entry.name in ("argv0", "cpu", "gdb"):
        setattr(line, entry.name, value)
    else:
        setattr(line, entry.name, True)


def _unknown(name: str, table: dict[str, Row | Extra]) -> UsageError:
    if name in _REFUSED:
        return UsageError(f"{name} is an option of qemu that vm does not have", hint=_REFUSED[name])
    import difflib  # only for a mistake

    near = difflib.get_close_matches(name, table, 1)
    return UsageError(
        f"there is no option {name}",
        hint=f"did you mean {near[0]}?"
        if near
        else "vm run --help lists the options; the guest's own go behind --",
    )


_ABOUT: Final = "Run a Linux program of another machine. Its exit status becomes that of vm."


def help_text(usage: str, about: str = _ABOUT, more: Sequence[Extra] = ()) -> str:
    """The options, one a line; ``more`` first."""
    lines = [f"Usage: {usage}", "", about, "", "Options:"]
    for entry in (*more, *_OPTIONS):
        metavar = f" {_metavar(entry)}" if _takes_value(entry) else ""
        flags = (
            [f"--[no-]{f[2:]}" if f.startswith("--") else f for f in entry.flags]
            if _negates(entry)
            else entry.flags
        )
        names = ", ".join(flags) + metavar
        gap = "\n" + " " * 30 if len(names) > 26 else " " * (28 - len(names))
        lines.append(f"  {names}{gap}{entry.doc}")
    lines += [
        "",
        "Exit status: the guest's; 128+n if signal n ended it; 122 memory cap, 123 fuel, 124 timeout,",
        "125 vm failed, 126 not a program for vm, 127 not found, 2 wrong use.",
    ]
    return "\n".join(lines)
