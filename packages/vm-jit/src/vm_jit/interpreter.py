"""The native interpreter: one handler a template, made by LLVM from the same text as everything else.

A handler does its instruction and tail-calls the next record's handler. Whatever it cannot do (a fault, a system
call, a record not decoded yet, an empty budget) stores pc, fuel and a :class:`Reason`, and returns to Python.
"""

from __future__ import annotations

from typing import Final

from vm_core.errors import SpecError, VmError
from vm_core.memory import HIDDEN, PAGE, TABLE_OFFSET, Prot
from vm_core.spec.isa import Isa
from vm_core.spec.template import Op, Template
from vm_core.state import HEADER
from vm_jit.faults import HANDLER
from vm_jit.lowering import (
    DECLARATIONS,
    FORCE,
    HOST,
    LIKELY,
    LOADS,
    METADATA,
    RECORD,
    STATE,
    STORES,
    TABLE,
    Emitter,
    entry_signature,
    guest_flags,
    region_type,
    supported,
)
from vm_jit.records import (
    BUSY,
    HEAT,
    HOT,
    LAST,
    LENGTH,
    LOW,
    RECORD_BYTES,
    RECORD_PC,
    WORDS,
    Plan,
    Reason,
)
from vm_jit.superinstructions import ANY, Steps, kind
from vm_jit.syscalls import DECLARATIONS as CALL_DECLARATIONS
from vm_jit.syscalls import native_call, native_signals

__all__ = ["build"]

_CC: Final = "preserve_nonecc"
_FLOAT: Final = {32: "float", 64: "double"}
_SIGNATURE: Final = "ptr noalias %st, ptr %ip, ptr %arena, ptr noalias %pages, i64 %fuel"


def plan(isa: Isa, template: Template, symbol: str) -> Plan | None:
    """The plan of a template, or None if its operands do not fit in a record."""
    slots: dict[tuple[str, str, str], int] = {}
    for role, cells in (("r", template.reads), ("w", template.writes)):
        for file, index in cells:
            if isinstance(index, str):
                key = (role if isa.layout.files[file].zero is not None else "r", file, index)
                slots.setdefault(key, 8 + 2 * len(slots))
    fields = list(dict.fromkeys(op.attr for op in template.ops if op.code == "field"))
    if len(slots) > 4 or len(fields) > 2:
        return None
    # Four bytes for a jump to a computed address: the rest of the record remembers where it went.
    size = 8 if len(fields) < 2 and not (_is_computed(template) and isa.unit > 1) else 4
    return Plan(
        symbol,
        tuple((*key, offset) for key, offset in slots.items()),
        tuple((str(name), 16 + size * i, size) for i, name in enumerate(fields)),
    )


def _is_computed(template: Template) -> bool:
    """Whether the instruction jumps to an address that is known only when it runs."""
    return any(op.code == "setpc" and op.guard is None and not is_direct(template, op) for op in template.ops)


def is_direct(template: Template, jump: Op) -> bool:
    """Whether a jump's target is the pc plus something known at decode time."""
    work = [jump.args[0]]
    while work:
        one = template.ops[work.pop()]
        if one.code not in ("add", "const", "field", "pc", "next_pc", "and"):
            return False
        work += one.args
    return True


def uses_pc(template: Template) -> bool:
    """Whether the usual path of the instruction needs its address."""
    return bool(template.codes & {"pc", "next_pc", "setpc", "trap"})


def is_system_call(template: Template) -> bool:
    """Whether the instruction asks the operating system (no other trap without a condition has a handler)."""
    return any(op.code == "trap" and op.guard is None for op in template.ops)


def is_fetch_fence(template: Template) -> bool:
    """Whether all that the instruction does is that later fetches see earlier stores."""
    return template.codes == {"sync_fetch"}


_ILLEGAL: Final = "@deliver(ptr %st, ptr %arena, ptr {calls}, i64 4, i32 1, i64 {pc}, i64 {pc})"


class _Handler(Emitter):
    """One handler: operands from the record at %ip."""

    def __init__(self, isa: Isa, how: Plan, length: int, threshold: int | None) -> None:
        super().__init__()
        self.isa, self.plan, self.length, self.threshold = isa, how, length, threshold
        self.slots = {(role, file, field): offset for role, file, field, offset in how.slots}
        self.fields = {field: (offset, size) for field, offset, size in how.immediates}
        self.late: list[list[str]] = []
        self._refuse: str | None = None
        self._pc: str | None = None
        self._fields: dict[str, str] = {}
        self.base = 0
        """Where the instruction's record is, in bytes behind %ip."""
        self.jump: tuple[str, str, str | None, bool] | None = None
        self.done = 1
        """Instructions that the handler does."""
        self.remembers = True
        """Whether a jump to a computed address leaves in its record where it went."""
        self.answers = False
        """Whether @native_call is there to be asked."""
        self.signals = native_signals(isa)
        self.selects = False
        """Whether accesses to hidden pages are done where they touch nothing that is watched."""

    def record(self, offset: int, type_: str) -> str:
        place = self.v(f"getelementptr i8, ptr %ip, i64 {self.base + offset}")
        return self.v(f"load {type_}, ptr {place}, {RECORD}")

    def _register(self, role: str, file: str, index: int | str) -> str:
        if isinstance(index, int):
            slot = self.isa.layout.files[file].write_slot(index) if role == "w" else index
            return self.field_in_state(self.isa.layout.offset(file, slot))
        offset = self.slots.get((role, file, index))
        if offset is None:
            offset = self.slots["r", file, index]
        wide = self.v(f"zext i16 {self.record(offset, 'i16')} to i64")
        return self.v(f"getelementptr i8, ptr %st, i64 {wide}")

    def get(self, file: str, index: int | str, width: int) -> str:
        stored = 128 if width > 64 else 64
        value = self.v(f"load i{stored}, ptr {self._register('r', file, index)}, align 8, {STATE}")
        return value if width == stored else self.v(f"trunc i{stored} {value} to i{width}")

    def put(self, file: str, index: int | str, value: str, width: int) -> None:
        stored = 128 if width > 64 else 64
        if width != stored:
            value = self.v(f"zext i{width} {value} to i{stored}")
        self.emit(f"store i{stored} {value}, ptr {self._register('w', file, index)}, align 8, {STATE}")

    def immediate(self, name: str) -> str:
        if name not in self._fields:
            offset, size = self.fields[name]
            value = self.record(offset, f"i{size * 8}")
            self._fields[name] = value if size == 8 else self.v(f"sext i{size * 8} {value} to i64")
        return self._fields[name]

    def load_operands(self, *, pc: bool = True) -> None:
        """Load immediates, and the pc unless only rare paths need it, up front, so that they dominate every later block."""
        for name in self.fields:
            self.immediate(name)
        if pc:
            self._pc = self.v(f"zext i32 {self.record(RECORD_PC, 'i32')} to i64")
        if self.length:
            self._length, self._step = str(self.length), str(self.length // self.isa.unit * RECORD_BYTES)
        else:
            self._length = self.v(f"zext i8 {self.record(LENGTH, 'i8')} to i64")
            self._step = self.v(f"mul i64 {self._length}, {RECORD_BYTES}")

    def pc(self) -> str:
        assert self._pc is not None
        return self._pc

    def next_pc(self) -> str:
        return self.v(f"add i64 {self.pc()}, {self._length}")

    def block(self, label: str, lines: list[str]) -> None:
        """A block to be placed behind the rest."""
        self.late.append([f"{label}:", *("  " + line for line in lines)])

    def leave(self, label: str, reason: Reason, pc: str, fuel: str = "%fuel") -> None:
        """A block that returns to Python. ``pc`` is the guest's, or the record (a pointer) that has it: so it is loaded only here."""
        n = label
        lines = []
        if pc.startswith("ptr "):
            lines = [
                f"%{n}r = getelementptr i8, {pc}, i64 {RECORD_PC}",
                f"%{n}s = load i32, ptr %{n}r, {RECORD}",
                f"%{n}pc = zext i32 %{n}s to i64",
            ]
            pc = f"%{n}pc"
        self.block(
            label,
            [
                *lines,
                f"%{n}a = getelementptr i8, ptr %st, i64 {HEADER['pc']}",
                f"store i64 {pc}, ptr %{n}a, {STATE}",
                f"%{n}b = getelementptr i8, ptr %st, i64 {HEADER['fuel']}",
                f"store i64 {fuel}, ptr %{n}b, {STATE}",
                f"%{n}c = getelementptr i8, ptr %st, i64 {HEADER['reason']}",
                f"store i64 {int(reason)}, ptr %{n}c, {STATE}",
                "ret void",
            ],
        )

    def refuse(self) -> str:
        if self._refuse is None:
            self._refuse = self.label()
            self.leave(self._refuse, Reason.EMULATE, "ptr %ip")
        return self._refuse

    def misaligned(self, address: str, size: int, need: int, proceed: str) -> str:
        refused = self.fault(address, size, need) if self.signals else self.refuse()
        if self.selects:
            refused = self._unwatched(address, size, need, proceed, refused)
        if size == 1:
            return refused
        label, inside = self.label(), self.label()
        n = label
        self.block(
            label,
            [
                f"%{n}a = icmp ult i64 {address}, {(1 << self.bits) - size}",
                f"%{n}b = and i64 {address}, {PAGE - 1}",
                f"%{n}c = icmp ule i64 %{n}b, {PAGE - size}",
                f"%{n}d = and i1 %{n}a, %{n}c",
                f"br i1 %{n}d, label %{inside}, label %{refused}",
            ],
        )
        self.block(
            inside,
            [
                f"%{n}e = lshr i64 {address}, 12",
                f"%{n}t = getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}",
                f"%{n}f = getelementptr i8, ptr %{n}t, i64 %{n}e",
                f"%{n}g = load i8, ptr %{n}f, !tbaa !9",
                f"%{n}h = and i8 %{n}g, {need}",
                f"%{n}i = icmp ne i8 %{n}h, 0",
                f"br i1 %{n}i, label %{proceed}, label %{refused}",
            ],
        )
        return label

    def _unwatched(self, address: str, size: int, need: int, proceed: str, refused: str) -> str:
        """The label to go to with an access that the table refuses: it goes on if it is one that is hidden (GuestMemory.hide)
        and touches no watched range. A store to code is left to Python, which says that it has changed."""
        label, look, ask, begin, turn, following = (self.label() for _ in range(6))
        n = label
        self.block(
            label,
            [
                f"%{n}a = icmp ult i64 {address}, {(1 << self.bits) - size}",
                f"%{n}b = and i64 {address}, {PAGE - 1}",
                f"%{n}c = icmp ule i64 %{n}b, {PAGE - size}",
                f"%{n}d = and i1 %{n}a, %{n}c",
                f"br i1 %{n}d, label %{look}, label %{refused}",
            ],
        )
        self.block(
            look,
            [
                f"%{n}e = lshr i64 {address}, 12",
                f"%{n}t = getelementptr i8, ptr %arena, i64 {-TABLE_OFFSET}",
                f"%{n}f = getelementptr i8, ptr %{n}t, i64 %{n}e",
                f"%{n}g = load i8, ptr %{n}f, !tbaa !9",
                f"%{n}h = and i8 %{n}g, {need << HIDDEN | (Prot.EXEC if need & Prot.WRITE else 0)}",
                f"%{n}i = icmp eq i8 %{n}h, {need << HIDDEN}",
                f"br i1 %{n}i, label %{ask}, label %{refused}",
            ],
        )
        self.block(
            ask,
            [
                f"%{n}j = getelementptr i8, ptr %st, i64 {HEADER['image']}",
                f"%{n}k = load ptr, ptr %{n}j, {STATE}",
                f"%{n}l = getelementptr i64, ptr %{n}k, i64 {WORDS['watches']}",
                f"%{n}m = load ptr, ptr %{n}l, {TABLE}",
                f"%{n}n = icmp eq ptr %{n}m, null",
                f"br i1 %{n}n, label %{refused}, label %{begin}",
            ],
        )
        self.block(
            begin,
            [
                f"%{n}o = load i64, ptr %{n}m, {TABLE}",
                f"%{n}p = add i64 {address}, {size}",
                f"br label %{turn}",
            ],
        )
        self.block(
            turn,
            [
                f"%{n}q = phi i64 [ 0, %{begin} ], [ %{n}r, %{following} ]",
                f"%{n}s = shl i64 %{n}q, 1",
                f"%{n}u = getelementptr i64, ptr %{n}m, i64 %{n}s",
                f"%{n}v = getelementptr i64, ptr %{n}u, i64 1",
                f"%{n}w = load i64, ptr %{n}v, {TABLE}",
                f"%{n}x = getelementptr i64, ptr %{n}u, i64 2",
                f"%{n}y = load i64, ptr %{n}x, {TABLE}",
                f"%{n}z = icmp ult i64 %{n}w, %{n}p",
                f"%{n}aa = icmp ult i64 {address}, %{n}y",
                f"%{n}ab = and i1 %{n}z, %{n}aa",
                f"br i1 %{n}ab, label %{refused}, label %{following}",
            ],
        )
        self.block(
            following,
            [
                f"%{n}r = add i64 %{n}q, 1",
                f"%{n}ac = icmp ult i64 %{n}r, %{n}o",
                f"br i1 %{n}ac, label %{turn}, label %{proceed}",
            ],
        )
        return label

    def fault(self, address: str, size: int, need: int) -> str:
        """The label to go to with an access that is refused: h_fault finds out what becomes of it."""
        label = n = self.label()
        self.block(
            label,
            [
                f"%{n}a = getelementptr i8, ptr %st, i64 {HEADER['fault_address']}",
                f"store i64 {address}, ptr %{n}a, {STATE}",
                f"%{n}b = getelementptr i8, ptr %st, i64 {HEADER['fault_access']}",
                f"store i64 {need | size << 8}, ptr %{n}b, {STATE}",
                f"%{n}c = getelementptr i8, ptr %st, i64 {HEADER['fault_handler']}",
                f"%{n}d = load ptr, ptr %{n}c, {STATE}",
                f"musttail call {_CC} void %{n}d(ptr %st, ptr %ip, ptr %arena, ptr %pages, i64 %fuel)",
                "ret void",
            ],
        )
        return label

    # -- memory: checked, and then one host instruction that may find the page gone (vm_jit.faults) --

    def op_load(self, op: Op, address: str) -> str:
        if op.guard is not None or op.width not in LOADS or not HOST.x86:
            return super().op_load(op, address)
        self.check(address, op.width // 8, Prot.READ)
        pointer = f"ptr elementtype(i{op.width}) {self.place_of(address)}"
        if op.width == 64:
            return self.access("movq $1, $0", "=r,*m", "i64", pointer)
        value = self.access(f"{LOADS[op.width][0]} $1, ${{0:k}}", "=r,*m", "i32", pointer)
        return value if op.width == 32 else self.v(f"trunc i32 {value} to i{op.width}")

    def op_store(self, op: Op, address: str, value: str) -> None:
        width = self.width_of(op, 1)
        if op.guard is not None or width not in STORES or not HOST.x86:
            super().op_store(op, address, value)
            return
        self.check(address, width // 8, Prot.WRITE)
        pointer = f"ptr elementtype(i{width}) {self.place_of(address)}"
        self.access(STORES[width], "=*m,r", "void", f"{pointer}, i{width} {value}")

    def go(self, kind: str, target: str, guard: str | None, op: Op) -> None:
        assert self.jump is None, "one jump an instruction"
        self.jump = (kind, target, guard, is_direct(self.template, op))

    def system_call(self) -> None:
        self.lines.append("; system call")

    def finish(self) -> None:
        """Count the instruction and go to the next record."""
        system = is_system_call(self.template)
        left = self.v(f"sub i64 %fuel, {self.done}")
        if system:
            self._system_call(left)
            return
        if self.jump is not None:
            kind, target, guard, direct = self.jump
            taken = self.label()
            if guard is not None:
                through = self.label()
                self.emit(f"br i1 {guard}, label %{taken}, label %{through}")
                self.place(taken)
                self._jump(kind, target, direct, left, conditional=True)
                self.place(through)
            else:
                self._jump(kind, target, direct, left, conditional=False)
                return
        self.dispatch(self.next_record(), left)

    def next_record(self) -> str:
        step = self._step if not self.base else str(self.base + int(self._step))
        return self.v(f"getelementptr i8, ptr %ip, i64 {step}")

    def _system_call(self, left: str) -> None:
        """A call that native code answers goes on; any other leaves."""
        out, ask, far, near = (self.label() for _ in range(4))
        after = self.next_pc()
        self.leave(out, Reason.SYSCALL, after, left)
        if not self.answers:
            self.emit(f"br label %{out}")
            return
        calls = self.load_state("calls", "ptr")
        self.emit(f"br i1 {self.v(f'icmp eq ptr {calls}, null')}, label %{out}, label %{ask}")
        self.place(ask)
        to = self.v(f"call i64 @native_call(ptr %st, ptr %arena, ptr {calls}, i64 {after})")
        self.emit(f"switch i64 {to}, label %{far} [ i64 -1, label %{out} ]")
        self.place(far)
        elsewhere = self.label()
        self.emit(
            f"br i1 {self.v(f'icmp eq i64 {to}, {after}')}, label %{near}, label %{elsewhere}, {LIKELY}"
        )
        self.place(elsewhere)
        self.dispatch(self.lookup(to, left), left)
        self.place(near)
        self.dispatch(self.next_record(), left)

    def fence(self) -> None:
        """Take the pages out of the table whose code may have changed, or leave it to Python: see CodeImage.synchronize."""
        ask, begin, turn, out, done, go = (self.label() for _ in range(6))
        refuse = self.refuse()
        fences = self.load_state("image", "ptr")
        self.emit(f"br i1 {self.v(f'icmp eq ptr {fences}, null')}, label %{refuse}, label %{ask}")
        self.place(ask)
        # The compiler's thread may be at these pages (CodeImage.held); earlier stores are seen by who looks at them later.
        taken = self.v(f"cmpxchg ptr {fences}, i64 0, i64 {BUSY} seq_cst seq_cst")
        self.emit(
            f"br i1 {self.v(f'extractvalue {{ i64, i1 }} {taken}, 1')}, label %{begin}, label %{refuse}, {LIKELY}"
        )
        self.place(begin)
        spot = self.v(f"getelementptr i64, ptr {fences}, i64 {WORDS['looked']}")
        count = self.v(f"load i64, ptr {spot}, {TABLE}")
        self.emit(f"br i1 {self.v(f'icmp eq i64 {count}, 0')}, label %{done}, label %{turn}")
        self.place(turn)
        i = self.v(f"phi i64 [ 0, %{begin} ], [ %{turn}n, %{turn} ]")
        self.emit(f"%{turn}n = add i64 {i}, 1")
        place = self.v(f"getelementptr i64, ptr {spot}, i64 %{turn}n")
        number = self.v(f"load i64, ptr {place}, {TABLE}")
        self.emit(f"store ptr null, ptr {self.v(f'getelementptr ptr, ptr %pages, i64 {number}')}, {RECORD}")
        self.emit(f"br i1 {self.v(f'icmp ult i64 %{turn}n, {count}')}, label %{turn}, label %{out}")
        self.place(out)
        self.emit(f"store i64 0, ptr {spot}, {TABLE}")
        self.emit(f"br label %{done}")
        self.place(done)
        self.emit(f"store atomic i64 0, ptr {fences} release, align 8")
        self.emit(f"br label %{go}")
        self.place(go)
        left = self.v("sub i64 %fuel, 1")
        self.dispatch(self.lookup(self.next_pc(), left), left)

    def dispatch(self, ip: str, left: str) -> None:
        """Tail-call the handler of the record at ``ip``, unless the budget is used up."""
        empty, go = self.label(), self.label()
        self.leave(empty, Reason.BUDGET, f"ptr {ip}", left)
        self.emit(f"br i1 {self.v(f'icmp eq i64 {left}, 0')}, label %{empty}, label %{go}, !prof !10")
        self.place(go)
        handler = self.v(f"load ptr, ptr {ip}, {RECORD}")
        self.tail(handler, ip, left)

    def tail(self, handler: str, ip: str, left: str) -> None:
        self.emit(
            f"musttail call {_CC} void {handler}(ptr %st, ptr {ip}, ptr %arena, ptr %pages, i64 {left})"
        )
        self.emit("ret void")

    def _jump(self, kind: str, target: str, direct: bool, left: str, *, conditional: bool) -> None:
        far, join = self.label(), self.label()
        scale = RECORD_BYTES // self.isa.unit
        if direct:
            near = self.label()
            same = self.v(f"icmp ult i64 {self.v(f'xor i64 {target}, {self.pc()}')}, {PAGE}")
            self.emit(f"br i1 {same}, label %{near}, label %{far}")
            self.place(near)
            distance = self.v(f"sub i64 {target}, {self.pc()}")
            close = self.v(f"getelementptr i8, ptr %ip, i64 {self.v(f'mul i64 {distance}, {scale}')}")
            self.emit(f"br label %{join}")
            self.place(far)
        found = self.lookup(target, left)
        if direct:
            end = self.label()
            self.emit(f"br label %{end}")
            self.place(end)
            self.emit(f"br label %{join}")
            self.place(join)
            ip = self.v(f"phi ptr [ {close}, %{near} ], [ {found}, %{end} ]")
        else:
            ip = found
            if self.remembers and kind not in ("ret", "repeat") and not conditional and self.isa.unit > 1:
                spot = self.v(f"getelementptr i8, ptr %ip, i64 {LAST}")
                self.emit(f"store i32 {self.v(f'trunc i64 {target} to i32')}, ptr {spot}, {RECORD}")
        if self.threshold is not None and kind not in ("ret", "repeat"):
            go = self.label()
            if conditional:
                warm = self.label()
                back = self.v(f"icmp ule i64 {target}, {self.pc()}")
                self.emit(f"br i1 {back}, label %{warm}, label %{go}")
                self.place(warm)
            self.heat(ip, target, left, go)
            self.place(go)
        self.dispatch(ip, left)

    def heat(self, ip: str, target: str, left: str, go: str, *, patiently: bool = False) -> None:
        """Count a jump to the record at ``ip``; leave when it becomes hot, else go on at ``go``. Where the baseline tier has been already,
        leave only where the image has no patience, or, if ``patiently``, at those of its turns that are to be reported."""
        hot, turned, compiled = self.label(), self.label(), self.label()
        spot = self.v(f"getelementptr i8, ptr {ip}, i64 {HEAT}")
        count = self.v(f"add i16 {self.v(f'load i16, ptr {spot}, {RECORD}')}, 1")
        self.emit(f"store i16 {count}, ptr {spot}, {RECORD}")
        self.leave(hot, Reason.HOT, target, left)
        self.emit(
            f"br i1 {self.v(f'icmp eq i16 {count}, {self.threshold}')}, label %{turned}, label %{go}, !prof !10"
        )
        self.place(turned)
        unit = self.in_unit(self.v(f"load i64, ptr {ip}, {RECORD}"))
        self.emit(f"br i1 {unit}, label %{compiled}, label %{hot}")
        self.place(compiled)
        if patiently:
            self.turn(ip, hot, go)
        else:
            self.emit(f"br i1 {self.v(f'icmp eq i64 {self.patience()}, 0')}, label %{hot}, label %{go}")

    def lookup(self, target: str, left: str) -> str:
        """The record of a guest address, or leave with MISS."""
        miss = self.label()
        self.leave(miss, Reason.MISS, target, left)
        inside, found = self.label(), self.label()
        ok = self.v(f"icmp ult i64 {target}, {1 << self.bits}")
        if self.isa.unit > 1:
            even = self.v(f"icmp eq i64 {self.v(f'and i64 {target}, {self.isa.unit - 1}')}, 0")
            ok = self.v(f"and i1 {ok}, {even}")
        self.emit(f"br i1 {ok}, label %{inside}, label %{miss}, {LIKELY}")
        self.place(inside)
        spot = self.v(f"getelementptr ptr, ptr %pages, i64 {self.v(f'lshr i64 {target}, 12')}")
        page = self.v(f"load ptr, ptr {spot}, {RECORD}")
        self.emit(f"br i1 {self.v(f'icmp ne ptr {page}, null')}, label %{found}, label %{miss}, {LIKELY}")
        self.place(found)
        index = self.v(f"and i64 {target}, {PAGE - 1}")
        return self.v(
            f"getelementptr i8, ptr {page}, i64 {self.v(f'mul i64 {index}, {RECORD_BYTES // self.isa.unit}')}"
        )

    def text(self, name: str) -> str:
        late = [line for block in self.late for line in block]
        return "\n".join(
            [f"define dso_local {_CC} void @{name}({_SIGNATURE}) #0 {{", *self.lines, *late, "}"]
        )


class _Sequence(_Handler):
    """The handler of a sequence: its instructions' templates one after the other, with the registers that they write stored at
    the end. What one of them refuses is left to its own handler, and so is everything if the fuel does not last."""

    def __init__(self, isa: Isa, threshold: int | None) -> None:
        super().__init__(isa, Plan("", (), ()), 0, threshold)
        self.position = 0
        self.remembers = False
        self.own = ""
        self.written: list[str] = []
        self.pending: dict[int, tuple[int, str]] = {}
        """By the position of the instruction: where in the records its register's offset is, and what is to be stored."""
        self.relations: dict[tuple[str, str, int | str], str] = {}
        self.near = False
        self._bail: str | None = None

    def step(self, template: Template, how: Plan, relation: str, length: int) -> None:
        """Add an instruction, the last one with :meth:`finish` behind it."""
        self.plan, self.length = how, length
        self.slots = {slot[:3]: slot[3] for slot in how.slots}
        self.fields = {field: (offset, size) for field, offset, size in how.immediates}
        self._fields, self._pc, self._bail, self.own = {}, None, None, how.symbol
        self.near = relation.endswith("n")
        exact = relation != ANY
        self.relations = dict(zip(self.slots, relation if exact else ".........", strict=False))
        if not exact:
            self.store_pending()
        jumps = "setpc" in template.codes
        self.load_operands(pc=bool(template.codes & {"pc", "next_pc"}) if self.near else uses_pc(template))
        self.lower(template)
        if jumps:
            self.store_pending()
        self.rounding_checked |= any(
            op.code.startswith("fp.") and isinstance(op.attr, tuple) and len(op.attr) > 1 and op.attr[1] == 7
            for op in template.ops
        )

    def pass_step(self) -> None:
        """Go to the next instruction of the sequence."""
        self.base += self.length // self.isa.unit * RECORD_BYTES
        self.position += 1

    def begin(self, count: int, first: str) -> None:
        """Leave it all to the first instruction's handler if the fuel is not enough for ``count`` instructions."""
        self.own = first
        go = self.label()
        self.emit(
            f"br i1 {self.v(f'icmp ult i64 %fuel, {count}')}, label %{self.refuse()}, label %{go}, !prof !10"
        )
        self.place(go)

    def _key(self, role: str, file: str, index: int | str) -> tuple[str, str, str]:
        return (role if (role, file, index) in self.slots else "r", file, str(index))

    def get(self, file: str, index: int | str, width: int) -> str:
        related = self.relations[self._key("r", file, index)]
        if related == ".":
            return super().get(file, index, width)
        value = "0" if related == "z" else self.written[self.position - int(related)]
        if width == 64:
            return value
        return "0" if value == "0" else self.v(f"trunc i64 {value} to i{width}")

    def put(self, file: str, index: int | str, value: str, width: int) -> None:
        if width != 64:
            value = self.v(f"zext i{width} {value} to i64")
        key = self._key("w", file, index)
        related = self.relations[key]
        self.written.append(value)
        if related == "z":
            return
        if related != ".":
            self.pending.pop(self.position - int(related), None)
        self.pending[self.position] = (self.base + self.slots[key], value)

    def lower(self, template: Template) -> None:
        super().lower(template)
        if len(self.written) == self.position:
            self.written.append("")

    def _stores(self, n: str) -> list[str]:
        lines = []
        for i, (place, value) in enumerate(self.pending.values()):
            lines += [
                f"%{n}a{i} = getelementptr i8, ptr %ip, i64 {place}",
                f"%{n}b{i} = load i16, ptr %{n}a{i}, {RECORD}",
                f"%{n}c{i} = zext i16 %{n}b{i} to i64",
                f"%{n}d{i} = getelementptr i8, ptr %st, i64 %{n}c{i}",
                f"store i64 {value}, ptr %{n}d{i}, align 8, {STATE}",
            ]
        return lines

    def store_pending(self) -> None:
        for line in self._stores(self.label()):
            self.emit(line)
        self.pending.clear()

    def refuse(self) -> str:
        if self._bail is None:
            self._bail = n = self.label()
            self.block(
                n,
                [
                    *self._stores(n),
                    f"%{n}ip = getelementptr i8, ptr %ip, i64 {self.base}",
                    f"%{n}left = sub i64 %fuel, {self.position}",
                    f"musttail call {_CC} void @{self.own}(ptr %st, ptr %{n}ip, ptr %arena, ptr %pages, i64 %{n}left)",
                    "ret void",
                ],
            )
        return self._bail

    def misaligned(self, address: str, size: int, need: int, proceed: str) -> str:
        return self.refuse()

    def _canonical(self, value: str, width: int) -> str:
        """A NaN is left to the instruction's own handler (which raises the same flags again), so no value waits for the choice."""
        t, go = f"f{width}", self.label()
        nan = self.v(
            f"call i1 @llvm.experimental.constrained.fcmp.{t}({_FLOAT[width]} {value}, {_FLOAT[width]} {value}, "
            f'metadata !"uno", metadata !"fpexcept.strict") #1'
        )
        self.emit(f"br i1 {nan}, label %{self.refuse()}, label %{go}, !prof !10")
        self.place(go)
        return self.v(f"bitcast {_FLOAT[width]} {value} to i{width}")

    def finish(self) -> None:
        self.done = self.position + 1
        super().finish()

    def _jump(self, kind: str, target: str, direct: bool, left: str, *, conditional: bool) -> None:
        if not self.near:
            super()._jump(kind, target, direct, left, conditional=conditional)
            return
        (name,) = self.fields
        distance = self.v(f"mul i64 {self.immediate(name)}, {RECORD_BYTES // self.isa.unit}")
        here = self.v(f"getelementptr i8, ptr %ip, i64 {self.base}")
        self.dispatch(self.v(f"getelementptr i8, ptr {here}, i64 {distance}"), left)


def _sequence(
    isa: Isa, sequence: Steps, parts: dict[str, tuple[Template, int]], plans: dict[str, Plan], name: str
) -> str:
    """The text of a sequence's handler. Every step is of a kind that has one."""
    e = _Sequence(isa, None)
    if len(sequence) > 1:
        e.begin(len(sequence), plans[sequence[0][0]].symbol)
    for number, (key, relation) in enumerate(sequence):
        if number:
            e.pass_step()
        template, length = parts[key]
        e.step(template, plans[key], relation, length)
    e.store_pending()
    e.finish()
    return e.text(name)


def _enter_region(isa: Isa, threshold: int | None) -> str:
    """The handler of a record whose instruction is the entry of a compiled region."""
    type_, pins = region_type(isa)
    e = _Handler(isa, Plan("", (), ()), 0, threshold)
    e.load_operands()
    regions = e.load_state("regions", "ptr")

    def entry(pc: str) -> str:
        """The region table's entry of a guest address that has one: (function, original handler)."""
        slot = e.v(f"and i64 {pc}, {PAGE - 1}")
        number = e.v(f"lshr i64 {pc}, 12")
        page = e.v(f"load ptr, ptr {e.v(f'getelementptr ptr, ptr {regions}, i64 {number}')}, {RECORD}")
        return e.v(f"getelementptr i8, ptr {page}, i64 {e.v(f'mul i64 {slot}, {16 // isa.unit}')}")

    function = e.v(f"load ptr, ptr {entry(e.pc())}, {RECORD}")
    arguments = ["ptr %st", f"i64 {e.pc()}", "i64 %fuel"]
    for file, index in pins:
        arguments.append("i64 " + e.get(file, index, 64))
    result = e.v(f"call {HOST.region_convention} {type_} {function}({', '.join(arguments)})")
    returned = e.v(f"extractvalue {type_} {result}, 0")
    left = e.v(f"extractvalue {type_} {result}, 2")
    for i, (file, index) in enumerate(pins):
        value = e.v(f"extractvalue {type_} {result}, {3 + i}")
        e.emit(f"store i64 {value}, ptr {e.field_in_state(isa.layout.offset(file, index))}, {STATE}")
    e.store_state(
        "jit_retired", e.v(f"add i64 {e.load_state('jit_retired')}, {e.v(f'sub i64 %fuel, {left}')}")
    )
    forced = e.v(f"icmp slt i64 {returned}, 0")
    target = e.v(f"and i64 {returned}, {FORCE - 1}")
    empty, live = e.label(), e.label()
    e.leave(empty, Reason.BUDGET, target, left)
    e.emit(f"br i1 {e.v(f'icmp eq i64 {left}, 0')}, label %{empty}, label %{live}, !prof !10")
    e.place(live)
    ip = e.lookup(target, left)
    handler = e.v(f"load ptr, ptr {ip}, {RECORD}")
    again = e.v(f"icmp eq ptr {handler}, @h_region")
    original, fresh, go, count = e.label(), e.label(), e.label(), e.label()
    both = e.v(f"and i1 {forced}, {again}")
    e.emit(f"br i1 {both}, label %{original}, label %{fresh}")
    e.place(original)
    kept = e.v(f"load ptr, ptr {e.v(f'getelementptr i8, ptr {entry(target)}, i64 8')}, {RECORD}")
    e.tail(kept, ip, left)
    e.place(fresh)
    e.emit(f"br i1 {again}, label %{go}, label %{count}")
    e.place(count)
    if threshold is None:
        e.emit(f"br label %{go}")
    else:
        e.heat(ip, target, left, go, patiently=True)
    e.place(go)
    e.tail(handler, ip, left)
    return e.text("h_region")


def _cross(isa: Isa) -> str:
    """The handler of the records behind a page's end: go on in the next page."""
    e = _Handler(isa, Plan("", (), ()), 0, None)
    e.load_operands()
    ip = e.lookup(e.pc(), "%fuel")
    e.tail(e.v(f"load ptr, ptr {ip}, {RECORD}"), ip, "%fuel")
    return e.text("h_cross")


def _leaving(isa: Isa, name: str, reason: Reason) -> str:
    e = _Handler(isa, Plan("", (), ()), 0, None)
    e.load_operands()
    out = e.label()
    e.leave(out, reason, e.pc())
    e.emit(f"br label %{out}")
    return e.text(name)


def _miss(isa: Isa) -> str:
    """The handler of a record that has not been decoded: where it may, have its block decoded and go on, else leave."""
    e = _Handler(isa, Plan("", (), ()), 0, None)
    e.load_operands()
    out, ask, look, work, refuse, there, fresh, known = (e.label() for _ in range(8))
    e.leave(out, Reason.MISS, e.pc())
    # Code that was kept by an earlier run comes here whatever the record says by now (baseline.py: _place).
    now = e.v("load atomic ptr, ptr %ip monotonic, align 8")
    e.emit(f"br i1 {e.v(f'icmp eq ptr {now}, @h_miss')}, label %{fresh}, label %{known}, {LIKELY}")
    e.place(known)
    e.tail(now, "%ip", "%fuel")
    e.place(fresh)
    image = e.load_state("image", "ptr")

    def word(name: str, more: int = 0) -> str:
        return e.v(f"getelementptr i64, ptr {image}, i64 {WORDS[name] + more}")

    e.emit(f"br i1 {e.v(f'icmp eq ptr {image}, null')}, label %{out}, label %{ask}")
    e.place(ask)
    misses = word("misses")
    taken = e.v(f"cmpxchg ptr {misses}, i64 0, i64 {BUSY} seq_cst seq_cst")
    e.emit(f"br i1 {e.v(f'extractvalue {{ i64, i1 }} {taken}, 1')}, label %{look}, label %{out}")
    e.place(look)
    # What the guest can write is Python's; so is an instruction that reaches into such a page.
    permission = e.table_entry(e.v(f"lshr i64 {e.pc()}, 12"))
    both = e.v(f"load i16, ptr {permission}, align 1, {TABLE}")
    writable = "false"
    for shift in (0, 8):
        bits = int(Prot.WRITE | Prot.EXEC) << shift
        one = e.v(f"icmp eq i16 {e.v(f'and i16 {both}, {bits}')}, {bits}")
        writable = e.v(f"or i1 {writable}, {one}")
    e.emit(f"br i1 {writable}, label %{refuse}, label %{work}")
    e.place(refuse)
    e.emit(f"store atomic i64 0, ptr {misses} release, align 8")
    e.emit(f"br label %{out}")
    e.place(work)
    offset = e.v(f"and i64 {e.pc()}, {PAGE - 1}")
    before = e.v(f"sub i64 0, {e.v(f'mul i64 {offset}, {RECORD_BYTES // isa.unit}')}")
    code = e.v(f"getelementptr i8, ptr %arena, i64 {e.v(f'and i64 {e.pc()}, {-PAGE}')}")
    records = e.v(f"getelementptr i8, ptr %ip, i64 {before}")
    for number, value in enumerate((code, records, permission)):
        e.emit(f"store ptr {value}, ptr {word('context', number)}, {TABLE}")
    decode = e.v(f"load ptr, ptr {word('decode')}, {TABLE}")
    e.v(f"call i64 {decode}(ptr {word('context')}, i64 {offset})")
    handler = e.v("load atomic ptr, ptr %ip monotonic, align 8")
    some = e.v(f"icmp ne ptr {handler}, @h_miss")
    blocks = word("blocks")
    count = e.v(f"add i64 {e.v(f'load i64, ptr {blocks}, {TABLE}')}, {e.v(f'zext i1 {some} to i64')}")
    e.emit(f"store i64 {count}, ptr {blocks}, {TABLE}")
    e.emit(f"store atomic i64 0, ptr {misses} release, align 8")
    e.emit(f"br i1 {some}, label %{there}, label %{out}")
    e.place(there)
    e.tail(handler, "%ip", "%fuel")
    return e.text("h_miss")


def _signalling(isa: Isa, name: str, reason: Reason, arguments: str) -> str:
    """A handler of an instruction that traps: if native code can, it enters the guest's signal handler, else it leaves."""
    e = _Handler(isa, Plan("", (), ()), 0, None)
    e.load_operands()
    out, ask, there = e.label(), e.label(), e.label()
    e.leave(out, reason, e.pc())
    if not e.signals:
        e.emit(f"br label %{out}")
        return e.text(name)
    calls = e.load_state("calls", "ptr")
    e.emit(f"br i1 {e.v(f'icmp eq ptr {calls}, null')}, label %{out}, label %{ask}")
    e.place(ask)
    to = e.v(f"call i64 {arguments.format(calls=calls, pc=e.pc())}")
    e.emit(f"br i1 {e.v(f'icmp eq i64 {to}, -1')}, label %{out}, label %{there}")
    e.place(there)
    e.dispatch(e.lookup(to, "%fuel"), "%fuel")
    return e.text(name)


_STACK_USED: Final = 4 << 20
"""Bytes of the host's stack that compiled code may use for calls in one another: some 30,000, each with its frame."""
_STACK_KEPT: Final = 128 << 10
"""Bytes at the end of the stack that are left for what it calls."""
_STACK_UNKNOWN: Final = 256 << 10
"""Bytes that it may use where the size of the stack is not known."""


def _enter(isa: Isa, *, segment: bool) -> str:
    """``enter(state)``: run from state.pc until something leaves. ``enter_segment`` does it with the arena's address as base of the
    segment gs, and puts the old base back: for compiled code, where the host has the instructions."""
    e = _Handler(isa, Plan("", (), ()), 0, None)
    e.lines += ["  %now = alloca i32", "  %save = alloca i32"]
    if segment:
        e.emit('%base = call i64 asm sideeffect "rdgsbase $0", "=r"()')
    if HOST.x86:
        e.emit("call void @llvm.x86.sse.stmxcsr(ptr %save) #1")
        e.emit(f"call void @llvm.x86.sse.ldmxcsr(ptr {e.field_in_state(HEADER['host_fp'])}) #1")
    stack = e.v(f"ptrtoint ptr {e.v('call ptr @llvm.stacksave.p0()')} to i64")
    low = e.load_state("stack_low")
    end = e.v(f"add i64 {low}, {_STACK_KEPT}")
    deepest = e.v(f"sub i64 {stack}, {_STACK_USED}")
    known = e.v(f"select i1 {e.v(f'icmp ugt i64 {end}, {deepest}')}, i64 {end}, i64 {deepest}")
    unknown = e.v(f"sub i64 {stack}, {_STACK_UNKNOWN}")
    limit = e.v(f"select i1 {e.v(f'icmp eq i64 {low}, 0')}, i64 {unknown}, i64 {known}")
    e.store_state("stack_limit", limit)
    arena, pages = e.load_state("arena", "ptr"), e.load_state("pages", "ptr")
    if segment:
        # SAFETY: nothing else in the process uses gs (the C library's thread pointer is fs), and until it is put back below
        # only the guest's code and the host's system calls run in this thread.
        e.emit(f'call void asm sideeffect "wrgsbase $0", "r"(ptr {arena})')
    fuel, pc = e.load_state("fuel"), e.load_state("pc")
    inside, found, done = e.label(), e.label(), e.label()
    e.store_state("reason", str(int(Reason.MISS)))
    ok = e.v(f"icmp ult i64 {pc}, {1 << e.bits}")
    if isa.unit > 1:
        even = e.v(f"icmp eq i64 {e.v(f'and i64 {pc}, {isa.unit - 1}')}, 0")
        ok = e.v(f"and i1 {ok}, {even}")
    e.emit(f"br i1 {ok}, label %{inside}, label %{done}")
    e.place(inside)
    number = e.v(f"lshr i64 {pc}, 12")
    page = e.v(f"load ptr, ptr {e.v(f'getelementptr ptr, ptr {pages}, i64 {number}')}, {RECORD}")
    e.emit(f"br i1 {e.v(f'icmp ne ptr {page}, null')}, label %{found}, label %{done}")
    e.place(found)
    offset = e.v(f"mul i64 {e.v(f'and i64 {pc}, {PAGE - 1}')}, {RECORD_BYTES // isa.unit}")
    ip = e.v(f"getelementptr i8, ptr {page}, i64 {offset}")
    handler = e.v(f"load ptr, ptr {ip}, {RECORD}")
    e.emit(f"call {_CC} void {handler}(ptr %st, ptr {ip}, ptr {arena}, ptr {pages}, i64 {fuel})")
    e.emit(f"br label %{done}")
    e.place(done)
    if HOST.x86:
        e.emit("call void @llvm.x86.sse.stmxcsr(ptr %now) #1")
        flags = guest_flags(e, e.v("load i32, ptr %now"))
        e.store_state("fp_flags", e.v(f"or i64 {e.load_state('fp_flags')}, {flags}"))
        e.emit("call void @llvm.x86.sse.ldmxcsr(ptr %save) #1")
    if segment:
        e.emit('call void asm sideeffect "wrgsbase $0", "r"(i64 %base)')
    e.emit("ret void")
    name = "enter_segment" if segment else "enter"
    return "\n".join([f"define dso_local void @{name}(ptr noalias %st) #0 {{", "entry:", *e.lines, "}"])


def _page_filler(isa: Isa) -> str:
    """``fill(records, pc, count, handler)``: records of one page, all with ``handler``."""
    return f"""\
define dso_local void @fill(ptr %records, i64 %pc, i64 %count, ptr %handler) #0 {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
  %at = mul i64 %i, {RECORD_BYTES}
  %r = getelementptr i8, ptr %records, i64 %at
  store ptr %handler, ptr %r
  %p = getelementptr i8, ptr %r, i64 {RECORD_PC}
  %off = mul i64 %i, {isa.unit}
  %here = add i64 %pc, %off
  %short = trunc i64 %here to i32
  store i32 %short, ptr %p
  %n = add i64 %i, 1
  %more = icmp ult i64 %n, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


_HOLD: Final = f"""\
define dso_local i64 @hold(ptr %word) #0 {{
entry:
  br label %again
again:
  %taken = cmpxchg ptr %word, i64 0, i64 1 seq_cst seq_cst
  %was = extractvalue {{ i64, i1 }} %taken, 0
  %busy = icmp eq i64 %was, {BUSY}
  br i1 %busy, label %again, label %done
done:
  ret i64 %was
}}"""
"""``hold(word)``: from now on Python answers; native code is not at it any more. Gives back whether it was so before."""

_DIFFER: Final = """\
define dso_local i64 @differ(ptr %old, ptr %new, i64 %size) #0 {
entry:
  %last = sub i64 %size, 8
  br label %forth
forth:
  %i = phi i64 [ 0, %entry ], [ %next, %same ]
  %op = getelementptr i8, ptr %old, i64 %i
  %np = getelementptr i8, ptr %new, i64 %i
  %o = load i64, ptr %op, align 1
  %n = load i64, ptr %np, align 1
  %eq = icmp eq i64 %o, %n
  br i1 %eq, label %same, label %back
same:
  %end = icmp eq i64 %i, %last
  %i8 = add i64 %i, 8
  %over = icmp ugt i64 %i8, %last
  %next = select i1 %over, i64 %last, i64 %i8
  br i1 %end, label %none, label %forth
back:
  %j = phi i64 [ %size, %forth ], [ %j8, %alike ]
  %least = add i64 %i, 8
  %short = icmp ule i64 %j, %least
  br i1 %short, label %found, label %look
look:
  %j8 = sub i64 %j, 8
  %ob = getelementptr i8, ptr %old, i64 %j8
  %nb = getelementptr i8, ptr %new, i64 %j8
  %oe = load i64, ptr %ob, align 1
  %ne = load i64, ptr %nb, align 1
  %eqb = icmp eq i64 %oe, %ne
  br i1 %eqb, label %alike, label %found
alike:
  br label %back
found:
  %up = shl i64 %j, 32
  %both = or i64 %up, %i
  ret i64 %both
none:
  ret i64 0
}"""
"""``differ(old, new, size)``: where two ranges of at least 8 bytes differ, as offsets of the first word that does and, from bit 32,
behind the last; 0 if they do not."""

_RESTORE: Final = f"""\
define dso_local void @restore(ptr %records, ptr %table, ptr %slots, i64 %count) #0 {{
entry:
  %any = icmp ne i64 %count, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
  %pair = getelementptr {{ i32, i32 }}, ptr %slots, i64 %i
  %slot = load i32, ptr %pair
  %kindp = getelementptr i8, ptr %pair, i64 4
  %kind = load i32, ptr %kindp
  %so = zext i32 %slot to i64
  %ro = mul i64 %so, {RECORD_BYTES}
  %r = getelementptr i8, ptr %records, i64 %ro
  %ko = zext i32 %kind to i64
  %to = mul i64 %ko, 32
  %t = getelementptr i8, ptr %table, i64 %to
  %h = load ptr, ptr %t
  %tp = getelementptr i8, ptr %t, i64 8
  %operands = load i128, ptr %tp, align 8
  %rp = getelementptr i8, ptr %r, i64 8
  store i128 %operands, ptr %rp, align 8
  %lp = getelementptr i8, ptr %t, i64 24
  %length = load i8, ptr %lp
  %rl = getelementptr i8, ptr %r, i64 {LENGTH}
  store i8 %length, ptr %rl
  store ptr %h, ptr %r
  %n = add i64 %i, 1
  %more = icmp ult i64 %n, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""
"""``restore(records, table, slots, count)``: decode a page as an earlier run did. ``table`` holds (handler, operands, length) in
32 bytes, ``slots`` pairs of 32-bit (slot in the page, index in the table)."""


def _nowhere(isa: Isa) -> str:
    """The region of an address that has none: gives back where it should go."""
    type_, pins = region_type(isa)
    lines = []
    last = "undef"
    for i, value in enumerate(["%pc", "undef", "%fuel", *(f"%p{i}" for i in range(len(pins)))]):
        lines.append(f"  %r{i} = insertvalue {type_} {last}, i64 {value}, {i}")
        last = f"%r{i}"
    return "\n".join(
        [
            f"define dso_local {HOST.region_convention} {type_} @nowhere({entry_signature(isa)}) #0 {{",
            *lines,
            f"  ret {type_} {last}",
            "}",
        ]
    )


def build(
    isa: Isa, *, threshold: int | None = LOW, parts: int = 2, chosen: list[Steps] | None = None
) -> tuple[list[str], dict[str, Plan], dict[Steps, str]]:
    """The interpreter as ``parts`` LLVM modules of about one size, the plan of each handler by its key, and the names of the
    handlers of those sequences in ``chosen`` that can have one (then ``parts`` must be 1). ``threshold`` is how many jumps to a
    place are reported; None for nobody to report to.

    Instructions whose templates native code does not support have no handler: they run in the reference executor.
    """
    text: list[str] = []
    plans: dict[str, Plan] = {}
    lengths: dict[str, set[int]] = {}
    for insn in isa.instructions.values():
        base = insn.expands[0] if insn.expands else insn
        lengths.setdefault(base.name, set()).update(isa.lengths(insn) if isa.unit > 1 else (0,))
    made: dict[tuple[str, int, bool], str] = {}
    kinds: dict[str, tuple[Template, int]] = {}
    names: dict[Steps, str] = {}
    calls = native_call(isa)
    asking = [] if calls is None else [CALL_DECLARATIONS, calls]
    for insn in isa.instructions.values():
        if insn.expands:
            continue
        for statics in isa.variants(insn):
            try:
                template = insn.template(statics)
            except (SpecError, VmError):
                continue
            fence = is_fetch_fence(template)
            if not (supported(template) or fence):
                continue
            for length in sorted(lengths[insn.name]):
                jumps = [op for op in template.ops if op.code == "setpc"]
                for returns in (False, True) if jumps and jumps[0].guard is None else (False,):
                    values = ",".join(str(statics[name]) for name in insn.statics)
                    key = f"{insn.name}/{values}/{length}{'r' if returns else ''}"
                    identity = (template.digest, length, returns)
                    symbol = made.get(identity)
                    how = plan(isa, template, symbol or f"h{len(made)}")
                    if how is None:
                        continue
                    plans[key] = how
                    if not fence:
                        kinds[key] = template, length
                    if symbol is None:
                        made[identity] = how.symbol
                        e = _Handler(isa, how, length, None if returns else threshold)
                        e.answers, e.remembers = calls is not None, threshold is not None
                        e.selects = threshold is None
                        e.load_operands(pc=uses_pc(template) or fence)
                        if fence:
                            e.fence()
                        else:
                            e.lower(template)
                            e.finish()
                        (asking if calls is not None and is_system_call(template) else text).append(
                            e.text(how.symbol)
                        )
    for sequence in chosen or []:
        able = [
            found is not None and found.ends <= (number == len(sequence) - 1)
            for number, (key, _) in enumerate(sequence)
            for found in [kind(isa, kinds[key][0], plans[key]) if key in kinds else None]
        ]
        if all(able):
            names[sequence] = f"s{len(names)}"
            text.append(_sequence(isa, sequence, kinds, plans, names[sequence]))
    text += [
        _enter_region(isa, None if threshold is None else HOT),
        _cross(isa),
        _miss(isa),
        _leaving(isa, "h_emulate", Reason.EMULATE),
        _leaving(isa, "h_breakpoint", Reason.BREAKPOINT),
        _leaving(isa, "h_wait", Reason.MISS),
        _enter(isa, segment=False),
        *([_enter(isa, segment=True)] if HOST.machine == "x86_64" else []),
        _page_filler(isa),
        _RESTORE,
        _DIFFER,
        _HOLD,
        _nowhere(isa),
        # One text, because a function is known only in its own module.
        "\n".join(
            [
                *asking,
                _signalling(
                    isa, "h_fault", Reason.EMULATE, "@fault(ptr %st, ptr %arena, ptr {calls}, i64 {pc})"
                ),
                _signalling(isa, "h_illegal", Reason.MISS, _ILLEGAL),
            ]
        ),
    ]
    if HOST.x86:
        text.append(HANDLER)
    tail = [
        'attributes #0 = { nounwind strictfp "no-trapping-math"="false" }',
        "attributes #1 = { strictfp }",
        METADATA,
    ]
    modules, rest = [], sum(map(len, text))
    for part in range(parts, 0, -1):
        mine, size = [], 0
        while text and (part == 1 or size < rest // part):
            mine.append(text.pop())
            size += len(mine[-1])
        rest -= size
        modules.append("\n".join([DECLARATIONS, *mine, *tail]))
    return modules, plans, names
