"""The hypervisors that this host has, opened once each."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vm_accel.hvf import Hvf
from vm_accel.interface import Feature, Hypervisor
from vm_accel.kvm.host import flavour
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.software import Software
from vm_accel.testing.simulators import build, lacking
from vm_accel.whpx import Whpx


@pytest.fixture(scope="session")
def kvm() -> Iterator[Kvm]:
    found = Kvm.probe()
    if not found.available:
        pytest.skip(f"KVM cannot be used here: {found.reason}")
    with Kvm() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="session")
def programs(kvm: Kvm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, static and dynamic, made with the host's compiler."""
    if platform.machine() != "x86_64" or (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("needs a C compiler on an x86-64 host")
    out = tmp_path_factory.mktemp("programs")
    for source in sorted(Path(__file__).with_name("programs").glob("*.c")):
        for kind, flags in (("dynamic", ()), ("static", ("-static",))):
            target = out / f"{source.stem}-{kind}"
            subprocess.run(
                [compiler, "-O1", "-pthread", *flags, source, "-o", target, "-lm"],
                check=True,
                capture_output=True,
            )
    return out


@pytest.fixture
def statistics() -> Callable[[int], dict[str, int]]:
    return _statistics


def _statistics(fd: int) -> dict[str, int]:
    """KVM's own counts of a VM or vCPU that are one number (api.rst, 4.133)."""
    stats = fcntl.ioctl(fd, 0xAECE)  # KVM_GET_STATS_FD
    try:
        _flags, name_size, count, _id, descriptors, data = struct.unpack("<6I", os.pread(stats, 24, 0))
        out = {}
        for i in range(count):
            row = os.pread(stats, 16 + name_size, descriptors + i * (16 + name_size))
            size, offset = struct.unpack_from("<6xHI", row)
            if size == 1:
                out[row[16:].split(b"\0")[0].decode()] = int.from_bytes(
                    os.pread(stats, 8, data + offset), "little"
                )
        return out
    finally:
        os.close(stats)


class SimulatedWhpx(Whpx):
    """What KVM's paravirtual flavour cannot do, the simulator on it cannot either."""

    @property
    def features(self) -> frozenset[Feature]:
        found = super().features
        return found - {Feature.RING3_DEBUG, Feature.KERNEL_MODE} if flavour().name == "pvm" else found


def _simulated(name: str, kind: type[Hypervisor], directory: Path) -> Iterator[Hypervisor]:
    if lacks := lacking(name):
        pytest.skip(f"{name}: {lacks}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"VM_{name.upper()}_LIBRARY", str(build(name, directory)))
        opened = kind()
    with opened:
        yield opened


@pytest.fixture(scope="session")
def whpx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    """Behind the simulator of its library, on /dev/kvm."""
    yield from _simulated("whpx", SimulatedWhpx, tmp_path_factory.mktemp("whpx"))


@pytest.fixture(scope="session")
def hvf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    """Behind the simulator of its library, on vm_core's executor."""
    yield from _simulated("hvf", Hvf, tmp_path_factory.mktemp("hvf"))


_SOFTWARE = (
    "none-x86_64-jit", "none-x86_64-interp",
    "none-aarch64-jit", "none-aarch64-reference",
    "none-riscv64-jit", "none-riscv64-reference",
)  # fmt: skip
"""vm's own engines. The reference executor takes minutes for all snippets of x86-64."""


@pytest.fixture(scope="session")
def software() -> Iterator[Callable[[str], Software]]:
    """By name, each opened once."""
    opened: dict[str, Software] = {}

    def get(name: str) -> Software:
        if name not in opened:
            _, isa, engine = name.split("-")
            opened[name] = Software(isa=isa, engine=engine)
        return opened[name]

    yield get
    for each in opened.values():
        each.close()


@pytest.fixture(params=["kvm", "whpx", "hvf", *_SOFTWARE])
def hypervisor(request: pytest.FixtureRequest, software: Callable[[str], Software]) -> Hypervisor:
    """Every vCPU back end that can run here; the conformance suite takes each."""
    if request.param in _SOFTWARE:
        return software(request.param)
    made: Hypervisor = request.getfixturevalue(request.param)
    return made


_ISAS = {"whpx": "x86_64", "hvf": "aarch64", **{name: name.split("-")[1] for name in _SOFTWARE}}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A snippet or check of another ISA than a hypervisor's guests is no test of it, so not one that skips either."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        backend, about = parameters.get("hypervisor"), parameters.get("snippet", parameters.get("check"))
        isa = _ISAS.get(str(backend))
        fits = isa is None or getattr(about, "isa", "any") in ("any", isa)
        (kept if fits else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
