"""A batch of random code as one static Linux program, for any RV64 machine: our engines, qemu-riscv64, real silicon.

The program takes (block, state) pairs from a table: it loads every register from the state, jumps to the block, stores
every register and fcsr behind the scratch memory that the blocks use, and writes scratch and registers to standard
output. So two machines agree exactly if their outputs are equal, and the first byte that differs names the pair.
Built by our own assembler and ELF writer: no compiler is needed.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

from vm_core.engine import Budget, Engine, Interrupted, Syscall
from vm_core.execute import ReferenceEngine
from vm_core.isa import get
from vm_core.memory import GuestMemory, Prot
from vm_core.spec.isa import Isa
from vm_core.testing.random_programs import BASES, POOL, WINDOW, random_block, random_float, random_state

__all__ = ["QEMU_DISAGREES", "Batch", "EngineFactory", "Mismatch", "differential", "qemu"]

EngineFactory = Callable[[Isa, GuestMemory], Engine]
"""What makes an engine for a guest memory."""

_CODE: Final = 0x10000
_DATA: Final = 0x200_0000
_BASE: Final = _DATA + 0x1000
_SECOND: Final = 32
"""s0 is this much above sp, so that accesses through both overlap."""
_TABLE: Final = _DATA + 0x2000
_DUMP: Final = WINDOW[1]
_WORDS: Final = 31 + 32 + 1
_RECORD: Final = WINDOW[1] - WINDOW[0] + _WORDS * 8
_ENTRY: Final = _WORDS * 8
_STDOUT, _WRITE, _EXIT = 1, 64, 93


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first pair whose result differs: its index, what differs, and the block's disassembly."""

    index: int
    differences: tuple[str, ...]
    listing: str

    def __str__(self) -> str:
        return f"pair {self.index}: {'; '.join(self.differences)}\n{self.listing}"


class Batch:
    """``pairs`` of (index into ``blocks``, register state as made by :meth:`state`)."""

    def __init__(self, blocks: Sequence[bytes], pairs: Sequence[tuple[int, bytes]]) -> None:
        self.isa = get("riscv64")
        self.blocks, self.pairs = blocks, pairs
        self.addresses: list[int] = []
        self.code = self._code()
        self.data = self._data()

    @classmethod
    def random(
        cls, seed: int, *, blocks: int, length: int, rounds: int = 1, among: Iterable[str] | None = None
    ) -> Batch:
        """``blocks`` blocks of about ``length`` instructions, each run ``rounds`` times from another state."""
        isa, rng = get("riscv64"), Random(seed)
        names = None if among is None else list(among)
        made = [random_block(isa, rng, length, among=names) for _ in range(blocks)]
        return cls(made, [(at, cls.state(isa, rng)) for _ in range(rounds) for at in range(blocks)])

    @staticmethod
    def state(isa: Isa, rng: Random) -> bytes:
        """A random register state: fcsr, f0 to f31, x1 to x31."""
        cpu = isa.cpu()
        random_state(isa, rng, cpu)
        cpu["sp"], cpu["s0"] = _BASE, _BASE + _SECOND
        return struct.pack(
            f"<{_WORDS}Q",
            cpu.header("fp_rounding") << 5 | cpu.header("fp_flags"),
            *[cpu.get("f", i) for i in range(32)],
            *[cpu.get("x", i) for i in range(1, 32)],
        )

    # -- the program --------------------------------------------------------------------------------------------

    def _assemble(self, lines: Iterable[str]) -> bytes:
        return b"".join(self.isa.assemble(line) for line in lines)

    def _code(self) -> bytes:
        """The driver, then the blocks. x5 is t0, x31 t6, x2 sp, x4 tp."""
        load = ["lui t0, " + hex(_DATA >> 12), "ld t1, 0(t0)", "ld t2, 8(t0)"]
        take = [
            f"addi s1, t1, {_ENTRY}",
            "sd s1, 0(t0)",
            "addi t6, t1, 0",
            "ld t0, 0(t6)",
            "csrrw zero, fcsr, t0",
        ]
        take += [f"fld f{i}, {8 + 8 * i}(t6)" for i in range(32)]
        take += [f"ld x{i}, {8 * 33 + 8 * (i - 1)}(t6)" for i in range(1, 32)]
        # Block addresses are a table of their own, so that tp is free to carry one there.
        take.append("jalr zero, 0(tp)")
        dump = [f"sd x{i}, {_DUMP + 8 * (i - 1)}(sp)" for i in range(1, 32)]
        dump += [f"fsd f{i}, {_DUMP + 8 * (31 + i)}(sp)" for i in range(32)]
        dump += ["csrrs t0, fcsr, zero", f"sd t0, {_DUMP + 8 * 63}(sp)"]
        dump += [f"addi a0, zero, {_STDOUT}", f"addi a1, sp, {WINDOW[0]}", f"addi a2, zero, {_RECORD}"]
        dump += [f"addi a7, zero, {_WRITE}", "ecall"]
        done = ["addi a0, zero, 0", f"addi a7, zero, {_EXIT}", "ecall"]
        size = 4 * (len(load) + 1 + len(take) + len(dump) + 1)
        driver = [*load, f"beq t1, t2, {size - 4 * len(load)}", *take, *dump, f"jal zero, {4 - size}", *done]
        out = self._assemble(driver)
        dump_at = _CODE + 4 * (len(load) + 1 + len(take))
        for block in self.blocks:
            self.addresses.append(_CODE + len(out))
            out += block
            distance = dump_at - (_CODE + len(out))
            low = ((distance + 0x800) & 0xFFF) - 0x800
            out += self.isa.encode("auipc", rd=4, imm=distance - low) + self.isa.encode(
                "jalr", rd=0, rs1=4, imm=low
            )
        return out

    def _data(self) -> bytes:
        table = bytearray()
        for block, state in self.pairs:
            at = 8 * 33 + 8 * 3  # tp: the block's address
            table += state[:at] + struct.pack("<Q", self.addresses[block]) + state[at + 8 :]
        head = struct.pack("<QQ", _TABLE, _TABLE + len(table)).ljust(_BASE + WINDOW[0] - _DATA, b"\0")
        rng = Random(len(table))
        scratch = b"".join(struct.pack("<Q", random_float(rng)) for _ in range(WINDOW[0], WINDOW[1], 8))
        pool = b"".join(struct.pack("<Q", random_float(rng)) for _ in POOL)
        data = (head + scratch).ljust(_BASE + POOL.start - _DATA, b"\0") + pool
        return data.ljust(_TABLE - _DATA, b"\0") + bytes(table)

    def elf(self) -> bytes:
        """The program as a static RV64 ELF executable: one segment of code, one of data."""
        header = 64 + 2 * 56
        code_at = 0x1000
        data_at = (code_at + len(self.code) + 0xFFF) & -0x1000
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        # e_flags: RVC, double-float ABI.
        out = ident + struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, _CODE, 64, 0, 5, 64, 56, 2, 0, 0, 0)
        for flags, offset, address, size in (
            (5, code_at, _CODE, len(self.code)),
            (6, data_at, _DATA, len(self.data)),
        ):
            out += struct.pack("<IIQQQQQQ", 1, flags, offset, address, address, size, size, 0x1000)
        assert len(out) == header
        return (out.ljust(code_at, b"\0") + self.code).ljust(data_at, b"\0") + self.data

    # -- running it ---------------------------------------------------------------------------------------------

    def run(
        self, factory: EngineFactory, *, limit: int = 1 << 40, slice_: int = 1 << 30
    ) -> tuple[bytes, int]:
        """What the program writes on one of our engines, and how many instructions it retired. It is run in calls of
        at most ``slice_`` instructions. Raises AssertionError where it traps."""
        with GuestMemory(bits=32) as memory:
            for address, content, prot in ((_CODE, self.code, Prot.RX), (_DATA, self.data, Prot.RW)):
                memory.map(address, (len(content) + 0xFFF) & -0x1000, prot)
                memory.poke(address, content)
            engine = factory(self.isa, memory)
            cpu = self.isa.cpu()
            cpu.pc = _CODE
            out = bytearray()
            retired = 0
            try:
                while retired < limit:
                    allowed = min(slice_, limit - retired)
                    result = engine.run(cpu, memory, allowed)
                    used = allowed - cpu.header("fuel")
                    retired += used
                    match result:
                        case Syscall() if cpu["a7"] == _WRITE:
                            out += memory.read(cpu["a1"], cpu["a2"])
                            cpu["a0"] = cpu["a2"]
                        case Syscall() if cpu["a7"] == _EXIT:
                            break
                        case Budget():
                            assert used == allowed, f"Budget after {used} instructions of {allowed}"
                        case Interrupted():
                            continue
                        case _:
                            raise AssertionError(f"{result} at {cpu.pc:#x} in pair {len(out) // _RECORD}")
            finally:
                engine.close()
            return bytes(out), retired

    def run_command(self, command: Sequence[str], *, timeout: float = 120) -> bytes:
        """What the program writes under another emulator: ``command`` with the program's path added."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "batch"
            path.write_bytes(self.elf())
            path.chmod(0o755)
            return subprocess.run(
                [*command, str(path)], stdout=subprocess.PIPE, timeout=timeout, check=False
            ).stdout

    # -- explaining it ------------------------------------------------------------------------------------------

    def compare(self, ours: bytes, theirs: bytes) -> Mismatch | None:
        """The first pair that differs between two outputs."""
        whole = len(self.pairs) * _RECORD
        if ours == theirs and len(ours) == whole:
            return None
        at = next(
            (i for i in range(0, whole, _RECORD) if ours[i : i + _RECORD] != theirs[i : i + _RECORD]), 0
        )
        index = at // _RECORD
        one, two = ours[at : at + _RECORD], theirs[at : at + _RECORD]
        if len(one) != _RECORD or len(two) != _RECORD:
            differences = [f"one ended here: {len(ours)} and {len(theirs)} of {whole} bytes"]
        else:
            split = WINDOW[1] - WINDOW[0]
            differences = [
                f"memory sp{i + WINDOW[0]:+d}: {one[i : i + 8].hex()} != {two[i : i + 8].hex()}"
                for i in range(0, split, 8)
                if one[i : i + 8] != two[i : i + 8]
            ]
            names = [*self.isa.layout.files["x"].names[1:], *self.isa.layout.files["f"].names, "fcsr"]
            pairs = zip(
                struct.unpack(f"<{_WORDS}Q", one[split:]),
                struct.unpack(f"<{_WORDS}Q", two[split:]),
                strict=True,
            )
            differences += [
                f"{n}: {a:#x} != {b:#x}" for n, (a, b) in zip(names, pairs, strict=True) if a != b
            ]
        return Mismatch(index, tuple(differences), self.listing(self.pairs[index][0]))

    def listing(self, block: int) -> str:
        """The disassembly of a block."""
        lines, at, code = [], self.addresses[block], self.blocks[block]
        while code:
            insn = self.isa.decode(code, at)
            lines.append(f"{at:#x}: {insn.text()}")
            code, at = code[insn.length :], at + insn.length
        return "\n".join(lines)

    def narrow(
        self, index: int, ours: Callable[[Batch], bytes], theirs: Callable[[Batch], bytes]
    ) -> Mismatch | None:
        """The mismatch of pair ``index`` from the shortest prefix of its block, followed by nops, that still shows
        one."""
        block, state = self.pairs[index]
        code, at = self.blocks[block], 0
        while at < len(code):
            at += self.isa.decode(code[at:]).length
            prefix = Batch([code[:at] + self.isa.encode("c.nop") * ((len(code) - at) // 2)], [(0, state)])
            if found := prefix.compare(ours(prefix), theirs(prefix)):
                return found
        return None


# -- against qemu -----------------------------------------------------------------------------------------------------

QEMU_DISAGREES: Final = frozenset({
    # qemu 7.2 loses the stop bit of ctzw behind a left shift: slli a0, a1, 47; ctzw a0, a0 gives 47, not 32.
    "ctzw",
})  # fmt: skip


@cache
def qemu() -> tuple[str, ...]:
    """The command that runs a batch in qemu-riscv64; empty where there is none that knows Zba, Zbb and Zbs."""
    command = ("qemu-riscv64", "-cpu", "rv64,zba=true,zbb=true,zbs=true")
    if shutil.which(command[0]) is None:
        return ()
    isa = get("riscv64")
    code = b"".join(map(isa.assemble, ("sh1add a0, a1, a2", "clz a3, a4", "bext a5, a6, a7")))
    probe = Batch([code], [(0, Batch.state(isa, Random(1)))])
    try:
        found = probe.compare(probe.run_command(command), probe.run(ReferenceEngine)[0])
    except (OSError, subprocess.SubprocessError):
        return ()
    return command if found is None else ()


def differential(factory: EngineFactory, *, seed: int, count: int, rounds: int = 1) -> Mismatch | None:
    """Run random programs that retire at least ``count`` instructions, each block ``rounds`` times, on an engine and in
    qemu-riscv64 (where there is none, in the reference executor). Returns the first difference, made small."""
    among = [name for name in get("riscv64").instructions if name not in QEMU_DISAGREES]
    # A pair retires about 280 instructions: 60 written ones, repeated by loops, and 150 that load and store the state.
    batch = Batch.random(seed, blocks=max(count // (250 * rounds), 1), length=60, rounds=rounds, among=among)

    def ours(what: Batch) -> bytes:
        return what.run(factory)[0]

    def theirs(what: Batch) -> bytes:
        return what.run_command(qemu()) if qemu() else what.run(ReferenceEngine)[0]

    out, retired = batch.run(factory)
    assert retired >= count, f"{retired} instructions of {count}"
    found = batch.compare(out, theirs(batch))
    return found and (batch.narrow(found.index, ours, theirs) or found)


assert BASES == (2, 8)
