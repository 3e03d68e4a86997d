"""``vm run`` and the multi-call names: settings and command line in, a guest run, its exit status out.

Start-up time is a feature here: this module and what it imports must not import click, rich or (without a
configuration file) tomllib.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from vm_cli.main import Stopped
from vm_cli.options import RunLine, help_text, parse_run
from vm_cli.settings import Settings, apply_flags, load
from vm_core.errors import EXIT_FUEL, EXIT_MEMORY, EXIT_TIMEOUT, EngineUnavailable, LoadError, UsageError
from vm_core.hints import TYPE_CHECKING, Any, Final, NoReturn
from vm_core.log import Log, configure
from vm_core.record import replace

if TYPE_CHECKING:
    from vm_core.debug.server import Server
    from vm_core.engine import Engine
    from vm_core.linux.process import Process
    from vm_core.memory import GuestMemory
    from vm_core.runner import RunResult
    from vm_core.spec.isa import Isa

__all__ = [
    "engine_name",
    "guest_environment",
    "read_settings",
    "run_command",
    "run_guest",
    "run_multicall",
    "status_of",
]

_PASSED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
)
"""What a guest may handle. Not SIGQUIT: Ctrl-\\ ends vm whatever the guest does."""
_LIMITS = {"memory": EXIT_MEMORY, "fuel": EXIT_FUEL, "timeout": EXIT_TIMEOUT}


def run_command(words: Sequence[str]) -> int:
    """``vm run``: run the program, report as asked, and return the exit status."""
    line = parse_run(words)
    if line.help:
        print(help_text("vm run [OPTIONS] [--] PROGRAM [ARGUMENTS]..."))
        return 0
    if line.version:
        return _version()
    result, engine, settings = _run(line, os.environ)
    return _finish(result, engine, settings, as_json=line.json)


def run_multicall(isa: str, words: Sequence[str]) -> int:
    """``vm-riscv64`` and its like: as ``vm run``, for programs of one ISA, and a signal's death is vm's own."""
    from vm_cli.qemu import OPTIONS, parse_qemu

    line, notes, log_file = parse_qemu(words, os.environ)
    if line.help:
        print(help_text(f"vm-{isa} [OPTIONS] PROGRAM [ARGUMENTS]...", more=OPTIONS))
        return 0
    if line.version:
        return _version()
    if notes:
        from vm_cli.report import note

        for text in notes:
            note(text)
    if line.program:
        _check_machine(line.program[0], isa)
    result, engine, settings = _run(line, os.environ, log_file)
    status = _finish(result, engine, settings, as_json=line.json)
    if result.reason == "signal" and result.signal:
        _die_by(result.signal)
    return status


def _version() -> int:
    from vm_cli.info import version

    print(f"vm {version('vm-cli')}")
    return 0


def read_settings(line: RunLine, environ: Mapping[str, str]) -> Settings:
    """The settings in force for a command line. Raises ConfigError and UsageError."""
    configuration = load(environ)
    apply_flags(configuration, line.flags)
    return configuration.settings


def _run(
    line: RunLine, environ: Mapping[str, str], log_file: str | None = None
) -> tuple[RunResult, str, Settings]:
    settings = read_settings(line, environ)
    if log_file is not None:
        settings = replace(settings, strace_output=log_file)
    if not line.program:
        raise UsageError("no program is named", hint="vm run [OPTIONS] PROGRAM [ARGUMENTS]...")
    if line.cpu not in (None, "max", "any", "rv64", "help"):
        from vm_cli.report import note

        note(f"-cpu {line.cpu} is ignored: vm has one model a machine, its largest")
    options: dict[str, Any] = {}
    if address := line.gdb or environ.get("QEMU_GDB"):
        options["gdb"] = _stub(address, line.program[0], as_json=line.json)
    result, engine = run_guest(line.program, settings, environ, argv0=line.argv0, confined=True, **options)
    return result, engine, settings


def _stub(address: str, program: str, *, as_json: bool) -> Server:
    """A debugger's stub, which listens, and says so when the program is loaded. Raises UsageError and HostError."""
    from vm_core.debug.server import Server

    def ready(target: str) -> None:
        if as_json:
            import json

            line = json.dumps({"gdb": target})
        else:
            import shlex

            connect = shlex.quote(f"target remote {target}")
            line = f"vm: waiting for gdb: gdb-multiarch -ex {connect} {shlex.quote(program)}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    return Server(address, ready)


def engine_name(settings: Settings) -> str:
    """The engine to ask for: ``auto`` without the JIT is the interpreter. Raises UsageError for a contradiction."""
    if (
        settings.trace
        and settings.engine == "auto"
        and settings.accel in ("auto", "none")
        and settings.trace is True
        and settings.trace_start is None
    ):
        return "interp"  # it runs one instruction at a time, of which compiled code makes nothing faster
    if settings.jit:
        return settings.engine
    if settings.engine == "jit":
        raise UsageError(
            "the engine 'jit' is asked for, but the JIT is turned off",
            hint="unset VM_ENABLE_JIT or give --jit",
        )
    return "interp" if settings.engine == "auto" else settings.engine


def _check_accel(settings: Settings) -> None:
    """Raises UsageError for a contradiction."""
    if settings.accel not in ("auto", "none") and settings.engine not in ("auto", "kvm"):
        raise UsageError(
            f"--accel {settings.accel} and --engine {settings.engine} exclude each other",
            hint="give one of them",
        )


def guest_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The guest's variables: the host's, less ``unset_env``, plus ``env``."""
    out = {k: v for k, v in environ.items() if k not in settings.unset_env}
    for item in settings.env:
        name, _, value = item.partition("=")
        out[name] = value
    return out


_MACHINES: Final = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64", "riscv64": "riscv64"}
"""What the host calls itself, and the guest ISA that it runs itself."""


def accelerated(wanted: str, isa: str) -> str:
    """The hypervisor for a program of ``isa``, or "none". ``auto`` without one says why; a named one must be there and fit."""
    # PERF: importing platform takes 2 ms; where there is no uname, it is asked.
    if hasattr(os, "uname"):
        machine = os.uname().machine
    else:
        import platform

        machine = platform.machine()
    native = _MACHINES.get(machine.lower()) == isa
    if wanted == "auto" and not native:
        return "none"  # PERF: nearly every guest; no hypervisor could run it, so none is looked for
    from vm_accel.registry import choose

    choice = choose(wanted)
    if not native and choice.name != "none":
        raise UsageError(
            f"{wanted} runs programs of the host's own ISA, and this one is {isa}",
            hint="leave --accel out: the program is translated",
        )
    if wanted == "auto" and choice.name == "none":
        import logging

        logging.getLogger("vm").warning("no hypervisor, the program is translated: %s", choice.reason)
    return choice.name


class _EngineChoice:
    """Makes the engine that was asked for, with ``options``, and remembers in ``made`` which one ``auto`` became; ``watch`` is
    shown it. ``accel`` goes before ``name``; ``auto`` leaves a run that needs single ``instructions`` to it."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, object],
        watch: Callable[[Engine], Engine] | None,
        accel: str = "none",
        *,
        instructions: bool = False,
    ) -> None:
        self.name, self.options, self.watch = name, options, watch
        self.accel, self.instructions = accel, instructions
        self.made = ""

    def _create(self, isa: Isa, memory: GuestMemory) -> Engine:
        from vm_core.engines import create

        name = self.name
        native = isa.name == "x86_64"
        if self.made:
            # After execve. A confined process could not look for a hypervisor; what it has, it has open.
            if name == "kvm" or self.made == "kvm":
                name = "kvm" if native else "auto"
            return create(name, isa, memory, **self.options)
        wanted = self.accel
        if name != "auto" or (wanted == "auto" and self.instructions):
            wanted = "none"
        if wanted != "none" and (found := accelerated(wanted, isa.name)) != "none":
            if found == "kvm":
                try:
                    return create("kvm", isa, memory, **self.options)
                except EngineUnavailable as error:
                    if wanted != "auto":
                        raise
                    Log("vm").warning("%s", f"the program is translated: {error}")
            elif self.accel != "auto":
                raise UsageError(f"{found} runs machines, not programs", hint="--accel kvm, auto or none")
        return create(name, isa, memory, **self.options)

    def __call__(self, isa: Isa, memory: GuestMemory) -> Engine:
        engine = self._create(isa, memory)
        self.made = engine.name
        if self.watch is not None:
            engine = self.watch(engine)
        # PERF: what is loaded by now stays; no collection need look at it again.
        gc.freeze()
        gc.enable()
        return engine


def run_guest(
    program: Sequence[str],
    settings: Settings,
    environ: Mapping[str, str],
    *,
    argv0: str | None = None,
    watch: Callable[[Engine], Engine] | None = None,
    engine_options: Mapping[str, object] | None = None,
    confined: bool = False,
    programs: Sequence[str] = (),
    sampled: bool = False,
    prepared: Callable[[Process], None] | None = None,
    **options: Any,
) -> tuple[RunResult, str]:
    """Run a program under ``settings``; returns its result and the name of the engine that ran it.

    ``watch`` is shown the engine, made with ``engine_options``, before it runs anything, and returns the one to use. ``confined``:
    this process is there for the guest alone, and is held to what the guest may reach; it can still start ``programs``, and have
    timers if it is ``sampled``. ``prepared`` is shown the process. ``options`` go to :func:`vm_core.run` as they are. To the
    result's phases comes "launch": the processor time, in seconds, of this process before.
    """
    from vm_core.runner import run

    launched = time.process_time()
    _show_log(settings.log)
    engine_options = dict(engine_options or {})
    if settings.isolation != "on":
        engine_options["isolation"] = settings.isolation
    if settings.code_memory is not None:
        engine_options["code_memory"] = settings.code_memory
    _check_accel(settings)
    needs = (
        settings.fuel is not None
        or settings.trace is not False
        or options.get("gdb") is not None
        or watch is not None
    )
    chosen = _EngineChoice(engine_name(settings), engine_options, watch, settings.accel, instructions=needs)
    if settings.cache_dir is not None:
        # Read by vm_jit.cache. The guest's environment is a copy of its own.
        os.environ["VM_CACHE_DIR"] = settings.cache_dir
    walls: list[str] = []

    def ready(process: Process) -> None:
        if prepared is not None:
            prepared(process)
        if confined:
            walls.extend(_confine(process, settings, programs=programs, sampled=sampled))

    with _host_signals():
        result = run(
            list(program),
            env=guest_environment(settings, environ),
            timeout=settings.timeout,
            fuel=settings.fuel,
            memory=settings.memory,
            engine=chosen,
            root=settings.root,
            sysroot=settings.sysroot,
            binds=settings.bind,
            net=settings.net,
            stack=settings.stack,
            max_processes=settings.max_processes,
            release=settings.uname,
            trust=settings.trust,
            isolation=settings.isolation,
            argv0=argv0,
            **_traces(settings),
            host_signals=_PASSED,
            prepared=ready if confined or prepared is not None else None,
            **options,
        )
    result.phases["launch"] = launched
    result.walls = walls
    return result, chosen.made


def _traces(settings: Settings) -> dict[str, Any]:
    """What is to be shown while the guest runs."""
    if settings.strace is False and settings.trace is False:
        return {}
    from vm_cli.tracing import strace_of, trace_of

    return {"strace": strace_of(settings), "trace": trace_of(settings)}


def _confine(process: Process, settings: Settings, *, programs: Sequence[str], sampled: bool) -> list[str]:
    """Hold this process, for ever, to what the guest may reach; what enforces it. Raises HostError."""
    if settings.sandbox == "off" or settings.trust:
        return []
    from vm_core.linux.confine import confine_process

    files = []
    if settings.strace_each and settings.strace_output is not None:
        # Each thread's file is made when the thread is.
        files.append(os.path.dirname(os.path.abspath(settings.strace_output)))
    return confine_process(
        process, level=settings.sandbox, writable=files, programs=programs, sampled=sampled
    )


def _show_log(level: str) -> None:
    """Print the messages of the packages from ``level`` up, one line each."""

    def prepare() -> None:
        import logging

        from vm_cli.report import printable

        class Lines(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                return f"vm: {record.levelname.lower()}: {printable(record.getMessage())}"

        logger = logging.getLogger("vm")
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(Lines())
            logger.addHandler(handler)
            logger.propagate = False
        logger.setLevel(level.upper())

    configure(prepare)


@contextmanager
def _host_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a guest that does not handle them as Ctrl-C does, not leaving cache files half-way."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(number)

    # nohup and a shell's & have a signal ignored: it stays so.
    mine = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    kept = {number: signal.signal(number, stop) for number in mine}
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


def _finish(result: RunResult, engine: str, settings: Settings, *, as_json: bool) -> int:
    status = status_of(result)
    if result.reason != "exit" or result.message:
        from vm_cli.report import note

        note(result.message or f"the guest was stopped: {result.reason}")
    if as_json:
        import json

        from vm_cli.facts import result_facts

        sys.stderr.write(json.dumps({"exit_status": status, **result_facts(result, engine)}) + "\n")
    elif settings.stats:
        from vm_cli.show import show_stats

        show_stats(result, engine)
    return status


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
