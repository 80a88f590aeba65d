# Damage by degrees: of every two neighbours the slighter one is better, whoever judges.
# N pictures.

import io
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from piflow_cli.io.pictures import to_uint8
from piflow_cli.zoo.emoji.build.agreement.rows import blur, grey, noise, shift, swap

NUM_PICTURES = 500
COARSE_PX = 8
"""Places along a side that are drawn for what varies slowly over a picture."""


def coarsen(images: Tensor, factor: float) -> Tensor:
    """(N, 3, H, W) in [0, 1], made smaller by a factor and large again."""
    size_px = images.shape[-1]
    small = nn.functional.interpolate(images, round(size_px / factor), mode="bilinear", antialias=True)
    return nn.functional.interpolate(small, size_px, mode="bicubic").clamp(0, 1)


def ghost(images: Tensor, share: float) -> Tensor:
    """The same with a share of another picture in each, as of a mean of several answers."""
    return torch.lerp(images, images.roll(1, dims=0), share)


def warp(images: Tensor, share: float) -> Tensor:
    """The same with places moved by a smooth field, of a standard deviation that is a share of half a side."""
    moved = _slow(images, 2).permute(0, 2, 3, 1) * share
    grid = nn.functional.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid + moved, padding_mode="border", align_corners=False)


def blotch(images: Tensor, strength: float) -> Tensor:
    """The same with a smooth field of colour, of this standard deviation, added."""
    return (images + strength * _slow(images, 3)).clamp(0, 1)


def fade(images: Tensor, share: float) -> Tensor:
    """The same with a share of its contrast taken out."""
    return torch.lerp(images, images.mean(dim=(2, 3), keepdim=True).expand_as(images), share)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """The same through a JPEG file."""
    found = []
    for levels in to_uint8(images).permute(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(levels.numpy()).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(found) / 255


def repeat(images: Tensor, share: float) -> Tensor:
    """The first pictures, a share of all, over and over: what a sampler that has forgotten the rest would draw."""
    return images[torch.arange(len(images)) % max(1, round(len(images) * share))]


def hole(images: Tensor, share: float) -> Tensor:
    """The same with a white square in the middle, its side a share of the picture's."""
    size_px = images.shape[-1]
    half = round(size_px * share / 2)
    middle = slice(size_px // 2 - half, size_px // 2 + half)
    found = images.clone()
    found[:, :, middle, middle] = 1
    return found


def _slow(images: Tensor, channels: int) -> Tensor:
    """Smooth noise (N, channels, H, W) of about unit variance, always the same."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((len(images), channels, COARSE_PX, COARSE_PX), generator=generator)
    return nn.functional.interpolate(drawn, images.shape[-1], mode="bicubic")


GRADED: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur": (blur, (0.4, 0.6, 0.8, 1.2, 2)),
    "noise": (noise, (0.01, 0.02, 0.04, 0.08, 0.16)),
    "grey": (grey, (0.1, 0.25, 0.5, 1)),
    "moved": (lambda images, pixels: shift(images, int(pixels)), (1, 2, 4, 8)),
    "another's": (swap, (0.1, 0.2, 1 / 3, 0.5)),
    "coarsened": (coarsen, (1.25, 1.6, 2, 4)),
    "ghost": (ghost, (0.05, 0.1, 0.2, 0.4)),
    "warped": (warp, (0.02, 0.04, 0.08, 0.16)),
    "blotched": (blotch, (0.03, 0.06, 0.12, 0.25)),
    "faded": (fade, (0.05, 0.1, 0.2, 0.4)),
    "jpeg": (lambda images, quality: jpeg(images, int(quality)), (90, 70, 40, 15)),
    "repeated": (repeat, (0.8, 0.6, 0.4, 0.2)),
    "hole": (hole, (0.0625, 0.125, 0.25, 0.5)),
}
"""What is done, and how far, from the slightest."""


class Pair(NamedTuple):
    """Two degrees of one damage, the first of which must be better."""

    damage: str
    slighter: float
    stronger: float

    def __str__(self) -> str:
        return f"{self.damage} {self.slighter:.3g} above {self.stronger:.3g}"


def degrees(images: Tensor) -> Iterator[tuple[str, float, Tensor]]:
    """Every damage of (N, 3, H, W) uint8 pictures in every degree, with its name; uint8 as they are."""
    values = images.float() / 255
    for name, (change, strengths) in GRADED.items():
        for strength in strengths:
            yield name, strength, to_uint8(change(values, strength))


def disorder(score: Callable[[Tensor], float], images: Tensor) -> tuple[list[Pair], int]:
    """The pairs that a score, lower better, puts in the wrong order, and of how many; 0 is the undamaged picture."""
    none, wrong, count = score(images), [], 0
    for name, group in groupby(degrees(images), key=itemgetter(0)):
        scored = [(0.0, none), *((strength, score(changed)) for _, strength, changed in group)]
        wrong += [Pair(name, a, b) for (a, better), (b, worse) in pairwise(scored) if not better < worse]
        count += len(scored) - 1
    return wrong, count
