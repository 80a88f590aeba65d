"""How fast a run goes, by its recent steps, and when it will be done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

RECENT_STEPS = 32
"""Steps whose mean time is told: enough to be even, few enough to follow a machine that others use too."""


class Pace:
    """The time of recent steps, and of what comes between steps.

    The first step of a run pays for compiling and warming up, and counts only while it is the only one.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.pauses: dict[str, tuple[int, float]] = {}
        self.begin()

    def begin(self) -> None:
        """Start the clock: the first step begins."""
        self.begun = self.last = time.perf_counter()
        self.taken = 0
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)

    def step(self) -> None:
        """A step has ended, and the next one begins."""
        now = time.perf_counter()
        if self.taken == 1:
            self.recent.clear()
        self.recent.append(now - self.last)
        self.last, self.taken = now, self.taken + 1

    @contextmanager
    def pause(self, name: str, *, every: int) -> Iterator[None]:
        """What is done within comes between steps.

        Args:
            name: of what is done.
            every: after how many steps it comes again, and after the last one.
        """
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.last += spent
            self.pauses[name] = (every, spent)

    @property
    def wall_s(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun

    @property
    def step_s(self) -> float:
        """Seconds of a recent step; at least one was taken."""
        return sum(self.recent) / len(self.recent)

    def remaining_s(self, step: int) -> float:
        """Seconds until the end after `step` steps, with as many pauses as are to come."""
        pauses = sum(spent * (-(-self.steps // every) - step // every) for every, spent in self.pauses.values())
        return self.step_s * (self.steps - step) + pauses
