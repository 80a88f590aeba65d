# How far two lists of scores agree in order: Spearman's coefficient and an interval of it.
# N scores.

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FEWEST = 5
Z_95 = 1.96


class Agreement(NamedTuple):
    """Spearman's coefficient of two lists of scores, from -1 to 1, and the ends of its interval of 95%."""

    rho: float
    low: float
    high: float


def ranks(scores: Sequence[float]) -> Tensor:
    """Places of N scores in order, from 1, (N,) float64; equal scores share the mean of their places."""
    values = torch.tensor(scores, dtype=torch.float64)
    below = (values[:, None] > values).sum(dim=1)
    equal = (values[:, None] == values).sum(dim=1)
    return below.double() + (equal.double() + 1) / 2


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """How far two networks put the same rows in the same order.

    The interval takes rows for independent draws, which those of one model are not: it says what so few rows allow.

    Raises:
        ValueError: there are not as many of both, or fewer than five, or all of one are equal.

    Source: Bonett and Wright, Psychometrika 65 (2000): the variance of atanh(rho) is (1 + rho^2 / 2) / (N - 3).
    """
    if len(first) != len(second) or len(first) < FEWEST:
        raise ValueError(f"{len(first)} and {len(second)} scores: pass as many of both, {FEWEST} at least")
    a, b = (places - places.mean() for places in (ranks(first), ranks(second)))
    if not (a.any() and b.any()):
        raise ValueError("all scores of one list are equal: they have no order")
    rho = (a @ b / (a.norm() * b.norm())).clamp(-1, 1).item()
    if abs(rho) > 1 - 1e-12:
        return Agreement(*[math.copysign(1.0, rho)] * 3)
    center, spread = math.atanh(rho), Z_95 * math.sqrt((1 + rho**2 / 2) / (len(first) - 3))
    return Agreement(rho, math.tanh(center - spread), math.tanh(center + spread))
