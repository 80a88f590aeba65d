# The small classifier behind "emoji-cnn", the embedded stand-in for Inception on 64x64 emoji.
# B images, C channels, D features, E measured, H hidden, K classes.

from itertools import pairwise

import torch
from torch import Tensor, nn

from piflow_cli.metrics.detectors.surface import SURFACE_DIM, surface

SIZE_PX = 64
CHANNELS = (32, 64, 128, 128)
"""After each of the strided convolutions; the last leaves 4x4 places."""
HIDDEN_DIM = 128
MEASURED_DIM = SURFACE_DIM + sum(CHANNELS) + HIDDEN_DIM
FEATURE_DIM = 256
NORM_GROUPS = 8


class EmojiNet(nn.Module):
    """Four strided convolutions, a layer of H = 128 that sees where things are, a linear classifier, and features.

    A classifier's last layer hardly sees what a sampler leaves undone: faint noise, washed-out colour, soft edges. So
    the features are of all depths: E = 516 measured numbers, the picture's surface, the mean of every channel of every
    stage, and the H of the last layer, of which a linear map that is fitted after the training makes D = 256.

    Args:
        num_classes: K, the base emoji.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(NORM_GROUPS, after), nn.SiLU())
            for before, after in pairwise((3, *CHANNELS))
        )
        places = (SIZE_PX >> len(CHANNELS)) ** 2
        self.hidden = nn.Linear(CHANNELS[-1] * places, HIDDEN_DIM)
        self.classifier = nn.Linear(HIDDEN_DIM, num_classes)
        self.whitening = nn.Linear(MEASURED_DIM, FEATURE_DIM)

    def depths(self, images: Tensor) -> list[Tensor]:
        """The means of the stages, (B, C) each, then the last layer, (B, H).

        Args:
            images: (B, 3, 64, 64) in [0, 1].
        """
        maps, means = images * 2 - 1, []
        for stage in self.stages:
            maps = stage(maps)  # (B, C, places, places)
            means.append(maps.mean(dim=(2, 3)))
        return [*means, self.hidden(maps.flatten(1))]

    def measure(self, images: Tensor) -> Tensor:
        """What the features are made of, (B, E): the surface, then all depths of (B, 3, 64, 64) in [0, 1]."""
        return torch.cat([surface(images), *self.depths(images)], dim=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and class logits.

        Args:
            images: (B, 3, 64, 64) in [0, 1].

        Returns:
            features (B, 256) and logits (B, K).
        """
        measured = self.measure(images)
        return self.whitening(measured), self.classifier(measured[:, -HIDDEN_DIM:])
