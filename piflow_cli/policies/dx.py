"""The DX policy (pi-Flow, section 3.1): x_0 is a function of time alone, given on a grid or as a polynomial.

Because x_0(tau) does not depend on x, an Euler rollout over any number of substeps is one fixed linear combination of
the start and the N points, whose scalar coefficients follow from the times alone.

Shapes: B batch, N grid points or polynomial coefficients, C latent channels, S spatial dims, P positions in a patch,
n substeps.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from piflow_cli.core.flow import as_like, beside, float64, match_dims, noised_copies, send, single_or_double
from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.core.rollout import substep_sigmas
from piflow_cli.core.schedule import Segments, Shift
from piflow_cli.core.settings import SamplingSettings, Settings
from piflow_cli.errors import PolicyError

Mode = Literal["grid", "polynomial"]


@dataclass(frozen=True)
class DXPolicy:
    """The velocity field u = (x - x_0(tau)) / sigma, a frozen value.

    Args:
        points: x_0 at the grid points, index 0 at the segment's end, or polynomial coefficients, (B, N, C, *S).
        sigma_src: noise level the network saw, (B,).
        segment_size: raw time the grid spans, in (0, 1]; belongs to the trained weights.
        shift: the map from raw time to sigma the weights were trained with.
        mode: "grid" (linear interpolation, constant beyond the ends) or "polynomial" in tau_src - tau.
        eps: floor of sigma.
    """

    points: Tensor
    sigma_src: Tensor
    segment_size: float
    shift: Shift
    mode: Mode = "grid"
    eps: float = 1e-4

    exact_rollout = True
    depends_on_x = False

    @property
    def _times_device(self) -> torch.device:
        """Where float64 can be had beside the points."""
        return torch.device("cpu") if self.points.device.type == "mps" else self.points.device

    def basis(self, tau: Tensor) -> Tensor:
        """Weights of the N points in x_0(tau): raw times (n, B) to (n, B, N), in float64 on their device."""
        num_points = self.points.shape[1]
        tau_src = self.shift.tau(send(float64(self.sigma_src), tau.device))  # (B,)
        index = torch.arange(num_points, device=tau.device, dtype=torch.float64)
        if self.mode == "polynomial":
            return (tau_src - tau)[..., None] ** index
        if num_points == 1:
            return torch.ones_like(tau)[..., None]
        tau_dst = (tau_src - self.segment_size).clamp(min=0)
        place = (tau - tau_dst) / (tau_src - tau_dst).clamp(min=1e-12) * (num_points - 1)
        place = place.clamp(0, num_points - 1)
        return (1 - (place[..., None] - index).abs()).clamp(min=0)  # hat functions

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Velocity u = (x - x_0(tau)) / max(sigma, eps) at x (B, C, *S), sigma (B,)."""
        weights = self.basis(self.shift.tau(send(float64(sigma), self._times_device))[None])[0]  # (B, N)
        sigma = match_dims(sigma, x).clamp(min=self.eps)
        return (x - self._combine(weights)) / sigma

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        """State at tau_to of all Euler substeps at once: coef_x x + sum_N coef_N x_0N.

        With r_i = (sigma_i+1 - sigma_i) / max(sigma_i, eps) a substep is x (1 + r_i) - r_i x_0(tau_i), so coef_x is
        the product of 1 + r_i, and x_0(tau_i) enters with -r_i times the product of the later ones.
        """
        _, sigmas = substep_sigmas(tau_from, tau_to, shift=shift, total_substeps=total_substeps)
        sigmas = send(sigmas, self._times_device)  # (n + 1, B)
        r = sigmas.diff(dim=0) / sigmas[:-1].clamp(min=self.eps)  # (n, B)
        keep = (1 + r).flip(0).cumprod(0).flip(0)  # (n, B): product from substep i to the end
        later = torch.cat([keep[1:], torch.ones_like(keep[:1])])
        weights = torch.einsum("nb,nbk->bk", -r * later, self.basis(self.shift.tau(sigmas[:-1])))  # (B, N)
        return match_dims(as_like(keep[0], x), x) * x + self._combine(weights)

    def _combine(self, weights: Tensor) -> Tensor:
        """sum_N weights (B, N) points (B, N, C, *S); one by one, as TF32 or autocast would round a matrix product."""
        parts, weights = self.points.unbind(1), as_like(weights, self.points)
        total = torch.zeros_like(parts[0])
        for part, weight in zip(parts, weights.unbind(1), strict=True):
            total = torch.addcmul(total, match_dims(weight, part), part)
        return total

    def detach(self) -> Self:
        """The same policy cut from the graph."""
        return replace(self, points=self.points.detach())

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:  # noqa: ARG002
        """The policy itself: the family has no regularising noise."""
        return self

    def with_temperature(self, temperature: float) -> Self:  # noqa: ARG002
        """The policy itself: the family has no temperature."""
        return self


class DXHead(nn.Module):
    """N copies of the teacher's final projection, or for a polynomial one copy and N - 1 of nothing."""

    def __init__(
        self, projection: nn.Linear, *, num_points: int, latent_channels: int, layout: PatchLayout, mode: Mode
    ) -> None:
        super().__init__()
        self.num_points, self.latent_channels, self.layout, self.mode = num_points, latent_channels, layout, mode
        rows = num_points * latent_channels * layout.positions
        self.points = nn.Linear(projection.in_features, rows, bias=projection.bias is not None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, tokens, D) to tokens that hold N C channels a position in the teacher's layout."""
        return self.points(tokens)

    def extra(self, embedding: Tensor) -> None:
        """Nothing is read from the embedding."""

    @torch.no_grad()
    def init_from_teacher(self, projection: nn.Linear, *, generator: torch.Generator) -> None:  # noqa: ARG002
        """Repeat the teacher's rows, without noise: N times on a grid, once as the constant term of a polynomial."""
        n, (weight, bias) = self.num_points, self.layout.rows(projection, self.latent_channels)
        copies = projection.weight.new_ones(n)
        if self.mode == "polynomial":
            copies[1:] = 0
        if self.layout.channels_last:  # rows (P, N, C)
            weight, bias = weight[:, None] * copies.view(1, n, 1, 1), bias[:, None] * copies.view(1, n, 1)
        else:  # rows (N, C, P)
            weight, bias = weight[None] * copies.view(n, 1, 1, 1), bias[None] * copies.view(n, 1, 1)
        self.points.weight.copy_(weight.reshape(self.points.weight.shape))
        if self.points.bias is not None:
            self.points.bias.copy_(bias.flatten())


class DX(Settings):
    """x_0 as a function of time on N points; `segment_size` and `shift` belong to the trained weights."""

    type: Literal["dx"] = "dx"
    local_keys: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[tuple[str, tuple[int, ...]]] = ("num_points", (2, 5, 10))
    num_points: int = Field(10, ge=1, le=256, description="N, grid points (or polynomial coefficients)")
    segment_size: float = Field(gt=0, le=1, description="raw time that the grid spans: the student's longest segment")
    shift: float = Field(gt=0, description="shift that the grid was trained with")
    mode: Mode = Field("grid", description="grid: linear interpolation; polynomial: powers of tau_src - tau")
    eps: float = Field(1e-4, gt=0, le=1e-2, description="floor of sigma inside the policy")

    dropout: ClassVar[float] = 0.0

    @classmethod
    def derived_keys(cls, sampling: SamplingSettings) -> dict[str, float]:
        """The grid spans the longest segment, at the shift that the student is sampled with."""
        return {"segment_size": sampling.segments.longest, "shift": sampling.shift}

    def still(self) -> Self:
        """The settings themselves: the copies of the teacher's projection are the same anyway."""
        return self

    def output_channels(self, latent_channels: int) -> int:
        """N C channels."""
        return self.num_points * latent_channels

    def build_head(self, projection: nn.Linear, *, latent_channels: int, embed_dim: int, layout: PatchLayout) -> DXHead:  # noqa: ARG002
        """An uninitialised head on the device and in the dtype of `projection`."""
        head = DXHead(
            projection,
            num_points=self.num_points,
            latent_channels=latent_channels,
            layout=layout,
            mode=self.mode,
        )
        return head.to(device=projection.weight.device, dtype=projection.weight.dtype)

    def policy(self, output: Tensor, extra: Tensor | None, x_src: Tensor, sigma_src: Tensor) -> DXPolicy:  # noqa: ARG002
        """The policy of a network output (B, N C, *S) at x_src (B, C, *S), sigma_src (B,)."""
        velocities = single_or_double(output).unflatten(1, (self.num_points, x_src.shape[1]))  # (B, N, C, *S)
        return points_policy(velocities, x_src, sigma_src, settings=self)

    def first_output(self, velocity: Tensor, *, spread: float, generator: torch.Generator) -> tuple[Tensor, None]:
        """The teacher's velocity (B, C, *S) at every point, or as the constant term of a polynomial."""
        points = noised_copies(velocity, self.num_points, spread=spread, generator=generator)
        if self.mode == "polynomial":
            points[:, velocity.shape[1] :] -= velocity.repeat(1, self.num_points - 1, *[1] * (velocity.ndim - 2))
        return points, None

    def check_sampling(self, *, segments: Segments, shift: float) -> None:
        """Raise PolicyError where a segment is longer than the grid, or the shift is not the one it was trained with.

        Shorter segments, of more evaluations, use the first part of the grid.
        """
        if segments.longest > self.segment_size + 1e-6:
            trained = 1 / self.segment_size
            raise PolicyError(
                f"this DX student was trained on segments of {self.segment_size:.6g} of raw time, but "
                f"{segments.nfe} NFE with final step scale {segments.final_step_scale} needs segments of "
                f"{segments.longest:.6g}. "
                f"Use at least the NFE it was trained with (NFE - 1 + final step scale = {trained:.4g} or more)."
            )
        if abs(shift - self.shift) > 1e-6:
            raise PolicyError(
                f"this DX student was trained with shift {self.shift}, but shift {shift} was asked for. "
                f"Use shift {self.shift}."
            )


def points_policy(velocities: Tensor, x_src: Tensor, sigma_src: Tensor, *, settings: DX) -> DXPolicy:
    """Return the policy of N velocities at the source, (B, N, C, *S), each turned into x_0 = x_src - sigma_src u.

    The polynomial form turns every coefficient so, as the released weights need it: higher orders of zero velocity
    start at x_src, not at 0.
    """
    x_src = single_or_double(x_src)
    sigma_src = single_or_double(beside(sigma_src, x_src))
    return DXPolicy(
        points=x_src.unsqueeze(1) - match_dims(sigma_src, velocities) * velocities,
        sigma_src=sigma_src,
        segment_size=settings.segment_size,
        shift=Shift(settings.shift),
        mode=settings.mode,
        eps=settings.eps,
    )
