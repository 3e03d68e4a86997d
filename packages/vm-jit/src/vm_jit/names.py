"""System calls on paths in native code: what a guest path belongs to, looking at it, opening and closing it.

A path that native code looks for is the host's from the directory of its mount on, with no link and no ``..`` on the way:
then the host's kernel finds it in one step, below that directory (see :mod:`vm_core.linux.native`). All else is Python's.
"""

from __future__ import annotations

from typing import Final

from vm_core.linux import native
from vm_core.linux.abi import Abi
from vm_core.memory import MAX_BITS, TABLE_OFFSET, Access
from vm_jit.lowering import HOST

__all__ = ["PYTHONS", "STAT_BYTES", "functions"]

PYTHONS: Final = 1 << 62
"""The result of a function here that has done nothing: the call is Python's."""
STAT_BYTES: Final = 256
"""Of what @look fills: the host's struct stat or statx."""
_READ: Final = Access.READ.value
"""Bytes of what @find says: a pointer to the path below the directory; whether it has a slash; the bytes of the whole path;
``.`` as a path, and an empty one; whether the path is below a descriptor; and struct open_how. The path's text follows."""
_SLASH, _WHOLE, _DOT, _EMPTY, _BASED, _HOW = 8, 16, 24, 28, 32, 40
_TEXT: Final = 64
_SPACE: Final = _TEXT + 2 * native.LONGEST + 64
_PATH, _NOFOLLOW, _CLOEXEC = 0o10000000, 0o100000 if not HOST.x86 else 0o400000, 0o2000000
_DIRECTORY: Final = 0o200000 if HOST.x86 else 0o40000
_NUMBERS: Final = (
    {"fstat": 5, "close": 3, "lseek": 8, "openat": 257, "newfstatat": 262, "statx": 332, "openat2": 437}
    if HOST.x86
    else {"fstat": 80, "close": 57, "lseek": 62, "openat": 56, "newfstatat": 79, "statx": 291, "openat2": 437}
)
_MODE: Final = 24 if HOST.x86 else 16
"""Where st_mode is in the host's struct stat."""
_ACCESS, _CREAT, _EXCL, _NOCTTY, _TRUNC, _APPEND, _NONBLOCK = 3, 0o100, 0o200, 0o400, 0o1000, 0o2000, 0o4000

_FIND: Final = f"""\
define internal i64 @find(ptr %calls, ptr %arena, ptr %out, i32 %dfd, i64 %address) noinline #0 {{
entry:
  %i.at = alloca i64
  %n.at = alloca i64
  %state.at = alloca i64
  %base.at = alloca i64
  %best.at = alloca i64
  %length.at = alloca i64
  %text = getelementptr i8, ptr %out, i64 {_TEXT}
  %table = getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}
  %generation.at = getelementptr i8, ptr %calls, i64 {native.NAMES}
  %generation = load atomic i64, ptr %generation.at acquire, align 8
  %odd = trunc i64 %generation to i1
  br i1 %odd, label %no, label %begin
begin:
  store i64 0, ptr %i.at
  store i64 0, ptr %n.at
  store i64 1, ptr %state.at
  store i64 -1, ptr %base.at
  %some = call i1 @allowed(ptr %arena, i64 %address, i64 1, i8 {_READ})
  br i1 %some, label %first, label %no
first:
  %first.at = getelementptr i8, ptr %arena, i64 %address
  %first.byte = load volatile i8, ptr %first.at
  %absolute = icmp eq i8 %first.byte, 47
  br i1 %absolute, label %bytes, label %relative
relative:
  %here = icmp eq i32 %dfd, -100
  br i1 %here, label %working, label %numbered
numbered:
  %number = zext i32 %dfd to i64
  %known = icmp ult i64 %number, {native.MAX_DESCRIPTORS}
  br i1 %known, label %described, label %no
described:
  %word.of = shl i64 %number, 3
  %word.by = add i64 %word.of, {native.DESCRIPTORS}
  %word.at = getelementptr i8, ptr %calls, i64 %word.by
  %word = load atomic i64, ptr %word.at monotonic, align 8
  %below = and i64 %word, {native.FD_BELOW}
  %plain = icmp ne i64 %below, 0
  store i64 %word, ptr %base.at
  br i1 %plain, label %bytes, label %no
working:
  %cwd.at = getelementptr i8, ptr %calls, i64 {native.CWD}
  %cwd.bytes = load i64, ptr %cwd.at
  %cwd.text = getelementptr i8, ptr %cwd.at, i64 8
  %cwd.fits = icmp ult i64 %cwd.bytes, {native.LONGEST}
  store i64 %cwd.bytes, ptr %n.at
  br i1 %cwd.fits, label %copy, label %no
copy:
  %k = phi i64 [ 0, %working ], [ %k.next, %copying ]
  %copied = icmp eq i64 %k, %cwd.bytes
  br i1 %copied, label %bytes, label %copying
copying:
  %from = getelementptr i8, ptr %cwd.text, i64 %k
  %to = getelementptr i8, ptr %text, i64 %k
  %letter = load volatile i8, ptr %from
  store i8 %letter, ptr %to
  %k.next = add i64 %k, 1
  br label %copy

bytes:
  %i = load i64, ptr %i.at
  %n = load i64, ptr %n.at
  %state = load i64, ptr %state.at
  %here.at = add i64 %address, %i
  %inside = icmp ult i64 %here.at, {1 << MAX_BITS}
  %short = icmp ult i64 %i, {native.LONGEST}
  %fine = and i1 %inside, %short
  br i1 %fine, label %look, label %no
look:
  %page = lshr i64 %here.at, 12
  %page.at = getelementptr i8, ptr %table, i64 %page
  %rights = load i8, ptr %page.at
  %right = and i8 %rights, {_READ}
  %readable = icmp ne i8 %right, 0
  br i1 %readable, label %byte, label %no
byte:
  %byte.at = getelementptr i8, ptr %arena, i64 %here.at
  %c = load volatile i8, ptr %byte.at
  %i.next = add i64 %i, 1
  store i64 %i.next, ptr %i.at
  %place = getelementptr i8, ptr %text, i64 %n
  %n.1 = add i64 %n, 1
  %dot = icmp eq i8 %c, 46
  switch i8 %c, label %ordinary [ i8 47, label %slash  i8 0, label %end ]
ordinary:
  %begins = icmp eq i64 %state, 1
  br i1 %begins, label %component, label %append
component:
  store i8 47, ptr %place
  %place.1 = getelementptr i8, ptr %place, i64 1
  store i8 %c, ptr %place.1
  %n.2 = add i64 %n, 2
  store i64 %n.2, ptr %n.at
  %after.1 = select i1 %dot, i64 2, i64 0
  store i64 %after.1, ptr %state.at
  br label %bytes
append:
  store i8 %c, ptr %place
  store i64 %n.1, ptr %n.at
  %one.dot = icmp eq i64 %state, 2
  %two.dots = and i1 %one.dot, %dot
  %after.2 = select i1 %two.dots, i64 3, i64 0
  store i64 %after.2, ptr %state.at
  br label %bytes
slash:
  store i64 1, ptr %state.at
  switch i64 %state, label %bytes [ i64 2, label %undo  i64 3, label %no ]
undo:
  %n.without = add i64 %n, -2
  store i64 %n.without, ptr %n.at
  br label %bytes
end:
  switch i64 %state, label %finish [ i64 1, label %no  i64 2, label %lone  i64 3, label %no ]
lone:
  %is.dot = icmp eq i64 %i, 1
  %n.before = add i64 %n, -2
  br i1 %is.dot, label %finish, label %no

finish:
  %whole = phi i64 [ %n, %end ], [ %n.before, %lone ]
  %end.at = getelementptr i8, ptr %text, i64 %whole
  store i8 0, ptr %end.at
  %whole.at = getelementptr i8, ptr %out, i64 {_WHOLE}
  store i64 %whole, ptr %whole.at
  %dot.at = getelementptr i8, ptr %out, i64 {_DOT}
  store i64 46, ptr %dot.at
  %base = load i64, ptr %base.at
  store i64 %base, ptr %best.at
  store i64 0, ptr %length.at
  %free = icmp eq i64 %base, -1
  %based = icmp ne i64 %base, -1
  %based.at = getelementptr i8, ptr %out, i64 {_BASED}
  store i1 %based, ptr %based.at
  br i1 %free, label %match, label %matched
match:
  %count.at = getelementptr i8, ptr %calls, i64 {native.MOUNTS}
  %count = load i64, ptr %count.at
  %entries = getelementptr i8, ptr %count.at, i64 8
  br label %entry.next
entry.next:
  %e = phi i64 [ 0, %match ], [ %e.1, %following ]
  %all = icmp uge i64 %e, %count
  br i1 %all, label %matched, label %entry.look
entry.look:
  %e.bytes = mul i64 %e, {native.ENTRY_BYTES}
  %entry.at = getelementptr i8, ptr %entries, i64 %e.bytes
  %e.length = load i64, ptr %entry.at
  %e.word.at = getelementptr i8, ptr %entry.at, i64 8
  %e.word = load i64, ptr %e.word.at
  %e.text = getelementptr i8, ptr %entry.at, i64 16
  %e.fits = icmp ule i64 %e.length, %whole
  br i1 %e.fits, label %edge, label %following
edge:
  %edge.at = getelementptr i8, ptr %text, i64 %e.length
  %edge.byte = load i8, ptr %edge.at
  %is.slash = icmp eq i8 %edge.byte, 47
  %is.end = icmp eq i8 %edge.byte, 0
  %only = and i64 %e.word, {1 << 62}
  %any = icmp eq i64 %only, 0
  %inner = and i1 %is.slash, %any
  %edged = or i1 %inner, %is.end
  br i1 %edged, label %same, label %following
same:
  %j = phi i64 [ 0, %edge ], [ %j.1, %same.more ]
  %equal = icmp eq i64 %j, %e.length
  br i1 %equal, label %taken, label %same.look
same.look:
  %mine.at = getelementptr i8, ptr %text, i64 %j
  %its.at = getelementptr i8, ptr %e.text, i64 %j
  %mine = load i8, ptr %mine.at
  %its = load volatile i8, ptr %its.at
  %alike = icmp eq i8 %mine, %its
  br i1 %alike, label %same.more, label %following
same.more:
  %j.1 = add i64 %j, 1
  br label %same
taken:
  store i64 %e.word, ptr %best.at
  store i64 %e.length, ptr %length.at
  br label %following
following:
  %e.1 = add i64 %e, 1
  br label %entry.next

matched:
  %best = load i64, ptr %best.at
  %length = load i64, ptr %length.at
  fence acquire
  %generation.now = load atomic i64, ptr %generation.at monotonic, align 8
  %settled = icmp eq i64 %generation, %generation.now
  %hosts = icmp sge i64 %best, 0
  %good = and i1 %settled, %hosts
  br i1 %good, label %cut, label %no
cut:
  %itself = icmp eq i64 %length, %whole
  %behind = add i64 %length, 1
  %behind.at = getelementptr i8, ptr %text, i64 %behind
  %rest = select i1 %itself, ptr %dot.at, ptr %behind.at
  store ptr %rest, ptr %out
  br label %scan
scan:
  %s = phi i64 [ 0, %cut ], [ %s.1, %scan.more ]
  %scan.at = getelementptr i8, ptr %rest, i64 %s
  %scanned = load i8, ptr %scan.at
  %s.1 = add i64 %s, 1
  switch i8 %scanned, label %scan.more [ i8 0, label %flat  i8 47, label %deep ]
scan.more:
  br label %scan
flat:
  br label %yes
deep:
  br label %yes
yes:
  %slashes = phi i64 [ 0, %flat ], [ 1, %deep ]
  %slash.at = getelementptr i8, ptr %out, i64 {_SLASH}
  store i64 %slashes, ptr %slash.at
  %result = and i64 %best, {0xFFFF_FFFF | native.FD_CHANGES}
  ret i64 %result
no:
  ret i64 -1
}}"""
"""``find(table, arena, out, directory, path)``: the descriptor of the directory that a guest path is below, and FD_CHANGES of
it; or -1. ``out`` says more (_SLASH and so on). The states of a byte: 0 in a name, 1 before one, 2 and 3 behind one or two dots."""

_BELOW: Final = f"""\
define internal i1 @nothing_below(ptr %calls, ptr %text, i64 %whole) noinline #0 {{
entry:
  %count.at = getelementptr i8, ptr %calls, i64 {native.MOUNTS}
  %count = load i64, ptr %count.at
  %entries = getelementptr i8, ptr %count.at, i64 8
  br label %next
next:
  %e = phi i64 [ 0, %entry ], [ %e.1, %following ]
  %all = icmp uge i64 %e, %count
  br i1 %all, label %yes, label %look
look:
  %e.bytes = mul i64 %e, {native.ENTRY_BYTES}
  %entry.at = getelementptr i8, ptr %entries, i64 %e.bytes
  %length = load i64, ptr %entry.at
  %text.of = getelementptr i8, ptr %entry.at, i64 16
  %longer = icmp ugt i64 %length, %whole
  br i1 %longer, label %same, label %following
same:
  %j = phi i64 [ 0, %look ], [ %j.1, %more ]
  %equal = icmp eq i64 %j, %whole
  br i1 %equal, label %edge, label %compare
compare:
  %mine.at = getelementptr i8, ptr %text, i64 %j
  %its.at = getelementptr i8, ptr %text.of, i64 %j
  %mine = load i8, ptr %mine.at
  %its = load volatile i8, ptr %its.at
  %alike = icmp eq i8 %mine, %its
  br i1 %alike, label %more, label %following
more:
  %j.1 = add i64 %j, 1
  br label %same
edge:
  %edge.at = getelementptr i8, ptr %text.of, i64 %whole
  %edge.byte = load i8, ptr %edge.at
  %lies = icmp eq i8 %edge.byte, 47
  br i1 %lies, label %no, label %following
following:
  %e.1 = add i64 %e, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}}"""
"""Whether no mount point and nothing of vm's lies below a path."""

_KNOWN_ERROR: Final = """\
define internal i1 @is_answer(i64 %result) noinline #0 {
entry:
  switch i64 %result, label %no [ i64 -2, label %yes  i64 -13, label %yes  i64 -17, label %yes  i64 -20, label %yes
    i64 -21, label %yes  i64 -36, label %yes ]
yes:
  ret i1 true
no:
  ret i1 false
}"""
"""Whether the guest is told an error of the host as it is: ENOENT, EACCES, EEXIST, ENOTDIR, EISDIR, ENAMETOOLONG. Others may
come from what the host was asked to refuse."""


def _host(name: str, *arguments: str) -> str:
    words = [*arguments, *["i64 0"] * (6 - len(arguments))]
    return f"call i64 @host_call(i64 {_NUMBERS[name]}, {', '.join(words)})"


_LOOK: Final = f"""\
define internal i64 @look(ptr %calls, ptr %arena, ptr %stat, i32 %dfd, i64 %path, i1 %follow, i1 %extended,
                          i64 %sync, i64 %mask) noinline #0 {{
entry:
  %out = alloca [{_SPACE} x i8], align 16
  %directory = call i64 @find(ptr %calls, ptr %arena, ptr %out, i32 %dfd, i64 %path)
  %found = icmp sge i64 %directory, 0
  br i1 %found, label %begin, label %no
begin:
  %held = and i64 %directory, {0xFFFF_FFFF}
  %rest = load i64, ptr %out
  %slash.at = getelementptr i8, ptr %out, i64 {_SLASH}
  %slash = load i64, ptr %slash.at
  %stat.word = ptrtoint ptr %stat to i64
  %deep = icmp ne i64 %slash, 0
  br i1 %deep, label %open, label %near
open:
  %how = getelementptr i8, ptr %out, i64 {_HOW}
  %how.mode = getelementptr i8, ptr %how, i64 8
  %how.resolve = getelementptr i8, ptr %how, i64 16
  store i64 {_PATH | _NOFOLLOW | _CLOEXEC}, ptr %how
  store i64 0, ptr %how.mode
  store i64 {native.RESOLVE}, ptr %how.resolve
  %how.word = ptrtoint ptr %how to i64
  %fd = {_host("openat2", "i64 %held", "i64 %rest", "i64 %how.word", "i64 24")}
  %opened = icmp sge i64 %fd, 0
  br i1 %opened, label %near, label %failed
failed:
  %answer = call i1 @is_answer(i64 %fd)
  br i1 %answer, label %tell, label %no
tell:
  ret i64 %fd
near:
  %at = phi i64 [ %held, %begin ], [ %fd, %open ]
  %nothing.at = getelementptr i8, ptr %out, i64 {_EMPTY}
  %nothing = ptrtoint ptr %nothing.at to i64
  %name = select i1 %deep, i64 %nothing, i64 %rest
  %how.named = select i1 %deep, i64 {0x1800}, i64 {0x900}
  br i1 %extended, label %statx, label %stat.kind
statx:
  %x.flags = or i64 %how.named, %sync
  %asked = or i64 %mask, 1
  %x.result = {_host("statx", "i64 %at", "i64 %name", "i64 %x.flags", "i64 %asked", "i64 %stat.word")}
  %x.mode.at = getelementptr i8, ptr %stat, i64 28
  %x.mode = load i16, ptr %x.mode.at
  %x.wide = zext i16 %x.mode to i32
  br label %close.perhaps
stat.kind:
  br i1 %deep, label %by.number, label %by.name
by.number:
  %f.result = {_host("fstat", "i64 %at", "i64 %stat.word")}
  br label %stat.done
by.name:
  %n.result = {_host("newfstatat", "i64 %at", "i64 %rest", "i64 %stat.word", "i64 2304")}
  br label %stat.done
stat.done:
  %s.result = phi i64 [ %f.result, %by.number ], [ %n.result, %by.name ]
  %s.mode.at = getelementptr i8, ptr %stat, i64 {_MODE}
  %s.mode = load i32, ptr %s.mode.at
  br label %close.perhaps
close.perhaps:
  %result = phi i64 [ %x.result, %statx ], [ %s.result, %stat.done ]
  %mode = phi i32 [ %x.wide, %statx ], [ %s.mode, %stat.done ]
  br i1 %deep, label %close, label %settle
close:
  %closed = {_host("close", "i64 %at")}
  br label %settle
settle:
  %good = icmp eq i64 %result, 0
  br i1 %good, label %kind, label %bad
bad:
  %told = call i1 @is_answer(i64 %result)
  br i1 %told, label %bad.tell, label %no
bad.tell:
  ret i64 %result
kind:
  %format = and i32 %mode, 61440
  %link = icmp eq i32 %format, 40960
  %unread = and i1 %link, %follow
  br i1 %unread, label %no, label %done
done:
  ret i64 0
no:
  ret i64 {PYTHONS}
}}"""
"""``look(table, arena, stat, directory, path, follow, extended, sync, mask)``: the host's struct stat of a path, or if
``extended`` its statx."""

_CLOSE: Final = f"""\
define internal i64 @close_opened(ptr %calls, i32 %fd) noinline #0 {{
entry:
  %alone.at = getelementptr i8, ptr %calls, i64 {native.ALONE}
  %alone = load i64, ptr %alone.at
  %only = icmp ne i64 %alone, 0
  %number = zext i32 %fd to i64
  %known = icmp ult i64 %number, {native.MAX_DESCRIPTORS}
  %go = and i1 %only, %known
  br i1 %go, label %look, label %no
look:
  %of = shl i64 %number, 3
  %by = add i64 %of, {native.DESCRIPTORS}
  %at = getelementptr i8, ptr %calls, i64 %by
  %word = load i64, ptr %at
  %mine = and i64 %word, {native.FD_OPENED}
  %is.mine = icmp ne i64 %mine, 0
  br i1 %is.mine, label %close, label %no
close:
  store i64 0, ptr %at
  %host = and i64 %word, {0xFFFF_FFFF}
  %result = {_host("close", "i64 %host")}
  ret i64 0
no:
  ret i64 {PYTHONS}
}}"""
"""``close_opened(table, descriptor)``: close what was opened here."""


def _open(abi: Abi) -> str:
    """``open_at(table, arena, directory, path, flags, mode)``: openat."""
    plain = _ACCESS | _CREAT | _EXCL | _TRUNC | _APPEND
    known = plain | _NOCTTY | _NONBLOCK | _CLOEXEC | abi.O_DIRECTORY | abi.O_NOFOLLOW | abi.O_LARGEFILE
    keep = ~(_CREAT | _EXCL | _NOCTTY | _TRUNC | _CLOEXEC) & 0xFFFF_FFFF
    can_read = native.FD_READ | native.FD_SEEK | native.FD_AT | native.FD_STAT
    can_write = native.FD_WRITE | native.FD_SEEK | native.FD_AT | native.FD_STAT | native.FD_SMALL
    return f"""\
define internal i64 @open_at(ptr %calls, ptr %arena, i32 %dfd, i64 %path, i64 %flags, i64 %mode) noinline #0 {{
entry:
  %out = alloca [{_SPACE} x i8], align 16
  %alone.at = getelementptr i8, ptr %calls, i64 {native.ALONE}
  %alone = load i64, ptr %alone.at
  %only = icmp ne i64 %alone, 0
  %strange = and i64 %flags, {0xFFFF_FFFF & ~known}
  %usual = icmp eq i64 %strange, 0
  %access = and i64 %flags, {_ACCESS}
  %possible = icmp ne i64 %access, 3
  %a = and i1 %only, %usual
  %go = and i1 %a, %possible
  br i1 %go, label %seek, label %no
seek:
  %directory = call i64 @find(ptr %calls, ptr %arena, ptr %out, i32 %dfd, i64 %path)
  %found = icmp sge i64 %directory, 0
  br i1 %found, label %may, label %no
may:
  %held = and i64 %directory, {0xFFFF_FFFF}
  %changes = and i64 %directory, {native.FD_CHANGES}
  %fixed = icmp eq i64 %changes, 0
  %change = and i64 %flags, {_ACCESS | _CREAT | _TRUNC}
  %wants = icmp ne i64 %change, 0
  %refused = and i1 %fixed, %wants
  br i1 %refused, label %no, label %modes
modes:
  %modes.at = getelementptr i8, ptr %calls, i64 {native.MODES}
  %permitted = load i64, ptr %modes.at
  %umask.at = getelementptr i8, ptr %calls, i64 {native.HOST_UMASK}
  %umask = load i64, ptr %umask.at
  %creates = and i64 %flags, {_CREAT}
  %is.new = icmp ne i64 %creates, 0
  %mode.own = and i64 %mode, %permitted
  %mode.used = select i1 %is.new, i64 %mode.own, i64 0
  %lost = and i64 %mode.used, %umask
  %exact = icmp eq i64 %lost, 0
  br i1 %exact, label %number, label %no
number:
  %limit.at = getelementptr i8, ptr %calls, i64 {native.LIMIT}
  %limit = load i64, ptr %limit.at
  %words = getelementptr i8, ptr %calls, i64 {native.DESCRIPTORS}
  br label %free
free:
  %n = phi i64 [ 0, %number ], [ %n.1, %used ]
  %left = icmp ult i64 %n, %limit
  br i1 %left, label %ask, label %no
ask:
  %word.at = getelementptr i64, ptr %words, i64 %n
  %word = load i64, ptr %word.at
  %is.free = icmp eq i64 %word, 0
  br i1 %is.free, label %open, label %used
used:
  %n.1 = add i64 %n, 1
  br label %free
open:
  %how = getelementptr i8, ptr %out, i64 {_HOW}
  %how.mode = getelementptr i8, ptr %how, i64 8
  %how.resolve = getelementptr i8, ptr %how, i64 16
  %plain = and i64 %flags, {plain}
  %in.directory = and i64 %flags, {abi.O_DIRECTORY}
  %is.directory = icmp ne i64 %in.directory, 0
  %directory.bit = select i1 %is.directory, i64 {_DIRECTORY}, i64 0
  %last = and i64 %flags, {abi.O_NOFOLLOW}
  %is.last = icmp ne i64 %last, 0
  %last.bit = select i1 %is.last, i64 {_NOFOLLOW}, i64 0
  %f.1 = or i64 %plain, %directory.bit
  %f.2 = or i64 %f.1, %last.bit
  %f.3 = or i64 %f.2, {_CLOEXEC | _NOCTTY | _NONBLOCK}
  store i64 %f.3, ptr %how
  store i64 %mode.used, ptr %how.mode
  store i64 {native.RESOLVE}, ptr %how.resolve
  %how.word = ptrtoint ptr %how to i64
  %rest = load i64, ptr %out
  %slash.at = getelementptr i8, ptr %out, i64 {_SLASH}
  %slash = load i64, ptr %slash.at
  %deep = icmp ne i64 %slash, 0
  ; A link that is to be a directory is ENOTDIR, as if it were none, unless it is looked for.
  %searched = or i1 %deep, %is.directory
  br i1 %searched, label %walk, label %step
walk:
  %walked = {_host("openat2", "i64 %held", "i64 %rest", "i64 %how.word", "i64 24")}
  br label %tried
step:
  ; One name: there is nothing on the way.
  %f.4 = or i64 %f.3, {_NOFOLLOW}
  %stepped = {_host("openat", "i64 %held", "i64 %rest", "i64 %f.4", "i64 %mode.used")}
  br label %tried
tried:
  %fd = phi i64 [ %walked, %walk ], [ %stepped, %step ]
  %opened = icmp sge i64 %fd, 0
  br i1 %opened, label %sort, label %failed
failed:
  %answer = call i1 @is_answer(i64 %fd)
  br i1 %answer, label %tell, label %no
tell:
  ret i64 %fd
sort:
  ; Opening a FIFO for reading waits for its writer, which is Python's.
  %waits = and i64 %flags, {_ACCESS | _NONBLOCK | abi.O_DIRECTORY}
  %may.wait = icmp eq i64 %waits, 0
  br i1 %may.wait, label %tried.seek, label %describe
tried.seek:
  %position = {_host("lseek", "i64 %fd", "i64 0", "i64 1")}
  %no.seek = icmp eq i64 %position, -29
  br i1 %no.seek, label %again, label %describe
again:
  ; Not to be closed and opened again: who waits for the other side has been let in.
  %half = add i64 %fd, 1
  %half.fixed = select i1 %fixed, i64 {native.OPENED_FIXED}, i64 0
  %half.word = or i64 %half, %half.fixed
  %half.at = getelementptr i8, ptr %calls, i64 {native.HALF_OPENED}
  store i64 %half.word, ptr %half.at
  br label %no
describe:
  ; Whether it is a regular file is not known: what is written to a pipe is written in small pieces.
  %text = getelementptr i8, ptr %out, i64 {_TEXT}
  %whole.at = getelementptr i8, ptr %out, i64 {_WHOLE}
  %whole = load i64, ptr %whole.at
  %based.at = getelementptr i8, ptr %out, i64 {_BASED}
  %based = load i1, ptr %based.at
  br i1 %is.directory, label %inner, label %caps
inner:
  %nothing = call i1 @nothing_below(ptr %calls, ptr %text, i64 %whole)
  %clear = or i1 %nothing, %based
  br label %caps
caps:
  %all.below = phi i1 [ false, %describe ], [ %clear, %inner ]
  %reads = icmp eq i64 %access, 0
  %writes = icmp eq i64 %access, 1
  %can.1 = select i1 %writes, i64 {can_write}, i64 {can_read | can_write}
  %can.2 = select i1 %reads, i64 {can_read | native.FD_LIST}, i64 %can.1
  %below.bits = or i64 %changes, {native.FD_BELOW}
  %below.or = select i1 %all.below, i64 %below.bits, i64 0
  %w.1 = or i64 %fd, %can.2
  %w.2 = or i64 %w.1, %below.or
  %w.3 = or i64 %w.2, {native.FD_OPENED | native.FD_TAKEN}
  %kept = and i64 %flags, {keep}
  %cloexec = and i64 %flags, {_CLOEXEC}
  %is.cloexec = icmp ne i64 %cloexec, 0
  %cloexec.bit = select i1 %is.cloexec, i64 {native.OPENED_CLOEXEC}, i64 0
  %fixed.bit = select i1 %fixed, i64 {native.OPENED_FIXED}, i64 0
  %o.1 = or i64 %kept, %cloexec.bit
  %o.2 = or i64 %o.1, %fixed.bit
  %opened.words = getelementptr i8, ptr %calls, i64 {native.OPENED}
  %opened.at = getelementptr i64, ptr %opened.words, i64 %n
  store i64 %o.2, ptr %opened.at
  %slot.number = and i64 %n, {native.RECENTS - 1}
  %slot.by = mul i64 %slot.number, {native.RECENT_BYTES}
  %slot.of = add i64 %slot.by, {native.RECENT}
  %slot = getelementptr i8, ptr %calls, i64 %slot.of
  %slot.text = getelementptr i8, ptr %slot, i64 8
  store i64 0, ptr %slot
  ; Below a directory by number the path is not known here.
  %short = icmp ult i64 %whole, {native.RECENT_BYTES - 8}
  %absolute = xor i1 %based, true
  %remember = and i1 %short, %absolute
  br i1 %remember, label %copy, label %done
copy:
  %k = phi i64 [ 0, %caps ], [ %k.next, %copying ]
  %copied = icmp eq i64 %k, %whole
  br i1 %copied, label %remembered, label %copying
copying:
  %from = getelementptr i8, ptr %text, i64 %k
  %to = getelementptr i8, ptr %slot.text, i64 %k
  %letter = load volatile i8, ptr %from
  store i8 %letter, ptr %to
  %k.next = add i64 %k, 1
  br label %copy
remembered:
  %owner = add i64 %n, 1
  %high = shl i64 %whole, 32
  %head = or i64 %owner, %high
  store i64 %head, ptr %slot
  br label %done
done:
  store i64 %w.3, ptr %word.at
  ret i64 %n
no:
  ret i64 {PYTHONS}
}}"""


def functions(abi: Abi) -> str:
    """@look, @open_at and @close_opened, with what they need."""
    return "\n".join([_FIND, _BELOW, _KNOWN_ERROR, _LOOK, _open(abi), _CLOSE])
