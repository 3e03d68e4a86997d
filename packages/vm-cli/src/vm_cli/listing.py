"""Instructions as text, where they are defined, and the system calls: what ``disasm``, ``where`` and ``syscalls`` show."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vm_core import isa as isas
from vm_core.errors import DecodeError, UsageError
from vm_core.spec.isa import Isa

__all__ = ["Line", "definition", "of_file", "of_hex", "system_calls"]

_LONGEST = 15  # bytes of the longest instruction of any ISA


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction at a guest address, or bytes that are none. ``label`` is the symbol that starts here."""

    address: int
    data: bytes
    assembly: str
    label: str = ""

    def text(self) -> str:
        return f"{self.address:>12x}:  {self.data.hex(' '):<24} {self.assembly}"

    def facts(self) -> dict[str, Any]:
        return {"address": self.address, "bytes": self.data.hex(), "text": self.assembly, "label": self.label}


def _lines(isa: Isa, data: bytes, start: int, labels: dict[int, str]) -> Iterator[Line]:
    at = 0
    while at < len(data):
        window = data[at : at + _LONGEST]
        try:
            decoded = isa.decode(window, start + at)
            length, text = decoded.length, decoded.text()
        except DecodeError as error:
            length = min(isa.unit, len(window))
            why = "" if type(error) is DecodeError else f"  # {error}"
            text = f".byte {', '.join(f'{byte:#04x}' for byte in window[:length])}{why}"
        yield Line(start + at, window[:length], text, labels.get(start + at, ""))
        at += length


def _take(lines: Iterator[Line], count: int | None) -> list[Line]:
    out: list[Line] = []
    for line in lines:
        if count is not None and len(out) >= count:
            break
        out.append(line)
    return out


def _address(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"--start: {text!r} is neither an address nor a symbol") from None


def of_hex(text: str, isa: str, start: str | None, count: int | None) -> list[Line]:
    """Disassemble bytes written in hex, in memory order. Raises UsageError."""
    cleaned = text.replace("0x", "").replace(",", " ")
    try:
        data = bytes.fromhex(cleaned)
    except ValueError:
        raise UsageError(
            f"--hex: {text!r} is not a row of hex bytes", hint="such as: --hex '13 05 10 00'"
        ) from None
    if not data:
        raise UsageError("--hex: no bytes")
    return _take(_lines(isas.get(isa), data, _address(start) if start else 0, {}), count)


def of_file(path: str, isa: str | None, start: str | None, count: int | None) -> list[Line]:
    """Disassemble the executable pages of a program. Raises LoadError and UsageError."""
    from vm_core.loader import load
    from vm_core.memory import GuestMemory, Prot

    with GuestMemory() as memory:
        image = load(path, memory, isas.get(isa).name if isa else None)
        symbols = image.symbols
        labels = {address: name for address, _size, name in symbols.entries}
        first = None
        if start is not None:
            first = symbols.by_name[start] if start in symbols.by_name else _address(start)
        out: list[Line] = []
        for region in memory.regions():
            if not region.prot & Prot.EXEC:
                continue
            begin = first if first is not None else min((a for a in (*labels, image.entry) if a in range(region.start, region.end)), default=region.start)  # fmt: skip
            if not region.start <= begin < region.end:
                continue
            data = memory.peek(begin, region.end - begin).rstrip(b"\0")
            left = None if count is None else count - len(out)
            out += _take(_lines(isas.get(image.isa_name), data, begin, labels), left)
        if first is not None and not out:
            raise UsageError(f"--start: {first:#x} is not in executable memory of {os.fspath(path)}")
        return out


def definition(isa: str, mnemonic: str) -> dict[str, Any]:
    """The place of an instruction's text. Raises UsageError with the nearest mnemonic."""
    found = isas.get(isa)
    name = mnemonic.lower()
    if name not in found.instructions:
        near = difflib.get_close_matches(name, found.instructions, 3)
        hint = f"did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"{found.name} has no instruction {mnemonic!r}", hint=hint)
    insn = found.find(name)
    file, line = insn.source
    return {"isa": found.name, "mnemonic": name, "file": file, "line": line}


def system_calls(isa: str, *, everything: bool) -> list[dict[str, Any]]:
    """The rows of the system call table that this ISA has, by number; without ``everything``, those that are answered."""
    from vm_core.linux.abi import abi_of
    from vm_core.linux.table import ABSENT, ROWS

    found_isa = isas.get(isa)
    abi = abi_of(found_isa.name, found_isa.layout)
    found = [(row.number(abi), row) for row in ROWS if everything or row.status != ABSENT]
    rows = [
        {"number": number, "name": row.name, "status": row.status, "note": row.note}
        for number, row in found
        if number is not None
    ]
    return sorted(rows, key=lambda row: row["number"])
