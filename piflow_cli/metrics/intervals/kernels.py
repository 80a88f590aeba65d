"""Kernel distances, and those without each part of the pictures, by sums of the kernel over pairs of parts."""
# N generated, M reference pictures, D features, R rows at a time, G, H parts.

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from piflow_cli.metrics.intervals.parts import Parts

ROWS_AT_ONCE = 1024
Kernel = Callable[[Tensor], Tensor]
"""Of the products x.y of rows, of any shape."""


def mmd_without(x: Tensor, y: Tensor, parts: Parts, *, kernel: Kernel, unbiased: bool) -> list[float]:
    """Squared maximum mean discrepancies (G,) that have one part left out each.

    Args:
        x: of generated pictures, (N, D).
        y: of the reference, (M, D).
        parts: of N, and of M where the reference loses them too.
        kernel: positive definite.
        unbiased: whether means within a side leave out the pairs of a row with itself.
    """
    x, y, count = x.double(), y.double(), parts.count
    own = one_hot(parts.own, count).double()  # (N, G)
    # A reference that stays whole is a part of its own, number G, which is never left out.
    theirs = parts.reference if parts.reference is not None else torch.full((len(y),), count)
    other = one_hot(theirs, count + 1).double()  # (M, G + 1)
    across = _sums(x, y, own, other, kernel)
    within = [_sums(side, side, members, members, kernel) for side, members in ((x, own), (y, other))]
    if unbiased:
        for sums, side, members in zip(within, (x, y), (own, other), strict=True):
            sums.diagonal().sub_(members.T @ kernel(side.square().sum(dim=1)))
    found = []
    for part in range(count):
        keeps = [torch.arange(members.shape[1]) != part for members in (own, other)]
        n, m = (members.sum(dim=0)[keep].sum() for members, keep in zip((own, other), keeps, strict=True))
        same = [sums[keep][:, keep].sum() for sums, keep in zip(within, keeps, strict=True)]
        pairs = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
        found.append(
            (same[0] / pairs[0] + same[1] / pairs[1] - 2 * across[keeps[0]][:, keeps[1]].sum() / (n * m)).item()
        )
    return found


def mean_kernel(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """Mean of the kernel over all pairs of rows of x (N, D) and y (M, D), both float64."""
    everybody = (x.new_ones(len(side), 1) for side in (x, y))  # (N, 1), (M, 1)
    return (_sums(x, y, *everybody, kernel) / (len(x) * len(y))).item()


def _sums(x: Tensor, y: Tensor, own: Tensor, other: Tensor, kernel: Kernel) -> Tensor:
    """Sums (G, H) of the kernel over the pairs of rows of x (N, D) and y (M, D) of each two parts (N, G), (M, H)."""
    sums = x.new_zeros(own.shape[1], other.shape[1])
    for rows, members in zip(x.split(ROWS_AT_ONCE), own.split(ROWS_AT_ONCE), strict=True):
        sums += members.T @ (kernel(rows @ y.T) @ other)  # (R, M) inside
    return sums
