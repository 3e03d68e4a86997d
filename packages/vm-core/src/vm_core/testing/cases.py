"""Cases: one line that says what one instruction does, run on every engine.

    add x0, x1, x2, lsl #3 | x1=5 x2=7 => x0=0x3d
    ldr x0, [x1, #8] | x1=0x100000 [0x100008]=0102030405060708 => x0=0x807060504030201
    b #8 | => pc=0x10008

Left of ``|`` is the assembly, or ``.bytes`` and hexadecimal digits. Registers that are not named hold 0, and must not
change; memory is bytes in order of address, and holds 0 where only the results name it. Values are integers, doubles
(``1.5d``) or NaN-boxed singles (``1.5s``; ``nans`` is the canonical NaN). The pc must be behind the instruction unless
it is named; ``pc=+8`` is relative. ``flags=NX,OF`` (or ``none``) are RISC-V's sticky exceptions, ``frm=2`` its rounding
mode; where a case does not name them they must not change. ``trap=CAUSE`` instead of results is a trap that changes
nothing. ``#`` starts a comment; blank lines are skipped.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm_core.engine import Budget, Engine, Syscall, Trap
from vm_core.memory import GuestMemory
from vm_core.spec.isa import Isa
from vm_core.state import CpuState

__all__ = ["CODE", "Case", "read_cases"]

CODE: Final = 0x1_0000
_FLAGS: Final = {"none": 0, "NX": 1, "UF": 2, "OF": 4, "DZ": 8, "NV": 16}
_HEADERS: Final = {"flags": "fp_flags", "frm": "fp_rounding"}
_SETTING = re.compile(r"(?:(\w+)|\[(\w+)\])=(\S+)")


@dataclass(frozen=True, slots=True)
class Case:
    """``before`` and ``after`` map registers to values, ``content`` and ``stored`` addresses to bytes."""

    line: str
    assembly: str
    before: dict[str, int]
    content: dict[int, bytes]
    after: dict[str, int]
    stored: dict[int, bytes]
    trap: str

    @staticmethod
    def parse(line: str) -> Case:
        """Raises ValueError for a line that is no case."""
        assembly, bar, rest = line.partition("|")
        given, arrow, results = rest.partition("=>")
        if not bar or not arrow:
            raise ValueError(f"not a case (assembly | before => after): {line!r}")
        before, content, _ = _settings(given)
        after, stored, trap = _settings(results)
        return Case(line, assembly.strip(), before, content, after, stored, trap)

    def code(self, isa: Isa) -> bytes:
        """The bytes of the instruction."""
        if self.assembly.startswith(".bytes "):
            return bytes.fromhex(self.assembly.removeprefix(".bytes "))
        return isa.assemble(self.assembly)

    def problems(self, isa: Isa, engine: Engine, memory: GuestMemory) -> list[str]:
        """Run it; what is not as it should be. The code page and all pages named must be mapped."""
        code = self.code(isa)
        memory.poke(CODE, code)
        engine.invalidate(CODE, CODE + len(code))
        cpu = isa.cpu()
        cpu.pc = CODE
        for name, value in self.before.items():
            if name in _HEADERS:
                cpu.header(_HEADERS[name], value)
            else:
                cpu[name] = value
        for address, data in self.stored.items():
            memory.poke(address, bytes(len(data)))
        for address, data in self.content.items():
            memory.poke(address, data)
        expected = _snapshot(cpu) | {"pc": CODE + len(code)} | self.after
        result = engine.run(cpu, memory, 1)
        if self.trap == "syscall":
            if not isinstance(result, Syscall):
                return [f"{result}, expected a system call"]
        elif self.trap:
            if not isinstance(result, Trap) or result.cause.value != self.trap:
                return [f"{result}, expected a trap: {self.trap}"]
            expected["pc"] = CODE
        elif not isinstance(result, Budget | Syscall):
            return [f"{result}"]
        got = _snapshot(cpu)
        got |= {name: cpu[name] for name in expected if name not in got}
        out = [
            f"{name}={got[name]:#x}, expected {value:#x}"
            for name, value in expected.items()
            if got[name] != value
        ]
        for address, data in {**self.content, **self.stored}.items():
            if (found := memory.peek(address, len(data))) != data:
                out.append(f"[{address:#x}]={found.hex()}, expected {data.hex()}")
        return out


def _snapshot(cpu: CpuState) -> dict[str, int]:
    """The registers, and the flags and the rounding mode where those are RISC-V's."""
    riscv = {name: cpu.header(word) for name, word in _HEADERS.items()} if "ft0" in cpu else {}
    return cpu.snapshot() | riscv


def _value(name: str, text: str) -> int:
    if name == "flags":
        return sum(_FLAGS[flag] for flag in text.split(","))
    if name == "pc" and text[0] in "+-":
        return CODE + int(text, 0)
    if text.startswith(("0x", "-0x")) or text[-1] not in "sd":
        number = int(text, 0)
        return number if number >= 0 else number & (1 << 64) - 1
    value = float(text[:-1])
    if text[-1] == "d":
        return 0x7FF8 << 48 if math.isnan(value) else int.from_bytes(struct.pack("<d", value), "little")
    single = 0x7FC0_0000 if math.isnan(value) else int.from_bytes(struct.pack("<f", value), "little")
    return 0xFFFF_FFFF << 32 | single


def _settings(text: str) -> tuple[dict[str, int], dict[int, bytes], str]:
    registers: dict[str, int] = {}
    memory: dict[int, bytes] = {}
    trap = ""
    for word in text.split():
        found = _SETTING.fullmatch(word)
        if not found:
            raise ValueError(f"not register=value, [address]=bytes or trap=cause: {word!r}")
        name, address, value = found.groups()
        if address:
            memory[int(address, 0)] = bytes.fromhex(value)
        elif name == "trap":
            trap = value
        else:
            registers[name] = _value(name, value)
    return registers, memory, trap


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of a file. Raises ValueError with the line that is wrong."""
    for line in path.read_text("utf-8").splitlines():
        text = line.partition("  #")[0].strip()
        if text and not text.startswith("#"):
            yield Case.parse(text)
