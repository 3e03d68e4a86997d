"""What the multi-call names take beside the options of ``vm run``: qemu-user's spellings, and its variables.

qemu's option or variable either means something here, or is accepted with a note because it changes nothing that a program can
see, or is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from vm_cli.options import Extra, RunLine, parse_run
from vm_core.errors import UsageError

__all__ = ["OPTIONS", "VARIABLES", "QemuLine", "parse_qemu"]

OPTIONS: Final = (
    Extra("guest_base", ("-B",), "ADDRESS", "Ignored: guest memory is an arena of its own."),
    Extra("reserved_va", ("-R",), "SIZE", "Ignored: guest memory is an arena of its own."),
    Extra("page_size", ("-p",), "BYTES", "Must be 4096."),
    Extra(
        "log_items", ("-d",), "ITEM[,...]", "strace prints the system calls; qemu's other items are ignored."
    ),
    Extra("log_file", ("-D",), "FILE", "Where the system calls go; %d is the process's number."),
    Extra("filter", ("-dfilter",), "RANGE", "Ignored."),
    Extra("seed", ("-seed",), "NUMBER", "Ignored: the guest's random numbers are the host's."),
    Extra("singlestep", ("-singlestep", "-one-insn-per-tb"), "", "Ignored: there are no translation blocks."),
    Extra("trace", ("-trace",), "PATTERN", "Ignored: there are no trace points of qemu's."),
    Extra("plugin", ("-plugin",), "FILE", "Refused: there are no plugins of qemu's."),
)

VARIABLES: Final = {
    "QEMU_GDB": "-g",
    "QEMU_CPU": "-cpu",
    "QEMU_ARGV0": "-0",
    "QEMU_GUEST_BASE": "-B",
    "QEMU_RESERVED_VA": "-R",
    "QEMU_PAGESIZE": "-p",
    "QEMU_LOG": "-d",
    "QEMU_LOG_FILENAME": "-D",
    "QEMU_DFILTER": "-dfilter",
    "QEMU_RAND_SEED": "-seed",
    "QEMU_SINGLESTEP": "-singlestep",
    "QEMU_ONE_INSN_PER_TB": "-one-insn-per-tb",
    "QEMU_TRACE": "-trace",
    "QEMU_PLUGIN": "-plugin",
    "QEMU_VERSION": "-version",
}
"""qemu's variables and the options that they stand for. Those that are a setting of vm are in vm_cli.settings."""

_ALONE: Final = ("-singlestep", "-one-insn-per-tb", "-version")
"""Options without a value: that the variable is there is enough."""

_ITEMS: Final = (
    "out_asm", "in_asm", "op", "op_opt", "op_ind", "op_plugin", "int", "exec",
    "cpu", "fpu", "mmu", "pcall", "cpu_reset", "unimp", "guest_errors", "page",
    "nochain", "plugin", "strace", "tid", "vpu", "invalid_mem",
)  # fmt: skip


class QemuLine(NamedTuple):
    """What qemu's spellings said. ``notes`` are what was ignored, for the user; ``log_file`` is None for standard error."""

    line: RunLine
    notes: list[str]
    log_file: str | None


def parse_qemu(words: Sequence[str], environ: Mapping[str, str]) -> QemuLine:
    """Read the words behind ``vm-riscv64``; variables come first, so that an option overrides its twin. Raises UsageError."""
    before: list[str] = []
    for variable, flag in VARIABLES.items():
        value = environ.get(variable)
        if value is not None and (value or flag in _ALONE):
            before += [flag] if flag in _ALONE else [flag, value]
    line = parse_run([*before, *words], qemu=True, more=OPTIONS)
    notes: list[str] = []
    log_file: str | None = None
    for name, value in line.more:
        option = next(option for option in OPTIONS if option.name == name)
        flag = option.flags[0]
        if name == "plugin":
            raise UsageError(
                "-plugin is an option of qemu that vm does not have", hint="there are no TCG plugins here"
            )
        if name == "page_size":
            if _number(value, flag) != 4096:
                raise UsageError(f"-p {value}: the page size is 4096")
        elif name == "log_items":
            notes += _log_items(value, line)
        elif name == "log_file":
            log_file = value
        else:
            if name in ("guest_base", "reserved_va", "seed"):
                _number(value, flag)
            notes.append(f"{flag} is ignored{option.doc.removeprefix('Ignored').rstrip('.')}")
    return QemuLine(line, notes, log_file)


def _number(text: str, flag: str) -> int:
    """A number as strtoul reads it, perhaps with one of qemu's suffixes. Raises UsageError."""
    digits = text.rstrip("kKmMgG") if not text.lower().startswith("0x") else text.rstrip("kKmMG")
    try:
        value = int(digits, 8 if digits.startswith("0") and digits.isdigit() and len(digits) > 1 else 0)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is no number") from None
    for suffix in text[len(digits) :].lower():
        value <<= {"k": 10, "m": 20, "g": 30}[suffix]
    return value


def _log_items(value: str, line: RunLine) -> list[str]:
    """Turn on what ``-d`` asks for and vm has; notes on the rest. Raises UsageError."""
    items = [item for item in value.split(",") if item]
    strange = [item for item in items if item not in _ITEMS]
    if strange:
        raise UsageError(f"-d: there is no log item {strange[0]!r}", hint="known: " + ", ".join(_ITEMS))
    if "strace" in items:
        line.flags.append(("strace", "1", "-d"))
    rest = [item for item in items if item != "strace"]
    return (
        [f"-d {','.join(rest)} is ignored: vm has no such log items; vm profile and --gdb look inside"]
        if rest
        else []
    )
