"""Every system call vm knows, one row each; the per-ISA dispatch and the coverage page both come from here.

``python -m vm_core.linux.table`` prints the page, ``--check FILE`` compares it with one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from operator import itemgetter

from vm_core.hints import TYPE_CHECKING, Final, NamedTuple
from vm_core.linux import (
    files,
    futex,
    limits,
    metadata,
    mmap,
    poll,
    signal,
    system,
    time,
)
from vm_core.linux.abi import Abi, abi_of

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread
    from vm_core.state import StateLayout

__all__ = ["ROWS", "Row", "bind", "bound", "main", "markdown"]

Handler = Callable[..., "int | None"]
Entry = tuple[Handler, Callable[..., tuple[int, ...]], "Row"]

OK, PARTIAL, IGNORED, ABSENT = "implemented", "partial", "ignored", "absent"


class Row(NamedTuple):
    """One call. ``generic`` is its number on riscv64 and aarch64, ``x86_64`` there; None where it does not exist.

    ``args`` has one word an argument, which says what it is (strace's signatures, which say more, go before it): fd dfd path str ptr buf int uint oct hex
    oflags prot mflags sig clock futex whence.
    """

    name: str
    generic: int | None
    x86_64: int | None
    handler: Handler | None
    args: str = ""
    status: str = OK
    note: str = ""
    only: str = ""

    @property
    def arity(self) -> int:
        return len(self.args.split())

    def number(self, abi: Abi) -> int | None:
        if self.only and self.only != abi.isa:
            return None
        return self.x86_64 if abi.column == "x86_64" else self.generic


class _Late:
    """A handler of a module that is loaded by the first program that needs it."""

    __slots__ = ("_handler", "_module", "_name")

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._handler: Handler | None = None

    def found(self) -> Handler:
        if self._handler is None:
            self._handler = getattr(import_module(f"vm_core.linux.{self._module}"), self._name)
        return self._handler

    def __call__(self, t: GuestThread, *args: int) -> int | None:
        return (self._handler or self.found())(t, *args)


def _late(module: str, name: str) -> Handler:
    return _Late(module, name)


def _net(name: str) -> Handler:
    return _late("net", name)


# fmt: off
ROWS: Final[tuple[Row, ...]] = (
    # memory
    Row("brk", 214, 12, mmap.brk, "ptr"),
    Row("mmap", 222, 9, mmap.mmap, "ptr uint prot mflags fd hex", PARTIAL,
        "a shared file mapping reaches its file at msync, munmap and exit"),
    Row("munmap", 215, 11, mmap.munmap, "ptr uint"),
    Row("mprotect", 226, 10, mmap.mprotect, "ptr uint prot"),
    Row("pkey_mprotect", 288, 329, mmap.pkey_mprotect, "ptr uint prot int", PARTIAL, "no keys, as on a CPU without them"),
    Row("pkey_alloc", 289, 330, mmap.pkey_alloc, "uint uint", PARTIAL, "no keys, as on a CPU without them"),
    Row("pkey_free", 290, 331, mmap.pkey_free, "int", PARTIAL, "no keys, as on a CPU without them"),
    Row("mremap", 216, 25, mmap.mremap, "ptr uint uint hex ptr", PARTIAL, "no MREMAP_DONTUNMAP"),
    Row("madvise", 233, 28, mmap.madvise, "ptr uint int", PARTIAL, "DONTNEED acts, WIPEONFORK is refused, other advice is accepted"),
    Row("msync", 227, 26, mmap.msync, "ptr uint hex"),
    Row("mincore", 232, 27, mmap.mincore, "ptr uint ptr", PARTIAL, "every mapped page is resident"),
    Row("mlock", 228, 149, mmap.mlock, "ptr uint", IGNORED),
    Row("munlock", 229, 150, mmap.mlock, "ptr uint", IGNORED),
    Row("mlock2", 284, 325, mmap.mlock2, "ptr uint hex", IGNORED),
    Row("mlockall", 230, 151, mmap.mlockall, "hex", IGNORED),
    Row("munlockall", 231, 152, system.sched_zero, "", IGNORED),
    # files
    Row("openat", 56, 257, files.openat, "dfd path oflags oct", PARTIAL, "no O_DIRECT"),
    Row("openat2", 437, 437, files.openat2, "dfd path ptr uint", PARTIAL, "without resolve flags; with them EAGAIN"),
    Row("open", None, 2, files.open_, "path oflags oct"),
    Row("creat", None, 85, files.creat, "path oct"),
    Row("close", 57, 3, files.close, "fd"),
    Row("close_range", 436, 436, files.close_range, "fd fd hex"),
    Row("read", 63, 0, files.read, "fd ptr uint"),
    Row("write", 64, 1, files.write, "fd buf uint"),
    Row("readv", 65, 19, files.readv, "fd ptr int"),
    Row("writev", 66, 20, files.writev, "fd ptr int"),
    Row("pread64", 67, 17, files.pread64, "fd ptr uint int"),
    Row("pwrite64", 68, 18, files.pwrite64, "fd buf uint int"),
    Row("preadv", 69, 295, files.preadv, "fd ptr int int int"),
    Row("pwritev", 70, 296, files.pwritev, "fd ptr int int int"),
    Row("lseek", 62, 8, files.lseek, "fd int whence"),
    Row("sendfile", 71, 40, _late("splice", "sendfile"), "fd fd ptr uint"),
    Row("copy_file_range", 285, 326, _late("splice", "copy_file_range"), "fd ptr fd ptr uint hex"),
    Row("splice", 76, 275, _late("splice", "splice"), "fd ptr fd ptr uint hex"),
    Row("tee", 77, 276, _late("splice", "tee"), "fd fd uint hex"),
    Row("vmsplice", 75, 278, _late("splice", "vmsplice"), "fd ptr uint hex", OK, "copies"),
    Row("preadv2", 286, 327, _late("splice", "preadv2"), "fd ptr int int int hex"),
    Row("pwritev2", 287, 328, _late("splice", "pwritev2"), "fd ptr int int int hex"),
    Row("readahead", 213, 187, _late("splice", "readahead"), "fd int uint"),
    Row("sync_file_range", 84, 277, _late("splice", "sync_file_range"), "fd int int hex"),
    Row("syncfs", 267, 306, _late("splice", "syncfs"), "fd", IGNORED),
    Row("getxattr", 8, 191, _late("splice", "getxattr"), "path path ptr uint", PARTIAL, "user.* and POSIX ACLs"),
    Row("lgetxattr", 9, 192, _late("splice", "lgetxattr"), "path path ptr uint", PARTIAL, "as getxattr"),
    Row("fgetxattr", 10, 193, _late("splice", "fgetxattr"), "fd path ptr uint", PARTIAL, "as getxattr"),
    Row("setxattr", 5, 188, _late("splice", "setxattr"), "path path ptr uint hex", PARTIAL, "as getxattr; else EPERM"),
    Row("lsetxattr", 6, 189, _late("splice", "lsetxattr"), "path path ptr uint hex", PARTIAL, "as setxattr"),
    Row("fsetxattr", 7, 190, _late("splice", "fsetxattr"), "fd path ptr uint hex", PARTIAL, "as setxattr"),
    Row("listxattr", 11, 194, _late("splice", "listxattr"), "path ptr uint", PARTIAL, "as getxattr"),
    Row("llistxattr", 12, 195, _late("splice", "llistxattr"), "path ptr uint", PARTIAL, "as getxattr"),
    Row("flistxattr", 13, 196, _late("splice", "flistxattr"), "fd ptr uint", PARTIAL, "as getxattr"),
    Row("removexattr", 14, 197, _late("splice", "removexattr"), "path path", PARTIAL, "as setxattr"),
    Row("lremovexattr", 15, 198, _late("splice", "lremovexattr"), "path path", PARTIAL, "as setxattr"),
    Row("fremovexattr", 16, 199, _late("splice", "fremovexattr"), "fd path", PARTIAL, "as setxattr"),
    Row("dup", 23, 32, files.dup, "fd"),
    Row("dup2", None, 33, files.dup2, "fd fd"),
    Row("dup3", 24, 292, files.dup3, "fd fd oflags"),
    Row("pipe", None, 22, files.pipe, "ptr"),
    Row("pipe2", 59, 293, files.pipe2, "ptr oflags"),
    Row("memfd_create", 279, 319, files.memfd_create, "path hex"),
    Row("eventfd2", 19, 290, files.eventfd2, "uint hex"),
    Row("fcntl", 25, 72, files.fcntl_, "fd int hex", PARTIAL, "descriptors, flags, locks, pipe sizes, seals"),
    Row("flock", 32, 73, files.flock, "fd int"),
    Row("ioctl", 29, 16, files.ioctl, "fd hex ptr", PARTIAL, "terminals, FIONREAD, FIONBIO, FIOCLEX; else ENOTTY"),
    Row("getdents64", 61, 217, metadata.getdents64, "fd ptr uint"),
    Row("fstat", 80, 5, metadata.fstat, "fd ptr"),
    Row("newfstatat", 79, 262, metadata.newfstatat, "dfd path ptr hex"),
    Row("stat", None, 4, metadata.stat_, "path ptr"),
    Row("lstat", None, 6, metadata.lstat, "path ptr"),
    Row("statx", 291, 332, metadata.statx, "dfd path hex hex ptr"),
    Row("readlinkat", 78, 267, metadata.readlinkat, "dfd path ptr uint"),
    Row("readlink", None, 89, metadata.readlink, "path ptr uint"),
    Row("faccessat", 48, 269, metadata.faccessat, "dfd path oct"),
    Row("faccessat2", 439, 439, metadata.faccessat2, "dfd path oct hex"),
    Row("access", None, 21, metadata.access, "path oct"),
    Row("getcwd", 17, 79, metadata.getcwd, "ptr uint"),
    Row("chdir", 49, 80, metadata.chdir, "path"),
    Row("fchdir", 50, 81, metadata.fchdir, "fd"),
    Row("unlinkat", 35, 263, metadata.unlinkat, "dfd path hex"),
    Row("unlink", None, 87, metadata.unlink, "path"),
    Row("rmdir", None, 84, metadata.rmdir, "path"),
    Row("mkdirat", 34, 258, metadata.mkdirat, "dfd path oct"),
    Row("mkdir", None, 83, metadata.mkdir, "path oct"),
    Row("mknod", None, 133, metadata.mknod, "path oct hex", PARTIAL, "as mknodat"),
    Row("mknodat", 33, 259, metadata.mknodat, "dfd path oct hex", PARTIAL, "devices are EPERM without --trust"),
    Row("renameat", 38, 264, metadata.renameat, "dfd path dfd path"),
    Row("renameat2", 276, 316, metadata.renameat2, "dfd path dfd path hex", PARTIAL, "no RENAME_WHITEOUT"),
    Row("rename", None, 82, metadata.rename, "path path"),
    Row("linkat", 37, 265, metadata.linkat, "dfd path dfd path hex"),
    Row("link", None, 86, metadata.link, "path path"),
    Row("symlinkat", 36, 266, metadata.symlinkat, "path dfd path"),
    Row("symlink", None, 88, metadata.symlink, "path path"),
    Row("ftruncate", 46, 77, metadata.ftruncate, "fd int"),
    Row("truncate", 45, 76, metadata.truncate, "path int"),
    Row("fallocate", 47, 285, _late("splice", "fallocate"), "fd hex int int"),
    Row("utimensat", 88, 280, metadata.utimensat, "dfd path ptr hex"),
    Row("fchmod", 52, 91, metadata.fchmod, "fd oct", PARTIAL, "set-ID bits are dropped"),
    Row("fchmodat", 53, 268, metadata.fchmodat, "dfd path oct", PARTIAL, "set-ID bits are dropped"),
    Row("fchmodat2", 452, 452, metadata.fchmodat2, "dfd path oct hex", PARTIAL, "set-ID bits are dropped"),
    Row("chmod", None, 90, metadata.chmod, "path oct", PARTIAL, "set-ID bits are dropped"),
    Row("fchown", 55, 93, metadata.fchown, "fd int int"),
    Row("fchownat", 54, 260, metadata.fchownat, "dfd path int int hex"),
    Row("chown", None, 92, metadata.chown, "path int int"),
    Row("lchown", None, 94, metadata.lchown, "path int int"),
    Row("utime", None, 132, metadata.utime, "path ptr"),
    Row("utimes", None, 235, metadata.utimes, "path ptr"),
    Row("futimesat", None, 261, metadata.futimesat, "dfd path ptr"),
    Row("fsync", 82, 74, metadata.fsync, "fd"),
    Row("fdatasync", 83, 75, metadata.fdatasync, "fd"),
    Row("sync", 81, 162, metadata.sync, "", IGNORED),
    Row("fadvise64", 223, 221, _late("splice", "fadvise64"), "fd int int int"),
    Row("statfs", 43, 137, metadata.statfs, "path ptr"),
    Row("fstatfs", 44, 138, metadata.fstatfs, "fd ptr"),
    Row("umask", 166, 95, metadata.umask, "oct"),
    # waiting for files
    Row("ppoll", 73, 271, poll.ppoll, "ptr uint ptr ptr uint"),
    Row("poll", None, 7, poll.poll, "ptr uint int"),
    Row("pselect6", 72, 270, poll.pselect6, "int ptr ptr ptr ptr ptr"),
    Row("select", None, 23, poll.select_, "int ptr ptr ptr ptr"),
    Row("epoll_create1", 20, 291, poll.epoll_create1, "hex"),
    Row("epoll_create", None, 213, poll.epoll_create, "int"),
    Row("epoll_ctl", 21, 233, poll.epoll_ctl, "fd int fd ptr"),
    Row("epoll_pwait", 22, 281, poll.epoll_pwait, "fd ptr int int ptr uint"),
    Row("epoll_wait", None, 232, poll.epoll_wait, "fd ptr int int"),
    Row("epoll_pwait2", 441, 441, poll.epoll_pwait2, "fd ptr int ptr ptr uint"),
    Row("signalfd4", 74, 289, _late("events", "signalfd4"), "fd ptr uint hex"),
    Row("signalfd", None, 282, _late("events", "signalfd"), "fd ptr uint"),
    Row("inotify_init1", 26, 294, _late("events", "inotify_init1"), "hex"),
    Row("inotify_init", None, 253, _late("events", "inotify_init")),
    Row("inotify_add_watch", 27, 254, _late("events", "inotify_add_watch"), "fd path hex"),
    Row("inotify_rm_watch", 28, 255, _late("events", "inotify_rm_watch"), "fd int"),
    Row("pidfd_getfd", 438, 438, _late("events", "pidfd_getfd"), "fd fd hex", IGNORED, "EPERM"),
    Row("timerfd_create", 85, 283, poll.timerfd_create, "clock hex"),
    Row("timerfd_settime", 86, 286, poll.timerfd_settime, "fd hex ptr ptr"),
    Row("timerfd_gettime", 87, 287, poll.timerfd_gettime, "fd ptr"),
    # time
    Row("clock_gettime", 113, 228, time.clock_gettime, "clock ptr"),
    Row("clock_getres", 114, 229, time.clock_getres, "clock ptr"),
    Row("clock_settime", 112, 227, time.clock_settime, "clock ptr", IGNORED, "EPERM"),
    Row("gettimeofday", 169, 96, time.gettimeofday, "ptr ptr"),
    Row("time", None, 201, time.time_, "ptr"),
    Row("times", 153, 100, time.times, "ptr"),
    Row("nanosleep", 101, 35, time.nanosleep, "ptr ptr"),
    Row("clock_nanosleep", 115, 230, time.clock_nanosleep, "clock hex ptr ptr"),
    Row("setitimer", 103, 38, time.setitimer, "int ptr ptr"),
    Row("getitimer", 102, 36, time.getitimer, "int ptr"),
    Row("alarm", None, 37, time.alarm, "uint"),
    Row("timer_create", 107, 222, time.timer_create, "clock ptr ptr"),
    Row("timer_settime", 110, 223, time.timer_settime, "int hex ptr ptr"),
    Row("timer_gettime", 108, 224, time.timer_gettime, "int ptr"),
    Row("timer_getoverrun", 109, 225, time.timer_getoverrun, "int"),
    Row("timer_delete", 111, 226, time.timer_delete, "int"),
    # threads
    Row("clone", 220, 56, _late("fork", "clone"), "hex ptr ptr ptr ptr", PARTIAL, "threads, fork and vfork; CLONE_VM alone is ENOSYS; no namespaces"),
    Row("clone3", 435, 435, _late("fork", "clone3"), "ptr uint", PARTIAL, "as clone"),
    Row("fork", None, 57, _late("fork", "fork")),
    Row("vfork", None, 58, _late("fork", "vfork")),
    Row("execve", 221, 59, _late("execve", "execve"), "path ptr ptr", PARTIAL, "set-ID bits are ignored"),
    Row("execveat", 281, 322, _late("execve", "execveat"), "dfd path ptr ptr hex", PARTIAL, "set-ID bits are ignored"),
    Row("wait4", 260, 61, _late("children", "wait4"), "int ptr hex ptr"),
    Row("waitid", 95, 247, _late("children", "waitid"), "int int ptr hex ptr"),
    Row("pidfd_open", 434, 434, _late("children", "pidfd_open"), "int hex"),
    Row("pidfd_send_signal", 424, 424, _late("children", "pidfd_send_signal"), "fd sig ptr hex"),
    Row("exit", 93, 60, system.exit_, "int"),
    Row("exit_group", 94, 231, system.exit_group, "int"),
    Row("futex", 98, 202, futex.futex, "ptr futex int ptr ptr hex", PARTIAL,
        "locks with priority inheritance within one process"),
    Row("futex_waitv", 449, 449, futex.futex_waitv, "ptr uint hex ptr clock", PARTIAL, "up to 127 words"),
    Row("set_robust_list", 99, 273, futex.set_robust_list, "ptr uint"),
    Row("get_robust_list", 100, 274, futex.get_robust_list, "int ptr ptr"),
    Row("set_tid_address", 96, 218, futex.set_tid_address, "ptr"),
    Row("rseq", 293, 334, system.nosys, "", ABSENT, "the C library does without; vm does not see when the host moves a thread to another processor"),
    Row("membarrier", 283, 324, system.membarrier, "int hex int"),
    Row("sched_yield", 124, 24, system.sched_yield),
    Row("sched_getaffinity", 123, 204, _late("identity", "sched_getaffinity"), "int uint ptr"),
    Row("sched_setaffinity", 122, 203, _late("identity", "sched_setaffinity"), "int uint ptr", PARTIAL, "kept and told"),
    Row("sched_getparam", 121, 143, _late("identity", "sched_getparam"), "int ptr"),
    Row("sched_setparam", 118, 142, _late("identity", "sched_setparam"), "int ptr", PARTIAL, "as sched_setscheduler"),
    Row("sched_getscheduler", 120, 145, _late("identity", "sched_getscheduler"), "int"),
    Row("sched_setscheduler", 119, 144, _late("identity", "sched_setscheduler"), "int int ptr", PARTIAL, "kept and told; real-time classes are EPERM"),
    Row("sched_getattr", 275, 315, _late("identity", "sched_getattr"), "int ptr uint hex"),
    Row("sched_setattr", 274, 314, _late("identity", "sched_setattr"), "int ptr hex", PARTIAL, "as sched_setscheduler"),
    Row("sched_rr_get_interval", 127, 148, _late("identity", "sched_rr_get_interval"), "int ptr"),
    Row("sched_get_priority_max", 125, 146, _late("identity", "sched_get_priority_max"), "int"),
    Row("sched_get_priority_min", 126, 147, _late("identity", "sched_get_priority_min"), "int"),
    Row("getpriority", 141, 140, _late("identity", "getpriority"), "int int"),
    Row("setpriority", 140, 141, _late("identity", "setpriority"), "int int int", PARTIAL, "acts on the calling thread"),
    Row("ioprio_get", 31, 252, _late("identity", "ioprio_get"), "int int"),
    Row("ioprio_set", 30, 251, _late("identity", "ioprio_set"), "int int int", PARTIAL, "kept and told"),
    Row("getcpu", 168, 309, _late("identity", "getcpu"), "ptr ptr"),
    # System V IPC and message queues
    Row("shmget", 194, 29, _late("sysv", "shmget"), "hex uint oct", OK, "of the guest's own name space, as all of these; the host's with --trust"),
    Row("shmat", 196, 30, _late("sysv", "shmat"), "int ptr oct"),
    Row("shmdt", 197, 67, _late("sysv", "shmdt"), "ptr"),
    Row("shmctl", 195, 31, _late("sysv", "shmctl"), "int int ptr"),
    Row("semget", 190, 64, _late("sysv", "semget"), "hex int oct"),
    Row("semop", 193, 65, _late("sysv", "semop"), "int ptr uint"),
    Row("semtimedop", 192, 220, _late("sysv", "semtimedop"), "int ptr uint ptr"),
    Row("semctl", 191, 66, _late("sysv", "semctl"), "int int int hex"),
    Row("msgget", 186, 68, _late("sysv", "msgget"), "hex oct"),
    Row("msgsnd", 189, 69, _late("sysv", "msgsnd"), "int ptr uint oct"),
    Row("msgrcv", 188, 70, _late("sysv", "msgrcv"), "int ptr uint int oct"),
    Row("mq_open", 180, 240, _late("mqueue", "mq_open"), "path oflags oct ptr"),
    Row("mq_unlink", 181, 241, _late("mqueue", "mq_unlink"), "path"),
    Row("mq_timedsend", 182, 242, _late("mqueue", "mq_timedsend"), "fd buf uint uint ptr"),
    Row("mq_timedreceive", 183, 243, _late("mqueue", "mq_timedreceive"), "fd ptr uint ptr ptr"),
    Row("mq_notify", 184, 244, _late("mqueue", "mq_notify"), "fd ptr"),
    Row("mq_getsetattr", 185, 245, _late("mqueue", "mq_getsetattr"), "fd ptr ptr"),
    Row("msgctl", 187, 71, _late("sysv", "msgctl"), "int int ptr"),
    # signals
    Row("rt_sigaction", 134, 13, signal.rt_sigaction, "sig ptr ptr uint"),
    Row("rt_sigprocmask", 135, 14, signal.rt_sigprocmask, "int ptr ptr uint"),
    Row("rt_sigreturn", 139, 15, signal.rt_sigreturn),
    Row("rt_sigpending", 136, 127, signal.rt_sigpending, "ptr uint"),
    Row("rt_sigtimedwait", 137, 128, signal.rt_sigtimedwait, "ptr ptr ptr uint"),
    Row("rt_sigsuspend", 133, 130, signal.rt_sigsuspend, "ptr uint"),
    Row("rt_sigqueueinfo", 138, 129, signal.rt_sigqueueinfo, "int sig ptr"),
    Row("rt_tgsigqueueinfo", 240, 297, signal.rt_tgsigqueueinfo, "int int sig ptr"),
    Row("sigaltstack", 132, 131, signal.sigaltstack, "ptr ptr"),
    Row("pause", None, 34, signal.pause),
    Row("kill", 129, 62, signal.kill, "int sig", PARTIAL, "processes of the guest"),
    Row("tkill", 130, 200, signal.tkill, "int sig"),
    Row("tgkill", 131, 234, signal.tgkill, "int int sig"),
    # identity and limits
    Row("getpid", 172, 39, system.getpid),
    Row("getppid", 173, 110, system.getppid, "", PARTIAL, "1 for the first process"),
    Row("gettid", 178, 186, system.gettid),
    Row("getuid", 174, 102, _late("identity", "getuid"), ""),
    Row("geteuid", 175, 107, _late("identity", "geteuid"), ""),
    Row("getgid", 176, 104, _late("identity", "getgid"), ""),
    Row("getegid", 177, 108, _late("identity", "getegid"), ""),
    Row("setuid", 146, 105, _late("identity", "setuid"), "int", PARTIAL, "as far as the host lets the process"),
    Row("setgid", 144, 106, _late("identity", "setgid"), "int", PARTIAL, "as setuid"),
    Row("setreuid", 145, 113, _late("identity", "setreuid"), "int int", PARTIAL, "as setuid"),
    Row("setregid", 143, 114, _late("identity", "setregid"), "int int", PARTIAL, "as setuid"),
    Row("setresuid", 147, 117, _late("identity", "setresuid"), "int int int", PARTIAL, "as setuid"),
    Row("setresgid", 149, 119, _late("identity", "setresgid"), "int int int", PARTIAL, "as setuid"),
    Row("setfsuid", 151, 122, _late("identity", "setfsuid"), "int", IGNORED),
    Row("setfsgid", 152, 123, _late("identity", "setfsgid"), "int", IGNORED),
    Row("getresuid", 148, 118, _late("identity", "getresuid"), "ptr ptr ptr"),
    Row("getresgid", 150, 120, _late("identity", "getresgid"), "ptr ptr ptr"),
    Row("getgroups", 158, 115, _late("identity", "getgroups"), "int ptr"),
    Row("setgroups", 159, 116, _late("identity", "setgroups"), "int ptr", PARTIAL, "as setuid"),
    Row("capget", 90, 125, _late("identity", "capget"), "ptr ptr"),
    Row("capset", 91, 126, _late("identity", "capset"), "ptr ptr", IGNORED, "giving up is granted, gaining is EPERM"),
    Row("personality", 92, 135, _late("identity", "personality"), "hex", PARTIAL, "kept and told"),
    Row("getpgid", 155, 121, system.getpgid, "int"),
    Row("getpgrp", None, 111, system.getpgrp),
    Row("setpgid", 154, 109, system.setpgid, "int int"),
    Row("getsid", 156, 124, system.getsid, "int"),
    Row("setsid", 157, 112, system.setsid),
    Row("sethostname", 161, 170, system.denied, "", IGNORED, "EPERM"),
    Row("setdomainname", 162, 171, system.denied, "", IGNORED, "EPERM"),
    Row("settimeofday", 170, 164, system.denied, "", IGNORED, "EPERM"),
    Row("mount", 40, 165, system.denied, "", IGNORED, "EPERM"),
    Row("umount2", 39, 166, system.denied, "", IGNORED, "EPERM"),
    Row("pivot_root", 41, 155, system.denied, "", IGNORED, "EPERM"),
    Row("chroot", 51, 161, system.denied, "", IGNORED, "EPERM"),
    Row("unshare", 97, 272, system.unshare, "hex", PARTIAL, "no namespaces; threads keep what they share"),
    Row("setns", 268, 308, system.denied, "", IGNORED, "EPERM"),
    Row("reboot", 142, 169, system.denied, "", IGNORED, "EPERM"),
    Row("swapon", 224, 167, system.denied, "", IGNORED, "EPERM"),
    Row("swapoff", 225, 168, system.denied, "", IGNORED, "EPERM"),
    Row("init_module", 105, 175, system.denied, "", IGNORED, "EPERM"),
    Row("finit_module", 273, 313, system.denied, "", IGNORED, "EPERM"),
    Row("delete_module", 106, 176, system.denied, "", IGNORED, "EPERM"),
    Row("acct", 89, 163, system.denied, "", IGNORED, "EPERM"),
    Row("syslog", 116, 103, system.denied, "", IGNORED, "EPERM"),
    Row("vhangup", 58, 153, system.denied, "", IGNORED, "EPERM"),
    Row("ptrace", 117, 101, system.denied, "", IGNORED, "EPERM"),
    Row("process_vm_readv", 270, 310, system.denied, "", IGNORED, "EPERM"),
    Row("process_vm_writev", 271, 311, system.denied, "", IGNORED, "EPERM"),
    Row("perf_event_open", 241, 298, system.denied, "", IGNORED, "EPERM"),
    Row("bpf", 280, 321, system.denied, "", IGNORED, "EPERM"),
    Row("userfaultfd", 282, 323, system.denied, "", IGNORED, "EPERM"),
    Row("kcmp", 272, 312, system.denied, "", IGNORED, "EPERM"),
    Row("open_by_handle_at", 265, 304, system.denied, "", IGNORED, "EPERM"),
    Row("name_to_handle_at", 264, 303, system.unsupported, "", IGNORED, "EOPNOTSUPP"),
    Row("fanotify_init", 262, 300, system.denied, "", IGNORED, "EPERM"),
    Row("io_uring_setup", 425, 425, system.nosys, "", ABSENT, "programs do without it"),
    Row("io_setup", 0, 206, system.nosys, "", ABSENT, "programs do without it"),
    Row("landlock_create_ruleset", 444, 444, system.nosys, "", ABSENT, "programs do without it"),
    Row("seccomp", 277, 317, system.invalid, "", ABSENT, "EINVAL, as from a kernel without filters"),
    Row("keyctl", 219, 250, system.nosys, "", ABSENT, "programs do without it"),
    Row("add_key", 217, 248, system.nosys, "", ABSENT, "programs do without it"),
    Row("request_key", 218, 249, system.nosys, "", ABSENT, "programs do without it"),
    Row("mbind", 235, 237, system.nosys, "", ABSENT, "as from a kernel without NUMA"),
    Row("get_mempolicy", 236, 239, system.nosys, "", ABSENT, "as from a kernel without NUMA"),
    Row("set_mempolicy", 237, 238, system.nosys, "", ABSENT, "as from a kernel without NUMA"),
    Row("uname", 160, 63, system.uname, "ptr"),
    Row("prctl", 167, 157, _late("identity", "prctl"), "int hex hex hex hex", PARTIAL, "no seccomp, no speculation control; what is kept is told"),
    Row("arch_prctl", None, 158, system.arch_prctl, "hex hex", PARTIAL, "the fs base"),
    Row("prlimit64", 261, 302, limits.prlimit64, "int int ptr ptr", PARTIAL,
        "NOFILE, AS, DATA, STACK, NPROC, CPU and FSIZE are enforced, others kept; of the calling process"),
    Row("getrlimit", 163, 97, limits.getrlimit, "int ptr"),
    Row("setrlimit", 164, 160, limits.setrlimit, "int ptr", PARTIAL, "as prlimit64"),
    Row("getrusage", 165, 98, system.getrusage, "int ptr", PARTIAL, "times of the whole host process, LLVM among them"),
    Row("sysinfo", 179, 99, system.sysinfo, "ptr"),
    Row("getrandom", 278, 318, system.getrandom, "ptr uint hex"),
    Row("riscv_hwprobe", 258, None, _late("hwprobe", "probe"), "ptr uint uint ptr hex", OK, "", "riscv64"),
    Row("riscv_flush_icache", 259, None, system.riscv_flush_icache, "ptr ptr hex", OK, "", "riscv64"),
    # network
    Row("socket", 198, 41, _net("socket_"), "int hex int", PARTIAL,
        "UNIX; with --net INET, INET6 and the questions of NETLINK_ROUTE, else EACCES"),
    Row("socketpair", 199, 53, _net("socketpair"), "int hex int ptr"),
    Row("bind", 200, 49, _net("bind"), "fd ptr uint"),
    Row("listen", 201, 50, _net("listen"), "fd int"),
    Row("accept", 202, 43, _net("accept"), "fd ptr ptr"),
    Row("accept4", 242, 288, _net("accept4"), "fd ptr ptr hex"),
    Row("connect", 203, 42, _net("connect"), "fd ptr uint"),
    Row("getsockname", 204, 51, _net("getsockname"), "fd ptr ptr"),
    Row("getpeername", 205, 52, _net("getpeername"), "fd ptr ptr"),
    Row("sendto", 206, 44, _net("sendto"), "fd buf uint hex ptr uint"),
    Row("recvfrom", 207, 45, _net("recvfrom"), "fd ptr uint hex ptr ptr"),
    Row("setsockopt", 208, 54, _net("setsockopt"), "fd int int ptr uint", PARTIAL, "SOCKET, IP, IPV6 and TCP levels"),
    Row("getsockopt", 209, 55, _net("getsockopt"), "fd int int ptr ptr", PARTIAL, "SOCKET, IP, IPV6 and TCP levels"),
    Row("shutdown", 210, 48, _net("shutdown"), "fd int"),
    Row("sendmsg", 211, 46, _net("sendmsg"), "fd ptr hex"),
    Row("recvmsg", 212, 47, _net("recvmsg"), "fd ptr hex"),
    Row("sendmmsg", 269, 307, _net("sendmmsg"), "fd ptr uint hex"),
    Row("recvmmsg", 243, 299, _net("recvmmsg"), "fd ptr uint hex ptr"),
)
# fmt: on


_ABSENT_TEXT: Final = """
1:io_destroy 2:io_submit 3:io_cancel 4:io_getevents 60:quotactl 104:kexec_load 128:restart_syscall 171:adjtimex
234:remap_file_pages 238:migrate_pages 239:move_pages 263:fanotify_mark 266:clock_adjtime
292:io_pgetevents 426:io_uring_enter 427:io_uring_register
"""
_ABSENT_GENERIC: Final = {
    int(number): name for number, _, name in (entry.partition(":") for entry in _ABSENT_TEXT.split())
}
"""Names for messages about calls without a row, by number on riscv64 and aarch64 (asm-generic/unistd.h)."""


def _getter(words: tuple[int, ...]) -> Callable[..., tuple[int, ...]]:
    """A function that reads these words of ``CpuState.words`` as a tuple."""
    if len(words) > 1:
        return itemgetter(*words)
    if words:
        only = words[0]
        return lambda registers: (registers[only],)
    return lambda _registers: ()


_OF_THE_HOST: Final = frozenset(
    {
        "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl",
        "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
    }
)  # fmt: skip
"""Calls that are about objects of the host for a trusted guest, and of its own name space for others."""


@cache
def bound(isa: str, layout: StateLayout, *, trusted: bool = False) -> tuple[Abi, Mapping[int, Entry]]:
    """The ABI of an ISA, and :func:`bind` of it: all processes share them."""
    abi = abi_of(isa, layout)
    return abi, bind(abi, trusted=trusted)


def bind(abi: Abi, *, trusted: bool = False) -> dict[int, Entry]:
    """Number to (handler, argument reader, row) for an ABI."""
    out: dict[int, Entry] = {}
    for row in ROWS:
        number = row.number(abi)
        if number is None or row.handler is None:
            continue
        assert number not in out, row.name
        handler = _late("hostipc", row.name) if trusted and row.name in _OF_THE_HOST else row.handler
        out[number] = (handler, _getter(abi.argument_words[: row.arity]), row)
    return out


def name_of(abi: Abi, number: int) -> str:
    """The name of a number, also of one without a handler; ``syscall_N`` for an unknown one."""
    for row in ROWS:
        if row.number(abi) == number:
            return row.name
    if abi.column != "x86_64" and number in _ABSENT_GENERIC:
        return _ABSENT_GENERIC[number]
    return f"syscall_{number}"


def markdown() -> str:
    """The coverage page."""
    counts = {status: sum(row.status == status for row in ROWS) for status in (OK, PARTIAL, IGNORED, ABSENT)}
    lines = [
        "# Linux system calls",
        "",
        "Generated by `python -m vm_core.linux.table`; do not edit.",
        "",
        "A call that is not listed returns ENOSYS and is named once in the log.",
        "",
        ", ".join(f"{count} {status}" for status, count in counts.items()) + ".",
        "",
        "| call | riscv64 | aarch64 | x86-64 | status | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(ROWS, key=lambda row: row.name):
        riscv = "-" if row.generic is None or row.only not in ("", "riscv64") else str(row.generic)
        arm = "-" if row.generic is None or row.only not in ("", "aarch64") else str(row.generic)
        x86 = "-" if row.x86_64 is None or row.only not in ("", "x86_64") else str(row.x86_64)
        lines.append(f"| {row.name} | {riscv} | {arm} | {x86} | {row.status} | {row.note} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m vm_core.linux.table", description="The system call coverage page."
    )
    parser.add_argument("--check", metavar="FILE", help="exit with 1 unless FILE is what would be printed")
    options = parser.parse_args(argv)
    page = markdown()
    if options.check is None:
        sys.stdout.write(page)
        return 0
    try:
        with open(options.check) as file:
            current = file.read()
    except OSError as error:
        sys.stderr.write(f"{options.check}: {error.strerror}\n")
        return 1
    if current != page:
        sys.stderr.write(f"{options.check} is out of date: python -m vm_core.linux.table > {options.check}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
