"""A benchmark as a page that opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from piflow_cli.cli.benchmarking.table import NUM_WORDS, columns_of, notes_of

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.result import BenchmarkResult
    from piflow_cli.engine.benchmark.showing.album import Album


def write_page(result: BenchmarkResult, album: Album, out: Path) -> None:
    """Write the page of a benchmark with the same table as on the terminal."""
    from piflow_cli.engine.report.scores import ScoresTable, write_scores

    headings, columns = zip(*columns_of(result), strict=True)
    table = ScoresTable(headings, list(zip(*columns, strict=True)), NUM_WORDS, notes_of(result))
    write_scores(result, table, out, sheet=album.sheet())
