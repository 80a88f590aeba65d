"""What the command line prints: results on stdout, progress and errors on stderr."""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_S = 10.0
"""Seconds between progress lines where stderr is no terminal."""


def result(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def note(text: str) -> None:
    """Print what is worth knowing but is no result."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning."""
    _labelled("warning", text, colour=typer.colors.YELLOW)


def error(text: str) -> None:
    """Print an error as one block."""
    _labelled("error", text, colour=typer.colors.RED)


def _labelled(label: str, text: str, *, colour: str) -> None:
    typer.secho(f"{label}: ", fg=colour, bold=True, err=True, nl=False)
    typer.echo(text.rstrip(), err=True)


def result_json(value: object) -> None:
    """Print a result for programs."""
    result(to_json(value))


def to_json(value: object) -> str:
    """JSON text; numbers that are not finite are null, paths are text."""
    return json.dumps(_finite(value), indent=2, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Text columns under headings, as wide as their longest cell.

    Args:
        headings: one a column.
        rows: cells, as many a row as headings.
        right: columns aligned to the right.
    """
    cells = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    cells.insert(1, ["-" * width for width in widths])
    pad = [str.rjust if i in right else str.ljust for i in range(len(headings))]
    return "\n".join("  ".join(pad[i](row[i], widths[i]) for i in range(len(row))).rstrip() for row in cells)


def facts(rows: Sequence[tuple[str, str]], *, indent: str = "") -> str:
    """Labels and values, one pair a line, values aligned."""
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"{indent}{label.ljust(width)}  {value}".rstrip() for label, value in rows)


def duration(seconds: float) -> str:
    """A time in words, such as 4 s, 3 min 20 s or 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def examples(*pairs: tuple[str, str]) -> str:
    """The epilog of a command's help: what each example does, and the command."""
    lines = [line for what, command in pairs for line in (f"  # {what}", f"  {command}")]
    return "\b\nExamples:\n" + "\n".join(lines)


class Meter(Protocol):
    """Shows how far a long piece of work is."""

    def update(self, done: int, total: int, text: str = "", *, remaining_s: float | None = None) -> None:
        """Show progress; the time left is estimated where it is not given."""
        ...

    def line(self, text: str) -> None:
        """Leave a line that stays."""
        ...


@contextmanager
def meter(title: str) -> Iterator[Meter]:
    """A live line where stderr is a terminal, else a plain line every few seconds."""
    if not sys.stderr.isatty():
        yield LineMeter(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield LiveMeter(progress, progress.add_task(title, total=None, text=""))


class LiveMeter:
    """A line of rich that is drawn anew."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self.progress, self.task, self.clock = progress, task, Clock()

    def update(self, done: int, total: int, text: str = "", *, remaining_s: float | None = None) -> None:
        """Redraw the line."""
        left = self.clock.remaining(done, total) if remaining_s is None else remaining_s
        self.progress.update(self.task, completed=done, total=total, text=joined(text, left))

    def line(self, text: str) -> None:
        """Leave a line above the live one."""
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LineMeter:
    """Plain lines, the first at once and then every few seconds."""

    def __init__(self, title: str, *, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self.title, self.interval_s, self.clock, self.next_s = title, interval_s, Clock(), 0.0

    def update(self, done: int, total: int, text: str = "", *, remaining_s: float | None = None) -> None:
        """Print a line, unless the last one is too recent."""
        now = self.clock.elapsed()
        if now < self.next_s and done < total:
            return
        self.next_s = now + self.interval_s
        left = self.clock.remaining(done, total) if remaining_s is None else remaining_s
        note(f"{self.title} {done}/{total}  {joined(text, left)}".rstrip())

    def line(self, text: str) -> None:
        """Print a line."""
        note(text)


class Clock:
    """Time since the start, and what is left at the pace so far."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def remaining(self, done: int, total: int) -> float | None:
        """Seconds left, None before anything is done."""
        return self.elapsed() / done * (total - done) if done else None


def joined(text: str, remaining_s: float | None) -> str:
    """What is going on and the time left, in one line."""
    left = f"{duration(remaining_s)} left" if remaining_s else ""
    return "  ".join(part for part in (text, left) if part)
