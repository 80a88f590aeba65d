"""What every registered objective promises: as many losses as it says, gradients in the student alone, seeded draws."""

import pytest
import torch
from torch import Tensor

from piflow_cli import registry
from piflow_cli.core.interfaces import Objective, TrainingBatch
from piflow_cli.core.interfaces.segment_losses import SegmentLosses
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.policies.gmflow.family import GMFlow

SAMPLING = SamplingSettings(nfe=3, shift=2.0, final_step_scale=0.5, total_substeps=32)
SHAPE = (2, 4, 3, 3)
FAMILY = GMFlow(num_components=2, dropout=0.3)


@pytest.fixture(params=registry.names("objective"))
def objective(request: pytest.FixtureRequest) -> Objective:
    return registry.resolve("objective", request.param)()


def run(objective: Objective, *, has_images: bool, seed: int = 0) -> tuple[list[float], Tensor, list[bool]]:
    """The losses of a micro-batch, the gradient of the network's weight, and whether the teacher ran with gradient."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.full((1,), 0.5, requires_grad=True)
    output = torch.randn((2, FAMILY.output_channels(4), 3, 3), generator=torch.Generator().manual_seed(7))
    with_gradient: list[bool] = []

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        with_gradient.append(x.requires_grad)
        return (x * sigma.view(-1, 1, 1, 1)).detach()

    batch = TrainingBatch(
        latents=torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) if has_images else None,
        shape=SHAPE,
        make_policy=lambda x, sigma: FAMILY.policy(output * weight, torch.zeros(2), x, sigma),
        teacher=teacher,
        generator=generator,
        device=torch.device("cpu"),
        segments=SegmentLosses(SAMPLING.nfe),
    )
    losses = []
    for loss in objective.losses(batch, sampling=SAMPLING, dropout=FAMILY.dropout, step=0):
        loss.backward()
        losses.append(float(loss.detach()))
    return losses, weight.grad.clone(), with_gradient


@pytest.mark.parametrize("has_images", [True, False])
def test_it_yields_as_many_losses_as_it_says(objective: Objective, has_images: bool) -> None:
    losses, gradient, with_gradient = run(objective, has_images=has_images)
    assert len(losses) == objective.num_losses(SAMPLING, has_images=has_images)
    assert all(loss > 0 for loss in losses)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert not any(with_gradient), "the teacher is asked about the student's states, not through them"


@pytest.mark.parametrize("has_images", [True, False])
def test_its_draws_are_the_generators(objective: Objective, has_images: bool) -> None:
    first, again, other = (run(objective, has_images=has_images, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_its_settings_survive_json(objective: Objective) -> None:
    assert type(objective).model_validate_json(objective.model_dump_json()) == objective
    assert objective.type in registry.names("objective")
