"""Choosing packages: what is asked for, all that it depends on, and nothing that cannot stand beside it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from vm_cli.sysroot.control import Clause, Package, Relation, version_key
from vm_cli.sysroot.errors import DependencyError, PackageError

__all__ = ["Index", "resolve"]

_MOST_RETRIES: Final = 20_000
"""How often a choice is taken back before the answer is no. Debian's suites need none or a few."""


class Index:
    """The packages of a suite. A stanza is read when it is asked for: that is less than one in a hundred."""

    def __init__(self, text: bytes, label: str = "the index") -> None:
        self.label = label
        # PERF: bytes, because one Japanese name makes four bytes of each of 54 million characters.
        self._stanzas: dict[str, list[bytes]] = {}
        self._read: dict[str, list[Package]] = {}
        for stanza in re.split(rb"\n(?:[ \t]*\n)+", text.strip(b"\n")):
            match = re.match(rb"Package:[ \t]*(\S+)", stanza) or re.search(
                rb"(?im)^package:[ \t]*(\S+)", stanza
            )
            if match:
                self._stanzas.setdefault(match[1].decode("utf-8", "replace"), []).append(stanza)

    def __len__(self) -> int:
        return len(self._stanzas)

    def named(self, name: str) -> list[Package]:
        """The versions of a package, the newest first."""
        if name not in self._read:
            found = [Package(text.decode("utf-8", "replace")) for text in self._stanzas.get(name, ())]
            self._read[name] = sorted(found, key=lambda package: version_key(package.version), reverse=True)
        return self._read[name]

    @cached_property
    def _providers(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, texts in self._stanzas.items():
            for text in texts:
                match = re.search(rb"(?im)^provides:(.*(?:\n[ \t].*)*)", text) if b"vides:" in text else None
                for word in re.findall(rb"(?:^|,)\s*([^\s,(:]+)", match[1]) if match else ():
                    rows = found.setdefault(word.decode("utf-8", "replace"), [])
                    if not rows or rows[-1] != name:
                        rows.append(name)
        return found

    def providers(self, name: str) -> list[Package]:
        """The packages that provide a virtual one, what the system needs most first."""
        found = [one for provider in self._providers.get(name, ()) for one in self.named(provider)]
        return sorted(found, key=lambda package: (package.rank, package.name))

    def candidates(self, relation: Relation) -> list[Package]:
        """The packages that satisfy a relation, in the order in which to try them."""
        found = [*self.named(relation.name), *self.providers(relation.name)]
        return [package for package in found if package.satisfies(relation)]

    def essential(self) -> list[str]:
        """The names of the packages that every system has."""
        marked = re.compile(rb"(?im)^essential:[ \t]*yes[ \t]*$")
        return sorted(
            name
            for name, texts in self._stanzas.items()
            if any(b"sential:" in text and marked.search(text) for text in texts)
        )

    def nearest(self, name: str) -> list[str]:
        """Names that may have been meant."""
        short = re.sub(r"[0-9.+-]", "", name)
        close = difflib.get_close_matches(
            name, [one for one in self._stanzas if abs(len(one) - len(name)) < 3], 3
        )
        return close or sorted(one for one in self._stanzas if short and one.startswith(short))[:3]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A clause that must hold, and who says so. An optional one may be dropped."""

    clause: Clause
    by: Package | None
    optional: bool = False


class _Search:
    """Takes the wishes in their order. Where no candidate is left, the newest choice is taken back."""

    def __init__(self, index: Index, installed: Iterable[Package], recommends: bool) -> None:
        self.index = index
        self.recommends = recommends
        self.chosen: dict[str, Package] = {}
        self.order: list[Package] = []
        self.parents: dict[str, Package | None] = {}
        self.wishes: list[_Wish] = []
        self._supplied: dict[str, list[Package]] = {}
        self._refused: dict[str, list[tuple[Relation, Package]]] = {}
        for package in installed:
            self._choose(package, None)
        self.installed = len(self.order)
        self.wishes.clear()  # of what is there, the dependencies are there, or somebody wanted it so

    def _choose(self, package: Package, by: Package | None) -> None:
        self.chosen[package.name] = package
        self.order.append(package)
        self.parents[package.name] = by
        for name in {package.name, *(given.name for given in package.provides)}:
            self._supplied.setdefault(name, []).append(package)
        for relation in package.refuses:
            self._refused.setdefault(relation.name, []).append((relation, package))
        self.wishes += [_Wish(clause, package) for clause in package.depends]
        if self.recommends:
            self.wishes += [_Wish(clause, package, optional=True) for clause in package.recommends]

    def _undo(self, chosen: int, wishes: int) -> None:
        while len(self.order) > chosen:
            package = self.order.pop()
            del self.chosen[package.name], self.parents[package.name]
            for name in {package.name, *(given.name for given in package.provides)}:
                self._supplied[name].remove(package)
            for relation in package.refuses:
                self._refused[relation.name].remove((relation, package))
        del self.wishes[wishes:]

    def satisfied(self, clause: Clause) -> bool:
        return any(
            package.satisfies(relation)
            for relation in clause.any_of
            for package in self._supplied.get(relation.name, ())
        )

    def obstacle(self, package: Package) -> str:
        """Why ``package`` cannot be chosen now, or nothing."""
        other = self.chosen.get(package.name)
        if other is not None:
            return f"{other.name} {other.version} is chosen already"
        for name in (package.name, *(given.name for given in package.provides)):
            for relation, by in self._refused.get(name, ()):
                if by.name != package.name and package.satisfies(relation):
                    return f"{by.name} refuses {relation}"
        for relation in package.refuses:
            for by in self._supplied.get(relation.name, ()):
                if by.name != package.name and by.satisfies(relation):
                    return f"{package.name} refuses {relation}, and {by.name} is chosen"
        return ""

    def _candidates(self, wish: _Wish) -> Iterator[Package | None]:
        seen = set()
        for relation in wish.clause.any_of:
            for package in self.index.candidates(relation):
                key = (package.name, package.version)
                if key not in seen and not self.obstacle(package):
                    seen.add(key)
                    yield package
        if wish.optional:
            yield None

    def run(self) -> list[Package]:
        at, retries, reason = 0, 0, ""
        choices: list[tuple[int, int, int, Iterator[Package | None]]] = []
        while at < len(self.wishes):
            wish = self.wishes[at]
            if self.satisfied(wish.clause):
                at += 1
                continue
            choices.append((at, len(self.order), len(self.wishes), self._candidates(wish)))
            while True:
                if not choices or retries > _MOST_RETRIES:
                    raise DependencyError(reason, hint=self._hint())
                at, chosen, wishes, candidates = choices[-1]
                self._undo(chosen, wishes)
                package = next(candidates, wish)
                if not isinstance(package, _Wish):
                    break
                reason = reason or self._explain(self.wishes[at])  # the first one is the one to be told
                choices.pop()
                retries += 1
            if package is not None:
                self._choose(package, self.wishes[at].by)
            at += 1
        return self.order[self.installed :]

    def _hint(self) -> str:
        if self.installed:
            return "the suite may have moved on since the tree was made: make it anew with vm sysroot create --force"
        return "try another --suite"

    def _explain(self, wish: _Wish) -> str:
        reasons = []
        for relation in wish.clause.any_of:
            found = self.index.candidates(relation)
            obstacles = [self.obstacle(package) for package in found]
            versions = [package.version for package in self.index.named(relation.name)]
            if found:
                reasons.append(next(filter(None, obstacles), "what it needs in turn cannot be had"))
            elif versions:
                reasons.append(f"{self.index.label} has {relation.name} {', '.join(versions)}")
            else:
                reasons.append(f"{self.index.label} has no {relation.name}")
        why = "; ".join(dict.fromkeys(reasons))
        if wish.by is None:
            return f"{wish.clause} cannot be had: {why}"
        chain: list[str] = []
        package = wish.by
        while (parent := self.parents.get(package.name)) is not None and len(chain) < 20:
            chain.append(parent.name)
            package = parent
        wanted = f" (wanted by {', by '.join(chain)})" if chain else ""
        return f"{wish.by.name}{wanted} depends on {wish.clause}: {why}"


def _asked(index: Index, words: Sequence[str]) -> list[Clause]:
    """The packages that were named. Raises DependencyError for one that is not there."""
    asked = []
    for word in words:
        name, equals, version = word.partition("=")
        relation = Relation(name, "=" if equals else "", version)
        try:
            found = index.named(name)
            if equals and not any(relation.holds(package.version) for package in found):
                had = ", ".join(package.version for package in found)
                hint = f"it has {had}" if had else ""
                raise DependencyError(f"{index.label} has no {name} of version {version!r}", hint=hint)
        except PackageError as error:
            raise DependencyError(f"{word!r}: {error}") from None
        if not found:
            providers = list(dict.fromkeys(package.name for package in index.providers(name)))
            if len(providers) == 1:
                relation = Relation(providers[0])
            elif providers:
                hint = f"name one of the packages that provide it: {', '.join(providers[:12])}"
                raise DependencyError(f"{name!r} is a virtual package of {index.label}", hint=hint)
            else:
                near = index.nearest(name)
                hint = f"did you mean {' or '.join(near)}?" if near else "the names are Debian's"
                raise DependencyError(f"{index.label} has no package {name!r}", hint=hint)
        asked.append(Clause((relation,)))
    return asked


def resolve(
    index: Index,
    names: Sequence[str],
    *,
    essential: bool = True,
    recommends: bool = False,
    installed: Mapping[str, Package] | None = None,
) -> list[Package]:
    """The packages to unpack, so that ``names`` (``NAME`` or ``NAME=VERSION``) work beside what is ``installed``.

    Raises DependencyError, which names the package that stands in the way, and PackageError for a malformed index.
    """
    search = _Search(index, (installed or {}).values(), recommends)
    words = _asked(index, names)
    words += [Clause((Relation(name),)) for name in (index.essential() if essential else ())]
    search.wishes += [_Wish(clause, None) for clause in words]
    return search.run()
