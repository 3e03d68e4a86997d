"""Sockets. Without ``net=True`` there is only socketpair: socket() is EACCES.

AF_INET, AF_INET6 and AF_UNIX with a path. A path goes through the guest's name space, and abstract names, which belong
to the whole host, are refused. Control messages (descriptor passing) are dropped.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vm_core.linux.abi import s32
from vm_core.linux.files import RESTART, SOCKET, File, _vector, _wait, joined
from vm_core.memory import Access

if TYPE_CHECKING:
    from vm_core.linux.process import GuestThread

__all__: list[str] = []

_FD: Final = 0xFFFF_FFFF
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_DONTWAIT, _NOSIGNAL = 0x40, 0x4000
_T = TypeVar("_T")


def _file(t: GuestThread, fd: int) -> File:
    file = t.table.get(fd & _FD)
    if file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if file.kind != SOCKET:
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    return file


@contextmanager
def _socket(file: File) -> Iterator[socket.socket]:
    """A socket object on the file's descriptor that does not own it."""
    family, kind, protocol = file.socket if isinstance(file.socket, tuple) else (-1, -1, -1)
    made = socket.socket(family, kind, protocol, fileno=file.fd)
    try:
        yield made
    finally:
        made.detach()


def _adopt(t: GuestThread, made: socket.socket, flags: int) -> int:
    made.setblocking(False)
    family, kind, protocol = made.family, made.type & 0xF, made.proto
    file = File(made.detach(), 2 | (flags & _NONBLOCK), kind=SOCKET)
    file.path = f"socket:[{os.fstat(file.fd).st_ino}]"
    file.socket = (family, kind, protocol)
    return t.files.add(file, cloexec=bool(flags & _CLOEXEC))


def _retry(t: GuestThread, file: File, events: int, flags: int, action: Callable[[], _T]) -> _T | int:
    """Do it, waiting as often as it would block; a negative errno if the wait ended otherwise."""
    fd = file.fd
    if file.inherited and (result := _wait(t, file, events)):
        # Its descriptor may be a blocking one, in which the host would wait where nothing can end it.
        return result
    while True:
        try:
            return action()
        except BlockingIOError:
            if file.flags & _NONBLOCK or flags & _DONTWAIT:
                return -errno.EAGAIN
        if t.poll([(fd, events)], None) is None:
            return RESTART
        if file.fd != fd:
            # Closed by another thread meanwhile: its number may belong to another file by now.
            return -errno.EBADF


def socket_(t: GuestThread, family: int, kind: int, protocol: int) -> int:
    if not t.process.net:
        t.process.explain("net", "the guest has no network: socket() returns EACCES (allow it with --net)")
        return -errno.EACCES
    if family not in _FAMILIES:
        return -errno.EAFNOSUPPORT
    if kind & 0xF not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        return -errno.EPERM
    made = socket.socket(int(family), int(kind & 0xF), s32(protocol))
    return _adopt(t, made, kind)


def socketpair(t: GuestThread, family: int, kind: int, protocol: int, result: int) -> int:
    if family != socket.AF_UNIX:
        return -errno.EOPNOTSUPP
    t.memory.check(result, 8, Access.WRITE)
    first, second = socket.socketpair(socket.AF_UNIX, int(kind & 0xF), s32(protocol))
    numbers = _adopt(t, first, kind), _adopt(t, second, kind)
    if min(numbers) < 0:
        return -errno.EMFILE
    t.memory.write(result, struct.pack("<ii", *numbers))
    return 0


def _unpack_address(t: GuestThread, sock: socket.socket, address: int, size: int) -> tuple[Any, str]:
    """(address as the socket module has it, guest path of a unix socket). Raises OSError.

    Without the network there is no address: a socket that was inherited or made by socketpair reaches nobody else.
    """
    if not t.process.net:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    size = min(size & _FD, 128)
    raw = t.memory.read(address, size)
    family = int.from_bytes(raw[:2], "little")
    if family != sock.family:
        raise OSError(errno.EAFNOSUPPORT if size >= 2 else errno.EINVAL, "bad address")
    if family == socket.AF_INET and size >= 8:
        return (socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")), ""
    if family == socket.AF_INET6 and size >= 24:
        flow, scope = int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[24:28].ljust(4, b"\0"), "little")
        return (
            socket.inet_ntop(socket.AF_INET6, raw[8:24]),
            int.from_bytes(raw[2:4], "big"),
            flow,
            scope,
        ), ""
    if family == socket.AF_UNIX and size > 2:
        if raw[2] == 0:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return None, os.fsdecode(raw[2:].split(b"\0")[0])
    raise OSError(errno.EAFNOSUPPORT if size >= 2 else errno.EINVAL, "bad address")


def _pack_address(family: int, address: object) -> bytes:
    if family == socket.AF_INET and isinstance(address, tuple):
        return (
            struct.pack("<H", family)
            + struct.pack(">H", address[1])
            + socket.inet_aton(address[0])
            + bytes(8)
        )
    if family == socket.AF_INET6 and isinstance(address, tuple):
        host, port, flow, scope = address
        packed = socket.inet_pton(socket.AF_INET6, host.split("%")[0])
        return struct.pack("<H", family) + struct.pack(">HI", port, flow) + packed + struct.pack("<I", scope)
    return struct.pack("<H", family)


def _give_address(t: GuestThread, raw: bytes, result: int, size: int) -> None:
    if not result:
        return
    room = t.memory.load(size, 4)
    t.memory.write(result, raw[:room])
    t.memory.store(size, 4, len(raw))


def _at_unix(t: GuestThread, path: str, *, create: bool, action: Callable[[str], None]) -> None:
    """Do something with a host name of a guest unix socket, which no link can redirect."""
    with t.files.namespace.walk(t.files.cwd, path, follow=not create) as place:
        if create:
            place.to_change()
            action(f"/proc/self/fd/{place.fd}/{place.name}")
            return
        if place.node is not None:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            action(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


def bind(t: GuestThread, fd: int, address: int, size: int) -> int:
    with _socket(_file(t, fd)) as sock:
        where, path = _unpack_address(t, sock, address, size)
        if path:
            _at_unix(t, path, create=True, action=sock.bind)
        else:
            sock.bind(where)
    return 0


def listen(t: GuestThread, fd: int, backlog: int) -> int:
    with _socket(_file(t, fd)) as sock:
        sock.listen(max(s32(backlog), 0))
    return 0


def accept4(t: GuestThread, fd: int, result: int, size: int, flags: int) -> int:
    file = _file(t, fd)
    with _socket(file) as sock:
        got = _retry(t, file, select.POLLIN, 0, sock.accept)
    if isinstance(got, int):
        return got
    made, address = got
    raw = _pack_address(made.family, address)
    number = _adopt(t, made, flags)
    if number >= 0:
        _give_address(t, raw, result, size)
    return number


def accept(t: GuestThread, fd: int, result: int, size: int) -> int:
    return accept4(t, fd, result, size, 0)


def connect(t: GuestThread, fd: int, address: int, size: int) -> int:
    file = _file(t, fd)
    with _socket(file) as sock:
        where, path = _unpack_address(t, sock, address, size)
        try:
            if path:
                _at_unix(t, path, create=False, action=sock.connect)
            else:
                sock.connect(where)
        except BlockingIOError:
            if file.flags & _NONBLOCK:
                return -errno.EINPROGRESS
        else:
            return 0
        if t.poll([(file.fd, select.POLLOUT)], None) is None:
            return -errno.EINTR
        return -sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _transmit(t: GuestThread, file: File, data: bytes, flags: int, address: int, size: int) -> int:
    host = flags & 0x7FFF | _DONTWAIT | socket.MSG_NOSIGNAL
    with _socket(file) as sock:
        try:
            if address:
                where, path = _unpack_address(t, sock, address, size)
                if path:
                    done = 0

                    def send_to(name: str) -> None:
                        nonlocal done
                        done = sock.sendto(data, host, name)

                    _at_unix(t, path, create=False, action=send_to)
                    return done
                return _retry(t, file, select.POLLOUT, flags, lambda: sock.sendto(data, host, where))
            left = memoryview(data)
            while True:
                got = _retry(t, file, select.POLLOUT, flags, partial(sock.send, left, host))
                if got < 0:
                    return len(data) - len(left) or got
                left = left[got:]
                if not left:
                    return len(data)
        except BrokenPipeError:
            if not flags & _NOSIGNAL:
                t.raise_signal(13)
            return -errno.EPIPE


def sendto(t: GuestThread, fd: int, address: int, count: int, flags: int, where: int, size: int) -> int:
    file = _file(t, fd)
    return _transmit(t, file, t.memory.read(address, min(count, 1 << 24)), flags, where, size)


def recvfrom(t: GuestThread, fd: int, address: int, count: int, flags: int, where: int, size: int) -> int:
    file = _file(t, fd)
    count = min(count, 1 << 24)
    t.memory.check(address, count, Access.WRITE)
    window = t.memory.view[address : address + count] if count else memoryview(bytearray(1))[:0]
    host = flags & 0x7FFF | _DONTWAIT
    with _socket(file) as sock:
        # Into guest memory itself: with MSG_TRUNC the result is the length of the datagram, not what was stored.
        got = _retry(t, file, select.POLLIN, flags, lambda: sock.recvmsg_into([window], 0, host))
        if isinstance(got, int):
            return got
        length, _, _, source = got
        if where:
            _give_address(t, _pack_address(sock.family, source), where, size)
        return length


def _header(t: GuestThread, address: int) -> tuple[int, int, int, int]:
    name, size, vector, count = struct.unpack("<QI4xQQ", t.memory.read(address, 32))
    return name, size, vector, count


def sendmsg(t: GuestThread, fd: int, message: int, flags: int) -> int:
    file = _file(t, fd)
    name, size, vector, count = _header(t, message)
    return _transmit(
        t, file, bytes(joined(_vector(t, vector, count, Access.READ), 1 << 24)), flags, name, size
    )


def recvmsg(t: GuestThread, fd: int, message: int, flags: int) -> int:
    file = _file(t, fd)
    name, _, vector, count = _header(t, message)
    windows = _vector(t, vector, count, Access.WRITE)
    host = flags & 0x7FFF | _DONTWAIT
    with _socket(file) as sock:
        got = _retry(t, file, select.POLLIN, flags, lambda: sock.recvmsg_into(windows, 0, host))
        if isinstance(got, int):
            return got
        length, _, seen, source = got
        raw = _pack_address(sock.family, source)
    if name:
        _give_address(t, raw, name, message + 8)
    t.memory.store(message + 40, 8, 0)
    t.memory.store(message + 48, 4, int(seen) & 0x7FFF_FFFF)
    return length


def shutdown(t: GuestThread, fd: int, how: int) -> int:
    with _socket(_file(t, fd)) as sock:
        sock.shutdown(s32(how))
    return 0


def getsockname(t: GuestThread, fd: int, result: int, size: int) -> int:
    with _socket(_file(t, fd)) as sock:
        _give_address(t, _pack_address(sock.family, sock.getsockname()), result, size)
    return 0


def getpeername(t: GuestThread, fd: int, result: int, size: int) -> int:
    with _socket(_file(t, fd)) as sock:
        _give_address(t, _pack_address(sock.family, sock.getpeername()), result, size)
    return 0


_OPTIONS: Final = {
    socket.SOL_SOCKET: frozenset(
        {
            socket.SO_REUSEADDR, socket.SO_TYPE, socket.SO_ERROR, socket.SO_DONTROUTE, socket.SO_BROADCAST,
            socket.SO_SNDBUF, socket.SO_RCVBUF, socket.SO_KEEPALIVE, socket.SO_OOBINLINE, 13,  # SO_LINGER
            socket.SO_REUSEPORT, socket.SO_RCVLOWAT, socket.SO_SNDLOWAT, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO,
            socket.SO_ACCEPTCONN, socket.SO_PROTOCOL, socket.SO_DOMAIN,
        }
    ),
    socket.IPPROTO_TCP: frozenset(range(1, 14)) | {socket.TCP_USER_TIMEOUT, socket.TCP_FASTOPEN},
    socket.IPPROTO_IP: frozenset({1, 2, 6, 8, 10, 11, 12, 13, 14, 15, 24, 32, 33, 34, 35, 36, 49}),
    socket.IPPROTO_IPV6: frozenset({16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 49, 51, 66, 67}),
}  # fmt: skip
"""What a program asks about or sets on its own socket, by level (socket(7), tcp(7), ip(7), ipv6(7)).

Everything else is refused, because it can act on the host (SO_MARK, SO_BINDTODEVICE, the packet filter's tables) or
its value holds addresses (SO_ATTACH_FILTER, TCP_ZEROCOPY_RECEIVE), which would be the host's and not the guest's.
"""


def getsockopt(t: GuestThread, fd: int, level: int, option: int, result: int, size: int) -> int:
    level, option = s32(level), s32(option)
    room = t.memory.load(size, 4)
    if option not in _OPTIONS.get(level, ()):
        return -errno.ENOPROTOOPT
    with _socket(_file(t, fd)) as sock:
        # Asked for no bytes, the socket module takes it for a C int.
        raw = sock.getsockopt(level, option, min(room, 256) or 4)[:room]
    t.memory.write(result, raw)
    t.memory.store(size, 4, len(raw))
    return 0


def setsockopt(t: GuestThread, fd: int, level: int, option: int, value: int, size: int) -> int:
    level, option = s32(level), s32(option)
    if option not in _OPTIONS.get(level, ()):
        return -errno.EPERM if level in _OPTIONS else -errno.ENOPROTOOPT
    with _socket(_file(t, fd)) as sock:
        sock.setsockopt(level, option, t.memory.read(value, min(size & _FD, 256)))
    return 0
