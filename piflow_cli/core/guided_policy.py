"""Classifier-free guidance (arXiv 2207.12598) of two policies: of their velocities, so that no network is needed.

Shapes: B batch, C latent channels, S spatial dims.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from piflow_cli.core.guidance import guide
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Shift


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
