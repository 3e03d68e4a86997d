"""One vCPU under KVM for one of a program's threads, and the way of its registers there and back.

On the way in all registers come from the thread's :class:`~vm_core.state.CpuState`; on the way out they go there. Vector registers
stay in KVM, as :class:`~vm_core.state.Outside`.
"""

from __future__ import annotations

import errno
import struct
import weakref
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from vm_accel.errors import HypervisorError
from vm_accel.exits import FailEntry, Halt, PortIo, Shutdown
from vm_accel.exits import Interrupted as Kicked
from vm_accel.kvm.vcpu import DIRTY, SYSTEM_AT, SYSTEM_END, KvmVcpu
from vm_accel.user.space import CODE3, DATA3, ENTRY, HANDLERS, RETURN, Space
from vm_core.engine import Breakpoint, Cause, Exit, Interrupted, Syscall, Trap
from vm_core.memory import PAGE, Access, MemoryFault
from vm_core.state import CpuState, Outside

if TYPE_CHECKING:
    from vm_accel.kvm.vm import KvmVm
    from vm_accel.user.engine import KvmEngine

__all__ = ["Chair", "Saved", "Seat"]

_CS, _FS, _GS, _SS = (SYSTEM_AT + 24 * i for i in (0, 3, 4, 5))
_CR2: Final = SYSTEM_AT + 8 * 24 + 2 * 16 + 8
_SEGMENT: Final = struct.Struct("<QIHBBBBBBBBBx")
"""kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable."""
_USER_CODE: Final = _SEGMENT.pack(0, 0xFFFF_FFFF, CODE3, 11, 1, 3, 0, 1, 1, 1, 0, 0)
_USER_DATA: Final = _SEGMENT.pack(0, 0xFFFF_FFFF, DATA3, 3, 1, 3, 1, 1, 0, 1, 0, 0)
_SELECTOR: Final = _CS + 12

_RFLAGS, _RIP, _RCX, _R11 = 17, 16, 2, 11
_KEPT: Final = 1 << 8 | 1 << 14 | 1 << 16 | 1 << 18 | 1 << 21
"""Flags that the state has no registers for: TF, NT, RF, AC, ID."""
_TF: Final = 1 << 8
_FIXED: Final = 0x202
_TRACE, _KERNEL = 2, 0x80
"""si_code TRAP_TRACE and SI_KERNEL."""
_FLOATS: Final = ((1, 7), (4, 3), (8, 4), (0x12, 5), (0x20, 6))
"""Exceptions (invalid, zero, overflow, underflow and denormal, precision) and their si_code, in Linux's order."""
_BITS: Final = (0, 2, 4, 6, 7, 11, 10)
"""CF PF AF ZF SF OF DF: the order of the state's file."""
_SHOWN: Final = sum(1 << bit for bit in _BITS)


class _Flags(dict[int, tuple[int, ...]]):
    """The state's flags by RFLAGS, as far as they have been seen."""

    def __missing__(self, flags: int) -> tuple[int, ...]:
        found = self[flags] = tuple(flags >> bit & 1 for bit in _BITS)
        return found


_FLAGS: Final = _Flags()
_ENCODINGS: Final = (0, 3, 1, 2, 6, 7, 4, 5, *range(8, 16))
"""The numbers that instructions have for the registers, in the order of kvm_regs."""
_ENCODED: Final = itemgetter(*(_ENCODINGS.index(number) for number in range(16)))
_GENERAL_AT: Final = SYSTEM_AT - 18 * 8
_PUT_GENERAL: Final = struct.Struct("<18Q").pack_into
_PUT16: Final = struct.Struct("<16Q").pack_into
_PUT_FLAGS: Final = struct.Struct(f"<{len(_BITS)}Q").pack_into

_DEBUG, _BREAKPOINT, _OPCODE, _PROTECTION, _PAGE, _X87, _ALIGNMENT, _SIMD = 1, 3, 6, 13, 14, 16, 17, 19
_CAUSES: Final = {
    0: Cause.DIVIDE, _X87: Cause.DIVIDE, _SIMD: Cause.DIVIDE, _DEBUG: Cause.BREAKPOINT, _BREAKPOINT: Cause.BREAKPOINT,
    _OPCODE: Cause.ILLEGAL, _ALIGNMENT: Cause.MISALIGNED,
    # Overflow, bounds, task state, segment, stack.
    **dict.fromkeys((4, 5, 10, 11, 12, _PROTECTION), Cause.REFUSED),
}  # fmt: skip
"""Of the vectors but the page fault's."""
_WITH_ERROR: Final = (10, 11, 12, _PROTECTION, _ALIGNMENT)
_STEPPED: Final = 1 << 14
"""BS of DR6 (SDM volume 3, 18.2.3)."""
_INT, _INT1 = 0xCD, 0xF1
_TASK_SIZE: Final = (1 << 47) - PAGE
"""Linux says of addresses from here on that they are protected, not whether they are mapped."""
_VSYSCALLS: Final = 0xFFFF_FFFF_FF60_0000
_VSYSCALL: Final = {0x000: (96, (16, 8)), 0x400: (201, (8, 0)), 0x800: (309, (4, 4))}
"""By the offset of the function: number of the system call, and bytes that it writes at rdi and rsi (gettimeofday, time, getcpu)."""
_PATIENCE: Final = 1000
"""How often in a row the same address may fault although its page allows the access: somebody else's change may be on its way."""

_DEFAULT: Final = struct.pack("<HH20xII", 0x37F, 0, 0x1F80, 0xFFFF).ljust(512, b"\0") + struct.pack("<Q", 3)


class Saved:
    """The vector registers of a thread that has no vCPU yet, or of one that stayed behind in a fork's parent."""

    def __init__(self, area: bytes, flags: int = 0) -> None:
        self.area, self.flags = area, flags

    def save(self) -> bytes:
        return self.area

    def load(self, area: bytes) -> None:
        self.area = area

    def copy(self) -> Outside:
        return Saved(self.area, self.flags)

    def kick(self) -> None:
        """It does not run."""


class _Cut:
    """In an exit's place: a mapped file has become shorter."""


class Chair:
    """A vCPU that threads use one after the other: KVM takes none back before the whole machine goes."""

    empty: bytes
    system: bytes
    """As kvm_sregs."""
    msrs: dict[str, int]

    def __init__(
        self,
        vm: KvmVm,
        space: Space,
        vcpu: KvmVcpu,
        *,
        features: int,
        area_bytes: int,
        enable: bool,
        like: Chair | None = None,
    ) -> None:
        """``features``: the components of XCR0; ``enable``: ring 0 has to turn them on. ``like``: a vCPU of the same number in another
        machine, whose :class:`Space` is a copy: system registers are the same then."""
        self.vm, self.space, self.vcpu = vm, space, vcpu
        self.features, self.area_bytes = features, area_bytes
        if like is not None:
            self.empty, self.system, self.msrs = like.empty, like.system, like.msrs
            vcpu.set_registers(self.msrs)
            self.general, self.view, self.quads = vcpu.shared_registers(self.system)
            # PERF: as the program's segments seem to be missing, the first run gives KVM all of them with its own call.
            self.view[_SELECTOR : _SELECTOR + 2] = bytes(2)
            return
        values = space.vcpu(vcpu.index)
        if enable:
            values["cr4"] |= 1 << 18  # OSXSAVE
        vcpu.set_registers(values)
        self.msrs = {name: value for name, value in values.items() if name.startswith("msr.")}
        if enable:
            vcpu.set_registers({"xcr0": features})
            self.msrs["xcr0"] = features
        self.empty = vcpu.xsave()
        self.general, self.view, self.quads = vcpu.shared_registers()
        self.system = bytes(self.view[SYSTEM_AT:SYSTEM_END])

    def save(self) -> bytes:
        return self.vcpu.xsave()[: self.area_bytes]

    def load(self, area: bytes) -> None:
        """As XRSTOR, but nothing that would fault: components that there are not, reserved bits."""
        image = bytearray(self.empty)
        keep = min(len(area), len(image))
        image[:keep] = area[:keep]
        mask = int.from_bytes(self.empty[28:32], "little") or 0xFFBF
        image[24:28] = (int.from_bytes(image[24:28], "little") & mask).to_bytes(4, "little")
        image[464:512] = bytes(48)
        components = int.from_bytes(image[512:520], "little") & self.features
        image[512:576] = struct.pack("<Q56x", components)
        self.vcpu.xsave(bytes(image))


def _float_code(area: bytes, *, x87: bool) -> int:
    """si_code of SIGFPE for the exceptions that are not masked in an XSAVE area (Linux: fpu__exception_code)."""
    control, status = struct.unpack_from("<HH", area)
    (mxcsr,) = struct.unpack_from("<I", area, 24)
    raised = status & ~control if x87 else mxcsr & ~(mxcsr >> 7)
    return next((code for bits, code in _FLOATS if raised & bits), 0)


def _left(engine: weakref.ref[KvmEngine], chair: Chair) -> None:
    if (there := engine()) is not None:
        there.leave(chair)


class Seat:
    """A thread's place: ``run`` goes on from its registers until there is an exit for vm."""

    def __init__(self, engine: KvmEngine, chair: Chair, cpu: CpuState) -> None:
        self.engine = engine
        self.move(chair)
        layout = cpu.layout
        self._r = r = layout.offset("r", 0) // 8
        self._flags = layout.offset("flags", 0)
        self._seg = seg = layout.offset("seg", 0) // 8
        at = [r + number for number in _ENCODINGS] + [0, seg, seg + 1]
        at += range(self._flags // 8, self._flags // 8 + len(_BITS))
        self._gather: itemgetter[int] = itemgetter(*at)
        """The words of the state in KVM's order: general registers, pc, bases, flags."""
        self.flags = cpu.outside.flags if cpu.outside is not None else 0
        self._repeated = (0, 0)

    def move(self, chair: Chair) -> None:
        """Go on with another vCPU: in a fork's child, where the one of before is the parent's."""
        self.chair, self.vcpu = chair, chair.vcpu
        # What waits for the seat's end must hold neither it nor the engine, which has all that belongs to a guest.
        weakref.finalize(self, _left, weakref.ref(self.engine), chair).atexit = False

    # -- vector registers ----------------------------------------------------------------------------------------------

    def save(self) -> bytes:
        return self.chair.save()

    def load(self, area: bytes) -> None:
        self.chair.load(area)

    def copy(self) -> Outside:
        return Saved(self.chair.save(), self.flags)

    def kick(self) -> None:
        self.vcpu.kick()

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, words: memoryview, call: Callable[[], bool] | None) -> Exit:
        chair = self.chair
        run, g, view, quads = chair.vcpu.run, chair.general, chair.view, chair.quads
        gather, r = self._gather, 8 * self._r
        while True:
            # PERF: each system call comes by here, so that registers move by a few calls into C; benchmarks/accel_user.py has what
            # that costs beside KVM.
            *moved, fs, gs, cf, pf, af, zf, sf, of, df = gather(words)
            flags = cf | pf << 2 | af << 4 | zf << 6 | sf << 7 | df << 10 | of << 11 | _FIXED | self.flags
            _PUT_GENERAL(view, _GENERAL_AT, *moved, flags)
            what = 1
            if quads[_FS // 8] != fs or quads[_GS // 8] != gs:
                quads[_FS // 8], quads[_GS // 8] = fs, gs
                what = 3
            if quads[_CS // 8 + 1] >> 32 & 0xFFFF != CODE3:
                view[_CS : _CS + 24], view[_SS : _SS + 24] = _USER_CODE, _USER_DATA
                what = 3
            view[DIRTY] = what
            exit_: object
            try:
                exit_ = run()
            except HypervisorError as error:
                exit_ = self._failed(error)
            _PUT16(words, r, *_ENCODED(g))
            kind = type(exit_)
            if kind is PortIo and g[_RIP] - ENTRY in (0, 2):
                self._take(words, g[_RCX], g[_R11])
                if call is None:
                    return Syscall()
                if call():
                    return Interrupted()
                if self.chair is not chair:  # it was fork, and this is the child
                    chair = self.chair
                    run, g, view, quads = chair.vcpu.run, chair.general, chair.view, chair.quads
                continue
            found = self._other_exit(words, exit_)
            if type(found) is Syscall and call is not None:
                if call():
                    return Interrupted()
            elif found is not None:
                return found

    def _take(self, words: memoryview, rip: int, flags: int) -> None:
        words[0] = rip
        _PUT_FLAGS(words, self._flags, *_FLAGS[flags & _SHOWN])
        self.flags = flags & _KEPT

    def _other_exit(self, words: memoryview, exit_: object) -> Exit | None:
        """An exit that is no system call. None: the thread goes on where it was."""
        g, view = self.chair.general, self.chair.view
        seg = self._seg
        words[seg] = int.from_bytes(view[_FS : _FS + 8], "little")
        words[seg + 1] = int.from_bytes(view[_GS : _GS + 8], "little")
        rip = g[_RIP]
        if isinstance(exit_, Halt):
            vector = (rip - HANDLERS - 1) // 2
            if 0 <= vector < 32:
                error, at, _cs, flags, stack = self.chair.space.frame(self.vcpu.index)
                words[self._r + 4] = stack
                self._take(words, at, flags)
                return self._trap(words, vector, error)
        elif isinstance(exit_, Kicked):
            self._take(words, rip, g[_RFLAGS])
            return Interrupted()
        elif isinstance(exit_, _Cut):
            self._take(words, rip, g[_RFLAGS])
            return None
        elif isinstance(exit_, PortIo):
            self._take(words, rip, g[_RFLAGS])
            if rip - RETURN in (0, 2):
                words[0] = RETURN + 2
                return Breakpoint(RETURN)
            # The program's own access to our port: not for it, as all others are not.
            self.vcpu.drop_io()
            return Trap(Cause.REFUSED, rip, rip)
        what = "a triple fault" if isinstance(exit_, Shutdown) else repr(exit_)
        if isinstance(exit_, FailEntry):
            what = f"{exit_.reason} ({exit_.code})"
        raise HypervisorError(f"the vCPU stopped at {rip:#x}: {what}", call="KVM_RUN")

    def _failed(self, error: HypervisorError) -> _Cut:
        """KVM_RUN failed: the program touched a page that the host has not, which the page tables do not allow then; or it raises."""
        if error.status == errno.EFAULT and self.engine.memory.find_gone():
            return _Cut()
        raise error

    def _trap(self, words: memoryview, vector: int, error: int) -> Exit | None:
        pc = words[0]
        if vector == _PAGE:
            return self._fault(words, error)
        if vector == _OPCODE and (number := self._software_interrupt(pc)) is not None:
            vector, error = _PROTECTION, number << 3 | 2
        if (cause := _CAUSES.get(vector)) is None:
            raise HypervisorError(f"exception {vector} at {pc:#x}, error code {error:#x}", call="KVM_RUN")
        address, code = pc, 0
        if vector in (_X87, _SIMD):
            code = _float_code(self.save(), x87=vector == _X87)
        elif vector == _DEBUG:
            code = _TRACE if self._stepped(pc) else 0
        elif vector == _BREAKPOINT:
            # The pc is behind it, as Linux leaves it.
            pc, address, code = pc - 1, pc - 1, _KERNEL
        elif vector == _ALIGNMENT:
            address = 0
        return Trap(cause, pc, address, vector=vector, code=code, error=error if vector in _WITH_ERROR else 0)

    def _software_interrupt(self, pc: int) -> int | None:
        """The number of an INT at ``pc``. KVM's paravirtual flavour calls one that is not for programs an invalid opcode."""
        try:
            opcode, number = self.engine.memory.fetch(pc, 2)
        except (MemoryFault, ValueError):
            return None
        return number if opcode == _INT else None

    def _stepped(self, pc: int) -> bool:
        """Whether a debug exception is a step's, not INT1's: TF may be off again behind the instruction that was stepped."""
        if self.vcpu.take_debug_status() & _STEPPED:
            return True
        # HOST: AMD's KVM keeps DR6 to itself while no breakpoint is set.
        try:
            return bool(self.flags & _TF) and self.engine.memory.fetch(pc - 1, 1)[0] != _INT1
        except MemoryFault:
            return True

    def _vsyscall(self, words: memoryview, offset: int) -> Exit:
        """A call of the page that old C libraries call: as Linux (emulate_vsyscall), where nobody can read it."""
        pc, r, memory = words[0], self._r, self.engine.memory
        number, sizes = _VSYSCALL.get(offset, (-1, ()))
        try:
            caller = memory.load(words[r + 4], 8)
            for register, size in zip((7, 6), sizes, strict=False):
                if size and words[r + register]:
                    memory.check(words[r + register], size, Access.WRITE)
        except MemoryFault:
            number = -1
        if number < 0:
            return Trap(Cause.REFUSED, pc, pc)
        words[0], words[r + 4], words[r] = caller, words[r + 4] + 8, number
        return Syscall()

    def _fault(self, words: memoryview, error: int) -> Exit | None:
        pc = words[0]
        view = self.chair.view
        address = int.from_bytes(view[_CR2 : _CR2 + 8], "little")
        memory = self.engine.memory
        # Error code (SDM volume 3, 4.7): bit 1 a write, bit 4 a fetch.
        access = Access.EXEC if error & 16 else Access.WRITE if error & 2 else Access.READ
        cause = {Access.EXEC: Cause.FETCH, Access.WRITE: Cause.STORE, Access.READ: Cause.LOAD}[access]
        inside = 0 <= address < memory.size
        byte = memory.table[address >> 12] if inside else 0
        allowed = byte & access.value or (access is Access.READ and byte & 7)
        if not allowed and access is Access.EXEC and address & -PAGE == _VSYSCALLS:
            return self._vsyscall(words, address - _VSYSCALLS)
        if not allowed:
            mapped = bool(byte & 0x80)
            said = error & (2 | 16) | 4 | (mapped or address >= _TASK_SIZE)
            return Trap(cause, pc, address, access, mapped, vector=_PAGE, error=said)
        # Another thread changed the page meanwhile, or the processor had an older entry of the page table.
        count = self._repeated[1] + 1 if self._repeated[0] == address else 1
        self._repeated = (address, count)
        if count > _PATIENCE:
            raise HypervisorError(
                f"the page of {address:#x} faults although it allows the access (error code {error:#x})",
                call="KVM_RUN",
            )
        return None
