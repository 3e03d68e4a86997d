"""The commands of ``vm`` other than ``run``, on click. Each one has ``--json``; what a person sees is in vm_cli.show."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from vm_cli.options import BENCH_OPTIONS, EXTRAS, PROFILE_OPTIONS, Extra
from vm_cli.settings import ROWS
from vm_cli.sysroot import ARCHITECTURES
from vm_core.errors import EXIT_USAGE, UsageError

__all__ = ["cli", "run_app"]


def _as_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    """``--json`` may stand behind ``vm`` too."""
    return value or bool(ctx.find_root().params.get("as_json"))


_JSON: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, callback=_as_json, help="Print JSON for programs."
)


def run_app(words: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Raises VmError and OSError."""
    try:
        # Not cli.main(), which answers a closed pipe with a status of its own.
        with cli.make_context("vm", list(words)) as context:
            status = cli.invoke(context)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # vm cache, vm config
        click.echo(error.format_message())
        return EXIT_USAGE
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        hint = f"{where.command_path} --help says more" if where is not None else ""
        # One line: click gives each choice one of its own.
        raise UsageError(" ".join(error.format_message().split()), hint=hint) from None
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    return status if isinstance(status, int) else 0


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


class _Group(click.Group):
    """Suggests ``vm run`` for a program's path, and the nearest command for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0] if args else ""
        if (
            word
            and self.get_command(ctx, word) is None
            and not ctx.resilient_parsing
            and not word.startswith("-")
        ):
            import difflib

            near = difflib.get_close_matches(word, self.list_commands(ctx), 1)
            if "/" in word or Path(word).is_file():
                hint = f"to run a program: vm run {word}"
            else:
                hint = f"did you mean vm {near[0]}?" if near else "vm --help lists the commands"
            raise UsageError(f"there is no command {word!r}", hint=hint)
        return super().resolve_command(ctx, args)


# Not a docstring: click's mark for lines to be left as they are is a control character.
_HELP = """Run programs of other machines.

\b
vm run ./hello           run a Linux program
vm demo                  see it work
vm doctor                find out what is missing here
"""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    help=_HELP,
)
@click.option("--version", is_flag=True, help="Show the versions and exit.")
@_JSON
@click.pass_context
def cli(ctx: click.Context, version: bool, as_json: bool) -> int:
    if version:
        from vm_cli import info

        found = {name: info.version(name) for name in info.PACKAGES}
        if as_json:
            _print_json({"version": found["vm-cli"], "packages": found, "llvm": info.llvm_version()})
        else:
            click.echo(f"vm {found['vm-cli']}")
        ctx.exit(0)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(EXIT_USAGE)
    return 0


# -- run --------------------------------------------------------------------------------------------------------------


class _RunCommand(click.Command):
    """``vm run`` for help and completion. Its real command line is read by vm_cli.options, in every case."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        ctx.obj = list(args)
        return []


def _run_parameters(more: Sequence[Extra] = ()) -> list[click.Parameter]:
    parameters: list[click.Parameter] = []
    for row in ROWS:
        if not row.flags:
            continue
        names = [flag for flag in row.flags if flag.startswith("--") or len(flag) == 2]
        kind = row.kind
        type_ = click.Choice(kind.metavar.split("|")) if kind.name == "choice" else None
        path = click.Path() if kind.name == "path" else type_
        parameters.append(
            click.Option(
                [*names, row.name], is_flag=kind.is_flag, multiple=kind.repeated, type=path, help=row.doc
            )
        )
    for extra in (*more, *EXTRAS):
        names = [flag for flag in extra.flags if flag.startswith("--") or len(flag) == 2]
        parameters.append(
            click.Option(
                [*names, extra.name],
                is_flag=not extra.metavar,
                type=click.Path() if extra.metavar in ("FILE", "PATH") else None,
                help=extra.doc,
            )
        )
    parameters.append(click.Argument(["program"], nargs=-1, type=click.Path()))
    return parameters


def _run() -> int:
    from vm_cli.launch import run_command

    return run_command(_words())


def _words() -> list[str]:
    context = click.get_current_context()
    words: list[str] = context.obj
    return ["--json", *words] if context.find_root().params.get("as_json") else words


def _bench() -> int:
    from vm_cli.bench import bench_command

    return bench_command(_words())


def _profile() -> int:
    from vm_cli.profile import profile_command

    return profile_command(_words())


cli.add_command(
    _RunCommand(
        "run",
        callback=_run,
        params=_run_parameters(),
        add_help_option=False,
        short_help="Run a Linux program; its exit status becomes that of vm.",
    )
)


cli.add_command(
    _RunCommand(
        "profile",
        callback=_profile,
        params=_run_parameters(PROFILE_OPTIONS),
        add_help_option=False,
        short_help="Run a program and show where its time goes.",
    )
)


cli.add_command(
    _RunCommand(
        "bench",
        callback=_bench,
        params=_run_parameters(BENCH_OPTIONS),
        add_help_option=False,
        short_help="Time a program natively, under qemu and under vm's engines.",
    )
)


@cli.command()
@_JSON
def demo(as_json: bool) -> int:
    """Run the bundled RISC-V program, interpreted and compiled, and compare."""
    from vm_cli.demo import measure

    return measure(as_json=as_json)


# -- looking at instructions ------------------------------------------------------------------------------------------


@cli.command()
@click.argument("file", required=False, type=click.Path())
@click.option("--hex", "hex_bytes", metavar="BYTES", help="Disassemble these bytes instead of a file.")
@click.option("--isa", metavar="ISA", help="The instruction set; a file's own by default.")
@click.option("--start", metavar="ADDRESS", help="First address, or a symbol's name.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many instructions.")
@_JSON
def disasm(
    file: str | None,
    hex_bytes: str | None,
    isa: str | None,
    start: str | None,
    count: int | None,
    as_json: bool,
) -> int:
    """Disassemble a program, or bytes given in hex."""
    from vm_cli import listing

    if (file is None) == (hex_bytes is None):
        raise UsageError("give either a file or --hex BYTES")
    if hex_bytes is not None:
        lines = listing.of_hex(hex_bytes, isa or "riscv64", start, count)
    else:
        assert file is not None
        lines = listing.of_file(file, isa, start, count)
    if as_json:
        _print_json([line.facts() for line in lines])
        return 0
    for line in lines:
        if line.label:
            click.echo(f"\n{line.label}:")
        click.echo(line.text())
    return 0


@cli.command()
@click.argument("isa")
@click.argument("mnemonic")
@_JSON
def where(isa: str, mnemonic: str, as_json: bool) -> int:
    """Print the file and line where an instruction is defined."""
    from vm_cli.listing import definition

    found = definition(isa, mnemonic)
    if as_json:
        _print_json(found)
    else:
        click.echo(f"{found['file']}:{found['line']}")
    return 0


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Also list the calls that are answered with ENOSYS.")
@click.option("--isa", default="riscv64", show_default=True, help="Whose numbers to show.")
@_JSON
def syscalls(everything: bool, isa: str, as_json: bool) -> int:
    """List the Linux system calls that guests can use."""
    from vm_cli.listing import system_calls

    rows = system_calls(isa, everything=everything)
    if as_json:
        _print_json(rows)
    else:
        from vm_cli.show import show_system_calls

        show_system_calls(rows)
    return 0


# -- this host --------------------------------------------------------------------------------------------------------


@cli.command()
@_JSON
def info(as_json: bool) -> int:
    """Show the packages, engines and accelerators, and why one is not available."""
    from vm_cli.info import facts

    found = facts()
    if as_json:
        _print_json(found)
    else:
        from vm_cli.show import show_info

        show_info(found)
    return 0


@cli.command()
@_JSON
def doctor(as_json: bool) -> int:
    """Check this host. Exit status 0: all well, 1: something is degraded, 2: guests cannot run."""
    from vm_cli import doctor as checks

    findings = checks.run_checks()
    if as_json:
        _print_json([finding.facts() for finding in findings])
    else:
        from vm_cli.show import show_findings

        show_findings(findings)
    return checks.exit_status(findings)


# -- machines --------------------------------------------------------------------------------------------------------


@cli.command("boot")
@click.argument("kernel", type=click.Path(path_type=Path))
@click.option("--initrd", type=click.Path(path_type=Path), help="The first file system.")
@click.option(
    "--append",
    metavar="TEXT",
    help="The kernel's command line. [default: console=ttyS0 panic=-1; under vz hvc0]",
)
@click.option(
    "--disk", "disks", metavar="FILE[,ro]", multiple=True, help="A raw image as a virtio disk. Repeatable."
)
@click.option("--memory", default="512M", show_default=True, metavar="SIZE", help="The machine's memory.")
@click.option("--cpus", default=1, show_default=True, type=click.IntRange(1, 255), help="Its processors.")
@click.option("--accel", metavar="NAME", help="kvm or vz. [default: VM_ACCEL, else the one that works]")
@click.option("--timeout", metavar="SECONDS", help="Pull the plug after so long; exit status 124.")
@click.option(
    "--sandbox",
    metavar="auto|strict|off",
    help="What the host's kernel enforces on vm's own process: all that it can, all or nothing is started, or nothing. "
    "[default: VM_SANDBOX, the configuration, else auto]",
)
@_JSON
def boot_machine(
    kernel: Path,
    initrd: Path | None,
    append: str | None,
    disks: tuple[str, ...],
    memory: str,
    cpus: int,
    accel: str | None,
    timeout: str | None,
    sandbox: str | None,
    as_json: bool,
) -> int:
    """Start a Linux kernel of this machine's own kind, on its hypervisor, in this terminal.

    Exit status 0: the machine was switched off or restarted, 1: it crashed. Ctrl-A x switches it off.
    """
    from vm_accel.interface import MachineConfig
    from vm_cli import boot
    from vm_cli.settings import SECONDS, SIZE, apply_flags, load

    configuration = load(os.environ)
    if sandbox is not None:
        apply_flags(configuration, [("sandbox", sandbox, "--sandbox")])
    try:
        size = SIZE.parse(memory)
        seconds = None if timeout is None else SECONDS.parse(timeout)
    except ValueError as error:
        raise UsageError(f"--memory {memory} or --timeout {timeout}: {error}") from None
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        cpus=cpus,
        memory_bytes=size,
        disks=tuple(boot.disk(text) for text in disks),
    )
    found = boot.boot(config, append, accel, seconds, configuration.settings.sandbox)
    if as_json:
        # Standard output is the guest's.
        click.echo(json.dumps(found), err=True)
    elif found["status"]:
        from vm_cli.report import note

        note(f"the machine ended: {found['ended']}")
    return int(found["status"])


# -- accelerators ----------------------------------------------------------------------------------------------------


@cli.group()
def accel() -> None:
    """Test the host's hypervisor."""


@accel.command("selftest")
@click.option(
    "--accel",
    "name",
    default=None,
    metavar="NAME",
    help="kvm, hvf, whpx or vz; none for vm's own engines. [default: the one that works]",
)
@click.option(
    "--record", "path", type=click.Path(path_type=Path), help="Write every exit, byte for byte, to a file."
)
@click.option(
    "--all", "everything", is_flag=True, help="Run the conformance suite too; needs keystone-engine."
)
@_JSON
def accel_selftest(name: str | None, path: Path | None, everything: bool, as_json: bool) -> int:
    """Try what the hypervisor does, through vm's binding. Exit status 0: all well, 1: something failed."""
    from vm_cli import accel as commands

    found = commands.selftest(name, path, everything=everything)
    if as_json:
        _print_json(found)
    else:
        for check in found["checks"]:
            tail = f": {check['message']}" if check["message"] else ""
            click.echo(f"{check['result']:8}{check['name']}{tail}")
        click.echo(commands.summary(found))
        if path is not None:
            click.echo(
                f"{path} holds the exits: please attach it to an issue, if your machine is not in the table"
            )
    return int(any(check["result"] == "failed" for check in found["checks"]))


@accel.command("record-layout")
@click.argument("path", type=click.Path(path_type=Path))
@_JSON
def accel_record_layout(path: Path, as_json: bool) -> int:
    """Compare vm's declarations of HVF with Apple's headers (macOS with the SDK), and write what they say to PATH."""
    from vm_cli import accel as commands

    wrong = commands.record_layout(path)
    if as_json:
        _print_json({"path": str(path), "wrong": wrong})
    else:
        for line in wrong:
            click.echo(line)
        click.echo(
            f"{path}: {len(wrong)} declarations differ from the headers"
            if wrong
            else f"{path}: all is as the headers say"
        )
    return int(bool(wrong))


@cli.group()
def setup() -> None:
    """Prepare this host."""


@setup.command("macos")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_JSON
def setup_macos(dry_run: bool, as_json: bool) -> int:
    """Sign the Python that runs vm, so that macOS lets it use the hypervisor: in a virtual environment, a copy of it."""
    from vm_cli import accel as commands

    found = commands.setup_macos(dry_run=dry_run)
    if as_json:
        _print_json(found)
    else:
        click.echo(found["message"])
    return 0


# -- binfmt_misc ------------------------------------------------------------------------------------------------------


@cli.group()
def binfmt() -> None:
    """Let the kernel start vm for programs of other machines, so that ./program runs."""


_BINFMT_ROOT: Callable[[Any], Any] = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Only the files below this directory, for an image; the kernel is left alone.",
)


@binfmt.command("install")
@click.argument("words", nargs=-1, metavar="[ISA]... [-- OPTIONS]")
@_BINFMT_ROOT
@_JSON
def binfmt_install(words: tuple[str, ...], root: Path | None, as_json: bool) -> int:
    """Register vm for these machines, or all that it runs. OPTIONS are those of vm run, for each start: -- -L /srv/sysroot"""
    from vm_cli import binfmt as kernel

    # Behind -- the first word is an option; click takes the -- itself away.
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    rows, remarks = kernel.install(words[:count], words[count:], root=root)
    if as_json:
        _print_json({"machines": rows, "notes": remarks})
        return 0
    from vm_cli.report import note
    from vm_cli.show import show_binfmt

    show_binfmt(rows)
    for remark in remarks:
        note(remark)
    return 0


@binfmt.command("uninstall")
@click.argument("isas", nargs=-1, metavar="[ISA]...")
@_BINFMT_ROOT
@_JSON
def binfmt_uninstall(isas: tuple[str, ...], root: Path | None, as_json: bool) -> int:
    """Take away what install did, for these machines or all."""
    from vm_cli import binfmt as kernel

    gone, remarks = kernel.uninstall(isas, root=root)
    if as_json:
        _print_json({"removed": gone, "notes": remarks})
        return 0
    from vm_cli.report import note

    click.echo("\n".join(f"removed {name}" for name in gone) or "nothing was installed")
    for remark in remarks:
        note(remark)
    return 0


@binfmt.command("status")
@_BINFMT_ROOT
@_JSON
def binfmt_status(root: Path | None, as_json: bool) -> int:
    """Show what is registered, and who else takes the same programs."""
    from vm_cli import binfmt as kernel

    found = kernel.status(root=root)
    if as_json:
        _print_json(found)
        return 0
    from vm_cli.show import show_binfmt

    show_binfmt(found["machines"])
    if root is None and not found["mounted"]:
        click.echo(f"binfmt_misc is not mounted at {found['directory']}; install does it")
    return 0


# -- cache ------------------------------------------------------------------------------------------------------------


@cli.group()
def cache() -> None:
    """The code that is kept on disk between runs."""


@cache.command("path")
@_JSON
def cache_path(as_json: bool) -> int:
    """Print the directory."""
    from vm_cli import cached

    path = cached.directory()
    if as_json:
        _print_json({"path": str(path), "exists": path.is_dir()})
    else:
        click.echo(str(path))
    return 0


@cache.command("list")
@_JSON
def cache_list(as_json: bool) -> int:
    """List the entries, the largest first."""
    from vm_cli import cached

    entries = cached.entries()
    if as_json:
        _print_json(entries)
    else:
        from vm_cli.show import show_cache

        show_cache(entries)
    return 0


@cache.command("verify")
@_JSON
def cache_verify(as_json: bool) -> int:
    """Check every entry. Exit status 1 if one must not be used."""
    from vm_cli import cached

    bad = [entry for entry in cached.entries() if not entry["valid"]]
    if as_json:
        _print_json({"bad": bad})
    else:
        for entry in bad:
            click.echo(f"{entry['name']}: {entry['error']}")
        click.echo(f"{len(bad)} bad entries" if bad else "all entries are sound")
    return 1 if bad else 0


@cache.command("clear")
@_JSON
def cache_clear(as_json: bool) -> int:
    """Delete every entry."""
    from vm_cli import cached

    return _removed(cached.clear(), as_json)


@cache.command("prune")
@click.option(
    "--max-size", default="256M", show_default=True, help="Keep at most this much, the newest first."
)
@_JSON
def cache_prune(max_size: str, as_json: bool) -> int:
    """Delete bad entries, and the oldest ones beyond a size."""
    from vm_cli import cached
    from vm_cli.settings import SIZE

    try:
        limit = SIZE.parse(max_size)
    except ValueError:
        raise UsageError(f"--max-size: {max_size!r} is no size", hint=f"allowed: {SIZE.allowed}") from None
    return _removed(cached.prune(limit), as_json)


def _removed(removed: tuple[int, int], as_json: bool, what: str = "entries") -> int:
    count, size = removed
    if as_json:
        _print_json({"removed": count, "bytes": size})
    else:
        click.echo(f"removed {count} {what}, {size:,} bytes")
    return 0


# -- sysroots ---------------------------------------------------------------------------------------------------------


@cli.group()
def sysroot() -> None:
    """Trees of another machine's Linux, made of Debian packages, without root."""


_SOURCE = (
    click.option("--mirror", metavar="URL", help="The Debian archive; by default that of vm's settings or of this host's apt."),
    click.option("--suite", "suites", metavar="SUITE", multiple=True, help="A suite, as trixie or sid. Repeatable; the first that can be used is. Default: stable, testing, unstable."),
    click.option("--component", "components", metavar="NAME", multiple=True, help="A part of the suite (main). Repeatable."),
    click.option("--keyring", metavar="FILE", type=click.Path(), help="The keys to check the archive's signature with."),
    click.option("--check-signature/--no-check-signature", default=True, help="UNSAFE without: whoever is on the way can change what is unpacked."),
    click.option("--recommends", is_flag=True, help="Take recommended packages too."),
    _JSON,
)  # fmt: skip


def _from_archive(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_SOURCE):
        command = option(command)
    return command


@sysroot.command("create")
@click.argument("isa", type=click.Choice(list(ARCHITECTURES)))
@click.argument("packages", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False),
    required=True,
    help="The new directory.",
)
@click.option(
    "--minimal",
    is_flag=True,
    help="Only the packages named and what they need, not what every Debian system has.",
)
@click.option("--force", is_flag=True, help="Replace a sysroot that is there. Nothing else is ever replaced.")
@_from_archive
def sysroot_create(
    isa: str, packages: tuple[str, ...], output: str, minimal: bool, force: bool, as_json: bool, **source: Any
) -> int:
    """Make a directory that holds a Debian system for ISA with these packages.

    The packages come with all that they depend on. A version can be asked for: gcc=4:14.2.0-1.
    """
    from vm_cli.sysroot import commands

    found = commands.create(
        isa, output, packages, commands.Choices(**source), _progress(), minimal=minimal, force=force
    )
    return _made(found, as_json)


@sysroot.command("add")
@click.argument("directory", type=click.Path(file_okay=False))
@click.argument("packages", nargs=-1)
@_from_archive
def sysroot_add(directory: str, packages: tuple[str, ...], as_json: bool, **source: Any) -> int:
    """Add packages to a sysroot, of the suite it is made of. Without any, finish what was interrupted."""
    from vm_cli.sysroot import commands

    return _made(commands.add(directory, packages, commands.Choices(**source), _progress()), as_json)


@sysroot.command("list")
@click.argument("directory", type=click.Path(file_okay=False))
@_JSON
def sysroot_list(directory: str, as_json: bool) -> int:
    """List the packages of a sysroot. Exit status 1 if it is not complete."""
    from vm_cli.sysroot import commands

    found = commands.contents(directory)
    if as_json:
        _print_json(found)
    else:
        from vm_cli.show import show_sysroot

        show_sysroot(found)
    return 0 if found["complete"] else 1


@sysroot.command("clean")
@_JSON
def sysroot_clean(as_json: bool) -> int:
    """Delete the downloads that are kept for the next sysroot."""
    from vm_cli.sysroot import commands

    return _removed(commands.clean(), as_json, "files")


def _progress() -> Any:
    from vm_cli.sysroot.progress import progress

    return progress()


def _made(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        _print_json(found)
    else:
        from vm_cli.show import show_made

        show_made(found)
    return 0


# -- configuration ----------------------------------------------------------------------------------------------------


@cli.group()
def config() -> None:
    """The settings in force."""


@config.command("show")
@click.option("--origin", is_flag=True, help="Say where each value was set.")
@_JSON
def config_show(origin: bool, as_json: bool) -> int:
    """Print every setting."""
    from vm_cli.settings import load

    found = load(os.environ)
    rows = [(row.name, found.value(row.name), found.origin(row.name)) for row in ROWS]
    if as_json:
        _print_json({name: {"value": value, "origin": where} for name, value, where in rows})
        return 0
    for name, value, where in rows:
        text = f"{name} = {_toml(value)}"
        click.echo(f"{where}\t{text}" if origin else text)
    return 0


def _toml(value: object) -> str:
    if value is None:
        return '""  # not set'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value) if isinstance(value, (int, float)) else json.dumps(str(value))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@_JSON
def completion(shell: str, as_json: bool) -> int:
    """Print the completion script of a shell, to be sourced by it."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "vm", "_VM_COMPLETE").source()
    if as_json:
        _print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
    return 0


def complete() -> NoReturn:
    """Answer the shell, which has set _VM_COMPLETE."""
    sys.exit(cli.main([], prog_name="vm"))
