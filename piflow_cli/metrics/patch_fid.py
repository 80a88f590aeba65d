"""Patch FID (SDXL-Lightning, arXiv 2402.13929): FID of the middle 299x299 pixels at full size, where texture shows."""
# B pictures, N pictures, D features, C, H, W picture, P pixels.

from dataclasses import dataclass

from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet, Reference
from piflow_cli.metrics.fid import fid, fid_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import Features, Metric, require_same_dim

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


def compute(
    generated: FeatureSet,
    reference: Reference,
    *,
    labels: Tensor | None,  # noqa: ARG001  (one signature for all metrics)
    seed: int,  # noqa: ARG001
) -> dict[str, float]:
    """Column "patch-fid"."""
    require_same_dim(generated, reference)
    return {"patch-fid": fid(generated.features, reference.mean, reference.cov)}


def without(
    generated: FeatureSet,
    reference: Reference,
    parts: Parts,
    *,
    labels: Tensor | None,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> dict[str, list[float]]:
    """Column "patch-fid", see `fid_without`."""
    return {"patch-fid": fid_without(generated.features, reference, parts)}


METRIC = Metric(
    name="patch-fid",
    columns=("patch-fid",),
    better="lower",
    compute=compute,
    reads=Features(view=PatchDetector),
    frechet=True,
    needs_reference=True,
    without=without,
)
