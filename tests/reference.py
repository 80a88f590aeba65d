"""Slow, plain forms of what `piflow_cli` computes cleverly, their float32 error, and how fixtures map onto the code.

Shapes: B batch, K components, N grid points, C latent channels, S spatial dims.
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from piflow_cli.core.flow import euler_step, match_dims
from piflow_cli.core.imitation import TeacherVelocity
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.rollout import count_substeps
from piflow_cli.core.schedule import Shift, dynamic_shift
from piflow_cli.policies.dx import DX, DXPolicy, points_policy
from piflow_cli.policies.gmflow.policy import GMFlowPolicy, mixture_policy


class Stepped:
    """A policy stepped the plain way: times add up substep by substep, in their own dtype, as in the published code.

    In float32 the sum drifts (4e-7 over 73 substeps, as `sigma_t_end` of the rollout fixtures shows).
    """

    exact_rollout = False
    depends_on_x = True

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        count = count_substeps(tau_from, tau_to, total_substeps=total_substeps)  # (B,)
        step = (tau_from - tau_to) / count
        tau = tau_from
        for i in range(int(count.max())):
            tau_next = tau - step
            sigma, sigma_next = shift.sigma(tau), shift.sigma(tau_next)
            x = torch.where(match_dims(i < count, x), euler_step(x, self.velocity(x, sigma), sigma, sigma_next), x)
            tau = tau_next
        return x

    def detach(self) -> Self:
        return self

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        return self

    def with_temperature(self, temperature: float) -> Self:
        return self


@dataclass(frozen=True)
class PlainMixture(Stepped):
    """The mixture's velocity as pi-Flow, section 3.2, writes it, in the dtype of its tensors."""

    x_src: Tensor  # (B, C, *S)
    sigma_src: Tensor  # (B,)
    means: Tensor  # of x_0, (B, K, C, *S)
    logweights: Tensor  # (B, K, 1, *S)
    variance: Tensor  # (B,)
    eps: float = 1e-6

    @classmethod
    def like(cls, policy: GMFlowPolicy) -> Self:
        """The plain form of a policy."""
        return cls(policy.x_src, policy.sigma_src, policy.means, policy.logweights, policy.variance, policy.eps)

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        means, v = self.means, match_dims(self.variance, self.means)
        sigma, sigma_src = (match_dims(s, means).clamp(min=self.eps) for s in (sigma, self.sigma_src))
        a, a_src = (1 - sigma) / sigma, (1 - sigma_src) / sigma_src
        zeta = a.square() - a_src.square()
        nu = a * x.unsqueeze(1) / sigma - a_src * self.x_src.unsqueeze(1) / sigma_src
        d = (v * zeta + 1).clamp(min=self.eps)
        logits = self.logweights + (means * (nu - zeta * means / 2)).sum(2, keepdim=True) / d
        x_0 = (logits.softmax(1) * (v * nu + means) / d).sum(1)
        return (x - x_0) / sigma.squeeze(1)

    def detach(self) -> Self:
        return replace(self, means=self.means.detach(), logweights=self.logweights.detach(), variance=self.variance)

    def drop_components(self, dropped: Tensor) -> Self:
        dropped = dropped & ~dropped.all(dim=1, keepdim=True)
        return replace(self, logweights=self.logweights.masked_fill(dropped, -math.inf))


@dataclass(frozen=True)
class PlainGrid(Stepped):
    """A DX policy that is stepped."""

    policy: DXPolicy

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.policy.velocity(x, sigma)

    def detach(self) -> Self:
        return type(self)(self.policy.detach())


def plain(policy: Policy) -> Policy:
    """The plain form of a policy of this project."""
    return PlainMixture.like(policy) if isinstance(policy, GMFlowPolicy) else PlainGrid(policy)


OUTPUT_KEYS = {"gm": ("means", "logweights", "logstds"), "dx": ("denoising_output",)}
"""The network output of a fixture, by its kind."""


def fixture_policy(
    output: dict[str, Tensor],
    x_src: Tensor,
    sigma_src: Tensor,
    settings: dict[str, Any] | None = None,
    *,
    eps: float | None = None,
) -> Policy:
    """The policy of a fixture's network output.

    Args:
        output: the tensors of OUTPUT_KEYS.
        x_src, sigma_src: the source, (B, C, *S) and (B,).
        settings: segment_size, shift and mode of a DX policy.
        eps: floor of sigma; the family's default where None.
    """
    floor = {} if eps is None else {"eps": eps}
    if "means" in output:
        return mixture_policy(output["means"], output["logweights"], output["logstds"], x_src, sigma_src, **floor)
    points = output["denoising_output"]
    dx = DX(num_points=points.shape[1], **(settings or {}), **floor)
    return points_policy(points, x_src, sigma_src, settings=dx)


def fixture_shift(settings: dict[str, Any]) -> Shift:
    """The shift of a rollout fixture, which may depend on its resolution."""
    if settings["dynamic_shift"]:
        return dynamic_shift(settings["seq_len"], **settings["dynamic_shift"])
    return Shift(settings["shift"])


def fixture_teacher(tensors: dict[str, Tensor]) -> TeacherVelocity:
    """The teacher of the pi-ID fixtures: a convolution of x, plus a line in sigma for each channel."""
    weight, slope, offset = (tensors[f"in/teacher_{key}"] for key in ("w", "a", "c"))

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=1) + slope[:, None, None] * match_dims(sigma, x) + offset[:, None, None]

    return velocity


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float64."""
    return {key: value.double() for key, value in tensors.items()}


COPIES = 8
"""Copies of a batch over which a float32 error is measured."""

Outputs = dict[str, Tensor]


def float32_allowance(
    compute: Callable[[dict[str, Tensor]], Outputs], tensors: dict[str, Tensor], *, jittered: Container[str]
) -> dict[str, float]:
    """Return twice the largest difference of each output between float32 and float64 over COPIES copies of the batch.

    The copies differ from the original in the last bit of the `jittered` inputs, so that each rounds in its own way. A
    published result is one more draw of the same rounding, and twice the largest of eight bounds it. The first
    dimension of an input is its batch, except for the teacher's weights.

    Args:
        compute: the plain form of what a fixture computes, in the dtype of what it is given.
        tensors: the inputs of a fixture.
        jittered: names of the inputs that are continuous.
    """
    generator = torch.Generator().manual_seed(0)
    copies = {}
    for key, value in tensors.items():
        if key.startswith("in/teacher_") and key != "in/teacher_rand":
            copies[key] = value
            continue
        repeated = value.repeat(COPIES, *[1] * (value.ndim - 1))
        if key in jittered:
            last_bit = torch.rand(repeated.shape, generator=generator) - 0.5
            repeated = repeated * (1 + 2 * torch.finfo(torch.float32).eps * last_bit)
        copies[key] = repeated
    single, double = compute(copies), compute(doubled(copies))
    return {key: 2 * (single[key].double() - double[key]).abs().max().item() for key in single}


def summed_time_error(num_substeps: int, shift: Shift) -> float:
    """Largest error in sigma of a time that float32 adds up from substeps: a rounding each, times d sigma / d tau."""
    return num_substeps * torch.finfo(torch.float32).eps / 2 * max(shift.m, 1 / shift.m)


def random_mixture(
    *,
    batch: int = 3,
    num_components: int = 4,
    channels: int = 3,
    spatial: tuple[int, ...] = (4, 5),
    sigma_src: tuple[float, ...] | float = 1.0,
    logstd: float = -1.5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> GMFlowPolicy:
    """A random mixture policy at sources of noise level sigma_src, one or one a sample."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    sigma = torch.tensor(sigma_src, dtype=dtype).expand(batch)
    return mixture_policy(
        randn(batch, num_components, channels, *spatial),
        randn(batch, num_components, 1, *spatial).log_softmax(1),
        torch.full((batch,), logstd, dtype=dtype) + 0.3 * randn(batch),
        randn(batch, channels, *spatial),
        sigma,
    )


def random_grid(
    *,
    batch: int = 3,
    num_points: int = 10,
    channels: int = 3,
    spatial: tuple[int, ...] = (4, 5),
    sigma_src: tuple[float, ...] | float = 1.0,
    segment_size: float = 0.5,
    shift: float = 3.2,
    mode: str = "grid",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> DXPolicy:
    """A random DX policy at sources of noise level sigma_src, one or one a sample."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_points, channels, *spatial)
    velocities = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    x_src = torch.randn(shape[:1] + shape[2:], generator=generator, dtype=torch.float64).to(dtype)
    settings = DX(num_points=num_points, segment_size=segment_size, shift=shift, mode=mode)
    return points_policy(velocities, x_src, torch.tensor(sigma_src, dtype=dtype).expand(batch), settings=settings)
