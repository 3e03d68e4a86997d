"""Native code that depends on our own texts alone, not on a guest: the interpreter of each ISA.

A wheel brings it, made for two levels of x86-64 processors when the wheel was built (``hatch_build.py`` calls
:func:`make`). Elsewhere, and when the texts are not those that the wheel was made from, it is made at first use, for
this very processor, and kept in the cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from vm_core.errors import CacheError, EngineUnavailable
from vm_core.hints import TYPE_CHECKING, Final
from vm_core.record import record
from vm_jit.cache import SUFFIX, Cache, pack, unpack, warn
from vm_jit.code_memory import CodeMemory, Image, link
from vm_jit.compiler import LEVELS, CompileError, Compiler, has_segment, host_key, host_levels
from vm_jit.sources import source_digest

if TYPE_CHECKING:
    from vm_core.spec.isa import Isa
    from vm_jit.records import Plan
    from vm_jit.superinstructions import Steps

__all__ = ["PARTS", "Code", "files", "find", "load", "make", "pack_numbers", "unpack_numbers"]

DIRECTORY: Final = "objects"
"""Where in the installed package the wheel's code is."""


def _interpreter(isa: Isa, cpu: str) -> dict[str, bytes]:
    from vm_jit import decoder
    from vm_jit.interpreter import build

    modules, plans, _ = build(isa)
    modules[-1] += decoder.function(isa)
    return _packed(isa, cpu, modules, plans, {})


def _alone(isa: Isa, cpu: str) -> dict[str, bytes]:
    """The interpreter where there is no tier above it: with superinstructions, and nothing is counted."""
    from vm_jit import decoder
    from vm_jit.interpreter import build
    from vm_jit.superinstructions import sequences

    if not (chosen := sequences(isa)):
        return {}
    modules, plans, names = build(isa, threshold=None, parts=1, chosen=chosen)
    modules[-1] += decoder.function(isa, sequences=True)
    return _packed(isa, cpu, modules, plans, names)


def _packed(
    isa: Isa, cpu: str, modules: list[str], plans: dict[str, Plan], names: dict[Steps, str]
) -> dict[str, bytes]:
    import json
    from concurrent.futures import ThreadPoolExecutor

    from vm_jit import decoder

    rows = {key: [one.symbol, one.slots, one.immediates] for key, one in plans.items()}
    with ThreadPoolExecutor(len(modules)) as pool:
        objects = list(pool.map(lambda text: _compile(text, cpu), modules))
    return {
        **{f"image{i}": link(data).pack() for i, data in enumerate(objects)},
        "plans": json.dumps(rows, separators=(",", ":")).encode(),
        "keys": "\0".join(word for key, one in plans.items() for word in (key, one.symbol)).encode(),
        **decoder.sections(isa, plans, names),
    }


def pack_numbers(numbers: dict[str, int]) -> bytes:
    """As a section. PERF: JSON would be read in the same time, but importing it takes 3 ms."""
    return "\0".join(word for name, number in numbers.items() for word in (name, str(number))).encode()


def unpack_numbers(section: memoryview) -> dict[str, int]:
    """The inverse."""
    words = str(section, "utf-8").split("\0")
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _baseline(isa: Isa, cpu: str) -> dict[str, bytes]:
    from vm_jit.baseline import Baseline, build

    return build(isa, cpu) if Baseline.supports(isa) else {}


PARTS: Final[dict[str, Callable[[Isa, str], dict[str, bytes]]]] = {
    "interp": _interpreter,
    "alone": _alone,
    "baseline": _baseline,
}
"""Each kind of code: a function of the ISA and the processor that gives the sections of its file; ``image...`` are code."""


@record()
class Code:
    """Code in code memory: ``symbols`` are the host addresses of its functions; ``sections`` what was kept with it.
    ``origin`` is "wheel", "cache" or "built", and ``seconds`` what it took to get it."""

    symbols: dict[str, int]
    sections: dict[str, memoryview]
    origin: str
    seconds: float


def make(part: str, isa: Isa, cpu: str = "") -> bytes:
    """Compile a part for a processor of LEVELS (empty: this one); returns the content of its file. Raises CompileError."""
    return pack(PARTS[part](isa, cpu))


def _compile(text: str, cpu: str) -> bytes:
    compiler = Compiler(cpu)
    try:
        return compiler.compile(text)
    finally:
        compiler.close()


def files(isas: Sequence[Isa]) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file that a wheel brings in DIRECTORY."""
    for isa in isas:
        for part in PARTS:
            for level in LEVELS:
                if sections := PARTS[part](isa, level):
                    yield f"{part}-{isa.name}-{source_digest(isa)[:16]}-{level}{SUFFIX}", pack(sections)


def load(part: str, isa: Isa, cache: Cache | None, memory: CodeMemory) -> Code:
    """A part in ``memory``: from the wheel, else from the cache, else made now (a second or two), and stored in the
    cache. Raises EngineUnavailable."""
    return find(part, isa, cache, memory) or _build(part, isa, cache, memory)


def find(part: str, isa: Isa, cache: Cache | None, memory: CodeMemory) -> Code | None:
    """A part in ``memory``, if the wheel or the cache has it."""
    begin = time.perf_counter()
    stem = f"{part}-{isa.name}-{source_digest(isa, cache)[:16]}"
    for read, origin in ((_from_wheel, "wheel"), (_from_cache, "cache")):
        try:
            found = read(stem, cache)
            if found is not None:
                return _place(found, memory, origin, begin)
        except CacheError as error:
            warn(f"the {origin}'s {part} is not used", error)
    return None


def provide(part: str, isa: Isa, cache: Cache) -> None:
    """Make a part that neither the wheel nor the cache has, for this run and later ones. Raises CompileError and CacheError."""
    stem = f"{part}-{isa.name}-{source_digest(isa, cache)[:16]}"
    name = f"{stem}-{host_key()[:16]}"
    if not any(os.path.exists(path) for path in _wheel_paths(stem)) and not cache.has(name):
        cache.write(name, {key: bytes(value) for key, value in unpack(make(part, isa), part).items()})


def _build(part: str, isa: Isa, cache: Cache | None, memory: CodeMemory) -> Code:
    begin = time.perf_counter()
    stem = f"{part}-{isa.name}-{source_digest(isa, cache)[:16]}"
    try:
        data = make(part, isa)
    except CompileError as error:
        raise EngineUnavailable(
            f"the native interpreter cannot be built: {error}", hint="use --engine reference"
        ) from error
    sections = unpack(data, part)
    if cache is not None:
        try:
            cache.write(f"{stem}-{host_key()[:16]}", {key: bytes(value) for key, value in sections.items()})
        except CacheError as error:
            warn(f"the {part} is not cached", error)
    return _place(sections, memory, "built", begin)


def _wheel_paths(stem: str) -> list[str]:
    """The files that would do for this processor, the best first."""
    if stem.startswith("baseline-") and not has_segment():
        return []  # its code finds the arena by the segment
    place = os.path.join(os.path.dirname(__file__), DIRECTORY)
    return [os.path.join(place, f"{stem}-{level}{SUFFIX}") for level in host_levels()]


def _from_wheel(stem: str, _cache: Cache | None) -> dict[str, memoryview] | None:
    for path in _wheel_paths(stem):
        try:
            with open(path, "rb", buffering=0) as file:
                return unpack(file.read(), path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CacheError(f"{path}: {error.strerror}") from None
    return None


def _from_cache(stem: str, cache: Cache | None) -> dict[str, memoryview] | None:
    return None if cache is None else cache.read(f"{stem}-{host_key()[:16]}")


def _place(sections: dict[str, memoryview], memory: CodeMemory, origin: str, begin: float) -> Code:
    symbols: dict[str, int] = {}
    for name, data in sections.items():
        if name.startswith("image"):
            symbols |= memory.place(Image.unpack(data)).symbols
    return Code(symbols, sections, origin, time.perf_counter() - begin)
