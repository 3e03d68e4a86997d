"""Registration with the kernel (binfmt_misc), so that ``./program`` of another machine runs by itself.

Three things are installed for a machine: a launcher, which the kernel starts with the program's path; a line for the kernel,
which recognizes the programs by the first 20 bytes of their ELF header; and the same line in binfmt.d, from which systemd
registers it again at each boot.

The flags are ``P`` and nothing else. ``P`` keeps ``argv[0]``. Not ``F`` (the interpreter opened once, for use in other roots):
the launcher is a script, and the Python that it names would be looked for in the other root all the same. Not ``C`` (the
identity of a set-user-ID program): a Python that serves two users in one process is no place for it. Not ``O``, which only
``C`` and unreadable programs need. See Documentation/admin-guide/binfmt-misc.rst of Linux.

A guest program that executes another one stays in its vm (vm_core.linux.execve): the kernel sees only the outermost.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vm_core.errors import HostError, UsageError

__all__ = ["FLAGS", "MACHINES", "Entry", "Machine", "install", "status", "uninstall"]

FLAGS: Final = "P"
_KERNEL: Final = Path("/proc/sys/fs/binfmt_misc")
_BOOT: Final = "etc/binfmt.d"
_BOOT_OTHERS: Final = ("etc/binfmt.d", "run/binfmt.d", "usr/local/lib/binfmt.d", "usr/lib/binfmt.d")
_LAUNCHERS: Final = "usr/local/libexec/vm"
_SHEBANG: Final = 255
"""Bytes of a script's first line that Linux reads (BINPRM_BUF_SIZE, less its end)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How the kernel recognizes the programs of an ISA. ``number`` is the ELF header's e_machine."""

    isa: str
    number: int
    runs: bool
    """Whether vm has system calls and loader for it, so that there is anything to register."""

    @property
    def name(self) -> str:
        return f"vm-{self.isa}"

    @property
    def magic(self) -> bytes:
        """64-bit, little-endian, ELF version 1, an executable (2) for this machine."""
        return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, self.number)

    @property
    def mask(self) -> bytes:
        """Any OS ABI (byte 7), and ET_DYN (3) as ET_EXEC (2): position-independent programs."""
        return b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe\xff\xff\xff"

    def line(self, interpreter: str) -> str:
        """What is written to the kernel's ``register``, and stands in binfmt.d."""
        magic, mask = ("".join(f"\\x{byte:02x}" for byte in value) for value in (self.magic, self.mask))
        return f":{self.name}:M::{magic}:{mask}:{interpreter}:{FLAGS}"


MACHINES: Final = {
    machine.isa: machine
    for machine in (
        Machine("riscv64", 243, runs=True),
        Machine("aarch64", 183, runs=False),
        Machine("x86_64", 62, runs=False),
    )
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the kernel has registered under a name. ``order`` grows with the time of registration."""

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int
    magic: bytes
    mask: bytes
    order: tuple[int, int]

    def takes(self, machine: Machine) -> bool:
        """Whether it recognizes this machine's executables, fixed or position-independent."""
        programs = (machine.magic, machine.magic[:16] + b"\x03" + machine.magic[17:])
        return bool(self.magic) and any(self._matches(program.ljust(256, b"\0")) for program in programs)

    def _matches(self, data: bytes) -> bool:
        part = data[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return len(part) == len(self.magic) and all(
            (a ^ b) & m == 0 for a, b, m in zip(part, self.magic, mask, strict=True)
        )

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "enabled": self.enabled,
            "interpreter": self.interpreter,
            "flags": self.flags,
        }


def _read_entry(path: Path) -> Entry | None:
    """An entry of the kernel's directory; None if it is for file names, or gone."""
    try:
        text, info = path.read_text(encoding="utf-8", errors="surrogateescape"), path.stat()
    except OSError:
        return None
    lines = text.splitlines()
    words = {key.rstrip(":"): value.strip() for key, _, value in (line.partition(" ") for line in lines[1:])}
    try:
        return Entry(
            path.name,
            lines[:1] == ["enabled"],
            words.get("interpreter", ""),
            words.get("flags", ""),
            int(words.get("offset", "0")),
            bytes.fromhex(words.get("magic", "")),
            bytes.fromhex(words.get("mask", "")),
            (info.st_ctime_ns, info.st_ino),
        )
    except ValueError:
        return None


def _entries(kernel: Path) -> list[Entry]:
    """What the kernel asks, in its order: what was registered last comes first."""
    try:
        names = sorted(os.listdir(kernel))
    except OSError:
        return []
    found = [_read_entry(kernel / name) for name in names if name not in ("register", "status")]
    return sorted((entry for entry in found if entry is not None), key=lambda e: e.order, reverse=True)


def _enabled(kernel: Path) -> bool:
    try:
        return (kernel / "status").read_text().strip() == "enabled"
    except OSError:
        return False


# -- the launcher -----------------------------------------------------------------------------------------------------


def _isolated_path() -> list[str]:
    """sys.path of this Python with -I, which ignores the PYTHON* variables: those of a guest must not reach vm."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise HostError(f"{sys.executable} -I does not work: {done.stderr.strip()[-200:]}") from None
    return [str(item) for item in found]


def _launcher(machine: Machine, options: Sequence[str]) -> str:
    """The text of the launcher: a script of this Python, with the places of vm's packages if it would not find them."""
    isolated = _isolated_path()
    more = [path for path in sys.path if path and path not in isolated and os.path.isdir(path)]
    python = sys.executable
    if len(f"#!{python} -I") <= _SHEBANG and " " not in python:
        head = f"#!{python} -I\n"
    else:
        # A shell's no-op for Python, and a docstring for the shell's sake (as pip does it).
        head = f"#!/bin/sh\n'''exec' {shlex.quote(python)} -I \"$0\" \"$@\"\n' '''\n"
    path = f"sys.path[:0] = {more!r}\n" if more else ""
    return (
        f"{head}# Written by `vm binfmt install`; the kernel starts it with the program's path and its argv.\n"
        f"import sys\n\n{path}from vm_cli.main import main_binfmt\n\nmain_binfmt({machine.isa!r}, {list(options)!r})\n"
    )


def _launcher_facts(path: Path) -> tuple[list[str], str]:
    """The options in a launcher, and what is wrong with it, if anything."""
    import ast

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return [], f"{path}: {error.strerror}"
    except UnicodeDecodeError:
        return [], f"{path} is not the launcher that vm writes"
    options: list[str] = []
    try:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        found = ast.literal_eval(calls[-1].args[1])
        options = [str(word) for word in found]
    except (SyntaxError, ValueError, IndexError, TypeError):
        return [], f"{path} is not the launcher that vm writes"
    lines = text.splitlines()
    words = shlex.split(lines[1]) if lines[0] == "#!/bin/sh" and len(lines) > 1 else lines[0][2:].split()
    python = words[1] if lines[0] == "#!/bin/sh" and len(words) > 1 else words[0] if words else ""
    if not os.access(python, os.X_OK):
        return options, f"{path} needs {python}, which is not there any more"
    return options, ""


# -- what the commands do ---------------------------------------------------------------------------------------------


def _machines(isas: Sequence[str], *, host: str) -> list[Machine]:
    """The machines of these names, or all that vm runs. Raises UsageError for one that cannot be registered."""
    if not isas:
        return [machine for machine in MACHINES.values() if machine.runs and machine.isa != host]
    out = []
    for isa in isas:
        machine = MACHINES.get(isa)
        if machine is None:
            raise UsageError(f"there is no machine {isa!r}", hint="known: " + ", ".join(MACHINES))
        if isa == host:
            raise UsageError(f"{isa} is this host's own machine: every program here would start vm")
        if not machine.runs:
            raise UsageError(f"vm does not run programs for {isa} yet", hint="vm info lists what it runs")
        out.append(machine)
    return out


def _command(words: Sequence[str]) -> str:
    return shlex.join(["sudo", sys.executable, "-m", "vm_cli", "binfmt", *words])


def _need_root(words: Sequence[str]) -> None:
    if os.geteuid() != 0:
        raise HostError("only root may change what the kernel starts", hint=f"as root: {_command(words)}")


def _mount(kernel: Path) -> None:
    """Mount the kernel's directory if it is not there. Raises HostError."""
    if (kernel / "register").exists():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # SAFETY: four constant strings and a null pointer; the kernel reads them before the call returns.
    if kernel != _KERNEL or libc.mount(b"binfmt_misc", os.fsencode(kernel), b"binfmt_misc", 0, None) != 0:
        reason = os.strerror(ctypes.get_errno()) if kernel == _KERNEL else "there is no file `register`"
        raise HostError(
            f"binfmt_misc is not mounted at {kernel}: {reason}",
            hint="as root: modprobe binfmt_misc && mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc",
        )


def _write_kernel(path: Path, text: str) -> None:
    """Tell the kernel. Raises HostError with what it answered."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise HostError(f"the kernel refuses {text!r}: {error.strerror}") from None


def _write_file(path: Path, text: str, mode: int) -> None:
    """Put a file in place in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    other = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with open(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        file.write(text)
    os.replace(other, path)


def _writable_by_others() -> Iterator[str]:
    """What the launcher runs and someone who is not root can change."""
    import vm_cli

    for name in (os.path.realpath(sys.executable), os.path.dirname(os.path.realpath(vm_cli.__file__))):
        info = os.stat(name)
        if info.st_uid != 0 or info.st_mode & stat.S_IWOTH:
            yield name


def install(
    isas: Sequence[str],
    options: Sequence[str] = (),
    *,
    root: Path | None = None,
    kernel: Path = _KERNEL,
    host: str = os.uname().machine,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Install the launchers, with ``options`` of vm for each run, and register them; with ``root`` only write the files below it.

    Returns the :func:`status` of each, and remarks. Raises UsageError, HostError and OSError.
    """
    from vm_cli.qemu import parse_qemu

    machines = _machines(isas, host=host)
    line = parse_qemu([*options, "--", "program"], {}).line
    if line.program != ["program"] or line.help or line.version:
        raise UsageError(f"not options of vm run: {shlex.join(options)}")
    if root is None:
        _need_root(["install", *isas, *(["--", *options] if options else [])])
        _mount(kernel)
    remarks = [
        f"{name} can be changed by others than root, and with it what such programs run as, for every user"
        for name in _writable_by_others()
    ]
    for machine in machines:
        launcher = f"/{_LAUNCHERS}/{machine.name}"
        top = root or Path("/")
        _write_file(top / launcher[1:], _launcher(machine, options), 0o755)
        text = f"# Programs for {machine.isa} run in vm. Written by `vm binfmt install`.\n{machine.line(launcher)}\n"
        _write_file(top / _BOOT / f"{machine.name}.conf", text, 0o644)
        if root is None:
            if (kernel / machine.name).exists():
                _write_kernel(kernel / machine.name, "-1")
            _write_kernel(kernel / "register", machine.line(launcher))
            others = [e.name for e in _entries(kernel) if e.takes(machine) and e.name != machine.name]
            if others:
                remarks.append(
                    f"{', '.join(others)} would take programs for {machine.isa} too: what was registered last, now vm, does"
                )
    return status([m.isa for m in machines], root=root, kernel=kernel)["machines"], remarks


def uninstall(
    isas: Sequence[str], *, root: Path | None = None, kernel: Path = _KERNEL
) -> tuple[list[str], list[str]]:
    """Take away what :func:`install` did, for these machines or for all. Returns the files and names that went, and remarks.

    Raises UsageError, HostError and OSError.
    """
    for isa in isas:
        if isa not in MACHINES:
            raise UsageError(f"there is no machine {isa!r}", hint="known: " + ", ".join(MACHINES))
    if root is None:
        _need_root(["uninstall", *isas])
    gone, remarks = [], []
    for machine in (MACHINES[isa] for isa in (isas or MACHINES)):
        if root is None and (kernel / machine.name).exists():
            _write_kernel(kernel / machine.name, "-1")
            gone.append(machine.name)
            left = [e.name for e in _entries(kernel) if e.takes(machine) and e.enabled]
            if left:
                remarks.append(f"programs for {machine.isa} go to {left[0]} now")
        top = root or Path("/")
        for path in (top / _BOOT / f"{machine.name}.conf", top / _LAUNCHERS / machine.name):
            if path.is_file():
                path.unlink()
                gone.append(str(path))
        with suppress(OSError):  # others' launchers may be there
            (top / _LAUNCHERS).rmdir()
    return gone, remarks


def status(isas: Sequence[str] = (), *, root: Path | None = None, kernel: Path = _KERNEL) -> dict[str, Any]:
    """What is registered, as a document for ``--json``. With ``root`` only the files below it are looked at."""
    entries = _entries(kernel) if root is None else []
    top = root or Path("/")
    rows = []
    for machine in (MACHINES[isa] for isa in (isas or MACHINES)):
        matching = [entry for entry in entries if entry.takes(machine)]
        own = next((entry for entry in entries if entry.name == machine.name), None)
        first = next((entry for entry in matching if entry.enabled), None)
        launcher = top / (own.interpreter[1:] if own else f"{_LAUNCHERS}/{machine.name}")
        written = launcher.is_file()
        options, problem = _launcher_facts(launcher) if own or written else ([], "")
        boot = next((p for d in _BOOT_OTHERS if (p := top / d / f"{machine.name}.conf").is_file()), None)
        if own is None:
            state = "files only" if written and boot else "not installed"
        elif problem:
            state = "broken"
        elif not own.enabled or not _enabled(kernel):
            state = "disabled"
        else:
            state = "installed" if first is own else "shadowed"
        rows.append(
            {
                "isa": machine.isa,
                "name": machine.name,
                "state": state,
                "problem": problem,
                "interpreter": own.interpreter
                if own
                else (f"/{_LAUNCHERS}/{machine.name}" if written else None),
                "flags": own.flags if own else None,
                "options": options,
                "boot": str(boot) if boot else None,
                "runs": first.name if first else None,
                "others": [entry.facts() for entry in matching if entry.name != machine.name],
                "line": machine.line(f"/{_LAUNCHERS}/{machine.name}"),
            }
        )
    return {
        "directory": str(kernel),
        "mounted": (kernel / "register").exists(),
        "enabled": _enabled(kernel),
        "machines": rows,
    }


def explain(row: Mapping[str, Any]) -> str:
    """One line about a machine's state, where there is more to say than its name."""
    if row["problem"]:
        return str(row["problem"])
    if row["state"] == "shadowed":
        return f"{row['runs']} was registered later, and takes the programs"
    others = ", ".join(f"{o['name']} ({o['interpreter']})" for o in row["others"])
    return f"also: {others}" if others else ""
