"""The self-test: on the simulators it gives what the support table is made of, and a broken hypervisor fails it."""

from __future__ import annotations

import json
from pathlib import Path

import keystone
import pytest

from vm_accel import selftest
from vm_accel.exits import Halt
from vm_accel.hvf import Hvf
from vm_accel.interface import Hypervisor
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.software import Software
from vm_accel.testing.conformance import assemble
from vm_accel.testing.simulators import build, lacking
from vm_accel.whpx import Whpx, vcpu

RECORDED = Path(__file__).parent / "recorded"
BACKENDS = [
    pytest.param(
        name,
        kind,
        marks=[pytest.mark.skipif(bool(lacking(name)), reason=lacking(name))]
        + ([pytest.mark.kvm] if name == "whpx" else []),
    )
    for name, kind in (("whpx", Whpx), ("hvf", Hvf))
]


@pytest.mark.parametrize(
    ("isa", "name"), [(isa, name) for isa, rows in selftest.CODE.items() for name in rows]
)
def test_the_code_is_what_the_text_says(isa: str, name: str) -> None:
    text, code = selftest.CODE[isa][name]
    if isa == "riscv64":
        assert assemble(text, isa, "supervisor").hex() == code
        return
    kind, mode, base = {
        "x86_64": (keystone.KS_ARCH_X86, keystone.KS_MODE_64, 0x4000),
        "aarch64": (keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN, 0x4000_0000),
    }[isa]
    assert bytes(keystone.Ks(kind, mode).asm(text, base)[0]).hex() == code


@pytest.mark.parametrize(("name", "kind"), BACKENDS)
def test_on_the_simulator(
    name: str, kind: type[Hypervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VM_{name.upper()}_LIBRARY", str(build(name, tmp_path)))
    with kind() as hypervisor:
        outcomes = selftest.run(hypervisor)
        found = selftest.record(hypervisor, outcomes, provenance="simulator")
    recorded = json.loads((RECORDED / f"{name}-simulator.json").read_text())

    def results(record: dict[str, object]) -> list[tuple[str, str, str]]:
        return [(c["name"], c["result"], c["message"]) for c in record["checks"]]  # type: ignore[attr-defined]

    assert results(json.loads(json.dumps(found))) == results(recorded)
    assert {outcome.result for outcome in outcomes} == {"passed"}
    assert recorded["provenance"] == "simulator"


@pytest.mark.kvm
def test_on_this_machine(kvm: Kvm) -> None:
    """What the table says of KVM is what runs here."""
    outcomes = selftest.run(kvm)
    recorded = json.loads((RECORDED / "kvm-x86_64.json").read_text())
    assert recorded["provenance"] == "hardware"
    assert {(one.name, one.result) for one in outcomes} == {
        (c["name"], c["result"]) for c in recorded["checks"]
    }


@pytest.mark.parametrize("isa", ["x86_64", "aarch64", "riscv64"])
def test_on_vms_own_engines(isa: str) -> None:
    with Software(isa=isa) as hypervisor:
        outcomes = selftest.run(hypervisor)
    recorded = json.loads((RECORDED / f"none-{isa}.json").read_text())
    assert recorded["provenance"] == "software"
    assert [(one.name, one.result, one.message) for one in outcomes] == [
        (c["name"], c["result"], c["message"]) for c in recorded["checks"]
    ]
    assert {one.result for one in outcomes} <= {"passed", "skipped"}


def test_the_conformance_suite_is_a_part(hvf: Hvf) -> None:
    outcomes = selftest.run(hvf, everything=True)
    assert {one.result for one in outcomes} == {"passed"}
    assert any(one.name == "suite: el1-wfi as exits" for one in outcomes)


@pytest.mark.kvm
@pytest.mark.skipif(bool(lacking("whpx")), reason=lacking("whpx"))
def test_a_broken_binding_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VM_WHPX_LIBRARY", str(build("whpx", tmp_path)))
    monkeypatch.setattr(vcpu.WhpxVcpu, "_port", lambda *_: Halt())
    monkeypatch.setattr(vcpu.WhpxVcpu, "debug", lambda *_, **__: 1 // 0)
    with Whpx() as hypervisor:
        results = {one.name: one for one in selftest.run(hypervisor)}
    assert results["ports"].result == "failed"
    assert "PortIo" in results["ports"].message
    assert results["single step"].message.startswith("ZeroDivisionError")
    assert results["device reads"].result == "passed"
