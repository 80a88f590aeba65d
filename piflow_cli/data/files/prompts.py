"""Prompts from text files, JSON lines, tables or a data set of the hub, packed in memory in the order of the files."""

import hashlib
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from piflow_cli.data.files.hub_sets import load_rows
from piflow_cli.data.files.listing import training_split
from piflow_cli.data.files.parquet import parquet_texts
from piflow_cli.data.files.tables import read_csv_rows
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_LINE_BYTES
from piflow_cli.io.folders import is_visible, list_files
from piflow_cli.io.regular import require_regular
from piflow_cli.io.texts.names import user_path

COLUMNS = ("prompt", "caption", "text")
"""Where a prompt is looked for if no column is named, the first that is there."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_BATCH = 1000


@dataclass(frozen=True)
class PromptSet:
    """Prompts in one block of UTF-8: a million of 300 bytes take 0.3 GB, whatever they were read from.

    Args:
        data: all prompts, one after another.
        offsets: where each begins and the last one ends, int64 (N + 1,), the first being 0.
    """

    data: bytes
    offsets: np.ndarray

    @classmethod
    def pack(cls, texts: Iterable[str]) -> "PromptSet":
        """The set of some texts, empty ones included."""
        data, offsets = bytearray(), array("q", [0])
        for text in texts:
            data += text.encode()
            offsets.append(len(data))
        return cls(data=bytes(data), offsets=np.frombuffer(offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"prompt {index} of {len(self)}")
        return self.data[self.offsets[index] : self.offsets[index + 1]].decode()

    @property
    def texts(self) -> "PromptSet":
        """The prompts alone: all that there is."""
        return self

    def between(self, start: int, stop: int) -> "PromptSet":
        """Prompts start to stop - 1 as a set of their own."""
        offsets = self.offsets[start : stop + 1]
        return PromptSet(data=self.data[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])

    def digest(self) -> str:
        """SHA-256 over the prompts and their order, whatever files they came from; about a second a gigabyte."""
        hashed = hashlib.sha256(np.diff(self.offsets).astype("<i8").tobytes())
        hashed.update(self.data)
        return hashed.hexdigest()


def read_prompts(
    path: str,
    *,
    column: str | None = None,
    limit: int | None = None,
    what: str = "data.path",
    any_split: bool = False,
) -> PromptSet:
    """The prompts of a file, of a folder of shards sorted by name, or of a data set on the hub; blank ones are skipped.

    Args:
        path: a .txt (a line a prompt), a .jsonl, .csv or .parquet, a folder of one of these kinds, or `owner/name` on
            the hub (split `train`, downloaded whole) where there is no such file.
        column: field that holds the prompt; None takes the first of `COLUMNS`.
        limit: the first N, or for a negative number the last N; None takes all.
        what: how error messages call the path.
        any_split: whether the only split of a data set on the hub will do, whatever it is called.

    Raises:
        DataError: missing, empty, not UTF-8, broken, or without the column.
        MissingExtraError: a parquet or a data set of the hub without the packages that read it.
    """
    texts = _texts(path, column, what, any_split=any_split)
    prompts = PromptSet.pack(itertools.islice(texts, limit) if limit is not None and limit > 0 else texts)
    if not len(prompts):
        raise DataError(f"{what} {path} has no prompts: it is empty, or every line is blank. Give a file with some.")
    return prompts.between(max(0, len(prompts) + limit), len(prompts)) if limit is not None and limit < 0 else prompts


def check_prompts(path: str, column: str | None = None) -> None:
    """Raise DataError where the first prompt cannot be read; a data set on the hub is not fetched for it."""
    if not is_on_hub(path):
        read_prompts(path, column=column, limit=1)


def is_on_hub(path: str) -> bool:
    """Whether a path names a data set on the hub: it is `owner/name`, and there is no such file."""
    root = user_path(path)
    return not root.exists() and bool(HUB_ID.fullmatch(path)) and root.suffix.lower() not in READERS


def pick_column(names: Iterable[str], column: str | None, *, where: str) -> str:
    """The column that holds the text: the one named, or the first of `COLUMNS` that is there.

    Raises:
        DataError: there is none; the message names those that are there.
    """
    names = list(names)
    found = next((name for name in ([column] if column else COLUMNS) if name in names), None)
    if found is None:
        wanted = repr(column) if column else " or ".join(map(repr, COLUMNS))
        there = f"it has {', '.join(map(repr, names))}" if names else "it has no columns"
        advice = f"Call one of them {COLUMNS[0]!r}, or name it in a preset's data.column."
        raise DataError(f"{where} has no column {wanted}; {there}. {advice}")
    return found


def text_of(row: object, column: str | None, *, where: str) -> str:
    """The text of a JSON object, without space around it; "" for null.

    Raises:
        DataError: no object, no such column, or no text in it.
    """
    if not isinstance(row, dict):
        raise DataError(f'{where} is {type(row).__name__}, not an object such as {{"prompt": "a red bicycle"}}')
    name = pick_column(row, column, where=where)
    return clean_text(row[name], where=f"{where}, column {name!r},")


def clean_text(value: object, *, where: str) -> str:
    """A text without space around it; "" for null.

    Raises:
        DataError: it is no text, or holds half of a surrogate pair.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where} holds {type(value).__name__} {str(value)[:60]!r}; a prompt has to be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds a character that UTF-8 does not have: {error.reason}. Correct it.") from None
    return value.strip()


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, without space around it, and where it stands (`file:line`).

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{path}:{number} is longer than {MAX_LINE_BYTES / 2**20:.0f} MB; is it a text?")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield f"{path}:{number}", text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number} is not UTF-8 ({error.reason}, byte {error.start} of the line). Save the file as UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_json_lines(path: Path) -> Iterator[tuple[str, object]]:
    """Every JSON value of a file with one a line, and where it stands (`file:line`).

    Raises:
        DataError: the file cannot be read, is not UTF-8, or a line is not JSON.
    """
    for where, line in read_lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}. Each line has to be one whole object.") from None
        yield where, value


def _text_lines(path: Path, _column: str | None) -> Iterator[str]:
    return (line for _, line in read_lines(path))


def prompt_rows(path: Path, column: str | None = None) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Where each row of a .jsonl or .csv is, its text, "" where it has none, and all its fields.

    Raises:
        DataError: as `read_json_lines` or `read_csv_rows`, or no such column, or no text in it.
    """
    if path.suffix.lower() == ".csv":
        for where, row in read_csv_rows(path):
            yield where, clean_text(row[pick_column(row, column, where=f"the first line of {path}")], where=where), row
    else:
        for where, row in read_json_lines(path):
            yield where, text_of(row, column, where=where), row


def _row_texts(path: Path, column: str | None) -> Iterator[str]:
    return (text for _, text, _ in prompt_rows(path, column))


def read_parquet_column(path: Path, column: str | None) -> Iterator[str]:
    """Every text of a parquet's column, without space around it; "" for null.

    Raises:
        DataError: damaged, or without the column.
        MissingExtraError: pyarrow is not installed.
    """

    def pick(names: Iterable[str]) -> str:
        return pick_column(names, column, where=str(path))

    return (clean_text(value, where=f"{path} row {row}") for row, value in enumerate(parquet_texts(path, pick)))


READERS = {".txt": _text_lines, ".jsonl": _row_texts, ".csv": _row_texts, ".parquet": read_parquet_column}


def _texts(path: str, column: str | None, what: str, *, any_split: bool) -> Iterator[str]:
    """Texts that are not blank, in order."""
    root = user_path(path)
    if is_on_hub(path):
        yield from _hub_texts(path, column, what, any_split=any_split)
        return
    for shard in prompt_shards(root, what=what):
        yield from filter(None, READERS[shard.suffix.lower()](shard, column))


def prompt_shards(root: Path, *, what: str = "data.path") -> list[Path]:
    """The files of prompts at a path. Raises DataError as `find_prompt_shards`."""
    return find_prompt_shards(root, what=what)[0]


def find_prompt_shards(root: Path, *, what: str = "data.path") -> tuple[list[Path], list[str]]:
    """The files of prompts at a path sorted by name, and the names of those of splits that are not for training.

    Of a folder the files in it count, and where there are none those deeper, as in `data/train-00000-of-00003.parquet`.

    Raises:
        DataError: there are none, or several kinds; messages call the path `what`.
    """
    known = ", ".join(READERS)
    if not root.exists():
        raise DataError(
            f"{what} {root} does not exist. Give a file of prompts ({known}), a folder of such files, or the id of "
            "a data set on the hub, owner/name."
        )
    if not root.is_dir():
        if not root.is_file():
            raise DataError(f"{what} {root} is neither a regular file nor a folder; prompts are read from {known}")
        if root.suffix.lower() not in READERS:
            raise DataError(f"{what} {root} ends in {root.suffix or 'nothing'!r}; prompts are read from {known}")
        return [root], []
    there = [p for p in root.iterdir() if is_visible(p.name) and p.is_file()]
    found = [p for p in there if p.suffix.lower() in READERS]
    found = sorted(found) or [p for p in list_files(root).files if p.suffix.lower() in READERS]
    found, others = training_split(root, found)
    kinds = sorted({p.suffix.lower() for p in found})
    if not found:
        raise DataError(f"{what} {root} has no files of prompts; they end in {known}")
    if len(kinds) > 1:
        raise DataError(f"{what} {root} has files of several kinds ({', '.join(kinds)}); keep one kind in the folder")
    return found, others


def _hub_texts(name: str, column: str | None, what: str, *, any_split: bool) -> Iterator[str]:
    """Texts of a data set on the hub."""
    rows = load_rows(name, what=what, any_split=any_split)
    found = pick_column(rows.column_names, column, where=f"the data set {name}")
    values = itertools.chain.from_iterable(b[found] for b in rows.select_columns([found]).iter(batch_size=HUB_BATCH))
    yield from filter(None, (clean_text(value, where=f"{name} row {row}") for row, value in enumerate(values)))
