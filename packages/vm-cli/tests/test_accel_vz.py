"""``vm accel selftest --accel vz`` on the simulator of Apple's Virtualization framework, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vm_accel.testing.vz import build, lacking

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())


def vm(*arguments: str | Path, library: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vm_cli", *map(str, arguments)],
        env={**os.environ, "VM_VZ_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_self_test_passes_and_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "vz.json"
    done = vm("accel", "selftest", "--accel", "vz", "--record", record, library=build(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "a simulator of it: 6 passed" in done.stdout
    found = json.loads(record.read_text())
    assert (found["backend"], found["provenance"]) == ("vz", "simulator")
    assert len(found["checks"][0]["contexts"]) > 90


def test_without_the_framework_the_error_is_one_line() -> None:
    done = vm("accel", "selftest", "--accel", "vz", library="/nonexistent/libvz.so")
    assert done.returncode == 125
    assert "VM310" in done.stderr
    assert "Traceback" not in done.stderr
