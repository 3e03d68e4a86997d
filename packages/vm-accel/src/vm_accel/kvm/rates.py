"""How fast this host's KVM is: not all are. Without hardware support beneath, guest kernel code is emulated."""

from __future__ import annotations

import struct
import threading
import time
from typing import Final, NamedTuple

from vm_accel.exits import PortIo
from vm_accel.kvm.hypervisor import Kvm
from vm_accel.memory import HostMemory
from vm_accel.x86 import long_mode, page_tables, segment

__all__ = ["Rates", "measure"]

_CODE, _TABLES, _TSS, _SIZE = 0x1000, 0x1_0000, 0x1_8000, 0x2_0000
_TSS_LIMIT: Final = 0x68 + 0x2000
_LOOP: Final = bytes.fromhex("ffc975fcb001e610ebf6")
"""dec ecx; jnz back; mov al, 1; out 0x10, al; jmp to the start: with ecx 0 at the port again, 2³² turns."""
_EXITS: Final = bytes.fromhex("e610ebfc")
"""out 0x10, al; jmp back."""


class Rates(NamedTuple):
    """Instructions a second in ring 0 and ring 3 of 64-bit code, and exits a second of ring 0 and back."""

    ring0: float
    ring3: float
    exits: float


def measure(kvm: Kvm, *, seconds: float = 0.05) -> Rates:
    """Takes about three times ``seconds``; more where one loop is very slow."""
    return Rates(_instructions(kvm, 0, seconds), _instructions(kvm, 3, seconds), _exits(kvm, seconds))


def _instructions(kvm: Kvm, ring: int, seconds: float) -> float:
    turns, took = 1000, 0.0
    # A loop that takes long enough, found by doubling: the rates differ by a factor of thousands.
    while took < seconds and turns < 1 << 31:
        turns = min(int(turns * (8 if took < seconds / 16 else 2)), 1 << 31)
        took = _run(kvm, ring, _LOOP, {"rcx": turns}, 1)
    return 2 * turns / took


def _exits(kvm: Kvm, seconds: float) -> float:
    count, took = 250, 0.0
    while took < seconds and count < 1 << 20:
        count *= 2
        took = _run(kvm, 0, _EXITS, {}, count)
    return count / took


def _run(kvm: Kvm, ring: int, code: bytes, registers: dict[str, int], exits: int) -> float:
    with HostMemory(_SIZE) as memory, kvm.create_vm() as vm:
        memory.write(_CODE, code)
        memory.write(_TABLES, page_tables(_TABLES, user=ring == 3))
        memory.write(_TSS + 102, struct.pack("<H", 0x68))  # an I/O bitmap that allows ring 3 every port
        vm.map(0, memory)
        vcpu = vm.create_vcpu()
        start = long_mode(_CODE, _TABLES, stack=_CODE, ring=ring)
        start |= segment("tr", 0x8B, selector=0x40, base=_TSS, limit=_TSS_LIMIT)
        vcpu.set_registers(start | registers)
        # Whatever this host's KVM does with such a guest, the doctor comes back.
        timer = threading.Timer(5, vcpu.kick)
        timer.daemon = True
        timer.start()
        try:
            begin = time.perf_counter()
            for _ in range(exits):
                if not isinstance(vcpu.run(), PortIo):
                    break
            return time.perf_counter() - begin
        finally:
            timer.cancel()
            timer.join()
