"""Rows drawn from several seeds: the mean of each number, and how far that mean would move with other seeds.

    half = t s / sqrt(S)

with s the standard deviation of the S numbers and t of Student's distribution with S - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from piflow_cli.core.settings import MAX_SEED
from piflow_cli.engine.benchmark.comparison import RATIOS
from piflow_cli.engine.benchmark.quantized.changes import changes_of
from piflow_cli.engine.sample.check import shown
from piflow_cli.errors import DataError
from piflow_cli.metrics.intervals.jackknife import LEVEL, student_quantile

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.gauge import BenchmarkRow

MAX_SEEDS = 100
NUMBERS = ("fid_to_teacher", "paired_error", *RATIOS.values(), "gap_closed", "whole_error")
"""What rows say besides scores and changes."""
COSTS = ("network_calls", "network_s", "policy_s")
FEW_FREEDOM = {1: 12.7062, 2: 4.3027, 3: 3.1824}
"""t of 95% by degrees of freedom, where the expansion of `student_quantile` is too coarse."""


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Each seed once, in order.

    Raises:
        DataError: none or too many, or one out of range.
    """
    found = list(dict.fromkeys(seeds))
    if not 1 <= len(found) <= MAX_SEEDS:
        raise DataError(f"{len(found)} seeds were given; one benchmark has 1 to {MAX_SEEDS}")
    for seed in found:
        if not 0 <= seed <= MAX_SEED:
            raise DataError(f"seeds has {shown(seed)}; each must be at least 0, and at most {MAX_SEED:,}")
    return found


def half_of_mean(values: Sequence[float]) -> float | None:
    """Half of the interval of 95% about the mean of S numbers; None for one, and where one does not exist."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    freedom = len(values) - 1
    t = FEW_FREEDOM.get(freedom) or student_quantile(LEVEL, freedom)
    return t * stdev(values) / math.sqrt(len(values))


def joined_rows(by_seed: Sequence[Sequence[BenchmarkRow]]) -> list[BenchmarkRow]:
    """The rows of several seeds as one table; those of one seed as they are.

    Args:
        by_seed: the rows of each seed, in the same order.
    """
    if len(by_seed) == 1:
        return list(by_seed[0])
    return [_joined(rows) for rows in zip(*by_seed, strict=True)]


def method(count: int) -> str:
    """How the intervals of several seeds are made, in words."""
    return f"{LEVEL:.0%}, of the mean of {count} seeds"


def _joined(rows: Sequence[BenchmarkRow]) -> BenchmarkRow:
    """One row of several seeds."""
    first, values = rows[0], _values(rows)
    means = {name: fmean(found) for name, found in values.items()}
    halves = {name: half_of_mean(found) for name, found in values.items()}
    return replace(
        first,
        **{cost: fmean(getattr(row, cost) for row in rows) for cost in COSTS},
        **{name: means.get(name) for name in NUMBERS},
        scores={name: means[name] for name in first.scores},
        changes={name: fmean(row.changes[name] for row in rows) for name in first.changes},
        intervals={name: (means[name] - half, means[name] + half) for name, half in halves.items() if half is not None},
        without={},
        by_seed=values,
        drawn_on=next((row.drawn_on for row in rows if row.drawn_on is not None), None),
    )


def _values(rows: Sequence[BenchmarkRow]) -> dict[str, tuple[float, ...]]:
    """Every number by name, of each seed; without those that a seed lacks, such as a gap that is none."""
    read: dict[str, Callable[[BenchmarkRow], float | None]] = {
        name: lambda row, name=name: row.scores[name] for name in rows[0].scores
    }
    read |= {name: lambda row, name=name: getattr(row, name) for name in NUMBERS}
    read |= {name: lambda row, name=name: changes_of(row).get(name) for name in changes_of(rows[0])}
    found = {name: tuple(of(row) for row in rows) for name, of in read.items()}
    return {name: values for name, values in found.items() if None not in values}
