"""A loaded DiT teacher: its guided velocity.

Shapes: B batch, C latent channels, H, W latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from piflow_cli.core.guidance import guided_velocity
from piflow_cli.core.schedule import Shift
from piflow_cli.teachers.dit.backbone import DiTBackbone
from piflow_cli.teachers.dit.settings import DiTSettings
from piflow_cli.teachers.dit.space import DiTSpace
from piflow_cli.teachers.schedules import scheduler_shift


@dataclass
class DiTTeacher:
    """A loaded DiT teacher: a guided velocity field."""

    name: str
    module: nn.Module
    backbone: DiTBackbone
    space: DiTSpace
    settings: DiTSettings
    network: dict[str, Any]

    def name_classes(self, names: Mapping[int, str]) -> None:
        """Give classes that have no name of their own these, here and in the description that students keep."""
        unnamed = {i: name for i, name in names.items() if self.space.labels[i] == str(i)}
        if unnamed:
            self.space.labels |= unnamed
            self.network |= {"labels": {str(i): name for i, name in sorted(self.space.labels.items())}}

    def as_base(self, scale: float) -> Self:
        """The same teacher with another guidance."""
        return replace(self, settings=self.settings.model_copy(update={"guidance_scale": scale}))

    def own_shift(self, positions: int, *, num_steps: int) -> Shift:  # noqa: ARG002
        """The time grid of the base's own scheduler; arguments and errors as `Teacher.own_shift`."""
        return scheduler_shift(self.network["scheduler"] or {}, positions, origin=f"the scheduler of {self.name}")

    @torch.no_grad()
    def velocity(
        self, x: Tensor, sigma: Tensor, condition: Tensor, *, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Guided velocity (B, C, H, W) in float32 at x (B, C, H, W), sigma (B,), labels (B,).

        Args:
            sigma: best on the host, as `guided_velocity`.
            network: evaluates the teacher's network in place of its own module.
        """
        evaluate = network or self._evaluate
        return guided_velocity(
            lambda x, sigma, labels: self._unguided(evaluate, x, sigma, labels),
            x,
            sigma,
            condition,
            with_null=lambda labels, rows: torch.cat([labels, labels.new_full((len(rows),), self.space.null_class)]),
            scale=self.settings.guidance_scale,
            interval=self.settings.guidance_interval,
            orthogonal=self.settings.orthogonal,
        )

    def _evaluate(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.backbone.predict(self.module, x, sigma, condition)

    def _unguided(self, evaluate: Callable[..., Tensor], x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        output = evaluate(x, sigma, condition).float()
        output = output[:, : self.backbone.latent_channels]  # without a predicted variance
        return self.backbone.diffusion.velocity(output, x, sigma) if self.backbone.diffusion else output
