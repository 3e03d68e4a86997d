"""Every exit that anybody recorded is decoded as it was then: the decoders of platforms that this machine has not.

A record comes from ``vm accel selftest --record``; those in recorded/ are of real machines, or of the simulators.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from vm_accel import pending
from vm_accel.hvf import abi as hvf_abi
from vm_accel.hvf import layout
from vm_accel.hvf.syndrome import Class, data_abort, exception_class, system_access
from vm_accel.hvf.vcpu import GENERAL, HvfVcpu
from vm_accel.selftest import FORMAT
from vm_accel.whpx import abi as whpx_abi
from vm_accel.whpx.registers import FIXED
from vm_accel.whpx.vcpu import WhpxVcpu

_VALUE = re.compile(r", (value|data)=.*")
RECORDS = sorted((Path(__file__).parent / "recorded").glob("*.json"))


def contexts(backend: str) -> list[Any]:
    out = []
    for path in RECORDS:
        record = json.loads(path.read_text())
        if record["format"] != FORMAT or record["backend"] != backend:
            continue
        for check in record["checks"]:
            for number, context in enumerate(check["contexts"]):
                out.append(pytest.param(context, id=f"{path.stem}-{check['name']}-{number}"))
    return out


class Vm:
    """In the place of a VM: memory that holds zeroes and the instruction, and a log of written pages that says what is wanted."""

    def __init__(self, memory: range, pc: int, code: bytes, wanted: str | None) -> None:
        self.handle, self.memory, self.pc, self.code, self.wanted = None, memory, pc, code, wanted

    def ram(self, address: int, size: int, *, is_write: bool) -> memoryview | None:
        if address not in self.memory:
            return None
        return memoryview(bytearray(self.code[:size] if address == self.pc and self.code else size))

    def touched(self, address: int) -> bool:
        return self.wanted is None


class Library:
    """In the place of the platform's: nothing but the registers of the record is there."""

    def __init__(self, ffi: Any) -> None:
        self.ffi = ffi

    def call(self, name: str, *arguments: Any) -> None:
        if name == "WHvTranslateGva":
            arguments[5][0] = arguments[2]


class Whpx(WhpxVcpu):
    def __init__(self, context: dict[str, Any]) -> None:
        self.vm = Vm(range(0x10000), -1, b"", context["exit"])  # type: ignore[assignment]
        self.index, self._ffi = 0, whpx_abi.ffi()
        self.library = Library(self._ffi)  # type: ignore[assignment]
        self._context, self._context_store = whpx_abi.aligned("WHV_RUN_VP_EXIT_CONTEXT")
        raw = bytes.fromhex(context["raw"])
        self._context_bytes = len(raw)
        self._ffi.memmove(self._context, raw, len(raw))
        self._pending = pending.Pending()
        self._closed = self._hidden_step = self._step = self._running = False
        self._kicked, self._breakpoints, self._watched, self._passing = True, (), 0, None
        self._changed = set()
        code = raw[52:67]  # the instruction's bytes, at the same place for memory and ports
        self.from_memory = code[0] == 0xF3 and code[1] in (0xA4, 0xA5, 0x6E, 0x6F)
        self._cache = {part.register: 0 for part in FIXED.values()}
        for name, value in context["registers"].items():
            self._cache[FIXED[name].register] = value


class Hvf(HvfVcpu):
    def __init__(self, context: dict[str, Any]) -> None:
        self.values = {
            **dict.fromkeys((*GENERAL, *hvf_abi.SYSTEM_REGISTERS, "sp"), 0),
            **context["registers"],
        }
        memory = range(0x4000_0000, 0x4001_0000)
        self.vm = Vm(memory, self.values["pc"], bytes.fromhex(context["code"]), context["exit"])  # type: ignore[assignment]
        ffi = hvf_abi.ffi()
        self.library = Library(ffi)  # type: ignore[assignment]
        self._context = ffi.new("hv_vcpu_exit_t *")
        ffi.memmove(self._context, bytes.fromhex(context["raw"]), ffi.sizeof("hv_vcpu_exit_t"))
        self._pending = pending.Pending()
        self._closed = self._step = False
        self._kicked, self.powered, self._passing = True, True, None
        self._stepping_over = context["exit"] is None

    def __getitem__(self, name: str) -> int:
        return self.values.get(name, 0)

    def put(self, name: str, value: int) -> None:
        self.values[name] = value


def check(vcpu: Any, wanted: str | None) -> None:
    found = vcpu._exit(None)
    if wanted is not None and wanted.startswith("Debug("):
        # What kind of stop it is depends on what was asked for.
        assert repr(found).partition(", kind")[0] == wanted.partition(", kind")[0]
    elif isinstance(vcpu, Whpx) and vcpu.from_memory:
        # A string instruction that reads the guest's memory, which is not in the record: all but the value.
        assert _VALUE.sub("", repr(found)) == _VALUE.sub("", wanted or "")
    else:
        assert (None if found is None else repr(found)) == wanted


@pytest.mark.parametrize("context", contexts("whpx"))
def test_an_exit_of_whpx(context: dict[str, Any]) -> None:
    check(Whpx(context), context["exit"])


@pytest.mark.parametrize("context", contexts("hvf"))
def test_an_exit_of_hvf(context: dict[str, Any]) -> None:
    check(Hvf(context), context["exit"])


@pytest.mark.parametrize("seed", range(200))
def test_nonsense_is_data(seed: int) -> None:
    """Whatever a platform says becomes an exit, or an instruction that goes on; never an error of ours."""
    rng = random.Random(seed)
    record = rng.choice(contexts(rng.choice(["whpx", "hvf"]))).values[0]
    raw = bytearray.fromhex(record["raw"])
    for _ in range(rng.randrange(1, 12)):
        raw[rng.randrange(len(raw))] = rng.choice([0, 0xFF, rng.randrange(256)])
    context = {**record, "raw": raw.hex()}
    vcpu: Any = Whpx(context) if len(raw) > 32 else Hvf(context)
    found = vcpu._exit(None)
    assert found is None or repr(found)
    vcpu._pending.drop()


def test_there_are_records() -> None:
    assert len(contexts("whpx")) > 40
    assert len(contexts("hvf")) > 30


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_names_nobody(path: Path) -> None:
    record = json.loads(path.read_text())
    if record["format"] == layout.FORMAT:
        assert layout.differences(record) == []
        return
    assert set(record["host"]) == {"system", "release", "machine", "byteorder"}
    assert all(one["result"] in {"passed", "failed", "skipped"} for one in record["checks"])


# -- syndromes from the manual's own tables (DDI 0487K, D24.2.40) ----------------------------------------------------------


def test_a_valid_data_abort() -> None:
    # LDRSH W7, [X0]: ISV, SAS 01, SSE, SRT 7, SF 0, translation fault at level 1
    found = data_abort(0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 22 | 1 << 21 | 7 << 16 | 0b000101)
    assert found == (True, 2, True, 7, False, False, False, False, False)
    # STR X31 (XZR), permission fault at level 3
    found = data_abort(0x24 << 26 | 1 << 24 | 3 << 22 | 31 << 16 | 1 << 15 | 1 << 6 | 0b001111)
    assert found == (True, 8, False, 31, True, True, False, False, True)
    assert data_abort(0x24 << 26 | 1 << 7 | 1 << 8).in_walk
    assert data_abort(0x24 << 26 | 1 << 8).cache_maintenance


def test_a_trapped_system_register() -> None:
    # MRS X3, CNTVCT_EL0 (3, 3, 14, 0, 2)
    found = system_access(0x18 << 26 | 3 << 20 | 2 << 17 | 3 << 14 | 14 << 10 | 3 << 5 | 0 << 1 | 1)
    assert found == (0xDF02, 3, False)
    assert exception_class(0x5A00_0000) == Class.HVC64


def test_the_probe_of_headers_finds_what_differs(tmp_path: Path) -> None:
    """On a made-up Hypervisor.h, which is as we think but for two things."""
    names = {text: value for text, value in layout.expected().items() if text.startswith("(uint32_t)")}
    constants = "".join(f"#define {text[11:-1]} {value}\n" for text, value in names.items())
    (tmp_path / "Hypervisor.h").write_text(
        "#include <stdint.h>\n"
        + constants.replace("HV_REG_PC 31", "HV_REG_PC 30")
        + "typedef struct { uint64_t syndrome, virtual_address, physical_address; } hv_vcpu_exit_exception_t;\n"
        "typedef struct { uint32_t reason, more; uint64_t pad; hv_vcpu_exit_exception_t exception; } hv_vcpu_exit_t;\n"
    )
    found = layout.probe("<Hypervisor.h>", flags=(f"-I{tmp_path}",))
    assert layout.differences(found) == [
        "sizeof(hv_vcpu_exit_t) is 0x28 in the headers, 0x20 here",
        "offsetof(hv_vcpu_exit_t, exception) is 0x10 in the headers, 0x8 here",
        "(uint32_t)(HV_REG_PC) is 0x1e in the headers, 0x1f here",
    ]
