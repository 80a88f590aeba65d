"""Fréchet inception distance (arXiv 1706.08500) from features or from stored statistics."""
# N pictures, D features, G parts.

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference, mean_and_cov
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Metric, require_same_dim


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Wasserstein-2 distance between two Gaussians.

        |mean_a - mean_b|^2 + tr(cov_a) + tr(cov_b) - 2 tr((cov_a cov_b)^1/2)

    The last trace is the sum of square roots of the eigenvalues of cov_a^1/2 cov_b cov_a^1/2, which is symmetric, so
    that rank-deficient covariances (fewer pictures than features) need no jitter and give no imaginary part.

    Args:
        mean_a, mean_b: (D,) float64.
        cov_a, cov_b: (D, D) float64, symmetric, positive semi-definite.

    Returns:
        The distance, at least 0.

    Source: arXiv 1706.08500, eq. 6. Ours where torchmetrics would recompute the statistics from features.
    """
    return _distance_by_root(mean_a, cov_a, _root(cov_a), mean_b, cov_b)


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root (D, D) of a covariance."""
    eigenvalues, basis = torch.linalg.eigh(cov)
    return (basis * eigenvalues.clamp(min=0).sqrt()) @ basis.T


def _distance_by_root(mean_a: Tensor, cov_a: Tensor, root_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """As `frechet_distance`, with the root of the first covariance, which is most of the work."""
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(distance.item(), 0.0)


def fid(features: Tensor, mean: Tensor, cov: Tensor) -> float:
    """FID of (N, D) features against a reference mean (D,) and covariance (D, D)."""
    return frechet_distance(*mean_and_cov(features), mean, cov)


def compute(
    generated: FeatureSet,
    reference: Reference,
    *,
    labels: Tensor | None,  # noqa: ARG001  (one signature for all metrics)
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "fid". It falls with the number of pictures: compare only scores of the same N."""
    require_same_dim(generated, reference)
    return {"fid": fid(generated.features, reference.mean, reference.cov)}


def fid_without(features: Tensor, reference: Reference, parts: Parts) -> list[float]:
    """FIDs (G,) of (N, D) features that have one part left out each; a reference that stays whole is rooted once."""
    kept = [features[parts.own != part] for part in range(parts.count)]
    if parts.reference is not None:
        others = [reference.features[parts.reference != part] for part in range(parts.count)]
        return [fid(some, *mean_and_cov(other)) for some, other in zip(kept, others, strict=True)]
    root = _root(reference.cov)
    return [_distance_by_root(reference.mean, reference.cov, root, *mean_and_cov(some)) for some in kept]


def without(
    generated: FeatureSet,
    reference: Reference,
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, list[float]]:
    """Column "fid", see `fid_without`."""
    return {"fid": fid_without(generated.features, reference, parts)}


METRIC = Metric(
    name="fid",
    columns=("fid",),
    better="lower",
    compute=compute,
    frechet=True,
    needs_reference=True,
    without=without,
)
