"""What published sets of prompts have in common: entries, how their scorers want pictures laid out, and `NAME:PATH`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_cli import registry
from piflow_cli.data.files.prompts import clean_text
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_LIST_BYTES
from piflow_cli.io.regular import read_text
from piflow_cli.io.texts.names import user_path

if TYPE_CHECKING:
    from PIL.Image import Image

KIND = "prompts"
PLAIN = re.compile(r"\w([\w .&-]*[\w-])?")
"""A name that a file may have whoever chose it."""


@dataclass(frozen=True)
class Entry:
    """A prompt of a published set.

    Args:
        prompt: what to draw.
        place: what its scorer calls it: a name or `folder/name` without a suffix; "" where it calls it nothing.
        facts: what the scorer reads beside the pictures, as it was published.
    """

    prompt: str
    place: str = ""
    facts: str = ""


@dataclass(frozen=True)
class Layout:
    """How a scorer wants pictures laid out.

    Args:
        pictures: how many of a prompt it takes, the usual number first.
        files: (entry, its pictures, name of the model) -> files by their path below the output folder.
        square: whether it takes square pictures alone.
    """

    pictures: tuple[int, ...]
    files: Callable[[Entry, Sequence[Image], str], dict[str, bytes]]
    square: bool = False


@dataclass(frozen=True)
class PublishedSet:
    """A set of prompts that papers use.

    Args:
        name: in `--prompts NAME:PATH`.
        source: where it is published, and which file or folder is meant.
        read: of a local path, the entries in their order.
        layout: of its scorer, None where none has one.
    """

    name: str
    source: str
    read: Callable[[Path], list[Entry]]
    layout: Layout | None = None


def published_set(spec: str) -> tuple[PublishedSet, str] | None:
    """The set that `NAME:PATH` or `NAME` begins with and its path, None where a text is a path alone."""
    name, _, path = spec.partition(":")
    if name not in registry.names(KIND) or (":" not in spec and Path(name).exists()):
        return None
    return registry.resolve(KIND, name), path


def read_published(spec: str, *, what: str = "--prompts") -> tuple[PublishedSet, list[Entry]] | None:
    """A published set and its entries, None where `spec` is a path alone.

    Args:
        spec: `NAME:PATH`, the path being of what was published.
        what: how error messages call it.

    Raises:
        DataError: no path, or no file or folder of the set's form at it.
    """
    found = published_set(spec)
    if found is None:
        return None
    published, path = found
    if not path:
        raise DataError(f"{what} {spec} names no file: write {what} {published.name}:PATH with {published.source}")
    place = user_path(path)
    if not place.exists():
        raise DataError(f"{what} {spec}: {place} does not exist. {published.name} is {published.source}")
    entries = published.read(place)
    if not entries:
        raise DataError(f"{what} {spec}: {place} has no prompts. {published.name} is {published.source}")
    return published, entries


def entry_of(prompt: object, *, where: str, place: object = "", facts: str = "") -> Entry:
    """An entry of what a file says.

    Raises:
        DataError: no text for a prompt, an empty one, or a place that is no plain name in at most one folder.
    """
    text = clean_text(prompt, where=where)
    if not text:
        raise DataError(f"{where} has an empty prompt; scorers count them by their place, so that none may be left out")
    parts = str(place).split("/") if place else []
    if len(parts) > 2 or not all(PLAIN.fullmatch(part) for part in parts):
        raise DataError(f"{where} calls its prompt {str(place)[:60]!r}, which is no name for a file")
    return Entry(text, str(place), facts)


def read_json(path: Path) -> Any:
    """The value of a JSON file, however long its lists.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path, encoding="utf-8-sig", max_bytes=MAX_LIST_BYTES))
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise DataError(f"{path} is not JSON: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_table(path: Path) -> str:
    """The text of a table.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_text(path, encoding="utf-8-sig", max_bytes=MAX_LIST_BYTES)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def field(row: object, name: str, *, where: str) -> Any:
    """A field of a row.

    Raises:
        DataError: it is no row, or has no such field.
    """
    if not isinstance(row, dict) or name not in row:
        there = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{where} has no {name!r}; it has {there[:200]}")
    return row[name]
