"""KVM on arm64 and riscv64, against a kernel that the test makes up: the order of calls, what they hold, and how exits are read."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import keystone
import pytest

from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.exits import (
    FailEntry,
    Hypercall,
    HypercallAbi,
    Interrupted,
    Mmio,
    Shutdown,
    ShutdownKind,
    SysReg,
    SysRegSpace,
    Unknown,
)
from vm_accel.interface import VmConfig
from vm_accel.kvm import abi, arm64, one_reg, riscv64
from vm_accel.memory import HostMemory
from vm_core.errors import UsageError


class Kernel:
    """Keeps registers and what it was asked; ``exits`` are what each KVM_RUN does to the shared page."""

    def __init__(self, isa: str) -> None:
        host = one_reg.HOSTS[isa]
        self.ffi = abi.foreign(host.structures)
        self.names = {number: name for name, number in abi.numbers(self.ffi, abi.CALLS | host.calls).items()}
        self.asked: list[str] = []
        self.registers: dict[int, bytes] = {}
        self.exits: list[Callable[[Any], None] | int] = []
        self.attributes: list[tuple[int, int, int]] = []
        self.fails: dict[str, int] = {}
        self.regions: list[tuple[int, ...]] = []
        self.next_fd, self.closed, self.mapped = 100, [], 0
        self._errno = 0

    def errno(self) -> int:
        return self._errno

    def _fail(self, number: int) -> int:
        self._errno = number
        return -1

    def open(self, path: str) -> int:
        return 50

    def close(self, fd: int) -> int:
        self.closed.append(fd)
        return 0

    def mmap(self, fd: int, size: int, offset: int) -> Any:
        self.page = self.ffi.new("uint8_t[]", size)
        self.mapped += 1
        return self.ffi.cast("void *", self.page)

    def munmap(self, pointer: Any, size: int) -> int:
        self.mapped -= 1
        return 0

    @property
    def run(self) -> Any:
        return self.ffi.cast("struct kvm_run *", self.page)

    def ioctl(self, fd: int, request: int, argument: Any) -> int:
        name = self.names[request]
        self.asked.append(name)
        if name in self.fails:
            return self._fail(self.fails[name])
        given = self.ffi.cast
        match name:
            case "KVM_GET_API_VERSION":
                return 12
            case "KVM_GET_VCPU_MMAP_SIZE":
                return 0x3000
            case "KVM_CREATE_VM" | "KVM_CREATE_VCPU":
                self.next_fd += 1
                return self.next_fd
            case "KVM_CREATE_DEVICE":
                made = given("struct kvm_create_device *", argument)
                self.attributes.append((-1, made.type, 0))
                made.fd = 77
            case "KVM_SET_DEVICE_ATTR":
                one = given("struct kvm_device_attr *", argument)
                value = given("uint64_t *", one.addr)[0] if one.addr else 0
                self.attributes.append((one.group, one.attr, value))
            case "KVM_ARM_PREFERRED_TARGET":
                given("struct kvm_vcpu_init *", argument).target = 5
            case "KVM_ARM_VCPU_INIT":
                self.init = given("struct kvm_vcpu_init *", argument)
                self.features = (self.init.target, self.init.features[0])
            case "KVM_SET_USER_MEMORY_REGION":
                region = given("struct kvm_userspace_memory_region *", argument)
                self.regions.append((region.slot, region.flags, region.guest_phys_addr, region.memory_size))
            case "KVM_GET_DIRTY_LOG":
                log = given("struct kvm_dirty_log *", argument)
                given("uint64_t *", log.dirty_bitmap)[0] = 0b101
            case "KVM_GET_ONE_REG" | "KVM_SET_ONE_REG":
                one = given("struct kvm_one_reg *", argument)
                size = arm64.register_size(one.id)
                data = self.ffi.buffer(given("char *", one.addr), size)
                if name == "KVM_SET_ONE_REG":
                    self.registers[one.id] = data[:]
                else:
                    data[:] = self.registers.get(one.id, bytes(size))
            case "KVM_GET_REG_LIST":
                words = given("uint64_t *", argument)
                numbers = sorted(self.registers)
                room, words[0] = words[0], len(numbers)
                if room < len(numbers):
                    return self._fail(errno.E2BIG)
                for at, number in enumerate(numbers):
                    words[1 + at] = number
            case "KVM_RUN":
                if self.run.immediate_exit:
                    return self._fail(errno.EINTR)
                made = self.exits.pop(0)
                if isinstance(made, int):
                    return self._fail(made)
                made(self.run)
        return 0


def opened(isa: str) -> tuple[one_reg.KvmOneReg, Kernel]:
    kernel = Kernel(isa)
    return one_reg.KvmOneReg(kernel=kernel, machine=isa), kernel  # type: ignore[arg-type]


def mmio(address: int, size: int, value: int | None) -> Callable[[Any], None]:
    def exit_(run: Any) -> None:
        run.exit_reason = 6
        run.mmio.phys_addr, run.mmio.len, run.mmio.is_write = address, size, value is not None
        run.mmio.data = list((value or 0).to_bytes(8, "little"))

    return exit_


def test_the_reasons_are_those_of_the_header() -> None:
    for reason in one_reg.Reason:
        assert abi.EXITS[reason] == reason.name


def test_a_vcpu_of_arm64_comes_up() -> None:
    hypervisor, kernel = opened("aarch64")
    vm = hypervisor.create_vm(VmConfig(irqchip=True, address_bits=40))
    vm.create_vcpu()
    second = vm.create_vcpu()
    assert kernel.features == (5, 1 << 2)  # the preferred target, power calls by the kernel
    kernel.exits = [mmio(0x900_0000, 4, 7)]
    assert second.run() == Mmio(0x900_0000, 4, True, 7)
    assert kernel.attributes == [
        (-1, 7, 0),  # the kind of device
        (0, 2, 0x0800_0000),
        (0, 3, 0x080A_0000),
        (4, 0, 0),
    ]
    order = [name for name in kernel.asked if "ONE_REG" not in name]
    assert (
        order.index("KVM_CREATE_DEVICE") < order.index("KVM_CREATE_VCPU") < order.index("KVM_ARM_VCPU_INIT")
    )
    hypervisor.close()
    assert kernel.mapped == 0
    assert {101, 102, 103, 77, 50} <= set(kernel.closed)


def test_a_vcpu_of_riscv64_comes_up() -> None:
    hypervisor, kernel = opened("riscv64")
    vm = hypervisor.create_vm(VmConfig(irqchip=True))
    vm.create_vcpu()
    vcpu = vm.create_vcpu()
    kernel.exits = [mmio(0x1000_0000, 1, None)]
    assert vcpu.run() == Mmio(0x1000_0000, 1, False)
    assert kernel.attributes == [
        (-1, riscv64.KVM_DEV_TYPE_RISCV_AIA, 0),
        (1, 0, 0x0D00_0000),
        (1, 1, 0x2800_0000),
        (1, 2, 0x2800_1000),
        (2, 0, 0),
    ]


@pytest.mark.parametrize(
    ("isa", "name", "value"),
    [
        ("aarch64", "x30", 5),
        ("aarch64", "v7", 1 << 100),
        ("aarch64", "fpsr", 3),
        ("aarch64", "ttbr0_el1", 0x4000_0000),
        ("riscv64", "pc", 0x8000_0000),
        ("riscv64", "a0", 1),
        ("riscv64", "satp", 8 << 60),
        ("riscv64", "f3", 1 << 63),
    ],
)
def test_registers(isa: str, name: str, value: int) -> None:
    hypervisor, kernel = opened(isa)
    vcpu = hypervisor.create_vm().create_vcpu()
    vcpu[name] = value
    number = one_reg.HOSTS[isa].registers[name]
    assert int.from_bytes(kernel.registers[number], "little") == value
    assert len(kernel.registers[number]) == arm64.register_size(number)
    assert vcpu[name] == value
    with pytest.raises(ValueError, match="does not fit"):
        vcpu.set_registers({name: 1 << 128})
    with pytest.raises(KeyError):
        vcpu["rax"]


def test_names_of_riscv64_and_sp_of_arm64() -> None:
    hypervisor, _ = opened("riscv64")
    vcpu = hypervisor.create_vm().create_vcpu()
    vcpu["x10"] = 9
    assert (vcpu["a0"], vcpu["x0"]) == (9, 0)
    hypervisor, _ = opened("aarch64")
    vcpu = hypervisor.create_vm().create_vcpu()
    vcpu.set_registers({"sp": 0x8000, "pstate": 0x3C5})
    assert vcpu["sp_el1"] == 0x8000
    vcpu["sys.3.0.13.0.4"] = 6
    assert vcpu["tpidr_el1"] == 6


def test_more_vcpus_than_there_can_be() -> None:
    hypervisor, _kernel = opened("aarch64")
    for cpus in (0, 100_000):
        with pytest.raises(UsageError, match=f"{cpus} vCPUs are not within 1 and"):
            hypervisor.create_vm(VmConfig(cpus=cpus))


def test_a_read_is_answered_in_the_shared_page() -> None:
    hypervisor, kernel = opened("aarch64")
    vcpu = hypervisor.create_vm().create_vcpu()
    kernel.exits = [mmio(0x900_0000, 2, None), mmio(0x900_0000, 2, None), mmio(0, 1, 1)]
    assert vcpu.run() == Mmio(0x900_0000, 2, False)
    vcpu.complete(0x12345)
    assert bytes(kernel.run.mmio.data)[:3] == b"\x45\x23\0"
    with pytest.raises(UsageError):
        vcpu.complete(1)
    assert isinstance(vcpu.run(), Mmio)
    # Nobody answers the second one.
    page: list[bytes] = []
    kernel.exits[0] = lambda run: (page.append(bytes(run.mmio.data)), mmio(0, 1, 1)(run))[1]
    vcpu.run()
    assert page[0][:2] == b"\xff\xff"


@pytest.mark.parametrize("change", [False, True])
def test_registers_behind_an_access_come_from_a_run_that_does_not_enter(change: bool) -> None:
    """KVM writes them when it finishes the access, which is at the next KVM_RUN."""
    hypervisor, kernel = opened("aarch64")
    vcpu = hypervisor.create_vm().create_vcpu()
    kernel.exits = [mmio(0x900_0000, 2, None), mmio(0x900_0000, 2, 7), mmio(0x900_0000, 2, 8)]
    vcpu.run()
    kernel.asked.clear()
    assert vcpu["x1"] == 0
    assert kernel.asked == ["KVM_GET_ONE_REG"]  # it waits: they are those of before
    vcpu.complete(5)
    kernel.asked.clear()
    if change:
        vcpu.set_registers({"x1": 3})
        assert kernel.asked == ["KVM_RUN", "KVM_SET_ONE_REG"]
    else:
        assert vcpu["x1"] == 0
        assert kernel.asked == ["KVM_RUN", "KVM_GET_ONE_REG"]
    vcpu["x2"] = 1
    assert kernel.asked.count("KVM_RUN") == 1
    vcpu.run()
    kernel.asked.clear()
    assert vcpu["pc"] == 0
    assert kernel.asked == ["KVM_RUN", "KVM_GET_ONE_REG"]  # also behind a write, for the pc
    vcpu.run()
    kernel.asked.clear()
    vcpu.save()
    assert kernel.asked[0] == "KVM_RUN"


def test_kicks() -> None:
    hypervisor, kernel = opened("aarch64")
    vcpu = hypervisor.create_vm().create_vcpu()
    vcpu.kick()
    assert kernel.run.immediate_exit == 1
    assert vcpu.run() == Interrupted()
    assert kernel.run.immediate_exit == 0
    kernel.exits = [errno.EINTR, mmio(0, 4, 2)]  # a signal of somebody else's
    assert vcpu.run() == Mmio(0, 4, True, 2)
    kernel.exits = [lambda _run: vcpu.kick() or None, errno.EFAULT]
    kernel.exits[0] = lambda run: setattr(run, "exit_reason", 99)
    assert isinstance(vcpu.run(), Unknown)
    with pytest.raises(HypervisorError) as raised:
        vcpu.run()
    assert (raised.value.call, raised.value.status) == ("KVM_RUN", errno.EFAULT)


@pytest.mark.parametrize(
    ("event", "kind"),
    [(1, ShutdownKind.OFF), (2, ShutdownKind.RESET), (3, ShutdownKind.CRASH), (5, ShutdownKind.SUSPEND)],
)
def test_the_end(event: int, kind: ShutdownKind) -> None:
    hypervisor, kernel = opened("riscv64")

    def exit_(run: Any) -> None:
        run.exit_reason, run.system_event.type, run.system_event.ndata = 24, event, 1
        run.system_event.data[0] = 3

    vcpu = hypervisor.create_vm().create_vcpu()
    kernel.exits = [exit_]
    assert vcpu.run() == Shutdown(kind, 3)


def test_failures() -> None:
    hypervisor, kernel = opened("aarch64")
    vcpu = hypervisor.create_vm().create_vcpu()

    def entry(run: Any) -> None:
        run.exit_reason, run.fail_entry.hardware_entry_failure_reason = 9, 0x77

    def internal(run: Any) -> None:
        run.exit_reason, run.internal.suberror = 17, 4

    kernel.exits = [entry, internal]
    for code in (0x77, 4):
        found = vcpu.run()
        assert isinstance(found, FailEntry)
        assert found.code == code


def test_calls_of_the_firmware() -> None:
    hypervisor, kernel = opened("riscv64")
    vcpu = hypervisor.create_vm().create_vcpu()

    def call(run: Any) -> None:
        run.exit_reason = 35
        run.riscv_sbi.extension_id, run.riscv_sbi.function_id = 0x0A00_0000, 2
        run.riscv_sbi.args = [1, 2, 3, 4, 5, 6]

    kernel.exits = [call, call, mmio(0, 1, 0)]
    assert vcpu.run() == Hypercall(HypercallAbi.SBI, 0x0A00_0000 << 32 | 2, (1, 2, 3, 4, 5, 6))
    vcpu.complete(0x55)
    assert list(kernel.run.riscv_sbi.ret) == [0, 0x55]
    vcpu.run()
    vcpu.run()  # not answered: not supported
    hypervisor, kernel = opened("riscv64")
    vcpu = hypervisor.create_vm().create_vcpu()
    answers: list[list[int]] = []
    kernel.exits = [call, lambda run: (answers.append(list(run.riscv_sbi.ret)), mmio(0, 1, 0)(run))[1]]
    vcpu.run()
    vcpu.run()
    assert answers == [[(1 << 64) - 2, 0]]


def test_control_and_status_registers() -> None:
    hypervisor, kernel = opened("riscv64")
    vcpu = hypervisor.create_vm().create_vcpu()

    def access(run: Any) -> None:
        run.exit_reason = 36
        run.riscv_csr.csr_num, run.riscv_csr.new_value, run.riscv_csr.write_mask = 0x5C0, 0xFF, 0x0F

    kernel.exits = [access]
    assert vcpu.run() == SysReg(SysRegSpace.CSR, 0x5C0, True, 0xF, 0xF)
    vcpu.complete(0x99)
    assert kernel.run.riscv_csr.ret_value == 0x99


def test_an_access_without_a_syndrome() -> None:
    hypervisor, kernel = opened("aarch64")
    vm = hypervisor.create_vm()
    memory = HostMemory(0x4000)
    vm.map(0x4000_0000, memory)
    code, _ = keystone.Ks(keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN).asm("ldp x2, x3, [x1], #16")
    memory.write(0, bytes(code))
    vcpu = vm.create_vcpu()
    vcpu.set_registers({"pc": 0x4000_0000, "x1": 0x900_0000, "pstate": 0x3C5})
    kernel.exits = [lambda run: setattr(run, "exit_reason", 28), mmio(0, 1, 0)]
    assert vcpu.run() == Mmio(0x900_0000, 8, False)
    vcpu.complete(5)
    assert vcpu.run() == Mmio(0x900_0008, 8, False)
    vcpu.complete(6)
    wanted = {"x1": 0x900_0010, "x2": 5, "x3": 6, "pc": 0x4000_0004}
    assert vcpu.registers(wanted) == wanted
    assert kernel.asked.count("KVM_RUN") == 1
    hypervisor.close()
    memory.close()


def test_memory() -> None:
    hypervisor, kernel = opened("riscv64")
    vm = hypervisor.create_vm()
    memory = HostMemory(0x4000)
    vm.map(0x8000_0000, memory, log_dirty=True)
    vm.map(0x9000_0000, memory, offset=0x1000, size=0x1000, writable=False)
    assert vm.dirty(0x8000_0000) == [0x8000_0000, 0x8000_2000]
    vm.unmap(0x8000_0000)
    vm.map(0xA000_0000, memory)
    assert kernel.regions == [
        (0, 1, 0x8000_0000, 0x4000),
        (1, 2, 0x9000_0000, 0x1000),
        (0, 1, 0x8000_0000, 0),
        (0, 0, 0xA000_0000, 0x4000),
    ]
    for call in (lambda: vm.map(0xA000_1000, memory), lambda: vm.unmap(5), lambda: vm.map(0x123, memory)):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(UsageError):
        memory.close()
    vm.close()
    memory.close()


def test_state_is_what_the_kernel_lists() -> None:
    hypervisor, _ = opened("aarch64")
    vm = hypervisor.create_vm()
    vcpu = vm.create_vcpu()
    vcpu.set_registers({"x3": 8, "v1": 1 << 127, "pstate": 0x3C5})
    state = vcpu.save()
    assert len(state["registers"]) == 3
    vcpu.set_registers({"x3": 0, "v1": 0})
    vcpu.restore(state)
    assert vcpu.registers(["x3", "v1"]) == {"x3": 8, "v1": 1 << 127}
    with pytest.raises(UsageError):
        vcpu.restore({"format": "kvm-riscv64-vcpu/1"})


@pytest.mark.parametrize(
    "name",
    [
        "KVM_GET_VCPU_MMAP_SIZE",
        "KVM_CREATE_VM",
        "KVM_ENABLE_CAP",
        "KVM_CREATE_DEVICE",
        "KVM_CREATE_VCPU",
        "KVM_ARM_VCPU_INIT",
    ],
)
def test_a_call_that_fails_leaves_nothing_behind(name: str) -> None:
    kernel = Kernel("aarch64")
    kernel.fails[name] = errno.ENOMEM

    def everything() -> None:
        hypervisor = one_reg.KvmOneReg(kernel=kernel, machine="aarch64")  # type: ignore[arg-type]
        with hypervisor, hypervisor.create_vm(VmConfig(irqchip=True)) as vm:
            vm.create_vcpu()

    with pytest.raises(HypervisorError) as raised:
        everything()
    assert raised.value.call == name
    assert kernel.mapped == 0
    assert len(set(kernel.closed)) == 1 + (kernel.next_fd - 100) + (77 in kernel.closed)


def test_other_hosts() -> None:
    with pytest.raises(AcceleratorUnavailable, match="s390x"):
        one_reg.KvmOneReg(machine="s390x")
