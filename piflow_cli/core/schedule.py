"""Time: the shift between raw time tau and noise level sigma, NFE segments, and the FlowMap SDE grid (pi-Flow B.4).

Shapes: B batch.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from piflow_cli.core.flow import as_like, float64

T = TypeVar("T", float, Tensor)

BOUNDARY_SLACK = 1e-6
"""A raw time this close above a segment boundary, in units of the segment, still belongs to the segment below it."""


@dataclass(frozen=True)
class Shift:
    """The map sigma = m tau / (1 + (m - 1) tau) between raw time tau and noise level sigma, both in [0, 1].

    Args:
        m: shift, > 0; 1 is the identity, 3.2 is the recipe of FLUX and Qwen-Image.

    Source: Esser et al., arXiv 2403.03206, equation 23.
    """

    m: float = 1.0

    def __post_init__(self) -> None:
        if not self.m > 0:
            raise ValueError(f"shift is {self.m}; it must be > 0 (1 is the identity)")

    @property
    def log(self) -> float:
        """Log of m: what schedulers of diffusers call mu."""
        return math.log(self.m)

    def sigma(self, tau: T) -> T:
        """Noise level of raw time tau."""
        return self.m * tau / (1 + (self.m - 1) * tau)

    def tau(self, sigma: T) -> T:
        """Raw time of noise level sigma: the inverse of `sigma`."""
        return sigma / (self.m + (1 - self.m) * sigma)


def dynamic_shift(
    seq_len: int,
    *,
    base_seq_len: int = 256,
    max_seq_len: int = 4096,
    base_logshift: float = 0.5,
    max_logshift: float = 1.15,
) -> Shift:
    """Return the resolution-dependent shift: log m is linear in the number of latent positions between two anchors.

    Args:
        seq_len: number of latent positions (image tokens).

    Source: arXiv 2403.03206, section 5.3.2, as FLUX's schedulers use it.
    """
    slope = (max_logshift - base_logshift) / (max_seq_len - base_seq_len)
    return Shift(math.exp(base_logshift + slope * (seq_len - base_seq_len)))


@dataclass(frozen=True)
class Segments:
    """The intervals of raw time that each of `nfe` network evaluations covers; the last may be shorter.

    Args:
        nfe: network evaluations of the student, >= 1.
        final_step_scale: length of the last segment relative to the others, in (0, 1].

    Source: pi-Flow, appendix B.4.
    """

    nfe: int
    final_step_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise ValueError(f"nfe is {self.nfe}; it must be at least 1")
        if not 0 < self.final_step_scale <= 1:
            raise ValueError(f"final_step_scale is {self.final_step_scale}; it must be in (0, 1]")

    @property
    def base(self) -> float:
        """Length in raw time of every segment but the last."""
        return 1 / (self.nfe - 1 + self.final_step_scale)

    @property
    def longest(self) -> float:
        """Length in raw time of the first, and so the longest, segment."""
        return min(self.base, 1.0)

    def boundaries(self) -> tuple[float, ...]:
        """The nfe source times followed by 0, falling from 1."""
        return (*(1 - i * self.base for i in range(self.nfe)), 0.0)

    def index(self, tau: Tensor) -> Tensor:
        """Which segment holds each raw time in [0, 1], from 0 at noise, (B,), int64."""
        exact = torch.floor((1 - float64(tau)) / self.base + BOUNDARY_SLACK)
        return exact.clamp(0, self.nfe - 1).long()

    def locate(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Round raw times up to the source of the segment that holds them.

        Args:
            tau: raw times in [0, 1], (B,).

        Returns:
            The source time and the length of the segment of each sample, (B,) both.
        """
        tau_src = 1 - float64(self.index(tau)) * self.base
        length = torch.minimum(tau_src, torch.full_like(tau_src, self.base))
        return as_like(tau_src, tau), as_like(length, tau)


@dataclass(frozen=True)
class FlowMapStep:
    """One evaluation of the stochastic sampler: roll out from sigma_src to sigma_dst, then re-noise to sigma_to."""

    tau_src: float
    sigma_src: float
    sigma_dst: float
    sigma_to: float
    m: float

    def renoise(self, x_dst: Tensor, noise: Tensor | None) -> Tensor:
        """Return the state at sigma_to from the rollout's end x_dst (B, C, *S); `noise` may be None where m is 1."""
        if self.m == 1:
            return x_dst
        if noise is None:
            raise ValueError("a stochastic step (h > 0) needs noise")
        alpha_to = 1 - self.sigma_to
        scale = alpha_to + self.sigma_to * self.m
        return scale * x_dst + self.sigma_to * math.sqrt(1 - self.m**2) * noise


def flow_map_steps(segments: Segments, shift: Shift, *, h: float = 0.0) -> tuple[FlowMapStep, ...]:
    """Return the steps of the FlowMap SDE sampler; h = 0 is the ODE, h = inf draws fresh noise at every step.

    Args:
        segments: the NFE segments.
        shift: the map from raw time to sigma.
        h: stochasticity, >= 0.

    Raises:
        ValueError: h is negative.

    Source: pi-Flow, appendix B.4 (FlowMap SDE): m_h = (sigma_to alpha_src / (sigma_src alpha_to))^(h^2).
    """
    if h < 0:
        raise ValueError(f"h is {h}; it must be >= 0 (0 is the ODE, inf re-noises fully)")
    taus = segments.boundaries()
    steps = []
    for tau_src, tau_to in pairwise(taus):
        sigma_src, sigma_to = shift.sigma(tau_src), shift.sigma(tau_to)
        ratio = sigma_to * (1 - sigma_src) / (sigma_src * (1 - sigma_to))
        m = 1.0 if h == 0 else ratio ** (h * h) if ratio > 0 else 0.0
        alpha_to = 1 - sigma_to
        sigma_dst = sigma_to * m / (alpha_to + sigma_to * m)
        steps.append(FlowMapStep(tau_src=tau_src, sigma_src=sigma_src, sigma_dst=sigma_dst, sigma_to=sigma_to, m=m))
    return tuple(steps)
