"""The compiler's process: what it imports, and that it starts with any version of llvmlite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

START = "import sys; sys.path[:] = sys.argv[1:]; from vm_jit.compiler import _import_quickly, compile_text; _import_quickly()\n"
WITHOUT = ("tempfile", "zipfile", "urllib", "llvmlite.ir.values")


def run(text: str, *before: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START + text, *before, *sys.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_start_imports_only_what_compiling_needs() -> None:
    found = run(f"print(compile_text('')[:4], [name for name in {WITHOUT} if name in sys.modules])")
    assert found == "b'\\x7fELF' []\n"


def test_llvmlite_that_needs_more_is_imported_as_usual(tmp_path: Path) -> None:
    package = tmp_path / "llvmlite" / "binding"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package.parent / "ir.py").write_text("class IntType: ...\n")
    (package / "__init__.py").write_text(
        "from importlib.resources import files, path\nfrom llvmlite import ir\n"
    )
    found = run("import llvmlite.binding as b; print(b.ir.IntType.__name__, b.path.__name__)", str(tmp_path))
    assert found == "IntType path\n"
