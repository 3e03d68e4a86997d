"""Templates: what an instruction does, as at most 60 typed SSA ops. Printable, parseable, verified.

    template addi rd:reg rs1:reg imm:signed
      %0:64 = reg x[rs1]
      %1:64 = field imm
      %2:64 = add %0 %1
      setreg x[rd] %2

An op's result is named by its position among the ops that have one. ``!%n`` at the end is a guard: the effect
happens only where that 1-bit value is 1.
"""

from __future__ import annotations

from functools import cached_property

from vm_core.errors import SpecError
from vm_core.hints import Any, Final, cast
from vm_core.record import record
from vm_core.spec.ops import AMO, EFFECTS, MAX_WIDTH, PURE

__all__ = ["MAX_OPS", "Op", "Template", "parse"]

MAX_OPS: Final = 60
_UNGUARDED: Final = frozenset({"const", "field", "pc", "next_pc", "reg", "setreg"})


@record(frozen=True)
class Op:
    """``width`` is the result's width in bits (0: no result), ``args`` are indices of earlier ops, ``attr`` is
    documented in the op tables, ``guard`` the index of a 1-bit value or None."""

    code: str
    width: int
    args: tuple[int, ...]
    attr: Any = None
    guard: int | None = None

    @property
    def cell(self) -> tuple[str, int | str]:
        """(file, slot number or field name) of a reg or setreg op."""
        file, index = cast("tuple[str, int | str]", self.attr)
        return file, index


@record(frozen=True, slots=False)
class Template:
    """``fields`` maps the run-time fields to their role: reg, signed or unsigned."""

    name: str
    fields: dict[str, str]
    ops: tuple[Op, ...]

    def __str__(self) -> str:
        head = " ".join([f"template {self.name}", *(f"{name}:{role}" for name, role in self.fields.items())])
        return "\n".join([head, *(f"  {self._line(i, op)}" for i, op in enumerate(self.ops))]) + "\n"

    def _line(self, number: int, op: Op) -> str:
        words = [op.code]
        if op.code in ("reg", "setreg"):
            file, index = op.cell
            words.append(f"{file}[{index}]")
        elif op.attr is not None:
            words.append(f"{{{op.attr!r}}}")
        words += [f"%{arg}" for arg in op.args]
        if op.guard is not None:
            words.append(f"!%{op.guard}")
        return (f"%{number}:{op.width} = " if op.width else f"%{number} = ") + " ".join(words)

    @cached_property
    def digest(self) -> str:
        """A hash of the text: two templates with one digest mean the same."""
        import hashlib

        return hashlib.blake2b(str(self).encode(), digest_size=16).hexdigest()

    @cached_property
    def reads(self) -> tuple[tuple[str, int | str], ...]:
        """The (file, index) cells that are read, without repeats."""
        return tuple(dict.fromkeys(op.attr for op in self.ops if op.code == "reg"))

    @cached_property
    def writes(self) -> tuple[tuple[str, int | str], ...]:
        """The (file, index) cells that are written."""
        return tuple(dict.fromkeys(op.attr for op in self.ops if op.code == "setreg"))

    @cached_property
    def jumps(self) -> tuple[Op, ...]:
        """The ops that set the pc."""
        return tuple(op for op in self.ops if op.code == "setpc")

    @cached_property
    def codes(self) -> frozenset[str]:
        """The op codes that occur."""
        return frozenset(op.code for op in self.ops)

    @cached_property
    def field_files(self) -> dict[str, str]:
        """For each register field, the file that it indexes."""
        return {index: file for file, index in (*self.reads, *self.writes) if isinstance(index, str)}

    def pruned(self) -> Template:
        """Without the values that nothing uses."""
        live: set[int] = set()
        for i in range(len(self.ops) - 1, -1, -1):
            op = self.ops[i]
            needed = op.code in EFFECTS and op.code not in _UNGUARDED - {"setreg"}
            if needed or i in live:
                live.add(i)
                live.update(op.args)
                if op.guard is not None:
                    live.add(op.guard)
        order = {old: new for new, old in enumerate(sorted(live))}
        return Template(
            self.name,
            self.fields,
            tuple(
                Op(
                    self.ops[i].code,
                    self.ops[i].width,
                    tuple(order[arg] for arg in self.ops[i].args),
                    self.ops[i].attr,
                    None if (guard := self.ops[i].guard) is None else order[guard],
                )
                for i in sorted(live)
            ),
        )

    def verify(self) -> None:
        """Raise SpecError for an ill-formed template, or one whose faults would not be precise."""
        if len(self.ops) > MAX_OPS:
            raise SpecError(
                f"{self.name}: {len(self.ops)} ops, at most {MAX_OPS}: split the instruction's text"
            )
        stored = probed = False
        for number, op in enumerate(self.ops):
            self._verify_op(number, op)
            if op.code == "probe":
                probed = True
            elif op.code in EFFECTS and EFFECTS[op.code].faults:
                if stored and not probed:
                    raise SpecError(
                        f"{self.name}: {op.code} may fault after memory was changed; "
                        "call mem.probe_write for every later store first, and load before storing"
                    )
                if op.code in ("store", "amo", "cas", "store_conditional"):
                    stored = True

    def _verify_op(self, number: int, op: Op) -> None:
        def bad(why: str) -> SpecError:
            return SpecError(f"{self.name}: %{number} {op.code}: {why}")

        for arg in (*op.args, *(() if op.guard is None else (op.guard,))):
            if not 0 <= arg < number:
                raise bad(f"uses %{arg} before it is defined")
            if not self.ops[arg].width:
                raise bad(f"uses %{arg}, which has no value")
        widths = [self.ops[arg].width for arg in op.args]
        if op.guard is not None and self.ops[op.guard].width != 1:
            raise bad("the guard is not 1 bit")
        if not 0 <= op.width <= MAX_WIDTH:
            raise bad(f"{op.width} bits; at most {MAX_WIDTH}")
        if op.code in PURE:
            if op.guard is not None:
                raise bad("a pure op has no guard")
            shape = PURE[op.code].shape
            ok = {
                "same": lambda: len(widths) == 2 and widths[0] == widths[1] == op.width,
                "lanes": lambda: (
                    len(widths) == 2
                    and widths[0] == widths[1] == op.width
                    and isinstance(op.attr, int)
                    and op.width % op.attr == 0
                ),
                "compare": lambda: len(widths) == 2 and widths[0] == widths[1] and op.width == 1,
                "unary": lambda: widths == [op.width],
                "select": lambda: len(widths) == 3 and widths[0] == 1 and widths[1] == widths[2] == op.width,
                "cast": lambda: self._cast_ok(op, widths),
            }[shape]()
            if not ok:
                raise bad(f"widths {widths} -> {op.width} do not fit")
        elif op.code in EFFECTS:
            info = EFFECTS[op.code]
            if len(op.args) != info.args or bool(op.width) != info.result:
                raise bad(f"takes {info.args} values and {'gives one' if info.result else 'gives none'}")
            if op.code in ("reg", "setreg"):
                index = op.attr[1] if isinstance(op.attr, tuple) else op.attr
                if not isinstance(index, int) and self.fields.get(str(index)) != "reg":
                    raise bad(f"{index!r} is not a register field")
            if op.code == "field" and self.fields.get(str(op.attr)) not in ("signed", "unsigned"):
                raise bad(f"{op.attr!r} is not an immediate field")
            if op.code == "const" and not (isinstance(op.attr, int) and 0 <= op.attr < 1 << op.width):
                raise bad(f"{op.attr!r} is no constant of {op.width} bits")
            if op.code == "amo" and not (isinstance(op.attr, tuple) and op.attr[0] in AMO):
                raise bad(f"no operation {op.attr!r}")
            if op.code in (
                "load",
                "store",
                "amo",
                "cas",
                "load_reserved",
                "store_conditional",
                "setpc",
                "probe",
            ):
                if widths[0] != 64:
                    raise bad(f"the address has {widths[0]} bits, not 64")
                size = widths[-1] if op.code in ("store", "store_conditional") else op.width
                if op.code in ("load", "store") and size not in (8, 16, 32, 64, 128):
                    raise bad(f"an access of {size} bits")
        else:
            raise bad("no such op")

    @staticmethod
    def _cast_ok(op: Op, widths: list[int]) -> bool:
        if op.code == "concat":
            return len(widths) == 2 and op.width == sum(widths)
        if len(widths) != 1:
            return False
        if op.code == "extract":
            return isinstance(op.attr, int) and 0 <= op.attr and op.attr + op.width <= widths[0]
        return op.width > widths[0]


_LINE = r"\s+%(\d+)(?::(\d+))? = ([\w.]+)(?: (\w+)\[(\w+)\])?(?: \{(.*?)\})?((?: %\d+)*)(?: !%(\d+))?"


def parse(text: str) -> Template:
    """The template that ``str()`` printed. Raises SpecError with the line that is wrong."""
    head, *lines = [line for line in text.splitlines() if line.strip()] or [""]
    words = head.split()
    if len(words) < 2 or words[0] != "template" or not all(":" in word for word in words[2:]):
        raise SpecError(f"line 1: not a template head: {head!r}")
    import re  # PERF: most runs read no text

    ops: list[Op] = []
    for number, line in enumerate(lines):
        found = re.fullmatch(_LINE, line)
        if not found or int(found[1]) != number:
            raise SpecError(f"line {number + 2}: not an op: {line!r}")
        _, width, code, file, index, attr, args, guard = found.groups()
        value: object = None
        if file is not None:
            value = (file, int(index) if index.isdigit() else index)
        elif attr is not None:
            import ast

            try:
                value = ast.literal_eval(attr)
            except (ValueError, SyntaxError):
                raise SpecError(f"line {number + 2}: not an attribute: {attr!r}") from None
        ops.append(
            Op(
                code,
                int(width or 0),
                tuple(int(arg[1:]) for arg in args.split()),
                value,
                None if guard is None else int(guard),
            )
        )
    template = Template(words[1], dict(word.split(":", 1) for word in words[2:]), tuple(ops))
    template.verify()
    return template
