"""The layout oracle: what C headers say for a target that need not be this machine, through libclang.

Every structure, enumeration, constant and parameter list that vm_accel declares for cffi is compared with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Headers", "Layout", "differences", "flattened"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A structure or union: bytes, and (bit offset, bits) of each field by its path, anonymous members dissolved."""

    size: int
    fields: dict[str, tuple[int, int]]


@dataclass(slots=True)
class Headers:
    """What a source that includes the headers declares. Raises ValueError where it does not compile."""

    target: str
    includes: tuple[Path, ...]
    source: str
    only: tuple[str, ...] = ()
    """Parts of file names: what is declared in other files is left out. Empty: nothing is."""
    records: dict[str, Layout] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    functions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Bytes of the result, then of each parameter; 0 is void."""

    def __post_init__(self) -> None:
        from clang import cindex

        with tempfile.TemporaryDirectory() as directory:
            # The wheel of libclang has no headers of its own, of which mingw-w64 wants one for intrinsics.
            for name in ("x86intrin.h", "emmintrin.h", "xmmintrin.h", "mmintrin.h", "mm_malloc.h"):
                (Path(directory) / name).write_text("")
            for name in ("stddef.h", "stdarg.h", "stdint.h", "limits.h"):
                (Path(directory) / name).write_text(_FREESTANDING[name])
            arguments = [f"--target={self.target}", "-nostdinc", f"-I{directory}", "-Wno-everything"]
            arguments += [part for path in self.includes for part in ("-isystem", str(path))]
            unit = cindex.Index.create().parse(
                "probe.c", args=arguments, unsaved_files=[("probe.c", self.source)]
            )
            bad = [str(found) for found in unit.diagnostics if found.severity >= cindex.Diagnostic.Error]
            if bad:
                raise ValueError("; ".join(bad[:5]))
            self._collect(unit.cursor, cindex)

    def _collect(self, root: Any, cindex: Any) -> None:
        kinds = cindex.CursorKind
        for cursor in self._wanted(root):
            if cursor.kind == kinds.ENUM_CONSTANT_DECL:
                self.constants[cursor.spelling] = cursor.enum_value
            elif cursor.kind in (kinds.STRUCT_DECL, kinds.UNION_DECL) and cursor.is_definition():
                if cursor.spelling and not cursor.is_anonymous():
                    self.records[cursor.spelling] = self._layout(cursor.type, cindex)
            elif cursor.kind == kinds.TYPEDEF_DECL:
                under = cursor.underlying_typedef_type.get_canonical()
                if under.kind == cindex.TypeKind.RECORD and under.get_size() >= 0:
                    self.records[cursor.spelling] = self._layout(under, cindex)
            elif cursor.kind == kinds.FUNCTION_DECL:
                types = [cursor.result_type, *(argument.type for argument in cursor.get_arguments())]
                void = cindex.TypeKind.VOID
                self.functions[cursor.spelling] = tuple(
                    0 if kind.get_canonical().kind == void else kind.get_size() for kind in types
                )

    def _wanted(self, root: Any) -> Iterator[Any]:
        """What the headers declare themselves. PERF: <windows.h> declares 50,000 things that nobody asks for."""
        for child in root.get_children():
            file = child.location.file
            if not self.only or (file is not None and any(part in file.name for part in self.only)):
                yield from child.walk_preorder()

    def _layout(self, kind: Any, cindex: Any) -> Layout:
        return Layout(max(kind.get_size(), 0), dict(self._fields(kind, cindex, "", 0)))

    def _fields(
        self, kind: Any, cindex: Any, prefix: str, start: int
    ) -> Iterator[tuple[str, tuple[int, int]]]:
        for member in kind.get_fields():
            at = start + member.get_field_offsetof()
            under = member.type.get_canonical()
            if member.is_bitfield():
                yield prefix + member.spelling, (at, member.get_bitfield_width())
                continue
            anonymous = not member.spelling or "(" in member.spelling  # "(anonymous struct at …)"
            if not anonymous:
                yield prefix + member.spelling, (at, 8 * max(member.type.get_size(), 0))
            if under.kind == cindex.TypeKind.RECORD:
                inner = prefix if anonymous else f"{prefix}{member.spelling}."
                yield from self._fields(under, cindex, inner, at)


def flattened(ffi: Any, name: str) -> Layout:
    """The layout that cffi gives a type, in the same terms."""

    def walk(kind: Any, prefix: str, start: int) -> Iterator[tuple[str, tuple[int, int]]]:
        for member, info in kind.fields or ():
            at = start + 8 * info.offset
            if member:
                yield prefix + member, (at, 8 * ffi.sizeof(info.type))
            if info.type.kind in ("struct", "union"):
                yield from walk(info.type, f"{prefix}{member}." if member else prefix, at)

    kind = ffi.typeof(name)
    return Layout(ffi.sizeof(kind), dict(walk(kind, "", 0)))


def differences(ffi: Any, name: str, real: Layout, *, skip: Iterable[str] = ()) -> list[str]:
    """What is wrong with cffi's view of a structure: empty if it is right. Fields that start with one of ``skip`` are
    not compared; fields that only the header has are fine."""
    ours, wrong = flattened(ffi, name), []
    if ours.size != real.size:
        wrong.append(f"{name}: {ours.size} bytes, not {real.size}")
    for path, place in ours.fields.items():
        if path.startswith(tuple(skip)):
            continue
        if path not in real.fields:
            wrong.append(f"{name}.{path} is not in the header")
        elif real.fields[path] != place:
            at, bits = real.fields[path]
            wrong.append(f"{name}.{path}: {place[1]} bits at {place[0]}, not {bits} at {at}")
    return wrong


_FREESTANDING = {
    "stddef.h": "#pragma once\ntypedef __SIZE_TYPE__ size_t; typedef __PTRDIFF_TYPE__ ptrdiff_t;\n"
    "#ifndef _WCHAR_T_DEFINED\n#define _WCHAR_T_DEFINED\ntypedef __WCHAR_TYPE__ wchar_t;\n#endif\n"
    "#define NULL ((void *)0)\n#define offsetof(t, m) __builtin_offsetof(t, m)\n",
    "stdarg.h": "#pragma once\ntypedef __builtin_va_list va_list; typedef __builtin_va_list __gnuc_va_list;\n",
    "stdint.h": "#pragma once\n"
    + "".join(
        f"typedef __{sign}INT{bits}_TYPE__ {prefix}int{bits}_t;\n"
        for bits in (8, 16, 32, 64)
        for sign, prefix in (("", ""), ("U", "u"))
    )
    + "typedef __UINTPTR_TYPE__ uintptr_t; typedef __INTPTR_TYPE__ intptr_t;\n",
    "limits.h": "#pragma once\n#define INT_MAX __INT_MAX__\n#define LONG_MAX __LONG_MAX__\n",
}
"""The headers that a compiler brings itself, as far as the probed ones need them."""
