"""What the rows of a benchmark say of each other: distances and ratios to the teacher's longest row, gaps closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from piflow_cli.metrics.detectors.features import FeatureSet, Reference
from piflow_cli.metrics.fid import fid
from piflow_cli.metrics.paired import paired_error

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.gauge import BenchmarkRow
    from piflow_cli.engine.benchmark.samplers import Sampler

GAP_SOLVER = "euler"
"""The solver of the teacher's short row that a student of as many evaluations is to beat."""


@dataclass(frozen=True)
class Anchor:
    """The teacher's longest row (of most steps), and its pictures as what others are compared to."""

    row: BenchmarkRow
    pictures: Reference

    @classmethod
    def of(cls, row: BenchmarkRow, features: FeatureSet, *, detector: str) -> Anchor:
        """The anchor of a measured row."""
        return cls(row, Reference.of(features, name=f"{row.model} {row.method} {row.steps} steps", detector=detector))

    def compare(self, row: BenchmarkRow, features: FeatureSet) -> BenchmarkRow:
        """A row with its distances and its ratios to the anchor."""
        return replace(
            row,
            fid_to_teacher=fid(features.features, self.pictures.mean, self.pictures.cov),
            paired_error=paired_error(features.features, self.pictures.features),
            fid_ratio=self._ratio(row, "fid"),
            diversity_ratio=self._ratio(row, "diversity"),
        )

    def _ratio(self, row: BenchmarkRow, column: str) -> float | None:
        own, other = row.scores.get(column), self.row.scores.get(column)
        return own / other if own is not None and other is not None and other > 0 else None


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
            gap = gap_closed(row.scores["fid"], own.scores["fid"], rows[end].scores["fid"])
            found[sampler] = replace(row, gap_closed=gap)
    return {**rows, **found}
