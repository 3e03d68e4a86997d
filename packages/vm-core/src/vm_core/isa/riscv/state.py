"""RV64 state, field kinds and assembly conventions. RISC-V Unprivileged ISA 20240411, chapters 1, 2, 7 and 20."""

from __future__ import annotations

from collections.abc import Iterable

from vm_core.hints import Final
from vm_core.spec import (
    Bits,
    Decoded,
    Instruction,
    Isa,
    Memory,
    Pc,
    Reg,
    RegisterFile,
    Registers,
    Signed,
    Static,
    Strongest,
    Tracer,
    Trap,
    Unsigned,
    bits,
    concat,
    fp,
    select,
)

__all__ = ["CSR_NUMBERS", "READ_ONLY", "Csr", "FloatRegisters", "FloatView", "RiscV", "rv"]

X_NAMES: Final = (
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4",
    "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
    "t5", "t6",
)  # fmt: skip
F_NAMES: Final = (
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2",
    "fa3", "fa4", "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9",
    "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
)  # fmt: skip
LINK_REGISTERS: Final = (1, 5)
"""ra and t0: the calling convention's link registers, which return-address prediction goes by (section 2.5.1)."""

CSR_NUMBERS: Final = {"fflags": 1, "frm": 2, "fcsr": 3, "cycle": 0xC00, "time": 0xC01, "instret": 0xC02}
_CSR_NAMES: Final = {number: name for name, number in CSR_NUMBERS.items()}
READ_ONLY: Final = 0xC00
"""CSRs from this number on cannot be written (section 7.1)."""

ROUNDING_NAMES: Final = ("rne", "rtz", "rdn", "rup", "rmm", "", "", "dyn")
_UPPER: Final = frozenset({"lui", "auipc", "c.lui"})
_EXACT: Final = frozenset({"fcvt.d.w", "fcvt.d.wu", "fcvt.d.s"})
"""Conversions that never round: assemblers write 0, not 7, where no rounding mode is given."""
_HINT: Final = "c.nop"


class FloatView:
    """The f registers as numbers of ``fmt`` bits. A narrow number is NaN-boxed: all bits above it are 1; a register
    that is not reads as the canonical NaN (section 21.2)."""

    def __init__(self, trace: Tracer, fmt: int) -> None:
        self._f = Registers(trace, "f", 64)
        self.fmt = fmt

    def __getitem__(self, index: int | str) -> Bits:
        whole = self._f[index]
        if self.fmt == fp.F64:
            return whole
        boxed = whole[63:32] == 0xFFFF_FFFF
        return select(boxed, whole[31:0], bits(fp.canonical_nan(fp.F32), 32))

    def __setitem__(self, index: int | str, value: Bits) -> None:
        self._f[index] = value if self.fmt == fp.F64 else concat(bits(0xFFFF_FFFF, 32), value)


class FloatRegisters:
    """``f.s[rs1]``, ``f.d[rs1]``; ``f.of("fadd.s")`` is the view that a mnemonic's suffix names."""

    def __init__(self, trace: Tracer) -> None:
        self.s, self.d = FloatView(trace, fp.F32), FloatView(trace, fp.F64)

    def of(self, mnemonic: str) -> FloatView:
        return {"s": self.s, "d": self.d}[mnemonic.rpartition(".")[2]]


class Csr:
    """Control and status registers of user mode, by number."""

    def __init__(self, trace: Tracer) -> None:
        self._trace = trace

    def read(self, number: int) -> Bits:
        match _CSR_NAMES[number]:
            case "fflags":
                return fp.get_flags()
            case "frm":
                return fp.get_rounding()
            case "fcsr":
                return fp.get_rounding() << 5 | fp.get_flags()
            case counter:
                return self._trace.effect("counter", 64, (), counter)

    def write(self, number: int, value: Bits) -> None:
        """Bits that a register does not have are ignored."""
        match _CSR_NAMES[number]:
            case "fflags":
                fp.set_flags(value & 0x1F)
            case "frm":
                fp.set_rounding(value & 7)
            case "fcsr":
                fp.set_flags(value & 0x1F)
                fp.set_rounding(value >> 5 & 7)


class RiscV(Isa):
    """RV64GC with Zba, Zbb and Zbs: 16- and 32-bit encodings, told apart by the low two bits (section 1.5)."""

    def length(self, data: bytes) -> int:
        return 4 if data and data[0] & 3 == 3 else 2

    def match(self, word: int, length: int) -> Instruction | None:
        insn = super().match(word, length)
        if insn is None or "csr" not in insn.fields:
            return insn
        # A read-only CSR can be accessed only in the forms that do not write: a source of x0 or 0.
        return None if word >> 20 >= READ_ONLY and word >> 15 & 31 else insn

    def static_values(self, insn: Instruction, name: str) -> Iterable[int]:
        if name == "csr":
            return CSR_NUMBERS.values()
        return (0, 1, 2, 3, 4, 7) if name == "rm" else super().static_values(insn, name)

    def flow(self, decoded: Decoded) -> str | None:
        """What the instruction is to control flow: call, ret, jump, branch or None, by the link-register convention
        (section 2.5.1)."""
        name, fields = decoded.insn.name, decoded.fields
        if name in ("jal", "jalr"):
            if fields["rd"] in LINK_REGISTERS:
                return "call"
            return "ret" if name == "jalr" and fields["rs1"] in LINK_REGISTERS else "jump"
        return "branch" if name in ("beq", "bne", "blt", "bge", "bltu", "bgeu") else None

    # -- assembly -----------------------------------------------------------------------------------------------

    def operand(self, insn: Instruction, name: str, value: int) -> str:
        match name:
            case "rm":
                return ROUNDING_NAMES[value]
            case "csr":
                return _CSR_NAMES.get(value, hex(value))
            case "pred" | "succ":
                return (
                    "".join(letter for bit, letter in ((8, "i"), (4, "o"), (2, "r"), (1, "w")) if value & bit)
                    or "0"
                )
            case "imm" if insn.name in _UPPER:
                return hex(value >> 12 & 0xFFFFF)
        return super().operand(insn, name, value)

    def parse_operand(self, insn: Instruction, name: str, text: str) -> int:
        match name:
            case "rm":
                if text and text in ROUNDING_NAMES:
                    return ROUNDING_NAMES.index(text)
                raise ValueError(f"no rounding mode {text!r}: rne, rtz, rdn, rup, rmm or dyn")
            case "csr":
                return CSR_NUMBERS[text] if text in CSR_NUMBERS else int(text, 0)
            case "pred" | "succ":
                if text != "0" and not set(text) <= set("iorw"):
                    raise ValueError(f"no fence set {text!r}: letters of iorw, or 0")
                return sum({"i": 8, "o": 4, "r": 2, "w": 1}.get(letter, 0) for letter in set(text))
            case "imm" if insn.name in _UPPER:
                value = int(text, 0) & 0xFFFFF
                return (value << 12) - (value >> 19 << 32)
        return super().parse_operand(insn, name, text)

    def format(self, insn: Instruction, fields: dict[str, int]) -> str:
        text = super().format(insn, fields)
        if "aq" in fields:
            mnemonic, _, rest = text.partition(" ")
            order = "aq" * fields["aq"] + "rl" * fields["rl"]
            text = f"{mnemonic}{'.' * bool(order)}{order} {rest}"
        if "pred" in fields:
            text = f"fence {text.partition(' ')[2]}"
        if "rm" in fields:
            text = text.removesuffix(", " + _default_rounding(insn.name))
        return insn.name if insn.name == _HINT and not fields["imm"] else text

    def assemble(self, text: str) -> bytes:
        mnemonic, _, rest = text.strip().partition(" ")
        order = ""
        if mnemonic not in self.instructions and (stem := mnemonic.rpartition("."))[2] in (
            "aq",
            "rl",
            "aqrl",
        ):
            mnemonic, _, order = stem
        insn = self.instructions.get(mnemonic)
        if insn is not None:
            if "rm" in insn.fields and rest.count(",") < insn.syntax.count(","):
                rest += ", " + _default_rounding(mnemonic)
            if mnemonic == _HINT and not rest:
                rest = "0"
            if order and "aq" not in insn.fields:
                raise ValueError(f"{mnemonic} has no acquire and release bits")
        word = int.from_bytes(super().assemble(f"{mnemonic} {rest}"), "little")
        # aq is bit 26 and rl bit 25 of every atomic (section 14.1).
        word |= ("aq" in order) << 26 | ("rl" in order) << 25
        return word.to_bytes(4 if word & 3 == 3 else 2, "little")


def _default_rounding(mnemonic: str) -> str:
    return "rne" if mnemonic in _EXACT else "dyn"


rv = RiscV(
    "riscv64",
    unit=2,
    machine=243,
    files=(
        RegisterFile("x", 32, 64, zero=0, extra=("sink",), names=X_NAMES),
        RegisterFile("f", 32, 64, names=F_NAMES),
    ),
    fields={
        "rd": Reg(),
        "rs1": Reg(),
        "rs2": Reg(),
        "rs3": Reg(),
        "rdc": Reg(3, base=8),
        "rs1c": Reg(3, base=8),
        "rs2c": Reg(3, base=8),
        "imm": Signed(),
        "uimm": Unsigned(5),
        "shamt": Unsigned(6),
        "offset": Unsigned(),
        "nzuimm": Unsigned(),
        "csr": Static(12),
        "rm": Static(3),
        "aq": Strongest(),
        "rl": Strongest(),
        "pred": Strongest(4),
        "succ": Strongest(4),
    },
    state={
        "x": lambda trace: Registers(trace, "x", 64, zero=0),
        "f": FloatRegisters,
        "mem": Memory,
        "pc": Pc,
        "trap": Trap,
        "csrs": Csr,
    },
    # sp, ra, a0, s0 to s4: what nearly every function uses, and what it saves and gives back.
    pinned=tuple(("x", number) for number in (2, 1, 10, 8, 9, 18, 19, 20)),
    preserved=tuple((file, number) for file in ("x", "f") for number in (8, 9, *range(18, 28))),
    # a5, sp, a0, a4, s0: most operands of compiled programs.
    frequent=tuple(("x", number) for number in (15, 2, 10, 14, 8)),
    # The rows of rvc refer to the others.
    texts=tuple(f"vm_core.isa.riscv.{name}" for name in ("csr", "rva", "rvb", "rvfd", "rvi", "rvm", "rvc")),
)
