"""Temporal diversity: how much videos change from frame to frame, which few-step students tend to lose."""
# B, N videos, F frames, C, H, W picture.

from __future__ import annotations

import torch
from torch import Tensor

from piflow_cli.errors import DataError
from piflow_cli.metrics.detectors.features import Detector, FeatureSet
from piflow_cli.metrics.metric import Features, score_of_features


def frame_changes(videos: Tensor) -> Tensor:
    """Mean absolute difference of each frame to the one before it, (B, F - 1).

        d_t = mean over channels and pixels of |x_{t+1} - x_t|

    Args:
        videos: (B, C, F, H, W) in [0, 1].

    Returns:
        Values in [0, 1]: 0 between frames that are the same, 1 from black to white.

    Raises:
        DataError: pictures, or videos of one frame, in which nothing can change.

    Source: VBench's temporal flickering (arXiv 2311.17982), 1 minus the mean of these, there of videos that are to be
        still; for how much videos change, ours.
    """
    if videos.ndim != 5 or videos.shape[2] < 2:
        raise DataError(
            f"temporal-diversity is of videos of at least 2 frames, (B, C, F, H, W); these are {tuple(videos.shape)}"
        )
    return videos.double().diff(dim=2).abs().mean(dim=(1, 3, 4))


def temporal_diversity(changes: Tensor) -> float:
    """Mean over videos and times of `frame_changes`, (N, F - 1).

    Returns:
        0 where nothing moves, at most 1. A picture's edges count where they move, and so does flicker: noise of
        deviation s that is new in each frame adds 2 s / sqrt(pi). What counts is the difference to the teacher's videos
        of the same noise: less is motion lost, more may be flicker.

    Raises:
        DataError: no videos, or values that are not finite.
    """
    if not len(changes) or not changes.isfinite().all():
        raise DataError("temporal-diversity needs videos whose values are finite: these are none, or hold NaN.")
    return changes.double().mean().item()


class FrameChanges:
    """Gives the changes (B, F - 1) of videos; no network is part of it."""

    name, with_logits = "frame-changes", False
    feature_dim = 1
    """At least: one less than frames."""

    def title(self, metric: str) -> str:
        """Alone: no network is part of it."""
        return metric

    def described(self) -> str:
        """There is nothing else."""
        return "mean absolute difference of neighbouring frames"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FeatureSet:
        """Changes of (B, C, F, H, W) videos in [0, 1].

        Raises:
            DataError: pictures.
        """
        return FeatureSet(frame_changes(images).float())


def view(detector: Detector) -> FrameChanges:  # noqa: ARG001  (one signature for all views)
    """In a run's panel, the one that looks at changes; the run's detector has no part in it."""
    return FrameChanges()


METRIC = score_of_features(
    "temporal-diversity",
    temporal_diversity,
    better="higher",
    reads=Features(view=view, frames="all"),
    takes="videos",
    of_pixels=True,
)
