"""Entitlements: macOS lets a program use its hypervisor only if the program is signed for that.

What counts is the executable that the process runs, which is not always ``sys.executable``: the Python of a framework runs a
second program inside ``Python.app``. ``python -m vm_accel.macos`` says what is missing, ``python -m vm_accel.macos sign`` signs.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from vm_accel.errors import AcceleratorUnavailable, EntitlementMissing

__all__ = ["HYPERVISOR", "SIGN", "VIRTUALIZATION", "entitlements", "executable", "missing", "sign"]

HYPERVISOR: Final = "com.apple.security.hypervisor"
"""For the Hypervisor framework (``hvf``)."""
VIRTUALIZATION: Final = "com.apple.security.virtualization"
"""For the Virtualization framework (``vz``)."""
SIGN: Final = "python -m vm_accel.macos sign"
"""The command that fixes it."""

_PATH_BYTES: Final = 4096  # PROC_PIDPATHINFO_MAXSIZE


def executable() -> Path:
    """The program that this process really runs."""
    if sys.platform == "darwin":
        import cffi

        ffi = cffi.FFI()
        ffi.cdef("int proc_pidpath(int pid, void *buffer, uint32_t size);")
        buffer = ffi.new("char[]", _PATH_BYTES)
        # SAFETY: the buffer is as large as it is said to be.
        size = ffi.dlopen("/usr/lib/libSystem.B.dylib").proc_pidpath(os.getpid(), buffer, _PATH_BYTES)
        if size > 0:
            return Path(os.fsdecode(ffi.buffer(buffer, size)[:]))
    return Path(sys.executable).resolve()


def entitlements(program: Path) -> dict[str, object] | None:
    """What a program is signed for, by ``codesign``; empty if it is signed for nothing, None if that cannot be found out."""
    try:
        done = subprocess.run(
            ["codesign", "--display", "--entitlements", "-", "--xml", str(program)],
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return {} if b"not signed" in done.stderr else None
    # Some versions put eight bytes before the text.
    start = done.stdout.find(b"<?xml")
    if start < 0:
        return {}
    try:
        found = plistlib.loads(done.stdout[start:].rstrip(b"\0"))
    except (plistlib.InvalidFileException, ValueError):
        return None
    return found if isinstance(found, dict) else None


def missing(entitlement: str) -> EntitlementMissing | None:
    """The error to raise if this process lacks an entitlement; None if it has it, or if that cannot be found out."""
    program = executable()
    found = entitlements(program)
    if found is None or found.get(entitlement) is True:
        return None
    return EntitlementMissing(
        f"{program} is not signed with the entitlement {entitlement}", entitlement=entitlement, hint=SIGN
    )


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AcceleratorUnavailable(
            f"{command[0]} cannot be run: {error}", hint="xcode-select --install"
        ) from None
    if done.returncode:
        raise AcceleratorUnavailable(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def sign(python: Path | None = None) -> Path:
    """Sign a Python for both frameworks, keeping what it is signed for, and return which file that was.

    Inside a virtual environment whose ``python`` is a link, the link is replaced by a signed copy of the program behind it, so that
    nothing outside is changed. A Python that finds its library relative to itself cannot be copied, and is signed where it is.
    """
    program = executable() if python is None else python.resolve()
    target = program
    inside = Path(sys.prefix) / "bin" / "python"
    if python is not None:
        inside = python
    portable = "@executable_path" not in _run("otool", "-L", str(program))
    if (python is not None or sys.prefix != sys.base_prefix) and inside.is_symlink() and portable:
        target = inside
        copy = inside.with_name(f".{inside.name}.{os.getpid()}")
        shutil.copy2(program, copy)
        os.replace(copy, inside)
    wanted = dict(entitlements(program) or {})
    wanted[HYPERVISOR] = wanted[VIRTUALIZATION] = True
    with tempfile.NamedTemporaryFile(suffix=".plist") as file:
        plistlib.dump(wanted, file)
        file.flush()
        _run("codesign", "--force", "--sign", "-", "--entitlements", file.name, str(target))
    return target


def main(arguments: list[str]) -> int:
    """``python -m vm_accel.macos [sign [PYTHON]]``."""
    if arguments[:1] == ["sign"] and len(arguments) <= 2:
        try:
            target = sign(Path(arguments[1]) if len(arguments) == 2 else None)
        except (AcceleratorUnavailable, OSError) as error:
            sys.stderr.write(f"vm: {error}\n")
            return 1
        sys.stdout.write(f"{target} is signed with {HYPERVISOR} and {VIRTUALIZATION}\n")
        return 0
    if arguments:
        sys.stderr.write(f"usage: {SIGN} [PYTHON]\n")
        return 2
    lacking = [found for name in (HYPERVISOR, VIRTUALIZATION) if (found := missing(name))]
    for each in lacking:
        sys.stdout.write(f"{each}; run: {each.hint}\n")
    if not lacking:
        sys.stdout.write(f"{executable()} has both entitlements, or codesign does not say\n")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
