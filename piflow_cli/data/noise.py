"""Data-free training: conditions only; the student's own rollouts from noise are its states (pi-Flow, algorithm 3)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Condition
from piflow_cli.core.settings import Settings


@dataclass(frozen=True)
class NoiseSource:
    """Classes drawn uniformly, without pictures."""

    num_classes: int

    has_images = False

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[None, Condition]:
        """No latents, and labels (B,)."""
        return None, torch.randint(self.num_classes, (batch_size,), generator=generator, device=generator.device)


class Noise(Settings):
    """No data: every trajectory starts at noise."""

    type: Literal["noise"] = "noise"

    def open(self, space: object) -> NoiseSource:
        """The source for a class model's space."""
        return NoiseSource(num_classes=space.num_classes)


def draw_indices(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Indices (B,) below `count`, drawn with replacement, so that the order depends on the generator's state alone."""
    return torch.randint(count, (batch_size,), generator=generator, device=generator.device).cpu()
