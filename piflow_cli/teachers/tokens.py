"""Latents as the tokens of FLUX and Qwen-Image: a token holds a 2x2 patch, channels first.

Shapes: B batch, N tokens, C channels, H, W latent size.
"""

import torch
from torch import Tensor, nn

PATCH = 2


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
