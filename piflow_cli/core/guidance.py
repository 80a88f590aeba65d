"""Classifier-free guidance (arXiv 2207.12598) inside an interval of noise levels (arXiv 2404.07724).

Shapes: B batch, C latent channels, S spatial dims.
"""

import torch
from torch import Tensor

from piflow_cli.core.flow import match_dims, velocity_to_x0


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
