"""``vm run`` and the multi-call names: settings and command line in, a guest run, its exit status out.

Start-up time is a feature here: this module and what it imports must not import click, rich or (without a
configuration file) tomllib.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from vm_cli.main import Stopped
from vm_cli.options import RunLine, help_text, parse_run
from vm_cli.settings import Settings, apply_flags, load
from vm_core.errors import EXIT_FUEL, EXIT_MEMORY, EXIT_TIMEOUT, LoadError, UsageError

if TYPE_CHECKING:
    from vm_core.run import RunResult

__all__ = ["engine_name", "guest_environment", "run_command", "run_guest", "run_multicall", "status_of"]

_LIMITS = {"memory": EXIT_MEMORY, "fuel": EXIT_FUEL, "timeout": EXIT_TIMEOUT}


def run_command(words: Sequence[str]) -> int:
    """``vm run``: run the program, report as asked, and return the exit status."""
    line = parse_run(words)
    if line.help:
        print(help_text("vm run [OPTIONS] [--] PROGRAM [ARGUMENTS]..."))
        return 0
    if line.version:
        return _version()
    result, settings = _run(line, os.environ)
    return _finish(result, settings, as_json=line.json)


def run_multicall(isa: str, words: Sequence[str]) -> int:
    """``vm-riscv64`` and its like: as ``vm run``, for programs of one ISA, and a signal's death is vm's own."""
    line = parse_run(words, qemu=True)
    if line.help:
        print(help_text(f"vm-{isa} [OPTIONS] PROGRAM [ARGUMENTS]..."))
        return 0
    if line.version:
        return _version()
    if line.program:
        _check_machine(line.program[0], isa)
    result, settings = _run(line, os.environ)
    status = _finish(result, settings, as_json=line.json)
    if result.reason == "signal" and result.signal:
        _die_by(result.signal)
    return status


def _version() -> int:
    from vm_cli.info import version

    print(f"vm {version('vm-cli')}")
    return 0


def _run(line: RunLine, environ: Mapping[str, str]) -> tuple[RunResult, Settings]:
    configuration = load(environ)
    apply_flags(configuration, line.flags)
    settings = configuration.settings
    if not line.program:
        raise UsageError("no program is named", hint="vm run [OPTIONS] PROGRAM [ARGUMENTS]...")
    if line.cpu not in (None, "max", "any", "rv64", "help"):
        from vm_cli.report import note

        note(f"-cpu {line.cpu} is ignored: vm has one model a machine, its largest")
    return run_guest(line.program, settings, environ, argv0=line.argv0), settings


def engine_name(settings: Settings) -> str:
    """The engine to ask for: ``auto`` without the JIT is the interpreter. Raises UsageError for a contradiction."""
    if settings.jit:
        return settings.engine
    if settings.engine == "jit":
        raise UsageError(
            "the engine 'jit' is asked for, but the JIT is turned off",
            hint="unset VM_ENABLE_JIT or give --jit",
        )
    return "interp" if settings.engine == "auto" else settings.engine


def guest_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The guest's variables: the host's, less ``unset_env``, plus ``env``."""
    out = {k: v for k, v in environ.items() if k not in settings.unset_env}
    for item in settings.env:
        name, _, value = item.partition("=")
        out[name] = value
    return out


def run_guest(
    program: Sequence[str],
    settings: Settings,
    environ: Mapping[str, str],
    *,
    argv0: str | None = None,
    **options: Any,
) -> RunResult:
    """Run a program under ``settings``. ``options`` go to :func:`vm_core.run.run` as they are."""
    from vm_core.run import run

    if settings.cache_dir is not None:
        os.environ["VM_CACHE_DIR"] = str(
            settings.cache_dir
        )  # read by vm_jit.cache; the guest's own copy is apart
    with _host_signals():
        return run(
            list(program),
            env=guest_environment(settings, environ),
            timeout=settings.timeout,
            fuel=settings.fuel,
            memory=settings.memory,
            engine=engine_name(settings),
            root=settings.root,
            binds=settings.bind,
            net=settings.net,
            argv0=argv0,
            strace=settings.strace,
            **options,
        )


@contextmanager
def _host_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the guest as Ctrl-C does, instead of leaving terminals and cache files half-way."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(number)

    kept = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def status_of(result: RunResult) -> int:
    """The exit status that stands for a result."""
    if result.reason in _LIMITS:
        return _LIMITS[result.reason]
    if result.reason == "signal":
        return 128 + (result.signal or 0)
    return (result.exit_code or 0) & 0xFF


def _finish(result: RunResult, settings: Settings, *, as_json: bool) -> int:
    status = status_of(result)
    if result.reason != "exited":
        from vm_cli.report import note

        note(ending(result))
    if as_json:
        import json

        from vm_cli.show import result_facts

        sys.stderr.write(json.dumps({"exit_status": status, **result_facts(result)}) + "\n")
    elif settings.stats:
        from vm_cli.show import show_stats

        show_stats(result)
    return status


def ending(result: RunResult) -> str:
    """One line on why a guest did not end by itself."""
    said = getattr(result, "message", "")
    if said:
        return str(said)
    if result.reason == "signal" and result.signal:
        number = result.signal
        return f"the guest was ended by signal {number} ({signal.strsignal(number) or 'unknown'})"
    return {
        "fuel": f"the guest used up its fuel of {result.instructions:,} instructions",
        "timeout": "the guest ran longer than its timeout",
        "memory": "the guest asked for more memory than its cap",
    }.get(result.reason, f"the guest stopped: {result.reason}")


def _check_machine(program: str, isa: str) -> None:
    """Refuse another ISA's program before it runs. Raises LoadError."""
    from vm_core.loader import machine_of

    found = machine_of(program)
    if found != isa:
        raise LoadError(f"{program}: a program for {found}, not for {isa}", hint=f"use vm-{found}, or vm run")


def _die_by(number: int) -> None:
    """End this process by the guest's signal, without a core dump of our own. Returns if the host ignores it."""
    import resource

    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    except (OSError, ValueError):
        return
