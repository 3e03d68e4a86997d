"""The choice of a hypervisor on made-up hosts."""

from __future__ import annotations

import sys

import pytest

import vm_accel
from vm_accel import registry
from vm_accel.errors import AcceleratorUnavailable
from vm_core.engine import Availability
from vm_core.errors import UsageError

_NO = Availability(False, "there is no /dev/kvm", "modprobe kvm_intel")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, Availability]:
    """What each back end says of itself; a Linux host."""
    states = {
        name: Availability(False, f"{name} is of another system") for name in ("kvm", "hvf", "whpx", "vz")
    }
    monkeypatch.setattr(registry, "_probe", lambda name: states[name])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("VM_ACCEL", raising=False)
    return states


def test_auto_takes_what_works(host: dict[str, Availability]) -> None:
    host["kvm"] = Availability(True, "vmx")
    assert vm_accel.choose().name == "kvm"
    assert vm_accel.probe() == Availability(True, "kvm")


def test_auto_falls_back_and_says_why(host: dict[str, Availability]) -> None:
    host["kvm"] = _NO
    choice = vm_accel.choose("auto")
    assert choice == registry.Choice("none", "kvm: there is no /dev/kvm", "modprobe kvm_intel")
    with pytest.raises(AcceleratorUnavailable, match="there is no /dev/kvm") as caught:
        vm_accel.open_hypervisor()
    assert (caught.value.code, caught.value.hint) == ("VM310", "modprobe kvm_intel")


def test_a_named_one_must_be_there(host: dict[str, Availability]) -> None:
    host["kvm"] = _NO
    with pytest.raises(AcceleratorUnavailable, match="kvm cannot be used: there is no /dev/kvm"):
        vm_accel.choose("kvm")
    with pytest.raises(AcceleratorUnavailable, match="hvf"):
        vm_accel.choose("hvf")


def test_none_asks_nobody(host: dict[str, Availability]) -> None:
    host.clear()
    assert vm_accel.choose("none").name == "none"


def test_none_is_vms_own_engines_for_who_asks(
    host: dict[str, Availability], monkeypatch: pytest.MonkeyPatch
) -> None:
    host["kvm"] = _NO
    with vm_accel.open_hypervisor("none") as hypervisor:
        assert hypervisor.name == "none"
    monkeypatch.setenv("VM_ACCEL", "none")
    with vm_accel.open_hypervisor() as hypervisor:
        assert hypervisor.name == "none"
    with pytest.raises(AcceleratorUnavailable):
        vm_accel.open_hypervisor("auto")
    with pytest.raises(AcceleratorUnavailable, match="not wanted"):
        vm_accel.open_machines("none")


def test_the_variable_is_the_default(host: dict[str, Availability], monkeypatch: pytest.MonkeyPatch) -> None:
    host["kvm"] = Availability(True)
    monkeypatch.setenv("VM_ACCEL", "none")
    assert vm_accel.choose().name == "none"
    assert vm_accel.choose("kvm").name == "kvm"
    monkeypatch.setenv("VM_ACCEL", "xen")
    with pytest.raises(UsageError, match="xen"):
        vm_accel.choose()


def test_machines_and_vcpus_are_not_mixed_up(host: dict[str, Availability]) -> None:
    with pytest.raises(UsageError, match="whole machines"):
        vm_accel.choose("vz")
    with pytest.raises(UsageError, match="vCPUs"):
        vm_accel.choose("whpx", machines=True)
    host["kvm"] = Availability(True)
    assert [vm_accel.choose("kvm", machines=each).name for each in (False, True)] == ["kvm", "kvm"]


def test_a_backend_that_is_not_there_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._CLASSES, "kvm", "vm_accel.no_such_module:Kvm")
    found = vm_accel.available()["kvm"]
    assert not found.available


@pytest.mark.kvm
@pytest.mark.skipif(not vm_accel.available()["kvm"].available, reason="needs KVM")
def test_it_opens_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    with vm_accel.open_hypervisor("kvm") as hypervisor:
        assert hypervisor.name == "kvm"
