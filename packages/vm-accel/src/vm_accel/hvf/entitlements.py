"""What macOS wants of the program that uses a hypervisor, and how a Python gets it.

The *executable* must be signed with the entitlement: com.apple.security.hypervisor for HVF, com.apple.security.virtualization for
VZ. A framework Python (python.org, Homebrew, Xcode) starts Python.app inside its framework, so that signing ``bin/python`` has no
effect; ``vm setup macos`` copies the real interpreter into the virtual environment and signs the copy, for this machine only.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm_core.errors import HostError, UsageError

__all__ = ["HYPERVISOR", "VIRTUALIZATION", "Plan", "executable", "missing", "of", "plan", "set_up"]

HYPERVISOR: Final = "com.apple.security.hypervisor"
VIRTUALIZATION: Final = "com.apple.security.virtualization"
_WANTED: Final = (HYPERVISOR, VIRTUALIZATION)
# Without these two, a signed interpreter could neither make code nor load extension modules that others have signed.
_KEPT: Final = ("com.apple.security.cs.allow-jit", "com.apple.security.cs.disable-library-validation")


def executable() -> Path:
    """The file that this process runs: what must be signed, which need not be ``sys.executable``."""
    if sys.platform == "darwin":
        import ctypes

        libc = ctypes.CDLL(None)
        size = ctypes.c_uint32(4096)
        buffer = ctypes.create_string_buffer(size.value)
        # SAFETY: the buffer has the size that is told, and lives until the call has returned.
        if libc._NSGetExecutablePath(buffer, ctypes.byref(size)) == 0:
            return Path(os.fsdecode(buffer.value)).resolve()
    return Path(sys.executable).resolve()


def of(program: Path, *, codesign: str = "codesign") -> set[str]:
    """The entitlements that a program is signed with. Raises HostError if codesign cannot tell."""
    try:
        found = subprocess.run(
            [codesign, "-d", "--entitlements", "-", "--xml", str(program)],
            capture_output=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"codesign cannot be run: {error}", hint="xcode-select --install") from error
    text = found.stdout.strip()
    if found.returncode or not text:
        return set()  # not signed, or without any
    try:
        # Some versions write a header before the list.
        entries = plistlib.loads(text[max(text.find(b"<?xml"), 0) :])
    except (ValueError, plistlib.InvalidFileException) as error:
        raise HostError(f"codesign said what is no property list: {text[:60]!r}") from error
    return {name for name, value in entries.items() if value is True}


def missing(wanted: str) -> str:
    """Why the running program may not use what needs the entitlement, in one line; empty if it may, or if nobody can tell."""
    if sys.platform != "darwin":
        return ""
    program = executable()
    try:
        have = of(program)
    except HostError:
        return ""
    if wanted in have:
        return ""
    return f"{program} is not signed with the entitlement {wanted}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``vm setup macos`` does: copy ``source`` to ``target`` and sign that; ``others`` are names that then lead to it."""

    source: Path
    target: Path
    others: tuple[Path, ...]
    entitlements: dict[str, bool]

    def commands(self) -> list[list[str]]:
        """The commands that a user could type instead; the first is for the property list in ``vm.plist``."""
        return [
            ["cp", str(self.source), str(self.target)],
            *(["ln", "-sf", self.target.name, str(other)] for other in self.others),
            ["codesign", "-s", "-", "--entitlements", "vm.plist", "--force", str(self.target)],
        ]

    def plist(self) -> bytes:
        return plistlib.dumps(self.entitlements)


def plan(prefix: Path | None = None) -> Plan:
    """For a virtual environment (None: the running one). Raises UsageError outside of one: a system's Python is not ours."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    if not (prefix / "pyvenv.cfg").is_file():
        raise UsageError(
            f"{prefix} is no virtual environment, and vm signs no Python of the system",
            hint="python3 -m venv .venv, and run vm setup macos from it",
        )
    found = prefix / "bin"
    target = found / "python3"
    linked = [path for path in sorted(found.glob("python*")) if path.is_symlink() and path != target]
    source = _real_interpreter(found / "python3")
    return Plan(source, target, tuple(linked), dict.fromkeys((*_WANTED, *_KEPT), True))


def _real_interpreter(python: Path) -> Path:
    """What ``bin/python`` of a framework build starts in its turn: Python.app's program, if there is one."""
    resolved = python.resolve()
    framework = sysconfig.get_config_var("PYTHONFRAMEWORKPREFIX")
    for parent in (resolved.parent.parent, *(Path(p) for p in [framework] if p)):
        inside = parent / "Resources/Python.app/Contents/MacOS/Python"
        if inside.is_file():
            return inside
    return resolved


def set_up(made: Plan, *, codesign: str = "codesign") -> None:
    """Do it. The copy takes the target's place only when it is signed. Raises HostError."""
    fresh = made.target.with_name(f".{made.target.name}.signing")
    description = made.target.with_name(".vm.plist")
    try:
        shutil.copyfile(made.source, fresh)
        fresh.chmod(0o755)
        description.write_bytes(made.plist())
        done = subprocess.run(
            [codesign, "-s", "-", "--entitlements", str(description), "--force", str(fresh)],
            capture_output=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise HostError(
                f"codesign failed: {done.stderr.decode(errors='replace').strip()}",
                hint="xcode-select --install",
            )
        fresh.replace(made.target)
        for other in made.others:
            other.unlink()
            other.symlink_to(made.target.name)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{made.target} cannot be signed: {error}", hint="xcode-select --install") from error
    finally:
        fresh.unlink(missing_ok=True)
        description.unlink(missing_ok=True)
