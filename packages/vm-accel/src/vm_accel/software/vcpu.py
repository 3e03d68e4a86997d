"""One vCPU of vm's own engines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from vm_accel.closing import Closing
from vm_accel.completion import Fault, Guest, by_text
from vm_accel.errors import HypervisorError
from vm_accel.exits import Debug, DebugKind, Exit, FailEntry, Interrupted, IrqWindow
from vm_accel.interface import Bus, State
from vm_accel.pending import Ending, Pending
from vm_core.engine import Budget, Cause, Syscall, Trap
from vm_core.errors import DecodeError, UsageError
from vm_core.execute import accesses, fetch
from vm_core.memory import MemoryFault

if TYPE_CHECKING:
    from vm_accel.software.hypervisor import SoftwareVm

__all__ = ["SoftwareVcpu"]

_FORMAT: Final = "software-vcpu/1"
_FIRST_SLICE, _LONGEST_SLICE = 200, 4_000_000
_SLICE_SECONDS: Final = 0.002
"""Between two looks for a kick."""


class SoftwareVcpu(Closing):
    """See :class:`vm_accel.interface.Vcpu`. Made by ``SoftwareVm.create_vcpu``."""

    def __init__(self, vm: SoftwareVm, index: int) -> None:
        self.vm, self.index = vm, index
        self.architecture, self.text = vm.architecture, vm.hypervisor.text
        self.cpu = self.text.cpu()
        self.stored = self.architecture.reset(self.cpu, index)
        """Registers that the engine does not know."""
        self.pending = Pending()
        self._kicked = self._closed = False
        self._running = False
        self._window = False
        self._vector: int | None = None
        self._slice = _FIRST_SLICE
        self._step = self.trap_break = False
        self._breakpoints: frozenset[int] = frozenset()
        self._watched: tuple[tuple[int, int, bool], ...] = ()
        self._passing: int | None = None  # the breakpoint that `run` returned last
        self._owed: tuple[DebugKind, int] | None = None  # what `run` stops for when the instruction is over

    def _open(self) -> None:
        if self._closed:
            raise HypervisorError("the vCPU is closed")

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, bus: Bus | None = None) -> Exit:
        self._open()
        pending = self.pending
        pending.settle()
        # Whoever calls may have written code.
        self.vm.engine.synchronize(self.vm.arena)
        self._running = True
        try:
            while True:
                if pending.queue:
                    return pending.queue.popleft()
                if self._owed is not None:
                    (kind, address), self._owed = self._owed, None
                    return Debug(self.cpu.pc, kind, address)
                if self._kicked:
                    self._kicked = False
                    return Interrupted()
                if self._vector is not None:
                    vector, self._vector = self._vector, None
                    found = self.architecture.interrupt(self, vector)
                elif self._window and self.architecture.can_interrupt(self):
                    self._window = False
                    return IrqWindow()
                elif self._step or self._breakpoints or self._watched:
                    found = self._one(bus)
                else:
                    found = self._several(bus)
                if found is not None:
                    return found
        finally:
            self._running = False

    def _several(self, bus: Bus | None) -> Exit | None:
        begin, wanted = time.perf_counter(), self._slice
        exit_ = self.vm.engine.run(self.cpu, self.vm.arena, wanted)
        if type(exit_) is Budget:
            seconds = max(time.perf_counter() - begin, 1e-6)
            # Never more than 8 times at once: what was just measured may have been a burst.
            aim = int(wanted * _SLICE_SECONDS / seconds)
            self._slice = max(_FIRST_SLICE // 10, min(aim, wanted * 8, _LONGEST_SLICE))
            return None
        return self._stopped(exit_, bus)

    def _one(self, bus: Bus | None) -> Exit | None:
        """One instruction, looked at before and behind."""
        pc = self.cpu.pc
        passing, self._passing = self._passing, None
        if pc in self._breakpoints and passing != pc:
            self._passing = pc
            return Debug(pc, DebugKind.BREAKPOINT, pc)
        watched = self._touched(pc) if self._watched else None
        exit_ = self.vm.engine.run(self.cpu, self.vm.arena, 1)
        found = None if type(exit_) is Budget else self._stopped(exit_, bus)
        if self.cpu.pc == pc and found is None and type(exit_) is not Budget:
            return None  # a page is in the log now, and the instruction is run again
        if (watched is not None or self._step) and not isinstance(found, Debug | FailEntry):
            # Told when the instruction is over: a read of a device may still wait for its answer.
            self._owed = DebugKind.STEP if watched is None else DebugKind.WATCHPOINT, watched or 0
        return found

    def _touched(self, pc: int) -> int | None:
        """The address of the first watchpoint that the instruction at the pc is about to touch."""
        try:
            insn = fetch(self.text, self.vm.arena, pc)
            touches = accesses(self.text, insn, self.cpu, self.vm.arena)
        except (MemoryFault, DecodeError):
            return None
        for address, size, writes in self._watched:
            for touch in touches:
                if (
                    touch.address < address + size
                    and address < touch.address + touch.size
                    and (touch.kind == "w" or not writes)
                ):
                    return address
        return None

    def _stopped(self, exit_: object, bus: Bus | None) -> Exit | None:
        if isinstance(exit_, Syscall):
            return self.architecture.call(self)
        if not isinstance(exit_, Trap):
            return None
        if exit_.cause in (Cause.LOAD, Cause.STORE):
            if exit_.cause is Cause.STORE and self.vm.wrote(exit_.address, 1):
                return None
            return self._device(bus)
        if exit_.cause is Cause.FETCH:
            return FailEntry(0, f"code at {exit_.address:#x}, where no memory is")
        if exit_.cause is Cause.BREAKPOINT and self.trap_break:
            return Debug(exit_.pc, DebugKind.INSTRUCTION)
        return self.architecture.trap(self, exit_, bus)

    def _device(self, bus: Bus | None) -> Exit | None:
        """The instruction at the pc touches what is no memory."""
        code = self.code()
        return self.pending.drive(
            by_text(self.text, code, Physical(self), self.cpu),
            Ending(lambda: None, _no_fault, lambda: self.refused("an access that is not understood")),
            bus,
        )

    def code(self) -> bytes:
        """The instruction's bytes at the pc, as far as there is memory; at most 15."""
        try:
            return self.vm.arena.fetch(self.cpu.pc, 15)
        except MemoryFault:
            return b""

    def refused(self, reason: str) -> FailEntry:
        """The exit for what a software vCPU cannot do. The pc stays."""
        return FailEntry(1, f"{reason}, at {self.cpu.pc:#x}", self.code())

    def kick(self) -> None:
        self._open()
        self._kicked = True

    def complete(self, value: int | bytes = 0, *, fault: bool = False) -> None:
        self._open()
        self.pending.complete(value, fault=fault)

    # -- registers -----------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> int:
        self._open()
        self.architecture.bits(name)
        return self.architecture.get(self.cpu, self.stored, name)

    def __setitem__(self, name: str, value: int) -> None:
        self.set_registers({name: value})

    def registers(self, names: Iterable[str] | None = None) -> dict[str, int]:
        self._open()
        return {name: self[name] for name in (self.architecture.names if names is None else names)}

    def set_registers(self, values: Mapping[str, int]) -> None:
        self._open()
        for name, value in values.items():
            bits = self.architecture.bits(name)
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} has {bits} bits: {value!r}")
        self.pending.registers_change(pc=self.architecture.pc in values)
        for name, value in values.items():
            self.architecture.put(self.cpu, self.stored, name, value)

    # -- state ---------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        self._open()
        self.pending.drop()
        return {"format": _FORMAT, "isa": self.text.name, "registers": self.registers()}

    def restore(self, state: State) -> None:
        self._open()
        if state.get("format") != _FORMAT or state.get("isa") != self.text.name:
            raise UsageError(
                f"not a saved vCPU of vm's own engine for {self.text.name}: {state.get('format')!r}"
            )
        self.pending.clear()
        self._vector = self._passing = self._owed = None
        self._window = False
        self.set_registers(state["registers"])

    # -- debugging, interrupts -----------------------------------------------------------------------------------------

    def debug(
        self,
        *,
        step: bool = False,
        breakpoints: Iterable[int] = (),
        watchpoints: Iterable[tuple[int, int, bool]] = (),
        trap_break: bool = False,
    ) -> None:
        self._open()
        stops, watched = frozenset(breakpoints), tuple(watchpoints)
        if len(stops) + len(watched) > self.architecture.most_stops:
            raise UsageError(f"at most {self.architecture.most_stops} breakpoints and watchpoints")
        for address, size, _ in watched:
            if size not in (1, 2, 4, 8) or address % size:
                raise UsageError(f"a watchpoint of {size} bytes at {address:#x}: 1, 2, 4 or 8, aligned")
        self._step, self._breakpoints, self._watched = step, stops, watched
        self.trap_break, self._owed = trap_break, None

    def interrupt(self, vector: int) -> None:
        self._open()
        if not self.architecture.can_interrupt(self) or self._vector is not None:
            raise UsageError("the guest cannot take an interrupt now", hint="request_irq_window, then run")
        self._vector = vector

    def request_irq_window(self) -> None:
        self._open()
        self._window = True

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        if self._running:
            raise UsageError("this vCPU is running", hint="kick it, and wait until run has returned")
        self._closed = True
        self.pending.clear()
        self.vm.forget_vcpu(self)


def _no_fault(fault: Fault) -> None:
    raise HypervisorError(f"{fault}: there are no page tables")


class Physical(Guest):
    """The guest as :mod:`vm_accel.completion` sees it: an address is a physical one."""

    def __init__(self, vcpu: SoftwareVcpu) -> None:
        self._vcpu = vcpu

    def get(self, name: str) -> int:
        return self._vcpu.architecture.get(self._vcpu.cpu, self._vcpu.stored, name)

    def put(self, name: str, value: int) -> None:
        self._vcpu.architecture.put(self._vcpu.cpu, self._vcpu.stored, name, value)

    def translate(self, address: int, *, is_write: bool) -> int:
        return address

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        return self._vcpu.vm.ram(address, size, is_write=is_write)
