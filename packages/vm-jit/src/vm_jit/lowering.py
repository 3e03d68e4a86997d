"""Templates to LLVM IR text. One :class:`Emitter` method an op; where operands come from and where refused accesses
go is the subclass's business (:mod:`vm_jit.interpreter`: records; :mod:`vm_jit.region`: SSA values).

Memory accesses check the page's permission byte first, so compiled code never takes a host fault: a refused,
misaligned or out-of-arena access leaves through :meth:`Emitter.refuse` before anything has changed.

Plain guest accesses are plain LLVM accesses; a compiler fence at every loop head keeps LLVM from hoisting a load out
of a guest's spin loop. Atomics are sequentially consistent.
"""

from __future__ import annotations

import os
from typing import Final

from vm_core.engine import Cause
from vm_core.memory import MAX_BITS, TABLE_OFFSET, Prot
from vm_core.spec.isa import Isa
from vm_core.spec.ops import mask
from vm_core.spec.template import Op, Template
from vm_core.state import HEADER
from vm_jit.compiler import has_segment
from vm_jit.faults import FIXUPS
from vm_jit.records import LINKED, TURNS, WORDS

__all__ = [
    "DECLARATIONS",
    "EMULATED",
    "FORCE",
    "HOST",
    "METADATA",
    "Emitter",
    "Host",
    "entry_signature",
    "region_type",
    "supported",
]

FORCE: Final = 1 << 63
"""Set in a pc that compiled code returns: the instruction there must be interpreted (it was refused)."""


def _has_avx() -> bool:
    try:
        with open("/proc/cpuinfo", "rb") as file:
            return b" avx " in file.read(8192)
    except OSError:
        return False


class Host:
    """What differs between host processors."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.x86 = machine in ("x86_64", "AMD64")
        self.region_convention = "x86_regcallcc" if self.x86 else "ccc"
        self.pins = 8 if self.x86 else 5
        # Guest registers that regions keep in registers: what the host has, but for addresses and temporary values.
        self.general, self.floats = (13, 14) if self.x86 else (24, 28)
        self.segment = has_segment()
        # As the rest of the code: mixing the two encodings costs on some processors.
        avx = self.x86 and _has_avx()
        self.load_double, self.load_float = ("vmovsd", "vmovss") if avx else ("movsd", "movss")


# PERF: importing platform takes 1.5 ms. A system without uname has no native engine.
HOST: Final = Host(os.uname().machine if hasattr(os, "uname") else "")
LOADS: Final = {8: ("movzbl", "movsbq"), 16: ("movzwl", "movswq"), 32: ("movl", "movslq"), 64: ("movq", "")}
STORES: Final = {8: "movb ${1:b}, $0", 16: "movw ${1:w}, $0", 32: "movl $1, $0", 64: "movq $1, $0"}
"""The instructions of x86 for an access of so many bits; those that extend a load with zeros, and with the sign."""
_ATOMIC: Final = {"add": "lock xadd", "swap": "xchg"}
"""The instructions of x86 that are an atomic operation and give the old value."""
_FIRST: Final = {8: "${0:b}", 16: "${0:w}", 32: "${0:k}", 64: "$0"}
"""The first operand as a register of so many bits."""

_FLOAT = {32: "float", 64: "double"}
_ROUND = '!"round.dynamic"'
_EXCEPT = '!"fpexcept.strict"'

EMULATED: Final = frozenset(
    {"counter", "sync_fetch"} | (set() if HOST.x86 else {"fp.get_flags", "fp.set_flags", "fp.set_rounding"})
)
"""Ops that native code leaves to the reference executor."""

_GUARDED: Final = ("load", "store", "probe", "fp.set_flags", "fp.set_rounding")
_CANONICAL = {32: "0x7FF8000000000000", 64: "0x7FF8000000000000"}

METADATA: Final = """\
!0 = !{!"branch_weights", i32 10000, i32 1}
!1 = !{!"vm"}
!2 = !{!"memory", !1, i64 0}
!3 = !{!"state", !1, i64 0}
!4 = !{!"records", !1, i64 0}
!5 = !{!"table", !1, i64 0}
!6 = !{!2, !2, i64 0}
!7 = !{!3, !3, i64 0}
!8 = !{!4, !4, i64 0}
!9 = !{!5, !5, i64 0}
!10 = !{!"branch_weights", i32 1, i32 10000}
!11 = !{}
!12 = !{!"branch_weights", i32 1, i32 1}
"""
MEM, STATE, RECORD, TABLE = "!tbaa !6", "!tbaa !7", "!tbaa !8", "!tbaa !9"
LIKELY = "!prof !0"


def _declarations() -> str:
    out = [
        "declare i64 @llvm.fshr.i64(i64, i64, i64)",
        "declare ptr @llvm.stacksave.p0()",
    ]
    for name in ("roundeven", "trunc", "floor", "ceil", "nearbyint"):
        out += [f"declare {t} @llvm.{name}.f{w}({t})" for w, t in _FLOAT.items()]
    for w in (8, 16, 32, 64, 128):
        out.append(f"declare i{w} @llvm.ctpop.i{w}(i{w})")
        out.append(f"declare i{w} @llvm.ctlz.i{w}(i{w}, i1)")
        out.append(f"declare i{w} @llvm.cttz.i{w}(i{w}, i1)")
        if w > 8:
            out.append(f"declare i{w} @llvm.bswap.i{w}(i{w})")
    c = "llvm.experimental.constrained"
    for w, t in _FLOAT.items():
        for name in ("fadd", "fsub", "fmul", "fdiv"):
            out.append(f"declare {t} @{c}.{name}.f{w}({t}, {t}, metadata, metadata)")
        out.append(f"declare {t} @{c}.sqrt.f{w}({t}, metadata, metadata)")
        out.append(f"declare {t} @{c}.fma.f{w}({t}, {t}, {t}, metadata, metadata)")
        out.append(f"declare {t} @{c}.rint.f{w}({t}, metadata, metadata)")
        out.append(f"declare i1 @{c}.fcmp.f{w}({t}, {t}, metadata, metadata)")
        out.append(f"declare i1 @{c}.fcmps.f{w}({t}, {t}, metadata, metadata)")
        for i in (32, 64):
            for s in ("si", "ui"):
                out.append(f"declare {t} @{c}.{s}tofp.f{w}.i{i}(i{i}, metadata, metadata)")
                out.append(f"declare i{i} @{c}.fpto{s}.i{i}.f{w}({t}, metadata)")
    out.append(f"declare double @{c}.fpext.f64.f32(float, metadata)")
    out.append(f"declare float @{c}.fptrunc.f32.f64(double, metadata, metadata)")
    if HOST.x86:
        out += ["declare void @llvm.x86.sse.stmxcsr(ptr)", "declare void @llvm.x86.sse.ldmxcsr(ptr)"]
    return "\n".join(out) + "\n"


def supported(template: Template) -> bool:
    """Whether native code can run the template. The rest runs in the reference executor."""
    for op in template.ops:
        if op.code in EMULATED:
            return False
        if op.code in ("udiv", "urem", "sdiv", "srem") and op.width > 64:
            return False
        if op.code == "trap" and op.guard is None and op.attr != Cause.SYSCALL.value:
            return False
        if op.code == "trap" and op.guard is not None and op.attr == Cause.SYSCALL.value:
            return False
        if op.code in (
            "fp.add",
            "fp.sub",
            "fp.mul",
            "fp.div",
            "fp.sqrt",
            "fp.fma",
            "fp.to_int",
            "fp.from_int",
            "fp.convert",
        ):
            rm = op.attr[1]
            if rm not in (0, 1, 2, 3, 7) or op.guard is not None:
                return False
        if op.code in ("amo", "cas", "load_reserved", "store_conditional") and op.guard is not None:
            return False
    return True


class Emitter:
    """Emits one function's body. ``lines`` is the text so far."""

    bits = MAX_BITS
    """Addresses below 2**bits have a permission byte; those above a smaller arena's end have one that is 0."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._n = 0
        self.values: list[str] = []
        self.template: Template
        self.number = 0
        self.rounding_checked = False

    # -- text ---------------------------------------------------------------------------------------------------

    def emit(self, line: str) -> None:
        self.lines.append("  " + line)

    def v(self, expression: str) -> str:
        self._n += 1
        name = f"%v{self._n}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def label(self) -> str:
        self._n += 1
        return f"L{self._n}"

    def place(self, label: str) -> None:
        self.lines.append(f"{label}:")

    def field_in_state(self, offset: int) -> str:
        return self.v(f"getelementptr i8, ptr %st, i64 {offset}")

    def load_state(self, name: str, type_: str = "i64") -> str:
        return self.v(f"load {type_}, ptr {self.field_in_state(HEADER[name])}, {STATE}")

    def store_state(self, name: str, value: str) -> None:
        self.emit(f"store i64 {value}, ptr {self.field_in_state(HEADER[name])}, {STATE}")

    def turn(self, ip: str, report: str, proceed: str) -> None:
        """A place's heat has turned: go to ``report`` each time that the image has the patience for, else to ``proceed``. ``ip`` is a
        pointer to its record."""
        spot = self.v(f"getelementptr i8, ptr {ip}, i64 {TURNS}")
        turns = self.v(f"add i8 {self.v(f'load i8, ptr {spot}, {RECORD}')}, 1")
        self.emit(f"store i8 {turns}, ptr {spot}, {RECORD}")
        patience = self.v(f"trunc i64 {self.patience()} to i8")
        due = self.v(f"icmp eq i8 {self.v(f'and i8 {turns}, {patience}')}, 0")
        self.emit(f"br i1 {due}, label %{report}, label %{proceed}")

    def in_unit(self, handler: str) -> str:
        """Whether a record's handler, an i64, is code of the baseline tier."""
        return self.v(f"icmp ne i64 {self.v(f'and i64 {handler}, {LINKED}')}, 0")

    def patience(self) -> str:
        """The image's (WORDS)."""
        word = self.v(f"getelementptr i64, ptr {self.load_state('image', 'ptr')}, i64 {WORDS['patience']}")
        return self.v(f"load i64, ptr {word}, {RECORD}")

    # -- to be given by subclasses ------------------------------------------------------------------------------

    def get(self, file: str, index: int | str, width: int) -> str:
        """The value of a register, of type ``i<width>``."""
        raise NotImplementedError

    def put(self, file: str, index: int | str, value: str, width: int) -> None:
        """Write a register."""
        raise NotImplementedError

    def immediate(self, name: str) -> str:
        """A field's value as an i64."""
        raise NotImplementedError

    def pc(self) -> str:
        raise NotImplementedError

    def next_pc(self) -> str:
        raise NotImplementedError

    def refuse(self) -> str:
        """The label to go to if the instruction cannot be done here; nothing has changed yet."""
        raise NotImplementedError

    def misaligned(self, address: str, size: int, need: int, proceed: str) -> str:
        """The label to go to if an access is misaligned or refused. It may come back to ``proceed``."""
        return self.refuse()

    def go(self, kind: str, target: str, guard: str | None, op: Op) -> None:
        """Set the pc (the last thing an instruction does)."""
        raise NotImplementedError

    def system_call(self) -> None:
        raise NotImplementedError

    # -- templates ----------------------------------------------------------------------------------------------

    def lower(self, template: Template) -> None:
        """Emit the template's ops."""
        self.template = template
        self.values = []
        for self.number, op in enumerate(template.ops):
            args = [self.operand(op, arg) for arg in op.args]
            method = getattr(self, "op_" + op.code.replace(".", "_"), None)
            result: str | None
            if method is None:
                result = self._simple(op, args)
            elif op.guard is not None and op.code in _GUARDED:
                result = self._guarded(op, args, method)
            else:
                result = method(op, *args)
            self.values.append(result or "")

    def operand(self, op: Op, arg: int) -> str:
        """The value of an op's argument."""
        return self.values[arg]

    def _guarded(self, op: Op, args: list[str], method: object) -> str | None:
        inside, after = self.label(), self.label()
        before = self.label()
        self.emit(f"br label %{before}")
        self.place(before)
        assert op.guard is not None
        self.emit(f"br i1 {self.values[op.guard]}, label %{inside}, label %{after}")
        self.place(inside)
        result = method(op, *args)  # type: ignore[operator]
        end = self.label()
        self.emit(f"br label %{end}")
        self.place(end)
        self.emit(f"br label %{after}")
        self.place(after)
        if result:
            return self.v(f"phi i{op.width} [ {result}, %{end} ], [ 0, %{before} ]")
        return None

    def width_of(self, op: Op, arg: int = 0) -> int:
        return self.template.ops[op.args[arg]].width

    def _simple(self, op: Op, a: list[str]) -> str:
        w = self.width_of(op, len(op.args) - 1) if op.args else op.width
        code = op.code
        if code in ("add", "sub", "mul", "and", "or", "xor"):
            return self.v(f"{code} i{w} {a[0]}, {a[1]}")
        if code in ("shl", "lshr", "ashr"):
            amount = a[1]
            if amount.lstrip("-").isdigit():
                amount = str(int(amount) % w)
            else:
                amount = self.v(f"and i{w} {amount}, {w - 1}")
            return self.v(f"{code} i{w} {a[0]}, {amount}")
        if code in ("eq", "ne", "ult", "ule", "slt", "sle"):
            return self.v(f"icmp {code} i{w} {a[0]}, {a[1]}")
        if code == "select":
            return self.v(f"select i1 {a[0]}, i{w} {a[1]}, i{w} {a[2]}")
        if code in ("zext", "sext"):
            return self.v(f"{code} i{w} {a[0]} to i{op.width}")
        if code == "extract":
            value = a[0] if not op.attr else self.v(f"lshr i{w} {a[0]}, {op.attr}")
            return value if w == op.width else self.v(f"trunc i{w} {value} to i{op.width}")
        if code == "popcount":
            return self.v(f"call i{w} @llvm.ctpop.i{w}(i{w} {a[0]})")
        if code in ("clz", "ctz"):
            return self.v(
                f"call i{w} @llvm.{code[:1]}t{'lz' if code == 'clz' else 'tz'}.i{w}(i{w} {a[0]}, i1 false)"
            )
        if code == "bswap":
            return self.v(f"call i{w} @llvm.bswap.i{w}(i{w} {a[0]})")
        if code in ("udiv", "urem", "sdiv", "srem"):
            return self._divide(code, w, a[0], a[1])
        if code.startswith("lanes."):
            vector = f"<{w // op.attr} x i{op.attr}>"
            x, y = (self.v(f"bitcast i{w} {value} to {vector}") for value in a)
            return self.v(f"bitcast {vector} {self.v(f'{code[6:]} {vector} {x}, {y}')} to i{w}")
        assert code == "concat", code
        high, low = self.width_of(op, 0), self.width_of(op, 1)
        x = self.v(f"zext i{high} {a[0]} to i{op.width}")
        y = self.v(f"zext i{low} {a[1]} to i{op.width}")
        return self.v(f"or i{op.width} {self.v(f'shl i{op.width} {x}, {low}')}, {y}")

    def _divide(self, code: str, w: int, a: str, b: str) -> str:
        zero = self.v(f"icmp eq i{w} {b}, 0")
        bad = zero
        if code[0] == "s":
            overflow = self.v(
                f"and i1 {self.v(f'icmp eq i{w} {b}, -1')}, {self.v(f'icmp eq i{w} {a}, {-(1 << (w - 1))}')}"
            )
            bad = self.v(f"or i1 {zero}, {overflow}")
        safe = self.v(f"select i1 {bad}, i{w} 1, i{w} {b}")
        result = self.v(f"{code} i{w} {a}, {safe}")
        return self.v(f"select i1 {zero}, i{w} {'-1' if code.endswith('div') else a}, i{w} {result}")

    # -- state --------------------------------------------------------------------------------------------------

    def op_const(self, op: Op) -> str:
        value = op.attr
        assert isinstance(value, int)
        if op.width == 1:
            return "true" if value else "false"
        return str(value - (1 << op.width) if value >> (op.width - 1) else value)

    def op_field(self, op: Op) -> str:
        return self.immediate(op.attr)

    def op_pc(self, op: Op) -> str:
        return self.pc()

    def op_next_pc(self, op: Op) -> str:
        return self.next_pc()

    def op_reg(self, op: Op) -> str:
        file, index = op.attr
        return self.get(file, index, op.width)

    def op_setreg(self, op: Op, value: str) -> None:
        file, index = op.attr
        self.put(file, index, value, self.width_of(op))

    def op_setpc(self, op: Op, target: str) -> None:
        self.go(str(op.attr), target, None if op.guard is None else self.values[op.guard], op)

    def op_trap(self, op: Op) -> None:
        if op.guard is None:
            self.system_call()
            return
        proceed = self.label()
        self.emit(f"br i1 {self.values[op.guard]}, label %{self.refuse()}, label %{proceed}")
        self.place(proceed)

    # -- memory -------------------------------------------------------------------------------------------------

    def check(self, address: str, size: int, need: int, *, aligned: bool = False) -> None:
        """Go on only if ``size`` bytes at ``address`` lie in one page with all of ``need``. Misaligned accesses take
        :meth:`misaligned` (or, if ``aligned`` is asked, :meth:`refuse`)."""
        shift = size.bit_length() - 1
        inside, done = self.label(), self.label()
        slow = self.refuse() if aligned else self.misaligned(address, size, need, done)
        turned = address
        if shift:
            turned = self.v(f"call i64 @llvm.fshr.i64(i64 {address}, i64 {address}, i64 {shift})")
        ok = self.v(f"icmp ult i64 {turned}, {1 << (self.bits - shift)}")
        self.emit(f"br i1 {ok}, label %{inside}, label %{slow}, {LIKELY}")
        self.place(inside)
        page = self.v(f"lshr i64 {turned}, {12 - shift}")
        byte = self.v(f"load i8, ptr {self.table_entry(page)}, {TABLE}")
        allowed = self.v(f"icmp ne i8 {self.v(f'and i8 {byte}, {need}')}, 0")
        self.emit(f"br i1 {allowed}, label %{done}, label %{slow}, {LIKELY}")
        self.place(done)

    def table_entry(self, page: str) -> str:
        """The address of a page's permission byte."""
        below = self.v(f"getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}")
        return self.v(f"getelementptr i8, ptr {below}, i64 {page}")

    def host_pointer(self, address: str) -> str:
        return self.v(f"getelementptr i8, ptr %arena, i64 {address}")

    def faulting(self) -> str:
        """The label to go to if :meth:`access` faults."""
        return self.refuse()

    def access(self, text: str, constraints: str, type_: str, arguments: str) -> str:
        """One host instruction that accesses guest memory unchecked (:mod:`vm_jit.faults`); its result, if it has one."""
        done = self.label()
        # The text's operands are the memory, its value, what that is made of if that is one more, and last the place to go to.
        last = constraints.count(",") + 1
        table = f"\\0A.pushsection {FIXUPS},\\22a\\22,@progbits\\0A.long 1b-., ${{{last}:l}}-.\\0A.popsection"
        call = f'callbr {type_} asm sideeffect "1: {text}{table}", "{constraints},!i"({arguments})'
        where = f"to label %{done} [label %{self.faulting()}]"
        result = "" if type_ == "void" else self.v(f"{call} {where}")
        if not result:
            self.emit(f"{call} {where}")
        self.place(done)
        return result

    def place_of(self, address: str) -> str:
        """The operand of :meth:`access` for a guest address."""
        return self.host_pointer(address)

    def touch(self, address: str) -> None:
        """In front of an access that has no way out if its page is gone: one that has."""
        if HOST.x86:
            pointer = f"ptr elementtype(i8) {self.place_of(address)}"
            self.access("movzbl $1, ${0:k}", "=r,*m", "i32", pointer)

    def op_load(self, op: Op, address: str) -> str:
        self.check(address, op.width // 8, Prot.READ)
        return self.v(f"load i{op.width}, ptr {self.host_pointer(address)}, align 1, {MEM}")

    def op_store(self, op: Op, address: str, value: str) -> None:
        width = self.width_of(op, 1)
        self.check(address, width // 8, Prot.WRITE)
        self.emit(f"store i{width} {value}, ptr {self.host_pointer(address)}, align 1, {MEM}")

    def op_probe(self, op: Op, address: str) -> None:
        self.check(address, op.attr // 8, Prot.WRITE)

    def op_amo(self, op: Op, address: str, value: str) -> str:
        self.check(address, op.width // 8, Prot.WRITE, aligned=True)
        if HOST.x86 and op.attr[0] in _ATOMIC:
            # PERF: a load in front of it would fetch the line twice where processors fight for it.
            pointer = f"ptr elementtype(i{op.width}) {self.place_of(address)}"
            text = f"{_ATOMIC[op.attr[0]]} {_FIRST[op.width]}, $1"
            return self.access(text, "=r,*m,0", f"i{op.width}", f"{pointer}, i{op.width} {value}")
        self.touch(address)
        operation = {"swap": "xchg"}.get(op.attr[0], op.attr[0])
        return self.v(f"atomicrmw {operation} ptr {self.host_pointer(address)}, i{op.width} {value} seq_cst")

    def op_cas(self, op: Op, address: str, expected: str, new: str) -> str:
        self.check(address, op.width // 8, Prot.WRITE, aligned=True)
        self.touch(address)
        t = f"i{op.width}"
        pair = self.v(f"cmpxchg ptr {self.host_pointer(address)}, {t} {expected}, {t} {new} seq_cst seq_cst")
        return self.v(f"extractvalue {{ {t}, i1 }} {pair}, 0")

    def op_load_reserved(self, op: Op, address: str) -> str:
        size = op.width // 8
        self.check(address, size, Prot.READ, aligned=True)
        self.touch(address)
        value = self.v(f"load atomic i{op.width}, ptr {self.host_pointer(address)} seq_cst, align {size}")
        self.store_state("reservation", address)
        wide = value if op.width == 64 else self.v(f"zext i{op.width} {value} to i64")
        self.store_state("reserved_value", wide)
        return value

    def op_store_conditional(self, op: Op, address: str, value: str) -> str:
        width = self.width_of(op, 1)
        self.check(address, width // 8, Prot.WRITE, aligned=True)
        self.touch(address)
        reserved = self.load_state("reservation")
        old = self.load_state("reserved_value")
        if width < 64:
            old = self.v(f"trunc i64 {old} to i{width}")
        self.store_state("reservation", "-1")
        before, attempt, done = self.label(), self.label(), self.label()
        self.emit(f"br label %{before}")
        self.place(before)
        self.emit(f"br i1 {self.v(f'icmp eq i64 {reserved}, {address}')}, label %{attempt}, label %{done}")
        self.place(attempt)
        pair = self.v(
            f"cmpxchg ptr {self.host_pointer(address)}, i{width} {old}, i{width} {value} seq_cst seq_cst"
        )
        failed = self.v(f"xor i1 {self.v(f'extractvalue {{ i{width}, i1 }} {pair}, 1')}, true")
        self.emit(f"br label %{done}")
        self.place(done)
        return self.v(f"phi i1 [ {failed}, %{attempt} ], [ true, %{before} ]")

    def op_fence(self, op: Op) -> None:
        self.emit(f"fence {op.attr}")

    # -- floating point -----------------------------------------------------------------------------------------
    # The host's own operation, with the host's sticky flags, then one compare and select for the canonical NaN.

    def _float(self, value: str, width: int) -> str:
        return self.v(f"bitcast i{width} {value} to {_FLOAT[width]}")

    def _bits(self, value: str, width: int) -> str:
        return self.v(f"bitcast {_FLOAT[width]} {value} to i{width}")

    def _canonical(self, value: str, width: int) -> str:
        t = _FLOAT[width]
        nan = self.v(
            f"call i1 @llvm.experimental.constrained.fcmp.f{width}({t} {value}, {t} {value}, "
            f'metadata !"uno", metadata {_EXCEPT}) #1'
        )
        return self._bits(self.v(f"select i1 {nan}, {t} {_CANONICAL[width]}, {t} {value}"), width)

    def check_rounding(self) -> None:
        """Refuse the instruction if the dynamic rounding mode is one that the host lacks (or invalid)."""
        if self.rounding_checked:
            return
        proceed = self.label()
        ok = self.v(f"icmp ult i64 {self.load_state('fp_rounding')}, 4")
        self.emit(f"br i1 {ok}, label %{proceed}, label %{self.refuse()}, {LIKELY}")
        self.place(proceed)

    def _begin_rounding(self, op: Op) -> bool:
        """Prepare the rounding mode of ``op``; True if the host's mode was changed and must be put back."""
        rm = op.attr[1]
        if rm == 7 or rm is None:
            if rm == 7:
                self.check_rounding()
            return False
        self._host_rounding({0: 0, 1: 3, 2: 1, 3: 2}[rm])
        return True

    def _host_rounding(self, control: int | None) -> None:
        """Set the host's rounding mode (x86 RC encoding), or put back the guest's dynamic one."""
        if not HOST.x86:
            raise AssertionError("static rounding modes are emulated on this host")
        slot = self.field_in_state(HEADER["scratch"])
        self.emit(f"call void @llvm.x86.sse.stmxcsr(ptr {slot}) #1")
        now = self.v(f"load i32, ptr {slot}")
        cleared = self.v(f"and i32 {now}, {~0x6000}")
        if control is None:
            dynamic = self.v(f"load i32, ptr {self.field_in_state(HEADER['host_fp'])}")
            wanted = self.v(f"and i32 {dynamic}, {0x6000}")
        else:
            wanted = str(control << 13)
        self.emit(f"store i32 {self.v(f'or i32 {cleared}, {wanted}')}, ptr {slot}")
        self.emit(f"call void @llvm.x86.sse.ldmxcsr(ptr {slot}) #1")

    def _arithmetic(self, op: Op, name: str, *args: str) -> str:
        changed = self._begin_rounding(op)
        w = op.width
        t = _FLOAT[w]
        operands = ", ".join(f"{t} {self._float(arg, w)}" for arg in args)
        result = self.v(
            f"call {t} @llvm.experimental.constrained.{name}.f{w}({operands}, metadata {_ROUND}, metadata {_EXCEPT}) #1"
        )
        if changed:
            self._host_rounding(None)
        return self._canonical(result, w)

    def op_fp_add(self, op: Op, a: str, b: str) -> str:
        return self._arithmetic(op, "fadd", a, b)

    def op_fp_sub(self, op: Op, a: str, b: str) -> str:
        return self._arithmetic(op, "fsub", a, b)

    def op_fp_mul(self, op: Op, a: str, b: str) -> str:
        return self._arithmetic(op, "fmul", a, b)

    def op_fp_div(self, op: Op, a: str, b: str) -> str:
        return self._arithmetic(op, "fdiv", a, b)

    def op_fp_sqrt(self, op: Op, a: str) -> str:
        return self._arithmetic(op, "sqrt", a)

    def op_fp_fma(self, op: Op, a: str, b: str, c: str) -> str:
        # RISC-V raises NV for infinity * 0 + quiet NaN; x86's FMA does not.
        if op.attr[1] == 7:
            self.check_rounding()
        w = op.width
        magnitude = mask(w - 1)
        infinity = {32: 0x7F80_0000, 64: 0x7FF0_0000_0000_0000}[w]
        x, y, z = (self.v(f"and i{w} {value}, {magnitude}") for value in (a, b, c))
        one = self.v(f"and i1 {self.v(f'icmp eq i{w} {x}, {infinity}')}, {self.v(f'icmp eq i{w} {y}, 0')}")
        other = self.v(f"and i1 {self.v(f'icmp eq i{w} {y}, {infinity}')}, {self.v(f'icmp eq i{w} {x}, 0')}")
        product = self.v(f"or i1 {one}, {other}")
        invalid = self.v(f"and i1 {product}, {self.v(f'icmp ugt i{w} {z}, {infinity}')}")
        self._raise_if(invalid, 16)
        return self._arithmetic(op, "fma", a, b, c)

    def _raise_if(self, condition: str, flags: int) -> None:
        """Accrue guest flags where the condition holds."""
        rare, after = self.label(), self.label()
        self.emit(f"br i1 {condition}, label %{rare}, label %{after}, !prof !10")
        self.place(rare)
        self.store_state("fp_flags", self.v(f"or i64 {self.load_state('fp_flags')}, {flags}"))
        self.emit(f"br label %{after}")
        self.place(after)

    def op_fp_convert(self, op: Op, a: str) -> str:
        source, _, target = op.attr
        c = "@llvm.experimental.constrained"
        if target > source:
            if op.attr[1] == 7:
                self.check_rounding()
            value = self.v(
                f"call double {c}.fpext.f64.f32(float {self._float(a, 32)}, metadata {_EXCEPT}) #1"
            )
            return self._canonical(value, 64)
        changed = self._begin_rounding(op)
        value = self.v(
            f"call float {c}.fptrunc.f32.f64(double {self._float(a, 64)}, metadata {_ROUND}, metadata {_EXCEPT}) #1"
        )
        if changed:
            self._host_rounding(None)
        return self._canonical(value, 32)

    def op_fp_from_int(self, op: Op, a: str) -> str:
        fmt, rm, is_signed = op.attr
        width = self.width_of(op)
        t = _FLOAT[fmt]
        exact = width == 32 and fmt == 64
        changed = False
        if exact:
            if rm == 7:
                self.check_rounding()
        else:
            changed = self._begin_rounding(op)
        value = a
        if width == 32 and not is_signed:
            # Through the wider signed conversion: LLVM's own unsigned sequence for 32 bits is this too.
            value, width = self.v(f"zext i32 {a} to i64"), 64
            is_signed = True
        if not is_signed:
            result = self._from_unsigned(value, fmt)
        else:
            result = self.v(
                f"call {t} @llvm.experimental.constrained.sitofp.f{fmt}.i{width}(i{width} {value}, "
                f"metadata {_ROUND}, metadata {_EXCEPT}) #1"
            )
        if changed:
            self._host_rounding(None)
        return self._bits(result, fmt)

    def _from_unsigned(self, value: str, fmt: int) -> str:
        """u64 to float: values with the top bit set are halved (keeping the lost bit sticky) and doubled after."""
        t = _FLOAT[fmt]
        big = self.v(f"icmp slt i64 {value}, 0")
        half = self.v(f"or i64 {self.v(f'lshr i64 {value}, 1')}, {self.v(f'and i64 {value}, 1')}")
        small = self.v(f"select i1 {big}, i64 {half}, i64 {value}")
        result = self.v(
            f"call {t} @llvm.experimental.constrained.sitofp.f{fmt}.i64(i64 {small}, metadata {_ROUND}, metadata {_EXCEPT}) #1"
        )
        twice = self.v(
            f"call {t} @llvm.experimental.constrained.fadd.f{fmt}({t} {result}, {t} {result}, metadata {_ROUND}, metadata {_EXCEPT}) #1"
        )
        return self.v(f"select i1 {big}, {t} {twice}, {t} {result}")

    def op_fp_to_int(self, op: Op, a: str) -> str:
        """Range-check by magnitude on the bit pattern (which raises nothing), convert what fits, saturate the rest.

        What fits is decided after rounding to an integral value in the wanted mode; a value that does not fit must
        raise NV and not NX, so the rounding happens on 0 for values that are certainly out of range.
        """
        fmt, rm, is_signed = op.attr
        w, t = op.width, _FLOAT[fmt]
        c = "@llvm.experimental.constrained"
        bias, fraction = {32: (127, 23), 64: (1023, 52)}[fmt]
        magnitude = self.v(f"and i{fmt} {a}, {mask(fmt - 1)}")
        limit = (bias + w) << fraction  # 2**w: out of range for every signedness and rounding
        sane = self.v(f"icmp ult i{fmt} {magnitude}, {limit}")
        if rm == 7:
            self.check_rounding()
        narrow = self._float(self.v(f"select i1 {sane}, i{fmt} {a}, i{fmt} 0"), fmt)
        # Whether rounding leaves the range needs the rounded value, found without raising flags on the original:
        # convert through a wider integer where there is one, else compare the rounded float.
        rounded = self._round_quietly(narrow, fmt, rm)
        bits_ = self._bits(rounded, fmt)
        size = self.v(f"and i{fmt} {bits_}, {mask(fmt - 1)}")
        negative = self.v(f"icmp slt i{fmt} {a}, 0")
        zero = self.v(f"icmp eq i{fmt} {size}, 0")
        top = (bias + w - (1 if is_signed else 0)) << fraction  # 2**(w-1) or 2**w
        below = self.v(f"icmp ult i{fmt} {size}, {top}")
        if is_signed:
            edge = self.v(f"and i1 {negative}, {self.v(f'icmp eq i{fmt} {size}, {top}')}")
            fits = self.v(f"or i1 {below}, {edge}")
        else:
            positive = self.v(f"xor i1 {negative}, true")
            fits = self.v(f"and i1 {below}, {self.v(f'or i1 {zero}, {positive}')}")
        good = self.v(f"and i1 {sane}, {fits}")
        self._raise_if(self.v(f"xor i1 {good}, true"), 16)
        # Inexact: the kept value differs from its rounding.
        differs = self.v(f"icmp ne i{fmt} {bits_}, {self._bits(narrow, fmt)}")
        signed_zero = self.v(f"icmp eq i{fmt} {self.v(f'and i{fmt} {a}, {mask(fmt - 1)}')}, 0")
        inexact = self.v(
            f"and i1 {self.v(f'and i1 {good}, {differs}')}, {self.v(f'xor i1 {signed_zero}, true')}"
        )
        self._raise_if(inexact, 1)
        safe = self._float(self.v(f"select i1 {good}, i{fmt} {bits_}, i{fmt} 0"), fmt)
        if is_signed:
            value = self.v(f"call i{w} {c}.fptosi.i{w}.f{fmt}({t} {safe}, metadata {_EXCEPT}) #1")
        elif w == 32:
            wide = self.v(f"call i64 {c}.fptosi.i64.f{fmt}({t} {safe}, metadata {_EXCEPT}) #1")
            value = self.v(f"trunc i64 {wide} to i32")
        else:
            value = self._to_unsigned(
                self.v(f"select i1 {good}, i{fmt} {bits_}, i{fmt} 0"), fmt, bias, fraction
            )
        nan = self.v(f"icmp ugt i{fmt} {magnitude}, {((1 << (fmt - 1 - fraction)) - 1) << fraction}")
        low, high = (-(1 << (w - 1)), (1 << (w - 1)) - 1) if is_signed else (0, -1)
        down = self.v(f"and i1 {negative}, {self.v(f'xor i1 {nan}, true')}")
        saturated = self.v(f"select i1 {down}, i{w} {low}, i{w} {high}")
        return self.v(f"select i1 {good}, i{w} {value}, i{w} {saturated}")

    def _to_unsigned(self, bits_: str, fmt: int, bias: int, fraction: int) -> str:
        """An integral float in [0, 2**64) to u64: above 2**63 the top bit is taken off (exactly) and put back."""
        t = _FLOAT[fmt]
        edge = (bias + 63) << fraction
        big = self.v(f"icmp uge i{fmt} {bits_}, {edge}")
        offset = self.v(f"select i1 {big}, i{fmt} {edge}, i{fmt} 0")
        rest = self.v(
            f"call {t} @llvm.experimental.constrained.fsub.f{fmt}({t} {self._float(bits_, fmt)}, {t} "
            f"{self._float(offset, fmt)}, metadata {_ROUND}, metadata {_EXCEPT}) #1"
        )
        value = self.v(
            f"call i64 @llvm.experimental.constrained.fptosi.i64.f{fmt}({t} {rest}, metadata {_EXCEPT}) #1"
        )
        return self.v(f"select i1 {big}, i64 {self.v(f'xor i64 {value}, {-(1 << 63)}')}, i64 {value}")

    def _round_quietly(self, value: str, fmt: int, rm: int) -> str:
        """Round to an integral value without raising a flag; a signalling NaN must not come here."""
        t = _FLOAT[fmt]
        name = {0: "roundeven", 1: "trunc", 2: "floor", 3: "ceil", 7: "nearbyint"}[rm]
        return self.v(f"call {t} @llvm.{name}.f{fmt}({t} {value}) #1")

    def _compare(self, op: Op, name: str, predicate: str, a: str, b: str) -> str:
        fmt = op.attr[0]
        t = _FLOAT[fmt]
        return self.v(
            f"call i1 @llvm.experimental.constrained.{name}.f{fmt}({t} {self._float(a, fmt)}, {t} {self._float(b, fmt)}, "
            f'metadata !"{predicate}", metadata {_EXCEPT}) #1'
        )

    def op_fp_eq(self, op: Op, a: str, b: str) -> str:
        return self._compare(op, "fcmp", "oeq", a, b)

    def op_fp_lt(self, op: Op, a: str, b: str) -> str:
        return self._compare(op, "fcmps", "olt", a, b)

    def op_fp_le(self, op: Op, a: str, b: str) -> str:
        return self._compare(op, "fcmps", "ole", a, b)

    def op_fp_lt_quiet(self, op: Op, a: str, b: str) -> str:
        return self._compare(op, "fcmp", "olt", a, b)

    def op_fp_get_flags(self, op: Op) -> str:
        slot = self.field_in_state(HEADER["scratch"])
        self.emit(f"call void @llvm.x86.sse.stmxcsr(ptr {slot}) #1")
        return self.v(
            f"or i64 {self.load_state('fp_flags')}, {guest_flags(self, self.v(f'load i32, ptr {slot}'))}"
        )

    def op_fp_set_flags(self, op: Op, value: str) -> None:
        """Loading MXCSR is slow, and what is set is mostly what was read before a comparison: look first."""
        wanted = self.v(f"and i64 {value}, 31")
        change, done = self.label(), self.label()
        now = self.op_fp_get_flags(op)
        self.emit(f"br i1 {self.v(f'icmp eq i64 {now}, {wanted}')}, label %{done}, label %{change}, {LIKELY}")
        self.place(change)
        self.store_state("fp_flags", wanted)
        slot = self.field_in_state(HEADER["scratch"])
        self.emit(f"call void @llvm.x86.sse.stmxcsr(ptr {slot}) #1")
        control = self.v(f"load i32, ptr {slot}")
        self.emit(f"store i32 {self.v(f'and i32 {control}, {~0x3F}')}, ptr {slot}")
        self.emit(f"call void @llvm.x86.sse.ldmxcsr(ptr {slot}) #1")
        self.emit(f"br label %{done}")
        self.place(done)

    def op_fp_set_rounding(self, op: Op, value: str) -> None:
        """The host's mode follows where it has the guest's; the operations look at the guest's for those it lacks."""
        self.store_state("fp_rounding", value)
        low = self.v(f"and i64 {value}, 7")
        control = self.v(
            f"load i32, ptr {self.v(f'getelementptr i32, ptr @roundings, i64 {low}')}, !invariant.load !11"
        )
        self.emit(f"store i32 {control}, ptr {self.field_in_state(HEADER['host_fp'])}")
        self._host_rounding(None)

    def op_fp_get_rounding(self, op: Op) -> str:
        return self.load_state("fp_rounding")


def guest_flags(e: Emitter, mxcsr: str) -> str:
    """The guest's five sticky flags as an i64, by a table, from MXCSR."""
    low = e.v(f"and i32 {mxcsr}, 63")
    entry = e.v(f"getelementptr i8, ptr @flags, i64 {e.v(f'zext i32 {low} to i64')}")
    return e.v(f"zext i8 {e.v(f'load i8, ptr {entry}, !invariant.load !11')} to i64")


def _flag_table() -> str:
    """Tables. For each value of MXCSR's low six bits (IE DE ZE OE UE PE), the guest's NX 1, UF 2, OF 4, DZ 8, NV 16."""
    flags = [
        sum(flag for bit, flag in ((0, 16), (2, 8), (3, 4), (4, 2), (5, 1)) if value >> bit & 1)
        for value in range(64)
    ]
    text = "".join(f"\\{value:02x}" for value in flags)
    modes = ", ".join(f"i32 {0x1F80 | control << 13}" for control in (0, 3, 1, 2, 0, 0, 0, 0))
    return (
        f'@flags = internal unnamed_addr constant [64 x i8] c"{text}"\n'
        f"@roundings = internal unnamed_addr constant [8 x i32] [{modes}]\n"
    )


DECLARATIONS: Final = _declarations() + _flag_table()


def region_type(isa: Isa) -> tuple[str, list[tuple[str, int]]]:
    """The type that a compiled region returns, and the registers that travel in it: pc, nothing, fuel, then each of those. So
    fuel and registers come back in the host registers in which they were handed over."""
    pins = [(file, slot) for file, slot in isa.pinned][: HOST.pins]
    return "{ " + ", ".join(["i64"] * (3 + len(pins))) + " }", pins


def entry_signature(isa: Isa) -> str:
    """The parameters of a compiled region."""
    _, pins = region_type(isa)
    return ", ".join(
        ["ptr noalias nonnull %st", "i64 %pc", "i64 %fuel", *(f"i64 %p{i}" for i in range(len(pins)))]
    )
