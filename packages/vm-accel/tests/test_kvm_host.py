"""The detection of the host's KVM, on made-up hosts and on this one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import vm_accel
from vm_accel.kvm import host


def test_a_host_without_kvm(tmp_path: Path) -> None:
    found = vm_accel.flavour(tmp_path / "kvm")
    assert found.name == "none"
    assert str(tmp_path / "kvm") in found.reason
    assert found.hint


def test_a_device_that_is_no_kvm() -> None:
    found = vm_accel.flavour(Path("/dev/null"))
    assert found.name == "none"
    assert found.reason == "/dev/null is no KVM"
    assert "character device 10, 232" in found.hint


@pytest.mark.parametrize(("number", "hint"), [(errno.EACCES, "kvm group"), (errno.ENODEV, "modprobe")])
def test_a_device_that_cannot_be_opened(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_device: Path) -> int:
        raise OSError(number, "refused")

    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(host, "_api_version", refuse)
    found = vm_accel.flavour(device)
    assert (found.name, "refused" in found.reason) == ("none", True)
    assert hint in found.hint


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        (["kvm", "kvm_intel"], "vmx"),
        (["kvm", "kvm_amd"], "svm"),
        (["kvm", "kvm_pvm"], "pvm"),
        (["kvm", "ext4"], "unknown"),
    ],
)
def test_the_flavour_is_the_module_that_is_there(
    modules: list[str], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device, listing = tmp_path / "kvm", tmp_path / "module"
    device.touch()
    for module in modules:
        (listing / module).mkdir(parents=True)
    monkeypatch.setattr(host, "_api_version", lambda _device: host.KVM_API_VERSION)
    assert vm_accel.flavour(device, listing).name == name


def test_an_old_kernel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(host, "_api_version", lambda _device: 11)
    found = vm_accel.flavour(device)
    assert found.name == "none"
    assert "version 11" in found.reason
