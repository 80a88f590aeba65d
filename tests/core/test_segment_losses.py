"""Losses by segment: what is written down adds up to what is trained on."""

import pytest
import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.interfaces import TrainingBatch
from piflow_cli.core.interfaces.segment_losses import SegmentLosses, unpacked
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.policies.dx import DX

SAMPLING = SamplingSettings(nfe=3, total_substeps=24, shift=2.0, final_step_scale=0.5)
SHAPE = (6, 2, 3, 3)


def run(*, has_images: bool, seed: int) -> tuple[list[float], list[float | None]]:
    """The losses of a step, and those of its segments."""
    family = DX(num_points=3, segment_size=0.4, shift=2.0)
    output = torch.randn((6, family.output_channels(2), 3, 3), generator=torch.Generator().manual_seed(7))
    segments = SegmentLosses(3)

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        return x * sigma.view(-1, 1, 1, 1)

    batch = TrainingBatch(
        latents=torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) if has_images else None,
        shape=SHAPE,
        make_policy=lambda x, sigma: family.policy(output, torch.zeros(6), x, sigma),
        teacher=teacher,
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
        segments=segments,
    )
    objective = registry.resolve("objective", "imitation")()
    losses = [float(loss) for loss in objective.losses(batch, sampling=SAMPLING, dropout=0.0, step=0)]
    return losses, unpacked(segments.packed().tolist())


def test_without_pictures_segments_weighted_by_their_length_are_the_losses() -> None:
    losses, parts = run(has_images=False, seed=0)
    lengths = [0.4, 0.4, 0.2]
    assert [part * length for part, length in zip(parts, lengths, strict=True)] == pytest.approx(losses, rel=1e-5)


def test_with_pictures_samples_of_all_segments_are_the_loss() -> None:
    (loss,), parts = run(has_images=True, seed=1)
    tau = 1 - torch.rand(6, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(SAMPLING.segments.index(tau), minlength=3).tolist()
    assert all((part is None) == (count == 0) for part, count in zip(parts, counts, strict=True))
    total = sum(part * count for part, count in zip(parts, counts, strict=True) if count)
    assert total / 6 == pytest.approx(loss, rel=1e-5)


def test_the_mean_over_processes_is_that_of_all_samples() -> None:
    one, other, both = SegmentLosses(2), SegmentLosses(2), SegmentLosses(2)
    for losses, index, values in ((one, [0, 0], [1.0, 2.0]), (other, [0, 1], [6.0, 5.0])):
        losses.add(torch.tensor(index), torch.tensor(values))
        both.add(torch.tensor(index), torch.tensor(values))
    mean = (one.packed() + other.packed()) / 2
    assert unpacked(mean.tolist()) == unpacked(both.packed().tolist()) == [3.0, 5.0]
