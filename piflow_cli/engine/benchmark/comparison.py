"""What the rows of a benchmark say of each other: distances and ratios to the teacher's longest row, gaps closed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from piflow_cli.engine.benchmark.proof.intervals import intervals_of
from piflow_cli.engine.benchmark.quantized.changes import changes_of
from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.frechet.fid import fid, fid_without
from piflow_cli.metrics.intervals.jackknife import combine
from piflow_cli.metrics.intervals.parts import Parts
from piflow_cli.metrics.paired import paired_error, paired_errors_without

if TYPE_CHECKING:
    from torch import Tensor

    from piflow_cli.engine.benchmark.gauge import BenchmarkRow
    from piflow_cli.engine.benchmark.samplers import Sampler

GAP_SOLVER = "euler"
"""The solver of the teacher's short row that a student of as many evaluations is to beat."""
RATIOS = {"fid": "fid_ratio", "diversity": "diversity_ratio", "temporal-diversity": "temporal_ratio"}
"""Scores that are divided by those of the teacher's longest row, and what rows call that."""


@dataclass(frozen=True)
class Anchor:
    """The teacher's longest row (of most steps), its pictures as what others are compared to, and parts of them.

    Of videos the features are of stills side by side: pairs have a distance, and there is no FID.
    """

    row: BenchmarkRow
    pictures: Reference
    parts: Parts | None = None
    of_videos: bool = False

    @classmethod
    def of(
        cls,
        row: BenchmarkRow,
        features: FeatureSet,
        *,
        detector: str,
        parts: Parts | None = None,
        of_videos: bool = False,
    ) -> Anchor:
        """The anchor of a measured row."""
        name = f"{row.model} {row.method} {row.steps} steps"
        return cls(row, Reference.of(features, name=name, detector=detector), parts, of_videos)

    def compare(self, row: BenchmarkRow, features: FeatureSet, *, reference: Reference | None = None) -> BenchmarkRow:
        """A row with its distances and its ratios to the anchor.

        Args:
            row: as it was measured.
            features: of its pictures.
            reference: what its FID is of; where that is this anchor's pictures, it is the distance.
        """
        same = reference is not None and reference.features is self.pictures.features
        known = same and "fid" in row.scores
        to_teacher = None
        if not self.of_videos:
            to_teacher = row.scores["fid"] if known else fid(features.features, self.pictures.mean, self.pictures.cov)
        return replace(
            row,
            fid_to_teacher=to_teacher,
            paired_error=paired_error(features.features, self.pictures.features),
            **{name: self._ratio(row, column) for column, name in RATIOS.items()},
            without=row.without | self._without(row, features.features, known=known),
        )

    def _without(self, row: BenchmarkRow, features: Tensor, *, known: bool) -> dict[str, tuple[float, ...]]:
        """Distances and ratios without each part of the pictures, which both sides lose."""
        own, other = row.without, self.row.without
        ratios = {n: combine(_quotient, own.get(of, ()), other.get(of, ())) for of, n in RATIOS.items()}
        if self.parts is None:
            return ratios
        errors = paired_errors_without(features, self.pictures.features, self.parts)
        if self.of_videos:
            return ratios | {"paired_error": errors}
        distances = (
            own.get("fid", ())
            if known
            else fid_without(features, self.pictures, replace(self.parts, reference=self.parts.own))
        )
        return ratios | {"fid_to_teacher": tuple(distances), "paired_error": errors}

    def _ratio(self, row: BenchmarkRow, column: str) -> float | None:
        own, other = row.scores.get(column), self.row.scores.get(column)
        return own / other if own is not None and other is not None and other > 0 else None


def _quotient(own: float, other: float) -> float:
    return own / other if other > 0 else math.nan


def gap_closed(student: float, teacher: float, longest: float) -> float | None:
    """How much of what separates a short teacher row from the longest one a student gains.

        (FID(teacher, n steps) - FID(student, n NFE)) / (FID(teacher, n steps) - FID(teacher, most steps))

    Returns:
        1 where the student equals the longest row, 0 where it equals the teacher of as many steps, above 1 and below 0
        beyond them; None where the longest row is no better than the short one.
    """
    gap = teacher - longest
    return (teacher - student) / gap if gap > 0 else None


def with_gaps(rows: Mapping[Sampler, BenchmarkRow], longest: Mapping[str, Sampler]) -> dict[Sampler, BenchmarkRow]:
    """The rows, those of students with the gap they close wherever FID and both of the teacher's rows are there.

    Args:
        rows: by what was measured.
        longest: the teacher's row of most steps, by `Sampler.teacher`.
    """
    short = {(s.teacher, s.steps): row for s, row in rows.items() if s.kind == "teacher" and s.method == GAP_SOLVER}
    found = {}
    for sampler, row in rows.items():
        own, end = short.get((sampler.teacher, sampler.nfe)), longest.get(sampler.teacher)
        if sampler.kind == "student" and own is not None and end.steps > own.steps and "fid" in row.scores:
            three = (row, own, rows[end])
            gap = gap_closed(*(some.scores["fid"] for some in three))
            without = combine(_gap_or_nan, *(some.without.get("fid", ()) for some in three))
            found[sampler] = replace(row, gap_closed=gap, without=row.without | {"gap_closed": without})
    return {**rows, **found}


def _gap_or_nan(*fids: float) -> float:
    gap = gap_closed(*fids)
    return math.nan if gap is None else gap


def with_intervals(row: BenchmarkRow) -> BenchmarkRow:
    """A finished row with the intervals of all that it says, and without what they cannot be made of."""
    names = ("fid_to_teacher", "paired_error", *RATIOS.values(), "gap_closed", "whole_error")
    said = row.scores | {name: getattr(row, name) for name in names} | changes_of(row)
    intervals = intervals_of(said, row.without)
    return replace(row, intervals=intervals, without={name: row.without[name] for name in intervals})
