"""How metrics of pictures see videos: by stills, a video staying one sample, and by nothing where they take none."""

from pathlib import Path

import pytest
import torch
from tiny_judges import save_clip
from torch import Tensor

from piflow_cli.metrics.detectors.load import load_detector
from piflow_cli.metrics.metric import WHOLE, Features, Metric, metric_of
from piflow_cli.metrics.panel import Panel
from piflow_cli.metrics.texture.grid_energy import line_powers
from piflow_cli.registry import names, resolve

CPU = torch.device("cpu")
STILLS = [0, 3, 5, 8]
"""Of 9 frames."""


def videos(count: int = 3, frames: int = 9, size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.rand(count, 3, frames, *size, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_stills_side_by_side() -> None:
    panel = Panel.of([], load_detector("pixels"), device=CPU)
    seen = panel.look(videos(), None, [WHOLE])[WHOLE].features
    assert seen.shape == (3, 4 * 768)
    each = [panel.look(videos()[:, :, frame], None, [WHOLE])[WHOLE].features for frame in STILLS]
    torch.testing.assert_close(seen, torch.cat(each, dim=1))
    short = panel.look(videos(frames=2), None, [WHOLE])[WHOLE].features
    assert short.shape == (3, 2 * 768)


def test_a_judge_says_the_mean_of_the_stills_by_the_videos_own_prompt(tmp_path: Path) -> None:
    metric = metric_of(f"clip-score={save_clip(tmp_path)}")
    panel = Panel.of([metric], load_detector("pixels"), device=CPU)
    prompts = ["a red cat", "a blue dog", "a house"]
    seen = panel.look(videos(), prompts, [metric.reads])[metric.reads].features
    each = [panel.look(videos()[:, :, frame], prompts, [metric.reads])[metric.reads].features for frame in STILLS]
    torch.testing.assert_close(seen, torch.stack(each).mean(dim=0))
    others = panel.look(videos(), prompts[::-1], [metric.reads])[metric.reads].features
    assert not torch.allclose(seen, others)


def test_powers_are_means_over_the_stills() -> None:
    metric = metric_of("grid-energy").on_patches((8, 8))
    panel = Panel.of([metric], load_detector("pixels"), device=CPU)
    seen = panel.look(videos(), None, [metric.reads])[metric.reads].features
    each = torch.stack([line_powers(videos()[:, :, frame], (8, 8)) for frame in STILLS])
    torch.testing.assert_close(seen, each.mean(dim=0).float())


@pytest.mark.parametrize("name", names("metric"))
def test_every_registered_metric_says_what_it_takes(name: str) -> None:
    """Fréchet distances and the like are of pictures alone; what takes videos alone reads them whole."""
    metric: Metric = resolve("metric", name)
    assert metric.takes in ("pictures", "videos", "both")
    whole = isinstance(metric.reads, Features) and metric.reads.frames == "all"
    assert whole == (metric.takes == "videos")
    if metric.frechet or metric.needs_reference or metric.needs_logits:
        assert metric.takes == "pictures"
