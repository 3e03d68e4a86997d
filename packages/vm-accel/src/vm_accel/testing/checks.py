"""What a table of exits cannot say: threads, debugging, logs, saved state, life and death. One function a property.

Each takes a hypervisor, raises Mismatch (an AssertionError) if it is not so, and says by its Features whom it is for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from vm_accel.exits import Debug, DebugKind, Halt, Interrupted, IrqWindow, Mmio, PortIo, SysReg, SysRegSpace
from vm_accel.interface import Feature, Hypervisor, VmConfig
from vm_accel.memory import PAGE, HostMemory
from vm_accel.testing.check import Check, Test, check, lacking, must, refused, same
from vm_accel.testing.conformance import assemble, guest, prepare_x86
from vm_accel.testing.portable import PORTABLE
from vm_accel.testing.snippets import CODE, DATA, MMIO, VECTOR_PORT
from vm_accel.x86 import FEATURES

__all__ = ["CHECKS", "Check", "lacking"]

_F = Feature
_END: Final = "mov al, 0x5a; out 0xf4, al"
_DONE: Final = PortIo(0xF4, 1, True, 1, b"\x5a")


CHECKS: Final[list[Check]] = []


def _check(*needs: Feature) -> Callable[[Test], Test]:
    return check(CHECKS, *needs, isa="x86_64")


# -- kicks -----------------------------------------------------------------------------------------------------------------


@_check(_F.KICK, _F.LONG_MODE)
def kick_before_run(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, f"again: inc rbx; jmp again; {_END}", "user") as made:
        made.vcpu.kick()
        made.vcpu.kick()
        same(made.vcpu.run(), Interrupted())
        same(made.vcpu["rbx"], 0)


@_check(_F.KICK, _F.LONG_MODE)
def kick_a_running_guest(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "again: inc qword ptr [rsi]; jmp again", "user", before={"rsi": DATA}) as made:

        def wait_and_kick() -> None:
            start, until = made.memory.read(DATA, 8), time.monotonic() + 10
            while made.memory.read(DATA, 8) == start and time.monotonic() < until:
                time.sleep(0.0005)
            progress.append(made.memory.read(DATA, 8) != start)
            made.vcpu.kick()

        progress: list[bool] = []
        for _ in range(20):
            thread = threading.Thread(target=wait_and_kick)
            thread.start()
            same(made.vcpu.run(), Interrupted())
            thread.join()
        same(progress, [True] * 20)


@_check(_F.KICK, _F.PORT_IO, _F.LONG_MODE)
def no_kick_is_lost(hypervisor: Hypervisor) -> None:
    """The guest exits all the time, so that kicks fall between, into and behind runs. Each must be followed by Interrupted."""
    with guest(hypervisor, "again: out 0x10, al; jmp again") as made:
        stop, seen = threading.Event(), threading.Event()
        count = 0

        def kicks() -> None:
            nonlocal count
            while not stop.is_set():
                seen.clear()
                made.vcpu.kick()
                if not seen.wait(10):
                    return
                count += 1

        thread = threading.Thread(target=kicks)
        thread.start()
        try:
            until = time.monotonic() + 1
            quiet = time.monotonic()
            while time.monotonic() < until:
                if isinstance(made.vcpu.run(), Interrupted):
                    seen.set()
                    quiet = time.monotonic()
                must(time.monotonic() - quiet < 5, "a kick was lost")
        finally:
            stop.set()
            seen.set()
            thread.join()
        must(count > 20, f"only {count} kicks came through")


@_check(_F.KICK, _F.PORT_IO)
def a_device_ends_the_run(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "again: out 0x10, al; jmp again") as made:

        class Device:
            count = 0

            def port_out(self, port: int, size: int, value: int) -> None:
                self.count += 1
                if self.count == 5:
                    made.vcpu.kick()

            def port_in(self, port: int, size: int) -> int:
                return 0

            def read(self, address: int, size: int) -> int:
                return 0

            def write(self, address: int, size: int, value: int) -> None:
                return

        device = Device()
        same(made.vcpu.run(device), Interrupted())
        same(device.count, 5)


@_check(_F.PORT_IO)
def what_a_device_raises_passes(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "in al, 0x10; out 0x11, al; hlt") as made:

        class Broken:
            def port_in(self, port: int, size: int) -> int:
                raise ZeroDivisionError

            def port_out(self, port: int, size: int, value: int) -> None:
                return

            def read(self, address: int, size: int) -> int:
                return 0

            def write(self, address: int, size: int, value: int) -> None:
                return

        refused(lambda: made.vcpu.run(Broken()), ZeroDivisionError)
        same(made.vcpu.run(), PortIo(0x11, 1, True, 1, b"\xff"))
        same(made.vcpu.run(), Halt())


# -- answers ---------------------------------------------------------------------------------------------------------------


@_check(_F.PORT_IO, _F.HALT)
def answers_are_asked_for_once(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "in al, 0x10; out 0x11, al; hlt") as made:
        refused(lambda: made.vcpu.complete(1))
        same(made.vcpu.run(), PortIo(0x10, 1, False))
        refused(lambda: made.vcpu.complete(1, fault=True))
        refused(lambda: made.vcpu.complete(b"\1\2"))
        made.vcpu.complete(7)
        refused(lambda: made.vcpu.complete(8))
        same(made.vcpu.run(), PortIo(0x11, 1, True, 1, b"\x07"))
        refused(lambda: made.vcpu.complete(1))


@_check(_F.PORT_IO, _F.HALT)
def of_an_answer_the_low_bytes_count(hypervisor: Hypervisor) -> None:
    for code in (
        "in al, 0x10; out 0x11, al; hlt",
        "mov edx, 0x10; mov edi, 0x9000; insb; mov al, [edi - 1]; out 0x11, al; hlt",
    ):
        for answer, byte in ((0x1FE, b"\xfe"), (-1, b"\xff"), (1 << 80 | 5, b"\5"), (b"\6", b"\6")):
            with guest(hypervisor, code) as made:
                same(made.vcpu.run(), PortIo(0x10, 1, False))
                made.vcpu.complete(answer)
                same(made.vcpu.run(), PortIo(0x11, 1, True, 1, byte))


@_check(_F.PORT_IO, _F.HALT)
def the_pc_is_behind_an_access(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "out 0x10, al; in al, 0x10; hlt") as made:
        made.vcpu.run()
        same(made.vcpu["rip"], CODE + 2)
        made.vcpu.run()
        made.vcpu.complete(3)
        same(made.vcpu["rip"], CODE + 4)
        same(made.vcpu["rax"], 3)
        same(made.vcpu.run(), Halt())


@_check(_F.PORT_IO, _F.MMIO, _F.HALT)
def all_registers_are_those_behind_an_answered_read(hypervisor: Hypervisor) -> None:
    """Of ports and with arithmetic, in flags and vectors too."""
    with guest(hypervisor, "in al, 0x10; hlt", before={"rax": 0x1234}) as made:
        same(made.vcpu.run(), PortIo(0x10, 1, False))
        made.vcpu.complete(0x77)
        same(made.vcpu["rax"], 0x1277)
        made.vcpu["rax"] = 3
        same((made.vcpu.run(), made.vcpu["rax"]), (Halt(), 3))
    with guest(hypervisor, "add [rsi], ebx; hlt", before={"rsi": MMIO, "rbx": 1}) as made:
        same(made.vcpu.run(), Mmio(MMIO, 4, False))
        made.vcpu.complete(0xFFFF_FFFF)
        same(made.vcpu.run(), Mmio(MMIO, 4, True, 0))
        same(made.vcpu["rflags"] & 0x41, 0x41)
        same(made.vcpu.run(), Halt())
    if _F.VECTOR_REGISTERS in hypervisor.features:
        with guest(hypervisor, "movq xmm1, [rsi]; hlt", before={"rsi": MMIO, "xmm1": 1}) as made:
            if made.vcpu.run() == Mmio(MMIO, 8, False):
                made.vcpu.complete(0x99)
                same(made.vcpu["xmm1"], 0x99)


@_check(_F.PORT_IO, _F.HALT, _F.BREAKPOINTS)
def debugging_can_change_in_an_exit(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "in al, 0x10; mov ebx, eax; hlt") as made:
        made.vcpu.run()
        made.vcpu.debug(breakpoints=[CODE + 2])
        made.vcpu.complete(0x42)
        same(made.vcpu.run(), Debug(CODE + 2, DebugKind.BREAKPOINT, CODE + 2))
        made.vcpu.debug()
        same(made.vcpu.run(), Halt())
        same(made.vcpu["rbx"], 0x42)


@_check(_F.PORT_IO, _F.HALT)
def the_pc_can_be_set_in_an_exit(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "in al, 0x10; ud2; mov ebx, 9; hlt") as made:
        made.vcpu.run()
        made.vcpu["rip"] = CODE + 4
        same(made.vcpu.run(), Halt())
        same(made.vcpu["rbx"], 9)


@_check(_F.PORT_IO, _F.HALT)
def registers_can_be_changed_in_an_exit(hypervisor: Hypervisor) -> None:
    """As a system call does: the guest leaves through a port, and finds its result in rax."""
    with guest(hypervisor, "mov rax, 39; out 0x80, al; mov rbx, rax; hlt") as made:
        same(made.vcpu.run(), PortIo(0x80, 1, True, 1, b"\x27"))
        made.vcpu["rax"] = 0x1234_5678_9ABC
        same(made.vcpu.run(), Halt())
        same(made.vcpu["rbx"], 0x1234_5678_9ABC)


# -- debugging -------------------------------------------------------------------------------------------------------------


def _step(hypervisor: Hypervisor, mode: str) -> None:
    with guest(hypervisor, f"mov eax, 1; inc eax; add eax, eax; {_END}", mode) as made:
        made.vcpu.debug(step=True)
        for pc in (5, 7, 9):
            same(made.vcpu.run(), Debug(CODE + pc, DebugKind.STEP))
        same(made.vcpu["rax"], 4)
        made.vcpu.debug()
        same(made.vcpu.run(), _DONE)


@_check(_F.SINGLE_STEP, _F.RING3_DEBUG, _F.LONG_MODE)
def single_step_in_ring_3(hypervisor: Hypervisor) -> None:
    _step(hypervisor, "user")


@_check(_F.SINGLE_STEP, _F.LONG_MODE)
def single_step_in_ring_0(hypervisor: Hypervisor) -> None:
    _step(hypervisor, "long")


@_check(_F.SINGLE_STEP, _F.REAL_MODE)
def single_step_in_real_mode(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "mov ax, 1; inc ax; hlt", "real") as made:
        made.vcpu.debug(step=True)
        same(made.vcpu.run(), Debug(CODE + 3, DebugKind.STEP))
        same(made.vcpu.run(), Debug(CODE + 4, DebugKind.STEP))
        same(made.vcpu["rax"], 2)


def _break(hypervisor: Hypervisor, mode: str) -> None:
    code = f"mov ecx, 3; again: nop; inc ebx; dec ecx; jnz again; {_END}"
    with guest(hypervisor, code, mode) as made:
        made.vcpu.debug(breakpoints=[CODE + 5, CODE + 6])
        for turn in range(3):
            same(made.vcpu.run(), Debug(CODE + 5, DebugKind.BREAKPOINT, CODE + 5))
            same(made.vcpu["rbx"], turn)
            same(made.vcpu.run(), Debug(CODE + 6, DebugKind.BREAKPOINT, CODE + 6))
        made.vcpu.debug()
        same(made.vcpu.run(), _DONE)
        same(made.vcpu["rbx"], 3)


@_check(_F.BREAKPOINTS, _F.RING3_DEBUG, _F.LONG_MODE)
def breakpoints_in_ring_3(hypervisor: Hypervisor) -> None:
    _break(hypervisor, "user")


@_check(_F.BREAKPOINTS, _F.LONG_MODE)
def breakpoints_in_ring_0(hypervisor: Hypervisor) -> None:
    _break(hypervisor, "long")


@_check(_F.WATCHPOINTS, _F.RING3_DEBUG, _F.LONG_MODE)
def watchpoints(hypervisor: Hypervisor) -> None:
    code = f"mov eax, [rsi]; mov [rsi + 4], eax; mov [rsi], eax; {_END}"
    with guest(hypervisor, code, "user", before={"rsi": DATA}) as made:
        made.vcpu.debug(watchpoints=[(DATA, 4, True)])
        same(made.vcpu.run(), Debug(CODE + 7, DebugKind.WATCHPOINT, DATA))
        same(made.vcpu.run(), _DONE)
    with guest(hypervisor, code, "user", before={"rsi": DATA}) as made:
        made.vcpu.debug(watchpoints=[(DATA, 4, False)])
        same(made.vcpu.run(), Debug(CODE + 2, DebugKind.WATCHPOINT, DATA))
        same(made.vcpu.run(), Debug(CODE + 7, DebugKind.WATCHPOINT, DATA))
        refused(lambda: made.vcpu.debug(watchpoints=[(DATA + 1, 4, False)]))
        refused(lambda: made.vcpu.debug(breakpoints=range(5)))


@_check(_F.TRAP_BREAK, _F.RING3_DEBUG, _F.LONG_MODE)
def breakpoint_instructions_are_exits(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, f"nop; int3; mov ebx, 3; {_END}", "user") as made:
        made.vcpu.debug(trap_break=True)
        same(made.vcpu.run(), Debug(CODE + 1, DebugKind.INSTRUCTION))
        same(made.vcpu["rip"], CODE + 1)
        made.vcpu["rip"] = CODE + 2
        same(made.vcpu.run(), _DONE)
        same(made.vcpu["rbx"], 3)


# -- memory ----------------------------------------------------------------------------------------------------------------

_WRITES: Final = "mov byte ptr [rsi], 1; mov byte ptr [rsi + 0x3000], 1; mov byte ptr [rsi + 0x3fff], 1; mov al, [rsi + 0x5000]; out 0x10, al; mov byte ptr [rsi + 0x7000], 1; hlt"
_HIGH: Final = 0x10_0000


@_check(_F.DIRTY_LOG, _F.PORT_IO, _F.HALT)
def written_pages_are_logged(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, _WRITES, before={"rsi": _HIGH}, log_dirty=True) as made:
        made.vm.dirty(_HIGH)
        made.vcpu.run()
        same(made.vm.dirty(_HIGH), [_HIGH, _HIGH + 0x3000])
        same(made.vm.dirty(_HIGH), [])
        same(made.vcpu.run(), Halt())
        same(made.vm.dirty(_HIGH), [_HIGH + 0x7000])
        refused(lambda: made.vm.dirty(_HIGH + PAGE))


@_check(_F.DIRTY_LOG, _F.LONG_MODE)
def all_of_many_written_pages_are_logged(hypervisor: Hypervisor) -> None:
    code = f"again: mov byte ptr [rsi], 1; add rsi, 0x1000; dec ecx; jnz again; {_END}"
    with guest(hypervisor, code, "user", before={"rsi": _HIGH, "rcx": 256}, log_dirty=True) as made:
        made.vm.dirty(_HIGH)
        same(made.vcpu.run(), _DONE)
        same(made.vm.dirty(_HIGH), list(range(_HIGH, _HIGH + 256 * PAGE, PAGE)))


@_check(_F.READ_ONLY, _F.MMIO, _F.HALT)
def writes_to_read_only_memory_are_exits(hypervisor: Hypervisor) -> None:
    with (
        HostMemory(PAGE) as rom,
        guest(hypervisor, "mov eax, [rsi]; mov [rsi], ebx; mov ecx, [rsi]; hlt") as made,
    ):
        rom.write(0, b"\x11\x22\x33\x44")
        made.vm.map(0x40_0000, rom, writable=False)
        made.vcpu.set_registers({"rsi": 0x40_0000, "rbx": 5})
        same(made.vcpu.run(), Mmio(0x40_0000, 4, True, 5))
        same(made.vcpu.run(), Halt())
        same((made.vcpu["rax"], made.vcpu["rcx"]), (0x4433_2211, 0x4433_2211))
        same(rom.read(0, 4), b"\x11\x22\x33\x44")
        refused(rom.close)
        made.vm.unmap(0x40_0000)


@_check(_F.MMIO, _F.HALT)
def memory_comes_and_goes(hypervisor: Hypervisor) -> None:
    with (
        HostMemory(2 * PAGE) as more,
        guest(hypervisor, "mov eax, [rsi]; mov ebx, [rsi]; mov ecx, [rsi]; hlt") as made,
    ):
        more.write(PAGE, b"\x07\0\0\0")
        made.vcpu["rsi"] = 0x50_0000
        same(made.vcpu.run(), Mmio(0x50_0000, 4, False))
        made.vm.map(0x50_0000, more, offset=PAGE)
        made.vcpu.complete(1)
        for size in (0, 1, PAGE + 1, 3 * PAGE):
            refused(lambda size=size: made.vm.map(0x60_0000, more, size=size))  # type: ignore[misc]
        refused(lambda: made.vm.map(0x50_0000, more, size=PAGE))
        refused(lambda: made.vm.map(0x60_0001, more))
        refused(lambda: made.vm.unmap(0x60_0000))
        made.vcpu.debug()
        same(made.vcpu.run(), Halt())
        same([made.vcpu[name] for name in ("rax", "rbx", "rcx")], [1, 7, 7])
        made.vm.unmap(0x50_0000)
        made.vcpu["rip"] = CODE
        same(made.vcpu.run(), Mmio(0x50_0000, 4, False))


# -- registers and state ---------------------------------------------------------------------------------------------------

_VALUES: Final = {
    **{f"r{i}": 0x0123_4567_89AB_CDEF ^ i << 60 for i in range(8, 16)},
    **{name: (1 << 64) - 1 - i for i, name in enumerate(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"))},
    "rip": 0x1234, "rflags": 0xAD7,
}  # fmt: skip
_SYSTEM: Final = {
    "cr2": 0xFFFF_8000_1234_5678, "cr3": 0x1_0000, "fs.base": 0x7FFF_0000_1234, "gs.base": 0xFFFF_8800_0000_0000,
    "fs.selector": 0x2B, "ds.access": 0xC0F3, "ds.limit": 0xFFFF_FFFF, "gdt.base": 0x9000, "gdt.limit": 0x57,
    "idt.base": 0xA000, "idt.limit": 0xFF, "tr.base": 0xB000, "tr.limit": 0x1FF,
}  # fmt: skip
_VECTORS: Final = {f"xmm{i}": (0x0011_2233_4455_6677 << 64 | 0x8899_AABB_CCDD_EEFF) ^ i for i in range(16)} | {
    f"st{i}": 0x3FFF_8000_0000_0000_0000 + i for i in range(8)
} | {"mxcsr": 0x1FA0, "fcw": 0x27F}  # fmt: skip


def _round_trip(hypervisor: Hypervisor, values: dict[str, int]) -> None:
    with guest(hypervisor, "hlt") as made:
        made.vcpu.set_registers(values)
        same(made.vcpu.registers(values), values)
        for name, value in values.items():
            made.vcpu[name] = value
            same(made.vcpu[name], value)
        every = made.vcpu.registers()
        same(
            {name: every[name] for name in values if "." not in name or name in every},
            {n: v for n, v in values.items() if "." not in n or n in every},
        )


@_check()
def general_registers_round_trip(hypervisor: Hypervisor) -> None:
    _round_trip(hypervisor, _VALUES)
    with guest(hypervisor, "hlt") as made:
        for value in (-1, 1 << 64):
            refused(lambda value=value: made.vcpu.__setitem__("rax", value), ValueError)  # type: ignore[misc]
            refused(lambda value=value: made.vcpu.set_registers({"rbx": 1, "rax": value}), ValueError)  # type: ignore[misc]
        same(made.vcpu["rbx"], 0)
        for name in ("eax", "", "msr.", "msr.x", "cs.", "xmm16"):
            refused(lambda name=name: made.vcpu[name], KeyError)  # type: ignore[misc]
            refused(lambda name=name: made.vcpu.set_registers({"rbx": 1, name: 0}), KeyError)  # type: ignore[misc]
        same(made.vcpu["rbx"], 0)


@_check(_F.SYSTEM_REGISTERS)
def system_registers_round_trip(hypervisor: Hypervisor) -> None:
    _round_trip(hypervisor, _SYSTEM)


@_check(_F.VECTOR_REGISTERS)
def vector_registers_round_trip(hypervisor: Hypervisor) -> None:
    _round_trip(hypervisor, _VECTORS)


@_check(_F.MSR)
def msrs_round_trip(hypervisor: Hypervisor) -> None:
    _round_trip(
        hypervisor,
        {"msr.0xc0000081": 0x23_0010_0000_0000, "msr.0xc0000082": 0xFFFF_8000_0000_1000, "msr.0x174": 0x10},
    )


@_check(_F.DEBUG_REGISTERS)
def debug_registers_round_trip(hypervisor: Hypervisor) -> None:
    _round_trip(hypervisor, {"dr0": 0x1000, "dr1": 0x2000, "dr2": 0x3000, "dr3": 0x4000, "dr7": 0x400})


@_check(_F.VECTOR_REGISTERS, _F.LONG_MODE)
def the_guest_sees_vector_registers(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, f"paddq xmm3, xmm3; movq rbx, xmm3; {_END}", "user", before={"xmm3": 21}) as made:
        same(made.vcpu.run(), _DONE)
        same((made.vcpu["rbx"], made.vcpu["xmm3"]), (42, 42))


@_check(_F.SAVE, _F.LONG_MODE, _F.PORT_IO)
def a_saved_vcpu_goes_on_elsewhere(hypervisor: Hypervisor) -> None:
    """Saved on a port read that was answered, and in the middle of a loop; restored into another VM with a copy of the memory."""
    code = f"mov ecx, 5; mov xmm1, xmm2; again: in al, 0x10; movzx eax, al; add ebx, eax; movq xmm4, rbx; dec ecx; jnz again; {_END}"
    code = code.replace("mov xmm1, xmm2; ", "movaps xmm1, xmm2; ")
    with guest(hypervisor, code, "user", before={"xmm2": 77, "fs.base": 0x1234_0000}) as first:
        for value in (1, 2, 3):
            same(first.vcpu.run(), PortIo(0x10, 1, False))
            first.vcpu.complete(value)
        state = first.vcpu.save()
        must(_plain(state), "the state is no plain data")
        image = first.memory.read(0, first.memory.size)
        with guest(hypervisor, "ud2", "real") as second:
            second.memory.write(0, image)
            second.vcpu.restore(state)
            same(second.vcpu["fs.base"], 0x1234_0000)
            for made in (second, first):
                for value in (4, 5):
                    same(made.vcpu.run(), PortIo(0x10, 1, False))
                    made.vcpu.complete(value)
                same(made.vcpu.run(), _DONE)
                same([made.vcpu[name] for name in ("rbx", "xmm1", "xmm4")], [15, 77, 15])
            refused(lambda: second.vcpu.restore({"format": "something else"}))


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(_plain(each) for each in value)
    return value is None or type(value) in (int, str, bytes, bool)


@_check(_F.CPU_MODEL, _F.LONG_MODE, _F.HALT)
def features_can_be_taken_away(hypervisor: Hypervisor) -> None:
    full = hypervisor.model()
    feature = next(name for name in ("popcnt", "sse4.2", "cx16") if full.has(name))
    for model, wanted in ((None, True), (full.without(feature), False)):
        # In ring 0: KVM's paravirtual flavour lets ring 3 see the host's CPU.
        with guest(hypervisor, "mov eax, 1; cpuid; mov esi, ecx; hlt", model=model) as made:
            same(made.vcpu.run(), Halt())
            bit = FEATURES[feature][3]
            same(bool(made.vcpu["rsi"] >> bit & 1), wanted)
    must(not full.without(feature).has(feature), "the model still has what was taken away")
    refused(lambda: full.without("no such feature"))


# -- interrupts ------------------------------------------------------------------------------------------------------------


@_check(_F.INTERRUPT, _F.LONG_MODE, _F.PORT_IO)
def interrupts_wait_for_their_window(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "out 0x10, al; sti; nop; again: jmp again") as made:
        made.vcpu.run()
        refused(lambda: made.vcpu.interrupt(0x41))
        made.vcpu.request_irq_window()
        same(made.vcpu.run(), IrqWindow())
        must(made.vcpu["rflags"] & 0x200, "the window is open with interrupts disabled")
        made.vcpu.interrupt(0x41)
        same(made.vcpu.run(), PortIo(VECTOR_PORT, 1, True, 1, b"\x41"))
        same(made.vcpu.run(), Halt())


# -- exits on system registers ---------------------------------------------------------------------------------------------


@_check(_F.MSR_EXITS, _F.HALT)
def unknown_msrs_are_exits(hypervisor: Hypervisor) -> None:
    code = "mov ecx, 0x12345; rdmsr; mov ebx, edx; wrmsr; rdmsr; hlt"
    with guest(hypervisor, code, config=VmConfig(msr_exits=True)) as made:
        same(made.vcpu.run(), SysReg(SysRegSpace.MSR, 0x12345, False))
        made.vcpu.complete(0xAABB_0000_CCDD)
        same(made.vcpu.run(), SysReg(SysRegSpace.MSR, 0x12345, True, 0xAABB_0000_CCDD))
        same(made.vcpu["rbx"], 0xAABB)
        same(made.vcpu.run(), SysReg(SysRegSpace.MSR, 0x12345, False))
        made.vcpu.complete(fault=True)
        same(made.vcpu.run(), PortIo(VECTOR_PORT, 1, True, 1, bytes([13])))


@_check(_F.MSR, _F.PORT_IO)
def unknown_msrs_fault(hypervisor: Hypervisor) -> None:
    with guest(hypervisor, "mov ecx, 0x12345; rdmsr; hlt") as made:
        same(made.vcpu.run(), PortIo(VECTOR_PORT, 1, True, 1, bytes([13])))


# -- many ------------------------------------------------------------------------------------------------------------------


@_check(_F.SMP, _F.LONG_MODE)
def eight_vcpus_at_once(hypervisor: Hypervisor) -> None:
    """Each adds to one counter with a lock prefix and says so through its port; none may be lost."""
    rounds, cpus = 2000, 8
    code = assemble(
        "again: lock inc qword ptr [rsi]; inc rbx; test ebx, 0x1ff; jnz next; out 0x10, al; next: cmp ebx, edi; jne again; "
        + _END,
        hypervisor.isa,
        "user",
    )
    with HostMemory(2 << 20) as memory, hypervisor.create_vm(VmConfig(cpus=cpus)) as vm:
        vm.map(0, memory)
        memory.write(CODE, code)
        problems: list[object] = []
        together = threading.Barrier(cpus)

        def work(_index: int) -> None:
            try:
                with lock:
                    vcpu = vm.create_vcpu()
                    prepare_x86(vcpu, memory, "user")
                    vcpu.set_registers({"rsi": DATA, "rdi": rounds})
                together.wait(60)
                count = 0
                while (found := vcpu.run()) == PortIo(0x10, 1, True, 1, b"\0"):
                    count += 1
                if found != _DONE or count != rounds // 512 or vcpu["rbx"] != rounds:
                    problems.append((found, count, vcpu["rbx"]))
            except Exception as error:  # noqa: BLE001 - a thread's problem is the check's
                problems.append(repr(error))

        lock = threading.Lock()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(cpus)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        same(problems, [])
        same(int.from_bytes(memory.read(DATA, 8), "little"), cpus * rounds)


@_check(_F.MANY_VMS, _F.HALT)
def several_vms_do_not_see_each_other(hypervisor: Hypervisor) -> None:
    code = "mov [rsi], rbx; mov rax, [rsi]; hlt"
    with guest(hypervisor, code, before={"rsi": DATA, "rbx": 1}) as one:
        with guest(hypervisor, code, before={"rsi": DATA, "rbx": 2}) as two:
            for made in (one, two):
                same(made.vcpu.run(), Halt())
            same((one.vcpu["rax"], two.vcpu["rax"]), (1, 2))
        same(one.memory.read(DATA, 8), (1).to_bytes(8, "little"))


@_check(_F.HALT)
def what_is_closed_stays_closed(hypervisor: Hypervisor) -> None:
    from vm_accel.errors import HypervisorError

    with guest(hypervisor, "hlt") as made:
        vm, vcpu, memory = made
        same(vcpu.run(), Halt())
        refused(memory.close)
    vcpu.close()
    vm.close()
    memory.close()
    actions: list[Callable[[], object]] = [
        vcpu.run, vcpu.save, vcpu.kick, vcpu.request_irq_window, lambda: vcpu["rax"], lambda: vcpu["cr2"],
        lambda: vcpu.set_registers({"rax": 1}), lambda: vcpu.__setitem__("rax", 1), vcpu.debug, vm.create_vcpu, vm.save,
        lambda: vm.map(0, memory), lambda: memory.address,
    ]  # fmt: skip
    for action in actions:
        refused(action, HypervisorError)


CHECKS.extend(PORTABLE)
