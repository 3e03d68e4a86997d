"""The record of Apple's headers: what a Mac's own compiler says about the types and constants that vm_accel.hvf.abi declares.

The headers may not be passed on; sizes, offsets and numbers may. ``vm accel record-layout FILE`` makes the record on a Mac with
the SDK, the tests compare every record in packages/vm-accel/tests/recorded with the declarations.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from vm_accel.hvf import abi
from vm_core.errors import HostError

__all__ = ["FORMAT", "differences", "expected", "probe", "source"]

FORMAT: Final = "hvf-layout/1"
_PREFIXES: Final[dict[type, str]] = {
    abi.Return: "HV_",
    abi.Map: "HV_MEMORY_",
    abi.ExitReason: "HV_EXIT_REASON_",
    abi.Interrupt: "HV_INTERRUPT_TYPE_",
    abi.Register: "HV_REG_",
}
_STRUCTURES: Final = ("hv_vcpu_exit_t", "hv_vcpu_exit_exception_t")


def expected() -> dict[str, int]:
    """C expression -> its value by our declarations: sizes, offsets, constants."""
    interface = abi.ffi()
    out: dict[str, int] = {}
    for name in _STRUCTURES:
        out[f"sizeof({name})"] = interface.sizeof(name)
        for field, _ in interface.typeof(name).fields:
            out[f"offsetof({name}, {field})"] = interface.offsetof(name, field)
    for kind, prefix in _PREFIXES.items():
        for name, value in kind.__members__.items():  # type: ignore[attr-defined]
            out[f"(uint32_t)({prefix}{name})"] = int(value) & 0xFFFF_FFFF
    for name, value in abi.SYSTEM_REGISTERS.items():
        out[f"(uint32_t)(HV_SYS_REG_{name.upper()})"] = value
    return out


def source(expressions: dict[str, int], header: str = "<Hypervisor/Hypervisor.h>") -> str:
    """A C program that prints the expressions' values, one a line."""
    lines = [f"#include {header}", "#include <stdbool.h>", "#include <stddef.h>", "#include <stdint.h>"]
    lines += ["#include <stdio.h>", "int main(void) {"]
    lines += [f'    printf("%llu\\n", (unsigned long long)({text}));' for text in expressions]
    return "\n".join([*lines, "    return 0;", "}", ""])


def probe(
    header: str = "<Hypervisor/Hypervisor.h>", *, compiler: str = "cc", flags: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Compile and run it. Raises HostError where there is no compiler or no header."""
    expressions = expected()
    with tempfile.TemporaryDirectory() as directory:
        program, text = Path(directory) / "probe", Path(directory) / "probe.c"
        text.write_text(source(expressions, header))
        try:
            built = subprocess.run(
                [compiler, *flags, "-o", str(program), str(text)], capture_output=True, text=True, check=False
            )
            if built.returncode:
                raise HostError(
                    f"the headers of Hypervisor.framework cannot be compiled: {built.stderr.strip()[:400]}",
                    hint="on macOS with the SDK: xcode-select --install",
                )
            done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise HostError(f"{compiler} cannot be run: {error}", hint="xcode-select --install") from error
        numbers = [int(line) for line in done.stdout.split()]
    return {
        "format": FORMAT,
        "provenance": {
            "system": platform.system(),
            "macos": platform.mac_ver()[0],
            "machine": platform.machine(),
        },
        "values": dict(zip(expressions, numbers, strict=True)),
    }


def differences(record: dict[str, Any]) -> list[str]:
    """What a record says otherwise than our declarations."""
    if record.get("format") != FORMAT:
        return [f"not a record of layouts: {record.get('format')!r}"]
    ours, wrong = expected(), []
    for text, value in record["values"].items():
        if text not in ours:
            wrong.append(f"{text} is declared no more")
        elif ours[text] != value:
            wrong.append(f"{text} is {value:#x} in the headers, {ours[text]:#x} here")
    return wrong
