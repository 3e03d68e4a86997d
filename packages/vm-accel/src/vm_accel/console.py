"""A machine's console, our side of it: two pipes, since that is what VZ reads and writes, and what ``select`` takes."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["Console"]


class Console(io.RawIOBase):
    """What the guest writes can be read here, and the other way round. ``fileno`` is the end to read from, for ``select``.

    ``theirs`` are the machine's ends, to read from and to write to; it gets copies, so that ``release`` leaves it the only one
    that holds them, and a guest that is over gives an end of file.
    """

    def __init__(self) -> None:
        self._input, theirs_out = os.pipe()
        theirs_in, self._output = os.pipe()
        self.theirs = (theirs_in, theirs_out)

    def release(self) -> None:
        """Close the machine's ends on our side."""
        theirs, self.theirs = self.theirs, (-1, -1)
        for fd in theirs:
            if fd >= 0:
                os.close(fd)

    def reopen(self) -> None:
        """After ``release``: new pipes in the place of the old, at the same descriptors of ours."""
        self._open()
        if self.theirs != (-1, -1):
            return
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        os.dup2(ours_in, self._input, inheritable=False)
        os.dup2(ours_out, self._output, inheritable=False)
        os.close(ours_in)
        os.close(ours_out)
        self.theirs = (theirs_in, theirs_out)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        self._open()
        return self._input

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._open()
        return os.readv(self._input, [buffer])

    def write(self, data: ReadableBuffer) -> int:
        self._open()
        return os.write(self._output, data)

    def _open(self) -> None:
        if self.closed:
            raise ValueError("the console is closed")

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        self.release()
        os.close(self._input)
        os.close(self._output)
