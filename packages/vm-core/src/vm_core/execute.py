"""The reference executor: templates run on Python ints. Slow and obviously right; every other engine is checked by it.

It also finishes what native engines leave: an instruction whose fast path they refuse (a fault, an access across
pages, a CSR, a rounding mode that the host lacks) is executed here, on the same state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

from vm_core import softfloat
from vm_core.engine import (
    EVERYWHERE,
    Breakpoint,
    Budget,
    Cause,
    EngineStats,
    Exit,
    Interrupted,
    Syscall,
    Trap,
)
from vm_core.errors import DecodeError
from vm_core.memory import Access, GuestMemory, MemoryFault
from vm_core.spec.isa import Decoded, Isa
from vm_core.spec.ops import AMO, PURE, mask
from vm_core.spec.template import Op, Template
from vm_core.state import CpuState

__all__ = ["ReferenceEngine", "Touch", "TrapRaised", "accesses", "execute", "fetch"]

_DYNAMIC = 7
_NO_RESERVATION = (1 << 64) - 1
_MAX_LENGTH = 15


class TrapRaised(Exception):
    """Inside one instruction: it traps. Never leaves this module's callers."""

    def __init__(
        self, cause: Cause, address: int | None = None, access: Access | None = None, mapped: bool = False
    ) -> None:
        super().__init__(cause.value)
        self.cause, self.address, self.access, self.mapped = cause, address, access, mapped


_atomic = threading.Lock()


class _Execution:
    """One instruction on one vCPU. ``next_pc`` is where to go on; ``system`` is set for a system call."""

    def __init__(self, isa: Isa, insn: Decoded, cpu: CpuState, memory: GuestMemory) -> None:
        self.isa, self.insn, self.cpu, self.memory = isa, insn, cpu, memory
        self.next_pc = cpu.pc + insn.length & mask(64)
        self.writes: list[tuple[str, int, int]] = []
        self.flags = 0
        self.system = False
        self.sync = False
        self.values: list[int] = []
        self.late: list[Callable[[], None]] = []

    def run(self, template: Template) -> None:
        """Raises TrapRaised with no register changed."""
        self.evaluate(template)
        for file, slot, value in self.writes:
            self.cpu.set(file, slot, value)
        for change in self.late:
            change()
        if self.flags:
            self.cpu.header("fp_flags", self.cpu.header("fp_flags") | self.flags)
        self.cpu.pc = self.next_pc

    def evaluate(self, template: Template) -> None:
        """All operations, but no register is written yet."""
        values = self.values
        for op in template.ops:
            if op.guard is not None and not values[op.guard]:
                values.append(0)
                continue
            pure = PURE.get(op.code)
            if pure is None:
                values.append(
                    getattr(self, "op_" + op.code.replace(".", "_"))(op, *[values[arg] for arg in op.args])
                    or 0
                )
            elif op.code == "extract":
                values.append(values[op.args[0]] >> op.attr & mask(op.width))
            elif op.code == "sext":
                width = template.ops[op.args[0]].width
                value = values[op.args[0]]
                values.append(value - (value >> (width - 1) << width) & mask(op.width))
            else:
                width = template.ops[op.args[-1]].width
                extra = () if pure.shape != "lanes" else (op.attr,)
                values.append(pure.evaluate(width, *extra, *[values[arg] for arg in op.args]))

    # -- values and registers -----------------------------------------------------------------------------------

    def op_const(self, op: Op) -> int:
        return int(op.attr)

    def op_field(self, op: Op) -> int:
        return self.insn.fields[op.attr] & mask(64)

    def op_pc(self, op: Op) -> int:
        return self.cpu.pc

    def op_next_pc(self, op: Op) -> int:
        return self.cpu.pc + self.insn.length & mask(64)

    def _cell(self, op: Op) -> tuple[str, int]:
        file, index = op.attr
        return file, self.insn.fields[index] if isinstance(index, str) else index

    def op_reg(self, op: Op) -> int:
        return self.cpu.get(*self._cell(op))

    def op_setreg(self, op: Op, value: int) -> None:
        self.writes.append((*self._cell(op), value))

    def op_setpc(self, op: Op, target: int) -> None:
        self.next_pc = target

    # -- memory -------------------------------------------------------------------------------------------------

    def _aligned(self, address: int, size: int) -> None:
        if address % size:
            raise TrapRaised(Cause.MISALIGNED, address)

    def op_load(self, op: Op, address: int) -> int:
        return self.memory.load(address, op.width // 8)

    def op_store(self, op: Op, address: int, value: int) -> None:
        width = self._width(op, 1)
        self.memory.store(address, width // 8, value)

    def _width(self, op: Op, arg: int) -> int:
        return self.insn.template.ops[op.args[arg]].width

    def op_probe(self, op: Op, address: int) -> None:
        self.memory.check(address, op.attr // 8, Access.WRITE)

    def op_amo(self, op: Op, address: int, value: int) -> int:
        size = op.width // 8
        self._aligned(address, size)
        with _atomic:
            self.memory.check(address, size, Access.WRITE)
            old = self.memory.load(address, size)
            self.memory.store(address, size, AMO[op.attr[0]](op.width, old, value))
        return old

    def op_cas(self, op: Op, address: int, expected: int, new: int) -> int:
        size = op.width // 8
        self._aligned(address, size)
        with _atomic:
            self.memory.check(address, size, Access.WRITE)
            old = self.memory.load(address, size)
            if old == expected:
                self.memory.store(address, size, new)
        return old

    def op_load_reserved(self, op: Op, address: int) -> int:
        size = op.width // 8
        self._aligned(address, size)
        value = self.memory.load(address, size)

        def reserve() -> None:
            self.cpu.header("reservation", address)
            self.cpu.header("reserved_value", value)

        self.late.append(reserve)
        return value

    def op_store_conditional(self, op: Op, address: int, value: int) -> int:
        width = self._width(op, 1)
        self._aligned(address, width // 8)
        with _atomic:
            self.memory.check(address, width // 8, Access.WRITE)
            failed = self.cpu.header("reservation") != address or self.memory.load(
                address, width // 8
            ) != self.cpu.header("reserved_value") & mask(width)
            if not failed:
                self.memory.store(address, width // 8, value)
        self.cpu.header("reservation", _NO_RESERVATION)
        return int(failed)

    def op_fence(self, op: Op) -> None:
        """One Python thread at a time runs: nothing to order."""

    def op_sync_fetch(self, op: Op) -> None:
        self.sync = True

    def op_trap(self, op: Op) -> None:
        if op.attr == Cause.SYSCALL.value:
            self.system = True
            return
        raise TrapRaised(Cause(op.attr))

    def op_counter(self, op: Op) -> int:
        return time.monotonic_ns() if op.attr == "time" else self.cpu.header("fuel") * -1 & mask(64)

    # -- floating point -----------------------------------------------------------------------------------------

    def _rounding(self, op: Op) -> int:
        rm = op.attr[1]
        if rm == _DYNAMIC:
            rm = self.cpu.header("fp_rounding")
        if rm is not None and rm > softfloat.RMM:
            raise TrapRaised(Cause.ILLEGAL)
        return rm  # type: ignore[no-any-return]

    def _accrue(self, result: tuple[int, int]) -> int:
        self.flags |= result[1]
        return result[0]

    def op_fp_add(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.add(op.width, a, b, self._rounding(op)))

    def op_fp_sub(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.sub(op.width, a, b, self._rounding(op)))

    def op_fp_mul(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.mul(op.width, a, b, self._rounding(op)))

    def op_fp_div(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.div(op.width, a, b, self._rounding(op)))

    def op_fp_sqrt(self, op: Op, a: int) -> int:
        return self._accrue(softfloat.sqrt(op.width, a, self._rounding(op)))

    def op_fp_fma(self, op: Op, a: int, b: int, c: int) -> int:
        return self._accrue(softfloat.fma(op.width, a, b, c, self._rounding(op)))

    def op_fp_to_int(self, op: Op, a: int) -> int:
        fmt, _, is_signed = op.attr
        return self._accrue(softfloat.to_int(fmt, a, self._rounding(op), op.width, is_signed))

    def op_fp_from_int(self, op: Op, a: int) -> int:
        fmt, _, is_signed = op.attr
        return self._accrue(softfloat.from_int(fmt, a, self._width(op, 0), self._rounding(op), is_signed))

    def op_fp_convert(self, op: Op, a: int) -> int:
        source, _, target = op.attr
        return self._accrue(softfloat.convert(source, target, a, self._rounding(op)))

    def op_fp_eq(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.eq(op.attr[0], a, b))

    def op_fp_lt(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.lt(op.attr[0], a, b))

    def op_fp_le(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.le(op.attr[0], a, b))

    def op_fp_lt_quiet(self, op: Op, a: int, b: int) -> int:
        return self._accrue(softfloat.lt_quiet(op.attr[0], a, b))

    def op_fp_get_flags(self, op: Op) -> int:
        return self.cpu.header("fp_flags") | self.flags

    def op_fp_set_flags(self, op: Op, value: int) -> None:
        self.late.append(lambda: (self.cpu.header("fp_flags", value & 31), None)[1])

    def op_fp_get_rounding(self, op: Op) -> int:
        return self.cpu.header("fp_rounding")

    def op_fp_set_rounding(self, op: Op, value: int) -> None:
        self.late.append(lambda: (self.cpu.header("fp_rounding", value & 7), None)[1])


def fetch(isa: Isa, memory: GuestMemory, pc: int) -> Decoded:
    """Decode the instruction at ``pc``. Raises MemoryFault (its address is the first byte that could not be fetched)
    or DecodeError."""
    if pc % isa.unit:
        raise DecodeError(isa.name, pc, b"")
    data = memory.fetch(pc, _MAX_LENGTH if isa.unit == 1 else 4)
    try:
        return isa.decode(data, pc)
    except DecodeError:
        if len(data) < isa.length(data):
            memory.check(pc + len(data), 1, Access.EXEC)
        raise


def execute(isa: Isa, insn: Decoded, cpu: CpuState, memory: GuestMemory) -> Trap | Syscall | bool:
    """Run one decoded instruction. False: go on; True: go on, but later fetches must see earlier stores."""
    pc = cpu.pc
    run = _Execution(isa, insn, cpu, memory)
    try:
        run.run(insn.template)
    except TrapRaised as trap:
        return Trap(trap.cause, pc, pc if trap.address is None else trap.address, trap.access, trap.mapped)
    except MemoryFault as fault:
        cause = Cause.STORE if fault.access is Access.WRITE else Cause.LOAD
        return Trap(cause, pc, fault.address, fault.access, fault.mapped)
    return Syscall() if run.system else run.sync


class Touch(NamedTuple):
    """What an instruction does to memory: "r" or "w", guest address, bytes, value."""

    kind: str
    address: int
    size: int
    value: int


class _Foreseen(_Execution):
    """An instruction that is not run: what it would do to memory."""

    def __init__(self, isa: Isa, insn: Decoded, cpu: CpuState, memory: GuestMemory) -> None:
        super().__init__(isa, insn, cpu, memory)
        self.found: list[Touch] = []

    def op_load(self, op: Op, address: int) -> int:
        value = super().op_load(op, address)
        self.found.append(Touch("r", address, op.width // 8, value))
        return value

    def op_store(self, op: Op, address: int, value: int) -> None:
        self.found.append(Touch("w", address, self._width(op, 1) // 8, value))

    def op_probe(self, op: Op, address: int) -> None:
        pass

    def op_amo(self, op: Op, address: int, value: int) -> int:
        old = self.op_load(op, address)
        self.found.append(Touch("w", address, op.width // 8, AMO[op.attr[0]](op.width, old, value)))
        return old

    def op_cas(self, op: Op, address: int, expected: int, new: int) -> int:
        old = self.op_load(op, address)
        if old == expected:
            self.found.append(Touch("w", address, op.width // 8, new))
        return old

    def op_load_reserved(self, op: Op, address: int) -> int:
        return self.op_load(op, address)

    def op_store_conditional(self, op: Op, address: int, value: int) -> int:
        width = self._width(op, 1)
        if self.cpu.header("reservation") == address:
            self.found.append(Touch("w", address, width // 8, value & mask(width)))
        return 0


def accesses(isa: Isa, insn: Decoded, cpu: CpuState, memory: GuestMemory) -> list[Touch]:
    """What the instruction at the pc would do to memory now, up to a fault. Nothing is changed."""
    run = _Foreseen(isa, insn, cpu, memory)
    with suppress(TrapRaised, MemoryFault):
        run.evaluate(insn.template)
    return run.found


class ReferenceEngine:
    """Implements :class:`vm_core.engine.Engine` with no third-party package."""

    name = "reference"

    def __init__(self, isa: Isa, memory: GuestMemory | None = None, **_options: object) -> None:
        self.isa = isa
        self.stats = EngineStats()
        self._decoded: dict[int, Decoded] = {}
        self._breakpoints: frozenset[int] = frozenset()
        self._stopped_at: dict[int, int] = {}
        self._interrupt = False

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        begin = time.perf_counter()
        left = limit
        if self._stopped_at.get(id(cpu)) != cpu.pc:
            # It stopped at a breakpoint, and has been moved elsewhere since.
            self._stopped_at.pop(id(cpu), None)
        try:
            while left > 0:
                if self._interrupt:
                    self._interrupt = False
                    return Interrupted()
                pc = cpu.pc
                if pc in self._breakpoints and self._stopped_at.pop(id(cpu), None) != pc:
                    self._stopped_at[id(cpu)] = pc
                    return Breakpoint(pc)
                insn = self._decoded.get(pc)
                if insn is None:
                    found = self._decode(memory, pc)
                    if isinstance(found, Trap):
                        return found
                    insn = found
                result = execute(self.isa, insn, cpu, memory)
                if isinstance(result, Trap):
                    return result
                left -= 1
                cpu.header("fuel", left)
                if result is True:
                    self._decoded.clear()
                elif isinstance(result, Syscall):
                    return result
            return Budget()
        finally:
            cpu.header("fuel", left)
            self.stats.retired += limit - left
            self.stats.seconds += time.perf_counter() - begin

    def _decode(self, memory: GuestMemory, pc: int) -> Decoded | Trap:
        try:
            insn = fetch(self.isa, memory, pc)
            insn.template  # noqa: B018  trace now: an Unimplemented is a decode error
        except MemoryFault as fault:
            return Trap(Cause.FETCH, pc, fault.address, Access.EXEC, fault.mapped)
        except DecodeError:
            return Trap(Cause.ILLEGAL, pc, pc)
        self._decoded[pc] = insn
        return insn

    def add_vcpu(self) -> None:
        pass

    def forking(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forked(self) -> None:
        pass

    def abandon(self) -> None:
        self.close()

    def interrupt(self) -> None:
        """Make a running ``run`` return Interrupted soon. Callable from any thread."""
        self._interrupt = True

    def invalidate(self, start: int, end: int) -> None:
        for pc in [pc for pc in self._decoded if start - _MAX_LENGTH < pc < end]:
            self._decoded.pop(pc, None)

    def synchronize(self, memory: GuestMemory, start: int = 0, end: int = EVERYWHERE) -> None:
        self._decoded.clear()

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        self._breakpoints = addresses

    def close(self) -> None:
        self._decoded.clear()
