"""System calls answered in native code: the operations of :mod:`vm_core.linux.native`, as LLVM IR.

``native_call(state, arena, table, next)`` does the call that the registers ask for and returns the guest address to go
on at, or -1 with nothing changed: then it is Python's. Every buffer is checked against the permission table first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vm_core.linux import native
from vm_core.linux.abi import Riscv64, abi_of
from vm_core.linux.native import ADVICE, Constant, Operation
from vm_core.memory import GONE, MAX_BITS, TABLE_OFFSET
from vm_core.spec.isa import Isa
from vm_core.state import HEADER
from vm_jit.descriptors import BILLION, EAGAIN, PIECES, READ, WRITE, DescriptorCalls
from vm_jit.lowering import HOST, guest_flags
from vm_jit.mappings import FUNCTIONS
from vm_jit.names import STAT_BYTES, functions

__all__ = ["DECLARATIONS", "native_call", "native_signals"]

DECLARATIONS: Final = f"""\
declare void {"@llvm.x86.sse2.pause()" if HOST.x86 else "@llvm.aarch64.hint(i32)"}
declare i64 @syscall(i64, ...)
declare ptr @__errno_location()
declare i32 @clock_gettime(i32, ptr)
declare i32 @poll(ptr, i64, i32)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
_PAUSES: Final = 32
"""A pause is 10 to 50 ns."""
_PAUSE: Final = "call void @llvm.x86.sse2.pause()" if HOST.x86 else "call void @llvm.aarch64.hint(i32 1)"
_SIZE_U32, _FUTEX_PRIVATE, _FUTEX_REALTIME = 2, 128, 256


class _Calls(DescriptorCalls):
    # -- small calls --------------------------------------------------------------------------------------------

    def op_gettid(self) -> None:
        self.finish(self.load_header("tid"))

    def op_sched_yield(self) -> None:
        self.finish(self.host("sched_yield"))

    def op_getrandom(self) -> None:
        count = self.argument(1)
        self.require(self.compare("ule", count, 256))
        place = self.require_range(self.argument(0), count, WRITE)
        self.require(self.compare("ult", self.argument(2), 4))
        result = self.host("getrandom", f"ptr {place}", count, "0")
        self.require(self.compare("eq", result, count))
        self.finish(result)

    def op_brk(self) -> None:
        """Asking where it is. Moving it is Python's."""
        start, now = (self.v(f"load i64, ptr {self.at('%calls', 8 * word)}") for word in (5, 6))
        self.require(self.compare("ult", self.argument(0), start))
        self.finish(now)

    def op_madvise(self) -> None:
        """Advice that changes nothing, about pages that are there."""
        address, length, advice = self.argument(0), self.argument(1), self.argument(2)
        self.require(self.compare("eq", self.v(f"and i64 {address}, 4095"), 0))
        self.require(self.compare("ult", advice, 64))
        plain = sum(1 << one for one in ADVICE - {4, 9})
        self.require(self.compare("ne", self.v(f"and i64 {plain}, {self.v(f'shl i64 1, {advice}')}"), 0))
        self.require_range(address, length, -128)
        self.finish("0")

    def op_clock_gettime(self) -> None:
        clock = self.int_argument(0)
        self.require(self.compare("ult", clock, 8, "i32"))
        place = self.require_range(self.argument(1), 16, WRITE)
        result = self.v(f"call i32 @clock_gettime(i32 {clock}, ptr {place})")
        self.require(self.compare("eq", result, 0, "i32"))
        self.finish("0")

    def op_gettimeofday(self) -> None:
        self.require(self.compare("eq", self.argument(1), 0))
        place = self.require_range(self.argument(0), 16, WRITE)
        result = self.v("call i32 @clock_gettime(i32 0, ptr %space)")
        self.require(self.compare("eq", result, 0, "i32"))
        seconds = self.v("load i64, ptr %space")
        nanoseconds = self.v(f"load i64, ptr {self.at('%space', 8)}")
        rest = self.v(f"udiv i64 {nanoseconds}, 1000")
        self.emit(f"store i64 {seconds}, ptr {place}, align 1")
        self.emit(f"store i64 {rest}, ptr {self.at(place, 8)}, align 1")
        self.finish("0")

    def no_sleep(self, request: str) -> None:
        place = self.require_range(request, 16, READ)
        both = self.v(f"or i64 {self.once(place)}, {self.once(self.at(place, 8))}")
        self.require(self.compare("eq", both, 0))
        self.finish("0")

    def op_nanosleep(self) -> None:
        self.no_sleep(self.argument(0))

    def op_clock_nanosleep(self) -> None:
        self.require(self.compare("ult", self.int_argument(0), 2, "i32"))
        self.require(self.compare("eq", self.v(f"and i64 {self.argument(1)}, 1"), 0))
        self.no_sleep(self.argument(2))

    # -- futex --------------------------------------------------------------------------------------------------

    def op_futex(self) -> None:
        address, operation, third = self.argument(0), self.argument(1), self.argument(5)
        value = self.int_argument(2)
        self.require(self.compare("eq", self.v(f"and i64 {address}, 3"), 0))
        place = self.require_range(address, 4, READ)
        # One that is shared, in memory that cannot be written, may be a fault: Python's.
        private = self.v(f"and i64 {operation}, {_FUTEX_PRIVATE}")
        writable = self.v(f"call i1 @allowed(ptr %arena, i64 {address}, i64 4, i8 {WRITE})")
        self.require(self.v(f"or i1 {self.compare('ne', private, 0)}, {writable}"))
        wait, timed, wake, everyone = self.label(), self.label(), self.label(), self.label()
        # With the clock, which only some operations have.
        command = self.v(f"and i64 {operation}, {_FUTEX_REALTIME | 127}")
        any_bits = self.compare("eq", self.v(f"trunc i64 {third} to i32"), -1, "i32")
        self.emit(f"switch i64 {command}, label %no [ i64 0, label %{timed}  i64 1, label %{wake}")
        self.emit(
            f"  i64 9, label %{everyone}W  i64 {9 | _FUTEX_REALTIME}, label %{everyone}W  i64 10, label %{everyone} ]"
        )
        self.place(everyone)
        self.emit(f"br i1 {any_bits}, label %{wake}, label %no")
        self.place(everyone + "W")
        self.emit(f"br i1 {any_bits}, label %{timed}, label %no")
        self.place(wake)
        few = self.compare("sge", value, 0, "i32")
        count = self.v(f"select i1 {few}, i32 {value}, i32 {0x7FFF_FFFF}")
        wide = self.v(f"zext i32 {count} to i64")
        self.finish(self.host("futex", f"ptr {place}", self.v(f"or i64 {private}, 1"), wide))

        self.place(timed)
        self.emit(f"br i1 {self.compare('eq', self.argument(3), 0)}, label %{wait}, label %no")
        self.place(wait)
        again, sleep = self.label(), self.label()
        self.spin(place, value, sleep, again)
        self.place(again)
        self.finish(str(-EAGAIN))
        self.place(sleep)
        # struct futex_waitv[2]: the thread's own word first, so that a wake of the guest's is what counts if both came.
        self.emit(f"store i64 0, ptr {self.at('%space', 16)}")
        self.emit(f"store ptr {self.header('attention')}, ptr {self.at('%space', 24)}")
        self.emit(f"store i64 {_SIZE_U32 | _FUTEX_PRIVATE}, ptr {self.at('%space', 32)}")
        self.emit(f"store i64 {self.v(f'zext i32 {value} to i64')}, ptr {self.at('%space', 40)}")
        self.emit(f"store ptr {place}, ptr {self.at('%space', 48)}")
        kind = self.v(f"or i64 {private}, {_SIZE_U32}")
        self.emit(f"store i64 {kind}, ptr {self.at('%space', 56)}")
        longest = self.load_header("wait_nanoseconds")
        bounded, go = self.label(), self.label()
        unbounded = self.label()
        self.emit(f"br label %{unbounded}")
        self.place(unbounded)
        self.emit(f"br i1 {self.compare('eq', longest, 0)}, label %{go}, label %{bounded}")
        self.place(bounded)
        self.v("call i32 @clock_gettime(i32 1, ptr %space)")
        nano_at = self.at("%space", 8)
        nano = self.v(f"add i64 {self.v(f'load i64, ptr {nano_at}')}, {longest}")
        over = self.compare("uge", nano, BILLION)
        seconds = self.v(f"add i64 {self.v('load i64, ptr %space')}, {self.v(f'zext i1 {over} to i64')}")
        less = self.v(f"select i1 {over}, i64 {BILLION}, i64 0")
        self.emit(f"store i64 {seconds}, ptr %space")
        self.emit(f"store i64 {self.v(f'sub i64 {nano}, {less}')}, ptr {nano_at}")
        self.emit(f"br label %{go}")
        self.place(go)
        until = self.v(f"phi ptr [ null, %{unbounded} ], [ %space, %{bounded} ]")
        waiting = self.header("waiting")
        self.v(f"atomicrmw xchg ptr {waiting}, i64 1 seq_cst")
        result = self.host("futex_waitv", f"ptr {self.at('%space', 16)}", "2", "0", f"ptr {until}", "1")
        self.emit(f"store atomic i64 0, ptr {waiting} release, align 8")
        woken, changed = self.label(), self.label()
        self.emit(
            f"switch i64 {result}, label %no [ i64 1, label %{woken}  i64 {-EAGAIN}, label %{changed} ]"
        )
        self.place(woken)
        self.finish("0")
        self.place(changed)
        quiet = self.compare("eq", self.load_header("attention"), 0)
        self.emit(f"br i1 {quiet}, label %{again}, label %no")

    def spin(self, place: str, value: str, sleep: str, again: str) -> None:
        """Look at the word for a while before sleeping: first with pauses, then giving way to others.

        A word that changes meanwhile is as one that changed before the call.
        """
        loop, pause, start, enough = (self.label() for _ in range(4))
        self.emit(f"br label %{start}")
        self.place(start)
        self.emit(f"br label %{loop}")
        self.place(loop)
        i, left = f"%{loop}i", f"%{loop}n"
        self.emit(f"{i} = phi i64 [ {_PAUSES}, %{start} ], [ {left}, %{pause} ]")
        now = self.v(f"load atomic i32, ptr {place} seq_cst, align 4")
        more = self.label()
        self.emit(f"br i1 {self.compare('eq', now, value, 'i32')}, label %{more}, label %{again}")
        self.place(more)
        self.emit(f"br i1 {self.compare('eq', i, 0)}, label %{enough}, label %{pause}")
        self.place(pause)
        self.emit(_PAUSE)
        self.emit(f"{left} = sub i64 {i}, 1")
        self.emit(f"br label %{loop}")
        self.place(enough)

        def changed() -> str:
            now = self.v(f"load atomic i32, ptr {place} seq_cst, align 4")
            return self.compare("ne", now, value, "i32")

        self.give_way("futex_credit", changed, sleep)
        self.emit(f"br label %{again}")

    # -- signals ------------------------------------------------------------------------------------------------

    def set_mask(self, before: str, after: str) -> None:
        """Change the mask of blocked signals; if one may be waiting that it unblocks, it is Python's."""
        slot = self.header("signal_mask")
        unblocks, back, fine = self.label(), self.label(), self.label()
        opened = self.v(f"and i64 {before}, {self.v(f'xor i64 {after}, -1')}")
        self.v(f"atomicrmw xchg ptr {slot}, i64 {after} seq_cst")
        self.emit(f"br i1 {self.compare('eq', opened, 0)}, label %{fine}, label %{unblocks}")
        self.place(unblocks)
        none = self.compare("eq", self.load_header("signal_pending"), 0)
        self.emit(f"br i1 {none}, label %{fine}, label %{back}")
        self.place(back)
        self.emit(f"store atomic i64 {before}, ptr {slot} release, align 8")
        self.emit("br label %no")
        self.place(fine)

    def op_rt_sigprocmask(self) -> None:
        how, new, old = self.int_argument(0), self.argument(1), self.argument(2)
        self.require(self.compare("eq", self.argument(3), 8))
        before = self.load_header("signal_mask")
        tell, ask, change, choose, done = (self.label() for _ in range(5))
        self.emit(f"br i1 {self.compare('eq', old, 0)}, label %{choose}, label %{ask}")
        self.place(ask)
        self.require_range(old, 8, WRITE)
        self.emit(f"br label %{choose}")
        self.place(choose)
        self.emit(f"br i1 {self.compare('eq', new, 0)}, label %{done}, label %{change}")
        self.place(change)
        self.require(self.compare("ult", how, 3, "i32"))
        wanted = self.once(self.require_range(new, 8, READ))
        wanted = self.v(f"and i64 {wanted}, {~(1 << 8 | 1 << 18)}")
        blocked = self.v(f"or i64 {before}, {wanted}")
        left = self.v(f"and i64 {before}, {self.v(f'xor i64 {wanted}, -1')}")
        after = self.v(f"select i1 {self.compare('eq', how, 0, 'i32')}, i64 {blocked}, i64 {wanted}")
        after = self.v(f"select i1 {self.compare('eq', how, 1, 'i32')}, i64 {left}, i64 {after}")
        self.set_mask(before, after)
        self.emit(f"br label %{done}")
        self.place(done)
        end = self.label()
        self.emit(f"br i1 {self.compare('eq', old, 0)}, label %{end}, label %{tell}")
        self.place(tell)
        self.emit(f"store i64 {before}, ptr {self.at('%arena', old)}, align 1")
        self.emit(f"br label %{end}")
        self.place(end)
        self.finish("0")

    def altstack(self) -> tuple[str, str, str]:
        base, flags, size = (
            self.v(f"load i64, ptr {self.at('%st', HEADER['altstack'] + 8 * i)}") for i in range(3)
        )
        return base, flags, size

    def stack_pointer(self) -> str:
        return self.register(self.abi.stack_word)

    def op_tkill(self) -> None:
        self.require(self.compare("eq", self.int_argument(0), self.own("tid"), "i32"))
        self.raise_(self.int_argument(1), -6)

    def op_tgkill(self) -> None:
        self.require(self.compare("eq", self.int_argument(0), self.own("pid"), "i32"))
        self.require(self.compare("eq", self.int_argument(1), self.own("tid"), "i32"))
        self.raise_(self.int_argument(2), -6)

    def op_kill(self) -> None:
        self.require(self.compare("eq", self.int_argument(0), self.own("pid"), "i32"))
        self.raise_(self.int_argument(1), 0)

    def own(self, what: str) -> str:
        if what == "tid":
            return self.v(f"trunc i64 {self.load_header('tid')} to i32")
        return self.v(f"load i32, ptr {self.at('%calls', 8 * Constant.PID)}")

    def raise_(self, number: str, code: int) -> None:
        """A signal of this thread for itself, which it handles now."""
        self.require(self.compare("ult", self.v(f"add i32 {number}, -1"), 64, "i32"))
        sender = self.v(f"load i64, ptr {self.at('%calls', 8 * Constant.UID)}")
        sender = self.v(f"shl i64 {sender}, 32")
        own = self.v(f"load i64, ptr {self.at('%calls', 8 * Constant.PID)}")
        sender = self.v(f"or i64 {sender}, {own}")
        result = self.abi.result_word
        before = self.register(result)
        self.set_register(result, "0")
        wide = self.v(f"zext i32 {number} to i64")
        to = self.v(
            f"call i64 @deliver(ptr %st, ptr %arena, ptr %calls, i64 {wide}, i32 {code}, i64 {sender}, i64 %next)"
        )
        back, gone = self.label(), self.label()
        self.emit(f"br i1 {self.compare('eq', to, -1)}, label %{back}, label %{gone}")
        self.place(back)
        self.set_register(result, before)
        self.emit("br label %no")
        self.place(gone)
        self.count()
        self.emit(f"ret i64 {to}")

    def deliver(self) -> str:
        """``deliver(state, arena, table, number, code, detail, pc)``: the signal's frame, and its handler's registers.

        ``code`` and ``detail`` are si_code and what follows it, ``pc`` where the handler returns to. The result is where the
        handler begins, or -1 with nothing changed if this is more than one handler that may run now.
        """
        abi = self.abi
        assert isinstance(abi, Riscv64)
        self.emit("%space = alloca i32")
        mask = self.load_header("signal_mask")
        bit = self.v(f"shl i64 1, {self.v('add i64 %number, -1')}")
        self.require(self.compare("eq", self.v(f"and i64 {mask}, {bit}"), 0))
        self.require(self.compare("eq", self.load_header("signal_pending"), 0))
        self.require(self.compare("eq", self.load_header("attention"), 0))
        generation = self.at("%calls", native.GENERATION)
        first = self.v(f"load atomic i64, ptr {generation} acquire, align 8")
        action = self.at("%calls", self.v(f"add i64 {self.v('shl i64 %number, 5')}, {native.ACTIONS}"))
        handler, flags, masked = (
            self.v(f"load atomic i64, ptr {self.at(action, 8 * i)} acquire, align 8") for i in range(3)
        )
        last = self.v(f"load atomic i64, ptr {generation} acquire, align 8")
        self.require(self.compare("eq", first, last))
        self.require(self.compare("eq", self.v(f"and i64 {first}, 1"), 0))
        self.require(self.compare("ugt", handler, 1))
        self.require(self.compare("eq", self.v(f"and i64 {flags}, {0x8000_0000}"), 0))  # SA_RESETHAND
        base, how, size = self.altstack()
        self.require(self.compare("ule", how, 2))
        sp = self.stack_pointer()
        on = self.compare("ult", self.v(f"sub i64 {sp}, {base}"), size)
        wants = self.compare("ne", self.v(f"and i64 {flags}, {0x0800_0000}"), 0)  # SA_ONSTACK
        has = self.compare("ne", size, 0)
        switch = self.v(f"and i1 {self.v(f'and i1 {wants}, {has}')}, {self.v(f'xor i1 {on}, true')}")
        stack = self.v(f"select i1 {switch}, i64 {self.v(f'add i64 {base}, {size}')}, i64 {sp}")
        frame = self.v(f"and i64 {self.v(f'add i64 {stack}, {-abi.FRAME}')}, -16")
        place = self.require_range(frame, abi.FRAME, WRITE)
        self.emit(f"call void @llvm.memset.p0.i64(ptr align 8 {place}, i8 0, i64 {abi.FRAME}, i1 false)")

        def put(offset: int, value: str, type_: str = "i64") -> None:
            self.emit(f"store {type_} {value}, ptr {self.at(place, offset)}, align 4")

        put(0, self.v("trunc i64 %number to i32"), "i32")
        put(8, "%code", "i32")
        put(16, "%detail")
        alt = abi.UCONTEXT + 16
        shown = self.v(f"select i1 {on}, i64 1, i64 {how}")
        put(alt, self.v(f"select i1 {has}, i64 {base}, i64 0"))
        put(alt + 8, self.v(f"select i1 {has}, i64 {shown}, i64 2"))
        put(alt + 16, size)
        put(abi.UCONTEXT + 40, mask)
        put(abi.REGISTERS, "%pc")
        x = self.isa.layout.offset("x", 1)
        self.copy(self.at(place, abi.REGISTERS + 8), self.at("%st", x), 31 * 8)
        self.copy(self.at(place, abi.FP), self.at("%st", self.isa.layout.offset("f", 0)), 32 * 8)
        self.emit("call void @llvm.x86.sse.stmxcsr(ptr %space) #1")
        flags_now = guest_flags(self, self.v("load i32, ptr %space"))
        sticky = self.v(f"or i64 {self.load_state('fp_flags')}, {flags_now}")
        mode = self.v(f"and i64 {self.load_state('fp_rounding')}, 7")
        fcsr = self.v(f"or i64 {self.v(f'and i64 {sticky}, 31')}, {self.v(f'shl i64 {mode}, 5')}")
        put(abi.FP + 256, self.v(f"trunc i64 {fcsr} to i32"), "i32")
        defers = self.compare("eq", self.v(f"and i64 {flags}, {0x4000_0000}"), 0)  # not SA_NODEFER
        more = self.v(f"or i64 {masked}, {self.v(f'select i1 {defers}, i64 {bit}, i64 0')}")
        after = self.v(f"or i64 {mask}, {more}")
        self.emit(f"store atomic i64 {after}, ptr {self.header('signal_mask')} release, align 8")
        trampoline = self.v(f"load i64, ptr {self.at('%calls', 8 * Constant.TRAMPOLINE)}")
        context = self.v(f"add i64 {frame}, {abi.UCONTEXT}")
        for index, value in ((1, trampoline), (2, frame), (10, "%number"), (11, frame), (12, context)):
            self.set_register(x // 8 - 1 + index, value)
        self.emit(f"ret i64 {self.v(f'and i64 {handler}, -2')}")
        return self.function(
            "i64 @deliver(ptr %st, ptr %arena, ptr %calls, i64 %number, i32 %code, i64 %detail, i64 %pc)"
        )

    def fault(self) -> str:
        """``fault(state, arena, table, pc)``: SIGSEGV for the access that the header's fault words describe."""
        address, access = self.load_state("fault_address"), self.load_state("fault_access")
        need, size = self.v(f"trunc i64 {access} to i8"), self.v(f"lshr i64 {access}, 8")
        start, look, behind, second, bad, wild, known = (self.label() for _ in range(7))
        self.emit(f"br label %{start}")
        self.place(start)
        self.emit(f"br i1 {self.compare('ult', address, 1 << MAX_BITS)}, label %{look}, label %{wild}")
        self.place(look)
        ok = self.v(f"call i1 @allowed(ptr %arena, i64 {address}, i64 1, i8 {need})")
        self.emit(f"br i1 {ok}, label %{behind}, label %{bad}")
        # Only what lies in the next page may be refused.
        self.place(behind)
        edge = self.v(f"add i64 {self.v(f'or i64 {address}, 4095')}, 1")
        self.require(self.compare("ult", edge, self.v(f"add i64 {address}, {size}")))
        refused = self.v(f"call i1 @allowed(ptr %arena, i64 {edge}, i64 1, i8 {need})")
        self.emit(f"br i1 {refused}, label %no, label %{second}")
        self.place(second)
        self.emit(f"br label %{bad}")
        self.place(bad)
        at = self.v(f"phi i64 [ {address}, %{look} ], [ {edge}, %{second} ]")
        # The address behind the last page has a table entry, which is 0.
        below = self.at("%arena", -TABLE_OFFSET)
        byte = self.v(f"load i8, ptr {self.at(below, self.v(f'lshr i64 {at}, 12'))}")
        # A page behind the end of its file is SIGBUS, or is there again.
        checked = self.label()
        there = self.compare("eq", self.v(f"and i8 {byte}, {GONE}"), 0, "i8")
        self.emit(f"br i1 {there}, label %{checked}, label %no")
        self.place(checked)
        mapped = self.compare("slt", byte, 0, "i8")
        code = self.v(f"select i1 {mapped}, i32 2, i32 1")
        self.emit(f"br label %{known}")
        self.place(wild)
        self.emit(f"br label %{known}")
        self.place(known)
        final = self.v(f"phi i64 [ {at}, %{checked} ], [ {address}, %{wild} ]")
        why = self.v(f"phi i32 [ {code}, %{checked} ], [ 1, %{wild} ]")
        to = self.v(
            f"call i64 @deliver(ptr %st, ptr %arena, ptr %calls, i64 11, i32 {why}, i64 {final}, i64 %pc)"
        )
        self.emit(f"ret i64 {to}")
        return self.function("i64 @fault(ptr %st, ptr %arena, ptr %calls, i64 %pc)")

    def function(self, head: str) -> str:
        """The text so far as a function."""
        lines, self.lines = self.lines, []
        if any("label %no" in line for line in lines):
            lines += ["no:", "  ret i64 -1"]
        return "\n".join([f"define internal {head} noinline #0 {{", "entry:", *lines, "}"])

    def copy(self, to: str, source: str, size: int) -> None:
        self.emit(
            f"call void @llvm.memcpy.p0.p0.i64(ptr align 8 {to}, ptr align 8 {source}, i64 {size}, i1 false)"
        )

    def goto(self, pc: str) -> None:
        """The call is done, and goes on elsewhere."""
        self.count()
        self.emit(f"ret i64 {pc}")

    def op_rt_sigreturn(self) -> None:
        abi = self.abi
        assert isinstance(abi, Riscv64)
        frame = self.stack_pointer()
        place = self.require_range(frame, abi.FRAME, READ)
        self.require(self.compare("eq", self.v(f"and i64 {frame}, 7"), 0))

        def get(offset: int, type_: str = "i64") -> str:
            return self.v(f"load {type_}, ptr {self.at(place, offset)}, align 4")

        # The alternative stack of the frame must be the one that there is, which Python would set again.
        base, how, size = self.altstack()
        alt = abi.UCONTEXT + 16
        flags = get(alt + 8, "i32")
        self.require(self.compare("ule", flags, 2, "i32"))
        self.require(self.compare("eq", get(alt + 16), size))
        has = self.compare("ne", size, 0)
        there = self.v(f"and i1 {self.compare('eq', get(alt), base)}, {self.compare('ne', flags, 2, 'i32')}")
        there = self.v(f"and i1 {there}, {self.compare('eq', how, 0)}")
        absent = self.compare("eq", flags, 2, "i32")
        self.require(self.v(f"select i1 {has}, i1 {there}, i1 {absent}"))
        mask = self.v(f"and i64 {get(abi.UCONTEXT + 40)}, {~(1 << 8 | 1 << 18)}")
        self.set_mask(self.load_header("signal_mask"), mask)
        pc = get(abi.REGISTERS)
        x = self.isa.layout.offset("x", 1)
        self.copy(self.at("%st", x), self.at(place, abi.REGISTERS + 8), 31 * 8)
        self.copy(self.at("%st", self.isa.layout.offset("f", 0)), self.at(place, abi.FP), 32 * 8)
        fcsr = self.v(f"zext i32 {get(abi.FP + 256, 'i32')} to i64")
        self.store_state("fp_flags", self.v(f"and i64 {fcsr}, 31"))
        rounding = self.v(f"and i64 {self.v(f'lshr i64 {fcsr}, 5')}, 7")
        self.store_state("fp_rounding", rounding)
        control = self.v(f"load i32, ptr {self.v(f'getelementptr i32, ptr @roundings, i64 {rounding}')}")
        slot = self.field_in_state(HEADER["host_fp"])
        self.emit(f"store i32 {control}, ptr {slot}")
        self.emit(f"call void @llvm.x86.sse.ldmxcsr(ptr {slot}) #1")
        self.store_state("reservation", "-1")
        self.goto(self.v(f"and i64 {pc}, -2"))

    # -- all of it ----------------------------------------------------------------------------------------------

    def count(self) -> None:
        slot = self.header("native_count")
        before = self.v(f"load i64, ptr {slot}")
        self.emit(f"store i64 {self.v(f'add i64 {before}, 1')}, ptr {slot}")

    def text(self) -> str:
        parts = [*PIECES, functions(self.abi), FUNCTIONS]
        if self.signals:
            parts += [self.deliver(), self.fault()]
        return "\n".join([*parts, self.native_call()])

    def native_call(self) -> str:
        self.emit(f"%space = alloca [{STAT_BYTES} x i8], align 16")
        number = self.register(self.abi.number_word)
        self.require(self.compare("ult", number, native.NUMBERS))
        slot = self.at("%calls", self.v(f"add i64 {number}, {native.OPERATIONS}"))
        operation = self.v(f"load i8, ptr {slot}")
        self.require(self.compare("eq", self.load_header("attention"), 0))
        patience = self.header("patience")
        left = self.v(f"sub i64 {self.v(f'load i64, ptr {patience}')}, 1")
        self.require(self.compare("sge", left, 0))
        self.emit(f"store i64 {left}, ptr {patience}")
        methods: dict[Operation, Callable[[], None]] = {
            operation: getattr(self, "op_" + operation.name.lower())
            for operation in Operation
            if self.can(operation)
        }
        cases = " ".join(f"i8 {int(operation)}, label %{operation.name}" for operation in methods)
        constants = " ".join(f"i8 {int(word)}, label %constant" for word in Constant)
        self.emit(f"switch i8 {operation}, label %no [ {constants} {cases} ]")
        self.place("constant")
        offset = self.v(f"shl i64 {self.v(f'zext i8 {operation} to i64')}, 3")
        self.finish(self.v(f"load i64, ptr {self.at('%calls', offset)}"))
        for known, method in methods.items():
            self.place(known.name)
            method()
        self.place("done")
        self.goto("%next")
        self.place("letgo")
        self.end_call()
        self.emit("br label %no")
        return self.function("i64 @native_call(ptr %st, ptr %arena, ptr %calls, i64 %next)")

    @property
    def signals(self) -> bool:
        """Whether handlers are entered natively. The frame holds the guest's sticky floating-point flags, which native
        code keeps in x86's control word."""
        return HOST.x86 and self.abi.plain_frame

    def can(self, operation: Operation) -> bool:
        if (
            operation in (Operation.FSTAT, Operation.NEWFSTATAT, Operation.EPOLL_PWAIT)
            and self.abi.column == "x86_64"
        ):
            return False  # other structures
        return self.signals or operation not in (
            Operation.RT_SIGRETURN, Operation.TKILL, Operation.TGKILL, Operation.KILL,
        )  # fmt: skip


def native_call(isa: Isa) -> str | None:
    """The functions for an ISA, or None for one that has no Linux ABI here."""
    calls = _calls(isa)
    return None if calls is None else calls.text()


def native_signals(isa: Isa) -> bool:
    """Whether ``fault`` and ``deliver`` are among the functions."""
    calls = _calls(isa)
    return calls is not None and calls.signals


def _calls(isa: Isa) -> _Calls | None:
    try:
        return _Calls(isa, abi_of(isa.name, isa.layout))
    except KeyError:
        return None
