"""Host faults of compiled code: from the host's SIGSEGV to the place in the region where the guest's fault is handled.

A region accesses guest memory without asking: the host protects the pages (:meth:`vm_core.memory.GuestMemory.enforce`).
Each access is an instruction of which the region says where to go on if it faults (``FIXUPS``, a section of its object,
pairs of 32-bit offsets); the signal handler, native code like everything hot, looks the instruction up and goes there.
Registers and memory are then as they were in front of the access, so the interpreter can do it again and find the fault.

A fault in an arena anywhere else (the interpreter or Python lost a race with another thread's munmap) makes the page
accessible and goes on: such an access may see anything, but only of the guest. Every other fault goes to the handler that
was there before.

SIGBUS is the same for a page of a mapped file that has been truncated, and first marks it ``GONE`` in the guest's table of
permissions, where the interpreter finds the fault. The interpreter's accesses say where to go on as well. For all other
code the page becomes one of zeros (``LOST``): it finishes, and what it does is harmless.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vm_core.errors import HostError
from vm_core.hints import Final
from vm_core.memory import GONE, LOST, MAPPED, TABLE_OFFSET, GuestMemory

__all__ = [
    "FIXUPS",
    "HANDLER",
    "State",
    "add_arena",
    "add_code",
    "drop_arena",
    "drop_code",
    "install",
    "state",
]

FIXUPS: Final = ".vm.fixups"
CODES: Final = 1024
ARENAS: Final = 1 << 15
_ACTION_BYTES: Final = 152
_SIGINFO: Final = (
    4 | 0x08000000 | 0x10000000 | 0x40000000
)  # SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER


class State(ctypes.Structure):
    """What the handler reads. ``codes`` are (start, end, table) of executable memory, the table a 32-bit offset from
    ``start`` for every two bytes of code; ``arenas`` (start, end). Slots in use lie below the counts, free ones are 0."""

    _fields_ = (
        ("code_count", ctypes.c_uint64),
        ("arena_count", ctypes.c_uint64),
        ("before", ctypes.c_ubyte * _ACTION_BYTES),
        ("bus_before", ctypes.c_ubyte * _ACTION_BYTES),
        ("codes", ctypes.c_uint64 * (3 * CODES)),
        ("arenas", ctypes.c_uint64 * (2 * ARENAS)),
    )


state: Final = State()
_lock: Final = threading.Lock()
_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def held() -> Iterator[None]:
    """Inside, nothing of this changes."""
    with _lock:
        yield


def add_code(start: int, size: int, table: int) -> None:
    """Executable memory whose faults are looked up in ``table``."""
    with _lock:
        free = next((i for i in range(state.code_count) if not state.codes[3 * i]), state.code_count)
        if free == CODES:
            raise HostError("too much compiled code", hint="run fewer guests in one process")
        state.codes[3 * free + 2] = table
        state.codes[3 * free + 1] = start + size
        state.codes[3 * free] = start
        state.code_count = max(state.code_count, free + 1)


def drop_code(start: int) -> None:
    with _lock:
        for i in range(state.code_count):
            if state.codes[3 * i] == start:
                state.codes[3 * i] = state.codes[3 * i + 1] = 0


def add_arena(memory: GuestMemory) -> None:
    with _lock:
        free = next((i for i in range(state.arena_count) if not state.arenas[2 * i]), state.arena_count)
        if free == ARENAS:
            raise HostError(f"more than {ARENAS} guests in one process")
        state.arenas[2 * free + 1] = memory.host_address + memory.size
        state.arenas[2 * free] = memory.host_address
        state.arena_count = max(state.arena_count, free + 1)


def drop_arena(memory: GuestMemory) -> None:
    with _lock:
        for i in range(state.arena_count):
            if state.arenas[2 * i] == memory.host_address:
                state.arenas[2 * i] = state.arenas[2 * i + 1] = 0


def install(handler: int) -> None:
    """Make ``handler`` (the address of :data:`HANDLER`'s code) the process's handler of SIGSEGV and SIGBUS, if it is not."""
    with _lock:
        for number, before in ((signal.SIGSEGV, "before"), (signal.SIGBUS, "bus_before")):
            action = (ctypes.c_ubyte * _ACTION_BYTES)()
            now = (ctypes.c_ubyte * _ACTION_BYTES)()
            # SAFETY: struct sigaction is 152 bytes on 64-bit Linux: handler, 128 bytes of mask, flags, restorer.
            _libc.sigaction(number, None, now)
            if int.from_bytes(bytes(now[:8]), "little") == handler:
                continue
            setattr(state, before, now)
            action[:8] = list(handler.to_bytes(8, "little"))
            action[136:140] = list(_SIGINFO.to_bytes(4, "little"))
            if _libc.sigaction(number, action, None):
                raise HostError(f"cannot handle {number.name}")


HANDLER: Final = f"""\
@vm_faults = external global i8
declare i32 @mprotect(ptr, i64, i32)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @sigaction(i32, ptr, ptr)
declare i32 @raise(i32)
define internal i64 @fixup_of(i64 %rip) nounwind {{
entry:
  %codes = load i64, ptr @vm_faults
  br label %code
code:
  %i = phi i64 [ 0, %entry ], [ %i.next, %code.next ]
  %more = icmp ult i64 %i, %codes
  br i1 %more, label %look, label %none
look:
  %i.bytes = mul i64 %i, 24
  %i.place = add i64 %i.bytes, {State.codes.offset}
  %slot = getelementptr i8, ptr @vm_faults, i64 %i.place
  %start = load i64, ptr %slot
  %end.at = getelementptr i8, ptr %slot, i64 8
  %end = load i64, ptr %end.at
  %above = icmp uge i64 %rip, %start
  %below = icmp ult i64 %rip, %end
  %inside = and i1 %above, %below
  br i1 %inside, label %found, label %code.next
code.next:
  %i.next = add i64 %i, 1
  br label %code
found:
  %table.at = getelementptr i8, ptr %slot, i64 16
  %table = load ptr, ptr %table.at
  %offset = sub i64 %rip, %start
  %index = lshr i64 %offset, 1
  %entry.at = getelementptr i32, ptr %table, i64 %index
  %target = load i32, ptr %entry.at
  %known = icmp ne i32 %target, 0
  %wide = zext i32 %target to i64
  %to = add i64 %start, %wide
  %result = select i1 %known, i64 %to, i64 0
  ret i64 %result
none:
  ret i64 0
}}
define internal i64 @arena_of(i64 %address) nounwind {{
entry:
  %count.at = getelementptr i8, ptr @vm_faults, i64 8
  %count = load i64, ptr %count.at
  br label %arena
arena:
  %j = phi i64 [ 0, %entry ], [ %j.next, %arena.next ]
  %others = icmp ult i64 %j, %count
  br i1 %others, label %match, label %none
match:
  %j.bytes = mul i64 %j, 16
  %j.place = add i64 %j.bytes, {State.arenas.offset}
  %a = getelementptr i8, ptr @vm_faults, i64 %j.place
  %low = load i64, ptr %a
  %high.at = getelementptr i8, ptr %a, i64 8
  %high = load i64, ptr %high.at
  %ge = icmp uge i64 %address, %low
  %lt = icmp ult i64 %address, %high
  %mine = and i1 %ge, %lt
  br i1 %mine, label %found, label %arena.next
arena.next:
  %j.next = add i64 %j, 1
  br label %arena
found:
  ret i64 %low
none:
  ret i64 0
}}
define dso_local void @fault_handler(i32 %signal, ptr %info, ptr %context) nounwind {{
entry:
  %rip.at = getelementptr i8, ptr %context, i64 168
  %rip = load i64, ptr %rip.at
  %code.of = getelementptr i8, ptr %info, i64 8
  %why = load i32, ptr %code.of
  %sent = icmp sle i32 %why, 0
  %address.at = getelementptr i8, ptr %info, i64 16
  %address = load i64, ptr %address.at
  %page = and i64 %address, -4096
  %page.ptr = inttoptr i64 %page to ptr
  %bus = icmp eq i32 %signal, {int(signal.SIGBUS)}
  %target = call i64 @fixup_of(i64 %rip)
  %known = icmp ne i64 %target, 0
  br i1 %bus, label %gone, label %refused
gone:
  br i1 %sent, label %chain, label %gone.where
gone.where:
  %low = call i64 @arena_of(i64 %address)
  %ours = icmp ne i64 %low, 0
  br i1 %ours, label %mark, label %chain
mark:
  %within = sub i64 %address, %low
  %number = lshr i64 %within, 12
  %table = sub i64 %low, {TABLE_OFFSET}
  %byte.at = add i64 %table, %number
  %byte = inttoptr i64 %byte.at to ptr
  store i8 {(MAPPED | GONE) - 256}, ptr %byte
  br i1 %known, label %resume, label %lose
lose:
  store i8 {(MAPPED | GONE | LOST) - 256}, ptr %byte
  %zeros = call ptr @mmap(ptr %page.ptr, i64 4096, i32 3, i32 {0x4032}, i32 -1, i64 0)
  %got = icmp eq ptr %zeros, %page.ptr
  br i1 %got, label %done, label %chain
refused:
  br i1 %known, label %resume, label %elsewhere
resume:
  store i64 %target, ptr %rip.at
  ret void
elsewhere:
  br i1 %sent, label %chain, label %where
where:
  %arena = call i64 @arena_of(i64 %address)
  %mine = icmp ne i64 %arena, 0
  br i1 %mine, label %open, label %chain
open:
  %refusal = call i32 @mprotect(ptr %page.ptr, i64 4096, i32 3)
  %opened = icmp eq i32 %refusal, 0
  br i1 %opened, label %done, label %chain
chain:
  %which = select i1 %bus, i64 {State.bus_before.offset}, i64 {State.before.offset}
  %before = getelementptr i8, ptr @vm_faults, i64 %which
  %put = call i32 @sigaction(i32 %signal, ptr %before, ptr null)
  br i1 %sent, label %again, label %done
again:
  %raised = call i32 @raise(i32 %signal)
  br label %done
done:
  ret void
}}
"""
"""LLVM IR of the signal handler (x86-64 Linux: the saved rip lies 168 bytes into the ucontext)."""
