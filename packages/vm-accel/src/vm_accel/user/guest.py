"""Functions of a Linux program, called from Python in a hardware-isolated address space; and its reset to a snapshot in between.

    with Guest(["./program"], ready="main") as guest:
        guest.snapshot()
        for request in requests:
            answer = guest.call("handle", request, len(request))
            guest.reset()

The program runs, as under ``vm run``, until it comes to the function ``ready``: its libraries are loaded and initialised then. Calls
follow the System V ABI: at most six integers; bytes go to the stack, and the function gets their address.

``reset`` undoes what was written to memory, and mapped, and the registers; not what the program did to files. It copies the pages
that were ever written since the snapshot: KVM's ring of written pages names each one once, and what system calls write
is seen where they check the address. A page is not protected again, so that the next call does not fault on it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, Self

from vm_accel.errors import GuestEnded, GuestFault, GuestTimeout
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.memory import HostMemory
from vm_accel.user.engine import KvmEngine
from vm_accel.user.seat import Seat
from vm_accel.user.space import RESTORE, RETURN
from vm_core.engine import Breakpoint, Cause, Exit, Trap
from vm_core.errors import UsageError
from vm_core.linux.process import Process
from vm_core.linux.system import ThreadEnd
from vm_core.memory import PAGE, Access, GuestMemory, Prot
from vm_core.spec.isa import Isa

__all__ = ["Guest"]

_ENDLESS: Final = 1 << 62
_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_ROOM: Final = 256
"""Bytes left alone below the stack pointer: the red zone, and more."""
_MASK: Final = (1 << 64) - 1


class _Snapshot:
    """What a reset goes back to."""

    def __init__(self, guest: Guest) -> None:
        thread, memory = guest.process.main, guest.memory
        self.words = memoryview(bytes(thread.cpu.words)).cast("Q")
        self.vectors = guest.seat.vcpu.xsave_setter(guest.seat.vcpu.xsave())
        """Puts the vector registers back."""
        self.brk = guest.process.brk
        self.layout = memory.layout()
        self.table = bytes(memory.table)
        self.copy = HostMemory(memory.size)
        self.pages: list[int] = []
        """Those that hold anything, ascending."""
        zeros = bytes(PAGE)
        for region in memory.regions():
            if region.prot is Prot.NONE:
                continue
            for page in range(region.start, region.end, PAGE):
                data = memory.view[page : page + PAGE]
                if data != zeros:
                    self.copy.view[page : page + PAGE] = data
                    self.pages.append(page)


class Guest:
    """A program that has come to its function ``ready``. Other arguments are those of :class:`vm_core.linux.process.Process`.

    Raises what loading raises, EngineUnavailable without KVM, UsageError if there is no such function, GuestEnded if it was
    not reached. One thread at a time may use it.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        ready: str | int = "main",
        kvm: Kvm | None = None,
        **options: Any,
    ) -> None:
        def make(isa: Isa, memory: GuestMemory) -> KvmEngine:
            self.engine = KvmEngine(isa, memory, kvm=kvm, track=True)
            return self.engine

        self._snapshot: _Snapshot | None = None
        self._hot: set[int] = set()
        self._runs: list[tuple[int, int]] = []
        self._moved: list[tuple[int, int]] = []
        self._closed = False
        self._known: dict[str, int] = {}
        self._late = self._in_place = self._restore = False
        self.process = Process(list(argv), engine=make, **{"program": argv[0], **options})
        self.memory = self.process.memory
        self._check = self.memory.check
        try:
            self._start(self.address(ready))
        except BaseException:
            self.close()
            raise

    def _start(self, address: int) -> None:
        memory, thread = self.memory, self.process.main
        before = memory.peek(address, 1)
        memory.poke(address, b"\xcc")
        while True:
            exit_ = self._run("the program")
            if isinstance(exit_, Trap) and exit_.cause is Cause.BREAKPOINT and exit_.pc == address:
                break
            thread._other_exit(exit_)
        memory.poke(address, before)
        thread.cpu.pc = address
        seat = thread.cpu.outside
        assert isinstance(seat, Seat)
        self.seat = seat

    def _run(self, what: str) -> Exit:
        """To the next exit that is no system call. Raises GuestEnded."""
        thread = self.process.main
        try:
            if thread.attention:
                thread._attend()
            return self.engine.run(thread.cpu, self.memory, _ENDLESS, thread.call)
        except ThreadEnd:
            process = self.process
            how = process.message or f"exit status {process.exit_code}"
            raise GuestEnded(f"{what} ended: {how}") from None

    def address(self, name: str | int) -> int:
        """The guest address of a function. UsageError if the program's symbols do not have it."""
        if isinstance(name, int):
            return name
        found = self._known.get(name)
        if found is None:
            found = self.process.image.symbols.by_name.get(name)
            if found is None:
                raise UsageError(
                    f"{self.process.image.name} has no function {name!r}",
                    hint="link it with its symbols (no strip)",
                )
            self._known[name] = found
        return found

    def call(self, function: str | int, *arguments: int | bytes, timeout: float | None = None) -> int:
        """What the function returns in rax, as an unsigned integer.

        ``timeout`` is in seconds. Raises GuestFault, GuestTimeout, GuestEnded.
        """
        if len(arguments) > len(_ARGUMENTS):
            raise UsageError(f"{len(arguments)} arguments, at most {len(_ARGUMENTS)} go in registers")
        cpu = self.process.main.cpu
        before = cpu["rsp"]
        stack = before - _ROOM
        for register, value in zip(_ARGUMENTS, arguments, strict=False):
            if isinstance(value, bytes):
                stack = stack - len(value) & -16
                self.memory.write(stack, value)
                cpu[register] = stack
            else:
                cpu[register] = value & _MASK
        stack = (stack & -16) - 8
        self.memory.store(stack, 8, RETURN)
        cpu["rsp"], cpu["rax"], cpu["df"] = stack, 0, 0
        cpu.pc = self.address(function)
        if self._restore:
            # PERF: the program's own thread loads its vector registers: KVM_SET_XSAVE takes as long as all else here.
            self._restore, cpu["r11"], cpu.pc = False, cpu.pc, RESTORE
        timer = None
        if timeout is not None:
            self._late = False
            timer = threading.Timer(timeout, self._overdue)
            timer.start()
        try:
            while True:
                exit_ = self._run(str(function))
                if isinstance(exit_, Breakpoint):
                    cpu["rsp"] = before
                    return cpu["rax"]
                if isinstance(exit_, Trap):
                    raise GuestFault(
                        f"{function} faulted ({exit_.cause.value}) at {exit_.pc:#x}, address {exit_.address:#x}",
                        exit_,
                    )
                if self._late:
                    self._late = False
                    raise GuestTimeout(f"{function} did not return in {timeout:g} s")
        finally:
            if timer is not None:
                timer.cancel()

    def _overdue(self) -> None:
        self._late = True
        self.engine.interrupt()

    def read(self, address: int, length: int) -> bytes:
        """Guest memory, as the program may read it. Raises MemoryFault."""
        return self.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Guest memory, as the program may write it. Raises MemoryFault."""
        self.memory.write(address, data)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """What ``reset`` goes back to from now on. UsageError if the program has other threads."""
        if len(self.process.threads) > 1:
            raise UsageError(
                "a program with several threads has no snapshot", hint="take it before they start"
            )
        if self._snapshot is not None:
            self._snapshot.copy.close()
        else:
            self.memory.check = self._checked  # type: ignore[method-assign]
            self.memory.table_changed.append(self._changed)
        self._snapshot = _Snapshot(self)
        self._in_place = self.seat.chair.space.vectors(self.seat.save())
        self.engine.protect()
        self._hot.clear()
        self._join()
        self._moved.clear()

    def _checked(self, address: int, length: int, access: Access) -> None:
        """In place of the memory's own check: whoever writes for the program asks it first."""
        self._check(address, length, access)
        if access is Access.WRITE:
            for page in range(address & -PAGE, address + length, PAGE):
                if page not in self._hot:
                    self._hot.add(page)
                    self._runs = []

    def _changed(self, start: int, end: int) -> None:
        self._moved.append((start, end))

    def _join(self) -> None:
        """Neighbouring hot pages are copied at once; those that the snapshot does not have are not copied at all."""
        shot = self._snapshot
        assert shot is not None
        self._hot = {page for page in self._hot if shot.table[page >> 12]}
        runs: list[tuple[int, int]] = []
        for page in sorted(self._hot):
            if runs and runs[-1][1] == page:
                runs[-1] = runs[-1][0], page + PAGE
            else:
                runs.append((page, page + PAGE))
        self._runs = runs

    def reset(self) -> None:
        """Registers and memory are as at the snapshot. UsageError if there is none, or the program started threads or ended."""
        shot, memory, process = self._snapshot, self.memory, self.process
        if shot is None:
            raise UsageError("there is no snapshot to reset to", hint="call snapshot() first")
        if len(process.threads) != 1 or process.leaving:
            raise UsageError("the program has started threads, or has ended", hint="make a new Guest")
        if self._moved:
            moved, self._moved = self._moved, []
            memory.set_layout(shot.layout, moved)
            self._moved.clear()
            for start, end in moved:
                at = bisect_left(shot.pages, start)
                while at < len(shot.pages) and shot.pages[at] < end:
                    page = shot.pages[at]
                    memory.view[page : page + PAGE] = shot.copy.view[page : page + PAGE]
                    at += 1
        more = self.engine.written()
        if more or not self._runs:
            self._hot.update(more)
            self._join()
        # PERF: most of a reset, with the vector registers; benchmarks/accel_user.py.
        view, copy = memory.view, shot.copy.view
        for start, end in self._runs:
            view[start:end] = copy[start:end]
        process.main.words[:] = shot.words
        if process.brk != shot.brk:
            process.set_brk(shot.brk)
        if self._in_place:
            self._restore = True
        else:
            shot.vectors()

    @property
    def hot_pages(self) -> int:
        """How many pages a reset copies."""
        return len(self._hot)

    def close(self) -> None:
        """End the program. Twice is once."""
        if self._closed:
            return
        self._closed = True
        process = self.process
        if process.threads:
            process.end("stopped")
            process.main._leave()
        process._finish()
        process.close()
        if self._snapshot is not None:
            self._snapshot.copy.close()
            self._snapshot = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
