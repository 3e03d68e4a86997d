"""The scriptable machine, on the reference engine."""

from __future__ import annotations

import pickle
import threading

import pytest

from vm_core.engine import Breakpoint, Budget, Cause, Interrupted, Syscall, Trap
from vm_core.errors import UsageError
from vm_core.machine import Machine
from vm_core.memory import Access, Prot

CODE = (
    "addi a0, zero, 0",
    "addi a1, zero, 5",
    "add a0, a0, a1",  # 0x1008
    "addi a1, a1, -1",
    "bne a1, zero, -8",
    "sd a0, 0(a2)",  # 0x1014
    "ld a3, 0(a2)",
    "ecall",  # 0x101c
    "ebreak",
)


@pytest.fixture
def m():
    with Machine("rv64", engine="reference") as made:
        made.map(0x1000, 4096, b"".join(made.isa.assemble(line) for line in CODE), prot=Prot.RX)
        made.map(0x2000, 4096, prot=Prot.RW)
        made.pc, made["a2"] = 0x1000, 0x2010
        yield made


def test_run_until_and_registers(m):
    assert m.run(until=0x1014) == Breakpoint(0x1014)
    assert (m["a0"], m["x11"], m.pc) == (15, 0, 0x1014)
    assert m.instructions == 17
    assert isinstance(m.run(), Syscall)
    assert m["a3"] == 15
    assert m.read(0x2010, 8) == (15).to_bytes(8, "little")


def test_step_counts_exactly(m):
    assert isinstance(m.step(3), Budget)
    assert (m.pc, m.instructions) == (0x100C, 3)


def test_running_on_from_until_comes_there_again(m):
    seen = 0
    while isinstance(m.run(until=0x1008), Breakpoint):
        seen += 1
    assert seen == 5


def test_code_hook_on_one_address(m):
    sums = []
    hook = m.hook_code(lambda machine, pc: sums.append((pc, machine["a0"])), 0x1008)
    m.run()
    assert sums == [(0x1008, value) for value in (0, 5, 9, 12, 14)]
    m.unhook(hook)
    m.unhook(hook)


def test_code_hook_on_a_range_and_everywhere(m):
    inside, everywhere = [], []
    m.hook_code(lambda _, pc: inside.append(pc), 0x1008, 0x1014)
    m.run(until=0x101C)
    assert len(inside) == 15
    m.pc = 0x1000
    m.hook_code(lambda _, pc: everywhere.append(pc))
    m.run(until=0x101C)
    assert len(everywhere) == 19
    assert len(inside) == 30


def test_memory_hook_sees_address_size_and_value(m):
    seen = []
    m.hook_memory(lambda _, *access: seen.append(access), 0x2010, 0x2018)
    m.hook_memory(lambda _, *access: pytest.fail(str(access)), 0x2100)
    m.run()
    assert seen == [(Access.WRITE, 0x2010, 8, 15), (Access.READ, 0x2010, 8, None)]


def test_memory_hook_can_be_for_writes_only(m):
    seen = []
    m.hook_memory(lambda _, access, *rest: seen.append(access), access=Access.WRITE)
    m.run()
    assert seen == [Access.WRITE]


def test_syscall_hook_goes_on_and_fault_hook_decides(m):
    calls, faults = [], []

    def fault(machine, trap):
        faults.append(trap)
        machine.stop()
        machine.pc = 0x1000
        return True

    m.hook_syscall(lambda machine: calls.append(machine["a0"]))
    m.hook_fault(fault)
    assert isinstance(m.run(), Interrupted)
    assert calls == [15]
    assert (faults[0].cause, faults[0].pc, m.pc) == (Cause.BREAKPOINT, 0x1020, 0x1000)


def test_a_fault_without_a_hook_is_the_exit(m):
    m["a2"] = 0x1010
    exit_ = m.run()
    assert isinstance(exit_, Trap)
    assert (exit_.cause, exit_.address, exit_.mapped, m.pc) == (Cause.STORE, 0x1010, True, 0x1014)
    m["a2"] = 0x9000
    exit_ = m.run()
    assert (exit_.cause, exit_.mapped) == (Cause.STORE, False)


def test_timeout_and_stop_from_another_thread(m):
    m.write(0x1000, m.isa.assemble("jal zero, 0"))
    assert isinstance(m.run(timeout=0.05), Interrupted)
    assert isinstance(m.run(limit=1000), Budget)
    timer = threading.Timer(0.05, m.engine.interrupt if hasattr(m.engine, "interrupt") else m.stop)
    timer.start()
    m.hook_code(lambda machine, _: machine.stop() if not timer.is_alive() else None, 0x1000)
    assert isinstance(m.run(timeout=10), Interrupted)


def test_context_holds_registers_and_memory(m):
    m.run(until=0x1014)
    saved = pickle.loads(pickle.dumps(m.context()))
    m.run()
    assert m.read(0x2010, 1) == b"\x0f"
    m.map(0x5000, 4096)
    m["a0"] = 99
    m.restore(saved)
    assert (m["a0"], m.pc, m.read(0x2010, 1)) == (15, 0x1014, b"\0")
    assert [region.start for region in m.regions()] == [0x1000, 0x2000]
    assert isinstance(m.run(), Syscall)
    with Machine("rv64", engine="reference") as other:
        other.restore(saved)
        assert other["a0"] == 15
        assert isinstance(other.run(), Syscall)
        assert other["a3"] == 15


def test_written_code_is_seen(m):
    m.run(until=0x1014)
    m.write(0x1000, m.isa.assemble("addi a0, zero, 7"))
    m.pc = 0x1000
    m.step()
    assert m["a0"] == 7
    assert m.disassemble(0x1000).text() == "addi a0, zero, 7"


def test_wrong_names_are_usage_errors(m):
    with pytest.raises(UsageError, match="riscv64 has no register 'rax'"):
        m["rax"]
    with pytest.raises(ValueError, match="not mapped"):
        m.protect(0x7000, 4096, Prot.RW)
    with pytest.raises(UsageError, match="no instruction set is called 'z80'"):
        Machine("z80")
