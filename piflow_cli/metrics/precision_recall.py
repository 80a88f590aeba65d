"""Improved precision and recall (arXiv 1904.06991): are pictures plausible, and is the real variety covered?"""
# N generated, M reference pictures, P points, R rows at a time, D features, G parts.

from collections.abc import Iterator

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Metric, require_reference_features, require_same_dim

NUM_NEIGHBOURS = 3
ROWS_AT_ONCE = 512
SPARE_NEIGHBOURS = 4
"""Candidates beyond the neighbours asked for, among which rounding may have changed the order."""
LEFT_OUT_NEIGHBOURS = 32
"""Candidates beyond those where parts are left out, all of which may be of one part."""
PAIRS_AT_ONCE = 65536
ROUNDING = 1e-12
"""Bound of what rounding may change in a squared distance by a matrix product in float64, relative to the norms."""


def neighbour_radii(features: Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> Tensor:
    """Distance (N,) in float64 of each row of (N, D) to its k-th nearest other row.

    A matrix product names the candidates, whose distances are then taken plainly.
    """
    features = features.double()
    nearest = min(num_neighbours + 1 + SPARE_NEIGHBOURS, len(features))  # the nearest row is the row itself
    radii = []
    for rows, squares, _ in _squared_distances(features, features):
        candidates = squares.topk(nearest, dim=1, largest=False).indices  # (R, k)
        pairs = (rows.repeat_interleave(nearest, 0), features[candidates.flatten()])
        radii.append(_plain_distances(*pairs).view(-1, nearest).kthvalue(num_neighbours + 1, dim=1).values)
    return torch.cat(radii)


def fraction_covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of `points` (N, D) inside at least one ball around `centres` (M, D) of `radii` (M,).

    A matrix product decides every pair but those so near a ball's surface that its rounding could; they are taken
    plainly, and so are points that lie on it.
    """
    points, centres, radii = points.double(), centres.double(), radii.double()
    covered = 0
    for rows, squares, error in _squared_distances(points, centres):
        slack = error + ROUNDING * radii.square()  # (R, M)
        inside = (squares < radii.square() - slack).any(dim=1)  # (R,)
        near = (squares <= radii.square() + slack) & ~inside[:, None]
        row, centre = near.nonzero().unbind(1)
        for some in torch.arange(len(row)).split(PAIRS_AT_ONCE):
            i, j = row[some], centre[some]
            inside[i[_plain_distances(rows[i], centres[j]) <= radii[j]]] = True
        covered += int(inside.sum())
    return covered / len(points)


def _squared_distances(points: Tensor, centres: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of `points` (R, D), their squared distances (R, M) by one matrix product, and a bound of its error (R, M).

    The mean of the centres is taken off first, so that large means cost no digits.
    """
    mean = centres.mean(dim=0)
    others = centres - mean
    other_norms = others.square().sum(dim=1)  # (M,)
    for rows in points.split(ROWS_AT_ONCE):
        shifted = rows - mean
        norms = shifted.square().sum(dim=1)[:, None] + other_norms  # (R, M)
        yield rows, torch.addmm(norms, shifted, others.T, alpha=-2), ROUNDING * norms


def _plain_distances(first: Tensor, second: Tensor) -> Tensor:
    """Distance (P,) of each pair of rows of (P, D)."""
    return (first - second).square().sum(dim=1).sqrt()


def precision_recall(
    features: Tensor, reference: Tensor, *, seed: int, num_neighbours: int = NUM_NEIGHBOURS
) -> tuple[float, float]:
    """Precision: generated pictures within the real manifold. Recall: real pictures within the generated one.

    A manifold is the union of balls that reach from each picture to its third nearest neighbour. Both scores depend on
    the numbers of pictures, so that the larger side is cut at random to the size of the smaller.

    Args:
        features: (N, D).
        reference: (M, D).
        seed: of the cut.
        num_neighbours: 3 in the paper.

    Returns:
        precision, recall, each in [0, 1].

    Raises:
        DataError: a side has not more pictures than neighbours are asked for.

    Source: arXiv 1904.06991, eq. 1-2.
    """
    chosen = _equal_sides(len(features), len(reference), seed=seed, num_neighbours=num_neighbours)
    fake, real = (side[which].double() for side, which in zip((features, reference), chosen, strict=True))
    precision = fraction_covered(fake, real, neighbour_radii(real, num_neighbours))
    recall = fraction_covered(real, fake, neighbour_radii(fake, num_neighbours))
    return precision, recall


def _equal_sides(num_fake: int, num_real: int, *, seed: int, num_neighbours: int) -> tuple[Tensor, Tensor]:
    """Numbers of the pictures of either side, as many of both."""
    size = min(num_fake, num_real)
    if size <= num_neighbours:
        raise DataError(
            f"precision and recall need more than {num_neighbours} pictures a side; got {num_fake} generated and "
            f"{num_real} real."
        )
    generator = torch.Generator().manual_seed(seed)
    fake, real = (
        torch.arange(size) if number == size else torch.randperm(number, generator=generator)[:size]
        for number in (num_fake, num_real)
    )
    return fake, real


def fractions_without(
    points: Tensor,
    centres: Tensor,
    *,
    point_parts: Tensor | None,
    centre_parts: Tensor | None,
    count: int,
    num_neighbours: int = NUM_NEIGHBOURS,
) -> Tensor:
    """Shares (G,) of points covered, without one part of the points, of the centres, or of both.

    Distances are those of a matrix product, whose rounding decides next to nothing here.

    Args:
        points: (P, D).
        centres: (M, D).
        point_parts, centre_parts: part of each, (P,) and (M,); None for a side that stays whole.
        count: G.
        num_neighbours: that a centre's ball reaches to.
    """
    points, centres = points.double(), centres.double()
    squared_radii = _squared_radii_without(centres, centre_parts, count, num_neighbours)  # (G or 1, M)
    inside = torch.cat(
        [
            torch.stack([(squares <= radii).any(dim=1) for radii in squared_radii])
            for _, squares, _ in _squared_distances(points, centres)
        ],
        dim=1,
    ).double()  # (G or 1, P)
    kept = torch.ones(count, len(points), dtype=torch.float64)
    if point_parts is not None:
        kept = (point_parts != torch.arange(count)[:, None]).double()
    return (inside * kept).sum(dim=1) / kept.sum(dim=1)


def _squared_radii_without(centres: Tensor, parts: Tensor | None, count: int, num_neighbours: int) -> Tensor:
    """Squared distance (G, M) to the k-th nearest other centre that is left; -1 for a centre that is left out itself.

    One row (1, M) for all G where the centres stay whole.
    """
    if parts is None:
        return neighbour_radii(centres, num_neighbours).square()[None]
    nearest = min(num_neighbours + 1 + LEFT_OUT_NEIGHBOURS, len(centres))
    found = [squares.topk(nearest, dim=1, largest=False) for _, squares, _ in _squared_distances(centres, centres)]
    values, indices = (torch.cat(side) for side in zip(*found, strict=True))  # (M, nearest)
    radii = []
    for part in range(count):
        left = values.masked_fill(parts[indices] == part, torch.inf)
        radius = left.kthvalue(num_neighbours + 1, dim=1).values  # (M,)
        radii.append(radius.masked_fill(parts == part, -1))
    return torch.stack(radii)


def compute(
    generated: FeatureSet,
    reference: Reference,
    *,
    labels: Tensor | None,  # noqa: ARG001  (one signature for all metrics)
    seed: int,
) -> dict[str, float]:
    """Columns "precision" and "recall".

    Raises:
        DataError: the reference has no features, or those of another detector.
    """
    require_same_dim(generated, reference)
    real = require_reference_features(reference, "precision and recall")
    precision, recall = precision_recall(generated.features, real, seed=seed)
    return {"precision": precision, "recall": recall}


def without(
    generated: FeatureSet,
    reference: Reference,
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,
) -> dict[str, list[float]]:
    """Columns "precision" and "recall", by the same pictures of either side as `precision_recall` takes."""
    features = require_reference_features(reference, "precision and recall")
    which, whose = _equal_sides(len(generated), len(features), seed=seed, num_neighbours=NUM_NEIGHBOURS)
    fake, real = generated.features[which], features[whose]
    own, other = parts.own[which], None if parts.reference is None else parts.reference[whose]
    precision = fractions_without(fake, real, point_parts=own, centre_parts=other, count=parts.count)
    recall = fractions_without(real, fake, point_parts=other, centre_parts=own, count=parts.count)
    return {"precision": precision.tolist(), "recall": recall.tolist()}


METRIC = Metric(
    name="precision-recall",
    columns=("precision", "recall"),
    better="higher",
    compute=compute,
    needs_reference=True,
    needs_reference_features=True,
    without=without,
)
