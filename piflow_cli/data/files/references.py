"""Reference pictures that prompts are about, as rows of a file name them, and reading them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import Field

from piflow_cli.core.conditions import Instruction, Prompt
from piflow_cli.data.files.prompts import PromptSet, is_on_hub, prompt_shards, read_json_lines, text_of
from piflow_cli.errors import DataError
from piflow_cli.io.images import cover, read_picture
from piflow_cli.io.tensors.digests import digest_content
from piflow_cli.io.texts.names import user_path

NAMES = ("references", "reference")
"""Fields of a person's own prompts that name their reference pictures, the first that is there."""
LINES = ".jsonl"
REFERENCES: Any = Field(
    None, min_length=1, description="field of a row that names the pictures it is about, for teachers that edit"
)
REFERENCE_SIZE: Any = Field(
    None, description="width x height that those are cut to, such as 512x512; unset: as the base's pipeline takes them"
)
"""The two keys of data that say which pictures prompts are about, and how large they are cut."""


@dataclass(frozen=True)
class InstructionSet:
    """Prompts with the files of their reference pictures, which are read where they are asked for.

    Args:
        texts: N prompts.
        files: of each a JSON list of paths.
        size_px: width and height that pictures are cut to; None leaves them as they are.
    """

    texts: PromptSet
    files: PromptSet
    size_px: tuple[int, int] | None = None
    _digests: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def pack(
        cls, rows: Iterable[tuple[str, Sequence[Path]]], *, size_px: tuple[int, int] | None = None
    ) -> InstructionSet:
        """The set of some prompts and paths.

        Raises:
            DataError: a file is not there.
        """
        texts, files, known = [], [], set()
        for text, paths in rows:
            for path in paths:
                if path not in known and not path.is_file():
                    raise DataError(f"the reference picture {path} of the prompt {text[:40]!r} is not there")
                known.add(path)
            texts.append(text)
            files.append(json.dumps(list(map(str, paths))))
        return cls(PromptSet.pack(texts), PromptSet.pack(files), size_px)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Instruction]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Instruction:
        """A prompt with its pictures.

        Raises:
            PictureError: one cannot be read or used.
        """
        paths = self.paths(index)
        return Instruction(self.texts[index], tuple(map(self._read, paths)), tuple(path.name for path in paths))

    def paths(self, index: int) -> list[Path]:
        """The files of a prompt's pictures."""
        return list(map(Path, json.loads(self.files[index])))

    def between(self, start: int, stop: int) -> InstructionSet:
        """Prompts start to stop - 1 as a set of their own."""
        texts, files = self.texts.between(start, stop), self.files.between(start, stop)
        return InstructionSet(texts, files, self.size_px, self._digests)

    def digest(self) -> str:
        """SHA-256 over the prompts, and number, content and size of their pictures, wherever these are."""
        hashed = hashlib.sha256(f"{self.texts.digest()} {self.size_px}".encode())
        for row in range(len(self)):
            hashed.update(json.dumps([self._digest(path) for path in self.paths(row)]).encode())
        return hashed.hexdigest()

    def _digest(self, path: Path) -> str:
        if str(path) not in self._digests:
            try:
                self._digests[str(path)] = digest_content(path)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        return self._digests[str(path)]

    def _read(self, path: Path) -> Image:
        picture = read_picture(path)
        return picture.convert("RGB") if self.size_px is None else cover(picture, size_px=self.size_px, channels=3)


RowsOfPrompts = PromptSet | InstructionSet
"""Prompts by number, alone or with pictures."""


def names_of(value: object, *, where: str) -> tuple[str, ...]:
    """The names in a field: a text, or a list of texts; none where it is empty or null.

    Raises:
        DataError: anything else.
    """
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(name, str) and "\0" not in name for name in found):
        raise DataError(
            f"{where} holds {str(value)[:60]!r}; it has to be the name of a picture file, or a list of such"
        )
    return tuple(name for name in found if name.strip())


def named_pictures(row: Mapping[str, object], folder: Path, *, where: str) -> tuple[Path, ...]:
    """Files of the pictures that a row of a person's own prompts names, by their names from `folder` on.

    Raises:
        DataError: the field holds no names.
    """
    names = next((names_of(row[name], where=f"{where}, {name},") for name in NAMES if name in row), ())
    return tuple(folder / name for name in names)


def read_instructions(
    path: str, *, name: str, column: str | None, limit: int | None, size_px: tuple[int, int] | None
) -> InstructionSet:
    """The prompts of .jsonl files with the reference pictures that their rows name, from the folder of the file on.

    Args:
        path: a .jsonl, or a folder of such.
        name: of the field with the names of a row's pictures; a row without it is about none.
        column, limit: as `read_prompts`.
        size_px: as `InstructionSet`.

    Raises:
        DataError: other files, damage, no row with such a field, or a picture that is not there.
    """
    if is_on_hub(path):
        raise DataError(f"data.references: pictures are files beside a {LINES}, and {path} is a data set of the hub")
    rows: list[tuple[str, list[Path]]] = []
    for shard in prompt_shards(user_path(path)):
        if shard.suffix.lower() != LINES:
            raise DataError(f"data.references: rows of a {LINES} name reference pictures, and {shard} is none")
        for where, row in read_json_lines(shard):
            if text := text_of(row, column, where=where):
                names = names_of(row.get(name), where=f"{where}, field {name!r},")
                rows.append((text, [shard.parent / found for found in names]))
    if not any(paths for _, paths in rows):
        raise DataError(f"data.references: no row of {path} names a picture in {name!r}")
    first, last = (None, limit) if limit is None or limit > 0 else (limit, None)
    return InstructionSet.pack(rows[first:last], size_px=size_px)


def illustrated(asked: Sequence[tuple[str, Sequence[Path]]]) -> list[Prompt]:
    """Prompts with their reference pictures read, each file once; without any, the prompts alone.

    Raises:
        PictureError: one cannot be read or used.
    """
    known = {path: read_picture(path).convert("RGB") for path in dict.fromkeys(p for _, paths in asked for p in paths)}
    return [
        Instruction(text, tuple(known[path] for path in paths), tuple(path.name for path in paths)) if paths else text
        for text, paths in asked
    ]
