"""Names for annotations, for the modules that every run loads.

PERF: importing typing (and with it re) takes a twelfth of the start of ``vm run``. Where somebody has imported it already, as nearly
every program does that uses these packages as libraries, the names here are typing's. Else they are stand-ins: annotations are
never evaluated here, a protocol is a class without methods of its own, and a named tuple is one of :mod:`collections`.
"""

from __future__ import annotations

import sys

__all__ = [
    "IO",
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "Final",
    "Literal",
    "NamedTuple",
    "NoReturn",
    "Protocol",
    "Self",
    "TextIO",
    "TypeVar",
    "cast",
    "dataclass_transform",
    "runtime_checkable",
]

TYPE_CHECKING = False

if TYPE_CHECKING or "typing" in sys.modules:
    from typing import (
        IO,
        Any,
        ClassVar,
        Final,
        Literal,
        NamedTuple,
        NoReturn,
        Protocol,
        Self,
        TextIO,
        TypeVar,
        cast,
        dataclass_transform,
        runtime_checkable,
    )
else:
    from collections import namedtuple

    class _Anything:
        def __getitem__(self, _: object) -> _Anything:
            return self

        __or__ = __ror__ = __getitem__

    IO = Any = ClassVar = Final = Literal = NoReturn = Self = TextIO = _Anything()
    Protocol = object

    def TypeVar(name: str, **_: object) -> _Anything:
        return Any

    def cast(_: object, value: object) -> object:
        return value

    def dataclass_transform(**_: object) -> object:
        return lambda one: one

    def runtime_checkable(one: type) -> type:
        return one

    class _Named(type):
        def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, object]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, space)
            fields = list(space.pop("__annotations__"))
            defaults = [space.pop(field) for field in fields if field in space]
            plain = namedtuple(name, fields, defaults=defaults)  # noqa: PYI024 - it stands for the other
            return type(name, (plain,), {"__slots__": (), **space})

    class NamedTuple(metaclass=_Named):
        pass
