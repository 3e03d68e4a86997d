"""x86-64 in 64-bit code without paging: ports, HLT, interrupts through the guest's own table, in rings 0 and 3.

Intel SDM 325462-083, volume 2 (the instructions) and volume 3, 6.14 (interrupts in 64-bit mode) and 6.15 (what each exception
means). System registers are kept as they are set, and of them only the code segment, the interrupt table, the task state and the
descriptor table's limit have any effect. MSRs, control registers and CPUID are nothing that the guest can use.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from vm_accel.completion import X86_NAMES, Touch, finished, port_string
from vm_accel.exits import Exit, Halt, PortIo, Shutdown, ShutdownKind
from vm_accel.interface import Bus, Feature
from vm_accel.software.architecture import undecoded
from vm_accel.x86 import CODE16
from vm_accel.x86_access import Kind, Move, decode
from vm_core.engine import Cause, Trap
from vm_core.errors import DecodeError
from vm_core.execute import execute
from vm_core.spec.isa import Isa
from vm_core.state import CpuState

if TYPE_CHECKING:
    from vm_accel.software.vcpu import Physical, SoftwareVcpu

__all__ = ["X86"]

_FLAGS: Final = (("cf", 0), ("pf", 2), ("af", 4), ("zf", 6), ("sf", 7), ("df", 10), ("of", 11))
_SHOWN: Final = sum(1 << bit for _, bit in _FLAGS)
_IF, _TF, _NT, _RF = 1 << 9, 1 << 8, 1 << 14, 1 << 16
_LONG: Final = 1 << 13
"""Of a segment's attributes: 64-bit code."""
_MASK: Final = (1 << 64) - 1
_DIVIDE, _DEBUG, _BREAKPOINT, _OPCODE, _DOUBLE, _PROTECTION, _ALIGNMENT = 0, 1, 3, 6, 8, 13, 17
_WITH_CODE: Final = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
"""Vectors whose frame has an error code."""
_PREFIXES: Final = frozenset(
    {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)}
)
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")
_SYSTEM: Final[dict[str, int]] = {
    **dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base", "xcr0"), 64),
    **dict.fromkeys(("dr0", "dr1", "dr2", "dr3", "dr6", "dr7"), 64),
    **{
        f"{name}.{part}": bits
        for name in (*_SEGMENTS, "tr", "ldt")
        for part, bits in (("base", 64), ("limit", 32), ("selector", 16), ("access", 17))
    },
    **{f"{name}.{part}": bits for name in ("gdt", "idt") for part, bits in (("base", 64), ("limit", 16))},
}  # fmt: skip
_X87: Final[dict[str, int]] = {
    "fcw": 16,
    "fsw": 16,
    "ftw": 8,
    "fop": 16,
    "fip": 64,
    "fdp": 64,
    "mxcsr": 32,
    **{f"st{i}": 80 for i in range(8)},
}
"""Kept as they are set: there is no text of the x87, and SSE's rounds to nearest. MXCSR's low six bits are the engine's."""
_KEPT: Final = _SYSTEM | _X87
_STICKY: Final = 0x3F
_FS, _GS = "fs.base", "gs.base"
_PORTS: Final = frozenset({*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0)})
_IMMEDIATE: Final = frozenset(range(0xE4, 0xE8))
"""IN and OUT with the port in the instruction; the byte before the last of those with DX is none of these, or a prefix."""


class X86:
    """See :class:`vm_accel.software.architecture.Architecture`."""

    isa, pc = "x86_64", "rip"
    features = frozenset({Feature.PORT_IO, Feature.STRING_IO, Feature.INTERRUPT})
    most_stops = 4
    names = (*X86_NAMES, "rip", "rflags", *_KEPT, *(f"xmm{i}" for i in range(16)))

    def reset(self, cpu: CpuState, index: int) -> dict[str, int]:
        stored = dict.fromkeys(_KEPT, 0) | {
            "rflags": 2,
            "fcw": 0x37F,
            "mxcsr": 0x1F80,
            "gdt.limit": 0xFFFF,
            "idt.limit": 0xFFFF,
        }
        del stored[_FS], stored[_GS]
        stored |= {f"{name}.access": 0x93 for name in _SEGMENTS} | {"cs.access": CODE16}
        cpu.pc = 0xFFF0
        return stored

    def bits(self, name: str) -> int:
        if name in _KEPT:
            return _KEPT[name]
        if name in X86_NAMES or name in ("rip", "rflags"):
            return 64
        if name in self.names:
            return 128
        raise KeyError(name)

    def get(self, cpu: CpuState, stored: dict[str, int], name: str) -> int:
        if name == "rip":
            return cpu.pc
        if name == "rflags":
            return stored[name] & ~_SHOWN | sum(cpu[flag] << bit for flag, bit in _FLAGS)
        if name in (_FS, _GS):
            return cpu[name.replace(".", "_")]
        if name == "mxcsr":
            return stored[name] | cpu.header("fp_flags") & _STICKY
        return stored[name] if name in _KEPT else cpu[name]

    def put(self, cpu: CpuState, stored: dict[str, int], name: str, value: int) -> None:
        if name == "rip":
            cpu.pc = value
        elif name == "rflags":
            stored[name] = value | 2
            for flag, bit in _FLAGS:
                cpu[flag] = value >> bit & 1
        elif name in (_FS, _GS):
            cpu[name.replace(".", "_")] = value
        elif name == "mxcsr":
            stored[name] = value & ~_STICKY
            cpu.header("fp_flags", value & _STICKY)
        elif name in _KEPT:
            stored[name] = value
        else:
            cpu[name] = value

    # -- traps ---------------------------------------------------------------------------------------------------------

    def trap(self, vcpu: SoftwareVcpu, trap: Trap, bus: Bus | None) -> Exit | None:
        if not vcpu.stored["cs.access"] & _LONG:
            return vcpu.refused("code of 16 or 32 bits")
        match trap.cause:
            case Cause.DIVIDE:
                return self.exception(vcpu, _DIVIDE)
            case Cause.BREAKPOINT:
                vcpu.cpu.pc += 1  # a trap: the frame has the address behind it (volume 3, 6.15)
                return self.exception(vcpu, _BREAKPOINT)
            case Cause.REFUSED:
                return self.exception(vcpu, _PROTECTION, 0)
            case Cause.MISALIGNED:
                return self.exception(vcpu, _ALIGNMENT, 0)
        return self._privileged(vcpu, bus)

    def call(self, vcpu: SoftwareVcpu) -> Exit | None:
        vcpu.cpu.pc -= 2  # SYSCALL, which EFER.SCE has to allow; there is no LSTAR
        return self.exception(vcpu, _OPCODE)

    def _ring(self, vcpu: SoftwareVcpu) -> int:
        return vcpu.stored["ss.access"] >> 5 & 3

    def _privileged(self, vcpu: SoftwareVcpu, bus: Bus | None) -> Exit | None:
        """An instruction that programs have no text of."""
        code = vcpu.code()
        at = 0
        while at < len(code) and code[at] in _PREFIXES:
            at += 1
        opcode = code[at] if at < len(code) else 0
        cpu, stored = vcpu.cpu, vcpu.stored
        length = at + 1
        may_io = stored["rflags"] >> 12 & 3 >= self._ring(vcpu)
        if opcode in _PORTS:
            move = decode(code, 64)
            assert move is not None
            return self._port(vcpu, move, code, bus) if may_io else self.exception(vcpu, _PROTECTION, 0)
        if opcode in (0xFA, 0xFB) and may_io:
            stored["rflags"] = stored["rflags"] & ~_IF | (_IF if opcode & 1 else 0)
            cpu.pc += length
            return None
        if opcode == 0xCD and at + 1 < len(code):
            cpu.pc += length + 1
            return self.exception(vcpu, code[at + 1], software=True, size=length + 1)
        if opcode == 0xCF:
            return self._return(vcpu)
        if opcode == 0x8E and at + 1 < len(code) and code[at + 1] >= 0xC0:
            return self._load_segment(vcpu, code, at)
        if code[at : at + 2] == b"\x0f\x0b":
            return self.exception(vcpu, _OPCODE)
        if opcode in (0xF4, 0xFA, 0xFB) or _is_lidt(code[at:]):
            if self._ring(vcpu):
                return self.exception(vcpu, _PROTECTION, 0)
            if opcode == 0xF4:
                cpu.pc += length
                return Halt()
            return self._load_table(vcpu, code, at)
        # Whether a processor has it is not known: no fault of the guest's is made up.
        return vcpu.refused("an instruction that vm has no text of")

    def lacks(self, text: Isa, code: bytes, at: int) -> list[str]:
        return [f"a text of {rest[:4].hex()}" for rest in undecoded(text, code, at, _length)]

    # -- ports ---------------------------------------------------------------------------------------------------------

    def _port(self, vcpu: SoftwareVcpu, move: Move, code: bytes, bus: Bus | None) -> Exit | None:
        from vm_accel.software.vcpu import Physical

        cpu, pending = vcpu.cpu, vcpu.pending
        behind = cpu.pc + move.length
        if move.string:
            return self._port_string(vcpu, Physical(vcpu), move, bus)
        immediate = move.length > 1 and code[move.length - 2] in _IMMEDIATE
        port = code[move.length - 1] if immediate else cpu["rdx"] & 0xFFFF
        mask = (1 << 8 * move.size) - 1
        if move.kind is Kind.STORE:
            value = cpu["rax"] & mask
            cpu.pc = behind
            if bus is not None:
                bus.port_out(port, move.size, value)
                return None
            return PortIo(port, move.size, True, 1, value.to_bytes(move.size, "little"))

        def answer(value: int | bytes, _fault: bool) -> None:
            number = value if isinstance(value, int) else int.from_bytes(value, "little")
            kept = cpu["rax"] & ~mask if move.size < 4 else 0
            cpu["rax"] = kept | number & mask
            cpu.pc = behind

        if bus is None:
            pending.expect(answer, size=move.size)
            return PortIo(port, move.size, False)
        value = mask
        try:
            value = bus.port_in(port, move.size)
        finally:
            answer(value, False)
        return None

    def _port_string(self, vcpu: SoftwareVcpu, guest: Physical, move: Move, bus: Bus | None) -> Exit | None:
        """INS and OUTS: as many elements as fit into a page are one exit."""
        cpu = vcpu.cpu
        port = cpu["rdx"] & 0xFFFF
        behind = cpu.pc + move.length
        count = cpu["rcx"] & (1 << 8 * move.address_size) - 1 if move.rep else 1
        if not count:
            cpu.pc = behind
            return None
        count = min(count, 4096 // move.size)

        def over() -> None:
            if finished(guest, move):
                cpu.pc = behind

        if move.kind is Kind.OUTS:
            data = _moved(port_string(guest, move, None))
            over()
            if bus is None:
                return PortIo(port, move.size, True, len(data) // move.size, data)
            for at in range(0, len(data), move.size):
                bus.port_out(port, move.size, int.from_bytes(data[at : at + move.size], "little"))
            return None

        mask = (1 << 8 * move.size) - 1

        def answer(value: int | bytes, _fault: bool) -> None:
            data = value if isinstance(value, bytes) else (value & mask).to_bytes(move.size, "little")
            # Nobody answered: all ones.
            data = data if len(data) == count * move.size else b"\xff" * (count * move.size)
            _moved(port_string(guest, move, data))
            over()

        if bus is None:
            vcpu.pending.expect(answer, size=count * move.size, several=count > 1)
            return PortIo(port, move.size, False, count)
        got = [bus.port_in(port, move.size) & mask for _ in range(count)]
        answer(b"".join(value.to_bytes(move.size, "little") for value in got), False)
        return None

    # -- interrupts ----------------------------------------------------------------------------------------------------

    def can_interrupt(self, vcpu: SoftwareVcpu) -> bool:
        return bool(vcpu.stored["rflags"] & _IF)

    def interrupt(self, vcpu: SoftwareVcpu, vector: int) -> Exit | None:
        return self.exception(vcpu, vector)

    def exception(
        self,
        vcpu: SoftwareVcpu,
        vector: int,
        code: int | None = None,
        *,
        software: bool = False,
        size: int = 0,
    ) -> Exit | None:
        """Go through the guest's interrupt table; one that cannot be delivered is a double fault, and then the end."""
        if self._deliver(vcpu, vector, code, software=software):
            return None
        if software:
            vcpu.cpu.pc -= size
            return self.exception(vcpu, _PROTECTION, 8 * vector + 2)
        if vector != _DOUBLE and self._deliver(vcpu, _DOUBLE, 0):
            return None
        return Shutdown(ShutdownKind.TRIPLE_FAULT)

    def _deliver(self, vcpu: SoftwareVcpu, vector: int, code: int | None, *, software: bool = False) -> bool:
        cpu, stored, vm = vcpu.cpu, vcpu.stored, vcpu.vm
        if 16 * vector + 15 > stored["idt.limit"]:
            return False
        gate = vm.ram(stored["idt.base"] + 16 * vector, 16, is_write=False)
        if gate is None:
            return False
        low = int.from_bytes(gate[:8], "little")
        kind, present, dpl = low >> 40 & 0x1F, low >> 47 & 1, low >> 45 & 3
        ring = self._ring(vcpu)
        if not present or kind not in (0xE, 0xF) or (software and dpl < ring):
            return False
        target = low & 0xFFFF | low >> 48 << 16 | int.from_bytes(gate[8:12], "little") << 32
        stack = cpu["rsp"]
        if ring:
            inner = vm.ram(stored["tr.base"] + 4, 8, is_write=False)
            if inner is None:
                return False
            stack = int.from_bytes(inner, "little")
        flags = self.get(cpu, stored, "rflags")
        frame = [cpu.pc, stored["cs.selector"], flags, cpu["rsp"], stored["ss.selector"]]
        if code is not None or vector in _WITH_CODE:
            frame.insert(0, code or 0)
        stack = (stack & -16) - 8 * len(frame) & _MASK
        place = vm.ram(stack, 8 * len(frame), is_write=True)
        if place is None:
            return False
        place[:] = b"".join(word.to_bytes(8, "little") for word in frame)
        cpu["rsp"], cpu.pc = stack, target
        self.put(cpu, stored, "rflags", flags & ~(_TF | _NT | _RF | (_IF if kind == 0xE else 0)))
        stored["cs.selector"], stored["cs.access"] = low >> 16 & 0xFFFC, stored["cs.access"] & ~0x60
        if ring:
            stored["ss.selector"] = 0
        stored["ss.access"] &= ~0x60
        return True

    def _return(self, vcpu: SoftwareVcpu) -> Exit | None:
        """IRETQ."""
        cpu, stored = vcpu.cpu, vcpu.stored
        frame = vcpu.vm.ram(cpu["rsp"], 40, is_write=False)
        if frame is None:
            return self.exception(vcpu, 12, 0)
        pc, cs, flags, stack, ss = (int.from_bytes(frame[at : at + 8], "little") for at in range(0, 40, 8))
        if cs & 3 < self._ring(vcpu):
            return self.exception(vcpu, _PROTECTION, cs & 0xFFFC)
        cpu.pc, cpu["rsp"] = pc, stack
        self.put(cpu, stored, "rflags", flags)
        for name, selector in (("cs", cs), ("ss", ss)):
            stored[f"{name}.selector"] = selector & 0xFFFF
            stored[f"{name}.access"] = stored[f"{name}.access"] & ~0x60 | (cs & 3) << 5
        return None

    def _load_segment(self, vcpu: SoftwareVcpu, code: bytes, at: int) -> Exit | None:
        """MOV to a segment register from a general one: its descriptor must be there, no more is looked at."""
        rex = code[at - 1] if at and code[at - 1] & 0xF0 == 0x40 else 0
        number = code[at + 1] >> 3 & 7
        if number == 1 or number >= len(_SEGMENTS):
            return self.exception(vcpu, _OPCODE)
        selector = vcpu.cpu[X86_NAMES[code[at + 1] & 7 | (rex & 1) << 3]] & 0xFFFF
        if selector >= 4 and (selector & 4 or selector | 7 > vcpu.stored["gdt.limit"]):
            return self.exception(vcpu, _PROTECTION, selector & 0xFFFC)
        vcpu.stored[f"{_SEGMENTS[number]}.selector"] = selector
        vcpu.cpu.pc += at + 2
        return None

    def _load_table(self, vcpu: SoftwareVcpu, code: bytes, at: int) -> Exit | None:
        """LIDT: the address is that of a LEA with the same operand."""
        cpu = CpuState(vcpu.cpu.layout)
        cpu.words[:] = vcpu.cpu.words
        rex = code[at - 1] & 3 if at and code[at - 1] & 0xF0 == 0x40 else 0
        try:
            lea = vcpu.text.decode(bytes([0x48 | rex, 0x8D]) + code[at + 2 :], cpu.pc)
        except DecodeError:
            return self.exception(vcpu, _OPCODE)
        execute(vcpu.text, lea, cpu, vcpu.vm.arena)
        table = vcpu.vm.ram(cpu["rbx"], 10, is_write=False)  # the register of /3
        if table is None:
            return self.exception(vcpu, _PROTECTION, 0)
        vcpu.stored["idt.limit"] = int.from_bytes(table[:2], "little")
        vcpu.stored["idt.base"] = int.from_bytes(table[2:], "little")
        vcpu.cpu.pc += at + lea.length
        return None


def _moved(steps: Generator[Touch, int, bytes]) -> bytes:
    """Do the memory's side of a port instruction. A device there reads as ones, and takes what is written."""
    try:
        steps.send(None)  # type: ignore[arg-type]
        while True:
            steps.send(_MASK)
    except StopIteration as end:
        result: bytes = end.value
        return result


def _is_lidt(code: bytes) -> bool:
    return code[:2] == b"\x0f\x01" and len(code) > 2 and code[2] >> 3 & 7 == 3 and code[2] < 0xC0


def _length(code: bytes) -> int:
    """Of an instruction that is done here; 0 for another."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    rest = code[at:]
    if not rest:
        return 0
    if rest[0] in _PORTS:
        move = decode(code, 64)
        return move.length if move is not None else 0
    if rest[0] in (0xF4, 0xFA, 0xFB, 0xCC, 0xCF):
        return at + 1
    if rest[0] == 0xCD or rest[:2] == b"\x0f\x0b" or (rest[0] == 0x8E and len(rest) > 1 and rest[1] >= 0xC0):
        return at + 2
    return at + 3 if _is_lidt(rest) and rest[2] < 0x40 and rest[2] & 7 not in (4, 5) else 0
