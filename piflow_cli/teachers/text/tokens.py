"""Latents as the tokens of FLUX and Qwen-Image: a token holds a 2x2 patch, channels first.

Shapes: B batch, N tokens, C channels, H, W latent size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from piflow_cli.core.interfaces import PatchLayout
from piflow_cli.errors import DataError

PATCH = 2


@dataclass(frozen=True)
class TokenBackbone:
    """What is known of a transformer over such tokens without calling it.

    Args:
        latent_channels: C.
    """

    latent_channels: int

    projection_name = "proj_out"
    trained_modules = ("norm_out",)
    layout = PatchLayout(positions=PATCH**2, channels_last=False)

    def embed_dim(self, module: nn.Module) -> int:
        """D, the width of the transformer."""
        return module.inner_dim

    def projection(self, module: nn.Module) -> nn.Linear:
        """The final projection."""
        return plain_projection(module.proj_out, module.dtype)

    def replace_projection(self, module: nn.Module, head: nn.Module, *, output_channels: int) -> None:  # noqa: ARG002
        """Put a head in the place of the final projection."""
        module.proj_out = head


def check_sides(width: int, height: int, *, factor: int) -> None:
    """Raise DataError for a side that is no positive multiple of the autoencoder's factor times the patch."""
    step = factor * PATCH
    for name, value in (("width", width), ("height", height)):
        if value < step or value % step:
            near = max(step, round(value / step) * step)
            raise DataError(
                f"{name} {value} is not a positive multiple of {step}; the nearest one is {near} (a latent is "
                f"{factor}x{factor} pixels, and the network takes squares of {PATCH} latents)"
            )


def pack(x: Tensor) -> Tensor:
    """Tokens (B, N, 4 C) of x (B, C, H, W), as the pipelines pack them."""
    from diffusers import FluxPipeline

    return FluxPipeline._pack_latents(x, *x.shape)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse: (B, C, height, width) of tokens (B, N, 4 C) with any number of channels."""
    from diffusers import FluxPipeline

    return FluxPipeline._unpack_latents(tokens, height, width, 1)


def plain_projection(projection: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """The projection itself, or where it is quantised one of its shape, whose values nobody may use, in `dtype`."""
    if projection.weight.is_floating_point():
        return projection
    device = projection.weight.device
    return nn.Linear(projection.in_features, projection.out_features, device=device, dtype=dtype)
