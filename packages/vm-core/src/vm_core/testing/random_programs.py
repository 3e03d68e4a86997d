"""Random RISC-V code and random register states, drawn from the instruction patterns themselves.

Code from :func:`random_block` never traps and always ends, whatever the registers hold, as long as ``sp`` and ``s0``
point into memory: every store lies in ``[base - 256, base + 512)`` of one of them, and loads also in the 2 KiB behind
it, where constants for floating point may lie. It never writes ``sp``, ``s0`` or
``tp`` but for loops, which count in ``tp``. It is the same on every correct machine: no cycle counters, no system
calls, no store-conditional whose success the manual leaves open.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from vm_core.spec.isa import Instruction, Isa
from vm_core.spec.template import Template
from vm_core.state import CpuState

__all__ = ["BASES", "POOL", "WINDOW", "compare", "random_block", "random_state", "random_value"]

BASES: Final = (2, 8)
"""The x registers that hold addresses: sp and s0."""
WINDOW: Final = (-256, 512)
"""What is read and written, in bytes relative to a base register."""
POOL: Final = range(1200, 2040, 8)
"""Where numbers are read from, relative to sp, but never written."""
_COUNTER: Final = 4
_RESERVED: Final = frozenset({*BASES, _COUNTER})
_MEMORY: Final = frozenset({"load", "store", "amo", "load_reserved", "store_conditional"})
_CONTROL: Final = frozenset({"setpc", "trap", "counter", "sync_fetch"})

# -- values -------------------------------------------------------------------------------------------------------

_INTEGERS: Final = (
    0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF,
    0x1_0000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, 0x8000_0000_0000_0001, 0xFFFF_FFFF_0000_0000,
    0xFFFF_FFFF_7FFF_FFFF, 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_FFFF_FFFE, 0xFFFF_FFFF_FFFF_FFFF, 0x5555_5555_5555_5555,
    0x0102_0408_1020_4080, 0x00FF_0000_FF00_FF01,
)  # fmt: skip
_SINGLES: Final = (
    0, 1, 0x007F_FFFF, 0x0080_0000, 0x0080_0001, 0x3F00_0000, 0x3F7F_FFFF, 0x3F80_0000, 0x3F80_0001, 0x3FC0_0000,
    0x4020_0000, 0x4B00_0000, 0x4B7F_FFFF, 0x4EFF_FFFF, 0x4F00_0000, 0x4F7F_FFFF, 0x4F80_0000, 0x5EFF_FFFF, 0x5F00_0000,
    0x5F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FC0_0000, 0x7FC0_1234, 0x7FFF_FFFF,
)  # fmt: skip
_DOUBLES: Final = (
    0, 1, 0x000F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x0010_0000_0000_0001, 0x3690_0000_0000_0000,
    0x3810_0000_0000_0000, 0x380F_FFFF_F000_0000, 0x3FE0_0000_0000_0000, 0x3FEF_FFFF_FFFF_FFFF, 0x3FF0_0000_0000_0000,
    0x3FF0_0000_0000_0001, 0x3FF0_0000_1000_0000, 0x3FF8_0000_0000_0000, 0x4004_0000_0000_0000, 0x41DF_FFFF_FFC0_0000,
    0x41E0_0000_0000_0000, 0x41EF_FFFF_FFE0_0000, 0x4330_0000_0000_0000, 0x43E0_0000_0000_0000, 0x43F0_0000_0000_0000,
    0x47EF_FFFF_E000_0000, 0x47EF_FFFF_F000_0000, 0x7FEF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0001,
    0x7FF8_0000_0000_0000, 0x7FF8_0000_0000_1234,
)  # fmt: skip


def random_value(rng: random.Random) -> int:
    """A 64-bit integer: an edge, near one, of random length, or any."""
    match rng.randrange(4):
        case 0:
            return rng.choice(_INTEGERS)
        case 1:
            return rng.choice(_INTEGERS) + rng.randrange(-3, 4) & (1 << 64) - 1
        case 2:
            value = rng.getrandbits(rng.randrange(1, 65))
            return value if rng.getrandbits(1) else -value & (1 << 64) - 1
    return rng.getrandbits(64)


def random_float(rng: random.Random, *, boxed: bool = False) -> int:
    """A 64-bit pattern for a floating-point register: a double, a NaN-boxed single, or (unless ``boxed``, which
    gives only boxed singles) any bits."""
    kind = rng.randrange(8)
    if boxed or kind < 3:
        return 0xFFFF_FFFF << 32 | _number(rng, 8, 23, _SINGLES)
    return _number(rng, 11, 52, _DOUBLES) if kind < 7 else rng.getrandbits(64)


def _number(rng: random.Random, exponent: int, fraction: int, edges: tuple[int, ...]) -> int:
    """An edge, or a number with an exponent around 0, around half the smallest (whose products underflow), around
    half the largest, or the smallest or largest itself."""
    sign = rng.getrandbits(1) << (exponent + fraction)
    if rng.randrange(3) == 0:
        return rng.choice(edges) | sign
    most = (1 << exponent) - 1
    around = rng.choice((most // 2, most // 2, most // 2, most // 4, most * 3 // 4, 20, most - 20))
    field = min(max(around + rng.randrange(-fraction - 2, fraction + 3), 0), most - 1)
    # Few significant bits make exact results and ties.
    bits = rng.getrandbits(fraction) & (-1 << rng.choice((0, 0, fraction // 2, fraction - 3)))
    return sign | field << fraction | bits


def random_state(isa: Isa, rng: random.Random, cpu: CpuState) -> None:
    """Fill every register with an interesting value. Flags and a valid rounding mode too; the pc is left alone."""
    for file in isa.layout.files.values():
        for slot in range(file.count):
            cpu.set(file.name, slot, random_float(rng) if file.name == "f" else random_value(rng))
    cpu.header("fp_flags", rng.getrandbits(5))
    cpu.header("fp_rounding", rng.randrange(5))


def compare(a: CpuState, b: CpuState) -> list[str]:
    """What differs between two vCPUs: one ``name: 0x1 != 0x2`` for each register; empty if nothing does."""
    one, two = a.snapshot(), b.snapshot()
    for name in ("fp_flags", "fp_rounding"):
        one[name], two[name] = a.header(name), b.header(name)
    return [f"{name}: {one[name]:#x} != {two[name]:#x}" for name in one if one[name] != two[name]]


# -- code ---------------------------------------------------------------------------------------------------------


def random_block(
    isa: Isa, rng: random.Random, n: int, *, among: Iterable[str] | None = None, control: bool = True
) -> bytes:
    """Code of about ``n`` instructions, drawn from the mnemonics ``among`` (default: all that qualify).

    With ``control`` it has forward branches, calls and loops (so it executes more than ``n`` instructions); without,
    it is a straight line. Execution enters at the first byte and leaves behind the last.
    """
    return _Writer(isa, rng, among, control).items(n, _RESERVED)


class _Writer:
    def __init__(self, isa: Isa, rng: random.Random, among: Iterable[str] | None, control: bool) -> None:
        if isa.name != "riscv64":
            raise ValueError(f"no generator of {isa.name} code")
        self.isa, self.rng, self.control = isa, rng, control
        wanted = set(isa.instructions if among is None else among)
        plain = [i for i in isa.instructions.values() if i.name in wanted and _qualifies(i)]
        if not plain:
            raise ValueError("no instruction qualifies")
        self.plain = plain
        self.atomics = [size for size in "wd" if {f"lr.{size}", f"sc.{size}"} <= wanted]
        self.loads = "fld" in wanted
        self.floats = {"csrrw", "csrrwi"} <= wanted
        self.shapes: list[Callable[[frozenset[int]], bytes]] = (
            [self.branch, self.loop, self.call] if control else []
        )

    def items(self, n: int, reserved: frozenset[int]) -> bytes:
        code = b""
        while n > 0:
            pick = self.rng.random()
            if pick < 0.08 and self.shapes and n > 4:
                code += self.rng.choice(self.shapes)(reserved)
                n -= 6
            elif pick < 0.10 and self.atomics:
                code += self.atomic(reserved)
                n -= 3
            elif pick < 0.11 and self.floats:
                code += self.fcsr(reserved)
                n -= 2
            else:
                one = self.single(reserved)
                code += self.fresh(one) + one
                n -= 1
                if self.floats and self.rng.random() < 0.3 and self._accrues(one):
                    # Sticky flags hide those that come after: take and clear them.
                    code += self.isa.encode("csrrwi", rd=self.register(reserved), uimm=0, csr=1)
                    n -= 1
        return code

    def fresh(self, code: bytes) -> bytes:
        """Sometimes: load a number into a source of a floating-point instruction. Else all soon are NaN."""
        if not self.loads or self.rng.random() < 0.6:
            return b""
        decoded = self.isa.decode(code)
        sources = [index for file, index in decoded.template.reads if file == "f" and isinstance(index, str)]
        if not sources:
            return b""
        slot = decoded.fields[self.rng.choice(sources)]
        return self.isa.encode("fld", rd=slot, rs1=BASES[0], imm=self.rng.choice(POOL))

    def _accrues(self, code: bytes) -> bool:
        """Whether it may raise floating-point exceptions."""
        return any(op.startswith("fp.") for op in self.isa.decode(code).template.codes)

    def register(self, reserved: frozenset[int]) -> int:
        """A register that may be written."""
        while (found := self.rng.randrange(1, 32)) in reserved:
            pass
        return found

    def source(self) -> int:
        return self.rng.randrange(32)

    def single(self, reserved: frozenset[int]) -> bytes:
        rng = self.rng
        while True:
            insn = rng.choice(self.plain)
            target = insn.expands[0] if insn.expands else insn
            memory = _touches_memory(target)
            fields: dict[str, int] = {}
            for name, kind in insn.fields.items():
                size = insn.pattern.sizes[name]
                low = min(part.to for part in insn.pattern.parts[name])
                value = (rng.getrandbits(size - low) << low) + kind.base
                if kind.role == "signed":
                    value -= value >> (size - 1) << size
                fields[name] = value
            if memory:
                for name in ("rs1", "rs1c"):
                    if name in fields:
                        fields[name] = rng.choice(BASES) if name == "rs1" else BASES[1]
                if "imm" in fields:
                    fields["imm"] = rng.randrange(WINDOW[0], 241)
            if "csr" in fields:
                fields["csr"] = rng.choice((1, 2, 3))
                if not self._csr_is_safe(insn.name, fields):
                    continue
            if _writes_x(target) and reserved & {fields[name] for name in ("rd", "rdc") if name in fields}:
                continue
            try:
                return self.isa.encode(insn.name, **fields)
            except ValueError:
                continue

    def _csr_is_safe(self, name: str, fields: dict[str, int]) -> bool:
        """No write may leave an invalid rounding mode behind: then a later instruction would be illegal."""
        if fields["csr"] == 1:
            return True
        if name == "csrrwi":
            fields["uimm"] = self.rng.randrange(5) if fields["csr"] == 2 else fields["uimm"]
            return True
        if name in ("csrrs", "csrrc"):
            fields["rs1"] = 0
            return True
        if name in ("csrrsi", "csrrci"):
            fields["uimm"] = fields["uimm"] & 0x1F if fields["csr"] == 3 else 0
            return True
        return False

    def fcsr(self, reserved: frozenset[int]) -> bytes:
        """A whole valid fcsr."""
        through = self.register(reserved)
        value = self.rng.randrange(5) << 5 | self.rng.getrandbits(5)
        csr = self.rng.choice((2, 3))
        return self.isa.encode(
            "addi", rd=through, rs1=0, imm=value if csr == 3 else value >> 5
        ) + self.isa.encode("csrrw", rd=self.register(reserved), rs1=through, csr=csr)

    def atomic(self, reserved: frozenset[int]) -> bytes:
        """Load-reserved, at most one register instruction, store-conditional of the same size and address."""
        size, base = self.rng.choice(self.atomics), self.rng.choice(BASES)
        bits = {"aq": self.rng.getrandbits(1), "rl": self.rng.getrandbits(1)}
        between = self.isa.encode(
            "xori", rd=self.register(reserved), rs1=self.source(), imm=self.rng.randrange(-9, 9)
        )
        return (
            self.isa.encode(f"lr.{size}", rd=self.register(reserved), rs1=base, **bits)
            + (between if self.rng.getrandbits(1) else b"")
            + self.isa.encode(f"sc.{size}", rd=self.register(reserved), rs1=base, rs2=self.source(), **bits)
        )

    # -- control flow -------------------------------------------------------------------------------------------

    def branch(self, reserved: frozenset[int]) -> bytes:
        """A jump forward over a few instructions, conditional or not."""
        inner = self.items(self.rng.randrange(1, 6), reserved)
        match self.rng.randrange(6):
            case 0:
                return self.isa.encode("c.j", imm=2 + len(inner)) + inner
            case 1:
                name = self.rng.choice(("c.beqz", "c.bnez"))
                if 2 + len(inner) < 256:
                    return self.isa.encode(name, rs1c=self.rng.randrange(8, 16), imm=2 + len(inner)) + inner
            case 2:
                return self.isa.encode("jal", rd=self.register(reserved), imm=4 + len(inner)) + inner
            case 3:
                through = self.register(reserved)
                return (
                    self.isa.encode("auipc", rd=through, imm=0)
                    + self.isa.encode("jalr", rd=self.register(reserved), rs1=through, imm=8 + len(inner))
                    + inner
                )
        name = self.rng.choice(("beq", "bne", "blt", "bge", "bltu", "bgeu"))
        return self.isa.encode(name, rs1=self.source(), rs2=self.source(), imm=4 + len(inner)) + inner

    def loop(self, reserved: frozenset[int]) -> bytes:
        """A counted loop. Its counter is the one register for that, so loops do not nest."""
        times = self.rng.randrange(1, 24)
        shapes, self.shapes = self.shapes, [self.branch]
        body = self.items(self.rng.randrange(1, 10), reserved)
        self.shapes = shapes
        step = self.isa.encode("addi", rd=_COUNTER, rs1=_COUNTER, imm=-1)
        back = self.isa.encode("bne", rs1=_COUNTER, rs2=0, imm=-len(body) - len(step))
        return self.isa.encode("addi", rd=_COUNTER, rs1=0, imm=times) + body + step + back

    def call(self, reserved: frozenset[int]) -> bytes:
        """A call of a function that lies before it, by ra or t0."""
        link = self.rng.choice((1, 5))
        shapes, self.shapes = self.shapes, [self.branch]
        body = self.items(self.rng.randrange(1, 6), reserved | {link})
        self.shapes = shapes
        ret = (
            self.isa.encode("c.jr", rs1=link)
            if self.rng.getrandbits(1)
            else self.isa.encode("jalr", rd=0, rs1=link)
        )
        function = body + ret
        return (
            self.isa.encode("jal", rd=0, imm=4 + len(function))
            + function
            + self.isa.encode("jal", rd=link, imm=-len(function))
        )


def _template(insn: Instruction) -> Template:
    """One of the instruction's templates: for what is asked here, all are alike."""
    return insn.template(next(iter(insn.isa.variants(insn))))


def _touches_memory(insn: Instruction) -> bool:
    return bool(_template(insn).codes & _MEMORY)


def _qualifies(insn: Instruction) -> bool:
    """Whether it may stand anywhere in a straight line. Load-reserved and store-conditional come only in pairs."""
    codes = _template(insn.expands[0] if insn.expands else insn).codes
    fixed = insn.expands[1] if insn.expands else {}
    if codes & (_CONTROL | {"load_reserved", "store_conditional"}):
        return False
    return fixed.get("rd") not in _RESERVED


def _writes_x(target: Instruction) -> bool:
    """Whether the destination is an x register."""
    return ("x", "rd") in _template(target).writes
