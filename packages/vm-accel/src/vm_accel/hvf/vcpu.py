"""A vCPU of Apple's Hypervisor framework on Apple silicon.

An exit is an exception that the guest took to EL2: its syndrome is decoded here. What the syndrome does not tell (loads and stores
of pairs, with writeback, of vectors) is run by the instruction's text in vm_core.isa. Power calls (PSCI) are answered here too,
since nobody else does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from vm_accel import arm64_text
from vm_accel.arm64_registers import encoding_of, packed
from vm_accel.arm64_walk import translate
from vm_accel.closing import Closing
from vm_accel.completion import Fault, Steps, Touch, VcpuGuest
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
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
    Timer,
    Unknown,
)
from vm_accel.hvf import abi, psci
from vm_accel.hvf.platform import check
from vm_accel.hvf.syndrome import Class, DataAbort, data_abort, exception_class, system_access
from vm_accel.hvf.vectors import setter
from vm_accel.interface import Bus, State
from vm_accel.pending import ONES, Ending, Observer, Pending
from vm_core.errors import UsageError

if TYPE_CHECKING:
    from vm_accel.hvf.platform import HvfVm

__all__ = ["FORMAT", "HvfVcpu"]

FORMAT: Final = "hvf-vcpu/1"
_RESET_PSTATE: Final = 0x3C5
"""EL1 with its own stack, all interrupts masked (D1.3.6)."""
_SS: Final = 1 << 21
_MDE, _MDSCR_SS = 1 << 15, 1 << 0

GENERAL: Final[dict[str, int]] = {
    **{f"x{i}": i for i in range(31)},
    "pc": abi.Register.PC,
    "pstate": abi.Register.CPSR,
    "fpcr": abi.Register.FPCR,
    "fpsr": abi.Register.FPSR,
}
VECTORS: Final = {f"v{i}": i for i in range(32)}


class HvfVcpu(Closing):
    """Implements :class:`vm_accel.interface.Vcpu`. All but ``kick`` is for the thread that made it."""

    def __init__(self, vm: HvfVm, index: int) -> None:
        self.vm, self.index = vm, index
        self.library = vm.library
        ffi = vm.library.ffi
        handle, context = ffi.new("uint64_t *"), ffi.new("hv_vcpu_exit_t **")
        self.library.call("hv_vcpu_create", handle, context, ffi.NULL)
        self.handle = int(handle[0])
        self._context = context[0]
        self._thread = threading.current_thread()
        self._closed = False
        self._run = self.library.lib.hv_vcpu_run
        self._ids = ffi.new("uint64_t[]", [self.handle])
        self._word = ffi.new("uint64_t *")
        self._vector = ffi.new("uint8_t[16]")
        self._set_vector = setter(ffi)
        self._vector_function = self.library.address("hv_vcpu_set_simd_fp_reg")
        self._kicked = self._running = False
        self._pending = Pending()
        self._lines = 0
        self._step = False
        self._breakpoints: tuple[int, ...] = ()
        # The pc of a stop that was reported and has to be stepped over: Arm stops before it, every time.
        self._passing: int | None = None
        self._stepping_over = False
        self.powered = True
        """Whether it is on; a vCPU that is off waits in ``run`` until another turns it on (PSCI CPU_ON)."""
        try:
            self.put("pstate", _RESET_PSTATE)
            # Affinity: one level of 8 bits, as PSCI callers expect of small machines.
            self.put("mpidr_el1", 1 << 31 | index)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self._closed:
            raise HypervisorError("this vCPU is closed")

    # -- registers ------------------------------------------------------------------------------------------------------

    def _system(self, name: str) -> int:
        """hv_sys_reg_t of a name. Raises KeyError."""
        if name in abi.SYSTEM_REGISTERS:
            return abi.SYSTEM_REGISTERS[name]
        return packed(*encoding_of(name))

    def _stack(self) -> str:
        """Which register ``sp`` is now: PSTATE.SP and EL (D1.3.2)."""
        state = self._general(abi.Register.CPSR)
        return "sp_el1" if state & 1 and state >> 2 & 3 else "sp_el0"

    def _general(self, register: int) -> int:
        self.library.call("hv_vcpu_get_reg", self.handle, register, self._word)
        return int(self._word[0])

    def __getitem__(self, name: str) -> int:
        self._open()
        if (register := GENERAL.get(name)) is not None:
            return self._general(register)
        if (register := VECTORS.get(name)) is not None:
            # SAFETY: the buffer has the 16 bytes of a vector register.
            self.library.call("hv_vcpu_get_simd_fp_reg", self.handle, register, self._vector)
            return int.from_bytes(self.library.ffi.buffer(self._vector), "little")
        number = self._system(self._stack() if name == "sp" else name)
        self.library.call("hv_vcpu_get_sys_reg", self.handle, number, self._word)
        return int(self._word[0])

    def __setitem__(self, name: str, value: int) -> None:
        self._open()
        self._pending.registers_change(pc=name == "pc")
        self.put(name, value)

    def put(self, name: str, value: int) -> None:
        """As part of an instruction."""
        self._open()
        bits = 128 if name in VECTORS else 64
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} has {bits} bits, and {value:#x} does not fit")
        if (register := GENERAL.get(name)) is not None:
            self.library.call("hv_vcpu_set_reg", self.handle, register, value)
        elif (register := VECTORS.get(name)) is not None:
            self._vector[0:16] = list(value.to_bytes(16, "little"))
            # SAFETY: the thunk reads 16 bytes and calls the function that takes them by value.
            status = self._set_vector(self.handle, register, self._vector, self._vector_function)
            check("hv_vcpu_set_simd_fp_reg", status)
        else:
            number = self._system(self._stack() if name == "sp" else name)
            self.library.call("hv_vcpu_set_sys_reg", self.handle, number, value)

    def registers(self, names: Iterable[str] | None = None) -> dict[str, int]:
        if names is None:
            names = (*GENERAL, "sp", *VECTORS, *abi.SYSTEM_REGISTERS)
        return {name: self[name] for name in names}

    def set_registers(self, values: Mapping[str, int]) -> None:
        self._open()
        for name, value in values.items():
            if name not in GENERAL and name not in VECTORS and name != "sp":
                self._system(name)
            bits = 128 if name in VECTORS else 64
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} has {bits} bits, and {value:#x} does not fit")
        self._pending.registers_change(pc="pc" in values)
        # The mode first: it says which register "sp" is.
        for name in sorted(values, key=lambda name: name != "pstate"):
            self.put(name, values[name])

    # -- running --------------------------------------------------------------------------------------------------------

    def run(self, bus: Bus | None = None) -> Exit:
        self._open()
        pending = self._pending
        pending.settle()
        while True:
            if pending.queue:
                return pending.queue.popleft()
            if not self.powered and not self._wait_for_power():
                return Interrupted()
            self._prepare()
            self._running = True
            if self._kicked:
                self._kicked = self._running = False
                return Interrupted()
            status = self._run(self.handle)
            self._running = False
            check("hv_vcpu_run", status)
            found = self._exit(bus)
            if found is not None:
                return found

    def _wait_for_power(self) -> bool:
        """False if it was kicked instead."""
        with self.vm.lock:
            self.vm.lock.wait_for(lambda: self.powered or self._kicked)
            if self._kicked:
                self._kicked = False
                return False
            if self._start is not None:
                (entry, context), self._start = self._start, None
                self.set_registers({"pstate": _RESET_PSTATE, "pc": entry, "x0": context, "sctlr_el1": 0})
            return True

    _start: tuple[int, int] | None = None
    """Where CPU_ON wants it to begin: entry and x0. Taken over by its own thread, as only that may touch registers."""

    def _prepare(self) -> None:
        if self._lines:
            # HVF forgets pending interrupts with each run.
            for kind in abi.Interrupt:
                if self._lines >> kind & 1:
                    self.library.call("hv_vcpu_set_pending_interrupt", self.handle, kind, True)
        if self._passing is not None:
            if self._general(abi.Register.PC) == self._passing:
                self._stepping_over = True
                self.put("sys.2.0.0.2.2", self["sys.2.0.0.2.2"] & ~_MDE | _MDSCR_SS)
            self._passing = None
        if self._step or self._stepping_over:
            self.put("pstate", self["pstate"] | _SS)

    def _passed(self) -> None:
        """The step over a breakpoint or watchpoint is done, or something else came first: watch again."""
        self._stepping_over = False
        control = self["sys.2.0.0.2.2"] | _MDE
        self.put("sys.2.0.0.2.2", control if self._step else control & ~_MDSCR_SS)
        if not self._step:
            self.put("pstate", self["pstate"] & ~_SS)

    def kick(self) -> None:
        self._open()
        self._kicked = True
        if not self.powered:
            with self.vm.lock:
                self.vm.lock.notify_all()
        if self._running:
            # Remembered if the run has not begun; one that comes too late ends the next run, see _exit().
            self.library.lib.hv_vcpus_exit(self._ids, 1)

    def complete(self, value: int | bytes = 0, *, fault: bool = False) -> None:
        self._open()
        self._pending.complete(value, fault=fault)

    # -- exits ----------------------------------------------------------------------------------------------------------

    def _exit(self, bus: Bus | None) -> Exit | None:
        """The exit that the context describes; None to go on."""
        context = self._context
        if self.observer is not None:
            values = {name: self._general(number) for name, number in GENERAL.items()}
            self.observer(self.raw_exit(), values, self._code(values["pc"]) or b"")
        match context.reason:
            case abi.ExitReason.EXCEPTION:
                return self._exception(bus)
            case abi.ExitReason.CANCELED:
                if self._kicked:
                    self._kicked = False
                    return Interrupted()
                return None
            case abi.ExitReason.VTIMER_ACTIVATED:
                self._pending.expect(self._unmask_timer, optional=True)
                return Timer()
        return Unknown(int(context.reason), self.raw_exit())

    def _unmask_timer(self, _value: int | bytes, _fault: bool) -> None:
        self.library.call("hv_vcpu_set_vtimer_mask", self.handle, False)

    observer: Observer | None = None
    """Told of every exit, before it is decoded, by who records them."""

    def raw_exit(self) -> bytes:
        """The last exit as the platform described it, for reports and records."""
        ffi = self.library.ffi
        return bytes(ffi.buffer(self._context, ffi.sizeof("hv_vcpu_exit_t")))

    def _exception(self, bus: Bus | None) -> Exit | None:
        syndrome = int(self._context.exception.syndrome)
        if self._stepping_over:
            self._passed()
            if exception_class(syndrome) == Class.STEP and not self._step:
                return None
        match exception_class(syndrome):
            case Class.DATA_ABORT:
                return self._data(data_abort(syndrome), bus)
            case Class.WFX:
                self.put("pc", self["pc"] + 4 & ONES)
                # WFE only lets others run.
                return None if syndrome & 1 else Halt()
            case Class.HVC64:
                return self._call()
            case Class.SMC64:
                # Trapped before it ran; HVC has run, and the pc is behind it.
                self.put("pc", self["pc"] + 4 & ONES)
                return self._call()
            case Class.SYSTEM:
                return self._system_access(syndrome)
            case Class.BRK:
                return Debug(self["pc"], DebugKind.INSTRUCTION)
            case Class.STEP:
                return Debug(self["pc"], DebugKind.STEP)
            case Class.BREAKPOINT:
                self._passing = self["pc"]
                return Debug(self._passing, DebugKind.BREAKPOINT, self._passing)
            case Class.WATCHPOINT:
                self._passing = self["pc"]
                return Debug(
                    self._passing, DebugKind.WATCHPOINT, int(self._context.exception.virtual_address)
                )
            case Class.INSTRUCTION_ABORT:
                address = int(self._context.exception.physical_address)
                return FailEntry(
                    Class.INSTRUCTION_ABORT, f"no memory to execute at {address:#x}", self.raw_exit()
                )
        return Unknown(int(self._context.reason), self.raw_exit())

    def _data(self, abort: DataAbort, bus: Bus | None) -> Exit | None:
        address = int(self._context.exception.physical_address)
        if abort.is_write and self.vm.touched(address):
            return None  # the log of written pages; the guest does it again
        pc = self["pc"]
        if abort.cache_maintenance:
            self.put("pc", pc + 4 & ONES)
            return None
        if abort.in_walk:
            return FailEntry(
                Class.DATA_ABORT,
                f"the guest's page tables lie at {address:#x}, where no memory is",
                self.raw_exit(),
            )
        raw, reason = self.raw_exit(), int(self._context.reason)
        if abort.valid:
            steps = self._one_register(abort, address)

            def commit() -> None:
                self.put("pc", pc + 4 & ONES)

        else:
            code = self._code(pc)
            if code is None:
                return Unknown(reason, raw)
            steps, commit = arm64_text.prepare(code, self, VcpuGuest(self))

        def undecided() -> Exit:
            return Unknown(reason, raw)

        return self._pending.drive(
            steps, Ending(commit, lambda fault: self._abort(fault, pc), undecided), bus
        )

    def _one_register(self, abort: DataAbort, address: int) -> Steps:
        """A load or store that the syndrome describes. Register 31 is zero."""
        name = f"x{abort.register}"
        mask = (1 << 8 * abort.size) - 1
        if abort.is_write:
            value = 0 if abort.register == 31 else self[name]
            yield Touch(address, abort.size, True, value & mask)
            return
        value = yield Touch(address, abort.size, False)
        if abort.signed:
            value -= (value >> (8 * abort.size - 1)) << 8 * abort.size
        if abort.register != 31:
            self.put(name, value & (ONES if abort.wide else 0xFFFF_FFFF))

    def _code(self, pc: int) -> bytes | None:
        try:
            found = self.vm.ram(self.translate(pc, is_write=False), 4, is_write=False)
        except Fault:
            return None
        return None if found is None else bytes(found)

    def translate(self, address: int, *, is_write: bool) -> int:
        """Guest-virtual to guest-physical. Raises completion.Fault."""

        def read(at: int) -> int | None:
            found = self.vm.ram(at, 8, is_write=False)
            return None if found is None else int.from_bytes(found, "little")

        return translate(
            address,
            is_write=is_write,
            control=self["sctlr_el1"],
            tcr=self["tcr_el1"],
            ttbr0=self["ttbr0_el1"],
            ttbr1=self["ttbr1_el1"],
            read=read,
        )

    def _abort(self, fault: Fault, pc: int) -> None:
        """The guest's own tables forbid an access of the instruction: a data abort at EL1 (D1.3.6, AArch64.TakeException)."""
        state = self["pstate"]
        lower = not state >> 2 & 3
        vector = 0x400 if lower else 0x200 if state & 1 else 0
        syndrome = (0x24 if lower else 0x25) << 26 | 1 << 25 | (1 << 6 if fault.is_write else 0) | 0b000111
        self.put("elr_el1", pc)
        self.put("spsr_el1", state)
        self.put("esr_el1", syndrome)
        self.put("far_el1", fault.address)
        self.put("pstate", _RESET_PSTATE)
        self.put("pc", self["vbar_el1"] + vector & ONES)

    def _system_access(self, syndrome: int) -> Exit:
        access = system_access(syndrome)
        pc = self["pc"]
        name = f"x{access.register}"

        def answer(value: int | bytes, fault: bool) -> None:
            if fault:
                self._undefined(pc)
                return
            self.put("pc", pc + 4 & ONES)
            if not access.is_write and access.register != 31:
                self.put(name, (value if isinstance(value, int) else int.from_bytes(value, "little")) & ONES)

        self._pending.expect(answer, refusable=True)
        written = self[name] if access.is_write and access.register != 31 else 0
        return SysReg(SysRegSpace.AARCH64, access.number, access.is_write, written)

    def _undefined(self, pc: int) -> None:
        """An undefined instruction, for the guest to handle at EL1: EC 0."""
        state = self["pstate"]
        vector = 0x400 if not state >> 2 & 3 else 0x200 if state & 1 else 0
        self.put("elr_el1", pc)
        self.put("spsr_el1", state)
        self.put("esr_el1", 1 << 25)
        self.put("pstate", _RESET_PSTATE)
        self.put("pc", self["vbar_el1"] + vector & ONES)

    # -- calls of the firmware ------------------------------------------------------------------------------------------

    def _call(self) -> Exit | None:
        number = self["x0"] & 0xFFFF_FFFF
        arguments = tuple(self[f"x{i}"] for i in range(1, 4))
        found = psci.Call.of(number)
        if found is None:

            def answer(value: int | bytes, _fault: bool) -> None:
                self.put("x0", (value if isinstance(value, int) else int.from_bytes(value, "little")) & ONES)

            self._pending.expect(answer)
            return Hypercall(HypercallAbi.PSCI, number, arguments)
        result: int = psci.Status.NOT_SUPPORTED
        match found:
            case psci.Call.VERSION:
                result = psci.VERSION
            case psci.Call.FEATURES:
                known = psci.Call.of(arguments[0])
                result = psci.Status.NOT_SUPPORTED if known is None else psci.Status.SUCCESS
            case psci.Call.MIGRATE_INFO_TYPE:
                result = 2  # no trusted system that would have to move
            case psci.Call.CPU_SUSPEND:
                self.put("x0", psci.Status.SUCCESS)
                return Halt()
            case psci.Call.CPU_OFF:
                self.powered = False
                return None
            case psci.Call.CPU_ON:
                result = self._turn_on(*arguments)
            case psci.Call.AFFINITY_INFO:
                other = self._by_affinity(arguments[0])
                result = psci.Status.INVALID_PARAMETERS if other is None else int(not other.powered)
            case psci.Call.SYSTEM_OFF:
                return Shutdown(ShutdownKind.OFF)
            case psci.Call.SYSTEM_RESET:
                return Shutdown(ShutdownKind.RESET)
            case psci.Call.SYSTEM_RESET2:
                return Shutdown(ShutdownKind.RESET, arguments[0])
        self.put("x0", result & ONES)
        return None

    def _by_affinity(self, affinity: int) -> HvfVcpu | None:
        return next((other for other in self.vm.vcpus if other.index == affinity & 0xFF_00FF_FFFF), None)

    def _turn_on(self, affinity: int, entry: int, context: int) -> int:
        with self.vm.lock:
            other = self._by_affinity(affinity)
            if other is None:
                return psci.Status.INVALID_PARAMETERS
            if other.powered:
                return psci.Status.ALREADY_ON
            other._start, other.powered = (entry, context), True
            self.vm.lock.notify_all()
        return psci.Status.SUCCESS

    # -- debugging, interrupts, state -----------------------------------------------------------------------------------

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
        if len(stops) > 4 or len(watches) > 4:
            raise UsageError("four breakpoints and four watchpoints at most")
        wanted: dict[str, int] = {}
        for index in range(4):
            # D2.8, D2.10: enabled, at EL0 and EL1; all four bytes of an instruction, or those that are watched.
            stop = stops[index] if index < len(stops) else 0
            wanted[f"sys.2.0.0.{index}.4"] = stop
            wanted[f"sys.2.0.0.{index}.5"] = 0x1E7 if index < len(stops) else 0
            address, size, writes_only = watches[index] if index < len(watches) else (0, 0, False)
            if size not in (0, 1, 2, 4, 8) or (size and address % size):
                raise UsageError(f"a watchpoint of {size} bytes at {address:#x}: 1, 2, 4 or 8, aligned")
            selected = ((1 << size) - 1) << (address & 7)
            wanted[f"sys.2.0.0.{index}.6"] = address & ~7
            wanted[f"sys.2.0.0.{index}.7"] = (
                selected << 5 | (2 if writes_only else 3) << 3 | 3 << 1 | 1 if size else 0
            )
        any_wanted = step or bool(stops) or bool(watches) or trap_break
        control = self["sys.2.0.0.2.2"] & ~(_MDE | _MDSCR_SS)
        control |= (_MDE if stops or watches else 0) | (_MDSCR_SS if step else 0)
        self.library.call("hv_vcpu_set_trap_debug_exceptions", self.handle, any_wanted)
        if stops or watches or self._breakpoints:
            for name, value in wanted.items():
                self.put(name, value)
        self.put("sys.2.0.0.2.2", control)
        if self._step and not step:
            self.put("pstate", self["pstate"] & ~_SS)
        self._step, self._breakpoints = step, stops
        if not (stops or watches):
            self._passing = None

    def interrupt(self, vector: int) -> None:
        """``vector`` 0 is the IRQ line, 1 the FIQ; the line stays up for the next run."""
        self._open()
        if vector not in (0, 1):
            raise UsageError("an AArch64 CPU has two lines: 0 is IRQ, 1 is FIQ")
        self.library.call("hv_vcpu_set_pending_interrupt", self.handle, vector, True)

    def hold(self, line: int, level: bool) -> None:
        """Drive a line as an interrupt controller of ours does: it stays until it is taken down."""
        self._lines = self._lines | 1 << line if level else self._lines & ~(1 << line)

    def request_irq_window(self) -> None:
        self._open()
        raise UsageError("HVF tells nobody when a guest unmasks interrupts", hint="keep the line up: hold()")

    def save(self) -> State:
        self._open()
        self._pending.drop()
        names = (*GENERAL, *VECTORS, *abi.SYSTEM_REGISTERS)
        word, flag = self._word, self.library.ffi.new("bool *")
        self.library.call("hv_vcpu_get_vtimer_offset", self.handle, word)
        offset = int(word[0])
        self.library.call("hv_vcpu_get_vtimer_mask", self.handle, flag)
        registers = self.registers(names)
        if self._step:
            registers["pstate"] &= ~_SS
        return {
            "format": FORMAT,
            "registers": registers,
            "vtimer": {"offset": offset, "masked": bool(flag[0])},
            "powered": self.powered,
        }

    def restore(self, state: State) -> None:
        self._open()
        if state.get("format") != FORMAT:
            raise UsageError(f"not a vCPU state of HVF: {state.get('format')!r}")
        self._pending.clear()
        read_only = {"midr_el1", "mpidr_el1"}  # who it is, not what it does
        self.set_registers({k: v for k, v in state["registers"].items() if k not in read_only})
        self.library.call("hv_vcpu_set_vtimer_offset", self.handle, state["vtimer"]["offset"])
        self.library.call("hv_vcpu_set_vtimer_mask", self.handle, state["vtimer"]["masked"])
        self.powered = state["powered"]

    def close(self) -> None:
        """By its own thread. One whose thread has ended is gone with it."""
        if self._closed:
            return
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            raise HypervisorError("a vCPU of HVF is closed by the thread that made it, which is still alive")
        self._closed = True
        if threading.current_thread() is self._thread:
            self.library.call("hv_vcpu_destroy", self.handle)
