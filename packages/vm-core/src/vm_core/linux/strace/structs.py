"""How the structures of system calls are shown: times, files, signals, processes, terminals. Sockets are in sockets.py."""

from __future__ import annotations

import struct
from typing import Final

from vm_core.linux.abi import SigInfo, s32
from vm_core.linux.strace.names import ENUMS, FLAGS, enumerated, flagged
from vm_core.linux.strace.values import (
    DECODERS,
    Call,
    decoder,
    device,
    elements,
    mode,
    open_flags,
    pint,
    pointer,
    quote,
    result_of,
    signal_number,
    signal_set,
    stamp,
    structure,
    text_of,
)

__all__ = ["siginfo_text", "wait_status"]

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_PIDFD, _SETTLS, _PARENT_SETTID = 0x1000, 0x80000, 0x100000
_CHILD_TIDS: Final = 0x120_0000
"""CLONE_CHILD_CLEARTID and CLONE_CHILD_SETTID."""


# -- times ------------------------------------------------------------------------------------------------------


def _pair(raw: bytes, unit: str) -> str:
    seconds, fraction = struct.unpack("<qQ", raw)
    return f"{{tv_sec={seconds}, tv_{unit}={fraction}}}"


@structure
def timespec(call: Call, value: int, _: str) -> str:
    return _pair(call.memory.read(value, 16), "nsec")


@structure
def timeval(call: Call, value: int, _: str) -> str:
    return _pair(call.memory.read(value, 16), "usec")


@decoder
def remainder(call: Call, value: int, _: str) -> str:
    """What nanosleep leaves of its time: written only when a signal ends it."""
    if value and call.result is not None and call.result <= -512:
        return timespec(call, value, "")
    return pointer(value)


def _two(raw: bytes, unit: str) -> str:
    return f"{{it_interval={_pair(raw[:16], unit)}, it_value={_pair(raw[16:], unit)}}}"


@structure
def itimerspec(call: Call, value: int, _: str) -> str:
    return _two(call.memory.read(value, 32), "nsec")


@structure
def itimerval(call: Call, value: int, _: str) -> str:
    return _two(call.memory.read(value, 32), "usec")


@structure
def utimes(call: Call, value: int, _: str) -> str:
    """utimensat's two times."""
    raw = call.memory.read(value, 32)
    out = []
    for at in (0, 16):
        seconds, nanoseconds = struct.unpack_from("<qq", raw, at)
        if nanoseconds in (_UTIME_NOW, _UTIME_OMIT):
            out.append("UTIME_NOW" if nanoseconds == _UTIME_NOW else "UTIME_OMIT")
        else:
            out.append(
                _pair(raw[at : at + 16], "nsec")
                + (stamp(seconds, nanoseconds) if 0 <= nanoseconds < 1_000_000_000 else "")
            )
    return f"[{', '.join(out)}]"


@structure
def timezone(call: Call, value: int, _: str) -> str:
    west, dst = call.fields(value, "<ii")
    return f"{{tz_minuteswest={west}, tz_dsttime={dst}}}"


@structure
def tms(call: Call, value: int, _: str) -> str:
    user, system, of_user, of_system = call.fields(value, "<4q")
    return f"{{tms_utime={user}, tms_stime={system}, tms_cutime={of_user}, tms_cstime={of_system}}}"


@structure
def sigevent(call: Call, value: int, _: str) -> str:
    data, number, notify, tid = call.fields(value, "<Qiii")
    # sigev_value is the program's own, and only meant for a signal or a thread.
    head = f"sigev_value={{sival_int={s32(data)}, sival_ptr={pointer(data)}}}, " if data else ""
    signal = signal_number(number) if number or notify != 1 else "0"
    tail = f", sigev_notify_thread_id={tid}" if notify == 4 else ""
    return f"{{{head}sigev_signo={signal}, sigev_notify={enumerated(ENUMS['sigev'], notify)}{tail}}}"


# -- files ------------------------------------------------------------------------------------------------------


@decoder
def stat(call: Call, value: int, _: str) -> str:
    raw = call.memory.read(value, 128)
    if call.abi.column == "x86_64":
        bits, device_number, size = (
            int.from_bytes(raw[at : at + n], "little") for at, n in ((24, 4), (40, 8), (48, 8))
        )
    else:
        bits, device_number, size = (
            int.from_bytes(raw[at : at + n], "little") for at, n in ((16, 4), (32, 8), (48, 8))
        )
    what = (
        f"st_rdev={device(device_number)}"
        if bits >> 12 & 0xF in (2, 6)
        else f"st_size={size - (1 << 64) if size >> 63 else size}"
    )
    return f"{{st_mode={mode(bits)}, {what}, ...}}"


@decoder
def statx(call: Call, value: int, _: str) -> str:
    raw = call.memory.read(value, 256)
    mask, _block, attributes, _links, _uid, _gid, bits, _ino, size = struct.unpack_from("<IIQIIIHxxQQ", raw)
    return (
        f"{{stx_mask={flagged(FLAGS['statx'], mask)}, stx_attributes={flagged(FLAGS['statx_attr'], attributes)}, "
        f"stx_mode={mode(bits)}, stx_size={size}, ...}}"
    )


@decoder
def statfs(call: Call, value: int, _: str) -> str:
    raw = call.memory.read(value, 120)
    kind, block, blocks, free, available, files, free_files, first, second, longest, fragment, flags = (
        struct.unpack_from("<QQQQQQQIIQQQ", raw)
    )
    return (
        f"{{f_type={enumerated(ENUMS['fs_magic'], kind)}, f_bsize={block}, f_blocks={blocks}, f_bfree={free}, "
        f"f_bavail={available}, f_files={files}, f_ffree={free_files}, f_fsid={{val=[{_hex(first)}, {_hex(second)}]}}, "
        f"f_namelen={longest}, f_frsize={fragment}, f_flags={flagged(FLAGS['st'], flags)}}}"
    )


def _hex(value: int) -> str:
    return f"{value:#x}" if value else "0"


@decoder
def openhow(call: Call, value: int, _: str) -> str:
    flags, permissions, resolve = call.fields(value, "<QQQ")
    made = (
        f", mode={mode(permissions & 0xFFFF, kind=False)}"
        if flags & 0o20000100 & ~0o200000 or permissions
        else ""
    )
    return f"{{flags={open_flags(call, flags)}{made}, resolve={flagged(FLAGS['resolve'], resolve)}}}"


@decoder
def dirents(call: Call, value: int, _: str) -> str:
    """getdents64's buffer: how many entries are in it."""
    length, at, count = call.count("ret"), 0, 0
    while at + 19 <= length:
        step = call.memory.load(value + at + 16, 2)
        if not step:
            break
        at, count = at + step, count + 1
    return f"{value:#x} /* {count} entr{'y' if count == 1 else 'ies'} */"


@structure
def iovec(call: Call, value: int, where: str) -> str:
    """Buffers; after a read (``ret,N``), as much of them as was read."""
    limits = where.split(",")
    left = call.count("ret") if limits[0] == "ret" else None

    def show(raw: bytes) -> str:
        nonlocal left
        base, length = struct.unpack("<QQ", raw)
        have = length if left is None else min(length, left)
        if left is not None:
            left -= have
        return f"{{iov_base={_buffer(call, base, have)}, iov_len={length}}}"

    return elements(call, value, s32(call.count(limits[-1])), 16, show)


def _buffer(call: Call, base: int, length: int) -> str:
    if not base:
        return "NULL"
    try:
        return text_of(call, call.memory.read(base, min(length, call.strings)), length)
    except Exception:  # noqa: BLE001 - of an array, the other elements are shown
        return pointer(base)


@decoder
def riovec(call: Call, value: int, where: str) -> str:
    """Buffers that a call reads into: what is in them, unless it failed."""
    return iovecs(call, value, where) if call.failed else iovec(call, value, f"ret,{where}")


@decoder
def iovecs(call: Call, value: int, where: str) -> str:
    """Buffers that are not looked into: a read that failed."""

    def show(raw: bytes) -> str:
        base, length = struct.unpack("<QQ", raw)
        return f"{{iov_base={pointer(base)}, iov_len={length}}}"

    return elements(call, value, s32(call.count(where)), 16, show) if value else "NULL"


# -- waiting for files --------------------------------------------------------------------------------------------


def _pollfd(raw: bytes) -> str:
    fd, events = struct.unpack_from("<iH", raw)
    return f"{{fd={fd}, events={flagged(FLAGS['poll'], events)}}}" if fd >= 0 else f"{{fd={fd}}}"


@structure
def pollfds(call: Call, value: int, where: str) -> str:
    return elements(call, value, call.count(where), 8, _pollfd)


def _ready(call: Call) -> list[str]:
    out = []
    raw = call.memory.read(call.args[0], min(call.args[1], 4096) * 8)
    for at in range(0, len(raw), 8):
        fd, _, events = struct.unpack_from("<iHH", raw, at)
        if events and fd >= 0:
            out.append(f"{{fd={fd}, revents={flagged(FLAGS['poll'], events)}}}")
    return out


@result_of
def poll_result(call: Call, result: int) -> str:
    if not result:
        return "0 (Timeout)"
    out = ["[" + ", ".join(_ready(call)) + "]"]
    if call.name == "ppoll" and call.args[2]:
        out.append(f"left {timespec(call, call.args[2], '')}")
    return f"{result} ({', '.join(out)})"


def _set_of(call: Call, address: int) -> list[int]:
    count = max(min(s32(call.args[0]), 1024), 0)
    mask = int.from_bytes(call.memory.read(address, (count + 63) // 64 * 8), "little")
    return [n for n in range(count) if mask >> n & 1]


@structure
def fdset(call: Call, value: int, _: str) -> str:
    return "[" + " ".join(map(str, _set_of(call, value))) + "]"


@structure
def maskptr(call: Call, value: int, _: str) -> str:
    """pselect6's last argument: a pointer to a mask and its size."""
    mask, size = call.fields(value, "<QQ")
    return f"{{sigmask={sigset(call, mask, '')}, sigsetsize={size}}}"


@result_of
def select_result(call: Call, result: int) -> str:
    if not result:
        return "0 (Timeout)"
    out = [
        f"{what} [{' '.join(map(str, ready))}]"
        for what, address in zip(("in", "out", "except"), call.args[1:4], strict=True)
        if address and (ready := _set_of(call, address))
    ]
    if call.args[4]:
        shown = (timespec if call.name == "pselect6" else timeval)(call, call.args[4], "")
        out.append(f"left {shown}")
    return f"{result} ({', '.join(out)})"


def _epoll(call: Call, raw: bytes) -> str:
    events, data = struct.unpack("<IQ", raw[:12] if call.abi.column == "x86_64" else raw[:4] + raw[8:])
    return f"{{events={flagged(FLAGS['epoll'], events)}, data={{u32={data & 0xFFFF_FFFF}, u64={data}}}}}"


@structure
def epollevent(call: Call, value: int, _: str) -> str:
    size = 12 if call.abi.column == "x86_64" else 16
    return _epoll(call, call.memory.read(value, size))


@decoder
def epollevents(call: Call, value: int, where: str) -> str:
    size = 12 if call.abi.column == "x86_64" else 16
    return elements(call, value, call.count(where), size, lambda raw: _epoll(call, raw))


# -- signals ------------------------------------------------------------------------------------------------------


@structure
def sigset(call: Call, value: int, _: str) -> str:
    return signal_set(call.memory.load(value, 8))


@structure
def sigaction(call: Call, value: int, _: str) -> str:
    restorer = None
    if call.abi.has_restorer:
        handler, flags, restorer, mask = call.fields(value, "<QQQQ")
    else:
        handler, flags, mask = call.fields(value, "<QQQ")
    shown = ("SIG_DFL", "SIG_IGN")[handler] if handler < 2 else f"{handler:#x}"
    tail = f", sa_restorer={pointer(restorer)}" if restorer is not None and flags & 0x0400_0000 else ""
    return (
        f"{{sa_handler={shown}, sa_mask={signal_set(mask)}, "
        f"sa_flags={flagged(FLAGS['sa'], flags & 0xFFFF_FFFF)}{tail}}}"
    )


@structure
def stack(call: Call, value: int, _: str) -> str:
    base, flags, size = call.fields(value, "<QIxxxxQ")
    return f"{{ss_sp={pointer(base)}, ss_flags={flagged(FLAGS['ss'], flags)}, ss_size={size}}}"


_CODES: Final = {4: "ill", 5: "trap", 7: "bus", 8: "fpe", 11: "segv", 17: "cld", 29: "poll_code"}


def siginfo_text(info: SigInfo) -> str:
    """A siginfo_t."""
    number, code = info.number, info.code
    names = ENUMS["si_code"]
    if code > 0 and code != 0x80:
        names = ENUMS.get(_CODES.get(number, ""), names)
    known = code in names.by_value
    out = [f"si_signo={signal_number(number)}"]
    out.append(f"si_code={names.by_value[code] if known else f'{code & 0xFFFF_FFFF:#x}'}")
    if number in (4, 5, 7, 8, 11) and code > 0:
        out.append(f"si_addr={pointer(info.address)}")
    elif number == 17 and code > 0 and code != 0x80:
        status = str(info.value) if code == 1 else signal_number(info.value)
        out += [f"si_pid={info.pid}", f"si_uid={info.uid}", f"si_status={status}", "si_utime=0", "si_stime=0"]
    elif code == -2:
        out += [f"si_timerid={s32(info.pid)}", f"si_overrun={s32(info.uid)}"]
        if info.value:
            out += _sival(info.value)
    elif code != 0x80:
        out += [f"si_pid={info.pid}", f"si_uid={info.uid}"]
        if code == -1 or (code not in (0, -6) and info.value):
            out += _sival(info.value)
    return "{" + ", ".join(out) + "}"


def _sival(value: int) -> list[str]:
    return [f"si_int={s32(value)}", f"si_ptr={pointer(value & (1 << 64) - 1)}"]


@structure
def siginfo(call: Call, value: int, _: str) -> str:
    raw = call.memory.read(value, 128)
    number, _errno, code = struct.unpack_from("<iii", raw)
    if not number and not code:
        return "{}"
    pid, uid, word = struct.unpack_from("<iIq", raw, 16)
    if number == 17 and code > 0:
        word = s32(word)
    address = int.from_bytes(raw[16:24], "little")
    return siginfo_text(SigInfo(number, code, address=address, pid=pid, uid=uid, value=word))


@decoder
def sigframe(call: Call, _value: int, _: str) -> str:
    """rt_sigreturn's frame: the mask that it restores."""
    stack_pointer = call.thread.cpu.words[call.abi.stack_word]
    at = stack_pointer + (296 if call.abi.column == "x86_64" else 128 + 40)
    return f"{{mask={signal_set(call.memory.load(at, 8))}}}"


# -- processes ----------------------------------------------------------------------------------------------------


def wait_status(status: int) -> str:
    """What a wait status says, in the words of the macros that take it apart."""
    number = status & 0x7F
    if status == 0xFFFF:
        return "WIFCONTINUED(s)"
    if status & 0xFF == 0x7F:
        return f"WIFSTOPPED(s) && WSTOPSIG(s) == {signal_number(status >> 8 & 0xFF)}" + (
            f" | {status >> 16 << 16:#x}" if status >> 16 else ""
        )
    if number:
        core = " && WCOREDUMP(s)" if status & 0x80 else ""
        return f"WIFSIGNALED(s) && WTERMSIG(s) == {signal_number(number)}{core}"
    return f"WIFEXITED(s) && WEXITSTATUS(s) == {status >> 8 & 0xFF}"


@structure
def waitstatus(call: Call, value: int, _: str) -> str:
    if call.failed or not call.result:
        return pointer(value)
    return f"[{{{wait_status(call.memory.load(value, 4))}}}]"


@structure
def rusage(call: Call, value: int, _: str) -> str:
    if call.name == "wait4" and not call.result:
        return pointer(value)
    raw = call.memory.read(value, 144)
    return f"{{ru_utime={_pair(raw[:16], 'usec')}, ru_stime={_pair(raw[16:32], 'usec')}, ...}}"


def _limit(value: int, infinity: str) -> str:
    if value == (1 << 64) - 1:
        return infinity
    return f"{value // 1024}*1024" if value > 1024 and value % 1024 == 0 else str(value)


@structure
def rlimit(call: Call, value: int, infinity: str) -> str:
    now, most = call.fields(value, "<QQ")
    return f"{{rlim_cur={_limit(now, infinity)}, rlim_max={_limit(most, infinity)}}}"


@decoder
def utsname(call: Call, value: int, _: str) -> str:
    raw = call.memory.read(value, 6 * 65)
    system, node = (raw[at : at + 65].partition(b"\0")[0] for at in (0, 65))
    return f"{{sysname={quote(system)}, nodename={quote(node)}, ...}}"


@decoder
def sysinfo(call: Call, value: int, _: str) -> str:
    numbers = call.fields(value, "<q3Q6QHxxxxxxQQI")
    uptime, one, five, fifteen, *sizes = numbers
    names = (
        "totalram", "freeram", "sharedram", "bufferram", "totalswap", "freeswap", "procs", "totalhigh", "freehigh",
        "mem_unit",
    )  # fmt: skip
    rest = ", ".join(f"{name}={number}" for name, number in zip(names, sizes, strict=True))
    return f"{{uptime={uptime}, loads=[{one}, {five}, {fifteen}], {rest}}}"


@decoder
def childstack(_call: Call, value: int, _: str) -> str:
    """clone's arguments have names in a trace, and those that its flags ask for are shown."""
    return f"child_stack={pointer(value)}"


@decoder
def cloneflags(_call: Call, value: int, _: str) -> str:
    number, flags = value & 0xFF, value & 0xFFFF_FF00
    out = [flagged(FLAGS["clone"], flags)] if flags else []
    if number:
        out.append(signal_number(number))
    return "flags=" + ("|".join(out) or "0")


@decoder
def parenttid(call: Call, value: int, _: str) -> str | None:
    flags = call.args[0]
    if not flags & (_PARENT_SETTID | _PIDFD):
        return None
    shown = pointer(value) if call.failed or not value else f"[{s32(call.memory.load(value, 4))}]"
    return f"parent_tid={shown}"


@decoder
def tlspart(call: Call, _value: int, _: str) -> str | None:
    tls = call.args[3 if call.abi.clone_tls_before_ctid else 4]
    return f"tls={pointer(tls)}" if call.args[0] & _SETTLS else None


@decoder
def childtid(call: Call, _value: int, _: str) -> str | None:
    address = call.args[4 if call.abi.clone_tls_before_ctid else 3]
    return f"child_tidptr={pointer(address)}" if call.args[0] & _CHILD_TIDS else None


@decoder
def cloneargs(call: Call, value: int, _: str) -> str:
    size = call.args[1]
    if size < 64:
        return pointer(value)
    flags, pidfd, child_tid, parent_tid, number, base, length, tls = struct.unpack(
        "<8Q", call.memory.read(value, 64)
    )
    out = [f"flags={flagged(FLAGS['clone'], flags)}"]
    if flags & _PIDFD:
        out.append(f"pidfd={pointer(pidfd)}")
    if flags & _CHILD_TIDS:
        out.append(f"child_tid={pointer(child_tid)}")
    if flags & _PARENT_SETTID:
        out.append(f"parent_tid={pointer(parent_tid)}")
    out += [
        f"exit_signal={signal_number(number) if number < 1 << 31 else number}",
        f"stack={pointer(base)}",
        f"stack_size={_hex(length)}",
    ]
    if flags & _SETTLS:
        out.append(f"tls={pointer(tls)}")
    call.kept = 1
    return "{" + ", ".join(out) + "}"


@decoder
def cloneafter(call: Call, _value: int, _: str) -> str | None:
    """What clone3 has written, behind its arguments."""
    if call.failed or not call.kept or not call.result:
        return None
    flags, pidfd, _child, parent_tid = struct.unpack("<4Q", call.memory.read(call.args[0], 32))
    out = []
    if flags & _PIDFD and pidfd:
        out.append(f"pidfd=[{s32(call.memory.load(pidfd, 4))}]")
    if flags & _PARENT_SETTID and parent_tid:
        out.append(f"parent_tid=[{s32(call.memory.load(parent_tid, 4))}]")
    return f" => {{{', '.join(out)}}}" if out else None


DECODERS["schedparam"] = pint


@decoder
def hwprobe(call: Call, value: int, where: str) -> str:
    def show(raw: bytes) -> str:
        key, bits = struct.unpack("<qQ", raw)
        return f"{{key={_HWPROBE.get(key, str(key))}, value={_hex(bits)}}}"

    return elements(call, value, call.count(where), 16, show)


_HWPROBE: Final = dict(
    enumerate(
        "RISCV_HWPROBE_KEY_" + name
        for name in (
            "MVENDORID", "MARCHID", "MIMPID", "BASE_BEHAVIOR", "IMA_EXT_0", "CPUPERF_0", "ZICBOZ_BLOCK_SIZE",
            "HIGHEST_VIRT_ADDRESS", "TIME_CSR_FREQ", "MISALIGNED_SCALAR_PERF", "MISALIGNED_VECTOR_PERF",
        )
    )
)  # fmt: skip


# -- terminals and other ioctls -----------------------------------------------------------------------------------


def _termios(raw: bytes) -> str:
    iflag, oflag, cflag, lflag = struct.unpack_from("<IIII", raw)
    speed = enumerated(ENUMS["baud"], cflag & 0o10017)
    out = [speed]
    for names, word, show in (
        ("iflag", iflag, 0), ("oflag", oflag, 0), ("cflag", cflag, 1), ("lflag", lflag, 0),
    ):  # fmt: skip
        if show:
            out.append(f"cs{5 + (word >> 4 & 3)}") if word >> 4 & 3 != 3 else None
        out += [name for bit, name in FLAGS[names].rows if word & bit and name in _SHOWN_MODES]
        if names in ("oflag", "cflag", "lflag", "iflag"):
            out += ["-" + name for bit, name in FLAGS[names].rows if not word & bit and name in _EXPECTED]
    return "{" + " ".join(out) + " ...}"


_SHOWN_MODES: Final = frozenset({"opost", "isig", "icanon", "echo"})
_EXPECTED: Final = _SHOWN_MODES


@decoder
def ioctlarg(call: Call, value: int, _: str) -> str | None:
    """The third argument: what the call takes, or has given."""
    request = call.args[1] & 0xFFFF_FFFF
    if request in _NO_ARGUMENT:
        return None
    if request in _GIVES and call.failed:
        return pointer(value)
    if request in (0x5401, 0x5402, 0x5403, 0x5404):
        return _termios(call.memory.read(value, 36))
    if request in (0x5413, 0x5414):
        rows, columns, x, y = call.fields(value, "<4H")
        return f"{{ws_row={rows}, ws_col={columns}, ws_xpixel={x}, ws_ypixel={y}}}"
    if request in _INTEGERS:
        return f"[{s32(call.memory.load(value, 4))}]"
    return f"{value:#x}" if value else "0"


_NO_ARGUMENT: Final = frozenset({0x5450, 0x5451, 0x540C, 0x540D, 0x5422})
"""FIONCLEX, FIOCLEX, TIOCEXCL, TIOCNXCL, TIOCNOTTY."""
_GIVES: Final = frozenset({0x5401, 0x5413, 0x540F, 0x5411, 0x541B, 0x5429, 0x80045430, 0x5424})
_INTEGERS: Final = frozenset(
    {0x540F, 0x5410, 0x5411, 0x541B, 0x5421, 0x5452, 0x5429, 0x80045430, 0x40045431, 0x5424}
)
