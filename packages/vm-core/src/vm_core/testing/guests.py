"""Small Linux programs for tests, from RISC-V assembly text, without a compiler.

    program('''
        li a7, 93        # exit
        li a0, 3
        ecall
    ''')

is the bytes of a static ELF file. Besides the instructions of the ISA there are labels (``name:``), ``li`` (32 bits),
``la``, ``mv``, ``j``, ``call``, ``ret``, ``.ascii "text"``, ``.zero N``, ``.align N``, ``.word V`` and ``.dword V``
(V may be a label). Comments start with #. All is in one segment that can be read, written and executed.
"""

from __future__ import annotations

import ast
import struct
from typing import Any, Final, Self

from vm_core import isa as isas
from vm_core.linux.abi import MASK64, s64
from vm_core.linux.process import Process

__all__ = ["BASE", "Caller", "elf", "labels_of", "program"]

BASE: Final = 0x10000
_OFFSET: Final = 0x1000


def elf(
    text: bytes,
    *,
    machine: int = 243,
    entry: int = BASE,
    extra: int = 0,
    flags: int = 7,
    kind: int = 2,
    base: int = BASE,
) -> bytes:
    """An ELF64 file with one segment: ``text`` at ``base``, followed by ``extra`` zero bytes."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, kind, machine, 1, entry, 64, 0, 5, 64, 56, 1, 64, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, flags, _OFFSET, base, base, len(text), len(text) + extra, 4096)
    return head.ljust(_OFFSET, b"\0") + text


def program(text: str, *, extra: int = 0) -> bytes:
    """The ELF file of a RISC-V assembly text. It starts at the label ``_start``, or else at its first line."""
    labels, items = _placed(text)
    out = b"".join(_encode(line, address, labels) for address, line in items)
    return elf(out, entry=labels.get("_start", BASE), extra=extra)


def labels_of(text: str) -> dict[str, int]:
    """The guest addresses of the labels of such a text."""
    return _placed(text)[0]


def _placed(text: str) -> tuple[dict[str, int], list[tuple[int, str]]]:
    """The addresses of the labels and of the lines."""
    lines = [line for line in (_strip(raw) for raw in text.splitlines()) if line]
    labels: dict[str, int] = {}
    at = BASE
    items: list[tuple[int, str]] = []
    for line in lines:
        while (name := line.partition(":")[0]).isidentifier() and ":" in line and not line.startswith("."):
            labels[name] = at
            line = line.partition(":")[2].strip()  # noqa: PLW2901 - several labels may stand before an instruction
        if line:
            items.append((at, line))
            at += len(_encode(line, at, None))
    return labels, items


def _strip(line: str) -> str:
    return line.strip() if '"' in line else line.partition("#")[0].strip()


def _value(text: str, labels: dict[str, int] | None) -> int:
    if labels is None and not text.lstrip("-")[:1].isdigit():
        return 0
    return labels[text] if labels is not None and text in labels else int(text, 0)


def _li(register: str, value: int) -> list[str]:
    if -2048 <= value < 2048:
        return [f"addi {register}, zero, {value}"]
    low = ((value & 0xFFF) ^ 0x800) - 0x800
    return [f"lui {register}, {value - low >> 12 & 0xFFFFF}", f"addiw {register}, {register}, {low}"]


def _encode(line: str, at: int, labels: dict[str, int] | None) -> bytes:
    """The bytes of one line at an address; before the labels are known, any bytes of the right length."""
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    operands = [part.strip() for part in rest.split(",")]
    match word:
        case ".ascii":
            data = ast.literal_eval(rest)
            return data.encode("latin-1") if isinstance(data, str) else bytes(data)
        case ".zero":
            return bytes(int(rest, 0))
        case ".align":
            return bytes(-at % int(rest, 0))
        case ".word":
            return (_value(rest, labels) & 0xFFFF_FFFF).to_bytes(4, "little")
        case ".dword":
            return (_value(rest, labels) & (1 << 64) - 1).to_bytes(8, "little")
        case "li":
            expanded = _li(operands[0], int(operands[1], 0))
        case "la":
            offset = _value(operands[1], labels) - at if labels is not None else 0
            low = ((offset & 0xFFF) ^ 0x800) - 0x800
            expanded = [
                f"auipc {operands[0]}, {offset - low >> 12 & 0xFFFFF}",
                f"addi {operands[0]}, {operands[0]}, {low}",
            ]
        case "mv":
            expanded = [f"addi {operands[0]}, {operands[1]}, 0"]
        case "j" | "call":
            expanded = [
                f"jal {'ra' if word == 'call' else 'zero'}, {_value(rest, labels) - at if labels else 0}"
            ]
        case "ret":
            expanded = ["jalr zero, 0(ra)"]
        case _:
            if operands[-1].isidentifier() and word[0] in "bj" and operands[-1] not in ("ra", "zero"):
                operands[-1] = str(_value(operands[-1], labels) - at) if labels else "0"
            expanded = [f"{word} {', '.join(operands)}".strip()]
    isa = isas.get("riscv64")
    return b"".join(isa.assemble(insn) for insn in expanded)


class Caller:
    """A process that has not started, whose system calls a test makes itself.

    ``call("openat", AT_FDCWD, "name", 0, 0)`` loads the argument registers and does the call as the run loop does; bytes
    and strings are first copied to guest memory (strings with a NUL). The result is signed: -errno for an error.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("engine", "reference")
        options.setdefault("stdio", (None, None, None))
        image = options.pop("image", None) or program("ebreak")
        self.process = Process([options.pop("argv0", "guest")], program=image, env={}, **options)
        self.thread = self.process.main
        self.memory = self.process.memory
        self.numbers = {row.name: number for number, (_, _, row) in self.process.calls.items()}
        self.buffer = self.process.stack_top - (4 << 20)
        """A guest address with 1 MiB of room, for results."""
        self._next = self.buffer + (1 << 20)

    def put(self, data: bytes | str) -> int:
        """Copy to guest memory; returns the address."""
        raw = data.encode() + b"\0" if isinstance(data, str) else data
        address = self._next
        self._next = (self._next + len(raw) + 15) & -16
        self.memory.poke(address, raw)
        return address

    def call(self, name: str, *args: int | bytes | str) -> int:
        """Raises ThreadEnd when the call ends the thread."""
        words, abi = self.thread.cpu.words, self.thread.abi
        mark = self._next
        for index in range(6):
            value = args[index] if index < len(args) else 0
            if isinstance(value, bytes | str):
                value = self.put(value)
            words[abi.argument_words[index]] = value & MASK64
        words[abi.number_word] = self.numbers[name]
        self.thread.call()
        self._next = mark
        return s64(words[abi.result_word])

    def get(self, length: int, at: int = 0) -> bytes:
        """Bytes of the result buffer."""
        return self.memory.peek(self.buffer + at, length)

    def close(self) -> None:
        self.process.end("stopped")
        self.process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
