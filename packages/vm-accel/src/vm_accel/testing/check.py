"""What a check of the conformance suite is, and the few words in which one is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vm_accel.interface import Feature, Hypervisor
from vm_accel.testing.conformance import Mismatch
from vm_core.errors import UsageError

__all__ = ["Check", "Test", "check", "lacking", "must", "refused", "same"]

Test = Callable[[Hypervisor], None]


class Check(NamedTuple):
    """One property. ``isa``: that of the guests, or ``any``; ``run`` raises Mismatch if a hypervisor does not have it."""

    name: str
    isa: str
    needs: frozenset[Feature]
    run: Test


def lacking(hypervisor: Hypervisor, check: Check) -> list[str]:
    """What the hypervisor lacks for the check."""
    if check.isa not in ("any", hypervisor.isa):
        return [f"its guests are {hypervisor.isa}"]
    return sorted(feature.value for feature in check.needs - hypervisor.features)


def check(checks: list[Check], *needs: Feature, isa: str) -> Callable[[Test], Test]:
    """A decorator: the function is a check for ``checks``, called as it is."""

    def add(function: Test) -> Test:
        checks.append(Check(function.__name__.replace("_", "-"), isa, frozenset(needs), function))
        return function

    return add


def must(condition: object, text: str) -> None:
    if not condition:
        raise Mismatch(text)


def same(found: object, wanted: object) -> None:
    if found != wanted:
        raise Mismatch(f"{found}\n  must be {wanted}")


def refused(action: Callable[[], object], kind: type[Exception] = UsageError) -> None:
    try:
        action()
    except kind:
        return
    raise Mismatch(f"this must raise {kind.__name__}")
