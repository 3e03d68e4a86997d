"""The probe says that nothing is here, and why; there is nothing else to call."""

from __future__ import annotations

import vm_aot
from vm_core.engine import Availability


def test_probe_gives_a_reason_and_a_way_out() -> None:
    found = vm_aot.probe()
    assert isinstance(found, Availability)
    assert not found.available
    assert found.reason
    assert found.hint


def test_nothing_but_the_interface_is_public() -> None:
    public = {vm_aot.Image, vm_aot.Translator}
    assert {getattr(vm_aot, name) for name in vm_aot.__all__} == {*public, vm_aot.probe}
    assert all(getattr(one, "_is_protocol", False) for one in public)
