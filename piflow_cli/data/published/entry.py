"""What published sets of prompts have in common: entries, how their scorers want pictures laid out, where they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from piflow_cli import registry
from piflow_cli.data.files.prompts import clean_text
from piflow_cli.errors import DataError, ModelError
from piflow_cli.io.bounds import MAX_LIST_BYTES
from piflow_cli.io.hub import fetch_dataset_files
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
class OnHub:
    """Where on the hub a set is.

    Args:
        repository: owner/name of a data set.
        names: its files.
        path: in the repository, what `PublishedSet.read` takes: one of the files, or the folder of all.
    """

    repository: str
    names: tuple[str, ...]
    path: str


@dataclass(frozen=True)
class PublishedSet:
    """A set of prompts that papers use.

    Args:
        name: in `--prompts NAME` and `--prompts NAME:PATH`.
        source: where it is published, and which file or folder is meant.
        read: of a local path, the entries in their order.
        layout: of its scorer, None where none has one.
        on_hub: where it is fetched from without a path, None where it is not on the hub as it is read.
    """

    name: str
    source: str
    read: Callable[[Path], list[Entry]]
    layout: Layout | None = None
    on_hub: OnHub | None = None


@dataclass(frozen=True)
class Origin:
    """Files of a data set of the hub at a commit."""

    repository: str
    names: tuple[str, ...]
    commit: str

    def __str__(self) -> str:
        """In short."""
        return f"{self.repository} at {self.commit[:12]}"

    @property
    def described(self) -> str:
        """In full."""
        return f"{', '.join(self.names)} of {self.repository} at {self.commit}"


class ReadSet(NamedTuple):
    """A published set that was read.

    Args:
        published: the set.
        entries: in their order.
        origin: repository, files and commit of the hub, None where it was read from a path.
    """

    published: PublishedSet
    entries: list[Entry]
    origin: Origin | None


def read_published(spec: str, *, what: str = "--prompts") -> ReadSet | None:
    """A published set and its entries, None where `spec` is a path alone.

    Args:
        spec: `NAME:PATH`, the path being of what was published, or `NAME` or `NAME@REVISION`, fetched from the hub.
        what: how error messages call it.

    Raises:
        DataError: no path where the set is not on the hub, the hub cannot be asked, or no file or folder of the set's
            form at the path.
    """
    named, colon, path = spec.partition(":")
    name, at, revision = named.partition("@")
    if name not in registry.names(KIND) or (not colon and Path(spec).exists()):
        return None
    published: PublishedSet = registry.resolve(KIND, name)
    origin = None
    if colon and (at or not path):
        raise DataError(f"{what} {spec}: write {what} {name}:PATH with {published.source}")
    if colon:
        place = user_path(path)
    else:
        place, origin = _fetched(published, revision or None, what=f"{what} {spec}")
    if not place.exists():
        raise DataError(f"{what} {spec}: {place} does not exist. {published.name} is {published.source}")
    entries = published.read(place)
    if not entries:
        raise DataError(f"{what} {spec}: {place} has no prompts. {published.name} is {published.source}")
    return ReadSet(published, entries, origin)


def _fetched(published: PublishedSet, revision: str | None, *, what: str) -> tuple[Path, Origin]:
    """A set's local copy of what the hub has, and where it is from.

    Raises:
        DataError: it is not there, or the hub cannot be asked; the message says how it is had otherwise.
    """
    hub, name = published.on_hub, published.name
    if hub is None:
        raise DataError(f"{what} names no file, and {name} is not fetched: write {name}:PATH with {published.source}")
    try:
        folder, commit = fetch_dataset_files(hub.repository, hub.names, revision=revision)
    except ModelError as error:
        here = hub.repository.rpartition("/")[2]
        files = " ".join(map(repr, hub.names)) if len(hub.names) == 1 else f"--include '{hub.path}/*.json'"
        raise DataError(
            f"{what}: {error}. Where there is a network, `hf download {hub.repository} {files} --repo-type dataset "
            f"--local-dir {here}`, then write {name}:{here}/{hub.path} ({published.source})."
        ) from None
    return folder / hub.path, Origin(hub.repository, hub.names, commit)


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


def listed_rows(path: Path, *, source: str) -> Iterator[tuple[str, object]]:
    """The rows of a JSON list, and where each stands.

    Args:
        source: of the set, for messages.

    Raises:
        DataError: as `read_json`, or no list.
    """
    listed = read_json(path)
    if not isinstance(listed, list):
        raise DataError(f"{path} is no list; it has to be {source}")
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(listed))


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
