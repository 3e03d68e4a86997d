"""Classes of named fields, as :mod:`dataclasses` makes them, for the modules that every run loads.

PERF: loading dataclasses (and with it inspect, ast and tokenize) and making our classes with it was a third of the start
of ``vm run``; a class costs 0.7 ms there and 0.1 ms here. The classes are dataclasses to all others: ``asdict``,
``fields`` and ``replace`` of dataclasses take them.

What is left out: inheritance between records, ``__post_init__``, ordering, keyword-only fields.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from vm_core.hints import Any, Final, TypeVar, cast, dataclass_transform

__all__ = ["field", "names", "record", "replace"]

T = TypeVar("T")
_ABSENT: Final = object()


class _Factory:
    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """A field whose default is made anew for each object."""
    return cast("T", _Factory(default_factory))


class _Fields:
    """``__dataclass_fields__``, made when somebody asks for it."""

    def __init__(self, annotations: dict[str, str], defaults: dict[str, Any]) -> None:
        self._annotations, self._defaults = annotations, defaults

    def __get__(self, _instance: object, owner: type) -> dict[str, Any]:
        import dataclasses

        rows: list[Any] = []
        for name, kind in self._annotations.items():
            default = self._defaults.get(name, dataclasses.MISSING)
            if isinstance(default, _Factory):
                rows.append((name, kind, dataclasses.field(default_factory=default.make)))
            else:
                rows.append((name, kind, dataclasses.field(default=default)))
        made: Any = dataclasses.make_dataclass(owner.__name__, rows)
        return cast("dict[str, Any]", made.__dataclass_fields__)


def names(cls: type) -> tuple[str, ...]:
    """The fields of a record class, in order."""
    found: tuple[str, ...] = cls.__match_args__  # type: ignore[attr-defined]
    return found


def replace(instance: T, **changes: Any) -> T:
    """A copy with some fields changed."""
    for name in names(type(instance)):
        if name not in changes:
            changes[name] = getattr(instance, name)
    return type(instance)(**changes)


@dataclass_transform(field_specifiers=(field,))
def record(*, frozen: bool = False, eq: bool = True, slots: bool = True) -> Callable[[type[T]], type[T]]:
    """As ``dataclasses.dataclass`` with these options; a record has slots unless it is told otherwise."""

    def make(cls: type[T]) -> type[T]:
        space = dict(cls.__dict__)
        annotations = {
            name: kind
            for name, kind in space.get("__annotations__", {}).items()
            if not str(kind).startswith(("ClassVar", "typing.ClassVar"))
        }
        defaults = {name: space[name] for name in annotations if name in space}
        fields = tuple(annotations)

        def initialize(self: Any, *args: Any, **given: Any) -> None:
            # PERF: the first object has the text compiled; many classes have none in a short run.
            made.__init__ = _initializer(cls, fields, defaults, frozen=frozen)
            made.__init__(self, *args, **given)

        space["__init__"] = initialize
        space["__match_args__"] = fields
        space["__dataclass_fields__"] = _Fields(annotations, defaults)
        space.setdefault("__repr__", _repr)
        space["__reduce__"] = _reduce
        if eq:
            values = _values(fields)

            def equal(self: object, other: object) -> Any:
                return values(self) == values(other) if type(self) is type(other) else NotImplemented

            space["__eq__"] = equal
            space["__hash__"] = (lambda self: hash(values(self))) if frozen else None
        if frozen:
            space["__setattr__"] = space["__delattr__"] = _refuse
        for name in ("__dict__", "__weakref__", *defaults):
            space.pop(name, None)
        if slots:
            space["__slots__"] = fields
        metaclass: Any = type(cls)
        made: Any = metaclass(cls.__name__, cls.__bases__, space)
        made.__qualname__ = cls.__qualname__
        return cast("type[T]", made)

    return make


def _initializer(
    cls: type, fields: tuple[str, ...], defaults: dict[str, Any], *, frozen: bool
) -> Callable[..., None]:
    space: dict[str, Any] = {"_absent": _ABSENT, "_set": object.__setattr__}
    parameters, lines = ["self"], []
    for name in fields:
        value = name
        default = defaults.get(name, _ABSENT)
        if isinstance(default, _Factory):
            space[f"_make_{name}"] = default.make
            parameters.append(f"{name}=_absent")
            value = f"_make_{name}() if {name} is _absent else {name}"
        elif default is not _ABSENT:
            space[f"_default_{name}"] = default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        lines.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
    text = f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"])
    exec(text, space)  # noqa: S102 - made of the field names of our own classes
    function: Callable[..., None] = space["__init__"]
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    return function


def _values(fields: tuple[str, ...]) -> Callable[[Any], Any]:
    return attrgetter(*fields) if fields else lambda _self: ()


def _repr(self: Any) -> str:
    inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in names(type(self)))
    return f"{type(self).__qualname__}({inside})"


def _reduce(self: Any) -> tuple[type, tuple[Any, ...]]:
    return type(self), tuple(getattr(self, name) for name in names(type(self)))


def _refuse(self: object, name: str, *_value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
