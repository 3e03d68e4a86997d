"""The probe says that nothing is here, and why; there is nothing else to call."""

from __future__ import annotations

import vm_gc
from vm_core.engine import Availability


def test_probe_gives_a_reason() -> None:
    assert vm_gc.probe() == Availability(False, "not built yet")


def test_nothing_but_the_interface_is_public() -> None:
    public = {vm_gc.Heap, vm_gc.Mutator}
    assert {getattr(vm_gc, name) for name in vm_gc.__all__} == {*public, vm_gc.probe}
    assert all(getattr(one, "_is_protocol", False) for one in public)
