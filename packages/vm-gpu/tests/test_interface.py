"""The probe looks for drivers, and never claims more than was built."""

from __future__ import annotations

from pathlib import Path

import pytest

import vm_gpu
from vm_gpu import interface


def test_a_host_without_drivers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interface, "_DRIVERS", (("cuda", "libcuda.so.1", tmp_path / "absent"),))
    found = vm_gpu.probe()
    assert not found.available
    assert "no CUDA or ROCm driver" in found.reason


def test_a_driver_is_named_but_nothing_is_promised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sign = tmp_path / "version"
    sign.touch()
    monkeypatch.setattr(interface, "_DRIVERS", (("cuda", "libcuda.so.1", sign),))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.1")
    found = vm_gpu.probe()
    assert not found.available
    assert "the host has cuda" in found.reason


def test_nothing_but_the_interface_is_public() -> None:
    public = {vm_gpu.BatchEngine, vm_gpu.Device}
    assert {getattr(vm_gpu, name) for name in vm_gpu.__all__} == {*public, vm_gpu.probe}
    assert all(getattr(one, "_is_protocol", False) for one in public)
