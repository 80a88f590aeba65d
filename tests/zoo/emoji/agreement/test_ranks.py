"""Spearman's coefficient and its interval, against known cases and another implementation."""

import pytest
import torch
from scipy.stats import spearmanr

from piflow_cli.zoo.emoji.build.agreement.ranks import agreement, ranks


def test_equal_scores_share_their_places() -> None:
    assert ranks([3.0, 1.0, 3.0, 0.5]).tolist() == [3.5, 2.0, 3.5, 1.0]


def test_any_rising_map_agrees_wholly() -> None:
    scores = [1.0, 5.0, 2.0, 9.0, 4.0]
    assert agreement(scores, [s**3 for s in scores]) == (1.0, 1.0, 1.0)
    assert agreement(scores, [-s for s in scores]) == (-1.0, -1.0, -1.0)


def test_coefficient_is_scipys() -> None:
    drawn = torch.randint(0, 20, (2, 30), generator=torch.Generator().manual_seed(0)).double().tolist()
    assert agreement(*drawn).rho == pytest.approx(spearmanr(*drawn).statistic, abs=1e-12)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Pairs of normals with a correlation of 0.8 have a Spearman's coefficient of 6/pi asin(0.4) = 0.786."""
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        x, noise = torch.randn(2, 30, generator=generator, dtype=torch.float64)
        found = agreement(x.tolist(), (0.8 * x + 0.6 * noise).tolist())
        covered += found.low < 0.7859 < found.high
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize("second", [[1.0] * 5, [1.0, 2.0]])
def test_what_has_no_order_is_refused(second: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no order|as many of both"):
        agreement([1.0, 2.0, 3.0, 4.0, 5.0], second)
