"""A variance-preserving diffusion network (DDPM, arXiv 2006.11239) seen as a velocity field.

z_t = sqrt(abar) x_0 + sqrt(1 - abar) noise and x_t = (1 - sigma) x_0 + sigma noise are the same ray of states: where
(1 - abar) / abar = (sigma / (1 - sigma))^2, z_t = x_t / sqrt((1 - sigma)^2 + sigma^2).

Shapes: B batch, C latent channels, H, W latent size.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from piflow_cli.core.flow import as_like, float64, match_dims
from piflow_cli.errors import ModelError


@lru_cache(maxsize=4)
def _log_ratio(abar: tuple[float, ...], device: torch.device) -> Tensor:
    """Log noise-to-signal of each step, rising, (T,) in float64."""
    with torch.inference_mode(False):
        steps = torch.tensor(abar, dtype=torch.float64, device=device)
        return 0.5 * ((1 - steps) / steps).log()


@dataclass(frozen=True)
class VariancePreserving:
    """The exact change of time and scale of a discrete VP schedule; times between its steps are interpolated.

    Args:
        abar: cumulative products of 1 - beta, falling, length T.
    """

    abar: tuple[float, ...]

    @classmethod
    def from_config(cls, scheduler: dict[str, Any]) -> Self:
        """The schedule of a diffusers scheduler config (linear, scaled_linear or trained betas).

        Raises:
            ModelError: another schedule, or another prediction than epsilon.
        """
        predicts = scheduler.get("prediction_type", "epsilon")
        if predicts != "epsilon":
            raise ModelError(f"prediction_type is {predicts!r}; diffusion teachers must predict epsilon")
        start, end = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
        steps, kind = scheduler.get("num_train_timesteps", 1000), scheduler.get("beta_schedule", "linear")
        if scheduler.get("trained_betas") is not None:
            betas = torch.tensor(scheduler["trained_betas"], dtype=torch.float64)
        elif kind == "linear":
            betas = torch.linspace(start, end, steps, dtype=torch.float64)
        elif kind == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        else:
            raise ModelError(f"beta_schedule is {kind!r}; linear, scaled_linear and trained betas can be read")
        return cls(tuple((1 - betas).cumprod(0).tolist()))

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's time (B,) at noise level sigma (B,), clamped to [0, T - 1]; linear in log noise-to-signal."""
        s = float64(sigma).clamp(1e-9, 1 - 1e-9)
        log_ratio = _log_ratio(self.abar, s.device)
        target = (s / (1 - s)).log().clamp(log_ratio[0], log_ratio[-1])
        right = torch.searchsorted(log_ratio, target).clamp(1, len(self.abar) - 1)
        left_value, right_value = log_ratio[right - 1], log_ratio[right]
        return as_like(right - 1 + (target - left_value) / (right_value - left_value), sigma)

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """z_t of x_t (B, C, H, W) at sigma (B,)."""
        sigma = match_dims(sigma, x)
        return x / ((1 - sigma).square() + sigma.square()).sqrt()

    def velocity(self, epsilon: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """u = noise - x_0 of a predicted noise (B, C, H, W) at x_t (B, C, H, W), sigma (B,).

        Beyond the schedule's last noise level its x_0 estimate is used at the last level, so that u is defined at
        sigma = 1.
        """
        last = (1 - self.abar[-1]) ** 0.5
        sigma_last = last / (last + self.abar[-1] ** 0.5)
        sigma = match_dims(sigma, x)
        z = x / ((1 - sigma).square() + sigma.square()).sqrt()
        x_0_last = (z - last * epsilon) / self.abar[-1] ** 0.5
        inside = (epsilon - x) / (1 - sigma).clamp(min=1e-9)
        return torch.where(sigma > sigma_last, (x - x_0_last) / sigma.clamp(min=1e-9), inside)
