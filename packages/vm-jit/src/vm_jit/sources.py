"""Which of our own texts machine code was made from: a changed text makes old code unusable."""

from __future__ import annotations

import contextlib
import os
import struct
import time

from vm_core.errors import CacheError
from vm_core.hints import TYPE_CHECKING, Final
from vm_jit.digest import blake2b

if TYPE_CHECKING:
    from vm_core.spec.isa import Isa
    from vm_jit.cache import Cache

__all__ = ["source_digest"]

_TEXTS: Final = (
    "vm_core/spec", "vm_core/isa/{isa}", "vm_core/state.py", "vm_core/memory.py", "vm_jit/compiler.py", "vm_jit/decoder.py",
    "vm_jit/faults.py", "vm_jit/interpreter.py", "vm_jit/lowering.py", "vm_jit/prebuilt.py", "vm_jit/records.py", "vm_jit/region.py",
    "vm_jit/ranges.py", "vm_jit/assemble.py", "vm_jit/baseline.py", "vm_jit/copying.py", "vm_jit/kept.py", "vm_jit/stencils.py",
    "vm_jit/syscalls.py", "vm_jit/descriptors.py", "vm_jit/names.py", "vm_jit/mappings.py", "vm_jit/superinstructions.py",
    "vm_jit/sequences.py", "vm_jit/lines.py", "vm_jit/dwarf.py",
    "vm_core/linux/abi.py", "vm_core/linux/native.py",
)  # fmt: skip
"""Files, and directories of files, that decide what code is made."""
_SETTLED_SECONDS: Final = 2
_STAT: Final = struct.Struct("<QQQqq")


def _files(isa: str) -> list[str]:
    import vm_core
    import vm_jit

    roots = {"vm_core": vm_core.__path__[0], "vm_jit": vm_jit.__path__[0]}
    out = []
    for text in _TEXTS:
        root, _, rest = text.partition("/")
        place = f"{roots[root]}/{rest.format(isa={'riscv64': 'riscv'}.get(isa, isa))}"
        if place.endswith(".py"):
            out.append(place)
        else:
            out += [f"{place}/{name}" for name in sorted(os.listdir(place)) if name.endswith(".py")]
    return out


_digests: dict[str, str] = {}


def source_digest(isa: Isa, store: Cache | None = None) -> str:
    """A hash of the texts that define an ISA and its translation, as they are when it is first asked for.

    PERF: ``store`` remembers it together with the files' inodes, sizes and times, so that a start reads none of them.
    """
    found = _digests.get(isa.name)
    if found is None:
        found = _digests[isa.name] = _source_digest(isa, store)
    return found


def _source_digest(isa: Isa, store: Cache | None) -> str:
    files = _files(isa.name)
    signature, newest = _signature(files)
    name = f"sources-{isa.name}"
    if store is not None:
        try:
            known = store.read(name)
        except CacheError:
            known = None  # made anew below
        if known is not None and bytes(known.get("signature", b"")) == signature:
            return bytes(known.get("digest", b"")).hex()
    digest = blake2b(digest_size=16)
    for path in files:
        digest.update(os.path.basename(path).encode() + b"\0")
        with open(path, "rb", buffering=0) as file:
            digest.update(file.read())
    # A file that changes once more within the clock's resolution would have the same times.
    if store is not None and abs(time.time() - newest) > _SETTLED_SECONDS:
        with contextlib.suppress(CacheError):  # it is said when code cannot be stored there
            store.write(name, {"signature": signature, "digest": digest.digest()})
    return digest.hexdigest()


def _signature(files: list[str]) -> tuple[bytes, float]:
    """What changes when one of the files does, and when that was last, in seconds."""
    rows, newest = ["\0".join(files).encode()], 0
    for path in files:
        info = os.stat(path)
        newest = max(newest, info.st_mtime_ns, info.st_ctime_ns)
        rows.append(_STAT.pack(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return blake2b(b"".join(rows), digest_size=16).digest(), newest / 1e9
