"""Checks of this host, each of which says what would help when it fails."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import os
import platform
import stat
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["CHECKS", "Finding", "exit_status", "run_checks"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``level`` is ok, note (nothing is lost), degraded or failed."""

    check: str
    level: str
    message: str
    fix: str = ""

    def facts(self) -> dict[str, Any]:
        return {"check": self.check, "level": self.level, "message": self.message, "fix": self.fix}


# The number of asm-generic/unistd.h; the same on x86-64 for a call this new.
_OPENAT2: Final = 437
_RESOLVE: Final = 0x08 | 0x04 | 0x02  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS, as vm_core.linux.paths asks for
_AT_FDCWD: Final = -100


def _python() -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()}"
    if struct.calcsize("P") != 8:
        return Finding("python", "failed", f"{text}, 32-bit", "use a 64-bit Python")
    return Finding("python", "ok", text)


def _system() -> Finding:
    text = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform != "linux":
        return Finding("system", "failed", text, "guests use the host's Linux system calls: run vm on Linux")
    return Finding("system", "ok", text)


def _llvm() -> Finding:
    try:
        llvmlite = importlib.import_module("llvmlite")
        binding = importlib.import_module("llvmlite.binding")
    except (ImportError, OSError) as error:
        fix = "python -m pip install vm-jit"
        return Finding(
            "llvm", "degraded", f"llvmlite cannot be loaded ({error}): only the reference engine works", fix
        )
    llvm = ".".join(str(part) for part in binding.llvm_version_info)
    return Finding("llvm", "ok", f"llvmlite {llvmlite.__version__} with LLVM {llvm}")


def _engines() -> Finding:
    from vm_cli.info import engines

    found = engines()
    bad = [f"{name}: {a.reason}" for name, a in found.items() if not a.available]
    if not any(a.available for a in found.values()):
        return Finding("engines", "failed", "; ".join(bad), "reinstall vm-core and vm-jit")
    if bad:
        hints = [a.hint for a in found.values() if not a.available and a.hint]
        return Finding(
            "engines", "degraded", "; ".join(bad), hints[0] if hints else "reinstall the engine's package"
        )
    return Finding("engines", "ok", ", ".join(found))


def _memory() -> Finding:
    from vm_core.errors import HostError
    from vm_core.memory import GuestMemory

    try:
        GuestMemory(bits=32).close()
    except HostError as error:
        return Finding(
            "memory", "failed", str(error), error.hint or "raise the limit of virtual memory (ulimit -v)"
        )
    return Finding("memory", "ok", "4 GiB of address space can be reserved for a guest")


def _executable_memory() -> Finding:
    """Two views of one file, one writable and one executable, as the code cache has them (never both at once)."""
    fix = "allow executable mappings (SELinux execmem, systemd MemoryDenyWriteExecute=no); vm run --engine reference works"
    try:
        fd = os.memfd_create("vm-doctor", os.MFD_CLOEXEC)
    except (OSError, AttributeError) as error:
        return Finding("w^x", "degraded", f"no memfd: {error}", fix)
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        with mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as writable:
            writable[:4] = b"\xc3\xc3\xc3\xc3"
            with mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC) as executable:
                same = executable[:4] == writable[:4]
    except OSError as error:
        return Finding("w^x", "degraded", f"code cannot be mapped executable: {error.strerror}", fix)
    finally:
        os.close(fd)
    if not same:
        return Finding("w^x", "degraded", "two views of one memfd differ", fix)
    return Finding("w^x", "ok", "code memory is writable or executable, never both")


def _openat2() -> Finding:
    how = struct.pack("QQQ", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE)
    buffer = ctypes.create_string_buffer(how, len(how))
    if sys.platform != "linux":
        return Finding("openat2", "note", "only on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    # SAFETY: the kernel reads 24 bytes of `buffer`, which lives until the call has returned.
    fd = libc.syscall(_OPENAT2, _AT_FDCWD, b".", buffer, ctypes.c_size_t(len(how)))
    if fd < 0:
        reason = os.strerror(ctypes.get_errno())
        return Finding(
            "openat2",
            "degraded",
            f"openat2 fails: {reason}; paths are walked one step at a time",
            "use Linux 5.6 or newer",
        )
    os.close(fd)
    return Finding("openat2", "ok", "the kernel itself keeps guest paths inside (openat2)")


def _wall(name: str) -> Callable[[], Finding]:
    """A check of something that the kernel could enforce on the process of a guest."""

    def check() -> Finding:
        if sys.platform != "linux":
            return Finding(name, "note", "only on Linux")
        from vm_core.linux.confine import walls

        found = {wall.name: wall for wall in walls()}
        wall = found.get(name)
        if wall is None:
            return Finding(name, "note", "only on Linux")
        if wall.have:
            return Finding(name, "ok", wall.what)
        return Finding(name, "degraded" if wall.needed else "note", wall.what, wall.fix)

    check.__name__ = name
    return check


_landlock = _wall("landlock")
_seccomp = _wall("seccomp")


def _user_namespaces() -> Finding:
    """vm itself needs none; the second stage of a distribution's installation does, unless root runs it."""

    def number(path: str) -> int | None:
        try:
            with open(path) as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    name, switches = "user namespaces", {
        "/proc/sys/user/max_user_namespaces": ("user.max_user_namespaces", 0, "15000"),
        "/proc/sys/kernel/unprivileged_userns_clone": ("kernel.unprivileged_userns_clone", 0, "1"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "kernel.apparmor_restrict_unprivileged_userns",
            1,
            "0",
        ),
    }  # fmt: skip
    for path, (setting, off, on) in switches.items():
        if number(path) == off:
            return Finding(
                name, "note", f"off ({setting} = {off}); vm does not need them", f"sysctl -w {setting}={on}"
            )
    if not os.path.exists("/proc/self/ns/user"):
        return Finding(name, "note", "not in this kernel; vm does not need them")
    return Finding(name, "ok", "can be made")


def _kvm() -> Finding:
    """Whether /dev/kvm can be used, which kind it is, and how fast: guest kernels are slow where none but ring 3 is native."""
    if sys.platform != "linux":
        return Finding("kvm", "note", "only on Linux")
    try:
        interface = importlib.import_module("vm_accel")
        hypervisor = importlib.import_module("vm_accel.kvm.hypervisor")
        rates = importlib.import_module("vm_accel.kvm.rates")
    except ImportError as error:
        return Finding(
            "kvm", "note", f"vm-accel cannot be loaded ({error})", "python -m pip install vm-accel"
        )
    found = interface.flavour()
    if found.name == "none":
        return Finding("kvm", "note", found.reason, found.hint)
    from vm_core.errors import VmError

    try:
        with hypervisor.Kvm() as kvm:
            measured = rates.measure(kvm)
    except VmError as error:
        return Finding("kvm", "note", str(error), error.hint)
    text = (
        f"/dev/kvm works ({found.name}): user code {measured.ring3 / 1e6:,.0f} M instructions/s, "
        f"kernel code {measured.ring0 / 1e6:,.1f} M/s, {measured.exits:,.0f} exits/s"
    )
    if measured.ring0 < measured.ring3 / 10:
        fix = "system guests boot slowly: use a host with VT-x or AMD-V, or allow it nested virtualisation (kvm_intel nested=1)"
        return Finding("kvm", "note", f"{text}; kernel code is emulated", fix)
    return Finding("kvm", "ok", text)


def _platform_accelerators() -> Finding:
    """The hypervisors of macOS and Windows, on those; and anywhere if a library is to take one's place."""
    name = {"darwin": "hvf", "win32": "whpx"}.get(sys.platform, "")
    wanted = [
        backend
        for backend in ("hvf", "whpx", "vz")
        if os.environ.get(f"VM_{backend.upper()}_LIBRARY")
        or backend == name
        or (backend, name) == ("vz", "hvf")
    ]
    if not wanted:
        return Finding("accelerators", "ok", "no hypervisor but KVM belongs to this system")
    try:
        registry = importlib.import_module("vm_accel.registry")
    except ImportError:
        return Finding("accelerators", "note", "vm-accel is not installed", "python -m pip install vm-accel")
    found = {backend: state for backend, state in registry.available().items() if backend in wanted}
    bad = [f"{backend}: {state.reason}" for backend, state in found.items() if not state.available]
    if not bad:
        return Finding("accelerators", "ok", ", ".join(found))
    fix = next((state.hint for state in found.values() if not state.available and state.hint), "")
    return Finding("accelerators", "note", "; ".join(bad), fix)


def _cache() -> Finding:
    from vm_cli.cached import directory
    from vm_core.errors import EngineUnavailable

    try:
        path = directory()
    except EngineUnavailable as error:
        return Finding("cache", "degraded", str(error), error.hint)
    with contextlib.suppress(FileNotFoundError):
        info = path.stat()
        if not stat.S_ISDIR(info.st_mode):
            return Finding(
                "cache", "degraded", f"{path} is not a directory", f"remove {path}, or set VM_CACHE_DIR"
            )
        if info.st_uid != os.geteuid():
            fix = (
                f"chown it, or set VM_CACHE_DIR to a directory of your own (it belongs to uid {info.st_uid})"
            )
            return Finding("cache", "degraded", f"{path} belongs to another user and is not used", fix)
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return Finding(
                "cache", "degraded", f"{path} can be written by others and is not used", f"chmod go-w {path}"
            )
        if not os.access(path, os.W_OK | os.X_OK):
            return Finding("cache", "degraded", f"{path} cannot be written", f"chmod u+rwx {path}")
        return Finding("cache", "ok", str(path))
    parent = next(p for p in path.parents if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        return Finding(
            "cache",
            "degraded",
            f"{path} cannot be made in {parent}",
            "set VM_CACHE_DIR to a writable directory",
        )
    return Finding("cache", "ok", f"{path} (not made yet)")


def _sysroot() -> Finding:
    """What vm sysroot needs to find Debian's packages and to believe them."""
    import shutil

    if sys.platform != "linux":
        return Finding("sysroot", "note", "only on Linux")
    from vm_cli.settings import load
    from vm_cli.sysroot.mirror import KEYRINGS, read_apt

    known = load(os.environ).settings.mirror or read_apt().mirrors
    missing = {
        "no Debian archive is known": not known,
        "gpgv is not installed": not shutil.which("gpgv"),
        "the keys of Debian's archive are not installed": not any(path.is_file() for path in KEYRINGS),
    }
    found = [text for text, lacks in missing.items() if lacks]
    if found:
        fix = "set VM_MIRROR" if not known else "apt install gpgv debian-archive-keyring"
        return Finding("sysroot", "note", f"{'; '.join(found)}: vm sysroot needs options", fix)
    return Finding("sysroot", "ok", "vm sysroot knows an archive and its keys")


def _variables() -> Finding:
    """A mistyped variable would otherwise be ignored without a word."""
    from vm_cli.settings import ROWS

    known = {name for row in ROWS for name in row.env} | {"VM_CONFIG", "VM_TRACEBACK"}
    known |= {f"VM_{backend}_LIBRARY" for backend in ("HVF", "WHPX", "VZ")}
    strange = sorted(name for name in os.environ if name.startswith("VM_") and name not in known)
    if strange:
        return Finding(
            "variables",
            "note",
            f"not a variable of vm: {', '.join(strange)}",
            "vm config show lists the settings",
        )
    return Finding("variables", "ok", "every VM_ variable is known")


CHECKS: Final[tuple[Callable[[], Finding], ...]] = (
    _python,
    _system,
    _llvm,
    _engines,
    _memory,
    _executable_memory,
    _openat2,
    _landlock,
    _wall("landlock-net"),
    _wall("landlock-scope"),
    _seccomp,
    _wall("no-new-privs"),
    _wall("mdwe"),
    _user_namespaces,
    _kvm,
    _platform_accelerators,
    _cache,
    _sysroot,
    _variables,
)


def run_checks(checks: Iterable[Callable[[], Finding]] = CHECKS) -> list[Finding]:
    """Run every check; one that breaks is itself a finding."""
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:  # noqa: BLE001 - the doctor must not die of what it finds
            name = check.__name__.strip("_").replace("_", " ")
            fix = "this is a defect of vm doctor, please report it"
            findings.append(
                Finding(name, "degraded", f"the check itself failed: {type(error).__name__}: {error}", fix)
            )
    return findings


def exit_status(findings: Iterable[Finding]) -> int:
    """0: all well, 1: something is degraded, 2: guests cannot run."""
    levels = {finding.level for finding in findings}
    return 2 if "failed" in levels else 1 if "degraded" in levels else 0
