"""The engine ``kvm``: an x86-64 program's threads on vCPUs, their system calls served as under any other engine.

Nothing is decoded or compiled; the processor runs the program's code in ring 3, behind page tables that allow what
:class:`~vm_core.memory.GuestMemory` says. It does not count instructions, so there is no fuel, no trace and no breakpoint.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.interface import VmConfig
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.kvm.kernel import request
from vm_accel.user import cut
from vm_accel.user.seat import Chair, Seat
from vm_accel.user.space import ARENA, VCPUS, Space, Stale
from vm_core.engine import EVERYWHERE, Availability, EngineStats, Exit
from vm_core.errors import EngineUnavailable, HostError, UsageError
from vm_core.memory import PAGE, GuestMemory
from vm_core.spec.isa import Isa
from vm_core.state import CpuState

__all__ = ["KvmEngine"]

IOCTLS: Final = tuple(
    request(f"KVM_{name}")
    for name in (
        "RUN", "CHECK_EXTENSION", "CREATE_VM", "CREATE_VCPU", "SET_USER_MEMORY_REGION", "SET_CPUID2", "GET_REGS", "GET_SREGS",
        "SET_SREGS", "SET_MSRS", "GET_XSAVE", "GET_XSAVE2", "SET_XSAVE", "GET_XCRS", "SET_XCRS", "GET_DEBUGREGS", "SET_DEBUGREGS",
        "SET_TSS_ADDR", "SET_IDENTITY_MAP_ADDR",
    )
)  # fmt: skip
"""What it asks of KVM once the program runs: a new vCPU for a thread, a new machine after fork and execve."""
_RING, _CLONE_RING = 1 << 13, 1 << 10
"""Entries of the ring of written pages, 16 bytes each. A full one is emptied, and its pages are protected again."""
_WINDOW: Final = 4 << 20
"""The arena is given to the machine in pieces of whole windows, where the program has mapped something: KVM keeps ten bytes for
each page of a memory slot, used or not."""
_NOWHERE: Final = 1 << 31
"""A guest-physical address that no page table has."""
_NO_ACCESS: Final = bytes(byte for byte in range(256) if not byte & 7)
"""Bytes of the permission table that allow no access."""
_XSAVE: Final = 1 << 26
"""Of CPUID leaf 1, ECX (SDM volume 1, 13.2)."""
_NO_TILES: Final = ~(3 << 17)
"""Components of XCR0 without AMX: Linux wants a program to ask for it first."""


_kvm: Kvm | None = None


def _opened() -> Kvm:
    """The device, opened once in a process: after a guest's execve, a confined process could not open it again."""
    global _kvm
    if _kvm is None or _kvm.fd < 0:
        _kvm = Kvm()
    return _kvm


class _Arena:
    """The arena as memory that a VM can show (:class:`vm_accel.interface.Memory`)."""

    def __init__(self, memory: GuestMemory) -> None:
        self.address, self.size = memory.host_address, memory.size

    def hold(self) -> None:
        """Whoever closes the arena has closed the engine before."""

    def release(self) -> None:
        pass


class KvmEngine:
    """Implements :class:`vm_core.engine.Engine`."""

    name = "kvm"
    counts = False
    """It does not see single instructions."""
    ioctls = IOCTLS

    def __init__(
        self,
        isa: Isa,
        memory: GuestMemory,
        *,
        kvm: Kvm | None = None,
        track: bool = False,
        like: KvmEngine | None = None,
        tables: int = -1,
        **_options: Any,
    ) -> None:
        """``track``: the machine says which pages the program has written (:meth:`written`). ``like`` and ``tables``: it is for a
        clone of that one's memory, which had these page tables (:meth:`freeze`)."""
        if isa.name != "x86_64":
            raise EngineUnavailable(
                f"the engine 'kvm' runs x86-64 programs, and this one is made for {isa.name}",
                hint="leave the choice to vm: --accel none, --engine auto",
            )
        self.isa, self.memory = isa, memory
        self.stats = EngineStats()
        self._lock = threading.RLock()
        self._seats: weakref.WeakSet[Seat] = weakref.WeakSet()
        self._free: list[Chair] = []
        self._track, self._ring = track, _RING
        self.first: Chair | None = None
        """The machine's first vCPU."""
        self._like: Chair | None = None
        """That of the machine that this is a copy of, until ours is made."""
        self._here = threading.local()
        self._kept = b""
        try:
            if like is None:
                self._kvm = _opened() if kvm is None else kvm
                self._start()
            else:
                self._start_like(like, tables)
        except (AcceleratorUnavailable, HypervisorError) as error:
            self.close()
            raise EngineUnavailable(f"the engine 'kvm' cannot be used: {error}", hint=error.hint) from error
        memory.table_changed.append(self._changed)
        # A page that the host has to find first costs one of KVM's faults; of those that it has, eight are one.
        memory.populates = True
        # What has snapshots has copies of files: its memory is its own.
        memory.catches_bus = not track and cut.add(memory)

    @staticmethod
    def probe() -> Availability:
        """Whether this host has a KVM that it can use."""
        return Kvm.probe()

    def _start(self) -> None:
        # KVM notes what is written page by page.
        self._space = Space(self.memory.size // PAGE, large=not self._track)
        for region in self.memory.regions():
            self._space.fill(region.start, bytes(self.memory.table[region.start >> 12 : region.end >> 12]))
        self._model = self._kvm.model()
        self._start_vm()
        leaves = {(leaf.function, leaf.subleaf): leaf for leaf in self._model.leaves}
        extended = leaves.get((0xD, 0))
        first = leaves.get((1, 0))
        if self._kvm.flavour == "pvm" and extended and first and not self._model.has("xsave"):
            # The paravirtual flavour hides XSAVE, but has what the processor has, and saves it. PERF: C libraries use AVX then.
            self._model = self._model.replaced([first._replace(ecx=first.ecx | _XSAVE)])
        self._enables = self._model.has("xsave") and bool(self._vm.has_xcrs)
        has = extended is not None and (self._enables or self._kvm.flavour == "pvm")
        self._features = (extended.eax | extended.edx << 32) & _NO_TILES if has and extended else 3
        sizes = [576]
        for (function, index), leaf in leaves.items():
            if function == 0xD and 2 <= index < 63 and self._features >> index & 1:
                sizes.append(leaf.eax + leaf.ebx)
        self._area_bytes = min(max(sizes), self._vm.xsave_bytes)

    def _start_like(self, other: KvmEngine, tables: int) -> None:
        self._kvm, self._model = other._kvm, other._model
        self._features, self._enables, self._area_bytes = other._features, other._enables, other._area_bytes
        self._ring, self._like = _CLONE_RING, other.first
        self._space = Space(self.memory.size // PAGE, of=tables)
        self._start_vm()

    def freeze(self) -> int:
        """The descriptor of a file with the page tables as they are now. Raises HostError."""
        try:
            return self._space.freeze((region.start, region.end) for region in self.memory.regions())
        except OSError as error:
            raise HostError(
                f"no memory for page tables: {error.strerror}", hint="give vm more memory"
            ) from error

    def _start_vm(self) -> None:
        """The machine, with no vCPU yet."""
        self._vm = self._kvm.create_vm(VmConfig(dirty_ring=self._ring if self._track else 0))
        self._vm.map(0, self._space.memory)
        self._windows: set[int] = set()
        self._slots: list[int] = []
        self._show((region.start, region.end) for region in self.memory.regions() if region.prot)

    def _show(self, ranges: Iterable[tuple[int, int]]) -> None:
        """The machine has memory for these ranges of the arena from now on."""
        wanted = {n for start, end in ranges for n in range(start // _WINDOW, -(-end // _WINDOW))}
        for n in sorted(wanted - self._windows):
            if n in self._windows:
                continue
            last = n
            while last in wanted and last not in self._windows:
                last += 1
            start, end = n * _WINDOW, min(last * _WINDOW, self.memory.size)
            arena = _Arena(self.memory)
            self._vm.map(ARENA + start, arena, offset=start, size=end - start, log_dirty=self._track)
            self._windows.update(range(n, last))
            self._slots.append(ARENA + start)

    def _changed(self, start: int, end: int) -> None:
        table = bytes(self.memory.table[start >> 12 : end >> 12])
        if table.translate(None, _NO_ACCESS):
            self._show([(start, end)])
        stale = self._space.fill(start, table)
        if stale is Stale.TABLES:
            self._forget()
        if stale is not Stale.NOTHING:
            self.memory.refresh(start, end)

    def _forget(self) -> None:
        """Make KVM forget its own tables, all of them: that is what it does whenever a machine loses memory, which any thread may
        use meanwhile but for what goes."""
        self._vm.map(_NOWHERE, self._space.memory, size=PAGE)
        self._vm.unmap(_NOWHERE)

    def seat(self, cpu: CpuState, *, load: bool = True) -> Seat:
        """A vCPU for a thread that has none yet. Without ``load`` the thread loads its vector registers itself."""
        before = cpu.outside
        chair = self._chair()
        if load:
            chair.load(before.save() if before is not None else b"")
        cpu.outside = seat = Seat(self, chair, cpu)
        with self._lock:
            self._seats.add(seat)
        return seat

    def _chair(self) -> Chair:
        with self._lock:
            while self._free:
                chair = self._free.pop()
                if chair.vm is self._vm:
                    return chair
            vcpu = self._vm.create_vcpu(self._model)
            if vcpu.index >= VCPUS:
                raise HypervisorError(f"more than {VCPUS} threads at once", call="KVM_CREATE_VCPU")
            like, self._like = self._like, None
            chair = Chair(
                self._vm, self._space, vcpu,
                features=self._features, area_bytes=self._area_bytes, enable=self._enables, like=like,
            )  # fmt: skip
            if not vcpu.index:
                self.first = chair
            return chair

    def written(self) -> list[int]:
        """The addresses of pages that the program has written, each at least once since it was there."""
        return [page - ARENA for page in self._vm.written(self._slots)]

    def protect(self) -> None:
        """From now on ``written`` reports all pages anew."""
        for slot in self._slots:
            self._vm.dirty(slot)

    def leave(self, chair: Chair) -> None:
        """A thread is over; the next one takes its vCPU."""
        self._free.append(chair)

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        seat = cpu.outside
        if type(seat) is not Seat or seat.engine is not self:
            seat = self.seat(cpu)
        self._here.seat = seat
        begin = time.perf_counter()
        try:
            return seat.run(cpu.words, call)
        finally:
            self.stats.seconds += time.perf_counter() - begin

    def add_vcpu(self) -> None:
        """It gets its vCPU when it first runs."""

    @contextmanager
    def forking(self) -> Iterator[None]:
        seat = getattr(self._here, "seat", None)
        with self._lock:
            # KVM gives nothing of a vCPU to another process.
            self._kept = b"" if seat is None else seat.save()
            yield

    def forked(self) -> None:
        seat: Seat | None = getattr(self._here, "seat", None)
        for other in list(self._seats):
            other.vcpu.forked()
        self._free.clear()
        self._vm.close()
        # The page tables have been copied with everything else; what maps them is new.
        self._start_vm()
        if seat is not None:
            seat.move(self._chair())
            seat.load(self._kept)

    def abandon(self) -> None:
        self.close()

    def interrupt(self) -> None:
        for seat in list(self._seats):
            seat.kick()

    def invalidate(self, start: int, end: int) -> None:
        """The processor sees to it."""

    def synchronize(self, memory: GuestMemory, start: int = 0, end: int = EVERYWHERE) -> None:
        """The processor sees to it."""

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        if addresses:
            raise UsageError(
                "the engine 'kvm' has no breakpoints",
                hint="debug the program with another engine: --accel none",
            )

    def close(self) -> None:
        if self._changed in self.memory.table_changed:
            self.memory.table_changed.remove(self._changed)
            cut.drop(self.memory)
        if (vm := getattr(self, "_vm", None)) is not None:
            vm.close()
        if (space := getattr(self, "_space", None)) is not None:
            self._free.clear()
            space.close()
