"""Which pictures of a row are left out together, and the intervals of all that a row says.

Parts are of the pictures' numbers, the same for every row: picture i of any row began from the same noise and prompt,
so that a ratio of two rows loses the same pictures on both sides, and what they share does not widen its interval.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from piflow_cli.engine.benchmark.questions import Questions
from piflow_cli.errors import DataError
from piflow_cli.metrics.intervals.jackknife import LEVEL, MIN_PARTS, half_width
from piflow_cli.metrics.intervals.parts import Parts, parts_in_turn, parts_of_groups

USUAL_PARTS, MAX_PARTS = 20, 1000


@dataclass(frozen=True)
class Intervals:
    """How intervals are made.

    Args:
        count: parts that pictures are split into, each left out once; 0 makes no intervals.
        seed: of the splitting.
    """

    count: int
    seed: int

    def parts_of(self, questions: Questions) -> Parts | None:
        """Of a row's own pictures; None where there are none or too few."""
        count = min(self.count, len(questions) // 2)
        if count < MIN_PARTS:
            return None
        return Parts(parts_in_turn(len(questions), len(questions.subjects), count, seed=self.seed), count)

    def parts_of_groups(self, groups: Tensor) -> Parts | None:
        """Of pictures that several of a prompt belong together, by the number of the prompt (N,)."""
        parts, count = parts_of_groups(groups, self.count, seed=self.seed) if self.count else (groups, 0)
        return Parts(parts, count) if count >= MIN_PARTS else None


def method_of(counts: Collection[int]) -> str:
    """How intervals were made, in words, by how many parts were left out in turn: one count, or several of a table."""
    least, most = min(counts), max(counts)
    return f"{LEVEL:.0%}, by a jackknife of {least if least == most else f'{least} to {most}'} parts"


def check_intervals(count: int) -> None:
    """Raise DataError for a number of parts that makes no intervals."""
    if count and not MIN_PARTS <= count <= MAX_PARTS:
        raise DataError(
            f"intervals is {count}; it must be 0 for none, or {MIN_PARTS} to {MAX_PARTS} parts of the pictures"
        )


def intervals_of(
    values: Mapping[str, float | None], without: Mapping[str, Sequence[float]]
) -> dict[str, tuple[float, float]]:
    """The interval of every value that has one.

    Args:
        values: scores, ratios and distances by name.
        without: the same with each part of the pictures left out.
    """
    halves = {name: half_width(without.get(name, ())) for name in values}
    return {
        name: (value - half, value + half)
        for name, value in values.items()
        if value is not None and (half := halves[name]) is not None
    }
