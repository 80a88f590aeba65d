"""Lists of prompts that pictures are measured by, with the class of each where the file says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from piflow_cli.data.files.prompts import PromptSet, is_on_hub, prompt_shards, read_json_lines, read_prompts, text_of
from piflow_cli.data.published.entry import read_published
from piflow_cli.errors import DataError
from piflow_cli.io.texts.names import user_path

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
    """

    name: str
    texts: PromptSet
    labels: tuple[int, ...] | None = None
    origin: str | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def first_distinct(self, count: int) -> list[int]:
        """Numbers of the first `count` different prompts, of all where there are fewer."""
        found: dict[str, int] = {}
        for number in range(len(self)):
            found.setdefault(self.texts[number], number)
            if len(found) == count:
                break
        return list(found.values())


def read_prompt_list(path: str | Path, *, name: str | None = None, what: str = "prompts") -> PromptList:
    """The prompts of a file, folder or data set of the hub as `read_prompts` takes them, with their labels.

    JSON lines whose field `label` is a whole number have labels; other kinds of files have none.

    Args:
        path: where they are, or `NAME`, `NAME@REVISION` or `NAME:PATH` of a published set.
        name: what to call the list; None is the path.
        what: how error messages call the path.

    Raises:
        DataError: missing, empty or broken, or labels that some of the lines have and others lack.
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
    texts = read_prompts(str(path), what=what, any_split=True)
    return PromptList(name=name or str(path), texts=texts, labels=_labels(str(path)))


def _labels(path: str) -> tuple[int, ...] | None:
    """The label of every line that has a prompt, None where no line has one."""
    if is_on_hub(path):
        return None
    labels: list[int] = []
    bare = None
    for shard in prompt_shards(user_path(path)):
        for where, row in read_json_lines(shard) if shard.suffix.lower() == ".jsonl" else ():
            if not text_of(row, None, where=where):
                continue
            label = row.get(LABEL)
            if isinstance(label, int) and not isinstance(label, bool) and label >= 0:
                labels.append(label)
            else:
                bare = bare or f"{where} has {label!r}"
            if bare and labels:
                raise DataError(
                    f"{bare} for a {LABEL!r}, where others are whole numbers from 0: give every prompt one, or none"
                )
    return tuple(labels) or None
