"""``vm accel selftest``: whether the host's hypervisor does, through our binding, what the interface promises.

It needs no assembler and no test framework, so that a user runs it as it is; with ``--record`` it also writes down every exit that
the hypervisor gave, byte for byte. Such a record of a machine that our CI has not is what turns a line of the support table from
"simulated" to "executed", and the decoders are tested with it ever after (packages/vm-accel/tests/recorded).
"""

from __future__ import annotations

import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import Any, Final, NamedTuple, Protocol

from vm_accel.exits import (
    Debug,
    DebugKind,
    Exit,
    Halt,
    Interrupted,
    Mmio,
    PortIo,
    Shutdown,
    ShutdownKind,
)
from vm_accel.interface import Feature, Hypervisor, Vcpu, Vm, VmConfig
from vm_accel.memory import HostMemory
from vm_core.errors import VmError

__all__ = ["CHECKS", "CODE", "FORMAT", "Check", "Outcome", "record", "run", "suite"]

FORMAT: Final = "vm-accel-record/1"
_ALIGNMENT: Final = 0x4000
"""Bytes: the largest page of the hosts."""
_RAM: Final = 0x10000


class Layout(NamedTuple):
    """Where things are in the guest's physical memory."""

    ram: int
    code: int
    data: int
    stack: int
    device: int


_LAYOUTS: Final = {
    "x86_64": Layout(0, 0x4000, 0xA000, 0x8000, 0x10_0000),
    "aarch64": Layout(0x4000_0000, 0x4000_0000, 0x4000_8000, 0x4000_7000, 0x0900_0000),
    "riscv64": Layout(0x8000_0000, 0x8000_0000, 0x8000_8000, 0x8000_7000, 0x1000_0000),
}

# Assembly, and what keystone makes of it, or for RISC-V vm_core (a test compares them).
CODE: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "x86_64": {
        "halt": (
            "nop; hlt; nop; hlt",
            "90f490f4",
        ),
        "ports": (
            "out 0x10, al; out 0x11, ax; out dx, eax; in al, 0x12; in ax, dx; in eax, dx; hlt",
            "e61066e711efe41266ededf4",
        ),
        "strings": (
            "rep outsb; mov ecx, 2; rep insw; hlt",
            "f36eb902000000f3666df4",
        ),
        "reads": (
            "mov al, [rdi]; mov bx, [rdi + 2]; mov ecx, [rdi + 4]; mov r9, [rdi + 8]; movsx edx, byte ptr [rdi + 1]; hlt",
            "8a07668b5f028b4f044c8b4f080fbe5701f4",
        ),
        "writes": (
            "mov [rdi], al; mov [rdi + 2], ax; mov [rdi + 4], eax; mov [rdi + 8], rax; mov dword ptr [rdi + 16], 0x12345678; hlt",
            "88076689470289470448894708c7471078563412f4",
        ),
        "modify": (
            "add [rdi], eax; hlt",
            "0107f4",
        ),
        "copy": (
            "rep movsb; hlt",
            "f3a4f4",
        ),
        "vectors": (
            "movdqa xmm1, xmm0; hlt",
            "660f6fc8f4",
        ),
        "spin": (
            "jmp 0x4000",
            "ebfe",
        ),
        "store": (
            "mov [rdi], eax; hlt",
            "8907f4",
        ),
        "count": (
            "inc eax; inc eax; inc eax; hlt",
            "ffc0ffc0ffc0f4",
        ),
        "fault": (
            "ud2",
            "0f0b",
        ),
    },
    "aarch64": {
        "halt": (
            "nop; wfi; nop; wfi",
            "1f2003d57f2003d51f2003d57f2003d5",
        ),
        "reads": (
            "ldrb w0, [x1]; ldrh w2, [x1, #2]; ldr w3, [x1, #4]; ldr x4, [x1, #8]; ldrsb x5, [x1, #1]; wfi",
            "2000403922044079230440b9240440f9250480397f2003d5",
        ),
        "writes": (
            "strb w0, [x1]; strh w0, [x1, #2]; str w0, [x1, #4]; str x0, [x1, #8]; wfi",
            "2000003920040079200400b9200400f97f2003d5",
        ),
        "writeback": (
            "ldr x2, [x1], #8; str w2, [x1, #4]!; wfi",
            "228440f8224c00b87f2003d5",
        ),
        "pairs": (
            "ldp x2, x3, [x1]; stp x3, x2, [x1, #16]; wfi",
            "220c40a9230801a97f2003d5",
        ),
        "vectors": (
            "mov v1.16b, v0.16b; wfi",
            "011ca04e7f2003d5",
        ),
        "spin": (
            "b 0x40000000",
            "00000014",
        ),
        "store": (
            "str w0, [x1]; wfi",
            "200000b97f2003d5",
        ),
        "count": (
            "add x0, x0, #1; add x0, x0, #1; add x0, x0, #1; wfi",
            "0004009100040091000400917f2003d5",
        ),
        "call": (
            "hvc #0; wfi",
            "020000d47f2003d5",
        ),
        "breakpoint": (
            "nop; brk #1; wfi",
            "1f2003d5200020d47f2003d5",
        ),
    },
    "riscv64": {
        "halt": (
            "addi zero, zero, 0; wfi; addi zero, zero, 0; wfi",
            "13000000730050101300000073005010",
        ),
        "reads": (
            "lbu a0, 0(a1); lhu a2, 2(a1); lwu a3, 4(a1); ld a4, 8(a1); lb a5, 1(a1); wfi",
            "03c5050003d6250083e6450003b785008387150073005010",
        ),
        "writes": (
            "sb a0, 0(a1); sh a0, 2(a1); sw a0, 4(a1); sd a0, 8(a1); wfi",
            "2380a5002391a50023a2a50023b4a50073005010",
        ),
        "spin": (
            "jal zero, 0",
            "6f000000",
        ),
        "store": (
            "sw a0, 0(a1); wfi",
            "23a0a50073005010",
        ),
        "count": (
            "addi a0, a0, 1; addi a0, a0, 1; addi a0, a0, 1; wfi",
            "13051500130515001305150073005010",
        ),
    },
}

_FLAT: Final = 0xFFFF_FFFF
_START: Final[dict[str, dict[str, int]]] = {
    # 64-bit code at ring 0, one page of 2 MiB mapped to itself.
    "x86_64": {
        "cr0": 0x8000_0031,
        "cr3": 0x1000,
        "cr4": 0x620,
        "efer": 0x500,
        "rflags": 2,
        "cs.base": 0,
        "cs.limit": _FLAT,
        "cs.selector": 8,
        "cs.access": 0xA09B,
        **{
            f"{name}.{part}": value
            for name in ("ds", "es", "ss")
            for part, value in (("base", 0), ("limit", _FLAT), ("selector", 16), ("access", 0xC093))
        },
        "rip": _LAYOUTS["x86_64"].code,
        "rsp": _LAYOUTS["x86_64"].stack,
    },
    "aarch64": {
        "pstate": 0x3C5,
        "sctlr_el1": 0,
        "cpacr_el1": 3 << 20,
        "pc": _LAYOUTS["aarch64"].code,
        "sp": _LAYOUTS["aarch64"].stack,
    },
    "riscv64": {"mode": 1, "pc": _LAYOUTS["riscv64"].code, "x2": _LAYOUTS["riscv64"].stack},
}
PC: Final = {"x86_64": "rip", "aarch64": "pc", "riscv64": "pc"}


class Failed(Exception):
    """A check found something wrong; the message says what."""


class Bench:
    """What a check works with: machines in front of one of the pieces of code."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor, self.isa = hypervisor, hypervisor.isa
        self.at = _LAYOUTS[self.isa]
        self.contexts: list[dict[str, Any]] = []

    @contextmanager
    def machine(
        self, name: str, values: dict[str, int], *, log_dirty: bool = False
    ) -> Iterator[tuple[Vm, Vcpu, memoryview]]:
        """A VM with one vCPU in front of a piece of code; the view is of the guest's memory."""
        memory = HostMemory(_RAM + _ALIGNMENT)
        skip = -memory.address % _ALIGNMENT
        view = memory.view[skip : skip + _RAM]
        if self.isa == "x86_64":
            for at, entry in ((0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x83)):
                view[at : at + 8] = struct.pack("<Q", entry)
        self.put(view, self.at.code, bytes.fromhex(CODE[self.isa][name][1]))
        with self.hypervisor.create_vm(VmConfig()) as vm:
            vm.map(self.at.ram, memory, offset=skip, size=_RAM, log_dirty=log_dirty)
            with vm.create_vcpu() as vcpu:
                vcpu.set_registers({**_START[self.isa], **values})
                watch(vcpu, self.contexts)
                yield vm, vcpu, view
        view.release()
        memory.close()

    def put(self, view: memoryview, guest: int, data: bytes) -> None:
        view[guest - self.at.ram : guest - self.at.ram + len(data)] = data

    def get(self, view: memoryview, guest: int, size: int) -> bytes:
        return bytes(view[guest - self.at.ram : guest - self.at.ram + size])


def watch(vcpu: Vcpu, contexts: list[dict[str, Any]]) -> None:
    """Note each exit as the hypervisor gave it, with the registers, and what ``run`` made of it (None: it went on)."""
    if not hasattr(vcpu, "observer"):
        return
    real = vcpu.run

    def observe(raw: bytes, registers: dict[str, int], code: bytes) -> None:
        nonzero = {name: value for name, value in registers.items() if value}
        contexts.append({"raw": raw.hex(), "registers": nonzero, "code": code.hex(), "exit": None})

    def run(bus: Any = None) -> Exit:
        before = len(contexts)
        found = real(bus)
        if len(contexts) > before:
            contexts[-1]["exit"] = repr(found)
        return found

    vcpu.observer = observe
    vcpu.run = run  # type: ignore[method-assign]


def same(found: object, wanted: object, what: str = "") -> None:
    """Raise Failed if two values differ."""
    if found != wanted:
        raise Failed(f"{what + ': ' if what else ''}{found!r}, not {wanted!r}")


def halts(vcpu: Vcpu) -> None:
    same(vcpu.run(), Halt())


# -- the checks --------------------------------------------------------------------------------------------------------


def halt(bench: Bench) -> None:
    with bench.machine("halt", {}) as (_, vcpu, _view):
        before = vcpu[PC[bench.isa]]
        halts(vcpu)
        length = {"x86_64": 2, "aarch64": 8, "riscv64": 8}[bench.isa]
        same(vcpu[PC[bench.isa]], before + length, "the pc behind the halt")
        halts(vcpu)
        same(vcpu[PC[bench.isa]], before + 2 * length, "the pc behind the second halt")


def registers(bench: Bench) -> None:
    with bench.machine("halt", {}) as (_, vcpu, _view):
        if bench.isa == "x86_64":
            values = {name: 0x0101_0101_0101_0101 * (i + 1) for i, name in enumerate(("rax", "rbx", "rsi"))}
            values |= {f"r{i}": (1 << 63) + i for i in range(8, 16)}
            values |= {"fs.base": 0x1234_5000, "gs.selector": 0x18, "cr2": 0xABC}
        else:
            values = {f"x{i}": (1 << 63) + i for i in range(31)}
            values |= {"tpidr_el1": 0x77, "vbar_el1": 0x4000_0800, "sp": 0x4000_4000}
        vcpu.set_registers(values)
        same(vcpu.registers(values), values)
        halts(vcpu)
        same(vcpu.registers(values), values, "after a run")


def vectors(bench: Bench) -> None:
    letter = {"x86_64": "xmm", "aarch64": "v"}[bench.isa]
    value = 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210
    with bench.machine("vectors", {}) as (_, vcpu, _view):
        if bench.isa == "x86_64":
            vcpu["cr4"] = vcpu["cr4"] | 1 << 9
        vcpu[f"{letter}0"] = value
        halts(vcpu)
        same(vcpu[f"{letter}1"], value, f"{letter}1")


def ports(bench: Bench) -> None:
    with bench.machine("ports", {"rax": 0x1122_3344_5566_7788, "rdx": 0x3F8}) as (_, vcpu, _view):
        same(vcpu.run(), PortIo(0x10, 1, True, 1, b"\x88"))
        same(vcpu.run(), PortIo(0x11, 2, True, 1, b"\x88\x77"))
        same(vcpu.run(), PortIo(0x3F8, 4, True, 1, b"\x88\x77\x66\x55"))
        same(vcpu.run(), PortIo(0x12, 1, False))
        vcpu.complete(0xA1)
        same(vcpu.run(), PortIo(0x3F8, 2, False))
        same(vcpu["rax"], 0x1122_3344_5566_77A1, "rax after IN of 1 byte")
        vcpu.complete(0xA2A1)
        same(vcpu.run(), PortIo(0x3F8, 4, False))
        same(vcpu["rax"], 0x1122_3344_5566_A2A1, "rax after IN of 2 bytes")
        vcpu.complete(0xA4A3_A2A1)
        halts(vcpu)
        same(vcpu["rax"], 0xA4A3_A2A1, "rax after IN of 4 bytes")


def port_strings(bench: Bench) -> None:
    data = bench.at.data
    with bench.machine("strings", {"rsi": data, "rdi": data + 0x100, "rcx": 5, "rdx": 0x3F8}) as (
        _,
        vcpu,
        view,
    ):
        bench.put(view, data, b"hello")
        out = b""
        while len(out) < 5:
            found = vcpu.run()
            if not isinstance(found, PortIo) or not found.is_write or found.size != 1:
                raise Failed(f"{found!r} in the middle of OUTS")
            out += found.data
        same(out, b"hello")
        got = 0
        while got < 2:
            found = vcpu.run()
            if not isinstance(found, PortIo) or found.is_write or found.size != 2:
                raise Failed(f"{found!r} in the middle of INS")
            answer = b"ABCD"[2 * got : 2 * (got + found.times)]
            vcpu.complete(answer if found.times > 1 else int.from_bytes(answer, "little"))
            got += found.times
        halts(vcpu)
        same(bench.get(view, data + 0x100, 4), b"ABCD")


def reads(bench: Bench) -> None:
    device = bench.at.device
    base = {"x86_64": "rdi", "aarch64": "x1", "riscv64": "x11"}[bench.isa]
    names = {
        "x86_64": ("rax", "rbx", "rcx", "r9", "rdx"),
        "aarch64": ("x0", "x2", "x3", "x4", "x5"),
        "riscv64": ("x10", "x12", "x13", "x14", "x15"),
    }
    # A load of AL and BX leaves the rest of the register; all others clear it.
    before = dict.fromkeys(names[bench.isa], 0x1122_3344_5566_7788)
    kept = {"x86_64": (0x1122_3344_5566_7700, 0x1122_3344_5566_0000, 0, 0, 0)}.get(bench.isa, (0, 0, 0, 0, 0))
    sign = 0xFFFF_FF85 if bench.isa == "x86_64" else 0xFFFF_FFFF_FFFF_FF85
    answers = (0x81, 0x8382, 0x8483_8281, 0x8887_8685_8483_8281, 0x85)
    with bench.machine("reads", {base: device, **before}) as (_, vcpu, _view):
        for (size, offset), answer in zip(((1, 0), (2, 2), (4, 4), (8, 8), (1, 1)), answers, strict=True):
            same(vcpu.run(), Mmio(device + offset, size, False))
            vcpu.complete(answer)
        halts(vcpu)
        wanted = [keep | value for keep, value in zip(kept, (*answers[:4], sign), strict=True)]
        same([vcpu[name] for name in names[bench.isa]], wanted)


def writes(bench: Bench) -> None:
    device, value = bench.at.device, 0x1122_3344_5566_7788
    base, source = {"x86_64": ("rdi", "rax"), "aarch64": ("x1", "x0"), "riscv64": ("x11", "x10")}[bench.isa]
    with bench.machine("writes", {base: device, source: value}) as (_, vcpu, _view):
        for size, offset in ((1, 0), (2, 2), (4, 4), (8, 8)):
            same(vcpu.run(), Mmio(device + offset, size, True, value & (1 << 8 * size) - 1))
        if bench.isa == "x86_64":
            same(vcpu.run(), Mmio(device + 16, 4, True, 0x1234_5678))
        halts(vcpu)


def modify(bench: Bench) -> None:
    device = bench.at.device
    with bench.machine("modify", {"rdi": device, "rax": 0x11}) as (_, vcpu, _view):
        same(vcpu.run(), Mmio(device, 4, False))
        vcpu.complete(0xFFFF_FFF0)
        same(vcpu.run(), Mmio(device, 4, True, 1))
        halts(vcpu)
        same(vcpu["rflags"] & 0x41, 1, "carry and zero")


def copy(bench: Bench) -> None:
    device, data = bench.at.device, bench.at.data
    with bench.machine("copy", {"rsi": data, "rdi": device, "rcx": 3}) as (_, vcpu, view):
        bench.put(view, data, b"abc")
        for at, byte in enumerate(b"abc"):
            same(vcpu.run(), Mmio(device + at, 1, True, byte))
        halts(vcpu)
        same(vcpu["rcx"], 0, "rcx")


def writeback(bench: Bench) -> None:
    device = bench.at.device
    with bench.machine("writeback", {"x1": device}) as (_, vcpu, _view):
        same(vcpu.run(), Mmio(device, 8, False))
        vcpu.complete(0x1_0000_0005)
        same(vcpu.run(), Mmio(device + 12, 4, True, 5))
        halts(vcpu)
        same(vcpu["x1"], device + 12, "x1")


def pairs(bench: Bench) -> None:
    device = bench.at.device
    with bench.machine("pairs", {"x1": device}) as (_, vcpu, _view):
        for at, answer in ((0, 5), (8, 6)):
            same(vcpu.run(), Mmio(device + at, 8, False))
            vcpu.complete(answer)
        same(vcpu.run(), Mmio(device + 16, 8, True, 6))
        same(vcpu.run(), Mmio(device + 24, 8, True, 5))
        halts(vcpu)


def kick(bench: Bench) -> None:
    with bench.machine("spin", {}) as (_, vcpu, _view):
        vcpu.kick()
        same(vcpu.run(), Interrupted(), "a kick before the run")
        timer = threading.Timer(0.05, vcpu.kick)
        timer.start()
        begin = time.monotonic()
        same(vcpu.run(), Interrupted(), "a kick during the run")
        timer.join()
        if time.monotonic() - begin > 2:
            raise Failed("it took more than two seconds")


def dirty_log(bench: Bench) -> None:
    base = {"x86_64": "rdi", "aarch64": "x1", "riscv64": "x11"}[bench.isa]
    with bench.machine("store", {base: bench.at.data}, log_dirty=True) as (vm, vcpu, _view):
        vm.dirty(bench.at.ram)
        halts(vcpu)
        if bench.at.data not in vm.dirty(bench.at.ram):
            raise Failed(f"the page {bench.at.data:#x} was written, and is not in the log")
        if bench.at.data in vm.dirty(bench.at.ram):
            raise Failed("a page stays in the log after it was reported")


def read_only(bench: Bench) -> None:
    base, source = {"x86_64": ("rdi", "rax"), "aarch64": ("x1", "x0"), "riscv64": ("x11", "x10")}[bench.isa]
    device = bench.at.device
    memory = HostMemory(2 * _ALIGNMENT)
    with bench.machine("store", {base: device, source: 7}) as (vm, vcpu, _view):
        vm.map(device, memory, offset=-memory.address % _ALIGNMENT, size=_ALIGNMENT, writable=False)
        same(vcpu.run(), Mmio(device, 4, True, 7))
        halts(vcpu)
    same(any(memory.view), False, "the memory has changed")
    memory.close()


def single_step(bench: Bench) -> None:
    length = {"x86_64": 2, "aarch64": 4, "riscv64": 4}[bench.isa]
    with bench.machine("count", {}) as (_, vcpu, _view):
        vcpu.debug(step=True)
        for at in (1, 2):
            same(vcpu.run(), Debug(bench.at.code + at * length, DebugKind.STEP))
        vcpu.debug()
        halts(vcpu)


def breakpoints(bench: Bench) -> None:
    length = {"x86_64": 2, "aarch64": 4, "riscv64": 4}[bench.isa]
    counter = {"x86_64": "rax", "aarch64": "x0", "riscv64": "x10"}[bench.isa]
    with bench.machine("count", {counter: 0}) as (_, vcpu, _view):
        vcpu.debug(breakpoints=[bench.at.code + length])
        stop = bench.at.code + length
        same(vcpu.run(), Debug(stop, DebugKind.BREAKPOINT, stop))
        same(vcpu[counter], 1, counter)
        halts(vcpu)
        same(vcpu[counter], 3, counter)


def triple_fault(bench: Bench) -> None:
    with bench.machine("fault", {"idt.limit": 0}) as (_, vcpu, _view):
        same(vcpu.run(), Shutdown(ShutdownKind.TRIPLE_FAULT))


def power_off(bench: Bench) -> None:
    with bench.machine("call", {"x0": 0x8400_0008}) as (_, vcpu, _view):
        same(vcpu.run(), Shutdown(ShutdownKind.OFF))


def save(bench: Bench) -> None:
    counter = {"x86_64": "rax", "aarch64": "x0", "riscv64": "x10"}[bench.isa]
    with bench.machine("count", {counter: 40}) as (_, vcpu, _view):
        state = vcpu.save()
        halts(vcpu)
        same(vcpu[counter], 43, counter)
        vcpu.restore(state)
        same(vcpu[counter], 40, f"{counter} after restore")
        halts(vcpu)
        same(vcpu[counter], 43, f"{counter} after the second run")


def many(bench: Bench) -> None:
    for _ in range(50):
        bench.contexts.clear()  # one is enough for the record
        with bench.machine("halt", {}) as (_vm, vcpu, _view):
            halts(vcpu)


class Check(NamedTuple):
    """One thing to try: on the ISAs named (empty: on all), where the hypervisor has the features."""

    name: str
    does: Callable[[Bench], None]
    needs: tuple[Feature, ...] = ()
    isas: tuple[str, ...] = ("x86_64", "aarch64", "riscv64")


_X86, _ARM = ("x86_64",), ("aarch64",)
_BOTH: Final = _X86 + _ARM
CHECKS: Final = (
    Check("halt", halt, (Feature.HALT,)),
    Check("registers", registers, (Feature.SYSTEM_REGISTERS,), _BOTH),
    Check("vector registers", vectors, (Feature.VECTOR_REGISTERS,), _BOTH),
    Check("ports", ports, (Feature.PORT_IO,), _X86),
    Check("port strings", port_strings, (Feature.STRING_IO,), _X86),
    Check("device reads", reads, (Feature.MMIO,)),
    Check("device writes", writes, (Feature.MMIO,)),
    Check("read, modify, write", modify, (Feature.MMIO,), _X86),
    Check("copy to a device", copy, (Feature.MMIO,), _X86),
    Check("accesses with writeback", writeback, (Feature.MMIO,), _ARM),
    Check("pairs", pairs, (Feature.MMIO,), _ARM),
    Check("kick", kick, (Feature.KICK,)),
    Check("log of written pages", dirty_log, (Feature.DIRTY_LOG,)),
    Check("read-only memory", read_only, (Feature.READ_ONLY,)),
    Check("single step", single_step, (Feature.SINGLE_STEP,)),
    Check("breakpoints", breakpoints, (Feature.BREAKPOINTS,)),
    Check("triple fault", triple_fault, (), _X86),
    Check("power off", power_off, (), _ARM),
    Check("save and restore", save, (Feature.SAVE,)),
    Check("fifty machines", many),
)


class Outcome(NamedTuple):
    """``result`` is passed, failed or skipped; ``contexts`` are the exits as the hypervisor gave them, in hex."""

    name: str
    result: str
    message: str = ""
    contexts: tuple[dict[str, Any], ...] = ()


def suite(hypervisor: Hypervisor) -> Iterator[tuple[str, Callable[[], None]]]:
    """The conformance suite of :mod:`vm_accel.testing`, as far as the hypervisor has what it needs. It needs keystone."""
    from vm_accel.testing import checks
    from vm_accel.testing.conformance import applicable, run_snippet

    for snippet in applicable(hypervisor):
        for bus in (False, True):
            how = "on a bus" if bus else "as exits"
            yield f"suite: {snippet.name} {how}", partial(run_snippet, hypervisor, snippet, bus=bus)
    for check in checks.CHECKS:
        if not checks.lacking(hypervisor, check):
            yield f"suite: {check.name}", partial(check.run, hypervisor)


def _result(action: Callable[[], None]) -> tuple[str, str]:
    try:
        action()
    except (Failed, AssertionError) as error:
        return "failed", str(error)
    except VmError as error:
        return "failed", f"{error.code} {error}"
    except Exception as error:  # noqa: BLE001  a defect of ours is a result, too
        return "failed", f"{type(error).__name__}: {error}"
    return "passed", ""


def run(hypervisor: Hypervisor, *, everything: bool = False) -> list[Outcome]:
    """Do every check that fits, and with ``everything`` the conformance suite. Nothing is raised for one that fails."""
    out = []
    for check in CHECKS:
        if hypervisor.isa not in check.isas:
            continue
        lacks = [need.value for need in check.needs if need not in hypervisor.features]
        if lacks:
            out.append(Outcome(check.name, "skipped", f"no {', '.join(lacks)} here"))
            continue
        bench = Bench(hypervisor)
        result, message = _result(partial(check.does, bench))
        out.append(Outcome(check.name, result, message, tuple(bench.contexts)))
    if everything:
        out += [Outcome(name, *_result(action)) for name, action in suite(hypervisor)]
    return out


class Named(Protocol):
    """A back end, as far as a record names it."""

    @property
    def name(self) -> str: ...
    @property
    def isa(self) -> str: ...


def record(hypervisor: Named, outcomes: list[Outcome], *, provenance: str = "hardware") -> dict[str, Any]:
    """What ``--record`` writes: no names of machines or users, only what is needed to read the exits."""
    try:
        version = metadata.version("vm-accel")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {
        "format": FORMAT,
        "backend": hypervisor.name,
        "isa": hypervisor.isa,
        "provenance": provenance,
        "host": {
            "system": platform.system(),
            "release": platform.release() if provenance == "hardware" else "",
            "machine": platform.machine(),
            "byteorder": sys.byteorder,
        },
        "version": version if provenance == "hardware" else "",
        "checks": [
            {
                "name": one.name,
                "result": one.result,
                "message": one.message,
                "contexts": list(one.contexts),
            }
            for one in outcomes
        ],
    }
