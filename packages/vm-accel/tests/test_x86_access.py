"""The decoder of accesses against capstone, and their completion on a made-up guest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import capstone
import keystone
import pytest
from capstone import x86 as cs

from vm_accel.completion import X86_NAMES, Fault, Touch, Undecided, by_text, finished, port_string, x86_move
from vm_accel.x86_access import Kind, Move, decode
from vm_core.isa import get
from vm_core.state import CpuState

_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
_STRINGS = {"movs": Kind.MOVS, "stos": Kind.STOS, "lods": Kind.LODS, "ins": Kind.INS, "outs": Kind.OUTS}


def disassembler(mode: int) -> capstone.Cs:
    made = capstone.Cs(capstone.CS_ARCH_X86, _MODES[mode])
    made.detail = True
    return made


OPCODES = [
    *(bytes([byte]) for byte in (0x88, 0x89, 0x8A, 0x8B, 0xC6, 0xC7, 0x63)),
    *(bytes([0x0F, byte]) for byte in (0xB6, 0xB7, 0xBE, 0xBF)),
    *(bytes([byte]) for byte in range(0xA0, 0xA4)),
    *(bytes([byte]) for byte in (0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD, 0x6C, 0x6D, 0x6E, 0x6F)),
    *(bytes([byte]) for byte in (0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF)),
]


def encodings(mode: int) -> Iterator[bytes]:
    """Every opcode with every useful combination of prefixes and a choice of operands."""
    rng = random.Random(mode)
    rexes = [b"", b"\x40", b"\x44", b"\x48", b"\x4f"] if mode == 64 else [b""]
    for opcode, narrow, short, segment, rep, rex in itertools.product(
        OPCODES, (b"", b"\x66"), (b"", b"\x67"), (b"", b"\x64", b"\x26"), (b"", b"\xf3"), rexes
    ):
        if rep and opcode[0] not in range(0x6C, 0x70) and opcode[0] not in range(0xA4, 0xAE):
            continue
        if narrow and rex and rex[0] & 8 and opcode[0] in {*range(0x6C, 0x70), *range(0xE4, 0xF0)}:
            continue  # REX.W comes before 66 (SDM 2.2.1.2), which capstone does not know of port instructions
        for modrm in rng.sample(range(0xC0), 6):
            digit = 0 if opcode[0] in (0xC6, 0xC7) else 0x38
            tail = bytes([modrm & (0xC7 | digit)]) + rng.randbytes(15)
            yield (narrow + short + segment + rep + rex + opcode + tail)[:15]


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_moves_are_what_capstone_says(mode: int) -> None:
    oracle, seen = disassembler(mode), 0
    for code in encodings(mode):
        found = next(oracle.disasm(code, 0x1000), None)
        ours = decode(code, mode)
        if found is None:
            continue
        name = found.mnemonic.split()[-1]
        if name == "movabs":
            name = "mov"
        if not name.startswith(("mov", "stos", "lods", "in", "out")) or name.startswith("arpl"):
            assert ours is None, (code.hex(), found.mnemonic)
            continue
        assert ours is not None, (code.hex(" "), found.mnemonic, found.op_str)
        seen += 1
        what = (code.hex(" "), found.mnemonic, found.op_str, ours)
        assert ours.length == found.size, what
        kinds = [one for key, one in _STRINGS.items() if name[:-1] == key and name != "movsx"]
        if kinds:
            assert ours.kind is kinds[0], what
            assert ours.size == {"b": 1, "w": 2, "d": 4, "q": 8}[name[-1]], what
            assert ours.rep == found.mnemonic.startswith("rep"), what
            assert ours.address_size == found.addr_size, what
            continue
        check_move(ours, found, what)
    assert seen > 500


def check_move(ours: Move, found: capstone.CsInsn, what: object) -> None:
    first, second = found.operands
    if found.mnemonic in ("in", "out"):
        register, other = (first, second) if found.mnemonic == "in" else (second, first)
        assert ours.kind is (Kind.LOAD if found.mnemonic == "in" else Kind.STORE), what
        assert (ours.register, ours.size) == (0, register.size), what
        return
    memory, other = (first, second) if first.type == cs.X86_OP_MEM else (second, first)
    assert ours.kind is (Kind.STORE if memory is first else Kind.LOAD), what
    # capstone takes MOVSXD with an operand size of 16 for one that reads 32 bits; the SDM says r16, r/m16.
    assert ours.size == (2 if found.mnemonic == "movsxd" and other.size == 2 else memory.size), what
    if other.type == cs.X86_OP_IMM:
        assert ours.register is None, what
        assert ours.immediate == other.imm & (1 << 8 * ours.size) - 1, what
        return
    name = found.reg_name(other.reg)
    assert ours.width == other.size, what
    assert ours.signed == found.mnemonic.startswith("movs"), what
    assert ours.high == (name in ("ah", "bh", "ch", "dh")), what
    assert ours.register == number(name), what


def number(name: str) -> int:
    """Of a general register by the name of one of its parts."""
    if name[0] == "r" and name[1].isdigit():
        return int(name[1:].rstrip("bwd"))
    letters = name.strip("er").rstrip("lhx") if len(name) < 4 else name
    for index, full in enumerate(X86_NAMES[:8]):
        if name in (full, "e" + full[1:], full[1:], full[1] + "l", full[1] + "h", full[1:] + "l"):
            return index
    raise AssertionError((name, letters))


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_no_bytes_make_the_decoder_fail(mode: int) -> None:
    rng = random.Random(1)
    for _ in range(20000):
        code = rng.randbytes(rng.randrange(16))
        found = decode(code, mode)
        assert found is None or 0 < found.length <= len(code)


class Guest:
    """Registers, RAM below 64 KiB behind an offset of the page tables, and nothing else; page 5 is forbidden."""

    def __init__(self, **registers: int) -> None:
        self.values = {"rflags": 2, "cs.access": 1 << 13, **registers}
        self.memory = bytearray(0x10000)

    def get(self, name: str) -> int:
        return self.values.get(name, 0)

    def put(self, name: str, value: int) -> None:
        self.values[name] = value

    def translate(self, address: int, *, is_write: bool) -> int:
        if address >> 12 == 0x105:
            raise Fault(address, is_write=is_write)
        return address - 0x10_0000

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        return memoryview(self.memory)[address : address + size] if 0 <= address < 0x10000 else None


def test_an_element_across_a_page_goes_byte_by_byte() -> None:
    guest = Guest(rsi=0x10_0FFE, rdi=0x20_0000, rcx=1)
    guest.memory[0xFFE:0x1002] = b"abcd"
    move = decode(b"\xf3\xa5", 64)
    assert move is not None
    assert list(x86_move(guest, move, 0x10_0000)) == [
        Touch(0x10_0000, 4, True, int.from_bytes(b"abcd", "little"))
    ]
    assert (guest.get("rsi"), guest.get("rcx")) == (0x10_1002, 0)
    assert finished(guest, move)


def test_a_forbidden_page_is_the_guests_fault() -> None:
    guest = Guest(rsi=0x10_5000, rdi=0x20_0000)
    move = decode(b"\xa4", 64)
    assert move is not None
    with pytest.raises(Fault) as raised:
        next(x86_move(guest, move, 0x10_0000))
    assert (raised.value.address, raised.value.is_write) == (0x10_5000, False)


def test_an_output_string_stops_before_a_forbidden_page() -> None:
    guest = Guest(rsi=0x10_4FFE, rcx=5)
    guest.memory[0x4FFE:0x5000] = b"xy"
    move = decode(b"\xf3\x6e", 64)
    assert move is not None
    with pytest.raises(StopIteration) as done:
        next(port_string(guest, move, None))
    assert done.value.value == b"xy"
    assert guest.get("rcx") == 3
    assert not finished(guest, move)


def run(text: str, guest: Guest, answers: list[int]) -> tuple[list[Touch], CpuState]:
    isa = get("x86_64")
    cpu = CpuState(isa.layout)
    for name, value in guest.values.items():
        if name in cpu:
            cpu[name] = value
    code, _ = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64).asm(text, 0)
    steps, touches, answer = by_text(isa, bytes(code), guest, cpu), [], None
    try:
        while True:
            touch = steps.send(answer)  # type: ignore[arg-type]
            touches.append(touch)
            answer = 0 if touch.is_write else answers.pop(0)
    except StopIteration:
        return touches, cpu


def test_an_instruction_by_its_text_writes_ram_once() -> None:
    """PUSH from a device: the answer comes after nothing, the store to RAM happens once."""
    guest = Guest(rdi=0x20_0000, rsp=0x10_2000)
    touches, cpu = run("push qword ptr [rdi]", guest, [0x1234])
    assert touches == [Touch(0x10_0000, 8, False)]
    assert guest.memory[0x1FF8:0x2000] == (0x1234).to_bytes(8, "little")
    assert cpu["rsp"] == 0x10_1FF8


def test_the_text_reads_ram_and_writes_a_device() -> None:
    guest = Guest(rdi=0x20_0000, rsp=0x10_2000)
    guest.memory[0x2000:0x2008] = b"ABCDEFGH"
    touches, cpu = run("pop qword ptr [rdi]", guest, [])
    assert touches == [Touch(0x10_0000, 8, True, int.from_bytes(b"ABCDEFGH", "little"))]
    assert cpu["rsp"] == 0x10_2008


def test_what_has_no_text_is_undecided() -> None:
    guest = Guest()
    isa = get("x86_64")
    for code in (b"\x0f\xae\x07", b"\xc4\xe2\x7d\x58\x07", b"\x06"):  # fxsave, a VEX prefix, no instruction
        with pytest.raises(Undecided):
            next(by_text(isa, code, guest, CpuState(isa.layout)))
