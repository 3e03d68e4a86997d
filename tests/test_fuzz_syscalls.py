"""A short run of the fuzzer of system calls, and that it would tell. VM_FUZZ_CALLS makes it a long one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vm_core.testing.outside import Scene

TOOL = Path(__file__).resolve().parent.parent / "tools" / "fuzz_syscalls.py"
CALLS = int(os.environ.get("VM_FUZZ_CALLS", "6000"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_syscalls", TOOL)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.timeout(max(300, CALLS // 200))
@pytest.mark.parametrize("kind", ["riscv64", "aarch64", "x86_64", "native"])
def test_hostile_calls_do_no_harm(kind: str) -> None:
    seed = int.from_bytes(os.urandom(3), "little")
    command = [
        sys.executable,
        str(TOOL),
        "--calls",
        str(CALLS),
        "--isa",
        kind,
        "--seed",
        str(seed),
        "--round",
        "1000",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (seed, done.stdout, done.stderr)
    made = int(done.stdout.partition(" calls")[0].rpartition(" ")[2].replace(",", ""))
    assert made >= CALLS


def test_what_grows_is_found(tool: ModuleType) -> None:
    assert not tool.flat([(100 << 20, 20)] * 40)
    assert not tool.flat([(100 << 20, 20), (130 << 20, 30)] * 20)
    assert "MiB" in tool.flat([((100 + n) << 20, 20) for n in range(80)])[0]
    assert "not closed" in tool.flat([(100 << 20, 20 + n // 10) for n in range(80)])[0]


def test_what_is_touched_is_found(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert not scene.touched
    secret = scene.outside / "secret"
    for change in (
        (scene.outside / "new").touch,
        lambda: secret.chmod(0o600),
        lambda: secret.write_text("y"),
        lambda: os.utime(secret, (0, 0)),
    ):
        scene.accept()
        assert not scene.touched
        change()
        assert scene.touched
