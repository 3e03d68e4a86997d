"""What stands for typing's names where nobody has imported typing."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
assert "typing" not in sys.modules
from vm_core.hints import IO, Any, Final, NamedTuple, Protocol, TypeVar, cast, dataclass_transform, runtime_checkable

class Row(NamedTuple):
    name: str
    number: int = 3
    note: str = ""

    @property
    def both(self) -> str:
        return f"{self.name} {self.number}"

class Handle(Protocol):
    def read(self) -> bytes: ...

class File(Handle):
    def read(self) -> bytes:
        return b"x"

Alias = IO[Any] | int | None
T = TypeVar("T")
assert cast("int", "a") == "a"
row = Row("a", note="n")
print(row, row.both, row == ("a", 3, "n"), row._replace(number=4)[1], File().read(), runtime_checkable(File) is File)
print(dataclass_transform(field_specifiers=())(len) is len, Row.__module__, "typing" in sys.modules)
import typing
from vm_core.record import record

@record(frozen=True)
class Point:
    x: int
    y: int = 2

print(Point(1), Point(1) == Point(1, 2))
"""


def test_without_typing_the_names_are_stand_ins() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{SCRIPT}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "Row(name='a', number=3, note='n') a 3 True 4 b'x' True",
        "True __main__ False",
        "Point(x=1, y=2) True",
    ]


def test_with_typing_they_are_its_own() -> None:
    import typing

    from vm_core import hints

    assert {name for name in hints.__all__ if getattr(hints, name) is not getattr(typing, name)} == set()
