"""Intervals of scores by the delete-a-group jackknife: how far a score would move with other pictures of as many.

Pictures are split into G parts, and the score is computed G times, each time without one of them. No picture is ever
there twice, as in a bootstrap, which an FID, a KID and nearest neighbours mistake for a narrower distribution.

    half^2 = t^2 (G - 1) / G  sum_g (score without part g  -  their mean)^2

with t of Student's distribution with G - 1 degrees of freedom.

Source: delete-a-group jackknife: P. S. Kott, J. Official Statistics 17 (2001) 521; consistent for scores that are not
smooth: J. Shao, C. F. J. Wu, Annals of Statistics 17 (1989) 1176; too wide rather than too narrow: B. Efron, C. Stein,
Annals of Statistics 9 (1981) 586. A Fréchet distance of Gaussians is normal about its mean (T. Rippl, A. Munk,
A. Sturm, arXiv 1507.04090), and nearly degenerate at 0, where intervals come out up to 1.4 times too wide.
"""
# N pictures, G parts.

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Metric

LEVEL = 0.95
MIN_PARTS = 5
"""Below which the spread says too little of itself."""


def scores_without(
    metric: Metric, generated: FeatureSet, reference: Reference, parts: Parts, *, labels: Tensor | None, seed: int
) -> dict[str, tuple[float, ...]]:
    """By column of the metric, the G scores that have one part left out each; none where one of them does not exist.

    Args:
        metric: brings a cheaper way of its own, or is computed G times.
        generated: of the N pictures.
        reference: what they are compared to; with `parts.reference` it loses the same part.
        labels: as `Metric.compute` takes them, (N,).
        seed: as `Metric.compute` takes it.
    """
    try:
        if metric.without is not None:
            found = metric.without(generated, reference, parts, labels=labels, seed=seed)
            return {column: tuple(values) for column, values in found.items()}
        scores = [
            metric.compute(
                generated.take(parts.own != part),
                reference if parts.reference is None else reference.take(parts.reference != part),
                labels=None if labels is None else labels[parts.own != part],
                seed=seed,
            )
            for part in range(parts.count)
        ]
    except DataError:  # the score of all pictures exists, and is worth having without an interval
        return {}
    return {column: tuple(found[column] for found in scores) for column in metric.columns}


def half_width(without: Sequence[float]) -> float | None:
    """Half of the interval about a score, from the scores that have one part left out each.

    Returns:
        At least 0; None for fewer than `MIN_PARTS` parts, and where one of the scores does not exist.
    """
    count = len(without)
    if count < MIN_PARTS or not all(map(math.isfinite, without)):
        return None
    spread = torch.tensor(without, dtype=torch.float64)
    variance = (spread - spread.mean()).square().sum() * (count - 1) / count
    return student_quantile(LEVEL, count - 1) * math.sqrt(variance.item())


def combine(function: Callable[..., float], *without: Sequence[float]) -> tuple[float, ...]:
    """What is made of several scores, such as a ratio, with the same part left out of all of them; NaN without any."""
    return tuple(function(*scores) for scores in zip(*without, strict=True)) if all(without) else ()


def student_quantile(level: float, freedom: int) -> float:
    """t such that Student's distribution has `level` of its mass between -t and t.

    An expansion about the normal quantile, within 0.1% from 4 degrees of freedom on.

    Source: M. Abramowitz, I. Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
