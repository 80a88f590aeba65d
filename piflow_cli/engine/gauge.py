"""One row of a benchmark: what a sampler's pictures score, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Space
from piflow_cli.engine.pictures import to_uint8
from piflow_cli.engine.samplers import Meter, Sampler, labels_of
from piflow_cli.metrics.features import Detector, FeatureSet, Reference, extract_features, mean_and_cov
from piflow_cli.metrics.fid import fid
from piflow_cli.metrics.metric import Metric

REHEARSAL_SAMPLES = 8


@dataclass(frozen=True)
class BenchmarkRow:
    """One sampler's cost and scores.

    Args:
        model: name of the student or teacher.
        kind: which of them.
        method: the policy of a student, the solver of a teacher.
        steps: segments of a student, steps of a solver.
        nfe: evaluations a picture, of the student or of the teacher's (guided) velocity; Heun takes two a step.
        network_calls: pictures put through the network for each picture made; guidance doubles it where it acts.
        shift: m of the time grid.
        network_s, policy_s: seconds a picture in the network, and in the policy's rollout or the solver.
        scores: by column of the metrics asked for.
        fid_to_teacher: FID to the pictures of the teacher's row of most steps; None for that row, and without one.
        fid_ratio: FID divided by the FID of that row, None likewise.
    """

    model: str
    kind: Literal["student", "teacher"]
    method: str
    steps: int
    nfe: int
    network_calls: float
    shift: float
    network_s: float
    policy_s: float
    scores: dict[str, float]
    fid_to_teacher: float | None = None
    fid_ratio: float | None = None


@dataclass(frozen=True)
class Anchor:
    """The teacher's longest row (of most steps), and the mean (D,) and covariance (D, D) of its features."""

    row: BenchmarkRow
    mean: Tensor
    cov: Tensor

    @classmethod
    def of(cls, row: BenchmarkRow, features: FeatureSet) -> Anchor:
        """The anchor of a measured row."""
        mean, cov = mean_and_cov(features.features)
        return cls(row, mean, cov)

    def compare(self, row: BenchmarkRow, features: FeatureSet) -> BenchmarkRow:
        """A row with its distance and its ratio to the anchor."""
        ratio = None
        if "fid" in row.scores and self.row.scores["fid"] > 0:
            ratio = row.scores["fid"] / self.row.scores["fid"]
        return replace(row, fid_to_teacher=fid(features.features, self.mean, self.cov), fid_ratio=ratio)


@dataclass(frozen=True)
class Gauge:
    """What every row of a benchmark is measured with, and how much of it."""

    metrics: Sequence[Metric]
    detector: Detector
    reference: Reference
    samples: int
    batch_size: int
    seed: int
    device: torch.device

    def rehearse(self, space: Space) -> None:
        """Go through everything that follows sampling with a few pictures of noise.

        Raises:
            DataError, ModelError: what would otherwise go wrong after the sampling.
        """
        count = min(REHEARSAL_SAMPLES, self.samples)
        noise = torch.randn((count, *space.latent_shape), generator=torch.Generator().manual_seed(self.seed))
        pictures = to_uint8(space.decode(noise.to(self.device))).cpu().float() / 255
        self._scores(extract_features(self.detector, [pictures]), labels_of(space, count))

    def doubts(self) -> list[str]:
        """What makes its numbers doubtful."""
        dim = self.detector.feature_dim
        if self.samples > dim or not any("fid" in metric.columns for metric in self.metrics):
            return []
        return [
            f"FID of {self.samples} pictures in {dim} features is far too large: its covariance needs many more "
            "pictures than features"
        ]

    def measure(self, sampler: Sampler, on_pictures: Callable[[int], None]) -> tuple[BenchmarkRow, FeatureSet]:
        """Sample, score and time one row.

        Args:
            sampler: what to measure.
            on_pictures: called with the number of pictures of each batch.
        """
        meter = Meter()
        batches = sampler.pictures(
            samples=self.samples, batch_size=self.batch_size, seed=self.seed, device=self.device, meter=meter
        )
        features = extract_features(self.detector, _watched(batches, on_pictures))
        row = BenchmarkRow(
            model=sampler.model,
            kind=sampler.kind,
            method=sampler.method,
            steps=sampler.steps,
            nfe=sampler.nfe,
            network_calls=meter.network_rows / self.samples,
            shift=sampler.shift,
            network_s=meter.stopwatch.network_s / self.samples,
            policy_s=meter.stopwatch.policy_s / self.samples,
            scores=self._scores(features, labels_of(sampler.space, self.samples)),
        )
        return row, features

    def _scores(self, features: FeatureSet, labels: Tensor) -> dict[str, float]:
        scores: dict[str, float] = {}
        for metric in self.metrics:
            scores |= metric.compute(features, self.reference, labels=labels, seed=self.seed)
        return scores


def _watched(batches: Iterator[Tensor], on_pictures: Callable[[int], None]) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        on_pictures(len(batch))
