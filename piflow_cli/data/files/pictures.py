"""Captioned pictures or videos by number, from a folder, tar shards (webdataset) or parquet: names, captions, bytes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from piflow_cli.data.files.captions import CAPTION_SUFFIXES, caption_text, pair
from piflow_cli.data.files.listing import training_split
from piflow_cli.data.files.media import PICTURES, Medium
from piflow_cli.data.files.metadata import NAMES as METADATA_NAMES
from piflow_cli.data.files.metadata import read_metadata
from piflow_cli.data.files.parquet import ParquetPictures
from piflow_cli.data.files.prompts import PromptSet, read_parquet_column
from piflow_cli.data.files.tars import TarPictures, read_tar
from piflow_cli.data.reading import Pictures
from piflow_cli.errors import DataError
from piflow_cli.io.bounds import MAX_CAPTION_BYTES, MAX_PICTURE_BYTES
from piflow_cli.io.clips.containers import require_reader
from piflow_cli.io.clips.reading import CONTAINER_SUFFIXES
from piflow_cli.io.folders import list_files
from piflow_cli.io.images import decode_to, to_tensor
from piflow_cli.io.regular import read_regular


@dataclass(frozen=True)
class PictureFiles:
    """A file a picture."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def content(self, index: int) -> bytes:
        """The file."""
        return read_regular(self.paths[index], max_bytes=MAX_PICTURE_BYTES)


@dataclass(frozen=True)
class SomePictures:
    """Some rows of other pictures.

    Args:
        rows: which, int64 (N,).
    """

    pictures: Pictures
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The name of its row."""
        return self.pictures.name(int(self.rows[index]))

    def content(self, index: int) -> bytes:
        """The picture of its row."""
        return self.pictures.content(int(self.rows[index]))


class CaptionedPictures(NamedTuple):
    """Pictures, their captions in the same order, and the names of what is not among them.

    Args:
        without_caption: pictures that have none, or a blank one.
        unread: files and shards that are passed over, and why.
        references: files of the reference pictures of each caption; None where none were asked for.
    """

    pictures: Pictures
    captions: PromptSet
    without_caption: tuple[str, ...]
    unread: tuple[str, ...] = ()
    references: tuple[Sequence[Path], ...] | None = None


class _Found(NamedTuple):
    """One layout's yield, blank captions included."""

    pictures: Pictures
    captions: PromptSet
    alone: Sequence[str] = ()
    unread: Sequence[str] = ()
    references: Sequence[Sequence[Path]] | None = None


def open_pictures(
    root: Path,
    *,
    column: str | None,
    image_column: str,
    references: str | None = None,
    medium: Medium = PICTURES,
) -> CaptionedPictures:
    """The pictures, or videos, and captions below a path.

    Args:
        root: a folder with `metadata.jsonl`, `.csv` or `.parquet` (file_name and a caption) or with pictures that have
            a .txt, .caption or .json of the same name; or one .tar or .parquet, or a folder of such shards. Of several
            splits the one for training is taken.
        column: field of the caption in JSON, CSV and parquet; None takes prompt, caption or text.
        image_column: parquet column with the pictures' bytes.
        references: field of a metadata file that names reference pictures; None reads none.
        medium: which files are taken.

    Raises:
        DataError: missing, damaged, or without captioned pictures, or without the references that are asked for.
        MissingExtraError: a parquet without pyarrow, or a video without PyAV.
    """
    if not root.is_dir() and not root.is_file():
        raise DataError(f"data.path {root} is neither a regular file nor a folder")
    listing = list_files(root) if root.is_dir() else None
    files, other_splits = training_split(root, listing.files) if listing else ([root], [])
    metadata = [path for path in files if path.name.lower() in METADATA_NAMES]
    tars = [path for path in files if path.suffix.lower() == ".tar"]
    parquets = [path for path in files if path.suffix.lower() == ".parquet"]
    if metadata:
        layout, read = "metadata", {*metadata, *filter(medium.takes, files)}
        found = _from_metadata(metadata, files, column, references, medium)
    elif tars:
        tables = {
            tar.with_suffix("") for tar in tars
        }  # of what the shard of this name holds, as img2dataset writes them
        layout, read = "tar shards", {*tars, *(path for path in parquets if path.with_suffix("") in tables)}
        found = _from_tars(tars, column, medium)
    elif parquets:
        layout, read = "parquet shards", set(parquets)
        found = _from_parquets(parquets, column, image_column)
    else:
        layout, read = medium.name, set(filter(medium.takes, files))
        found = _from_folder(files, column, medium)
    if references is not None and not any(found.references or ()):
        raise DataError(
            f"data.references: rows of {', '.join(sorted(METADATA_NAMES))} name reference pictures, and none of {root} "
            f"does so in {references!r}"
        )
    rest = [path for path in files if path not in read]
    beside = [f"{path} (beside {layout})" for path in rest if medium.takes(path) or path in {*tars, *parquets}]
    others = [*medium.unread(path for path in rest if path not in tars), *(listing.left_out if listing else ())]
    unread = [*found.unread, *beside, *others, *other_splits]
    return _with_captions(root, found, list(dict.fromkeys(unread)), medium)


def _with_captions(root: Path, found: _Found, unread: Sequence[str], medium: Medium) -> CaptionedPictures:
    """What was found without the pictures whose captions are blank.

    Raises:
        DataError: nothing is left.
        MissingExtraError: videos that need PyAV, which is not installed.
    """
    rows = np.array([row for row, text in enumerate(found.captions) if text], dtype=np.int64)
    blank = [found.pictures.name(row) for row, text in enumerate(found.captions) if not text]
    if not len(rows):
        named = [*found.alone, *blank, *unread]
        raise DataError(
            f"data.path {root} has no {medium.name} with captions. Allowed are a folder with metadata.jsonl, .csv or "
            f".parquet, {medium.name} ({', '.join(sorted(medium.suffixes))}) each with a "
            f"{' or '.join(CAPTION_SUFFIXES)} of its name, .tar shards of such pairs, or .parquet."
            + (f" Left out: {', '.join(named[:4])}." if named else "")
        )
    for name in map(found.pictures.name, range(len(found.pictures))):
        if Path(name).suffix.lower() in CONTAINER_SUFFIXES:
            require_reader(name)
            break
    pictures = SomePictures(found.pictures, rows) if blank else found.pictures
    captions = PromptSet.pack(text for text in found.captions if text)
    about = None if found.references is None else tuple(found.references[row] for row in rows)
    return CaptionedPictures(pictures, captions, (*found.alone, *blank), tuple(unread), about)


def _from_metadata(
    tables: Sequence[Path], files: Sequence[Path], column: str | None, references: str | None, medium: Medium
) -> _Found:
    all_rows = [row for table in tables for row in read_metadata(table, column, references=references)]
    rows = [row for row in all_rows if not medium.refuses(row[0])]
    refused = medium.unread(path for path, _, _ in all_rows if medium.refuses(path))
    listed = {os.path.normpath(path) for target, _, about in rows for path in (target, *about)}
    others = [
        f"{path} (in no metadata)" for path in files if medium.takes(path) and os.path.normpath(path) not in listed
    ]
    pictures, captions = PictureFiles(tuple(path for path, _, _ in rows)), PromptSet.pack(text for _, text, _ in rows)
    about = None if references is None else [paths for _, _, paths in rows]
    return _Found(pictures, captions, unread=[*refused, *others], references=about)


def _from_folder(files: Sequence[Path], column: str | None, medium: Medium) -> _Found:
    pairs = pair(map(str, files), medium.suffixes)
    texts = []
    for name in pairs.captions:
        try:
            content = read_regular(Path(name), max_bytes=MAX_CAPTION_BYTES)
        except OSError as error:
            raise DataError(f"the caption {name} cannot be read: {error.strerror or error}") from None
        texts.append(caption_text(name, content, column, where=name))
    return _Found(PictureFiles(tuple(map(Path, pairs.pictures))), PromptSet.pack(texts), pairs.alone)


def _from_tars(shards: Sequence[Path], column: str | None, medium: Medium) -> _Found:
    samples = [read_tar(shard, column, medium) for shard in shards]
    return _Found(
        TarPictures(tuple(member for found in samples for member in found.pictures)),
        PromptSet.pack(text for found in samples for text in found.captions),
        [name for found in samples for name in found.alone],
        [name for found in samples for name in found.unread],
    )


def _from_parquets(shards: Sequence[Path], column: str | None, image_column: str) -> _Found:
    captions = PromptSet.pack(text for path in shards for text in read_parquet_column(path, column))
    return _Found(ParquetPictures.open(shards, image_column), captions)


def decode_picture(content: bytes, *, size_px: tuple[int, int], channels: int) -> Tensor:
    """The middle of an encoded picture as (channels, height, width) in [0, 1].

    Args:
        size_px: width and height.

    Raises:
        ValueError: it does not decode.
    """
    return to_tensor(decode_to(content, size_px=size_px, channels=channels))
