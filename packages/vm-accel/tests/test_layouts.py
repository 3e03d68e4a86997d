"""Every structure, constant and call that is declared for another platform, against that platform's C headers."""

from __future__ import annotations

import enum
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import cffi
import pytest

from vm_accel.arm64_registers import ENCODINGS
from vm_accel.hvf import abi as hvf
from vm_accel.kvm import abi as kvm_abi
from vm_accel.kvm import arm64 as kvm_arm64
from vm_accel.kvm import riscv64 as kvm_riscv64
from vm_accel.kvm import x86 as kvm_x86
from vm_accel.testing.headers import Headers, differences
from vm_accel.whpx import abi as whpx

MINGW = Path("/usr/share/mingw-w64/include")
LIBCLANG = importlib.util.find_spec("clang") is not None


def cross(triple: str) -> Path:
    return Path(f"/usr/{triple}/include")


needs_windows = pytest.mark.skipif(
    not (LIBCLANG and (MINGW / "winhvplatform.h").exists()),
    reason="needs libclang from PyPI and Debian's mingw-w64-common",
)
needs_arm64 = pytest.mark.skipif(
    not (LIBCLANG and (cross("aarch64-linux-gnu") / "linux/kvm.h").exists()),
    reason="needs libclang from PyPI and Debian's linux-libc-dev-arm64-cross",
)
needs_riscv64 = pytest.mark.skipif(
    not (LIBCLANG and (cross("riscv64-linux-gnu") / "linux/kvm.h").exists()),
    reason="needs libclang from PyPI and Debian's linux-libc-dev-riscv64-cross",
)


@cache
def windows() -> Headers:
    source = "#include <windows.h>\n#include <winhvplatform.h>\n"
    return Headers("x86_64-w64-windows-gnu", (MINGW,), source, only=("winhv",))


def evaluated(triple: str, expressions: dict[str, str]) -> tuple[Headers, dict[str, int]]:
    """The headers of KVM for a target, and what C expressions are there."""
    probes = ",\n".join(f"probe_{i} = ({text})" for i, text in enumerate(expressions.values()))
    headers = Headers(
        f"{triple.partition('-')[0]}-unknown-linux-gnu",
        (cross(triple),),
        "#include <stddef.h>\n#include <linux/kvm.h>\n" + (f"enum probes {{ {probes} }};" if probes else ""),
    )
    values = {name: headers.constants[f"probe_{i}"] & (1 << 64) - 1 for i, name in enumerate(expressions)}
    return headers, values


# -- WHPX ---------------------------------------------------------------------------------------------------------------

WORDS = ("LengthAndCr8", "VpContext.LengthAndCr8", "Flags", "Control")
"""Whole words of ours in the place of the header's bit-fields."""


@needs_windows
@pytest.mark.parametrize("name", [name for name in whpx.ffi().list_types()[0] if name.startswith("WHV_")])
def test_a_structure_of_whpx(name: str) -> None:
    assert differences(whpx.ffi(), name, windows().records[name], skip=WORDS) == []


@needs_windows
@pytest.mark.parametrize(
    ("kind", "prefixes"),
    [
        (whpx.CapabilityCode, ("WHvCapabilityCode",)),
        (whpx.PropertyCode, ("WHvPartitionPropertyCode",)),
        (whpx.ExitReason, ("WHvRunVpExitReason",)),
        (whpx.Map, ("WHvMapGpaRangeFlag",)),
        (whpx.TranslateResult, ("WHvTranslateGvaResult",)),
        (whpx.InterruptType, ("WHvX64InterruptType",)),
        (whpx.Register, ("WHvX64Register", "WHvRegister")),
    ],
)
def test_an_enumeration_of_whpx(kind: type[enum.IntEnum], prefixes: tuple[str, ...]) -> None:
    constants = windows().constants
    assert len(kind) > 3
    for name, value in kind.__members__.items():
        real = {"NoReason": "None"}.get(name, name)
        found = [constants[prefix + real] for prefix in prefixes if prefix + real in constants]
        assert [number & 0xFFFF_FFFF for number in found] == [value], name


@needs_windows
@pytest.mark.parametrize(
    ("record", "start", "masks"),
    [
        ("WHV_CAPABILITY_FEATURES", 0, {name: flag.value for name, flag in whpx.Feature.__members__.items()}),
        ("WHV_EXTENDED_VM_EXITS", 0, {name: f.value for name, f in whpx.ExtendedExit.__members__.items()}),
        (
            "WHV_X64_VP_EXECUTION_STATE",
            0,
            {"Cpl": whpx.STATE_CPL, "Cr0Pe": whpx.STATE_PE, "EferLma": whpx.STATE_LMA},
        ),
        ("WHV_VP_EXIT_CONTEXT", 16, {"InstructionLength": whpx.LENGTH_MASK}),
        (
            "WHV_MEMORY_ACCESS_INFO",
            0,
            {
                "AccessType": whpx.ACCESS_TYPE,
                "GpaUnmapped": whpx.ACCESS_GPA_UNMAPPED,
                "GvaValid": whpx.ACCESS_GVA_VALID,
            },
        ),
        (
            "WHV_X64_IO_PORT_ACCESS_INFO",
            0,
            {
                "IsWrite": whpx.IO_IS_WRITE,
                "AccessSize": whpx.IO_SIZE_MASK << whpx.IO_SIZE_SHIFT,
                "StringOp": whpx.IO_STRING,
                "RepPrefix": whpx.IO_REP,
            },
        ),
        ("WHV_X64_MSR_ACCESS_INFO", 0, {"IsWrite": whpx.MSR_IS_WRITE}),
        ("WHV_X64_SEGMENT_REGISTER", 112, {"Long": whpx.SEGMENT_LONG, "Default": whpx.SEGMENT_DEFAULT}),
        (
            "WHV_X64_PENDING_INTERRUPTION_REGISTER",
            0,
            {
                "InterruptionPending": whpx.PENDING,
                "InterruptionType": 7 << whpx.PENDING_TYPE_SHIFT,
                "DeliverErrorCode": whpx.PENDING_HAS_ERROR,
                "InterruptionVector": 0xFFFF << whpx.PENDING_VECTOR_SHIFT,
            },
        ),
        (
            "WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER",
            0,
            {"NmiNotification": whpx.NOTIFY_NMI, "InterruptNotification": whpx.NOTIFY_INTERRUPT},
        ),
        (
            "WHV_X64_INTERRUPT_STATE_REGISTER",
            0,
            {"InterruptShadow": whpx.INTERRUPT_SHADOW, "NmiMasked": whpx.NMI_MASKED},
        ),
        (
            "WHV_DOORBELL_MATCH_DATA",
            160,
            {"MatchOnValue": whpx.DOORBELL_MATCH_VALUE, "MatchOnLength": whpx.DOORBELL_MATCH_LENGTH},
        ),
        ("WHV_INTERRUPT_CONTROL", 0, {"Type": 0xFF, "DestinationMode": 0xF << 8, "TriggerMode": 0xF << 12}),
    ],
)
def test_masks_are_where_the_bit_fields_are(record: str, start: int, masks: dict[str, int]) -> None:
    fields = windows().records[record].fields
    for name, mask in masks.items():
        at, bits = fields[name]
        assert mask == ((1 << bits) - 1) << (at - start), name


@needs_windows
def test_a_function_of_whpx_takes_what_the_header_says() -> None:
    functions = windows().functions
    interface = cffi.FFI()
    interface.cdef(whpx.CDEF)
    names = [name.partition("(")[0].split()[-1] for name in whpx.FUNCTIONS.split(";") if "(" in name]
    assert len(names) == 26
    for name in names:
        kind = interface.typeof(interface._parser._declarations[f"function {name}"][0].get_c_name())
        sizes = (interface.sizeof(kind.result), *(interface.sizeof(argument) for argument in kind.args))
        assert sizes == functions[name], name


# -- KVM on other hosts ---------------------------------------------------------------------------------------------


def declared(structures: str) -> tuple[cffi.FFI, list[str]]:
    interface = cffi.FFI()
    interface.cdef(structures)
    return interface, interface.list_types()[1]


@needs_arm64
def test_the_structures_of_arm64() -> None:
    headers, _ = evaluated("aarch64-linux-gnu", {})
    interface, names = declared(kvm_arm64.STRUCTURES)
    assert len(names) == 7
    for name in names:
        wrong = differences(interface, f"struct {name}", headers.records[name], skip=("alignment",))
        assert wrong == []


@needs_arm64
def test_the_register_numbers_of_arm64() -> None:
    def core(name: str, size: str = "U64") -> str:
        return f"KVM_REG_ARM64 | KVM_REG_SIZE_{size} | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG({name})"

    expressions = {
        **{f"x{i}": core(f"regs.regs[{i}]") for i in range(31)},
        "sp_el0": core("regs.sp"),
        "pc": core("regs.pc"),
        "pstate": core("regs.pstate"),
        "sp_el1": core("sp_el1"),
        "elr_el1": core("elr_el1"),
        "spsr_el1": core("spsr[KVM_SPSR_EL1]"),
        **{f"v{i}": core(f"fp_regs.vregs[{i}]", "U128") for i in range(32)},
        "fpsr": core("fp_regs.fpsr", "U32"),
        "fpcr": core("fp_regs.fpcr", "U32"),
        **{
            name: f"ARM64_SYS_REG({', '.join(map(str, encoding))})"
            for name, encoding in kvm_arm64.SYSTEM_REGISTERS.items()
        },
        "cntv_cval_el0": "KVM_REG_ARM_TIMER_CVAL",
        "cntvct_el0": "KVM_REG_ARM_TIMER_CNT",
    }
    _, values = evaluated("aarch64-linux-gnu", expressions)
    assert values == kvm_arm64.REGISTERS
    assert kvm_arm64.register_size(values["v0"]) == 16
    assert kvm_arm64.register_size(values["fpcr"]) == 4


@needs_arm64
def test_the_constants_of_arm64() -> None:
    expressions = {
        **{f"Feature.{one.name}": f"KVM_ARM_VCPU_{one.name}" for one in kvm_arm64.Feature},
        **{f"VgicGroup.{one.name}": f"KVM_DEV_ARM_VGIC_GRP_{one.name}" for one in kvm_arm64.VgicGroup},
        **{
            f"VgicAddress.{one.name}": f"KVM_VGIC_{one.name.replace('_', '_ADDR_TYPE_', 1)}"
            if one.name != "ITS"
            else "KVM_VGIC_ITS_ADDR_TYPE"
            for one in kvm_arm64.VgicAddress
        },
        **{
            name: name
            for name in vars(kvm_arm64)
            if name.startswith(("KVM_CAP", "KVM_DEV", "KVM_REG_")) and "SIZE_SHIFT" not in name
        },
        "irq": "1 << KVM_ARM_IRQ_VCPU2_SHIFT | KVM_ARM_IRQ_TYPE_PPI << KVM_ARM_IRQ_TYPE_SHIFT"
        " | 2 << KVM_ARM_IRQ_VCPU_SHIFT | 27",
        "spi": "KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | 40",
    }
    _, values = evaluated("aarch64-linux-gnu", expressions)
    ours = {
        **{f"Feature.{one.name}": one for one in kvm_arm64.Feature},
        **{f"VgicGroup.{one.name}": one for one in kvm_arm64.VgicGroup},
        **{f"VgicAddress.{one.name}": one for one in kvm_arm64.VgicAddress},
        **{name: vars(kvm_arm64)[name] for name in expressions if name in vars(kvm_arm64)},
        "irq": kvm_arm64.irq_line(2, 27, 258),
        "spi": kvm_arm64.irq_line(1, 40),
    }
    assert values == ours


@needs_riscv64
def test_the_structures_of_riscv64() -> None:
    headers, _ = evaluated("riscv64-linux-gnu", {})
    interface, names = declared(kvm_riscv64.STRUCTURES)
    assert len(names) == 9
    for name in set(names) - {*kvm_riscv64.EMPTY, *OURS}:
        assert differences(interface, f"struct {name}", headers.records[name]) == []


@needs_riscv64
def test_the_register_numbers_of_riscv64() -> None:
    def number(kind: str, text: str, size: str = "U64") -> str:
        return f"KVM_REG_RISCV | KVM_REG_SIZE_{size} | KVM_REG_RISCV_{kind} | {text}"

    def fields(kind: str, names: list[str], prefix: str = "") -> dict[str, str]:
        inside = "regs." if kind == "CORE" else ""
        return {
            prefix + name: number(kind, f"KVM_REG_RISCV_{kind}_REG({'' if name == 'mode' else inside}{name})")
            for name in names
        }

    structures, _ = declared(kvm_riscv64.STRUCTURES)

    def members(kind: str) -> list[str]:
        return [name for name, _ in structures.typeof(f"struct kvm_riscv_{kind}").fields]

    core = [name for name, _ in dict(structures.typeof("struct kvm_riscv_core").fields)["regs"].type.fields]
    expressions = {
        **fields("CORE", [*core, "mode"]),
        **fields("CSR", members("csr")),
        **fields("TIMER", members("timer"), "timer_"),
        **{f"f{i}": number("FP_D", f"KVM_REG_RISCV_FP_D_REG(f[{i}])") for i in range(32)},
        "fcsr": number("FP_D", "KVM_REG_RISCV_FP_D_REG(fcsr)", "U32"),
        "isa": number("CONFIG", "KVM_REG_RISCV_CONFIG_REG(isa)"),
    }
    _, values = evaluated("riscv64-linux-gnu", expressions)
    assert values == kvm_riscv64.REGISTERS


@needs_riscv64
def test_the_constants_of_riscv64() -> None:
    headers, values = evaluated(
        "riscv64-linux-gnu",
        {
            **{
                one.name: f"KVM_REG_RISCV_{one.name} >> KVM_REG_RISCV_TYPE_SHIFT"
                for one in kvm_riscv64.Kind
                if one.name not in {"SBI_EXT", "VECTOR"}  # newer than Debian's headers
            },
            "s": "KVM_RISCV_MODE_S",
            "u": "KVM_RISCV_MODE_U",
        },
    )
    assert (values.pop("s"), values.pop("u")) == (kvm_riscv64.MODE_S, kvm_riscv64.MODE_U)
    assert values == {name: kvm_riscv64.Kind[name] for name in values}
    assert len(values) == 7
    assert headers.records["kvm_regs"].size == 0


# -- KVM: what all hosts have in common, and x86-64 ------------------------------------------------------------------

KVM_HOSTS = [
    pytest.param("x86_64-linux-gnu", kvm_x86, id="x86_64"),
    pytest.param("aarch64-linux-gnu", kvm_arm64, id="aarch64", marks=needs_arm64),
    pytest.param("riscv64-linux-gnu", kvm_riscv64, id="riscv64", marks=needs_riscv64),
]
RENAMED = {
    "kvm_regs": ("alignment",),
    "kvm_irqchip": ("chip",),  # a union of the chips' states
    "kvm_pit_state2": ("channels",),
    "kvm_irq_routing_entry": ("u.irqchip", "u.msi"),
}
"""Fields that have no name, another one, or no counterpart on the host's headers: only the size is compared, by what follows."""
OURS = {"kvm_one_word", "kvm_guest_debug_control"}


def host_headers(triple: str) -> tuple[Path, ...]:
    if triple.startswith("x86_64"):
        return Path("/usr/include") / triple, Path("/usr/include")
    return (cross(triple),)


def kvm_headers(triple: str, expressions: dict[str, str]) -> tuple[Headers, dict[str, int]]:
    """As :func:`evaluated`, but an expression that these headers are too old for is left out."""
    guarded = "".join(
        f"#ifdef {text}\nenum {{ probe_{i} = {text} }};\n#endif\n"
        for i, text in enumerate(expressions.values())
    )
    headers = Headers(
        f"{triple.partition('-')[0]}-unknown-linux-gnu",
        host_headers(triple),
        f"#include <stddef.h>\n#include <linux/kvm.h>\n{guarded}",
    )
    found = {
        name: headers.constants[f"probe_{i}"] & 0xFFFF_FFFF
        for i, name in enumerate(expressions)
        if f"probe_{i}" in headers.constants
    }
    return headers, found


@pytest.mark.skipif(not LIBCLANG, reason="needs libclang from PyPI")
@pytest.mark.skipif(not Path("/usr/include/linux/kvm.h").exists(), reason="needs the host's linux-libc-dev")
@pytest.mark.parametrize(("triple", "isa"), KVM_HOSTS)
def test_the_structures_of_kvm(triple: str, isa: ModuleType) -> None:
    headers, _ = kvm_headers(triple, {})
    interface = kvm_abi.foreign(isa.STRUCTURES)
    names = set(interface.list_types()[1]) - OURS
    if isa is kvm_riscv64:
        names -= set(kvm_riscv64.EMPTY)
    assert len(names) > 20
    for name in names:
        skip = RENAMED.get(name, ())
        if (name, isa) == ("kvm_run", kvm_riscv64):
            skip = ("debug", "s.regs")  # of no bytes
        wrong = differences(interface, f"struct {name}", headers.records[name], skip=skip)
        assert wrong == []


@pytest.mark.skipif(not LIBCLANG, reason="needs libclang from PyPI")
@pytest.mark.skipif(not Path("/usr/include/linux/kvm.h").exists(), reason="needs the host's linux-libc-dev")
@pytest.mark.parametrize(("triple", "isa"), KVM_HOSTS)
def test_the_numbers_of_kvm(triple: str, isa: ModuleType) -> None:
    ours = kvm_abi.numbers(kvm_abi.foreign(isa.STRUCTURES), kvm_abi.CALLS | isa.CALLS)
    capabilities = {
        f"KVM_CAP_{name}": value
        for name, value in vars(kvm_abi.Capability).items()
        if name.isupper() and isinstance(value, int)
    }
    exits = {f"KVM_EXIT_{name}": value for value, name in kvm_abi.EXITS.items()}
    wanted = ours | capabilities | exits
    _, values = kvm_headers(triple, {name: name for name in wanted})
    assert values == {name: value for name, value in wanted.items() if name in values}
    assert wanted.keys() - values.keys() <= {
        "KVM_EXIT_MEMORY_FAULT",  # Linux 6.8
        *(() if triple.startswith("x86_64") else ("KVM_CAP_PIT2", "KVM_CAP_XSAVE", "KVM_CAP_XCRS")),
        *(("KVM_CAP_SET_GUEST_DEBUG",) if triple.startswith("riscv64") else ()),
    }


# -- HVF: no free headers ------------------------------------------------------------------------------------------


def test_the_exit_of_hvf_as_documented() -> None:
    interface = hvf.ffi()
    assert interface.sizeof("hv_vcpu_exit_t") == 32
    assert interface.offsetof("hv_vcpu_exit_t", "exception") == 8


@needs_arm64
def test_hvf_numbers_system_registers_as_the_architecture_does() -> None:
    """hv_sys_reg_t and the low half of KVM's numbers are the same packing of op0 to op2."""
    expressions = {
        name: f"ARM64_SYS_REG({', '.join(map(str, encoding))}) & 0xffff"
        for name, encoding in ENCODINGS.items()
        if name in hvf.SYSTEM_REGISTERS
    }
    _, values = evaluated("aarch64-linux-gnu", expressions)
    assert values == hvf.SYSTEM_REGISTERS
