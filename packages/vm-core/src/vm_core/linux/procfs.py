"""The emulated /proc, /sys and /dev: what a program may reasonably ask about itself, and nothing about the host.

There are the guest's own processes and no others. What one of them may say of another is what the host says of its process
(times, state, parents) and what that one has said of itself (its name, program and arguments).

proc(5), random(4).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.devices import Devices
from vm_core.linux.files import SPECIAL, File, text_file
from vm_core.linux.paths import Node
from vm_core.memory import PAGE, Prot, Region

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread, Process

__all__ = ["Emulated", "emulated", "maps_line", "maps_text"]

_DIR: Final = stat.S_IFDIR | 0o555
_TEXT: Final = stat.S_IFREG | 0o444
_LINK: Final = stat.S_IFLNK | 0o777
_SETTING: Final = stat.S_IFREG | 0o644


_OF_THE_GUEST: Final = frozenset(
    {
        "/proc/self", "/proc/thread-self", "/proc/cpuinfo", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr",
        "/dev/tty", "/proc/mounts", "/proc/net", "/proc/meminfo",
    }
)  # fmt: skip
"""What even a trusted guest must not see of the host instead: it is about the guest and its machine."""


def maps_text(process: Process) -> str:
    """/proc/self/maps of the guest."""
    return "".join(map(maps_line, process.memory.regions()))


def maps_line(region: Region) -> str:
    """What /proc/self/maps says of a region."""
    flags = "".join(
        letter if region.prot & bit else "-"
        for bit, letter in ((Prot.READ, "r"), (Prot.WRITE, "w"), (Prot.EXEC, "x"))
    )
    line = f"{region.start:08x}-{region.end:08x} {flags}{'s' if region.shared else 'p'} {region.offset:08x} {_file_of(region)}"
    return f"{line:<72} {region.name}".rstrip() + "\n"


def _file_of(region: Region) -> str:
    """Device and inode of the file that is mapped, as in /proc/self/maps."""
    backing = region.backing
    if backing is None:
        return "00:00 0"
    return f"{os.major(backing.device):02x}:{os.minor(backing.device):02x} {backing.inode}"


def _smaps(process: Process, *, rolled_up: bool = False) -> str:
    # PERF: few programs ask.
    from vm_core.linux import smaps

    return smaps.rollup_text(process) if rolled_up else smaps.smaps_text(process)


def _times() -> str:
    """Seconds since the start of the machine, and that its processors were idle."""
    up = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return f"{up:.2f} 0.00\n"


def _host_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, as the host has them. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode().split()


class Setting:
    """A text that may be written too: File.socket of a SPECIAL file. The descriptor behind it has the text."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def read(self, _t: GuestThread, file: File, windows: Sequence[memoryview]) -> int:
        if file.flags & 3 == 1:
            return -errno.EBADF
        return os.readv(file.fd, windows)

    def write(self, _t: GuestThread, file: File, windows: Sequence[memoryview]) -> int:
        if not file.flags & 3:
            return -errno.EBADF
        data = b"".join(windows)
        self._write(data)
        return len(data)

    def closed(self) -> None: ...


def emulated(process: Process) -> Callable[[str], Node | None]:
    """As an :class:`Emulated`, which is made at the first look: it takes half a millisecond."""
    made: list[Emulated] = []

    def look(path: str) -> Node | None:
        if not made:
            made.append(Emulated(process))
        return made[0](path)

    return look


class Emulated:
    """Looks up emulated paths for one process; called by the name space with canonical guest paths."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.devices = Devices(process)
        text = self._text
        self._boot_id = _uuid()
        constants = {
            "sys/kernel/hostname": "vm", "sys/kernel/domainname": "(none)", "sys/kernel/ostype": "Linux",
            "sys/kernel/osrelease": process.release, "sys/kernel/version": process.version,
            "sys/kernel/pid_max": "4194304", "sys/kernel/threads-max": "4096", "sys/kernel/cap_last_cap": "40",
            "sys/kernel/ngroups_max": "65536", "sys/kernel/randomize_va_space": "0", "sys/kernel/core_pattern": "core",
            "sys/kernel/core_uses_pid": "0", "sys/kernel/overflowuid": "65534", "sys/kernel/overflowgid": "65534",
            "sys/kernel/tainted": "0", "sys/kernel/sched_child_runs_first": "0",
            "sys/kernel/random/boot_id": self._boot_id, "sys/kernel/random/entropy_avail": "256",
            "sys/kernel/random/poolsize": "256", "sys/vm/overcommit_memory": "1", "sys/vm/overcommit_ratio": "50",
            "sys/vm/max_map_count": "65530", "sys/vm/swappiness": "60", "sys/vm/mmap_min_addr": "4096",
            "sys/vm/nr_hugepages": "0", "sys/fs/file-max": "1048576", "sys/fs/nr_open": "4096",
            "sys/fs/file-nr": "0\t0\t1048576", "sys/fs/pipe-max-size": "1048576", "sys/fs/aio-max-nr": "0",
            "sys/fs/inotify/max_user_instances": "128", "sys/fs/inotify/max_user_watches": "65536",
            "sys/fs/inotify/max_queued_events": "16384", "sys/net/core/somaxconn": "4096",
            "sys/net/ipv4/ip_local_port_range": "32768\t60999", "sys/net/ipv4/tcp_max_syn_backlog": "512",
        }  # fmt: skip
        cpus = "0" if process.cpus == 1 else f"0-{process.cpus - 1}"
        self.fixed: dict[str, Callable[[], Node]] = {
            "/proc/self": self._self,
            "/proc/thread-self": self._self,
            "/proc/mounts": lambda: Node(_LINK, target="self/mounts"),
            "/proc/net": lambda: Node(_LINK, target="self/net"),
            "/proc/cpuinfo": text(self._cpuinfo),
            "/proc/meminfo": text(self._meminfo),
            "/proc/uptime": text(_times),
            "/proc/loadavg": text(lambda: f"0.00 0.00 0.00 1/{len(self._pids())} {process.pid}\n"),
            "/proc/version": text(lambda: f"Linux version {process.release} (vm) {process.version}\n"),
            "/proc/cmdline": text(lambda: "\n"),
            "/proc/filesystems": text(
                lambda: "nodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tsysfs\n\text4\n"
            ),
            "/proc/devices": text(
                lambda: (
                    "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n"
                )
            ),
            "/proc/swaps": text(lambda: "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
            "/proc/modules": text(lambda: ""),
            "/proc/vmstat": text(lambda: "nr_free_pages 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n"),
            "/proc/stat": text(self._stat_all),
            "/proc/sys/kernel/random/uuid": text(lambda: f"{_uuid()}\n"),
            **{f"/proc/{name}": self._constant(value) for name, value in constants.items()},
            **{
                f"/sys/devices/system/cpu/{name}": self._constant(cpus)
                for name in ("online", "possible", "present")
            },
            **{
                f"/sys/devices/system/cpu/cpu{number}/online": self._constant("1")
                for number in range(min(process.cpus, 256))
            },
            "/sys/devices/system/node/online": self._constant("0"),
            **self.devices.fixed,
        }
        self._directories: dict[str, set[str]] = {"/sys": {"fs"}, "/sys/fs": set()}
        for path in self.fixed:
            parent, _, name = path.rpartition("/")
            while parent:
                self._directories.setdefault(parent, set()).add(name)
                parent, _, name = parent.rpartition("/")
        self.own: dict[str, Callable[[], Node]] = {
            "exe": lambda: Node(_LINK, target=process.executable),
            "cwd": lambda: Node(_LINK, target=process.files.cwd),
            "root": lambda: Node(_LINK, target="/"),
            "cmdline": text(lambda: b"\0".join([*process.argv_bytes, b""])),
            "environ": text(lambda: b"\0".join([*process.env_bytes, b""])),
            "comm": self._setting(lambda: process.comm + "\n", self._rename),
            "maps": text(lambda: maps_text(process)),
            "smaps": text(lambda: _smaps(process)),
            "smaps_rollup": text(lambda: _smaps(process, rolled_up=True)),
            "auxv": text(lambda: process.auxv),
            "stat": text(lambda: self._stat(process.pid)),
            "statm": text(lambda: self._statm(process.pid)),
            "status": text(lambda: self._status(process.pid)),
            "limits": text(self._limits),
            "mounts": text(self._mounts),
            "mountinfo": text(self._mountinfo),
            "cgroup": text(lambda: "0::/\n"),
            "loginuid": text(lambda: "4294967295"),
            "sessionid": text(lambda: "4294967295"),
            "oom_score": text(lambda: "0\n"),
            "oom_score_adj": self._setting(lambda: f"{self._oom_score_adj}\n", self._adjust),
            "oom_adj": self._setting(lambda: "0\n", lambda _data: None),
            "coredump_filter": self._setting(lambda: "00000033\n", lambda _data: None),
            "timerslack_ns": self._setting(lambda: "50000\n", lambda _data: None),
            "personality": text(lambda: f"{process.personality:08x}\n"),
            "uid_map": text(lambda: "         0          0 4294967295\n"),
            "gid_map": text(lambda: "         0          0 4294967295\n"),
            "setgroups": text(lambda: "allow\n"),
            "io": text(lambda: "".join(f"{name}: 0\n" for name in _IO)),
            "wchan": text(lambda: "0"),
            "fd": self._fd_directory,
            "fdinfo": self._fd_directory,
            "net": lambda: Node(_DIR, names=tuple(sorted(_NET))),
            "task": lambda: Node(_DIR, names=tuple(str(t.tid) for t in process.threads_snapshot())),
        }
        self._oom_score_adj = 0

    def __call__(self, path: str) -> Node | None:
        node = self._find(path)
        if node is not None and not node.number:
            node.number = _number(path)
        return node

    def _find(self, path: str) -> Node | None:
        if self.process.shows_host and path in self.fixed and path not in _OF_THE_GUEST:
            return None  # the host's own is there
        made = self.fixed.get(path)
        if made is not None:
            return made()
        if path == "/proc" and not self.process.shows_host:
            names = {*self._directories[path], *(str(pid) for pid in self._pids())}
            return Node(_DIR, names=tuple(sorted(names)))
        if path in self._directories:
            return None if self.process.shows_host else self._directory(path)
        if path.startswith("/dev/"):
            return self.devices.find(path)
        if not path.startswith("/proc/"):
            return None
        first, _, rest = path[6:].partition("/")
        if not first.isdecimal():
            return None
        pid = int(first)
        if pid == self.process.pid:
            return self._of_own(rest)
        if pid in self.process.threads:
            return self._of_own(rest)  # the directory of a thread can be named, though it is not listed
        return self._of_other(pid, rest) if pid in self._pids() else None

    def _directory(self, path: str) -> Node:
        names = self._directories[path]
        if path == "/dev":
            names = names | {"pts"}
        return Node(_DIR, names=tuple(sorted(names)))

    def _of_own(self, rest: str) -> Node | None:
        if not rest:
            return Node(_DIR, names=tuple(sorted(self.own)))
        made = self.own.get(rest)
        if made is not None:
            return made()
        kind, _, name = rest.partition("/")
        if kind == "fd" and name.isdecimal():
            file = self.process.files.table.get(int(name))
            if file is None:
                return None
            return Node(_LINK, target=file.path, opener=file.reopen)
        if kind == "fdinfo" and name.isdecimal() and int(name) in self.process.files.table:
            return self._text(lambda: self._fdinfo(int(name)))()
        if kind == "net" and name in _NET:
            return self._constant(_NET[name])()
        if kind == "task":
            tid, _, inner = name.partition("/")
            thread = self.process.threads.get(int(tid)) if tid.isdecimal() else None
            if thread is not None and inner.partition("/")[0] != "task":
                if inner == "comm":
                    return self._text(lambda: thread.name.rstrip(b"\0") + b"\n")()
                return self._of_own(inner)
        return None

    def _of_other(self, pid: int, rest: str) -> Node | None:
        """What another process of the guest is said to be."""
        family = self.process.family
        member = None if family is None else family.member(pid)
        if member is None:
            return None
        text = self._text
        made: dict[str, Callable[[], Node]] = {
            "exe": lambda: Node(_LINK, target=os.fsdecode(member.executable)),
            "cmdline": text(lambda: b"" if self._state(pid) == "Z" else member.arguments),
            "comm": text(lambda: member.comm + b"\n"),
            "stat": text(lambda: self._stat(pid)),
            "statm": text(lambda: self._statm(pid)),
            "status": text(lambda: self._status(pid)),
            "cgroup": text(lambda: "0::/\n"),
            "loginuid": text(lambda: "4294967295"),
            "oom_score_adj": text(lambda: "0\n"),
            "mounts": text(self._mounts),
            "mountinfo": text(self._mountinfo),
            **dict.fromkeys(("environ", "maps", "smaps", "smaps_rollup", "auxv"), self._refused),
        }
        if not rest:
            return Node(_DIR, names=tuple(sorted((*made, "task"))))
        if rest == "task":
            return Node(_DIR, names=(str(pid),))
        kind, _, inner = rest.partition("/")
        if kind == "task" and (inner == str(pid) or inner.startswith(f"{pid}/")):
            rest = inner.partition("/")[2]
            return self._of_other(pid, rest) if rest.partition("/")[0] != "task" else None
        return made[rest]() if rest in made else None

    # -- makers -------------------------------------------------------------------------------------------------

    def _pids(self) -> list[int]:
        process = self.process
        # A child may not have joined the family yet.
        return (
            [process.pid]
            if process.family is None
            else [*dict.fromkeys((*process.family.members(), *process.children))]
        )

    def _self(self) -> Node:
        return Node(_LINK, target=f"/proc/{self.process.pid}")

    @staticmethod
    def _text(make: Callable[[], str | bytes]) -> Callable[[], Node]:
        def opener(flags: int) -> File:
            if flags & 3:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

            def data() -> bytes:
                made = make()
                return made if isinstance(made, bytes) else made.encode()

            return text_file(data, flags)

        return lambda: Node(_TEXT, opener=opener)

    def _constant(self, value: str) -> Callable[[], Node]:
        return self._text(lambda: value + "\n")

    @staticmethod
    def _setting(make: Callable[[], str], write: Callable[[bytes], None]) -> Callable[[], Node]:
        def opener(flags: int) -> File:
            file = text_file(lambda: make().encode(), flags)
            if flags & 3:
                file.kind, file.socket = SPECIAL, Setting(write)
            return file

        return lambda: Node(_SETTING, opener=opener)

    @staticmethod
    def _refused() -> Node:
        def opener(_flags: int) -> File:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        return Node(stat.S_IFREG | 0o400, opener=opener)

    def _rename(self, data: bytes) -> None:
        name = data.split(b"\0")[0].rstrip(b"\n")[:15]
        self.process.main.name = name
        self.process.renamed(name)

    def _adjust(self, data: bytes) -> None:
        value = int(data.strip() or b"0")
        if not -1000 <= value <= 1000:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._oom_score_adj = value

    def _fd_directory(self) -> Node:
        return Node(_DIR, names=tuple(str(number) for number in sorted(self.process.files.table)))

    def _fdinfo(self, number: int) -> str:
        files = self.process.files
        file = files.table[number]
        flags = file.flags | (0o2000000 if number in files.close_on_exec else 0)
        lines = [f"pos:\t{file.position}", f"flags:\t0{flags:o}", "mnt_id:\t1", "ino:\t0"]
        if file.fd >= 0:
            with open(f"/proc/self/fdinfo/{file.fd}") as info:
                told = [line.rstrip("\n") for line in info]
            lines = [lines[1] if line.startswith("flags:") else line for line in told]
        return "\n".join(lines) + "\n"

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
        values = {
            "MemTotal": total, "MemFree": free, "MemAvailable": free, "Buffers": 0, "Cached": 0, "SwapCached": 0,
            "Active": total - free, "Inactive": 0, "SwapTotal": 0, "SwapFree": 0, "Dirty": 0, "AnonPages": total - free,
            "Mapped": 0, "Shmem": 0, "Slab": 0, "SReclaimable": 0, "CommitLimit": total, "Committed_AS": total - free,
        }  # fmt: skip
        lines = [f"{name + ':':<15} {value >> 10:8} kB\n" for name, value in values.items()]
        return (
            "".join(lines)
            + "HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n"
        )

    def _stat_all(self) -> str:
        lines = ["cpu  0 0 0 0 0 0 0 0 0 0\n"]
        lines += [f"cpu{number} 0 0 0 0 0 0 0 0 0 0\n" for number in range(self.process.cpus)]
        boot = int(time.time() - time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
        running = len(self._pids())
        return (
            "".join(lines)
            + f"intr 0\nctxt 0\nbtime {boot}\nprocesses {running}\nprocs_running 1\nprocs_blocked 0\n"
        )

    @staticmethod
    def _state(pid: int) -> str:
        try:
            return _host_fields(pid)[0]
        except OSError:
            return "Z"

    def _parent(self, pid: int, told: int) -> int:
        """The parent of a process as the guest knows it: 1 where it is none of its own."""
        return told if told != pid and told in self._pids() else 1

    def _stat(self, pid: int) -> str:
        """/proc/PID/stat: times, state and groups are the host's, what lies in memory is the guest's."""
        process = self.process
        fields = _host_fields(pid)
        own = pid == process.pid
        fields[1] = str(self._parent(pid, int(fields[1])))
        if own:
            fields[0], fields[17] = "R", str(len(process.threads_snapshot()))
            fields[20] = str(process.memory.committed)
            fields[21] = str(process.memory.committed // PAGE)
            layout = (process.image.start, process.image.end, process.stack_top)
        else:
            layout = (0, 0, 0)
            fields[17] = "1"
            # Its size on the host is mostly what is reserved for its memory.
            fields[20] = str(int(fields[21]) * PAGE)
        for at, value in zip((23, 24, 25), layout, strict=True):
            fields[at] = str(value)
        for at in range(26, len(fields)):
            fields[at] = "0" if at not in (35, 36) else fields[at]
        comm = process.comm if own else self._comm(pid)
        return f"{pid} ({comm}) {' '.join(fields)}\n"

    def _comm(self, pid: int) -> str:
        family = self.process.family
        member = None if family is None else family.member(pid)
        return "" if member is None else os.fsdecode(member.comm)

    def _statm(self, pid: int) -> str:
        if pid == self.process.pid:
            pages = self.process.memory.committed // PAGE
        else:
            pages = int(_host_fields(pid)[21])
        return f"{pages} {pages} 0 0 0 {pages} 0\n"

    def _status(self, pid: int) -> str:
        process = self.process
        own = pid == process.pid
        fields = _host_fields(pid)
        state = "R" if own else fields[0]
        words = {
            "R": "running",
            "S": "sleeping",
            "D": "disk sleep",
            "T": "stopped",
            "t": "tracing stop",
            "Z": "zombie",
        }
        users, groups = os.getresuid(), os.getresgid()
        lines = [
            f"Name:\t{process.comm if own else self._comm(pid)}",
            f"Umask:\t{process.files.umask:04o}",
            f"State:\t{state} ({words.get(state, 'sleeping')})",
            f"Tgid:\t{pid}",
            "Ngid:\t0",
            f"Pid:\t{pid}",
            f"PPid:\t{self._parent(pid, int(fields[1]))}",
            "TracerPid:\t0",
            "Uid:\t" + "\t".join(map(str, (*users, users[1]))),
            "Gid:\t" + "\t".join(map(str, (*groups, groups[1]))),
            f"FDSize:\t{max(64, len(process.files.table))}",
            "Groups:\t" + "".join(f"{group} " for group in os.getgroups()),
            f"NStgid:\t{pid}",
            f"NSpid:\t{pid}",
        ]
        if state != "Z":
            kib = process.memory.committed >> 10 if own else int(fields[21]) * PAGE >> 10
            peak = process.memory.peak >> 10 if own else kib
            lines += [
                f"VmPeak:\t{peak:8} kB",
                f"VmSize:\t{kib:8} kB",
                "VmLck:\t       0 kB",
                f"VmHWM:\t{peak:8} kB",
                f"VmRSS:\t{kib:8} kB",
                f"VmData:\t{kib:8} kB",
                "VmStk:\t    8192 kB",
                "VmSwap:\t       0 kB",
            ]
        lines.append(f"Threads:\t{len(process.threads_snapshot()) if own else 1}")
        if own:
            signals = process.signals
            ignored = sum(1 << n - 1 for n, action in list(signals.actions.items()) if action.handler == 1)
            caught = sum(1 << n - 1 for n, action in list(signals.actions.items()) if action.handler > 1)
            pending = 0
            for info in list(signals.pending):
                pending |= 1 << info.number - 1
            lines += [
                "SigQ:\t0/1024",
                f"SigPnd:\t{sum({1 << info.number - 1 for info in process.main.pending}):016x}",
                f"ShdPnd:\t{pending:016x}",
                f"SigBlk:\t{process.main.mask:016x}",
                f"SigIgn:\t{ignored:016x}",
                f"SigCgt:\t{caught:016x}",
            ]
        cpus = (1 << process.cpus) - 1
        lines += [f"{name}:\t{0:016x}" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
        lines += [
            f"NoNewPrivs:\t{process.no_new_privileges}",
            "Seccomp:\t0",
            f"Cpus_allowed:\t{cpus:x}",
            "Cpus_allowed_list:\t" + ("0" if process.cpus == 1 else f"0-{process.cpus - 1}"),
            "voluntary_ctxt_switches:\t0",
            "nonvoluntary_ctxt_switches:\t0",
        ]
        return "\n".join(lines) + "\n"

    def _limits(self) -> str:
        out = [f"{'Limit':<26}{'Soft Limit':<21}{'Hard Limit':<21}{'Units':<10}\n"]
        for number, (name, unit) in enumerate(_LIMITS):
            soft, hard = (
                "unlimited" if value >= _INFINITY else str(value)
                for value in self.process.limits.get(number, (_INFINITY, _INFINITY))
            )
            out.append(f"{'Max ' + name:<26}{soft:<21}{hard:<21}{unit:<10}\n")
        return "".join(out)

    def _mounted(self) -> list[tuple[str, str, str, str]]:
        """(source, where, kind, options) of what the guest sees mounted."""
        out = []
        for guest, mount in sorted(self.process.files.namespace.mounts.items()):
            kind = "tmpfs" if mount.temporary else "ext4"
            source = "tmpfs" if mount.temporary else "/dev/root"
            out.append((source, guest, kind, "rw,relatime" if mount.writable else "ro,relatime"))
        out += [
            ("proc", "/proc", "proc", "rw"),
            ("sysfs", "/sys", "sysfs", "ro"),
            ("devtmpfs", "/dev", "devtmpfs", "rw"),
        ]
        return [*out, ("devpts", "/dev/pts", "devpts", "rw")]

    def _mounts(self) -> str:
        return "".join(
            f"{source} {_escaped(where)} {kind} {options} 0 0\n"
            for source, where, kind, options in self._mounted()
        )

    def _mountinfo(self) -> str:
        return "".join(
            f"{number + 21} 20 0:{number + 21} / {_escaped(where)} {options} - {kind} {source} {options}\n"
            for number, (source, where, kind, options) in enumerate(self._mounted())
        )


def _escaped(path: str) -> str:
    """As in /proc/mounts."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)


def _uuid() -> str:
    """A random one (RFC 9562, version 4). PERF: the module uuid takes a millisecond to load."""
    raw = bytearray(os.urandom(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _number(path: str) -> int:
    """An inode number for an emulated path."""
    number = 0
    for byte in os.fsencode(path):  # PERF: loading a module that has a hash takes longer
        number = (number * 31 + byte) & 0xFFFF_FFFF
    return number | 1 << 32


_INFINITY: Final = (1 << 64) - 1
_LIMITS: Final = (
    ("cpu time", "seconds"), ("file size", "bytes"), ("data size", "bytes"), ("stack size", "bytes"),
    ("core file size", "bytes"), ("resident set", "bytes"), ("processes", "processes"), ("open files", "files"),
    ("locked memory", "bytes"), ("address space", "bytes"), ("file locks", "locks"), ("pending signals", "signals"),
    ("msgqueue size", "bytes"), ("nice priority", ""), ("realtime priority", ""), ("realtime timeout", "us"),
)  # fmt: skip
"""By the number of the resource."""
_IO: Final = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes")
_SOCKETS: Final = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
)
_NET: Final = {
    "dev": "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier"
    " compressed\n    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0"
    "       0          0",
    "tcp": _SOCKETS, "udp": _SOCKETS, "tcp6": _SOCKETS, "udp6": _SOCKETS,
    "unix": "Num       RefCount Protocol Flags    Type St Inode Path",
    "route": "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
    "if_inet6": "00000000000000000000000000000001 01 80 10 80       lo",
}  # fmt: skip
"""Nothing of the host's network: the loopback interface, and no sockets."""
