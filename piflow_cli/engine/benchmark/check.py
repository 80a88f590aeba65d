"""What is refused of any benchmark before anything is loaded: metrics, solvers and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from piflow_cli import registry
from piflow_cli.core.settings import MAX_SEED
from piflow_cli.engine.benchmark.solvers import SOLVERS
from piflow_cli.engine.sample.check import MAX_PICTURES, shown
from piflow_cli.errors import DataError, PiflowError
from piflow_cli.metrics.metric import Metric, metric_of

MAX_STEPS = 10_000
"""Of a teacher's solver; the longest rows of the papers have some hundred."""
MAX_ROWS = 1000
"""Of one table."""


def check_request(
    metrics: Sequence[str],
    solvers: Sequence[str],
    *,
    samples: int,
    batch_size: int | None,
    seed: int,
    steps: Sequence[int],
) -> list[Metric]:
    """The metrics asked for; everything that needs no model is checked.

    Raises:
        DataError: no metric, or a number out of range.
        PiflowError: an unknown metric or solver.
    """
    if not metrics:
        raise DataError(f"no metric was asked for; known are {', '.join(registry.names('metric'))}")
    for solver in solvers:
        if solver not in SOLVERS:
            raise PiflowError(registry.unknown_name("solver", solver, list(SOLVERS)))
    limits = [
        ("samples", samples, 2, MAX_PICTURES),
        ("batch_size", 1 if batch_size is None else batch_size, 1, MAX_PICTURES),
        ("seed", seed, 0, MAX_SEED),
        *(("teacher_steps", count, 1, MAX_STEPS) for count in steps),
    ]
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise DataError(f"{name} is {shown(value)}; it must be at least {least}, and at most {most:,}")
    return _distinct_metrics(metrics)


def _distinct_metrics(specs: Sequence[str]) -> list[Metric]:
    """The metrics of these names, each once.

    Raises:
        DataError: one by several models, whose scores would fill one column.
        PiflowError: an unknown name.
    """
    found: dict[str, Metric] = {}
    for spec in dict.fromkeys(specs):
        metric = metric_of(spec)
        if metric.name in found:
            raise DataError(f"metric {metric.name} was asked for by several models: measure them one by one")
        found[metric.name] = metric
    return list(found.values())


def check_rows(**lists: Sequence[object]) -> None:
    """Raise DataError where lists of values, each combined with each, make more rows than a table holds."""
    number = math.prod(max(1, len(values)) for values in lists.values())
    if number > MAX_ROWS:
        counts = ", ".join(f"{len(values)} {name}" for name, values in lists.items() if values)
        raise DataError(f"{counts} make {shown(number)} rows; one benchmark has at most {MAX_ROWS:,}")
