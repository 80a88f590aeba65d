"""A benchmark as a table on stdout, and below it what its numbers depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.gauge import BenchmarkRow
    from piflow_cli.engine.benchmark.result import BenchmarkResult

MOST_DECIMALS = 5
NUM_WORDS = 2
"""Columns of words: the model and its method."""
ARROWS = {"lower": "↓", "higher": "↑"}


def print_result(result: BenchmarkResult) -> None:
    """The table, and what its numbers depend on."""
    headings, columns = zip(*columns_of(result), strict=True)
    console.print_table(headings, list(zip(*columns, strict=True)), num_left=NUM_WORDS)
    for line in notes_of(result):
        typer.echo(line)


def notes_of(result: BenchmarkResult) -> list[str]:
    """What the numbers depend on, and what their names mean, a line each."""
    marked = [title for key, title in result.titles.items() if title != in_heading(key)]
    lines = [f"* {', '.join(marked)}"] if marked else []
    lines += _guided(result.rows)
    if any(row.h for row in result.rows):
        lines.append(
            "h: fresh noise between evaluations; above 0 pictures leave those of the teacher from the same noise"
        )
    if result.teacher_rows:
        distance = "; to teacher: FID to its pictures" if result.frames == 1 else ""
        lines.append(f"ratio: to the score of {', '.join(result.teacher_rows)}{distance}")
    if any(row.paired_error is not None for row in result.rows):
        lines.append(
            "paired: distance to its picture from the same noise; 0 is the same, 1 as far as another of its own"
        )
    if any(row.whole_error is not None for row in result.rows):
        lines.append(
            "change: of the score, to whole: distance to its picture, both from the same noise on the unquantised base"
        )
    if any(row.quantization != "none" for row in result.rows):
        lines.append("MB: the network's parameters as they are kept, without text encoders and autoencoder")
    if any(row.gap_closed is not None for row in result.rows):
        lines.append("gap closed: 0% is the teacher's FID at as many Euler steps, 100% that of its row of most steps")
    asked = f" of {result.num_prompts} prompts ({result.prompts})" if result.prompts is not None else ""
    known = f" ({result.reference_samples})" if result.reference_samples else ""
    drawn = "pictures" if result.frames == 1 else f"videos of {result.frames} frames"
    measured = f"{result.samples} {drawn} a row{asked}, detector {result.detector}"
    by = f", {result.num_processes} processes" if result.num_processes > 1 else ""
    lines.append(f"{measured}, reference {result.reference}{known}, {_seeds(result)}{by}")
    lines += [f"{metric}: reference {reference}" for metric, reference in result.references.items()]
    days = sorted({row.drawn_on for row in result.rows if row.drawn_on is not None})
    if days:
        count = sum(row.drawn_on is not None for row in result.rows)
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        lines.append(f"cached: {count} of the teacher's rows, with times of {when}; --no-cache draws them anew")
    if result.frames > 1:
        seen = result.protocol["frames"].partition(" see ")[2]
        lines.append(f"metrics of pictures, and paired distances, see of videos {seen}")
    if result.intervals is not None:
        meant = "what other seeds of as many give" if result.seeds else "for other noise and as many pictures"
        lines.append(f"intervals: {result.intervals}, {meant}; ratios share their noise")
    if result.fingerprint:
        lines.append(f"protocol {result.fingerprint}: {protocol_in_words(result.protocol)}")
    return [*lines, *_published(result), *(f"doubtful: {doubt}" for doubt in result.doubts)]


def _seeds(result: BenchmarkResult) -> str:
    """Which noise there was, in words."""
    return f"means over seeds {','.join(map(str, result.seeds))}" if result.seeds else f"seed {result.seed}"


def _published(result: BenchmarkResult) -> list[str]:
    """The paper's rows, of the columns that are here, and what is not as there."""
    if result.recipe is None:
        return []
    rows = []
    for row in result.published:
        scores = ", ".join(f"{in_heading(key)} {value:g}" for key, value in row.scores.items() if key in result.titles)
        rows += [f"  published: {row.model} at {row.nfe} NFE, {scores}"] if scores else []
    return [result.recipe, *rows, *(f"  not as published: {what}" for what in result.departures)]


def protocol_in_words(parts: Mapping[str, Any]) -> str:
    """What the footer says of a protocol beside what the lines above it say; the JSON has all."""
    dtypes, versions = ", ".join(parts["dtype"]), parts["versions"]
    return f"{dtypes}, " + ", ".join(f"{name} {version}" for name, version in versions.items())


def _guided(rows: Sequence[BenchmarkRow]) -> list[str]:
    """Which models' evaluations take more than a pass through the network each, and how many."""
    shares: dict[str, set[float]] = {}
    for row in rows:
        shares.setdefault(row.model, set()).add(row.network_calls / row.nfe)
    return [
        f"{model}: {' to '.join(f'{n:.3g}' for n in sorted({min(found), max(found)}))} passes through the network an "
        "evaluation, for guidance"
        for model, found in shares.items()
        if max(found) > 1
    ]


def columns_of(result: BenchmarkResult) -> list[tuple[str, list[str]]]:
    """Heading and cells of every column; what no row has is left out."""
    from piflow_cli.engine.benchmark.comparison import RATIOS

    rows = result.rows
    columns = [("model", [row.model for row in rows]), ("method", [row.method for row in rows])]
    columns.append(("NFE", [str(row.nfe) for row in rows]))
    if any(row.h for row in rows):
        columns.append(("h", [f"{row.h:g}" if row.kind == "student" else "" for row in rows]))
    if quantised := any(row.quantization != "none" for row in rows):
        columns.append(("base", [row.quantization if row.quantization != "none" else "whole" for row in rows]))
    for key, title in result.titles.items():
        name = in_heading(key)
        arrow = ARROWS[result.better[key]]
        arrow = arrow if console.can_write(arrow) else f"({result.better[key]})"
        scores = [number(row.scores[key], row.intervals.get(key), "{:.4g}") for row in rows]
        columns.append((f"{name}{'*' if title != name else ''} {arrow}", scores))
        columns += _optional("ratio", rows, RATIOS.get(key, ""))
        columns += _changes(rows, key)
    columns += _optional("to whole", rows, "whole_error")
    columns += _optional("paired", rows, "paired_error")
    columns += _optional("to teacher", rows, "fid_to_teacher")
    columns += _optional("gap closed", rows, "gap_closed", "{:.0%}")
    if quantised:
        columns += _megabytes(rows)
    totals = [row.network_s + row.policy_s for row in rows]
    shares = [row.policy_s / max(total, 1e-12) for row, total in zip(rows, totals, strict=True)]
    columns.append(("ms/pic" if result.frames == 1 else "ms/video", [f"{1000 * total:.3g}" for total in totals]))
    columns.append(("policy", [f"{share:.0%}" for share in shares]))
    return columns


def _changes(rows: Sequence[BenchmarkRow], key: str) -> list[tuple[str, list[str]]]:
    """How a score differs from that of the whole base, none where no row is beside one."""
    if not any(key in row.changes for row in rows):
        return []
    changes = [(row.changes.get(key), row.intervals.get(f"{key}_change")) for row in rows]
    return [("change", ["" if value is None else number(value, span, "{:+.3g}") for value, span in changes])]


def _megabytes(rows: Sequence[BenchmarkRow]) -> list[tuple[str, list[str]]]:
    """What the network's parameters take, none where nobody counted."""
    if all(row.weights_bytes is None for row in rows):
        return []
    return [("MB", ["" if row.weights_bytes is None else f"{row.weights_bytes / 1e6:.3g}" for row in rows])]


def _optional(
    heading: str, rows: Sequence[BenchmarkRow], name: str, form: str = "{:.3g}"
) -> list[tuple[str, list[str]]]:
    """The column of what rows may say by this name, none where no row says it."""
    values = [getattr(row, name, None) for row in rows]
    if all(value is None for value in values):
        return []
    cells = ["" if v is None else number(v, r.intervals.get(name), form) for v, r in zip(values, rows, strict=True)]
    return [(heading, cells)]


def number(value: float, interval: tuple[float, float] | None, form: str) -> str:
    """A value by its form, or with half its interval and as many digits as that leaves it: 1.97±0.04, 67±3%."""
    half = 0.0 if interval is None else (interval[1] - interval[0]) / 2
    if not 0 < half < math.inf or not math.isfinite(value):
        return form.format(value)
    scale, sign = (100, "%") if form.endswith("%}") else (1, "")
    value, half = scale * value, scale * half
    first = math.floor(math.log10(half))
    digits = max(0, -first + (half < 2 * 10**first))  # two digits of what begins with 1
    between = "±" if console.can_write("±") else "+-"
    if digits > MOST_DECIMALS:
        return f"{value:.2g}{between}{half:.1g}{sign}"
    return f"{round(value, digits) + 0.0:.{digits}f}{between}{half:.{digits}f}{sign}"


def in_heading(key: str) -> str:
    """A score's name in a heading: FID, KID and IS in capitals. The detector, where it is not Inception, goes below."""
    from piflow_cli.engine.benchmark.doubts import heading

    return heading(key)
