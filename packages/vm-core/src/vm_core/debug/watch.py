"""Watchpoints: the exact instruction that reads or writes a range of guest memory.

While there is one, the pages that it touches are hidden from the engine (:meth:`GuestMemory.hide`), which has to be one that
looks up each access: everything else runs at the speed of the native interpreter, and an access to these pages goes through
:class:`WatchedMemory`, which raises :class:`Hit` before it happens if it is one that is watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast, runtime_checkable

from vm_core.memory import PAGE, Access, GuestMemory, MemoryFault, Prot

if TYPE_CHECKING:
    from vm_core.engine import Engine
    from vm_core.spec.isa import Isa

__all__ = ["KINDS", "MOST", "Hit", "Watch", "WatchedMemory", "engine_for", "pages", "select"]

KINDS: Final[Mapping[str, int]] = {"watch": 2, "rwatch": 1, "awatch": 3}
"""The permissions that the accesses need which a kind of watchpoint is about."""
MOST: Final = 256
_MOST_BYTES: Final = 1 << 20


class Watch(NamedTuple):
    """Stop at accesses to ``[address, address + length)``."""

    kind: str
    address: int
    length: int

    def fits(self, memory: GuestMemory) -> bool:
        """Whether it can be watched."""
        return 0 < self.length <= _MOST_BYTES and 0 <= self.address <= memory.size - self.length

    def value(self, memory: GuestMemory) -> bytes:
        """What is there; nothing where a page is not mapped."""
        try:
            return memory.peek(self.address, self.length)
        except MemoryFault:
            return b""


class Hit(BaseException):
    """Unwinds an engine before an access that is watched. ``address`` is its first byte in the watched range."""

    def __init__(self, watch: Watch, address: int) -> None:
        super().__init__()
        self.watch, self.address = watch, address


class WatchedMemory:
    """Stands in for the guest's memory in an engine that runs with watchpoints."""

    def __init__(self, memory: GuestMemory, watches: list[Watch]) -> None:
        self._memory, self._watches = memory, watches

    def __getattr__(self, name: str) -> object:
        return getattr(self._memory, name)

    def load(self, address: int, size: int) -> int:
        self._look(address, size, 1)
        return self._memory.load(address, size)

    def store(self, address: int, size: int, value: int) -> None:
        self._look(address, size, 2)
        memory = self._memory
        memory.store(address, size, value)
        if memory.table[address >> 12] & Prot.EXEC:
            # The engine does not see that such a page can be written.
            for notify in memory.code_changed:
                notify(address, address + size)

    def _look(self, address: int, size: int, bit: int) -> None:
        for watch in self._watches:
            if (
                KINDS[watch.kind] & bit
                and watch.address < address + size
                and address < watch.address + watch.length
            ):
                # An access that is refused is no access.
                self._memory.check(address, size, Access(bit))
                raise Hit(watch, max(address, watch.address))


def pages(watches: list[Watch]) -> dict[int, int]:
    """What has to be hidden: permissions by page number."""
    out: dict[int, int] = {}
    for watch in watches:
        for page in range(watch.address // PAGE, (watch.address + watch.length - 1) // PAGE + 1):
            out[page] = out.get(page, 0) | KINDS[watch.kind]
    return out


@runtime_checkable
class Selective(Protocol):
    """An engine that can itself do the hidden accesses which touch nothing that is watched."""

    def watch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """The guest ranges that are watched: first byte and end of each. No vCPU may be running."""


def select(engine: Engine, watches: Sequence[Watch]) -> None:
    """Tell an engine what is watched, if it is one that can make use of it."""
    if isinstance(engine, Selective):
        engine.watch([(watch.address, watch.address + watch.length) for watch in watches])


def engine_for(isa: Isa, memory: WatchedMemory, *, native: bool) -> Engine:
    """An engine that looks up each access in the table of ``memory``."""
    from vm_core.errors import EngineUnavailable
    from vm_core.execute import ReferenceEngine

    stand_in = cast(GuestMemory, memory)  # engines ask of their memory only what the stand-in has
    if native:
        from vm_core.engines import create

        try:
            return create("interp", isa, stand_in)
        except EngineUnavailable:
            pass
    return ReferenceEngine(isa, stand_in)
