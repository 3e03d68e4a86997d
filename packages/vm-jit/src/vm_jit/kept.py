"""What the cache keeps of the baseline tier: its units' code, and what of it depends on where things are. One file a program.

Units that begin in the same window of guest addresses are kept together, a *group*: their code as it was in memory, the words of it
that must be put right (:data:`MOVE_BYTES`), and the records where they are entered. A group is put in use when
something on a page of it is warm, if the guest's memory still has the bytes that it was made from.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from vm_core.errors import CacheError
from vm_core.hints import Final
from vm_core.memory import PAGE
from vm_core.record import record
from vm_jit.digest import blake2b
from vm_jit.records import RECORD_BYTES

__all__ = [
    "KIND_SHIFT", "MOVE_BYTES", "NO_RECORD", "Group", "digest_of", "handlers_digest", "pack_groups", "unpack_groups", "window",
]  # fmt: skip

MOVE_BYTES: Final = 16
"""A word of a unit that depends on where things are: 24 bits of its offset and 8 of what it is; the guest address of the record that it is
about (32 bits); and a value: the address of that record's handler, what is added to the address of the tables, or where in the unit to go if
the instruction at the offset faults. The first of these kinds is the record's own address, and needs no value."""
KIND_SHIFT: Final = 24
NO_RECORD: Final = 1 << 40
_WINDOW: Final = 16
_HEADER: Final = struct.Struct("<QQ5I4x16s")
"""The first guest address and the end, how many pages, parts, entries and moves there are, bytes of code, and the digest."""
_HEAD: Final = 24
_PART: Final = struct.Struct("<IIQ")


def window(pc: int) -> int:
    """The number of the window that a unit belongs to."""
    return pc >> _WINDOW


@record(eq=False)
class Group:
    """``pages`` are the numbers of the guest pages in [start, end) that it is made from, ``digest`` is that of their bytes (:func:`digest_of`).
    ``heads`` are three 64-bit words for each entry (guest address, offset of the code, address of the record's own handler seen from
    one of them), and ``rows`` the records."""

    start: int
    end: int
    digest: bytes
    pages: tuple[int, ...]
    parts: tuple[tuple[int, int, int], ...]
    """(offset of a unit's code, how many of the moves are its, the address that its handlers' are relative to)"""
    heads: bytes | memoryview
    rows: bytes | memoryview
    moves: bytes | memoryview
    code: bytes | memoryview
    done: bool = False
    """Whether it has been put in use, or cannot be."""


def handlers_digest(addresses: dict[str, int], base: int) -> bytes:
    """Of where the handlers lie, seen from one of them: code can be moved only if that is the same."""
    return blake2b(
        struct.pack(f"<{len(addresses)}q", *(address - base for address in addresses.values())),
        digest_size=16,
    ).digest()


def digest_of(text: Callable[[int, int], bytes], pages: Iterable[int], reach: int) -> bytes:
    """Of the bytes of guest pages, and of so many behind each into which an instruction may reach. ``text`` gives those of a range, or fewer."""
    digest = blake2b(digest_size=16)
    for number in pages:
        data = text(number * PAGE, (number + 1) * PAGE + reach)
        digest.update(struct.pack("<QQ", number, len(data)))
        digest.update(data)
    return digest.digest()


def pack_groups(groups: list[Group]) -> bytes:
    """Groups as bytes. :func:`unpack_groups` is the inverse."""
    out = []
    for one in groups:
        counts = len(one.pages), len(one.parts), len(one.heads) // _HEAD
        numbers = struct.pack(f"<{len(one.pages)}I", *one.pages)
        out += [
            _HEADER.pack(
                one.start, one.end, *counts, len(one.moves) // MOVE_BYTES, len(one.code), one.digest
            ),
            *(_PART.pack(at, count, base) for at, count, base in one.parts),
            one.heads,
            one.rows,
            one.moves,
            one.code,
            numbers.ljust((len(numbers) + 63) & -64, b"\0"),
        ]
    return b"".join(out)


def unpack_groups(data: memoryview) -> Iterator[Group]:
    """Raises CacheError for bytes that are not sound."""
    at = 0
    while at < len(data):
        try:
            start, end, pages, parts, entries, moves, code, digest = _HEADER.unpack_from(data, at)
        except struct.error as error:
            raise CacheError(f"not a group of units: {error}") from None
        at += _HEADER.size
        sizes = (
            parts * _PART.size,
            entries * _HEAD,
            entries * RECORD_BYTES,
            moves * MOVE_BYTES,
            code,
            (4 * pages + 63) & -64,
        )
        if (
            sum(sizes) > len(data) - at
            or not 0 <= start < end < 1 << 48
            or end - start > 1 << 20
            or code % 64
        ):
            raise CacheError("a group of units has numbers out of range")
        pieces = []
        for size in sizes:
            pieces.append(data[at : at + size])
            at += size
        table = tuple(_PART.iter_unpack(pieces[0]))
        if sum(count for _, count, _ in table) != moves or any(offset >= code for offset, _, _ in table):
            raise CacheError("a group's units are out of range")
        numbers = tuple(pieces[5].cast("B").cast("I")[:pages].tolist())
        if any(not start >> 12 <= number <= end - 1 >> 12 for number in numbers):
            raise CacheError("a group of units is not of its pages")
        _, heads, rows, words, instructions, _ = pieces
        yield Group(start, end, digest, numbers, table, heads, rows, words, instructions)
