"""Hot pieces of compiled code: the guest's instructions and what became of them on the host, side by side."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vm_core.errors import DecodeError

if TYPE_CHECKING:
    from vm_cli.profile import Functions
    from vm_core.spec.isa import Isa
    from vm_jit.profiler import HotCode

__all__ = ["Listing", "Row", "listings"]

_WIDTH = 52
"""Characters of the guest's side."""


@dataclass(slots=True)
class Row:
    """What was made from the guest instruction at ``pc``: ``guest`` is its text, ``host`` are the host's instructions."""

    pc: int
    function: str
    guest: str
    host: list[str]
    seconds: float


@dataclass(slots=True)
class Listing:
    """A piece of code of one tier."""

    tier: str
    seconds: float
    rows: list[Row]

    def text(self, total: float, names: Mapping[str, str]) -> str:
        """Lines for people; shares are of ``total`` seconds."""
        total = total or 1.0
        out = [
            f"{self.rows[0].function if self.rows else '?'}, {names[self.tier]}: {self.seconds / total:.1%} of the time"
        ]
        function = ""
        for row in self.rows:
            if row.function != function:
                function = row.function
                out.append(f"{'':8}{function}:")
            share = f"{row.seconds / total:6.1%}" if row.seconds else ""
            left = f"{share:>7} {row.pc:#x}  {row.guest}"
            for line in row.host or [""]:
                out.append(f"{left:<{_WIDTH}} | {line}".rstrip())
                left = ""
        return "\n".join(out) + "\n"

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "tier": self.tier,
            "seconds": self.seconds,
            "rows": [
                {
                    "pc": row.pc,
                    "function": row.function,
                    "guest": row.guest,
                    "host": row.host,
                    "seconds": row.seconds,
                }
                for row in self.rows
            ],
        }


def listings(found: Sequence[HotCode], functions: Functions, isa: Isa) -> list[Listing]:
    """The pieces as text."""
    out = []
    for piece in found:
        rows, at = [], piece.address
        for row in piece.rows:
            host = _host(row.code, at)
            rows.append(
                Row(
                    row.pc,
                    functions.name(row.pc) if row.pc else "",
                    _guest(functions, isa, row.pc),
                    host,
                    row.seconds,
                )
            )
            at += len(row.code)
        out.append(Listing(piece.tier, piece.seconds, rows))
    return out


def _guest(functions: Functions, isa: Isa, pc: int) -> str:
    """The instruction at a guest address, empty if its bytes are not to be had."""
    data = functions.code(pc, 15 if isa.unit == 1 else 4)
    try:
        return isa.decode(data, pc).text()
    except DecodeError:
        return ""


def _host(code: bytes, address: int) -> list[str]:
    """Host instructions as text: by capstone or objdump if they are there, else as bytes."""
    try:
        import capstone
    except ImportError:
        return _by_objdump(code, address)
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.skipdata = True
    return [f"{one.mnemonic} {one.op_str}".strip() for one in engine.disasm(code, address)]


def disassemblers() -> list[str]:
    """The programs that will be started to show the host's instructions."""
    if importlib.util.find_spec("capstone") is not None:
        return []
    found = shutil.which("objdump")
    return [os.path.realpath(found)] if found else []


def _by_objdump(code: bytes, address: int) -> list[str]:
    objdump = shutil.which("objdump")
    if objdump is None:
        return [code[at : at + 16].hex(" ") for at in range(0, len(code), 16)]
    # In memory: this process, and so objdump, can make no files.
    with open(os.memfd_create("vm-hot", os.MFD_CLOEXEC), "wb") as file:
        file.write(code)
        file.flush()
        words = [
            os.path.realpath(objdump),
            "-D",
            "-b",
            "binary",
            "-m",
            "i386:x86-64",
            "-M",
            "intel",
            f"--adjust-vma={address:#x}",
            f"/proc/self/fd/{file.fileno()}",
        ]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            pass_fds=[file.fileno()],
            check=False,
        )
    found = re.findall(r"^\s*[0-9a-f]+:\t[0-9a-f ]+\t(.+)$", done.stdout, re.MULTILINE)
    return [re.sub(r"\s+", " ", line).strip() for line in found]
