"""Layers, origins and error messages of the configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vm_cli import settings
from vm_cli.settings import ROWS, Configuration, Settings, apply_flags, load
from vm_core.errors import ConfigError, UsageError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def environ(tmp_path: Path, **extra: str) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), **extra}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_without_anything_it_is_the_defaults(tmp_path: Path) -> None:
    found = load(environ(tmp_path))
    assert found.settings == Settings()
    assert {found.origin(row.name) for row in ROWS} == {"default"}


def test_later_layers_win_and_origins_say_so(tmp_path: Path) -> None:
    user = write(tmp_path / "xdg/vm/config.toml", 'engine = "interp"\nfuel = 10\ntimeout = 1\nnet = true\n')
    write(tmp_path / "vm.toml", 'fuel = "2k"\ntimeout = "1m"\n')
    found = load(environ(tmp_path, VM_TIMEOUT="5s"))
    apply_flags(found, [("timeout", "7", "--timeout"), ("net", "0", "--no-net")])
    assert found.settings == Settings(engine="interp", fuel=2000, timeout=7.0, net=False)
    assert found.origins == {
        "engine": str(user),
        "fuel": "vm.toml",
        "timeout": "flag --timeout",
        "net": "flag --no-net",
    }


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (settings.COUNT, "1_000", 1000),
        (settings.COUNT, "1.5G", 1_500_000_000),
        (settings.COUNT, str(2**70), 2**70),
        (settings.SIZE, "64", 64),
        (settings.SIZE, "64MiB", 64 << 20),
        (settings.SIZE, "1.5g", 3 << 29),
        (settings.SECONDS, "250ms", 0.25),
        (settings.SECONDS, "2m", 120.0),
        (settings.BOOL, "ON", True),
        (settings.BOOL, "0", False),
        (settings.ASSIGNMENTS, "A=", "A="),
    ],
)
def test_values(kind: settings.Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (settings.COUNT, "0"),
        (settings.COUNT, "-5"),
        (settings.COUNT, "5x"),
        (settings.COUNT, ""),
        (settings.SIZE, "ib"),
        (settings.SIZE, "1kk"),
        (settings.SECONDS, "0"),
        (settings.SECONDS, "nan"),
        (settings.SECONDS, "inf"),
        (settings.BOOL, "perhaps"),
        (settings.ASSIGNMENTS, "=x"),
        (settings.ASSIGNMENTS, "A"),
        (settings.ASSIGNMENTS, "A=\0"),
        (settings.NAMES, "A=B"),
        (settings.PATH, ""),
        (settings.ENGINE, "JIT"),
    ],
)
def test_what_is_no_value(kind: settings.Kind, text: str) -> None:
    with pytest.raises(ValueError):
        kind.parse(text)


def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    write(tmp_path / "vm.toml", 'engin = "jit"\n')
    with pytest.raises(ConfigError, match="vm.toml: there is no setting 'engin'") as caught:
        load(environ(tmp_path))
    assert caught.value.hint == "did you mean 'engine'?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fuel = -1\n", "vm.toml: fuel: '-1' is no value for fuel"),
        ("fuel = true\n", "vm.toml: fuel: True is no value for it"),
        ("net = 1\n", "vm.toml: net must be true or false"),
        ('env = "A=B"\n', "vm.toml: env must be a list of strings"),
        ("fuel = \n", "vm.toml: "),
        ("[engine]\n", "vm.toml: engine: {} is no value for it"),
    ],
)
def test_a_wrong_value_in_a_file_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "vm.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(environ(tmp_path))
    assert str(caught.value).startswith(message)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "vm.toml").chmod(0o644)
    with pytest.raises(ConfigError, match="vm.toml"):
        load(environ(tmp_path))


def test_a_wrong_variable_names_itself_and_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VM_ENGINE: 'fast' is no value for engine") as caught:
        load(environ(tmp_path, VM_ENGINE="fast"))
    assert caught.value.hint == "allowed: auto | jit | baseline | interp | reference | kvm"


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert load(environ(tmp_path, VM_ENGINE="", VM_FUEL="")).settings == Settings()


def test_the_variables_of_qemu(tmp_path: Path) -> None:
    found = load(environ(tmp_path, QEMU_STRACE="", QEMU_LD_PREFIX="/x", QEMU_SET_ENV="A=1,B=2"))
    assert found.settings == Settings(strace=True, sysroot="/x", env=("A=1", "B=2"))
    assert load(environ(tmp_path, QEMU_LD_PREFIX="/x", VM_SYSROOT="/y")).settings.sysroot == "/y"


def test_vm_config_is_the_only_file_or_none(tmp_path: Path) -> None:
    write(tmp_path / "vm.toml", "fuel = 5\n")
    other = write(tmp_path / "other.toml", "fuel = 6\n")
    assert load(environ(tmp_path, VM_CONFIG="")).settings.fuel is None
    assert load(environ(tmp_path, VM_CONFIG=str(other))).settings.fuel == 6
    with pytest.raises(ConfigError, match="VM_CONFIG: there is no"):
        load(environ(tmp_path, VM_CONFIG=str(tmp_path / "absent.toml")))


def test_a_file_that_anyone_can_write_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "vm.toml", "net = true\n").chmod(0o666)
    with pytest.raises(ConfigError, match="not trusted"):
        load(environ(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "net = true",
        'bind = ["/:/host"]',
        'root = "/"',
        'sysroot = "/"',
        'cache_dir = "cache"',
        'sandbox = "off"',
        'strace_output = "calls"',
        "strace_each = true",
        'trace_output = "instructions"',
    ],
)
def test_what_a_guest_could_have_written_gives_no_guest_more(tmp_path: Path, text: str) -> None:
    """A guest may write below the current directory: a vm.toml there must not open the host to the next run."""
    path = write(tmp_path / "vm.toml", text + "\n")
    with pytest.raises(ConfigError, match=r"vm.toml: \w+ gives a guest more") as caught:
        load(environ(tmp_path))
    assert "VM_CONFIG" in caught.value.hint
    name = text.partition(" ")[0]
    assert load(environ(tmp_path, VM_CONFIG=str(path))).origin(name) == str(path)
    assert {row.name for row in ROWS if row.grants} == {
        "net",
        "bind",
        "root",
        "sysroot",
        "cache_dir",
        "sandbox",
        "strace_output",
        "strace_each",
        "trace_output",
    }


def test_trust_is_never_set_by_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "vm.toml", "trust = true\n")
    for variables in ({}, {"VM_CONFIG": str(path)}):
        with pytest.raises(ConfigError, match="cannot be set in a file"):
            load(environ(tmp_path, **variables))
    path.unlink()
    assert load(environ(tmp_path, VM_TRUST="1")).settings.trust


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "vm.toml", "net = true\n")
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load(environ(tmp_path))


def test_a_directory_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").mkdir()
    with pytest.raises(ConfigError, match="vm.toml"):
        load(environ(tmp_path))


def test_lists_on_the_command_line() -> None:
    found = Configuration(Settings(env=("A=1",), bind=("/old",)))
    apply_flags(
        found,
        [("env", "B=2", "-E"), ("bind", "/a", "--bind"), ("env", "C=3", "-E"), ("bind", "/b", "--bind")],
    )
    assert found.settings.env == ("A=1", "B=2", "C=3")
    assert found.settings.bind == ("/a", "/b")


def test_a_wrong_flag_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="--fuel: '0' is no value for fuel"):
        apply_flags(Configuration(), [("fuel", "0", "--fuel")])


def test_a_fifo_in_a_hostile_directory_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vm.toml", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        load(environ(tmp_path))


def test_isolation_is_turned_off_by_a_flag_only(tmp_path: Path) -> None:
    """Nothing that lies about, or that is inherited, may take a guest's walls away."""
    write(tmp_path / "vm.toml", 'isolation = "off"\n')
    with pytest.raises(ConfigError, match="cannot be set in a file"):
        load(environ(tmp_path))
    (tmp_path / "vm.toml").unlink()
    found = load(environ(tmp_path, VM_ISOLATION="off"))
    assert found.settings.isolation == "on"
    apply_flags(found, [("isolation", "off", "--isolation")])
    assert found.settings.isolation == "off"
