"""The assembler: the inverse of the disassembler, and byte for byte what GNU as makes."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vm_core.isa import get

ISA = get("riscv64")
GNU = "riscv64-linux-gnu-"


@pytest.mark.parametrize("name", ISA.instructions)
def test_round_trip(name: str) -> None:
    rng = random.Random(name)
    # What it orders is in its sets.
    mnemonic = "fence" if "pred" in ISA.instructions[name].fields else name
    for _ in range(30):
        code = ISA.random(rng, [name])
        text = ISA.decode(code).text()
        assert text.split()[0].startswith(mnemonic)
        assert ISA.assemble(text) == code, text
        assert ISA.decode(ISA.assemble(text)).text() == text


def gnu_syntax(text: str) -> str:
    """Jump targets are addresses for GNU as: n bytes from here is .+n."""
    if re.match(r"(jal|c\.j|beq|bne|blt|bge|bltu|bgeu|c\.beqz|c\.bnez) ", text):
        return re.sub(r"(-?\d+)$", r".+\1", text)
    return text


def gnu_refuses(text: str) -> bool:
    """What GNU as does not take though it is an instruction."""
    return (
        # Empty fence sets have no spelling there; neither has an explicit rounding mode of a conversion that is exact.
        (text.startswith("fence ") and ("0" in text))
        or bool(re.match(r"fcvt\.d\.(w|wu|s) .*, (rne|rtz|rdn|rup|rmm|dyn)$", text))
        # Some compressed hints.
        or bool(
            re.match(
                r"c\.(slli|srli|srai) \w+, 0$|c\.(slli|li|lui|mv|add) zero,|c\.nop .|c\.addi \w+, 0$", text
            )
        )
    )


@pytest.mark.needs_cc
def test_gnu_as_agrees(tmp_path: Path) -> None:
    if shutil.which(GNU + "as") is None or shutil.which(GNU + "objcopy") is None:
        pytest.skip("no RISC-V binutils")
    rng = random.Random(1)
    texts, expected = [], b""
    for name in ISA.instructions:
        for _ in range(12):
            code = ISA.random(rng, [name])
            text = ISA.decode(code).text()
            if not gnu_refuses(text):
                texts.append(text)
                expected += code
    source, obj, raw = tmp_path / "a.s", tmp_path / "a.o", tmp_path / "a.bin"
    # norvc: what we write long, they must not shorten; the c. mnemonics need rvc.
    lines = [f".option {'rvc' if t.startswith('c.') else 'norvc'}\n{gnu_syntax(t)}" for t in texts]
    source.write_text("\n".join(lines) + "\n")
    made = subprocess.run(
        [GNU + "as", "-march=rv64gc_zba_zbb_zbs_zicsr_zifencei", "-mno-relax", "-o", str(obj), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[:2000]
    subprocess.run([GNU + "objcopy", "-O", "binary", "-j", ".text", str(obj), str(raw)], check=True)
    found = raw.read_bytes()
    at = 0
    for text in texts:
        size = 2 if text.startswith("c.") else 4
        assert found[at : at + size] == expected[at : at + size], text
        at += size
    assert at == len(found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("addi a0, a1, -1", 0xFFF58513),
        ("addi x10, x11, -1", 0xFFF58513),
        ("lui a0, 0xfffff", 0xFFFFF537),
        ("jalr ra, 0(a0)", 0x000500E7),
        ("fadd.d fa0, fa1, fa2", 0x02C5F553),
        ("fadd.d f10, f11, f12, rtz", 0x02C59553),
        ("fcvt.d.w fa0, a1", 0xD2058553),
        ("fence iorw, iorw", 0x0FF0000F),
        ("fence rw, w", 0x0310000F),
        ("amoadd.w.aqrl a0, a1, (a2)", 0x06B6252F),
        ("lr.d.aq a0, (a1)", 0x1405B52F),
        ("csrrw a0, fcsr, a1", 0x00359573),
        ("csrrs a0, 0xc00, zero", 0xC0002573),
        ("c.nop", 0x0001),
        ("c.addi16sp sp, -64", 0x7139),
        ("ecall", 0x00000073),
    ],
)
def test_known_encodings(text: str, word: int) -> None:
    assert ISA.assemble(text) == word.to_bytes(2 if text.startswith("c.") else 4, "little")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frob a0", "riscv64 has no instruction 'frob'"),
        ("addi a0, a1", "addi takes 'rd, rs1, imm', not 'a0, a1'"),
        ("addi a0, a1, 2048", "imm=2048 does not fit in 12 bits"),
        ("addi a0, fa1, 1", "no register 'fa1'"),
        ("fadd.d a0, fa1, fa2", "no register 'a0'"),
        ("jal ra, 3", "imm=3 does not fit in 21 bits"),
        ("c.addi4spn a0, sp, 0", "nzuimm=0 is excluded here"),
        ("c.addi4spn a0, gp, 4", "takes 'rdc, sp, nzuimm'"),
        ("c.sub a0, t0", "rs2c=5 does not fit"),
        ("fadd.s fa0, fa1, fa2, up", "no rounding mode 'up'"),
        ("csrrw a0, mstatus, a1", "mstatus"),
        ("csrrw a0, cycle, a1", "csr=3072 is excluded here"),
        ("addi.aq a0, a1, 1", "addi has no acquire and release bits"),
        ("fence rwx, w", "no fence set 'rwx'"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ISA.assemble(text)
