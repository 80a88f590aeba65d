"""A text-to-image teacher's space without networks: latents are pixels averaged over squares, and a little noise.

Shapes: B batch, C latent channels, H, W latent size.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from piflow_cli.errors import DataError


@dataclass
class PixelSpace:
    """Pictures of 16 x 8 pixels, latents of 8 x 4."""

    latent_shape: tuple[int, int, int] = (3, 4, 8)
    factor: int = 2
    image_channels: int = 3
    frames: int = 1
    fps: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    noise: float = 0.01
    num_classes: int | None = None

    def latent_shape_of(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H, W) of pictures of width x height pixels, multiples of 4."""
        if width % 4 or height % 4:
            raise DataError(f"{width} x {height} is no multiple of 4")
        return (3, height // 2, width // 2)

    def encode_images(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, 3, H, W) of pictures (B, 3, 2 H, 2 W) in [0, 1]."""
        latents = F.avg_pool2d(images, self.factor) * 2 - 1
        return latents + self.noise * torch.randn(latents.shape, generator=generator)
