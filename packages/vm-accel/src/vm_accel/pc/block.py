"""A virtio disk on a file (VIRTIO 1.2, 5.2). The bytes go between the file and the guest's memory without a copy."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final

from vm_accel.interface import Disk
from vm_accel.pc.virtio import QUEUE_SIZE, Broken, Chain
from vm_core.errors import UsageError

__all__ = ["SECTOR", "Block"]

SECTOR: Final = 512
_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_OK, _IOERR, _UNSUPPORTED = 0, 1, 2
_SEG_MAX, _RO, _BLK_SIZE, _FLUSH_FEATURE = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_ID_BYTES: Final = 20


class Block:
    """The file is locked while it is open: nobody else's machine writes it, or, if this one does, reads it."""

    number = 2
    queues = 1

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._id = disk.name.encode()
        if len(self._id) > _ID_BYTES:
            raise UsageError(f"the disk's name {disk.name!r} has more than {_ID_BYTES} bytes")
        flags = (os.O_RDONLY if disk.read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(disk.path, flags)
        except (OSError, ValueError) as error:  # ValueError: a NUL
            hint = "give the path of a raw image; `truncate -s 1G FILE` makes an empty one"
            if getattr(error, "errno", 0) in (errno.EACCES, errno.EPERM, errno.EROFS):
                hint = "a disk that the guest need not write can be read-only: `vm boot --disk FILE,ro`"
            raise UsageError(
                f"disk {disk.path} cannot be opened: {getattr(error, 'strerror', error)}", hint=hint
            ) from None
        try:
            info = os.fstat(self._fd)
            if not stat.S_ISREG(info.st_mode):
                raise UsageError(f"disk {disk.path} is not a file")
            if not info.st_size or info.st_size % SECTOR:
                raise UsageError(
                    f"disk {disk.path} has {info.st_size} bytes, which is no multiple of {SECTOR}",
                    hint="only raw images are taken",
                )
            try:
                fcntl.flock(self._fd, (fcntl.LOCK_SH if disk.read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"disk {disk.path} is in use by another machine") from None
        except BaseException:
            self.close()
            raise
        self._bytes = info.st_size
        self.features = _SEG_MAX | _BLK_SIZE | _FLUSH_FEATURE | (_RO if disk.read_only else 0)
        # capacity, size_max, seg_max (without header and status), geometry, blk_size
        self._config = b"".join(
            (
                (self._bytes // SECTOR).to_bytes(8, "little"),
                bytes(4),
                (QUEUE_SIZE - 2).to_bytes(4, "little"),
                bytes(4),
                SECTOR.to_bytes(4, "little"),
            )
        )

    def config(self) -> bytes:
        return self._config

    def reset(self) -> None:
        pass

    def serve(self, index: int, chain: Chain) -> int:
        head, data = _split(chain.readable, 16)
        if len(head) != 16:
            raise Broken("a request without its header")
        into, status = _without_last(chain.writable)
        kind = int.from_bytes(head[:4], "little")
        sector = int.from_bytes(head[8:], "little")
        try:
            written, result = self._request(kind, sector, data, into)
        except OSError:
            written, result = 0, _IOERR
        status[0] = result
        # The used length counts from the first writable byte: only a transfer that was complete reaches the status.
        return written + 1 if result == _OK else 1 if not into else 0

    def _request(
        self, kind: int, sector: int, data: list[memoryview], into: list[memoryview]
    ) -> tuple[int, int]:
        if kind in (_IN, _OUT):
            pieces = into if kind == _IN else data
            total = sum(map(len, pieces))
            if total % SECTOR or sector * SECTOR + total > self._bytes:
                return 0, _IOERR
            if kind == _OUT and self._disk.read_only:
                return 0, _IOERR
            done = self._transfer(kind == _OUT, pieces, sector * SECTOR)
            return (done if kind == _IN else 0), _OK if done == total else _IOERR
        if kind == _FLUSH:
            if self._disk.sync and not self._disk.read_only:
                os.fdatasync(self._fd)
            return 0, _OK
        if kind == _GET_ID:
            text = self._id.ljust(_ID_BYTES, b"\0")
            at = 0
            for piece in into:
                part = text[at : at + len(piece)]
                piece[: len(part)] = part
                at += len(part)
            return at, _OK
        return 0, _UNSUPPORTED

    def _transfer(self, write: bool, pieces: list[memoryview], offset: int) -> int:
        """Bytes moved; fewer than asked for only if the file has shrunk or is full."""
        done = 0
        left = [piece for piece in pieces if len(piece)]
        while left:
            # At most QUEUE_SIZE pieces, which is below IOV_MAX.
            count = (
                os.pwritev(self._fd, left, offset + done)
                if write
                else os.preadv(self._fd, left, offset + done)
            )
            if not count:
                break
            done += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]
        return done

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _split(pieces: list[memoryview], length: int) -> tuple[bytes, list[memoryview]]:
    """The first ``length`` bytes as a copy, and the rest: how a request is cut into pieces is the driver's choice (2.7.4)."""
    head = b""
    rest: list[memoryview] = []
    for piece in pieces:
        take = min(length - len(head), len(piece))
        head += bytes(piece[:take])
        if take < len(piece):
            rest.append(piece[take:])
    return head, rest


def _without_last(pieces: list[memoryview]) -> tuple[list[memoryview], memoryview]:
    """All but the last byte, and that byte, where the status goes."""
    out = [piece for piece in pieces if len(piece)]
    if not out:
        raise Broken("a request without room for its status")
    last = out.pop()
    if len(last) > 1:
        out.append(last[:-1])
    return out, last[-1:]
