"""Between two exits: accesses of one instruction that are still to be returned, and who waits for an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from vm_accel.completion import Fault, Steps, Touch, Undecided
from vm_accel.exits import Exit, Mmio
from vm_accel.interface import Bus
from vm_core.errors import UsageError

__all__ = ["ONES", "Ending", "Observer", "Pending", "waiting"]

Observer = Callable[[bytes, dict[str, int], bytes], None]
"""Gets an exit as the hypervisor described it, the general registers, and the instruction's bytes if the exit has them not."""

ONES: Final = (1 << 64) - 1
"""What a read gives that nobody answers."""


def waiting() -> UsageError:
    """For who sets a register meanwhile."""
    return UsageError("the last exit waits for its answer", hint="complete() it, or set the pc as well")


class Ending:
    """How an instruction ends: with its results handed over, with a page fault for the guest, or not understood (an exit)."""

    __slots__ = ("commit", "fault", "undecided")

    def __init__(
        self,
        commit: Callable[[], None],
        fault: Callable[[Fault], None],
        undecided: Callable[[], Exit],
    ) -> None:
        self.commit, self.fault, self.undecided = commit, fault, undecided


class Pending:
    """One vCPU's. ``answer`` gets the value (an int, or bytes for several) and whether the access is refused."""

    __slots__ = ("answer", "optional", "queue", "refusable", "several", "size")

    def __init__(self) -> None:
        self.queue: deque[Exit] = deque()
        self.answer: Callable[[int | bytes, bool], None] | None = None
        self.several = self.refusable = self.optional = False
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self.queue) or self.answer is not None

    def expect(
        self,
        answer: Callable[[int | bytes, bool], None],
        *,
        size: int = 8,
        several: bool = False,
        refusable: bool = False,
        optional: bool = False,
    ) -> None:
        """``size``: how many bytes an answer in bytes has. ``optional``: no instruction waits for it."""
        self.answer, self.several, self.refusable, self.optional = answer, several, refusable, optional
        self.size = size

    def registers_change(self, *, pc: bool) -> None:
        """Somebody sets registers, and the pc if ``pc``: then the instruction is finished before. UsageError while it waits for an
        answer."""
        if pc:
            self.drop()
        elif self.answer is not None and not self.optional:
            raise waiting()

    def complete(self, value: int | bytes, *, fault: bool) -> None:
        """Raises UsageError if the last exit takes no answer, or another number of bytes."""
        if self.answer is None or self.queue:
            raise UsageError("the last exit takes no answer")
        if fault and not self.refusable:
            raise UsageError("only an access to a system register can be refused")
        if isinstance(value, bytes) and len(value) != self.size:
            raise UsageError(f"the exit takes {self.size} bytes, not {len(value)}")
        self._give(value, fault=fault)

    def _give(self, value: int | bytes, *, fault: bool) -> None:
        answer, self.answer = self.answer, None
        assert answer is not None
        answer(value, fault)

    def settle(self) -> None:
        """The exit that was returned last got no answer: all ones."""
        if self.answer is not None and not self.queue:
            self._give(b"" if self.several else ONES, fault=False)

    def drop(self) -> None:
        """Do what is left of the instruction without telling anybody, for a vCPU that is saved."""
        while self:
            self.queue.clear()
            self.settle()

    def clear(self) -> None:
        self.queue.clear()
        self.answer = None

    def drive(self, steps: Steps, ending: Ending, bus: Bus | None) -> Exit | None:
        """Do an instruction's accesses on the bus, or queue them as exits up to the first that needs an answer; the first of
        the queue is returned. What a device raises passes through once the instruction is done, its other reads all ones."""
        answer: int | None = None
        raised: BaseException | None = None
        try:
            while True:
                touch = steps.send(answer)  # type: ignore[arg-type]  # None at first
                answer = 0
                if raised is not None:
                    answer = ONES
                elif bus is None:
                    self.queue.append(Mmio(*touch))
                    if not touch.is_write:
                        self._wait(steps, ending, touch)
                        break
                elif touch.is_write:
                    try:
                        bus.write(touch.address, touch.size, touch.value)
                    except BaseException as error:  # noqa: BLE001  passed on below
                        raised = error
                else:
                    try:
                        answer = bus.read(touch.address, touch.size)
                    except BaseException as error:  # noqa: BLE001  passed on below
                        raised, answer = error, ONES
                answer &= (1 << 8 * touch.size) - 1
        except StopIteration:
            ending.commit()
        except Fault as fault:
            ending.fault(fault)
        except Undecided:
            self.queue.append(ending.undecided())
        if raised is not None:
            raise raised
        return self.queue.popleft() if self.queue else None

    def _wait(self, steps: Steps, ending: Ending, touch: Touch) -> None:
        """The instruction goes on when its read is answered."""
        mask = (1 << 8 * touch.size) - 1

        def again(value: int) -> Steps:
            # The generator has yielded its read; what it is sent first is that read's answer.
            try:
                following = steps.send(value)
                while True:
                    following = steps.send((yield following))
            except StopIteration:
                return

        def answer(value: int | bytes, _fault: bool) -> None:
            number = value if isinstance(value, int) else int.from_bytes(value, "little")
            found = self.drive(again(number & mask), ending, None)
            if found is not None:
                self.queue.appendleft(found)

        self.expect(answer, size=touch.size)
