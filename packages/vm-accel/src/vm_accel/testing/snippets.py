"""Guest programs that every hypervisor must run alike, as data: code, and the exits that must be seen.

A row says nothing of how it is run: :mod:`vm_accel.testing.conformance` does that, with exits that are returned and again with a
bus. Where a hypervisor may split an access (repeated port I/O), neighbouring exits count as one.

The x86 guests have 2 MiB of memory without the hole from 0xA0000 to 0xFFFFF, nothing at MMIO, a stack that ends at 0x8000, and a
stub for each interrupt vector that says its number on port 0xEE and halts. In ``user`` mode they run in ring 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from vm_accel.exits import Exit, Halt, Hypercall, HypercallAbi, Mmio, PortIo, Shutdown, ShutdownKind
from vm_accel.interface import Feature

__all__ = ["CODE", "DATA", "MMIO", "SNIPPETS", "VECTOR_PORT", "Seen", "Snippet"]

CODE: Final = 0x1000
DATA: Final = 0x2000
MMIO: Final = 0xD000_0000
VECTOR_PORT: Final = 0xEE

_F = Feature
_KERNEL: Final = frozenset({_F.KERNEL_MODE})


class Seen(NamedTuple):
    """An exit that must come, and the answer to give it if it is a read."""

    exit: Exit
    answer: int | bytes | None = None


class Snippet(NamedTuple):
    """``code`` is assembled for ``isa`` in ``mode`` and put at CODE. ``before`` are registers at the start (general ones are 0),
    ``after`` those at the end; ``memory`` and ``memory_after`` are bytes by guest-physical address."""

    name: str
    isa: str
    mode: str
    code: str
    sees: tuple[Seen, ...]
    needs: frozenset[Feature] = frozenset()
    before: Mapping[str, int] = {}
    after: Mapping[str, int] = {}
    memory: Mapping[int, bytes] = {}
    memory_after: Mapping[int, bytes] = {}


_MODE_NEEDS: Final = {
    "real": {_F.REAL_MODE},
    "protected": {_F.REAL_MODE},
    "long": {_F.LONG_MODE},
    "user": {_F.LONG_MODE},
}
_EXIT_NEEDS: Final = {PortIo: {_F.PORT_IO}, Mmio: {_F.MMIO}, Halt: {_F.HALT}, Hypercall: {_F.HYPERCALL}}


def _x86(
    name: str,
    mode: str,
    code: str,
    *sees: Exit | Seen,
    needs: frozenset[Feature] = frozenset(),
    before: Mapping[str, int] | None = None,
    after: Mapping[str, int] | None = None,
    memory: Mapping[int, bytes] | None = None,
    memory_after: Mapping[int, bytes] | None = None,
    isa: str = "x86_64",
) -> Snippet:
    rows = tuple(each if isinstance(each, Seen) else Seen(each) for each in sees)
    wanted = set(needs) | _MODE_NEEDS.get(mode, set())
    for row in rows:
        wanted |= _EXIT_NEEDS.get(type(row.exit), set())
        if isinstance(row.exit, PortIo) and row.exit.times > 1:
            wanted.add(_F.STRING_IO)
    return Snippet(
        f"{mode}-{name}",
        isa,
        mode,
        code,
        rows,
        frozenset(wanted),
        before or {},
        after or {},
        memory or {},
        memory_after or {},
    )


def _out(port: int, size: int, value: int) -> PortIo:
    return PortIo(port, size, True, 1, value.to_bytes(size, "little"))


def _in(port: int, size: int, value: int) -> Seen:
    return Seen(PortIo(port, size, False), value)


def _outs(port: int, size: int, data: bytes) -> PortIo:
    return PortIo(port, size, True, len(data) // size, data)


def _ins(port: int, size: int, data: bytes) -> Seen:
    return Seen(PortIo(port, size, False, len(data) // size), data)


def _load(address: int, size: int, value: int) -> Seen:
    return Seen(Mmio(address, size, False), value)


def _store(address: int, size: int, value: int) -> Mmio:
    return Mmio(address, size, True, value)


def _trap(vector: int) -> PortIo:
    return _out(VECTOR_PORT, 1, vector)


_HALT = Halt()
_TRIPLE = Shutdown(ShutdownKind.TRIPLE_FAULT)
_A, _D = "eax", 0x1122_3344_5566_7788
_TEXT = b"The quick brown fox."[:16]
_END = "mov al, 0x5a; out 0xf4, al"
"""How ring 3, which cannot halt, ends."""
_DONE = _out(0xF4, 1, 0x5A)


def _sizes() -> list[Snippet]:
    """Each size and direction, in each mode."""
    rows = []
    registers = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
    for mode in ("real", "protected", "long", "user"):
        end, last = (_END, _DONE) if mode == "user" else ("hlt", _HALT)
        wide = mode in ("long", "user")
        for size in (1, 2, 4):
            value = 0xC1C2_C3C4 & (1 << 8 * size) - 1
            rows.append(
                _x86(
                    f"out-{8 * size}", mode, f"mov eax, 0xc1c2c3c4; mov dx, 0x510; out dx, {registers[size]}; {end}",
                    _out(0x510, size, value), last,
                )
            )  # fmt: skip
            full = 0x1122_3344_5566_7788 if wide else 0x5566_7788
            merged = value if size == 4 else full & ~((1 << 8 * size) - 1) | value
            rows.append(
                _x86(
                    f"in-{8 * size}", mode, f"mov dx, 0x511; in {registers[size]}, dx; mov {'r' if wide else 'e'}bx, {'r' if wide else 'e'}ax; {end}",
                    _in(0x511, size, value), last, before={"rax": full}, after={"rbx": merged},
                )
            )  # fmt: skip
        base = "bx" if mode == "real" else "ebx" if mode == "protected" else "rbx"
        where = {"real": 0xA0010, "protected": MMIO + 0x10, "long": MMIO + 0x10, "user": MMIO + 0x10}[mode]
        start = {"ds.base": 0xA0000, "ds.selector": 0xA000, "rbx": 0x10} if mode == "real" else {"rbx": where}
        for size in (1, 2, 4, 8) if wide else (1, 2, 4):
            value = _D & (1 << 8 * size) - 1
            full = _D if wide else _D & 0xFFFF_FFFF
            rows.append(
                _x86(
                    f"store-{8 * size}", mode, f"mov [{base}], {registers[size]}; {end}",
                    _store(where, size, value), last, before={"rax": full, **start},
                )
            )  # fmt: skip
            answer = 0xF1F2_F3F4_F5F6_F7F8 & (1 << 8 * size) - 1
            merged = answer if size >= 4 else full & ~((1 << 8 * size) - 1) | answer
            rows.append(
                _x86(
                    f"load-{8 * size}", mode, f"mov {registers[size]}, [{base}]; mov {'r' if wide else 'e'}cx, {'r' if wide else 'e'}ax; {end}",
                    _load(where, size, answer), last, before={"rax": full, **start}, after={"rcx": merged},
                )
            )  # fmt: skip
    return rows


def _halts() -> list[Snippet]:
    rows = [
        _x86("halt", mode, "hlt", _HALT, after={"rip": CODE + 1}) for mode in ("real", "protected", "long")
    ]
    rows.append(_x86("halt-twice", "long", "hlt; mov rax, 7; hlt", _HALT, _HALT, after={"rax": 7}))
    rows.append(_x86("out-immediate", "long", "mov al, 0x41; out 0x10, al; hlt", _out(0x10, 1, 0x41), _HALT))
    rows.append(
        _x86("in-immediate", "long", "in al, 0x20; hlt", _in(0x20, 1, 0x99), _HALT, after={"rax": 0x99})
    )
    rows.append(
        _x86(
            "many-ports", "long", "mov dx, 0; mov ecx, 5; again: mov eax, ecx; out dx, al; inc dx; dec ecx; jnz again; hlt",
            *(_out(i, 1, 5 - i) for i in range(5)), _HALT, after={"rdx": 5},
        )
    )  # fmt: skip
    rows.append(
        _x86(
            "unanswered-reads-are-ones", "long", "in al, 0x20; mov ebx, [rsi]; hlt",
            PortIo(0x20, 1, False), Mmio(MMIO, 4, False), _HALT, before={"rsi": MMIO}, after={"rax": 0xFF, "rbx": 0xFFFF_FFFF},
        )
    )  # fmt: skip
    return rows


def _strings() -> list[Snippet]:
    rows = []
    for size, letter in ((1, "b"), (2, "w"), (4, "d")):
        count = len(_TEXT) // size
        for mode, prefix in (("long", "r"), ("real", "e")):
            start = {"rdx": 0x510, "rcx": count, "rsi": DATA, "rdi": DATA}
            left = {f"{'rcx'}": 0}
            rows.append(
                _x86(
                    f"rep-outs{letter}", mode, f"cld; rep outs{letter}; hlt", _outs(0x510, size, _TEXT), _HALT,
                    before=start, after={**left, "rsi": DATA + 16}, memory={DATA: _TEXT},
                )
            )  # fmt: skip
            rows.append(
                _x86(
                    f"rep-ins{letter}", mode, f"cld; rep ins{letter}; hlt", _ins(0x510, size, _TEXT), _HALT,
                    before=start, after={**left, "rdi": DATA + 16}, memory_after={DATA: _TEXT},
                )
            )  # fmt: skip
            del prefix
    rows += [
        _x86("outsb", "long", "outsb; hlt", _out(0x510, 1, 0x54), _HALT, before={"rdx": 0x510, "rsi": DATA},
             after={"rsi": DATA + 1}, memory={DATA: _TEXT}),
        _x86("insb", "long", "insb; hlt", _in(0x510, 1, 0x77), _HALT, before={"rdx": 0x510, "rdi": DATA},
             after={"rdi": DATA + 1}, memory_after={DATA: b"\x77\0"}),
        _x86("outsb-backwards", "long", "std; rep outsb; hlt", _outs(0x510, 1, b"ehT"), _HALT,
             before={"rdx": 0x510, "rsi": DATA + 2, "rcx": 3}, after={"rsi": DATA - 1, "rcx": 0}, memory={DATA: _TEXT}),
        _x86("rep-outsb-nothing", "long", "rep outsb; hlt", _HALT, before={"rdx": 0x510, "rsi": DATA}, after={"rsi": DATA}),
        _x86("stosb-mmio", "long", "stosb; hlt", _store(MMIO, 1, 0x5A), _HALT, before={"rax": 0x5A, "rdi": MMIO},
             after={"rdi": MMIO + 1}),
        _x86("rep-stosd-mmio", "long", "cld; rep stosd; hlt", *(_store(MMIO + 4 * i, 4, 0xABCD) for i in range(3)), _HALT,
             before={"rax": 0xABCD, "rdi": MMIO, "rcx": 3}, after={"rdi": MMIO + 12, "rcx": 0}),
        _x86("lodsd-mmio", "long", "lodsd; hlt", _load(MMIO + 4, 4, 0x0BAD_CAFE), _HALT, before={"rsi": MMIO + 4},
             after={"rax": 0x0BAD_CAFE, "rsi": MMIO + 8}),
        _x86("movsb-to-mmio", "long", "movsb; hlt", _store(MMIO, 1, 0x54), _HALT, before={"rsi": DATA, "rdi": MMIO},
             after={"rsi": DATA + 1, "rdi": MMIO + 1}, memory={DATA: _TEXT}),
        _x86("movsd-from-mmio", "long", ".byte 0xa5; hlt", _load(MMIO, 4, 0x0403_0201), _HALT, before={"rsi": MMIO, "rdi": DATA},
             after={"rsi": MMIO + 4, "rdi": DATA + 4}, memory_after={DATA: b"\1\2\3\4"}),
    ]  # fmt: skip
    return rows


def _memory() -> list[Snippet]:
    m = {"rbx": MMIO}
    return [
        _x86("store-immediate-32", "long", "mov dword ptr [rbx], 0x12345678; hlt", _store(MMIO, 4, 0x1234_5678), _HALT, before=m),
        _x86("store-immediate-64", "long", "mov qword ptr [rbx], -2; hlt", _store(MMIO, 8, (1 << 64) - 2), _HALT, before=m),
        _x86("store-high-byte", "long", "mov byte ptr [rbx], ah; hlt", _store(MMIO, 1, 0x12), _HALT, before={**m, "rax": 0x1234}),
        _x86("store-unaligned", "long", "mov [rbx + 1], eax; hlt", _store(MMIO + 1, 4, 0x55), _HALT, before={**m, "rax": 0x55}),
        _x86("store-indexed", "long", "mov [rbx + rcx*4 + 8], ax; hlt", _store(MMIO + 20, 2, 0xBEEF), _HALT,
             before={**m, "rcx": 3, "rax": 0xBEEF}),
        _x86("load-r15", "long", "mov r15, [rbx]; hlt", _load(MMIO, 8, 0x1111_2222_3333_4444), _HALT, before=m,
             after={"r15": 0x1111_2222_3333_4444}),
        _x86("movzx-8", "long", "movzx eax, byte ptr [rbx]; hlt", _load(MMIO, 1, 0x80), _HALT, before={**m, "rax": _D},
             after={"rax": 0x80}),
        _x86("movzx-16", "long", "movzx eax, word ptr [rbx]; hlt", _load(MMIO, 2, 0x8001), _HALT, before={**m, "rax": _D},
             after={"rax": 0x8001}),
        _x86("movsx-8", "long", "movsx rax, byte ptr [rbx]; hlt", _load(MMIO, 1, 0x80), _HALT, before=m,
             after={"rax": (1 << 64) - 0x80}),
        _x86("movsxd", "long", "movsxd rax, dword ptr [rbx]; hlt", _load(MMIO, 4, 0x8000_0000), _HALT, before=m,
             after={"rax": (1 << 64) - 0x8000_0000}),
        _x86("add-to-mmio", "long", "add dword ptr [rbx], eax; hlt", _load(MMIO, 4, 40), _store(MMIO, 4, 42), _HALT,
             before={**m, "rax": 2}),
        _x86("or-byte-mmio", "long", "or byte ptr [rbx], 0x81; hlt", _load(MMIO, 1, 0x10), _store(MMIO, 1, 0x91), _HALT, before=m),
        _x86("compare-mmio", "long", "cmp dword ptr [rbx], 7; sete al; hlt", _load(MMIO, 4, 7), _HALT, before=m, after={"rax": 1}),
        _x86("test-mmio", "long", "test dword ptr [rbx], 8; setne al; hlt", _load(MMIO, 4, 7), _HALT, before=m, after={"rax": 0}),
        _x86("add-from-mmio", "long", "add rax, [rbx]; hlt", _load(MMIO, 8, 5), _HALT, before={**m, "rax": 6}, after={"rax": 11}),
        _x86("xchg-mmio", "long", "xchg dword ptr [rbx], eax; hlt", _load(MMIO, 4, 0x66), _store(MMIO, 4, 0x77), _HALT,
             before={**m, "rax": 0x77}, after={"rax": 0x66}),
        _x86("push-from-mmio", "long", "push qword ptr [rbx]; pop rax; hlt", _load(MMIO, 8, 0x99), _HALT, before=m,
             after={"rax": 0x99, "rsp": 0x8000}),
        _x86("hole-below-1m", "long", "mov al, [rbx]; hlt", _load(0xA0000, 1, 3), _HALT, before={"rbx": 0xA0000}, after={"rax": 3}),
        _x86("port-then-mmio", "long", "in al, 0x21; mov [rbx], al; out 0x22, al; hlt", _in(0x21, 1, 9), _store(MMIO, 1, 9),
             _out(0x22, 1, 9), _HALT, before=m),
    ]  # fmt: skip


def _exceptions() -> list[Snippet]:
    return [
        _x86("divide-error", "long", "xor ecx, ecx; div ecx", _trap(0), _HALT),
        _x86("divide-error", "real", "xor cx, cx; div cx", _trap(0), _HALT),
        _x86("divide-error", "protected", "xor ecx, ecx; div ecx", _trap(0), _HALT),
        _x86("undefined", "long", "ud2", _trap(6), _HALT),
        _x86("undefined", "user", "ud2", _trap(6), _HALT),
        _x86("int3", "long", "int3", _trap(3), _HALT, needs=_KERNEL),
        _x86("int-0x80", "long", "int 0x80", _trap(0x80), _HALT, needs=_KERNEL),
        _x86("int-0x21", "real", "int 0x21", _trap(0x21), _HALT),
        _x86("int-0x80", "protected", "int 0x80", _trap(0x80), _HALT, needs=_KERNEL),
        _x86("int-0x80", "user", "int 0x80", _trap(0x80), _HALT, needs=_KERNEL),
        _x86("privileged", "user", "hlt", _trap(13), _HALT),
        _x86("bad-selector", "long", "mov ax, 0x1238; mov ds, ax", _trap(13), _HALT),
        _x86("page-fault", "long", "movabs rbx, 0x7000000000; mov al, [rbx]", _trap(14), _HALT, after={"cr2": 0x70_0000_0000},
             needs=frozenset({_F.SYSTEM_REGISTERS})),
        _x86("page-fault", "user", "movabs rbx, 0x7000000000; mov al, [rbx]", _trap(14), _HALT, after={"cr2": 0x70_0000_0000},
             needs=frozenset({_F.SYSTEM_REGISTERS})),
        _x86("iretq-returns", "long", "lea rax, [rip + back]; mov rbx, rsp; push 0x18; push rbx; push 2; push 0x10; push rax; iretq;"
             " back: mov rcx, 5; hlt", _HALT, after={"rcx": 5, "rsp": 0x8000}),
        _x86("triple-fault", "real", "lidt [0x2000]; int3", _TRIPLE, memory={DATA: b"\0" * 16}, needs=_KERNEL),
        _x86("triple-fault", "long", "lidt [rsi]; ud2", _TRIPLE, before={"rsi": DATA}, memory={DATA: b"\0" * 16}),
        _x86("triple-fault", "protected", "lidt [0x2000]; ud2", _TRIPLE, memory={DATA: b"\0" * 16}),
    ]  # fmt: skip


def _processor() -> list[Snippet]:
    return [
        _x86("arithmetic", "user", f"mov rax, 6; imul rax, rax, 7; mov rbx, rax; {_END}", _DONE, after={"rbx": 42}),
        _x86("loop", "user", f"mov ecx, 1000000; again: inc rbx; dec ecx; jnz again; {_END}", _DONE, after={"rbx": 1_000_000}),
        _x86("call", "user", f"call sub; {_END}; sub: mov rbx, 3; ret", _DONE, after={"rbx": 3, "rsp": 0x8000}),
        _x86("sse", "user", f"mov rax, 5; movq xmm0, rax; paddq xmm0, xmm0; movq rbx, xmm0; {_END}", _DONE, after={"rbx": 10}),
        _x86("sse-double", "user", f"mov eax, 9; cvtsi2sd xmm1, eax; sqrtsd xmm1, xmm1; cvtsd2si rbx, xmm1; {_END}", _DONE,
             after={"rbx": 3}),
        _x86("x87", "user", f"fld1; fld1; faddp; fistp qword ptr [rsi]; mov rbx, [rsi]; {_END}", _DONE, before={"rsi": DATA}, after={"rbx": 2}),
        _x86("cmpxchg", "user", f"mov rax, 1; mov rbx, 2; mov qword ptr [rsi], 1; lock cmpxchg [rsi], rbx; {_END}", _DONE, before={"rsi": DATA},
             memory_after={DATA: b"\2"}),
        _x86("syscall", "user", "syscall", _trap(0x40),
             before={"msr.0xc0000081": 0x10 << 32, "msr.0xc0000082": 0x600 + 8 * 0x40}, after={"rcx": CODE + 2},
             needs=frozenset({_F.MSR})),
        _x86("wrmsr-rdmsr", "long", "mov ecx, 0xc0000102; mov eax, 0x1000; mov edx, 0x7f; wrmsr; xor eax, eax; xor edx, edx; rdmsr; hlt",
             _HALT, after={"rax": 0x1000, "rdx": 0x7F}, needs=frozenset({_F.MSR})),
        _x86("cr2", "long", "mov rax, 0x123456; mov cr2, rax; mov rbx, cr2; hlt", _HALT, after={"rbx": 0x12_3456, "cr2": 0x12_3456},
             needs=frozenset({_F.SYSTEM_REGISTERS})),
        _x86("flags", "long", "mov al, 0xff; add al, 1; setc bl; setz cl; hlt", _HALT, after={"rbx": 1, "rcx": 1}),
        _x86("real-to-protected", "real", "lgdt [0x2000]; mov eax, cr0; or al, 1; mov cr0, eax; mov eax, 0x1234; out 0x33, ax; hlt",
             _out(0x33, 2, 0x1234), _HALT, memory={DATA: (0x7F).to_bytes(2, "little") + (0x4000).to_bytes(4, "little")}),
        _x86("real-32-bit-registers", "real", "mov eax, 0x12345678; mov ebx, eax; rol ebx, 16; hlt", _HALT, after={"rbx": 0x5678_1234}),
        _x86("store-and-run", "long", "mov byte ptr [rip + there], 0xf4; there: nop; ud2", _HALT,
             needs=frozenset({_F.COHERENT_CODE})),
    ]  # fmt: skip


def _aarch64() -> list[Snippet]:
    def row(name: str, code: str, *sees: Exit | Seen, **given: Mapping[str, int]) -> Snippet:
        return _x86(name, "el1", code, *sees, isa="aarch64", **given)  # type: ignore[arg-type]

    rows = [row("wfi", "wfi", _HALT, after={"pc": CODE + 4})]
    names = {
        1: ("strb", "ldrb", "w"),
        2: ("strh", "ldrh", "w"),
        4: ("str", "ldr", "w"),
        8: ("str", "ldr", "x"),
    }
    for size, (store, load, letter) in names.items():
        value = _D & (1 << 8 * size) - 1
        rows.append(
            row(
                f"store-{8 * size}",
                f"{store} {letter}1, [x2]; wfi",
                _store(MMIO, size, value),
                _HALT,
                before={"x1": _D, "x2": MMIO},
            )
        )
        rows.append(
            row(
                f"load-{8 * size}",
                f"{load} {letter}1, [x2]; wfi",
                _load(MMIO, size, value),
                _HALT,
                before={"x2": MMIO},
                after={"x1": value},
            )
        )
    return rows


def _riscv64() -> list[Snippet]:
    def row(name: str, code: str, *sees: Exit | Seen, **given: Mapping[str, int]) -> Snippet:
        return _x86(name, "supervisor", code, *sees, isa="riscv64", **given)  # type: ignore[arg-type]

    rows = [row("wfi", "wfi", _HALT, after={"pc": CODE + 4})]
    for size, letter in ((1, "b"), (2, "h"), (4, "w"), (8, "d")):
        value = _D & (1 << 8 * size) - 1
        rows.append(
            row(f"store-{8 * size}", f"s{letter} t0, 8(t1); wfi", _store(MMIO + 8, size, value), _HALT, before={"x5": _D, "x6": MMIO})
        )  # fmt: skip
        if size == 8:
            rows.append(
                row("load-64", "ld t0, 8(t1); wfi", _load(MMIO + 8, 8, _D), _HALT, before={"x6": MMIO}, after={"x5": _D})
            )  # fmt: skip
        else:
            high = (1 << 8 * size) - 2
            rows.append(
                row(f"load-signed-{8 * size}", f"l{letter} t0, 0(t1); wfi", _load(MMIO, size, high), _HALT, before={"x6": MMIO},
                    after={"x5": (1 << 64) - 2})
            )  # fmt: skip
            rows.append(
                row(f"load-unsigned-{8 * size}", f"l{letter}u t0, 0(t1); wfi", _load(MMIO, size, high), _HALT, before={"x6": MMIO},
                    after={"x5": high})
            )  # fmt: skip
    rows += [
        row("unanswered-reads-are-ones", "lwu t0, 0(t1); wfi", Mmio(MMIO, 4, False), _HALT, before={"x6": MMIO}, after={"x5": 0xFFFF_FFFF}),
        row("loop", "addi t0, t0, 2; addi t1, t1, -1; bne t1, zero, -8; wfi", _HALT, before={"x6": 1_000}, after={"x5": 2_000}),
        row("two-devices", "lw t0, 0(t1); sw t0, 16(t1); wfi", _load(MMIO, 4, 77), _store(MMIO + 16, 4, 77), _HALT, before={"x6": MMIO}),
        row("call-of-the-firmware", "ecall; wfi", Hypercall(HypercallAbi.SBI, 0x10 << 32 | 3, (1, 2, 0, 0, 0, 0)), _HALT,
            before={"x17": 0x10, "x16": 3, "x10": 1, "x11": 2}, after={"x10": (1 << 64) - 2, "x11": 0}),
    ]  # fmt: skip
    return rows


SNIPPETS: Final[tuple[Snippet, ...]] = (
    *_halts(),
    *_sizes(),
    *_strings(),
    *_memory(),
    *_exceptions(),
    *_processor(),
    *_aarch64(),
    *_riscv64(),
)
