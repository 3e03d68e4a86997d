"""What the cross-package tests share: the guest programs, built once a session, and small ones assembled on the spot."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("jit", "baseline", "interp", "reference")
BASE = 0x10000  # where an assembled program's code lies: ELF header and code share the first pages
CODE = BASE + 0x1000
DATA = BASE + 0x10000


def _tool(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A code cache of the tests' own, shared by the workers of one run, so that no test depends on an older build's."""
    place = tmp_path_factory.getbasetemp()
    shared = (place.parent if os.environ.get("PYTEST_XDIST_WORKER") else place) / "vm-cache"
    shared.mkdir(mode=0o700, exist_ok=True)
    before = os.environ.get("VM_CACHE_DIR")
    os.environ["VM_CACHE_DIR"] = str(shared)
    yield shared
    if before is None:
        del os.environ["VM_CACHE_DIR"]
    else:
        os.environ["VM_CACHE_DIR"] = before


@dataclass
class Guests:
    """The guest programs that could be built here; ``path`` skips the test, with the reason, for one that could not."""

    tool: ModuleType
    problems: dict[str, str] = field(default_factory=dict)

    def path(self, program: str, variant: str) -> Path:
        if variant in self.problems:
            pytest.skip(self.problems[variant])
        # Two workers may want the same program at the same time; the second then finds it up to date.
        place: Path = self.tool.OUTPUT
        place.mkdir(parents=True, exist_ok=True)
        with (place / f".{variant}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made: Path = self.tool.build(program, variant)
        return made

    def arguments(self, program: str, size: str) -> list[str]:
        arguments: list[str] = self.tool.PROGRAMS[program].args[size]
        return arguments


@pytest.fixture(scope="session")
def guests() -> Guests:
    tool = _tool("build_guests")
    found = Guests(tool)
    for name, variant in tool.VARIANTS.items():
        try:
            variant.compiler()
        except tool.Unbuildable as error:
            found.problems[name] = str(error)
    return found


@dataclass(frozen=True)
class Ended:
    """How a run ended, in the words of subprocess: a negative status is a signal."""

    status: int
    stdout: bytes
    stderr: bytes = b""


@dataclass(frozen=True)
class Oracle:
    """qemu-riscv64, as an outside opinion on what a program must do."""

    path: str

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Ended:
        done = subprocess.run(
            [self.path, *map(str, argv)],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=dict(env or {}),
            timeout=120,
            check=False,
        )
        # qemu writes a line of its own when a signal ends its guest.
        said = re.sub(rb"qemu: uncaught target signal [^\n]*\n", b"", done.stderr)
        return Ended(done.returncode, done.stdout, said)


@pytest.fixture(scope="session")
def qemu() -> Oracle:
    path = shutil.which("qemu-riscv64")
    if path is None:
        pytest.skip("qemu-riscv64 is not installed (Debian: apt install qemu-user)")
    return Oracle(path)


@dataclass(frozen=True)
class Vm:
    """vm itself, with the same answer as :class:`Oracle`."""

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        engine: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 120,
    ) -> Ended:
        from vm_core.runner import run

        result = run(
            [str(word) for word in argv],
            input=stdin,
            capture_output=True,
            env=dict(env or {}),
            cwd=cwd,
            timeout=timeout,
            engine=engine,
        )
        assert isinstance(result.stdout, bytes)
        assert isinstance(result.stderr, bytes)
        return Ended(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def vm() -> Vm:
    return Vm()


# -- programs assembled on the spot: no compiler needed ------------------------------------------------------------------


@dataclass(frozen=True)
class Assembled:
    """An executable file, and where its labels are."""

    path: Path
    labels: dict[str, int]


class Assembler:
    """Writes RISC-V executables from lines of assembly, by the patterns of the ISA text.

    A line is ``name:``, an instruction in which ``{name}`` is the distance to a label in bytes, ``.bytes 13 05 00 00``,
    ``.align 4096``, or ``li reg, value`` (any 32-bit value).
    """

    def __init__(self, place: Path) -> None:
        from vm_core.isa import get

        self.isa = get("riscv64")
        self.place = place
        self.made = 0

    def _lines(self, text: str) -> Iterator[str]:
        for raw in text.strip().splitlines():
            line = raw.split("#")[0].strip()
            if line.startswith("li "):
                register, value = (part.strip() for part in line[3:].split(","))
                number = int(value, 0)
                low = (number & 0xFFF) - ((number & 0x800) << 1)
                high = (number - low) >> 12 & 0xFFFFF
                if high == 0:
                    yield f"addi {register}, zero, {low}"
                    continue
                yield f"lui {register}, {high}"
                if low:
                    yield f"addiw {register}, {register}, {low}"
            elif line:
                yield line

    def _encode(self, line: str, at: int, labels: Mapping[str, int]) -> bytes:
        if line.startswith(".bytes"):
            return bytes.fromhex(line[6:])
        if line.startswith(".align"):
            return b"\1\0" * (-at % int(line[6:], 0) // 2)
        return self.isa.assemble(re.sub(r"\{(\w+)\}", lambda found: str(labels.get(found[1], at) - at), line))

    def code(self, text: str, base: int = CODE) -> tuple[bytes, dict[str, int]]:
        labels: dict[str, int] = {}
        for _ in range(2):  # the first round finds the labels, the second the distances to them
            out = b""
            for line in self._lines(text):
                if line.endswith(":"):
                    labels[line[:-1]] = base + len(out)
                else:
                    out += self._encode(line, base + len(out), labels)
        return out, labels

    def program(self, text: str, *, writable: bool = False, data: bytes = b"") -> Assembled:
        """Code at CODE (and writable there if asked), ``data`` and 64 KiB of zeros at DATA."""
        code, labels = self.code(text)
        image = bytearray(CODE - BASE) + code
        data_at = len(image) + -len(image) % 4096
        image += bytes(data_at - len(image)) + data
        ident = b"\x7fELF\2\1\1" + bytes(9)
        struct.pack_into("<16sHHIQQQIHHHHHH", image, 0, ident, 2, 243, 1, CODE, 64, 0, 5, 64, 56, 2, 64, 0, 0)
        flags = 7 if writable else 5
        size = CODE - BASE + len(code)
        struct.pack_into("<IIQQQQQQ", image, 64, 1, flags, 0, BASE, BASE, size, size, 4096)
        struct.pack_into(
            "<IIQQQQQQ", image, 120, 1, 6, data_at, DATA, DATA, len(data), len(data) + 0x10000, 4096
        )
        self.made += 1
        path = self.place / f"assembled-{self.made}"
        path.write_bytes(image)
        path.chmod(0o755)
        return Assembled(path, labels)


@pytest.fixture
def assembler(tmp_path: Path) -> Assembler:
    return Assembler(tmp_path)
