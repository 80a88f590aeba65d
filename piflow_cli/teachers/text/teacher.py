"""A loaded text-to-image teacher: its guided velocity.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from piflow_cli.core.conditions import TextCondition, join_conditions
from piflow_cli.core.guidance import guided_velocity
from piflow_cli.core.schedule import Shift
from piflow_cli.teachers.text.settings import TextSettings
from piflow_cli.teachers.text.space import TextSpace
from piflow_cli.teachers.text.tokens import TextBackbone

Network = Callable[[Tensor, Tensor, TextCondition], Tensor]
"""(x (B, C, H, W), sigma (B,), condition) -> the network's output (B, C, H, W)."""


@dataclass
class TextTeacher:
    """A loaded text-to-image teacher: a guided velocity field."""

    name: str
    module: nn.Module
    backbone: TextBackbone
    space: TextSpace
    settings: TextSettings
    network: dict[str, Any]
    _joined: tuple[TextCondition, list[int], TextCondition] | None = field(default=None, init=False, repr=False)

    def name_classes(self, names: Mapping[int, str]) -> None:
        """Nothing: there are no classes."""

    def as_base(self, scale: float) -> Self:
        """The same teacher, guided by two passes as the base's own pipeline does it at another scale."""
        changes = {"guidance_scale": scale, "normalized_guidance": self.settings.base_normalizes}
        return replace(self, settings=self.settings.model_copy(update=changes))

    def own_shift(self, positions: int, *, num_steps: int) -> Shift:
        """The time grid of the base's own pipeline; arguments and errors as `Teacher.own_shift`."""
        return self.space.own_shift(positions, num_steps=num_steps)

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor, condition: TextCondition, *, network: Network | None = None) -> Tensor:
        """Guided velocity (B, C, H, W) in float32 at x (B, C, H, W), sigma (B,).

        Guidance is embedded where the network takes it, else by a second pass with the negative prompt.

        Args:
            sigma: best on the host, as `guided_velocity`.
            network: evaluates the teacher's network in place of its own module, as a student that holds it does.
        """
        evaluate = network or self._evaluate
        return guided_velocity(
            lambda x, sigma, condition: evaluate(x, sigma, condition).float(),
            x,
            sigma,
            condition,
            with_null=self._with_null,
            scale=1.0 if condition.guidance is not None else self.settings.guidance_scale,
            interval=self.settings.guidance_interval,
            orthogonal=self.settings.orthogonal,
            normed=self.backbone.layout.sides if self.settings.normalized_guidance else (),
            every_row=self.backbone.calls_by_row and dist.is_initialized(),
        )

    def _with_null(self, condition: TextCondition, rows: list[int]) -> TextCondition:
        """The condition, and the negative prompt in the place of some rows; kept until another is asked for."""
        if self._joined is None or self._joined[0] is not condition or self._joined[1] != rows:
            against = condition.against(self.space.null_condition, rows)
            self._joined = (condition, rows, join_conditions([condition, against]))
        return self._joined[2]

    def _evaluate(self, x: Tensor, sigma: Tensor, condition: TextCondition) -> Tensor:
        return self.backbone.predict(self.module, x, sigma, condition)
