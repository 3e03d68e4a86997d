"""The instruction language: ops, tracing, templates as text, patterns, and the generator made from them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm_core.engine import Cause, Trap
from vm_core.errors import DecodeError
from vm_core.execute import execute
from vm_core.isa import NAMES, get
from vm_core.memory import GuestMemory, Prot
from vm_core.spec import (
    Bits,
    Codec,
    Decoded,
    Isa,
    Kind,
    Memory,
    Pattern,
    Pc,
    Reg,
    RegisterFile,
    Registers,
    Signed,
    Static,
    Strongest,
    Template,
    Tracer,
    Unsigned,
    bits,
    choose,
    concat,
    parse,
    select,
    when,
)
from vm_core.spec import Trap as TrapView
from vm_core.spec.ops import AMO, EFFECTS, PURE, mask, signed
from vm_core.spec.pattern import Constraint

# -- ops --------------------------------------------------------------------------------------------------------------

WIDTHS = st.sampled_from((1, 8, 16, 32, 33, 64, 128))


@st.composite
def operands(draw: st.DrawFn, count: int = 2) -> tuple[int, ...]:
    """A width and values of it, edges preferred."""
    width = draw(WIDTHS)
    edges = st.sampled_from([0, 1, mask(width), 1 << (width - 1), mask(width) >> 1, width & mask(width)])
    return (width, *(draw(edges | st.integers(0, mask(width))) for _ in range(count)))


def run(code: str, width: int, *args: int) -> int:
    result = PURE[code].evaluate(width, *args)
    assert isinstance(result, int)
    return result


@given(operands())
def test_arithmetic_wraps(case: tuple[int, int, int]) -> None:
    width, a, b = case
    modulus = 1 << width
    assert run("add", width, a, b) == (a + b) % modulus
    assert run("sub", width, a, b) == (a - b) % modulus
    assert run("mul", width, a, b) == a * b % modulus


@given(operands())
def test_division_is_total(case: tuple[int, int, int]) -> None:
    """Quotient times divisor plus remainder is the dividend, always; the remainder has the dividend's sign."""
    width, a, b = case
    for quotient, remainder in (("udiv", "urem"), ("sdiv", "srem")):
        q, r = run(quotient, width, a, b), run(remainder, width, a, b)
        assert (q * b + r) % (1 << width) == a
        if b == 0:
            assert (q, r) == (mask(width), a)
    if b:
        assert run("urem", width, a, b) < b
        r, x, y = (signed(value, width) for value in (run("srem", width, a, b), a, b))
        assert abs(r) < abs(y)
        assert r == 0 or (r < 0) == (x < 0)


@given(operands())
def test_shifts_take_the_amount_modulo_the_width(case: tuple[int, int, int]) -> None:
    width, a, b = case
    n = b % width
    assert run("shl", width, a, b) == a * 2**n % (1 << width)
    assert run("lshr", width, a, b) == a // 2**n
    assert run("ashr", width, a, b) == signed(a, width) // 2**n % (1 << width)


@given(operands())
def test_comparisons(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, y = signed(a, width), signed(b, width)
    assert -(1 << (width - 1)) <= x < 1 << (width - 1)
    for code, expected in (
        ("eq", a == b),
        ("ne", a != b),
        ("ult", a < b),
        ("ule", a <= b),
        ("slt", x < y),
        ("sle", x <= y),
    ):
        assert run(code, width, a, b) == int(expected)


@given(operands(1))
def test_bit_counting(case: tuple[int, int]) -> None:
    width, a = case
    text = f"{a:0{width}b}"
    assert run("popcount", width, a) == text.count("1")
    assert run("clz", width, a) == (text.index("1") if a else width)
    assert run("ctz", width, a) == (text[::-1].index("1") if a else width)
    if width % 16 == 0:
        octets = [a >> at & 255 for at in range(0, width, 8)]
        assert run("bswap", width, a) == int.from_bytes(bytes(octets), "big")


@given(st.sampled_from((8, 16, 32, 64)), st.integers(0, mask(128)), st.integers(0, mask(128)))
def test_lanes(lane: int, a: int, b: int) -> None:
    for code, sign in (("lanes.add", 1), ("lanes.sub", -1)):
        result = PURE[code].evaluate(128, lane, a, b)
        for at in range(0, 128, lane):
            assert result >> at & mask(lane) == ((a >> at) + sign * (b >> at)) % (1 << lane)


@given(operands())
def test_read_modify_write_operations(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, y = signed(a, width), signed(b, width)
    expected = {
        "swap": b,
        "add": (a + b) % (1 << width),
        "sub": (a - b) % (1 << width),
        "and": a & b,
        "or": a | b,
        "xor": a ^ b,
        "min": min(x, y) % (1 << width),
        "max": max(x, y) % (1 << width),
        "umin": min(a, b),
        "umax": max(a, b),
    }
    assert {name: operation(width, a, b) for name, operation in AMO.items()} == expected


# -- tracing ----------------------------------------------------------------------------------------------------------


def _even(raw: int) -> int:
    if raw > 7:
        raise ValueError("reserved")
    return raw * 2


KINDS = {
    "rd": Reg(3),
    "rs": Reg(3),
    "rt": Reg(3, base=8),
    "imm": Signed(),
    "u": Unsigned(4),
    "op": Static(2),
    "aq": Strongest(),
    "even": Kind("unsigned", 4, 0, Codec(_even, lambda value: value // 2)),
}
WORD = "0000000000 rd rs"


class Short(Isa):
    """All instructions have two bytes."""

    def length(self, data: bytes) -> int:
        return 2


def toy() -> Isa:
    return Short(
        "toy",
        unit=2,
        files=(RegisterFile("x", 16, 64, zero=0, extra=("sink",)),),
        fields=KINDS,
        state={
            "x": lambda trace: Registers(trace, "x", 64, zero=0),
            "mem": Memory,
            "pc": Pc,
            "trap": TrapView,
        },
    )


class Toy:
    """One instruction, run on a state."""

    def __init__(self, function, pattern: str = WORD, **options) -> None:  # type: ignore[no-untyped-def]
        self.isa = toy()
        self.isa.insn(pattern, name="it", **options)(function)
        self.insn = self.isa.find("it")

    def __call__(
        self, memory: GuestMemory | None = None, rd: int = 1, rs: int = 2, **registers: int
    ) -> dict[str, int]:
        self.cpu = self.isa.cpu()
        self.cpu.pc = 0x100
        for name, value in registers.items():
            self.cpu[name] = value
        fields = {"rd": rd, "rs": rs}
        self.result = execute(self.isa, Decoded(self.insn, fields, 2, self.insn, fields), self.cpu, memory)  # type: ignore[arg-type]
        return self.cpu.snapshot()


def test_values_are_shared() -> None:
    """The same expression is one op, and what nothing uses is left out."""

    def text(x, rd, rs):  # type: ignore[no-untyped-def]
        unused = x[rs] * 3
        assert isinstance(unused, Bits)
        x[rd] = (x[rs] + 1) ^ (x[rs] + 1)

    template = Toy(text).insn.template({})
    assert [op.code for op in template.ops] == ["reg", "const", "add", "xor", "setreg"]
    assert (template.reads, template.writes) == ((("x", "rs"),), (("x", "rd"),))
    assert template.field_files == {"rd": "x", "rs": "x"}


def test_operators_mean_what_they_say() -> None:
    def text(x, rd, rs):  # type: ignore[no-untyped-def]
        a = x[rs]
        checks = (
            3 - a == 0 - (a - 3),
            -a == ~a + 1,
            (a & 0xF0) | (a ^ a) == (0xF0 & a),
            a[7:0].zext(64) == a & 255,
            a[7:0].sext(64) == (a << 56).sar(56),
            a.rotate_right(8) == (a >> 8) | (a << 56),
            a.rotate_right(a) == (a >> a) | (a << (0 - a)),
            concat(a[63:32], a[31:0]) == a,
            a.ge_u(1) == ~(a == 0),
            a.ge_s(0) == ~a[63],
            a.le_u(a) & a.le_s(a) & ~a.lt_u(a) & ~a.lt_s(a),
            choose(a[1:0], *(bits(n, 64) for n in range(4))) == a & 3,
            select(1, a, 0) == a,
            a.udiv(7) * 7 + a.urem(7) == a,
            a.sdiv(-7) * -7 + a.srem(-7) == a,
            a.bswap().bswap() == a,
        )
        total = bits(1, 1)
        for check in checks:
            total = total & check
        x[rd] = total.zext(64)

    failed = []
    for value in (0, 1, 0x80, 0x1234_5678_9ABC_DEF0, (1 << 63), mask(64)):
        # More than 60 ops: evaluated piece by piece.
        trace = Tracer("t", {"rd": "reg", "rs": "reg"})
        with trace.active():
            given_: dict[str, object] = {"x": Registers(trace, "x", 64, zero=0), "rd": "rd", "rs": "rs"}
            text(**given_)  # type: ignore[no-untyped-call]
        template = Template("t", trace.fields, tuple(trace.ops))
        if _evaluate(template, {"rs": value}, trace._pending["x", "rd"].id) != 1:
            failed.append(hex(value))
    assert not failed


def _evaluate(template: Template, registers: dict[str, int], wanted: int) -> int:
    """The value of one op, by the ops' own definitions."""
    values: list[int] = []
    for op in template.ops:
        args = [values[arg] for arg in op.args]
        if op.code == "const":
            values.append(int(str(op.attr)))
        elif op.code == "reg":
            values.append(registers[op.attr[1]])  # type: ignore[index]
        elif op.code == "extract":
            values.append(args[0] >> int(str(op.attr)) & mask(op.width))
        elif op.code == "sext":
            values.append(signed(args[0], template.ops[op.args[0]].width) & mask(op.width))
        else:
            values.append(PURE[op.code].evaluate(template.ops[op.args[-1]].width, *args))
    return values[wanted]


def test_writes_happen_at_the_end() -> None:
    """A value read before stays; the last write of a register wins; the zero register takes none."""

    def text(x, rd, rs):  # type: ignore[no-untyped-def]
        old = x[rs]
        x[rd] = old + 1
        x[rd] = x[rd] + 1
        assert x[0].width == 64
        x[0] = old

    toy_ = Toy(text)
    assert toy_(x2=40)["x1"] == 42
    assert toy_(rd=2, x2=40)["x2"] == 42
    assert toy_(rd=0, x2=40)["x0"] == 0


def test_guards() -> None:
    """Only where all conditions around it hold; a register keeps its value otherwise."""

    def text(x, rd, rs):  # type: ignore[no-untyped-def]
        a, b = x[rs], x[3]
        with when(a != 0), when(1):
            with when(b != 0):
                x[1] = 7
            x[4] = 8

    toy_ = Toy(text)
    for a in (0, 1):
        for b in (0, 1):
            after = toy_(x1=5, x2=a, x3=b, x4=6)
            assert (after["x1"], after["x4"]) == (7 if a and b else 5, 8 if a else 6)


def test_faults_are_precise() -> None:
    """A trap after register writes, and a store beside one that cannot happen, leave everything as it was."""

    def two_stores(x, mem, rd, rs):  # type: ignore[no-untyped-def]
        address, value = x[rs], x[rd]
        mem.probe_write(address, 128)
        x[rd] = 99
        mem.store(address, value)
        mem.store(address + 8, value)

    toy_ = Toy(two_stores)
    with GuestMemory(bits=20) as memory:
        memory.map(0x1000, 0x1000, Prot.RW)
        after = toy_(memory, x1=5, x2=0x1FF8)
        assert isinstance(toy_.result, Trap)
        assert (toy_.result.cause, toy_.result.address, after["x1"], after["pc"]) == (
            Cause.STORE,
            0x2000,
            5,
            0x100,
        )
        assert memory.read(0x1FF0, 16) == bytes(16)
        after = toy_(memory, x1=5, x2=0x1FF0)
        assert (toy_.result, after["x1"], after["pc"]) == (False, 99, 0x102)
        assert memory.read(0x1FF0, 16) == (5).to_bytes(8, "little") * 2


def test_conditional_trap_and_branches() -> None:
    def text(x, pc, trap, rd, rs):  # type: ignore[no-untyped-def]
        trap("divide", x[rs] == 0)
        pc.branch(x[rs] == 1, pc + 0x40)
        x[rd] = pc.next

    toy_ = Toy(text)
    after = toy_(x2=0)
    assert toy_.result == Trap(Cause.DIVIDE, 0x100, 0x100)
    assert after["x1"] == 0
    assert (toy_(x2=1)["pc"], toy_(x2=2)["pc"], toy_(x2=2)["x1"]) == (0x140, 0x102, 0x102)


def test_static_fields_steer_python() -> None:
    """One template for each value, traced once."""
    seen = []

    def text(x, rd, op):  # type: ignore[no-untyped-def]
        seen.append(op)
        x[rd] = bits(10, 64) + op if op else bits(-1, 64)

    toy_ = Toy(text, "00000000000 rd op")
    for _ in range(2):
        for op in range(4):
            template = toy_.insn.template({"op": op})
            assert template.name == f"it/op={op}"
    assert seen == [0, 1, 2, 3]
    assert [statics["op"] for statics in toy_.isa.variants(toy_.insn)] == [0, 1, 2, 3]


def test_strongest_fields_have_no_templates() -> None:
    def text(x, rd, aq):  # type: ignore[no-untyped-def]
        assert aq == 1
        x[rd] = bits(5, 64)

    toy_ = Toy(text, "000000000000 aq rd")
    assert toy_.insn.statics == ()
    assert toy_.isa.decode(toy_.isa.encode("it", rd=3, aq=0)).written == {"rd": 3, "aq": 0}


# -- templates as text ------------------------------------------------------------------------------------------------


def templates(isa: Isa) -> Iterator[Template]:
    for insn in isa.instructions.values():
        if insn.expands is None:
            for statics in isa.variants(insn):
                try:
                    yield insn.template(statics)
                except DecodeError:
                    continue  # a combination that decoding refuses


@pytest.mark.parametrize("name", NAMES)
def test_every_template_is_text_and_back(name: str) -> None:
    """Printed, parsed, verified: the same template, with the same digest; and pruned already."""
    count = 0
    for template in templates(get(name)):
        again = parse(str(template))
        assert again == template
        assert str(again) == str(template)
        assert again.digest == template.digest
        assert template.pruned() == template
        assert template.codes <= PURE.keys() | EFFECTS.keys()
        count += 1
    assert count > 300


def test_digest_tells_templates_apart() -> None:
    digests = [template.digest for template in templates(get("riscv64"))]
    assert len(set(digests)) == len(digests)


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_scattered_immediates_and_bases() -> None:
    pattern = Pattern("0 imm[5] 000 rt imm[4:1|6] 000", KINDS)
    word = pattern.insert({"imm": -0x2A, "rt": 9})
    assert pattern.extract(word) == {"imm": -0x2A, "rt": 9}
    assert word == 0b0_0_000_001_1011_1_000 | 0
    for wrong in ({"imm": 64, "rt": 8}, {"imm": 1, "rt": 8}, {"imm": 0, "rt": 7}, {"imm": -66, "rt": 8}):
        with pytest.raises(ValueError, match="does not fit"):
            pattern.insert(wrong)


def test_codec_and_reserved_bits() -> None:
    """A codec decides the value, and whether the bits are an encoding at all."""
    pattern = Pattern("000000000 even rd", KINDS)
    assert pattern.extract(0b0101_001) == {"even": 10, "rd": 1}
    assert pattern.insert({"even": 10, "rd": 1}) == 0b0101_001
    assert pattern.fits(0b0111_000)
    assert not pattern.fits(0b1000_000)


def test_undefined_combinations() -> None:
    pattern = Pattern("0000000000 rd rs", KINDS, (), lambda rd, rs: rd == rs and rd)
    assert pattern.fits(0b001_010)
    assert pattern.fits(0)
    assert not pattern.fits(0b001_001)
    with pytest.raises(ValueError, match="rd=1, rs=1 is undefined"):
        pattern.insert({"rd": 1, "rs": 1})


def test_register_slots() -> None:
    """A number that means another slot of the file, both ways."""
    kinds = {"rn": Reg(3, slots={7: 9})}
    pattern = Pattern("0000000000000 rn", kinds)
    assert [pattern.extract(word)["rn"] for word in (0, 6, 7)] == [0, 6, 9]
    assert pattern.insert({"rn": 9}) == 7
    with pytest.raises(ValueError, match="register 7 cannot be named here"):
        pattern.insert({"rn": 7})


def test_constraints() -> None:
    pattern = Pattern("0000000000 rd rs", KINDS, Constraint.parse("rd!=0,2 rs==1,3"))
    assert [pattern.fits(rd << 3 | rs) for rd, rs in ((1, 1), (1, 3), (0, 1), (2, 3), (1, 2))] == [
        True,
        True,
        *[False] * 3,
    ]
    with pytest.raises(ValueError, match="rd=0 is excluded here"):
        pattern.insert({"rd": 0, "rs": 1})


@st.composite
def small_patterns(draw: st.DrawFn) -> Pattern:
    """Patterns with 6 bits that vary, with constraints at times."""
    tokens = draw(st.lists(st.sampled_from(("0", "1", "-", ".")), min_size=6, max_size=6))
    at = draw(st.integers(0, 3))
    if draw(st.booleans()):
        where = draw(st.sampled_from(("", "rd!=0", "rd==1,2", "rd!=3", "rd==0")))
        text = " ".join(["0" * 10, *tokens[:at], "rd", *tokens[at + 3 :]])
        return Pattern(text, KINDS, Constraint.parse(where))
    return Pattern(" ".join(["0" * 10, *tokens]), KINDS)


@settings(max_examples=300)
@given(small_patterns(), small_patterns())
def test_overlap_is_never_missed(one: Pattern, other: Pattern) -> None:
    """Patterns that share a word overlap; the other direction may be too careful where constraints meet."""
    shared = any(one.fits(word) and other.fits(word) for word in range(1 << 6))
    assert one.overlaps(other) or not shared
    assert one.overlaps(other) == other.overlaps(one)
    if not one.constraints and not other.constraints:
        assert one.overlaps(other) == shared


def test_special_cases_are_declared() -> None:
    """``over`` allows an overlap, and the special case wins when decoding."""
    isa = toy()
    isa.insn(WORD, name="general")(lambda x, rd, rs: None)
    isa.insn("0000000000 rd 000", name="special", over="general")(lambda x, rd: None)
    assert isa.decode(bytes((0b001_000, 0))).name == "special"
    assert isa.match(0b001_001, 2) is isa.find("general")
    assert isa.match(0b1_000_000, 2) is None


@pytest.mark.parametrize("name", NAMES)
def test_random_instructions_decode_to_themselves(name: str) -> None:
    """What the generator draws decodes to the mnemonic asked for, and all mnemonics can be drawn."""
    isa, rng = get(name), random.Random(1)
    for mnemonic in isa.instructions:
        code = isa.random(rng, [mnemonic])
        insn = isa.decode(code)
        assert (insn.name, insn.length) == (mnemonic, len(code))
        assert insn.text()
        assert insn.encoding.source[1] > 0


@pytest.mark.parametrize("name", NAMES)
def test_random_instructions_are_assembled_back(name: str) -> None:
    isa, rng = get(name), random.Random(2)
    for _ in range(500):
        insn = isa.decode(isa.random(rng))
        again = isa.decode(isa.assemble(insn.text()))
        assert again.text() == insn.text()


@pytest.mark.parametrize("name", NAMES)
def test_decoding_never_fails_otherwise(name: str) -> None:
    """Any bytes are an instruction or a DecodeError, and the length is consistent."""
    isa, rng = get(name), random.Random(3)
    for _ in range(5000):
        data = rng.randbytes(rng.randrange(16))
        try:
            insn = isa.decode(data)
        except DecodeError:
            continue
        assert 0 < insn.length <= len(data)
        assert isa.decode(data[: insn.length]).text() == insn.text()
