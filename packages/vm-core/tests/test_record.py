from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import ClassVar

import pytest

from vm_core.record import field, names, record, replace


@record(frozen=True)
class Point:
    """Two numbers."""

    kind: ClassVar[str] = "point"
    x: int
    y: int = 2

    def sum(self) -> int:
        return self.x + self.y


@record()
class Bag:
    name: str = ""
    items: list[int] = field(default_factory=list)


@record(eq=False)
class Thing:
    x: int


@record(frozen=True, slots=False)
class Open:
    x: int


def test_a_record_is_made_as_a_dataclass_is():
    assert Point(1) == Point(x=1, y=2)
    assert Point(1) != Point(1, 3)
    assert Point(1) != (1, 2)
    assert hash(Point(1)) == hash(Point(1))
    assert repr(Point(1)) == "Point(x=1, y=2)"
    assert (Point(1).sum(), Point.kind, Point.__doc__) == (3, "point", "Two numbers.")
    assert names(Point) == ("x", "y")
    with pytest.raises(TypeError):
        Point()
    with pytest.raises(TypeError):
        Point(1, 2, 3)
    match Point(5):
        case Point(x, y):
            assert (x, y) == (5, 2)


def test_a_default_is_made_for_each_object():
    one, other = Bag(), Bag()
    one.items.append(1)
    assert (one.items, other.items) == ([1], [])
    with pytest.raises(TypeError):
        hash(one)


def test_a_frozen_record_cannot_be_changed():
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="Point.x cannot be changed"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    with pytest.raises(AttributeError):
        Open(1).y = 2
    assert Open(1).__dict__ == {"x": 1}
    with pytest.raises(AttributeError):
        Bag().other = 1


def test_identity_without_eq():
    assert Thing(1) != Thing(1)
    assert len({Thing(1), Thing(1)}) == 2


def test_replace_and_copies():
    assert replace(Point(1), y=7) == Point(1, 7)
    assert replace(Bag("a", [1]), name="b") == Bag("b", [1])
    with pytest.raises(TypeError):
        replace(Point(1), z=1)
    assert copy.copy(Point(1)) == Point(1)
    assert pickle.loads(pickle.dumps(Point(1, 9))) == Point(1, 9)


def test_dataclasses_takes_records():
    assert dataclasses.is_dataclass(Point)
    assert [(f.name, f.default) for f in dataclasses.fields(Point)] == [("x", dataclasses.MISSING), ("y", 2)]
    assert dataclasses.fields(Bag)[1].default_factory is list
    assert dataclasses.asdict(Bag("a", [1])) == {"name": "a", "items": [1]}
    assert dataclasses.replace(Point(1), x=4) == Point(4)
