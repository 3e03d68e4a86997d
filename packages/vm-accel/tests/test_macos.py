"""Entitlements, with a codesign and an otool of the test's own that keep what a program was signed with beside it."""

from __future__ import annotations

import os
import plistlib
import sys
from pathlib import Path

import pytest

from vm_accel import macos
from vm_accel.errors import AcceleratorUnavailable, EntitlementMissing

CODESIGN = f"""#!{sys.executable}
import pathlib, shutil, sys
program = pathlib.Path(sys.argv[-1]).resolve()
kept = pathlib.Path(__file__).parent / f"{{program.name}}.plist"
if "--sign" in sys.argv:
    if (pathlib.Path(__file__).parent / "refuse").exists():
        sys.exit("no identity found")
    shutil.copy(sys.argv[sys.argv.index("--entitlements") + 1], kept)
elif kept.exists():
    sys.stdout.buffer.write(b"\\xfa\\xde\\x71\\x71\\0\\0\\0\\0" + kept.read_bytes())
else:
    sys.exit(f"{{program}}: code object is not signed at all")
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "tools"
    directory.mkdir()
    for name, text in (("codesign", CODESIGN), ("otool", "#!/bin/sh\necho /usr/lib/libSystem.B.dylib\n")):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def test_a_program_that_is_not_signed(tools: Path) -> None:
    found = macos.missing(macos.HYPERVISOR)
    assert isinstance(found, EntitlementMissing)
    assert found.entitlement in str(found)
    assert found.hint == macos.SIGN


def test_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert macos.missing(macos.HYPERVISOR) is None


def test_a_link_becomes_a_signed_copy(tools: Path, tmp_path: Path) -> None:
    real = tmp_path / "python3.11"
    real.write_bytes(b"program")
    link = tmp_path / "python"
    link.symlink_to(real)
    (tools / "python3.11.plist").write_bytes(plistlib.dumps({"com.apple.security.cs.allow-jit": True}))
    assert macos.sign(link) == link
    assert not link.is_symlink()
    assert link.read_bytes() == b"program"
    assert macos.entitlements(link) == {
        "com.apple.security.cs.allow-jit": True,
        macos.HYPERVISOR: True,
        macos.VIRTUALIZATION: True,
    }
    assert macos.HYPERVISOR not in (macos.entitlements(real) or {})


def test_codesign_refuses(tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "python"
    program.write_bytes(b"program")
    (tools / "refuse").touch()
    with pytest.raises(AcceleratorUnavailable, match="no identity found"):
        macos.sign(program)
    assert macos.main(["sign", str(program)]) == 1
    assert "no identity found" in capsys.readouterr().err
    assert macos.main(["what"]) == 2
