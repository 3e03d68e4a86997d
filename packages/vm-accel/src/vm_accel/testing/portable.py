"""The checks that guests of every ISA take: the same few programs in each ISA's own instructions, and one function a property."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from vm_accel.exits import Debug, DebugKind, Halt, Interrupted, Mmio
from vm_accel.interface import Feature, Hypervisor, VmConfig
from vm_accel.memory import PAGE, HostMemory
from vm_accel.testing.check import Check, Test, check, must, refused, same
from vm_accel.testing.conformance import assemble, guest, mode_of, prepare_x86
from vm_accel.testing.snippets import CODE, DATA, MMIO

__all__ = ["PORTABLE"]

_F = Feature
_HIGH: Final = 0x10_0000
_GRAIN: Final = 0x4000
"""Bytes of the largest page of a host."""


class Program(NamedTuple):
    """One ISA: its registers for a number that is counted up, a pointer, a count, and a page's bytes or nothing; programs by name,
    and how long the instructions of ``three`` are."""

    number: str
    pointer: str
    turns: str
    page: str
    three: str
    length: int
    spin: str
    store: str
    pages: str
    add: str
    gather: str
    load: str


PROGRAMS: Final = {
    "x86_64": Program(
        "rbx", "rsi", "rcx", "", "inc rbx; inc rbx; inc rbx; hlt", 3,
        "again: inc qword ptr [rsi]; jmp again",
        "mov [rsi], rbx; hlt",
        "again: mov byte ptr [rsi], 1; add rsi, 0x1000; dec rcx; jnz again; hlt",
        "again: lock inc qword ptr [rsi]; dec rcx; jnz again; hlt",
        "again: mov rax, [rsi]; add rbx, rax; dec rcx; jnz again; hlt",
        "mov rbx, [rsi]; hlt",
    ),
    "aarch64": Program(
        "x1", "x2", "x3", "", "add x1, x1, #1; add x1, x1, #1; add x1, x1, #1; wfi", 4,
        "again: ldr x1, [x2]; add x1, x1, #1; str x1, [x2]; b again",
        "str x1, [x2]; wfi",
        "again: strb w1, [x2]; add x2, x2, #1, lsl #12; subs x3, x3, #1; b.ne again; wfi",
        "again: ldxr x1, [x2]; add x1, x1, #1; stxr w4, x1, [x2]; cbnz w4, again; subs x3, x3, #1; b.ne again; wfi",
        "again: ldr x5, [x2]; add x1, x1, x5; subs x3, x3, #1; b.ne again; wfi",
        "ldr x1, [x2]; wfi",
    ),
    "riscv64": Program(
        "x5", "x6", "x28", "x7", "addi t0, t0, 1; addi t0, t0, 1; addi t0, t0, 1; wfi", 4,
        "ld t0, 0(t1); addi t0, t0, 1; sd t0, 0(t1); jal zero, -12",
        "sd t0, 0(t1); wfi",
        "sb t0, 0(t1); add t1, t1, t2; addi t3, t3, -1; bne t3, zero, -12; wfi",
        "addi t4, zero, 1; amoadd.d zero, t4, (t1); addi t3, t3, -1; bne t3, zero, -8; wfi",
        "ld t4, 0(t1); add t0, t0, t4; addi t3, t3, -1; bne t3, zero, -12; wfi",
        "ld t0, 0(t1); wfi",
    ),
}  # fmt: skip

PORTABLE: Final[list[Check]] = []


def _check(*needs: Feature) -> Callable[[Test], Test]:
    return check(PORTABLE, *needs, isa="any")


@_check(_F.HALT)
def registers_round_trip(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    with guest(hypervisor, p.three) as made:
        values = {p.number: (1 << 64) - 3, p.pointer: 0x0123_4567_89AB_CDEF, p.turns: 1 << 63}
        made.vcpu.set_registers(values)
        same(made.vcpu.registers(values), values)
        same(made.vcpu.run(), Halt())
        same(made.vcpu.registers(values), values | {p.number: 0})
        for value in (-1, 1 << 64):
            refused(lambda value=value: made.vcpu.__setitem__(p.number, value), ValueError)  # type: ignore[misc]
        refused(lambda: made.vcpu["nothing"], KeyError)
        refused(lambda: made.vcpu.set_registers({p.number: 1, "nothing": 0}), KeyError)
        same(made.vcpu[p.number], 0)
        every = made.vcpu.registers()
        same({name: every[name] for name in values}, values | {p.number: 0})


@_check(_F.KICK)
def kicks_are_never_lost(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    with guest(hypervisor, p.spin, before={p.pointer: DATA}) as made:
        made.vcpu.kick()
        made.vcpu.kick()
        same(made.vcpu.run(), Interrupted())
        same(made.memory.read(DATA, 8), bytes(8))
        progress: list[bool] = []

        def wait_and_kick() -> None:
            start, until = made.memory.read(DATA, 8), time.monotonic() + 20
            while made.memory.read(DATA, 8) == start and time.monotonic() < until:
                time.sleep(0.0005)
            progress.append(made.memory.read(DATA, 8) != start)
            made.vcpu.kick()

        for _ in range(10):
            thread = threading.Thread(target=wait_and_kick)
            thread.start()
            same(made.vcpu.run(), Interrupted())
            thread.join()
        same(progress, [True] * 10)


@_check(_F.MMIO, _F.HALT)
def no_register_is_set_while_an_answer_is_waited_for(hypervisor: Hypervisor) -> None:
    """What is set would be lost, or the answer; but with the pc, which ends the instruction, and behind the answer."""
    p = PROGRAMS[hypervisor.isa]
    pc = "rip" if hypervisor.isa == "x86_64" else "pc"
    with guest(hypervisor, p.load, before={p.pointer: MMIO, p.number: 5}) as made:
        vcpu = made.vcpu
        same(vcpu.run(), Mmio(MMIO, 8, False))
        for name in (p.number, p.pointer, p.turns):
            refused(lambda name=name: vcpu.__setitem__(name, 7))  # type: ignore[misc]
            refused(lambda name=name: vcpu.set_registers({name: 7}))  # type: ignore[misc]
        same(vcpu[p.number], 5)
        vcpu.complete(0x1122_3344_5566_7788)
        vcpu[p.turns] = 9
        same(vcpu.run(), Halt())
        same(vcpu.registers((p.number, p.turns)), {p.number: 0x1122_3344_5566_7788, p.turns: 9})
        vcpu.set_registers({pc: CODE, p.pointer: MMIO + 8})
        same(vcpu.run(), Mmio(MMIO + 8, 8, False))
        vcpu.set_registers({p.number: 4, p.turns: 3, pc: CODE})
        same(vcpu.registers((p.number, p.turns, pc)), {p.number: 4, p.turns: 3, pc: CODE})
        same(vcpu.run(), Mmio(MMIO + 8, 8, False))
        vcpu[pc] = CODE
        vcpu[p.number] = 6
        same(vcpu.run(), Mmio(MMIO + 8, 8, False))
        vcpu.complete(0x99)
        same(vcpu.run(), Halt())
        same(vcpu[p.number], 0x99)


@_check(_F.MMIO, _F.HALT)
def registers_are_those_behind_an_answered_read(hypervisor: Hypervisor) -> None:
    """Before the answer those of before; after it the result, also where nobody has looked at the pc; and what is set then stays."""
    p = PROGRAMS[hypervisor.isa]
    pc = "rip" if hypervisor.isa == "x86_64" else "pc"
    for turn in range(20):
        with guest(hypervisor, p.load, before={p.pointer: MMIO, p.number: 5}) as made:
            same(made.vcpu.run(), Mmio(MMIO, 8, False))
            same(made.vcpu[p.number], 5)
            made.vcpu.complete(0x1122_3344_5566_7788 + turn)
            if turn % 3 == 0:
                same(made.vcpu[p.number], 0x1122_3344_5566_7788 + turn)
                must(made.vcpu[pc] > CODE, "the pc is not behind the access")
            elif turn % 3 == 1:
                same(
                    made.vcpu.registers([p.number, p.pointer]),
                    {p.number: 0x1122_3344_5566_7788 + turn, p.pointer: MMIO},
                )
                made.vcpu[p.number] = 9
            else:
                made.vcpu.set_registers({p.number: 9})
            same(made.vcpu.run(), Halt())
            same(made.vcpu[p.number], 9 if turn % 3 else 0x1122_3344_5566_7788 + turn)


@_check(_F.SINGLE_STEP, _F.HALT)
def steps_stop_behind_each_instruction(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    with guest(hypervisor, p.three) as made:
        made.vcpu.debug(step=True)
        for turn in (1, 2, 3):
            same(made.vcpu.run(), Debug(CODE + turn * p.length, DebugKind.STEP))
            same(made.vcpu[p.number], turn)
        made.vcpu.debug()
        same(made.vcpu.run(), Halt())


@_check(_F.BREAKPOINTS, _F.HALT)
def breakpoints_stop_before_their_instruction(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    places = [CODE + p.length, CODE + 2 * p.length]
    with guest(hypervisor, p.three) as made:
        made.vcpu.debug(breakpoints=places)
        for turn, place in enumerate(places, 1):
            same(made.vcpu.run(), Debug(place, DebugKind.BREAKPOINT, place))
            same(made.vcpu[p.number], turn)
        same(made.vcpu.run(), Halt())
        same(made.vcpu[p.number], 3)
        made.vcpu.debug(breakpoints=places[:1])
        made.vcpu["rip" if hypervisor.isa == "x86_64" else "pc"] = CODE
        same(made.vcpu.run(), Debug(places[0], DebugKind.BREAKPOINT, places[0]))
        made.vcpu.debug()
        same(made.vcpu.run(), Halt())


@_check(_F.DIRTY_LOG, _F.HALT)
def each_written_page_is_logged_once(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    before = {p.pointer: _HIGH + 2 * PAGE, p.turns: 40} | ({p.page: PAGE} if p.page else {})
    with guest(hypervisor, p.pages, before=before, log_dirty=True) as made:
        made.vm.dirty(_HIGH)
        same(made.vcpu.run(), Halt())
        # An entry of the log may stand for several of the guest's pages, as on Apple silicon.
        grain = _GRAIN if hypervisor.name == "hvf" else PAGE
        same(
            made.vm.dirty(_HIGH),
            [at for at in range(_HIGH, _HIGH + 42 * PAGE, grain) if at + grain > _HIGH + 2 * PAGE],
        )
        same(made.vm.dirty(_HIGH), [])
        # What was reported is logged again when it is written again.
        made.vcpu.set_registers({**before, p.turns: 3, "rip" if hypervisor.isa == "x86_64" else "pc": CODE})
        same(made.vcpu.run(), Halt())
        same(made.vm.dirty(_HIGH), sorted({_HIGH + n * PAGE & -grain for n in (2, 3, 4)}))
        refused(lambda: made.vm.dirty(_HIGH + PAGE))


@_check(_F.READ_ONLY, _F.MMIO, _F.HALT)
def read_only_memory_is_not_written(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    with HostMemory(2 * _GRAIN) as rom, guest(hypervisor, p.store) as made:
        made.vm.map(0x40_0000, rom, offset=-rom.address % _GRAIN, size=_GRAIN, writable=False)
        made.vcpu.set_registers({p.pointer: 0x40_0000, p.number: 5})
        same(made.vcpu.run(), Mmio(0x40_0000, 8, True, 5))
        same(made.vcpu.run(), Halt())
        same(any(rom.view), False)
        refused(rom.close)
        made.vm.unmap(0x40_0000)


@_check(_F.SAVE, _F.MMIO, _F.HALT, _F.MANY_VMS)
def a_saved_vcpu_goes_on_in_another_machine(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    with guest(hypervisor, p.gather, before={p.pointer: MMIO, p.turns: 5}) as first:
        for value in (1, 2, 3):
            same(first.vcpu.run(), Mmio(MMIO, 8, False))
            first.vcpu.complete(value)
        state = first.vcpu.save()
        image = first.memory.read(0, first.memory.size)
        with guest(hypervisor, p.three) as second:
            second.memory.write(0, image)
            second.vcpu.restore(state)
            for made in (second, first):
                for value in (4, 5):
                    same(made.vcpu.run(), Mmio(MMIO, 8, False))
                    made.vcpu.complete(value)
                same(made.vcpu.run(), Halt())
                same(made.vcpu[p.number], 15)
            refused(lambda: second.vcpu.restore({"format": "something else"}))


@_check(_F.MANY_VMS, _F.HALT)
def machines_do_not_see_each_other(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    with guest(hypervisor, p.store, before={p.pointer: DATA, p.number: 1}) as one:
        with guest(hypervisor, p.store, before={p.pointer: DATA, p.number: 2}) as two:
            for made in (one, two, one):
                made.vcpu["rip" if hypervisor.isa == "x86_64" else "pc"] = CODE
                same(made.vcpu.run(), Halt())
            same(two.memory.read(DATA, 8), (2).to_bytes(8, "little"))
        same(one.memory.read(DATA, 8), (1).to_bytes(8, "little"))


@_check(_F.SMP, _F.HALT)
def eight_vcpus_add_to_one_number(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    rounds, cpus = 50, 8
    mode = mode_of(hypervisor.isa)
    with HostMemory(2 << 20) as memory, hypervisor.create_vm(VmConfig(cpus=cpus)) as vm:
        vm.map(0, memory)
        memory.write(CODE, assemble(p.add, hypervisor.isa, mode))
        problems: list[object] = []
        together, lock = threading.Barrier(cpus), threading.Lock()

        def work() -> None:
            try:
                with lock:
                    vcpu = vm.create_vcpu()
                    if hypervisor.isa == "x86_64":
                        prepare_x86(vcpu, memory, mode)
                    else:
                        vcpu["pc"] = CODE
                    vcpu.set_registers({p.pointer: DATA, p.turns: rounds})
                together.wait(60)
                if (found := vcpu.run()) != Halt():
                    problems.append(found)
                vcpu.close()  # as HVF wants it: by the thread that made it
            except Exception as error:  # noqa: BLE001 - a thread's problem is the check's
                problems.append(repr(error))

        threads = [threading.Thread(target=work) for _ in range(cpus)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        same(problems, [])
        same(int.from_bytes(memory.read(DATA, 8), "little"), cpus * rounds)


@_check(_F.MANY_VMS, _F.HALT)
def a_hundred_machines_come_and_go(hypervisor: Hypervisor) -> None:
    p = PROGRAMS[hypervisor.isa]
    code = assemble(p.three, hypervisor.isa, mode_of(hypervisor.isa))
    begin = time.monotonic()
    for turn in range(100):
        with guest(hypervisor, code, before={p.number: turn}) as made:
            same(made.vcpu.run(), Halt())
            same(made.vcpu[p.number], turn + 3)
    must(time.monotonic() - begin < 60, "a machine takes more than half a second")
