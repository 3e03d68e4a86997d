"""AArch64 state, operands and text. Arm ARM DDI 0487K, sections B1.2, C1.2.4 and J1.

A register field that means SP for 31 is called ``rn_sp`` or ``rd_sp``: the decoder gives the slot of SP for it. Names
that start with ``w`` are 32-bit registers, ``r`` those whose width ``sf`` says (64 bits where there is none).
An instruction is named by its mnemonic, a dot and its encoding class; text and assembly have the mnemonic only.

Not as in the manual: what is CONSTRAINED UNPREDICTABLE does whatever the text of the instruction says.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from vm_core.spec import (
    Bits,
    Codec,
    Decoded,
    Instruction,
    Isa,
    Kind,
    Memory,
    Pc,
    Reg,
    RegisterFile,
    Registers,
    Signed,
    Static,
    Tracer,
    Trap,
    Unsigned,
    bits,
    select,
)

__all__ = ["ISA", "AddWithCarry", "Condition", "Nzcv", "X", "extend_reg", "shift_reg", "width"]

SP: Final = 33
"""The slot of SP in file x: 0 to 30, 31 the zero register, 32 the sink, 33 SP."""

FILES: Final = (
    RegisterFile("x", 32, 64, zero=31, extra=("sink", "sp"), names=(*(f"x{i}" for i in range(31)), "xzr")),
    RegisterFile("v", 32, 128, names=tuple(f"v{i}" for i in range(32))),
    RegisterFile("nzcv", 4, 1, names=("n", "z", "c", "v")),
    RegisterFile("sys", 1, 64, names=("tpidr_el0",)),
)
CONDITIONS: Final = (
    "eq",
    "ne",
    "cs",
    "cc",
    "mi",
    "pl",
    "vs",
    "vc",
    "hi",
    "ls",
    "ge",
    "lt",
    "gt",
    "le",
    "al",
    "nv",
)
SHIFTS: Final = ("lsl", "lsr", "asr", "ror")
EXTENDS: Final = ("uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx")
ARRANGEMENTS: Final = (("8b", "16b"), ("4h", "8h"), ("2s", "4s"), ("1d", "2d"))


@cache
def _bitmasks() -> dict[int, int]:
    """Value -> bits N:immr:imms of every logical immediate: DecodeBitMasks() (J1.3) for all 8192 encodings."""
    out: dict[int, int] = {}
    for encoded in range(1 << 13):
        value = _decode_bitmask(encoded)
        if value is not None:
            out.setdefault(value, encoded)
    return out


def _decode_bitmask(encoded: int) -> int | None:
    n, immr, imms = encoded >> 12, encoded >> 6 & 63, encoded & 63
    length = (n << 6 | (~imms & 63)).bit_length() - 1
    if length < 1:
        return None
    size = 1 << length
    ones, rotation = (imms & (size - 1)) + 1, immr & (size - 1)
    if ones == size:
        return None
    element = (1 << ones) - 1
    element = (element >> rotation | element << (size - rotation)) & ((1 << size) - 1)
    return sum(element << at for at in range(0, 64, size))


def _bitmask(encoded: int) -> int:
    value = _decode_bitmask(encoded)
    if value is None:
        raise ValueError("reserved")
    return value


def _encode_bitmask(value: int) -> int:
    try:
        return _bitmasks()[value]
    except KeyError:
        raise ValueError(f"{value:#x} is no logical immediate") from None


def _encode_shifted(value: int) -> int:
    return value if value < 4096 else 4096 | value >> 12 if not value & 4095 else -1


FIELDS: Final[dict[str, Kind]] = {
    **{
        name: Reg(5)
        for name in ("rd", "rn", "rm", "ra", "rt", "rt2", "rx", "wt", "wt2", "wd", "wn", "wm", "ws")
    },
    **{name: Reg(5) for name in ("vd", "vn", "vm", "qt", "qt2", "dt")},
    **{name: Reg(5, slots={31: SP}) for name in ("rd_sp", "rn_sp")},
    "sf": Static(1),
    "shift": Static(2),
    "option": Static(3),
    "cond": Static(4),
    "hw": Static(2),
    "s": Static(1),
    "q": Static(1),
    "size": Static(2),
    "imm": Signed(),
    "uimm": Unsigned(),
    "imm3": Unsigned(3),
    "imm5": Unsigned(5),
    "imm6": Unsigned(6),
    "imm16": Unsigned(16),
    "immr": Unsigned(6),
    "imms": Unsigned(6),
    "bit": Unsigned(),
    "flags": Unsigned(4),
    # sh:imm12 of add and sub: a 12-bit number, or one shifted left by 12
    "imm12": Unsigned(13, Codec(lambda raw: (raw & 4095) << (12 if raw >> 12 else 0), _encode_shifted)),
    "bitmask": Unsigned(13, Codec(_bitmask, _encode_bitmask)),
}


def width(sf: int) -> int:
    return 64 if sf else 32


class X(Registers):
    """The general registers. A 32-bit write zeroes the upper half (C1.2.4)."""

    def __init__(self, trace: Tracer) -> None:
        super().__init__(trace, "x", 64, zero=31)

    def get(self, index: int | str, size: int) -> Bits:
        value = self[index]
        return value if size == 64 else value[size - 1 : 0]

    def set(self, index: int | str, value: Bits) -> None:
        self[index] = value.zext(64)


class V(Registers):
    """The vector registers. A narrower write zeroes the rest."""

    def __init__(self, trace: Tracer) -> None:
        super().__init__(trace, "v", 128)

    def get(self, index: int | str, size: int) -> Bits:
        value = self[index]
        return value if size == 128 else value[size - 1 : 0]

    def set(self, index: int | str, value: Bits) -> None:
        self[index] = value.zext(128)


class Nzcv:
    """The condition flags, one 1-bit register each."""

    def __init__(self, trace: Tracer) -> None:
        self._file = Registers(trace, "nzcv", 1)

    def get(self) -> tuple[Bits, Bits, Bits, Bits]:
        return self._file[0], self._file[1], self._file[2], self._file[3]

    @property
    def carry(self) -> Bits:
        return self._file[2]

    def set(self, flags: tuple[Bits, Bits, Bits, Bits]) -> None:
        for index, flag in enumerate(flags):
            self._file[index] = flag


def AddWithCarry(x: Bits, y: Bits, carry: Bits | int) -> tuple[Bits, tuple[Bits, Bits, Bits, Bits]]:
    """AddWithCarry() of J1.3: the sum and (N, Z, C, V), without an addition wider than the operands.

    Without a carry in, the sum wrapped where it is below x; with one, where x is at least not(y)."""
    top = x.width - 1
    if isinstance(carry, Bits):
        total = x + y + carry.zext(x.width)
        wrapped = select(carry, (~y).le_u(x), (x + y).lt_u(x))
    else:
        total = x + y + carry if carry else x + y
        wrapped = (~y).le_u(x) if carry else total.lt_u(x)
    return total, (total[top], total == 0, wrapped, ((x ^ total) & (y ^ total))[top])


def Condition(nzcv: Nzcv, cond: int) -> Bits:
    """ConditionHolds() of C1.2.4. ``cond`` is Static."""
    n, z, c, v = nzcv.get()
    if cond >= 14:
        return bits(1, 1)
    holds = (
        lambda: z,
        lambda: c,
        lambda: n,
        lambda: v,
        lambda: c & ~z,
        lambda: n == v,
        lambda: (n == v) & ~z,
    )[cond >> 1]()
    return ~holds if cond & 1 else holds


def shift_reg(value: Bits, shift: int, amount: Bits | int) -> Bits:
    """ShiftReg() of J1.3, for a static ``shift``."""
    if shift == 0:
        return value << amount
    if shift == 1:
        return value >> amount
    return value.sar(amount) if shift == 2 else value.rotate_right(amount)


def extend_reg(x: X, index: str, option: int, amount: Bits | int, size: int) -> Bits:
    """ExtendReg() of J1.3: ``size`` bits."""
    low = min(8 << (option & 3), size)
    value = x.get(index, low)
    return (value.sext(size) if option & 4 else value.zext(size)) << amount


class AArch64(Isa):
    """Fixed 4-byte instructions; text in the syntax of the manual without aliases."""

    def format(self, insn: Instruction, fields: dict[str, int]) -> str:
        text = re.sub(
            r"[A-Za-z_]\w*",
            lambda found: self._written(insn, found[0], fields) if found[0] in fields else found[0],
            insn.syntax,
        )
        mnemonic = insn.name.split(".")[0]
        if "cond" in fields and "cond" not in insn.syntax:
            mnemonic += f".{CONDITIONS[fields['cond']]}"
        # An index that is not scaled has no amount, and "lsl" without one is not written.
        return f"{mnemonic} {text}".rstrip().replace(", lsl #none", "").replace(" #none", "")

    def operands(self, insn: Instruction, rest: str) -> list[tuple[str, str]]:
        if "s" in insn.fields and "#" not in rest:
            rest = rest.replace("]", " #none]" if rest.count(",") == 3 else ", lsl #none]")
        return super().operands(insn, rest)

    def _written(self, insn: Instruction, name: str, fields: dict[str, int]) -> str:
        value = fields[name]
        kind = insn.fields[name]
        if kind.role == "reg":
            if name[0] == "v":
                return f"v{value}.{ARRANGEMENTS[fields.get('size', 0)][fields['q']]}"
            if name[0] in "qd":
                return f"{name[0]}{value}"
            letter = "x" if name[0] == "r" and fields.get("sf", 1) else "w"
            if name == "rx" and fields["option"] & 3 != 3:
                letter = "w"
            if value == SP:
                return "sp" if letter == "x" else "wsp"
            return f"{letter}zr" if value == 31 else f"{letter}{value}"
        if name == "cond":
            return CONDITIONS[value]
        if name == "shift":
            return SHIFTS[value]
        if name == "option":
            return "lsl" if value == 3 and "s" in fields else EXTENDS[value]
        if name == "hw":
            return str(16 * value)
        if name == "s":
            return str(ACCESS_SCALE[insn.name]) if value else "none"
        if name == "bitmask":
            return hex(value if fields["sf"] else value & 0xFFFF_FFFF)
        return str(value)

    def flow(self, decoded: Decoded) -> str | None:
        return {
            "bl": "call",
            "blr": "call",
            "ret": "ret",
            "b": "jump",
            "br": "jump",
            "b.cond": "branch",
            "cbz": "branch",
            "cbnz": "branch",
            "tbz": "branch",
            "tbnz": "branch",
        }.get(decoded.insn.name)

    def assemble(self, text: str) -> bytes:
        """The bytes of one line, in the syntax that :meth:`format` prints. Raises ValueError."""
        mnemonic, _, rest = text.strip().partition(" ")
        mnemonic, _, condition = mnemonic.partition(".")
        problem, matched = f"{self.name} has no instruction {mnemonic!r}", False
        for insn in self.instructions.values():
            if insn.name.split(".")[0] != mnemonic:
                continue
            try:
                pairs = self.operands(insn, rest)
            except ValueError as error:
                problem = problem if matched else str(error)
                continue
            matched = True
            try:
                fields = self._parsed(insn, pairs)
                if condition:
                    fields["cond"] = CONDITIONS.index(condition)
                code = self.encode(insn.name, **fields)
            except ValueError as error:
                problem = str(error)
                continue
            if self.decode(code).text().replace(" ", "") == text.replace(" ", ""):
                return code
        raise ValueError(problem)

    def _parsed(self, insn: Instruction, pairs: list[tuple[str, str]]) -> dict[str, int]:
        fields: dict[str, int] = {}
        for name, text in pairs:
            if insn.fields[name].role == "reg":
                letter, number = text[0], text[1:].partition(".")[0]
                if name[0] == "v":
                    arrangement = text.partition(".")[2]
                    for size, pair in enumerate(ARRANGEMENTS):
                        if arrangement in pair:
                            fields |= {"size": size, "q": pair.index(arrangement)}
                elif name != "rx":
                    fields.setdefault("sf", int(letter in "xs"))
                fields[name] = SP if text in ("sp", "wsp") else 31 if number == "zr" else int(number)
            elif name == "cond":
                fields[name] = CONDITIONS.index(text)
            elif name == "shift":
                fields[name] = SHIFTS.index(text)
            elif name == "option":
                fields[name] = 3 if text == "lsl" else EXTENDS.index(text)
            elif name == "hw":
                fields[name] = int(text, 0) // 16
            elif name == "s":
                if text not in ("none", str(ACCESS_SCALE[insn.name])):
                    raise ValueError(f"{insn.name} scales by {ACCESS_SCALE[insn.name]}, not {text}")
                fields[name] = int(text != "none")
            elif name == "bitmask":
                value = int(text, 0)
                fields[name] = value if fields["sf"] else value << 32 | value
            else:
                fields[name] = int(text, 0)
        return {name: value for name, value in fields.items() if name in insn.fields}


ACCESS_SCALE: dict[str, int] = {}
"""Instruction -> log2 of the bytes that it moves, for the text of a scaled register offset."""

ISA: Final = AArch64(
    "aarch64",
    unit=4,
    files=FILES,
    fields=FIELDS,
    state={
        "x": X,
        "v": V,
        "nzcv": Nzcv,
        "sys": lambda trace: Registers(trace, "sys", 64),
        "mem": Memory,
        "pc": Pc,
        "trap": Trap,
    },
    machine=183,
    texts=tuple(
        f"vm_core.isa.aarch64.{name}"
        for name in ("branch", "dp_imm", "dp_reg", "load_store", "simd", "system")
    ),
)
