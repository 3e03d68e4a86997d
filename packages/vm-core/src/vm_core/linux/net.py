"""Sockets: AF_UNIX always, AF_INET, AF_INET6 and the reading half of NETLINK_ROUTE with ``net=True``.

A unix socket's path goes through the guest's name space: nothing outside it can be bound or reached. Abstract names
belong to a whole host; the guest's are put below a prefix of its own, so that it finds only its own. Without the network
a unix socket reaches nobody but the guest's own processes, even where the view shows a socket of the host.

A host socket never blocks; waits, and the time limits SO_RCVTIMEO and SO_SNDTIMEO on them, are made here. Addresses and
control messages have the same layout on all 64-bit ABIs, so that most of them pass as they are.

socket(2), unix(7), ip(7), cmsg(3), netlink(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable

from vm_core.hints import TYPE_CHECKING, Final
from vm_core.linux.abi import s32
from vm_core.linux.files import (
    DIRECTORY,
    RESTART,
    SOCKET,
    File,
    _kind_of,
    _vector,
    socket_deadline,
    wait_for,
)
from vm_core.linux.host import call as host_call
from vm_core.linux.host import guest as host_address
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__: list[str] = []

_FD: Final = 0xFFFF_FFFF
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_FAMILIES: Final = 46
"""How many numbers of families there are."""
_STREAM, _DGRAM, _RAW, _SEQPACKET = 1, 2, 3, 5
_DONTWAIT, _WAITALL, _NOSIGNAL, _CMSG_CLOEXEC, _CMSG_COMPAT = 0x40, 0x100, 0x4000, 0x4000_0000, 0x8000_0000
_PEEK, _WAITFORONE, _ERRQUEUE, _TRUNC = 0x2, 0x1_0000, 0x2000, 0x20
_SEND_FLAGS: Final = 0x1 | 0x4 | 0x40 | 0x80 | 0x800 | 0x4000 | 0x8000 | 0x2000_0000
"""MSG_OOB, DONTROUTE, DONTWAIT, EOR, CONFIRM, NOSIGNAL, MORE, FASTOPEN."""
_RECEIVE_FLAGS: Final = 0x1 | _PEEK | _TRUNC | _DONTWAIT | _WAITALL | _ERRQUEUE
_MOST: Final = 1 << 24
"""Bytes that one call sends or receives at most."""
_MAX_CONTROL: Final = 20480
"""As Linux's net.core.optmem_max."""
_LONGEST_NAME: Final = 107


class Mate:
    """A descriptor that is closed with the last endpoint that has it: descriptions of one socket may share that."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Endpoint:
    """What File.socket of a socket is: its kind, and for AF_UNIX what its own address is for the guest.

    ``mate`` is the other end of what stands in for a socket of NETLINK_ROUTE until the guest asks it something; None for all
    others. By it come the notices of a message queue, for which mq_notify(3) takes such a socket, and nothing needs a network.
    """

    __slots__ = ("family", "kind", "mate", "name", "protocol")

    def __init__(self, family: int, kind: int, protocol: int, mate: Mate | None = None) -> None:
        self.family = family
        self.kind = kind
        self.protocol = protocol
        self.name: bytes | None = None
        self.mate = mate

    def notify(self, notice: bytes) -> None:
        """Have the socket receive this."""
        if self.mate is not None:
            with contextlib.suppress(OSError):
                os.write(self.mate.fd, notice)


def _file(t: GuestThread, fd: int) -> File:
    file = t.table.get(fd & _FD)
    if file is None or file.kind == 4:  # O_PATH
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.kind != SOCKET:
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    return file


def _option(fd: int, option: int) -> int:
    out, size = ctypes.create_string_buffer(4), ctypes.create_string_buffer(struct.pack("<I", 4), 4)
    # SAFETY: two buffers of 4 bytes that outlive the call.
    host_call("getsockopt", fd, socket.SOL_SOCKET, option, out, size)
    return int.from_bytes(out.raw, "little", signed=True)


def _endpoint(file: File) -> Endpoint:
    made = file.socket
    if not isinstance(made, Endpoint):  # inherited, or passed by another process
        made = file.socket = Endpoint(
            _option(file.fd, socket.SO_DOMAIN),
            _option(file.fd, socket.SO_TYPE),
            _option(file.fd, socket.SO_PROTOCOL),
        )
    return made


def _adopt(t: GuestThread, fd: int, endpoint: Endpoint, flags: int) -> int:
    file = File(fd, 2 | (flags & _NONBLOCK), kind=SOCKET)
    file.path = f"socket:[{os.fstat(fd).st_ino}]"
    file.socket = endpoint
    return t.files.add(file, cloexec=bool(flags & _CLOEXEC))


def _retry(t: GuestThread, file: File, events: int, flags: int, action: Callable[[], int]) -> int:
    """Do it, waiting as often as it would block; a negative errno if the wait ended otherwise."""
    fd = file.fd
    if file.inherited and not flags & _DONTWAIT and (result := wait_for(t, file, events)):
        # Its descriptor may be a blocking one, in which the host would wait where nothing can end it.
        return result
    deadline: float | None = None
    first = True
    while True:
        try:
            return action()
        except BlockingIOError:
            if file.flags & _NONBLOCK or flags & _DONTWAIT:
                return -errno.EAGAIN
        if first:
            deadline, first = socket_deadline(file, events), False
        ready = t.poll([(fd, events)], deadline)
        if ready is None:
            # With a time limit the call is not made again behind a handler, since the limit would begin anew.
            return RESTART if deadline is None else -errno.EINTR
        if not ready:
            return -errno.EAGAIN
        if file.fd != fd:
            # Closed by another thread meanwhile: its number may belong to another file by now.
            return -errno.EBADF


# -- making sockets ---------------------------------------------------------------------------------------------


def _kind_is_valid(kind: int) -> bool:
    return not kind & 0xFFFF_FFFF & ~(_NONBLOCK | _CLOEXEC | 0xF)


def socket_(t: GuestThread, family: int, kind: int, protocol: int) -> int:
    family, protocol = s32(family), s32(protocol)
    if not _kind_is_valid(kind):
        return -errno.EINVAL
    flags, kind = kind & (_NONBLOCK | _CLOEXEC), kind & 0xF
    if family == _UNIX:
        if kind == _RAW:
            kind = _DGRAM  # as Linux has it
        if kind not in (_STREAM, _DGRAM, _SEQPACKET):
            return -errno.ESOCKTNOSUPPORT
    elif family == _NETLINK and kind in (_RAW, _DGRAM) and not protocol and not t.process.trust:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for made in (first, second):
            made.setblocking(False)
        return _adopt(t, first.detach(), Endpoint(family, kind, protocol, Mate(second.detach())), flags)
    elif not 0 <= family < _FAMILIES:
        return -errno.EAFNOSUPPORT
    elif not t.process.net:
        _explain(t, "socket")
        return -errno.EACCES
    elif family == _NETLINK:
        if kind not in (_RAW, _DGRAM):
            return -errno.ESOCKTNOSUPPORT
        if protocol:
            return -errno.EPROTONOSUPPORT
    elif family not in (_INET, _INET6):
        return -errno.EAFNOSUPPORT
    elif kind not in (_STREAM, _DGRAM):
        return -errno.EPERM if kind == _RAW else -errno.ESOCKTNOSUPPORT
    fd = host_call("socket", family, kind | _NONBLOCK | _CLOEXEC, protocol)
    return _adopt(t, fd, Endpoint(family, kind, protocol), flags)


def _explain(t: GuestThread, call: str) -> None:
    t.process.explain("net", f"the guest has no network: {call}() returns EACCES (allow it with --net)")


def _in_use(t: GuestThread, file: File, call: str) -> Endpoint:
    """The endpoint of a socket that is about to be used for what only the host's kernel can do. Raises OSError."""
    endpoint = _endpoint(file)
    if endpoint.mate is not None:
        if not t.process.net:
            _explain(t, call)
            raise _refuse(errno.EACCES)
        fd = host_call("socket", endpoint.family, endpoint.kind | _NONBLOCK | _CLOEXEC, endpoint.protocol)
        os.dup2(fd, file.fd, inheritable=False)
        os.close(fd)
        endpoint.mate = None
    return endpoint


def socketpair(t: GuestThread, family: int, kind: int, protocol: int, result: int) -> int:
    if not _kind_is_valid(kind):
        return -errno.EINVAL
    if s32(family) != _UNIX:
        return -errno.EOPNOTSUPP if s32(family) in (_INET, _INET6) else -errno.EAFNOSUPPORT
    t.memory.check(result, 8, Access.WRITE)
    flags, kind = kind & (_NONBLOCK | _CLOEXEC), kind & 0xF
    first, second = socket.socketpair(socket.AF_UNIX, int(kind), s32(protocol))
    numbers = []
    for made in (first, second):
        made.setblocking(False)
        numbers.append(_adopt(t, made.detach(), Endpoint(_UNIX, kind, s32(protocol)), flags))
    if min(numbers) < 0:
        for number in numbers:
            if number >= 0:
                t.files.close(number)
        return -errno.EMFILE
    t.memory.write(result, struct.pack("<ii", *numbers))
    return 0


# -- addresses --------------------------------------------------------------------------------------------------


def _address(t: GuestThread, address: int, size: int) -> bytes:
    """A sockaddr of the guest. Raises OSError and MemoryFault."""
    if s32(size) < 0 or size & _FD > 128:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return t.memory.read(address, size & _FD) if size & _FD else b""


def _refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _private(t: GuestThread) -> bytes:
    """What the guest's abstract names begin with in the host."""
    if t.process.trust:
        return b"\0"
    return b"\0vm-" + t.process.found_family().token[:6].hex().encode() + b"/"


def _abstract(t: GuestThread, name: bytes) -> bytes:
    """A sockaddr_un of the host for an abstract name, given without its zero."""
    host = _private(t) + name
    if len(host) > 108:
        # A long name's digest stands for it.
        import hashlib  # PERF: it loads OpenSSL, and few names are abstract

        digest = hashlib.blake2b(name, digest_size=10).hexdigest().encode()
        t.process.found_family().bound(digest, name, (0, 0))
        host = _private(t) + digest
    return struct.pack("<H", _UNIX) + host


def _check_family(t: GuestThread, endpoint: Endpoint, raw: bytes) -> None:
    """Whether a socket may use an address at all. Raises OSError."""
    if endpoint.family != _UNIX and not t.process.net:
        # A socket that was inherited reaches nobody else.
        raise _refuse(errno.EACCES)
    if endpoint.family == _UNIX and (len(raw) < 2 or raw[:2] != b"\1\0"):
        raise _refuse(errno.EINVAL)


def _bind_unix(t: GuestThread, file: File, endpoint: Endpoint, raw: bytes) -> None:
    name = raw[2:]
    if endpoint.name is not None and (not name or name[0] == 0):
        raise _refuse(errno.EINVAL)
    if not name:
        # Autobind: five hexadecimal digits, abstract.
        for _ in range(64):
            name = b"\0" + os.urandom(3).hex()[:5].encode()
            try:
                host_call("bind", file.fd, made := _abstract(t, name[1:]), len(made))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                endpoint.name = name
                return
        raise _refuse(errno.ENOSPC)
    if name[0] == 0:
        made = _abstract(t, name[1:])
        host_call("bind", file.fd, made, len(made))
        endpoint.name = name
        return
    path = name.split(b"\0")[0]
    # The host remembers the name that it was bound by, and shows it to peers: one that only this guest's processes know.
    label = b".vm-" + os.urandom(8).hex().encode()
    text = os.fsdecode(path)
    with t.files.namespace.walk(t.files.cwd, text.rstrip("/") or text, follow=False) as place:
        if place.node is not None or place.name == ".":
            raise _refuse(errno.EADDRINUSE if place.node is None or place.node.mode else errno.EACCES)
        place.to_change()
        try:
            os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
        except FileNotFoundError:
            if text.endswith("/"):
                raise
        else:
            raise _refuse(errno.EADDRINUSE)
        if endpoint.name is not None:
            raise _refuse(errno.EINVAL)
        made = struct.pack("<H", _UNIX) + os.fsencode(f"/proc/self/fd/{place.fd}/") + label + b"\0"
        host_call("bind", file.fd, made, len(made))
        short = os.fsdecode(label)
        held = os.open(short, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
        try:
            info = os.fstat(held)
            if stat.S_ISSOCK(info.st_mode):
                # By its descriptor: another thread of the guest may have put a link in its place.
                os.chmod(f"/proc/self/fd/{held}", 0o777 & ~t.files.umask)
            os.link(short, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
        except FileExistsError:
            raise _refuse(errno.EADDRINUSE) from None
        finally:
            os.close(held)
            os.unlink(short, dir_fd=place.fd)
    endpoint.name = path + b"\0"
    t.process.found_family().bound(label, path, (info.st_dev, info.st_ino))


def _at_unix(t: GuestThread, endpoint: Endpoint, raw: bytes, action: Callable[[bytes], int]) -> int:
    """Do something with the host's address of a unix socket that the guest names, which no link can redirect."""
    name = raw[2:]
    if not name:
        raise _refuse(errno.EINVAL)
    if name[0] == 0:
        return action(_abstract(t, name[1:]))
    with t.files.namespace.walk(t.files.cwd, os.fsdecode(name.split(b"\0")[0])) as place:
        if place.node is not None:
            raise _refuse(errno.ECONNREFUSED)
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    try:
        info = os.fstat(fd)
        if not stat.S_ISSOCK(info.st_mode):
            raise _refuse(errno.ECONNREFUSED)
        if not t.process.net and not t.process.found_family().owns((info.st_dev, info.st_ino)):
            raise _refuse(errno.ECONNREFUSED)  # a socket of the host
        return action(struct.pack("<H", _UNIX) + os.fsencode(f"/proc/self/fd/{fd}") + b"\0")
    finally:
        os.close(fd)


def _shown(t: GuestThread, raw: bytes) -> bytes:
    """A sockaddr as the guest may see it: of unix sockets, the name that the guest gave."""
    if raw[:2] != b"\1\0" or len(raw) <= 2:
        return raw
    name = raw[2:]
    if name[0] == 0:
        prefix = _private(t)
        if not name.startswith(prefix):
            return raw[:2]
        name = name[len(prefix) :]
        known = t.process.found_family().path_of(name) if len(name) == 20 else None
        return raw[:2] + b"\0" + (known or name)
    label = name.split(b"\0")[0].rpartition(b"/")[2]
    path = t.process.found_family().path_of(label)
    return raw[:2] + path + b"\0" if path is not None else raw[:2]


def _give_address(t: GuestThread, raw: bytes, result: int, size: int) -> None:
    if not result:
        return
    room = s32(t.memory.load(size, 4))
    if room < 0:
        raise _refuse(errno.EINVAL)
    t.memory.write(result, raw[:room])
    t.memory.store(size, 4, len(raw))


class _Name:
    """Room for an address that the host writes."""

    def __init__(self) -> None:
        self.room = ctypes.create_string_buffer(128)
        self.size = ctypes.create_string_buffer(struct.pack("<I", 128), 4)

    @property
    def raw(self) -> bytes:
        return self.room.raw[: int.from_bytes(self.size.raw, "little")]


# -- connections ------------------------------------------------------------------------------------------------


def bind(t: GuestThread, fd: int, address: int, size: int) -> int:
    file = _file(t, fd)
    endpoint, raw = _in_use(t, file, "bind"), _address(t, address, size)
    _check_family(t, endpoint, raw)
    if endpoint.family == _UNIX:
        _bind_unix(t, file, endpoint, raw)
        return 0
    return host_call("bind", file.fd, raw, len(raw))


def listen(t: GuestThread, fd: int, backlog: int) -> int:
    file = _file(t, fd)
    if _in_use(t, file, "listen").family != _UNIX and not t.process.net:
        return -errno.EACCES
    return host_call("listen", file.fd, max(s32(backlog), 0))


def accept4(t: GuestThread, fd: int, result: int, size: int, flags: int) -> int:
    if flags & _FD & ~(_NONBLOCK | _CLOEXEC):
        return -errno.EINVAL
    file = _file(t, fd)
    endpoint = _endpoint(file)
    name = _Name()
    # SAFETY: `name` has 128 bytes, and says so, and outlives the call.
    got = _retry(
        t,
        file,
        select.POLLIN,
        0,
        lambda: host_call("accept4", file.fd, name.room, name.size, _NONBLOCK | _CLOEXEC),
    )
    if got < 0:
        return got
    made = Endpoint(endpoint.family, endpoint.kind, endpoint.protocol)
    made.name = endpoint.name
    number = _adopt(t, got, made, flags)
    if number >= 0:
        _give_address(t, _shown(t, name.raw), result, size)
    return number


def accept(t: GuestThread, fd: int, result: int, size: int) -> int:
    return accept4(t, fd, result, size, 0)


def connect(t: GuestThread, fd: int, address: int, size: int) -> int:
    file = _file(t, fd)
    endpoint, raw = _in_use(t, file, "connect"), _address(t, address, size)
    if raw[:2] == b"\0\0" and endpoint.family == _UNIX and endpoint.kind == _DGRAM:
        return host_call("connect", file.fd, raw, len(raw))  # AF_UNSPEC: no peer any more
    _check_family(t, endpoint, raw)

    def action(host: bytes) -> int:
        return host_call("connect", file.fd, host, len(host))

    if endpoint.family == _UNIX:
        # A full queue of a listener is EAGAIN, and nothing tells when it has room.
        deadline = socket_deadline(file, select.POLLOUT)
        while True:
            try:
                return _at_unix(t, endpoint, raw, action)
            except BlockingIOError:
                if file.flags & _NONBLOCK or (deadline is not None and time.monotonic() >= deadline):
                    return -errno.EAGAIN
            if not t.sleep(0.002):
                return RESTART
    try:
        return action(raw)
    except BlockingIOError:
        if file.flags & _NONBLOCK:
            return -errno.EINPROGRESS
    ready = t.poll([(file.fd, select.POLLOUT)], socket_deadline(file, select.POLLOUT))
    if ready is None:
        return RESTART
    if not ready:
        return -errno.EINPROGRESS
    # Asked again, it says how it ended; and a socket that could not be connected is as before, for another try.
    return action(raw)


def shutdown(t: GuestThread, fd: int, how: int) -> int:
    return host_call("shutdown", _file(t, fd).fd, s32(how))


def getsockname(t: GuestThread, fd: int, result: int, size: int) -> int:
    file = _file(t, fd)
    endpoint = _in_use(t, file, "getsockname")
    if endpoint.name is not None:
        _give_address(t, struct.pack("<H", _UNIX) + endpoint.name, result, size)
        return 0
    return _name(t, "getsockname", file, result, size)


def getpeername(t: GuestThread, fd: int, result: int, size: int) -> int:
    file = _file(t, fd)
    _in_use(t, file, "getpeername")
    return _name(t, "getpeername", file, result, size)


def _name(t: GuestThread, call: str, file: File, result: int, size: int) -> int:
    name = _Name()
    # SAFETY: `name` has 128 bytes, and says so, and outlives the call.
    host_call(call, file.fd, name.room, name.size)
    _give_address(t, _shown(t, name.raw), result, size)
    return 0


# -- messages ---------------------------------------------------------------------------------------------------

_HEADER: Final = struct.Struct("<QI4xQQQQi4x")
"""struct msghdr: name, its size, vector, its count, control, its size, flags."""
_CONTROL: Final = struct.Struct("<Qii")
_CONTROL_SENT: Final = {
    socket.IPPROTO_IP: frozenset({1, 2, 8}),  # TOS, TTL, PKTINFO
    socket.IPPROTO_IPV6: frozenset({50, 52, 67}),  # PKTINFO, HOPLIMIT, TCLASS
    17: frozenset({103}),  # UDP_SEGMENT
}
"""Control messages that may be sent as they are."""
_RIGHTS, _CREDENTIALS = 1, 2


class _Message:
    """A host's struct msghdr whose vector is guest memory that was checked."""

    def __init__(self, name: bytes, windows: list[memoryview], control: bytes | int) -> None:
        self._keep = [
            ctypes.c_char.from_buffer(window) if not window.readonly else None for window in windows
        ]
        vector = bytearray()
        for window, first in zip(windows, self._keep, strict=True):
            assert first is not None
            vector += struct.pack("<QQ", ctypes.addressof(first), len(window))
        self._vector = ctypes.create_string_buffer(bytes(vector) or b"\0" * 16, max(len(vector), 16))
        self.name = ctypes.create_string_buffer(name or b"\0", max(len(name), 128))
        size = control if isinstance(control, int) else len(control)
        self.control = ctypes.create_string_buffer(b"" if isinstance(control, int) else control, max(size, 1))
        self._has_control = size
        self._count = len(windows)
        self.header = ctypes.create_string_buffer(_HEADER.size)
        self.aim(len(name))

    def aim(self, name_size: int) -> None:
        """Ready for a call, which changes the sizes."""
        self.header.raw = _HEADER.pack(
            ctypes.addressof(self.name) if name_size else 0, name_size,
            ctypes.addressof(self._vector), self._count,
            ctypes.addressof(self.control) if self._has_control else 0, self._has_control, 0,
        )  # fmt: skip


def _control_to_host(t: GuestThread, endpoint: Endpoint, raw: bytes) -> bytes:
    """The control messages of a send with the host's descriptors in them. Raises OSError."""
    out = bytearray()
    at = 0
    while at + _CONTROL.size <= len(raw):
        length, level, kind = _CONTROL.unpack_from(raw, at)
        if not _CONTROL.size <= length <= len(raw) - at:
            raise _refuse(errno.EINVAL)
        data = raw[at + _CONTROL.size : at + length]
        if level == socket.SOL_SOCKET and kind == _RIGHTS and endpoint.family == _UNIX:
            numbers = struct.unpack(f"<{len(data) // 4}i", data[: len(data) & -4])
            hosts = []
            for number in numbers:
                file = t.table.get(number)
                if file is None or file.fd < 0:
                    raise _refuse(errno.EBADF if file is None else errno.EINVAL)
                _mark(file)
                hosts.append(file.fd)
            data = struct.pack(f"<{len(hosts)}i", *hosts)
        elif level == socket.SOL_SOCKET and kind == _CREDENTIALS and endpoint.family == _UNIX:
            if len(data) != 12:
                raise _refuse(errno.EINVAL)
        elif kind not in _CONTROL_SENT.get(level, ()):
            raise _refuse(errno.EINVAL)
        piece = _CONTROL.pack(_CONTROL.size + len(data), level, kind) + data
        out += piece.ljust((len(piece) + 7) & -8, b"\0")
        at += (length + 7) & -8
    return bytes(out)


_F_SETSIG, _F_GETSIG = 10, 11
_MARK: Final = 64


def _mark(file: File) -> None:
    """Tell whoever gets the description that the guest has it non-blocking: the host's own flag is always set."""
    if file.inherited:
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(file.fd, _F_SETSIG, _MARK if file.flags & _NONBLOCK else 0)


def _received(t: GuestThread, fd: int) -> File:
    """A File for a descriptor that another process sent."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    info = os.fstat(fd)
    path = t.files.namespace.guest_path(fd)
    kind = _kind_of(info.st_mode)
    if kind == DIRECTORY and path is None:
        raise _refuse(errno.EACCES)  # what lies below it is none of the guest's
    keep = flags & (3 | 0o2000)
    if fcntl.fcntl(fd, _F_GETSIG) == _MARK or kind not in (SOCKET, 1):
        keep |= flags & _NONBLOCK if kind in (SOCKET, 1) else 0
    inherited = kind in (SOCKET, 1) and not flags & os.O_NONBLOCK
    if inherited:
        keep |= flags & _NONBLOCK
    if flags & os.O_PATH:
        kind = 4
    return File(fd, keep, path=path or "", kind=kind, inherited=inherited)


def _control_to_guest(t: GuestThread, raw: bytes, room: int, *, cloexec: bool) -> tuple[bytes, bool]:
    """(what the guest gets in its room, whether that was cut)."""
    out = bytearray()
    cut = False
    at = 0
    while at + _CONTROL.size <= len(raw):
        length, level, kind = _CONTROL.unpack_from(raw, at)
        data = raw[at + _CONTROL.size : at + length]
        at += (length + 7) & -8
        if level == socket.SOL_SOCKET and kind == _RIGHTS:
            numbers = []
            hosts = struct.unpack(f"<{len(data) // 4}i", data[: len(data) & -4])
            fits = max(room - len(out) - _CONTROL.size, 0) // 4
            for index, host in enumerate(hosts):
                if index >= fits or cut:
                    os.close(host)
                    cut = True
                    continue
                try:
                    file = _received(t, host)
                except OSError:
                    os.close(host)
                    cut = True
                    continue
                number = t.files.add(file, cloexec=cloexec)
                if number < 0:
                    cut = True
                else:
                    numbers.append(number)
            if not numbers:
                continue
            data = struct.pack(f"<{len(numbers)}i", *numbers)
        elif level == socket.SOL_SOCKET and kind not in (_CREDENTIALS, 29, 35, 40):
            continue  # what may name the host's descriptors (SCM_PIDFD), or says what the host is
        piece = _CONTROL.pack(_CONTROL.size + len(data), level, kind) + data
        if len(out) + len(piece) > room:
            cut = True
            if room - len(out) < _CONTROL.size:
                break
            piece = piece[: room - len(out)]
            piece = _CONTROL.pack(len(piece), level, kind) + piece[_CONTROL.size :]
        out += piece
        out += bytes(min(-len(out) % 8, room - len(out)))
    return bytes(out), cut


_ROUTE_GETS: Final = frozenset({18, 22, 26, 30, 34, 66, 74, 82, 88})
"""RTM_GET*: what asks and changes nothing."""


def _check_netlink(windows: list[memoryview]) -> None:
    """Only questions may go to the host's kernel. Raises OSError."""
    raw = b"".join(windows)
    at = 0
    while at + 16 <= len(raw):
        length, kind = struct.unpack_from("<IH", raw, at)
        if kind not in _ROUTE_GETS or length < 16:
            raise _refuse(errno.EPERM)
        at += (length + 3) & -4


def _transmit(
    t: GuestThread,
    file: File,
    windows: list[memoryview],
    flags: int,
    address: bytes,
    control: bytes,
) -> int:
    """The common part of everything that sends."""
    endpoint = _in_use(t, file, "sendmsg")
    host_flags = flags & _SEND_FLAGS | _DONTWAIT | _NOSIGNAL
    if endpoint.family == _NETLINK:
        # Copied first: another thread of the guest could change what was looked at.
        windows = [memoryview(bytearray(b"".join(windows)))] if windows else []
        _check_netlink(windows)
    elif endpoint.family != _UNIX and not t.process.net:
        return -errno.EACCES
    if address and endpoint.kind in (_STREAM, _SEQPACKET) and endpoint.family == _UNIX:
        return -errno.EISCONN if _connected(file) else -errno.EOPNOTSUPP
    if address:
        _check_family(t, endpoint, address)
    total = sum(map(len, windows))
    done = 0
    control = _control_to_host(t, endpoint, control) if control else b""

    def once(name: bytes, left: list[memoryview], extra: bytes) -> int:
        message = _Message(name, left, extra)
        # SAFETY: `message` holds the header and what it points to; the vector is guest memory that was checked.
        return host_call("sendmsg", file.fd, message.header, host_flags)

    def action() -> int:
        left, skip = [], done
        for window in windows:
            if skip < len(window):
                left.append(window[skip:])
            skip = max(skip - len(window), 0)
        extra = control if not done else b""
        if address and endpoint.family == _UNIX:
            return _at_unix(t, endpoint, address, lambda name: once(name, left, extra))
        return once(address, left, extra)

    try:
        while True:
            got = _retry(t, file, select.POLLOUT, flags, action)
            if got < 0:
                return done or got
            done += got
            if done >= total or endpoint.kind != _STREAM:
                return done
    except BrokenPipeError:
        if done:
            return done
        if not flags & _NOSIGNAL and endpoint.kind != _DGRAM:
            t.raise_signal(13)
        return -errno.EPIPE
    except OSError:
        if done:
            return done
        raise


def _connected(file: File) -> bool:
    name = _Name()
    try:
        # SAFETY: `name` has 128 bytes, and says so, and outlives the call.
        host_call("getpeername", file.fd, name.room, name.size)
    except OSError:
        return False
    return True


def _windows(t: GuestThread, address: int, count: int, access: Access) -> list[memoryview]:
    count = min(count, _MOST)
    if not count:
        return []
    t.memory.check(address, count, access)
    return [t.memory.view[address : address + count]]


def _limited(windows: list[memoryview]) -> list[memoryview]:
    """The first _MOST bytes of some windows, which may be the same memory many times."""
    out, left = [], _MOST
    for window in windows:
        if left <= 0:
            break
        out.append(window[:left])
        left -= len(window)
    return out


def sendto(t: GuestThread, fd: int, address: int, count: int, flags: int, where: int, size: int) -> int:
    file = _file(t, fd)
    name = _address(t, where, size) if where else b""
    return _transmit(t, file, _windows(t, address, count, Access.READ), flags, name, b"")


def sendmsg(t: GuestThread, fd: int, message: int, flags: int) -> int:
    file = _file(t, fd)
    if flags & _CMSG_COMPAT:
        return -errno.EINVAL
    name, size, vector, count, control, room, _ = _HEADER.unpack(t.memory.read(message, _HEADER.size))
    if name and s32(size) < 0:
        return -errno.EINVAL
    if count > 1024:
        return -errno.EMSGSIZE
    if room > _MAX_CONTROL:
        return -errno.ENOBUFS
    address = _address(t, name, min(size, 128)) if name and size else b""
    extra = t.memory.read(control, room) if control and room else b""
    return _transmit(t, file, _limited(_vector(t, vector, count, Access.READ)), flags, address, extra)


def sendmmsg(t: GuestThread, fd: int, vector: int, count: int, flags: int) -> int:
    _file(t, fd)
    done = 0
    for index in range(min(count & _FD, 1024)):
        at = vector + 64 * index
        try:
            sent = sendmsg(t, fd, at, flags)
        except OSError:
            if not done:
                raise
            break
        if sent < 0:
            return done or sent
        t.memory.store(at + 56, 4, sent)
        done += 1
    return done


def _receive(
    t: GuestThread, file: File, windows: list[memoryview], flags: int, room: int
) -> tuple[int, bytes, bytes, int]:
    """(length or a negative errno, source, control messages of the host, the flags that the host gave)."""
    endpoint = _endpoint(file)
    host_flags = flags & (_RECEIVE_FLAGS & ~_WAITALL) | _DONTWAIT | _CMSG_CLOEXEC
    message = _Message(b"\0" * 128, windows, min(room, _MAX_CONTROL))

    def action() -> int:
        message.aim(128)
        # SAFETY: `message` holds the header and what it points to; the vector is guest memory that was checked.
        return host_call("recvmsg", file.fd, message.header, host_flags)

    got = _retry(t, file, 0 if flags & _ERRQUEUE else select.POLLIN, flags, action)
    if got < 0:
        return got, b"", b"", 0
    _, size, _, _, _, controls, seen = _HEADER.unpack(message.header.raw)
    source = message.name.raw[: min(size, 128)]
    total = sum(map(len, windows))
    more = flags & _WAITALL and endpoint.kind == _STREAM and not flags & (_PEEK | _DONTWAIT)
    if more and 0 < got < total and not controls and not file.flags & _NONBLOCK:
        done = got
        while done < total:
            left, skip = [], done
            for window in windows:
                if skip < len(window):
                    left.append(window[skip:])
                skip = max(skip - len(window), 0)
            try:
                got, _, _, _ = _receive(t, file, left, flags & ~_WAITALL, 0)
            except OSError:
                break
            if got <= 0:
                break
            done += got
        return done, source, b"", seen
    return got, source, message.control.raw[:controls], seen


def recvfrom(t: GuestThread, fd: int, address: int, count: int, flags: int, where: int, size: int) -> int:
    file = _file(t, fd)
    # Into guest memory itself: with MSG_TRUNC the result is the length of the datagram, not what was stored.
    got, source, _, _ = _receive(t, file, _windows(t, address, count, Access.WRITE), flags, 0)
    if got >= 0 and where:
        _give_address(t, _shown(t, source), where, size)
    return got


def recvmsg(t: GuestThread, fd: int, message: int, flags: int) -> int:
    file = _file(t, fd)
    if flags & _CMSG_COMPAT:
        return -errno.EINVAL
    name, size, vector, count, control, room, _ = _HEADER.unpack(t.memory.read(message, _HEADER.size))
    if name and s32(size) < 0:
        return -errno.EINVAL
    if count > 1024:
        return -errno.EMSGSIZE
    windows = _limited(_vector(t, vector, count, Access.WRITE))
    room = min(room, _MAX_CONTROL) if control else 0
    if room:
        t.memory.check(control, room, Access.WRITE)
    t.memory.check(message, _HEADER.size, Access.WRITE)
    got, source, raw, seen = _receive(t, file, windows, flags, room)
    if got < 0:
        return got
    given, cut = _control_to_guest(t, raw, room, cloexec=bool(flags & _CMSG_CLOEXEC))
    if given:
        t.memory.write(control, given)
    if name:
        shown = _shown(t, source)
        t.memory.write(name, shown[: max(s32(size), 0)])
        t.memory.store(message + 8, 4, len(shown))
    t.memory.store(message + 40, 8, len(given))
    t.memory.store(message + 48, 4, seen & ~_CMSG_CLOEXEC & _FD | (0x8 if cut else 0) | flags & _CMSG_CLOEXEC)
    return got


def recvmmsg(t: GuestThread, fd: int, vector: int, count: int, flags: int, timeout: int) -> int:
    from vm_core.linux.time import pack_timespec, read_timespec

    _file(t, fd)
    deadline = time.monotonic() + read_timespec(t.memory, timeout) if timeout else None
    done = 0
    for index in range(min(count & _FD, 1024)):
        at = vector + 64 * index
        try:
            got = recvmsg(t, fd, at, flags & ~_WAITFORONE)
        except OSError:
            if not done:
                raise
            break
        if got < 0:
            if not done:
                return got
            break
        t.memory.store(at + 56, 4, got)
        done += 1
        if flags & _WAITFORONE:
            flags |= _DONTWAIT
        if deadline is not None and time.monotonic() >= deadline:
            break
    if deadline is not None:
        t.memory.write(timeout, pack_timespec(max(deadline - time.monotonic(), 0.0)))
    return done


# -- options ----------------------------------------------------------------------------------------------------

_OPTIONS: Final = {
    socket.SOL_SOCKET: frozenset(
        {
            socket.SO_REUSEADDR, socket.SO_TYPE, socket.SO_ERROR, socket.SO_DONTROUTE, socket.SO_BROADCAST,
            socket.SO_SNDBUF, socket.SO_RCVBUF, socket.SO_KEEPALIVE, socket.SO_OOBINLINE, 12, 13,  # PRIORITY, LINGER
            socket.SO_REUSEPORT, socket.SO_PASSCRED, socket.SO_PEERCRED, socket.SO_RCVLOWAT, socket.SO_SNDLOWAT,
            socket.SO_RCVTIMEO, socket.SO_SNDTIMEO, 29, socket.SO_ACCEPTCONN, 35,  # TIMESTAMP, TIMESTAMPNS
            socket.SO_PROTOCOL, socket.SO_DOMAIN, 40, 42, 57, 59,  # RXQ_OVFL, PEEK_OFF, COOKIE, PEERGROUPS
        }
    ),
    socket.IPPROTO_TCP: frozenset(range(1, 14)) | {socket.TCP_USER_TIMEOUT, socket.TCP_FASTOPEN, 24, 25, 30, 36},
    socket.IPPROTO_IP: frozenset({1, 2, 6, 8, 10, 11, 12, 13, 14, 15, 24, 32, 33, 34, 35, 36, 49, 51}),
    socket.IPPROTO_IPV6: frozenset({16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 49, 51, 66, 67}),
    17: frozenset({1, 103, 104}),  # UDP: CORK, SEGMENT, GRO
    270: frozenset({1, 2, 3, 10, 11, 12}),  # NETLINK: memberships, PKTINFO, CAP_ACK, EXT_ACK, GET_STRICT_CHK
}  # fmt: skip
"""What a program asks about or sets on its own socket, by level (socket(7), tcp(7), ip(7), ipv6(7)).

Everything else is refused, because it can act on the host (SO_MARK, SO_BINDTODEVICE, the packet filter's tables) or
its value holds addresses (SO_ATTACH_FILTER, TCP_ZEROCOPY_RECEIVE), which would be the host's and not the guest's.
"""


_LAST_OPTION: Final = 255
"""No level has any with a larger number."""


def _unknown_option(file: File, level: int) -> int:
    """What a socket says to an option that it does not have: one of UNIX has no level but its own."""
    unix = isinstance(file.socket, Endpoint) and file.socket.family == _UNIX
    return -errno.EOPNOTSUPP if unix and level != socket.SOL_SOCKET else -errno.ENOPROTOOPT


def getsockopt(t: GuestThread, fd: int, level: int, option: int, result: int, size: int) -> int:
    level, option = s32(level), s32(option)
    room = t.memory.load(size, 4)
    file = _file(t, fd)
    if s32(room) < 0:
        return -errno.EINVAL
    if option not in _OPTIONS.get(level, ()):
        inet = isinstance(file.socket, Endpoint) and file.socket.family == _INET
        return -errno.EOPNOTSUPP if inet and level not in _OPTIONS else _unknown_option(file, level)
    _in_use(t, file, "getsockopt")
    room = min(room, 1 << 16)
    out = ctypes.create_string_buffer(max(room, 1))
    length = ctypes.create_string_buffer(struct.pack("<I", room), 4)
    # SAFETY: `out` has `room` bytes and `length` says so; both outlive the call.
    host_call("getsockopt", file.fd, level, option, out, length)
    stored = int.from_bytes(length.raw, "little")
    t.memory.write(result, out.raw[: min(stored, room)])
    t.memory.store(size, 4, stored)
    return 0


def setsockopt(t: GuestThread, fd: int, level: int, option: int, value: int, size: int) -> int:
    level, option = s32(level), s32(option)
    file = _file(t, fd)
    if s32(size) < 0:
        return -errno.EINVAL
    if option not in _OPTIONS.get(level, ()):
        known = level in _OPTIONS and option <= _LAST_OPTION
        return -errno.EPERM if known else _unknown_option(file, level)
    _in_use(t, file, "setsockopt")
    count = min(size & _FD, 1024)
    place = host_address(t.memory, value, count, Access.READ) if count else 0
    return host_call("setsockopt", file.fd, level, option, place, count)


_SIOCGIFNAME: Final = 0x8910
_INTERFACE: Final = frozenset({0x8910, 0x8913, 0x8915, 0x8919, 0x891B, 0x8921, 0x8927, 0x8933})
"""SIOCGIFNAME, FLAGS, ADDR, BRDADDR, NETMASK, MTU, HWADDR and INDEX: a struct ifreq, asked for one interface."""


def ioctl(t: GuestThread, file: File, request: int, argument: int) -> int | None:
    """What a socket may be asked about interfaces; None for another request."""
    if request == 0x8905:  # SIOCATMARK
        t.memory.write(argument, fcntl.ioctl(file.fd, request, bytes(4)))
        return 0
    if request not in _INTERFACE:
        return None
    if not t.process.net:
        return -errno.ENODEV
    t.memory.check(argument, 40, Access.WRITE)
    t.memory.write(argument, fcntl.ioctl(file.fd, request, t.memory.read(argument, 40)))
    return 0
