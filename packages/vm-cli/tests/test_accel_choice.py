"""``--accel`` and ``VM_ACCEL``: whether a hypervisor fits the guest, and what is said if none does."""

from __future__ import annotations

import logging

import pytest

import vm_accel
from vm_accel import registry
from vm_cli.launch import accelerated
from vm_core.engine import Availability
from vm_core.errors import UsageError


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, Availability]:
    states = {name: Availability(False, f"no {name}", f"get {name}") for name in ("kvm", "hvf", "whpx", "vz")}
    monkeypatch.setattr(registry, "_probe", lambda name: states[name])
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return states


def test_a_foreign_guest_asks_for_none(host: dict[str, Availability]) -> None:
    host.clear()
    assert accelerated("auto", "riscv64") == "none"


def test_a_native_guest_gets_what_works(host: dict[str, Availability]) -> None:
    host["kvm"] = Availability(True)
    assert accelerated("auto", "x86_64") == "kvm"
    assert accelerated("kvm", "x86_64") == "kvm"


def test_auto_falls_back_and_says_so(host: dict[str, Availability], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vm"):
        assert accelerated("auto", "x86_64") == "none"
    assert "no hypervisor, the program is translated: kvm: no kvm" in caplog.text


def test_a_named_one_must_be_there_and_fit(host: dict[str, Availability]) -> None:
    with pytest.raises(vm_accel.AcceleratorUnavailable, match="no kvm") as caught:
        accelerated("kvm", "x86_64")
    assert caught.value.hint == "get kvm"
    host["kvm"] = Availability(True)
    with pytest.raises(UsageError, match="riscv64"):
        accelerated("kvm", "riscv64")
