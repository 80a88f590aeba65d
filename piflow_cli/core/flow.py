"""Flow-matching conventions (Lipman et al., arXiv 2210.02747): x_t = (1 - sigma) x_0 + sigma noise, u = noise - x_0.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W), K components or grid points.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SIGMA_EPS = 1e-6
"""Default floor of sigma where something is divided by it."""
Generators = torch.Generator | Sequence[torch.Generator]
"""One of a whole batch, or one a row, which makes a row's noise independent of the batch it is drawn in."""


def single_or_double(value: Tensor) -> Tensor:
    """Return `value` in float32, or in float64 where it is that already."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def send(value: Tensor, device: torch.device | str) -> Tensor:
    """Return `value` on `device`; CUDA takes it from the host in its own time, and the host does not wait."""
    target = torch.device(device)
    return value.to(target, non_blocking=target.type == "cuda" and value.device.type == "cpu")


def beside(value: Tensor, like: Tensor) -> Tensor:
    """Return `value` on the device of `like`; times that the host keeps in float64 are rounded to a lower precision."""
    if value.dtype == torch.float64 and like.dtype != torch.float64:
        value = value.to(torch.promote_types(like.dtype, torch.float32))
    return send(value, like.device)


def match_dims(value: Tensor, like: Tensor) -> Tensor:
    """Return `value` (B,) as (B, 1, ..., 1) with the number of dimensions of `like`, and beside it."""
    return beside(value, like).reshape(value.shape + (1,) * (like.ndim - value.ndim))


def on_host(value: Tensor) -> Tensor:
    """Return times in float64 on the CPU, where spans and counts are found without waiting for a device."""
    return value.detach().cpu().double()


def float64(value: Tensor) -> Tensor:
    """Return `value` in float64, on the CPU where its device has none (MPS); `as_like` is the way back."""
    return (value.cpu() if value.device.type == "mps" else value).double()


def as_like(value: Tensor, like: Tensor) -> Tensor:
    """Return `value` in the dtype and on the device of `like`, rounded before it is moved."""
    return send(value.to(like.dtype), like.device)


def noised_copies(value: Tensor, count: int, *, spread: float, generator: torch.Generator) -> Tensor:
    """Return (B, count C, *S): `value` (B, C, *S) so many times, each with normal noise of std `spread` of its own."""
    copies = value.repeat(1, count, *[1] * (value.ndim - 2))
    return copies + spread * torch.randn(copies.shape, generator=generator)


def diffuse(x_0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return x_t = (1 - sigma) x_0 + sigma noise.

    Args:
        x_0: clean latents, (B, C, *S).
        noise: standard normal, (B, C, *S).
        sigma: noise level in [0, 1], (B,).
    """
    sigma = match_dims(sigma, x_0)
    return (1 - sigma) * x_0 + sigma * noise


def velocity_to_x0(x_t: Tensor, u: Tensor, sigma: Tensor) -> Tensor:
    """Return x_0 = x_t - sigma u for x_t, u (B, C, *S) and sigma (B,)."""
    return x_t - match_dims(sigma, x_t) * u


def x0_to_velocity(x_t: Tensor, x_0: Tensor, sigma: Tensor, *, eps: float = SIGMA_EPS) -> Tensor:
    """Return u = (x_t - x_0) / max(sigma, eps) for x_t, x_0 (B, C, *S) and sigma (B,)."""
    return (x_t - x_0) / match_dims(sigma, x_t).clamp(min=eps)


def euler_step(x: Tensor, u: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Return x + u (sigma_next - sigma), one Euler step along sigma; x, u (B, C, *S), sigmas (B,)."""
    return x + u * match_dims(sigma_next - sigma, x)


def generators_of(seeds: Iterable[int]) -> list[torch.Generator]:
    """A generator a seed, on the CPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def randn_like_seeded(shape: tuple[int, ...], generator: Generators, device: torch.device | str) -> Tensor:
    """Return float32 standard normal noise drawn on the generator's own device, moved to `device`.

    Drawing on the generator's device makes a seed give the same noise whatever the network runs on.

    Args:
        shape: (B, ...).
        generator: what it is drawn from.
        device: where it is needed.

    Raises:
        ValueError: another number of generators than of rows.
    """
    if not isinstance(generator, torch.Generator):
        if len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators for {shape[0]} rows")
        return torch.stack([randn_like_seeded(shape[1:], own, device) for own in generator])
    return send(torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32), device)
