"""Our decoder against capstone: validity, length, mnemonic and operands of random words and of every 16-bit word."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from vm_core.errors import DecodeError
from vm_core.isa import get
from vm_core.isa.riscv.state import CSR_NUMBERS

capstone = pytest.importorskip("capstone")
ISA = get("riscv64")
COUNT = 100_000

# -- known disagreements ----------------------------------------------------------------------------------------------


def known(word: int, ours: str | None, theirs: str | None) -> bool:
    """Whether this disagreement is one of those that are understood."""
    if ours is None:
        assert theirs is not None
        mnemonic = theirs.split()[0]
        return (
            # capstone accepts the reserved c.lui with an immediate of 0, and names the all-zero word c.unimp.
            (mnemonic == "c.lui" and word & 0x107C == 0)
            or mnemonic == "c.unimp"
            # CSRs that user mode does not have, or that cannot be written: illegal for us when decoding.
            or (mnemonic.startswith(("csr", "rd")) and not _user_csr(word))
            # Privileged instructions.
            or mnemonic in ("uret", "sret", "mret", "wfi", "sfence.vma")
        )
    if theirs is None:
        mnemonic = ours.split()[0]
        insn = ISA.find(re.sub(r"\.(aq|rl|aqrl)$", "", mnemonic))
        return (
            # capstone 5 has no Zba, Zbb, Zbs.
            insn.source[0].endswith("rvb.py")
            # Compressed hints that write x0: capstone decodes only a few of them.
            or (mnemonic in ("c.slli", "c.li", "c.lui", "c.mv", "c.add") and word >> 7 & 31 == 0)
            or (mnemonic == "c.nop" and word != 1)
            # Fields of fence and fence.i that implementations must ignore: capstone wants them 0.
            or mnemonic in ("fence", "fence.i", "fence.tso")
            # Conversions that cannot round: capstone wants the rounding mode 0.
            or mnemonic in ("fcvt.d.w", "fcvt.d.wu", "fcvt.d.s")
        )
    # The immediate of the hint c.nop is not printed.
    return ours.startswith("c.nop") and theirs == "c.nop"


def _user_csr(word: int) -> bool:
    csr, write = word >> 20, word >> 12 & 3 == 1 or word >> 15 & 31
    return csr in CSR_NUMBERS.values() and not (csr >= 0xC00 and write)


# capstone prints some instructions as the assembler's pseudo-instruction; {n} are its operands.
ALIASES = {
    "j": "jal zero, {0}",
    "jal": "jal ra, {0}",
    "jr": "jalr zero, {0}, 0",
    "ret": "jalr zero, ra, 0",
    "nop": "addi zero, zero, 0",
    "mv": "addi {0}, {1}, 0",
    "not": "xori {0}, {1}, -1",
    "neg": "sub {0}, zero, {1}",
    "negw": "subw {0}, zero, {1}",
    "sext.w": "addiw {0}, {1}, 0",
    "seqz": "sltiu {0}, {1}, 1",
    "snez": "sltu {0}, zero, {1}",
    "sltz": "slt {0}, {1}, zero",
    "sgtz": "slt {0}, zero, {1}",
    "beqz": "beq {0}, zero, {1}",
    "bnez": "bne {0}, zero, {1}",
    "blez": "bge zero, {0}, {1}",
    "bgez": "bge {0}, zero, {1}",
    "bltz": "blt {0}, zero, {1}",
    "bgtz": "blt zero, {0}, {1}",
    "csrr": "csrrs {0}, {1}, zero",
    "csrw": "csrrw zero, {0}, {1}",
    "csrs": "csrrs zero, {0}, {1}",
    "csrc": "csrrc zero, {0}, {1}",
    "csrwi": "csrrwi zero, {0}, {1}",
    "csrsi": "csrrsi zero, {0}, {1}",
    "csrci": "csrrci zero, {0}, {1}",
    "rdcycle": "csrrs {0}, cycle, zero",
    "rdtime": "csrrs {0}, time, zero",
    "rdinstret": "csrrs {0}, instret, zero",
    **{f"fr{name}": f"csrrs {{0}}, {csr}, zero" for name, csr in (("flags", "fflags"), ("rm", "frm"), ("csr", "fcsr"))},
    **{f"fs{name}": f"csrrw {{0}}, {csr}, {{1}}" for name, csr in (("flags", "fflags"), ("rm", "frm"), ("csr", "fcsr"))},
    "fsflagsi": "csrrwi {0}, fflags, {1}",
    "fsrmi": "csrrwi {0}, frm, {1}",
    **{f"{alias}.{s}": f"{name}.{s} {{0}}, {{1}}, {{1}}" for s in "sd" for alias, name in (("fmv", "fsgnj"), ("fneg", "fsgnjn"), ("fabs", "fsgnjx"))},
}  # fmt: skip


def canonical(text: str) -> str:
    """One spelling: no pseudo-instructions, decimal numbers, ``offset(base)`` as two operands."""
    mnemonic, _, rest = text.partition(" ")
    rest = rest.replace("unknown", "0")
    if text == "fence":
        rest = "iorw, iorw"
    operands = [operand.strip() for operand in rest.split(",")] if rest else []
    if mnemonic in ALIASES and (mnemonic != "jal" or len(operands) == 1):
        if mnemonic.startswith("fs") and len(operands) == 1:
            operands.insert(0, "zero")  # fsrm rs: the old value is not wanted
        mnemonic, _, rest = ALIASES[mnemonic].format(*operands).partition(" ")
        operands = [operand.strip() for operand in rest.split(",")]
    if (
        mnemonic == "jalr"
        and len(operands) == 2
        and (found := re.fullmatch(r"(-?\w+)\((\w+)\)", operands[1]))
    ):
        operands[1:] = [found[2], found[1]]
    elif mnemonic == "jalr" and len(operands) < 3:
        operands = ["ra", operands[0], *operands[1:], "0"][:3]
    return f"{mnemonic} " + ", ".join(
        re.sub(r"0x[0-9a-f]+", lambda n: str(int(n[0], 16)), o) for o in operands
    )


def ours(data: bytes) -> tuple[str, int] | None:
    try:
        found = ISA.decode(data)
    except DecodeError:
        return None
    return found.text(), found.length


DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)


def theirs(data: bytes) -> tuple[str, int] | None:
    found = next(DISASSEMBLER.disasm_lite(data, 0, 1), None)
    return None if found is None else (f"{found[2]} {found[3]}".strip(), found[1])


def check(words: Iterator[int], size: int) -> None:
    wrong = []
    for word in words:
        data = word.to_bytes(size, "little")
        one, two = ours(data), theirs(data)
        if one is None and two is None:
            continue
        if one and two and one[1] == two[1] and canonical(one[0]) == canonical(two[0]):
            continue
        if not known(word, one and one[0], two and two[0]):
            wrong.append(f"{data.hex()}: {one} != {two}")
    assert not wrong, f"{len(wrong)} disagreements\n" + "\n".join(wrong[:20])


def test_every_compressed_word() -> None:
    check((word for word in range(1 << 16) if word & 3 != 3), 2)


def test_random_words() -> None:
    rng = random.Random(1)
    check((rng.getrandbits(30) << 2 | 3 for _ in range(COUNT)), 4)


def test_random_words_near_instructions() -> None:
    """Most random words are far from any instruction: also take instructions, and those with one bit flipped."""
    rng = random.Random(2)
    names = [name for name, insn in ISA.instructions.items() if insn.pattern.width == 32]

    def words() -> Iterator[int]:
        for i in range(COUNT // 4):
            word = int.from_bytes(ISA.random(rng, [names[i % len(names)]]), "little")
            yield word
            yield word ^ 1 << rng.randrange(2, 32)

    check(words(), 4)


def test_a_word_has_one_meaning() -> None:
    """Patterns do not overlap, but for those declared as special cases of others."""
    rng = random.Random(3)
    allowed = {"fence.tso": "fence", "fence.acquire": "fence", "fence.release": "fence"}
    for insn in ISA.instructions.values():
        for _ in range(20):
            data = ISA.random(rng, [insn.name])
            word = int.from_bytes(data, "little")
            fitting = [
                i.name
                for i in ISA.instructions.values()
                if i.pattern.width == len(data) * 8 and i.pattern.fits(word)
            ]
            assert fitting in ([insn.name], [insn.name, allowed.get(insn.name)])


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("0000", "the all-zero word"),
        ("0400", "c.addi4spn needs an immediate"),
        ("0160", "c.lui of 0 is reserved"),
        ("0161", "c.addi16sp of 0 is reserved"),
        ("0120", "c.addiw of x0 is reserved"),
        ("0240", "c.lwsp of x0 is reserved"),
        ("0280", "c.jr of x0 is reserved"),
        ("419c", "a reserved register form"),
        ("ffffffff", "the all-one word"),
        ("53d02000", "rounding mode 5"),
        ("53e02000", "rounding mode 6"),
        ("73100030", "mstatus"),
        ("731000c0", "cycle cannot be written"),
        ("73e000c0", "cycle with bits to set"),
        ("1b100002", "slliw by 32"),
        ("2f300010", "lr.d with rs2"),
    ],
)
def test_illegal(word: str, why: str) -> None:
    data = bytes.fromhex(word)
    if why == "lr.d with rs2":
        data = (0x1010302F).to_bytes(4, "little")
    with pytest.raises(DecodeError, match="no instruction at 0x40"):
        ISA.decode(data, 0x40)


def test_short_data_is_no_instruction() -> None:
    with pytest.raises(DecodeError):
        ISA.decode(b"\x13\x05")
    with pytest.raises(DecodeError):
        ISA.decode(b"")


@pytest.mark.parametrize(
    ("text", "flow"),
    [
        ("jal ra, 8", "call"),
        ("jal t0, 8", "call"),
        ("jal zero, 8", "jump"),
        ("jalr ra, 0(a0)", "call"),
        ("jalr zero, 0(ra)", "ret"),
        ("jalr zero, 0(t0)", "ret"),
        ("jalr zero, 0(a0)", "jump"),
        ("c.jr ra", "ret"),
        ("c.jalr a0", "call"),
        ("c.j 8", "jump"),
        ("c.beqz a0, 8", "branch"),
        ("bgeu a0, a1, 8", "branch"),
        ("addi a0, a0, 1", None),
        ("ecall", None),
    ],
)
def test_flow(text: str, flow: str | None) -> None:
    from vm_core.isa.riscv.state import RiscV

    assert isinstance(ISA, RiscV)
    assert ISA.flow(ISA.decode(ISA.assemble(text))) == flow
