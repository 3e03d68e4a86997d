"""The emulated /proc and /dev: what a program may reasonably ask about itself, and nothing about the host.

``/proc/PID`` is the same as ``/proc/self`` for the guest's own pid; other processes do not exist.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vm_core.linux.files import File, text_file
from vm_core.linux.paths import Node
from vm_core.memory import PAGE, Prot, Region

if TYPE_CHECKING:
    from vm_core.linux.process import Process

__all__ = ["Emulated", "maps_text"]

_DIR: Final = stat.S_IFDIR | 0o555
_TEXT: Final = stat.S_IFREG | 0o444
_LINK: Final = stat.S_IFLNK | 0o777
_CHAR: Final = stat.S_IFCHR | 0o666


_OF_THE_GUEST: Final = frozenset(
    {
        "/proc/self", "/proc/thread-self", "/proc/cpuinfo", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr",
        "/dev/tty",
    }
)  # fmt: skip
"""What even a trusted guest must not see of the host instead: it is about the guest and its machine."""


def maps_text(process: Process) -> str:
    """/proc/self/maps of the guest."""
    out = []
    for region in process.memory.regions():
        flags = "".join(
            letter if region.prot & bit else "-"
            for bit, letter in ((Prot.READ, "r"), (Prot.WRITE, "w"), (Prot.EXEC, "x"))
        )
        line = f"{region.start:08x}-{region.end:08x} {flags}{'s' if region.shared else 'p'} {region.offset:08x} {_file_of(region)}"
        out.append(f"{line:<72} {region.name}".rstrip() + "\n")
    return "".join(out)


def _file_of(region: Region) -> str:
    """Device and inode of the file that is mapped, as in /proc/self/maps."""
    backing = region.backing
    if backing is None:
        return "00:00 0"
    return f"{os.major(backing.device):02x}:{os.minor(backing.device):02x} {backing.inode}"


class Emulated:
    """Looks up emulated paths for one process; called by the name space with canonical guest paths."""

    def __init__(self, process: Process) -> None:
        self.process = process
        text = self._text
        self.fixed: dict[str, Callable[[], Node]] = {
            "/proc": lambda: Node(
                _DIR, names=("cpuinfo", "meminfo", "self", "stat", "sys", "thread-self", "uptime", "version")
            ),
            "/proc/self": self._self,
            "/proc/thread-self": self._self,
            "/proc/cpuinfo": text(self._cpuinfo),
            "/proc/meminfo": text(self._meminfo),
            "/proc/uptime": text(lambda: f"{time.monotonic():.2f} 0.00\n"),
            "/proc/version": text(lambda: f"Linux version {process.release} (vm) {process.version}\n"),
            "/proc/stat": text(self._stat_all),
            "/proc/sys": lambda: Node(_DIR, names=("kernel", "vm")),
            "/proc/sys/kernel": lambda: Node(_DIR, names=("hostname", "osrelease", "ostype", "pid_max")),
            "/proc/sys/kernel/hostname": text(lambda: "vm\n"),
            "/proc/sys/kernel/osrelease": text(lambda: process.release + "\n"),
            "/proc/sys/kernel/ostype": text(lambda: "Linux\n"),
            "/proc/sys/kernel/pid_max": text(lambda: "4194304\n"),
            "/proc/sys/vm": lambda: Node(_DIR, names=("overcommit_memory",)),
            "/proc/sys/vm/overcommit_memory": text(lambda: "1\n"),
            "/dev": lambda: Node(
                _DIR,
                names=(
                    "fd",
                    "full",
                    "null",
                    "random",
                    "shm",
                    "stderr",
                    "stdin",
                    "stdout",
                    "tty",
                    "urandom",
                    "zero",
                ),
            ),
            "/dev/fd": lambda: Node(_LINK, target="/proc/self/fd"),
            "/dev/stdin": lambda: Node(_LINK, target="/proc/self/fd/0"),
            "/dev/stdout": lambda: Node(_LINK, target="/proc/self/fd/1"),
            "/dev/stderr": lambda: Node(_LINK, target="/proc/self/fd/2"),
            "/dev/shm": lambda: Node(_LINK, target="/tmp"),  # noqa: S108 - the guest's own
            "/dev/tty": lambda: Node(_CHAR, opener=self._tty),
            **{f"/dev/{name}": self._device(name) for name in ("null", "zero", "full", "random", "urandom")},
        }
        self.own: dict[str, Callable[[], Node]] = {
            "exe": lambda: Node(_LINK, target=process.executable),
            "cwd": lambda: Node(_LINK, target=process.files.cwd),
            "root": lambda: Node(_LINK, target="/"),
            "cmdline": text(lambda: b"\0".join([*process.argv_bytes, b""])),
            "environ": text(lambda: b"\0".join([*process.env_bytes, b""])),
            "comm": text(lambda: process.comm + "\n"),
            "maps": text(lambda: maps_text(process)),
            "auxv": text(lambda: process.auxv),
            "stat": text(self._stat),
            "statm": text(self._statm),
            "status": text(self._status),
            "limits": text(self._limits),
            "fd": self._fd_directory,
            "task": lambda: Node(_DIR, names=tuple(str(t.tid) for t in process.threads_snapshot())),
        }

    def __call__(self, path: str) -> Node | None:
        if self.process.trust and path in self.fixed and path not in _OF_THE_GUEST:
            return None  # the host's own is there
        made = self.fixed.get(path)
        if made is not None:
            return made()
        if path == f"/proc/{self.process.pid}":
            return Node(_DIR, names=tuple(sorted(self.own)))
        prefix = f"/proc/{self.process.pid}/"
        if not path.startswith(prefix):
            return None
        rest = path[len(prefix) :]
        made = self.own.get(rest)
        if made is not None:
            return made()
        kind, _, name = rest.partition("/")
        if kind == "fd" and name.isdecimal():
            file = self.process.files.table.get(int(name))
            return (
                None
                if file is None
                else Node(_LINK, target=file.path, opener=lambda flags: self._reopen(file, flags))
            )
        if kind == "task":
            tid, _, inner = name.partition("/")
            if tid in {str(t.tid) for t in self.process.threads_snapshot()}:
                if not inner:
                    return Node(_DIR, names=tuple(sorted(self.own)))
                if inner in self.own:
                    return self.own[inner]()
        return None

    # -- makers -------------------------------------------------------------------------------------------------

    def _self(self) -> Node:
        return Node(_LINK, target=f"/proc/{self.process.pid}")

    @staticmethod
    def _text(make: Callable[[], str | bytes]) -> Callable[[], Node]:
        def opener(flags: int) -> File:
            if flags & 3:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            data = make()
            return text_file(data if isinstance(data, bytes) else data.encode(), flags)

        return lambda: Node(_TEXT, opener=opener)

    @staticmethod
    def _device(name: str) -> Callable[[], Node]:
        def opener(flags: int) -> File:
            # Constant names of harmless devices, never a path from the guest.
            host = "urandom" if name == "random" else name
            return File(os.open(f"/dev/{host}", (flags & 3) | os.O_CLOEXEC | os.O_NOFOLLOW), flags)

        return lambda: Node(_CHAR, opener=opener)

    def _tty(self, flags: int) -> File:
        for number in (0, 1, 2):
            file = self.process.files.table.get(number)
            if file is not None and file.fd >= 0 and os.isatty(file.fd):
                return file.reopen(flags)
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    @staticmethod
    def _reopen(file: File, flags: int) -> File:
        return file.reopen(flags)

    def _fd_directory(self) -> Node:
        return Node(_DIR, names=tuple(str(number) for number in sorted(self.process.files.table)))

    # -- texts --------------------------------------------------------------------------------------------------

    def _cpuinfo(self) -> str:
        isa = self.process.isa.name
        out = []
        for number in range(self.process.cpus):
            if isa == "riscv64":
                out.append(
                    f"processor\t: {number}\nhart\t\t: {number}\nisa\t\t: rv64imafdc_zicsr_zifencei_zba_zbb_zbs\n"
                    "mmu\t\t: sv39\nuarch\t\t: vm\n\n"
                )
            elif isa == "aarch64":
                out.append(f"processor\t: {number}\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd\n\n")
            else:
                out.append(
                    f"processor\t: {number}\nvendor_id\t: GenuineVM\nmodel name\t: vm\nflags\t\t: fpu sse sse2 lm\n\n"
                )
        return "".join(out)

    def _meminfo(self) -> str:
        memory = self.process.memory
        total = memory.limit or memory.size
        free = max(total - memory.committed, 0)
        return (
            f"MemTotal:       {total >> 10:8} kB\nMemFree:        {free >> 10:8} kB\n"
            f"MemAvailable:   {free >> 10:8} kB\nBuffers:               0 kB\nCached:                0 kB\n"
            "SwapTotal:             0 kB\nSwapFree:              0 kB\n"
        )

    def _stat_all(self) -> str:
        lines = ["cpu  0 0 0 0 0 0 0 0 0 0\n"]
        lines += [f"cpu{number} 0 0 0 0 0 0 0 0 0 0\n" for number in range(self.process.cpus)]
        return "".join(lines) + f"btime {int(time.time() - time.monotonic())}\n"

    def _stat(self) -> str:
        process = self.process
        ticks = int(time.process_time() * 100)
        threads = len(process.threads_snapshot())
        fields = [0] * 49
        fields[0], fields[1], fields[2] = 1, process.pid, process.pid
        fields[10] = ticks
        fields[14], fields[16] = 20, threads
        fields[19] = process.memory.committed
        fields[20] = process.memory.committed // PAGE
        fields[22], fields[23], fields[24] = process.image.start, process.image.end, process.stack_top
        return f"{process.pid} ({process.comm}) R " + " ".join(map(str, fields)) + "\n"

    def _statm(self) -> str:
        pages = self.process.memory.committed // PAGE
        return f"{pages} {pages} 0 0 0 {pages} 0\n"

    def _status(self) -> str:
        process = self.process
        uid, gid, kib = os.getuid(), os.getgid(), process.memory.committed >> 10
        return (
            f"Name:\t{process.comm}\nUmask:\t{process.files.umask:04o}\nState:\tR (running)\nTgid:\t{process.pid}\n"
            f"Ngid:\t0\nPid:\t{process.pid}\nPPid:\t1\nTracerPid:\t0\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
            f"Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nFDSize:\t64\nGroups:\t\nVmPeak:\t{process.memory.peak >> 10:8} kB\n"
            f"VmSize:\t{kib:8} kB\nVmRSS:\t{kib:8} kB\nThreads:\t{len(process.threads_snapshot())}\n"
        )

    def _limits(self) -> str:
        return (
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            "Max stack size            8388608              unlimited            bytes     \n"
            "Max open files            1024                 4096                 files     \n"
        )
