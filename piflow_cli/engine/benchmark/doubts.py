"""What makes a benchmark's numbers doubtful, in words: FID of few pictures, or against few."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import Detector, Reference
from piflow_cli.metrics.detectors.pixels import PixelDetector
from piflow_cli.metrics.metric import Metric

ENOUGH, INCEPTION_DIM = 10_000, 2048
"""Pictures that FID's authors ask for at least, and the features of their detector."""


def enough_pictures(feature_dim: int) -> int:
    """Pictures below which an FID in so many features is doubted.

    Source: the README of FID's authors (github.com/bioinf-jku/TTUR) asks for more pictures than features, as their
    covariance is singular otherwise, and recommends at least 10,000 for their 2048. For detectors of other widths ours:
    as many for each feature, since the bias grows with features over pictures (arXiv 1911.07023).
    """
    return math.ceil(feature_dim * ENOUGH / INCEPTION_DIM)


def fid_doubts(metrics: Sequence[Metric], *, samples: int, detector: Detector, reference: Reference) -> list[str]:
    """What makes the FID of `samples` pictures against a reference doubtful; nothing where no FID is asked for."""
    if not any("fid" in metric.columns for metric in metrics):
        return []
    dim = detector.feature_dim
    if isinstance(detector, PixelDetector):
        return [
            "FID of averaged pixels says little of what people see: pass --detector with the folder or hub id of a "
            "vision model (DINOv2, CLIP), or Inception"
        ]
    return [
        doubt
        for doubt in (
            _few(samples, dim, f"FID of {samples} pictures"),
            _few(reference.num_samples, dim, f"FID against {reference.num_samples} pictures ({reference.name})")
            if reference.num_samples
            else _unsaid(reference, dim),
        )
        if doubt is not None
    ]


def _few(number: int, dim: int, what: str) -> str | None:
    if number <= dim:
        return f"{what} in {dim} features is far too large: its covariance needs many more pictures than features"
    if number < enough_pictures(dim):
        return (
            f"{what} in {dim} features is too large, by an amount that falls with their number: compare it only with "
            f"FIDs of as many, or take at least {enough_pictures(dim)}"
        )
    return None


def _unsaid(reference: Reference, dim: int) -> str | None:
    """The doubt of statistics that do not say of how many pictures they are: N pictures give a rank of N - 1."""
    rank = _rank(reference.cov)
    if rank > dim // 2:
        return None
    return (
        f"FID against {reference.name} is far too large: its covariance has rank {rank} in {dim} features, as that of "
        f"{rank + 1} pictures has"
    )


def _rank(cov: Tensor) -> int:
    return int(torch.linalg.matrix_rank(cov, hermitian=True))
