"""What commands share on the terminal: tables on stdout, progress and errors in words on stderr. rich comes on use."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from piflow_cli.io.texts.amounts import duration
from piflow_cli.io.texts.json_text import json_text

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_EVERY_S, SILENT_AT_MOST_S, LONG_S = 8.0, 10.0, 2.0
"""A line of progress comes so often; where it is late, what is being done is named if it alone takes long."""
"""Seconds between progress lines where stderr is no terminal."""
DEBUG = "PIFLOW_DEBUG"
"""The environment variable that lets tracebacks and the warnings of libraries through."""
ALLOCATION = ("not enough memory", "can't allocate memory", "Invalid buffer size", "overflow when unpacking long")
"""How torch says on a CPU that memory is too small; the rest of its RuntimeErrors are not about memory."""
OUT_OF_MEMORY = (
    "out of memory. For distill lower training.micro_batch_size or set training.gradient_checkpointing=true; for "
    "sample and benchmark lower --batch-size, or the size of pictures."
)


def open_streams() -> None:
    """Make stdout and stderr take any text: what their encoding lacks is written as \\uXXXX; closed ones go nowhere."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command; its number must not become that of a file
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def calm_threads() -> None:
    """Let threads of OpenMP that wait for one another spin for a moment and then sleep on a core that others want.

    OpenMP reads it as torch is imported; what a user has set stays. docs/platforms.md has figures.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def quiet_libraries() -> None:
    """Keep what libraries warn of and log below an error off the terminal: what matters to a user is said by piflow."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    warnings.showwarning = _drop_warning  # libraries that set filters of their own put them before this one


def _drop_warning(*_: object, **__: object) -> None:
    """In the place of `warnings.showwarning`."""


def drop_output() -> None:
    """Let what stdout still holds, and cannot write, go nowhere when the process ends."""
    with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def can_write(text: str) -> bool:
    """Whether stdout's encoding has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def mark(word: str, colour: str) -> None:
    """The word in front of a message on stderr: coloured on a terminal, unless NO_COLOR is set."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    typer.secho(word, fg=None if plain else colour, bold=None if plain else True, err=True, nl=False)


def note(message: str) -> None:
    """A line of progress, on stderr."""
    typer.echo(message, err=True)


def warn(message: str) -> None:
    """A warning, on stderr."""
    mark("warning: ", "yellow")
    note(message)


def print_json(value: object) -> None:
    """A result for programs, in ASCII; numbers that are not finite, which JSON does not have, are null."""
    typer.echo(json_text(value))


def examples(*pairs: tuple[str, str]) -> str:
    """The epilog of a command's help: what each example does, and the command."""
    lines = [line for what, command in pairs for line in (f"  # {what}", f"  {command}")]
    return "\b\nExamples:\n" + "\n".join(lines)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> None:
    """A table on stdout, as wide as its cells: a line is a row, for people and for grep.

    Args:
        columns: headings.
        rows: cells, as many a row as headings.
        num_left: columns aligned to the left; the others are numbers.
    """
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = [
            cell.ljust(width) if i < num_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def print_facts(sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """Titled lists of label and value on stdout."""
    for title, rows in sections:
        typer.echo(title)
        width = max(len(label) for label, _ in rows)
        for label, value in rows:
            typer.echo(f"  {label:<{width}}  {value}")
        typer.echo()


class ProgressLine:
    """Progress of (done, total, words): a live bar on a terminal, a line every few seconds elsewhere, or nothing.

    Elsewhere what is being done is named again where nothing else was said for that long.
    """

    def __init__(self, bar: Progress | None, *, shown: bool = True) -> None:
        self._bar, self._task, self._last, self._shown = bar, None, 0.0, shown
        self._doing, self._since, self._said = "", 0.0, time.monotonic()

    def update(self, done: float, total: float, words: str, *, then: str = "") -> None:
        """Show where things are; `words` carry the time left, `then` says what is done next."""
        self.busy(then, show=False)
        if self._bar is not None:
            self._show(words, completed=done, total=total)
        elif time.monotonic() - self._last >= PLAIN_EVERY_S or done >= total:
            self._last = time.monotonic()
            self._note(words)

    def busy(self, what: str, *, show: bool = True) -> None:
        """Say what is being done from now on: at once on a terminal, elsewhere if it takes long."""
        self._doing, self._since = what, time.monotonic()
        if self._bar is not None and show:
            self._show(what)

    def say(self, message: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False, soft_wrap=True)
        else:
            self._note(message)

    def keep_saying(self, stop: threading.Event) -> None:
        """Name what is being done whenever nothing was said for long, until told to stop."""
        while not stop.wait(1.0):
            now = time.monotonic()
            if self._doing and now - self._since >= LONG_S and now - self._said >= SILENT_AT_MOST_S:
                self._note(f"{self._doing}, {duration(now - self._since)} so far")

    def _note(self, words: str) -> None:
        self._said = time.monotonic()
        if self._shown:
            note(words)

    def _show(self, words: str, **where: float) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=None)
        self._bar.update(self._task, description=words, **where)


@contextmanager
def progress(*, shown: bool = True) -> Iterator[ProgressLine]:
    """A progress line on stderr for the length of the block, where this process is to show any."""
    if not shown or not sys.stderr.isatty():
        line, stop = ProgressLine(None, shown=shown), threading.Event()
        threading.Thread(target=line.keep_saying, args=(stop,), name="progress", daemon=True).start()
        try:
            yield line
        finally:
            stop.set()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), console=Console(stderr=True)
    ) as bar:
        yield ProgressLine(bar)


class Countdown:
    """Time left of a job whose progress is even.

    What came before it begins, such as loading models, and what was done by then, such as by an earlier run, say
    nothing of its pace.
    """

    def __init__(self) -> None:
        self._begun: tuple[float, float] | None = None

    def begin(self, done: float = 0) -> None:
        """The job begins now, with so much of it done; without this, with its first report."""
        self._begun = time.monotonic(), done

    def words(self, what: str, done: float, total: float) -> str:
        """What is being done and the time left after `done` of `total`, where something says how long it takes."""
        if self._begun is None:
            self.begin(done)
        start, already = self._begun
        if done <= already:
            return what
        return f"{what}  {duration((time.monotonic() - start) * (total - done) / (done - already))} left"


def explain(error: BaseException) -> str:
    """The message for whatever ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_os(error)
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply: a preset, a card or a line of JSON. Make it flatter."
    if isinstance(error, UnicodeError):
        return (
            f"a text that is not in the encoding of this system or file: {error}. Save files as UTF-8, and give names "
            "and prompts that are UTF-8."
        )
    return (
        f"this is a bug in piflow: {type(error).__name__}: {error}\n"
        f"Run again with {DEBUG}=1 for the traceback, and please report it."
    )


def _explain_os(error: OSError) -> str:
    """The message for what the operating system refused."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}. Free some space and run the same command again."
    if isinstance(error, PermissionError):
        return f"permission denied{where}. Choose a place that you may read and write, or change its permissions."
    return f"{error.strerror or error}{where}. Check that the path exists and can be read and written."
