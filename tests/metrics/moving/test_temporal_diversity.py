"""Temporal diversity of videos whose changes are known: stills, fades, shifts, flicker, and motion that is lost."""

import math

import pytest
import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import FeatureSet
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.intervals.jackknife import scores_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import metric_of
from piflow_cli.metrics.moving.temporal_diversity import frame_changes, temporal_diversity
from piflow_cli.metrics.panel import Panel

NAME = "temporal-diversity"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double()


def score(videos: Tensor) -> float:
    """Through the panel, as a benchmark has it."""
    metric = metric_of(NAME)
    panel = Panel.of([metric], load_detector("pixels"), device=torch.device("cpu"))
    seen = panel.look(videos.float(), None, [metric.reads])[metric.reads]
    return metric.compute(seen, None, labels=None, seed=0)[NAME]


def test_a_still_video_has_nothing() -> None:
    assert score(noise(3, 3, 1, 8, 6).expand(-1, -1, 7, -1, -1)) == 0


def test_a_fade_has_its_slope_and_a_jump_counts_once() -> None:
    levels = torch.linspace(0, 0.8, 5).view(1, 1, 5, 1, 1).expand(2, 3, 5, 4, 6)
    torch.testing.assert_close(frame_changes(levels), torch.full((2, 4), 0.2).double())
    jump = torch.zeros(1, 3, 5, 4, 6)
    jump[:, :, 3:] = 1
    assert frame_changes(jump).tolist() == [[0, 0, 1, 0]]
    assert score(jump) == pytest.approx(1 / 4)
    assert score(1 - jump) == pytest.approx(1 / 4)  # both ways the same


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_moving_bar_changes_two_stripes_of_its_step(step: int) -> None:
    """A white bar of 4 columns on 32 that moves by s columns a frame leaves s and takes s: 2 s / 32."""
    videos = torch.zeros(1, 3, 5, 4, 32)
    for frame in range(5):
        videos[:, :, frame, :, frame * step : frame * step + 4] = 1
    assert score(videos) == pytest.approx(2 * step / 32)


def test_flicker_adds_twice_its_deviation_over_the_root_of_pi() -> None:
    generator = torch.Generator().manual_seed(0)
    videos = 0.5 + 0.05 * torch.randn(4, 3, 9, 64, 64, generator=generator)
    assert score(videos) == pytest.approx(2 * 0.05 / math.sqrt(math.pi), rel=1e-2)


def test_what_a_frozen_student_loses_shows() -> None:
    """The same videos with half the motion, and with none; fewer frames of the same speed have the same."""
    teacher = noise(6, 3, 9, 8, 8, seed=1)
    middle = teacher.mean(dim=2, keepdim=True)
    assert score(middle + 0.5 * (teacher - middle)) == pytest.approx(score(teacher) / 2)
    assert score(teacher[:, :, :1].expand_as(teacher)) == 0
    fade = torch.linspace(0, 1, 9).view(1, 1, 9, 1, 1).expand(1, 3, 9, 2, 2)
    assert score(fade[:, :, :5]) == pytest.approx(score(fade))


def test_a_video_is_one_sample_of_the_intervals() -> None:
    """Videos of changes 0.1 to 0.6 in three parts: without each part, the mean of the other four."""
    sizes = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    videos = sizes.view(6, 1, 1, 1, 1) * torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 3, 1, 1).expand(6, 3, 3, 2, 2)
    features = FeatureSet(frame_changes(videos))
    parts = Parts(torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    found = scores_without(metric_of(NAME), features, None, parts, labels=None, seed=0)
    assert found[NAME] == pytest.approx([0.45, 0.35, 0.25])


def test_what_has_no_time_is_refused() -> None:
    for images in (noise(2, 3, 8, 8), noise(2, 3, 1, 8, 8)):
        with pytest.raises(DataError, match=r"videos of at least 2 frames.*these are \(2, 3"):
            frame_changes(images)
    with pytest.raises(DataError, match="hold NaN"):
        temporal_diversity(torch.full((2, 4), math.nan))
    with pytest.raises(DataError, match="reads pixels and no network"):
        metric_of(f"{NAME}=facebook/dinov2-base")
