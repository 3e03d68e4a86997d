"""A vCPU of the Windows Hypervisor Platform.

WHPX leaves the instruction pointer on the instruction that touched a device, says neither its operands nor its result, and
takes registers only by name. So an access is finished here: registers are cached from exit to entry, an instruction changes the
cache, and one call hands back what has changed before the guest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vm_accel.closing import Closing
from vm_accel.completion import (
    X86_NAMES,
    Fault,
    Steps,
    Undecided,
    VcpuGuest,
    by_text,
    finished,
    port_string,
    x86_move,
)
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
    PortIo,
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
    Unknown,
)
from vm_accel.interface import Bus, State
from vm_accel.pending import ONES, Ending, Observer, Pending
from vm_accel.whpx import abi
from vm_accel.whpx.abi import ExitReason, Register
from vm_accel.whpx.registers import ACCESS_UNUSABLE, FIXED, MSRS, SAVED, Part, part_of
from vm_accel.x86_access import Kind, Move, decode
from vm_core.errors import UsageError

if TYPE_CHECKING:
    from vm_accel.whpx.platform import WhpxVm

__all__ = ["FORMAT", "WhpxVcpu"]

FORMAT: Final = "whpx-vcpu/1"
_TF, _IF, _RF = 1 << 8, 1 << 9, 1 << 16
_DB, _BP, _GP, _PF = 1, 3, 13, 14
_GENERAL: Final = tuple(Register(i) for i in range(16))
_FLAG_BITS: Final = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "df": 10, "of": 11}


class _View(VcpuGuest):
    """:class:`vm_accel.completion.Guest` over the register cache; what is put is dropped unless it is committed."""

    __slots__ = ("changed", "vcpu")

    def __init__(self, vcpu: WhpxVcpu) -> None:
        super().__init__(vcpu)
        self.vcpu = vcpu
        self.changed: dict[str, int] = {}

    def get(self, name: str) -> int:
        value = self.changed.get(name)
        return self.vcpu._read(FIXED[name]) if value is None else value

    def put(self, name: str, value: int) -> None:
        self.changed[name] = value & ONES

    def commit(self) -> None:
        for name, value in self.changed.items():
            self.vcpu._write(FIXED[name], value)
        self.changed.clear()


class WhpxVcpu(Closing):
    """Implements :class:`vm_accel.interface.Vcpu`."""

    def __init__(self, vm: WhpxVm, index: int) -> None:
        self.vm, self.index = vm, index
        self.library = vm.library
        self._ffi = vm.library.ffi
        self._context, self._context_store = abi.aligned("WHV_RUN_VP_EXIT_CONTEXT")
        self._context_bytes = self._ffi.sizeof("WHV_RUN_VP_EXIT_CONTEXT")
        self.library.call("WHvCreateVirtualProcessor", vm.handle, index, 0)
        self._closed = False
        # PERF: the hot calls, bound once.
        self._run = self.library.lib.WHvRunVirtualProcessor
        self._cache: dict[Register, int] = {}
        self._changed: set[Register] = set()
        self._kicked = self._running = False
        self._pending = Pending()
        self._window = False
        self._step = self._trap_break = False
        self._breakpoints: tuple[int, ...] = ()
        # The address of a breakpoint that was reported: to go on, it must be passed once.
        self._passing: int | None = None
        self._watched = 0
        self._hidden_step = False

    # -- registers ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            raise HypervisorError("this vCPU is closed")

    def _load(self, registers: Iterable[Register]) -> None:
        """Bring registers into the cache."""
        wanted = [register for register in registers if register not in self._cache]
        if not wanted:
            return
        names = self._ffi.new("uint32_t[]", [int(register) for register in wanted])
        values, _store = abi.aligned("WHV_REGISTER_VALUE", len(wanted))
        # SAFETY: `values` has room for as many registers as `names` has, aligned as the platform wants.
        self.library.call(
            "WHvGetVirtualProcessorRegisters", self.vm.handle, self.index, names, len(wanted), values
        )
        for at, register in enumerate(wanted):
            value = values[at].Reg128
            self._cache[register] = int(value.Low64) | int(value.High64) << 64

    def _flush(self) -> None:
        """Hand changed registers back."""
        if not self._changed:
            return
        changed = sorted(self._changed)
        names = self._ffi.new("uint32_t[]", [int(register) for register in changed])
        values, _store = abi.aligned("WHV_REGISTER_VALUE", len(changed))
        for at, register in enumerate(changed):
            value = self._cache[register]
            values[at].Reg128.Low64, values[at].Reg128.High64 = value & ONES, value >> 64
        # SAFETY: as in _load.
        self.library.call(
            "WHvSetVirtualProcessorRegisters", self.vm.handle, self.index, names, len(changed), values
        )
        self._changed.clear()

    def _read(self, part: Part) -> int:
        self._load((part.register,))
        value = self._cache[part.register] >> part.shift & (1 << part.width) - 1
        if part.shift == 112:  # attributes of a segment
            value &= 0xFFFF
            return value if value & 1 << 7 else value | ACCESS_UNUSABLE
        if part.register is Register.Rflags and self._hidden_step:
            return value & ~_TF
        return value

    def _write(self, part: Part, value: int) -> None:
        width = part.width
        if part.shift == 112:
            value, width = (value & 0xFF7F if value & ACCESS_UNUSABLE else value & 0xFFFF), 16
        if part.shift == 0 and part.register not in _WIDE:
            self._cache[part.register] = value
        else:
            self._load((part.register,))
            mask = (1 << width) - 1 << part.shift
            self._cache[part.register] = self._cache[part.register] & ~mask | value << part.shift
        if part.register is Register.Rflags:
            self._hidden_step = False
        self._changed.add(part.register)

    def __getitem__(self, name: str) -> int:
        self._open()
        return self._read(part_of(name))

    def __setitem__(self, name: str, value: int) -> None:
        self.set_registers({name: value})

    def registers(self, names: Iterable[str] | None = None) -> dict[str, int]:
        self._open()
        parts = {name: part_of(name) for name in (FIXED if names is None else names)}
        self._load({part.register: None for part in parts.values()})
        return {name: self._read(part) for name, part in parts.items()}

    def set_registers(self, values: Mapping[str, int]) -> None:
        self._open()
        parts = {name: part_of(name) for name in values}
        for name, value in values.items():
            if not 0 <= value < 1 << parts[name].width:
                raise ValueError(f"{name} has {parts[name].width} bits, and {value:#x} does not fit")
        self._pending.registers_change(pc="rip" in values)
        for name, value in values.items():
            self._write(parts[name], value)
        # Handed over now, so that what the platform refuses is this call's error.
        if not self._pending:
            self._flush()

    # -- running --------------------------------------------------------------------------------------------------------

    def run(self, bus: Bus | None = None) -> Exit:
        self._open()
        pending = self._pending
        pending.settle()
        context = self._context
        while True:
            if pending.queue:
                return pending.queue.popleft()
            self._prepare()
            self._running = True
            if self._kicked:
                self._kicked = self._running = False
                return Interrupted()
            # SAFETY: the context has the size that is told, and lives as long as this object. Nothing is cached any more.
            status = self._run(self.vm.handle, self.index, context, self._context_bytes)
            self._running = False
            if status < 0:
                from vm_accel.whpx.platform import check

                check("WHvRunVirtualProcessor", status)
            found = self._exit(bus)
            if found is not None:
                return found

    def _prepare(self) -> None:
        """What the guest must have before it goes on."""
        if self._step or self._breakpoints:
            flags = self._read(Part(Register.Rflags))
            wanted = flags | (_TF if self._step else 0)
            if self._passing is not None and self._read(Part(Register.Rip)) == self._passing:
                wanted |= _RF
            if wanted != flags:
                self._write(Part(Register.Rflags), wanted)
                self._hidden_step = self._step and not flags & _TF
        self._passing = None
        if self._window:
            self._write(Part(Register.DeliverabilityNotifications), abi.NOTIFY_INTERRUPT)
        self._flush()
        hidden = self._hidden_step
        self._cache.clear()
        self._hidden_step = hidden

    def kick(self) -> None:
        self._open()
        self._kicked = True
        if self._running:
            # The platform remembers a cancellation that comes before the run has begun; one that comes too late
            # ends the next run, where _exit() finds that nobody has kicked.
            self.library.lib.WHvCancelRunVirtualProcessor(self.vm.handle, self.index, 0)

    def complete(self, value: int | bytes = 0, *, fault: bool = False) -> None:
        self._open()
        self._pending.complete(value, fault=fault)

    # -- exits ----------------------------------------------------------------------------------------------------------

    def _exit(self, bus: Bus | None) -> Exit | None:
        """The exit that the context describes; None to go on."""
        context = self._context
        vp = context.VpContext
        self._cache[Register.Rip] = int(vp.Rip)
        self._cache[Register.Rflags] = int(vp.Rflags)
        if self.observer is not None:
            self._load(_GENERAL)
            self.observer(self.raw_exit(), {name: self._read(FIXED[name]) for name in X86_NAMES}, b"")
        reason = context.ExitReason
        match reason:
            case ExitReason.X64IoPortAccess:
                return self._port(bus)
            case ExitReason.MemoryAccess:
                return self._memory(bus)
            case ExitReason.Canceled:
                if self._kicked:
                    self._kicked = False
                    return Interrupted()
                return None
            case ExitReason.X64Halt:
                self._behind_halt()
                return Halt()
            case ExitReason.X64MsrAccess:
                return self._msr()
            case ExitReason.X64Cpuid:
                self._cpuid()
                return None
            case ExitReason.Exception:
                return self._exception()
            case ExitReason.X64InterruptWindow:
                self._window = False
                return IrqWindow()
            case ExitReason.UnrecoverableException:
                return Shutdown(ShutdownKind.TRIPLE_FAULT)
            case ExitReason.InvalidVpRegisterValue:
                return FailEntry(reason, "a register has a value that the processor refuses", self.raw_exit())
            case ExitReason.UnsupportedFeature:
                feature = context.UnsupportedFeature
                text = "task switch" if feature.FeatureCode == 2 else "an access that is not supported"
                return FailEntry(int(feature.FeatureCode), text, self.raw_exit())
            case ExitReason.Hypercall:
                return self._hypercall()
            case ExitReason.X64ApicEoi:
                return None
        return Unknown(int(reason), self.raw_exit())

    observer: Observer | None = None
    """Told of every exit, before it is decoded, by who records them."""

    def raw_exit(self) -> bytes:
        """The last exit as the platform described it, for reports and records."""
        return bytes(self._ffi.buffer(self._context, self._context_bytes))

    def _after(self) -> int:
        """Address behind the instruction of the exit."""
        vp = self._context.VpContext
        return self._wrap(int(vp.Rip) + (int(vp.LengthAndCr8) & abi.LENGTH_MASK))

    def _wrap(self, address: int) -> int:
        """An instruction pointer in the guest's mode."""
        mode = self._mode()
        return address & (ONES if mode == 64 else 0xFFFF_FFFF if mode == 32 else 0xFFFF)

    def _mode(self) -> int:
        vp = self._context.VpContext
        if vp.ExecutionState & abi.STATE_LMA and vp.Cs.Attributes & abi.SEGMENT_LONG:
            return 64
        return 32 if vp.Cs.Attributes & abi.SEGMENT_DEFAULT else 16

    def _jump(self, address: int) -> None:
        self._write(Part(Register.Rip), address)

    def _behind_halt(self) -> None:
        """Versions of Windows differ in where RIP is after HLT: on it or behind it. The code tells."""
        rip = int(self._context.VpContext.Rip)
        base = 0 if self._mode() == 64 else int(self._context.VpContext.Cs.Base)
        here = self._code(base + rip, 1)
        if here == b"\xf4" and self._code(base + rip - 1, 1) != b"\xf4":
            self._jump(self._wrap(rip + 1))

    def _code(self, linear: int, size: int) -> bytes:
        """Up to ``size`` bytes of the guest's text, fewer where its page ends."""
        size = min(size, 0x1000 - (linear & 0xFFF))
        try:
            found = self.vm.ram(self.translate(linear & ONES, is_write=False), size, is_write=False)
        except Fault:
            return b""
        return bytes(found or b"")

    def _instruction(self, access: Any) -> bytes:
        """The bytes of the exit's instruction, as many as the platform gave, or the guest's memory has."""
        count = int(access.InstructionByteCount)
        if count:
            return bytes(self._ffi.buffer(access.InstructionBytes, 16))[:count]
        vp = self._context.VpContext
        base = 0 if self._mode() == 64 else int(vp.Cs.Base)
        linear = base + int(vp.Rip)
        code = self._code(linear, 15)
        return code + self._code(linear + len(code), 15 - len(code)) if len(code) < 15 else code

    def translate(self, address: int, *, is_write: bool) -> int:
        """Guest-virtual to guest-physical. Raises completion.Fault."""
        result = self._ffi.new("WHV_TRANSLATE_GVA_RESULT *")
        gpa = self._ffi.new("uint64_t *")
        flags = 2 if is_write else 1  # ValidateRead, ValidateWrite
        self._flush()
        self.library.call("WHvTranslateGva", self.vm.handle, self.index, address, flags, result, gpa)
        if result.ResultCode in (
            abi.TranslateResult.PageNotPresent,
            abi.TranslateResult.PrivilegeViolation,
            abi.TranslateResult.InvalidPageTableFlags,
        ):
            raise Fault(address, is_write=is_write)
        return int(gpa[0])

    def _inject(self, vector: int, error: int | None) -> None:
        """An exception, with the instruction pointer on the instruction that caused it."""
        word = abi.PENDING | abi.PENDING_EXCEPTION << abi.PENDING_TYPE_SHIFT
        word |= vector << abi.PENDING_VECTOR_SHIFT
        if error is not None:
            word |= abi.PENDING_HAS_ERROR | error << 32
        self._write(Part(Register.PendingInterruption), word)

    def _page_fault(self, fault: Fault, rip: int) -> None:
        user = int(self._context.VpContext.ExecutionState) & abi.STATE_CPL == 3
        self._jump(rip)
        self._write(Part(Register.Cr2), fault.address)
        self._inject(_PF, (2 if fault.is_write else 0) | (4 if user else 0))

    # -- memory ---------------------------------------------------------------------------------------------------------

    def _memory(self, bus: Bus | None) -> Exit | None:
        access = self._context.MemoryAccess
        address = int(access.Gpa)
        if access.AccessInfo & abi.ACCESS_TYPE == abi.ACCESS_EXECUTE:
            return FailEntry(
                int(ExitReason.MemoryAccess), f"no memory to execute at {address:#x}", self.raw_exit()
            )
        rip = int(self._context.VpContext.Rip)
        code = self._instruction(access)
        move = decode(code, self._mode())
        view = _View(self)
        if move is not None:
            after = self._wrap(rip + move.length)
            steps = x86_move(view, move, address)

            def commit() -> None:
                if finished(view, move):
                    view.put("rip", after)
                view.commit()
        elif self._mode() == 64:
            prepared = self._text(view, code)
            if prepared is None:
                return Unknown(int(ExitReason.MemoryAccess), self.raw_exit())
            steps, commit = prepared
        else:
            return Unknown(int(ExitReason.MemoryAccess), self.raw_exit())

        def undecided() -> Exit:
            self._jump(rip)
            return Unknown(int(ExitReason.MemoryAccess), self.raw_exit())

        ending = Ending(commit, lambda fault: self._page_fault(fault, rip), undecided)
        return self._pending.drive(steps, ending, bus)

    def _text(self, view: _View, code: bytes) -> tuple[Steps, Callable[[], None]] | None:
        """The exit's instruction by its text in vm_core, and what hands its results back."""
        from vm_core.isa import get
        from vm_core.state import CpuState

        isa = get("x86_64")
        cpu = CpuState(isa.layout)
        bases = (Register.Fs, Register.Gs)
        vectors = [Register(Register.Xmm0 + i) for i in range(16)]
        self._load((*_GENERAL, *vectors, *bases, Register.Rflags))
        flags = self._read(Part(Register.Rflags))
        for index, register in enumerate(_GENERAL):
            cpu.set("r", index, self._cache[register] & ONES)
            cpu.set("xmm", index, self._cache[vectors[index]])
        for index, base in enumerate(bases):
            cpu.set("seg", index, self._cache[base] & ONES)
        for name, bit in _FLAG_BITS.items():
            cpu[name] = flags >> bit & 1
        cpu.pc = int(self._context.VpContext.Rip)
        steps = by_text(isa, code, view, cpu)

        def commit() -> None:
            now = flags
            for name, bit in _FLAG_BITS.items():
                now = now & ~(1 << bit) | cpu[name] << bit
            for index, register in enumerate(_GENERAL):
                if cpu.get("r", index) != self._cache[register] & ONES:
                    self._write(Part(register), cpu.get("r", index))
                if cpu.get("xmm", index) != self._cache[vectors[index]]:
                    self._write(Part(vectors[index], 0, 128), cpu.get("xmm", index))
            if now != flags:
                self._write(Part(Register.Rflags), now)
            self._jump(cpu.pc)

        return steps, commit

    # -- ports ----------------------------------------------------------------------------------------------------------

    def _port(self, bus: Bus | None) -> Exit | None:
        access = self._context.IoPortAccess
        info = int(access.AccessInfo)
        size = info >> abi.IO_SIZE_SHIFT & abi.IO_SIZE_MASK
        if size not in (1, 2, 4):
            return Unknown(int(ExitReason.X64IoPortAccess), self.raw_exit())
        port, is_write = int(access.PortNumber), bool(info & abi.IO_IS_WRITE)
        self._cache[Register.Rax] = int(access.Rax)
        if info & abi.IO_STRING:
            self._cache[Register.Rcx] = int(access.Rcx)
            self._cache[Register.Rsi] = int(access.Rsi)
            self._cache[Register.Rdi] = int(access.Rdi)
            return self._port_string(bus, port, size, is_write)
        rax = self._cache[Register.Rax]
        mask, after = (1 << 8 * size) - 1, self._after()
        if is_write:
            self._jump(after)
            if bus is not None:
                bus.port_out(port, size, rax & mask)
                return None
            return PortIo(port, size, True, 1, (rax & mask).to_bytes(size, "little"))

        def answer(value: int | bytes, fault: bool) -> None:
            if isinstance(value, bytes):
                value = int.from_bytes(value, "little") if value else ONES
            value &= mask
            self._jump(after)
            self._write(Part(Register.Rax), value if size == 4 else rax & ~mask | value)

        if bus is not None:
            answer(ONES, False)
            answer(bus.port_in(port, size), False)
            return None
        self._pending.expect(answer, size=size)
        return PortIo(port, size, False)

    def _port_string(self, bus: Bus | None, port: int, size: int, is_write: bool) -> Exit | None:
        access = self._context.IoPortAccess
        rip = int(self._context.VpContext.Rip)
        move = decode(self._instruction(access), self._mode())
        if move is None or move.kind not in (Kind.INS, Kind.OUTS):
            return Unknown(int(ExitReason.X64IoPortAccess), self.raw_exit())
        after, view = self._wrap(rip + move.length), _View(self)
        if is_write:
            try:
                data = self._transfer(view, move, None)
            except Fault as fault:
                self._page_fault(fault, rip)
                return None
            except Undecided:
                return Unknown(int(ExitReason.X64IoPortAccess), self.raw_exit())
            if finished(view, move):
                view.put("rip", after)
            view.commit()
            if bus is None:
                return PortIo(port, size, True, len(data) // size, data) if data else None
            for at in range(0, len(data), size):
                bus.port_out(port, size, int.from_bytes(data[at : at + size], "little"))
            return None
        mask = (1 << 8 * move.address_size) - 1
        count = min(view.get("rcx") & mask, 4096 // size) if move.rep else 1
        if not count:
            self._jump(after)
            return None

        def answer(value: int | bytes, fault: bool) -> None:
            if isinstance(value, int):
                value = (value & (1 << 8 * size * count) - 1).to_bytes(size * count, "little")
            data = value[: size * count].ljust(size * count, b"\xff")
            try:
                self._transfer(view, move, data)
            except Fault as error:
                # The elements before it are in memory, and counted.
                view.commit()
                self._page_fault(error, rip)
                return
            if finished(view, move):
                view.put("rip", after)
            view.commit()

        if bus is not None:
            elements = [bus.port_in(port, size) & (1 << 8 * size) - 1 for _ in range(count)]
            answer(b"".join(one.to_bytes(size, "little") for one in elements), False)
            return None
        self._pending.expect(answer, size=size * count, several=True)
        return PortIo(port, size, False, count)

    @staticmethod
    def _transfer(view: _View, move: Move, data: bytes | None) -> bytes:
        """The memory side of a string instruction on a port. Raises Undecided if that is a device too."""
        steps = port_string(view, move, data)
        try:
            next(steps)
        except StopIteration as end:
            done: bytes = end.value
            return done
        raise Undecided

    # -- the rest -------------------------------------------------------------------------------------------------------

    def _msr(self) -> Exit:
        access = self._context.MsrAccess
        number = int(access.MsrNumber)
        is_write = bool(access.AccessInfo & abi.MSR_IS_WRITE)
        self._cache[Register.Rax], self._cache[Register.Rdx] = int(access.Rax), int(access.Rdx)
        after = self._after()

        def answer(value: int | bytes, fault: bool) -> None:
            if fault:
                self._inject(_GP, 0)
                return
            self._jump(after)
            if not is_write:
                number = value if isinstance(value, int) else int.from_bytes(value, "little")
                self._write(Part(Register.Rax), number & 0xFFFF_FFFF)
                self._write(Part(Register.Rdx), number >> 32 & 0xFFFF_FFFF)

        self._pending.expect(answer, refusable=True)
        written = (int(access.Rdx) & 0xFFFF_FFFF) << 32 | int(access.Rax) & 0xFFFF_FFFF if is_write else 0
        return SysReg(SysRegSpace.MSR, number, is_write, written)

    def _cpuid(self) -> None:
        """Not asked for by us; what the platform would have answered is in the exit."""
        access = self._context.CpuidAccess
        for register, value in (
            (Register.Rax, access.DefaultResultRax),
            (Register.Rcx, access.DefaultResultRcx),
            (Register.Rdx, access.DefaultResultRdx),
            (Register.Rbx, access.DefaultResultRbx),
        ):
            self._write(Part(register), int(value))
        self._jump(self._after())

    def _hypercall(self) -> Exit:
        call, after = self._context.Hypercall, self._after()

        def answer(value: int | bytes, fault: bool) -> None:
            number = value if isinstance(value, int) else int.from_bytes(value, "little")
            self._jump(after)
            self._write(Part(Register.Rax), number & ONES)

        self._pending.expect(answer)
        # Top-Level Functional Specification, 3.7: RCX is the call, RDX and R8 its parameters.
        return Hypercall(HypercallAbi.HYPERV, int(call.Rcx), (int(call.Rdx), int(call.R8)))

    def _exception(self) -> Exit | None:
        found = self._context.VpException
        rip = int(self._context.VpContext.Rip)
        if found.ExceptionType == _BP:
            return Debug(rip, DebugKind.INSTRUCTION)
        if found.ExceptionType != _DB:
            return Unknown(int(ExitReason.Exception), self.raw_exit())
        reasons = int(found.ExceptionParameter) | self._read(Part(Register.Dr6))
        if rip in self._breakpoints and not reasons & 1 << 14:
            self._passing = rip
            return Debug(rip, DebugKind.BREAKPOINT, rip)
        for index in range(4):
            if reasons & self._watched & 1 << index:
                return Debug(rip, DebugKind.WATCHPOINT, self._read(Part(Register[f"Dr{index}"])))
        return Debug(rip, DebugKind.STEP)

    def debug(
        self,
        *,
        step: bool = False,
        breakpoints: Iterable[int] = (),
        watchpoints: Iterable[tuple[int, int, bool]] = (),
        trap_break: bool = False,
    ) -> None:
        self._open()
        stops, watches = tuple(breakpoints), tuple(watchpoints)
        if len(stops) + len(watches) > 4:
            raise UsageError("x86 has four debug registers for breakpoints and watchpoints together")
        control, watched = 0x400, 0
        values: dict[Register, int] = {}
        # SDM volume 3, 17.2.4: L0 to L3 enable, four bits from 16 on say on what and how many bytes.
        for index, address in enumerate(stops):
            values[Register[f"Dr{index}"]] = address
            control |= 1 << 2 * index
        for index, (address, size, writes_only) in enumerate(watches, len(stops)):
            if size not in (1, 2, 4, 8) or address % size:
                raise UsageError(f"a watchpoint of {size} bytes at {address:#x}: 1, 2, 4 or 8, aligned")
            values[Register[f"Dr{index}"]] = address
            length = {1: 0, 2: 1, 4: 3, 8: 2}[size]
            control |= 1 << 2 * index | ((1 if writes_only else 3) | length << 2) << 16 + 4 * index
            watched |= 1 << index
        wanted = (1 << _DB if step or values else 0) | (1 << _BP if trap_break else 0)
        if self._hidden_step:
            self._write(Part(Register.Rflags), self._read(Part(Register.Rflags)))
        self.vm.exceptions(self.index, wanted)
        if values or self._breakpoints or self._watched:
            for register, value in {**values, Register.Dr7: control, Register.Dr6: 0xFFFF_0FF0}.items():
                self._write(Part(register), value)
        self._step, self._trap_break = step, trap_break
        self._breakpoints, self._watched = stops, watched

    def interrupt(self, vector: int) -> None:
        self._open()
        flags = self._read(Part(Register.Rflags))
        shadow = self._read(Part(Register.InterruptState)) & abi.INTERRUPT_SHADOW
        if not flags & _IF or shadow or self._read(Part(Register.PendingInterruption)) & abi.PENDING:
            raise UsageError("the guest can take no interrupt now", hint="request_irq_window() says when")
        word = (
            abi.PENDING | abi.PENDING_INTERRUPT << abi.PENDING_TYPE_SHIFT | vector << abi.PENDING_VECTOR_SHIFT
        )
        self._write(Part(Register.PendingInterruption), word)

    def request_irq_window(self) -> None:
        """A VM with local APICs of the platform's own has no use for it."""
        self._open()
        self._window = True

    # -- state ----------------------------------------------------------------------------------------------------------

    def _blob(self, name: str) -> bytes:
        size = 4096
        while True:
            buffer, written = self._ffi.new("uint8_t[]", size), self._ffi.new("uint32_t *")
            try:
                # SAFETY: the buffer has the size that is told.
                self.library.call(name, self.vm.handle, self.index, buffer, size, written)
            except HypervisorError as error:
                if error.status == abi.Status.INSUFFICIENT_BUFFER and size < 1 << 20:
                    size = max(int(written[0]), 2 * size)
                    continue
                raise
            return bytes(self._ffi.buffer(buffer, written[0]))

    def save(self) -> State:
        self._open()
        self._pending.drop()
        self._flush()
        self._load(SAVED)
        state: State = {
            "format": FORMAT,
            "registers": {register.name: self._cache[register] for register in SAVED},
        }
        if self._hidden_step:
            state["registers"]["Rflags"] &= ~_TF
        if self.vm.hypervisor.has_xsave:
            state["xsave"] = self._blob("WHvGetVirtualProcessorXsaveState")
        if self.vm.config.irqchip:
            state["apic"] = self._blob("WHvGetVirtualProcessorInterruptControllerState2")
        return state

    def restore(self, state: State) -> None:
        self._open()
        if state.get("format") != FORMAT:
            raise UsageError(f"not a vCPU state of WHPX: {state.get('format')!r}")
        try:
            registers = {Register[name]: value for name, value in state["registers"].items()}
        except KeyError as error:
            raise UsageError(f"the state names a register that WHPX has not: {error}") from error
        self._pending.clear()
        self._hidden_step = False
        for key, name in (
            ("xsave", "WHvSetVirtualProcessorXsaveState"),
            ("apic", "WHvSetVirtualProcessorInterruptControllerState2"),
        ):
            if key in state:
                data = self._ffi.from_buffer(state[key])
                # SAFETY: the bytes live, and have this size, during the call.
                self.library.call(name, self.vm.handle, self.index, data, len(state[key]))
        self._cache = dict(registers)
        self._changed = set(registers)
        self._flush()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.library.call("WHvDeleteVirtualProcessor", self.vm.handle, self.index)


_WIDE: Final = frozenset(part.register for part in FIXED.values() if part.shift or part.width != 64) | {
    register for register in MSRS.values() if register in (Register.Fs, Register.Gs)
}
"""Registers of more than 64 bits, or of several parts: a write keeps the rest."""
