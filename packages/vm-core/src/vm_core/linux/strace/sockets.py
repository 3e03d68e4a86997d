"""How addresses, options and messages of sockets are shown."""

from __future__ import annotations

import socket
import struct
from typing import Final

from vm_core.linux.abi import s32
from vm_core.linux.strace.names import ENUMS, FLAGS, Names, enumerated, flagged
from vm_core.linux.strace.structs import iovec
from vm_core.linux.strace.values import Call, decoder, elements, pointer, quote, structure

__all__ = ["address_text"]

_HEX: Final = 16
"""Bytes of an unknown address or control message that are shown."""


def address_text(raw: bytes) -> str:
    """A struct sockaddr."""
    if len(raw) < 2:
        return quote(raw)
    family = int.from_bytes(raw[:2], "little")
    name = enumerated(ENUMS["family"], family)
    if family == socket.AF_UNIX:
        path = raw[2:]
        if not path:
            return f"{{sa_family={name}}}"
        if path[0] == 0:
            return f"{{sa_family={name}, sun_path=@{quote(path[1:])}}}"
        return f"{{sa_family={name}, sun_path={quote(path.partition(bytes(1))[0])}}}"
    if family == socket.AF_INET and len(raw) >= 8:
        port = int.from_bytes(raw[2:4], "big")
        return f'{{sa_family={name}, sin_port=htons({port}), sin_addr=inet_addr("{socket.inet_ntoa(raw[4:8])}")}}'
    if family == socket.AF_INET6 and len(raw) >= 24:
        port, flow = int.from_bytes(raw[2:4], "big"), int.from_bytes(raw[4:8], "big")
        host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        scope = int.from_bytes(raw[24:28], "little")
        return (
            f"{{sa_family={name}, sin6_port=htons({port}), sin6_flowinfo=htonl({flow}), "
            f'inet_pton(AF_INET6, "{host}", &sin6_addr), sin6_scope_id={scope}}}'
        )
    if family == 16 and len(raw) >= 12:
        pid, groups = struct.unpack_from("<II", raw, 4)
        return f"{{sa_family={name}, nl_pid={pid}, nl_groups={groups:08x}}}"
    return f"{{sa_family={name}, sa_data={quote(raw[2:_HEX])}}}"


def _address(call: Call, value: int, length: int) -> str:
    if not value:
        return "NULL"
    length = s32(length)
    if not 0 <= length <= 128:
        return pointer(value)
    return address_text(call.memory.read(value, length)) if length else pointer(value)


@decoder
def sockaddr(call: Call, value: int, where: str) -> str:
    """An address that the caller gives, with its length."""
    return _address(call, value, call.count(where))


@decoder
def peer(call: Call, value: int, where: str) -> str:
    """An address that the call gives; its length is behind a pointer."""
    at = call.args[int(where)]
    if not value or not at or call.failed:
        return pointer(value)
    length = call.memory.load(at, 4)
    return _address(call, value, min(length, call.kept))


@decoder
def keeplen(call: Call, value: int, _: str) -> str | None:
    """Shows nothing: remembers the length that a pointer leads to before the call."""
    if value:
        call.kept = call.memory.load(value, 4)
    return None


@structure
def addrlen(call: Call, value: int, _: str) -> str:
    """The length before and after the call, if they differ."""
    now = call.memory.load(value, 4)
    if call.failed or now == call.kept:
        return f"[{s32(now)}]"
    return f"[{s32(call.kept)} => {s32(now)}]"


_LEVELS: Final[dict[int, tuple[str, str]]] = {
    1: ("so", "SO_???"), 0: ("ip", "IP_???"), 41: ("ipv6", "IPV6_???"), 6: ("tcp", "TCP_???"), 17: ("udp", "UDP_???"),
}  # fmt: skip


@decoder
def sockopt(call: Call, value: int, _: str) -> str:
    level = s32(call.args[1])
    names: Names | None = ENUMS[_LEVELS[level][0]] if level in _LEVELS else None
    return f"{s32(value):#x}" if names is None else enumerated(names, s32(value))


@structure
def optval(call: Call, value: int, where: str) -> str:
    """An option's value; ``where`` is the argument that has its length, with a * if that is behind a pointer."""
    length = call.args[int(where[-1])]
    if where[0] == "*":
        if call.failed or not length:
            return pointer(value)
        length = call.memory.load(length, 4)
    level, option = s32(call.args[1]), s32(call.args[2])
    length = s32(length)
    if not 0 <= length <= 4096:
        return pointer(value)
    raw = call.memory.read(value, length)
    if level == 1 and option == 13 and length >= 8:
        on, seconds = struct.unpack_from("<ii", raw)
        return f"{{l_onoff={on}, l_linger={seconds}}}"
    if level == 1 and option in (20, 21) and length >= 16:
        seconds, micros = struct.unpack_from("<qq", raw)
        return f"{{tv_sec={seconds}, tv_usec={micros}}}"
    if level == 1 and option == 17 and length >= 12:
        pid, uid, gid = struct.unpack_from("<iII", raw)
        return f"{{pid={pid}, uid={uid}, gid={gid}}}"
    if (level, option) in ((1, 25), (6, 13)):
        return quote(raw.rstrip(b"\0"))
    if length == 4:
        return f"[{int.from_bytes(raw, 'little', signed=True)}]"
    return quote(raw[: call.strings], cut=length > call.strings)


# -- messages -----------------------------------------------------------------------------------------------------


def _control(raw: bytes) -> str:
    """Control messages, as far as they make sense."""
    out, at = [], 0
    while at + 16 <= len(raw):
        length, level, kind = struct.unpack_from("<Qii", raw, at)
        if not 16 <= length <= len(raw) - at:
            break
        data = raw[at + 16 : at + length]
        what = enumerated(ENUMS["scm"], kind) if level == 1 else f"{kind:#x}"
        if level == 1 and kind == 1:
            shown = (
                "[" + ", ".join(str(fd) for (fd,) in struct.iter_unpack("<i", data[: len(data) & -4])) + "]"
            )
        elif level == 1 and kind == 2 and len(data) >= 12:
            pid, uid, gid = struct.unpack_from("<iII", data)
            shown = f"{{pid={pid}, uid={uid}, gid={gid}}}"
        else:
            shown = quote(data[:_HEX], cut=len(data) > _HEX)
        tail = f", cmsg_data={shown}" if data else ""
        out.append(
            f"{{cmsg_len={length}, cmsg_level={enumerated(ENUMS['level'], level)}, cmsg_type={what}{tail}}}"
        )
        at += (length + 7) & -8
    return "[" + ", ".join(out) + "]"


def _message(call: Call, raw: bytes, *, received: int | None, asked: int = 0) -> str:
    name, name_length, parts, count, control, control_length, flags = struct.unpack("<QIxxxxQQQQI", raw[:52])
    length = (
        f"{asked} => {name_length}" if received is not None and asked != name_length else str(name_length)
    )
    shown = _address(call, name, min(name_length, asked) if received is not None else name_length)
    out = [f"msg_name={shown}", f"msg_namelen={length}"]
    if received is None:
        out.append(f"msg_iov={iovec(_Inner(call, (0, parts, count)), parts, '2') if parts else 'NULL'}")
    else:
        inner = _Inner(call, (0, parts, count))
        inner.result = received
        out.append(f"msg_iov={iovec(inner, parts, 'ret,2') if parts else 'NULL'}")
    out.append(f"msg_iovlen={count}")
    if control_length:
        text = pointer(control)
        if control and control_length <= 4096:
            text = _control(call.memory.read(control, control_length))
        out.append(f"msg_control={text}")
    out += [f"msg_controllen={control_length}", f"msg_flags={flagged(FLAGS['msg'], flags)}"]
    return "{" + ", ".join(out) + "}"


class _Inner(Call):
    """The call as its message has it: arguments of readv or writev."""

    def __init__(self, outer: Call, args: tuple[int, ...]) -> None:
        super().__init__(outer.thread, outer.name, args, outer.strings)


@decoder
def msghdr(call: Call, value: int, _: str) -> str:
    """A message to send."""
    return _message(call, call.memory.read(value, 56), received=None)


@decoder
def keepname(call: Call, value: int, _: str) -> str | None:
    """Shows nothing: remembers the room for a name in a message."""
    if value:
        call.kept = call.memory.load(value + 8, 4)
    return None


@decoder
def received(call: Call, value: int, _: str) -> str:
    """A message that has come; a failed call shows what it asked for."""
    if call.failed:
        name, length = call.fields(value, "<QI")
        return f"{{msg_namelen={length}}}" if name or length == 0 else pointer(value)
    return _message(call, call.memory.read(value, 56), received=call.count("ret"), asked=call.kept)


@decoder
def mmsghdrs(call: Call, value: int, where: str) -> str:
    """Messages to send, or that have come."""
    return elements(
        call,
        value,
        call.count(where),
        64,
        lambda raw: (
            f"{{msg_hdr={_message(call, raw[:56], received=None)}, msg_len={int.from_bytes(raw[56:60], 'little')}}}"
        ),
    )
