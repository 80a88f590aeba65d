"""Patch FID (SDXL-Lightning, arXiv 2402.13929): FID of the middle 299x299 pixels at full size, where texture shows."""
# B pictures, C, H, W picture, P pixels.

from dataclasses import dataclass

from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet
from piflow_cli.metrics.frechet.fid import frechet_metric
from piflow_cli.metrics.metric import Features

PATCH_PX = 299
"""Inception's input, so that nothing is resized."""


@dataclass(frozen=True)
class PatchDetector:
    """A detector of the middle of pictures.

    Args:
        detector: what sees the patch.
        size_px: of its square.
    """

    detector: Detector
    size_px: int = PATCH_PX

    @property
    def name(self) -> str:
        """Of detector and patch, so that statistics of whole pictures are refused."""
        return f"{self.detector.name}-patch{self.size_px}"

    @property
    def feature_dim(self) -> int:
        """As the detector's."""
        return self.detector.feature_dim

    @property
    def with_logits(self) -> bool:
        """As the detector's."""
        return self.detector.with_logits

    def title(self, metric: str) -> str:
        """As the detector's."""
        return self.detector.title(metric)

    def described(self) -> str:
        """Of detector and patch."""
        return f"middle {self.size_px}x{self.size_px} px of a picture, {self.detector.described()}"

    def __call__(self, images: Tensor) -> FeatureSet:
        """Features of (B, C, H, W) pictures' middle (B, C, P, P).

        Raises:
            DataError: pictures smaller than the patch.
        """
        height, width = images.shape[2:]
        if min(height, width) < self.size_px:
            raise DataError(
                f"patch-fid is of the middle {self.size_px}x{self.size_px} pixels, and pictures have {width}x{height}: "
                "leave it out, or draw larger ones"
            )
        top, left = (height - self.size_px) // 2, (width - self.size_px) // 2
        return self.detector(images[:, :, top : top + self.size_px, left : left + self.size_px])


METRIC = frechet_metric("patch-fid", reads=Features(view=PatchDetector))
