"""Guest programs of a few instructions, assembled here, so that these tests need no compiler."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from vm_core import isa

BASE = 0x10000
CODE = 0x1000  # where the code begins in the file and above BASE

Assemble = Callable[..., Path]


@pytest.fixture
def assemble(tmp_path: Path) -> Assemble:
    """Make an executable: lines of assembly (or raw bytes), and what lies 256 bytes behind their start."""

    def make(*lines: str | bytes, data: bytes = b"", name: str = "guest", machine: int = 243) -> Path:
        rv64 = isa.get("rv64")
        code = b"".join(line if isinstance(line, bytes) else rv64.assemble(line) for line in lines)
        assert len(code) <= 256
        content = code.ljust(256, b"\0") + data
        header = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01",
            2,
            machine,
            1,
            BASE + CODE,
            64,
            0,
            5,
            64,
            56,
            1,
            0,
            0,
            0,
        )
        segment = struct.pack(
            "<IIQQQQQQ", 1, 7, CODE, BASE + CODE, BASE + CODE, len(content), len(content), 0x1000
        )
        path = tmp_path / name
        path.write_bytes((header + segment).ljust(CODE, b"\0") + content)
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def exits_with(assemble: Assemble) -> Callable[[int], Path]:
    """A program that exits with a status after three instructions."""
    return lambda status: assemble(f"addi a0, zero, {status}", "addi a7, zero, 93", "ecall")


@pytest.fixture
def greeting(assemble: Assemble) -> Path:
    """A program that writes "hello" and a line end, and exits with 0."""
    return assemble(
        "addi a0, zero, 1",
        "addi a1, zero, 17",
        "slli a1, a1, 12",
        "addi a1, a1, 256",
        "addi a2, zero, 6",
        "addi a7, zero, 64",
        "ecall",
        "addi a0, zero, 0",
        "addi a7, zero, 93",
        "ecall",
        data=b"hello\n",
    )


@pytest.fixture
def endless(assemble: Assemble) -> Path:
    """A program that counts for ever."""
    return assemble("addi a0, a0, 1", "jal zero, -4")
