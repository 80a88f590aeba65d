"""The page of a benchmark: its table, scores over evaluations and over time, and pictures of every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from piflow_cli.engine.report.charts import NUM_COLOURS, Chart, Line, chart_of, rounded
from piflow_cli.engine.report.page import page
from piflow_cli.engine.report.thumbnails import thumbnail
from piflow_cli.io.files import write_atomic

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.gauge import BenchmarkRow
    from piflow_cli.engine.benchmark.result import BenchmarkResult

SHEET_BYTES = 3_000_000
PAIRED = ("paired_error", "Paired distance", "to the teacher's pictures from the same noise")
Place = Callable[["BenchmarkRow"], float]
"""Where a row stands on the axis below."""
WHOLE = ("whole_error", "Distance to the whole base", "to its pictures from the same noise")
DISTANCE = ("fid_to_teacher", "FID to the teacher", "to the pictures of its longest row")


@dataclass(frozen=True)
class ScoresTable:
    """A benchmark as its table says it.

    Args:
        headings: of the columns; the first `num_left` are words.
        rows: cells, as many a row as headings.
        num_left: columns of words.
        notes: what the numbers depend on, a line each.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left: int
    notes: Sequence[str]


def write_scores(result: BenchmarkResult, table: ScoresTable, out: Path, *, sheet: Image.Image | None = None) -> None:
    """Write the page of a benchmark.

    Args:
        result: what was measured.
        table: the same in words.
        out: the file.
        sheet: pictures of every row, where some were kept.

    Raises:
        StorageError: the file cannot be written.
    """
    shown = None if sheet is None else thumbnail(sheet, step=0, max_bytes=SHEET_BYTES)
    title = "Benchmark of " + _listed([row.model for row in result.rows if row.kind == "student"])
    shared = {"result": result, "table": table, "sheet": shown}
    write_atomic(out, page("scores.html", title=title, charts=score_charts(result), **shared))


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Names once each, as many as a title holds."""
    found = list(dict.fromkeys(names))
    more = [f"{len(found) - most} more"] if len(found) > most else []
    *first, last = [*found[:most], *more] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def score_charts(result: BenchmarkResult) -> list[Chart]:
    """Every score over evaluations and over time, in the order of the table."""
    columns = [(key, title, f"{result.better[key]} is better") for key, title in result.titles.items()]
    columns += [
        item for item in (PAIRED, WHOLE, DISTANCE) if any(_value(row, item[0]) is not None for row in result.rows)
    ]
    each = "picture" if result.frames == 1 else "video"
    across = [("evaluations", 2, _evaluations), (f"ms a {each}", 10, _milliseconds)]
    return [
        chart_of(title, f"over {label}; {note}", _lines(result.rows, key, place), x_label=label, log_x=base)
        for key, title, note in columns
        for label, base, place in across
    ]


def _lines(rows: Sequence[BenchmarkRow], key: str, place: Place) -> list[Line]:
    """A line for each model, method, h and way to hold the base, through its rows."""
    groups: dict[tuple[str, str, float, str], list[BenchmarkRow]] = {}
    for row in rows:
        way = f", {row.quantization}" if row.quantization != "none" else ""
        groups.setdefault((row.model, row.method, row.h, way), []).append(row)
    lines = []
    for i, ((model, method, h, way), members) in enumerate(groups.items()):
        members = sorted((row for row in members if _value(row, key) is not None), key=place)
        spans = [_span(row, key) for row in members]
        barred = any(spans)
        lines.append(
            Line(
                f"{model} {method}" + (f", h {h:g}" if h else "") + way,
                tuple(rounded(place(row)) for row in members),
                tuple(rounded(_value(row, key)) for row in members),
                low=tuple(rounded(span[0]) if span else None for span in spans) if barred else (),
                high=tuple(rounded(span[1]) if span else None for span in spans) if barred else (),
                colour=i % NUM_COLOURS,
                dash=(7, 4) if i >= NUM_COLOURS else (),
                marked=True,
            )
        )
    return lines


def _value(row: BenchmarkRow, key: str) -> float | None:
    return row.scores[key] if key in row.scores else getattr(row, key, None)


def _span(row: BenchmarkRow, key: str) -> tuple[float, float] | None:
    """From where to where a score may be, where the benchmark says it."""
    return row.intervals.get(key)


def _evaluations(row: BenchmarkRow) -> float:
    return float(row.nfe)


def _milliseconds(row: BenchmarkRow) -> float:
    return 1000 * (row.network_s + row.policy_s)
