"""Write, or with --check compare, the pages of docs/ that are made from the sources.

Each page is the output of a function; the marks ``<!-- generated: begin -->`` and ``<!-- generated: end -->`` hold the
part of a page that is made, the rest is written by hand.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import vm_core
from vm_cli.settings import ROWS, Settings
from vm_core import errors

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def _all_errors() -> Iterator[type[errors.VmError]]:
    """Every error class of vm_core, and those of vm_cli and vm_accel, by code."""
    importlib.import_module("vm_cli.sysroot.errors")
    importlib.import_module("vm_accel.errors")
    for module in pkgutil.walk_packages(vm_core.__path__, "vm_core."):
        if ".isa." not in module.name and ".testing" not in module.name and not module.name.endswith(".smt"):
            importlib.import_module(module.name)

    def walk(kind: type[errors.VmError]) -> Iterator[type[errors.VmError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from walk(child)

    yield from sorted(walk(errors.VmError), key=lambda kind: kind.code)


def _markdown(docstring: str) -> str:
    """One line of a docstring's reStructuredText as Markdown."""
    return re.sub(r":\w+:", "", docstring.replace("``", "`").replace("\n", " ")).replace("|", "\\|")


def error_catalogue() -> str:
    """One row an error class; the text is its docstring's first paragraph."""
    lines = ["| code | error | exit status | what it means |", "|---|---|---|---|"]
    for kind in _all_errors():
        first = _markdown((inspect.getdoc(kind) or "").split("\n\n")[0])
        lines.append(f"| {kind.code} | `{kind.__name__}` | {kind.exit_status} | {first} |")
    return "\n".join(lines)


def exit_statuses() -> str:
    """The constants of vm_core.errors and the strings below them."""
    source = inspect.getsource(errors)
    lines = ["| status | when |", "|---|---|"]
    for _name, number, text in re.findall(
        r'^(EXIT_\w+) = (\d+)\n"""(.*?)"""', source, re.MULTILINE | re.DOTALL
    ):
        lines.append(f"| {number} | {_markdown(text)} |")
    lines.append("| 128+n | Signal n ended the guest, or vm itself (130: Ctrl-C). |")
    lines.append("| any other | The guest's own. |")
    return "\n".join(lines)


def settings_table() -> str:
    """One row a setting, from the table that the parsers use."""
    lines = ["| key in TOML | variables | flags | value | default |", "|---|---|---|---|---|"]
    defaults = Settings()
    for row in ROWS:
        default = getattr(defaults, row.name)
        shown = "" if default is None or default == () else f"`{str(default).lower()}`"
        allowed = row.kind.allowed.replace("|", "\\|")
        variables = ", ".join(f"`{name}`" for name in row.env)
        flags = ", ".join(f"`{flag}`" for flag in row.flags)
        lines.append(f"| `{row.name}` | {variables} | {flags} | {allowed} | {shown} |")
    lines.append("")
    lines += [f"* `{row.name}`: {row.doc}" for row in ROWS]
    return "\n".join(lines)


RECORDS = ROOT / "packages/vm-accel/tests/recorded"
# Back end, ISA, and what else than a record of `vm accel selftest` shows that it works, for those that have none.
ACCELERATORS = (
    ("KVM", "x86_64", ""),
    ("KVM", "aarch64", "layout-checked: `tests/test_layouts.py`, `tests/test_one_reg.py`"),
    ("KVM", "riscv64", "layout-checked: `tests/test_layouts.py`, `tests/test_one_reg.py`"),
    ("WHPX", "x86_64", ""),
    ("HVF", "aarch64", ""),
    ("HVF", "x86_64", "declared from the public documentation only"),
    ("VZ", "aarch64", "selector-checked: `tests/test_vz.py`"),
    ("VZ", "x86_64", "selector-checked: `tests/test_vz.py`"),
    ("none", "x86_64", ""),
    ("none", "aarch64", ""),
    ("none", "riscv64", ""),
)


def accelerators() -> str:
    """One row a hypervisor: where it was executed, or simulated, with how many checks of the self-test."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    lines = ["| hypervisor | guests | evidence | checks |", "|---|---|---|---|"]
    for name, isa, otherwise in ACCELERATORS:
        fitting = [one for one in records if (one.get("backend"), one.get("isa")) == (name.lower(), isa)]
        if otherwise:  # it says more than a simulator's record does
            fitting = [one for one in fitting if one["provenance"] == "hardware"]
        # What ran on a machine counts for more than what ran on a simulator.
        fitting.sort(key=lambda one: one["provenance"] != "hardware")
        if not fitting:
            lines.append(f"| {name} | {isa} | {otherwise or 'none yet'} | |")
            continue
        best = fitting[0]
        counts = [
            f"{number} {word}"
            for word in ("passed", "failed", "skipped")
            if (number := sum(check["result"] == word for check in best["checks"]))
        ]
        evidence = "ABI-simulated"
        if best["provenance"] == "hardware":
            evidence = f"executed: {best['host']['system']} on {best['host']['machine']}"
        if best["provenance"] == "software":
            evidence = "executed by vm's own engines, on any host"
        lines.append(f"| {name} | {isa} | {evidence} | {', '.join(counts)} |")
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "packages/vm-accel/README.md": accelerators,
    "docs/errors.md": lambda: f"{exit_statuses()}\n\n## Errors\n\n{error_catalogue()}",
    "docs/guide/configuration.md": settings_table,
}

# Pages that a module of the product prints, and compares with --check FILE.
MODULES: dict[str, str] = {
    "docs/syscalls.md": "vm_core.linux.table",
    "docs/isa-coverage.md": "vm_core.isa.coverage",
}


def render(page: str, made: str) -> str:
    """The text of a page with its generated part replaced."""
    text = (ROOT / page).read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    check = parser.parse_args().check
    os.chdir(ROOT)
    stale = 0
    for page, make in PAGES.items():
        old, new = Path(page).read_text(encoding="utf-8"), render(page, make())
        if old == new:
            continue
        if check:
            stale += 1
            sys.stdout.writelines(
                difflib.unified_diff(old.splitlines(True), new.splitlines(True), page, "now")
            )
            print(f"{page} is stale: run python tools/generated.py")
        else:
            Path(page).write_text(new, encoding="utf-8")
            print(f"wrote {page}")
    for page, module in MODULES.items():
        command = [sys.executable, "-m", module]
        if check:
            stale += subprocess.run([*command, "--check", page], check=False).returncode != 0
        else:
            made = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
            Path(page).write_text(made, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
