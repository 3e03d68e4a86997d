"""What is given back: by ``with``, and where nobody has done it, when the object is gone."""

from __future__ import annotations

from contextlib import suppress
from typing import Self

__all__ = ["Closing", "SelfClosing"]


class Closing:
    """``close`` gives it back; twice is once."""

    __slots__ = ()

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SelfClosing(Closing):
    """Any thread may close it, so that its end can."""

    __slots__ = ()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()
