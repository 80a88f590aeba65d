"""The tabs that read: a run's page, and a benchmark's numbers."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from piflow_cli.cli.benchmarking.table import ARROWS, in_heading, number
from piflow_cli.cli.playing.words import problem, said, table

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.proof.compare import Row, Table

PLAIN = {
    "fid_ratio": "FID ratio",
    "diversity_ratio": "diversity ratio",
    "temporal_ratio": "temporal ratio",
    "whole_error": "to whole",
    "paired_error": "paired",
    "fid_to_teacher": "to teacher",
    "gap_closed": "gap closed",
}
"""Numbers of rows besides scores, and their headings."""


def run_tab() -> None:
    """The report of runs, in a frame that may do nothing but draw."""
    gr.Markdown("The report of a run as it is now, also while it goes on; several folders share the charts.")
    with gr.Row():
        folders = gr.Textbox(label="Run folders, a line each", lines=1, max_lines=8, elem_id="folders", scale=4)
        button = gr.Button("Open", elem_id="open", variant="primary", min_width=100)
    frame = gr.HTML(elem_id="report", elem_classes=["said"])
    gr.on([button.click, folders.submit], run_frame, folders, frame, api_visibility="private", concurrency_limit=1)


def run_frame(folders: str | None) -> str:
    """HTML of the frame with the page of runs, or of what is wrong."""
    from piflow_cli.engine.report.runs import report_page

    runs = [Path(line.strip()).expanduser() for line in (folders or "").splitlines() if line.strip()]
    if not runs:
        return said(error="name the folder of a run, such as runs/emoji-4nfe")
    try:
        page = report_page(runs)
    except Exception as error:
        return problem(error)
    source = "".join(f"&#{ord(c)};" if c in "{}$`" else c for c in escape(page.decode("utf-8")))
    return f'<iframe class="report" title="report" sandbox="allow-scripts" srcdoc="{source}"></iframe>'


def benchmark_tab() -> None:
    """A benchmark's JSON as a table."""
    gr.Markdown("What `piflow benchmark --json FILE` wrote.")
    file = gr.File(label="JSON file", file_types=[".json"], elem_id="benchmark-file", height=120)
    shown = gr.HTML(elem_id="benchmark", elem_classes=["said"])
    file.change(benchmark_table, file, shown, api_visibility="private")


def benchmark_table(path: str | None) -> str:
    """HTML of the table in a file, or of what is wrong."""
    from piflow_cli.engine.benchmark.proof.compare import read_table

    if path is None:
        return ""
    try:
        found = read_table(Path(path))
        return table(*_cells(found)) + said(*_notes(found), warnings=[f"doubtful: {doubt}" for doubt in found.doubts])
    except Exception as error:
        return problem(error).replace(escape(path), escape(Path(path).name))


def _notes(found: Table) -> list[str]:
    """Which detector scores are of, and by which protocol, as below the table on the terminal."""
    marked = [title for key, title in found.titles.items() if title != in_heading(key)]
    notes = [f"* {', '.join(marked)}"] if marked else []
    return notes + ([f"protocol {found.fingerprint}"] if found.fingerprint else [])


def _cells(found: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, as on the terminal."""
    plain = [name for name in PLAIN if any(getattr(row, name) is not None for row in found.rows)]
    timed = any(row.network_s is not None and row.policy_s is not None for row in found.rows)
    quantised = any(row.quantization != "none" for row in found.rows)
    titles = [
        f"{in_heading(key)}{'' if title == in_heading(key) else '*'} {ARROWS.get(found.better.get(key), '')}".strip()
        for key, title in found.titles.items()
    ]
    headings = ["model", "method", "NFE", "h", *(["base"] if quantised else []), *titles]
    headings += [PLAIN[name] for name in plain]
    rows = [
        [
            row.model,
            row.method,
            str(row.nfe),
            f"{row.h:g}" if row.kind == "student" else "",
            *([row.quantization if row.quantization != "none" else "whole"] if quantised else []),
            *(_cell(row, key, "{:.4g}") for key in found.titles),
            *(_cell(row, name, "{:.0%}" if name == "gap_closed" else "{:.3g}") for name in plain),
            *([_milliseconds(row)] if timed else []),
        ]
        for row in found.rows
    ]
    return [*headings, *(["ms/pic"] if timed else [])], rows


def _cell(row: Row, name: str, form: str) -> str:
    value = row.values().get(name)
    return "" if value is None else number(value, row.intervals.get(name), form)


def _milliseconds(row: Row) -> str:
    total = math.nan if row.network_s is None or row.policy_s is None else row.network_s + row.policy_s
    return "" if math.isnan(total) else f"{1000 * total:.3g}"
