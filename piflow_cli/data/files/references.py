"""Reference pictures that prompts are about, as rows of a file name them, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from piflow_cli.core.conditions import Instruction, Prompt
from piflow_cli.errors import DataError
from piflow_cli.io.images import read_picture

NAMES = ("references", "reference")
"""Fields that name the reference pictures of a prompt, the first that is there."""


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
