"""``--accel`` and ``VM_ACCEL``: whether a hypervisor fits the guest, and what is said if none does."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

import vm_accel
from vm_accel import registry
from vm_cli import launch, show
from vm_cli.launch import accelerated
from vm_cli.settings import Settings
from vm_core import engines, isa
from vm_core.engine import Availability, EngineStats
from vm_core.errors import EngineUnavailable, UsageError
from vm_core.memory import GuestMemory


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


class _Made:
    """Stands for an engine."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the engines that are asked for; that of KVM is refused while "broken" is first."""
    asked: list[str] = []

    def create(name: str, *_: object, **__: object) -> _Made:
        if name == "kvm" and asked[:1] == ["broken"]:
            raise EngineUnavailable("the device went away")
        asked.append(name)
        return _Made("jit" if name == "auto" else name)

    monkeypatch.setattr(engines, "create", create)
    monkeypatch.setattr(launch.gc, "freeze", lambda: None)
    return asked


@pytest.mark.parametrize(
    ("accel", "engine", "guest", "counted", "asked"),
    [
        ("auto", "auto", "x86_64", False, "kvm"),
        ("auto", "auto", "x86_64", True, "auto"),  # fuel, a trace or a debugger
        ("auto", "auto", "riscv64", False, "auto"),
        ("auto", "interp", "x86_64", False, "interp"),
        ("none", "auto", "x86_64", False, "auto"),
        ("kvm", "auto", "x86_64", False, "kvm"),
        ("none", "kvm", "x86_64", False, "kvm"),
    ],
)
def test_which_engine_that_is(
    host: dict[str, Availability],
    made: list[str],
    accel: str,
    engine: str,
    guest: str,
    counted: bool,
    asked: str,
) -> None:
    host["kvm"] = Availability(True)
    choice = launch._EngineChoice(engine, {}, None, accel, instructions=counted)
    with GuestMemory() as memory:
        choice(isa.get(guest), memory)
        assert made == [asked]
        # After execve no hypervisor is looked for again.
        host.clear()
        for following in ("riscv64", "x86_64"):
            choice(isa.get(following), memory)
    assert made[1] == ("auto" if asked == "kvm" else asked)


def test_auto_goes_on_without_a_kvm_that_fails_later(
    host: dict[str, Availability], made: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    host["kvm"] = Availability(True)
    made.append("broken")
    with GuestMemory() as memory:
        launch._EngineChoice("auto", {}, None, "auto")(isa.get("x86_64"), memory)
        assert made == ["broken", "auto"]
        with pytest.raises(EngineUnavailable, match="went away"):
            launch._EngineChoice("auto", {}, None, "kvm")(isa.get("x86_64"), memory)


def test_a_trace_does_not_take_a_named_hypervisor_away() -> None:
    """Whoever asks for both is told that they exclude each other, when the engine is made."""
    for accel, engine in (("kvm", "auto"), ("auto", "interp"), ("none", "interp")):
        assert launch.engine_name(Settings(trace=True, accel=accel)) == engine


def test_statistics_of_an_engine_that_counts_nothing_have_no_counts() -> None:
    result: Any = SimpleNamespace(stats=EngineStats(), instructions=0, system_calls=3, peak_memory=1 << 20)
    assert not {"instructions", "speed"} & {name for name, _ in show._stats_rows(result, "kvm")}
