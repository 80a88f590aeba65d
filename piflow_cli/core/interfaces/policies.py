"""What a family of policies implements: the policy, the head that predicts it, and the settings that are the family.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W), D width of the network, P positions in a patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from piflow_cli.core.schedule import Shift
from piflow_cli.core.settings import SamplingSettings


@runtime_checkable
class Policy(Protocol):
    """A network-free velocity field made from one network output at (x_src, sigma_src): a frozen value."""

    exact_rollout: bool
    """Whether `rollout` is a closed form of stepping `velocity`, differentiable at the cost of one evaluation."""
    depends_on_x: bool
    """Whether the x_0 estimate of the policy depends on the state, and not only on time."""

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Velocity u at state x (B, C, *S) and noise level sigma (B,)."""
        ...

    def rollout(self, x: Tensor, tau_from: Tensor, tau_to: Tensor, *, shift: Shift, total_substeps: int) -> Tensor:
        """State at raw time tau_to of the ODE started at x (B, C, *S), tau_from; times are (B,), best on the host."""
        ...

    def detach(self) -> Self:
        """The same policy cut from the graph that made it."""
        ...

    def perturb(self, p: float, *, generator: torch.Generator | None = None) -> Self:
        """The policy with the regularising noise of its family at strength p; itself where the family has none."""
        ...

    def with_temperature(self, temperature: float) -> Self:
        """The policy sharpened to `temperature` in [0, 1]; itself where the family has no temperature."""
        ...


MakePolicy = Callable[[Tensor, Tensor], Policy]
"""(x_src (B, C, *S), sigma_src (B,), which may be on the host) -> the live policy of one network evaluation there."""


@dataclass(frozen=True)
class PatchLayout:
    """How a token of the network's final projection holds a patch.

    Args:
        sides: latent positions along each side of a patch, such as (2, 2), or (1, 2, 2) of (T, H, W).
        channels_last: True where a token is (P, channels), as in DiT; False where it is (channels, P), as in FLUX.
    """

    sides: tuple[int, ...]
    channels_last: bool

    @property
    def positions(self) -> int:
        """P, positions in a patch: 4 for 2x2."""
        return math.prod(self.sides)

    def rows(self, projection: nn.Linear, channels: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a teacher's projection, zeros where it has no bias.

        Returns: (P, C, D) and (P, C) with channels last, else (C, P, D) and (C, P).
        """
        shape = (self.positions, channels) if self.channels_last else (channels, self.positions)
        bias = projection.weight.new_zeros(shape) if projection.bias is None else projection.bias.view(shape)
        return projection.weight.view(*shape, -1), bias


class PolicyFamily(Protocol):
    """The settings of one kind of policy: how wide its head is, how to build it, how its output becomes a policy."""

    type: str
    dropout: float
    """Strength of `Policy.perturb` in training; 0 where the family has none."""
    local_keys: ClassVar[tuple[str, ...]]
    """Keys that say how a machine computes, and nothing of the weights: a card that was read has their defaults."""
    sizes: ClassVar[tuple[str, tuple[int, ...]]]
    """The key of its size, and the sizes that are tried where the least error of the family is asked for."""

    @classmethod
    def derived_keys(cls, sampling: SamplingSettings) -> dict[str, float]:
        """Keys of the settings that the sampling table says already, so that no preset says them twice."""
        ...

    def still(self) -> Self:
        """The settings without the noise that tells the parts of a new head apart: it starts as the teacher exactly."""
        ...

    def output_channels(self, latent_channels: int) -> int:
        """Channels a latent position that the head asks of the network."""
        ...

    def build_head(
        self, projection: nn.Linear, *, latent_channels: int, embed_dim: int, layout: PatchLayout
    ) -> PolicyHead:
        """An uninitialised head on the device and in the dtype of the teacher's projection."""
        ...

    def policy(self, output: Tensor, extra: Tensor | None, x_src: Tensor, sigma_src: Tensor) -> Policy:
        """The policy of a network output (B, output_channels, *S) at the source x_src (B, C, *S), sigma_src (B,)."""
        ...

    def first_output(
        self, velocity: Tensor, *, spread: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """What `policy` takes to make one of `velocity` (B, C, *S) at its source, as a new head would put it out.

        Args:
            velocity: the teacher's.
            spread: std of the noise that tells the parts of the policy apart; at 0 the velocity is met exactly.
            generator: of the noise.

        Returns: (B, output_channels, *S), and what the head reads beside it, None where it reads nothing.
        """
        ...

    def check_sampling(self, *, segments: Any, shift: float) -> None:
        """Raise PolicyError where the policy cannot serve these segments or this shift."""
        ...


class PolicyHead(Protocol):
    """The module that replaces the teacher's final projection; its forward maps tokens (B, N, D) to the new tokens."""

    def init_from_teacher(self, projection: nn.Linear, *, generator: torch.Generator) -> None:
        """Initialise so that the policy's velocity at the source is the teacher's."""
        ...

    def extra(self, embedding: Tensor) -> Tensor | None:
        """What the head reads from the time and condition embedding (B, D), or None."""
        ...
