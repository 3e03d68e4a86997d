"""The handler of the host's SIGBUS for programs under KVM."""

from __future__ import annotations

import keystone

from vm_accel.user import cut


def test_the_handler_is_what_its_source_says() -> None:
    assert bytes(keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64).asm(cut.SOURCE)[0]) == cut.STUB
