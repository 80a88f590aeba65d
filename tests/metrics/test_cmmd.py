"""CMMD written out, on one set and on two points whose answer is known."""

import math

import pytest
import torch

from piflow_cli.metrics.cmmd import METRIC, cmmd, cmmd_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Features


def test_cmmd_is_the_kernel_of_all_pairs_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piflow_cli.metrics.intervals.kernels.ROWS_AT_ONCE", 3)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 5, generator=generator), torch.randn(4, 5, generator=generator) + 1
    unit = [[[v / math.hypot(*row) for v in row] for row in side.tolist()] for side in (x, y)]

    def mean_kernel(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(math.exp(-(math.dist(u, v) ** 2) / 200) for u in a for v in b) / (len(a) * len(b))

    expected = 1000 * (mean_kernel(unit[0], unit[0]) + mean_kernel(unit[1], unit[1]) - 2 * mean_kernel(*unit))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-6)


def test_cmmd_of_opposite_points_is_that_of_the_paper_and_of_one_set_0() -> None:
    point = torch.tensor([[3.0, 0.0]])
    assert cmmd(point, -point) == pytest.approx(2000 * (1 - math.exp(-4 / 200)))
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    assert cmmd(features, features) == pytest.approx(0, abs=1e-9)
    assert cmmd(5 * features, features) == pytest.approx(0, abs=1e-9)


def test_cmmd_reads_clip_of_336_pixels() -> None:
    assert METRIC.reads == Features("openai/clip-vit-large-patch14-336")
    assert METRIC.better == "lower"


@pytest.mark.parametrize("whole", [True, False])
def test_cmmd_without_parts_is_that_of_the_pictures_that_are_left(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piflow_cli.metrics.intervals.kernels.ROWS_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(20, 5, generator=generator), torch.randn(20, 5, generator=generator) + 1
    own = torch.arange(20) % 4
    found = cmmd_without(x, y, Parts(own, 4, None if whole else own))
    expected = [cmmd(x[own != part], y if whole else y[own != part]) for part in range(4)]
    assert found == pytest.approx(expected, rel=1e-9)
