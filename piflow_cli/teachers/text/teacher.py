"""A loaded text-to-image teacher: its guided velocity.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition, join_conditions
from piflow_cli.core.guidance import guide
from piflow_cli.core.interfaces import Backbone
from piflow_cli.teachers.text.settings import TextSettings
from piflow_cli.teachers.text.space import TextSpace

Network = Callable[[Tensor, Tensor, TextCondition], Tensor]
"""(x (B, C, H, W), sigma (B,), condition) -> the network's output (B, C, H, W)."""


@dataclass
class TextTeacher:
    """A loaded text-to-image teacher: a guided velocity field."""

    name: str
    module: nn.Module
    backbone: Backbone
    space: TextSpace
    settings: TextSettings
    network: dict[str, Any]

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor, condition: TextCondition, *, network: Network | None = None) -> Tensor:
        """Guided velocity (B, C, H, W) in float32 at x (B, C, H, W), sigma (B,).

        Guidance is embedded where the network takes it, else by a second pass with the negative prompt.

        Args:
            network: evaluates the teacher's network in place of its own module, as a student that holds it does.
        """
        evaluate = network or self._evaluate
        scale, interval = self.settings.guidance_scale, self.settings.guidance_interval
        inside = (sigma >= interval[0]) & (sigma <= interval[1])
        if condition.guidance is not None or scale == 1 or not bool(inside.any()):
            return evaluate(x, sigma, condition).float()
        both = join_conditions([condition, self.space.null_condition(len(condition))])
        u_cond, u_uncond = evaluate(torch.cat([x, x]), torch.cat([sigma, sigma]), both).float().chunk(2)
        return guide(u_cond, u_uncond, sigma, scale=scale, interval=interval)

    def _evaluate(self, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return self.backbone.predict(self.module, x, sigma, condition)
