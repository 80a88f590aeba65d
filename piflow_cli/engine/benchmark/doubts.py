"""What makes a benchmark's numbers doubtful, in words: FID of few pictures, or against few."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from piflow_cli.metrics.detectors.features import Detector, Reference
from piflow_cli.metrics.detectors.pixels import PixelDetector
from piflow_cli.metrics.metric import Features, Metric
from piflow_cli.metrics.panel import Panel, Seat

ENOUGH, INCEPTION_DIM = 10_000, 2048
"""Pictures that FID's authors ask for at least, and the features of their detector."""


def enough_pictures(feature_dim: int) -> int:
    """Pictures below which an FID in so many features is doubted.

    Source: the README of FID's authors (github.com/bioinf-jku/TTUR) asks for more pictures than features, as their
    covariance is singular otherwise, and recommends at least 10,000 for their 2048. For detectors of other widths ours:
    as many for each feature, since the bias grows with features over pictures (arXiv 1911.07023).
    """
    return math.ceil(feature_dim * ENOUGH / INCEPTION_DIM)


def heading(column: str) -> str:
    """A column's name as a table writes it: FID, KID and IS in capitals."""
    return column.upper() if len(column) <= 3 else column


def doubts(metrics: Sequence[Metric], panel: Panel, references: Mapping[Seat, Reference], *, samples: int) -> list[str]:
    """What makes the Fréchet distances among metrics doubtful, each by its own detector and reference."""
    found = []
    for metric in metrics:
        if metric.frechet and isinstance(metric.reads, Features):
            seen_by = {"detector": panel.detector_of(metric.reads), "reference": references[metric.reads]}
            found += fid_doubts([metric], samples=samples, heading=heading(metric.name), **seen_by)
    return found


def fid_doubts(
    metrics: Sequence[Metric], *, samples: int, detector: Detector, reference: Reference, heading: str = "FID"
) -> list[str]:
    """What makes the FID of `samples` pictures against a reference doubtful; nothing where none is asked for.

    Args:
        metrics: those that are measured by this detector.
        heading: what the distance is called.
    """
    if not any(metric.frechet for metric in metrics):
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
            _few(samples, dim, f"{heading} of {samples} pictures"),
            _few(reference.num_samples, dim, f"{heading} against {reference.num_samples} pictures ({reference.name})")
            if reference.num_samples
            else _unsaid(reference, dim, heading),
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


def _unsaid(reference: Reference, dim: int, heading: str) -> str | None:
    """The doubt of statistics that do not say of how many pictures they are: N pictures give a rank of N - 1."""
    rank = _rank(reference.cov)
    if rank > dim // 2:
        return None
    return (
        f"{heading} against {reference.name} is far too large: its covariance has rank {rank} in {dim} features, as "
        f"that of {rank + 1} pictures has"
    )


def _rank(cov: Tensor) -> int:
    return int(torch.linalg.matrix_rank(cov, hermitian=True))
