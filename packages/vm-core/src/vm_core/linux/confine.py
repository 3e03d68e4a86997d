"""The second wall around a guest: the host's kernel holds the process that runs it to what a guest may reach.

The first wall is vm itself: guest addresses stay in an arena, guest paths in a name space, guest descriptors in a table.
Should it have a hole, the process still can do no more than this module leaves it: read and write below the directories
that the guest was shown, no network, no other process, none of the kernel's rarer system calls (docs/security.md).

All of it is irrevocable and holds for whatever the process starts, so :func:`confine` is called at the last moment: when
everything is open, before the guest's first instruction, by a process that is there for the guest alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from vm_core.errors import HostError
from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux import landlock, seccomp
from vm_core.places import ZONE, cache_directory, enter_cache_zone
from vm_core.record import record

if TYPE_CHECKING:
    from vm_core.linux.paths import Namespace
    from vm_core.linux.process import Process

__all__ = ["LEVELS", "Wall", "confine", "confine_machine", "confine_process", "confine_worker", "walls"]

LEVELS: Final = ("auto", "strict", "off")
"""auto: what the host has, with room for all that vm can do; strict: all that is needed, or the guest does not run, and neither
sockets at paths nor terminals of its own, which the kernel cannot tell from those of others; off: the first wall only."""

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS, _PR_SET_MDWE, _PR_GET_MDWE = 38, 39, 65, 66
_REFUSE_EXEC_GAIN, _NO_INHERIT = 1, 2
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_CAPGET: Final = {"x86_64": 125}
_CAPSET: Final = {"x86_64": 126}
_GENERIC_CAPGET, _GENERIC_CAPSET = 90, 91
_KEPT: Final = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7))
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID: what a guest that root runs may do to the files that it is shown. KILL, SETGID, SETUID: for
its own processes."""
_NET_BIND_SERVICE: Final = 1 << 10
_DAC_OVERRIDE: Final = 1 << 1
_LIMITS: Final = {4: 0, 12: 0, 13: 0, 14: 0}
"""RLIMIT_CORE, MSGQUEUE, NICE, RTPRIO by number on every machine of seccomp.MACHINES, and their value."""
_THREAD_PATIENCE: Final = 20.0
"""Seconds to wait for threads that still prepare something; what they do ends by itself."""


@record(frozen=True)
class Wall:
    """One thing that the host's kernel can enforce. ``have`` says whether it can here, ``fix`` what to do if it cannot.

    Without one that is ``needed``, a hole in vm would be a way to the host; the others make what vm does anyway certain.
    """

    name: str
    have: bool
    what: str
    fix: str
    needed: bool = True


def _prctl(option: int, *args: int) -> int:
    """prctl(2); its result, or -errno."""
    words = [ctypes.c_ulong(word) for word in (*args, 0, 0, 0, 0)[:4]]
    # SAFETY: the options used here take numbers, never pointers.
    result = int(_libc.prctl(ctypes.c_int(option), *words))
    return result if result >= 0 else -ctypes.get_errno()


def walls() -> list[Wall]:
    """What this host can enforce on a guest's process; nothing is changed."""
    if sys.platform != "linux":
        return [Wall("linux", have=False, what=f"{sys.platform} is not Linux", fix="run vm on Linux")]
    version, filters = landlock.abi(), seccomp.available()

    def files(name: str, least: int, linux: str, what: str, otherwise: str) -> Wall:
        fix = (
            f"use Linux {linux} or newer"
            if version
            else "boot a kernel that has Landlock (CONFIG_SECURITY_LANDLOCK) with landlock in its lsm= list"
        )
        have = version >= least
        what = f"{what if have else otherwise} (ABI {version})"
        return Wall(name, have=have, what=what, fix=fix, needed=name == "landlock")

    mdwe = _prctl(_PR_GET_MDWE) >= 0
    return [
        files("landlock", 2, "5.19", "no files but those of the guest", "files are held back by vm only"),
        files("landlock-net", 4, "6.7", "no TCP without --net", "TCP is held back by seccomp only"),
        files(
            "landlock-scope",
            6,
            "6.12",
            "no signals and abstract sockets to others",
            "signals to other processes of the user are held back by vm only",
        ),
        Wall(
            "seccomp",
            have=filters,
            what=f"{len(seccomp.ALLOWED)} system calls are allowed, {len(seccomp.FORBIDDEN)} end the process"
            if filters
            else "system calls are held back by vm only",
            fix="use a kernel with CONFIG_SECCOMP_FILTER (Linux 4.14 or newer) on x86-64, aarch64 or riscv64",
        ),
        Wall(
            "no-new-privs",
            have=_prctl(_PR_GET_NO_NEW_PRIVS) >= 0,
            what="set-user-ID programs give nothing",
            fix="use Linux 3.5 or newer",
        ),
        Wall(
            "mdwe",
            have=mdwe,
            what=f"W^X is {'enforced' if mdwe else 'not enforced'} by the kernel too",
            fix="use Linux 6.6 or newer",
            needed=False,
        ),
    ]


def confine_process(
    process: Process,
    *,
    level: str,
    writable: Iterable[str] = (),
    programs: Iterable[str] = (),
    sampled: bool = False,
) -> list[str]:
    """:func:`confine` for a guest that is loaded and has not run yet, with its part of the code cache."""
    namespace = process.files.namespace
    provide = getattr(process.engine, "provide", None)
    ioctls: tuple[int, ...] = getattr(process.engine, "ioctls", ())
    if provide is None or level == "off":
        return confine(
            namespace,
            net=process.net,
            level=level,
            writable=writable,
            programs=programs,
            sampled=sampled,
            ioctls=ioctls,
        )
    try:
        from _blake2 import blake2b  # PERF: hashlib loads OpenSSL
    except ImportError:
        from hashlib import blake2b
    cache = cache_directory()
    powers = f"{level} {process.net} {namespace.view()}"
    zone = os.path.join(cache, ZONE + blake2b(powers.encode(), digest_size=12).hexdigest())
    with contextlib.suppress(OSError):  # without one, nothing is kept, and the engine says so
        os.makedirs(zone, 0o700, exist_ok=True)
    provide()
    enter_cache_zone(zone)
    return confine(
        namespace,
        net=process.net,
        level=level,
        readable=(cache,),
        writable=(zone, *writable),
        programs=programs,
        sampled=sampled,
    )


def confine(
    namespace: Namespace,
    *,
    net: bool = False,
    level: str = "auto",
    readable: Iterable[str] = (),
    writable: Iterable[str] = (),
    programs: Iterable[str] = (),
    sampled: bool = False,
    ioctls: Iterable[int] = (),
) -> list[str]:
    """Hold this process, for ever, to what a guest of ``namespace`` may reach, and what Python and LLVM need; returns the
    names of the walls that stand.

    ``readable`` and ``writable`` are further host paths, ``programs`` what else the process may start, as confined as itself. A
    process that is ``sampled`` may have timers; ``ioctls`` are for the device that its engine has open. Nothing is done at level "off". Raises HostError at "strict" if
    something that is needed is missing here.
    """
    if level == "off":
        return []

    def allow(rules: landlock.Ruleset) -> None:
        _allow_guest(rules, namespace)
        _allow_host(rules, readable, writable, programs)
        if level != "strict":
            _allow_terminals(rules)

    calls = seccomp.SAMPLED if sampled else seccomp.ALLOWED
    kept = _KEPT | (_NET_BIND_SERVICE if net else 0)
    os.register_at_fork(after_in_child=_refuse_new_code)
    return _confine(
        level,
        allow,
        lambda machine: seccomp.assemble(calls, machine, net=net, unix=level != "strict", ioctls=ioctls),
        net=net,
        capabilities=kept,
    )


def confine_machine(*, level: str, ioctls: Iterable[int]) -> list[str]:
    """Hold this process, for ever, to being one machine whose files, consoles and hypervisor are open: it may use these, have memory and
    threads, and read what Python loads late. ``ioctls`` are the requests that it still has for the hypervisor. Returns the names of
    the walls that stand; nothing is done at level "off". Raises HostError at "strict" if something that is needed is missing here.

    It must be called before there are other threads.
    """
    if level == "off":
        return []
    return _confine(
        level,
        lambda rules: _allow_host(rules, (), (), ()),
        lambda machine: seccomp.assemble(
            seccomp.MACHINE, machine, unix=False, ioctls=ioctls, alone=os.getpid()
        ),
        # A user's Python that root runs may lie in a directory that others cannot read.
        capabilities=_DAC_OVERRIDE,
    )


def _confine(
    level: str,
    allow: Callable[[landlock.Ruleset], None],
    filtered: Callable[[str], list[seccomp.Insn]],
    *,
    capabilities: int,
    net: bool = False,
) -> list[str]:
    """The walls: ``allow`` names the files, ``filtered`` makes the filter for a kind of host."""
    alone = _join_threads()
    made, missing = [], []

    def stands(name: str, result: int, *, needed: bool = True) -> None:
        if result >= 0:
            made.append(name)
        elif needed:
            missing.append(f"{name}: {os.strerror(-result)}")

    _limit_resources()
    _drop_capabilities(capabilities)
    stands("no-new-privs", _prctl(_PR_SET_NO_NEW_PRIVS, 1))
    # Not for the process that LLVM runs in: libffi's closures, which llvmlite has, may be in such memory.
    stands("mdwe", _refuse_new_code(), needed=False)
    try:
        with landlock.ruleset(net=net) as rules:
            allow(rules)
            everyone = rules.restrict()
    except OSError as error:
        stands("landlock", -(error.errno or 1))
    else:
        made.append("landlock")
        if not alone and not everyone:
            missing.append("landlock: threads of vm were there already")
    if seccomp.available():
        stands("seccomp", seccomp.install(filtered(os.uname().machine)))
    else:
        missing.append("seccomp: not available")
    if missing and level == "strict":
        raise HostError(
            f"the host cannot confine the guest as asked: {'; '.join(missing)}",
            hint="vm doctor says what is missing; --sandbox auto takes what there is",
        )
    return made


def _refuse_new_code() -> int:
    """No memory of this process can be both written and executed from now on. Returns 0 or -errno."""
    return _prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN | _NO_INHERIT)


def confine_worker() -> None:
    """Hold this process to computing: it may read and write what it has open, and have memory. Best effort."""
    _limit_resources()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(OSError), landlock.ruleset() as rules:
        rules.restrict()
    if seccomp.available():
        seccomp.install(seccomp.assemble(seccomp.WORKER, os.uname().machine))


def _join_threads() -> bool:
    """Wait for threads that prepare something; whether this is the process's only thread then. Landlock and capabilities are
    a thread's own, and those of one that is there already cannot be changed from here."""
    here = threading.current_thread()
    for thread in threading.enumerate():
        if thread is not here:
            thread.join(_THREAD_PATIENCE)
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return threading.active_count() == 1


def _limit_resources() -> None:
    for number, value in _LIMITS.items():
        pair = (ctypes.c_uint64 * 2)(value, value)
        # SAFETY: struct rlimit is two 64-bit words on every 64-bit host; the kernel only reads them.
        _libc.setrlimit(ctypes.c_int(number), pair)


def _drop_capabilities(kept: int) -> None:
    """Of root's powers, keep those of these bits."""
    machine = os.uname().machine
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    # SAFETY: version 3 has a header of 8 bytes and two blocks of 12; both buffers live until the call has returned.
    if _libc.syscall(ctypes.c_long(_CAPGET.get(machine, _GENERIC_CAPGET)), header, data) < 0:
        return
    words = list(struct.unpack("=6I", data.raw))
    if not any(words):
        return
    for low in range(3):  # effective, permitted, inheritable
        words[low] &= kept
        words[low + 3] = 0
    data.raw = struct.pack("=6I", *words)
    _libc.syscall(ctypes.c_long(_CAPSET.get(machine, _GENERIC_CAPSET)), header, data)


# -- files ------------------------------------------------------------------------------------------------------------


def _allow_guest(rules: landlock.Ruleset, namespace: Namespace) -> None:
    """What the guest was shown."""
    for mount in namespace.all_mounts():
        if mount.temporary:
            try:
                rules.allow_open(mount.fd, landlock.WRITE)
            except OSError:
                continue  # no place for one: the guest's use of it says so
            # To remove it at the end. What else is in there belongs to other guests of the same user.
            parent = os.path.dirname(mount.host)
            if os.path.basename(parent) == f"vm-{os.geteuid()}":
                rules.allow(parent, landlock.REMOVE_DIR)
        elif not mount.file:
            rules.allow_open(mount.fd, landlock.WRITE if mount.writable else landlock.READ)
        else:
            rights = landlock.READ_FILE | (landlock.WRITE_FILE if mount.writable else 0)
            rules.allow(mount.name, rights, directory=mount.fd)


_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/tty")
_TERMINALS: Final = ("/dev/ptmx", "/dev/pts")
"""vm opens there only the pairs that the guest has made; the kernel would let it open others of the user."""
_FACTS: Final = ("/sys/devices/system/cpu", "/etc/ld.so.cache", "/etc/localtime")
_PROC: Final = "/proc"
"""Whole, because each forked process reads in a directory of its own. Of processes outside, Landlock keeps back all that only
their owner may see; what remains is what every user of the host may read."""
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store")


def _allow_host(
    rules: landlock.Ruleset, readable: Iterable[str], writable: Iterable[str], programs: Iterable[str]
) -> None:
    """What Python loads late, and what it takes to start the process that LLVM runs in: all for reading."""
    for path in _DEVICES:
        rules.allow(path, landlock.READ_FILE | landlock.WRITE_FILE)
    for path in dict.fromkeys((*_FACTS, *_LIBRARIES, *_python_paths(), *readable)):
        rules.allow(path, landlock.READ)
    rules.allow(_PROC, landlock.READ_FILE)
    for path in (found for program in (sys.executable, *programs) for found in _interpreter(program)):
        rules.allow(path, landlock.EXECUTE | landlock.READ_FILE)
    for path in writable:
        rules.allow(path, landlock.WRITE)


def _allow_terminals(rules: landlock.Ruleset) -> None:
    for path in _TERMINALS:
        rules.allow(path, landlock.READ_FILE | landlock.WRITE_FILE | landlock.DEVICE_IOCTL)


def _python_paths() -> Iterator[str]:
    for path in sys.path:
        if path:
            yield path
    yield os.path.dirname(os.__file__)
    if sys.prefix != sys.base_prefix:
        yield os.path.join(sys.prefix, "pyvenv.cfg")
    yield os.path.join(sys.base_prefix, "lib")


def _interpreter(executable: str) -> Iterator[str]:
    """The file that Python is, and the dynamic loader that starts it."""
    if not executable:
        return
    yield executable
    try:
        with open(executable, "rb", buffering=0) as file:
            head = file.read(4096)
            at, size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
            for index in range(count):
                kind, offset, length = struct.unpack_from("<I4xQ16xQ", head, at + size * index)
                if kind == 3:  # PT_INTERP
                    file.seek(offset)
                    yield os.fsdecode(file.read(min(length, 4096)).rstrip(b"\0"))
                    return
    except (OSError, struct.error):
        return
