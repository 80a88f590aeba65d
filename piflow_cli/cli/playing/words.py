"""What the page says in words: errors by their message, warnings, and texts as HTML that holds them as they are."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from html import escape

import typer

from piflow_cli.cli.console import DEBUG, explain
from piflow_cli.errors import PiflowError


def problem(error: Exception) -> str:
    """An error as a message on the page; a traceback goes to the terminal where one was asked for."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, typer.BadParameter):
        return said(error=f"{error.param_hint} {error.message}" if error.param_hint else error.message)
    return said(error=str(error) if isinstance(error, PiflowError) else explain(error))


def said(*lines: str, warnings: Sequence[str] = (), error: str | None = None) -> str:
    """HTML of lines, warnings and an error."""
    found = [f"<p>{text(line)}</p>" for line in lines]
    found += [f'<p class="warning">{text(warning)}</p>' for warning in warnings]
    found += [] if error is None else [f'<p class="error" role="alert">{text(error)}</p>']
    return "".join(found)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a table."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scores"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts_list(facts: Mapping[str, object]) -> str:
    """HTML of names and values."""
    return "".join(f'<p><span class="name">{text(name)}</span> {text(value)}</p>' for name, value in facts.items())


def text(value: object) -> str:
    """A text within HTML; braces and dollars too are its own, and no template's."""
    return "".join(f"&#{ord(c)};" if c in "{}$`" else c for c in escape(str(value)))
