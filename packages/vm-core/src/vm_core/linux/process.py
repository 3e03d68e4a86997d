"""A guest process: its program, its threads, and how they begin and end.

The first guest thread runs in the thread that calls :meth:`Process.run`, which is why Ctrl-C reaches it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from vm_core import isa as isas
from vm_core.engine import Engine
from vm_core.errors import LoadError, UsageError
from vm_core.hints import TYPE_CHECKING, Final, NoReturn, Self
from vm_core.linux import limits, table
from vm_core.linux import mmap as mapping
from vm_core.linux import signal as signals
from vm_core.linux.abi import MASK64, Abi, SigInfo
from vm_core.linux.files import File, FileSystem
from vm_core.linux.futex import (
    FutexTable,
    HostFutexes,
    PiTable,
    can_wait_for_two,
)
from vm_core.linux.hostsignals import HostSignals
from vm_core.linux.hostthread import HostThread, switching
from vm_core.linux.native import MMAP_TOP, Constant, NativeCalls
from vm_core.linux.paths import Bind, Namespace, temporary_parent
from vm_core.linux.procfs import Emulated
from vm_core.linux.stack import build_stack
from vm_core.linux.system import ThreadEnd
from vm_core.linux.thread import FuelPool, GuestThread, Host
from vm_core.linux.time import AlarmClock, IntervalTimer
from vm_core.linux.vdso import vdso_of
from vm_core.loader import Image, Program, interpreter_of, load, load_interpreter, machine_of
from vm_core.log import Log
from vm_core.memory import PAGE, GuestMemory, MemoryLimit, Prot, page_down, page_up
from vm_core.places import cache_directory
from vm_core.state import HEADER, CpuState

if TYPE_CHECKING:
    from vm_core.debug.control import Debugger
    from vm_core.instructions import InstructionTrace, Recorder
    from vm_core.linux.children import Child
    from vm_core.linux.execve import Request
    from vm_core.linux.family import Family
    from vm_core.linux.hostipc import HostIpc
    from vm_core.linux.ipc import Ipc
    from vm_core.linux.strace import Strace, Tracer
    from vm_core.spec.isa import Isa

__all__ = ["GuestThread", "Host", "Process", "SyscallHook"]

SyscallHook = Callable[["GuestThread", str, tuple[int, ...]], "int | None"]
"""Called before each system call with its name and arguments; a number returned is its result, None lets it run."""
EngineMaker = Callable[["Isa", GuestMemory], Engine]

_STACK_BYTES: Final = 8 << 20
_GUARD_BYTES: Final = 1 << 20
_MAX_THREADS: Final = 4096
_MAX_SAID: Final = 100
_IN_CALL: Final = HEADER["in_call"] // 8
"""Index of the header word "in_call" in CpuState.words; so for this:"""
_PENDING: Final = HEADER["signal_pending"] // 8
_STATUS: Final = {"fuel": 123, "timeout": 124, "memory": 122}
"""Exit statuses of guest processes that vm has ended, as ``vm run`` has them."""


class Process:
    """A loaded guest program. :meth:`run` runs it in this thread; :meth:`start` and :meth:`wait` in another one; or it is
    for a ``host``, which runs it with others.

    ``files`` are the host descriptors or None (absent) of guest 0, 1 and 2; they are duplicated, not taken over.
    Raises LoadError, UsageError and EngineUnavailable; MemoryLimit if the program itself is over the cap.
    """

    futexes: FutexTable | HostFutexes
    fuel: FuelPool | None
    tracer: Tracer | None
    recorder: Recorder | None
    release = "6.6.0"
    version = "#1 SMP"

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        program: str | os.PathLike[str] | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdio: tuple[int | None, int | None, int | None] = (0, 1, 2),
        engine: str | EngineMaker = "auto",
        engine_options: Mapping[str, object] | None = None,
        memory: int | None = None,
        fuel: int | None = None,
        timeout: float | None = None,
        root: str | None = None,
        sysroot: str | None = None,
        binds: Sequence[Bind | str] = (),
        net: bool = False,
        trust: bool = False,
        strace: Strace | Callable[[str], None] | None = None,
        trace: InstructionTrace | None = None,
        syscall_hook: SyscallHook | None = None,
        fault_hook: Callable[[GuestThread, SigInfo], None] | None = None,
        host: Host | None = None,
        debugger: Debugger | None = None,
        stack: int | None = None,
        release: str | None = None,
        max_processes: int | None = None,
    ) -> None:
        self.host = host
        self.max_processes = max_processes
        self.stack_bytes = page_up(stack or _STACK_BYTES)
        if release is not None:
            self.release = release
        self.debugger = debugger
        self.argv_bytes = [os.fsencode(word) for word in argv] or [b"guest"]
        environment = os.environ if env is None else env
        self.env_bytes = [os.fsencode(f"{key}={value}") for key, value in environment.items()]
        self.net = net or trust
        self.trust = trust
        self.shows_host = trust and root is None
        """Whether the guest has the host's own / (with a root, it is as chroot leaves it)."""
        self.timeout = timeout
        self.natively = syscall_hook is None and debugger is None
        """Whether engines may answer system calls themselves."""
        self._fault_hook = fault_hook
        self._begin()
        self.fuel = None if fuel is None else FuelPool(fuel)
        if trace is not None:
            from vm_core.instructions import Recorder

            self.recorder = Recorder(trace)
        self._memory_limit, self._engine = memory, (engine, dict(engine_options or {}))
        self._hook = syscall_hook
        self.some_stat = os.stat("/")

        if program is None:
            program = os.fsdecode(self.argv_bytes[0])
        namespace = self._namespace(program, cwd, root, sysroot, binds)
        try:
            self.program: Program = self._in_guest(program, namespace, rooted=root is not None)
            name = "" if isinstance(program, bytes) else os.fspath(program)
            self._prepare(machine_of(self.program, name=name))
        except BaseException:
            namespace.close()
            raise
        self.files = FileSystem(namespace, self._close_host, self.native)
        if trust:
            self.files.modes = 0o7777
        try:
            namespace.emulated = Emulated(self)
            self._start_state()
            self._open_stdio(stdio)
            if strace is not None:
                self.tracer = self._trace(strace)
        except BaseException:
            self.close()
            raise
        self._start_main()

    # -- construction -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All that changes in the life of a process, and that no other one may have, as it is before a program is loaded."""
        self.lock = threading.RLock()
        self.threads: dict[int, GuestThread] = {}
        self.native = NativeCalls(os.getpid(), os.getuid(), os.getgid())
        self.signals = signals.SignalState(self.native)
        self.tracer, self.recorder, self.fuel = None, None, None
        self.over: list[Callable[[], None]] = []
        """Called when a program is over that the caller of :meth:`run` will not see the end of: another takes its place, or it
        was a child's."""
        self.clock = AlarmClock()
        self.timer = IntervalTimer(self)
        self.timers: dict[int, tuple[int, IntervalTimer]] = {}
        self.cpu_timers: dict[int, IntervalTimer] = {}
        self.shared: list[mapping.Shared] = []
        self.limits = limits.first_limits(self.stack_bytes, self.max_processes)
        self.no_new_privileges = 0
        self.personality = 0
        self.dumpable = 1
        self.parent_death_signal = 0
        self.subreaper = 0
        self.family: Family | None = None
        """What the guest's processes share; None as long as this is the only one and has shared nothing."""
        self.ipc: Ipc | HostIpc | None = None
        self.children: dict[int, Child] = {}
        self.child_events = 0
        self.forked = False
        """Whether this host process runs nothing but the guest, which ends it."""
        self.owns_host = False
        """Whether the host process may be stopped and may lead a session, for the guest."""
        self.parent_pipe = -1
        self.parent_stack: tuple[int, bytes] | None = None
        """Of a vfork's child: where what it changes is its parent's too, and what was there; None: everywhere."""
        self.host_signals = HostSignals(self)
        self._next: Request | None = None
        self._mask = 0  # of the thread that executes another program
        self._kept: list[SigInfo] = []  # what it leaves pending
        self.stopping = False
        self.leaving = False
        """Whether the threads have to leave: the process is over, or goes on as another program."""
        self.reason = ""
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.message = ""
        self.failure: BaseException | None = None
        self.pid = os.getpid()
        self.cpus = _processors()
        self._tids = itertools.count(self.pid + 1)
        self._retired = 0
        self._calls = 0
        self._said: set[str] = set()
        self._limbo: deque[tuple[int, dict[GuestThread, tuple[int, int]]]] = deque()
        self._dead_fd = -1
        self._all_left = threading.Condition(self.lock)
        self._host_threads: list[HostThread] = []
        self._runner: threading.Thread | None = None
        self._parallel = False
        self._pi_futexes: PiTable | None = None

    def _prepare(self, isa_name: str) -> None:
        """Empty memory for a program of an ISA."""
        self.isa = isas.get(isa_name)
        self.abi: Abi
        self.abi, self._table = table.bound(isa_name, self.isa.layout, trusted=self.trust)
        self._live_in(GuestMemory(limit=self._memory_limit))

    def _live_in(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.futexes = HostFutexes(memory) if self.host is None and can_wait_for_two() else FutexTable()
        self._pi_futexes = None

    def _start_main(self) -> None:
        """The thread that runs a loaded program from its start."""
        self.calls = self._bind_calls()
        # A thread that waits must not hold a slice of a budget, which native code cannot give back.
        waits = self.fuel is None and isinstance(self.futexes, HostFutexes)
        # A tracer sees the calls that it wants, and all that signals do.
        free = self._table if self.tracer is None else self.tracer.not_traced(self._table)
        self.native.serve(free, self.abi, waits=waits, hosted=self.host is not None)
        self.main = GuestThread(self, self._first_cpu, self.pid)
        self.threads[self.pid] = self.main
        self.native.alone(True)
        if self.tracer is not None:
            self.tracer.began(self)
        if self.debugger is not None:
            self.debugger.attach_to(self)

    def _namespace(
        self,
        program: str | os.PathLike[str] | bytes,
        cwd: str | None,
        root: str | None,
        sysroot: str | None,
        binds: Sequence[Bind | str],
    ) -> Namespace:
        shown = tuple(bind if isinstance(bind, Bind) else Bind.parse(bind) for bind in binds)
        overlays: tuple[str, ...] = ("/proc", "/sys", "/dev")
        if (
            self.trust
            and root is not None
            and os.path.exists(os.path.join(root.removesuffix(":ro"), "dev/null"))
        ):
            overlays = ("/proc", "/sys")  # the root has devices of its own
        if isinstance(program, bytes):
            self.executable = self.execfn = "/proc/self/exe-in-memory"
            self.comm = os.path.basename(os.fsdecode(self.argv_bytes[0]))
            return Namespace(
                cwd=cwd,
                root=root,
                sysroot=sysroot,
                binds=shown,
                trusted=self.shows_host,
                overlays=overlays,
                hidden=(cache_directory(), temporary_parent()),
            )
        self.execfn = path = os.fspath(program)
        """What the program was called by who executed it."""
        self.executable = os.path.abspath(path)
        self.comm = os.path.basename(path)[:15]
        return Namespace(
            cwd=cwd,
            root=root,
            sysroot=sysroot,
            binds=shown,
            program=path if os.path.isfile(path) else None,
            trusted=self.shows_host,
            overlays=overlays,
            hidden=(cache_directory(), temporary_parent()),
        )

    def _in_guest(
        self, program: str | os.PathLike[str] | bytes, namespace: Namespace, *, rooted: bool
    ) -> str | os.PathLike[str] | bytes:
        """With a root, a program is looked for there first, as chroot does; with a sysroot, an absolute path; what the host does not
        have, where the guest has it (a bind). ``executable`` becomes the path without links."""
        if isinstance(program, bytes):
            return program
        try:
            with namespace.walk(namespace.start, os.fspath(program)) as place:
                if place.node is not None or place.mount is None:
                    return program
                info = place.stat()
                own = rooted or (place.mount.guest == "/" and os.path.isabs(program))
                if not place.mount.file and (own or not os.path.exists(program)):
                    fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
                    self.executable = place.guest
                    self._program_fd = fd
                    return f"/proc/self/fd/{fd}"
                if os.path.samestat(info, os.stat(program)):
                    self.executable = place.guest
        except OSError:
            pass
        return program

    def _load_interpreter(self, namespace: Namespace, path: str) -> Image:
        """The guest's dynamic loader, from where the guest would find it. Raises LoadError, which says what to do."""
        wanted = f"{self.image.name}: a dynamically linked program: it needs {path!r}"
        try:
            with namespace.walk(namespace.start, path) as place:
                if place.node is not None or place.mount is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                fd = os.open(place.name, flags, dir_fd=place.fd)
                name = place.guest
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise LoadError(f"{wanted}, which is not there", hint=self._how_to_get(path)) from None
            raise LoadError(f"{wanted}, which cannot be opened: {error.strerror}") from None
        try:
            return load_interpreter(fd, self.memory, self.isa.name, name=name, high=self.mmap_top)
        finally:
            os.close(fd)

    def _how_to_get(self, interpreter: str) -> str:
        """How a user comes to the libraries of another machine."""
        isa = self.isa.name
        # Where the cross compilers of Debian and its like have them.
        cross = f"/usr/{isa.replace('_', '-')}-linux-gnu"
        if os.path.exists(cross + interpreter):
            return f"give -L {cross}, or make a tree of a distribution: vm sysroot create {isa} --output DIR"
        return (
            f"give -L DIR with a tree that has it; vm sysroot create {isa} --output DIR makes one; or link the "
            "program with -static"
        )

    _program_fd = -1

    def _start_state(self) -> None:
        memory, limit = self.memory, self._memory_limit
        engine, options = self._engine
        # The engine first: it decides whether files can be mapped.
        if isinstance(engine, str):
            from vm_core.engines import create

            self.engine: Engine = create(engine, self.isa, memory, **options)
        else:
            self.engine = engine(self.isa, memory)
        if not getattr(self.engine, "counts", True):
            self._check_uncounted()
        if self.recorder is not None:
            self.engine = self.recorder.watch(self, self.engine)
        self.image: Image = load(self.program, memory, self.isa.name, name=self.executable)
        memory.code_changed.append(self.engine.invalidate)
        self.brk_start = self.native.words[Constant.BRK_START] = self.image.brk
        self.set_brk(self.image.brk)
        self.stack_top = memory.size - (64 << 10)
        size = max(min(self.stack_bytes, page_down(memory.size // 4)), 16 * PAGE)
        if limit is not None:
            size = max(min(size, page_down(limit // 4)), 16 * PAGE)
        low = self.stack_top - size
        prot = Prot.RWX if self.image.executable_stack else Prot.RW
        memory.map(low, size, prot, name="[stack]")
        self.mmap_top = low - _GUARD_BYTES
        self.trampoline = self.vdso = self.native.words[MMAP_TOP // 8] = 0
        vdso = vdso_of(self.isa.name)
        if vdso is not None:
            self.vdso = self.mmap_top = self.mmap_top - len(vdso.data)
            memory.map(self.vdso, len(vdso.data), Prot.RX, name="[vdso]")
            memory.poke(self.vdso, vdso.data)
            self.trampoline = self.vdso + vdso.sigreturn
            self.native.words[Constant.TRAMPOLINE] = self.trampoline
        self.interpreter: Image | None = None
        if self.image.interpreter:
            self.interpreter = self._load_interpreter(self.files.namespace, self.image.interpreter)
        self.native.maps(memory, self.mmap_top)
        cpu = self.isa.cpu()
        cpu.pc = (self.interpreter or self.image).entry
        cpu.words[self.abi.stack_word], self.auxv = build_stack(self, low)
        self._first_cpu = cpu

    def _check_uncounted(self) -> None:
        """Refuse what needs single instructions, of an engine that does not see them. Raises UsageError."""
        for asked, what, instead in (
            (self.fuel is not None, "fuel counts instructions", "--timeout limits its time"),
            (self.recorder is not None, "a trace shows each instruction", "--strace shows its system calls"),
            (self.debugger is not None, "a debugger stops at instructions", "gdb without vm debugs it"),
        ):
            if asked:
                self.engine.close()
                raise UsageError(
                    f"{what}, which the engine {self.engine.name!r} does not see",
                    hint=f"{instead}; --accel none has engines that do, but few of {self.isa.name} so far",
                )

    def set_brk(self, address: int) -> None:
        """The heap ends here now."""
        self.brk = self.native.words[Constant.BRK] = address

    def _open_stdio(self, stdio: tuple[int | None, int | None, int | None]) -> None:
        import fcntl

        for number, host in enumerate(stdio):
            if host is None:
                continue
            try:
                flags = fcntl.fcntl(host, fcntl.F_GETFL)
                fd = fcntl.fcntl(host, fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError:
                continue  # closed in the host too
            self.files.table[number] = File(fd, flags & (3 | 0o6000), inherited=True)

    @staticmethod
    def _trace(strace: Strace | Callable[[str], None]) -> Tracer:
        from vm_core.linux.strace import Strace, Tracer

        return Tracer(strace if isinstance(strace, Strace) else Strace(strace, column=0, exits=False))

    def _bind_calls(self) -> Mapping[int, table.Entry]:
        hook, tracer = self._hook, self.tracer
        if hook is None and tracer is None:
            return self._table
        calls = dict(self._table)
        for number, (bare, arguments, row) in calls.items():
            handler = bare if hook is None else _hooked(row.name, bare, hook)
            calls[number] = (handler if tracer is None else tracer.wrap(row, handler), arguments, row)
        return calls

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end in this thread. Then ``reason``, ``exit_code``, ``signal`` and ``message`` say how it ended.

        KeyboardInterrupt stops all guest threads and is raised again; so is an error in vm itself.
        """
        try:
            self._start_clock()
            self._run_thread(self.main)
            self._go_on()
        except BaseException as error:
            self.end("stopped")
            if not self.forked:
                raise
            self._blame(error)
        finally:
            self._finish()
        if self.forked:
            self._exit()
        if self.failure is not None:
            raise self.failure

    def _go_on(self) -> None:
        """The first thread is over: wait for the others, and run what the process executes then, until it is over."""
        while True:
            with self._all_left:
                while self.threads and not self.stopping:
                    self._all_left.wait(0.5)
                if self._next is None or self.stopping:
                    break
            self.execute()
            self._run_thread(self.main)
        self.end("exit", code=self.main.exit_code)

    def go_on_alone(self, thread: GuestThread | None) -> NoReturn:
        """In the child of a fork: run the guest, from ``thread`` on, here to its end, which is the host process's."""
        try:
            if thread is not None:
                self._run_thread(thread)
            self._go_on()
        except BaseException as error:  # noqa: BLE001 - there is nobody to tell
            self.end("stopped")
            self._blame(error)
        self._finish()
        self._exit()

    def _exit(self) -> NoReturn:
        """End the host process, a guest's own, as the guest ended."""
        status = _STATUS.get(self.reason, 125)
        try:
            if self.failure is not None:
                Log("vm.linux").warning("%s", f"process {self.pid}: {self.failure!r}")
            if self.parent_pipe >= 0:
                self._leave_parent()
            for tell in self.over:
                tell()
            if self.debugger is not None:
                self.debugger.finish()
            if not self._inherited:
                self.engine.close()
            if self.family is not None:
                self.family.forget(self.pid)
            sys.stderr.flush()
            if self.reason == "signal":
                self._die_by(self.signal or 9)
            if self.reason == "exit":
                status = self.exit_code or 0
        finally:
            os._exit(status)

    def _leave_parent(self) -> None:
        """In the child of a vfork: the parent need not wait any more."""
        from vm_core.linux.fork import leave_parent  # PERF: most programs have no children

        fd, self.parent_pipe = self.parent_pipe, -1
        leave_parent(self.memory, fd, self.parent_stack)
        self.parent_stack = None

    @staticmethod
    def _die_by(number: int) -> None:
        """End this host process by a signal, without a core of vm's."""
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in (9, 19):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)

    _inherited = False
    """Whether the engine is one that a parent made."""

    # -- fork and execve ----------------------------------------------------------------------------------------

    @contextmanager
    def forking(self) -> Iterator[None]:
        """Inside, the host process may fork: nothing that other threads do to this process is half done."""
        with ExitStack() as held:
            held.enter_context(self.engine.forking())
            for lock in (self.memory.lock, self.files.lock, self.lock):
                held.enter_context(lock)
            yield

    def forked_from(self, thread: GuestThread) -> None:
        """In the child of a fork, still inside forking(): ``thread`` is the only one."""
        self.engine.forked()
        self.forked = self.owns_host = self._inherited = True
        parent, self.pid = self.pid, os.getpid()
        self.native.forked(self.pid, parent)
        self._tids = itertools.count(self.pid + 1)
        self.main = thread
        self.threads = {self.pid: thread}
        self.native.alone(True)
        self._retired = self._calls = 0
        self._all_left = threading.Condition(self.lock)
        self._host_threads, self._runner = [], None
        if self.debugger is not None:
            # It stays with the parent.
            self.debugger.forked(thread)
        self._parallel = False
        switching.forked()
        for child in self.children.values():
            child.close()
        self.children = {}
        self.child_events = 0
        if self.parent_pipe >= 0:
            os.close(self.parent_pipe)
            self.parent_pipe = -1
        self.signals.pending.clear()
        self.host_signals.forked()
        self.timeout = None
        self.clock = AlarmClock()
        self.timer = IntervalTimer(self)
        self.timers, self.cpu_timers = {}, {}
        self._pi_futexes = None
        limits.forked(self)
        if self.fuel is not None:
            self.fuel = self.fuel.copy()
        if isinstance(self.futexes, HostFutexes):
            self.futexes.main = thread
        else:
            self.futexes = FutexTable()
        for fd, _ in self._limbo:
            os.close(fd)
        self._limbo.clear()
        self.files.forked()
        thread.forked()
        assert self.family is not None
        self.family.join()
        self.describe()
        if self.ipc is not None:
            self.ipc.forked()
        if self.tracer is not None:
            self.tracer.forked(self)

    def check_program(self, fd: int) -> None:
        """Whether a program could be executed. Raises LoadError, and OSError if its interpreter is not there."""
        isas.get(machine_of(fd))
        if path := interpreter_of(fd):
            namespace = self.files.namespace
            with namespace.walk(namespace.start, path) as place:
                place.stat()

    def replace_by(self, thread: GuestThread, request: Request) -> None:
        """The process goes on as another program, once all threads have left; the program's descriptor is the process's from now on.
        Raises ThreadEnd if it ends instead, or another thread has come first: then it stays the caller's."""
        with self.lock:
            if self.leaving:
                raise ThreadEnd
            self._next, self.leaving = request, True
            self._mask, self._kept = thread.mask, thread.pending
            self._scheduling = thread.scheduling
            threads = list(self.threads.values())
        for other in threads:
            if other is not thread:
                other.interrupt()
        if self.debugger is not None:
            self.debugger.wake()

    @property
    def executes(self) -> bool:
        """Whether the process goes on as another program now that its threads have left."""
        return self._next is not None and not self.stopping

    def execute(self) -> None:
        """Load the program that was asked for in place of the old one, and make its thread :attr:`main`."""
        request, self._next = self._next, None
        assert request is not None
        deadline = time.monotonic() + 5
        for host in self._host_threads:
            if not host.current:
                host.join(max(deadline - time.monotonic(), 0.01))
        self._host_threads = []
        if self._parallel:
            self._parallel = False
            switching.leave()
        mapping.flush_all(self)
        if self.parent_pipe >= 0:
            self._leave_parent()
        for tell in self.over:
            tell()
        if self._inherited:
            self.engine.abandon()
        else:
            self.engine.close()
        self.memory.close()
        if self.ipc is not None:
            self.ipc.left(over=False)
        self._inherited = False
        for timer in [timer for _, timer in self.timers.values()]:
            timer.set(0.0, 0.0)
        self.timers = {}
        self.signals.executed()
        self.files.executed()
        self._sweep_limbo(everything=True)
        if self._program_fd >= 0:
            os.close(self._program_fd)
        self.program = self._program_fd = request.fd
        self.executable, self.execfn = request.path, request.name
        self.comm = request.comm[:15]
        self.argv_bytes, self.env_bytes = request.argv, request.env
        self.leaving = self.stopping
        self.stack_bytes = limits.stack_bytes(self, self.stack_bytes)
        try:
            self._prepare(machine_of(request.fd))
            self._start_state()
        except (LoadError, MemoryLimit) as error:
            # The old program is gone: as on Linux, the process is killed.
            self.end("signal", signal=9, message=f"{request.path}: {error}")
            if self.tracer is not None:
                self.tracer.executed(self, failed=True)
            self.main = GuestThread(self, self.isa.cpu(), self.pid)
            return
        if self.tracer is not None:
            self.tracer.executed(self)
        self._start_main()
        self.describe()
        self.main.mask = self._mask
        self.main.scheduling = self._scheduling
        self.main.pending = self._kept
        if self._kept or self.signals.pending:
            self.main.words[_PENDING] = 1
            self.main.attention = True

    # -- hosted -------------------------------------------------------------------------------------------------

    def _start_clock(self) -> None:
        if self.timeout is not None:
            self.clock.at(time.monotonic() + self.timeout, lambda: self.end("timeout"))

    def start_hosted(self, clock: AlarmClock) -> None:
        """Begin to run in the host, which from now on calls run_slice() of ``main`` and of the threads that it is given,
        and at last finish_hosted(). ``clock`` counts the time for all its guests."""
        self.clock = AlarmClock(clock)
        self._start_clock()

    def finish_hosted(self) -> None:
        """All threads are over. Raises the error in vm that ended the process, if there was one."""
        self.end("exit", code=self.main.exit_code)
        self._finish()
        if self.failure is not None:
            raise self.failure

    def _blame(self, error: BaseException) -> None:
        """In a guest process of its own: an error in vm itself, and no end that was asked for, is to be told at the end."""
        if self.failure is None and isinstance(error, Exception) and self.reason == "stopped":
            self.failure = error

    def fail(self, error: BaseException) -> None:
        """A thread met an error in vm itself."""
        self.failure = error
        self.end("stopped")

    def start(self) -> None:
        """Run in a host thread of its own."""
        self._runner = threading.Thread(target=self._run_quietly, name="vm-guest", daemon=True)
        self._runner.start()

    def _run_quietly(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - wait() raises it
            self.failure = error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a started process; False if it still runs. Raises the error in vm that ended it, if there was one."""
        assert self._runner is not None
        self._runner.join(timeout)
        if self._runner.is_alive():
            return False
        if self.failure is not None:
            raise self.failure
        return True

    def stop(self) -> None:
        """End the guest from outside; its reason becomes "stopped"."""
        self.end("stopped")

    def _run_thread(self, thread: GuestThread) -> None:
        try:
            thread.run()
        except KeyboardInterrupt:
            self.end("stopped")
            raise
        except BaseException as error:
            if thread is self.main:
                raise
            self.fail(error)

    def _run_other(self, thread: GuestThread) -> None:
        """A host thread of its own for a guest thread. In the child of a fork made there, it is the first."""
        parent = self.pid
        try:
            self._run_thread(thread)
        finally:
            if self.pid != parent:
                self.go_on_alone(None)

    def end(
        self, reason: str, *, code: int | None = None, signal: int | None = None, message: str = ""
    ) -> None:
        """The process is over; the first reason counts. All threads leave at their next look."""
        with self.lock:
            if not self.stopping:
                self.reason, self.exit_code, self.signal, self.message = reason, code, signal, message
                self.stopping = self.leaving = True
            threads = list(self.threads.values())
            self._all_left.notify_all()
        for thread in threads:
            thread.interrupt()
        if self.debugger is not None:
            self.debugger.wake()

    def _finish(self) -> None:
        """Wait for the threads; one that is stuck in the host after 5 s is left behind with the guest's memory."""
        limits.files_unlimited(self)
        if self.ipc is not None:
            self.ipc.left(over=True)
        if not self.forked:
            self.host_signals.release()
            if self.reason not in ("exit", "signal"):
                self._end_family()
        deadline = time.monotonic() + 5
        for host in self._host_threads:
            if not host.current:
                host.join(max(deadline - time.monotonic(), 0.01))
        self.clock.close()
        if self._parallel:
            self._parallel = False
            switching.leave()
        if not any(host.is_alive() for host in self._host_threads):
            mapping.flush_all(self)
        self._sweep_limbo(everything=True)
        if self.tracer is not None:
            self.tracer.finish()
        if self.recorder is not None:
            self.recorder.flush()

    def close(self) -> None:
        """Give everything back. The guest must not be running."""
        self.clock.close()
        if self._next is not None:
            os.close(self._next.fd)  # it ended before it came to execute the program
            self._next = None
        if self.tracer is not None:
            self.tracer.close()
        stuck = any(host.is_alive() for host in self._host_threads)
        if not stuck:
            mapping.flush_all(self)  # nobody has run it, or not to its end
        self.files.close_all()
        self._sweep_limbo(everything=True)
        self._leave_family()
        if self._dead_fd >= 0:
            os.close(self._dead_fd)
            self._dead_fd = -1
        if self._program_fd >= 0:
            os.close(self._program_fd)
            self._program_fd = -1
        if stuck:
            return
        if hasattr(self, "engine"):
            self.engine.close()
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- threads ------------------------------------------------------------------------------------------------

    def new_thread(self, cpu: CpuState) -> GuestThread | None:
        """Register a thread; None at the limit or at the end of the process."""
        room = limits.may_start(self)
        with self.lock:
            if self.leaving or len(self.threads) >= _MAX_THREADS or not room:
                return None
            thread = GuestThread(self, cpu, next(self._tids))
            self.threads[thread.tid] = thread
            self.native.alone(False)
            thread.words[_PENDING] = bool(self.signals.pending)
            if self.tracer is not None:
                self.tracer.began(self)
            return thread

    def start_thread(self, thread: GuestThread) -> bool:
        """Give a registered thread its host thread."""
        self.engine.add_vcpu()
        if self.host is not None:
            self.host.start_thread(thread)
            return True
        with self.lock:
            if not self._parallel and not self.stopping:
                self._parallel = True
                switching.enter()
        host = HostThread(f"vm-guest-{thread.tid}", lambda: self._run_other(thread))
        with self.lock:
            self._host_threads = [old for old in self._host_threads if old.is_alive()]
            self._host_threads.append(host)
        try:
            host.start()
        except RuntimeError:
            with self.lock:
                self.threads.pop(thread.tid, None)
                self._host_threads.remove(host)
            return False
        return True

    def left(self, thread: GuestThread) -> None:
        """A thread is over."""
        with self._all_left:
            if self.threads.pop(thread.tid, None) is not None:
                self._retired += thread.retired
                self._calls += thread.calls_made
                self.native.alone(len(self.threads) == 1)
            self._all_left.notify_all()

    def renamed(self, name: bytes) -> None:
        """The process has another name now (comm)."""
        self.comm = os.fsdecode(name.rstrip(b"\0"))
        self.describe()

    @property
    def pi_futexes(self) -> PiTable:
        """The locks with priority inheritance."""
        with self.lock:
            if self._pi_futexes is None:
                self._pi_futexes = PiTable(self.memory)
            return self._pi_futexes

    def found_family(self) -> Family:
        """What the processes of the guest share, from now on if it was nothing so far."""
        with self.lock:
            family, new = self.family, self.family is None
            if family is None:
                from vm_core.linux.family import MAX_PROCESSES, Family  # PERF: most programs have no children

                family = self.family = Family(self.max_processes or MAX_PROCESSES)
        if new:
            self.describe()  # not with the lock held, see Family.held
        return family

    def describe(self) -> None:
        """Tell the other processes of the guest what this one is called."""
        if self.family is None:
            return
        from vm_core.linux.family import Member

        self.family.describe(
            Member(
                self.pid,
                os.fsencode(self.comm),
                os.fsencode(self.executable),
                b"\0".join([*self.argv_bytes, b""]),
            )
        )

    def knows(self, pid: int) -> bool:
        """Whether a process is one of this guest's."""
        return pid == self.pid or pid in self.children or (self.family is not None and self.family.has(pid))

    def thread(self, tid: int) -> GuestThread | None:
        return self.threads.get(tid)

    def threads_snapshot(self) -> list[GuestThread]:
        with self.lock:
            return list(self.threads.values())

    @property
    def instructions(self) -> int:
        """Instructions retired by all threads so far."""
        with self.lock:
            return self._retired + sum(thread.retired for thread in self.threads.values())

    @property
    def system_calls(self) -> int:
        """System calls made by all threads so far."""
        with self.lock:
            return self._calls + sum(thread.calls_made for thread in self.threads.values())

    # -- signals ------------------------------------------------------------------------------------------------

    def send(self, info: SigInfo, prefer: GuestThread | None = None) -> None:
        """A signal for the process."""
        signals.send(self, info, prefer)

    def _end_family(self) -> None:
        """The guest has been stopped from outside, and so are all its processes."""
        if self.family is not None:
            for pid in self.family.members():
                if pid != self.pid:
                    self.family.send(pid, SigInfo(9))
            for child in list(self.children.values()):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, 0)
                child.close()
            self.children.clear()

    def _leave_family(self) -> None:
        """Close what this process knows its relatives by; they live on."""
        self.host_signals.close()
        for child in self.children.values():
            child.close()
        self.children.clear()
        if self.ipc is not None:
            self.ipc.close()
            self.ipc = None
        if self.family is not None:
            self.family.close()
            self.family = None

    def send_to(self, thread: GuestThread, info: SigInfo) -> None:
        """A signal for one thread."""
        signals.send_to(self, thread, info)

    def die(self, thread: GuestThread, info: SigInfo) -> None:
        """The guest is killed by a signal."""
        if self._fault_hook is not None:
            self._fault_hook(thread, info)
        from vm_core.linux.obituary import obituary  # PERF: most programs die otherwise

        self.end("signal", signal=info.number, message=obituary(self, thread, info))
        thread.attention = True

    def symbol(self, address: int) -> str:
        """``main+0x12`` or ``strlen+0x4 in libc.so.6`` for a guest address, or an empty string."""
        if self.image.start <= address < self.image.end:
            return self.image.symbols.name(address)
        region = self.memory.region_at(address)
        if region is None:
            return ""
        from vm_core.linux.objects import Objects

        return Objects(self.files.namespace, self.isa.name).name(region, address)

    # -- messages -----------------------------------------------------------------------------------------------

    def unknown(self, number: int, thread: GuestThread | None = None) -> int:
        """The result of a call without a handler, as a register value; the call is this thread's."""
        name = table.name_of(self.abi, number)
        self.explain(name, f"{name} (number {number}) is not implemented: it returns ENOSYS")
        if self.tracer is not None and thread is not None:
            self.tracer.unknown(thread, number, name)
        return -errno.ENOSYS & MASK64

    def explain(self, key: str, text: str) -> None:
        """Say something in the log, once."""
        if key in self._said or len(self._said) > _MAX_SAID:
            return
        self._said.add(key)
        if len(self._said) > _MAX_SAID:
            text = "the guest keeps asking for what is not there: nothing more is said about it"
        Log("vm.linux").warning("%s", text)

    # -- host descriptors ---------------------------------------------------------------------------------------

    def _close_host(self, fd: int) -> None:
        """Close a host descriptor that another guest thread may be about to use.

        A thread that has just read the number from the File could otherwise use it after the host has given it to
        somebody else. The number is kept occupied (by a dead descriptor) until every other thread has finished its
        call or sits in a wait, after which calls read the number anew.
        """
        if len(self.threads) <= 1:
            os.close(fd)
            return
        with self.lock:
            if self._dead_fd < 0:
                self._dead_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
        os.dup2(self._dead_fd, fd, inheritable=False)
        with self.lock:
            using = {thread: (thread.phase, thread.words[_IN_CALL]) for thread in self.threads.values()}
            self._limbo.append(
                (fd, {thread: seen for thread, seen in using.items() if (seen[0] | seen[1]) & 1})
            )
        self._sweep_limbo()

    def _sweep_limbo(self, *, everything: bool = False) -> None:
        """Close what no thread can be using any more, oldest first."""
        with self.lock:
            while self._limbo:
                fd, seen = self._limbo[0]
                if not everything and any(
                    self.threads.get(thread.tid) is thread
                    and (
                        (phase & 1 and thread.phase == phase and not thread.waiting)
                        or (in_call & 1 and thread.words[_IN_CALL] == in_call)
                    )
                    for thread, (phase, in_call) in seen.items()
                ):
                    return
                self._limbo.popleft()
                os.close(fd)


def _processors() -> int:
    """How many processors the guest has: as many as the host lets vm use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def _hooked(name: str, handler: table.Handler, hook: SyscallHook) -> table.Handler:
    def call(t: GuestThread, *args: int) -> int | None:
        result = hook(t, name, args) if t.resumed is None else None
        return handler(t, *args) if result is None else result

    return call
