"""What must hold for the repository as a whole."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))


def test_there_are_seven_packages() -> None:
    assert [path.name for path in PACKAGES] == [
        "vm-accel",
        "vm-aot",
        "vm-cli",
        "vm-core",
        "vm-gc",
        "vm-gpu",
        "vm-jit",
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_each_package_is_whole(package: Path) -> None:
    module = package / "src" / package.name.replace("-", "_")
    for path in (
        package / "README.md",
        package / "CHANGELOG.md",
        module / "__init__.py",
        module / "py.typed",
    ):
        assert path.is_file(), path
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert list((package / "tests").glob("test_*.py"))
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["project"]["name"] == package.name
    assert f"{package.name}-v*" in project["tool"]["hatch"]["version"]["raw-options"]["git_describe_command"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_dependency_has_a_lower_bound(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    for dependency in (*project["dependencies"], *(one for extra in extras for one in extra)):
        assert ">=" in dependency, dependency


def test_vm_core_needs_nothing_but_python() -> None:
    project = tomllib.loads((ROOT / "packages/vm-core/pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = re.findall(r"^python -m pip .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands == ["python -m pip install . && vm demo", "python -m pip install tox && tox"]
    script = (ROOT / ".ci/run").read_text()
    assert commands[1] in script.splitlines()[-2]
    assert "python -m pip install --quiet .\n    vm --version\n    vm demo\n" in script
