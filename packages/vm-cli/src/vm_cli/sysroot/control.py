"""Debian's control format: stanzas, versions, relations (Debian Policy, chapters 5 and 7; deb-version(7)).

Our own, and not python-debian's, which keeps what people who edit such files need: it takes 18 s for the index of trixie,
where splitting that into its 66,000 stanzas and reading the few hundred that are asked for takes 1 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from vm_cli.sysroot.errors import PackageError

__all__ = ["Clause", "Package", "Relation", "clauses", "fields", "stanzas", "version_key"]


def stanzas(text: str) -> Iterator[str]:
    """The paragraphs of a control file; lines that are empty or hold only blanks stand between them."""
    for part in re.split(r"\n(?:[ \t]*\n)+", text):
        if part.strip():
            yield part.strip("\n")


def fields(stanza: str) -> dict[str, str]:
    """The fields of a stanza by name in lower case; the lines of a long value are kept as lines, comments are not.

    Raises PackageError.
    """
    found: dict[str, str] = {}
    name = ""
    for line in stanza.split("\n"):
        if line.startswith("#") or not line.strip():
            continue
        if line[0] in " \t":
            if not name:
                raise PackageError(f"control data begins with a continuation: {line[:60]!r}")
            found[name] += "\n" + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not re.fullmatch(r"[!-9;-~]+", name):
            raise PackageError(f"no field of control data: {line[:60]!r}")
        if name in found:
            raise PackageError(f"control data has the field {name!r} twice")
        found[name] = value.strip()
    return found


# -- versions ---------------------------------------------------------------------------------------------------------

_VERSION: Final = re.compile(r"(?:([0-9]+):)?([A-Za-z0-9.+~:-]+?)(?:-([A-Za-z0-9+.~]+))?")

Key = tuple[int, tuple[object, ...], tuple[object, ...]]


@lru_cache(maxsize=1 << 16)
def version_key(text: str) -> Key:
    """What sorts as the version does: epoch, upstream version, Debian revision. Raises PackageError for what is none."""
    match = _VERSION.fullmatch(text) if len(text) < 1000 else None
    if match is None:
        raise PackageError(f"no version of a package: {text[:60]!r}")
    return int(match[1] or 0), _part_key(match[2]), _part_key(match[3] or "")


def _part_key(text: str) -> tuple[object, ...]:
    """Text and numbers alternate. In text, ``~`` sorts before the end, the end before letters, letters before the rest."""
    pairs: list[tuple[tuple[int, ...], int]] = []
    for word, number in re.findall(r"([^0-9]*)([0-9]*)", text or "0"):  # the last pair is empty
        order = [-1 if c == "~" else ord(c) if c.isalpha() else ord(c) + 256 for c in word]
        pairs.append(((*order, 0), int(number or 0)))
    return tuple(pairs)


# -- relations --------------------------------------------------------------------------------------------------------

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9+.-]*"
_RELATION: Final = re.compile(
    rf"\s*({_NAME})(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|>=|>>|=|<|>)\s*([^\s()]+)\s*\))?\s*"
)
_HOLDS: Final = {
    "<<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    ">>": lambda a, b: a > b,
}


@dataclass(frozen=True, slots=True)
class Relation:
    """A name, perhaps with a range of versions: ``libc6 (>= 2.38)``. ``operator`` is empty if any version will do."""

    name: str
    operator: str = ""
    version: str = ""
    qualifier: str = ""
    """The architecture behind a colon. ``any`` says nothing in a tree of one architecture."""

    def holds(self, version: str) -> bool:
        """Whether this version is in the range."""
        if not self.operator:
            return True
        return bool(_HOLDS[self.operator](version_key(version), version_key(self.version)))

    def __str__(self) -> str:
        name = f"{self.name}:{self.qualifier}" if self.qualifier else self.name
        return f"{name} ({self.operator} {self.version})" if self.operator else name


@dataclass(frozen=True, slots=True)
class Clause:
    """Relations of which one must hold: ``mawk | gawk``."""

    any_of: tuple[Relation, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.any_of))


def clauses(text: str) -> tuple[Clause, ...]:
    """The value of Depends and its kin. Raises PackageError."""
    return tuple(
        Clause(tuple(_relation(part) for part in group.split("|")))
        for group in text.split(",")
        if group.strip()
    )


def _relation(text: str) -> Relation:
    match = _RELATION.fullmatch(text)
    if match is None:
        raise PackageError(f"no relation to a package: {text.strip()[:80]!r}")
    name, qualifier, operator, version = match.groups()
    # The single < and > of old meant <= and >= (Policy 7.1).
    operator = {"<": "<=", ">": ">="}.get(operator, operator) or ""
    if version:
        version_key(version)
    return Relation(name, operator, version or "", qualifier or "")


# -- packages ---------------------------------------------------------------------------------------------------------


class Package:
    """One stanza about a binary package: of an index, of a package's control file, or of dpkg's status."""

    def __init__(self, stanza: str) -> None:
        self.stanza = stanza
        self.fields = fields(stanza)
        self.name = self.fields.get("package", "")
        self.version = self.fields.get("version", "")
        self.architecture = self.fields.get("architecture", "")
        if not re.fullmatch(_NAME, self.name):
            raise PackageError(f"no name of a package: {self.name[:60]!r}")
        if not re.fullmatch(r"[a-z0-9-]+", self.architecture):
            raise PackageError(f"{self.name}: no architecture: {self.architecture[:60]!r}")
        version_key(self.version)

    def __repr__(self) -> str:
        return f"{self.name} {self.version}"

    def _clauses(self, *names: str) -> tuple[Clause, ...]:
        return tuple(clause for name in names for clause in clauses(self.fields.get(name, "")))

    @cached_property
    def depends(self) -> tuple[Clause, ...]:
        return self._clauses("pre-depends", "depends")

    @cached_property
    def recommends(self) -> tuple[Clause, ...]:
        return self._clauses("recommends")

    @cached_property
    def refuses(self) -> tuple[Relation, ...]:
        """What cannot stand beside it. No scripts run, so Breaks means the same as Conflicts."""
        return tuple(
            relation for clause in self._clauses("conflicts", "breaks") for relation in clause.any_of
        )

    @cached_property
    def provides(self) -> tuple[Relation, ...]:
        return tuple(relation for clause in self._clauses("provides") for relation in clause.any_of)

    def satisfies(self, relation: Relation) -> bool:
        """Whether it is, or provides, what ``relation`` asks for. A virtual package without a version meets no range."""
        if relation.qualifier not in ("", "any", "native", self.architecture):
            return False
        if relation.name == self.name and relation.holds(self.version):
            return True
        return any(
            given.name == relation.name
            and (not relation.operator or (given.operator == "=" and relation.holds(given.version)))
            for given in self.provides
        )

    @property
    def essential(self) -> bool:
        return self.fields.get("essential", "").lower() == "yes"

    @property
    def multi_arch(self) -> str:
        return self.fields.get("multi-arch", "no")

    @property
    def rank(self) -> int:
        """Its priority as a number; what the system needs most is 0."""
        order = ("required", "important", "standard", "optional")
        priority = self.fields.get("priority", "")
        return order.index(priority) if priority in order else len(order)

    def number(self, field: str) -> int:
        """A field that is a number; 0 without one."""
        text = self.fields.get(field, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
