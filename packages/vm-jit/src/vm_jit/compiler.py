"""LLVM: IR text in, object bytes out, in a process of its own.

The compiler runs beside the guest's process: LLVM's assertions abort, and an abort must not take the guest along;
llvmlite makes libffi closures, whose pages are writable and executable, which the guest's process must never have.
Only the worker imports llvmlite, and a worker is started only when something has to be compiled.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from functools import cache
from importlib.machinery import PathFinder

from vm_core.errors import EngineUnavailable, VmError
from vm_core.hints import IO, TYPE_CHECKING, Any, Final
from vm_core.places import import_path
from vm_jit.digest import blake2b

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "LEVELS",
    "CompileError",
    "Compiler",
    "compile_text",
    "has_segment",
    "host_key",
    "host_levels",
    "processor",
    "serve",
]

_machines: dict[str, Any] = {}
_abandoned: list[IO[bytes]] = []
_WORKER: Final = "import sys; sys.path[:] = sys.argv[1:]; from vm_jit.compiler import serve; serve()"


class CompileError(VmError):
    """The compiler refused a module or died on it. The code stays interpreted."""

    code = "VM303"


def _machine(cpu: str) -> tuple[Any, Any]:
    """(llvmlite.binding, a target machine). ``cpu`` is a name of LLVM's, or empty for this host."""
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise EngineUnavailable(
            f"compiling needs llvmlite: {error}",
            hint="python -m pip install llvmlite, or use --engine reference",
        ) from None
    if not _machines:
        # Sparse tables: the targets of a guest's jump lie some instructions apart, and a table is one jump of the host.
        llvm.set_option("vm", "-jump-table-density=0")
        llvm.set_option("vm", "-max-jump-table-size=8192")
        # The addresses of cold exits would be computed on the hot path.
        llvm.set_option("vm", "-disable-constant-hoisting")
        # A guest's loops have their pointers where its own compiler wanted them: others would only need registers.
        llvm.set_option("vm", "-disable-lsr")
    if cpu not in _machines:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        triple = llvm.get_process_triple()
        if sys.platform != "linux":
            # HOST: always ELF objects, which our own loader reads, whatever the host's format.
            triple = triple.split("-")[0] + "-unknown-none-elf"
        _machines[cpu] = llvm.Target.from_triple(triple).create_target_machine(
            cpu=cpu or llvm.get_host_cpu_name(),
            features="" if cpu else llvm.get_host_cpu_features().flatten(),
            opt=2,
            reloc="pic",
            codemodel="small",
        )
    return llvm, _machines[cpu]


def compile_text(text: str, *, passes: str = "handlers", cpu: str = "") -> bytes:
    """Compile a module, in this process, to a relocatable ELF object. ``passes``: ``handlers`` (for straight-line code) or
    ``region`` (the few passes that pay for guest code). ``cpu`` is one of LEVELS, or empty for this host. Raises
    CompileError."""
    llvm, machine = _machine(cpu)
    try:
        module = llvm.parse_assembly(text)
    except RuntimeError as error:
        raise CompileError(f"LLVM refuses a module: {error}") from None
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    manager = llvm.create_new_function_pass_manager()
    if passes == "region":
        manager.add_sroa_pass()
    # No value numbering: what it finds lives longer than the registers last.
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    for function in module.functions:
        if not function.is_declaration:
            manager.run(function, builder)
    return bytes(machine.emit_object(module))


def _import_quickly() -> None:
    """Import llvmlite without what it imports and does not need here: half of the worker's start. In a process that does nothing else."""
    # PERF: importlib.resources (with tempfile, zipfile, urllib) only to find a file in its package; ir only to make IR in Python.
    from types import ModuleType

    class Place(str):
        __slots__ = ()

        def __truediv__(self, name: str) -> Place:
            return Place(os.path.join(self, name))

    class Unused(ModuleType):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    resources: Any = ModuleType("importlib.resources")
    resources.files = lambda package: Place(os.path.dirname(sys.modules[package].__file__ or ""))
    resources.as_file = contextlib.nullcontext
    before = set(sys.modules)
    try:
        import llvmlite

        sys.modules["importlib.resources"] = resources
        sys.modules["llvmlite.ir"] = llvmlite.ir = Unused("llvmlite.ir")
        import llvmlite.binding
    except (ImportError, AttributeError, TypeError, OSError):
        # There is none, or another version, which uses them otherwise: it is imported as usual.
        for name in sys.modules.keys() - before:
            if name.partition(".")[0] == "llvmlite" or name == "importlib.resources":
                del sys.modules[name]


def _frame(stream: IO[bytes], data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _unframe(stream: IO[bytes]) -> bytes | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head, "little")
    data = stream.read(size)
    return data if len(data) == size else None


def serve() -> None:
    """The worker: answers each frame (pass set, NUL, processor, NUL, IR text) with a frame of the nanoseconds of processor time that
    it took (64 bits), ``+`` and an object, or ``-`` and an error, until standard input ends."""
    from vm_core.linux.confine import confine_worker

    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _import_quickly()
    with contextlib.suppress(EngineUnavailable):  # each answer says it
        _machine("")  # PERF: LLVM is loaded while the first text is still being written
    confine_worker()  # what comes may be made to attack LLVM: from here on, it can but compute
    while (request := _unframe(source)) is not None:
        begin = time.process_time_ns()
        passes, cpu, text = request.decode().split("\0", 2)
        try:
            answer = b"+" + compile_text(text, passes=passes, cpu=cpu)
        except VmError as error:
            answer = b"-" + str(error).encode()
        _frame(sink, (time.process_time_ns() - begin).to_bytes(8, "little") + answer)


class Compiler:
    """One worker process, started at the first :meth:`compile`; after an abort, the next call starts another.
    ``cpu`` is as for :func:`compile_text`."""

    def __init__(self, cpu: str = "") -> None:
        self.cpu = cpu
        self.seconds = 0.0
        """Processor time that it has worked, not counting its start."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self) -> None:
        """Start the worker now, because something will be compiled soon: it takes 60 ms to be ready. Does not wait."""
        with self._lock, contextlib.suppress(CompileError):  # compile() says it
            self._start()

    def compile(self, text: str, *, passes: str = "handlers") -> bytes:
        """As :func:`compile_text`, in the worker. Raises CompileError, also when the worker dies on the module."""
        with self._lock:
            process = self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                _frame(process.stdin, f"{passes}\0{self.cpu}\0{text}".encode())
                answer = _unframe(process.stdout)
            except OSError:
                answer = None
            if answer is None:
                self._stop()
                raise CompileError("the compiler died" if not self._closed else "the compiler was closed")
        self.seconds += int.from_bytes(answer[:8], "little") / 1e9
        if answer[8:9] != b"+":
            raise CompileError(answer[9:].decode())
        return answer[9:]

    def _start(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise CompileError("the compiler was closed")
        if self._process is None:
            import subprocess

            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WORKER, *import_path()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                raise CompileError(f"cannot start the compiler: {error}") from None
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def forked(self) -> None:
        """In the child of a fork: the worker is the parent's. This one starts another if it has to compile."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # not our child: nothing to wait for
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for stream in (process.stdin, process.stdout):
                # The pipes must end when the parent closes them. The streams may hold half a text, and the lock of a thread
                # that is gone: nothing may ever flush them.
                if stream is not None:
                    os.dup2(null, stream.fileno(), inheritable=False)
                    _abandoned.append(stream)
            os.close(null)

    def close(self) -> None:
        """Stop the worker, also in the middle of a module (whose caller gets CompileError)."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._stop()


@cache
def processor() -> dict[str, str]:
    """What the system says of the first processor, as in /proc/cpuinfo; nothing where there is no such file."""
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:
            # The whole text has a part for each processor, which takes the kernel a while.
            text = file.read(8192).partition(b"\n\n")[0].decode(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


LEVELS: Final = {
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v3": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
}
"""The processors that code is made for ahead of time, as LLVM names them, weakest first, and the flags they must have."""


def host_levels() -> tuple[str, ...]:
    """Which of LEVELS run here, strongest first."""
    if os.uname().machine not in ("x86_64", "AMD64"):
        return ()
    flags = set(processor().get("flags", "").split())
    return tuple(name for name, needed in reversed(LEVELS.items()) if flags.issuperset(needed.split()))


@cache
def has_segment() -> bool:
    """Whether programs may set the base of the segment register gs: x86-64 Linux with the FSGSBASE instructions, from the auxiliary
    vector (AT_HWCAP2, bit 1; Linux 5.9). No library uses that register there, and the arena's address can lie in it."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return False
    try:
        with open("/proc/self/auxv", "rb", buffering=0) as file:
            words = memoryview(file.read(4096)[: 4096 & -16]).cast("Q")
    except (OSError, TypeError):
        return False
    return any(words[i] == 26 and words[i + 1] & 2 for i in range(0, len(words) - 1, 2))


@cache
def host_key() -> str:
    """What code compiled here depends on besides its text: the processor, its features, and LLVM's version."""
    # The name of the metadata directory holds the version: reading it properly takes 20 ms on each start.
    found = PathFinder.find_spec("llvmlite")
    place = os.path.dirname(os.path.dirname(found.origin)) if found is not None and found.origin else "."
    llvm = min(
        (name for name in os.listdir(place) if name.startswith("llvmlite-") and name.endswith(".dist-info")),
        default="none",
    )
    host, seen = os.uname(), processor()
    parts = [host.machine, host.sysname, llvm, str(has_segment())]
    parts += [
        seen.get(key, "") for key in ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    ]
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
