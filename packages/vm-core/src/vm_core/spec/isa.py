"""An instruction set: its state, its field kinds, and its instructions, each one function.

Parameters of an instruction's function are injected by name: a name in the pattern is a field, any other is declared
state. So the signature is the effect summary: no ``mem``, no memory fault; no ``pc``, no branch.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import import_module

from vm_core.errors import DecodeError, SpecError
from vm_core.hints import TYPE_CHECKING, Any, Final
from vm_core.record import field, record
from vm_core.spec.pattern import Constraint, Kind, Pattern, parameters
from vm_core.spec.template import Template
from vm_core.spec.trace import Tracer
from vm_core.state import CpuState, RegisterFile, StateLayout

if TYPE_CHECKING:
    import random

__all__ = ["Decoded", "Instruction", "Isa"]

Semantics = Callable[..., None]
_loading: Final = threading.RLock()


@record(eq=False)
class Instruction:
    """One mnemonic: its encoding, its text, and how it is written in assembly.

    ``expands`` is set for a short encoding that means another instruction: (that one, field -> constant or own field);
    ``row`` is then (file, line) of its row.
    """

    isa: Isa
    name: str
    pattern: Pattern
    function: Semantics
    syntax: str
    expands: tuple[Instruction, dict[str, int | str]] | None = None
    row: tuple[str, int] | None = None
    _templates: dict[tuple[int, ...], Template] = field(default_factory=dict)
    _statics: tuple[str, ...] | None = None

    @property
    def fields(self) -> dict[str, Kind]:
        return self.pattern.kinds

    @property
    def statics(self) -> tuple[str, ...]:
        """The names of the Static fields, in pattern order."""
        if self._statics is None:
            self._statics = tuple(name for name, kind in self.fields.items() if kind.role == "static")
        return self._statics

    @property
    def source(self) -> tuple[str, int]:
        """(file, line) of the definition."""
        if self.row is not None:
            return self.row
        import inspect

        function = inspect.unwrap(self.function)
        return inspect.getsourcefile(function) or "?", function.__code__.co_firstlineno

    def template(self, fields: dict[str, int]) -> Template:
        """The template for these Static field values, traced once."""
        key = tuple(fields[name] for name in self.statics)
        found = self._templates.get(key)
        if found is None:
            found = self._templates[key] = self.isa.trace(self, dict(zip(self.statics, key, strict=True)))
        return found


@record(frozen=True, slots=False)
class Decoded:
    """An instruction at an address. ``length`` is in bytes; ``fields`` are those of ``insn`` (after expansion);
    ``encoding`` is the instruction as written, which differs from ``insn`` for a short form."""

    insn: Instruction
    fields: dict[str, int]
    length: int
    encoding: Instruction
    written: dict[str, int]

    @property
    def name(self) -> str:
        return self.encoding.name

    @cached_property
    def template(self) -> Template:
        return self.insn.template(self.fields)

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Assembly: the mnemonic, a space, the operands."""
        return self.insn.isa.format(self.encoding, self.written)


class Isa:
    """``unit`` is the alignment of instructions in bytes. ``state`` maps a parameter name to a view's factory, which
    takes the tracer. ``pinned`` lists the (file, slot) cells of 64 bits that compiled code should keep
    in host registers across guest calls, most valuable first, ``preserved`` those that functions keep by convention,
    ``frequent`` those of 64 bits, of the first file of ``pinned``, that instructions name most often.
    ``texts`` are the modules that define the instructions;
    they are imported, in this order, when an instruction is first asked for: a program whose code comes from the cache
    needs none."""

    def __init__(
        self,
        name: str,
        *,
        unit: int,
        files: tuple[RegisterFile, ...],
        fields: dict[str, Kind],
        state: dict[str, Callable[[Tracer], Any]],
        machine: int = 0,
        pinned: tuple[tuple[str, int], ...] = (),
        preserved: tuple[tuple[str, int], ...] = (),
        frequent: tuple[tuple[str, int], ...] = (),
        texts: tuple[str, ...] = (),
    ) -> None:
        self.name, self.unit, self.machine = name, unit, machine
        self.pinned = pinned
        self.preserved = preserved
        self.frequent = frequent
        self.layout = StateLayout(files)
        self.kinds = fields
        self.state = state
        self._texts = texts
        self._loads = False
        self._defined: dict[str, Instruction] = {}
        self._encodings: dict[int, list[tuple[int, int, Instruction]]] = {}
        self._buckets: dict[int, _Bucket] | None = None

    @property
    def instructions(self) -> dict[str, Instruction]:
        """All instructions by mnemonic. Raises SpecError for a wrong text."""
        if self._texts:
            self._load()
        return self._defined

    def _load(self) -> None:
        """Import the texts, once; another thread waits until they are complete."""
        with _loading:
            if self._loads:
                return  # asked for by a text itself
            self._loads = True
            try:
                for text in self._texts:
                    import_module(text)
                self._texts = ()
            finally:
                self._loads = False

    def cpu(self) -> CpuState:
        """A new vCPU, all registers 0."""
        return CpuState(self.layout)

    # -- definition ---------------------------------------------------------------------------------------------

    def insn(
        self,
        pattern: str,
        syntax: str | None = None,
        *,
        name: str | None = None,
        where: str = "",
        over: str = "",
        undefined: Callable[..., object] | None = None,
    ) -> Callable[[Semantics], Semantics]:
        """Define the instruction that the decorated function is. Its mnemonic is the function's name with ``_`` for
        ``.`` (a trailing one is dropped), unless ``name`` says otherwise. ``over`` names instructions that this one
        is a special case of; ``undefined`` takes fields and tells whether the manual makes them UNDEFINED together.
        """

        def define(function: Semantics) -> Semantics:
            mnemonic = name or function.__name__.rstrip("_").replace("_", ".")
            self._define(mnemonic, pattern, function, syntax, where, over, undefined)
            return function

        return define

    def rows(
        self, text: str, syntax: str | None = None, *, undefined: Callable[..., object] | None = None
    ) -> Callable[[Semantics], Semantics]:
        """Define several instructions by one function, which takes the mnemonic as ``name``. A row is
        ``mnemonic bits...``, optionally ``| constraints``."""

        def define(function: Semantics) -> Semantics:
            for line in text.strip().splitlines():
                if line.strip():
                    row, _, where = line.partition("|")
                    mnemonic, pattern = row.split(None, 1)
                    self._define(mnemonic, pattern, function, syntax, where, "", undefined)
            return function

        return define

    def expand(self, text: str) -> None:
        """Define short encodings. A row is ``mnemonic | bits | target field=value ... | constraints | syntax``; a value is a
        constant or a field of the row's own pattern."""
        import re  # PERF: most runs define no instruction

        caller = sys._getframe(1)
        for number, line in enumerate(text.splitlines(), caller.f_lineno):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            cells = [cell.strip() for cell in re.split(r"(?<=\s)\|(?=\s|$)", line)]
            if len(cells) < 3:
                raise SpecError(f"not a row of an expansion: {line!r}")
            mnemonic, bits_, target, where, syntax = (*cells, "", "")[:5]
            words = target.split()
            base = self._defined.get(words[0])
            if base is None:
                raise SpecError(f"{mnemonic}: {words[0]} is not defined (yet)")
            given: dict[str, int | str] = {}
            for word in words[1:]:
                key, _, value = word.partition("=")
                if key not in base.fields:
                    raise SpecError(f"{mnemonic}: {base.name} has no field {key!r}")
                given[key] = int(value) if value.lstrip("-").isdigit() else value
            pattern = Pattern(bits_, self.kinds, Constraint.parse(where))
            for value in given.values():
                if isinstance(value, str) and value not in pattern.parts:
                    raise SpecError(f"{mnemonic}: {value!r} is no field of its pattern")
            if missing := [
                key for key, kind in base.fields.items() if key not in given and kind.role != "strongest"
            ]:
                raise SpecError(f"{mnemonic}: no value for {', '.join(missing)} of {base.name}")
            written = syntax or ", ".join(pattern.parts)
            row = (caller.f_code.co_filename, number)
            self._add(Instruction(self, mnemonic, pattern, base.function, written, (base, given), row), "")

    def _define(
        self,
        mnemonic: str,
        pattern: str,
        function: Semantics,
        syntax: str | None,
        where: str,
        over: str,
        undefined: Callable[..., object] | None = None,
    ) -> None:
        try:
            parsed = Pattern(pattern, self.kinds, Constraint.parse(where), undefined)
        except SpecError as error:
            raise SpecError(f"{self.name} {mnemonic}: {error}") from None
        names = parameters(function)
        for parameter in names:
            if parameter not in parsed.parts and parameter not in self.state and parameter != "name":
                raise SpecError(
                    f"{self.name} {mnemonic}: {parameter!r} is neither a field of the pattern nor state"
                )
        for unused in parsed.parts:
            if unused not in names and parsed.kinds[unused].role != "strongest":
                raise SpecError(f"{self.name} {mnemonic}: the field {unused!r} is not used")
        if syntax is None:
            syntax = ", ".join(
                name for name in names if name in parsed.parts and parsed.kinds[name].role != "strongest"
            )
        self._add(Instruction(self, mnemonic, parsed, function, syntax), over)

    def _add(self, insn: Instruction, over: str) -> None:
        if insn.name in self._defined:
            raise SpecError(f"{self.name} {insn.name} is defined twice")
        allowed = over.split()
        mask, match = insn.pattern.mask, insn.pattern.match
        known = self._encodings.setdefault(insn.pattern.width, [])
        for other_mask, other_match, other in known:
            # PERF: most pairs differ in a literal bit, which overlaps() would find out later.
            if (
                not (match ^ other_match) & mask & other_mask
                and insn.pattern.overlaps(other.pattern)
                and other.name not in allowed
            ):
                raise SpecError(
                    f"{self.name} {insn.name} overlaps {other.name}: "
                    f"{insn.pattern.text!r} and {other.pattern.text!r} fit one word"
                )
        known.append((mask, match, insn))
        if allowed:
            self._defined = {insn.name: insn, **self._defined}
        else:
            self._defined[insn.name] = insn
        self._buckets = None

    # -- for back ends ------------------------------------------------------------------------------------------

    def static_values(self, insn: Instruction, name: str) -> Iterable[int]:
        """The values of a Static field for which native engines make code ahead of time."""
        return range(1 << insn.fields[name].bits)

    def variants(self, insn: Instruction) -> Iterable[dict[str, int]]:
        """The combinations of Static field values for which native engines make code ahead of time."""
        for values in itertools.product(*(self.static_values(insn, name) for name in insn.statics)):
            yield dict(zip(insn.statics, values, strict=True))

    def lengths(self, insn: Instruction) -> tuple[int, ...]:
        """The lengths in bytes that an encoding can have."""
        return (insn.pattern.width // 8,)

    def flow(self, decoded: Decoded) -> str | None:
        """What an instruction is to control flow: call, ret, jump, branch or None. A hint: for prediction only."""
        return None

    # -- use ----------------------------------------------------------------------------------------------------

    def find(self, mnemonic: str) -> Instruction:
        """The instruction of that name. Raises KeyError."""
        return self.instructions[mnemonic]

    def trace(self, insn: Instruction, statics: dict[str, int]) -> Template:
        """Run the instruction's text once, with run-time operands symbolic."""
        roles = {
            name: kind.role
            for name, kind in insn.fields.items()
            if kind.role in ("reg", "signed", "unsigned")
        }
        suffix = "".join(f"/{name}={value}" for name, value in statics.items())
        trace = Tracer(insn.name + suffix, roles)
        given: dict[str, Any] = {}
        with trace.active():
            for name in parameters(insn.function):
                kind = insn.fields.get(name)
                if kind is not None:
                    given[name] = self._argument(trace, name, kind, statics)
                elif name == "name":
                    given[name] = insn.name
                else:
                    given[name] = self.state[name](trace)
            try:
                insn.function(**given)
            except SpecError as error:
                raise type(error)(f"{self.name} {insn.name}: {error}") from None
            return trace.finish()

    @staticmethod
    def _argument(trace: Tracer, name: str, kind: Kind, statics: dict[str, int]) -> Any:
        if kind.role == "static":
            return statics[name]
        if kind.role == "strongest":
            return 1
        return name if kind.role == "reg" else trace.field(name)

    def length(self, data: bytes) -> int:
        """The length in bytes of the instruction that starts with ``data`` (at least one unit)."""
        return 4

    def decode(self, data: bytes, pc: int = 0) -> Decoded:
        """The instruction at the start of ``data``. Raises DecodeError, or Unimplemented for a known one."""
        length = self.length(data)
        if len(data) < length:
            raise DecodeError(self.name, pc, data)
        word = int.from_bytes(data[:length], "little")
        insn = self.match(word, length)
        if insn is None:
            raise DecodeError(self.name, pc, data[:length])
        written = insn.pattern.extract(word)
        if insn.expands is None:
            return Decoded(insn, written, length, insn, written)
        base, given = insn.expands
        fields = {key: written[value] if isinstance(value, str) else value for key, value in given.items()}
        return Decoded(base, fields, length, insn, written)

    def match(self, word: int, length: int) -> Instruction | None:
        """The instruction whose pattern of ``length`` bytes ``word`` fits."""
        if self._buckets is None:
            self._buckets = {
                size: _Bucket([i for i in self.instructions.values() if i.pattern.width == size * 8])
                for size in (2, 4)
            }
        return self._buckets[length].find(word)

    def encode(self, mnemonic: str, **fields: int) -> bytes:
        """The bytes of an instruction. Raises KeyError for the mnemonic, ValueError for a field."""
        insn = self.find(mnemonic)
        return insn.pattern.insert(fields).to_bytes(insn.pattern.width // 8, "little")

    def random(self, rng: random.Random, among: Iterable[str] | None = None) -> bytes:
        """A random instruction, drawn from the patterns themselves: every mnemonic equally likely, fields uniform."""
        names = list(among) if among is not None else list(self.instructions)
        while True:
            insn = self.instructions[rng.choice(names)]
            fields = {}
            for name, size in insn.pattern.sizes.items():
                if listed := [c.values for c in insn.pattern.constraints if c.equal and c.field == name]:
                    fields[name] = rng.choice(listed[0])
                    continue
                low = min(part.to for part in insn.pattern.parts[name])
                value = rng.getrandbits(size - low) << low
                if insn.fields[name].role == "signed" and value >> (size - 1):
                    value -= 1 << size
                fields[name] = value + insn.fields[name].base
            try:
                for name, kind in insn.fields.items():
                    if kind.codec is not None:
                        fields[name] = kind.codec.decode(fields[name])
                word = insn.pattern.insert(fields)
            except ValueError:
                continue
            if self.match(word, insn.pattern.width // 8) is insn:
                return word.to_bytes(insn.pattern.width // 8, "little")

    # -- assembly -----------------------------------------------------------------------------------------------

    def register_name(self, file: str, index: int) -> str:
        names = self.layout.files[file].names
        return names[index] if index < len(names) else f"{file}{index}"

    def operand(self, insn: Instruction, name: str, value: int) -> str:
        """How a field's value is written. ISAs override it for named statics (rounding modes, CSRs)."""
        if insn.fields[name].role == "reg":
            return self.register_name(self._file_of(insn, name), value)
        return str(value)

    def parse_operand(self, insn: Instruction, name: str, text: str) -> int:
        """The inverse of :meth:`operand`. Raises ValueError."""
        if insn.fields[name].role == "reg":
            file = self._file_of(insn, name)
            for index in range(self.layout.files[file].count):
                if text in (self.register_name(file, index), f"{file}{index}"):
                    return index
            raise ValueError(f"no register {text!r}")
        return int(text, 0)

    def _file_of(self, insn: Instruction, name: str) -> str:
        base, key = insn, name
        if insn.expands is not None:
            base, given = insn.expands
            key = next((k for k, value in given.items() if value == name), name)
        statics = {
            static: next((c.values[0] for c in base.pattern.constraints if c.equal and c.field == static), 0)
            for static in base.statics
        }
        if insn.expands is not None:
            statics |= {k: v for k, v in insn.expands[1].items() if isinstance(v, int) and k in statics}
        files = base.template(statics).field_files
        return files.get(key) or next(iter(self.layout.files))

    def format(self, insn: Instruction, fields: dict[str, int]) -> str:
        """The assembly text of an encoding with these field values."""
        import re

        text = re.sub(
            r"[A-Za-z_]\w*",
            lambda found: self.operand(insn, found[0], fields[found[0]]) if found[0] in fields else found[0],
            insn.syntax,
        )
        return f"{insn.name} {text}".rstrip()

    def assemble(self, text: str) -> bytes:
        """The bytes of one line of assembly, in the syntax that :meth:`format` prints. Raises ValueError."""
        mnemonic, _, rest = text.strip().partition(" ")
        insn = self.instructions.get(mnemonic)
        if insn is None:
            raise ValueError(f"{self.name} has no instruction {mnemonic!r}")
        pairs = self.operands(insn, rest)
        return self.encode(mnemonic, **{name: self.parse_operand(insn, name, value) for name, value in pairs})

    def operands(self, insn: Instruction, rest: str) -> list[tuple[str, str]]:
        """What is written for each field, in the order of the syntax. Raises ValueError."""
        import re

        names = re.findall(r"[A-Za-z_]\w*", insn.syntax)
        shape = re.escape(re.sub(r"[A-Za-z_]\w*", "\0", insn.syntax.replace(" ", "")))
        found = re.fullmatch(shape.replace(re.escape("\0"), r"([^,()]+)"), rest.replace(" ", ""))
        pairs = list(zip(names, found.groups(), strict=True)) if found else []
        # A word of the syntax that is no field stands for itself: the sp in "sp, imm".
        if not found or any(name not in insn.fields and name != word for name, word in pairs):
            raise ValueError(f"{insn.name} takes {insn.syntax!r}, not {rest!r}")
        return [(name, word) for name, word in pairs if name in insn.fields]


class _Bucket:
    """A decision tree over the literal bits that all patterns of a bucket share."""

    def __init__(self, insns: list[Instruction], used: int = 0) -> None:
        self.insns = insns
        common = ~used
        for insn in insns:
            common &= insn.pattern.mask
        self.mask = common if insns and common else 0
        self.children: dict[int, _Bucket] = {}
        if self.mask and len(insns) > 1:
            groups: dict[int, list[Instruction]] = {}
            for insn in insns:
                groups.setdefault(insn.pattern.match & self.mask, []).append(insn)
            self.children = {key: _Bucket(group, used | self.mask) for key, group in groups.items()}

    def find(self, word: int) -> Instruction | None:
        if self.children:
            child = self.children.get(word & self.mask)
            return child.find(word) if child else None
        for insn in self.insns:
            if insn.pattern.fits(word):
                return insn
        return None
