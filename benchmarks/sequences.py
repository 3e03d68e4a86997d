"""Choose the interpreter's superinstructions: measure which instructions follow one another in the guest programs.

    python benchmarks/sequences.py                        # all programs that need no fetched sources; some minutes
    python benchmarks/sequences.py --programs compute --count 1000

Each program runs in the native interpreter, some thousand instructions at a time; between these slices the tool lets it
go on one instruction at a time for a while, and looks at what is done. So every part of a program is seen as often as it
takes part in the run. All programs weigh the same. Then it takes the sequences that occur, does as the decoder does with
them (at each instruction the longest that fits), and drops those that this way save least, again and again, until ``--count``
are left. They are written to ``vm_jit/sequences.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import ROOT, build_guests, choose, workplace

sys.path[:0] = [str(path) for path in sorted((ROOT / "packages").glob("*/src"))]

from vm_core import isa as isas  # noqa: E402 - of this checkout
from vm_core import run  # noqa: E402
from vm_core.engine import Budget, Exit, Trap  # noqa: E402
from vm_core.memory import PAGE, GuestMemory  # noqa: E402
from vm_core.spec.isa import Isa  # noqa: E402
from vm_core.state import CpuState  # noqa: E402
from vm_jit import superinstructions as supers  # noqa: E402
from vm_jit.engine import InterpreterEngine  # noqa: E402
from vm_jit.records import LONGEST, handler_key  # noqa: E402

FEWEST = 5000
"""Instructions that must have been seen of a program for it to have a say."""
TARGET = ROOT / "packages" / "vm-jit" / "src" / "vm_jit" / "sequences.py"
HEAD = '''\
"""The sequences that superinstructions are made for (:mod:`vm_jit.superinstructions` has the notation), the most frequent
first. Written by ``benchmarks/sequences.py``."""

from __future__ import annotations

from typing import Final

SEQUENCES: Final[dict[str, str]] = {
'''
Look = tuple[str, list[int], int | None, bool, int]
"""Of an instruction: its handler's key, its slots' offsets, what it writes, whether it jumps nearby, its guest page."""


class Sampler(InterpreterEngine):
    """The interpreter, stopping now and then to look. ``snippets`` are the addresses of instructions that were done in turn."""

    def __init__(self, isa: Isa, memory: GuestMemory, mean: int, steps: int) -> None:
        super().__init__(isa, memory)
        self.mean, self.steps = mean, steps
        self.random = random.Random(1)
        self.snippets: list[list[Look | None]] = []
        self.known: dict[int, Look | None] = {}

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        while limit > 0:
            now = min(limit, self.random.randrange(1, 2 * self.mean))
            result = super().run(cpu, memory, now, call)
            limit -= now
            if not isinstance(result, Budget):
                return result
            snippet: list[Look | None] = []
            self.snippets.append(snippet)
            for _ in range(min(self.steps, limit)):
                snippet.append(self.look(cpu.pc, memory))
                result = super().run(cpu, memory, 1, call)
                limit -= 1
                if not isinstance(result, Budget):
                    return result
        return Budget()

    def look(self, pc: int, memory: GuestMemory) -> Look | None:
        if pc not in self.known:
            self.known[pc] = self.look_anew(pc, memory)
        return self.known[pc]

    def look_anew(self, pc: int, memory: GuestMemory) -> Look | None:
        assert self._image is not None
        insn = self._image.decode(pc, memory)
        if isinstance(insn, Trap):
            return None
        key = handler_key(insn, returns=self.isa.flow(insn) == "ret")
        how = self.interpreter.plans.get(key)
        if how is None:
            key = handler_key(insn, returns=False)
            how = self.interpreter.plans.get(key)
        kind = None if how is None else supers.kind(self.isa, insn.template, how)
        if how is None or kind is None:
            return None
        layout, offsets = self.isa.layout, []
        for role, file, name, _ in how.slots:
            slot = insn.fields[name]
            offsets.append(layout.offset(file, layout.files[file].write_slot(slot) if role == "w" else slot))
        near = kind.direct and (pc + insn.fields[how.immediates[0][0]]) // PAGE == pc // PAGE
        written = None if kind.written is None else offsets[kind.written]
        return key, offsets, -1 if kind.ends else written, near, pc // PAGE


def straight(snippets: Sequence[Sequence[Look | None]]) -> list[list[Look]]:
    """The stretches without a jump, from where something jumps to."""
    out: list[list[Look]] = []
    for snippet in snippets:
        now: list[Look] | None = None
        for look in snippet:
            if look is None:
                now = None
                continue
            if now is None or (now and now[-1][4] != look[4]):
                now = []
                out.append(now)
            now.append(look)
            if look[2] == -1:
                now = None
    return out


def steps(stretch: Sequence[Look], at: int, length: int, special: frozenset[int]) -> supers.Steps:
    """The sequence of ``length`` instructions at a place, related as closely as can be."""
    out = []
    for i in range(at, at + length):
        before = [stretch[j][2] for j in range(i - 1, at - 1, -1)]
        out.append((stretch[i][0], supers.relation(stretch[i][1], before, special, near=stretch[i][3])))
    return tuple(out)


def worth(sequence: supers.Steps) -> float:
    """What a sequence saves, in dispatches: one each but the first; half as much a value that need not go through memory,
    and a jump's target that is known."""
    related = sum(relation.count(one) for _, relation in sequence for one in "1234567") * 0.4
    near = sum(relation.endswith("n") for _, relation in sequence) * 0.5
    zero = sum(relation.count("z") for _, relation in sequence) * 0.2
    return len(sequence) - 1 + related + near + zero


def choose_sequences(
    weighted: Sequence[tuple[float, list[supers.Steps]]],
    count: int,
) -> tuple[list[supers.Steps], float, float]:
    """``weighted`` are stretches as the longest sequences at each of their places, with what one counts."""
    candidates: Counter[supers.Steps] = Counter()
    for weight, places in weighted:
        for longest in places:
            for length in range(1, len(longest) + 1):
                candidates[longest[:length]] += weight  # type: ignore[assignment]
    chosen = {one: worth(one) * share for one, share in candidates.items() if worth(one) > 0 and share > 2e-6}
    covered = 0.0
    while True:
        used: Counter[supers.Steps] = Counter()
        covered = total = dispatches = 0.0
        for weight, places in weighted:
            at = 0
            while at < len(places):
                longest = places[at]
                length = next((n for n in range(len(longest), 0, -1) if longest[:n] in chosen), 0)
                if length:
                    used[longest[:length]] += weight  # type: ignore[assignment]
                    covered += weight * length
                else:
                    length = 1
                total += weight * length
                dispatches += weight
                at += length
        chosen = {one: worth(one) * share for one, share in used.items()}
        if len(chosen) <= count:
            most = sorted(chosen, key=lambda one: (-chosen[one], one))
            return most, covered / total, total / dispatches
        keep = max(count, len(chosen) * 4 // 5)
        chosen = dict(sorted(chosen.items(), key=lambda item: -item[1])[:keep])


def sample(program: str, size: str, variant: str, mean: int, burst: int) -> list[list[Look]]:
    made: list[Sampler] = []

    def engine(isa: Isa, memory: GuestMemory) -> Any:
        made.append(Sampler(isa, memory, mean, burst))
        return made[-1]

    guest = str(build_guests.build(program, variant))
    with workplace(program) as place:
        run(
            [guest, *build_guests.PROGRAMS[program].args[size]], engine=engine, capture_output=True, cwd=place
        )
    return straight([snippet for one in made for snippet in one.snippets])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure and choose the interpreter's superinstructions.")
    parser.add_argument(
        "--programs",
        help="names and groups, with commas (default: all but those that show how well others do)",
    )
    parser.add_argument("--size", default="quick")
    parser.add_argument("--variant", default="O2")
    parser.add_argument("--count", type=int, default=1600, help="sequences to choose")
    parser.add_argument("--mean", type=int, default=40_000, help="instructions between two looks")
    parser.add_argument("--burst", type=int, default=60, help="instructions that are looked at")
    parser.add_argument("--keep", type=Path, help="a file for what was measured; read if it is there")
    options = parser.parse_args()
    isa = isas.get("riscv64")
    special = supers.zero_offsets(isa)
    if options.keep and options.keep.exists():
        found = json.loads(options.keep.read_text())
    else:
        found = {}
        for program in choose(options.programs):
            known = build_guests.PROGRAMS[program]
            if known.package and "compute" not in known.groups and not options.programs:
                continue
            found[program] = sample(program, options.size, options.variant, options.mean, options.burst)
            print(f"{program}: {sum(map(len, found[program]))} instructions", file=sys.stderr)
        if options.keep:
            options.keep.write_text(json.dumps(found))
    weighted = []
    found = {program: stretches for program, stretches in found.items() if sum(map(len, stretches)) >= FEWEST}
    for stretches in found.values():
        total = sum(map(len, stretches))
        for stretch, times in Counter(json.dumps(stretch) for stretch in stretches).items():
            looks = json.loads(stretch)
            places = [steps(looks, at, min(LONGEST, len(looks) - at), special) for at in range(len(looks))]
            weighted.append((times / total / len(found), places))
    chosen, covered, mean = choose_sequences(weighted, options.count)
    lines = [" ".join(f"{key} {relation}" for key, relation in one) for one in chosen]
    text = HEAD + f'    "{isa.name}": """\\\n' + "".join(line + "\n" for line in lines) + '""",\n}\n'
    TARGET.write_text(text)
    print(
        f"{len(chosen)} sequences, which do {100 * covered:.1f} % of the instructions, {mean:.2f} a dispatch"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
