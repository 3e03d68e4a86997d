"""x86-64 decoding: prefixes, opcode maps, ModRM and SIB. Intel SDM 325462-083, volume 2, chapters 2 and appendix A.

An encoding row is the manual's: optional ``REX.W``, a mandatory prefix, the opcode bytes, ``/digit`` for an opcode in
ModRM's reg field or ``/=FA`` for one fixed ModRM byte, ``+cc`` or ``+r`` for an opcode whose low bits are a condition
or a register, then the operands:

    E general register or memory   G general register in ModRM.reg   Z general register in the opcode   M memory only
    W xmm register or memory       V xmm register in ModRM.reg       U xmm register only
    I immediate   J branch distance   O absolute address   AL CL rAX fixed registers   1 the constant
    X only a size: what has it is implicit
    b 8, w 16, d 32, q 64, x 128 bits; u 128 bits that need no alignment; v 16, 32 or 64; y 32 or 64; z 16 or 32
    (extended to the operand size), bs 8 extended to the operand size

What an instruction does depends on the Static fields only: ``shape`` (what each operand is), ``w`` and ``w2`` (bits of
the first and the second one), ``ea`` (addressing form), ``mode`` (LOCK, REP) and ``cc``. Registers, displacement and
immediate are run-time fields. The scale is one too, except beside an immediate: records hold two numbers.

Not as in the manual: segment limits do not exist; a locked access must be aligned; 16-bit near branches, string
instructions with 32-bit addresses and opcodes with VEX or EVEX prefixes are refused.
"""

from __future__ import annotations

import inspect
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from vm_core.errors import DecodeError, SpecError, Unimplemented
from vm_core.isa.x86_64.operands import CONDITIONS, FILES, NIL, Flags, General, Immediate, Location, Register
from vm_core.spec import (
    Bits,
    Decoded,
    Instruction,
    Isa,
    Kind,
    Memory,
    Pattern,
    Pc,
    Reg,
    Signed,
    Static,
    Template,
    Tracer,
    Trap,
    Unsigned,
)
from vm_core.spec.isa import Semantics

__all__ = ["ISA", "X86", "Row"]

MAX_LENGTH: Final = 15
LOCK, REP, ALIGNED, ALIAS, ACCUMULATOR = 1, 2, 4, 8, 16
"""Bits of ``mode``. ALIGNED: a memory operand must be. ALIAS: both operands are parts of one register. ACCUMULATOR:
the destination is AH, beside an implicit write of AL."""
REGISTER, HIGH, MEMORY, IMMEDIATE, XMM = 1, 2, 3, 4, 5
"""Digits of ``shape``, three bits an operand, the first one lowest."""
SIB, RIP, ABSOLUTE, SCALED = 1, 2, 3, 4
"""Kinds of ``ea``, its low three bits: SCALED is SIB with the scale in bits 4:3. Bits 6:5: segment; 7: 32-bit address."""
STATICS: Final = ("shape", "w", "w2", "ea", "mode", "cc")
KINDS: Final[dict[str, Kind]] = {
    "shape": Static(9),
    "w": Static(8),
    "w2": Static(8),
    "ea": Static(8),
    "mode": Static(5),
    "cc": Static(4),
    "r0": Reg(4),
    "r1": Reg(4),
    "base": Reg(4),
    "index": Reg(4),
    "scale": Unsigned(2),
    "disp": Signed(64),
    "imm": Signed(64),
}
_LEGACY: Final = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
FIXED: Final = {"AL": (0, "b"), "CL": (1, "b"), "rAX": (0, "v")}
_OPTIONS: Final = frozenset(("lock", "locked", "string", "wide", "near", "both", "accumulator"))
_WIDTHS: Final = {"b": 8, "w": 16, "d": 32, "q": 64, "x": 128, "u": 128}
ROW = re.compile(
    r"(?P<rexw>REX\.W )?(?P<bytes>(?:[0-9A-F]{2} )*[0-9A-F]{2})(?:\+(?P<low>cc|r))?"
    r"(?:/(?:(?P<digit>[0-7])|=(?P<exact>[0-9A-F]{2})))?(?: (?P<operands>\S+))?"
)


class _Truncated(Exception):
    """The bytes end inside an instruction."""


@dataclass(frozen=True, slots=True)
class Row:
    """One encoding of an instruction."""

    insn: Instruction
    text: str
    operands: tuple[str, ...]
    mandatory: int
    rex_w: bool
    low: str
    digit: int | None
    exact: int | None
    options: frozenset[str]

    @property
    def has_modrm(self) -> bool:
        return (
            self.digit is not None
            or self.exact is not None
            or any(code[0] in "EGMWVU" for code in self.operands)
        )

    def takes(self, modrm: int) -> bool:
        """Whether a ModRM byte is one of this row's."""
        letters = {code[0] for code in self.operands}
        return (
            self.exact in (None, modrm)
            and self.digit in (None, modrm >> 3 & 7)
            and not ("M" in letters and modrm >= 0xC0)
            and not ("U" in letters and modrm < 0xC0)
        )


class Encodings(Pattern):
    """All rows of one mnemonic, in the place of a fixed-width pattern."""

    def __init__(self) -> None:
        super().__init__("0" * 16, {})
        self.text, self.kinds = "", KINDS
        self.rows: list[Row] = []


class _Cursor:
    """Bytes of one instruction, read in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        if self.at >= min(len(self.data), MAX_LENGTH):
            raise _Truncated
        self.at += 1
        return self.data[self.at - 1]

    def signed(self, size: int) -> int:
        return int.from_bytes(bytes(self.byte() for _ in range(size)), "little", signed=True)


class X86(Isa):
    """Variable-length instructions, defined by :meth:`encodings`."""

    def __init__(self) -> None:
        super().__init__(
            "x86_64",
            unit=1,
            files=FILES,
            fields=KINDS,
            state={
                "r": General,
                "flags": Flags,
                "mem": Memory,
                "pc": Pc,
                "trap": Trap,
            },
            machine=62,
        )
        # (opcode map, opcode, mandatory prefix or 0) -> rows, the more special first
        self._table: dict[tuple[int, int, int], list[Row]] = {}

    # -- definition ---------------------------------------------------------------------------------------------

    def encodings(
        self, text: str, *options: str, name: str | None = None
    ) -> Callable[[Semantics], Semantics]:
        """Define one instruction by its rows, separated by ``;``. The function's parameters are state, ``cc``, ``w``,
        ``rep`` and ``name``; all others are the operands, in order.

        Options: ``lock``, LOCK is allowed with a memory destination; ``locked``, it is implied by one. ``string``: REP
        repeats it. ``wide``: the operand size is 64 bits unless a prefix says 16; ``near``: always 64 bits.
        ``both``: both operands are written; ``accumulator``: AL, AX, EAX or RAX is, beside the first operand.
        """
        if strange := set(options) - _OPTIONS:
            raise SpecError(f"{self.name}: no option {', '.join(sorted(strange))}")

        def define(function: Semantics) -> Semantics:
            mnemonic = name or function.__name__.rstrip("_")
            self._define_rows(mnemonic, text, function, frozenset(options))
            return function

        return define

    def group(self, text: str, *options: str) -> Callable[[Semantics], Semantics]:
        """Define several instructions by one function. A line is ``mnemonic: rows``."""

        def define(function: Semantics) -> Semantics:
            for line in text.strip().splitlines():
                mnemonic, _, rows = line.strip().partition(": ")
                self.encodings(rows, *options, name=mnemonic)(function)
            return function

        return define

    def _define_rows(self, mnemonic: str, text: str, function: Semantics, options: frozenset[str]) -> None:
        if mnemonic in self._defined:
            raise SpecError(f"{self.name} {mnemonic} is defined twice")
        names = list(inspect.signature(function).parameters)
        wanted = [name for name in names if name not in self.state and name not in ("cc", "w", "rep", "name")]
        pattern = Encodings()
        pattern.text = text
        insn = Instruction(self, mnemonic, pattern, function, ", ".join(wanted))
        for one in text.split(";"):
            found = ROW.fullmatch(one.strip())
            if not found:
                raise SpecError(f"{self.name} {mnemonic}: not an encoding: {one.strip()!r}")
            operands = tuple(found["operands"].split(",")) if found["operands"] else ()
            for code in operands:
                if (
                    code not in FIXED
                    and code != "1"
                    and not re.fullmatch(r"[EGZMWVUIJOX](bs|[bwdqxuvyz])", code)
                ):
                    raise SpecError(f"{self.name} {mnemonic}: no operand code {code!r}")
            count = sum(code[0] != "X" for code in operands)
            if count != len(wanted):
                raise SpecError(
                    f"{self.name} {mnemonic}: {one.strip()!r} has {count} operands, not {len(wanted)}"
                )
            opcode = [int(byte, 16) for byte in found["bytes"].split()]
            mandatory = opcode.pop(0) if len(opcode) > 1 and opcode[0] in (0x66, 0xF2, 0xF3) else 0
            table = 0x0F if len(opcode) > 1 else 0
            if len(opcode) > 2 or (table and opcode[0] != 0x0F):
                raise SpecError(f"{self.name} {mnemonic}: {one.strip()!r} is in no opcode map that is known")
            row = Row(
                insn,
                one.strip(),
                operands,
                mandatory,
                bool(found["rexw"]),
                found["low"] or "",
                None if found["digit"] is None else int(found["digit"]),
                None if found["exact"] is None else int(found["exact"], 16),
                options | ({"near"} if any(code[0] == "J" for code in operands) else set()),
            )
            pattern.rows.append(row)
            for low in range({"cc": 16, "r": 8}.get(row.low, 1)):
                rows = self._table.setdefault((table, opcode[-1] + low, mandatory), [])
                for other in rows:
                    if (other.digit, other.exact, other.rex_w, other.low) == (
                        row.digit,
                        row.exact,
                        row.rex_w,
                        row.low,
                    ):
                        raise SpecError(f"{self.name} {mnemonic} overlaps {other.insn.name}: {row.text!r}")
                rows.append(row)
                rows.sort(key=lambda r: (not r.rex_w, r.exact is None, r.digit is None, r.low == "r"))
        self._defined[mnemonic] = insn

    # -- decoding -----------------------------------------------------------------------------------------------

    def length(self, data: bytes) -> int:
        """The instruction's length; one more than there are bytes where they end inside it; 1 where there is none."""
        try:
            return self._decode(data, 0).length
        except _Truncated:
            return len(data) + 1
        except DecodeError:
            return 1

    def decode(self, data: bytes, pc: int = 0) -> Decoded:
        try:
            return self._decode(data, pc)
        except _Truncated:
            raise DecodeError(self.name, pc, data[:MAX_LENGTH]) from None

    def _decode(self, data: bytes, pc: int) -> Decoded:
        cursor = _Cursor(data)
        prefixes = set()
        repeat = segment = rex = 0
        byte = cursor.byte()
        while byte in _LEGACY or byte & 0xF0 == 0x40:
            # A REX prefix counts only right before the opcode: another one, or any other prefix, undoes it.
            rex = byte if byte & 0xF0 == 0x40 else 0
            if not rex:
                prefixes.add(byte)
            if byte in (0xF2, 0xF3):
                repeat = byte
            elif byte in (0x64, 0x65):
                segment = byte - 0x63
            byte = cursor.byte()
        table = 0
        if byte == 0x0F:
            table, byte = 0x0F, cursor.byte()
        row = self._row(cursor, table, byte, repeat, 0x66 in prefixes, rex)
        if row is None:
            raise DecodeError(self.name, pc, data[:MAX_LENGTH])
        fields = self._fields(cursor, row, byte, rex, segment, prefixes)
        located = fields["shape"] & 7 == MEMORY
        if 0xF0 in prefixes and not (located and row.options & {"lock", "locked"}):
            raise DecodeError(self.name, pc, data[:MAX_LENGTH])
        if located and (0xF0 in prefixes or "locked" in row.options):
            fields["mode"] |= LOCK
        if "string" in row.options:
            fields["mode"] |= REP if repeat else 0
            if 0x67 in prefixes or segment:
                why = "a string instruction with another address size or segment"
                raise Unimplemented(self.name, row.insn.name, why, pc=pc, data=data[: cursor.at])
        if 0x66 in prefixes and ("near" in row.options or (row.operands == ("Zy",) and not rex & 8)):
            why = "the 16-bit form"
            raise Unimplemented(self.name, row.insn.name, why, pc=pc, data=data[: cursor.at])
        written = fields
        if row.insn.name == "pop" and located and fields.get("base") == 4:
            # The address of POP [RSP + n] is that after the increment of RSP.
            fields = {**fields, "disp": fields["disp"] + fields["w"] // 8}
        return Decoded(row.insn, fields, cursor.at, row.insn, written)

    def _row(self, cursor: _Cursor, table: int, byte: int, repeat: int, narrow: bool, rex: int) -> Row | None:
        for mandatory in dict.fromkeys((repeat or (0x66 if narrow else 0), 0)):
            for row in self._table.get((table, byte, mandatory), ()):
                if row.rex_w and not rex & 8:
                    continue
                if row.has_modrm:
                    modrm = cursor.byte()
                    cursor.at -= 1
                    if not row.takes(modrm):
                        continue
                # Without a mandatory prefix, an xmm row or one for a single ModRM byte means exactly that: with one, it
                # is another instruction.
                only = row.exact is not None or any(code[0] in "VWU" for code in row.operands)
                if only and mandatory == 0 and (repeat or narrow):
                    continue
                # 90 is NOP, but with REX.B it is an exchange.
                if (table, byte, row.low) == (0, 0x90, "") and rex & 1:
                    continue
                return row
        return None

    def _fields(
        self, cursor: _Cursor, row: Row, opcode: int, rex: int, segment: int, prefixes: set[int]
    ) -> dict[str, int]:
        size = (
            64
            if rex & 8 or "near" in row.options
            else 16
            if 0x66 in prefixes and row.mandatory != 0x66
            else 32
        )
        if size == 32 and "wide" in row.options:
            size = 64
        fields = {
            "shape": 0,
            "w": 0,
            "w2": 0,
            "ea": 0,
            "mode": 0,
            "cc": opcode & 15 if row.low == "cc" else 0,
        }
        modrm = cursor.byte() if row.has_modrm else 0
        mod, reg, rm = modrm >> 6, modrm >> 3 & 7 | (rex & 4) << 1, modrm & 7 | (rex & 1) << 3
        located = mod != 3 and any(code[0] in "EMW" for code in row.operands)
        if located:
            self._address(
                cursor, fields, modrm, rex, segment, 0x67 in prefixes, any(c[0] in "I1" for c in row.operands)
            )
        registers = 0
        for position, code in enumerate(row.operands):
            width = self.operand_width(code, size)
            fields["w" if position == 0 else "w2"] = width if position < 2 else fields["w2"]
            number, kind = 0, REGISTER
            if code[0] == "X":
                continue
            if code in FIXED:
                number = FIXED[code][0]
            elif code[0] == "G":
                number = reg
            elif code[0] == "Z":
                number = opcode & 7 | (rex & 1) << 3
            elif code[0] in "VWU":
                number, kind = reg if code[0] == "V" else rm, XMM
            else:
                number = rm
            if code[0] in "EWM" and located:
                kind = MEMORY
                fields["mode"] |= ALIGNED if code[1:] == "x" else 0
            elif code[0] == "O":
                kind = MEMORY
                address = cursor.signed(4 if 0x67 in prefixes else 8)
                fields |= {
                    "ea": ABSOLUTE | segment << 5,
                    "imm": address & 0xFFFF_FFFF if 0x67 in prefixes else address,
                }
            elif code[0] in "IJ1":
                kind = IMMEDIATE
                fields["imm"] = 1 if code == "1" else cursor.signed(self.immediate_bytes(code, width))
            if kind == REGISTER and width == 8 and not rex and 4 <= number < 8 and code not in FIXED:
                number, kind = number - 4, HIGH
            if kind in (REGISTER, HIGH, XMM):
                fields[f"r{registers}"] = number
                registers += 1
            fields["shape"] |= kind << 3 * position
        first, second = fields["shape"] & 7, fields["shape"] >> 3 & 7
        if "both" in row.options and registers == 2 and first != second and fields["r0"] == fields["r1"]:
            fields["mode"] |= ALIAS
        if "accumulator" in row.options and first == HIGH and fields["r0"] == 0:
            fields["mode"] |= ACCUMULATOR
        for code in row.operands:
            if code[0] == "J":
                fields["imm"] += cursor.at
        return fields

    @staticmethod
    def operand_width(code: str, size: int) -> int:
        """Bits of an operand where the operand size is ``size``."""
        if code == "1":
            return 8
        suffix = FIXED[code][1] if code in FIXED else code[1:]
        if code[0] == "J" or code[0] == "I" and suffix == "z":
            return 64 if code[0] == "J" else size
        if suffix in _WIDTHS:
            return _WIDTHS[suffix]
        return {"v": size, "z": size, "bs": size, "y": max(size, 32)}[suffix]

    @staticmethod
    def immediate_bytes(code: str, width: int) -> int:
        """The encoded size of an I or J operand of ``width`` bits."""
        if code[1:] in ("b", "bs"):
            return 1
        if code[0] == "J":
            return 4
        return min(width, 64 if code[1:] == "q" else 32) // 8

    @staticmethod
    def _address(
        cursor: _Cursor,
        fields: dict[str, int],
        modrm: int,
        rex: int,
        segment: int,
        short: bool,
        immediate: bool,
    ) -> None:
        mod, rm = modrm >> 6, modrm & 7
        base, index, scale, kind = rm | (rex & 1) << 3, NIL, 0, SIB
        if rm == 4:
            sib = cursor.byte()
            base = sib & 7 | (rex & 1) << 3
            index = sib >> 3 & 7 | (rex & 2) << 2
            scale = sib >> 6
            if index == 4:
                index, scale = NIL, 0
            if sib & 7 == 5 and mod == 0:
                base = NIL
        elif rm == 5 and mod == 0:
            kind = RIP
        wide = mod == 2 or (mod == 0 and (kind == RIP or base == NIL))
        disp = cursor.signed(4) if wide else cursor.signed(1) if mod == 1 else 0
        if kind == SIB and immediate:
            kind = SCALED | scale << 3
        fields["ea"] = kind | segment << 5 | short << 7
        fields["disp"] = disp
        if kind != RIP:
            fields |= {"base": base, "index": index}
            if kind == SIB:
                fields["scale"] = scale

    # -- for back ends ------------------------------------------------------------------------------------------

    def static_values(self, insn: Instruction, name: str) -> Iterable[int]:
        """None by itself: which values go together is told by :meth:`variants`."""
        return ()

    def variants(self, insn: Instruction) -> Iterator[dict[str, int]]:
        """Every shape that compilers make: no segment, no 32-bit address, no scale beside an immediate."""
        pattern = insn.pattern
        assert isinstance(pattern, Encodings)
        seen: set[tuple[int, ...]] = set()
        for row in pattern.rows:
            sizes = (
                (64,)
                if row.rex_w or "near" in row.options
                else (16, 64)
                if "wide" in row.options
                else (16, 32, 64)
            )
            for size, located, cc, spare in itertools.product(
                sizes, (0, SIB, RIP), range(16 if row.low == "cc" else 1), (False, True)
            ):
                statics = self._variant(row, size, located, cc, spare)
                if statics is not None and (key := tuple(statics.values())) not in seen:
                    seen.add(key)
                    yield statics

    def _variant(self, row: Row, size: int, located: int, cc: int, spare: bool) -> dict[str, int] | None:
        """The Static fields of a row. ``spare``: LOCK or REP, where it is allowed."""
        statics = dict.fromkeys(STATICS, 0) | {"cc": cc}
        immediate = any(code[0] in "I1" for code in row.operands)
        found = False
        for position, code in enumerate(row.operands):
            width = self.operand_width(code, size)
            if position < 2:
                statics["w" if position == 0 else "w2"] = width
            kind = (
                XMM
                if code[0] in "VUW"
                else IMMEDIATE
                if code[0] in "IJ1"
                else 0
                if code[0] == "X"
                else REGISTER
            )
            if code[0] == "O" or (code[0] in "EMW" and located):
                found, kind = True, MEMORY
                statics["ea"] = (
                    ABSOLUTE if code[0] == "O" else SCALED if immediate and located == SIB else located
                )
                statics["mode"] |= ALIGNED if code[1:] == "x" else 0
            elif code[0] == "M":
                return None
            statics["shape"] |= kind << 3 * position
        if located and not found:
            return None
        first = statics["shape"] & 7 == MEMORY
        if first and ("locked" in row.options or (spare and "lock" in row.options)):
            statics["mode"] |= LOCK
        elif spare and "string" in row.options:
            statics["mode"] |= REP
        elif spare:
            return None
        return statics

    def lengths(self, insn: Instruction) -> tuple[int, ...]:
        return tuple(range(1, MAX_LENGTH + 1))

    def flow(self, decoded: Decoded) -> str | None:
        name = decoded.insn.name.partition(".")[0]
        return {"call": "call", "ret": "ret", "jmp": "jump", "jcc": "branch"}.get(name)

    # -- tracing ------------------------------------------------------------------------------------------------

    def trace(self, insn: Instruction, statics: dict[str, int]) -> Template:
        kinds = [statics["shape"] >> 3 * position & 7 for position in range(3)]
        ea = statics["ea"]
        used = [f"r{i}" for i in range(sum(kind in (REGISTER, HIGH, XMM) for kind in kinds))]
        if ea & 7 in (SIB, SCALED):
            used += ["base", "index", "disp", *(["scale"] if ea & 7 == SIB else [])]
        elif ea & 7 == RIP:
            used.append("disp")
        if IMMEDIATE in kinds or ea & 7 == ABSOLUTE:
            used.append("imm")
        suffix = "".join(f"/{name}={value}" for name, value in statics.items() if value)
        trace = Tracer(insn.name + suffix, {name: KINDS[name].role for name in used})
        with trace.active():
            operands = iter(self._operands(trace, kinds, statics))
            given: dict[str, Any] = {}
            for name in inspect.signature(insn.function).parameters:
                if name in self.state:
                    given[name] = self.state[name](trace)
                elif name in ("cc", "w"):
                    given[name] = statics[name]
                elif name == "rep":
                    given[name] = statics["mode"] & REP
                elif name == "name":
                    given[name] = insn.name
                else:
                    given[name] = next(operands)
            try:
                insn.function(**given)
            except SpecError as error:
                raise type(error)(f"{self.name} {insn.name}: {error}") from None
            return trace.finish()

    @staticmethod
    def _operands(
        trace: Tracer, kinds: list[int], statics: dict[str, int]
    ) -> Iterable[Register | Location | Immediate]:
        registers = 0
        mode = statics["mode"]
        for position, kind in enumerate(kinds):
            width = statics["w2"] if position == 1 else statics["w"]
            if kind == IMMEDIATE:
                yield Immediate(trace.field("imm"), width)
            elif kind == MEMORY:
                segment = statics["ea"] >> 5 & 3
                base = trace.read("seg", segment - 1, 64) if segment else None
                offset = _offset(trace, statics["ea"])
                yield Location(trace, offset, base, width, bool(mode & LOCK), bool(mode & ALIGNED))
            elif kind:
                index: int | str = f"r{registers}"
                if mode & ALIAS:
                    index = "r0"
                elif mode & ACCUMULATOR and registers == 0:
                    index = 0
                yield Register(trace, "xmm" if kind == XMM else "r", index, width, kind == HIGH)
                registers += 1

    # -- text ---------------------------------------------------------------------------------------------------

    def format(self, insn: Instruction, fields: dict[str, int]) -> str:
        """Intel syntax. A branch's distance is counted from the instruction itself."""
        mode = fields["mode"]
        words = ["lock"] if mode & LOCK and insn.name != "xchg" else ["rep"] if mode & REP else []
        words.append(spelled(insn.name, fields["w"], fields["cc"]))
        operands = ", ".join(self._written(insn, fields))
        return " ".join([*words, operands]).rstrip()

    def _written(self, insn: Instruction, fields: dict[str, int]) -> Iterable[str]:
        registers = 0
        for position in range(3):
            kind = fields["shape"] >> 3 * position & 7
            width = fields["w2"] if position == 1 else fields["w"]
            if kind == MEMORY:
                yield ("" if insn.name == "lea" else f"{SIZES[width]} ptr ") + _location(fields)
            elif kind == IMMEDIATE:
                distance = insn.name in ("jmp", "jcc", "call")
                yield _number(fields["imm"] if distance else fields["imm"] & (1 << width) - 1)
            elif kind:
                number = fields[f"r{registers}"]
                yield f"xmm{number}" if kind == XMM else register(number, width, kind == HIGH)
                registers += 1

    def assemble(self, text: str) -> bytes:
        """The bytes of one line, in the syntax that :meth:`format` prints: the shortest of the encodings that read back
        as the same text. Raises ValueError."""
        from vm_core.isa.x86_64.assemble import candidates

        wanted = _NUMBER.sub(lambda number: _number(int(number[0], 0)), " ".join(text.split()))
        found: list[bytes] = []
        for code in candidates(self, wanted):
            try:
                insn = self.decode(code)
            except DecodeError:
                continue
            if insn.length == len(code) and insn.text() == wanted:
                found.append(code)
        if not found:
            raise ValueError(f"{self.name} has no encoding for {text!r}")
        return min(found, key=len)

    def encode(self, mnemonic: str, **fields: int) -> bytes:
        """The bytes of an instruction with these fields, all Static ones included. Raises ValueError."""
        insn = self.find(mnemonic)
        return self.assemble(self.format(insn, {**dict.fromkeys(STATICS, 0), **fields}))

    def random(self, rng: random.Random, among: Iterable[str] | None = None) -> bytes:
        """A random instruction: every mnemonic equally likely, then every row, prefixes and operands at random."""
        names = list(among) if among is not None else list(self.instructions)
        while True:
            insn = self.instructions[rng.choice(names)]
            pattern = insn.pattern
            assert isinstance(pattern, Encodings)
            code = _random_row(rng, rng.choice(pattern.rows))
            try:
                found = self.decode(code)
            except DecodeError:
                continue
            if found.insn is insn:
                return code[: found.length]


def _random_row(rng: random.Random, row: Row) -> bytes:
    """Bytes that are likely to be of this row, and some more."""
    out = bytearray()
    if rng.random() < 0.3 and row.mandatory != 0x66 and "near" not in row.options:
        out.append(0x66)
    if rng.random() < 0.05:
        out.append(0x67)
    if rng.random() < 0.05:
        out.append(rng.choice((0x64, 0x65, 0x2E, 0x3E)))
    if row.options & {"lock", "locked"} and rng.random() < 0.2:
        out.append(0xF0)
    if "string" in row.options and rng.random() < 0.5:
        out.append(0xF3)
    if row.mandatory:
        out.append(row.mandatory)
    if row.rex_w or rng.random() < 0.6:
        out.append(0x40 | rng.getrandbits(4) | row.rex_w << 3)
    found = ROW.fullmatch(row.text)
    assert found is not None
    opcode = [int(byte, 16) for byte in found["bytes"].split()][1 if row.mandatory else 0 :]
    opcode[-1] += {"cc": rng.getrandbits(4), "r": rng.getrandbits(3)}.get(row.low, 0)
    out += bytes(opcode)
    if row.exact is not None:
        out.append(row.exact)
    elif row.has_modrm:
        modrm = rng.getrandbits(8)
        out.append(modrm if row.digit is None else modrm & 0xC7 | row.digit << 3)
    return bytes(out) + rng.randbytes(20)


def _offset(trace: Tracer, ea: int) -> Bits:
    """The effective address of an addressing form."""
    kind = ea & 7
    if kind == ABSOLUTE:
        return trace.field("imm")
    if kind == RIP:
        out = trace.pure("next_pc", 64, ()) + trace.field("disp")
    else:
        index = trace.read("r", "index", 64)
        out = trace.read("r", "base", 64) + (index << (trace.field("scale") if kind == SIB else ea >> 3 & 3))
        out = out + trace.field("disp")
    return out[31:0].zext(64) if ea >> 7 else out


# -- names ------------------------------------------------------------------------------------------------------

SIZES: Final = {8: "byte", 16: "word", 32: "dword", 64: "qword", 128: "xmmword"}
_BY_SIZE: Final = {
    "movs": {8: "movsb", 16: "movsw", 32: "movsd", 64: "movsq"},
    "stos": {8: "stosb", 16: "stosw", 32: "stosd", 64: "stosq"},
    "cwde": {16: "cbw", 32: "cwde", 64: "cdqe"},
    "cdq": {16: "cwd", 32: "cdq", 64: "cqo"},
    "pushf": {16: "pushf", 64: "pushfq"},
    "movd": {32: "movd", 64: "movq"},
}
_WORD: Final = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")


def spelled(name: str, width: int, cc: int) -> str:
    """The mnemonic as assemblers write it."""
    name = name.partition(".")[0]
    if name.endswith("cc"):
        return name[:-2] + CONDITIONS[cc]
    return _BY_SIZE.get(name, {}).get(width, name)


def mnemonics(name: str) -> dict[str, range]:
    """How an instruction can be spelled, and with which conditions."""
    base = name.partition(".")[0]
    if base.endswith("cc"):
        return {base[:-2] + condition: range(cc, cc + 1) for cc, condition in enumerate(CONDITIONS)}
    return dict.fromkeys((base, *_BY_SIZE.get(base, {}).values()), range(1))


def register(number: int, width: int, high: bool = False) -> str:
    """The name of a general register, or of a part of one."""
    if high:
        return _WORD[number][0] + "h"
    if number >= 8:
        return f"r{number}" + {8: "b", 16: "w", 32: "d", 64: ""}[width]
    if width == 8:
        return _WORD[number][0] + "l" if number < 4 else _WORD[number] + "l"
    return {16: "", 32: "e", 64: "r"}[width] + _WORD[number]


_NUMBER: Final = re.compile(r"(?<!\w)-?(?:0x[0-9a-fA-F]+|[0-9]+)\b")


def _number(value: int) -> str:
    return str(value) if abs(value) < 10 else hex(value)


def _location(fields: dict[str, int]) -> str:
    ea = fields["ea"]
    segment = ("", "fs:", "gs:")[ea >> 5 & 3]
    if ea & 7 == ABSOLUTE:
        return f"{segment}[{_number(fields['imm'] & 0xFFFF_FFFF_FFFF_FFFF)}]"
    size = 32 if ea >> 7 else 64
    terms = []
    if ea & 7 == RIP:
        terms.append("eip" if size == 32 else "rip")
    else:
        if fields["base"] != NIL:
            terms.append(register(fields["base"], size))
        if fields["index"] != NIL:
            scale = 1 << (fields["scale"] if ea & 7 == SIB else ea >> 3 & 3)
            terms.append(register(fields["index"], size) + (f"*{scale}" if scale > 1 or not terms else ""))
    disp = fields["disp"]
    if not terms:
        return f"{segment}[{_number(disp)}]"
    text = " + ".join(terms)
    if disp:
        text += f" {'-' if disp < 0 else '+'} {_number(abs(disp))}"
    return f"{segment}[{text}]"


ISA: Final = X86()
