"""The doctor's verdicts on hosts that lack something."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import pytest

import vm_accel
from vm_cli import cached, doctor
from vm_cli.doctor import Finding, exit_status, run_checks
from vm_core import memory
from vm_core.errors import HostError
from vm_core.linux import landlock, seccomp


def broken() -> Finding:
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("levels", "status"),
    [(["ok"], 0), (["ok", "note"], 0), (["ok", "degraded"], 1), (["degraded", "failed", "ok"], 2)],
)
def test_exit_status(levels: list[str], status: int) -> None:
    assert exit_status([Finding("x", level, "") for level in levels]) == status


def test_a_check_that_breaks_is_a_finding() -> None:
    (found,) = run_checks([broken])
    assert found.level == "degraded"
    assert found.message == "the check itself failed: RuntimeError: no"
    assert found.fix


def test_no_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise HostError("cannot reserve", hint="ulimit -v unlimited")

    monkeypatch.setattr(memory, "_reserve", refuse)
    (found,) = run_checks([doctor._memory])
    assert (found.level, found.fix) == ("failed", "ulimit -v unlimited")


def test_no_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(1, "no")

    monkeypatch.setattr(os, "memfd_create", refuse)
    (found,) = run_checks([doctor._executable_memory])
    assert found.level == "degraded"
    assert "reference" in found.fix


def test_no_openat2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_OPENAT2", 9999)
    (found,) = run_checks([doctor._openat2])
    assert found.level == "degraded"
    assert "Linux 5.6" in found.fix


def test_a_kernel_without_landlock_and_filters_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(seccomp, "available", lambda: False)
    for check in (doctor._landlock, doctor._seccomp):
        (found,) = run_checks([check])
        assert found.level == "degraded"
        assert "CONFIG_SEC" in found.fix


def test_an_older_landlock_is_one_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 3)
    assert run_checks([doctor._landlock])[0].level == "ok"
    for name, linux in (("landlock-net", "6.7"), ("landlock-scope", "6.12")):
        (found,) = run_checks([doctor._wall(name)])
        assert found.level == "note"
        assert linux in found.fix


@pytest.mark.parametrize("case", ["absent", "sound", "file", "others", "foreign"])
def test_the_cache_directory(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache"
    if case == "file":
        path.touch()
    elif case != "absent":
        path.mkdir(mode=0o700)
    if case == "others":
        path.chmod(0o777)
    if case == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(cached, "directory", lambda: path)
    (found,) = run_checks([doctor._cache])
    assert found.level == ("ok" if case in ("absent", "sound") else "degraded"), found
    assert found.fix or found.level == "ok"


def test_a_mistyped_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VM_ENGIEN", "jit")
    (found,) = run_checks([doctor._variables])
    assert found.level == "note"
    assert "VM_ENGIEN" in found.message


def _rates(monkeypatch: pytest.MonkeyPatch, ring0: float) -> Finding:
    """What the doctor says of a KVM whose rates are these."""
    from vm_accel.kvm import hypervisor, rates

    class Opened:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("vm_accel.flavour", lambda: vm_accel.Flavour("vmx"))
    monkeypatch.setattr(hypervisor, "Kvm", Opened)
    monkeypatch.setattr(rates, "measure", lambda _kvm: rates.Rates(ring0, 3e9, 1e5))
    (found,) = run_checks([doctor._kvm])
    return found


def test_kvm_with_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _rates(monkeypatch, 3e9)
    assert found.level == "ok"
    assert "vmx" in found.message
    assert "3,000 M instructions/s" in found.message
    assert "100,000 exits/s" in found.message


def test_kvm_whose_kernel_code_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _rates(monkeypatch, 1e6)
    assert found.level == "note"
    assert "kernel code is emulated" in found.message
    assert "nested" in found.fix


def test_kvm_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "sudo usermod -aG kvm $USER"
    monkeypatch.setattr("vm_accel.flavour", lambda: vm_accel.Flavour("none", "cannot open /dev/kvm", fix))
    (found,) = run_checks([doctor._kvm])
    assert (found.level, found.message, found.fix) == ("note", "cannot open /dev/kvm", fix)


def test_kvm_that_answers_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    from vm_accel.kvm import hypervisor

    def broken() -> None:
        raise vm_accel.HypervisorError("KVM_CREATE_VM failed", call="KVM_CREATE_VM", hint="more memory")

    monkeypatch.setattr("vm_accel.flavour", lambda: vm_accel.Flavour("svm"))
    monkeypatch.setattr(hypervisor, "Kvm", broken)
    (found,) = run_checks([doctor._kvm])
    assert (found.level, found.message, found.fix) == ("note", "KVM_CREATE_VM failed", "more memory")


@pytest.mark.kvm
@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
def test_kvm_of_this_host() -> None:
    (found,) = run_checks([doctor._kvm])
    assert found.level in ("ok", "note")
    assert "exits/s" in found.message
