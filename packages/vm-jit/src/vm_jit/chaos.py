"""For tests: an engine that loses compiled code at random points, while the guest runs.

What is compiled is a copy of what the guest's code says, so losing it at any point must change nothing but the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from vm_core.engine import Budget, Exit
from vm_core.memory import PAGE, GuestMemory
from vm_core.spec.isa import Isa
from vm_core.state import HEADER, CpuState
from vm_jit.engine import NativeEngine

__all__ = ["ChaosEngine"]

_FUEL = HEADER["fuel"] // 8


class ChaosEngine(NativeEngine):
    """A NativeEngine whose vCPUs stop after up to ``every`` instructions each, at a random one, and drop there some of the code that
    all of them run: evict a piece of it, or invalidate a range of guest addresses. ``seed`` settles where, for one vCPU."""

    def __init__(
        self, isa: Isa, memory: GuestMemory, *, seed: int = 0, every: int = 2000, **options: Any
    ) -> None:
        super().__init__(isa, memory, **options)
        self.every = every
        self._random = Random(seed)
        self.evictions = self.invalidations = 0
        """How often code was there to be lost, and was."""

    def run(
        self, cpu: CpuState, memory: GuestMemory, limit: int, call: Callable[[], bool] | None = None
    ) -> Exit:
        left = limit
        while True:
            step = min(left, self._random.randrange(1, self.every))
            try:
                result = super().run(cpu, memory, step, call)
            finally:
                left -= step - cpu.words[_FUEL]
                cpu.words[_FUEL] = left
            if not left or not isinstance(result, Budget):
                return result
            self._lose()

    def _lose(self) -> None:
        draw = self._random
        with self.lock:
            image = self._image
            if image is None:
                return
            with image.lock:
                pages = list(image.pages)
                found = image.compiled
                if found and draw.randrange(4):
                    for one in draw.sample(found, min(len(found), draw.randrange(1, 4))):
                        image.evict(one)
                        self.evictions += 1
                    return
            if pages and not draw.randrange(8):
                start = draw.choice(pages) * PAGE + draw.randrange(PAGE)
                self.invalidate(start, start + draw.choice((1, 2, 64, PAGE, 3 * PAGE)))
                self.invalidations += 1
