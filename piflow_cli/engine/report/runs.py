"""The page of one run, or of several side by side: pictures, curves, presets, and where they ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from piflow_cli.engine.report.charts import Chart, Line, chart_of, line_of
from piflow_cli.engine.report.curves import Curve
from piflow_cli.engine.report.page import page
from piflow_cli.engine.report.run import RunView, open_run
from piflow_cli.engine.report.settings import compared_settings
from piflow_cli.errors import DataError
from piflow_cli.formats.run import PAIRED
from piflow_cli.io.files import write_atomic

MAX_RUNS = 8
"""On one page: as many colours can be told apart."""
PLAIN = {
    "gradient_norm": ("Gradient norm", "before clipping"),
    "learning_rate": ("Learning rate", "with which each step was taken"),
    "images_per_s": ("Images a second", "over all devices, by recent steps"),
    "utilisation": ("Share of the devices' peak", "guidance and recomputation counted once"),
}
"""Title and note of columns that are drawn as they are."""
Pick = Callable[[RunView], Curve | None]


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Write the page of runs.

    Args:
        runs: folders of one run each.
        out: the file.

    Raises:
        DataError: too many runs.
        StorageError: a folder that holds no run, or a file that cannot be written.
    """
    write_atomic(out, report_page(runs))


def report_page(runs: Sequence[Path]) -> bytes:
    """The page of the runs in folders; errors as `write_report`, without the file."""
    if len(runs) > MAX_RUNS:
        raise DataError(f"{len(runs)} runs on one page; {MAX_RUNS} can be told apart. Name fewer.")
    readers = [open_run(folder, num_runs=len(runs)) for folder in runs]
    return runs_page([reader.look() for reader in readers])


def runs_page(runs: Sequence[RunView]) -> bytes:
    """The page of runs as they are."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    compared = compared_settings([run.preset for run in runs]) if len(runs) > 1 else []
    names = _distinct([run.name for run in runs])
    return page("runs.html", title=title, charts=run_charts(runs, names), runs=runs, names=names, compared=compared)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that differ: those that come again get numbers."""
    found: list[str] = []
    for name in names:
        again = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({again + 1})" if again else name)
    return found


def run_charts(runs: Sequence[RunView], names: Sequence[str]) -> list[Chart]:
    """The charts for which some run has numbers, the most wanted first."""
    made = [_losses(runs, names), *_scores(runs, names), _segments(runs, names)]
    for column, (title, note) in PLAIN.items():
        chart = _plain(runs, names, title, note, lambda run, key=column: run.metrics.curves.get(key))
        made.append(replace(chart, log_y=chart.log_y and column == "gradient_norm"))
    return [chart for chart in made if any(line.x for line in chart.lines)]


def _losses(runs: Sequence[RunView], names: Sequence[str]) -> Chart:
    note = "the mean of neighbouring steps; the band is their span"
    return _plain(runs, names, "Loss", note, lambda run: run.metrics.curves.get("loss"), band=True)


def _plain(
    runs: Sequence[RunView], names: Sequence[str], title: str, note: str, pick: Pick, *, band: bool = False
) -> Chart:
    """A chart of one line a run."""
    lines = []
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        if (curve := pick(run)) is not None:
            lines.append(line_of(curve, name if len(runs) > 1 else title.lower(), colour=i, band=band))
    return chart_of(title, note, lines)


def _segments(runs: Sequence[RunView], names: Sequence[str]) -> Chart:
    """Losses by segment: a colour a segment where there is one run, else a colour a run and a dash a segment."""
    lines: list[Line] = []
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        for number, curve in run.metrics.segments().items():
            label = f"segment {number}" if len(runs) == 1 else f"{name}, segment {number}"
            looks = {"colour": number - 1} if len(runs) == 1 else {"colour": i, "dash": number - 1}
            lines.append(line_of(curve, label, **looks))
    return chart_of("Loss by segment", "from noise (1) to data, not weighted by length", lines)


def _scores(runs: Sequence[RunView], names: Sequence[str]) -> list[Chart]:
    """A chart for each metric of the validations, the paired error first."""
    metrics = dict.fromkeys([PAIRED, *(metric for run in runs for metric in run.metrics.scores())])
    charts = []
    for metric in metrics:
        lines: list[Line] = []
        for i, (run, name) in enumerate(zip(runs, names, strict=True)):
            for j, (nfe, curve) in enumerate(run.metrics.scores().get(metric, {}).items()):
                label = f"{nfe} NFE" if len(runs) == 1 else f"{name}, {nfe} NFE"
                looks = {"colour": j} if len(runs) == 1 else {"colour": i, "dash": j}
                lines.append(line_of(curve, label, marked=True, **looks))
        title, note = _words(metric)
        charts.append(chart_of(title, note, lines))
    return charts


def _words(metric: str) -> tuple[str, str]:
    if metric == PAIRED:
        return "Paired error", "to the teacher's pictures from the same noise; 0 is the teacher"
    return metric.upper() if len(metric) <= 3 else metric.replace("_", " ").capitalize(), "of the validation"
