"""Likeness of frames whose features are known, and by a network of the class that is meant."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.metric import metric_of
from piflow_cli.metrics.moving.frame_consistency import FrameLikeness, likeness
from piflow_cli.metrics.panel import Panel

NAME = "frame-consistency"


def turned(*degrees: float) -> Tensor:
    """Features of frames that lie at these angles."""
    angles = torch.tensor(degrees).double() * math.pi / 180
    return 3 * torch.stack([angles.cos(), angles.sin()], dim=1)


def test_frames_that_say_the_same_have_one() -> None:
    assert likeness(turned(20, 20, 20)).tolist() == pytest.approx([1, 1])
    assert likeness(torch.tensor([[1.0, 0], [2.0, 0], [0.5, 0]])).tolist() == [1, 1]  # length is nothing


def test_a_turn_counts_from_the_first_frame_and_from_the_one_before() -> None:
    """Angles 0, 60, 120: (cos 60 + cos 60) / 2 and (cos 120 + cos 60) / 2. Back and forth: 1/2 and (1 + 1/2) / 2."""
    assert likeness(turned(0, 60, 120)).tolist() == pytest.approx([0.5, 0])
    assert likeness(turned(0, 60, 0)).tolist() == pytest.approx([0.5, 0.75])


def test_a_network_sees_every_frame_and_a_still_video_has_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(tmp_path / "dino")
    metric = metric_of(f"{NAME}={tmp_path / 'dino'}")
    panel = Panel.of([metric], load_detector("pixels"), device=torch.device("cpu"))
    videos = torch.rand(2, 3, 40, 28, 28)  # of more frames than are seen at once
    videos[1] = videos[1, :, :1]
    seen = panel.look(videos, None, [metric.reads])[metric.reads]
    features = load_detector(str(tmp_path / "dino"), device="cpu")(videos[0].transpose(0, 1)).features
    torch.testing.assert_close(seen.features[0], likeness(features).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.features[1], torch.ones(39))
    score = metric.compute(seen, None, labels=None, seed=0)[NAME]
    assert score == pytest.approx((seen.features[0].mean().item() + 1) / 2)
    assert panel.title(metric, NAME).startswith(f"{NAME} (dinov2")


def test_what_has_no_frames_is_refused() -> None:
    with pytest.raises(DataError, match="is of videos"):
        FrameLikeness(load_detector("pixels"))(torch.rand(2, 3, 8, 8))
    with pytest.raises(DataError, match="at least 2 frames; these are of 1"):
        likeness(turned(0))
