"""Which code is compiled, and when; which of it is in use, and when its memory comes back.

The interpreter reports hot addresses. A background thread compiles their regions and enters them in the tables with
single stores. Regions go when guest code changes; their memory is freed once every vCPU that was inside native code
then has come out (its ``run`` has returned to Python since).
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from vm_core.engine import Trap
from vm_core.errors import CacheError, VmError
from vm_core.hints import TYPE_CHECKING, Any, Final
from vm_core.log import Log
from vm_core.memory import MAX_BITS, PAGE
from vm_core.record import record, replace
from vm_core.spec.isa import Decoded
from vm_jit.cache import same_user, warn
from vm_jit.code_memory import CodeBlock, CodeMemory, Image, link
from vm_jit.compiler import CompileError, Compiler
from vm_jit.digest import blake2b
from vm_jit.lines import places_of
from vm_jit.program import Saved

if TYPE_CHECKING:
    from vm_jit.engine import CodeImage
    from vm_jit.region import Region

__all__ = ["Tiering", "compilers_held", "leave_compilers"]

log = Log("vm.jit")
_MAX_FAILURES: Final = 20
PAGES: Final = 1 << MAX_BITS >> 12
_PATIENCE_SECONDS: Final = 1.5
_GRACE_SECONDS: Final = 0.3
_SHORT_SECONDS: Final = 0.15
"""A run that has used less processor time is not worth a compiler process, which takes a third of that before it compiles anything;"""
_SHORT_AND_WARM: Final = 0.5
"""nor is one that has used less, if most of it came from the cache."""
_MAX_GROWTH: Final = 6
_SHARE: Final = 0.5
"""LLVM's time, over the first second of the run: no program pays much more for it than it can gain."""
_MORE: Final = 0.25
"""The same for the time behind that; and for what waits when a program has ended for the first time, over the whole run."""
_FIRST: Final = 0.3
"""What LLVM may take at first, in seconds,"""
_ALWAYS: Final = 0.1
"""this part of the run's time, and"""
_REINVESTED: Final = 0.4
"""this part of the time that its code has saved."""
_DEBT: Final = 0.4
"""So many seconds more for one region."""
_LEAST_PRICE: Final = 4e-4
"""What an instruction costs, in seconds."""
_SMALL: Final = 150
"""What is done once costs as much as so many instructions."""
_WINDOW: Final = 0.03
"""The least seconds in which speed is measured."""
_CAUTION: Final = 0.85
"""The baseline tier is faster than it is at first, when its units are being made."""
_FEW: Final = 0.2
"""Up to this part of the instructions in regions, it is the baseline tier's speed."""
_REPORTS: Final = 4
"""Turns of a place's heat, each of 65,536 jumps, before LLVM is asked: about as much time as it will take."""
_PATIENCE: Final = 4
"""So many of them are one report."""
_NO_HURRY: Final = 128
"""The same where nobody wants to know."""
_LATER: Final = 8
"""So many times that, if an earlier run has compiled what it found worth it: later runs then compile nothing, or what pays at once."""
_MOST_DOUBLINGS: Final = 8
"""Each region of a page that a change has ended doubles the reports that the next one there needs, so many times at most."""
_GROWTH_INSTRUCTIONS: Final = 4
"""A region of so many instructions grows after so many more reports of where it is left for."""
_MOST_WAITING: Final = 4096
"""Regions of the cache that may wait for code that is not mapped yet."""
_NEAR: Final = 2048
_WARM: Final = 32
_MAX_PLACES: Final = 96
"""Jumps to computed addresses: places so many bytes around them that were jumped to so often become part of the region."""
_FAR: Final = 16 << 10
"""A jump to a computed address that goes less far is one of a switch, or of an interpreter's operation to the next; else a tail call."""
_SAMPLES: Final = 400
"""How often it is looked where jumps to computed addresses go."""
_GAP: Final = 1024
"""Code that has not run, up to so many bytes, between two parts of a region belongs to its function."""
_FULL: Final = 1000
"""Instructions beyond which a region does not grow."""

_pool_lock = threading.Lock()
_pool: list[Compiler] = []
"""Compiler processes that wait for work. Many guests do not need more of them than there are CPUs."""
_pool_users: set[Tiering] = set()
"""Who is not closed. The last one closes the processes."""
_turns = threading.BoundedSemaphore(os.cpu_count() or 1)


@contextmanager
def compilers_held() -> Iterator[None]:
    """While the host process forks: nobody takes or returns a compiler process."""
    with _pool_lock:
        yield


def leave_compilers(mine: Tiering | None) -> None:
    """In the child of a fork, inside :func:`compilers_held`: the compiler processes are the parent's, and so is all but ``mine``."""
    global _turns
    _turns = threading.BoundedSemaphore(os.cpu_count() or 1)
    for compiler in (*_pool, *(user._compiler for user in _pool_users)):
        if compiler is not None:
            compiler.forked()
    _pool.clear()
    _pool_users.intersection_update({mine})
    if mine is not None:
        mine.forked()


@record(eq=False)
class _Compiled:
    """A region in use (see :class:`vm_jit.region.Region`), and how often it has grown."""

    roots: tuple[int, ...]
    entries: tuple[int, ...]
    exits: frozenset[int]
    spans: tuple[tuple[int, int], ...]
    own: tuple[tuple[int, int], ...]
    block: CodeBlock
    address: int
    digest: bytes
    image: Image
    instructions: int
    grown: int = 0

    def records(self, image: CodeImage) -> list[int]:
        found = (image.record(pc) for pc in (*self.roots, *self.entries))
        return [at for at in found if at is not None]


def _pages_of(spans: tuple[tuple[int, int], ...]) -> set[int]:
    """The numbers of the guest pages that spans lie on."""
    return {number for start, end in spans for number in range(start >> 12, (end - 1 >> 12) + 1)}


def _joined(ranges: Iterable[range]) -> list[range]:
    """Ranges, those that overlap as one."""
    out: list[range] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if out and one.start < out[-1].stop:
            out[-1] = range(out[-1].start, max(out[-1].stop, one.stop))
        else:
            out.append(one)
    return out


class Account:
    """What LLVM costs and what its code gains, in seconds of processor time; what it may cost depends on both.

    The gain is what the guest's thread would have needed in the baseline tier for what it does. Where several vCPUs report, the
    one that reported first is measured."""

    __slots__ = ("_base", "_last", "_since", "_thread", "_vcpu", "compiled", "saved", "spent", "thrifty")

    def __init__(
        self, spent: float = 0.0, saved: float = 0.0, compiled: float = 0.0, base: float = 0.0
    ) -> None:
        self.spent, self.saved = spent, saved
        self.compiled = compiled  # instructions
        self.thrifty = False
        self._base = base  # of an instruction in the baseline tier; 0 until that is known
        self.rest()

    def rest(self) -> None:
        """What is measured next is not what was measured last."""
        self._vcpu = self._thread = 0
        self._since = 0.0
        self._last = (0.0, 0, 0)  # processor time, instructions, and how many of them in regions

    def balance(self) -> tuple[float, float, float, float]:
        """What the next run's account begins with."""
        return self.spent, self.saved, self.compiled, self._base

    def note(self, vcpu: int, retired: int, optimised: int) -> None:
        """A vCPU, which runs in this thread, has done so many instructions in all, and in regions."""
        thread = threading.get_ident()
        now, last = (time.thread_time(), retired, optimised), self._last
        if self._vcpu == 0 or (self._vcpu == vcpu and self._thread != thread):
            if self._vcpu == 0:
                self._since = now[0]
            else:
                self._since += now[0] - self._last[0]
            self._vcpu, self._thread, self._last = vcpu, thread, now
            return
        if self._vcpu != vcpu:
            return
        seconds, instructions, fast = (one - other for one, other in zip(now, last, strict=True))
        if seconds < _WINDOW:
            return
        self._last = now
        if fast < _FEW * instructions:
            # The fastest of these: what is slower is still being compiled, or decoded.
            one = seconds / max(instructions, 1)
            self._base = min(self._base or one, one)
        else:
            # What takes longer than that is another part of the program, not slower code.
            self.saved += max(_CAUTION * instructions * self._base - seconds, 0.0)

    @property
    def earned(self) -> float:
        """What LLVM may have because of this run's time."""
        return _ALWAYS * (self._last[0] - self._since)

    def price(self, instructions: int) -> float:
        """What a region of so many instructions may cost."""
        return instructions * max(self.spent / (self.compiled + _SMALL), _LEAST_PRICE)

    def affords(self, price: float) -> bool:
        """Whether LLVM may have that as well. It may go into debt with one region, unless the account is thrifty."""
        balance = _FIRST + self.earned + _REINVESTED * self.saved - self.spent
        return balance >= 0 and balance + (0 if self.thrifty else _DEBT) >= price


class Tiering:
    """The JIT of one code image, its ``engine``. ``synchronous`` compiles in the requesting thread (for tests); without ``optimising`` there
    are no regions, and this only knows which retired code is in use."""

    def __init__(
        self, engine: CodeImage, code: CodeMemory, *, synchronous: bool = False, optimising: bool = True
    ) -> None:
        self.engine, self.code, self.synchronous, self.optimising = engine, code, synchronous, optimising
        self._tables: dict[int, Any] = {}  # guest page -> its entries (function, original handler)
        self._table_of = (
            memoryview((ctypes.c_uint64 * PAGES).from_address(engine.regions_address)).cast("B").cast("Q")
        )
        self._at: dict[int, _Compiled] = {}
        self._all: list[_Compiled] = []
        self._waiting: dict[int, list[Saved]] = {}  # by the guest page of the first root
        self._waits = 0
        self._pending: dict[int, int] = {}  # hot addresses that wait, and how often each was reported
        self._work_to_do = threading.Condition(engine.lock)
        self._thread: threading.Thread | None = None
        self._generation = 0
        # By guest page: regions from there that a change of the code has ended.
        self._lost: dict[int, int] = {}
        self.retired: list[tuple[set[int], CodeBlock]] = []
        self.running = engine.running
        self._decodings: dict[int, Decoded] = {}  # PERF: of what has run, for one region
        self._failures = 0
        self._latencies: list[float] = []  # seconds from the decision to compile a region to its use
        self.unsaved = 0
        self._begin, self._used = time.perf_counter(), time.process_time()
        self.account = Account()
        self._spent_before = 0.0  # by runs that came to their end
        self._prices: dict[int, float] = {}  # of what was too dear when its turn came
        self._closed = False
        self._hurry = False
        self._warm = False  # an earlier run left regions in the cache, and all that it found worth it
        self._unfinished = False
        """Whether an earlier run ended before all was compiled that it found worth it: this one goes on as if it were the same."""
        self.settled = False
        """Whether this run, or an earlier one, got so far."""
        self._compiler: Compiler | None = None  # the one that works for us now
        self._be_patient()
        with _pool_lock:
            _pool_users.add(self)

    # -- life ---------------------------------------------------------------------------------------------------

    def _be_patient(self) -> None:
        """Have places reported as often as they may be worth something."""
        if self.engine.options.baseline and not self.synchronous:
            turns = _PATIENCE * (_LATER if self._warm else 1)
            self.engine.be_patient(turns if self.optimising else _NO_HURRY)

    def restore(self, saved: list[Saved], *balance: float) -> None:
        """Called before the guest's first instruction: put in use what earlier runs compiled. What is of code that is not there
        yet, in shared objects that the guest will map, waits for :meth:`arrive`. ``balance`` is that of an earlier run."""
        if not self.optimising:
            return
        *account, elapsed = balance
        self.account = Account(*account)
        self._unfinished = elapsed > 0
        self._begin -= elapsed
        self._used -= elapsed
        if not self._unfinished:
            self._spent_before = self.account.spent
            self.account.thrifty = True
        for one in saved:
            if all(self.engine.is_code(start, end) for start, end in one.spans):
                self._put_in_use(one)
            elif self._waits < _MOST_WAITING:
                self._waiting.setdefault(one.roots[0] >> 12, []).append(one)
                self._waits += 1

    def balance(self) -> tuple[float, ...]:
        """What the next run begins with: the account's balance, and the seconds of the runs that it goes on with, 0 if there is nothing to go on
        with."""
        spent, saved, *others = self.account.balance()
        elapsed = 0.0 if self.settled else time.perf_counter() - self._begin
        return spent, saved + self.account.earned / _REINVESTED, *others, elapsed

    @property
    def wants(self) -> bool:
        """Whether something waits that LLVM may not have, or not yet: the next run gets nearer to it."""
        return (self._warm or self._unfinished) and bool(self._pending)

    def arrive(self, number: int) -> None:
        """The guest runs code on a page for the first time: put in use what earlier runs compiled of it."""
        todo = {number}
        while todo:
            waited = self._waiting.pop(todo.pop(), [])
            self._waits -= len(waited)
            for one in waited:
                if all(self.engine.is_code(start, end) for start, end in one.spans):
                    self._put_in_use(one)
                    # These pages have records now: nobody will say that the guest comes there.
                    todo |= _pages_of(one.spans) & self._waiting.keys()

    def waits(self, number: int) -> bool:
        """Whether anything waits for code on a page."""
        return number in self._waiting

    def _put_in_use(self, one: Saved) -> None:
        try:
            if self._digest(one.spans) != one.digest:
                return
            for start, end in one.spans:
                # What has run before may become part of a larger region.
                self.engine.decode_range(start, end)
            if self._install(
                one.roots,
                one.entries,
                frozenset(one.exits),
                one.spans,
                one.own,
                one.image,
                one.instructions,
            ):
                self.engine.stats.regions_cached += 1
                if not self._warm and not self._unfinished:
                    self._warm = self.settled = True
                    self._be_patient()
        except (CacheError, KeyError) as error:
            warn("a cached region is not used", error)

    def saved(self) -> list[Saved]:
        """The regions in use, to be kept for the next run."""
        with self.engine.lock:
            self.unsaved = 0
            # What this run had no use for, another one may have.
            others = [one for waiting in self._waiting.values() for one in waiting]
            return others + [
                Saved(
                    one.roots,
                    one.entries,
                    tuple(sorted(one.exits)),
                    one.spans,
                    one.own,
                    one.instructions,
                    one.digest,
                    one.image,
                )
                for one in self._all
            ]

    def copy(self, other: Tiering, changed: list[tuple[int, int]]) -> None:
        """Take over the regions of another image, whose lock is held and whose records ours have copies of, but not
        those made from guest bytes in the ranges ``changed``."""
        self._warm, self._unfinished, self.settled = other._warm, other._unfinished, other.settled
        self._be_patient()
        self.account = Account(*other.account.balance())
        self.account.thrifty, self._spent_before = other.account.thrifty, other._spent_before
        self._waiting, self._waits = (
            {number: list(ones) for number, ones in other._waiting.items()},
            other._waits,
        )
        kept: dict[_Compiled, _Compiled] = {}
        for one in other._all:
            if not any(a < end and start < b for a, b in one.spans for start, end in changed):
                kept[one] = replace(one)
                self.code.retain(one.block)
                self._all.append(kept[one])
                self.engine.made(kept[one], self._drop)
        for number, table in other._tables.items():
            # SAFETY: both tables have one size.
            ctypes.memmove(self._table(number), table, ctypes.sizeof(table))
        nowhere = self.engine.interpreter.address["nowhere"]
        for pc, owner in other._at.items():
            if owner in kept:
                self._at[pc] = kept[owner]
                continue
            if self.engine.is_decoded(pc):
                self.engine.set_handler(pc, self.original(pc))
            self._table(pc >> 12)[2 * ((pc & PAGE - 1) // self.engine.isa.unit)] = nowhere

    def close(self) -> None:
        with self.engine.lock:
            self._closed = True
        thread = self._thread
        if thread is None:
            self.settled = self.settled or not self._unfinished
        else:
            # The first run of a program takes a moment to finish what waits, so that the second finds it in the cache.
            # Later runs finish only what they are at: each then adds to the cache, so this comes to an end.
            self._hurry = self._warm or self.engine.cache is None
            with self._work_to_do:
                self._work_to_do.notify()
            thread.join(min(_PATIENCE_SECONDS, _MORE * (time.perf_counter() - self._begin)))
            self.settled = self.settled or not thread.is_alive()
            self._hurry = True
            thread.join(_GRACE_SECONDS)  # what is begun would be begun again by the next run
        with _pool_lock:
            _pool_users.discard(self)
            doomed = [self._compiler] if self._compiler is not None else []
            if not _pool_users:
                doomed += _pool
                _pool.clear()
        for compiler in doomed:
            compiler.close()
        if thread is not None:
            thread.join()

    def forked(self) -> None:
        """In the child of a fork: the thread that has code compiled is gone, and no vCPU is in native code."""
        self._work_to_do = threading.Condition(self.engine.lock)
        self._thread = None
        self._compiler = None
        self._begin, self._used = time.perf_counter(), time.process_time()
        self.account.rest()
        # Freed when the vCPU next says that it is in none: here the code memory is held.
        self.retired = [(set(), block) for _, block in self.retired]

    def release(self) -> None:
        """After close(): give the code memory back."""
        with self.engine.lock:
            self._table_of.release()
            for one in self._all:
                self.code.free(one.block)
            for _, block in self.retired:
                self.code.free(block)
            self._all.clear()
            self.retired.clear()
            self._at.clear()

    def regions(self) -> tuple[tuple[int, ...], ...]:
        """The hot addresses of each region in use."""
        with self.engine.lock:
            return tuple(one.roots for one in self._all)

    # -- requests -----------------------------------------------------------------------------------------------

    def request(self, pc: int, times: int = 1) -> None:
        """The guest address ``pc`` is hot, or still hot: make a region for it, or let the one that it belongs to
        grow. Native code reports a place at first after HOT jumps, then after each ``times`` 65,536."""
        with self._work_to_do:
            if not self.optimising or pc in self._at or self._closed or self._failures >= _MAX_FAILURES:
                return
            self._pending[pc] = self._pending.get(pc, 0) + times
            if not self.synchronous:
                # PERF: reports are frequent, so only what this one changes is looked at. Another address that waits for its
                # turn is reported again as well.
                if self._spent() or self._worth(pc) is None:
                    return
                if time.process_time() - self._used < (_SHORT_AND_WARM if self._warm else _SHORT_SECONDS):
                    return
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="vm-jit", daemon=True)
                    self._thread.start()
                self._work_to_do.notify()
                return
        self._work_on(pc)

    def _next(self) -> int | None:
        """The waiting address that is worth most: one that has no region yet, else one whose region costs more to leave
        than to compile again. LLVM takes a while, so both must have been reported often, where the baseline tier's code does
        meanwhile."""
        if self._spent():
            return None
        worth = {pc: value for pc in self._pending if (value := self._worth(pc)) is not None}
        return max(worth, key=worth.__getitem__, default=None)

    def _spent(self) -> bool:
        """Whether LLVM has had its share of the time. What waits at the end has a limit of its own (:meth:`close`)."""
        if self.engine.baseline is None or self.synchronous:
            return False
        elapsed = time.perf_counter() - self._begin
        most = _SHARE * min(elapsed, 1) + _MORE * max(elapsed - 1, 0)
        spent = self.account.spent - self._spent_before
        return not self.account.affords(0) or (spent > most and not self._closed)

    def _worth(self, pc: int) -> tuple[bool, int] | None:
        """How much it is worth to compile a waiting address now, to be compared with others; None if it should wait."""
        count = self._pending[pc]
        # Where the code keeps changing, what LLVM makes of it does not live long.
        least = _REPORTS * (_LATER if self._warm else 1) << min(self._lost.get(pc >> 12, 0), _MOST_DOUBLINGS)
        if count < (least if self.engine.baseline is not None else 1):
            return None
        owner = self._owner(pc)
        if owner is not None and count < max(least, owner.instructions // _GROWTH_INSTRUCTIONS):
            return None
        if not self.account.affords(max(self._prices.get(at, 0.0) for at in self._priced(pc, owner))):
            return None
        return owner is None, count

    @staticmethod
    def _priced(pc: int, owner: _Compiled | None) -> tuple[int, ...]:
        """The places whose price is that of a region for ``pc``."""
        return (pc,) if owner is None else (pc, owner.roots[0])

    def _owner(self, pc: int) -> _Compiled | None:
        """The region that should grow to hold ``pc``, or to be entered there: one that leaves for it, has it, or lies around it."""
        for one in self._all:
            inside = any(start <= pc < end for start, end in one.own) or any(
                before[1] <= pc < after[0] < before[1] + _GAP
                for before, after in zip(one.own, one.own[1:], strict=False)
            )
            if (pc in one.exits or inside) and one.grown < _MAX_GROWTH and one.instructions < _FULL:
                return one
        return None

    def _work(self) -> None:
        self._start_compiler()
        while not self._hurry:
            with self._work_to_do:
                while (pc := self._next()) is None and not self._closed and not self.unsaved:
                    self._work_to_do.wait()
            if pc is not None:
                self._work_on(pc)
            elif self._closed:
                return
            else:
                if self.engine.program is not None:
                    self.engine.program.save()
                self.unsaved = 0

    def _work_on(self, pc: int) -> None:
        try:
            self._compile(pc)
        except CompileError as error:
            if not self._closed:
                self._failures += 1
                if same_user():  # another one need not be able to start a compiler
                    log.warning("code at %#x stays interpreted: %s", pc, error)
        except VmError as error:
            self._failures += 1
            log.warning("code at %#x stays interpreted: %s", pc, error)
        except Exception:
            # A fault of ours must not stop the guest: the code stays interpreted, and the log says why.
            self._failures += 1
            log.exception("code at %#x stays interpreted", pc)
        finally:
            # Guest threads that report go through it meanwhile.
            with self.engine.lock:
                self._pending.pop(pc, None)

    def _jumped_to(self, region: Region) -> list[int]:
        """Where the region's jumps to computed addresses go, the most frequent first: what is seen of it while the guest runs on;
        and, as other cases of a switch that have run may run again, the places near those that nothing else leads to."""
        ends = [block.insns[-1][0] for block in region.blocks.values() if block.kind == "indirect"]
        if not ends:
            return []
        engine = self.engine
        seen: dict[int, int] = {}
        if self.synchronous:
            # Tests do not depend on time.
            parts = [range(max(min(ends) - _NEAR, 0), max(ends) + _NEAR)]
        else:
            # Of each jump by itself: one to another library does not put all that lies between into the switch.
            inner: dict[int, set[int]] = {}
            for _ in range(_SAMPLES):
                for pc in ends:
                    target = engine.last_target(pc)
                    if target is not None:
                        seen[target] = seen.get(target, 0) + 1
                        if abs(target - pc) < _FAR:
                            inner.setdefault(pc, {pc}).add(target)
            parts = _joined(range(min(places), max(places) + 1) for places in inner.values())
            if inner:
                # The guest may not have run while it was looked at. What its jumps have counted shows all the same.
                whole = range(min(start for start, _ in region.own), max(end for _, end in region.own))
                parts = _joined([*parts, whole])
        for near in parts:
            for pc in self._unexplained(near) | self._counted(near):
                if pc not in region.blocks and self._is_warm(pc):
                    seen.setdefault(pc, 0)
        return sorted(seen, key=lambda pc: (-seen[pc], -self._jumps_to(pc), pc))[:_MAX_PLACES]

    def _unexplained(self, near: range) -> set[int]:
        """The places in a range that have run, but neither behind an instruction that has, nor as the target of a jump, nor behind a call."""
        from vm_jit.region import static_value

        found = self.engine.executed(near)
        places = set(found)
        for pc, insn in found.items():
            jumps = insn.template.jumps
            places.difference_update(static_value(insn.template, op.args[0], insn, pc) or 0 for op in jumps)
            if not jumps or jumps[-1].guard is not None or self.engine.isa.flow(insn) == "call":
                places.discard(pc + insn.length)
        return places

    def _counted(self, near: range) -> set[int]:
        """The places in a range to which jumps were counted."""
        return {*self.engine.warm(near, _WARM), *(pc for pc in self._pending if pc in near)}

    def _jumps_to(self, pc: int) -> int:
        """About how many jumps have gone to a place."""
        return self._pending.get(pc, 0) << 16 | self.engine.heat(pc)

    def _is_warm(self, pc: int) -> bool:
        # A place is reported when its count, of 16 bits, begins at 0 again; in later runs it is compiled from the beginning.
        owner = self._at.get(pc)
        if pc in self._pending or (owner is not None and pc in owner.roots):
            return True
        return self.engine.heat(pc) >= _WARM

    def _is_frequent(self, back: int, to: int) -> bool:
        """Whether the function at ``to`` is often called, and returns to ``back``. Only the baseline tier counts returns; where there
        is compiled code already, nobody counts, but it shows what was found when it was made."""

        def has(spans: tuple[tuple[int, int], ...], pc: int) -> bool:
            return any(start <= pc < end for start, end in spans)

        if any(has(one.own, back) and has(one.spans, to) for one in self._all):
            return True
        return self._is_warm(to) and (self.engine.baseline is None or self._is_warm(back))

    def _executed(self, pc: int) -> Decoded | None:
        engine = self.engine
        found = self._decodings.get(pc)
        if found is None:
            if not engine.is_decoded(pc) or pc in engine.breakpoints:
                return None
            fresh = engine.decode(pc)
            if isinstance(fresh, Trap):
                return None
            found = self._decodings[pc] = fresh
        return found

    def _region_around(self, pc: int) -> tuple[Region | None, list[_Compiled]]:
        """What to compile for a hot address, and the regions in use that this replaces. Called with the engine's lock held."""
        from vm_jit.region import REACH, discover, surroundings

        engine = self.engine
        code = engine.executed(range(max(pc - REACH, 0), pc + REACH))
        self._decodings = dict(code)
        hot = [other for other, count in self._pending.items() if count >= _REPORTS]
        roots, members, only = surroundings(engine.isa, pc, code, self._is_warm, hot)

        def decode(at: int) -> Decoded | None:
            return self._executed(at) if at in members or not only else None

        places: tuple[int, ...] = ()
        region, old = None, []
        for _ in range(_MAX_GROWTH):
            region = discover(
                engine.isa,
                roots,
                decode,
                places=places,
                guess=engine.last_target,
                frequent=self._is_frequent,
                weigh=self._jumps_to,
                elsewhere=self._executed,
            )
            if region is None:
                break
            # One that has some of this code grows.
            old = [
                one
                for one in self._all
                if one.grown < _MAX_GROWTH and any(at in region.blocks for at in one.roots)
            ]
            known = dict.fromkeys(at for one in old for at in one.roots)
            if any(set(roots) <= set(one.roots) and pc not in one.exits for one in old):
                known[pc] = None  # it is still run elsewhere, so let it be entered here as well
            more = [at for at in self._jumped_to(region) if at not in places]
            if known.keys() <= set(roots) and not more:
                break
            # Places are entered from outside as well, and so kept when the region grows.
            roots, places = tuple(dict.fromkeys((*known, *roots, *more))), (*places, *more)
            only = only and not more
        return region, old

    def _compile(self, pc: int) -> None:
        engine = self.engine
        from vm_jit.region import emit

        begin, cost = time.perf_counter(), time.thread_time()
        with engine.lock:
            if pc in self._at:
                return
            generation = self._generation
            region, old = self._region_around(pc)
            if region is None:
                return
            price = self.account.price(region.size)
            if engine.options.baseline and not self.synchronous and not self.account.affords(price):
                self._prices.update(dict.fromkeys(self._priced(pc, self._owner(pc)), price))
                self.account.spent += time.thread_time() - cost
                return
            digest = self._digest(region.spans)
        image = self._image(emit(engine.isa, region, isolated=engine.options.isolated))
        with engine.lock, engine.held():
            self._latencies.append(time.perf_counter() - begin)
            engine.stats.compile_seconds += self._latencies[-1]
            self.account.spent += time.thread_time() - cost
            self.account.compiled += region.size
            self._say_latencies()
            engine.follow(_pages_of(region.spans))
            if generation != self._generation and self._digest(region.spans) != digest:
                return
            if not self._install(
                region.roots,
                region.entries,
                region.exits,
                region.spans,
                region.own,
                image,
                region.size,
            ):
                return
            for one in old:
                if one in self._all and set(one.roots) <= set(region.roots):
                    self._all[-1].grown = max(self._all[-1].grown, one.grown + 1)
                    self._drop(one)
            engine.stats.regions_compiled += 1
            self.unsaved += 1
            for other in [other for other in self._pending if other != pc]:
                # It may have waited for what is there now. If not, it will be reported again.
                if any(start <= other < end for start, end in region.own):
                    del self._pending[other]

    def _say_latencies(self) -> None:
        """How long regions took, in seconds: the median, the 99th percentile and the longest."""
        ordered, extra = sorted(self._latencies), self.engine.stats.extra
        for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            extra[f"compile_{name}_seconds"] = ordered[max(-int(-part * len(ordered) // 1), 1) - 1]

    def _start_compiler(self) -> None:
        """PERF: a compiler process gets ready while its first text is being written."""
        if _turns.acquire(blocking=False):
            with _pool_lock:
                if self in _pool_users and not _pool:
                    compiler = Compiler()
                    compiler.start()
                    _pool.append(compiler)
            _turns.release()

    def _image(self, text: str) -> Image:
        if not self.engine.options.lines:
            return link(self._compile_text(text))
        from vm_jit import lines

        data = self._compile_text(lines.annotate(text))
        return lines.attach(link(data), data)

    def _compile_text(self, text: str) -> bytes:
        """Have a module compiled, by one of the processes that all images share."""
        while not _turns.acquire(timeout=0.1):
            if self._closed and self._hurry:
                raise CompileError("the compiler was closed")
        try:
            with _pool_lock:
                if self not in _pool_users:
                    raise CompileError("the compiler was closed")
                compiler = self._compiler = _pool.pop() if _pool else Compiler()
            before = compiler.seconds
            try:
                return compiler.compile(text, passes="region")
            finally:
                self.account.spent += compiler.seconds - before
                with _pool_lock:
                    self._compiler = None
                    if self in _pool_users:
                        _pool.append(compiler)
        finally:
            _turns.release()

    # -- tables -------------------------------------------------------------------------------------------------

    def _digest(self, spans: tuple[tuple[int, int], ...]) -> bytes:
        digest = blake2b(digest_size=16)
        for start, end in spans:
            digest.update(struct.pack("<QQ", start, end))
            digest.update(self.engine.text(start, end))
        return digest.digest()

    def _table(self, number: int) -> Any:
        table = self._tables.get(number)
        if table is None:
            engine = self.engine
            nowhere = engine.interpreter.address["nowhere"]
            # PERF: from bytes; an array of Python's numbers takes half a millisecond.
            empty = bytearray(struct.pack("<QQ", nowhere, 0) * engine.per_page)
            table = self._tables[number] = (ctypes.c_uint64 * (engine.per_page * 2)).from_buffer(empty)
            # SAFETY: the table lives as long as this object; the store publishes it whole.
            self._table_of[number] = ctypes.addressof(table)
        return table

    def _install(
        self,
        roots: tuple[int, ...],
        entries: tuple[int, ...],
        exits: frozenset[int],
        spans: tuple[tuple[int, int], ...],
        own: tuple[tuple[int, int], ...],
        image: Image,
        size: int,
    ) -> bool:
        """Put a region in use; False if a breakpoint has come into it."""
        engine = self.engine
        with engine.lock:
            if any(start <= pc < end for pc in engine.breakpoints for start, end in spans):
                return False
            loaded = self.code.place(image)
            address = loaded.symbols["region"]
            one = _Compiled(
                roots, entries, exits, spans, own, loaded.block, address, self._digest(spans), image, size
            )
            self._all.append(one)
            self._prices.clear()
            self.code.tell(one.block, "llvm", lambda: places_of(image, roots[0]))
            for pc in (*roots, *(pc for pc in entries if pc not in roots)):
                if pc in self._at and pc not in roots:
                    continue
                if not engine.is_decoded(pc) and engine.predecode(pc) is not None:
                    continue
                number, slot = pc >> 12, (pc & PAGE - 1) // engine.isa.unit
                table = self._table(number)
                if pc not in self._at:
                    table[2 * slot + 1] = engine.handler(pc)
                table[2 * slot] = address
                self._at[pc] = one
                engine.set_handler(pc, engine.interpreter.address["h_region"])
            engine.follow(_pages_of(spans))
            engine.made(one, self._drop)
            return True

    def original(self, pc: int) -> int:
        """The handler that the record of a region's entry had."""
        return int(self._table(pc >> 12)[2 * ((pc & PAGE - 1) // self.engine.isa.unit) + 1])

    def invalidate(self, start: int, end: int) -> None:
        """Drop the regions made from guest bytes in ``[start, end)``. Called with the engine's lock held."""
        self._generation += 1
        # PERF: a guest that makes code changes some bytes of it, while hundreds of places wait.
        for pc in (
            self._pending.keys() & range(start, end)
            if end - start < len(self._pending)
            else [pc for pc in self._pending if start <= pc < end]
        ):
            del self._pending[pc]
        for one in [one for one in self._all if any(a < end and start < b for a, b in one.spans)]:
            self._lost[one.roots[0] >> 12] = self._lost.get(one.roots[0] >> 12, 0) + 1
            self._drop(one)

    def _drop(self, one: _Compiled) -> None:
        """Take a region out of use; its memory is freed when no vCPU can be in it."""
        self._all.remove(one)
        self.engine.dropped(one)
        for pc in [pc for pc, at in self._at.items() if at is one]:
            number, slot = pc >> 12, (pc & PAGE - 1) // self.engine.isa.unit
            if self.engine.is_decoded(pc):
                self.engine.restore_handler(pc, self.original(pc))
            self._table(number)[2 * slot] = self.engine.interpreter.address["nowhere"]
            del self._at[pc]
        self.retire(one.block)

    def retire(self, block: CodeBlock) -> None:
        """Free code memory that nothing leads to any more, when no vCPU can be in it. Called with the engine's lock
        held."""
        if self.running:
            self.retired.append((set(self.running), block))
        else:
            self.code.free(block)

    def quiesce(self, vcpu: int) -> None:
        """The vCPU has left native code: it is in no retired region."""
        self.running.discard(vcpu)
        if self.retired:
            with self.engine.lock:
                kept = []
                for waiting, block in self.retired:
                    waiting.discard(vcpu)
                    if waiting:
                        kept.append((waiting, block))
                    else:
                        self.code.free(block)
                self.retired = kept
