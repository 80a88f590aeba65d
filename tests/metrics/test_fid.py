"""The Fréchet distance against its closed form, scipy and torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet, Reference, mean_and_cov
from piflow_cli.metrics.frechet.fid import METRIC, fid, frechet_distance


def random_features(num: int, dim: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64) @ mixing + seed


def test_closed_form_of_diagonal_gaussians() -> None:
    mean_a, mean_b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.0, 2.0, 5.0]).double()
    std_a, std_b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.0]).double()
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    distance = frechet_distance(mean_a, std_a.square().diag(), mean_b, std_b.square().diag())
    assert distance == pytest.approx(expected.item(), rel=1e-12)


def test_against_scipy_matrix_square_root() -> None:
    (mean_a, cov_a), (mean_b, cov_b) = (mean_and_cov(random_features(500, 12, seed=seed)) for seed in (1, 2))
    root = scipy.linalg.sqrtm(cov_a.numpy() @ cov_b.numpy()).real
    expected = (mean_a - mean_b).square().sum().item() + np.trace(cov_a.numpy() + cov_b.numpy() - 2 * root)
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-9)


def test_against_torchmetrics() -> None:
    real, fake = random_features(300, 16, seed=1), random_features(200, 16, seed=2)
    network = nn.Identity()
    network.num_features = 16
    metric = FrechetInceptionDistance(feature=network)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert fid(fake, *mean_and_cov(real)) == pytest.approx(metric.compute().item(), rel=1e-9)


def test_fewer_pictures_than_features() -> None:
    real = random_features(400, 32, seed=1)
    few = real[:10]
    score = fid(few, *mean_and_cov(real))
    assert np.isfinite(score)
    assert score > 0
    assert fid(few, *mean_and_cov(few)) == pytest.approx(0, abs=1e-6)


def test_metric_refuses_another_dimension() -> None:
    reference = Reference("set", "net", torch.zeros(8).double(), torch.eye(8).double(), None, 0)
    with pytest.raises(DataError, match=r"5 features.* has 8"):
        METRIC.compute(FeatureSet(torch.randn(20, 5)), reference, labels=None, seed=0)
    features = FeatureSet(random_features(5000, 8, seed=0).float())
    assert METRIC.compute(features, reference, labels=None, seed=0)["fid"] > 0


@pytest.mark.parametrize("features", [torch.zeros(1, 4), torch.full((9, 4), float("nan"))])
def test_unusable_features(features: torch.Tensor) -> None:
    with pytest.raises(DataError):
        mean_and_cov(features)
