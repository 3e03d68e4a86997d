"""What only KVM has: events without exits, rings, the interrupt controller and the timer; and that nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.exits import Exit, FailEntry, Halt, Interrupted, Mmio, PortIo, Unknown
from vm_accel.interface import Hypervisor, Vcpu, Vm, VmConfig
from vm_accel.kvm import kick
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.memory import PAGE, HostMemory
from vm_accel.testing.conformance import Recorder, assemble, guest, prepare_x86
from vm_accel.testing.snippets import CODE, DATA, MMIO, VECTOR_PORT
from vm_core.errors import UsageError
from vm_core.memory import HUGE

pytestmark = pytest.mark.kvm

_HIGH = 0x10_0000
_SVR = "mov edi, 0xfee000f0; mov eax, dword ptr [rdi]; or eax, 0x1ff; mov dword ptr [rdi], eax; "
"""Software-enable the local APIC (SDM volume 3, 10.4.7.2)."""


def _vector(number: int) -> Exit:
    return PortIo(VECTOR_PORT, 1, True, 1, bytes([number]))


def test_it_is_what_the_protocol_says(kvm: Kvm) -> None:
    assert isinstance(kvm, Hypervisor)
    checked: Hypervisor = kvm
    with kvm.create_vm() as vm:
        made: Vm = vm
        vcpu: Vcpu = vm.create_vcpu()
        assert vcpu.index == 0
        assert made is vm
    assert checked.name == "kvm"


# -- exits that come again ---------------------------------------------------------------------------------------------


def test_of_a_port_only_the_bytes_that_were_written_are_told(kvm: Kvm) -> None:
    """KVM's page of port data still holds what a wider access left there."""
    code = "mov eax, 0x44332211; out 0x10, eax; out 0x10, al; out 0x10, ax; out 0x10, al; hlt"
    expected = [(4, 0x44332211), (1, 0x11), (2, 0x2211), (1, 0x11)]
    with guest(kvm, code) as made:
        for size, value in expected:
            assert made.vcpu.run() == PortIo(0x10, size, True, 1, value.to_bytes(size, "little"))
        assert made.vcpu.run() == Halt()
    told: list[tuple[int, int]] = []

    class Told:
        def port_out(self, _port: int, size: int, value: int) -> None:
            told.append((size, value))

    with guest(kvm, code) as made:
        bus: Any = Told()
        assert made.vcpu.run(bus) == Halt()
    assert told == expected


def test_what_is_remembered_of_exits_has_a_bound(kvm: Kvm) -> None:
    """A guest that uses every port and many values gets the same exits as one that uses one, and takes no more memory."""
    code = "again: mov dx, cx; mov eax, ecx; out dx, eax; in al, dx; inc ecx; jmp again"
    with guest(kvm, code, before={"rcx": 0}) as made:
        vcpu: Any = made.vcpu
        for turn in range(1000):
            assert vcpu.run() == PortIo(turn, 4, True, 1, turn.to_bytes(4, "little"))
            assert vcpu.run() == PortIo(turn, 1, False)
            vcpu.complete(turn & 0xFF)
        assert len(vcpu._shapes) == 256
    code = "again: out 0x10, ax; inc eax; jmp again"
    with guest(kvm, code, before={"rax": 0}) as made:
        vcpu = made.vcpu
        for turn in range(1000):
            assert vcpu.run() == PortIo(0x10, 2, True, 1, turn.to_bytes(2, "little"))
        (shape,) = vcpu._shapes.values()
        assert len(shape[-1]) == 256


# -- without exits ---------------------------------------------------------------------------------------------------------


def test_writes_to_an_ioeventfd_are_no_exits(kvm: Kvm) -> None:
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    code = "mov eax, 5; out 0x50, al; out 0x50, ax; mov eax, 6; out 0x50, al; mov [rsi], eax; mov [rsi + 8], eax; hlt"
    try:
        with guest(kvm, code, before={"rsi": MMIO}) as made:
            vm: Any = made.vm
            vm.ioeventfd(event, 0x50, 1, port=True, value=5)
            vm.ioeventfd(event, MMIO)
            assert made.vcpu.run() == PortIo(0x50, 2, True, 1, b"\5\0")
            assert os.eventfd_read(event) == 1
            assert made.vcpu.run() == PortIo(0x50, 1, True, 1, b"\6")
            assert made.vcpu.run() == Mmio(MMIO + 8, 4, True, 6)
            assert os.eventfd_read(event) == 1
            vm.ioeventfd(event, MMIO, remove=True)
            made.vcpu["rip"] = CODE
            seen = [made.vcpu.run() for _ in range(4)]
            assert Mmio(MMIO, 4, True, 6) in seen
    finally:
        os.close(event)


@pytest.mark.parametrize("bus", [False, True])
def test_coalesced_writes_come_in_order_with_the_next_exit(kvm: Kvm, bus: bool) -> None:
    code = "mov [rsi], eax; mov [rsi + 4], ax; mov [rsi + 8], al; out 0x10, al; mov [rsi], rbx; hlt"
    with guest(kvm, code, before={"rsi": MMIO, "rax": 0x1234_5678, "rbx": 9}) as made:
        vm: Any = made.vm
        vm.coalesce(MMIO, 0x100)
        wanted: list[Exit] = [
            Mmio(MMIO, 4, True, 0x1234_5678),
            Mmio(MMIO + 4, 2, True, 0x5678),
            Mmio(MMIO + 8, 1, True, 0x78),
            PortIo(0x10, 1, True, 1, b"\x78"),
            Mmio(MMIO, 8, True, 9),
        ]
        if bus:
            recorder = Recorder()
            assert made.vcpu.run(recorder) == Halt()
            assert recorder.seen == wanted
        else:
            assert [made.vcpu.run() for _ in range(6)] == [*wanted, Halt()]


def test_nothing_is_lost_when_a_device_breaks(kvm: Kvm) -> None:
    """It raises on the first of three coalesced writes, which come before a port access."""
    code = "mov [rsi], eax; mov [rsi + 4], eax; mov [rsi + 8], eax; out 0x10, al; hlt"

    class Broken(Recorder):
        def write(self, address: int, size: int, value: int) -> None:
            if address == MMIO and not self.seen:
                self.seen.append(Mmio(address, size, True, value))
                raise ZeroDivisionError
            super().write(address, size, value)

    with guest(kvm, code, before={"rsi": MMIO, "rax": 7}) as made:
        vm: Any = made.vm
        vm.coalesce(MMIO, 0x100)
        device = Broken()
        with pytest.raises(ZeroDivisionError):
            made.vcpu.run(device)
        assert made.vcpu.run(device) == Halt()
        writes: list[Exit] = [Mmio(MMIO + at, 4, True, 7) for at in (0, 4, 8)]
        assert device.seen == [*writes, PortIo(0x10, 1, True, 1, b"\7")]


def test_a_thousand_coalesced_writes(kvm: Kvm) -> None:
    """More than the ring holds: the rest are exits of their own."""
    code = "again: mov [rsi], ecx; dec ecx; jnz again; hlt"
    with guest(kvm, code, before={"rsi": MMIO, "rcx": 1000}) as made:
        vm: Any = made.vm
        vm.coalesce(MMIO, 0x100)
        recorder = Recorder()
        assert made.vcpu.run(recorder) == Halt()
        assert [each.value for each in recorder.seen if isinstance(each, Mmio)] == list(range(1000, 0, -1))


# -- dirty ring ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1024, 4096])
def test_the_dirty_ring(kvm: Kvm, entries: int) -> None:
    """The smaller one fills up: `run` empties it and goes on."""
    pages, rounds = 2000, 2
    code = (
        "again: mov rdi, rsi; mov ecx, ebx; next: mov byte ptr [rdi], 1; add rdi, 0x1000; dec ecx; jnz next; "
        "out 0x10, al; jmp again"
    )
    before = {"rsi": 0x100_0000, "rbx": pages}
    with guest(kvm, code, "user", config=VmConfig(dirty_ring=entries), before=before) as made:  # noqa: SIM117
        with HostMemory(pages * PAGE) as more:
            made.vm.map(0x100_0000, more, log_dirty=True)
            for _ in range(rounds):
                assert made.vcpu.run() == PortIo(0x10, 1, True, 1, b"\0")
                assert made.vm.dirty(0x100_0000) == list(range(0x100_0000, 0x100_0000 + pages * PAGE, PAGE))
                assert made.vm.dirty(0x100_0000) == []
            made.vm.unmap(0x100_0000)


def test_a_dirty_ring_of_a_wrong_size(kvm: Kvm) -> None:
    for entries in (1, 1000, 1 << 30):
        with pytest.raises(UsageError):
            kvm.create_vm(VmConfig(dirty_ring=entries))


# -- interrupts ------------------------------------------------------------------------------------------------------------


def test_messages_reach_the_apic(kvm: Kvm) -> None:
    with guest(kvm, _SVR + "sti; out 0x10, al; again: jmp again", config=VmConfig(irqchip=True)) as made:
        vm: Any = made.vm
        made.vcpu.run()
        assert vm.msi(0xFEE0_0000, 0x41)
        assert made.vcpu.run() == _vector(0x41)
        with pytest.raises(UsageError, match="inside KVM"):
            made.vcpu.interrupt(0x41)


def test_an_irqfd_wakes_a_halted_guest(kvm: Kvm) -> None:
    """HLT is no exit with an interrupt controller: the eventfd, written by another thread, ends it."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        with guest(kvm, _SVR + "sti; hlt; ud2", config=VmConfig(irqchip=True)) as made:
            vm: Any = made.vm
            vm.route({24: (0xFEE0_0000, 0x77)})
            vm.irqfd(event, 24)
            timer = threading.Timer(0.05, os.eventfd_write, (event, 1))
            timer.start()
            assert made.vcpu.run() == _vector(0x77)
            timer.join()
            vm.irqfd(event, 24, remove=True)
    finally:
        os.close(event)


def test_a_halted_guest_can_be_kicked(kvm: Kvm) -> None:
    with guest(kvm, "cli; hlt", config=VmConfig(irqchip=True)) as made:
        timer = threading.Timer(0.05, made.vcpu.kick)
        timer.start()
        assert made.vcpu.run() == Interrupted()
        timer.join()


def test_the_pit_ticks_through_the_pic(kvm: Kvm) -> None:
    """Real mode as a BIOS leaves it: the PIC at vector 8, the PIT's channel 0 at about 1 kHz."""
    code = (
        "mov al, 0x11; out 0x20, al; mov al, 8; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al; "
        "mov al, 0xfe; out 0x21, al; mov al, 0x34; out 0x43, al; mov al, 0xa9; out 0x40, al; mov al, 4; out 0x40, al; "
        "sti; again: jmp again"
    )
    with guest(kvm, code, "real", config=VmConfig(irqchip=True, pit=True)) as made:
        timer = threading.Timer(10, made.vcpu.kick)
        timer.start()
        assert made.vcpu.run() == _vector(8)
        timer.cancel()
        timer.join()
        saved = made.vm.save()
        assert len(saved["irqchips"]) == 3
        assert saved["clock_ns"] > 0
        made.vm.restore(saved)
        # The timer ticks on: what stays is how the guest has set it up (mask, vectors; channel 0's reload value).
        again = made.vm.save()
        for number in (0, 1):
            assert again["irqchips"][number][5:9] == saved["irqchips"][number][5:9]
        assert (saved["irqchips"][0][2], saved["irqchips"][0][5]) == (0xFE, 8)
        assert again["pit"][:4] == saved["pit"][:4] == (0x4A9).to_bytes(4, "little")


def test_a_line_of_the_pic(kvm: Kvm) -> None:
    code = (
        "mov al, 0x11; out 0x20, al; mov al, 0x20; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al; "
        "mov al, 0; out 0x21, al; out 0x80, al; sti; again: jmp again"
    )
    with guest(kvm, code, "real", config=VmConfig(irqchip=True)) as made:
        # An edge counts only once the chip has been told how to work.
        assert made.vcpu.run() == PortIo(0x80, 1, True, 1, b"\0")
        made.vm.set_irq(4, level=True)
        assert made.vcpu.run() == _vector(0x24)
        made.vm.set_irq(4, level=False)


def test_what_a_vm_has_not(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        with pytest.raises(UsageError, match="no interrupt controller"):
            vm.set_irq(1, level=True)
        with pytest.raises(UsageError, match="other interrupt controllers"):
            vm.restore({"format": "kvm-x86_64-vm-1", "clock_ns": 0, "irqchips": [b""], "pit": None})
        with pytest.raises(UsageError, match="not a saved VM"):
            vm.restore({})
        with pytest.raises(UsageError, match="another hypervisor"):
            vm.create_vcpu("a model")
    with pytest.raises(UsageError, match="PIT"):
        kvm.create_vm(VmConfig(pit=True))
    with pytest.raises(UsageError, match="width"):
        kvm.create_vm(VmConfig(address_bits=40))


# -- vCPUs -----------------------------------------------------------------------------------------------------------------


def test_each_vcpu_has_its_apic_number(kvm: Kvm) -> None:
    with HostMemory(1 << 16) as memory, kvm.create_vm() as vm:
        vm.map(0, memory)
        for index in range(3):
            vcpu = vm.create_vcpu()
            assert vcpu.index == index
        assert all(leaf.ebx >> 24 == 2 for leaf in kvm.model().for_cpu(2).leaves if leaf.function == 1)


def test_translation_is_that_of_the_page_tables(kvm: Kvm) -> None:
    with guest(kvm, "hlt") as made:
        vcpu: Any = made.vcpu
        assert vcpu.translate(0x12_3456) == 0x12_3456
        assert vcpu.translate(1 << 40) is None


def test_a_guest_that_cannot_be_entered(kvm: Kvm) -> None:
    """Data, not an exception; and it keeps what KVM says."""
    with guest(kvm, "int 0x80") as made:
        found = made.vcpu.run()
        if kvm.flavour != "pvm":
            assert found == _vector(0x80)
            return
        assert isinstance(found, FailEntry)
        # KVM gives as many bytes as it has fetched.
        assert re.match(r"an instruction that KVM cannot emulate: cd 80( [0-9a-f]{2}){0,13}$", found.reason)
        assert found.code == 1
        assert b"\xcd\x80" in found.raw


def test_an_unknown_exit_is_data(kvm: Kvm) -> None:
    with guest(kvm, "hlt") as made:
        vcpu: Any = made.vcpu
        found = vcpu._decode(4711)
        assert isinstance(found, Unknown)
        assert (found.reason, len(found.raw)) == (4711, 256)


def test_memory_that_the_host_took_away_is_an_error(kvm: Kvm) -> None:
    """KVM answers EFAULT; no crash, and one line."""
    with guest(kvm, "mov al, [rsi]; out 0xf4, al", "user", before={"rsi": 0x40_0000}) as made:

        class Gone:
            size = PAGE
            address = 0x1000  # nothing can be mapped so low

            def hold(self) -> None: ...
            def release(self) -> None: ...

        made.vm.map(0x40_0000, Gone())
        with pytest.raises(HypervisorError, match="KVM_RUN") as caught:
            made.vcpu.run()
        assert caught.value.call == "KVM_RUN"
        assert "unmapped" in caught.value.hint


def test_a_running_vcpu_cannot_be_closed(kvm: Kvm) -> None:
    with guest(kvm, "again: inc qword ptr [rsi]; jmp again", "user", before={"rsi": DATA}) as made:
        thread = threading.Thread(target=made.vcpu.run)
        thread.start()
        until = time.monotonic() + 10
        while not any(made.memory.read(DATA, 8)) and time.monotonic() < until:
            time.sleep(0.001)
        try:
            with pytest.raises(UsageError, match="running"):
                made.vcpu.close()
        finally:
            made.vcpu.kick()
            thread.join()


def test_a_vm_of_the_parent_fails_in_the_child(kvm: Kvm) -> None:
    """KVM ties a VM to its address space."""
    program = """
import os, sys
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.errors import HypervisorError
from vm_accel.testing.conformance import guest
from vm_accel.exits import Halt
with Kvm() as kvm, guest(kvm, "hlt") as made:
    pid = os.fork()
    if not pid:
        try:
            made.vcpu.run()
        except HypervisorError as error:
            assert "fork" in error.hint, error.hint
            with Kvm() as own, guest(own, "again: jmp again", "user") as mine:
                import threading
                threading.Timer(0.05, mine.vcpu.kick).start()
                mine.vcpu.run()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert made.vcpu.run() == Halt()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_kick_signal_is_nobody_elses(kvm: Kvm) -> None:
    """Its handler is C's: Python sees none, other calls are restarted, and one that is taken already is left alone."""
    program = """
import signal, threading, time, os
seen = []
signal.signal(signal.SIGRTMAX - 1, lambda *_: seen.append(1))
from vm_accel.kvm import kick
number = kick.install()
assert number == signal.SIGRTMAX - 2, number
assert kick.install() == number
read, write = os.pipe()
threading.Timer(0.1, lambda: kick.send(threading.main_thread().native_id)).start()
threading.Timer(0.2, os.write, (write, b"x")).start()
assert os.read(read, 1) == b"x"
os.kill(os.getpid(), signal.SIGRTMAX - 1)
assert seen == [1]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert kick.install() == kick.install()


# -- life and death --------------------------------------------------------------------------------------------------------


def _census() -> tuple[int, int]:
    with open("/proc/self/maps") as maps:
        kvm_maps = sum("kvm" in line or "anon_inode" in line for line in maps)
    return len(os.listdir("/proc/self/fd")), kvm_maps


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE


def _cycle(kvm: Kvm, memory: HostMemory) -> None:
    with kvm.create_vm() as vm:
        vm.map(0, memory)
        vcpu = vm.create_vcpu()
        vcpu.set_registers({"cs.base": 0, "cs.selector": 0, "rip": CODE, "rflags": 2})
        assert vcpu.run() == Halt()


def test_a_thousand_vms_leave_nothing(kvm: Kvm) -> None:
    with HostMemory(1 << 16) as memory:
        memory.write(CODE, b"\xf4")
        for _ in range(50):
            _cycle(kvm, memory)
        before, resident = _census(), _resident()
        for _ in range(1000):
            _cycle(kvm, memory)
        assert _census() == before
        assert _resident() - resident < 2 << 20


def test_what_is_forgotten_is_closed(kvm: Kvm) -> None:
    with HostMemory(1 << 16) as memory:
        before = _census()
        for _ in range(20):
            vm = kvm.create_vm()
            vm.map(0, memory)
            vm.create_vcpu()
            del vm
        import gc

        gc.collect()
        assert _census() == before


def test_closing_the_hypervisor_closes_all() -> None:
    before = _census()
    with HostMemory(1 << 16) as memory:
        kvm = Kvm()
        vms = [kvm.create_vm() for _ in range(5)]
        for vm in vms:
            vm.map(0, memory)
            vm.create_vcpu()
        kvm.close()
        kvm.close()
        with pytest.raises(HypervisorError, match="closed"):
            kvm.create_vm()
        with pytest.raises(HypervisorError, match="closed"):
            vms[0].create_vcpu()
    assert _census() == before


# -- probing ---------------------------------------------------------------------------------------------------------------


def test_probe_opens_nothing_for_long(kvm: Kvm) -> None:
    before = _census()
    assert Kvm.probe().available
    assert _census() == before


def test_a_host_of_another_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(AcceleratorUnavailable, match="s390x"):
        Kvm()


def test_json_takes_a_saved_state_with_bytes_as_hex(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        state = vm.create_vcpu().save()
        text = json.dumps(state, default=bytes.hex)
        assert json.loads(text)["registers"]["rip"] == 0xFFF0


def test_epoll_can_wait_for_an_ioeventfd(kvm: Kvm) -> None:
    """A device's thread needs no vCPU thread."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        with guest(kvm, "mov [rsi], eax; hlt", before={"rsi": MMIO}) as made:
            vm: Any = made.vm
            vm.ioeventfd(event, MMIO, 4)
            assert made.vcpu.run() == Halt()
            assert select.select([event], [], [], 5)[0] == [event]
    finally:
        os.close(event)


def test_a_machine_takes_little_of_python(kvm: Kvm) -> None:
    """Beside what KVM takes for it, a quarter of a mebibyte. See `many` in benchmarks/accel.py."""
    count = 50
    machines = []
    with HostMemory(PAGE) as memory:

        def make() -> None:
            vm = kvm.create_vm()
            vm.map(0, memory)
            vcpu = vm.create_vcpu()
            vcpu.set_registers({"cs.base": 0, "cs.selector": 0, "rip": 0, "rflags": 2})
            machines.append(vm)
            assert vcpu.run() == Halt()

        memory.write(0, b"\xf4")
        try:
            make()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(count):
                make()
            took = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
            for vm in machines:
                vm.close()
    assert took / count < 4500


def test_a_guest_gets_large_pages_where_it_asks_for_them(
    kvm: Kvm, statistics: Callable[[int], dict[str, int]]
) -> None:
    """Its own tables have pages of 2 MiB; the host has such pages if it is asked; and the addresses agree below that."""
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("the host has no transparent large pages")
    size, count = 32 << 20, 4096
    code = f"mov edi, 0x800000; mov ecx, {count}; again: mov [rdi], al; add rdi, 4096; dec ecx; jnz again; out 0x10, al"
    with HostMemory(size, huge=True) as memory, kvm.create_vm() as vm:
        memory.write(CODE, assemble(code, "x86_64", "user"))
        vm.map(0, memory)
        vcpu = vm.create_vcpu()
        prepare_x86(vcpu, memory, "user")
        assert vcpu.run() == PortIo(0x10, 1, True, 1, b"\0")
        if "pages_2m" not in (found := statistics(vm._fd)):
            pytest.skip("this KVM does not say")
        # Of eight, the host may have had none left for some.
        assert found["pages_2m"] >= 4
        assert statistics(vcpu._fd).get("pf_taken", 0) < count


def test_memory_that_is_large_is_at_a_multiple_of_large_pages() -> None:
    """And all of it is given back, also what was left out before and behind."""

    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE

    before, turns = mapped(), 50
    for _ in range(turns):
        for size in (HUGE - PAGE, HUGE, HUGE + PAGE, 3 * HUGE + 1):
            with HostMemory(size, huge=True) as memory:
                assert memory.size == -(-size // PAGE) * PAGE == len(memory.view)
                assert size < HUGE or memory.address % HUGE == 0
                memory.write(memory.size - 3, b"end")
                assert memory.read(memory.size - 4, 4) == b"\0end"
    assert mapped() - before < turns * HUGE
