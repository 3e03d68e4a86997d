"""Anonymous memory in native code: mmap of fresh pages where nothing is, and munmap of what it has mapped so.

Python hears of such a mapping when it next looks at the guest's regions (:attr:`vm_core.memory.GuestMemory.made`); one that
is unmapped again before that, it never sees.
"""

from __future__ import annotations

from typing import Final

from vm_core.linux import native
from vm_core.memory import DENSE, MADE, MADE_WORDS, MAPPED, PAGE, TABLE_OFFSET
from vm_jit.lowering import HOST
from vm_jit.names import PYTHONS

__all__ = ["FUNCTIONS"]

_MMAP: Final = 9 if HOST.x86 else 222
_LARGEST: Final = DENSE - PAGE
"""Bytes of a mapping; larger ones get large pages, which is Python's."""
_FARTHEST: Final = 1 << 16
"""Pages looked at for a free place."""
_LOWEST: Final = 0x10000 >> 12
_PRIVATE, _FIXED, _ANONYMOUS, _NORESERVE, _STACK = 0x02, 0x10, 0x20, 0x4000, 0x20000
_HOST_FLAGS: Final = _PRIVATE | _FIXED | _ANONYMOUS | _NORESERVE
_READ_WRITE: Final = 3
_FIRST: Final = native.MADE + 8 * MADE_WORDS

FUNCTIONS: Final = f"""\
define internal i64 @replace_pages(ptr %arena, i64 %page, i64 %count, i64 %prot, i8 %byte) noinline #0 {{
entry:
  %address = shl i64 %page, 12
  %bytes = shl i64 %count, 12
  %place.at = getelementptr i8, ptr %arena, i64 %address
  %place = ptrtoint ptr %place.at to i64
  %got = call i64 @host_call(i64 {_MMAP}, i64 %place, i64 %bytes, i64 %prot, i64 {_HOST_FLAGS}, i64 -1, i64 0)
  %same = icmp eq i64 %got, %place
  br i1 %same, label %table, label %no
table:
  %first = getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}
  %table.at = getelementptr i8, ptr %first, i64 %page
  br label %next
next:
  %i = phi i64 [ 0, %table ], [ %i.1, %one ]
  %all = icmp eq i64 %i, %count
  br i1 %all, label %yes, label %one
one:
  %at = getelementptr i8, ptr %table.at, i64 %i
  store volatile i8 %byte, ptr %at
  %i.1 = add i64 %i, 1
  br label %next
yes:
  ret i64 0
no:
  ret i64 {PYTHONS}
}}
define internal i64 @map_anonymous(ptr %calls, ptr %arena, i64 %address, i64 %length, i64 %prot, i64 %flags) noinline #0 {{
entry:
  %alone.at = getelementptr i8, ptr %calls, i64 {native.ALONE}
  %alone = load i64, ptr %alone.at
  %top.at = getelementptr i8, ptr %calls, i64 {native.MMAP_TOP}
  %top = load i64, ptr %top.at
  %only = icmp ne i64 %alone, 0
  %may = icmp ne i64 %top, 0
  %anywhere = icmp eq i64 %address, 0
  %usual = icmp eq i64 %prot, {_READ_WRITE}
  %kind = and i64 %flags, {~(_NORESERVE | _STACK)}
  %private = icmp eq i64 %kind, {_PRIVATE | _ANONYMOUS}
  %less = add i64 %length, -1
  %small = icmp ult i64 %less, {_LARGEST}
  %a = and i1 %only, %may
  %b = and i1 %anywhere, %usual
  %c = and i1 %private, %small
  %d = and i1 %a, %b
  %go = and i1 %c, %d
  br i1 %go, label %slots, label %no
slots:
  %up = add i64 %length, 4095
  %count = lshr i64 %up, 12
  %first = getelementptr i8, ptr %calls, i64 {_FIRST}
  br label %slot
slot:
  %s = phi i64 [ 0, %slots ], [ %s.1, %taken ]
  %none = icmp eq i64 %s, {MADE}
  br i1 %none, label %no, label %ask
ask:
  %s.by = shl i64 %s, 4
  %slot.at = getelementptr i8, ptr %first, i64 %s.by
  %slot.end = getelementptr i8, ptr %slot.at, i64 8
  %end = load i64, ptr %slot.end
  %free = icmp eq i64 %end, 0
  br i1 %free, label %search, label %taken
taken:
  %s.1 = add i64 %s, 1
  br label %slot
search:
  %table = getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}
  %from = lshr i64 %top, 12
  %far = add i64 %from, -{_FARTHEST}
  %far.less = icmp slt i64 %far, {_LOWEST}
  %bottom = select i1 %far.less, i64 {_LOWEST}, i64 %far
  br label %page
page:
  %p = phi i64 [ %from, %search ], [ %p.1, %look ]
  %run = phi i64 [ 0, %search ], [ %run.1, %look ]
  %found = icmp eq i64 %run, %count
  br i1 %found, label %map, label %down
down:
  %more = icmp sgt i64 %p, %bottom
  br i1 %more, label %look, label %no
look:
  %p.1 = add i64 %p, -1
  %byte.at = getelementptr i8, ptr %table, i64 %p.1
  %byte = load i8, ptr %byte.at
  %empty = icmp eq i8 %byte, 0
  %longer = add i64 %run, 1
  %run.1 = select i1 %empty, i64 %longer, i64 0
  br label %page
map:
  %done = call i64 @replace_pages(ptr %arena, i64 %p, i64 %count, i64 {_READ_WRITE}, i8 {(MAPPED | _READ_WRITE) - 256})
  %good = icmp eq i64 %done, 0
  br i1 %good, label %note, label %no
note:
  %start = shl i64 %p, 12
  %bytes = shl i64 %count, 12
  %stop = add i64 %start, %bytes
  store i64 %start, ptr %slot.at
  store i64 %stop, ptr %slot.end
  %now.at = getelementptr i8, ptr %calls, i64 {native.MADE}
  %most.at = getelementptr i8, ptr %now.at, i64 8
  %before = load i64, ptr %now.at
  %now = add i64 %before, %bytes
  store i64 %now, ptr %now.at
  %most = load i64, ptr %most.at
  %grown = icmp ugt i64 %now, %most
  %most.1 = select i1 %grown, i64 %now, i64 %most
  store i64 %most.1, ptr %most.at
  ret i64 %start
no:
  ret i64 {PYTHONS}
}}
define internal i64 @unmap_anonymous(ptr %calls, ptr %arena, i64 %address, i64 %length) noinline #0 {{
entry:
  %alone.at = getelementptr i8, ptr %calls, i64 {native.ALONE}
  %alone = load i64, ptr %alone.at
  %only = icmp ne i64 %alone, 0
  %less = add i64 %length, -1
  %small = icmp ult i64 %less, {_LARGEST}
  %go = and i1 %only, %small
  br i1 %go, label %slots, label %no
slots:
  %up = add i64 %length, 4095
  %count = lshr i64 %up, 12
  %bytes = shl i64 %count, 12
  %stop = add i64 %address, %bytes
  %first = getelementptr i8, ptr %calls, i64 {_FIRST}
  br label %slot
slot:
  %s = phi i64 [ 0, %slots ], [ %s.1, %other ]
  %none = icmp eq i64 %s, {MADE}
  br i1 %none, label %no, label %ask
ask:
  %s.by = shl i64 %s, 4
  %slot.at = getelementptr i8, ptr %first, i64 %s.by
  %slot.end = getelementptr i8, ptr %slot.at, i64 8
  %start = load i64, ptr %slot.at
  %end = load i64, ptr %slot.end
  %same.start = icmp eq i64 %start, %address
  %same.end = icmp eq i64 %end, %stop
  %same = and i1 %same.start, %same.end
  br i1 %same, label %unmap, label %other
other:
  %s.1 = add i64 %s, 1
  br label %slot
unmap:
  %page = lshr i64 %address, 12
  %done = call i64 @replace_pages(ptr %arena, i64 %page, i64 %count, i64 0, i8 0)
  %good = icmp eq i64 %done, 0
  br i1 %good, label %note, label %no
note:
  store i64 0, ptr %slot.end
  %now.at = getelementptr i8, ptr %calls, i64 {native.MADE}
  %before = load i64, ptr %now.at
  %now = sub i64 %before, %bytes
  store i64 %now, ptr %now.at
  ret i64 0
no:
  ret i64 {PYTHONS}
}}"""
"""@map_anonymous(table, arena, address, length, prot, flags) and @unmap_anonymous(table, arena, address, length)."""
