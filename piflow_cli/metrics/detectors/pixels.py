"""Averaged pixels as features: what can be compared where nobody has a network at hand."""
# B pictures, C, H, W picture.

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.metrics.detectors.features import FeatureSet

PIXELS_NAME = "pixels"
SIZE_PX = 16


class PixelDetector:
    """Features (B, 3 * 16 * 16): each picture averaged to 16x16. Pictures of other proportions are stretched.

    Good for paired differences, which ask whether two pictures show the same; a Fréchet distance of pixels says little.
    """

    name, feature_dim, with_logits = PIXELS_NAME, 3 * SIZE_PX**2, False

    def title(self, metric: str) -> str:
        """Says what is compared."""
        return f"{metric} (pixels)"

    def described(self) -> str:
        """There is nothing else."""
        return f"averaged to {SIZE_PX}x{SIZE_PX} px"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Features of (B, C, H, W) pictures in [0, 1]; grey ones are repeated to three channels."""
        averaged = functional.adaptive_avg_pool2d(images.float().cpu(), SIZE_PX)
        return FeatureSet(averaged.expand(-1, 3, -1, -1).flatten(1))
