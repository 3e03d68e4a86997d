"""A bare machine to script: one vCPU, its memory, and hooks on code, memory, system calls and faults.

    with Machine("riscv64") as m:
        m.map(0x1000, 4096, code)
        m.pc, m["a0"] = 0x1000, 41
        m.run(until=0x1008)
        print(m["a0"])

There is no operating system: a system call or a fault that no hook takes ends ``run`` with its exit.

Cost: a hook on one address, or on a range of up to 4096 instruction addresses, is a breakpoint, and everything else
runs at full speed. A larger range, and any memory hook, makes the machine step instruction by instruction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, cast

from vm_core import isa as isas
from vm_core.engine import Breakpoint, Budget, Engine, Exit, Interrupted, Syscall, Trap
from vm_core.errors import UsageError
from vm_core.execute import ReferenceEngine
from vm_core.memory import PAGE, Access, GuestMemory, Prot, Region
from vm_core.spec.isa import Decoded, Isa
from vm_core.state import CpuState

__all__ = ["Context", "Hook", "Machine"]

CodeHook = Callable[["Machine", int], None]
"""Called before the instruction at a pc."""
MemoryHook = Callable[["Machine", Access, int, int, int | None], None]
"""Called before an access: READ or WRITE, address, size in bytes, and the value of a write."""
SyscallHook = Callable[["Machine"], None]
FaultHook = Callable[["Machine", Trap], bool]
"""Called for a trap; True goes on at the pc (which the hook may have changed)."""

_FIRST_SLICE: Final = 1_000
_MAX_SLICE: Final = 8_000_000
_SLICE_SECONDS: Final = 0.01
"""How long the engine runs before the machine looks at the clock and at stop()."""
_MOST_BREAKPOINTS: Final = 4096
_FUEL: Final = 1
_ZERO: Final = bytes(PAGE)


@dataclass(eq=False, slots=True)
class Hook:
    """Handed out by the hook_* methods; give it to :meth:`Machine.unhook`. ``begin`` and ``end`` are guest addresses."""

    kind: str
    function: Callable[..., object]
    begin: int
    end: int
    access: Access | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """Registers and memory of a machine at one moment. Plain data: it can be pickled and restored elsewhere.

    ``pages`` holds the pages that are not all zero, by guest address.
    """

    isa: str
    registers: bytes
    regions: tuple[Region, ...]
    pages: dict[int, bytes]


class _WatchedMemory:
    """Guest memory whose loads and stores are reported first. Stands in for it in the reference executor."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._memory = machine.memory

    def __getattr__(self, name: str) -> object:
        return getattr(self._memory, name)

    def load(self, address: int, size: int) -> int:
        self._memory.check(address, size, Access.READ)
        self._machine._accessed(Access.READ, address, size, None)
        return self._memory.load(address, size)

    def store(self, address: int, size: int, value: int) -> None:
        self._memory.check(address, size, Access.WRITE)
        self._machine._accessed(Access.WRITE, address, size, value)
        self._memory.store(address, size, value)


class Machine:
    """``isa`` is a name of vm_core.isa, ``engine`` one of vm_core.engines, ``limit`` caps its memory in bytes.

    Registers are items (``m["a0"]``, ``m["x10"]``), values unsigned; ``m.pc`` is the program counter.
    """

    def __init__(self, isa: str = "riscv64", *, engine: str = "auto", limit: int | None = None) -> None:
        self.isa: Isa = isas.get(isa)
        self.memory = GuestMemory(limit=limit)
        try:
            if engine == "reference":
                self.engine: Engine = ReferenceEngine(self.isa, self.memory)
            else:
                from vm_core.engines import create

                self.engine = create(engine, self.isa, self.memory)
        except BaseException:
            self.memory.close()
            raise
        self.memory.code_changed.append(self.engine.invalidate)
        self.cpu: CpuState = self.isa.cpu()
        self.instructions = 0
        """Retired so far."""
        self._hooks: list[Hook] = []
        self._stop = False
        self._slice = _FIRST_SLICE
        self._watcher: ReferenceEngine | None = None

    def close(self) -> None:
        """Give the memory and the engine back."""
        self.engine.close()
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- registers and memory -----------------------------------------------------------------------------------

    @property
    def pc(self) -> int:
        return self.cpu.pc

    @pc.setter
    def pc(self, value: int) -> None:
        self.cpu.pc = value

    def __getitem__(self, name: str) -> int:
        self._check_name(name)
        return self.cpu[name]

    def __setitem__(self, name: str, value: int) -> None:
        self._check_name(name)
        self.cpu[name] = value

    def _check_name(self, name: str) -> None:
        if name not in self.cpu:
            raise UsageError(
                f"{self.isa.name} has no register {name!r}", hint=f"known: {', '.join(self.cpu.layout.names)}"
            )

    def registers(self) -> dict[str, int]:
        """All registers by name, the pc included."""
        return self.cpu.snapshot()

    def map(
        self, address: int, length: int, data: bytes = b"", *, prot: Prot = Prot.RWX, name: str = ""
    ) -> None:
        """Map zeroed pages and put ``data`` at their start. Raises ValueError and MemoryLimit."""
        self.memory.map(address, length, prot, name=name)
        self.memory.poke(address, data)

    def unmap(self, address: int, length: int) -> None:
        self.memory.unmap(address, length)

    def protect(self, address: int, length: int, prot: Prot) -> None:
        """Raises ValueError if the range is not mapped."""
        if not self.memory.protect(address, length, prot):
            raise ValueError(f"{address:#x}+{length:#x} is not mapped")

    def regions(self) -> list[Region]:
        return list(self.memory.regions())

    def read(self, address: int, length: int) -> bytes:
        """Read mapped memory, whatever its protection. Raises MemoryFault."""
        return self.memory.peek(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Write mapped memory, whatever its protection; code is seen as changed. Raises MemoryFault."""
        self.memory.poke(address, data)
        self.engine.invalidate(address, address + len(data))

    def disassemble(self, address: int | None = None) -> Decoded:
        """The instruction at an address (default: the pc). Raises MemoryFault and DecodeError."""
        at = self.cpu.pc if address is None else address
        return self.isa.decode(self.memory.peek(at, 4) if self.isa.unit > 1 else self._bytes_at(at), at)

    def _bytes_at(self, address: int) -> bytes:
        length = 15
        while length > 1 and not self.memory.is_mapped(address, length):
            length -= 1
        return self.memory.peek(address, length)

    # -- hooks --------------------------------------------------------------------------------------------------

    def hook_code(self, function: CodeHook, begin: int | None = None, end: int | None = None) -> Hook:
        """Call before each instruction in ``[begin, end)``: at one address without ``end``, at every one without both."""
        if begin is None:
            return self._add(Hook("code", function, 0, self.memory.size))
        return self._add(Hook("code", function, begin, begin + 1 if end is None else end))

    def hook_memory(
        self, function: MemoryHook, begin: int = 0, end: int | None = None, *, access: Access | None = None
    ) -> Hook:
        """Call before each access that touches ``[begin, end)``; ``access`` restricts it to READ or WRITE."""
        return self._add(Hook("memory", function, begin, self.memory.size if end is None else end, access))

    def hook_syscall(self, function: SyscallHook) -> Hook:
        """Call for each system call, with the pc behind it; the hook sets the result register."""
        return self._add(Hook("syscall", function, 0, 0))

    def hook_fault(self, function: FaultHook) -> Hook:
        """Call for each trap."""
        return self._add(Hook("fault", function, 0, 0))

    def unhook(self, hook: Hook) -> None:
        """Take a hook out; nothing happens if it is out already."""
        if hook in self._hooks:
            self._hooks.remove(hook)

    def _add(self, hook: Hook) -> Hook:
        self._hooks.append(hook)
        return hook

    def _of(self, kind: str) -> list[Hook]:
        return [hook for hook in self._hooks if hook.kind == kind]

    def _accessed(self, access: Access, address: int, size: int, value: int | None) -> None:
        for hook in self._of("memory"):
            if hook.begin < address + size and address < hook.end and hook.access in (None, access):
                hook.function(self, access, address, size, value)

    def _call_code_hooks(self, pc: int) -> None:
        for hook in self._of("code"):
            if hook.begin <= pc < hook.end:
                hook.function(self, pc)

    # -- running ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the current ``run`` soon. For hooks and other threads."""
        self._stop = True

    def step(self, count: int = 1) -> Exit:
        """Run ``count`` instructions, hooks included. Budget if all of them retired."""
        return self.run(limit=count)

    def run(
        self, *, until: int | None = None, limit: int | None = None, timeout: float | None = None
    ) -> Exit:
        """Run until the pc is ``until`` (Breakpoint), ``limit`` instructions have retired (Budget), ``timeout`` seconds
        have passed or stop() was called (Interrupted), or an exit that no hook takes (Syscall, Trap).

        A machine that is already at ``until`` runs on until it comes there again.
        """
        self._stop = False
        deadline = None if timeout is None else time.monotonic() + timeout
        end = None if limit is None else self.instructions + limit
        first = True
        while True:
            if end is not None and self.instructions >= end:
                return Budget()
            if self._stop or (deadline is not None and time.monotonic() >= deadline):
                return Interrupted()
            left = self._slice if end is None else min(self._slice, end - self.instructions)
            points = self._breakpoints(until)
            result = (
                self._step_one(until, first=first) if points is None else self._run_slice(points, left, until)
            )
            first = False
            if result is not None:
                return result

    def _breakpoints(self, until: int | None) -> frozenset[int] | None:
        """The addresses to stop at, or None if the machine has to step."""
        if self._of("memory"):
            return None
        points = set() if until is None else {until}
        for hook in self._of("code"):
            if len(points) + (hook.end - hook.begin) // self.isa.unit > _MOST_BREAKPOINTS:
                return None
            points.update(range(hook.begin, hook.end, self.isa.unit))
        return frozenset(points)

    def _run_slice(self, points: frozenset[int], limit: int, until: int | None) -> Exit | None:
        """Run in the engine to the next event; None to go on."""
        self.engine.set_breakpoints(points)
        begin = time.perf_counter()
        exit_ = self._engine_run(self.engine, self.memory, limit)
        if isinstance(exit_, Budget) and limit == self._slice:
            wanted = int(limit * _SLICE_SECONDS / max(time.perf_counter() - begin, 1e-6))
            self._slice = max(_FIRST_SLICE // 4, min(wanted, limit * 8, _MAX_SLICE))
        if isinstance(exit_, Breakpoint):
            self._call_code_hooks(exit_.pc)
            return exit_ if exit_.pc == until and self.cpu.pc == until else None
        return self._handle(exit_)

    def _step_one(self, until: int | None, *, first: bool) -> Exit | None:
        """Run one instruction with all its hooks; None to go on."""
        pc = self.cpu.pc
        if pc == until and not first:
            return Breakpoint(pc)
        self._call_code_hooks(pc)
        if self._stop:
            return Interrupted()
        if self._of("memory"):
            if self._watcher is None:
                self._watcher = ReferenceEngine(self.isa, self.memory)
            self._watcher.synchronize(self.memory)
            # The executor asks of its memory only what the stand-in has.
            watched = cast(GuestMemory, _WatchedMemory(self))
            return self._handle(self._engine_run(self._watcher, watched, 1))
        self.engine.set_breakpoints(frozenset())
        return self._handle(self._engine_run(self.engine, self.memory, 1))

    def _engine_run(self, engine: Engine, memory: GuestMemory, limit: int) -> Exit:
        self.cpu.header("fuel", limit)
        try:
            return engine.run(self.cpu, memory, limit)
        finally:
            self.instructions += limit - self.cpu.words[_FUEL]

    def _handle(self, exit_: Exit) -> Exit | None:
        """What a hook makes of an exit; None to go on."""
        if isinstance(exit_, Syscall) and (hooks := self._of("syscall")):
            for hook in hooks:
                hook.function(self)
            return None
        if isinstance(exit_, Trap):
            for hook in self._of("fault"):
                if hook.function(self, exit_):
                    return None
            return exit_
        return None if isinstance(exit_, Budget | Interrupted) else exit_

    # -- snapshots ----------------------------------------------------------------------------------------------

    def context(self) -> Context:
        """A copy of the registers and of all mapped memory."""
        pages = {}
        regions = tuple(self.memory.regions())
        for region in regions:
            with self.memory.opened(region.start, region.end - region.start) as view:
                for at in range(0, region.end - region.start, PAGE):
                    data = bytes(view[at : at + PAGE])
                    if data != _ZERO:
                        pages[region.start + at] = data
        return Context(self.isa.name, self.cpu.words.tobytes(), regions, pages)

    def restore(self, context: Context) -> None:
        """Go back to a context of the same ISA. Raises UsageError and MemoryLimit."""
        if context.isa != self.isa.name or len(context.registers) != len(self.cpu.words) * 8:
            raise UsageError(f"a {context.isa} context cannot be restored in a {self.isa.name} machine")
        for region in list(self.memory.regions()):
            self.memory.unmap(region.start, region.end - region.start)
        for region in context.regions:
            self.memory.map(
                region.start, region.end - region.start, region.prot,
                name=region.name, shared=region.shared, offset=region.offset,
            )  # fmt: skip
        for address, data in context.pages.items():
            self.memory.poke(address, data)
        # Only what the ISA owns: the header also holds addresses of this machine's engine.
        mine = self.cpu.words
        theirs = memoryview(context.registers).cast("Q")
        for index in (0, 8, 9, 10, 11, *range(32, len(mine))):
            mine[index] = theirs[index]
        self.engine.synchronize(self.memory)
