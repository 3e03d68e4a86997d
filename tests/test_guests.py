"""Every guest program, by every compiler, in every engine: its output and its end must be what qemu-riscv64 gives."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Guests, Oracle, Vm

ROOT = Path(__file__).resolve().parent.parent
ROWS = tomllib.loads((ROOT / "guests" / "programs.toml").read_text())
PROGRAMS = {name: row for name, row in ROWS.items() if row.get("test", True)}
ALL_VARIANTS = ("O0", "O2", "zb", "musl", "pie")
# Programs that are there to be timed name fewer variants.
VARIANTS = {name: tuple(row.get("variants", ALL_VARIANTS)) for name, row in PROGRAMS.items()}
ENV = {"GUEST_A": "1", "GUEST_B": "zwei", "PATH": "/usr/bin"}
STDIN = b"some input\n" * 100
# Under the reference executor each program runs in one variant (they take turns), since it is 2,000 times slower.
REFERENCE = {name: VARIANTS[name][i % len(VARIANTS[name])] for i, name in enumerate(PROGRAMS)}


def check(
    program: str,
    variant: str,
    size: str,
    engines: tuple[str, ...],
    guests: Guests,
    qemu: Oracle,
    vm: Vm,
    cwd: Path,
) -> None:
    argv: list[str | Path] = [guests.path(program, variant), *guests.arguments(program, size)]
    want = qemu.run(argv, cwd=cwd, env=ENV, stdin=STDIN)
    for engine in engines:
        got = vm.run(argv, engine=engine, cwd=cwd, env=ENV, stdin=STDIN)
        assert (
            got.stdout.decode(errors="replace").splitlines()
            == want.stdout.decode(errors="replace").splitlines()
        ), engine
        assert got == want, engine
    assert b"WRONG" not in want.stdout
    assert not list(cwd.iterdir()), "files are left behind"


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    ("program", "variant"), [(name, variant) for name in PROGRAMS for variant in VARIANTS[name]]
)
def test_native_engines(
    program: str, variant: str, guests: Guests, qemu: Oracle, vm: Vm, tmp_path: Path
) -> None:
    check(program, variant, "small", ("jit", "baseline", "interp"), guests, qemu, vm, tmp_path)


@pytest.mark.needs_cc
@pytest.mark.needs_qemu
@pytest.mark.parametrize("program", PROGRAMS)
def test_reference(program: str, guests: Guests, qemu: Oracle, vm: Vm, tmp_path: Path) -> None:
    check(program, REFERENCE[program], "tiny", ("reference",), guests, qemu, vm, tmp_path)


@pytest.mark.needs_cc
@pytest.mark.parametrize("program", [name for name, row in PROGRAMS.items() if row.get("same")])
def test_same_as_native(program: str, guests: Guests, vm: Vm, tmp_path: Path) -> None:
    """Against this machine's own CPU and C library: every line of the native output, in order."""
    arguments = guests.arguments(program, "small")
    native = subprocess.run(
        [guests.path(program, "native"), *arguments],
        input=STDIN,
        capture_output=True,
        cwd=tmp_path,
        env=ENV,
        timeout=60,
        check=False,
    )
    got = vm.run([guests.path(program, "O2"), *arguments], engine="jit", cwd=tmp_path, env=ENV, stdin=STDIN)
    assert got.status == native.returncode
    lines = iter(got.stdout.splitlines())
    missing = [line for line in native.stdout.splitlines() if line not in lines]
    assert missing == []


@pytest.mark.parametrize("engine", ["jit", "baseline", "interp"])
def test_demo(engine: str, tmp_path: Path) -> None:
    """The bundled program needs no compiler, so this runs everywhere."""
    from vm_core.runner import run

    binary = ROOT / "packages" / "vm-cli" / "src" / "vm_cli" / "data" / "demo.riscv64"
    result = run(
        [str(binary), "plain", "24"], capture_output=True, text=True, env={}, cwd=tmp_path, engine=engine
    )
    assert result.returncode == 0
    assert "1,270,607 primes below twenty million" in result.stdout
    assert "837,799 takes 524 steps" in result.stdout
