"""``vm demo``: the bundled RISC-V program, run with the JIT and then interpreted, and what the difference was.

Its source is guests/demo.c in the repository and tools/build_demo builds it; the checksum beside it is checked first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

from vm_cli.launch import run_guest, status_of
from vm_cli.settings import load
from vm_core.errors import VmError

__all__ = ["measure", "program"]

_NAME = "demo.riscv64"


def program() -> Path:
    """The bundled program, after a check that it is the one that was released. Raises VmError."""
    data = resources.files("vm_cli") / "data"
    path = Path(str(data / _NAME))
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        wanted = (data / f"{_NAME}.sha256").read_text().split()[0]
    except (OSError, IndexError) as error:
        raise VmError(f"the bundled program is missing: {error}", hint="reinstall vm-cli") from None
    if found != wanted:
        raise VmError(f"{path} is not the program that was released", hint="reinstall vm-cli")
    return path


def measure(*, as_json: bool) -> int:
    """Run it both ways and print the comparison. Exits with the guest's status if that is not 0."""
    path = str(program())
    settings = replace(load(os.environ).settings, engine="auto", jit=True, root=None, fuel=None, stats=False)
    if not as_json:
        print(f"$ vm run {path}\n", flush=True)
    compiled = run_guest([path], replace(settings, engine="jit"), os.environ, capture_output=True)
    if not as_json:
        sys.stdout.write(_text(compiled.stdout) + "\n")
        sys.stdout.flush()
    if status_of(compiled):
        raise VmError(
            f"the bundled program ended with status {status_of(compiled)}", hint="vm doctor may know why"
        )
    interpreted = run_guest([path], replace(settings, engine="interp"), os.environ, capture_output=True)
    if interpreted.stdout != compiled.stdout:
        raise VmError(
            "the two engines disagree on the program's output; this is a defect of vm, please report it"
        )
    from vm_cli import show

    if as_json:
        facts = {
            "program": path,
            "stdout": _text(compiled.stdout),
            "interpreted": show.result_facts(interpreted),
            "jit": show.result_facts(compiled),
            "ratio": show.ratio_of(interpreted, compiled),
        }
        print(json.dumps(facts, indent=2, default=str))
    else:
        show.show_comparison(interpreted, compiled)
    return 0


def _text(data: str | bytes | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""
