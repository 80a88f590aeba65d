"""Doubts of an FID: they follow the number of pictures on both sides, and the features of the detector."""

import re

import pytest
import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.engine.benchmark.doubts import enough_pictures, fid_doubts
from piflow_cli.metrics.detectors.features import FeatureSet, Reference, mean_and_cov
from piflow_cli.metrics.frechet.fid import fid

DIM = 64


class Detector:
    """Of a width; it is only asked for that."""

    name = "made-up"

    def __init__(self, feature_dim: int) -> None:
        self.feature_dim = feature_dim

    def __call__(self, images: Tensor) -> FeatureSet:
        return FeatureSet(images.flatten(1)[:, : self.feature_dim])

    def title(self, metric: str) -> str:
        return metric


def drawn(number: int, *, seed: int = 0) -> Tensor:
    """Features (N, D) of one Gaussian."""
    return torch.randn(number, DIM, generator=torch.Generator().manual_seed(seed))


def reference(number: int, *, said: bool = True) -> Reference:
    mean, cov = mean_and_cov(drawn(number, seed=1))
    return Reference("real", "made-up", mean, cov, None, number if said else 0)


def doubts(samples: int, against: Reference, *, metric: str = "fid") -> list[str]:
    asked = [registry.resolve("metric", metric)]
    return fid_doubts(asked, samples=samples, detector=Detector(DIM), reference=against)


def test_enough_is_what_the_authors_of_fid_ask_for() -> None:
    assert enough_pictures(2048) == 10_000
    assert enough_pictures(DIM) == 313


@pytest.mark.parametrize(
    ("samples", "references", "said"),
    [
        (1000, 1000, []),
        (313, 313, []),
        (64, 1000, ["FID of 64 pictures in 64 features is far too large"]),
        (65, 1000, ["FID of 65 pictures in 64 features is too large, .* at least 313"]),
        (1000, 9, [r"FID against 9 pictures \(real\) in 64 features is far too large"]),
        (100, 200, ["FID of 100 pictures", r"FID against 200 pictures \(real\) in 64 features is too large"]),
    ],
)
def test_few_pictures_on_either_side_are_doubted(samples: int, references: int, said: list[str]) -> None:
    found = doubts(samples, reference(references))
    assert len(found) == len(said)
    for doubt, words in zip(found, said, strict=True):
        assert re.match(words, doubt)
    assert doubts(samples, reference(references), metric="kid") == []


def test_statistics_that_do_not_say_their_number_are_doubted_by_their_rank() -> None:
    (doubt,) = doubts(1000, reference(9, said=False))
    assert "its covariance has rank 8 in 64 features, as that of 9 pictures has" in doubt
    assert doubts(1000, reference(1000, said=False)) == []


def test_the_bias_that_is_doubted_is_there() -> None:
    """Two draws of one Gaussian have distance 0; with few of them FID says otherwise, and falls as they grow."""
    mean, cov = torch.zeros(DIM).double(), torch.eye(DIM).double()
    far, near, little = (fid(drawn(number), mean, cov) for number in (32, 100, 3130))
    assert far > 20 > near > 5 > 1 > little
