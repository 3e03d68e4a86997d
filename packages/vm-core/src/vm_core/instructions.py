"""A trace of instructions: each one that retires, with the registers that it changed and the memory that it touched.

:class:`TracingEngine` stands in front of another engine, which does the work: it runs one instruction at a time where the
trace shows them, and as fast as it can where it does not. What an instruction does to memory is worked out from its text
before it runs (:func:`vm_core.execute.accesses`).

A line is

    PC <SYMBOL+OFFSET>: BYTES  ASSEMBLY  # REGISTER=OLD->NEW ... rSIZE[ADDRESS]=VALUE wSIZE[ADDRESS]=VALUE

with bytes in the order of memory, all numbers but sizes in hexadecimal, and ``[pid N]`` in front where there are several
threads. At its end stands what it led to, if that is no next instruction: ``syscall NAME``, or ``trap CAUSE``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from vm_core.engine import (
    EVERYWHERE,
    Breakpoint,
    Budget,
    Cause,
    Engine,
    EngineStats,
    Exit,
    Interrupted,
    Syscall,
    Trap,
)
from vm_core.errors import DecodeError, UsageError
from vm_core.execute import Touch, accesses, fetch
from vm_core.linux.objects import Objects
from vm_core.log import Log, write_all
from vm_core.memory import GuestMemory, MemoryFault, Prot
from vm_core.record import record
from vm_core.state import HEADER, HEADER_BYTES, CpuState

if TYPE_CHECKING:
    from vm_core.linux.process import Process
    from vm_core.loader import Symbols
    from vm_core.memory import Region
    from vm_core.spec.isa import Decoded, Isa

__all__ = ["InstructionTrace", "Recorder", "Step", "TracingEngine"]

_FUEL: Final = HEADER["fuel"] // 8
_TID: Final = HEADER["tid"] // 8
_FP_FLAGS: Final = HEADER["fp_flags"] // 8
_FP_ROUNDING: Final = HEADER["fp_rounding"] // 8
_FIRST: Final = HEADER_BYTES // 8
_TOUCHING: Final = frozenset({"load", "store", "amo", "cas", "load_reserved", "store_conditional"})
_BUFFERED: Final = 1 << 16
"""Bytes of lines that are written at once."""
_MOST_WATCHED: Final = 1 << 16
"""Bytes of ranges that are entered by breakpoints; larger ones are stepped to."""
_MOST_SYMBOLS: Final = 1 << 16


@record(frozen=True)
class Step:
    """One instruction. ``registers`` are name, old and new value; ``led_to`` is empty, "syscall NAME" or "trap CAUSE"."""

    number: int
    pid: int
    tid: int
    pc: int
    symbol: str
    data: bytes
    text: str
    registers: tuple[tuple[str, int, int], ...]
    memory: tuple[Touch, ...]
    led_to: str

    def line(self) -> str:
        """As the module's text has it."""
        place = f" <{self.symbol}>" if self.symbol else ""
        changes = [f"{name}={old:#x}->{new:#x}" for name, old, new in self.registers]
        changes += [f"{touch.kind}{touch.size}[{touch.address:#x}]={touch.value:#x}" for touch in self.memory]
        if self.led_to:
            changes.append(self.led_to)
        where = f"{self.pc:#x}{place}:"
        head = f"{where:<34} {self.data.hex(' '):<12} {self.text}"
        return f"{head:<76} # {' '.join(changes)}" if changes else head

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "number": self.number,
            "pid": self.pid,
            "tid": self.tid,
            "pc": self.pc,
            "symbol": self.symbol,
            "bytes": self.data.hex(),
            "text": self.text,
            "registers": {name: [old, new] for name, old, new in self.registers},
            "memory": [touch._asdict() for touch in self.memory],
            "led_to": self.led_to or None,
        }


@record(frozen=True)
class InstructionTrace:
    """Which instructions are shown, how and where.

    ``start`` is an address or the name of a function of the program where the trace begins; ``count`` ends it after so many
    shown instructions: the program goes on without. ``ranges`` are the places that are shown: functions, ``FIRST-LAST``,
    ``FIRST+SIZE``; everything without them. ``follow`` is whether child processes are traced.

    Steps go to ``steps``, else as lines to ``write`` or to ``output``, a host descriptor or the path of a file (standard
    error without any); ``json`` makes each line a JSON object.
    """

    write: Callable[[str], None] | None = None
    output: str | int | None = None
    start: str = ""
    count: int | None = None
    ranges: tuple[str, ...] = ()
    follow: bool = True
    json: bool = False
    steps: Callable[[Step], None] | None = None


class _Plan:
    """What is known of an instruction before it runs. ``cells`` are the registers that it writes: name, word, wide."""

    __slots__ = ("calls", "cells", "data", "insn", "symbol", "text", "touches")

    def __init__(self, isa: Isa, insn: Decoded, data: bytes, symbol: str) -> None:
        self.insn = insn
        self.data = data
        self.symbol = symbol
        self.text = insn.text()
        ops = insn.template.ops
        self.calls = any(op.code == "trap" and op.attr == Cause.SYSCALL.value for op in ops)
        self.touches = any(op.code in _TOUCHING for op in ops)
        self.cells: dict[int, tuple[str, bool]] = {}
        for op in ops:
            if op.code == "setreg":
                file, index = op.attr
                slot = insn.fields[index] if isinstance(index, str) else index
                cell = _cell(isa, file, slot)
                if cell is not None:
                    self.cells[cell[0]] = cell[1:]


def _cell(isa: Isa, file: str, slot: int) -> tuple[int, str, bool] | None:
    """The word of a register in the vCPU, its name, and whether it has two words; None for one that cannot be written."""
    info = isa.layout.files[file]
    if slot == info.zero:
        return None
    if slot < info.count:
        name = info.names[slot] if slot < len(info.names) else f"{file}{slot}"
    else:
        name = info.extra[slot - info.count]
    return isa.layout.offset(file, slot) // 8, name, info.width > 64


class Recorder:
    """The trace of a guest: made with its first process, each forked one has a copy. Raises OSError."""

    def __init__(self, options: InstructionTrace) -> None:
        if options.count is not None and options.count < 1:
            raise UsageError(f"trace: a count of {options.count} shows nothing")
        self.options = options
        self.armed = not options.start
        self.number = 0
        self._lock = threading.RLock()
        self._buffer: list[str] = []
        self._size = 0
        self._owner = os.getpid()
        self._silent = False
        self._fd = 2
        if isinstance(options.output, int):
            self._fd = options.output
        elif options.output is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
            self._fd = os.open(options.output, flags, 0o666)

    @property
    def over(self) -> bool:
        """Whether nothing more will be shown."""
        return self._silent or (self.options.count is not None and self.number >= self.options.count)

    def watch(self, process: Process, engine: Engine) -> TracingEngine:
        """An engine that shows what it runs."""
        return TracingEngine(self, process, engine)

    def take(self, step: Step, *, several: bool) -> None:
        """Show an instruction, unless enough have been shown."""
        options = self.options
        with self._lock:
            if self.over:
                return
            self.number += 1
            if options.steps is not None:
                options.steps(step)
                return
            text = json.dumps(step.facts()) if options.json else step.line()
            if several and not options.json:
                text = f"[pid {step.tid:>5}] {text}"
            if options.write is not None:
                options.write(text)
                return
            self._buffer.append(text)
            self._size += len(text)
            if self._size > _BUFFERED:
                self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        with self._lock:
            text = "".join(line + "\n" for line in self._buffer)
            self._buffer.clear()
            self._size = 0
            write_all(self._fd, text)

    def forked(self) -> None:
        """In the child of a fork: what is buffered is the parent's to write."""
        self._lock = threading.RLock()
        self._buffer.clear()
        self._size = 0
        if not self.options.follow or self.options.steps is not None or self.options.write is not None:
            self._silent = True  # there is nobody here to call


class TracingEngine:
    """An engine that shows what another one runs, an instruction at a time. Implements :class:`vm_core.engine.Engine`."""

    def __init__(self, recorder: Recorder, process: Process, engine: Engine) -> None:
        self.recorder = recorder
        self.process = process
        self.inner = engine
        self.isa = process.isa
        self.name = engine.name
        self._plans: dict[int, _Plan | None] = {}
        self._objects: Objects | None = None
        self._ranges: list[tuple[int, int]] | None = None
        self._armed_at = 0
        self._interrupt = False
        self._jumps = False
        """Whether the places that are not shown are run at full speed, up to a breakpoint."""
        self._prepared = False
        self._waits: set[str] = set()
        """Functions that nothing has yet that is mapped."""
        self._new_code = False

    # -- what is shown ------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """At the first instruction, when the program is there, and again when it has mapped something. Raises UsageError."""
        self._new_code = False
        options = self.recorder.options
        self._prepared = True
        if options.ranges:
            found = [one for text in options.ranges if (one := self._range(text)) is not None]
            self._ranges = sorted(found)
            self._jumps = sum(end - start for start, end in found) <= _MOST_WATCHED
        if not self.recorder.armed:
            start = self._range(options.start)
            self._armed_at = -1 if start is None else start[0]
        self._watch()

    def _range(self, text: str) -> tuple[int, int] | None:
        """Addresses of a function, or as two numbers; None for one that a library may yet have. Raises UsageError."""
        first, dash, last = text.partition("-")
        start, plus, size = text.partition("+")
        try:
            if dash:
                return int(first, 0), int(last, 0) + 1
            if plus and start[:1].isdigit():
                return int(start, 0), int(start, 0) + int(size, 0)
            if text[:1].isdigit():
                return int(text, 0), int(text, 0) + 1
        except ValueError:
            raise UsageError(
                f"trace: {text!r} is no range of addresses", hint="FIRST-LAST or FIRST+SIZE"
            ) from None
        found = self._find(text)
        if found is None:
            if self.process.interpreter is not None:
                self._waits.add(text)
                return None
            raise UsageError(
                f"trace: there is no function {text!r} in the program",
                hint="an address works without symbols",
            )
        self._waits.discard(text)
        return found

    def _images(self) -> Iterator[Symbols]:
        """The symbols of all that is mapped now."""
        process = self.process
        yield process.image.symbols
        if process.interpreter is not None:
            yield process.interpreter.symbols
        for region in process.memory.regions():
            if region.prot & Prot.EXEC and region.name.startswith("/"):
                yield self._of(region)

    def _of(self, region: Region) -> Symbols:
        if self._objects is None:
            self._objects = Objects(self.process.files.namespace, self.isa.name)
        return self._objects.symbols(region)

    def _find(self, name: str) -> tuple[int, int] | None:
        """Start and end of a function."""
        for symbols in self._images():
            start = symbols.by_name.get(name)
            if start is not None:
                return start, start + max(
                    size for at, size, other in symbols.entries if (at, other) == (start, name)
                )
        return None

    def _symbol(self, pc: int) -> str:
        """``function+0x12`` for a place; empty where nothing is known."""
        process = self.process
        for image in (process.image, process.interpreter):
            if image is not None and image.start <= pc < image.end:
                return image.symbols.name(pc)
        region = process.memory.region_at(pc)
        return "" if region is None else self._of(region).name(pc)

    def _watch(self) -> None:
        """Set the breakpoints that end a run at full speed."""
        unit = self.isa.unit
        addresses: set[int] = set()
        if not self.recorder.armed:
            addresses |= {self._armed_at} - {-1}
        elif self._jumps and not self.recorder.over:
            assert self._ranges is not None
            for start, end in self._ranges:
                addresses.update(range(start, end, unit))
        self.inner.set_breakpoints(frozenset(addresses))

    def _shown(self, pc: int) -> bool:
        if not self.recorder.armed:
            return False
        return self._ranges is None or any(start <= pc < end for start, end in self._ranges)

    # -- running --------------------------------------------------------------------------------------------------------

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        recorder, inner, words = self.recorder, self.inner, cpu.words
        if not self._prepared or self._new_code:
            self._prepare()
        left = limit
        while left > 0:
            if self._interrupt:
                self._interrupt = False
                return Interrupted()
            if recorder.over:
                self._watch()
                exit_ = inner.run(cpu, memory, left, call)
                if type(exit_) is not Breakpoint:
                    return exit_
                left = words[_FUEL]
                continue
            pc = words[0]
            if not recorder.armed and pc == self._armed_at:
                recorder.armed = True
                self._watch()
                inner.interrupt()  # other threads are to step too
            if self._shown(pc):
                exit_ = self._step(cpu, memory, left, call)
                left = words[_FUEL]
            elif recorder.armed and not self._jumps:
                exit_ = self._past(cpu, memory, 1)
                left -= 1 - words[_FUEL]
                words[_FUEL] = left
                if type(exit_) is Syscall and call is not None:
                    exit_ = Interrupted() if call() else Budget()
            else:
                exit_ = inner.run(cpu, memory, left, call)
                left = words[_FUEL]
                if type(exit_) is Budget:
                    return exit_
            if type(exit_) not in (Budget, Breakpoint):
                return exit_
        return Budget()

    def _past(self, cpu: CpuState, memory: GuestMemory, limit: int) -> Exit:
        """Run, also if a breakpoint is at the pc."""
        exit_ = self.inner.run(cpu, memory, limit)
        while type(exit_) in (Breakpoint, Interrupted) and cpu.words[_FUEL] == limit:
            exit_ = self.inner.run(cpu, memory, limit)
        return exit_

    def _step(self, cpu: CpuState, memory: GuestMemory, left: int, call: Callable[[], bool] | None) -> Exit:
        """Run one instruction and show it. ``left`` is the fuel before it; header "fuel" becomes that after it."""
        words = cpu.words
        pc = words[0]
        plan = self._plans[pc] if pc in self._plans else self._plan(memory, pc)
        registers = words[_FIRST:]
        before = bytes(registers)
        flags, rounding = words[_FP_FLAGS], words[_FP_ROUNDING]
        touches = accesses(self.isa, plan.insn, cpu, memory) if plan is not None and plan.touches else []
        exit_ = self._past(cpu, memory, 1)
        words[_FUEL] = left = left - 1 + words[_FUEL]
        kind = type(exit_)
        led_to, everything = "", plan is None
        if kind is Syscall:
            led_to, everything = self._call_name(cpu), True
            pid = self.process.pid
            if call is not None:
                leave = True
                try:
                    self.recorder.flush()  # what it prints comes behind
                    leave = call()
                finally:
                    if self.process.pid == pid:
                        self._take(cpu, pc, plan, before, flags, rounding, everything, touches, led_to)
                words[_FUEL] = left
                return Interrupted() if leave else Budget()
        elif kind is Trap:
            assert isinstance(exit_, Trap)
            led_to, touches = f"trap {exit_.cause.value}", []
            if exit_.address != pc:
                led_to += f" {exit_.address:#x}"
        elif plan is not None and plan.calls:
            # The engine has answered it itself.
            led_to, everything = self._call_name(cpu), True
        self._take(cpu, pc, plan, before, flags, rounding, everything, touches, led_to)
        return exit_

    def _call_name(self, cpu: CpuState) -> str:
        from vm_core.linux.table import name_of

        abi = self.process.abi
        return f"syscall {name_of(abi, cpu.words[abi.number_word])}"

    def _take(
        self,
        cpu: CpuState,
        pc: int,
        plan: _Plan | None,
        before: bytes,
        flags: int,
        rounding: int,
        everything: bool,
        touches: list[Touch],
        led_to: str,
    ) -> None:
        words = cpu.words
        changed: list[tuple[str, int, int]] = []
        after = bytes(words[_FIRST:])
        if after != before:
            old, new = memoryview(before).cast("Q"), memoryview(after).cast("Q")
            cells = self._all_cells() if everything or plan is None else plan.cells
            for at, (name, wide) in cells.items():
                word = at - _FIRST
                was, now = old[word], new[word]
                if wide:
                    was, now = was | old[word + 1] << 64, now | new[word + 1] << 64
                if was != now:
                    changed.append((name, was, now))
        if words[_FP_FLAGS] != flags:
            changed.append(("fflags", flags, words[_FP_FLAGS]))
        if words[_FP_ROUNDING] != rounding:
            changed.append(("frm", rounding, words[_FP_ROUNDING]))
        process = self.process
        data, text, symbol = (b"", "?", "") if plan is None else (plan.data, plan.text, plan.symbol)
        step = Step(
            self.recorder.number, process.pid, words[_TID], pc, symbol, data, text, tuple(changed), tuple(touches), led_to
        )  # fmt: skip
        self.recorder.take(step, several=len(process.threads) > 1 or process.forked)

    _cells: dict[int, tuple[str, bool]] | None = None

    def _all_cells(self) -> dict[int, tuple[str, bool]]:
        if self._cells is None:
            self._cells = {}
            for file in self.isa.layout.files.values():
                for slot in range(file.count + len(file.extra)):
                    cell = _cell(self.isa, file.name, slot)
                    if cell is not None and cell[1] != "sink":
                        self._cells[cell[0]] = cell[1:]
        return self._cells

    def _plan(self, memory: GuestMemory, pc: int) -> _Plan | None:
        try:
            insn = fetch(self.isa, memory, pc)
            data = memory.fetch(pc, insn.length)
            plan: _Plan | None = _Plan(self.isa, insn, data, self._symbol(pc))
        except (MemoryFault, DecodeError):
            return None  # the engine says what becomes of it
        if len(self._plans) < _MOST_SYMBOLS:
            self._plans[pc] = plan
        return plan

    def __getattr__(self, name: str) -> Any:
        # What only some engines have, such as preparing before the process is confined.
        return getattr(self.inner, name)

    # -- the rest of an engine ------------------------------------------------------------------------------------------

    @property
    def stats(self) -> EngineStats:
        return self.inner.stats

    def add_vcpu(self) -> None:
        self.inner.add_vcpu()

    def forking(self) -> AbstractContextManager[None]:
        self.recorder.flush()
        return self.inner.forking()

    def forked(self) -> None:
        self.inner.forked()
        self.recorder.forked()

    def interrupt(self) -> None:
        self._interrupt = True
        self.inner.interrupt()

    def invalidate(self, start: int, end: int) -> None:
        self._plans = {pc: plan for pc, plan in self._plans.items() if not start - 15 < pc < end}
        self.inner.invalidate(start, end)
        if self._waits:
            self._new_code = True
            self.inner.interrupt()

    def synchronize(self, memory: GuestMemory, start: int = 0, end: int = EVERYWHERE) -> None:
        self._plans.clear()
        self.inner.synchronize(memory, start, end)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        raise UsageError(
            "a trace of instructions and a debugger exclude each other", hint="gdb can step and record"
        )

    def close(self) -> None:
        if self._waits:
            Log("vm.trace").warning(
                "%s", f"there was no function {', '.join(sorted(self._waits))} in the program"
            )
        self.recorder.flush()
        self.inner.close()
