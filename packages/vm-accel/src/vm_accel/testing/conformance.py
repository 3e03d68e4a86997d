"""Run the snippets on any hypervisor, and say what differs. No test framework is needed: a user's machine can run it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from vm_accel.exits import Exit, Interrupted, Mmio, PortIo
from vm_accel.interface import Hypervisor, Vcpu, Vm, VmConfig
from vm_accel.memory import HostMemory
from vm_accel.testing.snippets import CODE, MMIO, SNIPPETS, VECTOR_PORT, Seen, Snippet
from vm_accel.x86 import long_mode, page_tables, protected_mode, real_mode, segment
from vm_core.isa import get

__all__ = [
    "Guest", "Mismatch", "Recorder", "applicable", "assemble", "guest", "missing", "mode_of", "run_snippet",
]  # fmt: skip

MEMORY: Final = 2 << 20
_HOLE, _HIGH = 0xA_0000, 0x10_0000
_STUBS, _GDT, _TSS, _IDT, _STACK, _TABLES = 0x600, 0x4000, 0x1_8000, 0x5000, 0x8000, 0x1_0000
_TSS_LIMIT: Final = 0x68 + 0x2000
"""With a bitmap that allows ring 3 all ports: KVM's paravirtual flavour does not look at IOPL."""
_GENERAL: Final = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{i}" for i in range(8, 16)))


class Mismatch(AssertionError):
    """A hypervisor that did something else than the snippet says."""


def missing(hypervisor: Hypervisor, snippet: Snippet) -> list[str]:
    """What the hypervisor lacks for the snippet; empty: it can run it."""
    if hypervisor.isa != snippet.isa:
        return [f"its guests are {hypervisor.isa}"]
    lacks = sorted(feature.value for feature in snippet.needs - hypervisor.features)
    if not lacks and isinstance(hypervisor, _Texts):
        lacks = hypervisor.lacks(assemble(snippet.code, snippet.isa, snippet.mode), CODE)
    return lacks


@runtime_checkable
class _Texts(Protocol):
    """A hypervisor that does not know every instruction (:class:`vm_accel.software.Software`)."""

    def lacks(self, code: bytes, at: int) -> list[str]: ...


def applicable(hypervisor: Hypervisor) -> list[Snippet]:
    """The snippets that it can run."""
    return [snippet for snippet in SNIPPETS if not missing(hypervisor, snippet)]


_assembled: dict[tuple[str, str, str], bytes] = {}


def assemble(code: str, isa: str, mode: str) -> bytes:
    """Machine code at CODE: by keystone; of RISC-V by vm_core, with distances in the place of labels."""
    found = _assembled.get((code, isa, mode))
    if found is None:
        if isa == "riscv64":
            found = _assembled[code, isa, mode] = b"".join(_riscv(line) for line in code.split(";"))
            return found
        import keystone

        arch, bits = {
            ("x86_64", "real"): (keystone.KS_ARCH_X86, keystone.KS_MODE_16),
            ("x86_64", "protected"): (keystone.KS_ARCH_X86, keystone.KS_MODE_32),
            ("x86_64", "long"): (keystone.KS_ARCH_X86, keystone.KS_MODE_64),
            ("x86_64", "user"): (keystone.KS_ARCH_X86, keystone.KS_MODE_64),
            ("aarch64", "el1"): (keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN),
        }[isa, mode]
        encoded, _count = keystone.Ks(arch, bits).asm(code, CODE)
        found = _assembled[code, isa, mode] = bytes(encoded)
    return found


def _riscv(line: str) -> bytes:
    text = line.strip()
    return _RISCV_SYSTEM[text] if text in _RISCV_SYSTEM else get("riscv64").assemble(text)


_RISCV_SYSTEM: Final = {"wfi": (0x1050_0073).to_bytes(4, "little")}
"""Instructions that programs have not."""


def mode_of(isa: str) -> str:
    """The mode of most guests: 64-bit code of a kernel."""
    return {"x86_64": "long", "aarch64": "el1"}.get(isa, "supervisor")


class Guest(NamedTuple):
    """A VM with one vCPU that is about to run a program."""

    vm: Vm
    vcpu: Vcpu
    memory: HostMemory


@contextmanager
def guest(
    hypervisor: Hypervisor,
    code: str | bytes,
    mode: str | None = None,
    *,
    config: VmConfig = VmConfig(),  # noqa: B008 - it is frozen
    before: dict[str, int] | None = None,
    model: Any = None,
    log_dirty: bool = False,
) -> Iterator[Guest]:
    """What every snippet of the ISA runs in; see :mod:`vm_accel.testing.snippets`."""
    mode = mode or mode_of(hypervisor.isa)
    text = code if isinstance(code, bytes) else assemble(code, hypervisor.isa, mode)
    memory = HostMemory(MEMORY)
    try:
        with hypervisor.create_vm(config) as vm:
            for start, end in ((0, _HOLE), (_HIGH, MEMORY)):
                vm.map(start, memory, offset=start, size=end - start, log_dirty=log_dirty)
            memory.write(CODE, text)
            vcpu = vm.create_vcpu(model)
            if hypervisor.isa == "x86_64":
                prepare_x86(vcpu, memory, mode)
            else:
                vcpu.set_registers({"pc": CODE, "x2" if hypervisor.isa == "riscv64" else "sp": _STACK})
            if before:
                vcpu.set_registers(before)
            yield Guest(vm, vcpu, memory)
    finally:
        memory.close()


def prepare_x86(vcpu: Vcpu, memory: HostMemory, mode: str) -> None:
    """Tables and registers for a program at CODE."""
    for vector in range(256):
        # mov al, vector; out VECTOR_PORT, al; hlt: the same bytes in every mode.
        memory.write(_STUBS + 8 * vector, bytes([0xB0, vector, 0xE6, VECTOR_PORT, 0xF4]))
    out: dict[str, int] = dict.fromkeys(_GENERAL, 0)
    if mode == "real":
        for vector in range(256):
            memory.write(4 * vector, (_STUBS + 8 * vector).to_bytes(4, "little"))
        vcpu.set_registers(out | real_mode(CODE, stack=_STACK))
        return
    wide = mode != "protected"
    for vector in range(256):
        at, selector = _STUBS + 8 * vector, 0x10 if wide else 8
        gate = at & 0xFFFF | selector << 16 | 0xEE << 40 | (at >> 16) << 48
        memory.write(_IDT + (16 if wide else 8) * vector, gate.to_bytes(16 if wide else 8, "little"))
    flat = 0x00CF_0000_0000_FFFF
    tss = 0x8B << 40 | _TSS_LIMIT | (_TSS & 0xFFFFFF) << 16
    table = {8: flat | 0x9B << 40, 0x10: flat | 0x93 << 40} if not wide else {
        0x10: 0x00AF_9B00_0000_FFFF, 0x18: flat | 0x93 << 40, 0x2B & ~7: flat | 0xF3 << 40,
        0x33 & ~7: 0x00AF_FB00_0000_FFFF, 0x40: tss,
    }  # fmt: skip
    for selector, descriptor in table.items():
        memory.write(_GDT + selector, descriptor.to_bytes(8, "little"))
    memory.write(_TSS + 4, (_STACK - 0x800).to_bytes(8, "little"))
    memory.write(_TSS + 102, (0x68).to_bytes(2, "little"))
    if wide:
        memory.write(_TABLES, page_tables(_TABLES, gigabytes=4, user=mode == "user"))
        out |= long_mode(CODE, _TABLES, stack=_STACK, ring=3 if mode == "user" else 0)
        out |= segment("tr", 0x8B, selector=0x40, base=_TSS, limit=_TSS_LIMIT)
    else:
        out |= protected_mode(CODE, stack=_STACK)
    out |= {"gdt.base": _GDT, "gdt.limit": 0x4F, "idt.base": _IDT, "idt.limit": 0xFFF if wide else 0x7FF}
    vcpu.set_registers(out)


class Recorder:
    """A bus that writes down what comes, and reads the answers from the list of what should come. It calls ``enough`` when all of
    that has come."""

    def __init__(self, sees: tuple[Seen, ...] = (), enough: Callable[[], None] | None = None) -> None:
        self.seen: list[Exit] = []
        self._count = len(merged([each.exit for each in sees]))
        self._enough = enough
        self._answers = [
            (type(each.exit), each.answer)
            for each in sees
            if isinstance(each.exit, Mmio | PortIo) and not each.exit.is_write
        ]
        self._bytes = b""

    def _note(self, found: Exit) -> None:
        self.seen.append(found)
        if self._enough is not None and len(merged(self.seen)) >= self._count:
            self._enough()

    def _answer(self, kind: type, size: int) -> int:
        if self._bytes:
            head, self._bytes = self._bytes[:size], self._bytes[size:]
            return int.from_bytes(head, "little")
        if not self._answers or self._answers[0][0] is not kind:
            return (1 << 8 * size) - 1
        answer = self._answers.pop(0)[1]
        if isinstance(answer, bytes):
            self._bytes = answer[size:]
            return int.from_bytes(answer[:size], "little")
        return (1 << 8 * size) - 1 if answer is None else answer

    def read(self, address: int, size: int) -> int:
        self._note(Mmio(address, size, False))
        return self._answer(Mmio, size)

    def write(self, address: int, size: int, value: int) -> None:
        self._note(Mmio(address, size, True, value))

    def port_in(self, port: int, size: int) -> int:
        self._note(PortIo(port, size, False))
        return self._answer(PortIo, size)

    def port_out(self, port: int, size: int, value: int) -> None:
        self._note(PortIo(port, size, True, 1, value.to_bytes(size, "little")))


def merged(exits: list[Exit]) -> list[Exit]:
    """Neighbouring port accesses of one kind as one."""
    out: list[Exit] = []
    for each in exits:
        last = out[-1] if out else None
        if (
            isinstance(each, PortIo)
            and isinstance(last, PortIo)
            and (each.port, each.size, each.is_write) == (last.port, last.size, last.is_write)
        ):
            out[-1] = last._replace(times=last.times + each.times, data=last.data + each.data)
        else:
            out.append(each)
    return out


def run_snippet(hypervisor: Hypervisor, snippet: Snippet, *, bus: bool) -> None:
    """Raises Mismatch if it does something else than it must."""
    wanted = merged([each.exit for each in snippet.sees])
    with guest(hypervisor, snippet.code, snippet.mode) as made:
        for address, data in snippet.memory.items():
            made.memory.write(address, data)
        if snippet.before:
            made.vcpu.set_registers(snippet.before)
        if bus:
            # The last access is no exit here: a device that has seen it kicks the vCPU out.
            recorder = Recorder(snippet.sees, made.vcpu.kick)
            seen = recorder.seen
            while len(merged(seen)) < len(wanted):
                found = made.vcpu.run(recorder)
                if not isinstance(found, Interrupted):
                    seen.append(found)
        else:
            seen = _typed(made.vcpu, snippet, len(wanted))
        if merged(seen) != wanted:
            raise Mismatch(f"{snippet.name}: {_listed(merged(seen))}\n  must be {_listed(wanted)}")
        values = made.vcpu.registers(snippet.after)
        for name, value in snippet.after.items():
            if values[name] != value:
                raise Mismatch(f"{snippet.name}: {name} is {values[name]:#x}, must be {value:#x}")
        for address, data in snippet.memory_after.items():
            if (now := made.memory.read(address, len(data))) != data:
                raise Mismatch(f"{snippet.name}: memory at {address:#x} is {now.hex()}, must be {data.hex()}")


def _typed(vcpu: Vcpu, snippet: Snippet, count: int) -> list[Exit]:
    """Run with exits returned; reads are answered from a Recorder, in pieces as large as they are asked for."""
    recorder = Recorder(snippet.sees)
    seen: list[Exit] = []
    while len(merged(seen)) < count:
        found = vcpu.run()
        seen.append(found)
        if isinstance(found, Interrupted):
            break
        if isinstance(found, Mmio | PortIo) and not found.is_write:
            answer: Callable[[int, int], int] = recorder.read if isinstance(found, Mmio) else recorder.port_in
            where = found.address if isinstance(found, Mmio) else found.port
            times = found.times if isinstance(found, PortIo) else 1
            if _silent(snippet, len(merged(seen)) - 1):
                continue
            data = b"".join(answer(where, found.size).to_bytes(found.size, "little") for _ in range(times))
            vcpu.complete(data if times > 1 else int.from_bytes(data, "little"))
    return seen


def _silent(snippet: Snippet, index: int) -> bool:
    """Whether this read is one that nobody answers."""
    return index < len(snippet.sees) and snippet.sees[index].answer is None


def _listed(exits: list[Exit]) -> str:
    return ", ".join(str(each) if len(str(each)) < 200 else f"{str(each)[:200]}…" for each in exits)


assert MMIO >= MEMORY
