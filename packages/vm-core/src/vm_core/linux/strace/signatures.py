"""What the arguments of each system call are, for a tracer; also of those that vm does not have.

A signature has a word for each argument that is shown: the name of a decoder (values.py, structs.py, sockets.py) with its
parameter in parentheses, and before it:

* ``N:``  the argument with that index, and not the next one;
* ``>``   shown after the call: a pointer to what the call writes, which is the bare pointer when the call fails;
* ``>>``  shown after the call, whatever became of it;
* ``?``   it may be left out (the decoder gives None);
* ``+``   joined to what stands before it.

``=WORD`` at the end says how the result is shown, where that is no plain number.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, NamedTuple

from vm_core.linux.strace import sockets, structs  # noqa: F401 - their decoders
from vm_core.linux.strace.values import DECODERS, RESULTS, Decoder

__all__ = ["CLASSES", "SIGNATURES", "Signature", "Word", "signature_of"]


class Word(NamedTuple):
    """One argument that is shown."""

    at: int
    decode: Decoder
    parameter: str
    after: bool
    always: bool
    optional: bool
    joined: bool


class Signature(NamedTuple):
    """The words of a call, how many argument registers they read, and how its result is shown (empty: as a number)."""

    words: tuple[Word, ...]
    arity: int
    result: str


# fmt: off
SIGNATURES: Final[dict[str, str]] = {
    # memory
    "brk": "ptr =hex",
    "mmap": "ptr ulong flags(prot) mapflags fd hex =hex",
    "munmap": "ptr ulong",
    "mprotect": "ptr ulong flags(prot)",
    "pkey_mprotect": "ptr ulong flags(prot) int",
    "pkey_alloc": "uint hex", "pkey_free": "int",
    "mremap": "ptr ulong ulong flags(mremap) ?newaddress =hex",
    "madvise": "ptr ulong enum(madvise)",
    "process_madvise": "fd iovecs(2) ulong enum(madvise) hex32",
    "msync": "ptr ulong flags(msync)",
    "mincore": "ptr ulong >residency",
    "mlock": "ptr ulong", "munlock": "ptr ulong", "mlock2": "ptr ulong flags(mlock2)",
    "mlockall": "flags(mlockall)", "munlockall": "",
    "remap_file_pages": "ptr ulong flags(prot) ulong mapflags",
    "mbind": "ptr ulong hex32 ptr ulong hex32", "get_mempolicy": "ptr ptr ulong ptr hex32",
    "set_mempolicy": "hex32 ptr ulong", "membarrier": "enum(membarrier) flags(membarrier_flags) int",
    "shmget": "hex32 ulong hex32", "shmat": "int ptr hex32 =hex", "shmdt": "ptr", "shmctl": "int hex32 ptr",
    "userfaultfd": "pipeflags", "memfd_create": "str flags(memfd)", "memfd_secret": "hex32",
    # files
    "open": "path oflags ?openmode(1)", "openat": "dfd path oflags ?openmode(2)", "openat2": "dfd path openhow ulong",
    "creat": "path mode", "close": "fd", "close_range": "uint uint flags(close_range)",
    "read": "fd >data(ret) ulong", "write": "fd data(2) ulong",
    "readv": "fd >>riovec(2) int", "writev": "fd iovec(2) int",
    "pread64": "fd >data(ret) ulong long", "pwrite64": "fd data(2) ulong long",
    "preadv": "fd >>riovec(2) int long", "pwritev": "fd iovec(2) int long",
    "preadv2": "fd >>riovec(2) int 3:long 5:flags(rwf)", "pwritev2": "fd iovec(2) int 3:long 5:flags(rwf)",
    "lseek": "fd long enum(whence)",
    "sendfile": "fd fd plong ulong", "copy_file_range": "fd plong fd plong ulong hex32",
    "splice": "fd plong fd plong ulong flags(splice)", "tee": "fd fd ulong flags(splice)",
    "vmsplice": "fd iovec(2) ulong flags(splice)",
    "dup": "fd", "dup2": "fd fd", "dup3": "fd fd dupflags", "pipe": ">pair", "pipe2": ">pair pipeflags",
    "eventfd": "uint", "eventfd2": "uint flags(eventfd)",
    "fcntl": "fd enum(fcntl) ?>>fcntlarg =fcntl", "flock": "fd flags(flock)", "ioctl": "fd ioctl ?>>ioctlarg",
    "getdents64": "fd >dirents ulong",
    "fstat": "fd >stat", "newfstatat": "dfd path >stat flags(at)", "stat": "path >stat", "lstat": "path >stat",
    "statx": "dfd path statxsync flags(statx) >statx",
    "readlinkat": "dfd path >data(ret) ulong", "readlink": "path >data(ret) ulong",
    "faccessat": "dfd path flags(access)", "faccessat2": "dfd path flags(access) flags(at_access)",
    "access": "path flags(access)",
    "getcwd": ">path ulong", "chdir": "path", "fchdir": "fd", "chroot": "path",
    "unlinkat": "dfd path flags(at)", "unlink": "path", "rmdir": "path",
    "mkdirat": "dfd path mode", "mkdir": "path mode", "mknodat": "dfd path filemode ?dev", "mknod": "path filemode ?dev",
    "renameat": "dfd path dfd path", "renameat2": "dfd path dfd path flags(rename)", "rename": "path path",
    "linkat": "dfd path dfd path flags(at)", "link": "path path", "symlinkat": "path dfd path", "symlink": "path path",
    "ftruncate": "fd long", "truncate": "path long", "fallocate": "fd flags(fallocate) long long",
    "utimensat": "dfd path utimes flags(at)", "futimesat": "dfd path ptr", "utime": "path ptr", "utimes": "path ptr",
    "fchmod": "fd mode", "fchmodat": "dfd path mode", "fchmodat2": "dfd path mode flags(at)", "chmod": "path mode",
    "fchown": "fd id id", "fchownat": "dfd path id id flags(at)", "chown": "path id id", "lchown": "path id id",
    "fsync": "fd", "fdatasync": "fd", "sync": "", "syncfs": "fd", "fadvise64": "fd long long enum(fadvise)",
    "readahead": "fd long ulong", "sync_file_range": "fd long long hex32",
    "statfs": "path >statfs", "fstatfs": "fd >statfs", "umask": "mode =mode",
    "setxattr": "path str data(3) ulong flags(xattr)", "lsetxattr": "path str data(3) ulong flags(xattr)",
    "fsetxattr": "fd str data(3) ulong flags(xattr)",
    "getxattr": "path str >data(ret) ulong", "lgetxattr": "path str >data(ret) ulong", "fgetxattr": "fd str >data(ret) ulong",
    "listxattr": "path >data(ret) ulong", "llistxattr": "path >data(ret) ulong", "flistxattr": "fd >data(ret) ulong",
    "removexattr": "path str", "lremovexattr": "path str", "fremovexattr": "fd str",
    "inotify_init": "", "inotify_init1": "flags(inotify_init)", "inotify_add_watch": "fd path flags(inotify)",
    "inotify_rm_watch": "fd int",
    "mount": "path path str hex ptr", "umount2": "path hex32", "pivot_root": "path path", "swapon": "path hex32",
    "swapoff": "path", "quotactl": "hex32 path int ptr", "acct": "path", "name_to_handle_at": "dfd path ptr ptr hex32",
    "open_by_handle_at": "fd ptr oflags", "fanotify_init": "hex32 hex32", "fanotify_mark": "fd hex32 hex dfd path",
    "io_setup": "uint phex", "io_destroy": "hex", "io_submit": "hex long ptr", "io_cancel": "hex ptr ptr",
    "io_getevents": "hex long long ptr timespec", "io_pgetevents": "hex long long ptr timespec ptr",
    "io_uring_setup": "uint ptr", "io_uring_enter": "fd uint uint hex32 sigset ulong", "io_uring_register": "fd hex32 ptr uint",
    # waiting for files
    "poll": "pollfds(1) uint int =poll", "ppoll": "pollfds(1) uint timespec sigset ulong =poll",
    "select": "int fdset fdset fdset timeval =select", "pselect6": "int fdset fdset fdset timespec maskptr =select",
    "epoll_create": "int", "epoll_create1": "flags(epoll_create)", "epoll_ctl": "fd enum(epoll_op) fd epollevent",
    "epoll_wait": "fd >epollevents(ret) int int", "epoll_pwait": "fd >epollevents(ret) int int sigset ulong",
    "epoll_pwait2": "fd >epollevents(ret) int timespec sigset ulong",
    "timerfd_create": "enum(clock) flags(timerfd)", "timerfd_settime": "fd flags(timerfd_set) itimerspec >itimerspec",
    "timerfd_gettime": "fd >itimerspec",
    "signalfd": "fd sigset ulong", "signalfd4": "fd sigset ulong flags(signalfd)",
    # time
    "clock_gettime": "enum(clock) >timespec", "clock_getres": "enum(clock) >timespec", "clock_settime": "enum(clock) timespec",
    "clock_adjtime": "enum(clock) ptr", "adjtimex": "ptr",
    "gettimeofday": ">timeval >timezone", "settimeofday": "timeval timezone", "time": ">plong", "times": ">tms",
    "nanosleep": "timespec >>remainder", "clock_nanosleep": "enum(clock) flags(timer) timespec >>remainder",
    "setitimer": "enum(itimer) itimerval >itimerval", "getitimer": "enum(itimer) >itimerval", "alarm": "uint",
    "timer_create": "enum(clock) sigevent >pint", "timer_settime": "int flags(timer) itimerspec >itimerspec",
    "timer_gettime": "int >itimerspec", "timer_getoverrun": "int", "timer_delete": "int",
    # threads and processes
    "clone": "1:childstack 0:cloneflags ?>>2:parenttid ?>>3:tlspart ?>>4:childtid",
    "clone3": "cloneargs ?>>+0:cloneafter 1:ulong",
    "fork": "", "vfork": "", "execve": "path words environment", "execveat": "dfd path words environment flags(at)",
    "wait4": "int >>waitstatus flags(wait) >rusage", "waitid": "enum(waitid) int >siginfo flags(waitid_options) >rusage",
    "pidfd_open": "int flags(pidfd)", "pidfd_send_signal": "fd sig siginfo hex32", "pidfd_getfd": "fd int hex32",
    "exit": "int", "exit_group": "int",
    "futex": "ptr futexop ?futexvalue ?futexfourth ?futexsecond ?futexlast",
    "futex_waitv": "ptr uint hex32 timespec enum(clock)", "futex_wake": "ptr hex hex32 hex32",
    "futex_wait": "ptr ulong hex hex32 timespec enum(clock)", "futex_requeue": "ptr hex32 int int",
    "set_robust_list": "ptr ulong", "get_robust_list": "int >phex >plong", "set_tid_address": "ptr",
    "rseq": "ptr hex32 flags(rseq) hex32",
    "sched_yield": "", "sched_getaffinity": "int ulong >cpus(ret)", "sched_setaffinity": "int ulong cpus(1)",
    "sched_getparam": "int >schedparam", "sched_setparam": "int schedparam", "sched_getscheduler": "int",
    "sched_setscheduler": "int enum(policy) schedparam", "sched_get_priority_max": "enum(policy)",
    "sched_get_priority_min": "enum(policy)", "sched_rr_get_interval": "int >timespec", "sched_setattr": "int ptr hex32",
    "sched_getattr": "int ptr uint hex32",
    "getpriority": "enum(priority) int", "setpriority": "enum(priority) int int", "ioprio_get": "int int",
    "ioprio_set": "int int hex32", "getcpu": ">puint >puint 2:ptr",
    "unshare": "flags(unshare)", "setns": "fd flags(unshare)", "kcmp": "int int enum(kcmp) hex hex",
    "ptrace": "hex int ptr ptr", "process_vm_readv": "int iovecs(2) ulong iovecs(4) ulong hex",
    "process_vm_writev": "int iovecs(2) ulong iovecs(4) ulong hex", "seccomp": "hex32 hex32 ptr", "bpf": "hex32 ptr uint",
    "perf_event_open": "ptr int int fd hex",
    # signals
    "rt_sigaction": "sig sigaction >sigaction ulong", "rt_sigprocmask": "enum(sigprocmask) sigset >sigset ulong",
    "rt_sigreturn": "0:sigframe", "rt_sigpending": ">sigset ulong", "rt_sigtimedwait": "sigset >siginfo timespec ulong =signal",
    "rt_sigsuspend": "sigset ulong", "rt_sigqueueinfo": "int sig siginfo", "rt_tgsigqueueinfo": "int int sig siginfo",
    "sigaltstack": "stack >stack", "pause": "", "kill": "int sig", "tkill": "int sig", "tgkill": "int int sig",
    "restart_syscall": "",
    # identity and limits
    "getpid": "", "getppid": "", "gettid": "", "getuid": "", "geteuid": "", "getgid": "", "getegid": "",
    "setuid": "id", "setgid": "id", "setreuid": "id id", "setregid": "id id", "setresuid": "id id id", "setresgid": "id id id",
    "getresuid": ">puint >puint >puint", "getresgid": ">puint >puint >puint", "setfsuid": "id", "setfsgid": "id",
    "getgroups": "int >groups(ret)", "setgroups": "int groups(0)",
    "getpgid": "int", "getpgrp": "", "setpgid": "int int", "getsid": "int", "setsid": "", "capget": "ptr ptr", "capset": "ptr ptr",
    "uname": ">utsname", "sethostname": "data(1) ulong", "setdomainname": "data(1) ulong", "personality": "hex32 =hex",
    "prctl": "enum(prctl) ?>>prctlarg(1) ?>>prctlarg(2) ?>>prctlarg(3) ?>>prctlarg(4) =prctl",
    "arch_prctl": "enum(arch_prctl) hex",
    "prlimit64": "int enum(resource) rlimit(RLIM64_INFINITY) >rlimit(RLIM64_INFINITY)",
    "getrlimit": "enum(resource) >rlimit(RLIM_INFINITY)", "setrlimit": "enum(resource) rlimit(RLIM_INFINITY)",
    "getrusage": "enum(usage) >rusage", "sysinfo": ">sysinfo", "getrandom": ">bytes(ret) ulong flags(getrandom)",
    "riscv_hwprobe": ">hwprobe(1) ulong ulong ptr flags(hwprobe)", "riscv_flush_icache": "ptr ptr flags(icache)",
    "reboot": "hex32 hex32 hex32 ptr", "syslog": "int ptr int", "vhangup": "", "kexec_load": "ptr ulong ptr hex",
    "init_module": "ptr ulong str", "finit_module": "fd str hex32", "delete_module": "str hex32",
    "add_key": "str str data(3) ulong int", "request_key": "str str str int", "keyctl": "int hex hex hex hex",
    "landlock_create_ruleset": "ptr ulong hex32", "landlock_add_rule": "fd int ptr hex32", "landlock_restrict_self": "fd hex32",
    # message queues and semaphores
    "mq_open": "str oflags ?openmode(1) ptr", "mq_unlink": "str", "mq_timedsend": "fd data(2) ulong uint timespec",
    "mq_timedreceive": "fd >data(ret) ulong ptr timespec", "mq_notify": "fd sigevent", "mq_getsetattr": "fd ptr ptr",
    "msgget": "hex32 hex32", "msgctl": "int hex32 ptr", "msgrcv": "int ptr ulong long hex32", "msgsnd": "int ptr ulong hex32",
    "semget": "hex32 int hex32", "semctl": "int int hex32 ptr", "semop": "int ptr ulong", "semtimedop": "int ptr ulong timespec",
    # network
    "socket": "enum(family) sockettype protocol", "socketpair": "enum(family) sockettype protocol >pair",
    "bind": "fd sockaddr(2) int", "listen": "fd int", "connect": "fd sockaddr(2) int",
    "accept": "fd ?2:keeplen >>1:peer(2) >>addrlen", "accept4": "fd ?2:keeplen >>1:peer(2) >>addrlen flags(sock)",
    "getsockname": "fd ?2:keeplen >>1:peer(2) >>addrlen", "getpeername": "fd ?2:keeplen >>1:peer(2) >>addrlen",
    "sendto": "fd data(2) ulong flags(msg) sockaddr(5) uint",
    "recvfrom": "fd ?5:keeplen >1:data(ret) ulong flags(msg) >>peer(5) >>addrlen",
    "setsockopt": "fd enum(level) sockopt optval(4) int",
    "getsockopt": "fd enum(level) sockopt ?4:keeplen >>3:optval(*4) >>addrlen",
    "shutdown": "fd enum(shutdown)", "sendmsg": "fd msghdr flags(msg)", "recvmsg": "fd ?1:keepname >>1:received flags(msg)",
    "sendmmsg": "fd mmsghdrs(2) uint flags(msg)", "recvmmsg": "fd >mmsghdrs(ret) uint flags(msg) timespec",
}
# fmt: on


_WORD: Final = re.compile(r"([?>+]*)(?:(\d):)?([a-z0-9_]+)(?:\(([^)]*)\))?$")


@cache
def signature_of(name: str, words: str = "") -> Signature:
    """The signature of a call by its name; ``words`` (a row's args in table.py) stand in for one that is missing."""
    text = SIGNATURES.get(name)
    if text is None:
        text = " ".join(_PLAIN.get(word, word) for word in words.split())
    out: list[Word] = []
    text, _, result = text.partition("=")
    following = arity = 0
    for word in text.split():
        found = _WORD.match(word)
        assert found is not None, word
        marks, index, decode, parameter = found.groups()
        at = int(index) if index else following
        following = at + 1
        arity = max(arity, following)
        out.append(
            Word(
                at,
                DECODERS[decode],
                parameter or "",
                after=">" in marks,
                always=">>" in marks,
                optional="?" in marks,
                joined="+" in marks,
            )
        )
    assert not result or result in RESULTS, result
    return Signature(tuple(out), arity, result)


_PLAIN: Final = {
    "oct": "mode", "prot": "flags(prot)", "mflags": "mapflags", "clock": "enum(clock)", "futex": "futexop",
    "whence": "enum(whence)", "buf": "ptr", "uint": "ulong",
}  # fmt: skip
"""What the words of table.py are here."""


# -- classes for filters ------------------------------------------------------------------------------------------


def _having(*decoders: str) -> frozenset[str]:
    pattern = re.compile(rf"(?:^|[ >:?])(?:{'|'.join(decoders)})(?:\(|\s|$)")
    return frozenset(name for name, text in SIGNATURES.items() if pattern.search(text))


# fmt: off
CLASSES: Final[dict[str, frozenset[str]]] = {
    "all": frozenset(SIGNATURES),
    "file": _having("path"),
    "desc": _having("fd", "dfd", "pair", "pollfds", "fdset") | {
        "open", "creat", "socket", "epoll_create", "epoll_create1", "eventfd", "eventfd2", "timerfd_create", "memfd_create",
        "inotify_init", "inotify_init1", "pidfd_open", "userfaultfd", "io_uring_setup", "fanotify_init", "mq_open"},
    "memory": frozenset({
        "brk", "mmap", "munmap", "mprotect", "pkey_mprotect", "mremap", "madvise", "msync", "mincore", "mlock", "munlock",
        "mlock2", "mlockall", "munlockall", "remap_file_pages", "mbind", "get_mempolicy", "set_mempolicy", "shmat", "shmdt",
        "process_madvise", "migrate_pages", "move_pages", "riscv_flush_icache"}),
    "network": frozenset({
        "socket", "socketpair", "bind", "listen", "connect", "accept", "accept4", "getsockname", "getpeername", "sendto",
        "recvfrom", "setsockopt", "getsockopt", "shutdown", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "sendfile"}),
    "process": frozenset({
        "clone", "clone3", "fork", "vfork", "execve", "execveat", "wait4", "waitid", "exit", "exit_group", "kill", "tkill",
        "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal", "arch_prctl", "unshare"}),
    "signal": frozenset({
        "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend",
        "rt_sigqueueinfo", "rt_tgsigqueueinfo", "sigaltstack", "pause", "kill", "tkill", "tgkill", "signalfd", "signalfd4",
        "pidfd_send_signal"}),
    "ipc": frozenset({
        "shmget", "shmat", "shmdt", "shmctl", "msgget", "msgctl", "msgrcv", "msgsnd", "semget", "semctl", "semop",
        "semtimedop"}),
    "stat": frozenset({"stat", "statx", "newfstatat", "fstat", "lstat"}),
    "statfs": frozenset({"statfs", "fstatfs"}),
    "clock": frozenset({
        "clock_gettime", "clock_getres", "clock_settime", "clock_adjtime", "adjtimex", "gettimeofday", "settimeofday",
        "time"}),
    "creds": frozenset({
        "getuid", "geteuid", "getgid", "getegid", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
        "getresuid", "getresgid", "setfsuid", "setfsgid", "getgroups", "setgroups", "capget", "capset", "prctl"}),
    "pure": frozenset({
        "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getpgrp", "getpgid", "getsid"}),
}
# fmt: on
