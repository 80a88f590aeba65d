"""Vendi score and DINO diversity of vectors whose answer is known."""

import itertools
import math

import pytest
import torch

from piflow_cli.errors import DataError
from piflow_cli.metrics.metric import Groups
from piflow_cli.metrics.variety.dino_diversity import METRIC, pair_distance
from piflow_cli.metrics.variety.vendi import vendi


def test_vendi_counts_pictures_that_have_nothing_in_common() -> None:
    assert vendi(torch.eye(6)) == pytest.approx(6)
    assert vendi(torch.eye(6, 3).index_select(0, torch.tensor([0, 1, 2, 0, 1, 2]))) == pytest.approx(3)
    assert vendi(torch.ones(6, 4)) == pytest.approx(1)


def test_vendi_of_two_pictures_is_the_entropy_of_their_cosine() -> None:
    angle = 0.7
    pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    shares = (1 + math.cos(angle)) / 2, (1 - math.cos(angle)) / 2
    assert vendi(3 * pair) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_vendi_is_that_of_the_whole_kernel_whichever_side_is_shorter(shape: tuple[int, int]) -> None:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    values = torch.linalg.eigvalsh(kernel / len(features)).clamp(min=1e-300)
    assert vendi(features) == pytest.approx(math.exp(-(values * values.log()).sum()), rel=1e-6)


def test_vendi_needs_features() -> None:
    for features in (torch.zeros(0, 2), torch.zeros(3, 2), torch.full((2, 2), torch.nan)):
        with pytest.raises(DataError, match="finite and not all 0"):
            vendi(features)


def test_dino_diversity_is_the_mean_of_the_six_pairs_written_out() -> None:
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(8) % 2
    means = []
    for group in (0, 1):
        rows = [row for row, number in zip(features.tolist(), groups.tolist(), strict=True) if number == group]
        pairs = list(itertools.combinations(rows, 2))
        assert len(pairs) == 6
        cosines = [sum(map(math.prod, zip(a, b, strict=True))) / (math.hypot(*a) * math.hypot(*b)) for a, b in pairs]
        means.append(sum(1 - c for c in cosines) / 6)
    assert pair_distance(features, groups) == pytest.approx(sum(means) / 2, rel=1e-6)


def test_dino_diversity_of_equal_and_of_orthogonal_pictures() -> None:
    groups = torch.zeros(4)
    assert pair_distance(torch.ones(4, 3), groups) == pytest.approx(0, abs=1e-12)
    assert pair_distance(torch.eye(4), groups) == pytest.approx(1)
    assert METRIC.groups == Groups(num_groups=64, group_size=4)
    with pytest.raises(DataError, match="at least 2 pictures"):
        pair_distance(torch.ones(1, 3), torch.zeros(1))
    with pytest.raises(DataError, match="not finite"):
        pair_distance(torch.full((2, 3), torch.inf), torch.zeros(2))
