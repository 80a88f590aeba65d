"""Sampling: the one loop of evaluations and rollouts that all students share, and the teacher's Euler loop.

Shapes: B batch, C latent channels, S spatial dims.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from piflow_cli.core.flow import Generators, randn_like_seeded
from piflow_cli.core.interfaces import Condition, Policy, PolicyFamily
from piflow_cli.core.schedule import FlowMapStep, Shift, flow_map_steps
from piflow_cli.core.settings import SamplingSettings
from piflow_cli.core.student import make_policy

T = TypeVar("T")


@dataclass
class Stopwatch:
    """Wall time of a sampling loop by what spent it, in seconds."""

    network_s: float = 0.0
    policy_s: float = 0.0


def timed(function: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What a function returns, and the wall time it took in seconds, its work on a CUDA device included."""
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


@torch.no_grad()
def sample_policies(
    policy_at: Callable[[Tensor, Tensor, Condition], Policy],
    noise: Tensor,
    condition: Condition,
    *,
    settings: SamplingSettings,
    fresh_noise: Callable[[Tensor], Tensor],
    stopwatch: Stopwatch | None = None,
    begin_step: Callable[[int, FlowMapStep], bool] | None = None,
    end_step: Callable[[int, Tensor, Condition], tuple[Tensor, Condition]] | None = None,
) -> Tensor:
    """Return latents x_0, (B, C, *S), from noise by `settings.nfe` policies, each rolled out over its segment.

    The one loop of every way to sample a student. Temperature sharpens every policy but the last: on the final step it
    hurts texture (pi-Flow, appendix B.1).

    Args:
        policy_at: (x, sigma (B,), condition) -> the policy made there: one network evaluation, or two where guided.
        noise: standard normal, (B, C, *S).
        condition: what the batch is conditioned on.
        settings: NFE, shift, substeps, temperature and h.
        fresh_noise: state -> standard normal noise of its shape; asked between segments where h > 0.
        stopwatch: if given, the time of network and policy is added to it.
        begin_step: called with the index and the step; False leaves the evaluation out.
        end_step: called with the index, latents and condition after each segment; gives those to go on with.
    """
    stopwatch = stopwatch if stopwatch is not None else Stopwatch()
    x, shift, temperature = noise.float(), settings.time_shift, settings.resolved_temperature()
    steps = flow_map_steps(settings.segments, shift, h=settings.h)
    for i, step in enumerate(steps):
        if begin_step is not None and not begin_step(i, step):
            continue
        sigma = x.new_full((x.shape[0],), step.sigma_src)
        policy, seconds = timed(lambda at=(x, sigma, condition): policy_at(*at), x.device)
        stopwatch.network_s += seconds
        if i < len(steps) - 1:
            policy = policy.with_temperature(temperature)
        x, seconds = timed(lambda p=policy, x=x, s=step: _roll(p, x, s.tau_src, s.sigma_dst, settings), x.device)
        stopwatch.policy_s += seconds
        if step.m != 1:
            x = step.renoise(x, torch.zeros_like(x) if step.sigma_to == 0 else fresh_noise(x))
        if end_step is not None:
            x, condition = end_step(i, x, condition)
    return x


def sample_student(
    network: nn.Module,
    family: PolicyFamily,
    noise: Tensor,
    condition: Condition,
    *,
    settings: SamplingSettings,
    generator: Generators | None = None,
    stopwatch: Stopwatch | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    policy_at: Callable[[Tensor, Tensor], Policy] | None = None,
) -> Tensor:
    """Return latents x_0, (B, C, *S), from noise by `settings.nfe` evaluations of the student; see `sample_policies`.

    Args:
        network: a Student, or what a distributed wrapper made of it.
        family: its policy family.
        noise, condition, settings, stopwatch: as `sample_policies`.
        generator: source of the noise between segments where h > 0, in another state than `noise` was drawn in: that
            noise would come again.
        on_step: called with (evaluations done, latents) after each segment.
        policy_at: (x, sigma (B,)) -> the policy made there, in place of the network's own.

    Raises:
        PolicyError: the policy cannot serve these segments.
        ValueError: h > 0 without a generator.
    """
    family.check_sampling(segments=settings.segments, shift=settings.shift)

    def make(x: Tensor, sigma: Tensor, condition: Condition) -> Policy:
        return make_policy(network, family, x, sigma, condition) if policy_at is None else policy_at(x, sigma)

    def fresh_noise(x: Tensor) -> Tensor:
        if generator is None:
            raise ValueError("sampling with h > 0 needs a generator")
        return randn_like_seeded(tuple(x.shape), generator, x.device)

    def report(i: int, x: Tensor, condition: Condition) -> tuple[Tensor, Condition]:
        if on_step is not None:
            on_step(i + 1, x)
        return x, condition

    return sample_policies(
        make, noise, condition, settings=settings, fresh_noise=fresh_noise, stopwatch=stopwatch, end_step=report
    )


def _roll(policy: Policy, x: Tensor, tau_src: float, sigma_dst: float, settings: SamplingSettings) -> Tensor:
    shift = settings.time_shift
    tau_from, tau_to = (torch.full(x.shape[:1], tau, dtype=torch.float64) for tau in (tau_src, shift.tau(sigma_dst)))
    return policy.rollout(x, tau_from, tau_to, shift=shift, total_substeps=settings.total_substeps)


@torch.no_grad()
def sample_euler(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    num_steps: int,
    shift: Shift,
    tau: tuple[float, float] = (1.0, 0.0),
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Return states (B, C, *S) by Euler steps of a velocity field, uniform in raw time: first order, one call a step.

    Args:
        velocity: (x, sigma (B,) on the host) -> u.
        noise: the state to start from, (B, C, *S): standard normal at raw time 1.
        num_steps: network evaluations.
        shift: the map from raw time to sigma.
        tau: raw times to go from and to; from noise to data unless told.
        on_step: called with (steps done, latents).
    """
    x = noise.float()
    sigmas = shift.sigma(torch.linspace(*tau, num_steps + 1, dtype=torch.float64)).tolist()
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        now = torch.full(x.shape[:1], sigma, dtype=x.dtype)
        x = x + velocity(x, now) * (sigma_next - sigma)
        if on_step is not None:
            on_step(i + 1, x)
    return x
