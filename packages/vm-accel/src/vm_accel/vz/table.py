"""The messages that vm sends to Apple's frameworks: selectors, type encodings, and the macOS that brought them.

The rows are data (``selectors.json``, which says where they come from); this module reads them and compares encodings. A type
encoding is the runtime's own notation: the result, ``@`` (receiver), ``:`` (selector), then the arguments.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

__all__ = [
    "SHAPES",
    "Method",
    "classes",
    "enum",
    "methods",
    "normal",
    "parent",
    "protocol",
    "provenance",
    "same",
    "shape",
    "signatures",
    "split",
]


class Method(NamedTuple):
    """One row. ``selector`` has no sign; ``static``: it is the class's. ``since`` is a macOS version such as ``13.0``; ``arch``
    is empty where both architectures have it."""

    owner: str
    static: bool
    selector: str
    encoding: str
    since: str
    arch: str


@cache
def _data() -> dict[str, Any]:
    text = (resources.files("vm_accel.vz") / "selectors.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def provenance() -> dict[str, Any]:
    """Where the rows come from."""
    return dict(_data()["provenance"])


@cache
def methods() -> tuple[Method, ...]:
    """Every message, in the file's order."""
    rows = []
    for owner, about in _data()["classes"].items():
        for signed, text in about["methods"].items():
            encoding, *rest = text.split()
            since = next((each for each in rest if each[0].isdigit()), about.get("since", ""))
            arch = "arm64" if "arm64" in rest else about.get("arch", "")
            rows.append(Method(owner, signed[0] == "+", signed[1:], encoding, since, arch))
    return tuple(rows)


@cache
def signatures() -> dict[str, str]:
    """Encoding by selector. One selector has one encoding in every class that we send it to."""
    found: dict[str, str] = {}
    for row in methods():
        if found.setdefault(row.selector, row.encoding) != row.encoding:
            raise AssertionError(f"{row.selector} has two encodings")
    return found


def protocol(name: str) -> dict[str, str]:
    """Encoding by selector of what a delegate answers."""
    return {signed[1:]: encoding for signed, encoding in _data()["protocols"][name].items()}


def classes() -> dict[str, str]:
    """The macOS that brought each class; empty for Foundation's."""
    return {name: about.get("since", "") for name, about in _data()["classes"].items()}


def parent(name: str) -> str:
    """The class that a class of the table inherits from."""
    found: str = _data()["classes"][name].get("super", "NSObject")
    return found


def enum(name: str) -> dict[str, int]:
    """The values of an enumeration by name, without its prefix."""
    return dict(_data()["enums"][name])


# -- encodings ----------------------------------------------------------------------------------------------------------------

_QUALIFIERS: Final = frozenset("rnNoORVA")
_PAIRS: Final = {"{": "}", "(": ")", "[": "]", "<": ">"}

SHAPES: Final = {
    **dict.fromkeys("@#:^*?", "p"),
    **dict.fromkeys("cCB", "b"),
    **dict.fromkeys("sS", "h"),
    **dict.fromkeys("iI", "w"),
    **dict.fromkeys("qQ", "x"),
    "f": "f",
    "d": "d",
    "v": "v",
}
"""How a type is passed: what must agree for a call to be sound. BOOL is ``c`` on Intel and ``B`` on Apple silicon."""


def _end(text: str, at: int) -> int:
    """Where the type that starts at ``at`` ends. ValueError for what is no type."""
    if at >= len(text):
        raise ValueError(f"{text!r} ends in the middle of a type")
    letter = text[at]
    if letter in _QUALIFIERS:
        return _end(text, at + 1)
    if letter == "^":
        return _end(text, at + 1)
    if letter in "{([":
        return _closed(text, at)
    if letter == "@":
        at += 1
        if text[at : at + 1] == "?":
            at += 1
            return _closed(text, at) if text[at : at + 1] == "<" else at
        return text.index('"', at + 1) + 1 if text[at : at + 1] == '"' else at
    if letter in "#:*?vcCBsSiIlLqQfdD":
        return at + 1
    raise ValueError(f"{text!r} has an unknown type at {at}")


def _closed(text: str, at: int) -> int:
    stack = []
    for index in range(at, len(text)):
        if text[index] in _PAIRS:
            stack.append(_PAIRS[text[index]])
        elif stack and text[index] == stack[-1]:
            stack.pop()
            if not stack:
                return index + 1
    raise ValueError(f"{text!r} is not closed")


def split(encoding: str) -> list[str]:
    """The types of a method's encoding, result first, without the stack offsets. ValueError for what is none."""
    parts, at = [], 0
    while at < len(encoding):
        end = _end(encoding, at)
        parts.append(encoding[at:end])
        at = end
        while at < len(encoding) and (encoding[at].isdigit() or encoding[at] in "+-"):
            at += 1
    return parts


def _plain(kind: str) -> str:
    kind = kind.lstrip("".join(_QUALIFIERS))
    if kind.startswith("@?"):
        return "@?"
    if kind[0] == "@":
        return "@"
    if kind[0] == "^":
        inner = _plain(kind[1:])
        return {"c": "*", "#": "^@"}.get(inner, "^" + inner)
    return kind


def normal(encoding: str) -> str:
    """An encoding as the table has it: no offsets, qualifiers and class names, ``*`` for every pointer to characters."""
    return "".join(map(_plain, split(encoding)))


def same(native: str, recorded: str) -> bool:
    """Whether the runtime's encoding is that of the table. BOOL is ``c`` on Intel; what cannot be read is not the same."""
    try:
        return normal(native).replace("c", "B") == recorded
    except ValueError:
        return False


def shape(encoding: str) -> str:
    """How the values are passed, one letter each (:data:`SHAPES`); structures by value stand for themselves."""
    return "".join(SHAPES.get(kind[0], kind) for kind in map(_plain, split(encoding)))
