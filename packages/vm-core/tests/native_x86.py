"""Run single x86-64 instructions on the host processor, and compare the reference executor with it.

Guest addresses are host addresses here: a code page and a scratch page are mapped at fixed low addresses, and the
executor has the same pages at the same place. An instruction runs natively only after the executor ran it without a
trap, so its accesses are known to fall into the scratch page. Run as a program, so that a mistake kills only that:

    python native_x86.py SEED COUNT [MNEMONIC ...]

prints one line for each difference, and a summary as the last line.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import platform
import random
import sys
from collections import Counter
from dataclasses import dataclass

from vm_core.execute import execute
from vm_core.isa.x86_64 import ISA
from vm_core.isa.x86_64.operands import FLAGS, NIL
from vm_core.memory import GuestMemory, Prot
from vm_core.spec import Decoded
from vm_core.state import CpuState

CODE, STATE, SCRATCH, PAGE = 0x1000_0000, 0x1000_1000, 0x1000_8000, 0x1000
AT = CODE
"""Where the instruction under test lies."""
ENTRY = CODE + 0xE00
TARGET = AT + 0x60
"""Where branches go: near enough for 8-bit distances."""
_AFTER = (CODE + 0x800, CODE + 0xA00)
_GPR, _XMM, _FLAGS, _HOST_RSP, _WENT = STATE, STATE + 128, STATE + 384, STATE + 392, STATE + 400
MASK = (1 << 64) - 1
FLAG_BITS = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "df": 10, "of": 11}
EDGES = (0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000)
EDGES = (*EDGES, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, 1 << 63, MASK, MASK - 1, 0xFFFF_FFFF_8000_0000)
# Need an operating system, the processor's privilege, or a segment base of our own.
EXCLUDED = {"syscall", "ud2", "hlt", "int3"}


def unavailable() -> str:
    """Why this host cannot do it, or nothing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the host is {platform.machine()}, not x86-64"
    if not sys.platform.startswith("linux"):
        return f"needs Linux to map pages at fixed addresses, not {sys.platform}"
    return ""


class Processor:
    """The host's processor behind a stub that loads and saves all registers."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._mprotect = libc.mprotect
        self._mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        fixed = 0x100000  # MAP_FIXED_NOREPLACE
        for address in (CODE, STATE, SCRATCH):
            # SAFETY: NOREPLACE maps nothing over what the process has; the pages live as long as the process.
            got = libc.mmap(address, PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed, -1, 0)
            if got != address:
                raise OSError(f"the host has something at {address:#x}")
        self.code, self.state, self.scratch = (
            (ctypes.c_ubyte * PAGE).from_address(address) for address in (CODE, STATE, SCRATCH)
        )
        self.code[:] = b"\xcc" * PAGE
        self._write(ENTRY, self._prologue())
        for number, after in enumerate(_AFTER):
            self._write(after, self._epilogue(number, after))
        self._write(TARGET, self._jump(TARGET, _AFTER[1]))
        self._enter = ctypes.CFUNCTYPE(None)(ENTRY)

    def _write(self, address: int, data: bytes) -> None:
        at = address - CODE
        self.code[at : at + len(data)] = data

    @staticmethod
    def _jump(at: int, to: int) -> bytes:
        return b"\xe9" + (to - at - 5).to_bytes(4, "little", signed=True)

    def _prologue(self) -> bytes:
        """Save what C expects to keep, then load everything: flags, xmm, general registers (rsp last)."""
        out = _Assembly(ENTRY)
        for push in ("53", "55", "4154", "4155", "4156", "4157"):
            out.raw(push)
        out.at("488925", _HOST_RSP)  # mov [rip+..], rsp
        out.at("ff35", _FLAGS)  # push qword [rip+..]
        for i in range(16):
            out.at(f"f3{0x44 if i > 7 else 0x40:02x}0f6f{i % 8 << 3 | 5:02x}", _XMM + 16 * i)  # movdqu
        out.raw("9d")  # popfq
        for i in range(16):
            out.at(f"{0x4C if i > 7 else 0x48:02x}8b{i % 8 << 3 | 5:02x}", _GPR + 8 * i)  # mov reg, [rip+..]
        return out.code + self._jump(ENTRY + len(out.code), AT)

    def _epilogue(self, number: int, at: int) -> bytes:
        out = _Assembly(at)
        for i in range(16):
            out.at(f"{0x4C if i > 7 else 0x48:02x}89{i % 8 << 3 | 5:02x}", _GPR + 8 * i)
        for i in range(16):
            out.at(f"f3{0x44 if i > 7 else 0x40:02x}0f7f{i % 8 << 3 | 5:02x}", _XMM + 16 * i)
        out.at("488b25", _HOST_RSP)  # mov rsp, [rip+..]
        out.raw("9c")  # pushfq
        out.at("8f05", _FLAGS)  # pop qword [rip+..]
        out.at("c705", _WENT, number.to_bytes(4, "little"))  # mov dword [rip+..], number
        out.raw("fc")  # cld
        for pop in ("415f", "415e", "415d", "415c", "5d", "5b", "c3"):
            out.raw(pop)
        return out.code

    def run(self, code: bytes, cpu: CpuState, scratch: bytes) -> int:
        """Execute ``code`` from ``cpu``, and put the results there. Returns the pc."""
        self.code[AT - CODE : TARGET - CODE] = (
            code + self._jump(AT + len(code), _AFTER[0]) + b"\xcc" * (TARGET - AT - len(code) - 5)
        )
        self.scratch[:] = scratch
        state = b"".join(cpu.get("r", i).to_bytes(8, "little") for i in range(16))
        state += b"".join(cpu.get("xmm", i).to_bytes(16, "little") for i in range(16))
        flags = 0x202 | sum(cpu[name] << bit for name, bit in FLAG_BITS.items())
        self.state[: len(state) + 8] = state + flags.to_bytes(8, "little")
        # SAFETY: the code page is writable or executable, never both; the stub restores what the ABI wants.
        self._mprotect(CODE, PAGE, 5)
        self._enter()
        self._mprotect(CODE, PAGE, 3)
        after = bytes(self.state)
        for i in range(16):
            cpu.set("r", i, int.from_bytes(after[8 * i : 8 * i + 8], "little"))
            cpu.set("xmm", i, int.from_bytes(after[128 + 16 * i : 144 + 16 * i], "little"))
        flags = int.from_bytes(after[384:392], "little")
        for name, bit in FLAG_BITS.items():
            cpu[name] = flags >> bit & 1
        return TARGET if after[400] else AT + len(code)


class _Assembly:
    """Instructions with one rip-relative operand each."""

    def __init__(self, start: int) -> None:
        self.code, self.start = b"", start

    def raw(self, text: str) -> None:
        self.code += bytes.fromhex(text)

    def at(self, text: str, address: int, rest: bytes = b"") -> None:
        head = bytes.fromhex(text)
        behind = self.start + len(self.code) + len(head) + 4 + len(rest)
        self.code += head + (address - behind).to_bytes(4, "little", signed=True) + rest


@dataclass
class Case:
    code: bytes
    insn: Decoded
    cpu: CpuState
    scratch: bytes


def prepare(rng: random.Random, names: list[str]) -> Case | None:
    """A random instruction with a state in which it touches only the scratch page; None if that did not work out."""
    code = ISA.random(rng, names)
    insn = ISA.decode(code, AT)
    fields = insn.fields
    if fields["ea"] >> 5 & 3:
        return None
    cpu = ISA.cpu()
    cpu.pc = AT
    for i in range(16):
        cpu.set("r", i, rng.choice(EDGES) if rng.random() < 0.4 else rng.getrandbits(64))
        cpu.set("xmm", i, rng.getrandbits(128))
    for name in FLAGS:
        cpu[name] = rng.getrandbits(1)
    cpu["rsp"] = SCRATCH + 0x800 + 8 * rng.randrange(16)
    if insn.name == "leave":
        cpu["rbp"] = SCRATCH + 0x800
    if insn.name in ("movs", "stos"):
        cpu["rsi"], cpu["rdi"] = (SCRATCH + 0x400 + rng.randrange(0x800) for _ in range(2))
        cpu["rcx"] = rng.randrange(20)
    scratch = bytearray(rng.randbytes(PAGE))
    goal = SCRATCH + 0x100 + (rng.randrange(0xE00) & (-16 if rng.random() < 0.8 else -1))
    if "disp" in fields:
        code = _aim(rng, code, insn, cpu, goal)
        insn = ISA.decode(code, AT)
        fields = insn.fields
    if insn.name in ("jmp", "jcc", "call"):
        wide = code[-5:-4] in (b"\xe9", b"\xe8") or (len(code) > 5 and code[-6:-5] == b"\x0f")
        size = 4 if wide else 1
        code = code[:-size] + (TARGET - AT - len(code)).to_bytes(size, "little")
        insn = ISA.decode(code, AT)
    elif insn.name in ("jmp.near", "call.near"):
        if "r0" in fields:
            if fields["r0"] == 4:
                return None
            cpu.set("r", fields["r0"], TARGET)
        else:
            scratch[goal - SCRATCH : goal - SCRATCH + 8] = TARGET.to_bytes(8, "little")
    elif insn.name.startswith("ret"):
        at = cpu["rsp"] - SCRATCH
        scratch[at : at + 8] = TARGET.to_bytes(8, "little")
    return Case(code, insn, cpu, bytes(scratch))


def _aim(rng: random.Random, code: bytes, insn: Decoded, cpu: CpuState, goal: int) -> bytes:
    """Make the effective address ``goal``, by the base register or by the displacement."""
    fields = insn.fields
    disp, kind = fields["disp"], fields["ea"] & 7
    raw = (disp & 0xFFFF_FFFF).to_bytes(4, "little")
    base, index = fields.get("base", NIL), fields.get("index", NIL)
    if kind == 2 or base == index == NIL:
        wanted = goal - (AT + len(code) if kind == 2 else 0)
        at = code.rfind(raw)
        return code if at < 0 else code[:at] + (wanted & 0xFFFF_FFFF).to_bytes(4, "little") + code[at + 4 :]
    scale = fields["scale"] if kind == 1 else fields["ea"] >> 3 & 3
    if base not in (NIL, index):
        if index != NIL and rng.random() < 0.5:
            cpu.set("r", index, rng.randrange(-64, 64) & MASK)
        part = cpu.get("r", index) << scale if index != NIL else 0
        cpu.set("r", base, goal - part - disp & MASK)
    elif base == index:
        cpu.set("r", base, (goal - disp) // ((1 << scale) + 1) & MASK)
    else:
        cpu.set("r", index, (goal - disp >> scale) & MASK)
    return code


def undefined(insn: Decoded, cpu: CpuState) -> set[str]:
    """The flags that the manual leaves undefined for this instruction in this state."""
    name = insn.name
    if name in ("and", "or", "xor", "test"):
        return {"af"}
    if name.startswith(("imul", "mul")):
        return {"sf", "zf", "af", "pf"}
    if name in ("shl", "shr", "sar", "rol", "ror"):
        width = insn.fields["w"]
        count = (insn.fields["imm"] if "imm" in insn.fields else cpu["rcx"]) & (63 if width == 64 else 31)
        out = {"of"} if count != 1 else set()
        if name[0] == "s" and count:
            out |= {"af", "cf"} if count >= width else {"af"}
        return out if count else set()
    return set()


def compare(seed: int, count: int, names: list[str]) -> tuple[Counter[str], list[str]]:
    """(cases that ran for each mnemonic, one line for each difference)."""
    rng = random.Random(seed)
    host = Processor()
    memory = GuestMemory(bits=29)
    memory.map(CODE, PAGE, Prot.RX)
    memory.map(SCRATCH, PAGE, Prot.RW)
    ran: Counter[str] = Counter()
    differences: list[str] = []
    for _ in range(count):
        case = prepare(rng, names)
        if case is None:
            continue
        memory.poke(SCRATCH, case.scratch)
        before, mine, theirs = case.cpu.copy(), case.cpu.copy(), case.cpu.copy()
        while (result := execute(ISA, case.insn, mine, memory)) is False and mine.pc == AT:
            pass
        if result not in (False, True) or mine.pc not in (AT + len(case.code), TARGET):
            continue
        ran[case.insn.name] += 1
        pc = host.run(case.code, theirs, case.scratch)
        ignored = undefined(case.insn, before)
        wrong = [
            f"{name}: {mine[name]:#x}, processor {theirs[name]:#x}"
            for file in ISA.layout.files.values()
            for name in file.names
            if name not in ignored and mine[name] != theirs[name]
        ]
        if mine.pc != pc:
            wrong.append(f"pc: {mine.pc:#x}, processor {pc:#x}")
        got = bytes(memory.view[SCRATCH : SCRATCH + PAGE])
        if got != bytes(host.scratch):
            at = next(i for i in range(PAGE) if got[i] != host.scratch[i])
            wrong.append(f"[{SCRATCH + at:#x}]: {got[at]:#x}, processor {host.scratch[at]:#x}")
        if wrong:
            differences.append(f"{case.code.hex()} {case.insn.text()}: {'; '.join(wrong)}")
    return ran, differences


def main() -> None:
    seed, count, *names = sys.argv[1:]
    ran, differences = compare(
        int(seed), int(count), names or [n for n in ISA.instructions if n not in EXCLUDED]
    )
    for line in differences[:50]:
        print(line)
    print(json.dumps({"ran": ran, "differences": len(differences)}))


if __name__ == "__main__":
    main()
