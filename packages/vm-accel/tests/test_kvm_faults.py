"""Every call that goes to the kernel fails once, in every way that it can: one clear error, and nothing is left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.interface import VmConfig
from vm_accel.kvm.abi import Capability
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.kvm.kernel import ffi, request
from vm_accel.memory import HostMemory
from vm_accel.testing.conformance import assemble, prepare_x86
from vm_accel.testing.faults import NAMES, Faulty
from vm_accel.testing.snippets import CODE
from vm_accel.user.engine import KvmEngine
from vm_core import isa
from vm_core.errors import EngineUnavailable, VmError
from vm_core.memory import PAGE, GuestMemory, Prot

pytestmark = pytest.mark.kvm


def scenario(kernel: Faulty) -> None:
    """Uses every call that the bindings can make, at least once."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    config = VmConfig(irqchip=True, pit=True, msr_exits=True, dirty_ring=1024)
    try:
        with HostMemory(2 << 20) as memory, Kvm(kernel=kernel) as kvm:
            kvm.features  # noqa: B018 - it asks
            with kvm.create_vm(config) as vm:
                vm.map(0, memory, log_dirty=True)
                vm.coalesce(0xD000_0000, 0x1000)
                vm.coalesce(0xD000_0000, 0x1000, remove=True)
                vm.route({24: (0xFEE0_0000, 0x41)})
                vm.irqfd(event, 24)
                vm.irqfd(event, 24, remove=True)
                vm.ioeventfd(event, 0x99, 1, port=True)
                vm.ioeventfd(event, 0x99, 1, port=True, remove=True)
                with vm.create_vcpu() as vcpu:
                    memory.write(
                        CODE, assemble("mov byte ptr [rsi], 1; in al, 0x10; out 0x11, al", "x86_64", "long")
                    )
                    prepare_x86(vcpu, memory, "long")
                    vcpu.set_registers({"rsi": 0x3000, "xmm0": 1, "dr0": 0, "msr.0xc0000081": 1})
                    assert vcpu["msr.0xc0000081"] == 1
                    vcpu.run()
                    vcpu.complete(3)
                    assert 0x3000 in vm.dirty(0)
                    vcpu.debug(step=True)
                    vcpu.debug()
                    vcpu.translate(0x1000)
                    vcpu.restore(vcpu.save())
                    vcpu.nmi()
                    vm.restore(vm.save())
                    vm.set_irq(4, True)
                    vm.msi(0xFEE0_0000, 0x41)
                vm.unmap(0)
            with kvm.create_vm() as vm:
                vm.map(0, memory, log_dirty=True)
                vcpu = vm.create_vcpu()
                prepare_x86(vcpu, memory, "real")
                memory.write(CODE, b"\xf4")
                vcpu["rflags"] = 0x202
                vcpu.interrupt(0x20)
                vm.dirty(0)
                vcpu.registers()
    finally:
        os.close(event)


def counted() -> list[str]:
    kernel = Faulty()
    scenario(kernel)
    assert not kernel.fds
    assert not kernel.mappings
    return kernel.calls


@pytest.fixture(scope="module")
def calls(kvm: Kvm) -> list[str]:
    return counted()


# What this host's flavour never asks for (vmx), and the calls that another kernel's answers lead to.
_ELSEWHERE = {
    "KVM_SET_TSS_ADDR", "KVM_SET_IDENTITY_MAP_ADDR", "KVM_GET_XSAVE", "KVM_GET_XSAVE2", "KVM_SET_TSC_KHZ", "KVM_GET_TSC_KHZ",
}  # fmt: skip


def test_the_scenario_makes_every_call(calls: list[str]) -> None:
    assert set(NAMES.values()) - set(calls) <= _ELSEWHERE
    assert {"KVM_GET_XSAVE", "KVM_GET_XSAVE2"} & set(calls)


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOMEM, errno.EINVAL], ids=["EPERM", "ENOMEM", "EINVAL"]
)
def test_each_call_fails_once(calls: list[str], number: int) -> None:
    """Each name at its first, second and last place: where the paths that clean up differ."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(calls):
        places.setdefault(name, []).append(index)
    for name, indices in places.items():
        for index in sorted({indices[0], indices[min(1, len(indices) - 1)], indices[-1]}):
            kernel = Faulty()
            kernel.fail_at, kernel.fail_with = index, number
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(VmError) as caught:
                scenario(kernel)
            error = caught.value
            assert error.code in ("VM310", "VM311"), (name, index, error)
            assert "\n" not in str(error)
            assert os.strerror(number) in str(error), (name, error)
            if isinstance(error, HypervisorError):
                assert (error.call, error.status) == (name, number)
                assert name in str(error)
            assert not kernel.fds, (name, index)
            assert not kernel.mappings, (name, index)
            assert len(os.listdir("/proc/self/fd")) == before, (name, index)


# -- wrong answers ---------------------------------------------------------------------------------------------------------


def _wrong(name: str, answer: int) -> Faulty:
    kernel = Faulty()
    kernel.answers[name] = lambda _fd, _argument: answer
    return kernel


@pytest.mark.parametrize(
    ("name", "answer", "text"),
    [
        ("KVM_GET_API_VERSION", 11, "API version 11"),
        ("KVM_GET_VCPU_MMAP_SIZE", 0, "0 bytes"),
        ("KVM_GET_VCPU_MMAP_SIZE", 4096, "4096 bytes"),
        ("KVM_GET_VCPU_MMAP_SIZE", 12289, "12289 bytes"),
        ("KVM_GET_MSRS", 0, "refuses MSR"),
        ("KVM_SET_MSRS", 0, "refuses MSR"),
        ("KVM_GET_MSRS", 999, "did 999"),
        ("KVM_CHECK_EXTENSION", 0, "lacks registers in the shared page"),
    ],
)
def test_a_wrong_answer(kvm: Kvm, name: str, answer: int, text: str) -> None:
    kernel = _wrong(name, answer)
    with pytest.raises((HypervisorError, AcceleratorUnavailable), match=text):
        scenario(kernel)
    assert not kernel.fds
    assert not kernel.mappings


def test_a_wrong_size_of_the_xsave_area(kvm: Kvm) -> None:
    kernel = Faulty()

    def answer(fd: int, argument: Any) -> int:
        asked = int(ffi.cast("uintptr_t", argument))
        return (
            100
            if asked == Capability.XSAVE2
            else int(kernel.real(fd, request("KVM_CHECK_EXTENSION"), argument))
        )

    kernel.answers["KVM_CHECK_EXTENSION"] = answer
    with pytest.raises(HypervisorError, match="100 bytes"):
        Kvm(kernel=kernel)
    assert not kernel.fds


@pytest.mark.parametrize("count", [0, 500])
def test_a_wrong_number_of_leaves(kvm: Kvm, count: int) -> None:
    kernel = Faulty()

    def answer(_fd: int, argument: Any) -> int:
        ffi.cast("struct kvm_cpuid2 *", argument).nent = count
        return 0

    kernel.answers["KVM_GET_SUPPORTED_CPUID"] = answer
    with Kvm(kernel=kernel) as opened, pytest.raises(HypervisorError, match=f"{count} leaves"):
        opened.model()
    assert not kernel.fds


def test_lists_that_are_longer_than_expected(kvm: Kvm) -> None:
    """E2BIG is no error: they are asked for again."""
    kernel = Faulty()
    refused = []

    def answer(name: str) -> Callable[[int, Any], int]:
        def once(fd: int, argument: Any) -> int:
            if name not in refused:
                refused.append(name)
                kernel._number = errno.E2BIG
                return -1
            return int(kernel.real(fd, request(name), argument))

        return once

    for name in ("KVM_GET_SUPPORTED_CPUID", "KVM_GET_MSR_INDEX_LIST"):
        kernel.answers[name] = answer(name)
    with Kvm(kernel=kernel) as opened:
        # Without the number of the CPU that happened to answer.
        assert opened.model().for_cpu(0) == kvm.model().for_cpu(0)
        assert opened.msr_numbers() == kvm.msr_numbers()
    assert len(refused) == 2


def test_a_saved_state_of_another_size(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        vcpu = vm.create_vcpu()
        state = vcpu.save()
        state["xsave"] += b"\0"
        with pytest.raises(HypervisorError, match="xsave"):
            vcpu.restore(state)


# -- no KVM ----------------------------------------------------------------------------------------------------------------


def test_no_device(tmp_path: Any) -> None:
    with pytest.raises(AcceleratorUnavailable, match="there is no") as caught:
        Kvm(str(tmp_path / "kvm"))
    assert "modprobe" in caught.value.hint


def test_no_permission() -> None:
    kernel = Faulty()
    kernel.fail_at, kernel.fail_with = 0, errno.EACCES
    with pytest.raises(AcceleratorUnavailable, match="Permission denied") as caught:
        Kvm(kernel=kernel)
    assert "usermod -aG kvm" in caught.value.hint


def test_a_device_that_is_something_else() -> None:
    with pytest.raises(AcceleratorUnavailable, match="/dev/null is no KVM") as caught:
        Kvm("/dev/null")
    assert "character device 10, 232" in caught.value.hint


def test_too_many_open_files() -> None:
    kernel = Faulty()
    kernel.fail_at, kernel.fail_with = 0, errno.EMFILE
    with pytest.raises(AcceleratorUnavailable) as caught:
        Kvm(kernel=kernel)
    assert "ulimit -n" in caught.value.hint


def test_the_engine_for_programs_says_what_failed_and_leaves_nothing(kvm: Kvm) -> None:
    memory = GuestMemory()

    def attempt(kernel: Faulty) -> None:
        with Kvm(kernel=kernel) as opened:
            engine = KvmEngine(isa.get("x86_64"), memory, kvm=opened)
            try:
                cpu = isa.get("x86_64").cpu()
                cpu.pc = 0x10000
                engine.run(cpu, memory, 1)
            finally:
                engine.close()

    memory.map(0x10000, PAGE, Prot.RX)
    memory.poke(0x10000, b"\x0f\x05")
    good = Faulty()
    attempt(good)
    assert len(good.calls) > 10
    for index in range(len(good.calls)):
        faulty = Faulty()
        faulty.fail_at, faulty.fail_with = index, errno.EPERM
        with pytest.raises((EngineUnavailable, HypervisorError, AcceleratorUnavailable)):
            attempt(faulty)
        assert not faulty.fds
        assert not faulty.mappings
        assert not memory.table_changed
    memory.close()
