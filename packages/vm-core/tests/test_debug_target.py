"""Target descriptions: made from each ISA's tables, and as gdb's standard features want them."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from vm_core import isa as isas
from vm_core.debug.target import target_of
from vm_core.testing.guests import Caller

ISAS = ("riscv64", "aarch64", "x86_64")


def described(name):
    target = target_of(isas.get(name))
    root = ET.fromstring(target.xml())
    return target, {f.attrib["name"]: f for f in root.iter("feature")}


@pytest.mark.parametrize("name", ISAS)
def test_every_register_of_the_isa_is_described_once(name):
    target, features = described(name)
    seen = [reg.attrib for feature in features.values() for reg in feature.iter("reg")]
    assert len({reg["name"] for reg in seen}) == len({reg["regnum"] for reg in seen}) == len(seen)
    assert {reg["name"] for reg in seen} == set(target.by_name)
    layout = isas.get(name).layout
    flags = {"nzcv", "flags"}
    for file in layout.files.values():
        if file.name not in flags:
            expected = {n for n in file.names if n not in ("xzr", "tpidr_el0")}
            assert expected <= set(target.by_name), file.name


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("riscv64", {"zero": 0, "sp": 2, "t6": 31, "pc": 32, "ft0": 33, "ft11": 64, "fflags": 66, "fcsr": 68, "cycle": 3137}),
        ("aarch64", {"x0": 0, "x30": 30, "sp": 31, "pc": 32, "cpsr": 33, "v0": 34, "v31": 65, "fpsr": 66, "fpcr": 67}),
        (
            "x86_64",
            {"rax": 0, "rbx": 1, "rcx": 2, "rsp": 7, "r8": 8, "r15": 15, "rip": 16, "eflags": 17, "gs": 23, "st0": 24, "fop": 39,
             "xmm0": 40, "xmm15": 55, "mxcsr": 56, "orig_rax": 57, "fs_base": 58, "gs_base": 59},
        ),
    ],
)  # fmt: skip
def test_numbers_are_those_that_gdb_has_by_itself(name, numbers):
    target, _ = described(name)
    assert {register: target.by_name[register].number for register in numbers} == numbers


@pytest.mark.parametrize("name", ISAS)
def test_types_are_defined_where_they_are_used(name):
    simple = {"int", "code_ptr", "data_ptr", "uint128", "i387_ext"}
    simple |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {
        "ieee_single",
        "ieee_double",
        "int128",
    }
    for feature in described(name)[1].values():
        defined = {one.attrib["id"] for one in feature if "id" in one.attrib}
        used = {one.attrib["type"] for one in feature.iter() if "type" in one.attrib}
        assert used <= simple | defined


def test_registers_are_read_and_written_where_the_guest_has_them():
    with Caller() as caller:
        target, t = target_of(caller.process.isa), caller.thread
        for number, register in target.by_number.items():
            if register.put is not None and register.name not in ("zero", "fflags", "frm", "fcsr"):
                register.put(t, number * 3 + 1)
        assert t.cpu["a0"] == 31
        assert t.cpu["fa0"] == (33 + 10) * 3 + 1
        assert t.cpu.pc == 97
        target.by_name["zero"].put(t, 5)
        assert target.by_name["zero"].get(t) == 0
        target.by_name["fcsr"].put(t, 0xFF)
        assert (t.cpu.header("fp_flags"), t.cpu.header("fp_rounding")) == (31, 7)
        target.by_name["frm"].put(t, 2)
        assert target.by_name["fcsr"].get(t) == 2 << 5 | 31
        assert target.by_name["instret"].put is None
        sizes = sum(register.size for register in target.general)
        assert sizes == 33 * 8 + 32 * 8 + 3 * 4


@pytest.mark.parametrize("name", ISAS)
def test_gdb_takes_the_description(name, tmp_path):
    gdb = shutil.which("gdb-multiarch")
    if gdb is None:
        pytest.skip("gdb-multiarch is not installed (Debian: apt install gdb-multiarch)")
    file = tmp_path / "target.xml"
    file.write_text(target_of(isas.get(name)).xml())
    done = subprocess.run(
        [gdb, "-nx", "-batch", "-ex", f"set tdesc filename {file}", "-ex", "show architecture", "-ex", "info registers"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    wanted = {"riscv64": "riscv:rv64", "aarch64": "aarch64", "x86_64": "i386:x86-64"}[name]
    assert f'"{wanted}"' in done.stdout
    said = [line for line in done.stderr.splitlines() if "registers now" not in line]
    assert said == []
