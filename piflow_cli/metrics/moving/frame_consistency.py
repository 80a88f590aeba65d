"""Frame consistency: how much alike a network finds the frames of a video, after VBench (arXiv 2311.17982)."""
# B, N videos, F frames, D features, C, H, W picture.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet, extract_features
from piflow_cli.metrics.metric import Features, score_of_features

DINO = "facebook/dinov2-base"
FRAMES_AT_ONCE = 32


def likeness(features: Tensor) -> Tensor:
    """How much each frame after the first is like the first and like the one before it, (F - 1).

        s_t = (cos(f_1, f_t) + cos(f_{t-1}, f_t)) / 2

    Args:
        features: of the frames of one video in turn, (F, D).

    Returns:
        Values in [-1, 1]: 1 where the frames say the same.

    Raises:
        DataError: fewer than 2 frames, or features that are not finite.

    Source: VBench's subject consistency (arXiv 2311.17982), there by DINO and by CLIP for the background.
    """
    if len(features) < 2 or not features.isfinite().all():
        raise DataError(
            f"frame-consistency is of finite features of at least 2 frames; these are of {len(features)}, or hold NaN"
        )
    unit = functional.normalize(features.double(), dim=1)
    after = unit[1:]  # (F - 1, D)
    return ((after * unit[0]).sum(dim=1) + (after * unit[:-1]).sum(dim=1)) / 2


@dataclass(frozen=True)
class FrameLikeness:
    """Gives the likeness (B, F - 1) of the frames of videos, by a detector that sees every frame.

    Args:
        detector: of pictures.
    """

    detector: Detector
    with_logits = False
    feature_dim = 1
    """At least: one less than frames."""

    @property
    def name(self) -> str:
        """The detector's, whose scores alone compare, of frames."""
        return f"{self.detector.name}-frames"

    def title(self, metric: str) -> str:
        """As the detector's: scores of others do not compare."""
        return self.detector.title(metric)

    def described(self) -> str:
        """What is made of the detector's features."""
        return f"cosines of every frame to the first and the last before it; {self.detector.described()}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Likeness of the frames of (B, C, F, H, W) videos in [0, 1].

        Raises:
            DataError: pictures.
        """
        if images.ndim != 5:
            raise DataError(f"frame-consistency is of videos, (B, C, F, H, W); these are {tuple(images.shape)}")
        found = [
            likeness(extract_features(self.detector, video.transpose(0, 1).split(FRAMES_AT_ONCE)).features)
            for video in images
        ]
        return FeatureSet(torch.stack(found).float())


def frame_consistency(likenesses: Tensor) -> float:
    """Mean over videos and frames of their likeness (N, F - 1).

    A frozen video has 1, the most there is: it says something beside `temporal-diversity` alone.
    """
    return likenesses.double().mean().item()


METRIC = score_of_features(
    "frame-consistency",
    frame_consistency,
    better="higher",
    reads=Features(model=DINO, view=FrameLikeness, frames="all"),
    takes="videos",
)
