"""The vDSO: the shared object that Linux maps into each process, made here, byte by byte.

Its functions only make the system call. That is no loss: an engine that compiles answers these calls itself (see
:mod:`vm_core.linux.native`), in about the time that the kernel's own vDSO takes. What matters is that programs find the
object, its symbols and their version, and that a signal handler returns to code that unwinders know.

Linux 6.x: arch/riscv/kernel/vdso/vdso.lds.S, arch/arm64/kernel/vdso/vdso.lds.S, arch/x86/entry/vdso/vdso.lds.S; gABI 4.1
chapters 4 and 5; the GNU symbol versions of the LSB.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

from vm_core.hints import Final, NamedTuple
from vm_core.memory import PAGE

__all__ = ["SIGRETURN", "Vdso", "vdso_of"]

SIGRETURN: Final = ("__vdso_rt_sigreturn", "__kernel_rt_sigreturn")
"""Names of the function that a signal handler returns to."""
_LINUX: Final = 0x060600
"""The version in the note, as LINUX_VERSION_CODE: 6.6.0."""


class Vdso(NamedTuple):
    """The object's bytes, whole pages of them, and its functions by name: their offset and size in bytes."""

    data: bytes
    functions: dict[str, tuple[int, int]]

    @property
    def sigreturn(self) -> int:
        """The offset of what handlers return to; 0 where programs bring their own."""
        return next((self.functions[name][0] for name in SIGRETURN if name in self.functions), 0)


class _Kind(NamedTuple):
    machine: int
    flags: int
    version: str
    call: Callable[[int], bytes]
    """The code that makes the system call of that number and returns."""
    numbers: dict[str, int]


def _riscv64(number: int) -> bytes:
    # addi a7, zero, number; ecall; jalr zero, 0(ra)
    return struct.pack("<III", number << 20 | 0x893, 0x73, 0x8067)


def _aarch64(number: int) -> bytes:
    # movz x8, #number; svc #0; ret
    return struct.pack("<III", 0xD2800008 | number << 5, 0xD4000001, 0xD65F03C0)


def _x86_64(number: int) -> bytes:
    # mov eax, number; syscall; ret
    return struct.pack("<BI", 0xB8, number) + b"\x0f\x05\xc3"


_KINDS: Final = {
    "riscv64": _Kind(
        243,
        5,  # compressed instructions, doubles in registers
        "LINUX_4.15",
        _riscv64,
        {
            "__vdso_rt_sigreturn": 139,
            "__vdso_gettimeofday": 169,
            "__vdso_clock_gettime": 113,
            "__vdso_clock_getres": 114,
            "__vdso_getcpu": 168,
            "__vdso_flush_icache": 259,
            "__vdso_riscv_hwprobe": 258,
        },
    ),
    "aarch64": _Kind(
        183,
        0,
        "LINUX_2.6.39",
        _aarch64,
        {
            "__kernel_rt_sigreturn": 139,
            "__kernel_gettimeofday": 169,
            "__kernel_clock_gettime": 113,
            "__kernel_clock_getres": 114,
        },
    ),
    "x86_64": _Kind(
        62,
        0,
        "LINUX_2.6",
        _x86_64,
        {
            "__vdso_clock_gettime": 228,
            "__vdso_gettimeofday": 96,
            "__vdso_time": 201,
            "__vdso_clock_getres": 229,
            "__vdso_getcpu": 309,
        },
    ),
}
_SONAME: Final = "linux-vdso.so.1"


def _hash(name: str) -> int:
    """The gABI's hash of a symbol's name."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0x0FFF_FFFF
    return value


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    data: bytes
    link: int = 0
    info: int = 0
    align: int = 8
    entry: int = 0


@functools.cache
def vdso_of(isa: str) -> Vdso | None:
    """The vDSO of an ISA; None for one that has no Linux."""
    kind = _KINDS.get(isa)
    return None if kind is None else _build(kind)


def _build(kind: _Kind) -> Vdso:
    names = list(kind.numbers)
    text, functions = b"", {}
    for name, number in kind.numbers.items():
        code = kind.call(number)
        text += bytes(-len(text) % 16)
        functions[name] = (len(text), len(code))
        text += code
    strings, places = b"\0", {}
    for name in (*names, _SONAME, kind.version):
        places[name] = len(strings)
        strings += name.encode() + b"\0"
    buckets, chains = [0] * len(names), [0] * (len(names) + 1)
    for number, name in enumerate(names, 1):
        bucket = _hash(name) % len(buckets)
        chains[number], buckets[bucket] = buckets[bucket], number
    table = struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)
    versions = struct.pack(f"<{len(names) + 1}H", 0, *[2] * len(names))
    # Definition 1 is the object itself, 2 what its symbols have.
    definitions = b"".join(
        struct.pack(
            "<HHHHIIIII", 1, flags, number, 1, _hash(name), 20, 28 if number == 1 else 0, places[name], 0
        )
        for number, flags, name in ((1, 1, _SONAME), (2, 0, kind.version))
    )
    note = struct.pack("<III", 6, 4, 0) + b"Linux\0\0\0" + struct.pack("<I", _LINUX)
    entries = (14, 4, 5, 6, 10, 11, 0x6FFF_FFF0, 0x6FFF_FFFC, 0x6FFF_FFFD, 0)
    sections = [
        _Section(".hash", 5, 2, table, 2, entry=4),
        _Section(".dynsym", 11, 2, bytes(24 * (len(names) + 1)), 3, 1, entry=24),
        _Section(".dynstr", 3, 2, strings, align=1),
        _Section(".gnu.version", 0x6FFF_FFFF, 2, versions, 2, align=2, entry=2),
        _Section(".gnu.version_d", 0x6FFF_FFFD, 2, definitions, 3, 2),
        _Section(".note", 7, 2, note, align=4),
        _Section(".dynamic", 6, 2, bytes(16 * len(entries)), 3, entry=16),
        _Section(".text", 1, 6, text, align=16),
    ]
    at, starts = 64 + 3 * 56, {}
    for section in sections:
        at += -at % section.align
        starts[section.name] = at
        at += len(section.data)
    begin = starts[".text"]
    functions = {name: (begin + offset, size) for name, (offset, size) in functions.items()}
    symbols = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", places[name], 0x12, 0, len(sections), *functions[name]) for name in names
    )
    values = (
        places[_SONAME], starts[".hash"], starts[".dynstr"], starts[".dynsym"], len(strings), 24,
        starts[".gnu.version"], starts[".gnu.version_d"], 2, 0,
    )  # fmt: skip
    dynamic = b"".join(struct.pack("<QQ", *pair) for pair in zip(entries, values, strict=True))
    contents = {section.name: section.data for section in sections}
    contents |= {".dynsym": symbols, ".dynamic": dynamic}
    return Vdso(_file(kind, sections, contents, starts), functions)


def _file(kind: _Kind, sections: list[_Section], contents: dict[str, bytes], starts: dict[str, int]) -> bytes:
    """The headers, the sections where they are to start, and the table of sections."""
    labels, at = b"\0", {}
    for name in (*starts, ".shstrtab"):
        at[name] = len(labels)
        labels += name.encode() + b"\0"
    end = starts[".text"] + len(contents[".text"])
    table = end + len(labels) + -(end + len(labels)) % 8
    total = table + 64 * (len(sections) + 2)
    out = bytearray(total + -total % PAGE)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    struct.pack_into(
        "<16sHHIQQQIHHHHHH", out, 0, ident, 3, kind.machine, 1, starts[".text"], 64, table, kind.flags, 64, 56, 3,
        64, len(sections) + 2, len(sections) + 1,
    )  # fmt: skip
    segments = [
        (1, 5, 0, total, PAGE),
        (2, 4, starts[".dynamic"], len(contents[".dynamic"]), 8),
        (4, 4, starts[".note"], len(contents[".note"]), 4),
    ]
    for number, (what, flags, start, size, align) in enumerate(segments):
        struct.pack_into(
            "<IIQQQQQQ", out, 64 + 56 * number, what, flags, start, start, start, size, size, align
        )
    for number, section in enumerate(sections, 1):
        start, data = starts[section.name], contents[section.name]
        out[start : start + len(data)] = data
        struct.pack_into(
            "<IIQQQQIIQQ", out, table + 64 * number, at[section.name], section.kind, section.flags, start, start,
            len(data), section.link, section.info, section.align, section.entry,
        )  # fmt: skip
    out[end : end + len(labels)] = labels
    struct.pack_into(
        "<IIQQQQIIQQ",
        out,
        table + 64 * (len(sections) + 1),
        at[".shstrtab"],
        3,
        0,
        0,
        end,
        len(labels),
        0,
        0,
        1,
        0,
    )
    return bytes(out)
