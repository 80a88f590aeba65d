"""One row of a benchmark: what a sampler's pictures score, and what they cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Space
from piflow_cli.engine.benchmark.questions import Questions, Subjects
from piflow_cli.engine.benchmark.samplers import Meter, Sampler
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.io.pictures import to_uint8
from piflow_cli.metrics.detectors.features import Detector, FeatureSet, Reference, extract_features, join_features
from piflow_cli.metrics.metric import Groups, Metric

REHEARSAL_SAMPLES = 8
TEACHER = "teacher"
"""What the reference is called that is the teacher's own row."""


def groups_seed(seed: int) -> int:
    """Seed of the noise of grouped pictures, not the row's: 32 bits, all that PyTorch's generator on CPUs uses."""
    return int.from_bytes(hashlib.sha256(f"groups {seed}".encode()).digest()[:4])


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
        network_s, policy_s: seconds a picture in the network, and in the policy's rollout or the solver, on the process
            that draws it.
        scores: by column of the metrics asked for.
        fid_to_teacher: FID to the pictures of the teacher's row of most steps; None for that row, and without one.
        paired_error: distance to that row's pictures of the same noise, see `metrics.paired`; None likewise.
        fid_ratio: FID divided by the FID of that row, None likewise.
        diversity_ratio: diversity divided by that of that row, None likewise, and where it was not measured.
        gap_closed: of students, where FID was measured, the part of the way from the teacher's Euler row of as many
            steps to its row of most steps; None where those rows are missing or the latter is no better.
        h: stochasticity between a student's segments; 0 is the ODE.
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
    paired_error: float | None = None
    fid_ratio: float | None = None
    diversity_ratio: float | None = None
    gap_closed: float | None = None
    h: float = 0.0


@dataclass(frozen=True)
class Gauge:
    """What every row of a benchmark is asked and measured with, and how much of it.

    Without a reference the first row that is measured becomes it: the teacher's of most steps.
    """

    metrics: Sequence[Metric]
    detector: Detector
    reference: Reference | None
    subjects: Subjects
    samples: int
    batch_size: int
    seed: int
    device: torch.device
    together: Together

    @property
    def questions(self) -> Questions:
        """Of a row's own pictures."""
        return Questions.in_turn(self.subjects, self.samples)

    @property
    def grouped(self) -> dict[Groups, Questions]:
        """Of the pictures that metrics of groups ask for besides."""
        wanted = dict.fromkeys(metric.groups for metric in self.metrics if metric.groups is not None)
        return {groups: Questions.grouped(self.subjects, groups) for groups in wanted}

    @property
    def pictures_a_row(self) -> int:
        """All that is sampled for one row."""
        return self.samples + sum(map(len, self.grouped.values()))

    def rehearse(self, space: Space) -> None:
        """Go through everything but the network with a few pictures of noise.

        Raises:
            DataError, ModelError, SamplingError: what would otherwise go wrong after the sampling.
        """
        count, questions = min(REHEARSAL_SAMPLES, self.samples), self.questions
        questions.condition(space, 0, count)
        noise = torch.randn((count, *space.latent_shape), generator=torch.Generator().manual_seed(self.seed))
        parts = [
            decode_finite(space, part.to(self.device), name="a rehearsal on noise", dtype=part.dtype)
            for part in noise.split(self.batch_size)
        ]
        features = extract_features(self.detector, [to_uint8(part).cpu().float() / 255 for part in parts])
        self._scores(features, _spread(questions.labels, count))
        for groups in self.grouped:
            self._scores(features, torch.zeros(count), groups=groups)

    def measure(self, sampler: Sampler, on_pictures: Callable[[int], None]) -> tuple[BenchmarkRow, FeatureSet] | None:
        """Sample, score and time one row; grouped pictures are sampled in passes of their own, which are not timed.

        Args:
            sampler: what to measure.
            on_pictures: called with the number of pictures of each batch, those of other processes' batches included.

        Returns:
            The row and the features of its own pictures in the main process, None in those that only draw.
        """
        meter, questions = Meter(), self.questions
        features = self._features(sampler, questions, on_pictures, seed=self.seed, meter=meter)
        others = {
            groups: self._features(sampler, asked, on_pictures, seed=groups_seed(self.seed), meter=Meter())
            for groups, asked in self.grouped.items()
        }
        costs = self.together.gather((meter.stopwatch.network_s, meter.stopwatch.policy_s, meter.network_rows))
        if features is None:
            return None
        scores = self._scores(features, questions.labels)
        for groups, found in others.items():
            scores |= self._scores(found, self.grouped[groups].numbers, groups=groups)
        network_s, policy_s, network_rows = (sum(values) / self.samples for values in zip(*costs, strict=True))
        row = BenchmarkRow(
            model=sampler.model,
            kind=sampler.kind,
            method=sampler.method,
            steps=sampler.steps,
            nfe=sampler.nfe,
            network_calls=network_rows,
            shift=sampler.shift,
            network_s=network_s,
            policy_s=policy_s,
            scores={column: scores[column] for metric in self.metrics for column in metric.columns},
            h=sampler.h,
        )
        return row, features

    def _features(
        self, sampler: Sampler, questions: Questions, on_pictures: Callable[[int], None], *, seed: int, meter: Meter
    ) -> FeatureSet | None:
        """Of all pictures, in their order, in the main process; processes take whole batches in turn."""
        options = {"batch_size": self.batch_size, "seed": seed, "device": self.device, "meter": meter}
        own, a_round = [], self.batch_size * self.together.num_processes
        for batch in sampler.pictures(questions, **options, takes=self.together.takes):
            begun = len(own) * a_round
            own.append(self.detector(batch))
            on_pictures(min(begun + a_round, len(questions)) - begun)
        parts = self.together.collect_in_turn(own)
        return join_features(parts) if self.together.is_main else None

    def _scores(self, features: FeatureSet, labels: Tensor | None, *, groups: Groups | None = None) -> dict[str, float]:
        """Scores by the metrics of these groups, or by those of a row's own pictures."""
        scores: dict[str, float] = {}
        reference = self.reference or Reference.of(features, name=TEACHER, detector=self.detector.name)
        for metric in self.metrics:
            if metric.groups == groups:
                scores |= metric.compute(features, reference, labels=labels, seed=self.seed)
        return scores


def _spread(labels: Tensor | None, count: int) -> Tensor | None:
    """A few of the labels (N,) from the least to the largest, so that one out of range is among them."""
    return None if labels is None else labels.sort().values[torch.linspace(0, len(labels) - 1, count).long()]
