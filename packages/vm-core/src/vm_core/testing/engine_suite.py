"""The conformance suite of engines: what the :class:`vm_core.engine.Engine` contract promises, as tests.

A subclass says how its engine is made, and for which instruction set::

    class TestMine(EngineSuite):
        isa_name = "aarch64"

        def make_engine(self, isa, memory):
            return MyEngine(isa, memory)

Every ``test_`` method is one promise. They use plain ``assert``, so pytest collects them as they are, and a
``unittest.TestCase`` may inherit them too. Expectations come from the contract; whole states are compared with the
reference executor, one instruction at a time and in blocks that run often enough to be compiled.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from vm_core import isa as isas
from vm_core.engine import Breakpoint, Budget, Cause, Engine, Exit, Interrupted, Syscall, Trap
from vm_core.execute import ReferenceEngine, execute
from vm_core.memory import Access, GuestMemory, Prot
from vm_core.spec.isa import Decoded, Isa
from vm_core.state import CpuState
from vm_core.testing.cases import read_cases

__all__ = ["EngineSuite", "Machine", "Program", "states_differ"]

CODE: Final = 0x1_0000
DATA: Final = 0x10_0000
DATA_SIZE: Final = 0x2_0000
READ_ONLY: Final = DATA + DATA_SIZE
"""One page that cannot be written; behind it nothing is mapped."""
END: Final = READ_ONLY + 0x1000
MIDDLE: Final = DATA + DATA_SIZE // 2
MASK: Final = (1 << 64) - 1
_EDGES: Final = (
    0,
    1,
    2,
    7,
    8,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    0x7FFF,
    0x8000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
)
_WIDE_EDGES: Final = (*_EDGES, 1 << 32, (1 << 63) - 1, 1 << 63, MASK - 1, MASK, 0xFFFF_FFFF_8000_0000)


@dataclass(frozen=True, slots=True)
class Program:
    """The few instructions of an ISA that the suite writes by name, and the registers that they use.

    ``loop``: add 3 to ``total`` and take 1 from ``count`` until that is 0. ``load``, ``store``, ``add`` (atomic, of
    ``value``) and ``reserve`` (load-reserved, store-conditional) access 8 bytes at ``pointer``.
    """

    count: str
    total: str
    pointer: str
    value: str
    loop: tuple[str, ...]
    load: str
    store: str
    add: str
    reserve: tuple[str, str] | None
    syscall: str
    forever: str
    undecodable: bytes
    stack: str


PROGRAMS: Final = {
    "riscv64": Program(
        count="a0",
        total="a1",
        pointer="a3",
        value="a2",
        loop=("addi a1, a1, 3", "addi a0, a0, -1", "bne a0, zero, -8"),
        load="ld a2, 0(a3)",
        store="sd a2, 0(a3)",
        add="amoadd.d a4, a2, (a3)",
        reserve=("lr.d a4, (a3)", "sc.d a5, a2, (a3)"),
        syscall="ecall",
        forever="jal zero, 0",
        undecodable=bytes(4),
        stack="sp",
    ),
    "aarch64": Program(
        count="x0",
        total="x1",
        pointer="x3",
        value="x2",
        loop=("add x1, x1, #3", "subs x0, x0, #1", "b.ne #-8"),
        load="ldr x2, [x3, #0]",
        store="str x2, [x3, #0]",
        add="ldadd x2, x4, [x3]",
        reserve=("ldxr x4, [x3]", "stxr w5, x2, [x3]"),
        syscall="svc #0",
        forever="b #0",
        undecodable=bytes(4),
        stack="sp",
    ),
    "x86_64": Program(
        count="rax",
        total="rsi",
        pointer="rbx",
        value="rdx",
        loop=("add rsi, 3", "dec rax", "jne -0x7"),
        load="mov rdx, qword ptr [rbx]",
        store="mov qword ptr [rbx], rdx",
        add="lock add qword ptr [rbx], rdx",
        reserve=None,
        syscall="syscall",
        forever="jmp 0",
        undecodable=b"\x06",
        stack="rsp",
    ),
}


def states_differ(isa: Isa, mine: CpuState, theirs: CpuState) -> list[str]:
    """The registers and header words in which two vCPUs differ, one line each."""
    out = [
        f"{name}: {mine.header(name):#x}, expected {theirs.header(name):#x}"
        for name in ("pc", "fp_flags", "fp_rounding", "reservation")
        if mine.header(name) != theirs.header(name)
    ]
    for file in isa.layout.files.values():
        for slot in range(file.slots):
            if slot >= file.count and file.extra[slot - file.count] == "sink":
                continue
            a, b = mine.get(file.name, slot), theirs.get(file.name, slot)
            if a != b:
                name = file.names[slot] if slot < len(file.names) else f"{file.name}[{slot}]"
                out.append(f"{name}: {a:#x}, expected {b:#x}")
    return out


class Machine:
    """An engine, its guest memory with the suite's pages, and one vCPU at the start of the code."""

    def __init__(self, engine: Engine, isa: Isa, memory: GuestMemory) -> None:
        self.engine, self.isa, self.memory = engine, isa, memory
        self.cpu = isa.cpu()
        self.cpu.pc = CODE

    def put(self, code: bytes, at: int = CODE) -> None:
        """Write code as a loader or a debugger does."""
        self.memory.poke(at, code)
        self.engine.invalidate(at, at + len(code))

    def run(self, limit: int = 1_000_000) -> Exit:
        return self.engine.run(self.cpu, self.memory, limit)

    def retired(self, limit: int) -> int:
        """How many instructions the last ``run(limit)`` retired."""
        return limit - self.cpu.header("fuel")


class EngineSuite:
    """See the module. Class attributes scale the random tests."""

    isa_name: ClassVar[str] = "riscv64"
    samples: ClassVar[int] = 6
    """Random encodings of each instruction."""
    blocks: ClassVar[int] = 12
    """Random blocks of code ..."""
    iterations: ClassVar[int] = 40
    """... and how often each of them runs."""
    seed: ClassVar[int] = 1
    cases: ClassVar[Path | None] = None
    """A file of :mod:`vm_core.testing.cases`."""
    coherent_threads: ClassVar[bool] = True
    """Whether two threads may run one engine at the same time."""

    # -- what a subclass gives ----------------------------------------------------------------------------------

    def make_engine(self, isa: Isa, memory: GuestMemory) -> Engine:
        """A new engine. Subclasses must override it."""
        raise NotImplementedError

    # -- parts --------------------------------------------------------------------------------------------------

    @property
    def isa(self) -> Isa:
        return isas.get(self.isa_name)

    @property
    def program(self) -> Program:
        return PROGRAMS[self.isa_name]

    @contextmanager
    def machine(self, *lines: str, reference: bool = False) -> Iterator[Machine]:
        """A machine with these lines of assembly at its start."""
        isa = self.isa
        with GuestMemory(bits=28) as memory:
            memory.map(CODE, 0x4000, Prot.RWX)
            memory.map(DATA, DATA_SIZE, Prot.RW)
            memory.map(READ_ONLY, 0x1000, Prot.READ)
            engine = ReferenceEngine(isa, memory) if reference else self.make_engine(isa, memory)
            try:
                made = Machine(engine, isa, memory)
                if lines:
                    made.put(self.code(*lines))
                yield made
            finally:
                engine.close()

    def code(self, *lines: str) -> bytes:
        return b"".join(self.isa.assemble(line) for line in lines)

    # -- single instructions ------------------------------------------------------------------------------------

    def test_every_instruction_is_as_in_the_reference(self) -> None:
        """Each mnemonic, on random operands and states: registers, memory, pc, exit; accesses at page edges too."""
        isa, rng = self.isa, random.Random(self.seed)
        problems: list[str] = []
        with self.machine() as mine, self.machine(reference=True) as expected:
            for name in isa.instructions:
                for _ in range(self.samples):
                    code = isa.random(rng, [name])
                    insn = isa.decode(code, CODE)
                    if "counter" in insn.template.codes:
                        break
                    self.random_state(rng, expected.cpu)
                    content = rng.randbytes(DATA_SIZE)
                    expected.put(code)
                    self._aim(rng, insn, expected, content)
                    problem = self._same(mine, expected, code, content, 1)
                    if problem:
                        problems.append(f"{code.hex()} {insn.text()}: {problem}")
        assert not problems, "\n".join(problems[:20])

    def test_every_instruction_starts_at_any_alignment_of_its_unit(self) -> None:
        """The same instruction at several addresses; the last one runs into the next page."""
        isa, rng = self.isa, random.Random(self.seed + 1)
        problems: list[str] = []
        with self.machine() as mine, self.machine(reference=True) as expected:
            for name in rng.sample(list(isa.instructions), 20):
                code = isa.random(rng, [name])
                insn = isa.decode(code, CODE)
                if insn.template.codes & {"counter", "load", "store", "probe", "amo"}:
                    continue
                for at in (CODE, CODE + isa.unit, CODE + 0x1000 - isa.unit, CODE + 0x1000 - 2 * isa.unit):
                    self.random_state(rng, expected.cpu)
                    problem = self._same(mine, expected, code, bytes(DATA_SIZE), 1, at)
                    if problem:
                        problems.append(f"{code.hex()} {insn.text()} at {at:#x}: {problem}")
        assert not problems, "\n".join(problems[:20])

    def random_state(self, rng: random.Random, cpu: CpuState) -> None:
        """Random and edge values in all registers."""
        for file in self.isa.layout.files.values():
            for slot in range(file.count):
                if rng.random() < 0.4:
                    cpu.set(file.name, slot, rng.choice(_WIDE_EDGES))
                else:
                    cpu.set(file.name, slot, rng.getrandbits(file.width))
        cpu.header("fp_flags", rng.getrandbits(5))
        cpu.header("fp_rounding", rng.randrange(5))
        cpu.header("reservation", MASK)
        cpu[self.program.stack] = MIDDLE + 16 * rng.randrange(16)
        cpu.pc = CODE

    def _aim(self, rng: random.Random, insn: Decoded, machine: Machine, content: bytes) -> None:
        """Change registers until the instruction's accesses fall into the data pages, most of the time."""
        cells = [
            (file, slot)
            for file, index in insn.template.reads
            if (info := self.isa.layout.files[file]).width == 64
            and (slot := insn.fields[index] if isinstance(index, str) else index) != info.zero
            and slot < info.count + len(info.extra)
        ]
        for _ in range(3):
            found = self._trap(machine, insn, content)
            if found is None or found.cause not in (Cause.LOAD, Cause.STORE, Cause.MISALIGNED):
                return
            goal = MIDDLE + rng.randrange(0x1000)
            if rng.random() < 0.15:
                goal = rng.choice((READ_ONLY, END, DATA)) + rng.randrange(-17, 17)
            if rng.random() < 0.8:
                goal &= -16
            for file, slot in cells:
                old = machine.cpu.get(file, slot)
                machine.cpu.set(file, slot, old + goal - found.address)
                after = self._trap(machine, insn, content)
                if after is None or after.address - goal in range(16):
                    break
                machine.cpu.set(file, slot, old)

    def _trap(self, machine: Machine, insn: Decoded, content: bytes) -> Trap | None:
        machine.memory.poke(DATA, content)
        result = execute(self.isa, insn, machine.cpu.copy(), machine.memory)
        return result if isinstance(result, Trap) else None

    def _same(
        self, mine: Machine, expected: Machine, code: bytes, content: bytes, limit: int, at: int = CODE
    ) -> str:
        """Run both from the state of ``expected``. What differs, or nothing."""
        expected.cpu.pc = at
        mine.cpu = expected.cpu.copy()
        results = []
        for machine in (mine, expected):
            machine.put(code, at)
            machine.memory.poke(DATA, content)
            results.append(machine.run(limit))
        if results[0] != results[1]:
            return f"{results[0]}, expected {results[1]}"
        out = states_differ(self.isa, mine.cpu, expected.cpu)
        if mine.cpu.header("fuel") != expected.cpu.header("fuel"):
            out.append(f"retired {mine.retired(limit)}, expected {expected.retired(limit)}")
        data = slice(DATA, END)
        if mine.memory.view[data] != expected.memory.view[data]:
            where = next(i for i in range(DATA, END) if mine.memory.view[i] != expected.memory.view[i])
            out.append(
                f"[{where:#x}]: {mine.memory.view[where]:#x}, expected {expected.memory.view[where]:#x}"
            )
        return "; ".join(out)

    def test_cases(self) -> None:
        """Each line of the case file, if there is one."""
        if self.cases is None:
            return
        problems = []
        with self.machine() as machine:
            for case in read_cases(self.cases):
                wrong = case.problems(self.isa, machine.engine, machine.memory)
                if wrong:
                    problems.append(f"{case.line}\n    {'; '.join(wrong)}")
        assert not problems, "\n".join(problems)

    # -- blocks -------------------------------------------------------------------------------------------------

    def test_blocks_are_as_in_the_reference(self) -> None:
        """Random blocks in a loop, until it ends or something traps: state, memory, exit and count."""
        rng = random.Random(self.seed + 2)
        problems: list[str] = []
        with self.machine() as mine, self.machine(reference=True) as expected:
            for _ in range(self.blocks):
                code = self._block(rng, rng.randrange(1, 12))
                self.random_state(rng, expected.cpu)
                expected.cpu[self.program.count] = self.iterations
                expected.cpu[self.program.pointer] = MIDDLE
                limit = rng.choice((10_000, 200, 17))
                problem = self._same(mine, expected, code, rng.randbytes(DATA_SIZE), limit)
                if problem:
                    problems.append(f"{code.hex(' ')}: {problem}")
        assert not problems, "\n".join(problems[:5])

    def _block(self, rng: random.Random, length: int) -> bytes:
        """Random instructions that leave the loop's registers alone, then the loop's branch and a system call."""
        isa, program = self.isa, self.program
        out = b""
        cpu = isa.cpu()
        with self.machine(reference=True) as trial:
            while length:
                code = isa.random(rng)
                insn = isa.decode(code, CODE)
                if insn.template.codes & {"counter", "trap", "setpc"}:
                    continue
                for _ in range(2):
                    self.random_state(rng, cpu)
                    cpu[program.pointer] = MIDDLE
                    before = cpu[program.count], cpu[program.pointer]
                    if isinstance(execute(isa, insn, cpu, trial.memory), Trap):
                        break
                    if (cpu[program.count], cpu[program.pointer]) != before:
                        break
                else:
                    out += code
                    length -= 1
        tail = self.code(*program.loop[:2])
        back = -(len(out) + len(tail))
        branch = program.loop[2].replace("-8", str(back)).replace("-0x7", hex(back))
        return out + tail + self.code(branch, program.syscall)

    # -- budget -------------------------------------------------------------------------------------------------

    def test_budget_is_exact(self) -> None:
        """``run`` stops after exactly ``limit`` instructions, wherever that is in a block, and goes on from there."""
        with self.machine(*self.program.loop, self.program.syscall) as machine:
            cpu = machine.cpu
            cpu[self.program.count] = count = 1000
            done = 0
            for limit in (1, 1, 2, 3, 5, 7, 64, 100, 501, 1000, 1, 1):
                assert machine.run(limit) == Budget()
                assert machine.retired(limit) == limit
                done += limit
                assert cpu[self.program.count] == count - (done + 1) // 3
                assert cpu[self.program.total] == (done + 2) // 3 * 3
            rest = 3 * count - done
            assert machine.run(rest) == Budget()
            assert machine.run(1) == Syscall()
            assert (machine.retired(1), cpu[self.program.count], cpu[self.program.total]) == (1, 0, 3 * count)

    def test_retired_counts_the_system_call(self) -> None:
        with self.machine(*self.program.loop, self.program.syscall) as machine:
            machine.cpu[self.program.count] = 10
            assert machine.run(1000) == Syscall()
            assert machine.retired(1000) == 31
            assert machine.engine.stats.retired == 31

    # -- system calls and breakpoints ---------------------------------------------------------------------------

    def test_system_calls_inside_a_run(self) -> None:
        """An engine may do calls itself; the counts, the end and an exception are the same as where it returns."""
        for limit in (100, 2, 1):
            with self.machine(*[self.program.syscall] * 4) as machine:
                size = len(self.code(self.program.syscall))
                seen: list[int] = []

                def call(seen: list[int] = seen, machine: Machine = machine) -> bool:
                    seen.append(machine.cpu.pc)
                    if len(seen) == 4:
                        raise KeyError
                    return len(seen) == 3

                retired, failed = 0, False
                while len(seen) < 4:
                    inside = len(seen)
                    try:
                        exit_ = machine.engine.run(machine.cpu, machine.memory, limit, call)
                    except KeyError:
                        failed = True
                    retired += machine.retired(limit)
                    if failed:
                        break
                    if exit_ == Syscall():
                        assert len(seen) == inside
                        failed = inside == 3
                        if not failed:
                            call()
                        else:
                            break
                    elif exit_ == Interrupted():
                        assert len(seen) == 3
                    else:
                        assert exit_ == Budget()
                assert failed
                assert seen[:3] == [CODE + size, CODE + 2 * size, CODE + 3 * size]
                assert (retired, machine.engine.stats.retired) == (4, 4)

    def test_system_call_leaves_the_pc_behind_it(self) -> None:
        with self.machine(self.program.syscall, self.program.syscall) as machine:
            size = len(self.code(self.program.syscall))
            assert machine.run() == Syscall()
            assert machine.cpu.pc == CODE + size
            assert machine.run() == Syscall()
            assert machine.cpu.pc == CODE + 2 * size

    def test_breakpoints(self) -> None:
        """A breakpoint stops before its instruction, once; running on executes it."""
        with self.machine(*self.program.loop, self.program.syscall) as machine:
            second = CODE + len(self.code(self.program.loop[0]))
            cpu = machine.cpu
            cpu[self.program.count] = 3
            machine.engine.set_breakpoints(frozenset({second}))
            for turn in range(1, 4):
                assert machine.run() == Breakpoint(second)
                assert (cpu.pc, cpu[self.program.total], cpu[self.program.count]) == (
                    second,
                    3 * turn,
                    4 - turn,
                )
            machine.engine.set_breakpoints(frozenset())
            assert machine.run() == Syscall()
            assert cpu[self.program.total] == 9

    def test_breakpoint_at_the_start(self) -> None:
        with self.machine(*self.program.loop, self.program.syscall) as machine:
            machine.cpu[self.program.count] = 2
            machine.engine.set_breakpoints(frozenset({CODE}))
            assert machine.run() == Breakpoint(CODE)
            assert machine.retired(1_000_000) == 0
            assert machine.run() == Breakpoint(CODE)
            assert machine.cpu[self.program.total] == 3

    def test_interrupt_from_another_thread(self) -> None:
        with self.machine(self.program.forever) as machine:
            timer = threading.Timer(0.05, machine.engine.interrupt)
            timer.start()
            try:
                assert machine.run(1 << 40) == Interrupted()
            finally:
                timer.join()
            assert machine.cpu.pc == CODE
            assert machine.run(10) == Budget()

    # -- traps --------------------------------------------------------------------------------------------------

    def _faults(self, line: str, address: int) -> tuple[Exit, list[str], bool]:
        """The exit of one access, which registers changed, and whether memory did."""
        with self.machine(line) as machine:
            self.random_state(random.Random(address), machine.cpu)
            machine.cpu[self.program.pointer] = address
            machine.memory.poke(DATA, bytes(range(256)) * (DATA_SIZE // 256))
            before, content = machine.cpu.copy(), bytes(machine.memory.view[DATA:END])
            result = machine.run(1)
            changed = states_differ(self.isa, machine.cpu, before) if isinstance(result, Trap) else []
            return result, changed, bytes(machine.memory.view[DATA:END]) != content

    def test_loads_at_page_edges(self) -> None:
        """A load that touches a page it may not read traps at the first such byte; nothing changes."""
        for at in range(END - 9, END + 2):
            result, changed, _ = self._faults(self.program.load, at)
            if at + 8 <= END:
                assert result == Budget(), hex(at)
            else:
                assert result == Trap(Cause.LOAD, CODE, max(at, END), Access.READ, mapped=False), hex(at)
            assert not changed

    def test_stores_at_page_edges(self) -> None:
        """So does a store, and no byte of it is written."""
        for at in range(READ_ONLY - 9, READ_ONLY + 2):
            result, changed, written = self._faults(self.program.store, at)
            if at + 8 <= READ_ONLY:
                assert result == Budget(), hex(at)
                assert written
            else:
                wanted = Trap(Cause.STORE, CODE, max(at, READ_ONLY), Access.WRITE, mapped=True)
                assert result == wanted, hex(at)
                assert not changed
                assert not written

    def test_addresses_outside_the_arena(self) -> None:
        """No guest address reaches beyond the arena, whatever its upper bits."""
        for line, cause, access in (
            (self.program.load, Cause.LOAD, Access.READ),
            (self.program.store, Cause.STORE, Access.WRITE),
        ):
            for at in (
                0,
                8,
                1 << 28,
                (1 << 28) - 8,
                1 << 32,
                (1 << 32) + DATA,
                1 << 47,
                1 << 63,
                MASK - 7,
                MASK,
            ):
                result, changed, written = self._faults(line, at)
                assert isinstance(result, Trap)
                assert (result.cause, result.pc, result.access, result.mapped) == (
                    cause,
                    CODE,
                    access,
                    False,
                ), hex(at)
                assert result.address == at
                assert not changed
                assert not written

    def test_accesses_across_pages_work(self) -> None:
        """Both pages accessible: a misaligned access across the boundary is like any other."""
        edge = DATA + 0x1000
        for at in range(edge - 8, edge + 1):
            with self.machine(self.program.store, self.program.load) as machine:
                machine.cpu[self.program.pointer], machine.cpu[self.program.value] = at, 0x1122_3344_5566_7788
                assert machine.run(1) == Budget()
                machine.cpu[self.program.value] = 0
                assert machine.run(1) == Budget()
                assert machine.cpu[self.program.value] == 0x1122_3344_5566_7788
                assert machine.memory.read(at - 1, 10) == bytes.fromhex("00 8877665544332211 00")

    def test_misaligned_atomics_trap(self) -> None:
        for at in range(DATA + 1, DATA + 8):
            result, changed, written = self._faults(self.program.add, at)
            assert result == Trap(Cause.MISALIGNED, CODE, at), hex(at)
            assert not changed
            assert not written

    def test_traps_in_the_middle_of_a_block(self) -> None:
        """What ran before the trap has retired, what follows has not; after a repair it goes on where it stopped."""
        lines = (self.program.loop[0], self.program.load, self.program.loop[0], self.program.syscall)
        with self.machine(*lines) as machine:
            machine.cpu[self.program.pointer] = END
            pc = CODE + len(self.code(lines[0]))
            for _ in range(2):
                assert machine.run(100) == Trap(Cause.LOAD, pc, END, Access.READ, mapped=False)
                assert machine.cpu.pc == pc
                assert machine.cpu[self.program.total] == 3
            assert machine.retired(100) == 0
            machine.memory.map(END, 0x1000, Prot.READ)
            assert machine.run(100) == Syscall()
            assert machine.retired(100) == 3
            assert machine.cpu[self.program.total] == 6

    def test_protection_changes_are_seen_at_once(self) -> None:
        with self.machine(self.program.store) as machine:
            machine.cpu[self.program.pointer] = DATA
            assert machine.run(1) == Budget()
            machine.memory.protect(DATA, 0x1000, Prot.READ)
            machine.cpu.pc = CODE
            assert machine.run(1) == Trap(Cause.STORE, CODE, DATA, Access.WRITE, mapped=True)
            machine.memory.protect(DATA, 0x1000, Prot.RW)
            assert machine.run(1) == Budget()
            machine.memory.unmap(DATA, 0x1000)
            machine.cpu.pc = CODE
            assert machine.run(1) == Trap(Cause.STORE, CODE, DATA, Access.WRITE, mapped=False)

    def test_undecodable_bytes(self) -> None:
        with self.machine(self.program.loop[0]) as machine:
            at = CODE + len(self.code(self.program.loop[0]))
            machine.put(self.program.undecodable, at)
            assert machine.run(10) == Trap(Cause.ILLEGAL, at, at)
            assert machine.cpu.pc == at
            assert machine.retired(10) == 1

    def test_fetch_from_pages_that_cannot_be_executed(self) -> None:
        for at, mapped in (
            (DATA, True),
            (READ_ONLY, True),
            (0, False),
            (END, False),
            ((1 << 28) - 4096, False),
        ):
            with self.machine() as machine:
                machine.cpu.pc = at
                assert machine.run(10) == Trap(Cause.FETCH, at, at, Access.EXEC, mapped=mapped), hex(at)
                assert machine.retired(10) == 0

    def test_fetch_outside_the_arena(self) -> None:
        for at in (1 << 28, 1 << 32, (1 << 32) + CODE, 1 << 63, MASK - 15):
            with self.machine(self.program.syscall) as machine:
                machine.cpu.pc = at
                assert machine.run(10) == Trap(Cause.FETCH, at, at, Access.EXEC, mapped=False), hex(at)

    def test_running_off_the_end_of_the_code(self) -> None:
        """An instruction that ends with its page runs; the next one cannot be fetched."""
        code = self.code(self.program.loop[0])
        with self.machine() as machine:
            end = CODE + 0x4000
            machine.put(code, end - len(code))
            machine.cpu.pc = end - len(code)
            assert machine.run(10) == Trap(Cause.FETCH, end, end, Access.EXEC, mapped=False)
            assert machine.cpu[self.program.total] == 3

    def test_instruction_across_the_end_of_the_code(self) -> None:
        """An instruction half of which cannot be fetched traps at the first byte that is missing."""
        code = self.code(self.program.load)
        with self.machine() as machine:
            end = CODE + 0x4000
            at = end - self.isa.unit
            if len(code) <= self.isa.unit:
                return
            machine.memory.poke(at, code[: self.isa.unit])
            machine.engine.invalidate(at, end)
            machine.cpu.pc = at
            assert machine.run(10) == Trap(Cause.FETCH, at, end, Access.EXEC, mapped=False)
            assert machine.cpu.pc == at

    # -- code that changes --------------------------------------------------------------------------------------

    def test_invalidate(self) -> None:
        """Code that the host replaced and told the engine about is seen, in a loop that had run many times too."""
        with self.machine(*self.program.loop, self.program.syscall) as machine:
            machine.cpu[self.program.count] = self.iterations
            assert machine.run() == Syscall()
            total = machine.cpu[self.program.total]
            other = self.code(self.program.loop[0].replace("3", "5"))
            if len(other) == len(self.code(self.program.loop[0])):
                machine.put(other)
                step = 5
            else:
                step = 3
            machine.cpu.pc = CODE
            machine.cpu[self.program.count] = self.iterations
            assert machine.run() == Syscall()
            assert machine.cpu[self.program.total] - total == step * self.iterations

    def test_synchronize(self) -> None:
        """After ``synchronize``, code written through guest memory is seen."""
        with self.machine(*self.program.loop, self.program.syscall) as machine:
            machine.cpu[self.program.count] = 2
            assert machine.run() == Syscall()
            machine.memory.write(CODE, self.code(self.program.syscall))
            machine.engine.synchronize(machine.memory)
            machine.cpu.pc = CODE
            assert machine.run() == Syscall()
            assert machine.retired(1_000_000) == 1
            # The same of a part of it.
            machine.memory.write(CODE, self.code(self.program.loop[0], self.program.syscall))
            machine.engine.synchronize(machine.memory, CODE, CODE + 4)
            machine.cpu.pc = CODE
            assert machine.run() == Syscall()
            assert machine.retired(1_000_000) == 2

    def test_code_of_a_page_that_was_replaced(self) -> None:
        """Unmapping executable pages is told to the engine by memory's own notification, if it registers one."""
        with self.machine(self.program.syscall) as machine:
            assert machine.run() == Syscall()
            machine.memory.map(CODE, 0x1000, Prot.RWX)
            machine.put(self.code(self.program.loop[0], self.program.syscall))
            machine.cpu.pc = CODE
            assert machine.run() == Syscall()
            assert machine.cpu[self.program.total] == 3

    # -- atomics and threads ------------------------------------------------------------------------------------

    def test_reservation(self) -> None:
        """A store-conditional succeeds once after a load-reserved of its address, and fails without one."""
        if self.program.reserve is None:
            return
        load, store = self.program.reserve
        failed = {"riscv64": "a5", "aarch64": "x5"}[self.isa_name]
        with self.machine(store, load, store, store) as machine:
            machine.cpu[self.program.pointer], machine.cpu[self.program.value] = DATA, 7
            for expected, content in ((1, 0), (None, 0), (0, 7), (1, 7)):
                assert machine.run(1) == Budget()
                assert expected in (None, machine.cpu[failed])
                assert machine.memory.load(DATA, 8) == content

    def test_threads_share_memory_atomically(self) -> None:
        """Two vCPUs that add to one word lose no update."""
        if not self.coherent_threads:
            return
        program = self.program
        tail = self.code(program.add, *program.loop[:2])
        branch = program.loop[2].replace("-8", str(-len(tail))).replace("-0x7", hex(-len(tail)))
        count = 20 * self.iterations
        with self.machine() as machine:
            machine.put(tail + self.code(branch, program.syscall))
            cpus = [machine.cpu, machine.isa.cpu()]
            results: list[Exit] = []
            for cpu in cpus:
                cpu.pc = CODE
                cpu[program.pointer], cpu[program.value], cpu[program.count] = DATA, 1, count
            threads = [
                threading.Thread(
                    target=lambda cpu=cpu: results.append(machine.engine.run(cpu, machine.memory, 1 << 30))
                )
                for cpu in cpus
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert results == [Syscall(), Syscall()]
            assert machine.memory.load(DATA, 8) == 2 * count
