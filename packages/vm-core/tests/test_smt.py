"""z3 terms of the op set, checked against the ops' own definitions, and proofs about instructions of all three ISAs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

z3 = pytest.importorskip("z3", reason="proofs need z3 (the extra smt)")

from vm_core.errors import HostError, SpecError  # noqa: E402
from vm_core.execute import execute  # noqa: E402
from vm_core.isa import get  # noqa: E402
from vm_core.isa.x86_64.operands import CONDITIONS, FLAGS  # noqa: E402
from vm_core.memory import GuestMemory, Prot  # noqa: E402
from vm_core.smt import State, prove, pure, run  # noqa: E402
from vm_core.spec import Decoded, Isa  # noqa: E402
from vm_core.spec.ops import PURE, mask, signed  # noqa: E402

pytestmark = pytest.mark.smt
RV, A64, X86 = get("riscv64"), get("aarch64"), get("x86_64")
Term = Any


# -- ops --------------------------------------------------------------------------------------------------------------


def python_value(code: str, width: int, source: int, attr: object, args: tuple[int, ...]) -> int:
    """As the reference executor does it. ``source``: the width of the arguments."""
    if code == "extract":
        assert isinstance(attr, int)
        return args[0] >> attr & mask(width)
    if code == "sext":
        return signed(args[0], source) & mask(width)
    result = PURE[code].evaluate(source, *((attr,) if PURE[code].shape == "lanes" else ()), *args)
    assert isinstance(result, int)
    return result


@pytest.mark.parametrize("code", PURE)
def test_op(code: str) -> None:
    """Python and z3 agree on random and edge values, at many widths."""
    rng = random.Random(code)
    shape = PURE[code].shape
    for width in (
        (1, 8, 16, 32, 64, 128) if code not in ("bswap", "lanes.add", "lanes.sub") else (16, 64, 128)
    ):
        edges = [
            0,
            1,
            mask(width),
            1 << (width - 1),
            mask(width) >> 1,
            width & mask(width),
            width - 1 & mask(width),
        ]
        for _ in range(20):
            count = {"unary": 1, "select": 3, "cast": 2 if code == "concat" else 1}.get(shape, 2)
            args = tuple(
                rng.choice(edges) if rng.random() < 0.5 else rng.getrandbits(width) for _ in range(count)
            )
            out, attr = width, None
            if shape == "compare":
                out = 1
            elif shape == "select":
                args = (args[0] & 1, *args[1:])
            elif shape == "lanes":
                attr = rng.choice([lane for lane in (8, 16, 32, 64) if width % lane == 0])
            elif code == "extract":
                attr = rng.randrange(width)
                out = rng.randrange(1, width - attr + 1)
            elif shape == "cast":
                out = 2 * width if code == "concat" else width + rng.randrange(1, 64)
            widths = (1, width, width) if shape == "select" else (width,) * len(args)
            terms = tuple(z3.BitVecVal(arg, size) for arg, size in zip(args, widths, strict=True))
            term = z3.simplify(pure(code, out, terms, attr))
            assert term.size() == out
            assert term.as_long() == python_value(code, out, width, attr, args), (code, width, args)


# -- whole instructions -----------------------------------------------------------------------------------------------

DATA = 0x4000


@pytest.mark.parametrize("isa", [RV, A64, X86], ids=lambda isa: isa.name)
def test_instructions_are_as_in_the_reference(isa: Isa) -> None:
    """From concrete states, z3's simplifier computes what the executor does: every instruction without a float."""
    rng = random.Random(isa.name)
    ran = 0
    with GuestMemory(bits=20) as memory:
        memory.map(0, 1 << 20, Prot.RW)
        for name in isa.instructions:
            insn = isa.decode(isa.random(rng, [name]))
            codes = insn.template.codes
            if any(code.startswith("fp.") for code in codes) or "counter" in codes:
                with pytest.raises(SpecError, match="has no z3 term"):
                    run(insn.template, State.fresh(isa), insn.fields)
                continue
            cpu = isa.cpu()
            cpu.pc = 0x1000
            before = State.fresh(isa)
            for file in isa.layout.files.values():
                for slot in range(file.count):
                    value = rng.getrandbits(file.width)
                    if file.width == 64 and codes & {"load", "store", "amo", "cas", "store_conditional"}:
                        value = DATA + 16 * rng.randrange(64)
                    cpu.set(file.name, slot, value)
            for file, index in insn.template.reads:
                slot = insn.fields[index] if isinstance(index, str) else index
                info = isa.layout.files[file]
                if slot != info.zero:
                    before = before.write(file, slot, z3.BitVecVal(cpu.get(file, slot), info.width))
            before = State(isa, before.files, z3.K(z3.BitVecSort(64), z3.BitVecVal(0x5A, 8)), z3.BitVecVal(0x1000, 64),
                           (z3.BitVecVal(-1, 64), z3.BitVecVal(0, 64)), z3.BoolVal(False))  # fmt: skip
            memory.view[: 1 << 20] = b"\x5a" * (1 << 20)
            result = execute(isa, insn, cpu, memory)
            after = run(insn.template, before, dict(insn.fields), length=insn.length)
            if hasattr(result, "cause"):
                # An address outside, or one that must be aligned and is not: z3 knows no such thing.
                assert z3.is_true(z3.simplify(after.trapped)) or result.cause.value in (
                    "load",
                    "store",
                    "misaligned",
                )
                continue
            ran += 1
            assert z3.is_false(z3.simplify(after.trapped)), insn.text()
            assert z3.simplify(after.pc).as_long() == cpu.pc, insn.text()
            for file, index in insn.template.writes:
                slot = insn.fields[index] if isinstance(index, str) else index
                assert z3.simplify(after.read(file, slot)).as_long() == cpu.get(file, slot), insn.text()
            for at in (at for at in range(1 << 20) if memory.view[at] != 0x5A) if "store" in codes else ():
                assert z3.simplify(after.load(z3.BitVecVal(at, 64), 8)).as_long() == memory.view[at], (
                    insn.text()
                )
    assert ran > len(isa.instructions) // 2


def test_register_numbers_can_be_terms() -> None:
    """ADD for all register numbers at once: also where they are the same, and for the zero register."""
    template = RV.find("add").template({})
    rd, rs1, rs2 = (z3.BitVec(name, 8) for name in ("rd", "rs1", "rs2"))
    before = State.fresh(RV)
    after = run(template, before, {"rd": rd, "rs1": rs1, "rs2": rs2})
    total = before.read("x", rs1) + before.read("x", rs2)
    assert prove(after.read("x", rd) == z3.If(rd == 0, 0, total)) is None
    found = prove(after.read("x", rd) == total)
    assert found is not None
    assert found["rd"] == "0"


def test_memory_is_bytes() -> None:
    """A store and a load of another size and address that overlap."""
    before = State.fresh(RV)
    after = run(RV.find("sd").template({}), before, {"rs1": 1, "rs2": 2, "imm": 0})
    after = run(RV.find("lhu").template({}), after, {"rd": 3, "rs1": 1, "imm": 3})
    assert prove(after.read("x", 3) == z3.ZeroExt(48, z3.Extract(39, 24, before.read("x", 2)))) is None


def test_reservation() -> None:
    """A store-conditional right after its load-reserved succeeds, and a second one fails."""
    lr = RV.find("lr.d").template({})
    sc = RV.find("sc.d").template({})
    state = run(lr, State.fresh(RV), {"rd": 3, "rs1": 1})
    first = run(sc, state, {"rd": 4, "rs1": 1, "rs2": 2})
    second = run(sc, first, {"rd": 5, "rs1": 1, "rs2": 2})
    assert prove(first.read("x", 4) == 0) is None
    assert prove(second.read("x", 5) == 1, state.read("x", 1) != mask(64)) is None


def test_z3_that_gives_up_is_an_error() -> None:
    a, b = z3.BitVecs("a b", 64)
    with pytest.raises(HostError, match="z3 gave up"):
        prove(z3.Implies(z3.And(z3.UGT(a, 1), z3.UGT(b, 1)), a * b != 0xFFFFFFFFFFFFFFC5), seconds=0.01)


# -- RISC-V -----------------------------------------------------------------------------------------------------------


def riscv(*lines: str) -> tuple[State, State]:
    """(before, after) a few lines of assembly."""
    before = state = State.fresh(RV)
    for line in lines:
        insn = RV.decode(RV.assemble(line))
        state = run(insn.template, state, dict(insn.fields), length=insn.length)
    return before, state


@pytest.mark.parametrize(
    ("one", "others"),
    [
        ("sh1add t0, t1, t2", ("slli t0, t1, 1", "add t0, t0, t2")),
        ("sh3add t0, t1, t2", ("slli t0, t1, 3", "add t0, t0, t2")),
        ("add.uw t0, t1, t2", ("slli t0, t1, 32", "srli t0, t0, 32", "add t0, t0, t2")),
        ("slli.uw t0, t1, 7", ("slli t0, t1, 32", "srli t0, t0, 25")),
        ("andn t0, t1, t2", ("xori t0, t2, -1", "and t0, t0, t1")),
        ("orn t0, t1, t2", ("xori t0, t2, -1", "or t0, t0, t1")),
        ("xnor t0, t1, t2", ("xor t0, t1, t2", "xori t0, t0, -1")),
        ("rori t0, t1, 13", ("srli t3, t1, 13", "slli t0, t1, 51", "or t0, t0, t3")),
        ("rol t0, t1, t2", ("sub t3, zero, t2", "ror t0, t1, t3")),
        ("sext.b t0, t1", ("slli t0, t1, 56", "srai t0, t0, 56")),
        ("sext.h t0, t1", ("slli t0, t1, 48", "srai t0, t0, 48")),
        ("zext.h t0, t1", ("slli t0, t1, 48", "srli t0, t0, 48")),
        ("bset t0, t1, t2", ("addi t3, zero, 1", "sll t3, t3, t2", "or t0, t1, t3")),
        ("bclr t0, t1, t2", ("addi t3, zero, 1", "sll t3, t3, t2", "andn t0, t1, t3")),
        ("binv t0, t1, t2", ("addi t3, zero, 1", "sll t3, t3, t2", "xor t0, t1, t3")),
        ("bext t0, t1, t2", ("srl t0, t1, t2", "andi t0, t0, 1")),
        ("max t0, t1, t2", ("slt t3, t1, t2", "sub t3, zero, t3", "xor t4, t1, t2", "and t4, t4, t3", "xor t0, t1, t4")),
        ("minu t0, t1, t2", ("sltu t3, t1, t2", "sub t3, zero, t3", "xor t4, t1, t2", "and t4, t4, t3", "xor t0, t2, t4")),
        ("addw t0, t1, t2", ("add t0, t1, t2", "addiw t0, t0, 0")),
        ("subw t0, t1, t2", ("sub t0, t1, t2", "addiw t0, t0, 0")),
        ("sraiw t0, t1, 5", ("slli t0, t1, 32", "srai t0, t0, 37")),
        ("mulw t0, t1, t2", ("mul t0, t1, t2", "addiw t0, t0, 0")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_riscv_identities(one: str, others: tuple[str, ...]) -> None:
    """Zba, Zbb, Zbs and word instructions are what longer sequences of others compute."""
    _, left = riscv(one)
    _, right = riscv(*others)
    assert prove(left.read("x", 5) == right.read("x", 5)) is None


def test_riscv_orc_b_and_rev8() -> None:
    """Byte by byte (Zbb): all ones where any bit is set; the bytes in reverse order."""
    before, orc = riscv("orc.b t0, t1")
    _, rev = riscv("rev8 t0, t1")
    source = before.read("x", 6)
    for at in range(0, 64, 8):
        octet = z3.Extract(at + 7, at, source)
        assert (
            prove(z3.Extract(at + 7, at, orc.read("x", 5)) == z3.If(octet == 0, z3.BitVecVal(0, 8), -1))
            is None
        )
        assert prove(z3.Extract(63 - at, 56 - at, rev.read("x", 5)) == octet) is None


def test_riscv_division() -> None:
    """Table 11 of the manual: by zero -1 and the dividend; the overflow gives the dividend and 0."""
    for suffix, low in (("", 64), ("w", 32)):
        before, quotient = riscv(f"div{suffix} t0, t1, t2")
        _, remainder = riscv(f"rem{suffix} t0, t1, t2")
        a, b = (z3.Extract(low - 1, 0, before.read("x", index)) for index in (6, 7))
        q, r = quotient.read("x", 5), remainder.read("x", 5)
        assert prove(q == -1, b == 0) is None
        assert prove(r == z3.SignExt(64 - low, a), b == 0) is None
        least = z3.BitVecVal(1 << (low - 1), low)
        assert prove(z3.And(q == z3.SignExt(64 - low, least), r == 0), a == least, b == -1) is None


def test_short_encodings_are_their_expansions() -> None:
    """By construction: the template of a C instruction is that of the instruction it stands for."""
    rng = random.Random(1)
    count = 0
    for insn in RV.instructions.values():
        if insn.expands is not None:
            decoded = RV.decode(RV.random(rng, [insn.name]))
            base, _ = insn.expands
            assert decoded.template is base.template(decoded.fields)
            count += 1
    assert count > 30


# -- x86-64 -----------------------------------------------------------------------------------------------------------


def x86(line: str, before: State | None = None) -> tuple[State, State]:
    """(before, after) one line of assembly."""
    insn = X86.decode(X86.assemble(line))
    before = before or State.fresh(X86)
    return before, run(insn.template, before, dict(insn.fields), length=insn.length)


def flag(state: State, name: str) -> Term:
    return state.read("flags", FLAGS.index(name))


def bit(condition: Term) -> Term:
    return z3.If(condition, z3.BitVecVal(1, 1), z3.BitVecVal(0, 1))


OPERANDS = {8: ("al", "bl"), 16: ("ax", "bx"), 32: ("eax", "ebx"), 64: ("rax", "rbx")}


def sources(before: State, width: int) -> tuple[Term, Term]:
    return z3.Extract(width - 1, 0, before.read("r", 0)), z3.Extract(width - 1, 0, before.read("r", 3))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("name", ["add", "adc", "sub", "sbb", "cmp"])
def test_x86_arithmetic_flags(name: str, width: int) -> None:
    """Against definitions that share nothing with the text: sums in wider integers, and parity as an exclusive or."""
    before, after = x86(f"{name} {', '.join(OPERANDS[width])}")
    a, b = sources(before, width)
    carry = flag(before, "cf") if name in ("adc", "sbb") else z3.BitVecVal(0, 1)
    sign = -1 if name in ("sub", "sbb", "cmp") else 1

    def total(extend: Callable[[int, Term], Term], bits: int) -> Term:
        """a +- b +- carry, of the low ``bits`` bits, without wrapping."""
        low = [extend(4, z3.Extract(bits - 1, 0, term)) for term in (a, b)]
        return low[0] + sign * low[1] + sign * z3.ZeroExt(bits + 3, carry)

    unsigned, exact, nibble = total(z3.ZeroExt, width), total(z3.SignExt, width), total(z3.ZeroExt, 4)
    result = z3.Extract(width - 1, 0, unsigned)
    parity = z3.BitVecVal(1, 1)
    for i in range(8):
        parity ^= z3.Extract(i, i, result)
    claims = {
        "cf": z3.Extract(width, width, unsigned),
        "af": z3.Extract(4, 4, nibble),
        "of": bit(exact != z3.SignExt(4, result)),
        "zf": bit(result == 0),
        "sf": bit(result < 0),
        "pf": parity,
        "df": flag(before, "df"),
    }
    for name_, claim in claims.items():
        assert prove(flag(after, name_) == claim) is None, name_
    if name != "cmp":
        assert prove(z3.Extract(width - 1, 0, after.read("r", 0)) == result) is None


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_x86_inc_dec_neg(width: int) -> None:
    """INC and DEC are ADD and SUB of 1 but for CF; NEG is SUB from 0."""
    register = OPERANDS[width][0]
    for line, like in ((f"inc {register}", f"add {register}, 1"), (f"dec {register}", f"sub {register}, 1")):
        before, after = x86(line)
        _, other = x86(like, before)
        assert prove(after.read("r", 0) == other.read("r", 0)) is None
        for name in FLAGS:
            assert prove(flag(after, name) == flag(before if name == "cf" else other, name)) is None, (
                line,
                name,
            )
    before, after = x86(f"neg {register}")
    zero = before.write("r", 0, before.read("r", 0) & ~mask(width)).write("r", 3, before.read("r", 0))
    _, other = x86(f"sub {', '.join(OPERANDS[width])}", zero)
    for name in FLAGS:
        assert prove(flag(after, name) == flag(other, name)) is None, name


@pytest.mark.parametrize("cc", range(16))
def test_x86_conditions_after_a_comparison(cc: int) -> None:
    """What the mnemonics promise: below, above, less, greater, ... of the operands of CMP."""
    before, compared = x86("cmp rax, rbx")
    _, after = x86(f"set{CONDITIONS[cc]} cl", compared)
    a, b = sources(before, 64)
    difference = z3.SignExt(1, a) - z3.SignExt(1, b)
    overflow = difference != z3.SignExt(1, a - b)
    parity = z3.BitVecVal(1, 1)
    for i in range(8):
        parity ^= z3.Extract(i, i, a - b)
    meaning = (overflow, z3.ULT(a, b), a == b, z3.ULE(a, b), a - b < 0, parity == 1, a < b, a <= b)[cc >> 1]
    expected = z3.Not(meaning) if cc & 1 else meaning
    assert prove((z3.Extract(7, 0, after.read("r", 1)) == 1) == expected) is None
    assert prove(z3.ULE(z3.Extract(7, 0, after.read("r", 1)), 1)) is None


@pytest.mark.parametrize("name", ["shl", "shr", "sar"])
@pytest.mark.parametrize("width", [8, 32, 64])
def test_x86_shifts_are_single_shifts(name: str, width: int) -> None:
    """A shift by n is n shifts by 1: result and CF, for each n; the other flags but OF and AF follow the result."""
    for count in (0, 1, 2, 5, 7, width - 1, 32, 33):
        before, after = x86(f"{name} {OPERANDS[width][0]}, {count}")
        value, out = sources(before, width)[0], flag(before, "cf")
        effective = count & (63 if width == 64 else 31)
        for _ in range(effective):
            if name == "shl":
                out, value = z3.Extract(width - 1, width - 1, value), value << 1
            else:
                out, value = z3.Extract(0, 0, value), value >> 1 if name == "sar" else z3.LShR(value, 1)
        assert prove(z3.Extract(width - 1, 0, after.read("r", 0)) == value) is None, count
        assert prove(flag(after, "cf") == out) is None, count
        if effective:
            assert prove(flag(after, "zf") == bit(value == 0)) is None, count
        else:
            assert all(prove(flag(after, name) == flag(before, name)) is None for name in FLAGS)


@pytest.mark.parametrize("width", [16, 32])
def test_x86_signed_product(width: int) -> None:
    """CF and OF of IMUL: the product is not the sign-extension of its low half. (64 bits are beyond z3.)"""
    before, after = x86(f"imul {', '.join(OPERANDS[width])}")
    a, b = sources(before, width)
    product = z3.SignExt(width, a) * z3.SignExt(width, b)
    low = z3.Extract(width - 1, 0, product)
    assert prove(z3.Extract(width - 1, 0, after.read("r", 0)) == low) is None
    assert prove(flag(after, "of") == bit(product != z3.SignExt(width, low))) is None
    assert prove(flag(after, "cf") == flag(after, "of")) is None


def test_x86_partial_registers() -> None:
    """A 32-bit write zeroes the upper half; 16 and 8 bits, high or low, leave the rest."""
    for line, low, high in (
        ("mov eax, ebx", 0, 32),
        ("mov ax, bx", 0, 16),
        ("mov al, bl", 0, 8),
        ("mov ah, bl", 8, 16),
    ):
        before, after = x86(line)
        old, new, source = before.read("r", 0), after.read("r", 0), before.read("r", 3)
        assert prove(z3.Extract(high - 1, low, new) == z3.Extract(high - low - 1, 0, source)) is None
        rest = z3.BitVecVal(0, 32) if line == "mov eax, ebx" else z3.Extract(63, high, old)
        assert prove(z3.Extract(63, high, new) == rest) is None
    before, after = x86("xchg al, ah")
    old = before.read("r", 0)
    swapped = z3.Concat(z3.Extract(63, 16, old), z3.Extract(7, 0, old), z3.Extract(15, 8, old))
    assert prove(after.read("r", 0) == swapped) is None


def test_x86_lane_addition_without_carries() -> None:
    """PADDB is the well-known sum in one wide register with the carries between bytes cut."""
    before, after = x86("paddb xmm0, xmm1")
    a, b = before.read("xmm", 0), before.read("xmm", 1)
    top = z3.BitVecVal(int("80" * 16, 16), 128)
    assert prove(after.read("xmm", 0) == (((a & ~top) + (b & ~top)) ^ ((a ^ b) & top))) is None


def test_x86_locked_is_unlocked() -> None:
    """With nobody else there, LOCK changes nothing."""
    for line in ("add dword ptr [rbx], eax", "xadd qword ptr [rbx], rax", "cmpxchg qword ptr [rbx], rcx"):
        plain, locked = X86.decode(X86.assemble(line)), X86.decode(X86.assemble(f"lock {line}"))
        before = State.fresh(X86)
        one = run(plain.template, before, dict(plain.fields), length=0)
        other = run(locked.template, before, dict(locked.fields), length=0)
        assert prove(one.equals(other)) is None, line


# -- AArch64 ----------------------------------------------------------------------------------------------------------


def a64(line: str, before: State | None = None) -> tuple[State, State]:
    insn = A64.decode(A64.assemble(line))
    before = before or State.fresh(A64)
    return before, run(insn.template, before, dict(insn.fields))


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", ["adds", "subs", "adcs", "sbcs"])
def test_aarch64_add_with_carry(name: str, width: int) -> None:
    """AddWithCarry() as the manual writes it (J1.3): sums of integers, compared with the result."""
    letter = "x" if width == 64 else "w"
    shift = ", lsl #0" if name in ("adds", "subs") else ""
    before, after = a64(f"{name} {letter}0, {letter}1, {letter}2{shift}")
    a, b = (z3.Extract(width - 1, 0, before.read("x", index)) for index in (1, 2))
    if name in ("subs", "sbcs"):
        b = ~b
    carry = {"adds": z3.BitVecVal(0, 1), "subs": z3.BitVecVal(1, 1)}.get(name, before.read("nzcv", 2))
    unsigned = z3.ZeroExt(2, a) + z3.ZeroExt(2, b) + z3.ZeroExt(width + 1, carry)
    exact = z3.SignExt(2, a) + z3.SignExt(2, b) + z3.ZeroExt(width + 1, carry)
    result = z3.Extract(width - 1, 0, unsigned)
    expected = (
        z3.Extract(width - 1, width - 1, result),
        bit(result == 0),
        bit(z3.ZeroExt(2, result) != unsigned),
        bit(z3.SignExt(2, result) != exact),
    )
    for index, claim in enumerate(expected):
        assert prove(after.read("nzcv", index) == claim) is None, "nzcv"[index]
    assert prove(after.read("x", 0) == (z3.ZeroExt(32, result) if width == 32 else result)) is None


@pytest.mark.parametrize(
    ("cond", "meaning"),
    [
        ("eq", lambda a, b: a == b),
        ("ne", lambda a, b: a != b),
        ("cs", z3.UGE),
        ("cc", z3.ULT),
        ("mi", lambda a, b: a - b < 0),
        ("pl", lambda a, b: a - b >= 0),
        ("hi", z3.UGT),
        ("ls", z3.ULE),
        ("ge", lambda a, b: a >= b),
        ("lt", lambda a, b: a < b),
        ("gt", lambda a, b: a > b),
        ("le", lambda a, b: a <= b),
        ("al", lambda a, b: z3.BoolVal(True)),
        ("nv", lambda a, b: z3.BoolVal(True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_aarch64_conditions_after_a_comparison(cond: str, meaning: Callable[[Term, Term], Term]) -> None:
    """CMP and CSEL, for table C1-1."""
    before, compared = a64("subs xzr, x1, x2, lsl #0")
    _, after = a64(f"csel x0, x3, x4, {cond}", compared)
    a, b = before.read("x", 1), before.read("x", 2)
    assert prove(after.read("x", 0) == z3.If(meaning(a, b), before.read("x", 3), before.read("x", 4))) is None


def test_aarch64_bitfields() -> None:
    """UBFM, SBFM and BFM against the manual's own masks (DecodeBitMasks(), J1.3), for pairs of immr and imms."""
    rng = random.Random(2)
    pairs = [(0, 0), (0, 63), (63, 0), (63, 63), (1, 0), (1, 62), (8, 7), *((rng.randrange(64), rng.randrange(64)) for _ in range(12))]  # fmt: skip
    for r, s in pairs:
        before, _ = a64("ubfm x0, x1, #0, #0")
        source, old = before.read("x", 1), before.read("x", 0)
        diff = s - r & 63
        wmask = (mask(s + 1) >> r | mask(s + 1) << 64 - r) & mask(64)
        tmask = mask(diff + 1)
        rotated = z3.RotateRight(source, r)
        top = z3.If(z3.Extract(s, s, source) == 1, z3.BitVecVal(-1, 64), z3.BitVecVal(0, 64))
        expected = {
            "ubfm": rotated & wmask & tmask,
            "sbfm": (top & ~tmask) | (rotated & wmask & tmask),
            "bfm": (old & ~tmask) | (((old & ~wmask) | (rotated & wmask)) & tmask),
        }
        for name, term in expected.items():
            _, after = a64(f"{name} x0, x1, #{r}, #{s}", before)
            assert prove(after.read("x", 0) == term) is None, (name, r, s)


def test_aarch64_bit_reversal_and_division() -> None:
    before, after = a64("rbit x0, x1")
    source = before.read("x", 1)
    assert prove(after.read("x", 0) == z3.Concat(*(z3.Extract(i, i, source) for i in range(64)))) is None
    for name in ("udiv", "sdiv"):
        before, after = a64(f"{name} w0, w1, w2")
        assert prove(after.read("x", 0) == 0, z3.Extract(31, 0, before.read("x", 2)) == 0) is None


def test_aarch64_stack_pointer_is_not_the_zero_register() -> None:
    """Number 31 is SP in ADD (immediate), and the zero register in ADD (shifted register)."""
    before, after = a64("add sp, sp, #16")
    assert prove(after.read("x", 33) == before.read("x", 33) + 16) is None
    before, after = a64("add xzr, x1, x2, lsl #0")
    assert prove(after.equals(State(A64, before.files, before.memory, before.pc + 4, before.reservation, before.trapped))) is None  # fmt: skip


def test_decoded_fields_are_accepted_as_they_are() -> None:
    """``run`` takes what the decoder gives, Static fields and all."""
    insn = A64.decode(A64.assemble("ldp x0, x1, [sp], #16"))
    assert isinstance(insn, Decoded)
    before = State.fresh(A64)
    after = run(insn.template, before, dict(insn.fields))
    base = before.read("x", 33)
    assert prove(after.read("x", 1) == before.load(base + 8, 64)) is None
    assert prove(after.read("x", 33) == base + 16) is None
