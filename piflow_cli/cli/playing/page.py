"""The page as a whole: its tabs and its looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from piflow_cli.cli.playing.drawing import drawing_tab
from piflow_cli.cli.playing.reading import benchmark_tab, run_tab

if TYPE_CHECKING:
    from piflow_cli.engine.studio.studio import Studio

CSS = """
.said p { margin: 0 0 .4em; white-space: pre-wrap; overflow-wrap: anywhere }
.said .error { color: var(--error-text-color, #b91c1c) }
.said .warning { color: #92400e } .dark .said .warning { color: #fbbf24 }
.said .name { display: inline-block; min-width: 6em; color: var(--body-text-color-subdued) }
.scores { overflow-x: auto } .scores table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.scores th, .scores td { padding: .3em .7em; border-bottom: 1px solid var(--border-color-primary); white-space: nowrap }
.scores td { text-align: right } .scores td:first-child, .scores th:first-child { text-align: left }
#pictures .grid-container, #kept .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)) !important;
}
iframe.report { width: 100%; height: 85vh; border: 1px solid var(--border-color-primary); background: white }
"""


def theme() -> gr.themes.Base:
    """Plain, with the fonts of whoever looks."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build(studio: Studio, model: str) -> gr.Blocks:
    """The page, whose drawing begins with a model."""
    with gr.Blocks(title="piflow", analytics_enabled=False) as page:
        with gr.Tab("Draw", id="draw"):
            drawing_tab(studio, model)
        with gr.Tab("Run", id="run"):
            run_tab()
        with gr.Tab("Benchmark", id="benchmark"):
            benchmark_tab()
    return page
