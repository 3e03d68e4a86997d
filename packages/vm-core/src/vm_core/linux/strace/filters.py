"""Which system calls are traced: strace's expressions for -e trace=."""

from __future__ import annotations

import re
from typing import Final

from vm_core.errors import UsageError
from vm_core.linux.strace.signatures import CLASSES, SIGNATURES
from vm_core.linux.table import ROWS

__all__ = ["Filter"]


class Filter:
    """``open,read`` and ``%file`` choose calls, ``/regular expression`` chooses by a part of the name; words behind the first
    ``!`` leave out. ``?`` before a name allows one that does not exist. Without words, everything is traced.

    Raises UsageError.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._chosen: set[str] | None = None
        self._left_out: set[str] = set()
        known = set(SIGNATURES) | {row.name for row in ROWS}
        taking = True
        for word in text.removeprefix("trace=").split(","):
            name = word.strip()
            if name.startswith("!"):
                taking, name = False, name[1:]
            if not name:
                continue
            found = _expand(name, known)
            if not taking:
                self._left_out |= found
            elif name != "all":
                self._chosen = found if self._chosen is None else self._chosen | found

    def __contains__(self, name: object) -> bool:
        if name in self._left_out:
            return False
        return self._chosen is None or name in self._chosen


def _expand(word: str, known: set[str]) -> set[str]:
    if word == "none":
        return set()
    if word == "all":
        return set(known)
    if word.startswith("%"):
        if word[1:] in CLASSES:
            return set(CLASSES[word[1:]])
        raise UsageError(
            f"a filter of system calls: there is no class {word}",
            hint="classes: " + ", ".join(f"%{name}" for name in CLASSES),
        )
    if word.startswith("/"):
        try:
            pattern = re.compile(word[1:])
        except re.error as error:
            raise UsageError(f"a filter of system calls: {word}: {error}") from None
        return {name for name in known if pattern.search(name)}
    name = word.removeprefix("?")
    for candidate in (name, *_SPELLINGS.get(name, ())):
        if candidate in known:
            return {candidate}
    if word.startswith("?"):
        return set()
    import difflib  # only for a mistake

    near = difflib.get_close_matches(name, known, 1)
    raise UsageError(
        f"a filter of system calls: there is no call {name!r}",
        hint=f"did you mean {near[0]}?" if near else "",
    )


_SPELLINGS: Final = {
    "fstatat": ("newfstatat",), "fstatat64": ("newfstatat",), "pread": ("pread64",), "pwrite": ("pwrite64",),
    "sigaction": ("rt_sigaction",), "sigprocmask": ("rt_sigprocmask",), "sigreturn": ("rt_sigreturn",),
    "prlimit": ("prlimit64",), "getdents": ("getdents64",), "pselect": ("pselect6",), "eventfd": ("eventfd2",),
}  # fmt: skip
