"""Classifier-free guidance (arXiv 2207.12598) inside an interval of noise levels (arXiv 2404.07724), and of policies.

Shapes: B batch, C latent channels, S spatial dims.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from piflow_cli.core.flow import match_dims, velocity_to_x0
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Shift


def guide(
    u_cond: Tensor,
    u_uncond: Tensor,
    sigma: Tensor,
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    orthogonal: float = 0.0,
    x_t: Tensor | None = None,
) -> Tensor:
    """Return u_cond + (scale - 1) (u_cond - u_uncond) where sigma is inside the closed interval, u_cond elsewhere.

    Args:
        u_cond: velocity with the condition, (B, C, *S).
        u_uncond: velocity without it, (B, C, *S).
        sigma: noise level, (B,).
        scale: guidance scale; 1 gives u_cond.
        interval: noise levels where guidance acts, both ends inclusive.
        orthogonal: fraction in [0, 1] of the bias parallel to the x_0 estimate that is removed; 0 is plain guidance.
        x_t: state the velocities were taken at, needed where orthogonal > 0.

    Raises:
        ValueError: orthogonal > 0 without x_t.
    """
    bias = (scale - 1) * (u_cond - u_uncond)
    if orthogonal > 0:
        if x_t is None:
            raise ValueError("orthogonal guidance needs x_t")
        x_0 = velocity_to_x0(x_t, u_cond, sigma)
        dims = tuple(range(1, bias.ndim))
        along = (bias * x_0).sum(dims, keepdim=True) / x_0.square().sum(dims, keepdim=True).clamp(min=1e-12)
        bias = bias - orthogonal * along * x_0
    inside = (sigma >= interval[0]) & (sigma <= interval[1])
    return torch.where(match_dims(inside, u_cond), u_cond + bias, u_cond)


@dataclass(frozen=True)
class GuidedPolicy:
    """The velocity field u_uncond + scale (u_cond - u_uncond) of two policies, a frozen value.

    It costs two evaluations of the network where a policy costs one, and no student was trained for it: guidance that
    the teacher had is in the student already, and this comes on top.

    Args:
        cond: the policy with the condition.
        uncond: the policy with the negative condition, made at the same source.
        scale: guidance scale; 1 is `cond`.

    Source: ours: the teacher's guidance is of velocities, and a policy is a velocity field.
    """

    cond: Policy
    uncond: Policy
    scale: float

    exact_rollout = False

    @property
    def depends_on_x(self) -> bool:
        """Whether the x_0 estimate of either policy depends on the state."""
        return self.cond.depends_on_x or self.uncond.depends_on_x

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Guided velocity at x (B, C, *S), sigma (B,)."""
        return guide(self.cond.velocity(x, sigma), self.uncond.velocity(x, sigma), sigma, scale=self.scale)

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        """State at tau_to by Euler steps of `velocity`."""
        return euler_rollout(self, x, tau_from, tau_to, shift=shift, total_substeps=total_substeps)

    def detach(self) -> Self:
        """The same policy cut from the graph."""
        return replace(self, cond=self.cond.detach(), uncond=self.uncond.detach())

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        """Both policies with the regularising noise of their family."""
        cond, uncond = (policy.perturb(p, generator=generator) for policy in (self.cond, self.uncond))
        return replace(self, cond=cond, uncond=uncond)

    def with_temperature(self, temperature: float) -> Self:
        """Both policies sharpened."""
        cond, uncond = (policy.with_temperature(temperature) for policy in (self.cond, self.uncond))
        return replace(self, cond=cond, uncond=uncond)
