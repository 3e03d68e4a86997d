"""The Virtualization framework's binding, against a framework of our own over GNU's Objective-C runtime (vm_accel/testing/vz.m).

What is executed: every message, its C type, blocks, delegates, queues and ownership, by a runtime and a compiler that are not
ours. What is not: Apple's frameworks, and any guest.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keystone
import pytest

from vm_accel import (
    AcceleratorUnavailable,
    EntitlementMissing,
    HypervisorError,
    MachineBackend,
    open_machines,
)
from vm_accel.interface import Disk, MachineConfig, MachineEvent, MachineState, Network, Share
from vm_accel.selftest import record
from vm_accel.testing.vz import Simulator, build, lacking
from vm_accel.vz import Vz, VzMachine, selftest, table
from vm_accel.vz.backend import discrepancies
from vm_accel.vz.configuration import check_kernel
from vm_accel.vz.objc import Queue, Runtime, runtime
from vm_core.errors import UsageError

RECORDED = Path(__file__).parent / "recorded"
pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator, compiled."""
    return build(tmp_path_factory.mktemp("vz"))


@pytest.fixture
def sim(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """The simulator in place of macOS. Afterwards nothing may have been done wrong, and no object may be left."""
    monkeypatch.setenv("VM_VZ_LIBRARY", str(library))
    runtime()._checked.clear()  # what an earlier test found out may be hidden in this one
    simulator = Simulator(library)
    simulator.reset()
    before = simulator.live()
    yield simulator
    violations = simulator.violations()
    simulator.reset()
    assert violations == []
    until = time.monotonic() + 10
    while simulator.live() != before and time.monotonic() < until:
        time.sleep(0.001)  # a queue's own thread lets go of the queue last
    assert simulator.live() == before


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A file that looks like a kernel of the host's ISA."""
    path = tmp_path / "kernel"
    image = bytearray(0x400)
    image[56:60] = b"ARM\x64"
    image[0x202:0x206] = b"HdrS"
    path.write_bytes(image)
    return path


def disk(path: Path, size: int = 1 << 20) -> Path:
    path.write_bytes(bytes(size))
    return path


def events(machine: VzMachine) -> list[MachineState]:
    """All that have come."""
    found = []
    while event := machine.wait(0):
        found.append(event.state)
    return found


def wait_for(machine: VzMachine, state: MachineState) -> MachineEvent:
    while event := machine.wait(10):
        if event.state is state:
            return event
    raise AssertionError(f"{state} has not come")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- the table ------------------------------------------------------------------------------------------------------------------


def test_every_message_is_in_the_table_with_its_origin() -> None:
    rows = table.methods()
    assert sum(row.owner.startswith("VZ") for row in rows) == 80
    assert set(table.provenance()) >= {"encodings", "cross_check", "since", "recorded_on"}
    for row in rows:
        arguments = table.split(row.encoding)[3:]
        assert len(arguments) == row.selector.count(":"), row
        assert table.split(row.encoding)[1:3] == ["@", ":"], row
        assert row.since or row.owner.startswith("NS"), row
        assert table.signatures()[row.selector] == row.encoding


@pytest.mark.parametrize(
    ("native", "normal", "shape"),
    [
        ("v24@0:8@?16", "v@:@?", "vppp"),
        ("v24@0:8@?<v@?@>16", "v@:@?", "vppp"),
        ('@"NSString"16@0:8', "@@:", "ppp"),
        ("@24@0:8r*16", "@@:*", "pppp"),
        ("@24@0:8^c16", "@@:*", "pppp"),
        ("c24@0:8^@16", "c@:^@", "bppp"),
        ("B48@0:8@16B24q28q36^@44", "B@:@Bqq^@", "bpppbxxp"),
        ("^{vmnet_network=}16@0:8", "^{vmnet_network=}@:", "ppp"),
        ("{CGSize=dd}16@0:8", "{CGSize=dd}@:", "{CGSize=dd}pp"),
        ("Vv20@0:8I16", "v@:I", "vppw"),
    ],
)
def test_encodings_are_read_as_the_runtime_writes_them(native: str, normal: str, shape: str) -> None:
    assert table.normal(native) == normal
    assert table.shape(native) == shape


@pytest.mark.parametrize("broken", ["^", "{CGSize=dd", '@"NSString', "y@:", "r"])
def test_what_is_no_encoding_is_refused(broken: str) -> None:
    with pytest.raises(ValueError):
        table.split(broken)


def test_the_compiler_gives_every_method_the_encoding_of_the_table(sim: Simulator) -> None:
    assert discrepancies() == []


def test_a_row_that_the_runtime_does_not_have_is_found(sim: Simulator) -> None:
    sim.hide("VZEFIBootLoader")
    sim.hide("saveMachineStateToURL:completionHandler:")
    assert discrepancies() == [
        "-[VZEFIBootLoader setVariableStore:] is missing (macOS 13.0)",
        "-[VZVirtualMachine saveMachineStateToURL:completionHandler:] is missing (macOS 14.0 on arm64)",
    ]


def test_classes_have_the_ancestors_of_the_record(sim: Simulator) -> None:
    run = runtime()
    for name in table.classes():
        if name.startswith("VZ"):
            parent = run.class_getSuperclass(run.cls(name))
            assert run.ffi.string(run.class_getName(parent)).decode() == table.parent(name)


# -- the runtime's binding ----------------------------------------------------------------------------------------------------------


def test_values_of_every_kind_arrive_as_they_were_sent(sim: Simulator) -> None:
    run = runtime()
    with run.scope() as scope:
        assert run.text(run.string("käse")) == "käse"
        assert run.content(run.data(b"\0\1\xff")) == b"\0\1\xff"
        assert run.content(run.data(b"")) == b""
        things = [run.string(str(number)) for number in range(300)]
        assert [run.text(each) for each in run.items(run.array(things))] == [
            str(number) for number in range(300)
        ]
        assert run.items(run.array([])) == []
        made = scope.new("VZVirtualMachineConfiguration")
        run.send(made, "setMemorySize:", 2**64 - 1)


def test_a_message_to_nil_is_an_error(sim: Simulator) -> None:
    with pytest.raises(HypervisorError, match="nil"):
        runtime().send(runtime().ffi.NULL, "count")


def test_an_unknown_selector_is_an_error_and_does_not_reach_the_runtime(sim: Simulator) -> None:
    run = runtime()
    with run.scope(), pytest.raises(AcceleratorUnavailable, match="NSString has no fileDescriptor"):
        run.send(run.string("x"), "fileDescriptor")


def test_another_encoding_than_the_table_s_is_refused(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.signatures(), "setMemorySize:", "v@:I")
    run = runtime()
    with run.scope() as scope:
        made = scope.new("VZVirtualMachineConfiguration")
        with pytest.raises(HypervisorError, match=r"setMemorySize: is v.*Q.* here, and v@:I"):
            run.send(made, "setMemorySize:", 1 << 30)


def test_what_is_raised_on_the_queue_comes_back(sim: Simulator) -> None:
    with Queue(runtime(), "test") as queue:
        assert queue.call(lambda _: queue.inside)
        assert queue.call(lambda _: queue.call(lambda _: 5)) == 5
        with pytest.raises(ZeroDivisionError):
            queue.call(lambda _: 1 // 0)
    with pytest.raises(HypervisorError, match="closed"):
        queue.call(lambda _: 1)


def test_a_queue_does_one_thing_at_a_time(sim: Simulator) -> None:
    inside, seen = [], []

    def work(_: object) -> None:
        inside.append(1)
        seen.append(len(inside))
        inside.pop()

    with Queue(runtime(), "test") as queue:
        threads = [threading.Thread(target=lambda: [queue.call(work) for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [1] * 400


def test_blocks_are_used_again(sim: Simulator) -> None:
    blocks = runtime().blocks
    before = None
    for _ in range(20):
        Vz().install_rosetta()
        after = len(blocks._all)
        assert before is None or after == before
        before = after


def test_a_name_that_is_taken_does_not_hinder_a_class(sim: Simulator, library: Path) -> None:
    def answer(_receiver: int) -> int:
        return 7

    first = runtime().make_class("VmTestTwice", {"state": ("q@:", answer)})
    assert runtime().make_class("VmTestTwice", {}) == first
    second = Runtime((str(library),)).make_class("VmTestTwice", {"state": ("q@:", answer)})
    assert first != second
    run = runtime()
    with run.scope() as scope:
        assert run.send(scope.new(second), "state") == 7


@pytest.mark.parametrize(
    ("misuse", "seen"),
    [
        (lambda run, vm, _scope: run.send(vm, "state"), "state off the machine's queue"),
        (
            lambda run, vm, _scope: run.objc_retain(run.objc_retain(vm)) and run.objc_release(vm) and None,
            None,
        ),
        (lambda run, _vm, scope: run.objc_release(_dead(run, scope)), "release of a dead NSFileHandle"),
        (lambda run, _vm, scope: run.send(_dead(run, scope), "init"), "init to a dead NSFileHandle"),
    ],
)
def test_the_simulator_sees_what_is_wrong(
    library: Path,
    kernel: Path,
    monkeypatch: pytest.MonkeyPatch,
    misuse: Callable[[Runtime, Any, Any], object],
    seen: str | None,
) -> None:
    monkeypatch.setenv("VM_VZ_LIBRARY", str(library))
    simulator = Simulator(library)
    simulator.reset()
    run, before = runtime(), simulator.live()
    with Vz().create(MachineConfig(kernel=kernel)) as machine, run.scope() as scope:
        misuse(run, machine._vm, scope)
    if seen is None:
        assert simulator.live() > before  # a machine that was retained twice is still there
    else:
        assert seen in simulator.violations()
    simulator.reset()


def _dead(run: Runtime, scope: Any) -> Any:
    made = scope.keep(scope.new("NSFileHandle", "initWithFileDescriptor:closeOnDealloc:", 0, False))
    run.objc_release(made)
    return made


def test_the_simulator_sees_a_missing_pool_and_a_deadlock(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VM_VZ_LIBRARY", str(library))
    simulator = Simulator(library)
    simulator.reset()
    run = runtime()
    run.string("lost")
    assert simulator.violations() == ["NSString autoreleased without a pool"]
    simulator.reset()
    with Queue(run, "test") as queue:
        pointer = queue.pointer
        queue.call(lambda _: run.dispatch_sync_f(pointer, run.ffi.NULL, run.work))
    assert simulator.violations() == ["a queue that waits for itself"]
    simulator.reset()


# -- finding it ---------------------------------------------------------------------------------------------------------------------


def test_the_backend_is_found_by_its_name(sim: Simulator) -> None:
    backend = open_machines("vz")
    assert isinstance(backend, MachineBackend)
    assert backend.probe().available
    sim.set("supported", 0)
    assert "no virtualisation" in Vz.probe().reason


def test_an_old_macos_is_refused(sim: Simulator) -> None:
    sim.hide("stopWithCompletionHandler:")
    assert "macOS 12" in Vz.probe().hint


@pytest.mark.parametrize("name", ["/nonexistent/libvz.so", "libm.so.6"])
def test_a_library_that_is_none_is_no_traceback(
    name: str, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VM_VZ_LIBRARY", name)
    assert not Vz.probe().available
    with pytest.raises(AcceleratorUnavailable, match="cannot be loaded"):
        Vz().create(MachineConfig(kernel=kernel))
    with pytest.raises(AcceleratorUnavailable, match="cannot be loaded"):
        open_machines("vz")


# -- the configuration ----------------------------------------------------------------------------------------------------------------


def test_the_framework_is_told_everything(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    initrd, ours, theirs = tmp_path / "initrd", *socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    initrd.write_bytes(b"cpio")
    root, data, spare = (disk(tmp_path / name) for name in ("root", "data", "spare"))
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        command_line="console=hvc0 root=/dev/vda quiet",
        cpus=3,
        memory_bytes=(256 << 20) + 1,
        disks=(
            Disk(root, name="root"),
            Disk(data, read_only=True, sync=False, caching="uncached"),
            Disk(spare, bus="nvme", caching="auto"),
            Disk(spare, bus="usb", read_only=True),
        ),
        networks=(Network(mac="5a:94:ef:12:34:56"), Network(fd=theirs.fileno(), mac="02:00:00:00:00:01")),
        shares=(
            Share("home", tmp_path),
            Share("work", tmp_path, read_only=False),
            Share("rosetta", rosetta=True),
        ),
        balloon=True,
        vsock=True,
        extra={"machine_identifier": b"machine-mine", "mtu": 9000, "nested": True},
    )
    with ours, theirs, Vz().create(config) as machine:
        assert machine.machine_identifier == b"machine-mine"
        assert machine.mac_addresses == ["5a:94:ef:12:34:56", "02:00:00:00:00:01"]
        assert sim.configuration() == [
            f"cpus 3 memory {257 << 20}",
            f"linux {kernel} initrd {initrd}: console=hvc0 root=/dev/vda quiet",
            "platform machine-mine nested 1",
            f"VZVirtioBlockDeviceConfiguration {root} read-only 0 caching 2 sync 1 name root",
            f"VZVirtioBlockDeviceConfiguration {data} read-only 1 caching 1 sync 3 name ",
            f"VZNVMExpressControllerDeviceConfiguration {spare} read-only 0 caching 0 sync 1 name ",
            f"VZUSBMassStorageDeviceConfiguration {spare} read-only 1 caching 2 sync 1 name ",
            "VZVirtioNetworkDeviceConfiguration 5a:94:ef:12:34:56 VZNATNetworkDeviceAttachment",
            "VZVirtioNetworkDeviceConfiguration 02:00:00:00:00:01 VZFileHandleNetworkDeviceAttachment mtu 9000",
            "VZVirtioConsoleDeviceSerialPortConfiguration",
            "VZVirtioEntropyDeviceConfiguration",
            "VZVirtioTraditionalMemoryBalloonDeviceConfiguration",
            "VZVirtioSocketDeviceConfiguration",
            f"VZVirtioFileSystemDeviceConfiguration home VZSingleDirectoryShare {tmp_path} read-only 1",
            f"VZVirtioFileSystemDeviceConfiguration work VZSingleDirectoryShare {tmp_path} read-only 0",
            "VZVirtioFileSystemDeviceConfiguration rosetta VZLinuxRosettaDirectoryShare",
        ]


def test_the_least_machine(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, entropy=False)) as machine:
        assert sim.configuration() == [
            f"cpus 1 memory {512 << 20}",
            f"linux {kernel} initrd -: console=hvc0",
            f"platform {machine.machine_identifier.decode()} nested 0",
            "VZVirtioConsoleDeviceSerialPortConfiguration",
        ]


def test_efi_makes_its_store_and_then_takes_it(sim: Simulator, tmp_path: Path) -> None:
    store = tmp_path / "nvram"
    config = MachineConfig(kernel=None, disks=(Disk(disk(tmp_path / "root")),), extra={"efi_store": store})
    for created in (True, False):
        sim.c.sim_forget()
        with Vz().create(config):
            assert sim.configuration()[1] == f"efi {store}"
        assert any("initCreatingVariableStoreAtURL" in line for line in sim.messages()) is created
    with pytest.raises(HypervisorError, match="No such file") as caught:
        Vz().create(
            MachineConfig(kernel=None, disks=config.disks, extra={"efi_store": tmp_path / "no" / "nvram"})
        )
    assert caught.value.status == 2


def test_before_macos_13_there_is_no_machine_identifier(sim: Simulator, kernel: Path) -> None:
    sim.hide("VZGenericMachineIdentifier")
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        assert machine.machine_identifier == b""
    with pytest.raises(AcceleratorUnavailable, match=r"VZGenericMachineIdentifier needs macOS 13\.0"):
        Vz().create(MachineConfig(kernel=kernel, extra={"machine_identifier": b"machine-1"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpus": 0}, "0 CPUs are not within 1 and 8"),
        ({"cpus": 9}, "9 CPUs are not within 1 and 8"),
        ({"memory_bytes": 1}, "1 MiB of memory are not within 4 and 65536"),
        ({"memory_bytes": 1 << 40}, "not within"),
        ({"kernel": Path("/nonexistent")}, "No such file"),
        ({"kernel": Path("/")}, "is not a file"),
        ({"kernel": Path("/dev/zero")}, "is not a file"),
        ({"kernel": None}, "boots by EFI"),
        ({"initrd": Path("/nonexistent")}, "initrd /nonexistent"),
        ({"command_line": "a\0b"}, "NUL"),
        ({"command_line": "\udc80"}, "not UTF-8"),
        ({"disks": (Disk(Path("/nonexistent")),)}, "disk /nonexistent: No such file"),
        ({"disks": (Disk(Path("/dev/null")),)}, "is not a file"),
        ({"networks": (Network(mac="5a:94:ef:00:00"),)}, "no MAC address"),
        ({"networks": (Network(mac="5b:94:ef:00:00:01"),)}, "group of cards"),
        ({"shares": (Share("a", Path("/nonexistent")),)}, "No such file"),
        ({"shares": (Share("a", Path("/etc/passwd")),)}, "not a directory"),
        ({"shares": (Share("a", Path("/")), Share("a", Path("/")))}, "one tag"),
        ({"shares": (Share("a"),)}, "needs a path"),
        ({"shares": (Share("a", Path("/"), rosetta=True),)}, "needs no path"),
        ({"shares": (Share("", Path("/")),)}, "tag is empty"),
        ({"shares": (Share("a" * 37, Path("/")),)}, "longer than 36"),
        ({"extra": {"gpu": 1}}, "knows no 'gpu'"),
        ({"extra": {"mtu": "9000"}}, "must be int"),
        ({"extra": {"mtu": True}}, "must be int"),
        ({"extra": {"mtu": 100}}, "not within 1500"),
        ({"extra": {"efi_store": "/x"}}, "not both"),
        ({"kernel": None, "extra": {"efi_store": "/x"}}, "needs a disk"),
        ({"extra": {"efi_store": 5}}, "must be str or PathLike"),
        ({"extra": {"machine_identifier": b"nonsense"}}, "none of this framework"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(
    sim: Simulator, kernel: Path, change: dict[str, Any], message: str
) -> None:
    before = descriptors()
    with pytest.raises(UsageError, match=message):
        Vz().create(MachineConfig(**{"kernel": kernel, **change}))
    assert descriptors() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caching": "most"}, "no caching is called 'most'"),
        ({"bus": "scsi"}, "no bus is called 'scsi'"),
        ({"bus": "nvme", "name": "x"}, "has no name"),
        ({"name": "a" * 21}, "longer than 20 bytes"),
    ],
)
def test_a_wrong_disk_is_one_clear_line(
    sim: Simulator, kernel: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Vz().create(MachineConfig(kernel=kernel, disks=(Disk(disk(tmp_path / "disk"), **change),)))


def test_an_image_is_whole_sectors_and_raw(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    odd, qcow = disk(tmp_path / "odd", 513), tmp_path / "qcow"
    with pytest.raises(UsageError, match="513 bytes"):
        Vz().create(MachineConfig(kernel=kernel, disks=(Disk(odd),)))
    qcow.write_bytes(b"QFI\xfb" + bytes(508))
    with pytest.raises(HypervisorError, match=r"InvalidDiskImage \(5\)") as caught:
        Vz().create(MachineConfig(kernel=kernel, disks=(Disk(qcow),)))
    assert "qemu-img convert" in caught.value.hint
    assert caught.value.status == 5


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x1f\x8b\x08", "is compressed"),
        (b"MZ\0\0zimg", "compressed EFI program"),
        (b"\x7fELF", "not an arm64 Image"),
        (b"", "not an arm64 Image"),
    ],
)
def test_on_arm64_a_kernel_is_a_plain_image(tmp_path: Path, head: bytes, message: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(head)
    with pytest.raises(UsageError, match=message):
        check_kernel(path, "arm64")
    with pytest.raises(UsageError, match="not an x86 bzImage"):
        check_kernel(path, "x86_64")


def test_without_the_entitlement_the_error_says_which_and_how(sim: Simulator, kernel: Path) -> None:
    sim.set("entitled", 0)
    before = descriptors()
    with pytest.raises(EntitlementMissing, match=r"com\.apple\.security\.virtualization") as caught:
        Vz().create(MachineConfig(kernel=kernel))
    assert caught.value.code == "VM312"
    assert caught.value.entitlement == "com.apple.security.virtualization"
    assert caught.value.hint == "python -m vm_accel.macos sign"
    assert descriptors() == before


def test_what_only_some_macs_have(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    sim.set("nested", 0)
    with pytest.raises(AcceleratorUnavailable, match="M3"):
        Vz().create(MachineConfig(kernel=kernel, extra={"nested": True}))
    sim.hide("isNestedVirtualizationSupported")
    runtime()._checked.clear()
    with pytest.raises(
        AcceleratorUnavailable, match=r"isNestedVirtualizationSupported: it needs macOS 15\.0"
    ):
        Vz().create(MachineConfig(kernel=kernel, extra={"nested": True}))
    image = Disk(disk(tmp_path / "root"))
    with pytest.raises(UsageError, match="initrd needs a kernel"):
        Vz().create(MachineConfig(None, kernel, disks=(image,), extra={"efi_store": tmp_path / "nvram"}))


def test_rosetta_that_is_not_there(sim: Simulator, kernel: Path) -> None:
    config = MachineConfig(kernel=kernel, shares=(Share("rosetta", rosetta=True),))
    sim.set("rosetta", 0)
    with pytest.raises(AcceleratorUnavailable, match="Apple silicon"):
        Vz().create(config)
    sim.set("rosetta", 1)
    with pytest.raises(AcceleratorUnavailable, match="not installed") as caught:
        Vz().create(config)
    assert caught.value.hint.startswith("softwareupdate")
    sim.set("rosetta_install_error", 1)
    with pytest.raises(HypervisorError, match=r"OperationCancelled \(9\): The user said no"):
        Vz().install_rosetta()
    sim.set("rosetta_install_error", 0)
    Vz().install_rosetta()
    Vz().create(config).close()
    sim.hide("VZLinuxRosettaDirectoryShare")
    with pytest.raises(AcceleratorUnavailable, match=r"needs macOS 13\.0"):
        Vz().create(config)


# -- the life of a machine --------------------------------------------------------------------------------------------------------------


def test_a_life_with_every_state(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        assert machine.state is MachineState.STOPPED
        machine.start()
        assert machine.state is MachineState.RUNNING
        machine.pause()
        machine.save(tmp_path / "saved")
        machine.resume()
        machine.stop()
        assert machine.state is MachineState.STOPPED
        machine.start()
        expected = (
            "STARTING RUNNING PAUSING PAUSED SAVING PAUSED RESUMING RUNNING STOPPING STOPPED STARTING RUNNING"
        )
        assert [state.name for state in events(machine)] == expected.split()
        assert machine.wait(0.01) is None
    assert machine.state is MachineState.STOPPED
    assert [state.name for state in events(machine)] == ["STOPPING", "STOPPED"]


def test_every_message_to_a_machine_goes_over_its_queue(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, vsock=True, balloon=True)) as machine:
        machine.start()
        machine.connect(5).close()
        machine.memory_target = 128 << 20
        machine.request_stop()
    messages = [line for line in sim.messages() if "[VZVirtualMachine " in line or "Device " in line]
    assert len(messages) > 10
    assert {line.split()[0] for line in messages} == {"queue"}
    os.close(sim.c.sim_guest_end(5))


@pytest.mark.parametrize(
    ("calls", "what"),
    [
        (["pause"], "pause is not possible while the machine is stopped"),
        (["resume"], "resume is not possible while the machine is stopped"),
        (["stop"], "stop is not possible while the machine is stopped"),
        (["request_stop"], "request_stop is not possible while the machine is stopped"),
        (["start", "start"], "start is not possible while the machine is running"),
        (["start", "pause", "pause"], "pause is not possible while the machine is paused"),
        (["start", "resume"], "resume is not possible while the machine is running"),
    ],
)
def test_what_the_state_does_not_allow_is_refused(
    sim: Simulator, kernel: Path, calls: list[str], what: str
) -> None:
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        *before, last = calls
        for call in before:
            getattr(machine, call)()
        with pytest.raises(UsageError, match=what):
            getattr(machine, last)()


def test_a_start_that_fails(sim: Simulator, kernel: Path) -> None:
    sim.set("start_error", 1)
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        with pytest.raises(
            HypervisorError, match=r"start failed: Internal \(1\): The virtual machine failed to start"
        ) as caught:
            machine.start()
        assert (caught.value.call, caught.value.status, caught.value.code) == ("start", 1, "VM311")
        assert machine.wait(0) == MachineEvent(MachineState.STARTING)
        failed = machine.wait(0)
        assert failed is not None
        assert failed.state is MachineState.FAILED
        assert failed.error == str(caught.value)
        sim.set("start_error", 0)
        machine.start()
        assert machine.state is MachineState.RUNNING


def test_close_gives_back_what_does_not_stop(sim: Simulator, kernel: Path) -> None:
    sim.set("stop_error", 1)
    machine = Vz().create(MachineConfig(kernel=kernel))
    machine.start()
    with pytest.raises(HypervisorError, match="It does not stop"):
        machine.stop()
    assert machine.state is MachineState.RUNNING
    machine.close()
    machine.close()


def test_the_guest_s_own_end_is_an_event(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, networks=(Network(),))) as machine:
        machine.start()
        machine.request_stop()
        assert sim.c.sim_power_button()
        sim.c.sim_guest(2)
        sim.c.sim_guest(0)
        assert wait_for(machine, MachineState.STOPPED).error == ""
        assert list(machine.warnings) == ["a network card failed: NetworkError (7): Network error."]
        machine.start()
        sim.c.sim_guest(1)
        assert "Internal Virtualization error" in wait_for(machine, MachineState.FAILED).error
        assert machine.state is MachineState.FAILED
        machine.start()


def test_the_console_goes_both_ways_and_ends(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        console = machine.console
        machine.start()
        assert console.read(64) == b"booted\n"
        assert console.write(b"echo") == 4
        got = b""
        while len(got) < 8:
            got += console.read(64)
        assert got == b"echoecho"
        assert console.readable()
        assert console.writable()
    assert console.closed
    with pytest.raises(ValueError):
        console.read(1)


def test_a_closed_machine_says_so(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    machine = Vz().create(MachineConfig(kernel=kernel, vsock=True, balloon=True))
    machine.close()
    calls: list[Callable[[], object]] = [
        machine.start,
        machine.pause,
        machine.resume,
        machine.stop,
        machine.request_stop,
        lambda: machine.save(tmp_path / "saved"),
        lambda: machine.restore(tmp_path / "saved"),
        lambda: machine.connect(1),
        lambda: machine.listen(1),
        lambda: machine.memory_target,
    ]
    for call in calls:
        with pytest.raises(HypervisorError, match="the machine is closed"):
            call()


def test_nothing_is_waited_for_on_the_queue(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, vsock=True)) as machine:
        for call in (machine.start, lambda: machine.connect(1)):
            with pytest.raises(UsageError, match="callback"):
                machine._queue.call(lambda _, call=call: call())  # type: ignore[misc]


def test_a_saved_machine_goes_on_only_as_itself(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        with pytest.raises(UsageError, match="save is not possible while the machine is stopped"):
            machine.save(saved)
        machine.start()
        machine.pause()
        machine.save(saved)
        identifier = machine.machine_identifier
        with pytest.raises(HypervisorError, match=r"Save \(11\)"):
            machine.save(tmp_path / "no" / "saved")
        assert machine.state is MachineState.PAUSED
    with Vz().create(MachineConfig(kernel=kernel, extra={"machine_identifier": identifier})) as machine:
        machine.restore(saved)
        assert machine.state is MachineState.PAUSED
        machine.resume()
        with pytest.raises(UsageError, match="restore is not possible while the machine is running"):
            machine.restore(saved)
        assert [state.name for state in events(machine)] == ["RESTORING", "PAUSED", "RESUMING", "RUNNING"]
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        with pytest.raises(HypervisorError, match=r"Restore \(12\)") as caught:
            machine.restore(saved)
        assert "machine identifier" in caught.value.hint
        assert machine.state is MachineState.STOPPED
        with pytest.raises(UsageError, match="no saved machine"):
            machine.restore(tmp_path / "none")


def test_what_cannot_be_saved_says_why(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    sim.set("savable", 0)
    with Vz().create(MachineConfig(kernel=kernel)) as machine:
        with pytest.raises(HypervisorError, match=r"NotSupported \(10\): A device cannot be saved"):
            machine.save(tmp_path / "saved")
        sim.hide("validateSaveRestoreSupportWithError:")
        runtime()._checked.clear()
        with pytest.raises(AcceleratorUnavailable, match=r"needs macOS 14\.0 on arm64"):
            machine.save(tmp_path / "saved")


def test_the_balloon(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, balloon=True)) as machine:
        assert machine.memory_target == 512 << 20
        machine.memory_target = 300 << 20
        assert machine.memory_target == 300 << 20
        for wrong in (0, 1, (300 << 20) + 1, 513 << 20):
            with pytest.raises(UsageError):
                machine.memory_target = wrong
    with (
        Vz().create(MachineConfig(kernel=kernel)) as machine,
        pytest.raises(UsageError, match="without a balloon"),
    ):
        machine.memory_target = 300 << 20


# -- sockets ----------------------------------------------------------------------------------------------------------------------------


def test_the_host_connects(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, vsock=True)) as machine:
        machine.start()
        before = descriptors()
        with machine.connect(5) as ours, socket.socket(fileno=sim.c.sim_guest_end(5)) as guest:
            ours.sendall(b"hello")
            assert guest.recv(5) == b"hello"
            guest.sendall(b"there")
            assert ours.recv(5) == b"there"
        assert descriptors() == before
        with pytest.raises(HypervisorError, match="NSPOSIXErrorDomain 54: Connection reset"):
            machine.connect(9)
        with pytest.raises(TimeoutError, match="port 8"):
            machine.connect(8, timeout=0.05)
        for wrong in (-1, 0xFFFF_FFFF):
            with pytest.raises(UsageError, match="no port"):
                machine.connect(wrong)


def test_the_guest_connects(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, vsock=True)) as machine:
        machine.start()
        before = descriptors()
        assert sim.c.sim_guest_connect(7) == -1
        with machine.listen(7) as listener:
            with pytest.raises(TimeoutError):
                listener.accept(0.01)
            with socket.socket(fileno=sim.c.sim_guest_connect(7)) as guest:
                ours, port = listener.accept(10)
                assert port == 1024
                with ours:
                    guest.sendall(b"hello")
                    assert ours.recv(5) == b"hello"
            many = [sim.c.sim_guest_connect(7) for _ in range(130)]
            assert many[127] >= 0
            assert many[128:] == [-1, -1]
        for fd in many[:128]:
            os.close(fd)
        assert descriptors() == before
        assert sim.c.sim_guest_connect(7) == -1
        with pytest.raises(HypervisorError, match="nothing listens"):
            listener.accept()
        machine.listen(7)  # closed with the machine
    with (
        Vz().create(MachineConfig(kernel=kernel)) as machine,
        pytest.raises(UsageError, match="without vsock"),
    ):
        machine.listen(7)


# -- what is left ---------------------------------------------------------------------------------------------------------------------------


def test_many_machines_leave_nothing(sim: Simulator, kernel: Path, tmp_path: Path) -> None:
    sim.set("delay_us", 0)
    config = MachineConfig(
        kernel=kernel, disks=(Disk(disk(tmp_path / "disk")),), networks=(Network(),), vsock=True
    )

    def cycle() -> None:
        with Vz().create(config) as machine:
            machine.start()
            machine.listen(3)

    cycle()
    before = descriptors()
    for _ in range(100):
        cycle()
    assert descriptors() <= before + 2  # the simulated guest of the last one may not have ended yet


def test_many_machines_at_once(sim: Simulator, kernel: Path) -> None:
    failures: list[BaseException] = []

    def live() -> None:
        try:
            for _ in range(5):
                with Vz().create(MachineConfig(kernel=kernel, vsock=True)) as machine:
                    machine.start()
                    machine.pause()
                    machine.resume()
                    assert machine.state is MachineState.RUNNING
        except BaseException as error:  # noqa: BLE001 - shown by the test, not by the thread
            failures.append(error)

    threads = [threading.Thread(target=live) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_close_ends_a_start_that_hangs(sim: Simulator, kernel: Path) -> None:
    sim.set("delay_us", 3_000_000)
    machine = Vz().create(MachineConfig(kernel=kernel))
    found: list[BaseException] = []

    def start() -> None:
        try:
            machine.start()
        except HypervisorError as error:
            found.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_for(machine, MachineState.STARTING)
    machine.close()
    thread.join(60)
    assert [str(error) for error in found] == ["the machine was closed"]


def test_a_connection_that_comes_too_late_is_closed(sim: Simulator, kernel: Path) -> None:
    with Vz().create(MachineConfig(kernel=kernel, vsock=True)) as machine:
        machine.start()
        sim.set("delay_us", 50_000)
        with pytest.raises(TimeoutError):
            machine.connect(33, timeout=0.001)
        until = time.monotonic() + 60
        while not sim.c.sim_guest_end(33) and time.monotonic() < until:
            time.sleep(0.001)
        with socket.socket(fileno=sim.c.sim_guest_end(33)) as guest:
            assert guest.recv(1) == b""


def test_machines_are_closed_while_other_threads_use_them(sim: Simulator, kernel: Path) -> None:
    sim.set("delay_us", 0)
    strange: list[BaseException] = []

    def use(machine: VzMachine) -> None:
        calls = (
            lambda: machine.state,
            machine.start,
            machine.pause,
            machine.listen,
            lambda: machine.connect(5),
        )
        for number in range(40):
            try:
                call: Any = calls[number % len(calls)]
                made = call(number) if call == machine.listen else call()
                if isinstance(made, socket.socket):
                    made.close()
            except (HypervisorError, UsageError):
                pass
            except BaseException as error:  # noqa: BLE001 - shown by the test, not by the thread
                strange.append(error)

    for _ in range(20):
        machine = Vz().create(MachineConfig(kernel=kernel, vsock=True))
        threads = [threading.Thread(target=use, args=(machine,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        machine.close()
        for thread in threads:
            thread.join(60)
    assert strange == []


def test_a_process_that_closes_nothing_ends_well(library: Path, kernel: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vm_accel.vz import Vz; from vm_accel.interface import MachineConfig\n"
        "machine = Vz().create(MachineConfig(kernel=Path(sys.argv[1]))); machine.start(); del machine; print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(kernel)],
        env={**os.environ, "VM_VZ_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_macos_that_lacks_any_one_message_gives_an_error_of_ours(sim: Simulator, kernel: Path) -> None:
    """Nothing that a macOS lacks is sent: that would end the process."""
    refused = 0
    for row in table.methods():
        if not row.owner.startswith("VZ"):
            continue
        runtime()._checked.clear()
        sim.c.sim_show()
        sim.hide(row.selector)
        try:
            Vz().create(MachineConfig(kernel=kernel, networks=(Network(),), vsock=True)).close()
        except AcceleratorUnavailable as error:
            refused += 1
            assert row.selector in str(error)  # noqa: PT017 - some of the rows are not needed, and raise nothing
    assert refused > 15


# -- the self-test ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(selftest.CODE))
def test_the_self_test_s_code_is_what_the_text_says(name: str) -> None:
    text, code = selftest.CODE[name]
    assembler = keystone.Ks(keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN)
    assert bytes(assembler.asm(text, 0x40)[0]).hex() == code
    image = selftest.image(code)
    assert bytes(assembler.asm("b 0x40", 0)[0]) == image[:4]
    assert int.from_bytes(image[16:24], "little") == len(image)


def test_the_self_test_on_the_simulator_is_the_record(sim: Simulator, tmp_path: Path) -> None:
    backend = Vz()
    outcomes = selftest.run(backend)
    assert [(one.name, one.result, one.message) for one in outcomes] == [
        (name, "passed", "")
        for name in ("messages", "queue", "devices", "states", "save and restore", "guest turns itself off")
    ]
    found = record(backend, outcomes, provenance="simulator")
    recorded = json.loads((RECORDED / "vz-simulator.json").read_text())

    def plain(checks: Any) -> Any:
        """Without what differs between compilers."""
        return [
            (
                check["name"],
                check["result"],
                [(each["message"], table.normal(each["encoding"])) for each in check["contexts"]],
            )
            for check in checks
        ]

    assert plain(found["checks"]) == plain(recorded["checks"])
    assert recorded["provenance"] == "simulator"


def test_a_framework_that_is_otherwise_fails_the_self_test(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.set("entitled", 0)
    sim.hide("VZEFIBootLoader")
    monkeypatch.setitem(table._data()["classes"]["VZMACAddress"]["methods"], "-string", "q@:")
    table.methods.cache_clear()
    try:
        results = {one.name: one for one in selftest.run(Vz())}
    finally:
        monkeypatch.undo()
        table.methods.cache_clear()
    assert results["messages"].result == "failed"
    assert "-[VZMACAddress string] is @16@0:8, not q@:" in results["messages"].message
    assert results["queue"].result == "passed"
    assert results["states"].message.startswith("VM312 ")


@pytest.mark.parametrize("path", sorted(RECORDED.glob("vz-*.json")), ids=lambda path: path.stem)
def test_what_anybody_recorded_agrees_with_the_table(path: Path) -> None:
    """Encodings as a runtime gave them: GNU's from the simulator, or Apple's from a Mac."""
    rows = {f"{'+' if row.static else '-'}[{row.owner} {row.selector}]": row for row in table.methods()}
    check = next(check for check in json.loads(path.read_text())["checks"] if check["name"] == "messages")
    assert check["result"] == "passed"
    for context in check["contexts"]:
        assert table.same(context["encoding"], rows[context["message"]].encoding), context
