"""Diversity of features whose distances are known."""

import itertools
import math

import pytest
import torch

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.diversity import GROUPS, METRIC, diversity


def test_diversity_is_the_mean_distance_of_pairs_within_groups_written_out() -> None:
    features = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(24) % 3  # 3 groups of 8, not in one piece
    means = []
    for group in range(3):
        rows = [row for row, number in zip(features.tolist(), groups.tolist(), strict=True) if number == group]
        pairs = list(itertools.combinations(rows, 2))
        assert len(pairs) == 28
        means.append(sum(math.dist(a, b) for a, b in pairs) / len(pairs))
    assert diversity(features, groups) == pytest.approx(sum(means) / 3, rel=1e-9)


def test_distance_between_groups_does_not_count() -> None:
    square = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    features = torch.cat([square, square + 1000, square[:1].repeat(2, 1)])
    assert diversity(features, torch.tensor([7, 7, 2, 2, 5, 5])) == pytest.approx(10 / 3)


def test_diversity_scales_with_the_features_and_is_zero_for_equal_pictures() -> None:
    features = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(2).repeat_interleave(8)
    assert diversity(3 * features, groups) == pytest.approx(3 * diversity(features, groups))
    assert diversity(features[:1].repeat(16, 1), groups) == 0


def test_metric_asks_for_eight_pictures_of_each_of_64_prompts() -> None:
    assert (GROUPS.num_groups, GROUPS.group_size) == (64, 8)
    assert METRIC.groups == GROUPS
    assert METRIC.better == "higher"


@pytest.mark.parametrize(
    ("features", "groups", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3), "4 pictures but groups of 3"),
        (torch.zeros(3, 2), torch.tensor([0, 0, 1]), "at least 2 pictures of every prompt"),
        (torch.zeros(0, 2), torch.zeros(0), "at least 2 pictures"),
        (torch.full((2, 2), torch.nan), torch.zeros(2), "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(features: torch.Tensor, groups: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        diversity(features, groups)


def test_without_groups_there_is_no_diversity() -> None:
    with pytest.raises(DataError, match="which prompt or class"):
        METRIC.compute(FeatureSet(torch.zeros(4, 2)), None, labels=None, seed=0)
