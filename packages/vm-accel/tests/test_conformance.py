"""Every hypervisor of this host on every snippet and check that it has the features for; the rest skips, with the reason."""

from __future__ import annotations

import pytest

from vm_accel.interface import Hypervisor, VmConfig
from vm_accel.testing.check import Check, lacking
from vm_accel.testing.checks import CHECKS
from vm_accel.testing.conformance import Mismatch, applicable, assemble, guest, missing, run_snippet
from vm_accel.testing.snippets import CODE, SNIPPETS, Snippet
from vm_core.errors import UsageError

pytestmark = pytest.mark.kvm


def only_x86(hypervisor: Hypervisor) -> None:
    if hypervisor.isa != "x86_64":
        pytest.skip(f"{hypervisor.name}: this is about the snippets for x86-64")


@pytest.mark.parametrize("bus", [False, True], ids=["exits", "bus"])
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"{snippet.isa}-{snippet.name}")
def test_snippet(hypervisor: Hypervisor, snippet: Snippet, bus: bool) -> None:
    if lacks := missing(hypervisor, snippet):
        pytest.skip(f"{hypervisor.name}: {', '.join(lacks)}")
    run_snippet(hypervisor, snippet, bus=bus)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_check(hypervisor: Hypervisor, check: Check) -> None:
    if lacks := lacking(hypervisor, check):
        pytest.skip(f"{hypervisor.name}: {', '.join(lacks)}")
    check.run(hypervisor)


def test_the_table_is_large_enough_and_names_are_unique() -> None:
    names = [(snippet.isa, snippet.name) for snippet in SNIPPETS]
    assert len(set(names)) == len(names)
    assert sum(snippet.isa == "x86_64" for snippet in SNIPPETS) >= 60


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"{snippet.isa}-{snippet.name}")
def test_every_snippet_can_be_assembled(snippet: Snippet) -> None:
    assert assemble(snippet.code, snippet.isa, snippet.mode)


def test_this_host_runs_more_than_sixty_of_them(hypervisor: Hypervisor) -> None:
    only_x86(hypervisor)
    assert len(applicable(hypervisor)) >= 60


@pytest.mark.parametrize(
    "change",
    [{"code": "hlt"}, {"after": {"rbx": 1}}, {"memory_after": {CODE: b"\0"}}, {"code": "ud2"}],
    ids=["exits", "registers", "memory", "a trap"],
)
def test_a_difference_is_found(hypervisor: Hypervisor, change: dict[str, object]) -> None:
    """The suite itself can fail."""
    only_x86(hypervisor)
    snippet = next(each for each in SNIPPETS if each.name == "long-out-8")
    for bus in (False, True):
        run_snippet(hypervisor, snippet, bus=bus)
        with pytest.raises(Mismatch):
            run_snippet(hypervisor, snippet._replace(**change), bus=bus)  # type: ignore[arg-type]


@pytest.mark.parametrize("cpus", [-1, 0, 100_000])
def test_more_vcpus_than_there_can_be(hypervisor: Hypervisor, cpus: int) -> None:
    with pytest.raises(UsageError, match=rf"{cpus} vCPUs are not within 1 and \d+, the most in a VM of"):
        hypervisor.create_vm(VmConfig(cpus=cpus))


def test_the_stubs_tell_their_vector(hypervisor: Hypervisor) -> None:
    only_x86(hypervisor)
    with guest(hypervisor, "ud2") as made:
        assert made.vcpu.run().data == b"\x06"  # type: ignore[union-attr]
