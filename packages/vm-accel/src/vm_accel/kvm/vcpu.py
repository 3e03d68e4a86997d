"""One vCPU of KVM on x86-64.

The general registers lie in the page that is shared with KVM (KVM_CAP_SYNC_REGS): reading them after an exit, or changing them
before the next, is no system call. What KVM returns on an instruction it has not finished is finished by the next KVM_RUN; where
somebody must see the pc behind it (save, reading or setting ``rip``), an empty KVM_RUN does that, which ``immediate_exit`` ends.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vm_accel.closing import Closing
from vm_accel.errors import HypervisorError
from vm_accel.exits import (
    Debug,
    DebugKind,
    Exit,
    FailEntry,
    Halt,
    Hypercall,
    HypercallAbi,
    Interrupted,
    IrqWindow,
    Mmio,
    PortIo,
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
    Unknown,
)
from vm_accel.interface import Bus, State
from vm_accel.kvm import kick
from vm_accel.kvm.kernel import call, failure, ffi, request
from vm_accel.kvm.kick import here
from vm_accel.kvm.registers import PLACES, Structures, msr_number
from vm_accel.kvm.x86 import GENERAL
from vm_accel.memory import PAGE
from vm_accel.pending import waiting
from vm_core.errors import UsageError

if TYPE_CHECKING:
    from vm_accel.kvm.vm import KvmVm

__all__ = ["DIRTY", "SYSTEM_AT", "SYSTEM_END", "KvmVcpu"]

_FORMAT: Final = "kvm-x86_64-vcpu-1"
_GENERAL: Final = {name: index for index, name in enumerate(GENERAL)}
_RIP, _RFLAGS, _RCX = _GENERAL["rip"], _GENERAL["rflags"], _GENERAL["rcx"]
_IF: Final = 1 << 9

# Offsets in kvm_run, from the layout that the tests compare with the header.
_UNION: Final = 32
_MMIO_DATA: Final = 40
_UNION_QUAD: Final = _UNION // 8
_MMIO_QUAD: Final = _MMIO_DATA // 8
_MMIO_SIZE_WORD: Final = 48 // 4
_MMIO_IS_WRITE: Final = 52
_MSR_DATA: Final = 48
_HYPERCALL_RESULT: Final = 88
_UNION_END: Final = 288
_VALID, _DIRTY = 288 // 4, 296 // 4
_REGISTERS: Final = 304
_SYNC_GENERAL: Final = 1
_SYNC_SYSTEM: Final = 2
SYSTEM_AT: Final = 304 + 144
"""Of kvm_sregs in kvm_run."""
SYSTEM_END: Final = SYSTEM_AT + int(ffi.sizeof("struct kvm_sregs"))
DIRTY: Final = 296
"""Of the word in kvm_run that says what KVM is to take at the next entry: 1 general, 2 system registers."""
_IMMEDIATE_EXIT: Final = 1
_READY: Final = 12

_IO: Final = struct.Struct("<BBHIQ").unpack_from
_MMIO: Final = struct.Struct("<QQIB").unpack_from
_MSR: Final = struct.Struct("<8xIIQ").unpack_from
_DEBUG: Final = struct.Struct("<IIQQQ").unpack_from
_PAIR: Final = struct.Struct("<II").unpack_from
_COALESCED: Final = struct.Struct("<QII8s")

_NONE, _WRITE, _READ, _ANSWERED = 0, 1, 2, 3
"""What KVM has still to finish: nothing, an instruction that has written, one that waits for what it reads, or one that has got
it: its registers are written when KVM finishes it."""

_ONES: Final = (1 << 64) - 1
_MASK: Final = tuple((1 << 8 * size) - 1 for size in range(9))
"""Of the values that have so many bytes."""
_UNANSWERED: Final = b"\xff" * PAGE
"""What a string of reads gives that nobody answers; KVM asks for at most a page of them at once."""
_Shape = tuple[bool, int, int, int, memoryview, int, dict[int, Exit]]
"""A port access without its data: is it a write, port, bytes of an element, how many, where the data is (a view of elements and the
index of the first; KVM's page for it is always the same), and the exits that have been made of it, by the value that is written (0
for a read)."""
_SHAPES, _VALUES = 256, 256
"""How many of them a vCPU remembers, and how many values of each.

PERF: an exit is a value, so the same one can be returned again. What a guest does with its ports repeats itself; finding it costs
half of making it, and touches few pages of Python's code. Those count where KVM's switch of address spaces has emptied the
processor's buffers: `a page of code` in benchmarks/accel.py.
"""
_RUN: Final = request("KVM_RUN")
_new: Final = tuple.__new__
"""PERF: a named tuple's own constructor takes twice as long."""

_HALT, _INTERRUPTED, _WINDOW = Halt(), Interrupted(), IrqWindow()
_EVENTS: Final = {
    1: ShutdownKind.OFF,
    2: ShutdownKind.RESET,
    3: ShutdownKind.CRASH,
    5: ShutdownKind.SUSPEND,
}
_EMULATION, _EMULATION_FLAGS, _EMULATION_BYTES = 1, 40, 48
"""The suberror, and where in kvm_run its flags (bit 0: the instruction's bytes follow) and these are, their number first (api.rst,
KVM_EXIT_INTERNAL_ERROR)."""
_SUBERRORS: Final = {
    1: "an instruction that KVM cannot emulate",
    2: "two exceptions at once",
    3: "an exit while an event was delivered",
    4: "an exit that KVM does not know",
}

_DEBUGGED: Final = 0xE00F
"""DR6: B0 to B3, BD, BS, BT."""
_ENABLE, _STEP, _SOFTWARE, _HARDWARE = 1, 2, 0x1_0000, 0x2_0000
_WATCH_LENGTH: Final = {1: 0, 2: 1, 4: 3, 8: 2}


def _closed(*_: object) -> NoReturn:
    raise HypervisorError("the vCPU is closed")


class KvmVcpu(Closing):
    """See :class:`vm_accel.interface.Vcpu`. Made by ``KvmVm.create_vcpu``."""

    # PERF: more attributes than Python lets the instances of a class share the names of.
    __slots__ = (
        "__weakref__", "_answer", "_at_breakpoint", "_breakpoints", "_debug_control", "_debugged", "_fd", "_general", "_halves", "_kernel", "_kicked",
        "_parts", "_pc_at", "_pending", "_pointer", "_quads", "_queue", "_resume_at", "_ring", "_shapes", "_size", "_stepping",
        "_structures", "_thread", "_view", "_vm", "_without", "_words", "index",
    )  # fmt: skip

    def __init__(self, vm: KvmVm, index: int, fd: int, pointer: Any, size: int, ring: Any) -> None:
        self.index = index
        self._vm, self._kernel, self._fd = vm, vm.kernel, fd
        self._pointer, self._size = pointer, size
        self._ring = ring
        # SAFETY: `pointer` is the whole mapping of `size` bytes, and is unmapped by `close`, which releases these views first.
        self._view: memoryview = memoryview(ffi.buffer(pointer, size))
        self._words = self._view.cast("I")
        self._halves = self._view.cast("H")
        self._quads = self._view.cast("Q")
        self._general = self._view[_REGISTERS : _REGISTERS + 8 * len(GENERAL)].cast("Q")
        self._words[_VALID] = _SYNC_GENERAL
        self._structures = Structures(
            self._kernel, fd, xsave_bytes=vm.xsave_bytes, extended=vm.xsave_bytes > 4096
        )
        self._view[_READY] = 1  # until KVM has said something
        self._pending = _NONE
        self._answer: tuple[int, int, bool] | None = None  # offset, bytes, may be refused
        self._queue: list[Exit] = []  # a deque takes 700 bytes
        self._thread = 0
        self._kicked = False
        self._breakpoints: dict[int, tuple[DebugKind, int]] = {}
        self._debugged: list[tuple[int, int, int]] = []
        self._debug_control = 0
        self._stepping = False
        self._resume_at: int | None = None  # the rip of the breakpoint that `run` returned last
        self._pc_at = 0  # its guest-virtual address
        self._at_breakpoint = False  # either of these two is to be looked at
        self._without: int | None = None  # the breakpoint that is left out for one step
        self._shapes: dict[int, _Shape] = {}
        self._parts: tuple[Any, ...] = (
            self._kernel.enter,
            fd,
            self._view,
            self._words,
            self._quads,
            self._structures.cache,
            vm.zones,
            self._shapes,
            self._queue,
        )
        self._load()

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, bus: Bus | None = None) -> Exit:
        # PERF: benchmarks/accel.py; everything that is needed at each exit is a local variable.
        enter, fd, view, words, quads, cache, zones, shapes, queue = self._parts
        if queue:
            found = self._from_queue(bus)
            if found is not None:
                return found
        if self._at_breakpoint:
            self._step_over()
        try:
            self._thread = here.number
        except AttributeError:
            self._thread = kick.enter()
        try:
            while True:
                if cache:
                    cache.clear()
                try:
                    # SAFETY: KVM writes into its own mapping, which `view` keeps alive, and into the guest's memory.
                    enter(fd, _RUN)
                except OSError as error:
                    found = self._failed(view, error.errno or 0)
                    if found is None:
                        continue
                    self._pending = _NONE
                    if zones:
                        self._drain(bus, found)
                    return self._ordered(found) if queue else found
                reason = words[2]
                if zones:
                    self._pending = _NONE
                    self._drain(bus, None)
                if reason == 2:
                    try:
                        shape = shapes[quads[_UNION_QUAD]]
                    except KeyError:
                        shape = self._shape()
                    is_write, port, size, times, data, at, known = shape
                    if is_write:
                        self._pending = _WRITE
                        if times == 1:
                            value = data[at]
                            if bus is None:
                                try:
                                    found = known[value]
                                except KeyError:
                                    found = self._port_write(shape, value)
                                return self._ordered(found) if queue else found
                            bus.port_out(port, size, value)
                        else:
                            several = bytes(view[at : at + size * times])
                            if bus is None:
                                found = PortIo(port, size, True, times, several)
                                return self._ordered(found) if queue else found
                            for i in range(0, len(several), size):
                                bus.port_out(port, size, int.from_bytes(several[i : i + size], "little"))
                    elif times == 1:
                        self._pending = _READ
                        data[at] = _MASK[size]
                        if bus is None:
                            self._answer = at * size, size, False
                            found = known[0]
                            return self._ordered(found) if queue else found
                        data[at] = bus.port_in(port, size) & _MASK[size]
                    else:
                        self._pending = _READ
                        length = size * times
                        view[at : at + length] = _UNANSWERED[:length]
                        if bus is None:
                            self._answer = at, length, False
                            found = known[0]
                            return self._ordered(found) if queue else found
                        for i in range(at, at + length, size):
                            value = bus.port_in(port, size) & _MASK[size]
                            view[i : i + size] = value.to_bytes(size, "little")
                elif reason == 6:
                    size = words[_MMIO_SIZE_WORD]
                    if view[_MMIO_IS_WRITE]:
                        self._pending = _WRITE
                        value = quads[_MMIO_QUAD] & _MASK[size]
                        if bus is None:
                            found = _new(Mmio, (quads[_UNION_QUAD], size, True, value))
                            return self._ordered(found) if queue else found
                        bus.write(quads[_UNION_QUAD], size, value)
                    else:
                        self._pending = _READ
                        quads[_MMIO_QUAD] = _ONES
                        if bus is None:
                            self._answer = _MMIO_DATA, size, False
                            found = _new(Mmio, (quads[_UNION_QUAD], size, False, 0))
                            return self._ordered(found) if queue else found
                        quads[_MMIO_QUAD] = bus.read(quads[_UNION_QUAD], size) & _MASK[size]
                else:
                    self._pending = _NONE
                    found = self._decode(reason)
                    if found is not None:
                        return self._ordered(found) if queue else found
        finally:
            self._thread = 0

    def _shape(self) -> _Shape:
        """What kvm_run says of a port access without its data, which is remembered."""
        direction, size, port, times, offset = _IO(self._view, _UNION)
        known: dict[int, Exit] = {}
        if not direction:
            known[0] = PortIo(port, size, False, times)
        data = {1: self._view, 2: self._halves, 4: self._words}[size] if times == 1 else self._view
        shape = bool(direction), port, size, times, data, offset // data.itemsize, known
        if len(self._shapes) < _SHAPES:
            self._shapes[self._quads[_UNION_QUAD]] = shape
        return shape

    def _port_write(self, shape: _Shape, value: int) -> PortIo:
        _is_write, port, size, _times, _data, _at, known = shape
        found = PortIo(port, size, True, 1, value.to_bytes(size, "little"))
        if len(known) < _VALUES:
            known[value] = found
        return found

    def _failed(self, view: memoryview, number: int) -> Exit | None:
        """KVM_RUN failed with this errno. None: call it again."""
        if number == errno.EINTR:
            if not view[_IMMEDIATE_EXIT]:
                return None  # a signal of somebody else's
            view[_IMMEDIATE_EXIT] = 0
            self._kicked = False
            return _INTERRUPTED
        if number == errno.EAGAIN:
            return None
        raise failure("KVM_RUN", number, f"vCPU {self.index}")

    def _ordered(self, found: Exit) -> Exit:
        """Coalesced writes, which came before, are returned before."""
        self._queue.append(found)
        return self._queue.pop(0)

    def _from_queue(self, bus: Bus | None) -> Exit | None:
        while self._queue:
            found = self._queue.pop(0)
            if bus is None or not isinstance(found, Mmio | PortIo):
                return found
            self._dispatch(found, bus)
        return None

    def _dispatch(self, found: Mmio | PortIo, bus: Bus) -> None:
        if isinstance(found, Mmio):
            if found.is_write:
                bus.write(found.address, found.size, found.value)
            else:
                self.complete(bus.read(found.address, found.size))
            return
        pieces = range(0, found.size * found.times, found.size)
        if found.is_write:
            for at in pieces:
                value = int.from_bytes(found.data[at : at + found.size], "little")
                bus.port_out(found.port, found.size, value)
        else:
            mask = (1 << 8 * found.size) - 1
            got = [bus.port_in(found.port, found.size) & mask for _ in pieces]
            self.complete(b"".join(value.to_bytes(found.size, "little") for value in got))

    def _decode(self, reason: int) -> Exit | None:
        """An exit that is none of the frequent ones; None: it has been dealt with."""
        view = self._view
        match reason:
            case 5:
                return _HALT
            case 8:
                return Shutdown(ShutdownKind.TRIPLE_FAULT)
            case 7:
                view[0] = 0
                return _WINDOW
            case 31:
                self._vm.harvest()
                return None
            case 4:
                return self._debug_exit()
            case 29 | 30:
                _why, number, value = _MSR(view, _UNION)
                view[_UNION] = 0
                if reason == 30:
                    self._pending = _READ  # it may be refused
                    self._answer = _MSR_DATA, 0, True
                    return SysReg(SysRegSpace.MSR, number, True, value)
                self._pending = _READ
                view[_MSR_DATA : _MSR_DATA + 8] = b"\xff" * 8
                self._answer = _MSR_DATA, 8, True
                return SysReg(SysRegSpace.MSR, number, False)
            case 3:
                values = struct.unpack_from("<7Q", view, _UNION)
                self._pending = _READ
                view[_HYPERCALL_RESULT : _HYPERCALL_RESULT + 8] = b"\xff" * 8
                self._answer = _HYPERCALL_RESULT, 8, False
                return Hypercall(HypercallAbi.KVM, values[0], values[1:])
            case 24:
                kind, count = _PAIR(view, _UNION)
                code = int.from_bytes(view[40:48], "little") if count else 0
                if kind in _EVENTS:
                    return Shutdown(_EVENTS[kind], code)
            case 9:
                code = int.from_bytes(view[_UNION : _UNION + 8], "little")
                return FailEntry(code, "the processor refuses the guest's state", self._raw())
            case 17:
                code, count = _PAIR(view, _UNION)
                reason_text = _SUBERRORS.get(code, "KVM internal error")
                if code == _EMULATION and count > 2 and view[_EMULATION_FLAGS] & 1:
                    size = min(view[_EMULATION_BYTES], 15)
                    code_bytes = view[_EMULATION_BYTES + 1 : _EMULATION_BYTES + 1 + size]
                    reason_text += f": {code_bytes.hex(' ')}"
                return FailEntry(code, reason_text, self._raw())
            case 10:
                return None
        return Unknown(reason, self._raw())

    def _raw(self) -> bytes:
        return bytes(self._view[_UNION:_UNION_END])

    def _debug_exit(self) -> Exit | None:
        exception, _pad, pc, dr6, _dr7 = _DEBUG(self._view, _UNION)
        self._with_all()
        if exception == 3:
            return Debug(pc, DebugKind.INSTRUCTION)
        for index, (kind, address) in self._breakpoints.items():
            if dr6 >> index & 1:
                if kind is DebugKind.BREAKPOINT:
                    self._resume_at, self._pc_at = self._general[_RIP], address
                    self._at_breakpoint = True
                return Debug(pc, kind, address)
        return Debug(pc, DebugKind.STEP) if self._stepping else None

    def _step_over(self) -> None:
        """Go on from a breakpoint: one step without it, then with it again. The processor's resume flag would do that too, but KVM's
        own check of breakpoints, where it emulates, does not look at it."""
        at, self._resume_at = self._resume_at, None
        if self._without is None and at == self._general[_RIP]:
            index = next(
                (
                    i
                    for i, row in self._breakpoints.items()
                    if row[0] is DebugKind.BREAKPOINT and row[1] == self._pc_at
                ),
                None,
            )
            if index is not None:
                self._without = index
                self._apply_debug(without=index)
                return
        self._with_all()

    def _with_all(self) -> None:
        self._at_breakpoint = False
        if self._without is not None:
            self._without = None
            self._apply_debug()

    def _drain(self, bus: Bus | None, behind: Exit | None) -> None:
        """Coalesced writes, of all vCPUs, to the bus or into the queue. ``behind`` comes after them; None: what KVM_RUN says."""
        rows = deque[Mmio | PortIo]()
        for address, length, is_port, data in self._vm.coalesced(self):
            value = data[:length]
            if is_port:
                rows.append(PortIo(address, length, True, 1, value))
            else:
                rows.append(Mmio(address, length, True, int.from_bytes(value, "little")))
        try:
            while bus is not None and rows:
                self._dispatch(rows.popleft(), bus)
        except BaseException:
            # The device's exception passes through `run`; the next one goes on here.
            after = behind if behind is not None else self._accessed(self._words[2])
            self._queue.extend((*rows, after) if after is not None else rows)
            raise
        self._queue.extend(rows)

    def complete(self, value: int | bytes = 0, *, fault: bool = False) -> None:
        answer = self._answer
        if answer is None or self._pending != _READ or self._queue:
            raise UsageError("the last exit takes no answer")
        offset, length, refusable = answer
        if fault and not refusable:
            raise UsageError("only an access to a system register can be refused")
        if isinstance(value, int):
            # PERF: most answers are one element; a repeated one gets the same value each time only as bytes.
            value = (value & ((1 << 8 * length) - 1)).to_bytes(length, "little")
        elif len(value) != length:
            raise UsageError(f"the exit takes {length} bytes, not {len(value)}")
        self._view[offset : offset + length] = value
        if fault:
            self._view[_UNION] = 1
        self._answer, self._pending = None, _ANSWERED

    def _settle(self) -> None:
        """Let KVM finish the instruction of the last exit, without running another one."""
        enter, fd, view, words, _quads, cache, *_ = self._parts
        if self._pending == _NONE:
            return
        cache.clear()
        view[_IMMEDIATE_EXIT] = 1
        number = 0
        try:
            enter(fd, _RUN)
        except OSError as error:
            number = error.errno or 0
        finally:
            view[_IMMEDIATE_EXIT] = 0
            if self._kicked:
                view[_IMMEDIATE_EXIT] = 1
        self._pending, self._answer = _NONE, None
        if number not in (0, errno.EINTR, errno.EAGAIN):
            raise failure("KVM_RUN", number, f"vCPU {self.index}")
        if not number:
            # The instruction goes on (a wide or repeated access); `run` returns this one next.
            found = self._accessed(words[2])
            if found is not None:
                self._queue.append(found)

    def _accessed(self, reason: int) -> Exit | None:
        view = self._view
        if reason == 2:
            direction, size, port, times, offset = _IO(view, _UNION)
            length = size * times
            if direction:
                self._pending = _WRITE
                return PortIo(port, size, True, times, bytes(view[offset : offset + length]))
            self._pending, self._answer = _READ, (offset, length, False)
            view[offset : offset + length] = _UNANSWERED[:length]
            return PortIo(port, size, False, times)
        if reason == 6:
            address, value, size, is_write = _MMIO(view, _UNION)
            if is_write:
                self._pending = _WRITE
                return Mmio(address, size, True, value & _MASK[size])
            self._pending, self._answer = _READ, (_MMIO_DATA, size, False)
            self._quads[_MMIO_QUAD] = _ONES
            return Mmio(address, size, False)
        return self._decode(reason)

    def kick(self) -> None:
        self._kicked = True
        try:
            self._view[_IMMEDIATE_EXIT] = 1
        except ValueError:
            _closed()
        if thread := self._thread:
            kick.send(thread)

    # -- registers -----------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> int:
        index = _GENERAL.get(name)
        if index is not None:
            if self._pending == _ANSWERED or (index == _RIP and self._pending == _WRITE):
                self._settle()
            try:
                return self._general[index]
            except ValueError:
                _closed()
        place = PLACES.get(name)
        if place is not None:
            self._check_name(name)
            return place.get(self._structure(place.structure))
        number = msr_number(name)
        self._check_open()
        if self._pending == _ANSWERED:
            self._settle()
        return self._structures.msrs([number])[number]

    def __setitem__(self, name: str, value: int) -> None:
        index = _GENERAL.get(name)
        if index is None:
            self.set_registers({name: value})
            return
        if self._pending:
            self._change(pc=index == _RIP)
        try:
            self._general[index] = value
        except (ValueError, TypeError) as error:
            self._check_open()
            raise ValueError(f"{name} has 64 bits: {value!r}") from error
        self._words[_DIRTY] |= _SYNC_GENERAL

    def _change(self, *, pc: bool) -> None:
        """Registers are about to be set, and the pc if ``pc``."""
        if self._pending == _ANSWERED or pc:
            self._settle()
        if self._pending == _READ and self._answer is not None and not pc:
            raise waiting()

    def registers(self, names: Iterable[str] | None = None) -> dict[str, int]:
        if names is None:
            names = [*GENERAL, *(name for name in PLACES if not name.startswith("ymmh") or self._vm.has_ymm)]
        return {name: self[name] for name in names}

    def set_registers(self, values: Mapping[str, int]) -> None:
        self._check_open()
        general: dict[str, int] = {}
        groups: dict[str, list[str]] = {}
        msrs: dict[int, int] = {}
        for name, value in values.items():
            if name in _GENERAL:
                general[name], bits = value, 64
            elif (place := PLACES.get(name)) is not None:
                self._check_name(name)
                groups.setdefault(place.structure, []).append(name)
                bits = place.bits
            else:
                msrs[msr_number(name)], bits = value, 64
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} has {bits} bits: {value!r}")
        if self._pending:
            self._change(pc="rip" in general)
        for structure, some in groups.items():
            found = self._structure(structure)
            for name in some:
                PLACES[name].put(found, values[name])
            self._structures.put(structure)
        if msrs:
            self._structures.set_msrs(msrs)
        for name, value in general.items():
            self[name] = value

    def _check_name(self, name: str) -> None:
        if name.startswith("ymmh") and not self._vm.has_ymm:
            raise KeyError(f"{name}: this CPU has no AVX")

    def _structure(self, name: str) -> Any:
        self._check_open()
        if self._pending == _ANSWERED:
            self._settle()
        return self._structures.get(name)

    def _load(self) -> None:
        # SAFETY: kvm_regs has the length of these bytes of the shared page.
        pointer = ffi.cast("struct kvm_regs *", ffi.cast("uint8_t *", self._pointer) + _REGISTERS)
        call(self._kernel, self._fd, "KVM_GET_REGS", pointer)

    def _push(self) -> None:
        """Give changed general registers to KVM now, for calls that look at them."""
        if self._words[_DIRTY] & _SYNC_GENERAL:
            pointer = ffi.cast("struct kvm_regs *", ffi.cast("uint8_t *", self._pointer) + _REGISTERS)
            call(self._kernel, self._fd, "KVM_SET_REGS", pointer)
            self._words[_DIRTY] &= ~_SYNC_GENERAL

    def _check_open(self) -> None:
        if self._fd < 0:
            _closed()

    # -- state ---------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        self._check_open()
        self._settle()
        structures = self._structures
        state: State = {
            "format": _FORMAT,
            "registers": {name: self._general[index] for name, index in _GENERAL.items()},
            "sregs": structures.raw("sregs"),
            "xcrs": structures.raw("xcrs") if self._vm.has_xcrs else None,
            "xsave": structures.raw("xsave"),
            "debugregs": structures.raw("debugregs"),
            "lapic": structures.raw("lapic") if self._vm.config.irqchip else None,
            "msrs": [list(row) for row in structures.readable_msrs(self._vm.msr_numbers()).items()],
            "events": structures.raw("vcpu_events"),
            "mp_state": structures.raw("mp_state"),
        }
        structures.forget()
        return state

    def restore(self, state: State) -> None:
        self._check_open()
        if state.get("format") != _FORMAT:
            raise UsageError(f"not a saved vCPU of KVM on x86-64: {state.get('format')!r}")
        self._queue.clear()
        if self._pending:
            self._settle()
            self._queue.clear()
            self._pending = _NONE
        structures = self._structures
        structures.forget()
        structures.set_raw("sregs", state["sregs"])
        if state["xcrs"] is not None:
            structures.set_raw("xcrs", state["xcrs"])
        structures.set_raw("xsave", state["xsave"])
        structures.set_raw("debugregs", state["debugregs"])
        if state["lapic"] is not None:
            structures.set_raw("lapic", state["lapic"])
        structures.restore_msrs(dict(state["msrs"]))
        for name, index in _GENERAL.items():
            self._general[index] = state["registers"][name]
        self._words[_DIRTY] |= _SYNC_GENERAL
        self._push()
        # Last: setting registers drops pending exceptions.
        structures.set_raw("vcpu_events", state["events"])
        structures.set_raw("mp_state", state["mp_state"])
        structures.forget()
        self._resume_at = None

    # -- debugging, interrupts -----------------------------------------------------------------------------------------

    def debug(
        self,
        *,
        step: bool = False,
        breakpoints: Iterable[int] = (),
        watchpoints: Iterable[tuple[int, int, bool]] = (),
        trap_break: bool = False,
    ) -> None:
        self._check_open()
        wanted = [(DebugKind.BREAKPOINT, address, 1, 0) for address in breakpoints]
        for address, size, writes_only in watchpoints:
            if size not in _WATCH_LENGTH or address % size:
                raise UsageError(f"a watchpoint of {size} bytes at {address:#x}: 1, 2, 4 or 8, aligned")
            wanted.append((DebugKind.WATCHPOINT, address, size, 1 if writes_only else 3))
        if len(wanted) > 4:
            raise UsageError(f"{len(wanted)} breakpoints and watchpoints; the CPU has registers for 4")
        if self._pending == _WRITE:
            self._settle()
        self._stepping = step
        self._debug_control = (
            (_ENABLE if step or wanted or trap_break else 0)
            | (_STEP if step else 0)
            | (_SOFTWARE if trap_break else 0)
            | (_HARDWARE if wanted else 0)
        )
        self._debugged = [
            (address & _ONES, 2 << 2 * i | how << 16 + 4 * i | _WATCH_LENGTH[size] << 18 + 4 * i, i)
            for i, (_kind, address, size, how) in enumerate(wanted)
        ]
        self._breakpoints = {i: (row[0], row[1]) for i, row in enumerate(wanted)}
        self._without, self._at_breakpoint = None, False
        self._apply_debug()

    def _apply_debug(self, *, without: int | None = None) -> None:
        """Tell KVM; ``without`` one breakpoint, for one step."""
        self._push()
        new = ffi.new("struct kvm_guest_debug *")
        new.control = self._debug_control | (_STEP if without is not None else 0)
        control = 1 << 10
        for address, bits, index in self._debugged:
            if index != without:
                new.arch.debugreg[index] = address
                control |= bits
        new.arch.debugreg[7] = control
        call(self._kernel, self._fd, "KVM_SET_GUEST_DEBUG", new)
        self._structures.forget()

    def interrupt(self, vector: int) -> None:
        self._check_open()
        if not 0 <= vector < 256:
            raise UsageError(f"interrupt vector {vector}")
        if self._vm.config.irqchip:
            raise UsageError(
                "this VM has an interrupt controller inside KVM", hint="use KvmVm.set_irq or KvmVm.msi"
            )
        # What KVM said last holds unless the caller has changed the flags since.
        said = not self._words[_DIRTY] & _SYNC_GENERAL
        if not self["rflags"] & _IF or (said and not self._view[_READY]):
            raise UsageError("the guest cannot take an interrupt now", hint="request_irq_window, then run")
        argument = ffi.new("struct kvm_interrupt *", {"irq": vector})
        call(self._kernel, self._fd, "KVM_INTERRUPT", argument)
        self._view[_READY] = 0
        self._structures.forget()

    def request_irq_window(self) -> None:
        self._check_open()
        self._view[0] = 1

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        self._check_open()
        call(self._kernel, self._fd, "KVM_NMI")

    def translate(self, address: int) -> int | None:
        """Guest-virtual to guest-physical by the guest's own page tables; None if they have nothing there."""
        self._check_open()
        argument = ffi.new("struct kvm_translation *", {"linear_address": address})
        call(self._kernel, self._fd, "KVM_TRANSLATE", argument)
        return int(argument.physical_address) if argument.valid else None

    def shared_registers(self, system: bytes | None = None) -> tuple[memoryview, memoryview, memoryview]:
        """The general registers in the order of kvm_regs, as words, and all of kvm_run, as bytes and as words, for an owner that moves both itself: from now
        on KVM also leaves the system registers there after each exit, at :data:`SYSTEM_AT`, and takes both before each
        entry for which ``DIRTY`` says so. ``system``: what the owner will give KVM with the first entry.

        Not to be mixed with registers by name once the vCPU has run.
        """
        self._check_open()
        self._structures.forget()
        self._view[SYSTEM_AT:SYSTEM_END] = self._structures.raw("sregs") if system is None else system
        self._words[_VALID] = _SYNC_GENERAL | _SYNC_SYSTEM
        return self._general, self._view, self._quads

    def take_debug_status(self) -> int:
        """DR6, of which the processor itself never takes away what an exception has left; here it is taken away."""
        self._check_open()
        self._structures.forget()
        registers = self._structures.get("debugregs")
        found = int(registers.dr6)
        if found & _DEBUGGED:
            registers.dr6 = found & ~_DEBUGGED
            self._structures.put("debugregs")
        self._structures.forget()
        return found

    def drop_io(self) -> None:
        """Forget the port access that ``run`` has returned: KVM would finish it at the next entry, over whatever registers it gets
        there. Those in the shared page are lost."""
        for _ in range(8):
            if self._pending == _NONE:
                return
            self._general[_RCX] = 1  # a repeated one ends with this element
            self._words[_DIRTY] |= _SYNC_GENERAL
            self._settle()
            self._queue.clear()
        raise HypervisorError("a port access does not end", call="KVM_RUN")

    def xsave(self, area: bytes | None = None) -> bytes:
        """The XSAVE area, or with ``area`` replace it."""
        self._check_open()
        self._structures.forget()
        if area is not None:
            self._structures.set_raw("xsave", area)
            return area
        return self._structures.raw("xsave")

    def xsave_setter(self, area: bytes) -> Callable[[], None]:
        """A function that does ``xsave(area)``.

        PERF: the buffer is made once; the call is one ioctl.
        """
        self._check_open()
        words = ffi.new("uint8_t[]", max(self._vm.xsave_bytes, len(area)))
        ffi.memmove(words, area, len(area))
        ioctl, fd, number = self._kernel.ioctl, self._fd, request("KVM_SET_XSAVE")

        def put() -> None:
            # SAFETY: `words` has as many bytes as KVM said that it reads, and lives as long as this function.
            if ioctl(fd, number, words) < 0:
                raise failure("KVM_SET_XSAVE", self._kernel.errno(), f"vCPU {self.index}")

        return put

    def forked(self) -> None:
        """In the child of a fork: the thread that was in ``run`` is the parent's."""
        self._thread = 0

    def dirty_ring(self) -> Any:
        """The ring of written pages that KVM fills for this vCPU; None without one."""
        return self._ring

    def page(self, number: int) -> memoryview:
        """One of the pages that are shared with KVM."""
        self._check_open()
        return self._view[number * PAGE : (number + 1) * PAGE]

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._fd < 0:
            return
        if self._thread:
            raise UsageError("this vCPU is running", hint="kick it, and wait until run has returned")
        fd, self._fd = self._fd, -1
        self._queue.clear()
        self._parts = (_closed, fd, None, None, None, {}, (), None, self._queue)
        self._structures.forget()
        for view in (self._general, self._halves, self._quads, self._words, self._view):
            view.release()
        self._vm.forget_vcpu(self)
        if self._ring is not None:
            self._kernel.munmap(self._ring, self._vm.ring_bytes)
            self._ring = None
        self._kernel.munmap(self._pointer, self._size)
        self._kernel.close(fd)
