"""Fréchet inception distance (arXiv 1706.08500) from features or from stored statistics."""
# N pictures, D features.

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import FeatureSet, Reference, mean_and_cov
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
    eigenvalues, basis = torch.linalg.eigh(cov_a)
    root_a = (basis * eigenvalues.clamp(min=0).sqrt()) @ basis.T  # (D, D)
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


METRIC = Metric(name="fid", columns=("fid",), better="lower", compute=compute)
