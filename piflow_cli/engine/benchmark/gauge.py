"""One row of a benchmark: what a sampler's pictures score, and what they cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from piflow_cli.core.interfaces import Space
from piflow_cli.engine.benchmark.drawn.cache import RowCache
from piflow_cli.engine.benchmark.drawn.looks import Looks, Viewing, joined
from piflow_cli.engine.benchmark.proof.intervals import Intervals
from piflow_cli.engine.benchmark.questions import Questions, Subjects
from piflow_cli.engine.benchmark.samplers import Sampler
from piflow_cli.engine.benchmark.showing.album import Album
from piflow_cli.engine.processes.together import Together
from piflow_cli.engine.students.finite import decode_finite
from piflow_cli.io.pictures import to_uint8
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.intervals.jackknife import scores_without
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.metric import WHOLE, Groups, Judgement, Metric
from piflow_cli.metrics.panel import Panel, Seat, seats_of

REHEARSAL_SAMPLES = 8
TEACHER = "teacher"
"""What the reference is called that is the teacher's own row."""
NOTHING = Reference("nothing", "none", torch.zeros(0), torch.zeros(0, 0), features=None, num_samples=0)
"""The reference of metrics that compare to none."""


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
        diversity_ratio, temporal_ratio: (temporal) diversity divided by that of that row, None likewise, and where it
            was not measured.
        gap_closed: of students, where FID was measured, the part of the way from the teacher's Euler row of as many
            steps to its row of most steps; None where those rows are missing or the latter is no better.
        h: stochasticity between a student's segments; 0 is the ODE.
        intervals: from and to of each score, ratio, distance and gap, by its name; see `metrics.intervals`.
        without: what they are made of: the same with each part of the pictures left out, in the parts' order.
        quantization: how the base is held; none is whole.
        weights_bytes: of the network's parameters as they are kept; None where nobody counted.
        changes: by column, the score less that of the row of the whole base, where there is one beside it.
        whole_error: paired distance to that row's pictures of the same noise, None likewise.
        by_seed: of several seeds, every number of each by its name; scores and the like are means then.
        drawn_on: the day on which its pictures were drawn and timed, where that was an earlier benchmark.
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
    temporal_ratio: float | None = None
    gap_closed: float | None = None
    h: float = 0.0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    without: dict[str, tuple[float, ...]] = field(default_factory=dict)
    drawn_on: str | None = None
    quantization: str = "none"
    weights_bytes: int | None = None
    changes: dict[str, float] = field(default_factory=dict)
    whole_error: float | None = None
    by_seed: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gauge:
    """What every row of a benchmark is asked and measured with, and how much of it.

    Where metrics have no reference the first row that is measured becomes it: the teacher's of most steps, whose
    pictures are `of_rows` and share their noise with those of the others.
    """

    metrics: Sequence[Metric]
    panel: Panel
    references: Mapping[Seat, Reference]
    subjects: Subjects
    samples: int
    batch_size: int
    seed: int
    device: torch.device
    together: Together
    intervals: Intervals
    of_rows: frozenset[Seat] = frozenset()
    album: Album | None = None
    cache: RowCache | None = None

    def of_seed(self, seed: int) -> Gauge:
        """The same for other noise, without the album."""
        return replace(self, seed=seed, intervals=replace(self.intervals, seed=seed), album=None)

    @property
    def questions(self) -> Questions:
        """Of a row's own pictures."""
        return Questions.in_turn(self.subjects, self.samples)

    @property
    def grouped(self) -> dict[Groups, Questions]:
        """Of the pictures that metrics of groups ask for besides."""
        wanted = dict.fromkeys(metric.groups for metric in self.metrics if metric.groups is not None)
        return {groups: Questions.grouped(self.subjects, groups) for groups in wanted}

    def seats(self, groups: Groups | None = None) -> list[Seat]:
        """Who looks at the pictures of these groups, or at a row's own: at these the run's detector always does."""
        found = seats_of([metric for metric in self.metrics if metric.groups == groups])
        return found if groups is not None or WHOLE in found else [WHOLE, *found]

    def compared_to(self, pictures: Mapping[Seat, FeatureSet], *, name: str) -> Gauge:
        """The gauge with these pictures as the reference wherever there is none."""
        made = {
            seat: Reference.of(features, name=name, detector=self.panel.detector_of(seat).name)
            for seat, features in pictures.items()
            if not isinstance(seat, Judgement) and seat not in self.references
        }
        return replace(self, references={**made, **self.references}, of_rows=self.of_rows | set(made))

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
        pictures, seats = [to_uint8(part).cpu().float() / 255 for part in parts], seats_of(self.metrics)
        own = [
            self.panel.look(part, questions.prompts(start, start + len(part)), dict.fromkeys([WHOLE, *seats]))
            for start, part in zip(range(0, count, self.batch_size), pictures, strict=True)
        ]
        seen = joined(own)
        self._scores(seen, _spread(questions.labels, count))
        for groups in self.grouped:
            self._scores(seen, torch.zeros(count), groups=groups)

    def measure(
        self, sampler: Sampler, on_pictures: Callable[[int], None]
    ) -> tuple[BenchmarkRow, dict[Seat, FeatureSet]] | None:
        """Sample, score and time one row; grouped pictures are sampled in passes of their own, which are not timed.

        Args:
            sampler: what to measure.
            on_pictures: called with the number of pictures of each batch, those of other processes' batches included.

        Returns:
            The row and what was seen of its own pictures in the main process, None in those that only draw.
        """
        own = self._looks(sampler, None, on_pictures)
        others = {groups: self._looks(sampler, groups, on_pictures) for groups in self.grouped}
        if own is None:
            return None
        questions, seen = self.questions, own.seen
        scores = self._scores(seen, questions.labels)
        without = self._without(seen, questions.labels, self.intervals.parts_of(questions))
        for groups, found in others.items():
            numbers = self.grouped[groups].numbers
            scores |= self._scores(found.seen, numbers, groups=groups)
            without |= self._without(found.seen, numbers, self.intervals.parts_of_groups(numbers), groups=groups)
        row = BenchmarkRow(
            model=sampler.model,
            kind=sampler.kind,
            method=sampler.method,
            steps=sampler.steps,
            nfe=sampler.nfe,
            network_calls=own.network_calls,
            shift=sampler.shift,
            network_s=own.network_s,
            policy_s=own.policy_s,
            scores={column: scores[column] for metric in self.metrics for column in metric.columns},
            h=sampler.h,
            without=without,
            drawn_on=own.drawn_on,
            quantization=sampler.quantization,
            weights_bytes=sampler.weights_bytes,
        )
        return row, seen

    def viewing(self, groups: Groups | None) -> Viewing:
        """A row's own pictures, or those of groups, and who looks at them."""
        return Viewing(
            questions=self.questions if groups is None else self.grouped[groups],
            seats=self.seats(groups),
            panel=self.panel,
            seed=self.seed if groups is None else groups_seed(self.seed),
            batch_size=self.batch_size,
            device=self.device,
        )

    def pictures_known(self, sampler: Sampler) -> int:
        """How many of a row's pictures need not be drawn; the main process looks."""
        viewings = [self.viewing(groups) for groups in (None, *self.grouped)]
        if self.cache is None or sampler.kind != "teacher":
            return 0
        return self.together.main_does(
            lambda: sum(len(some.questions) for some in viewings if self.cache.holds(sampler, some))
        )

    def _looks(self, sampler: Sampler, groups: Groups | None, on_pictures: Callable[[int], None]) -> Looks | None:
        """What is seen of a row's own pictures, or of those of groups, in the main process: known, or drawn now."""
        viewing, album, known = self.viewing(groups), self.album if groups is None else None, None
        if self.cache is not None and sampler.kind == "teacher":
            known = self.cache.find(sampler, viewing) if self.together.is_main else None
            if self.together.main_does(lambda: known is not None):
                if album is not None and self.together.is_main:
                    viewing.show(sampler, album)
                return known
        looks = viewing.draw(sampler, together=self.together, on_pictures=on_pictures, album=album)
        if self.cache is not None and looks is not None:
            self.cache.keep(sampler, viewing, looks)
        return looks

    def _scores(
        self, seen: Mapping[Seat, FeatureSet], labels: Tensor | None, *, groups: Groups | None = None
    ) -> dict[str, float]:
        """Scores by the metrics of these groups, or by those of a row's own pictures."""
        scores: dict[str, float] = {}
        for metric in self.metrics:
            if metric.groups == groups:
                features = seen[metric.reads]
                scores |= metric.compute(features, self._reference(metric, features), labels=labels, seed=self.seed)
        return scores

    def _without(
        self,
        seen: Mapping[Seat, FeatureSet],
        labels: Tensor | None,
        parts: Parts | None,
        *,
        groups: Groups | None = None,
    ) -> dict[str, tuple[float, ...]]:
        """The same scores with each part of the pictures left out; none where there are no parts."""
        found: dict[str, tuple[float, ...]] = {}
        for metric in self.metrics:
            if parts is None or metric.groups != groups:
                continue
            features, with_them = seen[metric.reads], parts
            shares_noise = metric.reads in self.of_rows or metric.reads not in self.references
            if metric.needs_reference and shares_noise and groups is None:
                with_them = replace(parts, reference=parts.own)
            reference = self._reference(metric, features)
            found |= scores_without(metric, features, reference, with_them, labels=labels, seed=self.seed)
        return found

    def _reference(self, metric: Metric, features: FeatureSet) -> Reference:
        """What a metric compares to: where there is nothing else, the pictures themselves."""
        if not metric.needs_reference:
            return NOTHING
        known = self.references.get(metric.reads)
        return Reference.of(features, name=TEACHER, detector=TEACHER) if known is None else known


def _spread(labels: Tensor | None, count: int) -> Tensor | None:
    """A few of the labels (N,) from the least to the largest, so that one out of range is among them."""
    return None if labels is None else labels.sort().values[torch.linspace(0, len(labels) - 1, count).long()]
