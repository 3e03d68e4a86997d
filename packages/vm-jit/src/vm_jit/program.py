"""What the cache keeps of a program: what was compiled of it, and what Python had to decode. One file a program.

Its name is a hash of where the program's code lies and of samples of it; what is taken out of it is compared with the
guest's memory by a cryptographic hash first, page by page and region by region. So nothing that one program leaves in the
cache can run as another's code.
"""

from __future__ import annotations

import struct

from vm_core.errors import CacheError
from vm_core.hints import TYPE_CHECKING, Final
from vm_core.memory import PAGE, Prot
from vm_core.record import record
from vm_jit.cache import warn
from vm_jit.code_memory import Image
from vm_jit.compiler import host_key
from vm_jit.digest import blake2b
from vm_jit.sources import source_digest

if TYPE_CHECKING:
    from vm_core.memory import GuestMemory
    from vm_jit.cache import Cache
    from vm_jit.engine import CodeImage

__all__ = ["Program", "Saved", "pack_regions", "unpack_regions"]

_KIND: Final = struct.Struct("<Q16sB7x")
"""A way to decode: the index of the handler's name, the operands, the instruction's length in bytes."""
_PAGE: Final = struct.Struct("<II16s")
"""The number of a guest page, how many records of it are decoded, and the digest of its bytes."""
_REGION: Final = struct.Struct("<7Q16s")
"""How many roots, entries, exits, spans and own spans follow as 64-bit words, instructions, bytes of code, the digest of the
spans."""
_ACCOUNT: Final = struct.Struct("<5d")
"""See :meth:`vm_jit.tiering.Tiering.balance`."""
_WHOLE: Final = 64 << 10
_SAMPLED: Final = 16
"""Of a range of code, so many bytes at its start and then one page in so many name the program."""


@record(eq=False)
class Saved:
    """A compiled region as it is kept. Addresses are guest addresses; ``spans`` are (start, end), ``own`` those without taken-in
    functions; ``digest`` is that of the spans and the bytes in them."""

    roots: tuple[int, ...]
    entries: tuple[int, ...]
    exits: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    own: tuple[tuple[int, int], ...]
    instructions: int
    digest: bytes
    image: Image


def pack_regions(regions: list[Saved]) -> dict[str, bytes]:
    """The sections for regions."""
    rows, code = [], []
    for one in regions:
        image = one.image.pack()
        flat = [word for span in (*one.spans, *one.own) for word in span]
        words = (*one.roots, *one.entries, *one.exits, *flat)
        counts = (len(one.roots), len(one.entries), len(one.exits), len(one.spans), len(one.own))
        rows.append(_REGION.pack(*counts, one.instructions, len(image), one.digest))
        rows.append(struct.pack(f"<{len(words)}Q", *words))
        code.append(image)
    return {"regions": b"".join(rows), "code": b"".join(code)}


def unpack_regions(sections: dict[str, memoryview]) -> list[Saved]:
    """The inverse. Raises CacheError for sections that are not sound."""
    rows, code = sections["regions"], sections["code"]
    at = start = 0
    out = []
    while at < len(rows):
        try:
            *counts, instructions, size, digest = _REGION.unpack_from(rows, at)
            at += _REGION.size
            total = sum(counts) + counts[3] + counts[4]
            if total > len(rows) // 8 or size > len(code) - start or not counts[0] or not counts[3]:
                raise CacheError("a region's numbers are out of range")
            words = struct.unpack_from(f"<{total}Q", rows, at)
        except struct.error as error:
            raise CacheError(f"not a table of regions: {error}") from None
        at += 8 * total
        i, j, k = counts[0], counts[0] + counts[1], sum(counts[:3])
        every = tuple(zip(words[k::2], words[k + 1 :: 2], strict=True))
        spans, own = every[: counts[3]], every[counts[3] :]
        if any(not any(start <= pc < end for start, end in spans) for pc in words[:j]):
            raise CacheError("a region begins outside of itself")
        image = Image.unpack(code[start : start + size])
        if "region" not in image.symbols:
            raise CacheError("a region has no code")
        out.append(Saved(words[:i], words[i:j], words[j:k], spans, own, instructions, digest, image))
        start += size
    return out


class Program:
    """The cache's file for the code of an image, its ``engine``: that of a program which is about to run in ``memory``, or one
    whose ``name`` is known. ``settled`` says whether the file has all that LLVM was worth."""

    def __init__(
        self,
        engine: CodeImage,
        cache: Cache,
        memory: GuestMemory | None = None,
        *,
        name: str = "",
        settled: bool = True,
    ) -> None:
        self.engine, self.cache, self.name, self.settled = engine, cache, name, settled
        if memory is not None:
            translation = source_digest(engine.isa, cache)[:16] + host_key()[:16]
            # Code that knows its lines is larger: only runs that ask for it use it.
            lines = "-lines" if engine.options.lines else ""
            kind = "program" if engine.options.isolated else "unsafe"
            self.name = f"{kind}-{engine.isa.name}-{self._key(memory)}-{translation}{lines}"
        self._kept = 0
        """How much was decoded, see :meth:`_decoded`, when the file was last read or written."""

    def _key(self, memory: GuestMemory) -> str:
        """Where the executable memory lies, all of it if it is small, and samples if it is large."""
        digest = blake2b(digest_size=12)
        for region in memory.regions():
            if region.prot & Prot.EXEC:
                start, end = region.start, region.end
                digest.update(struct.pack("<QQ", start, end))
                digest.update(memory.view[start : min(end, start + _WHOLE)])
                for page in range(start + _WHOLE, end, _SAMPLED * PAGE):
                    digest.update(memory.view[page : page + PAGE])
        return digest.hexdigest()

    @property
    def _account(self) -> str:
        """The name of the file that says what LLVM may cost: it changes more often than what there is of code."""
        return f"account-{self.name}"

    # -- reading ------------------------------------------------------------------------------------------------

    def restore(self, memory: GuestMemory) -> None:
        """Decode and compile at once what earlier runs of this program did. Called before its first instruction."""
        engine = self.engine
        if engine.breakpoints:
            return
        try:
            sections = self.cache.read(self.name)
            if sections is None:
                return
            with engine.reading(memory):
                self._restore_blocks(sections, memory)
                self._kept = self._decoded()
                if engine.tiering is not None and (regions := unpack_regions(sections)):
                    engine.tiering.restore(regions, *self._balance())
        except (CacheError, KeyError, ValueError, IndexError, struct.error) as error:
            warn("what is cached of the program is not used", error)

    def _balance(self) -> tuple[float, ...]:
        """What the account's file says; that of a program that owes nothing, and is settled, if there is none to be used."""
        try:
            found = self.cache.read(self._account)
            if found is not None:
                balance = _ACCOUNT.unpack(found["account"])
                self.settled = not balance[-1]
                return balance
        except (CacheError, KeyError, struct.error) as error:
            self.settled = False  # so it is written anew
            warn("what LLVM may cost is counted anew", error)
        return _ACCOUNT.unpack(bytes(_ACCOUNT.size))

    def _restore_blocks(self, sections: dict[str, memoryview], memory: GuestMemory) -> None:
        engine, address = self.engine, self.engine.interpreter.address
        if not sections["pages"]:
            return
        handlers = [address[name] for name in str(sections["symbols"], "utf-8").split("\0")]
        if len(sections["kinds"]) % _KIND.size or len(sections["slots"]) % 8:
            raise CacheError("a table of what was decoded is torn")
        table = bytearray(sections["kinds"])
        first_words = memoryview(table).cast("Q")[::4]
        for i, handler in enumerate(first_words.tolist()):
            first_words[i] = handlers[handler]
        kinds, limit = bytes(table), len(table) // _KIND.size
        slots, at = bytes(sections["slots"]), 0
        pages = list(_PAGE.iter_unpack(sections["pages"]))
        both = memoryview(slots).cast("I")
        if (
            max(both[1::2].tolist(), default=0) >= limit
            or max(both[::2].tolist(), default=0) >= engine.per_page
            or 8 * sum(count for _, count, _ in pages) != len(slots)
            or any(number >= memory.size // PAGE for number, _, _ in pages)
        ):
            raise CacheError("a number of what was decoded is out of range")
        for number, count, digest in pages:
            pairs = slots[at : at + 8 * count]
            at += 8 * count
            if engine.is_code(number * PAGE, (number + 1) * PAGE) and self._digest(number) == digest:
                engine.restore_page(number, kinds, pairs, count)

    def _digest(self, number: int) -> bytes:
        # The next page too: an instruction may reach into it.
        data = self.engine.text(number * PAGE, (number + 1) * PAGE + self.engine.reach)
        return blake2b(data, digest_size=16).digest()

    # -- writing ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write what has been decoded and compiled, if it is more than the file holds, and what the next run may compile."""
        engine = self.engine
        tiering = engine.tiering if engine.tiering is not None and engine.tiering.optimising else None
        sections: dict[str, bytes] = {}
        account = b""
        with engine.lock:
            decoded = self._decoded()
            if engine.breakpoints:
                return
            compiled = engine.tiering.unsaved if engine.tiering is not None else 0
            if tiering is not None and (compiled or tiering.settled > self.settled or tiering.wants):
                self.settled = tiering.settled
                account = _ACCOUNT.pack(*tiering.balance())
            if decoded > self._kept or compiled:
                self._kept = decoded
                sections = self._pack_blocks()
                if tiering is not None:
                    sections |= pack_regions(tiering.saved())
        try:
            # First: regions without an account are taken for all that LLVM is worth.
            if account:
                self.cache.write(self._account, {"account": account})
            if sections:
                if tiering is None:
                    sections |= self._regions_of_others()
                self.cache.write(self.name, sections)
        except CacheError as error:
            warn("what was decoded and compiled is not cached", error)

    def _regions_of_others(self) -> dict[str, bytes]:
        """The sections for regions as they are in the file: an engine that has none must not throw them away."""
        try:
            before = self.cache.read(self.name)
        except CacheError:
            before = None
        if before is None or not {"regions", "code"} <= before.keys():
            return pack_regions([])
        return {name: bytes(before[name]) for name in ("regions", "code")}

    def _decoded(self) -> int:
        """Blocks that Python decoded, or instructions where it helped the native decoder. What that does alone is done
        again in less time than it takes to read it."""
        engine = self.engine
        return engine.stats.blocks_decoded if engine.interpreter.decode is None else len(engine.slow)

    def _pack_blocks(self) -> dict[str, bytes]:
        engine = self.engine
        names: dict[str, int] = {}
        kinds: dict[bytes, int] = {}
        pages, slots = [], []
        for number, found in engine.decoded_pages():
            pairs = bytearray()
            for slot, name, operands, length in found:
                kind = _KIND.pack(names.setdefault(name, len(names)), operands, length)
                pairs += struct.pack("<II", slot, kinds.setdefault(kind, len(kinds)))
            if pairs:
                pages.append(_PAGE.pack(number, len(pairs) // 8, self._digest(number)))
                slots.append(bytes(pairs))
        return {
            "symbols": "\0".join(names).encode(),
            "kinds": b"".join(kinds),
            "pages": b"".join(pages),
            "slots": b"".join(slots),
        }
