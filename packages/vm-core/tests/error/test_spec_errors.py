"""Every error that the instruction language can give, provoked, with its message.

The last test reads the language's source, so a message without a case here fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import vm_core.spec
from vm_core.errors import SpecError
from vm_core.spec import (
    Bits,
    Isa,
    Memory,
    Op,
    Pattern,
    Pc,
    Reg,
    RegisterFile,
    Registers,
    Signed,
    Static,
    Strongest,
    Template,
    Trap,
    Unsigned,
    bits,
    concat,
    parse,
    select,
    tracer,
    when,
)
from vm_core.spec.pattern import Constraint
from vm_core.spec.trace import SpecTypeError, Tracer

KINDS = {"rd": Reg(3), "rs": Reg(3), "imm": Signed(), "u": Unsigned(4), "op": Static(2), "aq": Strongest()}
WORD = "0000000000 rd rs"


def toy() -> Isa:
    return Isa(
        "toy",
        unit=2,
        files=(RegisterFile("x", 8, 64, zero=0, extra=("sink",)),),
        fields=KINDS,
        state={
            "x": lambda trace: Registers(trace, "x", 64, zero=0),
            "mem": Memory,
            "pc": Pc,
            "trap": Trap,
        },
    )


@dataclass(frozen=True)
class Provocation:
    run: Callable[[], object]
    message: str
    typed: bool


PROVOCATIONS: list[Provocation] = []


def provoke(message: str, *, typed: bool = False) -> Callable[[Callable[[], object]], None]:
    """Register a function that must raise SpecError with this message (a regular expression)."""

    def register(function: Callable[[], object]) -> None:
        PROVOCATIONS.append(Provocation(function, message, typed))

    return register


def when_traced(message: str, *, typed: bool = False) -> Callable[[Callable[..., None]], None]:
    """The same, for the text of an instruction that reads rs and writes rd."""

    def register(function: Callable[..., None]) -> None:
        def run() -> object:
            isa = toy()
            isa.insn(WORD, name="it")(function)
            return isa.find("it").template({})

        PROVOCATIONS.append(Provocation(run, message, typed))

    return register


def defined(function: Callable[..., None], pattern: str = WORD, **options: object) -> Isa:
    isa = toy()
    isa.insn(pattern, name="it", **options)(function)  # type: ignore[arg-type]
    return isa


def move(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs]


# -- patterns ---------------------------------------------------------------------------------------------------------

provoke(r"'0000 %': '%' is neither bits nor a field")(lambda: Pattern("0000 %", KINDS))
provoke(r"no kind is declared for the field 'rx'")(lambda: Pattern("0000000000000 rx", KINDS))
provoke(r"bad bit range '0:3' of imm")(lambda: Pattern("000000000000 imm[0:3]", KINDS))
provoke(r"bad bit range '' of imm")(lambda: Pattern("000000000000 imm[3|]", KINDS))
provoke(r"imm has no width of its own; write imm\[high:low\]")(lambda: Pattern("0 imm", KINDS))
provoke(r"17 bits; an encoding has 16 or 32")(lambda: Pattern("0" * 17, KINDS))
provoke(r"bits 3:0 of imm are given twice")(lambda: Pattern("00000000 imm[3:0|3:0]", KINDS))
provoke(r"some bits of imm below 6 are missing")(lambda: Pattern("000000000000 imm[5:4|1:0]", KINDS))
provoke(r"constraint on 'rs', which is no field of it")(
    lambda: Pattern("0000000000000 rd", KINDS, Constraint.parse("rs!=0"))
)
provoke(r"not a constraint: 'rd>3' \(field!=1,2 or field==3\)")(lambda: Constraint.parse("rd>3"))
provoke(r"undefined asks for rs, op, no field of it")(
    lambda: Pattern("0000000000000 rd", KINDS, (), lambda rs, rd, op: rs)
)

# -- definitions ------------------------------------------------------------------------------------------------------

provoke(r"toy it: '0': 1 bits; an encoding has 16 or 32")(lambda: defined(lambda: None, "0"))
provoke(r"toy it: 'y' is neither a field of the pattern nor state")(lambda: defined(lambda y, rd, rs: None))
provoke(r"toy it: the field 'rs' is not used")(lambda: defined(lambda rd: None))


@provoke("toy it is defined twice")
def _() -> None:
    isa = defined(move)
    isa.insn("1000000000 rd rs", name="it")(move)


@provoke("toy other overlaps it: '0000000000 rd 000' and '0000000000 rd rs' fit one word")
def _() -> None:
    defined(move).insn("0000000000 rd 000", name="other")(lambda rd: None)


def expanded(row: str) -> None:
    defined(move).expand(row)


provoke(r"not a row of an expansion: 'short'")(lambda: expanded("short"))
provoke(r"short: that is not defined \(yet\)")(lambda: expanded("short | 1000000000000 rd | that rd=rd"))
provoke(r"short: it has no field 'rq'")(lambda: expanded("short | 1000000000000 rd | it rq=rd"))
provoke(r"short: 'rs' is no field of its pattern")(
    lambda: expanded("short | 1000000000000 rd | it rd=rd rs=rs")
)
provoke(r"short: no value for rs of it")(lambda: expanded("short | 1000000000000 rd | it rd=rd"))

# -- values -----------------------------------------------------------------------------------------------------------

provoke("run-time values exist only while an instruction is traced")(lambda: bits(0, 8))
provoke("run-time values exist only while an instruction is traced")(tracer)


@when_traced("a run-time value cannot steer Python; use select", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = 1 if x[rs] == 0 else 2


@when_traced("a run-time value cannot steer Python", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs] and x[rs]


@when_traced("a run-time value cannot index or count in Python", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = [0, 1][x[rs]]


@when_traced(r"a run-time value is not iterable; use slices v\[hi:lo\]", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = max(x[rs])


@when_traced("widths differ: 64 and 32 bits; use zext, sext or v", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs] + x[rs][31:0]


@when_traced("str is no run-time value", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs] + rs


@when_traced("shift of a 63-bit value: only powers of two", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = (x[rs][62:0] << 1).zext(64)


@when_traced("signedness lives in the operator: use lt_u or lt_s", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = (x[rs] < 3).zext(64)


@when_traced(r"zext of 64 bits to 32: take v\[31:0\] instead", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs].zext(32)


@when_traced(r"bad slice \[0:31\] of a 64-bit value", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs][0:31].zext(64)


@when_traced(r"bad slice \[64:64\] of a 64-bit value", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs][64].zext(64)


@when_traced("bswap of 8 bits", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs][7:0].bswap().zext(64)


@when_traced("64 bits are not whole lanes of 24", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs].lanes_add(x[rs], 24)


@when_traced("select on 64 bits; compare first", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = select(x[rs], x[rs], 0)


@when_traced("select of two plain ints has no width", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = select(x[rs] == 0, 1, 0)


@when_traced(r"when\(\) of a Static false: use Python's if", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    with when(0):
        x[rd] = x[rs]


@when_traced("concat: 192 bits; at most 128", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = concat(concat(x[rs], x[rs]), x[rs])[63:0]


@provoke("a value of another instruction's trace", typed=True)
def _() -> None:
    kept: list[Bits] = []
    isa = defined(lambda x, rd, rs: kept.append(x[rs]))
    isa.find("it").template({})

    def late(x, rd, rs):  # type: ignore[no-untyped-def]
        x[rd] = kept[0] + 1 + x[rs]

    isa.insn("1000000000 rd rs", name="late")(late)
    isa.find("late").template({})


# -- registers and control --------------------------------------------------------------------------------------------


@when_traced(r"x\[rs\] is read after x\[rd\] was written: read every source before")
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = 0
    x[rd] = x[rs]


@when_traced(r"x\[3\] is read after x\[rd\] was written")
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs]
    x[4] = x[3]


@when_traced(r"write of 32 bits to x\[rd\], which has 64", typed=True)
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    x[rd] = x[rs][31:0]


@when_traced("jump to a 32-bit address", typed=True)
def _(x, pc, rd, rs):  # type: ignore[no-untyped-def]
    pc.jump(x[rs][31:0])


@when_traced("branch on something that is not 1 bit; compare first", typed=True)
def _(x, pc, rd, rs):  # type: ignore[no-untyped-def]
    pc.branch(x[rs], x[rs])


@when_traced("branch on something that is not 1 bit; compare first", typed=True)
def _(x, pc, rd, rs):  # type: ignore[no-untyped-def]
    pc.branch(True, x[rs])


@when_traced("it: 61 ops, at most 60: split the instruction's text")
def _(x, rd, rs):  # type: ignore[no-untyped-def]
    value = x[rs]
    for _ in range(59):
        value = value * x[rs]
    x[rd] = value


@when_traced("it: store may fault after memory was changed; call mem.probe_write for every later store first")
def _(x, mem, rd, rs):  # type: ignore[no-untyped-def]
    mem.store(x[rs], x[rd])
    mem.store(x[rs] + 8, x[rd])


@when_traced("it: load may fault after memory was changed; call mem.probe_write")
def _(x, mem, rd, rs):  # type: ignore[no-untyped-def]
    mem.store(x[rs], x[rs])
    x[rd] = mem.load(x[rs] + 8, 64)


@when_traced("it: trap may fault after memory was changed")
def _(x, mem, trap, rd, rs):  # type: ignore[no-untyped-def]
    mem.store(x[rs], x[rd])
    trap("illegal", x[rs] == 0)


# -- templates made by hand -------------------------------------------------------------------------------------------

ZERO, ONE = Op("const", 64, (), 0), Op("const", 1, (), 1)
FIELDS = {"rd": "reg", "rs": "reg", "imm": "signed"}


def verified(*ops: Op) -> None:
    Template("t", FIELDS, ops).verify()


provoke("t: %0 add: uses %0 before it is defined")(lambda: verified(Op("add", 64, (0, 0))))
provoke("t: %1 add: uses %-1 before it is defined")(lambda: verified(ZERO, Op("add", 64, (0, -1))))
provoke("t: %2 add: uses %1, which has no value")(
    lambda: verified(ZERO, Op("setreg", 0, (0,), ("x", 1)), Op("add", 64, (0, 1)))
)
provoke("t: %1 fence: the guard is not 1 bit")(lambda: verified(ZERO, Op("fence", 0, (), "seq_cst", 0)))
provoke("t: %0 const: 129 bits; at most 128")(lambda: verified(Op("const", 129, (), 0)))
provoke("t: %2 add: a pure op has no guard")(lambda: verified(ZERO, ONE, Op("add", 64, (0, 0), None, 1)))
for op in (
    Op("add", 32, (0, 0)),
    Op("add", 64, (0, 1)),
    Op("eq", 64, (0, 0)),
    Op("select", 64, (0, 0, 0)),
    Op("clz", 32, (0,)),
    Op("lanes.add", 64, (0, 0), 24),
    Op("lanes.add", 64, (0, 0)),
    Op("zext", 64, (0,)),
    Op("sext", 32, (0,)),
    Op("extract", 32, (0,), 33),
    Op("extract", 32, (0,), -1),
    Op("extract", 32, (0,)),
    Op("concat", 64, (0, 0)),
    Op("zext", 64, (0, 0)),
):
    provoke(rf"t: %2 {op.code}: widths \[.*\] -> {op.width} do not fit")(
        lambda op=op: verified(ZERO, ONE, op)
    )
provoke("t: %0 load: takes 1 values and gives one")(lambda: verified(Op("load", 64, (), "plain")))
provoke("t: %1 store: takes 2 values and gives none")(
    lambda: verified(ZERO, Op("store", 64, (0, 0), "plain"))
)
provoke("t: %0 reg: 'imm' is not a register field")(lambda: verified(Op("reg", 64, (), ("x", "imm"))))
provoke("t: %0 reg: None is not a register field")(lambda: verified(Op("reg", 64, ())))
provoke("t: %0 field: 'rd' is not an immediate field")(lambda: verified(Op("field", 64, (), "rd")))
provoke("t: %0 const: 256 is no constant of 8 bits")(lambda: verified(Op("const", 8, (), 256)))
provoke("t: %0 const: None is no constant of 8 bits")(lambda: verified(Op("const", 8, ())))
provoke(r"t: %1 amo: no operation \('nand', 'plain'\)")(
    lambda: verified(ZERO, Op("amo", 64, (0, 0), ("nand", "plain")))
)
provoke("t: %1 load: the address has 1 bits, not 64")(lambda: verified(ONE, Op("load", 64, (0,), "plain")))
provoke("t: %1 load: an access of 24 bits")(lambda: verified(ZERO, Op("load", 24, (0,), "plain")))
provoke("t: %2 store: an access of 1 bits")(lambda: verified(ZERO, ONE, Op("store", 0, (0, 1), "plain")))
provoke("t: %1 frob: no such op")(lambda: verified(ZERO, Op("frob", 64, (0,))))

# -- the parser -------------------------------------------------------------------------------------------------------

provoke("line 1: not a template head: ''")(lambda: parse(""))
provoke("line 1: not a template head: 'template t rd'")(lambda: parse("template t rd"))
provoke("line 2: not an op: '  nonsense'")(lambda: parse("template t\n  nonsense"))
provoke(r"line 2: not an op: '  %1:64 = const \{0\}'")(lambda: parse("template t\n  %1:64 = const {0}"))
provoke(r"line 3: not an attribute: '1 \+'")(
    lambda: parse("template t\n  %0:64 = const {0}\n  %1:64 = const {1 +}")
)
provoke("t: %1 add: uses %7 before it is defined")(
    lambda: parse("template t\n  %0:64 = const {0}\n  %1:64 = add %0 %7")
)


@pytest.mark.parametrize("case", PROVOCATIONS, ids=lambda case: case.message[:60])
def test_message(case: Provocation) -> None:
    """One line that says what and where; type errors are TypeErrors too."""
    with pytest.raises(SpecError, match=case.message) as caught:
        case.run()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SpecTypeError) == case.typed
    assert isinstance(caught.value, TypeError) == case.typed


def test_messages_name_the_author_s_line() -> None:
    """Errors in a text give the file and line of the text, not of the language."""
    isa = toy()

    def wrong(x, rd, rs):  # type: ignore[no-untyped-def]
        x[rd] = x[rs] + x[rs][31:0]  # here

    isa.insn(WORD, name="it")(wrong)
    with pytest.raises(SpecTypeError) as caught:
        isa.find("it").template({})
    line = wrong.__code__.co_firstlineno + 1
    assert f"{Path(__file__).name}:{line}: widths differ" in str(caught.value)
    assert str(caught.value).startswith("toy it: ")


def test_a_failed_trace_leaves_nothing_behind() -> None:
    """The next instruction can be traced; outside there is no trace."""
    isa = defined(lambda x, rd, rs: x[rs] + rd)
    with pytest.raises(SpecError):
        isa.find("it").template({})
    with pytest.raises(SpecError, match="only while"):
        bits(1, 1)
    assert Tracer("t", {}).finish().ops == ()


def _messages() -> list[tuple[str, str]]:
    """(where, regular expression) of every message in the language's source."""
    out = []
    for path in sorted(Path(vm_core.spec.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id in ("SpecError", "type_error", "bad") and node.args:
                text = _as_pattern(node.args[0])
                if re.sub(r"\W|\.\*", "", text):
                    out.append((f"{path.name}:{node.lineno}", text))
    return out


def _as_pattern(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(_as_pattern(part) for part in parts)
        case _:
            return ".*"


def test_every_message_has_a_case() -> None:
    given = []
    for case in PROVOCATIONS:
        with pytest.raises(SpecError) as caught:
            case.run()
        given.append(str(caught.value))
    untested = [
        f"{where}: {pattern}"
        for where, pattern in _messages()
        if not any(re.search(pattern, text) for text in given)
    ]
    assert len(_messages()) > 40
    assert not untested, "\n".join(untested)
