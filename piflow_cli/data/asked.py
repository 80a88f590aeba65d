"""What a person asks to be drawn: prompts of a file of any kind or of stdin, a line's own seed where it gives one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from piflow_cli.data.files.prompts import prompt_rows, read_prompts
from piflow_cli.data.files.references import named_pictures
from piflow_cli.data.published.entry import read_published
from piflow_cli.errors import DataError
from piflow_cli.io.texts.names import user_path

SEED = "seed"
"""The field of a JSON line, or the column of a .csv, that holds the seed of its prompt's first picture."""
STDIN = "-"


@dataclass(frozen=True)
class Asked:
    """A prompt, the seed of its first picture where it has its own, and files of the pictures that it is about."""

    prompt: str
    seed: int | None = None
    references: tuple[Path, ...] = ()


def read_asked(path: str, *, what: str = "--prompts") -> list[Asked]:
    """The prompts of a .txt, .jsonl, .csv or .parquet, of a folder, of a data set of the hub, or of stdin (`-`).

    Args:
        path: where they are, or a published set, as `read_published`; JSON lines and .csv may have a whole number
            `seed`, and `references`, files of pictures by their names from the folder of `path` on.
        what: how error messages call the path.

    Raises:
        DataError: missing, empty, not UTF-8, broken, without a column of prompts, or a seed that is none.
        MissingExtraError: as `read_prompts`.
    """
    suffix = Path(path).suffix
    published = read_published(path, what=what)
    if published is not None:
        found = [Asked(entry.prompt) for entry in published.entries]
    elif path == STDIN:
        found = [Asked(line) for line in _stdin_lines()]
    elif suffix in (".csv", ".jsonl") and user_path(path).is_file():
        found = list(_rows(user_path(path)))
    else:
        texts = read_prompts(path, what=what, any_split=True)
        found = [Asked(texts[i]) for i in range(len(texts))]
    if not found:
        raise DataError(f"{what} {path} has no prompts: it is empty, or every line is blank. Give one with some.")
    return found


def _stdin_lines() -> Iterator[str]:
    """The lines of stdin that are not blank."""
    for number, line in enumerate(sys.stdin.buffer.read().splitlines(), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"stdin, line {number}, is not UTF-8 ({error.reason}). Pipe UTF-8 into it.") from None
        if text:
            yield text


def _rows(path: Path) -> Iterator[Asked]:
    for where, text, row in prompt_rows(path):
        if text:
            yield Asked(text, _seed(row.get(SEED), where=where), named_pictures(row, path.parent, where=where))


def _seed(value: object, *, where: str) -> int | None:
    """The seed of a field, None where it is left empty."""
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise DataError(f"{where} has the {SEED} {str(value)[:40]!r}; it has to be a whole number from 0")
    return int(text)
