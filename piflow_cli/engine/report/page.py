"""A page as one file: a template with all that it needs inside it, every value escaped.

Nothing in a page asks for anything outside of it, and its content security policy lets it ask for nothing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from piflow_cli import __version__
from piflow_cli.engine.report.charts import Chart

TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, *, title: str, charts: Sequence[Chart], **values: Any) -> bytes:
    """The file of a template.

    Args:
        template: its name.
        title: of the page.
        charts: that its script draws.
        values: what else the template shows.
    """
    written = time.strftime("%Y-%m-%d %H:%M")
    data = {"charts": [asdict(chart) for chart in charts]}
    shared = {"title": title, "charts": charts, "data": data, "version": __version__, "written": written}
    text = _environment().get_template(template).render(**shared, **values)
    return text.encode("utf-8", "replace")  # what others wrote may hold halves of characters


@functools.cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["asset"] = _asset
    return found


@functools.cache
def _asset(name: str) -> Markup:
    """A file beside the templates as it is, to stand in a page's script or style."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
