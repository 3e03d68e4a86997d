"""``run``: a guest program as ``subprocess.run`` runs a host one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

from vm_core.engine import EngineStats
from vm_core.errors import EXIT_FUEL, EXIT_MEMORY, EXIT_TIMEOUT, EXIT_VM, GuestError, UsageError
from vm_core.hints import IO, TYPE_CHECKING, Any, ClassVar, Final, Self
from vm_core.linux.paths import Bind
from vm_core.linux.process import EngineMaker, Process, SyscallHook
from vm_core.linux.signal import IGNORED_BY_DEFAULT
from vm_core.loader import sanitizer_of
from vm_core.memory import MemoryLimit
from vm_core.record import field, record

if TYPE_CHECKING:
    from types import FrameType

    from vm_core.debug.server import Server
    from vm_core.instructions import InstructionTrace
    from vm_core.linux.abi import SigInfo
    from vm_core.linux.process import GuestThread, Host
    from vm_core.linux.strace import Strace

__all__ = ["DEVNULL", "PIPE", "STDOUT", "GuestFailed", "ProgramRun", "RunResult", "run"]

PIPE: Final = -1
STDOUT: Final = -2
DEVNULL: Final = -3
"""As in subprocess, whose import would be a tenth of the start of a small program."""

_EXITS: Final = {"fuel": EXIT_FUEL, "memory": EXIT_MEMORY, "timeout": EXIT_TIMEOUT, "stopped": EXIT_VM}

Stream = int | IO[Any] | None


@record()
class RunResult:
    """How a guest ended.

    ``reason`` is "exit", "signal", "fuel", "memory", "timeout" or "stopped". ``returncode`` is the guest's exit code;
    minus the signal that killed it; or 122 to 125 (:mod:`vm_core.errors`) when vm stopped it. ``exit_code`` and
    ``signal`` are None where they do not apply. ``message`` is one line about an end that is not an exit, or
    of which vm knows why it is none that the program wanted.
    ``instructions`` counts what all threads retired. ``phases`` has the wall time in seconds of "prepare" (program, memory,
    engine), "run" and "finish" (what is kept for the next run).
    """

    args: Sequence[str | bytes]
    returncode: int
    exit_code: int | None
    signal: int | None
    stdout: Any
    stderr: Any
    reason: str
    message: str
    instructions: int
    stats: EngineStats = field(default_factory=EngineStats)
    system_calls: int = 0
    peak_memory: int = 0
    """Most bytes of guest memory mapped at one time."""
    phases: dict[str, float] = field(default_factory=dict)
    walls: Sequence[str] = ()
    """What the host's kernel enforced on this process meanwhile, and still does (vm_core.linux.confine)."""

    def check_returncode(self) -> None:
        """Raise GuestFailed unless the guest exited with 0."""
        if self.returncode:
            raise GuestFailed(self)


class GuestFailed(GuestError):
    """``check=True`` and the guest did not exit with 0. ``result`` is its RunResult."""

    code: ClassVar[str] = "VM203"

    def __init__(self, result: RunResult) -> None:
        program = os.fsdecode(result.args[0]) if result.args else "guest"
        what = result.message or f"exit status {result.returncode}"
        super().__init__(f"{program}: {what}")
        self.result = result
        self.returncode = result.returncode
        self.stdout = result.stdout
        self.stderr = result.stderr


class _Streams:
    """The three host descriptors for a guest, and what becomes of its captured output.

    Captures go to memory files: no reader thread, no full pipe.
    """

    def __init__(
        self,
        data: bytes | None,
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
        *,
        decode: Callable[[bytes], Any],
    ) -> None:
        self._owned: list[int] = []
        self._decode = decode
        self.captured: dict[int, int] = {}
        try:
            self._open(data, stdin, stdout, stderr)
        except BaseException:
            self.close()
            raise

    def _open(self, data: bytes | None, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        if data is not None:
            fd = self._file()
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.lseek(fd, 0, os.SEEK_SET)
            first: int | None = fd
        else:
            first = self._input(stdin)
        second = self._output(1, stdout, None)
        self.fds = (first, second, self._output(2, stderr, second))

    def _file(self) -> int:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("vm-capture", os.MFD_CLOEXEC)
        else:
            import tempfile

            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        self._owned.append(fd)
        return fd

    def _null(self) -> int:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._owned.append(fd)
        return fd

    def _input(self, stream: Stream) -> int:
        if stream is None:
            return 0
        if stream == DEVNULL:
            return self._null()
        if stream in (PIPE, STDOUT):
            raise UsageError("stdin cannot be PIPE: give the data as input=")
        return _descriptor(stream)

    def _output(self, number: int, stream: Stream, stdout: int | None) -> int:
        if stream is None:
            return number
        if stream == DEVNULL:
            return self._null()
        if stream == STDOUT and number == 2 and stdout is not None:
            return stdout
        if stream == PIPE:
            fd = self._file()
            self.captured[number] = fd
            return fd
        return _descriptor(stream)

    def text(self, number: int) -> Any:
        """What was captured, or None."""
        fd = self.captured.get(number)
        if fd is None:
            return None
        size = os.fstat(fd).st_size
        out = bytearray()
        while len(out) < size:
            chunk = os.pread(fd, size - len(out), len(out))
            if not chunk:
                break
            out += chunk
        return self._decode(bytes(out))

    def close(self) -> None:
        for fd in self._owned:
            os.close(fd)
        self._owned.clear()


@contextmanager
def _passing(process: Process, numbers: Collection[int]) -> Iterator[None]:
    """Let the guest, which begins with those ignored that the host ignores, have these signals of the host. Raises UsageError."""
    if not numbers:
        yield
        return
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        raise UsageError("host_signals: only the main thread of Python gets signals")
    before: dict[int, Any] = {}

    def arrive(number: int, frame: FrameType | None) -> None:
        if process.host_signals.accept(number):
            return
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        elif number not in IGNORED_BY_DEFAULT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    try:
        for number in numbers:
            handler = signal.getsignal(number)
            if handler is not None:
                before[number] = handler
                signal.signal(number, arrive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_words(words: Sequence[object], env: Mapping[Any, object] | None) -> None:
    """Refuse what execve(2) could not pass on. Raises UsageError."""
    for word in words:
        if not isinstance(word, (str, bytes)):
            raise UsageError(f"an argument must be str or bytes, not {type(word).__name__}: {word!r}")
        if "\0" in word if isinstance(word, str) else 0 in word:
            raise UsageError(f"an argument has a NUL in it: {word!r}")
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"env must map str to str: {name!r}: {value!r}")
        if not name or "=" in name or "\0" in name:
            raise UsageError(f"env: {name!r} cannot be a variable's name")
        if "\0" in value:
            raise UsageError(f"env: the value of {name} has a NUL in it")


def _check_isolation(isolation: str, *, confined: bool, shared: bool) -> None:
    """Refuse to give up isolation where something else promises it. Raises UsageError."""
    if isolation not in ("on", "off"):
        raise UsageError(f"isolation is 'on' or 'off', not {isolation!r}")
    if isolation == "off" and confined:
        raise UsageError("isolation off and a root of its own exclude each other", hint="give one of them up")
    if isolation == "off" and shared:
        raise UsageError("isolation off: guests of one scheduler must not reach each other's memory")


def _text_encoding() -> str:
    import locale

    return locale.getpreferredencoding(False)


def _descriptor(stream: int | IO[Any]) -> int:
    """The host descriptor of a stream, flushed if it is a file object. Raises UsageError."""
    if isinstance(stream, int):
        try:
            os.fstat(stream)
        except (OSError, OverflowError):
            raise UsageError(f"a stream is no open descriptor: {stream}") from None
        return stream
    if not hasattr(stream, "fileno"):
        raise UsageError(f"a stream must be a descriptor or a file: {stream!r}")
    try:
        fd = stream.fileno()
    except OSError:  # io.BytesIO and its like
        raise UsageError(f"a stream has no descriptor: {stream!r}; use PIPE or input=") from None
    if stream.writable():
        stream.flush()
    return fd


class ProgramRun:
    """A program that is loaded, and its streams: what :func:`run` does before and after the guest runs.

    The arguments are those of :func:`run`, and so are the errors; ``host`` is for :class:`Process`. ``process`` is None if
    the memory cap was too small to load the program.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes] | str,
        *,
        input: bytes | str | None = None,  # noqa: A002 - subprocess.run's name
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        capture_output: bool = False,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        fuel: int | None = None,
        memory: int | None = None,
        engine: str | EngineMaker = "auto",
        engine_options: Mapping[str, object] | None = None,
        root: str | os.PathLike[str] | None = None,
        sysroot: str | os.PathLike[str] | None = None,
        binds: Sequence[Bind | str] = (),
        net: bool = False,
        trust: bool = False,
        argv0: str | None = None,
        program: str | os.PathLike[str] | bytes | None = None,
        strace: Strace | Callable[[str], None] | None = None,
        trace: InstructionTrace | None = None,
        syscall_hook: SyscallHook | None = None,
        fault_hook: Callable[[GuestThread, SigInfo], None] | None = None,
        isolation: str = "on",
        host: Host | None = None,
        gdb: Server | None = None,
        stack: int | None = None,
        release: str | None = None,
        max_processes: int | None = None,
        sandbox: str = "off",
    ) -> None:
        if sandbox not in ("auto", "strict", "off"):
            raise UsageError(f"sandbox is 'auto', 'strict' or 'off', not {sandbox!r}")
        words: list[str | bytes] = [argv] if isinstance(argv, str) else list(argv)
        if not words:
            raise UsageError("no program given")
        if fuel is not None and fuel < 0:
            raise UsageError(f"fuel must not be negative: {fuel}")
        if timeout is not None and timeout < 0:
            raise UsageError(f"the timeout must not be negative: {timeout}")
        if memory is not None and memory <= 0:
            raise UsageError(f"the memory cap must be positive: {memory}")
        if stack is not None and stack <= 0:
            raise UsageError(f"the stack's size must be positive: {stack}")
        if max_processes is not None and max_processes <= 0:
            raise UsageError(f"the most processes must be positive: {max_processes}")
        if capture_output:
            if stdout is not None or stderr is not None:
                raise UsageError("capture_output excludes stdout and stderr")
            stdout = stderr = PIPE
        if input is not None and stdin is not None:
            raise UsageError("input excludes stdin")
        _check_words(words, env)
        if gdb is not None and trace is not None:
            raise UsageError(
                "a trace of instructions and a debugger exclude each other",
                hint="without -g or without --trace",
            )
        _check_isolation(isolation, confined=root is not None, shared=host is not None)
        textual = text or encoding is not None or errors is not None
        asked = textual or isinstance(input, str)
        codec, on_error = encoding or (_text_encoding() if asked else "utf-8"), errors or "strict"
        data = input.encode(codec, on_error) if isinstance(input, str) else input
        decode: Callable[[bytes], Any] = (
            (lambda raw: raw.decode(codec, on_error)) if textual else (lambda raw: raw)
        )
        if program is None:
            program = os.fsdecode(words[0])
        if argv0 is not None:
            words[0] = argv0
        self.args = words
        self.process: Process | None = None
        self._streams = _Streams(data, stdin, stdout, stderr, decode=decode)
        self._limited = ""
        options: dict[str, Any] = {
            "program": program,
            "env": env,
            "cwd": None if cwd is None else os.fspath(cwd),
            "engine": engine,
            "engine_options": engine_options
            if isolation == "on"
            else {**(engine_options or {}), "isolation": isolation},
            "memory": memory,
            "fuel": fuel,
            "timeout": timeout,
            "root": None if root is None else os.fspath(root),
            "sysroot": None if sysroot is None else os.fspath(sysroot),
            "binds": binds,
            "net": net,
            "trust": trust,
            "strace": strace,
            "trace": trace,
            "syscall_hook": syscall_hook,
            "fault_hook": fault_hook,
            "stack": stack,
            "release": release,
            "max_processes": max_processes,
        }
        debugger = None if gdb is None else gdb.debugger
        self._apart = {**options, "debugger": debugger, "host": host} if sandbox != "off" else None
        if self._apart is not None:
            return
        try:
            self.process = Process(words, stdio=self._streams.fds, host=host, debugger=debugger, **options)
        except MemoryLimit as limited:
            self._limited = str(limited)
        except BaseException:
            self._streams.close()
            raise

    def run_apart(self, level: str) -> RunResult:
        """Run in a process of its own, which is confined at ``level``; how it ended. Raises VmError."""
        from vm_core.linux.child import run_in_child

        assert self._apart is not None
        found = run_in_child(level, self._streams.fds, self.args, self._apart)
        return RunResult(args=self.args, stdout=self._streams.text(1), stderr=self._streams.text(2), **found)

    def result(self) -> RunResult:
        """How it ended. The process is over."""
        stdout, stderr = self._streams.text(1), self._streams.text(2)
        if self.process is None:
            return RunResult(self.args, EXIT_MEMORY, None, None, stdout, stderr, "memory", self._limited, 0)
        return result_of(self.process, self.args, stdout, stderr)

    def close(self) -> None:
        """Give everything back."""
        try:
            if self.process is not None:
                self.process.close()
        finally:
            self._streams.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(
    argv: Sequence[str | bytes] | str,
    *,
    input: bytes | str | None = None,  # noqa: A002 - subprocess.run's name
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    capture_output: bool = False,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    fuel: int | None = None,
    memory: int | None = None,
    engine: str | EngineMaker = "auto",
    engine_options: Mapping[str, object] | None = None,
    root: str | os.PathLike[str] | None = None,
    sysroot: str | os.PathLike[str] | None = None,
    binds: Sequence[Bind | str] = (),
    net: bool = False,
    trust: bool = False,
    check: bool = False,
    argv0: str | None = None,
    program: str | os.PathLike[str] | bytes | None = None,
    strace: Strace | Callable[[str], None] | None = None,
    trace: InstructionTrace | None = None,
    syscall_hook: SyscallHook | None = None,
    fault_hook: Callable[[GuestThread, SigInfo], None] | None = None,
    isolation: str = "on",
    host_signals: Collection[int] = (),
    gdb: Server | None = None,
    stack: int | None = None,
    release: str | None = None,
    max_processes: int | None = None,
    prepared: Callable[[Process], None] | None = None,
    sandbox: str = "off",
) -> RunResult:
    """Run a Linux program of any ISA that vm knows, and wait for it.

    As in ``subprocess.run``: ``input``, ``stdin``, ``stdout``, ``stderr``, ``capture_output``, ``text``, ``env``,
    ``cwd``, ``check``. A timeout does not raise: its result has reason "timeout" and returncode 124, as ``fuel`` (an
    exact number of instructions) gives "fuel" and 123, and ``memory`` (bytes) "memory" and 122.

    The guest may read and write below ``cwd`` and read its own program; it has a private /tmp and no network.
    ``root`` is a directory that becomes its ``/`` instead (``DIR:ro`` for reading only), ``binds`` adds
    ``HOST[:GUEST[:ro]]``, and ``net`` allows sockets. ``program`` is what runs if it is not ``argv[0]``: a path or the
    bytes of an ELF file. ``sysroot`` is a directory where absolute paths of the guest are looked for first, for reading:
    the tree of a distribution, with the dynamic loader and the libraries of the program. ``argv0`` replaces the guest's ``argv[0]``.
    ``stack`` is the size of its stack in bytes (8 MiB, and what RLIMIT_STACK says), ``release`` the kernel release that it sees.
    It has at most ``max_processes`` processes (4096) at a time; one more is EAGAIN.

    ``trust`` gives up all of that: the guest has the host's file system, network and devices, as a program of this user; with
    ``root``, below that directory, as chroot leaves a program.

    ``strace`` is called with a line for each system call; a :class:`vm_core.Strace` says more, and can give events instead of
    lines. ``trace`` shows instructions (:class:`vm_core.InstructionTrace`). ``syscall_hook`` is called before each system call (a number returned is the
    call's result), ``fault_hook`` when a signal is about to kill the guest.

    ``isolation="off"`` is UNSAFE and for measurements: compiled code believes the guest's addresses, so a wild one may read or
    write anything of this process, or end it. It is refused together with ``root`` and in a Scheduler. An ``engine`` that is
    a callable has to do it itself.

    ``host_signals`` of this process go to a guest that handles, ignores or blocks them, while it runs; otherwise they
    do what they did before. What this process ignores, such a guest ignores at first. Python has signals in its main thread only, so
    this has to be called there.

    ``gdb`` is a debugger's stub (:mod:`vm_core.debug.server`): the guest waits for a client before its first instruction.

    ``sandbox="auto"`` or ``"strict"`` runs the guest in a process of its own, which the host's kernel holds to what the guest may
    reach (docs/security.md); it takes 60 ms more, and no hooks, which belong to this process. "off" runs it in this one.

    ``prepared`` is called when everything is open, before the guest's first instruction.

    Raises LoadError, UsageError, EngineUnavailable, HostError; GuestFailed with ``check``.
    """
    times = [time.perf_counter()]
    program_run = ProgramRun(
        argv, input=input, stdin=stdin, stdout=stdout, stderr=stderr, capture_output=capture_output, text=text,
        encoding=encoding, errors=errors, env=env, cwd=cwd, timeout=timeout, fuel=fuel, memory=memory, engine=engine,
        engine_options=engine_options, root=root, sysroot=sysroot, binds=binds, net=net, trust=trust, argv0=argv0, program=program, strace=strace, trace=trace,
        syscall_hook=syscall_hook, fault_hook=fault_hook, isolation=isolation, gdb=gdb, stack=stack, release=release,
        max_processes=max_processes, sandbox=sandbox,
    )  # fmt: skip
    times.append(time.perf_counter())
    with program_run:
        if sandbox != "off":
            if host_signals or prepared is not None:
                raise UsageError("host_signals and prepared are for a guest in this process: sandbox='off'")
            result = program_run.run_apart(sandbox)
            if check:
                result.check_returncode()
            return result
        if program_run.process is not None:
            # Who gives a guest the process's signals lets it stop the process too, as a shell's job.
            if host_signals:
                program_run.process.owns_host = True
                program_run.process.host_signals.inherit()
            if prepared is not None:
                prepared(program_run.process)
            with _passing(program_run.process, host_signals), gdb or nullcontext():
                program_run.process.run()
            times.append(time.perf_counter())
        result = program_run.result()
    times.append(time.perf_counter())
    if len(times) == 4:
        spent = (after - before for before, after in pairwise(times))
        result.phases.update(zip(("prepare", "run", "finish"), spent, strict=True))
    if check:
        result.check_returncode()
    return result


def result_of(
    process: Process, args: Sequence[str | bytes], stdout: Any = None, stderr: Any = None
) -> RunResult:
    """The RunResult of a process that is over."""
    if process.reason == "exit":
        code = process.exit_code if process.exit_code is not None else 0
    elif process.reason == "signal":
        code = -(process.signal or 0)
    else:
        code = _EXITS.get(process.reason, EXIT_VM)
    message = process.message
    if process.reason == "fuel":
        message = f"stopped after exactly {process.instructions:,} instructions"
    elif process.reason == "timeout":
        message = f"stopped after {process.timeout:g} s"
    elif process.reason == "memory":
        message = f"stopped: {message}"
    elif code and (sanitizer := sanitizer_of(process.program)):
        # Its own message speaks of kernels and of other mappings.
        why = (
            f"the program is made with -fsanitize={sanitizer}, which needs terabytes of addresses, "
            f"and vm gives a program {process.memory.size >> 30} GiB: build it without, or run it without vm"
        )
        message = f"{message}; {why}" if message else why
    return RunResult(
        args=args,
        returncode=code,
        exit_code=process.exit_code,
        signal=process.signal,
        stdout=stdout,
        stderr=stderr,
        reason=process.reason,
        message=message,
        instructions=process.instructions,
        stats=process.engine.stats,
        system_calls=process.system_calls,
        peak_memory=process.memory.peak,
    )
