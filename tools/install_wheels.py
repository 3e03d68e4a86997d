"""Install packages of this workspace into the Python that runs this, from wheels that are built once.

    python tools/install_wheels.py DIRECTORY vm-core[smt] vm-jit ...

A wheel is kept in DIRECTORY under a hash of its package's files and the current commit (which its version may depend on),
so the environments of one tox run share it, and a changed file is never missed. Needs uv in the same environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = str(Path(sys.executable).with_name("uv"))


def digest(package: Path) -> str:
    """What a wheel of this package depends on."""
    out = hashlib.sha256()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    out.update(head.stdout)
    files = [package / "pyproject.toml", package / "README.md", *sorted((package / "src").rglob("*"))]
    if (package / "hatch_build.py").is_file():
        # What its build hook makes depends on vm-core's texts too.
        files += [package / "hatch_build.py", *sorted((ROOT / "packages" / "vm-core" / "src").rglob("*"))]
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            out.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
            out.update(path.read_bytes())
    return out.hexdigest()[:20]


def wheel(name: str, store: Path) -> Path:
    """The wheel of a package, built now if its files have changed."""
    package = ROOT / "packages" / name
    place = store / f"{name}-{digest(package)}"
    store.mkdir(parents=True, exist_ok=True)
    with (store / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            for old in store.glob(f"{name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            building = store / f".{name}"
            shutil.rmtree(building, ignore_errors=True)
            subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", building, package], check=True)
            building.rename(place)
    return next(place.glob("*.whl"))


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    store = Path(sys.argv[1])
    command = [UV, "pip", "install", "--quiet", "--python", sys.executable]
    if "UV_RESOLUTION" in os.environ:
        command.append("--upgrade")
    for word in sys.argv[2:]:
        name, bracket, extras = word.partition("[")
        # The version may be the same although the content has changed.
        if "UV_RESOLUTION" in os.environ:
            # "lowest-direct" looks at what is named here, so name what the package asks for.
            project = tomllib.loads(
                (ROOT / "packages" / name / "pyproject.toml").read_text(encoding="utf-8")
            )["project"]
            command += [*(one for one in project["dependencies"] if not one.startswith("vm-"))]
        command += ["--reinstall-package", name, f"{name}{bracket}{extras} @ {wheel(name, store).as_uri()}"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
