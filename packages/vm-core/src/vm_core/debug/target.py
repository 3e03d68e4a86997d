"""What a debugger is told of a machine's registers: gdb's target description, made from the ISA's own tables.

gdb manual, appendix G, "Target Descriptions" and "Standard Target Features". Register numbers are gdb's own, so that a
client that does not ask for the description gets them right too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vm_core.record import record

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread
    from vm_core.spec.isa import Isa

__all__ = ["Feature", "Register", "Target", "target_of"]

_Get = Callable[["GuestThread"], int]
_Set = Callable[["GuestThread", int], None]


@record(frozen=True)
class Register:
    """A register by gdb's ``number``. ``put`` is None for one that cannot be written."""

    name: str
    number: int
    bits: int
    kind: str
    get: _Get
    put: _Set | None
    group: str = ""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.bits // 8


@record(frozen=True)
class Feature:
    """One of gdb's standard features. ``types`` is XML that defines the kinds of its registers."""

    name: str
    registers: Sequence[Register]
    types: str = ""


class Target:
    """The registers of one ISA, by number and by name."""

    def __init__(
        self,
        architecture: str,
        features: Sequence[Feature],
        stack: str,
        *,
        thread: tuple[str, int] | None = None,
    ) -> None:
        self.architecture, self.features = architecture, features
        self.thread = thread
        """The thread pointer, and how far behind it the program's own thread-local variables begin (System V ABI, variant I);
        None where they lie elsewhere."""
        registers = sorted((r for feature in features for r in feature.registers), key=lambda r: r.number)
        self.by_number: Mapping[int, Register] = {register.number: register for register in registers}
        self.by_name: Mapping[str, Register] = {register.name: register for register in registers}
        last = next((i for i in range(1, len(registers)) if registers[i].number > _MOST), len(registers))
        self.general: Sequence[Register] = registers[:last]
        """What a ``g`` packet holds."""
        self.expedited: Sequence[Register] = (
            self.by_name["rip" if "rip" in self.by_name else "pc"],
            self.by_name[stack],
        )
        """What each report of a stop says of its thread."""

    def xml(self) -> str:
        """target.xml."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n<target version="1.0">\n'
        yield f"<architecture>{self.architecture}</architecture>\n<osabi>GNU/Linux</osabi>\n"
        for feature in self.features:
            yield f'<feature name="{feature.name}">\n{feature.types}'
            for r in feature.registers:
                group = f' group="{r.group}"' if r.group else ""
                yield f'<reg name="{r.name}" bitsize="{r.bits}" type="{r.kind}" regnum="{r.number}"{group}/>\n'
            yield "</feature>\n"
        yield "</target>\n"

    @staticmethod
    def read(thread: GuestThread, register: Register) -> bytes:
        """The register as it is in the machine: little-endian."""
        return register.get(thread).to_bytes(register.size, "little")


_MOST: Final = 255
"""The last number of a register that is sent with all others."""


def _cell(file: str, slot: int) -> tuple[_Get, _Set]:
    return lambda t: t.cpu.get(file, slot), lambda t, value: t.cpu.set(file, slot, value)


def _named(name: str) -> tuple[_Get, _Set]:
    def put(t: GuestThread, value: int) -> None:
        t.cpu[name] = value

    return lambda t: t.cpu[name], put


def _header(name: str, mask: int) -> tuple[_Get, _Set]:
    def put(t: GuestThread, value: int) -> None:
        t.cpu.header(name, value & mask)

    return lambda t: t.cpu.header(name) & mask, put


def _pc() -> tuple[_Get, _Set]:
    def put(t: GuestThread, value: int) -> None:
        t.cpu.pc = value

    return lambda t: t.cpu.pc, put


def _fixed(value: int) -> tuple[_Get, None]:
    return lambda _t: value, None


def _flags(bits: Mapping[str, int], fixed: int = 0) -> tuple[_Get, _Set]:
    """A flags word of one-bit registers."""

    def get(t: GuestThread) -> int:
        return fixed | sum((t.cpu[name] & 1) << bit for name, bit in bits.items() if name in t.cpu)

    def put(t: GuestThread, value: int) -> None:
        for name, bit in bits.items():
            if name in t.cpu:
                t.cpu[name] = value >> bit & 1

    return get, put


# -- RISC-V -------------------------------------------------------------------------------------------------------------

_DOUBLE: Final = '<union id="riscv_double"><field name="float" type="ieee_single"/><field name="double" type="ieee_double"/></union>\n'
_FIRST_FLOAT: Final = 33
_FIRST_CSR: Final = 65
_CODE: Final = ("zero", "ra")
_DATA: Final = ("sp", "gp", "tp")


def _riscv(isa: Isa) -> Target:
    from vm_core.isa.riscv.state import CSR_NUMBERS, READ_ONLY

    x, f = isa.layout.files["x"], isa.layout.files["f"]
    kinds = {"ra": "code_ptr", "sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr"}
    whole = [
        Register(name, i, x.width, kinds.get(name, "int"), *_cell("x", i)) for i, name in enumerate(x.names)
    ]
    whole.append(Register("pc", x.count, x.width, "code_ptr", *_pc()))
    floats = [
        Register(name, _FIRST_FLOAT + i, f.width, "riscv_double", *_cell("f", i))
        for i, name in enumerate(f.names)
    ]
    control: dict[str, tuple[_Get, _Set | None]] = {
        "fflags": _header("fp_flags", 31),
        "frm": _header("fp_rounding", 7),
        "fcsr": (_fcsr, _set_fcsr),
        "time": (lambda _t: time.monotonic_ns(), None),
        "cycle": (lambda t: t.retired, None),
        "instret": (lambda t: t.retired, None),
    }
    counters = []
    for name, number in CSR_NUMBERS.items():
        if number < READ_ONLY:
            floats.append(Register(name, _FIRST_CSR + number, 32, "int", *control[name], "float"))
        else:
            counters.append(Register(name, _FIRST_CSR + number, 64, "int", *control[name], "csr"))
    features = (
        Feature("org.gnu.gdb.riscv.cpu", whole),
        Feature("org.gnu.gdb.riscv.fpu", floats, _DOUBLE),
        Feature("org.gnu.gdb.riscv.csr", counters),
    )
    return Target("riscv:rv64", features, "sp", thread=("tp", 0))


def _fcsr(t: GuestThread) -> int:
    return (t.cpu.header("fp_rounding") & 7) << 5 | t.cpu.header("fp_flags") & 31


def _set_fcsr(t: GuestThread, value: int) -> None:
    t.cpu.header("fp_flags", value & 31)
    t.cpu.header("fp_rounding", value >> 5 & 7)


# -- AArch64 ------------------------------------------------------------------------------------------------------------

_VECTORS: Final = """\
<vector id="v2d" type="ieee_double" count="2"/><vector id="v2u" type="uint64" count="2"/>
<vector id="v2i" type="int64" count="2"/><vector id="v4f" type="ieee_single" count="4"/>
<vector id="v4u" type="uint32" count="4"/><vector id="v4i" type="int32" count="4"/>
<vector id="v8u" type="uint16" count="8"/><vector id="v8i" type="int16" count="8"/>
<vector id="v16u" type="uint8" count="16"/><vector id="v16i" type="int8" count="16"/>
<union id="vnd"><field name="f" type="v2d"/><field name="u" type="v2u"/><field name="s" type="v2i"/></union>
<union id="vns"><field name="f" type="v4f"/><field name="u" type="v4u"/><field name="s" type="v4i"/></union>
<union id="vnh"><field name="u" type="v8u"/><field name="s" type="v8i"/></union>
<union id="vnb"><field name="u" type="v16u"/><field name="s" type="v16i"/></union>
<vector id="vq1u" type="uint128" count="1"/><vector id="vq1s" type="int128" count="1"/>
<union id="vnq"><field name="u" type="vq1u"/><field name="s" type="vq1s"/></union>
<union id="aarch64v"><field name="d" type="vnd"/><field name="s" type="vns"/><field name="h" type="vnh"/>
<field name="b" type="vnb"/><field name="q" type="vnq"/></union>
"""


def _flags_type(name: str, size: int, bits: Mapping[str, int]) -> str:
    fields = "".join(f'<field name="{flag}" start="{bit}" end="{bit}"/>' for flag, bit in bits.items())
    return f'<flags id="{name}" size="{size}">{fields}</flags>\n'


def _aarch64(isa: Isa) -> Target:
    from vm_core.linux.abi import Aarch64

    x, v = isa.layout.files["x"], isa.layout.files["v"]
    count = x.count - 1  # without the zero register
    core = [Register(f"x{i}", i, x.width, "int", *_cell("x", i)) for i in range(count)]
    core.append(Register("sp", count, 64, "data_ptr", *_named("sp")))
    core.append(Register("pc", count + 1, 64, "code_ptr", *_pc()))
    bits = Aarch64.FLAGS
    core.append(Register("cpsr", count + 2, 32, "cpsr_flags", *_flags(bits)))
    first = count + 3
    fpu = [Register(f"v{i}", first + i, v.width, "aarch64v", *_cell("v", i)) for i in range(v.count)]
    fpu.append(Register("fpsr", first + v.count, 32, "int", *_header("fp_flags", 0xFFFF_FFFF)))

    def rounding(t: GuestThread) -> int:
        return (t.cpu.header("fp_rounding") & 3) << 22

    def set_rounding(t: GuestThread, value: int) -> None:
        t.cpu.header("fp_rounding", value >> 22 & 3)

    fpu.append(Register("fpcr", first + v.count + 1, 32, "int", rounding, set_rounding))
    features = [
        Feature(
            "org.gnu.gdb.aarch64.core",
            core,
            _flags_type("cpsr_flags", 4, {k.upper(): b for k, b in bits.items()}),
        ),
        Feature("org.gnu.gdb.aarch64.fpu", fpu, _VECTORS),
    ]
    if "tpidr_el0" in isa.layout.names:
        tls = Register("tpidr", first + v.count + 2, 64, "data_ptr", *_named("tpidr_el0"))
        features.append(Feature("org.gnu.gdb.aarch64.tls", [tls]))
    return Target("aarch64", features, "sp", thread=("tpidr_el0", 16))


# -- x86-64 -------------------------------------------------------------------------------------------------------------

_XMM: Final = """\
<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>
"""
_ORDER: Final = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
_SEGMENTS: Final = {"cs": 0x33, "ss": 0x2B, "ds": 0, "es": 0, "fs": 0, "gs": 0}
_X87: Final = {
    "fctrl": 0x37F,
    "fstat": 0,
    "ftag": 0xFFFF,
    "fiseg": 0,
    "fioff": 0,
    "foseg": 0,
    "fooff": 0,
    "fop": 0,
}


def _x86_64(isa: Isa) -> Target:
    from vm_core.linux.abi import X86_64

    r, xmm = isa.layout.files["r"], isa.layout.files["xmm"]
    # gdb's order of the first eight is not the encoding's.
    names = [*_ORDER, *(name for name in r.names if name not in _ORDER)]
    pointers = ("rbp", "rsp")
    core = [
        Register(name, i, r.width, "data_ptr" if name in pointers else "int64", *_named(name))
        for i, name in enumerate(names)
    ]
    bits = X86_64.FLAGS
    core.append(Register("rip", r.count, 64, "code_ptr", *_pc()))
    core.append(Register("eflags", r.count + 1, 32, "i386_eflags", *_flags(bits, 0x202)))
    number = r.count + 2
    for name, value in _SEGMENTS.items():
        core.append(Register(name, number, 32, "int32", *_fixed(value)))
        number += 1
    core.extend(Register(f"st{i}", number + i, 80, "i387_ext", *_fixed(0)) for i in range(8))
    number += 8
    for name, value in _X87.items():
        core.append(Register(name, number, 32, "int", *_fixed(value), "float"))
        number += 1
    sse = [Register(f"xmm{i}", number + i, xmm.width, "vec128", *_cell("xmm", i)) for i in range(xmm.count)]
    number += xmm.count

    def control(t: GuestThread) -> int:
        return t.cpu.header("fp_flags") & 0x3F | 0x1F80

    def set_control(t: GuestThread, value: int) -> None:
        t.cpu.header("fp_flags", value & 0x3F)

    sse.append(Register("mxcsr", number, 32, "int", control, set_control, "vector"))
    bases = [
        Register(name, number + 2 + i, 64, "int", *_named(name))
        for i, name in enumerate(isa.layout.files["seg"].names)
    ]
    features = (
        Feature(
            "org.gnu.gdb.i386.core",
            core,
            _flags_type("i386_eflags", 4, {k.upper(): b for k, b in bits.items()}),
        ),
        Feature("org.gnu.gdb.i386.sse", sse, _XMM),
        Feature(
            "org.gnu.gdb.i386.linux", [Register("orig_rax", number + 1, 64, "int", *_fixed((1 << 64) - 1))]
        ),
        Feature("org.gnu.gdb.i386.segments", bases),
    )
    return Target("i386:x86-64", features, "rsp")


_MAKERS: Final[Mapping[str, Callable[[Isa], Target]]] = {
    "riscv64": _riscv,
    "aarch64": _aarch64,
    "x86_64": _x86_64,
}


def target_of(isa: Isa) -> Target:
    """The target of an ISA. Raises KeyError for one that gdb is not told of."""
    return _MAKERS[isa.name](isa)
