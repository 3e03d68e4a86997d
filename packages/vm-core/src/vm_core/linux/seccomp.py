"""The system calls that the process of a guest may make, as a seccomp filter.

vm itself never makes most of the host's system calls. The filter is a list of those it does make; any other is ENOSYS,
as from an older kernel, so that a C library or a Python that tries a new one first goes on without it. What no program
here would ever try, and what would be worth most to an attacker, ends the process.

The filter is a program for the kernel's classic BPF machine, assembled here: numbers in a binary search, then the
arguments of the few calls where they matter. The kernel remembers which numbers are allowed whatever the arguments are,
and does not run the program for those (Linux 5.11).

Linux: Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{seccomp,bpf_common,audit}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from vm_core.hints import Final

__all__ = [
    "ALLOWED",
    "FORBIDDEN",
    "MACHINE",
    "MACHINES",
    "SAMPLED",
    "WORKER",
    "Insn",
    "assemble",
    "available",
    "install",
    "numbers",
]

# name:number on x86-64:number in asm-generic/unistd.h; "-" where there is none.
_TEXT: Final = {
    # What the interpreter, its threads and its memory need, whatever the guest does.
    "python": """
        brk:12:214 mmap:9:222 munmap:11:215 mprotect:10:226 mremap:25:216 madvise:28:233 futex:202:98
        set_robust_list:273:99 set_tid_address:218:96 rseq:334:293 sched_yield:24:124 exit:60:93 exit_group:231:94
        gettid:186:178 getpid:39:172 restart_syscall:219:128 rt_sigaction:13:134 rt_sigprocmask:14:135
        rt_sigreturn:15:139 read:0:63 write:1:64 close:3:57 fstat:5:80 lseek:8:62 getrandom:318:278
        clock_gettime:228:113 clock_nanosleep:230:115 sched_getaffinity:204:123 sysinfo:99:179 uname:63:160
        prctl:157:167 seccomp:317:277 landlock_create_ruleset:444:444 landlock_restrict_self:446:446
    """,
    # Files: the guest's, the modules of Python that are loaded late, the code cache.
    "files": """
        openat:257:56 openat2:437:437 close_range:436:436 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68
        preadv:295:69 pwritev:296:70 preadv2:327:286 pwritev2:328:287 dup2:33:- dup3:292:24 fcntl:72:25 flock:73:32
        ioctl:16:29 pipe2:293:59 sendfile:40:71 copy_file_range:326:285 splice:275:76 tee:276:77 ftruncate:77:46
        fallocate:285:47 fsync:74:82 fdatasync:75:83 fadvise64:221:223 readahead:187:213 sync_file_range:277:84
        getdents64:217:61 memfd_create:319:279 msync:26:227
    """,
    "names": """
        stat:4:- lstat:6:- newfstatat:262:79 statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439
        readlink:89:- readlinkat:267:78 getcwd:79:17 statfs:137:43 fstatfs:138:44 unlink:87:- unlinkat:263:35
        rmdir:84:- mkdir:83:- mkdirat:258:34 mknodat:259:33 rename:82:- renameat:264:38 renameat2:316:276
        linkat:265:37 symlinkat:266:36 chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 fchown:93:55
        fchownat:260:54 utimensat:280:88 getxattr:191:8 fgetxattr:193:10 setxattr:188:5 fsetxattr:190:7
        listxattr:194:11 flistxattr:196:13 removexattr:197:14 fremovexattr:199:16 inotify_init1:294:26
        inotify_add_watch:254:27 inotify_rm_watch:255:28
    """,
    "waiting": """
        poll:7:- ppoll:271:73 epoll_create1:291:20 epoll_ctl:233:21 epoll_pwait:281:22 eventfd2:290:19
        timerfd_create:283:85 timerfd_settime:286:86 timerfd_gettime:287:87 futex_waitv:449:449 gettimeofday:96:169
        time:201:- clock_getres:229:114 times:100:153 getcpu:309:168 membarrier:324:283
    """,
    # Guest processes are forked from this one; what runs LLVM is started from it.
    "processes": """
        clone:56:220 fork:57:- vfork:58:- execve:59:221 wait4:61:260 waitid:247:95 kill:62:129 tkill:200:130
        tgkill:234:131 pidfd_open:434:434 pidfd_send_signal:424:424 setpgid:109:154 getpgid:121:155 getpgrp:111:-
        getsid:124:156 setsid:112:157 getppid:110:173 getrusage:98:165 getuid:102:174 geteuid:107:175 getgid:104:176
        getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 capget:125:90 arch_prctl:158:-
        prlimit64:302:261 getpriority:140:141 setpriority:141:140 setuid:105:146 setgid:106:144 setreuid:113:145
        setregid:114:143 setresuid:117:147 setresgid:119:149 setgroups:116:159
    """,
    # Unix sockets, which vm lets the guest's own processes reach; with --net, others too.
    "sockets": """
        socket:41:198 bind:49:200 listen:50:201 connect:42:203 socketpair:53:199 accept4:288:242 getsockname:51:204
        getpeername:52:205 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212 setsockopt:54:208
        getsockopt:55:209 shutdown:48:210
    """,
    # Timers whose signals sample the process.
    "sampling": """
        timer_create:222:107 timer_settime:223:110 timer_delete:226:111
    """,
    # What the C library takes for an epoll that changes no mask.
    "machines": """
        epoll_wait:232:-
    """,
    "forbidden": """
        ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271 process_madvise:440:440 pidfd_getfd:438:438
        kcmp:312:272 mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51 move_mount:429:429 open_tree:428:428
        fsopen:430:430 fsconfig:431:431 fsmount:432:432 fspick:433:433 mount_setattr:442:442 unshare:272:97
        setns:308:268 init_module:175:105 finit_module:313:273 delete_module:176:106 kexec_load:246:104
        kexec_file_load:320:294 reboot:169:142 swapon:167:224 swapoff:168:225 acct:163:89 quotactl:179:60
        quotactl_fd:443:443 settimeofday:164:170 clock_settime:227:112 clock_adjtime:305:266 adjtimex:159:171
        sethostname:170:161 setdomainname:171:162 iopl:172:- ioperm:173:- modify_ldt:154:- bpf:321:280
        perf_event_open:298:241 userfaultfd:323:282 keyctl:250:219 add_key:248:217 request_key:249:218
        io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427 name_to_handle_at:303:264
        open_by_handle_at:304:265 fanotify_init:300:262 fanotify_mark:301:263 syslog:103:116 vhangup:153:58
        personality:135:92
    """,
}
_NUMBERS: Final = {
    name: (x86, generic)
    for text in _TEXT.values()
    for name, x86, generic in (entry.split(":") for entry in text.split())
}


def _names(*groups: str) -> frozenset[str]:
    return frozenset(entry.partition(":")[0] for group in groups for entry in _TEXT[group].split())


ALLOWED: Final = _names("python", "files", "names", "waiting", "processes", "sockets")
"""What a guest's process may call."""
SAMPLED: Final = ALLOWED | _names("sampling")
"""What it may call while vm profile samples it."""
ADDRESSED: Final = frozenset({"socket", "bind", "listen", "connect"})
"""What makes a socket that strangers can be reached with."""
FORBIDDEN: Final = _names("forbidden")
"""What ends the process: no part of vm calls them, and an attacker would."""
WORKER: Final = _names("python")
"""What a process that only runs LLVM may call, once LLVM is loaded."""
MACHINE: Final = WORKER | _names("machines") | {
    "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "fsync", "fdatasync", "fcntl", "ioctl",
    "openat", "getdents64", "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getcwd", "poll", "ppoll", "epoll_ctl", "epoll_pwait", "clone", "kill", "tgkill",
    "getuid", "geteuid", "getgid", "getegid", "gettimeofday", "clock_getres",
}  # fmt: skip
"""What the process of a whole machine may call: its disks, consoles and KVM are open, and Python loads a module now and then."""

MACHINES: Final = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1), "riscv64": (0xC000_00F3, 1)}
"""AUDIT_ARCH_* of a host, and which of a name's numbers is its own."""

KILL: Final = 0x8000_0000
ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_ELSE: Final = _ERRNO | errno.ENOSYS

# Offsets in struct seccomp_data. Arguments are 64 bits; their low half comes first on every host here.
_NR, _ARCH, _ARGS = 0, 4, 16
# Instructions: the accumulator is the only register used.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06

_IOCTLS: Final = (
    0x5401, 0x5402, 0x5403, 0x5404,  # TCGETS, TCSETS, TCSETSW, TCSETSF
    0x5409, 0x540A, 0x540B, 0x5425,  # TCSBRK, TCXONC, TCFLSH, TCSBRKP
    0x540E, 0x540F, 0x5410, 0x5422, 0x5429,  # TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCNOTTY, TIOCGSID
    0x5411, 0x5413, 0x5414, 0x541B, 0x5421,  # TIOCOUTQ, TIOCGWINSZ, TIOCSWINSZ, FIONREAD, FIONBIO
    0x5450, 0x5451, 0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D,  # FIONCLEX, FIOCLEX, TCGETS2, TCSETS2 and so on
    0x540C, 0x540D, 0x5420, 0x5424, 0x5441, 0x80045430, 0x40045431,  # TIOCEXCL, NXCL, PKT, GETD, GPTPEER, GPTN, SPTLCK
    0x80045438, 0x80045439, 0x80045440, 0x40049409,  # TIOCGPKT, GPTLCK, GEXCL, FICLONE
)  # fmt: skip
"""Never TIOCSTI, by which a guest could type commands into the shell that vm was started from."""
_NET_IOCTLS: Final = (
    0x8905, 0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891B, 0x8921, 0x8927, 0x8933,
)  # fmt: skip
"""SIOCATMARK and what the interfaces are: SIOCGIF*."""
_PRCTLS: Final = (1, 2, 3, 4, 15, 16, 21, 22, 23, 36, 37, 38, 39, 65, 66, 0x53564D41)
"""PDEATHSIG, DUMPABLE, NAME, SECCOMP, CAPBSET_READ, CHILD_SUBREAPER, NO_NEW_PRIVS, MDWE, VMA: set and get."""
_NAMESPACES: Final = 0x7E02_0000
"""The CLONE_NEW* flags of clone."""
_THREAD: Final = 0x0001_0000
"""CLONE_THREAD."""
_WRITES: Final = 0o1103
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC."""
_UNIX: Final = (1,)
_FAMILIES: Final = (1, 2, 10, 16)
"""AF_UNIX; with ``--net`` AF_INET, AF_INET6 and AF_NETLINK too."""

Insn = tuple[int, int, int, int]
"""(code, jump if true, jump if false, constant), as in struct sock_filter."""


def numbers(names: Iterable[str], machine: str) -> dict[str, int]:
    """The system call numbers of those names that the machine has."""
    column = MACHINES[machine][1]
    return {name: int(_NUMBERS[name][column]) for name in names if _NUMBERS[name][column] != "-"}


def _one_of(argument: int, values: Iterable[int], otherwise: int) -> list[Insn]:
    """Allow the call if the low half of an argument is one of the values."""
    found = list(values)
    out: list[Insn] = [(_LOAD, 0, 0, _ARGS + 8 * argument)]
    out += [(_EQUAL, len(found) - index, 0, value) for index, value in enumerate(found)]
    return [*out, (_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, ALLOW)]


def _checks(
    names: Iterable[str], *, net: bool, ioctls: Iterable[int] = (), alone: int | None = None
) -> dict[str, list[Insn]]:
    """Those of the calls that are allowed only with some arguments, and the instructions that decide."""
    checks = {
        "ioctl": _one_of(1, (*ioctls, *_IOCTLS, *(_NET_IOCTLS if net else ())), _ERRNO | errno.ENOTTY),
        "prctl": _one_of(0, _PRCTLS, _ERRNO | errno.EINVAL),
        # Limits of another process of the same user are not the guest's to set.
        "prlimit64": _one_of(0, (0,), _ERRNO | errno.EPERM),
        "socket": _one_of(0, _FAMILIES, _ERRNO | errno.EAFNOSUPPORT)
        if net
        else _one_of(0, _UNIX, _ERRNO | errno.EACCES),
        # Only the calling thread's own.
        "setpriority": _one_of(1, (0,), _ERRNO | errno.EPERM),
        # clone3 has its flags in memory, where a filter cannot see them: it is ENOSYS, and the C library takes clone.
        "clone": [
            (_LOAD, 0, 0, _ARGS),
            (_ANY_BIT, 0, 1, _NAMESPACES),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, ALLOW),
        ],
    }
    if alone is not None:
        checks["kill"] = checks["tgkill"] = _one_of(0, (alone,), _ERRNO | errno.EPERM)
        checks["clone"] = [
            (_LOAD, 0, 0, _ARGS),
            (_ANY_BIT, 1, 0, _THREAD),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_ANY_BIT, 0, 1, _NAMESPACES),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, ALLOW),
        ]
        checks["openat"] = [
            (_LOAD, 0, 0, _ARGS + 16),
            (_ANY_BIT, 0, 1, _WRITES),
            (_RETURN, 0, 0, _ERRNO | errno.EACCES),
            (_RETURN, 0, 0, ALLOW),
        ]
    return {name: checks[name] for name in checks if name in names}


def assemble(
    names: Iterable[str],
    machine: str,
    *,
    net: bool = False,
    unix: bool = True,
    ioctls: Iterable[int] = (),
    alone: int | None = None,
) -> list[Insn]:
    """The filter that allows ``names`` on a machine of MACHINES: with ``net``, all sockets that vm has a use for, else those
    that have a path, and without ``unix`` only pairs. A path in an address is where a filter cannot see it.
    ``ioctls`` are further requests, for descriptors that an engine has open. ``alone``, the process's own number: it makes threads,
    no processes, sends signals to itself only, and opens files for reading only."""
    names = frozenset(names)
    if not net and not unix:
        names -= ADDRESSED
    audit, _ = MACHINES[machine]
    checks = _checks(names, net=net, ioctls=ioctls, alone=alone)
    # First what may come often (the others are cached by the kernel), then the search.
    out: list[Insn] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        out += [(_AT_LEAST, 0, 1, 0x4000_0000), (_RETURN, 0, 0, KILL)]  # x32, which has other numbers
    for name, number in numbers(checks, machine).items():
        body = checks[name]
        out += [(_EQUAL, 0, len(body), number), *body]
    verdicts = dict.fromkeys(numbers(FORBIDDEN, machine).values(), KILL)
    verdicts |= dict.fromkeys(numbers(ADDRESSED, machine).values(), _ERRNO | errno.EACCES)
    verdicts |= dict.fromkeys(numbers(names - checks.keys(), machine).values(), ALLOW)
    return out + _search(_ranges(verdicts))


def _ranges(verdicts: dict[int, int]) -> list[tuple[int, int]]:
    """(first number, verdict) of ranges that follow each other, from 0 up."""
    out = [(0, verdicts.get(0, _ELSE))]
    for number in sorted({at + step for at in verdicts for step in (0, 1)}):
        verdict = verdicts.get(number, _ELSE)
        if verdict != out[-1][1]:
            out.append((number, verdict))
    return out


def _search(ranges: list[tuple[int, int]]) -> list[Insn]:
    """A binary search for the range that the accumulator is in."""
    if len(ranges) == 1:
        return [(_RETURN, 0, 0, ranges[0][1])]
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    if len(low) < 256:
        return [(_AT_LEAST, len(low), 0, ranges[middle][0]), *low, *high]
    return [(_AT_LEAST, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(low)), *low, *high]


def pack(program: Iterable[Insn]) -> bytes:
    """The instructions as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *insn) for insn in program)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_SET_MODE_FILTER, _GET_ACTION_AVAIL, _TSYNC, _SPEC_ALLOW = 1, 2, 1, 4
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _seccomp(operation: int, flags: int, argument: object) -> int:
    """seccomp(2); the result, or -errno."""
    number = numbers(("seccomp",), os.uname().machine)["seccomp"]
    # SAFETY: the callers hand a pointer to a structure of theirs that outlives the call; the kernel only reads it.
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_uint(operation), ctypes.c_uint(flags), argument)
    return int(result) if result >= 0 else -ctypes.get_errno()


def available() -> bool:
    """Whether this kernel has filters that can end a process (Linux 4.14) and vm knows the machine's numbers."""
    if os.uname().sysname != "Linux" or os.uname().machine not in MACHINES:
        return False
    action = ctypes.c_uint32(KILL)
    return _seccomp(_GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0


def install(program: Iterable[Insn]) -> int:
    """Put the filter on all threads of this process, for ever. Returns 0 or -errno; no_new_privs must be set."""
    raw = pack(program)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    fprog = _Program(len(raw) // 8, ctypes.addressof(buffer))
    # Before Linux 5.16 a filter turns two mitigations on, of speculative store bypass and of indirect branches between threads, and what
    # runs behind it is slower. Later kernels leave that to the administrator, as we do: side channels are not promised
    # (docs/security.md). The flag is of Linux 4.17.
    result = _seccomp(_SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, ctypes.byref(fprog))
    if result == -errno.EINVAL:
        result = _seccomp(_SET_MODE_FILTER, _TSYNC, ctypes.byref(fprog))
    # A positive number is the thread that has a filter of its own which is not an ancestor of this one.
    return -errno.EBUSY if result > 0 else result
