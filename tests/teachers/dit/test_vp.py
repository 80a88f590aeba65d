"""A diffusion network seen as a velocity field, against a Gaussian for which everything is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from piflow_cli.core.sampling import sample_euler
from piflow_cli.core.schedule import Shift
from piflow_cli.errors import ModelError
from piflow_cli.teachers.dit.backbone import DiTBackbone
from piflow_cli.teachers.dit.family import DiT
from piflow_cli.teachers.dit.space import DiTSpace
from piflow_cli.teachers.dit.teacher import DiTTeacher
from piflow_cli.teachers.dit.vp import VariancePreserving

MEAN, STD = 0.7, 0.4
SCHEDULERS = {
    "linear": {"beta_schedule": "linear", "num_train_timesteps": 1000},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "trained": {"trained_betas": [0.1, 0.2, 0.3, 0.4, 0.5]},
}


class GaussianNoisePredictor(nn.Module):
    """The exact noise prediction for x_0 ~ N(MEAN, STD^2 I), in the place of a DiT: E[noise | z] at a network time."""

    def __init__(self, schedule: VariancePreserving) -> None:
        super().__init__()
        abar = torch.tensor(schedule.abar, dtype=torch.float64)
        self.log_ratio = 0.5 * ((1 - abar) / abar).log()
        self.pos_embed = nn.Module()
        self.pos_embed.proj = nn.Conv2d(1, 1, 1).double()

    def forward(self, z: Tensor, *, timestep: Tensor, class_labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        """(B, C, H, W) noise at z and times (B,)."""
        t = timestep.double()
        left = t.floor().long().clamp(max=len(self.log_ratio) - 2)
        log_ratio = torch.lerp(self.log_ratio[left], self.log_ratio[left + 1], t - left)
        a = (1 + (2 * log_ratio).exp()).rsqrt().view(-1, 1, 1, 1)
        b = (1 - a.square()).sqrt()
        return (b * (z - a * MEAN) / (a.square() * STD**2 + b.square()),)


def exact_velocity(x: Tensor, sigma: Tensor) -> Tensor:
    """E[noise - x_0 | x_t] for the Gaussian."""
    sigma = sigma.view(-1, 1, 1, 1)
    spread = (1 - sigma).square() * STD**2 + sigma.square()
    centred = (x - (1 - sigma) * MEAN) / spread
    return sigma * centred - (MEAN + (1 - sigma) * STD**2 * centred)


def sigma_of(abar: float) -> float:
    """The noise level of the same noise-to-signal ratio."""
    ratio = math.sqrt((1 - abar) / abar)
    return ratio / (1 + ratio)


def wrapped_velocity(schedule: VariancePreserving, x: Tensor, sigma: Tensor) -> Tensor:
    backbone = DiTBackbone(latent_channels=1, patch_size=1, timestep_scale=1.0, diffusion=schedule)
    epsilon = backbone.predict(GaussianNoisePredictor(schedule), x, sigma, torch.zeros(len(x), dtype=torch.long))
    return schedule.velocity(epsilon, x, sigma)


@pytest.mark.parametrize("config", SCHEDULERS.values(), ids=SCHEDULERS)
def test_velocity_is_the_exact_flow_velocity_at_every_noise_level_of_the_schedule(config: dict) -> None:
    schedule = VariancePreserving.from_config(config)
    sigma = torch.linspace(sigma_of(schedule.abar[0]), sigma_of(schedule.abar[-1]), 401, dtype=torch.float64)
    x = torch.randn((401, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = wrapped_velocity(schedule, x, sigma)
    torch.testing.assert_close(u, exact_velocity(x, sigma), rtol=1e-6, atol=1e-6)


def test_velocity_is_finite_and_close_beyond_the_ends_of_the_schedule() -> None:
    schedule = VariancePreserving.from_config(SCHEDULERS["linear"])
    last = sigma_of(schedule.abar[-1])
    sigma = torch.tensor([0.0, 1e-3, (1 + last) / 2, 1.0], dtype=torch.float64)
    spread = ((1 - sigma) ** 2 * STD**2 + sigma**2).sqrt().view(-1, 1, 1, 1)
    draws = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (1 - sigma.view(-1, 1, 1, 1)) * MEAN + spread * draws
    error = (wrapped_velocity(schedule, x, sigma) - exact_velocity(x, sigma)).abs().amax((1, 2, 3))
    assert torch.isfinite(error).all()
    assert error[2:].max() < 0.01  # x_0 is estimated at the last level, which holds 0.6% of it
    assert error[:2].max() < 0.1  # the network's first level has 1% of noise; below it, it expects too much


def test_velocity_is_continuous_at_the_last_level() -> None:
    schedule = VariancePreserving.from_config(SCHEDULERS["linear"])
    last = sigma_of(schedule.abar[-1])
    x = torch.randn((1, 1, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    below, above = (
        wrapped_velocity(schedule, x, torch.tensor([last + step], dtype=torch.float64)) for step in (-1e-9, 1e-9)
    )
    torch.testing.assert_close(below, above, rtol=0, atol=1e-5)


def test_sampling_the_wrapped_teacher_gives_the_gaussian() -> None:
    schedule = VariancePreserving.from_config(SCHEDULERS["linear"])
    teacher = DiTTeacher(
        name="gaussian",
        module=GaussianNoisePredictor(schedule),
        backbone=DiTBackbone(latent_channels=1, patch_size=1, timestep_scale=1.0, diffusion=schedule),
        space=DiTSpace(labels={0: "only"}, latent_shape=(1, 2, 2)),
        settings=DiT(source="none"),
        network={},
    )
    noise = torch.randn((8, 1, 2, 2), generator=torch.Generator().manual_seed(3))
    labels = torch.zeros(8, dtype=torch.long)
    wrapped = sample_euler(lambda x, s: teacher.velocity(x, s, labels), noise, num_steps=64, shift=Shift(1.0))
    exact = sample_euler(lambda x, s: exact_velocity(x, s), noise, num_steps=64, shift=Shift(1.0))
    torch.testing.assert_close(wrapped, exact, rtol=0, atol=2e-3)
    torch.testing.assert_close(wrapped, MEAN + STD * noise, rtol=0, atol=0.05)  # Euler's own error is most of this


def test_times_are_the_schedules_own_steps_and_interpolated_between_them() -> None:
    schedule = VariancePreserving.from_config(SCHEDULERS["linear"])
    steps = torch.tensor([0, 1, 17, 500, 998, 999])
    sigma = torch.tensor([sigma_of(schedule.abar[i]) for i in steps], dtype=torch.float64)
    torch.testing.assert_close(schedule.timestep(sigma), steps.double(), rtol=0, atol=1e-6)
    between = schedule.timestep((sigma[2] + torch.tensor([sigma_of(schedule.abar[18])], dtype=torch.float64)) / 2)
    assert 17 < float(between) < 18
    assert schedule.timestep(torch.tensor([0.0, 1.0])).tolist() == [0.0, 999.0]


def test_input_has_unit_scale_in_the_diffusion_sense() -> None:
    schedule = VariancePreserving.from_config(SCHEDULERS["linear"])
    x_0, noise = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    abar = torch.tensor([schedule.abar[i] for i in (0, 400, 999)], dtype=torch.float64)
    sigma = torch.tensor([sigma_of(value) for value in abar.tolist()], dtype=torch.float64)
    x_t = (1 - sigma.view(-1, 1, 1, 1)) * x_0 + sigma.view(-1, 1, 1, 1) * noise
    z = abar.sqrt().view(-1, 1, 1, 1) * x_0 + (1 - abar).sqrt().view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(schedule.scale_input(x_t, sigma), z)


def test_default_schedule_is_that_of_diffusers() -> None:
    from diffusers import DDIMScheduler

    for kind in ("linear", "scaled_linear"):
        scheduler = DDIMScheduler(beta_schedule=kind)
        ours = torch.tensor(VariancePreserving.from_config(dict(scheduler.config)).abar)
        torch.testing.assert_close(ours, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is 'squaredcos_cap_v2'"),
        ({"prediction_type": "v_prediction"}, "prediction_type is 'v_prediction'"),
        ({"prediction_type": "sample"}, "must predict epsilon"),
    ],
)
def test_unknown_schedules_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        VariancePreserving.from_config(config)
