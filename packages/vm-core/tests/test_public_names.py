"""The names of the package root: there, documented, and not hidden by modules of the same name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vm_core


@pytest.mark.parametrize("name", vm_core.__all__)
def test_each_name_is_there(name: str) -> None:
    found = getattr(vm_core, name)
    assert callable(found)
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vm_core.nonsense


def test_run_stays_a_function_whatever_was_imported_before() -> None:
    script = "import vm_core.runner, vm_core.machine, vm_core\nassert callable(vm_core.run), vm_core.run"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_importing_the_root_loads_nothing() -> None:
    script = "import sys, vm_core\nassert not [m for m in sys.modules if m.startswith('vm_core.')]"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_decoded_instruction_prints_as_assembly() -> None:
    from vm_core import isa

    assert str(isa.get("rv64").decode(bytes.fromhex("1305a5ff"), 0)) == "addi a0, a0, -6"


def test_a_key_error_inside_an_engine_is_not_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from vm_core import engines, isa

    def broken(*_args: object, **_options: object) -> None:
        raise KeyError("inside")

    monkeypatch.setattr(engines, "_load", lambda _name: broken)
    with pytest.raises(KeyError, match="inside"):
        engines.create("jit", isa.get("rv64"), None)  # type: ignore[arg-type]
