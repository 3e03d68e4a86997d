"""Finish a guest instruction that the hypervisor stopped on, where it says which address was touched but not what was meant.

Two ways: x86 moves and string instructions in any mode, from their decoding (:mod:`vm_accel.x86_access`); everything else,
and AArch64, by the instruction's one text in vm_core.isa, which here reads and writes devices in the place of memory.

Both are generators: they yield the accesses that somebody else must do, and are sent what a read gave. Nothing of the guest's
registers is written before the last of them; RAM that is written beside a device is written in order.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from vm_accel.x86_access import Kind, Move
from vm_core.engine import Trap
from vm_core.errors import DecodeError
from vm_core.execute import execute
from vm_core.memory import Access, MemoryFault
from vm_core.state import CpuState

if TYPE_CHECKING:
    from vm_core.spec.isa import Isa

__all__ = ["Fault", "Guest", "Steps", "Touch", "Undecided", "VcpuGuest", "by_text", "port_string", "x86_move"]


class Touch(NamedTuple):
    """One access to a device: guest-physical address, bytes, value written (0 for a read)."""

    address: int
    size: int
    is_write: bool
    value: int = 0


Steps = Generator[Touch, int, None]


class Fault(Exception):
    """The guest's own page tables forbid an access of the instruction: the guest gets a page fault."""

    def __init__(self, address: int, *, is_write: bool) -> None:
        super().__init__(f"{'write' if is_write else 'read'} of guest address {address:#x}")
        self.address, self.is_write = address, is_write


class Undecided(Exception):
    """An instruction that we cannot finish: neither decoded here nor in vm_core.isa."""


class Guest(Protocol):
    """What is needed of the vCPU. Registers have the names of :mod:`vm_accel.interface`; writes may be collected."""

    def get(self, name: str) -> int: ...
    def put(self, name: str, value: int) -> None: ...

    def translate(self, address: int, *, is_write: bool) -> int:
        """Guest-virtual to guest-physical. Raises Fault."""

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        """The bytes at a guest-physical address if they are memory that may be accessed so; None for a device."""


class _Machine(Protocol):
    """What has a vCPU's memory."""

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None: ...


class _Vcpu(Protocol):
    """A vCPU of any back end."""

    @property
    def vm(self) -> _Machine: ...
    def __getitem__(self, name: str, /) -> int: ...
    def __setitem__(self, name: str, value: int, /) -> None: ...
    def translate(self, address: int, *, is_write: bool) -> int: ...


class VcpuGuest:
    """:class:`Guest` of a vCPU, whose registers are written at once."""

    __slots__ = ("_vcpu",)

    def __init__(self, vcpu: _Vcpu) -> None:
        self._vcpu = vcpu

    def get(self, name: str) -> int:
        return self._vcpu[name]

    def put(self, name: str, value: int) -> None:
        self._vcpu[name] = value

    def translate(self, address: int, *, is_write: bool) -> int:
        return self._vcpu.translate(address, is_write=is_write)

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        return self._vcpu.vm.ram(address, size, is_write=is_write)


X86_NAMES: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{i}" for i in range(8, 16)),
)
_DF: Final = 1 << 10


def _merge(old: int, value: int, width: int, *, high: bool = False) -> int:
    """A general register after a write of ``width`` bytes (SDM volume 1, 3.4.1.1)."""
    if width >= 4:
        return value
    shift = 8 if high else 0
    mask = ((1 << 8 * width) - 1) << shift
    return old & ~mask | value << shift & mask


def x86_move(guest: Guest, move: Move, address: int) -> Steps:
    """A move or string instruction whose access to ``address`` (guest-physical) was stopped.

    The instruction pointer is the caller's work; a repeated string instruction does one element, and the caller goes on
    behind it only if :func:`finished` says so.
    """
    if move.string:
        yield from _string(guest, move, address)
        return
    if move.kind is Kind.STORE:
        if move.register is None:
            value = move.immediate
        else:
            value = guest.get(X86_NAMES[move.register]) >> (8 if move.high else 0)
        yield Touch(address, move.size, True, value & (1 << 8 * move.size) - 1)
        return
    value = yield Touch(address, move.size, False)
    assert move.register is not None
    if move.signed:
        value = _signed(value, move.size) & (1 << 8 * move.width) - 1
    name = X86_NAMES[move.register]
    guest.put(name, _merge(guest.get(name), value, move.width, high=move.high))


def _signed(value: int, size: int) -> int:
    return value - ((value >> (8 * size - 1)) << (8 * size))


def _advance(guest: Guest, move: Move, *names: str) -> None:
    """Step the index registers of a string instruction, and count down where it repeats."""
    mask = (1 << 8 * move.address_size) - 1
    step = -move.size if guest.get("rflags") & _DF else move.size
    for name in names:
        old = guest.get(name)
        guest.put(name, _merge(old, old + step & mask, move.address_size))
    if move.rep:
        old = guest.get("rcx")
        guest.put("rcx", _merge(old, old - 1 & mask, move.address_size))


def finished(guest: Guest, move: Move) -> bool:
    """Whether the instruction is over: not a repeated one with elements left."""
    return not (move.string and move.rep and guest.get("rcx") & (1 << 8 * move.address_size) - 1)


def _linear(guest: Guest, move: Move, register: str, segment: str) -> int:
    """The linear address of a string operand. Bases but those of FS and GS are 0 in 64-bit code, where the segment register
    may still hold one."""
    offset = guest.get(register) & (1 << 8 * move.address_size) - 1
    if guest.get("cs.access") & 1 << 13 and segment not in ("fs", "gs"):
        return offset
    return offset + guest.get(f"{segment}.base") & (1 << 64) - 1


def _element(guest: Guest, linear: int, size: int, value: int | None) -> Generator[Touch, int, int]:
    """Read (``value`` None) or write one element, in RAM or in a device. One that crosses a page goes byte by byte."""
    if (linear & 0xFFF) + size > 0x1000:
        result = 0
        for at in range(size):
            byte = None if value is None else value >> 8 * at & 0xFF
            result |= (yield from _element(guest, linear + at, 1, byte)) << 8 * at
        return result
    is_write = value is not None
    address = guest.translate(linear, is_write=is_write)
    memory = guest.ram(address, size, is_write=is_write)
    if memory is None:
        return (yield Touch(address, size, is_write, value or 0))
    if value is None:
        return int.from_bytes(memory, "little")
    memory[:] = value.to_bytes(size, "little")
    return 0


def _string(guest: Guest, move: Move, address: int) -> Steps:
    mask = (1 << 8 * move.size) - 1
    source, target = move.segment or "ds", "es"
    if move.kind is Kind.STOS:
        yield Touch(address, move.size, True, guest.get("rax") & mask)
        _advance(guest, move, "rdi")
    elif move.kind is Kind.LODS:
        value = yield Touch(address, move.size, False)
        guest.put("rax", _merge(guest.get("rax"), value, move.size))
        _advance(guest, move, "rsi")
    elif move.kind is Kind.MOVS:
        value = yield from _element(guest, _linear(guest, move, "rsi", source), move.size, None)
        yield from _element(guest, _linear(guest, move, "rdi", target), move.size, value)
        _advance(guest, move, "rsi", "rdi")
    else:
        raise Undecided


def port_string(guest: Guest, move: Move, data: bytes | None) -> Generator[Touch, int, bytes]:
    """The memory side of INS (``data`` is what the port gave) or OUTS (None: read it), for as many elements as ``data`` has or
    RCX says. The caller does the port's side and the instruction pointer."""
    if move.kind is Kind.OUTS:
        mask = (1 << 8 * move.address_size) - 1
        count = guest.get("rcx") & mask if move.rep else 1
        # An element that the page tables forbid ends the transfer there; the rest faults when it is its turn.
        result = bytearray()
        for _ in range(min(count, 4096 // move.size)):
            try:
                linear = _linear(guest, move, "rsi", move.segment or "ds")
                value = yield from _element(guest, linear, move.size, None)
            except Fault:
                if not result:
                    raise
                break
            result += value.to_bytes(move.size, "little")
            _advance(guest, move, "rsi")
        return bytes(result)
    assert data is not None
    for at in range(0, len(data), move.size):
        value = int.from_bytes(data[at : at + move.size], "little")
        yield from _element(guest, _linear(guest, move, "rdi", "es"), move.size, value)
        _advance(guest, move, "rdi")
    return data


# -- by the instruction's text ---------------------------------------------------------------------------------------------


class _Wanted(Exception):
    """Inside the instruction: an access whose answer is not known yet."""

    def __init__(self, touch: Touch) -> None:
        super().__init__()
        self.touch = touch


class _Devices:
    """In the place of GuestMemory: RAM and devices behind the guest's own page tables.

    The instruction is run again from its start after each answer, as a generator cannot suspend it: what was already done to
    memory or a device is then skipped, and gives what it gave before."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.done: list[int] = []
        self.at = 0

    def check(self, address: int, size: int, access: Access) -> None:
        self._places(address, size, is_write=access is Access.WRITE)

    def load(self, address: int, size: int) -> int:
        return self._access(address, size, None)

    def store(self, address: int, size: int, value: int) -> None:
        self._access(address, size, value)

    def _places(self, address: int, size: int, *, is_write: bool) -> list[tuple[int, int]]:
        """Guest-physical pieces, none of which crosses a page."""
        out = []
        while size:
            piece = min(size, 0x1000 - (address & 0xFFF))
            out.append((self.guest.translate(address, is_write=is_write), piece))
            address, size = address + piece & (1 << 64) - 1, size - piece
        return out

    def _access(self, address: int, size: int, value: int | None) -> int:
        result = shift = 0
        for place, count in self._places(address, size, is_write=value is not None):
            # Devices have registers of at most 8 bytes.
            for at in range(0, count, 8):
                piece = min(8, count - at)
                part = None if value is None else value >> shift & (1 << 8 * piece) - 1
                result |= self._piece(place + at, piece, part) << shift
                shift += 8 * piece
        return result

    def _piece(self, address: int, size: int, value: int | None) -> int:
        if self.at == len(self.done):
            memory = self.guest.ram(address, size, is_write=value is not None)
            if memory is None:
                raise _Wanted(Touch(address, size, value is not None, value or 0))
            if value is not None:
                memory[:] = value.to_bytes(size, "little")
            self.done.append(int.from_bytes(memory, "little"))
        self.at += 1
        return self.done[self.at - 1]


def by_text(isa: Isa, code: bytes, guest: Guest, cpu: CpuState) -> Steps:
    """Run the instruction ``code`` on ``cpu``, which holds the vCPU's registers and is changed when it is over.

    Raises Fault where the guest's page tables forbid an access, Undecided for an instruction that has no text.
    """
    try:
        insn = isa.decode(code, cpu.pc)
        insn.template  # noqa: B018  trace now: an Unimplemented is a decode error
    except DecodeError as error:
        raise Undecided from error
    devices = _Devices(guest)
    while True:
        devices.at = 0
        try:
            # Duck-typed: only check, load and store are used by a load or store's text.
            result = execute(isa, insn, cpu, devices)  # type: ignore[arg-type]
        except _Wanted as wanted:
            devices.done.append((yield wanted.touch) or 0)
            continue
        except MemoryFault as fault:
            raise Fault(fault.address, is_write=fault.access is Access.WRITE) from fault
        if isinstance(result, Trap):
            raise Undecided
        return
