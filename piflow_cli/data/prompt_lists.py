"""Lists of prompts that pictures are measured by, with the class and the reference pictures that their rows say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from piflow_cli.core.conditions import Prompt
from piflow_cli.data.files.prompts import PromptSet, is_on_hub, prompt_rows, prompt_shards, read_prompts
from piflow_cli.data.files.references import InstructionSet, named_pictures
from piflow_cli.data.published.entry import read_published
from piflow_cli.errors import DataError
from piflow_cli.io.texts.names import user_path

WITH_FIELDS = (".jsonl", ".csv")
"""Files whose lines have fields."""
LABEL = "label"
"""The field of a JSON line that holds the number of the prompt's class."""


@dataclass(frozen=True)
class PromptList:
    """Prompts in order.

    Args:
        name: what the user called the list.
        texts: N prompts, some perhaps several times.
        labels: class of each, at least 0; None where the list has none.
        origin: where on the hub a published set was fetched from: files, repository and commit; None elsewhere.
        about: the prompts with the reference pictures that their rows name; None where no row names any.
    """

    name: str
    texts: PromptSet
    labels: tuple[int, ...] | None = None
    origin: str | None = None
    about: InstructionSet | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def asked(self, number: int) -> Prompt:
        """A prompt, with its pictures where it has some.

        Raises:
            PictureError: one cannot be read or used.
        """
        return self.about[number] if self.num_pictures(number) else self.texts[number]

    def num_pictures(self, number: int) -> int:
        """How many reference pictures a prompt has."""
        return 0 if self.about is None else len(self.about.paths(number))

    def key(self, number: int) -> str:
        """A prompt by what it says, and where it is about pictures by a digest of these, wherever they are."""
        text = self.texts[number]
        if not self.num_pictures(number):
            return text
        return f"{text} (about {self.about.between(number, number + 1).digest()[:16]})"

    def digest(self, count: int) -> str:
        """The first `count` by what they say and show, wherever they are from."""
        rows = self.texts if self.about is None else self.about
        return rows.between(0, count).digest()

    def first_distinct(self, count: int) -> list[int]:
        """Numbers of the first `count` different prompts, each with its pictures, of all where there are fewer."""
        found: dict[tuple[str, str], int] = {}
        for number in range(len(self)):
            found.setdefault((self.texts[number], "" if self.about is None else self.about.files[number]), number)
            if len(found) == count:
                break
        return list(found.values())


def list_prompts(
    rows: Sequence[tuple[str, Sequence[Path]]], *, name: str, size_px: tuple[int, int] | None = None
) -> PromptList:
    """A list of prompts, each with the files of its reference pictures, if any.

    Args:
        rows: prompts and files.
        name: what to call the list.
        size_px: width and height that pictures are cut to; None leaves them as they are.

    Raises:
        DataError: a picture that is not there.
    """
    about = InstructionSet.pack(rows, size_px=size_px) if any(files for _, files in rows) else None
    return PromptList(name=name, texts=PromptSet.pack(text for text, _ in rows), about=about)


def read_prompt_list(path: str | Path, *, name: str | None = None, what: str = "prompts") -> PromptList:
    """The prompts of a file, folder or data set of the hub as `read_prompts` takes them, with labels and pictures.

    JSON lines whose field `label` is a whole number have labels, and JSON lines and .csv whose field `references`
    names picture files have these; other kinds of files have none.

    Args:
        path: where they are, or `NAME`, `NAME@REVISION` or `NAME:PATH` of a published set.
        name: what to call the list; None is the path.
        what: how error messages call the path.

    Raises:
        DataError: missing, empty or broken, labels that some of the lines have and others lack, or a picture that is
            not there.
        MissingExtraError: as `read_prompts`.
    """
    published = read_published(str(path), what=what)
    if published is not None:
        origin = published.origin
        return PromptList(
            name=name or (str(path) if origin is None else f"{path} of {origin}"),
            texts=PromptSet.pack(entry.prompt for entry in published.entries),
            origin=None if origin is None else origin.described,
        )
    texts, rows = read_prompts(str(path), what=what, any_split=True), list(_rows(str(path)))
    return PromptList(name=name or str(path), texts=texts, labels=_labels(rows), about=_about(rows))


@dataclass(frozen=True)
class _Row:
    """A prompt, the place of its line, what it has for a label, and files of its pictures."""

    text: str
    where: str
    label: object
    pictures: tuple[Path, ...]


def _rows(path: str) -> Iterator[_Row]:
    """The lines that have a prompt, of files whose lines have fields."""
    if is_on_hub(path):
        return
    for shard in prompt_shards(user_path(path)):
        kind = shard.suffix.lower()
        if kind not in WITH_FIELDS:
            continue
        for where, text, row in prompt_rows(shard):
            if text:
                label = row.get(LABEL) if kind == ".jsonl" else None
                yield _Row(text, where, label, named_pictures(row, shard.parent, where=where))


def _labels(rows: list[_Row]) -> tuple[int, ...] | None:
    """The label of every line, None where no line has one."""
    has = [isinstance(row.label, int) and not isinstance(row.label, bool) and row.label >= 0 for row in rows]
    if not any(has):
        return None
    if not all(has):
        bare = rows[has.index(False)]
        raise DataError(
            f"{bare.where} has {bare.label!r} for a {LABEL!r}, where others are whole numbers from 0: give every "
            "prompt one, or none"
        )
    return tuple(row.label for row in rows)


def _about(rows: list[_Row]) -> InstructionSet | None:
    """The prompts of lines with their pictures, None where no line names any."""
    if not any(row.pictures for row in rows):
        return None
    return InstructionSet.pack((row.text, row.pictures) for row in rows)
