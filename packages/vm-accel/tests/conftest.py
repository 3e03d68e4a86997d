"""The hypervisors that this host has, opened once each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vm_accel.interface import Hypervisor
from vm_accel.kvm.hypervisor import Kvm


@pytest.fixture(scope="session")
def kvm() -> Iterator[Kvm]:
    found = Kvm.probe()
    if not found.available:
        pytest.skip(f"KVM cannot be used here: {found.reason}")
    with Kvm() as hypervisor:
        yield hypervisor


@pytest.fixture(params=["kvm"])
def hypervisor(request: pytest.FixtureRequest) -> Hypervisor:
    """Every vCPU back end that can run here; the conformance suite takes each."""
    made: Hypervisor = request.getfixturevalue(request.param)
    return made
