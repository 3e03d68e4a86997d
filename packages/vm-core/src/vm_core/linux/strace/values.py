"""How one argument of a system call is shown: numbers, names, strings, and what pointers lead to.

A decoder takes the call, the argument's register and a parameter of its own, and returns text, or None for an argument that
this call does not have. It reads the guest's memory with the guest's permissions: it may raise MemoryFault and, for contents
that make no sense, ValueError and its like; the argument is then shown as the pointer that it is.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from vm_core.linux.abi import SIGNAL_NAMES, s32, s64
from vm_core.linux.strace.names import ENUMS, FLAGS, Names, enumerated, flagged, ioctl_name, open_names
from vm_core.memory import MemoryFault

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__ = [
    "BAD_MEMORY",
    "DECODERS",
    "Call",
    "Decoder",
    "decoder",
    "elements",
    "mode",
    "open_flags",
    "pointer",
    "quote",
    "signal_number",
    "signal_set",
    "structure",
]

MOST: Final = 32
"""Elements of an array that are shown."""
BAD_MEMORY: Final = (MemoryFault, ValueError, IndexError, KeyError, OverflowError, struct.error, OSError)
"""What reading a guest's structures may raise."""


class Call:
    """One system call, before or after it was made. ``result`` is the handler's number, None for a call without a result."""

    __slots__ = ("abi", "args", "done", "kept", "memory", "name", "result", "strings", "thread")

    def __init__(self, thread: GuestThread, name: str, args: tuple[int, ...], strings: int) -> None:
        self.thread = thread
        self.memory = thread.memory
        self.abi = thread.abi
        self.name = name
        self.args = args
        self.strings = strings
        """Most bytes of a string that are shown."""
        self.result: int | None = None
        self.done = False
        self.kept: int = 0
        """What a decoder saw before the call and needs after it."""

    @property
    def failed(self) -> bool:
        return self.result is None or -4096 < self.result < 0

    def count(self, where: str) -> int:
        """A number of elements or bytes: the result (``ret``), a constant (``#3``), or the argument with that index."""
        if where == "ret":
            return max(self.result or 0, 0)
        return int(where[1:]) if where[0] == "#" else self.args[int(where)]

    def fields(self, address: int, layout: str) -> tuple[Any, ...]:
        """What a struct of the module struct finds in the guest's memory."""
        return struct.unpack(layout, self.memory.read(address, struct.calcsize(layout)))


Decoder = Callable[[Call, int, str], "str | None"]
D = TypeVar("D", bound=Decoder)
DECODERS: Final[dict[str, Decoder]] = {}
"""By the word that signatures use."""


def decoder(function: D) -> D:
    """Register a decoder under its name, less a trailing underscore."""
    named: Any = function
    DECODERS[named.__name__.rstrip("_")] = function
    return function


def structure(function: D) -> D:
    """Register a decoder of what a pointer leads to: one that is NULL is shown as that."""

    @wraps(function)
    def shown(call: Call, value: int, parameter: str) -> str | None:
        return function(call, value, parameter) if value else "NULL"

    return cast("D", decoder(shown))


# -- text -------------------------------------------------------------------------------------------------------

_ESCAPES: Final = {
    9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\",
}  # fmt: skip
_PLAIN: Final = frozenset(range(32, 127)) - {34, 92}


def quote(data: bytes, *, cut: bool = False) -> str:
    """A C string literal; ``cut`` if there is more."""
    out = []
    for at, byte in enumerate(data):
        if byte in _PLAIN:
            out.append(chr(byte))
        elif byte in _ESCAPES:
            out.append(_ESCAPES[byte])
        elif data[at + 1 : at + 2].isdigit() and data[at + 1] < 56:
            out.append(f"\\{byte:03o}")
        else:
            out.append(f"\\{byte:o}")
    return '"' + "".join(out) + '"' + ("..." if cut else "")


def pointer(value: int) -> str:
    return f"{value:#x}" if value else "NULL"


def text_of(call: Call, data: bytes, length: int) -> str:
    """``length`` bytes, of which ``data`` are the first ones."""
    return quote(data[: call.strings], cut=length > call.strings)


def elements(call: Call, address: int, count: int, size: int, show: Callable[[bytes], str]) -> str:
    """An array of structures of ``size`` bytes."""
    if count < 0 or count > 1 << 24:
        return pointer(address)
    raw = call.memory.read(address, min(count, MOST) * size)
    out = [show(raw[at : at + size]) for at in range(0, len(raw), size)]
    return "[" + ", ".join([*out, "..."] if count > MOST else out) + "]"


def signal_number(number: int) -> str:
    """``SIGINT`` for 2, ``SIGRT_1`` for 33; other numbers are shown as such."""
    if number in SIGNAL_NAMES:
        return SIGNAL_NAMES[number]
    if 32 <= number <= 64:
        return "SIGRTMIN" if number == 32 else f"SIGRT_{number - 32}"
    return str(number)


def signal_set(mask: int) -> str:
    """A sigset_t: the signals in it, or if these are most, those that are not."""
    left, head = mask, "["
    if mask.bit_count() >= 42:
        left, head = ~mask, "~["
    return (
        head + " ".join(signal_number(n).removeprefix("SIG") for n in range(1, 65) if left >> n - 1 & 1) + "]"
    )


def mode(value: int, *, kind: bool = True) -> str:
    """st_mode; without ``kind``, the permissions that a call takes."""
    if not kind:
        return f"0{value:02o}"
    names = {
        0o14: "S_IFSOCK",
        0o12: "S_IFLNK",
        0o10: "S_IFREG",
        6: "S_IFBLK",
        4: "S_IFDIR",
        2: "S_IFCHR",
        1: "S_IFIFO",
    }
    out = [names[value >> 12 & 0xF]] if value >> 12 & 0xF in names else []
    out += [
        name for bit, name in ((0o4000, "S_ISUID"), (0o2000, "S_ISGID"), (0o1000, "S_ISVTX")) if value & bit
    ]
    rest = value & (0o777 if value >> 12 & 0xF in names else 0o170777)
    return "|".join([*out, f"0{rest:o}" if rest > 7 else f"0{rest:02o}"])


_opens: dict[str, Names] = {}


def open_flags(call: Call, value: int) -> str:
    """open(2)'s flags, access mode first."""
    abi = call.abi
    if abi.isa not in _opens:
        _opens[abi.isa] = open_names(abi.O_DIRECTORY, abi.O_NOFOLLOW, abi.O_DIRECT, abi.O_LARGEFILE)
    access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")[value & 3]
    return flagged(_opens[abi.isa], value & 0xFFFF_FFFC, access)


# -- numbers ----------------------------------------------------------------------------------------------------


@decoder
def int_(_call: Call, value: int, _: str) -> str:
    return str(s32(value))


@decoder
def uint(_call: Call, value: int, _: str) -> str:
    return str(value & 0xFFFF_FFFF)


@decoder
def long(_call: Call, value: int, _: str) -> str:
    return str(s64(value))


@decoder
def ulong(_call: Call, value: int, _: str) -> str:
    return str(value)


@decoder
def hex_(_call: Call, value: int, _: str) -> str:
    return f"{value:#x}" if value else "0"


@decoder
def hex32(_call: Call, value: int, _: str) -> str:
    return f"{value & 0xFFFF_FFFF:#x}" if value & 0xFFFF_FFFF else "0"


@decoder
def ptr(_call: Call, value: int, _: str) -> str:
    return pointer(value)


DECODERS["fd"] = int_


@decoder
def dfd(_call: Call, value: int, _: str) -> str:
    return "AT_FDCWD" if s32(value) == -100 else str(s32(value))


@decoder
def id_(_call: Call, value: int, _: str) -> str:
    """A user or group; -1 leaves it as it is."""
    value &= 0xFFFF_FFFF
    return "-1" if value == 0xFFFF_FFFF else str(value)


@decoder
def mode_(_call: Call, value: int, _: str) -> str:
    return mode(value & 0xFFFF, kind=False)


@decoder
def filemode(_call: Call, value: int, _: str) -> str:
    return mode(value & 0xFFFF_FFFF)


@decoder
def dev(call: Call, value: int, _: str) -> str | None:
    """mknod's last argument, which is there for devices only."""
    return device(value) if call.args[-2] >> 12 & 0xF in (2, 6) else None


def device(value: int) -> str:
    major = value >> 8 & 0xFFF | value >> 32 & ~0xFFF
    minor = value & 0xFF | value >> 12 & ~0xFF & 0xFFFF_FFFF
    return f"makedev({major:#x}, {minor:#x})"


@decoder
def enum(_call: Call, value: int, names: str) -> str:
    """A 32-bit constant."""
    table = ENUMS[names]
    number = s32(value)
    if number in table.by_value:
        return table.by_value[number]
    return enumerated(table, value & 0xFFFF_FFFF)


@decoder
def flags(_call: Call, value: int, names: str) -> str:
    """32 bits."""
    return flagged(FLAGS[names], value & 0xFFFF_FFFF)


@decoder
def flags64(_call: Call, value: int, names: str) -> str:
    return flagged(FLAGS[names], value)


@decoder
def sig(_call: Call, value: int, _: str) -> str:
    return signal_number(s32(value))


# -- strings ----------------------------------------------------------------------------------------------------


@structure
def path(call: Call, value: int, _: str) -> str:
    """All of it."""
    return _string(call, value, 4096)


def _string(call: Call, address: int, limit: int) -> str:
    """A string up to its NUL, or ``limit`` bytes of it."""
    memory = call.memory
    out = b""
    while len(out) <= limit:
        step = min(4096 - (address + len(out)) % 4096, limit + 1 - len(out))
        chunk = memory.read(address + len(out), step)
        end = chunk.find(0)
        if end >= 0:
            out += chunk[:end]
            return quote(out)
        out += chunk
    return quote(out[:limit], cut=True)


@structure
def str_(call: Call, value: int, _: str) -> str:
    """As much as strings are shown of."""
    return _string(call, value, call.strings)


@decoder
def data(call: Call, value: int, where: str) -> str:
    """Bytes: as many as ``where`` says."""
    length = call.count(where)
    if not value:
        return "NULL"
    raw = call.memory.read(value, min(length, call.strings))
    return text_of(call, raw, length)


@decoder
def bytes_(call: Call, value: int, where: str) -> str:
    """Bytes that are no text."""
    length = call.count(where)
    if not value:
        return "NULL"
    raw = call.memory.read(value, min(length, call.strings))
    return '"' + "".join(f"\\x{byte:02x}" for byte in raw) + '"' + ("..." if length > call.strings else "")


@structure
def words(call: Call, value: int, _: str) -> str:
    """execve's arguments."""
    out: list[str] = []
    memory = call.memory
    while True:
        try:
            at = memory.load(value, 8)
        except MemoryFault:
            out.append(f"{value:#x}")
            break
        if not at:
            break
        if len(out) >= MOST:
            out.append("...")
            break
        try:
            out.append(_string(call, at, call.strings))
        except MemoryFault:
            out.append(f"{at:#x}")
        value += 8
    return "[" + ", ".join(out) + "]"


@structure
def environment(call: Call, value: int, _: str) -> str:
    """execve's variables: how many."""
    count, at = 0, value
    while count < 1 << 16 and call.memory.load(at, 8):
        count, at = count + 1, at + 8
    return f"{value:#x} /* {count} var{'' if count == 1 else 's'} */"


# -- pointers to numbers ----------------------------------------------------------------------------------------


@structure
def pint(call: Call, value: int, _: str) -> str:
    """A pointer to an int."""
    return f"[{s32(call.memory.load(value, 4))}]"


@structure
def puint(call: Call, value: int, _: str) -> str:
    return f"[{call.memory.load(value, 4)}]"


@structure
def plong(call: Call, value: int, _: str) -> str:
    return f"[{s64(call.memory.load(value, 8))}]"


@structure
def phex(call: Call, value: int, _: str) -> str:
    return f"[{call.memory.load(value, 8):#x}]"


@decoder
def pair(call: Call, value: int, _: str) -> str:
    """Two descriptors."""
    first, second = call.fields(value, "<ii")
    return f"[{first}, {second}]"


@decoder
def groups(call: Call, value: int, where: str) -> str:
    return elements(call, value, call.count(where), 4, lambda raw: str(int.from_bytes(raw, "little")))


@decoder
def cpus(call: Call, value: int, where: str) -> str:
    """A set of processors, of as many bytes."""
    mask = int.from_bytes(call.memory.read(value, min(call.count(where), 128)), "little")
    return "[" + " ".join(str(n) for n in range(mask.bit_length()) if mask >> n & 1) + "]"


@decoder
def residency(call: Call, value: int, _: str) -> str:
    """mincore's result."""
    count = (call.args[1] + 4095) // 4096
    return elements(call, value, count, 1, lambda raw: "1" if raw[0] & 1 else "0")


# -- calls whose arguments depend on others -----------------------------------------------------------------------


@decoder
def oflags(call: Call, value: int, _: str) -> str:
    return open_flags(call, value)


@decoder
def dupflags(_call: Call, value: int, _: str) -> str:
    return "O_CLOEXEC" if value == 0o2000000 else f"{value:#x}" if value else "0"


@decoder
def pipeflags(call: Call, value: int, _: str) -> str:
    return open_flags(call, value & ~3).removeprefix("O_RDONLY|") if value else "0"


@decoder
def openmode(call: Call, value: int, where: str) -> str | None:
    """The mode of a file that may be made."""
    return mode(value & 0xFFFF, kind=False) if call.args[int(where)] & (0o100 | 0o20000000) else None


@decoder
def mapflags(_call: Call, value: int, _: str) -> str:
    kind = ("", "MAP_SHARED", "MAP_PRIVATE", "MAP_SHARED_VALIDATE")[value & 3]
    return (
        flagged(FLAGS["map"], value & 0xFFFF_FFFC, kind)
        if kind
        else flagged(FLAGS["map"], value & 0xFFFF_FFFF)
    )


@decoder
def newaddress(call: Call, value: int, _: str) -> str | None:
    """mremap's, which it looks at only with MREMAP_FIXED."""
    return pointer(value) if call.args[3] & 6 else None


@decoder
def statxsync(_call: Call, value: int, _: str) -> str:
    value &= 0xFFFF_FFFF
    first = "" if value & 0x6000 else "AT_STATX_SYNC_AS_STAT"
    return flagged(FLAGS["at_sync"], value, first)


@decoder
def sockettype(_call: Call, value: int, _: str) -> str:
    kind = enumerated(ENUMS["socktype"], value & 0xF)
    return flagged(FLAGS["sock"], value & 0xFFFF_FFF0, kind)


@decoder
def protocol(call: Call, value: int, _: str) -> str:
    family = s32(call.args[0])
    if family in (2, 10):
        return enum(call, value, "ipproto")
    if family == 16:
        return enum(call, value, "netlink")
    return str(s32(value))


@decoder
def ioctl(_call: Call, value: int, _: str) -> str:
    return ioctl_name(value & 0xFFFF_FFFF)


_FUTEX_WAITS: Final = frozenset({0, 6, 9, 11, 13})
_FUTEX_TWO: Final = frozenset({3, 4, 5, 11, 12})


def _futex_operation(call: Call) -> int:
    return call.args[1] & ~0x180 & 0xFFFF_FFFF


@decoder
def futexop(call: Call, value: int, _: str) -> str:
    names = ENUMS["futex"]
    operation = _futex_operation(call)
    name = names.by_value.get(operation) or f"{operation:#x} /* {names.unknown} */"
    return name + ("_PRIVATE" if value & 128 else "") + ("|FUTEX_CLOCK_REALTIME" if value & 256 else "")


@decoder
def futexvalue(call: Call, value: int, _: str) -> str | None:
    operation = _futex_operation(call)
    if operation in (6, 7, 8, 13):  # the PI ones have none
        return None
    return str(value & 0xFFFF_FFFF) if operation in (0, 9, 11) else str(s32(value))


@decoder
def futexfourth(call: Call, value: int, _: str) -> str | None:
    """A timeout, or a number."""
    operation = _futex_operation(call)
    if operation in _FUTEX_WAITS:
        return DECODERS["timespec"](call, value, "")
    return str(s32(value)) if operation in _FUTEX_TWO else None


@decoder
def futexsecond(call: Call, value: int, _: str) -> str | None:
    return pointer(value) if _futex_operation(call) in _FUTEX_TWO else None


@decoder
def futexlast(call: Call, value: int, _: str) -> str | None:
    operation = _futex_operation(call)
    if operation in (9, 10):
        return "FUTEX_BITSET_MATCH_ANY" if value & 0xFFFF_FFFF == 0xFFFF_FFFF else f"{value & 0xFFFF_FFFF:#x}"
    return str(value & 0xFFFF_FFFF) if operation in (4, 5, 12) else None


_FCNTL_NONE: Final = frozenset({1, 3, 9, 11, 1025, 1032, 1034})
_FCNTL_LOCK: Final = frozenset({5, 6, 7, 36, 37, 38})


@decoder
def fcntlarg(call: Call, value: int, _: str) -> str | None:
    command = s32(call.args[1])
    if command in _FCNTL_NONE:
        return None
    if command == 2:
        return flagged(FLAGS["fd"], value)
    if command == 4:
        return open_flags(call, value)
    if command == 10:
        return signal_number(s32(value))
    if command == 1024:
        return enumerated(ENUMS["lock"], value)
    if command == 1033:
        return flagged(FLAGS["seals"], value)
    if command in _FCNTL_LOCK:
        kind, whence, start, length, pid = call.fields(value, "<hhxxxxqqi")
        text = (
            f"{{l_type={enumerated(ENUMS['lock'], kind)}, l_whence={enumerated(ENUMS['whence'], whence)}, "
            f"l_start={start}, l_len={length}"
        )
        return text + (f", l_pid={pid}}}" if command in (5, 36) else "}")
    if command in (15, 16):
        kind, pid = call.fields(value, "<ii")
        return f"{{type={enumerated(ENUMS['owner'], kind)}, pid={pid}}}"
    return str(s32(value)) if command in (0, 1030, 1031, 8) else f"{value:#x}"


_PRCTL_ARGUMENTS: Final = {
    2: 1, 3: 0, 7: 0, 16: 1, 30: 0, 37: 1, 40: 1,
    1: 1, 4: 1, 8: 1, 15: 1, 23: 1, 24: 1, 29: 1, 36: 1, 21: 0, 27: 0, 28: 1, 31: 0, 32: 0,
}  # fmt: skip
"""Arguments behind the first that strace shows; all for others."""


@decoder
def prctlarg(call: Call, value: int, where: str) -> str | None:
    operation, at = s32(call.args[0]), int(where)
    if at > _PRCTL_ARGUMENTS.get(operation, 4):
        return None
    if at == 1:
        if operation in (15, 16):
            return _string(call, value, 16) if operation == 15 or not call.failed else pointer(value)
        if operation == 1:
            return signal_number(s32(value))
        if operation == 4:
            return enumerated(ENUMS["dumpable"], value)
        if operation in (2, 37):
            return pointer(value) if call.failed else f"[{s32(call.memory.load(value, 4))}]"
        return str(value) if value < 1 << 16 else f"{value:#x}"
    return f"{value:#x}" if value else "0"


# -- results ----------------------------------------------------------------------------------------------------

RESULTS: Final[dict[str, Callable[[Call, int], str]]] = {
    "hex": lambda _call, result: hex(result & (1 << 64) - 1) if result else "0",
    "mode": lambda _call, result: mode(result & 0xFFFF_FFFF, kind=False),
    "signal": lambda _call, result: f"{result} ({signal_number(result)})",
}
"""Results that are no plain numbers, by the word behind the = in a signature."""


def result_of(function: Callable[[Call, int], str]) -> Callable[[Call, int], str]:
    """Register a function that shows a result."""
    RESULTS[function.__name__.removesuffix("_result")] = function
    return function


@result_of
def fcntl_result(call: Call, result: int) -> str:
    command = s32(call.args[1])
    if command == 1:
        return f"{result:#x} (flags {flagged(FLAGS['fd'], result)})" if result else "0"
    if command == 3:
        return f"{result:#x} (flags {open_flags(call, result)})"
    if command == 1034:
        return f"{result:#x} (seals {flagged(FLAGS['seals'], result)})" if result else "0"
    if command == 1025:
        return f"{result:#x} ({enumerated(ENUMS['lock'], result)})"
    if command == 11 and result:
        return f"{result} ({signal_number(result)})"
    return str(result)


@result_of
def prctl_result(call: Call, result: int) -> str:
    if s32(call.args[0]) == 3:
        return f"{result} ({enumerated(ENUMS['dumpable'], result)})"
    return str(result)


def stamp(seconds: int, nanoseconds: int) -> str:
    """A date for people, as a C comment; UTC."""
    try:
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return ""
    return f" /* {date}{f'.{nanoseconds:09}' if nanoseconds else ''}+0000 */"
