"""vCPUs of vm's own engines, beyond the conformance suite: what they refuse, and what no other back end has."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.exits import (
    Debug,
    DebugKind,
    FailEntry,
    Halt,
    Hypercall,
    HypercallAbi,
    Mmio,
    PortIo,
    Shutdown,
    ShutdownKind,
)
from vm_accel.interface import Hypervisor, Vcpu, Vm, VmConfig
from vm_accel.memory import PAGE, HostMemory
from vm_accel.software import Software
from vm_accel.testing.conformance import assemble, guest, mode_of
from vm_accel.testing.snippets import CODE, DATA, MMIO
from vm_core.errors import HostError, UsageError


def test_it_implements_the_protocols() -> None:
    with Software(isa="riscv64", engine="interp") as software:
        hypervisor: Hypervisor = software
        with hypervisor.create_vm() as vm:
            machine: Vm = vm
            vcpu: Vcpu = machine.create_vcpu()
            assert isinstance(software, Hypervisor)
            assert vcpu.index == 0
    assert Software.probe().available
    with pytest.raises(HypervisorError):
        software.create_vm()


def test_what_there_is_not_is_said() -> None:
    with pytest.raises(UsageError, match="no text of s390x"):
        Software(isa="s390x")
    with pytest.raises(UsageError, match="no engine is called 'fast'"):
        Software(isa="x86_64", engine="fast")
    with pytest.raises(UsageError, match="hypervisor's"):
        Software(isa="x86_64", engine="kvm")
    with Software(isa="x86_64", engine="interp") as software:
        for config in (VmConfig(irqchip=True), VmConfig(dirty_ring=1024), VmConfig(msr_exits=True)):
            with pytest.raises(AcceleratorUnavailable, match="without a hypervisor"):
                software.create_vm(config)
        with software.create_vm() as vm, HostMemory(PAGE) as memory:
            with pytest.raises(UsageError, match="32 bits"):
                vm.map(1 << 32, memory)
            with pytest.raises(UsageError, match="one CPU model"):
                vm.create_vcpu(model=object())
            with pytest.raises(UsageError, match="no interrupt controller"):
                vm.set_irq(1, True)


@pytest.mark.parametrize("isa", ["x86_64", "aarch64", "riscv64"])
def test_memory_is_one_for_the_host_and_all_machines(isa: str) -> None:
    """What either writes the others see at once, through the host's view that was there before."""
    store = {"x86_64": "mov [rsi], rbx; hlt", "aarch64": "str x1, [x2]; wfi", "riscv64": "sd t0, 0(t1); wfi"}
    names = {"x86_64": ("rsi", "rbx"), "aarch64": ("x2", "x1"), "riscv64": ("x6", "x5")}[isa]
    with Software(isa=isa, engine="interp") as software, HostMemory(4 * PAGE) as shared:
        shared.write(5, b"before")
        address = shared.address
        with (
            guest(software, store[isa], before=dict(zip(names, (0x60_0000, 7), strict=True))) as one,
            guest(software, store[isa], before=dict(zip(names, (0x60_0000, 9), strict=True))) as two,
        ):
            for made in (one, two):
                made.vm.map(0x60_0000, shared, offset=PAGE, size=2 * PAGE)
            assert shared.address == address
            assert shared.read(0, 11) == bytes(5) + b"before"
            assert one.vcpu.run() == Halt()
            assert shared.read(PAGE, 1) == b"\7"
            assert two.vm.arena.view[0x60_0000] == 7  # type: ignore[attr-defined]
            assert two.vcpu.run() == Halt()
            assert shared.read(PAGE, 1) == b"\x09"


def test_memory_of_a_file_stays_the_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PAGE))
    with path.open("r+b") as file, HostMemory(2 * PAGE, fd=file.fileno()) as memory:
        assert memory.file() == (file.fileno(), 0)
        start = {"rsi": 0x60_0000, "rbx": 3}
        with Software(isa="x86_64") as software, guest(software, "mov [rsi], rbx; hlt", before=start) as made:
            made.vm.map(0x60_0000, memory)
            assert made.vcpu.run() == Halt()
        assert path.read_bytes()[0] == 3
    with path.open("rb") as file, HostMemory(2 * PAGE, fd=file.fileno(), private=True) as memory:
        memory.write(0, b"\5")
        assert memory.file()[0] != file.fileno()
        assert memory.read(0, 1) == b"\5"


def test_without_room_memory_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with HostMemory(PAGE) as memory:
        memory.write(0, b"kept")
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", refuse)
            with pytest.raises(HostError, match="No space left"):
                memory.file()
        assert len(os.listdir("/proc/self/fd")) == before
        assert memory.read(0, 4) == b"kept"


@pytest.mark.parametrize("engine", ["reference", "interp", "jit"])
def test_code_that_the_host_writes_between_runs_is_seen(engine: str) -> None:
    with Software(isa="x86_64", engine=engine) as software, guest(software, "mov ebx, 1; hlt") as made:
        for value in (1, 2, 3, 4):
            made.memory.write(CODE, assemble(f"mov ebx, {value}; hlt", "x86_64", "long"))
            made.vcpu["rip"] = CODE
            assert made.vcpu.run() == Halt()
            assert made.vcpu["rbx"] == value


def test_what_no_text_covers_is_an_exit_and_no_fault_of_the_guests() -> None:
    with Software(isa="x86_64", engine="interp") as software:
        with guest(software, "fld1; hlt") as made:
            found = made.vcpu.run()
            assert isinstance(found, FailEntry)
            assert found.raw[:2] == b"\xd9\xe8"
            assert made.vcpu["rip"] == CODE
        assert software.lacks(b"\x90\xd9\xe8", CODE) == ["a text of d9e8"]
        with guest(software, "nop", "real") as made:
            made.memory.write(CODE, b"\xf4")
            found = made.vcpu.run()
            assert isinstance(found, FailEntry)
            assert "16 or 32 bits" in found.reason
        with guest(software, "jmp rax", before={"rax": 0x70_0000}) as made:
            found = made.vcpu.run()
            assert isinstance(found, FailEntry)
            assert "0x700000" in found.reason
    with Software(isa="aarch64", engine="interp") as software:
        for code in ("brk #1", "svc #0", "mrs x0, sctlr_el1"):
            with guest(software, code) as made:
                assert isinstance(made.vcpu.run(), FailEntry), code
                assert made.vcpu["pc"] == CODE
    with Software(isa="riscv64", engine="interp") as software, guest(software, "ebreak") as made:
        assert isinstance(made.vcpu.run(), FailEntry)
        made.vcpu.debug(trap_break=True)
        assert made.vcpu.run() == Debug(CODE, DebugKind.INSTRUCTION)


def test_calls_of_the_firmware() -> None:
    with Software(isa="aarch64", engine="interp") as software:
        with guest(software, "hvc #0; wfi", before={"x0": 0x8400_0000}) as made:
            assert made.vcpu.run() == Halt()
            assert made.vcpu["x0"] == 1 << 16
        for number, kind in ((0x8400_0008, ShutdownKind.OFF), (0x8400_0009, ShutdownKind.RESET)):
            with guest(software, "smc #0; wfi", before={"x0": number}) as made:
                assert made.vcpu.run() == Shutdown(kind)
        with guest(software, "hvc #0; wfi", before={"x0": 0x8600_0001, "x2": 5}) as made:
            for answer, value in ((7, 7), (None, (1 << 64) - 1)):
                made.vcpu.set_registers({"pc": CODE, "x0": 0x8600_0001})
                assert made.vcpu.run() == Hypercall(HypercallAbi.PSCI, 0x8600_0001, (0, 5, 0))
                if answer is not None:
                    made.vcpu.complete(answer)
                assert made.vcpu.run() == Halt()
                assert made.vcpu["x0"] == value
    start = {"x17": 0x10, "x10": 9}
    with Software(isa="riscv64") as software, guest(software, "ecall; wfi", before=start) as made:
        assert isinstance(made.vcpu.run(), Hypercall)
        made.vcpu.complete(42)
        assert made.vcpu.run() == Halt()
        assert (made.vcpu["x10"], made.vcpu["x11"]) == (0, 42)


@pytest.mark.parametrize("isa", ["aarch64", "riscv64"])
def test_watched_accesses_stop_behind_their_instruction(isa: str) -> None:
    code = {"aarch64": "ldr x1, [x2]; str x1, [x2]; wfi", "riscv64": "ld t0, 0(t1); sd t0, 0(t1); wfi"}[isa]
    pointer = {"aarch64": "x2", "riscv64": "x6"}[isa]
    with (
        Software(isa=isa, engine="interp") as software,
        guest(software, code, before={pointer: DATA}) as made,
    ):
        made.vcpu.debug(watchpoints=[(DATA, 8, False)])
        assert made.vcpu.run() == Debug(CODE + 4, DebugKind.WATCHPOINT, DATA)
        assert made.vcpu.run() == Debug(CODE + 8, DebugKind.WATCHPOINT, DATA)
        made.vcpu["pc"] = CODE
        made.vcpu.debug(watchpoints=[(DATA, 8, True)])
        assert made.vcpu.run() == Debug(CODE + 8, DebugKind.WATCHPOINT, DATA)
        assert made.vcpu.run() == Halt()
        with pytest.raises(UsageError, match="at most 16"):
            made.vcpu.debug(breakpoints=range(0, 68, 4))
        with pytest.raises(UsageError, match="aligned"):
            made.vcpu.debug(watchpoints=[(DATA + 1, 4, False)])


def test_a_step_over_a_device_stops_when_it_is_answered() -> None:
    code = "mov eax, [rsi]; out 0x10, al; hlt"
    with Software(isa="x86_64") as software, guest(software, code, before={"rsi": MMIO}) as made:
        made.vcpu.debug(step=True)
        assert made.vcpu.run() == Mmio(MMIO, 4, False)
        made.vcpu.complete(0x55)
        assert made.vcpu.run() == Debug(CODE + 2, DebugKind.STEP)
        assert made.vcpu["rax"] == 0x55
        assert made.vcpu.run() == PortIo(0x10, 1, True, 1, b"\x55")
        assert made.vcpu.run() == Debug(CODE + 4, DebugKind.STEP)


def test_ring_3_has_the_ports_that_it_is_given() -> None:
    with Software(isa="x86_64", engine="interp") as software:
        with guest(software, "out 0x10, al; hlt", "user", before={"rflags": 2}) as made:
            assert made.vcpu.run() == PortIo(0xEE, 1, True, 1, b"\x0d")  # general protection
        with guest(software, "cli; hlt", "user", before={"rflags": 2}) as made:
            assert made.vcpu.run() == PortIo(0xEE, 1, True, 1, b"\x0d")


@pytest.mark.parametrize("isa", ["x86_64", "aarch64", "riscv64"])
@pytest.mark.parametrize("engine", ["reference", "jit"])
def test_machines_leave_nothing_behind(isa: str, engine: str) -> None:
    code = assemble({"x86_64": "hlt"}.get(isa, "wfi"), isa, mode_of(isa))

    def cycle(count: int) -> None:
        for _ in range(count):
            with guest(software, code) as made:
                assert made.vcpu.run() == Halt()

    with Software(isa=isa, engine=engine) as software:
        cycle(5)
        gc.collect()
        before = len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_text().splitlines())
        cycle(60)
        gc.collect()
        after = len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_text().splitlines())
    assert after[0] == before[0]
    assert after[1] <= before[1] + 6
