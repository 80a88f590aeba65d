"""Two benchmarks side by side on stdout: `piflow benchmark --compare A.json B.json`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from piflow_cli.cli import console
from piflow_cli.cli.benchmarking.table import in_heading, number
from piflow_cli.io.texts.json_text import json_text

if TYPE_CHECKING:
    from piflow_cli.engine.benchmark.proof.compare import Comparison, Difference

SHOWN = 60
"""Characters of a part of the protocol."""


def print_comparison(found: Comparison, first: Path, second: Path) -> None:
    """What differs in protocol, a line for each number, and how the intervals are meant."""
    for line in _protocol(found):
        typer.echo(line)
    names = (str(first), str(second)) if first.name == second.name else (first.name, second.name)
    headings = ("row", "number", *names, "difference", "")
    if found.differences:
        console.print_table(headings, [_cells(difference) for difference in found.differences], num_left=2)
    for name, rows in zip(names, (found.only_first, found.only_second), strict=True):
        if rows:
            typer.echo(f"only in {name}: {', '.join(rows)}")
    for name, numbers in zip(names, (found.numbers_first, found.numbers_second), strict=True):
        if numbers:
            typer.echo(f"only in {name}, of rows in both: {', '.join(map(_in_words, numbers))}")
    for line in _notes(found):
        typer.echo(line)
    for name, doubts in zip(names, (found.doubts_first, found.doubts_second), strict=True):
        for doubt in doubts:
            typer.echo(f"doubtful in {name}: {doubt}")


def _protocol(found: Comparison) -> Iterator[str]:
    if found.same_protocol is None:
        yield "protocol: not said by both files, so that nothing is known of what differs"
    elif found.same_protocol:
        yield "protocol: the same"
    for part, (own, other) in found.differing.items():
        yield f"protocol differs in {part}: {_short(own, other)}"


def _short(own: Any, other: Any) -> str:
    """Both values of a part, of tables of values only the entries that differ."""
    if isinstance(own, dict) and isinstance(other, dict):
        names = [name for name in {**own, **other} if own.get(name) != other.get(name)]
        return "; ".join(f"{name} {_short(own.get(name), other.get(name))}" for name in names)
    return " and ".join("none" if value is None else _cut(value) for value in (own, other))


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else " ".join(json_text(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _cells(found: Difference) -> tuple[str, ...]:
    change = found.second - found.first
    interval = None if found.half is None else (change - found.half, change + found.half)
    values = (f"{found.first:.4g}", f"{found.second:.4g}", number(change, interval, "{:.3g}"))
    return (found.row, _in_words(found.name), *values, found.verdict)


def _in_words(name: str) -> str:
    """A number's name as a line of the table writes it."""
    return in_heading(name).replace("_", " ")


def _notes(found: Comparison) -> Iterator[str]:
    known = [difference for difference in found.differences if difference.half is not None]
    if any(difference.paired for difference in known):
        yield "paired: both files are of the same noise and prompts, and what they share is not in the interval"
    if not all(difference.paired for difference in known):
        yield "unpaired: intervals of other noise or prompts in each file, wider than those of a shared noise"
    if len(known) > 1:
        yield f"intervals: 95% each; of {len(known)} numbers that are equal, {len(known) / 20:.2g} seem to differ"
    if any(difference.verdict == "no interval" for difference in found.differences):
        yield "no interval: a file has none, being of an older version, of too few pictures or of --intervals 0"
    if any(difference.verdict == "does not compare" for difference in found.differences):
        yield "does not compare: measured by something else, as the protocol says"
