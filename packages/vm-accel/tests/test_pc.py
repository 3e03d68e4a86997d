"""Machines over KVM: kernels of our own, and Debian's where ring 0 is native."""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vm_accel import open_machines
from vm_accel.errors import HypervisorError
from vm_accel.exits import ShutdownKind
from vm_accel.interface import Disk, Feature, MachineConfig, MachineEvent, MachineState, Network
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.kvm.kernel import Kernel, ffi, request
from vm_accel.pc.backend import KvmMachines
from vm_accel.pc.machine import PcMachine
from vm_accel.testing import pc_kernel
from vm_accel.testing.conformance import assemble
from vm_core.errors import LoadError, UsageError, VmError
from vm_core.loader import ProgramNotFound
from vm_core.runner import run
from vm_core.testing import guests

pytest.importorskip("keystone", reason="needs keystone-engine")
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not Kvm.probe().available, reason=f"needs KVM: {Kvm.probe().reason}"),
]
_MIB = 1 << 20
_OVER = (MachineState.STOPPED, MachineState.FAILED)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Eight sectors, each filled with a letter: A, B and so on."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(bytes([0x41 + i]) * 512 for i in range(8)))
    return path


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[PcMachine] = []

    def machine(kernel: bytes, **options: Any) -> PcMachine:
        path = tmp_path / f"kernel{len(made)}"
        path.write_bytes(kernel)
        config = MachineConfig(
            kernel=path, **{"memory_bytes": 16 * _MIB, "command_line": "console=ttyS0", **options}
        )
        made.append(KvmMachines().create(config))
        return made[-1]

    yield machine
    for each in made:
        each.close()


def last(machine: PcMachine, seconds: float = 60) -> MachineEvent:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        event = machine.wait(1)
        if event is not None and event.state in _OVER:
            return event
    raise AssertionError(f"it is {machine.state}")


def everything(stream: Any) -> bytes:
    out = b""
    while data := stream.read(4096):
        out += data
    return out


def numbers(text: str, name: str) -> list[list[int]]:
    """The hexadecimal numbers of the lines that begin with ``name``."""
    return [
        [int(word, 16) for word in row.split()] for row in re.findall(rf"^{name} (.*)$", text, re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ("kernel", "protocol", "selector"),
    [
        (pc_kernel.bzimage(), "auto", 0x10),
        (pc_kernel.elf(), "auto", 8),
        (pc_kernel.elf(), "linux", 0x10),
        (pc_kernel.elf(pvh=False), "auto", 0x10),
    ],
    ids=["bzimage", "pvh", "elf", "elf-without-pvh"],
)
def test_a_kernel_finds_everything(
    make: Any, image: Path, tmp_path: Path, kernel: bytes, protocol: str, selector: int
) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"initrd!!" + bytes(5000))
    machine = make(
        kernel,
        initrd=initrd,
        command_line="console=ttyS0 some words",
        disks=(Disk(image),),
        extra={"protocol": protocol},
    )
    machine.start()
    assert last(machine) == MachineEvent(MachineState.STOPPED)
    assert machine.ended is ShutdownKind.OFF
    text = everything(machine.serial).decode()
    assert numbers(text, "long mode") == [[1]]
    assert numbers(text, "cs") == [[selector]]
    assert "\ncommand line console=ttyS0 some words\n" in text
    assert numbers(text, "rsdp") == [[int.from_bytes(b"RSD PTR ", "little")]]
    assert numbers(text, "initrd") == [[int.from_bytes(b"initrd!!", "little")]]
    rows = numbers(text, "memory")
    assert rows == [[0, 0x9FC00, 1], [0x9FC00, 0x60400, 2], [0x10_0000, 15 * _MIB, 1]]
    assert numbers(text, "sectors") == [[8]]
    assert numbers(text, "read") == [[0, int.from_bytes(b"BBBBBBBB", "little")]]
    assert numbers(text, "written") == [[0, 0]]
    assert everything(machine.hvc) == b"hello over hvc\n"
    assert image.read_bytes()[1024:1536] == b"B" * 512
    assert image.read_bytes()[1536:2048] == b"D" * 512


def test_an_interrupt_wakes_the_guest(make: Any, image: Path) -> None:
    """From the device's thread, by irqfd and the I/O APIC inside KVM, to a CPU that sleeps in HLT."""
    machine = make(pc_kernel.bzimage(pc_kernel.INTERRUPT_BODY), disks=(Disk(image),))
    machine.start()
    assert last(machine).state is MachineState.STOPPED
    assert numbers(everything(machine.serial).decode(), "interrupt") == [[1, 0]]


def test_a_second_cpu_starts(make: Any) -> None:
    machine = make(pc_kernel.bzimage(pc_kernel.SECOND_CPU_BODY), cpus=2)
    machine.start()
    assert last(machine).state is MachineState.STOPPED
    assert numbers(everything(machine.serial).decode(), "second") == [[0x5A]]


def test_a_read_only_disk_is_not_written(make: Any, image: Path) -> None:
    before = image.read_bytes()
    machine = make(pc_kernel.bzimage(), disks=(Disk(image, read_only=True),))
    machine.start()
    assert last(machine).state is MachineState.STOPPED
    text = everything(machine.serial).decode()
    assert numbers(text, "read") == [[0, int.from_bytes(b"BBBBBBBB", "little")]]
    assert numbers(text, "written") == [[1, 0]]  # VIRTIO_BLK_S_IOERR, and a flush that has nothing to do
    assert image.read_bytes() == before


def test_the_command_line_chooses_the_console(make: Any) -> None:
    serial = make(pc_kernel.bzimage(), command_line="console=hvc0 console=ttyS0,115200")
    virtio = make(pc_kernel.bzimage(), command_line="console=ttyS0 console=hvc0")
    assert serial.console is serial.serial
    assert virtio.console is virtio.hvc


def test_what_is_typed_comes_back(make: Any) -> None:
    machine = make(pc_kernel.bzimage(pc_kernel.ECHO_BODY))
    machine.start()
    words = b"a line that is longer than the sixteen bytes of the FIFO, " * 4 + b"q"
    machine.console.write(words)
    assert last(machine).state is MachineState.STOPPED
    assert everything(machine.console).endswith(words)


def test_a_reader_that_does_not_read_stops_only_the_guest(make: Any) -> None:
    flood = "flood:\n mov al, 0x78\n call putc\n jmp flood\n"
    machine = make(pc_kernel.bzimage(flood))
    machine.start()
    assert machine.wait(0.1)
    assert machine.wait(0.1)
    time.sleep(1)
    assert machine.state is MachineState.RUNNING
    machine.pause()
    machine.resume()
    first = machine.serial.read(100_000)
    assert first
    machine.stop()
    rest = everything(machine.serial)
    assert set((first + rest)[-1000:]) == {0x78}


@pytest.mark.parametrize(
    ("body", "kind"),
    [(pc_kernel.RESET_BODY, ShutdownKind.RESET), (pc_kernel.TRIPLE_FAULT_BODY, ShutdownKind.TRIPLE_FAULT)],
)
def test_how_it_ended(make: Any, body: str, kind: ShutdownKind) -> None:
    machine = make(pc_kernel.bzimage(body))
    machine.start()
    assert last(machine) == MachineEvent(MachineState.STOPPED)
    assert machine.ended is kind


def test_pause_resume_stop_and_again(make: Any) -> None:
    machine = make(pc_kernel.bzimage(pc_kernel.ECHO_BODY), cpus=2)
    for _ in range(3):
        machine.start()
        machine.console.write(b"x")
        seen = b""
        while not seen.endswith(b"x"):
            seen += machine.console.read(4096)
        machine.pause()
        assert machine.state is MachineState.PAUSED
        machine.console.write(b"y")
        assert select.select([machine.console], [], [], 0.3)[0] == []  # nobody is there to echo it
        machine.resume()
        assert machine.console.read(1) == b"y"
        machine.pause()
        machine.stop()
        assert machine.state is MachineState.STOPPED
        assert machine.ended is None
    events = []
    while (event := machine.wait(0)) is not None:
        events.append(event.state.value)
    once = ["starting", "running", "pausing", "paused", "resuming", "running", "pausing", "paused"]
    assert events == [*once, "stopping", "stopped"] * 3


def test_what_the_state_forbids(make: Any) -> None:
    machine = make(pc_kernel.bzimage(pc_kernel.ECHO_BODY))
    for call in (machine.pause, machine.resume, machine.stop, machine.request_stop):
        with pytest.raises(UsageError, match="not possible while the machine is stopped"):
            call()
    machine.start()
    machine.request_stop()  # the guest has no driver for the button: it goes on
    with pytest.raises(UsageError, match="running"):
        machine.start()
    with pytest.raises(UsageError, match="cannot be saved"):
        machine.save(Path("state"))
    machine.close()
    with pytest.raises(HypervisorError, match="closed"):
        machine.start()


def test_nothing_is_left(make: Any, image: Path) -> None:
    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))

    machine = make(pc_kernel.bzimage(pc_kernel.RESET_BODY), disks=(Disk(image),), cpus=2)
    machine.start()
    last(machine)
    before, threads = open_now(), threading.active_count()
    for _ in range(5):
        machine.start()
        last(machine)
        everything(machine.serial)
    machine._join()
    assert (open_now(), threading.active_count()) == (before, threads)
    machine.close()
    assert open_now() < before


def test_who_confines_the_process_may_refuse(make: Any, image: Path) -> None:
    """All is open by then, and none of the machine's threads are there; what it raises ends the start, and nothing is left."""
    machine = make(pc_kernel.bzimage(pc_kernel.RESET_BODY), disks=(Disk(image),))
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    seen = []

    def refuse() -> None:
        seen.append((len(os.listdir("/proc/self/fd")) > before, threading.active_count() == threads))
        raise UsageError("not so")

    with pytest.raises(UsageError, match="not so"):
        machine.start(refuse)
    assert seen == [(True, True)]
    assert machine.state is MachineState.FAILED
    machine._join()
    assert len(os.listdir("/proc/self/fd")) <= before
    machine.start(lambda: seen.append((False, False)))
    last(machine)
    assert len(seen) == 2


class FailsOnce(Kernel):
    """The real kernel, except for call number ``at``. Keeps account of its descriptors."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._real, self.ioctl = self.ioctl, self._ioctl
        self._really, self.enter = self.enter, self._enter
        self.at, self.calls, self.runs = at, 0, 0
        self._here = threading.local()

    def errno(self) -> int:
        failed: bool = getattr(self._here, "failed", False)
        return errno.EPERM if failed else super().errno()

    def _fails(self) -> bool:
        self.calls += 1
        self._here.failed = self.calls - 1 == self.at
        return bool(self._here.failed)

    def _ioctl(self, fd: int, number: int, argument: Any) -> int:
        return -1 if self._fails() else int(self._real(fd, number, argument))

    def _enter(self, fd: int, number: int) -> int:
        self.runs += number == request("KVM_RUN")
        if self._fails():
            raise OSError(errno.EPERM, "KVM_RUN")
        return self._really(fd, number)

    def open(self, path: str) -> int:
        return -1 if self._fails() else super().open(path)

    def mmap(self, fd: int, size: int, offset: int) -> Any:
        return ffi.cast("void *", -1) if self._fails() else super().mmap(fd, size, offset)


def test_every_call_of_a_start_fails_once(make: Any, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error each, from start or as the event, and nothing is left."""
    machine = make(pc_kernel.bzimage(pc_kernel.RESET_BODY), disks=(Disk(image),))
    machine.start()
    last(machine)
    machine._join()
    before = len(os.listdir("/proc/self/fd"))
    for at in range(1000):
        kernel = FailsOnce(at)
        monkeypatch.setattr("vm_accel.pc.machine.Kvm", lambda kernel=kernel: Kvm(kernel=kernel))
        refused = None
        try:
            machine.start()
        except VmError as error:
            refused = error
        event = last(machine)
        machine._join()
        assert event.state is MachineState.FAILED, (at, event)
        assert "EPERM" in event.error or "cannot be opened" in event.error, (at, event)
        if refused is not None:
            assert (refused.code in {"VM310", "VM311"}, str(refused)) == (True, event.error)
        assert len(os.listdir("/proc/self/fd")) == before, (at, event)
        if kernel.runs > 3:
            break
    assert at > 30
    assert "KVM_RUN" in event.error


def test_a_machine_that_nobody_closes_in_time_is_closed(make: Any) -> None:
    machine = make(pc_kernel.bzimage(pc_kernel.ECHO_BODY))
    with machine:
        machine.start()
    assert machine.state is MachineState.STOPPED


def test_a_disk_is_one_machines(make: Any, image: Path) -> None:
    first = make(pc_kernel.bzimage(pc_kernel.ECHO_BODY), disks=(Disk(image),))
    first.start()
    second = make(pc_kernel.bzimage(), disks=(Disk(image),))
    with pytest.raises(UsageError, match="in use"):
        second.start()
    event = last(second)
    assert event.state is MachineState.FAILED
    assert "in use" in event.error
    first.stop()
    second.start()
    assert last(second).state is MachineState.STOPPED


def test_wrong_files_are_said(make: Any, tmp_path: Path) -> None:
    missing = KvmMachines().create(MachineConfig(kernel=tmp_path / "none", memory_bytes=16 * _MIB))
    with missing, pytest.raises(ProgramNotFound, match="no such file"):
        missing.start()
    with pytest.raises(LoadError, match="neither"):
        make(b"not a kernel" * 100).start()
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 700)
    with pytest.raises(UsageError, match="no multiple of 512"):
        make(pc_kernel.bzimage(), disks=(Disk(odd),)).start()
    with pytest.raises(UsageError, match="not a file"):
        make(pc_kernel.bzimage(), disks=(Disk(Path("/dev/null")),)).start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": None}, "no firmware"),
        ({"cpus": 0}, "0 CPUs"),
        ({"memory_bytes": 1 << 20}, "not within 4 MiB"),
        ({"networks": (Network(),), "vsock": True}, "no network cards and no vsock"),
        ({"extra": {"mtu": 1500}}, "knows no 'mtu'"),
        ({"extra": {"protocol": "bios"}}, "protocol must be one of"),
        ({"disks": (Disk(Path("x"), bus="nvme"),)}, "no nvme disks"),
        ({"disks": (Disk(Path("x"), caching="uncached"),)}, "uncached"),
        ({"disks": (Disk(Path("x")),) * 20}, "20 disks are more than 10"),
    ],
)
def test_what_these_machines_do_not_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KvmMachines().create(MachineConfig(**{"kernel": Path("x"), **options}))


def test_the_registry_makes_them() -> None:
    assert isinstance(open_machines("kvm"), KvmMachines)


# -- Debian's kernel --------------------------------------------------------------------------------------------------------


def _debian_kernel(directory: Path) -> Path:
    """VM_TEST_KERNEL, the newest of Debian's kernels for virtual machines in /boot, or by apt; skips where that cannot be."""
    if named := os.environ.get("VM_TEST_KERNEL"):
        return Path(named)
    if there := sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), key=lambda path: path.stat().st_mtime):
        return there[-1]
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("no apt to get Debian's kernel with, no VM_TEST_KERNEL, and none in /boot")
    found = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False
    )
    name = re.search(r"Depends: (linux-image-\S+)", found.stdout)
    if name is None:
        pytest.skip("apt knows no linux-image-cloud-amd64")
    got = subprocess.run(
        ["apt-get", "-q", "download", name[1]], cwd=directory, capture_output=True, text=True, check=False
    )
    packages = list(directory.glob("*.deb"))
    if got.returncode or not packages:
        pytest.skip(f"{name[1]} cannot be downloaded")
    subprocess.run(["dpkg-deb", "-x", packages[0], directory / "tree"], check=True)
    return next((directory / "tree" / "boot").glob("vmlinuz-*"))


_SAID = b"init: up\n"
_INIT = f"""
    mov eax, 1; mov edi, 1; mov esi, 0x400100; mov edx, {len(_SAID)}; syscall
    mov eax, 169; mov edi, 0xfee1dead; mov esi, 0x28121969; mov edx, 0x4321fedc; syscall
    mov eax, 60; mov edi, 7; syscall
"""
"""write, then reboot(LINUX_REBOOT_CMD_POWER_OFF), then exit, which is not reached."""


def _first_program() -> bytes:
    code = assemble(_INIT, "x86_64", "long").ljust(0x100, b"\0") + _SAID
    return guests.elf(code, machine=62, entry=0x400000, base=0x400000, flags=5)


def _initrd() -> bytes:
    """A first file system (cpio, newc) with a console and an /init that says so and switches the machine off."""
    init = _first_program()
    out = b""
    for number, (name, mode, device, data) in enumerate(
        (
            (b"dev", 0o40755, (0, 0), b""),
            (b"dev/console", 0o20600, (5, 1), b""),
            (b"init", 0o100755, (0, 0), init),
            (b"TRAILER!!!", 0, (0, 0), b""),
        ),
        1,
    ):
        head = b"070701" + b"".join(
            b"%08X" % word for word in (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        )
        for part in (head + name + b"\0", data):
            out += part + bytes(-len(part) % 4)
    return out


def test_the_first_program_is_one(tmp_path: Path) -> None:
    """What Debian's kernel gets to run, here as a guest's program, which may not switch anything off."""
    path = tmp_path / "init"
    path.write_bytes(_first_program())
    path.chmod(0o755)
    done = run([str(path)], engine="reference", sysroot="/", cwd=str(tmp_path), stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (7, _SAID)
    assert _initrd().count(_first_program()) == 1


@pytest.mark.parametrize("initrd", [True, False])
def test_debian_boots(kvm: Kvm, tmp_path: Path, initrd: bool) -> None:
    """All of a stock kernel's own start, with two processors, to its first program, which switches the machine off; without one to the
    point where it looks for its root, then a reset."""
    if Feature.KERNEL_MODE not in kvm.features:
        pytest.skip(
            f"ring 0 is not native ({kvm.flavour}): a stock kernel ends at an instruction that KVM does not know"
        )
    first = tmp_path / "initrd"
    first.write_bytes(_initrd())
    config = MachineConfig(
        kernel=_debian_kernel(tmp_path),
        initrd=first if initrd else None,
        command_line="console=ttyS0 panic=-1",
        cpus=2,
        memory_bytes=512 * _MIB,
    )
    with KvmMachines().create(config) as machine:
        words: list[bytes] = []
        machine.start()
        reader = threading.Thread(target=lambda: words.append(everything(machine.serial)))
        reader.start()
        event = last(machine, 120)
        reader.join(10)
    text = words[0].decode(errors="replace")
    assert event.state is MachineState.STOPPED, text[-2000:]
    assert "Hypervisor detected: KVM" in text
    assert "smp: Brought up 1 node, 2 CPUs" in text
    if initrd:
        assert _SAID.decode().strip() in text
        assert machine.ended is ShutdownKind.OFF
    else:
        assert "Unable to mount root fs" in text
        assert machine.ended in (ShutdownKind.RESET, ShutdownKind.TRIPLE_FAULT)
