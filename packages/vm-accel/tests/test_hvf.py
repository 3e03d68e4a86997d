"""The HVF back end on its simulator: guest code on vm_core's executor behind the entry points of Hypervisor.framework."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keystone
import pytest

from vm_accel.arm64_registers import packed
from vm_accel.completion import Fault
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.exits import (
    Debug,
    DebugKind,
    FailEntry,
    Halt,
    Hypercall,
    HypercallAbi,
    Interrupted,
    Mmio,
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
    Timer,
)
from vm_accel.hvf import Hvf, HvfVm
from vm_accel.hvf.vcpu import HvfVcpu
from vm_accel.interface import Feature, VmConfig
from vm_accel.testing.scenes import Bus, Ram
from vm_accel.testing.simulators import build, lacking
from vm_core.errors import UsageError

pytestmark = pytest.mark.skipif(bool(lacking("hvf")), reason=lacking("hvf"))

CODE, DATA, STACK, DEVICE = 0x4000_0000, 0x4000_8000, 0x4000_C000, 0x900_0000
RAM = 0x10000
PSCI_ON, PSCI_OFF, SYSTEM_OFF, SYSTEM_RESET = 0xC400_0003, 0x8400_0002, 0x8400_0008, 0x8400_0009


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("hvf", tmp_path_factory.mktemp("hvf"))


@pytest.fixture
def hypervisor(simulator: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hvf]:
    monkeypatch.setenv("VM_HVF_LIBRARY", str(simulator))
    with Hvf() as opened:
        yield opened


@pytest.fixture
def ram() -> Ram:
    return Ram(RAM, CODE)


@pytest.fixture
def vm(hypervisor: Hvf, ram: Ram) -> HvfVm:
    made = hypervisor.create_vm(VmConfig(cpus=4))
    made.map(CODE, ram)
    return made


def assemble(text: str, address: int = CODE) -> bytes:
    code, _ = keystone.Ks(keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN).asm(text, address)
    return bytes(code)


def started(vm: HvfVm, ram: Ram, text: str, **registers: int) -> HvfVcpu:
    vcpu = vm.create_vcpu()
    ram.put(CODE, assemble(text) + assemble("wfi"))
    vcpu.set_registers({"pc": CODE, "sp": STACK, **registers})
    return vcpu


def test_it_is_not_allowed(simulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VM_HVF_LIBRARY", str(simulator))
    monkeypatch.setenv("FAKE_HVF_DENIED", "1")
    found = Hvf.probe()
    assert not found.available
    assert "HV_DENIED" in found.reason
    assert found.hint


def test_no_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VM_HVF_LIBRARY", "/nowhere/Hypervisor")
    assert "cannot be loaded" in Hvf.probe().reason
    monkeypatch.delenv("VM_HVF_LIBRARY")
    assert Hvf.probe().reason == "HVF is a part of macOS"


def test_a_process_has_one_vm(vm: HvfVm) -> None:
    with pytest.raises(HypervisorError, match="HV_BUSY") as raised:
        vm.hypervisor.create_vm()
    assert "another process" in raised.value.hint
    assert Hvf.probe().available
    for config in (VmConfig(pit=True), VmConfig(dirty_ring=8), VmConfig(msr_exits=True)):
        with pytest.raises(AcceleratorUnavailable):
            vm.hypervisor.create_vm(config)
    assert Feature.IRQCHIP in vm.hypervisor.features


def test_a_vcpu_belongs_to_its_thread(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop")
    failures: list[str] = []

    def elsewhere() -> None:
        try:
            vcpu.run()
        except HypervisorError as error:
            failures.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failures == ["hv_vcpu_run: HV_BAD_ARGUMENT"]
    assert isinstance(vcpu.run(), Halt)


def test_registers_come_back(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop")
    values = {
        **{f"x{i}": i << 56 | i for i in range(31)},
        **{f"v{i}": (i << 120) | 0xABCDEF for i in range(32)},
        "sp": STACK,
        "pc": CODE,
        "pstate": 0x6000_03C5,
        "fpcr": 1 << 24,
        "fpsr": 3,
        "vbar_el1": 0x4000_0800,
        "sys.3.0.13.0.4": 0x77,
    }
    vcpu.set_registers(values)
    assert vcpu.registers(values) == values
    assert vcpu["tpidr_el1"] == 0x77
    assert vcpu["sp_el1"] == STACK
    assert isinstance(vcpu.run(), Halt)
    assert vcpu["pc"] == CODE + 8
    for name in ("w0", "sys.3.0", "ymm0"):
        with pytest.raises(KeyError):
            vcpu[name]
    with pytest.raises(ValueError, match="does not fit"):
        vcpu["x0"] = 1 << 64
    # All names are looked at before the first is written.
    with pytest.raises(KeyError):
        vcpu.set_registers({"x0": 5, "x99": 1})
    assert vcpu["x0"] == 0


@pytest.mark.parametrize(
    ("text", "access", "answer", "x0"),
    [
        ("ldrb w0, [x1]", Mmio(DEVICE, 1, False), 0x1FF, 0xFF),
        ("ldrh w0, [x1, #2]", Mmio(DEVICE + 2, 2, False), 0x8001, 0x8001),
        ("ldr w0, [x1, #4]", Mmio(DEVICE + 4, 4, False), 0x89AB_CDEF, 0x89AB_CDEF),
        ("ldr x0, [x1, #8]", Mmio(DEVICE + 8, 8, False), 1 << 63, 1 << 63),
        ("ldrsb w0, [x1]", Mmio(DEVICE, 1, False), 0x80, 0xFFFF_FF80),
        ("ldrsb x0, [x1]", Mmio(DEVICE, 1, False), 0x80, 0xFFFF_FFFF_FFFF_FF80),
        ("ldrsw x0, [x1]", Mmio(DEVICE, 4, False), 1 << 31, 0xFFFF_FFFF_8000_0000),
        ("ldr w0, [x1, x2]", Mmio(DEVICE + 0x10, 4, False), 7, 7),
        ("ldur x0, [x1, #-8]", Mmio(DEVICE - 8, 8, False), 9, 9),
        ("ldar x0, [x1]", Mmio(DEVICE, 8, False), 9, 9),
        ("strb w0, [x1]", Mmio(DEVICE, 1, True, 0x88), None, 0x1122_3344_5566_7788),
        ("str x0, [x1]", Mmio(DEVICE, 8, True, 0x1122_3344_5566_7788), None, 0x1122_3344_5566_7788),
        ("str wzr, [x1, #12]", Mmio(DEVICE + 12, 4, True, 0), None, 0x1122_3344_5566_7788),
        # Without a valid syndrome: by the instruction's text.
        ("ldr x0, [x1], #8", Mmio(DEVICE, 8, False), 5, 5),
        ("ldr w0, [x1, #4]!", Mmio(DEVICE + 4, 4, False), 5, 5),
        ("str w0, [x1], #4", Mmio(DEVICE, 4, True, 0x5566_7788), None, 0x1122_3344_5566_7788),
    ],
)
def test_one_access(vm: HvfVm, ram: Ram, text: str, access: Mmio, answer: int | None, x0: int) -> None:
    vcpu = started(vm, ram, text, x0=0x1122_3344_5566_7788, x1=DEVICE, x2=0x10)
    assert vcpu.run() == access
    if answer is not None:
        assert vcpu["pc"] == CODE  # until it is answered
        vcpu.complete(answer)
    assert vcpu["pc"] == CODE + 4
    assert vcpu["x0"] == x0
    assert vcpu["x1"] == DEVICE + {"]!": 4, "#8": 8 if "]," in text else 0, "#4": 4 if "]," in text else 0}.get(text[-2:], 0)  # fmt: skip
    assert isinstance(vcpu.run(), Halt)


def test_pairs_and_vectors(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(
        vm, ram, "ldp x2, x3, [x1]; stp w2, w3, [x1, #16]!; str q5, [x1]; ldr q6, [x1], #16",
        x1=DEVICE, v5=(0xAA << 64) + 0xBB,
    )  # fmt: skip
    assert vcpu.run() == Mmio(DEVICE, 8, False)
    vcpu.complete(0x1_0000_0005)
    assert vcpu.run() == Mmio(DEVICE + 8, 8, False)
    vcpu.complete(6)
    assert vcpu.registers(["x2", "x3"]) == {"x2": 0x1_0000_0005, "x3": 6}
    assert [vcpu.run(), vcpu.run()] == [Mmio(DEVICE + 16, 4, True, 5), Mmio(DEVICE + 20, 4, True, 6)]
    assert vcpu["x1"] == DEVICE + 16
    assert [vcpu.run(), vcpu.run()] == [Mmio(DEVICE + 16, 8, True, 0xBB), Mmio(DEVICE + 24, 8, True, 0xAA)]
    assert vcpu.run() == Mmio(DEVICE + 16, 8, False)
    vcpu.complete(1)
    assert vcpu.run() == Mmio(DEVICE + 24, 8, False)
    vcpu.complete(2)
    assert vcpu["v6"] == (2 << 64) + 1
    assert vcpu["x1"] == DEVICE + 32
    assert isinstance(vcpu.run(), Halt)


def test_an_unanswered_read_is_all_ones(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "ldp w2, w3, [x1]", x1=DEVICE)
    assert isinstance(vcpu.run(), Mmio)
    assert isinstance(vcpu.run(), Mmio)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu.registers(["x2", "x3"]) == {"x2": 0xFFFF_FFFF, "x3": 0xFFFF_FFFF}
    with pytest.raises(UsageError):
        vcpu.complete(1)


def test_a_bus_is_called_inside_the_run(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "ldr w0, [x1]; add w0, w0, #1; str w0, [x1, #4]; stp x0, x1, [x1]", x1=DEVICE)
    bus = Bus()
    assert isinstance(vcpu.run(bus), Halt)
    assert bus.seen == [
        ("r", DEVICE, 4),
        ("w", DEVICE + 4, 4, 0x1111_1112),
        ("w", DEVICE, 8, 0x1111_1112),
        ("w", DEVICE + 8, 8, DEVICE),
    ]


def test_translation_by_the_guests_tables(vm: HvfVm, ram: Ram) -> None:
    """An access without a syndrome needs the guest's own translation; the simulator's MMU is off, so it is asked directly."""
    vcpu = started(vm, ram, "nop")
    table = CODE  # aligned to 64 KiB, as the largest table must be
    for granule, tg0, size, levels in ((12, 0, 39, 3), (14, 2, 36, 2), (16, 1, 42, 2)):
        step = granule - 3
        ram.put(table, bytes(0x2000))
        # A block for the first entry of the last level but one would do; a page entry tests every level.
        at = table
        for level in range(levels - 1):
            following = table + 0x1000 * (level + 1)
            if granule != 12:
                break
            ram.put(at, struct.pack("<Q", following | 3))
            at = following
        if granule == 12:
            ram.put(at + 8 * 3, struct.pack("<Q", 0x0900_0000 | 0x403))
            ram.put(at + 8 * 4, struct.pack("<Q", 0x0900_1000 | 0x483))  # read-only
            expected, address = 0x0900_0123, 3 << 12 | 0x123
        else:
            # Only the first table fits: a block of the level before pages.
            ram.put(at + 8, struct.pack("<Q", 1 << granule + step | 0x401))
            expected, address = 1 << granule + step | 0x4567, 1 << granule + step | 0x4567
        vcpu.set_registers({"sctlr_el1": 1, "tcr_el1": 64 - size | tg0 << 14 | 1 << 23, "ttbr0_el1": table})
        assert vcpu.translate(address, is_write=True) == expected
        with pytest.raises(Fault):
            vcpu.translate(9 << granule + (0 if granule == 12 else step), is_write=False)
        with pytest.raises(Fault):
            vcpu.translate(0xFFFF_8000_0000_0000, is_write=False)
        if granule == 12:
            assert vcpu.translate(4 << 12, is_write=False) == 0x0900_1000
            with pytest.raises(Fault):
                vcpu.translate(4 << 12, is_write=True)


def test_power_calls(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "hvc #0; mov x19, x0; mov x0, x20; smc #0; mov x0, x21; hvc #0", x0=0x8400_0000, x20=0x8400_000A, x1=0x8400_0008, x21=SYSTEM_OFF)  # fmt: skip
    assert vcpu.run() == Shutdown(ShutdownKind.OFF)
    assert vcpu["x19"] == 1 << 16
    again = vm.create_vcpu()
    again.set_registers({"pc": CODE, "x0": SYSTEM_RESET})
    assert again.run() == Shutdown(ShutdownKind.RESET)


def test_another_call_is_the_callers(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "hvc #0; mov x7, x0; smc #1", x0=0xC600_0001, x1=11, x2=22, x3=33)
    assert vcpu.run() == Hypercall(HypercallAbi.PSCI, 0xC600_0001, (11, 22, 33))
    vcpu.complete(0x1234)
    assert isinstance(vcpu.run(), Hypercall)
    assert vcpu["x7"] == 0x1234
    assert vcpu["pc"] == CODE + 12
    assert isinstance(vcpu.run(), Halt)


def test_a_second_cpu_is_turned_on(vm: HvfVm, ram: Ram) -> None:
    entry = CODE + 0x1000
    ram.put(entry, assemble("mrs x5, mpidr_el1; str w0, [x1]; wfi", entry))
    first = started(vm, ram, "hvc #0", x0=PSCI_ON, x1=1, x2=entry, x3=0x55)
    ready = threading.Event()
    found: list[object] = []

    def second() -> None:
        vcpu = vm.create_vcpu()
        vcpu.powered = False
        vcpu["x1"] = DEVICE
        ready.set()
        found.append(vcpu.run())
        found.append(vcpu["x5"] & 0xFF)
        vcpu.close()

    thread = threading.Thread(target=second)
    thread.start()
    assert ready.wait(10)
    assert isinstance(first.run(), Halt)
    assert first["x0"] == 0
    thread.join(20)
    assert found == [Mmio(DEVICE, 4, True, 0x55), 1]


def test_a_cpu_that_is_off_can_be_kicked(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "hvc #0", x0=PSCI_OFF)
    timer = threading.Timer(0.05, vcpu.kick)
    timer.start()
    assert vcpu.run() == Interrupted()
    assert not vcpu.powered
    timer.join()


def test_system_registers(vm: HvfVm, ram: Ram) -> None:
    # S3_3_C15_C2_0, which nobody knows
    number = packed(3, 3, 15, 2, 0)
    vcpu = started(vm, ram, "mrs x3, s3_3_c15_c2_0; msr s3_3_c15_c2_0, x4", x4=0x99)
    assert vcpu.run() == SysReg(SysRegSpace.AARCH64, number, False)
    vcpu.complete(0x42)
    assert vcpu["x3"] == 0x42
    handler = CODE + 0x2200
    ram.put(handler, assemble("wfi"))
    vcpu["vbar_el1"] = CODE + 0x2000
    assert vcpu.run() == SysReg(SysRegSpace.AARCH64, number, True, 0x99)
    with pytest.raises(UsageError, match="waits for its answer"):
        vcpu["vbar_el1"] = 0
    vcpu.complete(fault=True)
    assert isinstance(vcpu.run(), Halt)
    assert vcpu["pc"] == handler + 4
    assert vcpu["elr_el1"] == CODE + 4


def test_the_timer_is_masked_until_it_is_completed(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "msr cntv_cval_el0, xzr; mov x0, #1; msr cntv_ctl_el0, x0; nop; nop")
    assert vcpu.run() == Timer()
    assert vcpu.save()["vtimer"]["masked"] is False  # saving completes what was not
    assert vcpu.run() == Timer()
    vcpu.complete()
    vcpu["cntv_ctl_el0"] = 0
    assert isinstance(vcpu.run(), Halt)


def test_an_interrupt(vm: HvfVm, ram: Ram) -> None:
    handler = CODE + 0x2280
    ram.put(handler, assemble("str w9, [x1]; eret", handler))
    vcpu = started(vm, ram, "msr daifclr, #2; nop; nop", vbar_el1=CODE + 0x2000, x1=DEVICE, x9=3)
    vcpu.interrupt(0)
    assert vcpu.run() == Mmio(DEVICE, 4, True, 3)
    assert isinstance(vcpu.run(), Halt)
    with pytest.raises(UsageError):
        vcpu.interrupt(5)


def test_the_interrupt_controller(hypervisor: Hvf, ram: Ram) -> None:
    made = hypervisor.create_vm(VmConfig(irqchip=True))
    made.map(CODE, ram)
    handler = CODE + 0x2280
    ram.put(handler, assemble("str w9, [x1]; eret", handler))
    vcpu = started(made, ram, "nop; nop", vbar_el1=CODE + 0x2000, x1=DEVICE, x9=3, pstate=0x345)
    made.set_irq(5, True)
    assert vcpu.run() == Mmio(DEVICE, 4, True, 3)
    state = made.save()
    made.set_irq(5, False)
    assert isinstance(vcpu.run(), Halt)
    made.restore(state)
    vcpu["pc"] = CODE
    assert vcpu.run() == Mmio(DEVICE, 4, True, 3)
    made.close()


def test_steps_breakpoints_and_watchpoints(vm: HvfVm, ram: Ram) -> None:
    text = "nop; add x0, x0, #1; sub x2, x2, #1; cbnz x2, 0x40000000; str x0, [x3]; ldr x4, [x3]"
    vcpu = started(vm, ram, text, x0=0, x2=2, x3=DATA)
    vcpu.debug(step=True)
    assert [vcpu.run(), vcpu.run()] == [Debug(CODE + at, DebugKind.STEP) for at in (4, 8)]
    vcpu.debug(breakpoints=[CODE + 4], watchpoints=[(DATA, 8, True)])
    assert vcpu.run() == Debug(CODE + 4, DebugKind.BREAKPOINT, CODE + 4)
    assert vcpu["x0"] == 1
    assert vcpu.run() == Debug(CODE + 16, DebugKind.WATCHPOINT, DATA)
    assert vcpu["x0"] == 2
    assert isinstance(vcpu.run(), Halt)
    assert vcpu["x4"] == 2
    with pytest.raises(UsageError):
        vcpu.debug(breakpoints=range(5))
    with pytest.raises(UsageError):
        vcpu.debug(watchpoints=[(DATA + 1, 8, True)])


def test_the_guests_own_breakpoint(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "nop; brk #1; nop")
    vcpu.debug(trap_break=True)
    assert vcpu.run() == Debug(CODE + 4, DebugKind.INSTRUCTION)
    vcpu["pc"] = CODE + 8
    assert isinstance(vcpu.run(), Halt)


def test_the_log_of_written_pages(hypervisor: Hvf, ram: Ram) -> None:
    made = hypervisor.create_vm()
    made.map(CODE, ram, log_dirty=True)
    vcpu = started(made, ram, "str x0, [x1]; str x0, [x1, #8]; strb w0, [x2]", x1=DATA, x2=STACK)
    assert isinstance(vcpu.run(), Halt)
    assert made.dirty(CODE) == [DATA, STACK]
    assert made.dirty(CODE) == []
    vcpu["pc"] = CODE + 8
    assert isinstance(vcpu.run(), Halt)
    assert made.dirty(CODE) == [STACK]
    made.close()


def test_read_only_memory(vm: HvfVm, ram: Ram) -> None:
    rom = Ram(0x4000, CODE)
    rom.put(CODE, b"\x2a")
    vm.map(0x8000_0000, rom, writable=False)
    vcpu = started(vm, ram, "ldrb w0, [x1]; strb w2, [x1]", x1=0x8000_0000, x2=7)
    assert vcpu.run() == Mmio(0x8000_0000, 1, True, 7)
    assert vcpu["x0"] == 0x2A
    assert rom.get(CODE, 1) == b"\x2a"
    vm.unmap(0x8000_0000)
    vcpu["pc"] = CODE
    assert vcpu.run() == Mmio(0x8000_0000, 1, False)
    with pytest.raises(UsageError, match="pages of 16384 bytes"):
        vm.map(0x8000_1000, rom)


def test_code_where_nothing_is(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "br x1", x1=DEVICE)
    found = vcpu.run()
    assert isinstance(found, FailEntry)
    assert f"{DEVICE:#x}" in found.reason


def test_kicks(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "b 0x40000000")
    vcpu.kick()
    vcpu.kick()
    assert vcpu.run() == Interrupted()
    timer = threading.Timer(0.05, vcpu.kick)
    timer.start()
    begin = time.monotonic()
    assert vcpu.run() == Interrupted()
    assert time.monotonic() - begin > 0.03
    timer.join()


def test_a_saved_vcpu_goes_on_in_another(vm: HvfVm, ram: Ram) -> None:
    vcpu = started(vm, ram, "ldp x2, x3, [x1]; add x2, x2, x3; str q4, [x1]", x1=DEVICE, v4=9 << 64)
    assert vcpu.run() == Mmio(DEVICE, 8, False)
    vcpu.complete(4)
    state = json.loads(json.dumps(vcpu.save()))
    other = vm.create_vcpu()
    other.restore(state)
    assert other.run() == Mmio(DEVICE, 8, True, 0)
    assert other.run() == Mmio(DEVICE + 8, 8, True, 9)
    assert other["x2"] == 3  # 4 + all ones
    with pytest.raises(UsageError):
        other.restore({"format": "whpx-vcpu/1"})


@pytest.mark.parametrize(
    "function",
    [
        *("hv_vm_create", "hv_vm_map", "hv_vcpu_create", "hv_vcpu_set_reg", "hv_vcpu_set_sys_reg"),
        *("hv_vcpu_get_reg", "hv_vcpu_run", "hv_vcpu_set_simd_fp_reg", "hv_gic_create", "hv_vm_protect"),
    ],
)
def test_a_call_that_fails_leaves_nothing_behind(
    simulator: Path, monkeypatch: pytest.MonkeyPatch, function: str, ram: Ram
) -> None:
    monkeypatch.setenv("VM_HVF_LIBRARY", str(simulator))
    hypervisor = Hvf()

    def everything() -> None:
        with hypervisor.create_vm(VmConfig(irqchip=True)) as made:
            made.map(CODE, ram, log_dirty=True)
            vcpu = started(made, ram, "str x0, [x1]", x1=DATA, v1=5)
            vcpu.run()

    monkeypatch.setenv("FAKE_HVF_FAIL", function)
    with pytest.raises(HypervisorError) as raised:
        everything()
    assert ram.held == 0
    assert raised.value.call == function
    monkeypatch.delenv("FAKE_HVF_FAIL")
    everything()


def test_many_vms_one_after_another(hypervisor: Hvf, ram: Ram) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        with hypervisor.create_vm() as made:
            made.map(CODE, ram)
            assert isinstance(started(made, ram, "nop").run(), Halt)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(HypervisorError, match="closed"):
        made.create_vcpu()
