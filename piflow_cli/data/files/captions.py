"""Captions beside pictures or videos: which file belongs to which, in a folder as in a tar, and the text in it."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from piflow_cli.data.files.prompts import text_of
from piflow_cli.errors import DataError
from piflow_cli.io.images import SUFFIXES

CAPTION_SUFFIXES = (".txt", ".caption", ".json")
"""Of the files that hold a caption; the first that is there counts."""


class Pairs(NamedTuple):
    """Names of pictures, of the captions that belong to them in the same order, and of pictures that have none."""

    pictures: list[str]
    captions: list[str]
    alone: list[str]


def pair(names: Iterable[str], suffixes: frozenset[str] = SUFFIXES) -> Pairs:
    """Which caption belongs to which picture, or video, by their names.

    A name may have dots: what is cut off is the suffix that is known. The caption of `photo.v2.png` is in
    `photo.v2.txt` or `photo.v2.png.txt`. One picture of a sample as WebDataset names them, with the key before the
    first dot (`0001.image.png`), has the caption of its key (`0001.txt`).

    Args:
        suffixes: of what has captions.
    """
    names = list(names)
    pictures = [name for name in names if _suffix(name) in suffixes]
    captions: dict[str, dict[str, str]] = {}
    for name in names:
        if (suffix := _suffix(name)) in CAPTION_SUFFIXES:
            captions.setdefault(name[: -len(suffix)], {})[suffix] = name
    num_of_key = Counter(map(_key, pictures))
    found = Pairs([], [], [])
    for name in pictures:
        there = captions.get(name[: -len(_suffix(name))]) or captions.get(name)
        if there is None and num_of_key[_key(name)] == 1:
            there = captions.get(_key(name))
        if there is None:
            found.alone.append(name)
        else:
            found.pictures.append(name)
            found.captions.append(next(there[suffix] for suffix in CAPTION_SUFFIXES if suffix in there))
    return found


def caption_text(name: str, content: bytes, column: str | None, *, where: str) -> str:
    """The text of a .txt or .caption, or of the field of a .json.

    Args:
        name: of the file: its suffix says what it holds.
        column: field of the caption in JSON; None takes prompt, caption or text.
        where: what messages call it.

    Raises:
        DataError: not UTF-8, no JSON, or without the field.
    """
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"the caption of {where} is not UTF-8 ({error.reason}, byte {error.start})") from None
    if _suffix(name) != ".json":
        return text
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    return text_of(row, column, where=where)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _key(name: str) -> str:
    """A name up to the first dot after the last slash."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
