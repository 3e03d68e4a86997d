"""The WHPX back end on its simulator: real guest code on /dev/kvm behind the entry points of WinHvPlatform.dll."""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keystone
import pytest

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.exits import (
    Debug,
    DebugKind,
    FailEntry,
    Halt,
    Interrupted,
    IrqWindow,
    Mmio,
    PortIo,
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
)
from vm_accel.interface import Feature, VmConfig
from vm_accel.testing.scenes import Bus, Ram
from vm_accel.testing.simulators import build, lacking
from vm_accel.whpx import Whpx, WhpxVm, abi
from vm_accel.whpx.vcpu import WhpxVcpu
from vm_core.errors import UsageError

pytestmark = [pytest.mark.kvm, pytest.mark.skipif(bool(lacking("whpx")), reason=lacking("whpx"))]

TABLES, CODE, STACK, DEVICE = 0x1000, 0x4000, 0x8000, 0x10_0000
RAM = 0x10000


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("whpx", tmp_path_factory.mktemp("whpx"))


@pytest.fixture
def hypervisor(simulator: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whpx]:
    monkeypatch.setenv("VM_WHPX_LIBRARY", str(simulator))
    with Whpx() as opened:
        yield opened


@pytest.fixture
def ram() -> Ram:
    memory = Ram(RAM)
    entries = {TABLES: TABLES + 0x1003, TABLES + 0x1000: TABLES + 0x2003, TABLES + 0x2000: 0x83}
    for at, entry in entries.items():
        memory.put(at, struct.pack("<Q", entry))
    return memory


@pytest.fixture
def vm(hypervisor: Whpx, ram: Ram) -> WhpxVm:
    made = hypervisor.create_vm(VmConfig(msr_exits=True, cpus=2))
    made.map(0, ram, log_dirty=True)
    return made


def assemble(text: str, mode: int = 64) -> bytes:
    modes = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}
    code, _ = keystone.Ks(keystone.KS_ARCH_X86, modes[mode]).asm(text, CODE)
    return bytes(code)


LONG = {
    "cr0": 0x8000_0031,
    "cr3": TABLES,
    "cr4": 0x620,
    "efer": 0x500,
    "cs.base": 0,
    "cs.limit": 0xFFFF_FFFF,
    "cs.selector": 8,
    "cs.access": 0xA09B,
    **{
        f"{name}.{part}": value
        for name in ("ds", "es", "ss")
        for part, value in (("base", 0), ("limit", 0xFFFF_FFFF), ("selector", 16), ("access", 0xC093))
    },
    "rflags": 2,
    "rsp": STACK,
    "rip": CODE,
}
REAL = {"cs.base": 0, "cs.selector": 0, "rip": CODE, "rflags": 2, "rsp": STACK}


def started(vm: WhpxVm, ram: Ram, text: str, mode: int = 64, **registers: int) -> WhpxVcpu:
    """A vCPU in front of a piece of code."""
    vcpu = vm.create_vcpu()
    ram.put(CODE, assemble(text, mode) + b"\xf4")
    vcpu.set_registers({**(LONG if mode == 64 else REAL), **registers})
    return vcpu


def test_what_the_platform_lacks_is_said(hypervisor: Whpx) -> None:
    assert Feature.DIRTY_LOG in hypervisor.features
    assert Feature.IRQCHIP not in hypervisor.features
    for config in (VmConfig(pit=True), VmConfig(irqchip=True), VmConfig(dirty_ring=64)):
        with pytest.raises(AcceleratorUnavailable):
            hypervisor.create_vm(config)


def test_no_hypervisor_behind_the_library(simulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VM_WHPX_LIBRARY", str(simulator))
    monkeypatch.setenv("FAKE_WHPX_ABSENT", "1")
    found = Whpx.probe()
    assert not found.available
    assert "bcdedit" in found.hint


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VM_WHPX_LIBRARY", "/nowhere/WinHvPlatform.dll")
    assert "cannot be loaded" in Whpx.probe().reason
    monkeypatch.delenv("VM_WHPX_LIBRARY")
    assert Whpx.probe().reason == "WHPX is a part of Windows"


def test_the_simulator_refuses_unaligned_buffers(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop")
    ffi, lib = vm.library.ffi, vm.library.lib
    store = ffi.new("uint8_t[]", 512)
    odd = store + (8 - int(ffi.cast("uintptr_t", store))) % 16
    names = ffi.new("uint32_t[]", [abi.Register.Rax])
    values = ffi.cast("WHV_REGISTER_VALUE *", odd)
    assert lib.WHvGetVirtualProcessorRegisters(vm.handle, 0, names, 1, values) & 0xFFFF_FFFF == 0x8007_0057
    assert lib.WHvRunVirtualProcessor(vm.handle, 0, odd, 224) & 0xFFFF_FFFF == 0x8007_0057
    assert isinstance(vcpu.run(), Halt)


def test_it_leaves_the_instruction_pointer_on_the_access(vm: WhpxVm, ram: Ram) -> None:
    """Of the simulator, not of the back end: what makes WHPX different from KVM."""
    started(vm, ram, "mov [rdi], eax; out dx, al", rdi=DEVICE, rax=7)
    context, _store = abi.aligned("WHV_RUN_VP_EXIT_CONTEXT")
    for _ in range(2):
        assert vm.library.lib.WHvRunVirtualProcessor(vm.handle, 0, context, 224) == 0
        assert context.ExitReason == abi.ExitReason.MemoryAccess
        assert context.VpContext.Rip == CODE
        assert bytes(context.MemoryAccess.InstructionBytes)[:2] == b"\x89\x07"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ports(vm: WhpxVm, ram: Ram, size: int) -> None:
    register = {1: "al", 2: "ax", 4: "eax"}[size]
    vcpu = started(vm, ram, f"out dx, {register}; in {register}, 0x71; out 0x70, {register}", rax=0x1122334455667788, rdx=0x3F8)  # fmt: skip
    mask = (1 << 8 * size) - 1
    written = (0x1122334455667788 & mask).to_bytes(size, "little")
    assert vcpu.run() == PortIo(0x3F8, size, True, 1, written)
    assert vcpu["rip"] == CODE + (2 if size == 2 else 1)
    assert vcpu.run() == PortIo(0x71, size, False)
    vcpu.complete(0xA1B2C3D4)
    answer = 0xA1B2C3D4 & mask
    # IN to EAX clears the upper half; to AX and AL it does not.
    assert vcpu["rax"] == (answer if size == 4 else 0x1122334455667788 & ~mask | answer)
    assert vcpu.run() == PortIo(0x70, size, True, 1, answer.to_bytes(size, "little"))
    assert isinstance(vcpu.run(), Halt)


def test_a_read_without_an_answer_is_all_ones(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "in al, 0x60; mov ebx, [rdi]", rdi=DEVICE, rax=0, rbx=0)
    assert vcpu.run() == PortIo(0x60, 1, False)
    assert vcpu.run() == Mmio(DEVICE, 4, False)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu.registers(["rax", "rbx"]) == {"rax": 0xFF, "rbx": 0xFFFF_FFFF}
    with pytest.raises(UsageError):
        vcpu.complete(1)


@pytest.mark.parametrize(
    ("text", "access", "answer", "register", "result"),
    [
        ("mov al, [rdi]", Mmio(DEVICE, 1, False), 0x5A, "rax", 0x8877665544332_25A & (1 << 64) - 1),
        ("mov ah, [rdi]", Mmio(DEVICE, 1, False), 0x5A, "rax", 0x8877665544335A11),
        ("mov ax, [rdi]", Mmio(DEVICE, 2, False), 0x1234, "rax", 0x8877665544331234),
        ("mov eax, [rdi]", Mmio(DEVICE, 4, False), 0x89ABCDEF, "rax", 0x89ABCDEF),
        ("mov r9, [rdi + 8]", Mmio(DEVICE + 8, 8, False), 1 << 63, "r9", 1 << 63),
        ("movzx eax, byte ptr [rdi]", Mmio(DEVICE, 1, False), 0xFF, "rax", 0xFF),
        ("movsx rax, word ptr [rdi]", Mmio(DEVICE, 2, False), 0x8000, "rax", 0xFFFF_FFFF_FFFF_8000),
        ("movsxd rax, dword ptr [rdi]", Mmio(DEVICE, 4, False), 1 << 31, "rax", 0xFFFF_FFFF_8000_0000),
        ("mov [rdi], al", Mmio(DEVICE, 1, True, 0x11), None, "rax", 0x8877665544332211),
        ("mov [rdi], ah", Mmio(DEVICE, 1, True, 0x22), None, "rax", 0x8877665544332211),
        ("mov [rdi + 4*rcx], rax", Mmio(DEVICE + 8, 8, True, 0x8877665544332211), None, "rcx", 2),
        ("mov dword ptr [rdi], 0x12345678", Mmio(DEVICE, 4, True, 0x12345678), None, "rcx", 2),
        ("mov qword ptr [rdi], -2", Mmio(DEVICE, 8, True, (1 << 64) - 2), None, "rcx", 2),
        ("mov word ptr [rdi + 0x100], 0xbeef", Mmio(DEVICE + 0x100, 2, True, 0xBEEF), None, "rcx", 2),
    ],
)
def test_moves(
    vm: WhpxVm, ram: Ram, text: str, access: Mmio, answer: int | None, register: str, result: int
) -> None:
    if text == "mov al, [rdi]":
        result = 0x887766554433225A
    vcpu = started(vm, ram, text, rdi=DEVICE, rax=0x8877665544332211, rcx=2, r9=0)
    assert vcpu.run() == access
    if answer is not None:
        assert vcpu["rip"] == CODE  # until it is answered
        vcpu.complete(answer)
    assert vcpu["rip"] == CODE + len(assemble(text))
    assert vcpu[register] == result
    assert isinstance(vcpu.run(), Halt)
    assert vcpu[register] == result


@pytest.mark.parametrize(
    ("text", "accesses", "answer", "expected"),
    [
        ("add [rdi], eax", [Mmio(DEVICE, 4, False), Mmio(DEVICE, 4, True, 0xFFFF_FFF0 + 0x11 & 0xFFFF_FFFF)], 0xFFFF_FFF0, {"rax": 0x11}),
        ("xchg [rdi], ecx", [Mmio(DEVICE, 4, False), Mmio(DEVICE, 4, True, 2)], 0xAB, {"rcx": 0xAB}),
        ("cmp dword ptr [rdi], 5", [Mmio(DEVICE, 4, False)], 5, {"rflags": 0x46}),
        ("test byte ptr [rdi], 0x80", [Mmio(DEVICE, 1, False)], 0x80, {"rflags": 0x82}),
        ("or byte ptr [rdi], 1", [Mmio(DEVICE, 1, False), Mmio(DEVICE, 1, True, 0x41)], 0x40, {"rcx": 2}),
        ("movdqu xmm3, [rdi]", [Mmio(DEVICE, 8, False), Mmio(DEVICE + 8, 8, False)], 7, {"xmm3": 7 << 64 | 7}),
        ("movdqu [rdi], xmm4", [Mmio(DEVICE, 8, True, 0), Mmio(DEVICE + 8, 8, True, 0)], None, {"rcx": 2}),
    ],
)  # fmt: skip
def test_other_instructions_by_their_text(
    vm: WhpxVm, ram: Ram, text: str, accesses: list[Mmio], answer: int | None, expected: dict[str, int]
) -> None:
    vcpu = started(vm, ram, text, rdi=DEVICE, rax=0x11, rcx=2)
    for access in accesses:
        assert vcpu.run() == access
        if not access.is_write:
            vcpu.complete(answer or 0)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu.registers(expected) == expected
    assert vcpu["rip"] == CODE + len(assemble(text)) + 1


def test_repeated_strings_between_memory_and_a_device(vm: WhpxVm, ram: Ram) -> None:
    ram.put(0x6000, bytes(range(1, 13)))
    vcpu = started(vm, ram, ".byte 0xf3, 0xa5", rsi=0x6000, rdi=DEVICE, rcx=3)
    found = [vcpu.run() for _ in range(3)]
    values = struct.unpack("<3I", bytes(range(1, 13)))
    assert found == [Mmio(DEVICE + 4 * i, 4, True, value) for i, value in enumerate(values)]
    assert isinstance(vcpu.run(), Halt)
    assert vcpu.registers(["rsi", "rdi", "rcx"]) == {"rsi": 0x600C, "rdi": DEVICE + 12, "rcx": 0}


def test_strings_from_a_device_downwards(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "std; rep movsw; cld", rsi=DEVICE + 2, rdi=0x6002, rcx=2)
    for address, value in ((DEVICE + 2, 0xBBAA), (DEVICE, 0xDDCC)):
        assert vcpu.run() == Mmio(address, 2, False)
        vcpu.complete(value)
    assert isinstance(vcpu.run(), Halt)
    assert ram.get(0x6000, 4) == b"\xcc\xdd\xaa\xbb"
    assert vcpu["rcx"] == 0


def test_fill_and_load(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "rep stosb; .byte 0xad", rdi=DEVICE, rsi=DEVICE + 0x10, rcx=2, rax=0x77)
    assert [vcpu.run(), vcpu.run()] == [Mmio(DEVICE, 1, True, 0x77), Mmio(DEVICE + 1, 1, True, 0x77)]
    assert vcpu.run() == Mmio(DEVICE + 0x10, 4, False)
    vcpu.complete(0xCAFE)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu.registers(["rax", "rsi"]) == {"rax": 0xCAFE, "rsi": DEVICE + 0x14}


def test_port_strings(vm: WhpxVm, ram: Ram) -> None:
    ram.put(0x6000, b"hello!")
    vcpu = started(vm, ram, "rep outsb; mov ecx, 3; rep insw", rsi=0x6000, rdi=0x6100, rcx=6, rdx=0x3F8)
    assert vcpu.run() == PortIo(0x3F8, 1, True, 6, b"hello!")
    found = vcpu.run()
    assert found == PortIo(0x3F8, 2, False, 3)
    vcpu.complete(b"ABCDEF")
    assert isinstance(vcpu.run(), Halt)
    assert ram.get(0x6100, 6) == b"ABCDEF"
    assert vcpu.registers(["rsi", "rdi", "rcx"]) == {"rsi": 0x6006, "rdi": 0x6106, "rcx": 0}


def test_a_bus_is_called_inside_the_run(vm: WhpxVm, ram: Ram) -> None:
    text = "in ax, dx; out dx, al; add [rdi], ebx; rep outsb"
    ram.put(0x6000, b"xy")
    vcpu = started(vm, ram, text, rdi=DEVICE, rdx=0x80, rbx=1, rsi=0x6000, rcx=2)
    bus = Bus()
    assert isinstance(vcpu.run(bus), Halt)
    assert bus.seen == [
        ("in", 0x80, 2),
        ("out", 0x80, 1, 0x22),
        ("r", DEVICE, 4),
        ("w", DEVICE, 4, 0x1111_1112),
        ("out", 0x80, 1, ord("x")),
        ("out", 0x80, 1, ord("y")),
    ]


def test_what_a_device_raises_passes_through(vm: WhpxVm, ram: Ram) -> None:
    class Broken(Bus):
        def read(self, address: int, size: int) -> int:
            raise RuntimeError("broken")

    vcpu = started(vm, ram, "mov eax, [rdi]", rdi=DEVICE)
    with pytest.raises(RuntimeError, match="broken"):
        vcpu.run(Broken())
    assert isinstance(vcpu.run(), Halt)
    assert vcpu["rax"] == 0xFFFF_FFFF


def test_sixteen_bit_code(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(
        vm, ram, "mov ax, 0xb800; mov es, ax; mov di, 0x8000; mov al, 0x41; stosb; out 0xe9, al", 16
    )
    # Beyond the memory of 64 KiB; STOS goes through ES, whose base counts here.
    assert vcpu.run() == Mmio(0xB8000 + 0x8000, 1, True, 0x41)
    assert vcpu["rdi"] & 0xFFFF == 0x8001
    assert vcpu.run() == PortIo(0xE9, 1, True, 1, b"A")
    assert isinstance(vcpu.run(), Halt)


@pytest.mark.parametrize("where", ["behind", "on"])
def test_running_after_a_halt_goes_on_behind_it(
    vm: WhpxVm, ram: Ram, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WHPX_HALT", where)
    vcpu = started(vm, ram, "hlt; out 0x10, al", rax=3)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu["rip"] == CODE + 1
    assert vcpu.run() == PortIo(0x10, 1, True, 1, b"\x03")


def test_a_triple_fault_is_a_shutdown(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "ud2", **{"idt.limit": 0})
    assert vcpu.run() == Shutdown(ShutdownKind.TRIPLE_FAULT)


def test_code_where_nothing_is(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "jmp rdi", rdi=DEVICE)
    found = vcpu.run()
    assert isinstance(found, FailEntry)
    assert f"{DEVICE:#x}" in found.reason


def test_model_specific_registers(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "rdmsr; wrmsr", rcx=0x4B564DFF, rax=0, rdx=0)
    assert vcpu.run() == SysReg(SysRegSpace.MSR, 0x4B564DFF, False)
    vcpu.complete(0x1234_5678_9ABC_DEF0)
    assert vcpu.run() == SysReg(SysRegSpace.MSR, 0x4B564DFF, True, 0x1234_5678_9ABC_DEF0)
    vcpu.complete()
    assert isinstance(vcpu.run(), Halt)


def test_a_refused_msr_is_a_general_protection_fault(vm: WhpxVm, ram: Ram) -> None:
    """The handler of vector 13 halts, with the address of RDMSR on its stack. In real mode, whose events every KVM delivers."""
    handler = 0x5000
    ram.put(handler, b"\xf4")
    ram.put(13 * 4, struct.pack("<HH", handler, 0))
    vcpu = started(vm, ram, "nop; rdmsr", 16, rcx=0x4B564DFF)
    assert isinstance(vcpu.run(), SysReg)
    vcpu.complete(fault=True)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu["rip"] == handler + 1
    address, segment = struct.unpack("<HH", ram.get(vcpu["rsp"], 4))
    assert (address, segment) == (CODE + 1, 0)


def test_the_window_and_an_interrupt(vm: WhpxVm, ram: Ram) -> None:
    handler = 0x5000
    ram.put(handler, assemble("out 0x20, al; iret", 16))
    ram.put(0x30 * 4, struct.pack("<HH", handler, 0))
    vcpu = started(vm, ram, "nop; nop; sti; nop; nop", 16, rax=9)
    with pytest.raises(UsageError):
        vcpu.interrupt(0x30)
    vcpu.request_irq_window()
    assert vcpu.run() == IrqWindow()
    assert vcpu["rflags"] & 1 << 9
    vcpu.interrupt(0x30)
    assert vcpu.run() == PortIo(0x20, 1, True, 1, b"\x09")
    assert isinstance(vcpu.run(), Halt)


def test_single_steps_are_not_seen_by_the_guest(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop; inc eax; pushfq; pop rbx")
    vcpu.debug(step=True)
    stops = [vcpu.run() for _ in range(4)]
    assert stops == [Debug(CODE + at, DebugKind.STEP) for at in (1, 3, 4, 5)]
    vcpu.debug()
    assert isinstance(vcpu.run(), Halt)
    assert not vcpu["rflags"] & 1 << 8


def test_breakpoints_stop_before_and_go_on(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop; inc eax; dec ecx; jnz 0x4000", rax=0, rcx=2)
    vcpu.debug(breakpoints=[CODE])
    assert vcpu.run() == Debug(CODE, DebugKind.BREAKPOINT, CODE)  # where it begins, too
    vcpu.debug(breakpoints=[CODE + 1])
    for count in (0, 1):
        assert vcpu.run() == Debug(CODE + 1, DebugKind.BREAKPOINT, CODE + 1)
        assert vcpu["rax"] == count
    assert isinstance(vcpu.run(), Halt)
    with pytest.raises(UsageError, match="four"):
        vcpu.debug(breakpoints=range(5))


def test_watchpoints(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "mov eax, [0x6000]; inc dword ptr [0x6000]; nop")
    vcpu.debug(watchpoints=[(0x6000, 4, True)])
    found = vcpu.run()
    assert isinstance(found, Debug)
    assert (found.kind, found.address) == (DebugKind.WATCHPOINT, 0x6000)
    assert isinstance(vcpu.run(), Halt)


def test_the_guests_own_breakpoint(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop; int3; nop")
    vcpu.debug(trap_break=True)
    assert vcpu.run() == Debug(CODE + 1, DebugKind.INSTRUCTION)
    vcpu["rip"] = CODE + 2
    assert isinstance(vcpu.run(), Halt)


def test_a_kick_before_and_during_a_run(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "jmp 0x4000")
    vcpu.kick()
    vcpu.kick()
    assert vcpu.run() == Interrupted()
    thread = threading.Timer(0.05, vcpu.kick)
    thread.start()
    begin = time.monotonic()
    assert vcpu.run() == Interrupted()
    assert time.monotonic() - begin > 0.03
    thread.join()


def test_a_kick_that_comes_too_late_costs_no_second_exit(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "out 1, al; out 2, al")
    vcpu._running = True  # as if the run had not returned yet
    vcpu.kick()
    assert vcpu.run() == Interrupted()
    assert isinstance(vcpu.run(), PortIo)
    assert isinstance(vcpu.run(), PortIo)


def test_the_log_of_written_pages(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "mov [0x6000], eax; mov [0x9008], eax")
    vm.dirty(0)
    assert isinstance(vcpu.run(), Halt)
    assert set(vm.dirty(0)) >= {0x6000, 0x9000}
    assert not {0x6000, 0x9000} & set(vm.dirty(0))


def test_a_write_to_read_only_memory_is_an_access(hypervisor: Whpx, ram: Ram) -> None:
    made = hypervisor.create_vm()
    made.map(0, ram)
    rom = Ram(0x1000)
    rom.put(0, struct.pack("<I", 0xFEED))
    made.map(0x2_0000, rom, writable=False)
    vcpu = started(made, ram, "mov eax, [rdi]; mov [rdi], ecx", rdi=0x2_0000, rcx=5)
    assert vcpu.run() == Mmio(0x2_0000, 4, True, 5)
    assert vcpu["rax"] == 0xFEED
    assert isinstance(vcpu.run(), Halt)
    assert rom.get(0, 2) == b"\xed\xfe"


def test_memory_comes_and_goes(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "mov eax, [rdi]; mov ebx, [rdi]", rdi=DEVICE)
    more = Ram(0x1000)
    more.put(0, b"\x01")
    vm.map(DEVICE, more)
    vcpu.debug(step=True)
    vcpu.run()
    assert vcpu["rax"] == 1
    vcpu.debug()
    vm.unmap(DEVICE)
    assert vcpu.run() == Mmio(DEVICE, 4, False)
    for call in (
        lambda: vm.unmap(DEVICE),
        lambda: vm.map(0x800, more),
        lambda: vm.map(0x1000, more),
        lambda: vm.map(DEVICE, more, size=0x2000),
    ):
        with pytest.raises(UsageError):
            call()


def test_every_register_comes_back(vm: WhpxVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop")
    values = {
        **{f"r{i}": 0x0101_0101_0101_0101 * i for i in range(8, 16)},
        **{f"xmm{i}": (i << 120) + 5 for i in range(16)},
        "st3": (0x4000 << 64) + (1 << 63),
        "mxcsr": 0x1FA0,
        "fcw": 0x37E,
        "fs.base": 0x7FFF_1234_5000,
        "gs.selector": 0x18,
        "msr.0xc0000082": 0xFFFF_8000_0000_1000,
        "gdt.limit": 0x7F,
        "idt.base": 0x7000,
        "dr0": 0x1234,
        "rflags": 0x246,
    }
    vcpu.set_registers(values)
    vcpu.run()
    assert vcpu.registers(set(values) - {"rflags"}) == {k: v for k, v in values.items() if k != "rflags"}
    assert len(vcpu.registers()) > 80
    for name, error in (("eax", KeyError), ("msr.0x999999", KeyError)):
        with pytest.raises(error):
            vcpu[name]
    with pytest.raises(ValueError, match="does not fit"):
        vcpu["cs.limit"] = 1 << 32


def test_a_saved_vcpu_goes_on_in_another(vm: WhpxVm, ram: Ram) -> None:
    first = started(vm, ram, "mov eax, [rdi]; mov ebx, eax; out 7, al", rdi=DEVICE, xmm0=3)
    assert first.run() == Mmio(DEVICE, 4, False)
    first.complete(0x21)
    state = first.save()
    other = vm.create_vcpu()
    other.restore(
        {**json.loads(json.dumps({k: v for k, v in state.items() if k != "xsave"})), "xsave": state["xsave"]}
    )
    assert other.run() == PortIo(7, 1, True, 1, b"\x21")
    assert other.registers(["xmm0", "rbx", "rdi"]) == {"xmm0": 3, "rbx": 0x21, "rdi": DEVICE}
    with pytest.raises(UsageError, match="format|state"):
        other.restore({"format": "kvm/1"})


@pytest.mark.parametrize(
    "function",
    [
        "WHvCreatePartition",
        "WHvSetPartitionProperty",
        "WHvSetPartitionProperty:2",
        "WHvSetupPartition",
        "WHvMapGpaRange",
        "WHvCreateVirtualProcessor",
        "WHvGetVirtualProcessorRegisters",
        "WHvSetVirtualProcessorRegisters",
        "WHvRunVirtualProcessor",
        "WHvTranslateGva",
        "WHvGetVirtualProcessorXsaveState",
    ],
)
def test_a_call_that_fails_leaves_nothing_behind(
    simulator: Path, monkeypatch: pytest.MonkeyPatch, function: str, tmp_path: Path
) -> None:
    # A copy, since the count of failures is the library's.
    copy = tmp_path / f"{function.replace(':', '-')}.so"
    shutil.copy(simulator, copy)
    monkeypatch.setenv("VM_WHPX_LIBRARY", str(copy))
    hypervisor = Whpx()
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setenv("FAKE_WHPX_FAIL", function)
    ram = Ram(RAM)
    ram.put(TABLES, struct.pack("<Q", TABLES + 0x1003))
    ram.put(TABLES + 0x1000, struct.pack("<Q", TABLES + 0x2003))
    ram.put(TABLES + 0x2000, struct.pack("<Q", 0x83))

    def everything() -> None:
        with hypervisor.create_vm() as made:
            made.map(0, ram)
            vcpu = started(made, ram, "rep outsb", rsi=0x6000, rcx=1)
            vcpu.run()
            vcpu.save()

    with pytest.raises(HypervisorError) as raised:
        everything()
    assert ram.held == 0
    assert raised.value.call == function.partition(":")[0]
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_partitions_leave_no_descriptor(hypervisor: Whpx, ram: Ram) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with hypervisor.create_vm() as made:
            made.map(0, ram)
            assert isinstance(started(made, ram, "nop").run(), Halt)
    assert len(os.listdir("/proc/self/fd")) == before
    made.close()
    with pytest.raises(HypervisorError, match="closed"):
        made.create_vcpu()
