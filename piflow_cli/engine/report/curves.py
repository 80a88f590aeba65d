"""Numbers over steps, thinned while they come in: a curve has hundreds of points, however long its run."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_BINS = 400
"""Of a curve; where there are more, each two neighbours become one."""


@dataclass
class Bin:
    """What neighbouring steps have in common.

    Args:
        count: numbers in it.
        step: their mean step.
        mean, low, high: of the numbers.
    """

    count: int
    step: float
    mean: float
    low: float
    high: float

    def add(self, other: Bin) -> None:
        """Take in another one."""
        self.count += other.count
        share = other.count / self.count
        self.step += (other.step - self.step) * share
        self.mean += (other.mean - self.mean) * share
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass(frozen=True)
class Point:
    """A number, and its step."""

    step: int
    value: float


class Curve:
    """Numbers by step, in bins of equally many steps.

    The bins depend on the numbers alone, not on when somebody looks. Numbers that are not finite are left out.
    """

    def __init__(self) -> None:
        self._width = 1
        self._bins: dict[int, Bin] = {}
        self.last: Point | None = None
        self.least: Point | None = None

    def add(self, step: int, value: float) -> None:
        """Put in the number of a step."""
        if not math.isfinite(value):
            return
        self.last = Point(step, value)
        if self.least is None or value < self.least.value:
            self.least = self.last
        self._put(step // self._width, Bin(1, step, value, value, value))
        while len(self._bins) > MAX_BINS:
            self._widen()

    def bins(self) -> list[Bin]:
        """In the order of steps."""
        return [self._bins[index] for index in sorted(self._bins)]

    def _put(self, index: int, new: Bin) -> None:
        if index in self._bins:
            self._bins[index].add(new)
        else:
            self._bins[index] = new

    def _widen(self) -> None:
        """Double the steps of a bin."""
        old, self._bins, self._width = self._bins, {}, 2 * self._width
        for index in sorted(old):
            self._put(index // 2, old[index])
