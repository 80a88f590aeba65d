"""What a row of a quantised base says beside that of the same student with its base whole, from the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from piflow_cli.engine.benchmark.quantized.ways import WHOLE
from piflow_cli.errors import DataError
from piflow_cli.metrics.intervals.jackknife import combine
from piflow_cli.metrics.paired import paired_error, paired_errors_without

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.gauge import BenchmarkRow
    from piflow_cli.engine.benchmark.samplers import Sampler
    from piflow_cli.metrics.intervals.parts import Parts

CHANGE = "{}_change"
"""What the change of a score is called among intervals."""
Key = tuple[str, str, int, float]


def key_of(sampler: Sampler) -> Key:
    """Equal for rows that differ in how the base is held alone."""
    return (sampler.model, sampler.method, sampler.nfe, sampler.h)


@dataclass(frozen=True)
class Whole:
    """The row of an unquantised base.

    Args:
        row: as it was measured.
        features: of its pictures (N, D).
        parts: of these, None where there are no intervals.
    """

    row: BenchmarkRow
    features: Tensor
    parts: Parts | None

    def compare(self, row: BenchmarkRow, features: Tensor) -> BenchmarkRow:
        """A quantised row with how its scores change, and how far its pictures (N, D) are from those of the same noise.

        Every part of the pictures is left out of both rows, so that what they share is in no interval.
        """
        without = {
            CHANGE.format(name): combine(lambda own, other: own - other, row.without.get(name, ()), values)
            for name, values in ((column, self.row.without.get(column, ())) for column in row.scores)
        }
        return replace(
            row,
            changes={name: score - self.row.scores[name] for name, score in row.scores.items()},
            whole_error=self._error(features),
            without=row.without | without | {"whole_error": paired_errors_without(features, self.features, self.parts)},
        )

    def _error(self, features: Tensor) -> float | None:
        """The distance; None where the whole base draws one picture only, so that there is none to measure by."""
        try:
            return paired_error(features, self.features)
        except DataError:
            return None


def compared(
    sampler: Sampler, row: BenchmarkRow, features: Tensor, *, parts: Parts | None, known: dict[Key, Whole]
) -> BenchmarkRow:
    """A student's row beside the whole one's, which has to be measured first; a whole one is kept in `known`."""
    if sampler.kind != "student":
        return row
    if sampler.quantization == WHOLE:
        known[key_of(sampler)] = Whole(row, features, parts)
        return row
    whole = known.get(key_of(sampler))
    return row if whole is None else whole.compare(row, features)


def changes_of(row: BenchmarkRow) -> Mapping[str, float]:
    """The changes by the names of their intervals."""
    return {CHANGE.format(name): value for name, value in row.changes.items()}
