"""Classifier-free guidance (arXiv 2207.12598) inside an interval of noise levels (arXiv 2404.07724), and of policies.

Shapes: B batch, C latent channels, S spatial dims.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from piflow_cli.core.flow import beside, match_dims, send, velocity_to_x0
from piflow_cli.core.interfaces import Condition, Policy
from piflow_cli.core.rollout import euler_rollout
from piflow_cli.core.schedule import Shift


def guided_rows(sigma: Tensor, interval: tuple[float, float]) -> list[int]:
    """Return which of the samples with noise levels `sigma` (B,) guidance acts on; from the host it costs no wait."""
    return _inside(sigma.cpu(), interval).nonzero().flatten().tolist()


def _inside(sigma: Tensor, interval: tuple[float, float]) -> Tensor:
    """Whether noise levels (B,), rounded as the network sees them, lie in the closed interval."""
    sigma = sigma.float()
    return (sigma >= interval[0]) & (sigma <= interval[1])


def guided_velocity(
    evaluate: Callable[[Tensor, Tensor, Condition], Tensor],
    x: Tensor,
    sigma: Tensor,
    condition: Condition,
    *,
    with_null: Callable[[Condition, list[int]], Condition],
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    orthogonal: float = 0.0,
    normed: tuple[int, ...] = (),
    every_row: bool = False,
) -> Tensor:
    """Return the guided velocity (B, C, *S) of one evaluation: all rows with their condition, guided ones without too.

    A sample outside the interval, or any where the scale is 1, costs one row of the evaluation and not two.

    Args:
        evaluate: (x, sigma, condition) -> velocity of any number of rows.
        x: the state, (B, C, *S), at noise levels sigma (B,).
        condition: of the B rows.
        with_null: (condition, rows) -> the condition, and after it the null condition in the place of some of its rows.
        scale, interval, orthogonal, normed: as `guide`.
        every_row: evaluate rows outside the interval without their condition too, so that noise levels do not decide
            how many rows are evaluated.
    """
    rows = guided_rows(sigma, (-torch.inf, torch.inf) if every_row else interval) if scale != 1 else []
    sigma = beside(sigma, x)
    if not rows:
        return evaluate(x, sigma, condition)
    index = None if len(rows) == len(x) else send(torch.tensor(rows), x.device)
    some_x, some_sigma = (x, sigma) if index is None else (x[index], sigma[index])
    both = with_null(condition, rows)
    u = evaluate(torch.cat([x, some_x]), torch.cat([sigma, some_sigma]), both)
    u_cond, u_uncond = u.split([len(x), len(rows)])
    chosen = u_cond if index is None else u_cond[index]
    how = {"scale": scale, "orthogonal": orthogonal, "normed": normed, "x_t": some_x}
    guided = guide(chosen, u_uncond, some_sigma, interval=interval if every_row else (0.0, 1.0), **how)
    return guided if index is None else u_cond.index_copy(0, index, guided)


def guide(
    u_cond: Tensor,
    u_uncond: Tensor,
    sigma: Tensor,
    *,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    orthogonal: float = 0.0,
    normed: tuple[int, ...] = (),
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
        normed: sides of the patches whose guided velocity is rescaled to the norm that u_cond has in them; () is none.
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
    guided = u_cond + bias
    if normed:
        guided = guided * (_norms(u_cond, normed) / _norms(guided, normed).clamp(min=1e-12))
    return torch.where(match_dims(_inside(sigma, interval), u_cond), guided, u_cond)


def _norms(u: Tensor, sides: tuple[int, ...]) -> Tensor:
    """At every place of u (B, C, *S) the norm of its patch, over channels and positions."""
    shape, summed = [*u.shape[:2]], [1]
    for size, side in zip(u.shape[2:], sides, strict=True):
        shape += [size // side, side]
        summed.append(len(shape) - 1)
    patches = u.reshape(shape)  # (B, C, S / side, side, ...)
    return patches.square().sum(summed, keepdim=True).sqrt().expand(shape).reshape(u.shape)


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
