"""What a person sees: tables and panels drawn by rich. Programs get JSON instead, from the same facts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vm_cli.facts import result_facts, time_rows
from vm_cli.report import printable

if TYPE_CHECKING:
    from vm_cli.bench import Comparison
    from vm_cli.doctor import Finding
    from vm_cli.profile import Profile
    from vm_core.runner import RunResult

__all__ = [
    "ratio_of",
    "seconds",
    "show_bench",
    "show_binfmt",
    "show_cache",
    "show_comparison",
    "show_findings",
    "show_info",
    "show_made",
    "show_profile",
    "show_stats",
    "show_sysroot",
    "show_system_calls",
    "size",
]

_MARKS = {"ok": "[green]✓[/]", "note": "[blue]·[/]", "degraded": "[yellow]![/]", "failed": "[red]✗[/]"}


def _console(*, error: bool = False) -> Console:
    return Console(
        stderr=error, highlight=False, soft_wrap=not (sys.stderr if error else sys.stdout).isatty()
    )


def _clean(text: object) -> str:
    return escape(printable(str(text)))


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


def size(value: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


# -- runs -------------------------------------------------------------------------------------------------------------


def show_stats(result: RunResult, engine: str) -> None:
    """What ran where, and what it took, on standard error."""
    panel = Panel(
        Group(_grid(_stats_rows(result, engine)), "", _times(result)),
        title="vm run",
        title_align="left",
        border_style="cyan",
        expand=False,
    )
    _console(error=True).print(panel)


def _stats_rows(result: RunResult, engine: str) -> list[tuple[str, str]]:
    stats = result.stats
    counts = engine != "kvm"
    rows = [("engine", f"[bold]{_clean(engine)}[/]")]
    if counts:
        rows.append(("instructions", f"[bold]{result.instructions:,}[/]"))
    if engine == "jit":
        rows += [
            ("optimised code", f"{_bar(stats.retired_jit, stats.retired)}  {stats.retired_jit:,}"),
            (
                "other tiers",
                f"{_bar(stats.retired - stats.retired_jit, stats.retired)}  {stats.retired - stats.retired_jit:,}",
            ),
        ]
    rows.append(("time in the guest", seconds(stats.seconds)))
    if counts:
        rows.append(("speed", f"[bold]{_mips(result):,.0f}[/] million instructions a second"))
    if engine == "jit":
        rows.append(
            ("regions", f"{stats.regions_compiled:,} compiled, {stats.regions_cached:,} from the cache")
        )
        latencies = [stats.extra.get(f"compile_{name}_seconds", 0.0) for name in ("p50", "p99", "max")]
        if latencies[-1]:
            half, most, longest = map(seconds, latencies)
            rows.append(("compiling one took", f"{half} (median), {most} (99 %), {longest} (longest)"))
    rows.append(("system calls", f"{result.system_calls:,}"))
    rows.append(("peak memory", size(result.peak_memory)))
    return rows


def _times(result: RunResult) -> Table:
    rows = time_rows(result_facts(result, ""))
    top = max((spent for _, spent, _ in rows), default=0.0)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for name, spent, remark in rows:
        table.add_row(name, _fine(spent), _meter(spent, top, 20), remark)
    return table


def _fine(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if 0.001 <= value < 0.1 else seconds(value)


def _mips(result: RunResult) -> float:
    spent = result.stats.seconds
    return result.instructions / spent / 1e6 if spent else 0.0


def _meter(part: float, whole: float, width: int) -> str:
    full = round(part / whole * width) if whole else 0
    return f"[green]{'━' * full}[/][dim]{'─' * (width - full)}[/]"


def _bar(part: float, whole: float) -> str:
    return f"{_meter(part, whole, 20)} {part / whole if whole else 0.0:6.1%}"


def show_comparison(interpreted: RunResult, first: RunResult, again: RunResult) -> None:
    """``vm demo``: one column a way to run the same program."""
    console = _console()
    headings = ("interpreter", "JIT", "JIT again")
    table = Table("", *headings, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    runs = (interpreted, first, again)

    def row(name: str, *cells: str) -> None:
        table.add_row(f"[dim]{name}[/]", *cells)

    row("instructions", *(f"{r.instructions:,}" for r in runs))
    row("  in other tiers", *(f"{r.stats.retired - r.stats.retired_jit:,}" for r in runs))
    row("  in optimised code", *(f"{r.stats.retired_jit:,}" for r in runs))
    row("regions compiled", *(f"{r.stats.regions_compiled:,}" for r in runs))
    row("regions from cache", *(f"{r.stats.regions_cached:,}" for r in runs))
    row("compiling, beside it", *(seconds(r.stats.compile_seconds) for r in runs))
    row("time in the guest", *(f"[bold]{seconds(r.stats.seconds)}[/]" for r in runs))
    row("millions a second", *(f"[bold]{_mips(r):,.0f}[/]" for r in runs))
    top = max(_mips(r) for r in runs)
    row("", *(_meter(_mips(r), top, 16) for r in runs))
    title = f"with the JIT it runs [bold green]{ratio_of(interpreted, again):.1f}×[/] as fast as interpreted"
    console.print(
        Panel(table, title=title, title_align="left", border_style="green", expand=False, padding=(1, 2))
    )


def ratio_of(slow: RunResult, fast: RunResult) -> float:
    """How many times faster the second run was, by time in the guest."""
    return slow.stats.seconds / fast.stats.seconds if fast.stats.seconds else 0.0


# -- profiles ---------------------------------------------------------------------------------------------------------


def show_profile(
    profile: Profile, result: RunResult, engine: str, top: int, colours: Mapping[str, str]
) -> None:
    """``vm profile``, on standard error: what vm was doing, and the functions that took longest."""
    console = _console(error=True)
    total = profile.total or 1.0
    stats = result.stats
    head = _grid(
        [
            ("engine", f"[bold]{_clean(engine)}[/]"),
            ("instructions", f"[bold]{result.instructions:,}[/], {stats.retired_jit:,} in optimised code"),
            ("time", f"{_fine(profile.wall)} from start to end, {_fine(total)} of processor time"),
            ("samples", f"{profile.samples:,}" + (f", {profile.lost:,} lost" if profile.lost else "")),
        ]
    )
    where = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "left"):
        where.add_column(justify=justify, no_wrap=True)
    for kind, spent in sorted(profile.tiers.items(), key=lambda one: -one[1]):
        where.add_row(
            f"[{colours[kind]}]■[/] {_clean(profile.names[kind])}",
            _fine(spent),
            f"{spent / total:.1%}",
            _coloured([(spent, colours[kind])], total, 30),
        )
    console.print(
        Panel(
            Group(head, "", where), title="vm profile", title_align="left", border_style="cyan", expand=False
        )
    )
    table = Table("function", "time", "share", "", box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    ordered = profile.ordered()
    most = ordered[0][1] if ordered else 1.0
    for name, spent, row in ordered[:top]:
        parts = [(part, colours[kind]) for kind, part in sorted(row.items(), key=lambda one: -one[1])]
        table.add_row(_clean(name), _fine(spent), f"{spent / total:.1%}", _coloured(parts, most, 30))
    console.print(table)
    if len(ordered) > top:
        rest = sum(spent for _, spent, _ in ordered[top:])
        console.print(f"[dim]{len(ordered) - top} more: {_fine(rest)}, {rest / total:.1%}[/]")
    if profile.processes:
        table = Table("process", "time", "share", box=None, header_style="bold", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for (pid, program), spent in sorted(profile.processes.items(), key=lambda one: -one[1])[:top]:
            table.add_row(f"{_clean(program)} [dim]{pid}[/]", _fine(spent), f"{spent / total:.1%}")
        console.print(table)
    if profile.lines:
        table = Table("line", "time", "share", box=None, header_style="bold", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for line, spent in sorted(profile.lines.items(), key=lambda one: -one[1])[:top]:
            table.add_row(_clean(line), _fine(spent), f"{spent / total:.1%}")
        console.print()
        console.print(table)
    guests = [
        (name, sum(seconds for _, seconds in rows))
        for name, rows in profile.threads.items()
        if name == "MainThread" or name.startswith("vm-guest")
    ]
    if len(guests) > 1:
        busiest = max(guests, key=lambda one: one[1])
        console.print(
            f"[dim]{len(guests)} guest threads; the busiest, {_clean(busiest[0])}: {_fine(busiest[1])}[/]"
        )


def show_bench(found: Comparison) -> None:
    """``vm bench``: the times, then where those of vm went."""
    from vm_cli.measure import spread

    console = _console()
    table = Table(
        "",
        "CPU",
        "",
        "wall",
        "",
        f"over {found.base}",
        "",
        "MIPS",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for column in (*table.columns[1:6], table.columns[7]):
        column.justify = "right"
    top = max(found.ratio(name) or 0.0 for name in found.runs)
    for name in found.runs:
        cells = []
        for what in ("cpu", "wall"):
            cells += [_fine(found.median(name, what)), f"[dim]±{spread(found.values(name, what)):.0f}%[/]"]
        ratio, speed = found.ratio(name), found.speed(name)
        table.add_row(
            _clean(name),
            *cells,
            "" if ratio is None else f"[bold]{ratio:.2f}[/]",
            "" if ratio is None else _meter(ratio, top, 12),
            "" if speed is None else f"{speed / 1e6:,.0f}",
        )
    console.print(table)
    names = [name for name in found.runs if found.phases(name)]
    if names:
        rows = {name: {phase: spent for phase, spent, _ in found.phases(name)} for name in names}
        table = Table("where it went", *map(_clean, names), box=None, header_style="bold", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for phase in dict.fromkeys(phase for row in rows.values() for phase in row):
            table.add_row(
                f"[dim]{phase}[/]", *(_fine(row[phase]) if phase in row else "" for row in rows.values())
            )
        console.print()
        console.print(table)
    for name, why in found.absent.items():
        console.print(f"[dim]{name}: not run; {_clean(why)}[/]")


def _coloured(parts: Sequence[tuple[float, str]], whole: float, width: int) -> str:
    """A bar in pieces."""
    out, at = "", 0.0
    for value, colour in parts:
        end = at + value
        cells = round(end / whole * width) - round(at / whole * width)
        out += f"[{colour}]{'━' * cells}[/]" if cells else ""
        at = end
    return out


# -- this host --------------------------------------------------------------------------------------------------------


def show_info(found: dict[str, Any]) -> None:
    """``vm info``."""
    console = _console()
    cpu = found["host"]["cpu"]
    console.print(
        _grid(
            [
                ("host", _clean(f"{cpu['model']}, {cpu['cores']} cores, {cpu['machine']}")),
                ("system", _clean(f"{found['host']['system']} {found['host']['release']}")),
                ("python", _clean(f"{found['python']['version']} ({found['python']['executable']})")),
                ("llvm", _clean(found["llvm"] or "not installed")),
            ]
        )
    )
    table = Table("package", "version", box=None, header_style="bold", pad_edge=False)
    for name, version in found["packages"].items():
        table.add_row(name, _clean(version))
    console.print()
    console.print(table)
    for title in ("engines", "accelerators"):
        table = Table(title[:-1], "", "", box=None, header_style="bold", pad_edge=False)
        for name, one in found[title].items():
            why = "; ".join(part for part in (one["reason"], one["hint"]) if part)
            state = "[green]available[/]" if one["available"] else "[yellow]not available[/]"
            table.add_row(_clean(name), state, _clean(why))
        console.print()
        console.print(table)
    table = Table("guest", "instructions", box=None, header_style="bold", pad_edge=False)
    for name, one in found["guests"].items():
        table.add_row(name, _clean(one.get("instructions", one.get("error", ""))))
    console.print()
    console.print(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """``vm doctor``: one line a check, with the fix below those that need one."""
    console = _console()
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        console.print(f"{_MARKS[finding.level]} {finding.check:<{width}}  {_clean(finding.message)}")
        if finding.fix:
            console.print(f"  {'':<{width}}  [cyan]fix:[/] {_clean(finding.fix)}")


def show_cache(entries: Sequence[dict[str, Any]]) -> None:
    """``vm cache list``."""
    import time

    console = _console()
    if not entries:
        console.print("the cache is empty")
        return
    table = Table("entry", "size", "last written", "", box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["modified"]))
        state = "" if entry["valid"] else f"[red]{_clean(entry['error'])}[/]"
        table.add_row(_clean(entry["name"]), size(entry["bytes"]), when, state)
    console.print(table)
    console.print(f"[dim]{len(entries)} entries, {size(sum(entry['bytes'] for entry in entries))}[/]")


_BINFMT_MARKS = {"installed": "green", "not installed": "dim", "files only": "blue"}


def show_binfmt(rows: Sequence[dict[str, Any]]) -> None:
    """``vm binfmt status`` and ``install``."""
    import shlex

    from vm_cli.binfmt import explain

    table = Table("machine", "state", "options", "runs", "", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        style = _BINFMT_MARKS.get(row["state"], "yellow")
        table.add_row(
            row["isa"],
            f"[{style}]{row['state']}[/]",
            _clean(shlex.join(row["options"])),
            _clean(row["runs"] or "-"),
            _clean(explain(row)),
        )
    _console().print(table)


def show_system_calls(rows: Sequence[dict[str, Any]]) -> None:
    """``vm syscalls``."""
    console = _console()
    table = Table("nr", "name", "status", "note", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(
            str(row["number"]), _clean(row["name"]), Text(str(row["status"])), _clean(row.get("note", ""))
        )
    console.print(table)


def show_made(found: Mapping[str, Any]) -> None:
    """``vm sysroot create`` and ``add``."""
    console, path = _console(), str(found["path"])
    count = len(found["packages"])
    if not count:
        console.print(f"{_clean(path)}: all of it is there already")
        return
    total = sum(row["bytes"] for row in found["packages"])
    console.print(
        f"[bold]{_clean(path)}[/]: {count} packages of {_clean(found['suite'])} for {found['isa']}, {size(total)}, "
        f"in {seconds(found['seconds'])} ({size(found['fetched_bytes'])} fetched, {size(found['kept_bytes'])} kept from before)"
    )
    if found["recommended"]:
        names = ", ".join(map(_clean, found["recommended"]))
        console.print(f"[dim]recommended by what you asked for, and not taken: {names}[/]")
    if found["scripts_not_run"]:
        console.print(f"[dim]the installation scripts of {found['scripts_not_run']} packages were not run[/]")


def show_sysroot(found: Mapping[str, Any]) -> None:
    """``vm sysroot list``."""
    console = _console()
    table = Table("package", "version", "architecture", "size", box=None, header_style="bold", pad_edge=False)
    for row in found["packages"]:
        table.add_row(
            _clean(row["name"]), _clean(row["version"]), _clean(row["architecture"]), size(row["bytes"])
        )
    console.print(table)
    total = sum(row["bytes"] for row in found["packages"])
    whose = f"{_clean(found['suite'])} for {_clean(found['isa'])}"
    console.print(f"[dim]{len(found['packages'])} packages of {whose}, {size(total)}[/]")
    if not found["complete"]:
        console.print(f"[red]not complete[/]: vm sysroot add {_clean(found['path'])} goes on")
