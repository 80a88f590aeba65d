"""`piflow report`: the page of a run, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piflow_cli.cli import console

SUFFIXES = (".html", ".htm")
EXAMPLES = console.examples(
    ("the page of a run, into its folder", "piflow report runs/digits-1nfe"),
    ("two runs in the same charts", "piflow report runs/digits-1nfe runs/digits-1nfe-dx --out both.html"),
)


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, up to eight, also while they go on.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Where to write it. [default: report.html in the run's folder; of several runs here]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML file of a run or several: curves, pictures, presets. It opens from disk and needs no network."""
    from piflow_cli.formats.run import REPORT

    target = out or (runs[0] if len(runs) == 1 else Path()) / REPORT
    check_page(target, option="--out")
    from piflow_cli.engine.report.runs import write_report

    write_report(runs, target)
    typer.echo(str(target))


def check_page(path: Path, *, option: str) -> None:
    """Refuse a place where no page can be written, or a name that no browser opens.

    Raises:
        StorageError: the former.
    """
    from piflow_cli.io.files import check_file

    if path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{path} is no .html file; browsers open files by this suffix", param_hint=option)
    check_file(path)
