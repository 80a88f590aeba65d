"""Two benchmarks by their JSON: what differs in protocol, and which numbers differ by more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from piflow_cli.engine.benchmark.proof.seeds import half_of_mean
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_TEXT_BYTES, bounded_json
from piflow_cli.io.regular import read_regular
from piflow_cli.io.texts.json_text import json_text
from piflow_cli.io.texts.names import first_line
from piflow_cli.metrics.intervals.jackknife import combine, half_width

Verdict = Literal["better", "worse", "within noise", "no interval", "does not compare"]
DERIVED = {
    "fid_ratio": "lower",
    "diversity_ratio": "higher",
    "temporal_ratio": "higher",
    "fid_to_teacher": "lower",
    "paired_error": "lower",
    "gap_closed": "higher",
    "whole_error": "lower",
}
"""What rows say besides scores, and which direction is better."""
NAMED = 3
"""Keys of a file that are named where some are missing or wrong."""
HARMLESS = ("seed", "prompts", "guidance", "dtype", "versions")
"""Parts that may differ between numbers that compare: it is what differs that one may want to know. What prompts say is
a part of its own."""
BY_NAME = ("detectors", "references", "groups")
"""Parts with an entry for each model or metric, of which those that only one table has say nothing of the others."""
AFTER_THE_NOISE = ("prompts", "guidance", "dtype", "versions", "pictures", *BY_NAME)
"""Parts that leave picture i its noise and its prompt."""


class Row(BaseModel):
    """A row, as far as it is compared."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    model: str
    kind: str
    method: str
    nfe: int
    h: float = 0.0
    scores: dict[str, float | None]
    fid_ratio: float | None = None
    diversity_ratio: float | None = None
    temporal_ratio: float | None = None
    fid_to_teacher: float | None = None
    paired_error: float | None = None
    gap_closed: float | None = None
    quantization: str = "none"
    whole_error: float | None = None
    intervals: dict[str, tuple[float, float]] = {}
    without: dict[str, tuple[float | None, ...]] = {}
    by_seed: dict[str, tuple[float | None, ...]] = {}
    network_s: float | None = None
    policy_s: float | None = None

    @property
    def what(self) -> tuple[str, str, int, float]:
        """All but the model's name and how its base is held."""
        return (self.kind, self.method, self.nfe, self.h)

    @property
    def name(self) -> str:
        """In words."""
        way = f" {self.quantization}" if self.quantization != "none" else ""
        return f"{self.model} {self.method} {self.nfe} NFE{way}" + (f" h={self.h:g}" if self.h else "")

    def values(self) -> dict[str, float]:
        """All numbers by name."""
        found = self.scores | {name: getattr(self, name) for name in DERIVED}
        return {name: value for name, value in found.items() if value is not None}

    def spread(self, name: str) -> tuple[float, ...]:
        """A number without each part of the pictures; nothing where it was not kept."""
        return tuple(math.nan if value is None else value for value in self.without.get(name, ()))

    def of_seeds(self, name: str) -> tuple[float, ...]:
        """A number of each seed; nothing where there was one seed."""
        return tuple(math.nan if value is None else value for value in self.by_seed.get(name, ()))


class Table(BaseModel):
    """What `piflow benchmark --json` wrote, as far as it is compared; files of older versions say less."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rows: tuple[Row, ...]
    titles: dict[str, str]
    better: dict[str, Literal["lower", "higher"]]
    doubts: tuple[str, ...] = ()
    protocol: dict[str, Any] = {}
    fingerprint: str = ""

    def unsaid(self) -> list[str]:
        """Keys that scores of rows need and that are not there: what they are called, and which of two is better."""
        scores = dict.fromkeys(name for row in self.rows for name in row.scores)
        parts = {"titles": self.titles, "better": self.better}
        return [f"{part}.{name}" for part, known in parts.items() for name in scores if name not in known]


@dataclass(frozen=True)
class Difference:
    """One number of one row in two tables.

    Args:
        row: in words, as the first table says it.
        name: of the number.
        first, second: its values.
        half: of the interval of 95% of second - first; None where it is not known.
        paired: whether both began from the same noise and prompts, so that what they share is not in the interval.
        verdict: of the second beside the first.
    """

    row: str
    name: str
    first: float
    second: float
    half: float | None
    paired: bool
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """What two tables say of each other.

    Args:
        same_protocol: whether all parts are equal; None where a table does not say its protocol.
        differing: parts of the protocol that differ, each with both values.
        differences: by row and number.
        only_first, only_second: rows that the other has not.
        numbers_first, numbers_second: names of numbers that the other has not, of rows that both have.
        doubts_first, doubts_second: what makes scores of a table doubtful, in words.
        titles: headings of scores, by name.
    """

    same_protocol: bool | None
    differing: dict[str, tuple[Any, Any]]
    differences: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    numbers_first: tuple[str, ...]
    numbers_second: tuple[str, ...]
    doubts_first: tuple[str, ...]
    doubts_second: tuple[str, ...]
    titles: dict[str, str]

    def to_json(self) -> str:
        """Everything, for programs."""
        return json_text(asdict(self))


def _what_is_wrong(keys: Sequence[str]) -> str:
    """The first keys that are missing or wrong, and how many there are."""
    more = f" and {len(keys) - NAMED} others" if len(keys) > NAMED else ""
    return f"{', '.join(keys[:NAMED])}{more} {'are' if len(keys) > 1 else 'is'} missing or wrong"


def read_table(path: Path) -> Table:
    """What a benchmark wrote.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    try:
        table = Table.model_validate(bounded_json(read_regular(path, max_bytes=MAX_TEXT_BYTES)))
        if unsaid := table.unsaid():
            raise ValueError(_what_is_wrong(unsaid))
        return table
    except (OSError, ValueError) as error:
        said: Exception | str = error
        if isinstance(error, ValidationError):
            said = _what_is_wrong([".".join(map(str, found["loc"])) or "the whole" for found in error.errors()])
        reason = getattr(error, "strerror", None) or (said if isinstance(said, str) else first_line(said))
        raise DataError(
            f"{path} is no benchmark to compare: {reason}. Write one by piflow benchmark --metric ... --json FILE"
        ) from None


def compare(first: Table, second: Table) -> Comparison:
    """Hold the numbers of the second table against those of the first."""
    known = bool(first.protocol and second.protocol)
    parts = {**first.protocol, **second.protocol} if known else {}
    differing = {
        part: (first.protocol.get(part), second.protocol.get(part))
        for part in parts
        if first.protocol.get(part) != second.protocol.get(part)
    }
    barred = [part for part, values in differing.items() if part not in HARMLESS and not _agree(part, values)]
    paired = known and set(differing) <= set(AFTER_THE_NOISE)
    pairs = list(_pairs(first.rows, second.rows))
    matched = {id(row) for pair in pairs for row in pair}
    differences = [
        _difference(own, other, name, (first, second), paired=paired, barred=bool(barred))
        for own, other in pairs
        for name in own.values()
        if name in other.values()
    ]
    return Comparison(
        same_protocol=not differing if known else None,
        differing=differing,
        differences=tuple(differences),
        only_first=tuple(row.name for row in first.rows if id(row) not in matched),
        only_second=tuple(row.name for row in second.rows if id(row) not in matched),
        numbers_first=_only_in_first(pairs),
        numbers_second=_only_in_first([(other, own) for own, other in pairs]),
        doubts_first=first.doubts,
        doubts_second=second.doubts,
        titles={**second.titles, **first.titles},
    )


def _only_in_first(pairs: Sequence[tuple[Row, Row]]) -> tuple[str, ...]:
    """Names of numbers that the first of two rows has and the second has not, each once."""
    names = (name for own, other in pairs for name in own.values() if name not in other.values())
    return tuple(dict.fromkeys(names))


def _agree(part: str, values: tuple[Any, Any]) -> bool:
    """Whether all that both tables have of a part with entries by name is equal."""
    own, other = values
    if part not in BY_NAME or not isinstance(own, Mapping) or not isinstance(other, Mapping):
        return False
    return all(own[name] == other[name] for name in set(own) & set(other))


def _pairs(first: Sequence[Row], second: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Rows that belong together: of one name and way to hold the base, or else the only ones of their kind, method,
    evaluations and h."""
    left, others = [], {(row.model, row.quantization, row.what): row for row in second}
    for row in first:
        key = (row.model, row.quantization, row.what)
        if key in others:
            yield row, others.pop(key)
        else:
            left.append(row)
    for row in left:
        found = [other for other in others.values() if other.what == row.what]
        if len(found) == 1 and sum(other.what == row.what for other in left) == 1:
            yield row, found[0]


def _difference(
    own: Row, other: Row, name: str, tables: tuple[Table, Table], *, paired: bool, barred: bool
) -> Difference:
    first, second = own.values()[name], other.values()[name]
    spreads = (own.spread(name), other.spread(name))
    seeds = (own.of_seeds(name), other.of_seeds(name))
    by_seed = paired and len(seeds[0]) == len(seeds[1]) > 0
    paired = by_seed or (paired and len(spreads[0]) == len(spreads[1]) > 0)
    if by_seed:
        half = half_of_mean(combine(lambda a, b: b - a, *seeds))
    elif paired:
        half = half_width(combine(lambda a, b: b - a, *spreads))
    elif name in own.intervals and name in other.intervals:
        half = math.hypot(*((high - low) / 2 for low, high in (own.intervals[name], other.intervals[name])))
    else:
        half = None
    titles = {table.titles.get(name) for table in tables}
    better = DERIVED.get(name) or tables[0].better[name]
    verdict: Verdict
    if barred or len(titles) > 1:
        verdict = "does not compare"
    elif half is None:
        verdict = "no interval"
    elif abs(second - first) <= half:
        verdict = "within noise"
    else:
        verdict = "better" if (second < first) == (better == "lower") else "worse"
    return Difference(
        row=_name_of_both(own, other),
        name=name,
        first=first,
        second=second,
        half=half,
        paired=paired,
        verdict=verdict,
    )


def _name_of_both(own: Row, other: Row) -> str:
    """The first one's name, and what of the other's is not in it."""
    if own.name == other.name:
        return own.name
    return f"{own.name} / {other.model if own.quantization == other.quantization else other.name}"
