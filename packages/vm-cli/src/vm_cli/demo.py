"""``vm demo``: the bundled RISC-V program, run with the JIT, again from the cache, and interpreted, and the difference.

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

from vm_cli.facts import result_facts
from vm_cli.launch import guest_environment, status_of
from vm_cli.report import colour
from vm_cli.settings import Settings, load
from vm_core.errors import VmError
from vm_core.runner import RunResult, run

__all__ = ["measure", "program"]

_NAME = "demo.riscv64"
_WARM_RUNS = 5


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
    """Run it three ways and print the comparison. Raises VmError if a run fails or two of them differ."""
    path = str(program())
    settings = replace(load(os.environ).settings, jit=True, root=None, fuel=None)
    if not as_json:
        print(f"$ vm run {path}\n", flush=True)
    first = _run(path, replace(settings, engine="jit"))
    if not as_json:
        sys.stdout.write(_text(first.stdout) + "\n")
        sys.stdout.flush()
    # A run so short can end before its last region is compiled, or its first on a busy machine; what it lacked, the next
    # one compiles.
    for _ in range(_WARM_RUNS):
        again = _run(path, replace(settings, engine="jit"))
        if again.stats.regions_cached and not again.stats.regions_compiled:
            break
    interpreted = _run(path, replace(settings, engine="interp"))
    if not first.stdout == again.stdout == interpreted.stdout:
        raise VmError(
            "two engines disagree on the program's output", hint="this is a defect of vm, please report it"
        )
    from vm_cli import show

    if as_json:
        facts = {
            "program": path,
            "stdout": _text(first.stdout),
            "interpreted": result_facts(interpreted, "interp"),
            "jit": result_facts(first, "jit"),
            "jit_again": result_facts(again, "jit"),
            "ratio": show.ratio_of(interpreted, again),
        }
        print(json.dumps(facts, indent=2, default=str))
    else:
        show.show_comparison(interpreted, first, again)
    return 0


def _run(path: str, settings: Settings) -> RunResult:
    # A picture in colours is no use in a file.
    style = [] if colour(sys.stdout) else ["plain"]
    if settings.cache_dir is not None:
        os.environ["VM_CACHE_DIR"] = settings.cache_dir  # read by vm_jit.cache
    # Not in this process, which goes on after it, and so cannot be confined.
    result = run(
        [path, *style],
        env=guest_environment(settings, os.environ),
        engine=settings.engine,
        isolation=settings.isolation,
        timeout=settings.timeout,
        memory=settings.memory,
        sandbox=settings.sandbox,
        capture_output=True,
    )
    if status_of(result):
        what = result.message or f"exit status {result.exit_code}"
        raise VmError(f"the bundled program failed: {what}", hint="vm doctor may know why")
    return result


def _text(data: str | bytes | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""
