"""The teacher's solvers: their order of convergence, what they cost, and the time grid they share."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from piflow_cli.core.schedule import Shift
from piflow_cli.engine.benchmark.solvers import SOLVERS, num_evaluations, solve


class Gaussian:
    """The exact velocity for x_0 ~ N(0.7, 0.3^2 I), whose flow ends at 0.7 + 0.3 noise; it notes where it was asked."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """u (B, C) at x (B, C), sigma (B,)."""
        self.sigmas.append(float(sigma[0]))
        sigma = sigma.view(-1, 1)
        centred = (x - (1 - sigma) * 0.7) / ((1 - sigma).square() * 0.09 + sigma.square())
        return sigma * centred - (0.7 + (1 - sigma) * 0.09 * centred)


NOISE = torch.randn((32, 4), generator=torch.Generator().manual_seed(0))


def error(solver: str, num_steps: int, *, m: float = 1.0) -> float:
    x_0 = solve(solver, Gaussian(), NOISE, num_steps=num_steps, shift=Shift(m))
    return float((x_0 - (0.7 + 0.3 * NOISE)).abs().max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1.0), ("heun", 2.0)])
def test_error_falls_with_the_solvers_order(solver: str, order: float) -> None:
    errors = [error(solver, steps) for steps in (32, 64, 128)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("m", [1.0, 3.2])
@pytest.mark.parametrize("solver", ["unipc", "dpmsolver++"])
def test_multistep_solvers_are_better_than_euler_at_equal_cost(solver: str, m: float) -> None:
    for steps in (16, 64, 128):
        assert error(solver, steps, m=m) < 0.8 * error("euler", steps, m=m)
    assert error(solver, 512, m=m) < 0.15 * error("euler", 512, m=m)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_eulers(solver: str) -> None:
    """With one evaluation at pure noise there is nothing else to do: x_0 = x - u."""
    x_0 = solve(solver, Gaussian(), NOISE, num_steps=1, shift=Shift(3.2))
    torch.testing.assert_close(x_0, NOISE - Gaussian()(NOISE, torch.ones(32)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted_and_on_the_shared_grid(solver: str, num_steps: int) -> None:
    field, shift = Gaussian(), Shift(3.2)
    solve(solver, field, NOISE, num_steps=num_steps, shift=shift)
    assert len(field.sigmas) == num_evaluations(solver, num_steps)
    grid = [float(shift.sigma(1 - i / num_steps)) for i in range(num_steps)]
    assert sorted(set(field.sigmas), reverse=True) == pytest.approx(grid, abs=2e-6)


def test_euler_is_diffusers_euler() -> None:
    shift, num_steps = Shift(3.0), 6
    ours = solve("euler", Gaussian(), NOISE, num_steps=num_steps, shift=shift)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift.m)
    scheduler.set_timesteps(sigmas=[1 - i / num_steps for i in range(num_steps)])
    x = NOISE
    for t in scheduler.timesteps:
        x = scheduler.step(Gaussian()(x, (t / 1000).expand(len(x))), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_keep_shape_and_leave_the_noise_alone(solver: str) -> None:
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    before = noise.clone()
    x_0 = solve(solver, lambda x, _: x, noise, num_steps=3, shift=Shift(1.0))
    assert x_0.shape == noise.shape
    assert x_0.dtype == torch.float32
    assert torch.equal(noise, before)
