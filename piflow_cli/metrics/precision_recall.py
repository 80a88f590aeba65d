"""Improved precision and recall (arXiv 1904.06991): are pictures plausible, and is the real variety covered?"""
# N generated, M reference pictures, R rows at a time, D features.

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.metric import Metric, require_reference_features, require_same_dim

NUM_NEIGHBOURS = 3
ROWS_AT_ONCE = 2048


def neighbour_radii(features: Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> Tensor:
    """Distance (N,) of each row of (N, D) to its k-th nearest other row."""
    radii = [
        torch.cdist(rows, features, compute_mode="donot_use_mm_for_euclid_dist")  # (R, N)
        .kthvalue(num_neighbours + 1, dim=1)  # the nearest row is the row itself
        .values
        for rows in features.split(ROWS_AT_ONCE)
    ]
    return torch.cat(radii)


def fraction_covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of `points` (N, D) inside at least one ball around `centres` (M, D) of `radii` (M,)."""
    inside = [
        (torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist") <= radii).any(dim=1)  # (R,)
        for rows in points.split(ROWS_AT_ONCE)
    ]
    return torch.cat(inside).double().mean().item()


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
    size = min(len(features), len(reference))
    if size <= num_neighbours:
        raise DataError(
            f"precision and recall need more than {num_neighbours} pictures a side; got {len(features)} generated and "
            f"{len(reference)} real."
        )
    generator = torch.Generator().manual_seed(seed)
    fake, real = (
        side if len(side) == size else side[torch.randperm(len(side), generator=generator)[:size]]
        for side in (features.double(), reference.double())
    )
    precision = fraction_covered(fake, real, neighbour_radii(real, num_neighbours))
    recall = fraction_covered(real, fake, neighbour_radii(fake, num_neighbours))
    return precision, recall


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


METRIC = Metric(
    name="precision-recall",
    columns=("precision", "recall"),
    better="higher",
    compute=compute,
    needs_reference_features=True,
)
