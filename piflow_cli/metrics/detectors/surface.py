# What a picture's surface is like, without a network: faint noise, soft edges and grey paper in 36 numbers.
# B images, C colours, H, W picture.

import torch
from torch import Tensor, nn

LEVELS = 3
"""Of the pyramid: details of about 1, 2 and 4 pixels."""
STRENGTHS = (2, 8, 32)
"""Out of 255: just visible, clear, an edge."""
COLOURS = 3
SURFACE_DIM = COLOURS * len(STRENGTHS) * (LEVELS + 1)
BINOMIAL = (1, 4, 6, 4, 1)
EDGE_PX = len(BINOMIAL) // 2


def surface(images: Tensor) -> Tensor:
    """How much detail of each size and strength there is, and how much is near to white.

    Networks that normalise what they see, or were taught to name things, hardly notice noise of a few levels or paper
    that is not quite white: the strong edges of the drawing drown them. So details are limited before they are
    averaged: tanh(|d| / s) for strengths s of 2, 8 and 32 of 255, of lightness, red less green and blue less green, at
    every level of a Laplacian pyramid; and exp(-(1 - x) / s) of red, green and blue says how white the paper is.

    Args:
        images: (B, 3, H, W) in [0, 1], H and W multiples of 8.

    Returns:
        (B, 36), each from 0 to 1.

    Source: Burt and Adelson, IEEE Transactions on Communications 31 (1983), for the pyramid.
    """
    weights = torch.tensor(BINOMIAL, dtype=images.dtype, device=images.device) / sum(BINOMIAL)
    kernel = (weights[:, None] * weights).expand(COLOURS, 1, -1, -1)
    red, green, blue = images.unbind(dim=1)
    plane = torch.stack([images.mean(dim=1), red - green, blue - green], dim=1)  # (B, C, H, W)
    found = []
    for _ in range(LEVELS):
        low = nn.functional.conv2d(nn.functional.pad(plane, [EDGE_PX] * 4, mode="replicate"), kernel, groups=COLOURS)
        detail = (plane - low).abs() * 255
        found += [torch.tanh(detail / strength).mean(dim=(2, 3)) for strength in STRENGTHS]
        plane = nn.functional.avg_pool2d(low, 2)
    found += [torch.exp((images - 1) * 255 / strength).mean(dim=(2, 3)) for strength in STRENGTHS]
    return torch.cat(found, dim=1)
