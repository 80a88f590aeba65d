"""A Gaussian mixture over x_0 at every latent position: the value that the policy and its rollout share.

Shapes: B batch, K components, C latent channels, S spatial dims.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from piflow_cli.core.flow import send


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture over x_0 at every latent position, as seen from a source; a frozen value.

    Args:
        x_src: state the network saw, (B, C, *S).
        sigma_src: its noise level, (B,).
        offsets: component means of x_0 relative to x_src, (B, K, C, *S): -sigma_src times the predicted velocities.
        logweights: unnormalised log-weights, (B, K, 1, *S); -inf drops a component.
        variance: variance of the components in x_0 space, one per sample, (B,).
        eps: floor of sigma.
        compiled: whether rollouts without gradient run through torch.compile.
    """

    x_src: Tensor
    sigma_src: Tensor
    offsets: Tensor
    logweights: Tensor
    variance: Tensor
    eps: float = 1e-6
    compiled: bool = False

    @property
    def means(self) -> Tensor:
        """Component means of x_0, (B, K, C, *S)."""
        return self.x_src.unsqueeze(1) + self.offsets

    def detach(self) -> Self:
        """The same policy cut from the graph."""
        return replace(
            self,
            x_src=self.x_src.detach(),
            offsets=self.offsets.detach(),
            logweights=self.logweights.detach(),
            variance=self.variance.detach(),
        )

    def with_temperature(self, temperature: float) -> Self:
        """The mixture with log-weights / T, renormalised, and variance * T; T >= 1 changes nothing, 0 is floored."""
        if temperature >= 1:
            return self
        temperature = max(temperature, self.eps)
        return replace(
            self,
            logweights=(self.logweights / temperature).log_softmax(dim=1),
            variance=self.variance * temperature,
        )

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        """The mixture with each component dropped with probability p, one draw a sample and component."""
        if p == 0:
            return self
        shape = (*self.offsets.shape[:2], *(1,) * (self.offsets.ndim - 2))
        device = generator.device if generator is not None else self.offsets.device
        draws = send(torch.rand(shape, generator=generator, device=device), self.offsets.device)
        return self.drop_components(draws < p)

    def drop_components(self, dropped: Tensor) -> Self:
        """The mixture without the components where `dropped` (B, K, 1, ..., 1); a sample never loses all of them."""
        dropped = dropped & ~dropped.all(dim=1, keepdim=True)
        return replace(self, logweights=self.logweights.masked_fill(dropped, -math.inf))
