"""The bundled demo program is the one that its source makes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Guests, Oracle

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "packages" / "vm-cli" / "src" / "vm_cli" / "data"
# Of the 76 columns wide picture: whatever compiler, engine or CPU draws it, these bytes come out.
PICTURE = "49092197a4ca866f"


def test_checksum_and_size() -> None:
    data = (DATA / "demo.riscv64").read_bytes()
    digest, name = (DATA / "demo.riscv64.sha256").read_text().split()
    assert name == "demo.riscv64"
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(data) <= 200 * 1024


def test_same_picture_natively(guests: Guests, tmp_path: Path) -> None:
    if "native" in guests.problems:
        pytest.skip(guests.problems["native"])
    compiler = guests.tool.VARIANTS["native"].compiler()
    program = tmp_path / "demo"
    subprocess.run(
        [*compiler, "-O2", "-ffp-contract=off", ROOT / "guests" / "demo.c", "-o", program, "-lm"],
        check=True,
        capture_output=True,
    )
    done = subprocess.run([program], capture_output=True, check=True, env={})
    assert PICTURE.encode() in done.stdout


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
def test_rebuilt_demo_prints_the_same(guests: Guests, qemu: Oracle) -> None:
    if "musl" in guests.problems:
        pytest.skip(guests.problems["musl"])
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_demo.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    ("arguments", "env"),
    [((), {}), (("plain",), {}), ((), {"NO_COLOR": "1"}), ((), {"COLORTERM": "truecolor"})],
)
def test_colours(arguments: tuple[str, ...], env: dict[str, str], qemu: Oracle, tmp_path: Path) -> None:
    done = qemu.run([DATA / "demo.riscv64", *arguments], cwd=tmp_path, env=env)
    assert done.status == 0
    plain = bool(arguments) or "NO_COLOR" in env
    assert (b"\x1b[" in done.stdout) != plain
    assert (b"38;2;" in done.stdout) == ("COLORTERM" in env)
    assert PICTURE.encode() in done.stdout
