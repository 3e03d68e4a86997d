"""Functions of a Linux program, called from Python in a hardware-isolated address space; and its reset to a snapshot in between.

    with Guest(["./program"], ready="main") as guest:
        guest.snapshot()
        for request in requests:
            answer = guest.call("handle", request, len(request))
            guest.reset()

The program runs, as under ``vm run``, until it comes to the function ``ready``: its libraries are loaded and initialised then. Calls
follow the System V ABI: at most six integers; bytes go to the stack, and the function gets their address.

``fork`` makes another guest of a snapshot, in a machine of its own, which shares the snapshot's pages until it writes them.

``reset`` undoes what was written to memory, and mapped, and the registers; not what the program did to files. It copies the pages
that were ever written since the snapshot: KVM's ring of written pages names each one once, and what system calls write
is seen where they check the address. A page is not protected again, so that the next call does not fault on it.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from vm_accel.closing import Closing
from vm_accel.errors import GuestEnded, GuestFault, GuestTimeout
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.user.engine import KvmEngine
from vm_accel.user.seat import Seat
from vm_accel.user.space import RESTORE, RETURN
from vm_core.engine import Breakpoint, Cause, Exit, Trap
from vm_core.errors import UsageError
from vm_core.linux.duplicate import duplicate
from vm_core.linux.process import Process
from vm_core.linux.system import ThreadEnd
from vm_core.memory import PAGE, Access, GuestMemory
from vm_core.snapshot import MemorySnapshot
from vm_core.spec.isa import Isa

__all__ = ["Guest"]

_ENDLESS: Final = 1 << 62
_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_ROOM: Final = 256
"""Bytes left alone below the stack pointer: the red zone, and more."""
_SMALL, _OWN = 16 << 10, 64 << 10
"""Bytes of arguments for which a stack has room, and what the function itself is left of one."""
_MASK: Final = (1 << 64) - 1


class _Image:
    """What a reset goes back to and clones begin as. It is gone when nobody holds it; its maker does."""

    def __init__(self, guest: Guest) -> None:
        vcpu = guest.seat.vcpu
        self.words = memoryview(bytes(guest.process.main.cpu.words)).cast("Q")
        self.brk = guest.process.brk
        self.xsave = vcpu.xsave()
        self.in_place = guest.seat.chair.space.vectors(guest.seat.save())
        """Whether vector registers are in the page that the program loads them from."""
        self.tables = -1
        self.memory = MemorySnapshot(guest.memory)
        try:
            self.tables = guest.engine.freeze()
        except BaseException:
            self.memory.close()
            raise
        self._lock = threading.Lock()
        self._holders = 1

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
        self.memory.close()
        os.close(self.tables)


class Guest(Closing):
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

        self._begin({})
        self.process = Process(list(argv), engine=make, **{"program": argv[0], **options})
        self.memory = self.process.memory
        self._check = self.memory.check
        try:
            self._start(self.address(ready))
        except BaseException:
            self.close()
            raise

    def _begin(self, known: dict[str, int]) -> None:
        self._image: _Image | None = None
        self._words = memoryview(b"")
        self._vectors: Callable[[], None] | None = None
        self._hot: set[int] = set()
        self._runs: list[tuple[int, int, memoryview]] = []
        self._moved: list[tuple[int, int]] = []
        self._closed = False
        self._known = known
        self._late = self._restore = False

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
            exit_ = self.engine.run(thread.cpu, self.memory, _ENDLESS, thread.call)
        except ThreadEnd:
            process = self.process
            if process.forked:
                thread._leave()
                process.go_on_alone(None)
            how = process.message or f"exit status {process.exit_code}"
            raise GuestEnded(f"{what} ended: {how}") from None
        if self.process.forked:
            self._go_on_alone(exit_)
        return exit_

    def _go_on_alone(self, exit_: Exit) -> NoReturn:
        """In a process that the program has forked: nobody here waits for the function. One that returns all the same ends it."""
        process, thread = self.process, self.process.main
        if isinstance(exit_, Breakpoint):
            process.end("exit", code=thread.cpu["rax"] & 0xFF)
        else:
            with suppress(ThreadEnd):
                thread._other_exit(exit_)
        process.go_on_alone(thread)

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

        ``timeout`` is in seconds. Raises GuestFault, GuestTimeout, GuestEnded, and UsageError for arguments that there is no room
        for.
        """
        if len(arguments) > len(_ARGUMENTS):
            raise UsageError(f"{len(arguments)} arguments, at most {len(_ARGUMENTS)} go in registers")
        cpu = self.process.main.cpu
        before = cpu["rsp"]
        stack = before - _ROOM
        for register, value in zip(_ARGUMENTS, arguments, strict=False):
            if isinstance(value, bytes):
                stack = stack - len(value) & -16
                if before - stack > _SMALL:
                    self._check_room(before, before - stack)
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

    def _check_room(self, top: int, wanted: int) -> None:
        """Raises UsageError unless ``wanted`` bytes fit on the stack below ``top``."""
        region = self.memory.region_at(top)
        room = 0 if region is None else max(top - region.start - _OWN, 0)
        if wanted > room:
            stack = -(-(self.process.stack_bytes + wanted - room) >> 20) << 20
            raise UsageError(
                f"arguments of {wanted:,} bytes: the program's stack has room for {room:,}",
                hint=f"make the Guest with stack={stack}, or write() them where the program has room and give the address",
            )

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
        """What ``reset`` goes back to from now on, and clones begin as. UsageError if the program has other threads, or has mapped
        shared memory; HostError without room for a copy of its pages."""
        if len(self.process.threads) > 1:
            raise UsageError(
                "a program with several threads has no snapshot", hint="take it before they start"
            )
        image = _Image(self)
        words = memoryview(bytes(self.process.main.cpu.words)).cast("Q")
        first = self._image is None
        if self._image is not None:
            self._image.release()
        self._follow(image, words, first=first)
        self.engine.protect()

    def _follow(self, image: _Image, words: memoryview, *, first: bool) -> None:
        """From now on resets go to ``image`` and these registers; what is written is noted."""
        self._image, self._words = image, words
        # PERF: the buffer of the ioctl is made once.
        self._vectors = None if image.in_place else self.seat.vcpu.xsave_setter(image.xsave)
        if first:
            self.memory.check = self._checked  # type: ignore[method-assign]
            self.memory.table_changed.append(self._changed)
        self._hot.clear()
        self._runs = []
        self._moved.clear()

    def fork(self) -> Guest:
        """Another guest in the state that ``reset`` would bring this one to, in a virtual machine of its own.

        It shares the snapshot's pages until it writes them, costs nothing else, and lives on when this one is closed. What
        either writes the other does not see; open files are the same, as after fork(2). It has the same snapshot to be
        reset to and forked from, until it takes its own. Different guests may be used by different threads at the same time, and
        several threads may fork one that does not run.

        UsageError if there is no snapshot, if the program has started threads or processes or has ended, and for open files that
        cannot have two owners (epoll, inotify, signalfd); HostError and EngineUnavailable if the host has no more room.
        """
        image = self._snapshotted()

        def make(isa: Isa, memory: GuestMemory) -> KvmEngine:
            made.engine = KvmEngine(isa, memory, track=True, like=self.engine, tables=image.tables)
            return made.engine

        made = type(self).__new__(type(self))
        made._begin(self._known)
        made.process = process = duplicate(self.process, image.memory.clone(), image.words, make)
        try:
            made.memory = process.memory
            made._check = made.memory.check
            process.set_brk(image.brk)
            made.seat = made.engine.seat(process.main.cpu, load=False)
            image.hold()
            made._follow(image, memoryview(bytes(process.main.cpu.words)).cast("Q"), first=True)
            made._load_vectors()
        except BaseException:
            made.close()
            raise
        return made

    def _snapshotted(self) -> _Image:
        """What this guest can be reset to."""
        if self._image is None:
            raise UsageError("there is no snapshot", hint="call snapshot() first")
        if len(self.process.threads) != 1 or self.process.leaving:
            raise UsageError("the program has started threads, or has ended", hint="make a new Guest")
        return self._image

    def _load_vectors(self) -> None:
        if self._vectors is None:
            self._restore = True
        else:
            self._vectors()

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

    def _join(self, image: _Image) -> None:
        """Neighbouring hot pages are copied at once; those that the snapshot does not have are not copied at all."""
        table = image.memory.table
        self._hot = {page for page in self._hot if table[page >> 12]}
        self._runs = image.memory.parts(self._hot)

    def reset(self) -> None:
        """Registers and memory are as at the snapshot. UsageError if there is none, or the program started threads or ended."""
        image, memory, process = self._snapshotted(), self.memory, self.process
        if self._moved:
            moved, self._moved = self._moved, []
            memory.set_layout(image.memory.layout, moved)
            self._moved.clear()
            pages = image.memory.pages
            for start, end in moved:
                some = pages[bisect_left(pages, start) : bisect_left(pages, end)]
                for first, last, data in image.memory.parts(some):
                    memory.view[first:last] = data
        more = self.engine.written()
        if more or not self._runs:
            self._hot.update(more)
            self._join(image)
        # PERF: most of a reset, with the vector registers; benchmarks/accel_user.py.
        view = memory.view
        for start, end, data in self._runs:
            view[start:end] = data
        process.main.words[:] = self._words
        if process.brk != image.brk:
            process.set_brk(image.brk)
        self._load_vectors()

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
        self._runs = []
        if self._image is not None:
            image, self._image = self._image, None
            image.release()
