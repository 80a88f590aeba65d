"""Integrating a policy: the grid of substeps, Euler's order, mean velocities, and the published numbers."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from parity import assert_close, assert_within, load, names, out
from reference import (
    OUTPUT_KEYS,
    Outputs,
    Stepped,
    doubled,
    fixture_policy,
    fixture_shift,
    float32_allowance,
    plain,
    random_grid,
    random_mixture,
    summed_time_error,
)
from torch import Tensor

from piflow_cli.core.flow import match_dims
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.rollout import count_substeps, euler_rollout, mean_velocity, substep_sigmas
from piflow_cli.core.schedule import Shift

CASES = names("rollout")
MEANS = {"average_u": "raw_t_end", "average_u_mixed": "avg2_raw_t_end", "average_u_short": "avg3_raw_t_end"}


@dataclass(frozen=True)
class GaussianFlow(Stepped):
    """The exact velocity field of data N(mean, std^2): (x - (1 - sigma) mean) / scale(sigma) is constant along it."""

    mean: float = 0.7
    std: float = 0.4

    def scale(self, sigma: Tensor) -> Tensor:
        return torch.hypot((1 - sigma) * self.std, sigma)

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = match_dims(sigma, x)
        growth = (sigma - (1 - sigma) * self.std**2) / self.scale(sigma).square()  # of log scale
        return -self.mean + (x - (1 - sigma) * self.mean) * growth

    def flow(self, x: Tensor, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """The exact solution from sigma to sigma_to."""
        sigma, sigma_to = match_dims(sigma, x), match_dims(sigma_to, x)
        return (1 - sigma_to) * self.mean + (x - (1 - sigma) * self.mean) * self.scale(sigma_to) / self.scale(sigma)


def rollout_setting(name: str) -> tuple[dict[str, Tensor], dict[str, float | Shift], dict]:
    tensors, settings = load(name)
    steps = {"shift": fixture_shift(settings), "total_substeps": settings["total_substeps"]}
    return tensors, steps, settings


def rollout_outputs(tensors: dict[str, Tensor], steps: dict, settings: dict, make=lambda policy: policy) -> Outputs:
    """The end state and the mean velocities of a rollout fixture, by the policy or what `make` turns it into."""
    output = {key: tensors[f"in/{key}"] for key in OUTPUT_KEYS[settings["kind"]]}
    x_src, sigma_src = tensors["in/x_t_src"], tensors["in/sigma_t_src"]
    policy: Policy = make(fixture_policy(output, x_src, sigma_src, settings["policy_kwargs"]))
    x, tau = tensors["in/x_t_start"], tensors["in/raw_t_start"]
    outputs = {"x_t_end": policy.rollout(x, tau, tensors["in/raw_t_end"], **steps)}
    for key, end in MEANS.items():
        outputs[key] = mean_velocity(policy, x, tau, tensors[f"in/{end}"], **steps)
    return outputs


@pytest.mark.parametrize("name", CASES)
def test_rollouts_agree_with_the_published_code(name):
    """Published end states lie within their own stated error of ours in float64, and so do ours in float32.

    A mean velocity is the difference of two states over a span of sigma as short as 2 / 128: its allowance is measured
    on the quotient, so the span is in it.
    """
    tensors, steps, settings = rollout_setting(name)
    ours = rollout_outputs(tensors, steps, settings)
    exact = rollout_outputs(doubled(tensors), steps, settings)
    jittered = {"in/x_t_start", "in/x_t_src", *(f"in/{key}" for key in OUTPUT_KEYS[settings["kind"]])}
    allowance = float32_allowance(
        lambda inputs: rollout_outputs(inputs, steps, settings, make=plain), tensors, jittered=jittered
    )
    stated = settings["x_t_end_abs_err_fp32_vs_fp64"]["v0_1_2"]
    assert_within(out(tensors, "x_t_end"), exact["x_t_end"], stated)
    assert_within(ours["x_t_end"], exact["x_t_end"], stated)
    for key in MEANS:
        assert_within(out(tensors, key), exact[key], allowance[key])
        assert_within(ours[key], exact[key], allowance[key])


@pytest.mark.parametrize("name", CASES)
def test_rollouts_end_where_the_published_code_does(name):
    """Its times are sums of substeps in float32; ours are placed in float64."""
    tensors, steps, _ = rollout_setting(name)
    sigma_end = steps["shift"].sigma(tensors["in/raw_t_end"])
    error = summed_time_error(steps["total_substeps"], steps["shift"])
    assert_within(out(tensors, "sigma_t_end"), sigma_end, error)
    assert_within(out(tensors, "t_end"), sigma_end, error)


def test_substeps_are_rounded_and_at_least_one():
    spans = torch.tensor([0.0, 0.4, 0.6, 1.4, 1.6, 32.0]) / 128
    counts = count_substeps(torch.ones(6), 1 - spans, total_substeps=128)
    assert counts.tolist() == [1, 1, 1, 1, 2, 32]


def test_substeps_are_uniform_in_raw_time_and_end_exactly():
    tau_from, tau_to = torch.tensor([1.0, 0.5, 0.5]), torch.tensor([0.5, 3 / 7, 0.5])
    shift = Shift(3.2)
    taus, sigmas = substep_sigmas(tau_from, tau_to, shift=shift, total_substeps=16)
    assert taus.dtype == torch.float64
    assert torch.equal(taus[0], tau_from.double())
    assert torch.equal(taus[-1], tau_to.double())
    assert_close(taus[:, 0].diff(), torch.full((8,), -1 / 16, dtype=torch.float64))
    assert (taus[1:, 1] == taus[1, 1]).all()  # one substep, then it stays
    assert (taus[:, 2] == 0.5).all()
    assert_close(sigmas, shift.sigma(taus))


@pytest.mark.parametrize("m", [1.0, 3.2])
def test_euler_is_of_first_order(m):
    policy, shift = GaussianFlow(), Shift(m)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, end = torch.tensor([1.0, 0.9]).double(), torch.tensor([0.1, 0.4]).double()
    exact = policy.flow(x, shift.sigma(start), shift.sigma(end))
    counts, errors = [16, 32, 64, 128, 256], []
    for count in counts:
        stepped = euler_rollout(policy, x, start, end, shift=shift, total_substeps=count)
        errors.append((stepped - exact).abs().max().item())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize(
    "policy", [GaussianFlow(), random_mixture(batch=2), random_grid(batch=2)], ids=lambda p: type(p).__name__
)
def test_rollouts_compose_where_substeps_align(policy):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    start, middle, end = torch.ones(2), torch.tensor([0.75, 0.875]), torch.tensor([0.5, 0.625])
    steps = {"shift": Shift(3.2), "total_substeps": 64}
    halfway = euler_rollout(policy, x, start, middle, **steps)
    twice = euler_rollout(policy, halfway, middle, end, **steps)
    assert_close(twice, euler_rollout(policy, x, start, end, **steps), rtol=1e-5, atol=5e-6)


def test_samples_of_one_batch_do_not_mix():
    policy = GaussianFlow()
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    start, end = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.0, 0.7, 0.5])
    steps = {"shift": Shift(3.2), "total_substeps": 32}
    together = euler_rollout(policy, x, start, end, **steps)
    for i in range(3):
        alone = euler_rollout(policy, x[i : i + 1], start[i : i + 1], end[i : i + 1], **steps)
        assert_close(together[i : i + 1], alone)
    assert torch.equal(together[2], x[2])


def test_mean_velocity_times_its_span_is_the_way_walked():
    policy, shift = random_mixture(dtype=torch.float64), Shift(3.2)
    x, start, end = policy.x_src, torch.ones(3).double(), torch.tensor([0.9, 0.5, 0.2]).double()
    steps = {"shift": shift, "total_substeps": 128}
    mean = mean_velocity(policy, x, start, end, **steps)
    way = policy.rollout(x, start, end, **steps) - x
    assert_close(mean * match_dims(shift.sigma(end) - shift.sigma(start), x), way, rtol=1e-10, atol=1e-12)


def test_mean_velocity_of_a_short_window_is_instantaneous():
    policy, shift = random_mixture(), Shift(3.2)
    tau = torch.tensor([0.9, 0.8, 0.7])
    lengths = torch.tensor([0.0, 1.4, 2.0]) / 128
    mean = mean_velocity(policy, policy.x_src, tau, tau - lengths, shift=shift, total_substeps=128)
    instantaneous = policy.velocity(policy.x_src, shift.sigma(tau))
    assert_close(mean[:2], instantaneous[:2])
    assert not torch.allclose(mean[2], instantaneous[2], atol=1e-4)


def test_mean_velocity_never_divides_by_less_than_its_floor():
    policy = random_mixture(batch=1, sigma_src=1e-5)
    tau = torch.tensor([1e-5])
    mean = mean_velocity(policy, policy.x_src, tau, torch.zeros(1), shift=Shift(), total_substeps=10**6)
    assert torch.isfinite(mean).all()
    assert math.isfinite(mean.abs().max())
