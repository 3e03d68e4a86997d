"""Case files: one instruction a line, with the state before and after.

    # comment
    addi a0, a1, -1        | a1=0                            => a0=0xffffffffffffffff
    lw a0, 8(a1)           | a1=0x2000 [0x2008]=ffffffff     => a0=-1
    fadd.d fa0, fa1, fa2   | fa1=1.5d fa2=1.0d               => fa0=2.5d
    beq a0, a1, 16         |                                 => pc=+16
    lw a0, (zero)          |                                 => trap=load

Before ``=>``: what is not 0. Behind it: everything that changes, so a line also says that nothing else does. Values are
integers, doubles (``1.5d``), or NaN-boxed singles (``1.5s``); ``nans`` is the canonical NaN. ``[address]=bytes`` is
memory, hex bytes in address order. ``pc=+n`` is relative to the instruction, which stands at :data:`CODE`; the default
is the next instruction. ``flags=NX,OF`` (or ``none``) are the sticky exceptions, ``frm=2`` is the rounding mode.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm_core.engine import Engine, Syscall, Trap
from vm_core.memory import GuestMemory, Prot
from vm_core.spec.isa import Isa
from vm_core.state import CpuState

__all__ = ["CODE", "Case", "read_cases"]

CODE: Final = 0x4_0000
"""The address of the instruction."""
_MEMORY: Final = (0x1000, 0x3000)
"""The data pages: [0x1000, 0x4000)."""
_FLAGS: Final = {"NX": 1, "UF": 2, "OF": 4, "DZ": 8, "NV": 16}


@dataclass(frozen=True, slots=True)
class Case:
    """``where`` is file:line. ``before`` and ``after`` map what is written on the line to its text."""

    where: str
    text: str
    before: dict[str, str]
    after: dict[str, str]

    @property
    def mnemonic(self) -> str:
        return self.text.split()[0]

    def run(self, isa: Isa, factory: Callable[[Isa, GuestMemory], Engine]) -> list[str]:
        """Execute it on a new engine. Returns what is not as written, empty if all is."""
        code = isa.assemble(self.text)
        with GuestMemory(bits=20) as memory:
            memory.map(_MEMORY[0], _MEMORY[1], Prot.RW)
            memory.map(CODE, 0x1000, Prot.RX)
            memory.poke(CODE, code)
            engine = factory(isa, memory)
            try:
                return self._run(isa, engine, memory, len(code))
            finally:
                engine.close()

    def _run(self, isa: Isa, engine: Engine, memory: GuestMemory, length: int) -> list[str]:
        cpu, expected = isa.cpu(), isa.cpu()
        cpu.pc = CODE
        for name, value in self.before.items():
            self._set(cpu, memory, name, value)
            self._set(expected, memory, name, value)
        contents = bytearray(memory.peek(*_MEMORY))
        expected.pc = CODE + length
        exit_ = "budget"
        for name, value in self.after.items():
            if name == "trap":
                exit_ = value
                expected.pc = CODE + length if value == "syscall" else CODE
            elif name.startswith("["):
                at = int(name[1:-1], 0) - _MEMORY[0]
                contents[at : at + len(value) // 2] = bytes.fromhex(value)
            else:
                self._set(expected, memory, name, value)
        result = engine.run(cpu, memory, 1)
        found = result.cause.value if isinstance(result, Trap) else "syscall" if isinstance(result, Syscall) else "budget"
        wrong = [] if found == exit_ else [f"{found} instead of {exit_}"]
        ours, right = cpu.snapshot(), expected.snapshot()
        for name in ("fp_flags", "fp_rounding"):
            ours[name], right[name] = cpu.header(name), expected.header(name)
        wrong += [f"{name} is {ours[name]:#x}, not {right[name]:#x}" for name in ours if ours[name] != right[name]]
        now = memory.peek(*_MEMORY)
        wrong += [f"[{_MEMORY[0] + i:#x}] is {now[i]:#04x}, not {b:#04x}" for i, b in enumerate(contents) if now[i] != b]
        return wrong

    @staticmethod
    def _set(cpu: CpuState, memory: GuestMemory, name: str, text: str) -> None:
        if name == "pc":
            cpu.pc = (CODE if text[0] in "+-" else 0) + int(text, 0)
        elif name == "flags":
            cpu.header("fp_flags", sum(_FLAGS[flag] for flag in text.split(",") if flag != "none"))
        elif name == "frm":
            cpu.header("fp_rounding", int(text, 0))
        elif name.startswith("["):
            memory.write(int(name[1:-1], 0), bytes.fromhex(text))
        else:
            cpu[name] = _value(text)


def _value(text: str) -> int:
    if text.startswith(("0x", "-0x")) or text[-1] not in "sd":
        # 128 bits: the widest register; the register file cuts off.
        return int(text, 0) & (1 << 128) - 1
    number = float(text[:-1])
    if text[-1] == "d":
        return 0x7FF8 << 48 if number != number else int(struct.unpack("<Q", struct.pack("<d", number))[0])
    single = 0x7FC0_0000 if number != number else int(struct.unpack("<I", struct.pack("<f", number))[0])
    return 0xFFFF_FFFF << 32 | single


def _cells(text: str) -> dict[str, str]:
    out = {}
    for word in text.split():
        found = re.fullmatch(r"([\w.]+|\[\w+\])=(\S+)", word)
        if not found:
            raise ValueError(f"not name=value: {word!r}")
        out[found[1]] = found[2]
    return out


def read_cases(paths: Iterable[Path]) -> list[Case]:
    """The cases of these files. Raises ValueError with file:line for a line that is none."""
    out = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            where = f"{path.name}:{number}"
            left, arrow, after = line.partition("=>")
            text, bar, before = left.partition("|")
            if not arrow or not bar:
                raise ValueError(f"{where}: not `instruction | before => after`")
            try:
                out.append(Case(where, " ".join(text.split()), _cells(before), _cells(after)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    return out
