"""x86-64: decoding and text against capstone, semantics against the host's processor and against Unicorn (QEMU)."""

from __future__ import annotations

import json
import platform
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from vm_core.errors import DecodeError, SpecError, Unimplemented
from vm_core.execute import execute
from vm_core.isa import get
from vm_core.isa.x86_64.decode import X86
from vm_core.memory import GuestMemory, Prot
from vm_core.spec import Decoded
from vm_core.testing.engine_suite import states_differ

ISA = get("x86_64")
COUNT = 100_000

# -- decoding ---------------------------------------------------------------------------------------------------------


def normal(text: str) -> str:
    """What two disassemblers may write differently, made alike."""
    # No-op prefixes and the pseudo-register of an absent index.
    text = re.sub(
        r" \+ [re]iz(\*\d)?|\b[csde]s:|^notrack |^data16 |^xacquire |^xrelease |^bnd |^rep(ne|nz|z|e)? (?!movs|stos)",
        "",
        text,
    )
    text = re.sub(r"\[[re]iz\*\d( [+-] )?", lambda found: "[-" if "-" in (found[1] or "") else "[", text)
    text = re.sub(r"\[(\w+)\*1\b", r"[\1", text)
    text = re.sub(r"^repne (?=movs|stos)", "rep ", text)
    text = re.sub(r"^(rep )?((movs|stos)[bwdq]) .*ptr \[.*", r"\1\2", text)
    # capstone shows the lock that xchg implies where it is written, and calls moves with a 64-bit address movabs.
    text = text.replace("lock xchg", "xchg")
    text = re.sub(r"^movabs (?=.*\[)", "mov ", text)
    # Negative immediates are shown by some as such, by others in the width of the operand.
    widths = {"byte": 8, "word": 16, "dword": 32, "qword": 64}
    width = next(
        (bits for word, bits in widths.items() if re.search(rf"\b{word} ptr", text)), None
    ) or register_width(text)
    mask = (1 << width) - 1 if not re.match(r"j|call", text) else (1 << 64) - 1

    def number(found: re.Match[str]) -> str:
        inside = text[: found.start()].count("[") > text[: found.start()].count("]")
        sign = -1 if found[1] and "-" in found[1] else 1
        return f" {sign * int(found[2], 0) & ((1 << 64) - 1 if inside else mask):#x}"

    return re.sub(r"(-|- |\+ )?\b(0x[0-9a-f]+|\d+)\b", number, text).replace("  ", " ").replace("[ ", "[")


def register_width(text: str) -> int:
    found = re.search(r"\b(r\d+([bwd])?|[re]?[abcd]x|[re]?[sd]i|[re]?[sb]p|[abcd][hl]|[sd]il|[sb]pl)\b", text)
    if not found or text.startswith("push"):
        return 16 if text.startswith("push") else 64
    name = found[1]
    if name[0] == "r":
        return {"b": 8, "w": 16, "d": 32}.get(found[2] or "", 64)
    return 32 if name[0] == "e" else 8 if name[-1] in "hl" else 16


def known(code: bytes, insn: Decoded, theirs: str | None) -> bool:
    """Disagreements with capstone 5 that are understood: it is wrong, as running them on a processor shows."""
    prefixes = re.match(rb"[\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3]*", code)
    assert prefixes is not None
    wide = code[prefixes.end()] & 0xF8 == 0x48
    return (
        # F2 repeats these as F3 does.
        (insn.name in ("movs", "stos") and b"\xf2" in prefixes[0])
        # F3 with 66 or REX before 90 is PAUSE still.
        or insn.name == "pause"
        # REX.W wins over 66 for push, pop, pushf and leave too.
        or (b"\x66" in prefixes[0] and wide and insn.name in ("push", "pop", "pushf", "leave"))
        # With an address size prefix, 63 without REX.W and the fences are refused or taken for other instructions.
        or (b"\x67" in prefixes[0] and insn.name in ("movsxd", "mfence", "lfence", "sfence", "endbr64"))
        # Of two segment prefixes we take the last that means something (the manual allows one).
        or len(re.findall(rb"[\x26\x2e\x36\x3e\x64\x65]", prefixes[0])) > 1
        # F2 or F3 with 66 on an instruction that takes neither.
        or (theirs is None and (b"\xf2" in prefixes[0] or b"\xf3" in prefixes[0]))
        # A prefix of a segment that does not exist, before a fixed ModRM byte.
        or (theirs is None and insn.name.endswith("fence"))
    )


def same(insn: Decoded, theirs: str) -> bool:
    return normal(insn.text()) == normal(theirs)


def test_patterns_against_capstone() -> None:
    """Instructions drawn from our rows are the same for capstone: length, mnemonic and operands."""
    capstone = pytest.importorskip("capstone")
    theirs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    rng = random.Random(1)
    for _ in range(COUNT):
        code = ISA.random(rng)
        insn = ISA.decode(code)
        found = next(theirs.disasm_lite(code, 0), None)
        text = None if found is None else f"{found[2]} {found[3]}".strip()
        good = found is not None and found[1] == insn.length and text is not None and same(insn, text)
        assert good or known(code, insn, text), f"{code.hex()} {insn.text()}: {text}"


def test_random_bytes_against_capstone() -> None:
    """What we decode of random bytes, capstone decodes alike; we miss nothing of the instructions that we have whole."""
    capstone = pytest.importorskip("capstone")
    theirs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    rng = random.Random(2)
    whole = re.compile(
        r"(add|adc|sub|sbb|cmp|and|or|xor|test|inc|dec|neg|not|lea|movzx|movsx|xadd|cmpxchg|setn?[boszlpe]) "
    )
    decoded = 0
    for _ in range(COUNT):
        code = rng.randbytes(15)
        found = next(theirs.disasm_lite(code, 0), None)
        text = None if found is None else f"{found[2]} {found[3]}".strip()
        try:
            insn = ISA.decode(code)
        except DecodeError:
            assert text is None or not whole.match(text), f"{code.hex()}: {text}"
            continue
        decoded += 1
        code = code[: insn.length]
        good = found is not None and found[1] == insn.length and text is not None and same(insn, text)
        assert good or known(code, insn, text), f"{code.hex()} {insn.text()}: {text}"
    assert decoded > COUNT // 3


def test_text_is_assembled_back() -> None:
    """To the shortest encoding, which reads back as the same text."""
    rng = random.Random(3)
    for _ in range(1500):
        code = ISA.random(rng)
        text = ISA.decode(code).text()
        made = ISA.assemble(text)
        assert (
            len(made) <= len(code) or code[0] == 0x67
        )  # a short absolute address, for which there is no text
        assert ISA.decode(made).text() == text


def test_keystone_reads_our_text() -> None:
    """LLVM's assembler gives bytes that decode to the same instruction."""
    keystone = pytest.importorskip("keystone")
    theirs = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    rng = random.Random(4)
    # keystone 0.9 takes a number as an absolute target, knows no endbr64, wants other names for movsxd without REX.W
    # and for movsd, makes prefetches of nops, and moves eip to rax.
    excluded = ("jmp", "jcc", "call", "endbr64", "movsxd", "movs", "nop.modrm")
    names = [name for name in ISA.instructions if name not in excluded]
    for _ in range(3000):
        insn = ISA.decode(ISA.random(rng, names))
        text, narrow = insn.text(), insn.fields["w"] == 16
        if (
            "[eip" in text
            or (narrow and insn.name in ("movsx", "movzx", "push"))
            or text.startswith("xchg eax")
        ):
            continue
        made, _ = theirs.asm(text, 0)
        assert made is not None, text
        assert ISA.decode(bytes(made)).text() == text, bytes(made).hex()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("4801d8", "add rax, rbx"),
        ("00e0", "add al, ah"),
        ("4000e0", "add al, spl"),
        ("66f30f6fc1", "movdqu xmm0, xmm1"),
        ("f3c3", "ret"),
        ("4190", "xchg r8d, eax"),
        ("90", "nop"),
        ("6690", "nop"),
        ("f390", "pause"),
        # The last REX prefix counts, and only right before the opcode (so do processors).
        ("4848c7c001000000", "mov rax, 1"),
        ("4840c7c001000000", "mov eax, 1"),
        ("486689d8", "mov ax, bx"),
        ("f04801d8", None),
        ("62f17c4828c0", None),
        ("c5fa6fc1", None),
        ("06", None),
        ("0f10", None),
        ("", None),
        ("66" * 14 + "90", "nop"),
        ("66" * 15 + "90", None),
    ],
)
def test_encodings(code: str, text: str | None) -> None:
    data = bytes.fromhex(code)
    if text is None:
        with pytest.raises(DecodeError):
            ISA.decode(data)
    else:
        insn = ISA.decode(data)
        assert (insn.text(), insn.length) == (text, len(data))


def test_length_of_an_instruction_that_is_cut_off() -> None:
    """One more than there are bytes, so that the missing one is fetched and faults; 1 for no instruction."""
    whole = bytes.fromhex("48c7442410efbeadde")
    assert ISA.length(whole) == len(whole)
    for size in range(len(whole)):
        assert ISA.length(whole[:size]) == size + 1
    assert ISA.length(b"\x06") == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("66e80000", "the 16-bit form"),
        ("660fc8", "the 16-bit form"),
        ("67a4", "another address size or segment"),
        ("64a4", "another address size or segment"),
    ],
)
def test_refused_with_a_reason(code: str, why: str) -> None:
    with pytest.raises(Unimplemented, match=why):
        ISA.decode(bytes.fromhex(code) + bytes(8))


@pytest.mark.parametrize(
    ("rows", "parameters", "problem"),
    [
        ("00 Eb,Gb", "dst", "has 2 operands, not 1"),
        ("00 Eb,Kb", "dst, src", "no operand code 'Kb'"),
        ("XX Eb", "dst", "not an encoding"),
        ("00 Eb,Gb; 00 Eb,Gb", "dst, src", "overlaps"),
        ("0F 38 F0 Gv", "dst", "no opcode map"),
    ],
)
def test_rows_that_are_refused(rows: str, parameters: str, problem: str) -> None:
    function = eval(f"lambda {parameters}: None")
    with pytest.raises(SpecError, match=problem):
        X86().encodings(rows, name="it")(function)


def test_rows_are_defined_once_and_options_known() -> None:
    isa = X86()
    isa.encodings("90", name="nop")(lambda: None)
    with pytest.raises(SpecError, match="defined twice"):
        isa.encodings("91", name="nop")(lambda: None)
    with pytest.raises(SpecError, match="no option fast"):
        isa.encodings("92", "fast")


def test_shapes_stay_few() -> None:
    """Native engines make a handler for each; each must fit in a record: four registers, two numbers."""
    total = 0
    for insn in ISA.instructions.values():
        for statics in ISA.variants(insn):
            template = insn.template(statics)
            total += 1
            registers = {index for _, index in (*template.reads, *template.writes) if isinstance(index, str)}
            numbers = {op.attr for op in template.ops if op.code == "field"}
            assert len(registers) <= 4, template
            assert len(numbers) <= 2, template
    assert total < 1200


def test_variants_are_what_decoding_gives() -> None:
    """The shapes made ahead of time are among those that code has, and cover nearly all of it."""
    rng = random.Random(6)
    ahead = {
        (insn.name, *statics.values()) for insn in ISA.instructions.values() for statics in ISA.variants(insn)
    }
    hits = 0
    for _ in range(3000):
        insn = ISA.decode(ISA.random(rng))
        hits += (insn.insn.name, *(insn.fields[name] for name in insn.insn.statics)) in ahead
    assert hits > 2000


# -- semantics --------------------------------------------------------------------------------------------------------

NATIVE = Path(__file__).parent / "native_x86.py"


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux",
    reason="needs an x86-64 Linux host, whose processor is the oracle",
)
def test_semantics_against_the_processor() -> None:
    """The very bytes, run natively; flags that the manual leaves undefined are not compared."""
    done = subprocess.run(
        [sys.executable, str(NATIVE), "1", "8000"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    *differences, summary = done.stdout.splitlines()
    assert not differences, "\n".join(differences[:10])
    ran = json.loads(summary)["ran"]
    missed = set(ISA.instructions) - set(ran) - {"syscall", "ud2", "hlt", "int3"}
    assert not missed, "these never ran"


CODE, DATA, SIZE = 0x10000, 0x200000, 0x4000
MIDDLE = DATA + SIZE // 2
FLAG_BITS = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "df": 10, "of": 11}
# QEMU computes flags that the manual leaves undefined in its own way.
UNDEFINED = {
    **{name: {"af"} for name in ("and", "or", "xor", "test")},
    **{name: {"sf", "zf", "af", "pf"} for name in ("imul", "imul.imm", "imul.wide", "mul")},
    **{name: {"af", "of", "cf"} for name in ("shl", "shr", "sar")},
    **{name: {"of", "cf"} for name in ("rol", "ror")},
}
# Traps and control flow, which the processor has covered.
EXCLUDED = {
    "syscall",
    "ud2",
    "hlt",
    "int3",
    "jmp",
    "jmp.near",
    "jcc",
    "call",
    "call.near",
    "ret",
    "ret.n",
    "movs",
    "stos",
}


def test_semantics_against_unicorn() -> None:
    """A second opinion, on any host."""
    unicorn = pytest.importorskip("unicorn")
    const = pytest.importorskip("unicorn.x86_const")
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(CODE, 0x1000)
    uc.mem_map(DATA, SIZE)
    registers = [
        ("r", i, getattr(const, f"UC_X86_REG_{n.upper()}")) for i, n in enumerate(ISA.layout.files["r"].names)
    ]
    registers += [("xmm", i, getattr(const, f"UC_X86_REG_XMM{i}")) for i in range(16)]
    rng = random.Random(5)
    names = [name for name in ISA.instructions if name not in EXCLUDED]
    ran: Counter[str] = Counter()
    data = rng.randbytes(SIZE)
    with GuestMemory(bits=24) as memory:
        memory.map(DATA, SIZE, Prot.RW)
        for _ in range(4000):
            code = ISA.random(rng, names)
            insn = ISA.decode(code)
            cpu = ISA.cpu()
            cpu.pc = CODE
            for file, slot, _number in registers:
                cpu.set(file, slot, rng.getrandbits(128))
            for flag in FLAG_BITS:
                cpu[flag] = rng.getrandbits(1)
            cpu["rsp"], cpu["rbp"] = MIDDLE, MIDDLE + 64
            fields = insn.fields
            if insn.name == "lahf" and code != b"\x9f":
                continue  # QEMU 5 writes SPL, not AH, where there is a REX prefix
            if re.match(rb"(\x66.*\xf3|\xf3.*\x66).?\x0f", code):
                continue  # QEMU 5 lets 66 win over F3
            if insn.name == "cmpxchg" and insn.fields["w"] == 32:
                continue  # QEMU 5 zero-extends a register that was not equal
            if "disp" in fields:
                if fields["ea"] >> 5 or fields.get("index", 16) != 16 or fields.get("base", 16) == 16:
                    continue
                cpu.set("r", fields["base"], MIDDLE + 16 * rng.randrange(64) - fields["disp"])
            before = cpu.copy()
            memory.poke(DATA, data)
            if execute(ISA, insn, cpu, memory) not in (False, True):
                continue
            uc.mem_write(CODE, code)
            uc.mem_write(DATA, data)
            uc.ctl_remove_cache(CODE, CODE + 16)
            for file, slot, number in registers:
                uc.reg_write(number, before.get(file, slot))
            uc.reg_write(
                const.UC_X86_REG_EFLAGS, 2 | sum(before[name] << bit for name, bit in FLAG_BITS.items())
            )
            try:
                uc.emu_start(CODE, CODE + len(code), count=1)
            except unicorn.UcError as error:
                # QEMU 5 refuses F6/1, and C6 with REX.R, which processors take.
                assert error.errno == unicorn.UC_ERR_INSN_INVALID, f"{code.hex()} {insn.text()}"  # noqa: PT017
                assert insn.name in ("test", "mov"), f"{code.hex()} {insn.text()}"
                continue
            theirs = before.copy()
            for file, slot, number in registers:
                theirs.set(file, slot, uc.reg_read(number))
            flags = uc.reg_read(const.UC_X86_REG_EFLAGS)
            for name, bit in FLAG_BITS.items():
                theirs[name] = cpu[name] if name in UNDEFINED.get(insn.name, ()) else flags >> bit & 1
            theirs.pc = uc.reg_read(const.UC_X86_REG_RIP)
            ran[insn.name] += 1
            wrong = states_differ(ISA, cpu, theirs)
            assert not wrong, f"{code.hex()} {insn.text()}: {'; '.join(wrong)}"
            if insn.name != "pushf":  # IF, which QEMU starts with cleared
                assert uc.mem_read(DATA, SIZE) == memory.peek(DATA, SIZE), (
                    f"{code.hex()} {insn.text()}: memory"
                )
    assert len(ran) > 60
