"""What the base's own pipeline did on a walk, as it is held against a teacher's own.

Shapes: B batch, C latent channels, S spatial dims (H, W or T, H, W), F frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class BaseStep:
    """One step of the base's sampler, in the terms of this project.

    Args:
        sigma: noise level.
        x: state, (B, C, *S).
        u: velocity that the step went by, guided, (B, C, *S); None where the sampler goes by something else.
    """

    sigma: float
    x: Tensor
    u: Tensor | None


@dataclass(frozen=True)
class BaseWalk:
    """What the base's own pipeline did from noise to latents.

    Args:
        steps: in their order.
        x_0: where they ended, (B, C, *S).
        pictures: (B, 3, H, W), or videos (B, 3, F, H, W), in [0, 1], as it made them of x_0; None where it was asked
            for none.
        calls: what its network was called with, by the names of its arguments.
        scale: guidance that it was asked for; 1 is none.
    """

    steps: tuple[BaseStep, ...]
    x_0: Tensor
    pictures: Tensor | None
    calls: tuple[Mapping[str, Any], ...]
    scale: float
