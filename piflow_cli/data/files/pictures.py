"""Captioned pictures by number, from a folder, from tar shards (webdataset) or from parquet: names, captions, bytes."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from piflow_cli.data.files.parquet import ParquetPictures
from piflow_cli.data.files.prompts import PromptSet, read_json_lines, read_parquet_column, text_of
from piflow_cli.data.images import SUFFIXES
from piflow_cli.errors import DataError

CAPTION_SUFFIXES = {".txt", ".json"}


class Pictures(Protocol):
    """Encoded pictures by number."""

    def name(self, index: int) -> str:
        """Where the picture is, for messages."""
        ...

    def content(self, index: int) -> bytes:
        """The encoded picture; OSError where it cannot be read."""
        ...


@dataclass(frozen=True)
class PictureFiles:
    """A file a picture."""

    paths: tuple[Path, ...]

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def content(self, index: int) -> bytes:
        """The file."""
        return self.paths[index].read_bytes()


class Member(NamedTuple):
    """Where a file lies in an uncompressed tar."""

    shard: Path
    key: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The file, without looking at the rest of the tar."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class TarPictures:
    """Members of tar shards, whose places were read once."""

    members: tuple[Member, ...]

    def name(self, index: int) -> str:
        """Shard and key."""
        return f"{self.members[index].shard}:{self.members[index].key}"

    def content(self, index: int) -> bytes:
        """The member."""
        return self.members[index].read()


class CaptionedPictures(NamedTuple):
    """Pictures, their captions in the same order, and the names of pictures that have none."""

    pictures: Pictures
    captions: PromptSet
    without_caption: tuple[str, ...]


def open_pictures(root: Path, *, column: str | None, image_column: str) -> CaptionedPictures:
    """The pictures and captions below a path.

    Args:
        root: a folder with `metadata.jsonl` (file_name and a caption) or with pictures that have a .txt of the same
            name; or one .tar or .parquet, or a folder of such shards.
        column: field of the caption in JSON and parquet; None takes prompt, caption or text.
        image_column: parquet column with the pictures' bytes.

    Raises:
        DataError: missing, damaged, or without captioned pictures.
        MissingExtraError: a parquet without pyarrow.
    """
    if (root / "metadata.jsonl").is_file():
        found = _from_metadata(root, column)
    elif tars := shards_of(root, ".tar"):
        found = _from_tars(tars, column)
    elif parquets := shards_of(root, ".parquet"):
        captions = PromptSet.pack(text for path in parquets for text in read_parquet_column(path, column))
        found = CaptionedPictures(ParquetPictures.open(parquets, image_column), captions, ())
    else:
        found = _from_folder(root)
    if not len(found.captions):
        raise DataError(
            f"data.path {root} has no pictures with captions. Allowed are a folder with metadata.jsonl, pictures "
            f"({', '.join(sorted(SUFFIXES))}) each with a .txt of its name, .tar shards of such pairs, or .parquet."
        )
    return found


def shards_of(root: Path, suffix: str) -> list[Path]:
    """The file itself, or the files of a folder, that end in `suffix`, sorted by name."""
    if root.is_dir():
        return sorted(p for p in root.glob(f"*{suffix}") if p.is_file() and not p.name.startswith("."))
    return [root] if root.is_file() and root.suffix == suffix else []


def _from_metadata(root: Path, column: str | None) -> CaptionedPictures:
    paths, captions = [], []
    for where, row in read_json_lines(root / "metadata.jsonl"):
        captions.append(text_of(row, column, where=where))
        if not isinstance(row.get("file_name"), str):
            raise DataError(f"{where} has no text in 'file_name'; it has {', '.join(map(repr, row))}")
        paths.append(root / row["file_name"])
    return CaptionedPictures(PictureFiles(tuple(paths)), PromptSet.pack(captions), ())


def _from_folder(root: Path) -> CaptionedPictures:
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES) if root.is_dir() else []
    captioned = [path for path in found if path.with_suffix(".txt").is_file()]
    captions = (_decoded(p.with_suffix(".txt").read_bytes(), where=str(p.with_suffix(".txt"))) for p in captioned)
    alone = sorted({str(p) for p in found} - {str(p) for p in captioned})
    return CaptionedPictures(PictureFiles(tuple(captioned)), PromptSet.pack(captions), tuple(alone))


def _from_tars(shards: Sequence[Path], column: str | None) -> CaptionedPictures:
    pictures: list[Member] = []
    captions: list[str] = []
    alone: list[str] = []
    for shard in shards:
        for key, files in _samples(shard).items():
            picture = next((member for suffix, member in files.items() if suffix in SUFFIXES), None)
            if picture is None:
                continue
            if not CAPTION_SUFFIXES & files.keys():
                alone.append(f"{shard}:{key}")
                continue
            pictures.append(picture)
            captions.append(_tar_caption(files, column))
    return CaptionedPictures(TarPictures(tuple(pictures)), PromptSet.pack(captions), tuple(alone))


def _samples(shard: Path) -> dict[str, dict[str, Member]]:
    """Members of a tar by key, the name up to the first dot, and by lower-case suffix."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                folder, _, name = info.name.rpartition("/")
                stem, _, rest = name.partition(".")
                if info.isreg() and stem:
                    key = f"{folder}/{stem}" if folder else stem
                    samples.setdefault(key, {})["." + rest.lower()] = Member(shard, key, info.offset_data, info.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{shard} cannot be read as a tar: {error}. It has to be whole, and not compressed, as there is no random "
            "access to a compressed one."
        ) from None
    return samples


def _tar_caption(files: dict[str, Member], column: str | None) -> str:
    """The text of KEY.txt, or the caption in KEY.json."""
    member = files.get(".txt") or files[".json"]
    where = f"{member.shard}:{member.key}"
    text = _decoded(member.read(), where=where)
    if ".txt" in files:
        return text
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}.json is not JSON: {error}") from None
    return text_of(row, column, where=f"{where}.json")


def _decoded(data: bytes, *, where: str) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"the caption of {where} is not UTF-8 ({error.reason}, byte {error.start})") from None


def decode_picture(content: bytes, *, size_px: tuple[int, int], channels: int) -> Tensor:
    """An encoded picture as (channels, height, width) in [0, 1]: scaled to cover the size, then cropped at its centre.

    Args:
        size_px: width and height.

    Raises:
        ValueError: it does not decode.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # decoders raise errors of many classes
        raise ValueError(str(error) or type(error).__name__) from None
    width, height = size_px
    scale = max(width / image.width, height / image.height)
    covering = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(covering, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32)
    return torch.from_numpy(pixels / 255).reshape(height, width, channels).permute(2, 0, 1)
